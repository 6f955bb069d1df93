// The syntax tree of a template: built once by the parser in the template's arena, then read-only.
#ifndef TI_MODEL_CHAT_AST_H
#define TI_MODEL_CHAT_AST_H
#include "base/arena.h"
#include "model/chat.h"
#include "model/chat/value.h"

typedef enum jj_kind {
  // expressions
  JJ_N_CONST,    // val
  JJ_N_NAME,     // sym, name
  JJ_N_LIST,     // list
  JJ_N_TUPLE,    // list (as a target too)
  JJ_N_DICT,     // list: key, value, key, value ...
  JJ_N_GETATTR,  // a.name
  JJ_N_GETITEM,  // a[b]
  JJ_N_SLICE,    // as b of GETITEM: [a:b:c], each may be NULL
  JJ_N_CALL,     // a(list, list2 of KEYWORD, *b, **c)
  JJ_N_KEYWORD,  // name = a
  JJ_N_FILTER,   // a | name(list, list2, *b, **c); a is NULL in a filter block
  JJ_N_TEST,     // a is name(...)
  JJ_N_NOT,      // a
  JJ_N_NEG,
  JJ_N_POS,
  JJ_N_BIN,     // a op b; op: '+' '-' '*' '/' 'f' (//) '%' 'p' (**)
  JJ_N_CONCAT,  // list joined by ~
  JJ_N_AND,     // a, b
  JJ_N_OR,
  JJ_N_COMPARE,  // a, then list of OPERAND
  JJ_N_OPERAND,  // op, a; op: '=' '!' '<' 'l' (<=) '>' 'g' (>=) 'i' (in) 'n' (not in)
  JJ_N_COND,     // b if a else c (c may be NULL)
  JJ_N_NSREF,    // target only: sym . name
  // statements
  JJ_N_BODY,         // list of statements
  JJ_N_DATA,         // val
  JJ_N_PRINT,        // a
  JJ_N_IF,           // list: test, body, test, body ...; c = else body or NULL
  JJ_N_FOR,          // for a in b if c: list = {body, else or NULL}; flag: recursive
  JJ_N_SET,          // a = b
  JJ_N_SETBLOCK,     // a = filters b (NULL: none) of body c
  JJ_N_MACRO,        // name, sym; list: parameters (NAME); list2: defaults of the last ones; a: body; flags below
  JJ_N_CALLBLOCK,    // a: CALL, b: MACRO
  JJ_N_FILTERBLOCK,  // filters b of body c
  JJ_N_WITH,         // list: targets, list2: values, a: body
  JJ_N_SCOPE,        // a: body in a scope of its own (the generation tag)
  JJ_N_BREAK,
  JJ_N_CONTINUE,
} jj_kind;

enum { JJ_F_RECURSIVE = 1, JJ_F_VARARGS = 2, JJ_F_KWARGS = 4, JJ_F_CALLER = 8 };

typedef struct jj_node jj_node;
struct jj_node {
  uint8_t kind, op, flags;
  int line;
  int sym;  // index of an identifier in ti_chat_template.syms
  jj_node *a, *b, *c;
  jj_node **list, **list2;
  uint32_t n, n2;
  jj_str name;
  jj_val val;
};

struct ti_chat_template {
  ti_arena arena;
  char *name;  // for messages, or NULL
  jj_node *body;
  jj_str *syms;
  int n_syms;
  int sym_loop, sym_caller, sym_varargs, sym_kwargs;
};

#endif
