/* check_image.c: see check_image.h. Must not include anything but kern/. */
#include "check_image.h"

#include "check.h"

void check_image_strided(check_image *image, size_t m, size_t k, size_t gap, size_t element, size_t slack) {
    *image = (check_image){.element = element, .k = k, .taps = 1, .m = m};
    size_t stride = (k + gap) * element;
    image->rows.stride = stride;
    image->data = check_alloc(check_image_bytes(image) + slack);
    image->rows.base = image->data;
}

size_t check_image_bytes(const check_image *image) {
    const nw_window *w = &image->window;
    if (!w->kernel_h) return (image->m - 1) * image->rows.stride + image->k * image->element;
    size_t images = image->m / (w->out_h * w->out_w);
    return (images - 1) * w->image_stride + (w->in_h - 1) * w->line_stride + (w->in_w - 1) * w->pixel_stride +
           image->k * image->element;
}

void check_image_window(check_image *image, const check_geometry *g, size_t gap, size_t element, size_t slack,
                        bool as_table) {
    *image = (check_image){.element = element, .k = g->k, .taps = g->kernel_h * g->kernel_w};
    nw_window *w = &image->window;
    *w = (nw_window){.in_h = g->h,
                     .in_w = g->w,
                     .kernel_h = g->kernel_h,
                     .kernel_w = g->kernel_w,
                     .stride_h = g->stride,
                     .stride_w = g->stride,
                     .dilation_h = g->dilation,
                     .dilation_w = g->dilation,
                     .pad_top = g->kernel_h > 1 ? g->pad : 0,
                     .pad_left = g->kernel_w > 1 ? g->pad : 0};
    w->out_h = nw_window_size(w->in_h, w->kernel_h, w->stride_h, w->dilation_h, w->pad_top, w->pad_top);
    w->out_w = nw_window_size(w->in_w, w->kernel_w, w->stride_w, w->dilation_w, w->pad_left, w->pad_left);
    w->pixel_stride = (g->k + gap) * element;
    w->line_stride = w->pixel_stride * g->w;
    w->image_stride = w->line_stride * g->h;
    image->m = g->batch * w->out_h * w->out_w;
    image->data = check_alloc(check_image_bytes(image) + slack);
    image->pad = check_alloc(g->k * element + slack);
    image->rows = (nw_rows){.base = image->data, .window = w, .pad = image->pad};
    if (!as_table) return;
    image->table = check_alloc(image->m * image->taps * sizeof(void *));
    for (size_t t = 0; t < image->taps; t++)
        for (size_t m = 0; m < image->m; m++) image->table[t * image->m + m] = check_image_row(image, m, t);
    image->rows = (nw_rows){.table = image->table, .table_stride = image->m};
}

void check_image_lines(check_image *image, const check_geometry *g, size_t element, size_t slack) {
    size_t pad_h = g->kernel_h > 1 ? g->pad : 0, pad_w = g->pad, line = g->w + 2 * pad_w;
    *image = (check_image){.element = element, .k = g->k * g->kernel_w, .taps = g->kernel_h};
    nw_window *w = &image->window;
    *w = (nw_window){.in_h = g->h + 2 * pad_h,
                     .in_w = line - g->kernel_w + 1, /* where a kernel line can begin */
                     .kernel_h = g->kernel_h,
                     .kernel_w = 1,
                     .stride_h = g->stride,
                     .stride_w = g->stride,
                     .dilation_h = 1,
                     .dilation_w = 1,
                     .pixel_stride = g->k * element,
                     .line_stride = line * g->k * element,
                     .image_stride = line * g->k * element * (g->h + 2 * pad_h)};
    w->out_h = nw_window_size(w->in_h, w->kernel_h, w->stride_h, 1, 0, 0);
    w->out_w = nw_window_size(w->in_w, 1, w->stride_w, 1, 0, 0);
    image->m = g->batch * w->out_h * w->out_w;
    image->data = check_alloc(check_image_bytes(image) + slack);
    image->rows = (nw_rows){.base = image->data, .window = w};
}

const void *check_image_row(const check_image *image, size_t m, size_t t) {
    const nw_window *w = &image->window;
    if (!w->kernel_h) return image->data + m * image->rows.stride;
    size_t per_image = w->out_h * w->out_w;
    long y =
        (long)(m % per_image / w->out_w * w->stride_h + t / w->kernel_w * w->dilation_h) - (long)w->pad_top;
    long x = (long)(m % w->out_w * w->stride_w + t % w->kernel_w * w->dilation_w) - (long)w->pad_left;
    if (y < 0 || x < 0 || y >= (long)w->in_h || x >= (long)w->in_w) return image->pad;
    return image->data + m / per_image * w->image_stride + (size_t)y * w->line_stride +
           (size_t)x * w->pixel_stride;
}
