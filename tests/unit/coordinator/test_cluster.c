// Ranks: handshake, groups, deaths, hangs, drain, and what a rank says that it should not.
#include <criterion/criterion.h>

#include "fake.h"

static fake f;

static fake_config base(int workers, int tp) {
  return (fake_config){.mesh = {workers, tp, workers / tp, workers, 1},
                       .vocab = 50,
                       .page_tokens = 4,
                       .max_model_len = 128,
                       .max_num_seqs = 8,
                       .budget = 16,
                       .n_page = 64,
                       .check_kv = true};
}
static fake_request request(uint64_t seed, uint32_t n_prompt, uint32_t max_tokens) {
  return (fake_request){.seed = seed, .n_prompt = n_prompt, .max_tokens = max_tokens, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
}
static ti_coord_status status(void) {
  ti_clock_virtual_advance(&f.clock, 200000);
  fake_turn(&f, NULL);
  ti_coord_status s;
  ti_coord_get_status(f.coord, &s);
  return s;
}
static double metric(const char *name, const char *labels) {
  ti_metric *x = NULL;
  const ti_status st = ti_metrics_add(f.metrics, TI_METRIC_COUNTER, name, labels, "", &x);
  return st == TI_OK ? ti_metric_get(x) : -1;
}

Test(cluster, tp_ranks_of_a_group_get_the_same_plans_and_groups_share_the_load) {
  for (int lockstep = 0; lockstep < 2; lockstep++) {
    fake_config k = base(4, 2);
    k.lockstep = lockstep;
    fake_up(&f, &k);
    fake_request r[10];
    for (uint64_t i = 0; i < 10; i++) {
      r[i] = request(i, 12, 20);
      cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
    }
    fake_settle(&f, 1000);
    cr_assert_str_empty(f.wrong, "%s", f.wrong);
    for (int i = 0; i < 10; i++) {
      cr_assert(fake_expect(&f, &r[i], 0, true));
      fake_request_fini(&r[i]);
    }
    cr_assert_eq(f.worker[0].plan_hash, f.worker[1].plan_hash);
    cr_assert_eq(f.worker[2].plan_hash, f.worker[3].plan_hash);
    cr_assert_neq(f.worker[0].plan_hash, f.worker[2].plan_hash);
    cr_assert_eq(f.worker[0].tokens, 5 * 31);
    cr_assert_eq(f.worker[2].tokens, 5 * 31);
    fake_down(&f);
  }
}

Test(cluster, in_lockstep_an_idle_group_steps_with_empty_batches) {
  fake_config k = base(3, 1);
  k.lockstep = true;
  fake_up(&f, &k);
  fake_request r = request(1, 20, 10);
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_settle(&f, 1000);
  cr_assert(fake_expect(&f, &r, 0, true), "%s", f.wrong);
  cr_assert_eq(f.worker[0].steps, 2 + 9);
  cr_assert_eq(f.worker[1].steps, f.worker[0].steps);
  cr_assert_eq(f.worker[2].steps, f.worker[0].steps);
  cr_assert_eq(f.worker[1].tokens, 0);
  fake_request_fini(&r);
  fake_down(&f);
}

Test(cluster, a_slow_group_does_not_hold_up_the_other_without_lockstep) {
  const fake_config k = base(2, 1);
  fake_up(&f, &k);
  fake_request r[2] = {request(1, 5, 10), request(2, 5, 10)};
  for (int i = 0; i < 2; i++) cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  fake_turn(&f, NULL);
  for (int i = 0; i < 40; i++) {
    fake_step(&f.worker[1]);
    fake_turn(&f, NULL);
  }
  cr_assert_eq(ti_tokenlog_peek(r[0].log[0]).length, 0);
  cr_assert(fake_expect(&f, &r[1], 0, true));
  for (int i = 0; i < 2; i++) fake_request_fini(&r[i]);
  fake_down(&f);
}

Test(cluster, two_plans_are_in_flight_and_no_more) {
  const fake_config k = base(1, 1);
  fake_up(&f, &k);
  fake_request r = request(1, 5, 10);
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  for (int i = 0; i < 5; i++) fake_turn(&f, NULL);
  cr_assert_eq(f.worker[0].n_queued, 2);
  fake_settle(&f, 100);
  fake_request_fini(&r);
  fake_down(&f);
}

// Drafts of 16 texts of 100 tokens, one behind the other, when a draft costs so many us of a step that takes 1000. About half of them are right.
static double drafts_at(uint32_t draft_us) {
  fake_config k = base(1, 1);
  k.max_num_seqs = 1;
  k.max_draft = 3;
  k.draft_us = draft_us;
  fake_up(&f, &k);
  fake_request r[16];
  for (uint64_t i = 0; i < 16; i++) {
    r[i] = request(i, 5, 100);
    cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  }
  fake_settle(&f, 10000);
  for (int i = 0; i < 16; i++) {
    cr_assert(fake_expect(&f, &r[i], 0, true), "%s", f.wrong);
    fake_request_fini(&r[i]);
  }
  const double n = metric("vllm:spec_decode_num_draft_tokens_total", "");
  fake_down(&f);
  return n;
}

Test(cluster, drafts_that_cost_more_than_they_bring_cease) {
  const double cheap = drafts_at(0), dear = drafts_at(2000);
  cr_assert_gt(cheap, 1200, "1600 tokens, 2.5 a step, 3 drafts a step: %g", cheap);
  cr_assert(dear > 100 && dear < 900, "the first steps and the probes: %g", dear);
}

Test(cluster, the_same_requests_give_the_same_plans) {
  uint64_t first = 0;
  for (int run = 0; run < 2; run++) {
    fake_config k = base(2, 1);
    k.lockstep = true;
    k.n_page = 24;
    fake_up(&f, &k);
    fake_request r[12];
    for (uint64_t i = 0; i < 12; i++) {
      r[i] = request(i, 7 + (uint32_t)i, 15);
      r[i].n_choice = 1 + i % 3;
      cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
      fake_round(&f);
    }
    fake_settle(&f, 2000);
    cr_assert_str_empty(f.wrong, "%s", f.wrong);
    for (int i = 0; i < 12; i++) fake_request_fini(&r[i]);
    if (run == 0) first = f.all_plans;
    cr_assert_eq(f.all_plans, first);
    fake_down(&f);
  }
}

Test(cluster, a_dead_rank_ends_requests_with_its_name_and_the_loop_after_the_linger) {
  const fake_config k = base(2, 1);
  fake_up(&f, &k);
  fake_request r[2] = {request(1, 5, 90), request(2, 5, 90)};
  for (int i = 0; i < 2; i++) cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  for (int i = 0; i < 10; i++) fake_round(&f);
  fake_beat(&f.worker[1], 500, "moe: dispatch");
  fake_turn(&f, NULL);
  ti_ctl_local_kill(f.net, 2);
  f.worker[1].dead = true;
  ti_error err;
  cr_assert_eq(fake_turn(&f, &err), TI_INPROGRESS);
  ti_coord_status now;
  ti_coord_get_status(f.coord, &now);
  cr_assert(!now.healthy, "the turn that hears of the death publishes it, whenever the next regular one is due");
  for (int i = 0; i < 2; i++) {
    const ti_tokenlog_state s = ti_tokenlog_peek(r[i].log[0]);
    cr_assert_eq(s.finish, TI_FINISH_ERROR);
    cr_assert(strstr(s.error, "worker rank 2 died in step") && strstr(s.error, "(moe: dispatch)"), "%s", s.error);
    cr_assert_gt(s.length, 0);
  }
  cr_assert(f.worker[0].aborted);
  fake_request late = request(3, 5, 5);
  cr_assert_eq(fake_submit(&f, &late), TI_ERR_CLOSED);
  const ti_coord_status s = status();
  cr_assert(s.ready && !s.healthy && !s.rank[1].up && s.rank[0].up && strstr(s.message, "rank 2"));
  cr_assert_eq(s.running + s.waiting + s.pages_used, 0);
  fake_settle(&f, 10);  // results of the survivor change nothing
  ti_clock_virtual_advance(&f.clock, 1200000);
  cr_assert_eq(fake_turn(&f, &err), TI_ERR_PEER);
  cr_assert(strstr(err.text, "rank 2"), "%s", err.text);
  for (int i = 0; i < 2; i++) fake_request_fini(&r[i]);
  fake_request_fini(&late);
  fake_down(&f);
}

Test(cluster, a_silent_rank_and_one_that_hangs_in_a_step_are_found) {
  for (int how = 0; how < 3; how++) {
    const fake_config k = base(2, 1);
    fake_init(&f, &k);
    ti_coord_config cfg = fake_coord_config(&f);
    cfg.heartbeat_us = how == 0 ? 2000000 : UINT64_MAX;
    cfg.step_limit_us = how == 0 ? UINT64_MAX : 30000000;
    fake_start(&f, &cfg);
    fake_request r = request(1, 5, 90);
    cr_assert_eq(fake_submit(&f, &r), TI_OK);
    fake_turn(&f, NULL);
    ti_error err;
    if (how == 0) {
      for (int i = 0; i < 20; i++) {
        ti_clock_virtual_advance(&f.clock, 100000);
        fake_beat(&f.worker[1], 0, NULL);
        if (i < 19) cr_assert_eq(ti_tokenlog_peek(r.log[0]).finish, TI_FINISH_NONE);
        fake_turn(&f, &err);
      }
    } else if (how == 1) {
      fake_beat(&f.worker[0], 30000001, "layer 3: attention");
      fake_turn(&f, &err);
    } else {
      ti_clock_virtual_advance(&f.clock, 30000000);
      fake_turn(&f, &err);
    }
    const ti_tokenlog_state s = ti_tokenlog_peek(r.log[0]);
    static const char *const says[] = {"rank 1 has not been heard of for 2.0 s", "rank 1 hangs for 30.0 s in step 0 (layer 3: attention)",
                                       "rank 1 has given no result for 30.0 s"};
    cr_assert_eq(s.finish, TI_FINISH_ERROR, "case %d", how);
    cr_assert(strstr(s.error, says[how]), "%s", s.error);
    fake_request_fini(&r);
    fake_down(&f);
  }
}

Test(cluster, a_connection_without_the_secret_is_dropped_and_the_address_stays_usable) {
  const fake_config k = base(1, 1);
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  ti_error err;
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_OK);
  fake_worker_open(&f, 1);
  fake_worker *w = &f.worker[0];
  w->mute = true;
  fake_turn(&f, NULL);
  const ti_control hello = {
      .kind = TI_CTL_HELLO,
      .hello = {.rank = 1, .version = TI_WIRE_VERSION, .n_slot = 8, .n_page = 64, .page_tokens = 4, .max_rows = 16, .max_context = 128, .vocab = 50}};
  fake_send(w, &hello);
  for (int i = 0; i < 3; i++) fake_turn(&f, NULL);
  cr_assert_eq(metric("titan_bad_hellos_total", NULL), 1);
  cr_assert(!status().ready);
  ti_ctl_peer_close(w->peer);
  cr_assert_eq(ti_ctl_local_peer_open(f.net, 1, fake_sink, w, &w->peer), TI_OK);
  w->mute = false;
  for (int i = 0; i < 4; i++) fake_turn(&f, NULL);
  cr_assert(w->welcome);
  cr_assert(status().ready);
  fake_down(&f);
}

