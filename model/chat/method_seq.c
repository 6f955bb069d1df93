// Methods of dicts, lists, numbers, loops and cyclers. What would change a list or a dict is refused before it gets here (access.c).
#include <math.h>
#include <string.h>

#include "model/chat/interp.h"

#define METHOD(name) static ti_jj_val m_##name(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a)

static ti_jj_val view(ti_jj_run *J, ti_jj_val self, const char *kind, bool keys, bool values) {
  const ti_jj_dict *d = self.u.d;
  ti_jj_work(J, d->n * sizeof(ti_jj_val));
  ti_jj_list *l = ti_jj_list_new(J, d->n);
  for (size_t i = 0; i < d->n; i++) {
    if (keys && values) {
      ti_jj_list *pair = ti_jj_list_new(J, 2);
      ti_jj_list_push(J, pair, d->e[i].key);
      ti_jj_list_push(J, pair, d->e[i].value);
      ti_jj_list_push(J, l, ti_jj_of_list(TI_JJ_TUPLE, pair));
    } else {
      ti_jj_list_push(J, l, keys ? d->e[i].key : d->e[i].value);
    }
  }
  l->kind = kind;
  return ti_jj_of_list(TI_JJ_VIEW, l);
}
METHOD(items) { return view(J, self, "dict_items", true, true); }
METHOD(keys) { return view(J, self, "dict_keys", true, false); }
METHOD(values) { return view(J, self, "dict_values", false, true); }

METHOD(get) {
  ti_jj_val v;
  if (!ti_jj_hashable(J, b[0])) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: '%s'", ti_jj_type_name(b[0]));
  if (ti_jj_dict_get(J, self.u.d, b[0], &v)) return v;
  return ti_jj_given(b[1]) ? b[1] : ti_jj_none();
}

METHOD(copy_dict) {
  ti_jj_dict *d = ti_jj_dict_new(J);
  for (size_t i = 0; i < self.u.d->n; i++) ti_jj_dict_set(J, d, self.u.d->e[i].key, self.u.d->e[i].value);
  return ti_jj_of_dict(TI_JJ_DICT, d);
}

METHOD(count) {
  int64_t n = 0;
  for (size_t i = 0; i < self.u.l->n; i++) n += ti_jj_equal(J, self.u.l->v[i], b[0]);
  return ti_jj_int(n);
}
METHOD(index) {
  int64_t n = (int64_t)self.u.l->n, from = ti_jj_arg_int(J, b[1], 0), to = ti_jj_arg_int(J, b[2], n);
  if (from < 0) from = from + n < 0 ? 0 : from + n;
  if (to < 0) to += n;
  for (int64_t i = from; i < to && i < n; i++)
    if (ti_jj_equal(J, self.u.l->v[i], b[0])) return ti_jj_int(i);
  ti_jj_sink s = {0};
  ti_jj_repr_to(J, &s, b[0]);
  ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: %.*s is not in list", (int)(s.n < 200 ? s.n : 200), s.p);
}
METHOD(copy_list) { return ti_jj_of_list(self.type, ti_jj_to_list(J, self)); }

METHOD(cycle) {
  if (a->n == 0) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: no items for cycling given");
  return a->v[(size_t)self.u.loop->index0 % a->n];
}
METHOD(changed) {
  ti_jj_loop *lp = self.u.loop;
  ti_jj_list *now = ti_jj_list_new(J, a->n);
  for (size_t i = 0; i < a->n; i++) ti_jj_list_push(J, now, a->v[i]);
  bool same = lp->changed && ti_jj_equal(J, ti_jj_of_list(TI_JJ_TUPLE, lp->changed), ti_jj_of_list(TI_JJ_TUPLE, now));
  if (!same) lp->changed = now;
  return ti_jj_bool(!same);
}

static ti_jj_list *cycler(ti_jj_run *J, ti_jj_val self, const char *method) {
  if (self.type != TI_JJ_CYCLER) ti_jj_raise(J, TI_ERR_FORMAT, "UndefinedError: '%s' has no attribute '%s'", ti_jj_object_name(self), method);
  return self.u.l;
}
METHOD(next) {
  ti_jj_list *l = cycler(J, self, "next");
  ti_jj_val v = l->v[l->pos];
  l->pos = (l->pos + 1) % l->n;
  return v;
}
METHOD(reset) {
  cycler(J, self, "reset")->pos = 0;
  return ti_jj_none();
}
METHOD(is_integer) {
  if (self.type == TI_JJ_CYCLER) cycler(J, (ti_jj_val){.type = TI_JJ_NONE}, "is_integer");
  double f = ti_jj_as_float(self);
  return ti_jj_bool(isfinite(f) && f == floor(f));
}

const ti_jj_func ti_jj_dict_methods[] = {
    {"items", m_items, ""},         {"keys", m_keys, ""},      {"values", m_values, ""},
    {"get", m_get, "!key default"}, {"copy", m_copy_dict, ""}, {NULL, NULL, NULL},
};
const ti_jj_func ti_jj_list_methods[] = {
    {"count", m_count, "!value"},
    {"index", m_index, "!value start stop"},
    {"copy", m_copy_list, ""},
    {NULL, NULL, NULL},
};
const ti_jj_func ti_jj_loop_methods[] = {
    {"cycle", m_cycle, NULL},
    {"changed", m_changed, NULL},
    {NULL, NULL, NULL},
};
const ti_jj_func ti_jj_misc_methods[] = {
    {"next", m_next, ""},
    {"reset", m_reset, ""},
    {"is_integer", m_is_integer, ""},
    {NULL, NULL, NULL},
};
