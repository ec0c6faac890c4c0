/* elementwise_body.h: the functions of elementwise.h in C that compilers vectorize. Included once per ISA,
 * by a file compiled for it that defines NW_KERNEL(name) as nw_name__word and NW_LANES as the floats of
 * its registers; nothing else may include it. All files compile without contraction of a·b+c, so every ISA
 * gives the same bits. Must not include anything but kern/. */
#include "kern/elementwise.h"
#include "kern/elementwise_lanes.h"

/* ---- rounding ------------------------------------------------------------------------------------------ */

/* Adding 1.5·2^23 leaves no bits for a fraction: the sum is rounded to an integer, half to even, and its
 * low bits are that integer. Exact for |x| ≤ 2^22. */
#define ROUNDER 12582912.0f

static inline int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline int32_t round_small(float x) {
    return bits_of(x + ROUNDER) - 0x4b400000;
}

/* clamp(rint(p) + zero, lo, hi), by clamping first: the limits are integers, so the result is the same,
 * and small. lo and hi here are lo − zero and hi − zero. */
static inline uint8_t code_of(float p, float lo, float hi, int32_t zero) {
    p = p < lo ? lo : p;
    p = p > hi ? hi : p;
    return (uint8_t)(round_small(p) + zero);
}

/* ---- codes --------------------------------------------------------------------------------------------- */

void NW_KERNEL(quantize_u8)(size_t n, const float *x, float scale, int32_t zero, int32_t lo, int32_t hi,
                            uint8_t *q) {
    const float low = (float)(lo - zero), high = (float)(hi - zero);
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        float p = x[i] / scale;
        p = p == p ? p : 0.0f;
        q[i] = code_of(p, low, high, zero);
    }
}

void NW_KERNEL(dequantize_u8)(size_t n, const uint8_t *q, float scale, int32_t zero, float *x) {
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) x[i] = scale * (float)((int32_t)q[i] - zero);
}

void NW_KERNEL(signs_u8)(size_t n, const float *x, uint8_t *q) {
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) q[i] = x[i] < 0 ? 0 : 2;
}

#if !defined(NW_HAVE_LOOKUP) /* the including file may know a faster way */
void NW_KERNEL(lookup_u8)(size_t n, const uint8_t *x, const uint8_t *table, uint8_t *y) {
    size_t i = 0;
    for (; i + 8 <= n;
         i += 8) { /* eight in flight: one load brings the indices, one store takes the results */
        uint64_t in, out = 0;
        memcpy(&in, x + i, 8);
        for (int j = 0; j < 64; j += 8) out |= (uint64_t)table[(in >> j) & 0xff] << j;
        memcpy(y + i, &out, 8);
    }
    for (; i < n; i++) y[i] = table[x[i]];
}
#endif

void NW_KERNEL(flip_u8)(size_t n, const uint8_t *x, uint8_t *y) {
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) y[i] = x[i] ^ 0x80;
}

/* Words are shifted, as processors do not shift bytes; what comes from the neighbour is masked off. */
void NW_KERNEL(unpack_s8)(size_t n, const uint8_t *x, int shift, uint8_t mask, int least, int8_t *y) {
    typedef uint8_t bytes __attribute__((vector_size(sizeof(uvec))));
    const bytes first = (uint8_t)least - (bytes){0};
    size_t i = 0;
    for (uvec w; i + sizeof w <= n; i += sizeof w) {
        memcpy(&w, x + i, sizeof w);
        const bytes codes = (bytes)(w >> shift & mask * 0x01010101u) + first;
        memcpy(y + i, &codes, sizeof codes);
    }
    for (; i < n; i++) y[i] = (int8_t)(uint8_t)((x[i] >> shift & mask) + first[0]);
}

