// Expressions, by recursive descent in jinja2's order of precedence:
//   a if b else c < or < and < not < comparisons, in < + - < ~ < * / // % < ** < unary - + < postfix . [] () < filters, tests
// Chains (a + b + c, a.b.c, a|f|g) are loops here but deep trees for the evaluator, whose own depth bound covers them.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/parser.h"

struct jj_sym_entry {
  jj_str name;
  int sym;
  jj_sym_entry *next;
};

_Noreturn void jj_p_fail(jj_parser *P, int line, const char *fmt, ...) {
  char msg[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(msg, sizeof msg, fmt, ap);
  va_end(ap);
  P->st = ti_error_set(P->err, TI_ERR_FORMAT, "line %d: %s", line, msg);
  longjmp(P->jump, 1);
}

void *jj_p_alloc(jj_parser *P, size_t n, size_t size) {
  void *p = ti_arena_calloc(&P->out->arena, n ? n : 1, size);
  if (!p) {
    P->st = ti_error_set(P->err, TI_ERR_NOMEM, "line %d: out of memory for the template", P->t->line);
    longjmp(P->jump, 1);
  }
  return p;
}

jj_node *jj_p_node(jj_parser *P, jj_kind kind, int line) {
  jj_node *x = jj_p_alloc(P, 1, sizeof *x);
  x->kind = (uint8_t)kind;
  x->line = line;
  x->sym = -1;
  return x;
}

int jj_p_sym(jj_parser *P, jj_str name) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < name.n; i++) h = (h ^ (unsigned char)name.p[i]) * 16777619u;
  jj_sym_entry **head = &P->buckets[h % JJ_SYM_BUCKETS];
  for (jj_sym_entry *e = *head; e; e = e->next)
    if (e->name.n == name.n && memcmp(e->name.p, name.p, name.n) == 0) return e->sym;
  ti_chat_template *t = P->out;
  if (t->n_syms == JJ_MAX_SYMS) jj_p_fail(P, P->t->line, "more than %d different names", JJ_MAX_SYMS);
  jj_sym_entry *e = jj_p_alloc(P, 1, sizeof *e);
  *e = (jj_sym_entry){name, t->n_syms, *head};
  *head = e;
  t->syms[t->n_syms] = name;
  return t->n_syms++;
}

void jj_p_enter(jj_parser *P) {
  if (++P->depth > JJ_MAX_NEST) {
    P->st = ti_error_set(P->err, TI_ERR_RANGE, "line %d: nested more than %d deep", P->t->line, JJ_MAX_NEST);
    longjmp(P->jump, 1);
  }
}

bool jj_p_is_op(const jj_parser *P, char op) { return P->t->type == JJ_T_OP && P->t->op == op; }
bool jj_p_is_name(const jj_parser *P, const char *name) { return P->t->type == JJ_T_NAME && jj_str_is(P->t->text, name); }

static bool skip_if(jj_parser *P, bool yes) {
  if (yes) P->t++;
  return yes;
}
bool jj_p_skip_op(jj_parser *P, char op) { return skip_if(P, jj_p_is_op(P, op)); }
bool jj_p_skip_name(jj_parser *P, const char *name) { return skip_if(P, jj_p_is_name(P, name)); }

void jj_p_expect_op(jj_parser *P, char op) {
  char buf[64];
  if (!jj_p_skip_op(P, op)) jj_p_fail(P, P->t->line, "expected token '%c', got '%s'", op == 'a' ? '=' : op, jj_token_describe(P->t, buf));
}

void jj_p_expect(jj_parser *P, jj_tok type) {
  char buf[64], want[64];
  jj_token w = {.type = (uint8_t)type};
  if (P->t->type != type)
    jj_p_fail(P, P->t->line, "expected token '%s', got '%s'", type == JJ_T_NAME ? "name" : jj_token_describe(&w, want), jj_token_describe(P->t, buf));
  P->t++;
}

jj_str jj_p_expect_name(jj_parser *P) {
  jj_str s = P->t->text;
  jj_p_expect(P, JJ_T_NAME);
  return s;
}

