// Operators on values, iteration, sorting: Python's semantics (floor division, exact integers up to 64 bits, sequences that add and repeat).
#include <math.h>
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

ti_jj_val ti_jj_concat(ti_jj_run *J, ti_jj_str a, ti_jj_str b) {
  ti_jj_work(J, b.n);
  if (a.n == 0) return ti_jj_strn(b.p, b.n);
  if (b.n == 0) return ti_jj_strn(a.p, a.n);
  if (a.p + a.n == J->tail && b.n <= J->tail_room) {  // a is the newest string and has room behind it
    memcpy(J->tail, b.p, b.n);
    J->tail += b.n;
    J->tail_room -= b.n;
    return ti_jj_strn(a.p, a.n + b.n);
  }
  ti_jj_work(J, a.n);
  size_t n = a.n + b.n, room = n >= 256 ? n / 2 : 0;
  char *p = ti_jj_alloc(J, n + room);
  memcpy(p, a.p, a.n);
  memcpy(p + a.n, b.p, b.n);
  J->tail = p + n;
  J->tail_room = room;
  return ti_jj_strn(p, n);
}

ti_jj_val ti_jj_escape(ti_jj_run *J, ti_jj_val v) {
  if (v.type == TI_JJ_STR && v.markup) return v;
  ti_jj_str s = ti_jj_str_of(J, v);
  ti_jj_sink out = {0};
  size_t from = 0;
  for (size_t i = 0; i < s.n; i++) {
    const char *e = s.p[i] == '&'    ? "&amp;"
                    : s.p[i] == '<'  ? "&lt;"
                    : s.p[i] == '>'  ? "&gt;"
                    : s.p[i] == '"'  ? "&#34;"
                    : s.p[i] == '\'' ? "&#39;"
                                     : NULL;
    if (!e) continue;
    ti_jj_put(J, &out, s.p + from, i - from);
    ti_jj_puts(J, &out, e);
    from = i + 1;
  }
  ti_jj_put(J, &out, s.p + from, s.n - from);
  v = ti_jj_sink_val(&out);
  v.markup = true;
  return v;
}

static _Noreturn void overflow(ti_jj_run *J) { ti_jj_raise(J, TI_ERR_FORMAT, "OverflowError: an integer beyond 64 bits"); }

