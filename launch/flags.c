// The table of flags (see flags.h).
#include "launch/flags.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind {
  K_GROUP,
  K_STR,
  K_INT,
  K_REAL,
  K_SIZE,
  K_SWITCH,
  K_AUTO,
  K_CHOICE
} kind;  // K_AUTO: a switch that something else decides unless it is said

typedef struct flag {
  const char *name;
  kind kind;
  size_t at, size;      // in ti_flags
  double lo, hi;        // K_INT, K_REAL
  const char *choices;  // K_CHOICE: "auto|cpu|cuda", the index is stored; else the value's name in --help
  const char *def;      // its default as one would write it
  const char *help;
} flag;

#define AT(f) offsetof(ti_flags, f), sizeof(((ti_flags *)0)->f)
#define GROUP(title) \
  { title, K_GROUP, 0, 0, 0, 0, NULL, NULL, NULL }
#define MOST 2147483647.0

static const flag table[] = {
    GROUP("Model"),
    {"model", K_STR, AT(model), 0, 0, "PATH", "",
     "folder with config.json, tokenizer.json and model.safetensors, or random:ARCH?key=value (required)"},
    {"served-model-name", K_STR, AT(served_model_name), 0, 0, "NAME", "", "what clients call it; default: the last part of --model"},
    {"max-model-len", K_INT, AT(max_model_len), 0, MOST, "TOKENS", "0",
     "prompt and answer of one sequence; 0: what the model and the KV memory allow"},
    {"chat-template", K_STR, AT(chat_template), 0, 0, "FILE", "", "Jinja template in place of the tokenizer's own"},
    GROUP("Clients"),
    {"host", K_STR, AT(host), 0, 0, "ADDRESS", "127.0.0.1", "where HTTP listens; 0.0.0.0 for all interfaces"},
    {"port", K_INT, AT(port), 0, 65535, "PORT", "8000", "HTTP port; 0: a free one (see --ready-file)"},
    {"api-key", K_STR, AT(api_key), 0, 0, "KEY", "", "clients must send it as a bearer token; better in TITAN_API_KEY"},
    {"client-url", K_STR, AT(client_url), 0, 0, "URL", "", "also listen for libtitan here: ipc://PATH, tcp://HOST:PORT or tls+tcp://HOST:PORT"},
    {"client-tls-cert", K_STR, AT(client_tls_cert), 0, 0, "FILE", "", "certificate (PEM) of a tls+tcp:// --client-url"},
    {"client-tls-key", K_STR, AT(client_tls_key), 0, 0, "FILE", "", "its private key (PEM)"},
    {"client-tls-ca", K_STR, AT(client_tls_ca), 0, 0, "FILE", "", "libtitan's clients must show a certificate that this one (PEM) signs"},
    {"ui", K_SWITCH, AT(ui), 0, 0, NULL, "on", "the page at /"},
    GROUP("Mesh"),
    {"tensor-parallel-size", K_INT, AT(tp), 0, 4096, "N", "1", "workers that share each layer's attention and dense weights"},
    {"data-parallel-size", K_INT, AT(dp), 0, 4096, "N", "0", "groups of such workers; 0: workers / tensor-parallel-size"},
    {"expert-parallel-size", K_INT, AT(ep), 0, 4096, "N", "0", "groups that share the experts; 0: workers / expert-tensor-parallel-size"},
    {"expert-tensor-parallel-size", K_INT, AT(etp), 0, 4096, "N", "1", "workers that share each expert's weights"},
    {"num-redundant-experts", K_INT, AT(redundant), 0, 65536, "N", "0", "copies of busy experts in each MoE layer, over all workers"},
    {"expert-balance-tokens", K_INT, AT(balance_tokens), 0, 1e9, "TOKENS", "10000", "after so many those copies are chosen anew; 0: never"},
    GROUP("Memory and scheduling"),
    {"kv-cache-memory", K_SIZE, AT(kv_cache_memory), 0, 0, "SIZE", "0",
     "KV cache of each worker, as 4G or 512M; 0: on CPUs what is needed, at most 256M, on GPUs what is left of their share"},
    {"kv-cache-dtype", K_CHOICE, AT(kv_cache_dtype), 0, 0, "auto|float32|bfloat16|fp8", "auto",
     "type of cached keys and values; auto: float32 on CPUs, bfloat16 on GPUs"},
    {"gpu-memory-utilization", K_REAL, AT(gpu_memory_utilization), 0.01, 1, "FRACTION", "0.9",
     "part of a GPU's memory for weights, KV cache and all else; without effect on CPUs"},
    {"block-size", K_INT, AT(block_size), 0, 256, "TOKENS", "0", "tokens a KV page: 8, 16, 32, 64, 128 or 256; 0: 16 on CPUs, 64 on GPUs"},
    {"max-num-seqs", K_INT, AT(max_num_seqs), 0, 65536, "N", "0", "sequences that run at once in a group; 0: 64 on CPUs, 256 on GPUs"},
    {"max-num-batched-tokens", K_INT, AT(max_num_batched_tokens), 0, 1048576, "N", "0",
     "tokens a step and group, longer prompts are prefilled in chunks; 0: 512 on CPUs, 8192 on GPUs"},
    {"max-waiting", K_INT, AT(max_waiting), 1, 1048576, "N", "1024", "requests that may wait; beyond it clients get 429"},
    {"scheduling-policy", K_CHOICE, AT(scheduling_policy), 0, 0, "fcfs|priority", "fcfs",
     "who runs first; priority: the request's field, lower first"},
    {"enable-prefix-caching", K_SWITCH, AT(prefix_caching), 0, 0, NULL, "on", "reuse the KV pages of equal prompt beginnings"},
    {"speculative-config", K_STR, AT(speculative_config), 0, 0, "JSON", "",
     "drafts verified in each step, as {\"method\": \"ngram\", \"num_speculative_tokens\": 5, \"prompt_lookup_max\": 4}"},
    {"seed", K_INT, AT(seed), -1, 9007199254740992.0, "N", "-1", "of requests that bring none; -1: a random one each"},
    GROUP("Device"),
    {"device", K_CHOICE, AT(device), 0, 0, "auto|cpu|cuda", "auto", "what workers compute on; auto: a GPU if this build and host have one"},
    {"cpu-kernels", K_CHOICE, AT(cpu_kernels), 0, 0, "auto|ref|avx2|avx512|vnni", "auto",
     "which of the CPU backends; auto: the best that the processor runs; ref: plain C, slow"},
    {"threads", K_INT, AT(threads), 0, 1024, "N", "0", "compute threads a worker; 0: the CPUs it may use, shared with the host's other workers"},
    {"pin-threads", K_AUTO, AT(pin_threads), 0, 0, NULL, "auto",
     "each compute thread stays on one CPU; unless said: one a core where cores have several CPUs, and where several NUMA nodes are filled"},
    {"quantization", K_CHOICE, AT(quantization), 0, 0, "none|fp8", "none",
     "fp8: linear layers of wider types become FP8 at load, 128x128 blocks, and meet FP8 activations"},
    {"enforce-eager", K_SWITCH, AT(enforce_eager), 0, 0, NULL, "off", "launch a GPU's decode steps op by op instead of as recorded graphs"},
    {"activation-quant", K_CHOICE, AT(activation_quant), 0, 0, "auto|none|int8|fp8", "auto",
     "activations where weights are quantised; auto: int8 for 4- to 8-bit blocks, fp8 for FP8 weights on GPUs, else none"},
    {"enable-two-batch-overlap", K_CHOICE, AT(overlap), 0, 0, "off|on|auto", "auto", "experts' communication under another micro-batch's compute"},
    {"allow-nan", K_SWITCH, AT(allow_nan), 0, 0, NULL, "off", "load weights that are NaN or infinite instead of refusing the model"},
    {"deterministic", K_AUTO, AT(deterministic), 0, 0, NULL, "auto",
     "the same bits whatever else is in the batch; unless said: on CPUs yes, on GPUs no"},
    GROUP("Running"),
    {"start-timeout", K_REAL, AT(start_timeout), 1, 86400, "SECONDS", "600", "all ranks must have loaded by then"},
    {"shutdown-timeout", K_REAL, AT(shutdown_timeout), 0, 86400, "SECONDS", "30",
     "what SIGTERM and SIGINT leave running requests to finish; a second signal: none"},
    {"control-ip", K_STR, AT(control_ip), 0, 0, "ADDRESS", "",
     "where workers of other hosts reach the coordinator; default: the interface towards them"},
    {"ready-file", K_STR, AT(ready_file), 0, 0, "FILE", "", "gets the HTTP URL once /health is 200"},
    {"status-file", K_STR, AT(status_file), 0, 0, "FILE", "", "gets {\"exit\", \"rank\", \"doing\", \"message\"} at the end"},
    {"trace", K_STR, AT(trace), 0, 0, "FILE", "", "write a timeline of all ranks for Perfetto or chrome://tracing"},
    {"log-level", K_CHOICE, AT(log_level), 0, 0, "error|warn|info|debug", "info", "how much goes to stderr"},
    {"plan", K_SWITCH, AT(plan), 0, 0, NULL, "off", "print what each worker would hold, and end"},
    {"version", K_SWITCH, AT(version), 0, 0, NULL, "off", "print the version, and end"},
    {"help", K_SWITCH, AT(help), 0, 0, NULL, "off", "this text"},
};
#define N_FLAG (sizeof table / sizeof *table)

