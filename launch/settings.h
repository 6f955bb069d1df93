// What a job is: flags, mesh and sizes, decided once by rank 0 and sent to every rank as it is (plain data, no pointers).
#ifndef TI_LAUNCH_SETTINGS_H
#define TI_LAUNCH_SETTINGS_H
#include <stdio.h>

#include "base/dtype.h"
#include "base/mesh.h"
#include "launch/flags.h"
#include "launch/speculative.h"
#include "model/checkpoint.h"
#include "model/config.h"

#define TI_SECRET_BYTES 32

typedef struct ti_settings {
  ti_flags flags;
  ti_mesh mesh;
  uint8_t secret[TI_SECRET_BYTES];
  uint64_t id;
  uint32_t page_tokens, max_model_len, max_num_seqs, max_num_batched_tokens;
  int64_t device;         // TI_DEVICE_CPU or TI_DEVICE_CUDA
  char device_note[160];  // why --device auto gave no GPU; "": nothing to say
  ti_dtype kv_dtype;
  bool deterministic;
  uint64_t kv_bytes;  // a worker; 0: what its GPU has left
  ti_speculative speculative;
} ti_settings;

// Decides all but secret and id. Errors (TI_ERR_ARG) name the flag, the value, the limit, what would do.
ti_status ti_settings_decide(const ti_flags *f, const ti_config *c, int workers, ti_settings *out, ti_error *err) TI_MUST_CHECK;
// Every tensor that c says there is: its name, shape and type, without reading its data. Errors name file and tensor.
ti_status ti_settings_check_weights(const ti_config *c, const ti_checkpoint *ck, ti_error *err) TI_MUST_CHECK;
// --enable-two-batch-overlap: from how many rows of a group a step is split in two micro-batches; 0: never.
uint32_t ti_settings_two_batch_rows(const ti_settings *job);
// --plan: what each worker would hold.
void ti_settings_print_plan(const ti_settings *job, const ti_config *c, FILE *f);
const char *ti_settings_model_name(const ti_flags *f);  // --served-model-name, or the last part of --model

#endif
