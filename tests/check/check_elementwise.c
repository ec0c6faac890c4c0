/* check_elementwise.c: every line of elementwise.def on every ISA: against the formula of elementwise.h,
 * and bit for bit against plain C. Must not include anything but kern/. */
#include "check.h"
#include "kern/elementwise.h"
#include "num/format.h"

#include <math.h>
#include <string.h>

static const size_t sizes[] = {0, 1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 255, 1000, 4099};
static const size_t bench_sizes[] = {16, 64, 98, 128, 384, 1024, 8192};

static nw_isa isa_now;
static nw_elementwise plain; /* the functions of plain C */

static size_t size_count(void) {
    return check_opt.bench ? sizeof bench_sizes / sizeof *bench_sizes : sizeof sizes / sizeof *sizes;
}

/* Runs `body` for every size with n set, in a case of its own. */
#define FOR_SIZES(name)                                                                                      \
    for (size_t s_ = 0; s_ < size_count(); s_++)                                                             \
        for (size_t n = check_opt.bench ? bench_sizes[s_] : sizes[s_], once_ = begin(name, n); once_;        \
             once_ = 0, check_end())

static bool begin(const char *name, size_t n) {
    char kernel[64];
    strcpy(kernel, name);
    strcat(kernel, "__");
    strcat(kernel, nw_isa_name(isa_now));
    return check_begin(isa_now, kernel, "n = %zu", n);
}

static float random_special(void) {
    static const float values[] = {0,      -0.0f,  0.5f,    1.5f,     -2.5f,     1e30f,
                                   -1e30f, 1e-40f, 3.4e38f, INFINITY, -INFINITY, NAN};
    return values[check_below(sizeof values / sizeof *values)];
}

static float *floats(size_t n, float lo, float hi, bool special) {
    float *p = check_alloc(n * sizeof *p);
    check_fill_f32(p, n, lo, hi);
    for (size_t i = 0; special && i < n; i += 1 + check_below(16)) p[i] = random_special();
    return p;
}

static void same_bytes(const char *what, const void *got, const void *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i])
            check_fail("%s: element %zu is %d, not %d", what, i, ((const uint8_t *)got)[i],
                       ((const uint8_t *)want)[i]);
}

static void same_floats(const char *what, const float *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, 4) && !(isnan(got[i]) && isnan(want[i])))
            check_fail("%s: element %zu is %.9g, not %.9g", what, i, (double)got[i], (double)want[i]);
}

/* A timed call: the function of one type with the arguments it has in every benchmark. */
typedef struct timed {
    void (*run)(const struct timed *);
    void (*function)(void);
    size_t n;
    const void *a, *b;
    void *y;
    const void *params;
} timed;
static void call_timed(void *p) {
    ((timed *)p)->run(p);
}
static void bench(timed t) {
    check_report(check_seconds(call_timed, &t), (double)t.n, "G elements/s");
}

/* ---- codes --------------------------------------------------------------------------------------------- */

static void run_quantize(const timed *t) {
    ((nw_quantize_u8_fn *)t->function)(t->n, t->a, 0.05f, 100, 0, 255, t->y);
}
static void test_quantize_u8(const char *name, nw_quantize_u8_fn *f, nw_quantize_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float scale = check_uniform(0.001f, 0.1f), *x = floats(n, -12, 12, true);
        int lo = (int)check_below(100), hi = (int)check_between((size_t)lo, 255);
        int zero = (int)check_between((size_t)lo, (size_t)hi);
        for (size_t i = 0; i < n; i += 5) x[i] = ((float)check_below(300) - 100.5f) * scale; /* ties */
        uint8_t *q = check_alloc(n), *want = check_alloc(n);
        f(n, x, scale, zero, lo, hi, q);
        for (size_t i = 0; i < n; i++) {
            float r = rintf(x[i] / scale) + (float)zero;
            want[i] = (uint8_t)(isnan(r) ? zero : r < (float)lo ? lo : r > (float)hi ? hi : (int)r);
        }
        same_bytes("code", q, want, n);
        if (check_opt.bench)
            bench((timed){.run = run_quantize, .function = (void (*)(void))f, .n = n, .a = x, .y = q});
    }
}

static void run_dequantize(const timed *t) {
    ((nw_dequantize_u8_fn *)t->function)(t->n, t->a, 0.05f, 100, t->y);
}
static void test_dequantize_u8(const char *name, nw_dequantize_u8_fn *f, nw_dequantize_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float scale = check_uniform(0.001f, 0.1f);
        int zero = (int)check_below(256);
        uint8_t *q = check_alloc(n);
        float *x = check_alloc(n * 4), *want = check_alloc(n * 4);
        f(n, q, scale, zero, x);
        for (size_t i = 0; i < n; i++) want[i] = scale * (float)(q[i] - zero);
        same_floats("value", x, want, n);
        if (check_opt.bench)
            bench((timed){.run = run_dequantize, .function = (void (*)(void))f, .n = n, .a = q, .y = x});
    }
}

