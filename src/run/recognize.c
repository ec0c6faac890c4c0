#include "run/recognize.h"

#include <math.h>
#include <string.h>

#define MOST_NODES 16

typedef struct matcher {
    nw_graph *g;
    const nw_tensor *desc;
    const nw_taps *taps;
    nw_uses uses;
    int nodes[MOST_NODES], count; /* of the form being matched */
} matcher;

/* The node that makes v, if it is of this type; it becomes part of the form. */
static nw_node *maker(matcher *m, int v, const char *type) {
    int n = v < 0 ? NW_ABSENT : m->uses.producer[v];
    if (n < 0 || !nw_node_is(&m->g->nodes[n], type)) return NULL;
    for (int i = 0; i < m->count; i++)
        if (m->nodes[i] == n) return &m->g->nodes[n];
    if (m->count == MOST_NODES) return NULL;
    m->nodes[m->count++] = n;
    return &m->g->nodes[n];
}

/* Value of a constant of one number. */
static bool number(const matcher *m, int v, float *out) {
    const nw_constant *c = nw_graph_constant(m->g, v);
    if (!c || nw_tensor_count(&c->tensor) != 1 || c->tensor.qparam || !nw_format_is_float(c->tensor.format))
        return false;
    *out = (float)nw_tensor_f64(&c->tensor, 0);
    return true;
}

static bool near(float a, float b) {
    return fabsf(a - b) <= 1e-5f * fabsf(b);
}

/* a OP b or b OP a with b a number: the other operand, or NW_ABSENT. */
static int other_of(const matcher *m, const nw_node *node, float *value) {
    if (number(m, node->in[1], value)) return node->in[0];
    if (number(m, node->in[0], value)) return node->in[1];
    return NW_ABSENT;
}

/* What the form computes on the way is read by the form only; `result` is its last value. */
static bool closed(const matcher *m, int result) {
    for (int i = 0; i < m->count; i++) {
        const nw_node *node = &m->g->nodes[m->nodes[i]];
        for (int o = 0; o < node->out_count; o++) {
            int v = node->out[o];
            if (v < 0 || v == result) continue;
            if (m->uses.outputs[v] || (v < m->taps->count && m->taps->marks[v])) return false;
            for (int u = m->uses.first[v]; u < m->uses.first[v + 1]; u++) {
                bool inside = false;
                for (int k = 0; k < m->count; k++) inside |= m->nodes[k] == m->uses.users[u];
                if (!inside) return false;
            }
        }
    }
    return true;
}

/* The form's nodes die; the last of them becomes the single operator. */
static nw_status collapse(matcher *m, nw_node *last, const char *type, int in_count, const int *in) {
    int out = last->out[0];
    for (int i = 0; i < m->count; i++) m->g->nodes[m->nodes[i]].dead = true;
    const char *name = last->name;
    nw_node *node; /* adding it may move the others */
    NW_TRY(nw_graph_add_node(m->g, "", type, name, in_count, in, 1, &out, &node));
    node->op = nw_op_find("", type);
    m->uses.producer[out] = m->g->node_count - 1;
    return NW_OK;
}

/* ---- Gelu: x·0.5·(1 + erf(x/√2)), the factors in any order ------------------------------------------------------- */

/* x when v is erf(x/√2) + 1. */
static int erf_term(matcher *m, int v) {
    float one = 0, root = 0;
    nw_node *add = maker(m, v, "Add");
    int erf_out = add ? other_of(m, add, &one) : NW_ABSENT;
    nw_node *erf = erf_out >= 0 && one == 1.0f ? maker(m, erf_out, "Erf") : NULL;
    if (!erf) return NW_ABSENT;
    nw_node *div = maker(m, erf->in[0], "Div");
    if (div && number(m, div->in[1], &root) && near(root, 1.41421356f)) return div->in[0];
    nw_node *mul = maker(m, erf->in[0], "Mul");
    int x = mul ? other_of(m, mul, &root) : NW_ABSENT;
    return x >= 0 && near(root, 0.70710678f) ? x : NW_ABSENT;
}

/* x when v is x·0.5 */
static int half_of(matcher *m, int v) {
    float half;
    nw_node *mul = maker(m, v, "Mul");
    int x = mul ? other_of(m, mul, &half) : NW_ABSENT;
    return x >= 0 && half == 0.5f ? x : NW_ABSENT;
}

