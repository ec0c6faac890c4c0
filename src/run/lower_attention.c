/* lower_attention.c: Attention in f32, head by head: a block of queries' scores stays in cache from the product with
 * the keys through the softmax to the product with the values. Division by the sum of the weights comes last, on the
 * shorter rows of the result. */
#include "run/plan.h"

#include "op/attention.h"

#define SCORE_BYTES  (24 * 1024) /* of a block of queries: leaves room for a panel in the first-level cache */
#define MOST_QUERIES 64

typedef struct attention_state {
    nw_attention a;
    const nw_gemm_f32_kernel *gemm;
    nw_weigh_f32_fn *weigh;
    nw_binary_f32_fn *multiply;
    int64_t mask_strides[4];
    /* elements from one row (token) or head to the next, and from one sample to the next */
    size_t q_row, q_head, q_batch, k_row, k_head, k_batch, v_row, v_head, v_batch, y_row, y_head, y_batch;
    size_t block;                   /* queries at a time */
    size_t k_bytes, v_bytes, share; /* of the workspace, per key head */
} attention_state;

typedef struct attention_job {
    const attention_state *s;
    const float *q, *k, *v, *mask;
    float *y;
    char *workspace;
} attention_job;

/* scores [m][total] → weights and their sums. */
static void weigh_rows(const attention_job *j, size_t batch, size_t head, size_t first, size_t m,
                       float *scores, float *sums) {
    const attention_state *s = j->s;
    const size_t total = (size_t)s->a.total, next = (size_t)s->mask_strides[2];
    const float *mask = NULL;
    if (j->mask)
        mask =
            j->mask + batch * (size_t)s->mask_strides[0] + head * (size_t)s->mask_strides[1] + first * next;
    if (!s->a.causal) {
        s->weigh(m, total, scores, total, s->a.scale, mask, next, sums);
        return;
    }
    for (size_t i = 0; i < m; i++) {
        float *row = scores + i * total;
        size_t query = first + i, seen = query < total ? query + 1 : total;
        s->weigh(1, seen, row, total, s->a.scale, mask ? mask + i * next : NULL, 0, &sums[i]);
        for (size_t key = seen; key < total; key++) row[key] = 0.0f;
    }
}

static void run_head(const attention_job *j, size_t batch, size_t head, const void *k, const void *v,
                     float *scores) {
    const attention_state *s = j->s;
    const size_t queries = (size_t)s->a.q_length, total = (size_t)s->a.total, v_size = (size_t)s->a.v_head;
    const float *q = j->q + batch * s->q_batch + head * s->q_head;
    float *y = j->y + batch * s->y_batch + head * s->y_head;
    float sums[MOST_QUERIES];
    nw_gemm_f32_args score = {.n = total,
                              .k = (size_t)s->a.head,
                              .taps = 1,
                              .packed = k,
                              .c = scores,
                              .ldc = total * sizeof *scores,
                              .lo = -__builtin_inff(),
                              .hi = __builtin_inff()};
    nw_gemm_f32_args result = score;
    result.n = v_size;
    result.k = total;
    result.packed = v;
    result.rows = (nw_rows){.base = scores, .stride = total * sizeof *scores};
    result.ldc = s->y_row * sizeof *y;
    for (size_t first = 0; first < queries; first += s->block) {
        size_t m = queries - first < s->block ? queries - first : s->block;
        score.m = result.m = m;
        score.rows = (nw_rows){.base = q + first * s->q_row, .stride = s->q_row * sizeof *q};
        nw_gemm_f32_run(s->gemm, &score, 0, m, 0, total);
        weigh_rows(j, batch, head, first, m, scores, sums);
        result.c = y + first * s->y_row;
        nw_gemm_f32_run(s->gemm, &result, 0, m, 0, v_size);
        for (size_t i = 0; i < m; i++) {
            float *row = result.c + i * s->y_row, factor = sums[i] != 0.0f ? 1.0f / sums[i] : 0.0f;
            s->multiply(v_size, row, 1, &factor, 0, row);
        }
    }
}

