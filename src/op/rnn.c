/* rnn.c: LSTM, GRU and RNN. One direction at a time: x·Wᵀ for all steps in one product, then a product with R
 * per step. Single precision whatever the type. */
#include "op/rnn.h"

#include "op/grad.h"
#include "op/matmul.h"
#include "op/quantize.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <strings.h>

/* ---- activations
 * ------------------------------------------------------------------------------------------------ */

/* Names as the ONNX operator pages spell them, and the defaults of the operators of the same name. */
static const struct {
    const char *name;
    nw_act defaults;
    int parameters; /* 1: alpha, 2: alpha and beta */
} act_table[] = {
    {"Sigmoid", {NW_ACT_SIGMOID, 0, 0}, 0},
    {"Tanh", {NW_ACT_TANH, 0, 0}, 0},
    {"Relu", {NW_ACT_RELU, 0, 0}, 0},
    {"Affine", {NW_ACT_AFFINE, 1, 0}, 2},
    {"LeakyRelu", {NW_ACT_LEAKY_RELU, 0.01f, 0}, 1},
    {"ThresholdedRelu", {NW_ACT_THRESHOLDED_RELU, 1, 0}, 1},
    {"ScaledTanh", {NW_ACT_SCALED_TANH, 1, 1}, 2},
    {"HardSigmoid", {NW_ACT_HARD_SIGMOID, 0.2f, 0.5f}, 2},
    {"Elu", {NW_ACT_ELU, 1, 0}, 1},
    {"Softsign", {NW_ACT_SOFTSIGN, 0, 0}, 0},
    {"Softplus", {NW_ACT_SOFTPLUS, 0, 0}, 0},
};

static float activate_one(nw_act a, float x) {
    switch (a.kind) {
    case NW_ACT_SIGMOID: return 1 / (1 + expf(-x));
    case NW_ACT_TANH: return tanhf(x);
    case NW_ACT_RELU: return x > 0 ? x : 0;
    case NW_ACT_AFFINE: return a.alpha * x + a.beta;
    case NW_ACT_LEAKY_RELU: return x >= 0 ? x : a.alpha * x;
    case NW_ACT_THRESHOLDED_RELU: return x >= a.alpha ? x : 0;
    case NW_ACT_SCALED_TANH: return a.alpha * tanhf(a.beta * x);
    case NW_ACT_HARD_SIGMOID: return fminf(fmaxf(a.alpha * x + a.beta, 0), 1);
    case NW_ACT_ELU: return x >= 0 ? x : a.alpha * expm1f(x);
    case NW_ACT_SOFTSIGN: return x / (1 + fabsf(x));
    case NW_ACT_SOFTPLUS: return x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x));
    }
    return x;
}

/* x in place, clipped to ±clip before (clip ≤ 0: not). */
static void activate(nw_act a, float clip, int64_t count, float *x) {
    if (clip > 0)
        for (int64_t i = 0; i < count; i++) x[i] = fminf(fmaxf(x[i], -clip), clip);
    for (int64_t i = 0; i < count; i++) x[i] = activate_one(a, x[i]);
}

/* ---- the node
 * --------------------------------------------------------------------------------------------------- */

static const int act_count[] = {1, 2, 3}; /* per direction: f, g, h */

static nw_status read_acts(const nw_op_call *call, nw_recurrent *r) {
    static const char *const usual[][3] = {{"Tanh"}, {"Sigmoid", "Tanh"}, {"Sigmoid", "Tanh", "Tanh"}};
    const nw_attr *names = nw_node_attr(call->node, "activations");
    const float *alpha = NULL, *beta = NULL;
    size_t alphas = 0, betas = 0, next_alpha = 0, next_beta = 0, known = sizeof act_table / sizeof *act_table;
    nw_node_floats(call->node, "activation_alpha", &alpha, &alphas);
    nw_node_floats(call->node, "activation_beta", &beta, &betas);
    int each = act_count[r->kind], count = each * (int)r->directions;
    if (names && names->kind == NW_ATTR_STRINGS && names->count != 0 && names->count < (size_t)count)
        return nw_call_fail(call, NW_E_ARGUMENT, "attribute activations names %zu functions, %d are needed",
                            names->count, count);
    bool given = names && names->kind == NW_ATTR_STRINGS && names->count != 0;
    for (int i = 0; i < count; i++) {
        const char *name = given ? names->strings[i].data : usual[r->kind][i % each];
        size_t length = given ? names->strings[i].size : strlen(name), k = 0;
        while (k < known &&
               (strlen(act_table[k].name) != length || strncasecmp(act_table[k].name, name, length) != 0))
            k++;
        if (k == known)
            return nw_call_fail(call, NW_E_UNSUPPORTED, "activation \"%.*s\" is not known",
                                (int)(length < 40 ? length : 40), name);
        r->acts[i] = act_table[k].defaults;
        /* The lists are consumed in order by the functions that take a parameter. */
        if (act_table[k].parameters >= 1 && next_alpha < alphas) r->acts[i].alpha = alpha[next_alpha++];
        if (act_table[k].parameters >= 2 && next_beta < betas) r->acts[i].beta = beta[next_beta++];
    }
    return NW_OK;
}

