#include <criterion/criterion.h>

#include "base/rng.h"

static void check(uint32_t k0, uint32_t k1, const uint32_t ctr[4], const uint32_t want[4]) {
  const uint32_t key[2] = {k0, k1};
  uint32_t out[4];
  ti_philox4x32(key, ctr, out);
  for (int i = 0; i < 4; i++) cr_assert_eq(out[i], want[i], "word %d: %08x", i, out[i]);
}

// kat_vectors of Random123, philox4x32 10
Test(rng, philox_known_answers) {
  check(0, 0, (uint32_t[4]){0, 0, 0, 0}, (uint32_t[4]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  check(~0u, ~0u, (uint32_t[4]){~0u, ~0u, ~0u, ~0u}, (uint32_t[4]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  check(0xa4093822, 0x299f31d0, (uint32_t[4]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
        (uint32_t[4]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

Test(rng, unit_is_open_on_both_sides) {
  cr_assert_gt(ti_u32_to_unit(0), 0.0f);
  cr_assert_lt(ti_u32_to_unit(~0u), 1.0f);
  cr_assert_float_eq(ti_u32_to_unit(0x80000000u), 0.5f, 1e-6f);
}

Test(rng, fnv1a_known_answers) {
  cr_assert_eq(ti_hash64("", 0), 0xcbf29ce484222325ull);
  cr_assert_eq(ti_hash64("a", 1), 0xaf63dc4c8601ec8cull);
  cr_assert_eq(ti_hash64("foobar", 6), 0x85944171f73967e8ull);
}
