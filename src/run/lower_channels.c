/* lower_channels.c: what moves channels without leaving channels-last: shuffles (Reshape to groups, Transpose, Reshape back),
 * and Slice and Split along the channels, which copy nothing. */
#include "run/plan.h"

#include <string.h>

/* ---- shuffles -------------------------------------------------------------------------------------------------- */

typedef struct shuffle_state {
    nw_shuffle_fn *shuffle;
    size_t pixels, groups, n, pixel; /* pixel: bytes */
} shuffle_state;

typedef struct shuffle_job {
    const shuffle_state *s;
    const char *x;
    char *y;
} shuffle_job;

static void shuffle_range(void *user, size_t begin, size_t end) {
    const shuffle_job *j = user;
    const shuffle_state *s = j->s;
    s->shuffle(end - begin, s->groups, s->n, j->x + begin * s->pixel, j->y + begin * s->pixel);
}

static nw_status run_shuffle(nw_exec *e, const nw_step *step) {
    const shuffle_state *s = step->state;
    shuffle_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->pixels, 1, (double)(s->pixels * s->pixel) / 30, shuffle_range, &job);
    return NW_OK;
}

/* The node that reads v alone, behind FakeQuants that change nothing as its codes lie on their grid; those are added to
 * nodes[*count] as well. NULL: there is none. */
static nw_status reader_of(nw_planner *p, int v, const nw_grid *grid, int *nodes, int *count, nw_node **out) {
    *out = NULL;
    for (int copies = 0; copies < 2; copies++) {
        nw_node *next = nw_plan_only_reader(p, v);
        nw_grid own;
        bool ok = false;
        if (next) NW_TRY(nw_plan_fakequant_grid(p, next, &own, &ok));
        if (!next || (ok && (copies == 1 || !nw_grid_equal(&own, grid)))) return NW_OK;
        nodes[(*count)++] = (int)(next - p->graph->nodes);
        if (!ok) {
            *out = next;
            return NW_OK;
        }
        v = next->out[0];
    }
    return NW_OK;
}

/* y is x [N,C,…] as [N,groups,C/groups,…]. */
static bool splits_channels(const nw_tensor *x, const nw_tensor *y) {
    if (x->rank < 3 || x->rank + 1 > NW_MAX_RANK || y->rank != x->rank + 1 || x->dims[0] != y->dims[0] ||
        y->dims[1] * y->dims[2] != x->dims[1])
        return false;
    return memcmp(x->dims + 2, y->dims + 3, (size_t)(x->rank - 2) * sizeof *x->dims) == 0;
}

/* perm exchanges axes 1 and 2. */
static bool exchanges_groups(const nw_node *transpose, int rank) {
    const int64_t *perm;
    size_t count;
    if (!nw_node_ints(transpose, "perm", &perm, &count) || count != (size_t)rank) return false;
    for (int d = 0; d < rank; d++)
        if (perm[d] != (d == 1 ? 2 : d == 2 ? 1 : d)) return false;
    return true;
}

