/* grad_unary.c: derivatives of the functions of one element, and ai.narrow.UnaryGrad, which applies them:
 *   inputs: v, dy (same shape); output: dx = dy·f'(v)
 *   attributes: function (an operator's name), and those of that operator
 * v is the argument x, or the result y where the derivative is cheaper in y: then x need not be kept. Single
 * precision whatever the type. */
#include "op/grad.h"
#include "op/real.h"
#include "op/slope.h"

#include <math.h>
#include <string.h>

/* Defines the loop `name`: dx = dy·(expr), in terms of v and of a and b, the function's attributes. */
#define SLOPE(name, expr)                                                                                    \
    static void name(size_t n, const float *vs, const float *dys, float a, float b, float *dxs) {            \
        (void)a, (void)b;                                                                                    \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const float v = vs[i];                                                                           \
            (void)v;                                                                                         \
            dxs[i] = dys[i] * (expr);                                                                        \
        }                                                                                                    \
    }

/* The same for slopes of 0 and 1: dx = dy where the condition holds, else 0; as a choice, which vectorizes,
 * not a product. */
#define GATE(name, condition)                                                                                \
    static void name(size_t n, const float *vs, const float *dys, float a, float b, float *dxs) {            \
        (void)a, (void)b;                                                                                    \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const float v = vs[i], dy = dys[i];                                                              \
            dxs[i] = (condition) ? dy : 0;                                                                   \
        }                                                                                                    \
    }

static inline float sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

static inline float sign_of(float x) {
    return (float)((x > 0) - (x < 0));
}

/* x·σ(a·x): s + a·x·s·(1 − s) */
static inline float swish_slope(float x, float a) {
    float s = sigmoid(a * x);
    return s + a * x * s * (1 - s);
}

/* x·Φ(x): Φ(x) + x·φ(x) */
static inline float gelu_slope(float x) {
    return 0.5f * erfcf(x * -0.70710678f) + x * 0.39894228f * expf(-0.5f * x * x);
}

/* x·σ(u), u = √(8/π)·(x + 0.044715·x³) */
static inline float gelu_tanh_slope(float x) {
    float s = sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
    return s + x * s * (1 - s) * 1.59576912f * (1 + 0.134145f * x * x);
}

/* x·tanh(p), p = softplus(x), p' = σ(x) */
static inline float mish_slope(float x) {
    float t = tanhf(x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x)));
    return t + x * (1 - t * t) * sigmoid(x);
}

/* In y: */
GATE(relu, v > 0)
SLOPE(sigmoid_y, v *(1 - v))
SLOPE(tanh_y, 1 - v * v)
SLOPE(exp_y, v)
SLOPE(sqrt_y, 0.5f / v)
SLOPE(reciprocal_y, -v *v)
SLOPE(softplus_y, -expm1f(-v))
SLOPE(tan_y, 1 + v * v)
/* In x: */
SLOPE(neg_x, -1)
SLOPE(log_x, 1 / v)
SLOPE(abs_x, sign_of(v))
SLOPE(erf_x, 1.12837917f * expf(-v * v)) /* 2/√π·e^−x² */
SLOPE(sin_x, cosf(v))
SLOPE(cos_x, -sinf(v))
SLOPE(asin_x, 1 / sqrtf(1 - v * v))
SLOPE(acos_x, -1 / sqrtf(1 - v * v))
SLOPE(atan_x, 1 / (1 + v * v))
SLOPE(sinh_x, coshf(v))
SLOPE(cosh_x, sinhf(v))
SLOPE(asinh_x, 1 / sqrtf(v * v + 1))
SLOPE(acosh_x, 1 / sqrtf(v * v - 1))
SLOPE(atanh_x, 1 / (1 - v * v))
SLOPE(leaky_relu, v < 0 ? a : 1)
GATE(thresholded_relu, v > a)
SLOPE(elu, v < 0 ? a * expf(v) : 1)
SLOPE(celu, v < 0 ? expf(v / a) : 1)
SLOPE(selu, v < 0 ? b * a * expf(v) : b)
SLOPE(hard_sigmoid, a *v + b > 0 && a * v + b < 1 ? a : 0)
SLOPE(hard_swish, v <= -3 ? 0 : v >= 3 ? 1 : v / 3 + 0.5f)
SLOPE(softsign, 1 / ((1 + fabsf(v)) * (1 + fabsf(v))))
SLOPE(mish, mish_slope(v))
SLOPE(swish, swish_slope(v, a))
SLOPE(gelu, gelu_slope(v))
SLOPE(gelu_tanh, gelu_tanh_slope(v))
GATE(shrink, fabsf(v) > a)
GATE(clip, (v >= a) & (v <= b)) /* straight through at the limits themselves */

