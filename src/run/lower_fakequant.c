/* lower_fakequant.c: FakeQuant on real numbers, where its result does not become codes: scales that are learned, scales
 * per channel, codes of other than 8 bits; and the gradient of every FakeQuant on integers (ai.narrow.FakeQuantGrad).
 * On all threads, at the speed of memory. */
#include "run/plan.h"

#include "op/quantize.h"

#include <math.h>
#include <string.h>

typedef struct grid_state {
    nw_elementwise ew;
    size_t runs, run, groups; /* runs of elements that have one scale: run r has scale r mod groups */
    size_t parts, part;       /* each run is cut into parts of so many elements */
    int32_t qmin, qmax;
    const int32_t *zeros; /* [groups] or NULL */
    bool lsq;
} grid_state;

typedef struct grid_job {
    const grid_state *s;
    const float *x, *dy, *scales;
    float *y;    /* or dx */
    float *sums; /* [runs·parts] of the gradient of the scales */
} grid_job;

/* Part `unit` of all: its elements, its scale and its outermost codes. */
typedef struct grid_part {
    size_t first, count;
    float scale, lo, hi;
} grid_part;

static grid_part part_of(const grid_job *j, size_t unit) {
    const grid_state *s = j->s;
    const size_t run = unit / s->parts, at = unit % s->parts * s->part, group = run % s->groups;
    const int32_t zero = s->zeros ? s->zeros[group] : 0;
    return (grid_part){.first = run * s->run + at,
                       .count = s->run - at < s->part ? s->run - at : s->part,
                       .scale = j->scales[group],
                       .lo = (float)(s->qmin - zero),
                       .hi = (float)(s->qmax - zero)};
}

static void quantize_range(void *user, size_t begin, size_t end) {
    const grid_job *j = user;
    for (size_t u = begin; u < end; u++) {
        const grid_part p = part_of(j, u);
        j->s->ew.fake_quantize_f32(p.count, j->x + p.first, p.scale, p.lo, p.hi, j->y + p.first);
    }
}

static void gradient_range(void *user, size_t begin, size_t end) {
    const grid_job *j = user;
    for (size_t u = begin; u < end; u++) {
        const grid_part p = part_of(j, u);
        j->sums[u] = j->s->ew.straight_through_f32(p.count, j->x + p.first, j->dy + p.first, p.scale, p.lo,
                                                   p.hi, j->y + p.first);
    }
}

/* in: x, scales; out: y */
static nw_status run_quantize(nw_exec *e, const nw_step *step) {
    const grid_state *s = step->state;
    grid_job job = {.s = s,
                    .x = nw_exec_data(e, step->in[0]),
                    .scales = nw_exec_data(e, step->in[1]),
                    .y = nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->runs * s->parts, 1, (double)(s->runs * s->run) / 4, quantize_range, &job);
    return NW_OK;
}

