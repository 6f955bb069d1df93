// Dispatch and combine against a loop over tokens that every rank can do alone, because it knows what all others send: bits, not tolerances.
// Meshes (ep, etp) of W x forms x combines x types x replicas x kinds of routing; both micros in flight; hostile peers; an abort in mid-dispatch.
#include <mpi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/log.h"
#include "base/placement.h"
#include "check.h"
#include "parallel/coll.h"
#include "parallel/expert/exchange.h"
#include "parallel/window.h"

enum { DIM = 19, N_TOP = 3, N_EXPERT = 7, MAX_ROW = 40, ALIGN = 8, MAX_W = 8, MAX_ETP = 8 };
typedef enum routing { ROUTE_RANDOM, ROUTE_ONE_EXPERT, ROUTE_NONE, ROUTE_IDLE_RANKS, ROUTE_ALL_IDLE, N_ROUTING } routing;
static const char *routing_names[] = {"random", "one expert", "none", "idle ranks", "all idle"};

static int rank, W;
static int list[MAX_W] = {0, 1, 2, 3, 4, 5, 6, 7};

typedef struct world_case {
  ti_exchange_config cfg;
  const ti_placement *p;
  ti_exchange *x;
} world_case;

static uint32_t mix(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t h = a * 2654435761u ^ b * 40503u ^ c * 2246822519u;
  h ^= h >> 15;
  h *= 2246822519u;
  return h ^ h >> 13;
}

// ---- what rank s sends in round `seed`: known to all ----

static int n_row_of(routing k, uint32_t seed, int s) {
  if (k == ROUTE_ALL_IDLE || (k == ROUTE_IDLE_RANKS && s % 2 == 1)) return 0;
  return 1 + (int)(mix(seed, (uint32_t)s, 77) % MAX_ROW);
}

static int expert_of(routing k, uint32_t seed, int s, int r, int j) {
  if (k == ROUTE_NONE) return -1;
  if (k == ROUTE_ONE_EXPERT) return j == 0 ? 5 : -1;
  const uint32_t h = mix(seed + 1, (uint32_t)(s * MAX_ROW + r), 5);
  if ((h >> 8) % 5 == 0 && j == 1) return -1;
  if ((h >> 12) % 9 == 0) return -1;  // a row without any route
  return (int)(h % N_EXPERT + (uint32_t)j * 2) % N_EXPERT;
}

static float weight_of(uint32_t seed, int s, int r, int j) { return check_value(seed + 2, s * MAX_ROW + r, (size_t)j); }

// Rank-valued, the last channels carry the token's number.
static float x_of(ti_dtype t, uint32_t seed, int s, int r, int d) {
  const float v = d == DIM - 1 ? (float)r : d == DIM - 2 ? (float)s : (float)s + check_value(seed, r, (size_t)d);
  return t == TI_BF16 ? ti_bf16_to_f32(ti_f32_to_bf16(v)) : v;
}

static float get(const void *p, ti_dtype t, size_t i) { return t == TI_F32 ? ((const float *)p)[i] : ti_bf16_to_f32(((const uint16_t *)p)[i]); }
static void put(void *p, ti_dtype t, size_t i, float v) {
  if (t == TI_F32)
    ((float *)p)[i] = v;
  else
    ((uint16_t *)p)[i] = ti_f32_to_bf16(v);
}
static float as(ti_dtype t, float v) { return t == TI_BF16 ? ti_bf16_to_f32(ti_f32_to_bf16(v)) : v; }
static int same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

// The "expert": partial output of etp rank t.
static float y_of(ti_dtype t, float x, int e, int etp_i) { return as(t, x * (1.0f + 0.3f * (float)e + 2.7f * (float)etp_i)); }

// ---- the naive loops ----

