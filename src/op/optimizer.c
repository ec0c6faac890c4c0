/* optimizer.c: the optimizers of ai.onnx.preview.training: Adagrad, Adam, Momentum. Inputs are the learning
 * rate R, the update count T, then for n variables n tensors X, n gradients G, and n of each state; outputs
 * are the new X and states. */
#include "op/real.h"

#include <math.h>
#include <string.h>

#define RUN        256 /* elements computed at a time, in double */
#define MAX_STATES 2

/* What an update needs beside the arrays; attributes under the names they have in ONNX. */
typedef struct settings {
    double rate, count; /* R and T */
    double alpha, beta, epsilon, norm_coefficient, norm_coefficient_post;
    bool nesterov;
} settings;

/* x and the states s[…] become their new values; g is the gradient; n elements. */
typedef void step_fn(const settings *o, size_t n, const double *g, double *x, double (*s)[RUN]);

typedef struct optimizer {
    int states;
    step_fn *step;
} optimizer;

/* G' = norm·X + G; H += G'²; X −= R·G' / (√H + ε) */
static void adagrad_step(const settings *o, size_t n, const double *g, double *x, double (*s)[RUN]) {
    for (size_t i = 0; i < n; i++) {
        double gr = o->norm_coefficient * x[i] + g[i];
        s[0][i] += gr * gr;
        x[i] -= o->rate * gr / (sqrt(s[0][i]) + o->epsilon);
    }
}

/* G' = norm·X + G; V = α·V + (1 − α)·G'; H = β·H + (1 − β)·G'²; X = (1 − post)·(X − R·V / (√H + ε)) */
static void adam_step(const settings *o, size_t n, const double *g, double *x, double (*s)[RUN]) {
    for (size_t i = 0; i < n; i++) {
        double gr = o->norm_coefficient * x[i] + g[i];
        s[0][i] = o->alpha * s[0][i] + (1 - o->alpha) * gr;
        s[1][i] = o->beta * s[1][i] + (1 - o->beta) * gr * gr;
        x[i] = (1 - o->norm_coefficient_post) * (x[i] - o->rate * s[0][i] / (sqrt(s[1][i]) + o->epsilon));
    }
}

/* G' = norm·X + G; V = α·V + β·G'; X −= R·V, or R·(G' + α·V) as Nesterov says */
static void momentum_step(const settings *o, size_t n, const double *g, double *x, double (*s)[RUN]) {
    for (size_t i = 0; i < n; i++) {
        double gr = o->norm_coefficient * x[i] + g[i];
        s[0][i] = o->alpha * s[0][i] + o->beta * gr;
        x[i] -= o->rate * (o->nesterov ? gr + o->alpha * s[0][i] : s[0][i]);
    }
}

static const optimizer adagrad = {1, adagrad_step}, adam = {2, adam_step}, momentum = {1, momentum_step};

static nw_status infer(nw_op_call *call, const optimizer *o) {
    const nw_tensor *rate, *count, *x, *t;
    int per = 2 + o->states, n = (call->in_count - 2) / per;
    if (n < 1 || call->in_count != 2 + n * per || call->out_count > n * (1 + o->states))
        return nw_call_fail(call, NW_E_FORMAT, "it needs R, T and %d tensors for each variable", per);
    NW_TRY(nw_call_require_real(call, 0, &rate));
    NW_TRY(nw_call_require(call, 1, &count));
    if (nw_tensor_count(rate) != 1 || nw_tensor_count(count) != 1 || count->format != NW_S64)
        return nw_call_fail(call, NW_E_TYPE, "R must be one real number and T one s64");
    for (int i = 0; i < n; i++) {
        NW_TRY(nw_call_require_real(call, 2 + i, &x));
        for (int k = 1; k < per; k++) {
            NW_TRY(nw_call_require_real(call, 2 + k * n + i, &t));
            if (!nw_tensor_same_shape(x, t) || nw_real_format(x) != nw_real_format(t))
                return nw_call_fail(call, NW_E_SHAPE,
                                    "variable %d, its gradient and its state must have one type and shape",
                                    i);
        }
        for (int k = 0; k <= o->states; k++) NW_TRY(nw_call_set_like(call, k * n + i, x));
    }
    return NW_OK;
}

