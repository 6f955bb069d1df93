// Safetensors files, good and hostile, built in memory or in a temporary folder.
#include "model/safetensors.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A file in memory: header length, header, data_n bytes of data (0, 1, 2, ...).
typedef struct image {
  unsigned char *data;
  size_t n;
} image;

// The header is padded to a multiple of 8, as writers do.
static image build(const char *header, size_t data_n) {
  const size_t len = strlen(header), pad = (8 - len % 8) % 8;
  image m = {calloc(1, 8 + len + pad + data_n), 8 + len + pad + data_n};
  for (int i = 0; i < 8; i++) m.data[i] = (unsigned char)((len + pad) >> (8 * i));
  memcpy(m.data + 8, header, len);
  memset(m.data + 8 + len, ' ', pad);
  for (size_t i = 0; i < data_n; i++) m.data[8 + len + pad + i] = (unsigned char)i;
  return m;
}

static void refuse_image(image m, ti_status st, const char *what) {
  ti_checkpoint *c = NULL;
  ti_error err = {0};
  const ti_status got = ti_safetensors_open_memory(m.data, m.n, "x.safetensors", &c, &err);
  cr_assert_eq(got, st, "%s instead of %s: %s", ti_status_name(got), ti_status_name(st), err.text);
  cr_assert_not_null(strstr(err.text, what), "\"%s\" does not say \"%s\"", err.text, what);
  cr_assert_not_null(strstr(err.text, "x.safetensors"), "%s", err.text);
  free(m.data);
}

static void refuse(const char *header, size_t data_n, ti_status st, const char *what) { refuse_image(build(header, data_n), st, what); }

#define T(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

Test(safetensors, tensors_are_found_with_shape_type_and_data) {
  image m = build("{\"__metadata__\":{\"format\":\"pt\",\"x\":\"{\\\"y\\\":[1}\"}," T("b", "BF16", "[2,3]", 16, 28) "," T(
                      "a", "F32", "[4]", 0, 16) "," T("c", "U8", "[2,0,3]", 28, 28) "," T("s", "U8", "[]", 28, 29) "}",
                  29);
  ti_checkpoint *c;
  ti_error err = {0};
  cr_assert_eq(ti_safetensors_open_memory(m.data, m.n, "x", &c, &err), TI_OK, "%s", err.text);
  cr_assert_eq(c->ops->count(c), 4);
  ti_tensor t;
  int64_t rows, cols;
  cr_assert_eq(ti_checkpoint_find(c, "b", &t), TI_OK);
  cr_assert(t.dtype == TI_BF16 && t.n_dim == 2 && t.shape[0] == 2 && t.shape[1] == 3 && t.bytes == 12);
  cr_assert_eq(((const unsigned char *)t.data)[0], 16);
  cr_assert_eq(ti_checkpoint_find(c, "a", &t), TI_OK);
  ti_tensor_matrix(&t, &rows, &cols);
  cr_assert(rows == 1 && cols == 4);
  cr_assert_eq(ti_checkpoint_find(c, "c", &t), TI_OK);
  ti_tensor_matrix(&t, &rows, &cols);
  cr_assert(rows == 0 && cols == 3 && t.bytes == 0);
  cr_assert_eq(ti_checkpoint_find(c, "s", &t), TI_OK);
  ti_tensor_matrix(&t, &rows, &cols);
  cr_assert(rows == 1 && cols == 1 && t.bytes == 1);
  cr_assert_eq(ti_checkpoint_find(c, "d", &t), TI_ERR_NOTFOUND);
  cr_assert_eq(ti_checkpoint_find(c, "", &t), TI_ERR_NOTFOUND);
  cr_assert_eq(c->ops->at(c, 0, &t), TI_OK);
  cr_assert_str_eq(t.name, "a", "at() is in the order of the data");
  cr_assert_eq(c->ops->at(c, 4, &t), TI_ERR_NOTFOUND);
  ti_checkpoint_close(c);
  free(m.data);
}