Test(cluster, a_connection_that_says_nothing_is_dropped_after_a_while) {
  const fake_config k = base(1, 1);
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  ti_error err;
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_OK);
  fake_worker_open(&f, 1);
  f.worker[0].mute = true;
  fake_turn(&f, NULL);
  ti_clock_virtual_advance(&f.clock, 5000001);
  fake_turn(&f, NULL);
  cr_assert_eq(metric("titan_bad_hellos_total", NULL), 1);
  fake_down(&f);
}

Test(cluster, ranks_that_do_not_come_are_named) {
  const fake_config k = base(3, 1);
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  ti_error err;
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_OK);
  fake_worker_open(&f, 2);
  for (int i = 0; i < 4; i++) {
    uint64_t next;
    ti_ctl_local_pump(f.net, 0);
    cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_INPROGRESS);
    ti_ctl_local_pump(f.net, 0);
    fake_read(&f.worker[1]);
  }
  ti_clock_virtual_advance(&f.clock, 602000000);
  uint64_t next;
  cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_INPROGRESS, "the linger");
  ti_clock_virtual_advance(&f.clock, 2000000);
  cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_ERR_TIMEOUT);
  cr_assert(strstr(err.text, "rank 1, 3 not ready"), "%s", err.text);
  f.worker[0].last = f.worker[2].last = NULL;
  fake_down(&f);
}

