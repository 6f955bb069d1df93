// Template source -> tokens. The rules are jinja2's with trim_blocks and lstrip_blocks on and keep_trailing_newline off.
#ifndef TI_MODEL_CHAT_LEXER_H
#define TI_MODEL_CHAT_LEXER_H
#include "base/arena.h"
#include "base/status.h"
#include "model/chat/value.h"

typedef enum jj_tok {
  JJ_T_EOF,
  JJ_T_DATA,
  JJ_T_VAR_BEGIN,
  JJ_T_VAR_END,
  JJ_T_BLOCK_BEGIN,
  JJ_T_BLOCK_END,
  JJ_T_NAME,
  JJ_T_STR,
  JJ_T_INT,
  JJ_T_FLOAT,
  JJ_T_OP,  // text: the operator
} jj_tok;

typedef struct jj_token {
  uint8_t type;
  char op;  // JJ_T_OP: its character; two-character ones: '=' is "==", 'a' is "=", '!' "!=", 'g' ">=", 'l' "<=", 'f' "//", 'p' "**"
  int line;
  jj_str text;  // data, names, the decoded string
  union {
    int64_t i;
    double f;
  } num;
} jj_token;

typedef struct jj_tokens {
  jj_token *v;  // malloc; the caller free()s it, also after an error. Ends with JJ_T_EOF
  size_t n, cap;
} jj_tokens;

// src[n] has '\n' line ends only and outlives the tokens (data and names point into it); decoded strings are put into a.
ti_status jj_lex(const char *src, size_t n, ti_arena *a, jj_tokens *out, ti_error *err) TI_MUST_CHECK;
// "end of print statement", "name": for messages.
const char *jj_token_describe(const jj_token *t, char buf[64]);

#endif
