/* scatter.c: operators that write elements into a copy of a tensor: Scatter, ScatterElements, ScatterND,
 * TensorScatter. */
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>

/* What an update does to the element it meets. */
typedef enum reduction { SET, ADD, MUL, MAX, MIN } reduction;

static nw_status read_reduction(const nw_op_call *call, const nw_tensor *data, reduction *r) {
    static const char *const names[] = {"none", "add", "mul", "max", "min"};
    const char *text = nw_node_string(call->node, "reduction", "none");
    for (int i = 0; i < 5; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *r = (reduction)i;
        nw_kind kind = nw_format_kind(nw_real_format(data));
        if (*r != SET && (kind == NW_KIND_STRING || kind == NW_KIND_COMPLEX))
            return nw_call_fail(call, NW_E_TYPE, "cannot reduce %s elements", nw_format_name(data->format));
        return NW_OK;
    }
    return nw_call_fail(call, NW_E_ARGUMENT, "reduction must be none, add, mul, max or min, it is %s", text);
}

static double reduce_f64(reduction r, double a, double b) {
    switch (r) {
    case ADD: return a + b;
    case MUL: return a * b;
    case MAX: return a > b || a != a ? a : b;
    case MIN: return a < b || a != a ? a : b;
    default: return b;
    }
}

/* Sums and products wrap, as in the type itself; u64 compares unsigned. */
static int64_t reduce_s64(reduction r, int64_t a, int64_t b, bool is_unsigned) {
    bool greater = is_unsigned ? (uint64_t)a > (uint64_t)b : a > b;
    switch (r) {
    case ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case MAX: return greater ? a : b;
    case MIN: return greater ? b : a;
    default: return b;
    }
}

/* out[to … to+count) = reduce(out, updates[from … from+count)). */
static void update(reduction r, nw_format format, void *out, size_t to, const void *updates, size_t from,
                   size_t count) {
    if (nw_format_is_float(format)) {
        for (size_t i = 0; i < count; i++)
            nw_store_f64(
                format, out, to + i,
                reduce_f64(r, nw_load_f64(format, out, to + i), nw_load_f64(format, updates, from + i)));
        return;
    }
    bool is_unsigned = nw_format_kind(format) == NW_KIND_UINT;
    for (size_t i = 0; i < count; i++)
        nw_store_s64(format, out, to + i,
                     reduce_s64(r, nw_load_s64(format, out, to + i), nw_load_s64(format, updates, from + i),
                                is_unsigned));
}

/* Copies the data to the output, then applies `count` updates of `run` elements each at positions at[]. */
static nw_status apply(nw_op_call *call, const size_t *at, size_t count, size_t run) {
    nw_tensor *out = &call->out[0];
    const nw_tensor *updates = call->in[2];
    reduction r = SET;
    size_t size;
    NW_TRY(read_reduction(call, call->in[0], &r));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    nw_copy_bytes(out->data, call->in[0]->data, nw_tensor_bytes(out));
    for (size_t i = 0; i < count && run > 0; i++) {
        if (r != SET)
            update(r, out->format, out->data, at[i], updates->data, i * run, run);
        else if (run == 1)
            nw_copy_element(size, out->data, at[i], updates->data, i);
        else
            memcpy((char *)out->data + at[i] * size, (const char *)updates->data + i * run * size,
                   run * size);
    }
    return NW_OK;
}

static nw_status require_three(nw_op_call *call, const nw_tensor **x, const nw_tensor **indices,
                               const nw_tensor **updates) {
    reduction r;
    NW_TRY(nw_call_require(call, 0, x));
    NW_TRY(nw_call_require(call, 1, indices));
    NW_TRY(nw_call_require(call, 2, updates));
    NW_TRY(nw_call_expect_index(call, *indices));
    if (nw_real_format(*updates) != nw_real_format(*x))
        return nw_call_fail(call, NW_E_TYPE, "data holds %s, updates hold %s",
                            nw_format_name(nw_real_format(*x)), nw_format_name(nw_real_format(*updates)));
    return read_reduction(call, *x, &r);
}

/* ---- ScatterElements; Scatter is its first name -------------------------------------------------------- */

static nw_status scatter_elements_infer(nw_op_call *call) {
    const nw_tensor *x, *indices, *updates;
    int axis;
    NW_TRY(require_three(call, &x, &indices, &updates));
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    bool fits = x->rank == indices->rank && nw_tensor_same_shape(indices, updates);
    for (int d = 0; d < x->rank && fits; d++) fits = d == axis || indices->dims[d] <= x->dims[d];
    if (!fits) {
        char a[96], b[96], c[96];
        return nw_call_fail(call, NW_E_SHAPE, "data %s, indices %s and updates %s do not fit together",
                            nw_tensor_describe(x, a, sizeof a), nw_tensor_describe(indices, b, sizeof b),
                            nw_tensor_describe(updates, c, sizeof c));
    }
    return nw_call_set_moved(call, 0, x, x->rank, x->dims);
}

static nw_status scatter_elements_eval(nw_op_call *call) {
    int axis;
    size_t *at;
    NW_TRY(nw_call_axis_attr(call, 0, call->in[0]->rank, &axis));
    NW_TRY(nw_call_element_positions(call, call->in[0], call->in[1], axis, &at));
    return apply(call, at, nw_tensor_count(call->in[1]), 1);
}

const nw_op nw_op_Scatter = {
    .name = "Scatter", .domain = "", .infer = scatter_elements_infer, .eval = scatter_elements_eval};
