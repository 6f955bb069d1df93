// `titan status`: the cluster's ranks and queues, once.
#include "client/tool/cluster.h"

static json_t *to_json(const ti_cluster *c) {
  json_t *ranks = json_array();
  for (uint32_t i = 0; i < c->n_rank; i++) {
    const ti_cluster_rank *r = &c->rank[i];
    json_array_append_new(
        ranks, json_pack("{s:i, s:b, s:I, s:i, s:i, s:s, s:s, s:s}", "rank", (int)r->rank, "healthy", r->healthy, "step", (json_int_t)r->step,
                         "step_us", (int)r->step_us, "age_ms", (int)r->age_ms, "device", r->device, "host", r->host, "doing", r->doing));
  }
  return json_pack("{s:s, s:s, s:b, s:s, s:i, s:i, s:i, s:i, s:I, s:I, s:o}", "model", c->model, "status", c->state, "healthy", c->healthy, "message",
                   c->message, "running", (int)c->running, "waiting", (int)c->waiting, "pages", (int)c->pages, "pages_used", (int)c->pages_used,
                   "steps", (json_int_t)c->steps, "tokens", (json_int_t)c->tokens, "ranks", ranks);
}

int ti_tool_status(int argc, char **argv) {
  ti_server s = TI_SERVER_DEFAULT;
  s.timeout_s = 10;
  bool json = false, metrics = false;
  const ti_opt opts[] = {TI_SERVER_OPTS(s),
                         {"json", NULL, "as JSON", .kind = TI_OPT_FLAG, .target = &json},
                         {"metrics", NULL, "the metrics, as Prometheus reads them", .kind = TI_OPT_FLAG, .target = &metrics},
                         TI_SERVER_TLS_OPTS(s)};
  const ti_command cmd = {"status", NULL, "Shows the cluster's ranks, queues and pages.", "exit status 1 when the cluster is not healthy", 0, 0};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  ti_cluster c;
  const ti_status st = ti_cluster_fetch(&s, true, &c, &err);
  if (!ti_failed(st) && metrics) {
    fputs(ti_buf_str(&c.metrics), stdout);
  } else if (!ti_failed(st) && json) {
    json_t *doc = to_json(&c);
    json_dumpf(doc, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(doc);
  } else if (!ti_failed(st)) {
    ti_cluster_print(&c, stdout);
  }
  const bool healthy = c.healthy;
  ti_cluster_fini(&c);
  return ti_failed(st) ? ti_tool_fail("status", &err) : healthy ? 0 : 1;
}
