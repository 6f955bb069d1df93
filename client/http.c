// The half of the HTTP client that has sockets: connect, one blocking exchange, error bodies. Every wait is a poll() with a bound.
#include "client/http.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"

enum { DEFAULT_TIMEOUT_MS = 600000, READ_BYTES = 65536 };

static bool is_clean(const char *s) {
  for (; *s; s++)
    if ((unsigned char)*s < 0x21 || *s == 127) return false;
  return true;
}

ti_status ti_http_format(const ti_http_url *url, const ti_http_request *r, ti_buf *out) {
  const bool v6 = strchr(url->host, ':') != NULL;
  if (!is_clean(r->path) || (r->api_key && !is_clean(r->api_key))) return TI_ERR_ARG;
  ti_buf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: titan/%s\r\nAccept: */*\r\n", r->method, url->base, r->path, v6 ? "[" : "",
                url->host, v6 ? "]" : "", url->port, TI_VERSION);
  if (r->api_key && *r->api_key) ti_buf_printf(out, "Authorization: Bearer %s\r\n", r->api_key);
  if (r->close) ti_buf_puts(out, "Connection: close\r\n");
  if (r->body) ti_buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", r->n_body);
  ti_buf_puts(out, "\r\n");
  if (r->body) ti_buf_append(out, r->body, r->n_body);
  return out->failed ? TI_ERR_FULL : TI_OK;
}

// TI_OK: ready for `events`.
static ti_status wait_fd(int fd, short events, uint32_t timeout_ms) {
  struct pollfd p = {.fd = fd, .events = events};
  for (;;) {
    const int rc = poll(&p, 1, timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms);
    if (rc > 0) return TI_OK;
    if (rc == 0) return TI_ERR_TIMEOUT;
    if (errno != EINTR) return TI_ERR_IO;
  }
}

static ti_status connect_one(const struct addrinfo *a, uint32_t timeout_ms, int *out, int *why) {
  const int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
  if (fd < 0) {
    *why = errno;
    return TI_ERR_IO;
  }
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
    int e = errno;
    socklen_t n = sizeof(e);
    if (e == EINPROGRESS) {
      const ti_status st = wait_fd(fd, POLLOUT, timeout_ms);
      if (st == TI_ERR_TIMEOUT)
        e = ETIMEDOUT;
      else if (st != TI_OK || getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0)
        e = EIO;
    }
    if (e) {
      close(fd);
      *why = e;
      return e == ETIMEDOUT ? TI_ERR_TIMEOUT : TI_ERR_PEER;
    }
  }
  *out = fd;
  return TI_OK;
}

ti_status ti_http_connect(const ti_http_url *url, uint32_t timeout_ms, int *fd, ti_error *err) {
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *list = NULL;
  const int rc = getaddrinfo(url->host, url->port, &hints, &list);
  if (rc != 0) return ti_error_set(err, TI_ERR_NOTFOUND, "%s: %s", url->host, gai_strerror(rc));
  ti_status st = TI_ERR_PEER;
  int why = EHOSTUNREACH;
  for (const struct addrinfo *a = list; a; a = a->ai_next) {
    st = connect_one(a, timeout_ms, fd, &why);
    if (st == TI_OK) break;
  }
  freeaddrinfo(list);
  if (st != TI_OK) return ti_error_set(err, st, "cannot connect to %s:%s: %s", url->host, url->port, strerror(why));
  return TI_OK;
}

static ti_status send_all(int fd, const char *p, size_t n, uint32_t timeout_ms, ti_error *err) {
  while (n) {
    const ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
    if (w > 0) {
      p += w;
      n -= (size_t)w;
    } else if (w < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (errno == EAGAIN && wait_fd(fd, POLLOUT, timeout_ms) != TI_OK)
        return ti_error_set(err, TI_ERR_TIMEOUT, "the server took no bytes for %u ms", timeout_ms);
    } else {
      return TI_OK;  // it may have answered before it closed (401, 413): the reading side tells
    }
  }
  return TI_OK;
}

typedef struct exchange {
  const ti_http_request *r;
  ti_http_reply *out;
  ti_http_parser p;
} exchange;

static ti_status take_body(void *arg, const char *bytes, size_t n) {
  exchange *x = arg;
  if (x->r->on_body && x->p.status / 100 == 2) return x->r->on_body(x->r->arg, bytes, n);
  return ti_buf_append(&x->out->body, bytes, n);
}

static ti_status read_reply(int fd, exchange *x, uint32_t timeout_ms, ti_error *err) {
  char bytes[READ_BYTES];
  while (!x->p.done) {
    const ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      if (wait_fd(fd, POLLIN, timeout_ms) != TI_OK) return ti_error_set(err, TI_ERR_TIMEOUT, "the server was silent for %u ms", timeout_ms);
      continue;
    }
    if (n < 0) return ti_error_set(err, TI_ERR_PEER, "reading the response: %s", strerror(errno));
    const ti_status st = n ? ti_http_parser_feed(&x->p, bytes, (size_t)n, NULL, err) : ti_http_parser_eof(&x->p, err);
    if (ti_failed(st)) return st;
  }
  return TI_OK;
}

ti_status ti_http_perform(const ti_http_url *url, const ti_http_request *r, ti_http_reply *out, ti_error *err) {
  const uint32_t timeout_ms = r->timeout_ms ? r->timeout_ms : DEFAULT_TIMEOUT_MS;
  memset(out, 0, sizeof(*out));
  ti_buf_init(&out->body, r->max_body ? r->max_body : 64u << 20);
  ti_buf head;
  ti_buf_init(&head, r->n_body + 8192);
  ti_http_request closing = *r;
  closing.close = true;
  exchange x = {.r = r, .out = out};
  ti_http_parser_init(&x.p, take_body, &x);
  int fd = -1;
  ti_error why = {0};
  ti_status st = ti_http_format(url, &closing, &head);
  if (ti_failed(st)) ti_error_set(&why, st, "the path or the API key holds blanks or control characters, or is too long");
  if (!ti_failed(st)) st = ti_http_connect(url, timeout_ms, &fd, &why);
  if (!ti_failed(st)) st = send_all(fd, head.data, head.len, timeout_ms, &why);
  if (!ti_failed(st)) st = read_reply(fd, &x, timeout_ms, &why);
  if (ti_failed(st) && err) *err = why;
  out->status = x.p.status;
  out->retry_after_s = x.p.retry_after_s;
  if (fd >= 0) close(fd);
  ti_http_parser_fini(&x.p);
  ti_buf_fini(&head);
  return st;
}

void ti_http_reply_fini(ti_http_reply *r) { ti_buf_fini(&r->body); }

ti_status ti_http_refusal(int status, const char *body, size_t n, ti_error *err) {
  const ti_status code = status == 401 || status == 403 ? TI_ERR_AUTH
                         : status == 429                ? TI_ERR_FULL
                         : status == 503                ? TI_ERR_CLOSED
                         : status == 404                ? TI_ERR_NOTFOUND
                                                        : TI_ERR_ARG;
  json_t *root = NULL;
  const char *text = NULL;
  if (!ti_failed(ti_json_parse(body, n, &root, NULL)) && json_is_object(root)) {
    const json_t *e = json_object_get(root, "error");
    text = json_string_value(json_is_object(e) ? json_object_get(e, "message") : e);
    if (!text) text = json_string_value(json_object_get(root, "message"));
    if (!text) text = json_string_value(json_object_get(root, "detail"));
  }
  if (text)
    ti_error_set(err, code, "HTTP %d: %s", status, text);
  else
    ti_error_set(err, code, "HTTP %d: %.*s", status, n > 300 ? 300 : (int)n, body);
  json_decref(root);
  return code;
}
