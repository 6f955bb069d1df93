// Synthetic weights: any slice of a tensor equals that part of the whole, values follow synthetic.h's formula, and the statistics are as promised.
#include "model/synthetic.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/rng.h"
#include "model/names.h"

static ti_checkpoint *open_spec(const char *spec, ti_config *cfg) {
  ti_error err = {0};
  ti_checkpoint *c;
  cr_assert_eq(ti_config_load(spec, cfg, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_checkpoint_open(spec, cfg, &c, &err), TI_OK, "%s", err.text);
  return c;
}

static float *read_f32(const ti_checkpoint *c, const char *name, int64_t *n) {
  ti_tensor t;
  int64_t rows, cols;
  cr_assert_eq(ti_checkpoint_find(c, name, &t), TI_OK, "%s", name);
  ti_tensor_matrix(&t, &rows, &cols);
  unsigned char *raw = malloc(t.bytes);
  float *out = malloc((size_t)(rows * cols) * sizeof(float));
  ti_checkpoint_read(c, &t, 0, rows, 0, cols, raw);
  for (int64_t i = 0; i < rows * cols; i++) {
    uint16_t h;
    if (t.dtype == TI_F32) memcpy(&out[i], raw + 4 * i, 4);
    if (t.dtype == TI_E4M3) out[i] = ti_e4m3_to_f32(raw[i]);
    if (t.dtype == TI_BF16 || t.dtype == TI_F16) {
      memcpy(&h, raw + 2 * i, 2);
      out[i] = t.dtype == TI_BF16 ? ti_bf16_to_f32(h) : ti_f16_to_f32(h);
    }
  }
  *n = rows * cols;
  free(raw);
  return out;
}

Test(synthetic, any_slice_equals_that_part_of_the_whole) {
  static const char *const specs[] = {
      "random:llama?hidden=72&heads=2&layers=1&ffn=100&vocab=90&torch_dtype=float32", "random:qwen2?hidden=72&heads=2&layers=1&ffn=100&vocab=90",
      "random:llama?hidden=72&heads=2&layers=1&ffn=100&vocab=90&torch_dtype=float16",
      "random:deepseek_v3?hidden=200&layers=2&first_k_dense_replace=1&heads=2&experts=16&ffn=130&moe_ffn=70&vocab=50&mtp=1"};
  uint32_t rng = 12345;
  for (size_t k = 0; k < sizeof(specs) / sizeof(specs[0]); k++) {
    ti_config cfg;
    ti_checkpoint *c = open_spec(specs[k], &cfg);
    for (int i = 0; i < c->ops->count(c); i++) {
      ti_tensor t;
      int64_t rows, cols;
      cr_assert_eq(c->ops->at(c, i, &t), TI_OK);
      ti_tensor_matrix(&t, &rows, &cols);
      const size_t size = (size_t)ti_dtype_block_bytes(t.dtype);
      unsigned char *whole = malloc(t.bytes), *part = malloc(t.bytes);
      ti_checkpoint_read(c, &t, 0, rows, 0, cols, whole);
      for (int trial = 0; trial < 4; trial++) {
        rng = rng * 1664525u + 1013904223u;
        const int64_t r0 = (rng >> 8) % rows, c0 = (rng >> 16) % cols;
        rng = rng * 1664525u + 1013904223u;
        const int64_t rn = 1 + (rng >> 8) % (rows - r0), cn = 1 + (rng >> 16) % (cols - c0);
        ti_checkpoint_read(c, &t, r0, rn, c0, cn, part);
        for (int64_t r = 0; r < rn; r++)
          cr_assert_arr_eq(part + (size_t)(r * cn) * size, whole + (size_t)((r0 + r) * cols + c0) * size, (size_t)cn * size, "%s", t.name);
      }
      free(whole);
      free(part);
    }
    ti_checkpoint_close(c);
  }
}

// synthetic.h's formula, an element at a time; the bits of one.
static uint32_t element(const char *name, ti_dtype t, uint32_t seed, int64_t cols, uint64_t i) {
  const uint64_t size = (uint64_t)ti_dtype_block_bytes(t), h = ti_hash64(name, strlen(name)), b = i / (16 / size);
  const uint32_t key[2] = {(uint32_t)h, (uint32_t)(h >> 32)}, ctr[4] = {(uint32_t)b, (uint32_t)(b >> 32), seed, 0};
  uint32_t r[4], x = 0;
  ti_philox4x32(key, ctr, r);
  memcpy(&x, (const char *)r + i % (16 / size) * size, size);
  const float amp = (float)sqrt(3.0 / (double)cols);
  if (t == TI_E4M3) return ti_f32_to_e4m3(((float)x - 127.5f) * 3.5f);
  if (t == TI_F32) return ti_f32_bits(((float)(x >> 9) - 4194303.5f) * (amp / 4194304));
  const float f = ((float)x - 32767.5f) * (amp / 32768);
  return t == TI_BF16 ? ti_f32_to_bf16(f) : ti_f32_to_f16(f);
}

Test(synthetic, a_large_read_has_the_same_bits_whatever_lanes_and_threads_make_it) {
  static const char *const specs[] = {"random:llama3-8b?layers=1&seed=5", "random:llama3-8b?layers=1&seed=5&torch_dtype=float16",
                                      "random:llama3-8b?layers=1&seed=5&torch_dtype=float32", "random:deepseek_v3?layers=1&seed=5",
                                      "random:llama?hidden=1004&heads=4&head_dim=16&layers=1&ffn=9001&seed=5"};
  for (size_t k = 0; k < sizeof(specs) / sizeof(specs[0]); k++) {
    ti_config cfg;
    ti_tensor t;
    const char *name = "model.layers.0.mlp.up_proj.weight";
    ti_checkpoint *c = open_spec(specs[k], &cfg);
    cr_assert_eq(ti_checkpoint_find(c, name, &t), TI_OK);
    const int64_t size = ti_dtype_block_bytes(t.dtype), c0 = k & 1 ? 13 : 0, r0 = 3, cn = t.shape[1] - c0, rn = (3 << 20) / (cn * size) + 1;
    unsigned char *got = malloc((size_t)(rn * cn * size));
    ti_checkpoint_read(c, &t, r0, rn, c0, cn, got);
    for (int64_t i = 0; i < rn * cn; i++) {
      const uint32_t want = element(name, t.dtype, 5, t.shape[1], (uint64_t)((r0 + i / cn) * t.shape[1] + c0 + i % cn));
      cr_assert_arr_eq(got + i * size, &want, (size_t)size, "%s: element %ld", specs[k], (long)i);
    }
    free(got);
    ti_checkpoint_close(c);
  }
}

Test(synthetic, elements_follow_the_documented_formula) {
  ti_config cfg;
  ti_checkpoint *c = open_spec("random:llama?hidden=64&heads=2&layers=1&seed=42", &cfg);
  const char *name = "model.layers.0.self_attn.k_proj.weight";
  int64_t n;
  float *v = read_f32(c, name, &n);
  const uint64_t h = ti_hash64(name, strlen(name));
  const uint32_t key[2] = {(uint32_t)h, (uint32_t)(h >> 32)};
  for (int64_t i = 0; i < n; i += 37) {
    const uint32_t ctr[4] = {(uint32_t)(i / 8), 0, 42, 0};
    uint32_t r[4];
    ti_philox4x32(key, ctr, r);
    const uint32_t x = r[i % 8 / 2] >> (16 * (i % 2)) & 0xffff;
    const double want = ((double)x - 32767.5) / 32768 * sqrt(3.0 / 64);
    cr_assert_float_eq(v[i], want, fabs(want) * 0.005 + 1e-7, "element %ld", (long)i);
  }
  free(v);
  ti_checkpoint_close(c);
}

Test(synthetic, seeds_and_names_give_different_weights) {
  ti_config cfg;
  ti_checkpoint *a = open_spec("random:llama?seed=1", &cfg), *b = open_spec("random:llama?seed=2", &cfg),
                *a2 = open_spec("random:llama?seed=1", &cfg);
  int64_t n;
  float *x = read_f32(a, "model.layers.0.mlp.up_proj.weight", &n), *y = read_f32(b, "model.layers.0.mlp.up_proj.weight", &n);
  float *z = read_f32(a, "model.layers.0.mlp.gate_proj.weight", &n), *w = read_f32(a2, "model.layers.0.mlp.up_proj.weight", &n);
  int64_t same_seed = 0, same_name = 0;
  for (int64_t i = 0; i < n; i++) {
    same_seed += x[i] == z[i];
    same_name += x[i] == y[i];
  }
  cr_assert(same_seed < n / 100 && same_name < n / 100);
  cr_assert_arr_eq(x, w, (size_t)n * sizeof(float));
  free(x), free(y), free(z), free(w);
  ti_checkpoint_close(a), ti_checkpoint_close(b), ti_checkpoint_close(a2);
}

static void moments(const float *v, int64_t n, double *mean, double *sd) {
  double s = 0, s2 = 0;
  for (int64_t i = 0; i < n; i++) {
    s += v[i];
    s2 += (double)v[i] * v[i];
  }
  *mean = s / (double)n;
  *sd = sqrt(s2 / (double)n - *mean * *mean);
}

Test(synthetic, weights_have_standard_deviation_one_over_sqrt_k) {
  ti_config cfg;
  ti_checkpoint *c = open_spec("random:qwen2?hidden=256&ffn=1024&layers=1", &cfg);
  int64_t n;
  double mean, sd;
  float *v = read_f32(c, "model.layers.0.mlp.down_proj.weight", &n);
  moments(v, n, &mean, &sd);
  cr_assert(fabs(mean) < 5e-4 && fabs(sd * 32 - 1) < 0.01, "mean %g, sd %g", mean, sd);
  free(v);
  v = read_f32(c, "model.layers.0.input_layernorm.weight", &n);
  for (int64_t i = 0; i < n; i++) cr_assert_eq(v[i], 1.0f);
  free(v);
  v = read_f32(c, "model.layers.0.self_attn.q_proj.bias", &n);
  moments(v, n, &mean, &sd);
  cr_assert(n == 256 && sd > 0.02 && sd < 0.04, "sd %g", sd);
  free(v);
  ti_checkpoint_close(c);
}

Test(synthetic, fp8_weights_times_their_scales_have_it_too) {
  ti_config cfg;
  ti_checkpoint *c = open_spec("random:deepseek_v3?hidden=512&layers=4&heads=4&experts=16&ffn=1024&moe_ffn=256&vocab=100", &cfg);
  int64_t n, ns;
  double mean, sd, mean_s, sd_s;
  float *v = read_f32(c, "model.layers.3.mlp.experts.7.gate_proj.weight", &n);
  float *s = read_f32(c, "model.layers.3.mlp.experts.7.gate_proj.weight_scale_inv", &ns);
  cr_assert(n == 256 * 512 && ns == 2 * 4);
  moments(v, n, &mean, &sd);
  moments(s, ns, &mean_s, &sd_s);
  cr_assert(fabs(sd * mean_s * sqrt(512) - 1) < 0.25 && sd_s > 0, "sd %g", sd * mean_s);
  for (int64_t i = 0; i < n; i++) cr_assert(isfinite(v[i]));
  free(v), free(s);
  v = read_f32(c, "model.layers.3.mlp.gate.e_score_correction_bias", &n);
  for (int64_t i = 0; i < n; i++) cr_assert(v[i] > 0 && v[i] < 0.02f);
  free(v);
  ti_checkpoint_close(c);
}

static ti_status add_bytes(void *user, const ti_tensor_spec *s) {
  size_t n;
  cr_assert_eq(ti_dtype_size(s->dtype, (size_t)(s->rows * s->cols), &n), TI_OK);
  *(double *)user += (double)n;
  return TI_OK;
}

Test(synthetic, presets_have_their_published_sizes) {
  static const struct {
    const char *spec;
    double gb;  // 1.1 and 8.03 billion bf16 parameters; 671 billion of FP8 less 1 of bf16 and scales
  } cases[] = {{"random:tinyllama-1.1b", 2.2}, {"random:llama3-8b", 16.06}, {"random:deepseek_v3", 673.4}};
  for (size_t i = 0; i < 3; i++) {
    ti_config cfg;
    ti_error err = {0};
    double bytes = 0;
    cr_assert_eq(ti_config_load(cases[i].spec, &cfg, &err), TI_OK, "%s", err.text);
    cr_assert_eq(ti_tensor_each(&cfg, add_bytes, &bytes), TI_OK);
    cr_assert(fabs(bytes / 1e9 / cases[i].gb - 1) < 0.01, "%s: %.2f GB", cases[i].spec, bytes / 1e9);
  }
}

Test(synthetic, generation_is_fast_enough_to_load_large_models) {
  static const char *const specs[] = {"random:deepseek_v3?layers=4", "random:llama3-8b", "random:llama3-8b?torch_dtype=float16"};
  for (size_t i = 0; i < 3; i++) {
    ti_config cfg;
    const uint64_t t0 = ti_mono_ns();
    ti_checkpoint *c = open_spec(specs[i], &cfg);
    const uint64_t t1 = ti_mono_ns();
    ti_tensor t;
    cr_assert_eq(ti_checkpoint_find(c, "model.layers.0.mlp.up_proj.weight", &t), TI_OK);
    const size_t n = 64 << 20, piece = 1 << 19;  // pieces too small to share: one thread
    unsigned char *dst = malloc(n);
    memset(dst, 1, n);
    const int64_t row = (int64_t)cfg.hidden * ti_dtype_block_bytes(t.dtype), rows = (int64_t)n / row, few = (int64_t)piece / row;
    const uint64_t t2 = ti_mono_ns();
    for (int64_t r = 0; r + few <= rows; r += few) ti_checkpoint_read(c, &t, r, few, 0, cfg.hidden, dst + r * row);
    const uint64_t t3 = ti_mono_ns();
    ti_checkpoint_read(c, &t, 0, rows, 0, cfg.hidden, dst);
    const double one = (double)n / (double)(t3 - t2), all = (double)n / (double)(ti_mono_ns() - t3);
    cr_log_info("%s: open %.1f ms; %s: %.2f GB/s on one thread, %.2f on all", specs[i], (double)(t1 - t0) / 1e6, ti_dtype_name(t.dtype), one, all);
    cr_assert_gt(all, 0.001, "%s: %.4f GB/s", specs[i], all);  // 4 on two idle cores; only a generator that is quadratic in something is slower
    free(dst);
    ti_checkpoint_close(c);
  }
}