static void check_blocks(const world_case *c, routing k, uint32_t seed, const ti_dispatch_out *o) {
  const ti_mesh *m = &c->cfg.mesh;
  const int g = ti_mesh_ep_of(m, rank);
  long first, last;
  ti_split(c->p->n_slot, m->ep, g, &first, &last);
  CHECK(o->n_local == last - first, "n_local %d", o->n_local);
  int at = 0;
  size_t bad = 0;
  for (long slot = first; slot < last; slot++) {
    const int l = (int)(slot - first);
    int n = 0;
    CHECK(o->offset[l] == at && at % ALIGN == 0, "block %d begins at %d, not %d", l, o->offset[l], at);
    for (int s = 0; s < W; s++)
      for (int r = 0; r < n_row_of(k, seed, s); r++)
        for (int j = 0; j < N_TOP; j++) {
          const int e = expert_of(k, seed, s, r, j);
          if (e < 0 || ti_placement_slot(c->p, m, e, s) != slot) continue;
          for (int d = 0; d < DIM; d++) bad += !same(get(o->rows[at + n], c->cfg.dtype, (size_t)d), x_of(c->cfg.dtype, seed, s, r, d));
          n++;
        }
    CHECK(o->count[l] == n, "block %d has %d rows, not %d", l, o->count[l], n);
    at += (n + ALIGN - 1) / ALIGN * ALIGN;
  }
  CHECK(at <= ti_exchange_capacity(c->x), "%d rows, capacity %d", at, ti_exchange_capacity(c->x));
  CHECK(o->capacity == at && o->offset[o->n_local] == at, "capacity %d, not %d", o->capacity, at);
  CHECK(bad == 0, "%s: %zu numbers differ", routing_names[k], bad);
}

static float naive_out(const world_case *c, routing k, uint32_t seed, int r, int d) {
  const ti_mesh *m = &c->cfg.mesh;
  const ti_dtype t = c->cfg.dtype;
  float acc = 0;
  int any = 0;
  if (c->cfg.deterministic) {
    for (int j = 0; j < N_TOP; j++)
      for (int i = 0; i < m->etp; i++) {
        const int e = expert_of(k, seed, rank, r, j);
        if (e < 0) continue;
        const float v = weight_of(seed, rank, r, j) * y_of(t, x_of(t, seed, rank, r, d), e, i);
        acc = any++ ? acc + v : v;
      }
    return as(t, acc);
  }
  for (int w = 0; w < W; w++) {
    float part = 0;
    int n = 0;
    for (int j = 0; j < N_TOP; j++) {
      const int e = expert_of(k, seed, rank, r, j);
      if (e < 0 || ti_split_owner(c->p->n_slot, m->ep, ti_placement_slot(c->p, m, e, rank)) != ti_mesh_ep_of(m, w)) continue;
      const float v = weight_of(seed, rank, r, j) * y_of(t, x_of(t, seed, rank, r, d), e, ti_mesh_etp_of(m, w));
      part = n++ ? part + v : v;
    }
    if (n == 0) continue;
    acc = any++ ? acc + as(t, part) : as(t, part);
  }
  return as(t, acc);
}

// ---- one round, in the steps that the caller may interleave ----

typedef struct round_state {
  routing k;
  uint32_t seed;
  bool padded, in_window;  // whether x and y are written into the exchange's own memory
  _Alignas(8) char own_x[MAX_ROW * DIM * 4], out[MAX_ROW * DIM * 4];
  int32_t experts[MAX_ROW * N_TOP];
  float weights[MAX_ROW * N_TOP];
  char *own_y;
} round_state;

static void round_post(world_case *c, round_state *q, int micro) {
  const int n = n_row_of(q->k, q->seed, rank);
  char *x = q->in_window ? ti_exchange_x(c->x, micro) : q->own_x;
  for (int r = 0; r < n; r++) {
    for (int d = 0; d < DIM; d++) put(x, c->cfg.dtype, (size_t)(r * DIM + d), x_of(c->cfg.dtype, q->seed, rank, r, d));
    for (int j = 0; j < N_TOP; j++) {
      q->experts[r * N_TOP + j] = expert_of(q->k, q->seed, rank, r, j);
      q->weights[r * N_TOP + j] = weight_of(q->seed, rank, r, j);
    }
  }
  const ti_dispatch_args a = {.x = x, .experts = q->experts, .weights = q->weights, .n_row = n, .micro = micro, .padded = q->padded};
  const ti_status st = ti_exchange_dispatch_post(c->x, &a);
  CHECK(st == TI_OK, "dispatch_post: %s", ti_status_name(st));
  memset(q->experts, 0x55, sizeof q->experts);  // the exchange has its own copy
  memset(q->weights, 0x55, sizeof q->weights);
}

