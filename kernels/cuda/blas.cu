// cuBLASLt at run time (blas.h): the entries are looked up once, shapes are planned once and kept in a table.
//
// The library is column-major: W[n, k] of ours is its A, a k x n matrix that it transposes; x is its B, k x m; out is its D, n x m.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blas.h"

#define ENTRIES(X)                        \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtGetVersion)                   \
  X(cublasLtGetStatusName)                \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)          \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmulAlgoCheck)

enum { MIN_VERSION = 120900, DETERMINISTIC_M = 128, N_PLAN = 4096 };
static const size_t workspace_bytes = (size_t)32 << 20;

typedef struct plan_key {
  int64_t n, k, ldx, ldo;
  int m, scale, out_dtype, beta, aligned;
} plan_key;

typedef struct plan {
  plan_key key;
  bool used, supported;
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t w, x, out;
  cublasLtMatmulAlgo_t algo;
} plan;

struct ti_blas {
  void *lib;
#define TI_X(name) decltype(&name) name##_;
  ENTRIES(TI_X)
#undef TI_X
  cublasLtHandle_t handle;
  void *workspace;
  bool deterministic;
  int n_plan;
  plan *plans;  // [N_PLAN] open addressing
  char error[160];
};

// ---- the library ----------------------------------------------------------------------------------------------------------------------------------

static ti_status load(ti_blas *b, const char *path, ti_error *err) {
  const char *name = path ? path : getenv("TITAN_CUBLASLT");
  if (!name || !*name) name = "libcublasLt.so.13";
  b->lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!b->lib) {
    const char *why = dlerror();
    const bool missing = why && strstr(why, "No such file");
    return ti_error_set(err, missing ? TI_ERR_NOTFOUND : TI_ERR_UNSUPPORTED,
                        "cuBLASLt %s: %s (install the CUDA 13 libraries or set TITAN_CUBLASLT to the file)", name, why ? why : "cannot be opened");
  }
#define TI_X(entry)                                      \
  b->entry##_ = (decltype(&entry))dlsym(b->lib, #entry); \
  if (!b->entry##_) return ti_error_set(err, TI_ERR_UNSUPPORTED, "cuBLASLt %s: has no " #entry " (a cuBLASLt of CUDA 13 is needed)", name);
  ENTRIES(TI_X)
#undef TI_X
  const size_t version = b->cublasLtGetVersion_();
  if (version < MIN_VERSION) {
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "cuBLASLt %s: version %zu, at least %d is needed", name, version, (int)MIN_VERSION);
  }
  return TI_OK;
}

ti_status ti_blas_open(const char *path, bool deterministic, ti_blas **out, ti_error *err) {
  ti_blas *b = (ti_blas *)calloc(1, sizeof *b);
  if (!b) return ti_error_set(err, TI_ERR_NOMEM, "cuBLASLt: out of host memory");
  b->deterministic = deterministic;
  ti_status st = load(b, path, err);
  if (st != TI_OK) goto err_close;
  b->plans = (plan *)calloc(N_PLAN, sizeof *b->plans);
  if (!b->plans || cudaMalloc(&b->workspace, workspace_bytes) != cudaSuccess) {
    st = ti_error_set(err, TI_ERR_NOMEM, "cuBLASLt: no memory for its workspace of %zu bytes", workspace_bytes);
    goto err_close;
  }
  {
    const cublasStatus_t s = b->cublasLtCreate_(&b->handle);
    if (s != CUBLAS_STATUS_SUCCESS) {
      st = ti_error_set(err, TI_ERR_INTERNAL, "cuBLASLt: cublasLtCreate: %s", b->cublasLtGetStatusName_(s));
      goto err_close;
    }
  }
  *out = b;
  return TI_OK;
err_close:
  ti_blas_close(b);
  return st;
}

static void drop_plans(ti_blas *b) {
  for (int i = 0; i < N_PLAN; i++) {
    plan *p = &b->plans[i];
    if (p->desc) b->cublasLtMatmulDescDestroy_(p->desc);
    if (p->w) b->cublasLtMatrixLayoutDestroy_(p->w);
    if (p->x) b->cublasLtMatrixLayoutDestroy_(p->x);
    if (p->out) b->cublasLtMatrixLayoutDestroy_(p->out);
  }
  memset(b->plans, 0, N_PLAN * sizeof *b->plans);
  b->n_plan = 0;
}

