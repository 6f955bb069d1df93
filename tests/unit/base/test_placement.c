// Placements: EPLB's published example, and what every placement must keep.
#include <criterion/criterion.h>

#include "base/placement.h"

// deepseek-ai/EPLB, README: two layers of 12 experts in 4 groups, 16 replicas on 2 nodes with 4 GPUs each.
static const float readme_load[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
static const int readme_slots[2][16] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}, {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};

Test(placement, gives_the_published_example) {
  for (int layer = 0; layer < 2; layer++) {
    ti_placement *p = NULL;
    const ti_placement_args a = {.load = readme_load[layer], .n_expert = 12, .n_slot = 16, .ep = 8, .n_group = 4, .n_node = 2, .version = 3};
    cr_assert_eq(ti_placement_balance(&a, &p, NULL), TI_OK);
    for (int i = 0; i < 16; i++) cr_expect_eq(p->slot_expert[i], readme_slots[layer][i], "layer %d slot %d: %d", layer, i, p->slot_expert[i]);
    cr_expect_eq(p->version, 3);
    ti_placement_destroy(p);
  }
}

static void check_whole(const ti_placement *p) {
  int seen = 0;
  cr_expect_eq(p->replica_first[0], 0);
  cr_expect_eq(p->replica_first[p->n_expert], p->n_slot);
  for (int e = 0; e < p->n_expert; e++) {
    cr_expect_lt(p->replica_first[e], p->replica_first[e + 1], "expert %d has no slot", e);
    for (int i = p->replica_first[e]; i < p->replica_first[e + 1]; i++, seen++) {
      cr_expect_eq(p->slot_expert[p->replica_slot[i]], e);
      if (i > p->replica_first[e]) cr_expect_lt(p->replica_slot[i - 1], p->replica_slot[i]);
    }
  }
  cr_expect_eq(seen, p->n_slot);
}

Test(placement, keeps_every_expert_and_is_never_worse_than_identity) {
  uint32_t h = 12345;
  for (int round = 0; round < 200; round++) {
    float load[64];
    h = h * 1664525u + 1013904223u;
    const int n_expert = 1 + (int)(h >> 8) % 64, ep = 1 + (int)(h >> 16) % 8, redundant = (int)(h >> 24) % 16;
    for (int e = 0; e < n_expert; e++) {
      h = h * 1664525u + 1013904223u;
      load[e] = (float)((h >> 20) % 100) * (float)((h >> 8) % 7);
    }
    if (ep > n_expert) continue;
    ti_placement *p = NULL, *id = NULL;
    const ti_placement_args a = {.load = load, .n_expert = n_expert, .n_slot = n_expert + redundant, .ep = ep};
    cr_assert_eq(ti_placement_balance(&a, &p, NULL), TI_OK);
    cr_assert_eq(ti_placement_identity(n_expert, 1, &id, NULL), TI_OK);
    check_whole(p);
    check_whole(id);
    // Where shares are equal, packing heaviest-first is within 4/3 of the best, which identity cannot beat by more.
    if (n_expert % ep == 0 && redundant % ep == 0)
      cr_expect_leq(ti_placement_imbalance(p, ep, load), ti_placement_imbalance(id, ep, load) * 4 / 3 + 1e-9);
    ti_placement_destroy(p);
    ti_placement_destroy(id);
  }
}

Test(placement, a_hot_expert_is_shared_by_sources_and_stays_at_home) {
  ti_mesh mesh = {.workers = 4, .tp = 1, .dp = 4, .ep = 4, .etp = 1};
  const int32_t slots[8] = {0, 1, 2, 3, 0, 4, 0, 5};  // expert 0 on ranks 0, 2, 3
  ti_placement *p = NULL;
  cr_assert_eq(ti_placement_from_slots(slots, 8, 6, 1, &p, NULL), TI_OK);
  cr_expect_eq(ti_placement_slot(p, &mesh, 0, 0), 0);
  cr_expect_eq(ti_placement_slot(p, &mesh, 0, 2), 4);
  cr_expect_eq(ti_placement_slot(p, &mesh, 0, 3), 6);
  cr_expect_eq(ti_placement_slot(p, &mesh, 0, 1), 0, "rank 1 is the first without: replica 0");
  cr_expect_eq(ti_placement_slot(p, &mesh, 5, 0), 7);
  cr_expect_eq(ti_placement_slot(p, &mesh, 3, 3), 3);
  ti_placement_destroy(p);
}

