// The tojson filter as transformers defines it: json.dumps(x, ensure_ascii=False, indent, separators, sort_keys), no HTML escaping.
#include <math.h>
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

static void put_string(ti_jj_run *J, ti_jj_sink *out, ti_jj_str s, bool ascii) {
  ti_jj_put(J, out, "\"", 1);
  size_t from = 0;
  for (size_t i = 0; i < s.n;) {
    size_t at = i;
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    if (c >= 0x20 && c != '"' && c != '\\' && (!ascii || c < 0x7f || (c == 0x7f))) continue;
    ti_jj_put(J, out, s.p + from, at - from);
    from = i;
    if (c == '"' || c == '\\')
      ti_jj_printf(J, out, "\\%c", (int)c);
    else if (c < 0x20 && strchr("\n\r\t\b\f", (int)c) && c)
      ti_jj_printf(J, out, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f');
    else if (c < 0x10000)
      ti_jj_printf(J, out, "\\u%04x", (unsigned)c);
    else
      ti_jj_printf(J, out, "\\u%04x\\u%04x", 0xd800 + (unsigned)((c - 0x10000) >> 10), 0xdc00 + (unsigned)((c - 0x10000) & 0x3ff));
  }
  ti_jj_put(J, out, s.p + from, s.n - from);
  ti_jj_put(J, out, "\"", 1);
}

static void newline(ti_jj_run *J, ti_jj_sink *out, const ti_jj_json_opt *o, unsigned level) {
  if (!o->pretty) return;
  ti_jj_put(J, out, "\n", 1);
  for (unsigned i = 0; i < level; i++) ti_jj_putv(J, out, o->indent);
}

static void number(ti_jj_run *J, ti_jj_sink *out, double f) {
  char buf[40];
  ti_jj_puts(J, out, isnan(f) ? "NaN" : isinf(f) ? (f < 0 ? "-Infinity" : "Infinity") : ti_jj_float_repr(f, buf));
}

static void to_json(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v, const ti_jj_json_opt *o, unsigned level);

static void put_key(ti_jj_run *J, ti_jj_sink *out, ti_jj_val key, const ti_jj_json_opt *o) {
  if (key.type == TI_JJ_STR) {
    put_string(J, out, key.u.s, o->ascii);
    return;
  }
  if (!ti_jj_is_num(key) && key.type != TI_JJ_NONE)
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: keys must be str, int, float, bool or None, not %s", ti_jj_type_name(key));
  ti_jj_put(J, out, "\"", 1);
  to_json(J, out, key, o, 0);
  ti_jj_put(J, out, "\"", 1);
}

static void put_dict(ti_jj_run *J, ti_jj_sink *out, const ti_jj_dict *d, const ti_jj_json_opt *o, unsigned level) {
  if (d->n == 0) {
    ti_jj_puts(J, out, "{}");
    return;
  }
  ti_jj_val *order = ti_jj_calloc(J, d->n, sizeof *order), *keys = ti_jj_calloc(J, d->n, sizeof *keys);
  for (size_t i = 0; i < d->n; i++) {
    order[i] = ti_jj_int((int64_t)i);
    keys[i] = d->e[i].key;
  }
  if (o->sort) ti_jj_sort(J, order, keys, d->n, false);
  ti_jj_put(J, out, "{", 1);
  for (size_t i = 0; i < d->n; i++) {
    const ti_jj_pair *e = &d->e[order[i].u.i];
    if (i) ti_jj_putv(J, out, o->item_sep);
    newline(J, out, o, level + 1);
    put_key(J, out, e->key, o);
    ti_jj_putv(J, out, o->key_sep);
    to_json(J, out, e->value, o, level + 1);
  }
  newline(J, out, o, level);
  ti_jj_put(J, out, "}", 1);
}

static void put_list(ti_jj_run *J, ti_jj_sink *out, const ti_jj_list *l, const ti_jj_json_opt *o, unsigned level) {
  if (l->n == 0) {
    ti_jj_puts(J, out, "[]");
    return;
  }
  ti_jj_put(J, out, "[", 1);
  for (size_t i = 0; i < l->n; i++) {
    if (i) ti_jj_putv(J, out, o->item_sep);
    newline(J, out, o, level + 1);
    to_json(J, out, l->v[i], o, level + 1);
  }
  newline(J, out, o, level);
  ti_jj_put(J, out, "]", 1);
}

static void to_json(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v, const ti_jj_json_opt *o, unsigned level) {
  ti_jj_enter(J);
  ti_jj_work(J, 0);
  switch (v.type) {
    case TI_JJ_NONE:
      ti_jj_puts(J, out, "null");
      break;
    case TI_JJ_BOOL:
      ti_jj_puts(J, out, v.u.b ? "true" : "false");
      break;
    case TI_JJ_INT:
      ti_jj_printf(J, out, "%lld", (long long)v.u.i);
      break;
    case TI_JJ_FLOAT:
      number(J, out, v.u.f);
      break;
    case TI_JJ_STR:
      put_string(J, out, v.u.s, o->ascii);
      break;
    case TI_JJ_LIST:
    case TI_JJ_TUPLE:
      put_list(J, out, v.u.l, o, level);
      break;
    case TI_JJ_DICT:
      put_dict(J, out, v.u.d, o, level);
      break;
    default:
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: Object of type %s is not JSON serializable", ti_jj_type_name(v));
  }
  ti_jj_leave(J);
}

void ti_jj_json_to(ti_jj_run *J, ti_jj_sink *s, ti_jj_val v, const ti_jj_json_opt *o) { to_json(J, s, v, o, 0); }
