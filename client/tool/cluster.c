// One picture of the cluster from /health and /metrics, or from the NNG door (see cluster.h).
#include "client/tool/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "client/tool/nng.h"

static void copy(char *out, size_t size, const char *text) { snprintf(out, size, "%s", text ? text : ""); }

static uint64_t integer(const json_t *o, const char *key) {
  const json_int_t v = json_integer_value(json_object_get(o, key));
  return v > 0 ? (uint64_t)v : 0;
}
static const char *string(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static ti_status read_health(const json_t *doc, ti_cluster *c, ti_error *err) {
  copy(c->state, sizeof(c->state), string(doc, "status"));
  copy(c->message, sizeof(c->message), string(doc, "message"));
  c->running = (uint32_t)integer(doc, "running");
  c->waiting = (uint32_t)integer(doc, "waiting");
  c->pages = (uint32_t)integer(doc, "pages");
  c->pages_used = (uint32_t)integer(doc, "pages_used");
  c->steps = integer(doc, "steps");
  const json_t *ranks = json_object_get(doc, "ranks");
  const size_t n = json_array_size(ranks);
  if (n > TI_CLUSTER_RANKS) return ti_error_set(err, TI_ERR_RANGE, "/health: %zu ranks, at most %d", n, TI_CLUSTER_RANKS);
  if (!(c->rank = calloc(n + 1, sizeof(*c->rank)))) return ti_error_set(err, TI_ERR_NOMEM, "no memory for %zu ranks", n);
  c->n_rank = (uint32_t)n;
  for (size_t i = 0; i < n; i++) {
    const json_t *r = json_array_get(ranks, i);
    ti_cluster_rank *to = &c->rank[i];
    *to = (ti_cluster_rank){.rank = (uint32_t)integer(r, "rank"),
                            .age_ms = (uint32_t)integer(r, "age_ms"),
                            .step_us = (uint32_t)integer(r, "step_us"),
                            .in_step_us = (uint32_t)integer(r, "in_step_us"),
                            .step = integer(r, "step"),
                            .healthy = json_is_true(json_object_get(r, "healthy"))};
    copy(to->device, sizeof(to->device), string(r, "device"));
    copy(to->host, sizeof(to->host), string(r, "host"));
    copy(to->doing, sizeof(to->doing), string(r, "doing"));
  }
  return TI_OK;
}

static ti_status fetch_http(const ti_server *s, bool metrics, ti_cluster *c, ti_error *err) {
  ti_http_url url;
  ti_http_reply reply = {0};
  json_t *doc = NULL;
  char *model = NULL;
  ti_status st = ti_http_url_parse(s->url, &url, err);
  if (!ti_failed(st)) st = ti_tool_get(s, &url, "/health", &reply, err);
  if (ti_failed(st)) goto end;
  c->healthy = reply.status == 200;
  if (reply.status != 200 && reply.status != 503) {
    st = ti_http_refusal(reply.status, ti_buf_str(&reply.body), reply.body.len, err);
    goto end;
  }
  copy(c->state, sizeof(c->state), c->healthy ? "ok" : "unhealthy");
  // a peer's /health may be empty: then its status is all there is
  if (!ti_failed(ti_json_parse(ti_buf_str(&reply.body), reply.body.len, &doc, NULL)) && json_is_object(doc)) st = read_health(doc, c, err);
  if (!ti_failed(st)) st = ti_tool_model_name(s, &url, &model, err);
  copy(c->model, sizeof(c->model), model);
  if (!ti_failed(st) && metrics) {
    ti_http_reply_fini(&reply);
    st = ti_tool_get(s, &url, "/metrics", &reply, err);
    if (!ti_failed(st) && reply.status == 200) st = ti_buf_append(&c->metrics, ti_buf_str(&reply.body), reply.body.len);
    const double tokens = ti_prom_sum(ti_buf_str(&c->metrics), "vllm:generation_tokens_total");
    c->tokens = tokens > 0 ? (uint64_t)tokens : 0;
  }
end:
  free(model);
  json_decref(doc);
  ti_http_reply_fini(&reply);
  return st;
}

static ti_status fetch_nng(const ti_server *s, bool metrics, ti_cluster *c, ti_error *err) {
  titan *t = NULL;
  titan_cluster *m = NULL;
  titan_error why = {0};
  ti_status st = ti_tool_nng_open(s, &t, err);
  if (!ti_failed(st) && titan_cluster_status(t, metrics, &m, &why)) st = ti_tool_nng_error(&why, err);
  if (!ti_failed(st) && m->n_ranks > TI_CLUSTER_RANKS) st = ti_error_set(err, TI_ERR_RANGE, "%zu ranks, at most %d", m->n_ranks, TI_CLUSTER_RANKS);
  if (!ti_failed(st) && !(c->rank = calloc(m->n_ranks + 1, sizeof(*c->rank))))
    st = ti_error_set(err, TI_ERR_NOMEM, "no memory for %zu ranks", m->n_ranks);
  if (!ti_failed(st)) {
    copy(c->model, sizeof(c->model), m->model);
    copy(c->state, sizeof(c->state), m->healthy ? "ok" : "unhealthy");
    c->healthy = m->healthy;
    c->running = m->running;
    c->waiting = m->waiting;
    c->pages = m->pages;
    c->pages_used = m->pages_used;
    c->tokens = m->tokens;
    c->n_rank = (uint32_t)m->n_ranks;
    for (size_t i = 0; i < m->n_ranks; i++) {
      const titan_rank *r = &m->ranks[i];
      ti_cluster_rank *to = &c->rank[i];
      *to = (ti_cluster_rank){.rank = r->rank, .age_ms = r->age_ms, .step_us = r->step_us, .step = r->step, .healthy = r->healthy};
      if (r->step > c->steps) c->steps = r->step;
      copy(to->device, sizeof(to->device), r->device);
      copy(to->host, sizeof(to->host), r->host);
      copy(to->doing, sizeof(to->doing), r->doing);
    }
    if (m->metrics) st = ti_buf_puts(&c->metrics, m->metrics);
  }
  titan_cluster_free(m);
  titan_close(t);
  return st;
}

ti_status ti_cluster_fetch(const ti_server *s, bool metrics, ti_cluster *out, ti_error *err) {
  memset(out, 0, sizeof(*out));
  ti_buf_init(&out->metrics, 64u << 20);
  return ti_tool_is_http(s->url) ? fetch_http(s, metrics, out, err) : fetch_nng(s, metrics, out, err);
}

void ti_cluster_fini(ti_cluster *c) {
  free(c->rank);
  ti_buf_fini(&c->metrics);
  memset(c, 0, sizeof(*c));
}

void ti_cluster_print(const ti_cluster *c, FILE *to) {
  fprintf(to, "%s  %s%s%s\n", c->model, c->state, c->message[0] ? ": " : "", c->message);
  fprintf(to, "running %u  waiting %u  pages %u of %u (%.0f%%)  steps %llu  tokens %llu\n\n", c->running, c->waiting, c->pages_used, c->pages,
          c->pages ? 100.0 * c->pages_used / c->pages : 0.0, (unsigned long long)c->steps, (unsigned long long)c->tokens);
  fprintf(to, "%4s  %-6s %10s %10s %9s  %-14s %-16s %s\n", "rank", "health", "step", "step ms", "heard ms", "device", "host", "doing");
  for (uint32_t i = 0; i < c->n_rank; i++) {
    const ti_cluster_rank *r = &c->rank[i];
    fprintf(to, "%4u  %-6s %10llu %10.2f %9u  %-14s %-16s %s\n", r->rank, r->healthy ? "ok" : "BAD", (unsigned long long)r->step, r->step_us / 1000.0,
            r->age_ms, r->device, r->host, r->doing);
  }
}

// ---- Prometheus' text ----

bool ti_prom_next(const char **at, ti_prom_sample *out) {
  for (const char *p = *at; *p;) {
    const char *end = strchrnul(p, '\n');
    const char *next = *end ? end + 1 : end;
    const char *name = p;
    p += strcspn(p, "{ \n");
    ti_prom_sample s = {.name = name, .n_name = (size_t)(p - name)};
    if (*p == '{') {
      s.labels = ++p;
      bool quoted = false;
      for (; p < end && (quoted || *p != '}'); p++) {
        if (*p == '\\' && p + 1 < end)
          p++;
        else if (*p == '"')
          quoted = !quoted;
      }
      s.n_labels = (size_t)(p - s.labels);
      if (*p == '}') p++;
    }
    char *stop = NULL;
    s.value = *p == ' ' ? strtod(p, &stop) : NAN;
    if (s.n_name && *name != '#' && stop && stop > p && stop <= end) {
      *out = s;
      *at = next;
      return true;
    }
    p = next;
    *at = p;
  }
  return false;
}

bool ti_prom_is(const ti_prom_sample *s, const char *name) { return strlen(name) == s->n_name && memcmp(name, s->name, s->n_name) == 0; }

long ti_prom_label(const ti_prom_sample *s, const char *label) {
  const size_t n = strlen(label);
  for (size_t i = 0; i + n + 2 < s->n_labels; i++) {
    if ((i == 0 || s->labels[i - 1] == ',') && memcmp(s->labels + i, label, n) == 0 && s->labels[i + n] == '=' && s->labels[i + n + 1] == '"') {
      char *end;
      const long v = strtol(s->labels + i + n + 2, &end, 10);
      return *end == '"' && v >= 0 ? v : -1;
    }
  }
  return -1;
}

double ti_prom_sum(const char *text, const char *name) {
  ti_prom_sample s;
  double sum = NAN;
  while (ti_prom_next(&text, &s))
    if (ti_prom_is(&s, name)) sum = isnan(sum) ? s.value : sum + s.value;
  return sum;
}
