/* gemm_wcodes.h: matrix products whose constant weights stay codes of 1 to 16 bits in memory and are decoded in registers:
 *     C[m][n] = clamp( Σ_b scale[n][b] · Σ_{k in block b} A[m][k] · (level(code[n][k]) − zero[n][b]) + bias[n], lo, hi )
 * A is f32 (only the weights are quantized), or u8 codes on a grid of the whole matrix or of each row, when products of a
 * block are integers. A few rows run as fast as the codes come from memory. Where decoding in registers cannot keep up with
 * many rows, a panel of weights is decoded into the cache and multiplied by the f32 kernel of gemm.h.
 * Kernels cannot fail and take no memory. Must not include anything but kern/ and num/format.h. */
#ifndef NW_KERN_GEMM_WCODES_H
#define NW_KERN_GEMM_WCODES_H

#include "kern/gemm.h"
#include "num/format.h"

#define NW_WGEMM_MAX_NR 32
#define NW_WGEMM_ROWS_OF_256                                                                                 \
    4 /* tables of 256 levels are slow to read: for more rows, panels are decoded before */

/* How a code becomes a number. */
typedef enum nw_wcodes_kind {
    NW_WCODES_TABLE,  /* 1, 2 or 4 bits: a position in `level` */
    NW_WCODES_S8,     /* 8 bits, two's complement */
    NW_WCODES_TABLE8, /* 8 bits: a position in `levels` */
    NW_WCODES_E4M3,   /* the same; a number of F8E4M3FN, and no code means a NaN */
    NW_WCODES_E5M2,   /* the same; a number of F8E5M2, and no code means a NaN or an infinity */
    NW_WCODES_F16,
    NW_WCODES_BF16
} nw_wcodes_kind;

/* The matrix W [n][k]. Columns of C are cut into panels of the kernel's nr, the last one padded; a panel is one record per
 * block of k, read from start to end:
 *     scales [nr] in scale_format; zero points s8 [nr] if `zeros`; codes [⌈count / per word⌉][nr] in 32-bit words
 * A word has 32/bits codes of one column: code k in byte k mod 4, from bit bits·(k div 4) of it on; 16 bits: k = 0, 1. So
 * byte operations on a register of words give four neighbours of every column, as integer dot products want them. */
typedef struct nw_wcodes {
    nw_wcodes_kind kind;
    int bits; /* 1, 2, 4, 8, 16 */
    size_t n, k;
    size_t block;           /* k per scale: ≥ 1; k when columns have one scale */
    nw_format scale_format; /* F32, F16 or BF16 */
    bool zeros;             /* of TABLE with 2 or 4 bits and S8 */
    bool
        whole; /* u8 products are possible: TABLE: level = unit·step, |step − zero| ≤ 63; S8: block ≤ 32768 if zeros */
    float level[16];     /* TABLE: 2^bits of them, repeated, so that the bits above a code do not matter */
    int8_t step[16];     /* the same, as integers */
    float unit;          /* 1 but for TABLE */
    const float *levels; /* TABLE8, E4M3 and E5M2: [256] */
    const void *packed;  /* NW_GEMM_ALIGN-aligned */
    const float *sums;   /* [n], if whole: Σ_b scale · Σ_k (step − zero) */
} nw_wcodes;

/* Codes, scales and zero points where they come from; strides in elements. The weights of a convolution have an image's
 * channels at several taps: k = tap·depth + i. */
typedef struct nw_wcodes_source {
    /* code of W[n][k] is element (first_n + n)·stride_n + tap·stride_tap + i·stride_k; below 8 bits the low bits of a byte come
     * first */
    const void *codes;
    size_t depth; /* k, where there is one tap */
    size_t first_n, stride_n, stride_tap, stride_k;
    uint8_t flip; /* XORed to 8-bit codes: 128 makes u8 codes s8 */
    /* its scale is element (first_n + n)·scale_n + tap·scale_tap + i/block·scale_b: F32, F16, BF16 or F8E8M0. Blocks of W are
     * parts of these, and of taps, where there are several. */
    const void *scales;
    nw_format scale_format;
    size_t block, scale_n, scale_tap, scale_b;
    const int32_t *zeros; /* like scales, or NULL; needed if w->zeros */
    int32_t zero_shift;   /* subtracted from them: zero points must then fit into s8 */
} nw_wcodes_source;

/* How scales of a format are stored. */
nw_format nw_wcodes_scale_format(nw_format source);

/* What overlays compile their tiles for: X(name, kind, bits, zeros). u8 tiles know the first ones only. */
#define NW_WCODES_WHOLE_VARIANTS(X)                                                                          \
    X(table4, TABLE, 4, false)                                                                               \
    X(table4_zeros, TABLE, 4, true)                                                                          \
    X(table2, TABLE, 2, false)                                                                               \
    X(table2_zeros, TABLE, 2, true)                                                                          \
    X(table1, TABLE, 1, false)                                                                               \
    X(s8, S8, 8, false)                                                                                      \
    X(s8_zeros, S8, 8, true)