// A list of n nodes has room for the next power of two, so that it is full exactly when n is one.
void jj_p_push(jj_parser *P, jj_node ***list, uint32_t *n, jj_node *x) {
  if ((*n & (*n - 1)) == 0) {
    jj_node **bigger = jj_p_alloc(P, *n ? *n * 2 : 1, sizeof(jj_node *));
    if (*n) memcpy(bigger, *list, *n * sizeof(jj_node *));
    *list = bigger;
  }
  (*list)[(*n)++] = x;
}

static jj_node *konst(jj_parser *P, int line, jj_val v) {
  jj_node *x = jj_p_node(P, JJ_N_CONST, line);
  x->val = v;
  return x;
}

static jj_node *name_node(jj_parser *P, const jj_token *t) {
  jj_str s = t->text;
  if (jj_str_is(s, "true") || jj_str_is(s, "True")) return konst(P, t->line, jj_bool(true));
  if (jj_str_is(s, "false") || jj_str_is(s, "False")) return konst(P, t->line, jj_bool(false));
  if (jj_str_is(s, "none") || jj_str_is(s, "None")) return konst(P, t->line, jj_none());
  if (P->macro_uses) {
    if (jj_str_is(s, "varargs")) *P->macro_uses |= JJ_F_VARARGS;
    if (jj_str_is(s, "kwargs")) *P->macro_uses |= JJ_F_KWARGS;
    if (jj_str_is(s, "caller")) *P->macro_uses |= JJ_F_CALLER;
  }
  jj_node *x = jj_p_node(P, JJ_N_NAME, t->line);
  x->name = s;
  x->sym = jj_p_sym(P, s);
  return x;
}

static jj_node *strings(jj_parser *P) {  // adjacent literals are one
  int line = P->t->line;
  size_t n = 0, k = 0;
  for (; P->t[k].type == JJ_T_STR; k++) n += P->t[k].text.n;
  jj_str s = P->t->text;
  if (k > 1) {
    char *p = jj_p_alloc(P, n + 1, 1);
    s = (jj_str){p, n};
    for (size_t i = 0; i < k; p += P->t[i].text.n, i++) memcpy(p, P->t[i].text.p, P->t[i].text.n);
  }
  P->t += k;
  return konst(P, line, jj_strn(s.p, s.n));
}

static jj_node *list_or_dict(jj_parser *P, bool dict) {
  jj_node *x = jj_p_node(P, dict ? JJ_N_DICT : JJ_N_LIST, P->t->line);
  char end = dict ? '}' : ']';
  P->t++;
  while (!jj_p_is_op(P, end)) {
    if (x->n) jj_p_expect_op(P, ',');
    if (jj_p_is_op(P, end)) break;
    jj_p_push(P, &x->list, &x->n, jj_p_expression(P, true));
    if (!dict) continue;
    jj_p_expect_op(P, ':');
    jj_p_push(P, &x->list, &x->n, jj_p_expression(P, true));
  }
  jj_p_expect_op(P, end);
  return x;
}

jj_node *jj_p_primary(jj_parser *P) {
  const jj_token *t = P->t;
  char buf[64];
  jj_node *x;
  switch (t->type) {
    case JJ_T_NAME:
      P->t++;
      return name_node(P, t);
    case JJ_T_STR:
      return strings(P);
    case JJ_T_INT:
      P->t++;
      return konst(P, t->line, jj_int(t->num.i));
    case JJ_T_FLOAT:
      P->t++;
      return konst(P, t->line, jj_float(t->num.f));
    default:
      break;
  }
  jj_p_enter(P);
  if (jj_p_skip_op(P, '(')) {
    x = jj_p_tuple(P, false, true, NULL, true);
    jj_p_expect_op(P, ')');
  } else if (jj_p_is_op(P, '[') || jj_p_is_op(P, '{')) {
    x = list_or_dict(P, P->t->op == '{');
  } else {
    jj_p_fail(P, t->line, "unexpected '%s'", jj_token_describe(t, buf));
  }
  P->depth--;
  return x;
}

