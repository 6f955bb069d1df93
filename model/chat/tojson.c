// The tojson filter as transformers defines it: json.dumps(x, ensure_ascii=False, indent, separators, sort_keys), no HTML escaping.
#include <math.h>
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

static void put_string(jj_run *J, jj_sink *out, jj_str s, bool ascii) {
  jj_put(J, out, "\"", 1);
  size_t from = 0;
  for (size_t i = 0; i < s.n;) {
    size_t at = i;
    uint32_t c = jj_utf8_next(s.p, s.n, &i);
    if (c >= 0x20 && c != '"' && c != '\\' && (!ascii || c < 0x7f || (c == 0x7f))) continue;
    jj_put(J, out, s.p + from, at - from);
    from = i;
    if (c == '"' || c == '\\')
      jj_printf(J, out, "\\%c", (int)c);
    else if (c < 0x20 && strchr("\n\r\t\b\f", (int)c) && c)
      jj_printf(J, out, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f');
    else if (c < 0x10000)
      jj_printf(J, out, "\\u%04x", (unsigned)c);
    else
      jj_printf(J, out, "\\u%04x\\u%04x", 0xd800 + (unsigned)((c - 0x10000) >> 10), 0xdc00 + (unsigned)((c - 0x10000) & 0x3ff));
  }
  jj_put(J, out, s.p + from, s.n - from);
  jj_put(J, out, "\"", 1);
}

static void newline(jj_run *J, jj_sink *out, const jj_json_opt *o, unsigned level) {
  if (!o->pretty) return;
  jj_put(J, out, "\n", 1);
  for (unsigned i = 0; i < level; i++) jj_putv(J, out, o->indent);
}

static void number(jj_run *J, jj_sink *out, double f) {
  char buf[40];
  jj_puts(J, out, isnan(f) ? "NaN" : isinf(f) ? (f < 0 ? "-Infinity" : "Infinity") : jj_float_repr(f, buf));
}

static void to_json(jj_run *J, jj_sink *out, jj_val v, const jj_json_opt *o, unsigned level);

static void put_key(jj_run *J, jj_sink *out, jj_val key, const jj_json_opt *o) {
  if (key.type == JJ_STR) {
    put_string(J, out, key.u.s, o->ascii);
    return;
  }
  if (!jj_is_num(key) && key.type != JJ_NONE)
    jj_raise(J, TI_ERR_FORMAT, "TypeError: keys must be str, int, float, bool or None, not %s", jj_type_name(key));
  jj_put(J, out, "\"", 1);
  to_json(J, out, key, o, 0);
  jj_put(J, out, "\"", 1);
}

static void put_dict(jj_run *J, jj_sink *out, const jj_dict *d, const jj_json_opt *o, unsigned level) {
  if (d->n == 0) {
    jj_puts(J, out, "{}");
    return;
  }
  jj_val *order = jj_calloc(J, d->n, sizeof *order), *keys = jj_calloc(J, d->n, sizeof *keys);
  for (size_t i = 0; i < d->n; i++) {
    order[i] = jj_int((int64_t)i);
    keys[i] = d->e[i].key;
  }
  if (o->sort) jj_sort(J, order, keys, d->n, false);
  jj_put(J, out, "{", 1);
  for (size_t i = 0; i < d->n; i++) {
    const jj_pair *e = &d->e[order[i].u.i];
    if (i) jj_putv(J, out, o->item_sep);
    newline(J, out, o, level + 1);
    put_key(J, out, e->key, o);
    jj_putv(J, out, o->key_sep);
    to_json(J, out, e->value, o, level + 1);
  }
  newline(J, out, o, level);
  jj_put(J, out, "}", 1);
}

static void put_list(jj_run *J, jj_sink *out, const jj_list *l, const jj_json_opt *o, unsigned level) {
  if (l->n == 0) {
    jj_puts(J, out, "[]");
    return;
  }
  jj_put(J, out, "[", 1);
  for (size_t i = 0; i < l->n; i++) {
    if (i) jj_putv(J, out, o->item_sep);
    newline(J, out, o, level + 1);
    to_json(J, out, l->v[i], o, level + 1);
  }
  newline(J, out, o, level);
  jj_put(J, out, "]", 1);
}

static void to_json(jj_run *J, jj_sink *out, jj_val v, const jj_json_opt *o, unsigned level) {
  jj_enter(J);
  jj_work(J, 0);
  switch (v.type) {
    case JJ_NONE:
      jj_puts(J, out, "null");
      break;
    case JJ_BOOL:
      jj_puts(J, out, v.u.b ? "true" : "false");
      break;
    case JJ_INT:
      jj_printf(J, out, "%lld", (long long)v.u.i);
      break;
    case JJ_FLOAT:
      number(J, out, v.u.f);
      break;
    case JJ_STR:
      put_string(J, out, v.u.s, o->ascii);
      break;
    case JJ_LIST:
    case JJ_TUPLE:
      put_list(J, out, v.u.l, o, level);
      break;
    case JJ_DICT:
      put_dict(J, out, v.u.d, o, level);
      break;
    default:
      jj_raise(J, TI_ERR_FORMAT, "TypeError: Object of type %s is not JSON serializable", jj_type_name(v));
  }
  jj_leave(J);
}

void jj_json_to(jj_run *J, jj_sink *s, jj_val v, const jj_json_opt *o) { to_json(J, s, v, o, 0); }
