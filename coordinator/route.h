// Which group a request goes to. The view is all that a router may look at, so that prefix matching joins by filling in `matched`.
#ifndef TI_COORDINATOR_ROUTE_H
#define TI_COORDINATOR_ROUTE_H
#include <stdint.h>

typedef struct ti_route_view {  // a group as the router sees it
  uint32_t running, waiting;    // sequences
  uint32_t pages_used, pages;
  uint32_t matched;  // leading prompt tokens that the group has KV of
} ti_route_view;
typedef enum ti_route_reason { TI_ROUTE_ONLY, TI_ROUTE_LOAD, TI_ROUTE_PREFIX } ti_route_reason;

// The group with the fewest sequences; among equals the one with the fewest pages in use, then the first. A match is worth matched / page_tokens
// pages: it decides among groups whose sequences differ by 1 at most. n >= 1. O(n).
uint32_t ti_route_pick(const ti_route_view *v, uint32_t n, ti_route_reason *why);

#endif
