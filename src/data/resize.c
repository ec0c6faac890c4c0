/* The separable filter of Pillow's Image.resize in 8-bit fixed point: for output position x with scale s =
 * in/out and filter width r = max(s, 1)·support, weights w_i ∝ filter((i − center + ½)/max(s, 1)), center =
 * (x + ½)·s, over [⌊center − r + ½⌋, ⌊center + r + ½⌋), normalised to sum 1, rounded to 22 bits. */
#include "data/image.h"

#include <math.h>
#include <string.h>

#define BITS 22 /* of the weights' fraction: 32 − 8 (pixel) − 2 (sign, overshoot) */

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x) { /* Keys, a = −½ */
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* Weights of one direction: output i is the sum over k < count[i] of weights[i·stride + k] · input[first[i] +
 * k]. */
typedef struct taps {
    int *first, *count;
    int32_t *weights;
    size_t stride;
} taps;

static void taps_free(nw_context *ctx, taps *t) {
    nw_free(ctx, t->first);
    nw_free(ctx, t->count);
    nw_free(ctx, t->weights);
    *t = (taps){0};
}

static nw_status taps_new(nw_context *ctx, int in, int out, nw_filter filter, taps *t) {
    double scale = (double)in / out, wide = scale < 1.0 ? 1.0 : scale;
    double support = (filter == NW_FILTER_BICUBIC ? 2.0 : 1.0) * wide;
    double (*weigh)(double) = filter == NW_FILTER_BICUBIC ? cubic : triangle;
    size_t outs = (size_t)out;
    *t = (taps){.stride = (size_t)ceil(support) * 2 + 1};
    t->first = nw_calloc(ctx, outs, sizeof *t->first);
    t->count = nw_calloc(ctx, outs, sizeof *t->count);
    t->weights = outs <= SIZE_MAX / t->stride ? nw_calloc(ctx, outs * t->stride, sizeof *t->weights) : NULL;
    double *real = nw_calloc(ctx, t->stride, sizeof *real);
    if (!t->first || !t->count || !t->weights || !real) {
        taps_free(ctx, t);
        nw_free(ctx, real);
        return nw_fail(ctx, NW_E_MEMORY, "out of memory: resizing to %d pixels", out);
    }
    for (int i = 0; i < out; i++) {
        double center = (i + 0.5) * scale, sum = 0.0, step = 1.0 / wide;
        int from = (int)(center - support + 0.5), to = (int)(center + support + 0.5);
        if (from < 0) from = 0;
        if (to > in) to = in;
        for (int k = 0; k < to - from; k++) sum += real[k] = weigh((k + from - center + 0.5) * step);
        for (int k = 0; k < to - from; k++) {
            double w = (sum != 0.0 ? real[k] / sum : real[k]) * (1 << BITS);
            t->weights[(size_t)i * t->stride + (size_t)k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
        }
        t->first[i] = from;
        t->count[i] = to - from;
    }
    nw_free(ctx, real);
    return NW_OK;
}

static inline uint8_t round_pixel(int32_t sum) {
    sum >>= BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void horizontal(const nw_image *in, const taps *t, nw_image *out) {
    for (int y = 0; y < in->height; y++) {
        const uint8_t *row = in->pixels + (size_t)y * (size_t)in->width * (size_t)in->channels;
        uint8_t *to = out->pixels + (size_t)y * (size_t)out->width * (size_t)out->channels;
        for (int x = 0; x < out->width; x++) {
            const int32_t *w = t->weights + (size_t)x * t->stride;
            const int32_t half = 1 << (BITS - 1);
            if (in->channels == 3) {
                const uint8_t *p = row + (size_t)t->first[x] * 3;
                int32_t r = half, g = half, b = half;
                for (int k = 0; k < t->count[x]; k++, p += 3) {
                    r += w[k] * p[0];
                    g += w[k] * p[1];
                    b += w[k] * p[2];
                }
                *to++ = round_pixel(r);
                *to++ = round_pixel(g);
                *to++ = round_pixel(b);
            } else {
                const uint8_t *p = row + t->first[x];
                int32_t sum = half;
                for (int k = 0; k < t->count[x]; k++) sum += w[k] * p[k];
                *to++ = round_pixel(sum);
            }
        }
    }
}

/* sums: [width·channels] scratch. */
static void vertical(const nw_image *in, const taps *t, int32_t *sums, nw_image *out) {
    size_t row = (size_t)in->width * (size_t)in->channels;
    for (int y = 0; y < out->height; y++) {
        const uint8_t *from = in->pixels + (size_t)t->first[y] * row;
        uint8_t *to = out->pixels + (size_t)y * row;
        for (size_t i = 0; i < row; i++) sums[i] = 1 << (BITS - 1);
        for (int k = 0; k < t->count[y]; k++, from += row) {
            int32_t w = t->weights[(size_t)y * t->stride + (size_t)k];
            for (size_t i = 0; i < row; i++) sums[i] += w * from[i];
        }
        for (size_t i = 0; i < row; i++) to[i] = round_pixel(sums[i]);
    }
}

static nw_status resize_nearest(nw_context *ctx, const nw_image *in, nw_image *out) {
    size_t channels = (size_t)in->channels;
    int *columns = nw_calloc(ctx, (size_t)out->width, sizeof *columns);
    if (!columns) return NW_E_MEMORY;
    double step = (double)in->width / out->width, at = step * 0.5; /* positions add up, as in Pillow */
    for (int x = 0; x < out->width; x++, at += step) columns[x] = at < in->width ? (int)at : in->width - 1;
    step = (double)in->height / out->height;
    at = step * 0.5;
    for (int y = 0; y < out->height; y++, at += step) {
        size_t line = (size_t)(at < in->height ? (int)at : in->height - 1);
        const uint8_t *row = in->pixels + line * (size_t)in->width * channels;
        uint8_t *to = out->pixels + (size_t)y * (size_t)out->width * channels;
        for (int x = 0; x < out->width; x++, to += channels)
            memcpy(to, row + (size_t)columns[x] * channels, channels);
    }
    nw_free(ctx, columns);
    return NW_OK;
}

static nw_status resize_filtered(nw_context *ctx, const nw_image *in, nw_filter filter, nw_image *out) {
    taps across = {0}, down = {0};
    nw_image middle = {0};
    int32_t *sums = NULL;
    nw_status status;
    bool h = in->width != out->width, v = in->height != out->height;
    if (h) NW_TRY_GOTO(status, taps_new(ctx, in->width, out->width, filter, &across), done);
    if (v) NW_TRY_GOTO(status, taps_new(ctx, in->height, out->height, filter, &down), done);
    if (h && v) NW_TRY_GOTO(status, nw_image_new(ctx, out->width, in->height, in->channels, &middle), done);
    status = NW_OK;
    if (h) horizontal(in, &across, v ? &middle : out);
    if (v) {
        sums = nw_calloc(ctx, (size_t)out->width * (size_t)out->channels, sizeof *sums);
        if (!sums)
            status = NW_E_MEMORY;
        else
            vertical(h ? &middle : in, &down, sums, out);
    }
done:
    taps_free(ctx, &across);
    taps_free(ctx, &down);
    nw_image_free(ctx, &middle);
    nw_free(ctx, sums);
    return status;
}

nw_status nw_image_resize(nw_context *ctx, const nw_image *in, int width, int height, nw_filter filter,
                          nw_image *out) {
    nw_image image;
    NW_TRY(nw_image_new(ctx, width, height, in->channels, &image));
    nw_status status = NW_OK;
    if (width == in->width && height == in->height)
        memcpy(image.pixels, in->pixels, (size_t)width * (size_t)height * (size_t)in->channels);
    else if (filter == NW_FILTER_NEAREST)
        status = resize_nearest(ctx, in, &image);
    else
        status = resize_filtered(ctx, in, filter, &image);
    if (status != NW_OK) {
        nw_image_free(ctx, &image);
        return status;
    }
    *out = image;
    return NW_OK;
}
