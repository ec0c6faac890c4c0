/* slice.c: operators that cut and join: Slice, Split, Concat, Expand, Tile. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"
#include "op/real.h"

#include <inttypes.h>

/* ---- Slice --------------------------------------------------------------------------------------------- */

/* Of each axis: `length` elements from `start` in steps of `step` (0 when there is at most one). */
typedef struct slice {
    int64_t start[NW_MAX_RANK], length[NW_MAX_RANK], step[NW_MAX_RANK];
} slice;

static int64_t clamp(int64_t x, int64_t lo, int64_t hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

/* ONNX Slice: negative bounds count from the end, then both are clamped so that every index named is inside.
 */
static nw_status slice_axis(const nw_op_call *call, slice *s, int axis, int64_t dim, int64_t start,
                            int64_t end, int64_t step) {
    if (step == 0) return nw_call_fail(call, NW_E_ARGUMENT, "the step on axis %d is 0", axis);
    if (start < 0) start += dim;
    if (end < 0) end += dim;
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    start = step > 0 ? clamp(start, 0, dim) : clamp(start, 0, dim - 1);
    end = step > 0 ? clamp(end, 0, dim) : clamp(end, -1, dim - 1);
    int64_t span = dim == 0 ? 0 : step > 0 ? end - start : start - end;
    int64_t length = span <= 0 ? 0 : 1 + (int64_t)((uint64_t)(span - 1) / stride);
    s->start[axis] = length > 0 ? start : 0;
    s->length[axis] = length;
    s->step[axis] = length > 1 ? step : 0;
    return NW_OK;
}

static nw_status read_slice(const nw_op_call *call, const nw_tensor *x, slice *s) {
    const int64_t *starts, *ends, *steps;
    size_t start_count, end_count, step_count;
    nw_axes axes;
    NW_TRY(nw_call_list(call, "starts", 1, &starts, &start_count));
    NW_TRY(nw_call_list(call, "ends", 2, &ends, &end_count));
    NW_TRY(nw_call_ints(call, 4, &steps, &step_count));
    NW_TRY(nw_call_axes(call, 3, x->rank, &axes));
    if (!starts || !ends) return nw_call_fail(call, NW_E_FORMAT, "starts or ends are missing");
    if (!axes.given)
        for (; axes.count < x->rank && (size_t)axes.count < start_count; axes.count++)
            axes.at[axes.count] = axes.count;
    if (start_count != (size_t)axes.count || end_count != start_count || (steps && step_count != start_count))
        return nw_call_fail(call, NW_E_SHAPE,
                            "starts, ends, axes and steps must have one entry for each sliced axis");
    for (int d = 0; d < x->rank; d++) NW_TRY(slice_axis(call, s, d, x->dims[d], 0, x->dims[d], 1));
    for (int i = 0; i < axes.count; i++)
        NW_TRY(
            slice_axis(call, s, axes.at[i], x->dims[axes.at[i]], starts[i], ends[i], steps ? steps[i] : 1));
    return NW_OK;
}

static nw_status slice_infer(nw_op_call *call) {
    const nw_tensor *x;
    slice s;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(read_slice(call, x, &s));
    return nw_call_set_moved(call, 0, x, x->rank, s.length);
}

static nw_status slice_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    slice s;
    size_t size;
    int64_t from[NW_MAX_RANK], to[NW_MAX_RANK], offset = 0;
    NW_TRY(read_slice(call, x, &s));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    if (nw_tensor_count(out) == 0) return NW_OK;
    nw_dims_strides(x->rank, x->dims, from);
    nw_dims_strides(out->rank, out->dims, to);
    nw_move move = {.rank = 0};
    for (int d = 0; d < x->rank; d++) {
        nw_move_add(&move, s.length[d], from[d] * s.step[d], to[d]);
        offset += s.start[d] * from[d];
    }
    nw_move_run(&move, size, (const char *)x->data + (size_t)offset * size, out->data);
    return NW_OK;
}

/* SliceGrad: input: dy; attributes: shape, starts and steps of every axis; output: dx of that shape, dy where
 * it was cut from and zeros elsewhere. */

