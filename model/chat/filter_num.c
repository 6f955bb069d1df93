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

static ti_jj_val f_int(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_val otherwise = ti_jj_given(b[0]) ? b[0] : ti_jj_int(0);
  int64_t i, base = ti_jj_arg_int(J, b[1], 10);
  double f;
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (ti_jj_is_intlike(v)) return ti_jj_int(ti_jj_as_int(v));
  if (v.type == TI_JJ_FLOAT) return float_to_int(v.u.f, &i) ? ti_jj_int(i) : otherwise;
  if (v.type != TI_JJ_STR) return otherwise;
  if ((base == 0 || (base >= 2 && base <= 36)) && ti_jj_parse_int(v.u.s, (int)base, &i)) return ti_jj_int(i);
  return ti_jj_parse_float(v.u.s, &f) && float_to_int(f, &i) ? ti_jj_int(i) : otherwise;
}

static ti_jj_val f_float(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  double f;
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (ti_jj_is_num(v)) return ti_jj_float(ti_jj_as_float(v));
  if (v.type == TI_JJ_STR && ti_jj_parse_float(v.u.s, &f)) return ti_jj_float(f);
  return ti_jj_given(b[0]) ? b[0] : ti_jj_float(0);
}

static ti_jj_val f_abs(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (!ti_jj_is_num(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: bad operand type for abs(): '%s'", ti_jj_type_name(v));
  if (v.type == TI_JJ_FLOAT) return ti_jj_float(fabs(v.u.f));
  return ti_jj_as_int(v) < 0 ? ti_jj_negate(J, v, true) : ti_jj_int(ti_jj_as_int(v));
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

static ti_jj_val f_round(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  int64_t precision = ti_jj_arg_int(J, b[0], 0);
  ti_jj_str method = ti_jj_arg_str(J, b[1], "common");
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (!ti_jj_is_num(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: type %s doesn't define __round__ method", ti_jj_type_name(v));
  if (precision > 400) precision = 400;
  if (precision < -400) precision = -400;
  double f = ti_jj_as_float(v);
  if (ti_jj_str_is(method, "common")) {
    if (ti_jj_is_intlike(v) && precision >= 0) return ti_jj_int(ti_jj_as_int(v));
    if (!isfinite(f)) return ti_jj_float(f);
    double r = round_decimal(f, (int)precision);
    int64_t i;
    return ti_jj_is_intlike(v) && float_to_int(r, &i) ? ti_jj_int(i) : ti_jj_float(r);
  }
  bool up = ti_jj_str_is(method, "ceil");
  if (!up && !ti_jj_str_is(method, "floor")) ti_jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: method must be common, ceil or floor");
  double scale = pow(10, (double)precision);
  return ti_jj_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
}

static ti_jj_val f_default(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  bool take = v.type == TI_JJ_UNDEF || (ti_jj_arg_bool(J, b[1], false) && !ti_jj_truth(J, v));
  return !take ? v : ti_jj_given(b[0]) ? b[0] : ti_jj_lit("");
}

static ti_jj_val f_attr(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str name = ti_jj_arg_str(J, b[0], "");
  if (v.type == TI_JJ_DICT) {  // attributes only, never items
    ti_jj_val none = ti_jj_of_dict(TI_JJ_DICT, ti_jj_dict_new(J));
    return ti_jj_getattr(J, none, name);
  }
  return ti_jj_getattr(J, v, name);
}

const ti_jj_func ti_jj_filters_num[] = {
    {"int", f_int, "default base"},
    {"float", f_float, "default"},
    {"abs", f_abs, ""},
    {"round", f_round, "precision method"},
    {"default", f_default, "default_value boolean"},
    {"d", f_default, "default_value boolean"},
    {"attr", f_attr, "!name"},
    {NULL, NULL, NULL},
};
