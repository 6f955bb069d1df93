// Pages of one group: which ids are free. The interface that the buddy allocator takes over; here a bitmap-free stack of ids, O(1).
//
// An id names a page in all layers of a group. Reference counts: a page may be shared (n > 1, prefix sharing); it returns with its last release.
// The loop thread only. No allocation after create.
#ifndef TI_COORDINATOR_CACHE_PAGES_H
#define TI_COORDINATOR_CACHE_PAGES_H
#include <stdint.h>

#include "base/status.h"

typedef struct ti_pages ti_pages;

ti_status ti_pages_create(uint32_t n_page, ti_pages **out) TI_MUST_CHECK;
void ti_pages_destroy(ti_pages *p);
// n pages with one reference each, all or none: TI_AGAIN when fewer are free.
ti_status ti_pages_alloc(ti_pages *p, uint32_t n, uint32_t *ids) TI_MUST_CHECK;
void ti_pages_hold(ti_pages *p, uint32_t id);
void ti_pages_rele(ti_pages *p, uint32_t id);
uint32_t ti_pages_refs(const ti_pages *p, uint32_t id);
uint32_t ti_pages_free_count(const ti_pages *p);
uint32_t ti_pages_total(const ti_pages *p);

#endif