static nw_status slice_grad_read(const nw_op_call *call, nw_tensor *x, slice *s) {
    const nw_tensor *dy;
    NW_TRY(nw_call_require(call, 0, &dy));
    *x = (nw_tensor){.format = nw_real_format(dy), .rank = dy->rank};
    NW_TRY(nw_call_ints_attr(call, "shape", dy->rank, 0, 0, INT32_MAX, x->dims));
    NW_TRY(nw_call_ints_attr(call, "starts", dy->rank, 0, 0, INT32_MAX, s->start));
    NW_TRY(nw_call_ints_attr(call, "steps", dy->rank, 1, INT32_MIN, INT32_MAX, s->step));
    for (int d = 0; d < dy->rank; d++) {
        int64_t n = dy->dims[d] < INT32_MAX ? dy->dims[d] : INT32_MAX; /* more cannot fit */
        int64_t last = s->start[d] + (n - 1) * s->step[d];
        if (n > 0 && (s->start[d] >= x->dims[d] || last < 0 || last >= x->dims[d]))
            return nw_call_fail(call, NW_E_SHAPE, "the slice reaches beyond axis %d", d);
    }
    return NW_OK;
}

static nw_status slice_grad_infer(nw_op_call *call) {
    nw_tensor x;
    slice s;
    NW_TRY(slice_grad_read(call, &x, &s));
    return nw_call_set_moved(call, 0, &x, x.rank, x.dims);
}

static nw_status slice_grad_eval(nw_op_call *call) {
    const nw_tensor *dy = call->in[0];
    nw_tensor *out = &call->out[0], x;
    slice s;
    size_t size;
    int64_t from[NW_MAX_RANK], to[NW_MAX_RANK], offset = 0;
    NW_TRY(slice_grad_read(call, &x, &s));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    memset(out->data, 0, nw_tensor_bytes(out));
    if (nw_tensor_count(dy) == 0) return NW_OK;
    nw_dims_strides(dy->rank, dy->dims, from);
    nw_dims_strides(out->rank, out->dims, to);
    nw_move move = {.rank = 0};
    for (int d = 0; d < dy->rank; d++) {
        nw_move_add(&move, dy->dims[d], from[d], to[d] * s.step[d]);
        offset += s.start[d] * to[d];
    }
    nw_move_run(&move, size, dy->data, (char *)out->data + (size_t)offset * size);
    return NW_OK;
}

const nw_op nw_op_narrow_SliceGrad = {.name = "SliceGrad",
                                      .domain = "ai.narrow",
                                      .flags = NW_OP_RAW,
                                      .infer = slice_grad_infer,
                                      .eval = slice_grad_eval};

static nw_status slice_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    slice s;
    if (!call) return c->status;
    const nw_tensor *x = call->in[0];
    NW_TRY(read_slice(call, x, &s));
    nw_grad_begin(c, "ai.narrow", "SliceGrad", 1, c->dy);
    nw_grad_set_ints(c, "shape", (size_t)x->rank, x->dims);
    nw_grad_set_ints(c, "starts", (size_t)x->rank, s.start);
    nw_grad_set_ints(c, "steps", (size_t)x->rank, s.step);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_Slice = {.name = "Slice",
                           .domain = "",
                           .flags = NW_OP_RAW,
                           .infer = slice_infer,
                           .eval = slice_eval,
                           .roles = nw_roles_moved,
                           .grad = slice_grad};

/* ---- Split --------------------------------------------------------------------------------------------- */

/* sizes[i] of output i on the split axis: listed (attribute `split` before opset 13, then input 1), or equal
 * parts, of which the last may be shorter when num_outputs says so (opset 18). */
