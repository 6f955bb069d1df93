// Choosing a device (see device.h). Set-up only.
#include "launch/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#ifdef TI_HAVE_CUDA
#include "kernels/cuda/probe.h"
#endif

// Why this model cannot run on a GPU so far; NULL: it can.
static const char *unsupported(const ti_config *c) {
  if (c->moe.n_expert) return "mixture-of-experts models run on CPUs so far";
  if (c->attn == TI_ATTN_MLA) return "latent attention runs on CPUs so far";
  if (ti_dtype_block(c->weight_dtype) > 1) return "GGUF's block weights run on CPUs so far";
  return NULL;
}

// How many GPUs this host has that this build can use.
static int count(char *why, size_t size) {
#ifdef TI_HAVE_CUDA
  return ti_cuda_count(why, size);
#else
  snprintf(why, size, "this build has no CUDA backend");
  return 0;
#endif
}

ti_status ti_device_decide(int64_t wanted, const ti_config *c, int64_t *device, char *note, size_t size, ti_error *err) {
  char why[200] = "";
  note[0] = '\0';
  *device = TI_DEVICE_CPU;
  if (wanted == TI_DEVICE_CPU) return TI_OK;
  const char *model = unsupported(c);
  if (model) snprintf(why, sizeof why, "%s", model);
  if (!why[0] && count(why, sizeof why)) {
    *device = TI_DEVICE_CUDA;
    return TI_OK;
  }
  if (wanted == TI_DEVICE_CUDA) return ti_error_set(err, TI_ERR_ARG, "--device cuda: %s; use --device cpu", why);
  snprintf(note, size, "%s", why);
  return TI_OK;
}

ti_status ti_cpulist_parse(const char *text, cpu_set_t *set) {
  CPU_ZERO(set);
  for (const char *c = text;;) {
    char *end;
    const unsigned long a = strtoul(c, &end, 10);
    unsigned long b = a;
    if (end == c) return TI_ERR_FORMAT;
    if (*end == '-') {
      c = end + 1;
      b = strtoul(c, &end, 10);
      if (end == c) return TI_ERR_FORMAT;
    }
    if (b < a || b >= CPU_SETSIZE) return TI_ERR_FORMAT;
    for (unsigned long k = a; k <= b; k++) CPU_SET(k, set);
    if (*end == '\0' || *end == '\n') return TI_OK;
    if (*end != ',') return TI_ERR_FORMAT;
    c = end + 1;
  }
}

#ifdef TI_HAVE_CUDA
// This thread, and those that it will start, to the CPUs next to the GPU, as far as they are ours. Where Linux does not say, nothing changes.
static void go_near(const char *pci) {
  char path[96], text[512];
  cpu_set_t near, ours, both;
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", pci);
  FILE *f = fopen(path, "re");
  if (!f) return;
  const bool read = fgets(text, sizeof text, f) != NULL;
  fclose(f);
  if (!read || ti_cpulist_parse(text, &near) || sched_getaffinity(0, sizeof ours, &ours)) return;
  CPU_AND(&both, &near, &ours);
  if (CPU_COUNT(&both) == 0 || CPU_EQUAL(&both, &ours) || sched_setaffinity(0, sizeof both, &both)) return;
  ti_log_info("worker: threads on the %d CPUs next to GPU %s", CPU_COUNT(&both), pci);
}

static ti_status find_gpu(const ti_settings *j, const ti_device_wants *w, ti_worker_device *out, ti_error *err) {
  char why[200];
  ti_cuda_device d;
  const int n = count(why, sizeof why);
  if (n == 0) return ti_error_set(err, TI_ERR_NOTFOUND, "--device cuda: %s; use --device cpu, or start workers on hosts with GPUs only", why);
  out->kernels = ti_kernels_find("cuda");
  out->index = w->host_index % n;
  out->sharers = (w->host_count - out->index + n - 1) / n;
  if (ti_cuda_describe(out->index, &d)) return ti_error_set(err, TI_ERR_INTERNAL, "--device cuda: GPU %d cannot be asked for its memory", out->index);
  snprintf(out->text, sizeof out->text, "cuda, GPU %d: %.80s", out->index, d.name);
  go_near(d.pci);
  if (out->sharers > 1)
    ti_log_warn("worker: GPU %d is shared by %d workers of this host, which has %d: each gets its part of --gpu-memory-utilization", out->index,
                out->sharers, n);
  const uint64_t quantised = w->weight_bytes - w->linear_bytes + w->linear_bytes / 2;
  const bool fp8 = j->flags.quantization == TI_WEIGHTS_FP8;
  const ti_device_room room = {.name = d.name,
                               .index = out->index,
                               .sharers = out->sharers,
                               .tp = j->mesh.tp,
                               .total = d.memory_bytes,
                               .free = d.free_bytes,
                               .share = j->flags.gpu_memory_utilization,
                               .weights = fp8 ? quantised : w->weight_bytes,
                               .quantised = fp8 ? 0 : quantised};
  return ti_device_fits(&room, err);
}
#endif

