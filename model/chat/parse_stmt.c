// Tags: the statements of a template and the bodies between them.
#include <string.h>

#include "model/chat/parser.h"

static jj_node *body_until(jj_parser *P, const char *e1, const char *e2, const char *e3) {
  const char *const ends[] = {e1, e2, e3, NULL};
  jj_p_expect(P, JJ_T_BLOCK_END);
  return jj_p_body(P, ends);
}

// What may stand left of "=" or after "for".
static void check_target(jj_parser *P, const jj_node *x) {
  if (x->kind == JJ_N_NAME || x->kind == JJ_N_NSREF) return;
  if (x->kind != JJ_N_TUPLE) jj_p_fail(P, x->line, "can't assign to this expression");
  for (uint32_t i = 0; i < x->n; i++) check_target(P, x->list[i]);
}

static void check_no_loop(jj_parser *P, const jj_node *x) {
  if (x->kind == JJ_N_NAME && x->sym == P->out->sym_loop) jj_p_fail(P, x->line, "Can't assign to special loop variable in for-loop target");
  for (uint32_t i = 0; x->kind == JJ_N_TUPLE && i < x->n; i++) check_no_loop(P, x->list[i]);
}

static jj_node *target(jj_parser *P, bool with_tuple, const char *end) {
  jj_node *x;
  if (P->t->type == JJ_T_NAME && P->t[1].type == JJ_T_OP && P->t[1].op == '.' && P->t[2].type == JJ_T_NAME && !end) {
    x = jj_p_node(P, JJ_N_NSREF, P->t->line);
    x->sym = jj_p_sym(P, P->t->text);
    x->name = P->t[2].text;
    P->t += 3;
    return x;
  }
  x = with_tuple ? jj_p_tuple(P, true, true, end, false) : jj_p_primary(P);
  check_target(P, x);
  return x;
}

static jj_node *parse_for(jj_parser *P, jj_node *x) {
  x->a = target(P, true, "in");
  check_no_loop(P, x->a);
  if (!jj_p_skip_name(P, "in")) jj_p_fail(P, P->t->line, "expected 'in' in a for tag");
  x->b = jj_p_tuple(P, false, false, "recursive", false);
  if (jj_p_skip_name(P, "if")) x->c = jj_p_expression(P, true);
  if (jj_p_skip_name(P, "recursive")) x->flags |= JJ_F_RECURSIVE;
  P->loops++;
  jj_p_push(P, &x->list, &x->n, body_until(P, "endfor", "else", NULL));
  P->loops--;
  jj_node *otherwise = NULL;
  if (jj_p_skip_name(P, "else")) otherwise = body_until(P, "endfor", NULL, NULL);
  P->t++;  // endfor
  jj_p_push(P, &x->list, &x->n, otherwise);
  return x;
}

static jj_node *parse_if(jj_parser *P, jj_node *x) {
  for (;;) {
    jj_p_push(P, &x->list, &x->n, jj_p_tuple(P, false, false, NULL, false));
    jj_p_push(P, &x->list, &x->n, body_until(P, "elif", "else", "endif"));
    if (jj_p_skip_name(P, "elif")) continue;
    if (jj_p_skip_name(P, "else")) x->c = body_until(P, "endif", NULL, NULL);
    P->t++;  // endif
    return x;
  }
}

static jj_node *parse_set(jj_parser *P, jj_node *x) {
  x->a = target(P, true, NULL);
  if (jj_p_skip_op(P, 'a')) {
    x->b = jj_p_tuple(P, false, true, NULL, false);
    return x;
  }
  x->kind = JJ_N_SETBLOCK;
  x->b = jj_p_filters(P, NULL, false);
  x->c = body_until(P, "endset", NULL, NULL);
  P->t++;
  return x;
}

// "(a, b=1)" of a macro or call block.
static void signature(jj_parser *P, jj_node *m) {
  jj_p_expect_op(P, '(');
  while (!jj_p_is_op(P, ')')) {
    if (m->n) jj_p_expect_op(P, ',');
    jj_node *arg = jj_p_primary(P);
    if (arg->kind != JJ_N_NAME) jj_p_fail(P, arg->line, "a macro's parameter must be a name");
    jj_p_push(P, &m->list, &m->n, arg);
    if (jj_p_skip_op(P, 'a'))
      jj_p_push(P, &m->list2, &m->n2, jj_p_expression(P, true));
    else if (m->n2)
      jj_p_fail(P, arg->line, "non-default argument follows default argument");
  }
  P->t++;
}

