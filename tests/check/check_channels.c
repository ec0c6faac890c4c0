/* check_channels.c: per-channel sums, scaling and gradients against naive loops that round as channels.h says.
 * Must not include anything but kern/. */
#include "check.h"
#include "kern/channels.h"

#include <math.h>
#include <string.h>

static const size_t tests[][2] = {{1, 1},   {5, 3},   {33, 16}, {2, 17},  {70, 63}, {4, 64},
                                  {7, 129}, {50, 20}, {0, 100}, {2, 600}, {200, 8}};
static const size_t benches[][2] = {{65536, 16}, {16384, 32}, {4096, 64}, {1024, 512}};
#define BLOCK 32 /* rows summed in f32 */

typedef struct channel_case {
    const nw_channels *k;
    size_t rows, cols;
    float *x, *dy, *y, *out;
    float *center, *factor, *shift, *slope;
    const void **at; /* rows of x */
    float *dots;
    double *sum, *products;
    nw_channel_affine affine;
    nw_channel_grad grad;
    bool gated, residual;
} channel_case;

static float *numbers(size_t n) {
    float *x = check_alloc(n * sizeof *x);
    check_fill_f32(x, n, -2, 2);
    return x;
}

static void make(channel_case *c, const nw_channels *k, size_t rows, size_t cols) {
    *c = (channel_case){.k = k, .rows = rows, .cols = cols};
    c->x = numbers(rows * cols);
    c->dy = numbers(rows * cols);
    c->y = numbers(rows * cols);
    c->out = numbers(rows * cols);
    c->center = numbers(cols);
    c->factor = numbers(cols);
    c->shift = numbers(cols);
    c->slope = numbers(cols);
    c->dots = numbers(cols);
    c->at = check_alloc(rows * sizeof *c->at);
    for (size_t r = 0; r < rows; r++) c->at[r] = c->x + (check_opt.bench ? r : check_below(rows)) * cols;
    c->sum = check_alloc(cols * sizeof *c->sum);
    c->products = check_alloc(cols * sizeof *c->products);
    for (size_t i = 0; i < cols; i++) c->sum[i] = c->products[i] = (double)check_uniform(-1, 1);
    bool clamp = check_below(2);
    c->affine = (nw_channel_affine){c->factor, c->shift, clamp ? 0 : -INFINITY, clamp ? 1.5f : INFINITY};
    c->grad = (nw_channel_grad){c->center, c->factor, c->slope, c->shift};
    c->gated = check_below(2);
    c->residual = check_below(2);
}

static const nw_channel_affine *gate_of(const channel_case *c) {
    return c->gated ? &c->affine : NULL;
}

/* dy behind the gate. */
static float gated(const channel_case *c, size_t r, size_t i) {
    const float scaled = c->x[r * c->cols + i] * c->factor[i], at = scaled + c->shift[i];
    return !c->gated || at > c->affine.lo ? c->dy[r * c->cols + i] : 0;
}

static bool same(float a, float b) {
    return a == b || (isnan(a) && isnan(b));
}

/* sums[i] += Σ_r term(r, i), BLOCK rows in f32, those in f64. */
static void expect_sums(const channel_case *c, const char *what, const double *before, const double *sums,
                        float (*term)(const channel_case *c, size_t r, size_t i)) {
    for (size_t i = 0; i < c->cols; i++) {
        double want = before[i];
        for (size_t r = 0; r < c->rows;) {
            float block = 0;
            for (size_t end = r + BLOCK; r < end && r < c->rows; r++) block += term(c, r, i);
            want += (double)block;
        }
        if (sums[i] != want) check_fail("%s of column %zu is %.17g, not %.17g", what, i, sums[i], want);
    }
}

static float distance(const channel_case *c, size_t r, size_t i) {
    return c->x[r * c->cols + i] - c->center[i];
}
static float square(const channel_case *c, size_t r, size_t i) {
    return distance(c, r, i) * distance(c, r, i);
}
static float product(const channel_case *c, size_t r, size_t i) {
    return gated(c, r, i) * distance(c, r, i);
}

/* ---- one function each: a call, and what it must give --------------------------------------------------- */

