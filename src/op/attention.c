/* attention.c: Attention (opset 23 to 25) and RotaryEmbedding. Scores and softmax are in single precision
 * whatever the type. */
#include "op/attention.h"

#include "op/matmul.h"
#include "op/quantize.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static nw_status split_heads(const nw_op_call *call, int64_t hidden, int64_t heads, const char *name,
                             int64_t *head) {
    if (heads > 0 && hidden % heads == 0) {
        *head = hidden / heads;
        return NW_OK;
    }
    return nw_call_fail(call, NW_E_SHAPE,
                        "%s has %" PRId64 " elements per token, which do not divide into %" PRId64
                        " heads (q_num_heads, kv_num_heads)",
                        name, hidden, heads);
}

static nw_status read_sizes(const nw_op_call *call, nw_attention *a) {
    const nw_tensor *q, *k, *v;
    NW_TRY(nw_call_require_real(call, NW_ATTENTION_Q, &q));
    NW_TRY(nw_call_require_real(call, NW_ATTENTION_K, &k));
    NW_TRY(nw_call_require_real(call, NW_ATTENTION_V, &v));
    NW_TRY(nw_call_expect_rank(call, q, "Q", 3, 4));
    if (k->rank != q->rank || v->rank != q->rank)
        return nw_call_fail(call, NW_E_SHAPE, "Q, K and V must have the same number of dimensions");
    a->packed = q->rank == 3;
    int length = q->rank - 2, last = q->rank - 1; /* axes */
    a->batch = q->dims[0];
    a->q_length = q->dims[a->packed ? 1 : length];
    a->kv_length = k->dims[a->packed ? 1 : length];
    if (k->dims[0] != a->batch || v->dims[0] != a->batch || v->dims[length] != a->kv_length)
        return nw_call_fail(call, NW_E_SHAPE, "the batch sizes or lengths of Q, K and V differ");
    int64_t k_head = 0;
    if (a->packed) {
        a->q_heads = nw_node_int(call->node, "q_num_heads", 0);
        a->kv_heads = nw_node_int(call->node, "kv_num_heads", 0);
        NW_TRY(split_heads(call, q->dims[last], a->q_heads, "Q", &a->head));
        NW_TRY(split_heads(call, k->dims[last], a->kv_heads, "K", &k_head));
        NW_TRY(split_heads(call, v->dims[last], a->kv_heads, "V", &a->v_head));
    } else {
        a->q_heads = q->dims[1];
        a->kv_heads = k->dims[1];
        a->head = q->dims[last];
        k_head = k->dims[last];
        a->v_head = v->dims[last];
        if (v->dims[1] != a->kv_heads)
            return nw_call_fail(call, NW_E_SHAPE, "K and V have different numbers of heads");
    }
    if (k_head != a->head) return nw_call_fail(call, NW_E_SHAPE, "the heads of Q and K have different sizes");
    if (a->kv_heads < 1 || a->q_heads % a->kv_heads)
        return nw_call_fail(call, NW_E_SHAPE, "%" PRId64 " query heads cannot share %" PRId64 " key heads",
                            a->q_heads, a->kv_heads);
    return NW_OK;
}

static nw_status read_past(const nw_op_call *call, nw_attention *a) {
    const nw_tensor *k = nw_call_in(call, NW_ATTENTION_PAST_K), *v = nw_call_in(call, NW_ATTENTION_PAST_V);
    if (!k != !v) return nw_call_fail(call, NW_E_FORMAT, "past_key and past_value must be given together");
    if (k) {
        NW_TRY(nw_call_expect_rank(call, k, "past_key", 4, 4));
        a->past = k->dims[2];
    }
    NW_TRY(nw_call_expect_shape(call, NW_ATTENTION_PAST_K, "past_key", false, 4,
                                (int64_t[]){a->batch, a->kv_heads, a->past, a->head}));
    NW_TRY(nw_call_expect_shape(call, NW_ATTENTION_PAST_V, "past_value", false, 4,
                                (int64_t[]){a->batch, a->kv_heads, a->past, a->v_head}));
    if (__builtin_add_overflow(a->past, a->kv_length, &a->total))
        return nw_call_fail(call, NW_E_SHAPE, "the sequence is too long");
    const nw_tensor *valid = nw_call_in(call, NW_ATTENTION_VALID);
    if (!valid) return NW_OK;
    if (k) return nw_call_fail(call, NW_E_FORMAT, "nonpad_kv_seqlen and past_key exclude each other");
    if (!nw_format_is_integer(valid->format) || valid->rank != 1 || valid->dims[0] != a->batch)
        return nw_call_fail(call, NW_E_SHAPE, "nonpad_kv_seqlen must hold one integer for each sample");
    return NW_OK;
}

