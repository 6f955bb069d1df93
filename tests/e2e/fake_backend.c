// The fake backend (see fake_backend.h): one thread that ticks, one lock.
#include "fake_backend.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

typedef struct fake_request {
  struct fake_request *next;
  ti_request_spec *spec;
  uint64_t start_us;
  bool cancelled, scored;
  struct fake_seq {
    uint32_t n;
    bool done, asked;
    uint32_t asked_n;
  } seq[128];
} fake_request;

struct ti_fake {
  ti_fake_options o;
  pthread_t thread;
  pthread_mutex_t lock;
  fake_request *list;
  uint32_t n;
  uint64_t next_id, steps, tokens;
  bool stop, healthy, draining;
  ti_metric *running, *generated;
};

static uint64_t mix(uint64_t x) {
  x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 27, x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static ti_status fake_submit(void *self, ti_request_spec *spec, uint64_t *id) {
  ti_fake *f = self;
  pthread_mutex_lock(&f->lock);
  ti_status st = f->draining ? TI_ERR_CLOSED : f->o.max_requests && f->n >= f->o.max_requests ? TI_ERR_FULL : TI_OK;
  fake_request *r = st ? NULL : calloc(1, sizeof *r);
  if (!st && !r) st = TI_ERR_NOMEM;
  if (!st) {
    spec->id = *id = f->next_id++;
    r->spec = spec;
    r->start_us = ti_mono_us() + f->o.prefill_ms * 1000ull;
    r->next = f->list;
    f->list = r;
    f->n++;
    if (f->running) ti_metric_set(f->running, f->n);
  }
  pthread_mutex_unlock(&f->lock);
  return st;
}

static fake_request *find(ti_fake *f, uint64_t id) {
  fake_request *r = f->list;
  while (r && r->spec->id != id) r = r->next;
  return r;
}

static void fake_cancel(void *self, uint64_t id) {
  ti_fake *f = self;
  pthread_mutex_lock(&f->lock);
  fake_request *r = find(f, id);
  if (r) r->cancelled = true;
  pthread_mutex_unlock(&f->lock);
}

static void fake_finish(void *self, uint64_t id, uint32_t choice, ti_finish reason, uint32_t n_tokens) {
  ti_fake *f = self;
  pthread_mutex_lock(&f->lock);
  fake_request *r = find(f, id);
  if (r && choice < r->spec->n_choice) r->seq[choice].asked = true, r->seq[choice].asked_n = n_tokens;
  pthread_mutex_unlock(&f->lock);
}

static void fake_status(void *self, ti_coord_status *out) {
  ti_fake *f = self;
  pthread_mutex_lock(&f->lock);
  *out = (ti_coord_status){.ready = true, .healthy = f->healthy, .draining = f->draining, .n_rank = 2, .running = f->n, .steps = f->steps};
  for (int i = 0; i < 2; i++) {
    out->rank[i] = (ti_coord_rank){.up = true, .healthy = f->healthy, .step = f->steps};
    snprintf(out->rank[i].device, sizeof out->rank[i].device, "fake");
  }
  if (!f->healthy) snprintf(out->message, sizeof out->message, "rank 2 has been in step %lu for 3000 ms", (unsigned long)f->steps);
  pthread_mutex_unlock(&f->lock);
}

static void scores(const ti_fake *f, uint32_t id, int n_top, float *lp, uint32_t *rank, ti_top_logprob *top) {
  *lp = -0.25f;
  *rank = 1;
  top->n = n_top > 0 ? (uint32_t)n_top : 0;
  for (uint32_t i = 0; i < top->n; i++) top->id[i] = (id + i) % f->o.vocab, top->logprob[i] = -0.25f - (float)i;
}

static void score_prompt(const ti_fake *f, fake_request *r) {
  const ti_request_spec *s = r->spec;
  for (uint32_t i = 0; i < s->n_prompt; i++) {
    float lp;
    uint32_t rank;
    ti_top_logprob top;
    scores(f, s->ids[i], s->sampling.n_prompt_logprob, &lp, &rank, &top);
    if (i == 0) lp = NAN, top.n = 0;
    for (uint32_t k = 0; k < s->n_choice; k++)
      if (ti_tokenlog_append_prompt(s->log[k], 1, &lp, &rank, &top)) return;
  }
}

static uint32_t next_token(const ti_fake *f, const fake_request *r, uint32_t choice, uint32_t i) {
  const ti_request_spec *s = r->spec;
  if (s->sampling.temperature > 0) return (uint32_t)(mix(s->sampling.seed + 0x9e3779b97f4a7c15u * (choice * 1000003ull + i + 1)) % f->o.vocab);
  if (i >= s->n_prompt && !s->ignore_eos && i >= s->min_tokens && f->o.eos >= 0) return (uint32_t)f->o.eos;
  return s->ids[i % s->n_prompt];
}

// One token of one sequence.
static void step_seq(ti_fake *f, fake_request *r, uint32_t k) {
  const ti_request_spec *s = r->spec;
  struct fake_seq *q = &r->seq[k];
  ti_tokenlog *l = s->log[k];
  ti_finish end = r->cancelled ? TI_FINISH_CANCEL : q->asked ? TI_FINISH_STOP : s->priority == -666 && q->n >= 2 ? TI_FINISH_ERROR : TI_FINISH_NONE;
  if (end == TI_FINISH_NONE && q->n < s->max_tokens) {
    const uint32_t id = next_token(f, r, k, q->n);
    float lp;
    uint32_t rank;
    ti_top_logprob top;
    scores(f, id, s->sampling.n_logprob, &lp, &rank, &top);
    if (ti_tokenlog_append(l, &id, 1, &lp, &rank, &top)) end = TI_FINISH_ERROR;
    q->n++;
    f->tokens++;
    for (uint32_t i = 0; i < s->n_stop_id && q->n > s->min_tokens; i++)
      if (s->stop_id[i] == id) end = TI_FINISH_STOP;
  }
  if (end == TI_FINISH_NONE && q->n >= s->max_tokens) end = TI_FINISH_LENGTH;
  if (end != TI_FINISH_NONE) {
    ti_tokenlog_finish(l, end, q->asked ? q->asked_n : q->n, end == TI_FINISH_ERROR ? "rank 1 could not compute the next token" : NULL);
    q->done = true;
  }
}

static void step(ti_fake *f, uint64_t now) {
  const uint64_t before = f->tokens;
  f->steps++;
  for (fake_request **at = &f->list; *at;) {
    fake_request *r = *at;
    uint32_t done = 0;
    const bool ready = now >= r->start_us;
    if (ready && !r->scored && r->spec->sampling.n_prompt_logprob >= 0) score_prompt(f, r);
    r->scored = r->scored || ready;
    for (uint32_t k = 0; k < r->spec->n_choice; k++) {
      if (!r->seq[k].done && (ready || r->cancelled)) step_seq(f, r, k);
      done += r->seq[k].done;
      ti_tokenlog_ring(r->spec->log[k]);
    }
    if (done < r->spec->n_choice) {
      at = &r->next;
      continue;
    }
    *at = r->next;
    ti_request_spec_destroy(r->spec);
    free(r);
    f->n--;
    if (f->running) ti_metric_set(f->running, f->n);
  }
  if (f->generated) ti_metric_add(f->generated, (double)(f->tokens - before));
}

static void *fake_main(void *arg) {
  ti_fake *f = arg;
  const uint64_t tick_ns = (uint64_t)(1e9 / (f->o.tokens_per_s > 0 ? f->o.tokens_per_s : 10000));
  uint64_t next = ti_mono_ns();
  for (bool stop = false; !stop;) {
    pthread_mutex_lock(&f->lock);
    stop = f->stop;
    step(f, ti_mono_us());
    pthread_mutex_unlock(&f->lock);
    next += tick_ns;
    const uint64_t now = ti_mono_ns();
    if (next < now) next = now;
    const uint64_t wait = next - now;
    nanosleep(&(struct timespec){.tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000)}, NULL);
  }
  return NULL;
}

