// Expressions, by recursive descent in jinja2's order of precedence:
//   a if b else c < or < and < not < comparisons, in < + - < ~ < * / // % < ** < unary - + < postfix . [] () < filters, tests
// Chains (a + b + c, a.b.c, a|f|g) are loops here but deep trees for the evaluator, whose own depth bound covers them.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/parser.h"

struct ti_jj_sym_entry {
  ti_jj_str name;
  int sym;
  ti_jj_sym_entry *next;
};

_Noreturn void ti_jj_p_fail(ti_jj_parser *P, int line, const char *fmt, ...) {
  char msg[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(msg, sizeof msg, fmt, ap);
  va_end(ap);
  P->st = ti_error_set(P->err, TI_ERR_FORMAT, "line %d: %s", line, msg);
  longjmp(P->jump, 1);
}

void *ti_jj_p_alloc(ti_jj_parser *P, size_t n, size_t size) {
  void *p = ti_arena_calloc(&P->out->arena, n ? n : 1, size);
  if (!p) {
    P->st = ti_error_set(P->err, TI_ERR_NOMEM, "line %d: out of memory for the template", P->t->line);
    longjmp(P->jump, 1);
  }
  return p;
}

ti_jj_node *ti_jj_p_node(ti_jj_parser *P, ti_jj_kind kind, int line) {
  ti_jj_node *x = ti_jj_p_alloc(P, 1, sizeof *x);
  x->kind = (uint8_t)kind;
  x->line = line;
  x->sym = -1;
  return x;
}

int ti_jj_p_sym(ti_jj_parser *P, ti_jj_str name) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < name.n; i++) h = (h ^ (unsigned char)name.p[i]) * 16777619u;
  ti_jj_sym_entry **head = &P->buckets[h % TI_JJ_SYM_BUCKETS];
  for (ti_jj_sym_entry *e = *head; e; e = e->next)
    if (e->name.n == name.n && memcmp(e->name.p, name.p, name.n) == 0) return e->sym;
  ti_chat_template *t = P->out;
  if (t->n_syms == TI_JJ_MAX_SYMS) ti_jj_p_fail(P, P->t->line, "more than %d different names", TI_JJ_MAX_SYMS);
  ti_jj_sym_entry *e = ti_jj_p_alloc(P, 1, sizeof *e);
  *e = (ti_jj_sym_entry){name, t->n_syms, *head};
  *head = e;
  t->syms[t->n_syms] = name;
  return t->n_syms++;
}

void ti_jj_p_enter(ti_jj_parser *P) {
  if (++P->depth > TI_JJ_MAX_NEST) {
    P->st = ti_error_set(P->err, TI_ERR_RANGE, "line %d: nested more than %d deep", P->t->line, TI_JJ_MAX_NEST);
    longjmp(P->jump, 1);
  }
}

bool ti_jj_p_is_op(const ti_jj_parser *P, char op) { return P->t->type == TI_JJ_T_OP && P->t->op == op; }
bool ti_jj_p_is_name(const ti_jj_parser *P, const char *name) { return P->t->type == TI_JJ_T_NAME && ti_jj_str_is(P->t->text, name); }

static bool skip_if(ti_jj_parser *P, bool yes) {
  if (yes) P->t++;
  return yes;
}
bool ti_jj_p_skip_op(ti_jj_parser *P, char op) { return skip_if(P, ti_jj_p_is_op(P, op)); }
bool ti_jj_p_skip_name(ti_jj_parser *P, const char *name) { return skip_if(P, ti_jj_p_is_name(P, name)); }

void ti_jj_p_expect_op(ti_jj_parser *P, char op) {
  char buf[64];
  if (!ti_jj_p_skip_op(P, op)) ti_jj_p_fail(P, P->t->line, "expected token '%c', got '%s'", op == 'a' ? '=' : op, ti_jj_token_describe(P->t, buf));
}

void ti_jj_p_expect(ti_jj_parser *P, ti_jj_tok type) {
  char buf[64], want[64];
  ti_jj_token w = {.type = (uint8_t)type};
  if (P->t->type != type)
    ti_jj_p_fail(P, P->t->line, "expected token '%s', got '%s'", type == TI_JJ_T_NAME ? "name" : ti_jj_token_describe(&w, want),
                 ti_jj_token_describe(P->t, buf));
  P->t++;
}

ti_jj_str ti_jj_p_expect_name(ti_jj_parser *P) {
  ti_jj_str s = P->t->text;
  ti_jj_p_expect(P, TI_JJ_T_NAME);
  return s;
}