static void round_experts(world_case *c, round_state *q, int micro) {
  ti_dispatch_out o = {0};
  const ti_status st = ti_exchange_dispatch_wait(c->x, micro, &o);
  CHECK(st == TI_OK, "dispatch_wait: %s", ti_status_name(st));
  if (st) return;
  check_blocks(c, q->k, q->seed, &o);
  long first, last;
  ti_split(c->p->n_slot, c->cfg.mesh.ep, ti_mesh_ep_of(&c->cfg.mesh, rank), &first, &last);
  q->own_y = q->in_window ? NULL : malloc((size_t)o.capacity * DIM * 4 + 1);
  char *y = q->in_window ? ti_exchange_y(c->x, micro) : q->own_y;
  for (int l = 0; l < o.n_local; l++)
    for (int i = o.offset[l]; i < o.offset[l] + o.count[l]; i++)
      for (int d = 0; d < DIM; d++)
        put(y, c->cfg.dtype, (size_t)(i * DIM + d),
            y_of(c->cfg.dtype, get(o.rows[i], c->cfg.dtype, (size_t)d), c->p->slot_expert[first + l], ti_mesh_etp_of(&c->cfg.mesh, rank)));
  CHECK(ti_exchange_combine_post(c->x, micro, y) == TI_OK, "combine_post");
  memset(q->own_x, 0x55, sizeof q->own_x);  // not read any more: in no rank's blocks
}

static void round_end(world_case *c, round_state *q, int micro, bool accumulate) {
  const ti_dtype t = c->cfg.dtype;
  const int n = n_row_of(q->k, q->seed, rank);
  for (int i = 0; i < n * DIM; i++) put(q->out, t, (size_t)i, (float)(i % 11));
  const ti_status st = ti_exchange_combine_wait(c->x, micro, q->out, accumulate);
  CHECK(st == TI_OK, "combine_wait: %s", ti_status_name(st));
  size_t bad = 0;
  for (int r = 0; r < n; r++)
    for (int d = 0; d < DIM; d++) {
      float want = naive_out(c, q->k, q->seed, r, d);
      // Accumulating adds the unrounded sum; in bf16 that is not as(t, old + rounded), so that only fp32 is compared in bits.
      if (accumulate) want = t == TI_F32 ? (float)((r * DIM + d) % 11) + want : get(q->out, t, (size_t)(r * DIM + d));
      bad += !same(get(q->out, t, (size_t)(r * DIM + d)), want);
    }
  CHECK(bad == 0, "%s det=%d padded=%d %s: %zu sums differ", routing_names[q->k], c->cfg.deterministic, q->padded, ti_dtype_name(t), bad);
  free(q->own_y);
}

static world_case open_case(ti_coll *world, int ep, int etp, bool det, ti_dtype t, int hosts_of, const ti_placement *p) {
  world_case c = {.p = p};
  c.cfg = (ti_exchange_config){
      .mesh = {.workers = W, .tp = 1, .dp = W, .ep = ep, .etp = etp},
      .worker = rank,
      .dim = DIM,
      .n_top = N_TOP,
      .max_row = MAX_ROW,
      .align = ALIGN,
      .dtype = t,
      .deterministic = det,
      .host_ranks = hosts_of,
  };
  ti_error err = {0};
  CHECK(ti_exchange_create(&c.cfg, world, p, &c.x, &err) == TI_OK, "create: %s", err.text);
  return c;
}

