#include "run/widen.h"

#include "op/op.h"

#include <string.h>

typedef struct widening {
    nw_graph *g;
    nw_uses uses; /* of the values there were; new ones come behind */
    int values, nodes;
    bool whole; /* the model's main graph, whose inputs and outputs are the user's */
    bool changed;
} widening;

static bool is_half(nw_format format) {
    return format == NW_F16 || format == NW_BF16;
}

/* Of Casts only, which say themselves what they want. Nobody: an output perhaps. */
static bool casts_read(const widening *w, int v) {
    for (int u = w->uses.first[v]; u < w->uses.first[v + 1]; u++)
        if (!nw_node_is(&w->g->nodes[w->uses.users[u]], "Cast")) return false;
    return w->whole || !w->uses.outputs[v];
}

/* A new node that casts x to `format`, as y. */
static nw_status add_cast(widening *w, int x, int y, nw_format format) {
    nw_node *node;
    w->changed = true;
    NW_TRY(nw_graph_add_node(w->g, "", "Cast", w->g->values[y].name, 1, &x, 1, &y, &node));
    node->op = nw_op_find("", "Cast");
    return nw_node_set_int(w->g, node, "to", format);
}

/* ---- what is half ------------------------------------------------------------------------------------------------ */

static nw_status widen_input(widening *w, int v) {
    nw_graph *g = w->g;
    int wide;
    if (!is_half(g->values[v].format) || g->values[v].constant) return NW_OK;
    if (!w->whole) {
        g->values[v].format = NW_F32;
        return NW_OK;
    }
    if (casts_read(w, v)) return NW_OK;
    NW_TRY(nw_graph_add_value(g, g->values[v].name, &wide));
    g->values[wide].format = NW_F32;
    g->values[wide].rank = g->values[v].rank;
    memcpy(g->values[wide].dims, g->values[v].dims, sizeof g->values[v].dims);
    nw_graph_replace_uses(g, v, wide);
    for (int i = 0; i < g->output_count; i++)
        if (g->outputs[i] == wide) g->outputs[i] = v; /* an input that is an output too */
    return add_cast(w, v, wide, NW_F32);
}

static nw_status widen_output(widening *w, int v) {
    nw_graph *g = w->g;
    int maker = v < w->values ? w->uses.producer[v] : NW_ABSENT, wide;
    if (!w->whole || maker < 0 || !is_half(g->values[v].format)) return NW_OK;
    const nw_node *node = &g->nodes[maker];
    if (nw_node_is(node, "Cast") && casts_read(w, v)) return NW_OK;
    NW_TRY(nw_graph_add_value(g, g->values[v].name, &wide));
    g->values[wide].format = NW_F32;
    nw_graph_replace_uses(g, v, wide);
    for (int i = 0; i < g->output_count; i++)
        if (g->outputs[i] == wide) g->outputs[i] = v;
    for (int o = 0; o < node->out_count; o++)
        if (node->out[o] == v) node->out[o] = wide;
    return add_cast(w, wide, v, g->values[v].format);
}

/* Nothing but layers read it, as their weight. */
static bool is_weight(const widening *w, int v) {
    for (int u = w->uses.first[v]; u < w->uses.first[v + 1]; u++) {
        const nw_node *node = &w->g->nodes[w->uses.users[u]];
        const nw_roles roles = nw_node_roles(node);
        bool found = false; /* no: a subgraph of the node reads it */
        for (int i = 0; i < node->in_count; i++) {
            if (node->in[i] != v) continue;
            if (nw_roles_of(&roles, i) != NW_ROLE_WEIGHT) return false;
            found = true;
        }
        if (!found) return false;
    }
    return w->uses.outputs[v] == 0 && w->g->values[v].constant->tensor.rank > 1;
}

static nw_status widen_constant(widening *w, int v) {
    static const float one = 1;
    const nw_constant *c = w->g->values[v].constant;
    if (!c || c->tensor.qparam || !is_half(c->tensor.format) || casts_read(w, v)) return NW_OK;
    nw_tensor t = c->tensor;
    w->changed = true;
    if (is_weight(w, v)) {
        const nw_qparam halves = {.format = t.format, .grain = NW_GRAIN_TENSOR, .groups = 1, .scales = &one};
        NW_TRY(nw_graph_copy_qparam(w->g, &halves, &t.qparam));
        return nw_graph_set_constant(w->g, v, &t, nw_bytes_ref(c->owner));
    }
    nw_arena scratch;
    nw_arena_init(&scratch, w->g->ctx);
    nw_status status = nw_tensor_to_f32(&scratch, &c->tensor, &t);
    if (status == NW_OK) status = nw_graph_set_constant_copy(w->g, v, &t);
    nw_arena_free(&scratch);
    return status;
}

