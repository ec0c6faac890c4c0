/* norm.c: normalizations over channels, images and neighbourhoods: BatchNormalization, InstanceNormalization,
 * GroupNormalization, LRN, LpNormalization, MeanVarianceNormalization. Sums are in double. */
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>

enum { RUN = 256 }; /* elements converted at a time */

/* Σ (x − shift)^power over a run, power 1 or 2. */
static double sum_run(const nw_tensor *x, size_t first, size_t count, double shift, int power) {
    double buffer[RUN], sum = 0;
    for (size_t at = 0; at < count; at += RUN) {
        size_t n = count - at < RUN ? count - at : RUN;
        nw_load_run(x, first + at, n, buffer);
        if (power == 1)
            for (size_t i = 0; i < n; i++) sum += buffer[i] - shift;
        else
            for (size_t i = 0; i < n; i++) sum += (buffer[i] - shift) * (buffer[i] - shift);
    }
    return sum;
}

/* y = (x − mean)·factor + shift over a run. */
static void scale_run(const nw_tensor *x, nw_tensor *y, size_t first, size_t count, double mean,
                      double factor, double shift) {
    double buffer[RUN];
    for (size_t at = 0; at < count; at += RUN) {
        size_t n = count - at < RUN ? count - at : RUN;
        nw_load_run(x, first + at, n, buffer);
        for (size_t i = 0; i < n; i++) buffer[i] = (buffer[i] - mean) * factor + shift;
        nw_store_run(y, first + at, n, buffer);
    }
}

/* Mean and population variance of a run. */
static void moments(const nw_tensor *x, size_t first, size_t count, double *mean, double *variance) {
    double n = count > 0 ? (double)count : 1;
    *mean = sum_run(x, first, count, 0, 1) / n;
    *variance = sum_run(x, first, count, *mean, 2) / n;
}

static nw_status epsilon_of(const nw_op_call *call, double *epsilon) {
    *epsilon = (double)nw_node_float(call->node, "epsilon", 1e-5f);
    if (*epsilon >= 0) return NW_OK;
    return nw_call_fail(call, NW_E_ARGUMENT, "attribute epsilon must not be negative");
}

/* Normalizations that neither gain nor lose from integers, and whose parameters stay as they are. */
static void data_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
}

/* ---- BatchNormalization: X, scale, B, mean, var
 * ------------------------------------------------------------------ */

/* X as [outer][channels][inner]. */
typedef struct channels {
    size_t outer, count, inner;
} channels;

/* spatial = 0 (before opset 9) has a parameter for every element of a sample; one dimension means one
 * channel. */
static channels channels_of(const nw_op_call *call, const nw_tensor *x) {
    if (x->rank == 1) return (channels){1, 1, (size_t)x->dims[0]};
    bool spatial = call->version >= 9 || nw_node_int(call->node, "spatial", 1) != 0;
    int last = spatial ? 2 : x->rank;
    return (channels){(size_t)x->dims[0], nw_dims_product(x->dims, 1, last),
                      nw_dims_product(x->dims, last, x->rank)};
}

static bool in_training(const nw_op_call *call) {
    return nw_node_int(call->node, "training_mode", 0) != 0; /* older versions know no such attribute */
}

static nw_status batch_infer(nw_op_call *call) {
    const nw_tensor *x, *t;
    double epsilon;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 1, NW_MAX_RANK));
    NW_TRY(epsilon_of(call, &epsilon));
    channels c = channels_of(call, x);
    for (int i = 1; i < 5; i++) {
        NW_TRY(nw_call_require_real(call, i, &t));
        if (nw_tensor_count(t) != c.count)
            return nw_call_fail(call, NW_E_SHAPE, "input %d has %zu elements for %zu channels", i,
                                nw_tensor_count(t), c.count);
    }
    NW_TRY(nw_call_set_like(call, 0, x));
    for (int i = 1; i < call->out_count; i++) {
        if (!nw_call_wants(call, i)) continue;
        if (!in_training(call) || i > 2)
            return nw_call_fail(call, NW_E_UNSUPPORTED,
                                "output %d exists in training mode of opset 14 and later only", i);
        NW_TRY(nw_call_set_like(call, i, nw_call_in(call, 2 + i)));
    }
    return NW_OK;
}

