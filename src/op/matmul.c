/* matmul.c: MatMul, Gemm, and com.microsoft's FusedMatMul and MatMulNBits. */
#include "op/matmul.h"
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <string.h>

/* ---- geometry
 * --------------------------------------------------------------------------------------------------- */

static nw_status shapes_differ(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b) {
    char at[96], bt[96];
    return nw_call_fail(call, NW_E_SHAPE, "cannot multiply %s and %s", nw_tensor_describe(a, at, sizeof at),
                        nw_tensor_describe(b, bt, sizeof bt));
}

/* Sets the batch axes from the dimensions before the last two of each operand. */
static nw_status set_batch(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b,
                           nw_matmul_geometry *g) {
    int a_batch = a->rank > 2 ? a->rank - 2 : 0, b_batch = b->rank > 2 ? b->rank - 2 : 0;
    g->batch_rank = a_batch > b_batch ? a_batch : b_batch;
    int64_t a_step = g->m * g->k, b_step = g->k * g->n;
    for (int d = g->batch_rank - 1; d >= 0; d--) {
        int ad = d - (g->batch_rank - a_batch), bd = d - (g->batch_rank - b_batch);
        int64_t a_dim = ad < 0 ? 1 : a->dims[ad], b_dim = bd < 0 ? 1 : b->dims[bd];
        if (a_dim != b_dim && a_dim != 1 && b_dim != 1) return shapes_differ(call, a, b);
        g->batch_dims[d] = a_dim == 1 ? b_dim : a_dim;
        g->a_stride[d] = a_dim == 1 ? 0 : a_step;
        g->b_stride[d] = b_dim == 1 ? 0 : b_step;
        a_step *= a_dim;
        b_step *= b_dim;
    }
    return NW_OK;
}

/* Counts the innermost batch axes into m while one b serves them all and a's rows follow one another. */
static void fold_batch(nw_matmul_geometry *g) {
    while (g->batch_rank > 0) {
        int d = g->batch_rank - 1;
        if (g->batch_dims[d] != 1) {
            if (g->trans_a || g->b_stride[d] != 0 || g->a_stride[d] != g->m * g->k) break;
            g->m *= g->batch_dims[d];
        }
        g->batch_rank--;
    }
    g->batch = (int64_t)nw_dims_product(g->batch_dims, 0, g->batch_rank);
}

nw_status nw_matmul_geometry_of(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b,
                                nw_matmul_geometry *g, nw_tensor *out) {
    *g = (nw_matmul_geometry){.trans_a = nw_node_int(call->node, "transA", 0) != 0 && a->rank > 1,
                              .trans_b = nw_node_int(call->node, "transB", 0) != 0 && b->rank > 1};
    if (a->rank == 0 || b->rank == 0)
        return nw_call_fail(call, NW_E_SHAPE, "a scalar cannot be multiplied as a matrix; use Mul");
    const int64_t one[2] = {1, a->dims[0]}, *ad = a->rank > 1 ? a->dims + a->rank - 2 : one;
    const int64_t column[2] = {b->dims[0], 1}, *bd = b->rank > 1 ? b->dims + b->rank - 2 : column;
    g->m = ad[g->trans_a];
    g->k = ad[!g->trans_a];
    g->n = bd[!g->trans_b];
    if (bd[g->trans_b] != g->k) return shapes_differ(call, a, b);
    NW_TRY(set_batch(call, a, b, g));
    int rank = g->batch_rank;
    if (rank + 2 > NW_MAX_RANK) return shapes_differ(call, a, b);
    if (out) {
        memcpy(out->dims, g->batch_dims, (size_t)rank * sizeof *out->dims);
        if (a->rank > 1) out->dims[rank++] = g->m;
        if (b->rank > 1) out->dims[rank++] = g->n;
        out->rank = rank;
        nw_tensor probe = {.format = NW_F64};
        nw_tensor_set_shape(&probe, rank, out->dims);
        NW_TRY(nw_tensor_check(call->ctx, &probe)); /* batch and m below are products of these */
    }
    fold_batch(g);
    return NW_OK;
}

