/* qconv.c: convolutions on integers as ONNX spells them: ConvInteger and QLinearConv. */
#include "op/conv.h"
#include "op/matmul.h"
#include "op/real.h"

#include <math.h>

static nw_status require_8bit(const nw_op_call *call, int i, const nw_tensor **t) {
    NW_TRY(nw_call_require(call, i, t));
    if (((*t)->format == NW_U8 || (*t)->format == NW_S8) && !(*t)->qparam) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "input %d must hold u8 or s8, it holds %s", i,
                        nw_format_name((*t)->format));
}

/* Input i, when present, has one element, or `per_channel` of them when that is not 0. */
static nw_status expect_parameter(const nw_op_call *call, int i, const char *name, int64_t per_channel) {
    const nw_tensor *t = nw_call_in(call, i);
    if (!t) return NW_OK;
    size_t count = nw_tensor_count(t);
    if (t->rank <= 1 && (count == 1 || (per_channel && count == (size_t)per_channel))) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "%s must be one number%s, it has %zu elements", name,
                        per_channel ? " or one for each output channel" : "", count);
}

/* out = codes − zero as s32; zero has one element or one per slice of the first axis; NULL: 0. */
static nw_status subtract_zero(const nw_op_call *call, const nw_tensor *codes, const nw_tensor *zero,
                               int32_t **out) {
    size_t count = nw_tensor_count(codes), zeros = zero ? nw_tensor_count(zero) : 1;
    NW_TRY(nw_call_scratch(call, count, out));
    size_t slice = zeros > 0 ? count / zeros : 0;
    for (size_t i = 0; i < count; i++)
        (*out)[i] = (int32_t)nw_tensor_s64(codes, i) - (zero ? (int32_t)nw_tensor_s64(zero, i / slice) : 0);
    return NW_OK;
}

/* acc[n][m][positions] = Σ (x − x_zero)·(w − w_zero) in s32; padding is x_zero, that is 0 after the
 * subtraction. */
static nw_status accumulate(const nw_op_call *call, const nw_conv_geometry *g, const int32_t *x,
                            const int32_t *w, int32_t *acc) {
    int64_t c = g->in_channels / g->groups, m = g->out_channels / g->groups;
    int64_t k = c * g->kernel[0] * g->kernel[1] * g->kernel[2], limit = nw_conv_tile_limit(k);
    int64_t in = g->in[0] * g->in[1] * g->in[2], out = g->out[0] * g->out[1] * g->out[2];
    int32_t *col;
    NW_TRY(nw_call_scratch(call, (size_t)(k * limit), &col));
    for (int64_t i = 0; i < g->batch * g->groups; i++)
        for (nw_conv_tile tile = {0}; nw_conv_next_tile(g, limit, &tile);) {
            int64_t n = nw_conv_tile_columns(&tile);
            nw_conv_columns(g, sizeof *col, c, x + i * c * in, &tile, col);
            nw_product p = {
                .m = m, .n = n, .k = k, .a_row = k, .a_k = 1, .b_k = n, .b_column = 1, .y_row = out};
            nw_product_s32(&p, w + i % g->groups * m * k, col,
                           acc + i * m * out + nw_conv_tile_first(g, &tile));
        }
    return NW_OK;
}

static nw_status set_out(nw_op_call *call, nw_format format, const nw_conv_geometry *g) {
    int64_t dims[5];
    int rank = nw_conv_out_dims(g, dims);
    return nw_call_set(call, 0, format, rank, dims);
}

/* ---- ConvInteger: x, w, x_zero_point?, w_zero_point? → s32
 * ------------------------------------------------------ */

static nw_status conv_integer_infer(nw_op_call *call) {
    const nw_tensor *x, *w, *zero;
    nw_conv_geometry g;
    NW_TRY(require_8bit(call, 0, &x));
    NW_TRY(require_8bit(call, 1, &w));
    NW_TRY(nw_conv_geometry_of(call, x, w, &g));
    for (int i = 2; i < 4; i++)
        if (nw_call_in(call, i)) NW_TRY(require_8bit(call, i, &zero));
    NW_TRY(expect_parameter(call, 2, "x_zero_point", 0));
    NW_TRY(expect_parameter(call, 3, "w_zero_point", g.out_channels));
    return set_out(call, NW_S32, &g);
}