/* The mask broadcasts to [batch, q_heads, q_length, total]; its last dimension may be shorter than total. */
static nw_status check_mask(const nw_op_call *call, const nw_attention *a) {
    const nw_tensor *mask = nw_call_in(call, NW_ATTENTION_MASK);
    if (!mask) return NW_OK;
    if (mask->format != NW_BOOL) NW_TRY(nw_call_require_real(call, NW_ATTENTION_MASK, &mask));
    NW_TRY(nw_call_expect_rank(call, mask, "attn_mask", 1, 4));
    const int64_t want[4] = {a->batch, a->q_heads, a->q_length, a->total};
    for (int d = 0; d < mask->rank; d++) {
        int64_t dim = mask->dims[d], target = want[4 - mask->rank + d];
        bool last = d == mask->rank - 1;
        if (dim == 1 || dim == target || (last && dim < target)) continue;
        char text[96];
        return nw_call_fail(call, NW_E_SHAPE,
                            "attn_mask is %s, which does not fit %" PRId64 " queries and %" PRId64 " keys",
                            nw_tensor_describe(mask, text, sizeof text), a->q_length, a->total);
    }
    return NW_OK;
}

/* Everything that is computed fits in memory's range, wanted as an output or not. */
static nw_status check_results(const nw_op_call *call, const nw_attention *a) {
    const nw_tensor results[] = {
        {.format = NW_F64, .rank = 4, .dims = {a->batch, a->q_heads, a->q_length, a->v_head}},
        {.format = NW_F64, .rank = 4, .dims = {a->batch, a->kv_heads, a->total, a->head}},
        {.format = NW_F64, .rank = 4, .dims = {a->batch, a->kv_heads, a->total, a->v_head}},
        {.format = NW_F64, .rank = 4, .dims = {a->batch, a->q_heads, a->q_length, a->total}},
    };
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        NW_TRY(nw_tensor_check(call->ctx, &results[i]));
    return NW_OK;
}

nw_status nw_attention_of(const nw_op_call *call, nw_attention *a) {
    *a = (nw_attention){.causal = nw_node_int(call->node, "is_causal", 0) != 0};
    NW_TRY(read_sizes(call, a));
    NW_TRY(read_past(call, a));
    NW_TRY(check_mask(call, a));
    NW_TRY(nw_call_int_attr(call, "left_window_size", -1, -1, (int64_t)1 << 40, &a->left));
    NW_TRY(nw_call_int_attr(call, "right_window_size", -1, -1, (int64_t)1 << 40, &a->right));
    NW_TRY(nw_call_int_attr(call, "qk_matmul_output_mode", 0, 0, 3, &a->output_mode));
    a->scale = nw_node_float(call->node, "scale", a->head > 0 ? 1 / sqrtf((float)a->head) : 1);
    a->softcap = nw_node_float(call->node, "softcap", 0);
    a->rounding = nw_format_by_name(nw_node_string(call->node, NW_WEIGHTS_FORMAT, ""));
    a->rounding_scale = nw_node_float(call->node, NW_WEIGHTS_SCALE, 0);
    a->rounding_top = (int32_t)nw_node_int(call->node, NW_WEIGHTS_TOP, 255);
    if (!(a->scale >= 0)) return nw_call_fail(call, NW_E_ARGUMENT, "attribute scale must not be negative");
    return check_results(call, a);
}

