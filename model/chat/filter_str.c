// Filters that make strings.
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

static ti_jj_val keep_markup(ti_jj_val of, ti_jj_val v) {
  v.markup = of.type == TI_JJ_STR && of.markup;
  return v;
}

static ti_jj_val f_upper(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return keep_markup(v, ti_jj_upper(J, ti_jj_str_of(J, v))); }
static ti_jj_val f_lower(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return keep_markup(v, ti_jj_lower(J, ti_jj_str_of(J, v))); }
static ti_jj_val f_capitalize(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  return keep_markup(v, ti_jj_capitalize(J, ti_jj_str_of(J, v)));
}

// Words begin behind white space and any of - ( { [ <.
static ti_jj_val f_title(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  ti_jj_sink out = {0};
  bool word = false;
  for (size_t i = 0; i < s.n;) {
    size_t from = i;
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    ti_jj_str one = {s.p + from, i - from};
    bool sep = ti_jj_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c));
    ti_jj_putv(J, &out, sep ? one : word ? ti_jj_lower(J, one).u.s : ti_jj_upper(J, one).u.s);
    word = !sep;
  }
  return ti_jj_sink_val(&out);
}

static ti_jj_val f_trim(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str chars = {NULL, 0};
  if (ti_jj_given_some(b[0])) chars = ti_jj_arg_str(J, b[0], "");
  ti_jj_str s = ti_jj_strip(J, ti_jj_str_of(J, v), chars, true, true);
  return keep_markup(v, ti_jj_strn(s.p, s.n));
}

static ti_jj_val f_replace(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  int64_t count = ti_jj_given_some(b[2]) ? ti_jj_arg_int(J, b[2], -1) : -1;
  return ti_jj_replace(J, ti_jj_str_of(J, v), ti_jj_str_of(J, b[0]), ti_jj_str_of(J, b[1]), count);
}

static ti_jj_val f_string(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  return keep_markup(v, ti_jj_strn(s.p, s.n));
}

static ti_jj_val f_safe(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  v = ti_jj_strn(s.p, s.n);
  v.markup = true;
  return v;
}

static ti_jj_val f_escape(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return ti_jj_escape(J, v); }
static ti_jj_val f_forceescape(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  v.markup = false;
  return ti_jj_escape(J, v);
}

static ti_jj_val f_indent(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (v.type != TI_JJ_STR) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unsupported operand type(s) for +=: '%s' and 'str'", ti_jj_type_name(v));
  ti_jj_str in = {"    ", 4};
  if (b[0].type == TI_JJ_STR)
    in = b[0].u.s;
  else if (ti_jj_given(b[0]))
    in = ti_jj_pad(J, (ti_jj_str){"", 0}, ti_jj_arg_int(J, b[0], 4), (ti_jj_str){" ", 1}, -1).u.s;
  bool first = ti_jj_arg_bool(J, b[1], false), blank = ti_jj_arg_bool(J, b[2], false);
  ti_jj_list *lines = ti_jj_splitlines(J, ti_jj_concat(J, v.u.s, (ti_jj_str){"\n", 1}).u.s, false);
  ti_jj_sink out = {0};
  for (size_t i = 0; i < lines->n; i++) {
    ti_jj_str line = lines->v[i].u.s;
    if (i) ti_jj_put(J, &out, "\n", 1);
    if (i ? blank || line.n : first) ti_jj_putv(J, &out, in);
    ti_jj_putv(J, &out, line);
  }
  return keep_markup(v, ti_jj_sink_val(&out));
}

static ti_jj_val f_truncate(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v), end = ti_jj_arg_str(J, b[2], "...");
  int64_t length = ti_jj_arg_int(J, b[0], 255), leeway = ti_jj_given_some(b[3]) ? ti_jj_arg_int(J, b[3], 5) : 5;
  int64_t n_end = (int64_t)ti_jj_utf8_len(end.p, end.n);
  if (length < n_end) ti_jj_raise(J, TI_ERR_FORMAT, "AssertionError: expected length >= %lld, got %lld", (long long)n_end, (long long)length);
  if (leeway < 0) ti_jj_raise(J, TI_ERR_FORMAT, "AssertionError: expected leeway >= 0, got %lld", (long long)leeway);
  int64_t n = ti_jj_length(J, ti_jj_strn(s.p, s.n));
  if (n <= length || n - length <= leeway) return ti_jj_strn(s.p, s.n);
  size_t cut = ti_jj_utf8_offset(s.p, s.n, (size_t)(length - n_end));
  if (!ti_jj_arg_bool(J, b[1], false))
    for (size_t i = cut; i > 0; i--)
      if (s.p[i - 1] == ' ') {
        cut = i - 1;
        break;
      }
  return ti_jj_concat(J, (ti_jj_str){s.p, cut}, end);
}

