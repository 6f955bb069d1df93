// Flags from a table (see opt.h). Used once, at the start of main; writes to stderr, never exits.
#include "client/tool/opt.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_MAX = 64, NAMES_MAX = 128 };

// Levenshtein's distance, one row at a time.
static unsigned distance(const char *a, const char *b) {
  unsigned row[WORD_MAX + 1];
  const size_t na = strnlen(a, WORD_MAX), nb = strnlen(b, WORD_MAX);
  for (size_t j = 0; j <= nb; j++) row[j] = (unsigned)j;
  for (size_t i = 1; i <= na; i++) {
    unsigned diagonal = row[0];
    row[0] = (unsigned)i;
    for (size_t j = 1; j <= nb; j++) {
      unsigned best = diagonal + (a[i - 1] != b[j - 1]);
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      diagonal = row[j];
      row[j] = best;
    }
  }
  return row[nb];
}

const char *ti_opt_nearest(const char *word, const char *const *names, size_t n) {
  const char *best = NULL;
  unsigned least = (unsigned)(strnlen(word, WORD_MAX) + 3) / 3 + 1;
  for (size_t i = 0; i < n; i++) {
    unsigned d = distance(word, names[i]);
    if (d && strncmp(word, names[i], strlen(word)) == 0) d = 1;  // an abbreviation is near
    if (d < least) {
      least = d;
      best = names[i];
    }
  }
  return best;
}

void ti_opt_help(const ti_command *cmd, const ti_opt *opts, size_t n_opt, FILE *to) {
  fprintf(to, "usage: titan %s [flags]%s%s\n\n%s\n", cmd->name, cmd->args ? " " : "", cmd->args ? cmd->args : "", cmd->summary);
  if (cmd->details) fprintf(to, "\n%s\n", cmd->details);
  fprintf(to, "\nflags:\n");
  for (size_t i = 0; i < n_opt; i++) {
    const ti_opt *o = &opts[i];
    char left[80];
    const char letter[] = {'-', o->letter, ',', ' ', 0};
    snprintf(left, sizeof(left), "%s--%s%s%s", o->letter ? letter : "", o->name, o->value ? " " : "", o->value ? o->value : "");
    fprintf(to, "  %-30s %s", left, o->help);
    if (o->kind == TI_OPT_INT) fprintf(to, " [%lld]", (long long)*(const int64_t *)o->target);
    if (o->kind == TI_OPT_REAL) fprintf(to, " [%g]", *(const double *)o->target);
    if (o->kind == TI_OPT_TEXT && *(const char *const *)o->target) fprintf(to, " [%s]", *(const char *const *)o->target);
    if (o->env) {
      fprintf(to, " ($TITAN_");
      for (const char *c = o->name; *c; c++) fputc(*c == '-' ? '_' : toupper((unsigned char)*c), to);
      fputc(')', to);
    }
    fputc('\n', to);
  }
  fprintf(to, "  %-30s %s\n", "-h, --help", "this text");
}

static int unknown(const ti_command *cmd, const ti_opt *opts, size_t n_opt, const char *arg) {
  const char *names[NAMES_MAX];
  size_t n = 0;
  for (size_t i = 0; i < n_opt && n < NAMES_MAX - 1; i++) names[n++] = opts[i].name;
  names[n++] = "help";
  char word[WORD_MAX + 1];
  snprintf(word, sizeof(word), "%s", arg + strspn(arg, "-"));
  word[strcspn(word, "=")] = 0;
  const char *near = ti_opt_nearest(word, names, n);
  fprintf(stderr, "titan %s: unknown flag '%s'", cmd->name, arg);
  if (near) fprintf(stderr, "; did you mean --%s?", near);
  fprintf(stderr, "\nsee: titan %s --help\n", cmd->name);
  return 2;
}

static int wrong(const ti_command *cmd, const ti_opt *o, const char *value) {
  const char *what = o->kind == TI_OPT_INT ? "an integer" : "a number";
  fprintf(stderr, "titan %s: --%s: expected %s", cmd->name, o->name, what);
  if (o->lo != 0 || o->hi != 0) fprintf(stderr, " in %.15g..%.15g", o->lo, o->hi);
  fprintf(stderr, ", got '%s'\n", value);
  return 2;
}

