// Values: construction, truth, equality, order, hashing. Costs are charged as steps, so that deep or shared structures cannot stall a rendering.
#include "model/chat/value.h"

#include <math.h>
#include <string.h>

#include "model/chat/interp.h"

bool jj_str_is(jj_str s, const char *lit) { return strlen(lit) == s.n && memcmp(s.p, lit, s.n) == 0; }

jj_list *jj_list_new(jj_run *J, size_t cap) {
  jj_list *l = jj_calloc(J, 1, sizeof *l);
  l->v = cap ? jj_calloc(J, cap, sizeof *l->v) : NULL;
  l->cap = cap;
  return l;
}

void jj_list_push(jj_run *J, jj_list *l, jj_val v) {
  if (l->n == l->cap) {
    size_t cap = l->cap ? l->cap * 2 : 4;
    jj_val *bigger = jj_calloc(J, cap, sizeof *bigger);
    if (l->n) memcpy(bigger, l->v, l->n * sizeof *bigger);
    l->v = bigger;
    l->cap = cap;
  }
  l->v[l->n++] = v;
}

bool jj_hashable(jj_run *J, jj_val v) {
  if (v.type == JJ_LIST || v.type == JJ_DICT || v.type == JJ_VIEW) return false;
  if (v.type != JJ_TUPLE) return true;
  jj_enter(J);
  bool ok = true;
  for (size_t i = 0; i < v.u.l->n && ok; i++) ok = jj_hashable(J, v.u.l->v[i]);
  jj_leave(J);
  return ok;
}

static uint32_t hash_bytes(uint32_t h, const void *p, size_t n) {
  const unsigned char *b = p;
  for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 16777619u;
  return h;
}

// Equal values hash alike: 1, 1.0 and true are equal.
static uint32_t hash(jj_run *J, jj_val v) {
  uint32_t h = 2166136261u;
  jj_work(J, v.type == JJ_STR ? v.u.s.n : 0);
  if (v.type == JJ_STR) return hash_bytes(h, v.u.s.p, v.u.s.n);
  if (jj_is_num(v)) {
    double f = jj_as_float(v);
    if (f == 0) f = 0;  // -0.0
    return hash_bytes(h, &f, sizeof f);
  }
  if (v.type == JJ_TUPLE) {
    jj_enter(J);
    for (size_t i = 0; i < v.u.l->n; i++) h = (h ^ hash(J, v.u.l->v[i])) * 16777619u;
    jj_leave(J);
    return h;
  }
  return hash_bytes(h, &v.type, sizeof v.type);
}

jj_dict *jj_dict_new(jj_run *J) { return jj_calloc(J, 1, sizeof(jj_dict)); }

static size_t find(jj_run *J, const jj_dict *d, jj_val key) {
  if (!d->index) {
    for (size_t i = 0; i < d->n; i++)
      if (jj_equal(J, d->e[i].key, key)) return i;
    return SIZE_MAX;
  }
  for (size_t at = hash(J, key) & (d->n_index - 1); d->index[at]; at = (at + 1) & (d->n_index - 1))
    if (jj_equal(J, d->e[d->index[at] - 1].key, key)) return d->index[at] - 1;
  return SIZE_MAX;
}

static void index_pair(jj_run *J, jj_dict *d, size_t i) {
  size_t at = hash(J, d->e[i].key) & (d->n_index - 1);
  while (d->index[at]) {
    jj_work(J, 0);
    at = (at + 1) & (d->n_index - 1);
  }
  d->index[at] = (uint32_t)i + 1;
}

void jj_dict_set(jj_run *J, jj_dict *d, jj_val key, jj_val value) {
  if (!jj_hashable(J, key)) jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: '%s'", jj_type_name(key));
  size_t i = find(J, d, key);
  if (i != SIZE_MAX) {
    d->e[i].value = value;
    return;
  }
  if (d->n == d->cap) {
    size_t cap = d->cap ? d->cap * 2 : 4;
    jj_pair *bigger = jj_calloc(J, cap, sizeof *bigger);
    if (d->n) memcpy(bigger, d->e, d->n * sizeof *bigger);
    d->e = bigger;
    d->cap = cap;
  }
  d->e[d->n++] = (jj_pair){key, value};
  if (d->n > 8 && d->n * 2 > d->n_index) {
    d->n_index = d->n_index ? d->n_index * 2 : 32;
    d->index = jj_calloc(J, d->n_index, sizeof *d->index);
    for (size_t k = 0; k < d->n; k++) index_pair(J, d, k);
  } else if (d->index) {
    index_pair(J, d, d->n - 1);
  }
}

