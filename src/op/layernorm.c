/* layernorm.c: normalizations of rows, as transformers use them: LayerNormalization, RMSNormalization, and
 * onnxruntime's SimplifiedLayerNormalization, SkipLayerNormalization and SkipSimplifiedLayerNormalization.
 * Sums are in double. */
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>

/* y = (x − mean)·inv·scale + bias over `size` elements, inv = 1/sqrt(mean of squares + epsilon); without
 * `centred` the mean is left out (RMS). scale and bias [size]; bias may be NULL. */
typedef struct row_norm {
    size_t size;
    bool centred;
    double epsilon;
    const double *scale, *bias;
} row_norm;

static void normalize(const row_norm *n, const double *x, double *y, double *mean, double *inv) {
    double sum = 0, squares = 0, count = n->size > 0 ? (double)n->size : 1;
    for (size_t i = 0; i < n->size && n->centred; i++) sum += x[i];
    *mean = sum / count;
    for (size_t i = 0; i < n->size; i++) squares += (x[i] - *mean) * (x[i] - *mean);
    *inv = 1 / sqrt(squares / count + n->epsilon);
    for (size_t i = 0; i < n->size; i++) y[i] = (x[i] - *mean) * *inv * n->scale[i];
    for (size_t i = 0; i < n->size && n->bias; i++) y[i] += n->bias[i];
}

static void layer_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
}

static nw_status read_epsilon(const nw_op_call *call, double *epsilon) {
    *epsilon = (double)nw_node_float(call->node, "epsilon", 1e-5f);
    if (*epsilon >= 0) return NW_OK;
    return nw_call_fail(call, NW_E_ARGUMENT, "attribute epsilon must not be negative");
}

/* The axis from which on the dimensions of x make a row; epsilon. */
static nw_status read_row(const nw_op_call *call, const nw_tensor *x, int *axis, double *epsilon) {
    NW_TRY(read_epsilon(call, epsilon));
    return nw_call_axis(call, nw_node_int(call->node, "axis", -1), x->rank, false, axis);
}

/* Dimensions of a row as a tensor: those of x with 1 before the axis. */
static nw_tensor row_shape(const nw_tensor *x, int axis) {
    nw_tensor row = {.format = NW_F64};
    nw_tensor_set_shape(&row, x->rank, x->dims);
    for (int d = 0; d < axis; d++) row.dims[d] = 1;
    return row;
}

/* Input i broadcasts to a row. */
static nw_status expect_row(const nw_op_call *call, int i, const char *name, const nw_tensor *row) {
    const nw_tensor *t;
    NW_TRY(nw_call_require_real(call, i, &t));
    bool fits = t->rank <= row->rank;
    for (int d = 0; d < t->rank && fits; d++)
        fits = t->dims[d] == 1 || t->dims[d] == row->dims[row->rank - t->rank + d];
    if (fits) return NW_OK;
    char has[96], wants[96];
    return nw_call_fail(call, NW_E_SHAPE, "%s is %s, which does not fit rows of shape %s", name,
                        nw_tensor_describe(t, has, sizeof has), nw_tensor_describe(row, wants, sizeof wants));
}

/* Input i as f64, broadcast to a row; NULL when absent. */
static nw_status load_row(const nw_op_call *call, int i, const nw_tensor *row, const double **out) {
    const nw_tensor *t = nw_call_in(call, i);
    NW_TRY(nw_call_f64(call, i, out));
    size_t size = nw_tensor_count(row);
    if (!t || nw_tensor_count(t) == size) return NW_OK;
    double *wide;
    NW_TRY(nw_call_scratch(call, size, &wide));
    int64_t strides[NW_MAX_RANK], index[NW_MAX_RANK] = {0}, from = 0;
    const int64_t *walk[1] = {strides};
    nw_broadcast_strides(t, row, strides);
    for (size_t k = 0; k < size; k++) {
        wide[k] = (*out)[from];
        nw_next_index(row->rank, row->dims, index, 1, walk, &from);
    }
    *out = wide;
    return NW_OK;
}

static void store_statistic(nw_op_call *call, int out, size_t row, double value) {
    if (out < call->out_count && nw_call_wants(call, out))
        nw_store_f64(call->out[out].format, call->out[out].data, row, value);
}

/* Rows of call->in[0] (+ a row of skip, + sum_bias) through n; statistics to outputs 1 and 2, the sums to
 * output 3. */
