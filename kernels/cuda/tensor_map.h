// TMA descriptors, made on the host: where a tensor lies, its box, its swizzle. Kernels take them by value (const __grid_constant__ CUtensorMap).
#ifndef TI_KERNELS_CUDA_TENSOR_MAP_H
#define TI_KERNELS_CUDA_TENSOR_MAP_H
#include <cuda.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/status.h"

typedef enum ti_tma_type { TI_TMA_U8, TI_TMA_BF16, TI_TMA_F32 } ti_tma_type;
typedef enum ti_tma_swizzle { TI_TMA_PLAIN = 0, TI_TMA_32B = 1, TI_TMA_64B = 2, TI_TMA_128B = 3 } ti_tma_swizzle;

// dim, box: elements, fastest first; stride[i]: elements from one index of dimension i + 1 to the next. The base and all strides are multiples of 16
// bytes, a swizzled box is at most the swizzle wide, a box at most 256 each way. Loads ask L2 for 256 bytes at a time. TI_ERR_ARG when the driver
// takes it not (also without a driver). About a microsecond; no device work.
ti_status ti_tensor_map_2d(CUtensorMap *out, ti_tma_type type, const void *base, const int64_t dim[2], const int64_t stride[1], const int box[2],
                           ti_tma_swizzle swizzle);
ti_status ti_tensor_map_3d(CUtensorMap *out, ti_tma_type type, const void *base, const int64_t dim[3], const int64_t stride[2], const int box[3],
                           ti_tma_swizzle swizzle);
#ifdef __cplusplus
}
#endif
#endif
