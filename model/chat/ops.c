// Operators on values, iteration, sorting: Python's semantics (floor division, exact integers up to 64 bits, sequences that add and repeat).
#include <math.h>
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

jj_val jj_concat(jj_run *J, jj_str a, jj_str b) {
  jj_work(J, a.n + b.n);
  if (a.n == 0) return jj_strn(b.p, b.n);
  if (b.n == 0) return jj_strn(a.p, a.n);
  if (a.p + a.n == J->tail && b.n <= J->tail_room) {  // a is the newest string and has room behind it
    memcpy(J->tail, b.p, b.n);
    J->tail += b.n;
    J->tail_room -= b.n;
    return jj_strn(a.p, a.n + b.n);
  }
  size_t n = a.n + b.n, room = n >= 256 ? n / 2 : 0;
  char *p = jj_alloc(J, n + room);
  memcpy(p, a.p, a.n);
  memcpy(p + a.n, b.p, b.n);
  J->tail = p + n;
  J->tail_room = room;
  return jj_strn(p, n);
}

jj_val jj_escape(jj_run *J, jj_val v) {
  if (v.type == JJ_STR && v.markup) return v;
  jj_str s = jj_str_of(J, v);
  jj_sink out = {0};
  size_t from = 0;
  for (size_t i = 0; i < s.n; i++) {
    const char *e = s.p[i] == '&'    ? "&amp;"
                    : s.p[i] == '<'  ? "&lt;"
                    : s.p[i] == '>'  ? "&gt;"
                    : s.p[i] == '"'  ? "&#34;"
                    : s.p[i] == '\'' ? "&#39;"
                                     : NULL;
    if (!e) continue;
    jj_put(J, &out, s.p + from, i - from);
    jj_puts(J, &out, e);
    from = i + 1;
  }
  jj_put(J, &out, s.p + from, s.n - from);
  v = jj_sink_val(&out);
  v.markup = true;
  return v;
}

static _Noreturn void overflow(jj_run *J) { jj_raise(J, TI_ERR_FORMAT, "OverflowError: an integer beyond 64 bits"); }

static int64_t floor_div(int64_t a, int64_t b) {
  int64_t q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

static int64_t int_pow(jj_run *J, int64_t a, int64_t b) {
  int64_t r = 1;
  while (b > 0) {
    if ((b & 1) && __builtin_mul_overflow(r, a, &r)) overflow(J);
    b >>= 1;
    if (b && __builtin_mul_overflow(a, a, &a)) overflow(J);
  }
  return r;
}

static jj_val int_op(jj_run *J, char op, int64_t a, int64_t b) {
  int64_t r = 0;
  bool over = false;
  switch (op) {
    case '+':
      over = __builtin_add_overflow(a, b, &r);
      break;
    case '-':
      over = __builtin_sub_overflow(a, b, &r);
      break;
    case '*':
      over = __builtin_mul_overflow(a, b, &r);
      break;
    case '/':
      if (b == 0) jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: division by zero");
      return jj_float((double)a / (double)b);
    case 'f':
    case '%':
      if (b == 0) jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: %s", op == 'f' ? "integer division or modulo by zero" : "integer modulo by zero");
      if (b == -1) {  // INT64_MIN / -1 traps
        over = op == 'f' && __builtin_sub_overflow((int64_t)0, a, &r);
        break;
      }
      r = op == 'f' ? floor_div(a, b) : a - floor_div(a, b) * b;
      break;
    default:
      if (b < 0) {
        if (a == 0) jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: 0.0 cannot be raised to a negative power");
        return jj_float(pow((double)a, (double)b));
      }
      r = int_pow(J, a, b);
      break;
  }
  if (over) overflow(J);
  return jj_int(r);
}

static jj_val float_op(jj_run *J, char op, double a, double b) {
  switch (op) {
    case '+':
      return jj_float(a + b);
    case '-':
      return jj_float(a - b);
    case '*':
      return jj_float(a * b);
    case 'p':
      return jj_float(pow(a, b));
    default:
      break;
  }
  if (b == 0)
    jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: %s",
             op == '/'   ? "float division by zero"
             : op == 'f' ? "float floor division by zero"
                         : "float modulo");
  if (op == '/') return jj_float(a / b);
  double m = fmod(a, b);
  if (m != 0 && (m < 0) != (b < 0)) m += b;
  return jj_float(op == '%' ? m : floor((a - m) / b + 0.5));
}