static nw_status read_state_format(const nw_op_call *call, nw_recurrent *r) {
    bool dynamic = call->node->op == &nw_op_ms_DynamicQuantizeLSTM;
    const char *name = dynamic ? "u8" : nw_node_string(call->node, NW_STATE_FORMAT, NULL);
    if (!name) return NW_OK;
    nw_format format = nw_format_by_name(name);
    if (!nw_format_is_integer(format) || nw_format_bits(format) > 16)
        return nw_call_fail(call, NW_E_ARGUMENT, "\"%s\" is no format to quantize its state to", name);
    r->state = (nw_qparam){
        .format = format, .qmin = (int32_t)nw_format_min(format), .qmax = (int32_t)nw_format_max(format)};
    return NW_OK;
}

static nw_status check_parameters(const nw_op_call *call, const nw_recurrent *r) {
    int64_t gates = nw_gate_count[r->kind];
    const int64_t w[3] = {r->directions, gates * r->hidden, r->input};
    const int64_t rec[3] = {r->directions, gates * r->hidden, r->hidden};
    const int64_t b[2] = {r->directions, 2 * gates * r->hidden}, p[2] = {r->directions, 3 * r->hidden};
    const int64_t state[3] = {r->batch_first ? r->batch : r->directions,
                              r->batch_first ? r->directions : r->batch, r->hidden};
    NW_TRY(nw_call_expect_shape(call, 1, "W", true, 3, w));
    NW_TRY(nw_call_expect_shape(call, 2, "R", true, 3, rec));
    NW_TRY(nw_call_expect_shape(call, 3, "B", false, 2, b));
    NW_TRY(nw_call_expect_shape(call, 5, "initial_h", false, 3, state));
    if (r->kind == NW_CELL_LSTM) {
        NW_TRY(nw_call_expect_shape(call, 6, "initial_c", false, 3, state));
        NW_TRY(nw_call_expect_shape(call, 7, "P", false, 2, p));
    }
    const nw_tensor *lengths = nw_call_in(call, 4);
    if (lengths &&
        (!nw_format_is_integer(lengths->format) || lengths->rank != 1 || lengths->dims[0] != r->batch))
        return nw_call_fail(call, NW_E_SHAPE, "sequence_lens must hold one integer for each sample");
    return NW_OK;
}

nw_status nw_recurrent_of(const nw_op_call *call, nw_cell kind, nw_recurrent *r) {
    static const char *const words[] = {"forward", "reverse", "bidirectional", NULL};
    const nw_tensor *x, *rec;
    int direction;
    *r = (nw_recurrent){.kind = kind};
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 2, &rec));
    NW_TRY(nw_call_expect_rank(call, x, "X", 3, 3));
    NW_TRY(nw_call_expect_rank(call, rec, "R", 3, 3));
    NW_TRY(nw_call_word_attr(call, "direction", words, &direction));
    r->reverse = direction == 1;
    r->directions = direction == 2 ? 2 : 1;
    r->batch_first = nw_node_int(call->node, "layout", 0) != 0;
    r->steps = x->dims[r->batch_first ? 1 : 0];
    r->batch = x->dims[r->batch_first ? 0 : 1];
    r->input = x->dims[2];
    NW_TRY(nw_call_int_attr(call, "hidden_size", rec->dims[2], 1, (int64_t)1 << 30, &r->hidden));
    r->linear_before_reset = nw_node_int(call->node, "linear_before_reset", 0) != 0;
    r->couple_forget = nw_node_int(call->node, "input_forget", 0) != 0;
    r->clip = nw_node_float(call->node, "clip", 0);
    NW_TRY(read_acts(call, r));
    NW_TRY(read_state_format(call, r));
    return check_parameters(call, r);
}

