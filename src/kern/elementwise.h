/* elementwise.h: operations on runs of elements and on rows. All pointers unaligned-safe; nothing is read
 * or written outside [0,n). In-place (y == an input of the same element size) is fine; partial overlap is
 * not. n = 0 is fine. All results are the same bits on every ISA. Kernels cannot fail. Must not include
 * anything but kern/. */
#ifndef NW_KERN_ELEMENTWISE_H
#define NW_KERN_ELEMENTWISE_H

#include "kern/isa.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* q = clamp(rint(x/scale) + zero, lo, hi): true division, half to even, NaN gives `zero` (which is in
 * [lo,hi]). 0 ≤ lo ≤ hi ≤ 255. The same bits as nw_quantize_one. */
typedef void nw_quantize_u8_fn(size_t n, const float *x, float scale, int32_t zero, int32_t lo, int32_t hi,
                               uint8_t *q);
/* x = scale·(float)(q − zero), one rounding. */
typedef void nw_dequantize_u8_fn(size_t n, const uint8_t *q, float scale, int32_t zero, float *x);
/* q = x < 0 ? 0 : 2 (NaN: 2): the codes of signs, whose zero point is 1. */
typedef void nw_signs_u8_fn(size_t n, const float *x, uint8_t *q);
/* y = table[x], table [256]. */
typedef void nw_lookup_u8_fn(size_t n, const uint8_t *x, const uint8_t *table, uint8_t *y);
/* y = x XOR 128: u8 ↔ s8 codes. */
typedef void nw_flip_u8_fn(size_t n, const uint8_t *x, uint8_t *y);
/* y = ((x >> shift) & mask) + least, shift 0 … 7: codes of fewer bits, which share bytes. Not in place. */
typedef void nw_unpack_s8_fn(size_t n, const uint8_t *x, int shift, uint8_t mask, int least, int8_t *y);

/* Sum of two grids (a residual): q = clamp(rint(p) + zero, lo, hi),
 *     p = ((float)(a − a_zero)·a_ratio) + ((float)(b − b_zero)·b_ratio)
 * each operation rounded once, in f32,
 * with a_ratio = s_a/s_y, b_ratio = s_b/s_y. Here and below 0 ≤ lo ≤ hi ≤ 255, zero points are within
 * ±2^20, ratios finite. */
typedef struct nw_add_u8_params {
    int32_t a_zero, b_zero, zero, lo, hi;
    float a_ratio, b_ratio;
} nw_add_u8_params;
typedef void nw_add_u8_fn(size_t n, const uint8_t *a, const uint8_t *b, const nw_add_u8_params *p,
                          uint8_t *y);

/* Product: q = clamp(rint((float)((a − a_zero)·(b − b_zero)) · ratio) + zero, lo, hi), ratio =
 * s_a·s_b/s_y. */
typedef struct nw_mul_u8_params {
    int32_t a_zero, b_zero, zero, lo, hi; /* zero points within [−255, 255] */
    float ratio;
} nw_mul_u8_params;
typedef void nw_mul_u8_fn(size_t n, const uint8_t *a, const uint8_t *b, const nw_mul_u8_params *p,
                          uint8_t *y);
/* The same for a, y [rows,n] and one row b [n] for all of them: the channels' gate. */
typedef void nw_gate_u8_fn(size_t rows, size_t n, const uint8_t *a, const uint8_t *b,
                           const nw_mul_u8_params *p, uint8_t *y);

/* y[i] = a[i·a_step] op b[i·b_step], steps 0 (a scalar) or 1. min and max: NaN if either is NaN. */
typedef void nw_binary_f32_fn(size_t n, const float *a, size_t a_step, const float *b, size_t b_step,
                              float *y);
/* y = x < lo ? lo : x > hi ? hi : x; NaN stays NaN. Relu: 0, +inf. */
typedef void nw_clamp_f32_fn(size_t n, const float *x, float lo, float hi, float *y);
/* y = f(x). Largest error against the exact function, over all x:
 *   exp   2 ulp; results below 2^−126 within 2^−126
 *   sigmoid, tanh, erf   4 ulp where the result is above 2^−126, within 2^−126 below
 *   gelu  x·Φ(x), Φ(x) = (1 + erf(x/√2))/2: 3e-7·max(1,|x|)     silu  x·sigmoid(x): 6 ulp or 2^−119
 *   hardswish  x·clamp(x·(1/6) + 0.5, 0, 1), each operation rounded once
 *   gelu_tanh  x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2: 3e-7·max(1,|x|)
 * NaN stays NaN; ±inf give the limits (gelu, silu and hardswish of −inf: NaN). */
typedef void nw_unary_f32_fn(size_t n, const float *x, float *y);
/* round_f16, round_bf16: of the same type, x as the nearest number of that format, half to even, infinities beyond the
 * largest; the same bits as nw_round_f16 and nw_round_bf16, but for NaN's. */
/* y = clamp(alpha·x + beta, 0, 1), each operation rounded once. */
typedef void nw_hardsigmoid_f32_fn(size_t n, const float *x, float alpha, float beta, float *y);
/* y = scale·clamp(rint(x/scale), lo, hi): true division, half to even, NaN counts as 0; lo and hi are whole numbers
 * within ±2^20, codes less their zero point. The same bits as nw_fake_quantize. */