void nw_matmul_batch(const nw_matmul_geometry *g, int64_t i, int64_t *a_offset, int64_t *b_offset) {
    *a_offset = *b_offset = 0;
    for (int d = g->batch_rank - 1; d >= 0; d--) {
        int64_t at = i % g->batch_dims[d];
        i /= g->batch_dims[d];
        *a_offset += at * g->a_stride[d];
        *b_offset += at * g->b_stride[d];
    }
}

nw_status nw_gemm_geometry_of(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b,
                              const nw_tensor *c, nw_gemm_geometry *g) {
    if (a->rank != 2 || b->rank != 2) return shapes_differ(call, a, b);
    *g = (nw_gemm_geometry){.alpha = nw_node_float(call->node, "alpha", 1),
                            .beta = nw_node_float(call->node, "beta", 1)};
    NW_TRY(nw_matmul_geometry_of(call, a, b, &g->product, NULL));
    g->has_c = c && g->beta != 0;
    if (!c) return NW_OK;
    int64_t columns = c->rank > 0 ? c->dims[c->rank - 1] : 1, rows = c->rank > 1 ? c->dims[0] : 1;
    if (c->rank > 2 || (columns != 1 && columns != g->product.n) || (rows != 1 && rows != g->product.m)) {
        char text[96];
        return nw_call_fail(call, NW_E_SHAPE,
                            "C is %s, which does not broadcast to [%" PRId64 ",%" PRId64 "]",
                            nw_tensor_describe(c, text, sizeof text), g->product.m, g->product.n);
    }
    g->c_column_stride = columns == 1 ? 0 : 1;
    g->c_row_stride = rows == 1 ? 0 : columns;
    return NW_OK;
}

/* ---- MatMul
 * ----------------------------------------------------------------------------------------------------- */

static bool is_wide_integer(nw_format f) {
    return f == NW_S32 || f == NW_U32 || f == NW_S64 || f == NW_U64;
}

/* Both operands are real, or integers of the same format; *format is the result's. */
static nw_status operand_format(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b,
                                nw_format *format) {
    *format = a->qparam ? nw_real_format(b) : a->format;
    if (is_wide_integer(nw_real_format(a)) && nw_real_format(b) == *format) return NW_OK;
    const nw_tensor *t;
    NW_TRY(nw_call_require_real(call, 0, &t));
    return nw_call_require_real(call, 1, &t);
}

static nw_status matmul_infer(nw_op_call *call) {
    const nw_tensor *a, *b;
    NW_TRY(nw_call_require(call, 0, &a));
    NW_TRY(nw_call_require(call, 1, &b));
    nw_tensor out = {.format = NW_NONE};
    NW_TRY(operand_format(call, a, b, &out.format));
    nw_matmul_geometry g;
    NW_TRY(nw_matmul_geometry_of(call, a, b, &g, &out));
    return nw_call_set_like(call, 0, &out);
}

/* Integer products wrap, which arithmetic modulo 2^64 and a narrowing store give for every width. */
static nw_status matmul_integers(nw_op_call *call, const nw_matmul_geometry *g, const nw_product *p) {
    const nw_tensor *a = call->in[0], *b = call->in[1];
    for (int64_t i = 0; i < g->batch; i++) {
        int64_t ao, bo;
        nw_matmul_batch(g, i, &ao, &bo);
        for (int64_t r = 0; r < p->m; r++)
            for (int64_t c = 0; c < p->n; c++) {
                uint64_t sum = 0;
                for (int64_t l = 0; l < p->k; l++)
                    sum += (uint64_t)nw_tensor_s64(a, (size_t)(ao + r * p->a_row + l * p->a_k)) *
                           (uint64_t)nw_tensor_s64(b, (size_t)(bo + l * p->b_k + c * p->b_column));
                nw_store_s64(call->out[0].format, call->out[0].data, (size_t)((i * p->m + r) * p->n + c),
                             (int64_t)sum);
            }
    }
    return NW_OK;
}