static int set_value(const ti_command *cmd, const ti_opt *o, const char *value) {
  char *end;
  const bool bounded = o->lo != 0 || o->hi != 0;
  errno = 0;
  switch (o->kind) {
    case TI_OPT_INT: {
      const long long v = strtoll(value, &end, 10);
      if (!*value || *end || errno || (bounded && ((double)v < o->lo || (double)v > o->hi))) return wrong(cmd, o, value);
      *(int64_t *)o->target = v;
      return -1;
    }
    case TI_OPT_REAL: {
      const double v = strtod(value, &end);
      if (!*value || *end || !isfinite(v) || (bounded && (v < o->lo || v > o->hi))) return wrong(cmd, o, value);
      *(double *)o->target = v;
      return -1;
    }
    case TI_OPT_TEXTS: {
      ti_opt_texts *t = o->target;
      if (t->n == TI_OPT_TEXTS_MAX) {
        fprintf(stderr, "titan %s: --%s: at most %d of them\n", cmd->name, o->name, TI_OPT_TEXTS_MAX);
        return 2;
      }
      t->v[t->n++] = value;
      return -1;
    }
    case TI_OPT_TEXT:
      *(const char **)o->target = value;
      return -1;
    case TI_OPT_FLAG:
      break;
  }
  return -1;
}

static int from_environment(const ti_command *cmd, const ti_opt *opts, size_t n_opt) {
  for (size_t i = 0; i < n_opt; i++) {
    if (!opts[i].env) continue;
    char name[WORD_MAX + 8] = "TITAN_";
    size_t n = 6;
    for (const char *c = opts[i].name; *c && n + 1 < sizeof(name); c++) name[n++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    name[n] = 0;
    const char *v = getenv(name);
    const int rc = v && *v ? set_value(cmd, &opts[i], v) : -1;
    if (rc >= 0) return rc;
  }
  return -1;
}

// The row that arg names; *value: what stands behind '='; *negated: --no-NAME of a flag.
static const ti_opt *find(const ti_opt *opts, size_t n_opt, const char *arg, const char **value, bool *negated) {
  *value = NULL;
  *negated = false;
  if (arg[1] != '-') {
    for (size_t i = 0; i < n_opt; i++)
      if (opts[i].letter && opts[i].letter == arg[1] && !arg[2]) return &opts[i];
    return NULL;
  }
  const char *name = arg + 2;
  const size_t n = strcspn(name, "=");
  if (name[n]) *value = name + n + 1;
  for (size_t i = 0; i < n_opt; i++) {
    if (strlen(opts[i].name) == n && memcmp(opts[i].name, name, n) == 0) return &opts[i];
    if (opts[i].kind == TI_OPT_FLAG && n > 3 && !name[n] && memcmp(name, "no-", 3) == 0 && strcmp(opts[i].name, name + 3) == 0) {
      *negated = true;
      return &opts[i];
    }
  }
  return NULL;
}

int ti_opt_parse(const ti_command *cmd, const ti_opt *opts, size_t n_opt, int argc, char **argv, int *first_arg) {
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      ti_opt_help(cmd, opts, n_opt, stdout);
      return 0;
    }
  }
  int rc = from_environment(cmd, opts, n_opt);
  int n_pos = 0;
  bool flags_end = false;
  for (int i = 1; i < argc && rc < 0; i++) {
    char *arg = argv[i];
    if (flags_end || arg[0] != '-' || !arg[1]) {
      argv[1 + n_pos++] = arg;  // never beyond i
      continue;
    }
    if (strcmp(arg, "--") == 0) {
      flags_end = true;
      continue;
    }
    const char *value;
    bool negated;
    const ti_opt *o = find(opts, n_opt, arg, &value, &negated);
    if (!o) return unknown(cmd, opts, n_opt, arg);
    if (o->kind == TI_OPT_FLAG) {
      if (value) {
        fprintf(stderr, "titan %s: --%s takes no value\n", cmd->name, o->name);
        return 2;
      }
      *(bool *)o->target = !negated;
      continue;
    }
    if (!value && i + 1 < argc) value = argv[++i];
    if (!value) {
      fprintf(stderr, "titan %s: --%s wants a value: --%s %s\n", cmd->name, o->name, o->name, o->value);
      return 2;
    }
    rc = set_value(cmd, o, value);
  }
  if (rc >= 0) return rc;
  if (n_pos < cmd->min_args || n_pos > cmd->max_args) {
    fprintf(stderr, "titan %s: %d argument%s, expected %d", cmd->name, n_pos, n_pos == 1 ? "" : "s", cmd->min_args);
    if (cmd->max_args != cmd->min_args) fprintf(stderr, "..%d", cmd->max_args);
    fprintf(stderr, "\nusage: titan %s [flags] %s\n", cmd->name, cmd->args ? cmd->args : "");
    return 2;
  }
  argv[1 + n_pos] = NULL;
  *first_arg = 1;
  return -1;
}
