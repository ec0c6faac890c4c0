/* cast.c: Cast and CastLike: every numeric format and bool into every other. Strings and complex numbers are
 * refused. */
#include "op/elementwise.h"

#include <math.h>
#include <string.h>

enum { UP, DOWN, NEAREST }; /* away from zero; towards zero; ties up */
static const char *const round_modes[] = {[UP] = "up", [DOWN] = "down", [NEAREST] = "nearest", NULL};

/* x as a power of two, x > 0: code = exponent + 127; 0 gives the least code, NaN 255. Beyond the range: the
 * nearest code, or NaN without `saturate`. */
static uint8_t e8m0_code(double x, int mode, bool saturate) {
    if (isnan(x)) return 255;
    if (isinf(x)) return saturate ? 254 : 255;
    int exponent;
    double half = frexp(
        fabs(x), &exponent); /* |x| = half·2^exponent, half in [0.5, 1): a power of two has half = 0.5 */
    bool up = mode == UP ? half > 0.5 : mode == NEAREST && half >= 0.75;
    int code = x == 0 ? -1 : exponent - 1 + up + 127;
    if (code < 0) return saturate ? 0 : 255;
    return code > 254 ? (saturate ? 254 : 255) : (uint8_t)code;
}

static nw_status cast_infer_to(nw_op_call *call, const nw_tensor *x, nw_format to) {
    nw_format pair[2] = {nw_real_format(x), to};
    for (int i = 0; i < 2; i++) {
        nw_kind kind = nw_format_kind(pair[i]);
        if (kind == NW_KIND_STRING || kind == NW_KIND_COMPLEX)
            return nw_call_fail(call, NW_E_UNSUPPORTED, "casting %s %s is not supported", i ? "to" : "from",
                                i ? nw_format_name(to) : nw_format_name(pair[0]));
    }
    int mode;
    NW_TRY(nw_call_word_attr(call, "round_mode", round_modes, &mode));
    return nw_call_set(call, 0, to, x->rank, x->dims);
}

static nw_status cast_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    int64_t to = nw_node_int(call->node, "to", 0);
    nw_format format = to > 0 && to < NW_FORMAT_COUNT ? nw_format_from_onnx((int)to) : NW_NONE;
    if (format == NW_NONE)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "attribute \"to\" names no known element type (%lld)",
                            (long long)to);
    return cast_infer_to(call, x, format);
}

static nw_status cast_like_infer(nw_op_call *call) {
    const nw_tensor *x, *like;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &like));
    return cast_infer_to(call, x, nw_real_format(like));
}

static nw_status cast_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    size_t count = nw_tensor_count(x);
    bool saturate = nw_node_int(call->node, "saturate", 1) != 0;
    if (y->format == NW_F8E8M0 && x->format != NW_F8E8M0) {
        int mode;
        NW_TRY(nw_call_word_attr(call, "round_mode", round_modes, &mode));
        for (size_t i = 0; i < count; i++)
            ((uint8_t *)y->data)[i] = e8m0_code(nw_tensor_f64(x, i), mode, saturate);
        return NW_OK;
    }
    if (nw_format_bits(y->format) < 8) memset(y->data, 0, nw_tensor_bytes(y));
    nw_cast_run(x->format, x->data, y->format, y->data, count, saturate);
    return NW_OK;
}

static nw_status cast_grad(nw_grad_call *c) {
    c->dx[0] = nw_grad_cast(c, c->dy[0], nw_grad_tensor(c, nw_grad_in(c, 0)).format);
    return c->status;
}

const nw_op nw_op_Cast = {.name = "Cast",
                          .domain = "",
                          .flags = NW_OP_RAW,
                          .infer = cast_infer,
                          .eval = cast_eval,
                          .grad = cast_grad};
const nw_op nw_op_CastLike = {.name = "CastLike",
                              .domain = "",
                              .flags = NW_OP_RAW,
                              .infer = cast_like_infer,
                              .eval = cast_eval,
                              .grad = cast_grad};
