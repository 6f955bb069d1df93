// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter-based generator, so that a draw is a pure
// function of what it is for. The same integers on every device and mesh.
#ifndef TI_BASE_RNG_H
#define TI_BASE_RNG_H
#include <stdint.h>

// out = philox(key, ctr), 10 rounds.
static inline void ti_philox4x32(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4]) {
  uint32_t k0 = key[0], k1 = key[1], c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
  for (int r = 0; r < 10; r++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}
// A uniform float in (0, 1): (x >> 9 + 0.5) * 2^-23; never 0, never 1. (With 24 bits the half is lost to rounding and the largest x gives 1.)
static inline float ti_u32_to_unit(uint32_t x) { return ((float)(x >> 9) + 0.5f) * (1.0f / 8388608.0f); }
// 64-bit hash of s[n] for tensor names (FNV-1a).
static inline uint64_t ti_hash64(const void *s, uint64_t n) {
  const unsigned char *p = (const unsigned char *)s;
  uint64_t h = 0xcbf29ce484222325ull;
  for (uint64_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3ull;
  return h;
}

#endif
