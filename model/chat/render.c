// Entry points of the interpreter (create, render), its bounds, its sinks and the way errors leave it.
//
// A ti_chat_template is immutable after create. A rendering's state (ti_jj_run) is on the caller's stack, its memory in an arena that ends with it.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/chat/interp.h"
#include "model/chat/parser.h"
#include "model/chat/uni.h"

#define TEMPLATE_MEMORY ((size_t)512 << 20)  // a parsed template's cap; a 1 MiB source of one-byte tokens takes about a third of it
#define DEFAULT_STEPS 20000000u
#define DEFAULT_DEPTH 400u
#define MAX_DEPTH 2000u
#define DEFAULT_OUTPUT ((size_t)64 << 20)
#define DEFAULT_MEMORY ((size_t)512 << 20)

// A copy with "\n" line ends, less one newline at the end.
static char *normalize(ti_arena *a, const char *s, size_t n, size_t *out_n) {
  char *p = ti_arena_alloc(a, n + 1);
  size_t k = 0;
  if (!p) return NULL;
  for (size_t i = 0; i < n; i++) {
    if (s[i] == '\r') {
      p[k++] = '\n';
      if (i + 1 < n && s[i + 1] == '\n') i++;
    } else {
      p[k++] = s[i];
    }
  }
  if (k && p[k - 1] == '\n') k--;
  p[k] = 0;
  *out_n = k;
  return p;
}

ti_status ti_chat_template_create(const char *source, size_t n, const char *name, ti_chat_template **out, ti_error *err) {
  ti_status st;
  ti_jj_tokens tokens = {0};
  ti_chat_template *t = calloc(1, sizeof *t);
  if (!t) return ti_error_set(err, TI_ERR_NOMEM, "out of memory for a chat template");
  ti_arena_init(&t->arena, TEMPLATE_MEMORY);
  if (name && !(t->name = strdup(name))) {
    st = ti_error_set(err, TI_ERR_NOMEM, "out of memory for a chat template");
    goto err_template;
  }
  if (n > TI_CHAT_MAX_SOURCE) {
    st = ti_error_set(err, TI_ERR_RANGE, "a chat template of %zu bytes; the limit is %zu", n, TI_CHAT_MAX_SOURCE);
    goto err_template;
  }
  if (!ti_jj_utf8_valid(source, n)) {
    st = ti_error_set(err, TI_ERR_FORMAT, "the chat template is not valid UTF-8");
    goto err_template;
  }
  size_t len;
  char *text = normalize(&t->arena, source, n, &len);
  if (!text) {
    st = ti_error_set(err, TI_ERR_NOMEM, "out of memory for a chat template");
    goto err_template;
  }
  st = ti_jj_lex(text, len, &t->arena, &tokens, err);
  if (!st) st = ti_jj_parse(&tokens, t, err);
  free(tokens.v);
  if (st) goto err_template;
  *out = t;
  return TI_OK;

err_template:
  if (name) ti_error_prefix(err, "%s", name);
  ti_chat_template_destroy(t);
  return st;
}

void ti_chat_template_destroy(ti_chat_template *t) {
  if (!t) return;
  ti_arena_fini(&t->arena);
  free(t->name);
  free(t);
}

_Noreturn void ti_jj_raise(ti_jj_run *J, ti_status st, const char *fmt, ...) {
  char msg[440];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(msg, sizeof msg, fmt, ap);
  va_end(ap);
  if (!ti_jj_utf8_valid(msg, strlen(msg)))  // a name was cut within a character
    for (char *p = msg; *p; p++)
      if ((unsigned char)*p >= 0x80) *p = '?';
  J->st = ti_error_set(J->err, st, "%s%sline %d: %s", J->t->name ? J->t->name : "", J->t->name ? ": " : "", J->line, msg);
  longjmp(J->jump, 1);
}

static _Noreturn void no_memory(ti_jj_run *J) {
  // the arena says NULL for its cap and for malloc alike; near the cap it is the cap
  ti_jj_raise(J, TI_ERR_FULL, "more than %zu bytes of intermediate values", J->lim.memory_bytes);
}

void *ti_jj_alloc(ti_jj_run *J, size_t n) {
  void *p = ti_arena_alloc(&J->arena, n ? n : 1);
  if (!p) no_memory(J);
  return p;
}

