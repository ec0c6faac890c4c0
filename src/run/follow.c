/* follow.c: grids, and what behind a layer fits into its epilogue. */
#include "run/plan.h"

#include "op/quantize.h"

#include <math.h>
#include <string.h>

bool nw_grid_equal(const nw_grid *a, const nw_grid *b) {
    return a->scale > 0 && a->scale == b->scale && a->zero == b->zero && a->lo == b->lo && a->hi == b->hi;
}

int32_t nw_grid_code(const nw_grid *g, float x) {
    return nw_quantize_one(x, g->scale, g->zero, g->lo, g->hi);
}

nw_status nw_plan_fakequant_grid(nw_planner *p, const nw_node *node, nw_grid *grid, bool *ok) {
    *ok = false;
    *grid = (nw_grid){0};
    if (node->op != &nw_op_narrow_FakeQuant) return NW_OK;
    int scale = nw_node_in(node, 1);
    if (scale >= 0 && !nw_graph_constant(p->graph, scale)) return NW_OK; /* it is being learned */
    nw_qparam q;
    bool dynamic;
    NW_TRY(nw_fakequant_qparam(p->graph, node, &p->scratch, &q, &dynamic));
    if (dynamic || q.grain != NW_GRAIN_TENSOR || !nw_format_is_integer(q.format) ||
        nw_format_bits(q.format) > 8)
        return NW_OK;
    int32_t shift = nw_format_min(q.format) < 0 ? 128 : 0;
    *grid = (nw_grid){nw_qparam_scale(&q, 0), nw_qparam_zero(&q, 0) + shift, q.qmin + shift, q.qmax + shift};
    *ok = grid->scale > 0 && isfinite(grid->scale) && grid->lo >= 0 && grid->hi <= 255 &&
          grid->zero >= grid->lo && grid->zero <= grid->hi;
    return NW_OK;
}

nw_node *nw_plan_only_reader(const nw_planner *p, int v) {
    if (nw_uses_count(&p->uses, v) != 1 || p->uses.outputs[v] || (nw_plan_tapped(p, v))) return NULL;
    int n = p->uses.users[p->uses.first[v]];
    return p->done[n] ? NULL : &p->graph->nodes[n];
}

/* Relu, or Clip with constant limits, as a clamp. */
static bool clamp_of(const nw_planner *p, const nw_node *node, float *lo, float *hi) {
    *lo = -INFINITY;
    *hi = INFINITY;
    if (node->domain[0]) return false;
    if (strcmp(node->op_type, "Relu") == 0) {
        *lo = 0;
        return true;
    }
    if (strcmp(node->op_type, "Clip") != 0) return false;
    *lo = nw_node_float(node, "min", *lo);
    *hi = nw_node_float(node, "max", *hi);
    for (int i = 1; i < 3; i++) {
        int v = nw_node_in(node, i);
        if (v < 0) continue;
        const nw_constant *c = p->graph->values[v].constant;
        if (!c || c->tensor.format != NW_F32 || nw_tensor_count(&c->tensor) != 1) return false;
        *(i == 1 ? lo : hi) = *(const float *)c->tensor.data;
    }
    return *lo <= *hi;
}

nw_status nw_plan_follow(nw_planner *p, int v, bool codes, nw_follow *f) {
    *f = (nw_follow){.value = v, .lo = -INFINITY, .hi = INFINITY};
    if (p->options->reference) return NW_OK;
    nw_node *next = nw_plan_only_reader(p, v);
    float lo, hi;
    if (next && nw_node_in(next, 0) == v && clamp_of(p, next, &lo, &hi) && p->desc[v].format == NW_F32) {
        f->lo = lo;
        f->hi = hi;
        f->value = next->out[0];
        f->nodes[f->node_count++] = (int)(next - p->graph->nodes);
        next = nw_plan_only_reader(p, f->value);
    }
    if (!codes || !next || nw_node_in(next, 0) != f->value) return NW_OK;
    nw_grid grid;
    bool ok;
    NW_TRY(nw_plan_fakequant_grid(p, next, &grid, &ok));
    if (!ok) return NW_OK;
    f->grid = grid;
    f->value = next->out[0];
    f->nodes[f->node_count++] = (int)(next - p->graph->nodes);
    /* Rounding is monotone: clamping the codes is clamping the numbers. */
    f->code_lo = isfinite(f->lo) ? nw_grid_code(&grid, f->lo) : grid.lo;
    f->code_hi = isfinite(f->hi) ? nw_grid_code(&grid, f->hi) : grid.hi;
    return NW_OK;
}

void nw_plan_fuse(nw_planner *p, const nw_follow *f) {
    for (int i = 0; i < f->node_count; i++) p->done[f->nodes[i]] = 1;
    if (f->grid.scale > 0) p->grid[f->value] = f->grid;
    p->fused = f->value;
}

