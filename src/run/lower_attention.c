/* lower_attention.c: Attention, head by head: a block of queries' scores stays in cache from the product with the keys
 * through the softmax to the product with the values. Division by the sums of the weights comes last, on the shorter rows of
 * the result. A product both of whose operands are rounded to 8 bits is one of codes. */
#include "run/plan.h"

#include "op/attention.h"
#include "op/quantize.h"

#include <string.h>

#define SCORE_BYTES  (24 * 1024) /* of a block of queries: leaves room for a panel in the first-level cache */
#define MOST_QUERIES 64

/* Where Q, K, V or Y lies: elements from one row (token) or head to the next, and from one sample to the next. */
typedef struct place {
    size_t row, head, batch;
} place;

/* Where in a key head's share of the workspace its parts are. */
typedef struct parts {
    size_t k, v;            /* packed */
    size_t k_columns;       /* scale and bias of each score's column */
    size_t v_columns;       /* scale of each result's column, and what a weight's code adds to it */
    size_t scores, weights; /* of a block of queries: real numbers, and codes */
    size_t bytes;
} parts;

typedef struct attention_state {
    nw_attention a;
    const nw_gemm_f32_kernel *f32;
    const nw_gemm_u8s8_kernel *u8s8;
    nw_elementwise ew;
    bool score_codes, result_codes; /* which products are of codes */
    bool measured;                  /* codes of weights whose largest is 255 in each row */
    bool normalized;                /* weights are divided by their sum before the product */
    bool masked;            /* the product of codes adds the mask, which is the same for all queries */
    float scale;            /* of what it leaves */
    nw_unary_f32_fn *round; /* weights to floats of 16 bits; NULL: not to these */
    int64_t mask_strides[4];
    place q, k, v, y;
    nw_grid grids[3];    /* of Q, K and V; scale 0: found while running, or none */
    size_t block;        /* queries at a time */
    size_t code_row;     /* bytes from a row of weights to the next */
    const uint8_t *ones; /* a row of Q's length */
    parts at;
} attention_state;

typedef struct attention_job {
    const attention_state *s;
    const char *q, *k, *v;
    nw_grid grids[3];
    const float *mask;
    float *y;
    char *workspace;
} attention_job;

/* A head of a sample, and what its key head's share of the workspace holds. */
typedef struct head {
    size_t batch, index;
    char *share;
} head;

/* What the softmax leaves of a block of queries. */
typedef struct weighed {
    float sums[MOST_QUERIES];
    int32_t totals[MOST_QUERIES]; /* of codes */
} weighed;

/* ---- the softmax ------------------------------------------------------------------------------------------------- */

/* Rows of n of the block's scores → weights, as codes if they are measured, and their sums. */
static void weigh_rows(const attention_state *s, const head *h, size_t row, size_t rows, size_t n,
                       const float *mask, weighed *w) {
    const size_t total = (size_t)s->a.total, next = (size_t)s->mask_strides[2];
    float *scores = (float *)(h->share + s->at.scores) + row * total;
    uint8_t *codes = (uint8_t *)(h->share + s->at.weights) + row * s->code_row;
    if (s->measured)
        s->ew.weigh_u8(rows, n, scores, total, s->scale, mask, next, codes, s->code_row, w->sums + row,
                       w->totals + row);
    else
        s->ew.weigh_f32(rows, n, scores, total, s->scale, mask, next, w->sums + row);
    if (n == total) return;
    for (size_t r = 0; r < rows; r++)
        if (s->measured)
            memset(codes + r * s->code_row + n, 0, total - n);
        else
            memset(scores + r * total + n, 0, (total - n) * sizeof *scores);
}