/* The value of a Constant or ConstantOfShape. */
static nw_status widen_tensor(widening *w, nw_attr *attr) {
    const nw_constant *old = attr->tensor;
    if (!is_half(old->tensor.format)) return NW_OK;
    nw_constant *c = nw_arena_alloc(&w->g->arena, sizeof *c);
    if (!c) return NW_E_MEMORY;
    *c = *old;
    c->tensor.format = NW_F32;
    NW_TRY(nw_bytes_new(w->g->ctx, nw_tensor_bytes(&c->tensor), &c->owner));
    c->tensor.data = (void *)(uintptr_t)c->owner->data;
    nw_decode_f32(old->tensor.format, old->tensor.data, 0, nw_tensor_count(&old->tensor), c->tensor.data);
    nw_bytes_free(old->owner);
    attr->tensor = c;
    w->changed = true;
    return NW_OK;
}

/* Nodes that say themselves that they make 16-bit floats: of a Cast's kind, or out of nothing. */
static nw_status widen_node(widening *w, nw_node *node) {
    static const char *const types[] = {"to", "dtype", "output_dtype", NULL};
    const bool rounds = nw_node_is(node, "Cast") && casts_read(w, node->out[0]);
    for (const char *const *type = types; *type && !rounds; type++) {
        if (!is_half((nw_format)nw_node_int(node, *type, 0))) continue;
        NW_TRY(nw_node_set_int(w->g, node, *type, NW_F32));
        w->changed = true;
    }
    for (int a = 0; a < node->attr_count; a++)
        if (node->attrs[a].kind == NW_ATTR_TENSOR) NW_TRY(widen_tensor(w, &node->attrs[a]));
    return NW_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static bool holds_sequences(const nw_graph *g) {
    for (int v = 0; v < g->value_count; v++)
        if (g->values[v].type) return true;
    for (int n = 0; n < g->node_count; n++)
        for (int a = 0; a < g->nodes[n].attr_count; a++) {
            const nw_attr *attr = &g->nodes[n].attrs[a];
            if (attr->kind == NW_ATTR_GRAPH && holds_sequences(attr->graph)) return true;
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
                if (holds_sequences(attr->graphs[i])) return true;
        }
    return false;
}

static nw_status widen_graph(nw_graph *g);

static nw_status widen_subgraphs(nw_graph *g) {
    for (int n = 0; n < g->node_count; n++)
        for (int a = 0; a < g->nodes[n].attr_count; a++) {
            const nw_attr *attr = &g->nodes[n].attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) NW_TRY(widen_graph(attr->graph));
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
                NW_TRY(widen_graph(attr->graphs[i]));
        }
    return NW_OK;
}

/* What was declared half and is no longer. */
static void declare(widening *w) {
    for (int v = 0; v < w->values; v++) {
        nw_value *value = &w->g->values[v];
        const int maker = w->uses.producer[v];
        if (value->constant || !is_half(value->format)) continue;
        if (w->whole && (maker < 0 || w->uses.outputs[v])) continue;
        if (maker >= 0 && nw_node_is(&w->g->nodes[maker], "Cast") && casts_read(w, v)) continue;
        value->format = NW_F32;
    }
}

static nw_status widen(widening *w) {
    for (int v = 0; v < w->values; v++) NW_TRY(widen_constant(w, v));
    for (int n = 0; n < w->nodes; n++)
        if (!w->g->nodes[n].dead) NW_TRY(widen_node(w, &w->g->nodes[n]));
    declare(w);
    for (int i = 0; i < w->g->input_count; i++) NW_TRY(widen_input(w, w->g->inputs[i]));
    for (int i = 0; i < w->g->output_count; i++) NW_TRY(widen_output(w, w->g->outputs[i]));
    return w->changed ? nw_graph_sort(w->g) : NW_OK;
}

static nw_status widen_graph(nw_graph *g) {
    widening w = {.g = g, .values = g->value_count, .nodes = g->node_count, .whole = !g->parent};
    NW_TRY(nw_uses_init(&w.uses, g));
    nw_status status = widen(&w);
    nw_uses_free(&w.uses);
    return status == NW_OK ? widen_subgraphs(g) : status;
}

nw_status nw_widen(nw_graph *g) {
    return holds_sequences(g) ? NW_OK : widen_graph(g);
}
