/* grad_rnn.c: LSTMGrad, GRUGrad and RNNGrad (domain ai.narrow): backpropagation through time.
 *   inputs: the eight of the operator (GRU and RNN leave initial_c and P absent), then dY, dY_h, dY_c, each
 *           optional; attributes: the operator's
 *   outputs, at the places of the inputs: dX, dW, dR, dB, –, dinitial_h, dinitial_c, dP
 * The forward pass is run again and what the way back needs is kept. Derivatives of the activation functions
 * are stated in their results. Products with weights are done for all steps at once, but for the one that
 * carries dh from a step to the step before. A state restricted to a grid counts as the state itself
 * (straight-through). */
#include "op/grad.h"
#include "op/matmul.h"
#include "op/real.h"
#include "op/rnn.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DX, DW, DR, DB, D_LENGTHS, DH0, DC0, DP, OUTPUTS }; /* places of inputs and of their gradients */
enum { DY = OUTPUTS, DY_H, DY_C, INPUTS };

/* f'(x) in terms of y = f(x); LeakyRelu and Elu with alpha ≥ 0. */
static float slope_of(nw_act a, float y) {
    switch (a.kind) {
    case NW_ACT_SIGMOID: return y * (1 - y);
    case NW_ACT_TANH: return 1 - y * y;
    case NW_ACT_RELU: return y > 0;
    case NW_ACT_AFFINE: return a.alpha;
    case NW_ACT_LEAKY_RELU: return y > 0 ? 1 : a.alpha;
    case NW_ACT_THRESHOLDED_RELU: return y != 0;
    case NW_ACT_SCALED_TANH: return a.beta * (a.alpha - y * y / a.alpha);
    case NW_ACT_HARD_SIGMOID: return y > 0 && y < 1 ? a.alpha : 0;
    case NW_ACT_ELU: return y > 0 ? 1 : y + a.alpha;
    case NW_ACT_SOFTSIGN: return (1 - fabsf(y)) * (1 - fabsf(y));
    case NW_ACT_SOFTPLUS: return -expm1f(-y);
    }
    return 0;
}

/* One direction's forward pass, kept, and what the way back finds; rows are [steps·batch], in the order of
 * the steps. */
typedef struct trace {
    float *h, *c;    /* [steps + 1 rows of batch, hidden] states before each step, and after the last */
    float *gates;    /* [rows, G] activated */
    float *reset;    /* [rows, hidden] GRU's */
    float *dgates;   /* [rows, G] gradient of the gates before activation, on the side of X·Wᵀ */
    float *drec;     /* [rows, G] the same on the side of h·Rᵀ: differs for GRU's reset gate */
    float *dx_gates; /* [rows, G] dgates in the order of X's rows */
    float *dh, *dc;  /* [batch, hidden] gradient of the state, going back */
    float *reset_dh; /* [batch, hidden] gradient of GRU's r ⊙ h */
} trace;

typedef struct outputs {
    float *at[OUTPUTS]; /* gradients, NULL when not wanted */
    const float *dy, *dy_h, *dy_c;
} outputs;

/* out [m,n] += aᵀ·b over `rows`: a [rows, ≥ m] with rows of a_row elements, b [rows, n]. */
static void add_outer(int64_t rows, int64_t m, int64_t n, const float *a, int64_t a_row, const float *b,
                      float *out) {
    nw_product p = {.m = m,
                    .n = n,
                    .k = rows,
                    .a_row = 1,
                    .a_k = a_row,
                    .b_k = n,
                    .b_column = 1,
                    .y_row = n,
                    .accumulate = true};
    nw_product_f32(&p, a, b, out);
}

/* out [rows, n] += a·w: a [rows, k] with rows of a_row elements, w [k, n]. */
static void add_product(int64_t rows, int64_t n, int64_t k, const float *a, int64_t a_row, const float *w,
                        float *out) {
    nw_product p = {.m = rows,
                    .n = n,
                    .k = k,
                    .a_row = a_row,
                    .a_k = 1,
                    .b_k = n,
                    .b_column = 1,
                    .y_row = n,
                    .accumulate = true};
    nw_product_f32(&p, a, w, out);
}

