// x.name, x[key], x[a:b:c]: jinja2's lookup order (attribute first for x.name, item first for x["name"]), its undefined values, and the sandbox.
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

ti_jj_val ti_jj_undefined(ti_jj_run *J, ti_jj_undef u) {
  ti_jj_undef *p = ti_jj_alloc(J, sizeof *p);
  *p = u;
  return (ti_jj_val){.type = TI_JJ_UNDEF, .u.u = p};
}

ti_jj_val ti_jj_hint(ti_jj_run *J, const char *text) { return ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_HINT, .name = {text, strlen(text)}}); }

_Noreturn void ti_jj_raise_undef(ti_jj_run *J, const ti_jj_undef *u) {
  int n = (int)(u->name.n < 200 ? u->name.n : 200);
  const char *p = u->name.p;
  switch (u->why) {
    case TI_JJ_U_NAME:
      ti_jj_raise(J, TI_ERR_FORMAT, "UndefinedError: '%.*s' is undefined", n, p);
    case TI_JJ_U_ATTR:
      ti_jj_raise(J, TI_ERR_FORMAT, "UndefinedError: '%s' has no attribute '%.*s'", u->obj_type, n, p);
    case TI_JJ_U_ELEMENT: {
      ti_jj_sink s = {0};
      ti_jj_repr_to(J, &s, u->element);
      ti_jj_raise(J, TI_ERR_FORMAT, "UndefinedError: %s has no element %.*s", u->obj_type, (int)(s.n < 200 ? s.n : 200), s.p);
    }
    case TI_JJ_U_UNSAFE: {
      const char *end = strstr(u->obj_type, " object");
      ti_jj_raise(J, TI_ERR_FORMAT, "SecurityError: access to attribute '%.*s' of '%.*s' object is unsafe.", n, p,
                  end ? (int)(end - u->obj_type) : (int)strlen(u->obj_type), u->obj_type);
    }
    case TI_JJ_U_PARAM:
      ti_jj_raise(J, TI_ERR_FORMAT, "UndefinedError: parameter '%.*s' was not provided", n, p);
    default:
      ti_jj_raise(J, TI_ERR_FORMAT, "UndefinedError: %.*s", n, p);
  }
}

static bool one_of(ti_jj_str s, const char *const *names) {
  for (; *names; names++)
    if (ti_jj_str_is(s, *names)) return true;
  return false;
}

// What the immutable sandbox refuses.
static bool unsafe(ti_jj_val obj, ti_jj_str name) {
  static const char *const list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
  static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
  static const char *const dunder[] = {"__class__", "__init__", "__doc__",  "__dict__", "__len__",    "__getitem__",      "__str__",
                                       "__repr__",  "__eq__",   "__hash__", "__new__",  "__reduce__", "__subclasshook__", NULL};
  if (obj.type == TI_JJ_LIST && one_of(name, list)) return true;
  if (obj.type == TI_JJ_DICT && one_of(name, dict)) return true;
  return name.n > 4 && name.p[0] == '_' && one_of(name, dunder);
}

static const ti_jj_func *method(ti_jj_val obj, ti_jj_str name) {
  switch (obj.type) {
    case TI_JJ_STR:
      return ti_jj_find_func(ti_jj_str_methods, name);
    case TI_JJ_LIST:
    case TI_JJ_TUPLE:
    case TI_JJ_RANGE:
      return ti_jj_find_func(ti_jj_list_methods, name);
    case TI_JJ_DICT:
      return ti_jj_find_func(ti_jj_dict_methods, name);
    case TI_JJ_LOOP:
      return ti_jj_find_func(ti_jj_loop_methods, name);
    case TI_JJ_INT:
    case TI_JJ_FLOAT:
    case TI_JJ_CYCLER:
      return ti_jj_find_func(ti_jj_misc_methods, name);
    default:
      return NULL;
  }
}

static ti_jj_val loop_attr(ti_jj_run *J, ti_jj_loop *lp, ti_jj_str name) {
  if (ti_jj_str_is(name, "index")) return ti_jj_int(lp->index0 + 1);
  if (ti_jj_str_is(name, "index0")) return ti_jj_int(lp->index0);
  if (ti_jj_str_is(name, "first")) return ti_jj_bool(lp->index0 == 0);
  if (ti_jj_str_is(name, "last")) return ti_jj_bool(!ti_jj_loop_peek(J, lp));
  if (ti_jj_str_is(name, "length")) return ti_jj_int(ti_jj_loop_length(J, lp));
  if (ti_jj_str_is(name, "revindex")) return ti_jj_int(ti_jj_loop_length(J, lp) - lp->index0);
  if (ti_jj_str_is(name, "revindex0")) return ti_jj_int(ti_jj_loop_length(J, lp) - lp->index0 - 1);
  if (ti_jj_str_is(name, "depth")) return ti_jj_int(lp->depth0 + 1);
  if (ti_jj_str_is(name, "depth0")) return ti_jj_int(lp->depth0);
  if (ti_jj_str_is(name, "previtem")) return lp->index0 ? lp->prev : ti_jj_hint(J, "there is no previous item");
  if (ti_jj_str_is(name, "nextitem")) return ti_jj_loop_peek(J, lp) ? lp->next : ti_jj_hint(J, "there is no next item");
  return (ti_jj_val){0};
}

