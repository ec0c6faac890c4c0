/* activation.c: activation functions of ai.onnx and com.microsoft, PRelu, Clip, and Dropout as inference sees
 * it. In the formulas x is the element, a and b are the operator's attributes, `real` is the working type;
 * NaN stays NaN. */
#include "op/elementwise.h"

#include <string.h>
#include <tgmath.h>

#define MS "com.microsoft"

/* Activation on floating-point numbers with up to two attributes. */
#define ACTIVATION(symbol, text, op_domain, roles_fn, expr, ...)                                             \
    NW_UNARY_FLOATS(symbol, expr)                                                                            \
    static const nw_unary symbol##_rule = {NW_FLOATS(symbol), .attr = {__VA_ARGS__}};                        \
    NW_UNARY_OP(symbol, text, op_domain, roles_fn, symbol##_rule)
#define ONNX_ACTIVATION(id, roles_fn, expr, ...) ACTIVATION(id, #id, "", roles_fn, expr, __VA_ARGS__)

#define SIGMOID(x)  (1 / (1 + exp(-(x))))
#define SOFTPLUS(x) ((x) > 0 ? (x) + log1p(exp(-(x))) : log1p(exp(x))) /* log(1 + eˣ) without overflow */
#define CLAMP01(x)  ((x) < 0 ? 0 : (x) > 1 ? 1 : (x))
/* x·Φ(x), Φ(x) = ½·erfc(−x/√2): the tail keeps its digits, which ½·(1 + erf) loses. */
#define GELU(x) ((x) * (real)0.5 * erfc((x) * (real)-0.70710678118654752440))
/* Φ(x) ≈ ½·(1 + tanh u) = sigmoid(2u), u = √(2/π)·(x + 0.044715·x³) */
#define GELU_TANH(x) ((x)*SIGMOID((real)1.59576912160573071176 * ((x) + (real)0.044715 * (x) * (x) * (x))))

/* Relu fuses into its producer: no integer form of its own. */
NW_UNARY_FLOATS(relu, x < 0 ? 0 : x)
NW_UNARY_RUN(relu_s64, int64_t, double, int64_t, x < 0 ? 0 : x)
static const nw_unary relu_rule = {NW_FLOATS(relu), .s64 = relu_s64};
NW_UNARY_OP(Relu, "Relu", "", nw_roles_unary_float, relu_rule)

ONNX_ACTIVATION(LeakyRelu, nw_roles_unary_integer, x < 0 ? a * x : x, {"alpha", 0.01f})
ONNX_ACTIVATION(ThresholdedRelu, nw_roles_unary_integer, x > a ? x : x != x ? x : 0, {"alpha", 1})
ONNX_ACTIVATION(Elu, nw_roles_unary_integer, x < 0 ? a * expm1(x) : x, {"alpha", 1})
ONNX_ACTIVATION(Celu, nw_roles_unary_integer, x < 0 ? a * expm1(x / a) : x, {"alpha", 1})
ONNX_ACTIVATION(Selu, nw_roles_unary_integer, b *(x < 0 ? a * expm1(x) : x),
                {"alpha", 1.67326319217681884765625f}, {"gamma", 1.05070102214813232421875f})
ONNX_ACTIVATION(Sigmoid, nw_roles_unary_integer, SIGMOID(x), {NULL, 0})
ONNX_ACTIVATION(HardSigmoid, nw_roles_unary_integer, CLAMP01(a *x + b), {"alpha", 0.2f}, {"beta", 0.5f})
ONNX_ACTIVATION(HardSwish, nw_roles_unary_integer, x *CLAMP01(x / 6 + (real)0.5), {NULL, 0})
ONNX_ACTIVATION(Softplus, nw_roles_unary_integer, SOFTPLUS(x), {NULL, 0})
ONNX_ACTIVATION(Softsign, nw_roles_unary_integer, x / (1 + fabs(x)), {NULL, 0})
ONNX_ACTIVATION(Mish, nw_roles_unary_integer, x *tanh(SOFTPLUS(x)), {NULL, 0})
ONNX_ACTIVATION(Swish, nw_roles_unary_integer, x *SIGMOID(a *x), {"alpha", 1})

/* ---- Gelu: stays float, its narrow negative side suffers most from 8 bits ------------------------------ */

ACTIVATION(ms_Gelu, "Gelu", MS, nw_roles_unary_float, GELU(x), {NULL, 0})
ACTIVATION(ms_QuickGelu, "QuickGelu", MS, nw_roles_unary_float, x *SIGMOID(a *x), {"alpha", 1.702f})

NW_UNARY_FLOATS(gelu_tanh, GELU_TANH(x))
static const nw_unary gelu_tanh_rule = {NW_FLOATS(gelu_tanh)};

static nw_status gelu_infer(nw_op_call *call) {
    int how;
    NW_TRY(nw_call_word_attr(call, "approximate", (const char *const[]){"none", "tanh", NULL}, &how));
    return nw_unary_infer(call, &ms_Gelu_rule);
}

static nw_status gelu_eval(nw_op_call *call) {
    bool exact = nw_node_string_is(call->node, "approximate", "none", "none");
    return nw_unary_eval(call, exact ? &ms_Gelu_rule : &gelu_tanh_rule);
}

const nw_op nw_op_Gelu = {.name = "Gelu",
                          .domain = "",
                          .flags = NW_OP_UNARY,
                          .infer = gelu_infer,
                          .eval = gelu_eval,
                          .roles = nw_roles_unary_float,
                          .grad = nw_grad_unary};

/* y = gelu(x + bias), bias [last dimension of x], optional in FastGelu. */
static nw_status bias_gelu_infer(nw_op_call *call) {
    NW_TRY(nw_unary_infer(call, &ms_Gelu_rule));
    const nw_tensor *x = call->in[0], *bias = nw_call_in(call, 1);
    if (!bias) return NW_OK;
    NW_TRY(nw_call_same_format(call, x, bias));
    if (bias->rank != 1 || x->rank < 1 || bias->dims[0] != x->dims[x->rank - 1])
        return nw_call_fail(call, NW_E_SHAPE,
                            "the bias must have one dimension, as long as the last one of the input");
    return NW_OK;
}

static nw_status bias_gelu_eval(nw_op_call *call, const nw_unary *rule) {
    const nw_tensor *bias = nw_call_in(call, 1);
    if (!bias) return nw_unary_eval(call, rule);
    nw_binary_apply(&nw_binary_add, call->in[0], bias, &call->out[0]);
    nw_unary_apply(rule, (const double[NW_UNARY_PARAMS]){0}, &call->out[0], &call->out[0]);
    return NW_OK;
}

static nw_status BiasGelu_infer(nw_op_call *call) {
    const nw_tensor *bias;
    NW_TRY(nw_call_require(call, 1, &bias));
    return bias_gelu_infer(call);
}

static nw_status BiasGelu_eval(nw_op_call *call) {
    return bias_gelu_eval(call, &ms_Gelu_rule);
}
static nw_status FastGelu_eval(nw_op_call *call) {
    return bias_gelu_eval(call, &gelu_tanh_rule);
}

/* dx = dy·gelu'(x + bias), dbias = Σ dx */
static nw_status gelu_of_sum_grad(nw_grad_call *c, const char *function) {
    int x = nw_grad_in(c, 0), bias = nw_grad_in(c, 1);
    if (bias >= 0) x = nw_grad_op2(c, "Add", x, bias);
    c->dx[0] = nw_grad_slope(c, function, x, c->dy[0]);
    if (nw_grad_wants(c, 1)) c->dx[1] = nw_grad_sum_to(c, c->dx[0], bias);
    return c->status;
}
static nw_status bias_gelu_grad(nw_grad_call *c) {
    return gelu_of_sum_grad(c, "Gelu");
}
static nw_status fast_gelu_grad(nw_grad_call *c) {
    return gelu_of_sum_grad(c, "FastGelu");
}

const nw_op nw_op_ms_BiasGelu = {.name = "BiasGelu",
                                 .domain = MS,
                                 .infer = BiasGelu_infer,
                                 .eval = BiasGelu_eval,
                                 .roles = nw_roles_unary_float,
                                 .grad = bias_gelu_grad};
const nw_op nw_op_ms_FastGelu = {.name = "FastGelu",
                                 .domain = MS,
                                 .infer = bias_gelu_infer,
                                 .eval = FastGelu_eval,
                                 .roles = nw_roles_unary_float,
                                 .grad = fast_gelu_grad};

/* ---- Shrink -------------------------------------------------------------------------------------------- */

/* Integers meet the real bias in double and are truncated back into 64 bits. */
static int64_t shrink_s64(int64_t x, double bias, double lambda) {
    double y = (double)x < -lambda ? (double)x + bias : (double)x > lambda ? (double)x - bias : 0;
    return y >= 9223372036854775808.0 ? INT64_MAX : y >= -9223372036854775808.0 ? (int64_t)y : INT64_MIN;
}

static uint64_t shrink_u64(uint64_t x, double bias, double lambda) {
    double y = (double)x < -lambda ? (double)x + bias : (double)x > lambda ? (double)x - bias : 0;
    return y >= 18446744073709551616.0 ? UINT64_MAX : y > 0 ? (uint64_t)y : 0;
}

NW_UNARY_FLOATS(shrink, (x < -b) ? x + a : (x > b) ? x - a : x != x ? x : 0)
NW_UNARY_RUN(shrink_s64_run, int64_t, double, int64_t, shrink_s64(x, a, b))
NW_UNARY_RUN(shrink_u64_run, uint64_t, double, uint64_t, shrink_u64(x, a, b))
static const nw_unary shrink_rule = {NW_FLOATS(shrink), .s64 = shrink_s64_run, .u64 = shrink_u64_run,
                                     .attr = {{"bias", 0}, {"lambd", 0.5}}};
NW_UNARY_OP(Shrink, "Shrink", "", NULL, shrink_rule)

/* ---- PRelu: x [any], slope broadcast to x -------------------------------------------------------------- */

NW_BINARY_FLOATS(prelu, p < 0 ? p * q : p)
NW_BINARY_RUN(prelu_s64, int64_t, int64_t, p < 0 ? (int64_t)((uint64_t)p * (uint64_t)q) : p)
NW_BINARY_RUN(prelu_u64, uint64_t, uint64_t, ((void)q, p))
static const nw_binary prelu_rule = {NW_FLOATS(prelu), .s64 = prelu_s64, .u64 = prelu_u64};

/* Before opset 7 a slope of one dimension belongs to the channels, axis 1. */
static nw_tensor aligned_slope(const nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor slope = *call->in[1];
    if (call->version >= 7 || slope.rank != 1 || slope.dims[0] == 1 || x->rank < 2) return slope;
    slope.rank = x->rank - 1;
    for (int d = 1; d < slope.rank; d++) slope.dims[d] = 1;
    return slope;
}

static nw_status prelu_infer(nw_op_call *call) {
    const nw_tensor *x, *slope;
    nw_tensor shape;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &slope));
    NW_TRY(nw_call_same_format(call, x, slope));
    if (!nw_binary_accepts(&prelu_rule, nw_real_format(x)))
        return nw_call_fail(call, NW_E_TYPE, "it does not take elements of type %s",
                            nw_format_name(x->format));
    nw_tensor aligned = aligned_slope(call);
    NW_TRY(nw_call_broadcast(call, (const nw_tensor *[]){x, &aligned}, 2, &shape));
    if (!nw_tensor_same_shape(&shape, x))
        return nw_call_fail(call, NW_E_SHAPE, "the slope does not broadcast to the input's shape");
    return nw_call_set_like(call, 0, x);
}