static void add_rows(int64_t rows, int64_t n, const float *a, float *out) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < n; k++) out[k] += a[i * n + k];
}

/* ---- one sample, one step ------------------------------------------------------------------------------ */

/* In the three functions below dh, dc are the gradients of the state after the step and become those of the
 * state before it, but for what goes through R; dg are those of the gates before activation. */

static void rnn_back(const nw_act *acts, int64_t n, const float *g, float *dh, float *dg) {
    for (int64_t k = 0; k < n; k++) {
        dg[k] = dh[k] * slope_of(acts[0], g[k]);
        dh[k] = 0;
    }
}

/* i, o, f, c̃ = g; c' = f·c + i·c̃; h = o·a(c'); p, dp: peepholes [i o f] and their gradients, or NULL. */
static void lstm_back(const nw_recurrent *r, const nw_act *acts, const float *g, const float *c,
                      const float *next_c, const float *next_h, const float *p, float *dh, float *dc,
                      float *dg, float *dp) {
    int64_t n = r->hidden;
    const float *i = g, *o = g + n, *f = g + 2 * n, *cell = g + 3 * n;
    for (int64_t k = 0; k < n; k++) {
        nw_act a = acts[2];
        float out =
            o[k] != 0 ? next_h[k] / o[k] : 0; /* a(c'); an output gate of 0 lets nothing back either */
        float d_o = dh[k] * out * slope_of(acts[0], o[k]);
        float d_c = dc[k] + dh[k] * o[k] * slope_of(a, out) + (p ? d_o * p[n + k] : 0);
        float d_f = r->couple_forget ? 0 : d_c * c[k] * slope_of(acts[0], f[k]);
        float d_i = d_c * (cell[k] - (r->couple_forget ? c[k] : 0)) * slope_of(acts[0], i[k]);
        dg[k] = d_i;
        dg[n + k] = d_o;
        dg[2 * n + k] = d_f;
        dg[3 * n + k] = d_c * i[k] * slope_of(acts[1], cell[k]);
        dc[k] = d_c * f[k];
        dh[k] = 0;
        if (!p) continue;
        dc[k] += d_i * p[k] + d_f * p[2 * n + k];
        dp[k] += d_i * c[k];
        dp[n + k] += d_o * next_c[k];
        dp[2 * n + k] += d_f * c[k];
    }
}

/* z, h̃: h' = (1 − z)·h̃ + z·h. The reset gate follows when the gradient of r ⊙ h is known (gru_reset_back).
 * */
static void gru_back(const nw_act *acts, int64_t n, const float *g, const float *h, float *dh, float *dg) {
    const float *z = g, *fresh = g + 2 * n;
    for (int64_t k = 0; k < n; k++) {
        dg[k] = dh[k] * (h[k] - fresh[k]) * slope_of(acts[0], z[k]);
        dg[2 * n + k] = dh[k] * (1 - z[k]) * slope_of(acts[1], fresh[k]);
        dh[k] *= z[k];
    }
}

/* ---- one direction ------------------------------------------------------------------------------------- */

static void run_forward(const nw_recurrent *r, const nw_recurrent_work *w, const trace *t, int64_t d) {
    int64_t state = r->batch * r->hidden, gates = r->batch * nw_gate_count[r->kind] * r->hidden;
    nw_recurrent_begin(r, w, d);
    for (int64_t step = 0; step <= r->steps; step++) {
        memcpy(t->h + step * state, w->h, (size_t)state * sizeof *w->h);
        memcpy(t->c + step * state, w->c, (size_t)state * sizeof *w->c);
        if (step == r->steps) break;
        nw_recurrent_step(r, w, d, step);
        memcpy(t->gates + step * gates, w->gates, (size_t)gates * sizeof *w->gates);
        if (r->kind == NW_CELL_GRU)
            memcpy(t->reset + step * state, w->reset, (size_t)state * sizeof *w->reset);
    }
}

/* GRU's part that goes through the reset gate. h̃ = g(x + (r ⊙ h)·Rhᵀ), or with linear_before_reset g(x + r ⊙
 * q), q = h·Rhᵀ + Rb; trace.reset holds r ⊙ h or q. rec: R of this direction. */
