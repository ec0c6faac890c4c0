/* bind.h: what can be known before running: shapes of all values and the values of those that depend on constants (and on
 * shapes) only. The simplifier uses it on the portable graph, the planner on a copy bound to concrete inputs, training on
 * the graph whose gradients it needs. Private to run/ and train/. */
#ifndef NW_RUN_BIND_H
#define NW_RUN_BIND_H

#include "op/op.h"

typedef struct nw_binding {
    nw_context *ctx;
    nw_graph *graph;
    nw_tensor *
        desc; /* [value_count] format and shape; data when constant; format NW_NONE: not known before running */
    int desc_count;
    nw_arena arena; /* of desc */
    int wanted; /* after NW_E_NEED_VALUE was met: a graph input whose value decides a shape, or NW_ABSENT */
} nw_binding;

/* Infers and folds in place: nodes whose result is known become constants, If on a known condition is replaced by its
 * branch, dead nodes go. Shapes of free inputs: inputs[i] for graph->inputs[i] when `inputs` is not NULL (format NW_NONE:
 * unknown), else the declared shape where it is fully known. */
nw_status nw_bind(nw_graph *graph, const nw_tensor *inputs, nw_binding *out);
void nw_binding_free(nw_binding *binding);

/* Fills `call` for a node: in[] points at the descriptions of its inputs. in, out: caller's arrays of the node's counts. */
void nw_bind_call(nw_op_call *call, nw_context *ctx, const nw_graph *graph, const nw_node *node,
                  const nw_tensor **in, nw_tensor *out, nw_arena *scratch);

static inline bool nw_node_has_subgraph(const nw_node *node) {
    for (int a = 0; a < node->attr_count; a++)
        if (node->attrs[a].kind == NW_ATTR_GRAPH || node->attrs[a].kind == NW_ATTR_GRAPHS) return true;
    return false;
}

#endif
