// How fast texts become token ids and back, and whether any input makes it slow.
//
//   tokenizer_bench [--text FILE] [--json FILE] NAME=tokenizer.json ...
//
// Each tokenizer encodes and decodes FILE (or made-up English) and must give it back byte for byte before a figure is printed; then it encodes
// 1 MB of one letter, of spaces, of digits, of newlines and of random bytes: near-linear time means that none of them stands out. CPU time of
// one thread, best of 3.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "model/tokenizer.h"

enum { WORST_BYTES = 1000000, RUNS = 3, N_WORST = 5, MAX_TOKENIZERS = 32 };
static const char *const worst_names[N_WORST] = {"letter", "spaces", "digits", "newlines", "random"};

typedef struct result {
  char name[64];
  double encode_mbs, decode_mbs, bytes_per_token, load_s, worst_s[N_WORST];
} result;

static double cpu_s(void) {
  struct timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static int read_file(const char *path, ti_buf *out) {
  FILE *f = fopen(path, "rb");
  char chunk[65536];
  size_t n;
  if (!f) return -1;
  while ((n = fread(chunk, 1, sizeof chunk, f)) > 0) {
    if (ti_buf_append(out, chunk, n) != TI_OK) break;
  }
  fclose(f);
  return out->failed ? -1 : 0;
}

static void make_text(ti_buf *out) {
  static const char *const words[] = {"the", "cluster", "serves", "tokens", "and", "pages", "of", "a", "model", "quickly"};
  for (uint32_t i = 0; out->len < WORST_BYTES; i++) {
    if (ti_buf_printf(out, "%s%s", words[(i * 7 + i / 11) % 10], i % 13 == 12 ? ".\n" : " ") != TI_OK) return;
  }
}

static void make_worst(int kind, char *to) {
  static const char fill[] = {'a', ' ', '7', '\n'};
  if (kind < 4) {
    memset(to, fill[kind], WORST_BYTES);
    return;
  }
  uint64_t x = 88172645463325252u;  // xorshift64: any bytes will do, the same ones each time
  for (size_t i = 0; i < WORST_BYTES; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    to[i] = (char)(x >> 32);
  }
}

static ti_status measure(const ti_tokenizer *t, ti_tok_scratch *s, const ti_buf *text, result *r, ti_error *err) {
  ti_ids ids;
  ti_buf back;
  ti_ids_init(&ids, 1u << 28);
  ti_buf_init(&back, 1u << 30);
  double enc = 1e9, dec = 1e9;
  ti_status st = TI_OK;
  for (int run = 0; run < RUNS && st == TI_OK; run++) {
    ids.n = 0;
    ti_buf_reset(&back);
    double t0 = cpu_s();
    st = ti_tokenizer_encode(t, s, ti_buf_str(text), text->len, 0, &ids, err);
    double t1 = cpu_s();
    if (st == TI_OK) st = ti_tokenizer_decode(t, ids.v, ids.n, 0, &back, err);
    double t2 = cpu_s();
    if (t1 - t0 < enc) enc = t1 - t0;
    if (t2 - t1 < dec) dec = t2 - t1;
  }
  if (st == TI_OK && (back.len != text->len || memcmp(back.data, text->data, text->len) != 0))
    st = ti_error_set(err, TI_ERR_INTERNAL, "the text does not come back byte for byte");
  r->encode_mbs = (double)text->len / enc * 1e-6;
  r->decode_mbs = (double)text->len / dec * 1e-6;
  r->bytes_per_token = ids.n ? (double)text->len / (double)ids.n : 0;
  char *bytes = st == TI_OK ? malloc(WORST_BYTES) : NULL;
  for (int k = 0; k < N_WORST && st == TI_OK && bytes; k++) {
    make_worst(k, bytes);
    ids.n = 0;
    double t0 = cpu_s();
    st = ti_tokenizer_encode(t, s, bytes, WORST_BYTES, 0, &ids, err);
    r->worst_s[k] = cpu_s() - t0;
  }
  free(bytes);
  ti_ids_fini(&ids);
  ti_buf_fini(&back);
  return st;
}

static int bench_one(const char *arg, const ti_buf *text, result *r) {
  const char *eq = strchr(arg, '=');
  ti_tokenizer *t = NULL;
  ti_tok_scratch *s = NULL;
  ti_error err = {0};
  snprintf(r->name, sizeof r->name, "%.*s", eq ? (int)(eq - arg) : (int)strlen(arg), arg);
  double t0 = cpu_s();
  ti_status st = ti_tokenizer_load(eq ? eq + 1 : arg, &t, &err);
  r->load_s = cpu_s() - t0;
  if (st == TI_OK) st = ti_tok_scratch_create(&s);
  if (st == TI_OK) st = measure(t, s, text, r, &err);
  if (st != TI_OK) fprintf(stderr, "tokenizer_bench: %s: %s\n", r->name, err.text);
  ti_tok_scratch_destroy(s);
  ti_tokenizer_destroy(t);
  return st == TI_OK ? 0 : 1;
}

static void print_table(const result *r, int n) {
  printf("%-14s %8s %11s %11s %8s |  1 MB of, s:", "tokenizer", "load s", "encode MB/s", "decode MB/s", "B/token");
  for (int k = 0; k < N_WORST; k++) printf(" %8s", worst_names[k]);
  printf("\n");
  for (int i = 0; i < n; i++) {
    printf("%-14s %8.2f %11.1f %11.1f %8.2f |             ", r[i].name, r[i].load_s, r[i].encode_mbs, r[i].decode_mbs, r[i].bytes_per_token);
    for (int k = 0; k < N_WORST; k++) printf(" %8.3f", r[i].worst_s[k]);
    printf("\n");
  }
}

static int write_json(const char *path, const result *r, int n) {
  FILE *f = fopen(path, "w");
  if (!f) return -1;
  fprintf(f, "[");
  for (int i = 0; i < n; i++) {
    fprintf(f, "%s\n  {\"name\": \"%s\", \"load_s\": %.4f, \"encode_mb_s\": %.3f, \"decode_mb_s\": %.3f, \"bytes_per_token\": %.4f", i ? "," : "",
            r[i].name, r[i].load_s, r[i].encode_mbs, r[i].decode_mbs, r[i].bytes_per_token);
    for (int k = 0; k < N_WORST; k++) fprintf(f, ", \"%s_1mb_s\": %.4f", worst_names[k], r[i].worst_s[k]);
    fprintf(f, "}");
  }
  fprintf(f, "\n]\n");
  return fclose(f);
}

int main(int argc, char **argv) {
  static result results[MAX_TOKENIZERS];
  const char *json = NULL, *text_path = NULL, *tokenizers[MAX_TOKENIZERS];
  int n = 0, bad = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json = argv[++i];
    } else if (strcmp(argv[i], "--text") == 0 && i + 1 < argc) {
      text_path = argv[++i];
    } else if (argv[i][0] != '-' && n < MAX_TOKENIZERS) {
      tokenizers[n++] = argv[i];
    } else {
      n = 0;
      break;
    }
  }
  if (n == 0) {
    fprintf(stderr, "usage: tokenizer_bench [--text FILE] [--json FILE] NAME=tokenizer.json ...\n");
    return 2;
  }
  ti_buf text;
  ti_buf_init(&text, 1u << 28);
  if (text_path && read_file(text_path, &text) != 0) {
    fprintf(stderr, "tokenizer_bench: cannot read %s\n", text_path);
    return 2;
  }
  if (!text_path) make_text(&text);
  for (int i = 0; i < n; i++) bad += bench_one(tokenizers[i], &text, &results[i]);
  print_table(results, n);
  if (json && write_json(json, results, n) != 0) bad++;
  ti_buf_fini(&text);
  return bad ? 1 : 0;
}
