/* lower_dynamic.c: FakeQuant that finds its scale while running. For values that only integer products read, those of
 * convolutions and recurrent layers too: codes, and the scale and zero point of each row, which go into the products' epilogues.
 * For others: the real numbers that the codes mean. */
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
    float *real; /* or NULL */
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
    for (size_t r = begin; r < end; r++)
        nw_quantize_measured(&s->ew, s->row, j->x + r * s->row, j->codes + r * s->row, &j->scales[r],
                             &j->zeros[r]);
}

/* Elements of a tensor with one grid; real: what the codes mean is wanted too. */
static void quantize_range(void *user, size_t begin, size_t end) {
    const dynamic_job *j = user;
    const nw_elementwise *ew = &j->s->ew;
    ew->quantize_u8(end - begin, j->x + begin, j->scales[0], j->zeros[0], 0, 255, j->codes + begin);
    if (j->real) ew->dequantize_u8(end - begin, j->codes + begin, j->scales[0], j->zeros[0], j->real + begin);
}

static void quantize_whole(const nw_exec *e, const dynamic_job *j) {
    const size_t count = j->s->rows * j->s->row;
    measure(&j->s->ew, count, j->x, j->scales, j->zeros);
    nw_exec_parallel(e, count, 64, (double)count / 4, quantize_range, (void *)(uintptr_t)j);
}

static nw_status run_dynamic(nw_exec *e, const nw_step *step) {
    const dynamic_state *s = step->state;
    dynamic_job job = {s,
                       nw_exec_data(e, step->in[0]),
                       nw_exec_data(e, step->out[0]),
                       nw_exec_data(e, step->out[1]),
                       nw_exec_data(e, step->out[2]),
                       NULL};
    if (s->per_row) {
        nw_exec_parallel(e, s->rows, 1, (double)(s->rows * s->row) / 4, quantize_rows, &job);
        return NW_OK;
    }
    quantize_whole(e, &job);
    for (size_t r = 1; r < s->rows; r++) {
        job.scales[r] = job.scales[0];
        job.zeros[r] = job.zeros[0];
    }
    return NW_OK;
}

static nw_status run_round(nw_exec *e, const nw_step *step) {
    const dynamic_state *s = step->state;
    float scale;
    int32_t zero;
    dynamic_job job = {s,     nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[1]), &scale,
                       &zero, nw_exec_data(e, step->out[0])};
    quantize_whole(e, &job);
    return NW_OK;
}

/* Whether all readers of y multiply its codes; *images: some are convolutions, which know one grid per tensor. */
static nw_status takes_codes(nw_planner *p, int y, bool *images, bool *all) {
    *images = false;
    *all = p->uses.outputs[y] == 0 && !nw_plan_tapped(p, y);
    for (int u = p->uses.first[y]; u < p->uses.first[y + 1] && *all; u++) {
        const nw_node *reader = &p->graph->nodes[p->uses.users[u]];
        bool image = false;
        NW_TRY(nw_rnn_takes_codes(p, reader, y, all));
        if (!*all) NW_TRY(nw_matmul_takes_codes(p, reader, y, all));
        if (!*all) NW_TRY(nw_attention_takes_codes(p, reader, y, all));
        if (!*all) NW_TRY(nw_conv_takes_codes(p, reader, y, &image));
        *all |= image;
        *images |= image;
    }
    return NW_OK;
}

static nw_status lower_round(nw_planner *p, const nw_node *node, const dynamic_state *s) {
    const int x = node->in[0], y = node->out[0];
    const nw_form form = nw_form_of(false, nw_plan_prefers_last(p, x));
    int in[1], out[2];
    NW_TRY(nw_plan_need(p, x, form, &in[0]));
    NW_TRY(nw_plan_define(p, y, form, &out[0]));
    NW_TRY(nw_plan_temporary(p, s->rows * s->row, &out[1]));
    return NW_PLAN_STEP(p, node, run_round, "round, measured", s, in, out);
}

