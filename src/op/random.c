/* random.c: RandomUniform, RandomNormal, their …Like forms, Bernoulli and Multinomial. A seed attribute makes
 * the numbers repeat; without one every evaluation draws others. And ai.narrow.Dropout. */
#include "base/random.h"
#include "op/grad.h"
#include "op/real.h"

#include <math.h>
#include <string.h>
#include <time.h>

static nw_random start(const nw_op_call *call) {
    const nw_attr *seed = nw_node_attr(call->node, "seed");
    nw_random g = {0};
    if (seed && seed->kind == NW_ATTR_FLOAT) {
        memcpy(&g.state, &seed->f, sizeof seed->f);
    } else {
        struct timespec now;
        timespec_get(&now, TIME_UTC);
        g.state = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    nw_random_bits(&g);
    return g;
}

/* The element type that attribute dtype names, or `absent`; it must be of a kind that the operator gives. */
static nw_status dtype_attr(const nw_op_call *call, nw_format absent, bool float_only, nw_format *format) {
    int64_t type = nw_node_int(call->node, "dtype", absent);
    *format = type > 0 && type < NW_FORMAT_COUNT ? nw_format_from_onnx((int)type) : NW_NONE;
    bool real = nw_format_is_float(*format) && nw_format_bits(*format) >= 16;
    bool whole = (nw_format_is_integer(*format) && nw_format_bits(*format) >= 8) || *format == NW_BOOL;
    if (real || (whole && !float_only)) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "it does not give elements of type %s", nw_format_name(*format));
}

static nw_status shape_infer(nw_op_call *call) {
    const int64_t *dims;
    size_t rank;
    nw_format format;
    NW_TRY(dtype_attr(call, NW_F32, true, &format));
    if (!nw_node_ints(call->node, "shape", &dims, &rank))
        return nw_call_fail(call, NW_E_FORMAT, "attribute shape is missing");
    if (rank > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "attribute shape has too many dimensions");
    return nw_call_set(call, 0, format, (int)rank, dims);
}

static nw_status like_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_format format;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(dtype_attr(call, nw_real_format(x), true, &format));
    return nw_call_set(call, 0, format, x->rank, x->dims);
}

static nw_status uniform_eval(nw_op_call *call) {
    double low = nw_node_float(call->node, "low", 0), high = nw_node_float(call->node, "high", 1);
    nw_tensor *y = &call->out[0];
    nw_random g = start(call);
    for (size_t i = 0, n = nw_tensor_count(y); i < n; i++)
        nw_store_f64(y->format, y->data, i, low + (high - low) * nw_random_uniform(&g));
    return NW_OK;
}

static nw_status normal_eval(nw_op_call *call) {
    double mean = nw_node_float(call->node, "mean", 0), scale = nw_node_float(call->node, "scale", 1);
    nw_tensor *y = &call->out[0];
    nw_random g = start(call);
    for (size_t i = 0, n = nw_tensor_count(y); i < n; i++)
        nw_store_f64(y->format, y->data, i, mean + scale * nw_random_normal(&g));
    return NW_OK;
}

const nw_op nw_op_RandomUniform = {
    .name = "RandomUniform", .domain = "", .flags = NW_OP_RANDOM, .infer = shape_infer, .eval = uniform_eval};
const nw_op nw_op_RandomUniformLike = {.name = "RandomUniformLike",
                                       .domain = "",
                                       .flags = NW_OP_RANDOM,
                                       .infer = like_infer,
                                       .eval = uniform_eval};
const nw_op nw_op_RandomNormal = {
    .name = "RandomNormal", .domain = "", .flags = NW_OP_RANDOM, .infer = shape_infer, .eval = normal_eval};
const nw_op nw_op_RandomNormalLike = {.name = "RandomNormalLike",
                                      .domain = "",
                                      .flags = NW_OP_RANDOM,
                                      .infer = like_infer,
                                      .eval = normal_eval};

/* ---- Bernoulli: y = 1 with probability x --------------------------------------------------------------- */

static nw_status bernoulli_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_format format;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(dtype_attr(call, nw_real_format(x), false, &format));
    return nw_call_set(call, 0, format, x->rank, x->dims);
}

static nw_status bernoulli_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    nw_random g = start(call);
    for (size_t i = 0, n = nw_tensor_count(y); i < n; i++)
        nw_store_s64(y->format, y->data, i, nw_random_uniform(&g) < nw_tensor_f64(x, i));
    return NW_OK;
}

const nw_op nw_op_Bernoulli = {.name = "Bernoulli",
                               .domain = "",
                               .flags = NW_OP_RANDOM,
                               .infer = bernoulli_infer,
                               .eval = bernoulli_eval};

