/* nbits.c: com.microsoft's MatMulNBits: a product with weights of 2, 4 or 8 bits in blocks along k. Its weight lies as
 * [N, blocks, block], codes packed low bits first, rows padded to whole blocks; ours is [K, N] with blocks along axis 0.
 * Codes are unsigned; without zero points 2^(bits−1) means 0, which makes signed codes out of them. */
#include "onnx/fold.h"
#include "onnx/spell.h"

#include "op/quantize.h"

#include <string.h>

#define INT8_LEVEL 4 /* of the attribute accuracy_level: data may be rounded to 8 bits before products */

typedef struct nbits {
    int64_t n, k, bits, block, blocks;
} nbits;

static nw_format unsigned_format(int64_t bits) {
    return bits == 2 ? NW_U2 : bits == 4 ? NW_U4 : NW_U8;
}
static nw_format signed_format(int64_t bits) {
    return bits == 2 ? NW_S2 : bits == 4 ? NW_S4 : NW_S8;
}
static int64_t zero_row(const nbits *q) { /* bytes of zero points of a row */
    return (q->blocks * q->bits + 7) / 8;
}

/* ---- spelling ---------------------------------------------------------------------------------------------------- */

static bool can_say(const nw_graph *g, const nw_node *node, nbits *q) {
    const nw_constant *c = nw_node_is(node, "MatMul") ? nw_graph_constant(g, nw_node_in(node, 1)) : NULL;
    const nw_qparam *p = c ? c->tensor.qparam : NULL;
    if (!p || node->in[0] < 0 || c->tensor.rank != 2 || p->grain != NW_GRAIN_BLOCK || p->axis != 0)
        return false;
    *q = (nbits){c->tensor.dims[1], c->tensor.dims[0], nw_format_bits(p->format), p->block, 0};
    if (!nw_format_is_integer(p->format) || q->bits > 8 || q->n < 1 || q->k < 1) return false;
    q->blocks = q->k / q->block + (q->k % q->block != 0);
    return q->block >= 16 && (q->block & (q->block - 1)) == 0;
}

static nw_status add_bytes(nw_graph *g, const char *base, const char *suffix, nw_arena *arena, nw_tensor *t,
                           int *id) {
    t->format = NW_U8;
    NW_TRY(nw_tensor_alloc(arena, t));
    memset(t->data, 0, nw_tensor_bytes(t));
    return nw_spell_named(g, base, suffix, t, id);
}

/* B, scales and zero points into in[1 …]; *count inputs then. */
static nw_status add_operands(nw_graph *g, nw_arena *arena, int w, const nbits *q, int *in, int *count) {
    const nw_tensor *t = &g->values[w].constant->tensor;
    const nw_qparam *p = t->qparam;
    const char *base = g->values[w].name;
    nw_format codes = unsigned_format(q->bits);
    int64_t offset = p->format == codes ? 0 : (int64_t)1 << (q->bits - 1);
    nw_tensor b = {.rank = 3, .dims = {q->n, q->blocks, q->block * q->bits / 8}},
              zeros = {.rank = 2, .dims = {q->n, zero_row(q)}},
              scales = {.format = NW_F32, .rank = 2, .dims = {q->n, q->blocks}};
    NW_TRY(add_bytes(g, base, "_q", arena, &b, &in[1]));
    NW_TRY(nw_tensor_alloc(arena, &scales));
    b.data = g->values[in[1]].constant->tensor.data;
    for (int64_t k = 0; k < q->k; k++)
        for (int64_t n = 0; n < q->n; n++)
            nw_store_s64(codes, b.data, (size_t)(n * q->blocks * q->block + k),
                         nw_tensor_s64(t, (size_t)(k * q->n + n)) + offset);
    bool plain = true;
    for (int64_t i = 0; i < q->blocks * q->n; i++) {
        int64_t at = i % q->n * q->blocks + i / q->n;
        ((float *)scales.data)[at] = nw_qparam_scale(p, (size_t)i);
        plain = plain && nw_qparam_zero(p, (size_t)i) + offset == (int64_t)1 << (q->bits - 1);
    }
    NW_TRY(nw_spell_named(g, base, "_scale", &scales, &in[2]));
    *count = plain ? 3 : 4;
    if (plain) return NW_OK;
    NW_TRY(add_bytes(g, base, "_zero", arena, &zeros, &in[3]));
    uint8_t *rows = g->values[in[3]].constant->tensor.data;
    for (int64_t i = 0; i < q->blocks * q->n; i++)
        nw_store_s64(codes, rows + i % q->n * zero_row(q), (size_t)(i / q->n),
                     nw_qparam_zero(p, (size_t)i) + offset);
    return NW_OK;
}

