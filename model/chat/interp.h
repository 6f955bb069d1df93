// One rendering: its state, and what the interpreter's files offer each other.
//
//   render.c   entry, limits, sinks, errors          eval.c   expressions           exec.c    statements, loops, macros
//   ops.c      + - * / ... on values                 access.c attributes, items, slices
//   filter_*.c, test.c, method_*.c, func.c           what templates call by name: tables of {name, function, parameters}
//   repr.c     str() and repr()                      tojson.c json.dumps            format.c  "%s" % x and "{}".format(x)
//
// Errors are raised by a jump to jj_render: every value lives in the rendering's arena, so that nothing has to be unwound on the way.
#ifndef TI_MODEL_CHAT_INTERP_H
#define TI_MODEL_CHAT_INTERP_H
#include <setjmp.h>
#include <time.h>

#include "base/arena.h"
#include "base/buf.h"
#include "model/chat.h"
#include "model/chat/ast.h"
#include "model/chat/value.h"

// Where text goes: the caller's buffer (direct) or a string that grows in the arena.
typedef struct jj_sink {
  char *p;
  size_t n, cap;
  ti_buf *direct;
} jj_sink;

typedef struct jj_binding jj_binding;
struct jj_binding {
  int sym;
  jj_val v;
  jj_binding *next;
};
typedef struct jj_scope jj_scope;
struct jj_scope {
  jj_scope *parent;  // NULL: the template's top level, whose variables are in jj_run.root
  jj_binding *first;
};

struct jj_run {
  const ti_chat_template *t;
  const json_t *vars;
  ti_chat_limits lim;
  uint64_t steps;
  unsigned depth;
  int line;  // of the node in work
  ti_arena arena;
  jj_val *root;  // [n_syms] JJ_MISSING: not set (yet)
  bool *probed;  // [n_syms] vars was asked for it
  jj_scope top, *scope;
  jj_sink *sink;
  size_t out_start;
  char *tail;  // end of the newest growable string, and the room behind it: s = s + x appends in place
  size_t tail_room;
  int64_t now_unix;
  ti_error *err;
  ti_status st;
  jmp_buf jump;
};

typedef struct jj_args {
  jj_val *v;
  size_t n;
  jj_pair *kw;  // keys are strings
  size_t n_kw;
} jj_args;

// An iteration over any iterable value.
typedef struct jj_iter {
  jj_val src;
  size_t i;
} jj_iter;

struct jj_loop {
  const jj_node *node;
  jj_iter it;
  bool filtering;  // the for tag has an "if" that is still to be asked
  bool has_next;   // `next` was fetched ahead (loop.last, loop.nextitem)
  jj_val prev, cur, next;
  int64_t index0, depth0;
  int64_t length;  // -1: not counted yet
  jj_scope *outer;
  jj_list *changed;
};

struct jj_macro {
  const jj_node *node;
  jj_scope *scope;  // where it was defined
  bool is_caller;
};

// A function, filter, test or method. params: space-separated names; "!x" is mandatory; NULL: takes the raw arguments. b[i] is the i-th
// parameter's value, JJ_MISSING when not given.
typedef jj_val (*jj_fn)(jj_run *J, jj_val self, jj_val *b, const jj_args *args);
typedef struct jj_func {
  const char *name;
  jj_fn fn;
  const char *params;
} jj_func;

struct jj_bound {
  jj_val self;
  const jj_func *func;
};

// render.c
_Noreturn void jj_raise(jj_run *J, ti_status st, const char *fmt, ...) TI_PRINTF(3, 4);  // "line N: ..."
_Noreturn void jj_raise_undef(jj_run *J, const jj_undef *u);
void *jj_alloc(jj_run *J, size_t n);
void *jj_calloc(jj_run *J, size_t n, size_t size);
void jj_work(jj_run *J, size_t bytes);  // charges 1 + bytes / 64 steps
void jj_enter(jj_run *J);               // one level deeper; leave with jj_leave
static inline void jj_leave(jj_run *J) { J->depth--; }
void jj_put(jj_run *J, jj_sink *s, const char *p, size_t n);
void jj_puts(jj_run *J, jj_sink *s, const char *text);
void jj_printf(jj_run *J, jj_sink *s, const char *fmt, ...) TI_PRINTF(3, 4);  // short texts (< 400 bytes)
static inline void jj_putv(jj_run *J, jj_sink *s, jj_str x) { jj_put(J, s, x.p, x.n); }
static inline jj_val jj_sink_val(const jj_sink *s) { return jj_strn(s->p ? s->p : "", s->n); }
jj_val jj_lit(const char *static_text);

