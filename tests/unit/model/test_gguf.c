// The GGUF container, good and hostile, built in memory.
#include "model/gguf/gguf.h"

#include <criterion/criterion.h>

#include "gguf_build.h"

static gb b;

static void setup(void) { gb_init(&b); }
static void teardown(void) { gb_fini(&b); }
TestSuite(gguf, .init = setup, .fini = teardown);

static void refuse_bytes(unsigned char *m, size_t n, ti_status st, const char *what) {
  ti_gguf *g = NULL;
  ti_error err = {0};
  const ti_status got = ti_gguf_open_memory(m, n, "x.gguf", &g, &err);
  cr_assert_eq(got, st, "%s instead of %s: %s", ti_status_name(got), ti_status_name(st), err.text);
  cr_assert_not_null(strstr(err.text, what), "\"%s\" does not say \"%s\"", err.text, what);
  cr_assert_not_null(strstr(err.text, "x.gguf"), "%s", err.text);
  free(m);
}

static void refuse(ti_status st, const char *what) {
  size_t n;
  unsigned char *m = gb_finish(&b, &n);
  refuse_bytes(m, n, st, what);
  gb_fini(&b);
  gb_init(&b);
}

static ti_gguf *accept(unsigned char **m) {
  size_t n;
  ti_gguf *g = NULL;
  ti_error err = {0};
  *m = gb_finish(&b, &n);
  cr_assert_eq(ti_gguf_open_memory(*m, n, "x", &g, &err), TI_OK, "%s", err.text);
  return g;
}

Test(gguf, keys_and_tensors_are_found) {
  unsigned char *m;
  ti_error err = {0};
  gb_int(&b, "a.int", 7);
  gb_real(&b, "a.real", 2.5f);
  gb_bool(&b, "a.bool", true);
  gb_text(&b, "a.text", "hello");
  gb_texts(&b, "a.texts", (const char *const[]){"x", "", "zz"}, 3);
  gb_array(&b, "a.ints", TI_GGUF_I32, 2);
  gb_u32(&b.kv, 5);
  gb_u32(&b.kv, (uint32_t)-6);
  const float data[6] = {1, 2, 3, 4, 5, 6};
  gb_f32(&b, "m", 3, 2, 0, data);
  gb_tensor(&b, "q", 64, 2, 3, 3, 64 / 32 * 20 * 6, NULL);
  ti_gguf *g = accept(&m);

  int64_t i = 0;
  double d = 0;
  bool flag = false;
  ti_tok_text t, *texts;
  int32_t *ints;
  size_t n;
  cr_assert(ti_gguf_int(g, "a.int", 0, 9, &i, &err) == TI_OK && i == 7);
  cr_assert(ti_gguf_real(g, "a.real", 0, 9, &d, &err) == TI_OK && d == 2.5);
  cr_assert(ti_gguf_bool(g, "a.bool", &flag, &err) == TI_OK && flag);
  cr_assert(ti_gguf_string(g, "a.text", &t, &err) == TI_OK && t.n == 5 && memcmp(t.s, "hello", 5) == 0);
  cr_assert(ti_gguf_strings(g, "a.texts", &texts, &n, &err) == TI_OK && n == 3 && texts[1].n == 0 && texts[2].n == 2 && texts[2].s[1] == 'z');
  cr_assert(ti_gguf_ints(g, "a.ints", &ints, &n, &err) == TI_OK && n == 2 && ints[1] == -6);
  free(texts);
  free(ints);
  i = 77;
  cr_assert(ti_gguf_int(g, "a.none", 0, 9, &i, &err) == TI_OK && i == 77, "a missing key leaves the value");
  cr_assert_eq(ti_gguf_int(g, "a.int", 0, 6, &i, &err), TI_ERR_RANGE);
  cr_assert_str_eq(err.text, "a.int: expected an integer in 0..6, got 7");
  cr_assert_eq(ti_gguf_int(g, "a.text", 0, 6, &i, &err), TI_ERR_FORMAT);
  cr_assert_str_eq(err.text, "a.text: expected an integer, found string");
  cr_assert_eq(ti_gguf_int(g, "a.ints", 0, 6, &i, &err), TI_ERR_FORMAT);
  cr_assert_str_eq(err.text, "a.ints: expected an integer, found an array of int32");
  cr_assert_eq(ti_gguf_strings(g, "a.ints", &texts, &n, &err), TI_ERR_FORMAT);

  const ti_tensor *x = ti_gguf_tensor(g, "m");
  cr_assert(x && x->dtype == TI_F32 && x->n_dim == 2 && x->shape[0] == 2 && x->shape[1] == 3 && x->bytes == 24);
  cr_assert_eq(memcmp(x->data, data, 24), 0);
  x = ti_gguf_tensor(g, "q");
  cr_assert(x && x->dtype == TI_Q4_1 && x->n_dim == 3 && x->shape[0] == 3 && x->shape[2] == 64 && x->bytes == 240);
  cr_assert_eq((uintptr_t)x->data % 8, 0);
  cr_assert_null(ti_gguf_tensor(g, "n"));
  ti_gguf_close(g);
  free(m);
}

