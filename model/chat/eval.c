// Expressions: one function a node kind, and calls of everything that can be called.
#include <string.h>

#include "model/chat/interp.h"

const ti_jj_func *ti_jj_find_func(const ti_jj_func *table, ti_jj_str name) {
  for (; table->name; table++)
    if (ti_jj_str_is(name, table->name)) return table;
  return NULL;
}

// The position of a name among the space-separated parameters ("!x" is x), or -1.
static int param_index(const char *params, ti_jj_str name, int *count) {
  int at = -1, n = 0;
  for (const char *p = params; *p; n++) {
    p += *p == ' ';
    p += *p == '!';
    size_t len = strcspn(p, " ");
    if (len == name.n && memcmp(p, name.p, len) == 0) at = n;
    p += len;
  }
  *count = n;
  return at;
}

static void check_mandatory(ti_jj_run *J, const ti_jj_func *f, const ti_jj_val *b) {
  int i = 0;
  for (const char *p = f->params; *p; i++) {
    p += *p == ' ';
    size_t len = strcspn(p, " ");
    if (*p == '!' && b[i].type == TI_JJ_MISSING)
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() missing 1 required positional argument: '%.*s'", f->name, (int)len - 1, p + 1);
    p += len;
  }
}

ti_jj_val ti_jj_call_func(ti_jj_run *J, const ti_jj_func *f, ti_jj_val self, const ti_jj_args *args) {
  ti_jj_val b[8] = {{0}};
  ti_jj_work(J, 0);
  if (!f->params) return f->fn(J, self, NULL, args);
  int n;
  param_index(f->params, (ti_jj_str){"", 0}, &n);
  if (args->n > (size_t)n) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() takes at most %d arguments (%zu given)", f->name, n, args->n);
  if (args->n) memcpy(b, args->v, args->n * sizeof b[0]);
  for (size_t i = 0; i < args->n_kw; i++) {
    ti_jj_str key = args->kw[i].key.u.s;
    int at = param_index(f->params, key, &n);
    if (at < 0) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() got an unexpected keyword argument '%.*s'", f->name, (int)key.n, key.p);
    if (b[at].type != TI_JJ_MISSING)
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() got multiple values for argument '%.*s'", f->name, (int)key.n, key.p);
    b[at] = args->kw[i].value;
  }
  check_mandatory(J, f, b);
  return f->fn(J, self, b, args);
}

static void push_kw(ti_jj_run *J, ti_jj_args *a, size_t *cap, ti_jj_val key, ti_jj_val value) {
  if (a->n_kw == *cap) {
    *cap = *cap ? *cap * 2 : 4;
    ti_jj_pair *bigger = ti_jj_calloc(J, *cap, sizeof *bigger);
    if (a->n_kw) memcpy(bigger, a->kw, a->n_kw * sizeof *bigger);
    a->kw = bigger;
  }
  a->kw[a->n_kw++] = (ti_jj_pair){key, value};
}

ti_jj_args ti_jj_eval_args(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_args a = {0};
  if (x->n) a.v = ti_jj_calloc(J, x->n, sizeof *a.v);
  for (uint32_t i = 0; i < x->n; i++) a.v[i] = ti_jj_eval(J, x->list[i]);
  a.n = x->n;
  size_t cap = 0;
  for (uint32_t i = 0; i < x->n2; i++) {
    const ti_jj_node *k = x->list2[i];
    push_kw(J, &a, &cap, ti_jj_strn(k->name.p, k->name.n), ti_jj_eval(J, k->a));
  }
  if (x->b) {
    ti_jj_list *more = ti_jj_to_list(J, ti_jj_eval(J, x->b)), *all = ti_jj_list_new(J, a.n + more->n);
    for (size_t i = 0; i < a.n; i++) ti_jj_list_push(J, all, a.v[i]);
    for (size_t i = 0; i < more->n; i++) ti_jj_list_push(J, all, more->v[i]);
    a.v = all->v;
    a.n = all->n;
  }
  if (x->c) {
    ti_jj_val d = ti_jj_eval(J, x->c);
    if (d.type != TI_JJ_DICT) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: argument after ** must be a mapping, not %s", ti_jj_type_name(d));
    for (size_t i = 0; i < d.u.d->n; i++) {
      if (d.u.d->e[i].key.type != TI_JJ_STR) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: keywords must be strings");
      push_kw(J, &a, &cap, d.u.d->e[i].key, d.u.d->e[i].value);
    }
  }
  return a;
}

