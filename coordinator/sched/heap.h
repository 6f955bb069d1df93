// A pairing heap whose nodes live in what it orders: the waiting queue, the deadlines. No allocation, no bound on its size.
//
//        root                 child: the first of a node's children
//       /                     next: the sibling to the right
//    child -> next -> ...     prev: the sibling to the left; the parent for a first child; NULL for the root
//
// push, top: O(1). remove (top or any node): O(log n) amortised (Fredman, Sedgewick, Sleator, Tarjan: The pairing heap, 1986).
#ifndef TI_COORDINATOR_SCHED_HEAP_H
#define TI_COORDINATOR_SCHED_HEAP_H
#include <stdbool.h>
#include <stdint.h>

typedef struct ti_heap_node {
  struct ti_heap_node *child, *next, *prev;
} ti_heap_node;
typedef bool (*ti_heap_before)(const ti_heap_node *a, const ti_heap_node *b);  // a strict order; a total one makes pops deterministic

typedef struct ti_heap {
  ti_heap_node *root;
  ti_heap_before before;
  uint32_t n;
} ti_heap;

static inline void ti_heap_init(ti_heap *h, ti_heap_before before) { *h = (ti_heap){.before = before}; }
static inline ti_heap_node *ti_heap_top(const ti_heap *h) { return h->root; }  // NULL when empty
void ti_heap_push(ti_heap *h, ti_heap_node *n);
void ti_heap_remove(ti_heap *h, ti_heap_node *n);  // n must be in h

#endif
