// Are all numbers of a weight finite? A checkpoint that was cut off or badly converted is refused at load, and not met as NaN in somebody's answer.
#ifndef TI_WORKER_FINITE_H
#define TI_WORKER_FINITE_H
#include "base/status.h"
#include "kernels/kernel.h"

// TI_ERR_FORMAT names the tensor and the first place that is NaN or infinite: a weight, or a scale of it (E4M3's, and those inside Q blocks). Reads
// all of the source once, at about the speed of memory.
ti_status ti_weight_check_finite(const ti_weight_src *s, const char *name, ti_error *err) TI_MUST_CHECK;
ti_status ti_vector_check_finite(const float *x, int64_t n, const char *name, ti_error *err) TI_MUST_CHECK;

#endif