static void gru_reset_back(const nw_recurrent *r, const nw_recurrent_work *w, const trace *t,
                           const nw_act *acts, const float *rec, int64_t step) {
    int64_t n = r->hidden, gates = 3 * n, state = r->batch * n;
    float *dg = t->dgates + step * r->batch * gates, *drec = t->drec + step * r->batch * gates;
    memset(t->reset_dh, 0, (size_t)state * sizeof *t->reset_dh);
    if (!r->linear_before_reset) add_product(r->batch, n, n, dg + 2 * n, gates, rec + 2 * n * n, t->reset_dh);
    for (int64_t s = 0; s < r->batch; s++) {
        const float *g = t->gates + (step * r->batch + s) * gates, *reset = t->reset + step * state + s * n;
        const float *h = t->h + step * state + s * n, *through = t->reset_dh + s * n;
        float *row = dg + s * gates, *rec_row = drec + s * gates;
        memcpy(rec_row, row, (size_t)gates * sizeof *row);
        for (int64_t k = 0; k < n && step < w->lengths[s]; k++) {
            float gate = g[n + k],
                  d_r = r->linear_before_reset ? row[2 * n + k] * reset[k] : through[k] * h[k];
            row[n + k] = rec_row[n + k] = d_r * slope_of(acts[0], gate);
            if (r->linear_before_reset)
                rec_row[2 * n + k] = row[2 * n + k] * gate;
            else
                t->dh[s * n + k] += through[k] * gate;
        }
    }
}

static void step_back(const nw_recurrent *r, const nw_recurrent_work *w, const trace *t, const outputs *o,
                      int64_t d, int64_t step) {
    int64_t n = r->hidden, gates = nw_gate_count[r->kind] * n, state = r->batch * n;
    const nw_act *acts = nw_recurrent_acts(r, d);
    const float *rec = w->r + d * gates * n;
    for (int64_t s = 0; s < r->batch; s++) {
        float *dg = t->dgates + (step * r->batch + s) * gates, *dh = t->dh + s * n;
        const float *g = t->gates + (step * r->batch + s) * gates, *h = t->h + step * state + s * n;
        const float *c = t->c + step * state + s * n;
        memset(dg, 0, (size_t)gates * sizeof *dg);
        if (step >= w->lengths[s]) continue; /* the state went on unchanged */
        const float *dy = o->dy ? o->dy + nw_recurrent_y_row(r, w, d, s, step) * n : NULL;
        for (int64_t k = 0; k < n && dy; k++) dh[k] += dy[k];
        if (r->kind == NW_CELL_RNN)
            rnn_back(acts, n, g, dh, dg);
        else if (r->kind == NW_CELL_GRU)
            gru_back(acts, n, g, h, dh, dg);
        else
            lstm_back(r, acts, g, c, c + state, h + state, w->p ? w->p + d * 3 * n : NULL, dh, t->dc + s * n,
                      dg, o->at[DP] ? o->at[DP] + d * 3 * n : NULL);
    }
    const float *drec = t->drec + step * r->batch * gates;
    if (r->kind == NW_CELL_GRU) gru_reset_back(r, w, t, acts, rec, step);
    /* What h̃ read of h went through the reset gate already, unless it is linear before. */
    bool whole = r->kind != NW_CELL_GRU || r->linear_before_reset;
    add_product(r->batch, n, whole ? gates : 2 * n, drec, gates, rec, t->dh);
}

/* The initial gradient of a final state, and at the end that of the initial one. */
static void copy_state(const nw_recurrent *r, int64_t d, const float *from, float *to, bool out) {
    size_t bytes = (size_t)r->hidden * sizeof *to;
    for (int64_t s = 0; s < r->batch; s++) {
        int64_t border = nw_recurrent_state_row(r, d, s) * r->hidden, inner = s * r->hidden;
        if (out)
            memcpy(to + border, from + inner, bytes);
        else if (from)
            memcpy(to + inner, from + border, bytes);
        else
            memset(to + inner, 0, bytes);
    }
}

