#include "run/simplify.h"

#include "op/quantize.h"
#include "run/bind.h"
#include "run/widen.h"

#include <math.h>
#include <string.h>

/* ---- FakeQuant of a constant: stored packed -------------------------------------------------------------------- */

static nw_status pack_constant(nw_graph *g, nw_node *node, nw_arena *scratch) {
    const nw_constant *c = nw_graph_constant(g, nw_node_in(node, 0));
    if (!c || c->tensor.qparam || c->tensor.format != NW_F32) return NW_OK;
    nw_qparam p;
    bool dynamic;
    NW_TRY(nw_fakequant_qparam(g, node, scratch, &p, &dynamic));
    if (dynamic) return NW_OK;
    nw_tensor packed = c->tensor;
    packed.format = p.format;
    packed.qparam = &p;
    NW_TRY(nw_tensor_alloc(scratch, &packed));
    nw_quantize(&p, packed.rank, packed.dims, c->tensor.data, packed.data);
    NW_TRY(nw_graph_set_constant_copy(g, node->out[0], &packed));
    node->dead = true;
    return NW_OK;
}

static nw_status pack_constants(nw_graph *g) {
    nw_arena scratch;
    nw_arena_init(&scratch, g->ctx);
    nw_status status = NW_OK;
    for (int n = 0; n < g->node_count && status == NW_OK; n++) {
        nw_node *node = &g->nodes[n];
        if (!node->dead && node->op == &nw_op_narrow_FakeQuant) status = pack_constant(g, node, &scratch);
        nw_arena_reset(&scratch);
    }
    nw_arena_free(&scratch);
    return status;
}

/* ---- nodes that do nothing ------------------------------------------------------------------------------------- */

static bool does_nothing(const nw_graph *g, const nw_node *node) {
    if (nw_node_is(node, "Identity")) return true;
    if (nw_node_is(node, "Cast")) {
        const nw_format format = g->values[node->in[0]].format;
        return format != NW_NONE && format == (nw_format)nw_node_int(node, "to", 0);
    }
    if (!nw_node_is(node, "Dropout") || nw_node_out(node, 1) >= 0) return false;
    const nw_constant *training = nw_graph_constant(g, nw_node_in(node, 2));
    return nw_node_in(node, 2) < 0 || (training && !nw_tensor_s64(&training->tensor, 0));
}

static void skip_identities(nw_graph *g) {
    for (int n = 0; n < g->node_count; n++) {
        nw_node *node = &g->nodes[n];
        if (node->dead || node->in_count < 1 || node->in[0] < 0 || !does_nothing(g, node)) continue;
        if (nw_graph_is_output(g, node->out[0])) continue; /* an output keeps its name */
        nw_graph_replace_uses(g, node->out[0], node->in[0]);
        node->dead = true;
    }
}

/* ---- BatchNormalization ---------------------------------------------------------------------------------------- */

/* y = (x − mean)/sqrt(var + eps)·gamma + beta = x·a + b per channel; a folds into the weights, b into the bias of the
 * layer that makes x. */
typedef struct affine {
    size_t channels;
    const float *gamma, *beta, *mean, *var;
    float epsilon;
} affine;

static const float *channel_values(const nw_graph *g, int id, size_t channels) {
    const nw_constant *c = nw_graph_constant(g, id);
    if (!c || c->tensor.format != NW_F32 || c->tensor.qparam || nw_tensor_count(&c->tensor) != channels ||
        !nw_tensor_aligned(&c->tensor))
        return NULL;
    return c->tensor.data;
}

static bool affine_of(const nw_graph *g, const nw_node *bn, affine *out) {
    const nw_constant *gamma = nw_graph_constant(g, nw_node_in(bn, 1));
    if (!gamma || nw_node_int(bn, "training_mode", 0) || nw_node_int(bn, "spatial", 1) != 1) return false;
    for (int i = 1; i < bn->out_count; i++)
        if (bn->out[i] >= 0) return false;
    *out =
        (affine){.channels = nw_tensor_count(&gamma->tensor), .epsilon = nw_node_float(bn, "epsilon", 1e-5f)};
    out->gamma = channel_values(g, nw_node_in(bn, 1), out->channels);
    out->beta = channel_values(g, nw_node_in(bn, 2), out->channels);
    out->mean = channel_values(g, nw_node_in(bn, 3), out->channels);
    out->var = channel_values(g, nw_node_in(bn, 4), out->channels);
    return out->gamma && out->beta && out->mean && out->var;
}

/* How a layer's weight is laid out around its output channels: [outer][channels][inner]. ConvTranspose with groups has
 * its channels split, group by group: outer is then counted per group. */
static bool channel_layout(const nw_node *layer, const nw_tensor *w, size_t channels, size_t *outer,
                           size_t *inner) {
    int axis;
    if (nw_node_is(layer, "Conv"))
        axis = 0;
    else if (nw_node_is(layer, "ConvTranspose") && nw_node_int(layer, "group", 1) == 1)
        axis = 1;
    else if (nw_node_is(layer, "Gemm"))
        axis = nw_node_int(layer, "transB", 0) ? 0 : 1;
    else
        return false;
    if (w->rank <= axis || (size_t)w->dims[axis] != channels) return false;
    *outer = nw_dims_product(w->dims, 0, axis);
    *inner = nw_dims_product(w->dims, axis + 1, w->rank);
    return true;
}

