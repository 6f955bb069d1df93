#include <criterion/criterion.h>
#include <string.h>

#include "base/mesh.h"

Test(mesh, fills_in_what_is_not_given) {
  ti_mesh m;
  cr_assert_eq(ti_mesh_init(&m, 4, 2, 0, 0, 0, NULL), TI_OK);
  cr_assert(m.tp == 2 && m.dp == 2 && m.ep == 4 && m.etp == 1);
  cr_assert_eq(ti_mesh_init(&m, 6, 0, 0, 3, 2, NULL), TI_OK);
  cr_assert(m.tp == 1 && m.dp == 6 && m.ep == 3 && m.etp == 2);
}

Test(mesh, numbering_of_the_header) {
  ti_mesh m;
  cr_assert_eq(ti_mesh_init(&m, 4, 2, 2, 4, 1, NULL), TI_OK);
  for (int w = 0; w < 4; w++) {
    cr_assert_eq(ti_mesh_dp_of(&m, w), w / 2);
    cr_assert_eq(ti_mesh_tp_of(&m, w), w % 2);
    cr_assert_eq(ti_mesh_ep_of(&m, w), w);
    cr_assert_eq(ti_mesh_etp_of(&m, w), 0);
    cr_assert_eq(ti_mesh_worker(&m, ti_mesh_dp_of(&m, w), ti_mesh_tp_of(&m, w)), w);
  }
}

static void refused(int w, int tp, int dp, int ep, int etp, const char *text) {
  ti_mesh m = {.workers = -1};
  ti_error e = {0};
  cr_assert_eq(ti_mesh_init(&m, w, tp, dp, ep, etp, &e), TI_ERR_ARG);
  cr_assert_str_eq(e.text, text);
  cr_assert_eq(m.workers, -1, "set only on success");
}

Test(mesh, refusals_say_what_would_do) {
  refused(4, 3, 0, 0, 0, "--tensor-parallel-size 3 does not divide 4 workers; use 1, 2 or 4");
  refused(6, 1, 4, 0, 0, "--data-parallel-size 4 does not divide 6 workers; use 1, 2, 3 or 6");
  refused(1, 2, 0, 0, 0, "--tensor-parallel-size 2 does not divide 1 worker; use 1");
  refused(4, 2, 4, 0, 0,
          "--tensor-parallel-size 2 times --data-parallel-size 4 is not the number of workers, 4; use --tensor-parallel-size 1, or "
          "--data-parallel-size 2");
  refused(4, 0, 0, 0, 5, "--expert-tensor-parallel-size 5 does not divide 4 workers; use 1, 2 or 4");
  refused(4, -1, 0, 0, 0, "--tensor-parallel-size -1: must be at least 1");
  refused(0, 0, 0, 0, 0, "a mesh of 0 workers: at least 1 is needed");
}

Test(mesh, splits_cover_everything_once_and_know_their_owner) {
  for (long n = 0; n < 40; n++)
    for (int parts = 1; parts < 12; parts++) {
      long at = 0;
      for (int i = 0; i < parts; i++) {
        long b, e;
        ti_split(n, parts, i, &b, &e);
        cr_assert_eq(b, at);
        cr_assert(e - b == n / parts || e - b == n / parts + 1);
        for (long x = b; x < e; x++) cr_assert_eq(ti_split_owner(n, parts, x), i);
        at = e;
      }
      cr_assert_eq(at, n);
    }
}
