// Methods of strings.
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

#define METHOD(name) static ti_jj_val m_##name(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a)

static ti_jj_val same(ti_jj_val self, ti_jj_val v) {
  v.markup = self.markup;
  return v;
}

static ti_jj_val strip(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, bool left, bool right) {
  ti_jj_str chars = {NULL, 0};
  if (ti_jj_given_some(b[0])) chars = ti_jj_arg_str(J, b[0], "");
  ti_jj_str s = ti_jj_strip(J, self.u.s, chars, left, right);
  return same(self, ti_jj_strn(s.p, s.n));
}
METHOD(strip) { return strip(J, self, b, true, true); }
METHOD(lstrip) { return strip(J, self, b, true, false); }
METHOD(rstrip) { return strip(J, self, b, false, true); }
METHOD(upper) { return same(self, ti_jj_upper(J, self.u.s)); }
METHOD(lower) { return same(self, ti_jj_lower(J, self.u.s)); }
METHOD(capitalize) { return same(self, ti_jj_capitalize(J, self.u.s)); }

// Letters behind a letter in lower case, others in upper case; swap: each in the other.
static ti_jj_val recase(ti_jj_run *J, ti_jj_val self, bool swap) {
  ti_jj_sink out = {0};
  bool behind = false;
  ti_jj_str s = self.u.s;
  for (size_t i = 0; i < s.n;) {
    size_t from = i;
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    ti_jj_str one = {s.p + from, i - from};
    bool lower = swap ? ti_jj_is_upper(c) : behind;
    ti_jj_putv(J, &out, lower ? ti_jj_lower(J, one).u.s : ti_jj_upper(J, one).u.s);
    behind = ti_jj_is_upper(c) || ti_jj_is_lower(c);
  }
  return same(self, ti_jj_sink_val(&out));
}
METHOD(title) { return recase(J, self, false); }
METHOD(swapcase) { return recase(J, self, true); }

METHOD(replace) {
  int64_t count = ti_jj_given(b[2]) ? ti_jj_arg_int(J, b[2], -1) : -1;
  return same(self, ti_jj_replace(J, self.u.s, ti_jj_arg_str(J, b[0], ""), ti_jj_arg_str(J, b[1], ""), count));
}

static void push_part(ti_jj_run *J, ti_jj_list *l, ti_jj_val self, size_t from, size_t to) {
  ti_jj_work(J, 0);
  ti_jj_list_push(J, l, same(self, ti_jj_strn(self.u.s.p + from, to - from)));
}

// split() and rsplit() at white space.
static ti_jj_list *split_space(ti_jj_run *J, ti_jj_val self, int64_t max, bool right) {
  ti_jj_list *l = ti_jj_list_new(J, 0);
  ti_jj_str s = right ? ti_jj_strip(J, self.u.s, (ti_jj_str){NULL, 0}, false, true) : ti_jj_strip(J, self.u.s, (ti_jj_str){NULL, 0}, true, false);
  size_t at = (size_t)(s.p - self.u.s.p), end = at + s.n;
  const char *p = self.u.s.p;
  while (at < end && max != 0) {
    size_t i = right ? end : at, k = i;
    if (right) {
      while (i > at && (k = i, !ti_jj_is_space(ti_jj_utf8_prev(p, &k)))) i = k;
      push_part(J, l, self, i, end);
      while (i > at && (k = i, ti_jj_is_space(ti_jj_utf8_prev(p, &k)))) i = k;
      end = i;
    } else {
      while (i < end && (k = i, !ti_jj_is_space(ti_jj_utf8_next(p, end, &k)))) i = k;
      push_part(J, l, self, at, i);
      while (i < end && (k = i, ti_jj_is_space(ti_jj_utf8_next(p, end, &k)))) i = k;
      at = i;
    }
    max -= max > 0;
  }
  if (at < end) push_part(J, l, self, at, end);
  return l;
}

// Backwards, a candidate at a time; what a candidate costs is charged, since the worst case is the product of the lengths.
static const char *rfind(ti_jj_run *J, ti_jj_str s, ti_jj_str needle) {
  for (size_t i = s.n >= needle.n ? s.n - needle.n + 1 : 0; i-- > 0;) {
    if (needle.n && s.p[i] != needle.p[0]) continue;
    ti_jj_work(J, needle.n);
    if (memcmp(s.p + i, needle.p, needle.n) == 0) return s.p + i;
  }
  return NULL;
}

