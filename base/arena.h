// Arenas: memory that is given out in pieces and taken back at once. Not thread-safe.
//
//   chunk -> [piece|piece|piece|   free   ]     reset: all pieces go, the chunks stay
//
// Two uses: a fixed one over the caller's buffer (a decode step: no malloc), and a growing one with a mandatory cap (decoding outside input).
#ifndef TI_BASE_ARENA_H
#define TI_BASE_ARENA_H
#include <stddef.h>

#include "base/status.h"

typedef struct ti_arena_chunk ti_arena_chunk;
typedef struct ti_arena {
  ti_arena_chunk *head;   // growing form: chunks, newest first
  unsigned char *at, *end;  // the free part of the current chunk
  unsigned char *fixed;   // fixed form: the caller's buffer, else NULL
  size_t used, cap;       // bytes given out since reset; the most there may be
} ti_arena;

// A growing arena that gives out at most cap bytes between resets. Allocates nothing yet.
void ti_arena_init(ti_arena *a, size_t cap);
// A fixed arena over mem[size]; mem is borrowed until fini.
void ti_arena_init_fixed(ti_arena *a, void *mem, size_t size);
// size bytes aligned to 16 (or to `align`, a power of two up to 4096), not zeroed; NULL when the cap (or malloc) is exhausted. O(1).
void *ti_arena_alloc(ti_arena *a, size_t size);
void *ti_arena_alloc_aligned(ti_arena *a, size_t size, size_t align);
// n * size with overflow check, zeroed.
void *ti_arena_calloc(ti_arena *a, size_t n, size_t size);
// A NUL-terminated copy of s[n].
char *ti_arena_strdup(ti_arena *a, const char *s, size_t n);
// All pieces become invalid; the largest chunk is kept for reuse.
void ti_arena_reset(ti_arena *a);
void ti_arena_fini(ti_arena *a);  // safe on a zeroed arena

#endif
