/* qoperator.c: the operators of com.microsoft that take and give 8-bit codes: QLinearAdd, QLinearMul,
 * QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax, QLinearConcat, QLinearGlobalAveragePool,
 * QLinearAveragePool. Each is its real operator between dequantized inputs and a quantized output. */
#include "op/conv.h"
#include "op/elementwise.h"
#include "op/quantize.h"

#include <math.h>
#include <string.h>

#define MS "com.microsoft"

/* Codes in input `codes` on the grid of inputs codes+1 and codes+2. */
static nw_status require_codes(const nw_op_call *call, int codes, const char *name, const nw_tensor **t) {
    NW_TRY(nw_call_require(call, codes, t));
    NW_TRY(nw_call_expect_codes(call, *t, name));
    return nw_call_expect_grid(call, codes + 1, codes + 2, (*t)->format);
}

/* Input `codes` as a tensor of real numbers in scratch. */
static nw_status real_of(const nw_op_call *call, int codes, nw_tensor *real) {
    nw_qparam grid;
    float *data;
    *real = *call->in[codes];
    NW_TRY(nw_call_grid(call, codes + 1, codes + 2, real->format, &grid));
    NW_TRY(nw_call_dequantize(call, real, &grid, &data));
    real->format = NW_F32;
    real->data = data;
    return NW_OK;
}

/* Quantizes `real`, of output 0's shape, to the grid of inputs scale and scale+1. */
static nw_status give_codes(const nw_op_call *call, int scale, const float *real) {
    nw_tensor *y = &call->out[0];
    nw_qparam grid;
    NW_TRY(nw_call_grid(call, scale, scale + 1, y->format, &grid));
    nw_quantize(&grid, y->rank, y->dims, real, y->data);
    return NW_OK;
}

/* ---- two operands: A, A_scale, A_zero, B, B_scale, B_zero, C_scale, C_zero ----------------------------- */

static nw_status binary_infer(nw_op_call *call) {
    const nw_tensor *in[2];
    nw_tensor out;
    NW_TRY(require_codes(call, 0, "A", &in[0]));
    NW_TRY(require_codes(call, 3, "B", &in[1]));
    NW_TRY(nw_call_same_format(call, in[0], in[1]));
    NW_TRY(nw_call_expect_grid(call, 6, 7, in[0]->format));
    NW_TRY(nw_call_broadcast(call, in, 2, &out));
    return nw_call_set(call, 0, in[0]->format, out.rank, out.dims);
}

static nw_status binary_eval(nw_op_call *call, const nw_binary *op) {
    nw_tensor a, b, y = call->out[0];
    NW_TRY(real_of(call, 0, &a));
    NW_TRY(real_of(call, 3, &b));
    y.format = NW_F32;
    NW_TRY(nw_tensor_alloc(call->scratch, &y));
    nw_binary_apply(op, &a, &b, &y);
    return give_codes(call, 6, y.data);
}

static nw_status add_eval(nw_op_call *call) {
    return binary_eval(call, &nw_binary_add);
}
static nw_status mul_eval(nw_op_call *call) {
    return binary_eval(call, &nw_binary_mul);
}

const nw_op nw_op_ms_QLinearAdd = {
    .name = "QLinearAdd", .domain = MS, .infer = binary_infer, .eval = add_eval};
const nw_op nw_op_ms_QLinearMul = {
    .name = "QLinearMul", .domain = MS, .infer = binary_infer, .eval = mul_eval};

/* ---- one operand: X, X_scale, X_zero, Y_scale, Y_zero -------------------------------------------------- */

static nw_status unary_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(require_codes(call, 0, "X", &x));
    NW_TRY(nw_call_expect_grid(call, 3, 4, x->format));
    return nw_call_set_like(call, 0, x);
}

static nw_status sigmoid_eval(nw_op_call *call) {
    nw_tensor x;
    NW_TRY(real_of(call, 0, &x));
    float *v = x.data;
    for (size_t i = 0, n = nw_tensor_count(&x); i < n; i++) v[i] = 1 / (1 + expf(-v[i]));
    return give_codes(call, 3, v);
}

static nw_status leaky_eval(nw_op_call *call) {
    nw_tensor x;
    float alpha = nw_node_float(call->node, "alpha", 0.01f);
    NW_TRY(real_of(call, 0, &x));
    float *v = x.data;
    for (size_t i = 0, n = nw_tensor_count(&x); i < n; i++) v[i] = v[i] < 0 ? alpha * v[i] : v[i];
    return give_codes(call, 3, v);
}

const nw_op nw_op_ms_QLinearSigmoid = {
    .name = "QLinearSigmoid", .domain = MS, .infer = unary_infer, .eval = sigmoid_eval};
const nw_op nw_op_ms_QLinearLeakyRelu = {
    .name = "QLinearLeakyRelu", .domain = MS, .infer = unary_infer, .eval = leaky_eval};

/* Softmax over `axis`; over everything from `axis` on when the attribute opset says that it is a Softmax
 * before 13. */