static ti_jj_list *split_at(ti_jj_run *J, ti_jj_val self, ti_jj_str sep, int64_t max, bool right) {
  ti_jj_list *l = ti_jj_list_new(J, 0);
  size_t at = 0, end = self.u.s.n;
  const char *p = self.u.s.p;
  if (sep.n == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: empty separator");
  ti_jj_work(J, self.u.s.n);
  while (max != 0) {
    ti_jj_str rest = {p + at, end - at};
    const char *hit = right ? rfind(J, rest, sep) : memmem(rest.p, rest.n, sep.p, sep.n);
    if (!hit) break;
    size_t i = (size_t)(hit - p);
    if (right) {
      push_part(J, l, self, i + sep.n, end);
      end = i;
    } else {
      push_part(J, l, self, at, i);
      at = i + sep.n;
    }
    max -= max > 0;
  }
  push_part(J, l, self, at, end);
  return l;
}

static ti_jj_val split(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, bool right) {
  int64_t max = ti_jj_given(b[1]) ? ti_jj_arg_int(J, b[1], -1) : -1;
  ti_jj_list *l = ti_jj_given_some(b[0]) ? split_at(J, self, ti_jj_arg_str(J, b[0], ""), max, right) : split_space(J, self, max, right);
  for (size_t i = 0; right && i < l->n / 2; i++) {
    ti_jj_val t = l->v[i];
    l->v[i] = l->v[l->n - 1 - i];
    l->v[l->n - 1 - i] = t;
  }
  return ti_jj_of_list(TI_JJ_LIST, l);
}
METHOD(split) { return split(J, self, b, false); }
METHOD(rsplit) { return split(J, self, b, true); }
METHOD(splitlines) { return ti_jj_of_list(TI_JJ_LIST, ti_jj_splitlines(J, self.u.s, ti_jj_arg_bool(J, b[0], false))); }

static ti_jj_val partition(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, bool right) {
  ti_jj_str s = self.u.s, sep = ti_jj_arg_str(J, b[0], "");
  if (sep.n == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: empty separator");
  ti_jj_work(J, s.n);
  const char *hit = right ? rfind(J, s, sep) : memmem(s.p, s.n, sep.p, sep.n);
  ti_jj_list *l = ti_jj_list_new(J, 3);
  size_t i = hit ? (size_t)(hit - s.p) : right ? 0 : s.n, j = hit ? i + sep.n : i;
  ti_jj_list_push(J, l, ti_jj_strn(s.p, i));
  ti_jj_list_push(J, l, hit ? ti_jj_strn(sep.p, sep.n) : ti_jj_lit(""));
  ti_jj_list_push(J, l, ti_jj_strn(s.p + j, s.n - j));
  return ti_jj_of_list(TI_JJ_TUPLE, l);
}
METHOD(partition) { return partition(J, self, b, false); }
METHOD(rpartition) { return partition(J, self, b, true); }

// self[start:end] as find, count and startswith take it; *ok = false when start is beyond the end.
static ti_jj_str window(ti_jj_run *J, ti_jj_str s, ti_jj_val *b, size_t *offset, bool *ok) {
  int64_t n = (int64_t)ti_jj_utf8_len(s.p, s.n), from = ti_jj_given_some(b[0]) ? ti_jj_arg_int(J, b[0], 0) : 0,
          to = ti_jj_given_some(b[1]) ? ti_jj_arg_int(J, b[1], n) : n;
  if (from < 0) from = from + n < 0 ? 0 : from + n;
  if (to < 0) to = to + n < 0 ? 0 : to + n;
  if (to > n) to = n;
  *ok = from <= n && from <= to;
  if (!*ok) return (ti_jj_str){s.p, 0};
  size_t x = ti_jj_utf8_offset(s.p, s.n, (size_t)from), y = ti_jj_utf8_offset(s.p, s.n, (size_t)to);
  *offset = x;
  return (ti_jj_str){s.p + x, y - x};
}

static int64_t find(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, bool right) {
  bool ok;
  size_t offset = 0;
  ti_jj_str needle = ti_jj_arg_str(J, b[0], ""), w = window(J, self.u.s, b + 1, &offset, &ok);
  ti_jj_work(J, self.u.s.n);
  if (!ok) return -1;
  const char *hit = right ? rfind(J, w, needle) : ti_jj_find(J, w, needle);
  return hit ? (int64_t)ti_jj_utf8_len(self.u.s.p, (size_t)(hit - self.u.s.p)) : -1;
}
METHOD(find) { return ti_jj_int(find(J, self, b, false)); }
METHOD(rfind) { return ti_jj_int(find(J, self, b, true)); }
static ti_jj_val must_find(ti_jj_run *J, int64_t at) {
  if (at < 0) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: substring not found");
  return ti_jj_int(at);
}
METHOD(index) { return must_find(J, find(J, self, b, false)); }
METHOD(rindex) { return must_find(J, find(J, self, b, true)); }

METHOD(count) {
  bool ok;
  size_t offset = 0;
  int64_t n = 0;
  ti_jj_str needle = ti_jj_arg_str(J, b[0], ""), w = window(J, self.u.s, b + 1, &offset, &ok);
  ti_jj_work(J, self.u.s.n);
  if (!ok) return ti_jj_int(0);
  if (needle.n == 0) return ti_jj_int((int64_t)ti_jj_utf8_len(w.p, w.n) + 1);
  for (const char *hit; (hit = memmem(w.p, w.n, needle.p, needle.n)); n++) {
    size_t skip = (size_t)(hit - w.p) + needle.n;
    w = (ti_jj_str){w.p + skip, w.n - skip};
  }
  return ti_jj_int(n);
}

static bool affix(ti_jj_run *J, ti_jj_str s, ti_jj_val x, bool end) {
  ti_jj_str t = ti_jj_arg_str(J, x, "");
  ti_jj_work(J, t.n);
  return t.n <= s.n && memcmp(end ? s.p + s.n - t.n : s.p, t.p, t.n) == 0;
}
static ti_jj_val has_affix(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, bool end) {
  bool ok, hit = false;
  size_t offset = 0;
  ti_jj_str w = window(J, self.u.s, b + 1, &offset, &ok);
  if (!ok) return ti_jj_bool(false);
  if (b[0].type == TI_JJ_TUPLE) {
    for (size_t i = 0; i < b[0].u.l->n && !hit; i++) hit = affix(J, w, b[0].u.l->v[i], end);
    return ti_jj_bool(hit);
  }
  if (b[0].type != TI_JJ_STR)
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %s first arg must be str or a tuple of str, not %s", end ? "endswith" : "startswith",
                ti_jj_type_name(b[0]));
  return ti_jj_bool(affix(J, w, b[0], end));
}
METHOD(startswith) { return has_affix(J, self, b, false); }
METHOD(endswith) { return has_affix(J, self, b, true); }
METHOD(removeprefix) {
  size_t k = affix(J, self.u.s, b[0], false) ? b[0].u.s.n : 0;
  return ti_jj_strn(self.u.s.p + k, self.u.s.n - k);
}
METHOD(removesuffix) { return ti_jj_strn(self.u.s.p, self.u.s.n - (affix(J, self.u.s, b[0], true) ? b[0].u.s.n : 0)); }
METHOD(join) { return same(self, ti_jj_join(J, self.u.s, b[0], (ti_jj_val){0}, true)); }
METHOD(format) { return same(self, ti_jj_format_braces(J, self, a)); }

static ti_jj_str fill_of(ti_jj_run *J, ti_jj_val v) {
  ti_jj_str f = ti_jj_arg_str(J, v, " ");
  if (ti_jj_utf8_len(f.p, f.n) != 1) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: The fill character must be exactly one character long");
  return f;
}
METHOD(ljust) { return ti_jj_pad(J, self.u.s, ti_jj_arg_int(J, b[0], 0), fill_of(J, b[1]), -1); }
METHOD(rjust) { return ti_jj_pad(J, self.u.s, ti_jj_arg_int(J, b[0], 0), fill_of(J, b[1]), 1); }
METHOD(center) { return ti_jj_pad(J, self.u.s, ti_jj_arg_int(J, b[0], 0), fill_of(J, b[1]), 0); }
METHOD(zfill) {
  ti_jj_str s = self.u.s, sign = {s.p, s.n && (s.p[0] == '-' || s.p[0] == '+')};
  int64_t width = ti_jj_arg_int(J, b[0], 0);
  if (width < 0) width = 0;
  ti_jj_val rest = ti_jj_pad(J, (ti_jj_str){s.p + sign.n, s.n - sign.n}, width - (int64_t)sign.n, (ti_jj_str){"0", 1}, 1);
  return ti_jj_concat(J, sign, rest.u.s);
}
METHOD(expandtabs) {
  int64_t tab = ti_jj_arg_int(J, b[0], 8), col = 0;
  ti_jj_sink out = {0};
  for (size_t i = 0; i < self.u.s.n;) {
    size_t from = i;
    uint32_t c = ti_jj_utf8_next(self.u.s.p, self.u.s.n, &i);
    if (c != '\t') {
      ti_jj_put(J, &out, self.u.s.p + from, i - from);
      col = c == '\n' || c == '\r' ? 0 : col + 1;
      continue;
    }
    for (int64_t k = tab > 0 ? tab - col % tab : 0; k > 0; k--, col++) ti_jj_put(J, &out, " ", 1);
  }
  return ti_jj_sink_val(&out);
}

static bool alnum(uint32_t c) { return ti_jj_is_alpha(c) || ti_jj_is_digit(c); }
static bool ascii(uint32_t c) { return c < 0x80; }
METHOD(isspace) { return ti_jj_bool(ti_jj_all(J, self.u.s, ti_jj_is_space)); }
METHOD(isalpha) { return ti_jj_bool(ti_jj_all(J, self.u.s, ti_jj_is_alpha)); }
METHOD(isdigit) { return ti_jj_bool(ti_jj_all(J, self.u.s, ti_jj_is_digit)); }
METHOD(isalnum) { return ti_jj_bool(ti_jj_all(J, self.u.s, alnum)); }
METHOD(isascii) { return ti_jj_bool(self.u.s.n == 0 || ti_jj_all(J, self.u.s, ascii)); }
METHOD(isprintable) { return ti_jj_bool(self.u.s.n == 0 || ti_jj_all(J, self.u.s, ti_jj_is_printable)); }
METHOD(isupper) { return ti_jj_bool(ti_jj_all_cased(J, self.u.s, true)); }
METHOD(islower) { return ti_jj_bool(ti_jj_all_cased(J, self.u.s, false)); }

const ti_jj_func ti_jj_str_methods[] = {
    {"strip", m_strip, "chars"},
    {"lstrip", m_lstrip, "chars"},
    {"rstrip", m_rstrip, "chars"},
    {"split", m_split, "sep maxsplit"},
    {"rsplit", m_rsplit, "sep maxsplit"},
    {"splitlines", m_splitlines, "keepends"},
    {"startswith", m_startswith, "!prefix start end"},
    {"endswith", m_endswith, "!suffix start end"},
    {"replace", m_replace, "!old !new count"},
    {"upper", m_upper, ""},
    {"lower", m_lower, ""},
    {"casefold", m_lower, ""},
    {"title", m_title, ""},
    {"capitalize", m_capitalize, ""},
    {"swapcase", m_swapcase, ""},
    {"find", m_find, "!sub start end"},
    {"rfind", m_rfind, "!sub start end"},
    {"index", m_index, "!sub start end"},
    {"rindex", m_rindex, "!sub start end"},
    {"count", m_count, "!sub start end"},
    {"join", m_join, "!iterable"},
    {"format", m_format, NULL},
    {"partition", m_partition, "!sep"},
    {"rpartition", m_rpartition, "!sep"},
    {"removeprefix", m_removeprefix, "!prefix"},
    {"removesuffix", m_removesuffix, "!suffix"},
    {"ljust", m_ljust, "!width fillchar"},
    {"rjust", m_rjust, "!width fillchar"},
    {"center", m_center, "!width fillchar"},
    {"zfill", m_zfill, "!width"},
    {"expandtabs", m_expandtabs, "tabsize"},
    {"isspace", m_isspace, ""},
    {"isalpha", m_isalpha, ""},
    {"isdigit", m_isdigit, ""},
    {"isdecimal", m_isdigit, ""},
    {"isnumeric", m_isdigit, ""},
    {"isalnum", m_isalnum, ""},
    {"isascii", m_isascii, ""},
    {"isprintable", m_isprintable, ""},
    {"isupper", m_isupper, ""},
    {"islower", m_islower, ""},
    {NULL, NULL, NULL},
};