static jj_node *macro_body(jj_parser *P, jj_node *m, const char *end) {
  uint8_t *outer = P->macro_uses;
  unsigned loops = P->loops;
  m->flags = 0;
  P->macro_uses = &m->flags;
  P->loops = 0;
  m->a = body_until(P, end, NULL, NULL);
  P->t++;
  P->macro_uses = outer;
  P->loops = loops;
  return m;
}

static jj_node *parse_macro(jj_parser *P, jj_node *x) {
  x->name = jj_p_expect_name(P);
  x->sym = jj_p_sym(P, x->name);
  signature(P, x);
  return macro_body(P, x, "endmacro");
}

static jj_node *parse_call(jj_parser *P, jj_node *x) {
  jj_node *m = jj_p_node(P, JJ_N_MACRO, x->line);
  m->name = (jj_str){"caller", 6};
  m->sym = jj_p_sym(P, m->name);
  if (jj_p_is_op(P, '(')) signature(P, m);
  x->a = jj_p_expression(P, true);
  if (x->a->kind != JJ_N_CALL) jj_p_fail(P, x->line, "expected call");
  x->b = macro_body(P, m, "endcall");
  return x;
}

static jj_node *parse_filter(jj_parser *P, jj_node *x) {
  x->b = jj_p_filters(P, NULL, true);
  x->c = body_until(P, "endfilter", NULL, NULL);
  P->t++;
  return x;
}

static jj_node *parse_with(jj_parser *P, jj_node *x) {
  while (P->t->type != JJ_T_BLOCK_END) {
    if (x->n) jj_p_expect_op(P, ',');
    jj_p_push(P, &x->list, &x->n, target(P, false, NULL));
    jj_p_expect_op(P, 'a');
    jj_p_push(P, &x->list2, &x->n2, jj_p_expression(P, true));
  }
  x->a = body_until(P, "endwith", NULL, NULL);
  P->t++;
  return x;
}

static jj_node *parse_output(jj_parser *P, jj_node *x) {  // {{ a, b }} prints a tuple
  x->a = jj_p_tuple(P, false, true, NULL, false);
  return x;
}

static jj_node *parse_print(jj_parser *P, jj_node *x) {  // {% print a, b %} prints a, then b
  x->kind = JJ_N_BODY;
  while (P->t->type != JJ_T_BLOCK_END) {
    if (x->n) jj_p_expect_op(P, ',');
    jj_node *one = jj_p_node(P, JJ_N_PRINT, P->t->line);
    one->a = jj_p_expression(P, true);
    jj_p_push(P, &x->list, &x->n, one);
  }
  return x;
}

static jj_node *parse_block(jj_parser *P, jj_node *x) {  // without inheritance a block is its body
  jj_p_expect_name(P);
  unsigned loops = P->loops;
  P->loops = 0;
  x->a = body_until(P, "endblock", NULL, NULL);
  P->loops = loops;
  P->t++;
  if (P->t->type == JJ_T_NAME) P->t++;
  return x;
}

static jj_node *parse_generation(jj_parser *P, jj_node *x) {
  unsigned loops = P->loops;
  P->loops = 0;  // it is a function body for jinja2
  x->a = body_until(P, "endgeneration", NULL, NULL);
  P->loops = loops;
  P->t++;
  return x;
}

static jj_node *parse_loop_control(jj_parser *P, jj_node *x) {
  if (P->loops == 0) jj_p_fail(P, x->line, "'%s' outside loop", x->kind == JJ_N_BREAK ? "break" : "continue");
  return x;
}