static nw_status split_sizes(const nw_op_call *call, int64_t dim, int64_t *sizes) {
    const int64_t *listed;
    size_t count;
    int64_t parts = call->out_count, left = dim;
    NW_TRY(nw_call_list(call, "split", 1, &listed, &count));
    if (listed) {
        if (count != (size_t)parts)
            return nw_call_fail(call, NW_E_SHAPE, "split lists %zu parts for %" PRId64 " outputs", count,
                                parts);
        for (int64_t i = 0; i < parts; i++) {
            sizes[i] = listed[i];
            if (listed[i] < 0 || listed[i] > left) left = -1;
            if (left < 0) break;
            left -= listed[i];
        }
        if (left != 0)
            return nw_call_fail(call, NW_E_SHAPE, "the parts do not add up to the axis' %" PRId64 " elements",
                                dim);
        return NW_OK;
    }
    bool uneven = nw_node_attr(call->node, "num_outputs") != NULL;
    if (uneven && nw_node_int(call->node, "num_outputs", 0) != parts)
        return nw_call_fail(call, NW_E_FORMAT,
                            "num_outputs differs from the %" PRId64 " outputs that are there", parts);
    int64_t part = dim / parts + (dim % parts != 0);
    if (dim % parts != 0 && (!uneven || part * (parts - 1) > dim))
        return nw_call_fail(call, NW_E_SHAPE,
                            "%" PRId64 " elements do not split into %" PRId64 " equal parts", dim, parts);
    for (int64_t i = 0; i < parts; i++) sizes[i] = i < parts - 1 ? part : dim - part * (parts - 1);
    return NW_OK;
}

static nw_status split_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis;
    int64_t *sizes;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    if (call->out_count < 1) return nw_call_fail(call, NW_E_FORMAT, "it has no outputs");
    NW_TRY(nw_call_scratch(call, (size_t)call->out_count, &sizes));
    NW_TRY(split_sizes(call, x->dims[axis], sizes));
    nw_tensor part = *x;
    for (int i = 0; i < call->out_count; i++) {
        part.dims[axis] = sizes[i];
        NW_TRY(nw_call_set_moved(call, i, x, part.rank, part.dims));
    }
    return NW_OK;
}

static nw_status split_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    int axis;
    size_t size, at = 0;
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    NW_TRY(nw_call_element_size(call, call->out[0].format, &size));
    if (nw_tensor_count(x) == 0) return NW_OK;
    nw_axis_span span = nw_axis_span_of(x, axis);
    size_t line = span.length * span.inner * size;
    for (int i = 0; i < call->out_count; i++) {
        size_t run = (size_t)call->out[i].dims[axis] * span.inner * size;
        for (size_t o = 0; o < span.outer && run > 0 && call->out[i].data; o++)
            memcpy((char *)call->out[i].data + o * run, (const char *)x->data + o * line + at, run);
        at += run;
    }
    return NW_OK;
}

/* The parts joined again; one without a gradient counts as zeros. */
static nw_status split_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    int axis, count = c->node->out_count, *parts = nw_arena_array(c->scratch, (size_t)count, sizeof *parts);
    int64_t *sizes = nw_arena_array(c->scratch, (size_t)count, sizeof *sizes);
    if (!call || !parts || !sizes) return c->status == NW_OK ? NW_E_MEMORY : c->status;
    nw_tensor part = *call->in[0];
    NW_TRY(nw_call_axis_attr(call, 0, part.rank, &axis));
    NW_TRY(split_sizes(call, part.dims[axis], sizes));
    for (int i = 0; i < count; i++) {
        part.dims[axis] = sizes[i];
        int zero = c->dy[i] >= 0 ? NW_ABSENT : nw_grad_number(c, nw_grad_in(c, 0), 0);
        parts[i] = zero < 0 ? c->dy[i] : nw_grad_expand(c, zero, part.rank, part.dims);
    }
    nw_grad_begin(c, "", "Concat", count, parts);
    nw_grad_set_int(c, "axis", axis);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_Split = {.name = "Split",
                           .domain = "",
                           .flags = NW_OP_RAW,
                           .infer = split_infer,
                           .eval = split_eval,
                           .roles = nw_roles_moved,
                           .grad = split_grad};

/* ---- Concat -------------------------------------------------------------------------------------------- */

