/* check_pool.c: pools against naive loops. Must not include anything but kern/. */
#include "check.h"
#include "check_image.h"
#include "kern/pool.h"

#include <math.h>
#include <string.h>

static const check_geometry tests[] = {
    {1, 5, 7, 3, 3, 3, 1, 1, 1},  {2, 8, 8, 64, 3, 3, 2, 1, 1},     {1, 6, 9, 18, 2, 2, 2, 1, 0},
    {1, 9, 9, 33, 3, 3, 1, 2, 2}, {1, 7, 7, 300, 7, 7, 1, 1, 0},    {2, 1, 20, 40, 1, 5, 1, 3, 6},
    {1, 4, 4, 8, 2, 2, 1, 1, 3},  {1, 20, 20, 17, 20, 20, 1, 1, 0}, {1, 3, 3, 257, 1, 1, 1, 1, 0},
};
static const check_geometry benches[] = {
    {1, 112, 112, 64, 3, 3, 2, 1, 1}, {1, 28, 28, 256, 3, 3, 1, 1, 1}, {1, 7, 7, 1280, 7, 7, 1, 1, 0}};

typedef struct call {
    const nw_pool *pool;
    const check_image *image;
    int kind; /* index into NW_POOL_LIST */
    bool include_pad;
    nw_avg_pool_u8_params p;
    float s_ratio;
    void *y;
    size_t ldy, m0, m1;
} call;

static void run(void *arg) {
    const call *c = arg;
    const nw_window *w = &c->image->window;
    size_t k = c->image->k;
    const void *x = c->image->data;
    if (c->kind == 0) nw_max_pool_u8_run(c->pool, w, x, k, 77, c->y, c->ldy, c->m0, c->m1);
    if (c->kind == 1) nw_max_pool_f32_run(c->pool, w, x, k, c->y, c->ldy, c->m0, c->m1);
    if (c->kind == 2)
        nw_avg_pool_u8_run(c->pool, w, x, k, c->include_pad, c->s_ratio, &c->p, c->y, c->ldy, c->m0, c->m1);
    if (c->kind == 3) nw_avg_pool_f32_run(c->pool, w, x, k, c->include_pad, c->y, c->ldy, c->m0, c->m1);
}

static void verify(const call *c) {
    const check_image *image = c->image;
    const nw_avg_pool_u8_params *p = &c->p;
    bool wide = c->kind & 1;
    for (size_t m = 0; m < image->m; m++)
        for (size_t j = 0; j < image->k; j++) {
            double most = -INFINITY;
            float sum = 0;
            long total = 0, count = 0;
            for (size_t t = 0; t < image->taps; t++) {
                const void *row = check_image_row(image, m, t);
                if (row == image->pad) continue;
                float a = wide ? ((const float *)row)[j] : (float)((const uint8_t *)row)[j];
                most = fmax(most, (double)a);
                sum = count ? sum + a : a;
                total += wide ? 0 : ((const uint8_t *)row)[j];
                count++;
            }
            const void *got = (const char *)c->y + m * c->ldy + j * (wide ? 4 : 1);
            long divisor = c->include_pad ? (long)image->taps : count;
            double want = most;
            if (c->kind == 2) {
                float ratio = c->s_ratio / (float)divisor;
                want = (double)rintf((float)(int)(total - count * p->a_zero) * ratio) + p->zero;
                want = fmin(fmax(want, p->lo), p->hi);
            }
            if (c->kind == 3) want = (double)(sum * (1.0f / (float)divisor));
            if (!count) want = c->kind == 0 ? 77 : c->kind == 2 ? fmin(fmax(p->zero, p->lo), p->hi) : 0;
            double is = wide ? (double)*(const float *)got : *(const uint8_t *)got;
            if (is != want) check_fail("pixel %zu channel %zu is %.9g, not %.9g", m, j, is, want);
        }
}