/* Statistics of channel c over the whole batch. */
static void batch_moments(const nw_tensor *x, const channels *s, size_t c, double *mean, double *variance) {
    double n = (double)(s->outer * s->inner), sum = 0, squares = 0;
    if (n == 0) n = 1;
    for (size_t o = 0; o < s->outer; o++) sum += sum_run(x, (o * s->count + c) * s->inner, s->inner, 0, 1);
    *mean = sum / n;
    for (size_t o = 0; o < s->outer; o++)
        squares += sum_run(x, (o * s->count + c) * s->inner, s->inner, *mean, 2);
    *variance = squares / n;
}

static void update_running(nw_op_call *call, int out, size_t c, double momentum, double now) {
    if (out >= call->out_count || !nw_call_wants(call, out)) return;
    double before = nw_tensor_f64(call->in[2 + out], c);
    nw_store_f64(call->out[out].format, call->out[out].data, c, before * momentum + now * (1 - momentum));
}

static nw_status batch_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    channels s = channels_of(call, x);
    bool training = in_training(call);
    double epsilon, momentum = (double)nw_node_float(call->node, "momentum", 0.9f);
    NW_TRY(epsilon_of(call, &epsilon));
    for (size_t c = 0; c < s.count; c++) {
        double mean = nw_tensor_f64(call->in[3], c), variance = nw_tensor_f64(call->in[4], c);
        if (training) {
            batch_moments(x, &s, c, &mean, &variance);
            update_running(call, 1, c, momentum, mean);
            update_running(call, 2, c, momentum, variance);
        }
        double factor = nw_tensor_f64(call->in[1], c) / sqrt(variance + epsilon);
        double shift = nw_tensor_f64(call->in[2], c);
        for (size_t o = 0; o < s.outer; o++)
            scale_run(x, &call->out[0], (o * s.count + c) * s.inner, s.inner, mean, factor, shift);
    }
    return NW_OK;
}

/* BatchNormalizationGrad: inputs: x, scale, dy, and in inference mode mean and var; outputs: dx, dscale,
 * dbias. With x̂ = (x − mean)·inv, inv = 1/√(var + epsilon), and averages over all elements of the channel:
 *   dbias = Σ dy, dscale = Σ dy·x̂, dx = scale·inv·(dy − avg dy − x̂·avg(dy·x̂));
 * in inference mode dx = scale·inv·dy. Sums in double. */

static nw_status batch_grad_infer(nw_op_call *call) {
    const nw_tensor *x, *dy;
    double epsilon;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 2, &dy));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 1, NW_MAX_RANK));
    NW_TRY(epsilon_of(call, &epsilon));
    if (!nw_tensor_same_shape(x, dy))
        return nw_call_fail(call, NW_E_SHAPE, "the gradient must have the input's shape");
    int64_t count = (int64_t)channels_of(call, x).count;
    NW_TRY(nw_call_expect_shape(call, 1, "the scale", true, 1, &count));
    NW_TRY(nw_call_expect_shape(call, 3, "the mean", false, 1, &count));
    NW_TRY(nw_call_expect_shape(call, 4, "the variance", nw_call_in(call, 3) != NULL, 1, &count));
    NW_TRY(nw_call_set_like(call, 0, x));
    NW_TRY(nw_call_set_like(call, 1, call->in[1]));
    return nw_call_set_like(call, 2, call->in[1]);
}

/* dx = factor·(dy − shift − x̂·slope) over a run, x̂ = (x − mean)·inv. */
static void batch_grad_run(size_t n, const float *x, const float *dy, float mean, float inv, float factor,
                           float shift, float slope, float *dx) {
    slope *= inv;
    for (size_t i = 0; i < n; i++) dx[i] = factor * (dy[i] - shift - (x[i] - mean) * slope);
}

/* Σ dy and Σ dy·(x − mean) over a run. */
static void batch_grad_sums(size_t n, const float *x, const float *dy, float mean, double *sum,
                            double *product) {
    for (size_t i = 0; i < n; i++) {
        *sum += (double)dy[i];
        *product += (double)(dy[i] * (x[i] - mean));
    }
}