static nw_status match_gelu(matcher *m, int index) {
    nw_node *last = &m->g->nodes[index];
    int x = NW_ABSENT;
    for (int side = 0; side < 2 && x < 0; side++) {
        int a = last->in[side], b = last->in[1 - side];
        /* (x·0.5)·(1 + erf) */
        m->count = 0;
        m->nodes[m->count++] = index;
        int from = erf_term(m, b);
        if (from >= 0 && half_of(m, a) == from) x = from;
        if (x >= 0) break;
        /* x·((1 + erf)·0.5) */
        m->count = 0;
        m->nodes[m->count++] = index;
        int scaled = half_of(m, b);
        if (scaled >= 0 && erf_term(m, scaled) == a) x = a;
        if (x >= 0) break;
        /* (x·(1 + erf))·0.5 */
        float half;
        m->count = 0;
        m->nodes[m->count++] = index;
        nw_node *product = number(m, a, &half) && half == 0.5f ? maker(m, b, "Mul") : NULL;
        for (int k = 0; product && k < 2 && x < 0; k++) {
            m->count = 2; /* without what was tried on the other side, such as the Add that makes x */
            if (erf_term(m, product->in[k]) == product->in[1 - k]) x = product->in[1 - k];
        }
    }
    if (x < 0 || m->desc[x].format != NW_F32 || !closed(m, last->out[0])) return NW_OK;
    return collapse(m, last, "Gelu", 1, &x);
}

/* x when v is tanh(√(2/π)·(x + 0.044715·x³)) + 1. */
static int tanh_term(matcher *m, int v) {
    float one = 0, root = 0, cubic = 0, three = 0;
    nw_node *plus = maker(m, v, "Add");
    int tanh_out = plus ? other_of(m, plus, &one) : NW_ABSENT;
    nw_node *tanh = tanh_out >= 0 && one == 1.0f ? maker(m, tanh_out, "Tanh") : NULL;
    nw_node *scale = tanh ? maker(m, tanh->in[0], "Mul") : NULL;
    int sum_out = scale ? other_of(m, scale, &root) : NW_ABSENT;
    nw_node *sum = sum_out >= 0 && near(root, 0.79788456f) ? maker(m, sum_out, "Add") : NULL;
    for (int side = 0; sum && side < 2; side++) {
        const int count = m->count;
        nw_node *mul = maker(m, sum->in[side], "Mul");
        int cube_out = mul ? other_of(m, mul, &cubic) : NW_ABSENT;
        nw_node *cube = cube_out >= 0 && near(cubic, 0.044715f) ? maker(m, cube_out, "Pow") : NULL;
        if (cube && number(m, cube->in[1], &three) && three == 3.0f && cube->in[0] == sum->in[1 - side])
            return cube->in[0];
        m->count = count;
    }
    return NW_ABSENT;
}

/* (x·0.5)·(1 + tanh(…)), the approximation. */
static nw_status match_gelu_tanh(matcher *m, int index) {
    nw_node *last = &m->g->nodes[index];
    for (int side = 0; side < 2; side++) {
        m->count = 0;
        m->nodes[m->count++] = index;
        int x = tanh_term(m, last->in[1 - side]);
        if (x < 0 || half_of(m, last->in[side]) != x || m->desc[x].format != NW_F32 ||
            !closed(m, last->out[0]))
            continue;
        NW_TRY(collapse(m, last, "Gelu", 1, &x));
        return nw_node_set_string(m->g, &m->g->nodes[m->g->node_count - 1], "approximate", "tanh");
    }
    return NW_OK;
}

/* ---- Swish: x·sigmoid(x), and HardSwish: x·clamp(x/6 + 1/2, 0, 1) ------------------------------------------------ */

static nw_status match_swish(matcher *m, int index) {
    nw_node *last = &m->g->nodes[index];
    for (int side = 0; side < 2; side++) {
        int x = last->in[1 - side];
        m->count = 0;
        m->nodes[m->count++] = index;
        nw_node *soft = maker(m, last->in[side], "Sigmoid"),
                *hard = soft ? NULL : maker(m, last->in[side], "HardSigmoid");
        const nw_node *gate = soft ? soft : hard;
        if (!gate || gate->in[0] != x || m->desc[x].format != NW_F32 || !closed(m, last->out[0])) continue;
        if (hard && !(near(nw_node_float(hard, "alpha", 0.2f), 1.0f / 6) &&
                      nw_node_float(hard, "beta", 0.5f) == 0.5f))
            continue;
        return collapse(m, last, soft ? "Swish" : "HardSwish", 1, &x);
    }
    return NW_OK;
}

