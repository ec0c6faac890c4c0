/* dequantize.c: a quantized graph back to real numbers. */
#include "op/quantize.h"
#include "quant/quant.h"

#include <string.h>

/* Packed constants become the numbers they mean. */
static nw_status expand_constants(nw_graph *g, size_t *weights) {
    for (int v = 0; v < g->value_count; v++) {
        const nw_constant *c = g->values[v].constant;
        if (!c || !c->tensor.qparam) continue;
        nw_arena scratch; /* one constant at a time */
        nw_tensor real;
        nw_arena_init(&scratch, g->ctx);
        nw_status status = nw_tensor_to_f32(&scratch, &c->tensor, &real);
        if (status == NW_OK) status = nw_graph_set_constant_copy(g, v, &real);
        nw_arena_free(&scratch);
        NW_TRY(status);
        ++*weights;
    }
    return NW_OK;
}

/* Readers of FakeQuant n read its input. An output of the graph keeps its name. */
static nw_status drop_rounding(nw_graph *g, int n) {
    int x = g->nodes[n].in[0], y = g->nodes[n].out[0];
    bool output = nw_graph_is_output(g, y);
    g->nodes[n].dead = true;
    if (output) return nw_graph_add_node(g, "", "Identity", g->nodes[n].name, 1, &x, 1, &y, NULL);
    nw_graph_replace_uses(g, y, x);
    return NW_OK;
}

static nw_status dequantize(nw_graph *g, bool keep_rounding, size_t *weights, size_t *roundings) {
    NW_TRY(expand_constants(g, weights));
    for (int n = 0, nodes = g->node_count; n < nodes; n++) {
        nw_node *node = &g->nodes[n];
        for (int a = 0; a < node->attr_count; a++) {
            const nw_attr attr = node->attrs[a];
            if (attr.kind == NW_ATTR_GRAPH) NW_TRY(dequantize(attr.graph, keep_rounding, weights, roundings));
            for (size_t i = 0; attr.kind == NW_ATTR_GRAPHS && i < attr.count; i++)
                NW_TRY(dequantize(attr.graphs[i], keep_rounding, weights, roundings));
        }
        if (keep_rounding || node->dead) continue;
        nw_node_remove_attr(node, NW_STATE_FORMAT);
        nw_node_remove_attr(node, NW_PRODUCT_FORMAT);
        if (node->op != &nw_op_narrow_FakeQuant || node->in[0] < 0 || node->out[0] < 0) continue;
        NW_TRY(drop_rounding(g, n));
        ++*roundings;
    }
    return nw_graph_sort(g);
}

nw_status nw_dequantize_graph(nw_graph *graph, bool keep_rounding, size_t *weights, size_t *roundings) {
    *weights = *roundings = 0;
    NW_TRY(dequantize(graph, keep_rounding, weights, roundings));
    return nw_graph_prune(graph);
}