static nw_status batch_grad_eval(nw_op_call *call) {
    const float *x, *dy;
    float *dx;
    channels s = channels_of(call, call->in[0]);
    bool training = !nw_call_in(call, 3);
    double epsilon, n = (double)(s.outer * s.inner);
    NW_TRY(epsilon_of(call, &epsilon));
    NW_TRY(nw_call_f32(call, 0, &x));
    NW_TRY(nw_call_f32(call, 2, &dy));
    NW_TRY(nw_call_f32_out(call, 0, &dx));
    for (size_t c = 0; c < s.count; c++) {
        double mean, variance, sum = 0, product = 0;
        if (training) {
            batch_moments(call->in[0], &s, c, &mean, &variance);
        } else {
            mean = nw_tensor_f64(call->in[3], c);
            variance = nw_tensor_f64(call->in[4], c);
        }
        double inv = 1 / sqrt(variance + epsilon), factor = nw_tensor_f64(call->in[1], c) * inv;
        for (size_t o = 0; o < s.outer; o++) {
            size_t at = (o * s.count + c) * s.inner;
            batch_grad_sums(s.inner, x + at, dy + at, (float)mean, &sum, &product);
        }
        product *= inv;
        for (size_t o = 0; o < s.outer && dx; o++) {
            size_t at = (o * s.count + c) * s.inner;
            batch_grad_run(s.inner, x + at, dy + at, (float)mean, (float)inv, (float)factor,
                           training ? (float)(sum / n) : 0, training ? (float)(product / n) : 0, dx + at);
        }
        if (nw_call_wants(call, 1)) nw_store_f64(call->out[1].format, call->out[1].data, c, product);
        if (nw_call_wants(call, 2)) nw_store_f64(call->out[2].format, call->out[2].data, c, sum);
    }
    nw_call_f32_done(call, 0, dx);
    return NW_OK;
}

const nw_op nw_op_narrow_BatchNormalizationGrad = {.name = "BatchNormalizationGrad",
                                                   .domain = "ai.narrow",
                                                   .infer = batch_grad_infer,
                                                   .eval = batch_grad_eval};

/* Nothing flows through the running statistics. */
static nw_status batch_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    if (!call) return c->status;
    bool training = in_training(call);
    if (nw_grad_dy(c, 0) < 0) return NW_OK;
    if (!training && (c->wanted[3] || c->wanted[4]))
        nw_grad_fail(c, NW_E_UNSUPPORTED, "the mean and variance of inference mode cannot be trained");
    nw_grad_begin(c, "ai.narrow", "BatchNormalizationGrad", training ? 3 : 5,
                  (int[]){nw_grad_in(c, 0), nw_grad_in(c, 1), c->dy[0], nw_grad_in(c, 3), nw_grad_in(c, 4)});
    nw_grad_copy_attrs(c);
    nw_grad_end_many(c, 3, c->wanted, c->dx);
    return c->status;
}

const nw_op nw_op_BatchNormalization = {.name = "BatchNormalization",
                                        .domain = "",
                                        .infer = batch_infer,
                                        .eval = batch_eval,
                                        .roles = data_roles,
                                        .grad = batch_grad};

/* ---- InstanceNormalization, GroupNormalization: X [N, C, …], scale, bias
 * ----------------------------------------- */

/* scale and bias have one element per channel, or per group in GroupNormalization before opset 21. */
static nw_status grouped_infer(nw_op_call *call, int64_t groups, bool per_group) {
    const nw_tensor *x;
    double epsilon;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 2, NW_MAX_RANK));
    NW_TRY(epsilon_of(call, &epsilon));
    if (groups > 0 && x->dims[1] % groups)
        return nw_call_fail(call, NW_E_SHAPE, "%" PRId64 " channels do not divide into %" PRId64 " groups",
                            x->dims[1], groups);
    const int64_t *parameters = per_group ? &groups : &x->dims[1];
    NW_TRY(nw_call_expect_shape(call, 1, "scale", true, 1, parameters));
    NW_TRY(nw_call_expect_shape(call, 2, "bias", true, 1, parameters));
    return nw_call_set_like(call, 0, x);
}

