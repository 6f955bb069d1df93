// Python's str() and repr() of values, its float texts, and int() and float() of strings.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

// The shortest digits that read back as f, in Python's layout: 1.0, 0.0001, 1e-05, 1e+16, inf, nan.
const char *ti_jj_float_repr(double f, char buf[40]) {
  if (isnan(f)) return "nan";
  if (isinf(f)) return f < 0 ? "-inf" : "inf";
  char e[32];
  for (int p = 0; p < 17; p++) {
    snprintf(e, sizeof e, "%.*e", p, f);
    if (strtod(e, NULL) == f) break;
  }
  char *mark = strchr(e, 'e');
  long exp = mark ? strtol(mark + 1, NULL, 10) : 0;
  if (exp < -4 || exp >= 16) {  // C writes the exponent as Python does: a sign and two digits or more
    memcpy(buf, e, sizeof e);
    return buf;
  }
  if (mark) *mark = 0;
  long digits = (long)strlen(e) - (e[0] == '-') - (strchr(e, '.') != NULL);
  long decimals = digits - 1 - exp;
  snprintf(buf, 40, "%.*f", (int)(decimals < 1 ? 1 : decimals), f);
  return buf;
}

bool ti_jj_parse_int(ti_jj_str s, int base, int64_t *out) {
  char buf[80];
  size_t k = 0, i = 0, n = s.n;
  while (i < n && ti_jj_is_space((unsigned char)s.p[i])) i++;
  while (n > i && ti_jj_is_space((unsigned char)s.p[n - 1])) n--;
  bool digit = false;
  for (; i < n; i++) {
    char c = s.p[i];
    if (c == '_' && digit && i + 1 < n) {
      digit = false;
      continue;
    }
    digit = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
    if (!digit && !(k == 0 && (c == '-' || c == '+'))) return false;
    if (k + 1 >= sizeof buf) return false;
    buf[k++] = c;
  }
  buf[k] = 0;
  size_t at = buf[0] == '-' || buf[0] == '+';
  if (!digit) return false;
  if (buf[at] == '0' && (((buf[at + 1] | 32) == 'b' && base == 2) || ((buf[at + 1] | 32) == 'o' && base == 8)))
    memmove(buf + at, buf + at + 2, k - at - 1);  // strtoll knows 0x only
  if (base == 10 && (buf[at + 1] | 32) == 'x') return false;
  char *end;
  errno = 0;
  int64_t v = strtoll(buf, &end, base);
  if (*end || end == buf || errno) return false;
  *out = v;
  return true;
}

bool ti_jj_parse_float(ti_jj_str s, double *out) {
  char buf[128];
  size_t i = 0, n = s.n, k = 0;
  while (i < n && ti_jj_is_space((unsigned char)s.p[i])) i++;
  while (n > i && ti_jj_is_space((unsigned char)s.p[n - 1])) n--;
  if (n == i || n - i >= sizeof buf) return false;
  for (; i < n; i++) {
    char c = s.p[i];
    if (c == '_' && k && buf[k - 1] >= '0' && buf[k - 1] <= '9' && i + 1 < n && s.p[i + 1] >= '0' && s.p[i + 1] <= '9') continue;
    if ((c | 32) == 'x' || (c | 32) == 'p' || c == '(') return false;  // strtod's hex and nan(...) forms
    buf[k++] = c;
  }
  buf[k] = 0;
  if (ti_jj_is_space((unsigned char)buf[0])) return false;
  char *end;
  double v = strtod(buf, &end);
  if (*end || end == buf) return false;
  *out = v;
  return true;
}