static void call_moments(void *p) {
    channel_case *c = p;
    c->k->channel_moments_f32(c->rows, c->cols, c->x, c->center, c->sum, c->products);
}
static void call_affine(void *p) {
    channel_case *c = p;
    c->k->channel_affine_f32(c->rows, c->cols, c->x, &c->affine, c->residual ? c->y : NULL, c->out);
}
static void call_products(void *p) {
    channel_case *c = p;
    c->k->channel_products_f32(c->rows, c->cols, c->x, c->dy, c->center, gate_of(c), c->sum, c->products);
}
static void call_grad(void *p) {
    channel_case *c = p;
    c->k->channel_grad_f32(c->rows, c->cols, c->x, c->dy, &c->grad, gate_of(c), c->out);
}
static void call_dots(void *p) {
    channel_case *c = p;
    c->k->channel_dots_f32(c->rows, c->cols, c->at, c->dy, c->dots);
}

/* Up to 9 rows of x as taps of a window, and as many of `out` for its gradient. */
#define TAPS 9
static size_t taps_of(const channel_case *c, void **to) {
    const size_t taps = c->rows < TAPS ? c->rows : TAPS;
    for (size_t t = 0; t < taps; t++) to[t] = c->out + t * c->cols;
    return taps;
}
static void call_max_grad(void *p) {
    channel_case *c = p;
    void *to[TAPS];
    const size_t taps = taps_of(c, to);
    c->k->channel_max_grad_f32(taps, c->cols, c->at, c->dy, to);
}
static void call_spread(void *p) {
    channel_case *c = p;
    void *to[TAPS];
    const size_t taps = taps_of(c, to);
    c->k->channel_spread_f32(taps, c->cols, c->affine.factor[0], c->dy, to);
}

static void verify_window(const channel_case *c, bool max, const float *before) {
    void *to[TAPS];
    const size_t taps = taps_of(c, to);
    for (size_t i = 0; i < c->cols; i++) {
        size_t winner = 0;
        for (size_t t = 1; t < taps; t++) {
            const float x = ((const float *)c->at[t])[i];
            if (x > ((const float *)c->at[winner])[i] || isnan(x)) winner = t;
        }
        for (size_t t = 0; t < taps; t++) {
            float want = before[t * c->cols + i], share = c->dy[i] * c->affine.factor[0];
            want += !max ? share : t == winner ? c->dy[i] : 0;
            if (!same(c->out[t * c->cols + i], want)) check_fail("tap %zu column %zu is wrong", t, i);
        }
    }
}

static void call_copy(void *p) {
    channel_case *c = p;
    c->k->channel_copy_f32(c->rows, c->cols / 2, c->at, c->cols / 3, c->out, c->cols);
}
static void verify_copy(const channel_case *c, const float *before) {
    const size_t n = c->cols / 2, from = c->cols / 3;
    for (size_t r = 0; r < c->rows; r++)
        for (size_t i = 0; i < c->cols; i++) {
            const float want = i < n ? ((const float *)c->at[r])[from + i] : before[r * c->cols + i];
            if (!same(c->out[r * c->cols + i], want)) check_fail("row %zu column %zu is wrong", r, i);
        }
}

static void verify_affine(const channel_case *c) {
    for (size_t n = 0; n < c->rows * c->cols; n++) {
        float want = c->x[n] * c->factor[n % c->cols];
        want += c->shift[n % c->cols];
        if (c->residual) want += c->y[n];
        want = want < c->affine.lo ? c->affine.lo : want > c->affine.hi ? c->affine.hi : want;
        if (!same(c->out[n], want)) check_fail("%zu is %.9g, not %.9g", n, (double)c->out[n], (double)want);
    }
}

static void verify_grad(const channel_case *c) {
    for (size_t r = 0; r < c->rows; r++)
        for (size_t i = 0; i < c->cols; i++) {
            float want = gated(c, r, i) * c->factor[i], rest = distance(c, r, i) * c->slope[i];
            rest += c->shift[i];
            want += rest;
            if (!same(c->out[r * c->cols + i], want))
                check_fail("row %zu column %zu is %.9g, not %.9g", r, i, (double)c->out[r * c->cols + i],
                           (double)want);
        }
}

