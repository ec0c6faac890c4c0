/* transpose.c: operators that reorder elements: Transpose, DepthToSpace, SpaceToDepth, ReverseSequence,
 * Trilu. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>

/* ---- Transpose ----------------------------------------------------------------------------------------- */

/* Output axis d is input axis perm[d]; without the attribute the axes are reversed. */
static nw_status read_perm(const nw_op_call *call, int rank, int *perm) {
    const int64_t *values;
    size_t count;
    bool seen[NW_MAX_RANK] = {false};
    for (int d = 0; d < rank; d++) perm[d] = rank - 1 - d;
    if (!nw_node_ints(call->node, "perm", &values, &count)) return NW_OK;
    if (count != (size_t)rank)
        return nw_call_fail(call, NW_E_SHAPE, "perm lists %zu axes, the input has %d", count, rank);
    for (int d = 0; d < rank; d++) {
        NW_TRY(nw_call_axis(call, values[d], rank, false, &perm[d]));
        if (seen[perm[d]]) return nw_call_fail(call, NW_E_SHAPE, "perm lists axis %d twice", perm[d]);
        seen[perm[d]] = true;
    }
    return NW_OK;
}

static nw_status transpose_infer(nw_op_call *call) {
    const nw_tensor *x;
    int perm[NW_MAX_RANK];
    int64_t dims[NW_MAX_RANK];
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(read_perm(call, x->rank, perm));
    for (int d = 0; d < x->rank; d++) dims[d] = x->dims[perm[d]];
    return nw_call_set_moved(call, 0, x, x->rank, dims);
}

static nw_status transpose_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    int perm[NW_MAX_RANK];
    int64_t from[NW_MAX_RANK], to[NW_MAX_RANK];
    size_t size;
    NW_TRY(read_perm(call, x->rank, perm));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    nw_dims_strides(x->rank, x->dims, from);
    nw_dims_strides(out->rank, out->dims, to);
    nw_move move = {.rank = 0};
    for (int d = 0; d < x->rank; d++) nw_move_add(&move, out->dims[d], from[perm[d]], to[d]);
    nw_move_run(&move, size, x->data, out->data);
    return NW_OK;
}

static nw_status transpose_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    int perm[NW_MAX_RANK];
    int64_t inverse[NW_MAX_RANK];
    if (!call) return c->status;
    NW_TRY(read_perm(call, call->in[0]->rank, perm));
    for (int d = 0; d < call->in[0]->rank; d++) inverse[perm[d]] = d;
    c->dx[0] = nw_grad_transpose(c, c->dy[0], inverse);
    return c->status;
}

const nw_op nw_op_Transpose = {.name = "Transpose",
                               .domain = "",
                               .flags = NW_OP_RAW,
                               .infer = transpose_infer,
                               .eval = transpose_eval,
                               .roles = nw_roles_moved,
                               .grad = transpose_grad};

/* ---- DepthToSpace, SpaceToDepth: [N, C·b·b, H, W] ↔ [N, C, H·b, W·b] ----------------------------- */

static nw_status read_block(const nw_op_call *call, const nw_tensor **x, int64_t *block) {
    NW_TRY(nw_call_require(call, 0, x));
    *block = nw_node_int(call->node, "blocksize", 0);
    if ((*x)->rank != 4)
        return nw_call_fail(call, NW_E_SHAPE, "expects [N,C,H,W], got %d dimensions", (*x)->rank);
    if (*block < 1 || *block > INT16_MAX)
        return nw_call_fail(call, NW_E_ARGUMENT, "blocksize must be positive and small, it is %" PRId64,
                            *block);
    return NW_OK;
}

/* Between the deep tensor [N, C·b·b, H, W] and the wide one [N, C, H·b, W·b]. In the deep one, the block's
 * row and column come before the channel (DCR) or after it (CRD). */
static nw_status move_blocks(nw_op_call *call, const nw_tensor *wide, int64_t b, bool crd, bool to_wide) {
    int64_t c = wide->dims[1], h = wide->dims[2] / b, w = wide->dims[3] / b, pixel = h * w;
    int64_t deep_c = crd ? b * b : 1, deep_row = crd ? b : b * c, deep_column = crd ? 1 : c;
    const int64_t dims[6] = {wide->dims[0], c, h, b, w, b};
    const int64_t deep[6] = {c * b * b * pixel, deep_c * pixel, w, deep_row * pixel, 1, deep_column * pixel};
    const int64_t flat[6] = {c * b * b * pixel, b * b * pixel, b * b * w, b * w, b, 1};
    static const int deep_order[6] = {0, 3, 5,
                                      1, 2, 4}; /* DCR; any order is right, the destination's is fast */
    nw_move move = {.rank = 0};
    for (int i = 0; i < 6; i++) {
        int d = to_wide ? i : deep_order[i];
        nw_move_add(&move, dims[d], to_wide ? deep[d] : flat[d], to_wide ? flat[d] : deep[d]);
    }
    size_t size;
    NW_TRY(nw_call_element_size(call, call->out[0].format, &size));
    nw_move_run(&move, size, call->in[0]->data, call->out[0].data);
    return NW_OK;
}

