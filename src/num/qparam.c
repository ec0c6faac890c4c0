/* qparam.c: quantizing and dequantizing whole tensors, for every format and grain. */
#include "num/qparam.h"

#include "num/levels.h"
#include "num/tensor.h"

#include <math.h>
#include <string.h>

bool nw_qparam_equal(const nw_qparam *a, const nw_qparam *b) {
    if (a == b) return true;
    if (!a || !b || a->format != b->format || a->grain != b->grain || a->groups != b->groups ||
        a->qmin != b->qmin || a->qmax != b->qmax || a->levels.count != b->levels.count)
        return false;
    if (a->grain != NW_GRAIN_TENSOR && a->axis != b->axis) return false;
    if (a->grain == NW_GRAIN_BLOCK && a->block != b->block) return false;
    for (int i = 0; i < a->levels.count; i++) {
        if (a->levels.value[i] != b->levels.value[i]) return false;
        if (i > 0 && a->levels.threshold[i - 1] != b->levels.threshold[i - 1]) return false;
    }
    for (size_t g = 0; g < a->groups; g++)
        if (nw_qparam_scale(a, g) != nw_qparam_scale(b, g) || nw_qparam_zero(a, g) != nw_qparam_zero(b, g))
            return false;
    return true;
}

nw_status nw_qparam_copy(nw_arena *arena, const nw_qparam *p, nw_qparam *out) {
    size_t bytes = 0;
    nw_format_bytes(nw_qparam_scale_format(p), p->groups, &bytes);
    void *scales = nw_arena_data(arena, bytes);
    int32_t *zeros = p->zeros ? nw_arena_array(arena, p->groups, sizeof *zeros) : NULL;
    if (!scales || (p->zeros && !zeros)) return NW_E_MEMORY;
    *out = *p;
    out->scales = memcpy(scales, p->scales, bytes);
    if (zeros) out->zeros = memcpy(zeros, p->zeros, p->groups * sizeof *zeros);
    return p->levels.count ? nw_levels_copy(arena, &p->levels, &out->levels) : NW_OK;
}

nw_status nw_qparam_set_scales(nw_arena *arena, nw_qparam *p, const float *scales) {
    nw_format format = nw_qparam_scale_format(p);
    size_t bytes = 0;
    nw_format_bytes(format, p->groups, &bytes);
    void *stored = nw_arena_data(arena, bytes);
    if (!stored) return NW_E_MEMORY;
    nw_encode_f32(format, scales, p->groups, stored, 0);
    p->scales = stored;
    return NW_OK;
}

size_t nw_qparam_bytes(const nw_qparam *p) {
    size_t scales = 0, zeros = 0, table = p->levels.count ? 2 * (size_t)p->levels.count - 1 : 0;
    nw_format_bytes(nw_qparam_scale_format(p), p->groups, &scales);
    if (p->zeros) nw_format_bytes(p->format, p->groups, &zeros);
    return scales + zeros + table * sizeof(float);
}

/* ---- groups ---------------------------------------------------------------------------------------------- */

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

void nw_walk_groups(const nw_qparam *p, int rank, const int64_t *dims, nw_group_run_fn *fn, void *user) {
    nw_group_walk w = nw_group_walk_of(p, rank, dims);
    bool blocks = p->grain == NW_GRAIN_BLOCK && rank > 0, columns = w.inner > 1 || !blocks;
    if (w.outer * w.length * w.inner == 0) return;
    size_t per_line = blocks ? w.length / w.block + (w.length % w.block != 0) : 0;
    for (size_t o = 0; o < w.outer; o++) {
        if (!blocks && w.inner == 1) { /* the last axis: a group for each element of a line */
            fn(p, &(nw_group_run){o * w.length, w.length, 0, 1}, user);
            continue;
        }
        for (size_t l = 0; l < w.length;) {
            nw_group_run run = {(o * w.length + l) * w.inner, w.inner, l, 0};
            if (blocks) {
                run.group = (o * per_line + l / w.block) * w.inner;
                run.step = w.inner > 1;
                if (w.inner == 1) run.count = w.length - l < w.block ? w.length - l : w.block;
            }
            fn(p, &run, user);
            l += columns ? 1 : run.count;
        }
    }
}

/* ---- chunks of a run --------------------------------------------------------------------------------------- */

#define CHUNK NW_PIECE /* elements at a time, so that what lies between stays in the cache */

/* Scales and zero points of a chunk: one for all (step 0), or one for each element. */
typedef struct chunk {
    size_t count, step;
    float scale[CHUNK];
    int32_t zero[CHUNK];
} chunk;

