/* lower_rnn.c: LSTM and GRU in f32 with packed weights: the input's share of all gates for all steps as one matrix product, then
 * step by step the state's share. Packed 8-bit weights are dequantized when planning. */
#include "run/plan.h"

#include <string.h>

typedef struct rnn_state {
    const nw_gemm_f32_kernel *gemm;
    nw_unary_f32_fn *sigmoid, *tanh;
    bool lstm, after_reset; /* after_reset: GRU's linear_before_reset */
    size_t steps, batch, input, hidden, gates, directions;
    bool backward[2];
    const void *w[2], *r[2], *rh[2]; /* packed; GRU: r holds the gates z and r, rh the candidate */
    const float *bias[2];            /* [gates·hidden] added to the input's share */
    const float *bias_rh[2];         /* [hidden], GRU with after_reset, or NULL */
} rnn_state;

/* Buffers of a run, all f32. */
typedef struct rnn_run {
    nw_exec *e;
    const rnn_state *s;
    const float *x;
    float *gates; /* [steps][batch][gates·hidden] of one direction */
    float *extra; /* [batch][hidden] twice */
    float *y;     /* [steps][directions][batch][hidden], or NULL */
    float *h, *c; /* [directions][batch][hidden] */
} rnn_run;

typedef struct product_job {
    const nw_gemm_f32_kernel *gemm;
    nw_gemm_f32_args args;
    bool by_columns;
} product_job;

static void product_range(void *user, size_t begin, size_t end) {
    const product_job *j = user;
    if (j->by_columns)
        nw_gemm_f32_run(j->gemm, &j->args, 0, j->args.m, begin, end);
    else
        nw_gemm_f32_run(j->gemm, &j->args, begin, end, 0, j->args.n);
}

/* c[m][ldc] (+)= a[m][k]·w + bias */
static void multiply(const rnn_run *r, size_t m, size_t n, size_t k, const float *a, const void *w,
                     const float *bias, bool accumulate, float *c, size_t ldc) {
    product_job job = {.gemm = r->s->gemm};
    job.args = (nw_gemm_f32_args){.m = m,
                                  .n = n,
                                  .k = k,
                                  .taps = 1,
                                  .rows = {.base = a, .stride = k * sizeof *a},
                                  .packed = w,
                                  .c = c,
                                  .ldc = ldc * sizeof *c,
                                  .bias = bias,
                                  .accumulate = accumulate,
                                  .lo = -__builtin_inff(),
                                  .hi = __builtin_inff()};
    job.by_columns = m < 16;
    nw_exec_parallel(r->e, job.by_columns ? n : m, job.by_columns ? job.gemm->nr : job.gemm->mr,
                     (double)m * (double)n * (double)k / 30, product_range, &job);
}

static void lstm_step(const rnn_run *r, size_t d, float *gates, const float *h_in, float *h_out, float *c) {
    const rnn_state *s = r->s;
    size_t n = s->hidden, row = 4 * n;
    multiply(r, s->batch, row, n, h_in, s->r[d], NULL, true, gates, row);
    for (size_t b = 0; b < s->batch; b++) { /* order of the gates: i, o, f, c */
        float *g = gates + b * row, *cell = c + b * n, *h = h_out + b * n;
        s->sigmoid(3 * n, g, g);
        s->tanh(n, g + 3 * n, g + 3 * n);
        for (size_t j = 0; j < n; j++) cell[j] = g[2 * n + j] * cell[j] + g[j] * g[3 * n + j];
        s->tanh(n, cell, h);
        for (size_t j = 0; j < n; j++) h[j] *= g[n + j];
    }
}

static void gru_step(const rnn_run *r, size_t d, float *gates, const float *h_in, float *h_out) {
    const rnn_state *s = r->s;
    size_t n = s->hidden, row = 3 * n;
    float *reset = r->extra, *candidate = r->extra + s->batch * n;
    multiply(r, s->batch, 2 * n, n, h_in, s->r[d], NULL, true, gates, row);
    for (size_t b = 0; b < s->batch; b++) { /* order of the gates: z, r, h */
        float *g = gates + b * row;
        s->sigmoid(2 * n, g, g);
        for (size_t j = 0; j < n; j++) reset[b * n + j] = g[n + j] * h_in[b * n + j];
    }
    if (s->after_reset)
        multiply(r, s->batch, n, n, h_in, s->rh[d], s->bias_rh[d], false, candidate, n);
    else
        multiply(r, s->batch, n, n, reset, s->rh[d], NULL, false, candidate, n);
    for (size_t b = 0; b < s->batch; b++) {
        float *g = gates + b * row, *h = h_out + b * n, *extra = candidate + b * n;
        const float *before = h_in + b * n;
        for (size_t j = 0; j < n; j++) g[2 * n + j] += s->after_reset ? g[n + j] * extra[j] : extra[j];
        s->tanh(n, g + 2 * n, g + 2 * n);
        for (size_t j = 0; j < n; j++) h[j] = (1.0f - g[j]) * g[2 * n + j] + g[j] * before[j];
    }
}

