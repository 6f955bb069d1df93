// x.name, x[key], x[a:b:c]: jinja2's lookup order (attribute first for x.name, item first for x["name"]), its undefined values, and the sandbox.
#include <string.h>

#include "model/chat/interp.h"
#include "model/chat/uni.h"

jj_val jj_undefined(jj_run *J, jj_undef u) {
  jj_undef *p = jj_alloc(J, sizeof *p);
  *p = u;
  return (jj_val){.type = JJ_UNDEF, .u.u = p};
}

jj_val jj_hint(jj_run *J, const char *text) { return jj_undefined(J, (jj_undef){.why = JJ_U_HINT, .name = {text, strlen(text)}}); }

_Noreturn void jj_raise_undef(jj_run *J, const jj_undef *u) {
  int n = (int)(u->name.n < 200 ? u->name.n : 200);
  const char *p = u->name.p;
  switch (u->why) {
    case JJ_U_NAME:
      jj_raise(J, TI_ERR_FORMAT, "UndefinedError: '%.*s' is undefined", n, p);
    case JJ_U_ATTR:
      jj_raise(J, TI_ERR_FORMAT, "UndefinedError: '%s' has no attribute '%.*s'", u->obj_type, n, p);
    case JJ_U_ELEMENT: {
      jj_sink s = {0};
      jj_repr_to(J, &s, u->element);
      jj_raise(J, TI_ERR_FORMAT, "UndefinedError: %s has no element %.*s", u->obj_type, (int)(s.n < 200 ? s.n : 200), s.p);
    }
    case JJ_U_UNSAFE: {
      const char *end = strstr(u->obj_type, " object");
      jj_raise(J, TI_ERR_FORMAT, "SecurityError: access to attribute '%.*s' of '%.*s' object is unsafe.", n, p,
               end ? (int)(end - u->obj_type) : (int)strlen(u->obj_type), u->obj_type);
    }
    case JJ_U_PARAM:
      jj_raise(J, TI_ERR_FORMAT, "UndefinedError: parameter '%.*s' was not provided", n, p);
    default:
      jj_raise(J, TI_ERR_FORMAT, "UndefinedError: %.*s", n, p);
  }
}

static bool one_of(jj_str s, const char *const *names) {
  for (; *names; names++)
    if (jj_str_is(s, *names)) return true;
  return false;
}

// What the immutable sandbox refuses.
static bool unsafe(jj_val obj, jj_str name) {
  static const char *const list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
  static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
  static const char *const dunder[] = {"__class__", "__init__", "__doc__",  "__dict__", "__len__",    "__getitem__",      "__str__",
                                       "__repr__",  "__eq__",   "__hash__", "__new__",  "__reduce__", "__subclasshook__", NULL};
  if (obj.type == JJ_LIST && one_of(name, list)) return true;
  if (obj.type == JJ_DICT && one_of(name, dict)) return true;
  return name.n > 4 && name.p[0] == '_' && one_of(name, dunder);
}

static const jj_func *method(jj_val obj, jj_str name) {
  switch (obj.type) {
    case JJ_STR:
      return jj_find_func(jj_str_methods, name);
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_RANGE:
      return jj_find_func(jj_list_methods, name);
    case JJ_DICT:
      return jj_find_func(jj_dict_methods, name);
    case JJ_LOOP:
      return jj_find_func(jj_loop_methods, name);
    case JJ_INT:
    case JJ_FLOAT:
    case JJ_CYCLER:
      return jj_find_func(jj_misc_methods, name);
    default:
      return NULL;
  }
}

static jj_val loop_attr(jj_run *J, jj_loop *lp, jj_str name) {
  if (jj_str_is(name, "index")) return jj_int(lp->index0 + 1);
  if (jj_str_is(name, "index0")) return jj_int(lp->index0);
  if (jj_str_is(name, "first")) return jj_bool(lp->index0 == 0);
  if (jj_str_is(name, "last")) return jj_bool(!jj_loop_peek(J, lp));
  if (jj_str_is(name, "length")) return jj_int(jj_loop_length(J, lp));
  if (jj_str_is(name, "revindex")) return jj_int(jj_loop_length(J, lp) - lp->index0);
  if (jj_str_is(name, "revindex0")) return jj_int(jj_loop_length(J, lp) - lp->index0 - 1);
  if (jj_str_is(name, "depth")) return jj_int(lp->depth0 + 1);
  if (jj_str_is(name, "depth0")) return jj_int(lp->depth0);
  if (jj_str_is(name, "previtem")) return lp->index0 ? lp->prev : jj_hint(J, "there is no previous item");
  if (jj_str_is(name, "nextitem")) return jj_loop_peek(J, lp) ? lp->next : jj_hint(J, "there is no next item");
  return (jj_val){0};
}

