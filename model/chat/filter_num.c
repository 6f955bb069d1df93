// Filters on numbers and on any value: int, float, abs, round, default, attr.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/chat/interp.h"

static bool float_to_int(double f, int64_t *out) {
  if (!(f > -9.3e18 && f < 9.3e18) || f >= 9223372036854775808.0 || f < -9223372036854775808.0) return false;
  *out = (int64_t)f;
  return true;
}

static jj_val f_int(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_val otherwise = jj_given(b[0]) ? b[0] : jj_int(0);
  int64_t i, base = jj_arg_int(J, b[1], 10);
  double f;
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (jj_is_intlike(v)) return jj_int(jj_as_int(v));
  if (v.type == JJ_FLOAT) return float_to_int(v.u.f, &i) ? jj_int(i) : otherwise;
  if (v.type != JJ_STR) return otherwise;
  if ((base == 0 || (base >= 2 && base <= 36)) && jj_parse_int(v.u.s, (int)base, &i)) return jj_int(i);
  return jj_parse_float(v.u.s, &f) && float_to_int(f, &i) ? jj_int(i) : otherwise;
}

static jj_val f_float(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  double f;
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (jj_is_num(v)) return jj_float(jj_as_float(v));
  if (v.type == JJ_STR && jj_parse_float(v.u.s, &f)) return jj_float(f);
  return jj_given(b[0]) ? b[0] : jj_float(0);
}

static jj_val f_abs(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (!jj_is_num(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: bad operand type for abs(): '%s'", jj_type_name(v));
  if (v.type == JJ_FLOAT) return jj_float(fabs(v.u.f));
  return jj_as_int(v) < 0 ? jj_negate(J, v, true) : jj_int(jj_as_int(v));
}

// Correctly rounded decimal, ties to even, as Python's round(): through the printed form.
static double round_decimal(double f, int digits) {
  char buf[400];
  if (digits > 40) return f;
  if (digits >= 0) {
    snprintf(buf, sizeof buf, "%.*f", digits, f);
    return strtod(buf, NULL);
  }
  double scale = pow(10, -digits);
  return isinf(scale) ? 0 : nearbyint(f / scale) * scale;
}

static jj_val f_round(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  int64_t precision = jj_arg_int(J, b[0], 0);
  jj_str method = jj_arg_str(J, b[1], "common");
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (!jj_is_num(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: type %s doesn't define __round__ method", jj_type_name(v));
  if (precision > 400) precision = 400;
  if (precision < -400) precision = -400;
  double f = jj_as_float(v);
  if (jj_str_is(method, "common")) {
    if (jj_is_intlike(v) && precision >= 0) return jj_int(jj_as_int(v));
    if (!isfinite(f)) return jj_float(f);
    double r = round_decimal(f, (int)precision);
    int64_t i;
    return jj_is_intlike(v) && float_to_int(r, &i) ? jj_int(i) : jj_float(r);
  }
  bool up = jj_str_is(method, "ceil");
  if (!up && !jj_str_is(method, "floor")) jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: method must be common, ceil or floor");
  double scale = pow(10, (double)precision);
  return jj_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
}

static jj_val f_default(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  bool take = v.type == JJ_UNDEF || (jj_arg_bool(J, b[1], false) && !jj_truth(J, v));
  return !take ? v : jj_given(b[0]) ? b[0] : jj_lit("");
}

static jj_val f_attr(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str name = jj_arg_str(J, b[0], "");
  if (v.type == JJ_DICT) {  // attributes only, never items
    jj_val none = jj_of_dict(JJ_DICT, jj_dict_new(J));
    return jj_getattr(J, none, name);
  }
  return jj_getattr(J, v, name);
}

const jj_func jj_filters_num[] = {
    {"int", f_int, "default base"},
    {"float", f_float, "default"},
    {"abs", f_abs, ""},
    {"round", f_round, "precision method"},
    {"default", f_default, "default_value boolean"},
    {"d", f_default, "default_value boolean"},
    {"attr", f_attr, "!name"},
    {NULL, NULL, NULL},
};
