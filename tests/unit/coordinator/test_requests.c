// Requests through the whole core: plans, results, logs; on virtual time with fake workers that check every plan and every KV place (fake.h).
#include <criterion/criterion.h>

#include "fake.h"

static fake f;

static fake_config base(void) {
  return (fake_config){
      .mesh = {1, 1, 1, 1, 1}, .vocab = 50, .page_tokens = 4, .max_model_len = 128, .max_num_seqs = 8, .budget = 16, .n_page = 64, .check_kv = true};
}
static ti_coord_status status(void) {
  ti_clock_virtual_advance(&f.clock, 200000);
  fake_turn(&f, NULL);
  ti_coord_status s;
  ti_coord_get_status(f.coord, &s);
  return s;
}
static void all_well(void) {
  cr_assert_str_empty(f.wrong, "%s", f.wrong);
  const ti_coord_status s = status();
  cr_assert_eq(s.pages_used, 0);
  cr_assert_eq(s.running, 0);
  cr_assert_eq(s.waiting, 0);
}

Test(requests, a_prompt_goes_in_and_its_tokens_come_out) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {.seed = 1, .n_prompt = 5, .max_tokens = 10, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_settle(&f, 100);
  cr_assert(fake_expect(&f, &r, 0, true), "%s", f.wrong);
  cr_assert_eq(ti_tokenlog_peek(r.log[0]).finish, TI_FINISH_LENGTH);
  cr_assert_eq(ti_tokenlog_peek(r.log[0]).length, 10);
  all_well();
  cr_assert_eq(f.worker[0].tokens, 5 + 9, "the last token is not fed, nothing is fed twice: %lu", (unsigned long)f.worker[0].tokens);
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, a_long_prompt_is_prefilled_in_chunks_within_the_budget) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {.seed = 2, .n_prompt = 100, .max_tokens = 3, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_settle(&f, 100);
  cr_assert(fake_expect(&f, &r, 0, true), "%s", f.wrong);
  cr_assert_eq(f.worker[0].steps, 7 + 2);
  all_well();
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, the_end_of_text_ends_a_sequence_and_later_rows_are_no_ops) {
  fake_config k = base();
  k.vocab = 6;  // one token in six ends
  fake_up(&f, &k);
  fake_request r[20];
  for (uint64_t i = 0; i < 20; i++) {
    r[i] = (fake_request){
        .seed = 100 + i, .n_prompt = 3 + (uint32_t)i, .max_tokens = 20, .min_tokens = (uint32_t)i % 3, .n_logprob = -1, .n_prompt_logprob = -1};
    cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  }
  fake_settle(&f, 1000);
  for (int i = 0; i < 20; i++) {
    cr_assert(fake_expect(&f, &r[i], 0, true), "request %d: %s", i, f.wrong);
    fake_request_fini(&r[i]);
  }
  all_well();
  fake_down(&f);
}

