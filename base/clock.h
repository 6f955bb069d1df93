// Time as a table, so that the coordinator's loop runs on real or on virtual time.
#ifndef TI_BASE_CLOCK_H
#define TI_BASE_CLOCK_H
#include <stdint.h>

typedef struct ti_clock ti_clock;
struct ti_clock {
  uint64_t (*now_us)(const ti_clock *self);  // monotonic microseconds; mandatory; never blocks
};

// CLOCK_MONOTONIC of this host. Static, never freed.
const ti_clock *ti_clock_real(void);
static inline uint64_t ti_now_us(const ti_clock *c) { return c->now_us(c); }
uint64_t ti_mono_us(void);  // shorthand for the real clock
uint64_t ti_mono_ns(void);
uint64_t ti_wall_s(void);  // Unix time in seconds, for "created" fields

// A clock that stands still until it is told to move. The caller owns it; &v.base is the ti_clock.
typedef struct ti_clock_virtual {
  ti_clock base;
  uint64_t us;
} ti_clock_virtual;
void ti_clock_virtual_init(ti_clock_virtual *v, uint64_t start_us);
void ti_clock_virtual_advance(ti_clock_virtual *v, uint64_t us);

#endif
