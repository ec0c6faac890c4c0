/* outer.h: sums of outer products over rows, which gradients of weights are:
 *     C[m][t·channels + c] = [C +] Σ_i  Y[i][m] · A_t[i][c],   i in [i0,i1), t in [0,taps), c in [0,channels)
 * A is read where it lies (rows.h), as in products and convolutions; Y has rows at a fixed distance. The rows
 * are packed block by block and multiplied by a kernel of gemm.h, so every ISA has what it has there.
 * Cannot fail. Must not include anything but kern/. */
#ifndef NW_KERN_OUTER_H
#define NW_KERN_OUTER_H

#include "kern/channels.h"
#include "kern/gemm.h"
#include "kern/layout.h"

typedef struct nw_outer_kernel {
    const nw_gemm_f32_kernel *product;
    nw_transpose_b32_fn *transpose;
    nw_channel_copy_f32_fn *copy;
} nw_outer_kernel;

nw_outer_kernel nw_outer_select(nw_isa ceiling);

typedef struct nw_outer_args {
    size_t m, channels, taps;
    size_t columns; /* of C that one call computes at most: blocks are made for them */
    nw_rows rows;   /* A: reads exactly `channels` floats per row and tap */
    const float *y;
    size_t ldy; /* bytes between rows of Y */
    float *c;
    size_t ldc; /* bytes between rows of C */
} nw_outer_args;

/* Bytes of the scratch memory that a call of nw_outer_run takes, NW_GEMM_ALIGN-aligned; 0 on overflow. */
size_t nw_outer_scratch(const nw_outer_kernel *kernel, const nw_outer_args *args);

/* Columns [n0,n1) of C over rows [i0,i1); n0 must be a multiple of product->nr, n1 too unless it is
 * channels·taps. Blocks of rows are summed in order: the same bits for the same arguments. Calls for disjoint
 * columns, or into different C, may run at the same time. 32 KiB of stack. taps ≤ NW_GEMM_MAX_TAPS. */
void nw_outer_run(const nw_outer_kernel *kernel, const nw_outer_args *args, bool accumulate, size_t i0,
                  size_t i1, size_t n0, size_t n1, void *scratch);

#endif