static nw_status lower_shuffle(nw_planner *p, nw_node *node, bool *ok) {
    int x = node->in[0], nodes[6], count = 0;
    const nw_tensor *t = &p->desc[x], *split = &p->desc[node->out[0]];
    if (!nw_plan_prefers_last(p, x) || !splits_channels(t, split) || nw_tensor_count(t) == 0) return NW_OK;
    const bool codes = nw_plan_on_grid(p, x);
    nw_node *transpose, *join = NULL;
    NW_TRY(reader_of(p, node->out[0], &p->grid[x], nodes, &count, &transpose));
    if (!transpose || !nw_node_is(transpose, "Transpose") || !exchanges_groups(transpose, split->rank))
        return NW_OK;
    NW_TRY(reader_of(p, transpose->out[0], &p->grid[x], nodes, &count, &join));
    if (!join || !nw_node_is(join, "Reshape") || !nw_tensor_same_shape(t, &p->desc[join->out[0]]))
        return NW_OK;
    int y = join->out[0], in[1], out[1];
    shuffle_state s = {.shuffle = codes ? p->layout.shuffle_b8 : p->layout.shuffle_b32,
                       .pixels = nw_tensor_count(t) / (size_t)t->dims[1],
                       .groups = (size_t)split->dims[1],
                       .n = (size_t)split->dims[2],
                       .pixel = (size_t)t->dims[1] * (codes ? 1 : sizeof(float))};
    for (int i = 0; i < count; i++) p->done[nodes[i]] = 1;
    if (codes) p->grid[y] = p->grid[x];
    p->fused = y;
    NW_TRY(nw_plan_need(p, x, nw_form_of(codes, true), &in[0]));
    NW_TRY(nw_plan_define(p, y, nw_form_of(codes, true), &out[0]));
    *ok = true;
    return NW_PLAN_STEP(p, node, run_shuffle, "channel shuffle", &s, in, out);
}

/* ---- slices ---------------------------------------------------------------------------------------------------- */

/* Channels of x from `first` on become v. */
static nw_status define_strip(nw_planner *p, int x, int64_t first, int v) {
    const bool codes = nw_plan_on_grid(p, x);
    nw_strip strip;
    NW_TRY(nw_plan_need_strip(p, x, codes, &strip));
    strip.offset += (size_t)first * (codes ? 1 : sizeof(float));
    p->strip[v] = strip;
    if (codes) p->grid[v] = p->grid[x];
    return NW_OK;
}

/* The one element of a constant of integers. */
static bool integer(const nw_planner *p, int v, int64_t *value) {
    const nw_constant *c = nw_graph_constant(p->graph, v);
    if (!c || !nw_format_is_integer(c->tensor.format) || nw_tensor_count(&c->tensor) != 1) return false;
    *value = nw_tensor_s64(&c->tensor, 0);
    return true;
}

static nw_status lower_slice(nw_planner *p, nw_node *node, bool *ok) {
    int x = node->in[0];
    const int64_t dim = p->desc[x].dims[1];
    int64_t start, axis, step = 1;
    if (!integer(p, nw_node_in(node, 1), &start) || !integer(p, nw_node_in(node, 3), &axis)) return NW_OK;
    if (nw_node_in(node, 4) >= 0 && !integer(p, node->in[4], &step)) return NW_OK;
    if (step != 1 || (axis != 1 && axis != 1 - p->desc[x].rank)) return NW_OK;
    if (start < 0) start += dim;
    if (start < 0) start = 0;
    *ok = true;
    return define_strip(p, x, start, node->out[0]);
}

static nw_status lower_split(nw_planner *p, nw_node *node, bool *ok) {
    int x = node->in[0];
    int64_t axis = nw_node_int(node, "axis", 0), first = 0;
    if (axis != 1 && axis != 1 - p->desc[x].rank) return NW_OK;
    *ok = true;
    for (int i = 0; i < node->out_count; i++) {
        if (node->out[i] < 0) return NW_OK; /* the sizes of those behind are unknown */
        NW_TRY(define_strip(p, x, first, node->out[i]));
        first += p->desc[node->out[i]].dims[1];
    }
    return NW_OK;
}

nw_status nw_lower_channels(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->in_count < 1 || node->in[0] < 0 || node->out_count < 1 || node->out[0] < 0) return NW_OK;
    int x = node->in[0];
    if (nw_node_is(node, "Reshape")) return lower_shuffle(p, node, ok);
    const bool real = p->desc[x].format == NW_F32 || p->desc[x].qparam;
    if (!nw_plan_prefers_last(p, x) || !real || nw_tensor_count(&p->desc[node->out[0]]) == 0) return NW_OK;
    if (nw_node_is(node, "Slice")) return lower_slice(p, node, ok);
    return nw_node_is(node, "Split") ? lower_split(p, node, ok) : NW_OK;
}
