#include "tests/golden/moe_gguf_file.h"

#include <math.h>

#include "base/half.h"
#include "kernels/ref/dequant.h"
#include "model/gguf/gguf_model.h"
#include "parallel/shard.h"
#include "tests/unit/model/gguf_build.h"

enum { GGML_F32 = 0, GGML_Q8_0 = 8, GGML_Q4_K = 12 };

typedef struct stack {  // a tensor of the file in the making: [n][rows][cols]
  char name[TI_TENSOR_NAME_MAX];
  int64_t n, rows, cols;
  bool plain;  // stays F32
  float *x;
} stack;

typedef struct maker {
  const ti_config *cfg;
  const ti_checkpoint *ck;
  const moe_gguf_options *o;
  stack s[256];
  int n;
  void *data[256];
} maker;

// ---- quantising, as plainly as it goes: blocks are drawn in kernels/ref/dequant.c ----

static void put_f16(unsigned char *p, float v) {
  const uint16_t h = ti_f32_to_f16(v);
  memcpy(p, &h, sizeof h);
}
static float get_f16(const unsigned char *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return ti_f16_to_f32(h);
}

static void to_q8_0(const float *x, unsigned char *b) {
  float top = 0;
  for (int i = 0; i < 32; i++) top = fmaxf(top, fabsf(x[i]));
  put_f16(b, top / 127);
  const float d = get_f16(b);
  for (int i = 0; i < 32; i++) b[2 + i] = (unsigned char)(signed char)fmaxf(-127, fminf(127, d > 0 ? roundf(x[i] / d) : 0));
}

static void to_q4_k(const float *x, unsigned char *b) {
  float scale[8], min[8], top_scale = 0, top_min = 0;
  for (int j = 0; j < 8; j++) {
    float lo = 0, hi = 0;
    for (int i = 0; i < 32; i++) {
      lo = fminf(lo, x[32 * j + i]);
      hi = fmaxf(hi, x[32 * j + i]);
    }
    scale[j] = (hi - lo) / 15;
    min[j] = -lo;
    top_scale = fmaxf(top_scale, scale[j]);
    top_min = fmaxf(top_min, min[j]);
  }
  memset(b, 0, 144);
  put_f16(b, top_scale / 63);
  put_f16(b + 2, top_min / 63);
  const float d = get_f16(b), m = get_f16(b + 2);
  for (int j = 0; j < 8; j++) {
    const int s = d > 0 ? (int)fminf(63, roundf(scale[j] / d)) : 0, o = m > 0 ? (int)fminf(63, roundf(min[j] / m)) : 0;
    unsigned char *six = b + 4;
    if (j < 4) {
      six[j] = (unsigned char)(six[j] | s);
      six[j + 4] = (unsigned char)(six[j + 4] | o);
    } else {
      six[j + 4] = (unsigned char)((s & 15) | (o & 15) << 4);
      six[j - 4] = (unsigned char)(six[j - 4] | (s >> 4) << 6);
      six[j] = (unsigned char)(six[j] | (o >> 4) << 6);
    }
    const float ds = d * (float)s, mo = m * (float)o;
    for (int i = 0; i < 32; i++) {
      const int q = ds > 0 ? (int)fmaxf(0, fminf(15, roundf((x[32 * j + i] + mo) / ds))) : 0;
      b[16 + j / 2 * 32 + i] = (unsigned char)(b[16 + j / 2 * 32 + i] | (j & 1 ? q << 4 : q));
    }
  }
}

static void *encode(const float *x, int64_t n, ti_dtype t) {
  size_t bytes = 0;
  if (ti_dtype_size(t, (size_t)n, &bytes)) return NULL;
  unsigned char *out = malloc(bytes), *at = out;
  if (t == TI_F32) memcpy(out, x, bytes);
  for (int64_t i = 0; t != TI_F32 && i < n; i += ti_dtype_block(t), at += ti_dtype_block_bytes(t)) {
    if (t == TI_Q8_0)
      to_q8_0(x + i, at);
    else
      to_q4_k(x + i, at);
  }
  return out;
}

// ---- tensors ----