/* in: x, scales, dy; out: dx, dscale, sums */
static nw_status run_gradient(nw_exec *e, const nw_step *step) {
    const grid_state *s = step->state;
    float *dscale = nw_exec_data(e, step->out[1]);
    grid_job job = {.s = s,
                    .x = nw_exec_data(e, step->in[0]),
                    .dy = nw_exec_data(e, step->in[2]),
                    .scales = nw_exec_data(e, step->in[1]),
                    .y = nw_exec_data(e, step->out[0]),
                    .sums = nw_exec_data(e, step->out[2])};
    nw_exec_parallel(e, s->runs * s->parts, 1, (double)(s->runs * s->run) / 3, gradient_range, &job);
    const size_t of_group = s->groups ? s->runs / s->groups * s->run : 0; /* elements */
    for (size_t g = 0; g < s->groups && dscale; g++) {
        double sum = 0;
        for (size_t r = g; r < s->runs; r += s->groups)
            for (size_t p = 0; p < s->parts; p++) sum += (double)job.sums[r * s->parts + p];
        const double most = (double)s->qmax - (s->zeros ? s->zeros[g] : 0);
        const double share = (double)of_group * (most > 1 ? most : 1);
        dscale[g] = (float)(s->lsq ? sum / sqrt(share) : sum);
    }
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

#define PART      16384 /* elements */
#define LEAST_RUN 8     /* shorter runs of one scale are left to the reference */

/* The constant zero points, in the plan's arena; false when they are computed. */
static nw_status read_zeros(nw_planner *p, int v, grid_state *s, bool *ok) {
    *ok = v < 0;
    if (v < 0) return NW_OK;
    const nw_constant *c = nw_graph_constant(p->graph, v);
    if (!c || c->tensor.qparam || nw_tensor_count(&c->tensor) != s->groups) return NW_OK;
    int32_t *zeros = nw_arena_array(&p->plan->arena, s->groups, sizeof *zeros);
    if (!zeros) return NW_E_MEMORY;
    for (size_t g = 0; g < s->groups; g++) {
        const int64_t z = nw_tensor_s64(&c->tensor, g);
        if (z < -65536 || z > 65536) return NW_OK;
        zeros[g] = (int32_t)z;
    }
    s->zeros = zeros;
    *ok = true;
    return NW_OK;
}

/* Fills *s; *any_layout: one scale for all elements. */
static nw_status examine(nw_planner *p, const nw_node *node, int scale, int zero, grid_state *s,
                         bool *any_layout, bool *ok) {
    const nw_tensor *x = &p->desc[node->in[0]];
    const size_t count = nw_tensor_count(x);
    nw_qparam q;
    *ok = false;
    if (x->format != NW_F32 || count == 0 || scale < 0 || p->desc[scale].format != NW_F32 ||
        p->desc[scale].qparam)
        return NW_OK;
    NW_TRY(nw_fakequant_format(&p->scratch, node, &p->desc[scale], &q));
    if (!nw_format_is_integer(q.format) || nw_format_bits(q.format) > 16 || q.grain == NW_GRAIN_BLOCK)
        return NW_OK;
    *s = (grid_state){.ew = p->ew,
                      .runs = 1,
                      .run = count,
                      .groups = q.groups,
                      .qmin = q.qmin,
                      .qmax = q.qmax,
                      .lsq = nw_node_int(node, "lsq", 0) != 0};
    *any_layout = q.grain == NW_GRAIN_TENSOR;
    if (!*any_layout) {
        s->run = nw_dims_product(x->dims, q.axis + 1, x->rank);
        s->runs = count / s->run;
        if (s->run < LEAST_RUN) return NW_OK;
    }
    s->part = s->run < PART ? s->run : PART;
    s->parts = (s->run + s->part - 1) / s->part;
    return read_zeros(p, zero, s, ok);
}

static nw_status lower_quantize(nw_planner *p, const nw_node *node, bool *ok) {
    const int x = node->in[0], scale = nw_node_in(node, 1);
    grid_state s;
    bool any_layout;
    NW_TRY(examine(p, node, scale, nw_node_in(node, 2), &s, &any_layout, ok));
    if (!*ok) return NW_OK;
    const nw_form form = nw_form_of(false, any_layout && nw_plan_prefers_last(p, x));
    int in[2], out[1];
    NW_TRY(nw_plan_need(p, x, form, &in[0]));
    NW_TRY(nw_plan_need(p, scale, NW_FORM_REAL, &in[1]));
    NW_TRY(nw_plan_define(p, node->out[0], form, &out[0]));
    return NW_PLAN_STEP(p, node, run_quantize, "fake quantize", &s, in, out);
}

static nw_status lower_gradient(nw_planner *p, const nw_node *node, bool *ok) {
    const int x = node->in[0], dy = node->in[1], scale = node->in[2];
    grid_state s;
    bool any_layout;
    NW_TRY(examine(p, node, scale, nw_node_in(node, 3), &s, &any_layout, ok));
    if (*ok && p->desc[dy].format != NW_F32) *ok = false;
    if (!*ok) return NW_OK;
    const bool last = any_layout && (nw_plan_prefers_last(p, dy) || nw_plan_prefers_last(p, x));
    const nw_form form = nw_form_of(false, last);
    int in[3], out[3] = {-1, -1, -1};
    NW_TRY(nw_plan_need(p, x, form, &in[0]));
    NW_TRY(nw_plan_need(p, scale, NW_FORM_REAL, &in[1]));
    NW_TRY(nw_plan_need(p, dy, form, &in[2]));
    if (nw_node_out(node, 0) >= 0)
        NW_TRY(nw_plan_define(p, node->out[0], form, &out[0]));
    else
        NW_TRY(nw_plan_temporary(p, nw_tensor_bytes(&p->desc[x]), &out[0]));
    if (nw_node_out(node, 1) >= 0) NW_TRY(nw_plan_define(p, node->out[1], NW_FORM_REAL, &out[1]));
    NW_TRY(nw_plan_temporary(p, s.runs * s.parts * sizeof(float), &out[2]));
    return NW_PLAN_STEP(p, node, run_gradient, "straight through", &s, in, out);
}

nw_status nw_lower_real_fakequant(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->op == &nw_op_narrow_FakeQuant) return lower_quantize(p, node, ok);
    if (node->op == &nw_op_narrow_FakeQuantGrad) return lower_gradient(p, node, ok);
    return NW_OK;
}
