/* plan.c: making a plan: binding, the walk over the nodes, memory. */
#include "run/plan.h"
#include "run/recognize.h"

#include <string.h>

nw_status nw_plan_call(nw_planner *p, const nw_node *node, nw_op_call *call) {
    const nw_tensor **in = nw_arena_array(&p->scratch, (size_t)node->in_count + 1, sizeof *in);
    nw_tensor *out = nw_arena_array(&p->scratch, (size_t)node->out_count + 1, sizeof *out);
    if (!in || !out) return NW_E_MEMORY;
    for (int i = 0; i < node->in_count; i++) in[i] = node->in[i] < 0 ? NULL : &p->desc[node->in[i]];
    nw_bind_call(call, p->ctx, p->graph, node, in, out, &p->scratch);
    return NW_OK;
}

/* ---- steps that nobody reads ------------------------------------------------------------------------------------ */

static int root_of(const nw_plan *plan, int b) {
    while (b >= 0 && plan->buffers[b].alias >= 0) b = plan->buffers[b].alias;
    return b;
}

/* Steps without outputs (taps) stay; so does what they and the graph's outputs need. */
static nw_status drop_unread(nw_planner *p) {
    nw_plan *plan = p->plan;
    uint8_t *needed = nw_arena_alloc(&p->scratch, (size_t)plan->buffer_count + 1);
    if (!needed) return NW_E_MEMORY;
    for (int i = 0; i < plan->graph->output_count; i++) needed[root_of(plan, plan->outputs[i])] = 1;
    for (int i = plan->step_count - 1; i >= 0; i--) {
        nw_step *step = &plan->steps[i];
        bool read = step->out_count == 0;
        for (int o = 0; o < step->out_count; o++)
            read |= step->out[o] >= 0 && needed[root_of(plan, step->out[o])];
        if (!read) {
            step->run = NULL;
            step->kernel = "(left out)";
        }
        for (int k = 0; read && k < step->in_count; k++)
            if (step->in[k] >= 0) needed[root_of(plan, step->in[k])] = 1;
    }
    return NW_OK;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

/* Greedy by size: the largest buffers first, each at the lowest offset where it overlaps none that lives at the same time. */
static nw_status place_buffers(nw_planner *p) {
    nw_plan *plan = p->plan;
    int *order = nw_arena_array(&p->scratch, (size_t)plan->buffer_count + 1, sizeof *order);
    int *placed = nw_arena_array(&p->scratch, (size_t)plan->buffer_count + 1, sizeof *placed);
    if (!order || !placed) return NW_E_MEMORY;
    int count = 0, placed_count = 0;
    for (int b = 0; b < plan->buffer_count; b++)
        if (plan->buffers[b].kind == NW_BUFFER_WORK && plan->buffers[b].alias < 0) order[count++] = b;
    for (int gap = count / 2; gap > 0;
         gap /= 2) /* shell sort, by bytes descending, then by id: deterministic */
        for (int i = gap; i < count; i++)
            for (int j = i; j >= gap; j -= gap) {
                size_t a = plan->buffers[order[j - gap]].bytes, b = plan->buffers[order[j]].bytes;
                if (a > b || (a == b && order[j - gap] < order[j])) break;
                int t = order[j];
                order[j] = order[j - gap];
                order[j - gap] = t;
            }
    for (int i = 0; i < count; i++) {
        nw_buffer *b = &plan->buffers[order[i]];
        size_t need = nw_align_size(b->bytes + NW_PLAN_SLACK), at = 0;
        int k = 0; /* placed[] is kept in order of offset */
        for (; k < placed_count; k++) {
            const nw_buffer *o = &plan->buffers[placed[k]];
            if (o->last < b->first || o->first > b->last) continue;
            if (o->offset >= at + need) break;
            size_t end = o->offset + nw_align_size(o->bytes + NW_PLAN_SLACK);
            if (end > at) at = end;
        }
        b->offset = at;
        int slot = placed_count++;
        for (; slot > 0 && plan->buffers[placed[slot - 1]].offset > at; slot--)
            placed[slot] = placed[slot - 1];
        placed[slot] = order[i];
        if (at + need > plan->workspace) plan->workspace = at + need;
    }
    return NW_OK;
}

/* ---- making a plan --------------------------------------------------------------------------------------------- */

typedef struct tap_state {
    int value;
    bool last;
} tap_state;

static nw_status run_tap(nw_exec *e, const nw_step *step) {
    const tap_state *s = step->state;
    if (!e->tap) return NW_OK;
    nw_tensor t = nw_exec_tensor(e, step->in[0]);
    e->tap(e->tap_user, s->value, &t, s->last);
    return NW_OK;
}

static nw_status add_taps(nw_planner *p, const int *values, int count) {
    for (int i = 0; i < count; i++) {
        int v = values[i];
        if (v < 0 || !nw_plan_tapped(p, v)) continue;
        bool last = p->taps->any_layout && p->desc[v].rank > 2 && !nw_plan_has(p, v, NW_FORM_REAL) &&
                    nw_plan_has(p, v, NW_FORM_REAL_LAST);
        tap_state s = {v, last};
        int in[1];
        NW_TRY(nw_plan_need(p, v, nw_form_of(false, last), &in[0]));
        NW_TRY(nw_plan_step(p, NULL, run_tap, "tap", &s, sizeof s, 1, in, 0, NULL));
    }
    return NW_OK;
}

static nw_status lower_node(nw_planner *p, nw_node *node) {
    static nw_status (*const families[])(nw_planner *, nw_node *, bool *) = {
        nw_lower_fakequant,      nw_lower_real_fakequant, nw_lower_dynamic, nw_lower_conv,
        nw_lower_conv_transpose, nw_lower_outer,          nw_lower_matmul,  nw_lower_norm,
        nw_lower_pool,           nw_lower_grad,           nw_lower_gather,  nw_lower_channels,
        nw_lower_move,           nw_lower_elementwise,    nw_lower_rows,    nw_lower_rnn,
        nw_lower_attention};
    bool ok = false;
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0 && p->desc[node->in[i]].format == NW_NONE) return nw_lower_eval(p, node);
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] >= 0 && p->desc[node->out[i]].format == NW_NONE) return nw_lower_eval(p, node);
    for (size_t f = 0; f < sizeof families / sizeof *families && !ok && !p->options->reference; f++)
        NW_TRY(families[f](p, node, &ok));
    return ok ? NW_OK : nw_lower_eval(p, node);
}

