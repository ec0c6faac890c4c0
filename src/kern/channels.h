/* channels.h: per-channel work on rows of channels, x [rows][cols]: the statistics, scaling and gradients of
 * normalizations, and the gradients of functions element by element. Channels-last images are such rows.
 * Pointers unaligned-safe; nothing is read or written outside the arrays. y == x, y == r and dx == dy are fine,
 * partial overlap is not. All results are the same bits on every ISA. Kernels cannot fail. Must not include anything
 * but kern/. */
#ifndef NW_KERN_CHANNELS_H
#define NW_KERN_CHANNELS_H

#include "kern/isa.h"

#include <stddef.h>

/* Numbers per channel, [cols] each, that a normalization multiplies and adds. */
typedef struct nw_channel_affine {
    const float *factor, *shift;
    float lo, hi; /* a clamp behind it; ∓inf: none */
} nw_channel_affine;

/* Σ d and Σ d² of each column, d = x − pivot, onto sum and squares: up to 32 rows in f32, then in f64. With a
 * pivot near the mean nothing cancels. */
typedef void nw_channel_moments_f32_fn(size_t rows, size_t cols, const float *x, const float *pivot,
                                       double *sum, double *squares);
/* y = clamp(x·factor + shift [+ r]), each operation rounded once; r [rows][cols] or NULL. NaN stays NaN. */
typedef void nw_channel_affine_f32_fn(size_t rows, size_t cols, const float *x, const nw_channel_affine *p,
                                      const float *r, float *y);
/* Σ g and Σ g·(x − mean) of each column, added as in moments. g = dy; with a gate, dy where
 * x·factor + shift > gate->lo, elsewhere 0. */
typedef void nw_channel_products_f32_fn(size_t rows, size_t cols, const float *x, const float *dy,
                                        const float *mean, const nw_channel_affine *gate, double *sum,
                                        double *products);
/* dx = g·factor + ((x − mean)·slope + shift), g as above; factor, slope, shift [cols]. */
typedef struct nw_channel_grad {
    const float *mean, *factor, *slope, *shift;
} nw_channel_grad;
typedef void nw_channel_grad_f32_fn(size_t rows, size_t cols, const float *x, const float *dy,
                                    const nw_channel_grad *p, const nw_channel_affine *gate, float *dx);

/* sums[c] += Σ_i x_i[c]·y[i][c] over rows x_i at pointers and y [rows][cols]; the Σ in f32, in order. */
typedef void nw_channel_dots_f32_fn(size_t rows, size_t cols, const void *const *x, const float *y,
                                    float *sums);

/* y[i·ld + c] = x_i[from + c]: parts of rows at pointers brought together. */
typedef void nw_channel_copy_f32_fn(size_t rows, size_t cols, const void *const *x, size_t from, float *y,
                                    size_t ld);
/* Gradients of a window of `taps` ≥ 1 rows at pointers, cols long each. Of a maximum: dx_t[c] += dy[c] for the first
 * tap t with the largest x_t[c], or the last one that is NaN. Of a sum: dx_t[c] += factor·dy[c] for all taps. */
typedef void nw_channel_max_grad_f32_fn(size_t taps, size_t cols, const void *const *x, const float *dy,
                                        void *const *dx);
typedef void nw_channel_spread_f32_fn(size_t taps, size_t cols, float factor, const float *dy,
                                      void *const *dx);

#define NW_CHANNELS_LIST(X)                                                                                  \
    X(channel_moments_f32)                                                                                   \
    X(channel_affine_f32)                                                                                    \
    X(channel_products_f32)                                                                                  \
    X(channel_grad_f32)                                                                                      \
    X(channel_dots_f32) X(channel_copy_f32) X(channel_max_grad_f32) X(channel_spread_f32)

typedef struct nw_channels {
#define NW_CHANNELS_FIELD(name) nw_##name##_fn *name;
    NW_CHANNELS_LIST(NW_CHANNELS_FIELD)
#undef NW_CHANNELS_FIELD
} nw_channels;

#define NW_CHANNELS(isa, word)                                                                               \
    nw_channel_moments_f32_fn nw_channel_moments_f32__##word;                                                \
    nw_channel_affine_f32_fn nw_channel_affine_f32__##word;                                                  \
    nw_channel_products_f32_fn nw_channel_products_f32__##word;                                              \
    nw_channel_grad_f32_fn nw_channel_grad_f32__##word;                                                      \
    nw_channel_dots_f32_fn nw_channel_dots_f32__##word;                                                      \
    nw_channel_copy_f32_fn nw_channel_copy_f32__##word;                                                      \
    nw_channel_max_grad_f32_fn nw_channel_max_grad_f32__##word;                                              \
    nw_channel_spread_f32_fn nw_channel_spread_f32__##word;
#include "kern/channels.def"
#undef NW_CHANNELS

void nw_channels_select(nw_isa ceiling, nw_channels *out);

#endif
