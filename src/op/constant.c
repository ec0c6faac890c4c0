/* constant.c: operators that make tensors from little: Constant, ConstantOfShape, Range, EyeLike, OneHot. */
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>
#include <math.h>

/* ---- Constant ------------------------------------------------------------------------------------------ */

/* The value that a Constant node holds, as a view of the attribute that carries it. */
static nw_status constant_value(const nw_op_call *call, nw_tensor *value) {
    const nw_node *node = call->node;
    for (int i = 0; i < node->attr_count; i++) {
        const nw_attr *a = &node->attrs[i];
        if (strncmp(a->name, "value", 5) != 0) continue;
        *value = (nw_tensor){.rank = 0};
        switch (a->kind) {
        case NW_ATTR_TENSOR: *value = a->tensor->tensor; return NW_OK;
        case NW_ATTR_INT: value->format = NW_S64, value->data = (void *)(uintptr_t)&a->i; return NW_OK;
        case NW_ATTR_FLOAT: value->format = NW_F32, value->data = (void *)(uintptr_t)&a->f; return NW_OK;
        case NW_ATTR_STRING: value->format = NW_STR, value->data = (void *)(uintptr_t)&a->s; return NW_OK;
        case NW_ATTR_INTS: value->format = NW_S64, value->data = (void *)(uintptr_t)a->ints; break;
        case NW_ATTR_FLOATS: value->format = NW_F32, value->data = (void *)(uintptr_t)a->floats; break;
        case NW_ATTR_STRINGS: value->format = NW_STR, value->data = (void *)(uintptr_t)a->strings; break;
        default: continue;
        }
        value->rank = 1;
        value->dims[0] = (int64_t)a->count;
        return NW_OK;
    }
    if (nw_node_attr(node, "sparse_value"))
        return nw_call_fail(call, NW_E_UNSUPPORTED,
                            "sparse constants are not supported; store the tensor densely");
    return nw_call_fail(call, NW_E_FORMAT, "it has no value");
}

static nw_status constant_infer(nw_op_call *call) {
    nw_tensor value;
    NW_TRY(constant_value(call, &value));
    return nw_call_set_like(call, 0, &value);
}

static nw_status constant_eval(nw_op_call *call) {
    nw_tensor value;
    NW_TRY(constant_value(call, &value));
    if (value.qparam) NW_TRY(nw_tensor_to_f32(call->scratch, &value, &value));
    nw_copy_bytes(call->out[0].data, value.data, nw_tensor_bytes(&value));
    return NW_OK;
}

const nw_op nw_op_Constant = {
    .name = "Constant", .domain = "", .flags = NW_OP_RAW, .infer = constant_infer, .eval = constant_eval};

/* ---- ConstantOfShape ----------------------------------------------------------------------------------- */

/* The element to repeat: a tensor attribute of one element, or NULL for f32 zero. */
static const nw_tensor *fill_value(const nw_op_call *call) {
    const nw_attr *a = nw_node_attr(call->node, "value");
    return a && a->kind == NW_ATTR_TENSOR ? &a->tensor->tensor : NULL;
}

static nw_status constant_of_shape_infer(nw_op_call *call) {
    const int64_t *dims;
    size_t rank;
    const nw_tensor *shape, *value = fill_value(call);
    size_t size;
    NW_TRY(nw_call_require(call, 0, &shape));
    NW_TRY(nw_call_ints(call, 0, &dims, &rank));
    if (rank > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "a shape of %zu dimensions; at most %d are supported",
                            rank, NW_MAX_RANK);
    if (value) NW_TRY(nw_call_expect_one(call, value, "the fill value"));
    nw_format format = value ? nw_real_format(value) : NW_F32;
    NW_TRY(nw_call_element_size(call, format, &size));
    return nw_call_set(call, 0, format, (int)rank, dims);
}

static nw_status constant_of_shape_eval(nw_op_call *call) {
    const nw_tensor *value = fill_value(call);
    size_t size, count = nw_tensor_count(&call->out[0]);
    NW_TRY(nw_call_element_size(call, call->out[0].format, &size));
    nw_tensor real;
    if (value && value->qparam) {
        NW_TRY(nw_tensor_to_f32(call->scratch, value, &real));
        value = &real;
    }
    nw_fill_elements(size, count, value ? value->data : &(float){0}, call->out[0].data);
    return NW_OK;
}