static bool tuple_ends(const jj_parser *P, const char *end) {
  return P->t->type == JJ_T_VAR_END || P->t->type == JJ_T_BLOCK_END || jj_p_is_op(P, ')') || (end && jj_p_is_name(P, end));
}

jj_node *jj_p_tuple(jj_parser *P, bool simple, bool with_cond, const char *end, bool in_brackets) {
  jj_node *x = jj_p_node(P, JJ_N_TUPLE, P->t->line);
  bool is_tuple = false;
  char buf[64];
  for (;;) {
    if (x->n) jj_p_expect_op(P, ',');
    if (tuple_ends(P, end)) break;
    jj_p_push(P, &x->list, &x->n, simple ? jj_p_primary(P) : jj_p_expression(P, with_cond));
    if (!jj_p_is_op(P, ',')) break;
    is_tuple = true;
  }
  if (is_tuple) return x;
  if (x->n) return x->list[0];
  if (!in_brackets) jj_p_fail(P, P->t->line, "Expected an expression, got '%s'", jj_token_describe(P->t, buf));
  return x;
}

// "(a, b, key=c, *d, **e)" into x->list, list2, b, c.
static void call_args(jj_parser *P, jj_node *x) {
  int line = P->t->line;
  jj_p_expect_op(P, '(');
  bool first = true;
  while (!jj_p_is_op(P, ')')) {
    if (!first) jj_p_expect_op(P, ',');
    first = false;
    if (jj_p_is_op(P, ')')) break;
    bool ok;
    if (jj_p_skip_op(P, '*')) {
      ok = !x->b && !x->c;
      x->b = jj_p_expression(P, true);
    } else if (jj_p_skip_op(P, 'p')) {
      ok = !x->c;
      x->c = jj_p_expression(P, true);
    } else if (P->t->type == JJ_T_NAME && P->t[1].type == JJ_T_OP && P->t[1].op == 'a') {
      ok = !x->c;
      jj_node *k = jj_p_node(P, JJ_N_KEYWORD, P->t->line);
      k->name = P->t->text;
      k->sym = jj_p_sym(P, k->name);
      P->t += 2;
      k->a = jj_p_expression(P, true);
      jj_p_push(P, &x->list2, &x->n2, k);
    } else {
      ok = !x->b && !x->c && !x->n2;
      jj_p_push(P, &x->list, &x->n, jj_p_expression(P, true));
    }
    if (!ok) jj_p_fail(P, line, "invalid syntax for function call expression");
  }
  jj_p_expect_op(P, ')');
}

static jj_node *call(jj_parser *P, jj_node *callee) {
  jj_node *x = jj_p_node(P, JJ_N_CALL, P->t->line);
  x->a = callee;
  jj_p_enter(P);
  call_args(P, x);
  P->depth--;
  return x;
}

// One subscript: an expression or a slice.
static jj_node *subscript_arg(jj_parser *P) {
  int line = P->t->line;
  jj_node *parts[3] = {NULL, NULL, NULL};
  if (!jj_p_is_op(P, ':')) {
    parts[0] = jj_p_expression(P, true);
    if (!jj_p_is_op(P, ':')) return parts[0];
  }
  for (int i = 1; i < 3 && jj_p_skip_op(P, ':'); i++)
    if (!jj_p_is_op(P, ':') && !jj_p_is_op(P, ']') && !jj_p_is_op(P, ',')) parts[i] = jj_p_expression(P, true);
  jj_node *x = jj_p_node(P, JJ_N_SLICE, line);
  x->a = parts[0];
  x->b = parts[1];
  x->c = parts[2];
  return x;
}