/* Gradients of weights and inputs from those of the gates of all steps. */
static void weights_back(const nw_recurrent *r, const nw_recurrent_work *w, const trace *t, const outputs *o,
                         int64_t d) {
    int64_t n = r->hidden, gates = nw_gate_count[r->kind] * n, rows = r->steps * r->batch;
    float *dr = o->at[DR] ? o->at[DR] + d * gates * n : NULL;
    for (int64_t step = 0; step < r->steps; step++)
        for (int64_t s = 0; s < r->batch; s++)
            memcpy(t->dx_gates + nw_recurrent_x_row(r, w, d, s, step) * gates,
                   t->dgates + (step * r->batch + s) * gates, (size_t)gates * sizeof *t->dgates);
    if (o->at[DX])
        add_product(rows, r->input, gates, t->dx_gates, gates, w->w + d * gates * r->input, o->at[DX]);
    if (o->at[DW])
        add_outer(rows, gates, r->input, t->dx_gates, gates, w->x, o->at[DW] + d * gates * r->input);
    if (dr && r->kind == NW_CELL_GRU && !r->linear_before_reset) {
        add_outer(rows, 2 * n, n, t->drec, gates, t->h, dr);
        add_outer(rows, n, n, t->drec + 2 * n, gates, t->reset, dr + 2 * n * n);
    } else if (dr) {
        add_outer(rows, gates, n, t->drec, gates, t->h, dr);
    }
    if (!o->at[DB]) return;
    add_rows(rows, gates, t->dgates, o->at[DB] + 2 * d * gates);
    add_rows(rows, gates, t->drec, o->at[DB] + (2 * d + 1) * gates);
}

static void direction_back(const nw_recurrent *r, const nw_recurrent_work *w, const trace *t,
                           const outputs *o, int64_t d) {
    run_forward(r, w, t, d);
    copy_state(r, d, o->dy_h, t->dh, false);
    copy_state(r, d, o->dy_c, t->dc, false);
    for (int64_t step = r->steps - 1; step >= 0; step--) step_back(r, w, t, o, d, step);
    weights_back(r, w, t, o, d);
    if (o->at[DH0]) copy_state(r, d, t->dh, o->at[DH0], true);
    if (o->at[DC0]) copy_state(r, d, t->dc, o->at[DC0], true);
}

/* ---- the operators ------------------------------------------------------------------------------------- */

static nw_status recurrent_grad_infer(nw_op_call *call, nw_cell kind) {
    nw_recurrent r;
    NW_TRY(nw_recurrent_of(call, kind, &r));
    const int64_t y[4] = {r.batch_first ? r.batch : r.steps, r.batch_first ? r.steps : r.directions,
                          r.batch_first ? r.directions : r.batch, r.hidden};
    const int64_t state[3] = {r.batch_first ? r.batch : r.directions, r.batch_first ? r.directions : r.batch,
                              r.hidden};
    NW_TRY(nw_call_expect_shape(call, DY, "the gradient of Y", false, 4, y));
    NW_TRY(nw_call_expect_shape(call, DY_H, "the gradient of Y_h", false, 3, state));
    NW_TRY(nw_call_expect_shape(call, DY_C, "the gradient of Y_c", false, 3, state));
    for (int i = 0; i < OUTPUTS; i++)
        if (i != D_LENGTHS && nw_call_in(call, i)) NW_TRY(nw_call_set_like(call, i, call->in[i]));
    return NW_OK;
}

