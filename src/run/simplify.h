/* simplify.h: the portable simplification: the same model, fewer and plainer nodes. What it does is valid for every machine
 * and every input shape, so its result can be exported.
 * Must not include anything but base/, num/, ir/, op/ and run/. */
#ifndef NW_RUN_SIMPLIFY_H
#define NW_RUN_SIMPLIFY_H

#include "ir/graph.h"

/* In place: 16-bit floats widened (widen.h), constants folded (shape arithmetic of fixed shapes included), If on a constant condition replaced by its branch,
 * FakeQuant of a constant stored packed, Identity and inference-time Dropout removed, BatchNormalization folded into the
 * convolution or matrix product before it, dead nodes dropped. The graph must be resolved. */
nw_status nw_simplify(nw_graph *graph);

/* Products that say of themselves that their data is rounded (NW_PRODUCT_FORMAT) get the FakeQuant that does it. For graphs that
 * are about to run: files have no such node. */
nw_status nw_round_products(nw_graph *graph);

#endif
