/* softmax.c: Softmax, LogSoftmax, Hardmax along one axis. */
#include "op/grad.h"
#include "op/index.h"
#include "op/real.h"

#include <math.h>
#include <string.h>

/* Since opset 13 one axis (default the last); before, the input is a matrix that `axis` (default 1) splits,
 * and a row is the axis. */
static nw_status read_span(const nw_op_call *call, const nw_tensor *x, nw_axis_span *span) {
    int axis;
    if (call->version >= 13) {
        if (x->rank == 0) { /* one element, whatever the axis */
            *span = (nw_axis_span){1, 1, 1};
            return NW_OK;
        }
        NW_TRY(nw_call_axis_attr(call, -1, x->rank, &axis));
        *span = nw_axis_span_of(x, axis);
        return NW_OK;
    }
    int64_t asked = nw_node_int(call->node, "axis", 1);
    if (asked < 0 && asked >= -x->rank) asked += x->rank;
    NW_TRY(nw_call_axis(call, asked, x->rank, true, &axis));
    *span = (nw_axis_span){nw_dims_product(x->dims, 0, axis), nw_dims_product(x->dims, axis, x->rank), 1};
    return NW_OK;
}

static nw_status softmax_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_axis_span span;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_expect_float(call, x));
    NW_TRY(read_span(call, x, &span));
    return nw_call_set_like(call, 0, x);
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

#define LEAST (-89.0f) /* e^LEAST counts as 0 */

/* e^x for x in [LEAST, 0] within 2 units in the last place, without calls or branches so that loops over it
 * vectorize; below e^−87.7 (2^−126.5) it is 0, of NaN it is NaN. x = n·ln 2 + r, |r| ≤ ln 2 / 2; e^r by the
 * minimax polynomial of Cephes' expf. */