#if !defined(NW_HAVE_ADD)
void NW_KERNEL(add_u8)(size_t n, const uint8_t *a, const uint8_t *b, const nw_add_u8_params *p, uint8_t *y) {
    const int32_t a_zero = p->a_zero, b_zero = p->b_zero, zero = p->zero;
    const float a_ratio = p->a_ratio, b_ratio = p->b_ratio;
    const float low = (float)(p->lo - zero), high = (float)(p->hi - zero);
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        float sum = (float)((int32_t)a[i] - a_zero) * a_ratio + (float)((int32_t)b[i] - b_zero) * b_ratio;
        y[i] = code_of(sum, low, high, zero);
    }
}
#endif

void NW_KERNEL(mul_u8)(size_t n, const uint8_t *a, const uint8_t *b, const nw_mul_u8_params *p, uint8_t *y) {
    const int32_t a_zero = p->a_zero, b_zero = p->b_zero, zero = p->zero;
    const float ratio = p->ratio, low = (float)(p->lo - zero), high = (float)(p->hi - zero);
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        int32_t product = ((int32_t)a[i] - a_zero) * ((int32_t)b[i] - b_zero);
        y[i] = code_of((float)product * ratio, low, high, zero);
    }
}

/* Short rows many at a time, against the gate repeated: few elements are left over by whole registers. */
#define GATE_RUN 2048

void NW_KERNEL(gate_u8)(size_t rows, size_t n, const uint8_t *a, const uint8_t *b, const nw_mul_u8_params *p,
                        uint8_t *y) {
    uint8_t repeated[GATE_RUN];
    size_t run = 1; /* rows at a time */
    if (n == 0) return;
    if (rows > 1 && n <= GATE_RUN / 2) {
        memcpy(repeated, b, n);
        for (; run < rows && 2 * run * n <= GATE_RUN; run *= 2) memcpy(repeated + run * n, repeated, run * n);
        b = repeated;
    }
    for (; rows; rows -= run, a += run * n, y += run * n) {
        if (run > rows) run = rows;
        NW_KERNEL(mul_u8)(run * n, a, b, p, y);
    }
}

/* ---- two floats ---------------------------------------------------------------------------------------- */

static inline float min_of(float a, float b) {
    return a != a || a < b ? a : b;
}
static inline float max_of(float a, float b) {
    return a != a || a > b ? a : b;
}

#define BINARY(name, expression)                                                                             \
    void NW_KERNEL(name)(size_t n, const float *x, size_t x_step, const float *y, size_t y_step,             \
                         float *out) {                                                                       \
        if (n && x_step && !y_step) {                                                                        \
            const float b = y[0];                                                                            \
            NW_INDEPENDENT                                                                                   \
            for (size_t i = 0; i < n; i++) {                                                                 \
                float a = x[i];                                                                              \
                out[i] = expression;                                                                         \
            }                                                                                                \
        } else if (n && !x_step && y_step) {                                                                 \
            const float a = x[0];                                                                            \
            NW_INDEPENDENT                                                                                   \
            for (size_t i = 0; i < n; i++) {                                                                 \
                float b = y[i];                                                                              \
                out[i] = expression;                                                                         \
            }                                                                                                \
        } else if (n && !x_step) {                                                                           \
            const float a = x[0], b = y[0], once = expression;                                               \
            for (size_t i = 0; i < n; i++) out[i] = once;                                                    \
        } else {                                                                                             \
            NW_INDEPENDENT                                                                                   \
            for (size_t i = 0; i < n; i++) {                                                                 \
                float a = x[i], b = y[i];                                                                    \
                out[i] = expression;                                                                         \
            }                                                                                                \
        }                                                                                                    \
    }
BINARY(add_f32, a + b)
BINARY(sub_f32, a - b)
BINARY(mul_f32, a *b)
BINARY(div_f32, a / b)
BINARY(min_f32, min_of(a, b))
BINARY(max_f32, max_of(a, b))

/* ---- one float ----------------------------------------------------------------------------------------- */

static inline float clamp_of(float x, float lo, float hi) {
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

void NW_KERNEL(clamp_f32)(size_t n, const float *x, float lo, float hi, float *y) {
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) y[i] = clamp_of(x[i], lo, hi);
}

