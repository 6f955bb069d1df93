// Statements: scopes, loops, macros.
//
// A variable is looked up from the innermost scope outwards, then at the template's top level, then among the rendering's variables, then the
// globals. A loop's body, a macro's body, call, with and generation blocks open a scope; if does not. An iteration starts with an empty scope
// (the same one, emptied, so that a long loop takes no more memory than a short one).
#include <string.h>

#include "model/chat/interp.h"

typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static flow exec_list(ti_jj_run *J, const ti_jj_node *body);

ti_jj_val ti_jj_lookup(ti_jj_run *J, int sym, ti_jj_str name) {
  for (const ti_jj_scope *s = J->scope; s->parent; s = s->parent)
    for (const ti_jj_binding *b = s->first; b; b = b->next) {
      J->steps++;
      if (b->sym == sym && b->v.type != TI_JJ_MISSING) return b->v;
    }
  if (J->root[sym].type != TI_JJ_MISSING) return J->root[sym];
  if (!J->probed[sym]) {
    J->probed[sym] = true;
    char key[128];
    if (name.n < sizeof key) {
      memcpy(key, name.p, name.n);
      key[name.n] = 0;
      const json_t *j = json_object_get(J->vars, key);
      if (j) return J->root[sym] = ti_jj_from_json(J, j);
    }
    const ti_jj_func *f = ti_jj_find_func(ti_jj_globals, name);
    if (f) return J->root[sym] = (ti_jj_val){.type = TI_JJ_FUNC, .u.func = f};
  }
  return ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_NAME, .name = name});
}

void ti_jj_bind(ti_jj_run *J, int sym, ti_jj_val v) {
  ti_jj_scope *s = J->scope;
  if (!s->parent) {
    J->root[sym] = v;
    J->probed[sym] = true;
    return;
  }
  for (ti_jj_binding *b = s->first; b; b = b->next)
    if (b->sym == sym) {
      b->v = v;
      return;
    }
  ti_jj_binding *b = ti_jj_alloc(J, sizeof *b);
  *b = (ti_jj_binding){sym, v, s->first};
  s->first = b;
}

static ti_jj_scope *push_scope(ti_jj_run *J, ti_jj_scope *parent) {
  ti_jj_scope *s = ti_jj_alloc(J, sizeof *s);
  *s = (ti_jj_scope){parent, NULL};
  J->scope = s;
  return s;
}

static void empty_scope(ti_jj_scope *s) {
  for (ti_jj_binding *b = s->first; b; b = b->next) b->v = (ti_jj_val){0};
}

