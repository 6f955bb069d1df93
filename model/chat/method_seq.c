// Methods of dicts, lists, numbers, loops and cyclers. What would change a list or a dict is refused before it gets here (access.c).
#include <math.h>
#include <string.h>

#include "model/chat/interp.h"

#define METHOD(name) static jj_val m_##name(jj_run *J, jj_val self, jj_val *b, const jj_args *a)

static jj_val view(jj_run *J, jj_val self, const char *kind, bool keys, bool values) {
  const jj_dict *d = self.u.d;
  jj_work(J, d->n * sizeof(jj_val));
  jj_list *l = jj_list_new(J, d->n);
  for (size_t i = 0; i < d->n; i++) {
    if (keys && values) {
      jj_list *pair = jj_list_new(J, 2);
      jj_list_push(J, pair, d->e[i].key);
      jj_list_push(J, pair, d->e[i].value);
      jj_list_push(J, l, jj_of_list(JJ_TUPLE, pair));
    } else {
      jj_list_push(J, l, keys ? d->e[i].key : d->e[i].value);
    }
  }
  l->kind = kind;
  return jj_of_list(JJ_VIEW, l);
}
METHOD(items) { return view(J, self, "dict_items", true, true); }
METHOD(keys) { return view(J, self, "dict_keys", true, false); }
METHOD(values) { return view(J, self, "dict_values", false, true); }

METHOD(get) {
  jj_val v;
  if (!jj_hashable(J, b[0])) jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: '%s'", jj_type_name(b[0]));
  if (jj_dict_get(J, self.u.d, b[0], &v)) return v;
  return jj_given(b[1]) ? b[1] : jj_none();
}

METHOD(copy_dict) {
  jj_dict *d = jj_dict_new(J);
  for (size_t i = 0; i < self.u.d->n; i++) jj_dict_set(J, d, self.u.d->e[i].key, self.u.d->e[i].value);
  return jj_of_dict(JJ_DICT, d);
}

METHOD(count) {
  int64_t n = 0;
  for (size_t i = 0; i < self.u.l->n; i++) n += jj_equal(J, self.u.l->v[i], b[0]);
  return jj_int(n);
}
METHOD(index) {
  int64_t n = (int64_t)self.u.l->n, from = jj_arg_int(J, b[1], 0), to = jj_arg_int(J, b[2], n);
  if (from < 0) from = from + n < 0 ? 0 : from + n;
  if (to < 0) to += n;
  for (int64_t i = from; i < to && i < n; i++)
    if (jj_equal(J, self.u.l->v[i], b[0])) return jj_int(i);
  jj_sink s = {0};
  jj_repr_to(J, &s, b[0]);
  jj_raise(J, TI_ERR_FORMAT, "ValueError: %.*s is not in list", (int)(s.n < 200 ? s.n : 200), s.p);
}
METHOD(copy_list) { return jj_of_list(self.type, jj_to_list(J, self)); }

METHOD(cycle) {
  if (a->n == 0) jj_raise(J, TI_ERR_FORMAT, "TypeError: no items for cycling given");
  return a->v[(size_t)self.u.loop->index0 % a->n];
}
METHOD(changed) {
  jj_loop *lp = self.u.loop;
  jj_list *now = jj_list_new(J, a->n);
  for (size_t i = 0; i < a->n; i++) jj_list_push(J, now, a->v[i]);
  bool same = lp->changed && jj_equal(J, jj_of_list(JJ_TUPLE, lp->changed), jj_of_list(JJ_TUPLE, now));
  if (!same) lp->changed = now;
  return jj_bool(!same);
}

static jj_list *cycler(jj_run *J, jj_val self, const char *method) {
  if (self.type != JJ_CYCLER) jj_raise(J, TI_ERR_FORMAT, "UndefinedError: '%s' has no attribute '%s'", jj_object_name(self), method);
  return self.u.l;
}
METHOD(next) {
  jj_list *l = cycler(J, self, "next");
  jj_val v = l->v[l->pos];
  l->pos = (l->pos + 1) % l->n;
  return v;
}
METHOD(reset) {
  cycler(J, self, "reset")->pos = 0;
  return jj_none();
}
METHOD(is_integer) {
  if (self.type == JJ_CYCLER) cycler(J, (jj_val){.type = JJ_NONE}, "is_integer");
  double f = jj_as_float(self);
  return jj_bool(isfinite(f) && f == floor(f));
}

const jj_func jj_dict_methods[] = {
    {"items", m_items, ""},         {"keys", m_keys, ""},      {"values", m_values, ""},
    {"get", m_get, "!key default"}, {"copy", m_copy_dict, ""}, {NULL, NULL, NULL},
};
const jj_func jj_list_methods[] = {
    {"count", m_count, "!value"},
    {"index", m_index, "!value start stop"},
    {"copy", m_copy_list, ""},
    {NULL, NULL, NULL},
};
const jj_func jj_loop_methods[] = {
    {"cycle", m_cycle, NULL},
    {"changed", m_changed, NULL},
    {NULL, NULL, NULL},
};
const jj_func jj_misc_methods[] = {
    {"next", m_next, ""},
    {"reset", m_reset, ""},
    {"is_integer", m_is_integer, ""},
    {NULL, NULL, NULL},
};
