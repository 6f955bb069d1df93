// Statements: scopes, loops, macros.
//
// A variable is looked up from the innermost scope outwards, then at the template's top level, then among the rendering's variables, then the
// globals. A loop's body, a macro's body, call, with and generation blocks open a scope; if does not. An iteration starts with an empty scope
// (the same one, emptied, so that a long loop takes no more memory than a short one).
#include <string.h>

#include "model/chat/interp.h"

typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static flow exec_list(jj_run *J, const jj_node *body);

jj_val jj_lookup(jj_run *J, int sym, jj_str name) {
  for (const jj_scope *s = J->scope; s->parent; s = s->parent)
    for (const jj_binding *b = s->first; b; b = b->next) {
      J->steps++;
      if (b->sym == sym && b->v.type != JJ_MISSING) return b->v;
    }
  if (J->root[sym].type != JJ_MISSING) return J->root[sym];
  if (!J->probed[sym]) {
    J->probed[sym] = true;
    char key[128];
    if (name.n < sizeof key) {
      memcpy(key, name.p, name.n);
      key[name.n] = 0;
      const json_t *j = json_object_get(J->vars, key);
      if (j) return J->root[sym] = jj_from_json(J, j);
    }
    const jj_func *f = jj_find_func(jj_globals, name);
    if (f) return J->root[sym] = (jj_val){.type = JJ_FUNC, .u.func = f};
  }
  return jj_undefined(J, (jj_undef){.why = JJ_U_NAME, .name = name});
}

void jj_bind(jj_run *J, int sym, jj_val v) {
  jj_scope *s = J->scope;
  if (!s->parent) {
    J->root[sym] = v;
    J->probed[sym] = true;
    return;
  }
  for (jj_binding *b = s->first; b; b = b->next)
    if (b->sym == sym) {
      b->v = v;
      return;
    }
  jj_binding *b = jj_alloc(J, sizeof *b);
  *b = (jj_binding){sym, v, s->first};
  s->first = b;
}

static jj_scope *push_scope(jj_run *J, jj_scope *parent) {
  jj_scope *s = jj_alloc(J, sizeof *s);
  *s = (jj_scope){parent, NULL};
  J->scope = s;
  return s;
}

static void empty_scope(jj_scope *s) {
  for (jj_binding *b = s->first; b; b = b->next) b->v = (jj_val){0};
}