static nw_status matmul_eval(nw_op_call *call) {
    nw_matmul_geometry g;
    nw_tensor *out = &call->out[0], shape = {.format = out->format};
    NW_TRY(nw_matmul_geometry_of(call, call->in[0], call->in[1], &g, &shape));
    nw_product p = nw_matmul_product(&g);
    if (nw_format_is_integer(out->format)) return matmul_integers(call, &g, &p);
    const double *a64 = NULL, *b64 = NULL;
    const float *a32 = NULL, *b32 = NULL;
    bool f64 = out->format == NW_F64;
    if (f64) {
        NW_TRY(nw_call_f64(call, 0, &a64));
        NW_TRY(nw_call_f64(call, 1, &b64));
    } else {
        NW_TRY(nw_call_f32(call, 0, &a32));
        NW_TRY(nw_call_f32(call, 1, &b32));
    }
    for (int64_t i = 0; i < g.batch; i++) {
        int64_t ao, bo, yo = i * g.m * g.n;
        nw_matmul_batch(&g, i, &ao, &bo);
        if (f64)
            nw_product_f64(&p, a64 + ao, b64 + bo, (double *)out->data + yo);
        else
            nw_product_f32(&p, a32 + ao, b32 + bo, (float *)out->data + yo);
    }
    return NW_OK;
}

/* channel_axis −1 is the last axis: the weight's rank is not known here. */
static void matmul_roles(const nw_node *node, nw_roles *roles) {
    roles->in[0] = NW_ROLE_DATA;
    roles->in[1] = NW_ROLE_WEIGHT;
    roles->channel_axis[1] = nw_node_int(node, "transB", 0) ? -2 : -1;
    roles->compute = true;
}

static int swap_last(nw_grad_call *c, int a) {
    int64_t perm[NW_MAX_RANK];
    int rank = nw_grad_tensor(c, a).rank;
    for (int d = 0; d < rank; d++) perm[d] = d < rank - 2 ? d : 2 * rank - 3 - d;
    return nw_grad_transpose(c, a, perm);
}

/* Gemm(a, b) without C. */
static int gemm(nw_grad_call *c, int a, bool trans_a, int b, bool trans_b, float alpha) {
    nw_grad_begin(c, "", "Gemm", 2, (int[]){a, b});
    nw_grad_set_int(c, "transA", trans_a);
    nw_grad_set_int(c, "transB", trans_b);
    nw_grad_set_float(c, "alpha", alpha);
    return nw_grad_end(c);
}

/* Y = A·B: dA = dY·Bᵀ, dB = Aᵀ·dY, summed over the batch axes along which the operand was repeated. One B for
 * all is one product over all rows. */
static nw_status matmul_grad(nw_grad_call *c) {
    int a_id = nw_grad_in(c, 0), b_id = nw_grad_in(c, 1);
    nw_tensor a = nw_grad_tensor(c, a_id), b = nw_grad_tensor(c, b_id),
              y = nw_grad_tensor(c, nw_grad_out(c, 0));
    int64_t rows[2] = {1, a.dims[0]}, columns[2] = {b.dims[0], 1};
    if (b.rank == 1) { /* a column, and so is the result */
        nw_tensor_set_shape(&b, 2, columns);
        y.dims[y.rank++] = 1;
    }
    if (a.rank == 1) { /* a row */
        nw_tensor_set_shape(&a, 2, rows);
        y.dims[y.rank] = y.dims[y.rank - 1];
        y.dims[y.rank++ - 1] = 1;
    }
    if (b.rank == 2) {
        int64_t k = b.dims[0], n = b.dims[1], m = (int64_t)nw_dims_product(a.dims, 0, a.rank - 1);
        int dy = nw_grad_reshape(c, c->dy[0], 2, (int64_t[]){m, n}), bm = nw_grad_reshape(c, b_id, 2, b.dims);
        int am = nw_grad_reshape(c, a_id, 2, (int64_t[]){m, k});
        if (c->wanted[0]) c->dx[0] = nw_grad_reshape_like(c, gemm(c, dy, false, bm, true, 1), a_id);
        if (c->wanted[1]) c->dx[1] = nw_grad_reshape_like(c, gemm(c, am, true, dy, false, 1), b_id);
        return c->status;
    }
    int dy = nw_grad_reshape(c, c->dy[0], y.rank, y.dims), am = nw_grad_reshape(c, a_id, a.rank, a.dims);
    if (c->wanted[0]) {
        int da = nw_grad_op2(c, "MatMul", dy, swap_last(c, b_id));
        c->dx[0] = nw_grad_reshape_like(c, nw_grad_sum_to(c, da, am), a_id);
    }
    if (c->wanted[1]) c->dx[1] = nw_grad_sum_to(c, nw_grad_op2(c, "MatMul", swap_last(c, am), dy), b_id);
    return c->status;
}

