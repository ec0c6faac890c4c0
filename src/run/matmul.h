/* matmul.h: a matrix product as lower_matmul.c finds it, and what lower_weights.c makes of one whose weights stay codes.
 * Private to run/. */
#ifndef NW_RUN_MATMUL_H
#define NW_RUN_MATMUL_H

#include "op/matmul.h"
#include "run/plan.h"

typedef struct nw_plan_product {
    nw_matmul_geometry g;
    const float *bias; /* [n] or NULL */
    int bias_value;    /* that has the bias, when it is no constant; else NW_ABSENT */
    int value;         /* output: of the node, or of an Add of the bias behind it */
    int add;           /* that Add, or −1 */
} nw_plan_product;

/* Takes the product when its right-hand side is a constant whose codes can be decoded in registers (kern/gemm_wcodes.h): the left
 * one as codes if it has them and products are exact integers, else as real numbers. */
nw_status nw_lower_wcodes(nw_planner *p, const nw_node *node, const nw_plan_product *pr, bool *ok);
/* lower_bits.c: takes the product when its weights and its left-hand side both are {−1, 1} times a scale. */
nw_status nw_lower_bits_product(nw_planner *p, const nw_node *node, const nw_plan_product *pr, bool *ok);

#endif
