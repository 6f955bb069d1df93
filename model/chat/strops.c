// String primitives behind filters and methods.
#include "model/chat/strops.h"

#include <string.h>

#include "model/chat/uni.h"

static bool in_set(uint32_t c, jj_str chars) {
  if (!chars.p) return jj_is_space(c);
  for (size_t i = 0; i < chars.n;)
    if (jj_utf8_next(chars.p, chars.n, &i) == c) return true;
  return false;
}

jj_str jj_strip(jj_run *J, jj_str s, jj_str chars, bool left, bool right) {
  size_t from = 0, to = s.n;
  while (left && from < to) {
    size_t k = from;
    jj_work(J, chars.n);
    if (!in_set(jj_utf8_next(s.p, s.n, &k), chars)) break;
    from = k;
  }
  while (right && to > from) {
    size_t k = to;
    jj_work(J, chars.n);
    if (!in_set(jj_utf8_prev(s.p, &k), chars)) break;
    to = k;
  }
  return (jj_str){s.p + from, to - from};
}

const char *jj_find(jj_run *J, jj_str hay, jj_str needle) {
  jj_work(J, hay.n);
  return needle.n == 0 ? hay.p : memmem(hay.p, hay.n, needle.p, needle.n);
}

jj_val jj_replace(jj_run *J, jj_str s, jj_str old, jj_str new_text, int64_t count) {
  jj_sink out = {0};
  size_t at = 0;
  if (old.n == 0) {  // before every code point and at the end
    while (count != 0) {
      jj_putv(J, &out, new_text);
      count -= count > 0;
      if (at == s.n) break;
      size_t from = at;
      jj_utf8_next(s.p, s.n, &at);
      jj_put(J, &out, s.p + from, at - from);
    }
  } else {
    while (count != 0) {
      const char *hit = memmem(s.p + at, s.n - at, old.p, old.n);
      if (!hit) break;
      jj_put(J, &out, s.p + at, (size_t)(hit - s.p) - at);
      jj_putv(J, &out, new_text);
      jj_work(J, 0);
      at = (size_t)(hit - s.p) + old.n;
      count -= count > 0;
    }
    jj_work(J, s.n);
    if (at == 0) return jj_strn(s.p, s.n);  // nothing replaced
  }
  jj_put(J, &out, s.p + at, s.n - at);
  return jj_sink_val(&out);
}

static jj_val map_case(jj_run *J, jj_str s, uint32_t (*map)(uint32_t), bool upper) {
  jj_work(J, s.n);
  jj_sink out = {0};
  char u[4];
  for (size_t i = 0; i < s.n;) {
    uint32_t c = jj_utf8_next(s.p, s.n, &i);
    if (upper && c == 0xdf)
      jj_put(J, &out, "SS", 2);  // the one common letter whose capital form is two letters
    else
      jj_put(J, &out, u, jj_utf8_put(u, map(c)));
  }
  return jj_sink_val(&out);
}

jj_val jj_upper(jj_run *J, jj_str s) { return map_case(J, s, jj_to_upper, true); }
jj_val jj_lower(jj_run *J, jj_str s) { return map_case(J, s, jj_to_lower, false); }

jj_val jj_capitalize(jj_run *J, jj_str s) {
  size_t i = 0;
  if (s.n) jj_utf8_next(s.p, s.n, &i);
  jj_str head = jj_upper(J, (jj_str){s.p, i}).u.s;
  if (head.n == 2 && head.p[0] == 'S') head.p = "Ss";
  return jj_concat(J, head, jj_lower(J, (jj_str){s.p + i, s.n - i}).u.s);
}

jj_val jj_join(jj_run *J, jj_str sep, jj_val items, jj_val attribute, bool strict) {
  jj_sink out = {0};
  jj_val v;
  size_t n = 0;
  for (jj_iter it = jj_iterate(J, items); jj_next(J, &it, &v); n++) {
    if (jj_given_some(attribute)) v = jj_attr_path(J, v, attribute);
    if (strict && v.type != JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: sequence item %zu: expected str instance, %s found", n, jj_type_name(v));
    if (n) jj_putv(J, &out, sep);
    jj_str_to(J, &out, v);
  }
  return jj_sink_val(&out);
}

static bool line_end(uint32_t c) { return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029; }

jj_list *jj_splitlines(jj_run *J, jj_str s, bool keep_ends) {
  jj_list *l = jj_list_new(J, 0);
  size_t from = 0;
  jj_work(J, s.n);
  for (size_t i = 0; i < s.n;) {
    size_t at = i;
    uint32_t c = jj_utf8_next(s.p, s.n, &i);
    if (!line_end(c)) continue;
    if (c == '\r' && i < s.n && s.p[i] == '\n') i++;
    jj_list_push(J, l, jj_strn(s.p + from, (keep_ends ? i : at) - from));
    from = i;
  }
  if (from < s.n) jj_list_push(J, l, jj_strn(s.p + from, s.n - from));
  return l;
}

jj_val jj_pad(jj_run *J, jj_str s, int64_t width, jj_str fill, int align) {
  int64_t n = (int64_t)jj_utf8_len(s.p, s.n), pad = width - n;
  if (pad <= 0) return jj_strn(s.p, s.n);
  int64_t left = align > 0 ? pad : align < 0 ? 0 : pad / 2 + (pad & width & 1);
  jj_sink out = {0};
  for (int64_t i = 0; i < left; i++) jj_putv(J, &out, fill);
  jj_putv(J, &out, s);
  for (int64_t i = left; i < pad; i++) jj_putv(J, &out, fill);
  return jj_sink_val(&out);
}

bool jj_all(jj_run *J, jj_str s, bool (*is)(uint32_t cp)) {
  jj_work(J, s.n);
  for (size_t i = 0; i < s.n;)
    if (!is(jj_utf8_next(s.p, s.n, &i))) return false;
  return s.n > 0;
}

bool jj_all_cased(jj_run *J, jj_str s, bool upper) {
  bool cased = false;
  jj_work(J, s.n);
  for (size_t i = 0; i < s.n;) {
    uint32_t c = jj_utf8_next(s.p, s.n, &i);
    if (upper ? jj_is_lower(c) : jj_is_upper(c)) return false;
    cased = cased || (upper ? jj_is_upper(c) : jj_is_lower(c));
  }
  return cased;
}
