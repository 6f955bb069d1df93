// Stands in for libcuda.so.1: a driver of CUDA 11.0, which is too old for any runtime of CUDA 12 or later. Every other entry is missing, as new ones
// are.
__attribute__((visibility("default"))) int cuDriverGetVersion(int *version);
__attribute__((visibility("default"))) int cuInit(unsigned flags);
int cuDriverGetVersion(int *version) {
  *version = 11000;
  return 0;
}
int cuInit(unsigned flags) { return 0; }
