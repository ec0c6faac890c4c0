/* index.c: see index.h. */
#include "op/index.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

nw_axis_span nw_axis_span_of(const nw_tensor *t, int axis) {
    return (nw_axis_span){nw_dims_product(t->dims, 0, axis), (size_t)t->dims[axis],
                          nw_dims_product(t->dims, axis + 1, t->rank)};
}

nw_status nw_call_list(const nw_op_call *call, const char *name, int input, const int64_t **values,
                       size_t *count) {
    *values = NULL;
    *count = 0;
    if (input >= 0 && nw_call_in(call, input)) return nw_call_ints(call, input, values, count);
    nw_node_ints(call->node, name, values, count);
    return NW_OK;
}

nw_status nw_call_axes(const nw_op_call *call, int input, int rank, nw_axes *axes) {
    const int64_t *values;
    size_t count;
    NW_TRY(nw_call_list(call, "axes", input, &values, &count));
    *axes = (nw_axes){.given = values != NULL};
    for (size_t i = 0; i < count; i++) {
        int axis;
        NW_TRY(nw_call_axis(call, values[i], rank, false, &axis));
        for (int k = 0; k < axes->count; k++)
            if (axes->at[k] == axis) return nw_call_fail(call, NW_E_SHAPE, "axis %d is listed twice", axis);
        axes->at[axes->count++] = axis;
    }
    return NW_OK;
}

nw_status nw_call_axis_attr(const nw_op_call *call, int64_t absent, int rank, int *axis) {
    return nw_call_axis(call, nw_node_int(call->node, "axis", absent), rank, false, axis);
}

nw_status nw_call_axis_or_flat(const nw_op_call *call, const nw_tensor *t, int *axis, nw_axis_span *span) {
    *axis = -1;
    *span = (nw_axis_span){1, nw_tensor_count(t), 1};
    if (!nw_node_attr(call->node, "axis")) return NW_OK;
    NW_TRY(nw_call_axis_attr(call, 0, t->rank, axis));
    *span = nw_axis_span_of(t, *axis);
    return NW_OK;
}

nw_status nw_call_expect_one(const nw_op_call *call, const nw_tensor *t, const char *what) {
    if (nw_tensor_count(t) == 1) return NW_OK;
    char text[96];
    return nw_call_fail(call, NW_E_SHAPE, "%s must be a single number, it is %s", what,
                        nw_tensor_describe(t, text, sizeof text));
}

nw_status nw_call_expect_index(const nw_op_call *call, const nw_tensor *t) {
    if (nw_format_is_integer(t->format) && !t->qparam) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "expects integers as indices, got %s", nw_format_name(t->format));
}

nw_status nw_call_int(const nw_op_call *call, int i, int64_t absent, int64_t *value) {
    const nw_tensor *t = nw_call_in(call, i);
    *value = absent;
    if (!t) return NW_OK;
    NW_TRY(nw_call_expect_index(call, t));
    NW_TRY(nw_call_expect_one(call, t, "a count or position"));
    NW_TRY(nw_call_value(call, i, &t));
    *value = nw_tensor_s64(t, 0);
    return NW_OK;
}

nw_status nw_call_real(const nw_op_call *call, int i, const nw_tensor **t) {
    NW_TRY(nw_call_value(call, i, t));
    if (!(*t)->qparam || !(*t)->data) return NW_OK;
    nw_tensor *real = nw_arena_alloc(call->scratch, sizeof *real);
    if (!real) return NW_E_MEMORY;
    NW_TRY(nw_tensor_to_f32(call->scratch, *t, real));
    *t = real;
    return NW_OK;
}

/* Position of index i on an axis of `limit` elements. */
static nw_status position(const nw_op_call *call, int64_t i, int64_t limit, size_t *out) {
    int64_t at = i < 0 ? i + limit : i;
    if (at < 0 || at >= limit)
        return nw_call_fail(call, NW_E_ARGUMENT,
                            "index %" PRId64 " is outside of an axis of %" PRId64 " elements", i, limit);
    *out = (size_t)at;
    return NW_OK;
}