static nw_status attention_infer(nw_op_call *call) {
    nw_attention a;
    NW_TRY(nw_attention_of(call, &a));
    nw_format format = nw_real_format(call->in[NW_ATTENTION_Q]),
              v_format = nw_real_format(call->in[NW_ATTENTION_V]);
    if (a.packed)
        NW_TRY(nw_call_set(call, 0, format, 3, (int64_t[]){a.batch, a.q_length, a.q_heads * a.v_head}));
    else
        NW_TRY(nw_call_set(call, 0, format, 4, (int64_t[]){a.batch, a.q_heads, a.q_length, a.v_head}));
    NW_TRY(nw_call_set(call, 1, nw_real_format(call->in[NW_ATTENTION_K]), 4,
                       (int64_t[]){a.batch, a.kv_heads, a.total, a.head}));
    NW_TRY(nw_call_set(call, 2, v_format, 4, (int64_t[]){a.batch, a.kv_heads, a.total, a.v_head}));
    return nw_call_set(call, 3, format, 4, (int64_t[]){a.batch, a.q_heads, a.q_length, a.total});
}

/* present [batch, heads, total, size] = past [batch, heads, past, size] followed by now, [batch, heads, now,
 * size] or packed [batch, now, heads, size]. */
static void join(const nw_attention *a, const float *past, const float *now, int64_t size, float *present) {
    size_t row = (size_t)size * sizeof *present;
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->kv_heads; h++) {
            int64_t i = b * a->kv_heads + h;
            float *to = present + i * a->total * size;
            if (a->past) memcpy(to, past + i * a->past * size, (size_t)a->past * row);
            to += a->past * size;
            for (int64_t t = 0; t < a->kv_length; t++) {
                int64_t from = a->packed ? (b * a->kv_length + t) * a->kv_heads + h : i * a->kv_length + t;
                memcpy(to + t * size, now + from * size, row);
            }
        }
}

/* What is added to the scores of one query, [total]: 0 or the mask's number; −inf: the key is not seen. */
static void fill_bias(const nw_op_call *call, const nw_attention *a, const int64_t *mask_strides,
                      int64_t batch, int64_t head, int64_t query, float *bias) {
    const nw_tensor *mask = nw_call_in(call, NW_ATTENTION_MASK),
                    *valid_keys = nw_call_in(call, NW_ATTENTION_VALID);
    int64_t valid = valid_keys ? nw_tensor_s64(valid_keys, (size_t)batch) : a->total;
    if (valid < 0) valid = 0;
    if (valid > a->total) valid = a->total;
    /* Where the query stands among the keys. */
    int64_t position = query + (valid_keys ? valid - a->q_length : a->past);
    int64_t mask_row = batch * mask_strides[0] + head * mask_strides[1] + query * mask_strides[2];
    int64_t mask_keys = mask ? mask->dims[mask->rank - 1] : a->total;
    for (int64_t key = 0; key < a->total; key++) {
        bool seen = key < valid && !(a->causal && key > position) &&
                    !(a->left >= 0 && key < position - a->left) &&
                    !(a->right >= 0 && key > position + a->right);
        float add = 0;
        if (mask && key < mask_keys) {
            size_t at = (size_t)(mask_row + key * mask_strides[3]);
            if (mask->format == NW_BOOL)
                seen = seen && nw_tensor_s64(mask, at);
            else
                add = (float)nw_tensor_f64(mask, at);
        } else if (mask) {
            seen = false;
        }
        bias[key] = seen ? add : -INFINITY;
    }
}

/* In place; a row of which no key is seen (the bias decides) becomes 0. */
static void softmax(float *row, const float *bias, int64_t count) {
    float most = -INFINITY, sum = 0;
    bool any = false;
    for (int64_t i = 0; i < count; i++) {
        most = row[i] > most ? row[i] : most;
        any = any || bias[i] != -INFINITY;
    }
    if (!any || most == -INFINITY) {
        memset(row, 0, (size_t)count * sizeof *row);
        return;
    }
    for (int64_t i = 0; i < count; i++) sum += row[i] = expf(row[i] - most);
    for (int64_t i = 0; i < count; i++) row[i] /= sum;
}