static void str_repr(ti_jj_run *J, ti_jj_sink *out, ti_jj_str s) {
  char q = memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n) ? '"' : '\'';
  ti_jj_put(J, out, &q, 1);
  for (size_t i = 0; i < s.n;) {
    size_t from = i;
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    if (c == (uint32_t)q || c == '\\')
      ti_jj_printf(J, out, "\\%c", (int)c);
    else if (c == '\n' || c == '\r' || c == '\t')
      ti_jj_puts(J, out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    else if (ti_jj_is_printable(c))
      ti_jj_put(J, out, s.p + from, i - from);
    else
      ti_jj_printf(J, out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
  }
  ti_jj_put(J, out, &q, 1);
}

static void items_repr(ti_jj_run *J, ti_jj_sink *out, const ti_jj_list *l, const char *open, const char *close) {
  ti_jj_puts(J, out, open);
  for (size_t i = 0; i < l->n; i++) {
    if (i) ti_jj_puts(J, out, ", ");
    ti_jj_repr_to(J, out, l->v[i]);
  }
  ti_jj_puts(J, out, close);
}

static void dict_repr(ti_jj_run *J, ti_jj_sink *out, const ti_jj_dict *d) {
  ti_jj_puts(J, out, "{");
  for (size_t i = 0; i < d->n; i++) {
    if (i) ti_jj_puts(J, out, ", ");
    ti_jj_repr_to(J, out, d->e[i].key);
    ti_jj_puts(J, out, ": ");
    ti_jj_repr_to(J, out, d->e[i].value);
  }
  ti_jj_puts(J, out, "}");
}

static void other_repr(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v) {
  switch (v.type) {
    case TI_JJ_RANGE:
      ti_jj_printf(J, out, v.u.l->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)", (long long)v.u.l->start, (long long)v.u.l->stop,
                   (long long)v.u.l->step);
      break;
    case TI_JJ_VIEW:
      ti_jj_puts(J, out, v.u.l->kind);
      items_repr(J, out, v.u.l, "([", "])");
      break;
    case TI_JJ_NS:
      ti_jj_puts(J, out, "<Namespace ");
      dict_repr(J, out, v.u.d);
      ti_jj_puts(J, out, ">");
      break;
    case TI_JJ_MACRO:
      if (v.u.m->is_caller)
        ti_jj_puts(J, out, "<Macro anonymous>");
      else
        ti_jj_printf(J, out, "<Macro '%.*s'>", (int)(v.u.m->node->name.n < 300 ? v.u.m->node->name.n : 300), v.u.m->node->name.p);
      break;
    case TI_JJ_LOOP:
      ti_jj_printf(J, out, "<LoopContext %lld/%lld>", (long long)v.u.loop->index0 + 1, (long long)ti_jj_loop_length(J, v.u.loop));
      break;
    case TI_JJ_METHOD:
      ti_jj_printf(J, out, "<built-in method %s of %s object>", v.u.bound->func->name, ti_jj_type_name(v.u.bound->self));
      break;
    default:
      ti_jj_printf(J, out, "<%s object>", ti_jj_type_name(v));
      break;
  }
}

void ti_jj_repr_to(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v) {
  char buf[40];
  ti_jj_enter(J);
  ti_jj_work(J, 0);
  switch (v.type) {
    case TI_JJ_UNDEF:
      ti_jj_puts(J, out, "Undefined");
      break;
    case TI_JJ_NONE:
      ti_jj_puts(J, out, "None");
      break;
    case TI_JJ_BOOL:
      ti_jj_puts(J, out, v.u.b ? "True" : "False");
      break;
    case TI_JJ_INT:
      ti_jj_printf(J, out, "%lld", (long long)v.u.i);
      break;
    case TI_JJ_FLOAT:
      ti_jj_puts(J, out, ti_jj_float_repr(v.u.f, buf));
      break;
    case TI_JJ_STR:
      if (v.markup) ti_jj_puts(J, out, "Markup(");
      str_repr(J, out, v.u.s);
      if (v.markup) ti_jj_puts(J, out, ")");
      break;
    case TI_JJ_LIST:
      items_repr(J, out, v.u.l, "[", "]");
      break;
    case TI_JJ_TUPLE:
      items_repr(J, out, v.u.l, "(", v.u.l->n == 1 ? ",)" : ")");
      break;
    case TI_JJ_DICT:
      dict_repr(J, out, v.u.d);
      break;
    default:
      other_repr(J, out, v);
      break;
  }
  ti_jj_leave(J);
}

void ti_jj_str_to(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v) {
  if (v.type == TI_JJ_STR)
    ti_jj_putv(J, out, v.u.s);
  else if (v.type != TI_JJ_UNDEF)
    ti_jj_repr_to(J, out, v);
}

ti_jj_str ti_jj_str_of(ti_jj_run *J, ti_jj_val v) {
  if (v.type == TI_JJ_STR) return v.u.s;
  ti_jj_sink s = {0};
  ti_jj_str_to(J, &s, v);
  return ti_jj_sink_val(&s).u.s;
}
