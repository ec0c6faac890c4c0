/* lower_dynamic.c: FakeQuant that finds its scale while running, for values that only integer matrix products read, those of
 * recurrent layers too: codes, and the scale and zero point of each row, which go into the products' epilogues. Others evaluate
 * it in float. */
#include "run/plan.h"

#include "op/quantize.h"

#include <math.h>
#include <string.h>

typedef struct dynamic_state {
    nw_elementwise ew;
    bool per_row;
    size_t rows, row;
} dynamic_state;

typedef struct dynamic_job {
    const dynamic_state *s;
    const float *x;
    uint8_t *codes;
    float *scales;
    int32_t *zeros;
} dynamic_job;

static void measure(const nw_elementwise *ew, size_t n, const float *x, float *scale, int32_t *zero) {
    float lo = INFINITY, hi = -INFINITY;
    ew->minmax_f32(n, x, &lo, &hi);
    nw_choose_scale(lo, hi, false, 0, 255, scale, zero);
}

void nw_quantize_measured(const nw_elementwise *ew, size_t n, const float *x, uint8_t *codes, float *scale,
                          int32_t *zero) {
    measure(ew, n, x, scale, zero);
    ew->quantize_u8(n, x, *scale, *zero, 0, 255, codes);
}

static void quantize_rows(void *user, size_t begin, size_t end) {
    const dynamic_job *j = user;
    const dynamic_state *s = j->s;
    for (size_t r = begin; r < end; r++) {
        const float *x = j->x + r * s->row;
        uint8_t *codes = j->codes + r * s->row;
        if (s->per_row)
            nw_quantize_measured(&s->ew, s->row, x, codes, &j->scales[r], &j->zeros[r]);
        else
            s->ew.quantize_u8(s->row, x, j->scales[r], j->zeros[r], 0, 255, codes);
    }
}

static nw_status run_dynamic(nw_exec *e, const nw_step *step) {
    const dynamic_state *s = step->state;
    dynamic_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0]),
                       nw_exec_data(e, step->out[1]), nw_exec_data(e, step->out[2])};
    if (!s->per_row) {
        measure(&s->ew, s->rows * s->row, job.x, &job.scales[0], &job.zeros[0]);
        for (size_t r = 1; r < s->rows; r++) {
            job.scales[r] = job.scales[0];
            job.zeros[r] = job.zeros[0];
        }
    }
    nw_exec_parallel(e, s->rows, 1, (double)(s->rows * s->row) / 4, quantize_rows, &job);
    return NW_OK;
}

nw_status nw_lower_dynamic(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->op != &nw_op_narrow_FakeQuant || nw_node_in(node, 1) >= 0) return NW_OK;
    nw_qparam q;
    bool dynamic;
    NW_TRY(nw_fakequant_qparam(p->graph, node, &p->scratch, &q, &dynamic));
    int x = node->in[0], y = node->out[0];
    const nw_tensor *t = &p->desc[x];
    if (!dynamic || q.format != NW_U8 || q.qmin != 0 || q.qmax != 255 ||
        nw_qparam_scale_format(&q) != NW_F32 || t->format != NW_F32 || t->qparam || t->rank < 1)
        return NW_OK;
    if (nw_tensor_count(t) == 0 || p->uses.outputs[y] || nw_plan_tapped(p, y)) return NW_OK;
    for (int u = p->uses.first[y]; u < p->uses.first[y + 1]; u++) {
        const nw_node *reader = &p->graph->nodes[p->uses.users[u]];
        bool takes = nw_rnn_takes_codes(p, reader, y);
        if (!takes) NW_TRY(nw_matmul_takes_codes(p, reader, y, &takes));
        if (!takes) return NW_OK;
    }
    dynamic_state s = {.ew = p->ew, .per_row = q.grain == NW_GRAIN_AXIS, .row = (size_t)t->dims[t->rank - 1]};
    s.rows = nw_tensor_count(t) / s.row;
    int in[1], out[3];
    NW_TRY(nw_plan_need(p, x, NW_FORM_REAL, &in[0]));
    NW_TRY(nw_plan_define(p, y, NW_FORM_CODES, &out[0]));
    NW_TRY(nw_plan_temporary(p, s.rows * sizeof(float), &out[1]));
    NW_TRY(nw_plan_temporary(p, s.rows * sizeof(int32_t), &out[2]));
    p->row_grid[y][0] = out[1];
    p->row_grid[y][1] = out[2];
    p->one_row_grid[y] = !s.per_row;
    *ok = true;
    return NW_PLAN_STEP(p, node, run_dynamic, s.per_row ? "quantize, per row" : "quantize, measured", &s, in,
                        out);
}
