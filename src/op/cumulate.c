/* cumulate.c: running sums and products along an axis: CumSum, CumProd. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"

static nw_status cumulate_infer(nw_op_call *call) {
    const nw_tensor *x, *axis;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &axis));
    NW_TRY(nw_call_expect_index(call, axis));
    NW_TRY(nw_call_expect_one(call, axis, "the axis"));
    if (!nw_format_is_float(nw_real_format(x)) && !nw_format_is_integer(x->format))
        return nw_call_fail(call, NW_E_TYPE, "expects numbers, got %s", nw_format_name(x->format));
    return nw_call_set_like(call, 0, x);
}

/* One line of n elements `step` apart, from `first` on (step may be negative). Floats are accumulated in
 * double, integers wrap as their type does. */
static void cumulate_line(const nw_tensor *x, nw_tensor *y, int64_t first, int64_t step, size_t n,
                          bool product, bool exclusive) {
    double real = product;
    uint64_t whole = product;
    bool is_float = nw_format_is_float(x->format);
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)(first + (int64_t)i * step);
        double before = real;
        uint64_t whole_before = whole;
        if (is_float) {
            double v = nw_tensor_f64(x, at);
            real = product ? real * v : real + v;
            nw_store_f64(y->format, y->data, at, exclusive ? before : real);
        } else {
            uint64_t v = (uint64_t)nw_tensor_s64(x, at);
            whole = product ? whole * v : whole + v;
            nw_store_s64(y->format, y->data, at, (int64_t)(exclusive ? whole_before : whole));
        }
    }
}

static nw_status cumulate(nw_op_call *call, bool product) {
    const nw_tensor *x = call->in[0];
    int64_t asked;
    int axis;
    NW_TRY(nw_call_int(call, 1, 0, &asked));
    NW_TRY(nw_call_axis(call, asked, x->rank, false, &axis));
    if (nw_tensor_count(x) == 0) return NW_OK;
    bool exclusive = nw_node_int(call->node, "exclusive", 0) != 0,
         reverse = nw_node_int(call->node, "reverse", 0) != 0;
    nw_axis_span s = nw_axis_span_of(x, axis);
    for (size_t o = 0; o < s.outer; o++)
        for (size_t i = 0; i < s.inner; i++) {
            int64_t first = (int64_t)(o * s.length * s.inner + i), step = (int64_t)s.inner;
            if (reverse) first += (int64_t)(s.length - 1) * step;
            cumulate_line(x, &call->out[0], first, reverse ? -step : step, s.length, product, exclusive);
        }
    return NW_OK;
}

static nw_status cum_sum_eval(nw_op_call *call) {
    return cumulate(call, false);
}
static nw_status cum_prod_eval(nw_op_call *call) {
    return cumulate(call, true);
}

/* Element i adds to all sums behind it: the same from the other end. */
static nw_status cum_sum_grad(nw_grad_call *c) {
    nw_grad_begin(c, "", "CumSum", 2, (int[]){c->dy[0], nw_grad_in(c, 1)});
    nw_grad_copy_attrs(c);
    nw_grad_set_int(c, "reverse", nw_node_int(c->node, "reverse", 0) == 0);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_CumSum = {
    .name = "CumSum", .domain = "", .infer = cumulate_infer, .eval = cum_sum_eval, .grad = cum_sum_grad};
const nw_op nw_op_CumProd = {.name = "CumProd", .domain = "", .infer = cumulate_infer, .eval = cum_prod_eval};