// ---- sizes ----

ti_status ti_size_parse(const char *text, uint64_t *out) {
  char *end;
  errno = 0;
  const double v = strtod(text, &end);
  if (end == text || errno || !(v >= 0) || !isdigit((unsigned char)text[0])) return TI_ERR_ARG;
  static const char units[] = "KMGT";
  int shift = 0;
  const char *u = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
  if (u) {
    shift = 10 * (int)(u - units + 1);
    end++;
    if (*end == 'i') end++;
  }
  if (*end == 'B' || *end == 'b') end++;
  const double bytes = ldexp(v, shift);
  if (*end || bytes > 9e18) return TI_ERR_ARG;
  *out = (uint64_t)bytes;
  return TI_OK;
}

const char *ti_size_text(uint64_t bytes, char out[32]) {
  static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double v = (double)bytes;
  int i = 0;
  for (; v >= 1000 && i < 5; i++) v /= 1024;
  snprintf(out, 32, "%.*f %s", i == 0 || v >= 100 ? 0 : v >= 10 ? 1 : 2, v, unit[i]);
  return out;
}

// ---- one value ----

static int choice_index(const char *choices, const char *value) {
  int i = 0;
  for (const char *c = choices;; i++) {
    const size_t n = strcspn(c, "|");
    if (strlen(value) == n && strncmp(c, value, n) == 0) return i;
    if (!c[n]) return -1;
    c += n + 1;
  }
}

