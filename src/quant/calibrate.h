/* calibrate.h: watching the float model on data, and making scales of what was seen.
 * Must not include anything but base/, num/, ir/, op/, run/, data/ and quant/. */
#ifndef NW_QUANT_CALIBRATE_H
#define NW_QUANT_CALIBRATE_H

#include "quant/place.h"

/* What calibration saw: an observer per point of the plan (only roots have seen anything). */
typedef struct nw_calibration {
    nw_context *ctx;
    int count;
    nw_observer *observers; /* [count] */
    size_t samples, batch;
} nw_calibration;

/* Runs the plan's graph over the rest of the data set, in batches, and sets format, scale and zero point of
 * every root. Memory does not grow with the number of samples. dataset NULL: fine when every root's range is
 * known or given. Where inputs of the model turn out to fit no grid (option `inputs`), *plan is replaced by
 * one that spares them. */
nw_status nw_calibrate(nw_context *ctx, nw_quant_plan **plan, nw_dataset *dataset, nw_calibration *out);
void nw_calibration_free(nw_calibration *calibration);

/* What was learnt for the points of one plan goes to another of the same graph with no others. A root there may have been
 * tied here: it keeps the scale it was tied to. seen: its observers move to the new plan's points; NULL: not wanted. */
nw_status nw_quant_adopt(nw_context *ctx, const nw_quant_plan *from, nw_quant_plan *to, nw_calibration *seen);

#endif
