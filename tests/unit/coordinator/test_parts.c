// The small parts against trivial oracles: pages (a count array), the heap (a full scan), routing.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/cache/pages.h"
#include "coordinator/load.h"
#include "coordinator/route.h"
#include "coordinator/sched/heap.h"

static uint64_t rng = 88172645463325252u;
static uint32_t draw(uint32_t n) {
  rng ^= rng << 13;
  rng ^= rng >> 7;
  rng ^= rng << 17;
  return (uint32_t)(rng >> 32) % n;
}

Test(pages, no_page_is_given_twice_and_none_is_lost) {
  enum { N = 37 };
  ti_pages *p;
  uint32_t refs[N] = {0}, used = 0;
  cr_assert_eq(ti_pages_create(N, &p), TI_OK);
  for (int i = 0; i < 100000; i++) {
    uint32_t ids[N + 1];
    const uint32_t n = draw(6), id = draw(N);
    switch (draw(3)) {
      case 0:
        if (n > N - used) {
          cr_assert_eq(ti_pages_alloc(p, n, ids), TI_AGAIN);
          break;
        }
        cr_assert_eq(ti_pages_alloc(p, n, ids), TI_OK);
        for (uint32_t k = 0; k < n; k++) {
          cr_assert(ids[k] < N && refs[ids[k]] == 0);
          refs[ids[k]] = 1;
          used++;
        }
        break;
      case 1:
        if (refs[id]) ti_pages_hold(p, id), refs[id]++;
        break;
      default:
        if (refs[id]) {
          ti_pages_rele(p, id);
          if (--refs[id] == 0) used--;
        }
    }
    cr_assert_eq(ti_pages_refs(p, id), refs[id]);
    cr_assert_eq(ti_pages_free_count(p), N - used);
  }
  cr_assert_eq(ti_pages_total(p), N);
  ti_pages_destroy(p);
}

typedef struct item {
  ti_heap_node node;
  uint32_t key, index;
  bool in;
} item;
static bool before(const ti_heap_node *x, const ti_heap_node *y) {
  const item *a = (const item *)x, *b = (const item *)y;
  return a->key != b->key ? a->key < b->key : a->index < b->index;
}

Test(heap, the_top_is_what_a_full_scan_finds_whatever_is_removed) {
  enum { N = 200 };
  static item it[N];
  ti_heap h;
  ti_heap_init(&h, before);
  uint32_t n = 0;
  for (int i = 0; i < 100000; i++) {
    item *x = &it[draw(N)];
    if (!x->in) {
      x->key = draw(50);
      x->index = (uint32_t)(x - it);
      ti_heap_push(&h, &x->node);
      x->in = true;
      n++;
    } else if (draw(2)) {
      ti_heap_remove(&h, &x->node);
      x->in = false;
      n--;
    } else {
      x = (item *)ti_heap_top(&h);
      ti_heap_remove(&h, &x->node);
      x->in = false;
      n--;
    }
    const item *best = NULL;
    for (int k = 0; k < N; k++) {
      if (it[k].in && (!best || before(&it[k].node, &best->node))) best = &it[k];
    }
    cr_assert_eq((const item *)ti_heap_top(&h), best);
    cr_assert_eq(h.n, n);
  }
}

Test(route, the_least_loaded_group_wins_unless_another_has_the_prefix) {
  ti_route_reason why;
  ti_route_view v[3] = {{.running = 5}, {.running = 2, .waiting = 2, .pages_used = 9}, {.running = 4, .pages_used = 3}};
  cr_assert_eq(ti_route_pick(v, 1, &why), 0);
  cr_assert_eq(why, TI_ROUTE_ONLY);
  cr_assert_eq(ti_route_pick(v, 3, &why), 2);
  cr_assert_eq(why, TI_ROUTE_LOAD);
  v[0].matched = 64;
  cr_assert_eq(ti_route_pick(v, 3, &why), 0);
  cr_assert_eq(why, TI_ROUTE_PREFIX);
  v[0].running = 50;
  cr_assert_eq(ti_route_pick(v, 3, &why), 2);
}

Test(load, rows_are_summed_by_expert_and_the_busiest_is_set_against_the_mean) {
  ti_metrics *m;
  ti_load l;
  ti_error err;
  ti_placement *p[2];
  for (int i = 0; i < 2; i++) cr_assert_eq(ti_placement_identity(3, 0, &p[i], NULL), TI_OK);
  const ti_mesh mesh = {4, 1, 4, 2, 2};  // two expert groups of two tensor-parallel ranks; 3 experts: 2 and 1
  cr_assert_eq(ti_metrics_create(&m), TI_OK);
  cr_assert_eq(ti_load_init(&l, m, 2, 3, 2, &err), TI_OK);
  const uint32_t a[4] = {1, 2, 0, 0}, b[2] = {3, 5};
  cr_assert_eq(ti_load_add(&l, &mesh, 0, p, (ti_u32s){a, 4}, &err), TI_OK);
  cr_assert_eq(ti_load_add(&l, &mesh, 1, p, (ti_u32s){a, 4}, &err), TI_OK, "sees the same rows, is not counted");
  cr_assert_eq(ti_load_add(&l, &mesh, 2, p, (ti_u32s){b, 2}, &err), TI_OK);
  cr_assert_eq(ti_load_add(&l, &mesh, 2, p, (ti_u32s){a, 4}, &err), TI_ERR_FORMAT);
  ti_load_publish(&l);
  cr_assert_float_eq(ti_metric_get(l.rows[0]), 1, 0);
  cr_assert_float_eq(ti_metric_get(l.rows[2]), 8, 0);
  cr_assert_float_eq(ti_metric_get(l.layer[0].ratio), 1.5, 1e-9);
  cr_assert_float_eq(ti_metric_get(l.layer[1].ratio), 3, 1e-9);
  const double shares = (1 + 4 + 9) / 36.0;  // 1, 2, 3 of 6 rows
  cr_assert_float_eq(ti_metric_get(l.layer[0].squared), shares - 1 / 3.0, 1e-9);
  cr_assert_float_eq(ti_metric_get(l.layer[0].switch_loss), 3 * shares, 1e-9);
  cr_assert_float_eq(ti_metric_get(l.layer[0].rank_ratio), 1, 1e-9, "3 rows on either group");
  cr_assert_float_eq(ti_metric_get(l.layer[1].rank_ratio), 2, 1e-9);
  const double rows[6] = {1, 2, 3, 0, 0, 5}, next[6] = {0.9, 1.8, 5.7, 0, 0, 9.5};  // [layer, expert]; then with b once more
  for (int i = 0; i < 6; i++) cr_assert_float_eq(ti_metric_get(l.load[i]), rows[i], 1e-9, "%d", i);
  ti_load_publish(&l);
  cr_assert_float_eq(ti_metric_get(l.load[1]), 2, 1e-9, "a window without rows says nothing");
  cr_assert_eq(ti_load_add(&l, &mesh, 2, p, (ti_u32s){b, 2}, &err), TI_OK);
  ti_load_publish(&l);
  for (int i = 0; i < 6; i++) cr_assert_float_eq(ti_metric_get(l.load[i]), next[i], 1e-9, "%d", i);
  ti_metric *named;
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_load", "layer=\"1\",expert=\"2\"", "", &named), TI_OK);
  cr_assert_eq(named, l.load[5]);
  for (int i = 0; i < 2; i++) ti_placement_destroy(p[i]);
  ti_load_fini(&l);
  ti_metrics_destroy(m);
}
