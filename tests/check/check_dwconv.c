/* check_dwconv.c: depthwise convolutions against a naive loop. Must not include anything but kern/. */
#include "check.h"
#include "check_epilogue.h"
#include "check_image.h"
#include "kern/dwconv.h"

#include <math.h>
#include <string.h>

static const check_geometry tests[] = {
    {1, 5, 7, 3, 3, 3, 1, 1, 1},     {2, 8, 8, 64, 3, 3, 2, 1, 1},   {1, 6, 9, 18, 2, 4, 1, 1, 0},
    {1, 9, 9, 32, 3, 3, 1, 2, 2},    {1, 7, 7, 16, 5, 5, 1, 1, 2},   {2, 1, 20, 40, 1, 5, 1, 3, 6},
    {1, 14, 14, 96, 3, 3, 1, 1, 1},  {1, 7, 7, 144, 3, 3, 2, 1, 1},  {1, 6, 5, 31, 1, 1, 1, 1, 0},
    {1, 5, 5, 63, 3, 3, 1, 1, 1},    {1, 4, 4, 200, 3, 3, 1, 1, 1},  {3, 3, 3, 7, 3, 3, 1, 1, 1},
    {1, 20, 20, 5, 16, 16, 1, 1, 8}, {1, 18, 12, 24, 7, 9, 1, 1, 4}, {1, 3, 33, 1, 3, 3, 1, 1, 1},
    {1, 13, 13, 20, 9, 9, 2, 1, 4},  {2, 5, 150, 70, 3, 3, 1, 1, 1}, {1, 4, 200, 33, 3, 3, 2, 1, 1},
    {1, 9, 71, 48, 5, 5, 1, 1, 2},   {1, 11, 130, 9, 5, 5, 2, 1, 2}, {1, 12, 40, 17, 7, 7, 1, 1, 3},
    {1, 2, 2, 65, 5, 5, 1, 1, 2},    {1, 3, 2, 80, 3, 3, 1, 1, 4},   {2, 8, 1, 100, 3, 3, 2, 1, 1},
    {1, 6, 6, 58, 5, 5, 1, 1, 0},    {1, 9, 8, 12, 7, 7, 1, 1, 0},   {1, 9, 9, 116, 3, 3, 2, 1, 0},
    {1, 5, 5, 1100, 3, 3, 1, 1, 1},  {1, 2, 37, 24, 3, 3, 1, 1, 2},  {1, 10, 11, 8, 7, 7, 2, 1, 3},
};
static const check_geometry benches[] = {
    {1, 112, 112, 32, 3, 3, 1, 1, 1}, {1, 112, 112, 96, 3, 3, 2, 1, 1}, {1, 56, 56, 144, 3, 3, 1, 1, 1},
    {1, 28, 28, 192, 3, 3, 1, 1, 1},  {1, 14, 14, 384, 3, 3, 1, 1, 1},  {1, 7, 7, 960, 3, 3, 1, 1, 1},
    {1, 14, 14, 240, 5, 5, 1, 1, 2},  {1, 56, 56, 144, 3, 3, 2, 1, 1},  {1, 14, 14, 576, 3, 3, 2, 1, 1},
    {1, 28, 28, 240, 5, 5, 1, 1, 2},  {1, 56, 56, 144, 5, 5, 2, 1, 2},  {1, 14, 14, 672, 5, 5, 2, 1, 2},
    {1, 28, 28, 58, 3, 3, 1, 1, 1},   {1, 14, 14, 192, 7, 7, 1, 1, 3},  {1, 56, 56, 16, 3, 3, 2, 1, 1},
};

typedef struct call {
    const nw_dwconv_kernel *kernel;
    nw_dwconv_f32_args f32;
    nw_dwconv_u8s8_args u8s8;
} call;
static void call_f32(void *p) {
    call *c = p;
    nw_dwconv_f32_run(c->kernel, &c->f32, 0, c->f32.m);
}
static void call_u8s8(void *p) {
    call *c = p;
    nw_dwconv_u8s8_run(c->kernel, &c->u8s8, 0, c->u8s8.m);
}