static nw_status grouped_eval(nw_op_call *call, int64_t groups, bool per_group) {
    const nw_tensor *x = call->in[0];
    if (nw_tensor_count(x) == 0) return NW_OK;
    double epsilon, mean, variance;
    NW_TRY(epsilon_of(call, &epsilon));
    size_t each = (size_t)(x->dims[1] / groups), inner = nw_dims_product(x->dims, 2, x->rank);
    for (size_t i = 0, n = (size_t)(x->dims[0] * groups); i < n; i++) {
        moments(x, i * each * inner, each * inner, &mean, &variance);
        for (size_t c = 0; c < each; c++) {
            size_t group = i % (size_t)groups, parameter = per_group ? group : group * each + c;
            double factor = nw_tensor_f64(call->in[1], parameter) / sqrt(variance + epsilon);
            scale_run(x, &call->out[0], (i * each + c) * inner, inner, mean, factor,
                      nw_tensor_f64(call->in[2], parameter));
        }
    }
    return NW_OK;
}

static nw_status instance_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 2, NW_MAX_RANK));
    return grouped_infer(call, x->dims[1], false);
}

static nw_status instance_eval(nw_op_call *call) {
    return grouped_eval(call, call->in[0]->dims[1], false);
}

/* x̂ = (x − mean)/σ over each group of each image, y = scale·x̂ + bias: as LayerNormalization of rows, one
 * per group, whose output gradient is dy·scale; dscale = Σ dy·x̂, dbias = Σ dy. */
static nw_status grouped_grad(nw_grad_call *c, int64_t groups) {
    nw_tensor x = nw_grad_tensor(c, nw_grad_in(c, 0)), scale = nw_grad_tensor(c, nw_grad_in(c, 1));
    int64_t batch = x.dims[0], parameters = scale.dims[0], size = (int64_t)nw_dims_product(x.dims, 1, x.rank);
    if (nw_tensor_count(&x) == 0) return NW_OK;
    const int64_t rows[2] = {batch * groups, size / groups}, each[3] = {batch, parameters, size / parameters};
    const bool sum[NW_MAX_RANK] = {true, false, true};
    int row = nw_grad_reshape(c, nw_grad_in(c, 0), 2, rows), dy = nw_grad_reshape(c, c->dy[0], 3, each);
    int one = nw_grad_number(c, row, 1);
    if (c->wanted[0]) {
        int g = nw_grad_op2(c, "Mul", dy, nw_grad_channels(c, nw_grad_in(c, 1), 3));
        nw_grad_begin(c, "ai.narrow", "LayerNormalizationGrad", 3,
                      (int[]){row, one, nw_grad_reshape(c, g, 2, rows)});
        nw_grad_set_float(c, "epsilon", nw_node_float(c->node, "epsilon", 1e-5f));
        c->dx[0] = nw_grad_reshape_like(c, nw_grad_end(c), nw_grad_in(c, 0));
    }
    if (c->wanted[1]) {
        nw_grad_begin(c, "", "LayerNormalization", 2, (int[]){row, one});
        nw_grad_set_float(c, "epsilon", nw_node_float(c->node, "epsilon", 1e-5f));
        int normal = nw_grad_reshape(c, nw_grad_end(c), 3, each);
        c->dx[1] = nw_grad_sum_axes(c, nw_grad_op2(c, "Mul", dy, normal), sum, false);
    }
    if (c->wanted[2]) c->dx[2] = nw_grad_sum_axes(c, dy, sum, false);
    return c->status;
}

static nw_status instance_grad(nw_grad_call *c) {
    return grouped_grad(c, nw_grad_tensor(c, nw_grad_in(c, 0)).dims[1]);
}

const nw_op nw_op_InstanceNormalization = {.name = "InstanceNormalization",
                                           .domain = "",
                                           .infer = instance_infer,
                                           .eval = instance_eval,
                                           .roles = data_roles,
                                           .grad = instance_grad};

static nw_status group_infer(nw_op_call *call) {
    int64_t groups;
    NW_TRY(nw_call_int_attr(call, "num_groups", 0, 1, (int64_t)1 << 30, &groups));
    return grouped_infer(call, groups, call->version < 21);
}

