/* qmatmul.c: matrix products of 8-bit codes as ONNX and onnxruntime spell them: MatMulInteger, QLinearMatMul,
 * MatMulIntegerToFloat, DynamicQuantizeMatMul, QGemm. Sums are s32 and wrap. */
#include "op/elementwise.h"
#include "op/matmul.h"
#include "op/quantize.h"

#include <string.h>

#define MS "com.microsoft"

/* A factor of the product. zero and scale may be NULL (0 and 1), one number, one per row ([m] or […,m,1]) or
 * one per column
 * ([n] or […,1,n]). */
typedef struct factor {
    const nw_tensor *codes, *zero, *scale;
    bool rows; /* a vector of parameters is one per row of the stored matrix, not per column */
} factor;

/* A parameter with the shape that broadcasts as its meaning says. */
static nw_tensor shaped(const nw_tensor *parameter, bool rows) {
    nw_tensor t = *parameter;
    if (nw_tensor_count(&t) == 1) t.rank = 0;
    if (rows && t.rank == 1) nw_tensor_set_shape(&t, 2, (const int64_t[]){t.dims[0], 1});
    return t;
}

static nw_status expect_fit(const nw_op_call *call, const nw_tensor *parameter, bool rows,
                            const nw_tensor *whole, const char *what) {
    nw_tensor t = shaped(parameter, rows), sum = {.rank = 0};
    char has[96], wants[96];
    nw_status status = nw_call_broadcast(call, (const nw_tensor *[]){whole, &t}, 2, &sum);
    if (status == NW_OK && nw_tensor_same_shape(&sum, whole)) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "%s is %s; for a matrix %s it must be one number, or one per %s",
                        what, nw_tensor_describe(parameter, has, sizeof has),
                        nw_tensor_describe(whole, wants, sizeof wants), rows ? "row" : "column");
}

/* For infer. `out` has the product's shape; its scales apply there. */
static nw_status check_factor(const nw_op_call *call, const factor *f, const nw_tensor *out,
                              const char *name) {
    NW_TRY(nw_call_expect_codes(call, f->codes, name));
    if (f->zero) {
        if (f->zero->format != f->codes->format || f->zero->qparam)
            return nw_call_fail(call, NW_E_TYPE, "%s and its zero point must have the same type", name);
        NW_TRY(expect_fit(call, f->zero, f->rows, f->codes, "a zero point"));
    }
    if (!f->scale) return NW_OK;
    nw_format format = nw_real_format(f->scale);
    if (format != NW_F32 && format != NW_F16 && format != NW_BF16)
        return nw_call_fail(call, NW_E_TYPE, "the scale of %s must be a floating-point number", name);
    return expect_fit(call, f->scale, f->rows, out, "a scale");
}

/* codes − zero as s32, in the codes' shape. */
static nw_status centre(const nw_op_call *call, const factor *f, int32_t **out) {
    size_t count = nw_tensor_count(f->codes);
    nw_tensor none = {.format = NW_U8, .data = &(uint8_t){0}},
              zero = f->zero ? shaped(f->zero, f->rows) : none;
    bool is_signed = f->codes->format == NW_S8;
    nw_walk w;
    NW_TRY(nw_call_scratch(call, count, out));
    for (bool more = nw_walk_start(&w, f->codes, 1, (const nw_tensor *[]){&zero}); more;
         more = nw_walk_next(&w)) {
        const uint8_t *q = (const uint8_t *)f->codes->data + w.out,
                      *z = (const uint8_t *)zero.data + w.offset[0];
        int32_t *y = *out + w.out;
        for (size_t i = 0; i < w.run; i++) {
            uint8_t zi = z[i * w.step[0]];
            y[i] = is_signed ? (int8_t)q[i] - (int8_t)zi : q[i] - zi;
        }
    }
    return NW_OK;
}

/* acc [batch,m,n] = (a − a_zero)·(b − b_zero) */
static nw_status multiply(const nw_op_call *call, const factor *a, const factor *b,
                          const nw_matmul_geometry *g, int32_t *acc) {
    int32_t *pa, *pb;
    nw_product p = nw_matmul_product(g);
    NW_TRY(centre(call, a, &pa));
    NW_TRY(centre(call, b, &pb));
    for (int64_t i = 0; i < g->batch; i++) {
        int64_t at_a, at_b;
        nw_matmul_batch(g, i, &at_a, &at_b);
        nw_product_s32(&p, pa + at_a, pb + at_b, acc + i * g->m * g->n);
    }
    return NW_OK;
}