const nw_op nw_op_ConstantOfShape = {.name = "ConstantOfShape",
                                     .domain = "",
                                     .flags = NW_OP_RAW,
                                     .infer = constant_of_shape_infer,
                                     .eval = constant_of_shape_eval};

/* ---- Range --------------------------------------------------------------------------------------------- */

/* max(ceil((limit − start)/delta), 0), computed as the type would: ONNX Range. */
static nw_status range_count(const nw_op_call *call, const nw_tensor *const t[3], int64_t *count) {
    *count = 0;
    if (nw_format_is_float(t[0]->format)) {
        double start = nw_tensor_f64(t[0], 0), limit = nw_tensor_f64(t[1], 0), delta = nw_tensor_f64(t[2], 0);
        double span = t[0]->format == NW_F64 ? limit - start : (float)(limit - start), n = ceil(span / delta);
        if (delta == 0 || !(fabs(n) < 0x1p62))
            return nw_call_fail(call, NW_E_ARGUMENT, "a range from %g to %g in steps of %g has no end", start,
                                limit, delta);
        if (n > 0) *count = (int64_t)n;
        return NW_OK;
    }
    int64_t start = nw_tensor_s64(t[0], 0), limit = nw_tensor_s64(t[1], 0), delta = nw_tensor_s64(t[2], 0);
    if (delta == 0) return nw_call_fail(call, NW_E_ARGUMENT, "a range in steps of 0 has no end");
    if (delta > 0 ? limit <= start : limit >= start) return NW_OK;
    uint64_t span = delta > 0 ? (uint64_t)limit - (uint64_t)start : (uint64_t)start - (uint64_t)limit;
    uint64_t step = delta > 0 ? (uint64_t)delta : -(uint64_t)delta, n = (span - 1) / step + 1;
    if (n > INT64_MAX) return nw_call_fail(call, NW_E_ARGUMENT, "the range is too long");
    *count = (int64_t)n;
    return NW_OK;
}

static nw_status range_infer(nw_op_call *call) {
    static const char *const names[3] = {"the start", "the limit", "the step"};
    const nw_tensor *t[3];
    int64_t count;
    for (int i = 0; i < 3; i++) {
        NW_TRY(nw_call_require(call, i, &t[i]));
        NW_TRY(nw_call_expect_one(call, t[i], names[i]));
        if (nw_real_format(t[i]) != nw_real_format(t[0]))
            return nw_call_fail(call, NW_E_TYPE, "start, limit and step must have the same type");
    }
    for (int i = 0; i < 3; i++) NW_TRY(nw_call_real(call, i, &t[i]));
    if (!nw_format_is_float(t[0]->format) && !nw_format_is_integer(t[0]->format))
        return nw_call_fail(call, NW_E_TYPE, "expects numbers, got %s", nw_format_name(t[0]->format));
    NW_TRY(range_count(call, t, &count));
    return nw_call_set(call, 0, t[0]->format, 1, &count);
}

static nw_status range_eval(nw_op_call *call) {
    nw_tensor *out = &call->out[0];
    int64_t n = out->dims[0];
    if (nw_format_is_integer(out->format)) {
        uint64_t x = (uint64_t)nw_tensor_s64(call->in[0], 0), delta = (uint64_t)nw_tensor_s64(call->in[2], 0);
        for (int64_t i = 0; i < n; i++, x += delta)
            nw_store_s64(out->format, out->data, (size_t)i, (int64_t)x);
    } else {
        double start = nw_tensor_f64(call->in[0], 0), delta = nw_tensor_f64(call->in[2], 0);
        for (int64_t i = 0; i < n; i++)
            nw_store_f64(out->format, out->data, (size_t)i, start + (double)i * delta);
    }
    return NW_OK;
}

const nw_op nw_op_Range = {.name = "Range", .domain = "", .infer = range_infer, .eval = range_eval};

/* ---- EyeLike ------------------------------------------------------------------------------------------- */

