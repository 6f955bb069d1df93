// The engine of `titan bench`: one thread, one epoll loop, a connection a request in flight (kept open for the next one). See bench.h.
//
//   FREE -> CONNECTING -> SENDING -> READING -> IDLE (kept) -> SENDING ...         any failure -> FREE, the request counts as failed
//
// A kept connection that dies before the first byte of an answer was closed by the server while idle: the request goes once more on a fresh one.
// Time stamps are taken right after recv(), before anything is parsed.
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "client/tool/bench.h"

enum { READ_BYTES = 262144, EVENTS = 256, ERROR_BODY = 4096, BODY_MAX = 64 << 20, TICK_MS = 200, BAR = 30 };
typedef enum conn_state { FREE, CONNECTING, SENDING, READING, IDLE } conn_state;

typedef struct engine engine;
typedef struct conn {
  engine *e;
  conn_state state;
  int fd;
  uint32_t item;
  bool kept, any_byte;  // kept: the connection served a request before; any_byte: of this answer
  bool parser_ready, stream_ended, usage;
  size_t n_sent;
  uint64_t moved_us, read_us;  // last progress; time of the last recv
  ti_buf out, error_body;
  ti_http_parser parser;
  ti_sse sse;
  ti_error err;
} conn;

struct engine {
  const ti_bench_run_options *o;
  const ti_bench_load *l;
  ti_bench_result *r;
  conn *conn;           // [o->concurrency]
  uint32_t *free_list;  // stack of FREE and IDLE connections: [n_free]; the last one put is the first one taken
  uint32_t n_free, next, finished, active;
  int epoll;
  uint64_t begin_us;
  struct sockaddr_storage addr;
  socklen_t addr_len;
  int family;
};

static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) { interrupted = 1; }

static uint32_t error_index(ti_bench_errors *e, const char *text) {
  uint32_t i = 0;
  while (i < e->n && strncmp(e->text[i], text, sizeof(e->text[i]) - 1) != 0) i++;
  if (i == e->n) {
    if (i == sizeof(e->count) / sizeof(*e->count))
      i--;
    else
      snprintf(e->text[e->n++], sizeof(e->text[0]), "%.199s", text);
  }
  e->count[i]++;
  return i + 1;
}