static nw_status softmax_span(const nw_op_call *call, const nw_tensor *x, size_t *outer, size_t *length,
                              size_t *inner) {
    bool flat = nw_node_int(call->node, "opset", 13) < 13;
    int axis, rank = x->rank > 0 ? x->rank : 1; /* a scalar is a row of one */
    NW_TRY(
        nw_call_axis(call, nw_node_int(call->node, "axis", flat && rank > 1 ? 1 : -1), rank, false, &axis));
    int end = flat ? x->rank : axis < x->rank ? axis + 1 : axis;
    *outer = nw_dims_product(x->dims, 0, axis);
    *length = nw_dims_product(x->dims, axis, end);
    *inner = nw_dims_product(x->dims, end, x->rank);
    return NW_OK;
}

static nw_status softmax_infer(nw_op_call *call) {
    size_t outer, length, inner;
    NW_TRY(unary_infer(call));
    return softmax_span(call, call->in[0], &outer, &length, &inner);
}

static nw_status softmax_eval(nw_op_call *call) {
    nw_tensor x;
    size_t outer, length, inner;
    NW_TRY(real_of(call, 0, &x));
    NW_TRY(softmax_span(call, &x, &outer, &length, &inner));
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < inner; i++) {
            float *v = (float *)x.data + o * length * inner + i, most = -INFINITY, sum = 0;
            for (size_t l = 0; l < length; l++) most = fmaxf(most, v[l * inner]);
            for (size_t l = 0; l < length; l++) sum += v[l * inner] = expf(v[l * inner] - most);
            for (size_t l = 0; l < length; l++) v[l * inner] /= sum;
        }
    return give_codes(call, 3, x.data);
}

const nw_op nw_op_ms_QLinearSoftmax = {
    .name = "QLinearSoftmax", .domain = MS, .infer = softmax_infer, .eval = softmax_eval};

/* ---- QLinearConcat: Y_scale, Y_zero, then codes, scale, zero of each input ----------------------------- */

static nw_status concat_infer(nw_op_call *call) {
    const nw_tensor *first, *t;
    int axis;
    if (call->in_count < 5 || call->in_count % 3 != 2)
        return nw_call_fail(call, NW_E_FORMAT,
                            "its inputs must be a scale, a zero point, and three for each tensor");
    NW_TRY(require_codes(call, 2, "the first tensor", &first));
    NW_TRY(nw_call_expect_grid(call, 0, 1, first->format));
    NW_TRY(nw_call_axis(call, nw_node_int(call->node, "axis", 0), first->rank, false, &axis));
    nw_tensor out = *first;
    for (int i = 5; i < call->in_count; i += 3) {
        NW_TRY(require_codes(call, i, "a tensor", &t));
        NW_TRY(nw_call_same_format(call, first, t));
        bool fits = t->rank == first->rank;
        for (int d = 0; d < first->rank && fits; d++) fits = d == axis || t->dims[d] == first->dims[d];
        if (!fits || __builtin_add_overflow(out.dims[axis], t->dims[axis], &out.dims[axis]))
            return nw_call_fail(call, NW_E_SHAPE, "the shapes of its inputs differ outside of axis %d", axis);
    }
    return nw_call_set(call, 0, first->format, out.rank, out.dims);
}

static nw_status concat_eval(nw_op_call *call) {
    nw_tensor *y = &call->out[0], x;
    float *real;
    int axis;
    size_t to = 0;
    NW_TRY(nw_call_axis(call, nw_node_int(call->node, "axis", 0), y->rank, false, &axis));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &real));
    size_t outer = nw_dims_product(y->dims, 0, axis), row = nw_dims_product(y->dims, axis, y->rank);
    for (int i = 2; i < call->in_count; i += 3) {
        NW_TRY(real_of(call, i, &x));
        size_t part = nw_dims_product(x.dims, axis, x.rank);
        for (size_t o = 0; o < outer && part; o++)
            memcpy(real + o * row + to, (const float *)x.data + o * part, part * sizeof *real);
        to += part;
    }
    return give_codes(call, 0, real);
}

const nw_op nw_op_ms_QLinearConcat = {
    .name = "QLinearConcat", .domain = MS, .infer = concat_infer, .eval = concat_eval};

/* ---- pooling: X [N,C,…] or, with channels_last, [N,…,C] ------------------------------------------------ */

static bool channels_last(const nw_op_call *call) {
    return nw_node_int(call->node, "channels_last", 0) != 0;
}

/* dims with the channel axis moved from the end to place 1 (to_first) or back. */
static void move_channels(int rank, int64_t *dims, bool to_first) {
    int64_t channel = dims[to_first ? rank - 1 : 1];
    if (to_first) {
        memmove(dims + 2, dims + 1, (size_t)(rank - 2) * sizeof *dims);
        dims[1] = channel;
    } else {
        memmove(dims + 1, dims + 2, (size_t)(rank - 2) * sizeof *dims);
        dims[rank - 1] = channel;
    }
}