static int64_t floor_div(int64_t a, int64_t b) {
  int64_t q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

static int64_t int_pow(ti_jj_run *J, int64_t a, int64_t b) {
  int64_t r = 1;
  while (b > 0) {
    if ((b & 1) && __builtin_mul_overflow(r, a, &r)) overflow(J);
    b >>= 1;
    if (b && __builtin_mul_overflow(a, a, &a)) overflow(J);
  }
  return r;
}

static ti_jj_val int_op(ti_jj_run *J, char op, int64_t a, int64_t b) {
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
      if (b == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: division by zero");
      return ti_jj_float((double)a / (double)b);
    case 'f':
    case '%':
      if (b == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: %s", op == 'f' ? "integer division or modulo by zero" : "integer modulo by zero");
      if (b == -1) {  // INT64_MIN / -1 traps
        over = op == 'f' && __builtin_sub_overflow((int64_t)0, a, &r);
        break;
      }
      r = op == 'f' ? floor_div(a, b) : a - floor_div(a, b) * b;
      break;
    default:
      if (b < 0) {
        if (a == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: 0.0 cannot be raised to a negative power");
        return ti_jj_float(pow((double)a, (double)b));
      }
      r = int_pow(J, a, b);
      break;
  }
  if (over) overflow(J);
  return ti_jj_int(r);
}

static ti_jj_val float_op(ti_jj_run *J, char op, double a, double b) {
  switch (op) {
    case '+':
      return ti_jj_float(a + b);
    case '-':
      return ti_jj_float(a - b);
    case '*':
      return ti_jj_float(a * b);
    case 'p':
      return ti_jj_float(pow(a, b));
    default:
      break;
  }
  if (b == 0)
    ti_jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: %s",
                op == '/'   ? "float division by zero"
                : op == 'f' ? "float floor division by zero"
                            : "float modulo");
  if (op == '/') return ti_jj_float(a / b);
  double m = fmod(a, b);
  if (m != 0 && (m < 0) != (b < 0)) m += b;
  return ti_jj_float(op == '%' ? m : floor((a - m) / b + 0.5));
}

static ti_jj_val repeat(ti_jj_run *J, ti_jj_val seq, int64_t times) {
  if (times < 0) times = 0;
  size_t n = seq.type == TI_JJ_STR ? seq.u.s.n : seq.u.l->n, total;
  if (__builtin_mul_overflow(n, (size_t)times, &total) || total > J->lim.memory_bytes)
    ti_jj_raise(J, TI_ERR_FULL, "more than %zu bytes of intermediate values", J->lim.memory_bytes);
  if (seq.type == TI_JJ_STR) {
    ti_jj_work(J, total);
    char *p = ti_jj_alloc(J, total);
    if (n == 1) memset(p, seq.u.s.p[0], total);
    for (int64_t i = 0; n > 1 && i < times; i++) memcpy(p + (size_t)i * n, seq.u.s.p, n);
    ti_jj_val v = ti_jj_strn(p, total);
    v.markup = seq.markup;
    return v;
  }
  ti_jj_work(J, total * sizeof(ti_jj_val));
  ti_jj_list *l = ti_jj_list_new(J, total);
  for (size_t i = 0; i < total; i++) ti_jj_list_push(J, l, seq.u.l->v[i % n]);
  return ti_jj_of_list(seq.type, l);
}

static ti_jj_val add_lists(ti_jj_run *J, ti_jj_val a, ti_jj_val b) {
  ti_jj_work(J, (a.u.l->n + b.u.l->n) * sizeof(ti_jj_val));
  ti_jj_list *l = ti_jj_list_new(J, a.u.l->n + b.u.l->n);
  for (size_t i = 0; i < a.u.l->n; i++) ti_jj_list_push(J, l, a.u.l->v[i]);
  for (size_t i = 0; i < b.u.l->n; i++) ti_jj_list_push(J, l, b.u.l->v[i]);
  return ti_jj_of_list(a.type, l);
}

ti_jj_val ti_jj_binop(ti_jj_run *J, char op, ti_jj_val a, ti_jj_val b) {
  if (op == '%' && a.type == TI_JJ_STR) return ti_jj_format_percent(J, a, b);
  if (a.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, a.u.u);
  if (b.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, b.u.u);
  if (ti_jj_is_num(a) && ti_jj_is_num(b)) {
    if (a.type == TI_JJ_FLOAT || b.type == TI_JJ_FLOAT) return float_op(J, op, ti_jj_as_float(a), ti_jj_as_float(b));
    return int_op(J, op, ti_jj_as_int(a), ti_jj_as_int(b));
  }
  if (op == '+' && a.type == TI_JJ_STR && b.type == TI_JJ_STR) {
    bool markup = a.markup || b.markup;
    if (markup) a = ti_jj_escape(J, a);
    if (markup) b = ti_jj_escape(J, b);
    ti_jj_val v = ti_jj_concat(J, a.u.s, b.u.s);
    v.markup = markup;
    return v;
  }
  if (op == '+' && a.type == b.type && (a.type == TI_JJ_LIST || a.type == TI_JJ_TUPLE)) return add_lists(J, a, b);
  bool seq_a = a.type == TI_JJ_STR || a.type == TI_JJ_LIST || a.type == TI_JJ_TUPLE,
       seq_b = b.type == TI_JJ_STR || b.type == TI_JJ_LIST || b.type == TI_JJ_TUPLE;
  if (op == '*' && seq_a && ti_jj_is_intlike(b)) return repeat(J, a, ti_jj_as_int(b));
  if (op == '*' && seq_b && ti_jj_is_intlike(a)) return repeat(J, b, ti_jj_as_int(a));
  if (op == '+' && a.type == TI_JJ_STR) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: can only concatenate str (not \"%s\") to str", ti_jj_type_name(b));
  if (op == '+' && (a.type == TI_JJ_LIST || a.type == TI_JJ_TUPLE))
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: can only concatenate %s (not \"%s\") to %s", ti_jj_type_name(a), ti_jj_type_name(b),
                ti_jj_type_name(a));
  ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unsupported operand type(s) for %s: '%s' and '%s'",
              op == 'f'   ? "//"
              : op == 'p' ? "** or pow()"
                          : (const char[2]){op, 0},
              ti_jj_type_name(a), ti_jj_type_name(b));
}

ti_jj_val ti_jj_negate(ti_jj_run *J, ti_jj_val a, bool minus) {
  if (a.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, a.u.u);
  if (a.type == TI_JJ_FLOAT) return ti_jj_float(minus ? -a.u.f : a.u.f);
  if (!ti_jj_is_intlike(a)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: bad operand type for unary %s: '%s'", minus ? "-" : "+", ti_jj_type_name(a));
  int64_t r = ti_jj_as_int(a);
  if (minus && __builtin_sub_overflow((int64_t)0, r, &r)) overflow(J);
  return ti_jj_int(r);
}

bool ti_jj_is_iterable(ti_jj_val v) {
  return v.type == TI_JJ_UNDEF || v.type == TI_JJ_STR || ti_jj_is_seq(v) || v.type == TI_JJ_DICT || v.type == TI_JJ_VIEW || v.type == TI_JJ_GEN ||
         v.type == TI_JJ_LOOP;
}

ti_jj_iter ti_jj_iterate(ti_jj_run *J, ti_jj_val v) {
  if (!ti_jj_is_iterable(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not iterable", ti_jj_type_name(v));
  return (ti_jj_iter){.src = v};
}

bool ti_jj_next(ti_jj_run *J, ti_jj_iter *it, ti_jj_val *out) {
  ti_jj_val s = it->src;
  ti_jj_work(J, 0);
  switch (s.type) {
    case TI_JJ_STR: {
      if (it->i >= s.u.s.n) return false;
      size_t from = it->i;
      ti_jj_utf8_next(s.u.s.p, s.u.s.n, &it->i);
      *out = ti_jj_strn(s.u.s.p + from, it->i - from);
      return true;
    }
    case TI_JJ_DICT:
      if (it->i >= s.u.d->n) return false;
      *out = s.u.d->e[it->i++].key;
      return true;
    case TI_JJ_GEN:  // its position is its own: whoever iterates next goes on from here
      if (s.u.l->pos >= s.u.l->n) return false;
      *out = s.u.l->v[s.u.l->pos++];
      return true;
    case TI_JJ_LIST:
    case TI_JJ_TUPLE:
    case TI_JJ_RANGE:
    case TI_JJ_VIEW:
      if (it->i >= s.u.l->n) return false;
      *out = s.u.l->v[it->i++];
      return true;
    default:
      return false;
  }
}

ti_jj_list *ti_jj_to_list(ti_jj_run *J, ti_jj_val v) {
  ti_jj_list *l = ti_jj_list_new(J, ti_jj_is_seq(v) ? v.u.l->n : 0);
  ti_jj_val x;
  for (ti_jj_iter it = ti_jj_iterate(J, v); ti_jj_next(J, &it, &x);) ti_jj_list_push(J, l, x);
  return l;
}

int64_t ti_jj_length(ti_jj_run *J, ti_jj_val v) {
  switch (v.type) {
    case TI_JJ_UNDEF:
      return 0;
    case TI_JJ_STR:
      ti_jj_work(J, v.u.s.n);
      return (int64_t)ti_jj_utf8_len(v.u.s.p, v.u.s.n);
    case TI_JJ_LIST:
    case TI_JJ_TUPLE:
    case TI_JJ_RANGE:
    case TI_JJ_VIEW:
      return (int64_t)v.u.l->n;
    case TI_JJ_DICT:
      return (int64_t)v.u.d->n;
    case TI_JJ_LOOP:
      return ti_jj_loop_length(J, v.u.loop);
    default:
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: object of type '%s' has no len()", ti_jj_type_name(v));
  }
}

// Bottom-up merge sort of the permutation: stable, O(n log n) comparisons whatever the input.
void ti_jj_sort(ti_jj_run *J, ti_jj_val *v, ti_jj_val *keys, size_t n, bool reverse) {
  size_t *a = ti_jj_calloc(J, n, sizeof *a), *b = ti_jj_calloc(J, n, sizeof *b);
  for (size_t i = 0; i < n; i++) a[i] = i;
  for (size_t width = 1; width < n; width *= 2) {
    for (size_t lo = 0; lo < n; lo += 2 * width) {
      size_t mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n, i = lo, j = mid;
      for (size_t k = lo; k < hi; k++) {
        bool left = i < mid;
        if (left && j < hi) {
          // equal keys keep their order in both directions
          int c = ti_jj_compare(J, keys[a[j]], keys[a[i]], "<");
          left = reverse ? c <= 0 : c >= 0;
        }
        b[k] = left ? a[i++] : a[j++];
      }
    }
    size_t *t = a;
    a = b;
    b = t;
  }
  ti_jj_val *sorted = ti_jj_calloc(J, n, sizeof *sorted);
  for (size_t i = 0; i < n; i++) sorted[i] = v[a[i]];
  if (n) memcpy(v, sorted, n * sizeof *v);
}
