/* quantize.c: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear: grids as ONNX spells them, per tensor,
 * per channel and by blocks. FakeQuant is in fakequant.c. */
#include "op/quantize.h"

#include "op/real.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MS "com.microsoft"

/* ---- one scale, one zero point ------------------------------------------------------------------------- */

nw_status nw_call_expect_grid(const nw_op_call *call, int scale, int zero, nw_format format) {
    const nw_tensor *s, *z = nw_call_in(call, zero);
    NW_TRY(nw_call_require_real(call, scale, &s));
    if (nw_tensor_count(s) != 1)
        return nw_call_fail(call, NW_E_SHAPE, "input %d must be one scale, it has %zu elements", scale,
                            nw_tensor_count(s));
    if (!z) return NW_OK;
    if (nw_tensor_count(z) != 1)
        return nw_call_fail(call, NW_E_SHAPE, "input %d must be one zero point, it has %zu elements", zero,
                            nw_tensor_count(z));
    if (z->format != format || z->qparam)
        return nw_call_fail(call, NW_E_TYPE, "input %d, a zero point, has type %s; its codes have %s", zero,
                            nw_format_name(z->format), nw_format_name(format));
    return NW_OK;
}

static void set_range(nw_qparam *p, nw_format format) {
    p->format = format;
    p->qmin = nw_format_is_integer(format) ? (int32_t)nw_format_min(format) : 0;
    p->qmax = nw_format_is_integer(format) ? (int32_t)nw_format_max(format) : 0;
}

/* Copies groups scales and zero points into scratch as the types that nw_qparam wants. zero may be NULL. */
static nw_status fill_groups(const nw_op_call *call, const nw_tensor *scale, const nw_tensor *zero,
                             nw_qparam *p) {
    nw_tensor real;
    int32_t *zeros;
    NW_TRY(nw_tensor_to_f32(call->scratch, scale, &real));
    p->groups = nw_tensor_count(scale);
    p->scales = real.data;
    p->zeros = NULL;
    if (!zero) return NW_OK;
    NW_TRY(nw_call_scratch(call, p->groups, &zeros));
    for (size_t g = 0; g < p->groups; g++) {
        zeros[g] = (int32_t)nw_tensor_s64(zero, g);
        if (zeros[g] != 0 && !(nw_format_is_integer(p->format) && nw_format_bits(p->format) <= 16))
            return nw_call_fail(call, NW_E_ARGUMENT, "the zero point of %s codes must be 0, it is %" PRId32,
                                nw_format_name(p->format), zeros[g]);
    }
    p->zeros = zeros;
    return NW_OK;
}

nw_status nw_call_grid(const nw_op_call *call, int scale, int zero, nw_format format, nw_qparam *out) {
    *out = (nw_qparam){.grain = NW_GRAIN_TENSOR};
    set_range(out, format);
    return fill_groups(call, call->in[scale], nw_call_in(call, zero), out);
}

nw_status nw_call_dequantize(const nw_op_call *call, const nw_tensor *codes, const nw_qparam *grid,
                             float **out) {
    NW_TRY(nw_call_scratch(call, nw_tensor_count(codes), out));
    nw_dequantize(grid, codes->rank, codes->dims, codes->data, *out);
    return NW_OK;
}

nw_status nw_call_expect_codes(const nw_op_call *call, const nw_tensor *t, const char *name) {
    if ((t->format == NW_U8 || t->format == NW_S8) && !t->qparam) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "%s must hold u8 or s8 codes, it holds %s", name,
                        nw_format_name(t->format));
}

void nw_measure_range(size_t count, const float *x, float *lo, float *hi) {
    float least = INFINITY, most = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *lo = least <= most ? least : 0;
    *hi = least <= most ? most : 0;
}

/* ---- scales in a tensor: grain from their shape -------------------------------------------------------- */