const nw_op nw_op_MatMul = {.name = "MatMul",
                            .domain = "",
                            .infer = matmul_infer,
                            .eval = matmul_eval,
                            .roles = matmul_roles,
                            .grad = matmul_grad};

/* y = alpha·a·b with optional transposition of the matrices. */
static nw_status fused_matmul_infer(nw_op_call *call) {
    if (nw_node_int(call->node, "transBatchA", 0) || nw_node_int(call->node, "transBatchB", 0))
        return nw_call_fail(call, NW_E_UNSUPPORTED, "transBatchA and transBatchB are not supported");
    NW_TRY(matmul_infer(call));
    return nw_call_expect_float(call, &call->out[0]);
}

static nw_status fused_matmul_eval(nw_op_call *call) {
    NW_TRY(matmul_eval(call));
    float alpha = nw_node_float(call->node, "alpha", 1);
    nw_tensor *out = &call->out[0];
    if (alpha == 1) return NW_OK;
    for (size_t i = 0, n = nw_tensor_count(out); i < n; i++)
        nw_store_f64(out->format, out->data, i, nw_tensor_f64(out, i) * (double)alpha);
    return NW_OK;
}

const nw_op nw_op_ms_FusedMatMul = {
    .name = "FusedMatMul", .domain = "com.microsoft", .infer = fused_matmul_infer, .eval = fused_matmul_eval};

/* ---- Gemm
 * ------------------------------------------------------------------------------------------------------- */

static nw_status gemm_infer(nw_op_call *call) {
    const nw_tensor *a, *b, *c = nw_call_in(call, 2);
    NW_TRY(nw_call_require(call, 0, &a));
    NW_TRY(nw_call_require(call, 1, &b));
    nw_format format;
    NW_TRY(operand_format(call, a, b, &format));
    if (c && nw_format_is_integer(nw_real_format(c)) != nw_format_is_integer(format))
        return nw_call_fail(call, NW_E_TYPE, "C holds %s, A holds %s", nw_format_name(c->format),
                            nw_format_name(a->format));
    nw_gemm_geometry g;
    NW_TRY(nw_gemm_geometry_of(call, a, b, c, &g));
    return nw_call_set(call, 0, format, 2, (int64_t[]){g.product.m, g.product.n});
}

/* f64, and integers through f64. */
static nw_status gemm_wide(nw_op_call *call, const nw_gemm_geometry *g) {
    const double *a, *b, *c;
    double *y;
    nw_tensor *out = &call->out[0];
    size_t count = nw_tensor_count(out);
    NW_TRY(nw_call_f64(call, 0, &a));
    NW_TRY(nw_call_f64(call, 1, &b));
    NW_TRY(nw_call_f64(call, 2, &c));
    NW_TRY(nw_call_scratch(call, count, &y));
    nw_product p = nw_matmul_product(&g->product);
    nw_product_f64(&p, a, b, y);
    for (int64_t i = 0; i < p.m; i++)
        for (int64_t j = 0; j < p.n; j++) {
            double *at = &y[i * p.n + j];
            *at *= (double)g->alpha;
            if (g->has_c) *at += (double)g->beta * c[i * g->c_row_stride + j * g->c_column_stride];
        }
    nw_store_run(out, 0, count, y);
    return NW_OK;
}

static nw_status gemm_eval(nw_op_call *call) {
    nw_gemm_geometry g;
    NW_TRY(nw_gemm_geometry_of(call, call->in[0], call->in[1], nw_call_in(call, 2), &g));
    if (call->out[0].format != NW_F32) return gemm_wide(call, &g);
    const float *a, *b, *c;
    float *y = call->out[0].data;
    NW_TRY(nw_call_f32(call, 0, &a));
    NW_TRY(nw_call_f32(call, 1, &b));
    NW_TRY(nw_call_f32(call, 2, &c));
    nw_product p = nw_matmul_product(&g.product);
    nw_product_f32(&p, a, b, y);
    for (int64_t i = 0; i < p.m && (g.has_c || g.alpha != 1); i++, y += p.n) {
        const float *row = g.has_c ? c + i * g.c_row_stride : NULL;
        if (g.alpha != 1)
            for (int64_t j = 0; j < p.n; j++) y[j] *= g.alpha;
        if (row && g.c_column_stride)
            for (int64_t j = 0; j < p.n; j++) y[j] += g.beta * row[j];
        else if (row)
            for (int64_t j = 0; j < p.n; j++) y[j] += g.beta * row[0];
    }
    return NW_OK;
}

