/* shape.c: operators that look at or rewrite shapes and leave the bytes alone: Shape, Size, Reshape, Flatten,
 * Squeeze, Unsqueeze. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>

/* ---- Shape, Size --------------------------------------------------------------------------------------- */

/* A bound in [−rank, rank] as an index from 0; anything beyond is clamped. */
static int clamp_bound(int64_t at, int rank) {
    if (at < 0) at = at < -rank ? 0 : at + rank;
    return at > rank ? rank : (int)at;
}

/* The axes [*start, *end) that Shape reports. */
static void shape_range(const nw_op_call *call, int rank, int *start, int *end) {
    *start = clamp_bound(nw_node_int(call->node, "start", 0), rank);
    *end = clamp_bound(nw_node_int(call->node, "end", rank), rank);
    if (*end < *start) *end = *start;
}

static nw_status shape_infer(nw_op_call *call) {
    const nw_tensor *x;
    int start, end;
    NW_TRY(nw_call_require(call, 0, &x));
    shape_range(call, x->rank, &start, &end);
    return nw_call_set(call, 0, NW_S64, 1, &(int64_t){end - start});
}

static nw_status shape_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    int start, end;
    shape_range(call, x->rank, &start, &end);
    nw_copy_bytes(call->out[0].data, x->dims + start, (size_t)(end - start) * sizeof *x->dims);
    return NW_OK;
}

const nw_op nw_op_Shape = {.name = "Shape",
                           .domain = "",
                           .flags = NW_OP_RAW | NW_OP_SHAPE,
                           .infer = shape_infer,
                           .eval = shape_eval};

static nw_status size_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    return nw_call_set(call, 0, NW_S64, 0, NULL);
}

static nw_status size_eval(nw_op_call *call) {
    *(int64_t *)call->out[0].data = (int64_t)nw_tensor_count(call->in[0]);
    return NW_OK;
}

const nw_op nw_op_Size = {
    .name = "Size", .domain = "", .flags = NW_OP_RAW | NW_OP_SHAPE, .infer = size_infer, .eval = size_eval};

/* ---- views: the output has the input's bytes ----------------------------------------------------------- */

static nw_status view_eval(nw_op_call *call) {
    nw_copy_bytes(call->out[0].data, call->in[0]->data, nw_tensor_bytes(&call->out[0]));
    return NW_OK;
}

static nw_status set_view(nw_op_call *call, const nw_tensor *x, int rank, const int64_t *dims) {
    return nw_call_set(call, 0, nw_real_format(x), rank, dims);
}

/* Replaces a −1 in dims by what is left of `total` elements; without one, the counts must agree. */
static nw_status fill_unknown_dim(const nw_op_call *call, const nw_tensor *x, int rank, int64_t *dims) {
    int unknown = -1;
    size_t known = 1, total = nw_tensor_count(x);
    bool fits = true, empty = false;
    for (int d = 0; d < rank; d++) {
        if (dims[d] == -1)
            unknown = d;
        else if (dims[d] == 0)
            empty = true;
        else
            fits = fits && nw_mul_size(known, (size_t)dims[d], &known);
    }
    if (fits && unknown >= 0 && !empty && total % known == 0) {
        dims[unknown] = (int64_t)(total / known);
        return NW_OK;
    }
    if (fits && unknown < 0 && (empty ? 0 : known) == total) return NW_OK;
    nw_tensor target = {.format = nw_real_format(x)};
    nw_tensor_set_shape(&target, rank, dims);
    char a[96], b[96];
    return nw_call_fail(call, NW_E_SHAPE, "cannot turn %s into %s: the numbers of elements differ",
                        nw_tensor_describe(x, a, sizeof a), nw_tensor_describe(&target, b, sizeof b));
}

