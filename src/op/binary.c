/* binary.c: arithmetic and bit operators of two operands, and the variadic ones that fold them. In the
 * formulas p and q are the elements of the two operands. */
#include "op/elementwise.h"

#include <string.h>
#include <tgmath.h>

/* Sums, differences, products and bit patterns are the same bits for signed and unsigned 64-bit integers, so
 * that one loop serves both, wrapping without C's undefined overflow. */

NW_BINARY_FLOATS(add, p + q)
NW_BINARY_RUN(add_u64, uint64_t, uint64_t, p + q)
const nw_binary nw_binary_add = {NW_FLOATS(add), .s64 = add_u64, .u64 = add_u64};

NW_BINARY_FLOATS(sub, p - q)
NW_BINARY_RUN(sub_u64, uint64_t, uint64_t, p - q)
static const nw_binary sub_rule = {NW_FLOATS(sub), .s64 = sub_u64, .u64 = sub_u64};

NW_BINARY_FLOATS(mul, p *q)
NW_BINARY_RUN(mul_u64, uint64_t, uint64_t, p *q)
const nw_binary nw_binary_mul = {NW_FLOATS(mul), .s64 = mul_u64, .u64 = mul_u64};

/* NaN in either operand gives NaN. */
NW_BINARY_FLOATS(min, p < q || p != p ? p : q)
NW_BINARY_RUN(min_s64, int64_t, int64_t, p < q ? p : q)
NW_BINARY_RUN(min_u64, uint64_t, uint64_t, p < q ? p : q)
const nw_binary nw_binary_min = {NW_FLOATS(min), .s64 = min_s64, .u64 = min_u64};

NW_BINARY_FLOATS(max, p > q || p != p ? p : q)
NW_BINARY_RUN(max_s64, int64_t, int64_t, p > q ? p : q)
NW_BINARY_RUN(max_u64, uint64_t, uint64_t, p > q ? p : q)
const nw_binary nw_binary_max = {NW_FLOATS(max), .s64 = max_s64, .u64 = max_u64};

NW_BINARY_RUN(and_u64, uint64_t, uint64_t, p &q)
static const nw_binary and_rule = {.s64 = and_u64, .u64 = and_u64};
NW_BINARY_RUN(or_u64, uint64_t, uint64_t, p | q)
static const nw_binary or_rule = {.s64 = or_u64, .u64 = or_u64};
NW_BINARY_RUN(xor_u64, uint64_t, uint64_t, p ^ q)
static const nw_binary xor_rule = {.s64 = xor_u64, .u64 = xor_u64};

static void roles_both(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = roles->in[1] = NW_ROLE_DATA;
    roles->compute = true;
}

/* Every operand gets dy, summed over the axes along which it was repeated. */
static nw_status add_grad(nw_grad_call *c) {
    for (int i = 0; i < c->node->in_count; i++)
        if (c->wanted[i]) c->dx[i] = nw_grad_sum_to(c, c->dy[0], c->node->in[i]);
    return c->status;
}

/* da = dy, db = −dy */
static nw_status sub_grad(nw_grad_call *c) {
    add_grad(c);
    if (c->wanted[1]) c->dx[1] = nw_grad_op1(c, "Neg", c->dx[1]);
    return c->status;
}

/* da = dy·b, db = dy·a */
static nw_status mul_grad(nw_grad_call *c) {
    for (int i = 0; i < 2; i++)
        if (c->wanted[i])
            c->dx[i] = nw_grad_sum_to(c, nw_grad_op2(c, "Mul", c->dy[0], c->node->in[1 - i]), c->node->in[i]);
    return c->status;
}

NW_BINARY_OP(Add, roles_both, add_grad, nw_binary_add)
NW_BINARY_OP(Sub, NULL, sub_grad, sub_rule)
NW_BINARY_OP(Mul, roles_both, mul_grad, nw_binary_mul)
NW_BINARY_OP(BitwiseAnd, NULL, NULL, and_rule)
NW_BINARY_OP(BitwiseOr, NULL, NULL, or_rule)
NW_BINARY_OP(BitwiseXor, NULL, NULL, xor_rule)

/* ---- Div and Mod --------------------------------------------------------------------------------------- */

/* Integer loops below divide by what passed here. A signed minimum divided by −1 wraps. */
static nw_status check_divisor(const nw_op_call *call) {
    const nw_tensor *b = call->in[1];
    if (!nw_format_is_integer(b->format)) return NW_OK;
    for (size_t i = 0, n = nw_tensor_count(b); i < n; i++)
        if (nw_load_s64(b->format, b->data, i) == 0)
            return nw_call_fail(call, NW_E_ARGUMENT, "integer division by zero (element %zu of the divisor)",
                                i);
    return NW_OK;
}

