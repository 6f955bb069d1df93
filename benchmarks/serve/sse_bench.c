// sse_bench --model DIR [--clients 1000] [--tps 50] [--seconds 10]: many streams at once, through real sockets, over the fake backend.
//
// One process serves (the gateway), a child reads (one epoll thread), so that each one's CPU can be told apart. Prints the gaps between a stream's
// events, the time to the first one, and the server's CPU. Gate: p99 gap under twice the nominal one, server CPU under 1 core.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hist.h"
#include "coordinator/gateway/gateway.h"
#include "tests/e2e/fake_backend.h"

typedef struct bench {
  uint32_t clients;
  double tps;
  uint32_t seconds;
  const char *model;
  uint16_t port;
  uint32_t http_threads, text_threads;
} bench;

typedef struct stream {
  int fd;
  uint64_t sent_us, last_us;
  uint32_t events;
} stream;

// ---- the child: all clients ----

static int open_stream(const bench *b, uint32_t n_tokens) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(b->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (fd < 0 || connect(fd, (const struct sockaddr *)(const void *)&at, sizeof at) != 0) return -1;
  char body[256], req[512];
  const int n = snprintf(body, sizeof body,
                         "{\"prompt\":%s,\"max_tokens\":%u,\"ignore_eos\":true,\"temperature\":0,\"skip_special_tokens\":false,\"stream\":true}",
                         "\"Once upon a time, there was a little cat in a big house.\"", n_tokens);
  const int m = snprintf(req, sizeof req, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", n, body);
  if (write(fd, req, (size_t)m) != m) return -1;
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

// Counts the events in a piece; a gap is the time between two pieces that carry some, shared by the events of the later one.
static void on_piece(stream *s, const char *data, size_t n, uint64_t now, ti_hist *gap, ti_hist *ttft) {
  uint32_t events = 0;
  for (const char *at = data; (at = memmem(at, n - (size_t)(at - data), "data: ", 6)); at += 6) events++;
  if (!events) return;
  if (s->last_us) {
    ti_hist_add(gap, now - s->last_us);
  } else {
    ti_hist_add(ttft, now - s->sent_us);
  }
  s->last_us = now;
  s->events += events;
}

static int run_clients(const bench *b, int start_fd) {
  stream *s = calloc(b->clients, sizeof *s);
  static ti_hist gap, ttft;
  static char buf[1 << 16];
  const int ep = epoll_create1(0);
  char go;
  if (!s || ep < 0 || read(start_fd, &go, 1) != 1) return 1;
  ti_hist_reset(&gap);
  ti_hist_reset(&ttft);
  for (uint32_t i = 0; i < b->clients; i++) {
    s[i].sent_us = ti_mono_us();
    s[i].fd = open_stream(b, (uint32_t)(b->tps * b->seconds));
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = i};
    if (s[i].fd < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, s[i].fd, &ev)) {
      fprintf(stderr, "client %u: %s\n", i, strerror(errno));
      return 1;
    }
  }
  uint32_t open = b->clients;
  uint64_t events = 0;
  const uint64_t deadline = ti_mono_us() + (b->seconds + 30) * 1000000ull;
  while (open && ti_mono_us() < deadline) {
    struct epoll_event ev[512];
    const int n = epoll_wait(ep, ev, 512, 1000);
    const uint64_t now = ti_mono_us();
    for (int k = 0; k < n; k++) {
      stream *x = &s[ev[k].data.u32];
      const ssize_t got = read(x->fd, buf, sizeof buf);
      if (got > 0) on_piece(x, buf, (size_t)got, now, &gap, &ttft);
      const bool over = got == 0 || (got > 0 && memmem(buf, (size_t)got, "[DONE]", 6));
      if (over) {
        close(x->fd);
        events += x->events;
        open--;
      }
    }
  }
  printf("clients %u  tokens/s each %.0f  events %lu  unfinished %u\n", b->clients, b->tps, (unsigned long)events, open);
  printf("ttft ms   p50 %.1f  p99 %.1f  max %.1f\n", (double)ti_hist_quantile(&ttft, 0.5) / 1e3, (double)ti_hist_quantile(&ttft, 0.99) / 1e3,
         (double)ttft.max / 1e3);
  printf("gap ms    p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f  (nominal %.1f; gate p99 < %.1f)\n", (double)ti_hist_quantile(&gap, 0.5) / 1e3,
         (double)ti_hist_quantile(&gap, 0.99) / 1e3, (double)ti_hist_quantile(&gap, 0.999) / 1e3, (double)gap.max / 1e3, 1e3 / b->tps, 2e3 / b->tps);
  fflush(stdout);
  free(s);
  return open ? 1 : 0;
}

