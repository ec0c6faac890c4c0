/* gemm_bits.h: matrix products and, through nw_rows, convolutions of numbers that are −1 or 1, one bit each (1: +1):
 *     S[m][n] = Σ_t Σ_k A_t[m][k]·W[n][t][k] = inside·k − 2·popcount(A xor W)
 *     C[m][n] = clamp(scale[n]·S [+ bias[n]], lo, hi)
 * (Rastegari et al. 2016, "XNOR-Net"). Taps outside an image contribute nothing: S sums over the `inside` ones that are left.
 * S is exact in int32 for k·taps < 2^31, and what follows is rounded alike everywhere: every ISA gives the same bits.
 * Kernels cannot fail and take no memory. Must not include anything but kern/. */
#ifndef NW_KERN_GEMM_BITS_H
#define NW_KERN_GEMM_BITS_H

#include "kern/isa.h"
#include "kern/rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NW_GEMM_BITS_MAX_MR 4
#define NW_GEMM_BITS_MAX_NR 32

/* Words of 64 bits that k numbers take, low bits first; the bits left over are 0. */
static inline size_t nw_bits_words(size_t k) {
    return k / 64 + (k % 64 != 0);
}

typedef struct nw_gemm_bits_args {
    size_t m, n, k, taps;
    /* A: reads exactly nw_bits_words(k) words per row and tap, 8-byte aligned. rows.pad: as many words that are 0, at an
     * address that no row inside the image has. */
    nw_rows rows;
    const void *packed; /* from nw_gemm_bits_pack with the same kernel, n, k, taps */
    float *c;           /* [m][n]; must not overlap A */
    size_t ldc;         /* bytes between rows of c */
    const float *scale; /* [n] */
    const float *bias;  /* [n] or NULL */
    float lo, hi;       /* −inf and +inf for no limit */
} nw_gemm_bits_args;

/* One tile, m ≤ mr rows × n ≤ nr columns: rows[t·row_stride + i] as in nw_rows_gather; w: the panel of these columns,
 * [tap][word][width]; ones[t·ones_stride + j]: bits of column j that are 1 in tap t; c, scale and bias at the tile's corner. */
typedef struct nw_gemm_bits_tile {
    size_t m, n, k, words, taps, width;
    const void *const *rows;
    size_t row_stride;
    const void *pad;
    const uint64_t *w;
    const int32_t *ones;
    size_t ones_stride;
    float *c;
    size_t ldc;
    const float *scale, *bias;
    float lo, hi;
} nw_gemm_bits_tile;

typedef void nw_gemm_bits_fn(const nw_gemm_bits_tile *tile);
/* bits[r·words + …] = signs of x[r·k + …], r in [0,rows), words = nw_bits_words(k): 1 unless x < 0 (NaN and −0 count as 0
 * does). */
typedef void nw_pack_signs_fn(size_t rows, size_t k, const float *x, uint64_t *bits);

typedef struct nw_gemm_bits_kernel {
    const char *name;
    nw_isa isa;
    size_t mr, nr, half, least;
    nw_gemm_bits_fn *run;
    nw_pack_signs_fn *pack_signs;
} nw_gemm_bits_kernel;

#define NW_GEMM_BITS(isa, word, mr, nr, half, least)                                                         \
    nw_gemm_bits_fn nw_gemm_bits__##word;                                                                    \
    nw_pack_signs_fn nw_pack_signs__##word;
#include "kern/gemm_bits.def"
#undef NW_GEMM_BITS

const nw_gemm_bits_kernel *nw_gemm_bits_select(nw_isa ceiling); /* never NULL; static storage */

/* Bytes of packed weights (0 on overflow of size_t), and packing into memory aligned to 64 bytes. Element W[n][t][k] is bit
 * first + n·stride_n + t·stride_tap + k·stride_k of `bits`, low bits of a byte first. */
size_t nw_gemm_bits_packed_bytes(const nw_gemm_bits_kernel *kernel, size_t n, size_t k, size_t taps);
void nw_gemm_bits_pack(const nw_gemm_bits_kernel *kernel, size_t n, size_t k, size_t taps,
                       const uint8_t *bits, size_t first, size_t stride_n, size_t stride_tap, size_t stride_k,
                       void *packed);

/* Rows [m0,m1) and columns [n0,n1) of C; n0 must be a multiple of kernel->nr, n1 too unless it is n. Calls on disjoint parts
 * may run at the same time. Uses 36 KiB of stack. taps ≤ NW_GEMM_MAX_TAPS (gemm.h). */
void nw_gemm_bits_run(const nw_gemm_bits_kernel *kernel, const nw_gemm_bits_args *args, size_t m0, size_t m1,
                      size_t n0, size_t n1);

#endif