/* Grain, axis and block of the groups that `scale` has for data of x's shape. Only shapes are read. */
static nw_status grain_of(const nw_op_call *call, const nw_tensor *x, const nw_tensor *scale, nw_qparam *p) {
    int64_t block = nw_node_int(call->node, "block_size", 0), axis = nw_node_int(call->node, "axis", 1);
    p->groups = nw_tensor_count(scale);
    p->grain = NW_GRAIN_TENSOR;
    if (block < 0) return nw_call_fail(call, NW_E_ARGUMENT, "block_size is negative (%" PRId64 ")", block);
    if (block == 0 && scale->rank <= 1 && p->groups == 1) return NW_OK;
    NW_TRY(nw_call_axis(call, axis, x->rank, false, &p->axis));
    int64_t length = x->dims[p->axis];
    if (block == 0) {
        p->grain = NW_GRAIN_AXIS;
        if (scale->rank == 1 && scale->dims[0] == length) return NW_OK;
        return nw_call_fail(call, NW_E_SHAPE,
                            "the scale must be one number, or one for each of the %" PRId64
                            " slices of axis %d "
                            "(blocks need the attribute block_size)",
                            length, p->axis);
    }
    p->grain = NW_GRAIN_BLOCK;
    p->block = block;
    bool fits = scale->rank == x->rank;
    for (int d = 0; d < x->rank && fits; d++)
        fits = scale->dims[d] == (d == p->axis ? length / block + (length % block != 0) : x->dims[d]);
    if (fits) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE,
                        "the scale must have the input's shape, with axis %d divided by block_size %" PRId64,
                        p->axis, block);
}

/* Whether codes may have this format: 32 bits only for biases, which are dequantized. */
static bool is_code_format(nw_format f, bool wide) {
    if (nw_format_is_integer(f)) return nw_format_bits(f) <= 16 || (wide && f == NW_S32);
    return nw_format_is_float(f) && nw_format_bits(f) <= 8 && f != NW_F8E8M0;
}

static nw_status check_zero(const nw_op_call *call, const nw_tensor *scale, const nw_tensor *zero,
                            nw_format codes) {
    if (!zero) return NW_OK;
    if (zero->format != codes || zero->qparam)
        return nw_call_fail(call, NW_E_TYPE, "the zero point has type %s, the codes have %s",
                            nw_format_name(zero->format), nw_format_name(codes));
    if (nw_tensor_count(zero) != nw_tensor_count(scale))
        return nw_call_fail(call, NW_E_SHAPE, "there are %zu zero points for %zu scales",
                            nw_tensor_count(zero), nw_tensor_count(scale));
    return NW_OK;
}

/* Reads an attribute that names an element type; 0 and absent give `absent`. */
static nw_status format_attr(const nw_op_call *call, const char *name, nw_format absent, nw_format *out) {
    int64_t type = nw_node_int(call->node, name, 0);
    *out = type == 0 ? absent : type > 0 && type < NW_FORMAT_COUNT ? nw_format_from_onnx((int)type) : NW_NONE;
    if (*out != NW_NONE) return NW_OK;
    return nw_call_fail(call, NW_E_ARGUMENT, "attribute %s names no known element type (%" PRId64 ")", name,
                        type);
}

/* ---- QuantizeLinear: x, y_scale, y_zero_point? → y = saturate(rint(x / y_scale) + y_zero_point) -------- */

static nw_status quantize_infer(nw_op_call *call) {
    const nw_tensor *x, *scale, *zero = nw_call_in(call, 2);
    nw_format out, precision;
    nw_qparam p = {.format = NW_NONE};
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &scale));
    nw_format from = nw_real_format(x), step = nw_real_format(scale);
    if (from != NW_F32 && from != NW_F16 && from != NW_BF16 && from != NW_S32)
        return nw_call_fail(call, NW_E_TYPE, "it quantizes f32, f16, bf16 or s32, not %s",
                            nw_format_name(from));
    if (!nw_format_is_scale(step) && step != NW_S32)
        return nw_call_fail(call, NW_E_TYPE, "its scale must be f32, f16 or bf16, it is %s",
                            nw_format_name(step));
    NW_TRY(format_attr(call, "output_dtype", zero ? zero->format : NW_U8, &out));
    NW_TRY(format_attr(call, "precision", NW_F32, &precision));
    if (!nw_format_is_float(precision) || nw_format_bits(precision) < 16)
        return nw_call_fail(call, NW_E_ARGUMENT,
                            "its precision must be a floating-point type of 16 bits or more, not %s",
                            nw_format_name(precision));
    if (!is_code_format(out, false))
        return nw_call_fail(call, NW_E_TYPE, "%s is no type to quantize to", nw_format_name(out));
    NW_TRY(check_zero(call, scale, zero, out));
    NW_TRY(grain_of(call, x, scale, &p));
    return nw_call_set(call, 0, out, x->rank, x->dims);
}