/* Weights divided by their sums, then restricted; codes of them where the product wants codes. */
static void round_rows(const attention_state *s, const head *h, size_t rows, weighed *w) {
    const size_t total = (size_t)s->a.total;
    float *row = (float *)(h->share + s->at.scores);
    uint8_t *codes = (uint8_t *)(h->share + s->at.weights);
    const void *code_rows[MOST_QUERIES];
    for (size_t r = 0; r < rows; r++, row += total) {
        const float factor = w->sums[r] != 0.0f ? 1.0f / w->sums[r] : 0.0f;
        s->ew.mul_f32(total, row, 1, &factor, 0, row);
        code_rows[r] = codes + r * s->code_row;
        if (s->result_codes)
            s->ew.quantize_u8(total, row, s->a.rounding_scale, 0, 0, s->a.rounding_top,
                              codes + r * s->code_row);
        else if (s->round)
            s->round(total, row, row);
        else
            nw_attention_round(&s->a, total, row);
    }
    if (s->result_codes) s->u8s8->row_sums(rows, total, 1, code_rows, 0, w->totals);
}

/* The mask's row of a query; NULL without a mask. */
static const float *mask_of(const attention_job *j, const head *h, size_t query) {
    const int64_t *strides = j->s->mask_strides;
    if (!j->mask) return NULL;
    return j->mask + h->batch * (size_t)strides[0] + h->index * (size_t)strides[1] +
           query * (size_t)strides[2];
}

static void weigh_block(const attention_job *j, const head *h, size_t first, size_t m, weighed *w) {
    const attention_state *s = j->s;
    const size_t total = (size_t)s->a.total;
    const float *mask = s->masked ? NULL : mask_of(j, h, first);
    for (size_t i = 0, rows = s->a.causal ? 1 : m; i < m; i += rows) {
        const size_t seen = s->a.causal && first + i < total ? first + i + 1 : total;
        weigh_rows(s, h, i, rows, seen, mask ? mask + i * (size_t)s->mask_strides[2] : NULL, w);
    }
    if (s->normalized) round_rows(s, h, m, w);
}

/* ---- the products ------------------------------------------------------------------------------------------------ */

/* Keys or values of a head: their grid's scale for each of n columns. */
static void fill_scales(size_t n, float scale, void *columns) {
    for (size_t i = 0; i < n; i++) ((float *)columns)[i] = scale;
}

static const nw_epilogue real_epilogue = {
    .out = NW_OUT_F32, .flo = -__builtin_inff(), .fhi = __builtin_inff()};

/* Keys, in the order of the product. Of codes q and k on grids with zero points z and y, Σ (q − z)(k − y) is Σ q(k − 128) −
 * z·Σ (k − 128), less what is the same for all keys of a query: it leaves the softmax as it is. The sums of columns are a
 * product with a row of ones. */
static void pack_keys(const attention_job *j, const head *h) {
    const attention_state *s = j->s;
    const size_t total = (size_t)s->a.total, size = (size_t)s->a.head;
    const size_t from = h->batch * s->k.batch + h->index * s->k.head;
    char *packed = h->share + s->at.k;
    if (!s->score_codes) {
        nw_gemm_f32_pack(s->f32, total, size, 1, (const float *)j->k + from, s->k.row, 0, 1, packed);
        return;
    }
    int32_t *bias = (int32_t *)(h->share + s->at.k_columns + total * sizeof(float));
    nw_gemm_u8s8_args sums = {.m = 1,
                              .n = total,
                              .k = size,
                              .taps = 1,
                              .rows = {.base = s->ones},
                              .packed = packed,
                              .c = bias,
                              .ldc = total * sizeof *bias,
                              .epilogue = {.out = NW_OUT_S32}};
    nw_gemm_u8s8_pack_codes(s->u8s8, total, size, (const uint8_t *)j->k + from, s->k.row, 1, packed);
    nw_gemm_u8s8_run(s->u8s8, &sums, 0, 1, 0, total);
    for (size_t i = 0; i < total; i++) bias[i] *= -j->grids[0].zero;
    fill_scales(total, j->grids[0].scale * j->grids[1].scale * s->a.scale, h->share + s->at.k_columns);
}

