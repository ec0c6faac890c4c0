/* dwconv.h: depthwise convolution on channels-last images (one filter per channel, multiplier 1):
 *     y[m][c] = epilogue( Σ_t a_t[m][c] · w[c][t] )
 * where tap t of output pixel m comes from nw_rows (window or table). Reads exactly C elements per row and
 * tap. Kernels cannot fail and take no memory. Must not include anything but kern/. */
#ifndef NW_KERN_DWCONV_H
#define NW_KERN_DWCONV_H

#include "kern/epilogue.h"
#include "kern/isa.h"
#include "kern/rows.h"

#include <stddef.h>
#include <stdint.h>

#define NW_DWCONV_ALIGN    64   /* bytes: of the packed weights */
#define NW_DWCONV_MAX_TAPS 1024 /* of either kind; the planner computes larger filters another way */

/* y = clamp(Σ a·w [+ bias[c]], lo, hi); NaN stays NaN. ISAs differ by rounding (fused multiply-add). */
typedef struct nw_dwconv_f32_args {
    size_t m, channels, taps;
    nw_rows rows;
    const void *packed;
    float *c;          /* [m][channels] */
    size_t ldc;        /* bytes */
    const float *bias; /* [channels] or NULL */
    float lo, hi;
} nw_dwconv_f32_args;

/* u8 activations · s8 weights, with zero points of weights taken off while packing; sums exact in int32;
 * every ISA gives the same bits. epilogue.wzero must be NULL; column n of the epilogue is channel c. */
typedef struct nw_dwconv_u8s8_args {
    size_t m, channels, taps;
    nw_rows rows;
    const void *packed;
    void *c;    /* [m][channels] of u8, s32 or f32 */
    size_t ldc; /* bytes */
    nw_epilogue epilogue;
} nw_dwconv_u8s8_args;

/* count ≥ 1 output pixels: rows[t·row_stride + i], outputs at c + i·ldc bytes. */
typedef void nw_dwconv_f32_fn(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                              size_t row0, size_t count);
typedef void nw_dwconv_u8s8_fn(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,
                               size_t row0, size_t count);
/* Output pixels [m0,m1), with weights packed for args->rows.window. */
typedef void nw_dwconv_u8s8_lines_fn(const nw_dwconv_u8s8_args *args, size_t m0, size_t m1);

#define NW_DWCONV(isa, word, word_lines, kernel, stride)                                                     \
    nw_dwconv_f32_fn nw_dwconv_f32__##word;                                                                  \
    nw_dwconv_u8s8_fn nw_dwconv_u8s8__##word;                                                                \
    nw_dwconv_u8s8_lines_fn nw_dwconv_u8s8_lines__##word_lines;
#include "kern/dwconv.def"
#undef NW_DWCONV

typedef struct nw_dwconv_kernel {
    nw_isa isa;
    nw_dwconv_f32_fn *f32;
    nw_dwconv_u8s8_fn *u8s8;
    nw_dwconv_u8s8_lines_fn *u8s8_lines;
    size_t lines_kernel, lines_stride; /* the largest square window and stride that it packs for u8s8_lines */
} nw_dwconv_kernel;

const nw_dwconv_kernel *nw_dwconv_select(nw_isa ceiling); /* never NULL; static storage */

/* Weight of channel c and tap t is w[c·stride_c + tap_at[t]] (elements); below, w[c·stride_c + t·stride_tap].
 * ONNX [C,1,kh,kw]: kh·kw, and 0, 1, … or 1. */
size_t nw_dwconv_f32_packed_bytes(size_t channels, size_t taps);
void nw_dwconv_f32_pack(size_t channels, size_t taps, const float *w, size_t stride_c, const size_t *tap_at,
                        void *packed);
/* window: what the kernel will run under (rows.window must then have its kernel, stride and dilation), for a
 * faster way where there is one; or NULL. Weights run only with the kernel they were packed for. */
size_t nw_dwconv_u8s8_packed_bytes(const nw_dwconv_kernel *kernel, size_t channels, size_t taps,
                                   const nw_window *window);
/* wzero: [channels] in [−128, 255] or NULL; the kernel multiplies with w − wzero. */
void nw_dwconv_u8s8_pack(const nw_dwconv_kernel *kernel, size_t channels, size_t taps, const int8_t *w,
                         size_t stride_c, size_t stride_tap, const int32_t *wzero, const nw_window *window,
                         void *packed);
/* sums[c] = Σ_t (w − wzero), for epilogue.bias: bias[c] = b[c] − z_a·sums[c]. */
void nw_dwconv_u8s8_col_sums(size_t channels, size_t taps, const int8_t *w, size_t stride_c,
                             size_t stride_tap, const int32_t *wzero, int32_t *sums);

/* Output pixels [m0,m1), best cut between lines. Disjoint parts may run at the same time. 64 KiB of stack. */
void nw_dwconv_f32_run(const nw_dwconv_kernel *kernel, const nw_dwconv_f32_args *args, size_t m0, size_t m1);
void nw_dwconv_u8s8_run(const nw_dwconv_kernel *kernel, const nw_dwconv_u8s8_args *args, size_t m0,
                        size_t m1);

#endif