static nw_status depth_to_space_infer(nw_op_call *call) {
    const nw_tensor *x;
    int64_t b, height, width;
    NW_TRY(read_block(call, &x, &b));
    const char *mode = nw_node_string(call->node, "mode", "DCR");
    if (strcmp(mode, "DCR") != 0 && strcmp(mode, "CRD") != 0)
        return nw_call_fail(call, NW_E_ARGUMENT, "mode must be DCR or CRD, it is %s", mode);
    if (x->dims[1] % (b * b) != 0)
        return nw_call_fail(call, NW_E_SHAPE,
                            "%" PRId64 " channels do not divide into blocks of %" PRId64 "×%" PRId64,
                            x->dims[1], b, b);
    if (__builtin_mul_overflow(x->dims[2], b, &height) || __builtin_mul_overflow(x->dims[3], b, &width))
        return nw_call_fail(call, NW_E_SHAPE, "the output would be too large");
    int64_t dims[4] = {x->dims[0], x->dims[1] / (b * b), height, width};
    return nw_call_set_moved(call, 0, x, 4, dims);
}

static nw_status depth_to_space_eval(nw_op_call *call) {
    bool crd = nw_node_string_is(call->node, "mode", "DCR", "CRD");
    return move_blocks(call, &call->out[0], nw_node_int(call->node, "blocksize", 1), crd, true);
}

/* dx by operator `reverse`, which has the same attributes and, if there is one, the same second input. */
static nw_status reversed_by(nw_grad_call *c, const char *reverse) {
    nw_grad_begin(c, "", reverse, c->node->in_count, (int[]){c->dy[0], nw_grad_in(c, 1)});
    nw_grad_copy_attrs(c);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

static nw_status depth_to_space_grad(nw_grad_call *c) {
    return reversed_by(c, "SpaceToDepth");
}
static nw_status space_to_depth_grad(nw_grad_call *c) {
    return reversed_by(c, "DepthToSpace");
}
static nw_status reverse_sequence_grad(nw_grad_call *c) {
    return reversed_by(c, "ReverseSequence");
}
static nw_status trilu_grad(nw_grad_call *c) {
    return reversed_by(c, "Trilu");
}

const nw_op nw_op_DepthToSpace = {.name = "DepthToSpace",
                                  .domain = "",
                                  .flags = NW_OP_RAW,
                                  .infer = depth_to_space_infer,
                                  .eval = depth_to_space_eval,
                                  .roles = nw_roles_moved,
                                  .grad = depth_to_space_grad};

static nw_status space_to_depth_infer(nw_op_call *call) {
    const nw_tensor *x;
    int64_t b, channels;
    NW_TRY(read_block(call, &x, &b));
    if (x->dims[2] % b != 0 || x->dims[3] % b != 0)
        return nw_call_fail(call, NW_E_SHAPE,
                            "a %" PRId64 "×%" PRId64 " image does not divide into blocks of %" PRId64,
                            x->dims[2], x->dims[3], b);
    if (__builtin_mul_overflow(x->dims[1], b * b, &channels))
        return nw_call_fail(call, NW_E_SHAPE, "the output would be too large");
    int64_t dims[4] = {x->dims[0], channels, x->dims[2] / b, x->dims[3] / b};
    return nw_call_set_moved(call, 0, x, 4, dims);
}

static nw_status space_to_depth_eval(nw_op_call *call) {
    bool crd = nw_node_string_is(call->node, "mode", "DCR", "CRD");
    return move_blocks(call, call->in[0], nw_node_int(call->node, "blocksize", 1), crd, false);
}

const nw_op nw_op_SpaceToDepth = {.name = "SpaceToDepth",
                                  .domain = "",
                                  .flags = NW_OP_RAW,
                                  .infer = space_to_depth_infer,
                                  .eval = space_to_depth_eval,
                                  .roles = nw_roles_moved,
                                  .grad = space_to_depth_grad};

/* ---- ReverseSequence ----------------------------------------------------------------------------------- */

static nw_status reverse_sequence_axes(const nw_op_call *call, int *batch, int *time) {
    int64_t b = nw_node_int(call->node, "batch_axis", 1), t = nw_node_int(call->node, "time_axis", 0);
    if ((b != 0 && b != 1) || (t != 0 && t != 1) || b == t)
        return nw_call_fail(call, NW_E_ARGUMENT, "batch_axis and time_axis must be 0 and 1, or 1 and 0");
    *batch = (int)b;
    *time = (int)t;
    return NW_OK;
}

static nw_status reverse_sequence_infer(nw_op_call *call) {
    const nw_tensor *x, *lengths;
    int batch, time;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &lengths));
    NW_TRY(reverse_sequence_axes(call, &batch, &time));
    if (x->rank < 2) return nw_call_fail(call, NW_E_SHAPE, "expects at least two dimensions");
    if (lengths->rank != 1 || lengths->dims[0] != x->dims[batch])
        return nw_call_fail(call, NW_E_SHAPE,
                            "sequence_lens must hold one length for each of the %" PRId64 " sequences",
                            x->dims[batch]);
    NW_TRY(nw_call_expect_index(call, lengths));
    return nw_call_set_moved(call, 0, x, x->rank, x->dims);
}