// A list of n nodes has room for the next power of two, so that it is full exactly when n is one.
void ti_jj_p_push(ti_jj_parser *P, ti_jj_node ***list, uint32_t *n, ti_jj_node *x) {
  if ((*n & (*n - 1)) == 0) {
    ti_jj_node **bigger = ti_jj_p_alloc(P, *n ? *n * 2 : 1, sizeof(ti_jj_node *));
    if (*n) memcpy(bigger, *list, *n * sizeof(ti_jj_node *));
    *list = bigger;
  }
  (*list)[(*n)++] = x;
}

static ti_jj_node *konst(ti_jj_parser *P, int line, ti_jj_val v) {
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_CONST, line);
  x->val = v;
  return x;
}

static ti_jj_node *name_node(ti_jj_parser *P, const ti_jj_token *t) {
  ti_jj_str s = t->text;
  if (ti_jj_str_is(s, "true") || ti_jj_str_is(s, "True")) return konst(P, t->line, ti_jj_bool(true));
  if (ti_jj_str_is(s, "false") || ti_jj_str_is(s, "False")) return konst(P, t->line, ti_jj_bool(false));
  if (ti_jj_str_is(s, "none") || ti_jj_str_is(s, "None")) return konst(P, t->line, ti_jj_none());
  if (P->macro_uses) {
    if (ti_jj_str_is(s, "varargs")) *P->macro_uses |= TI_JJ_F_VARARGS;
    if (ti_jj_str_is(s, "kwargs")) *P->macro_uses |= TI_JJ_F_KWARGS;
    if (ti_jj_str_is(s, "caller")) *P->macro_uses |= TI_JJ_F_CALLER;
  }
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_NAME, t->line);
  x->name = s;
  x->sym = ti_jj_p_sym(P, s);
  return x;
}

static ti_jj_node *strings(ti_jj_parser *P) {  // adjacent literals are one
  int line = P->t->line;
  size_t n = 0, k = 0;
  for (; P->t[k].type == TI_JJ_T_STR; k++) n += P->t[k].text.n;
  ti_jj_str s = P->t->text;
  if (k > 1) {
    char *p = ti_jj_p_alloc(P, n + 1, 1);
    s = (ti_jj_str){p, n};
    for (size_t i = 0; i < k; p += P->t[i].text.n, i++) memcpy(p, P->t[i].text.p, P->t[i].text.n);
  }
  P->t += k;
  return konst(P, line, ti_jj_strn(s.p, s.n));
}

static ti_jj_node *list_or_dict(ti_jj_parser *P, bool dict) {
  ti_jj_node *x = ti_jj_p_node(P, dict ? TI_JJ_N_DICT : TI_JJ_N_LIST, P->t->line);
  char end = dict ? '}' : ']';
  P->t++;
  while (!ti_jj_p_is_op(P, end)) {
    if (x->n) ti_jj_p_expect_op(P, ',');
    if (ti_jj_p_is_op(P, end)) break;
    ti_jj_p_push(P, &x->list, &x->n, ti_jj_p_expression(P, true));
    if (!dict) continue;
    ti_jj_p_expect_op(P, ':');
    ti_jj_p_push(P, &x->list, &x->n, ti_jj_p_expression(P, true));
  }
  ti_jj_p_expect_op(P, end);
  return x;
}

ti_jj_node *ti_jj_p_primary(ti_jj_parser *P) {
  const ti_jj_token *t = P->t;
  char buf[64];
  ti_jj_node *x;
  switch (t->type) {
    case TI_JJ_T_NAME:
      P->t++;
      return name_node(P, t);
    case TI_JJ_T_STR:
      return strings(P);
    case TI_JJ_T_INT:
      P->t++;
      return konst(P, t->line, ti_jj_int(t->num.i));
    case TI_JJ_T_FLOAT:
      P->t++;
      return konst(P, t->line, ti_jj_float(t->num.f));
    default:
      break;
  }
  ti_jj_p_enter(P);
  if (ti_jj_p_skip_op(P, '(')) {
    x = ti_jj_p_tuple(P, false, true, NULL, true);
    ti_jj_p_expect_op(P, ')');
  } else if (ti_jj_p_is_op(P, '[') || ti_jj_p_is_op(P, '{')) {
    x = list_or_dict(P, P->t->op == '{');
  } else {
    ti_jj_p_fail(P, t->line, "unexpected '%s'", ti_jj_token_describe(t, buf));
  }
  P->depth--;
  return x;
}