/* ---- floats of 16 bits ------------------------------------------------------------------------------------------ */

typedef struct round_state {
    nw_unary_f32_fn *round;
    size_t count;
} round_state;

typedef struct round_job {
    const round_state *s;
    const float *x;
    float *y;
} round_job;

static void round_range(void *user, size_t begin, size_t end) {
    const round_job *j = user;
    j->s->round(end - begin, j->x + begin, j->y + begin);
}

static nw_status run_round(nw_exec *e, const nw_step *step) {
    const round_state *s = step->state;
    round_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / 10, round_range, &job);
    return NW_OK;
}

/* Numbers of f16 or bf16 stay f32 in memory. */
static nw_status lower_cast(nw_planner *p, const nw_node *node, bool *ok) {
    nw_qparam q;
    bool dynamic;
    *ok = false;
    if (node->op != &nw_op_narrow_FakeQuant || !nw_graph_constant(p->graph, nw_node_in(node, 1)))
        return NW_OK;
    const int x = node->in[0], y = node->out[0];
    NW_TRY(nw_fakequant_qparam(p->graph, node, &p->scratch, &q, &dynamic));
    if (dynamic || !nw_fakequant_is_cast(&q) || p->desc[x].format != NW_F32) return NW_OK;
    const bool bf16 = q.format == NW_BF16;
    const round_state s = {bf16 ? p->ew.round_bf16 : p->ew.round_f16, nw_tensor_count(&p->desc[x])};
    const nw_form form = nw_form_of(false, nw_plan_prefers_last(p, x));
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, x, form, &in[0]));
    NW_TRY(nw_plan_define_over(p, x, in[0], y, form, &out[0]));
    *ok = true;
    return NW_PLAN_STEP(p, node, run_round, bf16 ? "round to bf16" : "round to f16", &s, in, out);
}

/* ---- signs -------------------------------------------------------------------------------------------------------- */

typedef struct signs_state {
    nw_signs_u8_fn *run;
    size_t count;
} signs_state;

typedef struct signs_job {
    const signs_state *s;
    const float *x;
    uint8_t *codes;
} signs_job;

static void signs_range(void *user, size_t begin, size_t end) {
    const signs_job *j = user;
    j->s->run(end - begin, j->x + begin, j->codes + begin);
}

static nw_status run_signs(nw_exec *e, const nw_step *step) {
    const signs_state *s = step->state;
    signs_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / 8, signs_range, &job);
    return NW_OK;
}

/* {−scale, scale} as codes 0 and 2 of a grid, for those who do not multiply bits (lower_bits.c). It is no grid that a layer before
 * could round to: code 1 stands for 0, which is none of the two. */
static nw_status lower_signs(nw_planner *p, const nw_node *node, bool *ok) {
    const int x = node->in[0], y = node->out[0];
    float scale;
    NW_TRY(nw_fakequant_sign_scale(p->graph, node, &p->scratch, &scale, ok));
    if (*ok && p->desc[x].format != NW_F32) *ok = false;
    if (!*ok) return NW_OK;
    const signs_state s = {p->ew.signs_u8, nw_tensor_count(&p->desc[x])};
    const bool last = nw_plan_prefers_last(p, x);
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, x, nw_form_of(false, last), &in[0]));
    NW_TRY(nw_plan_define(p, y, nw_form_of(true, last), &out[0]));
    p->grid[y] = (nw_grid){.scale = scale, .zero = 1, .lo = 0, .hi = 2};
    return NW_PLAN_STEP(p, node, run_signs, "signs", &s, in, out);
}

nw_status nw_lower_fakequant(nw_planner *p, nw_node *node, bool *ok) {
    nw_grid grid;
    NW_TRY(lower_cast(p, node, ok));
    if (!*ok) NW_TRY(lower_signs(p, node, ok));
    if (*ok) return NW_OK;
    NW_TRY(nw_plan_fakequant_grid(p, node, &grid, ok));
    int x = nw_node_in(node, 0), y = node->out[0];
    if (*ok && p->desc[x].format != NW_F32 && !p->desc[x].qparam) *ok = false;
    if (!*ok) return NW_OK;
    p->grid[y] = grid;
    if (nw_plan_on_grid(p, x) &&
        nw_grid_equal(&p->grid[x], &grid)) { /* a copy of codes that lie on this grid already */
        for (int f = 0; f < NW_FORM_COUNT; f++) p->buffer[y][f] = p->buffer[x][f];
        p->strip[y] = p->strip[x];
        return NW_OK;
    }
    bool last = nw_plan_prefers_last(p, x);
    int real, codes;
    NW_TRY(nw_plan_need(p, x, nw_form_of(false, last), &real));
    return nw_plan_quantize(p, node, real, y, nw_form_of(true, last), &codes);
}
