// One rendering: its state, and what the interpreter's files offer each other.
//
//   render.c   entry, limits, sinks, errors          eval.c   expressions           exec.c    statements, loops, macros
//   ops.c      + - * / ... on values                 access.c attributes, items, slices
//   filter_*.c, test.c, method_*.c, func.c           what templates call by name: tables of {name, function, parameters}
//   repr.c     str() and repr()                      tojson.c json.dumps            format.c  "%s" % x and "{}".format(x)
//
// Errors are raised by a jump to ti_jj_render: every value lives in the rendering's arena, so that nothing has to be unwound on the way.
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
typedef struct ti_jj_sink {
  char *p;
  size_t n, cap;
  ti_buf *direct;
} ti_jj_sink;

typedef struct ti_jj_binding ti_jj_binding;
struct ti_jj_binding {
  int sym;
  ti_jj_val v;
  ti_jj_binding *next;
};
typedef struct ti_jj_scope ti_jj_scope;
struct ti_jj_scope {
  ti_jj_scope *parent;  // NULL: the template's top level, whose variables are in ti_jj_run.root
  ti_jj_binding *first;
};

struct ti_jj_run {
  const ti_chat_template *t;
  const json_t *vars;
  ti_chat_limits lim;
  uint64_t steps;
  unsigned depth;
  int line;  // of the node in work
  ti_arena arena;
  ti_jj_val *root;  // [n_syms] TI_JJ_MISSING: not set (yet)
  bool *probed;     // [n_syms] vars was asked for it
  ti_jj_scope top, *scope;
  ti_jj_sink *sink;
  size_t out_start;
  char *tail;  // end of the newest growable string, and the room behind it: s = s + x appends in place
  size_t tail_room;
  int64_t now_unix;
  ti_error *err;
  ti_status st;
  jmp_buf jump;
};

typedef struct ti_jj_args {
  ti_jj_val *v;
  size_t n;
  ti_jj_pair *kw;  // keys are strings
  size_t n_kw;
} ti_jj_args;

// An iteration over any iterable value.
typedef struct ti_jj_iter {
  ti_jj_val src;
  size_t i;
} ti_jj_iter;

struct ti_jj_loop {
  const ti_jj_node *node;
  ti_jj_iter it;
  bool filtering;  // the for tag has an "if" that is still to be asked
  bool has_next;   // `next` was fetched ahead (loop.last, loop.nextitem)
  ti_jj_val prev, cur, next;
  int64_t index0, depth0;
  int64_t length;  // -1: not counted yet
  ti_jj_scope *outer;
  ti_jj_list *changed;
};

struct ti_jj_macro {
  const ti_jj_node *node;
  ti_jj_scope *scope;  // where it was defined
  bool is_caller;
};

// A function, filter, test or method. params: space-separated names; "!x" is mandatory; NULL: takes the raw arguments. b[i] is the i-th
// parameter's value, TI_JJ_MISSING when not given.
typedef ti_jj_val (*ti_jj_fn)(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *args);
typedef struct ti_jj_func {
  const char *name;
  ti_jj_fn fn;
  const char *params;
} ti_jj_func;

struct ti_jj_bound {
  ti_jj_val self;
  const ti_jj_func *func;
};

// render.c
_Noreturn void ti_jj_raise(ti_jj_run *J, ti_status st, const char *fmt, ...) TI_PRINTF(3, 4);  // "line N: ..."
_Noreturn void ti_jj_raise_undef(ti_jj_run *J, const ti_jj_undef *u);
void *ti_jj_alloc(ti_jj_run *J, size_t n);
void *ti_jj_calloc(ti_jj_run *J, size_t n, size_t size);
void ti_jj_work(ti_jj_run *J, size_t bytes);  // charges 1 + bytes / 64 steps
void ti_jj_enter(ti_jj_run *J);               // one level deeper; leave with ti_jj_leave
static inline void ti_jj_leave(ti_jj_run *J) { J->depth--; }
void ti_jj_put(ti_jj_run *J, ti_jj_sink *s, const char *p, size_t n);
void ti_jj_puts(ti_jj_run *J, ti_jj_sink *s, const char *text);
void ti_jj_printf(ti_jj_run *J, ti_jj_sink *s, const char *fmt, ...) TI_PRINTF(3, 4);  // short texts (< 400 bytes)
static inline void ti_jj_putv(ti_jj_run *J, ti_jj_sink *s, ti_jj_str x) { ti_jj_put(J, s, x.p, x.n); }
static inline ti_jj_val ti_jj_sink_val(const ti_jj_sink *s) { return ti_jj_strn(s->p ? s->p : "", s->n); }
ti_jj_val ti_jj_lit(const char *static_text);

// exec.c
void ti_jj_exec_body(ti_jj_run *J, const ti_jj_node *body);
ti_jj_val ti_jj_call_macro(ti_jj_run *J, const ti_jj_macro *m, const ti_jj_args *args);
ti_jj_val ti_jj_loop_recurse(ti_jj_run *J, ti_jj_loop *lp, ti_jj_val items);
int64_t ti_jj_loop_length(ti_jj_run *J, ti_jj_loop *lp);
bool ti_jj_loop_peek(ti_jj_run *J, ti_jj_loop *lp);  // is there a next item? (then in lp->next)
ti_jj_val ti_jj_lookup(ti_jj_run *J, int sym, ti_jj_str name);
void ti_jj_bind(ti_jj_run *J, int sym, ti_jj_val v);  // in the current scope

