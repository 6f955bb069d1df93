// The pure half of the HTTP client: URLs, responses and events from bytes. No sockets, so that tests and the fuzzer can cut the bytes anywhere.
//
//   STATUS -> HEADERS -> BODY_LENGTH | BODY_CLOSE | CHUNK_SIZE -> CHUNK_DATA -> CHUNK_END -> ... -> TRAILERS -> (done)
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "client/http.h"

enum { STATUS, HEADERS, BODY_LENGTH, BODY_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS };

// ---- URL ----

static ti_status split_host(const char *text, const char *host, size_t n, ti_http_url *out, ti_error *err) {
  const char *port = NULL;
  size_t n_host = n;
  if (n && host[0] == '[') {
    const char *end = memchr(host, ']', n);
    if (!end) return ti_error_set(err, TI_ERR_ARG, "URL '%s': '[' without ']'", text);
    n_host = (size_t)(end - host) - 1;
    if (end + 1 < host + n && end[1] == ':') port = end + 2;
    host++;
    if (!port && end + 1 < host - 1 + n) return ti_error_set(err, TI_ERR_ARG, "URL '%s': ':port' expected after ']'", text);
  } else {
    const char *colon = memchr(host, ':', n);
    if (colon) {
      port = colon + 1;
      n_host = (size_t)(colon - host);
    }
  }
  const char *end = text + strlen(text);
  const char *slash = strchr(host + n_host, '/');
  if (slash) end = slash;
  if (!n_host || n_host >= sizeof(out->host)) return ti_error_set(err, TI_ERR_ARG, "URL '%s': a host of 1..255 bytes expected", text);
  memcpy(out->host, host, n_host);
  out->host[n_host] = 0;
  memcpy(out->port, "80", 3);
  if (port) {
    const size_t np = (size_t)(end - port);
    unsigned long v = 0;
    for (size_t i = 0; i < np; i++) {
      if (!isdigit((unsigned char)port[i]) || i >= 5) return ti_error_set(err, TI_ERR_ARG, "URL '%s': the port must be 1..65535", text);
      v = v * 10 + (unsigned long)(port[i] - '0');
    }
    if (v < 1 || v > 65535) return ti_error_set(err, TI_ERR_ARG, "URL '%s': the port must be 1..65535", text);
    memcpy(out->port, port, np);
    out->port[np] = 0;
  }
  return TI_OK;
}

ti_status ti_http_url_parse(const char *text, ti_http_url *out, ti_error *err) {
  ti_http_url u = {.host = ""};
  const char *p = text;
  const char *scheme = strstr(p, "://");
  if (scheme) {
    if (strncasecmp(p, "http://", 7) != 0)
      return ti_error_set(err, TI_ERR_UNSUPPORTED, "URL '%s': only http:// is served here (for TLS: tls+tcp:// to the NNG door, or a proxy)", text);
    p += 7;
  }
  for (const char *c = text; *c; c++)
    if ((unsigned char)*c <= ' ' || *c == 127 || *c == '?' || *c == '#' || *c == '@')
      return ti_error_set(err, TI_ERR_ARG, "URL '%s': no blanks, control characters, '?', '#' or '@'", text);
  const size_t n_host = strcspn(p, "/");
  ti_status st = split_host(text, p, n_host, &u, err);
  if (ti_failed(st)) return st;
  const char *base = p + n_host;
  size_t n = strlen(base);
  while (n && base[n - 1] == '/') n--;
  if (n >= 3 && memcmp(base + n - 3, "/v1", 3) == 0) n -= 3;  // OpenAI clients write the base with it; paths here carry it
  if (n >= sizeof(u.base)) return ti_error_set(err, TI_ERR_ARG, "URL '%s': a path of at most %zu bytes", text, sizeof(u.base) - 1);
  memcpy(u.base, base, n);
  *out = u;
  return TI_OK;
}

// ---- response ----

void ti_http_parser_init(ti_http_parser *p, ti_http_sink sink, void *arg) {
  memset(p, 0, sizeof(*p));
  p->sink = sink;
  p->arg = arg;
  p->retry_after_s = -1;
  ti_buf_init(&p->line, TI_HTTP_LINE_MAX);
}

void ti_http_parser_fini(ti_http_parser *p) { ti_buf_fini(&p->line); }

void ti_http_parser_reset(ti_http_parser *p) {
  ti_buf line = p->line;
  ti_buf_reset(&line);
  const ti_http_parser fresh = {.sink = p->sink, .arg = p->arg, .retry_after_s = -1, .line = line};
  *p = fresh;
}