static void gemm_roles(const nw_node *node, nw_roles *roles) {
    roles->in[0] = NW_ROLE_DATA;
    roles->in[1] = NW_ROLE_WEIGHT;
    roles->channel_axis[1] = nw_node_int(node, "transB", 0) ? 0 : 1;
    roles->in[2] = NW_ROLE_BIAS;
    roles->compute = true;
}

/* Y = α·A'·B' + β·C, the primes being the optional transpositions: dA' = α·dY·B'ᵀ, dB' = α·A'ᵀ·dY, dC = β·Σ
 * dY. */
static nw_status gemm_grad(nw_grad_call *c) {
    int a = nw_grad_in(c, 0), b = nw_grad_in(c, 1), dy = c->dy[0];
    bool ta = nw_node_int(c->node, "transA", 0) != 0, tb = nw_node_int(c->node, "transB", 0) != 0;
    float alpha = nw_node_float(c->node, "alpha", 1), beta = nw_node_float(c->node, "beta", 1);
    if (c->wanted[0]) c->dx[0] = ta ? gemm(c, b, tb, dy, true, alpha) : gemm(c, dy, false, b, !tb, alpha);
    if (c->wanted[1]) c->dx[1] = tb ? gemm(c, dy, true, a, ta, alpha) : gemm(c, a, !ta, dy, false, alpha);
    if (nw_grad_wants(c, 2))
        c->dx[2] = nw_grad_scale(c, nw_grad_sum_to(c, dy, nw_grad_in(c, 2)), (double)beta);
    return c->status;
}

const nw_op nw_op_Gemm = {.name = "Gemm",
                          .domain = "",
                          .infer = gemm_infer,
                          .eval = gemm_eval,
                          .roles = gemm_roles,
                          .grad = gemm_grad};

/* ---- MatMulNBits
 * ------------------------------------------------------------------------------------------------ */

/* y = a·wᵀ (+ bias): a [..., K]; w [N,K] is stored in blocks of block_size along K, `bits` per code, low bits
 * first: B u8 [N, blocks, block_size·bits/8], scales [N·blocks], zero_points u8 [N·ceil(blocks·bits/8)]
 * packed per row, or real [N·blocks], or absent meaning 2^(bits−1). */
typedef struct nbits {
    int64_t n, k, bits, block, blocks;
} nbits;

static nw_status nbits_of(const nw_op_call *call, nbits *q) {
    const int64_t most = (int64_t)1 << 30; /* keeps products of two in range */
    NW_TRY(nw_call_int_attr(call, "N", 0, 1, most, &q->n));
    NW_TRY(nw_call_int_attr(call, "K", 0, 1, most, &q->k));
    NW_TRY(nw_call_int_attr(call, "bits", 4, 2, 8, &q->bits));
    NW_TRY(nw_call_int_attr(call, "block_size", 0, 16, most, &q->block));
    if ((q->bits & (q->bits - 1)) || (q->block & (q->block - 1)))
        return nw_call_fail(call, NW_E_UNSUPPORTED, "bits must be 2, 4 or 8 and block_size a power of two");
    q->blocks = (q->k + q->block - 1) / q->block;
    return NW_OK;
}

static nw_status expect_count(const nw_op_call *call, int i, const char *name, int64_t want) {
    const nw_tensor *t = nw_call_in(call, i);
    if (!t || nw_tensor_count(t) == (size_t)want) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "%s has %zu elements, expected %" PRId64, name, nw_tensor_count(t),
                        want);
}

