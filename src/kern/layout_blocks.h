/* layout_blocks.h: a transpose made of square blocks in registers, a shuffle of pairs, for layout_<isa>.c only. Must not include
 * anything but kern/. */
#ifndef NW_KERN_LAYOUT_BLOCKS_H
#define NW_KERN_LAYOUT_BLOCKS_H

#include "kern/layout.h"

/* block(src, ld_src, dst, ld_dst) transposes step × step elements; interleave(src, ld_src, cols, dst, rows) two to four
 * rows into a dst without gaps and returns how many columns it did; `edge` does what is left at the borders.
 * Tall blocks: a few columns at a time over all rows would touch a line of dst once per block of rows;
 * going down the rows first fills dst's lines while they are in cache. */
#define TRANSPOSE(name, type, block, step, interleave, edge)                                                 \
    void name(size_t rows, size_t cols, const void *src, size_t ld_src, void *dst, size_t ld_dst) {          \
        const type *from = src;                                                                              \
        type *to = dst;                                                                                      \
        if (rows >= 2 && rows <= 4 && ld_dst == rows) {                                                      \
            size_t done = rows == 2   ? interleave(from, ld_src, cols, to, 2)                                \
                          : rows == 3 ? interleave(from, ld_src, cols, to, 3)                                \
                                      : interleave(from, ld_src, cols, to, 4);                               \
            from += done, to += done * ld_dst, cols -= done;                                                 \
        }                                                                                                    \
        const size_t whole_rows = rows / step * step, whole_cols = cols / step * step;                       \
        for (size_t c = 0; c < whole_cols; c += step)                                                        \
            for (size_t r = 0; r < whole_rows; r += step)                                                    \
                block(from + r * ld_src + c, ld_src, to + c * ld_dst + r, ld_dst);                           \
        if (whole_rows < rows)                                                                               \
            edge(rows - whole_rows, whole_cols, from + whole_rows * ld_src, ld_src, to + whole_rows,         \
                 ld_dst);                                                                                    \
        if (whole_cols < cols)                                                                               \
            edge(rows, cols - whole_cols, from + whole_cols, ld_src, to + whole_cols * ld_dst, ld_dst);      \
    }

/* pair(a, b, dst) interleaves `step` elements of two groups. A pixel's last ones may reach into the next pixel, which is
 * read and written later: the last pixels, which have too little behind them, and other numbers of groups are transposed. */
#define SHUFFLE(name, type, pair, step, transpose)                                                           \
    void name(size_t pixels, size_t groups, size_t n, const void *src, void *dst) {                          \
        const size_t beyond = (n + step - 1) / step * step - n, pixel = groups * n;                          \
        const type *from = src;                                                                              \
        type *to = dst;                                                                                      \
        for (; n && pixels; pixels--, from += pixel, to += pixel) {                                          \
            if (groups != 2 || (pixels - 1) * n < beyond)                                                    \
                transpose(groups, n, from, n, to, groups);                                                   \
            else                                                                                             \
                for (size_t i = 0; i < n; i += step) pair(from + i, from + n + i, to + 2 * i);               \
        }                                                                                                    \
    }

#endif