static void run_signs(const timed *t) {
    ((nw_signs_u8_fn *)t->function)(t->n, t->a, t->y);
}
static void test_signs_u8(const char *name, nw_signs_u8_fn *f, nw_signs_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float *x = floats(n, -2, 2, true);
        uint8_t *q = check_alloc(n), *want = check_alloc(n);
        for (size_t i = 0; i < n; i += 7) x[i] = i % 2 ? -0.0f : 0.0f;
        f(n, x, q);
        for (size_t i = 0; i < n; i++) want[i] = x[i] < 0 ? 0 : 2;
        same_bytes("code", q, want, n);
        if (check_opt.bench)
            bench((timed){.run = run_signs, .function = (void (*)(void))f, .n = n, .a = x, .y = q});
    }
}

static void run_lookup(const timed *t) {
    ((nw_lookup_u8_fn *)t->function)(t->n, t->a, t->b, t->y);
}
static void test_lookup_u8(const char *name, nw_lookup_u8_fn *f, nw_lookup_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        uint8_t *x = check_alloc(n), *table = check_alloc(256), *want = check_alloc(n);
        for (size_t i = 0; i < n; i++) want[i] = table[x[i]];
        if (check_opt.bench)
            bench((timed){
                .run = run_lookup, .function = (void (*)(void))f, .n = n, .a = x, .b = table, .y = x});
        else
            f(n, x, table, x), same_bytes("in place", x, want, n);
    }
}

static void run_flip(const timed *t) {
    ((nw_flip_u8_fn *)t->function)(t->n, t->a, t->y);
}
static void test_flip_u8(const char *name, nw_flip_u8_fn *f, nw_flip_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        uint8_t *x = check_alloc(n), *want = check_alloc(n);
        for (size_t i = 0; i < n; i++) want[i] = (uint8_t)(x[i] < 128 ? x[i] + 128 : x[i] - 128);
        if (check_opt.bench)
            bench((timed){.run = run_flip, .function = (void (*)(void))f, .n = n, .a = x, .y = x});
        else
            f(n, x, x), same_bytes("in place", x, want, n);
    }
}

static void run_unpack(const timed *t) {
    ((nw_unpack_s8_fn *)t->function)(t->n, t->a, 4, 15, -8, t->y);
}
static void test_unpack_s8(const char *name, nw_unpack_s8_fn *f, nw_unpack_s8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        const int bits = 1 << check_below(3), shift = bits * (int)check_below((size_t)(8 / bits));
        const int least = -(int)check_below(9), codes = 1 << bits;
        uint8_t *x = check_alloc(n);
        int8_t *y = check_alloc(n), *want = check_alloc(n);
        for (size_t i = 0; i < n; i++) want[i] = (int8_t)((x[i] / (1 << shift)) % codes + least);
        f(n, x, shift, (uint8_t)(codes - 1), least, y);
        same_bytes("code", (uint8_t *)y, (uint8_t *)want, n);
        if (check_opt.bench)
            bench((timed){.run = run_unpack, .function = (void (*)(void))f, .n = n, .a = x, .y = y});
    }
}

static int clamped(float r, int zero, int lo, int hi) {
    double q = (double)rintf(r) + zero;
    return q < lo ? lo : q > hi ? hi : (int)q;
}

static void run_add(const timed *t) {
    ((nw_add_u8_fn *)t->function)(t->n, t->a, t->b, t->params, t->y);
}
static void test_add_u8(const char *name, nw_add_u8_fn *f, nw_add_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        nw_add_u8_params p = {.a_zero = (int)check_below(256),
                              .b_zero = (int)check_below(256),
                              .zero = (int)check_below(256),
                              .lo = 0,
                              .hi = 255,
                              .a_ratio = check_uniform(0.01f, 2),
                              .b_ratio = check_uniform(0.01f, 2)};
        if (check_below(3) == 0) p.a_ratio = 0.5f, p.b_ratio = 0.5f; /* ties */
        if (check_below(3) == 0) p.lo = p.zero;
        if (check_below(6) == 0) p.a_ratio = 1e30f;
        uint8_t *a = check_alloc(n), *b = check_alloc(n), *y = check_alloc(n), *want = check_alloc(n);
        for (size_t i = 0; i < n; i++) {
            float u = (float)(a[i] - p.a_zero) * p.a_ratio, v = (float)(b[i] - p.b_zero) * p.b_ratio;
            want[i] = (uint8_t)clamped(u + v, p.zero, p.lo, p.hi);
        }
        f(n, a, b, &p, y);
        same_bytes("sum", y, want, n);
        if (check_opt.bench)
            bench((timed){
                .run = run_add, .function = (void (*)(void))f, .n = n, .a = a, .b = b, .y = y, .params = &p});
        f(n, a, b, &p, a);
        same_bytes("in place", a, want, check_opt.bench ? 0 : n);
    }
}