static nw_status eye_like_infer(nw_op_call *call) {
    const nw_tensor *x;
    size_t size;
    NW_TRY(nw_call_require(call, 0, &x));
    if (x->rank != 2) return nw_call_fail(call, NW_E_SHAPE, "expects a matrix, got %d dimensions", x->rank);
    nw_format format = nw_real_format(x);
    if (nw_node_attr(call->node, "dtype")) {
        int64_t asked = nw_node_int(call->node, "dtype", 0);
        format = asked > 0 && asked < NW_FORMAT_COUNT ? nw_format_from_onnx((int)asked) : NW_NONE;
    }
    if (!nw_format_is_float(format) && !nw_format_is_integer(format) && format != NW_BOOL)
        return nw_call_fail(call, NW_E_TYPE, "cannot make an identity matrix of this element type");
    NW_TRY(nw_call_element_size(call, format, &size));
    return nw_call_set(call, 0, format, 2, x->dims);
}

static nw_status eye_like_eval(nw_op_call *call) {
    nw_tensor *out = &call->out[0];
    int64_t rows = out->dims[0], columns = out->dims[1], k = nw_node_int(call->node, "k", 0);
    if (rows == 0 || columns == 0) return NW_OK;
    memset(out->data, 0, nw_tensor_bytes(out));
    if (k <= -rows || k >= columns) return NW_OK;
    for (int64_t r = k < 0 ? -k : 0; r < rows && r + k < columns; r++)
        nw_store_f64(out->format, out->data, (size_t)(r * columns + r + k), 1.0);
    return NW_OK;
}

const nw_op nw_op_EyeLike = {
    .name = "EyeLike", .domain = "", .flags = NW_OP_RAW, .infer = eye_like_infer, .eval = eye_like_eval};

/* ---- OneHot -------------------------------------------------------------------------------------------- */

static nw_status one_hot_infer(nw_op_call *call) {
    const nw_tensor *indices, *depth, *values;
    int axis;
    NW_TRY(nw_call_require(call, 0, &indices));
    NW_TRY(nw_call_require(call, 1, &depth));
    NW_TRY(nw_call_require(call, 2, &values));
    if (values->rank != 1 || values->dims[0] != 2)
        return nw_call_fail(call, NW_E_SHAPE, "input 2 must hold two values: off and on");
    if (indices->qparam || nw_format_kind(indices->format) == NW_KIND_STRING)
        return nw_call_fail(call, NW_E_TYPE, "expects numbers as indices");
    NW_TRY(nw_call_expect_one(call, depth, "the depth"));
    NW_TRY(nw_call_real(call, 1, &depth));
    int64_t size = nw_tensor_s64(depth, 0);
    if (size < 0) return nw_call_fail(call, NW_E_SHAPE, "the depth is negative: %" PRId64, size);
    if (indices->rank >= NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "its output would have more than %d dimensions",
                            NW_MAX_RANK);
    NW_TRY(nw_call_axis_attr(call, -1, indices->rank + 1, &axis));
    int64_t dims[NW_MAX_RANK];
    for (int d = 0, from = 0; d <= indices->rank; d++) dims[d] = d == axis ? size : indices->dims[from++];
    return nw_call_set_moved(call, 0, values, indices->rank + 1, dims);
}

static nw_status one_hot_eval(nw_op_call *call) {
    const nw_tensor *indices = call->in[0], *values = call->in[2];
    nw_tensor *out = &call->out[0];
    int axis;
    size_t size;
    NW_TRY(nw_call_axis_attr(call, -1, out->rank, &axis));
    NW_TRY(nw_call_element_size(call, out->format, &size));
    nw_axis_span span = nw_axis_span_of(out, axis);
    nw_fill_elements(size, nw_tensor_count(out), values->data, out->data);
    for (size_t o = 0; o < span.outer && span.length > 0; o++)
        for (size_t i = 0; i < span.inner; i++) {
            int64_t at = nw_tensor_s64(indices, o * span.inner + i);
            if (at < 0) at += (int64_t)span.length;
            if (at < 0 || at >= (int64_t)span.length) continue;
            nw_copy_element(size, out->data, (o * span.length + (size_t)at) * span.inner + i, values->data,
                            1);
        }
    return NW_OK;
}

const nw_op nw_op_OneHot = {
    .name = "OneHot", .domain = "", .flags = NW_OP_RAW, .infer = one_hot_infer, .eval = one_hot_eval};