// eval.c
ti_jj_val ti_jj_eval(ti_jj_run *J, const ti_jj_node *x);
ti_jj_args ti_jj_eval_args(ti_jj_run *J, const ti_jj_node *x);
ti_jj_val ti_jj_call(ti_jj_run *J, ti_jj_val f, const ti_jj_args *args);
ti_jj_val ti_jj_call_func(ti_jj_run *J, const ti_jj_func *f, ti_jj_val self, const ti_jj_args *args);
ti_jj_val ti_jj_filter(ti_jj_run *J, ti_jj_str name, ti_jj_val v, const ti_jj_args *args);
bool ti_jj_test(ti_jj_run *J, ti_jj_str name, ti_jj_val v, const ti_jj_args *args);

// access.c
ti_jj_val ti_jj_getattr(ti_jj_run *J, ti_jj_val obj, ti_jj_str name);
ti_jj_val ti_jj_getitem(ti_jj_run *J, ti_jj_val obj, ti_jj_val key);
ti_jj_val ti_jj_slice(ti_jj_run *J, ti_jj_val obj, ti_jj_val from, ti_jj_val to, ti_jj_val step);
ti_jj_val ti_jj_undefined(ti_jj_run *J, ti_jj_undef u);
ti_jj_val ti_jj_hint(ti_jj_run *J, const char *static_text);  // an undefined value whose use raises this text

// ops.c
ti_jj_val ti_jj_binop(ti_jj_run *J, char op, ti_jj_val a, ti_jj_val b);
ti_jj_val ti_jj_negate(ti_jj_run *J, ti_jj_val a, bool minus);
ti_jj_val ti_jj_concat(ti_jj_run *J, ti_jj_str a, ti_jj_str b);
ti_jj_val ti_jj_escape(ti_jj_run *J, ti_jj_val v);    // HTML; markup stays as it is
ti_jj_iter ti_jj_iterate(ti_jj_run *J, ti_jj_val v);  // TypeError when it is not iterable
bool ti_jj_next(ti_jj_run *J, ti_jj_iter *it, ti_jj_val *out);
bool ti_jj_is_iterable(ti_jj_val v);
ti_jj_list *ti_jj_to_list(ti_jj_run *J, ti_jj_val v);  // a new list of what v iterates over
int64_t ti_jj_length(ti_jj_run *J, ti_jj_val v);       // TypeError when it has none
// Stable sort by key (n values, same order as v); raises on values that do not compare.
void ti_jj_sort(ti_jj_run *J, ti_jj_val *v, ti_jj_val *keys, size_t n, bool reverse);

// repr.c
void ti_jj_str_to(ti_jj_run *J, ti_jj_sink *s, ti_jj_val v);
void ti_jj_repr_to(ti_jj_run *J, ti_jj_sink *s, ti_jj_val v);
ti_jj_str ti_jj_str_of(ti_jj_run *J, ti_jj_val v);
const char *ti_jj_float_repr(double f, char buf[40]);
bool ti_jj_parse_int(ti_jj_str s, int base, int64_t *out);  // as Python's int(s, base)
bool ti_jj_parse_float(ti_jj_str s, double *out);           // as Python's float(s)

// tojson.c
typedef struct ti_jj_json_opt {
  bool ascii, sort, pretty;
  ti_jj_str indent, item_sep, key_sep;
} ti_jj_json_opt;
void ti_jj_json_to(ti_jj_run *J, ti_jj_sink *s, ti_jj_val v, const ti_jj_json_opt *o);

// format.c
ti_jj_val ti_jj_format_percent(ti_jj_run *J, ti_jj_val fmt, ti_jj_val arg);
ti_jj_val ti_jj_format_braces(ti_jj_run *J, ti_jj_val fmt, const ti_jj_args *args);

// Helpers of the tables. An argument of another type raises a TypeError that names the function.
int64_t ti_jj_arg_int(ti_jj_run *J, ti_jj_val v, int64_t missing);
bool ti_jj_arg_bool(ti_jj_run *J, ti_jj_val v, bool missing);
ti_jj_str ti_jj_arg_str(ti_jj_run *J, ti_jj_val v, const char *missing);
static inline bool ti_jj_given(ti_jj_val v) { return v.type != TI_JJ_MISSING; }
static inline bool ti_jj_given_some(ti_jj_val v) { return v.type != TI_JJ_MISSING && v.type != TI_JJ_NONE; }
// "a.b.0" of an item, as |map(attribute=...) and |sort(attribute=...) look it up.
ti_jj_val ti_jj_attr_path(ti_jj_run *J, ti_jj_val item, ti_jj_val path);

// The tables, each ended by a NULL name.
extern const ti_jj_func ti_jj_filters_seq[], ti_jj_filters_str[], ti_jj_filters_num[], ti_jj_tests[], ti_jj_globals[];
extern const ti_jj_func ti_jj_str_methods[], ti_jj_list_methods[], ti_jj_dict_methods[], ti_jj_loop_methods[], ti_jj_misc_methods[];
const ti_jj_func *ti_jj_find_func(const ti_jj_func *table, ti_jj_str name);

#endif