static nw_mul_u8_params random_product(void) {
    nw_mul_u8_params p = {.a_zero = (int)check_below(256),
                          .b_zero = (int)check_below(256),
                          .zero = (int)check_below(256),
                          .lo = 0,
                          .hi = 255,
                          .ratio = check_uniform(1e-4f, 0.01f)};
    if (check_below(3) == 0) p.ratio = 0.5f; /* ties */
    if (check_below(3) == 0) p.lo = p.zero;
    if (check_below(6) == 0) p.ratio = 1e37f;
    return p;
}
static uint8_t product_of(const nw_mul_u8_params *p, uint8_t a, uint8_t b) {
    return (uint8_t)clamped((float)((a - p->a_zero) * (b - p->b_zero)) * p->ratio, p->zero, p->lo, p->hi);
}

static void run_mul(const timed *t) {
    ((nw_mul_u8_fn *)t->function)(t->n, t->a, t->b, t->params, t->y);
}
static void test_mul_u8(const char *name, nw_mul_u8_fn *f, nw_mul_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        nw_mul_u8_params p = random_product();
        uint8_t *a = check_alloc(n), *b = check_alloc(n), *y = check_alloc(n), *want = check_alloc(n);
        for (size_t i = 0; i < n; i++) want[i] = product_of(&p, a[i], b[i]);
        f(n, a, b, &p, y);
        same_bytes("product", y, want, n);
        if (check_opt.bench)
            bench((timed){
                .run = run_mul, .function = (void (*)(void))f, .n = n, .a = a, .b = b, .y = y, .params = &p});
        f(n, a, b, &p, a);
        same_bytes("in place", a, want, check_opt.bench ? 0 : n);
    }
}

#define GATED_ROWS 196 /* when benchmarking */
static void run_gate(const timed *t) {
    ((nw_gate_u8_fn *)t->function)(GATED_ROWS, t->n / GATED_ROWS, t->a, t->b, t->params, t->y);
}
static void test_gate_u8(const char *name, nw_gate_u8_fn *f, nw_gate_u8_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        nw_mul_u8_params p = random_product();
        size_t rows = check_opt.bench ? GATED_ROWS : check_below(n < 100 ? 200 : 5), size = rows * n;
        uint8_t *a = check_alloc(size), *b = check_alloc(n), *y = check_alloc(size),
                *want = check_alloc(size);
        for (size_t i = 0; i < size; i++) want[i] = product_of(&p, a[i], b[i % n]);
        f(rows, n, a, b, &p, y);
        same_bytes("product", y, want, size);
        if (check_opt.bench)
            bench((timed){.run = run_gate,
                          .function = (void (*)(void))f,
                          .n = size,
                          .a = a,
                          .b = b,
                          .y = y,
                          .params = &p});
        f(rows, n, a, b, &p, a);
        same_bytes("in place", a, want, check_opt.bench ? 0 : size);
    }
}

/* ---- floats -------------------------------------------------------------------------------------------- */

static float binary_of(const char *name, float a, float b) {
    if (!strncmp(name, "add", 3)) return a + b;
    if (!strncmp(name, "sub", 3)) return a - b;
    if (!strncmp(name, "mul", 3)) return a * b;
    if (!strncmp(name, "div", 3)) return a / b;
    if (isnan(a) || isnan(b)) return NAN;
    if (!strncmp(name, "min", 3)) return a < b ? a : b;
    return a > b ? a : b;
}
static void run_binary(const timed *t) {
    ((nw_binary_f32_fn *)t->function)(t->n, t->a, 1, t->b, 1, t->y);
}
static void test_binary_f32(const char *name, nw_binary_f32_fn *f, nw_binary_f32_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        for (size_t steps = 0; steps < 4; steps++) {
            size_t u = steps & 1, v = steps >> 1;
            float *a = floats(u ? n : 1, -4, 4, true), *b = floats(v ? n : 1, -4, 4, true);
            float *y = check_alloc(n * 4), *want = check_alloc(n * 4);
            for (size_t i = 0; i < n; i++) want[i] = binary_of(name, a[i * u], b[i * v]);
            f(n, a, u, b, v, y);
            same_floats("result", y, want, n);
            if (check_opt.bench && steps == 3)
                bench((timed){
                    .run = run_binary, .function = (void (*)(void))f, .n = n, .a = a, .b = b, .y = y});
            if (u && !check_opt.bench) f(n, a, u, b, v, a), same_floats("in place", a, want, n);
        }
    }
}

static void run_clamp(const timed *t) {
    ((nw_clamp_f32_fn *)t->function)(t->n, t->a, 0, 6, t->y);
}
static void test_clamp_f32(const char *name, nw_clamp_f32_fn *f, nw_clamp_f32_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, true), *want = check_alloc(n * 4);
        float lo = check_below(2) ? 0 : -INFINITY, hi = check_below(2) ? 6 : INFINITY;
        for (size_t i = 0; i < n; i++) want[i] = x[i] < lo ? lo : x[i] > hi ? hi : x[i];
        f(n, x, lo, hi, x);
        same_floats("in place", x, want, n);
        if (check_opt.bench)
            bench((timed){.run = run_clamp, .function = (void (*)(void))f, .n = n, .a = x, .y = x});
    }
}