static nw_status prelu_eval(nw_op_call *call) {
    nw_tensor slope = aligned_slope(call);
    nw_binary_apply(&prelu_rule, call->in[0], &slope, &call->out[0]);
    return NW_OK;
}

/* y = x, or s·x below 0: dx = dy, or dy·s; ds = Σ dy·x over what is below 0. */
static nw_status prelu_grad(nw_grad_call *c) {
    int x = nw_grad_in(c, 0), slope = nw_grad_in(c, 1), dy = c->dy[0];
    const nw_op_call *call = nw_grad_forward(c);
    if (!call) return c->status;
    nw_tensor aligned = aligned_slope(call);
    int s = nw_grad_reshape(c, slope, aligned.rank, aligned.dims);
    int below = nw_grad_op2(c, "Less", x, nw_grad_number(c, x, 0));
    if (nw_grad_wants(c, 0)) {
        nw_grad_begin(c, "", "Where", 3, (int[]){below, nw_grad_op2(c, "Mul", dy, s), dy});
        c->dx[0] = nw_grad_end(c);
    }
    if (nw_grad_wants(c, 1)) {
        int product = nw_grad_op2(c, "Mul", dy, x);
        nw_grad_begin(c, "", "Where", 3, (int[]){below, product, nw_grad_number(c, x, 0)});
        c->dx[1] = nw_grad_reshape_like(c, nw_grad_sum_to(c, nw_grad_end(c), s), slope);
    }
    return c->status;
}

