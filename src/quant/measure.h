/* measure.h: which layers integers slow down on this machine. The float and the quantized model run in turns; the steps of
 * their plans are timed and assigned to layers; layers that lose are put back into float, the worst first, as long as that
 * makes the whole model measurably faster.
 * Must not include anything but base/, num/, ir/, op/, run/, data/ and quant/. */
#ifndef NW_QUANT_MEASURE_H
#define NW_QUANT_MEASURE_H

#include "quant/calibrate.h"

/* Times a run on the inputs `plan->options.timed` with the model as `plan` has it, calibrated where its scheme needs that.
 * Where layers lose, *plan is replaced by one that leaves them in float, and `seen` fits that one. Fills in the report's
 * timings; the names of what is left live as long as the report. The graph stays as it is. */
nw_status nw_quant_measure(nw_context *ctx, nw_quant_plan **plan, nw_calibration *seen,
                           nw_quant_report *report);

/* ---- the decision, apart from clocks ---------------------------------------------------------------- */

/* Nodes that one step computes in either model, and what they take there. */
typedef struct nw_timed_unit {
    double float_ms, integer_ms;
    int region; /* units of a region pass codes on to one another: one put back alone makes conversions at its border */
    bool fixed;  /* stays as it is: nothing to put back, or tried in vain */
    double loss; /* set by nw_measure_groups: what it is judged by, its own loss or its region's; 0: none */
    bool loses_together; /* set by nw_measure_groups: its region's */
} nw_timed_unit;

/* group[i]: the group of unit i, numbered from 0 by falling loss, or −1. A region that loses as a whole is one group;
 * elsewhere each unit that loses is its own. Losses below 1 µs or 3 % are noise. Returns the number of groups. */
int nw_measure_groups(size_t count, nw_timed_unit *units, int *group);

/* Whether a run of the whole model became measurably faster: by more than 1 µs and 1 %. */
bool nw_measure_gains(double before_ms, double after_ms);

#endif
