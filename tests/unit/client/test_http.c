// The HTTP client's pure half: URLs, responses cut at every byte, events.
#include <criterion/criterion.h>
#include <string.h>

#include "client/http.h"

static ti_status collect(void *arg, const char *bytes, size_t n) { return ti_buf_append(arg, bytes, n); }
static ti_status collect_event(void *arg, const char *data, size_t n) {
  cr_assert_eq(data[n], 0);
  ti_buf_append(arg, data, n);
  return ti_buf_putc(arg, '|');
}

Test(http_url, takes_urls_apart) {
  static const struct {
    const char *text, *host, *port, *base;
  } good[] = {{"http://a.b:81/x/", "a.b", "81", "/x"},
              {"a", "a", "80", ""},
              {"HTTP://h/v1", "h", "80", ""},
              {"http://[::1]:9", "::1", "9", ""},
              {"http://[::1]/p/v1/", "::1", "80", "/p"}};
  for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
    ti_http_url u;
    cr_assert_eq(ti_http_url_parse(good[i].text, &u, NULL), TI_OK, "%s", good[i].text);
    cr_assert_str_eq(u.host, good[i].host);
    cr_assert_str_eq(u.port, good[i].port);
    cr_assert_str_eq(u.base, good[i].base);
  }
  static const char *const bad[] = {"https://a",   "http://",    "http://a:0", "http://a:65536", "http://a:1x",   "http://a:",
                                    "http://[::1", "http://a b", "http://a?b", "http://u@h",     "http://[::1]x", "http://a:123456"};
  for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
    ti_http_url u;
    ti_error err = {0};
    cr_assert(ti_failed(ti_http_url_parse(bad[i], &u, &err)), "%s", bad[i]);
    cr_assert(strstr(err.text, bad[i]) != NULL, "%s", err.text);
  }
}

// The response in two pieces, cut at every byte: status, body and what is left over must not depend on it.
static void check_response(const char *text, int status, const char *body, const char *rest, bool keep_alive) {
  const size_t n = strlen(text);
  for (size_t cut = 0; cut <= n; cut++) {
    ti_http_parser p;
    ti_buf got;
    size_t a = 0, b = 0;
    ti_buf_init(&got, 1000);
    ti_http_parser_init(&p, collect, &got);
    cr_assert_eq(ti_http_parser_feed(&p, text, cut, &a, NULL), TI_OK);
    if (!p.done) cr_assert_eq(ti_http_parser_feed(&p, text + cut, n - cut, &b, NULL), TI_OK);
    if (!p.done) cr_assert_eq(ti_http_parser_eof(&p, NULL), TI_OK);
    cr_assert_eq(p.status, status);
    cr_assert_str_eq(ti_buf_str(&got), body);
    cr_assert_str_eq(text + a + b, rest);
    cr_assert_eq(p.keep_alive, keep_alive);
    ti_http_parser_fini(&p);
    ti_buf_fini(&got);
  }
}

Test(http_parser, reads_every_framing) {
  check_response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP", 200, "hello", "HTTP", true);
  check_response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nrest", 200,
                 "abc0123456789", "rest", true);
  check_response("HTTP/1.0 404\r\n\r\nuntil the end", 404, "until the end", "", false);
  check_response("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nConnection: Close\r\n\r\n", 204, "", "", false);
  check_response("HTTP/1.1 200 OK\nContent-Length: 2\n\nab", 200, "ab", "", true);
  check_response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", "", true);
}

Test(http_parser, refuses_what_is_no_response) {
  static const char *const bad[] = {"SSH-2.0\r\n",
                                    "HTTP/2 200\r\n",
                                    "HTTP/1.1 20\r\n",
                                    "HTTP/1.1 200 OK\r\nno colon\r\n",
                                    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
                                    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
                                    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
                                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
                                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"};
  for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
    ti_http_parser p;
    ti_error err = {0};
    ti_http_parser_init(&p, NULL, NULL);
    cr_assert(ti_failed(ti_http_parser_feed(&p, bad[i], strlen(bad[i]), NULL, &err)), "%s", bad[i]);
    cr_assert_neq(err.text[0], 0);
    ti_http_parser_fini(&p);
  }
}

Test(http_parser, is_bounded) {
  ti_http_parser p;
  char line[TI_HTTP_LINE_MAX + 2];
  memset(line, 'a', sizeof(line));
  ti_http_parser_init(&p, NULL, NULL);
  cr_assert_eq(ti_http_parser_feed(&p, line, sizeof(line), NULL, NULL), TI_ERR_RANGE);
  ti_http_parser_reset(&p);
  ti_status st = ti_http_parser_feed(&p, "HTTP/1.1 200 OK\r\n", 17, NULL, NULL);
  for (int i = 0; i <= TI_HTTP_HEADERS_MAX && st == TI_OK; i++) st = ti_http_parser_feed(&p, "a: b\r\n", 6, NULL, NULL);
  cr_assert_eq(st, TI_ERR_RANGE);
  ti_http_parser_fini(&p);
}

Test(http_parser, tells_an_early_end) {
  ti_http_parser p;
  ti_http_parser_init(&p, NULL, NULL);
  cr_assert_eq(ti_http_parser_eof(&p, NULL), TI_ERR_PEER);
  const char *text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell";
  cr_assert_eq(ti_http_parser_feed(&p, text, strlen(text), NULL, NULL), TI_OK);
  cr_assert_eq(ti_http_parser_eof(&p, NULL), TI_ERR_PEER);
  ti_http_parser_fini(&p);
}

Test(sse, finds_events_wherever_they_are_cut) {
  static const char text[] = ": ping\n\ndata: one\n\nevent: x\r\ndata:two\r\ndata: three\r\n\r\nid: 3\n\ndata\n\rdata:  four\r\rdata: unfinished\n";
  for (size_t cut = 0; cut < sizeof(text); cut++) {
    ti_sse s;
    ti_buf got;
    ti_buf_init(&got, 1000);
    ti_sse_init(&s, collect_event, &got);
    cr_assert_eq(ti_sse_feed(&s, text, cut), TI_OK);
    cr_assert_eq(ti_sse_feed(&s, text + cut, sizeof(text) - 1 - cut), TI_OK);
    cr_assert_str_eq(ti_buf_str(&got), "one|two\nthree|| four|", "cut %zu: %s", cut, ti_buf_str(&got));
    ti_sse_fini(&s);
    ti_buf_fini(&got);
  }
}

Test(http_format, refuses_header_injection) {
  ti_http_url u;
  ti_buf out;
  ti_buf_init(&out, 1000);
  cr_assert_eq(ti_http_url_parse("http://h", &u, NULL), TI_OK);
  const ti_http_request bad = {.method = "GET", .path = "/", .api_key = "a\r\nX: y"};
  cr_assert_eq(ti_http_format(&u, &bad, &out), TI_ERR_ARG);
  ti_buf_fini(&out);
}