NW_BINARY_FLOATS(div, p / q)
NW_BINARY_RUN(div_s64, int64_t, int64_t, q == -1 ? (int64_t)(0 - (uint64_t)p) : p / q)
NW_BINARY_RUN(div_u64, uint64_t, uint64_t, p / q)
static const nw_binary div_rule = {NW_FLOATS(div), .s64 = div_s64, .u64 = div_u64};

static nw_status div_infer(nw_op_call *call) {
    return nw_binary_infer(call, &div_rule);
}

static nw_status div_eval(nw_op_call *call) {
    NW_TRY(check_divisor(call));
    return nw_binary_eval(call, &div_rule);
}

/* y = a/b: da = dy/b, db = −dy·y/b */
static nw_status div_grad(nw_grad_call *c) {
    int a = nw_grad_in(c, 0), b = nw_grad_in(c, 1), quotient = nw_grad_op2(c, "Div", c->dy[0], b);
    if (c->wanted[0]) c->dx[0] = nw_grad_sum_to(c, quotient, a);
    if (c->wanted[1])
        c->dx[1] =
            nw_grad_op1(c, "Neg", nw_grad_sum_to(c, nw_grad_op2(c, "Mul", quotient, nw_grad_out(c, 0)), b));
    return c->status;
}

const nw_op nw_op_Div = {.name = "Div",
                         .domain = "",
                         .flags = NW_OP_BINARY,
                         .infer = div_infer,
                         .eval = div_eval,
                         .grad = div_grad};

/* The remainder with the divisor's sign (Python's %). */
static int64_t floor_mod_s64(int64_t p, int64_t q) {
    int64_t r = q == -1 ? 0 : p % q;
    return r != 0 && (r < 0) != (q < 0) ? r + q : r;
}

static double floor_mod_f64(double p, double q) {
    double r = fmod(p, q);
    if (r == 0) return copysign(0.0, q);
    return (r < 0) != (q < 0) ? r + q : r;
}

NW_BINARY_RUN(floor_f32, float, float, floor_mod_f64(p, q))
NW_BINARY_RUN(floor_f64, double, double, floor_mod_f64(p, q))
NW_BINARY_RUN(floor_s64, int64_t, int64_t, floor_mod_s64(p, q))
NW_BINARY_RUN(remainder_u64, uint64_t, uint64_t, p % q)
static const nw_binary floor_rule = {NW_FLOATS(floor), .s64 = floor_s64, .u64 = remainder_u64};

NW_BINARY_FLOATS(truncated, fmod(p, q))
NW_BINARY_RUN(truncated_s64, int64_t, int64_t, q == -1 ? 0 : p % q)
static const nw_binary truncated_rule = {NW_FLOATS(truncated), .s64 = truncated_s64, .u64 = remainder_u64};

static nw_status mod_infer(nw_op_call *call) {
    return nw_binary_infer(call, &floor_rule);
}

static nw_status mod_eval(nw_op_call *call) {
    NW_TRY(check_divisor(call));
    return nw_binary_eval(call, nw_node_int(call->node, "fmod", 0) ? &truncated_rule : &floor_rule);
}

const nw_op nw_op_Mod = {
    .name = "Mod", .domain = "", .flags = NW_OP_BINARY, .infer = mod_infer, .eval = mod_eval};

/* ---- BitShift: shifts beyond the width leave only the sign --------------------------------------------- */

NW_BINARY_RUN(left_u64, uint64_t, uint64_t, q > 63 ? 0 : p << q)
static const nw_binary left_rule = {.s64 = left_u64, .u64 = left_u64};
NW_BINARY_RUN(right_s64, int64_t, int64_t, p >> ((uint64_t)q > 63 ? 63 : q))
NW_BINARY_RUN(right_u64, uint64_t, uint64_t, q > 63 ? 0 : p >> q)
static const nw_binary right_rule = {.s64 = right_s64, .u64 = right_u64};

static nw_status shift_infer(nw_op_call *call) {
    int direction;
    if (!nw_node_attr(call->node, "direction"))
        return nw_call_fail(call, NW_E_FORMAT, "attribute direction is missing; it must be LEFT or RIGHT");
    NW_TRY(nw_call_word_attr(call, "direction", (const char *const[]){"LEFT", "RIGHT", NULL}, &direction));
    return nw_binary_infer(call, &left_rule);
}

static nw_status shift_eval(nw_op_call *call) {
    bool left = nw_node_string_is(call->node, "direction", "LEFT", "LEFT");
    return nw_binary_eval(call, left ? &left_rule : &right_rule);
}

