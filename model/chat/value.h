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

typedef enum jj_type {
  JJ_MISSING,  // internal: "argument not given", "slot not set"; never seen by a template
  JJ_UNDEF,
  JJ_NONE,
  JJ_BOOL,
  JJ_INT,
  JJ_FLOAT,
  JJ_STR,
  JJ_LIST,
  JJ_TUPLE,
  JJ_RANGE,
  JJ_DICT,
  JJ_VIEW,  // dict.keys(), .values(), .items()
  JJ_GEN,   // a generator: what map, select, items ... return; iterated once, no length, no JSON
  JJ_NS,    // namespace()
  JJ_MACRO,
  JJ_FUNC,    // a global function
  JJ_METHOD,  // a method bound to its object
  JJ_LOOP,    // the variable `loop`
  JJ_CYCLER,
  JJ_JOINER,
} jj_type;

typedef struct jj_run jj_run;
typedef struct jj_list jj_list;
typedef struct jj_dict jj_dict;
typedef struct jj_undef jj_undef;
typedef struct jj_macro jj_macro;
typedef struct jj_loop jj_loop;
typedef struct jj_bound jj_bound;
struct jj_func;

typedef struct jj_str {
  const char *p;
  size_t n;
} jj_str;

typedef struct jj_val {
  uint8_t type;
  bool markup;  // JJ_STR: came from |safe or |escape ('+' escapes what it is added to)
  union {
    bool b;
    int64_t i;
    double f;
    jj_str s;
    jj_list *l;  // JJ_LIST, JJ_TUPLE, JJ_RANGE, JJ_VIEW, JJ_GEN, JJ_CYCLER, JJ_JOINER
    jj_dict *d;  // JJ_DICT, JJ_NS
    jj_undef *u;
    jj_macro *m;
    jj_loop *loop;
    jj_bound *bound;
    const struct jj_func *func;
  } u;
} jj_val;

struct jj_list {
  jj_val *v;
  size_t n, cap;
  size_t pos;                 // JJ_GEN: the next to give out; JJ_CYCLER: the current one; JJ_JOINER: used before?
  const char *kind;           // JJ_VIEW: "dict_items"; JJ_GEN: "generator"; JJ_TUPLE: "group" for groupby's pairs; else NULL
  int64_t start, stop, step;  // JJ_RANGE: for its repr
};

typedef struct jj_pair {
  jj_val key, value;
} jj_pair;

// Insertion order; beyond 8 pairs an open-addressing index (slot = pair + 1, 0 = free).
struct jj_dict {
  jj_pair *e;
  size_t n, cap;
  uint32_t *index;
  size_t n_index;
};

// Why a value is undefined, for the message that its use raises.
struct jj_undef {
  enum { JJ_U_NAME, JJ_U_ATTR, JJ_U_ELEMENT, JJ_U_HINT, JJ_U_UNSAFE, JJ_U_PARAM } why;
  jj_str name;
  jj_val element;        // JJ_U_ELEMENT
  const char *obj_type;  // "dict object"
};

static inline jj_val jj_none(void) { return (jj_val){.type = JJ_NONE}; }
static inline jj_val jj_bool(bool b) { return (jj_val){.type = JJ_BOOL, .u.b = b}; }
static inline jj_val jj_int(int64_t i) { return (jj_val){.type = JJ_INT, .u.i = i}; }
static inline jj_val jj_float(double f) { return (jj_val){.type = JJ_FLOAT, .u.f = f}; }
static inline jj_val jj_strn(const char *p, size_t n) { return (jj_val){.type = JJ_STR, .u.s = {p, n}}; }
static inline jj_val jj_of_list(jj_type t, jj_list *l) { return (jj_val){.type = (uint8_t)t, .u.l = l}; }
static inline jj_val jj_of_dict(jj_type t, jj_dict *d) { return (jj_val){.type = (uint8_t)t, .u.d = d}; }
static inline bool jj_is_seq(jj_val v) { return v.type == JJ_LIST || v.type == JJ_TUPLE || v.type == JJ_RANGE; }
static inline bool jj_is_intlike(jj_val v) { return v.type == JJ_INT || v.type == JJ_BOOL; }
static inline bool jj_is_num(jj_val v) { return jj_is_intlike(v) || v.type == JJ_FLOAT; }
static inline int64_t jj_as_int(jj_val v) { return v.type == JJ_BOOL ? v.u.b : v.u.i; }
static inline double jj_as_float(jj_val v) { return v.type == JJ_FLOAT ? v.u.f : (double)jj_as_int(v); }
bool jj_str_is(jj_str s, const char *lit);
static inline bool jj_val_is(jj_val v, const char *lit) { return v.type == JJ_STR && jj_str_is(v.u.s, lit); }

// Lists and dicts under construction. All raise when the arena is full.
jj_list *jj_list_new(jj_run *J, size_t cap);
void jj_list_push(jj_run *J, jj_list *l, jj_val v);
jj_dict *jj_dict_new(jj_run *J);
void jj_dict_set(jj_run *J, jj_dict *d, jj_val key, jj_val value);  // raises TypeError for an unhashable key
bool jj_dict_get(jj_run *J, const jj_dict *d, jj_val key, jj_val *out);
bool jj_dict_gets(jj_run *J, const jj_dict *d, jj_str key, jj_val *out);

// A JSON value as a template value. Strings are borrowed from j.
jj_val jj_from_json(jj_run *J, const json_t *j);

bool jj_truth(jj_run *J, jj_val v);
bool jj_equal(jj_run *J, jj_val a, jj_val b);
bool jj_hashable(jj_run *J, jj_val v);
// -1, 0, 1; op is for the TypeError ("<").
int jj_compare(jj_run *J, jj_val a, jj_val b, const char *op);
// `needle in hay`.
bool jj_contains(jj_run *J, jj_val hay, jj_val needle);

const char *jj_type_name(jj_val v);    // "str", "NoneType", "dict_items" ...: Python's names, for messages
const char *jj_object_name(jj_val v);  // "str object", "None": jinja2's, for messages on undefined

#endif