static nw_status recurrent_infer(nw_op_call *call, nw_cell kind) {
    nw_recurrent r;
    NW_TRY(nw_recurrent_of(call, kind, &r));
    nw_format format = nw_real_format(call->in[0]);
    const int64_t y[4] = {r.steps, r.directions, r.batch, r.hidden};
    const int64_t y_batch_first[4] = {r.batch, r.steps, r.directions, r.hidden};
    const int64_t state[3] = {r.directions, r.batch, r.hidden},
                  state_batch_first[3] = {r.batch, r.directions, r.hidden};
    NW_TRY(nw_call_set(call, 0, format, 4, r.batch_first ? y_batch_first : y));
    for (int i = 1; i <= (kind == NW_CELL_LSTM ? 2 : 1); i++)
        NW_TRY(nw_call_set(call, i, format, 3, r.batch_first ? state_batch_first : state));
    return NW_OK;
}

/* ---- one direction
 * ---------------------------------------------------------------------------------------------- */

/* out[row] += a[row]·wᵀ: a [rows, k], w [count, k], out with rows of out_row elements. */
static void add_product(int64_t rows, int64_t count, int64_t k, const float *a, const float *w, float *out,
                        int64_t out_row) {
    nw_product p = {.m = rows,
                    .n = count,
                    .k = k,
                    .a_row = k,
                    .a_k = 1,
                    .b_k = 1,
                    .b_column = k,
                    .y_row = out_row,
                    .accumulate = true};
    nw_product_f32(&p, a, w, out);
}

/* [batch, hidden] as it is multiplied with R: each row on a grid of its own, or as it is. */
static const float *operand_of(const nw_recurrent *r, const nw_recurrent_work *w, const float *state) {
    size_t n = (size_t)r->hidden, count = (size_t)r->batch * n;
    if (!r->state.format) return state;
    for (size_t at = 0; at < count; at += n)
        nw_fake_quantize_measured(&r->state, n, state + at, w->operand + at);
    return w->operand;
}

static void rnn_step(const nw_recurrent *r, const nw_act *acts, const nw_recurrent_work *w, const float *rec,
                     int64_t t) {
    int64_t n = r->hidden;
    add_product(r->batch, n, n, operand_of(r, w, w->h), rec, w->gates, n);
    activate(acts[0], r->clip, r->batch * n, w->gates);
    for (int64_t s = 0; s < r->batch; s++)
        if (t < w->lengths[s]) memcpy(w->h + s * n, w->gates + s * n, (size_t)n * sizeof *w->h);
}

/* z, r = f(…); h̃ = g(x·Whᵀ + (r ⊙ h)·Rhᵀ + Wbh + Rbh), or with linear_before_reset g(x·Whᵀ + r ⊙ (h·Rhᵀ +
 * Rbh) + Wbh); h = (1 − z) ⊙ h̃ + z ⊙ h. rec_bias: Rb [3·hidden] or NULL. */
static void gru_step(const nw_recurrent *r, const nw_act *acts, const nw_recurrent_work *w, const float *rec,
                     const float *rec_bias, int64_t t) {
    int64_t n = r->hidden, gates = 3 * n;
    const float *operand = operand_of(r, w, w->h);
    add_product(r->batch, 2 * n, n, operand, rec, w->gates, gates);
    if (r->linear_before_reset) {
        for (int64_t i = 0; i < r->batch * n; i++) w->reset[i] = rec_bias ? rec_bias[2 * n + i % n] : 0;
        add_product(r->batch, n, n, operand, rec + 2 * n * n, w->reset, n);
    }
    for (int64_t s = 0; s < r->batch; s++) {
        float *g = w->gates + s * gates, *reset = w->reset + s * n;
        activate(acts[0], r->clip, 2 * n, g);
        for (int64_t k = 0; k < n; k++) {
            if (r->linear_before_reset)
                g[2 * n + k] += g[n + k] * reset[k];
            else
                reset[k] = g[n + k] * w->h[s * n + k];
        }
    }
    if (!r->linear_before_reset)
        add_product(r->batch, n, n, operand_of(r, w, w->reset), rec + 2 * n * n, w->gates + 2 * n, gates);
    for (int64_t s = 0; s < r->batch; s++) {
        float *g = w->gates + s * gates, *h = w->h + s * n;
        if (t >= w->lengths[s]) continue;
        activate(acts[1], r->clip, n, g + 2 * n);
        for (int64_t k = 0; k < n; k++) h[k] = (1 - g[k]) * g[2 * n + k] + g[k] * h[k];
    }
}

