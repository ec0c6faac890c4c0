/* check_gemm_bits.c: products of bits against sums of ±1, and the packing of signs.
 * Must not include anything but kern/. */
#include "check.h"
#include "check_image.h"
#include "check_shapes.h"
#include "kern/gemm_bits.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const check_shape tests[] = {
    {1, 1, 1, {0}},
    {1, 17, 65, {0}},
    {2, 33, 128, {0}},
    {3, 8, 63, {0}},
    {4, 32, 64, {0}},
    {5, 7, 200, {0}},
    {7, 40, 2500, {0}},
    {29, 70, 131, {0}},
    {1200, 5, 70, {0}},
    {0, 8, 0, {1, 5, 7, 3, 3, 3, 1, 1, 1}},
    {0, 33, 0, {2, 8, 8, 70, 3, 3, 2, 1, 1}},
    {0, 6, 0, {3, 6, 9, 18, 2, 4, 1, 1, 0}},
    {0, 45, 0, {1, 9, 9, 129, 3, 3, 1, 2, 2}},
    {0, 12, 0, {1, 1, 40, 6, 1, 5, 1, 3, 6}},
    {0, 3, 0, {1, 20, 20, 2, 18, 18, 1, 1, 9}},
};

static const check_shape benches[] = {
    {1, 4096, 4096, {0}},
    {128, 4096, 4096, {0}},
    {1024, 1024, 1024, {0}},
    {0, 64, 0, {1, 56, 56, 64, 3, 3, 1, 1, 1}},
    {0, 256, 0, {1, 14, 14, 256, 3, 3, 1, 1, 1}},
};

/* Rows of the words that k bits take: `s` with words in place of elements. The bits left over are 0. */
static void make_rows(const check_shape *s, size_t k, check_image *image) {
    const size_t words = nw_bits_words(k), gap = check_opt.bench ? 0 : check_below(3);
    check_geometry g = s->conv;
    g.k = words;
    if (g.h)
        check_image_window(image, &g, gap, sizeof(uint64_t), 0, false);
    else
        check_image_strided(image, s->m, words, gap, sizeof(uint64_t), 0);
    const uint64_t kept = k % 64 ? (UINT64_C(1) << k % 64) - 1 : UINT64_MAX;
    uint64_t *data = (uint64_t *)(void *)image->data;
    const size_t count = check_image_bytes(image) / sizeof *data;
    for (size_t i = 0; i < count; i++)
        data[i] = check_random() & (i % (words + gap) + 1 == words ? kept : UINT64_MAX);
    if (image->pad) memset((char *)(uintptr_t)image->pad, 0, words * sizeof *data);
}

static int sign(const void *bits, size_t i) {
    return ((const uint8_t *)bits)[i / 8] >> i % 8 & 1 ? 1 : -1;
}

typedef struct strides {
    size_t first, n, tap, k;
} strides;

typedef struct call {
    const nw_gemm_bits_kernel *kernel;
    nw_gemm_bits_args args;
} call;
static void run_all(void *p) {
    call *c = p;
    nw_gemm_bits_run(c->kernel, &c->args, 0, c->args.m, 0, c->args.n);
}

static void verify(const call *c, const check_image *image, const uint8_t *w, strides st,
                   const float *before) {
    const nw_gemm_bits_args *a = &c->args;
    const size_t ld = a->ldc / sizeof(float);
    for (size_t m = 0; m < a->m; m++) {
        for (size_t n = 0; n < a->n; n++) {
            int64_t sum = 0;
            for (size_t t = 0; t < a->taps; t++) {
                const void *row = check_image_row(image, m, t);
                for (size_t k = 0; k < a->k && row != image->pad; k++)
                    sum += sign(row, k) * sign(w, st.first + n * st.n + t * st.tap + k * st.k);
            }
            float want = (float)sum * a->scale[n];
            if (a->bias) want += a->bias[n];
            want = fminf(fmaxf(want, a->lo), a->hi);
            if (memcmp(&a->c[m * ld + n], &want, sizeof want) != 0 && a->c[m * ld + n] != want)
                check_fail("row %zu column %zu is %.9g, not %.9g", m, n, (double)a->c[m * ld + n],
                           (double)want);
        }
        for (size_t n = a->n; n < ld && m + 1 < a->m; n++)
            if (memcmp(&a->c[m * ld + n], &before[m * ld + n], sizeof(float)))
                check_fail("wrote between rows");
    }
}

static strides random_strides(size_t n, size_t k, size_t taps) {
    const size_t first = check_below(9);
    if (taps == 1 && check_below(2)) return (strides){first, 1, 0, n};
    return check_below(2) ? (strides){first, k * taps, k, 1} : (strides){first, k * taps, 1, taps};
}

