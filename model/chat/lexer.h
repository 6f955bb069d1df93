// Template source -> tokens. The rules are jinja2's with trim_blocks and lstrip_blocks on and keep_trailing_newline off.
#ifndef TI_MODEL_CHAT_LEXER_H
#define TI_MODEL_CHAT_LEXER_H
#include "base/arena.h"
#include "base/status.h"
#include "model/chat/value.h"

typedef enum ti_jj_tok {
  TI_JJ_T_EOF,
  TI_JJ_T_DATA,
  TI_JJ_T_VAR_BEGIN,
  TI_JJ_T_VAR_END,
  TI_JJ_T_BLOCK_BEGIN,
  TI_JJ_T_BLOCK_END,
  TI_JJ_T_NAME,
  TI_JJ_T_STR,
  TI_JJ_T_INT,
  TI_JJ_T_FLOAT,
  TI_JJ_T_OP,  // text: the operator
} ti_jj_tok;

typedef struct ti_jj_token {
  uint8_t type;
  char op;  // TI_JJ_T_OP: its character; two-character ones: '=' is "==", 'a' is "=", '!' "!=", 'g' ">=", 'l' "<=", 'f' "//", 'p' "**"
  int line;
  ti_jj_str text;  // data, names, the decoded string
  union {
    int64_t i;
    double f;
  } num;
} ti_jj_token;

typedef struct ti_jj_tokens {
  ti_jj_token *v;  // malloc; the caller free()s it, also after an error. Ends with TI_JJ_T_EOF
  size_t n, cap;
} ti_jj_tokens;

// src[n] has '\n' line ends only and outlives the tokens (data and names point into it); decoded strings are put into a.
ti_status ti_jj_lex(const char *src, size_t n, ti_arena *a, ti_jj_tokens *out, ti_error *err) TI_MUST_CHECK;
// "end of print statement", "name": for messages.
const char *ti_jj_token_describe(const ti_jj_token *t, char buf[64]);

#endif