static bool begin(const nw_dwconv_kernel *kernel, const char *family, const check_geometry *g,
                  const char *rest) {
    char name[64];
    strcpy(name, family);
    strcat(name, nw_isa_name(kernel->isa));
    return check_begin(kernel->isa, name, "%zux%zux%zux%zu, %zux%zu/%zu dil %zu pad %zu%s", g->batch, g->h,
                       g->w, g->k, g->kernel_h, g->kernel_w, g->stride, g->dilation, g->pad, rest);
}

static void one_f32(const nw_dwconv_kernel *kernel, const check_geometry *g) {
    if (!begin(kernel, "dwconv_f32__", g, "")) return;
    check_image image;
    check_image_window(&image, g, check_opt.bench ? 0 : check_below(3), 4, 0,
                       !check_opt.bench && check_below(3) == 0);
    check_fill_f32((float *)(void *)image.data, check_image_bytes(&image) / 4, -1, 1);
    memset((char *)image.pad, 0, image.k * 4);
    size_t channels = image.k, taps = image.taps, ld = channels + (check_opt.bench ? 0 : check_below(4));
    bool tap_first = check_below(2);
    size_t stride_c = tap_first ? 1 : taps, stride_tap = tap_first ? channels : 1;
    float *w = check_alloc(channels * taps * 4), *bias = check_alloc(channels * 4);
    check_fill_f32(w, channels * taps, -1, 1);
    check_fill_f32(bias, channels, -1, 1);
    size_t count = (image.m - 1) * ld + channels;
    float *c = check_alloc(count * 4), *before = check_alloc(count * 4);
    memcpy(before, c, count * 4);
    void *packed = check_alloc(nw_dwconv_f32_packed_bytes(channels, taps));
    size_t *tap_at = check_alloc(taps * sizeof *tap_at);
    for (size_t t = 0; t < taps; t++) tap_at[t] = t * stride_tap;
    nw_dwconv_f32_pack(channels, taps, w, stride_c, tap_at, packed);
    bool clamp = check_below(2);
    call this = {.kernel = kernel};
    this.f32 = (nw_dwconv_f32_args){.m = image.m,
                                    .channels = channels,
                                    .taps = taps,
                                    .rows = image.rows,
                                    .packed = packed,
                                    .c = c,
                                    .ldc = ld * 4,
                                    .bias = check_below(2) ? bias : NULL,
                                    .lo = clamp ? 0 : -INFINITY,
                                    .hi = clamp ? 1.5f : INFINITY};
    if (check_opt.bench) {
        check_report(check_seconds(call_f32, &this), 2.0 * (double)(image.m * channels * taps), "GFLOP/s");
        check_end();
        return;
    }
    size_t cut = check_below(image.m + 1);
    nw_dwconv_f32_run(kernel, &this.f32, 0, cut);
    nw_dwconv_f32_run(kernel, &this.f32, cut, image.m);
    for (size_t m = 0; m < image.m; m++) {
        for (size_t j = 0; j < channels; j++) {
            double sum = this.f32.bias ? (double)bias[j] : 0, magnitude = fabs(sum);
            for (size_t t = 0; t < taps; t++) {
                double p = (double)((const float *)check_image_row(&image, m, t))[j] *
                           (double)w[j * stride_c + t * stride_tap];
                sum += p, magnitude += fabs(p);
            }
            double want = fmin(fmax(sum, (double)this.f32.lo), (double)this.f32.hi),
                   got = (double)c[m * ld + j];
            if (!check_close(got, want, (4 + sqrt((double)taps)) * 0x1p-24 * magnitude))
                check_fail("pixel %zu channel %zu is %.9g, not %.9g", m, j, got, want);
        }
        if (m + 1 < image.m && memcmp(c + m * ld + channels, before + m * ld + channels, (ld - channels) * 4))
            check_fail("wrote between rows");
    }
    check_end();
}