ti_fake *ti_fake_create(const ti_fake_options *o) {
  ti_fake *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->o = *o;
  f->healthy = true;
  f->next_id = 1;
  pthread_mutex_init(&f->lock, NULL);
  if (o->metrics) {
    if (ti_metrics_add(o->metrics, TI_METRIC_GAUGE, "vllm:num_requests_running", NULL, "Requests that run", &f->running)) f->running = NULL;
    if (ti_metrics_add(o->metrics, TI_METRIC_COUNTER, "vllm:generation_tokens_total", NULL, "Tokens generated", &f->generated)) f->generated = NULL;
  }
  if (pthread_create(&f->thread, NULL, fake_main, f) == 0) return f;
  free(f);
  return NULL;
}

void ti_fake_halt(ti_fake *f) {
  pthread_mutex_lock(&f->lock);
  const bool was = f->stop;
  f->stop = f->draining = true;
  for (fake_request *r = f->list; r; r = r->next) r->cancelled = true;
  pthread_mutex_unlock(&f->lock);
  if (!was) pthread_join(f->thread, NULL);
}

void ti_fake_destroy(ti_fake *f) {
  if (!f) return;
  ti_fake_halt(f);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

ti_backend ti_fake_backend(ti_fake *f) {
  return (ti_backend){.submit = fake_submit, .cancel = fake_cancel, .finish = fake_finish, .status = fake_status, .self = f};
}

void ti_fake_set_health(ti_fake *f, bool healthy) {
  pthread_mutex_lock(&f->lock);
  f->healthy = healthy;
  pthread_mutex_unlock(&f->lock);
}

void ti_fake_drain(ti_fake *f) {
  pthread_mutex_lock(&f->lock);
  f->draining = true;
  pthread_mutex_unlock(&f->lock);
}

uint32_t ti_fake_running(ti_fake *f) {
  pthread_mutex_lock(&f->lock);
  const uint32_t n = f->n;
  pthread_mutex_unlock(&f->lock);
  return n;
}