static nw_status global_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(unary_infer(call));
    x = call->in[0];
    if (x->rank < 3)
        return nw_call_fail(call, NW_E_SHAPE, "its input must have at least 3 dimensions, it has %d",
                            x->rank);
    nw_tensor out = *x;
    int first = channels_last(call) ? 1 : 2, last = channels_last(call) ? x->rank - 1 : x->rank;
    for (int d = first; d < last; d++) out.dims[d] = 1;
    return nw_call_set(call, 0, x->format, out.rank, out.dims);
}

static nw_status global_eval(nw_op_call *call) {
    nw_tensor x;
    float *mean;
    NW_TRY(real_of(call, 0, &x));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(&call->out[0]), &mean));
    bool last = channels_last(call);
    size_t channels = (size_t)(last ? x.dims[x.rank - 1] : x.dims[1]), outputs = (size_t)x.dims[0] * channels;
    size_t area = last ? nw_dims_product(x.dims, 1, x.rank - 1) : nw_dims_product(x.dims, 2, x.rank);
    for (size_t i = 0; i < outputs; i++) {
        const float *v =
            (const float *)x.data + (last ? i / channels * area * channels + i % channels : i * area);
        double sum = 0;
        for (size_t k = 0; k < area; k++) sum += (double)v[last ? k * channels : k];
        mean[i] = (float)(sum / (double)area);
    }
    return give_codes(call, 3, mean);
}

const nw_op nw_op_ms_QLinearGlobalAveragePool = {
    .name = "QLinearGlobalAveragePool", .domain = MS, .infer = global_infer, .eval = global_eval};

/* Geometry of x with its channels first, whatever the layout. */
static nw_status pool_geometry(const nw_op_call *call, nw_conv_geometry *g) {
    nw_tensor x = *call->in[0];
    if (channels_last(call) && x.rank >= 3) move_channels(x.rank, x.dims, true);
    return nw_pool_geometry_of(call, &x, g);
}

static nw_status pool_infer(nw_op_call *call) {
    nw_conv_geometry g;
    int64_t dims[5];
    NW_TRY(unary_infer(call));
    NW_TRY(pool_geometry(call, &g));
    int rank = nw_conv_out_dims(&g, dims);
    if (channels_last(call)) move_channels(rank, dims, false);
    return nw_call_set(call, 0, call->in[0]->format, rank, dims);
}

/* Positions of the window that count when padding counts: those below in + pad_end. */
static int64_t padded_taps(const nw_conv_geometry *g, int axis, int64_t o) {
    int64_t room = g->in[axis] + g->pad_end[axis] - (o * g->stride[axis] - g->pad_begin[axis]);
    int64_t taps = (room + g->dilation[axis] - 1) / g->dilation[axis];
    return taps < 0 ? 0 : taps < g->kernel[axis] ? taps : g->kernel[axis];
}

/* Mean of the window at output position o of one channel; x[position·step]. */
static float window_mean(const nw_conv_geometry *g, const float *x, int64_t step, const int64_t *o,
                         bool count_pad) {
    int64_t first[3], last[3], counted = 1;
    double sum = 0;
    for (int d = 0; d < 3; d++) {
        nw_conv_taps(g, d, o[d], &first[d], &last[d]);
        counted *= count_pad ? padded_taps(g, d, o[d]) : last[d] - first[d];
    }
    for (int64_t a = first[0]; a < last[0]; a++)
        for (int64_t b = first[1]; b < last[1]; b++)
            for (int64_t c = first[2]; c < last[2]; c++) {
                int64_t at = 0;
                const int64_t tap[3] = {a, b, c};
                for (int d = 0; d < 3; d++)
                    at = at * g->in[d] + o[d] * g->stride[d] - g->pad_begin[d] + tap[d] * g->dilation[d];
                sum += (double)x[at * step];
            }
    return counted > 0 ? (float)(sum / (double)counted) : 0;
}

static nw_status pool_eval(nw_op_call *call) {
    nw_conv_geometry g;
    nw_tensor x;
    float *mean;
    NW_TRY(real_of(call, 0, &x));
    NW_TRY(pool_geometry(call, &g));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(&call->out[0]), &mean));
    bool last = channels_last(call), count_pad = nw_node_int(call->node, "count_include_pad", 0) != 0;
    int64_t area = g.in[0] * g.in[1] * g.in[2], out_area = g.out[0] * g.out[1] * g.out[2], c = g.in_channels;
    for (int64_t plane = 0; plane < g.batch * c; plane++) {
        int64_t n = plane / c, channel = plane % c;
        const float *from = (const float *)x.data + n * area * c + (last ? channel : channel * area);
        float *to = mean + n * out_area * c + (last ? channel : channel * out_area);
        for (int64_t i = 0; i < out_area; i++) {
            const int64_t o[3] = {i / g.out[2] / g.out[1], i / g.out[2] % g.out[1], i % g.out[2]};
            to[last ? i * c : i] = window_mean(&g, from, last ? c : 1, o, count_pad);
        }
    }
    return give_codes(call, 3, mean);
}

const nw_op nw_op_ms_QLinearAveragePool = {
    .name = "QLinearAveragePool", .domain = MS, .infer = pool_infer, .eval = pool_eval};
