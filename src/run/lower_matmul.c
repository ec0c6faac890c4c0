/* lower_matmul.c: MatMul and Gemm on f32 or 8-bit codes. Constant right-hand sides are packed when planning, others when
 * running. Those that stay codes beside real numbers are lower_weights.c's. */
#include "run/coded.h"
#include "run/matmul.h"
#include "run/pack.h"

#include <math.h>
#include <string.h>

typedef struct matmul_state {
    const nw_gemm_f32_kernel *f32;
    const nw_gemm_u8s8_kernel *u8s8; /* NULL: float */
    nw_gemm_f32_args
        f32_args; /* rows.base, c (and packed, when it is made while running) are filled in then */
    nw_gemm_u8s8_args u8s8_args;
    nw_matmul_geometry g;
    size_t a_size, y_size; /* bytes of an element */
    double work;           /* nanoseconds, of one product */
    /* scales of the rows of a, found while running: */
    bool by_row;
    bool one_grid; /* the same for all rows: it goes into the columns' arrays */
    /* packing while running: */
    bool dynamic;
    size_t packed_bytes; /* per product; room for all of them follows one another */
    bool learned_bias;   /* input 2 of the step */
    bool alone;          /* one product of real numbers: all threads pack and multiply it */
    nw_weight_order order;
    size_t stride_n, stride_k;
    nw_grid a_grid, b_grid; /* of codes; b's scale 0: found while running */
    const uint8_t *ones;    /* a row of k codes */
} matmul_state;

typedef struct matmul_job {
    const matmul_state *s;
    const char *a, *b;
    nw_epilogue epilogue;
    char *y, *packed;
    const float *bias; /* known when running only */
    int64_t product;
    nw_grid b_grid;
} matmul_job;

static void multiply(const matmul_job *j, int64_t product, const char *packed, const nw_epilogue *epilogue,
                     size_t m0, size_t m1, size_t n0, size_t n1) {
    const matmul_state *s = j->s;
    int64_t a_at, b_at;
    nw_matmul_batch(&s->g, product, &a_at, &b_at);
    const char *a = j->a + (size_t)a_at * s->a_size;
    char *y = j->y + (size_t)(product * s->g.m * s->g.n) * s->y_size;
    if (s->u8s8) {
        nw_gemm_u8s8_args args = s->u8s8_args;
        args.rows.base = a;
        args.c = y;
        if (packed) args.packed = packed;
        args.epilogue = *epilogue;
        nw_gemm_u8s8_run(s->u8s8, &args, m0, m1, n0, n1);
    } else {
        nw_gemm_f32_args args = s->f32_args;
        args.rows.base = a;
        args.c = (float *)y;
        if (packed) args.packed = packed;
        if (j->bias) args.bias = j->bias;
        nw_gemm_f32_run(s->f32, &args, m0, m1, n0, n1);
    }
}

static void part(void *user, size_t m0, size_t m1, size_t n0, size_t n1) {
    const matmul_job *j = user;
    multiply(j, j->product, j->packed, &j->epilogue, m0, m1, n0, n1);
}

/* Packs and multiplies product i of codes. The sums of b's columns are a product with a row of ones; they, and what else the
 * epilogue needs of each column, lie behind the packed matrix. */