static const struct slope {
    const char *function;
    nw_slope_run *run;
    bool of_result; /* v is y */
    struct {
        const char *name; /* of a float attribute, NULL: none */
        float absent;
    } attr[2];
} slopes[] = {
    {"Relu", relu, true, {{0}}},
    {"Sigmoid", sigmoid_y, true, {{0}}},
    {"Tanh", tanh_y, true, {{0}}},
    {"Exp", exp_y, true, {{0}}},
    {"Sqrt", sqrt_y, true, {{0}}},
    {"Reciprocal", reciprocal_y, true, {{0}}},
    {"Softplus", softplus_y, true, {{0}}},
    {"Tan", tan_y, true, {{0}}},
    {"Neg", neg_x, false, {{0}}},
    {"Log", log_x, false, {{0}}},
    {"Abs", abs_x, false, {{0}}},
    {"Erf", erf_x, false, {{0}}},
    {"Sin", sin_x, false, {{0}}},
    {"Cos", cos_x, false, {{0}}},
    {"Asin", asin_x, false, {{0}}},
    {"Acos", acos_x, false, {{0}}},
    {"Atan", atan_x, false, {{0}}},
    {"Sinh", sinh_x, false, {{0}}},
    {"Cosh", cosh_x, false, {{0}}},
    {"Asinh", asinh_x, false, {{0}}},
    {"Acosh", acosh_x, false, {{0}}},
    {"Atanh", atanh_x, false, {{0}}},
    {"LeakyRelu", leaky_relu, false, {{"alpha", 0.01f}}},
    {"ThresholdedRelu", thresholded_relu, false, {{"alpha", 1}}},
    {"Elu", elu, false, {{"alpha", 1}}},
    {"Celu", celu, false, {{"alpha", 1}}},
    {"Selu", selu, false, {{"alpha", 1.67326319f}, {"gamma", 1.05070102f}}},
    {"HardSigmoid", hard_sigmoid, false, {{"alpha", 0.2f}, {"beta", 0.5f}}},
    {"HardSwish", hard_swish, false, {{0}}},
    {"Softsign", softsign, false, {{0}}},
    {"Mish", mish, false, {{0}}},
    {"Swish", swish, false, {{"alpha", 1}}},
    {"QuickGelu", swish, false, {{"alpha", 1.702f}}},
    {"Gelu", gelu, false, {{0}}},
    {"FastGelu", gelu_tanh, false, {{0}}},
    {"Shrink", shrink, false, {{"lambd", 0.5f}}},
    {"Clip", clip, false, {{"min", -INFINITY}, {"max", INFINITY}}},
};

static const struct slope *slope_of(const char *function) {
    for (size_t i = 0; i < sizeof slopes / sizeof *slopes; i++)
        if (strcmp(slopes[i].function, function) == 0) return &slopes[i];
    return NULL;
}

bool nw_slope_of(const nw_node *node, nw_slope *slope) {
    const struct slope *s = slope_of(nw_node_string(node, "function", ""));
    float p[2] = {0};
    if (!s) return false;
    for (int i = 0; i < 2; i++)
        if (s->attr[i].name) p[i] = nw_node_float(node, s->attr[i].name, s->attr[i].absent);
    *slope = (nw_slope){s->run, p[0], p[1]};
    return true;
}

static nw_status slope_infer(nw_op_call *call) {
    const nw_tensor *v, *dy;
    NW_TRY(nw_call_require_real(call, 0, &v));
    NW_TRY(nw_call_require_real(call, 1, &dy));
    if (!nw_tensor_same_shape(v, dy))
        return nw_call_fail(call, NW_E_SHAPE, "its two inputs must have the same shape");
    const char *function = nw_node_string(call->node, "function", "");
    if (!slope_of(function))
        return nw_call_fail(call, NW_E_ARGUMENT, "the derivative of \"%s\" is not known", function);
    return nw_call_set_like(call, 0, dy);
}

static nw_status slope_eval(nw_op_call *call) {
    nw_slope slope;
    const float *v, *dy;
    float *dx;
    if (!nw_slope_of(call->node, &slope)) return NW_E_INTERNAL; /* infer has refused it */
    NW_TRY(nw_call_f32(call, 0, &v));
    NW_TRY(nw_call_f32(call, 1, &dy));
    NW_TRY(nw_call_f32_out(call, 0, &dx));
    slope.run(nw_tensor_count(&call->out[0]), v, dy, slope.a, slope.b, dx);
    nw_call_f32_done(call, 0, dx);
    return NW_OK;
}

const nw_op nw_op_narrow_UnaryGrad = {
    .name = "UnaryGrad", .domain = "ai.narrow", .infer = slope_infer, .eval = slope_eval};

/* ---- for the operators --------------------------------------------------------------------------------- */

int nw_grad_slope(nw_grad_call *c, const char *function, int v, int dy) {
    nw_grad_begin(c, "ai.narrow", "UnaryGrad", 2, (int[]){v, dy});
    nw_grad_copy_attrs(c);
    nw_grad_set_string(c, "function", function);
    return nw_grad_end(c);
}

nw_status nw_grad_unary(nw_grad_call *c) {
    const char *function = c->node->op->name;
    const struct slope *s = slope_of(function);
    if (!s) {
        nw_grad_fail(c, NW_E_UNSUPPORTED, "it has no derivative that training could use");
        return c->status;
    }
    if (nw_node_string_is(c->node, "approximate", "none", "tanh")) function = "FastGelu";
    c->dx[0] = nw_grad_slope(c, function, s->of_result ? nw_grad_out(c, 0) : nw_grad_in(c, 0), c->dy[0]);
    return c->status;
}