static void test_values(ti_coll *world, int ep, int etp, bool det, ti_dtype t, int hosts_of, const ti_placement *p) {
  world_case c = open_case(world, ep, etp, det, t, hosts_of, p);
  static round_state q[2];
  for (int k = 0; k < N_ROUTING; k++)
    for (int padded = 0; padded < 2; padded++) {
      q[0].k = (routing)k;
      q[0].seed = (uint32_t)(k * 2 + padded + 1);
      q[0].padded = padded;
      q[0].in_window = (k + padded + rank) % 2;
      round_post(&c, &q[0], 0);
      round_experts(&c, &q[0], 0);
      round_end(&c, &q[0], 0, k % 2 == 1);
    }
  // Both micros in flight; ranks progress at different moments.
  for (int i = 0; i < 6; i++) {
    for (int u = 0; u < 2; u++) {
      q[u].k = u ? ROUTE_RANDOM : ROUTE_IDLE_RANKS;
      q[u].seed = (uint32_t)(100 + i * 2 + u);
      q[u].padded = (i + u) % 2;
      q[u].in_window = i < 3;
      round_post(&c, &q[u], u);
      if ((rank + i) % 2) CHECK(!ti_failed(ti_exchange_progress(c.x)), "progress");
    }
    if ((rank + i) % 3 == 0) usleep(300);
    round_experts(&c, &q[0], 0);
    CHECK(!ti_failed(ti_exchange_progress(c.x)), "progress");
    round_experts(&c, &q[1], 1);
    round_end(&c, &q[0], 0, false);
    round_end(&c, &q[1], 1, true);
  }
  ti_exchange_stats s;
  ti_exchange_stats_take(c.x, &s);
  uint64_t load[N_EXPERT * 2], sum = 0;
  ti_exchange_load_take(c.x, load);
  long first, last;
  ti_split(p->n_slot, ep, ti_mesh_ep_of(&c.cfg.mesh, rank), &first, &last);
  for (long i = 0; i < last - first; i++) sum += load[i];
  CHECK(sum == s.rows_here, "load says %llu rows, stats %llu", (unsigned long long)sum, (unsigned long long)s.rows_here);
  CHECK((W == 1) == (s.bytes_sent == 0), "%llu bytes sent", (unsigned long long)s.bytes_sent);
  ti_exchange_destroy(c.x);
}

// Sight need not be mutual: odd ranks have a descriptor for their own window and none to open the others' with, so that they show their rows and
// get the others' in messages.
static void test_one_sided(ti_coll *world, int etp, bool det, const ti_placement *p) {
  struct rlimit old, few;
  const int next = dup(0);
  CHECK(next >= 0 && getrlimit(RLIMIT_NOFILE, &old) == 0, "descriptors");
  close(next);
  few = (struct rlimit){.rlim_cur = (rlim_t)next + 1, .rlim_max = old.rlim_max};
  if (rank % 2) CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
  ti_window w;
  ti_error err = {0};
  CHECK(world->ops->reserve(world, (size_t)W * 64, 1) == TI_OK, "reserve");
  CHECK(ti_window_create(world, 4096, 0, &w, &err) == TI_OK, "window: %s", err.text);
  for (int r = 0; r < W; r++) {
    CHECK((w.peer[r] != NULL) == (r == rank || rank % 2 == 0), "rank %d's seen: %d", r, w.peer[r] != NULL);
    CHECK(w.seen[r] == (r != rank && r % 2 == 0), "rank %d sees ours: %d", r, w.seen[r]);
  }
  ti_window_fini(&w);
  world_case c = open_case(world, W / etp, etp, det, TI_F32, 0, p);
  CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0, "setrlimit");
  const int after = dup(0);
  CHECK(after == next, "descriptor %d is next, was %d: a window's was left open", after, next);
  close(after);
  static round_state q;
  for (int i = 0; i < 4; i++) {
    q = (round_state){.k = ROUTE_RANDOM, .seed = (uint32_t)(300 + i), .padded = i % 2, .in_window = i / 2};
    round_post(&c, &q, 0);
    round_experts(&c, &q, 0);
    round_end(&c, &q, 0, false);
  }
  ti_exchange_destroy(c.x);
}

// The ranks of one host see one another's windows, read what their owners write there, and nothing where memory is private.
static void test_windows(ti_coll *world) {
  enum { BYTES = 100000 };
  for (int within = 0; within <= W; within++) {
    ti_window w;
    int others = 0;
    ti_error err = {0};
    CHECK(world->ops->reserve(world, (size_t)W * 64, 1) == TI_OK, "reserve");
    CHECK(ti_window_create(world, BYTES, within, &w, &err) == TI_OK, "window: %s", err.text);
    for (int i = 0; i < BYTES; i++) w.own[i] = (char)(rank * 31 + i % 7);
    CHECK(ti_coll_barrier(world) == TI_OK, "barrier");
    size_t bad = 0;
    for (int r = 0; r < W; r++) {
      const bool near = within == 0 || r / within == rank / within;
      others += near && r != rank;
      CHECK(w.seen[r] == (near && r != rank), "rank %d sees ours: %d", r, w.seen[r]);
      CHECK((w.peer[r] != NULL) == near, "rank %d's seen: %d", r, w.peer[r] != NULL);
      for (int i = 0; w.peer[r] && i < BYTES; i++) bad += w.peer[r][i] != (char)(r * 31 + i % 7);
    }
    CHECK(bad == 0 && w.n_peer == others, "%zu bytes differ, %d others of %d", bad, w.n_peer, others);
    CHECK(ti_coll_barrier(world) == TI_OK, "barrier");
    ti_window_fini(&w);
  }
}