static jj_node *subscript(jj_parser *P, jj_node *obj) {
  int line = P->t->line;
  if (jj_p_skip_op(P, '.')) {
    const jj_token *t = P->t++;
    if (t->type == JJ_T_NAME) {
      jj_node *x = jj_p_node(P, JJ_N_GETATTR, line);
      x->a = obj;
      x->name = t->text;
      return x;
    }
    if (t->type != JJ_T_INT) jj_p_fail(P, t->line, "expected name or number");
    jj_node *x = jj_p_node(P, JJ_N_GETITEM, line);
    x->a = obj;
    x->b = konst(P, t->line, jj_int(t->num.i));
    return x;
  }
  jj_p_expect_op(P, '[');
  jj_p_enter(P);
  jj_node *args = jj_p_node(P, JJ_N_TUPLE, line);
  while (!jj_p_is_op(P, ']')) {
    if (args->n) jj_p_expect_op(P, ',');
    jj_node *arg = subscript_arg(P);
    jj_p_push(P, &args->list, &args->n, arg);
    if (args->n > 1 && (arg->kind == JJ_N_SLICE || args->list[0]->kind == JJ_N_SLICE)) jj_p_fail(P, line, "a slice among several subscripts");
  }
  jj_p_expect_op(P, ']');
  P->depth--;
  jj_node *x = jj_p_node(P, JJ_N_GETITEM, line);
  x->a = obj;
  x->b = args->n == 1 ? args->list[0] : args;
  return x;
}

jj_node *jj_p_postfix(jj_parser *P, jj_node *x) {
  for (;;) {
    if (jj_p_is_op(P, '.') || jj_p_is_op(P, '['))
      x = subscript(P, x);
    else if (jj_p_is_op(P, '('))
      x = call(P, x);
    else
      return x;
  }
}

static jj_str dotted_name(jj_parser *P) {
  jj_str s = jj_p_expect_name(P);
  while (jj_p_skip_op(P, '.')) {
    jj_str t = jj_p_expect_name(P);
    s.n = (size_t)(t.p + t.n - s.p);
  }
  return s;
}

jj_node *jj_p_filters(jj_parser *P, jj_node *x, bool inline_first) {
  while (inline_first || jj_p_skip_op(P, '|')) {
    inline_first = false;
    jj_node *f = jj_p_node(P, JJ_N_FILTER, P->t->line);
    f->a = x;
    f->name = dotted_name(P);
    if (jj_p_is_op(P, '(')) {
      jj_p_enter(P);
      call_args(P, f);
      P->depth--;
    }
    x = f;
  }
  return x;
}

static jj_node *test(jj_parser *P, jj_node *x) {
  P->t++;  // is
  bool negated = jj_p_skip_name(P, "not");
  jj_node *f = jj_p_node(P, JJ_N_TEST, P->t->line);
  f->a = x;
  f->name = dotted_name(P);
  uint8_t t = P->t->type;
  bool literal = t == JJ_T_NAME || t == JJ_T_STR || t == JJ_T_INT || t == JJ_T_FLOAT || jj_p_is_op(P, '[') || jj_p_is_op(P, '{');
  if (jj_p_is_op(P, '(')) {
    jj_p_enter(P);
    call_args(P, f);
    P->depth--;
  } else if (literal && !jj_p_is_name(P, "else") && !jj_p_is_name(P, "or") && !jj_p_is_name(P, "and")) {
    if (jj_p_is_name(P, "is")) jj_p_fail(P, P->t->line, "You cannot chain multiple tests with is");
    jj_p_push(P, &f->list, &f->n, jj_p_postfix(P, jj_p_primary(P)));
  }
  if (!negated) return f;
  x = jj_p_node(P, JJ_N_NOT, f->line);
  x->a = f;
  return x;
}

static jj_node *unary(jj_parser *P, bool with_filter) {
  int line = P->t->line;
  jj_node *x;
  if (jj_p_is_op(P, '-') || jj_p_is_op(P, '+')) {
    x = jj_p_node(P, P->t->op == '-' ? JJ_N_NEG : JJ_N_POS, line);
    P->t++;
    jj_p_enter(P);
    x->a = unary(P, false);
    P->depth--;
  } else {
    x = jj_p_primary(P);
  }
  x = jj_p_postfix(P, x);
  while (with_filter) {
    if (jj_p_is_op(P, '|'))
      x = jj_p_filters(P, x, false);
    else if (jj_p_is_name(P, "is"))
      x = test(P, x);
    else if (jj_p_is_op(P, '('))
      x = call(P, x);
    else
      break;
  }
  return x;
}

