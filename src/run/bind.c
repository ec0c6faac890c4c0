#include "run/bind.h"

#include <string.h>

#define FOLD_LIMIT  ((size_t)1 << 28)  /* bytes: a folded result larger than this is computed when running */
#define FOLD_GROWTH ((size_t)16 << 20) /* bytes: nor one much larger than what it is made from */

void nw_bind_call(nw_op_call *call, nw_context *ctx, const nw_graph *graph, const nw_node *node,
                  const nw_tensor **in, nw_tensor *out, nw_arena *scratch) {
    *call = (nw_op_call){.ctx = ctx,
                         .graph = graph,
                         .node = node,
                         .version = (int)nw_graph_opset(graph, node->domain),
                         .in_count = node->in_count,
                         .out_count = node->out_count,
                         .in = in,
                         .out = out,
                         .scratch = scratch};
}

/* A constant's description: packed storage keeps its qparam, so that evaluation sees real numbers. */
static void describe_values(nw_binding *b, const nw_tensor *inputs) {
    const nw_graph *g = b->graph;
    for (int v = 0; v < g->value_count; v++) {
        b->desc[v] = (nw_tensor){.format = NW_NONE};
        if (g->values[v].constant) b->desc[v] = g->values[v].constant->tensor;
    }
    for (int i = 0; i < g->input_count; i++) {
        int v = g->inputs[i];
        const nw_value *value = &g->values[v];
        if (value->constant) continue;
        if (inputs) {
            b->desc[v] = inputs[i];
            b->desc[v].data = NULL;
            continue;
        }
        bool known = value->format != NW_NONE && value->rank >= 0;
        for (int d = 0; d < value->rank; d++) known = known && value->dims[d] > 0;
        if (!known) continue;
        b->desc[v] = (nw_tensor){.format = value->format};
        nw_tensor_set_shape(&b->desc[v], value->rank, value->dims);
    }
}

static nw_status reserve(nw_binding *b) {
    if (b->desc_count >= b->graph->value_count) return NW_OK;
    nw_tensor *fresh = nw_arena_array(&b->arena, (size_t)b->graph->value_count, sizeof *fresh);
    if (!fresh) return NW_E_MEMORY;
    b->desc = fresh;
    b->desc_count = b->graph->value_count;
    return NW_OK;
}

/* Marks the free inputs that value v depends on; true when there is at least one and all are small enough to be part of a
 * plan's identity. */
#define SPECIALISE_LIMIT 256  /* elements */
#define SPECIALISE_DEPTH 4096 /* nodes in a chain: bounds the recursion */

static bool find_wanted(nw_binding *b, const nw_uses *uses, int v, uint8_t *seen, int depth, bool *small) {
    if (v < 0 || seen[v] || b->graph->values[v].constant) return false;
    seen[v] = 1;
    if (depth > SPECIALISE_DEPTH) *small = false;
    int maker = uses->producer[v];
    bool any = false;
    if (maker < 0) {
        if (b->desc[v].format == NW_NONE || nw_tensor_count(&b->desc[v]) > SPECIALISE_LIMIT) *small = false;
        b->wanted = v;
        return true;
    }
    const nw_node *node = &b->graph->nodes[maker];
    if (nw_node_has_subgraph(node)) *small = false;
    for (int i = 0; i < node->in_count && *small; i++)
        any |= find_wanted(b, uses, node->in[i], seen, depth + 1, small);
    return any;
}

/* A shape depends on a value: note which input would have to be known. Small ones become part of the plan. */
static nw_status want_value(nw_binding *b, const nw_node *node) {
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, b->graph));
    uint8_t *seen = nw_calloc(b->ctx, (size_t)b->graph->value_count + 1, 1);
    nw_status status = seen ? NW_OK : NW_E_MEMORY;
    int before = b->wanted;
    for (int i = 0; status == NW_OK && i < node->in_count; i++) {
        /* Which input was asked for is not told: data inputs (large) are skipped, they cannot be it. */
        int v = node->in[i];
        bool small = true;
        b->wanted = NW_ABSENT;
        if (v < 0 || b->desc[v].format == NW_NONE || nw_tensor_count(&b->desc[v]) > SPECIALISE_LIMIT)
            continue;
        if (find_wanted(b, &uses, v, seen, 0, &small) && small) break;
        b->wanted = NW_ABSENT;
    }
    if (b->wanted == NW_ABSENT) b->wanted = before;
    nw_free(b->ctx, seen);
    nw_uses_free(&uses);
    return status;
}

static bool all_known(const nw_node *node, const nw_tensor *const *in) {
    if (node->op->flags & NW_OP_SHAPE) return true;
    for (int i = 0; i < node->in_count; i++)
        if (in[i] && !in[i]->data && nw_tensor_count(in[i]) > 0) return false;
    return true;
}

static bool worth_folding(const nw_op_call *call) {
    size_t from = 0, to = 0;
    for (int i = 0; i < call->in_count; i++)
        if (call->in[i]) from += nw_tensor_bytes(call->in[i]);
    for (int i = 0; i < call->out_count; i++) to += nw_tensor_bytes(&call->out[i]);
    return to <= FOLD_LIMIT && to <= from * 2 + FOLD_GROWTH;
}

static nw_status fold(nw_binding *b, nw_node *node, nw_op_call *call) {
    for (int i = 0; i < call->out_count; i++)
        if (call->out[i].format != NW_NONE) NW_TRY(nw_tensor_alloc(call->scratch, &call->out[i]));
    NW_TRY(nw_op_eval(call));
    for (int i = 0; i < node->out_count; i++) {
        if (node->out[i] < 0) continue;
        NW_TRY(nw_graph_set_constant_copy(b->graph, node->out[i], &call->out[i]));
        b->desc[node->out[i]] = b->graph->values[node->out[i]].constant->tensor;
    }
    node->dead = true;
    return NW_OK;
}