static nw_status reshape_infer(nw_op_call *call) {
    const nw_tensor *x;
    const int64_t *shape;
    size_t count;
    int unknown = 0, zeros = 0;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_list(call, "shape", 1, &shape, &count));
    if (!shape) return nw_call_fail(call, NW_E_FORMAT, "input 1, the new shape, is missing");
    if (count > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED,
                            "its output would have %zu dimensions; at most %d are supported", count,
                            NW_MAX_RANK);
    bool allow_zero = nw_node_int(call->node, "allowzero", 0) != 0;
    int64_t dims[NW_MAX_RANK];
    for (size_t d = 0; d < count; d++) {
        dims[d] = shape[d];
        if (shape[d] < -1)
            return nw_call_fail(call, NW_E_SHAPE,
                                "the new shape holds %" PRId64 "; only −1, 0 and sizes are allowed",
                                shape[d]);
        unknown += shape[d] == -1;
        zeros += shape[d] == 0;
        if (shape[d] == 0 && !allow_zero) {
            if (d >= (size_t)x->rank)
                return nw_call_fail(call, NW_E_SHAPE,
                                    "the new shape keeps dimension %zu, which the input does not have", d);
            dims[d] = x->dims[d];
        }
    }
    if (unknown > 1) return nw_call_fail(call, NW_E_SHAPE, "the new shape holds −1 more than once");
    if (unknown && zeros && allow_zero)
        return nw_call_fail(call, NW_E_SHAPE, "the new shape holds both 0 and −1, which allowzero forbids");
    NW_TRY(fill_unknown_dim(call, x, (int)count, dims));
    return set_view(call, x, (int)count, dims);
}

const nw_op nw_op_Reshape = {.name = "Reshape",
                             .domain = "",
                             .flags = NW_OP_RAW | NW_OP_VIEW,
                             .infer = reshape_infer,
                             .eval = view_eval,
                             .roles = nw_roles_moved,
                             .grad = nw_grad_view};

static nw_status flatten_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis;
    NW_TRY(nw_call_require(call, 0, &x));
    int64_t asked = nw_node_int(call->node, "axis", 1);
    if (asked < 0 && asked >= -x->rank) asked += x->rank;
    NW_TRY(nw_call_axis(call, asked, x->rank, true, &axis));
    int64_t dims[2] = {(int64_t)nw_dims_product(x->dims, 0, axis),
                       (int64_t)nw_dims_product(x->dims, axis, x->rank)};
    return set_view(call, x, 2, dims);
}

const nw_op nw_op_Flatten = {.name = "Flatten",
                             .domain = "",
                             .flags = NW_OP_RAW | NW_OP_VIEW,
                             .infer = flatten_infer,
                             .eval = view_eval,
                             .roles = nw_roles_moved,
                             .grad = nw_grad_view};

static nw_status squeeze_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_axes axes;
    bool drop[NW_MAX_RANK] = {false};
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_axes(call, 1, x->rank, &axes));
    for (int i = 0; i < axes.count; i++) {
        if (x->dims[axes.at[i]] != 1)
            return nw_call_fail(call, NW_E_SHAPE, "cannot drop axis %d: it has %" PRId64 " elements, not 1",
                                axes.at[i], x->dims[axes.at[i]]);
        drop[axes.at[i]] = true;
    }
    int64_t dims[NW_MAX_RANK];
    int rank = 0;
    for (int d = 0; d < x->rank; d++)
        if (axes.given ? !drop[d] : x->dims[d] != 1) dims[rank++] = x->dims[d];
    return set_view(call, x, rank, dims);
}

const nw_op nw_op_Squeeze = {.name = "Squeeze",
                             .domain = "",
                             .flags = NW_OP_RAW | NW_OP_VIEW,
                             .infer = squeeze_infer,
                             .eval = view_eval,
                             .roles = nw_roles_moved,
                             .grad = nw_grad_view};

static nw_status unsqueeze_infer(nw_op_call *call) {
    const nw_tensor *x;
    const int64_t *listed;
    size_t count;
    nw_axes axes;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_list(call, "axes", 1, &listed, &count));
    if (!listed) return nw_call_fail(call, NW_E_FORMAT, "the list of new axes is missing");
    if (count > (size_t)(NW_MAX_RANK - x->rank))
        return nw_call_fail(call, NW_E_UNSUPPORTED, "its output would have more than %d dimensions",
                            NW_MAX_RANK);
    int rank = x->rank + (int)count;
    NW_TRY(nw_call_axes(call, 1, rank, &axes));
    bool added[NW_MAX_RANK] = {false};
    for (int i = 0; i < axes.count; i++) added[axes.at[i]] = true;
    int64_t dims[NW_MAX_RANK];
    for (int d = 0, from = 0; d < rank; d++) dims[d] = added[d] ? 1 : x->dims[from++];
    return set_view(call, x, rank, dims);
}

const nw_op nw_op_Unsqueeze = {.name = "Unsqueeze",
                               .domain = "",
                               .flags = NW_OP_RAW | NW_OP_VIEW,
                               .infer = unsqueeze_infer,
                               .eval = view_eval,
                               .roles = nw_roles_moved,
                               .grad = nw_grad_view};
