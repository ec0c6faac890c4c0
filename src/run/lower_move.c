/* lower_move.c: operators that move elements without computing: views share the bytes, others run on codes when there are
 * codes, and Concat brings its inputs onto one grid. */
#include "run/plan.h"

#include <math.h>
#include <string.h>

/* ---- views ----------------------------------------------------------------------------------------------------- */

static nw_status lower_view(nw_planner *p, nw_node *node, bool *ok) {
    int x = node->in[0], y = node->out[0];
    for (int i = 1; i < node->out_count; i++)
        if (node->out[i] >= 0) return NW_OK;
    bool codes = nw_plan_on_grid(p, x);
    int in, out;
    NW_TRY(nw_plan_need(p, x, nw_form_of(codes, false), &in));
    NW_TRY(nw_plan_define(p, y, nw_form_of(codes, false), &out));
    p->plan->buffers[out].alias = in;
    if (codes) p->grid[y] = p->grid[x];
    *ok = true;
    return NW_OK;
}

/* ---- moves of codes -------------------------------------------------------------------------------------------- */

static nw_status lower_codes(nw_planner *p, nw_node *node, const nw_roles *roles, bool *ok) {
    int x = node->in[0];
    if (!nw_plan_on_grid(p, x) || !roles->same_grid || !(node->op->flags & NW_OP_RAW)) return NW_OK;
    int *in = nw_arena_array(&p->scratch, (size_t)node->in_count + 1, sizeof *in);
    int *out = nw_arena_array(&p->scratch, (size_t)node->out_count + 1, sizeof *out);
    if (!in || !out) return NW_E_MEMORY;
    NW_TRY(nw_plan_need(p, x, NW_FORM_CODES, &in[0]));
    for (int i = 1; i < node->in_count; i++) NW_TRY(nw_plan_need(p, node->in[i], NW_FORM_REAL, &in[i]));
    for (int i = 0; i < node->out_count; i++) {
        out[i] = -1;
        if (node->out[i] < 0) continue;
        NW_TRY(nw_plan_define(p, node->out[i], NW_FORM_CODES, &out[i]));
        p->grid[node->out[i]] = p->grid[x];
    }
    *ok = true;
    return nw_plan_eval_step(p, node, in, out);
}

/* ---- Concat ---------------------------------------------------------------------------------------------------- */

typedef struct part { /* an input that is copied */
    nw_strip from;
    size_t at, row; /* bytes: its place in a row of the result, a row of it */
    bool same;      /* it is on the result's grid already, or real */
    uint8_t table[256];
} part;

typedef struct concat_state {
    nw_lookup_u8_fn *lookup;
    size_t outer, out_row; /* bytes of a row of the result */
    int count;
    const part *parts;
} concat_state;

typedef struct concat_job {
    const concat_state *s;
    const nw_exec *e;
    const nw_step *step;
} concat_job;

static void concat_range(void *user, size_t begin, size_t end) {
    const concat_job *j = user;
    const concat_state *s = j->s;
    char *y = nw_exec_data(j->e, j->step->out[0]);
    for (int i = 0; i < s->count; i++) {
        const part *p = &s->parts[i];
        const char *x = (const char *)nw_exec_data(j->e, j->step->in[i]) + p->from.offset;
        for (size_t o = begin; o < end; o++) {
            if (p->same)
                memcpy(y + o * s->out_row + p->at, x + o * p->from.stride, p->row);
            else
                s->lookup(p->row, (const uint8_t *)x + o * p->from.stride, p->table,
                          (uint8_t *)y + o * s->out_row + p->at);
        }
    }
}

static nw_status run_concat(nw_exec *e, const nw_step *step) {
    concat_job job = {step->state, e, step};
    nw_exec_parallel(e, job.s->outer, 1, (double)(job.s->outer * job.s->out_row) / 16, concat_range, &job);
    return NW_OK;
}

/* The table from an input's grid to the result's. */
static void regrid(const nw_grid *g, const nw_follow *f, part *to) {
    to->same =
        g->scale == f->grid.scale && g->zero == f->grid.zero && f->code_lo <= g->lo && f->code_hi >= g->hi;
    for (int q = 0; q < 256; q++) {
        int32_t code = nw_grid_code(&f->grid, g->scale * (float)(q - g->zero));
        to->table[q] = (uint8_t)(code < f->code_lo ? f->code_lo : code > f->code_hi ? f->code_hi : code);
    }
}

static int64_t concat_axis(const nw_planner *p, const nw_node *node) {
    int64_t axis = nw_node_int(node, "axis", 1);
    return axis < 0 ? axis + p->desc[node->out[0]].rank : axis;
}

/* Whether v has codes of a static grid, or will have. */
static nw_status is_restricted(nw_planner *p, int v, bool *ok) {
    nw_grid grid;
    int n = p->uses.producer[v];
    *ok = nw_plan_on_grid(p, v);
    if (*ok || n < 0) return NW_OK;
    const nw_node *node = &p->graph->nodes[n];
    NW_TRY(nw_plan_fakequant_grid(p, node, &grid, ok));
    *ok = *ok && (p->desc[node->in[0]].format == NW_F32 || p->desc[node->in[0]].qparam);
    return NW_OK;
}