ti_jj_val ti_jj_call(ti_jj_run *J, ti_jj_val f, const ti_jj_args *args) {
  switch (f.type) {
    case TI_JJ_MACRO:
      return ti_jj_call_macro(J, f.u.m, args);
    case TI_JJ_FUNC:
      return ti_jj_call_func(J, f.u.func, f, args);
    case TI_JJ_METHOD:
      return ti_jj_call_func(J, f.u.bound->func, f.u.bound->self, args);
    case TI_JJ_LOOP:
      if (args->n != 1 || args->n_kw) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: loop() takes one iterable");
      return ti_jj_loop_recurse(J, f.u.loop, args->v[0]);
    case TI_JJ_JOINER:
      if (!f.u.l->pos) {
        f.u.l->pos = 1;
        return ti_jj_lit("");
      }
      return f.u.l->v[0];
    case TI_JJ_UNDEF:
      ti_jj_raise_undef(J, f.u.u);
    default:
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not callable", ti_jj_type_name(f));
  }
}

ti_jj_val ti_jj_filter(ti_jj_run *J, ti_jj_str name, ti_jj_val v, const ti_jj_args *args) {
  const ti_jj_func *const tables[] = {ti_jj_filters_str, ti_jj_filters_seq, ti_jj_filters_num};
  for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
    const ti_jj_func *f = ti_jj_find_func(tables[i], name);
    if (f) return ti_jj_call_func(J, f, v, args);
  }
  ti_jj_raise(J, TI_ERR_FORMAT, "TemplateAssertionError: No filter named '%.*s'.", (int)name.n, name.p);
}

bool ti_jj_test(ti_jj_run *J, ti_jj_str name, ti_jj_val v, const ti_jj_args *args) {
  const ti_jj_func *f = ti_jj_find_func(ti_jj_tests, name);
  if (!f) ti_jj_raise(J, TI_ERR_FORMAT, "TemplateAssertionError: No test named '%.*s'.", (int)name.n, name.p);
  return ti_jj_truth(J, ti_jj_call_func(J, f, v, args));
}

static ti_jj_val eval_list(ti_jj_run *J, const ti_jj_node *x, ti_jj_type type) {
  ti_jj_list *l = ti_jj_list_new(J, x->n);
  for (uint32_t i = 0; i < x->n; i++) ti_jj_list_push(J, l, ti_jj_eval(J, x->list[i]));
  return ti_jj_of_list(type, l);
}

static ti_jj_val eval_dict(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_dict *d = ti_jj_dict_new(J);
  for (uint32_t i = 0; i + 1 < x->n; i += 2) {
    ti_jj_val key = ti_jj_eval(J, x->list[i]);
    ti_jj_dict_set(J, d, key, ti_jj_eval(J, x->list[i + 1]));
  }
  return ti_jj_of_dict(TI_JJ_DICT, d);
}

static ti_jj_val eval_getitem(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_val obj = ti_jj_eval(J, x->a);
  const ti_jj_node *k = x->b;
  if (k->kind != TI_JJ_N_SLICE) {
    ti_jj_val key = ti_jj_eval(J, k);
    J->line = x->line;
    return ti_jj_getitem(J, obj, key);
  }
  ti_jj_val from = k->a ? ti_jj_eval(J, k->a) : ti_jj_none(), to = k->b ? ti_jj_eval(J, k->b) : ti_jj_none(),
            step = k->c ? ti_jj_eval(J, k->c) : ti_jj_none();
  J->line = x->line;
  return ti_jj_slice(J, obj, from, to, step);
}

static bool compare(ti_jj_run *J, char op, ti_jj_val a, ti_jj_val b) {
  switch (op) {
    case '=':
      return ti_jj_equal(J, a, b);
    case '!':
      return !ti_jj_equal(J, a, b);
    case 'i':
      return ti_jj_contains(J, b, a);
    case 'n':
      return !ti_jj_contains(J, b, a);
    default:
      break;
  }
  if (ti_jj_is_num(a) && ti_jj_is_num(b) && (ti_jj_as_float(a) != ti_jj_as_float(a) || ti_jj_as_float(b) != ti_jj_as_float(b))) return false;  // NaN
  int c = ti_jj_compare(J, a, b, op == 'l' ? "<=" : op == 'g' ? ">=" : op == '<' ? "<" : ">");
  return op == '<' ? c < 0 : op == 'l' ? c <= 0 : op == '>' ? c > 0 : c >= 0;
}