static void assign(ti_jj_run *J, const ti_jj_node *target, ti_jj_val v) {
  if (target->kind == TI_JJ_N_NAME) {
    ti_jj_bind(J, target->sym, v);
    return;
  }
  if (target->kind == TI_JJ_N_NSREF) {
    ti_jj_val ns = ti_jj_lookup(J, target->sym, J->t->syms[target->sym]);
    if (ns.type != TI_JJ_NS) ti_jj_raise(J, TI_ERR_FORMAT, "TemplateRuntimeError: cannot assign attribute on non-namespace object");
    ti_jj_dict_set(J, ns.u.d, ti_jj_strn(target->name.p, target->name.n), v);
    return;
  }
  if (v.type == TI_JJ_UNDEF) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: not enough values to unpack (expected %u, got 0)", target->n);
  if (!ti_jj_is_iterable(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: cannot unpack non-iterable %s object", ti_jj_type_name(v));
  ti_jj_list *l = ti_jj_to_list(J, v);
  if (l->n > target->n) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: too many values to unpack (expected %u)", target->n);
  if (l->n < target->n) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: not enough values to unpack (expected %u, got %zu)", target->n, l->n);
  for (uint32_t i = 0; i < target->n; i++) assign(J, target->list[i], l->v[i]);
}

// The text that a body prints, as a string.
static ti_jj_val capture(ti_jj_run *J, const ti_jj_node *body) {
  ti_jj_sink s = {0}, *outer = J->sink;
  J->sink = &s;
  exec_list(J, body);
  J->sink = outer;
  return ti_jj_sink_val(&s);
}

// ---- loops

static bool loop_fetch(ti_jj_run *J, ti_jj_loop *lp, ti_jj_val *out) {
  while (ti_jj_next(J, &lp->it, out)) {
    if (!lp->filtering) return true;
    ti_jj_scope *here = J->scope;
    push_scope(J, lp->outer);
    assign(J, lp->node->a, *out);
    bool yes = ti_jj_truth(J, ti_jj_eval(J, lp->node->c));
    J->scope = here;
    if (yes) return true;
  }
  return false;
}

bool ti_jj_loop_peek(ti_jj_run *J, ti_jj_loop *lp) {
  if (!lp->has_next) lp->has_next = loop_fetch(J, lp, &lp->next);
  return lp->has_next;
}

int64_t ti_jj_loop_length(ti_jj_run *J, ti_jj_loop *lp) {
  if (lp->length >= 0) return lp->length;
  if (!lp->filtering && lp->it.src.type != TI_JJ_GEN) return lp->length = ti_jj_length(J, lp->it.src);
  // a generator has no length: take the rest of it, as jinja2 does
  ti_jj_list *rest = ti_jj_list_new(J, 0);
  for (ti_jj_val v; loop_fetch(J, lp, &v);) ti_jj_list_push(J, rest, v);
  lp->it = (ti_jj_iter){.src = ti_jj_of_list(TI_JJ_LIST, rest)};
  lp->filtering = false;
  return lp->length = lp->index0 + 1 + lp->has_next + (int64_t)rest->n;
}

static bool loop_advance(ti_jj_run *J, ti_jj_loop *lp) {
  ti_jj_val v;
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

static void run_loop(ti_jj_run *J, const ti_jj_node *x, ti_jj_val items, int64_t depth0, ti_jj_scope *outer) {
  ti_jj_scope *here = J->scope;
  ti_jj_loop *lp = ti_jj_calloc(J, 1, sizeof *lp);
  *lp =
      (ti_jj_loop){.node = x, .it = ti_jj_iterate(J, items), .filtering = x->c != NULL, .index0 = -1, .depth0 = depth0, .length = -1, .outer = outer};
  bool any = false;
  J->scope = outer;
  ti_jj_scope *s = push_scope(J, outer);
  while (loop_advance(J, lp)) {
    any = true;
    ti_jj_work(J, 0);
    empty_scope(s);
    J->scope = s;
    assign(J, x->a, lp->cur);
    ti_jj_bind(J, J->t->sym_loop, (ti_jj_val){.type = TI_JJ_LOOP, .u.loop = lp});
    if (exec_list(J, x->list[0]) == FLOW_BREAK) break;
  }
  if (!any && x->list[1]) {
    push_scope(J, outer);
    exec_list(J, x->list[1]);
  }
  J->scope = here;
}

ti_jj_val ti_jj_loop_recurse(ti_jj_run *J, ti_jj_loop *lp, ti_jj_val items) {
  if (!(lp->node->flags & TI_JJ_F_RECURSIVE))
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: The loop must have the 'recursive' marker to be called recursively.");
  ti_jj_enter(J);
  ti_jj_sink s = {0}, *outer = J->sink;
  J->sink = &s;
  run_loop(J, lp->node, items, lp->depth0 + 1, lp->outer);
  J->sink = outer;
  ti_jj_leave(J);
  return ti_jj_sink_val(&s);
}

// ---- macros

static ti_jj_val *find_kw(const ti_jj_args *args, bool *used, ti_jj_str name) {
  for (size_t i = args->n_kw; i-- > 0;)
    if (!used[i] && args->kw[i].key.u.s.n == name.n && memcmp(args->kw[i].key.u.s.p, name.p, name.n) == 0) {
      used[i] = true;
      return &args->kw[i].value;
    }
  return NULL;
}

static bool has_param(const ti_jj_node *m, int sym) {
  for (uint32_t i = 0; i < m->n; i++)
    if (m->list[i]->sym == sym) return true;
  return false;
}

// What the parameters did not take: caller, kwargs, varargs, or an error.
static void bind_rest(ti_jj_run *J, const ti_jj_node *m, const ti_jj_args *args, bool *used) {
  int len = (int)m->name.n;
  ti_jj_str caller = {"caller", 6};
  if ((m->flags & TI_JJ_F_CALLER) && !has_param(m, J->t->sym_caller)) {
    ti_jj_val *v = find_kw(args, used, caller);
    ti_jj_bind(J, J->t->sym_caller, v ? *v : ti_jj_hint(J, "No caller defined"));
  }
  ti_jj_dict *rest = ti_jj_dict_new(J);
  for (size_t i = 0; i < args->n_kw; i++)
    if (!used[i]) ti_jj_dict_set(J, rest, args->kw[i].key, args->kw[i].value);
  if ((m->flags & TI_JJ_F_KWARGS) && !has_param(m, J->t->sym_kwargs)) {
    ti_jj_bind(J, J->t->sym_kwargs, ti_jj_of_dict(TI_JJ_DICT, rest));
  } else if (rest->n) {
    ti_jj_str k = rest->e[0].key.u.s;
    if (ti_jj_str_is(k, "caller"))
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: macro '%.*s' was invoked with two values for the special caller argument", len, m->name.p);
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: macro '%.*s' takes no keyword argument '%.*s'", len, m->name.p, (int)k.n, k.p);
  }
  if ((m->flags & TI_JJ_F_VARARGS) && !has_param(m, J->t->sym_varargs)) {
    ti_jj_list *l = ti_jj_list_new(J, 0);
    for (size_t i = m->n; i < args->n; i++) ti_jj_list_push(J, l, args->v[i]);
    ti_jj_bind(J, J->t->sym_varargs, ti_jj_of_list(TI_JJ_TUPLE, l));
  } else if (args->n > m->n) {
    ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: macro '%.*s' takes not more than %u argument(s)", len, m->name.p, m->n);
  }
}

ti_jj_val ti_jj_call_macro(ti_jj_run *J, const ti_jj_macro *mac, const ti_jj_args *args) {
  const ti_jj_node *m = mac->node;
  ti_jj_scope *here = J->scope;
  ti_jj_enter(J);
  bool *used = ti_jj_calloc(J, args->n_kw, sizeof *used);
  push_scope(J, mac->scope);
  for (uint32_t i = 0; i < m->n; i++) {
    const ti_jj_node *p = m->list[i];
    ti_jj_val *kw;
    if (i < args->n)
      ti_jj_bind(J, p->sym, args->v[i]);
    else if ((kw = find_kw(args, used, p->name)))
      ti_jj_bind(J, p->sym, *kw);
    else if (i + m->n2 >= m->n)
      ti_jj_bind(J, p->sym, ti_jj_eval(J, m->list2[i + m->n2 - m->n]));
    else
      ti_jj_bind(J, p->sym, ti_jj_undefined(J, (ti_jj_undef){.why = TI_JJ_U_PARAM, .name = p->name}));
  }
  bind_rest(J, m, args, used);
  ti_jj_val v = capture(J, m->a);
  J->scope = here;
  ti_jj_leave(J);
  return v;
}

static ti_jj_val make_macro(ti_jj_run *J, const ti_jj_node *m, bool is_caller) {
  ti_jj_macro *mac = ti_jj_alloc(J, sizeof *mac);
  *mac = (ti_jj_macro){m, J->scope, is_caller};
  return (ti_jj_val){.type = TI_JJ_MACRO, .u.m = mac};
}

static void call_block(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_val f = ti_jj_eval(J, x->a->a);
  ti_jj_args args = ti_jj_eval_args(J, x->a);
  ti_jj_pair *kw = ti_jj_calloc(J, args.n_kw + 1, sizeof *kw);
  if (args.n_kw) memcpy(kw, args.kw, args.n_kw * sizeof *kw);
  kw[args.n_kw] = (ti_jj_pair){ti_jj_lit("caller"), make_macro(J, x->b, true)};
  args.kw = kw;
  args.n_kw++;
  ti_jj_str_to(J, J->sink, ti_jj_call(J, f, &args));
}

// ---- statements

// The chain of filters of a block, applied to its text.
static ti_jj_val apply_filters(ti_jj_run *J, const ti_jj_node *f, ti_jj_val v) {
  if (!f) return v;
  ti_jj_enter(J);
  v = apply_filters(J, f->a, v);
  ti_jj_leave(J);
  ti_jj_args args = ti_jj_eval_args(J, f);
  J->line = f->line;
  return ti_jj_filter(J, f->name, v, &args);
}

static void exec_set_block(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_scope *here = J->scope;
  push_scope(J, here);
  ti_jj_val v = apply_filters(J, x->b, capture(J, x->c));
  J->scope = here;
  assign(J, x->a, v);
}

static void exec_with(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_scope *here = J->scope;
  ti_jj_list *values = ti_jj_list_new(J, x->n);
  for (uint32_t i = 0; i < x->n; i++) ti_jj_list_push(J, values, ti_jj_eval(J, x->list2[i]));
  push_scope(J, here);
  for (uint32_t i = 0; i < x->n; i++) assign(J, x->list[i], values->v[i]);
}

static flow exec_if(ti_jj_run *J, const ti_jj_node *x) {
  for (uint32_t i = 0; i + 1 < x->n; i += 2)
    if (ti_jj_truth(J, ti_jj_eval(J, x->list[i]))) return exec_list(J, x->list[i + 1]);
  return x->c ? exec_list(J, x->c) : FLOW_ON;
}

static flow exec_node(ti_jj_run *J, const ti_jj_node *x) {
  ti_jj_scope *here = J->scope;
  flow f = FLOW_ON;
  switch ((ti_jj_kind)x->kind) {
    case TI_JJ_N_DATA:
      ti_jj_putv(J, J->sink, x->val.u.s);
      break;
    case TI_JJ_N_PRINT:
      ti_jj_str_to(J, J->sink, ti_jj_eval(J, x->a));
      break;
    case TI_JJ_N_IF:
      return exec_if(J, x);
    case TI_JJ_N_BODY:
      return exec_list(J, x);
    case TI_JJ_N_FOR:
      run_loop(J, x, ti_jj_eval(J, x->b), 0, J->scope);
      break;
    case TI_JJ_N_SET:
      assign(J, x->a, ti_jj_eval(J, x->b));
      break;
    case TI_JJ_N_SETBLOCK:
      exec_set_block(J, x);
      break;
    case TI_JJ_N_MACRO:
      ti_jj_bind(J, x->sym, make_macro(J, x, false));
      break;
    case TI_JJ_N_CALLBLOCK:
      call_block(J, x);
      break;
    case TI_JJ_N_FILTERBLOCK:
      push_scope(J, here);
      ti_jj_str_to(J, J->sink, apply_filters(J, x->b, capture(J, x->c)));
      break;
    case TI_JJ_N_WITH:
      exec_with(J, x);
      f = exec_list(J, x->a);
      break;
    case TI_JJ_N_SCOPE:
      push_scope(J, here);
      f = exec_list(J, x->a);
      break;
    case TI_JJ_N_BREAK:
      return FLOW_BREAK;
    case TI_JJ_N_CONTINUE:
      return FLOW_CONTINUE;
    default:
      ti_jj_raise(J, TI_ERR_INTERNAL, "an expression where a statement belongs");
  }
  J->scope = here;
  return f;
}

static flow exec_list(ti_jj_run *J, const ti_jj_node *body) {
  flow f = FLOW_ON;
  ti_jj_enter(J);
  for (uint32_t i = 0; i < body->n && f == FLOW_ON; i++) {
    ti_jj_work(J, 0);
    J->line = body->list[i]->line;
    f = exec_node(J, body->list[i]);
  }
  ti_jj_leave(J);
  return f;
}

void ti_jj_exec_body(ti_jj_run *J, const ti_jj_node *body) { exec_list(J, body); }