// A real attribute of the object, or TI_JJ_MISSING.
static ti_jj_val attribute(ti_jj_run *J, ti_jj_val obj, ti_jj_str name) {
  ti_jj_val v = {0};
  if (unsafe(obj, name)) return ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_UNSAFE, .name = name, .obj_type = ti_jj_object_name(obj)});
  const ti_jj_func *f = method(obj, name);
  if (f) {
    ti_jj_bound *b = ti_jj_alloc(J, sizeof *b);
    *b = (ti_jj_bound){obj, f};
    return (ti_jj_val){.type = TI_JJ_METHOD, .u.bound = b};
  }
  if (obj.type == TI_JJ_LOOP) return loop_attr(J, obj.u.loop, name);
  if (obj.type == TI_JJ_NS) ti_jj_dict_gets(J, obj.u.d, name, &v);
  if (obj.type == TI_JJ_TUPLE && obj.u.l->kind && obj.u.l->n == 2) {  // groupby's pairs
    if (ti_jj_str_is(name, "grouper")) return obj.u.l->v[0];
    if (ti_jj_str_is(name, "list")) return obj.u.l->v[1];
  }
  if (obj.type == TI_JJ_CYCLER && ti_jj_str_is(name, "current")) return obj.u.l->v[obj.u.l->pos];
  if (obj.type == TI_JJ_MACRO) {
    const ti_jj_node *m = obj.u.m->node;
    if (ti_jj_str_is(name, "name")) return obj.u.m->is_caller ? ti_jj_none() : ti_jj_strn(m->name.p, m->name.n);
    if (ti_jj_str_is(name, "catch_kwargs")) return ti_jj_bool(m->flags & TI_JJ_F_KWARGS);
    if (ti_jj_str_is(name, "catch_varargs")) return ti_jj_bool(m->flags & TI_JJ_F_VARARGS);
    if (ti_jj_str_is(name, "caller")) return ti_jj_bool(m->flags & TI_JJ_F_CALLER);
    if (ti_jj_str_is(name, "arguments")) {
      ti_jj_list *l = ti_jj_list_new(J, m->n);
      for (uint32_t i = 0; i < m->n; i++) ti_jj_list_push(J, l, ti_jj_strn(m->list[i]->name.p, m->list[i]->name.n));
      return ti_jj_of_list(TI_JJ_TUPLE, l);
    }
  }
  return v;
}

// An item of the object, or TI_JJ_MISSING.
static ti_jj_val item(ti_jj_run *J, ti_jj_val obj, ti_jj_val key) {
  ti_jj_val v = {0};
  if (obj.type == TI_JJ_DICT) {
    ti_jj_dict_get(J, obj.u.d, key, &v);
  } else if (ti_jj_is_seq(obj) && ti_jj_is_intlike(key)) {
    int64_t n = (int64_t)obj.u.l->n, i = ti_jj_as_int(key);
    if (i < 0) i += n;
    if (i >= 0 && i < n) v = obj.u.l->v[i];
  } else if (obj.type == TI_JJ_STR && ti_jj_is_intlike(key)) {
    ti_jj_str s = obj.u.s;
    ti_jj_work(J, s.n);
    int64_t i = ti_jj_as_int(key);
    if (i < 0) i += (int64_t)ti_jj_utf8_len(s.p, s.n);
    if (i < 0 || (uint64_t)i >= s.n) return v;
    size_t at = ti_jj_utf8_offset(s.p, s.n, (size_t)i), end = at;
    if (at >= s.n) return v;
    ti_jj_utf8_next(s.p, s.n, &end);
    v = ti_jj_strn(s.p + at, end - at);
  }
  return v;
}

ti_jj_val ti_jj_getattr(ti_jj_run *J, ti_jj_val obj, ti_jj_str name) {
  if (obj.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, obj.u.u);
  ti_jj_val v = attribute(J, obj, name);
  if (v.type == TI_JJ_MISSING && obj.type == TI_JJ_DICT) ti_jj_dict_gets(J, obj.u.d, name, &v);
  return v.type != TI_JJ_MISSING ? v : ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_ATTR, .name = name, .obj_type = ti_jj_object_name(obj)});
}