// "HTTP/1.1 200 OK"
static ti_status parse_status(ti_http_parser *p, const char *s, ti_error *err) {
  if (strncmp(s, "HTTP/1.", 7) != 0 || !isdigit((unsigned char)s[7]) || s[8] != ' ' || !isdigit((unsigned char)s[9]) ||
      !isdigit((unsigned char)s[10]) || !isdigit((unsigned char)s[11]) || (s[12] && s[12] != ' '))
    return ti_error_set(err, TI_ERR_FORMAT, "not an HTTP/1.x response: '%.60s'", s);
  p->http10 = s[7] == '0';
  p->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
  p->keep_alive = !p->http10;
  if (p->status < 100) return ti_error_set(err, TI_ERR_FORMAT, "HTTP status %d", p->status);
  return TI_OK;
}

// Whether the comma-separated list holds the word, in any case.
static bool has_word(const char *list, const char *word) {
  const size_t n = strlen(word);
  while (*list) {
    list += strspn(list, " \t,");
    const size_t w = strcspn(list, ", \t;");
    if (w == n && strncasecmp(list, word, n) == 0) return true;
    list += strcspn(list, ",");
  }
  return false;
}

static ti_status parse_header(ti_http_parser *p, char *s, ti_error *err) {
  if (++p->n_header > TI_HTTP_HEADERS_MAX) return ti_error_set(err, TI_ERR_RANGE, "more than %d response headers", TI_HTTP_HEADERS_MAX);
  char *colon = strchr(s, ':');
  if (!colon) return ti_error_set(err, TI_ERR_FORMAT, "response header without ':': '%.60s'", s);
  *colon = 0;
  const char *v = colon + 1 + strspn(colon + 1, " \t");
  if (!strcasecmp(s, "content-length")) {
    char *end;
    const unsigned long long n = isdigit((unsigned char)*v) ? strtoull(v, &end, 10) : 0;
    if (!isdigit((unsigned char)*v) || end[strspn(end, " \t")] || n > (1ull << 50))
      return ti_error_set(err, TI_ERR_FORMAT, "Content-Length: '%.40s'", v);
    if (p->has_length && p->left != n) return ti_error_set(err, TI_ERR_FORMAT, "two different Content-Lengths");
    p->has_length = true;
    p->left = n;
  } else if (!strcasecmp(s, "transfer-encoding")) {
    if (!has_word(v, "chunked")) return ti_error_set(err, TI_ERR_UNSUPPORTED, "Transfer-Encoding: '%.40s' (only chunked)", v);
    p->chunked = true;
  } else if (!strcasecmp(s, "connection")) {
    if (has_word(v, "close")) p->keep_alive = false;
    if (has_word(v, "keep-alive")) p->keep_alive = true;
  } else if (!strcasecmp(s, "content-type")) {
    p->event_stream = strncasecmp(v, "text/event-stream", 17) == 0;
  } else if (!strcasecmp(s, "retry-after")) {
    if (isdigit((unsigned char)*v)) p->retry_after_s = strtod(v, NULL);
  }
  return TI_OK;
}

// The empty line after the headers: which body follows.
static void headers_end(ti_http_parser *p) {
  if (p->status < 200) {  // 100 Continue and the like: the real one follows
    p->status = p->n_header = 0;
    p->has_length = p->chunked = false;
    p->left = 0;
    p->state = STATUS;
    return;
  }
  p->headers_done = true;
  if (p->status == 204 || p->status == 304) {
    p->done = true;
  } else if (p->chunked) {
    p->state = CHUNK_SIZE;
  } else if (p->has_length) {
    p->state = BODY_LENGTH;
    p->done = p->left == 0;
  } else {
    p->state = BODY_CLOSE;
    p->keep_alive = false;
  }
}

static ti_status parse_chunk_size(ti_http_parser *p, const char *s, ti_error *err) {
  char *end;
  const unsigned long long n = isxdigit((unsigned char)*s) ? strtoull(s, &end, 16) : 0;
  if (!isxdigit((unsigned char)*s) || (*end && *end != ';' && *end != ' ' && *end != '\t') || n > (1ull << 50))
    return ti_error_set(err, TI_ERR_FORMAT, "chunk size '%.40s'", s);
  p->left = n;
  p->state = n ? CHUNK_DATA : TRAILERS;
  return TI_OK;
}

static ti_status take_line(ti_http_parser *p, char *s, ti_error *err) {
  switch (p->state) {
    case STATUS:
      p->state = HEADERS;
      return parse_status(p, s, err);
    case HEADERS:
      if (*s) return parse_header(p, s, err);
      headers_end(p);
      return TI_OK;
    case CHUNK_SIZE:
      return parse_chunk_size(p, s, err);
    case CHUNK_END:
      if (*s) return ti_error_set(err, TI_ERR_FORMAT, "a chunk is longer than it says");
      p->state = CHUNK_SIZE;
      return TI_OK;
    default:  // TRAILERS
      if (!*s)
        p->done = true;
      else if (++p->n_header > TI_HTTP_HEADERS_MAX)
        return ti_error_set(err, TI_ERR_RANGE, "more than %d trailers", TI_HTTP_HEADERS_MAX);
      return TI_OK;
  }
}