/* x / scale as 16-bit arithmetic gives it, rounded to `precision`. In f32 the quotient of two halves has more
 * than twice their digits, so that rounding it again is exact. (Opset 23 made the scale's type the precision
 * of the division; before, it was left open and runtimes divide in f32.) */
static nw_status divide(const nw_op_call *call, const nw_qparam *p, const nw_tensor *x, nw_format precision,
                        float **out) {
    nw_group_walk w = nw_group_walk_of(p, x->rank, x->dims);
    const float *from = x->data;
    size_t blocks = p->grain == NW_GRAIN_BLOCK ? (w.length + w.block - 1) / w.block : 0;
    NW_TRY(nw_call_scratch(call, nw_tensor_count(x), out));
    for (size_t o = 0; o < w.outer; o++)
        for (size_t l = 0; l < w.length; l++)
            for (size_t i = 0; i < w.inner; i++) {
                size_t at = (o * w.length + l) * w.inner + i,
                       g = blocks ? (o * blocks + l / w.block) * w.inner + i : l;
                float q = from[at] / nw_qparam_scale(p, g);
                if (precision == NW_F16) q = nw_f16_to_f32(nw_f16_from_f32(q));
                if (precision == NW_BF16) q = nw_bf16_to_f32(nw_bf16_from_f32(q));
                (*out)[at] = q;
            }
    return NW_OK;
}

static nw_status quantize_eval(nw_op_call *call) {
    const nw_tensor *scale = call->in[1];
    nw_tensor *y = &call->out[0], x;
    nw_qparam p = {.format = NW_NONE};
    nw_format precision;
    NW_TRY(nw_tensor_to_f32(call->scratch, call->in[0], &x));
    NW_TRY(grain_of(call, &x, scale, &p));
    set_range(&p, y->format);
    NW_TRY(fill_groups(call, scale, nw_call_in(call, 2), &p));
    NW_TRY(format_attr(call, "precision", call->version >= 23 ? scale->format : NW_F32, &precision));
    bool rounds = precision == NW_F16 || precision == NW_BF16;
    bool saturate = nw_node_int(call->node, "saturate", 1) != 0 || nw_format_is_integer(y->format);
    if (!rounds && saturate) {
        nw_quantize(&p, x.rank, x.dims, x.data, y->data);
        return NW_OK;
    }
    float *quotient, *ones;
    NW_TRY(divide(call, &p, &x, precision, &quotient));
    if (nw_format_is_float(y->format)) {
        if (nw_format_bits(y->format) < 8) memset(y->data, 0, nw_tensor_bytes(y));
        for (size_t i = 0, n = nw_tensor_count(y); i < n; i++)
            nw_store_f64_as(y->format, y->data, i, quotient[i], saturate);
        return NW_OK;
    }
    NW_TRY(nw_call_scratch(call, p.groups, &ones));
    for (size_t g = 0; g < p.groups; g++) ones[g] = 1;
    p.scales = ones;
    nw_quantize(&p, x.rank, x.dims, quotient, y->data);
    return NW_OK;
}

/* ---- DequantizeLinear: x, x_scale, x_zero_point? → y = (x − x_zero_point)·x_scale ---------------------- */

