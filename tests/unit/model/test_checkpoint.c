// Opening, requiring and reading tensors: the three bundled models, whatever holds them.
#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "model/checkpoint.h"
#include "model/names.h"

static const char *const bundled[] = {TI_SOURCE_DIR "/models/titan-tiny-dense", TI_SOURCE_DIR "/models/titan-tiny-draft",
                                      TI_SOURCE_DIR "/models/titan-tiny-moe"};

static ti_checkpoint *open_model(const char *model, ti_config *cfg) {
  ti_error err = {0};
  ti_checkpoint *c = NULL;
  cr_assert_eq(ti_config_load(model, cfg, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_checkpoint_open(model, cfg, &c, &err), TI_OK, "%s", err.text);
  return c;
}

static ti_status require_spec(void *user, const ti_tensor_spec *spec) {
  const ti_checkpoint *c = user;
  ti_tensor t;
  ti_error err = {0};
  cr_assert_eq(ti_checkpoint_require(c, spec->name, spec->rows, spec->cols, &t, &err), TI_OK, "%s", err.text);
  cr_assert_eq(t.dtype, spec->dtype, "%s", spec->name);
  cr_assert_eq(t.n_dim, spec->n_dim, "%s", spec->name);
  return TI_OK;
}

static ti_status count_spec(void *user, const ti_tensor_spec *spec) {
  (*(int *)user)++;
  return TI_OK;
}

Test(checkpoint, bundled_models_hold_exactly_the_tensors_that_their_configs_imply) {
  for (size_t i = 0; i < sizeof(bundled) / sizeof(bundled[0]); i++) {
    ti_config cfg;
    ti_checkpoint *c = open_model(bundled[i], &cfg);
    int n = 0;
    cr_assert_eq(ti_tensor_each(&cfg, require_spec, c), TI_OK);
    cr_assert_eq(ti_tensor_each(&cfg, count_spec, &n), TI_OK);
    cr_assert_eq(n, c->ops->count(c), "%s: %d specs, %d tensors", bundled[i], n, c->ops->count(c));
    ti_checkpoint_close(c);
  }
}

Test(checkpoint, opening_does_not_read_the_weights) {
  for (size_t i = 0; i < sizeof(bundled) / sizeof(bundled[0]); i++) {
    uint64_t best = UINT64_MAX;
    for (int k = 0; k < 9; k++) {
      ti_config cfg;
      const uint64_t t0 = ti_mono_ns();
      ti_checkpoint *c = open_model(bundled[i], &cfg);
      const uint64_t t = ti_mono_ns() - t0;
      if (t < best) best = t;
      ti_checkpoint_close(c);
    }
    cr_assert_lt(best, 200000000u, "%s: %.2f ms", bundled[i], (double)best / 1e6);  // under 1 ms on an idle core: opening must not read the weights
    cr_log_info("%s: %.2f ms", bundled[i], (double)best / 1e6);
  }
}

Test(checkpoint, slices_are_the_same_bytes_as_the_file) {
  ti_config cfg;
  ti_checkpoint *c = open_model(bundled[2], &cfg);
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_find(c, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", &t), TI_OK);
  unsigned char part[3 * 40];
  ti_checkpoint_read(c, &t, 570, 3, 200, 40, part);
  for (int r = 0; r < 3; r++) cr_assert_arr_eq(part + 40 * r, (const unsigned char *)t.data + (570 + r) * 256 + 200, 40);
  cr_assert_eq(ti_checkpoint_find(c, "model.embed_tokens.weight", &t), TI_OK);
  uint16_t row[2 * 256];
  ti_checkpoint_read(c, &t, 4094, 2, 0, 256, row);
  cr_assert_arr_eq(row, (const char *)t.data + 4094 * 512, 1024);
  ti_checkpoint_close(c);
}

Test(checkpoint, require_names_the_file_the_tensor_and_both_shapes) {
  ti_config cfg;
  ti_error err = {0};
  ti_checkpoint *c = open_model(bundled[0], &cfg);
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_require(c, "model.layers.0.self_attn.k_proj.weight", 256, 256, &t, &err), TI_ERR_FORMAT);
  cr_assert_not_null(strstr(err.text, "model.safetensors: tensor model.layers.0.self_attn.k_proj.weight: expected [256, 256], found [128, 256]"),
                     "%s", err.text);
  cr_assert_eq(ti_checkpoint_require(c, "model.layers.9.x", 1, 256, &t, &err), TI_ERR_NOTFOUND);
  cr_assert_not_null(strstr(err.text, "model.layers.9.x is missing"), "%s", err.text);
  ti_checkpoint_close(c);
}

Test(checkpoint, other_formats_are_refused_with_what_is_accepted) {
  ti_config cfg = {0};
  ti_error err = {0};
  ti_checkpoint *c;
  cr_assert_eq(ti_checkpoint_open(TI_SOURCE_DIR "/CMakeLists.txt", &cfg, &c, &err), TI_ERR_UNSUPPORTED);
  cr_assert_not_null(strstr(err.text, "CMakeLists.txt: unknown checkpoint format (accepted: a folder"), "%s", err.text);
  cr_assert_eq(ti_checkpoint_open("/no/such", &cfg, &c, &err), TI_ERR_NOTFOUND);
  cr_assert_eq(ti_checkpoint_open(TI_SOURCE_DIR "/base", &cfg, &c, &err), TI_ERR_NOTFOUND);
  ti_checkpoint_close(NULL);
}

Test(checkpoint, parts_that_a_config_has_not_are_not_found) {
  ti_config cfg;
  ti_tensor_spec s;
  ti_checkpoint *c = open_model(bundled[2], &cfg);
  cr_assert_eq(ti_tensor_spec_of(&cfg, TI_PART_GATE, TI_FIELD_WEIGHT, 0, 0, &s), TI_OK);
  cr_assert_str_eq(s.name, "model.layers.0.mlp.gate_proj.weight");
  cr_assert_eq(ti_tensor_spec_of(&cfg, TI_PART_GATE, TI_FIELD_WEIGHT, 1, 0, &s), TI_ERR_NOTFOUND);
  cr_assert_eq(ti_tensor_spec_of(&cfg, TI_PART_EXPERT_UP, TI_FIELD_SCALE, 5, 15, &s), TI_OK);
  cr_assert_str_eq(s.name, "model.layers.5.mlp.experts.15.up_proj.weight_scale_inv");
  cr_assert_eq(ti_tensor_spec_of(&cfg, TI_PART_EXPERT_UP, TI_FIELD_SCALE, 5, 16, &s), TI_ERR_NOTFOUND);
  cr_assert_eq(ti_tensor_spec_of(&cfg, TI_PART_ENORM, TI_FIELD_WEIGHT, 4, 0, &s), TI_ERR_NOTFOUND);
  cr_assert_eq(ti_tensor_spec_of(&cfg, TI_PART_EH_PROJ, TI_FIELD_SCALE, 5, 0, &s), TI_ERR_NOTFOUND);
  ti_checkpoint_close(c);
}
