// Tokens -> tree. Two files share the state below: parse_expr.c (expressions, helpers) and parse_stmt.c (tags). An error is written to err and
// ends the parse by a jump to the caller of jj_parse: all nodes are in the template's arena, so that nothing has to be unwound.
#ifndef TI_MODEL_CHAT_PARSER_H
#define TI_MODEL_CHAT_PARSER_H
#include <setjmp.h>

#include "model/chat/ast.h"
#include "model/chat/lexer.h"

#define JJ_MAX_NEST 150   // nested tags and brackets: bounds the parser's recursion
#define JJ_MAX_SYMS 4096  // different identifiers
#define JJ_SYM_BUCKETS 256

typedef struct jj_sym_entry jj_sym_entry;

typedef struct jj_parser {
  const jj_token *t;  // the current token; the array ends with JJ_T_EOF
  ti_chat_template *out;
  jj_sym_entry *buckets[JJ_SYM_BUCKETS];
  unsigned depth;
  unsigned loops;       // enclosing loops of the current function body: break and continue need one
  uint8_t *macro_uses;  // flags of the enclosing macro (JJ_F_VARARGS ...), or NULL
  ti_error *err;
  ti_status st;
  jmp_buf jump;
} jj_parser;

// Parses tokens into t->body and t->syms.
ti_status jj_parse(const jj_tokens *tokens, ti_chat_template *t, ti_error *err) TI_MUST_CHECK;

// parse_expr.c
_Noreturn void jj_p_fail(jj_parser *P, int line, const char *fmt, ...) TI_PRINTF(3, 4);
void *jj_p_alloc(jj_parser *P, size_t n, size_t size);  // zeroed
jj_node *jj_p_node(jj_parser *P, jj_kind kind, int line);
int jj_p_sym(jj_parser *P, jj_str name);
void jj_p_enter(jj_parser *P);  // one level deeper; leave with P->depth--
bool jj_p_is_op(const jj_parser *P, char op);
bool jj_p_is_name(const jj_parser *P, const char *name);
bool jj_p_skip_op(jj_parser *P, char op);
bool jj_p_skip_name(jj_parser *P, const char *name);
void jj_p_expect_op(jj_parser *P, char op);
void jj_p_expect(jj_parser *P, jj_tok type);
jj_str jj_p_expect_name(jj_parser *P);
void jj_p_push(jj_parser *P, jj_node ***list, uint32_t *n, jj_node *x);  // the list grows in the arena by doubling
jj_node *jj_p_expression(jj_parser *P, bool with_cond);
jj_node *jj_p_primary(jj_parser *P);
jj_node *jj_p_postfix(jj_parser *P, jj_node *x);
// An expression, or a tuple of them without brackets. end: a name that ends it too ("in"), or NULL. simple: only primaries (targets).
jj_node *jj_p_tuple(jj_parser *P, bool simple, bool with_cond, const char *end, bool in_brackets);
// One or more filters from the current '|' on (or, with inline_first, from a name), applied to x (NULL in a block).
jj_node *jj_p_filters(jj_parser *P, jj_node *x, bool inline_first);

// parse_stmt.c
jj_node *jj_p_body(jj_parser *P, const char *const *ends);  // up to one of the tags in ends (NULL-terminated; NULL: the end of the template)

#endif
