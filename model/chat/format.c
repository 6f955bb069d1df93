// "%s of %d" % (a, b) and "{} of {name:>5}".format(a, name=b).
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

#define MAX_FIELD 10000  // widest field, longest precision

typedef struct spec {
  jj_str fill;
  char align, sign, type;
  bool alt, comma, under, zero;
  int64_t width, precision;  // precision -1: not given
} spec;

static int64_t number_at(jj_run *J, jj_str s, size_t *i) {
  int64_t v = 0;
  for (; *i < s.n && s.p[*i] >= '0' && s.p[*i] <= '9'; (*i)++) {
    v = v * 10 + (s.p[*i] - '0');
    if (v > MAX_FIELD) jj_raise(J, TI_ERR_RANGE, "a format width or precision above %d", MAX_FIELD);
  }
  return v;
}

// Groups the integer digits of body (which may go on with . or e) by threes.
static jj_val group(jj_run *J, jj_str body, char sep) {
  size_t n = 0;
  while (n < body.n && body.p[n] >= '0' && body.p[n] <= '9') n++;
  jj_sink out = {0};
  for (size_t i = 0; i < n; i++) {
    if (i && (n - i) % 3 == 0) jj_put(J, &out, &sep, 1);
    jj_put(J, &out, body.p + i, 1);
  }
  jj_put(J, &out, body.p + n, body.n - n);
  return jj_sink_val(&out);
}