// What plain C costs was measured on a Zen 3 (docs/reports/cpu.md).
static ti_status find_cpu(const ti_settings *j, const ti_device_wants *w, ti_worker_device *out, ti_error *err) {
  static const char *const names[] = {"cpu", "ref", "cpu-avx2", "cpu-avx512", "cpu-vnni"};
  const char *name = names[j->flags.cpu_kernels];
  out->kernels = ti_kernels_find(name);
  if (!out->kernels)
    return ti_error_set(err, TI_ERR_ARG, "--cpu-kernels %s: this processor does not run them; %s is its best", name + 4, ti_kernels_cpu()->name);
  if (out->kernels == ti_kernels_ref())
    ti_log_warn("worker: plain C kernels%s: against AVX2 a token takes about 9 times as long and a prompt 17 times, with 4-bit weights 13 and 29 times",
                ti_kernels_cpu() == ti_kernels_ref() ? ", since this processor has no AVX2 with FMA" : "");
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  const uint64_t quantised = w->weight_bytes - w->linear_bytes + w->linear_bytes / 2;
  if (pages <= 0 || page <= 0 || w->host_count < 1) return TI_OK;
  return ti_host_fits((uint64_t)pages * (uint64_t)page, w->host_count, j->flags.quantization == TI_WEIGHTS_FP8 ? quantised : w->weight_bytes,
                      (int)j->flags.redundant, err);
}

ti_status ti_host_fits(uint64_t total, int workers, uint64_t weights, int redundant, ti_error *err) {
  char need[32], have[32], copies[64] = "";
  if (weights <= total / (uint64_t)workers) return TI_OK;
  if (redundant) snprintf(copies, sizeof copies, ", or fewer copies than --num-redundant-experts %d", redundant);
  return ti_error_set(err, TI_ERR_NOMEM, "this worker's weights take %s, and this host has %s of memory for %d worker%s; more hosts would fit%s",
                      ti_size_text(weights, need), ti_size_text(total, have), workers, workers == 1 ? "" : "s", copies);
}

ti_status ti_device_fits(const ti_device_room *r, ti_error *err) {
  char need[32], have[32], small[32];
  const uint64_t share = (uint64_t)((double)r->total * r->share) / (uint64_t)r->sharers, least = share < r->free ? share : r->free;
  if (r->weights <= least) return TI_OK;
  uint64_t tp = (uint64_t)r->tp * 2;
  while (least && tp < (uint64_t)r->tp << 20 && r->weights > least * (tp / (uint64_t)r->tp)) tp *= 2;
  const bool fp8 = r->quantised && r->quantised <= least;
  return ti_error_set(err, TI_ERR_NOMEM,
                      "GPU %d (%.60s): this worker's weights take %s, and it may use %s (--gpu-memory-utilization %.2f, %d worker%s on it); "
                      "--tensor-parallel-size %lu on as many GPUs would fit%s%s%s",
                      r->index, r->name, ti_size_text(r->weights, need), ti_size_text(least, have), r->share, r->sharers, r->sharers == 1 ? "" : "s",
                      (unsigned long)tp, fp8 ? ", or --quantization fp8, which takes " : "", fp8 ? ti_size_text(r->quantised, small) : "",
                      r->free < share ? ", or an end to the other programs that use this GPU" : "");
}

ti_status ti_device_find(const ti_settings *j, const ti_device_wants *w, ti_worker_device *out, ti_error *err) {
  *out = (ti_worker_device){.sharers = 1};
#ifdef TI_HAVE_CUDA
  if (j->device == TI_DEVICE_CUDA) return find_gpu(j, w, out, err);
#else
  if (j->device == TI_DEVICE_CUDA)
    return ti_error_set(err, TI_ERR_NOTFOUND, "--device cuda: this worker's build has no CUDA backend; all ranks must run the same program");
#endif
  const ti_status st = find_cpu(j, w, out, err);
  if (st) return st;
  snprintf(out->text, sizeof out->text, "%s, %d thread%s", out->kernels->name, w->threads, w->threads == 1 ? "" : "s");
  return TI_OK;
}