static void multiply_codes(const matmul_job *j, int64_t i, int64_t a_at, int64_t b_at, char *packed) {
    const matmul_state *s = j->s;
    const size_t m = (size_t)s->g.m, n = (size_t)s->g.n, k = (size_t)s->g.k;
    const int32_t zero = j->b_grid.zero - 128; /* codes of b arrive as u8, less 128 they are packed */
    int32_t *sums = (int32_t *)(packed + nw_gemm_u8s8_packed_bytes(s->u8s8, n, k, 1)), *zeros = sums + n;
    float *scale = (float *)(zeros + n);
    const nw_gemm_u8s8_args column_sums = {.m = 1,
                                           .n = n,
                                           .k = k,
                                           .taps = 1,
                                           .rows = {.base = s->ones},
                                           .packed = packed,
                                           .c = sums,
                                           .ldc = n * sizeof *sums,
                                           .epilogue = {.out = NW_OUT_S32}};
    nw_gemm_u8s8_pack_codes(s->u8s8, n, k, (const uint8_t *)j->b + b_at, s->stride_n, s->stride_k, packed);
    nw_gemm_u8s8_run(s->u8s8, &column_sums, 0, 1, 0, n);
    for (size_t c = 0; c < n; c++) sums[c] -= (int32_t)k * zero;
    nw_epilogue e = j->epilogue;
    if (s->by_row) {
        const size_t row = (size_t)a_at / k;
        for (size_t c = 0; c < n; c++) {
            zeros[c] = zero;
            scale[c] = j->b_grid.scale;
        }
        e.row_scale += row;
        e.row_zero += row;
        e.col_sum = sums;
        e.scale = scale;
        e.wzero = zero ? zeros : NULL;
    } else {
        for (size_t c = 0; c < n; c++)
            sums[c] = e.bias[c] - s->a_grid.zero * sums[c]; /* made with sums of 0 */
        e.bias = sums;
    }
    multiply(j, i, packed, &e, 0, m, 0, n);
}

/* Packs and multiplies whole products [begin, end). */
static void product_range(void *user, size_t begin, size_t end) {
    const matmul_job *j = user;
    const matmul_state *s = j->s;
    for (size_t i = begin; i < end; i++) {
        int64_t a_at, b_at;
        nw_matmul_batch(&s->g, (int64_t)i, &a_at, &b_at);
        char *packed = j->packed + i * s->packed_bytes;
        if (s->u8s8) {
            multiply_codes(j, (int64_t)i, a_at, b_at, packed);
            continue;
        }
        nw_gemm_f32_pack(s->f32, (size_t)s->g.n, (size_t)s->g.k, 1, (const float *)j->b + b_at, s->stride_n,
                         0, s->stride_k, packed);
        multiply(j, (int64_t)i, packed, NULL, 0, (size_t)s->g.m, 0, (size_t)s->g.n);
    }
}

/* Inputs of the step: a; b; the bias that is computed; scales and zero points of a's rows; scale and zero point of b. */
enum { IN_A, IN_B, IN_BIAS, IN_ROWS, IN_B_GRID = IN_ROWS + 2, IN_COUNT = IN_B_GRID + 2 };

