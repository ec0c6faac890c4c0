/* matmul.h: the geometry of matrix products, MatMul and Gemm, shared by the reference evaluation and the
 * planner. Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_MATMUL_H
#define NW_OP_MATMUL_H

#include "op/op.h"

/* y[i] = a[i] · b[i] for i in [0, batch): a [m,k] (stored [k,m] when trans_a), b [k,n] (stored [n,k] when
 * trans_b), y [m,n], each matrix contiguous, the y's behind one another. Where a[i] and b[i] start:
 * nw_matmul_batch. When one b serves consecutive a's, their rows are already counted in m: MatMul of
 * [8,128,768] and [768,768] has batch 1, m 1024. A 1-D operand has m or n = 1. */
typedef struct nw_matmul_geometry {
    int64_t batch, m, n, k;
    bool trans_a, trans_b;
    int batch_rank; /* broadcast axes; batch is the product of batch_dims */
    int64_t batch_dims[NW_MAX_RANK];
    int64_t a_stride[NW_MAX_RANK], b_stride[NW_MAX_RANK]; /* elements per step on each axis; 0: broadcast */
} nw_matmul_geometry;

/* Geometry of a MatMul (MatMulInteger, QLinearMatMul, FusedMatMul with transA and transB) node; numpy's
 * rules, 1-D operands included. Only shapes are read. out (may be NULL) gets rank and dims of the result.
 * Fails with NW_E_SHAPE and the reason in words. */
nw_status nw_matmul_geometry_of(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b,
                                nw_matmul_geometry *g, nw_tensor *out);

/* Element offsets of the operands of product i in [0, batch). */
void nw_matmul_batch(const nw_matmul_geometry *g, int64_t i, int64_t *a_offset, int64_t *b_offset);

/* y = alpha·a·b + beta·c, where c[row][column] is c[row·c_row_stride + column·c_column_stride]; strides 0
 * broadcast. product.batch is 1. */
typedef struct nw_gemm_geometry {
    nw_matmul_geometry product;
    float alpha, beta;
    bool has_c; /* c present and beta ≠ 0 */
    int64_t c_row_stride, c_column_stride;
} nw_gemm_geometry;

/* Geometry of a Gemm node (transA, transB, alpha, beta; c NULL when absent). Only shapes are read. */
nw_status nw_gemm_geometry_of(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b,
                              const nw_tensor *c, nw_gemm_geometry *g);

/* ---- reference products
 * --------------------------------------------------------------------------------------- */

/* y = a·b, or y += a·b when accumulate: a [m,k] is a[i·a_row + l·a_k], b [k,n] is b[l·b_k + j·b_column], y is
 * y[i·y_row + j]; strides in elements. */
typedef struct nw_product {
    int64_t m, n, k;
    int64_t a_row, a_k, b_k, b_column, y_row;
    bool accumulate;
} nw_product;

/* Blocked and vectorized; any strides. A row's result depends on the number of rows (the order of the sums
 * does). */
void nw_product_f32(const nw_product *p, const float *a, const float *b, float *y);
void nw_product_f64(const nw_product *p, const double *a, const double *b, double *y); /* plain loops */
void nw_product_s32(const nw_product *p, const int32_t *a, const int32_t *b,
                    int32_t *y); /* wraps on overflow */

/* The product of geometry g's matrices (one of the batch). */
nw_product nw_matmul_product(const nw_matmul_geometry *g);

#endif