/* ---- ai.narrow.Dropout: training's --------------------------------------------------------------------- */

/* inputs: x, step (one integer); attributes: ratio in [0, 1), seed; y = x/(1 − ratio) where element i is
 * kept, 0 with probability ratio. What is kept is a function of seed, step and i: the same step repeats bit
 * by bit, and the gradient is the operator itself on dy. */

static nw_status dropout_infer(nw_op_call *call) {
    const nw_tensor *x, *step;
    float ratio = nw_node_float(call->node, "ratio", 0.5f);
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &step));
    if (!nw_format_is_integer(step->format) || nw_tensor_count(step) != 1)
        return nw_call_fail(call, NW_E_SHAPE, "the step must be one integer");
    if (!(ratio >= 0 && ratio < 1))
        return nw_call_fail(call, NW_E_ARGUMENT, "attribute ratio must be at least 0 and below 1");
    return nw_call_set_like(call, 0, x);
}

static nw_status dropout_eval(nw_op_call *call) {
    const float *x;
    float *y, ratio = nw_node_float(call->node, "ratio", 0.5f), scale = 1 / (1 - ratio);
    NW_TRY(nw_call_f32(call, 0, &x));
    NW_TRY(nw_call_f32_out(call, 0, &y));
    nw_random g =
        nw_random_at((uint64_t)nw_node_int(call->node, "seed", 0), (uint64_t)nw_tensor_s64(call->in[1], 0));
    for (size_t i = 0, n = nw_tensor_count(&call->out[0]); i < n; i++)
        y[i] = nw_random_uniform(&g) < (double)ratio ? 0 : x[i] * scale;
    nw_call_f32_done(call, 0, y);
    return NW_OK;
}

static nw_status dropout_grad(nw_grad_call *c) {
    nw_grad_begin(c, "ai.narrow", "Dropout", 2, (int[]){c->dy[0], nw_grad_in(c, 1)});
    nw_grad_copy_attrs(c);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_narrow_Dropout = {.name = "Dropout",
                                    .domain = "ai.narrow",
                                    .infer = dropout_infer,
                                    .eval = dropout_eval,
                                    .grad = dropout_grad};

/* ---- Multinomial: x [batch, classes] log-probabilities → y [batch, sample_size] classes ---------------- */

static nw_status multinomial_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_format format;
    int64_t samples;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "its input", 2, 2));
    NW_TRY(nw_call_int_attr(call, "sample_size", 1, 0, INT32_MAX, &samples));
    NW_TRY(dtype_attr(call, NW_S32, false, &format));
    if (format != NW_S32 && format != NW_S64)
        return nw_call_fail(call, NW_E_TYPE, "its dtype must be s32 or s64, not %s", nw_format_name(format));
    if (x->dims[1] < 1) return nw_call_fail(call, NW_E_SHAPE, "there are no classes to draw from");
    return nw_call_set(call, 0, format, 2, (const int64_t[]){x->dims[0], samples});
}

/* Inverse of the cumulative distribution, by bisection: the first class whose cumulative weight exceeds the
 * draw. */
static size_t draw(size_t classes, const double *cumulative, double at) {
    size_t lo = 0, hi = classes - 1;
    while (lo < hi) {
        size_t middle = lo + (hi - lo) / 2;
        if (cumulative[middle] > at)
            hi = middle;
        else
            lo = middle + 1;
    }
    return lo;
}

static nw_status multinomial_eval(nw_op_call *call) {
    nw_tensor *y = &call->out[0];
    const double *x;
    double *cumulative;
    size_t batch = (size_t)y->dims[0], samples = (size_t)y->dims[1], classes = (size_t)call->in[0]->dims[1];
    nw_random g = start(call);
    NW_TRY(nw_call_f64(call, 0, &x));
    NW_TRY(nw_call_scratch(call, classes, &cumulative));
    for (size_t b = 0; b < batch; b++, x += classes) {
        double most = -INFINITY, sum = 0;
        for (size_t c = 0; c < classes; c++) most = fmax(most, x[c]);
        for (size_t c = 0; c < classes; c++) cumulative[c] = sum += exp(x[c] - most);
        for (size_t i = 0; i < samples; i++)
            nw_store_s64(y->format, y->data, b * samples + i,
                         (int64_t)draw(classes, cumulative, sum * nw_random_uniform(&g)));
    }
    return NW_OK;
}

const nw_op nw_op_Multinomial = {.name = "Multinomial",
                                 .domain = "",
                                 .flags = NW_OP_RANDOM,
                                 .infer = multinomial_infer,
                                 .eval = multinomial_eval};