const nw_op nw_op_ScatterElements = {
    .name = "ScatterElements", .domain = "", .infer = scatter_elements_infer, .eval = scatter_elements_eval};

/* ---- ScatterND ----------------------------------------------------------------------------------------- */

static nw_status scatter_nd_infer(nw_op_call *call) {
    const nw_tensor *x, *indices, *updates;
    NW_TRY(require_three(call, &x, &indices, &updates));
    int64_t width = indices->rank < 1 ? -1 : indices->dims[indices->rank - 1];
    bool fits = width >= 0 && width <= x->rank;
    int lead = indices->rank - 1;
    fits = fits && updates->rank == lead + x->rank - (int)width;
    for (int d = 0; d < lead && fits; d++) fits = updates->dims[d] == indices->dims[d];
    for (int d = (int)width; d < x->rank && fits; d++)
        fits = updates->dims[lead + d - (int)width] == x->dims[d];
    if (!fits) {
        char a[96], b[96], c[96];
        return nw_call_fail(call, NW_E_SHAPE, "data %s, indices %s and updates %s do not fit together",
                            nw_tensor_describe(x, a, sizeof a), nw_tensor_describe(indices, b, sizeof b),
                            nw_tensor_describe(updates, c, sizeof c));
    }
    return nw_call_set_moved(call, 0, x, x->rank, x->dims);
}

static nw_status scatter_nd_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *indices = call->in[1];
    size_t *at, count;
    NW_TRY(nw_call_slice_positions(call, x, indices, 0, &at, &count));
    return apply(call, at, count, nw_dims_product(x->dims, (int)indices->dims[indices->rank - 1], x->rank));
}

const nw_op nw_op_ScatterND = {
    .name = "ScatterND", .domain = "", .infer = scatter_nd_infer, .eval = scatter_nd_eval};

/* ---- TensorScatter: update [B, …, s, …] is written into past [B, …, max, …] from write_indices[b] on  */

static nw_status tensor_scatter_infer(nw_op_call *call) {
    const nw_tensor *past, *fresh, *at = nw_call_in(call, 2);
    int axis;
    NW_TRY(nw_call_require(call, 0, &past));
    NW_TRY(nw_call_require(call, 1, &fresh));
    NW_TRY(nw_call_axis_attr(call, -2, past->rank, &axis));
    if (axis == 0)
        return nw_call_fail(call, NW_E_SHAPE, "axis 0 is the batch; the sequence must be another one");
    bool fits = past->rank == fresh->rank && nw_real_format(past) == nw_real_format(fresh);
    for (int d = 0; d < past->rank && fits; d++)
        fits = d == axis ? fresh->dims[d] <= past->dims[d] : fresh->dims[d] == past->dims[d];
    if (!fits) {
        char a[96], b[96];
        return nw_call_fail(call, NW_E_SHAPE, "update %s does not fit into the cache %s",
                            nw_tensor_describe(fresh, a, sizeof a), nw_tensor_describe(past, b, sizeof b));
    }
    if (at) {
        NW_TRY(nw_call_expect_index(call, at));
        if (at->rank != 1 || at->dims[0] != past->dims[0])
            return nw_call_fail(call, NW_E_SHAPE,
                                "write_indices must hold one index for each of %" PRId64 " samples",
                                past->dims[0]);
    }
    const char *mode = nw_node_string(call->node, "mode", "linear");
    if (strcmp(mode, "linear") != 0 && strcmp(mode, "circular") != 0)
        return nw_call_fail(call, NW_E_ARGUMENT, "mode must be linear or circular, it is %s", mode);
    return nw_call_set_moved(call, 0, past, past->rank, past->dims);
}

static nw_status tensor_scatter_eval(nw_op_call *call) {
    const nw_tensor *past = call->in[0], *fresh = call->in[1], *at = nw_call_in(call, 2);
    bool circular = nw_node_string_is(call->node, "mode", "linear", "circular");
    nw_tensor *out = &call->out[0];
    int axis;
    size_t size;
    NW_TRY(nw_call_axis_attr(call, -2, past->rank, &axis));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    nw_copy_bytes(out->data, past->data, nw_tensor_bytes(out));
    nw_axis_span span = nw_axis_span_of(past, axis);
    size_t per_sample = nw_dims_product(past->dims, 1, axis), run = span.inner * size;
    int64_t steps = fresh->dims[axis], limit = past->dims[axis];
    if (nw_tensor_count(fresh) == 0) return NW_OK;
    for (size_t o = 0; o < span.outer; o++) {
        int64_t start = at ? nw_tensor_s64(at, o / per_sample) : 0;
        if (start < 0 || (!circular && start > limit - steps))
            return nw_call_fail(call, NW_E_ARGUMENT,
                                "%" PRId64 " steps written from %" PRId64 " on leave the cache of %" PRId64,
                                steps, start, limit);
        for (int64_t s = 0; s < steps; s++) {
            size_t to = (size_t)((start % limit + s) % limit);
            memcpy((char *)out->data + (o * span.length + to) * run,
                   (const char *)fresh->data + (o * (size_t)steps + (size_t)s) * run, run);
        }
    }
    return NW_OK;
}

const nw_op nw_op_TensorScatter = {.name = "TensorScatter",
                                   .domain = "",
                                   .flags = NW_OP_RAW,
                                   .infer = tensor_scatter_infer,
                                   .eval = tensor_scatter_eval};