Test(safetensors, broken_headers_are_refused) {
  refuse_image((image){calloc(1, 1), 0}, TI_ERR_FORMAT, "0 bytes");
  refuse_image((image){calloc(1, 7), 7}, TI_ERR_FORMAT, "7 bytes");
  image m = build("{}", 0);
  m.data[7] = 0x10;  // 2^60 more
  refuse_image(m, TI_ERR_FORMAT, "header of 11529215046068");
  m = build("{}", 0);
  m.n--;  // one byte short
  refuse_image(m, TI_ERR_FORMAT, "truncated");
  m = build("{}", 0);
  memset(m.data, 0xff, 8);
  refuse_image(m, TI_ERR_FORMAT, "truncated");
  refuse("", 0, TI_ERR_FORMAT, "header");
  refuse("{\"a\":", 0, TI_ERR_FORMAT, "header");
  refuse("[]", 0, TI_ERR_FORMAT, "header: byte 0: expected '{', got '['");
  refuse("{\"a\":1}", 0, TI_ERR_FORMAT, "tensor a");
  refuse("{} x", 0, TI_ERR_FORMAT, "expected the end");
  refuse("{\"a\\u0062\":{}}", 0, TI_ERR_UNSUPPORTED, "escapes");
  refuse("{\"a", 0, TI_ERR_FORMAT, "end of a string");
  refuse("{\"__metadata__\":{\"a\":[}", 0, TI_ERR_FORMAT, "header");
  refuse("{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2, TI_ERR_FORMAT, "tensor a comes twice");
}

Test(safetensors, lying_entries_are_refused) {
  refuse("{" T("a", "F64", "[1]", 0, 8) "}", 8, TI_ERR_UNSUPPORTED, "tensor a: dtype: \"F64\"");
  refuse("{" T("a", "Q4_0", "[32]", 0, 18) "}", 18, TI_ERR_UNSUPPORTED, "\"Q4_0\"");
  refuse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, TI_ERR_FORMAT, "dtype: missing");
  refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, TI_ERR_FORMAT, "shape");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, TI_ERR_FORMAT, "data_offsets");
  refuse("{" T("a", "U8", "[-1]", 0, 1) "}", 1, TI_ERR_FORMAT, "tensor a: shape: header: byte");
  refuse("{" T("a", "U8", "[1,1,1,1,1]", 0, 1) "}", 1, TI_ERR_UNSUPPORTED, "5 dimensions");
  refuse("{" T("a", "U8", "[4294967296,4294967296]", 0, 1) "}", 1, TI_ERR_RANGE, "overflows");
  refuse("{" T("a", "F32", "[4611686018427387904]", 0, 0) "}", 0, TI_ERR_FORMAT, "another size");  // x 4 = 2^64 = 0
  refuse("{" T("a", "U8", "[4]", 0, 4) "}", 3, TI_ERR_RANGE, "[0, 4] are not within the file's 3 bytes");
  refuse("{" T("a", "U8", "[4]", 8, 4) "}", 8, TI_ERR_RANGE, "not within");
  refuse("{" T("a", "U8", "[4]", -4, 0) "}", 8, TI_ERR_FORMAT, "data_offsets");
  refuse("{" T("a", "U8", "[4]", 0, 18446744073709551616) "}", 8, TI_ERR_FORMAT, "below 2^64");
  refuse("{" T("a", "U8", "[4]", 0.0, 4) "}", 8, TI_ERR_FORMAT, "an integer");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, TI_ERR_FORMAT, "[begin, end]");
  refuse("{" T("a", "U8", "[3]", 0, 4) "}", 4, TI_ERR_FORMAT, "4 bytes, but 3 elements");
  refuse("{" T("a", "F32", "[1]", 2, 6) "}", 8, TI_ERR_FORMAT, "aligned");
  refuse("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 3, 7) "}", 8, TI_ERR_FORMAT, "a and b overlap");
  refuse("{" T("a", "U8", "[8]", 0, 8) "," T("b", "U8", "[2]", 1, 3) "," T("c", "U8", "[2]", 4, 6) "}", 8, TI_ERR_FORMAT, "overlap");
}

// The header reader's oracle: jansson's document of the same header says the same of every tensor.
Test(safetensors, headers_of_the_bundled_models_read_as_jansson_reads_them) {
  static const char *const files[] = {TI_SOURCE_DIR "/models/titan-tiny-dense/model.safetensors",
                                      TI_SOURCE_DIR "/models/titan-tiny-moe/model.safetensors",
                                      TI_SOURCE_DIR "/models/titan-tiny-moe/golden.safetensors"};
  for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
    FILE *f = fopen(files[i], "rb");
    uint64_t n;
    cr_assert(f && fread(&n, 8, 1, f) == 1);
    json_t *root = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL), *v;
    fclose(f);
    cr_assert_not_null(root);
    json_object_del(root, "__metadata__");
    ti_checkpoint *c;
    ti_error err = {0};
    cr_assert_eq(ti_safetensors_open(files[i], &c, &err), TI_OK, "%s", err.text);
    cr_assert_eq((size_t)c->ops->count(c), json_object_size(root));
    ti_tensor t0, t;
    cr_assert_eq(c->ops->at(c, 0, &t0), TI_OK);
    const char *name, *data = t0.data;  // the first tensor's offset is 0
    json_object_foreach(root, name, v) {
      cr_assert_eq(ti_checkpoint_find(c, name, &t), TI_OK, "%s", name);
      cr_assert_str_eq(ti_dtype_name(t.dtype), json_string_value(json_object_get(v, "dtype")));
      const json_t *shape = json_object_get(v, "shape"), *offsets = json_object_get(v, "data_offsets");
      cr_assert_eq((size_t)t.n_dim, json_array_size(shape));
      for (int d = 0; d < t.n_dim; d++) cr_assert_eq(t.shape[d], json_integer_value(json_array_get(shape, (size_t)d)));
      cr_assert_eq((const char *)t.data - data, json_integer_value(json_array_get(offsets, 0)), "%s", name);
      cr_assert_eq((const char *)t.data + t.bytes - data, json_integer_value(json_array_get(offsets, 1)), "%s", name);
    }
    ti_checkpoint_close(c);
    json_decref(root);
  }
}