/* i = f(i + Pi ⊙ c), f = f(f + Pf ⊙ c), c' = f ⊙ c + i ⊙ g(c̃), o = f(o + Po ⊙ c'), h = o ⊙ h(c') for one
 * sample; its gates g are [i o f c̃], peepholes p [i o f] or NULL. clip bounds the gates; the cell goes into h
 * as it is, which the operator's page leaves open and onnxruntime and OpenVINO do. */
static void lstm_cell(const nw_recurrent *r, const nw_act *acts, const float *p, float *g, float *h,
                      float *c) {
    int64_t n = r->hidden;
    float *i = g, *o = g + n, *f = g + 2 * n, *cell = g + 3 * n;
    for (int64_t k = 0; k < n && p; k++) {
        i[k] += p[k] * c[k];
        f[k] += p[2 * n + k] * c[k];
    }
    activate(acts[0], r->clip, n, i);
    activate(acts[0], r->clip, n, f);
    for (int64_t k = 0; k < n && r->couple_forget; k++) f[k] = 1 - i[k];
    activate(acts[1], r->clip, n, cell);
    for (int64_t k = 0; k < n; k++) {
        c[k] = f[k] * c[k] + i[k] * cell[k];
        if (p) o[k] += p[n + k] * c[k];
        h[k] = c[k];
    }
    activate(acts[0], r->clip, n, o);
    activate(acts[2], 0, n, h);
    for (int64_t k = 0; k < n; k++) h[k] *= o[k];
}

static void lstm_step(const nw_recurrent *r, const nw_act *acts, const nw_recurrent_work *w, const float *rec,
                      const float *p, int64_t t) {
    int64_t n = r->hidden, gates = 4 * n;
    add_product(r->batch, gates, n, operand_of(r, w, w->h), rec, w->gates, gates);
    for (int64_t s = 0; s < r->batch; s++)
        if (t < w->lengths[s]) lstm_cell(r, acts, p, w->gates + s * gates, w->h + s * n, w->c + s * n);
}

/* Where a sample's step t is in time: a reversed direction starts at the sample's own end. */
static int64_t time_of(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t s, int64_t t) {
    bool reverse = r->reverse || d == 1;
    return reverse && t < w->lengths[s] ? w->lengths[s] - 1 - t : t;
}

int64_t nw_recurrent_x_row(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t s,
                           int64_t t) {
    int64_t time = time_of(r, w, d, s, t);
    return r->batch_first ? s * r->steps + time : time * r->batch + s;
}

int64_t nw_recurrent_y_row(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t s,
                           int64_t t) {
    int64_t time = time_of(r, w, d, s, t);
    return r->batch_first ? (s * r->steps + time) * r->directions + d
                          : (time * r->directions + d) * r->batch + s;
}

/* [directions, batch, hidden] or, batch first, [batch, directions, hidden]. */
int64_t nw_recurrent_state_row(const nw_recurrent *r, int64_t d, int64_t s) {
    return r->batch_first ? s * r->directions + d : d * r->batch + s;
}

/* xw = X·Wᵀ + Wb + Rb; Rb of GRU's hidden gate is left out when it belongs inside the reset. */
static void input_product(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d) {
    int64_t gates = nw_gate_count[r->kind] * r->hidden, rows = r->steps * r->batch;
    const float *bias = w->b ? w->b + d * 2 * gates : NULL;
    int64_t outer = r->kind == NW_CELL_GRU && r->linear_before_reset ? 2 * r->hidden : gates;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t g = 0; g < gates; g++)
            w->xw[i * gates + g] = bias ? bias[g] + (g < outer ? bias[gates + g] : 0) : 0;
    add_product(rows, gates, r->input, w->x, w->w + d * gates * r->input, w->xw, gates);
}

