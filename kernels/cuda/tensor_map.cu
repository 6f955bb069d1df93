// TMA descriptors. The one function of the driver that they need is looked up through the runtime, so that nothing links against libcuda and the same
// binary starts on a host without a driver.
#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime.h>

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Looked up once; several threads may do it at the same time and find the same.
static encode_fn encode() {
  static void *found;
  void *f = __atomic_load_n(&found, __ATOMIC_ACQUIRE);
  if (f != NULL) return (encode_fn)f;
  cudaDriverEntryPointQueryResult why;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &why) != cudaSuccess) return NULL;
  if (why != cudaDriverEntryPointSuccess) return NULL;
  __atomic_store_n(&found, f, __ATOMIC_RELEASE);
  return (encode_fn)f;
}

static ti_status make(CUtensorMap *out, int rank, ti_tma_type type, const void *base, const int64_t *dim, const int64_t *stride, const int *box,
                      ti_tma_swizzle swizzle) {
  static const CUtensorMapDataType types[] = {CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_DATA_TYPE_FLOAT32};
  static const int bytes[] = {1, 2, 4};
  static const CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B, CU_TENSOR_MAP_SWIZZLE_64B,
                                                CU_TENSOR_MAP_SWIZZLE_128B};
  const encode_fn f = encode();
  if (f == NULL) return TI_ERR_ARG;
  cuuint64_t dims[3], strides[2];
  cuuint32_t boxes[3], steps[3] = {1, 1, 1};
  for (int i = 0; i < rank; i++) {
    dims[i] = (cuuint64_t)dim[i];
    boxes[i] = (cuuint32_t)box[i];
    if (i > 0) strides[i - 1] = (cuuint64_t)stride[i - 1] * bytes[type];
  }
  const CUresult r = f(out, types[type], (cuuint32_t)rank, (void *)base, dims, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                       swizzles[swizzle], CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return r == CUDA_SUCCESS ? TI_OK : TI_ERR_ARG;
}

extern "C" ti_status ti_tensor_map_2d(CUtensorMap *out, ti_tma_type type, const void *base, const int64_t dim[2], const int64_t stride[1],
                                      const int box[2], ti_tma_swizzle swizzle) {
  return make(out, 2, type, base, dim, stride, box, swizzle);
}

extern "C" ti_status ti_tensor_map_3d(CUtensorMap *out, ti_tma_type type, const void *base, const int64_t dim[3], const int64_t stride[2],
                                      const int box[3], ti_tma_swizzle swizzle) {
  return make(out, 3, type, base, dim, stride, box, swizzle);
}
