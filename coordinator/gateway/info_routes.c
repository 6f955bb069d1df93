// Routes that need no text: health, models, metrics, version, ping, the page. They run on MHD's threads and only copy what others published.
#include <inttypes.h>
#include <string.h>

#include "coordinator/gateway/gateway_priv.h"
#include "coordinator/gateway/page.h"

#define INFO_MAX_BYTES ((size_t)16 << 20)

static void reply_text(ti_call *c, unsigned status, const char *type, const char *text) {
  ti_buf b;
  ti_buf_init(&b, INFO_MAX_BYTES);
  ti_buf_puts(&b, text);
  ti_call_reply(c, status, type, &b);
}

static void put_rank(const ti_coord_rank *r, uint32_t rank, ti_buf *b) {
  ti_buf_printf(b,
                "{\"rank\":%" PRIu32 ",\"up\":%s,\"healthy\":%s,\"step\":%" PRIu64 ",\"age_ms\":%" PRIu32 ",\"in_step_us\":%" PRIu32
                ",\"step_us\":%" PRIu32 ",\"kv_bytes\":%" PRIu64 ",\"weight_bytes\":%" PRIu64 ",\"rss_bytes\":%" PRIu64,
                rank, r->up ? "true" : "false", r->healthy ? "true" : "false", r->step, r->age_ms, r->in_step_us, r->step_us, r->kv_bytes,
                r->weight_bytes, r->rss_bytes);
  const struct {
    const char *name, *text;
    size_t cap;
  } t[] = {{"device", r->device, sizeof r->device}, {"host", r->host, sizeof r->host}, {"doing", r->doing, sizeof r->doing}};
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    ti_buf_printf(b, ",\"%s\":", t[i].name);
    ti_buf_json_string(b, t[i].text, strnlen(t[i].text, t[i].cap));
  }
  ti_buf_putc(b, '}');
}

void ti_route_health(ti_call *c) {
  const ti_backend *be = &c->gw->cfg.backend;
  ti_coord_status s = {0};
  be->status(be->self, &s);
  const bool ok = s.ready && s.healthy && !s.draining;
  ti_buf b;
  ti_buf_init(&b, INFO_MAX_BYTES);
  ti_buf_printf(&b,
                "{\"status\":\"%s\",\"ready\":%s,\"healthy\":%s,\"draining\":%s,\"running\":%" PRIu32 ",\"waiting\":%" PRIu32 ",\"pages\":%" PRIu32
                ",\"pages_used\":%" PRIu32 ",\"steps\":%" PRIu64 ",\"message\":",
                ok           ? "ok"
                : s.draining ? "draining"
                : !s.ready   ? "starting"
                             : "unhealthy",
                s.ready ? "true" : "false", s.healthy ? "true" : "false", s.draining ? "true" : "false", s.running, s.waiting, s.pages, s.pages_used,
                s.steps);
  ti_buf_json_string(&b, s.message, strnlen(s.message, sizeof s.message));
  ti_buf_puts(&b, ",\"ranks\":[");
  const uint32_t cap = sizeof s.rank / sizeof *s.rank;
  for (uint32_t i = 0; i < s.n_rank && i < cap; i++) {
    if (i) ti_buf_putc(&b, ',');
    put_rank(&s.rank[i], 1 + i, &b);
  }
  ti_buf_puts(&b, "]}");
  ti_call_reply(c, ok ? 200 : 503, "application/json", &b);
}

void ti_route_ping(ti_call *c) { reply_text(c, 200, "text/plain; charset=utf-8", "pong\n"); }
void ti_route_version(ti_call *c) { reply_text(c, 200, "application/json", "{\"version\":\"" TI_VERSION "\"}"); }

void ti_route_metrics(ti_call *c) {
  if (!c->gw->cfg.metrics) {
    ti_call_fail(c, 404, NULL, NULL, "/metrics: this server keeps no metrics");
    return;
  }
  ti_buf b;
  ti_buf_init(&b, INFO_MAX_BYTES);
  if (ti_metrics_render(c->gw->cfg.metrics, &b) == TI_OK) {
    ti_call_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
  } else {
    ti_buf_fini(&b);
    ti_call_fail(c, 500, NULL, NULL, "/metrics: larger than %zu bytes", INFO_MAX_BYTES);
  }
}

static void put_model(const ti_gateway *g, const char *name, ti_buf *b) {
  ti_buf_puts(b, "{\"id\":");
  ti_buf_json_string(b, name, strlen(name));
  ti_buf_printf(b, ",\"object\":\"model\",\"created\":%" PRIu64 ",\"owned_by\":\"titaninfer\",\"root\":", g->created_s);
  ti_buf_json_string(b, g->cfg.model_names[0], strlen(g->cfg.model_names[0]));
  ti_buf_printf(b, ",\"parent\":null,\"max_model_len\":%" PRIu32 "}", g->cfg.model.lim.max_model_len);
}

void ti_route_models(ti_call *c) {
  const ti_gateway *g = c->gw;
  ti_buf b;
  ti_buf_init(&b, INFO_MAX_BYTES);
  ti_buf_puts(&b, "{\"object\":\"list\",\"data\":[");
  for (uint32_t i = 0; i < g->cfg.n_model_names; i++) {
    if (i) ti_buf_putc(&b, ',');
    put_model(g, g->cfg.model_names[i], &b);
  }
  ti_buf_puts(&b, "]}");
  ti_call_reply(c, 200, "application/json", &b);
}

bool ti_model_is_served(ti_call *c, const char *name) {
  const ti_gateway_config *cfg = &c->gw->cfg;
  if (!name || !*name) return true;
  for (uint32_t i = 0; i < cfg->n_model_names; i++) {
    if (strcmp(name, cfg->model_names[i]) == 0) return true;
  }
  ti_call_fail(c, 404, "model", "model_not_found", "model: \"%.120s\" is not served here; \"%.120s\" is", name, cfg->model_names[0]);
  return false;
}

void ti_route_model(ti_call *c) {
  const char *name = c->url + strlen(c->route->path);
  if (!ti_model_is_served(c, name)) return;
  ti_buf b;
  ti_buf_init(&b, INFO_MAX_BYTES);
  put_model(c->gw, name, &b);
  ti_call_reply(c, 200, "application/json", &b);
}

void ti_route_page(ti_call *c) {
  size_t n = 0;
  const char *page = c->gw->cfg.ui ? ti_page(&n) : NULL;
  if (!page) {
    ti_call_fail(c, 404, NULL, NULL, "/: no page here; the API is under /v1");
    return;
  }
  ti_buf b;
  ti_buf_init(&b, INFO_MAX_BYTES);
  ti_buf_append(&b, page, n);
  ti_call_reply(c, 200, "text/html; charset=utf-8", &b);
}
