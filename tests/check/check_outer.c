/* check_outer.c: sums of outer products over rows against a naive loop. Must not include anything but kern/. */
#include "check.h"
#include "check_image.h"
#include "kern/outer.h"

#include <math.h>
#include <string.h>

typedef struct outer_case {
    size_t m, rows, k;   /* plain rows of k floats, unless conv.h */
    check_geometry conv; /* its k: channels */
} outer_case;

static const outer_case tests[] = {
    {1, 1, 1, {0}},
    {3, 5, 7, {0}},
    {16, 300, 40, {0}},
    {33, 64, 70, {0}},
    {10, 1000, 17, {0}},
    {200, 33, 400, {0}},
    {4, 0, 0, {1, 5, 7, 3, 3, 3, 1, 1, 1}},
    {16, 0, 0, {2, 9, 9, 16, 3, 3, 1, 1, 1}},
    {17, 0, 0, {2, 8, 8, 4, 3, 3, 2, 1, 1}},
    {5, 0, 0, {3, 6, 9, 18, 2, 4, 1, 1, 0}},
    {40, 0, 0, {1, 9, 9, 33, 3, 3, 1, 2, 2}},
    {8, 0, 0, {1, 20, 20, 2, 18, 18, 1, 1, 9}},
    {6, 0, 0, {2, 14, 14, 32, 1, 1, 2, 1, 0}},
};

static const outer_case benches[] = {
    {16, 0, 0, {16, 32, 32, 16, 3, 3, 1, 1, 1}},  {32, 0, 0, {16, 16, 16, 32, 3, 3, 1, 1, 1}},
    {64, 0, 0, {16, 8, 8, 64, 3, 3, 1, 1, 1}},    {16, 0, 0, {16, 32, 32, 3, 3, 3, 1, 1, 1}},
    {256, 0, 0, {1, 14, 14, 256, 3, 3, 1, 1, 1}}, {256, 128, 784, {0}},
};

typedef struct outer_call {
    nw_outer_kernel kernel;
    nw_outer_args args;
    size_t rows;
    bool accumulate;
    void *scratch;
} outer_call;

static void call_outer(void *p) {
    const outer_call *c = p;
    nw_outer_run(&c->kernel, &c->args, c->accumulate, 0, c->rows, 0, c->args.columns, c->scratch);
}

static void verify(const outer_call *c, const check_image *image, const float *before) {
    const nw_outer_args *a = &c->args;
    const size_t columns = a->channels * a->taps, ld = a->ldc / sizeof(float);
    for (size_t m = 0; m < a->m; m++) {
        for (size_t j = 0; j < columns; j++) {
            double sum = c->accumulate ? (double)before[m * ld + j] : 0, magnitude = fabs(sum);
            for (size_t i = 0; i < c->rows; i++) {
                const float *row = check_image_row(image, i, j / a->channels);
                double p = (double)row[j % a->channels] * (double)a->y[i * a->ldy / sizeof(float) + m];
                sum += p;
                magnitude += fabs(p);
            }
            double tolerance = (4 + sqrt((double)c->rows)) * 0x1p-24 * magnitude + 1e-30;
            if (!check_close((double)a->c[m * ld + j], sum, tolerance))
                check_fail("row %zu column %zu is %.9g, not %.9g", m, j, (double)a->c[m * ld + j], sum);
        }
        for (size_t j = columns; j < ld && m + 1 < a->m; j++)
            if (memcmp(&a->c[m * ld + j], &before[m * ld + j], sizeof(float)))
                check_fail("wrote between rows");
    }
}

static void make_image(const outer_case *s, check_image *image) {
    const size_t gap = check_opt.bench ? 0 : check_below(3) * check_below(9);
    if (s->conv.h)
        check_image_window(image, &s->conv, gap, sizeof(float), 0, false);
    else
        check_image_strided(image, s->rows, s->k, gap, sizeof(float), 0);
    check_fill_f32((float *)(void *)image->data, check_image_bytes(image) / sizeof(float), -1, 1);
    if (image->pad) memset((char *)(uintptr_t)image->pad, 0, image->k * sizeof(float));
}

/* In two calls over the rows, the second one adding, and each in two over the columns. */
static void run_in_parts(outer_call *c) {
    const nw_outer_args *a = &c->args;
    const size_t n = a->columns, half = check_below(c->rows + 1);
    const size_t cut = check_below(n / c->kernel.product->nr + 1) * c->kernel.product->nr;
    for (int second = 0; second < 2; second++) {
        const bool add = second || c->accumulate;
        const size_t i0 = second ? half : 0, i1 = second ? c->rows : half;
        nw_outer_run(&c->kernel, a, add, i0, i1, 0, cut, c->scratch);
        nw_outer_run(&c->kernel, a, add, i0, i1, cut, n, c->scratch);
    }
}

static void one(nw_isa isa, const outer_case *s) {
    const check_geometry *g = &s->conv;
    const nw_outer_kernel kernel = nw_outer_select(isa);
    if (kernel.product->isa != isa) return;
    if (!check_begin(isa, "outer", "%s: %zu x %zux%zu, rows %zu or %zux%zux%zu", kernel.product->name, s->m,
                     g->h ? g->kernel_h * g->kernel_w : 1, g->h ? g->k : s->k, s->rows, g->batch, g->h, g->w))
        return;
    check_image image;
    make_image(s, &image);
    const size_t columns = image.k * image.taps, ldy = s->m + (check_opt.bench ? 0 : check_below(5)),
                 ldc = columns + (check_opt.bench ? 0 : check_below(4));
    outer_call c = {.kernel = kernel, .rows = image.m, .accumulate = check_below(2)};
    const size_t y_count = (image.m - 1) * ldy + s->m, c_count = (s->m - 1) * ldc + columns;
    float *y = check_alloc(y_count * sizeof *y), *out = check_alloc(c_count * sizeof *out),
          *before = check_alloc(c_count * sizeof *before);
    check_fill_f32(y, y_count, -1, 1);
    check_fill_f32(out, c_count, -1, 1);
    memcpy(before, out, c_count * sizeof *out);
    c.args = (nw_outer_args){.m = s->m,
                             .channels = image.k,
                             .taps = image.taps,
                             .columns = columns,
                             .rows = image.rows,
                             .y = y,
                             .ldy = ldy * sizeof *y,
                             .c = out,
                             .ldc = ldc * sizeof *out};
    c.scratch = check_alloc((nw_outer_scratch(&kernel, &c.args) + 63) / 64 * 64);
    if (check_opt.bench) {
        check_report(check_seconds(call_outer, &c), 2.0 * (double)(s->m * columns * image.m), "GFLOP/s");
    } else {
        run_in_parts(&c);
        verify(&c, &image, before);
    }
    check_end();
}

void check_outer(void) {
    const outer_case *cases = check_opt.bench ? benches : tests;
    const size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    if (check_opt.shapes) return;
    for (int isa = 0; isa < NW_ISA_COUNT; isa++)
        for (size_t i = 0; i < count; i++) one((nw_isa)isa, &cases[i]);
}