Test(gguf, other_versions_and_byte_orders_are_refused) {
  b.version = 2;
  refuse(TI_ERR_UNSUPPORTED, "GGUF version 2 is not supported (3 is)");
  b.version = 4;
  refuse(TI_ERR_UNSUPPORTED, "version 4");
  b.version = 0x03000000;
  refuse(TI_ERR_UNSUPPORTED, "big-endian GGUF file (version 3)");
  size_t n;
  unsigned char *m = gb_finish(&b, &n);
  memcpy(m, "ggjt", 4);
  refuse_bytes(m, n, TI_ERR_FORMAT, "no GGUF file: it begins with 67 67 6a 74");
  for (size_t k = 0; k < 24; k++) refuse_bytes(gb_finish(&b, &n), k, TI_ERR_FORMAT, "");
}

Test(gguf, counts_beyond_the_file_are_refused) {
  size_t n;
  const uint64_t huge = (uint64_t)1 << 60;
  unsigned char *m = gb_finish(&b, &n);
  memcpy(m + 8, &huge, 8);
  refuse_bytes(m, n, TI_ERR_RANGE, "1152921504606846976 tensors; a file of this size has at most 0");
  m = gb_finish(&b, &n);
  memcpy(m + 16, &huge, 8);
  refuse_bytes(m, n, TI_ERR_RANGE, "1152921504606846976 keys");
  gb_array(&b, "a", TI_GGUF_U8, huge);
  refuse(TI_ERR_RANGE, "a: an array of 1152921504606846976 elements");
  gb_array(&b, "a", TI_GGUF_F64, 1 << 20);
  refuse(TI_ERR_FORMAT, "a: the value: the file ends within it");
  gb_array(&b, "a", TI_GGUF_STRING, 2);
  gb_str(&b.kv, "one");
  refuse(TI_ERR_FORMAT, "a: string 1: the file ends");
  gb_key(&b, "a", TI_GGUF_STRING);
  gb_u64(&b.kv, UINT64_MAX);
  refuse(TI_ERR_FORMAT, "a: string 0: the file ends");
}

Test(gguf, every_truncation_of_the_header_is_refused) {
  gb_int(&b, "a.int", 7);
  gb_texts(&b, "a.texts", (const char *const[]){"x", "yy"}, 2);
  gb_f32(&b, "m", 4, 2, 0, NULL);
  size_t n, k;
  const size_t head = 24 + b.kv.len + b.info.len;
  free(gb_finish(&b, &n));
  for (k = 0; k < n; k++) {
    ti_gguf *g = NULL;
    ti_error err = {0};
    size_t size;
    unsigned char *m = gb_finish(&b, &size), *cut = malloc(k + 1);  // a copy, so that a read beyond it is seen
    memcpy(cut, m, k);
    const ti_status st = ti_gguf_open_memory(cut, k, "x", &g, &err);
    cr_assert(st == TI_ERR_FORMAT || st == TI_ERR_RANGE, "%zu bytes (header: %zu): %s", k, head, ti_status_name(st));
    free(cut);
    free(m);
  }
}

