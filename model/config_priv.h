// Shared by the pieces of the config reader: config.c (architectures and shapes), config_rope.c (RoPE), config_random.c (specs).
#ifndef TI_MODEL_CONFIG_PRIV_H
#define TI_MODEL_CONFIG_PRIV_H
#include "base/json.h"
#include "model/config.h"

enum { TI_CONFIG_MAX_BYTES = 16 << 20 };  // of a config.json

// A config from the object of a config.json.
ti_status ti_config_from_json(const json_t *root, ti_config *out, ti_error *err) TI_MUST_CHECK;
// As ti_json_int, into an int; required: a missing or null key is an error.
ti_status ti_config_int(const json_t *obj, const char *key, int lo, int hi, bool required, int *out, ti_error *err) TI_MUST_CHECK;
// c->rope (all but dim and interleaved) from rope_theta + rope_scaling or rope_parameters; needs c->max_position.
ti_status ti_config_parse_rope(const json_t *root, double default_theta, ti_config *c, ti_error *err) TI_MUST_CHECK;
// mscale^2, by which YaRN multiplies the softmax scale of DeepSeek's attention (1 without YaRN).
double ti_rope_score_factor(const ti_rope_config *r);

#endif
