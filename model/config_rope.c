// Rotary position embedding: how config.json says it, and the frequencies that follow. Pure functions; any thread.
//
// Two spellings: `rope_theta` + `rope_scaling` (up to transformers 4) and `rope_parameters` with both inside (transformers 5).
#include <math.h>
#include <string.h>

#include "model/config_priv.h"

static ti_status parse_yarn(const json_t *s, ti_rope_config *r, ti_error *err) {
  bool truncate = true;
  ti_status st;
  r->beta_fast = 32;
  r->beta_slow = 1;
  if ((st = ti_json_real(s, "beta_fast", 1e-3, 1e6, &r->beta_fast, err)) != TI_OK ||
      (st = ti_json_real(s, "beta_slow", 1e-3, 1e6, &r->beta_slow, err)) != TI_OK ||
      (st = ti_json_real(s, "mscale", 0, 100, &r->mscale, err)) != TI_OK ||
      (st = ti_json_real(s, "mscale_all_dim", 0, 100, &r->mscale_all_dim, err)) != TI_OK ||
      (st = ti_json_real(s, "attention_factor", 0, 100, &r->attention_factor, err)) != TI_OK ||
      (st = ti_json_bool(s, "truncate", &truncate, err)) != TI_OK)
    return st;
  if (!truncate) return ti_error_set(err, TI_ERR_UNSUPPORTED, "truncate: false is not supported");
  if (r->theta <= 1) return ti_error_set(err, TI_ERR_RANGE, "rope_theta: yarn needs a value above 1, got %g", r->theta);
  return TI_OK;
}

static ti_status parse_llama3(const json_t *s, ti_rope_config *r, ti_error *err) {
  r->low_freq_factor = 1;
  r->high_freq_factor = 4;
  ti_status st = ti_json_real(s, "low_freq_factor", 1e-3, 1e6, &r->low_freq_factor, err);
  if (st == TI_OK) st = ti_json_real(s, "high_freq_factor", 1e-3, 1e6, &r->high_freq_factor, err);
  if (st != TI_OK) return st;
  if (r->high_freq_factor <= r->low_freq_factor)
    return ti_error_set(err, TI_ERR_RANGE, "high_freq_factor: expected more than low_freq_factor (%g), got %g", r->low_freq_factor,
                        r->high_freq_factor);
  return TI_OK;
}

// s: the object with the scaling's type and numbers.
static ti_status parse_scaling(const json_t *s, ti_config *c, ti_error *err) {
  ti_rope_config *r = &c->rope;
  const char *type = "default";
  double partial = 1;
  ti_status st;
  if ((st = ti_json_str(s, "type", &type, err)) != TI_OK || (st = ti_json_str(s, "rope_type", &type, err)) != TI_OK ||
      (st = ti_json_real(s, "rope_theta", 1e-3, 1e12, &r->theta, err)) != TI_OK ||
      (st = ti_json_real(s, "partial_rotary_factor", 0, 1, &partial, err)) != TI_OK)
    return st;
  if (partial != 1) return ti_error_set(err, TI_ERR_UNSUPPORTED, "partial_rotary_factor: %g is not supported (1 is)", partial);
  if (json_is_object(json_object_get(s, "full_attention")) || json_is_object(json_object_get(s, "sliding_attention")))
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "parameters a layer type (full_attention, sliding_attention) are not supported");
  if (strcmp(type, "default") == 0) return TI_OK;
  if (strcmp(type, "linear") == 0)
    r->scaling = TI_ROPE_LINEAR;
  else if (strcmp(type, "llama3") == 0)
    r->scaling = TI_ROPE_LLAMA3;
  else if (strcmp(type, "yarn") == 0)
    r->scaling = TI_ROPE_YARN;
  else
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "rope_type: \"%.40s\" is not supported (default, linear, llama3 and yarn are)", type);
  if (!json_is_number(json_object_get(s, "factor"))) return ti_error_set(err, TI_ERR_FORMAT, "factor: missing (expected a number in 1..1e6)");
  if ((st = ti_json_real(s, "factor", 1, 1e6, &r->factor, err)) != TI_OK) return st;
  r->original_max_position = c->max_position;
  if ((st = ti_config_int(s, "original_max_position_embeddings", 1, 1 << 24, r->scaling == TI_ROPE_LLAMA3, &r->original_max_position, err)) != TI_OK)
    return st;
  if (r->scaling == TI_ROPE_YARN) return parse_yarn(s, r, err);
  return r->scaling == TI_ROPE_LLAMA3 ? parse_llama3(s, r, err) : TI_OK;
}

ti_status ti_config_parse_rope(const json_t *root, double default_theta, ti_config *c, ti_error *err) {
  static const char *const keys[] = {"rope_scaling", "rope_parameters"};
  c->rope = (ti_rope_config){.theta = default_theta, .factor = 1};
  ti_status st = ti_json_real(root, "rope_theta", 1e-3, 1e12, &c->rope.theta, err);
  for (int i = 0; st == TI_OK && i < 2; i++) {
    const json_t *s = json_object_get(root, keys[i]);
    if (!s || json_is_null(s)) continue;
    if (!json_is_object(s)) return ti_error_set(err, TI_ERR_FORMAT, "%s: expected an object", keys[i]);
    if ((st = parse_scaling(s, c, err)) != TI_OK) ti_error_prefix(err, "%s", keys[i]);
  }
  return st;
}

// YaRN's 0.1 * mscale * ln(factor) + 1.
static double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0; }

double ti_rope_score_factor(const ti_rope_config *r) {
  if (r->scaling != TI_ROPE_YARN || r->mscale_all_dim == 0) return 1.0;
  const double m = yarn_mscale(r->factor, r->mscale_all_dim);
  return m * m;
}

// The (fractional) frequency index whose wave turns `rotations` times within the original context.
static double yarn_dim_of(const ti_rope_config *r, double rotations) {
  return r->dim * log(r->original_max_position / (rotations * 2 * M_PI)) / (2 * log(r->theta));
}

void ti_rope_frequencies(const ti_rope_config *r, float *inv_freq, float *attn_factor) {
  double low = 0, high = 0, attn = 1;
  if (r->scaling == TI_ROPE_YARN) {
    low = fmax(floor(yarn_dim_of(r, r->beta_fast)), 0);
    high = fmin(ceil(yarn_dim_of(r, r->beta_slow)), r->dim - 1);
    if (low == high) high += 0.001;
    attn = r->attention_factor > 0                  ? r->attention_factor
           : r->mscale > 0 && r->mscale_all_dim > 0 ? yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim)
                                                    : yarn_mscale(r->factor, 1);
  }
  for (int i = 0; i < r->dim / 2; i++) {
    const double f = pow(r->theta, -2.0 * i / r->dim);
    double v = f;
    if (r->scaling == TI_ROPE_LINEAR) {
      v = f / r->factor;
    } else if (r->scaling == TI_ROPE_LLAMA3) {
      const double turns = r->original_max_position * f / (2 * M_PI);  // within the original context
      const double t = fmin(fmax((turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor), 0), 1);
      v = (1 - t) * f / r->factor + t * f;
    } else if (r->scaling == TI_ROPE_YARN) {
      const double t = fmin(fmax((i - low) / (high - low), 0), 1);  // 0: keep the frequency, 1: divide it
      v = t * f / r->factor + (1 - t) * f;
    }
    inv_freq[i] = (float)v;
  }
  *attn_factor = (float)attn;
}
