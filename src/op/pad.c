/* pad.c: operators that add or cut a border: Pad, CenterCropPad. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>

/* ---- a window of one tensor placed in another ---------------------------------------------------------- */

/* Copies what x and out share when x's origin lies at `begin` of out (negative: x is cut); the rest of out
 * becomes `value`. */
static nw_status place(const nw_op_call *call, const nw_tensor *x, const nw_tensor *out, const int64_t *begin,
                       const void *value) {
    int64_t from[NW_MAX_RANK], to[NW_MAX_RANK], source = 0, target = 0;
    size_t size;
    NW_TRY(nw_call_element_size(call, out->format, &size));
    nw_fill_elements(size, nw_tensor_count(out), value, out->data);
    nw_dims_strides(x->rank, x->dims, from);
    nw_dims_strides(out->rank, out->dims, to);
    nw_move move = {.rank = 0};
    for (int d = 0; d < x->rank; d++) {
        int64_t cut = begin[d] < 0 ? -begin[d] : 0, at = begin[d] > 0 ? begin[d] : 0;
        int64_t shared = x->dims[d] - cut < out->dims[d] - at ? x->dims[d] - cut : out->dims[d] - at;
        if (shared <= 0) return NW_OK;
        nw_move_add(&move, shared, from[d], to[d]);
        source += cut * from[d];
        target += at * to[d];
    }
    nw_move_run(&move, size, (const char *)x->data + (size_t)source * size,
                (char *)out->data + (size_t)target * size);
    return NW_OK;
}

/* ---- Pad ----------------------------------------------------------------------------------------------- */

typedef enum pad_mode { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP } pad_mode;

typedef struct padding {
    pad_mode mode;
    int64_t begin[NW_MAX_RANK], end[NW_MAX_RANK]; /* negative: elements are cut off first */
} padding;

static nw_status read_padding(const nw_op_call *call, const nw_tensor *x, padding *p) {
    static const char *const names[] = {"constant", "reflect", "edge", "wrap"};
    const char *mode = nw_node_string(call->node, "mode", "constant");
    const int64_t *pads;
    size_t count;
    nw_axes axes;
    *p = (padding){.mode = PAD_CONSTANT};
    while (p->mode <= PAD_WRAP && strcmp(mode, names[p->mode]) != 0) p->mode++;
    if (p->mode > PAD_WRAP)
        return nw_call_fail(call, NW_E_ARGUMENT, "mode must be constant, reflect, edge or wrap, it is %s",
                            mode);
    NW_TRY(nw_call_list(call, nw_node_attr(call->node, "paddings") ? "paddings" : "pads", 1, &pads, &count));
    if (!pads) return nw_call_fail(call, NW_E_FORMAT, "input 1, the pads, is missing");
    NW_TRY(nw_call_axes(call, 3, x->rank, &axes));
    if (!axes.given)
        for (; axes.count < x->rank; axes.count++) axes.at[axes.count] = axes.count;
    if (count != 2 * (size_t)axes.count)
        return nw_call_fail(call, NW_E_SHAPE,
                            "pads holds %zu numbers; a begin and an end for %d axes are needed", count,
                            axes.count);
    for (int i = 0; i < axes.count; i++) {
        p->begin[axes.at[i]] = pads[i];
        p->end[axes.at[i]] = pads[axes.count + i];
    }
    return NW_OK;
}

/* What is left of axis d before anything is added. */
static int64_t kept(const nw_tensor *x, const padding *p, int d) {
    return x->dims[d] + (p->begin[d] < 0 ? p->begin[d] : 0) + (p->end[d] < 0 ? p->end[d] : 0);
}

static nw_status pad_infer(nw_op_call *call) {
    const nw_tensor *x, *value = nw_call_in(call, 2);
    padding p;
    int64_t dims[NW_MAX_RANK];
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(read_padding(call, x, &p));
    for (int d = 0; d < x->rank; d++) {
        if (p.begin[d] < -x->dims[d] || p.end[d] < -x->dims[d] || kept(x, &p, d) < 0 ||
            __builtin_add_overflow(x->dims[d], p.begin[d], &dims[d]) ||
            __builtin_add_overflow(dims[d], p.end[d], &dims[d]))
            return nw_call_fail(call, NW_E_SHAPE,
                                "cannot pad axis %d of %" PRId64 " elements by %" PRId64 " and %" PRId64, d,
                                x->dims[d], p.begin[d], p.end[d]);
        if (p.mode != PAD_CONSTANT && kept(x, &p, d) == 0 && dims[d] > 0)
            return nw_call_fail(call, NW_E_SHAPE, "axis %d has no elements to pad from; use mode constant",
                                d);
    }
    if (value && nw_tensor_count(value) != 0) {
        NW_TRY(nw_call_expect_one(call, value, "the padding value"));
        if (nw_real_format(value) != nw_real_format(x))
            return nw_call_fail(call, NW_E_TYPE, "the padding value is %s, the data %s",
                                nw_format_name(nw_real_format(value)), nw_format_name(nw_real_format(x)));
    }
    return nw_call_set_moved(call, 0, x, x->rank, dims);
}

/* Index of the element in [0, n) that stands at position i outside or inside, n > 0. Reflection leaves the
 * edge single: its period is 2(n − 1). */
