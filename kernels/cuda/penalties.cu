// Penalties and logit biases, in place. A block owns 1,024 ids of a row; a row that asks for nothing costs a look at its parameters. Bound: reading
// 4 + 2 + 1 bytes an id (logit, count, prompt flag), and writing those logits that change. Divisions and products are rounded one by one, as the
// reference rounds them, so that equal logits stay equal.
#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/cuda/sample.h"
}

#define THREADS 256
#define PER_THREAD 4
#define BLOCK_IDS (THREADS * PER_THREAD)

__global__ void __launch_bounds__(THREADS) penalties_kernel(ti_penalty_args a) {
  ti_pdl_wait();
  ti_pdl_launch();
  const int r = (int)blockIdx.y, i0 = (int)blockIdx.x * BLOCK_IDS, i1 = min(i0 + BLOCK_IDS, a.n_id), tid = (int)threadIdx.x;
  const ti_sample_params p = a.params[r];
  float *logits = a.logits + (int64_t)r * a.n_id;
  if (p.repetition != 1.0f || p.frequency != 0.0f || p.presence != 0.0f) {
    const uint16_t *count = a.out_count ? a.out_count + (int64_t)p.slot * a.vocab + a.first_id : nullptr;
    const uint8_t *prompt = a.in_prompt ? a.in_prompt + (int64_t)p.slot * a.vocab + a.first_id : nullptr;
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) {
      const int i = i0 + j * THREADS + tid;
      if (i >= i1) break;
      const int n = count ? count[i] : 0;
      if (n == 0 && !(prompt && prompt[i])) continue;
      float x = logits[i];
      x = x > 0.0f ? __fdiv_rn(x, p.repetition) : __fmul_rn(x, p.repetition);
      if (n > 0) x = __fsub_rn(__fsub_rn(x, __fmul_rn(p.frequency, (float)n)), p.presence);
      logits[i] = x;
    }
  }
  if (p.n_bias == 0) return;
  __syncthreads();
  // The first entry of an id adds the later ones of the same id too, in their order.
  const int b1 = p.bias0 + p.n_bias;
  for (int b = p.bias0 + tid; b < b1; b += THREADS) {
    const int at = a.bias_id[b] - a.first_id;
    if (at < i0 || at >= i1) continue;
    bool first = true;
    for (int c = p.bias0; c < b && first; c++) first = a.bias_id[c] != a.bias_id[b];
    if (!first) continue;
    float x = logits[at];
    for (int c = b; c < b1; c++) {
      if (a.bias_id[c] == a.bias_id[b] && (p.suppress_eos || !isinf(a.bias_value[c]))) x = __fadd_rn(x, a.bias_value[c]);
    }
    logits[at] = x;
  }
}

extern "C" ti_status ti_cuda_penalties(ti_dev *d, const ti_penalty_args *a) {
  return ti_launch(d, "penalties", penalties_kernel, dim3((unsigned)ti_ceil_div(a->n_id, BLOCK_IDS), (unsigned)a->n_row), dim3(THREADS), 0, *a);
}
