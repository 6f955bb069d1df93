#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "base/arena.h"

Test(arena, pieces_are_aligned_and_do_not_overlap) {
  ti_arena a;
  ti_arena_init(&a, 1 << 20);
  unsigned char *p[300];
  for (int i = 0; i < 300; i++) {
    const size_t align = (size_t)1 << (4 + i % 9);  // 16..4096
    p[i] = ti_arena_alloc_aligned(&a, (size_t)i, align);
    cr_assert_not_null(p[i]);
    cr_assert_eq((uintptr_t)p[i] % align, 0);
    memset(p[i], i & 255, (size_t)i);
  }
  for (int i = 0; i < 300; i++)
    for (int k = 0; k < i; k++) cr_assert_eq(p[i][k], i & 255);
  ti_arena_fini(&a);
}

Test(arena, cap_holds_in_the_growing_form) {
  ti_arena a;
  ti_arena_init(&a, 10000);
  cr_assert_null(ti_arena_alloc(&a, 10001));
  cr_assert_null(ti_arena_alloc(&a, SIZE_MAX));
  size_t got = 0;
  while (ti_arena_alloc(&a, 100)) got += 100;
  cr_assert_leq(got, 10000);
  cr_assert_geq(got, 8000);
  ti_arena_reset(&a);
  cr_assert_eq(a.used, 0);
  cr_assert_not_null(ti_arena_alloc(&a, 10000));
  ti_arena_fini(&a);
}

Test(arena, cap_holds_where_alignment_made_a_chunk_larger) {
  ti_arena a;
  ti_arena_init(&a, 5100);
  cr_assert_not_null(ti_arena_alloc_aligned(&a, 5000, 4096), "its own padding counts");
  size_t got = 0;
  while (ti_arena_alloc(&a, 16)) got += 16;
  cr_assert_leq(got, 100);
  ti_arena_reset(&a);
  got = 0;
  while (ti_arena_alloc(&a, 16)) got += 16;
  cr_assert_leq(got, 5100);
  ti_arena_fini(&a);
}

Test(arena, zero_bytes_count_so_that_they_cannot_run_away) {
  ti_arena a;
  ti_arena_init(&a, 160);
  int n = 0;
  while (ti_arena_alloc(&a, 0)) n++;
  cr_assert_geq(n, 10);
  cr_assert_leq(n, 10 + 15);  // a last padding that does not fit the cap may go out byte by byte
  ti_arena_fini(&a);
}

Test(arena, fixed_form_stays_in_its_buffer) {
  _Alignas(16) unsigned char mem[256];
  ti_arena a;
  ti_arena_init_fixed(&a, mem, sizeof(mem));
  void *p = ti_arena_alloc(&a, 200);
  cr_assert_eq(p, (void *)mem);
  cr_assert_null(ti_arena_alloc(&a, 100));
  cr_assert_not_null(ti_arena_alloc(&a, 40));
  ti_arena_reset(&a);
  cr_assert_eq(ti_arena_alloc(&a, 256), (void *)mem);
  ti_arena_fini(&a);
}

Test(arena, reset_keeps_the_largest_chunk) {
  ti_arena a;
  ti_arena_init(&a, 1 << 20);
  cr_assert_not_null(ti_arena_alloc(&a, 10));
  cr_assert_not_null(ti_arena_alloc(&a, 500000));
  cr_assert_not_null(ti_arena_alloc(&a, 100));
  ti_arena_reset(&a);
  const unsigned char *at = a.at;
  cr_assert_eq(ti_arena_alloc(&a, 500000), (const void *)at);
  ti_arena_fini(&a);
}

Test(arena, calloc_zeroes_and_checks_overflow) {
  ti_arena a;
  ti_arena_init(&a, 4096);
  memset(ti_arena_alloc(&a, 1000), 0xff, 1000);
  ti_arena_reset(&a);
  const unsigned char *p = ti_arena_calloc(&a, 10, 100);
  for (int i = 0; i < 1000; i++) cr_assert_eq(p[i], 0);
  cr_assert_null(ti_arena_calloc(&a, SIZE_MAX / 2, 3));
  cr_assert_str_eq(ti_arena_strdup(&a, "abcdef", 3), "abc");
  cr_assert_null(ti_arena_strdup(&a, "", SIZE_MAX));
  ti_arena_fini(&a);
}

Test(arena, fini_of_a_zeroed_arena) {
  ti_arena a = {0};
  ti_arena_fini(&a);
  cr_assert_null(ti_arena_alloc(&a, 1));
}
