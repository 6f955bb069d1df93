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

Test(checkpoint, bundled_models_open_within_5_ms) {
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
#ifndef __SANITIZE_ADDRESS__
    cr_assert_lt(best, 5000000u, "%s: %.2f ms", bundled[i], (double)best / 1e6);
#endif
    cr_log_info("%s: %.2f ms", bundled[i], (double)best / 1e6);
  }
}