static void run_direction(const rnn_run *r, size_t d) {
    const rnn_state *s = r->s;
    size_t state = s->batch * s->hidden, row = s->gates * s->hidden;
    float *h = r->h + d * state, *c = s->lstm ? r->c + d * state : NULL;
    multiply(r, s->steps * s->batch, row, s->input, r->x, s->w[d], s->bias[d], false, r->gates, row);
    for (size_t i = 0; i < s->steps; i++) {
        size_t t = s->backward[d] ? s->steps - 1 - i : i;
        float *gates = r->gates + t * s->batch * row;
        if (s->lstm)
            lstm_step(r, d, gates, h, h, c); /* h is read whole before it is written */
        else
            gru_step(r, d, gates, h, h);
        if (r->y) memcpy(r->y + (t * s->directions + d) * state, h, state * sizeof *h);
    }
}

/* in: x, initial h, initial c; out: y, h, c, gates, extra. h and c are always buffers. */
static nw_status run_rnn(nw_exec *e, const nw_step *step) {
    const rnn_state *s = step->state;
    rnn_run r = {.e = e,
                 .s = s,
                 .x = nw_exec_data(e, step->in[0]),
                 .y = nw_exec_data(e, step->out[0]),
                 .h = nw_exec_data(e, step->out[1]),
                 .c = nw_exec_data(e, step->out[2]),
                 .gates = nw_exec_data(e, step->out[3]),
                 .extra = nw_exec_data(e, step->out[4])};
    size_t bytes = s->directions * s->batch * s->hidden * sizeof(float);
    const void *h0 = nw_exec_data(e, step->in[1]), *c0 = nw_exec_data(e, step->in[2]);
    if (h0)
        memcpy(r.h, h0, bytes);
    else
        memset(r.h, 0, bytes);
    if (s->lstm && c0)
        memcpy(r.c, c0, bytes);
    else if (s->lstm)
        memset(r.c, 0, bytes);
    for (size_t d = 0; d < s->directions; d++) run_direction(&r, d);
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

static bool default_activations(const nw_node *node, bool lstm) {
    const nw_attr *a = nw_node_attr(node, "activations");
    if (nw_node_attr(node, "activation_alpha") || nw_node_attr(node, "activation_beta")) return false;
    if (!a) return true;
    if (a->kind != NW_ATTR_STRINGS) return false;
    for (size_t i = 0; i < a->count; i++) {
        const char *want = i % (lstm ? 3 : 2) == 0 ? "Sigmoid" : "Tanh";
        if (strcmp(a->strings[i].data, want) != 0) return false;
    }
    return true;
}

static nw_status pack(nw_planner *p, const rnn_state *s, const float *w, size_t n, size_t k,
                      const void **out) {
    void *packed;
    NW_TRY(nw_plan_constant(p, nw_gemm_f32_packed_bytes(s->gemm, n, k, 1), &packed));
    nw_gemm_f32_pack(s->gemm, n, k, 1, w, k, 0, 1, packed);
    *out = packed;
    return NW_OK;
}

static nw_status pack_direction(nw_planner *p, rnn_state *s, size_t d, const float *w, const float *r,
                                const float *b) {
    size_t n = s->hidden, all = s->gates * n;
    const float *rd = r + d * all * n;
    NW_TRY(pack(p, s, w + d * all * s->input, all, s->input, &s->w[d]));
    if (s->lstm) {
        NW_TRY(pack(p, s, rd, all, n, &s->r[d]));
    } else {
        NW_TRY(pack(p, s, rd, 2 * n, n, &s->r[d]));
        NW_TRY(pack(p, s, rd + 2 * n * n, n, n, &s->rh[d]));
    }
    if (!b) return NW_OK;
    const float *wb = b + d * 2 * all, *rb = wb + all;
    float *bias = nw_arena_array(&p->plan->arena, all, sizeof *bias);
    if (!bias) return NW_E_MEMORY;
    for (size_t i = 0; i < all; i++) bias[i] = wb[i] + (s->after_reset && i >= 2 * n ? 0.0f : rb[i]);
    s->bias[d] = bias;
    s->bias_rh[d] = s->after_reset ? rb + 2 * n : NULL;
    return NW_OK;
}

static bool is_real(const nw_planner *p, int v) {
    return p->desc[v].format == NW_F32 || p->desc[v].qparam;
}

/* Sizes, and whether the node is of the plain kind done here. */
static bool plain(const nw_planner *p, const nw_node *node, rnn_state *s) {
    s->lstm = nw_node_is(node, "LSTM");
    if (!s->lstm && !nw_node_is(node, "GRU")) return false;
    const nw_tensor *x = &p->desc[node->in[0]];
    const nw_constant *w = nw_graph_constant(p->graph, nw_node_in(node, 1)),
                      *r = nw_graph_constant(p->graph, nw_node_in(node, 2));
    int peephole = nw_node_in(node, 7), lengths = nw_node_in(node, 4), bias = nw_node_in(node, 3);
    if (!w || !r || !is_real(p, node->in[0]) || !is_real(p, node->in[1]) || !is_real(p, node->in[2]))
        return false;
    if (lengths >= 0 || (s->lstm && peephole >= 0) || (bias >= 0 && !nw_graph_constant(p->graph, bias)))
        return false;
    if (nw_node_int(node, "layout", 0) || nw_node_int(node, "input_forget", 0) || nw_node_attr(node, "clip"))
        return false;
    if (!default_activations(node, s->lstm) || nw_tensor_count(x) == 0) return false;
    s->gates = s->lstm ? 4 : 3;
    s->steps = (size_t)x->dims[0];
    s->batch = (size_t)x->dims[1];
    s->input = (size_t)x->dims[2];
    s->directions = (size_t)w->tensor.dims[0];
    s->hidden = (size_t)r->tensor.dims[2];
    s->after_reset = !s->lstm && nw_node_int(node, "linear_before_reset", 0) != 0;
    s->backward[0] = nw_node_string_is(node, "direction", "forward", "reverse");
    s->backward[1] = true;
    return s->directions <= 2 && s->hidden > 0;
}

nw_status nw_lower_rnn(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    rnn_state s = {
        .gemm = nw_gemm_f32_select(p->options->isa), .sigmoid = p->ew.sigmoid_f32, .tanh = p->ew.tanh_f32};
    if (node->in_count < 3 || !plain(p, node, &s)) return NW_OK;
    const float *b;
    size_t count;
    nw_tensor w, r;
    NW_TRY(nw_plan_real_constant(p, nw_node_in(node, 3), &b, &count));
    NW_TRY(nw_tensor_to_f32(&p->scratch, &p->graph->values[node->in[1]].constant->tensor, &w));
    NW_TRY(nw_tensor_to_f32(&p->scratch, &p->graph->values[node->in[2]].constant->tensor, &r));
    for (size_t d = 0; d < s.directions; d++) NW_TRY(pack_direction(p, &s, d, w.data, r.data, b));
    size_t state = s.directions * s.batch * s.hidden * sizeof(float);
    int in[3] = {-1, -1, -1}, out[5] = {-1, -1, -1, -1, -1};
    NW_TRY(nw_plan_need(p, node->in[0], NW_FORM_REAL, &in[0]));
    NW_TRY(nw_plan_need(p, nw_node_in(node, 5), NW_FORM_REAL, &in[1]));
    if (s.lstm) NW_TRY(nw_plan_need(p, nw_node_in(node, 6), NW_FORM_REAL, &in[2]));
    for (int i = 0; i < 3; i++) {
        int v = nw_node_out(node, i);
        if (v >= 0)
            NW_TRY(nw_plan_define(p, v, NW_FORM_REAL, &out[i]));
        else if (i > 0)
            NW_TRY(nw_plan_temporary(p, state, &out[i]));
    }
    NW_TRY(nw_plan_temporary(p, s.steps * s.batch * s.gates * s.hidden * sizeof(float), &out[3]));
    NW_TRY(nw_plan_temporary(p, 2 * s.batch * s.hidden * sizeof(float), &out[4]));
    *ok = true;
    return NW_PLAN_STEP(p, node, run_rnn, s.gemm->name, &s, in, out);
}
