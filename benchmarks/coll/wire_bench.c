// What a step costs on the wire: a plan of n sequences, each with one row and a delta of k block-table entries, packed and unpacked; and its result.
// Each case is checked (round trip) before it is timed. Times are the least of `reps` runs: the machine's noise only adds.
//
//   wire_bench [reps]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "proto/wire.h"

enum { SEQS = 256, BLOCKS_MAX = 1024 };

static const ti_wire_limits limits = {.n_rank = 9, .n_slot = SEQS, .n_page = 1 << 20, .vocab = 129280, .max_rows = 8192, .max_context = 1 << 20};

static void fail(const char *what, const ti_error *err) {
  fprintf(stderr, "wire_bench: %s: %s\n", what, err->text);
  exit(1);
}

static void run(const char *name, const ti_control *m, int reps) {
  ti_buf buf, again;
  ti_arena arena;
  ti_control out;
  ti_error err = {0};
  ti_buf_init(&buf, 64u << 20);
  ti_buf_init(&again, 64u << 20);
  ti_arena_init(&arena, 64u << 20);
  if (ti_wire_encode_control(m, &buf) != TI_OK) fail("encode", &err);
  if (ti_wire_decode_control(buf.data, buf.len, &limits, &arena, &out, &err) != TI_OK) fail("decode", &err);
  if (ti_wire_encode_control(&out, &again) != TI_OK) fail("encode", &err);
  if (buf.len != again.len || memcmp(buf.data, again.data, buf.len) != 0) fail("the round trip differs", &err);
  uint64_t pack = UINT64_MAX, unpack = UINT64_MAX;
  for (int i = 0; i < reps; i++) {
    ti_buf_reset(&buf);
    const uint64_t t0 = ti_mono_ns();
    if (ti_wire_encode_control(m, &buf) != TI_OK) fail("encode", &err);
    const uint64_t t1 = ti_mono_ns();
    ti_arena_reset(&arena);
    if (ti_wire_decode_control(buf.data, buf.len, &limits, &arena, &out, &err) != TI_OK) fail("decode", &err);
    const uint64_t t2 = ti_mono_ns();
    if (t1 - t0 < pack) pack = t1 - t0;
    if (t2 - t1 < unpack) unpack = t2 - t1;
  }
  printf("%-34s %9zu %9.1f %9.1f %10zu\n", name, buf.len, (double)pack / 1e3, (double)unpack / 1e3, arena.used);
  ti_buf_fini(&buf);
  ti_buf_fini(&again);
  ti_arena_fini(&arena);
}

static void bench_plan(uint32_t blocks, int reps) {
  static ti_plan_row rows[SEQS];
  static ti_slot_pages pages[SEQS];
  static uint32_t ids[BLOCKS_MAX];
  for (uint32_t i = 0; i < BLOCKS_MAX; i++) ids[i] = i * 37 % limits.n_page;
  for (uint32_t i = 0; i < SEQS; i++) {
    rows[i] = (ti_plan_row){.slot = i, .n_token = 1, .decode = true, .sample = true};
    pages[i] = (ti_slot_pages){.slot = i, .first = 7, .pages = {ids, blocks}};
  }
  const ti_control m = {
      .kind = TI_CTL_PLAN,
      .plan = {.epoch = 1, .step = 1000, .max_rows = SEQS, .n_micro = 1, .pages = pages, .n_pages = blocks ? SEQS : 0, .row = rows, .n_row = SEQS}};
  char name[64];
  snprintf(name, sizeof name, "plan, %d decodes, %u blocks each", SEQS, blocks);
  run(name, &m, reps);
}

static void bench_result(int reps) {
  static ti_result_row rows[SEQS];
  static const uint32_t token[1] = {70000};
  for (uint32_t i = 0; i < SEQS; i++) rows[i] = (ti_result_row){.slot = i, .token = {token, 1}};
  const ti_control m = {.kind = TI_CTL_RESULT,
                        .result = {.epoch = 1, .step = 1000, .row = rows, .n_row = SEQS, .times = {.total_us = 9000}, .n_token = SEQS}};
  run("result, 256 rows, a token each", &m, reps);
}

int main(int argc, char **argv) {
  const long reps = argc > 1 ? strtol(argv[1], NULL, 10) : 2000;
  if (reps < 1 || reps > 1000000) {
    fprintf(stderr, "wire_bench: reps is out of 1..1000000\n");
    return 2;
  }
  printf("%-34s %9s %9s %9s %10s\n", "message", "bytes", "pack us", "unpack us", "arena");
  static const uint32_t blocks[] = {0, 1, 4, BLOCKS_MAX};
  for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) bench_plan(blocks[i], (int)(blocks[i] > 100 ? (reps + 9) / 10 : reps));
  bench_result((int)reps);
  return 0;
}
