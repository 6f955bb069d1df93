// "%s of %d" % (a, b) and "{} of {name:>5}".format(a, name=b).
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

#define MAX_FIELD 10000  // widest field, longest precision

typedef struct spec {
  ti_jj_str fill;
  char align, sign, type;
  bool alt, comma, under, zero;
  int64_t width, precision;  // precision -1: not given
} spec;

static int64_t number_at(ti_jj_run *J, ti_jj_str s, size_t *i) {
  int64_t v = 0;
  for (; *i < s.n && s.p[*i] >= '0' && s.p[*i] <= '9'; (*i)++) {
    v = v * 10 + (s.p[*i] - '0');
    if (v > MAX_FIELD) ti_jj_raise(J, TI_ERR_RANGE, "a format width or precision above %d", MAX_FIELD);
  }
  return v;
}

// Groups the integer digits of body (which may go on with . or e) by threes.
static ti_jj_val group(ti_jj_run *J, ti_jj_str body, char sep) {
  size_t n = 0;
  while (n < body.n && body.p[n] >= '0' && body.p[n] <= '9') n++;
  ti_jj_sink out = {0};
  for (size_t i = 0; i < n; i++) {
    if (i && (n - i) % 3 == 0) ti_jj_put(J, &out, &sep, 1);
    ti_jj_put(J, &out, body.p + i, 1);
  }
  ti_jj_put(J, &out, body.p + n, body.n - n);
  return ti_jj_sink_val(&out);
}