static ti_status set_choice(const flag *f, const char *value, void *at, ti_error *err) {
  const int i = choice_index(f->choices, value);
  if (i < 0) return ti_error_set(err, TI_ERR_ARG, "--%s %s: expected %s", f->name, value, f->choices);
  *(int64_t *)at = i;
  return TI_OK;
}

static ti_status set_number(const flag *f, const char *value, void *at, ti_error *err) {
  char *end;
  errno = 0;
  const double v = f->kind == K_INT ? (double)strtoll(value, &end, 10) : strtod(value, &end);
  const char *what = f->kind == K_INT ? "an integer" : "a number";
  if (end == value || *end || errno || !(v >= f->lo && v <= f->hi))
    return ti_error_set(err, TI_ERR_ARG, "--%s %s: expected %s in %.10g..%.10g", f->name, value, what, f->lo, f->hi);
  if (f->kind == K_INT) {
    *(int64_t *)at = (int64_t)v;
  } else {
    *(double *)at = v;
  }
  return TI_OK;
}

static bool is_switch(const flag *f) { return f->kind == K_SWITCH || f->kind == K_AUTO; }

// on, off and their other names; -1: none of them.
static int switch_of(const char *value) {
  static const char *const words[] = {"off", "on", "0", "1", "false", "true", "no", "yes"};
  for (int i = 0; i < 8; i++)
    if (strcmp(value, words[i]) == 0) return i % 2;
  return -1;
}