static inline float exp_negative(float x) {
    const float magic = 12582912.0f; /* 1.5·2^23: the low bits of magic + y are round(y) */
    float n = x * 1.44269504f + magic, power;
    uint32_t bits;
    memcpy(&bits, &n, sizeof bits);
    n -= magic;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t exponent = (int32_t)(bits - 0x4B400000u) + 127; /* of 2^n, biased */
    bits = (uint32_t)(exponent < 0 ? 0 : exponent) << 23;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float above_least(float x) {
    return x < LEAST ? LEAST : x;
}

#define LANES 32 /* results side by side: few enough for registers, too many for the compiler to unroll */

/* The maximum of n ≥ 1 elements. A NaN may be overlooked: its exponential makes the sum NaN all the same. */
static float max_of(const float *x, size_t n) {
    float lane[LANES], best = x[0];
    size_t i = 0;
    for (int l = 0; l < LANES; l++) lane[l] = best;
    for (; n - i >= LANES; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = x[i + (size_t)l] > lane[l] ? x[i + (size_t)l] : lane[l];
    for (int l = 0; l < LANES; l++) best = lane[l] > best ? lane[l] : best;
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

/* In double: the logarithm of a sum just above 1 keeps its digits. */
static double sum_of(const float *x, size_t n) {
    double lane[LANES] = {0}, total = 0;
    size_t i = 0;
    for (; n - i >= LANES; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += (double)x[i + (size_t)l];
    for (int l = 0; l < LANES; l++) total += lane[l];
    for (; i < n; i++) total += (double)x[i];
    return total;
}

/* y = e^(x − max x)/Σ, or its logarithm x − max x − log Σ. Rows that are all −inf, or hold +inf or NaN,
 * become NaN. */
static void softmax_line(const float *x, size_t n, bool logarithm, float *y) {
    float m = max_of(x, n);
    if (!isfinite(m)) {
        for (size_t i = 0; i < n; i++) y[i] = NAN;
        return;
    }
    for (size_t i = 0; i < n; i++) y[i] = above_least(x[i] - m);
    for (size_t i = 0; i < n; i++)
        y[i] = exp_negative(y[i]); /* a loop of its own: gcc would make LEAST a branch */
    double sum = sum_of(y, n);
    if (logarithm) {
        float shift = (float)log(sum);
        for (size_t i = 0; i < n; i++) y[i] = x[i] - m - shift;
    } else {
        float scale = (float)(1 / sum);
        for (size_t i = 0; i < n; i++) y[i] *= scale;
    }
}

#define STRIP 256

/* The same for `width` ≤ STRIP columns side by side; element r of a column is at r·inner. */
static void softmax_columns(const float *x, size_t n, size_t inner, size_t width, bool logarithm, float *y) {
    float m[STRIP], e[STRIP], last[STRIP]; /* last: what the exponentials are multiplied by, or log Σ */
    double sum[STRIP];
    memcpy(m, x, width * sizeof *m);
    memset(sum, 0, sizeof sum);
    for (size_t r = 1; r < n; r++)
        for (size_t i = 0; i < width; i++) {
            float v = x[r * inner + i];
            m[i] = v > m[i] ? v : m[i];
        }
    for (size_t i = 0; i < width; i++) m[i] = isfinite(m[i]) ? m[i] : NAN;
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < width; i++) e[i] = above_least(x[r * inner + i] - m[i]);
        for (size_t i = 0; i < width; i++) e[i] = exp_negative(e[i]);
        for (size_t i = 0; i < width; i++) sum[i] += (double)e[i];
        memcpy(y + r * inner, e, width * sizeof *e);
    }
    for (size_t i = 0; i < width; i++) last[i] = (float)(logarithm ? log(sum[i]) : 1 / sum[i]);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < width; i++)
            y[r * inner + i] = logarithm ? x[r * inner + i] - m[i] - last[i] : y[r * inner + i] * last[i];
}

static void softmax_f32(const float *x, nw_axis_span s, bool logarithm, float *y) {
    for (size_t o = 0; o < s.outer; o++) {
        const float *from = x + o * s.length * s.inner;
        float *to = y + o * s.length * s.inner;
        if (s.inner == 1)
            softmax_line(from, s.length, logarithm, to);
        else
            for (size_t i = 0; i < s.inner; i += STRIP)
                softmax_columns(from + i, s.length, s.inner, s.inner - i < STRIP ? s.inner - i : STRIP,
                                logarithm, to + i);
    }
}

/* ---- other types --------------------------------------------------------------------------------------- */

static void softmax_f64(const nw_tensor *x, nw_axis_span s, bool logarithm, nw_tensor *y) {
    for (size_t line = 0; line < s.outer * s.inner; line++) {
        size_t first = line / s.inner * s.length * s.inner + line % s.inner;
        double m = -INFINITY, sum = 0;
        for (size_t r = 0; r < s.length; r++) {
            double v = nw_tensor_f64(x, first + r * s.inner);
            if (v > m || v != v) m = v;
        }
        for (size_t r = 0; r < s.length; r++) sum += exp(nw_tensor_f64(x, first + r * s.inner) - m);
        for (size_t r = 0; r < s.length; r++) {
            double v = nw_tensor_f64(x, first + r * s.inner) - m;
            nw_store_f64(y->format, y->data, first + r * s.inner, logarithm ? v - log(sum) : exp(v) / sum);
        }
    }
}

static nw_status softmax_of(nw_op_call *call, bool logarithm) {
    const nw_tensor *x = call->in[0];
    nw_axis_span span;
    NW_TRY(read_span(call, x, &span));
    if (nw_tensor_count(x) == 0) return NW_OK;
    if (x->format == NW_F32)
        softmax_f32(x->data, span, logarithm, call->out[0].data);
    else
        softmax_f64(x, span, logarithm, &call->out[0]);
    return NW_OK;
}

static nw_status softmax_eval(nw_op_call *call) {
    return softmax_of(call, false);
}
static nw_status log_softmax_eval(nw_op_call *call) {
    return softmax_of(call, true);
}

/* 1 at the first maximum, 0 elsewhere. */
static nw_status hardmax_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    nw_axis_span s;
    NW_TRY(read_span(call, x, &s));
    if (nw_tensor_count(x) == 0) return NW_OK;
    for (size_t line = 0; line < s.outer * s.inner; line++) {
        size_t first = line / s.inner * s.length * s.inner + line % s.inner, best = 0;
        for (size_t r = 1; r < s.length; r++)
            if (nw_tensor_f64(x, first + r * s.inner) > nw_tensor_f64(x, first + best * s.inner)) best = r;
        for (size_t r = 0; r < s.length; r++)
            nw_store_f64(y->format, y->data, first + r * s.inner, r == best);
    }
    return NW_OK;
}

static void softmax_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
}

/* ---- gradients ----------------------------------------------------------------------------------------- */