// One copy of a row a rank: a row that chose all its experts in one place travels once.
static void test_one_copy(ti_coll *world, const ti_placement *p) {
  world_case c = open_case(world, W, 1, true, TI_F32, 0, p);
  static float x[2 * DIM], y[MAX_W * 2 * N_TOP * ALIGN * DIM], out[2 * DIM];
  int32_t experts[2 * N_TOP];
  long first, last;
  const int to = (rank + 1) % W;
  ti_split(p->n_slot, W, to, &first, &last);
  for (int i = 0; i < 2 * N_TOP; i++) experts[i] = p->slot_expert[first + i % (int)(last - first)];
  ti_dispatch_out o;
  const ti_dispatch_args a = {.x = x, .experts = experts, .n_row = 2, .padded = true};
  CHECK(ti_exchange_dispatch_post(c.x, &a) == TI_OK && ti_exchange_dispatch_wait(c.x, 0, &o) == TI_OK, "dispatch");
  CHECK(ti_exchange_combine_post(c.x, 0, y) == TI_OK && ti_exchange_combine_wait(c.x, 0, out, false) == TI_OK, "combine");
  ti_exchange_stats s;
  ti_exchange_stats_take(c.x, &s);
  CHECK(s.rows_sent == (W > 1 ? 2u : 0u) && s.rows_here == 2 * N_TOP, "%llu rows sent, %llu here", (unsigned long long)s.rows_sent,
        (unsigned long long)s.rows_here);
  ti_exchange_destroy(c.x);
}

static void test_set_placement(ti_coll *world, const ti_placement *identity, const ti_placement *replicas, const ti_placement *other) {
  world_case c = open_case(world, W, 1, true, TI_F32, 0, replicas);
  static round_state q;
  CHECK(ti_exchange_set_placement(c.x, 0, identity) == TI_ERR_ARG, "another slot count");
  CHECK(ti_exchange_set_placement(c.x, 1, other) == TI_ERR_ARG, "a layer beyond the last");
  CHECK(ti_exchange_set_placement(c.x, 0, other) == TI_OK, "set");
  c.p = other;
  q = (round_state){.k = ROUTE_RANDOM, .seed = 9};
  round_post(&c, &q, 0);
  round_experts(&c, &q, 0);
  round_end(&c, &q, 0, false);
  ti_exchange_destroy(c.x);
}

static void test_bad_calls(ti_coll *world, const ti_placement *p) {
  world_case c = open_case(world, W, 1, true, TI_F32, 0, p);
  static float x[MAX_ROW * DIM];
  int32_t experts[N_TOP] = {0, N_EXPERT, 0};
  ti_dispatch_out o;
  CHECK(ti_exchange_dispatch_post(c.x, &(ti_dispatch_args){.x = x, .experts = experts, .n_row = 1, .padded = true}) == TI_ERR_RANGE, "expert %d",
        N_EXPERT);
  static int32_t
      same_expert[MAX_ROW * N_TOP];  // three times expert 0 in every row: more than its rank's blocks have room for, where it has fewer slots
  if ((p->n_slot + W - 1) / W < N_TOP)
    CHECK(ti_exchange_dispatch_post(c.x, &(ti_dispatch_args){.x = x, .experts = same_expert, .n_row = MAX_ROW, .padded = true}) == TI_ERR_RANGE,
          "an expert named three times");
  CHECK(ti_exchange_dispatch_post(c.x, &(ti_dispatch_args){.x = x, .experts = experts, .n_row = MAX_ROW + 1, .padded = true}) == TI_ERR_RANGE,
        "too many rows");
  CHECK(ti_exchange_dispatch_wait(c.x, 0, &o) == TI_ERR_ARG, "wait before post");
  CHECK(ti_exchange_combine_post(c.x, 0, x) == TI_ERR_ARG, "combine before dispatch");
  // Others may read this micro's rows until its combine is over: no second dispatch before that.
  const ti_dispatch_args none = {.x = x, .padded = true};
  CHECK(ti_exchange_dispatch_post(c.x, &none) == TI_OK && ti_exchange_dispatch_post(c.x, &none) == TI_ERR_ARG, "a dispatch in a dispatch");
  CHECK(ti_exchange_combine_wait(c.x, 0, x, false) == TI_ERR_ARG, "the end of a combine that was not begun");
  CHECK(ti_exchange_dispatch_wait(c.x, 0, &o) == TI_OK && ti_exchange_dispatch_post(c.x, &none) == TI_ERR_ARG, "a dispatch under the experts");
  CHECK(ti_exchange_combine_post(c.x, 0, x) == TI_OK && ti_exchange_dispatch_post(c.x, &none) == TI_ERR_ARG, "a dispatch in a combine");
  CHECK(ti_exchange_combine_wait(c.x, 0, x, false) == TI_OK && ti_exchange_dispatch_post(c.x, &none) == TI_OK, "a dispatch after it");
  CHECK(ti_exchange_dispatch_wait(c.x, 0, &o) == TI_OK && ti_exchange_combine_post(c.x, 0, x) == TI_OK, "its experts");
  CHECK(ti_exchange_combine_wait(c.x, 0, x, false) == TI_OK, "its end");
  ti_exchange_destroy(c.x);
}

