/* lower.c: the fallback of every node: its reference evaluation, in ONNX's order and real numbers (or, for operators that
 * only move elements, on the codes). */
#include "run/plan.h"

#include <string.h>

typedef struct eval_state {
    const nw_graph *graph;
    const nw_node *node;
    int version;
    int in_count, out_count;
    const nw_tensor *in, *out; /* as planned; data is filled in when running; format NW_NONE: absent */
} eval_state;

static nw_status run_eval(nw_exec *e, const nw_step *step) {
    const eval_state *s = step->state;
    nw_tensor *in = nw_arena_array(e->scratch, (size_t)s->in_count + 1, sizeof *in);
    const nw_tensor **in_ptr = nw_arena_array(e->scratch, (size_t)s->in_count + 1, sizeof *in_ptr);
    nw_tensor *out = nw_arena_array(e->scratch, (size_t)s->out_count + 1, sizeof *out);
    if (!in || !in_ptr || !out) return NW_E_MEMORY;
    for (int i = 0; i < s->in_count; i++) {
        in[i] = s->in[i];
        in[i].data = nw_exec_data(e, step->in[i]);
        in_ptr[i] = step->in[i] < 0 ? NULL : &in[i];
    }
    for (int i = 0; i < s->out_count; i++) {
        out[i] = s->out[i];
        out[i].data = nw_exec_data(e, step->out[i]);
    }
    nw_op_call call;
    nw_bind_call(&call, e->ctx, s->graph, s->node, in_ptr, out, e->scratch);
    return nw_op_eval(&call);
}

/* Tensors as the step sees them: dims of the buffers' own layout. */
static nw_status planned_tensors(nw_planner *p, const int *buffers, int count, const nw_tensor **out) {
    nw_tensor *list = nw_arena_array(&p->plan->arena, (size_t)count + 1, sizeof *list);
    if (!list) return NW_E_MEMORY;
    for (int i = 0; i < count; i++)
        list[i] = buffers[i] < 0 ? (nw_tensor){.format = NW_NONE} : p->plan->buffers[buffers[i]].tensor;
    *out = list;
    return NW_OK;
}

nw_status nw_plan_eval_step(nw_planner *p, const nw_node *node, const int *in, const int *out) {
    eval_state s = {
        .graph = p->graph, .node = node, .in_count = node->in_count, .out_count = node->out_count};
    NW_TRY(planned_tensors(p, in, node->in_count, &s.in));
    NW_TRY(planned_tensors(p, out, node->out_count, &s.out));
    return nw_plan_step(p, node, run_eval, "reference", &s, sizeof s, node->in_count, in, node->out_count,
                        out);
}

/* Values of the enclosing graph that the subgraphs of a node read, as buffers. */
static nw_status outer_reads(nw_planner *p, const nw_node *node, nw_late_state *s) {
    int count = 0;
    int *values = NULL, *buffers = NULL;
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        count = 0;
        for (int a = 0; a < node->attr_count; a++) {
            const nw_attr *attr = &node->attrs[a];
            size_t graphs = attr->kind == NW_ATTR_GRAPH ? 1 : attr->kind == NW_ATTR_GRAPHS ? attr->count : 0;
            for (size_t i = 0; i < graphs; i++) {
                const nw_graph *sub = attr->kind == NW_ATTR_GRAPH ? attr->graph : attr->graphs[i];
                for (int v = 0; v < sub->value_count; v++) {
                    if (sub->values[v].outer < 0) continue;
                    if (pass) {
                        values[count] = sub->values[v].outer;
                        NW_TRY(nw_plan_need(p, values[count], NW_FORM_REAL, &buffers[count]));
                    }
                    count++;
                }
            }
        }
        if (pass) break;
        values = nw_arena_array(&p->plan->arena, (size_t)count + 1, sizeof *values);
        buffers = nw_arena_array(&p->plan->arena, (size_t)count + 1, sizeof *buffers);
        if (!values || !buffers) return NW_E_MEMORY;
    }
    s->outer_values = values;
    s->outer_buffers = buffers;
    s->outer_count = count;
    return NW_OK;
}

static nw_status lower_late(nw_planner *p, nw_node *node, const int *in, int *out) {
    nw_late_state s = {.graph = p->graph, .node = node, .out_count = node->out_count};
    NW_TRY(outer_reads(p, node, &s));
    for (int i = 0; i < node->out_count; i++) {
        out[i] = -1;
        if (node->out[i] < 0) continue;
        NW_TRY(nw_plan_define(p, node->out[i], NW_FORM_REAL, &out[i]));
        p->plan->buffers[out[i]].kind = NW_BUFFER_LATE;
    }
    int reads = node->in_count + s.outer_count;
    int *all = nw_arena_array(&p->scratch, (size_t)reads + 1, sizeof *all);
    if (!all) return NW_E_MEMORY;
    memcpy(all, in, (size_t)node->in_count * sizeof *all);
    memcpy(all + node->in_count, s.outer_buffers, (size_t)s.outer_count * sizeof *all);
    NW_TRY(nw_plan_step(p, node, nw_late_run, "at run time", &s, sizeof s, reads, all, node->out_count, out));
    nw_plan_reason(p, nw_node_has_subgraph(node) ? "control flow" : "its shape is known only when it runs");
    return NW_OK;
}

nw_status nw_lower_eval(nw_planner *p, nw_node *node) {
    int *in = nw_arena_array(&p->scratch, (size_t)node->in_count + 1, sizeof *in);
    int *out = nw_arena_array(&p->scratch, (size_t)node->out_count + 1, sizeof *out);
    if (!in || !out) return NW_E_MEMORY;
    bool late = nw_node_has_subgraph(node);
    for (int i = 0; i < node->in_count; i++) {
        in[i] = -1;
        if (node->in[i] < 0) continue;
        late |= p->desc[node->in[i]].format == NW_NONE;
        NW_TRY(nw_plan_need(p, node->in[i], NW_FORM_REAL, &in[i]));
    }
    for (int i = 0; i < node->out_count; i++)
        late |= node->out[i] >= 0 && p->desc[node->out[i]].format == NW_NONE;
    if (late) return lower_late(p, node, in, out);
    for (int i = 0; i < node->out_count; i++) {
        out[i] = -1;
        if (node->out[i] >= 0) NW_TRY(nw_plan_define(p, node->out[i], NW_FORM_REAL, &out[i]));
    }
    return nw_plan_eval_step(p, node, in, out);
}
