// Tags: the statements of a template and the bodies between them.
#include <string.h>

#include "model/chat/parser.h"

static ti_jj_node *body_until(ti_jj_parser *P, const char *e1, const char *e2, const char *e3) {
  const char *const ends[] = {e1, e2, e3, NULL};
  ti_jj_p_expect(P, TI_JJ_T_BLOCK_END);
  return ti_jj_p_body(P, ends);
}

// What may stand left of "=" or after "for".
static void check_target(ti_jj_parser *P, const ti_jj_node *x) {
  if (x->kind == TI_JJ_N_NAME || x->kind == TI_JJ_N_NSREF) return;
  if (x->kind != TI_JJ_N_TUPLE) ti_jj_p_fail(P, x->line, "can't assign to this expression");
  for (uint32_t i = 0; i < x->n; i++) check_target(P, x->list[i]);
}

static void check_no_loop(ti_jj_parser *P, const ti_jj_node *x) {
  if (x->kind == TI_JJ_N_NAME && x->sym == P->out->sym_loop) ti_jj_p_fail(P, x->line, "Can't assign to special loop variable in for-loop target");
  for (uint32_t i = 0; x->kind == TI_JJ_N_TUPLE && i < x->n; i++) check_no_loop(P, x->list[i]);
}

static ti_jj_node *target(ti_jj_parser *P, bool with_tuple, const char *end) {
  ti_jj_node *x;
  if (P->t->type == TI_JJ_T_NAME && P->t[1].type == TI_JJ_T_OP && P->t[1].op == '.' && P->t[2].type == TI_JJ_T_NAME && !end) {
    x = ti_jj_p_node(P, TI_JJ_N_NSREF, P->t->line);
    x->sym = ti_jj_p_sym(P, P->t->text);
    x->name = P->t[2].text;
    P->t += 3;
    return x;
  }
  x = with_tuple ? ti_jj_p_tuple(P, true, true, end, false) : ti_jj_p_primary(P);
  check_target(P, x);
  return x;
}

static ti_jj_node *parse_for(ti_jj_parser *P, ti_jj_node *x) {
  x->a = target(P, true, "in");
  check_no_loop(P, x->a);
  if (!ti_jj_p_skip_name(P, "in")) ti_jj_p_fail(P, P->t->line, "expected 'in' in a for tag");
  x->b = ti_jj_p_tuple(P, false, false, "recursive", false);
  if (ti_jj_p_skip_name(P, "if")) x->c = ti_jj_p_expression(P, true);
  if (ti_jj_p_skip_name(P, "recursive")) x->flags |= TI_JJ_F_RECURSIVE;
  P->loops++;
  ti_jj_p_push(P, &x->list, &x->n, body_until(P, "endfor", "else", NULL));
  P->loops--;
  ti_jj_node *otherwise = NULL;
  if (ti_jj_p_skip_name(P, "else")) otherwise = body_until(P, "endfor", NULL, NULL);
  P->t++;  // endfor
  ti_jj_p_push(P, &x->list, &x->n, otherwise);
  return x;
}

static ti_jj_node *parse_if(ti_jj_parser *P, ti_jj_node *x) {
  for (;;) {
    ti_jj_p_push(P, &x->list, &x->n, ti_jj_p_tuple(P, false, false, NULL, false));
    ti_jj_p_push(P, &x->list, &x->n, body_until(P, "elif", "else", "endif"));
    if (ti_jj_p_skip_name(P, "elif")) continue;
    if (ti_jj_p_skip_name(P, "else")) x->c = body_until(P, "endif", NULL, NULL);
    P->t++;  // endif
    return x;
  }
}

static ti_jj_node *parse_set(ti_jj_parser *P, ti_jj_node *x) {
  x->a = target(P, true, NULL);
  if (ti_jj_p_skip_op(P, 'a')) {
    x->b = ti_jj_p_tuple(P, false, true, NULL, false);
    return x;
  }
  x->kind = TI_JJ_N_SETBLOCK;
  x->b = ti_jj_p_filters(P, NULL, false);
  x->c = body_until(P, "endset", NULL, NULL);
  P->t++;
  return x;
}

