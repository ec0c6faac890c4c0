/* gather.c: operators that pick elements by index or condition: Gather, GatherElements, GatherND, Compress,
 * NonZero. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"
#include "op/real.h"

#include <inttypes.h>

/* ---- Gather -------------------------------------------------------------------------------------------- */

static nw_status gather_infer(nw_op_call *call) {
    const nw_tensor *x, *indices;
    int axis, rank = 0;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &indices));
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    NW_TRY(nw_call_expect_index(call, indices));
    if (x->rank - 1 + indices->rank > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "its output would have more than %d dimensions",
                            NW_MAX_RANK);
    int64_t dims[NW_MAX_RANK];
    for (int d = 0; d < axis; d++) dims[rank++] = x->dims[d];
    for (int d = 0; d < indices->rank; d++) dims[rank++] = indices->dims[d];
    for (int d = axis + 1; d < x->rank; d++) dims[rank++] = x->dims[d];
    return nw_call_set_moved(call, 0, x, rank, dims);
}

static nw_status gather_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    int axis;
    size_t size, *at, count = nw_tensor_count(call->in[1]);
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    NW_TRY(nw_call_indices(call, call->in[1], x->dims[axis], &at));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    if (nw_tensor_count(out) == 0) return NW_OK;
    nw_axis_span span = nw_axis_span_of(x, axis);
    for (size_t o = 0; o < span.outer; o++) {
        const char *from = (const char *)x->data + o * span.length * span.inner * size;
        char *to = (char *)out->data + o * count * span.inner * size;
        if (span.inner == 1)
            for (size_t i = 0; i < count; i++) nw_copy_element(size, to, i, from, at[i]);
        else
            for (size_t i = 0; i < count; i++)
                memcpy(to + i * span.inner * size, from + at[i] * span.inner * size, span.inner * size);
    }
    return NW_OK;
}

/* A constant table (an embedding) is a weight with a scale per row. */
static void gather_roles(const nw_node *node, nw_roles *roles) {
    nw_roles_moved(node, roles);
    roles->in[0] = NW_ROLE_WEIGHT;
}

/* GatherGrad: inputs: indices, dy; attributes: axis, shape; output: dx of that shape, the slices of dy added
 * where they were gathered from. In f32. */

static nw_status gather_grad_infer(nw_op_call *call) {
    const nw_tensor *indices, *dy;
    const int64_t *shape;
    size_t rank;
    int axis;
    NW_TRY(nw_call_require(call, 0, &indices));
    NW_TRY(nw_call_require_real(call, 1, &dy));
    NW_TRY(nw_call_expect_index(call, indices));
    if (!nw_node_ints(call->node, "shape", &shape, &rank) || rank > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_FORMAT, "attribute shape is missing");
    NW_TRY(nw_call_axis_attr(call, 0, (int)rank, &axis));
    nw_tensor x = {.format = nw_real_format(dy)};
    nw_tensor_set_shape(&x, (int)rank, shape);
    size_t line = nw_dims_product(shape, 0, axis) * nw_dims_product(shape, axis + 1, (int)rank);
    if (nw_tensor_count(dy) != line * nw_tensor_count(indices))
        return nw_call_fail(call, NW_E_SHAPE, "the gradient does not fit the indices");
    return nw_call_set_like(call, 0, &x);
}

static nw_status gather_grad_eval(nw_op_call *call) {
    nw_tensor *out = &call->out[0];
    int axis;
    size_t *at, count = nw_tensor_count(call->in[0]);
    const float *dy;
    float *dx;
    NW_TRY(nw_call_axis_attr(call, 0, out->rank, &axis));
    NW_TRY(nw_call_indices(call, call->in[0], out->dims[axis], &at));
    NW_TRY(nw_call_f32(call, 1, &dy));
    NW_TRY(nw_call_f32_out(call, 0, &dx));
    memset(dx, 0, nw_tensor_count(out) * sizeof *dx);
    nw_axis_span span = nw_axis_span_of(out, axis);
    for (size_t o = 0; o < span.outer && span.inner > 0; o++)
        for (size_t i = 0; i < count; i++, dy += span.inner) {
            float *to = dx + (o * span.length + at[i]) * span.inner;
            for (size_t k = 0; k < span.inner; k++) to[k] += dy[k];
        }
    nw_call_f32_done(call, 0, dx);
    return NW_OK;
}

const nw_op nw_op_narrow_GatherGrad = {
    .name = "GatherGrad", .domain = "ai.narrow", .infer = gather_grad_infer, .eval = gather_grad_eval};