static void assign(jj_run *J, const jj_node *target, jj_val v) {
  if (target->kind == JJ_N_NAME) {
    jj_bind(J, target->sym, v);
    return;
  }
  if (target->kind == JJ_N_NSREF) {
    jj_val ns = jj_lookup(J, target->sym, J->t->syms[target->sym]);
    if (ns.type != JJ_NS) jj_raise(J, TI_ERR_FORMAT, "TemplateRuntimeError: cannot assign attribute on non-namespace object");
    jj_dict_set(J, ns.u.d, jj_strn(target->name.p, target->name.n), v);
    return;
  }
  if (v.type == JJ_UNDEF) jj_raise(J, TI_ERR_FORMAT, "ValueError: not enough values to unpack (expected %u, got 0)", target->n);
  if (!jj_is_iterable(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: cannot unpack non-iterable %s object", jj_type_name(v));
  jj_list *l = jj_to_list(J, v);
  if (l->n > target->n) jj_raise(J, TI_ERR_FORMAT, "ValueError: too many values to unpack (expected %u)", target->n);
  if (l->n < target->n) jj_raise(J, TI_ERR_FORMAT, "ValueError: not enough values to unpack (expected %u, got %zu)", target->n, l->n);
  for (uint32_t i = 0; i < target->n; i++) assign(J, target->list[i], l->v[i]);
}

// The text that a body prints, as a string.
static jj_val capture(jj_run *J, const jj_node *body) {
  jj_sink s = {0}, *outer = J->sink;
  J->sink = &s;
  exec_list(J, body);
  J->sink = outer;
  return jj_sink_val(&s);
}

// ---- loops

static bool loop_fetch(jj_run *J, jj_loop *lp, jj_val *out) {
  while (jj_next(J, &lp->it, out)) {
    if (!lp->filtering) return true;
    jj_scope *here = J->scope;
    push_scope(J, lp->outer);
    assign(J, lp->node->a, *out);
    bool yes = jj_truth(J, jj_eval(J, lp->node->c));
    J->scope = here;
    if (yes) return true;
  }
  return false;
}

bool jj_loop_peek(jj_run *J, jj_loop *lp) {
  if (!lp->has_next) lp->has_next = loop_fetch(J, lp, &lp->next);
  return lp->has_next;
}

int64_t jj_loop_length(jj_run *J, jj_loop *lp) {
  if (lp->length >= 0) return lp->length;
  if (!lp->filtering && lp->it.src.type != JJ_GEN) return lp->length = jj_length(J, lp->it.src);
  // a generator has no length: take the rest of it, as jinja2 does
  jj_list *rest = jj_list_new(J, 0);
  for (jj_val v; loop_fetch(J, lp, &v);) jj_list_push(J, rest, v);
  lp->it = (jj_iter){.src = jj_of_list(JJ_LIST, rest)};
  lp->filtering = false;
  return lp->length = lp->index0 + 1 + lp->has_next + (int64_t)rest->n;
}

static bool loop_advance(jj_run *J, jj_loop *lp) {
  jj_val v;
  if (lp->has_next) {
    v = lp->next;
    lp->has_next = false;
  } else if (!loop_fetch(J, lp, &v)) {
    return false;
  }
  lp->prev = lp->cur;
  lp->cur = v;
  lp->index0++;
  return true;
}

static void run_loop(jj_run *J, const jj_node *x, jj_val items, int64_t depth0, jj_scope *outer) {
  jj_scope *here = J->scope;
  jj_loop *lp = jj_calloc(J, 1, sizeof *lp);
  *lp = (jj_loop){.node = x, .it = jj_iterate(J, items), .filtering = x->c != NULL, .index0 = -1, .depth0 = depth0, .length = -1, .outer = outer};
  bool any = false;
  J->scope = outer;
  jj_scope *s = push_scope(J, outer);
  while (loop_advance(J, lp)) {
    any = true;
    jj_work(J, 0);
    empty_scope(s);
    J->scope = s;
    assign(J, x->a, lp->cur);
    jj_bind(J, J->t->sym_loop, (jj_val){.type = JJ_LOOP, .u.loop = lp});
    if (exec_list(J, x->list[0]) == FLOW_BREAK) break;
  }
  if (!any && x->list[1]) {
    push_scope(J, outer);
    exec_list(J, x->list[1]);
  }
  J->scope = here;
}

jj_val jj_loop_recurse(jj_run *J, jj_loop *lp, jj_val items) {
  if (!(lp->node->flags & JJ_F_RECURSIVE))
    jj_raise(J, TI_ERR_FORMAT, "TypeError: The loop must have the 'recursive' marker to be called recursively.");
  jj_enter(J);
  jj_sink s = {0}, *outer = J->sink;
  J->sink = &s;
  run_loop(J, lp->node, items, lp->depth0 + 1, lp->outer);
  J->sink = outer;
  jj_leave(J);
  return jj_sink_val(&s);
}

// ---- macros

static jj_val *find_kw(const jj_args *args, bool *used, jj_str name) {
  for (size_t i = args->n_kw; i-- > 0;)
    if (!used[i] && args->kw[i].key.u.s.n == name.n && memcmp(args->kw[i].key.u.s.p, name.p, name.n) == 0) {
      used[i] = true;
      return &args->kw[i].value;
    }
  return NULL;
}

static bool has_param(const jj_node *m, int sym) {
  for (uint32_t i = 0; i < m->n; i++)
    if (m->list[i]->sym == sym) return true;
  return false;
}

// What the parameters did not take: caller, kwargs, varargs, or an error.
static void bind_rest(jj_run *J, const jj_node *m, const jj_args *args, bool *used) {
  int len = (int)m->name.n;
  jj_str caller = {"caller", 6};
  if ((m->flags & JJ_F_CALLER) && !has_param(m, J->t->sym_caller)) {
    jj_val *v = find_kw(args, used, caller);
    jj_bind(J, J->t->sym_caller, v ? *v : jj_hint(J, "No caller defined"));
  }
  jj_dict *rest = jj_dict_new(J);
  for (size_t i = 0; i < args->n_kw; i++)
    if (!used[i]) jj_dict_set(J, rest, args->kw[i].key, args->kw[i].value);
  if ((m->flags & JJ_F_KWARGS) && !has_param(m, J->t->sym_kwargs)) {
    jj_bind(J, J->t->sym_kwargs, jj_of_dict(JJ_DICT, rest));
  } else if (rest->n) {
    jj_str k = rest->e[0].key.u.s;
    if (jj_str_is(k, "caller"))
      jj_raise(J, TI_ERR_FORMAT, "TypeError: macro '%.*s' was invoked with two values for the special caller argument", len, m->name.p);
    jj_raise(J, TI_ERR_FORMAT, "TypeError: macro '%.*s' takes no keyword argument '%.*s'", len, m->name.p, (int)k.n, k.p);
  }
  if ((m->flags & JJ_F_VARARGS) && !has_param(m, J->t->sym_varargs)) {
    jj_list *l = jj_list_new(J, 0);
    for (size_t i = m->n; i < args->n; i++) jj_list_push(J, l, args->v[i]);
    jj_bind(J, J->t->sym_varargs, jj_of_list(JJ_TUPLE, l));
  } else if (args->n > m->n) {
    jj_raise(J, TI_ERR_FORMAT, "TypeError: macro '%.*s' takes not more than %u argument(s)", len, m->name.p, m->n);
  }
}

jj_val jj_call_macro(jj_run *J, const jj_macro *mac, const jj_args *args) {
  const jj_node *m = mac->node;
  jj_scope *here = J->scope;
  jj_enter(J);
  bool *used = jj_calloc(J, args->n_kw, sizeof *used);
  push_scope(J, mac->scope);
  for (uint32_t i = 0; i < m->n; i++) {
    const jj_node *p = m->list[i];
    jj_val *kw;
    if (i < args->n)
      jj_bind(J, p->sym, args->v[i]);
    else if ((kw = find_kw(args, used, p->name)))
      jj_bind(J, p->sym, *kw);
    else if (i + m->n2 >= m->n)
      jj_bind(J, p->sym, jj_eval(J, m->list2[i + m->n2 - m->n]));
    else
      jj_bind(J, p->sym, jj_undefined(J, (jj_undef){.why = JJ_U_PARAM, .name = p->name}));
  }
  bind_rest(J, m, args, used);
  jj_val v = capture(J, m->a);
  J->scope = here;
  jj_leave(J);
  return v;
}

static jj_val make_macro(jj_run *J, const jj_node *m, bool is_caller) {
  jj_macro *mac = jj_alloc(J, sizeof *mac);
  *mac = (jj_macro){m, J->scope, is_caller};
  return (jj_val){.type = JJ_MACRO, .u.m = mac};
}

static void call_block(jj_run *J, const jj_node *x) {
  jj_val f = jj_eval(J, x->a->a);
  jj_args args = jj_eval_args(J, x->a);
  jj_pair *kw = jj_calloc(J, args.n_kw + 1, sizeof *kw);
  if (args.n_kw) memcpy(kw, args.kw, args.n_kw * sizeof *kw);
  kw[args.n_kw] = (jj_pair){jj_lit("caller"), make_macro(J, x->b, true)};
  args.kw = kw;
  args.n_kw++;
  jj_str_to(J, J->sink, jj_call(J, f, &args));
}

// ---- statements

// The chain of filters of a block, applied to its text.
static jj_val apply_filters(jj_run *J, const jj_node *f, jj_val v) {
  if (!f) return v;
  jj_enter(J);
  v = apply_filters(J, f->a, v);
  jj_leave(J);
  jj_args args = jj_eval_args(J, f);
  J->line = f->line;
  return jj_filter(J, f->name, v, &args);
}

static void exec_set_block(jj_run *J, const jj_node *x) {
  jj_scope *here = J->scope;
  push_scope(J, here);
  jj_val v = apply_filters(J, x->b, capture(J, x->c));
  J->scope = here;
  assign(J, x->a, v);
}

static void exec_with(jj_run *J, const jj_node *x) {
  jj_scope *here = J->scope;
  jj_list *values = jj_list_new(J, x->n);
  for (uint32_t i = 0; i < x->n; i++) jj_list_push(J, values, jj_eval(J, x->list2[i]));
  push_scope(J, here);
  for (uint32_t i = 0; i < x->n; i++) assign(J, x->list[i], values->v[i]);
}

static flow exec_if(jj_run *J, const jj_node *x) {
  for (uint32_t i = 0; i + 1 < x->n; i += 2)
    if (jj_truth(J, jj_eval(J, x->list[i]))) return exec_list(J, x->list[i + 1]);
  return x->c ? exec_list(J, x->c) : FLOW_ON;
}

static flow exec_node(jj_run *J, const jj_node *x) {
  jj_scope *here = J->scope;
  flow f = FLOW_ON;
  switch ((jj_kind)x->kind) {
    case JJ_N_DATA:
      jj_putv(J, J->sink, x->val.u.s);
      break;
    case JJ_N_PRINT:
      jj_str_to(J, J->sink, jj_eval(J, x->a));
      break;
    case JJ_N_IF:
      return exec_if(J, x);
    case JJ_N_BODY:
      return exec_list(J, x);
    case JJ_N_FOR:
      run_loop(J, x, jj_eval(J, x->b), 0, J->scope);
      break;
    case JJ_N_SET:
      assign(J, x->a, jj_eval(J, x->b));
      break;
    case JJ_N_SETBLOCK:
      exec_set_block(J, x);
      break;
    case JJ_N_MACRO:
      jj_bind(J, x->sym, make_macro(J, x, false));
      break;
    case JJ_N_CALLBLOCK:
      call_block(J, x);
      break;
    case JJ_N_FILTERBLOCK:
      push_scope(J, here);
      jj_str_to(J, J->sink, apply_filters(J, x->b, capture(J, x->c)));
      break;
    case JJ_N_WITH:
      exec_with(J, x);
      f = exec_list(J, x->a);
      break;
    case JJ_N_SCOPE:
      push_scope(J, here);
      f = exec_list(J, x->a);
      break;
    case JJ_N_BREAK:
      return FLOW_BREAK;
    case JJ_N_CONTINUE:
      return FLOW_CONTINUE;
    default:
      jj_raise(J, TI_ERR_INTERNAL, "an expression where a statement belongs");
  }
  J->scope = here;
  return f;
}

static flow exec_list(jj_run *J, const jj_node *body) {
  flow f = FLOW_ON;
  jj_enter(J);
  for (uint32_t i = 0; i < body->n && f == FLOW_ON; i++) {
    jj_work(J, 0);
    J->line = body->list[i]->line;
    f = exec_node(J, body->list[i]);
  }
  jj_leave(J);
  return f;
}

void jj_exec_body(jj_run *J, const jj_node *body) { exec_list(J, body); }
