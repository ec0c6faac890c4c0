/* late.c: what can only be decided while running: nodes whose shapes depend on computed values, and control flow. It
 * infers, allocates and evaluates node by node. */
#include "run/plan.h"

#include <string.h>

/* The values of one graph while it is interpreted; the enclosing graph's are found through `outer`. */
typedef struct scope {
    nw_context *ctx;
    const nw_graph *graph;
    nw_tensor *values; /* [value_count]; format NW_NONE: not computed */
    const struct scope *outer;
    nw_arena *arena; /* of the values */
} scope;

static const nw_tensor *value_of(const scope *s, int id) {
    for (; s; s = s->outer) {
        if (s->values[id].format != NW_NONE) return &s->values[id];
        const nw_value *v = &s->graph->values[id];
        if (v->constant) return &v->constant->tensor;
        if (v->outer < 0) return NULL;
        id = v->outer;
    }
    return NULL;
}

static nw_status run_subgraph(const nw_op_call *call, const nw_graph *sub, int in_count, const nw_tensor *in,
                              nw_tensor **outputs);

/* Outputs into the scope's arena. Control flow has run its subgraphs to learn its shapes, and left the results in out: they are
 * not computed again. */
static nw_status keep_results(scope *s, const nw_node *node, nw_op_call *call) {
    bool computed = nw_node_has_subgraph(node);
    for (int i = 0; i < node->out_count; i++) computed = computed && (node->out[i] < 0 || call->out[i].data);
    for (int i = 0; i < node->out_count; i++) {
        if (node->out[i] < 0) continue;
        const void *data = call->out[i].data;
        NW_TRY(nw_tensor_alloc(s->arena, &call->out[i]));
        size_t bytes = nw_tensor_bytes(&call->out[i]);
        if (computed && bytes) memcpy(call->out[i].data, data, bytes);
    }
    return computed ? NW_OK : nw_op_eval(call);
}

static nw_status evaluate(scope *s, const nw_node *node, nw_tensor *out) {
    nw_arena scratch;
    nw_arena_init(&scratch, s->ctx);
    nw_status status = NW_OK;
    const nw_tensor **in = nw_arena_array(&scratch, (size_t)node->in_count + 1, sizeof *in);
    if (!in) return NW_E_MEMORY;
    for (int i = 0; i < node->in_count && status == NW_OK; i++) {
        if (node->in[i] < 0) continue;
        in[i] = value_of(s, node->in[i]);
        if (!in[i])
            status = nw_fail(s->ctx, NW_E_INTERNAL, "%s \"%s\": input %d has not been computed",
                             node->op_type, nw_node_label(s->graph, node), i);
    }
    nw_op_call call;
    nw_bind_call(&call, s->ctx, s->graph, node, in, out, &scratch);
    call.run_subgraph = run_subgraph;
    call.runtime = s;
    if (status == NW_OK) status = nw_op_infer(&call);
    if (status == NW_E_NEED_VALUE)
        status =
            nw_fail(s->ctx, NW_E_UNSUPPORTED, "%s \"%s\": %s", node->op_type, nw_node_label(s->graph, node),
                    "its shape cannot be found even with all values known");
    if (status == NW_OK) status = keep_results(s, node, &call);
    nw_arena_free(&scratch);
    return status;
}

static nw_status run_graph(scope *s) {
    for (int n = 0; n < s->graph->node_count; n++) {
        const nw_node *node = &s->graph->nodes[n];
        nw_tensor *out = nw_arena_array(s->arena, (size_t)node->out_count + 1, sizeof *out);
        if (!out) return NW_E_MEMORY;
        NW_TRY(evaluate(s, node, out));
        for (int i = 0; i < node->out_count; i++)
            if (node->out[i] >= 0) s->values[node->out[i]] = out[i];
    }
    return NW_OK;
}

static nw_status run_subgraph(const nw_op_call *call, const nw_graph *sub, int in_count, const nw_tensor *in,
                              nw_tensor **outputs) {
    const scope *outer = call->runtime;
    scope s = {.ctx = call->ctx, .graph = sub, .outer = outer, .arena = call->scratch};
    s.values = nw_arena_array(s.arena, (size_t)sub->value_count + 1, sizeof *s.values);
    *outputs = nw_arena_array(s.arena, (size_t)sub->output_count + 1, sizeof **outputs);
    if (!s.values || !*outputs) return NW_E_MEMORY;
    if (in_count != sub->input_count)
        return nw_fail(call->ctx, NW_E_FORMAT, "the subgraph \"%s\" has %d inputs, %d were given", sub->name,
                       sub->input_count, in_count);
    for (int i = 0; i < in_count; i++) s.values[sub->inputs[i]] = in[i];
    NW_TRY(run_graph(&s));
    for (int i = 0; i < sub->output_count; i++) {
        const nw_tensor *t = value_of(&s, sub->outputs[i]);
        if (!t)
            return nw_fail(call->ctx, NW_E_INTERNAL, "subgraph \"%s\": output %d was not computed", sub->name,
                           i);
        if (t->qparam)
            NW_TRY(nw_tensor_to_f32(s.arena, t, &(*outputs)[i]));
        else
            (*outputs)[i] = *t;
    }
    return NW_OK;
}

nw_status nw_late_run(nw_exec *e, const nw_step *step) {
    const nw_late_state *late = step->state;
    const nw_node *node = late->node;
    scope s = {.ctx = e->ctx, .graph = late->graph, .arena = e->kept};
    s.values = nw_arena_array(e->scratch, (size_t)late->graph->value_count + 1, sizeof *s.values);
    nw_tensor *out = nw_arena_array(e->kept, (size_t)node->out_count + 1, sizeof *out);
    if (!s.values || !out) return NW_E_MEMORY;
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0) s.values[node->in[i]] = nw_exec_tensor(e, step->in[i]);
    for (int i = 0; i < late->outer_count; i++)
        s.values[late->outer_values[i]] = nw_exec_tensor(e, late->outer_buffers[i]);
    NW_TRY(evaluate(&s, node, out));
    for (int i = 0; i < node->out_count; i++) {
        if (step->out[i] < 0) continue;
        e->late[step->out[i]] = out[i];
        e->data[step->out[i]] = out[i].data;
    }
    return NW_OK;
}
