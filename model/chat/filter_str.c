// Filters that make strings.
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

static jj_val keep_markup(jj_val of, jj_val v) {
  v.markup = of.type == JJ_STR && of.markup;
  return v;
}

static jj_val f_upper(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return keep_markup(v, jj_upper(J, jj_str_of(J, v))); }
static jj_val f_lower(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return keep_markup(v, jj_lower(J, jj_str_of(J, v))); }
static jj_val f_capitalize(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return keep_markup(v, jj_capitalize(J, jj_str_of(J, v))); }

// Words begin behind white space and any of - ( { [ <.
static jj_val f_title(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  jj_sink out = {0};
  bool word = false;
  for (size_t i = 0; i < s.n;) {
    size_t from = i;
    uint32_t c = jj_utf8_next(s.p, s.n, &i);
    jj_str one = {s.p + from, i - from};
    bool sep = jj_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c));
    jj_putv(J, &out, sep ? one : word ? jj_lower(J, one).u.s : jj_upper(J, one).u.s);
    word = !sep;
  }
  return jj_sink_val(&out);
}

static jj_val f_trim(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str chars = {NULL, 0};
  if (jj_given_some(b[0])) chars = jj_arg_str(J, b[0], "");
  jj_str s = jj_strip(J, jj_str_of(J, v), chars, true, true);
  return keep_markup(v, jj_strn(s.p, s.n));
}

static jj_val f_replace(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  int64_t count = jj_given_some(b[2]) ? jj_arg_int(J, b[2], -1) : -1;
  return jj_replace(J, jj_str_of(J, v), jj_str_of(J, b[0]), jj_str_of(J, b[1]), count);
}

static jj_val f_string(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  return keep_markup(v, jj_strn(s.p, s.n));
}

static jj_val f_safe(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  v = jj_strn(s.p, s.n);
  v.markup = true;
  return v;
}

static jj_val f_escape(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return jj_escape(J, v); }
static jj_val f_forceescape(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  v.markup = false;
  return jj_escape(J, v);
}

static jj_val f_indent(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (v.type != JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: unsupported operand type(s) for +=: '%s' and 'str'", jj_type_name(v));
  jj_str in = {"    ", 4};
  if (b[0].type == JJ_STR)
    in = b[0].u.s;
  else if (jj_given(b[0]))
    in = jj_pad(J, (jj_str){"", 0}, jj_arg_int(J, b[0], 4), (jj_str){" ", 1}, -1).u.s;
  bool first = jj_arg_bool(J, b[1], false), blank = jj_arg_bool(J, b[2], false);
  jj_list *lines = jj_splitlines(J, jj_concat(J, v.u.s, (jj_str){"\n", 1}).u.s, false);
  jj_sink out = {0};
  for (size_t i = 0; i < lines->n; i++) {
    jj_str line = lines->v[i].u.s;
    if (i) jj_put(J, &out, "\n", 1);
    if (i ? blank || line.n : first) jj_putv(J, &out, in);
    jj_putv(J, &out, line);
  }
  return keep_markup(v, jj_sink_val(&out));
}

static jj_val f_truncate(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v), end = jj_arg_str(J, b[2], "...");
  int64_t length = jj_arg_int(J, b[0], 255), leeway = jj_given_some(b[3]) ? jj_arg_int(J, b[3], 5) : 5;
  int64_t n_end = (int64_t)jj_utf8_len(end.p, end.n);
  if (length < n_end) jj_raise(J, TI_ERR_FORMAT, "AssertionError: expected length >= %lld, got %lld", (long long)n_end, (long long)length);
  if (leeway < 0) jj_raise(J, TI_ERR_FORMAT, "AssertionError: expected leeway >= 0, got %lld", (long long)leeway);
  int64_t n = jj_length(J, jj_strn(s.p, s.n));
  if (n <= length || n - length <= leeway) return jj_strn(s.p, s.n);
  size_t cut = jj_utf8_offset(s.p, s.n, (size_t)(length - n_end));
  if (!jj_arg_bool(J, b[1], false))
    for (size_t i = cut; i > 0; i--)
      if (s.p[i - 1] == ' ') {
        cut = i - 1;
        break;
      }
  return jj_concat(J, (jj_str){s.p, cut}, end);
}