static nw_status run_rows(nw_op_call *call, const row_norm *n, const nw_tensor *skip,
                          const double *sum_bias) {
    const nw_tensor *x = call->in[0];
    size_t count = nw_tensor_count(x);
    if (count == 0) return NW_OK;
    double *in, *out, mean, inv;
    NW_TRY(nw_call_scratch(call, n->size, &in));
    NW_TRY(nw_call_scratch(call, n->size, &out));
    size_t skip_rows = skip ? nw_tensor_count(skip) / n->size : 0;
    for (size_t row = 0; row < count / n->size; row++) {
        nw_load_run(x, row * n->size, n->size, in);
        if (skip) {
            nw_load_run(skip, row % skip_rows * n->size, n->size, out);
            for (size_t i = 0; i < n->size; i++) in[i] += out[i];
        }
        for (size_t i = 0; i < n->size && sum_bias; i++) in[i] += sum_bias[i];
        normalize(n, in, out, &mean, &inv);
        nw_store_run(&call->out[0], row * n->size, n->size, out);
        store_statistic(call, 1, row, mean);
        store_statistic(call, 2, row, inv);
        if (skip && call->out_count > 3 && nw_call_wants(call, 3))
            nw_store_run(&call->out[3], row * n->size, n->size, in);
    }
    return NW_OK;
}

/* ---- LayerNormalization, RMSNormalization, SimplifiedLayerNormalization: X, scale, bias?
 * -------------------------- */

static nw_status statistics_format(const nw_op_call *call, nw_format *format) {
    int64_t type = nw_node_int(call->node, "stash_type", 1);
    *format = NW_F32;
    if (type != NW_F32 && type != NW_F16 && type != NW_F64 && type != NW_BF16)
        return nw_call_fail(call, NW_E_ARGUMENT, "attribute stash_type must name a floating-point type");
    *format = (nw_format)type;
    return NW_OK;
}

static nw_status layer_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis;
    double epsilon;
    nw_format stash;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(read_row(call, x, &axis, &epsilon));
    NW_TRY(statistics_format(call, &stash));
    nw_tensor row = row_shape(x, axis);
    NW_TRY(expect_row(call, 1, "the scale", &row));
    if (nw_call_in(call, 2)) NW_TRY(expect_row(call, 2, "the bias", &row));
    NW_TRY(nw_call_set_like(call, 0, x));
    int64_t dims[NW_MAX_RANK];
    for (int d = 0; d < x->rank; d++) dims[d] = d < axis ? x->dims[d] : 1;
    NW_TRY(nw_call_set(call, 1, stash, x->rank, dims));
    return nw_call_set(call, 2, stash, x->rank, dims);
}

static nw_status layer_run(nw_op_call *call, bool centred) {
    int axis;
    row_norm n = {.centred = centred};
    NW_TRY(read_row(call, call->in[0], &axis, &n.epsilon));
    nw_tensor row = row_shape(call->in[0], axis);
    n.size = nw_tensor_count(&row);
    NW_TRY(load_row(call, 1, &row, &n.scale));
    NW_TRY(load_row(call, 2, &row, &n.bias));
    return run_rows(call, &n, NULL, NULL);
}

static nw_status layer_eval(nw_op_call *call) {
    return layer_run(call, true);
}

/* LayerNormalizationGrad: inputs: x, scale, dy; attributes: axis, epsilon, and centred (1; 0: RMS); outputs:
 * dx, and dscale and dbias of a row's shape. With x̂ = (x − mean)·inv, g = dy·scale, and averages over the row:
 *   dx = inv·(g − avg g − x̂·avg(g·x̂)), without avg g for RMS;
 *   dscale = Σ dy·x̂, dbias = Σ dy over the rows. */

static nw_status layer_grad_infer(nw_op_call *call) {
    const nw_tensor *x, *dy;
    int axis;
    double epsilon;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 2, &dy));
    NW_TRY(read_row(call, x, &axis, &epsilon));
    if (!nw_tensor_same_shape(x, dy))
        return nw_call_fail(call, NW_E_SHAPE, "the gradient must have the input's shape");
    nw_tensor row = row_shape(x, axis);
    NW_TRY(expect_row(call, 1, "the scale", &row));
    NW_TRY(nw_call_set_like(call, 0, x));
    NW_TRY(nw_call_set(call, 1, nw_real_format(call->in[1]), x->rank - axis, x->dims + axis));
    return nw_call_set(call, 2, nw_real_format(call->in[1]), x->rank - axis, x->dims + axis);
}

