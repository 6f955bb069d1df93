// A paged-attention scenario: sequences with a past and some rows of today, laid out in pages of any size, appended and attended in steps of any
// size, in a pool where everything that may not be read is NaN. The same sequence id has the same keys, values and queries in every scenario, so that
// two scenarios can be compared row by row, bit by bit.
#ifndef TI_CONFORMANCE_KV_SCENARIO_H
#define TI_CONFORMANCE_KV_SCENARIO_H
#include "conformance.h"

typedef struct cf_seq {
  int id;      // seeds its data
  int past;    // places appended before the rows that are attended
  int rows;    // consecutive places from `past` on
  int first;   // first place that exists (kv_first): MTP's KV starts at place 1
  bool empty;  // its rows attend nothing: kv_len 0, nothing appended
} cf_seq;

typedef struct cf_case {
  ti_kv_kind kind;
  ti_dtype dtype;
  int page_tokens;
  int n_kv_head, head_dim;  // GQA
  int latent, rope;         // MLA
  int n_head, window;
  const cf_seq *seq;
  int n_seq;
  int split;      // rows a step and sequence; 0: all at once (whole prefill)
  bool tree;      // rows of a sequence form a random tree: ancestor masks
  bool kv_first;  // pass the array even when every first is 0
} cf_case;

int cf_case_rows(const cf_case *c);
int cf_case_value_dim(const cf_case *c);  // numbers an output head has
// Runs kv_append and attention (or mla_attention): [rows, n_head, value_dim], rows sequence by sequence.
float *cf_case_run(cf_dev *d, const cf_case *c);
// The same in fp64 from keys and values rounded to the cache's type; *magnitude: the largest |v| attended.
double *cf_case_want(cf_dev *d, const cf_case *c, double **magnitude);
// The pool after append of all places, for comparison between backends; *bytes its size.
uint8_t *cf_case_pool(cf_dev *d, const cf_case *c, size_t *bytes);
void cf_case_check(cf_dev *d, const char *what, const cf_case *c);  // run against want

#endif
