/* choose.h: scales and zero points from the numbers themselves: one function per rule (docs/numerics.md). x holds one
 * group of finite numbers. A scale is never 0, denormal or infinite, and is a number of its storage format before any
 * code is chosen.
 * Must not include anything but base/ and num/. */
#ifndef NW_NUM_CHOOSE_H
#define NW_NUM_CHOOSE_H

#include "num/qparam.h"

/* The grid a range is wanted for: codes qmin … qmax; symmetric: zero point 0. */
typedef struct nw_codes {
    int32_t qmin, qmax;
    bool symmetric;
} nw_codes;

/* The number of a scale format (f32, f16, bf16, f8e8m0) next to `scale`: at or above it when `up`, so that a range stays
 * covered, else the nearest; the format's ends where it lies beyond. */
float nw_round_scale(nw_format format, float scale, bool up);
/* The smallest scale of a format: for groups of zeros in codes without a zero. */
float nw_least_scale(nw_format format);

/* Scale and zero point of the grid [qmin, qmax] for reals in [lo, hi] (docs/numerics.md). The range is widened to hold 0.
 * Symmetric: zero = 0 for signed codes (or unsigned with lo ≥ 0); asymmetric: zero in [qmin, qmax]. A constant
 * tensor round-trips. */
void nw_choose_scale(float lo, float hi, bool symmetric, int32_t qmin, int32_t qmax, float *scale,
                     int32_t *zero);
/* The same with a scale of a format, rounded up: powers of two are fixed point. */
void nw_choose_grid(float lo, float hi, const nw_codes *codes, nw_format scale_format, float *scale,
                    int32_t *zero);
/* Σ (x − x')², x' = scale·clamp(rint(x/scale), lo, hi): kern/elementwise.h has one, fit to compare grids. */
typedef float nw_grid_error_fn(size_t n, const float *x, float scale, float lo, float hi);
/* Of the ranges within [lo, hi] = the range of x down to a quarter of it, the one whose grid has the smallest squared
 * error. Codes of up to 16 bits. */
void nw_choose_grid_mse(nw_grid_error_fn *of, const float *x, size_t count, float lo, float hi,
                        const nw_codes *codes, nw_format scale_format, float *scale, int32_t *zero);

/* α of the codes {−1, 0, 1}·α that minimise Σ(x − x')²: the mean of the k largest |x|, where k maximises (their sum)²/k;
 * 0 for zeros. room: [2·count], scratch. O(count). */
float nw_choose_ternary(const float *x, size_t count, uint32_t *room);
/* α of {−1, 1}·α likewise: the mean of |x|. */
float nw_choose_binary(const float *x, size_t count);

/* Scale of a float format for numbers up to `top` in magnitude. Formats of 16 bits: 1, or the power of two that makes
 * top fit. Smaller ones: top becomes the largest number; with power-of-two scales 2^(floor(log2 top) − e), e the exponent
 * of the largest number, as the OCP Microscaling specification says (1.0, section 6.3; numbers above the largest
 * saturate). */
float nw_choose_float(float top, nw_format format, nw_format scale_format);

#endif
