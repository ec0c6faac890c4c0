/* freeze.h: carrying a plan out: weights and biases packed, FakeQuants put in.
 * Must not include anything but base/, num/, ir/, op/ and quant/. */
#ifndef NW_QUANT_FREEZE_H
#define NW_QUANT_FREEZE_H

#include "quant/place.h"

/* Carries out `plan`, made for `graph` and calibrated where its scheme needs that. Subgraphs get their
 * weights packed. The report's weights and layers are filled in (report->arena is ready; activations are the
 * caller's, in the order of the plan's points). The plan is of no use afterwards. On failure the graph may be
 * changed in part. */
nw_status nw_quant_freeze(nw_graph *graph, const nw_quant_plan *plan, nw_quant_report *report);

#endif
