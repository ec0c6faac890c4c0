/* rows.c: turns nw_rows into pointers for kernels. Must not include anything but kern/. */
#include "kern/rows.h"

#include <stdint.h>

/* The corner (tap 0) of an output pixel in input coordinates; negative inside the padding. */
typedef struct nw_corner {
    const char *image;
    ptrdiff_t y, x;
} nw_corner;

static nw_corner corner_of(const nw_window *w, const void *base, size_t m) {
    size_t image = m / (w->out_h * w->out_w), pixel = m % (w->out_h * w->out_w);
    size_t oy = pixel / w->out_w, ox = pixel % w->out_w;
    return (nw_corner){(const char *)base + image * w->image_stride,
                       (ptrdiff_t)(oy * w->stride_h) - (ptrdiff_t)w->pad_top,
                       (ptrdiff_t)(ox * w->stride_w) - (ptrdiff_t)w->pad_left};
}

/* Output columns [first, end) whose input column ox·stride + offset − pad_left lies inside the image. */
typedef struct nw_inside {
    size_t first, end;
} nw_inside;
static nw_inside inside_of(const nw_window *w, size_t offset) {
    nw_inside in = {0, 0};
    if (offset < w->pad_left) in.first = (w->pad_left - offset + w->stride_w - 1) / w->stride_w;
    if (w->in_w + w->pad_left > offset) in.end = (w->in_w + w->pad_left - offset - 1) / w->stride_w + 1;
    if (in.end < in.first) in.end = in.first;
    return in;
}

static size_t within(size_t x, size_t lo, size_t hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

/* Columns [x0,x1) of one output line for one tap: padding, pixels at equal distances, padding. `line` is
 * the input line of the tap (NULL: outside the image), already moved by the tap's column. */
static void gather_line(const nw_window *w, nw_inside in, const char *line, const void *pad, size_t x0,
                        size_t x1, const void **out) {
    const size_t step = w->stride_w * w->pixel_stride;
    const size_t a = line ? within(in.first, x0, x1) : x1, b = line ? within(in.end, x0, x1) : x1;
    size_t x = x0;
    for (; x < a; x++) *out++ = pad;
    for (uintptr_t pixel = (uintptr_t)line + x * step; x < b; x++, pixel += step)
        *out++ = (const void *)pixel;
    for (; x < x1; x++) *out++ = pad;
}

/* For each column of the window, for each piece of an output line among the rows, for each line of the
 * window. */
static void gather_window(const nw_rows *rows, size_t m0, size_t count, const void **out, size_t out_stride) {
    const nw_window *w = rows->window;
    const size_t image0 = m0 / (w->out_h * w->out_w), pixel0 = m0 % (w->out_h * w->out_w);
    const size_t oy0 = pixel0 / w->out_w, ox0 = pixel0 % w->out_w;
    for (size_t kx = 0; kx < w->kernel_w; kx++) {
        const size_t offset = kx * w->dilation_w;
        const nw_inside in = inside_of(w, offset);
        /* As integers: a tap left of the image would be a pointer before it, which C does not have. */
        const uintptr_t shift = (uintptr_t)(offset - w->pad_left) * w->pixel_stride;
        uintptr_t image = (uintptr_t)rows->base + image0 * w->image_stride + shift;
        size_t oy = oy0, ox = ox0;
        for (size_t i = 0; i < count; ox = 0) {
            const size_t n = w->out_w - ox < count - i ? w->out_w - ox : count - i;
            for (size_t ky = 0; ky < w->kernel_h; ky++) {
                const size_t y =
                    oy * w->stride_h + ky * w->dilation_h - w->pad_top; /* huge when above the image */
                const char *line = y < w->in_h ? (const char *)(image + y * w->line_stride) : NULL;
                gather_line(w, in, line, rows->pad, ox, ox + n,
                            out + (ky * w->kernel_w + kx) * out_stride + i);
            }
            i += n;
            if (++oy == w->out_h) oy = 0, image += w->image_stride;
        }
    }
}

void nw_rows_gather(const nw_rows *rows, size_t taps, size_t m0, size_t count, const void **out,
                    size_t out_stride) {
    if (rows->window) {
        gather_window(rows, m0, count, out, out_stride);
    } else if (rows->table) {
        for (size_t t = 0; t < taps; t++)
            for (size_t i = 0; i < count; i++)
                out[t * out_stride + i] = rows->table[t * rows->table_stride + m0 + i];
    } else {
        for (size_t i = 0; i < count; i++) out[i] = (const char *)rows->base + (m0 + i) * rows->stride;
    }
}

size_t nw_window_inside(const nw_window *w, const void *base, size_t m, const void **out) {
    nw_corner c = corner_of(w, base, m);
    size_t count = 0;
    for (size_t ky = 0; ky < w->kernel_h; ky++) {
        size_t y = (size_t)c.y + ky * w->dilation_h;
        if (y >= w->in_h) continue;
        for (size_t kx = 0; kx < w->kernel_w; kx++) {
            size_t x = (size_t)c.x + kx * w->dilation_w;
            if (x < w->in_w) out[count++] = c.image + y * w->line_stride + x * w->pixel_stride;
        }
    }
    return count;
}

size_t nw_window_size(size_t in, size_t kernel, size_t stride, size_t dilation, size_t pad_begin,
                      size_t pad_end) {
    size_t reach = (kernel - 1) * dilation + 1, padded = in + pad_begin + pad_end;
    return padded < reach ? 0 : (padded - reach) / stride + 1;
}
