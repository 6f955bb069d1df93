// The syntax tree of a template: built once by the parser in the template's arena, then read-only.
#ifndef TI_MODEL_CHAT_AST_H
#define TI_MODEL_CHAT_AST_H
#include "base/arena.h"
#include "model/chat.h"
#include "model/chat/value.h"

typedef enum ti_jj_kind {
  // expressions
  TI_JJ_N_CONST,    // val
  TI_JJ_N_NAME,     // sym, name
  TI_JJ_N_LIST,     // list
  TI_JJ_N_TUPLE,    // list (as a target too)
  TI_JJ_N_DICT,     // list: key, value, key, value ...
  TI_JJ_N_GETATTR,  // a.name
  TI_JJ_N_GETITEM,  // a[b]
  TI_JJ_N_SLICE,    // as b of GETITEM: [a:b:c], each may be NULL
  TI_JJ_N_CALL,     // a(list, list2 of KEYWORD, *b, **c)
  TI_JJ_N_KEYWORD,  // name = a
  TI_JJ_N_FILTER,   // a | name(list, list2, *b, **c); a is NULL in a filter block
  TI_JJ_N_TEST,     // a is name(...)
  TI_JJ_N_NOT,      // a
  TI_JJ_N_NEG,
  TI_JJ_N_POS,
  TI_JJ_N_BIN,     // a op b; op: '+' '-' '*' '/' 'f' (//) '%' 'p' (**)
  TI_JJ_N_CONCAT,  // list joined by ~
  TI_JJ_N_AND,     // a, b
  TI_JJ_N_OR,
  TI_JJ_N_COMPARE,  // a, then list of OPERAND
  TI_JJ_N_OPERAND,  // op, a; op: '=' '!' '<' 'l' (<=) '>' 'g' (>=) 'i' (in) 'n' (not in)
  TI_JJ_N_COND,     // b if a else c (c may be NULL)
  TI_JJ_N_NSREF,    // target only: sym . name
  // statements
  TI_JJ_N_BODY,         // list of statements
  TI_JJ_N_DATA,         // val
  TI_JJ_N_PRINT,        // a
  TI_JJ_N_IF,           // list: test, body, test, body ...; c = else body or NULL
  TI_JJ_N_FOR,          // for a in b if c: list = {body, else or NULL}; flag: recursive
  TI_JJ_N_SET,          // a = b
  TI_JJ_N_SETBLOCK,     // a = filters b (NULL: none) of body c
  TI_JJ_N_MACRO,        // name, sym; list: parameters (NAME); list2: defaults of the last ones; a: body; flags below
  TI_JJ_N_CALLBLOCK,    // a: CALL, b: MACRO
  TI_JJ_N_FILTERBLOCK,  // filters b of body c
  TI_JJ_N_WITH,         // list: targets, list2: values, a: body
  TI_JJ_N_SCOPE,        // a: body in a scope of its own (the generation tag)
  TI_JJ_N_BREAK,
  TI_JJ_N_CONTINUE,
} ti_jj_kind;

enum { TI_JJ_F_RECURSIVE = 1, TI_JJ_F_VARARGS = 2, TI_JJ_F_KWARGS = 4, TI_JJ_F_CALLER = 8 };

typedef struct ti_jj_node ti_jj_node;
struct ti_jj_node {
  uint8_t kind, op, flags;
  int line;
  int sym;  // index of an identifier in ti_chat_template.syms
  ti_jj_node *a, *b, *c;
  ti_jj_node **list, **list2;
  uint32_t n, n2;
  ti_jj_str name;
  ti_jj_val val;
};

struct ti_chat_template {
  ti_arena arena;
  char *name;  // for messages, or NULL
  ti_jj_node *body;
  ti_jj_str *syms;
  int n_syms;
  int sym_loop, sym_caller, sym_varargs, sym_kwargs;
};

#endif