void ti_blas_close(ti_blas *b) {
  if (!b) return;
  if (b->plans) drop_plans(b);
  free(b->plans);
  if (b->handle) b->cublasLtDestroy_(b->handle);
  if (b->workspace) cudaFree(b->workspace);
  if (b->lib) dlclose(b->lib);
  free(b);
}

size_t ti_blas_version(const ti_blas *b) { return b->cublasLtGetVersion_(); }
const char *ti_blas_error(const ti_blas *b) { return b->error; }

// ---- plans ----------------------------------------------------------------------------------------------------------------------------------------

static bool good(ti_blas *b, cublasStatus_t s, const char *what) {
  if (s == CUBLAS_STATUS_SUCCESS) return true;
  snprintf(b->error, sizeof b->error, "%s: %s", what, b->cublasLtGetStatusName_(s));
  return false;
}
static bool set(ti_blas *b, plan *p, cublasLtMatmulDescAttributes_t what, const void *v, size_t n) {
  return good(b, b->cublasLtMatmulDescSetAttribute_(p->desc, what, v, n), "cublasLtMatmulDescSetAttribute");
}

static bool describe(ti_blas *b, plan *p) {
  const plan_key *k = &p->key;
  const cudaDataType_t in = k->scale == TI_BLAS_NONE ? CUDA_R_16BF : CUDA_R_8F_E4M3, out = k->out_dtype == TI_F32 ? CUDA_R_32F : CUDA_R_16BF;
  const cublasOperation_t t = CUBLAS_OP_T, nt = CUBLAS_OP_N;
  if (!good(b, b->cublasLtMatmulDescCreate_(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate") ||
      !set(b, p, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t) || !set(b, p, CUBLASLT_MATMUL_DESC_TRANSB, &nt, sizeof nt)) {
    return false;
  }
  if (k->scale == TI_BLAS_ROW || k->scale == TI_BLAS_BLOCK) {
    const cublasLtMatmulMatrixScale_t a =
        k->scale == TI_BLAS_ROW ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F : CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
    const cublasLtMatmulMatrixScale_t x =
        k->scale == TI_BLAS_ROW ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F : CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    const int32_t am = a, xm = x;
    const void *any = b->workspace;  // the heuristic wants to see pointers; each product sets its own
    if (!set(b, p, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &am, sizeof am) || !set(b, p, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &xm, sizeof xm) ||
        !set(b, p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &any, sizeof any) || !set(b, p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &any, sizeof any)) {
      return false;
    }
  }
  return good(b, b->cublasLtMatrixLayoutCreate_(&p->w, in, (uint64_t)k->k, (uint64_t)k->n, k->k), "cublasLtMatrixLayoutCreate") &&
         good(b, b->cublasLtMatrixLayoutCreate_(&p->x, in, (uint64_t)k->k, (uint64_t)k->m, k->ldx), "cublasLtMatrixLayoutCreate") &&
         good(b, b->cublasLtMatrixLayoutCreate_(&p->out, out, (uint64_t)k->n, (uint64_t)k->m, k->ldo), "cublasLtMatrixLayoutCreate");
}

static bool pick(ti_blas *b, plan *p, bool one_order) {
  cublasLtMatmulPreference_t pref = NULL;
  cublasLtMatmulHeuristicResult_t r;
  int n = 0;
  const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE, align = p->key.aligned ? 16 : 2;
  bool ok =
      good(b, b->cublasLtMatmulPreferenceCreate_(&pref), "cublasLtMatmulPreferenceCreate") &&
      good(b, b->cublasLtMatmulPreferenceSetAttribute_(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes),
           "preference");
  const cublasLtMatmulPreferenceAttributes_t ends[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  for (int i = 0; ok && i < 4; i++) ok = good(b, b->cublasLtMatmulPreferenceSetAttribute_(pref, ends[i], &align, sizeof align), "preference");
  if (ok && one_order) {
    ok = good(b, b->cublasLtMatmulPreferenceSetAttribute_(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none), "preference");
  }
  ok = ok &&
       good(b, b->cublasLtMatmulAlgoGetHeuristic_(b->handle, p->desc, p->w, p->x, p->out, p->out, pref, 1, &r, &n), "cublasLtMatmulAlgoGetHeuristic");
  if (pref) b->cublasLtMatmulPreferenceDestroy_(pref);
  if (!ok || n == 0 || r.state != CUBLAS_STATUS_SUCCESS) return false;
  p->algo = r.algo;
  return true;
}

static plan *slot_of(ti_blas *b, const plan_key *k) {
  const uint8_t *bytes = (const uint8_t *)k;
  uint64_t h = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < sizeof *k; i++) h = (h ^ bytes[i]) * 0x100000001b3ull;
  for (uint64_t i = h % N_PLAN;; i = (i + 1) % N_PLAN) {
    plan *p = &b->plans[i];
    if (!p->used || memcmp(&p->key, k, sizeof *k) == 0) return p;
  }
}

// A plan that is not `supported` says so for good.
static plan *plan_of(ti_blas *b, const plan_key *key) {
  plan *p = slot_of(b, key);
  if (p->used) return p;
  p->key = *key;
  p->used = true;
  b->n_plan++;
  if (!describe(b, p)) return p;
  if (!b->deterministic) {
    p->supported = pick(b, p, false);
    return p;
  }
  // One algorithm for every m: that of m = 128 with packed rows.
  plan_key one = *key;
  one.m = DETERMINISTIC_M;
  one.ldx = key->k;
  one.ldo = key->n;
  if (memcmp(&one, key, sizeof one) == 0) {
    p->supported = pick(b, p, true);
    return p;
  }
  const plan *q = plan_of(b, &one);
  if (!q->supported) return p;
  p->algo = q->algo;
  cublasLtMatmulHeuristicResult_t r;
  p->supported = good(b, b->cublasLtMatmulAlgoCheck_(b->handle, p->desc, p->w, p->x, p->out, p->out, &p->algo, &r), "cublasLtMatmulAlgoCheck") &&
                 r.workspaceSize <= workspace_bytes;
  return p;
}

// ---- the product ----------------------------------------------------------------------------------------------------------------------------------

static __global__ void bias_kernel(void *out, const float *bias, int64_t n, int64_t ldo, bool f32, bool accumulate) {
  const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, i = blockIdx.y * ldo + c;
  if (c >= n) return;
  if (f32) {
    float *o = (float *)out + i;
    *o = accumulate ? *o + bias[c] : bias[c];
  } else {
    __nv_bfloat16 *o = (__nv_bfloat16 *)out + i;
    *o = __float2bfloat16_rn(accumulate ? __bfloat162float(*o) + bias[c] : bias[c]);
  }
}

ti_status ti_blas_gemm(ti_blas *b, cudaStream_t stream, const ti_blas_args *a) {
  plan_key key;
  memset(&key, 0, sizeof key);  // padding is hashed
  key.n = a->n, key.k = a->k, key.m = a->m;
  key.ldx = a->ldx ? a->ldx : a->k, key.ldo = a->ldo ? a->ldo : a->n;
  key.scale = a->scale, key.out_dtype = a->out_dtype, key.beta = a->accumulate || a->bias;
  key.aligned = (((uintptr_t)a->out | (uintptr_t)a->x | (uintptr_t)a->w) & 15) == 0;
  if (b->n_plan + 2 > N_PLAN * 3 / 4) drop_plans(b);  // many numbers of rows: begin anew
  plan *p = plan_of(b, &key);
  if (!p->supported) return TI_ERR_UNSUPPORTED;
  if (a->scale != TI_BLAS_NONE) {
    if (!set(b, p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &a->w_scale, sizeof a->w_scale) ||
        !set(b, p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a->x_scale, sizeof a->x_scale)) {
      return TI_ERR_INTERNAL;
    }
  }
  if (a->bias) {
    bias_kernel<<<dim3((unsigned)((a->n + 255) / 256), (unsigned)a->m), 256, 0, stream>>>(a->out, a->bias, a->n, key.ldo, a->out_dtype == TI_F32,
                                                                                          a->accumulate);
  }
  const float one = 1.0f, zero = 0.0f;
  const cublasStatus_t s = b->cublasLtMatmul_(b->handle, p->desc, &one, a->w, p->w, a->x, p->x, key.beta ? &one : &zero, a->out, p->out, a->out,
                                              p->out, &p->algo, b->workspace, workspace_bytes, stream);
  return good(b, s, "cublasLtMatmul") ? TI_OK : TI_ERR_INTERNAL;
}
