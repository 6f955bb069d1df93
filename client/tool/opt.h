// Command-line flags from a table: parsing, --help and "did you mean" all follow from it.
//
// Forms: --name VALUE, --name=VALUE, --flag, --no-flag (of a flag), -x VALUE; "--" ends the flags. TITAN_<NAME> in the environment sets what the
// command line does not, for rows that say so. Values are checked here: a wrong one is named with its limits.
#ifndef TI_CLIENT_TOOL_OPT_H
#define TI_CLIENT_TOOL_OPT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

typedef enum ti_opt_kind { TI_OPT_FLAG, TI_OPT_INT, TI_OPT_REAL, TI_OPT_TEXT, TI_OPT_TEXTS } ti_opt_kind;

#define TI_OPT_TEXTS_MAX 64
typedef struct ti_opt_texts {  // a flag that may be given several times
  const char *v[TI_OPT_TEXTS_MAX];
  int n;
} ti_opt_texts;

typedef struct ti_opt {
  const char *name;   // without the dashes
  const char *value;  // the placeholder in --help; NULL for a flag
  const char *help;
  ti_opt_kind kind;
  void *target;   // bool *, int64_t *, double *, const char **, ti_opt_texts *: holds the default before, the value after
  double lo, hi;  // of numbers; both 0: any
  char letter;    // short form, 0: none
  bool env;       // TITAN_NAME sets it, too
} ti_opt;

typedef struct ti_command {
  const char *name;
  const char *args;     // "PROMPT" in the usage line; NULL: no positional arguments
  const char *summary;  // one line
  const char *details;  // more for --help, or NULL
  int min_args, max_args;
} ti_command;

// Parses argv[1..]. *first_arg: index in argv of the first positional argument (argv is permuted: they come last). Returns -1 to go on, or the
// process's exit status: 0 after --help, 2 after an error (told on stderr).
int ti_opt_parse(const ti_command *cmd, const ti_opt *opts, size_t n_opt, int argc, char **argv, int *first_arg);
void ti_opt_help(const ti_command *cmd, const ti_opt *opts, size_t n_opt, FILE *to);
// The name among names[n] that is nearest to word, or NULL when none is near.
const char *ti_opt_nearest(const char *word, const char *const *names, size_t n);

#endif