ti_status ti_http_parser_feed(ti_http_parser *p, const char *bytes, size_t n, size_t *used, ti_error *err) {
  size_t at = 0;
  ti_status st = TI_OK;
  while (at < n && !p->done && !ti_failed(st)) {
    if (p->state == BODY_LENGTH || p->state == CHUNK_DATA || p->state == BODY_CLOSE) {
      size_t take = n - at;
      if (p->state != BODY_CLOSE && take > p->left) take = (size_t)p->left;
      if (p->sink) st = p->sink(p->arg, bytes + at, take);
      if (ti_failed(st) && err && err->code == TI_OK) ti_error_set(err, st, "the response's body was refused: %s", ti_status_text(st));
      at += take;
      if (p->state == BODY_CLOSE) continue;
      p->left -= take;
      if (p->left == 0) {
        if (p->state == BODY_LENGTH)
          p->done = true;
        else
          p->state = CHUNK_END;
      }
      continue;
    }
    const char *nl = memchr(bytes + at, '\n', n - at);
    const size_t take = nl ? (size_t)(nl - bytes) + 1 - at : n - at;
    if (ti_failed(ti_buf_append(&p->line, bytes + at, take)))
      return ti_error_set(err, TI_ERR_RANGE, "a response header line of more than %d bytes", TI_HTTP_LINE_MAX);
    at += take;
    if (!nl) break;
    size_t len = p->line.len - 1;
    if (len && p->line.data[len - 1] == '\r') len--;
    if (memchr(p->line.data, 0, len)) return ti_error_set(err, TI_ERR_FORMAT, "a NUL byte in a response header");
    p->line.data[len] = 0;
    st = take_line(p, p->line.data, err);
    ti_buf_reset(&p->line);
  }
  if (used) *used = at;
  return st;
}

ti_status ti_http_parser_eof(ti_http_parser *p, ti_error *err) {
  if (p->state == BODY_CLOSE) p->done = true;
  if (p->done) return TI_OK;
  return ti_error_set(err, TI_ERR_PEER,
                      p->headers_done ? "the server closed the connection in mid-response" : "the server closed the connection without a response");
}

// ---- events ----

void ti_sse_init(ti_sse *s, ti_sse_sink sink, void *arg) {
  memset(s, 0, sizeof(*s));
  s->sink = sink;
  s->arg = arg;
  ti_buf_init(&s->line, TI_SSE_EVENT_MAX);
  ti_buf_init(&s->data, TI_SSE_EVENT_MAX);
}

void ti_sse_fini(ti_sse *s) {
  ti_buf_fini(&s->line);
  ti_buf_fini(&s->data);
}

void ti_sse_reset(ti_sse *s) {
  ti_buf_reset(&s->line);
  ti_buf_reset(&s->data);
  s->has_data = s->was_cr = false;
}

static ti_status sse_line(ti_sse *s) {
  const char *l = ti_buf_str(&s->line);
  const size_t n = s->line.len;
  if (n == 0) {
    if (!s->has_data) return TI_OK;
    const ti_status st = s->sink(s->arg, ti_buf_str(&s->data), s->data.len);
    ti_buf_reset(&s->data);
    s->has_data = false;
    return st;
  }
  if (n < 4 || memcmp(l, "data", 4) != 0 || (n > 4 && l[4] != ':')) return TI_OK;
  size_t at = n > 4 ? 5 : 4;
  if (at < n && l[at] == ' ') at++;
  if (s->has_data && ti_failed(ti_buf_putc(&s->data, '\n'))) return TI_ERR_RANGE;
  s->has_data = true;
  return ti_failed(ti_buf_append(&s->data, l + at, n - at)) ? TI_ERR_RANGE : TI_OK;
}

// Lines end with LF, CR LF or CR.
ti_status ti_sse_feed(void *arg, const char *bytes, size_t n) {
  ti_sse *s = arg;
  size_t at = 0;
  while (at < n) {
    if (s->was_cr && bytes[at] == '\n') {
      s->was_cr = false;
      at++;
      continue;
    }
    s->was_cr = false;
    size_t end = at;
    while (end < n && bytes[end] != '\n' && bytes[end] != '\r') end++;
    if (ti_failed(ti_buf_append(&s->line, bytes + at, end - at))) return TI_ERR_RANGE;
    at = end;
    if (end == n) break;
    s->was_cr = bytes[end] == '\r';
    at++;
    const ti_status st = sse_line(s);
    ti_buf_reset(&s->line);
    if (ti_failed(st)) return st;
  }
  return TI_OK;
}