/* Key heads [begin, end) of all samples, each with the query heads that share it. */
static void heads_range(void *user, size_t begin, size_t end) {
    const attention_job *j = user;
    const attention_state *s = j->s;
    const size_t heads = (size_t)s->a.kv_heads, group = (size_t)(s->a.q_heads / s->a.kv_heads);
    for (size_t i = begin; i < end; i++) {
        size_t batch = i / heads, head = i % heads;
        char *k = j->workspace + i * s->share, *v = k + s->k_bytes;
        nw_gemm_f32_pack(s->gemm, (size_t)s->a.total, (size_t)s->a.head, 1,
                         j->k + batch * s->k_batch + head * s->k_head, s->k_row, 0, 1, k);
        nw_gemm_f32_pack(s->gemm, (size_t)s->a.v_head, (size_t)s->a.total, 1,
                         j->v + batch * s->v_batch + head * s->v_head, 1, 0, s->v_row, v);
        for (size_t g = 0; g < group; g++)
            run_head(j, batch, head * group + g, k, v, (float *)(v + s->v_bytes));
    }
}

static nw_status run_attention(nw_exec *e, const nw_step *step) {
    const attention_state *s = step->state;
    attention_job job = {s,
                         nw_exec_data(e, step->in[0]),
                         nw_exec_data(e, step->in[1]),
                         nw_exec_data(e, step->in[2]),
                         nw_exec_data(e, step->in[3]),
                         nw_exec_data(e, step->out[0]),
                         nw_exec_data(e, step->out[1])};
    double work = (double)(s->a.batch * s->a.q_heads * s->a.q_length * s->a.total) *
                  ((double)(s->a.head + s->a.v_head) / 50 + 0.5);
    nw_exec_parallel(e, (size_t)(s->a.batch * s->a.kv_heads), 1, work, heads_range, &job);
    return NW_OK;
}

/* ---- planning ---------------------------------------------------------------------------------------------- */

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

/* Steps between tokens, heads and samples of a tensor [batch, heads, length, size], or packed
 * [batch, length, heads, size]. */
static void strides_of(bool packed, int64_t heads, int64_t length, int64_t size, size_t *row, size_t *head,
                       size_t *batch) {
    *row = (size_t)(packed ? heads * size : size);
    *head = (size_t)(packed ? size : length * size);
    *batch = (size_t)(heads * length * size);
}

nw_status nw_lower_attention(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (!nw_node_is(node, "Attention")) return NW_OK;
    nw_op_call call;
    attention_state s = {
        .gemm = nw_gemm_f32_select(p->options->isa), .weigh = p->ew.weigh_f32, .multiply = p->ew.mul_f32};
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_attention_of(&call, &s.a));
    const nw_attention *a = &s.a;
    if (!takes(p, node, a)) return NW_OK;
    int mask = nw_node_in(node, NW_ATTENTION_MASK);
    nw_attention_mask_strides(mask < 0 ? NULL : &p->desc[mask], s.mask_strides);
    strides_of(a->packed, a->q_heads, a->q_length, a->head, &s.q_row, &s.q_head, &s.q_batch);
    strides_of(a->packed, a->kv_heads, a->kv_length, a->head, &s.k_row, &s.k_head, &s.k_batch);
    strides_of(a->packed, a->kv_heads, a->kv_length, a->v_head, &s.v_row, &s.v_head, &s.v_batch);
    strides_of(a->packed, a->q_heads, a->q_length, a->v_head, &s.y_row, &s.y_head, &s.y_batch);
    size_t row = (size_t)a->total * sizeof(float), most = SCORE_BYTES / row;
    if (most > MOST_QUERIES) most = MOST_QUERIES;
    s.block = most > s.gemm->mr ? most / s.gemm->mr * s.gemm->mr : s.gemm->mr;
    s.k_bytes = nw_gemm_f32_packed_bytes(s.gemm, (size_t)a->total, (size_t)a->head, 1);
    s.v_bytes = nw_gemm_f32_packed_bytes(s.gemm, (size_t)a->v_head, (size_t)a->total, 1);
    s.share = s.k_bytes + s.v_bytes + nw_align_size(s.block * row + NW_PLAN_SLACK);
    int in[4] = {-1, -1, -1, -1}, out[2];
    for (int i = 0; i < 4; i++) NW_TRY(nw_plan_need(p, nw_node_in(node, i), NW_FORM_REAL, &in[i]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL, &out[0]));
    NW_TRY(nw_plan_temporary(p, (size_t)(a->batch * a->kv_heads) * s.share, &out[1]));
    *ok = true;
    NW_TRY(NW_PLAN_STEP(p, node, run_attention, s.gemm->name, &s, in, out));
    double scores = (double)(a->batch * a->q_heads * a->q_length) * (double)a->total;
    nw_plan_work(p, false, scores * (double)(a->head + a->v_head));
    return NW_OK;
}