static nw_status fold_affine(nw_graph *g, int layer_index, nw_node *bn, const affine *a, nw_arena *scratch,
                             bool *done) {
    nw_node *layer = &g->nodes[layer_index];
    const nw_constant *wc = nw_graph_constant(g, nw_node_in(layer, 1));
    int bias_id = nw_node_in(layer, 2);
    const float *bias = bias_id < 0 ? NULL : channel_values(g, bias_id, a->channels);
    size_t outer, inner;
    if (!wc || !nw_tensor_is_real(&wc->tensor) || (bias_id >= 0 && !bias)) return NW_OK;
    if (!channel_layout(layer, &wc->tensor, a->channels, &outer, &inner)) return NW_OK;
    if (nw_node_is(layer, "Gemm") && nw_node_float(layer, "beta", 1.0f) != 1.0f) return NW_OK;

    nw_tensor w = {.format = NW_F32}, old, b = {.format = NW_F32, .rank = 1, .dims = {(int64_t)a->channels}};
    nw_tensor_set_shape(&w, wc->tensor.rank, wc->tensor.dims);
    NW_TRY(nw_tensor_alloc(scratch, &w));
    NW_TRY(nw_tensor_alloc(scratch, &b));
    NW_TRY(nw_tensor_to_f32(scratch, &wc->tensor, &old));
    const float *from = old.data;
    float *to = w.data, *shift = b.data;
    for (size_t c = 0; c < a->channels; c++) {
        /* In double: one rounding, like the parameters' own. */
        double scale = (double)a->gamma[c] / sqrt((double)a->var[c] + (double)a->epsilon);
        shift[c] = (float)((double)a->beta[c] + ((bias ? (double)bias[c] : 0) - (double)a->mean[c]) * scale);
        for (size_t o = 0; o < outer; o++) {
            size_t at = (o * a->channels + c) * inner;
            for (size_t i = at; i < at + inner; i++) to[i] = (float)((double)from[i] * scale);
        }
    }
    /* The layer gets constants of its own: others may share the old ones. */
    int w_id, b_id;
    const char *w_name = g->values[layer->in[1]].name;
    NW_TRY(nw_graph_add_constant_copy(g, w_name, &w, &w_id));
    const char *b_name = bias_id >= 0 ? g->values[bias_id].name : g->values[bn->in[2]].name;
    NW_TRY(nw_graph_add_constant_copy(g, b_name, &b, &b_id));
    int *in = nw_arena_array(&g->arena, 3, sizeof *in);
    if (!in) return NW_E_MEMORY;
    in[0] = layer->in[0];
    in[1] = w_id;
    in[2] = b_id;
    layer->in = in;
    layer->in_count = 3;
    layer->out[0] = bn->out[0]; /* keeps the name that readers know */
    bn->dead = true;
    *done = true;
    return NW_OK;
}

static nw_status fold_batchnorms(nw_graph *g) {
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, g));
    nw_arena scratch;
    nw_arena_init(&scratch, g->ctx);
    nw_status status = NW_OK;
    int values = g->value_count; /* new constants come behind and have no uses to look up */
    for (int n = 0; n < g->node_count && status == NW_OK; n++) {
        nw_node *bn = &g->nodes[n];
        affine a;
        int x = nw_node_in(bn, 0);
        if (!nw_node_is(bn, "BatchNormalization") || x < 0 || x >= values || !affine_of(g, bn, &a)) continue;
        int layer = uses.producer[x];
        if (layer < 0 || g->nodes[layer].dead || nw_uses_count(&uses, x) != 1) continue;
        bool done = false;
        status = fold_affine(g, layer, bn, &a, &scratch, &done);
        if (done) uses.producer[bn->out[0]] = layer;
        nw_arena_reset(&scratch);
    }
    nw_arena_free(&scratch);
    nw_uses_free(&uses);
    return status;
}

nw_status nw_simplify(nw_graph *g) {
    NW_TRY(nw_widen(g));
    NW_TRY(pack_constants(g));
    nw_binding binding;
    NW_TRY(nw_bind(g, NULL, &binding));
    nw_binding_free(&binding);
    skip_identities(g);
    NW_TRY(fold_batchnorms(g));
    return nw_graph_prune(g);
}

/* ---- products of rounded data ---------------------------------------------------------------------------------- */

/* The FakeQuant of x made here before, or NW_ABSENT. */
static int rounded(const nw_graph *g, int from, int x) {
    for (int n = from; n < g->node_count; n++)
        if (g->nodes[n].in[0] == x) return g->nodes[n].out[0];
    return NW_ABSENT;
}

nw_status nw_round_products(nw_graph *g) {
    const int nodes = g->node_count;
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, g));
    nw_status status = NW_OK;
    for (int n = 0; n < nodes && status == NW_OK; n++) {
        const char *format = nw_node_string(&g->nodes[n], NW_PRODUCT_FORMAT, NULL);
        const int x = nw_node_in(&g->nodes[n], 0), maker = x < 0 ? NW_ABSENT : uses.producer[x];
        if (!format || g->nodes[n].dead || x < 0) continue;
        if (maker >= 0 && g->nodes[maker].op == &nw_op_narrow_FakeQuant)
            continue; /* it is on a grid already */
        int y = rounded(g, nodes, x);
        if (y < 0) {
            nw_node *node;
            status = nw_graph_add_value(g, NULL, &y);
            if (status == NW_OK)
                status = nw_graph_add_node(g, "ai.narrow", "FakeQuant", NULL, 1, &x, 1, &y, &node);
            if (status == NW_OK) {
                node->op = &nw_op_narrow_FakeQuant;
                status = nw_node_set_string(g, node, "format", format);
            }
            if (status == NW_OK) status = nw_node_set_int(g, node, "per_row", 1);
        }
        g->nodes[n].in[0] = y;
    }
    nw_uses_free(&uses);
    return status == NW_OK && g->node_count > nodes ? nw_graph_sort(g) : status;
}
