// Free pages as a stack of ids with a reference count each (see pages.h).
#include "coordinator/cache/pages.h"

#include <assert.h>
#include <stdlib.h>

struct ti_pages {
  uint32_t n_page, n_free;
  uint32_t *free_id;  // [n_page], the first n_free are free; the last of them goes next
  uint32_t refs[];    // [n_page]; 0: free
};

ti_status ti_pages_create(uint32_t n_page, ti_pages **out) {
  ti_pages *p = calloc(1, sizeof *p + 2 * sizeof(uint32_t) * (size_t)n_page);
  if (!p) return TI_ERR_NOMEM;
  p->n_page = p->n_free = n_page;
  p->free_id = p->refs + n_page;
  for (uint32_t i = 0; i < n_page; i++) p->free_id[i] = n_page - 1 - i;  // page 0 goes first
  *out = p;
  return TI_OK;
}

void ti_pages_destroy(ti_pages *p) { free(p); }

ti_status ti_pages_alloc(ti_pages *p, uint32_t n, uint32_t *ids) {
  if (n > p->n_free) return TI_AGAIN;
  for (uint32_t i = 0; i < n; i++) {
    ids[i] = p->free_id[--p->n_free];
    assert(p->refs[ids[i]] == 0);
    p->refs[ids[i]] = 1;
  }
  return TI_OK;
}

void ti_pages_hold(ti_pages *p, uint32_t id) {
  assert(id < p->n_page && p->refs[id] > 0);
  p->refs[id]++;
}

void ti_pages_rele(ti_pages *p, uint32_t id) {
  assert(id < p->n_page && p->refs[id] > 0);
  if (--p->refs[id] == 0) p->free_id[p->n_free++] = id;
}

uint32_t ti_pages_refs(const ti_pages *p, uint32_t id) { return p->refs[id]; }
uint32_t ti_pages_free_count(const ti_pages *p) { return p->n_free; }
uint32_t ti_pages_total(const ti_pages *p) { return p->n_page; }
