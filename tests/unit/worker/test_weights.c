// Broken checkpoints: each is titan-tiny-moe with one thing changed, and must be refused with a text that names the tensor.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/placement.h"
#include "worker/weights.h"

static char dir[512], *file;  // the checkpoint in memory: 8 bytes of header length | header | data
static size_t size, header;
static ti_error err;

static char *slurp(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  cr_assert(f, "%s", path);
  cr_assert_eq(fseek(f, 0, SEEK_END), 0);
  *n = (size_t)ftell(f);
  rewind(f);
  char *p = malloc(*n + 1);
  cr_assert(p && fread(p, 1, *n, f) == *n);
  p[*n] = 0;
  fclose(f);
  return p;
}

static void put(const char *name, const char *data, size_t n) {
  char path[640];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "wb");
  cr_assert(f && fwrite(data, 1, n, f) == n && fclose(f) == 0, "%s", path);
}

static void setup(void) {
  uint64_t len;
  size_t n;
  snprintf(dir, sizeof dir, TI_BINARY_DIR "/weights-XXXXXX");
  cr_assert(mkdtemp(dir));
  file = slurp(TI_SOURCE_DIR "/models/titan-tiny-moe/model.safetensors", &size);
  memcpy(&len, file, sizeof len);
  header = (size_t)len;
  char *config = slurp(TI_SOURCE_DIR "/models/titan-tiny-moe/config.json", &n);
  put("config.json", config, n);
  free(config);
}

static void teardown(void) {
  char path[640];
  const char *names[] = {"config.json", "model.safetensors"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, names[i]);
    unlink(path);
  }
  rmdir(dir);
  free(file);
}

TestSuite(weights, .init = setup, .fini = teardown);

// The header's entry of a tensor, from its quoted name to the brace that ends it.
static char *entry(const char *tensor) {
  char quoted[160];
  snprintf(quoted, sizeof quoted, "\"%s\"", tensor);
  const char end = file[8 + header];
  file[8 + header] = 0;
  char *at = strstr(file + 8, quoted);
  file[8 + header] = end;
  cr_assert(at, "%s", tensor);
  return at;
}

static void replace(char *in, const char *from, const char *to) {
  char *at = strstr(in, from);
  cr_assert(at && strlen(from) == strlen(to), "%s", from);
  memcpy(at, to, strlen(to));
}

static char *data_of(const char *tensor) {
  const char *at = strstr(entry(tensor), "\"data_offsets\"");
  cr_assert(at);
  return file + 8 + header + strtoull(strchr(at, '[') + 1, NULL, 10);
}

static ti_status load(bool allow_nan) {
  ti_config c;
  ti_checkpoint *ck = NULL;
  ti_placement *p = NULL, *layers[8];
  ti_dev *dev = NULL;
  ti_weights w;
  const ti_kernels *k = ti_kernels_find("ref");
  put("model.safetensors", file, size);
  err = (ti_error){0};
  ti_status st = ti_config_load(dir, &c, &err);
  if (!st) st = ti_checkpoint_open(dir, &c, &ck, &err);
  if (!st) st = ti_placement_identity(c.moe.n_expert, 0, &p, &err);
  if (!st) st = k->open(&(ti_dev_options){.threads = 1}, &dev, &err);
  for (int i = 0; i < 8; i++) layers[i] = p;
  if (!st) {
    const ti_weights_options o = {
        .model = &c, .ckpt = ck, .kernels = k, .dev = dev, .mesh = {1, 1, 1, 1, 1}, .placement = layers, .allow_nan = allow_nan};
    st = ti_weights_load(&o, &w, &err);
    if (!st) ti_weights_fini(&w);
  }
  if (dev) k->close(dev);
  ti_placement_destroy(p);
  ti_checkpoint_close(ck);
  return st;
}

#define REFUSED(status, tensor)                                         \
  do {                                                                  \
    const ti_status st_ = load(false);                                  \
    cr_assert_eq(st_, status, "%s: %s", ti_status_name(st_), err.text); \
    cr_assert(strstr(err.text, tensor), "%s", err.text);                \
  } while (0)

Test(weights, an_unbroken_copy_loads) { cr_assert_eq(load(false), TI_OK, "%s", err.text); }

Test(weights, a_scale_of_the_wrong_shape_is_named) {
  replace(entry("model.layers.1.mlp.experts.7.up_proj.weight_scale_inv"), "[1,2]", "[2,1]");
  REFUSED(TI_ERR_FORMAT, "model.layers.1.mlp.experts.7.up_proj.weight_scale_inv");
}

