/* recognize.c: operators in their spelled-out forms. */
#include "run/recognize.h"

#include "op/attention.h"
#include "op/quantize.h"

#include <math.h>
#include <string.h>

#define MOST_NODES 24

typedef struct matcher {
    nw_graph *g;
    nw_tensor *desc;
    const nw_taps *taps;
    nw_uses uses;
    int nodes[MOST_NODES], count; /* of the form being matched */
} matcher;

/* Node n becomes part of the form. */
static nw_node *joined(matcher *m, int n) {
    for (int i = 0; i < m->count; i++)
        if (m->nodes[i] == n) return &m->g->nodes[n];
    if (m->count == MOST_NODES) return NULL;
    m->nodes[m->count++] = n;
    return &m->g->nodes[n];
}

/* The node that makes v, if it is of this type; it becomes part of the form. */
static nw_node *maker(matcher *m, int v, const char *type) {
    int n = v < 0 ? NW_ABSENT : m->uses.producer[v];
    return n < 0 || !nw_node_is(&m->g->nodes[n], type) ? NULL : joined(m, n);
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

/* An operand of attention's products, with the FakeQuants of one grid on the way from it to the product. */
typedef struct operand {
    int value;
    int quantizer; /* node: the FakeQuant nearest to the product; NW_ABSENT: none */
} operand;

/* Whether two FakeQuants of one grid per tensor have the same: static ones. */
static bool same_grid(const matcher *m, const nw_node *a, const nw_node *b) {
    if (!nw_node_string_is(a, "format", "", nw_node_string(b, "format", ""))) return false;
    for (const char *const *name = (const char *const[]){"qmin", "qmax", NULL}; *name; name++)
        if (nw_node_int(a, *name, INT64_MIN) != nw_node_int(b, *name, INT64_MIN)) return false;
    for (int i = 1; i < 3; i++) {
        const nw_constant *x = nw_graph_constant(m->g, nw_node_in(a, i)),
                          *y = nw_graph_constant(m->g, nw_node_in(b, i));
        if (!x != !y || (i == 1 && !x)) return false;
        if (x && nw_tensor_f64(&x->tensor, 0) != nw_tensor_f64(&y->tensor, 0)) return false;
    }
    return true;
}

/* x when v is x on a grid, one for the whole tensor, that the operand is on already, or on none yet; v when it is on none. */
static int unrounded(matcher *m, int v, operand *o) {
    const int n = v < 0 ? NW_ABSENT : m->uses.producer[v];
    if (n < 0 || m->g->nodes[n].op != &nw_op_narrow_FakeQuant) return v;
    const nw_node *node = &m->g->nodes[n];
    const nw_constant *scale = nw_graph_constant(m->g, nw_node_in(node, 1));
    const bool one = nw_node_in(node, 1) < 0 ? !nw_node_int(node, "per_row", 0)
                                             : scale && nw_tensor_count(&scale->tensor) == 1;
    if (!one || (o->quantizer >= 0 && !same_grid(m, node, &m->g->nodes[o->quantizer])) || !joined(m, n))
        return v;
    if (o->quantizer < 0) o->quantizer = n;
    return node->in[0];
}

/* x when v is x transposed by `perm`; NW_ABSENT when it is not. */
static int turned(matcher *m, int v, size_t rank, const int64_t *perm, operand *o) {
    nw_node *transpose = maker(m, unrounded(m, v, o), "Transpose");
    return transpose && permutes(transpose, rank, perm) ? transpose->in[0] : NW_ABSENT;
}

/* Tokens [batch, length, heads·size] that are reshaped to [batch, length, heads, size] and transposed by `perm`. */
static bool tokens_of(matcher *m, int v, const int64_t perm[4], operand *o) {
    *o = (operand){NW_ABSENT, NW_ABSENT};
    const int split = turned(m, v, 4, perm, o);
    nw_node *reshape = split >= 0 ? maker(m, unrounded(m, split, o), "Reshape") : NULL;
    if (!reshape) return false;
    const nw_tensor *s = &m->desc[reshape->out[0]], *x = &m->desc[reshape->in[0]];
    o->value = reshape->in[0];
    return s->rank == 4 && x->rank == 3 && x->dims[0] == s->dims[0] && x->dims[1] == s->dims[1];
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

/* How the weights behind a softmax are rounded, in the words of op/attention.h. */
typedef struct rounding {
    nw_format format; /* NW_NONE: not */
    float scale;
    int32_t top;
} rounding;

/* The softmax when v is what one gives, or that rounded in a way that attention can. */
static nw_status weights_of(matcher *m, int v, rounding *r, nw_node **softmax) {
    const int n = m->uses.producer[v];
    *r = (rounding){0};
    *softmax = maker(m, v, "Softmax");
    if (*softmax || n < 0 || m->g->nodes[n].op != &nw_op_narrow_FakeQuant) return NW_OK;
    const nw_node *node = &m->g->nodes[n];
    if (nw_node_in(node, 1) >= 0 && !nw_graph_constant(m->g, nw_node_in(node, 1))) return NW_OK;
    nw_qparam q;
    nw_arena scratch;
    bool dynamic, fits = false;
    nw_arena_init(&scratch, m->g->ctx);
    nw_status status = nw_fakequant_qparam(m->g, node, &scratch, &q, &dynamic);
    if (status == NW_OK && dynamic) {
        fits = q.format == NW_U8 && q.grain == NW_GRAIN_AXIS && q.qmin == 0 && q.qmax == 255 &&
               nw_qparam_scale_format(&q) == NW_F32;
        *r = (rounding){.format = NW_U8, .top = 255};
    } else if (status == NW_OK && nw_fakequant_is_cast(&q)) {
        fits = true;
        *r = (rounding){.format = q.format, .top = 255};
    } else if (status == NW_OK && nw_format_is_integer(q.format) && nw_format_bits(q.format) <= 8 &&
               q.groups == 1) {
        fits = nw_qparam_zero(&q, 0) == q.qmin && nw_qparam_scale(&q, 0) > 0;
        *r = (rounding){NW_U8, nw_qparam_scale(&q, 0), q.qmax - q.qmin};
    }
    nw_arena_free(&scratch);
    if (fits && joined(m, n)) *softmax = maker(m, node->in[0], "Softmax");
    return status;
}

/* An operand's FakeQuant, which the form has taken in, restricts the operand where it is. */
static void move_quantizer(matcher *m, const operand *o) {
    if (o->quantizer < 0) return;
    nw_node *node = &m->g->nodes[o->quantizer];
    const nw_tensor *x = &m->desc[o->value];
    node->dead = false;
    node->in[0] = o->value;
    nw_tensor_set_shape(&m->desc[node->out[0]], x->rank, x->dims);
}

static nw_status add_attention(matcher *m, nw_node *last, const scores *s, const rounding *r,
                               const operand *qkv, int64_t heads) {
    int in[4] = {0, 0, 0, s->mask};
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < i; k++) /* a FakeQuant goes to one place */
            if (qkv[i].quantizer >= 0 && qkv[i].quantizer == qkv[k].quantizer) return NW_OK;
        in[i] = qkv[i].quantizer < 0 ? qkv[i].value : m->g->nodes[qkv[i].quantizer].out[0];
    }
    NW_TRY(collapse(m, last, "Attention", s->mask < 0 ? 3 : 4, in));
    for (int i = 0; i < 3; i++) move_quantizer(m, &qkv[i]);
    nw_node *node = &m->g->nodes[m->g->node_count - 1];
    NW_TRY(nw_node_set_float(m->g, node, "scale", s->scale));
    if (r->format) {
        NW_TRY(nw_node_set_string(m->g, node, NW_WEIGHTS_FORMAT, nw_format_name(r->format)));
        if (r->scale > 0) NW_TRY(nw_node_set_float(m->g, node, NW_WEIGHTS_SCALE, r->scale));
        NW_TRY(nw_node_set_int(m->g, node, NW_WEIGHTS_TOP, r->top));
    }
    if (!heads) return NW_OK;
    NW_TRY(nw_node_set_int(m->g, node, "q_num_heads", heads));
    return nw_node_set_int(m->g, node, "kv_num_heads", heads);
}