typedef void nw_fake_quantize_f32_fn(size_t n, const float *x, float scale, float lo, float hi, float *y);
/* The gradient of that, rounding taken for the identity: with v = x/scale, dx = dy where lo ≤ v ≤ hi, else 0. Returns
 * Σ dy·(y/scale − (v there, else 0)): 32 interleaved sums, added as in sum_f32. */
typedef float nw_straight_through_f32_fn(size_t n, const float *x, const float *dy, float scale, float lo,
                                         float hi, float *dx);
/* Σ (x − x')², x' = scale·clamp(rint(x·(1/scale)), lo, hi): 32 interleaved sums, added as in sum_f32. 1/scale is finite; lo ≤ 0
 * and hi ≥ 0 are whole numbers within ±2^20. */
typedef float nw_grid_error_f32_fn(size_t n, const float *x, float scale, float lo, float hi);
/* *lo = min(*lo, x…), *hi = max(*hi, x…): start with +inf, −inf. NaN elements are skipped. For dynamic
 * quantization. */
typedef void nw_minmax_f32_fn(size_t n, const float *x, float *lo, float *hi);
/* Σ x: 32 interleaved sums (sum j of the elements j, j+32, …), of which the upper half is added to the
 * lower until one is left. */
typedef float nw_sum_f32_fn(size_t n, const float *x);

/* One row of n ≥ 1: y = exp(x − max x)/Σ exp(x − max x). In place is fine. A row of −inf only gives NaN. */
typedef void nw_softmax_f32_fn(size_t n, const float *x, float *y);
/* Scores x [rows,n], the next row ld elements on, become attention weights before they are divided by their sums
 * [rows]: with s = scale·x [+ bias], x = exp(s − max s). bias: NULL, or rows that lie ld_bias apart (0: one for all). A row
 * whose s are all −inf gives 0. */
typedef void nw_weigh_f32_fn(size_t rows, size_t n, float *x, size_t ld, float scale, const float *bias,
                             size_t ld_bias, float *sums);
/* The same as codes, q = rint(255·e), rows ld_q apart; totals [rows] are the sums of a row's codes, sums those of the e. e is
 * exp(s − max s) but for 4e-6 of it, and 1 for the largest s. A NaN among the numbers is one in the sum and code 0.
 * n < 2^23. */
typedef void nw_weigh_u8_fn(size_t rows, size_t n, float *x, size_t ld, float scale, const float *bias,
                            size_t ld_bias, uint8_t *q, size_t ld_q, float *sums, int32_t *totals);
/* Rows of n ≥ 1, x and y [rows,n]: y = (x − mean)/sqrt(variance + eps)·gamma + beta; gamma, beta [n] or NULL (1, 0). */
typedef void nw_layernorm_f32_fn(size_t rows, size_t n, const float *x, const float *gamma, const float *beta,
                                 float eps, float *y);

/* One step of n recurrent cells, from the gates' shares x (of the input) and r (of the state), gates one
 * behind the other, n each. σ and tanh as above, every other operation rounded once, in this order.
 *   lstm  x, r [4n] in the order i, o, f, c̃:
 *         c = (σ(x_f + r_f)·c) + (σ(x_i + r_i)·tanh(x_c + r_c)),  h = σ(x_o + r_o)·tanh(c)
 *   gru   x, r [3n] in the order z, r, h̃; z = σ(x_z + r_z):
 *         h = ((1 − z)·tanh(x_h + σ(x_r + r_r)·r_h)) + (z·h), or tanh(x_h + r_h) unless after_reset
 * c and h are read and written in place (lstm only writes h); they overlap nothing else. */
typedef void nw_lstm_f32_fn(size_t n, const float *x, const float *r, float *c, float *h);
typedef void nw_gru_f32_fn(size_t n, bool after_reset, const float *x, const float *r, float *h);

/* The functions chosen for one ISA ceiling: `nw_elementwise ew; nw_elementwise_select(isa, &ew);
 * ew.add_u8(…)`. */
typedef struct nw_elementwise {
#define NW_ELEMENTWISE(name, type) nw_##type##_fn *name;
#include "kern/elementwise.def"
#undef NW_ELEMENTWISE
} nw_elementwise;

void nw_elementwise_select(nw_isa ceiling, nw_elementwise *out);

#if defined(__x86_64__)
#define NW_ELEMENTWISE_ISAS(X) X(SCALAR, scalar) X(AVX2, avx2) X(AVX512VNNI, avx512vnni)
#elif defined(__aarch64__)
#define NW_ELEMENTWISE_ISAS(X) X(SCALAR, scalar) X(NEON, neon)
#else
#define NW_ELEMENTWISE_ISAS(X) X(SCALAR, scalar)
#endif

#define NW_ELEMENTWISE(name, type)                                                                           \
    nw_##type##_fn nw_##name##__scalar, nw_##name##__avx2, nw_##name##__avx512vnni, nw_##name##__neon;
#include "kern/elementwise.def"
#undef NW_ELEMENTWISE

#endif
