// titan-serve's flags: one table with name, type, range, default and help; --help, the environment (TITAN_<FLAG>) and errors come from it.
//
//   --name value, --name=value; a switch: --name, --no-name, --name=off. '_' in a name reads as '-'. The command line counts more than the
//   environment.
//
// ti_flags is plain data without pointers: rank 0's flags are sent to the other ranks as they are. Pure functions but for getenv.
#ifndef TI_LAUNCH_FLAGS_H
#define TI_LAUNCH_FLAGS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum { TI_DEVICE_AUTO, TI_DEVICE_CPU, TI_DEVICE_CUDA };
enum { TI_CPU_AUTO, TI_CPU_REF, TI_CPU_AVX2, TI_CPU_AVX512, TI_CPU_VNNI };
enum { TI_KV_AUTO, TI_KV_F32, TI_KV_BF16, TI_KV_FP8 };
enum { TI_QUANT_AUTO, TI_QUANT_NONE, TI_QUANT_INT8, TI_QUANT_FP8 };
enum { TI_WEIGHTS_STORED, TI_WEIGHTS_FP8 };
enum { TI_OVERLAP_OFF, TI_OVERLAP_ON, TI_OVERLAP_AUTO };
enum { TI_POLICY_FCFS, TI_POLICY_PRIORITY };
enum { TI_SWITCH_OFF, TI_SWITCH_ON, TI_SWITCH_AUTO };  // of switches that are decided elsewhere unless they are said

typedef struct ti_flags {
  bool help, version;
  // the model
  char model[512], served_model_name[256], chat_template[512];
  int64_t max_model_len;  // 0: what the model and the KV memory allow
  // doors
  char host[128], api_key[256], client_url[256], client_tls_cert[512], client_tls_key[512], client_tls_ca[512];
  int64_t port;
  bool ui;
  // the mesh; 0: see base/mesh.h
  int64_t tp, dp, ep, etp, redundant, balance_tokens;
  // memory and scheduling
  uint64_t kv_cache_memory;  // bytes a worker; 0: the default
  double gpu_memory_utilization;
  int64_t kv_cache_dtype, block_size, max_num_seqs, max_num_batched_tokens, max_waiting, scheduling_policy;
  bool prefix_caching;
  char speculative_config[512];  // JSON; "": no drafts
  int64_t seed;                  // of requests that bring none; -1: a random one each
  // the device
  int64_t device, cpu_kernels, threads, quantization, activation_quant, overlap;
  int64_t deterministic, pin_threads;
  bool allow_nan, enforce_eager;
  // running it
  double start_timeout, shutdown_timeout;  // seconds
  char ready_file[512], status_file[512], trace[512], control_ip[64];
  int64_t log_level;
  bool plan;
} ti_flags;

// Defaults, then the environment, then argv[1..]. TI_ERR_ARG: the text names the flag, the value and what would do, and for an unknown flag the
// nearest known one.
ti_status ti_flags_parse(int argc, char *const *argv, ti_flags *out, ti_error *err) TI_MUST_CHECK;
void ti_flags_help(FILE *f);
// "4G", "512MiB", "1.5g", "65536" -> bytes; K, M, G, T are powers of 1024. TI_ERR_ARG otherwise.
ti_status ti_size_parse(const char *text, uint64_t *out) TI_MUST_CHECK;
// "1.5 GiB", "512 MiB", "96 B": three digits at most. Returns out.
const char *ti_size_text(uint64_t bytes, char out[32]);

#endif
