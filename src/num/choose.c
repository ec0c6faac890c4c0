/* choose.c: scales and zero points from the numbers themselves. */
#include "num/choose.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define PIECE 4096 /* elements whose errors are added in single precision */

/* ---- formats of scales --------------------------------------------------------------------------------------- */

float nw_least_scale(nw_format format) {
    return format == NW_F16 ? 0x1p-24f : FLT_MIN;
}

float nw_round_scale(nw_format format, float scale, bool up) {
    float least = nw_least_scale(format);
    float most = format == NW_F16      ? 65504
                 : format == NW_BF16   ? 0x1.fep127f
                 : format == NW_F8E8M0 ? 0x1p127f
                                       : FLT_MAX;
    if (!(scale > least)) return least;
    if (scale >= most) return most;
    if (format == NW_F8E8M0) {
        int e;
        float m = frexpf(scale, &e); /* in [1/2, 1) */
        return ldexpf(1, m > (up ? 0.5f : 0.75f) ? e : e - 1);
    }
    if (format != NW_F16 && format != NW_BF16) return scale;
    uint16_t (*encode)(float) = format == NW_F16 ? nw_f16_from_f32 : nw_bf16_from_f32;
    float (*decode)(uint16_t) = format == NW_F16 ? nw_f16_to_f32 : nw_bf16_to_f32;
    uint16_t code = encode(scale);
    if (up && decode(code) < scale) code++; /* positive codes ascend with their numbers */
    return fminf(decode(code), most);
}

/* ---- linear grids -------------------------------------------------------------------------------------------- */

void nw_choose_grid(float lo, float hi, const nw_codes *codes, nw_format scale_format, float *scale,
                    int32_t *zero) {
    if (!(lo <= 0)) lo = 0; /* also NaN */
    if (!(hi >= 0)) hi = 0;
    const int32_t qmin = codes->qmin, qmax = codes->qmax;
    double s, levels = (double)qmax - (double)qmin; /* steps from zero to the end of the range, at most */
    if (codes->symmetric) {
        double top = fmax(-(double)lo, (double)hi);
        *zero = 0;
        levels = qmin < 0 && -(double)qmin < (double)qmax ? -(double)qmin : (double)qmax;
        s = top / levels;
    } else {
        s = ((double)hi - (double)lo) / levels;
    }
    if (s > (double)FLT_MAX) s = (double)FLT_MAX;
    float f = (float)s;
    while (!isfinite(f * (float)levels)) f = nextafterf(f, 0);  /* the largest code must be a number too */
    if (!(f >= FLT_MIN)) f = hi > 0 || lo < 0 ? FLT_MIN : 1.0f; /* a tensor of zeros: any scale will do */
    f = nw_round_scale(scale_format, f, true);
    *scale = f;
    if (!codes->symmetric) {
        double z = rint((double)qmin - (double)lo / (double)f);
        *zero = z < qmin ? qmin : z > qmax ? qmax : (int32_t)z;
    }
}

void nw_choose_scale(float lo, float hi, bool symmetric, int32_t qmin, int32_t qmax, float *scale,
                     int32_t *zero) {
    nw_choose_grid(lo, hi, &(nw_codes){qmin, qmax, symmetric}, NW_F32, scale, zero);
}

/* Σ (x − x')² on one grid. */
static double error_on(nw_grid_error_fn *of, const float *x, size_t count, const nw_codes *codes, float scale,
                       int32_t zero) {
    const float lo = (float)(codes->qmin - zero), hi = (float)(codes->qmax - zero);
    double error = 0;
    for (size_t i = 0, n; i < count; i += n) {
        n = count - i < PIECE ? count - i : PIECE;
        error += (double)of(n, x + i, scale, lo, hi);
    }
    return error;
}

/* The error of the outermost number alone on a grid that ends before it, rounding of sums allowed for. */
static double least_error(float lo, float hi, const nw_codes *codes, float scale, int32_t zero) {
    const double above = (double)hi - (double)scale * (codes->qmax - zero),
                 below = (double)scale * (codes->qmin - zero) - (double)lo, beyond = fmax(above, below);
    return beyond > 0 ? 0.999 * beyond * beyond : 0;
}

