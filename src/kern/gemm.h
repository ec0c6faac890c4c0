/* gemm.h: matrix products and, through nw_rows, convolutions on channels-last images:
 *     C[m][n] = epilogue( Σ_t Σ_k  A_t[m][k] · W[n][t][k] ),   t in [0,taps), k in [0,k)
 * A is f32 or u8 and is read where it lies (rows.h); W is f32 or s8 and is packed once.
 *   matrix product      taps = 1, strided rows
 *   convolution 1×1     the same: M = N·H·W pixels, k = channels
 *   convolution kh×kw   window rows, taps = kh·kw, k = channels of one group; one call per group
 *   first layers (C=3)  when kx taps are neighbours in memory (dilation 1, no padding left and right, or an
 *                       input padded by hand) a whole kernel line may be one tap: taps = kh, k = kw·C
 * Kernels cannot fail and take no memory. Must not include anything but kern/. */
#ifndef NW_KERN_GEMM_H
#define NW_KERN_GEMM_H

#include "kern/epilogue.h"
#include "kern/isa.h"
#include "kern/rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NW_GEMM_ALIGN    64 /* bytes: of the packed weights */
#define NW_GEMM_MAX_MR   16
#define NW_GEMM_MAX_NR   64
#define NW_GEMM_MAX_TAPS 4096

/* A tile's share of the panel of weights that comes next. Hardware fetches ahead within a page only, so a kernel
 * asks for at + i·step in the i-th step over k, to have the panel in the second-level cache in time. step 0:
 * nothing to fetch. */
typedef struct nw_gemm_fetch {
    const char *at;
    size_t step;
} nw_gemm_fetch;

/* Tile i of `tiles` fetches its part of the `bytes` at `panel` in `steps` steps. With one tile there is no time to
 * fetch: it reads its own panel as fast as memory gives it. */