static ti_status add_gap(ti_bench_result *r, uint64_t us) {
  if (r->n_gap == r->cap_gap) {
    const size_t want = r->cap_gap ? r->cap_gap * 2 : 65536;
    uint32_t *p = realloc(r->gap_us, want * sizeof(*p));
    if (!p) return TI_ERR_NOMEM;
    r->gap_us = p;
    r->cap_gap = want;
  }
  r->gap_us[r->n_gap++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
  return TI_OK;
}

// ---- answers ----

static ti_status take_text(conn *c) {
  ti_bench_sample *s = &c->e->r->sample[c->item];
  const uint64_t at = c->read_us - c->e->begin_us - s->start_us;
  ti_status st = TI_OK;
  if (s->n_event == 0)
    s->ttft_us = at;
  else
    st = add_gap(c->e->r, at - s->last_us);
  s->last_us = at;
  s->n_event++;
  return st;
}

static ti_status take_event(void *arg, const char *data, size_t n) {
  conn *c = arg;
  ti_bench_sample *s = &c->e->r->sample[c->item];
  if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
    c->stream_ended = true;
    return TI_OK;
  }
  json_t *doc = NULL;
  ti_status st = ti_json_parse(data, n, &doc, &c->err);
  if (ti_failed(st)) return ti_error_prefix(&c->err, "an event of the stream");
  const json_t *error = json_object_get(doc, "error"), *usage = json_object_get(doc, "usage");
  const json_t *choice = json_array_get(json_object_get(doc, "choices"), 0);
  const json_t *delta = json_object_get(choice, "delta");
  const json_t *text = delta ? json_object_get(delta, "content") : json_object_get(choice, "text");
  const json_t *thought = json_object_get(delta, "reasoning_content");
  if (json_is_object(error)) {
    const char *m = json_string_value(json_object_get(error, "message"));
    st = ti_error_set(&c->err, TI_ERR_ABORTED, "error in the stream: %s", m ? m : "(no message)");
  } else if (json_string_length(text) || json_string_length(thought)) {
    st = take_text(c);
  }
  if (json_is_string(json_object_get(choice, "finish_reason"))) c->stream_ended = true;
  if (json_is_object(usage) && json_is_integer(json_object_get(usage, "completion_tokens"))) {
    c->usage = true;
    s->n_token = (uint32_t)json_integer_value(json_object_get(usage, "completion_tokens"));
    s->n_prompt = (uint32_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
  }
  json_decref(doc);
  return st;
}

static ti_status take_body(void *arg, const char *bytes, size_t n) {
  conn *c = arg;
  if (c->parser.status == 200 && c->parser.event_stream) return ti_sse_feed(&c->sse, bytes, n);
  const size_t room = ERROR_BODY - c->error_body.len;
  return ti_buf_append(&c->error_body, bytes, n < room ? n : room);
}

// ---- connections ----

static void watch(conn *c, uint32_t events, int op) {
  struct epoll_event ev = {.events = events, .data.ptr = c};
  epoll_ctl(c->e->epoll, op, c->fd, &ev);
}

static void drop(conn *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
  c->state = FREE;
}

static void give_back(conn *c) {
  engine *e = c->e;
  e->free_list[e->n_free++] = (uint32_t)(c - e->conn);
  e->active--;
  e->finished++;
}

static void fail(conn *c) {
  ti_bench_sample *s = &c->e->r->sample[c->item];
  s->error = error_index(&c->e->r->errors, c->err.text[0] ? c->err.text : ti_status_text(c->err.code));
  s->e2e_us = ti_mono_us() - c->e->begin_us - s->start_us;
  drop(c);
  give_back(c);
}

static void fail_with(conn *c, ti_status code, const char *text) {
  ti_error_set(&c->err, code, "%s", text);
  fail(c);
}

static void send_more(conn *c) {
  while (c->n_sent < c->out.len) {
    const ssize_t n = send(c->fd, c->out.data + c->n_sent, c->out.len - c->n_sent, MSG_NOSIGNAL);
    if (n > 0) {
      c->n_sent += (size_t)n;
      c->moved_us = ti_mono_us();
    } else if (n < 0 && errno == EAGAIN) {
      watch(c, EPOLLOUT | EPOLLIN, EPOLL_CTL_MOD);
      return;
    } else if (n < 0 && errno != EINTR) {
      break;  // an answer (413, 429) may stand in the socket nevertheless
    }
  }
  c->state = READING;
  watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

static void dial(conn *c) {
  engine *e = c->e;
  const int one = 1;
  c->kept = false;
  c->n_sent = 0;
  c->fd = socket(e->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) {
    fail_with(c, TI_ERR_IO, strerror(errno));
    return;
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  const int rc = connect(c->fd, (const struct sockaddr *)&e->addr, e->addr_len);
  if (rc != 0 && errno != EINPROGRESS) {
    fail_with(c, TI_ERR_PEER, strerror(errno));
    return;
  }
  c->state = CONNECTING;
  watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void connected(conn *c) {
  int why = 0;
  socklen_t n = sizeof(why);
  if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &why, &n) != 0 || why) {
    fail_with(c, TI_ERR_PEER, why ? strerror(why) : "connect");
    return;
  }
  c->state = SENDING;
  send_more(c);
}

static void start(engine *e, uint32_t item) {
  conn *c = &e->conn[e->free_list[--e->n_free]];
  ti_bench_sample *s = &e->r->sample[item];
  const uint64_t now = ti_mono_us();
  const uint64_t due = e->o->open_loop ? (uint64_t)(e->l->item[item].at_s * 1e6) : now - e->begin_us;
  const double late = (double)(now - e->begin_us) / 1e6 - (double)due / 1e6;
  if (late > e->r->late_max_s) e->r->late_max_s = late;
  *s = (ti_bench_sample){.start_us = due, .n_prompt = e->l->item[item].n_in, .sent = true};
  e->active++;
  if (e->active > e->r->in_flight_max) e->r->in_flight_max = e->active;
  c->item = item;
  c->any_byte = c->stream_ended = c->usage = false;
  c->n_sent = 0;
  c->moved_us = now;
  c->err = (ti_error){0};
  if (!c->parser_ready) {
    ti_buf_init(&c->out, BODY_MAX);
    ti_buf_init(&c->error_body, ERROR_BODY);
    ti_http_parser_init(&c->parser, take_body, c);
    ti_sse_init(&c->sse, take_event, c);
    c->parser_ready = true;
  }
  ti_buf_reset(&c->out);
  ti_buf_reset(&c->error_body);
  ti_http_parser_reset(&c->parser);
  ti_sse_reset(&c->sse);
  ti_buf body;
  ti_buf_init(&body, BODY_MAX - 65536);
  ti_status st = ti_bench_body(e->l, item, e->o->body, &body);
  const ti_http_request r = {.method = "POST", .path = e->o->path, .api_key = e->o->api_key, .body = ti_buf_str(&body), .n_body = body.len};
  if (!ti_failed(st)) st = ti_http_format(&e->o->url, &r, &c->out);
  ti_buf_fini(&body);
  if (ti_failed(st)) {
    fail_with(c, st, "the request's body is too large, or its API key holds blanks");
    return;
  }
  c->kept = c->state == IDLE;
  if (!c->kept) {
    dial(c);
    return;
  }
  c->state = SENDING;
  send_more(c);
}

// The whole answer is there.
static void answered(conn *c) {
  ti_bench_sample *s = &c->e->r->sample[c->item];
  s->e2e_us = c->read_us - c->e->begin_us - s->start_us;
  if (!c->usage) s->n_token = s->n_event;
  if (c->parser.status / 100 != 2) {
    ti_http_refusal(c->parser.status, ti_buf_str(&c->error_body), c->error_body.len, &c->err);
    s->error = error_index(&c->e->r->errors, c->err.text);
  } else if (!c->stream_ended) {
    s->error = error_index(&c->e->r->errors, c->parser.event_stream ? "the stream ended without a finish_reason" : "the answer is no event stream");
  }
  if (c->parser.keep_alive)
    c->state = IDLE;
  else
    drop(c);
  give_back(c);
}

static void read_more(conn *c) {
  static char bytes[READ_BYTES];
  while (c->state == READING || c->state == SENDING) {
    const ssize_t n = recv(c->fd, bytes, sizeof(bytes), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    c->read_us = c->moved_us = ti_mono_us();
    if (n <= 0 && c->kept && !c->any_byte) {
      drop(c);
      dial(c);
      return;
    }
    c->any_byte = true;
    ti_status st;
    if (n < 0)
      st = ti_error_set(&c->err, TI_ERR_PEER, "reading: %s", strerror(errno));
    else if (n == 0)
      st = ti_http_parser_eof(&c->parser, &c->err);
    else
      st = ti_http_parser_feed(&c->parser, bytes, (size_t)n, NULL, &c->err);
    if (ti_failed(st)) {
      fail(c);
      return;
    }
    if (c->parser.done) {
      answered(c);
      return;
    }
  }
}

static void handle(conn *c, uint32_t events) {
  if (c->state == CONNECTING)
    connected(c);
  else if (c->state == IDLE)
    drop(c);  // closed by the server, or bytes that nobody asked for
  else {
    if (c->state == SENDING && (events & EPOLLOUT)) send_more(c);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_more(c);
  }
}

// ---- the loop ----

static void show_progress(const engine *e) {
  const uint32_t n = e->l->n;
  const double s = (double)(ti_mono_us() - e->begin_us) / 1e6;
  char bar[BAR + 1];
  for (int i = 0; i < BAR; i++) bar[i] = (uint64_t)e->finished * BAR > (uint64_t)i * n ? '#' : '.';
  bar[BAR] = 0;
  uint32_t failed = 0;
  for (uint32_t i = 0; i < e->r->errors.n; i++) failed += e->r->errors.count[i];
  fprintf(stderr, "\r[%s] %u/%u  %u in flight  %u failed  %.0f s ", bar, e->finished, n, e->active, failed, s);
}

static void check_timeouts(engine *e) {
  const uint64_t now = ti_mono_us();
  const uint64_t limit = (uint64_t)(e->o->timeout_s * 1e6);
  for (uint32_t i = 0; i < e->o->concurrency; i++) {
    conn *c = &e->conn[i];
    if (c->state == CONNECTING || c->state == SENDING || c->state == READING)
      if (now - c->moved_us > limit) fail_with(c, TI_ERR_TIMEOUT, "timed out");
  }
}

// Milliseconds until something is due.
static int wait_ms(const engine *e) {
  if (e->next >= e->l->n || e->n_free == 0 || interrupted || !e->o->open_loop) return TICK_MS;
  const double due = e->l->item[e->next].at_s - (double)(ti_mono_us() - e->begin_us) / 1e6;
  return due <= 0 ? 0 : due * 1000 < TICK_MS ? (int)(due * 1000) : TICK_MS;
}

static bool is_due(const engine *e) {
  if (e->next >= e->l->n || e->n_free == 0 || interrupted) return false;
  return !e->o->open_loop || (double)(ti_mono_us() - e->begin_us) / 1e6 >= e->l->item[e->next].at_s;
}

static void loop(engine *e) {
  struct epoll_event ev[EVENTS];
  uint64_t tick_us = 0;
  while (e->finished < e->l->n) {
    while (is_due(e)) start(e, e->next++);
    if (interrupted) break;
    const int n = epoll_wait(e->epoll, ev, EVENTS, wait_ms(e));
    for (int i = 0; i < n; i++) handle(ev[i].data.ptr, ev[i].events);
    const uint64_t now = ti_mono_us();
    if (now - tick_us < TICK_MS * 1000u) continue;
    tick_us = now;
    check_timeouts(e);
    if (e->o->progress) show_progress(e);
  }
  e->r->wall_s = (double)(ti_mono_us() - e->begin_us) / 1e6;
  e->r->interrupted = interrupted;
  if (e->o->progress) {
    show_progress(e);
    fputc('\n', stderr);
  }
}

static ti_status resolve(engine *e, ti_error *err) {
  ti_http_url url = e->o->url;
  int fd;
  ti_status st = ti_http_connect(&url, 10000, &fd, err);  // tells which of the host's addresses answers
  if (ti_failed(st)) return st;
  e->addr_len = sizeof(e->addr);
  if (getpeername(fd, (struct sockaddr *)&e->addr, &e->addr_len) != 0) st = ti_error_set(err, TI_ERR_PEER, "%s: %s", url.host, strerror(errno));
  e->family = e->addr.ss_family;
  close(fd);
  return st;
}

static void raise_file_limit(void) {
  struct rlimit l;
  if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
  }
}

// What was in flight when the run was interrupted counts neither as done nor as failed.
static void forget_unfinished(engine *e) {
  for (uint32_t i = 0; i < e->o->concurrency; i++) {
    conn *c = &e->conn[i];
    if (c->state != FREE && c->state != IDLE) e->r->sample[c->item].sent = false;
  }
}

ti_status ti_bench_run(const ti_bench_run_options *o, const ti_bench_load *l, ti_bench_result *out, ti_error *err) {
  memset(out, 0, sizeof(*out));
  engine e = {.o = o, .l = l, .r = out, .epoll = -1};
  ti_status st = resolve(&e, err);
  if (ti_failed(st)) return st;
  raise_file_limit();
  out->sample = calloc(l->n, sizeof(*out->sample));
  e.conn = calloc(o->concurrency, sizeof(*e.conn));
  e.free_list = calloc(o->concurrency, sizeof(*e.free_list));
  e.epoll = epoll_create1(EPOLL_CLOEXEC);
  if (!out->sample || !e.conn || !e.free_list || e.epoll < 0) {
    st = ti_error_set(err, TI_ERR_NOMEM, "no memory for %u connections", o->concurrency);
    goto end;
  }
  for (uint32_t i = 0; i < o->concurrency; i++) {
    e.conn[i].e = &e;
    e.conn[i].fd = -1;
    e.free_list[e.n_free++] = o->concurrency - 1 - i;
  }
  struct sigaction act = {.sa_handler = on_interrupt}, before;
  interrupted = 0;
  sigaction(SIGINT, &act, &before);
  e.begin_us = ti_mono_us();
  loop(&e);
  sigaction(SIGINT, &before, NULL);
  forget_unfinished(&e);
end:
  for (uint32_t i = 0; e.conn && i < o->concurrency; i++) {
    conn *c = &e.conn[i];
    if (c->fd >= 0) close(c->fd);
    if (!c->parser_ready) continue;
    ti_buf_fini(&c->out);
    ti_buf_fini(&c->error_body);
    ti_http_parser_fini(&c->parser);
    ti_sse_fini(&c->sse);
  }
  if (e.epoll >= 0) close(e.epoll);
  free(e.free_list);
  free(e.conn);
  return st;
}

void ti_bench_result_fini(ti_bench_result *r) {
  free(r->sample);
  free(r->gap_us);
  memset(r, 0, sizeof(*r));
}