void NW_KERNEL(hardsigmoid_f32)(size_t n, const float *x, float alpha, float beta, float *y) {
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        float p = alpha * x[i] + beta;
        p = p < 0.0f ? 0.0f : p;
        y[i] = p > 1.0f ? 1.0f : p;
    }
}

/* Longer formulas are written on registers: compilers turn the same thing on floats into branches. */
NW_INLINE vec vec_clamp(vec x, float lo, float hi) {
    return smaller(splat(hi), larger(splat(lo), x));
}
NW_INLINE vec vec_abs(vec x) {
    return (vec)((ivec)x & 0x7fffffff);
}
NW_INLINE vec with_sign(vec x, vec sign) {
    return (vec)((ivec)x ^ ((ivec)sign & ~0x7fffffff));
}

/* p·x + c */
NW_INLINE vec term(vec p, vec x, float c) {
    return fused(p, x, splat(c));
}

/* exp(x) = 2^n · exp(r), n = rint(x/ln 2), |r| ≤ ln 2/2; ln 2 in two parts, the first exact when
 * multiplied by n. exp(r) = 1 + r + r²·Q(r), Q a minimax polynomial (error 3e-9). For a NaN r is one,
 * whatever n is. x in [−105, 89]. */
NW_INLINE vec exp_within(vec x) {
    vec shifted = term(x, splat(1.442695041f), ROUNDER), n = shifted - ROUNDER;
    vec r = fused(n, splat(2.12194440e-4f), fused(n, splat(-0.693359375f), x));
    vec q = term(splat(1.381440266e-3f), r, 8.368786206e-3f);
    q = term(q, r, 4.166839554e-2f);
    q = term(q, r, 1.666652005e-1f);
    q = term(q, r, 4.999999341e-1f);
    return scaled(fused(q, r * r, r) + 1.0f, n, (ivec)shifted - 0x4b400000);
}

/* exp(x) = 2^n · 2^f, n = rint(x/ln 2), |f| ≤ 1/2, and 2^f = 1 + f·R(f), R a minimax polynomial: 2.9e-6 off at most, which
 * is enough where the result becomes a code of 8 bits. exp(0) is 1. NaN and range as above. */
NW_INLINE vec exp_roughly_within(vec x) {
    const vec per_two = splat(1.442695041f);
    const vec shifted = term(x, per_two, ROUNDER), n = shifted - ROUNDER, f = fused(x, per_two, -n);
    vec r = term(splat(9.582853876e-3f), f, 5.590642616e-2f);
    r = term(r, f, 2.402409911e-1f);
    r = term(r, f, 6.931241751e-1f);
    return scaled(term(r, f, 1.0f), n, (ivec)shifted - 0x4b400000);
}

NW_INLINE vec vec_exp(vec x) {
    return exp_within(vec_clamp(x, -105.0f, 89.0f));
}

NW_INLINE vec vec_sigmoid(vec x) {
    return 1.0f / (1.0f + vec_exp(-x));
}

/* |x| < 0.625: x + x³·P(x²), minimax; else 1 − 2/(exp(2|x|) + 1) with the sign of x. */
NW_INLINE vec vec_tanh(vec x) {
    vec z = x * x, t = vec_abs(x);
    vec p = term(splat(-5.716998259e-3f), z, 2.065054149e-2f);
    p = term(p, z, -5.374348245e-2f);
    p = term(p, z, 1.333149107e-1f);
    p = term(p, z, -3.333328392e-1f);
    vec small = fused(p * z, x, x);
    vec large = 1.0f - 2.0f / (exp_within(smaller(splat(88.0f), 2.0f * t)) + 1.0f);
    return choose(t < 0.625f, small, with_sign(large, x));
}

/* |x| < 0.95: x + x·P(x²); else 1 − exp(L(min(|x|, 4))) with the sign of x, L(t) = log(1 − erf(t)); both
 * minimax. */
