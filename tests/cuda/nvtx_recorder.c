// An NVTX injection library, as profilers have one: keeps the names of the ranges that are pushed, for cuda.names.
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <string.h>

enum { CAP = 4096 };
static char names[CAP][32];
static int n_name, depth, lowest;

static int NVTX_API push(const char *name) {
  if (n_name < CAP) snprintf(names[n_name], sizeof names[0], "%s", name);
  n_name++;
  return depth++;
}

static int NVTX_API pop(void) {
  depth--;
  if (depth < lowest) lowest = depth;
  return depth;
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t tables) {
  const NvtxExportTableCallbacks *t = tables(NVTX_ETID_CALLBACKS);
  NvtxFunctionTable f = NULL;
  unsigned int n = 0;
  if (!t || !t->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &f, &n) || n <= NVTX_CBID_CORE_RangePop) return 0;
  *f[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
  *f[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
  return 1;
}

// The i-th name; NULL behind the last. *open: ranges that have not ended, or below 0: more ended than began.
__attribute__((visibility("default"))) const char *nvtx_recorded(int i, int *open);
const char *nvtx_recorded(int i, int *open) {
  *open = lowest < 0 ? lowest : depth;
  return i < n_name && i < CAP ? names[i] : NULL;
}