static void pack_values(const attention_job *j, const head *h) {
    const attention_state *s = j->s;
    const size_t total = (size_t)s->a.total, size = (size_t)s->a.v_head;
    const size_t from = h->batch * s->v.batch + h->index * s->v.head;
    char *packed = h->share + s->at.v;
    if (!s->result_codes) {
        nw_gemm_f32_pack(s->f32, size, total, 1, (const float *)j->v + from, 1, 0, s->v.row, packed);
        return;
    }
    const float unit = s->measured ? 1.0f : s->a.rounding_scale; /* each row has its own */
    int32_t *zeros = (int32_t *)(h->share + s->at.v_columns + size * sizeof(float));
    nw_gemm_u8s8_pack_codes(s->u8s8, size, total, (const uint8_t *)j->v + from, 1, s->v.row, packed);
    fill_scales(size, unit * j->grids[2].scale, h->share + s->at.v_columns);
    for (size_t i = 0; i < size; i++) zeros[i] = j->grids[2].zero - 128;
}

/* Scores of queries [first, first + m): of codes scaled, and with the mask if it is `masked`; of real numbers before that. */
static void score_block(const attention_job *j, const head *h, size_t first, size_t m) {
    const attention_state *s = j->s;
    const size_t total = (size_t)s->a.total, size = (size_t)s->a.head;
    const size_t from = h->batch * s->q.batch + h->index * s->q.head + first * s->q.row;
    float *scores = (float *)(h->share + s->at.scores);
    if (s->score_codes) {
        nw_gemm_u8s8_args args = {.m = m,
                                  .n = total,
                                  .k = size,
                                  .taps = 1,
                                  .rows = {.base = j->q + from, .stride = s->q.row},
                                  .packed = h->share + s->at.k,
                                  .c = scores,
                                  .ldc = total * sizeof *scores,
                                  .epilogue = real_epilogue};
        args.epilogue.scale = (const float *)(h->share + s->at.k_columns);
        args.epilogue.bias = (const int32_t *)(args.epilogue.scale + total);
        if (s->masked) args.epilogue.fbias = mask_of(j, h, first);
        nw_gemm_u8s8_run(s->u8s8, &args, 0, m, 0, total);
        return;
    }
    const nw_gemm_f32_args args = {
        .m = m,
        .n = total,
        .k = size,
        .taps = 1,
        .rows = {.base = (const float *)j->q + from, .stride = s->q.row * sizeof(float)},
        .packed = h->share + s->at.k,
        .c = scores,
        .ldc = total * sizeof *scores,
        .lo = -__builtin_inff(),
        .hi = __builtin_inff()};
    nw_gemm_f32_run(s->f32, &args, 0, m, 0, total);
}

static void result_of_codes(const attention_state *s, const head *h, size_t m, const weighed *w, float *y) {
    const size_t total = (size_t)s->a.total, size = (size_t)s->a.v_head;
    float units[MOST_QUERIES]; /* what a code of each row is worth: the largest weight, 1/sum, is 255 */
    nw_gemm_u8s8_args args = {.m = m,
                              .n = size,
                              .k = total,
                              .taps = 1,
                              .rows = {.base = h->share + s->at.weights, .stride = s->code_row},
                              .packed = h->share + s->at.v,
                              .c = y,
                              .ldc = s->y.row * sizeof *y,
                              .epilogue = real_epilogue};
    nw_epilogue *e = &args.epilogue;
    e->scale = (const float *)(h->share + s->at.v_columns);
    e->col_sum = (const int32_t *)(e->scale + size);
    e->row_zero = w->totals; /* Σ w(v − z) = Σ w(v − 128) − (z − 128)·Σ w */
    if (s->measured) e->row_scale = units;
    for (size_t i = 0; i < m && s->measured; i++)
        units[i] = w->sums[i] != 0.0f ? 1.0f / w->sums[i] / 255.0f : 0.0f;
    nw_gemm_u8s8_run(s->u8s8, &args, 0, m, 0, size);
}