Test(gguf, bad_keys_and_values_are_refused) {
  gb_int(&b, "", 1);
  refuse(TI_ERR_RANGE, "key 0: 0 bytes");
  gb_int(&b, "a b", 1);
  refuse(TI_ERR_FORMAT, "key 0: byte 1 is 0x20");
  gb_int(&b, "twice", 1);
  gb_int(&b, "other", 1);
  gb_int(&b, "twice", 1);
  refuse(TI_ERR_FORMAT, "twice: the key comes twice");
  gb_key(&b, "a", 13);
  gb_u64(&b.kv, 0);
  refuse(TI_ERR_FORMAT, "a: value type 13, expected 0..12");
  gb_array(&b, "a", TI_GGUF_ARRAY, 1);
  gb_u64(&b.kv, 0);
  gb_u64(&b.kv, 0);
  refuse(TI_ERR_UNSUPPORTED, "a: an array of arrays");
}

Test(gguf, alignment_is_checked) {
  gb_int(&b, "general.alignment", 48);
  refuse(TI_ERR_RANGE, "general.alignment: 48 is no power of two");
  gb_int(&b, "general.alignment", 0);
  refuse(TI_ERR_RANGE, "general.alignment");
  gb_text(&b, "general.alignment", "x");
  refuse(TI_ERR_FORMAT, "general.alignment: expected an integer");
  gb_f32(&b, "first", 8, 0, 0, NULL);
  gb_info(&b, "second", 1, (const uint64_t[]){2}, 0, 40);
  b.at += 32;
  refuse(TI_ERR_FORMAT, "tensor second: offset 40 is no multiple of general.alignment (32)");
  unsigned char *m;
  b.alignment = 8;
  gb_int(&b, "general.alignment", 8);
  gb_f32(&b, "first", 2, 0, 0, NULL);
  gb_f32(&b, "second", 2, 0, 0, (const float[]){3, 4});
  ti_gguf *g = accept(&m);
  cr_assert_eq(((const float *)ti_gguf_tensor(g, "second")->data)[1], 4);
  ti_gguf_close(g);
  free(m);
}

Test(gguf, tensors_must_lie_within_the_data_and_apart) {
  gb_info(&b, "far", 1, (const uint64_t[]){8}, 0, 64);
  b.at = 64;
  refuse(TI_ERR_RANGE, "tensor far: 32 bytes at offset 64 are not within the file's 64 bytes of data");
  gb_info(&b, "far", 1, (const uint64_t[]){8}, 0, UINT64_MAX - 31);
  b.at = 64;
  refuse(TI_ERR_RANGE, "tensor far");
  gb_info(&b, "long", 1, (const uint64_t[]){32}, 0, 0);
  b.at = 64;
  refuse(TI_ERR_RANGE, "tensor long: 128 bytes");
  gb_f32(&b, "a", 16, 0, 0, NULL);
  gb_info(&b, "b", 1, (const uint64_t[]){8}, 0, 32);
  refuse(TI_ERR_FORMAT, "tensors a and b overlap at offset 32");
  gb_f32(&b, "a", 8, 0, 0, NULL);
  gb_f32(&b, "a", 8, 0, 0, NULL);
  refuse(TI_ERR_FORMAT, "tensor a comes twice");
}