bool jj_dict_get(jj_run *J, const jj_dict *d, jj_val key, jj_val *out) {
  if (!jj_hashable(J, key)) return false;
  size_t i = find(J, d, key);
  if (i == SIZE_MAX) return false;
  *out = d->e[i].value;
  return true;
}

bool jj_dict_gets(jj_run *J, const jj_dict *d, jj_str key, jj_val *out) { return jj_dict_get(J, d, jj_strn(key.p, key.n), out); }

jj_val jj_from_json(jj_run *J, const json_t *j) {
  jj_val v = jj_none();
  jj_enter(J);
  jj_work(J, 0);
  switch (json_typeof(j)) {
    case JSON_OBJECT: {
      v = jj_of_dict(JJ_DICT, jj_dict_new(J));
      void *it = json_object_iter((json_t *)(uintptr_t)j);  // jansson's iterators take no const; nothing is changed
      for (; it; it = json_object_iter_next((json_t *)(uintptr_t)j, it))
        jj_dict_set(J, v.u.d, jj_strn(json_object_iter_key(it), strlen(json_object_iter_key(it))), jj_from_json(J, json_object_iter_value(it)));
      break;
    }
    case JSON_ARRAY:
      v = jj_of_list(JJ_LIST, jj_list_new(J, json_array_size(j)));
      for (size_t i = 0; i < json_array_size(j); i++) jj_list_push(J, v.u.l, jj_from_json(J, json_array_get(j, i)));
      break;
    case JSON_STRING:
      v = jj_strn(json_string_value(j), json_string_length(j));
      break;
    case JSON_INTEGER:
      v = jj_int(json_integer_value(j));
      break;
    case JSON_REAL:
      v = jj_float(json_real_value(j));
      break;
    case JSON_TRUE:
    case JSON_FALSE:
      v = jj_bool(json_is_true(j));
      break;
    case JSON_NULL:
      break;
  }
  jj_leave(J);
  return v;
}

bool jj_truth(jj_run *J, jj_val v) {
  switch (v.type) {
    case JJ_UNDEF:
    case JJ_NONE:
      return false;
    case JJ_BOOL:
      return v.u.b;
    case JJ_INT:
      return v.u.i != 0;
    case JJ_FLOAT:
      return v.u.f != 0;
    case JJ_STR:
      return v.u.s.n != 0;
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_RANGE:
    case JJ_VIEW:
      return v.u.l->n != 0;
    case JJ_DICT:
      return v.u.d->n != 0;
    case JJ_LOOP:
      return jj_loop_length(J, v.u.loop) != 0;
    default:
      return true;
  }
}

static bool equal_lists(jj_run *J, const jj_list *a, const jj_list *b) {
  if (a == b) return true;
  if (a->n != b->n) return false;
  jj_enter(J);
  bool eq = true;
  for (size_t i = 0; i < a->n && eq; i++) eq = jj_equal(J, a->v[i], b->v[i]);
  jj_leave(J);
  return eq;
}

static bool equal_dicts(jj_run *J, const jj_dict *a, const jj_dict *b) {
  if (a == b) return true;
  if (a->n != b->n) return false;
  jj_enter(J);
  bool eq = true;
  for (size_t i = 0; i < a->n && eq; i++) {
    jj_val other;
    eq = jj_dict_get(J, b, a->e[i].key, &other) && jj_equal(J, a->e[i].value, other);
  }
  jj_leave(J);
  return eq;
}

bool jj_equal(jj_run *J, jj_val a, jj_val b) {
  jj_work(J, 0);
  if (jj_is_num(a) && jj_is_num(b)) {
    if (a.type != JJ_FLOAT && b.type != JJ_FLOAT) return jj_as_int(a) == jj_as_int(b);
    return jj_as_float(a) == jj_as_float(b);
  }
  if (a.type != b.type) return false;
  switch (a.type) {
    case JJ_NONE:
    case JJ_UNDEF:
      return true;
    case JJ_STR:
      if (a.u.s.n != b.u.s.n) return false;
      jj_work(J, a.u.s.n);
      return memcmp(a.u.s.p, b.u.s.p, a.u.s.n) == 0;
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_RANGE:
      return equal_lists(J, a.u.l, b.u.l);
    case JJ_DICT:
      return equal_dicts(J, a.u.d, b.u.d);
    default:
      return a.u.l == b.u.l;  // identity
  }
}

static int sign(double d) { return d < 0 ? -1 : d > 0; }