// ---- bad peers ----

// Rank 0 makes the communicators that ti_exchange_create makes and sends what it likes; the others refuse it.
static void test_hostile(ti_coll *world, const ti_placement *p, bool padded, int what) {
  ti_coll *c[2];
  ti_error err = {0};
  ti_log_set_level(TI_LOG_ERROR);
  if (rank == 0) {
    for (int i = 0; i < 2; i++) CHECK(world->ops->subset(world, list, W, &c[i], &err) == TI_OK, "subset: %s", err.text);
    enum { SPACE = 1 << 17 };
    char *recv = calloc(MAX_W, SPACE), *send = calloc(1, SPACE);
    size_t sn[MAX_W], sa[MAX_W] = {0}, rn[MAX_W], ra[MAX_W], got[MAX_W];
    size_t bytes = padded ? 64 + 64 + DIM * 4 : 4 * (size_t)(1 + (p->n_slot + W - 1) / W);
    int32_t *word = (int32_t *)(void *)send;
    if (padded) {  // head {n_row, n_route}, routes at byte 64, rows at byte 128 (exchange_priv.h)
      word[0] = 1;
      word[1] = 1;
      word[16] = (int32_t)0x80000000u;
      if (what == 0) word[0] = 0x7fffffff;
      if (what == 1) word[1] = -1;
      if (what == 2) word[16] = (int32_t)(0x80000000u | 1000);
      if (what == 3) bytes = 3;
      if (what == 4) word[16] = 0;
    } else {
      word[0] = what == 0 ? MAX_ROW + 1 : what == 1 ? -1 : 1;
      word[1] = what == 2 ? 0x7fffffff : what == 3 ? -5 : what == 4 ? 0 : 1;
    }
    for (int i = 0; i < W; i++) {
      sn[i] = i ? bytes : 0;
      rn[i] = i ? SPACE : 0;
      ra[i] = (size_t)i * SPACE;
    }
    CHECK(c[0]->ops->reserve(c[0], (size_t)W * SPACE, 1) == TI_OK, "reserve");
    ti_coll_op op = {.kind = TI_COLL_ALL_TO_ALL,
                     .dtype = TI_U8,
                     .send = send,
                     .recv = recv,
                     .send_counts = sn,
                     .send_offsets = sa,
                     .recv_counts = rn,
                     .recv_offsets = ra,
                     .got = got};
    ti_status st = c[0]->ops->post(c[0], &op);
    if (!st) st = c[0]->ops->wait(c[0], &op, 2000000);
    CHECK(st == TI_OK, "hostile send: %s", ti_status_name(st));
    MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; i < 2; i++) c[i]->ops->fini(c[i]);
    free(send);
    free(recv);
  } else {
    world_case w = open_case(world, W, 1, true, TI_F32, 1, p);
    static float x[DIM];
    int32_t experts[N_TOP] = {0, 1, 2};
    ti_dispatch_out o;
    CHECK(ti_exchange_dispatch_post(w.x, &(ti_dispatch_args){.x = x, .experts = experts, .padded = padded}) == TI_OK, "post");
    const ti_status st = ti_exchange_dispatch_wait(w.x, 0, &o);
    CHECK(st == TI_ERR_RANGE, "padded=%d what=%d: %s", padded, what, ti_status_name(st));
    CHECK(ti_exchange_dispatch_wait(w.x, 0, &o) == TI_ERR_RANGE, "an error stays");
    MPI_Barrier(MPI_COMM_WORLD);
    ti_exchange_destroy(w.x);
  }
}