static void one_u8s8(const nw_dwconv_kernel *kernel, const check_geometry *g, nw_epilogue_out out,
                     int variant) {
    static const char *const outs[] = {" to s32", " to u8", " to f32"};
    static const char *const variants[] = {" #0", " #1", " #2", " #3"};
    char text[32];
    strcpy(text, outs[out]);
    strcat(text, variants[variant]);
    if (!begin(kernel, "dwconv_u8s8__", g, text)) return;
    check_image image;
    check_image_window(&image, g, check_opt.bench ? 0 : check_below(3), 1, 0,
                       !check_opt.bench && check_below(3) == 0);
    check_fill_bytes(image.data, check_image_bytes(&image), variant, 0, 255);
    size_t channels = image.k, taps = image.taps, size = nw_epilogue_size(out);
    bool tap_first = check_below(2);
    size_t stride_c = tap_first ? 1 : taps, stride_tap = tap_first ? channels : 1;
    int8_t *w = check_alloc(channels * taps);
    check_fill_bytes(w, channels * taps, variant == 3 ? 2 : variant == 2 ? 1 : variant, -128, 127);
    int32_t *wzero = NULL;
    if (!check_opt.bench && check_below(2)) {
        wzero = check_alloc(channels * 4);
        const bool fits = check_below(2); /* differences of 8 bits */
        for (size_t j = 0; j < channels; j++)
            wzero[j] = fits ? (int32_t)check_below(128) - 64 : (int32_t)check_below(384) - 128;
        for (size_t j = 0; fits && j < channels * taps; j++) w[j] /= 2;
    }
    if (!g->pad) image.rows.pad = NULL;
    void *packed = check_alloc(nw_dwconv_u8s8_packed_bytes(kernel, channels, taps, image.rows.window));
    nw_dwconv_u8s8_pack(kernel, channels, taps, w, stride_c, stride_tap, wzero, image.rows.window, packed);
    call this = {.kernel = kernel};
    nw_dwconv_u8s8_args *a = &this.u8s8;
    *a = (nw_dwconv_u8s8_args){.m = image.m,
                               .channels = channels,
                               .taps = taps,
                               .rows = image.rows,
                               .packed = packed,
                               .ldc = (channels + (check_opt.bench ? 0 : check_below(4))) * size};
    check_epilogue_make(&a->epilogue, out, image.m, channels, taps, false);
    if (!check_opt.bench && check_below(16) == 0) a->epilogue.zero = -50000;
    size_t bytes = (image.m - 1) * a->ldc + channels * size;
    char *before = check_alloc(bytes);
    a->c = check_alloc(bytes);
    memcpy(before, a->c, bytes);
    if (check_opt.bench) {
        check_report(check_seconds(call_u8s8, &this), 2.0 * (double)(image.m * channels * taps), "GOP/s");
        check_end();
        return;
    }
    int32_t *col_sums = check_alloc(channels * 4);
    nw_dwconv_u8s8_col_sums(channels, taps, w, stride_c, stride_tap, wzero, col_sums);
    size_t cut = check_below(image.m + 1);
    nw_dwconv_u8s8_run(kernel, a, 0, cut);
    nw_dwconv_u8s8_run(kernel, a, cut, image.m);
    for (size_t m = 0; m < image.m; m++) {
        const char *line = (const char *)a->c + m * a->ldc;
        for (size_t j = 0; j < channels; j++) {
            int64_t sum = 0, weights = 0;
            for (size_t t = 0; t < taps; t++) {
                int x = w[j * stride_c + t * stride_tap] - (wzero ? wzero[j] : 0);
                sum += ((const uint8_t *)check_image_row(&image, m, t))[j] * x;
                weights += x;
            }
            if (weights != col_sums[j]) check_fail("col_sums[%zu]", j);
            check_epilogue_element(&a->epilogue, m, j, sum, 0, line + j * size);
        }
        if (m + 1 < image.m &&
            memcmp(line + channels * size, before + m * a->ldc + channels * size, a->ldc - channels * size))
            check_fail("wrote between rows");
    }
    check_end();
}

void check_dwconv(void) {
    const check_geometry *list = check_opt.bench ? benches : tests;
    size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    for (size_t i = 0; i < count; i++)
        for (int isa = 0; isa < NW_ISA_COUNT; isa++) {
            const nw_dwconv_kernel *kernel = nw_dwconv_select((nw_isa)isa);
            if (kernel->isa != (nw_isa)isa) continue;
            one_f32(kernel, &list[i]);
            for (int out = NW_OUT_S32; out <= NW_OUT_F32; out++)
                for (int variant = 0; variant < 4; variant++)
                    if (!check_opt.bench || (out == NW_OUT_U8 && variant == 0))
                        one_u8s8(kernel, &list[i], (nw_epilogue_out)out, variant);
        }
}