/* The exact value and the error elementwise.h allows. */
static double unary_of(const char *name, double x, double *tolerance) {
    double y = 0, ulps = 4;
    *tolerance = 0;
    if (!strcmp(name, "exp_f32")) y = exp(x), ulps = 2;
    if (!strcmp(name, "sigmoid_f32")) y = 1 / (1 + exp(-x));
    if (!strcmp(name, "tanh_f32")) y = tanh(x);
    if (!strcmp(name, "erf_f32")) y = erf(x);
    if (!strcmp(name, "silu_f32")) y = x / (1 + exp(-x)), ulps = 6;
    if (!strcmp(name, "gelu_f32")) {
        *tolerance = 3e-7 * fmax(1, fabs(x));
        return x * erfc(-x * 0.70710678118654752440) / 2;
    }
    if (!strcmp(name, "gelu_tanh_f32")) {
        *tolerance = 3e-7 * fmax(1, fabs(x));
        return x / 2 * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    }
    if (!strncmp(name, "round_", 6)) {
        *tolerance = 0;
        return (double)(!strcmp(name, "round_f16") ? nw_round_f16((float)x) : nw_round_bf16((float)x));
    }
    if (!strcmp(name, "hardswish_f32")) {
        float gate = (float)x * 0.16666667f + 0.5f;
        return (double)((float)x * (gate < 0 ? 0 : gate > 1 ? 1 : gate));
    }
    *tolerance = fmax(ulps * fabs(y) * 0x1p-23, !strcmp(name, "silu_f32") ? 0x1p-119 : 0x1p-126);
    if ((double)(float)y == INFINITY || fabs(y) > 3.4e38) *tolerance = INFINITY;
    return y;
}
static void run_unary(const timed *t) {
    ((nw_unary_f32_fn *)t->function)(t->n, t->a, t->y);
}
static void test_unary_f32(const char *name, nw_unary_f32_fn *f, nw_unary_f32_fn *reference) {
    FOR_SIZES(name) {
        float range = check_opt.bench ? 8 : n & 1 ? 3 : 100;
        float *x = floats(n, -range, range, !check_opt.bench), *y = check_alloc(n * 4),
              *want = check_alloc(n * 4);
        for (size_t i = 0; !strncmp(name, "round_", 6) && i < n; i++) /* of all sizes, ties among them */
            x[i] = ldexpf(i % 3 ? x[i] : (float)check_below(1 << 12) + 0.5f, (int)check_below(48) - 36);
        f(n, x, y);
        reference(n, x, want);
        same_floats("against plain C", y, want, n);
        for (size_t i = 0; i < n; i++) {
            double tolerance, exact = unary_of(name, (double)x[i], &tolerance);
            if (isinf(x[i]) && x[i] < 0 &&
                (!strcmp(name, "silu_f32") || !strncmp(name, "gelu", 4) || isnan(exact)))
                continue;
            if (!check_close((double)y[i], exact, tolerance))
                check_fail("f(%.9g) is %.9g, not %.9g", (double)x[i], (double)y[i], exact);
        }
        if (check_opt.bench)
            bench((timed){.run = run_unary, .function = (void (*)(void))f, .n = n, .a = x, .y = y});
    }
    /* Every 2^9-th float. */
    if (check_opt.bench || !check_begin(isa_now, name, "on %s: all exponents", nw_isa_name(isa_now))) return;
    for (uint32_t bits = 0; bits < 0xff800000u; bits += 64 * 509) {
        float x[64], y[64];
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t b = bits + i * 509;
            memcpy(x + i, &b, 4);
            if (isnan(x[i]) || isinf(x[i])) x[i] = 1;
        }
        f(64, x, y);
        for (int i = 0; i < 64; i++) {
            double tolerance, exact = unary_of(name, (double)x[i], &tolerance);
            if (!check_close((double)y[i], exact, tolerance))
                check_fail("f(%.9g) is %.9g, not %.9g", (double)x[i], (double)y[i], exact);
        }
    }
    check_end();
}

static void run_hardsigmoid(const timed *t) {
    ((nw_hardsigmoid_f32_fn *)t->function)(t->n, t->a, 0.2f, 0.5f, t->y);
}
static void test_hardsigmoid_f32(const char *name, nw_hardsigmoid_f32_fn *f,
                                 nw_hardsigmoid_f32_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, true), *y = check_alloc(n * 4), *want = check_alloc(n * 4);
        for (size_t i = 0; i < n; i++) {
            float p = 0.2f * x[i];
            p = p + 0.5f;
            want[i] = p < 0 ? 0 : p > 1 ? 1 : p;
        }
        f(n, x, 0.2f, 0.5f, y);
        same_floats("result", y, want, n);
        if (check_opt.bench)
            bench((timed){.run = run_hardsigmoid, .function = (void (*)(void))f, .n = n, .a = x, .y = y});
    }
}