/* Whether a product reads data rounded to 8 bits at run time: it says so, or a FakeQuant does it, which *x then skips. */
static bool is_rounded(const nw_graph *g, const nw_node *product, int *x) {
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *node = &g->nodes[n];
        bool measured = !node->dead && node->op == &nw_op_narrow_FakeQuant && node->out[0] == *x &&
                        nw_node_in(node, 1) < 0;
        if (!measured || nw_format_bits(nw_format_by_name(nw_node_string(node, "format", ""))) != 8) continue;
        *x = node->in[0];
        return true;
    }
    return nw_node_string(product, NW_PRODUCT_FORMAT, NULL) != NULL;
}

static nw_status spell_product(nw_graph *g, nw_arena *arena, int index, const nbits *q) {
    int in[4] = {g->nodes[index].in[0]}, count, w = g->nodes[index].in[1];
    const bool rounded = is_rounded(g, &g->nodes[index], &in[0]);
    const nw_qparam *p = g->values[w].constant->tensor.qparam;
    NW_TRY(add_operands(g, arena, w, q, in, &count));
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, MS, "MatMulNBits", g->nodes[index].name, count, in, 1, g->nodes[index].out,
                             &node));
    nw_node_succeed(&g->nodes[index], node);
    nw_node_remove_attr(node, NW_PRODUCT_FORMAT);
    NW_TRY(nw_node_set_int(g, node, "K", q->k));
    NW_TRY(nw_node_set_int(g, node, "N", q->n));
    NW_TRY(nw_node_set_int(g, node, "bits", q->bits));
    NW_TRY(nw_node_set_int(g, node, "block_size", q->block));
    if (rounded) NW_TRY(nw_node_set_int(g, node, "accuracy_level", INT8_LEVEL));
    const char *text =
        nw_arena_printf(arena, "%s@%s", nw_format_name(p->format), nw_format_name(nw_qparam_scale_format(p)));
    return text ? nw_node_set_string(g, node, NW_CODES_FORMAT, text) : NW_E_MEMORY;
}

nw_status nw_spell_nbits(nw_graph *g) {
    int nodes = g->node_count;
    for (int n = 0; n < nodes; n++) {
        nbits q;
        if (g->nodes[n].dead || !can_say(g, &g->nodes[n], &q)) continue;
        nw_arena arena; /* one weight at a time */
        nw_arena_init(&arena, g->ctx);
        nw_status status = spell_product(g, &arena, n, &q);
        nw_arena_free(&arena);
        NW_TRY(status);
    }
    return NW_OK;
}

/* ---- folding ----------------------------------------------------------------------------------------------------- */

static bool read_sizes(const nw_node *node, nbits *q) {
    const int64_t most = (int64_t)1 << 30; /* keeps products of two in range */
    *q = (nbits){nw_node_int(node, "N", 0), nw_node_int(node, "K", 0), nw_node_int(node, "bits", 4),
                 nw_node_int(node, "block_size", 0), 0};
    if (q->n < 1 || q->n > most || q->k < 1 || q->k > most || q->block < 16 || q->block > most) return false;
    if ((q->block & (q->block - 1)) || (q->bits != 2 && q->bits != 4 && q->bits != 8)) return false;
    q->blocks = (q->k + q->block - 1) / q->block;
    return true;
}

static bool has_bytes(const nw_constant *c, int64_t count) {
    return c && c->tensor.format == NW_U8 && !c->tensor.qparam &&
           nw_tensor_count(&c->tensor) == (size_t)count;
}

/* Scales and zero points of blocks [blocks, n]. */
static nw_status read_groups(folder *f, const nbits *q, const nw_tensor *scale, const uint8_t *zero_rows,
                             int64_t offset, nw_qparam *p, bool *ok) {
    nw_tensor real;
    NW_TRY(nw_tensor_to_f32(&f->arena, scale, &real));
    p->groups = (size_t)(q->blocks * q->n);
    float *scales = nw_arena_array(&f->arena, p->groups, sizeof *scales);
    int32_t *zeros = nw_arena_array(&f->arena, p->groups, sizeof *zeros);
    if (!scales || !zeros) return NW_E_MEMORY;
    for (int64_t i = 0; i < q->blocks * q->n; i++) {
        int64_t n = i % q->n, b = i / q->n, zero = (int64_t)1 << (q->bits - 1);
        if (zero_rows) zero = nw_load_s64(unsigned_format(q->bits), zero_rows + n * zero_row(q), (size_t)b);
        scales[i] = ((const float *)real.data)[n * q->blocks + b];
        zeros[i] = (int32_t)(zero - offset);
    }
    p->scales = scales;
    p->zeros = zero_rows || !offset ? zeros : NULL;
    return nw_fold_scales(f, NW_F32, p, ok); /* checks them */
}