/* A FakeQuant that finds grids of 256 u8 codes for f32 numbers: for each row, or one. */
static nw_status examine(nw_planner *p, const nw_node *node, bool *per_row, bool *ok) {
    *ok = false;
    if (node->op != &nw_op_narrow_FakeQuant || nw_node_in(node, 1) >= 0) return NW_OK;
    nw_qparam q;
    bool dynamic;
    NW_TRY(nw_fakequant_qparam(p->graph, node, &p->scratch, &q, &dynamic));
    const nw_tensor *t = &p->desc[node->in[0]];
    *ok = dynamic && q.format == NW_U8 && q.qmin == 0 && q.qmax == 255 &&
          nw_qparam_scale_format(&q) == NW_F32 && t->format == NW_F32 && !t->qparam && t->rank >= 1 &&
          nw_tensor_count(t) > 0;
    *per_row = q.grain == NW_GRAIN_AXIS;
    return NW_OK;
}

/* The FakeQuant that makes v, or NULL. */
static const nw_node *quantizer_of(const nw_planner *p, int v) {
    const int maker = v < 0 ? NW_ABSENT : p->uses.producer[v];
    return maker >= 0 && p->graph->nodes[maker].op == &nw_op_narrow_FakeQuant ? &p->graph->nodes[maker]
                                                                              : NULL;
}

static nw_status rounded_while_running(nw_planner *p, int v, bool *per_row, bool *ok) {
    const nw_node *node = quantizer_of(p, v);
    *ok = false;
    if (node) NW_TRY(examine(p, node, per_row, ok));
    *ok = *ok && nw_uses_count(&p->uses, v) == 1 && !p->uses.outputs[v] && !nw_plan_tapped(p, v);
    return NW_OK;
}

nw_status nw_plan_rounded_rows(nw_planner *p, int v, bool *ok) {
    bool per_row;
    return rounded_while_running(p, v, &per_row, ok);
}

nw_status nw_plan_rounded(nw_planner *p, int v, bool *ok) {
    const nw_node *node = quantizer_of(p, v);
    nw_grid grid;
    bool per_row;
    *ok = false;
    if (node) NW_TRY(nw_plan_fakequant_grid(p, node, &grid, ok));
    if (*ok) return NW_OK;
    NW_TRY(rounded_while_running(p, v, &per_row, ok));
    *ok = *ok && !per_row;
    return NW_OK;
}

nw_status nw_lower_dynamic(nw_planner *p, nw_node *node, bool *ok) {
    dynamic_state s = {.ew = p->ew};
    NW_TRY(examine(p, node, &s.per_row, ok));
    if (!*ok) return NW_OK;
    *ok = false;
    int x = node->in[0], y = node->out[0];
    const nw_tensor *t = &p->desc[x];
    bool images, all;
    NW_TRY(takes_codes(p, y, &images, &all));
    s.row = (size_t)t->dims[t->rank - 1];
    s.rows = nw_tensor_count(t) / s.row;
    if (s.per_row && (images || !all)) return NW_OK;
    *ok = true;
    if (!all) return lower_round(p, node, &s);
    const bool last = images && nw_plan_prefers_last(p, x);
    int in[1], out[3];
    NW_TRY(nw_plan_need(p, x, nw_form_of(false, last), &in[0]));
    NW_TRY(nw_plan_define(p, y, nw_form_of(true, last), &out[0]));
    NW_TRY(nw_plan_temporary(p, s.rows * sizeof(float), &out[1]));
    NW_TRY(nw_plan_temporary(p, s.rows * sizeof(int32_t), &out[2]));
    p->row_grid[y][0] = out[1];
    p->row_grid[y][1] = out[2];
    p->one_row_grid[y] = !s.per_row;
    return NW_PLAN_STEP(p, node, run_dynamic, s.per_row ? "quantize, per row" : "quantize, measured", &s, in,
                        out);
}