/* real = acc·(a_scale·b_scale·factor), in the shape of `out`. */
static nw_status rescale(const nw_op_call *call, const factor *a, const factor *b, float by,
                         const nw_tensor *out, const int32_t *acc, float *real) {
    nw_tensor one = {.format = NW_F32, .data = &(float){1}}, sa = one, sb = one;
    if (a->scale) NW_TRY(nw_tensor_to_f32(call->scratch, a->scale, &sa));
    if (b->scale) NW_TRY(nw_tensor_to_f32(call->scratch, b->scale, &sb));
    sa = shaped(&sa, a->rows);
    sb = shaped(&sb, false);
    nw_walk w;
    for (bool more = nw_walk_start(&w, out, 2, (const nw_tensor *[]){&sa, &sb}); more;
         more = nw_walk_next(&w)) {
        const float *x = (const float *)sa.data + w.offset[0], *y = (const float *)sb.data + w.offset[1];
        for (size_t i = 0; i < w.run; i++)
            real[w.out + i] = (float)acc[w.out + i] * (x[i * w.step[0]] * y[i * w.step[1]] * by);
    }
    return NW_OK;
}

/* codes = saturate(rint(real) + zero): reals already in units of the output's scale. */
static void round_codes(const nw_tensor *zero, nw_format format, const float *real, nw_tensor *y) {
    int32_t z = zero ? (int32_t)nw_tensor_s64(zero, 0) : 0;
    int32_t lo = (int32_t)nw_format_min(format), hi = (int32_t)nw_format_max(format);
    for (size_t i = 0, n = nw_tensor_count(y); i < n; i++)
        ((uint8_t *)y->data)[i] = (uint8_t)nw_quantize_one(real[i], 1, z, lo, hi);
}

static nw_status check_bias(const nw_op_call *call, int i, const nw_tensor *out) {
    const nw_tensor *bias = nw_call_in(call, i);
    if (!bias) return NW_OK;
    NW_TRY(nw_call_require_real(call, i, &bias));
    if (bias->rank == 1 && out->rank > 0 && bias->dims[0] == out->dims[out->rank - 1]) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "the bias must have one number for each column of the result");
}

static nw_status add_bias(const nw_op_call *call, int i, nw_tensor *y) {
    nw_tensor bias;
    if (!nw_call_in(call, i)) return NW_OK;
    NW_TRY(nw_tensor_to_f32(call->scratch, call->in[i], &bias));
    nw_binary_apply(&nw_binary_add, y, &bias, y);
    return NW_OK;
}

/* ---- the operators of two factors: where each finds its inputs ----------------------------------------- */

typedef struct layout {
    int a, a_scale, a_zero, b, b_scale, b_zero; /* −1: has none */
    int y_scale, y_zero, bias;
} layout;

static const layout integer_layout = {0, -1, 2, 1, -1, 3, -1, -1, -1};
static const layout qlinear_layout = {0, 1, 2, 3, 4, 5, 6, 7, -1};
static const layout to_float_layout = {0, 2, 4, 1, 3, 5, -1, -1, 6};

static const nw_tensor *input(const nw_op_call *call, int i) {
    return i < 0 ? NULL : nw_call_in(call, i);
}

static nw_status factors(const nw_op_call *call, const layout *l, factor *a, factor *b, nw_matmul_geometry *g,
                         nw_tensor *out) {
    *a = (factor){call->in[l->a], input(call, l->a_zero), input(call, l->a_scale), true};
    *b = (factor){call->in[l->b], input(call, l->b_zero), input(call, l->b_scale), false};
    return nw_matmul_geometry_of(call, a->codes, b->codes, g, out);
}

static nw_status infer_layout(nw_op_call *call, const layout *l) {
    factor a, b;
    nw_matmul_geometry g;
    nw_tensor out = {.rank = 0};
    const nw_tensor *t;
    NW_TRY(nw_call_require(call, l->a, &t));
    NW_TRY(nw_call_require(call, l->b, &t));
    if (l->a_scale >= 0) NW_TRY(nw_call_require(call, l->a_scale, &t));
    if (l->b_scale >= 0) NW_TRY(nw_call_require(call, l->b_scale, &t));
    NW_TRY(factors(call, l, &a, &b, &g, &out));
    NW_TRY(check_factor(call, &a, &out, "A"));
    NW_TRY(check_factor(call, &b, &out, "B"));
    nw_format format = l->a_scale < 0 ? NW_S32 : nw_real_format(a.scale);
    if (l->y_scale >= 0) {
        NW_TRY(nw_call_require(call, l->y_zero, &t));
        NW_TRY(nw_call_expect_codes(call, t, "the result's zero point"));
        NW_TRY(nw_call_expect_grid(call, l->y_scale, l->y_zero, t->format));
        format = t->format;
    }
    if (l->bias >= 0) NW_TRY(check_bias(call, l->bias, &out));
    return nw_call_set(call, 0, format, out.rank, out.dims);
}