// A real attribute of the object, or JJ_MISSING.
static jj_val attribute(jj_run *J, jj_val obj, jj_str name) {
  jj_val v = {0};
  if (unsafe(obj, name)) return jj_undefined(J, (jj_undef){.why = JJ_U_UNSAFE, .name = name, .obj_type = jj_object_name(obj)});
  const jj_func *f = method(obj, name);
  if (f) {
    jj_bound *b = jj_alloc(J, sizeof *b);
    *b = (jj_bound){obj, f};
    return (jj_val){.type = JJ_METHOD, .u.bound = b};
  }
  if (obj.type == JJ_LOOP) return loop_attr(J, obj.u.loop, name);
  if (obj.type == JJ_NS) jj_dict_gets(J, obj.u.d, name, &v);
  if (obj.type == JJ_TUPLE && obj.u.l->kind && obj.u.l->n == 2) {  // groupby's pairs
    if (jj_str_is(name, "grouper")) return obj.u.l->v[0];
    if (jj_str_is(name, "list")) return obj.u.l->v[1];
  }
  if (obj.type == JJ_CYCLER && jj_str_is(name, "current")) return obj.u.l->v[obj.u.l->pos];
  if (obj.type == JJ_MACRO) {
    const jj_node *m = obj.u.m->node;
    if (jj_str_is(name, "name")) return obj.u.m->is_caller ? jj_none() : jj_strn(m->name.p, m->name.n);
    if (jj_str_is(name, "catch_kwargs")) return jj_bool(m->flags & JJ_F_KWARGS);
    if (jj_str_is(name, "catch_varargs")) return jj_bool(m->flags & JJ_F_VARARGS);
    if (jj_str_is(name, "caller")) return jj_bool(m->flags & JJ_F_CALLER);
    if (jj_str_is(name, "arguments")) {
      jj_list *l = jj_list_new(J, m->n);
      for (uint32_t i = 0; i < m->n; i++) jj_list_push(J, l, jj_strn(m->list[i]->name.p, m->list[i]->name.n));
      return jj_of_list(JJ_TUPLE, l);
    }
  }
  return v;
}

// An item of the object, or JJ_MISSING.
static jj_val item(jj_run *J, jj_val obj, jj_val key) {
  jj_val v = {0};
  if (obj.type == JJ_DICT) {
    jj_dict_get(J, obj.u.d, key, &v);
  } else if (jj_is_seq(obj) && jj_is_intlike(key)) {
    int64_t n = (int64_t)obj.u.l->n, i = jj_as_int(key);
    if (i < 0) i += n;
    if (i >= 0 && i < n) v = obj.u.l->v[i];
  } else if (obj.type == JJ_STR && jj_is_intlike(key)) {
    jj_str s = obj.u.s;
    jj_work(J, s.n);
    int64_t i = jj_as_int(key);
    if (i < 0) i += (int64_t)jj_utf8_len(s.p, s.n);
    if (i < 0 || (uint64_t)i >= s.n) return v;
    size_t at = jj_utf8_offset(s.p, s.n, (size_t)i), end = at;
    if (at >= s.n) return v;
    jj_utf8_next(s.p, s.n, &end);
    v = jj_strn(s.p + at, end - at);
  }
  return v;
}

jj_val jj_getattr(jj_run *J, jj_val obj, jj_str name) {
  if (obj.type == JJ_UNDEF) jj_raise_undef(J, obj.u.u);
  jj_val v = attribute(J, obj, name);
  if (v.type == JJ_MISSING && obj.type == JJ_DICT) jj_dict_gets(J, obj.u.d, name, &v);
  return v.type != JJ_MISSING ? v : jj_undefined(J, (jj_undef){.why = JJ_U_ATTR, .name = name, .obj_type = jj_object_name(obj)});
}