/* SoftmaxGrad: inputs: y, dy; attributes: axis, logarithm; output: dx = y·(dy − Σ y·dy), or with logarithm,
 * where y is log softmax, dx = dy − eʸ·Σ dy. Sums are along the axis. In f32. */

static nw_status grad_infer(nw_op_call *call) {
    const nw_tensor *y, *dy;
    int axis;
    NW_TRY(nw_call_require_real(call, 0, &y));
    NW_TRY(nw_call_require_real(call, 1, &dy));
    if (!nw_tensor_same_shape(y, dy))
        return nw_call_fail(call, NW_E_SHAPE, "its two inputs must have the same shape");
    NW_TRY(nw_call_axis_attr(call, -1, y->rank, &axis));
    return nw_call_set_like(call, 0, y);
}

/* One [length, inner] block; sum: room for `inner`. */
static void grad_block(const float *y, const float *dy, nw_axis_span s, bool logarithm, double *sum,
                       float *dx) {
    for (size_t i = 0; i < s.inner; i++) sum[i] = 0;
    for (size_t r = 0; r < s.length; r++)
        for (size_t i = 0; i < s.inner; i++) {
            size_t at = r * s.inner + i;
            sum[i] += (double)(logarithm ? dy[at] : y[at] * dy[at]);
        }
    for (size_t r = 0; r < s.length; r++)
        for (size_t i = 0; i < s.inner; i++) {
            size_t at = r * s.inner + i;
            dx[at] = logarithm ? dy[at] - expf(y[at]) * (float)sum[i] : y[at] * (dy[at] - (float)sum[i]);
        }
}

static nw_status grad_eval(nw_op_call *call) {
    const float *y, *dy;
    float *dx;
    double *sum;
    int axis;
    NW_TRY(nw_call_f32(call, 0, &y));
    NW_TRY(nw_call_f32(call, 1, &dy));
    NW_TRY(nw_call_f32_out(call, 0, &dx));
    NW_TRY(nw_call_axis_attr(call, -1, call->in[0]->rank, &axis));
    nw_axis_span s = nw_axis_span_of(call->in[0], axis);
    NW_TRY(nw_call_scratch(call, s.inner, &sum));
    bool logarithm = nw_node_int(call->node, "logarithm", 0) != 0;
    for (size_t o = 0; o < s.outer; o++) {
        size_t at = o * s.length * s.inner;
        grad_block(y + at, dy + at, s, logarithm, sum, dx + at);
    }
    nw_call_f32_done(call, 0, dx);
    return NW_OK;
}

const nw_op nw_op_narrow_SoftmaxGrad = {
    .name = "SoftmaxGrad", .domain = "ai.narrow", .infer = grad_infer, .eval = grad_eval};

/* Before opset 13 a row may be several axes: seen as [outer, length, inner] it is one. */
static nw_status grad_of(nw_grad_call *c, bool logarithm) {
    const nw_op_call *call = nw_grad_forward(c);
    nw_axis_span s;
    if (!call) return c->status;
    NW_TRY(read_span(call, call->in[0], &s));
    const int64_t dims[3] = {(int64_t)s.outer, (int64_t)s.length, (int64_t)s.inner};
    int y = nw_grad_reshape(c, nw_grad_out(c, 0), 3, dims), dy = nw_grad_reshape(c, c->dy[0], 3, dims);
    nw_grad_begin(c, "ai.narrow", "SoftmaxGrad", 2, (int[]){y, dy});
    nw_grad_set_int(c, "axis", 1);
    nw_grad_set_int(c, "logarithm", logarithm);
    c->dx[0] = nw_grad_reshape_like(c, nw_grad_end(c), nw_grad_in(c, 0));
    return c->status;
}

static nw_status softmax_grad(nw_grad_call *c) {
    return grad_of(c, false);
}
static nw_status log_softmax_grad(nw_grad_call *c) {
    return grad_of(c, true);
}

const nw_op nw_op_Softmax = {.name = "Softmax",
                             .domain = "",
                             .infer = softmax_infer,
                             .eval = softmax_eval,
                             .roles = softmax_roles,
                             .grad = softmax_grad};
const nw_op nw_op_LogSoftmax = {.name = "LogSoftmax",
                                .domain = "",
                                .infer = softmax_infer,
                                .eval = log_softmax_eval,
                                .grad = log_softmax_grad};
const nw_op nw_op_Hardmax = {.name = "Hardmax", .domain = "", .infer = softmax_infer, .eval = hardmax_eval};