#define NW_WCODES_VARIANTS(X)                                                                                \
    NW_WCODES_WHOLE_VARIANTS(X)                                                                              \
    X(table8, TABLE8, 8, false)                                                                              \
    X(e4m3, E4M3, 8, false)                                                                                  \
    X(e5m2, E5M2, 8, false)                                                                                  \
    X(f16, F16, 16, false)                                                                                   \
    X(bf16, BF16, 16, false)

/* The variant of these weights, as an index into the lists. */
static inline int nw_wcodes_variant(const nw_wcodes *w) {
    enum {
#define NW_WCODES_VARIANT(name, kind, bits, zeros) VARIANT_##name,
        NW_WCODES_VARIANTS(NW_WCODES_VARIANT)
#undef NW_WCODES_VARIANT
    };
    switch (w->kind) {
    case NW_WCODES_TABLE:
        if (w->bits == 1) return VARIANT_table1;
        return (w->bits == 4 ? VARIANT_table4 : VARIANT_table2) + (w->zeros ? 1 : 0);
    case NW_WCODES_S8: return w->zeros ? VARIANT_s8_zeros : VARIANT_s8;
    case NW_WCODES_TABLE8: return VARIANT_table8;
    case NW_WCODES_E4M3: return VARIANT_e4m3;
    case NW_WCODES_E5M2: return VARIANT_e5m2;
    case NW_WCODES_F16: return VARIANT_f16;
    default: return VARIANT_bf16;
    }
}

/* ---- kernels ------------------------------------------------------------------------------------------- */

/* One tile: m ≤ mr rows, of tables of 256 levels ≤ NW_WGEMM_ROWS_OF_256, × n ≤ nr columns of a panel. */
typedef struct nw_wgemm_f32_tile {
    const nw_wcodes *w;
    const char *panel;
    size_t m, n;
    const float *a;
    size_t lda; /* bytes */
    float *c;
    size_t ldc;        /* bytes */
    const float *bias; /* at the tile's first column, or NULL */
    float lo, hi;
} nw_wgemm_f32_tile;
typedef void nw_wgemm_f32_fn(const nw_wgemm_f32_tile *tile);

/* out[k − k0][width] ← scale·(level − zero) of k0 ≤ k < k1 of a panel's first `width` columns: a panel of gemm.h. k0 and k1
 * are ends of blocks, or ends of words in one block. width: a multiple of the f32 kernel's half, ≤ nr. */
typedef void nw_wgemm_decode_fn(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, size_t width,
                                float *out);

/* sum = Σ_b fma(scale[b], (float)Σ_{k in b} a·(step − zero), ·) from 0 on, a u8; then
 *     y = clamp(((sum − zero·sums[n]) · factor) [+ bias[n]], lo, hi)
 * each operation one IEEE rounding: every ISA gives the same bits. Sums of a block are exact for block ≤ 65536. */
typedef struct nw_wgemm_u8_tile {
    const nw_wcodes *w;
    const char *panel;
    size_t m, n;
    const uint8_t *a; /* exactly k bytes per row are read */
    size_t lda;
    float *c;
    size_t ldc;
    const float *sums, *bias;   /* at the tile's first column; bias may be NULL */
    const float *zero, *factor; /* [m] */
    float lo, hi;
} nw_wgemm_u8_tile;
typedef void nw_wgemm_u8_fn(const nw_wgemm_u8_tile *tile);

/* A is bf16 too: products are exact in f32; how the sums of a block are rounded (the vector instruction adds pairs, and takes
 * subnormal numbers for 0) and in which order they are added is left to the ISA. */
typedef struct nw_wgemm_bf16_tile {
    const nw_wcodes *w; /* of kind BF16 */
    const char *panel;
    size_t m, n;
    const uint16_t *a; /* exactly k elements per row are read */
    size_t lda;        /* bytes */
    float *c;
    size_t ldc;
    const float *bias;
    float lo, hi;
} nw_wgemm_bf16_tile;
typedef void nw_wgemm_bf16_fn(const nw_wgemm_bf16_tile *tile);

typedef struct nw_wgemm_bf16_kernel {
    const char *name; /* "gemm_bf16_wcodes__avx512bf16" */
    nw_isa isa;
    size_t nr, mr;
    nw_wgemm_bf16_fn *run;
} nw_wgemm_bf16_kernel;

typedef struct nw_wgemm_kernel {
    const char *name; /* "gemm_wcodes__avx2" */
    nw_isa isa;
    size_t nr, mr;
    size_t ahead; /* products of more rows decode panels before */
    size_t mr_u8;
    nw_wgemm_f32_fn *f32;
    nw_wgemm_decode_fn *decode;
    nw_wgemm_u8_fn *u8;
    const char *name_u8; /* "gemm_u8_wcodes__avx2" */
} nw_wgemm_kernel;

#define NW_WGEMM(isa, word, u8_word, nr, mr, ahead, mr_u8)                                                   \
    nw_wgemm_f32_fn nw_wgemm_f32__##word;                                                                    \
    nw_wgemm_decode_fn nw_wgemm_decode__##word;                                                              \
    nw_wgemm_u8_fn nw_wgemm_u8__##u8_word;
