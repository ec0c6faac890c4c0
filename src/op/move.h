/* move.h: moving elements by their size, without looking at them: the one engine behind Transpose, Slice,
 * Concat, Expand, Pad and their relatives. Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_MOVE_H
#define NW_OP_MOVE_H

#include "op/op.h"

#include <string.h>

#define NW_MOVE_RANK (2 * NW_MAX_RANK)

/* A block of elements: element (i0, i1, …) goes from src + Σ i·from to dst + Σ i·to. Strides are in elements;
 * a `from` stride may be 0 (repeat) or negative. Axes are listed outermost first, best in the destination's
 * order. */
typedef struct nw_move {
    int rank;
    int64_t dims[NW_MOVE_RANK], from[NW_MOVE_RANK], to[NW_MOVE_RANK];
} nw_move;

void nw_move_add(nw_move *move, int64_t dim, int64_t from, int64_t to); /* one more axis, inside the others */
/* Copies the block; `size` is bytes per element; src and dst must not overlap. Axes are merged where they can
 * be, runs go by memcpy, transpositions in tiles. */
void nw_move_run(const nw_move *move, size_t size, const void *src, void *dst);

/* Row-major strides in elements. */
void nw_dims_strides(int rank, const int64_t *dims, int64_t *strides);
/* count copies of the element at `value`. */
void nw_fill_elements(size_t size, size_t count, const void *value, void *dst);
static inline void nw_copy_bytes(void *dst, const void *src, size_t size) {
    if (size) memcpy(dst, src, size);
}
/* Element `from` of src becomes element `to` of dst. */
static inline void nw_copy_element(size_t size, void *dst, size_t to, const void *src, size_t from) {
    switch (size) {
    case 1: memcpy((char *)dst + to, (const char *)src + from, 1); break;
    case 2: memcpy((char *)dst + 2 * to, (const char *)src + 2 * from, 2); break;
    case 4: memcpy((char *)dst + 4 * to, (const char *)src + 4 * from, 4); break;
    case 8: memcpy((char *)dst + 8 * to, (const char *)src + 8 * from, 8); break;
    default: memcpy((char *)dst + size * to, (const char *)src + size * from, size);
    }
}

/* Bytes of one element; formats with several elements to a byte are refused. */
nw_status nw_call_element_size(const nw_op_call *call, nw_format format, size_t *size);
/* out[i] gets t's elements in this shape; its format must have whole bytes. */
nw_status nw_call_set_moved(nw_op_call *call, int i, const nw_tensor *t, int rank, const int64_t *dims);

/* Roles of an operator whose output elements are elements of input 0. */
void nw_roles_moved(const nw_node *node, nw_roles *roles);

#endif