static nw_status lower_graph(nw_planner *p) {
    nw_graph *g = p->graph;
    for (int i = 0; i < g->input_count; i++)
        if (!g->values[g->inputs[i]].constant) NW_TRY(nw_plan_define_input(p, i));
    NW_TRY(add_taps(p, g->inputs, g->input_count));
    for (int n = 0; n < g->node_count; n++) {
        nw_node *node = &g->nodes[n];
        if (p->done[n] || node->dead) continue;
        p->done[n] = 1;
        p->fused = NW_ABSENT;
        NW_TRY(lower_node(p, node));
        NW_TRY(add_taps(p, node->out, node->out_count));
        if (p->fused >= 0 && p->fused != node->out[0]) NW_TRY(add_taps(p, &p->fused, 1));
        nw_arena_reset(&p->scratch);
    }
    p->plan->outputs = nw_arena_array(&p->plan->arena, (size_t)g->output_count + 1, sizeof(int));
    if (!p->plan->outputs) return NW_E_MEMORY;
    for (int i = 0; i < g->output_count; i++) {
        NW_TRY(nw_plan_need(p, g->outputs[i], NW_FORM_REAL, &p->plan->outputs[i]));
    }
    for (int i = 0; i < g->output_count; i++) nw_plan_touch(p, p->plan->outputs[i]); /* alive to the end */
    NW_TRY(drop_unread(p));
    return place_buffers(p);
}

static nw_status init_planner(nw_planner *p, nw_plan *plan, const nw_binding *binding, const nw_taps *taps,
                              const nw_run_options *options) {
    size_t values = (size_t)plan->graph->value_count + 1;
    *p = (nw_planner){.ctx = plan->ctx,
                      .plan = plan,
                      .graph = plan->graph,
                      .desc = binding->desc,
                      .options = options,
                      .taps = taps};
    nw_arena_init(&p->scratch, p->ctx);
    nw_elementwise_select(options->isa, &p->ew);
    nw_layout_select(options->isa, &p->layout);
    nw_pool_select(options->isa, &p->pools);
    NW_TRY(nw_uses_init(&p->uses, p->graph));
    p->done = nw_calloc(p->ctx, (size_t)p->graph->node_count + 1, 1);
    p->buffer = nw_calloc(p->ctx, values, sizeof *p->buffer);
    p->grid = nw_calloc(p->ctx, values, sizeof *p->grid);
    p->strip = nw_calloc(p->ctx, values, sizeof *p->strip);
    p->row_grid = nw_calloc(p->ctx, values, sizeof *p->row_grid);
    p->one_row_grid = nw_calloc(p->ctx, values, sizeof *p->one_row_grid);
    p->statistics = nw_calloc(p->ctx, values, sizeof *p->statistics);
    p->normal = nw_calloc(p->ctx, values, sizeof *p->normal);
    if (!p->done || !p->buffer || !p->grid || !p->strip || !p->row_grid || !p->one_row_grid ||
        !p->statistics || !p->normal)
        return NW_E_MEMORY;
    memset(p->statistics, 0xff, values * sizeof *p->statistics);
    memset(p->normal, 0xff, values * sizeof *p->normal);
    memset(p->row_grid, 0xff, values * sizeof *p->row_grid);
    memset(p->strip, 0xff, values * sizeof *p->strip);
    memset(p->buffer, 0xff, values * sizeof *p->buffer);
    for (int v = 0; v < p->graph->value_count; v++) { /* packed 8-bit constants lie on a grid */
        const nw_tensor *t = &p->desc[v];
        const nw_qparam *q = t->qparam;
        if (!q || q->grain != NW_GRAIN_TENSOR || (q->format != NW_U8 && q->format != NW_S8)) continue;
        int32_t shift = q->format == NW_S8 ? 128 : 0;
        p->grid[v] =
            (nw_grid){nw_qparam_scale(q, 0), nw_qparam_zero(q, 0) + shift, q->qmin + shift, q->qmax + shift};
    }
    return NW_OK;
}

