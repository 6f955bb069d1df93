// The packed layout of 4- to 8-bit block weights (GGUF's types), and how to read it back. Packed by block.c at load time, multiplied by
// gemm_block_body.h.
//
// Every stored type becomes signed or unsigned codes with one scale for 32 (or two, for 16 each) numbers of K and perhaps a minimum: x = d * code +
// m. Scales keep the precision in which they are exact: fp16 where the file has fp16, fp32 where the file has fp16 times an integer (K types).
//
//   data   [ceil(n / NR)][k / 32] blocks, and a block is, one behind the other (NR = 2 * VL outputs, padded with zeros):
//
//     codes  8 bits: [8 groups][2 halves][VL][4]   byte i of output (half, lane) in group g: k = 4 g + i
//            4 bits: [4 groups][2 halves][VL][4]   low nibble: k = 4 g + i, high nibble: k = 16 + 4 g + i; the code plus `zero`
//     d      [n_scale][NR]
//     m      [NR], where the form has it
//
// So a vector holds 4 k of VL outputs, which is what maddubs multiplies with 4 broadcast bytes of x.
#ifndef TI_CPU_BLOCK_H
#define TI_CPU_BLOCK_H
#include "kernels/cpu/cpu_priv.h"

#define TI_CPU_BLOCK 32  // K numbers a block, of weights and of quantised activations

// Forms: which type, bits, bytes of a scale, scales, minimum?, zero, chain. chain: how many groups' products of codes with int8 activations (pairs,
// 2 * 127 * largest code) one int16 can sum: 4 bits 8 (15), 5 bits 4 (31), 6 bits 4 (32), 8 bits 1 (128).
// The last form takes parts of different types: every type fits into it.
#define TI_CPU_BLOCK_MAP(X)        \
  X(TI_Q4_0, 4, 2, 1, false, 8, 8) \
  X(TI_Q4_1, 4, 2, 1, true, 0, 8)  \
  X(TI_Q4_K, 4, 4, 1, true, 0, 8)  \
  X(TI_Q8_0, 8, 2, 1, false, 0, 1) \
  X(TI_Q5_0, 8, 2, 1, false, 0, 4) \
  X(TI_Q5_1, 8, 2, 1, true, 0, 4)  \
  X(TI_Q5_K, 8, 4, 1, true, 0, 4)  \
  X(TI_Q6_K, 8, 4, 2, false, 0, 4) \
  X(TI_DTYPE_COUNT, 8, 4, 2, true, 0, 1)

typedef struct ti_cpu_form {
  ti_dtype dtype;
  int bits, scale_bytes, n_scale;
  bool min;
  int zero, chain;
} ti_cpu_form;

#define TI_X(...) {__VA_ARGS__},
static const ti_cpu_form ti_cpu_forms[] = {TI_CPU_BLOCK_MAP(TI_X)};
#undef TI_X
enum { TI_CPU_FORM_COUNT = sizeof ti_cpu_forms / sizeof *ti_cpu_forms };

static inline size_t ti_cpu_code_bytes(const ti_cpu_form f, size_t nr) { return nr * 4 * (size_t)f.bits; }
static inline size_t ti_cpu_block_bytes(const ti_cpu_form f, size_t nr) {
  return ti_cpu_code_bytes(f, nr) + nr * (size_t)(f.scale_bytes * (f.n_scale + (f.min ? 1 : 0)));
}
// ti_weight.layout of a block weight names its form.
enum { TI_CPU_FORM_SHIFT = 8 };
static inline int ti_cpu_form_of(const ti_weight *w) { return w->layout >> TI_CPU_FORM_SHIFT; }

// The form that holds all the parts, each of a block type.
int ti_cpu_block_form(const ti_weight_src *parts, int n_part);
// Packs lanes [0, lanes) of a panel: blocks [0, n_block) of row[lane], of type dtype[lane], into dst, which is zero.
void ti_cpu_block_pack(int form, int nr, const uint8_t *const *row, const ti_dtype *dtype, int lanes, int64_t n_block, uint8_t *dst);
// One output of a packed weight as fp32 [k], as the reference dequantises it, to the bit.
void ti_cpu_block_row(const ti_weight *w, int nr, int64_t n, float *out);

#endif
