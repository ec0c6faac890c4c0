/* layout.h: transposes between ONNX's NCHW and the machine's channels-last NHWC, and channel shuffles.
 * Kernels cannot fail. Must not include anything but kern/. */
#ifndef NW_KERN_LAYOUT_H
#define NW_KERN_LAYOUT_H

#include "kern/isa.h"

#include <stddef.h>
#include <stdint.h>

/* dst[c][r] = src[r][c] for r in [0,rows), c in [0,cols). ld_src, ld_dst: elements between rows of src (≥
 * cols) and of dst (≥ rows). src and dst must not overlap. NCHW → NHWC of one image: rows = C, cols = H·W;
 * back: rows = H·W, cols = C. */
typedef void nw_transpose_b8_fn(size_t rows, size_t cols, const void *src, size_t ld_src, void *dst,
                                size_t ld_dst);
typedef void nw_transpose_b32_fn(size_t rows, size_t cols, const void *src, size_t ld_src, void *dst,
                                 size_t ld_dst);

/* Channel shuffle: dst[p][i][g] = src[p][g][i] for p in [0,pixels), g in [0,groups), i in [0,n); without gaps, not in
 * place. */
typedef void nw_shuffle_fn(size_t pixels, size_t groups, size_t n, const void *src, void *dst);

#define NW_LAYOUT(isa, word)                                                                                 \
    nw_transpose_b8_fn nw_transpose_b8__##word;                                                              \
    nw_transpose_b32_fn nw_transpose_b32__##word;                                                            \
    nw_shuffle_fn nw_shuffle_b8__##word, nw_shuffle_b32__##word;
#include "kern/layout.def"
#undef NW_LAYOUT

typedef struct nw_layout {
    nw_transpose_b8_fn *transpose_b8;   /* 1-byte elements */
    nw_transpose_b32_fn *transpose_b32; /* 4-byte elements */
    nw_shuffle_fn *shuffle_b8, *shuffle_b32;
} nw_layout;

void nw_layout_select(nw_isa ceiling, nw_layout *out);

#endif