/* ---- LayerNormalization: (x − mean)/sqrt(mean((x − mean)²) + ε)·γ + β over the last axis ------------------------- */

/* x when v is the mean of x over its last axis, kept as an axis of 1. */
static int mean_of(matcher *m, int v) {
    nw_node *mean = maker(m, v, "ReduceMean");
    if (!mean || !nw_node_int(mean, "keepdims", 1)) return NW_ABSENT;
    int rank = m->desc[mean->in[0]].rank;
    const int64_t *axes;
    size_t count;
    int64_t axis;
    if (nw_node_ints(mean, "axes", &axes, &count)) {
        if (count != 1) return NW_ABSENT;
        axis = axes[0];
    } else {
        const nw_constant *c = nw_graph_constant(m->g, nw_node_in(mean, 1));
        if (!c || nw_tensor_count(&c->tensor) != 1) return NW_ABSENT;
        axis = nw_tensor_s64(&c->tensor, 0);
    }
    return axis == -1 || axis == rank - 1 ? mean->in[0] : NW_ABSENT;
}

/* d when v is d². */
static int square_of(matcher *m, int v) {
    float two;
    nw_node *pow = maker(m, v, "Pow");
    if (pow) return number(m, pow->in[1], &two) && two == 2.0f ? pow->in[0] : NW_ABSENT;
    nw_node *mul = maker(m, v, "Mul");
    return mul && mul->in[0] == mul->in[1] ? mul->in[0] : NW_ABSENT;
}

/* x when v is x − mean(x). */
static int centered(matcher *m, int v) {
    nw_node *sub = maker(m, v, "Sub");
    return sub && mean_of(m, sub->in[1]) == sub->in[0] ? sub->in[0] : NW_ABSENT;
}

/* A constant with one number for each element of the last axis of x. */
static bool row_constant(const matcher *m, int v, int x) {
    const nw_constant *c = nw_graph_constant(m->g, v);
    if (!c || c->tensor.format != NW_F32 || c->tensor.qparam || c->tensor.rank < 1) return false;
    size_t n = (size_t)m->desc[x].dims[m->desc[x].rank - 1];
    return nw_tensor_count(&c->tensor) == n && (size_t)c->tensor.dims[c->tensor.rank - 1] == n;
}

static nw_status match_layernorm(matcher *m, int index) {
    nw_node *last = &m->g->nodes[index]; /* Add of beta */
    for (int side = 0; side < 2; side++) {
        float epsilon;
        m->count = 0;
        m->nodes[m->count++] = index;
        int beta = last->in[1 - side];
        nw_node *scaled = maker(m, last->in[side], "Mul");
        for (int k = 0; scaled && k < 2; k++) {
            m->count = 2;
            int gamma = scaled->in[1 - k];
            nw_node *div = maker(m, scaled->in[k], "Div");
            int x = div ? centered(m, div->in[0]) : NW_ABSENT;
            nw_node *root = x >= 0 ? maker(m, div->in[1], "Sqrt") : NULL,
                    *add = root ? maker(m, root->in[0], "Add") : NULL;
            int variance = add ? other_of(m, add, &epsilon) : NW_ABSENT;
            int squares = variance >= 0 ? mean_of(m, variance) : NW_ABSENT;
            int d = squares >= 0 ? square_of(m, squares) : NW_ABSENT;
            if (d < 0 || centered(m, d) != x || m->desc[x].format != NW_F32) continue;
            if (!row_constant(m, gamma, x) || !row_constant(m, beta, x) || !closed(m, last->out[0])) continue;
            int in[3] = {x, gamma, beta};
            NW_TRY(collapse(m, last, "LayerNormalization", 3, in));
            return nw_node_set_float(m->g, &m->g->nodes[m->g->node_count - 1], "epsilon", epsilon);
        }
    }
    return NW_OK;
}

/* ---- Attention: softmax(q·kᵀ·scale + mask)·v --------------------------------------------------------------------- */