NW_INLINE vec vec_erf(vec x) {
    vec z = x * x, t = vec_abs(x);
    vec p = term(splat(-5.886710317e-4f), z, 4.973102449e-3f);
    p = term(p, z, -2.675332319e-2f);
    p = term(p, z, 1.128146617e-1f);
    p = term(p, z, -3.761246264e-1f);
    p = term(p, z, 1.283791454e-1f);
    vec small = fused(p, x, x);
    vec u = smaller(splat(4.0f), t);
    vec l = term(splat(1.959251272e-4f), u, -3.043108926e-3f);
    l = term(l, u, 2.222652648e-2f);
    l = term(l, u, -1.039308538e-1f);
    l = term(l, u, -6.371830167e-1f);
    l = term(l, u, -1.127675211f);
    l = term(l, u, -1.957669829e-4f);
    vec large = 1.0f - exp_within(l);
    return choose(t < 0.95f, small, with_sign(large, x));
}

/* x·Φ(x), Φ(x) = 1/2 + x·G(x²) for |x| ≤ 5.6, 0 or 1 beyond; G a minimax polynomial in 2x²/5.6² − 1, which the ends of
 * the range make 0 and 1 exactly. */
NW_INLINE vec vec_gelu(vec x) {
    static const float terms[] = {-1.774871605e-3f, 1.260036719e-3f, -1.278468058e-3f, 4.772288259e-3f,
                                  -8.656513877e-3f, 1.132058259e-2f, -1.533557754e-2f, 2.083894983e-2f,
                                  -2.639235184e-2f, 3.198475763e-2f, -3.833872080e-2f, 4.698008299e-2f,
                                  -6.305145472e-2f, 1.262595952e-1f};
    vec t = vec_clamp(x, -5.6f, 5.6f);
    vec u = term(t * t, splat(0.06377551f), -1.0f), v = u * u;
    vec even = splat(6.973775453e-4f),
        odd = splat(terms[0]); /* two short chains of additions instead of a long one */
    NW_UNROLL
    for (int i = 1; i < 13; i += 2) {
        even = term(even, v, terms[i]);
        odd = term(odd, v, terms[i + 1]);
    }
    vec g = fused(odd, u, term(even, v, terms[13]));
    return x * vec_clamp(term(g, t, 0.5f), 0.0f, 1.0f);
}
/* 0.5·(1 + tanh(u)) = 1/(1 + exp(−2u)), u = √(2/π)·(x + 0.044715·x³) */
NW_INLINE vec vec_gelu_tanh(vec x) {
    vec u = x * term(x * x, splat(-0.071354816f), -1.5957691f);
    return x / (1.0f + vec_exp(u));
}
NW_INLINE vec vec_silu(vec x) {
    return x / (1.0f + vec_exp(-x));
}
NW_INLINE vec vec_hardswish(vec x) {
    return x * vec_clamp(x * 0.16666667f + 0.5f, 0.0f, 1.0f);
}

/* Bits beyond the precision are rounded in the integer that a float's bits are. Below 2^-14 numbers of f16 are 2^-24 apart, as
 * floats of [0.5, 1) are; from 2^16 on there are none. */