static void load_state(const nw_recurrent *r, int64_t d, const float *initial, float *state) {
    for (int64_t s = 0; s < r->batch; s++) {
        size_t bytes = (size_t)r->hidden * sizeof *state;
        if (initial)
            memcpy(state + s * r->hidden, initial + nw_recurrent_state_row(r, d, s) * r->hidden, bytes);
        else
            memset(state + s * r->hidden, 0, bytes);
    }
}

static void store_state(const nw_recurrent *r, int64_t d, const float *state, float *out) {
    for (int64_t s = 0; s < r->batch && out; s++)
        memcpy(out + nw_recurrent_state_row(r, d, s) * r->hidden, state + s * r->hidden,
               (size_t)r->hidden * sizeof *out);
}

static void store_step(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t t) {
    size_t bytes = (size_t)r->hidden * sizeof *w->y;
    for (int64_t s = 0; s < r->batch && w->y; s++) {
        float *y = w->y + nw_recurrent_y_row(r, w, d, s, t) * r->hidden;
        if (t < w->lengths[s])
            memcpy(y, w->h + s * r->hidden, bytes);
        else
            memset(y, 0, bytes);
    }
}

const nw_act *nw_recurrent_acts(const nw_recurrent *r, int64_t d) {
    return r->acts + d * act_count[r->kind];
}

void nw_recurrent_begin(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d) {
    input_product(r, w, d);
    load_state(r, d, w->h0, w->h);
    load_state(r, d, w->c0, w->c);
}

void nw_recurrent_step(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t t) {
    int64_t gates = nw_gate_count[r->kind] * r->hidden;
    const nw_act *acts = nw_recurrent_acts(r, d);
    const float *rec = w->r + d * gates * r->hidden, *rec_bias = w->b ? w->b + (2 * d + 1) * gates : NULL;
    for (int64_t s = 0; s < r->batch; s++)
        memcpy(w->gates + s * gates, w->xw + nw_recurrent_x_row(r, w, d, s, t) * gates,
               (size_t)gates * sizeof *w->gates);
    if (r->kind == NW_CELL_RNN)
        rnn_step(r, acts, w, rec, t);
    else if (r->kind == NW_CELL_GRU)
        gru_step(r, acts, w, rec, rec_bias, t);
    else
        lstm_step(r, acts, w, rec, w->p ? w->p + d * 3 * r->hidden : NULL, t);
}

static void run_direction(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d) {
    nw_recurrent_begin(r, w, d);
    for (int64_t t = 0; t < r->steps; t++) {
        nw_recurrent_step(r, w, d, t);
        store_step(r, w, d, t);
    }
    store_state(r, d, w->h, w->y_h);
    store_state(r, d, w->c, w->y_c);
}

static nw_status read_lengths(const nw_op_call *call, const nw_recurrent *r, const int64_t **out) {
    const nw_tensor *given = nw_call_in(call, 4);
    int64_t *lengths;
    NW_TRY(nw_call_scratch(call, (size_t)r->batch, &lengths));
    for (int64_t s = 0; s < r->batch; s++) {
        lengths[s] = given ? nw_tensor_s64(given, (size_t)s) : r->steps;
        if (lengths[s] < 0 || lengths[s] > r->steps)
            return nw_call_fail(call, NW_E_SHAPE, "sequence_lens has %" PRId64 ", X has %" PRId64 " steps",
                                lengths[s], r->steps);
    }
    *out = lengths;
    return NW_OK;
}