/* The only node that reads v, if it is of this type; it becomes part of the form. */
static nw_node *reader(matcher *m, int v, const char *type) {
    if (m->uses.first[v + 1] - m->uses.first[v] != 1 || m->uses.outputs[v]) return NULL;
    int n = m->uses.users[m->uses.first[v]];
    if (!nw_node_is(&m->g->nodes[n], type) || m->count == MOST_NODES) return NULL;
    m->nodes[m->count++] = n;
    return &m->g->nodes[n];
}

static bool permutes(const nw_node *transpose, size_t rank, const int64_t *perm) {
    const int64_t *p;
    size_t count;
    return nw_node_ints(transpose, "perm", &p, &count) && count == rank &&
           memcmp(p, perm, rank * sizeof *p) == 0;
}

/* x [batch, length, heads·size] when v is x reshaped to [batch, length, heads, size] and transposed by `perm`. */
static int tokens_of(matcher *m, int v, const int64_t perm[4]) {
    nw_node *transpose = maker(m, v, "Transpose");
    nw_node *reshape =
        transpose && permutes(transpose, 4, perm) ? maker(m, transpose->in[0], "Reshape") : NULL;
    if (!reshape) return NW_ABSENT;
    const nw_tensor *split = &m->desc[reshape->out[0]], *x = &m->desc[reshape->in[0]];
    bool same =
        split->rank == 4 && x->rank == 3 && x->dims[0] == split->dims[0] && x->dims[1] == split->dims[1];
    return same ? reshape->in[0] : NW_ABSENT;
}

/* Scores before the softmax: q·kᵀ, perhaps scaled by a number, perhaps with a mask added. */
typedef struct scores {
    int q, kt, mask; /* [batch, heads, length, size], its keys transposed; NW_ABSENT: none */
    float scale;
} scores;

static bool scores_of(matcher *m, int v, scores *s) {
    nw_node *add = maker(m, v, "Add");
    float factor = 1;
    s->mask = NW_ABSENT;
    int product = v;
    if (add) { /* the scores are the operand that a product makes */
        int n = m->uses.producer[add->in[0]];
        bool first = n >= 0 &&
                     (nw_node_is(&m->g->nodes[n], "MatMul") || nw_node_is(&m->g->nodes[n], "Div") ||
                      nw_node_is(&m->g->nodes[n], "Mul")) &&
                     nw_tensor_same_shape(&m->desc[add->in[0]], &m->desc[v]);
        product = add->in[first ? 0 : 1];
        s->mask = add->in[first ? 1 : 0];
    }
    s->scale = 1;
    nw_node *div = maker(m, product, "Div"), *mul = div ? NULL : maker(m, product, "Mul");
    if (div) {
        if (!number(m, div->in[1], &factor) || !(factor > 0)) return false;
        s->scale = 1 / factor;
        product = div->in[0];
    } else if (mul) {
        product = other_of(m, mul, &factor);
        if (product < 0 || !(factor > 0)) return false;
        s->scale = factor;
    }
    nw_node *matmul = maker(m, product, "MatMul");
    if (!matmul) return false;
    s->q = matmul->in[0];
    s->kt = matmul->in[1];
    return true;
}

/* Attention takes masks of up to four dimensions that broadcast to the scores. */
static bool mask_fits(const matcher *m, int mask, const nw_tensor *shape) {
    if (mask < 0) return true;
    const nw_tensor *t = &m->desc[mask];
    if (t->format != NW_F32 || t->rank < 1 || t->rank > 4 || t->dims[t->rank - 1] != shape->dims[3])
        return false;
    for (int d = 0; d < t->rank; d++)
        if (t->dims[d] != 1 && t->dims[d] != shape->dims[4 - t->rank + d]) return false;
    return true;
}

static nw_status add_attention(matcher *m, nw_node *last, const scores *s, const int *qkv, int64_t heads) {
    int in[4] = {qkv[0], qkv[1], qkv[2], s->mask};
    NW_TRY(collapse(m, last, "Attention", s->mask < 0 ? 3 : 4, in));
    nw_node *node = &m->g->nodes[m->g->node_count - 1];
    NW_TRY(nw_node_set_float(m->g, node, "scale", s->scale));
    if (!heads) return NW_OK;
    NW_TRY(nw_node_set_int(m->g, node, "q_num_heads", heads));
    return nw_node_set_int(m->g, node, "kv_num_heads", heads);
}