static ti_status set_value(const flag *f, const char *value, ti_flags *out, ti_error *err) {
  void *at = (char *)out + f->at;
  switch (f->kind) {
    case K_STR:
      if (strlen(value) >= f->size) return ti_error_set(err, TI_ERR_ARG, "--%s: %zu bytes, at most %zu fit", f->name, strlen(value), f->size - 1);
      memcpy(at, value, strlen(value) + 1);
      return TI_OK;
    case K_SIZE:
      if (ti_size_parse(value, at)) return ti_error_set(err, TI_ERR_ARG, "--%s %s: expected a size such as 512M, 4G or 65536", f->name, value);
      return TI_OK;
    case K_SWITCH:
    case K_AUTO: {
      const int v = f->kind == K_AUTO && strcmp(value, "auto") == 0 ? TI_SWITCH_AUTO : switch_of(value);
      if (v < 0) return ti_error_set(err, TI_ERR_ARG, "--%s %s: expected on or off", f->name, value);
      if (f->kind == K_AUTO) {
        *(int64_t *)at = v;
      } else {
        *(bool *)at = v;
      }
      return TI_OK;
    }
    case K_CHOICE:
      return set_choice(f, value, at, err);
    default:
      return set_number(f, value, at, err);
  }
}

// ---- names ----

static bool name_is(const char *name, const char *given, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!name[i] || name[i] != (given[i] == '_' ? '-' : given[i])) return false;
  return !name[n];
}

// Also by the opposite of a switch: no-ui, and no-enable-prefix-caching as vLLM spells it.
static const flag *find(const char *given, size_t n, bool *no) {
  *no = false;
  for (size_t i = 0; i < N_FLAG; i++)
    if (table[i].kind != K_GROUP && name_is(table[i].name, given, n)) return &table[i];
  if (n < 4 || strncmp(given, "no", 2) || (given[2] != '-' && given[2] != '_')) return NULL;
  *no = true;
  for (size_t i = 0; i < N_FLAG; i++)
    if (is_switch(&table[i]) && name_is(table[i].name, given + 3, n - 3)) return &table[i];
  return NULL;
}

// Edit distance, for texts of fewer than 64 bytes.
static int distance(const char *a, const char *b) {
  int row[64];
  const int n = (int)strlen(b);
  for (int j = 0; j <= n; j++) row[j] = j;
  for (int i = 1; a[i - 1]; i++) {
    int diagonal = row[0];
    row[0] = i;
    for (int j = 1; j <= n; j++) {
      const int change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
      if (change < row[j]) row[j] = change;
    }
  }
  return row[n];
}

static ti_status unknown(const char *given, size_t n, ti_error *err) {
  char name[64];
  const char *best = table[1].name;
  snprintf(name, sizeof name, "%.*s", n < 60 ? (int)n : 60, given);
  for (char *c = name; *c; c++)
    if (*c == '_') *c = '-';
  int least = 1000;
  for (size_t i = 0; i < N_FLAG; i++) {
    if (table[i].kind == K_GROUP) continue;
    const int d = distance(name, table[i].name);
    if (d < least) least = d, best = table[i].name;
  }
  return ti_error_set(err, TI_ERR_ARG, "unknown flag --%s; the nearest is --%s (titan-serve --help lists all)", name, best);
}

// ---- all of them ----

static ti_status from_environment(ti_flags *out, ti_error *err) {
  for (size_t i = 0; i < N_FLAG; i++) {
    if (table[i].kind == K_GROUP) continue;
    char name[80];
    snprintf(name, sizeof name, "TITAN_%s", table[i].name);
    for (char *c = name; *c; c++) *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    const char *v = getenv(name);
    if (!v || !*v) continue;
    const ti_status st = set_value(&table[i], v, out, err);
    if (st) return ti_error_prefix(err, "%s", name);
  }
  return TI_OK;
}