/* Ends are tried from everything down to a quarter, a grid that has few codes gains most from it. */
void nw_choose_grid_mse(nw_grid_error_fn *of, const float *x, size_t count, float lo, float hi,
                        const nw_codes *codes, nw_format scale_format, float *scale, int32_t *zero) {
    nw_choose_grid(lo, hi, codes, scale_format, scale, zero);
    double least = error_on(of, x, count, codes, *scale, *zero);
    float ends[2] = {lo, hi};
    int lines = codes->symmetric || lo == 0 || hi == 0 ? 1 : 3; /* both ends together, then each alone */
    for (int l = 0; l < lines; l++) {
        float from[2] = {ends[0], ends[1]};
        for (int i = 1; i <= 48; i++) {
            float factor = 1 - (float)i / 64, low = l == 2 ? from[0] : from[0] * factor;
            float high = l == 1 ? from[1] : from[1] * factor, s;
            int32_t z;
            nw_choose_grid(low, high, codes, scale_format, &s, &z);
            if (least_error(lo, hi, codes, s, z) >= least) {
                if (codes->symmetric) break; /* and narrower grids cost more */
                continue;
            }
            double error = error_on(of, x, count, codes, s, z);
            if (error >= least) continue;
            least = error;
            *scale = s;
            *zero = z;
            ends[0] = low;
            ends[1] = high;
        }
    }
}

/* ---- ternary and binary -------------------------------------------------------------------------------------- */

/* Sorts ascending, a byte at a time from the lowest; the order of a float's bits is that of its magnitude. */
static void sort_magnitudes(uint32_t *keys, size_t count, uint32_t *room) {
    uint32_t *from = keys, *to = room;
    for (int shift = 0; shift < 32; shift += 8) {
        size_t start[257] = {0};
        for (size_t i = 0; i < count; i++) start[(from[i] >> shift & 255) + 1]++;
        for (size_t i = 0; i < 255; i++) start[i + 1] += start[i];
        for (size_t i = 0; i < count; i++) to[start[from[i] >> shift & 255]++] = from[i];
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
}

float nw_choose_ternary(const float *x, size_t count, uint32_t *room) {
    memcpy(room, x, count * sizeof *x);
    for (size_t i = 0; i < count; i++) room[i] &= 0x7fffffff;
    sort_magnitudes(room, count, room + count);
    double sum = 0, best = 0, alpha = 0;
    for (size_t k = 1; k <= count; k++) {
        float magnitude;
        memcpy(&magnitude, &room[count - k], sizeof magnitude);
        sum += (double)magnitude;
        double gain = sum * sum / (double)k;
        if (gain > best) {
            best = gain;
            alpha = sum / (double)k;
        }
    }
    return (float)alpha;
}

float nw_choose_binary(const float *x, size_t count) {
    double sum[4] = {0}; /* independent additions, which vectorize */
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (size_t j = 0; j < 4; j++) sum[j] += (double)fabsf(x[i + j]);
    for (; i < count; i++) sum[0] += (double)fabsf(x[i]);
    return count ? (float)((sum[0] + sum[1] + sum[2] + sum[3]) / (double)count) : 0;
}

/* ---- floats -------------------------------------------------------------------------------------------------- */

float nw_choose_float(float top, nw_format format, nw_format scale_format) {
    double largest = nw_format_largest(format);
    int e, largest_e;
    if (nw_format_bits(format) >= 16)
        return (double)top <= largest ? 1 : nw_round_scale(NW_F8E8M0, (float)((double)top / largest), true);
    if (!(top > 0)) return 1;
    if (scale_format != NW_F8E8M0) {
        float scale = (float)((double)top / largest);
        if (top / scale > (float)largest) scale = nextafterf(scale, INFINITY); /* nothing saturates */
        return nw_round_scale(scale_format, scale, true);
    }
    frexpf(top, &e);
    frexp(largest, &largest_e);
    return nw_round_scale(NW_F8E8M0, ldexpf(1, e - largest_e), true);
}