nw_status nw_plan_concat_place(nw_planner *p, int v, const nw_grid *grid, nw_strip *place) {
    *place = (nw_strip){.buffer = -1};
    const nw_node *concat = nw_plan_only_reader(p, v);
    if (!concat || !nw_node_is(concat, "Concat") || concat_axis(p, concat) != 1) return NW_OK;
    int y = concat->out[0];
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, y, true, &follow));
    if (p->desc[y].rank < 3 || !nw_grid_equal(&follow.grid, grid) || follow.code_lo != grid->lo ||
        follow.code_hi != grid->hi)
        return NW_OK;
    for (int i = 0; i < concat->in_count; i++) {
        bool ok = concat->in[i] >= 0;
        if (ok && concat->in[i] != v) NW_TRY(is_restricted(p, concat->in[i], &ok));
        if (!ok) return NW_OK;
    }
    place->stride = (size_t)p->desc[y].dims[1];
    for (int i = 0; concat->in[i] != v; i++) place->offset += (size_t)p->desc[concat->in[i]].dims[1];
    place->buffer = p->buffer[follow.value][NW_FORM_CODES_LAST];
    if (place->buffer < 0) NW_TRY(nw_plan_define(p, follow.value, NW_FORM_CODES_LAST, &place->buffer));
    p->strip[v] = *place;
    return NW_OK;
}

/* The grid that the result is on: a FakeQuant's behind it, or the inputs' if they have the same. scale 0: real numbers. */
static nw_status follow_concat(nw_planner *p, const nw_node *node, nw_follow *follow) {
    bool codes = true, one_grid = true;
    for (int i = 0; i < node->in_count; i++) {
        codes = codes && nw_plan_on_grid(p, node->in[i]);
        one_grid = one_grid && nw_grid_equal(&p->grid[node->in[i]], &p->grid[node->in[0]]);
    }
    *follow = (nw_follow){.value = node->out[0]};
    if (codes) NW_TRY(nw_plan_follow(p, node->out[0], true, follow));
    if (follow->grid.scale > 0) return NW_OK;
    *follow = (nw_follow){.value = node->out[0]};
    if (codes && one_grid) {
        follow->grid = p->grid[node->in[0]];
        follow->code_lo = follow->grid.lo;
        follow->code_hi = follow->grid.hi;
    }
    return NW_OK;
}

static nw_status lower_concat(nw_planner *p, nw_node *node, bool *ok) {
    const int rank = p->desc[node->out[0]].rank;
    const int64_t axis = concat_axis(p, node);
    bool f32 = true, last = false;
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i];
        if (v < 0) return NW_OK;
        f32 &= p->desc[v].format == NW_F32 || p->desc[v].qparam != NULL;
        last |= nw_plan_prefers_last(p, v);
    }
    if (!f32 || nw_tensor_count(&p->desc[node->out[0]]) == 0) return NW_OK;
    last &= rank >= 3;
    nw_follow follow;
    NW_TRY(follow_concat(p, node, &follow));
    const bool codes = follow.grid.scale > 0;
    const nw_form form = nw_form_of(codes, last);
    concat_state s = {.lookup = p->ew.lookup_u8};
    part *parts = nw_arena_array(&p->plan->arena, (size_t)node->in_count, sizeof *parts);
    int *in = nw_arena_array(&p->scratch, (size_t)node->in_count, sizeof *in), out[1];
    if (!parts || !in) return NW_E_MEMORY;
    int physical = last ? (axis == 0 ? 0 : axis == 1 ? rank - 1 : (int)axis - 1) : (int)axis;
    size_t size = codes ? 1 : 4;
    out[0] = codes && last ? p->buffer[follow.value][form] : -1; /* there if an input was made in its place */
    for (int i = 0; i < node->in_count; i++) {
        const int v = node->in[i];
        part *to = &parts[s.count];
        int64_t dims[NW_MAX_RANK];
        memcpy(dims, p->desc[v].dims, sizeof dims);
        if (last) nw_last_dims(&p->desc[v], dims);
        const size_t row = nw_dims_product(dims, physical, rank) * size, at = s.out_row;
        s.out_row += row;
        s.outer = nw_dims_product(dims, 0, physical);
        if (out[0] >= 0 && p->strip[v].buffer == out[0]) continue;
        *to = (part){.at = at, .row = row, .same = true, .from = {.stride = row}};
        if (last && axis == 1)
            NW_TRY(nw_plan_need_strip(p, v, codes, &to->from));
        else
            NW_TRY(nw_plan_need(p, v, form, &to->from.buffer));
        if (codes) regrid(&p->grid[v], &follow, to);
        in[s.count++] = to->from.buffer;
    }
    s.parts = parts;
    nw_plan_fuse(p, &follow);
    if (codes) p->grid[follow.value] = follow.grid;
    if (out[0] < 0) NW_TRY(nw_plan_define(p, follow.value, form, &out[0]));
    *ok = true;
    if (s.count == 0) return NW_OK;
    return nw_plan_step(p, node, run_concat, codes ? "concat of codes" : "concat", &s, sizeof s, s.count, in,
                        1, out);
}

nw_status nw_lower_move(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->in_count < 1 || node->in[0] < 0 || node->out_count < 1 || node->out[0] < 0) return NW_OK;
    if (node->op->flags & NW_OP_VIEW) return lower_view(p, node, ok);
    if (nw_node_is(node, "Concat")) return lower_concat(p, node, ok);
    nw_roles roles = nw_node_roles(node);
    return lower_codes(p, node, &roles, ok);
}