static jj_node *binary(jj_parser *P, jj_node *a, jj_node *(*next)(jj_parser *)) {
  jj_node *x = jj_p_node(P, JJ_N_BIN, P->t->line);
  x->op = (uint8_t)P->t->op;
  P->t++;
  x->a = a;
  x->b = next(P);
  return x;
}

static jj_node *operand(jj_parser *P) { return unary(P, true); }

static jj_node *power(jj_parser *P) {
  jj_node *x = operand(P);
  while (jj_p_is_op(P, 'p')) x = binary(P, x, operand);
  return x;
}

static jj_node *product(jj_parser *P) {
  jj_node *x = power(P);
  while (jj_p_is_op(P, '*') || jj_p_is_op(P, '/') || jj_p_is_op(P, 'f') || jj_p_is_op(P, '%')) x = binary(P, x, power);
  return x;
}

static jj_node *concat(jj_parser *P) {
  jj_node *x = product(P);
  if (!jj_p_is_op(P, '~')) return x;
  jj_node *c = jj_p_node(P, JJ_N_CONCAT, x->line);
  jj_p_push(P, &c->list, &c->n, x);
  while (jj_p_skip_op(P, '~')) jj_p_push(P, &c->list, &c->n, product(P));
  return c;
}

static jj_node *sum(jj_parser *P) {
  jj_node *x = concat(P);
  while (jj_p_is_op(P, '+') || jj_p_is_op(P, '-')) x = binary(P, x, concat);
  return x;
}

static char compare_op(jj_parser *P) {
  if (P->t->type == JJ_T_OP && P->t->op && strchr("=!<l>g", P->t->op)) return (P->t++)->op;
  if (jj_p_skip_name(P, "in")) return 'i';
  if (jj_p_is_name(P, "not") && P->t[1].type == JJ_T_NAME && jj_str_is(P->t[1].text, "in")) {
    P->t += 2;
    return 'n';
  }
  return 0;
}

static jj_node *comparison(jj_parser *P) {
  jj_node *a = sum(P), *x = NULL;
  for (;;) {
    int line = P->t->line;
    char op = compare_op(P);
    if (!op) return x ? x : a;
    if (!x) {
      x = jj_p_node(P, JJ_N_COMPARE, line);
      x->a = a;
    }
    jj_node *o = jj_p_node(P, JJ_N_OPERAND, line);
    o->op = (uint8_t)op;
    o->a = sum(P);
    jj_p_push(P, &x->list, &x->n, o);
  }
}

static jj_node *negation(jj_parser *P) {
  if (!jj_p_is_name(P, "not")) return comparison(P);
  jj_node *x = jj_p_node(P, JJ_N_NOT, P->t->line);
  P->t++;
  jj_p_enter(P);
  x->a = negation(P);
  P->depth--;
  return x;
}

static jj_node *pair(jj_parser *P, jj_kind kind, jj_node *a, jj_node *(*next)(jj_parser *)) {
  jj_node *x = jj_p_node(P, kind, P->t->line);
  P->t++;
  x->a = a;
  x->b = next(P);
  return x;
}

static jj_node *conjunction(jj_parser *P) {
  jj_node *x = negation(P);
  while (jj_p_is_name(P, "and")) x = pair(P, JJ_N_AND, x, negation);
  return x;
}

static jj_node *disjunction(jj_parser *P) {
  jj_node *x = conjunction(P);
  while (jj_p_is_name(P, "or")) x = pair(P, JJ_N_OR, x, conjunction);
  return x;
}

jj_node *jj_p_expression(jj_parser *P, bool with_cond) {
  jj_p_enter(P);
  jj_node *x = disjunction(P);
  while (with_cond && jj_p_is_name(P, "if")) {
    jj_node *c = jj_p_node(P, JJ_N_COND, P->t->line);
    P->t++;
    c->b = x;
    c->a = disjunction(P);
    if (jj_p_skip_name(P, "else")) c->c = jj_p_expression(P, true);
    x = c;
  }
  P->depth--;
  return x;
}