// One flag at argv[*i]; moves *i to its last word.
static ti_status from_word(int argc, char *const *argv, int *i, ti_flags *out, ti_error *err) {
  const char *word = argv[*i];
  if (strcmp(word, "-h") == 0) word = "--help";
  if (strncmp(word, "--", 2) || !word[2]) return ti_error_set(err, TI_ERR_ARG, "%.100s: flags begin with -- (titan-serve --help lists them)", word);
  const char *name = word + 2, *value = strchr(name, '=');
  const size_t n = value ? (size_t)(value - name) : strlen(name);
  bool no;
  const flag *f = find(name, n, &no);
  if (!f) return unknown(name, n, err);
  if (is_switch(f)) {
    if (no && value) return ti_error_set(err, TI_ERR_ARG, "--no-%s takes no value", f->name);
    return set_value(f, no ? "off" : value ? value + 1 : "on", out, err);
  }
  if (!value && *i + 1 >= argc) return ti_error_set(err, TI_ERR_ARG, "--%s: expected a value (%s)", f->name, f->choices);
  return set_value(f, value ? value + 1 : argv[++*i], out, err);
}

ti_status ti_flags_parse(int argc, char *const *argv, ti_flags *out, ti_error *err) {
  ti_flags f;
  memset(&f, 0, sizeof f);
  ti_status st = TI_OK;
  for (size_t i = 0; !st && i < N_FLAG; i++)
    if (table[i].kind != K_GROUP) st = set_value(&table[i], table[i].def, &f, err);
  if (!st) st = from_environment(&f, err);
  for (int i = 1; i < argc; i++) {  // all of them: --status-file may stand behind a wrong one
    const ti_status one = from_word(argc, argv, &i, &f, st ? NULL : err);
    if (!st) st = one;
  }
  if (!st && f.block_size && (f.block_size < 8 || (f.block_size & (f.block_size - 1)))) {
    st = ti_error_set(err, TI_ERR_ARG, "--block-size %d: expected 8, 16, 32, 64, 128 or 256", (int)f.block_size);
  }
  if (!st && !f.help && !f.version && !f.model[0])
    st = ti_error_set(err, TI_ERR_ARG, "--model is missing: a folder with config.json and model.safetensors, such as models/titan-tiny-dense");
  if (st) {
    memset(out, 0, sizeof *out);
    memcpy(out->status_file, f.status_file, sizeof f.status_file);
  } else {
    *out = f;
  }
  return st;
}

void ti_flags_help(FILE *f) {
  fprintf(f,
          "titan-serve: serves a language model on a cluster. Rank 0 coordinates, every other rank computes.\n\n"
          "  mpirun -np 3 titan-serve --model PATH [flags]      two workers; launch/up.sh adds mpirun's flags\n\n"
          "Any flag may stand in the environment: --max-num-seqs 8 is TITAN_MAX_NUM_SEQS=8.\n");
  for (size_t i = 0; i < N_FLAG; i++) {
    const flag *t = &table[i];
    if (t->kind == K_GROUP) {
      fprintf(f, "\n%s\n", t->name);
      continue;
    }
    char left[96];
    const bool plain = is_switch(t), on = plain && strcmp(t->def, "off");
    snprintf(left, sizeof left, "--%s%s%s%s", on ? "[no-]" : "", t->name, plain ? "" : " ", plain ? "" : t->choices);
    const bool shown = !plain && t->def[0] && strcmp(t->def, "0") && strcmp(t->def, "-1");
    fprintf(f, "  %-50s %s%s%s%s\n", left, t->help, shown ? " [" : "", shown ? t->def : "", shown ? "]" : "");
  }
  fprintf(f,
          "\nSignals (rank 0): SIGTERM, SIGINT and SIGUSR1 stop admission, let running requests finish, and end with 0.\n"
          "Exit codes: 0 fine, 2 usage, 3 model, 4 cluster (a rank was lost), 5 internal.\n");
}
