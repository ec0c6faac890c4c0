/* model.h: a small model with a little of everything, for tests that need one to damage, to run or to starve
 * of memory. For tests only. */
#ifndef NW_TESTS_MODEL_H
#define NW_TESTS_MODEL_H

#include "ir/graph.h"
#include "run/run.h"

/* image f32 [1,2,6,6] → Conv 3×3 (4 channels) → Relu → Flatten → Gemm → Add → Softmax → probabilities [1,3];
 * the flattened values also go through Shape → Gather → Unsqueeze → Reshape. Operators are resolved; the
 * caller frees the graph. */
nw_status test_small_model(nw_context *ctx, nw_graph **out);

/* The model's serialized bytes; the caller frees them with nw_bytes_free. */
nw_status test_model_bytes(nw_context *ctx, const nw_graph *graph, nw_bytes **out);

/* Zeros of the declared shapes for every input that needs a feed, in the arena; unknown dimensions are 2.
 * Inputs without a known shape, of strings or of more than 65536 elements: NW_E_UNSUPPORTED, as are more
 * inputs than TEST_FEEDS. */
#define TEST_FEEDS 16
nw_status test_zero_feeds(nw_context *ctx, const nw_graph *g, nw_arena *arena, nw_feed *feeds, size_t *count);

/* For building graphs in a line: a float constant filled with a ramp, a constant list of integers, a node
 * with one output. */
nw_status test_ramp(nw_graph *g, const char *name, int rank, const int64_t *dims, int *id);
nw_status test_ints(nw_graph *g, const char *name, size_t count, const int64_t *values, int *id);
nw_status test_node(nw_graph *g, const char *op, const char *output, int in_count, const int *in, int *out);
/* A float graph input. */
nw_status test_input(nw_graph *g, const char *name, int rank, const int64_t *dims, int *id);

#endif