static nw_status run_matmul(nw_exec *e, const nw_step *step) {
    const matmul_state *s = step->state;
    matmul_job job = {.s = s, .a = nw_exec_data(e, step->in[0]), .y = nw_exec_data(e, step->out[0])};
    size_t m = (size_t)s->g.m, n = (size_t)s->g.n;
    if (s->u8s8) job.epilogue = s->u8s8_args.epilogue;
    if (s->by_row) {
        job.epilogue.row_scale = nw_exec_data(e, step->in[IN_ROWS]);
        job.epilogue.row_zero = nw_exec_data(e, step->in[IN_ROWS + 1]);
        if (s->one_grid) nw_epilogue_take_grid(&job.epilogue, n, nw_exec_data(e, step->out[1]));
    }
    if (s->dynamic) {
        const float *scale = nw_exec_data(e, step->in[IN_B_GRID]);
        const int32_t *zero = nw_exec_data(e, step->in[IN_B_GRID + 1]);
        job.b = nw_exec_data(e, step->in[IN_B]);
        job.b_grid = scale ? (nw_grid){.scale = scale[0], .zero = zero[0]} : s->b_grid;
        job.packed = nw_exec_data(e, step->out[1]);
        if (s->learned_bias) job.bias = nw_exec_data(e, step->in[IN_BIAS]);
    }
    if (s->alone) nw_weight_order_pack(e, &s->order, (const float *)job.b, job.packed);
    if (s->dynamic && !s->alone) {
        nw_exec_parallel(e, (size_t)s->g.batch, 1, s->work * (double)s->g.batch, product_range, &job);
        return NW_OK;
    }
    const nw_product_split split = {m, s->u8s8 ? s->u8s8->mr : s->f32->mr, n,
                                    s->u8s8 ? s->u8s8->nr : s->f32->nr, s->work};
    for (job.product = 0; job.product < s->g.batch; job.product++) nw_exec_product(e, &split, part, &job);
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

/* A constant vector along the last axis, or a scalar, as n real numbers; NULL otherwise. */
static nw_status row_vector(nw_planner *p, int v, size_t n, float factor, const float **out) {
    const float *values;
    size_t count;
    *out = NULL;
    if (v < 0) return NW_OK;
    const nw_tensor *t = &p->desc[v];
    if (t->rank > 0 && nw_dims_product(t->dims, 0, t->rank - 1) != 1) return NW_OK;
    NW_TRY(nw_plan_real_constant(p, v, &values, &count));
    if (!values || (count != n && count != 1)) return NW_OK;
    float *row = nw_arena_array(&p->plan->arena, n, sizeof *row);
    if (!row) return NW_E_MEMORY;
    for (size_t i = 0; i < n; i++) row[i] = values[count == 1 ? 0 : i] * factor;
    *out = row;
    return NW_OK;
}

/* Whether C is a row that, like B, is no constant: it is known when running. */
static bool is_learned_row(const nw_planner *p, const nw_node *node, const nw_gemm_geometry *g) {
    const nw_tensor *c = &p->desc[node->in[2]];
    return !nw_graph_constant(p->graph, node->in[2]) && !nw_graph_constant(p->graph, node->in[1]) &&
           c->format == NW_F32 && g->beta == 1.0f && g->c_row_stride == 0 && g->c_column_stride == 1;
}

/* MatMul → Add of a constant row: how exporters spell a linear layer. */
static nw_status absorb_bias(nw_planner *p, nw_plan_product *pr) {
    nw_node *add = nw_plan_only_reader(p, pr->value);
    if (!add || add->domain[0] || strcmp(add->op_type, "Add") != 0) return NW_OK;
    int other = add->in[0] == pr->value ? add->in[1] : add->in[0];
    if (p->desc[other].rank > p->desc[pr->value].rank) return NW_OK;
    NW_TRY(row_vector(p, other, (size_t)pr->g.n, 1.0f, &pr->bias));
    if (!pr->bias) return NW_OK;
    pr->value = add->out[0];
    pr->add = (int)(add - p->graph->nodes);
    return NW_OK;
}

static nw_status examine(nw_planner *p, const nw_node *node, nw_plan_product *pr, bool *ok) {
    *ok = false;
    bool gemm = !node->domain[0] && strcmp(node->op_type, "Gemm") == 0;
    bool matmul = !node->domain[0] && strcmp(node->op_type, "MatMul") == 0;
    if (!gemm && !matmul) return NW_OK;
    const nw_tensor *a = &p->desc[node->in[0]], *b = &p->desc[node->in[1]];
    if (a->format != NW_F32 || (b->format != NW_F32 && !b->qparam)) return NW_OK;
    nw_op_call call;
    NW_TRY(nw_plan_call(p, node, &call));
    *pr = (nw_plan_product){.value = node->out[0], .bias_value = NW_ABSENT, .add = -1};
    if (gemm) {
        nw_gemm_geometry g;
        const nw_tensor *c = nw_node_in(node, 2) < 0 ? NULL : &p->desc[node->in[2]];
        NW_TRY(nw_gemm_geometry_of(&call, a, b, c, &g));
        pr->g = g.product;
        if (g.product.trans_a || g.alpha != 1.0f) return NW_OK;
        if (g.has_c) {
            NW_TRY(row_vector(p, node->in[2], (size_t)pr->g.n, g.beta, &pr->bias));
            if (!pr->bias && is_learned_row(p, node, &g)) pr->bias_value = node->in[2];
            if (!pr->bias && pr->bias_value < 0) return NW_OK;
        }
    } else {
        NW_TRY(nw_matmul_geometry_of(&call, a, b, &pr->g, NULL));
        if (!p->options->reference) NW_TRY(absorb_bias(p, pr));
    }
    *ok = pr->g.batch > 0 && pr->g.m > 0 && pr->g.n > 0 && pr->g.k > 0;
    return NW_OK;
}

static void set_strides(matmul_state *s) {
    s->stride_n = s->g.trans_b ? (size_t)s->g.k : 1;
    s->stride_k = s->g.trans_b ? 1 : (size_t)s->g.n;
}

/* Both operands are codes; b is packed when running. Rows of a that bring their own grid, and b's if it is found while
 * running, make the columns' arrays anew. */
static nw_status dynamic_integer(nw_planner *p, const nw_node *node, matmul_state *s,
                                 const nw_plan_product *pr, const nw_follow *follow) {
    static const nw_grid unit = {.scale = 1.0f};
    const nw_grid *a = s->by_row ? &unit : &p->grid[node->in[0]], *b = &p->grid[node->in[1]];
    const size_t n = (size_t)s->g.n, k = (size_t)s->g.k;
    float *scale = nw_arena_array(&p->scratch, n, sizeof *scale);
    int32_t *zero = nw_arena_array(&p->plan->arena, n, sizeof *zero),
            *none = nw_arena_array(&p->scratch, n, sizeof *none);
    void *ones;
    if (!scale || !zero || !none) return NW_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        scale[i] = s->by_row ? 1.0f : b->scale;
        zero[i] = s->by_row ? 0 : b->zero - 128;
    }
    nw_weights w = {.scale = scale, .zero = s->by_row || b->zero == 128 ? NULL : zero, .channels = n};
    NW_TRY(nw_plan_epilogue(p, a, &w, pr->bias, none, follow, &s->u8s8_args.epilogue));
    NW_TRY(nw_plan_constant(p, k, &ones));
    memset(ones, 1, k);
    s->ones = ones;
    s->a_grid = *a;
    s->b_grid = *b;
    s->packed_bytes = nw_align_size(nw_gemm_u8s8_packed_bytes(s->u8s8, n, k, 1) +
                                    n * (2 * sizeof(int32_t) + sizeof(float)));
    return NW_OK;
}