NW_INLINE vec vec_round_f16(vec x) {
#if NW_LANES == 16
    return (vec)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif NW_LANES == 8
    return (vec)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
    const vec size = vec_abs(x), small = (size + 0.75f) - 0.75f;
    const uvec bits = (uvec)size, rounded = (bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000;
    const vec normal = choose((ivec)rounded >= 0x47800000, splat(__builtin_inff()), (vec)rounded);
    const vec y = choose(size < 6.103515625e-5f, small, normal);
    return choose(is_number(x), with_sign(y, x), x);
#endif
}
NW_INLINE vec vec_round_bf16(vec x) {
    const uvec bits = (uvec)x;
    return choose(is_number(x), (vec)((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000), x);
}

#define UNARY(name, function)                                                                                \
    void NW_KERNEL(name)(size_t n, const float *x, float *y) {                                               \
        size_t i = 0;                                                                                        \
        for (; i + NW_LANES <= n; i += NW_LANES) store(y + i, NW_LANES, function(load(x + i, NW_LANES)));    \
        if (i < n) store(y + i, n - i, function(load(x + i, n - i)));                                        \
    }
UNARY(exp_f32, vec_exp)
UNARY(sigmoid_f32, vec_sigmoid)
UNARY(tanh_f32, vec_tanh)
UNARY(erf_f32, vec_erf)
UNARY(gelu_f32, vec_gelu)
UNARY(gelu_tanh_f32, vec_gelu_tanh)
UNARY(silu_f32, vec_silu)
UNARY(hardswish_f32, vec_hardswish)
UNARY(round_f16, vec_round_f16)
UNARY(round_bf16, vec_round_bf16)

/* ---- rows ---------------------------------------------------------------------------------------------- */

/* Interleaved sums in as many registers as the ISA needs: the order of a sum is part of the contract. */
#define SUMS  32
#define PARTS (SUMS / NW_LANES)

/* What elements [at, at + count) add to their sums: 0 in the lanes past the count. args: the function's own. */
typedef vec addend_fn(void *args, size_t at, size_t count);

/* v in the first `count` lanes, 0 in the others. */
NW_INLINE vec within(size_t count, vec v) {
    return count == NW_LANES ? v : (vec)((ivec)v & lanes_below(count));
}

/* The sum of n elements' terms, in all lanes. */
NW_INLINE vec total_of(size_t n, addend_fn *addend, void *args) {
    vec sums[PARTS];
    size_t i = 0;
    NW_UNROLL
    for (int p = 0; p < PARTS; p++) sums[p] = splat(0.0f);
    for (; i + SUMS <= n; i += SUMS) NW_UNROLL
    for (int p = 0; p < PARTS; p++) sums[p] += addend(args, i + (size_t)p * NW_LANES, NW_LANES);
    NW_UNROLL
    for (int p = 0; p < PARTS; p++) {
        if (i + NW_LANES <= n)
            sums[p] += addend(args, i, NW_LANES);
        else if (i < n)
            sums[p] += addend(args, i, n - i);
        i += NW_LANES;
    }
    NW_UNROLL
    for (int half = PARTS / 2; half; half /= 2) NW_UNROLL
    for (int p = 0; p < half; p++) sums[p] += sums[p + half];
    return sum_across(sums[0]);
}

typedef struct real_row {
    const float *x;
    vec about; /* what is taken from x, but for plain_addend */
    float *y;
} real_row;

NW_INLINE vec plain_addend(void *args, size_t at, size_t count) {
    const real_row *r = args;
    return load(r->x + at, count);
}
NW_INLINE vec square_addend(void *args, size_t at, size_t count) {
    const real_row *r = args;
    const vec v = load(r->x + at, count) - r->about;
    return within(count, v * v);
}
/* exp(x − about), which also goes to y. */
NW_INLINE vec exponential_addend(void *args, size_t at, size_t count) {
    const real_row *r = args;
    const vec v = vec_exp(load(r->x + at, count) - r->about);
    store(r->y + at, count, v);
    return within(count, v);
}

NW_INLINE float sum_of(size_t n, const float *x) {
    return total_of(n, plain_addend, &(real_row){.x = x})[0];
}
NW_INLINE vec exponentials_of(size_t n, const float *x, vec about, float *y) {
    return total_of(n, exponential_addend, &(real_row){x, about, y});
}

/* *low and *high, the same in all lanes, widened by the elements that are no NaN. */
NW_INLINE void widen(size_t n, const float *x, vec *low, vec *high) {
    vec least[4], most[4]; /* four of each, for the latency */
    size_t i = 0;
    NW_UNROLL
    for (int p = 0; p < 4; p++) least[p] = *low, most[p] = *high;
    for (; i + 4 * NW_LANES <= n; i += 4 * NW_LANES) NW_UNROLL
    for (int p = 0; p < 4; p++) {
        const vec v = load(x + i + p * NW_LANES, NW_LANES);
        least[p] = smaller(v, least[p]);
        most[p] = larger(v, most[p]);
    }
    for (; i + NW_LANES <= n; i += NW_LANES) {
        const vec v = load(x + i, NW_LANES);
        least[0] = smaller(v, least[0]);
        most[0] = larger(v, most[0]);
    }
    if (i < n) {
        const vec v = load(x + i, n - i);
        const ivec inside = lanes_below(n - i);
        least[1] = smaller(choose(inside, v, least[1]), least[1]);
        most[1] = larger(choose(inside, v, most[1]), most[1]);
    }
    *low = least_across(smaller(smaller(least[0], least[1]), smaller(least[2], least[3])));
    *high = most_across(larger(larger(most[0], most[1]), larger(most[2], most[3])));
}

void NW_KERNEL(minmax_f32)(size_t n, const float *x, float *lo, float *hi) {
    vec low = splat(*lo), high = splat(*hi);
    widen(n, x, &low, &high);
    *lo = low[0], *hi = high[0];
}

void NW_KERNEL(fake_quantize_f32)(size_t n, const float *x, float scale, float lo, float hi, float *y) {
    NW_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        float p = x[i] / scale;
        p = p == p ? p : 0.0f;
        p = p < lo ? lo : p;
        p = p > hi ? hi : p;
        y[i] = scale * ((p + ROUNDER) - ROUNDER);
    }
}

typedef struct straight_row {
    const float *x, *dy;
    vec scale, lo, hi;
    float *dx;
} straight_row;

NW_INLINE vec straight_through_addend(void *args, size_t at, size_t count) {
    const straight_row *r = args;
    const vec v = load(r->x + at, count) / r->scale, g = load(r->dy + at, count), none = {0};
    const ivec inside = (v >= r->lo) & (v <= r->hi);
    vec code = choose(is_number(v), v, none);
    code = smaller(r->hi, larger(r->lo, code));
    code = (code + splat(ROUNDER)) - splat(ROUNDER);
    store(r->dx + at, count, choose(inside, g, none));
    return g * (code - choose(inside, v, none));
}

float NW_KERNEL(straight_through_f32)(size_t n, const float *x, const float *dy, float scale, float lo,
                                      float hi, float *dx) {
    straight_row r = {x, dy, splat(scale), splat(lo), splat(hi), dx};
    return total_of(n, straight_through_addend, &r)[0];
}

typedef struct grid_row {
    const float *x;
    vec scale, steps, lo, hi; /* steps: 1/scale */
} grid_row;

NW_INLINE vec grid_error_addend(void *args, size_t at, size_t count) {
    const grid_row *r = args;
    const vec v = load(r->x + at, count);
    vec code = smaller(r->hi, larger(r->lo, v * r->steps));
    code = (code + splat(ROUNDER)) - splat(ROUNDER);
    const vec error = v - code * r->scale;
    return error * error;
}

float NW_KERNEL(grid_error_f32)(size_t n, const float *x, float scale, float lo, float hi) {
    grid_row r = {x, splat(scale), splat(1.0f / scale), splat(lo), splat(hi)};
    return total_of(n, grid_error_addend, &r)[0];
}

float NW_KERNEL(sum_f32)(size_t n, const float *x) {
    return sum_of(n, x);
}

void NW_KERNEL(softmax_f32)(size_t n, const float *x, float *y) {
    vec unused = splat(__builtin_inff()), most = splat(-__builtin_inff());
    widen(n, x, &unused, &most);
    const vec factor = 1.0f / exponentials_of(n, x, most, y);
    size_t i = 0;
    for (; i + NW_LANES <= n; i += NW_LANES) store(y + i, NW_LANES, load(y + i, NW_LANES) * factor);
    if (i < n) store(y + i, n - i, load(y + i, n - i) * factor);
}

/* x becomes scale·x [+ bias]; in the lanes past the count is what cannot be a maximum. */
NW_INLINE vec score_of(size_t count, float *x, float scale, const float *bias) {
    vec v = load(x, count) * scale;
    if (bias) v += load(bias, count);
    store(x, count, v);
    return count == NW_LANES ? v : choose(lanes_below(count), v, splat(-__builtin_inff()));
}

NW_INLINE float scores_of(size_t n, float *x, float scale, const float *bias) {
    vec unused = splat(__builtin_inff()), most = splat(-__builtin_inff());
    size_t i = 0;
    if (scale == 1.0f && !bias) { /* they are what they should be */
        widen(n, x, &unused, &most);
        return most[0];
    }
    for (; i + NW_LANES <= n; i += NW_LANES)
        most = larger(score_of(NW_LANES, x + i, scale, bias ? bias + i : NULL), most);
    if (i < n) most = larger(score_of(n - i, x + i, scale, bias ? bias + i : NULL), most);
    return most_across(most)[0];
}

NW_INLINE float weights_of(size_t n, float *x, float most) {
    if (most != -__builtin_inff()) return exponentials_of(n, x, splat(most), x)[0];
    for (size_t i = 0; i < n; i++)
        if (x[i] != x[i]) return exponentials_of(n, x, splat(0.0f), x)[0]; /* NaN only */
    memset(x, 0, n * sizeof *x);
    return 0.0f;
}

/* The maxima of several rows first: one row's exponentials need not wait for its own maximum. */
#define WEIGHED 16

void NW_KERNEL(weigh_f32)(size_t rows, size_t n, float *x, size_t ld, float scale, const float *bias,
                          size_t ld_bias, float *sums) {
    float most[WEIGHED];
    for (size_t r = 0; r < rows; r += WEIGHED) {
        const size_t count = rows - r < WEIGHED ? rows - r : WEIGHED;
        for (size_t i = 0; i < count; i++)
            most[i] = scores_of(n, x + (r + i) * ld, scale, bias ? bias + (r + i) * ld_bias : NULL);
        for (size_t i = 0; i < count; i++) sums[r + i] = weights_of(n, x + (r + i) * ld, most[i]);
    }
}

typedef struct code_row {
    const float *x;
    vec about;
    uint8_t *q;
    uvec total; /* of the codes, and ROUNDER's own bits with each */
} code_row;

/* exp(x − about); q gets 255 times that, rounded: the low byte of the sum with ROUNDER. */
NW_INLINE vec code_addend(void *args, size_t at, size_t count) {
    code_row *r = args;
    const vec x = load(r->x + at, count) - r->about; /* none is above 0 */
    const vec v = within(count, exp_roughly_within(larger(splat(-105.0f), x)));
    const uvec code = (uvec)term(larger(v, splat(0.0f)), splat(255.0f), ROUNDER);
    store_low_bytes(r->q + at, count, code);
    r->total += code;
    return v;
}

NW_INLINE float codes_of(size_t n, const float *x, float most, uint8_t *q, int32_t *total) {
    code_row r = {.x = x, .about = splat(most), .q = q};
    const float sum = total_of(n, code_addend, &r)[0];
    const uint32_t added = (uint32_t)((n + NW_LANES - 1) / NW_LANES * NW_LANES) * 0x4b400000u; /* wraps */
    *total = (int32_t)(total_across(r.total) - added);
    return sum;
}

void NW_KERNEL(weigh_u8)(size_t rows, size_t n, float *x, size_t ld, float scale, const float *bias,
                         size_t ld_bias, uint8_t *q, size_t ld_q, float *sums, int32_t *totals) {
    float most[WEIGHED];
    for (size_t r = 0; r < rows; r += WEIGHED) {
        const size_t count = rows - r < WEIGHED ? rows - r : WEIGHED;
        for (size_t i = 0; i < count; i++)
            most[i] = scores_of(n, x + (r + i) * ld, scale, bias ? bias + (r + i) * ld_bias : NULL);
        for (size_t i = 0; i < count; i++) {
            const float *row = x + (r + i) * ld;
            const bool none = most[i] == -__builtin_inff(); /* all of them, but for NaN */
            sums[r + i] = codes_of(n, row, none ? 0.0f : most[i], q + (r + i) * ld_q, &totals[r + i]);
        }
    }
}

/* A register of a row: (x − mean)·factor·gamma + beta. */
NW_INLINE void normalize(size_t count, const float *x, vec mean, vec factor, const float *gamma,
                         const float *beta, float *y) {
    vec v = (load(x, count) - mean) * factor;
    if (gamma) v *= load(gamma, count);
    if (beta) v += load(beta, count);
    store(y, count, v);
}

/* The variance is taken around the mean, in a second pass: no cancellation. Each pass goes over several rows: one row
 * need not wait for its own sums. */
#define NORMALIZED 8

void NW_KERNEL(layernorm_f32)(size_t rows, size_t n, const float *x, const float *gamma, const float *beta,
                              float eps, float *y) {
    float mean[NORMALIZED], factor[NORMALIZED];
    for (size_t count; rows; rows -= count, x += count * n, y += count * n) {
        count = rows < NORMALIZED ? rows : NORMALIZED;
        for (size_t r = 0; r < count; r++) mean[r] = sum_of(n, x + r * n) / (float)n;
        for (size_t r = 0; r < count; r++) {
            const float squares = total_of(n, square_addend, &(real_row){x + r * n, splat(mean[r]), NULL})[0];
            factor[r] = 1.0f / __builtin_sqrtf(squares / (float)n + eps);
        }
        for (size_t r = 0; r < count; r++) {
            const vec m = splat(mean[r]), f = splat(factor[r]);
            const float *from = x + r * n;
            float *to = y + r * n;
            size_t i = 0;
            for (; i + NW_LANES <= n; i += NW_LANES)
                normalize(NW_LANES, from + i, m, f, gamma ? gamma + i : NULL, beta ? beta + i : NULL, to + i);
            if (i < n)
                normalize(n - i, from + i, m, f, gamma ? gamma + i : NULL, beta ? beta + i : NULL, to + i);
        }
    }
}

/* ---- recurrent cells ----------------------------------------------------------------------------------- */

/* The sum of both shares of gate g, elements [at, at + count). */
NW_INLINE vec gate_of(size_t g, size_t n, size_t at, size_t count, const float *x, const float *r) {
    return load(x + g * n + at, count) + load(r + g * n + at, count);
}

NW_INLINE void lstm_cells(size_t n, size_t at, size_t count, const float *x, const float *r, float *c,
                          float *h) {
    const vec in = vec_sigmoid(gate_of(0, n, at, count, x, r));
    const vec out = vec_sigmoid(gate_of(1, n, at, count, x, r));
    const vec forget = vec_sigmoid(gate_of(2, n, at, count, x, r));
    const vec fresh = vec_tanh(gate_of(3, n, at, count, x, r));
    const vec cell = forget * load(c + at, count) + in * fresh;
    store(c + at, count, cell);
    store(h + at, count, out * vec_tanh(cell));
}

void NW_KERNEL(lstm_f32)(size_t n, const float *x, const float *r, float *c, float *h) {
    size_t i = 0;
    for (; i + NW_LANES <= n; i += NW_LANES) lstm_cells(n, i, NW_LANES, x, r, c, h);
    if (i < n) lstm_cells(n, i, n - i, x, r, c, h);
}

NW_INLINE void gru_cells(size_t n, bool after_reset, size_t at, size_t count, const float *x, const float *r,
                         float *h) {
    const vec update = vec_sigmoid(gate_of(0, n, at, count, x, r));
    vec share = load(r + 2 * n + at, count);
    if (after_reset) share *= vec_sigmoid(gate_of(1, n, at, count, x, r));
    const vec fresh = vec_tanh(load(x + 2 * n + at, count) + share);
    store(h + at, count, (1.0f - update) * fresh + update * load(h + at, count));
}

void NW_KERNEL(gru_f32)(size_t n, bool after_reset, const float *x, const float *r, float *h) {
    size_t i = 0;
    for (; i + NW_LANES <= n; i += NW_LANES) gru_cells(n, after_reset, i, NW_LANES, x, r, h);
    if (i < n) gru_cells(n, after_reset, i, n - i, x, r, h);
}