static int64_t padded_from(pad_mode mode, int64_t i, int64_t n) {
    if (mode == PAD_EDGE) return i < 0 ? 0 : i >= n ? n - 1 : i;
    int64_t period = mode == PAD_WRAP ? n : n > 1 ? 2 * (n - 1) : 1;
    i %= period;
    if (i < 0) i += period;
    return i < n ? i : period - i;
}

/* Modes that repeat elements: one table per axis says where each output index comes from; unpadded innermost
 * axes move as one run. */
static nw_status pad_from_elements(const nw_op_call *call, const nw_tensor *x, const nw_tensor *out,
                                   const padding *p) {
    size_t run;
    int64_t strides[NW_MAX_RANK], *table[NW_MAX_RANK] = {NULL}, index[NW_MAX_RANK] = {0};
    NW_TRY(nw_call_element_size(call, out->format, &run));
    size_t size = run;
    int rank = x->rank;
    for (; rank > 0 && p->begin[rank - 1] == 0 && p->end[rank - 1] == 0; rank--)
        run *= (size_t)x->dims[rank - 1];
    nw_dims_strides(x->rank, x->dims, strides);
    for (int d = 0; d < rank; d++) {
        int64_t cut = p->begin[d] < 0 ? -p->begin[d] : 0, n = kept(x, p, d);
        NW_TRY(nw_call_scratch(call, (size_t)out->dims[d], &table[d]));
        for (int64_t i = 0; i < out->dims[d]; i++)
            table[d][i] =
                (cut + padded_from(p->mode, i - (p->begin[d] > 0 ? p->begin[d] : 0), n)) * strides[d];
    }
    char *to = out->data;
    do {
        int64_t from = 0;
        for (int d = 0; d < rank; d++) from += table[d][index[d]];
        memcpy(to, (const char *)x->data + (size_t)from * size, run);
        to += run;
    } while (nw_next_index(rank, out->dims, index, 0, NULL, NULL));
    return NW_OK;
}

static nw_status pad_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *value = nw_call_in(call, 2);
    nw_tensor *out = &call->out[0];
    padding p;
    _Alignas(16) uint8_t element[16] = {0}; /* zero of every format, and the empty string */
    NW_TRY(read_padding(call, x, &p));
    if (nw_tensor_count(out) == 0) return NW_OK;
    if (p.mode != PAD_CONSTANT) return pad_from_elements(call, x, out, &p);
    float old_value = nw_node_float(call->node, "value", 0);
    if (value && value->data && nw_tensor_count(value) == 1)
        memcpy(element, value->data, nw_tensor_bytes(value));
    else if (old_value != 0)
        nw_store_f64(out->format, element, 0, old_value);
    return place(call, x, out, p.begin, element);
}

/* What was added is cut off again, what was cut off was worth nothing: a Pad by the negative. */
static nw_status pad_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    padding p;
    int64_t pads[2 * NW_MAX_RANK];
    if (!call) return c->status;
    const nw_tensor *x = call->in[0];
    NW_TRY(read_padding(call, x, &p));
    if (p.mode != PAD_CONSTANT)
        nw_grad_fail(c, NW_E_UNSUPPORTED, "only mode constant can be trained through");
    for (int d = 0; d < x->rank; d++) {
        pads[d] = -p.begin[d];
        pads[x->rank + d] = -p.end[d];
    }
    c->dx[0] = nw_grad_op2(c, "Pad", c->dy[0], nw_grad_ints(c, 2 * x->rank, pads));
    return c->status;
}

const nw_op nw_op_Pad = {
    .name = "Pad", .domain = "", .flags = NW_OP_RAW, .infer = pad_infer, .eval = pad_eval, .grad = pad_grad};

/* ---- CenterCropPad ------------------------------------------------------------------------------------- */

static nw_status center_crop_pad_infer(nw_op_call *call) {
    const nw_tensor *x, *shape;
    const int64_t *sizes;
    size_t count;
    nw_axes axes;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &shape));
    NW_TRY(nw_call_ints(call, 1, &sizes, &count));
    NW_TRY(nw_call_axes(call, -1, x->rank, &axes));
    if (!axes.given)
        for (; axes.count < x->rank; axes.count++) axes.at[axes.count] = axes.count;
    if (count != (size_t)axes.count)
        return nw_call_fail(call, NW_E_SHAPE, "shape holds %zu sizes for %d axes", count, axes.count);
    nw_tensor out = *x;
    for (int i = 0; i < axes.count; i++) {
        if (sizes[i] < 0)
            return nw_call_fail(call, NW_E_SHAPE, "shape holds a negative size (%" PRId64 ")", sizes[i]);
        out.dims[axes.at[i]] = sizes[i];
    }
    return nw_call_set_moved(call, 0, x, out.rank, out.dims);
}

static nw_status center_crop_pad_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    int64_t begin[NW_MAX_RANK];
    for (int d = 0; d < x->rank; d++) {
        int64_t grow = out->dims[d] - x->dims[d];
        begin[d] = grow / 2; /* towards zero: an odd pixel is added or cut at the end */
    }
    return place(call, x, out, begin, (const uint8_t[16]){0});
}

const nw_op nw_op_CenterCropPad = {.name = "CenterCropPad",
                                   .domain = "",
                                   .flags = NW_OP_RAW,
                                   .infer = center_crop_pad_infer,
                                   .eval = center_crop_pad_eval};