static nw_status add_weight(folder *f, const nw_node *node, const nbits *q, nw_qparam *p, int *w) {
    const nw_constant *b = nw_graph_constant(f->g, node->in[1]);
    nw_format codes = unsigned_format(q->bits);
    int64_t offset = p->format == codes ? 0 : (int64_t)1 << (q->bits - 1);
    nw_tensor t = {.format = p->format, .rank = 2, .dims = {q->k, q->n}, .qparam = p};
    NW_TRY(nw_tensor_alloc(&f->arena, &t));
    memset(t.data, 0, nw_tensor_bytes(&t));
    for (int64_t k = 0; k < q->k; k++)
        for (int64_t n = 0; n < q->n; n++) {
            size_t at = (size_t)(n * q->blocks * q->block + k);
            nw_store_s64(p->format, t.data, (size_t)(k * q->n + n),
                         nw_load_s64(codes, b->tensor.data, at) - offset);
        }
    return nw_graph_add_constant_copy(f->g, f->g->values[node->in[1]].name, &t, w);
}

nw_status nw_fold_nbits(folder *f, int index, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index];
    nbits q;
    *ok = node->in_count >= 3 && node->in[0] >= 0 && nw_node_in(node, 4) < 0 && read_sizes(node, &q);
    if (!*ok) return NW_OK;
    const nw_constant *b = nw_graph_constant(g, node->in[1]),
                      *zeros = nw_graph_constant(g, nw_node_in(node, 3));
    const nw_tensor *scale = nw_fold_constant(f, node->in[2]);
    *ok = has_bytes(b, q.n * q.blocks * (q.block * q.bits / 8)) && scale && scale->format == NW_F32 &&
          nw_tensor_count(scale) == (size_t)(q.n * q.blocks) &&
          (nw_node_in(node, 3) < 0 || has_bytes(zeros, q.n * zero_row(&q)));
    if (!*ok) return NW_OK;
    nw_format scales = NW_F32, said = NW_NONE,
              format = zeros ? unsigned_format(q.bits) : signed_format(q.bits);
    const char *text = nw_node_string(node, NW_CODES_FORMAT, NULL);
    if (text && nw_fold_formats(text, &said, &scales) && nw_format_is_integer(said) &&
        nw_format_bits(said) == q.bits)
        format = said;
    nw_qparam p = {.format = format,
                   .grain = NW_GRAIN_BLOCK,
                   .block = q.block,
                   .qmin = (int32_t)nw_format_min(format),
                   .qmax = (int32_t)nw_format_max(format)};
    int64_t offset = format == unsigned_format(q.bits) ? 0 : (int64_t)1 << (q.bits - 1);
    NW_TRY(read_groups(f, &q, scale, zeros ? zeros->tensor.data : NULL, offset, &p, ok));
    if (!*ok) return NW_OK;
    bool exact;
    NW_TRY(nw_fold_scales(f, nw_format_is_scale(scales) ? scales : NW_F32, &p, &exact));
    int in[2] = {node->in[0]}, bias = nw_node_in(node, 5), y = node->out[0], sum = y;
    NW_TRY(add_weight(f, node, &q, &p, &in[1]));
    if (bias >= 0) {
        NW_TRY(nw_graph_add_value(g, NULL, &y));
        g->values[y].format = NW_F32;
    }
    nw_node *fresh;
    NW_TRY(nw_graph_add_node(g, "", "MatMul", g->nodes[index].name, 2, in, 1, &y, &fresh));
    if (nw_node_int(&g->nodes[index], "accuracy_level", 0) == INT8_LEVEL)
        NW_TRY(nw_node_set_string(g, fresh, NW_PRODUCT_FORMAT, "u8"));
    g->nodes[index].dead = true;
    return bias < 0 ? NW_OK : nw_graph_add_node(g, "", "Add", NULL, 2, (int[]){y, bias}, 1, &sum, &fresh);
}
