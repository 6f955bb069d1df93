// Tokens -> tree. Two files share the state below: parse_expr.c (expressions, helpers) and parse_stmt.c (tags). An error is written to err and
// ends the parse by a jump to the caller of ti_jj_parse: all nodes are in the template's arena, so that nothing has to be unwound.
#ifndef TI_MODEL_CHAT_PARSER_H
#define TI_MODEL_CHAT_PARSER_H
#include <setjmp.h>

#include "model/chat/ast.h"
#include "model/chat/lexer.h"

#define TI_JJ_MAX_NEST 150   // nested tags and brackets: bounds the parser's recursion
#define TI_JJ_MAX_SYMS 4096  // different identifiers
#define TI_JJ_SYM_BUCKETS 256

typedef struct ti_jj_sym_entry ti_jj_sym_entry;

typedef struct ti_jj_parser {
  const ti_jj_token *t;  // the current token; the array ends with TI_JJ_T_EOF
  ti_chat_template *out;
  ti_jj_sym_entry *buckets[TI_JJ_SYM_BUCKETS];
  unsigned depth;
  unsigned loops;       // enclosing loops of the current function body: break and continue need one
  uint8_t *macro_uses;  // flags of the enclosing macro (TI_JJ_F_VARARGS ...), or NULL
  ti_error *err;
  ti_status st;
  jmp_buf jump;
} ti_jj_parser;

// Parses tokens into t->body and t->syms.
ti_status ti_jj_parse(const ti_jj_tokens *tokens, ti_chat_template *t, ti_error *err) TI_MUST_CHECK;

// parse_expr.c
_Noreturn void ti_jj_p_fail(ti_jj_parser *P, int line, const char *fmt, ...) TI_PRINTF(3, 4);
void *ti_jj_p_alloc(ti_jj_parser *P, size_t n, size_t size);  // zeroed
ti_jj_node *ti_jj_p_node(ti_jj_parser *P, ti_jj_kind kind, int line);
int ti_jj_p_sym(ti_jj_parser *P, ti_jj_str name);
void ti_jj_p_enter(ti_jj_parser *P);  // one level deeper; leave with P->depth--
bool ti_jj_p_is_op(const ti_jj_parser *P, char op);
bool ti_jj_p_is_name(const ti_jj_parser *P, const char *name);
bool ti_jj_p_skip_op(ti_jj_parser *P, char op);
bool ti_jj_p_skip_name(ti_jj_parser *P, const char *name);
void ti_jj_p_expect_op(ti_jj_parser *P, char op);
void ti_jj_p_expect(ti_jj_parser *P, ti_jj_tok type);
ti_jj_str ti_jj_p_expect_name(ti_jj_parser *P);
void ti_jj_p_push(ti_jj_parser *P, ti_jj_node ***list, uint32_t *n, ti_jj_node *x);  // the list grows in the arena by doubling
ti_jj_node *ti_jj_p_expression(ti_jj_parser *P, bool with_cond);
ti_jj_node *ti_jj_p_primary(ti_jj_parser *P);
ti_jj_node *ti_jj_p_postfix(ti_jj_parser *P, ti_jj_node *x);
// An expression, or a tuple of them without brackets. end: a name that ends it too ("in"), or NULL. simple: only primaries (targets).
ti_jj_node *ti_jj_p_tuple(ti_jj_parser *P, bool simple, bool with_cond, const char *end, bool in_brackets);
// One or more filters from the current '|' on (or, with inline_first, from a name), applied to x (NULL in a block).
ti_jj_node *ti_jj_p_filters(ti_jj_parser *P, ti_jj_node *x, bool inline_first);

// parse_stmt.c
ti_jj_node *ti_jj_p_body(ti_jj_parser *P, const char *const *ends);  // up to one of the tags in ends (NULL-terminated; NULL: the end of the template)

#endif
