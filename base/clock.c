// The real clock and one that is moved by hand (see clock.h).
#include "base/clock.h"

#include <time.h>

uint64_t ti_mono_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
uint64_t ti_mono_us(void) { return ti_mono_ns() / 1000u; }
uint64_t ti_wall_s(void) { return (uint64_t)time(NULL); }

static uint64_t real_now_us(const ti_clock *self) { return ti_mono_us(); }
static const ti_clock real_clock = {.now_us = real_now_us};
const ti_clock *ti_clock_real(void) { return &real_clock; }

// base is the first member, so the two addresses are the same
static uint64_t virtual_now_us(const ti_clock *self) { return ((const ti_clock_virtual *)self)->us; }
void ti_clock_virtual_init(ti_clock_virtual *v, uint64_t start_us) { *v = (ti_clock_virtual){.base = {.now_us = virtual_now_us}, .us = start_us}; }
void ti_clock_virtual_advance(ti_clock_virtual *v, uint64_t us) { v->us += us; }