static bool tuple_ends(const ti_jj_parser *P, const char *end) {
  return P->t->type == TI_JJ_T_VAR_END || P->t->type == TI_JJ_T_BLOCK_END || ti_jj_p_is_op(P, ')') || (end && ti_jj_p_is_name(P, end));
}

ti_jj_node *ti_jj_p_tuple(ti_jj_parser *P, bool simple, bool with_cond, const char *end, bool in_brackets) {
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_TUPLE, P->t->line);
  bool is_tuple = false;
  char buf[64];
  for (;;) {
    if (x->n) ti_jj_p_expect_op(P, ',');
    if (tuple_ends(P, end)) break;
    ti_jj_p_push(P, &x->list, &x->n, simple ? ti_jj_p_primary(P) : ti_jj_p_expression(P, with_cond));
    if (!ti_jj_p_is_op(P, ',')) break;
    is_tuple = true;
  }
  if (is_tuple) return x;
  if (x->n) return x->list[0];
  if (!in_brackets) ti_jj_p_fail(P, P->t->line, "Expected an expression, got '%s'", ti_jj_token_describe(P->t, buf));
  return x;
}

// "(a, b, key=c, *d, **e)" into x->list, list2, b, c.
static void call_args(ti_jj_parser *P, ti_jj_node *x) {
  int line = P->t->line;
  ti_jj_p_expect_op(P, '(');
  bool first = true;
  while (!ti_jj_p_is_op(P, ')')) {
    if (!first) ti_jj_p_expect_op(P, ',');
    first = false;
    if (ti_jj_p_is_op(P, ')')) break;
    bool ok;
    if (ti_jj_p_skip_op(P, '*')) {
      ok = !x->b && !x->c;
      x->b = ti_jj_p_expression(P, true);
    } else if (ti_jj_p_skip_op(P, 'p')) {
      ok = !x->c;
      x->c = ti_jj_p_expression(P, true);
    } else if (P->t->type == TI_JJ_T_NAME && P->t[1].type == TI_JJ_T_OP && P->t[1].op == 'a') {
      ok = !x->c;
      ti_jj_node *k = ti_jj_p_node(P, TI_JJ_N_KEYWORD, P->t->line);
      k->name = P->t->text;
      k->sym = ti_jj_p_sym(P, k->name);
      P->t += 2;
      k->a = ti_jj_p_expression(P, true);
      ti_jj_p_push(P, &x->list2, &x->n2, k);
    } else {
      ok = !x->b && !x->c && !x->n2;
      ti_jj_p_push(P, &x->list, &x->n, ti_jj_p_expression(P, true));
    }
    if (!ok) ti_jj_p_fail(P, line, "invalid syntax for function call expression");
  }
  ti_jj_p_expect_op(P, ')');
}

static ti_jj_node *call(ti_jj_parser *P, ti_jj_node *callee) {
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_CALL, P->t->line);
  x->a = callee;
  ti_jj_p_enter(P);
  call_args(P, x);
  P->depth--;
  return x;
}

// One subscript: an expression or a slice.
static ti_jj_node *subscript_arg(ti_jj_parser *P) {
  int line = P->t->line;
  ti_jj_node *parts[3] = {NULL, NULL, NULL};
  if (!ti_jj_p_is_op(P, ':')) {
    parts[0] = ti_jj_p_expression(P, true);
    if (!ti_jj_p_is_op(P, ':')) return parts[0];
  }
  for (int i = 1; i < 3 && ti_jj_p_skip_op(P, ':'); i++)
    if (!ti_jj_p_is_op(P, ':') && !ti_jj_p_is_op(P, ']') && !ti_jj_p_is_op(P, ',')) parts[i] = ti_jj_p_expression(P, true);
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_SLICE, line);
  x->a = parts[0];
  x->b = parts[1];
  x->c = parts[2];
  return x;
}