static nw_status static_integer(nw_planner *p, const nw_node *node, matmul_state *s,
                                const nw_plan_product *pr, const nw_weights *w, const nw_follow *follow) {
    size_t n = (size_t)s->g.n, k = (size_t)s->g.k;
    int32_t *sums = nw_arena_array(&p->plan->arena, n, sizeof *sums);
    void *packed;
    if (!sums) return NW_E_MEMORY;
    nw_gemm_u8s8_col_sums(n, k, 1, w->codes, s->stride_n, 0, s->stride_k, w->zero, sums);
    /* Rows bring their own scale and zero point: here the unit grid stands for theirs. */
    const nw_grid unit = {.scale = 1.0f};
    const nw_grid *a = s->by_row ? &unit : &p->grid[node->in[0]];
    NW_TRY(nw_plan_epilogue(p, a, w, pr->bias, sums, follow, &s->u8s8_args.epilogue));
    s->u8s8_args.epilogue.col_sum = sums;
    NW_TRY(nw_plan_constant(p, nw_gemm_u8s8_packed_bytes(s->u8s8, n, k, 1), &packed));
    nw_gemm_u8s8_pack(s->u8s8, n, k, 1, w->codes, s->stride_n, 0, s->stride_k, packed);
    nw_plan_packed(p, node->in[1]);
    s->u8s8_args.packed = packed;
    return NW_OK;
}

