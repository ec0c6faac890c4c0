/* epilogue.h: what happens to an exact int32 sum before it leaves an integer kernel (gemm_u8s8, dwconv_u8s8).
 * Must not include anything but kern/. */
#ifndef NW_KERN_EPILOGUE_H
#define NW_KERN_EPILOGUE_H

#include "kern/isa.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum nw_epilogue_out { NW_OUT_S32, NW_OUT_U8, NW_OUT_F32 } nw_epilogue_out;

/* For row i (a pixel, a token) and column n (an output channel), with acc = Σ a·w over taps and k:
 *     acc += bias[n]                                     if bias
 *     acc −= wzero[n] · Σ a                              if wzero      (Σ a over taps and k of row i)
 *     acc −= row_zero[i] · col_sum[n]                    if row_zero
 *   S32:  y = acc
 *   U8:   q = clamp(rint((float)acc · scale[n]) + zero, lo, hi);   y = table ? table[q] : q
 *   F32:  y = clamp(((float)acc · scale[n]) [· row_scale[i]] [+ fbias[n]], flo, fhi)
 * int32 arithmetic wraps modulo 2^32. Every float operation is one IEEE single rounding, in the order
 * written (no fused multiply-add), rint is half to even: every ISA gives the same bits. Scales must be
 * finite. A NaN stays a NaN through the F32 clamp.
 *
 * Folding: with a = q_a − z_a and w = q_w − z_w, Σ (q_a−z_a)(q_w−z_w) is
 *   static z_a:   bias[n] = b[n] − z_a·col_sum[n],  wzero[n] = z_w[n] (NULL when all 0)
 *   per-row z_a:  row_zero[i] = z_a[i], col_sum, wzero likewise
 * where col_sum[n] = Σ (q_w − z_w[n]) over taps and k (nw_gemm_u8s8_col_sums). Padding taps hold z_a, so
 * they add 0. s8 activations are stored +128 with z_a + 128; u8 weights −128 with z_w − 128. */
typedef struct nw_epilogue {
    nw_epilogue_out out;
    const int32_t *bias;     /* [n] or NULL */
    const int32_t *wzero;    /* [n] or NULL; gemm only: dwconv subtracts zero points while packing */
    const int32_t *row_zero; /* [m] or NULL */
    const int32_t *col_sum;  /* [n]; needed with row_zero */
    const float *scale;      /* [n]; U8 and F32 */
    /* U8 */
    int32_t zero, lo, hi; /* 0 ≤ lo ≤ hi ≤ 255; any zero in [−2^23, 2^23] */
    const uint8_t *table; /* [256] or NULL */
    /* F32 */
    const float *row_scale; /* [m] or NULL */
    const float *fbias;     /* [n] or NULL */
    float flo, fhi;         /* −inf and +inf for no limit */
} nw_epilogue;

/* Bytes per element. */
static inline size_t nw_epilogue_size(nw_epilogue_out out) {
    return out == NW_OUT_U8 ? 1 : 4;
}

/* Whether out is U8 and no sum of columns [col, col+n) can be too large, times its scale, to become an int32. */
static inline bool nw_epilogue_convertible(const nw_epilogue *e, size_t col, size_t n) {
    bool small = e->out == NW_OUT_U8;
    for (size_t c = col; small && c < col + n; c++) small = e->scale[c] <= 0.5f && e->scale[c] >= -0.5f;
    return small;
}

/* A tile of m rows × n columns whose corner is (row, col): acc[i·ld_acc + j] becomes element j of the
 * output row at (char *)y + i·ldy bytes. row_sums[i] = Σ a of row row+i, needed with wzero. y unaligned is
 * fine; nothing outside the tile is written, no operand is read outside its rows and columns. */
typedef void nw_epilogue_fn(const nw_epilogue *e, size_t row, size_t col, size_t m, size_t n,
                            const int32_t *row_sums, const int32_t *acc, size_t ld_acc, void *y, size_t ldy);
#define NW_EPILOGUE(isa, word) nw_epilogue_fn nw_epilogue__##word;
#include "kern/epilogue.def"
#undef NW_EPILOGUE

nw_epilogue_fn *nw_epilogue_select(nw_isa ceiling);

#endif
