/* slope.h: derivatives of functions of one element, as loops over runs: the reference of ai.narrow.UnaryGrad, which
 * the planner runs on all threads. Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_SLOPE_H
#define NW_OP_SLOPE_H

#include "op/op.h"

/* dx = dy·f'(v), n elements; a and b are parameters of f. In place is fine. */
typedef void nw_slope_run(size_t n, const float *v, const float *dy, float a, float b, float *dx);

typedef struct nw_slope {
    nw_slope_run *run;
    float a, b;
} nw_slope;

/* The slope that a UnaryGrad node asks for; false: its function has none here. */
bool nw_slope_of(const nw_node *node, nw_slope *slope);

#endif