const nw_op nw_op_BitShift = {
    .name = "BitShift", .domain = "", .flags = NW_OP_BINARY, .infer = shift_infer, .eval = shift_eval};

/* ---- Pow: z has x's type; the exponent may have another ------------------------------------------------ */

/* Squares of squares; overflow wraps. A negative exponent leaves 1 only of ±1. */
static int64_t power_s64(int64_t base, int64_t exponent) {
    if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent & 1 ? -1 : 1) : 0;
    uint64_t result = 1, square = (uint64_t)base;
    for (uint64_t e = (uint64_t)exponent; e; e >>= 1, square *= square)
        if (e & 1) result *= square;
    return (int64_t)result;
}

NW_BINARY_FLOATS(power, pow(p, q))
NW_BINARY_RUN(power_s64_run, int64_t, int64_t, power_s64(p, q))
static const nw_binary power_rule = {NW_FLOATS(power), .s64 = power_s64_run, .u64 = power_s64_run};

NW_UNARY_FLOATS(square, x *x)
static const nw_unary square_rule = {NW_FLOATS(square)};
NW_UNARY_FLOATS(cube, x *x *x)
static const nw_unary cube_rule = {NW_FLOATS(cube)};

static nw_status pow_infer(nw_op_call *call) {
    const nw_tensor *in[2];
    nw_tensor shape;
    for (int i = 0; i < 2; i++) {
        NW_TRY(nw_call_require(call, i, &in[i]));
        if (!nw_binary_accepts(&power_rule, nw_real_format(in[i])))
            return nw_call_fail(call, NW_E_TYPE, "it does not take elements of type %s",
                                nw_format_name(in[i]->format));
    }
    NW_TRY(nw_call_broadcast(call, in, 2, &shape));
    return nw_call_set(call, 0, nw_real_format(in[0]), shape.rank, shape.dims);
}

/* The exponents that models use, without pow; NULL for others. */
static const nw_unary *simple_power(const nw_tensor *x, const nw_tensor *exponent) {
    if (!nw_format_is_float(x->format) || nw_tensor_count(exponent) != 1 || exponent->rank > x->rank)
        return NULL;
    double e = nw_tensor_f64(exponent, 0);
    return e == 2 ? &square_rule : e == 3 ? &cube_rule : NULL;
}

static nw_status pow_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *e = call->in[1];
    nw_tensor *z = &call->out[0], wide_x, wide_e, wide_z = *z;
    const nw_unary *simple = simple_power(x, e);
    if (simple) {
        nw_unary_apply(simple, (const double[NW_UNARY_PARAMS]){0}, x, z);
        return NW_OK;
    }
    if (x->format == e->format) return nw_binary_eval(call, &power_rule);
    wide_z.format = nw_format_is_integer(x->format) && nw_format_is_integer(e->format) ? NW_S64 : NW_F64;
    NW_TRY(nw_call_cast(call, x, wide_z.format, &wide_x));
    NW_TRY(nw_call_cast(call, e, wide_z.format, &wide_e));
    NW_TRY(nw_tensor_alloc(call->scratch, &wide_z));
    nw_binary_apply(&power_rule, &wide_x, &wide_e, &wide_z);
    nw_cast_run(wide_z.format, wide_z.data, z->format, z->data, nw_tensor_count(z), true);
    return NW_OK;
}

/* z = x^e: dx = dy·e·x^(e−1); de = dy·z·ln x, where x > 0. */
static nw_status pow_grad(nw_grad_call *c) {
    int x = nw_grad_in(c, 0), e = nw_grad_in(c, 1), z = nw_grad_out(c, 0), dy = c->dy[0];
    nw_tensor exponent = nw_grad_tensor(c, e);
    if (c->wanted[0]) {
        int real = nw_grad_cast(c, e, nw_grad_tensor(c, x).format), slope;
        if (exponent.data && nw_tensor_count(&exponent) == 1 && nw_tensor_f64(&exponent, 0) == 2)
            slope = nw_grad_scale(c, x, 2);
        else
            slope =
                nw_grad_op2(c, "Mul", real,
                            nw_grad_op2(c, "Pow", x, nw_grad_op2(c, "Sub", real, nw_grad_number(c, x, 1))));
        c->dx[0] = nw_grad_sum_to(c, nw_grad_op2(c, "Mul", dy, slope), x);
    }
    if (c->wanted[1]) {
        int positive = nw_grad_op2(c, "Greater", x, nw_grad_number(c, x, 0));
        nw_grad_begin(c, "", "Where", 3, (int[]){positive, x, nw_grad_number(c, x, 1)}); /* ln 1 = 0 */
        int log = nw_grad_op1(c, "Log", nw_grad_end(c));
        int de = nw_grad_sum_to(c, nw_grad_op2(c, "Mul", dy, nw_grad_op2(c, "Mul", z, log)), e);
        c->dx[1] = nw_grad_cast(c, de, exponent.format);
    }
    return c->status;
}