/* One row; dscale and dbias are added to. normal: room for x̂. */
static void normalize_grad(const row_norm *n, const double *x, const double *dy, double *normal,
                           double *dscale, double *dbias, double *dx) {
    double mean, inv, sum = 0, product = 0, count = (double)n->size;
    row_norm plain = *n;
    plain.bias = NULL;
    normalize(&plain, x, normal, &mean, &inv);
    for (size_t i = 0; i < n->size; i++) {
        normal[i] = (x[i] - mean) * inv;
        double g = dy[i] * n->scale[i];
        sum += g;
        product += g * normal[i];
        dscale[i] += dy[i] * normal[i];
        dbias[i] += dy[i];
    }
    sum = n->centred ? sum / count : 0;
    product /= count;
    for (size_t i = 0; i < n->size; i++) dx[i] = inv * (dy[i] * n->scale[i] - sum - normal[i] * product);
}

static nw_status layer_grad_eval(nw_op_call *call) {
    int axis;
    row_norm n = {.centred = nw_node_int(call->node, "centred", 1) != 0};
    const nw_tensor *x = call->in[0];
    NW_TRY(read_row(call, x, &axis, &n.epsilon));
    nw_tensor row = row_shape(x, axis);
    n.size = nw_tensor_count(&row);
    NW_TRY(load_row(call, 1, &row, &n.scale));
    double *buffer;
    NW_TRY(nw_call_scratch(call, n.size * 6, &buffer));
    double *in = buffer, *dy = in + n.size, *normal = dy + n.size, *dx = normal + n.size;
    double *dscale = dx + n.size, *dbias = dscale + n.size;
    for (size_t i = 0; i < n.size; i++) dscale[i] = dbias[i] = 0;
    size_t rows = n.size > 0 ? nw_tensor_count(x) / n.size : 0;
    for (size_t r = 0; r < rows; r++) {
        nw_load_run(x, r * n.size, n.size, in);
        nw_load_run(call->in[2], r * n.size, n.size, dy);
        normalize_grad(&n, in, dy, normal, dscale, dbias, dx);
        if (nw_call_wants(call, 0)) nw_store_run(&call->out[0], r * n.size, n.size, dx);
    }
    if (nw_call_wants(call, 1)) nw_store_run(&call->out[1], 0, n.size, dscale);
    if (nw_call_wants(call, 2)) nw_store_run(&call->out[2], 0, n.size, dbias);
    return NW_OK;
}

const nw_op nw_op_narrow_LayerNormalizationGrad = {.name = "LayerNormalizationGrad",
                                                   .domain = "ai.narrow",
                                                   .infer = layer_grad_infer,
                                                   .eval = layer_grad_eval};

/* Scale and bias may be smaller than a row, which repeats them. */
static nw_status rows_grad(nw_grad_call *c, bool centred) {
    for (int i = 1; i < c->node->out_count; i++)
        if (c->dy[i] >= 0)
            nw_grad_fail(c, NW_E_UNSUPPORTED, "the statistics, outputs 1 and 2, cannot be trained through");
    if (nw_grad_dy(c, 0) < 0) return c->status;
    bool outs[3] = {c->wanted[0], c->wanted[1], nw_grad_wants(c, 2)};
    int ids[3];
    nw_grad_begin(c, "ai.narrow", "LayerNormalizationGrad", 3,
                  (int[]){nw_grad_in(c, 0), nw_grad_in(c, 1), c->dy[0]});
    nw_grad_copy_attrs(c);
    nw_grad_set_int(c, "centred", centred);
    nw_grad_end_many(c, 3, outs, ids);
    c->dx[0] = ids[0];
    for (int i = 1; i < 3; i++)
        if (outs[i]) c->dx[i] = nw_grad_sum_to(c, ids[i], nw_grad_in(c, i));
    return c->status;
}

static nw_status layer_grad(nw_grad_call *c) {
    return rows_grad(c, true);
}
static nw_status rms_grad(nw_grad_call *c) {
    return rows_grad(c, false);
}

const nw_op nw_op_LayerNormalization = {.name = "LayerNormalization",
                                        .domain = "",
                                        .infer = layer_infer,
                                        .eval = layer_eval,
                                        .roles = layer_roles,
                                        .grad = layer_grad};

static nw_status rms_infer(nw_op_call *call) {
    NW_TRY(layer_infer(call));
    call->out[0].format = nw_real_format(call->in[call->in[1]->qparam ? 0 : 1]);
    return NW_OK;
}

static nw_status rms_eval(nw_op_call *call) {
    return layer_run(call, false);
}

const nw_op nw_op_RMSNormalization = {.name = "RMSNormalization",
                                      .domain = "",
                                      .infer = rms_infer,
                                      .eval = rms_eval,
                                      .roles = layer_roles,
                                      .grad = rms_grad};

