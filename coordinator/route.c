// Routing by load (see route.h).
#include "coordinator/route.h"

#include <stdbool.h>

static bool better(const ti_route_view *a, const ti_route_view *b) {
  const uint32_t la = a->running + a->waiting, lb = b->running + b->waiting;
  if (la + 1 < lb || lb + 1 < la) return la < lb;
  if (a->matched != b->matched) return a->matched > b->matched;
  if (la != lb) return la < lb;
  return a->pages_used < b->pages_used;
}

uint32_t ti_route_pick(const ti_route_view *v, uint32_t n, ti_route_reason *why) {
  uint32_t best = 0;
  for (uint32_t i = 1; i < n; i++) {
    if (better(&v[i], &v[best])) best = i;
  }
  *why = n == 1 ? TI_ROUTE_ONLY : v[best].matched ? TI_ROUTE_PREFIX : TI_ROUTE_LOAD;
  return best;
}