nw_status nw_call_indices(const nw_op_call *call, const nw_tensor *t, int64_t limit, size_t **out) {
    NW_TRY(nw_call_expect_index(call, t));
    size_t count = nw_tensor_count(t), *at;
    NW_TRY(nw_call_scratch(call, count, &at));
    for (size_t i = 0; i < count; i++) NW_TRY(position(call, nw_tensor_s64(t, i), limit, &at[i]));
    *out = at;
    return NW_OK;
}

nw_status nw_call_element_positions(const nw_op_call *call, const nw_tensor *data, const nw_tensor *indices,
                                    int axis, size_t **out) {
    size_t *at;
    NW_TRY(nw_call_indices(call, indices, data->dims[axis], &at));
    int64_t strides[NW_MAX_RANK], step = 1, index[NW_MAX_RANK] = {0}, base = 0;
    for (int d = data->rank - 1; d >= 0; d--) {
        strides[d] = step;
        step *= data->dims[d];
    }
    size_t along = (size_t)strides[axis];
    strides[axis] = 0;
    const int64_t *walk = strides;
    size_t count = nw_tensor_count(indices);
    for (size_t i = 0; i < count; i++) {
        at[i] = (size_t)base + at[i] * along;
        nw_next_index(indices->rank, indices->dims, index, 1, &walk, &base);
    }
    *out = at;
    return NW_OK;
}

nw_status nw_call_slice_positions(const nw_op_call *call, const nw_tensor *data, const nw_tensor *indices,
                                  int batch_dims, size_t **out, size_t *count) {
    NW_TRY(nw_call_expect_index(call, indices));
    size_t width = (size_t)indices->dims[indices->rank - 1];
    size_t tuples = nw_dims_product(indices->dims, 0, indices->rank - 1), *at;
    size_t batches = nw_dims_product(data->dims, 0, batch_dims), per_batch = batches ? tuples / batches : 0;
    size_t batch_size = nw_dims_product(data->dims, batch_dims, data->rank);
    NW_TRY(nw_call_scratch(call, tuples, &at));
    for (size_t i = 0; i < tuples; i++) {
        size_t offset = 0, p = 0;
        for (size_t k = 0; k < width; k++) {
            int64_t dim = data->dims[(size_t)batch_dims + k];
            NW_TRY(position(call, nw_tensor_s64(indices, i * width + k), dim, &p));
            offset = offset * (size_t)dim + p;
        }
        at[i] = i / per_batch * batch_size +
                offset * nw_dims_product(data->dims, batch_dims + (int)width, data->rank);
    }
    *out = at;
    *count = tuples;
    return NW_OK;
}

/* Doubles order as their bits do once negatives are flipped. */
static uint64_t key_of_double(double x) {
    if (x != x) return UINT64_MAX;
    uint64_t bits;
    x += 0.0; /* −0 becomes +0 */
    memcpy(&bits, &x, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

void nw_order_keys(nw_format format, const void *data, size_t first, size_t stride, size_t count,
                   uint64_t *keys) {
    if (count == 0) return;
    if (format == NW_F32) {
        const float *x = (const float *)data + first;
        for (size_t i = 0; i < count; i++) keys[i] = key_of_double(x[i * stride]);
    } else if (nw_format_is_float(format)) {
        for (size_t i = 0; i < count; i++)
            keys[i] = key_of_double(nw_load_f64(format, data, first + i * stride));
    } else {
        uint64_t flip = format == NW_U64 ? 0 : (uint64_t)1 << 63;
        for (size_t i = 0; i < count; i++)
            keys[i] = (uint64_t)nw_load_s64(format, data, first + i * stride) ^ flip;
    }
}

static void merge_sort(size_t count, nw_less_fn *less, const void *user, size_t *order, size_t *room) {
    if (count < 2) return;
    size_t half = count / 2, a = 0, b = half, n = 0;
    merge_sort(half, less, user, order, room);
    merge_sort(count - half, less, user, order + half, room);
    memcpy(room, order, half * sizeof *room);
    while (a < half && b < count) order[n++] = less(user, order[b], room[a]) ? order[b++] : room[a++];
    memcpy(order + n, room + a, (half - a) * sizeof *order);
}

void nw_sort_order(size_t count, nw_less_fn *less, const void *user, size_t *order, size_t *room) {
    for (size_t i = 0; i < count; i++) order[i] = i;
    merge_sort(count, less, user, order, room);
}