static void chunk_open(chunk *c, const nw_qparam *p, const nw_group_run *run, size_t at) {
    size_t first = run->group + at * run->step;
    c->count = run->count - at < CHUNK ? run->count - at : CHUNK;
    c->step = run->step;
    size_t n = c->step ? c->count : 1;
    if (n == 1) { /* blocks are short */
        c->scale[0] = nw_qparam_scale(p, first);
        c->zero[0] = nw_qparam_zero(p, first);
        return;
    }
    nw_decode_f32(nw_qparam_scale_format(p), p->scales, first, n, c->scale);
    if (p->zeros)
        memcpy(c->zero, p->zeros + first, n * sizeof *c->zero);
    else
        memset(c->zero, 0, n * sizeof *c->zero);
}

/* Integer codes of at most 16 bits, as nw_quantize_one makes them. The quotient is clamped to one code beyond the ends
 * first, which tells who saturates; then adding 1.5·2^23 leaves no bits for a fraction, which rounds half to even: a
 * plain loop for every processor. `step` is a constant where this is called. */
static inline __attribute__((always_inline)) int
linear_codes(size_t n, const float *restrict x, const float *restrict scale, const int32_t *restrict zero,
             size_t step, int32_t qmin, int32_t qmax, uint16_t *restrict codes) {
    const float rounder = 12582912.0f, least = (float)qmin, most = (float)qmax;
    int saturated = 0;
    for (size_t i = 0; i < n; i++) {
        float z = (float)zero[i * step], lo = least - z, hi = most - z, r = x[i] / scale[i * step];
        r = r == r ? r : 0.0f;
        r = r < lo - 1 ? lo - 1 : r;
        r = r > hi + 1 ? hi + 1 : r;
        r = (r + rounder) - rounder;
        saturated += (r < lo) + (r > hi);
        r = r < lo ? lo : r;
        r = r > hi ? hi : r;
        codes[i] = (uint16_t)((int32_t)r + zero[i * step]);
    }
    return saturated;
}

/* Codes too wide for that: biases. */
static size_t wide_codes(const nw_qparam *p, const chunk *c, const float *x, void *codes, size_t first) {
    size_t saturated = 0;
    for (size_t i = 0; i < c->count; i++) {
        float scale = c->scale[i * c->step];
        int32_t zero = c->zero[i * c->step];
        float r = rintf(x[i] / scale) + (float)zero;
        saturated += r < (float)p->qmin || r > (float)p->qmax;
        nw_store_s64(p->format, codes, first + i, nw_quantize_one(x[i], scale, zero, p->qmin, p->qmax));
    }
    return saturated;
}

/* Elements first … of `codes` ← x [count]. Returns how many saturated. */
static size_t encode(const nw_qparam *p, const chunk *c, const float *x, void *codes, size_t first) {
    uint16_t narrow[CHUNK];
    float scaled[CHUNK];
    size_t saturated;
    if (nw_format_is_integer(p->format)) {
        if (nw_format_bits(p->format) > 16) return wide_codes(p, c, x, codes, first);
        saturated =
            (size_t)(c->step ? linear_codes(c->count, x, c->scale, c->zero, 1, p->qmin, p->qmax, narrow)
                             : linear_codes(c->count, x, c->scale, c->zero, 0, p->qmin, p->qmax, narrow));
    } else {
        for (size_t i = 0; i < c->count; i++) scaled[i] = x[i] / c->scale[i * c->step];
        if (nw_format_is_float(p->format)) return nw_encode_f32(p->format, scaled, c->count, codes, first);
        saturated = nw_levels_encode(&p->levels, c->count, scaled, narrow);
    }
    nw_store_codes(p->format, codes, first, c->count, narrow);
    return saturated;
}

/* `step` is a constant where this is called. */
static inline __attribute__((always_inline)) void restore(size_t n, const int32_t *restrict codes,
                                                          const float *restrict scale,
                                                          const int32_t *restrict zero, size_t step,
                                                          float *restrict x) {
    for (size_t i = 0; i < n; i++) x[i] = scale[i * step] * (float)(codes[i] - zero[i * step]);
}

static void multiply(const chunk *c, float *x) {
    for (size_t i = 0; i < c->count; i++) x[i] = c->scale[i * c->step] * x[i];
}

/* x [count] ← elements first … of `codes`. */
static void decode(const nw_qparam *p, const chunk *c, const void *codes, size_t first, float *x) {
    int32_t narrow[CHUNK];
    if (nw_format_is_float(p->format)) {
        nw_decode_f32(p->format, codes, first, c->count, x);
        multiply(c, x);
    } else if (nw_format_bits(p->format) > 16) {
        for (size_t i = 0; i < c->count; i++)
            x[i] = (float)(nw_load_s64(p->format, codes, first + i) - c->zero[i * c->step]);
        multiply(c, x);
    } else {
        nw_load_codes(p->format, codes, first, c->count, narrow);
        if (p->levels.count) {
            nw_levels_decode(&p->levels, c->count, narrow, x);
            multiply(c, x);
        } else if (c->step) {
            restore(c->count, narrow, c->scale, c->zero, 1, x);
        } else {
            restore(c->count, narrow, c->scale, c->zero, 0, x);
        }
    }
}