// ---- the server ----

static double cpu_s(int who) {
  struct rusage u;
  getrusage(who, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static int serve(bench *b, int port_fd, int start_fd, pid_t child) {
  static const char *const name[] = {"fake-model"};
  ti_error err = {0};
  ti_tokenizer *tok = NULL;
  ti_gateway *g = NULL;
  if (b->model && ti_tokenizer_load(b->model, &tok, &err)) goto failed;
  const uint32_t vocab = tok ? (uint32_t)ti_tokenizer_vocab_size(tok) : 1000;
  ti_fake *fake = ti_fake_create(&(ti_fake_options){.tokens_per_s = b->tps, .vocab = vocab, .eos = -1});
  const ti_gateway_config cfg = {.model_names = name,
                                 .n_model_names = 1,
                                 .model = {.tokenizer = tok, .lim = {.vocab = vocab, .max_model_len = 100000, .has_tokenizer = tok != NULL}},
                                 .backend = ti_fake_backend(fake),
                                 .http_threads = b->http_threads,
                                 .text_threads = b->text_threads,
                                 .idle_timeout_s = 30};
  if (ti_gateway_start(&cfg, &g, &err)) goto failed;
  b->port = ti_gateway_port(g);
  const double cpu0 = cpu_s(RUSAGE_SELF);
  const uint64_t t0 = ti_mono_us();
  if (write(port_fd, &b->port, sizeof b->port) != sizeof b->port || write(start_fd, "g", 1) != 1) return 1;
  int rc;
  waitpid(child, &rc, 0);
  const double wall = (double)(ti_mono_us() - t0) * 1e-6;
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  printf("server    cpu %.2f cores over %.1f s (the fake backend's included)  rss %ld MB\n", (cpu_s(RUSAGE_SELF) - cpu0) / wall, wall,
         u.ru_maxrss / 1024);
  ti_fake_halt(fake);
  ti_gateway_stop(g);
  ti_fake_destroy(fake);
  ti_tokenizer_destroy(tok);
  return WEXITSTATUS(rc);
failed:
  fprintf(stderr, "sse_bench: %s\n", err.text);
  kill(child, SIGTERM);
  return 1;
}

int main(int argc, char **argv) {
  bench b = {.clients = 1000, .tps = 50, .seconds = 10};
  static const struct option o[] = {{"clients", 1, 0, 'c'},
                                    {"tps", 1, 0, 't'},
                                    {"seconds", 1, 0, 's'},
                                    {"model", 1, 0, 'm'},
                                    {"http-threads", 1, 0, 'h'},
                                    {"text-threads", 1, 0, 'x'},
                                    {0}};
  for (int c; (c = getopt_long(argc, argv, "", o, NULL)) != -1;) {
    if (c == 'c') b.clients = (uint32_t)strtoul(optarg, NULL, 10);
    if (c == 't') b.tps = strtod(optarg, NULL);
    if (c == 's') b.seconds = (uint32_t)strtoul(optarg, NULL, 10);
    if (c == 'm') b.model = optarg;
    if (c == 'h') b.http_threads = (uint32_t)strtoul(optarg, NULL, 10);
    if (c == 'x') b.text_threads = (uint32_t)strtoul(optarg, NULL, 10);
    if (c == '?') return 2;
  }
  if (!b.model) return fprintf(stderr, "sse_bench: --model DIR: a model folder, for without a tokenizer no token shows in the stream\n"), 2;
  struct rlimit lim = {65536, 65536};
  setrlimit(RLIMIT_NOFILE, &lim);
  signal(SIGPIPE, SIG_IGN);
  int port[2], start[2];
  if (pipe(port) || pipe(start)) return 1;
  const pid_t child = fork();  // before any thread
  if (child < 0) return 1;
  if (child > 0) return serve(&b, port[1], start[1], child);
  if (read(port[0], &b.port, sizeof b.port) != sizeof b.port) return 1;
  _exit(run_clients(&b, start[0]));
}
