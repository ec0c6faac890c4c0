/* check_gemm.c: matrix products and convolutions against a naive triple loop.
 * Must not include anything but kern/. */
#include "check.h"
#include "check_epilogue.h"
#include "check_image.h"
#include "check_shapes.h"
#include "kern/gemm.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const check_shape tests[] = {
    {1, 1, 1, {0}},
    {1, 17, 5, {0}},
    {1, 64, 67, {0}},
    {2, 33, 16, {0}},
    {3, 8, 4, {0}},
    {4, 16, 31, {0}},
    {5, 7, 2, {0}},
    {6, 32, 128, {0}},
    {7, 31, 9, {0}},
    {8, 40, 33, {0}},
    {9, 65, 12, {0}},
    {10, 48, 3, {0}},
    {11, 24, 40, {0}},
    {12, 9, 17, {0}},
    {13, 100, 6, {0}},
    {14, 32, 64, {0}},
    {15, 15, 15, {0}},
    {29, 70, 131, {0}},
    {43, 129, 257, {0}},
    {1500, 20, 7, {0}},
    {60, 36, 5000, {0}},
    {3, 5, 65536, {0}},
    {0, 8, 0, {1, 5, 7, 3, 3, 3, 1, 1, 1}},
    {0, 33, 0, {2, 8, 8, 4, 3, 3, 2, 1, 1}},
    {0, 16, 0, {3, 6, 9, 18, 2, 4, 1, 1, 0}},
    {0, 70, 0, {1, 9, 9, 7, 3, 3, 1, 2, 2}},
    {0, 31, 0, {2, 7, 7, 5, 1, 1, 2, 1, 0}},
    {0, 12, 0, {1, 1, 40, 6, 1, 5, 1, 3, 6}},
    {0, 5, 0, {1, 14, 14, 3, 7, 7, 2, 1, 3}},
    {0, 3, 0, {1, 20, 20, 2, 18, 18, 1, 1, 9}},
    {0, 34, 0, {2, 14, 14, 64, 3, 3, 1, 1, 1}},
};

static const check_shape benches[] = {
    {784, 1024, 1024, {0}},
    {1024, 1024, 1024, {0}},
    {128, 3072, 768, {0}},
    {3136, 64, 64, {0}},
    {196, 1024, 256, {0}},
    {1, 1000, 2048, {0}},
    {1, 4096, 1024, {0}},
    {4, 4096, 1024, {0}},
    {16, 1024, 1024, {0}},
    {0, 64, 0, {1, 224, 224, 3, 7, 7, 2, 1, 3}},
    {0, 16, 0, {8, 32, 32, 16, 3, 3, 1, 1, 1}},
    {0, 64, 0, {1, 56, 56, 64, 3, 3, 1, 1, 1}},
    {0, 128, 0, {1, 28, 28, 128, 3, 3, 1, 1, 1}},
    {0, 256, 0, {1, 14, 14, 256, 3, 3, 1, 1, 1}},
    {0, 512, 0, {1, 7, 7, 512, 3, 3, 1, 1, 1}},
};

static const check_shape *chosen(size_t *count) {
    if (check_opt.shapes) return check_shapes_products(count);
    *count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    return check_opt.bench ? benches : tests;
}

/* Few channels: the planner makes every kernel line one tap. */
static bool wants_lines(const check_geometry *g) {
    return g->k < 16 && g->kernel_w > 1 && g->dilation == 1 && (check_opt.bench || check_below(2));
}

static void make_rows(const check_shape *s, check_image *image, size_t element, size_t align) {
    bool lines = s->conv.h && wants_lines(&s->conv);
    size_t k = s->conv.h ? s->conv.k * (lines ? s->conv.kernel_w : 1) : s->k;
    size_t slack = (k + align - 1) / align * align * element - k * element;
    size_t gap = check_opt.bench ? 0 : check_below(3) * check_below(9);
    if (lines)
        check_image_lines(image, &s->conv, element, slack);
    else if (s->conv.h)
        check_image_window(image, &s->conv, gap, element, slack, !check_opt.bench && check_below(3) == 0);
    else
        check_image_strided(image, s->m, k, gap, element, slack);
}

static void describe(char *text, size_t size, const check_shape *s) {
    const check_geometry *g = &s->conv;
    if (g->h)
        snprintf(text, size, "conv %zux%zux%zux%zu -> %zu, %zux%zu/%zu dil %zu pad %zu", g->batch, g->h, g->w,
                 g->k, s->n, g->kernel_h, g->kernel_w, g->stride, g->dilation, g->pad);
    else
        snprintf(text, size, "%zu x %zu x %zu", s->m, s->n, s->k);
}