static nw_status static_float(nw_planner *p, const nw_node *node, matmul_state *s) {
    size_t n = (size_t)s->g.n, k = (size_t)s->g.k;
    nw_tensor real = p->graph->values[node->in[1]].constant->tensor;
    void *packed;
    if (real.qparam || real.format != NW_F32) NW_TRY(nw_tensor_to_f32(&p->scratch, &real, &real));
    NW_TRY(nw_plan_constant(p, nw_gemm_f32_packed_bytes(s->f32, n, k, 1), &packed));
    nw_gemm_f32_pack(s->f32, n, k, 1, real.data, s->stride_n, 0, s->stride_k, packed);
    nw_plan_packed(p, node->in[1]);
    s->f32_args.packed = packed;
    return NW_OK;
}

/* b is packed when running. */
static nw_status dynamic_float(nw_planner *p, const nw_node *node, matmul_state *s) {
    s->alone = s->g.batch == 1;
    s->order = (nw_weight_order){.kernel = s->f32,
                                 .groups = 1,
                                 .n = (size_t)s->g.n,
                                 .k = (size_t)s->g.k,
                                 .taps = 1,
                                 .stride_n = s->stride_n,
                                 .stride_k = s->stride_k};
    NW_TRY(nw_plan_taps_in_order(p, 1, &s->order.tap_at));
    return nw_weight_order_bytes(p, node, &s->order, &s->packed_bytes);
}

/* Whether a product has rounded operands neither of which is constant, a with grids found while running. */
static nw_status of_rounded(nw_planner *p, const nw_node *node, const nw_plan_product *pr, bool *ok) {
    *ok = pr->g.k <= 65536 && pr->bias_value < 0 && !nw_graph_constant(p->graph, node->in[1]);
    if (*ok) NW_TRY(nw_plan_rounded_rows(p, node->in[0], ok));
    return *ok ? nw_plan_rounded(p, node->in[1], ok) : NW_OK;
}

nw_status nw_matmul_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok) {
    nw_plan_product pr;
    nw_weights w;
    NW_TRY(examine(p, node, &pr, ok));
    if (!*ok) return NW_OK;
    NW_TRY(of_rounded(p, node, &pr, ok));
    if (*ok) return NW_OK;
    *ok = true;
    if (node->in[0] != codes || node->in[1] == codes || pr.g.k > 65536 || pr.g.batch != 1) *ok = false;
    if (!*ok || p->desc[node->in[1]].rank != 2) *ok = false;
    if (!*ok) return NW_OK;
    NW_TRY(nw_plan_weights(p, node->in[1], pr.g.trans_b ? 0 : 1, &w, ok));
    return *ok ? NW_OK : nw_plan_wcodes_whole(p, node->in[1], pr.g.trans_b ? 0 : 1, ok);
}