Test(gguf, bad_shapes_are_refused) {
  gb_info(&b, "x", 0, NULL, 0, 0);
  gb_f32(&b, "y", 8, 0, 0, NULL);
  refuse(TI_ERR_FORMAT, "tensor x: 0 dimensions, expected 1..4");
  gb_info(&b, "x", 5, (const uint64_t[]){1, 1, 1, 1, 1}, 0, 0);
  refuse(TI_ERR_FORMAT, "tensor x: 5 dimensions");
  gb_info(&b, "x", 2, (const uint64_t[]){4, 0}, 0, 0);
  refuse(TI_ERR_RANGE, "tensor x: dimension 1 is 0");
  gb_info(&b, "x", 2, (const uint64_t[]){1ull << 33, 1ull << 33}, 0, 0);
  refuse(TI_ERR_RANGE, "tensor x: the product of its dimensions overflows");
  gb_info(&b, "x", 1, (const uint64_t[]){1ull << 62}, 0, 0);
  refuse(TI_ERR_RANGE, "tensor x");
  gb_info(&b, "x", 1, (const uint64_t[]){1ull << 63}, 0, 0);
  refuse(TI_ERR_RANGE, "tensor x: dimension 0 is 9223372036854775808");
  gb_info(&b, "x", 2, (const uint64_t[]){48, 2}, 8, 0);
  refuse(TI_ERR_FORMAT, "tensor x: rows of 48 elements are not whole Q8_0 blocks of 32");
  gb_info(&b, "x", 2, (const uint64_t[]){576, 2}, 12, 0);
  refuse(TI_ERR_FORMAT, "tensor x: rows of 576 elements are not whole Q4_K blocks of 256");
}

Test(gguf, unknown_quant_types_are_named) {
  gb_info(&b, "x", 1, (const uint64_t[]){256}, 10, 0);
  refuse(TI_ERR_UNSUPPORTED, "tensor x: type Q2_K (10) is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are)");
  gb_info(&b, "x", 1, (const uint64_t[]){256}, 39, 0);
  refuse(TI_ERR_UNSUPPORTED, "type MXFP4 (39)");
  gb_info(&b, "x", 1, (const uint64_t[]){256}, 4, 0);
  refuse(TI_ERR_UNSUPPORTED, "type 4 is not known (F32");
  gb_info(&b, "x", 1, (const uint64_t[]){256}, UINT32_MAX, 0);
  refuse(TI_ERR_UNSUPPORTED, "type 4294967295 is not known");
}

Test(gguf, every_served_type_has_ggml_s_number_and_size) {
  static const struct {
    uint32_t number, block, bytes;
    ti_dtype type;
  } all[] = {{0, 1, 4, TI_F32},       {1, 1, 2, TI_F16},       {30, 1, 2, TI_BF16},    {2, 32, 18, TI_Q4_0},
             {3, 32, 20, TI_Q4_1},    {6, 32, 22, TI_Q5_0},    {7, 32, 24, TI_Q5_1},   {8, 32, 34, TI_Q8_0},
             {12, 256, 144, TI_Q4_K}, {13, 256, 176, TI_Q5_K}, {14, 256, 210, TI_Q6_K}};
  const size_t n = sizeof all / sizeof *all;
  char name[8];
  for (size_t i = 0; i < n; i++) {
    snprintf(name, sizeof name, "t%zu", i);
    gb_tensor(&b, name, 512, 3, 0, all[i].number, 512 / all[i].block * all[i].bytes * 3, NULL);
  }
  unsigned char *m;
  ti_gguf *g = accept(&m);
  for (size_t i = 0; i < n; i++) {
    snprintf(name, sizeof name, "t%zu", i);
    const ti_tensor *t = ti_gguf_tensor(g, name);
    cr_assert(t && t->dtype == all[i].type && t->bytes == b.bytes[i], "%s", name);
  }
  ti_gguf_close(g);
  free(m);
}

Test(gguf, missing_and_odd_files_are_errors) {
  ti_gguf *g = NULL;
  ti_error err = {0};
  cr_assert_eq(ti_gguf_open("/nonexistent/x.gguf", &g, &err), TI_ERR_NOTFOUND);
  cr_assert_not_null(strstr(err.text, "/nonexistent/x.gguf"), "%s", err.text);
  cr_assert_eq(ti_gguf_open("/", &g, &err), TI_ERR_FORMAT);
  cr_assert_eq(ti_gguf_open("/dev/null", &g, &err), TI_ERR_FORMAT);
}