static void run_minmax(const timed *t) {
    float lo = 0, hi = 0;
    ((nw_minmax_f32_fn *)t->function)(t->n, t->a, &lo, &hi);
}
static void test_minmax_f32(const char *name, nw_minmax_f32_fn *f, nw_minmax_f32_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, n & 1), lo = INFINITY, hi = -INFINITY, want_lo = lo, want_hi = hi;
        for (size_t i = 0; i < n; i++) {
            if (x[i] < want_lo) want_lo = x[i];
            if (x[i] > want_hi) want_hi = x[i];
        }
        f(n, x, &lo, &hi);
        if (lo != want_lo || hi != want_hi)
            check_fail("range is %g … %g, not %g … %g", (double)lo, (double)hi, (double)want_lo,
                       (double)want_hi);
        if (check_opt.bench) bench((timed){.run = run_minmax, .function = (void (*)(void))f, .n = n, .a = x});
    }
}

static void run_fake_quantize(const timed *t) {
    ((nw_fake_quantize_f32_fn *)t->function)(t->n, t->a, 0.037f, -128, 127, t->y);
}
static void test_fake_quantize_f32(const char *name, nw_fake_quantize_f32_fn *f,
                                   nw_fake_quantize_f32_fn *reference) {
    (void)reference;
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, true), *y = check_alloc(n * 4), *want = check_alloc(n * 4);
        const float scale = check_uniform(0.01f, 0.2f), lo = -(float)check_below(129),
                    hi = (float)check_below(65536);
        for (size_t i = 0; i < n; i++) {
            const float q = isnan(x[i]) ? 0 : fminf(fmaxf(rintf(x[i] / scale), lo), hi);
            want[i] = scale * (q + 0.0f);
        }
        f(n, x, scale, lo, hi, y);
        same_floats("on the grid", y, want, n);
        if (check_opt.bench)
            bench((timed){.run = run_fake_quantize, .function = (void (*)(void))f, .n = n, .a = x, .y = y});
    }
}

static void run_straight_through(const timed *t) {
    ((nw_straight_through_f32_fn *)t->function)(t->n, t->a, t->b, 0.037f, -128, 127, t->y);
}
static void test_straight_through_f32(const char *name, nw_straight_through_f32_fn *f,
                                      nw_straight_through_f32_fn *reference) {
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, true), *dy = floats(n, -2, 2, false), *dx = check_alloc(n * 4),
              *want = check_alloc(n * 4);
        const float scale = check_uniform(0.01f, 0.2f), lo = -(float)check_below(129),
                    hi = (float)check_below(256);
        double exact = 0, magnitude = 1e-30;
        for (size_t i = 0; i < n; i++) {
            const float v = x[i] / scale, q = isnan(v) ? 0 : fminf(fmaxf(rintf(v), lo), hi);
            const bool inside = v >= lo && v <= hi;
            want[i] = inside ? dy[i] : 0;
            exact += (double)dy[i] * ((double)q - (inside ? (double)v : 0));
            magnitude += fabs((double)dy[i]) * (fabs((double)q) + 1);
        }
        const float sum = f(n, x, dy, scale, lo, hi, dx);
        same_floats("gradient", dx, want, n);
        const float same = reference(n, x, dy, scale, lo, hi, dx);
        same_floats("sum against plain C", &sum, &same, 1);
        if (!check_close((double)sum, exact, (20 + (double)n / 32) * 0x1p-23 * magnitude))
            check_fail("sum is %g, not %g", (double)sum, exact);
        if (check_opt.bench)
            bench((timed){.run = run_straight_through,
                          .function = (void (*)(void))f,
                          .n = n,
                          .a = x,
                          .b = dy,
                          .y = dx});
    }
}

static void run_grid_error(const timed *t) {
    *(float *)t->y = ((nw_grid_error_f32_fn *)t->function)(t->n, t->a, 0.037f, -128, 127);
}
static void test_grid_error_f32(const char *name, nw_grid_error_f32_fn *f, nw_grid_error_f32_fn *reference) {
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, false);
        const float scale = check_uniform(0.01f, 0.2f), lo = -(float)check_below(129),
                    hi = (float)check_below(256);
        double exact = 0, nearby = 0; /* squared; beside a tie either code will do */
        for (size_t i = 0; i < n; i++) {
            const double q = (double)fminf(fmaxf(rintf(x[i] / scale), lo), hi);
            const double d = fabs((double)x[i] - q * (double)scale);
            exact += d * d;
            nearby += d * 1e-6 + 1e-12;
        }
        const float error = f(n, x, scale, lo, hi), same = reference(n, x, scale, lo, hi);
        same_floats("error against plain C", &error, &same, 1);
        if (!check_close((double)error, exact, (20 + (double)n / 32) * 0x1p-23 * exact + 10 * nearby))
            check_fail("error is %g, not %g", (double)error, exact);
        if (check_opt.bench)
            bench((timed){
                .run = run_grid_error, .function = (void (*)(void))f, .n = n, .a = x, .y = check_alloc(4)});
    }
}

