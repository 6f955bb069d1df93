// Copies of hot experts: when a placement is made, sent, and in force.
#include <criterion/criterion.h>

#include "coordinator/balance.h"

static const ti_mesh mesh = {.workers = 4, .tp = 1, .dp = 4, .ep = 4, .etp = 1};

// One step's loads of both layers under the placement in force: expert `hot` gets `n` rows of layer 0 on the worker that has it at home.
static void feed(ti_balance *b, uint64_t step, int hot, uint32_t n) {
  for (int w = 0; w < 4; w++) {
    uint32_t load[2 * 3] = {0};
    if (hot / 2 == w) load[hot % 2] = n;
    load[3] = 10;
    ti_balance_add(b, w, step, (ti_u32s){load, 6});
  }
}

Test(balance, a_hot_expert_gets_copies_once_all_workers_have_them) {
  ti_balance b;
  ti_error err;
  ti_msg_placement m = {0};
  cr_assert_eq(ti_balance_init(&b, &mesh, 2, 8, 4, 2, 100, &err), TI_OK);  // 12 slots, 3 a rank, the third redundant
  cr_expect_eq(b.window_rows, 400);
  feed(&b, 0, 5, 300);
  cr_expect_not(ti_balance_tick(&b, &m), "340 rows of 400");
  feed(&b, 1, 5, 300);
  cr_expect_not(ti_balance_tick(&b, &m), "the first layer");
  cr_assert(ti_balance_tick(&b, &m), "the second: it is sent");
  cr_expect_eq(m.version, 1);
  cr_expect_eq(m.n_layer, 2);
  cr_assert_eq(m.slot_expert.n, 24);
  int copies = 0;
  for (int s = 0; s < 12; s++) copies += m.slot_expert.v[s] == 5;
  cr_expect_eq(copies, 4, "the hot one on every rank");
  cr_expect_eq(ti_balance_switch(&b, 2), 0, "nobody has it");
  for (int w = 0; w < 3; w++) ti_balance_ready(&b, w, 1);
  ti_balance_ready(&b, 3, 0);
  cr_expect_eq(ti_balance_switch(&b, 3), 0, "worker 3 has not");
  cr_expect_not(ti_balance_tick(&b, &m), "one at a time");
  ti_balance_ready(&b, 3, 1);
  cr_expect_eq(ti_balance_switch(&b, 4), 1);
  cr_expect_eq(ti_balance_at(&b, 3)[0]->version, 0, "results in flight count by the old placement");
  cr_expect_eq(ti_balance_at(&b, 4)[0]->version, 1);
  ti_balance_fini(&b);
}

Test(balance, nothing_is_sent_when_nothing_changes) {
  ti_balance b;
  ti_error err;
  ti_msg_placement m;
  cr_assert_eq(ti_balance_init(&b, &mesh, 2, 8, 4, 2, 1, &err), TI_OK);
  for (int w = 0; w < 4; w++) ti_balance_add(&b, w, 0, (ti_u32s){(const uint32_t[]){5, 5, 0, 5, 5, 0}, 6});
  for (int i = 0; i < 8; i++) cr_expect_not(ti_balance_tick(&b, &m));
  cr_expect_eq(b.version, 0);
  ti_balance_fini(&b);
}

Test(balance, without_redundant_slots_it_only_knows_where_experts_are) {
  ti_balance b;
  ti_error err;
  ti_msg_placement m;
  cr_assert_eq(ti_balance_init(&b, &mesh, 1, 8, 0, 2, 1, &err), TI_OK);
  ti_balance_add(&b, 0, 0, (ti_u32s){(const uint32_t[]){500, 0}, 2});
  cr_expect_not(ti_balance_tick(&b, &m));
  for (int s = 0; s < 8; s++) cr_expect_eq(ti_balance_at(&b, 0)[0]->slot_expert[s], s);
  ti_balance_fini(&b);
  cr_assert_eq(ti_balance_init(&b, &mesh, 0, 0, 0, 0, 0, &err), TI_OK);
  cr_expect_eq(ti_balance_switch(&b, 9), 0);
  ti_balance_fini(&b);
}
