#include "num/qparam.h"

#include "num/tensor.h"

#include <float.h>
#include <math.h>
#include <string.h>

bool nw_qparam_equal(const nw_qparam *a, const nw_qparam *b) {
    if (a == b) return true;
    if (!a || !b || a->format != b->format || a->grain != b->grain || a->groups != b->groups ||
        a->qmin != b->qmin || a->qmax != b->qmax)
        return false;
    if (a->grain != NW_GRAIN_TENSOR && a->axis != b->axis) return false;
    if (a->grain == NW_GRAIN_BLOCK && a->block != b->block) return false;
    for (size_t g = 0; g < a->groups; g++)
        if (a->scales[g] != b->scales[g] || nw_qparam_zero(a, g) != nw_qparam_zero(b, g)) return false;
    return true;
}

nw_group_walk nw_group_walk_of(const nw_qparam *p, int rank, const int64_t *dims) {
    nw_group_walk w = {1, 1, nw_dims_product(dims, 0, rank), 1};
    if (p->grain == NW_GRAIN_TENSOR || rank == 0) return w;
    w.outer = nw_dims_product(dims, 0, p->axis);
    w.length = (size_t)dims[p->axis];
    w.inner = nw_dims_product(dims, p->axis + 1, rank);
    if (p->grain == NW_GRAIN_BLOCK) w.block = (size_t)p->block;
    return w;
}

size_t nw_qparam_group_count(nw_grain grain, int axis, int64_t block, int rank, const int64_t *dims) {
    if (grain == NW_GRAIN_TENSOR || rank == 0) return 1;
    if (grain == NW_GRAIN_AXIS) return (size_t)dims[axis];
    size_t blocks = ((size_t)dims[axis] + (size_t)block - 1) / (size_t)block;
    return nw_dims_product(dims, 0, axis) * blocks * nw_dims_product(dims, axis + 1, rank);
}

/* A run of elements that share one group: [first, first + count) in memory, group g. Grain BLOCK with inner > 1 has runs
 * of one element. */
typedef void run_fn(const nw_qparam *p, size_t g, size_t first, size_t count, void *user);

static void walk_groups(const nw_qparam *p, int rank, const int64_t *dims, run_fn *run, void *user) {
    nw_group_walk w = nw_group_walk_of(p, rank, dims);
    if (p->grain == NW_GRAIN_BLOCK) {
        size_t blocks = (w.length + w.block - 1) / w.block;
        for (size_t o = 0; o < w.outer; o++)
            for (size_t l = 0; l < w.length; l++) {
                size_t g = (o * blocks + l / w.block) * w.inner, at = (o * w.length + l) * w.inner;
                if (w.inner == 1) {
                    size_t count = w.length - l < w.block ? w.length - l : w.block;
                    run(p, g, at, count, user);
                    l += count - 1;
                } else {
                    for (size_t i = 0; i < w.inner; i++) run(p, g + i, at + i, 1, user);
                }
            }
        return;
    }
    for (size_t o = 0; o < w.outer; o++)
        for (size_t l = 0; l < w.length; l++) run(p, l, (o * w.length + l) * w.inner, w.inner, user);
}

typedef struct run_data {
    const float *x;
    void *codes;
    const void *in_codes;
    float *out;
    size_t saturated;
} run_data;

static void quantize_run(const nw_qparam *p, size_t g, size_t first, size_t count, void *user) {
    run_data *d = user;
    float scale = p->scales[g];
    int32_t zero = nw_qparam_zero(p, g), lo = p->qmin, hi = p->qmax;
    if (nw_format_is_float(p->format)) {
        for (size_t i = first; i < first + count; i++) {
            float scaled = d->x[i] / scale;
            d->saturated += nw_encode_f32(p->format, &scaled, 1, d->codes, i);
        }
        return;
    }
    for (size_t i = first; i < first + count; i++) {
        int32_t q = nw_quantize_one(d->x[i], scale, zero, lo, hi);
        float r = rintf(d->x[i] / scale) + (float)zero;
        d->saturated += r < (float)lo || r > (float)hi;
        if (p->format == NW_U8 || p->format == NW_S8)
            ((uint8_t *)d->codes)[i] = (uint8_t)q;
        else
            nw_store_s64(p->format, d->codes, i, q);
    }
}

static void dequantize_run(const nw_qparam *p, size_t g, size_t first, size_t count, void *user) {
    run_data *d = user;
    float scale = p->scales[g];
    int32_t zero = nw_qparam_zero(p, g);
    switch ((int)p->format) {
    case NW_U8:
        for (size_t i = first; i < first + count; i++)
            d->out[i] = scale * (float)(((const uint8_t *)d->in_codes)[i] - zero);
        return;
    case NW_S8:
        for (size_t i = first; i < first + count; i++)
            d->out[i] = scale * (float)(((const int8_t *)d->in_codes)[i] - zero);
        return;
    default:
        if (nw_format_is_float(p->format)) {
            for (size_t i = first; i < first + count; i++)
                d->out[i] = scale * (float)nw_load_f64(p->format, d->in_codes, i);
        } else {
            for (size_t i = first; i < first + count; i++)
                d->out[i] = scale * (float)(nw_load_s64(p->format, d->in_codes, i) - zero);
        }
    }
}

static void fake_run(const nw_qparam *p, size_t g, size_t first, size_t count, void *user) {
    run_data *d = user;
    float scale = p->scales[g];
    int32_t zero = nw_qparam_zero(p, g), lo = p->qmin, hi = p->qmax;
    if (nw_format_is_float(p->format)) {
        for (size_t i = first; i < first + count; i++) {
            float scaled = d->x[i] / scale, code[1] = {0};
            d->saturated += nw_encode_f32(p->format, &scaled, 1, code, 0);
            d->out[i] = scale * (float)nw_load_f64(p->format, code, 0);
        }
        return;
    }
    for (size_t i = first; i < first + count; i++) {
        float r = rintf(d->x[i] / scale) + (float)zero;
        d->saturated += r < (float)lo || r > (float)hi;
        d->out[i] = scale * (float)(nw_quantize_one(d->x[i], scale, zero, lo, hi) - zero);
    }
}

size_t nw_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, void *codes) {
    run_data d = {.x = x, .codes = codes};
    size_t bytes;
    if (nw_format_bits(p->format) < 8 && nw_format_bytes(p->format, nw_dims_product(dims, 0, rank), &bytes))
        memset(codes, 0, bytes); /* sub-byte codes are merged into their byte */
    walk_groups(p, rank, dims, quantize_run, &d);
    return d.saturated;
}

void nw_dequantize(const nw_qparam *p, int rank, const int64_t *dims, const void *codes, float *x) {
    run_data d = {.in_codes = codes, .out = x};
    walk_groups(p, rank, dims, dequantize_run, &d);
}

size_t nw_fake_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, float *out) {
    run_data d = {.x = x, .out = out};
    walk_groups(p, rank, dims, fake_run, &d);
    return d.saturated;
}

void nw_choose_scale(float lo, float hi, bool symmetric, int32_t qmin, int32_t qmax, float *scale,
                     int32_t *zero) {
    if (!(lo <= 0)) lo = 0; /* also NaN */
    if (!(hi >= 0)) hi = 0;
    double s, levels = (double)qmax - (double)qmin; /* steps from zero to the end of the range, at most */
    if (symmetric) {
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
    *scale = f;
    if (!symmetric) {
        double z = rint((double)qmin - (double)lo / (double)f);
        *zero = z < qmin ? qmin : z > qmax ? qmax : (int32_t)z;
    }
}
