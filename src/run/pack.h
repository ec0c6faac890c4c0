/* pack.h: f32 weights brought into the order of a product's kernel: constants when planning, what is computed
 * or learned in every run, on all threads.
 * Private to run/. */
#ifndef NW_RUN_PACK_H
#define NW_RUN_PACK_H

#include "run/plan.h"

/* Element W[n][t][k] of group g is w[g·stride_group + n·stride_n + tap_at[t] + k·stride_k]; strides in elements. */
typedef struct nw_weight_order {
    const nw_gemm_f32_kernel *kernel;
    size_t groups, n, k, taps; /* n, k: of a group */
    size_t stride_group, stride_n, stride_k;
    const size_t *tap_at; /* [taps] */
    size_t group_bytes;   /* packed, from a group to the next */
} nw_weight_order;

/* Fills group_bytes; *bytes: of all groups. Fails, naming the node, when that overflows. */
nw_status nw_weight_order_bytes(nw_planner *p, const nw_node *node, nw_weight_order *order, size_t *bytes);
/* e NULL: on the caller's thread. w 4-byte aligned. */
void nw_weight_order_pack(const nw_exec *e, const nw_weight_order *order, const float *w, void *packed);

/* Offsets 0, 1, … count − 1 in the plan's arena: taps that lie one behind the other. */
nw_status nw_plan_taps_in_order(nw_planner *p, size_t count, const size_t **tap_at);

#endif