static inline nw_gemm_fetch nw_gemm_fetch_of(const void *panel, size_t bytes, size_t i, size_t tiles,
                                             size_t steps) {
    nw_gemm_fetch f = {(const char *)panel + bytes / tiles * i, 0};
    if (tiles > 1) f.step = bytes / tiles / steps;
    return f;
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

/* y = clamp(Σ a·w [+ bias[n]] [+ c_old], lo, hi). Summation order and fused multiply-adds differ between
 * ISAs; on one ISA a row's result does not depend on m, on the other rows or on how [m0,m1)×[n0,n1) was
 * split. NaN stays NaN. */
typedef struct nw_gemm_f32_args {
    size_t m, n, k, taps;
    nw_rows rows;       /* A: reads exactly k floats per row and tap; 4-byte aligned */
    const void *packed; /* from nw_gemm_f32_pack with the same kernel, n, k, taps */
    float *c;           /* [m][n]; must not overlap A */
    size_t ldc;         /* bytes between rows of c */
    const float *bias;  /* [n] or NULL */
    bool accumulate;    /* add what c holds, before the clamp (a residual, a split k) */
    float lo, hi;       /* −inf and +inf for no limit */
} nw_gemm_f32_args;

/* One tile, m ≤ mr rows × n ≤ nr columns: rows[t·row_stride + i] as in nw_rows_gather; w: the panel of
 * these columns; c, bias at the tile's corner. */
typedef struct nw_gemm_f32_tile {
    size_t m, n, k, taps;
    const void *const *rows;
    size_t row_stride;
    const float *w;
    float *c;
    size_t ldc;
    const float *bias;
    bool accumulate;
    float lo, hi;
    nw_gemm_fetch fetch;
} nw_gemm_f32_tile;

typedef void nw_gemm_f32_fn(const nw_gemm_f32_tile *tile);

typedef struct nw_gemm_f32_kernel {
    const char *name; /* "gemm_f32__avx2" */
    nw_isa isa;
    size_t mr, nr; /* largest tile; columns are packed in panels of nr, the last one rounded up to `half` */
    size_t half;
    nw_gemm_f32_fn *run;
} nw_gemm_f32_kernel;

#define NW_GEMM_F32(isa, word, mr, nr, half) nw_gemm_f32_fn nw_gemm_f32__##word;
#define NW_GEMM_U8S8(isa, word, mr, nr, half, group, shift)
#include "kern/gemm.def"
#undef NW_GEMM_F32
#undef NW_GEMM_U8S8

const nw_gemm_f32_kernel *nw_gemm_f32_select(nw_isa ceiling); /* never NULL; static storage */

/* Bytes of packed weights (a multiple of NW_GEMM_ALIGN; 0 on overflow of size_t), and packing. Element W[n][t][k] is
 * w[n·stride_n + t·stride_tap + k·stride_k], strides in elements:
 *   B [K,N]                   1, 0, N
 *   B transposed [N,K]        K, 0, 1
 *   Conv weight [M,C,kh,kw]   C·kh·kw, 1, kh·kw   (group g: w moved by g·(M/groups)·C·kh·kw)
 * w need not be aligned. */
size_t nw_gemm_f32_packed_bytes(const nw_gemm_f32_kernel *kernel, size_t n, size_t k, size_t taps);
void nw_gemm_f32_pack(const nw_gemm_f32_kernel *kernel, size_t n, size_t k, size_t taps, const void *w,
                      size_t stride_n, size_t stride_tap, size_t stride_k, void *packed);

/* The same, panel by panel and tap by tap, in any order, also at the same time: w is the tap's first element. */
size_t nw_gemm_f32_panels(const nw_gemm_f32_kernel *kernel, size_t n);
void nw_gemm_f32_pack_part(const nw_gemm_f32_kernel *kernel, size_t n, size_t k, size_t taps, size_t panel,
                           size_t tap, const void *w, size_t stride_n, size_t stride_k, void *packed);

/* Computes rows [m0,m1) and columns [n0,n1) of C; n0 must be a multiple of kernel->nr, n1 too unless it is
 * n. Calls on disjoint parts may run at the same time. Splitting m at multiples of kernel->mr wastes
 * least. Uses 36 KiB of stack. taps ≤ NW_GEMM_MAX_TAPS. */
void nw_gemm_f32_run(const nw_gemm_f32_kernel *kernel, const nw_gemm_f32_args *args, size_t m0, size_t m1,
                     size_t n0, size_t n1);

/* ---- u8 · s8 → s32 ------------------------------------------------------------------------------------- */

/* Activations are always u8, weights always s8 (the others are shifted by 128, see epilogue.h). Sums are
 * exact in int32 for k·taps ≤ 65536 (255·128·65536 < 2^31) and wrap beyond. Every ISA gives the same bits. */
typedef struct nw_gemm_u8s8_args {
    size_t m, n, k, taps;
    nw_rows rows;       /* A: reads k rounded up to a multiple of 4 bytes per row and tap (pad row included):
                           up to 3 bytes past the row, whose values do not matter; no alignment needed */
    const void *packed; /* from nw_gemm_u8s8_pack with the same kernel, n, k, taps */
    void *c;            /* [m][n] of u8, s32 or f32, as epilogue.out says; must not overlap A */
    size_t ldc;         /* bytes between rows of c */
    nw_epilogue epilogue;
} nw_gemm_u8s8_args;

/* One tile, as for f32. Epilogue arrays are indexed row+i and col+j; row_sums[i] is valid if
 * epilogue->wzero. */
typedef struct nw_gemm_u8s8_tile {
    size_t m, n, k, taps;
    const void *const *rows;
    size_t row_stride;
    const int8_t *w;
    void *c;
    size_t ldc;
    const nw_epilogue *epilogue;
    bool convertible; /* nw_epilogue_convertible of these columns */
    size_t row, col;
    const int32_t *row_sums;
    nw_gemm_fetch fetch;
} nw_gemm_u8s8_tile;

typedef void nw_gemm_u8s8_fn(const nw_gemm_u8s8_tile *tile);
/* sums[i] = Σ_t Σ_k rows[t·row_stride + i][k], i in [0,m); reads exactly k bytes per row and tap. */
typedef void nw_gemm_row_sums_fn(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                                 int32_t *sums);

typedef struct nw_gemm_u8s8_kernel {
    const char *name;
    nw_isa isa;
    size_t mr, nr, half;
    size_t group; /* how many k of a column are packed side by side: 4 or 8 */
    /* The kernel multiplies with a − shift, and begins its sums with the shift·ΣW packed before each panel. 0:
     * nothing there. */
    int32_t shift;
    nw_gemm_u8s8_fn *run;
    nw_gemm_row_sums_fn *row_sums;
} nw_gemm_u8s8_kernel;

#define NW_GEMM_F32(isa, word, mr, nr, half)
#define NW_GEMM_U8S8(isa, word, mr, nr, half, group, shift)                                                  \
    nw_gemm_u8s8_fn nw_gemm_u8s8__##word;                                                                    \
    nw_gemm_row_sums_fn nw_gemm_row_sums__##word;
#include "kern/gemm.def"
#undef NW_GEMM_F32
#undef NW_GEMM_U8S8

const nw_gemm_u8s8_kernel *nw_gemm_u8s8_select(nw_isa ceiling);

size_t nw_gemm_u8s8_packed_bytes(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, size_t taps);
void nw_gemm_u8s8_pack(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, size_t taps, const int8_t *w,
                       size_t stride_n, size_t stride_tap, size_t stride_k, void *packed);
/* The same of one tap's u8 codes, W = w − 128. */
void nw_gemm_u8s8_pack_codes(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, const uint8_t *w,
                             size_t stride_n, size_t stride_k, void *packed);
/* sums[n] = Σ_t Σ_k (W[n][t][k] − wzero[n]); wzero NULL means 0. For epilogue.bias and epilogue.col_sum. */
void nw_gemm_u8s8_col_sums(size_t n, size_t k, size_t taps, const int8_t *w, size_t stride_n,
                           size_t stride_tap, size_t stride_k, const int32_t *wzero, int32_t *sums);

void nw_gemm_u8s8_run(const nw_gemm_u8s8_kernel *kernel, const nw_gemm_u8s8_args *args, size_t m0, size_t m1,
                      size_t n0, size_t n1);

#endif