static nw_status new_trace(const nw_op_call *call, const nw_recurrent *r, trace *t) {
    size_t state = (size_t)r->hidden * sizeof(float), gates = (size_t)nw_gate_count[r->kind] * state;
    size_t batch = (size_t)r->batch, rows = (size_t)r->steps * batch;
    const struct {
        float **at;
        size_t rows, bytes;
    } arrays[] = {{&t->h, rows + batch, state}, {&t->c, rows + batch, state}, {&t->gates, rows, gates},
                  {&t->reset, rows, state},     {&t->dgates, rows, gates},    {&t->dx_gates, rows, gates},
                  {&t->dh, batch, state},       {&t->dc, batch, state},       {&t->reset_dh, batch, state}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        NW_TRY(nw_call_scratch_bytes(call, arrays[i].rows, arrays[i].bytes, (void **)arrays[i].at));
    t->drec = t->dgates;
    if (r->kind == NW_CELL_GRU) NW_TRY(nw_call_scratch_bytes(call, rows, gates, (void **)&t->drec));
    return NW_OK;
}

static nw_status recurrent_grad_eval(nw_op_call *call, nw_cell kind) {
    nw_recurrent r;
    nw_recurrent_work w;
    trace t;
    outputs o = {.dy = NULL};
    NW_TRY(nw_recurrent_of(call, kind, &r));
    for (int i = 0; i < OUTPUTS; i++) {
        if (i == D_LENGTHS || i >= call->out_count || !nw_call_wants(call, i)) continue;
        NW_TRY(nw_call_f32_out(call, i, &o.at[i]));
        memset(o.at[i], 0, nw_tensor_count(&call->out[i]) * sizeof *o.at[i]);
    }
    NW_TRY(nw_call_f32(call, DY, &o.dy));
    NW_TRY(nw_call_f32(call, DY_H, &o.dy_h));
    NW_TRY(nw_call_f32(call, DY_C, &o.dy_c));
    if (r.batch > 0) {
        NW_TRY(nw_recurrent_load(call, &r, &w));
        NW_TRY(new_trace(call, &r, &t));
        if (w.p && !o.at[DP]) {
            NW_TRY(nw_call_scratch(call, (size_t)(r.directions * 3 * r.hidden), &o.at[DP]));
            memset(o.at[DP], 0, (size_t)(r.directions * 3 * r.hidden) * sizeof *o.at[DP]);
        }
        for (int64_t d = 0; d < r.directions; d++) direction_back(&r, &w, &t, &o, d);
    }
    for (int i = 0; i < OUTPUTS && i < call->out_count; i++)
        if (i != D_LENGTHS && nw_call_wants(call, i)) nw_call_f32_done(call, i, o.at[i]);
    return NW_OK;
}

static nw_status rnn_grad_infer(nw_op_call *call) {
    return recurrent_grad_infer(call, NW_CELL_RNN);
}
static nw_status rnn_grad_eval(nw_op_call *call) {
    return recurrent_grad_eval(call, NW_CELL_RNN);
}
static nw_status gru_grad_infer(nw_op_call *call) {
    return recurrent_grad_infer(call, NW_CELL_GRU);
}
static nw_status gru_grad_eval(nw_op_call *call) {
    return recurrent_grad_eval(call, NW_CELL_GRU);
}
static nw_status lstm_grad_infer(nw_op_call *call) {
    return recurrent_grad_infer(call, NW_CELL_LSTM);
}
static nw_status lstm_grad_eval(nw_op_call *call) {
    return recurrent_grad_eval(call, NW_CELL_LSTM);
}

const nw_op nw_op_narrow_RNNGrad = {
    .name = "RNNGrad", .domain = "ai.narrow", .infer = rnn_grad_infer, .eval = rnn_grad_eval};
const nw_op nw_op_narrow_GRUGrad = {
    .name = "GRUGrad", .domain = "ai.narrow", .infer = gru_grad_infer, .eval = gru_grad_eval};
const nw_op nw_op_narrow_LSTMGrad = {
    .name = "LSTMGrad", .domain = "ai.narrow", .infer = lstm_grad_infer, .eval = lstm_grad_eval};

nw_status nw_grad_recurrent(nw_grad_call *c) {
    char name[16];
    int in[INPUTS], ids[OUTPUTS];
    bool wanted[OUTPUTS];
    if (nw_node_float(c->node, "clip", 0) > 0)
        nw_grad_fail(c, NW_E_UNSUPPORTED, "attribute clip cannot be trained through");
    for (int i = 0; i < OUTPUTS; i++) {
        in[i] = nw_grad_in(c, i);
        wanted[i] = nw_grad_wants(c, i);
    }
    for (int i = 0; i < 3; i++) in[DY + i] = nw_grad_dy(c, i);
    snprintf(name, sizeof name, "%sGrad", c->node->op->name);
    nw_grad_begin(c, "ai.narrow", name, INPUTS, in);
    nw_grad_copy_attrs(c);
    nw_grad_end_many(c, OUTPUTS, wanted, ids);
    for (int i = 0; i < c->node->in_count && i < OUTPUTS; i++) c->dx[i] = ids[i];
    return c->status;
}