static ti_jj_str int_digits(ti_jj_run *J, uint64_t v, char type) {
  char buf[72];
  size_t at = sizeof buf;
  unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  do {
    buf[--at] = (type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[v % base];
    v /= base;
  } while (v);
  ti_jj_sink out = {0};
  ti_jj_put(J, &out, buf + at, sizeof buf - at);
  return ti_jj_sink_val(&out).u.s;
}

static ti_jj_str float_digits(ti_jj_run *J, double f, const spec *o) {
  static const char *const forms[] = {"%.*f", "%.*F", "%.*e", "%.*E", "%.*g", "%.*G", "%#.*f", "%#.*F", "%#.*e", "%#.*E", "%#.*g", "%#.*G"};
  char type = o->type == '%' ? 'f' : o->type ? o->type : 'g';
  const char *at = strchr("fFeEgG", type);
  if (!at) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown format code '%c' for object of type 'float'", type);
  size_t room = MAX_FIELD + 400;
  char *buf = ti_jj_alloc(J, room);
  int n = snprintf(buf, room, forms[(at - "fFeEgG") % 6 + (o->alt ? 6 : 0)], (int)(o->precision < 0 ? 6 : o->precision), f);
  return (ti_jj_str){buf, n < 0 ? 0 : (size_t)n};
}

static void put_padded(ti_jj_run *J, ti_jj_sink *out, const spec *o, ti_jj_str sign, ti_jj_str body, char default_align) {
  char align = o->align ? o->align : o->zero ? '=' : default_align;
  ti_jj_str fill = o->fill.n ? o->fill : o->zero ? (ti_jj_str){"0", 1} : (ti_jj_str){" ", 1};
  if (align == '=') {
    ti_jj_putv(J, out, sign);
    ti_jj_putv(J, out, ti_jj_pad(J, body, o->width - (int64_t)sign.n, fill, 1).u.s);
    return;
  }
  ti_jj_str whole = sign.n ? ti_jj_concat(J, sign, body).u.s : body;
  int64_t n = (int64_t)ti_jj_utf8_len(whole.p, whole.n);
  if (align == '^' && o->width > n) {  // format() puts the odd one right
    ti_jj_str left = ti_jj_pad(J, whole, n + (o->width - n) / 2, fill, 1).u.s;
    ti_jj_putv(J, out, ti_jj_pad(J, left, o->width, fill, -1).u.s);
    return;
  }
  ti_jj_putv(J, out, ti_jj_pad(J, whole, o->width, fill, align == '<' ? -1 : 1).u.s);
}

// A number with its sign, prefix, digits and padding.
static void put_number(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v, const spec *o) {
  bool real = v.type == TI_JJ_FLOAT || (o->type && strchr("fFeEgG%", o->type));
  bool negative = real ? signbit(ti_jj_as_float(v)) && !isnan(ti_jj_as_float(v)) : ti_jj_as_int(v) < 0;
  ti_jj_str body;
  if (real) {
    double f = fabs(ti_jj_as_float(v));
    char buf[40];
    if (!o->type && o->precision < 0) {
      const char *r = ti_jj_float_repr(f, buf);
      ti_jj_sink s = {0};
      ti_jj_puts(J, &s, r);
      body = ti_jj_sink_val(&s).u.s;
    } else {
      body = float_digits(J, o->type == '%' ? f * 100 : f, o);
    }
    if (o->type == '%') body = ti_jj_concat(J, body, (ti_jj_str){"%", 1}).u.s;
  } else {
    int64_t i = ti_jj_as_int(v);
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
  put_padded(J, out, o, (ti_jj_str){sign, k}, body, '>');
}

static void put_text(ti_jj_run *J, ti_jj_sink *out, ti_jj_str s, const spec *o, char default_align) {
  if (o->precision >= 0) s.n = ti_jj_utf8_offset(s.p, s.n, (size_t)o->precision);
  put_padded(J, out, o, (ti_jj_str){"", 0}, s, default_align);
}

// ---- %

static ti_jj_val next_arg(ti_jj_run *J, ti_jj_val arg, size_t *used) {
  if (arg.type != TI_JJ_TUPLE) {
    if ((*used)++) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: not enough arguments for format string");
    return arg;
  }
  if (*used >= arg.u.l->n) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: not enough arguments for format string");
  return arg.u.l->v[(*used)++];
}

static void percent_field(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v, spec *o, char conv) {
  ti_jj_sink s = {0};
  switch (conv) {
    case 's':
    case 'r':
    case 'a':
      if (conv == 's')
        ti_jj_str_to(J, &s, v);
      else
        ti_jj_repr_to(J, &s, v);
      o->zero = false;
      put_text(J, out, ti_jj_sink_val(&s).u.s, o, '>');
      return;
    case 'c': {
      char u[4];
      ti_jj_str one = v.type == TI_JJ_STR ? v.u.s : (ti_jj_str){u, ti_jj_utf8_put(u, (uint32_t)ti_jj_arg_int(J, v, 0))};
      put_text(J, out, one, o, '>');
      return;
    }
    case 'd':
    case 'i':
    case 'u':
      if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
      if (!ti_jj_is_num(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %%%c format: a real number is required, not %s", conv, ti_jj_type_name(v));
      o->type = 'd';
      put_number(J, out, v.type == TI_JJ_FLOAT ? ti_jj_int(fabs(v.u.f) < 9e18 ? (int64_t)v.u.f : 0) : v, o);
      return;
    case 'x':
    case 'X':
    case 'o':
      if (!ti_jj_is_intlike(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: %%%c format: an integer is required, not %s", conv, ti_jj_type_name(v));
      o->type = conv;
      put_number(J, out, v, o);
      return;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
      if (!ti_jj_is_num(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: must be real number, not %s", ti_jj_type_name(v));
      o->type = conv;
      put_number(J, out, v, o);
      return;
    default:
      ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: unsupported format character '%c' (0x%x)", conv >= 0x20 ? conv : '?', (unsigned char)conv);
  }
}

ti_jj_val ti_jj_format_percent(ti_jj_run *J, ti_jj_val fmt, ti_jj_val arg) {
  ti_jj_str f = fmt.u.s;
  ti_jj_sink out = {0};
  size_t used = 0;
  for (size_t i = 0; i < f.n;) {
    const char *mark = memchr(f.p + i, '%', f.n - i);
    size_t k = mark ? (size_t)(mark - f.p) : f.n;
    ti_jj_put(J, &out, f.p + i, k - i);
    if (!mark) break;
    i = k + 1;
    spec o = {.precision = -1};
    ti_jj_val named = {0};
    if (i < f.n && f.p[i] == '(') {
      const char *close = memchr(f.p + i, ')', f.n - i);
      if (!close || arg.type != TI_JJ_DICT)
        ti_jj_raise(J, TI_ERR_FORMAT, close ? "TypeError: format requires a mapping" : "ValueError: incomplete format key");
      ti_jj_str key = {f.p + i + 1, (size_t)(close - f.p) - i - 1};
      if (!ti_jj_dict_gets(J, arg.u.d, key, &named)) ti_jj_raise(J, TI_ERR_FORMAT, "KeyError: '%.*s'", (int)(key.n < 200 ? key.n : 200), key.p);
      i = (size_t)(close - f.p) + 1;
    }
    for (; i < f.n && strchr("-+ 0#", f.p[i]) && f.p[i]; i++) {
      if (f.p[i] == '-') o.align = '<';
      if (f.p[i] == '+' || (f.p[i] == ' ' && !o.sign)) o.sign = f.p[i];
      if (f.p[i] == '0') o.zero = true;
      if (f.p[i] == '#') o.alt = true;
    }
    if (i < f.n && f.p[i] == '*') {
      o.width = ti_jj_arg_int(J, next_arg(J, arg, &used), 0);
      if (o.width > MAX_FIELD || o.width < -MAX_FIELD) ti_jj_raise(J, TI_ERR_RANGE, "a format width or precision above %d", MAX_FIELD);
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
    if (i >= f.n) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: incomplete format");
    char conv = f.p[i++];
    if (conv == '%')
      ti_jj_put(J, &out, "%", 1);
    else
      percent_field(J, &out, ti_jj_given(named) ? named : next_arg(J, arg, &used), &o, conv);
  }
  bool loose = arg.type == TI_JJ_TUPLE ? used < arg.u.l->n : used == 0 && arg.type != TI_JJ_DICT && arg.type != TI_JJ_LIST;
  if (loose) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: not all arguments converted during string formatting");
  ti_jj_val v = ti_jj_sink_val(&out);
  v.markup = fmt.markup;
  return v;
}

// ---- {}

static spec parse_spec(ti_jj_run *J, ti_jj_str s) {
  spec o = {.precision = -1};
  size_t i = 0, k = 0;
  if (s.n) ti_jj_utf8_next(s.p, s.n, &k);
  if (k && k < s.n && strchr("<>=^", s.p[k]) && s.p[k]) {
    o.fill = (ti_jj_str){s.p, k};
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
  if (i < s.n) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Invalid format specifier");
  return o;
}

static void format_value(ti_jj_run *J, ti_jj_sink *out, ti_jj_val v, ti_jj_str text) {
  if (text.n == 0) {
    ti_jj_str_to(J, out, v);
    return;
  }
  spec o = parse_spec(J, text);
  if (ti_jj_is_num(v) && !(v.type == TI_JJ_BOOL && !o.type)) {
    if (o.type == 'n') o.type = 0;
    if (o.type && !strchr(v.type == TI_JJ_FLOAT ? "fFeEgG%" : "bdoxXfFeEgG%", o.type))
      ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown format code '%c' for object of type '%s'", o.type, ti_jj_type_name(v));
    put_number(J, out, v, &o);
    return;
  }
  if (v.type != TI_JJ_STR && v.type != TI_JJ_BOOL)
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unsupported format string passed to %s.__format__", ti_jj_type_name(v));
  if (o.type && o.type != 's')
    ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown format code '%c' for object of type '%s'", o.type, ti_jj_type_name(v));
  put_text(J, out, ti_jj_str_of(J, v), &o, '<');
}

// "0.name[key]" of the arguments.
static ti_jj_val field_value(ti_jj_run *J, ti_jj_str f, const ti_jj_args *a, int64_t *automatic) {
  size_t n = 0;
  while (n < f.n && f.p[n] != '.' && f.p[n] != '[') n++;
  ti_jj_str head = {f.p, n};
  int64_t at;
  ti_jj_val v = {0};
  if (head.n == 0 || (ti_jj_all(J, head, ti_jj_is_digit) && ti_jj_parse_int(head, 10, &at))) {
    if (head.n == 0) at = (*automatic)++;
    if ((uint64_t)at >= a->n) ti_jj_raise(J, TI_ERR_FORMAT, "IndexError: tuple index out of range (replacement field %lld)", (long long)at);
    v = a->v[at];
  } else {
    for (size_t i = 0; i < a->n_kw; i++)
      if (a->kw[i].key.u.s.n == head.n && memcmp(a->kw[i].key.u.s.p, head.p, head.n) == 0) v = a->kw[i].value;
    if (!ti_jj_given(v)) ti_jj_raise(J, TI_ERR_FORMAT, "KeyError: '%.*s'", (int)(head.n < 200 ? head.n : 200), head.p);
  }
  while (n < f.n) {
    bool bracket = f.p[n] == '[';
    size_t from = ++n;
    while (n < f.n && (bracket ? f.p[n] != ']' : f.p[n] != '.' && f.p[n] != '[')) n++;
    ti_jj_str part = {f.p + from, n - from};
    if (part.n == 0 || (bracket && n == f.n)) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Empty attribute in format string");
    n += bracket;
    if (!bracket)
      v = ti_jj_getattr(J, v, part);
    else
      v = ti_jj_getitem(J, v, ti_jj_all(J, part, ti_jj_is_digit) && ti_jj_parse_int(part, 10, &at) ? ti_jj_int(at) : ti_jj_strn(part.p, part.n));
  }
  return v;
}

static void braces(ti_jj_run *J, ti_jj_sink *out, ti_jj_str f, const ti_jj_args *a, int64_t *automatic, int depth) {
  for (size_t i = 0; i < f.n; i++) {
    char c = f.p[i];
    if (c != '{' && c != '}') {
      ti_jj_put(J, out, &c, 1);
      continue;
    }
    if (i + 1 < f.n && f.p[i + 1] == c && depth == 0) {
      ti_jj_put(J, out, &c, 1);
      i++;
      continue;
    }
    if (c == '}') ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Single '}' encountered in format string");
    if (depth == 2) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Max string recursion exceeded");
    size_t from = ++i;
    int open = 1;
    for (; i < f.n; i++) {
      open += f.p[i] == '{' ? 1 : f.p[i] == '}' ? -1 : 0;
      if (!open) break;
    }
    if (open) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Single '{' encountered in format string");
    ti_jj_str field = {f.p + from, i - from};
    size_t n = 0;
    while (n < field.n && field.p[n] != ':' && field.p[n] != '!') n++;
    ti_jj_val v = field_value(J, (ti_jj_str){field.p, n}, a, automatic);
    if (n < field.n && field.p[n] == '!') {
      char conv = n + 1 < field.n ? field.p[n + 1] : 0;
      if (conv != 's' && conv != 'r' && conv != 'a') ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: Unknown conversion specifier");
      ti_jj_sink s = {0};
      if (conv == 's')
        ti_jj_str_to(J, &s, v);
      else
        ti_jj_repr_to(J, &s, v);
      v = ti_jj_sink_val(&s);
      n += 2;
    }
    if (n < field.n && field.p[n] != ':') ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: expected ':' after conversion specifier");
    ti_jj_sink text = {0};
    if (n < field.n) braces(J, &text, (ti_jj_str){field.p + n + 1, field.n - n - 1}, a, automatic, depth + 1);
    format_value(J, out, v, ti_jj_sink_val(&text).u.s);
  }
}

ti_jj_val ti_jj_format_braces(ti_jj_run *J, ti_jj_val fmt, const ti_jj_args *args) {
  ti_jj_sink out = {0};
  int64_t automatic = 0;
  braces(J, &out, fmt.u.s, args, &automatic, 0);
  return ti_jj_sink_val(&out);
}