#define NW_WGEMM_BF16(isa, word, nr, mr) nw_wgemm_bf16_fn nw_wgemm_bf16__##word;
#include "kern/gemm_wcodes.def"
#undef NW_WGEMM
#undef NW_WGEMM_BF16

const nw_wgemm_kernel *nw_wgemm_select(nw_isa ceiling); /* never NULL; static storage */
const nw_wgemm_bf16_kernel *nw_wgemm_bf16_select(nw_isa ceiling);

/* Bytes of w when packed for kernels with panels of nr columns; 0 on overflow of size_t. */
size_t nw_wcodes_bytes(size_t nr, const nw_wcodes *w);
/* Permutes codes and scales into `packed`; sums [n] if w->whole. */
void nw_wcodes_pack(size_t nr, const nw_wcodes *w, const nw_wcodes_source *source, void *packed, float *sums);

/* Decodes the panel of columns n0 … (n0 a multiple of kernel->nr) as nw_gemm_f32_pack makes it for the f32 kernel of
 * kernel->isa: out [k][columns rounded up to its half]. */
void nw_wgemm_decode(const nw_wgemm_kernel *kernel, const nw_wcodes *w, size_t n0, float *out);

/* ---- products ------------------------------------------------------------------------------------------ */

typedef struct nw_wgemm_f32_args {
    const nw_wcodes *w;
    size_t m;
    const float *a;    /* [m][k] */
    size_t lda;        /* bytes */
    float *c;          /* [m][n]; must not overlap a */
    size_t ldc;        /* bytes */
    const float *bias; /* [n] or NULL */
    float lo, hi;      /* −inf and +inf for no limit */
} nw_wgemm_f32_args;

typedef struct nw_wgemm_u8_args {
    const nw_wcodes *w; /* whole */
    size_t m;
    const uint8_t *a; /* [m][k]: real = scale·(a − zero) */
    size_t lda;
    float *c;
    size_t ldc;
    const float *bias;
    float lo, hi;
    float scale; /* of all rows, unless row_scale */
    int32_t zero;
    const float *row_scale; /* [m], or NULL */
    const int32_t *row_zero;
} nw_wgemm_u8_args;

typedef struct nw_wgemm_bf16_args {
    const nw_wcodes *w; /* of kind BF16 */
    size_t m;
    const uint16_t *a; /* [m][k] */
    size_t lda;
    float *c;
    size_t ldc;
    const float *bias;
    float lo, hi;
} nw_wgemm_bf16_args;

/* Rows [m0,m1) and columns [n0,n1) of C; n0 a multiple of kernel->nr, n1 too unless it is n. Calls on disjoint parts may run
 * at the same time; parts should be many columns, not many rows: each part decodes its columns. The f32 summation order
 * depends on m1 − m0 and differs between ISAs. f32: 72 KiB of stack. */
void nw_wgemm_f32_run(const nw_wgemm_kernel *kernel, const nw_wgemm_f32_args *args, size_t m0, size_t m1,
                      size_t n0, size_t n1);
void nw_wgemm_u8_run(const nw_wgemm_kernel *kernel, const nw_wgemm_u8_args *args, size_t m0, size_t m1,
                     size_t n0, size_t n1);

void nw_wgemm_bf16_run(const nw_wgemm_bf16_kernel *kernel, const nw_wgemm_bf16_args *args, size_t m0,
                       size_t m1, size_t n0, size_t n1);

/* ---- for kernels --------------------------------------------------------------------------------------- */

static inline size_t nw_wcodes_per_word(const nw_wcodes *w) {
    return 32 / (size_t)w->bits;
}
/* Bytes before the codes of a record. */
static inline size_t nw_wcodes_head(const nw_wcodes *w, size_t nr) {
    return nr * ((w->scale_format == NW_F32 ? 4 : 2) + (w->zeros ? 1 : 0));
}
static inline size_t nw_wcodes_record(const nw_wcodes *w, size_t nr, size_t count) {
    size_t per_word = nw_wcodes_per_word(w);
    return nw_wcodes_head(w, nr) + (count + per_word - 1) / per_word * nr * 4;
}
static inline bool nw_wcodes_kind_of_256(nw_wcodes_kind kind) {
    return kind == NW_WCODES_TABLE8 || kind == NW_WCODES_E4M3 || kind == NW_WCODES_E5M2;
}
/* How far code k of a word is from bit 0. */
static inline int nw_wcodes_shift(const nw_wcodes *w, size_t k) {
    return w->bits == 16 ? 16 * (int)k : 8 * (int)(k % 4) + w->bits * (int)(k / 4);
}
/* The first `used` ≤ 4 bytes of a, the others 0; without a call, which would cost a kernel its registers. */
static inline int32_t nw_wgemm_four(const uint8_t *a, size_t used) {
    uint32_t x = a[0];
    if (used == 4) {
        __builtin_memcpy(&x, a, 4);
        return (int32_t)x;
    }
    if (used > 1) x |= (uint32_t)a[1] << 8;
    if (used > 2) x |= (uint32_t)a[2] << 16;
    return (int32_t)x;
}

#endif