static void run_sum(const timed *t) {
    *(float *)t->y = ((nw_sum_f32_fn *)t->function)(t->n, t->a);
}
static void test_sum_f32(const char *name, nw_sum_f32_fn *f, nw_sum_f32_fn *reference) {
    FOR_SIZES(name) {
        float *x = floats(n, -9, 9, false), *y = check_alloc(4), want = reference(n, x);
        double exact = 0, magnitude = 0;
        for (size_t i = 0; i < n; i++) exact += (double)x[i], magnitude += fabs((double)x[i]);
        *y = f(n, x);
        same_floats("against plain C", y, &want, 1);
        if (!check_close((double)*y, exact, (20 + (double)n / 32) * 0x1p-24 * magnitude))
            check_fail("sum is %g, not %g", (double)*y, exact);
        if (check_opt.bench)
            bench((timed){.run = run_sum, .function = (void (*)(void))f, .n = n, .a = x, .y = y});
    }
}

static void run_softmax(const timed *t) {
    ((nw_softmax_f32_fn *)t->function)(t->n, t->a, t->y);
}
static void test_softmax_f32(const char *name, nw_softmax_f32_fn *f, nw_softmax_f32_fn *reference) {
    FOR_SIZES(name) {
        if (!n) continue;
        float *x = floats(n, -20, 20, false), *y = check_alloc(n * 4), *want = check_alloc(n * 4);
        if (n > 3) x[2] = -INFINITY;
        double sum = 0, most = -INFINITY;
        for (size_t i = 0; i < n; i++) most = fmax(most, (double)x[i]);
        for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
        f(n, x, y);
        reference(n, x, want);
        same_floats("against plain C", y, want, n);
        for (size_t i = 0; i < n; i++) {
            double exact = exp((double)x[i] - most) / sum;
            if (!check_close((double)y[i], exact, 4e-6 * exact + 1e-37))
                check_fail("element %zu is %g, not %g", i, (double)y[i], exact);
        }
        if (check_opt.bench)
            bench((timed){.run = run_softmax, .function = (void (*)(void))f, .n = n, .a = x, .y = y});
    }
}

static void run_weigh(const timed *t) {
    float sum;
    ((nw_weigh_f32_fn *)t->function)(1, t->n, t->y, t->n, 0.125f, t->b, 0, &sum);
}
/* Several rows, apart or not, with a mask for all, one for each, or none. */
static void test_weigh_f32(const char *name, nw_weigh_f32_fn *f, nw_weigh_f32_fn *reference) {
    enum { ROWS = 19 };
    FOR_SIZES(name) {
        if (!n) continue;
        const size_t rows = n < 300 ? ROWS : 1, ld = n + check_below(3);
        float *x = floats(rows * ld, -50, 50, false), *masks = floats(rows * n, -9, 0, false);
        float *y = check_alloc(rows * ld * 4), *want = check_alloc(rows * ld * 4), sums[ROWS],
              want_sums[ROWS];
        if (n > 3) masks[2] = -INFINITY;
        for (int with_mask = 0; with_mask < 3; with_mask++) {
            const float *mask = with_mask ? masks : NULL;
            const size_t ld_mask = with_mask == 2 ? n : 0;
            memcpy(y, x, rows * ld * 4);
            memcpy(want, x, rows * ld * 4);
            f(rows, n, y, ld, 0.125f, mask, ld_mask, sums);
            reference(rows, n, want, ld, 0.125f, mask, ld_mask, want_sums);
            same_floats("against plain C", y, want, rows * ld);
            same_floats("sums against plain C", sums, want_sums, rows);
            for (size_t r = 0; r < rows; r++) {
                const float *bias = mask ? mask + r * ld_mask : NULL, *row = x + r * ld;
                double sum = 0, most = -INFINITY;
                for (size_t i = 0; i < n; i++)
                    most = fmax(most, (double)(row[i] * 0.125f) + (double)(bias ? bias[i] : 0));
                for (size_t i = 0; i < n; i++) {
                    double exact = exp((double)(row[i] * 0.125f) + (double)(bias ? bias[i] : 0) - most);
                    sum += exact;
                    if (!check_close((double)y[r * ld + i], exact, 4e-6 * exact + 1e-37))
                        check_fail("element %zu is %g, not %g", i, (double)y[r * ld + i], exact);
                }
                if (!check_close((double)sums[r], sum, 1e-5 * sum))
                    check_fail("the sum is %g, not %g", (double)sums[r], sum);
            }
        }
        for (size_t i = 0; i < n; i++) x[i] = -INFINITY;
        f(1, n, x, n, 1, NULL, 0, sums);
        if (sums[0] != 0.0f || x[0] != 0.0f || x[n - 1] != 0.0f) check_fail("a row of -inf is not 0");
        for (size_t i = 0; i < n; i++) x[i] = -INFINITY;
        x[n - 1] = NAN;
        f(1, n, x, n, 1, NULL, 0, sums);
        if (!isnan(sums[0])) check_fail("a NaN is lost");
        if (check_opt.bench)
            bench((timed){.run = run_weigh, .function = (void (*)(void))f, .n = n, .b = masks, .y = y});
    }
}

