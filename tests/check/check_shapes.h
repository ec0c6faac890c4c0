/* check_shapes.h: shapes of matrix products and convolutions read from a file, to time kernels on those of a
 * network (--shapes). A line is a shape as the benchmark prints it; # begins a comment:
 *   M x N x K
 *   conv BxHxWxC -> N, KHxKW/STRIDE dil DILATION pad PAD
 *   BxHxWxC, KHxKW/STRIDE dil DILATION pad PAD          (depthwise)
 * Must not include anything but kern/. */
#ifndef NW_TESTS_CHECK_SHAPES_H
#define NW_TESTS_CHECK_SHAPES_H

#include "check_image.h"

#include <stdbool.h>
#include <stddef.h>

/* conv.h == 0: a plain m × n × k product; else a convolution to n channels. */
typedef struct check_shape {
    size_t m, n, k;
    check_geometry conv;
} check_shape;

/* Prints what is wrong with the file and returns false. */
bool check_shapes_load(const char *path);
/* What was loaded, in the order of the file; static storage. */
const check_shape *check_shapes_products(size_t *count);
const check_geometry *check_shapes_depthwise(size_t *count);

#endif
