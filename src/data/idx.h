/* idx.h: MNIST's idx files, plain or gzipped, read forward in constant memory.
 * Must not include anything but base/ and num/. */
#ifndef NW_DATA_IDX_H
#define NW_DATA_IDX_H

#include "base/arena.h"
#include "num/tensor.h"

/* The file: two zero bytes, type (8 u8, 9 s8, 11 s16, 12 s32, 13 f32, 14 f64), rank, rank big-endian 32-bit
 * dims, big-endian elements. */
typedef struct nw_idx {
    nw_tensor shape; /* format and dims; data NULL */
    /* private */
    nw_context *ctx;
    void *file;
    char *path;
    uint64_t left; /* bytes not read yet */
} nw_idx;

/* Fails with NW_E_FORMAT when it is no idx file, or is too short for its header. */
nw_status nw_idx_open(nw_context *ctx, const char *path, nw_idx *out);
void nw_idx_close(nw_idx *idx); /* NULL and an all-zero nw_idx are fine */
/* The next `count` elements, in the machine's byte order. Fails at the end or where the file is cut. */
nw_status nw_idx_next(nw_idx *idx, size_t count, void *out);
nw_status nw_idx_skip(nw_idx *idx, size_t count); /* elements */
nw_status nw_idx_rewind(nw_idx *idx);             /* to the first element */

/* The whole file as a tensor in the arena. */
nw_status nw_idx_read(nw_arena *arena, const char *path, nw_tensor *out);

#endif
