// What `titan bench` sends, and when: synthetic prompts, prompts of a file, public traces. See bench.h.
//
// Prompts without a text of their own are drawn from Philox keyed by (seed, block hash or request): equal blocks of a trace are equal text, so that a
// server's prefix cache sees the reuse of the trace. As text a token is a short common word, which is one token or a little more with most
// tokenizers; as ids (--prompt-ids) lengths are exact.
#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/rng.h"
#include "client/tool/bench.h"

enum { BLOCK_TOKENS = 512, FIRST_ID = 32, MAX_ITEMS = 4000000, MAX_HASHES = 1 << 26 };
static const uint64_t own_bit = 1ull << 63;  // a request's own tokens, apart from block hashes

extern char **environ;

// ---- files ----

typedef struct source {
  FILE *f;
  pid_t child;  // xz, or 0
} source;

static ti_status open_source(const char *file, source *out, ti_error *err) {
  const size_t n = strlen(file);
  *out = (source){0};
  if (n < 3 || strcmp(file + n - 3, ".xz") != 0) {
    out->f = fopen(file, "re");
    return out->f ? TI_OK : ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", file, strerror(errno));
  }
  if (access(file, R_OK) != 0) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", file, strerror(errno));
  int fd[2];
  if (pipe(fd) != 0) return ti_error_set(err, TI_ERR_IO, "pipe: %s", strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, fd[0]);
  posix_spawn_file_actions_addclose(&actions, fd[1]);
  char xz[] = "xz", dc[] = "-dc", end[] = "--", *name = strdup(file);
  char *argv[] = {xz, dc, end, name, NULL};
  const int rc = name ? posix_spawnp(&out->child, "xz", &actions, NULL, argv, environ) : ENOMEM;
  posix_spawn_file_actions_destroy(&actions);
  free(name);
  close(fd[1]);
  if (rc != 0) {
    close(fd[0]);
    out->child = 0;
    return ti_error_set(err, TI_ERR_IO, "%s: cannot run xz: %s", file, strerror(rc));
  }
  out->f = fdopen(fd[0], "r");
  return out->f ? TI_OK : TI_ERR_NOMEM;
}

static ti_status close_source(source *s, bool whole, const char *file, ti_error *err) {
  int status = 0;
  if (s->f) fclose(s->f);
  if (s->child && waitpid(s->child, &status, 0) == s->child && whole && status != 0)
    return ti_error_set(err, TI_ERR_FORMAT, "%s: xz cannot unpack it", file);
  return TI_OK;
}

// ---- building ----

static ti_status add_item(ti_bench_load *l, uint32_t *cap, const ti_bench_item *item) {
  if (l->n == *cap) {
    const uint32_t want = *cap ? *cap * 2 : 1024;
    ti_bench_item *p = want > MAX_ITEMS * 2u ? NULL : realloc(l->item, want * sizeof(*p));
    if (!p) return TI_ERR_NOMEM;
    l->item = p;
    *cap = want;
  }
  l->item[l->n++] = *item;
  return TI_OK;
}

static ti_status add_hash(ti_bench_load *l, uint32_t *cap, uint64_t hash) {
  if (l->n_hash == *cap) {
    const uint32_t want = *cap ? *cap * 2 : 4096;
    uint64_t *p = want > MAX_HASHES ? NULL : realloc(l->hash, want * sizeof(*p));
    if (!p) return TI_ERR_NOMEM;
    l->hash = p;
    *cap = want;
  }
  l->hash[l->n_hash++] = hash;
  return TI_OK;
}

void ti_bench_load_fini(ti_bench_load *l) {
  free(l->item);
  free(l->hash);
  json_decref(l->texts);
  memset(l, 0, sizeof(*l));
}

static void draw(uint64_t key, uint64_t ctr, uint32_t out[4]) {
  const uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)}, c[4] = {(uint32_t)ctr, (uint32_t)(ctr >> 32), 0x62656e63, 0};
  ti_philox4x32(k, c, out);
}