static stack *stack_of(maker *m, const char *name, int64_t n, int64_t rows, int64_t cols, bool plain) {
  for (int i = 0; i < m->n; i++)
    if (strcmp(m->s[i].name, name) == 0) return &m->s[i];
  stack *s = &m->s[m->n++];
  *s = (stack){.n = n, .rows = rows, .cols = cols, .plain = plain, .x = calloc((size_t)(n * rows * cols), sizeof(float))};
  snprintf(s->name, sizeof s->name, "%s", name);
  return s;
}

static ti_status read_matrix(const maker *m, const ti_tensor_spec *spec, float *x, ti_error *err) {
  ti_arena mem;
  ti_weight_src src;
  const ti_slice all = ti_slice_all(spec->rows, spec->cols);
  ti_arena_init(&mem, (size_t)1 << 32);
  const ti_status st = ti_shard_source(m->ck, m->cfg, spec->name, &all, &mem, &src, err);
  for (int64_t r = 0; !st && r < src.n; r++) {
    const int64_t ld = src.ld ? src.ld : src.k;
    ti_ref_dequant_row(src.dtype, (const char *)src.data + r * ld * ti_dtype_block_bytes(src.dtype), x + r * src.k, (size_t)src.k);
    for (int64_t c = 0; src.scale && c < src.k; c++) x[r * src.k + c] *= src.scale[r / src.block_n * src.scale_ld + c / src.block_k];
  }
  ti_arena_fini(&mem);
  return st;
}

// kv_b [head][nope + v][latent] as k_b [head][latent][nope] and v_b [head][v][latent].
static void split_kv_b(maker *m, int layer, const float *x) {
  const ti_config *c = m->cfg;
  char name[TI_TENSOR_NAME_MAX];
  snprintf(name, sizeof name, "blk.%d.attn_k_b.weight", layer);
  float *k = stack_of(m, name, c->n_head, c->kv_lora, c->qk_nope, false)->x;
  snprintf(name, sizeof name, "blk.%d.attn_v_b.weight", layer);
  float *v = stack_of(m, name, c->n_head, c->v_dim, c->kv_lora, false)->x;
  for (int h = 0; h < c->n_head; h++) {
    for (int j = 0; j < c->qk_nope; j++)
      for (int i = 0; i < c->kv_lora; i++) k[(h * c->kv_lora + i) * c->qk_nope + j] = *x++;
    memcpy(v + (size_t)h * (size_t)(c->v_dim * c->kv_lora), x, (size_t)(c->v_dim * c->kv_lora) * sizeof *x);
    x += c->v_dim * c->kv_lora;
  }
}

static ti_status add(void *user, const ti_tensor_spec *spec) {
  maker *m = user;
  char name[TI_TENSOR_NAME_MAX];
  bool stacked;
  ti_error err = {0};
  if (spec->field == TI_FIELD_SCALE) return TI_OK;  // the codes' values are written
  if (spec->part == TI_PART_KV_B && m->o->split) {
    float *x = malloc((size_t)(spec->rows * spec->cols) * sizeof *x);
    const ti_status st = read_matrix(m, spec, x, &err);
    if (!st) split_kv_b(m, spec->layer, x);
    free(x);
    return st;
  }
  ti_status st = ti_gguf_name(spec, name, &stacked);
  if (st) return st;
  stack *s = stack_of(m, name, stacked ? m->cfg->moe.n_expert : 1, spec->rows, spec->cols, spec->n_dim == 1 || spec->part == TI_PART_ROUTER);
  if (spec->n_dim == 1)
    st = ti_shard_vector(m->ck, spec->name, spec->cols, 0, spec->cols, s->x, &err);
  else
    st = read_matrix(m, spec, s->x + (stacked ? spec->expert * spec->rows * spec->cols : 0), &err);
  if (st) fprintf(stderr, "%s\n", err.text);
  return st;
}