static void verify_dots(const channel_case *c, const float *before) {
    for (size_t i = 0; i < c->cols; i++) {
        float sum = 0;
        for (size_t r = 0; r < c->rows; r++) sum += ((const float *)c->at[r])[i] * c->dy[r * c->cols + i];
        if (!same(c->dots[i], before[i] + sum)) check_fail("column %zu is wrong", i);
    }
}

typedef struct channel_function {
    const char *name;
    void (*call)(void *p);
    int arrays; /* of [rows][cols] floats that pass through memory */
} channel_function;

static const channel_function functions[] = {
    {"channel_moments_f32", call_moments, 1},   {"channel_affine_f32", call_affine, 2},
    {"channel_products_f32", call_products, 2}, {"channel_grad_f32", call_grad, 3},
    {"channel_dots_f32", call_dots, 2},         {"channel_copy_f32", call_copy, 1},
    {"channel_max_grad_f32", call_max_grad, 0}, {"channel_spread_f32", call_spread, 0}};

static void one(nw_isa isa, const nw_channels *k, const channel_function *f, size_t rows, size_t cols) {
    if (!check_begin(isa, f->name, "%s %zu x %zu", nw_isa_name(isa), rows, cols)) return;
    channel_case c;
    make(&c, k, rows, cols);
    double *sum = check_alloc(cols * sizeof *sum), *products = check_alloc(cols * sizeof *products);
    float *dots = check_alloc(cols * sizeof *dots), *out = check_alloc(rows * cols * sizeof *out);
    if (rows > 2 && check_below(4) == 0) c.x[check_below(rows * cols)] = NAN;
    if (f->call == call_moments || f->call == call_products)
        for (size_t i = 0; i < rows * cols; i++) c.x[i] = isnan(c.x[i]) ? 0 : c.x[i];
    memcpy(out, c.out, rows * cols * sizeof *out);
    memcpy(sum, c.sum, cols * sizeof *sum);
    memcpy(products, c.products, cols * sizeof *products);
    memcpy(dots, c.dots, cols * sizeof *dots);
    if (rows > 0 || f->arrays) f->call(&c); /* windows have one tap at least */
    if (f->call == call_moments) {
        expect_sums(&c, "the sum", sum, c.sum, distance);
        expect_sums(&c, "the squares", products, c.products, square);
    } else if (f->call == call_products) {
        expect_sums(&c, "the sum", sum, c.sum, gated);
        expect_sums(&c, "the products", products, c.products, product);
    } else if (f->call == call_affine) {
        verify_affine(&c);
    } else if (f->call == call_grad) {
        verify_grad(&c);
    } else if (f->call == call_dots) {
        verify_dots(&c, dots);
    } else if (f->call == call_copy) {
        verify_copy(&c, out);
    } else if (rows > 0) {
        verify_window(&c, f->call == call_max_grad, out);
    }
    if (check_opt.bench && f->arrays)
        check_report(check_seconds(f->call, &c), (double)((size_t)f->arrays * rows * cols * sizeof(float)),
                     "GB/s");
    check_end();
}

void check_channels(void) {
    const size_t(*shapes)[2] = check_opt.bench ? benches : tests;
    const size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    if (check_opt.shapes) return;
#define NW_CHANNELS(isa, word)                                                                               \
    {                                                                                                        \
        const nw_channels k = {nw_channel_moments_f32__##word,  nw_channel_affine_f32__##word,               \
                               nw_channel_products_f32__##word, nw_channel_grad_f32__##word,                 \
                               nw_channel_dots_f32__##word,     nw_channel_copy_f32__##word,                 \
                               nw_channel_max_grad_f32__##word, nw_channel_spread_f32__##word};              \
        for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)                                    \
            for (size_t i = 0; i < count; i++)                                                               \
                one(NW_ISA_##isa, &k, &functions[f], shapes[i][0], shapes[i][1]);                            \
    }
#include "kern/channels.def"
#undef NW_CHANNELS
}
