// What rank 0 decides, and the arithmetic of what a worker holds, against the checkpoints themselves.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/device.h"
#include "launch/holdings.h"
#include "launch/settings.h"

#define DENSE TI_SOURCE_DIR "/models/titan-tiny-dense"
#define MOE TI_SOURCE_DIR "/models/titan-tiny-moe"

static ti_config model;
static ti_flags f;
static ti_settings s;
static ti_error err;

static void load(const char *dir) {
  cr_assert_eq(ti_config_load(dir, &model, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_flags_parse(3, (char *[]){"titan-serve", "--model", (char *)dir}, &f, &err), TI_OK, "%s", err.text);
}

// Bytes of all tensors but those of layers from n_layer on (MTP).
static uint64_t stored_bytes(const char *dir) {
  ti_checkpoint *c;
  uint64_t sum = 0;
  cr_assert_eq(ti_checkpoint_open(dir, &model, &c, &err), TI_OK, "%s", err.text);
  for (int i = 0; i < c->ops->count(c); i++) {
    ti_tensor t;
    cr_assert_eq(c->ops->at(c, i, &t), TI_OK);
    const char *layer = strstr(t.name, "layers.");
    if (!layer || strtol(layer + 7, NULL, 10) < model.n_layer) sum += t.bytes;
  }
  ti_checkpoint_close(c);
  return sum;
}
static ti_holdings held(int workers, int tp, int ep, int w) {
  ti_mesh mesh;
  ti_holdings h;
  cr_assert_eq(ti_mesh_init(&mesh, workers, tp, 0, ep, 0, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_holdings_of(&model, &mesh, 0, w, 16, TI_F32, &h, &err), TI_OK, "%s", err.text);
  return h;
}

Test(holdings, one_worker_holds_the_checkpoint) {
  load(DENSE);
  cr_assert_eq(held(1, 1, 0, 0).weights, stored_bytes(DENSE));
  load(MOE);
  cr_assert_eq(held(1, 1, 0, 0).weights, stored_bytes(MOE));
}
Test(holdings, shards_add_up_to_the_whole) {
  load(DENSE);
  const ti_holdings whole = held(1, 1, 0, 0), a = held(2, 2, 0, 0), b = held(2, 2, 0, 1);
  for (int i = 0; i < TI_HOLD_COUNT; i++) {
    const uint64_t copies = i == TI_HOLD_SMALL ? 2 : 1;  // norms are on every rank
    cr_assert_eq(a.weight[i] + b.weight[i], copies * whole.weight[i], "%s", ti_holding_name((ti_holding)i));
  }
  cr_assert_eq(a.page_bytes + b.page_bytes, whole.page_bytes);
}
Test(holdings, experts_are_held_once_over_all_workers) {
  load(MOE);
  uint64_t sum = 0;
  int experts = 0;
  for (int w = 0; w < 3; w++) {
    const ti_holdings h = held(3, 1, 3, w);
    sum += h.weight[TI_HOLD_EXPERTS];
    experts += h.experts;
  }
  cr_assert_eq(sum, held(1, 1, 0, 0).weight[TI_HOLD_EXPERTS]);
  cr_assert_eq(experts, model.moe.n_expert);
}

static ti_status decide(int workers) { return ti_settings_decide(&f, &model, workers, &s, &err); }

Test(settings, default_memory_is_what_is_needed_up_to_256_mib) {
  load(DENSE);
  cr_assert_eq(decide(1), TI_OK, "%s", err.text);
  cr_assert_eq(s.max_model_len, 4096);
  cr_assert(s.kv_bytes <= 256u << 20 && s.kv_bytes > 255u << 20);
  f.max_num_seqs = 1;
  f.max_model_len = 64;
  cr_assert_eq(decide(1), TI_OK, "%s", err.text);
  cr_assert_eq(s.kv_bytes, 5 * held(1, 1, 0, 0).page_bytes);
}
Test(settings, a_length_that_was_not_asked_for_is_cut_to_the_memory) {
  load(DENSE);
  f.kv_cache_memory = 10 << 20;
  cr_assert_eq(decide(1), TI_OK, "%s", err.text);
  cr_assert(s.max_model_len < 4096 && s.max_model_len > 1024, "%u", s.max_model_len);
  f.max_model_len = 4096;
  cr_assert_eq(decide(1), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--max-model-len is 4096"), "%s", err.text);
}
static const char *plan(int workers) {
  static char text[8192];
  cr_assert_eq(decide(workers), TI_OK, "%s", err.text);
  memset(text, 0, sizeof text);
  FILE *out = fmemopen(text, sizeof text - 1, "w");
  ti_settings_print_plan(&s, &model, out);
  fclose(out);
  return text;
}
Test(settings, the_plan_says_what_is_kept_twice_and_what_a_death_costs) {
  load(MOE);
  const char *text = plan(2);
  cr_assert(strstr(text, "if a worker dies, another has to load up to 12.4 MiB, 3.00 MiB of it experts, and up to 23296 tokens of its group are"),
            "%s", text);
  cr_assert_null(strstr(text, "latent"));
  f.tp = 2;
  text = plan(2);
  cr_assert(strstr(text, "MLA's latent is kept by each of a group's 2 tp ranks: 22.5 KiB a token in all\n"), "%s", text);
  cr_assert(strstr(text, "; the KV cache is on its group's other ranks\n"), "%s", text);
}
Test(settings, copies_of_experts_need_experts) {
  load(DENSE);
  f.redundant = 1;
  cr_assert_eq(decide(1), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--num-redundant-experts 1: expected 0..0"), "%s", err.text);
  load(MOE);
  f.redundant = 17;
  cr_assert_eq(decide(1), TI_ERR_ARG);
  f.redundant = 16;
  cr_assert_eq(decide(1), TI_OK, "%s", err.text);
}
Test(settings, drafts_are_part_of_the_job) {
  load(DENSE);
  snprintf(f.speculative_config, sizeof f.speculative_config, "{\"method\": \"ngram\", \"num_speculative_tokens\": 5}");
  cr_assert_eq(decide(1), TI_OK, "%s", err.text);
  cr_assert_eq(s.speculative.max_draft, 5);
}
Test(settings, refuse_what_does_not_fit_with_the_numbers_that_would) {
  load(DENSE);
  f.tp = 3;
  cr_assert_eq(decide(3), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--tensor-parallel-size 3"), "%s", err.text);
  f.tp = 1;
  f.max_model_len = 5000;
  cr_assert_eq(decide(1), TI_ERR_ARG);
  cr_assert(strstr(err.text, "4096"), "%s", err.text);
  f.max_model_len = 0;
  f.max_num_batched_tokens = 8;
  cr_assert_eq(decide(1), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--max-num-seqs (64)"), "%s", err.text);
  f.max_num_batched_tokens = 512;
  f.device = TI_DEVICE_CUDA;
  cr_assert_eq(decide(1), TI_ERR_ARG);
  cr_assert(strstr(err.text, "no CUDA"), "%s", err.text);
  f.device = TI_DEVICE_AUTO;
  f.kv_cache_memory = 1000;
  cr_assert_eq(decide(1), TI_ERR_ARG);
}
Test(settings, weights_are_checked_by_name_and_shape) {
  load(DENSE);
  ti_checkpoint *c;
  cr_assert_eq(ti_checkpoint_open(DENSE, &model, &c, &err), TI_OK);
  cr_assert_eq(ti_settings_check_weights(&model, c, &err), TI_OK, "%s", err.text);
  model.ffn = 512;
  cr_assert_eq(ti_settings_check_weights(&model, c, &err), TI_ERR_FORMAT);
  cr_assert(strstr(err.text, "mlp.gate_proj"), "%s", err.text);
  ti_checkpoint_close(c);
}

Test(device, cpu_lists_are_read_as_linux_writes_them) {
  cpu_set_t set;
  cr_assert_eq(ti_cpulist_parse("0-3,8,10-11\n", &set), TI_OK);
  cr_assert(CPU_COUNT(&set) == 7 && CPU_ISSET(3, &set) && CPU_ISSET(8, &set) && !CPU_ISSET(9, &set) && CPU_ISSET(11, &set));
  const char *const wrong[] = {"", "\n", "3-1", "a", "1,", "1;2", "0-99999"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) cr_assert_eq(ti_cpulist_parse(wrong[i], &set), TI_ERR_FORMAT, "\"%s\"", wrong[i]);
}
// What is needed, what there is, what would fit.
Test(device, weights_that_do_not_fit_are_told_with_what_would) {
  const uint64_t gib = 1 << 30;
  ti_device_room r = {
      .name = "GPU of a test", .index = 2, .sharers = 1, .tp = 1, .total = 80 * gib, .free = 79 * gib, .share = 0.9, .weights = 71 * gib};
  cr_assert_eq(ti_device_fits(&r, &err), TI_OK);
  r.weights = 140 * gib;
  cr_assert_eq(ti_device_fits(&r, &err), TI_ERR_NOMEM);
  cr_assert(strstr(err.text, "GPU 2 (GPU of a test)") && strstr(err.text, "140 GiB") && strstr(err.text, "72.0 GiB"), "%s", err.text);
  cr_assert(strstr(err.text, "--tensor-parallel-size 2 ") && !strstr(err.text, "fp8") && !strstr(err.text, "other programs"), "%s", err.text);
  r.quantised = 71 * gib;
  r.weights = 150 * gib;
  cr_assert_eq(ti_device_fits(&r, &err), TI_ERR_NOMEM);
  cr_assert(strstr(err.text, "--tensor-parallel-size 4 ") && strstr(err.text, "--quantization fp8, which takes 71.0 GiB"), "%s", err.text);
  r.weights = 60 * gib;
  r.free = 10 * gib;
  r.quantised = 0;
  cr_assert_eq(ti_device_fits(&r, &err), TI_ERR_NOMEM);
  cr_assert(strstr(err.text, "other programs") && strstr(err.text, "10.0 GiB"), "%s", err.text);
  r.free = 0;
  cr_assert_eq(ti_device_fits(&r, &err), TI_ERR_NOMEM);  // and comes to an end
}

Test(device, a_host_has_room_for_all_its_workers_weights) {
  const uint64_t gib = 1 << 30;
  cr_assert_eq(ti_host_fits(64 * gib, 4, 16 * gib, 9, &err), TI_OK);
  cr_assert_eq(ti_host_fits(64 * gib, 4, 17 * gib, 0, &err), TI_ERR_NOMEM);
  cr_assert(strstr(err.text, "17.0 GiB") && strstr(err.text, "64.0 GiB of memory for 4 workers") && !strstr(err.text, "redundant"), "%s", err.text);
  cr_assert_eq(ti_host_fits(64 * gib, 1, 65 * gib, 9, &err), TI_ERR_NOMEM);
  cr_assert(strstr(err.text, "fewer copies than --num-redundant-experts 9"), "%s", err.text);
}

Test(device, auto_without_a_gpu_says_why) {
  int64_t device;
  char note[160];
  load(DENSE);
  cr_assert_eq(ti_device_decide(TI_DEVICE_AUTO, &model, &device, note, sizeof note, &err), TI_OK);
  cr_assert(device == TI_DEVICE_CUDA || strlen(note) > 10, "%s", note);
  load(MOE);
  cr_assert_eq(ti_device_decide(TI_DEVICE_AUTO, &model, &device, note, sizeof note, &err), TI_OK);
  cr_assert(device == TI_DEVICE_CPU && strstr(note, "mixture-of-experts"), "%s", note);
  cr_assert_eq(ti_device_decide(TI_DEVICE_CPU, &model, &device, note, sizeof note, &err), TI_OK);
  cr_assert(device == TI_DEVICE_CPU && !note[0]);
  cr_assert_eq(ti_device_decide(TI_DEVICE_CUDA, &model, &device, note, sizeof note, &err), TI_ERR_ARG);
  cr_assert(strstr(err.text, "--device cuda: mixture-of-experts"), "%s", err.text);
}

// What --quantization fp8 makes of it at load: half of the linear layers, the rest as stored.
Test(settings, the_plan_tells_what_fp8_weights_take) {
  load(DENSE);
  const ti_holdings h = held(1, 1, 0, 0);
  const uint64_t linear = h.weights - h.weight[TI_HOLD_EMBED] - h.weight[TI_HOLD_SMALL];
  char *text = NULL, want[32];
  size_t n = 0;
  for (int fp8 = 0; fp8 < 2; fp8++) {
    f.quantization = fp8 ? TI_WEIGHTS_FP8 : TI_WEIGHTS_STORED;
    cr_assert_eq(decide(1), TI_OK, "%s", err.text);
    FILE *out = open_memstream(&text, &n);
    ti_settings_print_plan(&s, &model, out);
    fclose(out);
    cr_assert_eq(strstr(text, "made at load") != NULL, fp8, "%s", text);
    cr_assert(!fp8 || strstr(text, ti_size_text(h.weights - linear / 2, want)), "%s: no %s", text, want);
    free(text);
  }
}
