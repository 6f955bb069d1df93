// Which path is which route, who may call it, and how.
#include <string.h>

#include "coordinator/gateway/gateway_priv.h"

static const ti_route routes[] = {
    {.path = "/health", .get = true, .open = true, .quick = ti_route_health},
    {.path = "/", .get = true, .open = true, .quick = ti_route_page},
    {.path = "/ping", .get = true, .post = true, .quick = ti_route_ping},
    {.path = "/version", .get = true, .quick = ti_route_version},
    {.path = "/metrics", .get = true, .quick = ti_route_metrics},
    {.path = "/v1/models", .get = true, .quick = ti_route_models},
    {.path = "/v1/models/", .prefix = true, .get = true, .quick = ti_route_model},
    {.path = "/v1/completions", .post = true, .slow = ti_route_completions},
    {.path = "/v1/chat/completions", .post = true, .slow = ti_route_chat},
    {.path = "/tokenize", .post = true, .slow = ti_route_tokenize},
    {.path = "/detokenize", .post = true, .slow = ti_route_detokenize},
};

const ti_route *ti_router_find(const char *path) {
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
    const ti_route *r = &routes[i];
    const size_t n = strlen(r->path);
    if (r->prefix ? strncmp(path, r->path, n) == 0 && path[n] : strcmp(path, r->path) == 0) return r;
  }
  return NULL;
}

// Compares in a time that depends on the given text's length only.
static bool key_is(const char *key, size_t n, const char *given) {
  const size_t m = strlen(given);
  unsigned diff = n != m;
  for (size_t i = 0; i < m; i++) diff |= (unsigned char)given[i] ^ (unsigned char)key[n ? i % n : 0];
  return diff == 0;
}

unsigned ti_router_admit(ti_call *c, const char *path, const char *method, const char *authorization) {
  const ti_gateway *g = c->gw;
  const ti_route *r = ti_router_find(path);
  if (!r) {
    ti_call_fail(c, 404, NULL, NULL, "%.80s: no such route", path);
    return 404;
  }
  c->route = r;
  const bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0, post = strcmp(method, "POST") == 0;
  if (strcmp(method, "OPTIONS") == 0 && g->cfg.cors_origin) {
    ti_buf none = {0};
    ti_call_reply(c, 204, NULL, &none);
    return 204;
  }
  if (!(get && r->get) && !(post && r->post)) {
    c->allow = r->get ? (r->post ? "GET, HEAD, POST" : "GET, HEAD") : "POST";
    ti_call_fail(c, 405, NULL, NULL, "%s does not take %.16s, only %s", r->path, method, c->allow);
    return 405;
  }
  if (r->open || !g->api_key_len) return 0;
  const bool bearer = authorization && strncasecmp(authorization, "Bearer ", 7) == 0;
  if (bearer && key_is(g->cfg.api_key, g->api_key_len, authorization + 7)) return 0;
  ti_call_fail(c, 401, NULL, "invalid_api_key",
               bearer ? "the API key is not the server's" : "an API key is wanted: send it as \"Authorization: Bearer <key>\"");
  return 401;
}
