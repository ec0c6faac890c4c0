/* prune.h: taking weights out of a model: single ones become zero, or whole channels leave the graph.
 * Must not include anything but base/, num/, ir/, op/, run/ and train/. */
#ifndef NW_TRAIN_PRUNE_H
#define NW_TRAIN_PRUNE_H

#include "ir/graph.h"

/* Patterns are those of nw_node_matches. */
typedef struct nw_prune_options {
    double
        sparsity; /* share of the weights that becomes 0, from 0 to below 1: those of the smallest magnitude … */
    bool per_layer; /* … of each layer, else of all layers together */
    int keep,
        of; /* of > 0: instead, of every `of` neighbours along the axis that products sum over, the `keep`
                        largest stay ("2:4") */
    double channels; /* share of the output channels that leave the graph, from 0 to below 1 */
    bool l1;         /* the norm that ranks channels; else l2 */
    size_t exclude_count, only_count; /* only: no other layer is pruned; exclude wins */
    const char *const *exclude, *const *only;
} nw_prune_options;

/* Reads a share ("0.8") or a pattern ("2:4") into sparsity, or keep and of; the rest stays. */
nw_status nw_prune_parse(nw_context *ctx, const char *word, nw_prune_options *options);
nw_status nw_prune_options_check(nw_context *ctx, const nw_prune_options *options);

/* ---- a whole model --------------------------------------------------------------------------------------- */

/* A layer with weights. */
typedef struct nw_prune_layer {
    const char *name, *op;
    uint64_t weights_before, weights_after, nonzero; /* nonzero: of those after */
    int64_t channels_before, channels_after;         /* of its output */
    /* Multiplications with weights for one sample (the model's own batch), and those that are not with zeros; NaN
     * where the shape is not known. */
    double macs_before, macs_after, macs_nonzero;
    const char *reason; /* why it, or its channels, stayed as they are; "" where they did not */
} nw_prune_layer;

typedef struct nw_prune_report {
    nw_arena arena;
    size_t layer_count;
    nw_prune_layer *layers; /* in graph order */
} nw_prune_report;

/* In place: channels first, then single weights. The graph is resolved, its quantization folded (onnx/onnx.h).
 * Deterministic. report NULL: not wanted. After a failure the graph is good for nw_graph_free only. */
nw_status nw_prune_graph(nw_graph *graph, const nw_prune_options *options, nw_prune_report **report);
void nw_prune_report_free(nw_prune_report *report); /* NULL is fine */

/* ---- single weights, also while they are trained --------------------------------------------------------- */

/* A float constant that a layer multiplies with, itself or behind a FakeQuant. */
typedef struct nw_prune_target {
    int node, value;  /* the layer; the constant, in the graph that was asked */
    int axis;         /* that products sum over */
    nw_tensor tensor; /* f32; its data are what nw_prune_weights changes */
} nw_prune_target;

/* Of every constant once, for its first reader, in graph order; lists are in `arena`, tensors share the graph's data.
 * reasons [graph->node_count] or NULL: why a layer with weights is no target; NULL where it is one, or no layer. */
nw_status nw_prune_targets(const nw_graph *graph, const nw_prune_options *options, nw_arena *arena,
                           nw_prune_target **targets, size_t *count, const char **reasons);

/* Sets weights to zero. part, from 0 to 1: how much of it: s·(1 − (1 − part)³) of the final share s (Zhu and Gupta
 * 2017, "To prune, or not to prune"), likewise for patterns. What is zero stays so. */
nw_status nw_prune_weights(nw_context *ctx, const nw_prune_options *options, double part, size_t count,
                           const nw_prune_target *targets);

/* ---- channels (prune_channels.c) ------------------------------------------------------------------------- */

/* Removes channels; reasons as above, of layers whose channels all stay. */
nw_status nw_prune_channels(nw_graph *graph, const nw_prune_options *options, nw_arena *arena,
                            const char **reasons);

/* Formats and shapes of all values [graph->value_count] for a batch of 1, where it is open; format NW_NONE: unknown. */
nw_status nw_prune_shapes(const nw_graph *graph, nw_arena *arena, nw_tensor **shapes);

#endif
