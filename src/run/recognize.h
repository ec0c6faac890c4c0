/* recognize.h: LayerNormalization, Attention, Gelu, Swish and HardSwish in the spelled-out forms that exporters write, as the single operators for which
 * there are kernels. For plans only: the result depends on shapes and on what is tapped.
 * Private to run/. */
#ifndef NW_RUN_RECOGNIZE_H
#define NW_RUN_RECOGNIZE_H

#include "run/plan.h"

/* In place on the bound graph; no values are added. The results of FakeQuants that move from attention's heads to its tokens
 * get these's shape in `desc`. */
nw_status nw_recognize(nw_graph *graph, nw_tensor *desc, const nw_taps *taps);

#endif