nw_status nw_recurrent_load(const nw_op_call *call, const nw_recurrent *r, nw_recurrent_work *w) {
    *w = (nw_recurrent_work){.y = NULL};
    const float **inputs[] = {&w->x, &w->w, &w->r, &w->b, NULL, &w->h0, &w->c0, &w->p};
    for (int i = 0; i < (r->kind == NW_CELL_LSTM ? 8 : 6); i++)
        if (inputs[i]) NW_TRY(nw_call_f32(call, i, inputs[i]));
    NW_TRY(read_lengths(call, r, &w->lengths));
    size_t state = (size_t)r->hidden * sizeof(float), gates = (size_t)nw_gate_count[r->kind] * state,
           batch = (size_t)r->batch;
    NW_TRY(nw_call_scratch_bytes(call, (size_t)(r->steps * r->batch), gates, (void **)&w->xw));
    NW_TRY(nw_call_scratch_bytes(call, batch, gates, (void **)&w->gates));
    NW_TRY(nw_call_scratch_bytes(call, batch, state, (void **)&w->reset));
    NW_TRY(nw_call_scratch_bytes(call, batch, state, (void **)&w->h));
    NW_TRY(nw_call_scratch_bytes(call, batch, state, (void **)&w->c));
    return nw_call_scratch_bytes(call, batch, state, (void **)&w->operand);
}

static nw_status recurrent_eval(nw_op_call *call, nw_cell kind) {
    nw_recurrent r;
    nw_recurrent_work w;
    NW_TRY(nw_recurrent_of(call, kind, &r));
    if (r.batch == 0) return NW_OK;
    NW_TRY(nw_recurrent_load(call, &r, &w));
    NW_TRY(nw_call_f32_out(call, 0, &w.y));
    NW_TRY(nw_call_f32_out(call, 1, &w.y_h));
    if (kind == NW_CELL_LSTM) NW_TRY(nw_call_f32_out(call, 2, &w.y_c));
    for (int64_t d = 0; d < r.directions; d++) run_direction(&r, &w, d);
    nw_call_f32_done(call, 0, w.y);
    nw_call_f32_done(call, 1, w.y_h);
    nw_call_f32_done(call, 2, w.y_c);
    return NW_OK;
}

/* W and R have a scale per gate row; biases and states stay as they are. */
static void recurrent_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
    roles->in[1] = roles->in[2] = NW_ROLE_WEIGHT;
    roles->channel_axis[1] = roles->channel_axis[2] = 1;
}

static nw_status rnn_infer(nw_op_call *call) {
    return recurrent_infer(call, NW_CELL_RNN);
}
static nw_status rnn_eval(nw_op_call *call) {
    return recurrent_eval(call, NW_CELL_RNN);
}
static nw_status gru_infer(nw_op_call *call) {
    return recurrent_infer(call, NW_CELL_GRU);
}
static nw_status gru_eval(nw_op_call *call) {
    return recurrent_eval(call, NW_CELL_GRU);
}
static nw_status lstm_infer(nw_op_call *call) {
    return recurrent_infer(call, NW_CELL_LSTM);
}
static nw_status lstm_eval(nw_op_call *call) {
    return recurrent_eval(call, NW_CELL_LSTM);
}

/* ---- com.microsoft.DynamicQuantizeLSTM ------------------------------------------------------------------------- */

/* The inputs of LSTM, of which W [directions, input, 4·hidden] and R [directions, hidden, 4·hidden] are
 * codes; then scale and zero point of W and those of R, [directions] or [directions, 4·hidden]. X is
 * restricted to one measured grid, the state as with NW_STATE_FORMAT "u8". onnxruntime measures the state of
 * several samples at once, how many depends on its threads. */
enum { LSTM_INPUTS = 8 };

typedef struct dynamic_lstm {
    const nw_tensor *in[LSTM_INPUTS];
    nw_tensor x, w, r; /* real; data in eval only */
} dynamic_lstm;

/* Input i, codes with scale and zero point at inputs s and s + 1, as real weights [directions, rows, k]
 * without data. */
static nw_status describe_codes(const nw_op_call *call, int i, int s, const char *name, nw_tensor *real) {
    const nw_tensor *codes, *scale, *zero;
    NW_TRY(nw_call_require(call, i, &codes));
    NW_TRY(nw_call_expect_codes(call, codes, name));
    NW_TRY(nw_call_expect_rank(call, codes, name, 3, 3));
    NW_TRY(nw_call_require(call, s, &scale));
    NW_TRY(nw_call_require(call, s + 1, &zero));
    size_t count = nw_tensor_count(scale), directions = (size_t)codes->dims[0];
    if (scale->format != NW_F32 || zero->format != codes->format || nw_tensor_count(zero) != count ||
        (count != directions && count != directions * (size_t)codes->dims[2]))
        return nw_call_fail(
            call, NW_E_SHAPE,
            "the scale and zero point of %s must hold one number for each direction, or for each "
            "direction and column",
            name);
    *real =
        (nw_tensor){.format = NW_F32, .rank = 3, .dims = {codes->dims[0], codes->dims[2], codes->dims[1]}};
    return NW_OK;
}