static void one(const nw_gemm_bits_kernel *kernel, const check_shape *s) {
    const check_geometry *g = &s->conv;
    char text[128];
    if (g->h)
        snprintf(text, sizeof text, "conv %zux%zux%zux%zu -> %zu, %zux%zu/%zu dil %zu pad %zu", g->batch,
                 g->h, g->w, g->k, s->n, g->kernel_h, g->kernel_w, g->stride, g->dilation, g->pad);
    else
        snprintf(text, sizeof text, "%zu x %zu x %zu", s->m, s->n, s->k);
    if (!check_begin(kernel->isa, kernel->name, "%s", text)) return;
    const size_t n = s->n, k = g->h ? g->k : s->k;
    check_image image;
    make_rows(s, k, &image);
    const size_t taps = image.taps, ld = n + (check_opt.bench ? 0 : check_below(4));
    const strides st = random_strides(n, k, taps);
    uint8_t *w = check_alloc((st.first + n * k * taps + 7) / 8);
    float *scale = check_alloc(n * 4), *bias = check_alloc(n * 4);
    check_fill_f32(scale, n, 0.01f, 1);
    check_fill_f32(bias, n, -1, 1);
    const size_t c_count = (image.m - 1) * ld + n;
    float *c = check_alloc(c_count * 4), *before = check_alloc(c_count * 4);
    memcpy(before, c, c_count * 4);
    void *packed = check_alloc((nw_gemm_bits_packed_bytes(kernel, n, k, taps) + 63) / 64 * 64);
    nw_gemm_bits_pack(kernel, n, k, taps, w, st.first, st.n, st.tap, st.k, packed);
    const bool clamp = check_below(2);
    call job = {kernel,
                {.m = image.m,
                 .n = n,
                 .k = k,
                 .taps = taps,
                 .rows = image.rows,
                 .packed = packed,
                 .c = c,
                 .ldc = ld * 4,
                 .scale = scale,
                 .bias = check_below(2) ? bias : NULL,
                 .lo = clamp ? 0 : -INFINITY,
                 .hi = clamp ? 3 : INFINITY}};
    if (check_opt.bench) {
        check_report(check_seconds(run_all, &job), 2.0 * (double)(image.m * n * k * taps), "GOP/s");
    } else {
        const size_t m_cut = check_below(image.m + 1), n_cut = check_below(n / kernel->nr + 1) * kernel->nr;
        nw_gemm_bits_run(kernel, &job.args, 0, m_cut, 0, n_cut);
        nw_gemm_bits_run(kernel, &job.args, m_cut, image.m, 0, n_cut);
        nw_gemm_bits_run(kernel, &job.args, 0, image.m, n_cut, n);
        verify(&job, &image, w, st, before);
    }
    check_end();
}

/* ---- signs --------------------------------------------------------------------------------------------- */

typedef struct signs_call {
    nw_pack_signs_fn *pack;
    size_t rows, k;
    const float *x;
    uint64_t *bits;
} signs_call;
static void call_signs(void *p) {
    const signs_call *c = p;
    c->pack(c->rows, c->k, c->x, c->bits);
}

static void one_signs(const nw_gemm_bits_kernel *kernel, size_t rows, size_t k) {
    if (!check_begin(kernel->isa, kernel->name, "signs of %zu x %zu", rows, k)) return;
    const size_t words = nw_bits_words(k);
    float *x = check_alloc(rows * k * sizeof *x);
    uint64_t *bits = check_alloc(rows * words * sizeof *bits);
    check_fill_f32(x, rows * k, -1, 1);
    static const float special[] = {0, -0.0f, NAN, -NAN, INFINITY, -INFINITY, 1e-45f, -1e-45f};
    for (size_t i = 0; i < rows * k && !check_opt.bench; i++)
        if (check_below(4) == 0) x[i] = special[check_below(8)];
    signs_call c = {kernel->pack_signs, rows, k, x, bits};
    if (check_opt.bench) {
        check_report(check_seconds(call_signs, &c), (double)(rows * k * sizeof *x), "GB/s");
    } else {
        call_signs(&c);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < words * 64; i++) {
                const bool want = i < k && !(x[r * k + i] < 0), got = bits[r * words + i / 64] >> i % 64 & 1;
                if (want != got) check_fail("row %zu, bit %zu", r, i);
            }
    }
    check_end();
}

void check_gemm_bits(void) {
    size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    const check_shape *list = check_opt.bench ? benches : tests;
    if (check_opt.shapes) list = check_shapes_products(&count);
    for (int isa = 0; isa < NW_ISA_COUNT; isa++) {
        const nw_gemm_bits_kernel *kernel = nw_gemm_bits_select((nw_isa)isa);
        if (kernel->isa != (nw_isa)isa || !check_wants(nw_gemm_bits_select(check_opt.ceiling) == kernel))
            continue;
        for (size_t i = 0; i < count; i++) one(kernel, &list[i]);
        if (check_opt.shapes) continue;
        if (check_opt.bench) {
            one_signs(kernel, 196, 256);
            continue;
        }
        static const size_t depths[] = {1, 3, 8, 63, 64, 65, 100, 128, 203};
        for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) one_signs(kernel, 1 + i % 4, depths[i]);
    }
}