void *ti_jj_calloc(ti_jj_run *J, size_t n, size_t size) {
  void *p = ti_arena_calloc(&J->arena, n ? n : 1, size);
  if (!p) no_memory(J);
  return p;
}

void ti_jj_work(ti_jj_run *J, size_t bytes) {
  J->steps += 1 + bytes / 64;
  if (J->steps > J->lim.steps) ti_jj_raise(J, TI_ERR_RANGE, "more than %llu steps", (unsigned long long)J->lim.steps);
}

void ti_jj_enter(ti_jj_run *J) {
  if (++J->depth > J->lim.depth) ti_jj_raise(J, TI_ERR_RANGE, "nested more than %u deep (RecursionError)", J->lim.depth);
}

void ti_jj_put(ti_jj_run *J, ti_jj_sink *s, const char *p, size_t n) {
  if (n == 0) return;
  ti_jj_work(J, n);
  if (s->direct) {
    if (n > J->lim.output_bytes - (s->direct->len - J->out_start)) ti_jj_raise(J, TI_ERR_FULL, "more than %zu bytes of output", J->lim.output_bytes);
    ti_status st = ti_buf_append(s->direct, p, n);
    if (st) ti_jj_raise(J, st, "the rendered text does not fit its buffer of %zu bytes", s->direct->max);
    return;
  }
  if (n > s->cap - s->n) {
    size_t cap = s->cap ? s->cap * 2 : 64;
    while (cap - s->n < n)
      if (!ti_size_mul(cap, 2, &cap)) no_memory(J);
    char *bigger = ti_jj_alloc(J, cap);
    if (s->n) memcpy(bigger, s->p, s->n);
    s->p = bigger;
    s->cap = cap;
  }
  memcpy(s->p + s->n, p, n);
  s->n += n;
}

void ti_jj_puts(ti_jj_run *J, ti_jj_sink *s, const char *text) { ti_jj_put(J, s, text, strlen(text)); }

void ti_jj_printf(ti_jj_run *J, ti_jj_sink *s, const char *fmt, ...) {
  char buf[400];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(buf, sizeof buf, fmt, ap);
  va_end(ap);
  ti_jj_put(J, s, buf, n < 0 ? 0 : ti_size_min((size_t)n, sizeof buf - 1));
}

ti_jj_val ti_jj_lit(const char *static_text) { return ti_jj_strn(static_text, strlen(static_text)); }

// The jump's target stands in a function of its own: what changes between setjmp and longjmp is behind the pointer, not in its frame.
static ti_status run(ti_jj_run *J) {
  if (setjmp(J->jump)) return J->st;
  J->root = ti_jj_calloc(J, (size_t)J->t->n_syms, sizeof *J->root);
  J->probed = ti_jj_calloc(J, (size_t)J->t->n_syms, sizeof *J->probed);
  J->scope = &J->top;
  ti_jj_exec_body(J, J->t->body);
  return TI_OK;
}

ti_status ti_chat_render(const ti_chat_template *t, const json_t *vars, const ti_chat_limits *limits, int64_t now_unix, ti_buf *out, ti_error *err) {
  if (!json_is_object(vars)) return ti_error_set(err, TI_ERR_ARG, "the variables of a chat template must be an object");
  ti_jj_run J = {.t = t, .vars = vars, .now_unix = now_unix, .err = err, .line = 1, .out_start = out->len};
  if (limits) J.lim = *limits;
  if (!J.lim.steps) J.lim.steps = DEFAULT_STEPS;
  if (!J.lim.depth) J.lim.depth = DEFAULT_DEPTH;
  if (J.lim.depth > MAX_DEPTH) J.lim.depth = MAX_DEPTH;
  if (!J.lim.output_bytes) J.lim.output_bytes = DEFAULT_OUTPUT;
  if (!J.lim.memory_bytes) J.lim.memory_bytes = DEFAULT_MEMORY;
  ti_arena_init(&J.arena, J.lim.memory_bytes);
  ti_jj_sink sink = {.direct = out};
  J.sink = &sink;
  ti_status st = run(&J);
  ti_arena_fini(&J.arena);
  if (st && out->data) {
    out->len = J.out_start;
    out->data[out->len] = 0;
    out->failed = false;
  }
  return st;
}