/* ---- whole tensors ----------------------------------------------------------------------------------------- */

typedef struct run_data {
    const float *x;
    void *codes;
    const void *in_codes;
    float *out;
    size_t saturated;
    nw_quant_stats *stats;
} run_data;

/* Four sums of each kind: independent additions, which vectorize. */
static void add_stats(nw_quant_stats *s, size_t n, const float *x, const float *restored) {
    double sum[4] = {0}, squares[4] = {0}, noise[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++) {
            double v = (double)x[i + j], d = v - (double)restored[i + j];
            sum[j] += v;
            squares[j] += v * v;
            noise[j] += d * d;
        }
    for (; i < n; i++) {
        double v = (double)x[i], d = v - (double)restored[i];
        sum[0] += v;
        squares[0] += v * v;
        noise[0] += d * d;
    }
    s->sum += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    s->squares += (squares[0] + squares[1]) + (squares[2] + squares[3]);
    s->noise += (noise[0] + noise[1]) + (noise[2] + noise[3]);
}

static void quantize_run(const nw_qparam *p, const nw_group_run *run, void *user) {
    run_data *d = user;
    float restored[CHUNK];
    chunk c;
    for (size_t at = 0; at < run->count; at += CHUNK) {
        const float *x = d->x + run->first + at;
        chunk_open(&c, p, run, at);
        d->saturated += encode(p, &c, x, d->codes, run->first + at);
        if (!d->stats) continue;
        decode(p, &c, d->codes, run->first + at, restored);
        add_stats(d->stats, c.count, x, restored);
    }
}

static void dequantize_run(const nw_qparam *p, const nw_group_run *run, void *user) {
    run_data *d = user;
    chunk c;
    for (size_t at = 0; at < run->count; at += CHUNK) {
        chunk_open(&c, p, run, at);
        decode(p, &c, d->in_codes, run->first + at, d->out + run->first + at);
    }
}

typedef struct numbers {
    const void *codes;
    nw_numbers_fn *fn;
    void *user;
} numbers;

static void show_run(const nw_qparam *p, const nw_group_run *run, void *user) {
    const numbers *n = user;
    float x[CHUNK];
    chunk c;
    for (size_t at = 0; at < run->count; at += CHUNK) {
        chunk_open(&c, p, run, at);
        decode(p, &c, n->codes, run->first + at, x);
        n->fn(&(nw_group_run){run->first + at, c.count, run->group + at * run->step, run->step}, x, n->user);
    }
}

static void fake_run(const nw_qparam *p, const nw_group_run *run, void *user) {
    run_data *d = user;
    chunk c;
    uint64_t codes[CHUNK]; /* of any width */
    codes[0] = 0;
    for (size_t at = 0; at < run->count; at += CHUNK) {
        chunk_open(&c, p, run, at);
        if (nw_format_bits(p->format) < 8) memset(codes, 0, c.count); /* merged into their bytes */
        d->saturated += encode(p, &c, d->x + run->first + at, codes, 0);
        decode(p, &c, codes, 0, d->out + run->first + at);
    }
}

static void quantize(const nw_qparam *p, int rank, const int64_t *dims, run_data *d) {
    size_t bytes;
    if (nw_format_bits(p->format) < 8 && nw_format_bytes(p->format, nw_dims_product(dims, 0, rank), &bytes))
        memset(d->codes, 0, bytes); /* sub-byte codes are merged into their byte */
    nw_walk_groups(p, rank, dims, quantize_run, d);
}

size_t nw_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, void *codes) {
    run_data d = {.x = x, .codes = codes};
    quantize(p, rank, dims, &d);
    return d.saturated;
}

void nw_quantize_with_stats(const nw_qparam *p, int rank, const int64_t *dims, const float *x, void *codes,
                            nw_quant_stats *stats) {
    run_data d = {.x = x, .codes = codes, .stats = stats};
    *stats = (nw_quant_stats){.count = nw_dims_product(dims, 0, rank)};
    quantize(p, rank, dims, &d);
    stats->saturated = d.saturated;
}

void nw_dequantize(const nw_qparam *p, int rank, const int64_t *dims, const void *codes, float *x) {
    run_data d = {.in_codes = codes, .out = x};
    nw_walk_groups(p, rank, dims, dequantize_run, &d);
}

size_t nw_fake_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, float *out) {
    run_data d = {.x = x, .out = out};
    nw_walk_groups(p, rank, dims, fake_run, &d);
    return d.saturated;
}

void nw_walk_numbers(const nw_qparam *p, int rank, const int64_t *dims, const void *codes, nw_numbers_fn *fn,
                     void *user) {
    numbers n = {codes, fn, user};
    nw_walk_groups(p, rank, dims, show_run, &n);
}