ti_jj_val ti_jj_getitem(ti_jj_run *J, ti_jj_val obj, ti_jj_val key) {
  if (obj.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, obj.u.u);
  ti_jj_val v = item(J, obj, key);
  if (v.type != TI_JJ_MISSING) return v;
  if (key.type != TI_JJ_STR) return ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_ELEMENT, .element = key, .obj_type = ti_jj_object_name(obj)});
  v = attribute(J, obj, key.u.s);
  return v.type != TI_JJ_MISSING ? v : ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_ATTR, .name = key.u.s, .obj_type = ti_jj_object_name(obj)});
}

static int64_t slice_index(ti_jj_run *J, ti_jj_val v, int64_t n, int64_t step, bool start) {
  int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? n : n - 1;
  if (v.type == TI_JJ_NONE) return (step > 0) == start ? lo : hi;  // towards the end that the step comes from, or goes to
  if (v.type == TI_JJ_UNDEF || !ti_jj_is_intlike(v))
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: slice indices must be integers or None or have an __index__ method");
  int64_t i = ti_jj_as_int(v);
  if (i < 0) i += n;
  return i < lo ? lo : i > hi ? hi : i;
}

static ti_jj_val slice_str(ti_jj_run *J, ti_jj_val obj, int64_t from, int64_t to, int64_t step, int64_t count) {
  ti_jj_str s = obj.u.s;
  if (count <= 0) return ti_jj_lit("");
  bool ascii = (int64_t)s.n == (int64_t)ti_jj_utf8_len(s.p, s.n);
  if (step == 1) {
    size_t a = ascii ? (size_t)from : ti_jj_utf8_offset(s.p, s.n, (size_t)from);
    size_t b = ascii ? (size_t)to : a + ti_jj_utf8_offset(s.p + a, s.n - a, (size_t)(to - from));
    ti_jj_val v = ti_jj_strn(s.p + a, b - a);
    v.markup = obj.markup;
    return v;
  }
  // other steps go through an array of code point offsets
  size_t n_cp = ti_jj_utf8_len(s.p, s.n), k = 0;
  size_t *at = ti_jj_calloc(J, n_cp + 1, sizeof *at);
  for (size_t i = 0; i < s.n; k++) {
    at[k] = i;
    ti_jj_utf8_next(s.p, s.n, &i);
  }
  at[n_cp] = s.n;
  ti_jj_sink out = {0};
  for (int64_t i = from; count > 0; count--, i += step) ti_jj_put(J, &out, s.p + at[i], at[i + 1] - at[i]);
  ti_jj_val v = ti_jj_sink_val(&out);
  v.markup = obj.markup;
  return v;
}

ti_jj_val ti_jj_slice(ti_jj_run *J, ti_jj_val obj, ti_jj_val vfrom, ti_jj_val vto, ti_jj_val vstep) {
  if (obj.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, obj.u.u);
  if (obj.type != TI_JJ_STR && !ti_jj_is_seq(obj)) {
    if (obj.type == TI_JJ_DICT) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: 'slice'");
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not subscriptable", ti_jj_type_name(obj));
  }
  int64_t step = 1;
  if (vstep.type != TI_JJ_NONE) {
    if (!ti_jj_is_intlike(vstep)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: slice indices must be integers or None or have an __index__ method");
    step = ti_jj_as_int(vstep);
    if (step == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: slice step cannot be zero");
    if (step > INT32_MAX) step = INT32_MAX;
    if (step < -INT32_MAX) step = -INT32_MAX;
  }
  int64_t n = ti_jj_length(J, obj);
  int64_t from = slice_index(J, vfrom, n, step, true), to = slice_index(J, vto, n, step, false);
  int64_t count = step > 0 ? (to - from + step - 1) / step : (from - to - step - 1) / -step;
  if (count < 0) count = 0;
  ti_jj_work(J, obj.type == TI_JJ_STR ? obj.u.s.n : (size_t)count * sizeof(ti_jj_val));
  if (obj.type == TI_JJ_STR) return slice_str(J, obj, from, to, step, count);
  ti_jj_list *l = ti_jj_list_new(J, (size_t)count);
  for (int64_t i = from; count > 0; count--, i += step) ti_jj_list_push(J, l, obj.u.l->v[i]);
  if (obj.type == TI_JJ_RANGE) {
    l->start = obj.u.l->start + from * obj.u.l->step;
    l->step = obj.u.l->step * step;
    l->stop = obj.u.l->start + to * obj.u.l->step;
  }
  return ti_jj_of_list(obj.type, l);
}