const nw_op nw_op_PRelu = {.name = "PRelu",
                           .domain = "",
                           .flags = NW_OP_BINARY,
                           .infer = prelu_infer,
                           .eval = prelu_eval,
                           .roles = nw_roles_unary_float,
                           .grad = prelu_grad};

/* ---- Clip: y = min(max(x, lo), hi); attributes before opset 11, optional scalar inputs since ----------- */

NW_UNARY_RUN(clip_f32, float, float, float, (x < a) ? (a > b ? b : a) : (x > b) ? b : x)
NW_UNARY_RUN(clip_f64, double, double, double, (x < a) ? (a > b ? b : a) : (x > b) ? b : x)
static const nw_unary clip_rule = {NW_FLOATS(clip)};

static nw_status clip_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    if (!nw_binary_accepts(&nw_binary_max, nw_real_format(x)))
        return nw_call_fail(call, NW_E_TYPE, "it clips numbers, not %s", nw_format_name(x->format));
    for (int i = 1; i <= 2; i++) {
        const nw_tensor *limit = nw_call_in(call, i);
        if (!limit) continue;
        NW_TRY(nw_call_same_format(call, x, limit));
        if (nw_tensor_count(limit) != 1)
            return nw_call_fail(call, NW_E_SHAPE, "%s must be a single number", i == 1 ? "min" : "max");
    }
    return nw_call_set_like(call, 0, x);
}