static jj_val repeat(jj_run *J, jj_val seq, int64_t times) {
  if (times < 0) times = 0;
  size_t n = seq.type == JJ_STR ? seq.u.s.n : seq.u.l->n, total;
  if (__builtin_mul_overflow(n, (size_t)times, &total) || total > J->lim.memory_bytes)
    jj_raise(J, TI_ERR_FULL, "more than %zu bytes of intermediate values", J->lim.memory_bytes);
  if (seq.type == JJ_STR) {
    jj_work(J, total);
    char *p = jj_alloc(J, total);
    if (n == 1) memset(p, seq.u.s.p[0], total);
    for (int64_t i = 0; n > 1 && i < times; i++) memcpy(p + (size_t)i * n, seq.u.s.p, n);
    jj_val v = jj_strn(p, total);
    v.markup = seq.markup;
    return v;
  }
  jj_work(J, total * sizeof(jj_val));
  jj_list *l = jj_list_new(J, total);
  for (size_t i = 0; i < total; i++) jj_list_push(J, l, seq.u.l->v[i % n]);
  return jj_of_list(seq.type, l);
}

static jj_val add_lists(jj_run *J, jj_val a, jj_val b) {
  jj_work(J, (a.u.l->n + b.u.l->n) * sizeof(jj_val));
  jj_list *l = jj_list_new(J, a.u.l->n + b.u.l->n);
  for (size_t i = 0; i < a.u.l->n; i++) jj_list_push(J, l, a.u.l->v[i]);
  for (size_t i = 0; i < b.u.l->n; i++) jj_list_push(J, l, b.u.l->v[i]);
  return jj_of_list(a.type, l);
}

