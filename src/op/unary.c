/* unary.c: arithmetic and elementary functions of one operand, and Identity. */
#include "op/elementwise.h"

#include <string.h>
#include <tgmath.h>

/* Wraps as two's complement does, without C's undefined overflow. */
#define NEGATE(x) ((int64_t)(0 - (uint64_t)(x)))

NW_UNARY_FLOATS(absolute, fabs(x))
NW_UNARY_RUN(absolute_s64, int64_t, double, int64_t, x < 0 ? NEGATE(x) : x)
NW_UNARY_RUN(same_u64, uint64_t, double, uint64_t, x)
static const nw_unary abs_rule = {NW_FLOATS(absolute), .s64 = absolute_s64, .u64 = same_u64};
NW_UNARY_OP(Abs, "Abs", "", NULL, abs_rule)

NW_UNARY_FLOATS(negative, -x)
NW_UNARY_RUN(negative_s64, int64_t, double, int64_t, NEGATE(x))
static const nw_unary neg_rule = {NW_FLOATS(negative), .s64 = negative_s64};
NW_UNARY_OP(Neg, "Neg", "", NULL, neg_rule)

NW_UNARY_FLOATS(sign, x > 0 ? 1 : x < 0 ? -1 : x) /* zeros and NaN are their own sign */
NW_UNARY_RUN(sign_s64, int64_t, double, int64_t, (x > 0) - (x < 0))
NW_UNARY_RUN(sign_u64, uint64_t, double, uint64_t, x > 0)
static const nw_unary sign_rule = {NW_FLOATS(sign), .s64 = sign_s64, .u64 = sign_u64};
NW_UNARY_OP(Sign, "Sign", "", NULL, sign_rule)

NW_UNARY_RUN(complement_s64, int64_t, double, int64_t, ~x)
NW_UNARY_RUN(complement_u64, uint64_t, double, uint64_t, ~x)
static const nw_unary complement_rule = {.s64 = complement_s64, .u64 = complement_u64};
NW_UNARY_OP(BitwiseNot, "BitwiseNot", "", NULL, complement_rule)

NW_UNARY_RUN(not_flag, uint8_t, double, uint8_t, x == 0)
static const nw_unary not_rule = {.flag = not_flag};
NW_UNARY_OP(Not, "Not", "", NULL, not_rule)

/* An operator on floating-point numbers only. */
#define FLOAT_OP(id, roles_fn, expr)                                                                         \
    NW_UNARY_FLOATS(id, expr)                                                                                \
    static const nw_unary id##_rule = {NW_FLOATS(id)};                                                       \
    NW_UNARY_OP(id, #id, "", roles_fn, id##_rule)

FLOAT_OP(Sqrt, NULL, sqrt(x))
FLOAT_OP(Exp, NULL, exp(x))
FLOAT_OP(Log, NULL, log(x))
FLOAT_OP(Reciprocal, NULL, 1 / x)
FLOAT_OP(Floor, NULL, floor(x))
FLOAT_OP(Ceil, NULL, ceil(x))
FLOAT_OP(Round, NULL, rint(x)) /* half to even */
FLOAT_OP(Sin, NULL, sin(x))
FLOAT_OP(Cos, NULL, cos(x))
FLOAT_OP(Tan, NULL, tan(x))
FLOAT_OP(Asin, NULL, asin(x))
FLOAT_OP(Acos, NULL, acos(x))
FLOAT_OP(Atan, NULL, atan(x))
FLOAT_OP(Sinh, NULL, sinh(x))
FLOAT_OP(Cosh, NULL, cosh(x))
FLOAT_OP(Tanh, nw_roles_unary_integer, tanh(x))
FLOAT_OP(Asinh, NULL, asinh(x))
FLOAT_OP(Acosh, NULL, acosh(x))
FLOAT_OP(Atanh, NULL, atanh(x))
FLOAT_OP(Erf, NULL, erf(x))

/* ---- classification: bool results, so these are no NW_OP_UNARY, which may run in place ----------------- */

NW_UNARY_RUN(nan_f32, float, float, uint8_t, x != x)
NW_UNARY_RUN(nan_f64, double, double, uint8_t, x != x)
static const nw_unary nan_rule = {NW_FLOATS(nan), .to_bool = true, .small_floats = true};
static nw_status nan_infer(nw_op_call *call) {
    return nw_unary_infer(call, &nan_rule);
}
static nw_status nan_eval(nw_op_call *call) {
    return nw_unary_eval(call, &nan_rule);
}
const nw_op nw_op_IsNaN = {.name = "IsNaN", .domain = "", .infer = nan_infer, .eval = nan_eval};

NW_UNARY_RUN(inf_f32, float, float, uint8_t, isinf(x) && (x < 0 ? a : b) != 0)
NW_UNARY_RUN(inf_f64, double, double, uint8_t, isinf(x) && (x < 0 ? a : b) != 0)
static const nw_unary inf_rule = {NW_FLOATS(inf), .to_bool = true, .small_floats = true,
                                  .attr = {{"detect_negative", 1}, {"detect_positive", 1}}};
static nw_status inf_infer(nw_op_call *call) {
    return nw_unary_infer(call, &inf_rule);
}
static nw_status inf_eval(nw_op_call *call) {
    return nw_unary_eval(call, &inf_rule);
}
const nw_op nw_op_IsInf = {.name = "IsInf", .domain = "", .infer = inf_infer, .eval = inf_eval};

/* ---- Identity ------------------------------------------------------------------------------------------ */

static nw_status identity_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    return nw_call_set_like(call, 0, x);
}

static nw_status identity_eval(nw_op_call *call) {
    size_t bytes = nw_tensor_bytes(&call->out[0]);
    if (bytes) memmove(call->out[0].data, call->in[0]->data, bytes);
    return NW_OK;
}

const nw_op nw_op_Identity = {.name = "Identity",
                              .domain = "",
                              .flags = NW_OP_RAW | NW_OP_VIEW,
                              .infer = identity_infer,
                              .eval = identity_eval,
                              .roles = nw_roles_view,
                              .grad = nw_grad_view};