const nw_op nw_op_Pow = {.name = "Pow",
                         .domain = "",
                         .flags = NW_OP_BINARY,
                         .infer = pow_infer,
                         .eval = pow_eval,
                         .grad = pow_grad};

/* ---- Max, Min, Sum, Mean of any number of inputs ------------------------------------------------------- */

static nw_status fold_infer(nw_op_call *call, const nw_binary *op) {
    nw_tensor shape;
    const nw_tensor *t;
    if (call->in_count < 1) return nw_call_fail(call, NW_E_FORMAT, "it needs at least one input");
    for (int i = 0; i < call->in_count; i++) {
        NW_TRY(nw_call_require(call, i, &t));
        NW_TRY(nw_call_same_format(call, call->in[0], t));
    }
    nw_format format = nw_real_format(call->in[0]);
    if (!nw_binary_accepts(op, format))
        return nw_call_fail(call, NW_E_TYPE, "it does not take elements of type %s", nw_format_name(format));
    NW_TRY(nw_call_broadcast(call, call->in, call->in_count, &shape));
    return nw_call_set(call, 0, format, shape.rank, shape.dims);
}

static nw_status fold_eval(nw_op_call *call, const nw_binary *op) {
    nw_tensor *y = &call->out[0];
    if (call->in_count == 1) {
        memmove(y->data, call->in[0]->data, nw_tensor_bytes(y));
        return NW_OK;
    }
    nw_binary_apply(op, call->in[0], call->in[1], y);
    for (int i = 2; i < call->in_count; i++) nw_binary_apply(op, y, call->in[i], y);
    return NW_OK;
}

static nw_status max_infer(nw_op_call *call) {
    return fold_infer(call, &nw_binary_max);
}
static nw_status max_eval(nw_op_call *call) {
    return fold_eval(call, &nw_binary_max);
}
static nw_status min_infer(nw_op_call *call) {
    return fold_infer(call, &nw_binary_min);
}
static nw_status min_eval(nw_op_call *call) {
    return fold_eval(call, &nw_binary_min);
}

static const nw_binary sum_rule = {NW_FLOATS(add)};
static nw_status sum_infer(nw_op_call *call) {
    return fold_infer(call, &sum_rule);
}
static nw_status sum_eval(nw_op_call *call) {
    return fold_eval(call, &sum_rule);
}

NW_UNARY_FLOATS(quotient, x / a)
static const nw_unary quotient_rule = {NW_FLOATS(quotient)};

static nw_status mean_eval(nw_op_call *call) {
    NW_TRY(fold_eval(call, &sum_rule));
    nw_unary_apply(&quotient_rule, (const double[NW_UNARY_PARAMS]){call->in_count}, &call->out[0],
                   &call->out[0]);
    return NW_OK;
}

/* The gradient goes to the inputs that equal the result, in equal shares. */
static nw_status extreme_grad(nw_grad_call *c) {
    int y = nw_grad_out(c, 0), count = c->node->in_count,
        *mask = nw_arena_array(c->scratch, (size_t)count, sizeof *mask);
    if (!mask) return NW_E_MEMORY;
    for (int i = 0; i < count; i++) mask[i] = nw_grad_equal(c, c->node->in[i], y, y);
    int share = nw_grad_op2(c, "Div", c->dy[0], nw_grad_sum(c, count, mask));
    for (int i = 0; i < count; i++)
        if (c->wanted[i]) c->dx[i] = nw_grad_sum_to(c, nw_grad_op2(c, "Mul", share, mask[i]), c->node->in[i]);
    return c->status;
}

const nw_op nw_op_Max = {
    .name = "Max", .domain = "", .infer = max_infer, .eval = max_eval, .grad = extreme_grad};
const nw_op nw_op_Min = {
    .name = "Min", .domain = "", .infer = min_infer, .eval = min_eval, .grad = extreme_grad};
static nw_status mean_grad(nw_grad_call *c) {
    int share = nw_grad_scale(c, c->dy[0], 1.0 / c->node->in_count);
    for (int i = 0; i < c->node->in_count; i++)
        if (c->wanted[i]) c->dx[i] = nw_grad_sum_to(c, share, c->node->in[i]);
    return c->status;
}

const nw_op nw_op_Sum = {.name = "Sum", .domain = "", .infer = sum_infer, .eval = sum_eval, .grad = add_grad};
const nw_op nw_op_Mean = {
    .name = "Mean", .domain = "", .infer = sum_infer, .eval = mean_eval, .grad = mean_grad};