static nw_status concat_infer(nw_op_call *call) {
    const nw_tensor *first, *x;
    int axis;
    NW_TRY(nw_call_require(call, 0, &first));
    if (!nw_node_attr(call->node, "axis"))
        return nw_call_fail(call, NW_E_FORMAT, "attribute axis is missing");
    NW_TRY(nw_call_axis_attr(call, 0, first->rank, &axis));
    nw_tensor joined = *first;
    for (int i = 1; i < call->in_count; i++) {
        NW_TRY(nw_call_require(call, i, &x));
        bool fits = x->rank == first->rank;
        for (int d = 0; d < first->rank && fits; d++) fits = d == axis || x->dims[d] == first->dims[d];
        if (!fits) {
            char a[96], b[96];
            return nw_call_fail(call, NW_E_SHAPE, "cannot join %s and %s along axis %d",
                                nw_tensor_describe(first, a, sizeof a), nw_tensor_describe(x, b, sizeof b),
                                axis);
        }
        if (nw_real_format(x) != nw_real_format(first))
            return nw_call_fail(call, NW_E_TYPE, "cannot join %s and %s elements",
                                nw_format_name(nw_real_format(first)), nw_format_name(nw_real_format(x)));
        if (__builtin_add_overflow(joined.dims[axis], x->dims[axis], &joined.dims[axis]))
            return nw_call_fail(call, NW_E_SHAPE, "the joined axis is too long");
    }
    return nw_call_set_moved(call, 0, first, joined.rank, joined.dims);
}

static nw_status concat_eval(nw_op_call *call) {
    nw_tensor *out = &call->out[0];
    int axis;
    size_t size, at = 0;
    NW_TRY(nw_call_axis_attr(call, 0, out->rank, &axis));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    if (nw_tensor_count(out) == 0) return NW_OK;
    nw_axis_span span = nw_axis_span_of(out, axis);
    size_t line = span.length * span.inner * size;
    for (int i = 0; i < call->in_count; i++) {
        size_t run = (size_t)call->in[i]->dims[axis] * span.inner * size;
        for (size_t o = 0; o < span.outer && run > 0; o++)
            memcpy((char *)out->data + o * line + at, (const char *)call->in[i]->data + o * run, run);
        at += run;
    }
    return NW_OK;
}

static void concat_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    for (int i = 0; i < NW_MAX_ROLES; i++) roles->in[i] = NW_ROLE_DATA;
    roles->compute = true; /* inputs on different grids are requantized to one */
}

/* dy split again into the inputs' parts. */
static nw_status concat_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    int axis, count = c->node->in_count;
    int64_t *sizes = nw_arena_array(c->scratch, (size_t)count, sizeof *sizes);
    if (!call || !sizes) return c->status == NW_OK ? NW_E_MEMORY : c->status;
    NW_TRY(nw_call_axis_attr(call, 0, call->in[0]->rank, &axis));
    for (int i = 0; i < count; i++) sizes[i] = call->in[i]->dims[axis];
    nw_grad_begin(c, "", "Split", 2, (int[]){c->dy[0], nw_grad_ints(c, count, sizes)});
    nw_grad_set_int(c, "axis", axis);
    nw_grad_end_many(c, count, c->wanted, c->dx);
    return c->status;
}

const nw_op nw_op_Concat = {.name = "Concat",
                            .domain = "",
                            .flags = NW_OP_RAW,
                            .infer = concat_infer,
                            .eval = concat_eval,
                            .roles = concat_roles,
                            .grad = concat_grad};

/* ---- Expand -------------------------------------------------------------------------------------------- */

static nw_status expand_infer(nw_op_call *call) {
    const nw_tensor *x, *shape;
    const int64_t *dims;
    size_t rank;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &shape));
    NW_TRY(nw_call_ints(call, 1, &dims, &rank));
    if (rank > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "a shape of %zu dimensions; at most %d are supported",
                            rank, NW_MAX_RANK);
    for (size_t d = 0; d < rank; d++)
        if (dims[d] < 0)
            return nw_call_fail(call, NW_E_SHAPE, "the new shape holds a negative size (%" PRId64 ")",
                                dims[d]);
    nw_tensor asked = {.format = nw_real_format(x)}, out = {.rank = 0};
    nw_tensor_set_shape(&asked, (int)rank, dims);
    NW_TRY(nw_call_broadcast(call, (const nw_tensor *const[]){x, &asked}, 2, &out));
    return nw_call_set_moved(call, 0, x, out.rank, out.dims);
}

