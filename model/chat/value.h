// The prefix ti_jj_ (Jinja) marks what the files of this folder share; nothing outside includes its headers.
//
// The values of the template language (Python's, as far as templates see them). Immutable once shared, except namespaces; all memory belongs to
// the arena of the rendering (or of the template, for literals), and nothing is ever freed on its own.
//
//   value: [type | markup | payload]   payload: bool, int64, double, {ptr, len} of UTF-8, or a pointer to one of the structs below
#ifndef TI_MODEL_CHAT_VALUE_H
#define TI_MODEL_CHAT_VALUE_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ti_jj_type {
  TI_JJ_MISSING,  // internal: "argument not given", "slot not set"; never seen by a template
  TI_JJ_UNDEF,
  TI_JJ_NONE,
  TI_JJ_BOOL,
  TI_JJ_INT,
  TI_JJ_FLOAT,
  TI_JJ_STR,
  TI_JJ_LIST,
  TI_JJ_TUPLE,
  TI_JJ_RANGE,
  TI_JJ_DICT,
  TI_JJ_VIEW,  // dict.keys(), .values(), .items()
  TI_JJ_GEN,   // a generator: what map, select, items ... return; iterated once, no length, no JSON
  TI_JJ_NS,    // namespace()
  TI_JJ_MACRO,
  TI_JJ_FUNC,    // a global function
  TI_JJ_METHOD,  // a method bound to its object
  TI_JJ_LOOP,    // the variable `loop`
  TI_JJ_CYCLER,
  TI_JJ_JOINER,
} ti_jj_type;

typedef struct ti_jj_run ti_jj_run;
typedef struct ti_jj_list ti_jj_list;
typedef struct ti_jj_dict ti_jj_dict;
typedef struct ti_jj_undef ti_jj_undef;
typedef struct ti_jj_macro ti_jj_macro;
typedef struct ti_jj_loop ti_jj_loop;
typedef struct ti_jj_bound ti_jj_bound;
struct ti_jj_func;

typedef struct ti_jj_str {
  const char *p;
  size_t n;
} ti_jj_str;

typedef struct ti_jj_val {
  uint8_t type;
  bool markup;  // TI_JJ_STR: came from |safe or |escape ('+' escapes what it is added to)
  union {
    bool b;
    int64_t i;
    double f;
    ti_jj_str s;
    ti_jj_list *l;  // TI_JJ_LIST, TI_JJ_TUPLE, TI_JJ_RANGE, TI_JJ_VIEW, TI_JJ_GEN, TI_JJ_CYCLER, TI_JJ_JOINER
    ti_jj_dict *d;  // TI_JJ_DICT, TI_JJ_NS
    ti_jj_undef *u;
    ti_jj_macro *m;
    ti_jj_loop *loop;
    ti_jj_bound *bound;
    const struct ti_jj_func *func;
  } u;
} ti_jj_val;

struct ti_jj_list {
  ti_jj_val *v;
  size_t n, cap;
  size_t pos;                 // TI_JJ_GEN: the next to give out; TI_JJ_CYCLER: the current one; TI_JJ_JOINER: used before?
  const char *kind;           // TI_JJ_VIEW: "dict_items"; TI_JJ_GEN: "generator"; TI_JJ_TUPLE: "group" for groupby's pairs; else NULL
  int64_t start, stop, step;  // TI_JJ_RANGE: for its repr
};

typedef struct ti_jj_pair {
  ti_jj_val key, value;
} ti_jj_pair;

// Insertion order; beyond 8 pairs an open-addressing index (slot = pair + 1, 0 = free).
struct ti_jj_dict {
  ti_jj_pair *e;
  size_t n, cap;
  uint32_t *index;
  size_t n_index;
};

// Why a value is undefined, for the message that its use raises.
struct ti_jj_undef {
  enum { TI_JJ_U_NAME, TI_JJ_U_ATTR, TI_JJ_U_ELEMENT, TI_JJ_U_HINT, TI_JJ_U_UNSAFE, TI_JJ_U_PARAM } why;
  ti_jj_str name;
  ti_jj_val element;     // TI_JJ_U_ELEMENT
  const char *obj_type;  // "dict object"
};