static char dir[] = "/tmp/ti_safetensors_XXXXXX";
static const char *in_dir(const char *file) {
  static char path[2][160];
  static int k;
  k = !k;
  snprintf(path[k], sizeof(path[k]), "%s/%s", dir, file);
  return path[k];
}
static void write_file(const char *file, const void *data, size_t n) {
  FILE *f = fopen(in_dir(file), "wb");
  cr_assert_not_null(f);
  cr_assert_eq(fwrite(data, 1, n, f), n);
  fclose(f);
}
static void write_image(const char *file, const char *header, size_t data_n) {
  image m = build(header, data_n);
  write_file(file, m.data, m.n);
  free(m.data);
}
static void write_index(const char *map) {
  char text[512];
  const int n = snprintf(text, sizeof(text), "{\"metadata\":{},\"weight_map\":{%s}}", map);
  write_file("model.safetensors.index.json", text, (size_t)n);
}
static void make_dir(void) { cr_assert_not_null(mkdtemp(dir)); }
static void remove_dir(void) {
  static const char *const files[] = {"model.safetensors.index.json", "one.safetensors", "two.safetensors", "empty.safetensors"};
  for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) unlink(in_dir(files[i]));
  rmdir(dir);
}
static void refuse_index(const char *map, ti_status st, const char *what) {
  ti_checkpoint *c = NULL;
  ti_error err = {0};
  write_index(map);
  const ti_status got = ti_safetensors_open(in_dir("model.safetensors.index.json"), &c, &err);
  cr_assert_eq(got, st, "%s: %s", ti_status_name(got), err.text);
  cr_assert_not_null(strstr(err.text, what), "\"%s\" does not say \"%s\"", err.text, what);
}

Test(safetensors, shards_are_read_through_their_index, .init = make_dir, .fini = remove_dir) {
  write_image("one.safetensors", "{" T("a", "U8", "[4]", 0, 4) "}", 4);
  write_image("two.safetensors", "{" T("b", "U8", "[2]", 0, 2) "," T("c", "U8", "[1]", 2, 3) "}", 3);
  write_index("\"c\":\"two.safetensors\",\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"");
  ti_checkpoint *c;
  ti_error err = {0};
  cr_assert_eq(ti_checkpoint_open(dir, NULL, &c, &err), TI_OK, "%s", err.text);
  cr_assert_eq(c->ops->count(c), 3);
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_require(c, "c", 1, 1, &t, &err), TI_OK, "%s", err.text);
  unsigned char v = 0;
  ti_checkpoint_read(c, &t, 0, 1, 0, 1, &v);
  cr_assert_eq(v, 2);
  ti_checkpoint_close(c);
}

Test(safetensors, broken_indexes_are_refused, .init = make_dir, .fini = remove_dir) {
  write_image("one.safetensors", "{" T("a", "U8", "[4]", 0, 4) "}", 4);
  refuse_index("\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"", TI_ERR_NOTFOUND, "two.safetensors: missing shard, 2 of the 2");
  refuse_index("", TI_ERR_FORMAT, "weight_map");
  refuse_index("\"a\":\"../one.safetensors\"", TI_ERR_FORMAT, "tensor a");
  refuse_index("\"a\":3", TI_ERR_FORMAT, "tensor a");
  refuse_index("\"z\":\"one.safetensors\"", TI_ERR_FORMAT, "tensor z is not in one.safetensors");
  write_image("two.safetensors", "{" T("a", "U8", "[4]", 0, 4) "}", 4);
  refuse_index("\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"", TI_ERR_FORMAT, "tensor a is in two files");
}

Test(safetensors, missing_and_empty_files_are_named, .init = make_dir, .fini = remove_dir) {
  ti_checkpoint *c;
  ti_error err = {0};
  cr_assert_eq(ti_safetensors_open(in_dir("nope.safetensors"), &c, &err), TI_ERR_NOTFOUND);
  cr_assert_not_null(strstr(err.text, "nope.safetensors"));
  write_file("empty.safetensors", "", 0);
  cr_assert_eq(ti_safetensors_open(in_dir("empty.safetensors"), &c, &err), TI_ERR_FORMAT);
  cr_assert_not_null(strstr(err.text, "empty"));
  cr_assert_eq(ti_safetensors_open(dir, &c, &err), TI_ERR_IO);
  cr_assert_eq(ti_checkpoint_open(dir, NULL, &c, &err), TI_ERR_NOTFOUND);
  cr_assert_not_null(strstr(err.text, "model.safetensors.index.json"));
}