static void one(nw_isa isa, const char *name, int kind, const check_geometry *g) {
    nw_pool pool;
    if (!check_begin(isa, name, "%zux%zux%zux%zu, %zux%zu/%zu dil %zu pad %zu", g->batch, g->h, g->w, g->k,
                     g->kernel_h, g->kernel_w, g->stride, g->dilation, g->pad))
        return;
    nw_pool_select(isa, &pool);
    size_t size = kind & 1 ? 4 : 1;
    check_image image;
    check_image_window(&image, g, check_opt.bench ? 0 : check_below(3), size, 0, false);
    if (size == 4) check_fill_f32((float *)(void *)image.data, check_image_bytes(&image) / 4, -1, 1);
    call c = {.pool = &pool,
              .image = &image,
              .kind = kind,
              .include_pad = check_below(2),
              .s_ratio = check_uniform(0.3f, 3),
              .ldy = (image.k + (check_opt.bench ? 0 : check_below(3))) * size,
              .p = {.a_zero = (int)check_below(256), .zero = (int)check_below(256), .lo = 0, .hi = 255}};
    if (check_below(2)) c.p.lo = 20, c.p.hi = 220;
    size_t bytes = (image.m - 1) * c.ldy + image.k * size;
    unsigned char *y = c.y = check_alloc(bytes), *before = check_alloc(bytes);
    memcpy(before, y, bytes);
    c.m1 = check_below(image.m + 1), run(&c);
    c.m0 = c.m1, c.m1 = image.m, run(&c);
    c.m0 = 0;
    verify(&c);
    for (size_t m = 0; m + 1 < image.m; m++)
        if (memcmp(y + m * c.ldy + image.k * size, before + m * c.ldy + image.k * size,
                   c.ldy - image.k * size))
            check_fail("wrote between rows");
    if (check_opt.bench)
        check_report(check_seconds(run, &c), (double)(image.m * image.k * image.taps), "G taps/s");
    check_end();
}

/* A global pool: rows at a fixed distance. */
static void global(nw_isa isa, const char *name) {
    nw_pool pool;
    if (!check_begin(isa, name, "global 600 taps of 70 channels")) return;
    nw_pool_select(isa, &pool);
    size_t taps = 600, channels = 70;
    uint8_t *x = check_alloc(taps * channels), *y = check_alloc(channels);
    check_fill_bytes(x, taps * channels, (int)check_below(3), 0, 255);
    nw_avg_pool_u8_params p = {.a_zero = 3, .zero = 10, .lo = 0, .hi = 255, .ratio = 0.9f / (float)taps};
    pool.avg_pool_u8(&(nw_pool_taps){.taps = taps, .base = x, .stride = channels}, channels, &p, y);
    for (size_t j = 0; j < channels; j++) {
        int sum = 0;
        for (size_t t = 0; t < taps; t++) sum += x[t * channels + j] - 3;
        double want = fmin(fmax((double)rintf((float)sum * p.ratio) + 10, 0), 255);
        if (y[j] != want) check_fail("channel %zu is %d, not %g", j, y[j], want);
    }
    check_end();
}

void check_pool(void) {
    const check_geometry *list = check_opt.bench ? benches : tests;
    size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    for (size_t i = 0; i < count; i++) {
#define NW_POOL(isa, word)                                                                                   \
    one(NW_ISA_##isa, "max_pool_u8__" #word, 0, &list[i]);                                                   \
    one(NW_ISA_##isa, "max_pool_f32__" #word, 1, &list[i]);                                                  \
    one(NW_ISA_##isa, "avg_pool_u8__" #word, 2, &list[i]);                                                   \
    one(NW_ISA_##isa, "avg_pool_f32__" #word, 3, &list[i]);
#include "kern/pool.def"
#undef NW_POOL
    }
#define NW_POOL(isa, word) global(NW_ISA_##isa, "avg_pool_u8__" #word);
    if (!check_opt.bench) {
#include "kern/pool.def"
    }
#undef NW_POOL
}
