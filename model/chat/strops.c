// String primitives behind filters and methods.
#include "model/chat/strops.h"

#include <string.h>

#include "model/chat/uni.h"

static bool in_set(uint32_t c, ti_jj_str chars) {
  if (!chars.p) return ti_jj_is_space(c);
  for (size_t i = 0; i < chars.n;)
    if (ti_jj_utf8_next(chars.p, chars.n, &i) == c) return true;
  return false;
}

ti_jj_str ti_jj_strip(ti_jj_run *J, ti_jj_str s, ti_jj_str chars, bool left, bool right) {
  size_t from = 0, to = s.n;
  while (left && from < to) {
    size_t k = from;
    ti_jj_work(J, chars.n);
    if (!in_set(ti_jj_utf8_next(s.p, s.n, &k), chars)) break;
    from = k;
  }
  while (right && to > from) {
    size_t k = to;
    ti_jj_work(J, chars.n);
    if (!in_set(ti_jj_utf8_prev(s.p, &k), chars)) break;
    to = k;
  }
  return (ti_jj_str){s.p + from, to - from};
}

const char *ti_jj_find(ti_jj_run *J, ti_jj_str hay, ti_jj_str needle) {
  ti_jj_work(J, hay.n);
  return needle.n == 0 ? hay.p : memmem(hay.p, hay.n, needle.p, needle.n);
}

ti_jj_val ti_jj_replace(ti_jj_run *J, ti_jj_str s, ti_jj_str old, ti_jj_str new_text, int64_t count) {
  ti_jj_sink out = {0};
  size_t at = 0;
  if (old.n == 0) {  // before every code point and at the end
    while (count != 0) {
      ti_jj_putv(J, &out, new_text);
      count -= count > 0;
      if (at == s.n) break;
      size_t from = at;
      ti_jj_utf8_next(s.p, s.n, &at);
      ti_jj_put(J, &out, s.p + from, at - from);
    }
  } else {
    while (count != 0) {
      const char *hit = memmem(s.p + at, s.n - at, old.p, old.n);
      if (!hit) break;
      ti_jj_put(J, &out, s.p + at, (size_t)(hit - s.p) - at);
      ti_jj_putv(J, &out, new_text);
      ti_jj_work(J, 0);
      at = (size_t)(hit - s.p) + old.n;
      count -= count > 0;
    }
    ti_jj_work(J, s.n);
    if (at == 0) return ti_jj_strn(s.p, s.n);  // nothing replaced
  }
  ti_jj_put(J, &out, s.p + at, s.n - at);
  return ti_jj_sink_val(&out);
}

static ti_jj_val map_case(ti_jj_run *J, ti_jj_str s, uint32_t (*map)(uint32_t), bool upper) {
  ti_jj_work(J, s.n);
  ti_jj_sink out = {0};
  char u[4];
  for (size_t i = 0; i < s.n;) {
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    if (upper && c == 0xdf)
      ti_jj_put(J, &out, "SS", 2);  // the one common letter whose capital form is two letters
    else
      ti_jj_put(J, &out, u, ti_jj_utf8_put(u, map(c)));
  }
  return ti_jj_sink_val(&out);
}

ti_jj_val ti_jj_upper(ti_jj_run *J, ti_jj_str s) { return map_case(J, s, ti_jj_to_upper, true); }
ti_jj_val ti_jj_lower(ti_jj_run *J, ti_jj_str s) { return map_case(J, s, ti_jj_to_lower, false); }

ti_jj_val ti_jj_capitalize(ti_jj_run *J, ti_jj_str s) {
  size_t i = 0;
  if (s.n) ti_jj_utf8_next(s.p, s.n, &i);
  ti_jj_str head = ti_jj_upper(J, (ti_jj_str){s.p, i}).u.s;
  if (head.n == 2 && head.p[0] == 'S') head.p = "Ss";
  return ti_jj_concat(J, head, ti_jj_lower(J, (ti_jj_str){s.p + i, s.n - i}).u.s);
}

ti_jj_val ti_jj_join(ti_jj_run *J, ti_jj_str sep, ti_jj_val items, ti_jj_val attribute, bool strict) {
  ti_jj_sink out = {0};
  ti_jj_val v;
  size_t n = 0;
  for (ti_jj_iter it = ti_jj_iterate(J, items); ti_jj_next(J, &it, &v); n++) {
    if (ti_jj_given_some(attribute)) v = ti_jj_attr_path(J, v, attribute);
    if (strict && v.type != TI_JJ_STR)
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: sequence item %zu: expected str instance, %s found", n, ti_jj_type_name(v));
    if (n) ti_jj_putv(J, &out, sep);
    ti_jj_str_to(J, &out, v);
  }
  return ti_jj_sink_val(&out);
}

static bool line_end(uint32_t c) { return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029; }

ti_jj_list *ti_jj_splitlines(ti_jj_run *J, ti_jj_str s, bool keep_ends) {
  ti_jj_list *l = ti_jj_list_new(J, 0);
  size_t from = 0;
  ti_jj_work(J, s.n);
  for (size_t i = 0; i < s.n;) {
    size_t at = i;
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    if (!line_end(c)) continue;
    if (c == '\r' && i < s.n && s.p[i] == '\n') i++;
    ti_jj_list_push(J, l, ti_jj_strn(s.p + from, (keep_ends ? i : at) - from));
    from = i;
  }
  if (from < s.n) ti_jj_list_push(J, l, ti_jj_strn(s.p + from, s.n - from));
  return l;
}

ti_jj_val ti_jj_pad(ti_jj_run *J, ti_jj_str s, int64_t width, ti_jj_str fill, int align) {
  int64_t n = (int64_t)ti_jj_utf8_len(s.p, s.n), pad = width - n;
  if (pad <= 0) return ti_jj_strn(s.p, s.n);
  int64_t left = align > 0 ? pad : align < 0 ? 0 : pad / 2 + (pad & width & 1);
  ti_jj_sink out = {0};
  for (int64_t i = 0; i < left; i++) ti_jj_putv(J, &out, fill);
  ti_jj_putv(J, &out, s);
  for (int64_t i = left; i < pad; i++) ti_jj_putv(J, &out, fill);
  return ti_jj_sink_val(&out);
}

bool ti_jj_all(ti_jj_run *J, ti_jj_str s, bool (*is)(uint32_t cp)) {
  ti_jj_work(J, s.n);
  for (size_t i = 0; i < s.n;)
    if (!is(ti_jj_utf8_next(s.p, s.n, &i))) return false;
  return s.n > 0;
}

bool ti_jj_all_cased(ti_jj_run *J, ti_jj_str s, bool upper) {
  bool cased = false;
  ti_jj_work(J, s.n);
  for (size_t i = 0; i < s.n;) {
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    if (upper ? ti_jj_is_lower(c) : ti_jj_is_upper(c)) return false;
    cased = cased || (upper ? ti_jj_is_upper(c) : ti_jj_is_lower(c));
  }
  return cased;
}