/* What splits the heads, and joins them behind `last`, belongs to it: from tokens to tokens. */
static nw_status match_tokens(matcher *m, nw_node *last, const scores *s, const rounding *r, bool *ok) {
    static const int64_t by_head[4] = {0, 2, 1, 3}, keys[4] = {0, 2, 3, 1};
    const nw_tensor *product = &m->desc[last->out[0]];
    operand tokens[3];
    bool whole = tokens_of(m, s->q, by_head, &tokens[0]) && tokens_of(m, s->kt, keys, &tokens[1]) &&
                 tokens_of(m, last->in[1], by_head, &tokens[2]);
    nw_node *back = reader(m, last->out[0], "Transpose");
    nw_node *join = back && permutes(back, 4, by_head) ? reader(m, back->out[0], "Reshape") : NULL;
    *ok = false;
    if (!whole || !join) return NW_OK;
    const nw_tensor *y = &m->desc[join->out[0]];
    *ok = y->rank == 3 && y->dims[0] == product->dims[0] && y->dims[1] == product->dims[2] &&
          closed(m, join->out[0]);
    return *ok ? add_attention(m, join, s, r, tokens, product->dims[1]) : NW_OK;
}

/* index: the product with the values. */
static nw_status match_attention(matcher *m, int index) {
    static const int64_t swapped[4] = {0, 1, 3, 2}, last_two[3] = {0, 2, 1};
    nw_node *last = &m->g->nodes[index], *softmax;
    m->count = 0;
    m->nodes[m->count++] = index;
    scores s;
    rounding r;
    NW_TRY(weights_of(m, last->in[0], &r, &softmax));
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
    if (rank == 3 ? s.mask >= 0 : !mask_fits(m, s.mask, shape)) return NW_OK;
    const int core = m->count;
    bool ok = false;
    if (rank == 4) NW_TRY(match_tokens(m, last, &s, &r, &ok));
    if (ok) return NW_OK;
    /* Only the core: on heads, or on the tokens of one head. */
    m->count = core;
    operand k = {NW_ABSENT, NW_ABSENT};
    k.value = turned(m, s.kt, (size_t)rank, rank == 4 ? swapped : last_two, &k);
    if (k.value < 0 || !closed(m, last->out[0])) return NW_OK;
    const operand heads[3] = {{s.q, NW_ABSENT}, k, {last->in[1], NW_ABSENT}};
    return add_attention(m, last, &s, &r, heads, rank == 4 ? 0 : 1);
}

nw_status nw_recognize(nw_graph *g, nw_tensor *desc, const nw_taps *taps) {
    matcher m = {.g = g, .desc = desc, .taps = taps};
    NW_TRY(nw_uses_init(&m.uses, g));
    nw_status status = NW_OK;
    int nodes = g->node_count;
    for (int n = 0; n < nodes && status == NW_OK; n++) {
        const nw_node *node = &g->nodes[n];
        if (node->dead || node->in_count != 2 || node->in[0] < 0 || node->in[1] < 0) continue;
        if (nw_node_out(node, 0) < 0) continue;
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