static void result_of_reals(const attention_state *s, const head *h, size_t m, const weighed *w, float *y) {
    const size_t total = (size_t)s->a.total, size = (size_t)s->a.v_head;
    const nw_gemm_f32_args args = {.m = m,
                                   .n = size,
                                   .k = total,
                                   .taps = 1,
                                   .rows = {.base = h->share + s->at.scores, .stride = total * sizeof(float)},
                                   .packed = h->share + s->at.v,
                                   .c = y,
                                   .ldc = s->y.row * sizeof *y,
                                   .lo = -__builtin_inff(),
                                   .hi = __builtin_inff()};
    nw_gemm_f32_run(s->f32, &args, 0, m, 0, size);
    for (size_t i = 0; i < m && !s->normalized; i++) {
        float *row = y + i * s->y.row, factor = w->sums[i] != 0.0f ? 1.0f / w->sums[i] : 0.0f;
        s->ew.mul_f32(size, row, 1, &factor, 0, row);
    }
}

static void run_head(const attention_job *j, const head *h) {
    const attention_state *s = j->s;
    const size_t queries = (size_t)s->a.q_length;
    float *y = j->y + h->batch * s->y.batch + h->index * s->y.head;
    weighed w;
    for (size_t first = 0; first < queries; first += s->block, y += s->block * s->y.row) {
        const size_t m = queries - first < s->block ? queries - first : s->block;
        score_block(j, h, first, m);
        weigh_block(j, h, first, m, &w);
        (s->result_codes ? result_of_codes : result_of_reals)(s, h, m, &w, y);
    }
}

/* Key heads [begin, end) of all samples, each with the query heads that share it. */
static void heads_range(void *user, size_t begin, size_t end) {
    const attention_job *j = user;
    const attention_state *s = j->s;
    const size_t heads = (size_t)s->a.kv_heads, group = (size_t)(s->a.q_heads / s->a.kv_heads);
    for (size_t i = begin; i < end; i++) {
        head h = {i / heads, i % heads, j->workspace + i * s->at.bytes};
        pack_keys(j, &h);
        pack_values(j, &h);
        h.index *= group;
        for (size_t g = 0; g < group; g++, h.index++) run_head(j, &h);
    }
}

/* Inputs of the step: Q, K, V, the mask, then scale and zero point of Q, K, V where these are found while running. */
enum { IN_GRIDS = 4, IN_COUNT = IN_GRIDS + 6 };

static nw_status run_attention(nw_exec *e, const nw_step *step) {
    const attention_state *s = step->state;
    attention_job job = {.s = s,
                         .q = nw_exec_data(e, step->in[0]),
                         .k = nw_exec_data(e, step->in[1]),
                         .v = nw_exec_data(e, step->in[2]),
                         .mask = nw_exec_data(e, step->in[3]),
                         .y = nw_exec_data(e, step->out[0]),
                         .workspace = nw_exec_data(e, step->out[1])};
    for (int i = 0; i < 3; i++) {
        const float *scale = nw_exec_data(e, step->in[IN_GRIDS + 2 * i]);
        const int32_t *zero = nw_exec_data(e, step->in[IN_GRIDS + 2 * i + 1]);
        job.grids[i] = scale ? (nw_grid){.scale = scale[0], .zero = zero[0]} : s->grids[i];
    }
    const double scores = (double)(s->a.batch * s->a.q_heads * s->a.q_length * s->a.total);
    const double work = scores * ((double)s->a.head / (s->score_codes ? 200 : 50) +
                                  (double)s->a.v_head / (s->result_codes ? 200 : 50) + 0.5);
    nw_exec_parallel(e, (size_t)(s->a.batch * s->a.kv_heads), 1, work, heads_range, &job);
    return NW_OK;
}

