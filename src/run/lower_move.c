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

typedef struct concat_state {
    nw_lookup_u8_fn *lookup;
    size_t outer, out_row; /* bytes of a row of the result */
    int count;
    const size_t *row;     /* [count] bytes of a row of each input, */
    const nw_strip *from;  /* and where it lies in its buffer */
    const uint8_t *tables; /* [count][256] or NULL: plain copies */
    const uint8_t *copies; /* [count] 1: this input is on the result's grid already */
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
    size_t at = 0;
    for (int i = 0; i < s->count; at += s->row[i++]) {
        const char *x = (const char *)nw_exec_data(j->e, j->step->in[i]) + s->from[i].offset;
        size_t row = s->row[i], stride = s->from[i].stride;
        for (size_t o = begin; o < end; o++) {
            if (!s->tables || s->copies[i])
                memcpy(y + o * s->out_row + at, x + o * stride, row);
            else
                s->lookup(row, (const uint8_t *)x + o * stride, s->tables + (size_t)i * 256,
                          (uint8_t *)y + o * s->out_row + at);
        }
    }
}

static nw_status run_concat(nw_exec *e, const nw_step *step) {
    concat_job job = {step->state, e, step};
    nw_exec_parallel(e, job.s->outer, 1, (double)(job.s->outer * job.s->out_row) / 16, concat_range, &job);
    return NW_OK;
}

/* Tables from each input's grid to the result's. */
static nw_status regrid(nw_planner *p, const nw_node *node, const nw_follow *f, concat_state *s) {
    uint8_t *tables = nw_arena_alloc(&p->plan->arena, (size_t)s->count * 257);
    if (!tables) return NW_E_MEMORY;
    s->tables = tables;
    s->copies = tables + (size_t)s->count * 256;
    for (int i = 0; i < s->count; i++) {
        const nw_grid *g = &p->grid[node->in[i]];
        bool same = g->scale == f->grid.scale && g->zero == f->grid.zero && f->code_lo <= g->lo &&
                    f->code_hi >= g->hi;
        tables[(size_t)s->count * 256 + (size_t)i] = same;
        for (int q = 0; q < 256; q++) {
            int32_t code = nw_grid_code(&f->grid, g->scale * (float)(q - g->zero));
            tables[i * 256 + q] = (uint8_t)(code < f->code_lo   ? f->code_lo
                                            : code > f->code_hi ? f->code_hi
                                                                : code);
        }
    }
    return NW_OK;
}

static nw_status lower_concat(nw_planner *p, nw_node *node, bool *ok) {
    int y = node->out[0], rank = p->desc[y].rank;
    bool codes = true, f32 = true, last = false;
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i];
        if (v < 0) return NW_OK;
        codes &= nw_plan_on_grid(p, v);
        f32 &= p->desc[v].format == NW_F32 || p->desc[v].qparam != NULL;
        last |= nw_plan_prefers_last(p, v);
    }
    if (!f32 || nw_tensor_count(&p->desc[y]) == 0) return NW_OK;
    int64_t axis = nw_node_int(node, "axis", 1);
    if (axis < 0) axis += rank;
    last &= rank >= 3;
    nw_follow follow = {.value = y};
    if (codes) NW_TRY(nw_plan_follow(p, y, true, &follow));
    bool one_grid = codes;
    for (int i = 1; i < node->in_count; i++)
        one_grid = one_grid && nw_grid_equal(&p->grid[node->in[i]], &p->grid[node->in[0]]);
    if (codes && follow.grid.scale == 0) {
        follow = (nw_follow){.value = y};
        if (one_grid) {
            follow.grid = p->grid[node->in[0]];
            follow.code_lo = follow.grid.lo;
            follow.code_hi = follow.grid.hi;
        }
    }
    codes = follow.grid.scale > 0;
    if (!codes) follow = (nw_follow){.value = y};
    concat_state s = {.lookup = p->ew.lookup_u8, .count = node->in_count};
    size_t *row = nw_arena_array(&p->plan->arena, (size_t)node->in_count, sizeof *row);
    nw_strip *from = nw_arena_array(&p->plan->arena, (size_t)node->in_count, sizeof *from);
    int *in = nw_arena_array(&p->scratch, (size_t)node->in_count, sizeof *in), out[1];
    if (!row || !from || !in) return NW_E_MEMORY;
    int physical = last ? (axis == 0 ? 0 : axis == 1 ? rank - 1 : (int)axis - 1) : (int)axis;
    size_t size = codes ? 1 : 4;
    for (int i = 0; i < node->in_count; i++) {
        int64_t dims[NW_MAX_RANK];
        const nw_tensor *t = &p->desc[node->in[i]];
        if (last)
            nw_last_dims(t, dims);
        else
            memcpy(dims, t->dims, sizeof dims);
        row[i] = nw_dims_product(dims, physical, rank) * size;
        s.out_row += row[i];
        s.outer = nw_dims_product(dims, 0, physical);
        from[i] = (nw_strip){.stride = row[i]};
        if (last && axis == 1)
            NW_TRY(nw_plan_need_strip(p, node->in[i], codes, &from[i]));
        else
            NW_TRY(nw_plan_need(p, node->in[i], nw_form_of(codes, last), &from[i].buffer));
        in[i] = from[i].buffer;
    }
    s.row = row;
    s.from = from;
    if (codes) NW_TRY(regrid(p, node, &follow, &s));
    nw_plan_fuse(p, &follow);
    if (codes) p->grid[follow.value] = follow.grid;
    NW_TRY(nw_plan_define(p, follow.value, nw_form_of(codes, last), &out[0]));
    *ok = true;
    return nw_plan_step(p, node, run_concat, codes ? "concat of codes" : "concat", &s, sizeof s,
                        node->in_count, in, 1, out);
}

nw_status nw_lower_move(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->in_count < 1 || node->in[0] < 0 || node->out_count < 1 || node->out[0] < 0) return NW_OK;
    if (node->op->flags & NW_OP_VIEW) return lower_view(p, node, ok);
    if (nw_node_is(node, "Concat")) return lower_concat(p, node, ok);
    nw_roles roles = nw_node_roles(node);
    return lower_codes(p, node, &roles, ok);
}