// "(a, b=1)" of a macro or call block.
static void signature(ti_jj_parser *P, ti_jj_node *m) {
  ti_jj_p_expect_op(P, '(');
  while (!ti_jj_p_is_op(P, ')')) {
    if (m->n) ti_jj_p_expect_op(P, ',');
    ti_jj_node *arg = ti_jj_p_primary(P);
    if (arg->kind != TI_JJ_N_NAME) ti_jj_p_fail(P, arg->line, "a macro's parameter must be a name");
    ti_jj_p_push(P, &m->list, &m->n, arg);
    if (ti_jj_p_skip_op(P, 'a'))
      ti_jj_p_push(P, &m->list2, &m->n2, ti_jj_p_expression(P, true));
    else if (m->n2)
      ti_jj_p_fail(P, arg->line, "non-default argument follows default argument");
  }
  P->t++;
}

static ti_jj_node *macro_body(ti_jj_parser *P, ti_jj_node *m, const char *end) {
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

static ti_jj_node *parse_macro(ti_jj_parser *P, ti_jj_node *x) {
  x->name = ti_jj_p_expect_name(P);
  x->sym = ti_jj_p_sym(P, x->name);
  signature(P, x);
  return macro_body(P, x, "endmacro");
}

static ti_jj_node *parse_call(ti_jj_parser *P, ti_jj_node *x) {
  ti_jj_node *m = ti_jj_p_node(P, TI_JJ_N_MACRO, x->line);
  m->name = (ti_jj_str){"caller", 6};
  m->sym = ti_jj_p_sym(P, m->name);
  if (ti_jj_p_is_op(P, '(')) signature(P, m);
  x->a = ti_jj_p_expression(P, true);
  if (x->a->kind != TI_JJ_N_CALL) ti_jj_p_fail(P, x->line, "expected call");
  x->b = macro_body(P, m, "endcall");
  return x;
}

static ti_jj_node *parse_filter(ti_jj_parser *P, ti_jj_node *x) {
  x->b = ti_jj_p_filters(P, NULL, true);
  x->c = body_until(P, "endfilter", NULL, NULL);
  P->t++;
  return x;
}

static ti_jj_node *parse_with(ti_jj_parser *P, ti_jj_node *x) {
  while (P->t->type != TI_JJ_T_BLOCK_END) {
    if (x->n) ti_jj_p_expect_op(P, ',');
    ti_jj_p_push(P, &x->list, &x->n, target(P, false, NULL));
    ti_jj_p_expect_op(P, 'a');
    ti_jj_p_push(P, &x->list2, &x->n2, ti_jj_p_expression(P, true));
  }
  x->a = body_until(P, "endwith", NULL, NULL);
  P->t++;
  return x;
}

static ti_jj_node *parse_output(ti_jj_parser *P, ti_jj_node *x) {  // {{ a, b }} prints a tuple
  x->a = ti_jj_p_tuple(P, false, true, NULL, false);
  return x;
}

static ti_jj_node *parse_print(ti_jj_parser *P, ti_jj_node *x) {  // {% print a, b %} prints a, then b
  x->kind = TI_JJ_N_BODY;
  while (P->t->type != TI_JJ_T_BLOCK_END) {
    if (x->n) ti_jj_p_expect_op(P, ',');
    ti_jj_node *one = ti_jj_p_node(P, TI_JJ_N_PRINT, P->t->line);
    one->a = ti_jj_p_expression(P, true);
    ti_jj_p_push(P, &x->list, &x->n, one);
  }
  return x;
}

static ti_jj_node *parse_block(ti_jj_parser *P, ti_jj_node *x) {  // without inheritance a block is its body
  ti_jj_p_expect_name(P);
  unsigned loops = P->loops;
  P->loops = 0;
  x->a = body_until(P, "endblock", NULL, NULL);
  P->loops = loops;
  P->t++;
  if (P->t->type == TI_JJ_T_NAME) P->t++;
  return x;
}

static ti_jj_node *parse_generation(ti_jj_parser *P, ti_jj_node *x) {
  unsigned loops = P->loops;
  P->loops = 0;  // it is a function body for jinja2
  x->a = body_until(P, "endgeneration", NULL, NULL);
  P->loops = loops;
  P->t++;
  return x;
}

static ti_jj_node *parse_loop_control(ti_jj_parser *P, ti_jj_node *x) {
  if (P->loops == 0) ti_jj_p_fail(P, x->line, "'%s' outside loop", x->kind == TI_JJ_N_BREAK ? "break" : "continue");
  return x;
}

static const struct {
  const char *tag;
  ti_jj_kind kind;
  ti_jj_node *(*parse)(ti_jj_parser *P, ti_jj_node *x);  // the current token is the one behind the tag's name
} tags[] = {
    {"for", TI_JJ_N_FOR, parse_for},
    {"if", TI_JJ_N_IF, parse_if},
    {"set", TI_JJ_N_SET, parse_set},
    {"macro", TI_JJ_N_MACRO, parse_macro},
    {"call", TI_JJ_N_CALLBLOCK, parse_call},
    {"filter", TI_JJ_N_FILTERBLOCK, parse_filter},
    {"with", TI_JJ_N_WITH, parse_with},
    {"print", TI_JJ_N_PRINT, parse_print},
    {"block", TI_JJ_N_SCOPE, parse_block},
    {"generation", TI_JJ_N_SCOPE, parse_generation},
    {"break", TI_JJ_N_BREAK, parse_loop_control},
    {"continue", TI_JJ_N_CONTINUE, parse_loop_control},
};

static ti_jj_node *statement(ti_jj_parser *P) {
  const ti_jj_token *t = P->t;
  if (t->type != TI_JJ_T_NAME) ti_jj_p_fail(P, t->line, "tag name expected");
  for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
    if (!ti_jj_str_is(t->text, tags[i].tag)) continue;
    P->t++;
    return tags[i].parse(P, ti_jj_p_node(P, tags[i].kind, t->line));
  }
  int n = (int)(t->text.n < 60 ? t->text.n : 60);
  if (ti_jj_str_is(t->text, "extends") || ti_jj_str_is(t->text, "include") || ti_jj_str_is(t->text, "import") || ti_jj_str_is(t->text, "from") ||
      ti_jj_str_is(t->text, "autoescape"))
    ti_jj_p_fail(P, t->line, "the tag '%.*s' has no place in a chat template, which is one file", n, t->text.p);
  ti_jj_p_fail(P, t->line, "Encountered unknown tag '%.*s'", n, t->text.p);
}

