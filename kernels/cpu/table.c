// The CPU backend's three ops tables.
#include "kernels/cpu/cpu_priv.h"

size_t ti_cpu_scratch_need(void) { return (size_t)5 << 18; }  // both users assert that it holds

static ti_status open_avx2(const ti_dev_options *o, ti_dev **out, ti_error *err) { return ti_cpu_open(o, 16, out, err); }
static ti_status open_avx512(const ti_dev_options *o, ti_dev **out, ti_error *err) { return ti_cpu_open(o, 32, out, err); }

#define TABLE(text, isa, mul)                                                                                                                   \
  {                                                                                                                                             \
    .name = text, .act = TI_F32, .int8_out = true, .open = open_##isa, .close = ti_cpu_close, .alloc = ti_cpu_alloc, .free = ti_cpu_free,       \
    .upload = ti_cpu_copy, .download = ti_cpu_copy, .sync = ti_cpu_sync, .reserve = ti_cpu_reserve, .weight_size = ti_cpu_weight_size,          \
    .weight_prepare = ti_cpu_weight_prepare, .embed = ti_cpu_embed, .rmsnorm = ti_cpu_rmsnorm_##isa, .rope = ti_cpu_rope_##isa,                 \
    .kv_append = ti_cpu_kv_append_##isa, .gemm = ti_cpu_gemm_##mul, .gemm_heads = ti_cpu_gemm_heads_##mul, .silu_mul = ti_cpu_silu_mul_##isa,   \
    .attention = ti_cpu_attention_##isa, .mla_attention = ti_cpu_mla_attention_##isa, .copy_pages = ti_cpu_copy_pages, .add = ti_cpu_add_##isa, \
    .router = ti_cpu_router, .moe_sort = ti_cpu_moe_sort, .permute = ti_cpu_permute, .grouped_gemm = ti_cpu_grouped_gemm_##mul,                 \
    .unpermute = ti_cpu_unpermute_##isa, .quant_fp8 = ti_cpu_quant_fp8_##isa, .penalties = ti_cpu_penalties, .logprobs = ti_cpu_logprobs_##isa, \
    .sample = ti_cpu_sample_##isa, .tokens = ti_cpu_tokens, .feed = ti_cpu_feed, .mla_gather = ti_cpu_mla_gather_##isa,                         \
    .mla_tile = ti_cpu_mla_tile_##isa, .copy = ti_cpu_copy, .zero = ti_cpu_zero, .alloc_host = ti_cpu_alloc, .free_host = ti_cpu_free,          \
    .mark = ti_cpu_mark, .done = ti_cpu_mark, .wait = ti_cpu_mark, .rope_append = ti_cpu_rope_append_##isa,                                     \
  }

const ti_kernels *ti_kernels_avx2(void) {
  static const ti_kernels k = TABLE("cpu-avx2", avx2, avx2);
  return &k;
}

const ti_kernels *ti_kernels_avx512(void) {
  static const ti_kernels k = TABLE("cpu-avx512", avx512, avx512);
  return &k;
}

const ti_kernels *ti_kernels_vnni(void) {
  static const ti_kernels k = TABLE("cpu-vnni", avx512, vnni);
  return &k;
}
