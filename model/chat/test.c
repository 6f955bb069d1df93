// Tests: what stands behind "is".
#include "model/chat/strops.h"

#define TEST(name, expr) \
  static jj_val t_##name(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return jj_bool(expr); }

static jj_val need_int(jj_run *J, jj_val v) {
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  return v;
}

static bool sameas(jj_val a, jj_val b) {
  if (a.type != b.type) return false;
  switch (a.type) {
    case JJ_NONE:
      return true;
    case JJ_BOOL:
      return a.u.b == b.u.b;
    case JJ_INT:
      return a.u.i == b.u.i;
    case JJ_FLOAT:
      return a.u.f == b.u.f;
    case JJ_STR:
      return a.u.s.p == b.u.s.p && a.u.s.n == b.u.s.n;
    default:
      return a.u.l == b.u.l;
  }
}

static bool ordered(jj_run *J, jj_val v, jj_val *b, const char *op) {
  int c = jj_compare(J, v, b[0], op);
  return op[0] == '<' ? (op[1] ? c <= 0 : c < 0) : (op[1] ? c >= 0 : c > 0);
}

static bool is_function(jj_val v) {
  return v.type == JJ_FUNC || v.type == JJ_METHOD || v.type == JJ_MACRO || v.type == JJ_LOOP || v.type == JJ_JOINER || v.type == JJ_UNDEF;
}

static bool known(jj_val v, bool filters) {
  if (v.type != JJ_STR) return false;
  if (!filters) return jj_find_func(jj_tests, v.u.s);
  return jj_find_func(jj_filters_str, v.u.s) || jj_find_func(jj_filters_seq, v.u.s) || jj_find_func(jj_filters_num, v.u.s);
}

TEST(defined, v.type != JJ_UNDEF)
TEST(undefined, v.type == JJ_UNDEF)
TEST(none, v.type == JJ_NONE)
TEST(boolean, v.type == JJ_BOOL)
TEST(true, v.type == JJ_BOOL && v.u.b)
TEST(false, v.type == JJ_BOOL && !v.u.b)
TEST(integer, v.type == JJ_INT)
TEST(float, v.type == JJ_FLOAT)
TEST(number, jj_is_num(v))
TEST(string, v.type == JJ_STR)
TEST(mapping, v.type == JJ_DICT)
TEST(sequence, v.type == JJ_STR || jj_is_seq(v) || v.type == JJ_DICT || v.type == JJ_UNDEF)
TEST(iterable, jj_is_iterable(v))
TEST(callable, is_function(v))
TEST(escaped, v.type == JJ_STR && v.markup)
TEST(lower, jj_all_cased(J, jj_str_of(J, v), false))
TEST(upper, jj_all_cased(J, jj_str_of(J, v), true))
TEST(odd, jj_equal(J, jj_binop(J, '%', need_int(J, v), jj_int(2)), jj_int(1)))
TEST(even, jj_equal(J, jj_binop(J, '%', need_int(J, v), jj_int(2)), jj_int(0)))
TEST(divisibleby, jj_equal(J, jj_binop(J, '%', need_int(J, v), b[0]), jj_int(0)))
TEST(sameas, sameas(v, b[0]))
TEST(in, jj_contains(J, b[0], v))
TEST(eq, jj_equal(J, v, b[0]))
TEST(ne, !jj_equal(J, v, b[0]))
TEST(lt, ordered(J, v, b, "<"))
TEST(le, ordered(J, v, b, "<="))
TEST(gt, ordered(J, v, b, ">"))
TEST(ge, ordered(J, v, b, ">="))
TEST(filter, known(v, true))
TEST(test, known(v, false))

const jj_func jj_tests[] = {
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