void nw_attention_round(const nw_attention *a, size_t count, float *weights) {
    const nw_qparam codes = {
        .format = NW_U8, .qmax = a->rounding_top, .groups = 1, .scales = &a->rounding_scale};
    if (a->rounding == NW_F16)
        for (size_t i = 0; i < count; i++) weights[i] = nw_round_f16(weights[i]);
    else if (a->rounding == NW_BF16)
        for (size_t i = 0; i < count; i++) weights[i] = nw_round_bf16(weights[i]);
    else if (a->rounding == NW_U8 && a->rounding_scale > 0)
        nw_fake_quantize(&codes, 1, (const int64_t[]){(int64_t)count}, weights, weights);
    else if (a->rounding == NW_U8)
        nw_fake_quantize_measured(&codes, count, weights, weights);
}

/* Buffers of one evaluation. */
typedef struct workspace {
    const float *q;
    float *k, *v;  /* present, [batch, kv_heads, total, …] */
    float *y, *qk; /* outputs; qk NULL when not wanted */
    float *scores; /* [q_length, total] */
    float *bias;   /* [total] */
} workspace;

static void run_head(const nw_op_call *call, const nw_attention *a, const int64_t *mask_strides,
                     const workspace *w, int64_t batch, int64_t head) {
    int64_t i = batch * a->q_heads + head, kv = batch * a->kv_heads + head / (a->q_heads / a->kv_heads);
    int64_t q_row = a->packed ? a->q_heads * a->head : a->head,
            y_row = a->packed ? a->q_heads * a->v_head : a->v_head;
    const float *q =
        w->q + (a->packed ? batch * a->q_length * q_row + head * a->head : i * a->q_length * a->head);
    float *y =
        w->y + (a->packed ? batch * a->q_length * y_row + head * a->v_head : i * a->q_length * a->v_head);
    float *qk = w->qk ? w->qk + i * a->q_length * a->total : NULL;
    nw_product qk_product = {.m = a->q_length,
                             .n = a->total,
                             .k = a->head,
                             .a_row = q_row,
                             .a_k = 1,
                             .b_k = 1,
                             .b_column = a->head,
                             .y_row = a->total};
    nw_product_f32(&qk_product, q, w->k + kv * a->total * a->head, w->scores);
    for (int64_t query = 0; query < a->q_length; query++) {
        float *row = w->scores + query * a->total, *shown = qk ? qk + query * a->total : NULL;
        size_t bytes = (size_t)a->total * sizeof *row;
        fill_bias(call, a, mask_strides, batch, head, query, w->bias);
        for (int64_t key = 0; key < a->total; key++) row[key] *= a->scale;
        if (shown && a->output_mode == 0) memcpy(shown, row, bytes);
        if (a->softcap > 0)
            for (int64_t key = 0; key < a->total; key++) row[key] = a->softcap * tanhf(row[key] / a->softcap);
        if (shown && a->output_mode == 1) memcpy(shown, row, bytes);
        for (int64_t key = 0; key < a->total; key++) row[key] += w->bias[key];
        if (shown && a->output_mode == 2) memcpy(shown, row, bytes);
        softmax(row, w->bias, a->total);
        nw_attention_round(a, (size_t)a->total, row);
        if (shown && a->output_mode == 3) memcpy(shown, row, bytes);
    }
    nw_product y_product = {.m = a->q_length,
                            .n = a->v_head,
                            .k = a->total,
                            .a_row = a->total,
                            .a_k = 1,
                            .b_k = a->v_head,
                            .b_column = 1,
                            .y_row = y_row};
    nw_product_f32(&y_product, w->scores, w->v + kv * a->total * a->v_head, y);
}