/* ---- planning ---------------------------------------------------------------------------------------------------- */

static bool is_real(const nw_planner *p, int v) {
    return v >= 0 && p->desc[v].format == NW_F32 && !p->desc[v].qparam;
}

static bool takes(const nw_planner *p, const nw_node *node, const nw_attention *a) {
    for (int i = NW_ATTENTION_Q; i <= NW_ATTENTION_V; i++)
        if (!is_real(p, node->in[i])) return false;
    for (int i = NW_ATTENTION_PAST_K; i <= NW_ATTENTION_VALID; i++)
        if (nw_node_in(node, i) >= 0) return false;
    for (int i = 1; i < node->out_count; i++)
        if (node->out[i] >= 0) return false;
    int mask = nw_node_in(node, NW_ATTENTION_MASK);
    if (mask >= 0 && (!is_real(p, mask) || p->desc[mask].dims[p->desc[mask].rank - 1] != a->total))
        return false;
    if (a->softcap > 0 || a->left >= 0 || a->right >= 0) return false;
    return a->total > 0 && a->head > 0 && nw_tensor_count(&p->desc[node->out[0]]) > 0;
}

/* The node's sizes, and whether lowering takes it. */
static nw_status examine(nw_planner *p, const nw_node *node, nw_attention *a, bool *ok) {
    nw_op_call call;
    *ok = false;
    if (!nw_node_is(node, "Attention")) return NW_OK;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_attention_of(&call, a));
    *ok = takes(p, node, a);
    return NW_OK;
}

/* Which products are of codes: both of their operands are, and sums of products stay exact. */
static nw_status products_of(nw_planner *p, const nw_node *node, const nw_attention *a, bool *scores,
                             bool *result) {
    bool ok[3];
    for (int i = 0; i < 3; i++) NW_TRY(nw_plan_rounded(p, node->in[i], &ok[i]));
    *scores = ok[0] && ok[1] && a->head <= 65536;
    *result = ok[2] && a->rounding == NW_U8 && a->total <= 65536;
    return NW_OK;
}

nw_status nw_attention_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok) {
    nw_attention a;
    bool scores, result;
    NW_TRY(examine(p, node, &a, ok));
    if (!*ok) return NW_OK;
    NW_TRY(products_of(p, node, &a, &scores, &result));
    *ok = (scores && (node->in[0] == codes || node->in[1] == codes)) || (result && node->in[2] == codes);
    return NW_OK;
}

/* Steps between tokens, heads and samples of a tensor [batch, heads, length, size], or packed
 * [batch, length, heads, size]. */
static place place_of(bool packed, int64_t heads, int64_t length, int64_t size) {
    return (place){(size_t)(packed ? heads * size : size), (size_t)(packed ? size : length * size),
                   (size_t)(heads * length * size)};
}

/* The next part of a share, `bytes` long. */
static size_t take(size_t *at, size_t bytes) {
    const size_t begin = *at;
    *at += nw_align_size(bytes + NW_PLAN_SLACK);
    return begin;
}

static void lay_out(attention_state *s) {
    const size_t total = (size_t)s->a.total, size = (size_t)s->a.head, v_size = (size_t)s->a.v_head;
    const size_t column = sizeof(float) + sizeof(int32_t);
    size_t at = 0;
    s->at.k = take(&at, s->score_codes ? nw_gemm_u8s8_packed_bytes(s->u8s8, total, size, 1)
                                       : nw_gemm_f32_packed_bytes(s->f32, total, size, 1));
    s->at.v = take(&at, s->result_codes ? nw_gemm_u8s8_packed_bytes(s->u8s8, v_size, total, 1)
                                        : nw_gemm_f32_packed_bytes(s->f32, v_size, total, 1));
    s->at.k_columns = take(&at, s->score_codes ? total * column : 0);
    s->at.v_columns = take(&at, s->result_codes ? v_size * column : 0);
    s->at.scores = take(&at, s->block * total * sizeof(float));
    s->at.weights = take(&at, s->result_codes ? s->block * s->code_row : 0);
    s->at.bytes = at;
}