jj_val jj_getitem(jj_run *J, jj_val obj, jj_val key) {
  if (obj.type == JJ_UNDEF) jj_raise_undef(J, obj.u.u);
  jj_val v = item(J, obj, key);
  if (v.type != JJ_MISSING) return v;
  if (key.type != JJ_STR) return jj_undefined(J, (jj_undef){.why = JJ_U_ELEMENT, .element = key, .obj_type = jj_object_name(obj)});
  v = attribute(J, obj, key.u.s);
  return v.type != JJ_MISSING ? v : jj_undefined(J, (jj_undef){.why = JJ_U_ATTR, .name = key.u.s, .obj_type = jj_object_name(obj)});
}

static int64_t slice_index(jj_run *J, jj_val v, int64_t n, int64_t step, bool start) {
  int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? n : n - 1;
  if (v.type == JJ_NONE) return (step > 0) == start ? lo : hi;  // towards the end that the step comes from, or goes to
  if (v.type == JJ_UNDEF || !jj_is_intlike(v))
    jj_raise(J, TI_ERR_FORMAT, "TypeError: slice indices must be integers or None or have an __index__ method");
  int64_t i = jj_as_int(v);
  if (i < 0) i += n;
  return i < lo ? lo : i > hi ? hi : i;
}

static jj_val slice_str(jj_run *J, jj_val obj, int64_t from, int64_t to, int64_t step, int64_t count) {
  jj_str s = obj.u.s;
  if (count <= 0) return jj_lit("");
  bool ascii = (int64_t)s.n == (int64_t)jj_utf8_len(s.p, s.n);
  if (step == 1) {
    size_t a = ascii ? (size_t)from : jj_utf8_offset(s.p, s.n, (size_t)from);
    size_t b = ascii ? (size_t)to : a + jj_utf8_offset(s.p + a, s.n - a, (size_t)(to - from));
    jj_val v = jj_strn(s.p + a, b - a);
    v.markup = obj.markup;
    return v;
  }
  // other steps go through an array of code point offsets
  size_t n_cp = jj_utf8_len(s.p, s.n), k = 0;
  size_t *at = jj_calloc(J, n_cp + 1, sizeof *at);
  for (size_t i = 0; i < s.n; k++) {
    at[k] = i;
    jj_utf8_next(s.p, s.n, &i);
  }
  at[n_cp] = s.n;
  jj_sink out = {0};
  for (int64_t i = from; count > 0; count--, i += step) jj_put(J, &out, s.p + at[i], at[i + 1] - at[i]);
  jj_val v = jj_sink_val(&out);
  v.markup = obj.markup;
  return v;
}

jj_val jj_slice(jj_run *J, jj_val obj, jj_val vfrom, jj_val vto, jj_val vstep) {
  if (obj.type == JJ_UNDEF) jj_raise_undef(J, obj.u.u);
  if (obj.type != JJ_STR && !jj_is_seq(obj)) {
    if (obj.type == JJ_DICT) jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: 'slice'");
    jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not subscriptable", jj_type_name(obj));
  }
  int64_t step = 1;
  if (vstep.type != JJ_NONE) {
    if (!jj_is_intlike(vstep)) jj_raise(J, TI_ERR_FORMAT, "TypeError: slice indices must be integers or None or have an __index__ method");
    step = jj_as_int(vstep);
    if (step == 0) jj_raise(J, TI_ERR_FORMAT, "ValueError: slice step cannot be zero");
    if (step > INT32_MAX) step = INT32_MAX;
    if (step < -INT32_MAX) step = -INT32_MAX;
  }
  int64_t n = jj_length(J, obj);
  int64_t from = slice_index(J, vfrom, n, step, true), to = slice_index(J, vto, n, step, false);
  int64_t count = step > 0 ? (to - from + step - 1) / step : (from - to - step - 1) / -step;
  if (count < 0) count = 0;
  jj_work(J, obj.type == JJ_STR ? obj.u.s.n : (size_t)count * sizeof(jj_val));
  if (obj.type == JJ_STR) return slice_str(J, obj, from, to, step, count);
  jj_list *l = jj_list_new(J, (size_t)count);
  for (int64_t i = from; count > 0; count--, i += step) jj_list_push(J, l, obj.u.l->v[i]);
  if (obj.type == JJ_RANGE) {
    l->start = obj.u.l->start + from * obj.u.l->step;
    l->step = obj.u.l->step * step;
    l->stop = obj.u.l->start + to * obj.u.l->step;
  }
  return jj_of_list(obj.type, l);
}