static nw_status eval(nw_op_call *call, const optimizer *o, const settings *s) {
    int n = (call->in_count - 2) / (2 + o->states);
    double g[RUN], x[RUN], state[MAX_STATES][RUN];
    for (int v = 0; v < n; v++) {
        size_t count = nw_tensor_count(call->in[2 + v]);
        for (size_t at = 0, run; at < count; at += run) {
            run = count - at < RUN ? count - at : RUN;
            nw_load_run(call->in[2 + v], at, run, x);
            nw_load_run(call->in[2 + n + v], at, run, g);
            for (int k = 0; k < o->states; k++) nw_load_run(call->in[2 + (2 + k) * n + v], at, run, state[k]);
            o->step(s, run, g, x, state);
            for (int k = 0; k <= o->states; k++)
                if (nw_call_wants(call, k * n + v))
                    nw_store_run(&call->out[k * n + v], at, run, k ? state[k - 1] : x);
        }
    }
    return NW_OK;
}

static settings common_settings(const nw_op_call *call) {
    const nw_node *node = call->node;
    return (settings){.rate = nw_tensor_f64(call->in[0], 0),
                      .count = nw_tensor_f64(call->in[1], 0),
                      .alpha = nw_node_float(node, "alpha", 0.9f),
                      .beta = nw_node_float(node, "beta", 0.999f),
                      .epsilon = nw_node_float(node, "epsilon", 1e-6f),
                      .norm_coefficient = nw_node_float(node, "norm_coefficient", 0),
                      .norm_coefficient_post = nw_node_float(node, "norm_coefficient_post", 0)};
}

/* The learning rate decays: R / (1 + T·decay_factor). */
static nw_status adagrad_eval(nw_op_call *call) {
    settings s = common_settings(call);
    s.rate /= 1 + s.count * (double)nw_node_float(call->node, "decay_factor", 0);
    return eval(call, &adagrad, &s);
}

/* The learning rate is corrected for averages that start at 0: R·√(1 − β^T) / (1 − α^T), from the first
 * update on. */
static nw_status adam_eval(nw_op_call *call) {
    settings s = common_settings(call);
    if (s.count > 0) s.rate *= sqrt(1 - pow(s.beta, s.count)) / (1 - pow(s.alpha, s.count));
    return eval(call, &adam, &s);
}

/* In the first update beta is 1. */
static nw_status momentum_eval(nw_op_call *call) {
    settings s = common_settings(call);
    if (!(s.count > 0)) s.beta = 1;
    s.nesterov = nw_node_string_is(call->node, "mode", "standard", "nesterov");
    return eval(call, &momentum, &s);
}

static nw_status adagrad_infer(nw_op_call *call) {
    return infer(call, &adagrad);
}
static nw_status adam_infer(nw_op_call *call) {
    return infer(call, &adam);
}

static nw_status momentum_infer(nw_op_call *call) {
    int mode;
    NW_TRY(nw_call_word_attr(call, "mode", (const char *const[]){"standard", "nesterov", NULL}, &mode));
    return infer(call, &momentum);
}

#define TRAINING "ai.onnx.preview.training"
const nw_op nw_op_Adagrad = {
    .name = "Adagrad", .domain = TRAINING, .infer = adagrad_infer, .eval = adagrad_eval};
const nw_op nw_op_Adam = {.name = "Adam", .domain = TRAINING, .infer = adam_infer, .eval = adam_eval};
const nw_op nw_op_Momentum = {
    .name = "Momentum", .domain = TRAINING, .infer = momentum_infer, .eval = momentum_eval};