static nw_status conv_integer_eval(nw_op_call *call) {
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    nw_conv_geometry g;
    int32_t *x, *w;
    NW_TRY(nw_conv_geometry_of(call, call->in[0], call->in[1], &g));
    NW_TRY(subtract_zero(call, call->in[0], nw_call_in(call, 2), &x));
    NW_TRY(subtract_zero(call, call->in[1], nw_call_in(call, 3), &w));
    return accumulate(call, &g, x, w, call->out[0].data);
}

const nw_op nw_op_ConvInteger = {
    .name = "ConvInteger", .domain = "", .infer = conv_integer_infer, .eval = conv_integer_eval};

/* ---- QLinearConv: x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B?
 * ----------------------------------- */

static nw_status qlinear_conv_infer(nw_op_call *call) {
    static const char *const names[] = {"x",       "x_scale",      "x_zero_point", "w",
                                        "w_scale", "w_zero_point", "y_scale",      "y_zero_point"};
    const nw_tensor *t[8], *b = nw_call_in(call, 8);
    for (int i = 0; i < 8; i++) {
        if (i == 1 || i == 4 || i == 6)
            NW_TRY(nw_call_require_real(call, i, &t[i]));
        else
            NW_TRY(require_8bit(call, i, &t[i]));
    }
    nw_conv_geometry g;
    NW_TRY(nw_conv_geometry_of(call, t[0], t[3], &g));
    for (int i = 1; i < 8; i++)
        if (i != 3) NW_TRY(expect_parameter(call, i, names[i], i == 4 || i == 5 ? g.out_channels : 0));
    if (b && (b->format != NW_S32 || b->qparam || b->rank != 1 || b->dims[0] != g.out_channels))
        return nw_call_fail(call, NW_E_SHAPE, "B must hold one s32 for each output channel");
    return set_out(call, t[7]->format, &g);
}

/* y = saturate(rint(acc·(x_scale·w_scale/y_scale)) + y_zero). */
static nw_status qlinear_conv_eval(nw_op_call *call) {
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    nw_conv_geometry g;
    int32_t *x, *w, *acc;
    const nw_tensor *b = nw_call_in(call, 8), *w_scale = call->in[4];
    nw_tensor *y = &call->out[0];
    NW_TRY(nw_conv_geometry_of(call, call->in[0], call->in[3], &g));
    NW_TRY(subtract_zero(call, call->in[0], call->in[2], &x));
    NW_TRY(subtract_zero(call, call->in[3], call->in[5], &w));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &acc));
    NW_TRY(accumulate(call, &g, x, w, acc));
    double zero = (double)nw_tensor_s64(call->in[7], 0);
    size_t out = (size_t)(g.out[0] * g.out[1] * g.out[2]);
    for (int64_t i = 0; i < g.batch * g.out_channels; i++) {
        size_t channel = (size_t)(i % g.out_channels), first = (size_t)i * out;
        float scale = (float)nw_tensor_f64(call->in[1], 0) *
                      (float)nw_tensor_f64(w_scale, nw_tensor_count(w_scale) > 1 ? channel : 0) /
                      (float)nw_tensor_f64(call->in[6], 0);
        uint32_t bias = b ? (uint32_t)nw_tensor_s64(b, channel) : 0;
        for (size_t p = first; p < first + out; p++) {
            int32_t sum = (int32_t)((uint32_t)acc[p] + bias);
            nw_store_f64(y->format, y->data, p, (double)rintf((float)sum * scale) + zero);
        }
    }
    return NW_OK;
}

const nw_op nw_op_QLinearConv = {
    .name = "QLinearConv", .domain = "", .infer = qlinear_conv_infer, .eval = qlinear_conv_eval};