static nw_status dequantize_infer(nw_op_call *call) {
    const nw_tensor *x, *scale;
    nw_format out;
    nw_qparam p = {.format = NW_NONE};
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &scale));
    if (x->qparam || !is_code_format(x->format, true))
        return nw_call_fail(call, NW_E_TYPE, "%s is no type to dequantize from",
                            nw_format_name(nw_real_format(x)));
    if (!nw_format_is_scale(nw_real_format(scale)))
        return nw_call_fail(call, NW_E_TYPE, "its scale must be f32, f16 or bf16, it is %s",
                            nw_format_name(scale->format));
    NW_TRY(format_attr(call, "output_dtype", nw_real_format(scale), &out));
    if (out != NW_F32 && out != NW_F16 && out != NW_BF16)
        return nw_call_fail(call, NW_E_TYPE, "its output cannot be %s; set the attribute output_dtype",
                            nw_format_name(out));
    NW_TRY(check_zero(call, scale, nw_call_in(call, 2), x->format));
    NW_TRY(grain_of(call, x, scale, &p));
    return nw_call_set(call, 0, out, x->rank, x->dims);
}

static nw_status dequantize_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    nw_qparam p = {.format = NW_NONE};
    float *real = y->data;
    NW_TRY(grain_of(call, x, call->in[1], &p));
    set_range(&p, x->format);
    NW_TRY(fill_groups(call, call->in[1], nw_call_in(call, 2), &p));
    if (y->format != NW_F32) NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &real));
    nw_dequantize(&p, x->rank, x->dims, x->data, real);
    if (y->format != NW_F32) nw_encode_f32(y->format, real, nw_tensor_count(y), y->data, 0);
    return NW_OK;
}

const nw_op nw_op_QuantizeLinear = {.name = "QuantizeLinear",
                                    .domain = "",
                                    .flags = NW_OP_RAW,
                                    .infer = quantize_infer,
                                    .eval = quantize_eval};
const nw_op nw_op_DequantizeLinear = {.name = "DequantizeLinear",
                                      .domain = "",
                                      .flags = NW_OP_RAW,
                                      .infer = dequantize_infer,
                                      .eval = dequantize_eval};
const nw_op nw_op_ms_QuantizeLinear = {.name = "QuantizeLinear",
                                       .domain = MS,
                                       .flags = NW_OP_RAW,
                                       .infer = quantize_infer,
                                       .eval = quantize_eval};
const nw_op nw_op_ms_DequantizeLinear = {.name = "DequantizeLinear",
                                         .domain = MS,
                                         .flags = NW_OP_RAW,
                                         .infer = dequantize_infer,
                                         .eval = dequantize_eval};

/* ---- DynamicQuantizeLinear: x → y u8, y_scale f32, y_zero_point u8 ------------------------------------- */

static nw_status dynamic_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    if (nw_real_format(x) != NW_F32)
        return nw_call_fail(call, NW_E_TYPE, "it quantizes f32, not %s", nw_format_name(x->format));
    NW_TRY(nw_call_set(call, 0, NW_U8, x->rank, x->dims));
    NW_TRY(nw_call_set(call, 1, NW_F32, 0, NULL));
    return nw_call_set(call, 2, NW_U8, 0, NULL);
}

/* As the operator's own formula in f32: s = (max(0, hi) − min(0, lo))/255, z = saturate(rint(0 − min(0,
 * lo)/s)). */
static nw_status dynamic_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    float lo, hi;
    nw_measure_range(nw_tensor_count(x), x->data, &lo, &hi);
    lo = lo < 0 ? lo : 0;
    hi = hi > 0 ? hi : 0;
    float scale = (hi - lo) / 255;
    if (!(scale > 0)) scale = 1; /* all zeros */
    int32_t zero = nw_quantize_one(-lo, scale, 0, 0, 255);
    nw_qparam p = {.grain = NW_GRAIN_TENSOR, .groups = 1, .scales = &scale, .zeros = &zero};
    set_range(&p, NW_U8);
    nw_quantize(&p, x->rank, x->dims, x->data, call->out[0].data);
    if (nw_call_wants(call, 1)) *(float *)call->out[1].data = scale;
    if (nw_call_wants(call, 2)) *(uint8_t *)call->out[2].data = (uint8_t)zero;
    return NW_OK;
}

const nw_op nw_op_DynamicQuantizeLinear = {
    .name = "DynamicQuantizeLinear", .domain = "", .infer = dynamic_infer, .eval = dynamic_eval};
