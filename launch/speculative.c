// Reading --speculative-config (see speculative.h).
#include "launch/speculative.h"

#include <string.h>

#include "base/json.h"

enum { DRAFT_MOST = 16, NGRAM_MOST = 16, NGRAM_DEFAULT = 5 };

static ti_status check_names(const json_t *j, ti_error *err) {
  static const char *const known[] = {"method", "num_speculative_tokens", "prompt_lookup_max", "prompt_lookup_min"};
  for (void *at = json_object_iter((json_t *)(uintptr_t)j); at; at = json_object_iter_next((json_t *)(uintptr_t)j, at)) {
    const char *name = json_object_iter_key(at);
    size_t i = 0;
    while (i < sizeof known / sizeof *known && strcmp(name, known[i])) i++;
    if (i == sizeof known / sizeof *known)
      return ti_error_set(err, TI_ERR_ARG, "%.60s: expected %s, %s, %s or %s", name, known[0], known[1], known[2], known[3]);
  }
  return TI_OK;
}

static ti_status read_fields(const json_t *j, ti_speculative *out, ti_error *err) {
  const char *method = NULL;
  int64_t most = 0, max_n = 0, min_n = 0;
  ti_status st = check_names(j, err);
  if (!st) st = ti_json_str(j, "method", &method, err);
  if (!st && !method) st = ti_error_set(err, TI_ERR_ARG, "method: is missing; known is ngram");
  if (!st && strcmp(method, "ngram")) st = ti_error_set(err, TI_ERR_ARG, "method: \"%.60s\" is not known; known is ngram", method);
  if (!st) st = ti_json_int(j, "num_speculative_tokens", 1, DRAFT_MOST, &most, err);
  if (!st && !most) st = ti_error_set(err, TI_ERR_ARG, "num_speculative_tokens: is missing; expected an integer in 1..%d", DRAFT_MOST);
  if (!st) st = ti_json_int(j, "prompt_lookup_max", 1, NGRAM_MOST, &max_n, err);
  if (!st) st = ti_json_int(j, "prompt_lookup_min", 1, NGRAM_MOST, &min_n, err);
  if (st) return st;
  if (!max_n) max_n = min_n ? min_n : NGRAM_DEFAULT;
  if (!min_n) min_n = max_n;
  if (min_n > max_n) return ti_error_set(err, TI_ERR_ARG, "prompt_lookup_min: %d is above prompt_lookup_max, %d", (int)min_n, (int)max_n);
  *out = (ti_speculative){.max_draft = (uint32_t)most, .min_n = (uint32_t)min_n, .max_n = (uint32_t)max_n};
  return TI_OK;
}

ti_status ti_speculative_parse(const char *text, ti_speculative *out, ti_error *err) {
  *out = (ti_speculative){0};
  if (!*text) return TI_OK;
  json_t *j = NULL;
  ti_status st = ti_json_parse(text, strlen(text), &j, err);
  if (!st && !json_is_object(j))
    st = ti_error_set(err, TI_ERR_ARG, "expected an object such as {\"method\": \"ngram\", \"num_speculative_tokens\": 5}");
  if (!st) st = read_fields(j, out, err);
  json_decref(j);
  if (!st) return TI_OK;
  if (err) err->code = TI_ERR_ARG;  // a wrong flag, whatever was wrong in it
  ti_error_prefix(err, "--speculative-config");
  return TI_ERR_ARG;
}