Test(cluster, a_worker_with_too_little_ends_the_start_by_name) {
  const fake_config k = base(2, 1);
  fake_init(&f, &k);
  ti_coord_config cfg = fake_coord_config(&f);
  cfg.max_model_len = 129;
  fake_start(&f, &cfg);
  cr_assert(!f.worker[0].welcome);
  ti_clock_virtual_advance(&f.clock, 1200000);
  ti_error err;
  cr_assert_eq(fake_turn(&f, &err), TI_ERR_RANGE);
  cr_assert(strstr(err.text, "Hello.max_context of rank 1: 128, expected at least 129"), "%s", err.text);
  fake_down(&f);
}

Test(cluster, a_rank_that_dies_before_all_are_there_is_a_death) {
  const fake_config k = base(2, 1);
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  ti_error err;
  uint64_t next;
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_OK);
  fake_worker_open(&f, 1);
  for (int i = 0; i < 3; i++) {
    ti_ctl_local_pump(f.net, 0);
    cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_INPROGRESS);
    ti_ctl_local_pump(f.net, 0);
    fake_read(&f.worker[0]);
  }
  fake_request r = request(1, 5, 20);
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  ti_ctl_local_kill(f.net, 1);
  ti_ctl_local_pump(f.net, 0);
  cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_INPROGRESS);
  ti_clock_virtual_advance(&f.clock, 1200000);
  cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_ERR_PEER);
  cr_assert(strstr(err.text, "rank 1 died before all ranks were ready"), "%s", err.text);
  cr_assert_eq(ti_tokenlog_peek(r.log[0]).finish, TI_FINISH_ERROR);
  fake_request_fini(&r);
  fake_down(&f);
}

