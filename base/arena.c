// Arenas (see arena.h). One thread at a time; no state of its own.
//
// A growing arena takes chunks from malloc, each twice as large as the one before and never larger than what the cap still allows, so that the tails
// which are left behind stay below the cap as well: an arena holds at most about twice its cap, whatever the outside asks for. `used` counts padding
// too.
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { ARENA_ALIGN = 16, ARENA_FIRST_CHUNK = 4096 };

struct ti_arena_chunk {
  ti_arena_chunk *next;  // the older one
  size_t size;           // bytes after the header
  _Alignas(ARENA_ALIGN) unsigned char mem[];
};

void ti_arena_init(ti_arena *a, size_t cap) { *a = (ti_arena){.cap = cap}; }

void ti_arena_init_fixed(ti_arena *a, void *mem, size_t size) {
  unsigned char *p = mem;
  *a = (ti_arena){.at = p, .end = p + size, .fixed = p, .cap = size};
}

// The piece from the current chunk, or NULL when it does not fit there.
static void *take(ti_arena *a, size_t size, size_t align) {
  const size_t pad = (size_t)(-(uintptr_t)a->at & (align - 1));
  const size_t room = (size_t)(a->end - a->at);
  if (!a->at || pad > room || size > room - pad) return NULL;
  if (pad + size > a->cap - a->used) return NULL;
  unsigned char *p = a->at + pad;
  a->at = p + size;
  a->used += pad + size;
  return p;
}

static bool grow(ti_arena *a, size_t size, size_t align) {
  const size_t allowed = a->cap - a->used;
  if (size > allowed) return false;
  size_t want = a->head ? a->head->size : ARENA_FIRST_CHUNK / 2;
  want = ti_size_max(size, ti_size_min(want > SIZE_MAX / 2 ? want : want * 2, allowed));
  size_t total;
  if (!ti_size_add(want, align > ARENA_ALIGN ? align : 0, &want)) return false;  // a chunk's start is aligned to 16 only
  if (!ti_size_add(want, sizeof(ti_arena_chunk), &total)) return false;
  ti_arena_chunk *c = malloc(total);
  if (!c) return false;
  c->next = a->head;
  c->size = want;
  a->head = c;
  a->at = c->mem + (-(uintptr_t)c->mem & (align - 1));  // not counted: where malloc puts a chunk is not the caller's doing
  a->end = c->mem + want;
  return true;
}

void *ti_arena_alloc_aligned(ti_arena *a, size_t size, size_t align) {
  if (size == 0) size = 1;  // distinct, non-NULL, and counted
  void *p = take(a, size, align);
  if (p || a->fixed || !grow(a, size, align)) return p;
  return take(a, size, align);
}

void *ti_arena_alloc(ti_arena *a, size_t size) { return ti_arena_alloc_aligned(a, size, ARENA_ALIGN); }

void *ti_arena_calloc(ti_arena *a, size_t n, size_t size) {
  size_t bytes;
  if (!ti_size_mul(n, size, &bytes)) return NULL;
  void *p = ti_arena_alloc(a, bytes);
  if (p) memset(p, 0, bytes);
  return p;
}

char *ti_arena_strdup(ti_arena *a, const char *s, size_t n) {
  size_t bytes;
  if (!ti_size_add(n, 1, &bytes)) return NULL;
  char *p = ti_arena_alloc(a, bytes);
  if (!p) return NULL;
  if (n) memcpy(p, s, n);
  p[n] = 0;
  return p;
}

void ti_arena_reset(ti_arena *a) {
  a->used = 0;
  if (a->fixed) {
    a->at = a->fixed;
    return;
  }
  ti_arena_chunk *keep = a->head;
  for (ti_arena_chunk *c = a->head; c; c = c->next)
    if (c->size > keep->size) keep = c;
  for (ti_arena_chunk *c = a->head, *next; c; c = next) {
    next = c->next;
    if (c != keep) free(c);
  }
  a->head = keep;
  if (!keep) return;
  keep->next = NULL;
  a->at = keep->mem;
  a->end = keep->mem + keep->size;
}

void ti_arena_fini(ti_arena *a) {
  for (ti_arena_chunk *c = a->head, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  *a = (ti_arena){0};
}