static nw_status clip_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *lo = nw_call_in(call, 1), *hi = nw_call_in(call, 2);
    nw_tensor *y = &call->out[0];
    if (nw_format_is_float(x->format)) {
        double limits[NW_UNARY_PARAMS] = {nw_node_float(call->node, "min", -INFINITY),
                                          nw_node_float(call->node, "max", INFINITY)};
        if (lo) limits[0] = nw_tensor_f64(lo, 0);
        if (hi) limits[1] = nw_tensor_f64(hi, 0);
        nw_unary_apply(&clip_rule, limits, x, y);
        return NW_OK;
    }
    /* Limits as tensors of one element: a double cannot hold every 64-bit integer. Max(x, x) is a copy. */
    nw_tensor low = lo ? *lo : *x, high = hi ? *hi : *y;
    if (lo) low.rank = 0;
    if (hi) high.rank = 0;
    nw_binary_apply(&nw_binary_max, x, &low, y);
    nw_binary_apply(&nw_binary_min, y, &high, y);
    return NW_OK;
}

/* dx = dy where lo ≤ x ≤ hi, 0 elsewhere. The limits must be constants. */
static nw_status clip_grad(nw_grad_call *c) {
    const char *const names[] = {NULL, "min", "max"};
    nw_grad_begin(c, "ai.narrow", "UnaryGrad", 2, (int[]){nw_grad_in(c, 0), c->dy[0]});
    nw_grad_copy_attrs(c);
    nw_grad_set_string(c, "function", "Clip");
    for (int i = 1; i <= 2; i++) {
        nw_tensor limit = nw_grad_tensor(c, nw_grad_in(c, i));
        if (limit.format == NW_NONE) continue;
        if (!limit.data)
            nw_grad_fail(c, NW_E_UNSUPPORTED, "its %s is computed; only constants can be trained through",
                         names[i]);
        if (limit.data) nw_grad_set_float(c, names[i], (float)nw_tensor_f64(&limit, 0));
    }
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_Clip = {.name = "Clip",
                          .domain = "",
                          .flags = NW_OP_UNARY,
                          .infer = clip_infer,
                          .eval = clip_eval,
                          .roles = nw_roles_unary_float,
                          .grad = clip_grad};

/* ---- Dropout: in inference a copy; the mask says that everything was kept ------------------------------ */

static nw_status dropout_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    if (!nw_format_is_float(nw_real_format(x))) NW_TRY(nw_call_expect_float(call, x));
    const nw_tensor *ratio = nw_call_in(call, 1), *training = nw_call_in(call, 2);
    if ((ratio && nw_tensor_count(ratio) != 1) || (training && nw_tensor_count(training) != 1))
        return nw_call_fail(call, NW_E_SHAPE, "ratio and training_mode must be single values");
    NW_TRY(nw_call_set_like(call, 0, x));
    return nw_call_set(call, 1, call->version >= 10 ? NW_BOOL : nw_real_format(x), x->rank, x->dims);
}

static nw_status dropout_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *ratio = nw_call_in(call, 1), *training = nw_call_in(call, 2);
    bool drops = training && nw_tensor_f64(training, 0) != 0 && (!ratio || nw_tensor_f64(ratio, 0) != 0);
    if (drops)
        return nw_call_fail(call, NW_E_UNSUPPORTED,
                            "training_mode is on with a ratio above 0; models run in inference mode only: "
                            "export the model for inference, or set training_mode to false");
    size_t bytes = nw_tensor_bytes(x);
    if (bytes) memmove(call->out[0].data, x->data, bytes);
    if (!nw_call_wants(call, 1)) return NW_OK;
    nw_tensor *mask = &call->out[1];
    for (size_t i = 0, count = nw_tensor_count(mask); i < count; i++)
        nw_store_s64(mask->format, mask->data, i, 1);
    return NW_OK;
}

/* What eval refuses, it never does: y = x. */
static nw_status dropout_grad(nw_grad_call *c) {
    c->dx[0] = nw_grad_op1(c, "Identity", c->dy[0]);
    return c->status;
}

const nw_op nw_op_Dropout = {.name = "Dropout",
                             .domain = "",
                             .infer = dropout_infer,
                             .eval = dropout_eval,
                             .roles = nw_roles_view,
                             .grad = dropout_grad};