static void lay_rows(attention_state *s) {
    const nw_attention *a = &s->a;
    const size_t mr = s->result_codes ? s->u8s8->mr : s->f32->mr;
    size_t most = SCORE_BYTES / ((size_t)a->total * sizeof(float));
    if (most > MOST_QUERIES) most = MOST_QUERIES;
    s->block = most > mr ? most / mr * mr : mr;
    s->code_row = nw_align_size((size_t)a->total);
    s->q = place_of(a->packed, a->q_heads, a->q_length, a->head);
    s->k = place_of(a->packed, a->kv_heads, a->kv_length, a->head);
    s->v = place_of(a->packed, a->kv_heads, a->kv_length, a->v_head);
    s->y = place_of(a->packed, a->q_heads, a->q_length, a->v_head);
}

static nw_status row_of_ones(nw_planner *p, size_t n, const uint8_t **ones) {
    void *row;
    NW_TRY(nw_plan_constant(p, n, &row));
    memset(row, 1, n);
    *ones = row;
    return NW_OK;
}

nw_status nw_lower_attention(nw_planner *p, nw_node *node, bool *ok) {
    attention_state s = {.ew = p->ew};
    nw_attention *const a = &s.a;
    NW_TRY(examine(p, node, a, ok));
    if (!*ok) return NW_OK;
    NW_TRY(products_of(p, node, a, &s.score_codes, &s.result_codes));
    s.f32 = nw_gemm_f32_select(p->options->isa);
    s.u8s8 = nw_gemm_u8s8_select(p->options->isa);
    s.measured = s.result_codes && !(a->rounding_scale > 0);
    s.round = a->rounding == NW_F16 ? p->ew.round_f16 : a->rounding == NW_BF16 ? p->ew.round_bf16 : NULL;
    s.normalized = a->rounding != NW_NONE && !s.measured;
    int mask = nw_node_in(node, NW_ATTENTION_MASK);
    nw_attention_mask_strides(mask < 0 ? NULL : &p->desc[mask], s.mask_strides);
    s.scale = s.score_codes ? 1.0f : a->scale;
    s.masked = s.score_codes && mask >= 0 && s.mask_strides[2] == 0 && s.mask_strides[3] == 1;
    lay_rows(&s);
    lay_out(&s);
    if (s.score_codes) NW_TRY(row_of_ones(p, (size_t)a->head, &s.ones));
    int in[IN_COUNT], out[2];
    for (int i = 0; i < IN_COUNT; i++) in[i] = -1;
    for (int i = 0; i < 3; i++) {
        const int v = node->in[i];
        const bool codes = i < 2 ? s.score_codes : s.result_codes;
        NW_TRY(nw_plan_need(p, v, nw_form_of(codes, false), &in[i]));
        if (!codes) continue;
        s.grids[i] = p->grid[v];
        memcpy(&in[IN_GRIDS + 2 * i], p->row_grid[v], sizeof p->row_grid[v]);
    }
    NW_TRY(nw_plan_need(p, mask, NW_FORM_REAL, &in[3]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL, &out[0]));
    NW_TRY(nw_plan_temporary(p, (size_t)(a->batch * a->kv_heads) * s.at.bytes, &out[1]));
    NW_TRY(NW_PLAN_STEP(p, node, run_attention, s.score_codes || s.result_codes ? s.u8s8->name : s.f32->name,
                        &s, in, out));
    const double scores = (double)(a->batch * a->q_heads * a->q_length) * (double)a->total;
    nw_plan_work(p, s.score_codes, scores * (double)a->head);
    nw_plan_work(p, s.result_codes, scores * (double)a->v_head);
    return NW_OK;
}