static nw_status gather_grad(nw_grad_call *c) {
    nw_tensor x = nw_grad_tensor(c, nw_grad_in(c, 0));
    nw_grad_begin(c, "ai.narrow", "GatherGrad", 2, (int[]){nw_grad_in(c, 1), c->dy[0]});
    nw_grad_copy_attrs(c);
    nw_grad_set_ints(c, "shape", (size_t)x.rank, x.dims);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

/* dx = dy scattered into zeros, added up, by the operator that is the reverse of this one. */
static nw_status scatter_grad(nw_grad_call *c, const char *reverse) {
    int zeros = nw_grad_zeros(c, nw_grad_in(c, 0));
    nw_grad_begin(c, "", reverse, 3, (int[]){zeros, nw_grad_in(c, 1), c->dy[0]});
    nw_grad_copy_attrs(c);
    nw_grad_set_string(c, "reduction", "add");
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

static nw_status gather_elements_grad(nw_grad_call *c) {
    return scatter_grad(c, "ScatterElements");
}

static nw_status gather_nd_grad(nw_grad_call *c) {
    if (nw_node_int(c->node, "batch_dims", 0) != 0)
        nw_grad_fail(c, NW_E_UNSUPPORTED, "batch_dims other than 0 cannot be trained through");
    return scatter_grad(c, "ScatterND");
}

const nw_op nw_op_Gather = {.name = "Gather",
                            .domain = "",
                            .flags = NW_OP_RAW,
                            .infer = gather_infer,
                            .eval = gather_eval,
                            .roles = gather_roles,
                            .grad = gather_grad};

/* ---- GatherElements ------------------------------------------------------------------------------------ */

static nw_status gather_elements_infer(nw_op_call *call) {
    const nw_tensor *x, *indices;
    int axis;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &indices));
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    NW_TRY(nw_call_expect_index(call, indices));
    bool fits = x->rank == indices->rank;
    for (int d = 0; d < x->rank && fits; d++) fits = d == axis || indices->dims[d] <= x->dims[d];
    if (!fits) {
        char a[96], b[96];
        return nw_call_fail(call, NW_E_SHAPE, "indices %s do not fit into data %s",
                            nw_tensor_describe(indices, a, sizeof a), nw_tensor_describe(x, b, sizeof b));
    }
    return nw_call_set_moved(call, 0, x, indices->rank, indices->dims);
}

/* out[i] = x[at[i]], each a run of `size` bytes. */
static void pick(size_t size, const void *x, const size_t *at, size_t count, void *out) {
    for (size_t i = 0; i < count && size > 0; i++) nw_copy_element(size, out, i, x, at[i]);
}

static nw_status gather_elements_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    int axis;
    size_t size, *at;
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    NW_TRY(nw_call_element_size(call, call->out[0].format, &size));
    NW_TRY(nw_call_element_positions(call, x, call->in[1], axis, &at));
    pick(size, x->data, at, nw_tensor_count(&call->out[0]), call->out[0].data);
    return NW_OK;
}

const nw_op nw_op_GatherElements = {.name = "GatherElements",
                                    .domain = "",
                                    .flags = NW_OP_RAW,
                                    .infer = gather_elements_infer,
                                    .eval = gather_elements_eval,
                                    .roles = nw_roles_moved,
                                    .grad = gather_elements_grad};

/* ---- GatherND ------------------------------------------------------------------------------------------ */

static nw_status gather_nd_infer(nw_op_call *call) {
    const nw_tensor *x, *indices;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &indices));
    NW_TRY(nw_call_expect_index(call, indices));
    int64_t batch = nw_node_int(call->node, "batch_dims", 0);
    if (x->rank < 1 || indices->rank < 1 || batch < 0 || batch >= x->rank || batch >= indices->rank)
        return nw_call_fail(call, NW_E_SHAPE,
                            "batch_dims %" PRId64 " does not fit data of %d and indices of %d dimensions",
                            batch, x->rank, indices->rank);
    for (int d = 0; d < batch; d++)
        if (x->dims[d] != indices->dims[d])
            return nw_call_fail(call, NW_E_SHAPE, "data and indices differ in batch dimension %d", d);
    int64_t width = indices->dims[indices->rank - 1];
    if (width < 1 || width > x->rank - batch)
        return nw_call_fail(call, NW_E_SHAPE,
                            "indices have tuples of %" PRId64 ", the data %d dimensions to index", width,
                            x->rank - (int)batch);
    int tail = (int)(batch + width), rank = indices->rank - 1;
    if (rank + x->rank - tail > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "its output would have more than %d dimensions",
                            NW_MAX_RANK);
    int64_t dims[NW_MAX_RANK];
    for (int d = 0; d < rank; d++) dims[d] = indices->dims[d];
    for (int d = tail; d < x->rank; d++) dims[rank++] = x->dims[d];
    return nw_call_set_moved(call, 0, x, rank, dims);
}

