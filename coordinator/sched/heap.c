// The pairing heap of heap.h.
#include "coordinator/sched/heap.h"

#include <stddef.h>

// Both are roots (no prev, no next); the later one becomes the first child of the other.
static ti_heap_node *meld(const ti_heap *h, ti_heap_node *a, ti_heap_node *b) {
  if (!a) return b;
  if (!b) return a;
  if (h->before(b, a)) {
    ti_heap_node *t = a;
    a = b;
    b = t;
  }
  b->prev = a;
  b->next = a->child;
  if (a->child) a->child->prev = b;
  a->child = b;
  return a;
}

// Children of a removed node to one tree: pairs from left to right, then their winners from right to left.
static ti_heap_node *merge_pairs(const ti_heap *h, ti_heap_node *first) {
  ti_heap_node *pairs = NULL;  // a stack, linked by next
  while (first) {
    ti_heap_node *a = first, *b = a->next;
    first = b ? b->next : NULL;
    a->next = a->prev = NULL;
    if (b) b->next = b->prev = NULL;
    a = meld(h, a, b);
    a->next = pairs;
    pairs = a;
  }
  ti_heap_node *root = NULL;
  while (pairs) {
    ti_heap_node *a = pairs;
    pairs = a->next;
    a->next = NULL;
    root = meld(h, root, a);
  }
  return root;
}

void ti_heap_push(ti_heap *h, ti_heap_node *n) {
  *n = (ti_heap_node){0};
  h->root = meld(h, h->root, n);
  h->n++;
}

void ti_heap_remove(ti_heap *h, ti_heap_node *n) {
  h->n--;
  if (n == h->root) {
    h->root = merge_pairs(h, n->child);
  } else {
    if (n->prev->child == n) {
      n->prev->child = n->next;
    } else {
      n->prev->next = n->next;
    }
    if (n->next) n->next->prev = n->prev;
    h->root = meld(h, h->root, merge_pairs(h, n->child));
  }
  *n = (ti_heap_node){0};
}