static ti_jj_val eval_compare(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_val a = ti_jj_eval(J, x->a);
  for (uint32_t i = 0; i < x->n; i++) {
    ti_jj_val b = ti_jj_eval(J, x->list[i]->a);
    J->line = x->list[i]->line;
    if (!compare(J, (char)x->list[i]->op, a, b)) return ti_jj_bool(false);
    a = b;
  }
  return ti_jj_bool(true);
}

static ti_jj_val eval_concat(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_val v = ti_jj_eval(J, x->list[0]);
  ti_jj_str s = ti_jj_str_of(J, v);
  for (uint32_t i = 1; i < x->n; i++) {
    ti_jj_str more = ti_jj_str_of(J, ti_jj_eval(J, x->list[i]));
    J->line = x->line;
    s = ti_jj_concat(J, s, more).u.s;
  }
  return ti_jj_strn(s.p, s.n);
}

static ti_jj_val eval_cond(ti_jj_run *J, const ti_jj_node *x) {
  if (ti_jj_truth(J, ti_jj_eval(J, x->a))) return ti_jj_eval(J, x->b);
  if (x->c) return ti_jj_eval(J, x->c);
  return ti_jj_hint(J, "the inline if-expression evaluated to false and no else section was defined.");
}

static ti_jj_val eval_named(ti_jj_run *J, const ti_jj_node *x) {  // filters and tests
  ti_jj_val v = ti_jj_eval(J, x->a);
  ti_jj_args args = ti_jj_eval_args(J, x);
  J->line = x->line;
  return x->kind == TI_JJ_N_FILTER ? ti_jj_filter(J, x->name, v, &args) : ti_jj_bool(ti_jj_test(J, x->name, v, &args));
}

static ti_jj_val eval_call(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_val f = ti_jj_eval(J, x->a);
  ti_jj_args args = ti_jj_eval_args(J, x);
  J->line = x->line;
  return ti_jj_call(J, f, &args);
}

static ti_jj_val eval_node(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_val a, b;
  switch ((ti_jj_kind)x->kind) {
    case TI_JJ_N_CONST:
      return x->val;
    case TI_JJ_N_NAME:
      return ti_jj_lookup(J, x->sym, x->name);
    case TI_JJ_N_LIST:
      return eval_list(J, x, TI_JJ_LIST);
    case TI_JJ_N_TUPLE:
      return eval_list(J, x, TI_JJ_TUPLE);
    case TI_JJ_N_DICT:
      return eval_dict(J, x);
    case TI_JJ_N_GETATTR:
      a = ti_jj_eval(J, x->a);
      J->line = x->line;
      return ti_jj_getattr(J, a, x->name);
    case TI_JJ_N_GETITEM:
      return eval_getitem(J, x);
    case TI_JJ_N_CALL:
      return eval_call(J, x);
    case TI_JJ_N_FILTER:
    case TI_JJ_N_TEST:
      return eval_named(J, x);
    case TI_JJ_N_NOT:
      return ti_jj_bool(!ti_jj_truth(J, ti_jj_eval(J, x->a)));
    case TI_JJ_N_NEG:
    case TI_JJ_N_POS:
      a = ti_jj_eval(J, x->a);
      return ti_jj_negate(J, a, x->kind == TI_JJ_N_NEG);
    case TI_JJ_N_BIN:
      a = ti_jj_eval(J, x->a);
      b = ti_jj_eval(J, x->b);
      J->line = x->line;
      return ti_jj_binop(J, (char)x->op, a, b);
    case TI_JJ_N_CONCAT:
      return eval_concat(J, x);
    case TI_JJ_N_AND:
      a = ti_jj_eval(J, x->a);
      return ti_jj_truth(J, a) ? ti_jj_eval(J, x->b) : a;
    case TI_JJ_N_OR:
      a = ti_jj_eval(J, x->a);
      return ti_jj_truth(J, a) ? a : ti_jj_eval(J, x->b);
    case TI_JJ_N_COMPARE:
      return eval_compare(J, x);
    case TI_JJ_N_COND:
      return eval_cond(J, x);
    default:
      ti_jj_raise(J, TI_ERR_INTERNAL, "a statement where an expression belongs");
  }
}

ti_jj_val ti_jj_eval(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_enter(J);
  ti_jj_work(J, 0);
  J->line = x->line;
  ti_jj_val v = eval_node(J, x);
  ti_jj_leave(J);
  return v;
}