static jj_val f_wordcount(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  int64_t n = 0;
  bool in = false;
  jj_work(J, s.n);
  for (size_t i = 0; i < s.n;) {
    uint32_t c = jj_utf8_next(s.p, s.n, &i);
    bool word = c == '_' || jj_is_alpha(c) || jj_is_digit(c);
    n += word && !in;
    in = word;
  }
  return jj_int(n);
}

static jj_val f_center(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  return jj_pad(J, jj_str_of(J, v), jj_arg_int(J, b[0], 80), (jj_str){" ", 1}, 0);
}

static jj_val f_format(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  if (a->n && a->n_kw) jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: can't handle positional and keyword arguments at the same time");
  jj_val arg;
  if (a->n_kw) {
    arg = jj_of_dict(JJ_DICT, jj_dict_new(J));
    for (size_t i = 0; i < a->n_kw; i++) jj_dict_set(J, arg.u.d, a->kw[i].key, a->kw[i].value);
  } else {
    arg = jj_of_list(JJ_TUPLE, jj_list_new(J, a->n));
    for (size_t i = 0; i < a->n; i++) jj_list_push(J, arg.u.l, a->v[i]);
  }
  return jj_format_percent(J, jj_strn(s.p, s.n), arg);
}

static jj_val f_striptags(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  jj_sink out = {0};
  bool gap = false;
  for (size_t i = 0; i < s.n;) {
    const char *end;
    if (s.n - i >= 4 && memcmp(s.p + i, "<!--", 4) == 0 && (end = memmem(s.p + i, s.n - i, "-->", 3))) {
      i = (size_t)(end - s.p) + 3;
      continue;
    }
    if (s.p[i] == '<' && (end = memchr(s.p + i, '>', s.n - i))) {
      i = (size_t)(end - s.p) + 1;
      continue;
    }
    size_t from = i;
    if (jj_is_space(jj_utf8_next(s.p, s.n, &i))) {
      gap = out.n > 0;
      continue;
    }
    if (gap) jj_put(J, &out, " ", 1);
    gap = false;
    jj_put(J, &out, s.p + from, i - from);
  }
  return jj_sink_val(&out);
}

static jj_val f_urlencode(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, v);
  jj_sink out = {0};
  for (size_t i = 0; i < s.n; i++) {
    char c = s.p[i];
    if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("-_.~/", c)))
      jj_put(J, &out, &c, 1);
    else
      jj_printf(J, &out, "%%%02X", (unsigned char)c);
  }
  return jj_sink_val(&out);
}

static jj_val f_tojson(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_json_opt o = {.ascii = jj_arg_bool(J, b[0], false), .sort = jj_arg_bool(J, b[3], false), .item_sep = {", ", 2}, .key_sep = {": ", 2}};
  if (jj_given_some(b[1])) {
    o.pretty = true;
    o.item_sep = (jj_str){",", 1};
    if (b[1].type == JJ_STR)
      o.indent = b[1].u.s;
    else
      o.indent = jj_pad(J, (jj_str){"", 0}, jj_arg_int(J, b[1], 0), (jj_str){" ", 1}, -1).u.s;
  }
  if (jj_given_some(b[2])) {
    if (!jj_is_seq(b[2]) || b[2].u.l->n != 2) jj_raise(J, TI_ERR_FORMAT, "ValueError: tojson: separators must be two strings");
    o.item_sep = jj_arg_str(J, b[2].u.l->v[0], "");
    o.key_sep = jj_arg_str(J, b[2].u.l->v[1], "");
  }
  jj_sink out = {0};
  jj_json_to(J, &out, v, &o);
  return jj_sink_val(&out);
}

const jj_func jj_filters_str[] = {
    {"upper", f_upper, ""},
    {"lower", f_lower, ""},
    {"capitalize", f_capitalize, ""},
    {"title", f_title, ""},
    {"trim", f_trim, "chars"},
    {"replace", f_replace, "!old !new count"},
    {"string", f_string, ""},
    {"safe", f_safe, ""},
    {"e", f_escape, ""},
    {"escape", f_escape, ""},
    {"forceescape", f_forceescape, ""},
    {"indent", f_indent, "width first blank"},
    {"truncate", f_truncate, "length killwords end leeway"},
    {"wordcount", f_wordcount, ""},
    {"center", f_center, "width"},
    {"format", f_format, NULL},
    {"striptags", f_striptags, ""},
    {"urlencode", f_urlencode, ""},
    {"tojson", f_tojson, "ensure_ascii indent separators sort_keys"},
    {NULL, NULL, NULL},
};
