/* lower_rows.c: what works along the last axis, row by row, in f32: Softmax and LayerNormalization. */
#include "run/plan.h"

#include <string.h>

typedef struct rows_state {
    nw_softmax_f32_fn *softmax; /* or: */
    nw_layernorm_f32_fn *layernorm;
    size_t rows, row;
    float epsilon;
} rows_state;

typedef struct rows_job {
    const rows_state *s;
    const float *x, *gamma, *beta;
    float *y;
} rows_job;

static void rows_range(void *user, size_t begin, size_t end) {
    const rows_job *j = user;
    const rows_state *s = j->s;
    const float *x = j->x + begin * s->row;
    float *y = j->y + begin * s->row;
    if (!s->softmax) {
        s->layernorm(end - begin, s->row, x, j->gamma, j->beta, s->epsilon, y);
        return;
    }
    for (size_t r = begin; r < end; r++, x += s->row, y += s->row) s->softmax(s->row, x, y);
}

static nw_status run_rows(nw_exec *e, const nw_step *step) {
    const rows_state *s = step->state;
    rows_job job = {.s = s, .x = nw_exec_data(e, step->in[0]), .y = nw_exec_data(e, step->out[0])};
    if (step->in_count > 1) job.gamma = nw_exec_data(e, step->in[1]);
    if (step->in_count > 2) job.beta = nw_exec_data(e, step->in[2]);
    nw_exec_parallel(e, s->rows, 1, (double)(s->rows * s->row), rows_range, &job);
    return NW_OK;
}

nw_status nw_lower_rows(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    bool softmax = nw_node_is(node, "Softmax"), layernorm = nw_node_is(node, "LayerNormalization");
    if (!softmax && !layernorm) return NW_OK;
    const nw_tensor *x = &p->desc[node->in[0]];
    if (x->format != NW_F32 || x->qparam || x->rank < 1 || nw_tensor_count(x) == 0) return NW_OK;
    for (int i = 1; i < node->out_count; i++)
        if (node->out[i] >= 0) return NW_OK;
    bool old = nw_graph_opset(p->graph, "") < 13;
    int64_t axis = nw_node_int(node, "axis", softmax && old ? 1 : -1);
    if (axis < 0) axis += x->rank;
    if (axis >= x->rank || axis < 0) return NW_OK;
    /* Before opset 13 Softmax works on all axes from `axis`; LayerNormalization always does. */
    if (softmax && !old && axis != x->rank - 1) return NW_OK;
    rows_state s = {.softmax = softmax ? p->ew.softmax_f32 : NULL,
                    .layernorm = p->ew.layernorm_f32,
                    .row = nw_dims_product(x->dims, (int)axis, x->rank),
                    .epsilon = nw_node_float(node, "epsilon", 1e-5f)};
    s.rows = nw_tensor_count(x) / s.row;
    int in[3] = {-1, -1, -1}, out[1], count = softmax ? 1 : node->in_count < 3 ? node->in_count : 3;
    for (int i = 1; i < count; i++) {
        if (node->in[i] < 0) continue;
        const nw_tensor *t = &p->desc[node->in[i]];
        if ((t->format != NW_F32 && !t->qparam) || nw_tensor_count(t) != s.row) return NW_OK;
    }
    for (int i = 0; i < count; i++) NW_TRY(nw_plan_need(p, node->in[i], NW_FORM_REAL, &in[i]));
    NW_TRY(nw_plan_define_over(p, node->in[0], in[0], node->out[0], NW_FORM_REAL, &out[0]));
    *ok = true;
    return nw_plan_step(p, node, run_rows, softmax ? "softmax_f32" : "layernorm_f32", &s, sizeof s, count, in,
                        1, out);
}