/* Weights as the caller has them: strides of one of the three usual orders. */
typedef struct strides {
    size_t n, tap, k;
} strides;
static strides random_strides(size_t n, size_t k, size_t taps) {
    if (taps == 1 && check_below(2)) return (strides){1, 0, n};
    if (check_below(2)) return (strides){k * taps, k, 1};
    return (strides){k * taps, 1, taps};
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

typedef struct f32_call {
    const nw_gemm_f32_kernel *kernel;
    nw_gemm_f32_args args;
} f32_call;
static void call_f32(void *p) {
    f32_call *c = p;
    nw_gemm_f32_run(c->kernel, &c->args, 0, c->args.m, 0, c->args.n);
}

static void verify_f32(const f32_call *c, const check_image *image, const float *w, strides st,
                       const float *before) {
    const nw_gemm_f32_args *a = &c->args;
    size_t ld = a->ldc / sizeof(float);
    for (size_t m = 0; m < a->m; m++) {
        for (size_t n = 0; n < a->n; n++) {
            double sum = 0, magnitude = 0;
            for (size_t t = 0; t < a->taps; t++) {
                const float *row = check_image_row(image, m, t);
                for (size_t k = 0; k < a->k; k++) {
                    double p = (double)row[k] * (double)w[n * st.n + t * st.tap + k * st.k];
                    sum += p, magnitude += fabs(p);
                }
            }
            if (a->bias) sum += (double)a->bias[n], magnitude += fabs((double)a->bias[n]);
            if (a->accumulate)
                sum += (double)before[m * ld + n], magnitude += fabs((double)before[m * ld + n]);
            double want = fmin(fmax(sum, (double)a->lo), (double)a->hi);
            double tolerance = (4 + sqrt((double)(a->k * a->taps))) * 0x1p-24 * magnitude + 1e-30;
            if (!check_close((double)a->c[m * ld + n], want, tolerance))
                check_fail("row %zu column %zu is %.9g, not %.9g", m, n, (double)a->c[m * ld + n], want);
        }
        for (size_t n = a->n; n < ld && m + 1 < a->m; n++)
            if (memcmp(&a->c[m * ld + n], &before[m * ld + n], sizeof(float)))
                check_fail("wrote between rows");
    }
}

static void one_f32(const nw_gemm_f32_kernel *kernel, const check_shape *s) {
    char text[128];
    describe(text, sizeof text, s);
    if (!check_begin(kernel->isa, kernel->name, "%s", text)) return;
    check_image image;
    make_rows(s, &image, sizeof(float), 1);
    check_fill_f32((float *)(void *)image.data, check_image_bytes(&image) / 4, -1, 1);
    if (image.pad) memset((char *)image.pad, 0, image.k * 4);
    size_t n = s->n, k = image.k, taps = image.taps, ld = n + (check_opt.bench ? 0 : check_below(4));
    strides st = random_strides(n, k, taps);
    float *w = check_alloc(n * k * taps * 4), *bias = check_alloc(n * 4);
    check_fill_f32(w, n * k * taps, -1, 1);
    check_fill_f32(bias, n, -1, 1);
    size_t c_count = (image.m - 1) * ld + n;
    float *c = check_alloc(c_count * 4), *before = check_alloc(c_count * 4);
    check_fill_f32(c, c_count, -2, 2);
    memcpy(before, c, c_count * 4);
    void *packed = check_alloc(nw_gemm_f32_packed_bytes(kernel, n, k, taps));
    nw_gemm_f32_pack(kernel, n, k, taps, w, st.n, st.tap, st.k, packed);
    bool clamp = check_below(2);
    f32_call call = {kernel,
                     {.m = image.m,
                      .n = n,
                      .k = k,
                      .taps = taps,
                      .rows = image.rows,
                      .packed = packed,
                      .c = c,
                      .ldc = ld * 4,
                      .bias = check_below(2) ? bias : NULL,
                      .accumulate = check_below(3) == 0,
                      .lo = clamp ? 0 : -INFINITY,
                      .hi = clamp ? 3 : INFINITY}};
    if (check_opt.bench) {
        call.args.accumulate = false;
        check_report(check_seconds(call_f32, &call), 2.0 * (double)(image.m * n * k * taps), "GFLOP/s");
    } else {
        size_t m_cut = check_below(image.m + 1), n_cut = check_below(n / kernel->nr + 1) * kernel->nr;
        nw_gemm_f32_run(kernel, &call.args, 0, m_cut, 0, n_cut);
        nw_gemm_f32_run(kernel, &call.args, m_cut, image.m, 0, n_cut);
        nw_gemm_f32_run(kernel, &call.args, 0, image.m, n_cut, n);
        verify_f32(&call, &image, w, st, before);
    }
    check_end();
}

void check_gemm_f32(void) {
    size_t count;
    const check_shape *list = chosen(&count);
    for (size_t i = 0; i < count; i++)
        for (int isa = 0; isa < NW_ISA_COUNT; isa++) {
            const nw_gemm_f32_kernel *kernel = nw_gemm_f32_select((nw_isa)isa);
            if (kernel->isa == (nw_isa)isa && check_wants(nw_gemm_f32_select(check_opt.ceiling) == kernel))
                one_f32(kernel, &list[i]);
        }
}

/* ---- u8 · s8 ------------------------------------------------------------------------------------------- */

typedef struct u8s8_call {
    const nw_gemm_u8s8_kernel *kernel;
    nw_gemm_u8s8_args args;
} u8s8_call;
static void call_u8s8(void *p) {
    u8s8_call *c = p;
    nw_gemm_u8s8_run(c->kernel, &c->args, 0, c->args.m, 0, c->args.n);
}

static void verify_u8s8(const u8s8_call *c, const check_image *image, const int8_t *w, strides st,
                        const char *before) {
    const nw_gemm_u8s8_args *a = &c->args;
    size_t size = nw_epilogue_size(a->epilogue.out);
    for (size_t m = 0; m < a->m; m++) {
        const char *line = (const char *)a->c + m * a->ldc;
        for (size_t n = 0; n < a->n; n++) {
            int64_t sum = 0, row_sum = 0;
            for (size_t t = 0; t < a->taps; t++) {
                const uint8_t *row = check_image_row(image, m, t);
                for (size_t k = 0; k < a->k; k++) {
                    sum += (int64_t)row[k] * w[n * st.n + t * st.tap + k * st.k];
                    row_sum += row[k];
                }
            }
            check_epilogue_element(&a->epilogue, m, n, sum, row_sum, line + n * size);
        }
        if (m + 1 < a->m &&
            memcmp(line + a->n * size, before + m * a->ldc + a->n * size, a->ldc - a->n * size))
            check_fail("wrote between rows");
    }
}

static void one_u8s8(const nw_gemm_u8s8_kernel *kernel, const check_shape *s, nw_epilogue_out out,
                     int variant) {
    static const char *const outs[] = {"s32", "u8", "f32"};
    char text[128];
    describe(text, sizeof text, s);
    if (!check_begin(kernel->isa, kernel->name, "%s to %s #%d", text, outs[out], variant)) return;
    check_image image;
    make_rows(s, &image, 1, 4);
    check_fill_bytes(image.data, check_image_bytes(&image), variant, 0, 255);
    size_t n = s->n, k = image.k, taps = image.taps;
    strides st = random_strides(n, k, taps);
    int8_t *w = check_alloc(n * k * taps);
    check_fill_bytes(w, n * k * taps, variant == 3 ? 2 : variant == 2 ? 1 : variant, -128, 127);
    void *packed = check_alloc(nw_gemm_u8s8_packed_bytes(kernel, n, k, taps));
    nw_gemm_u8s8_pack(kernel, n, k, taps, w, st.n, st.tap, st.k, packed);
    u8s8_call call = {kernel,
                      {.m = image.m, .n = n, .k = k, .taps = taps, .rows = image.rows, .packed = packed}};
    check_epilogue_make(&call.args.epilogue, out, image.m, n, k * taps, true);
    size_t size = nw_epilogue_size(out);
    call.args.ldc = (n + (check_opt.bench ? 0 : check_below(4))) * size;
    size_t c_bytes = (image.m - 1) * call.args.ldc + n * size;
    char *before = check_alloc(c_bytes);
    call.args.c = check_alloc(c_bytes);
    memcpy(before, call.args.c, c_bytes);
    if (check_opt.bench) {
        check_report(check_seconds(call_u8s8, &call), 2.0 * (double)(image.m * n * k * taps), "GOP/s");
    } else {
        int32_t *col_sums = check_alloc(n * 4);
        nw_gemm_u8s8_col_sums(n, k, taps, w, st.n, st.tap, st.k, call.args.epilogue.wzero, col_sums);
        for (size_t j = 0; j < n; j++) {
            int64_t sum = 0;
            for (size_t i = 0; i < k * taps; i++) sum += w[j * st.n + i / k * st.tap + i % k * st.k];
            if (call.args.epilogue.wzero) sum -= (int64_t)(k * taps) * call.args.epilogue.wzero[j];
            if (sum != col_sums[j]) check_fail("col_sums[%zu]", j);
        }
        if (call.args.epilogue.row_zero) call.args.epilogue.col_sum = col_sums;
        size_t m_cut = check_below(image.m + 1), n_cut = check_below(n / kernel->nr + 1) * kernel->nr;
        nw_gemm_u8s8_run(kernel, &call.args, 0, m_cut, 0, n_cut);
        nw_gemm_u8s8_run(kernel, &call.args, m_cut, image.m, 0, n_cut);
        nw_gemm_u8s8_run(kernel, &call.args, 0, image.m, n_cut, n);
        verify_u8s8(&call, &image, w, st, before);
    }
    check_end();
}

void check_gemm_u8s8(void) {
    size_t count;
    const check_shape *list = chosen(&count);
    for (size_t i = 0; i < count; i++)
        for (int isa = 0; isa < NW_ISA_COUNT; isa++) {
            const nw_gemm_u8s8_kernel *kernel = nw_gemm_u8s8_select((nw_isa)isa);
            if (kernel->isa != (nw_isa)isa || !check_wants(nw_gemm_u8s8_select(check_opt.ceiling) == kernel))
                continue;
            if (check_opt.bench) {
                one_u8s8(kernel, &list[i], NW_OUT_U8, 0);
                continue;
            }
            for (int out = NW_OUT_S32; out <= NW_OUT_F32; out++)
                for (int variant = 0; variant < 4; variant++)
                    one_u8s8(kernel, &list[i], (nw_epilogue_out)out, variant);
        }
}
