// The `titan` command: finds the subcommand and runs it. Everything else is one file a command.
#include <stdio.h>
#include <string.h>

#include "client/tool/tool.h"

static const struct {
  const char *name;
  ti_tool_fn run;
  const char *help;
} commands[] = {
    {"chat", ti_tool_chat, "talk to a model: history, streaming"},
    {"complete", ti_tool_complete, "continue a text"},
    {"tokenize", ti_tool_tokenize, "text to token ids (also without a server)"},
    {"detokenize", ti_tool_detokenize, "token ids to text (also without a server)"},
    {"render", ti_tool_render, "apply a chat template (without a server)"},
    {"perplexity", ti_tool_perplexity, "perplexity of a text under the served model"},
    {"status", ti_tool_status, "the cluster's ranks and queues"},
    {"top", ti_tool_top, "the same, live"},
    {"trace-report", ti_tool_trace_report, "where the time of a recorded trace went"},
    {"bench", ti_tool_bench, "load on a server, and its latencies"},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(*commands) };

static int help(FILE *to, int status) {
  fprintf(to, "usage: titan COMMAND [flags] [arguments]\n\n");
  for (int i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-13s %s\n", commands[i].name, commands[i].help);
  fprintf(to,
          "\ntitan COMMAND --help tells a command's flags; titan --version the version.\n"
          "exit status: 0 fine, 1 the server or the network failed, 2 usage or bad input\n");
  return status;
}

int main(int argc, char **argv) {
  if (argc < 2) return help(stderr, 2);
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) return help(stdout, 0);
  if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
    printf("titan %s\n", TI_VERSION);
    return 0;
  }
  const char *names[N_COMMANDS];
  for (int i = 0; i < N_COMMANDS; i++) {
    names[i] = commands[i].name;
    if (strcmp(argv[1], names[i]) == 0) return commands[i].run(argc - 1, argv + 1);
  }
  const char *near = ti_opt_nearest(argv[1], names, N_COMMANDS);
  fprintf(stderr, "titan: unknown command '%s'", argv[1]);
  if (near) fprintf(stderr, "; did you mean %s?", near);
  fprintf(stderr, "\n");
  return help(stderr, 2);
}