// Poisson arrivals: exponential gaps.
static void set_arrivals(ti_bench_load *l, double rate, uint64_t seed) {
  double at = 0;
  for (uint32_t i = 0; i < l->n; i++) {
    uint32_t r[4];
    draw(seed, i, r);
    if (rate > 0) at += -log(ti_u32_to_unit(r[0])) / rate;
    l->item[i].at_s = at;
  }
}

ti_status ti_bench_load_synthetic(const ti_bench_load_options *o, ti_bench_load *out, ti_error *err) {
  ti_bench_load l = {0};
  uint32_t cap = 0, cap_hash = 0;
  ti_status st = TI_OK;
  const uint32_t n_shared = (o->shared < o->n_in ? o->shared : o->n_in) / BLOCK_TOKENS + 1;
  for (uint32_t b = 0; b < n_shared && o->shared && !ti_failed(st); b++) st = add_hash(&l, &cap_hash, b);
  for (uint32_t i = 0; i < o->n && !ti_failed(st); i++) {
    const ti_bench_item item = {.n_in = o->n_in, .n_out = o->n_out, .n_block = o->shared ? n_shared : 0};
    st = add_item(&l, &cap, &item);
  }
  if (ti_failed(st)) {
    ti_bench_load_fini(&l);
    return ti_error_set(err, st, "no memory for %u requests", o->n);
  }
  set_arrivals(&l, o->rate, o->seed);
  *out = l;
  return TI_OK;
}

// ---- prompts ----

static const json_t *prompt_of(const json_t *line) {
  const json_t *p = json_object_get(line, "prompt");
  if (!p) p = json_array_get(json_object_get(line, "turns"), 0);
  return json_is_string(p) ? p : NULL;
}

ti_status ti_bench_load_prompts(const char *file, const ti_bench_load_options *o, ti_bench_load *out, ti_error *err) {
  ti_bench_load l = {.texts = json_array()};
  source s;
  uint32_t cap = 0, n_text = 0, number = 0;
  char *line = NULL;
  size_t room = 0;
  ti_status st = open_source(file, &s, err);
  ssize_t len = 0;
  while (!ti_failed(st) && (!o->n || n_text < o->n) && (len = getline(&line, &room, s.f)) >= 0) {
    json_t *doc = NULL;
    number++;
    if (line[strspn(line, " \t\r\n")] == 0) continue;
    st = ti_json_parse(line, (size_t)len, &doc, err);
    const json_t *p = ti_failed(st) ? NULL : prompt_of(doc);
    if (ti_failed(st))
      ti_error_prefix(err, "%s: line %u", file, number);
    else if (!p)
      st = ti_error_set(err, TI_ERR_FORMAT, "%s: line %u: neither \"prompt\" nor \"turns\" is a text", file, number);
    else if (json_array_append_new(l.texts, json_string(json_string_value(p))) != 0)
      st = TI_ERR_NOMEM;
    else
      n_text++;
    json_decref(doc);
  }
  if (s.f || s.child) {
    const ti_status closed = close_source(&s, len < 0, file, ti_failed(st) ? NULL : err);
    if (!ti_failed(st)) st = closed;
  }
  free(line);
  if (!ti_failed(st) && !n_text) st = ti_error_set(err, TI_ERR_FORMAT, "%s: no prompts", file);
  const uint32_t n = o->n ? o->n : n_text;
  for (uint32_t i = 0; i < n && !ti_failed(st); i++) {
    const ti_bench_item item = {.text = i % n_text, .n_out = o->n_out};
    st = add_item(&l, &cap, &item);
  }
  if (ti_failed(st)) {
    ti_bench_load_fini(&l);
    return st;
  }
  set_arrivals(&l, o->rate, o->seed);
  *out = l;
  return TI_OK;
}

// ---- traces ----

typedef struct tracer {
  ti_bench_load l;
  uint32_t cap, cap_hash;
  double first_s;
  const ti_bench_load_options *o;
} tracer;