Test(placement, workers_without_a_copy_take_turns) {
  ti_mesh mesh = {.workers = 4, .tp = 1, .dp = 4, .ep = 4, .etp = 1};
  const int32_t slots[8] = {0, 1, 2, 3, 0, 4, 5, 6};  // expert 0 on ranks 0 and 2
  ti_placement *p = NULL;
  cr_assert_eq(ti_placement_from_slots(slots, 8, 7, 1, &p, NULL), TI_OK);
  cr_expect_eq(ti_placement_slot(p, &mesh, 0, 1), 0);
  cr_expect_eq(ti_placement_slot(p, &mesh, 0, 3), 4);
  ti_placement_destroy(p);
}

// Whatever the loads: experts stay at home, every slot is filled, and no rank gets busier than without copies.
Test(placement, replicas_leave_experts_at_home_and_never_hurt) {
  uint32_t h = 4711;
  for (int round = 0; round < 200; round++) {
    float load[64];
    h = h * 1664525u + 1013904223u;
    const int n_expert = 8 + (int)(h >> 8) % 56, ep = 1 + (int)(h >> 16) % 8, redundant = (int)(h >> 24) % 16;
    for (int e = 0; e < n_expert; e++) {
      h = h * 1664525u + 1013904223u;
      load[e] = (float)(h >> 20) * (e % 7 == 0 ? 5 : 1);
    }
    ti_placement *p = NULL, *id = NULL;
    const ti_placement_args a = {.load = load, .n_expert = n_expert, .n_slot = n_expert + redundant, .ep = ep};
    cr_assert_eq(ti_placement_replicate(&a, &p, NULL), TI_OK);
    cr_assert_eq(ti_placement_identity(n_expert, 1, &id, NULL), TI_OK);
    check_whole(p);
    for (int g = 0; g < ep; g++) {
      long s0, s1, e0, e1;
      ti_split(p->n_slot, ep, g, &s0, &s1);
      ti_split(n_expert, ep, g, &e0, &e1);
      cr_assert_geq(s1 - s0, e1 - e0);
      for (long e = e0; e < e1; e++) cr_expect_eq(p->slot_expert[s0 + e - e0], e);
    }
    if (ep > 1) cr_expect_leq(ti_placement_imbalance(p, ep, load), ti_placement_imbalance(id, ep, load) * 1.1 + 1e-9);
    ti_placement_destroy(p);
    ti_placement_destroy(id);
  }
}

Test(placement, replicas_go_where_the_load_is) {
  const float load[8] = {100, 10, 10, 10, 10, 10, 10, 10};  // 110 on rank 0, 20 on each other
  ti_placement *p = NULL;
  const ti_placement_args a = {.load = load, .n_expert = 8, .n_slot = 12, .ep = 4};
  cr_assert_eq(ti_placement_replicate(&a, &p, NULL), TI_OK);
  cr_expect_eq(p->replica_first[1] - p->replica_first[0], 4, "the hot expert on every rank");
  cr_expect_lt(ti_placement_imbalance(p, 4, load), 1.15);
  ti_placement_destroy(p);
}

Test(placement, refuses_what_cannot_be) {
  ti_placement *p = NULL;
  ti_error err = {0};
  const int32_t missing[3] = {0, 0, 2}, outside[3] = {0, 1, 3};
  cr_expect_eq(ti_placement_from_slots(missing, 3, 3, 1, &p, &err), TI_ERR_FORMAT);
  cr_expect_str_eq(err.text, "placement: expert 1 has no slot");
  cr_expect_eq(ti_placement_from_slots(outside, 3, 3, 1, &p, &err), TI_ERR_RANGE);
  cr_expect_eq(ti_placement_from_slots(outside, 2, 3, 1, &p, &err), TI_ERR_ARG);
  cr_expect_eq(ti_placement_identity(0, 1, &p, &err), TI_ERR_ARG);
  cr_expect_null(p);
}