static ti_jj_node *subscript(ti_jj_parser *P, ti_jj_node *obj) {
  int line = P->t->line;
  if (ti_jj_p_skip_op(P, '.')) {
    const ti_jj_token *t = P->t++;
    if (t->type == TI_JJ_T_NAME) {
      ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_GETATTR, line);
      x->a = obj;
      x->name = t->text;
      return x;
    }
    if (t->type != TI_JJ_T_INT) ti_jj_p_fail(P, t->line, "expected name or number");
    ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_GETITEM, line);
    x->a = obj;
    x->b = konst(P, t->line, ti_jj_int(t->num.i));
    return x;
  }
  ti_jj_p_expect_op(P, '[');
  ti_jj_p_enter(P);
  ti_jj_node *args = ti_jj_p_node(P, TI_JJ_N_TUPLE, line);
  while (!ti_jj_p_is_op(P, ']')) {
    if (args->n) ti_jj_p_expect_op(P, ',');
    ti_jj_node *arg = subscript_arg(P);
    ti_jj_p_push(P, &args->list, &args->n, arg);
    if (args->n > 1 && (arg->kind == TI_JJ_N_SLICE || args->list[0]->kind == TI_JJ_N_SLICE))
      ti_jj_p_fail(P, line, "a slice among several subscripts");
  }
  ti_jj_p_expect_op(P, ']');
  P->depth--;
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_GETITEM, line);
  x->a = obj;
  x->b = args->n == 1 ? args->list[0] : args;
  return x;
}

ti_jj_node *ti_jj_p_postfix(ti_jj_parser *P, ti_jj_node *x) {
  for (;;) {
    if (ti_jj_p_is_op(P, '.') || ti_jj_p_is_op(P, '['))
      x = subscript(P, x);
    else if (ti_jj_p_is_op(P, '('))
      x = call(P, x);
    else
      return x;
  }
}

static ti_jj_str dotted_name(ti_jj_parser *P) {
  ti_jj_str s = ti_jj_p_expect_name(P);
  while (ti_jj_p_skip_op(P, '.')) {
    ti_jj_str t = ti_jj_p_expect_name(P);
    s.n = (size_t)(t.p + t.n - s.p);
  }
  return s;
}

ti_jj_node *ti_jj_p_filters(ti_jj_parser *P, ti_jj_node *x, bool inline_first) {
  while (inline_first || ti_jj_p_skip_op(P, '|')) {
    inline_first = false;
    ti_jj_node *f = ti_jj_p_node(P, TI_JJ_N_FILTER, P->t->line);
    f->a = x;
    f->name = dotted_name(P);
    if (ti_jj_p_is_op(P, '(')) {
      ti_jj_p_enter(P);
      call_args(P, f);
      P->depth--;
    }
    x = f;
  }
  return x;
}

static ti_jj_node *test(ti_jj_parser *P, ti_jj_node *x) {
  P->t++;  // is
  bool negated = ti_jj_p_skip_name(P, "not");
  ti_jj_node *f = ti_jj_p_node(P, TI_JJ_N_TEST, P->t->line);
  f->a = x;
  f->name = dotted_name(P);
  uint8_t t = P->t->type;
  bool literal = t == TI_JJ_T_NAME || t == TI_JJ_T_STR || t == TI_JJ_T_INT || t == TI_JJ_T_FLOAT || ti_jj_p_is_op(P, '[') || ti_jj_p_is_op(P, '{');
  if (ti_jj_p_is_op(P, '(')) {
    ti_jj_p_enter(P);
    call_args(P, f);
    P->depth--;
  } else if (literal && !ti_jj_p_is_name(P, "else") && !ti_jj_p_is_name(P, "or") && !ti_jj_p_is_name(P, "and")) {
    if (ti_jj_p_is_name(P, "is")) ti_jj_p_fail(P, P->t->line, "You cannot chain multiple tests with is");
    ti_jj_p_push(P, &f->list, &f->n, ti_jj_p_postfix(P, ti_jj_p_primary(P)));
  }
  if (!negated) return f;
  x = ti_jj_p_node(P, TI_JJ_N_NOT, f->line);
  x->a = f;
  return x;
}

static ti_jj_node *unary(ti_jj_parser *P, bool with_filter) {
  int line = P->t->line;
  ti_jj_node *x;
  if (ti_jj_p_is_op(P, '-') || ti_jj_p_is_op(P, '+')) {
    x = ti_jj_p_node(P, P->t->op == '-' ? TI_JJ_N_NEG : TI_JJ_N_POS, line);
    P->t++;
    ti_jj_p_enter(P);
    x->a = unary(P, false);
    P->depth--;
  } else {
    x = ti_jj_p_primary(P);
  }
  x = ti_jj_p_postfix(P, x);
  while (with_filter) {
    if (ti_jj_p_is_op(P, '|'))
      x = ti_jj_p_filters(P, x, false);
    else if (ti_jj_p_is_name(P, "is"))
      x = test(P, x);
    else if (ti_jj_p_is_op(P, '('))
      x = call(P, x);
    else
      break;
  }
  return x;
}