static void run_weigh_u8(const timed *t) {
    float *x = t->y, sum;
    int32_t total;
    ((nw_weigh_u8_fn *)t->function)(1, t->n, x, t->n, 0.125f, t->b, 0, (uint8_t *)(x + t->n), 0, &sum,
                                    &total);
}
/* Codes of what weigh_f32 gives, and its sums, as far as the contract goes. */
static void test_weigh_u8(const char *name, nw_weigh_u8_fn *f, nw_weigh_u8_fn *reference) {
    enum { ROWS = 19 };
    FOR_SIZES(name) {
        if (!n) continue;
        const size_t rows = n < 300 ? ROWS : 1, ld = n + check_below(3), ld_q = n + check_below(3);
        float *x = floats(rows * ld, -50, 50, false), *masks = floats(rows * n, -9, 0, false), sums[ROWS];
        float *own = check_alloc(rows * ld * 4), *want = check_alloc(rows * ld * 4), want_sums[ROWS];
        uint8_t *q = check_alloc(rows * ld_q), *plain_q = check_alloc(rows * ld_q);
        int32_t totals[ROWS], plain_totals[ROWS];
        if (n > 3) masks[2] = -INFINITY;
        if (n > 8) x[7] = NAN;
        for (size_t i = 0; rows > 1 && i < n; i++) x[ld + i] = -INFINITY;
        memset(q, 77, rows * ld_q);
        memset(plain_q, 77, rows * ld_q);
        for (int with_mask = 0; with_mask < 3; with_mask++) {
            const float *mask = with_mask ? masks : NULL;
            const size_t ld_mask = with_mask == 2 ? n : 0;
            memcpy(own, x, rows * ld * 4);
            f(rows, n, own, ld, 0.125f, mask, ld_mask, q, ld_q, sums, totals);
            memcpy(own, x, rows * ld * 4);
            reference(rows, n, own, ld, 0.125f, mask, ld_mask, plain_q, ld_q, want_sums, plain_totals);
            same_bytes("against plain C", q, plain_q, rows * ld_q);
            same_floats("sums against plain C", sums, want_sums, rows);
            memcpy(want, x, rows * ld * 4);
            plain.weigh_f32(rows, n, want, ld, 0.125f, mask, ld_mask, want_sums);
            for (size_t r = 0; r < rows; r++) {
                int32_t total = 0;
                if (!check_close((double)sums[r], (double)want_sums[r], 4e-6 * (double)want_sums[r]))
                    check_fail("the sum of row %zu is %g, not %g", r, (double)sums[r], (double)want_sums[r]);
                for (size_t i = 0; i < n; i++) {
                    const double y = (double)want[r * ld + i], code = isnan(y) ? 0 : 255 * y;
                    total += q[r * ld_q + i];
                    if (y == 1 ? q[r * ld_q + i] != 255 : fabs(q[r * ld_q + i] - code) > 0.5 + 4e-6 * code)
                        check_fail("code %zu of row %zu is %d, not %g", i, r, q[r * ld_q + i], code);
                }
                if (totals[r] != total) check_fail("the codes' sum is %d, not %d", totals[r], total);
            }
        }
        if (check_opt.bench)
            bench((timed){.run = run_weigh_u8,
                          .function = (void (*)(void))f,
                          .n = n,
                          .b = masks,
                          .y = check_alloc(5 * n)});
    }
}

static void run_layernorm(const timed *t) {
    ((nw_layernorm_f32_fn *)t->function)(1, t->n, t->a, t->b, t->b, 1e-5f, t->y);
}
static void test_layernorm_f32(const char *name, nw_layernorm_f32_fn *f, nw_layernorm_f32_fn *reference) {
    FOR_SIZES(name) {
        if (!n) continue;
        const size_t rows = n < 300 ? 1 + check_below(19) : 1;
        float *x = floats(rows * n, -3, 9, false), *gamma = floats(n, 0.5, 2, false),
              *beta = floats(n, -1, 1, false);
        float *y = check_alloc(rows * n * 4), *want = check_alloc(rows * n * 4);
        bool with_gamma = check_below(2), with_beta = check_below(2);
        f(rows, n, x, with_gamma ? gamma : NULL, with_beta ? beta : NULL, 1e-5f, y);
        reference(rows, n, x, with_gamma ? gamma : NULL, with_beta ? beta : NULL, 1e-5f, want);
        same_floats("against plain C", y, want, rows * n);
        for (size_t r = 0; r < rows; r++) {
            const float *row = x + r * n;
            double mean = 0, variance = 0;
            for (size_t i = 0; i < n; i++) mean += (double)row[i] / (double)n;
            for (size_t i = 0; i < n; i++)
                variance += ((double)row[i] - mean) * ((double)row[i] - mean) / (double)n;
            for (size_t i = 0; i < n; i++) {
                double exact =
                    ((double)row[i] - mean) / sqrt(variance + 1e-5) * (with_gamma ? (double)gamma[i] : 1) +
                    (with_beta ? (double)beta[i] : 0);
                if (!check_close((double)y[r * n + i], exact, 2e-5))
                    check_fail("element %zu is %g, not %g", i, (double)y[r * n + i], exact);
            }
        }
        if (check_opt.bench)
            bench((timed){
                .run = run_layernorm, .function = (void (*)(void))f, .n = n, .a = x, .b = gamma, .y = y});
    }
}