// exec.c
void jj_exec_body(jj_run *J, const jj_node *body);
jj_val jj_call_macro(jj_run *J, const jj_macro *m, const jj_args *args);
jj_val jj_loop_recurse(jj_run *J, jj_loop *lp, jj_val items);
int64_t jj_loop_length(jj_run *J, jj_loop *lp);
bool jj_loop_peek(jj_run *J, jj_loop *lp);  // is there a next item? (then in lp->next)
jj_val jj_lookup(jj_run *J, int sym, jj_str name);
void jj_bind(jj_run *J, int sym, jj_val v);  // in the current scope

// eval.c
jj_val jj_eval(jj_run *J, const jj_node *x);
jj_args jj_eval_args(jj_run *J, const jj_node *x);
jj_val jj_call(jj_run *J, jj_val f, const jj_args *args);
jj_val jj_call_func(jj_run *J, const jj_func *f, jj_val self, const jj_args *args);
jj_val jj_filter(jj_run *J, jj_str name, jj_val v, const jj_args *args);
bool jj_test(jj_run *J, jj_str name, jj_val v, const jj_args *args);

// access.c
jj_val jj_getattr(jj_run *J, jj_val obj, jj_str name);
jj_val jj_getitem(jj_run *J, jj_val obj, jj_val key);
jj_val jj_slice(jj_run *J, jj_val obj, jj_val from, jj_val to, jj_val step);
jj_val jj_undefined(jj_run *J, jj_undef u);
jj_val jj_hint(jj_run *J, const char *static_text);  // an undefined value whose use raises this text

// ops.c
jj_val jj_binop(jj_run *J, char op, jj_val a, jj_val b);
jj_val jj_negate(jj_run *J, jj_val a, bool minus);
jj_val jj_concat(jj_run *J, jj_str a, jj_str b);
jj_val jj_escape(jj_run *J, jj_val v);    // HTML; markup stays as it is
jj_iter jj_iterate(jj_run *J, jj_val v);  // TypeError when it is not iterable
bool jj_next(jj_run *J, jj_iter *it, jj_val *out);
bool jj_is_iterable(jj_val v);
jj_list *jj_to_list(jj_run *J, jj_val v);  // a new list of what v iterates over
int64_t jj_length(jj_run *J, jj_val v);    // TypeError when it has none
// Stable sort by key (n values, same order as v); raises on values that do not compare.
void jj_sort(jj_run *J, jj_val *v, jj_val *keys, size_t n, bool reverse);

// repr.c
void jj_str_to(jj_run *J, jj_sink *s, jj_val v);
void jj_repr_to(jj_run *J, jj_sink *s, jj_val v);
jj_str jj_str_of(jj_run *J, jj_val v);
const char *jj_float_repr(double f, char buf[40]);
bool jj_parse_int(jj_str s, int base, int64_t *out);  // as Python's int(s, base)
bool jj_parse_float(jj_str s, double *out);           // as Python's float(s)

// tojson.c
typedef struct jj_json_opt {
  bool ascii, sort, pretty;
  jj_str indent, item_sep, key_sep;
} jj_json_opt;
void jj_json_to(jj_run *J, jj_sink *s, jj_val v, const jj_json_opt *o);

// format.c
jj_val jj_format_percent(jj_run *J, jj_val fmt, jj_val arg);
jj_val jj_format_braces(jj_run *J, jj_val fmt, const jj_args *args);

// Helpers of the tables. An argument of another type raises a TypeError that names the function.
int64_t jj_arg_int(jj_run *J, jj_val v, int64_t missing);
bool jj_arg_bool(jj_run *J, jj_val v, bool missing);
jj_str jj_arg_str(jj_run *J, jj_val v, const char *missing);
static inline bool jj_given(jj_val v) { return v.type != JJ_MISSING; }
static inline bool jj_given_some(jj_val v) { return v.type != JJ_MISSING && v.type != JJ_NONE; }
// "a.b.0" of an item, as |map(attribute=...) and |sort(attribute=...) look it up.
jj_val jj_attr_path(jj_run *J, jj_val item, jj_val path);

// The tables, each ended by a NULL name.
extern const jj_func jj_filters_seq[], jj_filters_str[], jj_filters_num[], jj_tests[], jj_globals[];
extern const jj_func jj_str_methods[], jj_list_methods[], jj_dict_methods[], jj_loop_methods[], jj_misc_methods[];
const jj_func *jj_find_func(const jj_func *table, jj_str name);

#endif