/* onnxruntime's own, which it registers in ONNX's domain; its second output is the inverse deviation. */
static nw_status simplified_infer(nw_op_call *call) {
    NW_TRY(rms_infer(call));
    if (call->out_count > 1 && nw_call_wants(call, 1))
        return nw_call_fail(call, NW_E_UNSUPPORTED, "the output inv_std_var is not supported");
    return NW_OK;
}

const nw_op nw_op_SimplifiedLayerNormalization = {.name = "SimplifiedLayerNormalization",
                                                  .domain = "",
                                                  .infer = simplified_infer,
                                                  .eval = rms_eval,
                                                  .roles = layer_roles,
                                                  .grad = rms_grad};
const nw_op nw_op_ms_SimplifiedLayerNormalization = {.name = "SimplifiedLayerNormalization",
                                                     .domain = "com.microsoft",
                                                     .infer = simplified_infer,
                                                     .eval = rms_eval,
                                                     .roles = layer_roles,
                                                     .grad = rms_grad};

/* ---- Skip…: input, skip, gamma, [beta,] bias → output, mean, inv_std_var, input + skip + bias
 * --------------------- */

/* beta_at: the input that holds beta, or 0 for the simplified form, which has none. */
static nw_status skip_infer(nw_op_call *call, int beta_at) {
    const nw_tensor *x, *skip;
    double epsilon;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &skip));
    NW_TRY(read_epsilon(call, &epsilon));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 1, NW_MAX_RANK));
    nw_tensor row = row_shape(x, x->rank - 1);
    bool fits = skip->rank <= x->rank, whole = false;
    for (int d = skip->rank - 1; d >= 0 && fits; d--) { /* [S,H] and [1,S,H] repeat over the batch */
        int64_t dim = x->dims[x->rank - skip->rank + d];
        whole = whole || (skip->dims[d] == 1 && dim != 1);
        fits = whole ? skip->dims[d] == 1 : skip->dims[d] == dim;
    }
    if (!fits || skip->rank == 0 || skip->dims[skip->rank - 1] != x->dims[x->rank - 1])
        return nw_call_fail(call, NW_E_SHAPE, "the shapes of input and skip do not fit");
    NW_TRY(expect_row(call, 2, "gamma", &row));
    if (beta_at && nw_call_in(call, beta_at)) NW_TRY(expect_row(call, beta_at, "beta", &row));
    int bias_at = beta_at ? beta_at + 1 : 3;
    if (nw_call_in(call, bias_at)) NW_TRY(expect_row(call, bias_at, "the bias", &row));
    int64_t dims[NW_MAX_RANK];
    for (int d = 0; d < x->rank; d++) dims[d] = d < x->rank - 1 ? x->dims[d] : 1;
    NW_TRY(nw_call_set_like(call, 0, x));
    NW_TRY(nw_call_set(call, 1, NW_F32, x->rank, dims));
    NW_TRY(nw_call_set(call, 2, NW_F32, x->rank, dims));
    return nw_call_set_like(call, 3, x);
}

static nw_status skip_run(nw_op_call *call, int beta_at) {
    row_norm n = {.centred = beta_at != 0};
    const double *bias;
    NW_TRY(read_epsilon(call, &n.epsilon));
    nw_tensor row = row_shape(call->in[0], call->in[0]->rank - 1);
    n.size = nw_tensor_count(&row);
    NW_TRY(load_row(call, 2, &row, &n.scale));
    if (beta_at) NW_TRY(load_row(call, beta_at, &row, &n.bias));
    NW_TRY(load_row(call, beta_at ? beta_at + 1 : 3, &row, &bias));
    return run_rows(call, &n, call->in[1], bias);
}

static nw_status skip_layer_infer(nw_op_call *call) {
    return skip_infer(call, 3);
}
static nw_status skip_layer_eval(nw_op_call *call) {
    return skip_run(call, 3);
}
static nw_status skip_simplified_infer(nw_op_call *call) {
    return skip_infer(call, 0);
}
static nw_status skip_simplified_eval(nw_op_call *call) {
    return skip_run(call, 0);
}

const nw_op nw_op_ms_SkipLayerNormalization = {.name = "SkipLayerNormalization",
                                               .domain = "com.microsoft",
                                               .infer = skip_layer_infer,
                                               .eval = skip_layer_eval,
                                               .roles = layer_roles};
const nw_op nw_op_ms_SkipSimplifiedLayerNormalization = {.name = "SkipSimplifiedLayerNormalization",
                                                         .domain = "com.microsoft",
                                                         .infer = skip_simplified_infer,
                                                         .eval = skip_simplified_eval,
                                                         .roles = layer_roles};