static jj_str int_digits(jj_run *J, uint64_t v, char type) {
  char buf[72];
  size_t at = sizeof buf;
  unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  do {
    buf[--at] = (type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[v % base];
    v /= base;
  } while (v);
  jj_sink out = {0};
  jj_put(J, &out, buf + at, sizeof buf - at);
  return jj_sink_val(&out).u.s;
}

static jj_str float_digits(jj_run *J, double f, const spec *o) {
  static const char *const forms[] = {"%.*f", "%.*F", "%.*e", "%.*E", "%.*g", "%.*G", "%#.*f", "%#.*F", "%#.*e", "%#.*E", "%#.*g", "%#.*G"};
  char type = o->type == '%' ? 'f' : o->type ? o->type : 'g';
  const char *at = strchr("fFeEgG", type);
  if (!at) jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown format code '%c' for object of type 'float'", type);
  size_t room = MAX_FIELD + 400;
  char *buf = jj_alloc(J, room);
  int n = snprintf(buf, room, forms[(at - "fFeEgG") % 6 + (o->alt ? 6 : 0)], (int)(o->precision < 0 ? 6 : o->precision), f);
  return (jj_str){buf, n < 0 ? 0 : (size_t)n};
}

static void put_padded(jj_run *J, jj_sink *out, const spec *o, jj_str sign, jj_str body, char default_align) {
  char align = o->align ? o->align : o->zero ? '=' : default_align;
  jj_str fill = o->fill.n ? o->fill : o->zero ? (jj_str){"0", 1} : (jj_str){" ", 1};
  if (align == '=') {
    jj_putv(J, out, sign);
    jj_putv(J, out, jj_pad(J, body, o->width - (int64_t)sign.n, fill, 1).u.s);
    return;
  }
  jj_str whole = sign.n ? jj_concat(J, sign, body).u.s : body;
  int64_t n = (int64_t)jj_utf8_len(whole.p, whole.n);
  if (align == '^' && o->width > n) {  // format() puts the odd one right
    jj_str left = jj_pad(J, whole, n + (o->width - n) / 2, fill, 1).u.s;
    jj_putv(J, out, jj_pad(J, left, o->width, fill, -1).u.s);
    return;
  }
  jj_putv(J, out, jj_pad(J, whole, o->width, fill, align == '<' ? -1 : 1).u.s);
}

// A number with its sign, prefix, digits and padding.
static void put_number(jj_run *J, jj_sink *out, jj_val v, const spec *o) {
  bool real = v.type == JJ_FLOAT || (o->type && strchr("fFeEgG%", o->type));
  bool negative = real ? signbit(jj_as_float(v)) && !isnan(jj_as_float(v)) : jj_as_int(v) < 0;
  jj_str body;
  if (real) {
    double f = fabs(jj_as_float(v));
    char buf[40];
    if (!o->type && o->precision < 0) {
      const char *r = jj_float_repr(f, buf);
      jj_sink s = {0};
      jj_puts(J, &s, r);
      body = jj_sink_val(&s).u.s;
    } else {
      body = float_digits(J, o->type == '%' ? f * 100 : f, o);
    }
    if (o->type == '%') body = jj_concat(J, body, (jj_str){"%", 1}).u.s;
  } else {
    int64_t i = jj_as_int(v);
    body = int_digits(J, i < 0 ? 0 - (uint64_t)i : (uint64_t)i, o->type);
  }
  if (o->comma || o->under) body = group(J, body, o->comma ? ',' : '_').u.s;
  char sign[4];
  size_t k = 0;
  if (negative || o->sign == '+' || o->sign == ' ') sign[k++] = negative ? '-' : o->sign;
  if (!real && o->alt && o->type && strchr("xXob", o->type)) {
    sign[k++] = '0';
    sign[k++] = o->type;
  }
  put_padded(J, out, o, (jj_str){sign, k}, body, '>');
}

static void put_text(jj_run *J, jj_sink *out, jj_str s, const spec *o, char default_align) {
  if (o->precision >= 0) s.n = jj_utf8_offset(s.p, s.n, (size_t)o->precision);
  put_padded(J, out, o, (jj_str){"", 0}, s, default_align);
}

// ---- %

static jj_val next_arg(jj_run *J, jj_val arg, size_t *used) {
  if (arg.type != JJ_TUPLE) {
    if ((*used)++) jj_raise(J, TI_ERR_FORMAT, "TypeError: not enough arguments for format string");
    return arg;
  }
  if (*used >= arg.u.l->n) jj_raise(J, TI_ERR_FORMAT, "TypeError: not enough arguments for format string");
  return arg.u.l->v[(*used)++];
}

static void percent_field(jj_run *J, jj_sink *out, jj_val v, spec *o, char conv) {
  jj_sink s = {0};
  switch (conv) {
    case 's':
    case 'r':
    case 'a':
      if (conv == 's')
        jj_str_to(J, &s, v);
      else
        jj_repr_to(J, &s, v);
      o->zero = false;
      put_text(J, out, jj_sink_val(&s).u.s, o, '>');
      return;
    case 'c': {
      char u[4];
      jj_str one = v.type == JJ_STR ? v.u.s : (jj_str){u, jj_utf8_put(u, (uint32_t)jj_arg_int(J, v, 0))};
      put_text(J, out, one, o, '>');
      return;
    }
    case 'd':
    case 'i':
    case 'u':
      if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
      if (!jj_is_num(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: %%%c format: a real number is required, not %s", conv, jj_type_name(v));
      o->type = 'd';
      put_number(J, out, v.type == JJ_FLOAT ? jj_int(fabs(v.u.f) < 9e18 ? (int64_t)v.u.f : 0) : v, o);
      return;
    case 'x':
    case 'X':
    case 'o':
      if (!jj_is_intlike(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: %%%c format: an integer is required, not %s", conv, jj_type_name(v));
      o->type = conv;
      put_number(J, out, v, o);
      return;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
      if (!jj_is_num(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: must be real number, not %s", jj_type_name(v));
      o->type = conv;
      put_number(J, out, v, o);
      return;
    default:
      jj_raise(J, TI_ERR_FORMAT, "ValueError: unsupported format character '%c' (0x%x)", conv >= 0x20 ? conv : '?', (unsigned char)conv);
  }
}

jj_val jj_format_percent(jj_run *J, jj_val fmt, jj_val arg) {
  jj_str f = fmt.u.s;
  jj_sink out = {0};
  size_t used = 0;
  for (size_t i = 0; i < f.n;) {
    const char *mark = memchr(f.p + i, '%', f.n - i);
    size_t k = mark ? (size_t)(mark - f.p) : f.n;
    jj_put(J, &out, f.p + i, k - i);
    if (!mark) break;
    i = k + 1;
    spec o = {.precision = -1};
    jj_val named = {0};
    if (i < f.n && f.p[i] == '(') {
      const char *close = memchr(f.p + i, ')', f.n - i);
      if (!close || arg.type != JJ_DICT)
        jj_raise(J, TI_ERR_FORMAT, close ? "TypeError: format requires a mapping" : "ValueError: incomplete format key");
      jj_str key = {f.p + i + 1, (size_t)(close - f.p) - i - 1};
      if (!jj_dict_gets(J, arg.u.d, key, &named)) jj_raise(J, TI_ERR_FORMAT, "KeyError: '%.*s'", (int)(key.n < 200 ? key.n : 200), key.p);
      i = (size_t)(close - f.p) + 1;
    }
    for (; i < f.n && strchr("-+ 0#", f.p[i]) && f.p[i]; i++) {
      if (f.p[i] == '-') o.align = '<';
      if (f.p[i] == '+' || (f.p[i] == ' ' && !o.sign)) o.sign = f.p[i];
      if (f.p[i] == '0') o.zero = true;
      if (f.p[i] == '#') o.alt = true;
    }
    if (i < f.n && f.p[i] == '*') {
      o.width = jj_arg_int(J, next_arg(J, arg, &used), 0);
      if (o.width > MAX_FIELD || o.width < -MAX_FIELD) jj_raise(J, TI_ERR_RANGE, "a format width or precision above %d", MAX_FIELD);
      if (o.width < 0) {
        o.align = '<';
        o.width = -o.width;
      }
      i++;
    } else {
      o.width = number_at(J, f, &i);
    }
    if (i < f.n && f.p[i] == '.') {
      i++;
      o.precision = number_at(J, f, &i);
    }
    if (o.align) o.zero = false;
    if (i >= f.n) jj_raise(J, TI_ERR_FORMAT, "ValueError: incomplete format");
    char conv = f.p[i++];
    if (conv == '%')
      jj_put(J, &out, "%", 1);
    else
      percent_field(J, &out, jj_given(named) ? named : next_arg(J, arg, &used), &o, conv);
  }
  bool loose = arg.type == JJ_TUPLE ? used < arg.u.l->n : used == 0 && arg.type != JJ_DICT && arg.type != JJ_LIST;
  if (loose) jj_raise(J, TI_ERR_FORMAT, "TypeError: not all arguments converted during string formatting");
  jj_val v = jj_sink_val(&out);
  v.markup = fmt.markup;
  return v;
}

// ---- {}

static spec parse_spec(jj_run *J, jj_str s) {
  spec o = {.precision = -1};
  size_t i = 0, k = 0;
  if (s.n) jj_utf8_next(s.p, s.n, &k);
  if (k && k < s.n && strchr("<>=^", s.p[k]) && s.p[k]) {
    o.fill = (jj_str){s.p, k};
    o.align = s.p[k];
    i = k + 1;
  } else if (s.n && strchr("<>=^", s.p[0]) && s.p[0]) {
    o.align = s.p[i++];
  }
  if (i < s.n && strchr("+- ", s.p[i]) && s.p[i]) o.sign = s.p[i++];
  if (i < s.n && s.p[i] == '#') o.alt = s.p[i++];
  if (i < s.n && s.p[i] == '0') o.zero = s.p[i++];
  o.width = number_at(J, s, &i);
  if (i < s.n && s.p[i] == ',') o.comma = s.p[i++];
  if (i < s.n && s.p[i] == '_') o.under = s.p[i++];
  if (i < s.n && s.p[i] == '.') {
    i++;
    o.precision = number_at(J, s, &i);
  }
  if (i < s.n) o.type = s.p[i++];
  if (i < s.n) jj_raise(J, TI_ERR_FORMAT, "ValueError: Invalid format specifier");
  return o;
}

static void format_value(jj_run *J, jj_sink *out, jj_val v, jj_str text) {
  if (text.n == 0) {
    jj_str_to(J, out, v);
    return;
  }
  spec o = parse_spec(J, text);
  if (jj_is_num(v) && !(v.type == JJ_BOOL && !o.type)) {
    if (o.type == 'n') o.type = 0;
    if (o.type && !strchr(v.type == JJ_FLOAT ? "fFeEgG%" : "bdoxXfFeEgG%", o.type))
      jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown format code '%c' for object of type '%s'", o.type, jj_type_name(v));
    put_number(J, out, v, &o);
    return;
  }
  if (v.type != JJ_STR && v.type != JJ_BOOL)
    jj_raise(J, TI_ERR_FORMAT, "TypeError: unsupported format string passed to %s.__format__", jj_type_name(v));
  if (o.type && o.type != 's') jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown format code '%c' for object of type '%s'", o.type, jj_type_name(v));
  put_text(J, out, jj_str_of(J, v), &o, '<');
}

// "0.name[key]" of the arguments.
static jj_val field_value(jj_run *J, jj_str f, const jj_args *a, int64_t *automatic) {
  size_t n = 0;
  while (n < f.n && f.p[n] != '.' && f.p[n] != '[') n++;
  jj_str head = {f.p, n};
  int64_t at;
  jj_val v = {0};
  if (head.n == 0 || (jj_all(J, head, jj_is_digit) && jj_parse_int(head, 10, &at))) {
    if (head.n == 0) at = (*automatic)++;
    if ((uint64_t)at >= a->n) jj_raise(J, TI_ERR_FORMAT, "IndexError: tuple index out of range (replacement field %lld)", (long long)at);
    v = a->v[at];
  } else {
    for (size_t i = 0; i < a->n_kw; i++)
      if (a->kw[i].key.u.s.n == head.n && memcmp(a->kw[i].key.u.s.p, head.p, head.n) == 0) v = a->kw[i].value;
    if (!jj_given(v)) jj_raise(J, TI_ERR_FORMAT, "KeyError: '%.*s'", (int)(head.n < 200 ? head.n : 200), head.p);
  }
  while (n < f.n) {
    bool bracket = f.p[n] == '[';
    size_t from = ++n;
    while (n < f.n && (bracket ? f.p[n] != ']' : f.p[n] != '.' && f.p[n] != '[')) n++;
    jj_str part = {f.p + from, n - from};
    if (part.n == 0 || (bracket && n == f.n)) jj_raise(J, TI_ERR_FORMAT, "ValueError: Empty attribute in format string");
    n += bracket;
    if (!bracket)
      v = jj_getattr(J, v, part);
    else
      v = jj_getitem(J, v, jj_all(J, part, jj_is_digit) && jj_parse_int(part, 10, &at) ? jj_int(at) : jj_strn(part.p, part.n));
  }
  return v;
}

static void braces(jj_run *J, jj_sink *out, jj_str f, const jj_args *a, int64_t *automatic, int depth) {
  for (size_t i = 0; i < f.n; i++) {
    char c = f.p[i];
    if (c != '{' && c != '}') {
      jj_put(J, out, &c, 1);
      continue;
    }
    if (i + 1 < f.n && f.p[i + 1] == c && depth == 0) {
      jj_put(J, out, &c, 1);
      i++;
      continue;
    }
    if (c == '}') jj_raise(J, TI_ERR_FORMAT, "ValueError: Single '}' encountered in format string");
    if (depth == 2) jj_raise(J, TI_ERR_FORMAT, "ValueError: Max string recursion exceeded");
    size_t from = ++i;
    int open = 1;
    for (; i < f.n; i++) {
      open += f.p[i] == '{' ? 1 : f.p[i] == '}' ? -1 : 0;
      if (!open) break;
    }
    if (open) jj_raise(J, TI_ERR_FORMAT, "ValueError: Single '{' encountered in format string");
    jj_str field = {f.p + from, i - from};
    size_t n = 0;
    while (n < field.n && field.p[n] != ':' && field.p[n] != '!') n++;
    jj_val v = field_value(J, (jj_str){field.p, n}, a, automatic);
    if (n < field.n && field.p[n] == '!') {
      char conv = n + 1 < field.n ? field.p[n + 1] : 0;
      if (conv != 's' && conv != 'r' && conv != 'a') jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown conversion specifier");
      jj_sink s = {0};
      if (conv == 's')
        jj_str_to(J, &s, v);
      else
        jj_repr_to(J, &s, v);
      v = jj_sink_val(&s);
      n += 2;
    }
    if (n < field.n && field.p[n] != ':') jj_raise(J, TI_ERR_FORMAT, "ValueError: expected ':' after conversion specifier");
    jj_sink text = {0};
    if (n < field.n) braces(J, &text, (jj_str){field.p + n + 1, field.n - n - 1}, a, automatic, depth + 1);
    format_value(J, out, v, jj_sink_val(&text).u.s);
  }
}

jj_val jj_format_braces(jj_run *J, jj_val fmt, const jj_args *args) {
  jj_sink out = {0};
  int64_t automatic = 0;
  braces(J, &out, fmt.u.s, args, &automatic, 0);
  return jj_sink_val(&out);
}
