// Expressions: one function a node kind, and calls of everything that can be called.
#include <string.h>

#include "model/chat/interp.h"

const jj_func *jj_find_func(const jj_func *table, jj_str name) {
  for (; table->name; table++)
    if (jj_str_is(name, table->name)) return table;
  return NULL;
}

// The position of a name among the space-separated parameters ("!x" is x), or -1.
static int param_index(const char *params, jj_str name, int *count) {
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

static void check_mandatory(jj_run *J, const jj_func *f, const jj_val *b) {
  int i = 0;
  for (const char *p = f->params; *p; i++) {
    p += *p == ' ';
    size_t len = strcspn(p, " ");
    if (*p == '!' && b[i].type == JJ_MISSING)
      jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() missing 1 required positional argument: '%.*s'", f->name, (int)len - 1, p + 1);
    p += len;
  }
}

jj_val jj_call_func(jj_run *J, const jj_func *f, jj_val self, const jj_args *args) {
  jj_val b[8] = {{0}};
  jj_work(J, 0);
  if (!f->params) return f->fn(J, self, NULL, args);
  int n;
  param_index(f->params, (jj_str){"", 0}, &n);
  if (args->n > (size_t)n) jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() takes at most %d arguments (%zu given)", f->name, n, args->n);
  if (args->n) memcpy(b, args->v, args->n * sizeof b[0]);
  for (size_t i = 0; i < args->n_kw; i++) {
    jj_str key = args->kw[i].key.u.s;
    int at = param_index(f->params, key, &n);
    if (at < 0) jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() got an unexpected keyword argument '%.*s'", f->name, (int)key.n, key.p);
    if (b[at].type != JJ_MISSING) jj_raise(J, TI_ERR_FORMAT, "TypeError: %s() got multiple values for argument '%.*s'", f->name, (int)key.n, key.p);
    b[at] = args->kw[i].value;
  }
  check_mandatory(J, f, b);
  return f->fn(J, self, b, args);
}

static void push_kw(jj_run *J, jj_args *a, size_t *cap, jj_val key, jj_val value) {
  if (a->n_kw == *cap) {
    *cap = *cap ? *cap * 2 : 4;
    jj_pair *bigger = jj_calloc(J, *cap, sizeof *bigger);
    if (a->n_kw) memcpy(bigger, a->kw, a->n_kw * sizeof *bigger);
    a->kw = bigger;
  }
  a->kw[a->n_kw++] = (jj_pair){key, value};
}

jj_args jj_eval_args(jj_run *J, const jj_node *x) {
  jj_args a = {0};
  if (x->n) a.v = jj_calloc(J, x->n, sizeof *a.v);
  for (uint32_t i = 0; i < x->n; i++) a.v[i] = jj_eval(J, x->list[i]);
  a.n = x->n;
  size_t cap = 0;
  for (uint32_t i = 0; i < x->n2; i++) {
    const jj_node *k = x->list2[i];
    push_kw(J, &a, &cap, jj_strn(k->name.p, k->name.n), jj_eval(J, k->a));
  }
  if (x->b) {
    jj_list *more = jj_to_list(J, jj_eval(J, x->b)), *all = jj_list_new(J, a.n + more->n);
    for (size_t i = 0; i < a.n; i++) jj_list_push(J, all, a.v[i]);
    for (size_t i = 0; i < more->n; i++) jj_list_push(J, all, more->v[i]);
    a.v = all->v;
    a.n = all->n;
  }
  if (x->c) {
    jj_val d = jj_eval(J, x->c);
    if (d.type != JJ_DICT) jj_raise(J, TI_ERR_FORMAT, "TypeError: argument after ** must be a mapping, not %s", jj_type_name(d));
    for (size_t i = 0; i < d.u.d->n; i++) {
      if (d.u.d->e[i].key.type != JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: keywords must be strings");
      push_kw(J, &a, &cap, d.u.d->e[i].key, d.u.d->e[i].value);
    }
  }
  return a;
}

jj_val jj_call(jj_run *J, jj_val f, const jj_args *args) {
  switch (f.type) {
    case JJ_MACRO:
      return jj_call_macro(J, f.u.m, args);
    case JJ_FUNC:
      return jj_call_func(J, f.u.func, f, args);
    case JJ_METHOD:
      return jj_call_func(J, f.u.bound->func, f.u.bound->self, args);
    case JJ_LOOP:
      if (args->n != 1 || args->n_kw) jj_raise(J, TI_ERR_FORMAT, "TypeError: loop() takes one iterable");
      return jj_loop_recurse(J, f.u.loop, args->v[0]);
    case JJ_JOINER:
      if (!f.u.l->pos) {
        f.u.l->pos = 1;
        return jj_lit("");
      }
      return f.u.l->v[0];
    case JJ_UNDEF:
      jj_raise_undef(J, f.u.u);
    default:
      jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not callable", jj_type_name(f));
  }
}

jj_val jj_filter(jj_run *J, jj_str name, jj_val v, const jj_args *args) {
  const jj_func *const tables[] = {jj_filters_str, jj_filters_seq, jj_filters_num};
  for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
    const jj_func *f = jj_find_func(tables[i], name);
    if (f) return jj_call_func(J, f, v, args);
  }
  jj_raise(J, TI_ERR_FORMAT, "TemplateAssertionError: No filter named '%.*s'.", (int)name.n, name.p);
}

bool jj_test(jj_run *J, jj_str name, jj_val v, const jj_args *args) {
  const jj_func *f = jj_find_func(jj_tests, name);
  if (!f) jj_raise(J, TI_ERR_FORMAT, "TemplateAssertionError: No test named '%.*s'.", (int)name.n, name.p);
  return jj_truth(J, jj_call_func(J, f, v, args));
}

static jj_val eval_list(jj_run *J, const jj_node *x, jj_type type) {
  jj_list *l = jj_list_new(J, x->n);
  for (uint32_t i = 0; i < x->n; i++) jj_list_push(J, l, jj_eval(J, x->list[i]));
  return jj_of_list(type, l);
}

static jj_val eval_dict(jj_run *J, const jj_node *x) {
  jj_dict *d = jj_dict_new(J);
  for (uint32_t i = 0; i + 1 < x->n; i += 2) {
    jj_val key = jj_eval(J, x->list[i]);
    jj_dict_set(J, d, key, jj_eval(J, x->list[i + 1]));
  }
  return jj_of_dict(JJ_DICT, d);
}

static jj_val eval_getitem(jj_run *J, const jj_node *x) {
  jj_val obj = jj_eval(J, x->a);
  const jj_node *k = x->b;
  if (k->kind != JJ_N_SLICE) {
    jj_val key = jj_eval(J, k);
    J->line = x->line;
    return jj_getitem(J, obj, key);
  }
  jj_val from = k->a ? jj_eval(J, k->a) : jj_none(), to = k->b ? jj_eval(J, k->b) : jj_none(), step = k->c ? jj_eval(J, k->c) : jj_none();
  J->line = x->line;
  return jj_slice(J, obj, from, to, step);
}

static bool compare(jj_run *J, char op, jj_val a, jj_val b) {
  switch (op) {
    case '=':
      return jj_equal(J, a, b);
    case '!':
      return !jj_equal(J, a, b);
    case 'i':
      return jj_contains(J, b, a);
    case 'n':
      return !jj_contains(J, b, a);
    default:
      break;
  }
  if (jj_is_num(a) && jj_is_num(b) && (jj_as_float(a) != jj_as_float(a) || jj_as_float(b) != jj_as_float(b))) return false;  // NaN
  int c = jj_compare(J, a, b, op == 'l' ? "<=" : op == 'g' ? ">=" : op == '<' ? "<" : ">");
  return op == '<' ? c < 0 : op == 'l' ? c <= 0 : op == '>' ? c > 0 : c >= 0;
}

static jj_val eval_compare(jj_run *J, const jj_node *x) {
  jj_val a = jj_eval(J, x->a);
  for (uint32_t i = 0; i < x->n; i++) {
    jj_val b = jj_eval(J, x->list[i]->a);
    J->line = x->list[i]->line;
    if (!compare(J, (char)x->list[i]->op, a, b)) return jj_bool(false);
    a = b;
  }
  return jj_bool(true);
}

static jj_val eval_concat(jj_run *J, const jj_node *x) {
  jj_val v = jj_eval(J, x->list[0]);
  jj_str s = jj_str_of(J, v);
  for (uint32_t i = 1; i < x->n; i++) {
    jj_str more = jj_str_of(J, jj_eval(J, x->list[i]));
    J->line = x->line;
    s = jj_concat(J, s, more).u.s;
  }
  return jj_strn(s.p, s.n);
}

static jj_val eval_cond(jj_run *J, const jj_node *x) {
  if (jj_truth(J, jj_eval(J, x->a))) return jj_eval(J, x->b);
  if (x->c) return jj_eval(J, x->c);
  return jj_hint(J, "the inline if-expression evaluated to false and no else section was defined.");
}

static jj_val eval_named(jj_run *J, const jj_node *x) {  // filters and tests
  jj_val v = jj_eval(J, x->a);
  jj_args args = jj_eval_args(J, x);
  J->line = x->line;
  return x->kind == JJ_N_FILTER ? jj_filter(J, x->name, v, &args) : jj_bool(jj_test(J, x->name, v, &args));
}

static jj_val eval_call(jj_run *J, const jj_node *x) {
  jj_val f = jj_eval(J, x->a);
  jj_args args = jj_eval_args(J, x);
  J->line = x->line;
  return jj_call(J, f, &args);
}

static jj_val eval_node(jj_run *J, const jj_node *x) {
  jj_val a, b;
  switch ((jj_kind)x->kind) {
    case JJ_N_CONST:
      return x->val;
    case JJ_N_NAME:
      return jj_lookup(J, x->sym, x->name);
    case JJ_N_LIST:
      return eval_list(J, x, JJ_LIST);
    case JJ_N_TUPLE:
      return eval_list(J, x, JJ_TUPLE);
    case JJ_N_DICT:
      return eval_dict(J, x);
    case JJ_N_GETATTR:
      a = jj_eval(J, x->a);
      J->line = x->line;
      return jj_getattr(J, a, x->name);
    case JJ_N_GETITEM:
      return eval_getitem(J, x);
    case JJ_N_CALL:
      return eval_call(J, x);
    case JJ_N_FILTER:
    case JJ_N_TEST:
      return eval_named(J, x);
    case JJ_N_NOT:
      return jj_bool(!jj_truth(J, jj_eval(J, x->a)));
    case JJ_N_NEG:
    case JJ_N_POS:
      a = jj_eval(J, x->a);
      return jj_negate(J, a, x->kind == JJ_N_NEG);
    case JJ_N_BIN:
      a = jj_eval(J, x->a);
      b = jj_eval(J, x->b);
      J->line = x->line;
      return jj_binop(J, (char)x->op, a, b);
    case JJ_N_CONCAT:
      return eval_concat(J, x);
    case JJ_N_AND:
      a = jj_eval(J, x->a);
      return jj_truth(J, a) ? jj_eval(J, x->b) : a;
    case JJ_N_OR:
      a = jj_eval(J, x->a);
      return jj_truth(J, a) ? a : jj_eval(J, x->b);
    case JJ_N_COMPARE:
      return eval_compare(J, x);
    case JJ_N_COND:
      return eval_cond(J, x);
    default:
      jj_raise(J, TI_ERR_INTERNAL, "a statement where an expression belongs");
  }
}

jj_val jj_eval(jj_run *J, const jj_node *x) {
  jj_enter(J);
  jj_work(J, 0);
  J->line = x->line;
  jj_val v = eval_node(J, x);
  jj_leave(J);
  return v;
}