Test(cluster, hostile_and_stale_results_are_counted_and_change_nothing) {
  const fake_config k = base(1, 1);
  fake_up(&f, &k);
  fake_request r = request(1, 5, 20);
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_turn(&f, NULL);
  const uint32_t token[3] = {1, 2, 50};
  const ti_result_row good = {.token = {token, 1}};
  struct {
    ti_step_result res;
    ti_result_row row[2];
  } bad[] = {
      {.res = {.epoch = 1, .step = 0, .n_row = 0}},
      {.res = {.epoch = 1, .step = 0, .n_row = 2}, .row = {good, {.slot = 1}}},
      {.res = {.epoch = 1, .step = 1, .n_row = 1}, .row = {good}},
      {.res = {.epoch = 1, .step = 7, .n_row = 1}, .row = {good}},
      {.res = {.epoch = 1, .step = 0, .n_row = 1}, .row = {{.slot = 1, .token = {token, 1}}}},
      {.res = {.epoch = 1, .step = 0, .n_row = 1}, .row = {{.slot = 0, .token = {token, 0}}}},
      {.res = {.epoch = 1, .step = 0, .n_row = 1}, .row = {{.slot = 0, .token = {token, 2}}}},
      {.res = {.epoch = 1, .step = 0, .n_row = 1}, .row = {{.slot = 0, .token = {token + 2, 1}}}},
      {.res = {.epoch = 1, .step = 0, .n_row = 1}, .row = {{.slot = 4000, .token = {token, 1}}}},
  };
  const int n = (int)(sizeof bad / sizeof bad[0]);
  for (int i = 0; i < n; i++) {
    bad[i].res.row = bad[i].row;
    const ti_control m = {.kind = TI_CTL_RESULT, .result = bad[i].res};
    fake_send(&f.worker[0], &m);
    fake_turn(&f, NULL);
    cr_assert_eq(metric("titan_bad_messages_total", NULL), i + 1, "case %d", i);
  }
  cr_assert_eq(ti_ctl_peer_send(f.worker[0].peer, "\xff\xff\xff", 3), TI_OK);
  const ti_control stale = {.kind = TI_CTL_RESULT, .result = {.epoch = 0, .step = 0, .row = &good, .n_row = 1}};
  fake_send(&f.worker[0], &stale);
  fake_turn(&f, NULL);
  cr_assert_eq(metric("titan_bad_messages_total", NULL), n + 1);
  cr_assert_eq(metric("titan_stale_results_total", NULL), 1);
  cr_assert_eq(ti_tokenlog_peek(r.log[0]).length, 0);
  fake_settle(&f, 100);
  cr_assert(fake_expect(&f, &r, 0, true), "%s", f.wrong);
  fake_request_fini(&r);
  fake_down(&f);
}