// Rank 0's part in an all-to-all with messages of `out` bytes, all from one place; bounded: whatever comes is taken.
static void hostile_op(ti_coll *c, const char *send, size_t out, bool bounded) {
  enum { SPACE = 1 << 15 };
  static char recv[MAX_W * SPACE];
  size_t sn[MAX_W], sa[MAX_W] = {0}, rn[MAX_W], ra[MAX_W], got[MAX_W];
  for (int i = 0; i < W; i++) {
    sn[i] = i ? out : 0;
    rn[i] = i && bounded ? SPACE : 0;
    ra[i] = (size_t)i * SPACE;
  }
  ti_coll_op op = {.kind = TI_COLL_ALL_TO_ALL,
                   .dtype = TI_U8,
                   .send = send,
                   .recv = recv,
                   .send_counts = sn,
                   .send_offsets = sa,
                   .recv_counts = rn,
                   .recv_offsets = ra,
                   .got = bounded ? got : NULL};
  ti_status st = c->ops->post(c, &op);
  if (!st) st = c->ops->wait(c, &op, 2000000);
  CHECK(st == TI_OK, "hostile send: %s", ti_status_name(st));
}

// The same where rows stand in windows: what a message says of them is refused before anything is read. what 0, 1: a row that the window does not
// have; 2, 3: results that are not in it.
static void test_hostile_window(ti_coll *world, const ti_placement *p, int what) {
  const size_t local = (size_t)(p->n_slot + W - 1) / (size_t)W, row = DIM * 4, most = MAX_ROW * (local < N_TOP ? local : N_TOP);
  if (rank == 0) {
    ti_coll *c[2];
    ti_window w;
    ti_error err = {0};
    static _Alignas(8) char send[256];
    int32_t *word = (int32_t *)(void *)send;
    memset(send, 0, sizeof send);
    for (int i = 0; i < 2; i++) CHECK(world->ops->subset(world, list, W, &c[i], &err) == TI_OK, "subset: %s", err.text);
    CHECK(c[0]->ops->reserve(c[0], MAX_W << 15, 1) == TI_OK, "reserve");
    const size_t x_bytes = (MAX_ROW * row + 4095) & ~(size_t)4095, y_bytes = (((size_t)W * most + local * ALIGN) * row + 4095) & ~(size_t)4095;
    CHECK(ti_window_create(c[0], 2 * (x_bytes + y_bytes), 0, &w, &err) == TI_OK && w.n_peer == W - 1, "window: %s", err.text);
    if (what < 2) {  // one row, one route, its number
      word[0] = word[1] = 1;
      word[16] = (int32_t)0x80000000u;
      word[17] = what ? -1 : MAX_ROW;
      hostile_op(c[0], send, 128, true);
    } else {
      hostile_op(c[0], send, 64, true);
      for (size_t e = 0; e < local; e++) word[e] = what == 2 ? -1 : (int32_t)(y_bytes / row);
      hostile_op(c[0], send, local * sizeof *word, false);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    ti_window_fini(&w);
    for (int i = 0; i < 2; i++) c[i]->ops->fini(c[i]);
  } else {
    world_case w = open_case(world, W, 1, true, TI_F32, 0, p);
    static float x[DIM], out[DIM];
    int32_t experts[N_TOP] = {0, -1, -1};
    ti_dispatch_out o;
    CHECK(ti_exchange_dispatch_post(w.x, &(ti_dispatch_args){.x = x, .experts = experts, .n_row = what >= 2, .padded = true}) == TI_OK, "post");
    ti_status st = ti_exchange_dispatch_wait(w.x, 0, &o);
    if (what >= 2) {
      CHECK(st == TI_OK && ti_exchange_combine_post(w.x, 0, ti_exchange_y(w.x, 0)) == TI_OK, "dispatch: %s", ti_status_name(st));
      st = ti_exchange_combine_wait(w.x, 0, out, false);
    }
    CHECK(st == TI_ERR_RANGE, "what=%d: %s", what, ti_status_name(st));
    MPI_Barrier(MPI_COMM_WORLD);
    ti_exchange_destroy(w.x);
  }
}

static void *abort_later(void *arg) {
  usleep(50000);
  ti_coll *c = arg;
  c->ops->abort(c);
  return NULL;
}

// Rank 0 is gone; whoever learns of it aborts the world. The others come back and say for whom they waited.
static void test_abort(ti_coll *world, const ti_placement *p, bool padded) {
  ti_coll *epoch = NULL;
  ti_error err = {0};
  CHECK(world->ops->subset(world, list, W, &epoch, &err) == TI_OK, "subset: %s", err.text);
  world_case c = open_case(epoch, W, 1, true, TI_F32, 0, p);
  if (rank != 0) {
    static float x[DIM];
    int32_t experts[N_TOP] = {0, 1, 2};
    pthread_t th;
    ti_dispatch_out o;
    const uint64_t start = ti_mono_us();
    pthread_create(&th, NULL, abort_later, epoch);
    ti_status st = ti_exchange_dispatch_post(c.x, &(ti_dispatch_args){.x = x, .experts = experts, .n_row = 1, .padded = padded});
    if (!st) st = ti_exchange_dispatch_wait(c.x, 0, &o);
    CHECK(st == TI_ERR_ABORTED, "%s", ti_status_name(st));
    CHECK(ti_mono_us() - start < 2000000, "took %llu us", (unsigned long long)(ti_mono_us() - start));
    pthread_join(th, NULL);
    ti_exchange_stats s;
    ti_exchange_stats_take(c.x, &s);
    CHECK(s.slowest_peer == 0 && s.slowest_ns > 10000000, "slowest peer %d", s.slowest_peer);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  ti_exchange_destroy(c.x);
  ti_coll_destroy(epoch);
}

int main(int argc, char **argv) {
  int provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &W);
  check_rank = rank;
  ti_log_set_rank(rank);
  ti_coll_set_timeout(20000000);
  ti_coll *world = NULL;
  ti_error err = {0};
  ti_placement *identity = NULL, *replicas = NULL, *other = NULL;
  const float load[N_EXPERT] = {5, 50, 1, 9, 0, 80, 7};
  const int32_t slots[N_EXPERT + 3] = {6, 5, 4, 3, 2, 1, 0, 0, 3, 5};
  CHECK(ti_placement_identity(N_EXPERT, 1, &identity, &err) == TI_OK, "identity: %s", err.text);
  CHECK(ti_placement_balance(&(ti_placement_args){.load = load, .n_expert = N_EXPERT, .n_slot = N_EXPERT + 3, .ep = W}, &replicas, &err) == TI_OK,
        "%s", err.text);
  CHECK(ti_placement_from_slots(slots, N_EXPERT + 3, N_EXPERT, 2, &other, &err) == TI_OK, "%s", err.text);
  CHECK((W == 1 && argc == 1 ? ti_coll_self_create(&world) : ti_coll_mpi_create(list, W, 1, &world, &err)) == TI_OK, "create: %s", err.text);
  if (check_failed) MPI_Abort(MPI_COMM_WORLD, 1);
  for (int etp = 1; etp <= W; etp++) {
    if (W % etp) continue;
    for (int v = 0; v < 8 * (W < 3 ? 2 : 4); v++)
      test_values(world, W / etp, etp, v & 1, v & 2 ? TI_BF16 : TI_F32, v / 8, v & 4 ? replicas : identity);
  }
  test_windows(world);
  for (int etp = 1; etp <= 2 && W % etp == 0 && W > 1; etp++)
    for (int det = 0; det < 2; det++) test_one_sided(world, etp, det, replicas);
  test_one_copy(world, identity);
  test_set_placement(world, identity, replicas, other);
  test_bad_calls(world, identity);
  for (int i = 0; i < 10 && W > 1; i++) test_hostile(world, identity, i % 2, i / 2);
  for (int i = 0; i < 4 && W > 1; i++) test_hostile_window(world, identity, i);
  for (int i = 0; i < 2 && W > 1; i++) test_abort(world, identity, i);
  ti_coll_destroy(world);
  ti_placement_destroy(identity);
  ti_placement_destroy(replicas);
  ti_placement_destroy(other);
  int failed = check_end("exchange"), any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