void nw_attention_mask_strides(const nw_tensor *mask, int64_t strides[4]) {
    int64_t step = 1;
    memset(strides, 0, 4 * sizeof *strides);
    for (int d = mask ? mask->rank - 1 : -1; d >= 0; d--) {
        bool last = d == mask->rank - 1; /* a short last dimension ends the mask, even of length 1 */
        strides[4 - mask->rank + d] = mask->dims[d] == 1 && !last ? 0 : step;
        step *= mask->dims[d];
    }
}

static nw_status attention_eval(nw_op_call *call) {
    nw_attention a;
    workspace w;
    const float *past_k, *past_v, *k, *v;
    float *present_k, *present_v;
    NW_TRY(nw_attention_of(call, &a));
    if (nw_tensor_count(&call->out[0]) == 0 && a.total == 0) return NW_OK;
    NW_TRY(nw_call_f32(call, NW_ATTENTION_Q, &w.q));
    NW_TRY(nw_call_f32(call, NW_ATTENTION_K, &k));
    NW_TRY(nw_call_f32(call, NW_ATTENTION_V, &v));
    NW_TRY(nw_call_f32(call, NW_ATTENTION_PAST_K, &past_k));
    NW_TRY(nw_call_f32(call, NW_ATTENTION_PAST_V, &past_v));
    NW_TRY(nw_call_f32_out(call, 0, &w.y));
    NW_TRY(nw_call_f32_out(call, 1, &present_k));
    NW_TRY(nw_call_f32_out(call, 2, &present_v));
    NW_TRY(nw_call_f32_out(call, 3, &w.qk));
    size_t keys = (size_t)(a.batch * a.kv_heads * a.total), queries = (size_t)a.q_length;
    w.k = present_k;
    w.v = present_v;
    if (!w.k) NW_TRY(nw_call_scratch_bytes(call, keys, (size_t)a.head * sizeof *w.k, (void **)&w.k));
    if (!w.v) NW_TRY(nw_call_scratch_bytes(call, keys, (size_t)a.v_head * sizeof *w.v, (void **)&w.v));
    NW_TRY(nw_call_scratch_bytes(call, queries, (size_t)a.total * sizeof *w.scores, (void **)&w.scores));
    NW_TRY(nw_call_scratch(call, (size_t)a.total, &w.bias));
    join(&a, past_k, k, a.head, w.k);
    join(&a, past_v, v, a.v_head, w.v);
    if (!w.y) NW_TRY(nw_call_scratch(call, nw_tensor_count(&call->out[0]), &w.y));
    int64_t strides[4];
    nw_attention_mask_strides(nw_call_in(call, NW_ATTENTION_MASK), strides);
    for (int64_t b = 0; b < a.batch; b++)
        for (int64_t h = 0; h < a.q_heads; h++) run_head(call, &a, strides, &w, b, h);
    nw_call_f32_done(call, 0, nw_call_wants(call, 0) ? w.y : NULL);
    nw_call_f32_done(call, 1, present_k);
    nw_call_f32_done(call, 2, present_v);
    nw_call_f32_done(call, 3, w.qk);
    return NW_OK;
}

const nw_op nw_op_Attention = {
    .name = "Attention", .domain = "", .infer = attention_infer, .eval = attention_eval};

/* ---- RotaryEmbedding: X, cos_cache, sin_cache, position_ids?
 * ------------------------------------------------------ */

/* x [batch, heads, length, head] or packed [batch, length, heads·head]; the first `rotated` elements of a
 * head turn by the angle of its position: pairs (j, j + rotated/2), or (2j, 2j + 1) when interleaved. */
typedef struct rotary {
    int64_t batch, heads, length, head, rotated,
        positions; /* positions: rows of the caches when ids choose, else 0 */
    bool packed, interleaved;
} rotary;

