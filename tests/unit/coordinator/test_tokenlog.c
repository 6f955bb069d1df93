#include <criterion/criterion.h>
#include <math.h>

#include "coordinator/tokenlog.h"

Test(tokenlog, what_is_appended_is_read_by_offset) {
  ti_tokenlog *l;
  const ti_tokenlog_options o = {.max_tokens = 4, .n_logprob = 2, .n_prompt_logprob = -1};
  cr_assert_eq(ti_tokenlog_create(&o, &l), TI_OK);
  const uint32_t ids[3] = {7, 8, 9}, rank[3] = {1, 2, 3};
  const float lp[3] = {-1, -2, -3};
  ti_top_logprob top[3] = {{.n = 2, .id = {7, 1}}, {.n = 1, .id = {5}}, {.n = 0}};
  cr_assert_eq(ti_tokenlog_append(l, ids, 2, lp, rank, top), TI_OK);
  cr_assert_eq(ti_tokenlog_peek(l).length, 2);
  cr_assert_eq(ti_tokenlog_append(l, ids + 2, 1, NULL, NULL, NULL), TI_OK);
  cr_assert_eq(ti_tokenlog_peek(l).length, 3);
  cr_assert_eq(ti_tokenlog_ids(l)[2], 9);
  cr_assert_eq(ti_tokenlog_ranks(l)[1], 2);
  cr_assert_float_eq(ti_tokenlog_logprobs(l)[1], -2, 0);
  cr_assert(isnan(ti_tokenlog_logprobs(l)[2]), "none was given");
  cr_assert_eq(ti_tokenlog_tops(l)[0].id[1], 1);
  cr_assert_eq(ti_tokenlog_tops(l)[2].n, 0);
  ti_tokenlog_rele(l);
}

Test(tokenlog, beyond_its_room_nothing_is_appended) {
  ti_tokenlog *l;
  const ti_tokenlog_options o = {.max_tokens = 2, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(ti_tokenlog_create(&o, &l), TI_OK);
  const uint32_t ids[3] = {7, 8, 9};
  cr_assert_eq(ti_tokenlog_append(l, ids, 3, NULL, NULL, NULL), TI_ERR_FULL);
  cr_assert_eq(ti_tokenlog_peek(l).length, 0);
  cr_assert_eq(ti_tokenlog_append(l, ids, 2, NULL, NULL, NULL), TI_OK);
  cr_assert_eq(ti_tokenlog_append(l, ids, 1, NULL, NULL, NULL), TI_ERR_FULL);
  cr_assert_null(ti_tokenlog_logprobs(l));
  cr_assert_eq(ti_tokenlog_append_prompt(l, 1, NULL, NULL, NULL), TI_ERR_FULL, "it keeps none");
  ti_tokenlog_rele(l);
}

Test(tokenlog, a_late_finish_lowers_the_visible_count_and_the_first_finish_counts) {
  ti_tokenlog *l;
  const ti_tokenlog_options o = {.max_tokens = 8, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(ti_tokenlog_create(&o, &l), TI_OK);
  const uint32_t ids[4] = {1, 2, 3, 4};
  cr_assert_eq(ti_tokenlog_append(l, ids, 4, NULL, NULL, NULL), TI_OK);
  ti_tokenlog_finish(l, TI_FINISH_STOP, 3, NULL);
  ti_tokenlog_finish(l, TI_FINISH_ERROR, 1, "no");
  const ti_tokenlog_state s = ti_tokenlog_peek(l);
  cr_assert_eq(s.length, 3);
  cr_assert_eq(s.finish, TI_FINISH_STOP);
  cr_assert_null(s.error);
  cr_assert_eq(ti_tokenlog_append(l, ids, 1, NULL, NULL, NULL), TI_ERR_CLOSED);
  ti_tokenlog_rele(l);
}

Test(tokenlog, nothing_is_appended_after_the_end) {
  ti_tokenlog *l;
  const ti_tokenlog_options o = {.max_tokens = 1, .n_logprob = -1, .n_prompt = 4, .n_prompt_logprob = 0};
  cr_assert_eq(ti_tokenlog_create(&o, &l), TI_OK);
  const float lp[2] = {-1, -2};
  cr_assert_eq(ti_tokenlog_append_prompt(l, 2, lp, NULL, NULL), TI_OK);
  ti_tokenlog_finish(l, TI_FINISH_CANCEL, 0, NULL);
  cr_assert_eq(ti_tokenlog_append_prompt(l, 1, lp, NULL, NULL), TI_ERR_CLOSED, "a chunk that was in flight when its request was cancelled");
  cr_assert_eq(ti_tokenlog_peek(l).n_prompt, 2);
  ti_tokenlog_rele(l);
}

Test(tokenlog, the_subscriber_gets_the_log_once_until_it_has_seen_it) {
  ti_inbox q;
  cr_assert_eq(ti_inbox_init(&q), TI_OK);
  ti_tokenlog *l;
  int owner;
  const ti_tokenlog_options o = {.max_tokens = 8, .n_logprob = -1, .n_prompt_logprob = -1, .subscriber = &q, .owner = &owner};
  cr_assert_eq(ti_tokenlog_create(&o, &l), TI_OK);
  const uint32_t ids[4] = {1, 2, 3, 4};
  ti_tokenlog_ring(l);
  cr_assert_null(ti_inbox_pop(&q), "nothing moved");
  cr_assert_eq(ti_tokenlog_append(l, ids, 2, NULL, NULL, NULL), TI_OK);
  cr_assert_null(ti_inbox_pop(&q), "append only marks");
  ti_tokenlog_ring(l);
  cr_assert_eq(ti_tokenlog_append(l, ids, 1, NULL, NULL, NULL), TI_OK);
  ti_tokenlog_ring(l);
  ti_tokenlog *got = ti_tokenlog_of_node(ti_inbox_pop(&q));
  cr_assert_eq(got, l);
  cr_assert_eq(ti_tokenlog_owner(got), &owner);
  cr_assert_null(ti_inbox_pop(&q));
  ti_tokenlog_seen(got);
  cr_assert_eq(ti_tokenlog_peek(got).length, 3);
  ti_tokenlog_rele(got);
  ti_tokenlog_finish(l, TI_FINISH_CANCEL, 8, NULL);
  ti_tokenlog_ring(l);
  ti_tokenlog_rele(l);  // the node's reference keeps it
  got = ti_tokenlog_of_node(ti_inbox_pop(&q));
  ti_tokenlog_seen(got);
  cr_assert_eq(ti_tokenlog_peek(got).length, 3);
  cr_assert_eq(ti_tokenlog_peek(got).finish, TI_FINISH_CANCEL);
  ti_tokenlog_rele(got);
  ti_inbox_fini(&q);
}
