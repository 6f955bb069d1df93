// The plain-read floor: how long reading so many bytes takes when nothing else is done, in the labs' own harness (cold L2, the same two events). A
// kernel that must read its weights cannot be faster; copy bandwidth says nothing about that where the launch, the first byte's way and the last
// block's end are a third of the time.
//
// Several kernels read: 16-byte loads at several grids, all bytes of a block asked for at once or a few after another, and bulk copies (the TMA
// engine) into rings of shared memory. The floor is the best of them, measured once a size.
#ifndef TI_BENCHMARKS_KERNELS_LAB_FLOOR_H
#define TI_BENCHMARKS_KERNELS_LAB_FLOOR_H
#include "benchmarks/kernels/lab_gpu.h"

#ifdef __cplusplus
extern "C" {
#endif
typedef struct lab_floor {
  double us, chain_us;            // alone; one of LAB_FLOOR_CHAIN in a graph under programmatic dependent launch, each reading memory of its own
  const char *name, *chain_name;  // which kernel it was
} lab_floor;
enum { LAB_FLOOR_CHAIN = 8 };

// bytes > 0, taken down to a multiple of 16. Keeps LAB_FLOOR_CHAIN times the most that was ever asked for on the device until the lab ends.
lab_floor lab_floor_of(lab *l, double bytes);
#ifdef __cplusplus
}
#endif
#endif
