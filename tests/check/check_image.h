/* check_image.h: a random set of activation rows in one of the three forms of nw_rows, with its own
 * arithmetic for where tap t of row m is: written without rows.c, so that both must agree. Must not
 * include anything but kern/. */
#ifndef NW_TESTS_CHECK_IMAGE_H
#define NW_TESTS_CHECK_IMAGE_H

#include "kern/rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct check_image {
    size_t element; /* bytes */
    size_t k, taps, m;
    size_t pad_h_end, pad_w_end; /* what the output size was computed with */
    nw_window window;
    nw_rows rows;
    char *data;
    const char *pad;
    const void **table;
} check_image;

typedef struct check_geometry {
    size_t batch, h, w, k, kernel_h, kernel_w, stride, dilation, pad;
} check_geometry;

/* Plain rows: m rows of k elements, `gap` elements between rows; `slack`: bytes a kernel may read past a
 * row. */
void check_image_strided(check_image *image, size_t m, size_t k, size_t gap, size_t element, size_t slack);
/* Channels-last window; as_table: the same rows through a pointer table. gap: other groups' channels. */
void check_image_window(check_image *image, const check_geometry *g, size_t gap, size_t element, size_t slack,
                        bool as_table);
/* The same rows in the form for few channels: the image is a copy with its padding (bottom and right
 * included), a tap is a whole line of the kernel, kernel_w·k elements; rows overlap. Dilation is 1. */
void check_image_lines(check_image *image, const check_geometry *g, size_t element, size_t slack);
size_t check_image_bytes(const check_image *image); /* of data */
/* The row of tap t of output row m; the pad row outside the image. */
const void *check_image_row(const check_image *image, size_t m, size_t t);

#endif