static nw_status fill_codes(const nw_op_call *call, int i, int s, nw_tensor *real) {
    const nw_tensor *codes = call->in[i], *scale = call->in[s], *zero = call->in[s + 1];
    size_t rows = (size_t)real->dims[1], k = (size_t)real->dims[2], matrix = rows * k;
    size_t each = nw_tensor_count(scale) == (size_t)real->dims[0] ? rows : 1; /* rows per scale */
    float *w;
    NW_TRY(nw_call_scratch(call, nw_tensor_count(real), &w));
    for (size_t at = 0; at < nw_tensor_count(real); at++) {
        size_t d = at / matrix, row = at % matrix / k, column = at % k, g = (d * rows + row) / each;
        int64_t code = nw_tensor_s64(codes, d * matrix + column * rows + row);
        w[at] = ((const float *)scale->data)[g] * (float)(code - nw_tensor_s64(zero, g));
    }
    real->data = w;
    return NW_OK;
}

/* The call of an ordinary LSTM; inner->in points into *l. */
static nw_status inner_lstm(const nw_op_call *call, dynamic_lstm *l, nw_op_call *inner) {
    NW_TRY(describe_codes(call, 1, LSTM_INPUTS, "W", &l->w));
    NW_TRY(describe_codes(call, 2, LSTM_INPUTS + 2, "R", &l->r));
    for (int i = 0; i < LSTM_INPUTS; i++) l->in[i] = nw_call_in(call, i);
    l->in[1] = &l->w;
    l->in[2] = &l->r;
    *inner = *call;
    inner->in = l->in;
    inner->in_count = LSTM_INPUTS;
    return NW_OK;
}

static nw_status dynamic_lstm_infer(nw_op_call *call) {
    dynamic_lstm l;
    nw_op_call inner;
    NW_TRY(inner_lstm(call, &l, &inner));
    return recurrent_infer(&inner, NW_CELL_LSTM);
}

static nw_status dynamic_lstm_eval(nw_op_call *call) {
    static const nw_qparam u8 = {.format = NW_U8, .qmax = 255};
    dynamic_lstm l;
    nw_op_call inner;
    const float *x;
    float *restricted;
    NW_TRY(inner_lstm(call, &l, &inner));
    NW_TRY(fill_codes(call, 1, LSTM_INPUTS, &l.w));
    NW_TRY(fill_codes(call, 2, LSTM_INPUTS + 2, &l.r));
    NW_TRY(nw_call_f32(call, 0, &x));
    size_t count = nw_tensor_count(call->in[0]);
    NW_TRY(nw_call_scratch(call, count, &restricted));
    nw_fake_quantize_measured(&u8, count, x, restricted);
    l.x = *call->in[0];
    l.x.data = restricted;
    l.in[0] = &l.x;
    return recurrent_eval(&inner, NW_CELL_LSTM);
}

const nw_op nw_op_ms_DynamicQuantizeLSTM = {.name = "DynamicQuantizeLSTM",
                                            .domain = "com.microsoft",
                                            .infer = dynamic_lstm_infer,
                                            .eval = dynamic_lstm_eval};
const nw_op nw_op_RNN = {.name = "RNN",
                         .domain = "",
                         .infer = rnn_infer,
                         .eval = rnn_eval,
                         .roles = recurrent_roles,
                         .grad = nw_grad_recurrent};
const nw_op nw_op_GRU = {.name = "GRU",
                         .domain = "",
                         .infer = gru_infer,
                         .eval = gru_eval,
                         .roles = recurrent_roles,
                         .grad = nw_grad_recurrent};
const nw_op nw_op_LSTM = {.name = "LSTM",
                          .domain = "",
                          .infer = lstm_infer,
                          .eval = lstm_eval,
                          .roles = recurrent_roles,
                          .grad = nw_grad_recurrent};