ti_jj_node *ti_jj_p_body(ti_jj_parser *P, const char *const *ends) {
  ti_jj_node *body = ti_jj_p_node(P, TI_JJ_N_BODY, P->t->line);
  ti_jj_p_enter(P);
  for (;;) {
    const ti_jj_token *t = P->t;
    if (t->type == TI_JJ_T_DATA) {
      ti_jj_node *x = ti_jj_p_node(P, TI_JJ_N_DATA, t->line);
      x->val = ti_jj_strn(t->text.p, t->text.n);
      ti_jj_p_push(P, &body->list, &body->n, x);
      P->t++;
    } else if (t->type == TI_JJ_T_VAR_BEGIN) {
      P->t++;
      ti_jj_p_push(P, &body->list, &body->n, parse_output(P, ti_jj_p_node(P, TI_JJ_N_PRINT, t->line)));
      ti_jj_p_expect(P, TI_JJ_T_VAR_END);
    } else if (t->type == TI_JJ_T_BLOCK_BEGIN) {
      P->t++;
      bool end = false;
      for (size_t i = 0; ends && ends[i]; i++) end = end || ti_jj_p_is_name(P, ends[i]);
      if (end) break;
      ti_jj_p_push(P, &body->list, &body->n, statement(P));
      ti_jj_p_expect(P, TI_JJ_T_BLOCK_END);
    } else {
      if (t->type != TI_JJ_T_EOF) ti_jj_p_fail(P, t->line, "unexpected token");
      const char *e0 = ends ? ends[0] : NULL, *e1 = e0 ? ends[1] : NULL, *e2 = e1 ? ends[2] : NULL;
      if (ends)
        ti_jj_p_fail(P, t->line,
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
static ti_status parse(ti_jj_parser *P) {
  ti_chat_template *t = P->out;
  if (setjmp(P->jump)) return P->st;
  t->syms = ti_jj_p_alloc(P, TI_JJ_MAX_SYMS, sizeof *t->syms);
  t->sym_loop = ti_jj_p_sym(P, (ti_jj_str){"loop", 4});
  t->sym_caller = ti_jj_p_sym(P, (ti_jj_str){"caller", 6});
  t->sym_varargs = ti_jj_p_sym(P, (ti_jj_str){"varargs", 7});
  t->sym_kwargs = ti_jj_p_sym(P, (ti_jj_str){"kwargs", 6});
  t->body = ti_jj_p_body(P, NULL);
  return TI_OK;
}

ti_status ti_jj_parse(const ti_jj_tokens *tokens, ti_chat_template *t, ti_error *err) {
  ti_jj_parser P = {.t = tokens->v, .out = t, .err = err};
  return parse(&P);
}
