/* gemm_blocks.h: how products are cut into blocks of rows, for gemm.c and gemm_bits.c.
 * Must not include anything but kern/. */
#ifndef NW_KERN_GEMM_BLOCKS_H
#define NW_KERN_GEMM_BLOCKS_H

#include "base/context.h"
#include "kern/rows.h"

/* Columns are cut into panels of nr; the last one is as wide as it must be, in steps of `half`. */
static inline size_t nw_round_up(size_t x, size_t step) {
    return (x + step - 1) / step * step;
}
static inline size_t nw_panel_width(size_t columns, size_t nr, size_t half) {
    return columns >= nr ? nr : nw_round_up(columns, half);
}

#define NW_BLOCK_POINTERS 4096 /* 32 KiB of stack */
#define NW_BLOCK_ROWS     1024
#define NW_BLOCK_BYTES    (192 * 1024) /* of A that a pass over all panels rereads from the second-level cache */

/* Rows are taken in blocks whose part of A stays in cache while every panel of W passes over it once; a
 * panel stays in cache while the tiles of a block use it:
 *     for each block of rows: for each panel of columns: for each tile of the block
 * tile_rows is mr unless so many taps have more pointers than the buffer holds. */
typedef struct nw_blocking {
    size_t tile_rows, block_rows;
} nw_blocking;

static inline nw_blocking nw_block_of(size_t mr, size_t k_bytes, size_t taps, const nw_rows *rows) {
    nw_blocking b;
    b.tile_rows = mr * taps <= NW_BLOCK_POINTERS ? mr
                  : taps <= NW_BLOCK_POINTERS    ? NW_BLOCK_POINTERS / taps
                                                 : 1;
    /* Windows overlap: a row brings about two taps' worth of new bytes into the cache. */
    size_t row_bytes = k_bytes * (rows->window && taps > 1 ? 2 : taps) + 1;
    size_t limit = NW_BLOCK_BYTES / row_bytes;
    if (limit > NW_BLOCK_ROWS) limit = NW_BLOCK_ROWS;
    if (limit > NW_BLOCK_POINTERS / taps) limit = NW_BLOCK_POINTERS / taps;
    b.block_rows = limit < b.tile_rows ? b.tile_rows : limit / b.tile_rows * b.tile_rows;
    return b;
}

/* Pointers of rows [m0, m0+count): the caller's own table if there is one. */
static inline const void *const *nw_block_rows(const nw_rows *rows, size_t taps, size_t m0, size_t count,
                                               const void **buffer, size_t *row_stride) {
    if (!rows->window && rows->table) {
        *row_stride = rows->table_stride;
        return rows->table + m0;
    }
    *row_stride = count;
    nw_rows_gather(rows, taps, m0, count, buffer, count);
    return buffer;
}

#endif