static uint32_t scaled(double v, double scale, uint32_t max) {
  double x = v * scale;
  if (x < 1) x = 1;
  if (max && x > max) x = max;
  return (uint32_t)x;
}

static ti_status mooncake_line(tracer *t, const char *line, size_t n, ti_bench_item *item, double *at_s, ti_error *err) {
  json_t *doc = NULL;
  int64_t in = -1, out = -1;
  double ms = -1;
  ti_status st = ti_json_parse(line, n, &doc, err);
  if (!ti_failed(st)) st = ti_json_int(doc, "input_length", 0, 1 << 30, &in, err);
  if (!ti_failed(st)) st = ti_json_int(doc, "output_length", 0, 1 << 30, &out, err);
  if (!ti_failed(st)) st = ti_json_real(doc, "timestamp", 0, 1e15, &ms, err);
  if (!ti_failed(st) && (in < 0 || out < 0 || ms < 0)) st = ti_error_set(err, TI_ERR_FORMAT, "timestamp, input_length and output_length are wanted");
  if (!ti_failed(st)) {
    const json_t *ids = json_object_get(doc, "hash_ids");
    *at_s = ms / 1000;
    item->n_in = scaled((double)in, t->o->length_scale, t->o->max_in);
    item->n_out = scaled((double)out, t->o->length_scale, t->o->max_out);
    item->block = t->l.n_hash;
    item->n_block = (uint32_t)json_array_size(ids);
    for (uint32_t i = 0; i < item->n_block && !ti_failed(st); i++)
      st = add_hash(&t->l, &t->cap_hash, (uint64_t)json_integer_value(json_array_get(ids, i)));
  }
  json_decref(doc);
  return st;
}

// "2023-11-16 18:15:46.6805900,374,44"
static ti_status azure_line(tracer *t, const char *line, ti_bench_item *item, double *at_s, ti_error *err) {
  struct tm tm = {0};
  const char *p = strptime(line, "%Y-%m-%d %H:%M:%S", &tm);
  char *end = NULL;
  double part = 0, in = -1, out = -1;
  if (p && *p == '.') {
    part = strtod(p, &end);
    p = end;
  }
  if (p && (*p == '+' || *p == 'Z')) p += strcspn(p, ",");
  if (p && *p == ',') {
    in = strtod(p + 1, &end);
    if (*end == ',') out = strtod(end + 1, &end);
  }
  if (in < 0 || out < 0 || in > (1 << 30) || out > (1 << 30) || (*end && *end != '\r' && *end != '\n'))
    return ti_error_set(err, TI_ERR_FORMAT, "expected TIMESTAMP,ContextTokens,GeneratedTokens, got '%.60s'", line);
  *at_s = (double)timegm(&tm) + part;
  item->n_in = scaled(in, t->o->length_scale, t->o->max_in);
  item->n_out = scaled(out, t->o->length_scale, t->o->max_out);
  return TI_OK;
}

ti_status ti_bench_load_trace(const char *file, const ti_bench_load_options *o, ti_bench_load *out, ti_error *err) {
  tracer t = {.o = o};
  source s;
  char *line = NULL;
  size_t room = 0;
  uint32_t number = 0;
  ssize_t len = 0;
  ti_status st = open_source(file, &s, err);
  while (!ti_failed(st) && (!o->n || t.l.n < o->n) && (len = getline(&line, &room, s.f)) >= 0) {
    ti_bench_item item = {0};
    double at_s = 0;
    number++;
    if (line[strspn(line, " \t\r\n")] == 0 || strncmp(line, "TIMESTAMP,", 10) == 0) continue;
    st = line[0] == '{' ? mooncake_line(&t, line, (size_t)len, &item, &at_s, err) : azure_line(&t, line, &item, &at_s, err);
    if (ti_failed(st)) {
      ti_error_prefix(err, "%s: line %u", file, number);
      break;
    }
    if (t.l.n == 0) t.first_s = at_s;
    item.at_s = (at_s - t.first_s) / o->speed;
    if (t.l.n && item.at_s < t.l.item[t.l.n - 1].at_s) item.at_s = t.l.item[t.l.n - 1].at_s;
    st = add_item(&t.l, &t.cap, &item);
  }
  if (s.f || s.child) {
    const ti_status closed = close_source(&s, len < 0, file, ti_failed(st) ? NULL : err);
    if (!ti_failed(st)) st = closed;
  }
  free(line);
  if (!ti_failed(st) && !t.l.n) st = ti_error_set(err, TI_ERR_FORMAT, "%s: no requests", file);
  if (ti_failed(st)) {
    ti_bench_load_fini(&t.l);
    return st;
  }
  *out = t.l;
  return TI_OK;
}