static ti_jj_val f_wordcount(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  int64_t n = 0;
  bool in = false;
  ti_jj_work(J, s.n);
  for (size_t i = 0; i < s.n;) {
    uint32_t c = ti_jj_utf8_next(s.p, s.n, &i);
    bool word = c == '_' || ti_jj_is_alpha(c) || ti_jj_is_digit(c);
    n += word && !in;
    in = word;
  }
  return ti_jj_int(n);
}

static ti_jj_val f_center(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  return ti_jj_pad(J, ti_jj_str_of(J, v), ti_jj_arg_int(J, b[0], 80), (ti_jj_str){" ", 1}, 0);
}

static ti_jj_val f_format(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  if (a->n && a->n_kw) ti_jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: can't handle positional and keyword arguments at the same time");
  ti_jj_val arg;
  if (a->n_kw) {
    arg = ti_jj_of_dict(TI_JJ_DICT, ti_jj_dict_new(J));
    for (size_t i = 0; i < a->n_kw; i++) ti_jj_dict_set(J, arg.u.d, a->kw[i].key, a->kw[i].value);
  } else {
    arg = ti_jj_of_list(TI_JJ_TUPLE, ti_jj_list_new(J, a->n));
    for (size_t i = 0; i < a->n; i++) ti_jj_list_push(J, arg.u.l, a->v[i]);
  }
  return ti_jj_format_percent(J, ti_jj_strn(s.p, s.n), arg);
}

static ti_jj_val f_striptags(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  ti_jj_sink out = {0};
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
    if (ti_jj_is_space(ti_jj_utf8_next(s.p, s.n, &i))) {
      gap = out.n > 0;
      continue;
    }
    if (gap) ti_jj_put(J, &out, " ", 1);
    gap = false;
    ti_jj_put(J, &out, s.p + from, i - from);
  }
  return ti_jj_sink_val(&out);
}

static ti_jj_val f_urlencode(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, v);
  ti_jj_sink out = {0};
  for (size_t i = 0; i < s.n; i++) {
    char c = s.p[i];
    if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("-_.~/", c)))
      ti_jj_put(J, &out, &c, 1);
    else
      ti_jj_printf(J, &out, "%%%02X", (unsigned char)c);
  }
  return ti_jj_sink_val(&out);
}

static ti_jj_val f_tojson(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_json_opt o = {.ascii = ti_jj_arg_bool(J, b[0], false), .sort = ti_jj_arg_bool(J, b[3], false), .item_sep = {", ", 2}, .key_sep = {": ", 2}};
  if (ti_jj_given_some(b[1])) {
    o.pretty = true;
    o.item_sep = (ti_jj_str){",", 1};
    if (b[1].type == TI_JJ_STR)
      o.indent = b[1].u.s;
    else
      o.indent = ti_jj_pad(J, (ti_jj_str){"", 0}, ti_jj_arg_int(J, b[1], 0), (ti_jj_str){" ", 1}, -1).u.s;
  }
  if (ti_jj_given_some(b[2])) {
    if (!ti_jj_is_seq(b[2]) || b[2].u.l->n != 2) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: tojson: separators must be two strings");
    o.item_sep = ti_jj_arg_str(J, b[2].u.l->v[0], "");
    o.key_sep = ti_jj_arg_str(J, b[2].u.l->v[1], "");
  }
  ti_jj_sink out = {0};
  ti_jj_json_to(J, &out, v, &o);
  return ti_jj_sink_val(&out);
}

const ti_jj_func ti_jj_filters_str[] = {
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