int jj_compare(jj_run *J, jj_val a, jj_val b, const char *op) {
  jj_work(J, 0);
  if (a.type == JJ_UNDEF) jj_raise_undef(J, a.u.u);
  if (b.type == JJ_UNDEF) jj_raise_undef(J, b.u.u);
  if (jj_is_num(a) && jj_is_num(b)) {
    if (a.type != JJ_FLOAT && b.type != JJ_FLOAT) return (jj_as_int(a) > jj_as_int(b)) - (jj_as_int(a) < jj_as_int(b));
    return sign(jj_as_float(a) - jj_as_float(b));
  }
  if (a.type == JJ_STR && b.type == JJ_STR) {  // the order of code points is the order of UTF-8 bytes
    size_t n = a.u.s.n < b.u.s.n ? a.u.s.n : b.u.s.n;
    jj_work(J, n);
    int c = memcmp(a.u.s.p, b.u.s.p, n);
    return c ? (c > 0) - (c < 0) : (a.u.s.n > b.u.s.n) - (a.u.s.n < b.u.s.n);
  }
  if ((a.type == JJ_LIST && b.type == JJ_LIST) || (a.type == JJ_TUPLE && b.type == JJ_TUPLE)) {
    const jj_list *x = a.u.l, *y = b.u.l;
    jj_enter(J);
    int c = 0;
    for (size_t i = 0; i < x->n && i < y->n && !c; i++)
      if (!jj_equal(J, x->v[i], y->v[i])) c = jj_compare(J, x->v[i], y->v[i], op);
    jj_leave(J);
    return c ? c : (x->n > y->n) - (x->n < y->n);
  }
  jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' not supported between instances of '%s' and '%s'", op, jj_type_name(a), jj_type_name(b));
}

bool jj_contains(jj_run *J, jj_val hay, jj_val needle) {
  jj_val v;
  if (hay.type == JJ_STR) {
    if (needle.type != JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: 'in <string>' requires string as left operand, not %s", jj_type_name(needle));
    jj_work(J, hay.u.s.n);
    return needle.u.s.n == 0 || memmem(hay.u.s.p, hay.u.s.n, needle.u.s.p, needle.u.s.n) != NULL;
  }
  if (hay.type == JJ_DICT) {
    if (!jj_hashable(J, needle)) jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: '%s'", jj_type_name(needle));
    return jj_dict_get(J, hay.u.d, needle, &v);
  }
  if (!jj_is_iterable(hay)) jj_raise(J, TI_ERR_FORMAT, "TypeError: argument of type '%s' is not iterable", jj_type_name(hay));
  for (jj_iter it = jj_iterate(J, hay); jj_next(J, &it, &v);)
    if (jj_equal(J, v, needle)) return true;
  return false;
}

const char *jj_type_name(jj_val v) {
  static const char *const names[] = {
      [JJ_UNDEF] = "Undefined",  [JJ_NONE] = "NoneType",
      [JJ_BOOL] = "bool",        [JJ_INT] = "int",
      [JJ_FLOAT] = "float",      [JJ_STR] = "str",
      [JJ_LIST] = "list",        [JJ_TUPLE] = "tuple",
      [JJ_RANGE] = "range",      [JJ_DICT] = "dict",
      [JJ_NS] = "Namespace",     [JJ_MACRO] = "Macro",
      [JJ_FUNC] = "function",    [JJ_METHOD] = "builtin_function_or_method",
      [JJ_LOOP] = "LoopContext", [JJ_CYCLER] = "Cycler",
      [JJ_JOINER] = "Joiner",
  };
  if (v.type == JJ_STR && v.markup) return "Markup";
  if (v.type == JJ_VIEW || v.type == JJ_GEN) return v.u.l->kind;
  return v.type < sizeof names / sizeof names[0] && names[v.type] ? names[v.type] : "object";
}

const char *jj_object_name(jj_val v) {
  switch (v.type) {
    case JJ_NONE:
      return "None";
    case JJ_BOOL:
      return "bool object";
    case JJ_INT:
      return "int object";
    case JJ_FLOAT:
      return "float object";
    case JJ_STR:
      return v.markup ? "markupsafe.Markup object" : "str object";
    case JJ_LIST:
      return "list object";
    case JJ_TUPLE:
      return "tuple object";
    case JJ_RANGE:
      return "range object";
    case JJ_DICT:
      return "dict object";
    case JJ_NS:
      return "jinja2.utils.Namespace object";
    case JJ_MACRO:
      return "jinja2.runtime.Macro object";
    case JJ_LOOP:
      return "jinja2.runtime.LoopContext object";
    case JJ_FUNC:
      return "function object";
    case JJ_METHOD:
      return "builtin_function_or_method object";
    case JJ_VIEW:
      return strcmp(v.u.l->kind, "dict_items") == 0  ? "dict_items object"
             : strcmp(v.u.l->kind, "dict_keys") == 0 ? "dict_keys object"
                                                     : "dict_values object";
    case JJ_GEN:
      return "generator object";
    default:
      return "object";
  }
}
