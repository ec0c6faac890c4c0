/* outer.c: outer products summed over rows: blocks of rows become the weights, and those of Y, transposed, the
 * left-hand side of a product. Must not include anything but kern/. */
#include "kern/outer.h"

#include "kern/gemm_blocks.h"

#include <math.h>
#include <string.h>

#define POINTERS 4096         /* 32 KiB of stack */
#define BYTES    (256 * 1024) /* of a block, packed: what stays in the second-level cache */
#define MOST     256          /* rows of a block */
#define LEAST    48

nw_outer_kernel nw_outer_select(nw_isa ceiling) {
    nw_layout layout;
    nw_channels channels;
    nw_layout_select(ceiling, &layout);
    nw_channels_select(ceiling, &channels);
    return (nw_outer_kernel){nw_gemm_f32_select(ceiling), layout.transpose_b32, channels.channel_copy_f32};
}

/* Rows of a block: all of it stays in cache while it is multiplied. */
static size_t block_of(const nw_outer_args *args) {
    size_t rows = BYTES / sizeof(float) / (args->m + args->columns);
    rows = rows < LEAST ? LEAST : nw_least(rows, MOST) / LEAST * LEAST;
    return nw_least(rows, POINTERS / args->taps);
}

static size_t aligned(size_t bytes) {
    return (bytes + NW_GEMM_ALIGN - 1) / NW_GEMM_ALIGN * NW_GEMM_ALIGN;
}

size_t nw_outer_scratch(const nw_outer_kernel *kernel, const nw_outer_args *args) {
    size_t rows = block_of(args), y,
           packed = nw_gemm_f32_packed_bytes(kernel->product, args->columns, rows, 1);
    if (packed == 0 || __builtin_mul_overflow(rows * sizeof(float), args->m, &y) ||
        y > SIZE_MAX / 2 - NW_GEMM_ALIGN || packed > SIZE_MAX / 2)
        return 0;
    return aligned(y) + packed;
}

/* Panels of the columns [n0,n1): a panel takes the end of one tap and the beginning of the next. */
static void pack_rows(const nw_outer_kernel *kernel, const nw_outer_args *args, size_t rows,
                      const void *const *at, size_t n0, size_t n1, float *out) {
    for (size_t width; n0 < n1; n0 += kernel->product->nr, out += rows * width) {
        const size_t columns = nw_least(kernel->product->nr, n1 - n0);
        width = nw_panel_width(columns, kernel->product->nr, kernel->product->half);
        if (columns < width) memset(out, 0, rows * width * sizeof *out);
        for (size_t j = 0, run; j < columns; j += run) {
            const size_t tap = (n0 + j) / args->channels, from = (n0 + j) % args->channels;
            run = nw_least(args->channels - from, columns - j);
            kernel->copy(rows, run, at + tap * rows, from, out + j, width);
        }
    }
}

void nw_outer_run(const nw_outer_kernel *kernel, const nw_outer_args *args, bool accumulate, size_t i0,
                  size_t i1, size_t n0, size_t n1, void *scratch) {
    const void *at[POINTERS];
    const size_t block = block_of(args);
    float *y = scratch, *packed = (float *)((char *)scratch + aligned(block * args->m * sizeof *y));
    nw_gemm_f32_args product = {.m = args->m,
                                .n = n1 - n0,
                                .taps = 1,
                                .rows = {.base = y},
                                .packed = packed,
                                .c = args->c + n0,
                                .ldc = args->ldc,
                                .accumulate = accumulate,
                                .lo = -INFINITY,
                                .hi = INFINITY};
    if (i0 == i1 && !accumulate)
        for (size_t m = 0; m < args->m; m++)
            memset((char *)product.c + m * args->ldc, 0, product.n * sizeof *product.c);
    for (size_t i = i0; i < i1; i += product.k) {
        product.k = nw_least(block, i1 - i);
        product.rows.stride = product.k * sizeof *y;
        kernel->transpose(product.k, args->m, (const char *)args->y + i * args->ldy, args->ldy / sizeof *y, y,
                          product.k);
        nw_rows_gather(&args->rows, args->taps, i, product.k, at, product.k);
        pack_rows(kernel, args, product.k, at, n0, n1, packed);
        nw_gemm_f32_run(kernel->product, &product, 0, product.m, 0, product.n);
        product.accumulate = true;
    }
}