static nw_status group_eval(nw_op_call *call) {
    return grouped_eval(call, nw_node_int(call->node, "num_groups", 0), call->version < 21);
}

static nw_status group_grad(nw_grad_call *c) {
    return grouped_grad(c, nw_node_int(c->node, "num_groups", 1));
}

const nw_op nw_op_GroupNormalization = {.name = "GroupNormalization",
                                        .domain = "",
                                        .infer = group_infer,
                                        .eval = group_eval,
                                        .roles = data_roles,
                                        .grad = group_grad};

/* ---- LRN: y = x / (bias + alpha/size · Σ x²)^beta, the sum over `size` neighbouring channels
 * ---------------------- */

static nw_status lrn_infer(nw_op_call *call) {
    const nw_tensor *x;
    int64_t size;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 2, NW_MAX_RANK));
    NW_TRY(nw_call_int_attr(call, "size", 0, 1, (int64_t)1 << 30, &size));
    return nw_call_set_like(call, 0, x);
}

static nw_status lrn_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    if (nw_tensor_count(x) == 0) return NW_OK;
    int64_t size = nw_node_int(call->node, "size", 1), count = x->dims[1];
    int64_t inner = (int64_t)nw_dims_product(x->dims, 2, x->rank), before = (size - 1) / 2,
            after = size - 1 - before;
    double alpha = (double)nw_node_float(call->node, "alpha", 1e-4f),
           beta = (double)nw_node_float(call->node, "beta", 0.75f);
    double bias = (double)nw_node_float(call->node, "bias", 1);
    double *in, *sums;
    NW_TRY(nw_call_scratch(call, (size_t)(count * inner), &in));
    NW_TRY(nw_call_scratch(call, (size_t)inner, &sums));
    for (int64_t n = 0; n < x->dims[0]; n++) {
        nw_load_run(x, (size_t)(n * count * inner), (size_t)(count * inner), in);
        for (int64_t c = 0; c < count; c++) {
            int64_t first = c > before ? c - before : 0, last = c + after < count ? c + after : count - 1;
            for (int64_t i = 0; i < inner; i++) sums[i] = 0;
            for (int64_t d = first; d <= last; d++)
                for (int64_t i = 0; i < inner; i++) sums[i] += in[d * inner + i] * in[d * inner + i];
            for (int64_t i = 0; i < inner; i++)
                sums[i] = in[c * inner + i] / pow(bias + alpha / (double)size * sums[i], beta);
            nw_store_run(&call->out[0], (size_t)((n * count + c) * inner), (size_t)inner, sums);
        }
    }
    return NW_OK;
}

const nw_op nw_op_LRN = {
    .name = "LRN", .domain = "", .infer = lrn_infer, .eval = lrn_eval, .roles = data_roles};

/* ---- LpNormalization: x / ‖x‖ₚ along one axis; a zero norm gives 0
 * ------------------------------------------------ */

static nw_status lp_parameters(const nw_op_call *call, const nw_tensor *x, int *axis, int64_t *p) {
    NW_TRY(nw_call_int_attr(call, "p", 2, 1, 2, p));
    return nw_call_axis(call, nw_node_int(call->node, "axis", -1), x->rank, false, axis);
}

static nw_status lp_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis;
    int64_t p;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(lp_parameters(call, x, &axis, &p));
    return nw_call_set_like(call, 0, x);
}

static nw_status lp_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    int axis;
    int64_t p;
    NW_TRY(lp_parameters(call, x, &axis, &p));
    size_t outer = nw_dims_product(x->dims, 0, axis), length = (size_t)x->dims[axis];
    size_t inner = nw_dims_product(x->dims, axis + 1, x->rank);
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < inner; i++) {
            size_t first = o * length * inner + i;
            double sum = 0;
            for (size_t l = 0; l < length; l++) {
                double v = nw_tensor_f64(x, first + l * inner);
                sum += p == 1 ? fabs(v) : v * v;
            }
            double norm = p == 1 ? sum : sqrt(sum);
            for (size_t l = 0; l < length; l++) {
                double v = nw_tensor_f64(x, first + l * inner);
                nw_store_f64(y->format, y->data, first + l * inner, norm == 0 ? 0 : v / norm);
            }
        }
    return NW_OK;
}

