/* index.h: axes, indices and order: what the operators that select or rearrange elements have in common.
 * Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_INDEX_H
#define NW_OP_INDEX_H

#include "op/op.h"

/* A shape seen around one axis: [outer, length, inner]. */
typedef struct nw_axis_span {
    size_t outer, length, inner;
} nw_axis_span;
nw_axis_span nw_axis_span_of(const nw_tensor *t, int axis);

/* A list of integers that old opsets keep in attribute `name` and newer ones in input `input` (negative:
 * never). Neither is there: *values NULL, *count 0. The list stays valid during the call. */
nw_status nw_call_list(const nw_op_call *call, const char *name, int input, const int64_t **values,
                       size_t *count);

/* The list `axes` of distinct axes of a tensor of `rank` dimensions, as indices from 0. *given: whether there
 * is a list. */
typedef struct nw_axes {
    bool given;
    int count;
    int at[NW_MAX_RANK];
} nw_axes;
nw_status nw_call_axes(const nw_op_call *call, int input, int rank, nw_axes *axes);

/* The attribute `axis` as an index from 0. */
nw_status nw_call_axis_attr(const nw_op_call *call, int64_t absent, int rank, int *axis);

/* Around the attribute `axis`; without it *axis is −1 and the whole tensor is one axis. */
nw_status nw_call_axis_or_flat(const nw_op_call *call, const nw_tensor *t, int *axis, nw_axis_span *span);

/* The one integer of input i, any rank; `absent` when the input is not there. */
nw_status nw_call_int(const nw_op_call *call, int i, int64_t absent, int64_t *value);
/* Fails unless t has exactly one element. */
nw_status nw_call_expect_one(const nw_op_call *call, const nw_tensor *t, const char *what);
/* Like nw_call_value, with packed constants as f32: for infer functions that look at real values. */
nw_status nw_call_real(const nw_op_call *call, int i, const nw_tensor **t);
/* Fails unless t holds integers. */
nw_status nw_call_expect_index(const nw_op_call *call, const nw_tensor *t);

/* All elements of an index tensor as positions in [0, limit), in scratch; −1 means limit − 1, and so on. */
nw_status nw_call_indices(const nw_op_call *call, const nw_tensor *t, int64_t limit, size_t **out);

/* GatherElements/ScatterElements: for every element of `indices` the position in data that it names. */
nw_status nw_call_element_positions(const nw_op_call *call, const nw_tensor *data, const nw_tensor *indices,
                                    int axis, size_t **out);
/* GatherND/ScatterND: indices [batch…, n, k]: for every k-tuple the position of the slice data[batch…, tuple]
 * in data, in elements. *count tuples. */
nw_status nw_call_slice_positions(const nw_op_call *call, const nw_tensor *data, const nw_tensor *indices,
                                  int batch_dims, size_t **out, size_t *count);

/* Numbers as unsigned keys that sort as the numbers do: −0 equals +0, NaN is above everything. keys[i] is
 * element first + i·stride. Real formats only. */
void nw_order_keys(nw_format format, const void *data, size_t first, size_t stride, size_t count,
                   uint64_t *keys);

/* Sorts the indices 0 … count−1 by `less` (stable merge sort); order and room have space for count. */
typedef bool nw_less_fn(const void *user, size_t a, size_t b);
void nw_sort_order(size_t count, nw_less_fn *less, const void *user, size_t *order, size_t *room);

#endif