static ti_jj_node *binary(ti_jj_parser *P, ti_jj_node *a, ti_jj_node *(*next)(ti_jj_parser *)) {
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_BIN, P->t->line);
  x->op = (uint8_t)P->t->op;
  P->t++;
  x->a = a;
  x->b = next(P);
  return x;
}

static ti_jj_node *operand(ti_jj_parser *P) { return unary(P, true); }

static ti_jj_node *power(ti_jj_parser *P) {
  ti_jj_node *x = operand(P);
  while (ti_jj_p_is_op(P, 'p')) x = binary(P, x, operand);
  return x;
}

static ti_jj_node *product(ti_jj_parser *P) {
  ti_jj_node *x = power(P);
  while (ti_jj_p_is_op(P, '*') || ti_jj_p_is_op(P, '/') || ti_jj_p_is_op(P, 'f') || ti_jj_p_is_op(P, '%')) x = binary(P, x, power);
  return x;
}

static ti_jj_node *concat(ti_jj_parser *P) {
  ti_jj_node *x = product(P);
  if (!ti_jj_p_is_op(P, '~')) return x;
  ti_jj_node *c = ti_jj_p_node(P, TI_JJ_N_CONCAT, x->line);
  ti_jj_p_push(P, &c->list, &c->n, x);
  while (ti_jj_p_skip_op(P, '~')) ti_jj_p_push(P, &c->list, &c->n, product(P));
  return c;
}

static ti_jj_node *sum(ti_jj_parser *P) {
  ti_jj_node *x = concat(P);
  while (ti_jj_p_is_op(P, '+') || ti_jj_p_is_op(P, '-')) x = binary(P, x, concat);
  return x;
}

static char compare_op(ti_jj_parser *P) {
  if (P->t->type == TI_JJ_T_OP && P->t->op && strchr("=!<l>g", P->t->op)) return (P->t++)->op;
  if (ti_jj_p_skip_name(P, "in")) return 'i';
  if (ti_jj_p_is_name(P, "not") && P->t[1].type == TI_JJ_T_NAME && ti_jj_str_is(P->t[1].text, "in")) {
    P->t += 2;
    return 'n';
  }
  return 0;
}

static ti_jj_node *comparison(ti_jj_parser *P) {
  ti_jj_node *a = sum(P), *x = NULL;
  for (;;) {
    int line = P->t->line;
    char op = compare_op(P);
    if (!op) return x ? x : a;
    if (!x) {
      x = ti_jj_p_node(P, TI_JJ_N_COMPARE, line);
      x->a = a;
    }
    ti_jj_node *o = ti_jj_p_node(P, TI_JJ_N_OPERAND, line);
    o->op = (uint8_t)op;
    o->a = sum(P);
    ti_jj_p_push(P, &x->list, &x->n, o);
  }
}

static ti_jj_node *negation(ti_jj_parser *P) {
  if (!ti_jj_p_is_name(P, "not")) return comparison(P);
  ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_NOT, P->t->line);
  P->t++;
  ti_jj_p_enter(P);
  x->a = negation(P);
  P->depth--;
  return x;
}

static ti_jj_node *pair(ti_jj_parser *P, ti_jj_kind kind, ti_jj_node *a, ti_jj_node *(*next)(ti_jj_parser *)) {
  ti_jj_node *x = ti_jj_p_node(P, kind, P->t->line);
  P->t++;
  x->a = a;
  x->b = next(P);
  return x;
}

static ti_jj_node *conjunction(ti_jj_parser *P) {
  ti_jj_node *x = negation(P);
  while (ti_jj_p_is_name(P, "and")) x = pair(P, TI_JJ_N_AND, x, negation);
  return x;
}

static ti_jj_node *disjunction(ti_jj_parser *P) {
  ti_jj_node *x = conjunction(P);
  while (ti_jj_p_is_name(P, "or")) x = pair(P, TI_JJ_N_OR, x, conjunction);
  return x;
}

ti_jj_node *ti_jj_p_expression(ti_jj_parser *P, bool with_cond) {
  ti_jj_p_enter(P);
  ti_jj_node *x = disjunction(P);
  while (with_cond && ti_jj_p_is_name(P, "if")) {
    ti_jj_node *c = ti_jj_p_node(P, TI_JJ_N_COND, P->t->line);
    P->t++;
    c->b = x;
    c->a = disjunction(P);
    if (ti_jj_p_skip_name(P, "else")) c->c = ti_jj_p_expression(P, true);
    x = c;
  }
  P->depth--;
  return x;
}