static void free_planner(nw_planner *p) { /* one of zeros is fine */
    nw_uses_free(&p->uses);
    nw_free(p->ctx, p->done);
    nw_free(p->ctx, p->buffer);
    nw_free(p->ctx, p->grid);
    nw_free(p->ctx, p->strip);
    nw_free(p->ctx, p->row_grid);
    nw_free(p->ctx, p->one_row_grid);
    nw_free(p->ctx, p->statistics);
    nw_free(p->ctx, p->normal);
    nw_arena_free(&p->scratch);
}

/* Remembers what the plan was made for. */
static nw_status keep_identity(nw_plan *plan, int count, const nw_tensor *inputs, const uint8_t *fixed) {
    plan->input_count = count;
    plan->inputs = nw_arena_array(&plan->arena, (size_t)count + 1, sizeof *plan->inputs);
    if (!plan->inputs) return NW_E_MEMORY;
    for (int i = 0; i < count; i++) {
        nw_tensor *t = &plan->inputs[i];
        *t = inputs[i];
        t->data = NULL;
        if (!fixed[i]) continue;
        NW_TRY(nw_tensor_alloc(&plan->arena, t));
        memcpy(t->data, inputs[i].data, nw_tensor_bytes(t));
    }
    return NW_OK;
}

/* Binds a copy of the graph; when a shape turns out to depend on the value of a small input, that value becomes part of the
 * plan and binding starts over. */
static nw_status bind_copy(nw_context *ctx, const nw_graph *graph, int count, const nw_tensor *inputs,
                           uint8_t *fixed, nw_graph **copy, nw_binding *binding) {
    for (;;) {
        NW_TRY(nw_graph_copy(graph, ctx, copy));
        nw_status status = nw_graph_resolve(*copy);
        for (int i = 0; i < count && status == NW_OK; i++)
            if (fixed[i]) status = nw_graph_set_constant_copy(*copy, (*copy)->inputs[i], &inputs[i]);
        if (status == NW_OK) status = nw_bind(*copy, inputs, binding);
        if (status == NW_OK && binding->wanted == NW_ABSENT) return NW_OK;
        int wanted = status == NW_OK ? binding->wanted : NW_ABSENT, index = -1;
        for (int i = 0; i < count; i++)
            if ((*copy)->inputs[i] == wanted && !fixed[i]) index = i;
        if (status == NW_OK && index < 0) return NW_OK; /* cannot be had: those nodes run late */
        if (status == NW_OK) nw_binding_free(binding);
        nw_graph_free(*copy);
        *copy = NULL;
        NW_TRY(status);
        fixed[index] = 1;
    }
}

nw_status nw_plan_make(nw_context *ctx, const nw_graph *graph, int input_count, const nw_tensor *inputs,
                       const nw_taps *taps, const nw_run_options *options, nw_plan **out) {
    nw_plan *plan = nw_calloc(ctx, 1, sizeof *plan);
    uint8_t *fixed = nw_calloc(ctx, (size_t)input_count + 1, 1);
    if (!plan || !fixed) {
        nw_free(ctx, plan);
        nw_free(ctx, fixed);
        return NW_E_MEMORY;
    }
    plan->ctx = ctx;
    nw_arena_init(&plan->arena, ctx);
    nw_binding binding;
    nw_status status = bind_copy(ctx, graph, input_count, inputs, fixed, &plan->graph, &binding);
    if (status == NW_OK) {
        nw_planner planner;
        if (!options->reference) status = nw_recognize(plan->graph, binding.desc, taps);
        if (status == NW_OK)
            status = init_planner(&planner, plan, &binding, taps, options);
        else
            planner = (nw_planner){.ctx = ctx, .uses = {.ctx = ctx}};
        if (status == NW_OK) status = lower_graph(&planner);
        free_planner(&planner);
        nw_binding_free(&binding);
    }
    if (status == NW_OK) status = keep_identity(plan, input_count, inputs, fixed);
    plan->step_ms = nw_arena_array(&plan->arena, (size_t)plan->step_count + 1, sizeof *plan->step_ms);
    if (status == NW_OK && !plan->step_ms) status = NW_E_MEMORY;
    nw_free(ctx, fixed);
    if (status != NW_OK)
        nw_plan_free(plan);
    else
        *out = plan;
    return status;
}

void nw_plan_free(nw_plan *plan) {
    if (!plan) return;
    nw_graph_free(plan->graph);
    nw_arena_free(&plan->arena);
    nw_free(plan->ctx, plan);
}