/* ---- recurrent cells ----------------------------------------------------------------------------------- */

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* In place: a timed call goes on from the state that the one before left. */
static void run_lstm(const timed *t) {
    float *c = t->y;
    ((nw_lstm_f32_fn *)t->function)(t->n, t->a, t->b, c, c + t->n);
}
static void test_lstm_f32(const char *name, nw_lstm_f32_fn *f, nw_lstm_f32_fn *reference) {
    FOR_SIZES(name) {
        float *x = floats(4 * n, -4, 4, false), *r = floats(4 * n, -4, 4, false);
        float *c = floats(2 * n, -2, 2, false), *want = check_alloc(2 * n * 4), *before = check_alloc(n * 4);
        memcpy(before, c, n * 4);
        memcpy(want, c, n * 4);
        f(n, x, r, c, c + n);
        reference(n, x, r, want, want + n);
        same_floats("cell against plain C", c, want, n);
        same_floats("state against plain C", c + n, want + n, n);
        for (size_t i = 0; i < n; i++) {
            double in = sigmoid((double)x[i] + (double)r[i]),
                   out = sigmoid((double)x[n + i] + (double)r[n + i]),
                   forget = sigmoid((double)x[2 * n + i] + (double)r[2 * n + i]),
                   fresh = tanh((double)x[3 * n + i] + (double)r[3 * n + i]),
                   cell = forget * (double)before[i] + in * fresh;
            if (!check_close((double)c[i], cell, 4e-6) ||
                !check_close((double)c[n + i], out * tanh(cell), 4e-6))
                check_fail("cell %zu is %g, %g, not %g, %g", i, (double)c[i], (double)c[n + i], cell,
                           out * tanh(cell));
        }
        if (check_opt.bench)
            bench((timed){.run = run_lstm, .function = (void (*)(void))f, .n = n, .a = x, .b = r, .y = c});
    }
}

static void run_gru(const timed *t) {
    ((nw_gru_f32_fn *)t->function)(t->n, true, t->a, t->b, t->y);
}
static void test_gru_f32(const char *name, nw_gru_f32_fn *f, nw_gru_f32_fn *reference) {
    FOR_SIZES(name) {
        float *x = floats(3 * n, -4, 4, false), *r = floats(3 * n, -4, 4, false);
        float *h = floats(n, -1, 1, false), *want = check_alloc(n * 4), *before = check_alloc(n * 4);
        memcpy(before, h, n * 4);
        memcpy(want, h, n * 4);
        bool after_reset = check_below(2);
        f(n, after_reset, x, r, h);
        reference(n, after_reset, x, r, want);
        same_floats("state against plain C", h, want, n);
        for (size_t i = 0; i < n; i++) {
            double update = sigmoid((double)x[i] + (double)r[i]),
                   reset = after_reset ? sigmoid((double)x[n + i] + (double)r[n + i]) : 1,
                   fresh = tanh((double)x[2 * n + i] + reset * (double)r[2 * n + i]),
                   exact = (1 - update) * fresh + update * (double)before[i];
            if (!check_close((double)h[i], exact, 4e-6))
                check_fail("cell %zu is %g, not %g", i, (double)h[i], exact);
        }
        if (check_opt.bench)
            bench((timed){.run = run_gru, .function = (void (*)(void))f, .n = n, .a = x, .b = r, .y = h});
    }
}

static void one_isa(nw_isa isa) {
    nw_elementwise chosen;
    isa_now = isa;
    if (!nw_isa_supported(isa)) return;
    nw_elementwise_select(isa, &chosen);
#define NW_ELEMENTWISE(name, type) test_##type(#name, chosen.name, plain.name);
#include "kern/elementwise.def"
#undef NW_ELEMENTWISE
}

void check_elementwise(void) {
    nw_elementwise_select(NW_ISA_SCALAR, &plain);
#define ONE_ISA(isa, word) one_isa(NW_ISA_##isa);
    NW_ELEMENTWISE_ISAS(ONE_ISA)
#undef ONE_ISA
}