Test(cluster, a_drain_lets_what_runs_finish_and_refuses_the_rest) {
  const fake_config k = base(1, 1);
  fake_up(&f, &k);
  fake_request r[12], late = request(3, 5, 5);
  for (uint64_t i = 0; i < 12; i++) {
    r[i] = request(i, 5, 20);
    cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  }
  for (int i = 0; i < 3; i++) fake_round(&f);
  ti_coord_drain(f.coord, 10000000);
  cr_assert_eq(fake_submit(&f, &late), TI_ERR_CLOSED);
  ti_error err;
  ti_status st = TI_INPROGRESS;
  for (int i = 0; i < 500 && st == TI_INPROGRESS; i++) {
    fake_step(&f.worker[0]);
    st = fake_turn(&f, &err);
  }
  cr_assert_eq(st, TI_OK);
  cr_assert(f.worker[0].drained);
  for (int i = 0; i < 12; i++) cr_assert(fake_expect(&f, &r[i], 0, true), "%s", f.wrong);
  for (int i = 0; i < 12; i++) fake_request_fini(&r[i]);
  fake_request_fini(&late);
  fake_down(&f);
}

Test(cluster, a_drain_that_takes_too_long_ends_the_rest_with_an_error) {
  const fake_config k = base(1, 1);
  fake_up(&f, &k);
  fake_request r = request(1, 5, 20);
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  for (int i = 0; i < 3; i++) fake_round(&f);
  ti_coord_drain(f.coord, 1000);
  ti_error err;
  cr_assert_eq(fake_turn(&f, &err), TI_INPROGRESS);
  ti_clock_virtual_advance(&f.clock, 1000);
  cr_assert_eq(fake_turn(&f, &err), TI_OK);
  cr_assert_eq(ti_tokenlog_peek(r.log[0]).finish, TI_FINISH_ERROR);
  cr_assert_str_eq(ti_tokenlog_peek(r.log[0]).error, "the server is shutting down");
  fake_request_fini(&r);
  fake_down(&f);
}

Test(cluster, more_requests_than_may_wait_are_refused) {
  const fake_config k = base(1, 1);
  fake_init(&f, &k);
  ti_coord_config cfg = fake_coord_config(&f);
  cfg.max_waiting = 3;
  fake_start(&f, &cfg);
  fake_request r[5];
  for (uint64_t i = 0; i < 5; i++) {
    r[i] = request(i, 5, 5);
    cr_assert_eq(fake_submit(&f, &r[i]), i < 3 ? TI_OK : TI_ERR_FULL);
  }
  fake_settle(&f, 100);
  for (int i = 0; i < 3; i++) cr_assert(fake_expect(&f, &r[i], 0, true), "%s", f.wrong);
  for (int i = 0; i < 5; i++) fake_request_fini(&r[i]);
  r[0] = request(9, 5, 5);
  cr_assert_eq(fake_submit(&f, &r[0]), TI_OK);
  fake_settle(&f, 100);
  fake_request_fini(&r[0]);
  fake_down(&f);
}

Test(cluster, requests_that_come_before_the_workers_wait_for_them) {
  const fake_config k = base(1, 1);
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  ti_error err;
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_OK);
  fake_request r = request(1, 5, 20);
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  uint64_t next;
  cr_assert_eq(ti_coord_turn(f.coord, &next, &err), TI_INPROGRESS);
  fake_worker_open(&f, 1);
  fake_settle(&f, 100);
  for (int i = 0; i < 5; i++) fake_turn(&f, NULL);
  fake_settle(&f, 100);
  cr_assert(fake_expect(&f, &r, 0, true), "%s", f.wrong);
  fake_request_fini(&r);
  fake_down(&f);
}

Test(cluster, a_number_that_cannot_be_is_named) {
  const fake_config k = base(1, 1);
  fake_init(&f, &k);
  ti_coord_config cfg = fake_coord_config(&f);
  cfg.max_num_batched_tokens = 4;
  ti_error err;
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_ERR_ARG);
  cr_assert(strstr(err.text, "max_num_batched_tokens 4 is out of 8.."), "%s", err.text);
  cfg = fake_coord_config(&f);
  cfg.policy = "lottery";
  cr_assert_eq(ti_coord_create(&cfg, &f.coord, &err), TI_ERR_ARG);
  cr_assert(strstr(err.text, "\"lottery\""), "%s", err.text);
}