static nw_status expand_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    int64_t from[NW_MAX_RANK], to[NW_MAX_RANK];
    size_t size;
    NW_TRY(nw_call_element_size(call, out->format, &size));
    nw_broadcast_strides(x, out, from);
    nw_dims_strides(out->rank, out->dims, to);
    nw_move move = {.rank = 0};
    for (int d = 0; d < out->rank; d++) nw_move_add(&move, out->dims[d], from[d], to[d]);
    nw_move_run(&move, size, x->data, out->data);
    return NW_OK;
}

static nw_status expand_grad(nw_grad_call *c) {
    c->dx[0] = nw_grad_sum_to(c, c->dy[0], nw_grad_in(c, 0));
    return c->status;
}

const nw_op nw_op_Expand = {.name = "Expand",
                            .domain = "",
                            .flags = NW_OP_RAW,
                            .infer = expand_infer,
                            .eval = expand_eval,
                            .roles = nw_roles_moved,
                            .grad = expand_grad};

/* ---- Tile ---------------------------------------------------------------------------------------------- */

static nw_status tile_infer(nw_op_call *call) {
    const nw_tensor *x, *repeats;
    const int64_t *times;
    size_t count;
    int64_t dims[NW_MAX_RANK];
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &repeats));
    NW_TRY(nw_call_ints(call, 1, &times, &count));
    if (count != (size_t)x->rank)
        return nw_call_fail(call, NW_E_SHAPE, "repeats lists %zu axes, the input has %d", count, x->rank);
    for (int d = 0; d < x->rank; d++)
        if (times[d] < 0 || __builtin_mul_overflow(x->dims[d], times[d], &dims[d]))
            return nw_call_fail(call, NW_E_SHAPE, "cannot repeat axis %d %" PRId64 " times", d, times[d]);
    return nw_call_set_moved(call, 0, x, x->rank, dims);
}

static nw_status tile_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    int64_t from[NW_MAX_RANK], to[NW_MAX_RANK];
    size_t size;
    NW_TRY(nw_call_element_size(call, out->format, &size));
    if (nw_tensor_count(out) == 0) return NW_OK;
    nw_dims_strides(x->rank, x->dims, from);
    nw_dims_strides(out->rank, out->dims, to);
    nw_move move = {.rank = 0};
    for (int d = 0; d < x->rank; d++) {
        nw_move_add(&move, out->dims[d] / x->dims[d], 0, x->dims[d] * to[d]);
        nw_move_add(&move, x->dims[d], from[d], to[d]);
    }
    nw_move_run(&move, size, x->data, out->data);
    return NW_OK;
}

/* dy seen as [repeat, dim] where an axis was repeated, summed over the repeats. */
static nw_status tile_grad(nw_grad_call *c) {
    nw_tensor x = nw_grad_tensor(c, nw_grad_in(c, 0)), y = nw_grad_tensor(c, nw_grad_out(c, 0));
    int64_t dims[2 * NW_MAX_RANK];
    bool repeats[2 * NW_MAX_RANK] = {false};
    int rank = 0;
    if (nw_tensor_count(&y) == 0) return NW_OK;
    for (int d = 0; d < x.rank; d++) {
        if (y.dims[d] != x.dims[d]) {
            repeats[rank] = true;
            dims[rank++] = y.dims[d] / x.dims[d];
        }
        dims[rank++] = x.dims[d];
    }
    if (rank > NW_MAX_RANK)
        nw_grad_fail(c, NW_E_UNSUPPORTED, "it repeats too many axes to be trained through");
    if (c->status == NW_OK)
        c->dx[0] = nw_grad_sum_axes(c, nw_grad_reshape(c, c->dy[0], rank, dims), repeats, false);
    return c->status;
}

const nw_op nw_op_Tile = {.name = "Tile",
                          .domain = "",
                          .flags = NW_OP_RAW,
                          .infer = tile_infer,
                          .eval = tile_eval,
                          .roles = nw_roles_moved,
                          .grad = tile_grad};