nw_status nw_lower_matmul(nw_planner *p, nw_node *node, bool *ok) {
    nw_plan_product pr;
    NW_TRY(examine(p, node, &pr, ok));
    if (!*ok) return NW_OK;
    int a = node->in[0], b = node->in[1];
    bool constant = p->graph->values[b].constant != NULL, integer = false;
    nw_weights w = {0};
    int n_axis = p->desc[b].rank - (pr.g.trans_b ? 2 : 1);
    bool by_row = p->row_grid[a][0] >= 0;
    bool fits = (nw_plan_on_grid(p, a) || by_row) && pr.g.k <= 65536;
    if (constant) NW_TRY(nw_lower_bits_product(p, node, &pr, ok));
    if (constant && *ok) return NW_OK;
    *ok = true;
    if (fits && constant && pr.g.batch == 1 && p->desc[b].rank == 2)
        NW_TRY(nw_plan_weights(p, b, n_axis, &w, &integer));
    if (constant && !integer) {
        NW_TRY(nw_lower_wcodes(p, node, &pr, ok));
        if (*ok) return NW_OK;
        *ok = true;
    }
    bool dynamic = !integer && (!constant || pr.g.batch > 1);
    if (fits && dynamic && !by_row && nw_plan_on_grid(p, b) && pr.bias_value < 0) integer = true;
    if (dynamic && by_row) NW_TRY(of_rounded(p, node, &pr, &integer));

    nw_follow follow;
    NW_TRY(nw_plan_follow(p, pr.value, integer && !by_row, &follow));
    bool codes_out = follow.grid.scale > 0;
    matmul_state s = {.g = pr.g,
                      .dynamic = dynamic,
                      .learned_bias = pr.bias_value >= 0,
                      .by_row = by_row,
                      .one_grid = by_row && !dynamic && p->one_row_grid[a],
                      .a_size = integer ? 1 : 4,
                      .y_size = codes_out ? 1 : 4};
    set_strides(&s);
    s.work = nw_product_nanoseconds(integer, (size_t)s.g.m, (size_t)s.g.n, (size_t)s.g.k);
    nw_rows rows = {.stride = (size_t)s.g.k * s.a_size};
    if (integer) {
        s.u8s8 = nw_gemm_u8s8_select(p->options->isa);
        s.u8s8_args = (nw_gemm_u8s8_args){.m = (size_t)s.g.m,
                                          .n = (size_t)s.g.n,
                                          .k = (size_t)s.g.k,
                                          .taps = 1,
                                          .rows = rows,
                                          .ldc = (size_t)s.g.n * s.y_size};
        if (dynamic)
            NW_TRY(dynamic_integer(p, node, &s, &pr, &follow));
        else
            NW_TRY(static_integer(p, node, &s, &pr, &w, &follow));
    } else {
        s.f32 = nw_gemm_f32_select(p->options->isa);
        s.f32_args = (nw_gemm_f32_args){.m = (size_t)s.g.m,
                                        .n = (size_t)s.g.n,
                                        .k = (size_t)s.g.k,
                                        .taps = 1,
                                        .rows = rows,
                                        .ldc = (size_t)s.g.n * 4,
                                        .bias = pr.bias,
                                        .lo = follow.lo,
                                        .hi = follow.hi};
        if (!dynamic)
            NW_TRY(static_float(p, node, &s));
        else
            NW_TRY(dynamic_float(p, node, &s));
    }
    int in[IN_COUNT], out[2] = {-1, -1};
    for (int i = 0; i < IN_COUNT; i++) in[i] = -1;
    NW_TRY(nw_plan_need(p, a, nw_form_of(integer, false), &in[IN_A]));
    if (by_row) memcpy(&in[IN_ROWS], p->row_grid[a], sizeof p->row_grid[a]);
    if (pr.bias_value >= 0) NW_TRY(nw_plan_need(p, pr.bias_value, NW_FORM_REAL, &in[IN_BIAS]));
    if (dynamic) {
        NW_TRY(nw_plan_need(p, b, nw_form_of(integer, false), &in[IN_B]));
        if (integer) memcpy(&in[IN_B_GRID], p->row_grid[b], sizeof p->row_grid[b]);
    }
    if (pr.add >= 0) p->done[pr.add] = 1;
    nw_plan_fuse(p, &follow);
    NW_TRY(nw_plan_define(p, follow.value, nw_form_of(codes_out, false), &out[0]));
    if (dynamic) NW_TRY(nw_plan_temporary(p, s.packed_bytes * (size_t)s.g.batch, &out[1]));
    if (s.one_grid) NW_TRY(nw_plan_temporary(p, (size_t)s.g.n * (sizeof(float) + sizeof(int32_t)), &out[1]));
    NW_TRY(NW_PLAN_STEP(p, node, run_matmul, integer ? s.u8s8->name : s.f32->name, &s, in, out));
    nw_plan_work(p, integer, (double)s.g.batch * (double)s.g.m * (double)s.g.n * (double)s.g.k);
    if (!integer)
        nw_plan_reason(p, !nw_plan_on_grid(p, a) ? "float: its input is not on an 8-bit grid"
                                                 : "float: its right-hand side has no 8-bit codes");
    return NW_OK;
}
