/* pool.h: pooling on channels-last images. Padding is left out of maxima and sums (the driver hands only
 * inside taps to a kernel); a divisor that counts padding is a matter of `count`. Kernels cannot fail.
 * Must not include anything but kern/. */
#ifndef NW_KERN_POOL_H
#define NW_KERN_POOL_H

#include "kern/isa.h"
#include "kern/rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The rows of one output pixel: rows[t] if rows != NULL, else base + t·stride bytes; each holds `channels`
 * elements. taps ≥ 1. Nothing else is read. */
typedef struct nw_pool_taps {
    size_t taps;
    const void *const *rows;
    const void *base;
    size_t stride;
} nw_pool_taps;

/* y[c] = max_t a_t[c]. f32: a NaN tap may or may not win, and the sign of a zero result is open. */
typedef void nw_max_pool_u8_fn(const nw_pool_taps *taps, size_t channels, uint8_t *y);
typedef void nw_max_pool_f32_fn(const nw_pool_taps *taps, size_t channels, float *y);
/* Along a line of pixels, all strides in elements: y[p·ldy + c] = max_t x[p·step + t·tap + c]. */
typedef struct nw_pool_line {
    size_t pixels, step; /* of the output; from one window to the next */
    size_t taps, tap;    /* of a window, ≥ 1; from one to the next */
} nw_pool_line;
typedef void nw_max_line_u8_fn(const nw_pool_line *line, size_t channels, const uint8_t *x, uint8_t *y,
                               size_t ldy);
typedef void nw_max_line_f32_fn(const nw_pool_line *line, size_t channels, const float *x, float *y,
                                size_t ldy);
/* y[c] = (Σ_t a_t[c])·factor, factor = 1/count. Order of the sum: t ascending on every ISA: the same bits. */
typedef void nw_avg_pool_f32_fn(const nw_pool_taps *taps, size_t channels, float factor, float *y);
/* q = clamp(rint((float)(Σ_t a_t[c] − taps·a_zero) · ratio) + zero, lo, hi), ratio = s_x/(s_y·count); sum
 * exact in int32 for taps ≤ 2^22; zero points within [−255, 255] (a_zero) and ±2^20 (zero). */
typedef struct nw_avg_pool_u8_params {
    int32_t a_zero, zero, lo, hi;
    float ratio;
} nw_avg_pool_u8_params;
typedef void nw_avg_pool_u8_fn(const nw_pool_taps *taps, size_t channels, const nw_avg_pool_u8_params *p,
                               uint8_t *y);

#define NW_POOL_LIST(X)                                                                                      \
    X(max_pool_u8) X(max_pool_f32) X(max_line_u8) X(max_line_f32) X(avg_pool_u8) X(avg_pool_f32)

typedef struct nw_pool {
#define NW_POOL_FIELD(name) nw_##name##_fn *name;
    NW_POOL_LIST(NW_POOL_FIELD)
#undef NW_POOL_FIELD
} nw_pool;

#define NW_POOL(isa, word)                                                                                   \
    nw_max_pool_u8_fn nw_max_pool_u8__##word;                                                                \
    nw_max_pool_f32_fn nw_max_pool_f32__##word;                                                              \
    nw_max_line_u8_fn nw_max_line_u8__##word;                                                                \
    nw_max_line_f32_fn nw_max_line_f32__##word;                                                              \
    nw_avg_pool_u8_fn nw_avg_pool_u8__##word;                                                                \
    nw_avg_pool_f32_fn nw_avg_pool_f32__##word;
#include "kern/pool.def"
#undef NW_POOL

void nw_pool_select(nw_isa ceiling, nw_pool *out);

/* Drivers: output pixels [m0,m1) of a window with kernel_h·kernel_w ≤ NW_POOL_MAX_TAPS; y is row 0 of
 * [m][channels], rows ldy bytes apart. A pixel whose taps are all padding gives 0 (u8 max: `empty`; u8
 * average: the zero point, clamped). Disjoint parts may run at the same time. 24 KiB of stack. Global
 * pools: call the kernel itself with base = image, stride = pixel stride, taps = H·W. */
#define NW_POOL_MAX_TAPS 1024
void nw_max_pool_u8_run(const nw_pool *pool, const nw_window *window, const uint8_t *x, size_t channels,
                        uint8_t empty, uint8_t *y, size_t ldy, size_t m0, size_t m1);
void nw_max_pool_f32_run(const nw_pool *pool, const nw_window *window, const float *x, size_t channels,
                         float *y, size_t ldy, size_t m0, size_t m1);
/* include_pad: divide by `divisor` = kernel_h·kernel_w always (ONNX count_include_pad, without ceil_mode's
 * overhang), else by the number of inside taps. s_ratio = s_x/s_y; the ratio of one pixel is
 * s_ratio/(float)count. p->ratio is ignored. */
void nw_avg_pool_u8_run(const nw_pool *pool, const nw_window *window, const uint8_t *x, size_t channels,
                        bool include_pad, float s_ratio, const nw_avg_pool_u8_params *p, uint8_t *y,
                        size_t ldy, size_t m0, size_t m1);
void nw_avg_pool_f32_run(const nw_pool *pool, const nw_window *window, const float *x, size_t channels,
                         bool include_pad, float *y, size_t ldy, size_t m0, size_t m1);

#endif
