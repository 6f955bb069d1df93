// Many seeds of everything at once: submits, cancels, late stops, deadlines, choices, prompt logprobs, few pages (preemption), groups, both policies.
// Every plan is checked by fake workers, every log against what the model must generate, pages and slots come back to zero.
#include <criterion/criterion.h>

#include "base/log.h"
#include "fake.h"

enum { SEEDS = 400, REQUESTS = 40 };
static fake f;
static uint64_t rng;
static uint32_t draw(uint32_t n) {
  rng = fake_mix(rng, 0x1234567);
  return (uint32_t)(rng >> 20) % n;
}

typedef struct live {
  fake_request r;
  bool submitted, disturbed[8];
} live;

static fake_config random_config(void) {
  static const int meshes[][2] = {{1, 1}, {2, 1}, {2, 2}, {4, 2}};
  const int *m = meshes[draw(4)];
  fake_config k = {
      .mesh = {m[0], m[1], m[0] / m[1], m[0], 1}, .vocab = 20 + draw(60), .page_tokens = 1 + draw(8), .max_model_len = 96, .check_kv = true};
  k.max_num_seqs = 1 + draw(12);
  k.budget = k.max_num_seqs + draw(24);
  k.n_page = (96 + k.page_tokens - 1) / k.page_tokens + 1 + draw(60);
  k.lookahead = k.page_tokens > 1 ? draw(2) : 0;  // the wire takes as many table entries as tokens; real pages have 8 tokens or more
  k.max_draft = draw(3) ? 0 : 1 + draw(5);
  k.steps_in_flight = 1 + draw(2);
  k.lockstep = draw(2);
  k.two_batch_rows = draw(2) ? 1 + draw(k.budget) : 0;
  k.policy = draw(2) ? "fcfs" : "priority";
  return k;
}

static void submit(live *l, uint64_t seed) {
  l->r = (fake_request){.seed = seed,
                        .n_prompt = draw(16) ? 1 + draw(draw(4) ? 30 : 80) : 90 + draw(7),  // up to the whole context
                        .n_choice = draw(3) ? 1 : 1 + draw(5),
                        .ignore_eos = draw(2),
                        .priority = (int)draw(3) - 1};
  l->r.max_tokens = draw(8) && l->r.n_prompt < 96 ? 1 + draw(96 - l->r.n_prompt) : 0;
  l->r.min_tokens = l->r.max_tokens ? draw(l->r.max_tokens) : 0;
  l->r.n_logprob = draw(3) ? -1 : 0;
  l->r.n_prompt_logprob = draw(4) ? -1 : 0;
  if (draw(8) == 0) l->r.deadline_us = f.clock.us + 1000 * (1 + draw(60));
  l->submitted = true;
  cr_assert_eq(fake_submit(&f, &l->r), TI_OK);
}

static void disturb(live *l) {
  if (!l->submitted) return;
  if (draw(2)) {
    ti_coord_cancel(f.coord, l->r.id);
    for (int i = 0; i < 8; i++) l->disturbed[i] = true;
  } else {
    const uint32_t c = draw(l->r.n_choice);
    ti_coord_finish(f.coord, l->r.id, c, TI_FINISH_STOP, draw(ti_tokenlog_peek(l->r.log[c]).length + 1));
    l->disturbed[c] = true;
  }
}

static void check(const live *l, uint64_t seed, int i) {
  for (uint32_t c = 0; c < l->r.n_choice; c++) {
    const ti_tokenlog_state s = ti_tokenlog_peek(l->r.log[c]);
    cr_assert_neq(s.finish, TI_FINISH_NONE, "seed %lu request %d choice %u goes on: %s", seed, i, c, f.wrong);
    cr_assert_neq(s.finish, TI_FINISH_ERROR, "seed %lu request %d choice %u: %s", seed, i, c, s.error);
    const bool whole = !l->disturbed[c] && s.finish != TI_FINISH_CANCEL;
    cr_assert(fake_expect(&f, &l->r, c, whole), "seed %lu request %d choice %u: %u tokens", seed, i, c, s.length);
    if (whole && l->r.n_prompt_logprob >= 0) {
      cr_assert_eq(s.n_prompt, l->r.n_prompt, "seed %lu request %d choice %u: %u of %u scored", seed, i, c, s.n_prompt, l->r.n_prompt);
      for (uint32_t p = 1; p < s.n_prompt; p++) cr_assert_float_eq(ti_tokenlog_prompt_logprobs(l->r.log[c])[p], -(float)p, 0);
    }
    if (l->r.n_logprob >= 0)
      for (uint32_t p = 0; p < s.length; p++) cr_assert_float_eq(ti_tokenlog_logprobs(l->r.log[c])[p], -(float)(l->r.n_prompt + p), 0);
  }
}

static void run(uint64_t seed) {
  rng = fake_mix(seed, 42);
  const fake_config k = random_config();
  fake_up(&f, &k);
  static live l[REQUESTS];
  memset(l, 0, sizeof l);
  for (int next = 0, round = 0; next < REQUESTS || round < 20; round++) {
    while (next < REQUESTS && draw(3) == 0) {
      submit(&l[next], seed * 1000 + (uint64_t)next);
      next++;
    }
    if (draw(6) == 0) disturb(&l[draw(REQUESTS)]);
    for (uint32_t i = 0; i < fake_n(&f); i++) {
      if (draw(4)) fake_step(&f.worker[i]);
      cr_assert_leq(f.worker[i].n_queued, k.steps_in_flight * 1u + (ti_mesh_tp_of(&k.mesh, (int)i) ? 64 : 0));
    }
    fake_turn(&f, NULL);
    ti_clock_virtual_advance(&f.clock, 1000);
    cr_assert_str_empty(f.wrong, "seed %lu: %s", seed, f.wrong);
  }
  fake_settle(&f, 20000);
  cr_assert_str_empty(f.wrong, "seed %lu: %s", seed, f.wrong);
  for (int i = 0; i < REQUESTS; i++) {
    check(&l[i], seed, i);
    fake_request_fini(&l[i].r);
  }
  ti_clock_virtual_advance(&f.clock, 200000);
  fake_turn(&f, NULL);
  ti_coord_status s;
  ti_coord_get_status(f.coord, &s);
  cr_assert_eq(s.pages_used + s.running + s.waiting, 0, "seed %lu", seed);
  fake_down(&f);
}

Test(random, requests_of_all_kinds_get_what_they_must) {
  ti_log_set_level(TI_LOG_ERROR);
  for (uint64_t seed = 0; seed < SEEDS; seed++) run(seed);
}