static nw_status integer_infer(nw_op_call *call) {
    return infer_layout(call, &integer_layout);
}
static nw_status qlinear_infer(nw_op_call *call) {
    return infer_layout(call, &qlinear_layout);
}
static nw_status to_float_infer(nw_op_call *call) {
    return infer_layout(call, &to_float_layout);
}

static nw_status integer_eval(nw_op_call *call) {
    factor a, b;
    nw_matmul_geometry g;
    NW_TRY(factors(call, &integer_layout, &a, &b, &g, NULL));
    return multiply(call, &a, &b, &g, call->out[0].data);
}

/* y = saturate(rint(acc·(a_scale·b_scale/y_scale)) + y_zero) */
static nw_status qlinear_eval(nw_op_call *call) {
    factor a, b;
    nw_matmul_geometry g;
    int32_t *acc;
    float *real;
    nw_tensor *y = &call->out[0];
    NW_TRY(factors(call, &qlinear_layout, &a, &b, &g, NULL));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &acc));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &real));
    NW_TRY(multiply(call, &a, &b, &g, acc));
    NW_TRY(rescale(call, &a, &b, 1 / (float)nw_tensor_f64(call->in[6], 0), y, acc, real));
    round_codes(call->in[7], y->format, real, y);
    return NW_OK;
}

static nw_status to_float_eval(nw_op_call *call) {
    factor a, b;
    nw_matmul_geometry g;
    int32_t *acc;
    nw_tensor *y = &call->out[0];
    NW_TRY(factors(call, &to_float_layout, &a, &b, &g, NULL));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &acc));
    NW_TRY(multiply(call, &a, &b, &g, acc));
    NW_TRY(rescale(call, &a, &b, 1, y, acc, y->data));
    return add_bias(call, to_float_layout.bias, y);
}

const nw_op nw_op_MatMulInteger = {
    .name = "MatMulInteger", .domain = "", .infer = integer_infer, .eval = integer_eval};
const nw_op nw_op_QLinearMatMul = {
    .name = "QLinearMatMul", .domain = "", .infer = qlinear_infer, .eval = qlinear_eval};
const nw_op nw_op_ms_MatMulIntegerToFloat = {
    .name = "MatMulIntegerToFloat", .domain = MS, .infer = to_float_infer, .eval = to_float_eval};

/* ---- DynamicQuantizeMatMul: A real, B, b_scale, b_zero_point?, bias? ----------------------------------- */

static nw_status dynamic_infer(nw_op_call *call) {
    const nw_tensor *a, *codes, *scale;
    nw_matmul_geometry g;
    nw_tensor out = {.rank = 0};
    NW_TRY(nw_call_require_real(call, 0, &a));
    NW_TRY(nw_call_require(call, 1, &codes));
    NW_TRY(nw_call_require_real(call, 2, &scale));
    if (nw_real_format(a) == NW_F64) return nw_call_fail(call, NW_E_TYPE, "it computes in f32, A is f64");
    NW_TRY(nw_matmul_geometry_of(call, a, codes, &g, &out));
    factor b = {codes, nw_call_in(call, 3), scale, false};
    NW_TRY(check_factor(call, &b, &out, "B"));
    NW_TRY(check_bias(call, 4, &out));
    return nw_call_set(call, 0, nw_real_format(a), out.rank, out.dims);
}

static nw_status dynamic_eval(nw_op_call *call) {
    nw_matmul_geometry g;
    nw_tensor codes, *y = &call->out[0], x = *call->in[0];
    int32_t *acc;
    float lo, hi, scale, *real = y->data;
    int32_t zero;
    uint8_t zero_code;
    NW_TRY(nw_tensor_to_f32(call->scratch, call->in[0], &x));
    nw_measure_range(nw_tensor_count(&x), x.data, &lo, &hi);
    nw_choose_scale(lo, hi, false, 0, 255, &scale, &zero);
    zero_code = (uint8_t)zero;
    nw_qparam p = {.format = NW_U8, .groups = 1, .scales = &scale, .zeros = &zero, .qmin = 0, .qmax = 255};
    codes = x;
    codes.format = NW_U8;
    NW_TRY(nw_tensor_alloc(call->scratch, &codes));
    nw_quantize(&p, x.rank, x.dims, x.data, codes.data);

    nw_tensor zero_tensor = {.format = NW_U8, .data = &zero_code},
              scale_tensor = {.format = NW_F32, .data = &scale};
    factor a = {&codes, &zero_tensor, &scale_tensor, true};
    factor b = {call->in[1], nw_call_in(call, 3), call->in[2], false};
    NW_TRY(nw_matmul_geometry_of(call, a.codes, b.codes, &g, NULL));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &acc));
    NW_TRY(multiply(call, &a, &b, &g, acc));
    NW_TRY(rescale(call, &a, &b, 1, y, acc, real));
    return add_bias(call, 4, y);
}