/* y = x/‖x‖: dx = (dy − s·Σ dy·y)/‖x‖, s = y for p = 2, sign x for p = 1; ‖x‖ ≠ 0. */
static nw_status lp_grad(nw_grad_call *c) {
    const nw_op_call *call = nw_grad_forward(c);
    int axis, x = nw_grad_in(c, 0), y = nw_grad_out(c, 0);
    int64_t p;
    if (!call) return c->status;
    NW_TRY(lp_parameters(call, call->in[0], &axis, &p));
    bool axes[NW_MAX_RANK] = {false};
    axes[axis] = true;
    int dot = nw_grad_sum_axes(c, nw_grad_op2(c, "Mul", c->dy[0], y), axes, true);
    nw_grad_begin(c, "", p == 1 ? "ReduceL1" : "ReduceL2", 1, &x);
    nw_grad_set_ints(c, "axes", 1, &(int64_t){axis});
    int norm = nw_grad_end(c), direction = p == 1 ? nw_grad_op1(c, "Sign", x) : y;
    int along = nw_grad_op2(c, "Sub", c->dy[0], nw_grad_op2(c, "Mul", direction, dot));
    c->dx[0] = nw_grad_op2(c, "Div", along, norm);
    return c->status;
}

const nw_op nw_op_LpNormalization = {.name = "LpNormalization",
                                     .domain = "",
                                     .infer = lp_infer,
                                     .eval = lp_eval,
                                     .roles = data_roles,
                                     .grad = lp_grad};

/* ---- MeanVarianceNormalization: (x − mean)/(sqrt(var) + 1e-9), statistics over `axes`
 * ----------------------------- */

/* dims of the statistics: those of x with 1 on the axes. */
static nw_status mvn_statistics(const nw_op_call *call, const nw_tensor *x, nw_tensor *statistics) {
    static const int64_t usual[] = {0, 2, 3};
    const int64_t *axes = usual;
    size_t count = 3;
    nw_node_ints(call->node, "axes", &axes, &count);
    *statistics = *x;
    for (size_t i = 0; i < count; i++) {
        int axis;
        NW_TRY(nw_call_axis(call, axes[i], x->rank, false, &axis));
        statistics->dims[axis] = 1;
    }
    return NW_OK;
}

static nw_status mvn_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_tensor statistics;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(mvn_statistics(call, x, &statistics));
    return nw_call_set_like(call, 0, x);
}

static nw_status mvn_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0], statistics;
    NW_TRY(mvn_statistics(call, x, &statistics));
    size_t count = nw_tensor_count(x), cells = nw_tensor_count(&statistics);
    if (count == 0) return NW_OK;
    double *mean, *variance, share = (double)cells / (double)count;
    NW_TRY(nw_call_scratch(call, cells, &mean));
    NW_TRY(nw_call_scratch(call, cells, &variance));
    for (size_t i = 0; i < cells; i++) mean[i] = variance[i] = 0;
    int64_t strides[NW_MAX_RANK];
    const int64_t *walk[1] = {strides};
    nw_broadcast_strides(&statistics, x, strides);
    for (int pass = 0; pass < 3; pass++) {
        int64_t index[NW_MAX_RANK] = {0}, cell = 0;
        for (size_t i = 0; i < count; i++) {
            double v = nw_tensor_f64(x, i);
            if (pass == 0)
                mean[cell] += v * share;
            else if (pass == 1)
                variance[cell] += (v - mean[cell]) * (v - mean[cell]) * share;
            else
                nw_store_f64(y->format, y->data, i, (v - mean[cell]) / (sqrt(variance[cell]) + 1e-9));
            nw_next_index(x->rank, x->dims, index, 1, walk, &cell);
        }
    }
    return NW_OK;
}

const nw_op nw_op_MeanVarianceNormalization = {.name = "MeanVarianceNormalization",
                                               .domain = "",
                                               .infer = mvn_infer,
                                               .eval = mvn_eval,
                                               .roles = data_roles};