static nw_status nbits_infer(nw_op_call *call) {
    const nw_tensor *a, *b, *scales, *zeros = nw_call_in(call, 3);
    nbits q;
    NW_TRY(nbits_of(call, &q));
    NW_TRY(nw_call_require_real(call, 0, &a));
    NW_TRY(nw_call_require(call, 1, &b));
    NW_TRY(nw_call_require_real(call, 2, &scales));
    NW_TRY(nw_call_expect_rank(call, a, "A", 1, NW_MAX_RANK));
    if (nw_call_in(call, 4)) return nw_call_fail(call, NW_E_UNSUPPORTED, "g_idx is not supported");
    if (b->format != NW_U8 || b->qparam) return nw_call_fail(call, NW_E_TYPE, "B must hold u8");
    if (a->dims[a->rank - 1] != q.k)
        return nw_call_fail(call, NW_E_SHAPE, "A's last dimension is %" PRId64 ", attribute K says %" PRId64,
                            a->dims[a->rank - 1], q.k);
    NW_TRY(expect_count(call, 1, "B", q.n * q.blocks * (q.block * q.bits / 8)));
    NW_TRY(expect_count(call, 2, "scales", q.n * q.blocks));
    bool packed = zeros && zeros->format == NW_U8 && !zeros->qparam;
    NW_TRY(
        expect_count(call, 3, "zero_points", packed ? q.n * ((q.blocks * q.bits + 7) / 8) : q.n * q.blocks));
    if (zeros && !packed) NW_TRY(nw_call_require_real(call, 3, &zeros));
    NW_TRY(nw_call_expect_shape(call, 5, "bias", false, 1, &q.n));
    int64_t dims[NW_MAX_RANK];
    memcpy(dims, a->dims, sizeof dims);
    dims[a->rank - 1] = q.n;
    return nw_call_set(call, 0, nw_real_format(a), a->rank, dims);
}

static int code_at(const uint8_t *packed, int64_t i, int64_t bits) {
    int64_t per_byte = 8 / bits;
    return packed[i / per_byte] >> i % per_byte * bits & ((1 << bits) - 1);
}

static nw_status nbits_eval(nw_op_call *call) {
    nbits q;
    NW_TRY(nbits_of(call, &q));
    const float *a, *scales, *bias, *real_zeros = NULL;
    float *w, *y;
    const uint8_t *b = call->in[1]->data, *zeros = NULL;
    const nw_tensor *zero_points = nw_call_in(call, 3);
    NW_TRY(nw_call_f32(call, 0, &a));
    NW_TRY(nw_call_f32(call, 2, &scales));
    NW_TRY(nw_call_f32(call, 5, &bias));
    if (zero_points && zero_points->format == NW_U8)
        zeros = zero_points->data;
    else
        NW_TRY(nw_call_f32(call, 3, &real_zeros));
    NW_TRY(nw_call_scratch(call, (size_t)(q.n * q.k), &w));
    int64_t blob = q.block * q.bits / 8, zero_row = (q.blocks * q.bits + 7) / 8;
    for (int64_t i = 0; i < q.n; i++)
        for (int64_t block = 0; block < q.blocks; block++) {
            int64_t at = i * q.blocks + block, first = block * q.block;
            int64_t last = first + q.block < q.k ? first + q.block : q.k;
            float zero = real_zeros ? real_zeros[at]
                         : zeros    ? (float)code_at(zeros + i * zero_row, block, q.bits)
                                    : (float)(1 << (q.bits - 1));
            for (int64_t l = first; l < last; l++)
                w[i * q.k + l] = scales[at] * ((float)code_at(b + at * blob, l - first, q.bits) - zero);
        }
    int64_t m = (int64_t)nw_dims_product(call->in[0]->dims, 0, call->in[0]->rank - 1);
    NW_TRY(nw_call_f32_out(call, 0, &y));
    nw_product p = {
        .m = m, .n = q.n, .k = q.k, .a_row = q.k, .a_k = 1, .b_k = 1, .b_column = q.k, .y_row = q.n};
    nw_product_f32(&p, a, w, y);
    for (int64_t i = 0; bias && i < m; i++)
        for (int64_t j = 0; j < q.n; j++) y[i * q.n + j] += bias[j];
    nw_call_f32_done(call, 0, y);
    return NW_OK;
}

const nw_op nw_op_ms_MatMulNBits = {
    .name = "MatMulNBits", .domain = "com.microsoft", .infer = nbits_infer, .eval = nbits_eval};
