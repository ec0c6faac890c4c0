/* pool.c: the reference functions, the choice of an ISA's, and the loops over pixels.
 * Must not include anything but kern/. */
#define NW_KERNEL(name) nw_##name##__scalar
#include "kern/pool_body.h"

void nw_pool_select(nw_isa ceiling, nw_pool *out) {
#define NW_POOL(isa, word)                                                                                   \
    if (NW_ISA_##isa <= ceiling && nw_isa_supported(NW_ISA_##isa))                                           \
        *out = (nw_pool){nw_max_pool_u8__##word, nw_max_pool_f32__##word, nw_avg_pool_u8__##word,            \
                         nw_avg_pool_f32__##word};
#include "kern/pool.def"
#undef NW_POOL
}

void nw_max_pool_u8_run(const nw_pool *pool, const nw_window *window, const uint8_t *x, size_t channels,
                        uint8_t empty, uint8_t *y, size_t ldy, size_t m0, size_t m1) {
    const void *rows[NW_POOL_MAX_TAPS];
    for (size_t m = m0; m < m1; m++) {
        const nw_pool_taps taps = {.taps = nw_window_inside(window, x, m, rows), .rows = rows};
        if (taps.taps)
            pool->max_pool_u8(&taps, channels, y + m * ldy);
        else
            memset(y + m * ldy, empty, channels);
    }
}

void nw_max_pool_f32_run(const nw_pool *pool, const nw_window *window, const float *x, size_t channels,
                         float *y, size_t ldy, size_t m0, size_t m1) {
    const void *rows[NW_POOL_MAX_TAPS];
    for (size_t m = m0; m < m1; m++) {
        const nw_pool_taps taps = {.taps = nw_window_inside(window, x, m, rows), .rows = rows};
        float *out = (float *)(void *)((char *)y + m * ldy);
        if (taps.taps)
            pool->max_pool_f32(&taps, channels, out);
        else
            memset(out, 0, channels * sizeof(float));
    }
}

void nw_avg_pool_u8_run(const nw_pool *pool, const nw_window *window, const uint8_t *x, size_t channels,
                        bool include_pad, float s_ratio, const nw_avg_pool_u8_params *p, uint8_t *y,
                        size_t ldy, size_t m0, size_t m1) {
    const void *rows[NW_POOL_MAX_TAPS];
    nw_avg_pool_u8_params pixel = *p;
    for (size_t m = m0; m < m1; m++) {
        const nw_pool_taps taps = {.taps = nw_window_inside(window, x, m, rows), .rows = rows};
        size_t count = include_pad ? window->kernel_h * window->kernel_w : taps.taps;
        pixel.ratio = s_ratio / (float)count;
        if (taps.taps)
            pool->avg_pool_u8(&taps, channels, &pixel, y + m * ldy);
        else
            memset(y + m * ldy, p->zero < p->lo ? p->lo : p->zero > p->hi ? p->hi : p->zero, channels);
    }
}

void nw_avg_pool_f32_run(const nw_pool *pool, const nw_window *window, const float *x, size_t channels,
                         bool include_pad, float *y, size_t ldy, size_t m0, size_t m1) {
    const void *rows[NW_POOL_MAX_TAPS];
    for (size_t m = m0; m < m1; m++) {
        const nw_pool_taps taps = {.taps = nw_window_inside(window, x, m, rows), .rows = rows};
        size_t count = include_pad ? window->kernel_h * window->kernel_w : taps.taps;
        float *out = (float *)(void *)((char *)y + m * ldy);
        if (taps.taps)
            pool->avg_pool_f32(&taps, channels, 1.0f / (float)count, out);
        else
            memset(out, 0, channels * sizeof(float));
    }
}