static nw_status gather_nd_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *indices = call->in[1];
    int batch = (int)nw_node_int(call->node, "batch_dims", 0);
    size_t size, *at, count;
    NW_TRY(nw_call_element_size(call, call->out[0].format, &size));
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    NW_TRY(nw_call_slice_positions(call, x, indices, batch, &at, &count));
    size_t slice = nw_dims_product(x->dims, batch + (int)indices->dims[indices->rank - 1], x->rank);
    if (slice == 1) {
        pick(size, x->data, at, count, call->out[0].data);
        return NW_OK;
    }
    for (size_t i = 0; i < count; i++)
        memcpy((char *)call->out[0].data + i * slice * size, (const char *)x->data + at[i] * size,
               slice * size);
    return NW_OK;
}

const nw_op nw_op_GatherND = {.name = "GatherND",
                              .domain = "",
                              .flags = NW_OP_RAW,
                              .infer = gather_nd_infer,
                              .eval = gather_nd_eval,
                              .roles = nw_roles_moved,
                              .grad = gather_nd_grad};

/* ---- Compress ------------------------------------------------------------------------------------------ */

static nw_status compress_infer(nw_op_call *call) {
    const nw_tensor *x, *condition;
    int axis;
    nw_axis_span span;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &condition));
    NW_TRY(nw_call_axis_or_flat(call, x, &axis, &span));
    if (condition->format != NW_BOOL || condition->rank != 1 || (size_t)condition->dims[0] > span.length)
        return nw_call_fail(call, NW_E_SHAPE, "the condition must be a list of at most %zu bools",
                            span.length);
    NW_TRY(nw_call_value(call, 1, &condition));
    int64_t kept = 0;
    for (int64_t i = 0; i < condition->dims[0]; i++) kept += ((const uint8_t *)condition->data)[i] != 0;
    nw_tensor out = *x;
    if (axis < 0) out.rank = 1;
    out.dims[axis < 0 ? 0 : axis] = kept;
    return nw_call_set_moved(call, 0, x, out.rank, out.dims);
}

static nw_status compress_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *condition = call->in[1];
    int axis;
    size_t size;
    nw_axis_span span;
    NW_TRY(nw_call_axis_or_flat(call, x, &axis, &span));
    NW_TRY(nw_call_element_size(call, call->out[0].format, &size));
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    char *to = call->out[0].data;
    size_t run = span.inner * size;
    for (size_t o = 0; o < span.outer; o++)
        for (size_t i = 0; i < (size_t)condition->dims[0]; i++) {
            if (!((const uint8_t *)condition->data)[i]) continue;
            memcpy(to, (const char *)x->data + (o * span.length + i) * run, run);
            to += run;
        }
    return NW_OK;
}

const nw_op nw_op_Compress = {.name = "Compress",
                              .domain = "",
                              .flags = NW_OP_RAW,
                              .infer = compress_infer,
                              .eval = compress_eval,
                              .roles = nw_roles_moved};

/* ---- NonZero: [rank, n], the indices of the n elements that are not zero, in row-major order ----------- */

static bool is_nonzero(const nw_tensor *x, size_t i) {
    if (nw_format_bits(x->format) == 8 && x->format <= NW_BOOL) return ((const uint8_t *)x->data)[i] != 0;
    return nw_tensor_f64(x, i) != 0;
}

static nw_status non_zero_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_real(call, 0, &x));
    int64_t dims[2] = {x->rank, 0};
    size_t count = nw_tensor_count(x);
    if (nw_format_kind(x->format) == NW_KIND_STRING || nw_format_kind(x->format) == NW_KIND_COMPLEX)
        return nw_call_fail(call, NW_E_TYPE, "expects real numbers, got %s", nw_format_name(x->format));
    for (size_t i = 0; i < count; i++) dims[1] += is_nonzero(x, i);
    return nw_call_set(call, 0, NW_S64, 2, dims);
}

static nw_status non_zero_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    int64_t *out = call->out[0].data, found = call->out[0].dims[1], index[NW_MAX_RANK] = {0};
    size_t count = nw_tensor_count(x);
    for (size_t i = 0, n = 0; i < count; i++) {
        if (is_nonzero(x, i)) {
            for (int d = 0; d < x->rank; d++) out[d * found + (int64_t)n] = index[d];
            n++;
        }
        nw_next_index(x->rank, x->dims, index, 0, NULL, NULL);
    }
    return NW_OK;
}

const nw_op nw_op_NonZero = {
    .name = "NonZero", .domain = "", .flags = NW_OP_RAW, .infer = non_zero_infer, .eval = non_zero_eval};