Test(requests, choices_share_the_prompts_pages_and_copy_a_partial_one) {
  for (uint32_t n_prompt = 1; n_prompt <= 40; n_prompt++) {
    for (uint32_t lookahead = 0; lookahead < 2; lookahead++) {
      fake_config k = base();
      k.lookahead = lookahead;
      fake_up(&f, &k);
      fake_request r = {
          .seed = n_prompt, .n_prompt = n_prompt, .n_choice = 4, .max_tokens = 9, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
      cr_assert_eq(fake_submit(&f, &r), TI_OK);
      fake_settle(&f, 200);
      for (uint32_t i = 0; i < 4; i++) cr_assert(fake_expect(&f, &r, i, true), "prompt %u choice %u: %s", n_prompt, i, f.wrong);
      cr_assert_eq(f.worker[0].tokens, n_prompt + 3 + 4 * 8, "the prompt is computed once but for its last token");
      cr_assert_eq(f.worker[0].copies, (n_prompt - 1) % 4 + lookahead ? 3 : 0);
      all_well();
      fake_request_fini(&r);
      fake_down(&f);
    }
  }
}

Test(requests, pages_that_run_out_preempt_the_last_and_everything_finishes) {
  const char *const policies[] = {"fcfs", "priority"};
  for (int p = 0; p < 2; p++) {
    fake_config k = base();
    k.n_page = 20;
    k.policy = policies[p];
    fake_up(&f, &k);
    fake_request r[12];
    for (uint64_t i = 0; i < 12; i++) {
      r[i] = (fake_request){.seed = 7 + i,
                            .n_prompt = 10,
                            .max_tokens = 40,
                            .ignore_eos = true,
                            .priority = (int)(11 - i) / 3,
                            .n_logprob = -1,
                            .n_prompt_logprob = -1};
      cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
    }
    fake_settle(&f, 5000);
    for (int i = 0; i < 12; i++) {
      cr_assert(fake_expect(&f, &r[i], 0, true), "%s request %d: %s", policies[p], i, f.wrong);
      fake_request_fini(&r[i]);
    }
    all_well();
    cr_assert_gt(status().preempted, 0);
    fake_down(&f);
  }
}

Test(requests, a_request_that_can_never_fit_is_refused) {
  fake_config k = base();
  k.n_page = 8;
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  fake_start(&f, &cfg);
  fake_request r = {.seed = 1, .n_prompt = 30, .max_tokens = 10, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_ERR_RANGE);
  fake_request_fini(&r);
  r = (fake_request){.seed = 1, .n_prompt = 23, .max_tokens = 10, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK, "32 places are 8 pages");
  fake_settle(&f, 100);
  cr_assert(fake_expect(&f, &r, 0, true), "%s", f.wrong);
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, a_prompt_is_scored_without_generating) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {.seed = 3, .n_prompt = 37, .n_choice = 2, .max_tokens = 0, .n_logprob = -1, .n_prompt_logprob = 0};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_settle(&f, 100);
  for (int c = 0; c < 2; c++) {
    const ti_tokenlog_state s = ti_tokenlog_peek(r.log[c]);
    cr_assert_eq(s.finish, TI_FINISH_LENGTH);
    cr_assert_eq(s.length, 0);
    cr_assert_eq(s.n_prompt, 37);
    const float *lp = ti_tokenlog_prompt_logprobs(r.log[c]);
    cr_assert(isnan(lp[0]));
    for (int i = 1; i < 37; i++) cr_assert_float_eq(lp[i], -(float)i, 0);
  }
  all_well();
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, a_cancel_between_steps_gives_everything_back) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {.seed = 3, .n_prompt = 30, .n_choice = 3, .max_tokens = 50, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  for (int i = 0; i < 8; i++) fake_round(&f);
  ti_coord_cancel(f.coord, r.id);
  fake_settle(&f, 100);
  for (uint32_t i = 0; i < 3; i++) {
    cr_assert_eq(ti_tokenlog_peek(r.log[i]).finish, TI_FINISH_CANCEL);
    cr_assert(fake_expect(&f, &r, i, false));
  }
  all_well();
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, a_stop_string_found_late_keeps_n_tokens) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {.seed = 3, .n_prompt = 3, .n_choice = 2, .max_tokens = 50, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  for (int i = 0; i < 12; i++) fake_round(&f);
  const uint32_t had = ti_tokenlog_peek(r.log[0]).length;
  cr_assert_gt(had, 4);
  ti_coord_finish(f.coord, r.id, 0, TI_FINISH_STOP, 4);
  fake_settle(&f, 200);
  const ti_tokenlog_state s = ti_tokenlog_peek(r.log[0]);
  cr_assert_eq(s.finish, TI_FINISH_STOP);
  cr_assert_eq(s.length, 4);
  cr_assert(fake_expect(&f, &r, 0, false));
  cr_assert(fake_expect(&f, &r, 1, true), "the other choice goes on");
  all_well();
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, a_deadline_cancels) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {
      .seed = 3, .n_prompt = 3, .max_tokens = 100, .ignore_eos = true, .deadline_us = f.clock.us + 20000, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_settle(&f, 200);
  const ti_tokenlog_state s = ti_tokenlog_peek(r.log[0]);
  cr_assert_eq(s.finish, TI_FINISH_CANCEL);
  cr_assert_str_eq(s.error, "the request's deadline has passed");
  cr_assert(s.length > 5 && s.length < 40);
  all_well();
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, a_deadline_that_passed_before_the_loop_looked_cancels_too) {
  const fake_config k = base();
  fake_up(&f, &k);
  fake_request r = {.seed = 3, .n_prompt = 3, .max_tokens = 100, .deadline_us = f.clock.us - 1, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(fake_submit(&f, &r), TI_OK);
  fake_settle(&f, 20);
  cr_assert_eq(ti_tokenlog_peek(r.log[0]).finish, TI_FINISH_CANCEL, "the same answer whenever it passes");
  cr_assert_eq(f.worker[0].tokens, 0);
  all_well();
  fake_request_fini(&r);
  fake_down(&f);
}

Test(requests, the_time_in_the_queue_is_measured_once_a_request) {
  fake_config k = base();
  k.max_num_seqs = 1;
  fake_up(&f, &k);
  fake_request r[3];
  for (uint64_t i = 0; i < 3; i++) {
    r[i] = (fake_request){.seed = i, .n_prompt = 4, .max_tokens = 3, .n_choice = 2, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
    cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  }
  fake_settle(&f, 100);
  ti_buf text;
  ti_buf_init(&text, 1 << 20);
  cr_assert_eq(ti_metrics_render(f.metrics, &text), TI_OK);
  cr_assert_eq(ti_buf_append(&text, "", 1), TI_OK);
  cr_assert_not_null(strstr((const char *)text.data, "vllm:request_queue_time_seconds_count 3\n"));
  ti_buf_fini(&text);
  for (int i = 0; i < 3; i++) fake_request_fini(&r[i]);
  fake_down(&f);
}

Test(requests, the_ends_of_the_models_context) {
  for (uint32_t lookahead = 0; lookahead < 2; lookahead++) {
    fake_config k = base();
    k.lookahead = lookahead;
    fake_up(&f, &k);
    const struct {
      uint32_t n_prompt, max_tokens, length;
      ti_status st;
    } t[] = {{127, 1, 1, TI_OK},  {127, 40, 1, TI_OK},       {128, 0, 0, TI_OK},       {1, 1000, 127, TI_OK},
             {64, 64, 64, TI_OK}, {128, 1, 0, TI_ERR_RANGE}, {129, 0, 0, TI_ERR_RANGE}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
      fake_request r = {.seed = i,
                        .n_prompt = t[i].n_prompt,
                        .n_choice = 2,
                        .max_tokens = t[i].max_tokens,
                        .ignore_eos = true,
                        .n_logprob = -1,
                        .n_prompt_logprob = -1};
      cr_assert_eq(fake_submit(&f, &r), t[i].st, "prompt %u max_tokens %u", t[i].n_prompt, t[i].max_tokens);
      fake_settle(&f, 400);
      cr_assert_str_empty(f.wrong, "%s", f.wrong);
      for (uint32_t c = 0; c < 2 && !t[i].st; c++) {
        cr_assert_eq(ti_tokenlog_peek(r.log[c]).finish, TI_FINISH_LENGTH);
        cr_assert_eq(ti_tokenlog_peek(r.log[c]).length, t[i].length);
      }
      fake_request_fini(&r);
    }
    all_well();
    fake_down(&f);
  }
}

Test(requests, destroying_the_coordinator_rings_nobody) {
  const fake_config k = base();
  fake_init(&f, &k);
  const ti_coord_config cfg = fake_coord_config(&f);
  fake_start(&f, &cfg);
  ti_inbox q;
  cr_assert_eq(ti_inbox_init(&q), TI_OK);
  ti_tokenlog *log[2];
  for (int i = 0; i < 2; i++) {
    const ti_tokenlog_options o = {.max_tokens = 4, .n_logprob = -1, .n_prompt_logprob = -1, .subscriber = &q};
    cr_assert_eq(ti_tokenlog_create(&o, &log[i]), TI_OK);
    ti_request_spec *s = ti_request_spec_create();
    s->ids = calloc(1, sizeof *s->ids);
    s->log = malloc(sizeof *s->log);
    s->log[0] = ti_tokenlog_hold(log[i]);
    s->n_prompt = s->n_choice = 1;
    s->max_tokens = 4;
    s->sampling = (ti_sampling){.top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1};
    uint64_t id;
    cr_assert_eq(ti_coord_submit(f.coord, s, &id), TI_OK);
    if (i == 0) fake_turn(&f, NULL);  // the other one is still mail
  }
  fake_down(&f);
  for (int i = 0; i < 2; i++) {
    cr_assert_eq(ti_tokenlog_peek(log[i]).finish, TI_FINISH_ERROR);
    ti_tokenlog_rele(log[i]);
  }
  cr_assert_null(ti_inbox_pop(&q), "the gateway's inbox is gone when the coordinator goes");
  ti_inbox_fini(&q);
}

Test(requests, priority_runs_the_lower_value_first) {
  fake_config k = base();
  k.max_num_seqs = 1;
  k.policy = "priority";
  fake_up(&f, &k);
  fake_request r[4];
  for (uint64_t i = 0; i < 4; i++) {
    r[i] = (fake_request){
        .seed = i, .n_prompt = 4, .max_tokens = 6, .ignore_eos = true, .priority = i == 0 ? 0 : -(int)i, .n_logprob = -1, .n_prompt_logprob = -1};
    cr_assert_eq(fake_submit(&f, &r[i]), TI_OK);
  }
  int order[4], n = 0;
  for (int round = 0; round < 200 && n < 4; round++) {
    fake_round(&f);
    for (int i = 0; i < 4; i++) {
      bool had = false;
      for (int j = 0; j < n; j++) had |= order[j] == i;
      if (!had && ti_tokenlog_peek(r[i].log[0]).finish) order[n++] = i;
    }
  }
  for (int i = 0; i < 4; i++) cr_assert_eq(order[i], 3 - i);
  all_well();
  for (int i = 0; i < 4; i++) fake_request_fini(&r[i]);
  fake_down(&f);
}
