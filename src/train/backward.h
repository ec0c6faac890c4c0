/* backward.h: reverse-mode differentiation: appends to a graph the nodes that compute the gradients of one of
 * its values.
 * Must not include anything but base/, num/, ir/, op/, run/ and train/. */
#ifndef NW_TRAIN_BACKWARD_H
#define NW_TRAIN_BACKWARD_H

#include "ir/graph.h"

/* Appends ∂loss/∂parameters[i]; parameters are free inputs of the graph or values that nodes compute, `loss`
 * has one element of a floating-point format. gradients[i] is the id of a value of the parameter's shape and
 * format, NW_ABSENT when the loss does not depend on it. They are values like others: make them outputs to
 * see them (nw_graph_add_output).
 *
 * The graph must be resolved and all its free inputs must declare their whole shape; it is bound to these
 * shapes for good, and what depends on constants only is folded. Loss, parameters and what the graph puts out
 * keep their ids; nodes that neither the loss nor an output needs are dropped.
 * Fails naming the node where the loss depends on a parameter through an operator that has no gradient. After
 * a failure the graph is good for nw_graph_free only. */
nw_status nw_backward(nw_graph *graph, int loss, int count, const int *parameters, int *gradients);

#endif
