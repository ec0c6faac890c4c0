/* pool.c: the reference functions, the choice of an ISA's, and the loops over pixels.
 * Must not include anything but kern/. */
#define NW_KERNEL(name) nw_##name##__scalar
#include "kern/pool_body.h"

void nw_pool_select(nw_isa ceiling, nw_pool *out) {
#define NW_POOL(isa, word)                                                                                   \
    if (NW_ISA_##isa <= ceiling && nw_isa_supported(NW_ISA_##isa))                                           \
        *out = (nw_pool){nw_max_pool_u8__##word,  nw_max_pool_f32__##word, nw_max_line_u8__##word,           \
                         nw_max_line_f32__##word, nw_avg_pool_u8__##word,  nw_avg_pool_f32__##word};
#include "kern/pool.def"
#undef NW_POOL
}

/* ---- maxima -------------------------------------------------------------------------------------------- */

/* The maximum of a window is that of its columns' maxima: down the lines first, over as many pixels as the buffer
 * holds, then along. */
#define LINE_BYTES 16384

typedef struct max_job {
    const nw_pool *pool;
    const nw_window *w;
    bool wide; /* f32 */
    size_t channels, ldy;
    int empty; /* byte that fills a pixel without taps */
} max_job;

static void max_of_taps(const max_job *j, const nw_pool_taps *taps, size_t n, void *y) {
    if (j->wide)
        j->pool->max_pool_f32(taps, n, y);
    else
        j->pool->max_pool_u8(taps, n, y);
}

/* Taps of a window along one axis that lie inside [0, in): the first one, and how many. */
static size_t taps_inside(size_t at, size_t pad, size_t kernel, size_t dilation, size_t in, size_t *first) {
    size_t count = 0;
    *first = 0;
    for (size_t k = 0; k < kernel; k++) {
        size_t i = at + k * dilation;
        if (i < pad || i - pad >= in) continue;
        if (!count++) *first = i - pad;
    }
    return count;
}

/* Output pixels [x0, x1) of one line from the maxima of its input lines: pixels [from, …) of them at `columns`. */
static void max_along(const max_job *j, const char *columns, size_t from, size_t x0, size_t x1, char *y) {
    const nw_window *w = j->w;
    const size_t size = j->wide ? sizeof(float) : 1, pixel = j->channels * size;
    for (size_t x = x0; x < x1;) {
        size_t first,
            count = taps_inside(x * w->stride_w, w->pad_left, w->kernel_w, w->dilation_w, w->in_w, &first);
        const void *at = columns + (first - from) * pixel;
        char *out = y + (x - x0) * j->ldy;
        if (count < w->kernel_w) { /* at an edge */
            const nw_pool_taps taps = {.taps = count, .base = at, .stride = w->dilation_w * pixel};
            if (count)
                max_of_taps(j, &taps, j->channels, out);
            else
                memset(out, j->empty, pixel);
            x++;
            continue;
        }
        size_t reach = (w->kernel_w - 1) * w->dilation_w,
               whole = (w->in_w - 1 - reach - first) / w->stride_w + 1;
        if (whole > x1 - x) whole = x1 - x;
        const nw_pool_line line = {whole, w->stride_w * j->channels, w->kernel_w,
                                   w->dilation_w * j->channels};
        if (j->wide)
            j->pool->max_line_f32(&line, j->channels, at, (float *)(void *)out, j->ldy / size);
        else
            j->pool->max_line_u8(&line, j->channels, at, (uint8_t *)out, j->ldy);
        x += whole;
    }
}

/* Pixels [x0, x1) of output line `line` (of all images). */
static void max_of_line(const max_job *j, const char *image, size_t line, size_t x0, size_t x1, char *y) {
    const nw_window *w = j->w;
    const size_t pixel = w->pixel_stride, reach = (w->kernel_w - 1) * w->dilation_w + 1;
    const void *lines[NW_POOL_MAX_TAPS];
    _Alignas(64) char columns[LINE_BYTES];
    size_t top, count = taps_inside(line % w->out_h * w->stride_h, w->pad_top, w->kernel_h, w->dilation_h,
                                    w->in_h, &top);
    size_t batch = LINE_BYTES / pixel > reach ? (LINE_BYTES / pixel - reach) / w->stride_w + 1 : 1;
    image += line / w->out_h * w->image_stride + top * w->line_stride;
    for (size_t x = x0; x < x1; x += batch) {
        size_t end = x1 - x < batch ? x1 : x + batch, from = x * w->stride_w,
               to = (end - 1) * w->stride_w + reach;
        from = from > w->pad_left ? from - w->pad_left : 0;
        to = to > w->pad_left ? to - w->pad_left : 0;
        if (to > w->in_w) to = w->in_w;
        char *out = y + (x - x0) * j->ldy;
        if (!count || from >= to) {
            for (size_t i = x; i < end; i++) memset(out + (i - x) * j->ldy, j->empty, pixel);
            continue;
        }
        for (size_t k = 0; k < count; k++)
            lines[k] = image + k * w->dilation_h * w->line_stride + from * pixel;
        const nw_pool_taps taps = {.taps = count, .rows = lines};
        if (count > 1) max_of_taps(j, &taps, (to - from) * j->channels, columns);
        max_along(j, count > 1 ? columns : lines[0], from, x, end, out);
    }
}

/* Pixels [m0, m1), line by line; pixel by pixel where lines have gaps or a window does not fit the buffer. */
static void max_run(const max_job *j, const void *x, char *y, size_t m0, size_t m1) {
    const nw_window *w = j->w;
    const size_t pixel = j->channels * (j->wide ? sizeof(float) : 1);
    const void *rows[NW_POOL_MAX_TAPS];
    if (w->pixel_stride == pixel && ((w->kernel_w - 1) * w->dilation_w + 1) * pixel <= LINE_BYTES) {
        for (size_t m = m0, end; m < m1; m = end) {
            size_t line = m / w->out_w;
            end = (line + 1) * w->out_w < m1 ? (line + 1) * w->out_w : m1;
            max_of_line(j, x, line, m - line * w->out_w, end - line * w->out_w, y + m * j->ldy);
        }
        return;
    }
    for (size_t m = m0; m < m1; m++) {
        const nw_pool_taps taps = {.taps = nw_window_inside(w, x, m, rows), .rows = rows};
        if (taps.taps)
            max_of_taps(j, &taps, j->channels, y + m * j->ldy);
        else
            memset(y + m * j->ldy, j->empty, pixel);
    }
}

void nw_max_pool_u8_run(const nw_pool *pool, const nw_window *window, const uint8_t *x, size_t channels,
                        uint8_t empty, uint8_t *y, size_t ldy, size_t m0, size_t m1) {
    const max_job j = {pool, window, false, channels, ldy, empty};
    max_run(&j, x, (char *)y, m0, m1);
}

void nw_max_pool_f32_run(const nw_pool *pool, const nw_window *window, const float *x, size_t channels,
                         float *y, size_t ldy, size_t m0, size_t m1) {
    const max_job j = {pool, window, true, channels, ldy, 0};
    max_run(&j, x, (char *)y, m0, m1);
}

/* ---- averages ------------------------------------------------------------------------------------------ */

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