Test(weights, a_weight_of_the_wrong_shape_is_named) {
  replace(entry("model.layers.2.mlp.experts.3.down_proj.weight"), "[256,128]", "[128,256]");
  REFUSED(TI_ERR_FORMAT, "model.layers.2.mlp.experts.3.down_proj.weight");
}

Test(weights, a_missing_expert_is_named) {
  replace(entry("model.layers.3.mlp.experts.15.gate_proj.weight"), "gate_proj", "gone_proj");
  REFUSED(TI_ERR_NOTFOUND, "model.layers.3.mlp.experts.15.gate_proj.weight");
}

Test(weights, a_missing_scale_is_named) {
  replace(entry("model.layers.3.self_attn.o_proj.weight_scale_inv"), "scale_inv", "scale_xyz");
  REFUSED(TI_ERR_NOTFOUND, "model.layers.3.self_attn.o_proj.weight_scale_inv");
}

Test(weights, a_nan_code_is_named_with_its_place) {
  data_of("model.layers.1.mlp.experts.7.up_proj.weight")[5 * 256 + 17] = 0x7f;
  REFUSED(TI_ERR_FORMAT, "model.layers.1.mlp.experts.7.up_proj.weight: the weight in row 5, column 17");
  cr_assert_eq(load(true), TI_OK, "%s", err.text);
}

Test(weights, an_infinite_scale_is_named) {
  const uint32_t inf = 0x7f800000u;
  memcpy(data_of("model.layers.4.self_attn.kv_b_proj.weight_scale_inv") + 4, &inf, sizeof inf);
  REFUSED(TI_ERR_FORMAT, "model.layers.4.self_attn.kv_b_proj.weight_scale_inv");
  cr_assert_eq(load(true), TI_OK, "%s", err.text);
}

Test(weights, a_nan_in_a_norm_and_in_the_embedding_is_named) {
  char *norm = data_of("model.layers.1.input_layernorm.weight") + 2 * 9, *embed = data_of("model.embed_tokens.weight") + 2 * (256 * 70 + 3), was[2];
  memcpy(was, norm, 2);
  memcpy(norm, "\xc0\xff", 2);
  REFUSED(TI_ERR_FORMAT, "model.layers.1.input_layernorm.weight: number 9");
  memcpy(norm, was, 2);
  memcpy(embed, "\xc0\x7f", 2);
  REFUSED(TI_ERR_FORMAT, "model.embed_tokens.weight: the weight in row 70, column 3");
}

// --quantization fp8: tables of the vocabulary and routers stay as they are.
Test(weights, fp8_is_for_linear_layers_alone) {
  static const char *const models[] = {TI_SOURCE_DIR "/models/titan-tiny-dense", TI_SOURCE_DIR "/models/titan-tiny-moe"};
  for (int i = 0; i < 2; i++) {
    ti_config c;
    ti_checkpoint *ck = NULL;
    ti_placement *p = NULL, *layers[8];
    ti_dev *dev = NULL;
    ti_weights w;
    const ti_kernels *k = ti_kernels_find("ref");
    cr_assert_eq(ti_config_load(models[i], &c, &err), TI_OK, "%s", err.text);
    cr_assert_eq(ti_checkpoint_open(models[i], &c, &ck, &err), TI_OK, "%s", err.text);
    if (i) cr_assert_eq(ti_placement_identity(c.moe.n_expert, 0, &p, &err), TI_OK);
    for (int l = 0; l < 8; l++) layers[l] = p;
    cr_assert_eq(k->open(&(ti_dev_options){.threads = 1}, &dev, &err), TI_OK, "%s", err.text);
    const ti_weights_options o = {.model = &c, .ckpt = ck, .kernels = k, .dev = dev, .mesh = {1, 1, 1, 1, 1}, .placement = layers, .to_fp8 = true};
    cr_assert_eq(ti_weights_load(&o, &w, &err), TI_OK, "%s", err.text);
    const ti_layer_weights *lw = &w.layer[c.n_layer - 1];
    cr_assert(w.embed.dtype == TI_BF16 && w.lm_head.dtype == TI_BF16);
    cr_assert(lw->o.dtype == TI_E4M3 && (i ? lw->experts.down[0] : lw->down).dtype == TI_E4M3);
    if (i) cr_assert(lw->router.dtype != TI_E4M3, "%s", ti_dtype_name(lw->router.dtype));
    ti_weights_fini(&w);
    k->close(dev);
    ti_placement_destroy(p);
    ti_checkpoint_close(ck);
  }
}