const nw_op nw_op_ms_DynamicQuantizeMatMul = {
    .name = "DynamicQuantizeMatMul", .domain = MS, .infer = dynamic_infer, .eval = dynamic_eval};

/* ---- QGemm: A, a_scale, a_zero, B, b_scale, b_zero, C? s32, y_scale?, y_zero? -------------------------- */

/* B stored [n,k] has its columns' zero points along its rows. */
static nw_status gemm_factors(const nw_op_call *call, factor *a, factor *b, nw_gemm_geometry *g) {
    *a = (factor){call->in[0], nw_call_in(call, 2), call->in[1], false};
    *b = (factor){call->in[3], nw_call_in(call, 5), call->in[4], nw_node_int(call->node, "transB", 0) != 0};
    return nw_gemm_geometry_of(call, a->codes, b->codes, nw_call_in(call, 6), g);
}

static nw_status gemm_infer(nw_op_call *call) {
    const nw_tensor *t, *c = nw_call_in(call, 6), *y_scale = nw_call_in(call, 7),
                        *y_zero = nw_call_in(call, 8);
    factor a, b;
    nw_gemm_geometry g;
    for (int i = 0; i < 5; i++)
        if (i != 2) NW_TRY(nw_call_require(call, i, &t));
    NW_TRY(gemm_factors(call, &a, &b, &g));
    nw_tensor out = {.rank = 2, .dims = {g.product.m, g.product.n}};
    NW_TRY(nw_call_expect_codes(call, a.codes, "A"));
    NW_TRY(nw_call_expect_grid(call, 1, 2, a.codes->format));
    factor stored = b;
    stored.scale = NULL;
    NW_TRY(check_factor(call, &stored, &out, "B"));
    NW_TRY(nw_call_require_real(call, 4, &t));
    NW_TRY(expect_fit(call, t, false, &out, "a scale"));
    if (c && (c->format != NW_S32 || c->qparam))
        return nw_call_fail(call, NW_E_TYPE, "C must hold s32, it holds %s", nw_format_name(c->format));
    nw_format format = !y_scale ? NW_F32 : y_zero ? y_zero->format : a.codes->format;
    if (y_zero) NW_TRY(nw_call_expect_codes(call, y_zero, "the result's zero point"));
    if (y_scale) NW_TRY(nw_call_expect_grid(call, 7, 8, format));
    return nw_call_set(call, 0, format, 2, out.dims);
}

static nw_status gemm_eval(nw_op_call *call) {
    const nw_tensor *c = nw_call_in(call, 6), *y_scale = nw_call_in(call, 7);
    factor a, b;
    nw_gemm_geometry g;
    nw_tensor *y = &call->out[0];
    int32_t *acc;
    float *real = y->data;
    NW_TRY(gemm_factors(call, &a, &b, &g));
    NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &acc));
    NW_TRY(multiply(call, &a, &b, &g.product, acc));
    for (int64_t i = 0; c && i < g.product.m; i++)
        for (int64_t j = 0; j < g.product.n; j++) {
            size_t from = (size_t)(i * g.c_row_stride + j * g.c_column_stride),
                   to = (size_t)(i * g.product.n + j);
            acc[to] = (int32_t)((uint32_t)acc[to] + (uint32_t)((const int32_t *)c->data)[from]);
        }
    float by = y_scale ? g.alpha / (float)nw_tensor_f64(y_scale, 0) : g.alpha;
    if (y_scale) NW_TRY(nw_call_scratch(call, nw_tensor_count(y), &real));
    NW_TRY(rescale(call, &a, &b, by, y, acc, real));
    if (y_scale) round_codes(nw_call_in(call, 8), y->format, real, y);
    return NW_OK;
}

const nw_op nw_op_ms_QGemm = {.name = "QGemm", .domain = MS, .infer = gemm_infer, .eval = gemm_eval};
