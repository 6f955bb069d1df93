// Dealing CPUs: made-up hosts against what the rule says, every mesh against what must hold, and the host itself.
#include <criterion/criterion.h>
#include <string.h>

#include "launch/pin.h"

static ti_pin_host h;
static int cpus[CPU_SETSIZE];

// Linux's numbers as on most machines: the first CPU of every core, then the second ones.
static void host(int nodes, int cores, int smt) {
  h = (ti_pin_host){.n_core = nodes * cores, .n_node = nodes};
  for (int c = 0; c < nodes * cores; c++)
    for (int s = 0; s < smt; s++) h.cpu[h.n_cpu++] = (ti_pin_cpu){.cpu = s * nodes * cores + c, .core = c, .node = c / cores};
}

static void expect(int workers, int index, int threads, const char *want) {
  char text[128];
  cr_assert(ti_pin_deal(&h, workers, index, threads, cpus));
  ti_pin_text(cpus, threads, text, sizeof text);
  cr_assert_str_eq(text, want, "worker %d of %d, %d threads: %s, not %s", index, workers, threads, text, want);
}

Test(pin, workers_go_to_the_node_with_most_cores_left) {
  host(2, 4, 1);
  expect(3, 0, 2, "0-1");
  expect(3, 1, 2, "4-5");
  expect(3, 2, 2, "2-3");
  expect(1, 0, 6, "0-5");
  expect(2, 1, 4, "4-7");
}

Test(pin, one_thread_a_core_while_there_are_cores) {
  host(2, 4, 2);  // CPUs 0..7, their siblings 8..15
  expect(2, 0, 4, "0-3");
  expect(2, 1, 4, "4-7");
  expect(2, 0, 8, "0-3,8-11");  // all CPUs: a core's two belong to one worker
  expect(4, 1, 4, "4-5,12-13");
}

Test(pin, gaps_in_the_mask_are_kept) {
  host(1, 4, 1);
  h.n_cpu = h.n_core = 2;
  h.cpu[0].cpu = 3;
  h.cpu[1].cpu = 9;
  expect(2, 0, 1, "3");
  expect(2, 1, 1, "9");
  cr_assert(!ti_pin_deal(&h, 3, 0, 1, cpus), "three threads on two CPUs");
}

Test(pin, sets_are_disjoint_and_whole) {
  for (int nodes = 1; nodes <= 3; nodes++)
    for (int smt = 1; smt <= 2; smt++)
      for (int workers = 1; workers <= 7; workers++)
        for (int threads = 1; threads <= 12; threads++) {
          cpu_set_t all;
          CPU_ZERO(&all);
          host(nodes, 6, smt);
          for (int w = 0; w < workers; w++) {
            const bool fits = ti_pin_deal(&h, workers, w, threads, cpus);
            cr_assert_eq(fits, workers * threads <= h.n_cpu);
            for (int i = 0; fits && i < threads; i++) CPU_SET((size_t)cpus[i], &all);
          }
          if (workers * threads <= h.n_cpu) cr_assert_eq(CPU_COUNT(&all), workers * threads);
        }
}

Test(pin, unasked_where_there_is_room_beside_or_several_nodes) {
  host(1, 4, 2);
  cr_assert(ti_pin_unasked(&h, 2, 2) && !ti_pin_unasked(&h, 1, 8) && !ti_pin_unasked(&h, 1, 3) && !ti_pin_unasked(&h, 3, 3));
  host(1, 4, 1);
  cr_assert(!ti_pin_unasked(&h, 1, 4));
  host(2, 4, 2);
  cr_assert(ti_pin_unasked(&h, 2, 8) && ti_pin_unasked(&h, 1, 8) && !ti_pin_unasked(&h, 1, 4));
}

Test(pin, this_host_is_read_within_its_mask) {
  cpu_set_t set, found;
  cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
  cr_assert_eq(ti_pin_read(&h), TI_OK);
  CPU_ZERO(&found);
  for (int i = 0; i < h.n_cpu; i++) {
    CPU_SET((size_t)h.cpu[i].cpu, &found);
    cr_assert(i == 0 || h.cpu[i].core >= h.cpu[i - 1].core);
  }
  cr_assert(CPU_EQUAL(&set, &found) && h.n_core >= 1 && h.n_core <= h.n_cpu && h.n_node >= 1);
  const int one = h.cpu[h.n_cpu - 1].cpu;
  CPU_ZERO(&set);
  CPU_SET((size_t)one, &set);
  cr_assert_eq(sched_setaffinity(0, sizeof set, &set), 0);
  cr_assert_eq(ti_pin_read(&h), TI_OK);
  cr_assert(h.n_cpu == 1 && h.n_core == 1 && h.n_node == 1 && h.cpu[0].cpu == one);
}

Test(pin, long_lists_are_cut) {
  char text[16];
  for (int i = 0; i < 20; i++) cpus[i] = 2 * i;
  cr_assert_str_eq(ti_pin_text(cpus, 20, text, sizeof text), "0,2,4,6,8,10..");
}