static nw_status reverse_sequence_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    int batch, time;
    size_t size;
    int64_t strides[NW_MAX_RANK];
    NW_TRY(reverse_sequence_axes(call, &batch, &time));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    if (nw_tensor_count(x) == 0) return NW_OK;
    nw_dims_strides(x->rank, x->dims, strides);
    size_t run = nw_dims_product(x->dims, 2, x->rank) * size;
    for (int64_t b = 0; b < x->dims[batch]; b++) {
        int64_t length = nw_tensor_s64(call->in[1], (size_t)b);
        if (length < 0 || length > x->dims[time])
            return nw_call_fail(call, NW_E_ARGUMENT,
                                "sequence %" PRId64 " has length %" PRId64 ", beyond its %" PRId64 " steps",
                                b, length, x->dims[time]);
        for (int64_t t = 0; t < x->dims[time]; t++) {
            int64_t from = t < length ? length - 1 - t : t, base = b * strides[batch];
            memcpy((char *)out->data + (size_t)(base + t * strides[time]) * size,
                   (const char *)x->data + (size_t)(base + from * strides[time]) * size, run);
        }
    }
    return NW_OK;
}

const nw_op nw_op_ReverseSequence = {.name = "ReverseSequence",
                                     .domain = "",
                                     .flags = NW_OP_RAW,
                                     .infer = reverse_sequence_infer,
                                     .eval = reverse_sequence_eval,
                                     .roles = nw_roles_moved,
                                     .grad = reverse_sequence_grad};

/* ---- Trilu --------------------------------------------------------------------------------------------- */

static nw_status trilu_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    if (x->rank < 2) return nw_call_fail(call, NW_E_SHAPE, "expects matrices, got %d dimensions", x->rank);
    const nw_tensor *k = nw_call_in(call, 1);
    if (k) {
        NW_TRY(nw_call_expect_index(call, k));
        NW_TRY(nw_call_expect_one(call, k, "k"));
    }
    return nw_call_set_moved(call, 0, x, x->rank, x->dims);
}

static nw_status trilu_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    bool upper = nw_node_int(call->node, "upper", 1) != 0;
    int64_t k, rows = x->dims[x->rank - 2], columns = x->dims[x->rank - 1];
    size_t size;
    NW_TRY(nw_call_int(call, 1, 0, &k));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    if (nw_tensor_count(x) == 0) return NW_OK;
    if (k < -rows) k = -rows;
    if (k > columns) k = columns;
    memcpy(out->data, x->data, nw_tensor_bytes(out));
    char *line = out->data;
    size_t matrices = nw_dims_product(x->dims, 0, x->rank - 2);
    for (size_t m = 0; m < matrices; m++)
        for (int64_t r = 0; r < rows; r++, line += (size_t)columns * size) {
            int64_t split =
                r + k + (upper ? 0 : 1); /* columns [0, split) are below the diagonal (or on it) */
            split = split < 0 ? 0 : split > columns ? columns : split;
            if (upper)
                memset(line, 0, (size_t)split * size);
            else
                memset(line + (size_t)split * size, 0, (size_t)(columns - split) * size);
        }
    return NW_OK;
}

const nw_op nw_op_Trilu = {.name = "Trilu",
                           .domain = "",
                           .flags = NW_OP_RAW,
                           .infer = trilu_infer,
                           .eval = trilu_eval,
                           .grad = trilu_grad};
