// Tests: what stands behind "is".
#include "model/chat/strops.h"

#define TEST(name, expr) \
  static ti_jj_val t_##name(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return ti_jj_bool(expr); }

static ti_jj_val need_int(ti_jj_run *J, ti_jj_val v) {
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  return v;
}

static bool sameas(ti_jj_val a, ti_jj_val b) {
  if (a.type != b.type) return false;
  switch (a.type) {
    case TI_JJ_NONE:
      return true;
    case TI_JJ_BOOL:
      return a.u.b == b.u.b;
    case TI_JJ_INT:
      return a.u.i == b.u.i;
    case TI_JJ_FLOAT:
      return a.u.f == b.u.f;
    case TI_JJ_STR:
      return a.u.s.p == b.u.s.p && a.u.s.n == b.u.s.n;
    default:
      return a.u.l == b.u.l;
  }
}

static bool ordered(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const char *op) {
  int c = ti_jj_compare(J, v, b[0], op);
  return op[0] == '<' ? (op[1] ? c <= 0 : c < 0) : (op[1] ? c >= 0 : c > 0);
}

static bool is_function(ti_jj_val v) {
  return v.type == TI_JJ_FUNC || v.type == TI_JJ_METHOD || v.type == TI_JJ_MACRO || v.type == TI_JJ_LOOP || v.type == TI_JJ_JOINER ||
         v.type == TI_JJ_UNDEF;
}

static bool known(ti_jj_val v, bool filters) {
  if (v.type != TI_JJ_STR) return false;
  if (!filters) return ti_jj_find_func(ti_jj_tests, v.u.s);
  return ti_jj_find_func(ti_jj_filters_str, v.u.s) || ti_jj_find_func(ti_jj_filters_seq, v.u.s) || ti_jj_find_func(ti_jj_filters_num, v.u.s);
}

TEST(defined, v.type != TI_JJ_UNDEF)
TEST(undefined, v.type == TI_JJ_UNDEF)
TEST(none, v.type == TI_JJ_NONE)
TEST(boolean, v.type == TI_JJ_BOOL)
TEST(true, v.type == TI_JJ_BOOL && v.u.b)
TEST(false, v.type == TI_JJ_BOOL && !v.u.b)
TEST(integer, v.type == TI_JJ_INT)
TEST(float, v.type == TI_JJ_FLOAT)
TEST(number, ti_jj_is_num(v))
TEST(string, v.type == TI_JJ_STR)
TEST(mapping, v.type == TI_JJ_DICT)
TEST(sequence, v.type == TI_JJ_STR || ti_jj_is_seq(v) || v.type == TI_JJ_DICT || v.type == TI_JJ_UNDEF)
TEST(iterable, ti_jj_is_iterable(v))
TEST(callable, is_function(v))
TEST(escaped, v.type == TI_JJ_STR && v.markup)
TEST(lower, ti_jj_all_cased(J, ti_jj_str_of(J, v), false))
TEST(upper, ti_jj_all_cased(J, ti_jj_str_of(J, v), true))
TEST(odd, ti_jj_equal(J, ti_jj_binop(J, '%', need_int(J, v), ti_jj_int(2)), ti_jj_int(1)))
TEST(even, ti_jj_equal(J, ti_jj_binop(J, '%', need_int(J, v), ti_jj_int(2)), ti_jj_int(0)))
TEST(divisibleby, ti_jj_equal(J, ti_jj_binop(J, '%', need_int(J, v), b[0]), ti_jj_int(0)))
TEST(sameas, sameas(v, b[0]))
TEST(in, ti_jj_contains(J, b[0], v))
TEST(eq, ti_jj_equal(J, v, b[0]))
TEST(ne, !ti_jj_equal(J, v, b[0]))
TEST(lt, ordered(J, v, b, "<"))
TEST(le, ordered(J, v, b, "<="))
TEST(gt, ordered(J, v, b, ">"))
TEST(ge, ordered(J, v, b, ">="))
TEST(filter, known(v, true))
TEST(test, known(v, false))

const ti_jj_func ti_jj_tests[] = {
    {"defined", t_defined, ""},     {"undefined", t_undefined, ""},
    {"none", t_none, ""},           {"boolean", t_boolean, ""},
    {"true", t_true, ""},           {"false", t_false, ""},
    {"integer", t_integer, ""},     {"float", t_float, ""},
    {"number", t_number, ""},       {"string", t_string, ""},
    {"mapping", t_mapping, ""},     {"sequence", t_sequence, ""},
    {"iterable", t_iterable, ""},   {"callable", t_callable, ""},
    {"escaped", t_escaped, ""},     {"lower", t_lower, ""},
    {"upper", t_upper, ""},         {"odd", t_odd, ""},
    {"even", t_even, ""},           {"divisibleby", t_divisibleby, "!num"},
    {"sameas", t_sameas, "!other"}, {"in", t_in, "!seq"},
    {"eq", t_eq, "!other"},         {"equalto", t_eq, "!other"},
    {"==", t_eq, "!other"},         {"ne", t_ne, "!other"},
    {"!=", t_ne, "!other"},         {"lt", t_lt, "!other"},
    {"lessthan", t_lt, "!other"},   {"<", t_lt, "!other"},
    {"le", t_le, "!other"},         {"<=", t_le, "!other"},
    {"gt", t_gt, "!other"},         {"greaterthan", t_gt, "!other"},
    {">", t_gt, "!other"},          {"ge", t_ge, "!other"},
    {">=", t_ge, "!other"},         {"filter", t_filter, ""},
    {"test", t_test, ""},           {NULL, NULL, NULL},
};