/* index: the product with the values. */
static nw_status match_attention(matcher *m, int index) {
    static const int64_t by_head[4] = {0, 2, 1, 3}, keys[4] = {0, 2, 3, 1}, swapped[4] = {0, 1, 3, 2};
    nw_node *last = &m->g->nodes[index];
    m->count = 0;
    m->nodes[m->count++] = index;
    nw_node *softmax = maker(m, last->in[0], "Softmax");
    scores s;
    if (!softmax || m->desc[softmax->out[0]].rank < 3 || !scores_of(m, softmax->in[0], &s)) return NW_OK;
    const nw_tensor *shape = &m->desc[softmax->out[0]], *q = &m->desc[s.q], *kt = &m->desc[s.kt],
                    *v = &m->desc[last->in[1]];
    const int rank = shape->rank;
    int64_t axis = nw_node_int(softmax, "axis", nw_graph_opset(m->g, "") < 13 ? 1 : -1);
    if ((axis != -1 && axis != rank - 1) || rank > 4 || q->rank != rank || kt->rank != rank ||
        v->rank != rank)
        return NW_OK;
    for (int d = 0; d < rank - 2; d++)
        if (kt->dims[d] != q->dims[d] || v->dims[d] != q->dims[d]) return NW_OK;
    if (rank == 3) { /* one head: tokens as they are */
        static const int64_t last_two[3] = {0, 2, 1};
        nw_node *turn = maker(m, s.kt, "Transpose");
        if (!turn || !permutes(turn, 3, last_two) || s.mask >= 0 || !closed(m, last->out[0])) return NW_OK;
        return add_attention(m, last, &s, (const int[3]){s.q, turn->in[0], last->in[1]}, 1);
    }
    if (!mask_fits(m, s.mask, shape)) return NW_OK;

    /* From tokens to tokens, when all that splits and joins heads belongs to it. */
    const int core = m->count;
    int tokens[3] = {tokens_of(m, s.q, by_head), tokens_of(m, s.kt, keys),
                     tokens_of(m, last->in[1], by_head)};
    nw_node *back = reader(m, last->out[0], "Transpose");
    nw_node *join = back && permutes(back, 4, by_head) ? reader(m, back->out[0], "Reshape") : NULL;
    bool whole = tokens[0] >= 0 && tokens[1] >= 0 && tokens[2] >= 0 && join;
    if (whole) {
        const nw_tensor *y = &m->desc[join->out[0]];
        whole =
            y->rank == 3 && y->dims[0] == q->dims[0] && y->dims[1] == q->dims[2] && closed(m, join->out[0]);
    }
    if (whole) return add_attention(m, join, &s, tokens, q->dims[1]);

    /* Only the core, on heads. */
    m->count = core;
    nw_node *transpose = maker(m, s.kt, "Transpose");
    if (!transpose || !permutes(transpose, 4, swapped) || !closed(m, last->out[0])) return NW_OK;
    int heads[3] = {s.q, transpose->in[0], last->in[1]};
    return add_attention(m, last, &s, heads, 0);
}

nw_status nw_recognize(nw_graph *g, const nw_tensor *desc, const nw_taps *taps) {
    matcher m = {.g = g, .desc = desc, .taps = taps};
    NW_TRY(nw_uses_init(&m.uses, g));
    nw_status status = NW_OK;
    int nodes = g->node_count;
    for (int n = 0; n < nodes && status == NW_OK; n++) {
        const nw_node *node = &g->nodes[n];
        if (node->dead || node->in_count != 2 || node->in[0] < 0 || node->in[1] < 0) continue;
        if (desc[node->out[0]].format != NW_F32) continue;
        if (nw_node_is(node, "Mul")) {
            status = match_gelu(&m, n);
            if (status == NW_OK && !g->nodes[n].dead) status = match_gelu_tanh(&m, n);
            if (status == NW_OK && !g->nodes[n].dead) status = match_swish(&m, n);
        } else if (nw_node_is(node, "Add"))
            status = match_layernorm(&m, n);
        else if (nw_node_is(node, "MatMul"))
            status = match_attention(&m, n);
    }
    nw_uses_free(&m.uses);
    return status == NW_OK && g->node_count > nodes ? nw_graph_sort(g) : status;
}