static nw_status rotary_of(const nw_op_call *call, rotary *r) {
    const nw_tensor *x, *cache, *ids = nw_call_in(call, 3);
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &cache));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 3, 4));
    *r = (rotary){.packed = x->rank == 3, .interleaved = nw_node_int(call->node, "interleaved", 0) != 0};
    r->batch = x->dims[0];
    r->length = x->dims[r->packed ? 1 : 2];
    r->heads = r->packed ? nw_node_int(call->node, "num_heads", 0) : x->dims[1];
    r->head = x->dims[x->rank - 1];
    if (r->packed) NW_TRY(split_heads(call, r->head, r->heads, "the input", &r->head));
    NW_TRY(nw_call_int_attr(call, "rotary_embedding_dim", 0, 0, r->head, &r->rotated));
    if (r->rotated == 0) r->rotated = r->head;
    if (r->rotated % 2)
        return nw_call_fail(call, NW_E_SHAPE, "the rotated part of a head must have an even size");
    if (ids) {
        NW_TRY(nw_call_expect_rank(call, cache, "cos_cache", 2, 2));
        r->positions = cache->dims[0];
        if (!nw_format_is_integer(ids->format) || ids->rank != 2 || ids->dims[0] != r->batch ||
            ids->dims[1] != r->length)
            return nw_call_fail(call, NW_E_SHAPE, "position_ids must hold an integer for each token");
    }
    const int64_t by_id[2] = {r->positions, r->rotated / 2},
                  by_token[3] = {r->batch, r->length, r->rotated / 2};
    NW_TRY(nw_call_expect_shape(call, 1, "cos_cache", true, ids ? 2 : 3, ids ? by_id : by_token));
    return nw_call_expect_shape(call, 2, "sin_cache", true, ids ? 2 : 3, ids ? by_id : by_token);
}

static nw_status rotary_infer(nw_op_call *call) {
    rotary r;
    NW_TRY(rotary_of(call, &r));
    return nw_call_set_like(call, 0, call->in[0]);
}

static void rotate(const rotary *r, const float *x, const float *cosine, const float *sine, float *y) {
    int64_t half = r->rotated / 2;
    for (int64_t j = 0; j < half; j++) {
        int64_t one = r->interleaved ? 2 * j : j, two = r->interleaved ? 2 * j + 1 : j + half;
        y[one] = cosine[j] * x[one] - sine[j] * x[two];
        y[two] = sine[j] * x[one] + cosine[j] * x[two];
    }
    for (int64_t j = r->rotated; j < r->head; j++) y[j] = x[j];
}

static nw_status rotary_eval(nw_op_call *call) {
    rotary r;
    const float *x, *cosine, *sine;
    float *y;
    NW_TRY(rotary_of(call, &r));
    if (nw_tensor_count(call->in[0]) == 0) return NW_OK;
    NW_TRY(nw_call_f32(call, 0, &x));
    NW_TRY(nw_call_f32(call, 1, &cosine));
    NW_TRY(nw_call_f32(call, 2, &sine));
    NW_TRY(nw_call_f32_out(call, 0, &y));
    if (!y) return NW_OK;
    const nw_tensor *ids = nw_call_in(call, 3);
    for (int64_t token = 0; token < r.batch * r.length; token++) {
        int64_t row = ids ? nw_tensor_s64(ids, (size_t)token) : token;
        if (ids && (row < 0 || row >= r.positions))
            return nw_call_fail(call, NW_E_SHAPE,
                                "position %" PRId64 " is outside of the caches, which hold %" PRId64, row,
                                r.positions);
        int64_t b = token / r.length, t = token % r.length;
        for (int64_t h = 0; h < r.heads; h++) {
            int64_t at =
                r.packed ? (token * r.heads + h) * r.head : ((b * r.heads + h) * r.length + t) * r.head;
            rotate(&r, x + at, cosine + row * (r.rotated / 2), sine + row * (r.rotated / 2), y + at);
        }
    }
    nw_call_f32_done(call, 0, y);
    return NW_OK;
}

const nw_op nw_op_RotaryEmbedding = {
    .name = "RotaryEmbedding", .domain = "", .infer = rotary_infer, .eval = rotary_eval};