// ---- bodies ----

static const char *const words[64] = {
    "the",  "and",   "was",  "for",    "that",  "with",  "they",   "this",  "have",  "from",  "one",  "had",  "word",  "but",  "not",   "what",
    "all",  "were",  "when", "your",   "can",   "said",  "there",  "use",   "each",  "which", "she",  "how",  "their", "will", "other", "about",
    "out",  "many",  "then", "them",   "these", "some",  "her",    "would", "make",  "like",  "him",  "into", "time",  "has",  "look",  "two",
    "more", "write", "see",  "number", "way",   "could", "people", "than",  "first", "water", "been", "call", "who",   "oil",  "now",   "find"};

static void put_token(ti_buf *out, const ti_bench_body_options *o, uint32_t at, uint32_t random) {
  if (o->as_ids)
    ti_buf_printf(out, "%s%u", at ? "," : "", FIRST_ID + random % (o->vocab - FIRST_ID));
  else
    ti_buf_printf(out, "%s%s", at ? " " : "", words[random & 63]);
}

static void put_drawn(const ti_bench_load *l, uint32_t i, const ti_bench_body_options *o, ti_buf *out) {
  const ti_bench_item *it = &l->item[i];
  uint32_t r[4] = {0};
  ti_buf_puts(out, o->as_ids ? "[" : "\"");
  for (uint32_t at = 0; at < it->n_in; at++) {
    const uint32_t b = at / BLOCK_TOKENS, in_block = at % BLOCK_TOKENS;
    const uint64_t key = b < it->n_block ? l->hash[it->block + b] : own_bit | ((uint64_t)i << 24) | b;
    if (in_block % 4 == 0) draw(o->seed ^ key, in_block, r);
    put_token(out, o, at, r[in_block % 4]);
  }
  ti_buf_puts(out, o->as_ids ? "]" : "\"");
}

ti_status ti_bench_body(const ti_bench_load *l, uint32_t i, const ti_bench_body_options *o, ti_buf *out) {
  const ti_bench_item *it = &l->item[i];
  ti_buf_puts(out, "{\"model\":");
  ti_buf_json_string(out, o->model, strlen(o->model));
  ti_buf_puts(out, o->chat ? ",\"messages\":[{\"role\":\"user\",\"content\":" : ",\"prompt\":");
  if (it->n_in) {
    put_drawn(l, i, o, out);
  } else {
    const json_t *text = json_array_get(l->texts, it->text);
    ti_buf_json_string(out, json_string_value(text), json_string_length(text));
  }
  if (o->chat) ti_buf_puts(out, "}]");
  ti_buf_printf(out, ",\"max_tokens\":%u,\"stream\":true", it->n_out);
  if (o->temperature >= 0) ti_buf_printf(out, ",\"temperature\":%g", o->temperature);
  if (o->usage) ti_buf_puts(out, ",\"stream_options\":{\"include_usage\":true}");
  if (o->ignore_eos) ti_buf_puts(out, ",\"ignore_eos\":true");
  ti_buf_putc(out, '}');
  return out->failed ? TI_ERR_FULL : TI_OK;
}