static const struct {
  const char *tag;
  jj_kind kind;
  jj_node *(*parse)(jj_parser *P, jj_node *x);  // the current token is the one behind the tag's name
} tags[] = {
    {"for", JJ_N_FOR, parse_for},
    {"if", JJ_N_IF, parse_if},
    {"set", JJ_N_SET, parse_set},
    {"macro", JJ_N_MACRO, parse_macro},
    {"call", JJ_N_CALLBLOCK, parse_call},
    {"filter", JJ_N_FILTERBLOCK, parse_filter},
    {"with", JJ_N_WITH, parse_with},
    {"print", JJ_N_PRINT, parse_print},
    {"block", JJ_N_SCOPE, parse_block},
    {"generation", JJ_N_SCOPE, parse_generation},
    {"break", JJ_N_BREAK, parse_loop_control},
    {"continue", JJ_N_CONTINUE, parse_loop_control},
};

static jj_node *statement(jj_parser *P) {
  const jj_token *t = P->t;
  if (t->type != JJ_T_NAME) jj_p_fail(P, t->line, "tag name expected");
  for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
    if (!jj_str_is(t->text, tags[i].tag)) continue;
    P->t++;
    return tags[i].parse(P, jj_p_node(P, tags[i].kind, t->line));
  }
  int n = (int)(t->text.n < 60 ? t->text.n : 60);
  if (jj_str_is(t->text, "extends") || jj_str_is(t->text, "include") || jj_str_is(t->text, "import") || jj_str_is(t->text, "from") ||
      jj_str_is(t->text, "autoescape"))
    jj_p_fail(P, t->line, "the tag '%.*s' has no place in a chat template, which is one file", n, t->text.p);
  jj_p_fail(P, t->line, "Encountered unknown tag '%.*s'", n, t->text.p);
}

jj_node *jj_p_body(jj_parser *P, const char *const *ends) {
  jj_node *body = jj_p_node(P, JJ_N_BODY, P->t->line);
  jj_p_enter(P);
  for (;;) {
    const jj_token *t = P->t;
    if (t->type == JJ_T_DATA) {
      jj_node *x = jj_p_node(P, JJ_N_DATA, t->line);
      x->val = jj_strn(t->text.p, t->text.n);
      jj_p_push(P, &body->list, &body->n, x);
      P->t++;
    } else if (t->type == JJ_T_VAR_BEGIN) {
      P->t++;
      jj_p_push(P, &body->list, &body->n, parse_output(P, jj_p_node(P, JJ_N_PRINT, t->line)));
      jj_p_expect(P, JJ_T_VAR_END);
    } else if (t->type == JJ_T_BLOCK_BEGIN) {
      P->t++;
      bool end = false;
      for (size_t i = 0; ends && ends[i]; i++) end = end || jj_p_is_name(P, ends[i]);
      if (end) break;
      jj_p_push(P, &body->list, &body->n, statement(P));
      jj_p_expect(P, JJ_T_BLOCK_END);
    } else {
      if (t->type != JJ_T_EOF) jj_p_fail(P, t->line, "unexpected token");
      const char *e0 = ends ? ends[0] : NULL, *e1 = e0 ? ends[1] : NULL, *e2 = e1 ? ends[2] : NULL;
      if (ends)
        jj_p_fail(P, t->line,
                  "Unexpected end of template. Jinja was looking for the following tags: '%s'%s%s%s%s%s%s; the innermost block that needs to be "
                  "closed began on line %d",
                  e0, e1 ? " or '" : "", e1 ? e1 : "", e1 ? "'" : "", e2 ? " or '" : "", e2 ? e2 : "", e2 ? "'" : "", body->line);
      break;
    }
  }
  P->depth--;
  return body;
}

// The jump's target stands in a function of its own: what changes between setjmp and longjmp is behind the pointer, not in its frame.
static ti_status parse(jj_parser *P) {
  ti_chat_template *t = P->out;
  if (setjmp(P->jump)) return P->st;
  t->syms = jj_p_alloc(P, JJ_MAX_SYMS, sizeof *t->syms);
  t->sym_loop = jj_p_sym(P, (jj_str){"loop", 4});
  t->sym_caller = jj_p_sym(P, (jj_str){"caller", 6});
  t->sym_varargs = jj_p_sym(P, (jj_str){"varargs", 7});
  t->sym_kwargs = jj_p_sym(P, (jj_str){"kwargs", 6});
  t->body = jj_p_body(P, NULL);
  return TI_OK;
}

ti_status jj_parse(const jj_tokens *tokens, ti_chat_template *t, ti_error *err) {
  jj_parser P = {.t = tokens->v, .out = t, .err = err};
  return parse(&P);
}