jj_val jj_binop(jj_run *J, char op, jj_val a, jj_val b) {
  if (op == '%' && a.type == JJ_STR) return jj_format_percent(J, a, b);
  if (a.type == JJ_UNDEF) jj_raise_undef(J, a.u.u);
  if (b.type == JJ_UNDEF) jj_raise_undef(J, b.u.u);
  if (jj_is_num(a) && jj_is_num(b)) {
    if (a.type == JJ_FLOAT || b.type == JJ_FLOAT) return float_op(J, op, jj_as_float(a), jj_as_float(b));
    return int_op(J, op, jj_as_int(a), jj_as_int(b));
  }
  if (op == '+' && a.type == JJ_STR && b.type == JJ_STR) {
    bool markup = a.markup || b.markup;
    if (markup) a = jj_escape(J, a);
    if (markup) b = jj_escape(J, b);
    jj_val v = jj_concat(J, a.u.s, b.u.s);
    v.markup = markup;
    return v;
  }
  if (op == '+' && a.type == b.type && (a.type == JJ_LIST || a.type == JJ_TUPLE)) return add_lists(J, a, b);
  bool seq_a = a.type == JJ_STR || a.type == JJ_LIST || a.type == JJ_TUPLE, seq_b = b.type == JJ_STR || b.type == JJ_LIST || b.type == JJ_TUPLE;
  if (op == '*' && seq_a && jj_is_intlike(b)) return repeat(J, a, jj_as_int(b));
  if (op == '*' && seq_b && jj_is_intlike(a)) return repeat(J, b, jj_as_int(a));
  if (op == '+' && a.type == JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: can only concatenate str (not \"%s\") to str", jj_type_name(b));
  if (op == '+' && (a.type == JJ_LIST || a.type == JJ_TUPLE))
    jj_raise(J, TI_ERR_FORMAT, "TypeError: can only concatenate %s (not \"%s\") to %s", jj_type_name(a), jj_type_name(b), jj_type_name(a));
  jj_raise(J, TI_ERR_FORMAT, "TypeError: unsupported operand type(s) for %s: '%s' and '%s'",
           op == 'f'   ? "//"
           : op == 'p' ? "** or pow()"
                       : (const char[2]){op, 0},
           jj_type_name(a), jj_type_name(b));
}

jj_val jj_negate(jj_run *J, jj_val a, bool minus) {
  if (a.type == JJ_UNDEF) jj_raise_undef(J, a.u.u);
  if (a.type == JJ_FLOAT) return jj_float(minus ? -a.u.f : a.u.f);
  if (!jj_is_intlike(a)) jj_raise(J, TI_ERR_FORMAT, "TypeError: bad operand type for unary %s: '%s'", minus ? "-" : "+", jj_type_name(a));
  int64_t r = jj_as_int(a);
  if (minus && __builtin_sub_overflow((int64_t)0, r, &r)) overflow(J);
  return jj_int(r);
}

bool jj_is_iterable(jj_val v) {
  return v.type == JJ_UNDEF || v.type == JJ_STR || jj_is_seq(v) || v.type == JJ_DICT || v.type == JJ_VIEW || v.type == JJ_GEN || v.type == JJ_LOOP;
}

jj_iter jj_iterate(jj_run *J, jj_val v) {
  if (!jj_is_iterable(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not iterable", jj_type_name(v));
  return (jj_iter){.src = v};
}

bool jj_next(jj_run *J, jj_iter *it, jj_val *out) {
  jj_val s = it->src;
  jj_work(J, 0);
  switch (s.type) {
    case JJ_STR: {
      if (it->i >= s.u.s.n) return false;
      size_t from = it->i;
      jj_utf8_next(s.u.s.p, s.u.s.n, &it->i);
      *out = jj_strn(s.u.s.p + from, it->i - from);
      return true;
    }
    case JJ_DICT:
      if (it->i >= s.u.d->n) return false;
      *out = s.u.d->e[it->i++].key;
      return true;
    case JJ_GEN:  // its position is its own: whoever iterates next goes on from here
      if (s.u.l->pos >= s.u.l->n) return false;
      *out = s.u.l->v[s.u.l->pos++];
      return true;
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_RANGE:
    case JJ_VIEW:
      if (it->i >= s.u.l->n) return false;
      *out = s.u.l->v[it->i++];
      return true;
    default:
      return false;
  }
}

jj_list *jj_to_list(jj_run *J, jj_val v) {
  jj_list *l = jj_list_new(J, jj_is_seq(v) ? v.u.l->n : 0);
  jj_val x;
  for (jj_iter it = jj_iterate(J, v); jj_next(J, &it, &x);) jj_list_push(J, l, x);
  return l;
}

int64_t jj_length(jj_run *J, jj_val v) {
  switch (v.type) {
    case JJ_UNDEF:
      return 0;
    case JJ_STR:
      jj_work(J, v.u.s.n);
      return (int64_t)jj_utf8_len(v.u.s.p, v.u.s.n);
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_RANGE:
    case JJ_VIEW:
      return (int64_t)v.u.l->n;
    case JJ_DICT:
      return (int64_t)v.u.d->n;
    case JJ_LOOP:
      return jj_loop_length(J, v.u.loop);
    default:
      jj_raise(J, TI_ERR_FORMAT, "TypeError: object of type '%s' has no len()", jj_type_name(v));
  }
}

// Bottom-up merge sort of the permutation: stable, O(n log n) comparisons whatever the input.
void jj_sort(jj_run *J, jj_val *v, jj_val *keys, size_t n, bool reverse) {
  size_t *a = jj_calloc(J, n, sizeof *a), *b = jj_calloc(J, n, sizeof *b);
  for (size_t i = 0; i < n; i++) a[i] = i;
  for (size_t width = 1; width < n; width *= 2) {
    for (size_t lo = 0; lo < n; lo += 2 * width) {
      size_t mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n, i = lo, j = mid;
      for (size_t k = lo; k < hi; k++) {
        bool left = i < mid;
        if (left && j < hi) {
          // equal keys keep their order in both directions
          int c = jj_compare(J, keys[a[j]], keys[a[i]], "<");
          left = reverse ? c <= 0 : c >= 0;
        }
        b[k] = left ? a[i++] : a[j++];
      }
    }
    size_t *t = a;
    a = b;
    b = t;
  }
  jj_val *sorted = jj_calloc(J, n, sizeof *sorted);
  for (size_t i = 0; i < n; i++) sorted[i] = v[a[i]];
  if (n) memcpy(v, sorted, n * sizeof *v);
}