static void write_tensor(maker *m, gb *b, int i) {
  const stack *s = &m->s[i];
  const int64_t n = s->n * s->rows * s->cols;
  ti_dtype t = s->plain ? TI_F32 : m->o->type;
  if (s->cols % ti_dtype_block(t)) t = TI_Q8_0;
  m->data[i] = encode(s->x, n, t);
  if (m->o->numbers && t != TI_F32) {
    ti_ref_dequant_row(t, m->data[i], s->x, (size_t)n);
    free(m->data[i]);
    m->data[i] = encode(s->x, n, t = TI_F32);
  }
  size_t bytes = 0;
  if (ti_dtype_size(t, (size_t)n, &bytes)) return;
  gb_tensor(b, s->name, (uint64_t)s->cols, s->plain && s->rows == 1 ? 0 : (uint64_t)s->rows, s->n > 1 ? (uint64_t)s->n : 0,
            t == TI_F32    ? GGML_F32
            : t == TI_Q8_0 ? GGML_Q8_0
                           : GGML_Q4_K,
            bytes, m->data[i]);
}

// ---- metadata ----

static void write_keys(const ti_config *c, const moe_gguf_options *o, gb *b) {
  const int head = c->qk_nope + c->qk_rope;
  const struct {
    const char *key;
    long v;
  } ints[] = {{"block_count", c->n_layer},
              {"context_length", c->max_position},
              {"embedding_length", c->hidden},
              {"feed_forward_length", c->ffn},
              {"attention.head_count", c->n_head},
              {"attention.head_count_kv", o->split ? 1 : c->n_head},
              {"attention.q_lora_rank", c->q_lora},
              {"attention.kv_lora_rank", c->kv_lora},
              {"attention.key_length", o->split ? c->kv_lora + c->qk_rope : head},
              {"attention.value_length", o->split ? c->kv_lora : c->v_dim},
              {"rope.dimension_count", c->qk_rope},
              {"rope.scaling.original_context_length", c->rope.original_max_position},
              {"expert_count", c->moe.n_expert},
              {"expert_used_count", c->moe.n_top},
              {"expert_shared_count", c->moe.n_shared},
              {"expert_feed_forward_length", c->moe.ffn},
              {"leading_dense_block_count", c->moe.n_dense_layer},
              {"expert_gating_func", 2},
              {"expert_group_count", c->moe.n_group},
              {"expert_group_used_count", c->moe.n_top_group}};
  char key[96];
  gb_text(b, "general.architecture", "deepseek2");
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
    snprintf(key, sizeof key, "deepseek2.%s", ints[i].key);
    gb_int(b, key, (uint32_t)ints[i].v);
  }
  if (o->split) {
    gb_int(b, "deepseek2.attention.key_length_mla", (uint32_t)head);
    gb_int(b, "deepseek2.attention.value_length_mla", (uint32_t)c->v_dim);
  }
  gb_real(b, "deepseek2.attention.layer_norm_rms_epsilon", (float)c->rms_eps);
  gb_real(b, "deepseek2.rope.freq_base", (float)c->rope.theta);
  gb_text(b, "deepseek2.rope.scaling.type", "yarn");
  gb_real(b, "deepseek2.rope.scaling.factor", (float)c->rope.factor);
  gb_real(b, "deepseek2.rope.scaling.yarn_log_multiplier", 0.1f);
  gb_real(b, "deepseek2.expert_weights_scale", (float)c->moe.scale);
  gb_bool(b, "deepseek2.expert_weights_norm", c->moe.norm_topk);
  gb_int(b, "tokenizer.ggml.bos_token_id", (uint32_t)c->bos);
  gb_int(b, "tokenizer.ggml.eos_token_id", (uint32_t)c->eos[0]);
}

unsigned char *moe_gguf_make(const ti_config *cfg, const ti_checkpoint *ck, const moe_gguf_options *o, size_t *size) {
  ti_config c = *cfg;
  maker *m = calloc(1, sizeof *m);
  unsigned char *file = NULL;
  gb b;
  c.n_mtp = 0;
  *m = (maker){.cfg = cfg, .ck = ck, .o = o};
  gb_init(&b);
  write_keys(&c, o, &b);
  if (ti_tensor_each(&c, add, m) == TI_OK) {
    for (int i = 0; i < m->n; i++) write_tensor(m, &b, i);
    file = gb_finish(&b, size);
  }
  for (int i = 0; i < m->n; i++) {
    free(m->s[i].x);
    free(m->data[i]);
  }
  gb_fini(&b);
  free(m);
  return file;
}