static inline ti_jj_val ti_jj_none(void) { return (ti_jj_val){.type = TI_JJ_NONE}; }
static inline ti_jj_val ti_jj_bool(bool b) { return (ti_jj_val){.type = TI_JJ_BOOL, .u.b = b}; }
static inline ti_jj_val ti_jj_int(int64_t i) { return (ti_jj_val){.type = TI_JJ_INT, .u.i = i}; }
static inline ti_jj_val ti_jj_float(double f) { return (ti_jj_val){.type = TI_JJ_FLOAT, .u.f = f}; }
static inline ti_jj_val ti_jj_strn(const char *p, size_t n) { return (ti_jj_val){.type = TI_JJ_STR, .u.s = {p, n}}; }
static inline ti_jj_val ti_jj_of_list(ti_jj_type t, ti_jj_list *l) { return (ti_jj_val){.type = (uint8_t)t, .u.l = l}; }
static inline ti_jj_val ti_jj_of_dict(ti_jj_type t, ti_jj_dict *d) { return (ti_jj_val){.type = (uint8_t)t, .u.d = d}; }
static inline bool ti_jj_is_seq(ti_jj_val v) { return v.type == TI_JJ_LIST || v.type == TI_JJ_TUPLE || v.type == TI_JJ_RANGE; }
static inline bool ti_jj_is_intlike(ti_jj_val v) { return v.type == TI_JJ_INT || v.type == TI_JJ_BOOL; }
static inline bool ti_jj_is_num(ti_jj_val v) { return ti_jj_is_intlike(v) || v.type == TI_JJ_FLOAT; }
static inline int64_t ti_jj_as_int(ti_jj_val v) { return v.type == TI_JJ_BOOL ? v.u.b : v.u.i; }
static inline double ti_jj_as_float(ti_jj_val v) { return v.type == TI_JJ_FLOAT ? v.u.f : (double)ti_jj_as_int(v); }
bool ti_jj_str_is(ti_jj_str s, const char *lit);
static inline bool ti_jj_val_is(ti_jj_val v, const char *lit) { return v.type == TI_JJ_STR && ti_jj_str_is(v.u.s, lit); }

// Lists and dicts under construction. All raise when the arena is full.
ti_jj_list *ti_jj_list_new(ti_jj_run *J, size_t cap);
void ti_jj_list_push(ti_jj_run *J, ti_jj_list *l, ti_jj_val v);
ti_jj_dict *ti_jj_dict_new(ti_jj_run *J);
void ti_jj_dict_set(ti_jj_run *J, ti_jj_dict *d, ti_jj_val key, ti_jj_val value);  // raises TypeError for an unhashable key
bool ti_jj_dict_get(ti_jj_run *J, const ti_jj_dict *d, ti_jj_val key, ti_jj_val *out);
bool ti_jj_dict_gets(ti_jj_run *J, const ti_jj_dict *d, ti_jj_str key, ti_jj_val *out);

// A JSON value as a template value. Strings are borrowed from j.
ti_jj_val ti_jj_from_json(ti_jj_run *J, const json_t *j);

bool ti_jj_truth(ti_jj_run *J, ti_jj_val v);
bool ti_jj_equal(ti_jj_run *J, ti_jj_val a, ti_jj_val b);
bool ti_jj_hashable(ti_jj_run *J, ti_jj_val v);
// -1, 0, 1; op is for the TypeError ("<").
int ti_jj_compare(ti_jj_run *J, ti_jj_val a, ti_jj_val b, const char *op);
// `needle in hay`.
bool ti_jj_contains(ti_jj_run *J, ti_jj_val hay, ti_jj_val needle);

const char *ti_jj_type_name(ti_jj_val v);    // "str", "NoneType", "dict_items" ...: Python's names, for messages
const char *ti_jj_object_name(ti_jj_val v);  // "str object", "None": jinja2's, for messages on undefined

#endif
