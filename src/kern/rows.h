/* rows.h: where a kernel finds its activation rows: at a fixed distance, through a table of pointers, or
 * under a window that slides over a channels-last image. It is what lets one kernel serve matrix products,
 * convolutions and pools without copying the input (no im2col). Must not include anything of this project. */
#ifndef NW_KERN_ROWS_H
#define NW_KERN_ROWS_H

#include <stddef.h>

/* A window over images [N,H,W,C]: output row m is pixel (oy,ox) of image b, m = (b·out_h + oy)·out_w + ox,
 * and tap t = ky·kernel_w + kx of it is the input pixel
 *     y = oy·stride_h + ky·dilation_h − pad_top,   x = ox·stride_w + kx·dilation_w − pad_left,
 * or padding when y or x is outside the image. One dimension: in_h = out_h = kernel_h = 1. */
typedef struct nw_window {
    size_t in_h, in_w, out_h, out_w;
    size_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    size_t pad_top, pad_left; /* bottom and right padding follow from the output size */
    size_t pixel_stride; /* bytes from a pixel to its right neighbour (all channels, not only a group's) */
    size_t line_stride;  /* bytes from a pixel to the one below */
    size_t image_stride; /* bytes from an image of the batch to the next */
} nw_window;

/* Three forms, in this order of precedence. A row is the k (or C) elements at one pointer.
 *   window  != NULL: tap t of row m as above; pixel (0,0) of image 0 is at `base`, padding taps at `pad`.
 *   table   != NULL: tap t of row m is at table[t·table_stride + m].
 *   otherwise      : row m is at base + m·stride; one tap only.
 * All strides in bytes, except table_stride (pointers). `base` may point at a group's first channel. */
typedef struct nw_rows {
    const void *base;
    size_t stride;
    const void *const *table;
    size_t table_stride;
    const nw_window *window;
    /* One row's worth of readable elements: the zero point (u8) or 0.0 (f32); window form only. NULL is fine
     * when no tap can be outside. */
    const void *pad;
} nw_rows;

/* out[t·out_stride + i] = tap t of row m0+i, i in [0,count), t in [0,taps). */
void nw_rows_gather(const nw_rows *rows, size_t taps, size_t m0, size_t count, const void **out,
                    size_t out_stride);

/* The taps of row m that lie inside the image, in order of t; `out` has room for kernel_h·kernel_w
 * pointers. Returns how many. For pools, which leave padding out. */
size_t nw_window_inside(const nw_window *window, const void *base, size_t m, const void **out);

/* Output size of one axis: floor((in + pad_begin + pad_end − (kernel−1)·dilation − 1)/stride) + 1, 0 if
 * negative. */
size_t nw_window_size(size_t in, size_t kernel, size_t stride, size_t dilation, size_t pad_begin,
                      size_t pad_end);

#endif