/* Moving the elements of a packed constant moves its codes: it stays packed. Per-tensor grids only, which do not care where
 * an element goes. *ok false: not such a node. */
static nw_status fold_packed(nw_binding *b, nw_node *node, nw_op_call *call, bool *ok) {
    const nw_tensor *x = nw_call_in(call, 0);
    nw_roles roles = nw_node_roles(node);
    *ok = x && x->qparam && x->qparam->grain == NW_GRAIN_TENSOR && nw_format_bits(x->qparam->format) >= 8 &&
          (node->op->flags & NW_OP_VIEW || (node->op->flags & NW_OP_RAW && roles.same_grid));
    for (int i = 1; i < call->in_count; i++) *ok = *ok && !(call->in[i] && call->in[i]->qparam);
    if (!*ok) return NW_OK;
    const nw_tensor **in = nw_arena_array(call->scratch, (size_t)call->in_count, sizeof *in);
    nw_tensor codes = *x;
    if (!in) return NW_E_MEMORY;
    memcpy(in, call->in, (size_t)call->in_count * sizeof *in);
    codes.qparam = NULL;
    in[0] = &codes;
    call->in = in;
    for (int i = 0; i < call->out_count; i++) {
        call->out[i].format = codes.format;
        NW_TRY(nw_tensor_alloc(call->scratch, &call->out[i]));
    }
    NW_TRY(nw_op_eval(call));
    for (int i = 0; i < node->out_count; i++) {
        if (node->out[i] < 0) continue;
        call->out[i].qparam = x->qparam;
        NW_TRY(nw_graph_set_constant_copy(b->graph, node->out[i], &call->out[i]));
        b->desc[node->out[i]] = b->graph->values[node->out[i]].constant->tensor;
    }
    node->dead = true;
    return NW_OK;
}

/* The branch an If takes when its condition is known, else NULL. */
static const nw_graph *known_branch(const nw_binding *b, const nw_node *node) {
    if (strcmp(node->op_type, "If") != 0 || node->domain[0] || node->in_count < 1 || node->in[0] < 0)
        return NULL;
    const nw_tensor *cond = &b->desc[node->in[0]];
    if (!cond->data || nw_tensor_count(cond) != 1) return NULL;
    const nw_attr *branch = nw_node_attr(node, nw_tensor_s64(cond, 0) ? "then_branch" : "else_branch");
    return branch && branch->kind == NW_ATTR_GRAPH && branch->graph->input_count == 0 ? branch->graph : NULL;
}

static nw_status bind_node(nw_binding *b, int index, nw_arena *scratch) {
    nw_node *node = &b->graph->nodes[index];
    if (!node->op || nw_node_has_subgraph(node)) return NW_OK; /* outputs stay unknown */
    const nw_tensor **in = nw_arena_array(scratch, (size_t)node->in_count + 1, sizeof *in);
    nw_tensor *out = nw_arena_array(scratch, (size_t)node->out_count + 1, sizeof *out);
    if (!in || !out) return NW_E_MEMORY;
    for (int i = 0; i < node->in_count; i++) {
        in[i] = node->in[i] < 0 ? NULL : &b->desc[node->in[i]];
        if (in[i] && in[i]->format == NW_NONE) return NW_OK;
    }
    nw_op_call call;
    nw_bind_call(&call, b->ctx, b->graph, node, in, out, scratch);
    nw_status status = nw_op_infer(&call);
    if (status == NW_E_NEED_VALUE) return want_value(b, node);
    NW_TRY(status);
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] >= 0) b->desc[node->out[i]] = out[i];
    if (node->op->flags & NW_OP_RANDOM || !all_known(node, in) || !worth_folding(&call)) return NW_OK;
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] >= 0 && out[i].format == NW_NONE) return NW_OK;
    bool packed;
    NW_TRY(fold_packed(b, node, &call, &packed));
    return packed ? NW_OK : fold(b, node, &call);
}

/* One pass over the nodes; *again is set when the graph changed its structure (an If was replaced). */
static nw_status bind_pass(nw_binding *b, const nw_tensor *inputs, bool *again) {
    *again = false;
    NW_TRY(reserve(b));
    describe_values(b, inputs);
    nw_arena scratch;
    nw_arena_init(&scratch, b->ctx);
    nw_status status = NW_OK;
    for (int n = 0; n < b->graph->node_count && status == NW_OK && !*again; n++) {
        const nw_graph *branch = known_branch(b, &b->graph->nodes[n]);
        if (branch) {
            status = nw_graph_inline(b->graph, n, branch);
            *again = true;
        } else {
            status = bind_node(b, n, &scratch);
        }
        nw_arena_reset(&scratch);
    }
    nw_arena_free(&scratch);
    return status;
}

nw_status nw_bind(nw_graph *graph, const nw_tensor *inputs, nw_binding *out) {
    *out = (nw_binding){.ctx = graph->ctx, .graph = graph, .wanted = NW_ABSENT};
    nw_arena_init(&out->arena, graph->ctx);
    bool again = true;
    nw_status status = NW_OK;
    while (again && status == NW_OK) {
        out->wanted = NW_ABSENT;
        status = bind_pass(out, inputs, &again);
        if (status == NW_OK && again) status = nw_graph_resolve(graph); /* Identities of inlined outputs */
        if (status == NW_OK) status = nw_graph_prune(graph);
    }
    if (status != NW_OK) nw_binding_free(out);
    return status;
}

void nw_binding_free(nw_binding *binding) {
    nw_arena_free(&binding->arena);
    binding->desc = NULL;
}
