// Flags: values, ranges, units, spelling, precedence, and what errors say.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "launch/flags.h"

static ti_flags f;
static ti_error err;
#define PARSE(...) \
  ti_flags_parse((int)(sizeof((char *[]){"titan-serve", __VA_ARGS__}) / sizeof(char *)), (char *[]){"titan-serve", __VA_ARGS__}, &f, &err)
#define REFUSES(part, ...)                                        \
  do {                                                            \
    cr_assert_eq(PARSE("--model", "m", __VA_ARGS__), TI_ERR_ARG); \
    cr_assert(strstr(err.text, part), "%s", err.text);            \
  } while (0)

Test(flags, have_defaults) {
  cr_assert_eq(PARSE("--model", "m"), TI_OK, "%s", err.text);
  cr_assert_str_eq(f.model, "m");
  cr_assert_str_eq(f.host, "127.0.0.1");
  cr_assert_eq(f.port, 8000);
  cr_assert_eq(f.tp, 1);
  cr_assert(f.prefix_caching && f.deterministic == TI_SWITCH_AUTO && f.ui && !f.plan);
  cr_assert_eq(f.seed, -1);
  cr_assert_eq(f.device, TI_DEVICE_AUTO);
}
Test(flags, take_values_in_both_forms_and_with_underscores) {
  cr_assert_eq(PARSE("--model=m", "--port", "0", "--tensor_parallel_size=2", "--kv-cache-memory", "1.5G", "--kv-cache-dtype", "bfloat16",
                     "--shutdown-timeout", "2.5"),
               TI_OK, "%s", err.text);
  cr_assert_eq(f.port, 0);
  cr_assert_eq(f.tp, 2);
  cr_assert_eq(f.kv_cache_memory, 3ull << 29);
  cr_assert_eq(f.kv_cache_dtype, TI_KV_BF16);
  cr_assert_eq(f.shutdown_timeout, 2.5);
}
Test(flags, switches_go_both_ways) {
  cr_assert_eq(PARSE("--model=m", "--no-enable-prefix-caching", "--no-ui", "--deterministic=off", "--plan"), TI_OK, "%s", err.text);
  cr_assert(!f.prefix_caching && !f.ui && f.deterministic == TI_SWITCH_OFF && f.plan);
  cr_assert_eq(PARSE("--model=m", "--deterministic"), TI_OK, "%s", err.text);
  cr_assert_eq(f.deterministic, TI_SWITCH_ON);
  REFUSES("takes no value", "--no-ui=on");
  REFUSES("on or off", "--ui=maybe");
}
Test(flags, the_command_line_beats_the_environment) {
  setenv("TITAN_PORT", "9000", 1);
  setenv("TITAN_MAX_NUM_SEQS", "7", 1);
  setenv("TITAN_UI", "0", 1);
  cr_assert_eq(PARSE("--model", "m", "--port", "9001"), TI_OK, "%s", err.text);
  cr_assert_eq(f.port, 9001);
  cr_assert_eq(f.max_num_seqs, 7);
  cr_assert(!f.ui);
  setenv("TITAN_PORT", "many", 1);
  cr_assert_eq(PARSE("--model", "m"), TI_ERR_ARG);
  cr_assert(strstr(err.text, "TITAN_PORT") && strstr(err.text, "0..65535"), "%s", err.text);
}
Test(flags, errors_name_flag_value_and_limit) {
  REFUSES("--port 70000: expected an integer in 0..65535", "--port", "70000");
  REFUSES("--port 8x", "--port", "8x");
  REFUSES("--port: expected a value", "--port");
  REFUSES("--gpu-memory-utilization nan", "--gpu-memory-utilization", "nan");
  REFUSES("auto|cpu|cuda", "--device", "tpu");
  REFUSES("512M", "--kv-cache-memory", "lots");
  REFUSES("--block-size 24", "--block-size", "24");
  REFUSES("flags begin with --", "serve");
  char big[600];
  memset(big, 'x', sizeof big);
  big[599] = 0;
  REFUSES("at most", "--host", big);
  cr_assert_eq(PARSE("--port", "1"), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--model is missing"), "%s", err.text);
}
Test(flags, an_unknown_one_gets_the_nearest_known) {
  REFUSES("unknown flag --tensor-paralel-size; the nearest is --tensor-parallel-size", "--tensor-paralel-size", "2");
  REFUSES("the nearest is --max-num-seqs", "--max_num_seq", "2");
}
Test(flags, sizes_have_units) {
  static const struct {
    const char *s;
    uint64_t v;
  } good[] = {{"0", 0}, {"65536", 65536}, {"4G", 4ull << 30}, {"4GiB", 4ull << 30}, {"512mb", 512ull << 20}, {"0.5K", 512}, {"2T", 2ull << 40}};
  static const char *const bad[] = {"", "G", "-1", "4X", "4GG", "1e40", "nan", " 4G", "4 G"};
  uint64_t v;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    cr_assert_eq(ti_size_parse(good[i].s, &v), TI_OK, "%s", good[i].s);
    cr_assert_eq(v, good[i].v, "%s", good[i].s);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) cr_assert_eq(ti_size_parse(bad[i], &v), TI_ERR_ARG, "'%s'", bad[i]);
  char t[32];
  cr_assert_str_eq(ti_size_text(96, t), "96 B");
  cr_assert_str_eq(ti_size_text(256u << 20, t), "256 MiB");
  cr_assert_str_eq(ti_size_text(3ull << 29, t), "1.50 GiB");
}
Test(flags, help_lists_every_flag_of_the_design) {
  char *text = NULL;
  size_t n = 0;
  FILE *out = open_memstream(&text, &n);
  ti_flags_help(out);
  fclose(out);
  static const char *const names[] = {"--model",
                                      "--host",
                                      "--port",
                                      "--api-key",
                                      "--tensor-parallel-size",
                                      "--data-parallel-size",
                                      "--expert-parallel-size",
                                      "--max-model-len",
                                      "--max-num-seqs",
                                      "--max-num-batched-tokens",
                                      "--block-size",
                                      "--gpu-memory-utilization",
                                      "--kv-cache-dtype",
                                      "--served-model-name",
                                      "--scheduling-policy",
                                      "enable-prefix-caching",
                                      "--seed",
                                      "--speculative-config",
                                      "--shutdown-timeout",
                                      "--device",
                                      "--threads",
                                      "--kv-cache-memory",
                                      "--client-url",
                                      "--expert-tensor-parallel-size",
                                      "--activation-quant",
                                      "--enable-two-batch-overlap",
                                      "--chat-template",
                                      "deterministic",
                                      "allow-nan",
                                      "--trace",
                                      "--log-level",
                                      "--ready-file",
                                      "--status-file",
                                      "--plan"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) cr_assert(strstr(text, names[i]), "%s", names[i]);
  free(text);
}

Test(flags, a_status_file_is_known_even_behind_a_wrong_flag) {
  cr_assert_eq(PARSE("--wrong", "--model", "m", "--port", "none", "--status-file", "s"), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--wrong"), "%s", err.text);
  cr_assert_str_eq(f.status_file, "s");
}
