// What the CUDA backend says when something is not as it should be, as far as that takes no GPU.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/probe.h"

static void blas_says(const char *path, ti_status want, const char *words) {
  ti_blas *b = NULL;
  ti_error err = {0};
  cr_assert_eq(ti_blas_open(path, false, &b, &err), want, "%s: %s", path, err.text);
  cr_assert(!b && strstr(err.text, path) && strstr(err.text, words), "%s", err.text);
}

Test(cublaslt, one_that_is_missing_corrupted_or_another_library_is_named) {
  char path[] = "/tmp/ti_cublaslt_XXXXXX";
  const int fd = mkstemp(path);
  char bytes[5000];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 37);
  cr_assert_eq(write(fd, bytes, 3), 3);
  blas_says(path, TI_ERR_UNSUPPORTED, "TITAN_CUBLASLT");  // cut short
  cr_assert_eq(write(fd, bytes, sizeof bytes), (ssize_t)sizeof bytes);
  blas_says(path, TI_ERR_UNSUPPORTED, "ELF");
  close(fd);
  unlink(path);
  blas_says(path, TI_ERR_NOTFOUND, "No such file");
  blas_says("/", TI_ERR_UNSUPPORTED, "");
  blas_says(TI_FOREIGN_LIB, TI_ERR_UNSUPPORTED, "has no cublasLtCreate");
}

Test(cublaslt, the_environment_names_it) {
  ti_blas *b = NULL;
  ti_error err = {0};
  setenv("TITAN_CUBLASLT", "/no/such/libcublasLt.so.13", 1);
  cr_assert_eq(ti_blas_open(NULL, false, &b, &err), TI_ERR_NOTFOUND);
  cr_assert(strstr(err.text, "/no/such/libcublasLt.so.13"), "%s", err.text);
}

// The device's errors arrive with whatever call comes next: the first one is kept, with the op that was launched last.
Test(errors, of_the_device_are_kept_with_the_last_op) {
  static const struct {
    cudaError_t code;
    const char *words;
  } fatal[] = {{cudaErrorECCUncorrectable, "ECC"},         {cudaErrorIllegalAddress, "illegal memory access"},
               {cudaErrorLaunchFailure, "launch failure"}, {cudaErrorLaunchOutOfResources, "resources"},
               {cudaErrorNvlinkUncorrectable, "NVLink"},   {cudaErrorHardwareStackError, "hardware stack"}};
  for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) {
    ti_dev d = {.index = 3, .last_op = "rmsnorm"};
    cr_assert_eq(ti_cuda_result(&d, "step", fatal[i].code), TI_ERR_INTERNAL);
    cr_assert(strstr(d.last_error, fatal[i].words) && strstr(d.last_error, "rmsnorm"), "%s", d.last_error);
    d.last_op = "attention";
    cr_assert_eq(ti_cuda_result(&d, "step", cudaErrorUnknown), TI_ERR_INTERNAL);
    cr_assert(strstr(ti_cuda_last_error(&d), fatal[i].words), "the first error is lost: %s", d.last_error);
  }
  ti_dev d = {.last_op = "rmsnorm"};
  cr_assert_eq(ti_cuda_result(&d, "alloc", cudaErrorMemoryAllocation), TI_ERR_NOMEM);
  cr_assert(!d.last_error[0]);
  cr_assert_eq(ti_cuda_result(&d, "step", cudaSuccess), TI_OK);
}

Test(probe, kernels_are_for_ampere_ada_and_hopper) {
  cr_assert(ti_cuda_supports(9, 0) && ti_cuda_supports(8, 0) && ti_cuda_supports(8, 9));
  cr_assert(!ti_cuda_supports(7, 5) && !ti_cuda_supports(10, 0) && !ti_cuda_supports(12, 0));
}

Test(probe, a_host_without_a_gpu_says_so) {
  char why[200] = "";
  if (ti_cuda_count(why, sizeof why) > 0) cr_skip_test("this host has a GPU");
  cr_assert(strstr(why, "driver") || strstr(why, "GPU"), "%s", why);
  ti_dev *d = NULL;
  ti_error err = {0};
  cr_assert_eq(ti_kernels_cuda()->open(&(ti_dev_options){0}, &d, &err), TI_ERR_NOTFOUND);
  cr_assert(strstr(err.text, why) && strstr(err.text, "--device cpu"), "%s", err.text);
  cr_assert_null(ti_kernels_find("cuda"));
}
