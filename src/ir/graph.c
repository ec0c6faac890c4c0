#include "ir/graph.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

nw_status nw_graph_new(nw_context *ctx, nw_graph *parent, nw_graph **out) {
    nw_graph *g = nw_calloc(ctx, 1, sizeof *g);
    if (!g) return NW_E_MEMORY;
    g->ctx = ctx;
    g->parent = parent;
    nw_arena_init(&g->arena, ctx);
    g->name = g->doc = "";
    if (!parent) {
        g->info = nw_arena_alloc(&g->arena, sizeof *g->info);
        if (!g->info) {
            nw_graph_free(g);
            return NW_E_MEMORY;
        }
        g->info->producer_name = g->info->producer_version = g->info->domain = g->info->doc = "";
    }
    *out = g;
    return NW_OK;
}

static void release_attr(nw_attr *a) {
    if (a->kind == NW_ATTR_GRAPH) nw_graph_free(a->graph);
    if (a->kind == NW_ATTR_TENSOR && a->tensor) nw_bytes_free(a->tensor->owner);
    for (size_t i = 0; i < a->count && a->kind == NW_ATTR_GRAPHS; i++) nw_graph_free(a->graphs[i]);
    for (size_t i = 0; i < a->count && a->kind == NW_ATTR_TENSORS; i++) nw_bytes_free(a->tensors[i]->owner);
}

void nw_graph_free(nw_graph *g) {
    if (!g) return;
    for (int n = 0; n < g->node_count; n++)
        for (int i = 0; i < g->nodes[n].attr_count; i++) release_attr(&g->nodes[n].attrs[i]);
    for (int v = 0; v < g->value_count; v++) {
        if (g->values[v].constant) nw_bytes_free(g->values[v].constant->owner);
        nw_bytes_free(g->values[v].type);
    }
    nw_arena_free(&g->arena);
    nw_free(g->ctx, g);
}

/* ---- copying --------------------------------------------------------------------------------------------------- */

#define COPY_STRING(arena, text) ((text) ? nw_arena_strdup(arena, text) : NULL)
#define CHECK(ptr)                                                                                           \
    do {                                                                                                     \
        if (!(ptr)) return NW_E_MEMORY;                                                                      \
    } while (0)

nw_status nw_graph_copy_qparam(nw_graph *g, const nw_qparam *p, const nw_qparam **out) {
    nw_qparam *copy = nw_arena_alloc(&g->arena, sizeof *copy);
    CHECK(copy);
    NW_TRY(nw_qparam_copy(&g->arena, p, copy));
    *out = copy;
    return NW_OK;
}

static nw_status copy_str(nw_arena *arena, nw_str from, nw_str *out) {
    out->size = from.size;
    out->data = nw_arena_strndup(arena, from.data ? from.data : "", from.size);
    return out->data ? NW_OK : NW_E_MEMORY;
}

/* The constant's record in g's arena; bytes are shared. */
static nw_status copy_constant(nw_graph *g, const nw_constant *from, nw_constant **out) {
    nw_constant *c = nw_arena_alloc(&g->arena, sizeof *c);
    CHECK(c);
    *c = *from;
    c->doc = COPY_STRING(&g->arena, from->doc);
    if (from->doc) CHECK(c->doc);
    c->name = COPY_STRING(&g->arena, from->name);
    if (from->name) CHECK(c->name);
    if (from->unknown.size) NW_TRY(copy_str(&g->arena, from->unknown, &c->unknown));
    if (from->tensor.qparam) NW_TRY(nw_graph_copy_qparam(g, from->tensor.qparam, &c->tensor.qparam));
    c->owner = nw_bytes_ref(from->owner);
    *out = c;
    return NW_OK;
}

static nw_status copy_graph(const nw_graph *graph, nw_context *ctx, nw_graph *parent, nw_graph **out);

static nw_status copy_attr(nw_graph *g, const nw_attr *from, nw_attr *to) {
    nw_arena *arena = &g->arena;
    nw_attr a = *from;
    CHECK(a.name = nw_arena_strdup(arena, from->name));
    switch (from->kind) {
    case NW_ATTR_INT:
    case NW_ATTR_FLOAT: break;
    case NW_ATTR_STRING: NW_TRY(copy_str(arena, from->s, &a.s)); break;
    case NW_ATTR_RAW: NW_TRY(copy_str(arena, from->raw, &a.raw)); break;
    case NW_ATTR_TENSOR: NW_TRY(copy_constant(g, from->tensor, &a.tensor)); break;
    case NW_ATTR_GRAPH: NW_TRY(copy_graph(from->graph, g->ctx, g, &a.graph)); break;
    case NW_ATTR_INTS: {
        int64_t *p = nw_arena_array(arena, from->count, sizeof *p);
        CHECK(p);
        if (from->count) memcpy(p, from->ints, from->count * sizeof *p);
        a.ints = p;
        break;
    }
    case NW_ATTR_FLOATS: {
        float *p = nw_arena_array(arena, from->count, sizeof *p);
        CHECK(p);
        if (from->count) memcpy(p, from->floats, from->count * sizeof *p);
        a.floats = p;
        break;
    }
    case NW_ATTR_STRINGS: {
        nw_str *p = nw_arena_array(arena, from->count, sizeof *p);
        CHECK(p);
        for (size_t i = 0; i < from->count; i++) NW_TRY(copy_str(arena, from->strings[i], &p[i]));
        a.strings = p;
        break;
    }
    case NW_ATTR_TENSORS: {
        nw_constant **p = nw_arena_array(arena, from->count, sizeof *p);
        CHECK(p);
        a.tensors = p;
        a.count = 0;
        *to = a; /* what is copied so far is released with the node */
        for (; to->count < from->count; to->count++)
            NW_TRY(copy_constant(g, from->tensors[to->count], &p[to->count]));
        return NW_OK;
    }
    case NW_ATTR_GRAPHS: {
        nw_graph **p = nw_arena_array(arena, from->count, sizeof *p);
        CHECK(p);
        a.graphs = p;
        a.count = 0;
        *to = a;
        for (; to->count < from->count; to->count++)
            NW_TRY(copy_graph(from->graphs[to->count], g->ctx, g, &p[to->count]));
        return NW_OK;
    }
    }
    *to = a;
    return NW_OK;
}

static nw_status copy_ids(nw_arena *arena, const int *from, int count, int **out) {
    int *p = nw_arena_array(arena, (size_t)count, sizeof *p);
    CHECK(p);
    if (count) memcpy(p, from, (size_t)count * sizeof *p);
    *out = p;
    return NW_OK;
}

static nw_status copy_node(nw_graph *g, const nw_node *from, nw_node *to) {
    nw_arena *arena = &g->arena;
    nw_node n = *from;
    n.attr_count = 0;
    n.attrs = nw_arena_array(arena, (size_t)from->attr_count, sizeof *n.attrs);
    *to = n;
    CHECK(n.attrs);
    CHECK(to->name = nw_arena_strdup(arena, from->name));
    CHECK(to->op_type = nw_arena_strdup(arena, from->op_type));
    CHECK(to->domain = nw_arena_strdup(arena, from->domain));
    to->doc = COPY_STRING(arena, from->doc);
    if (from->doc) CHECK(to->doc);
    if (from->unknown.size) NW_TRY(copy_str(arena, from->unknown, &to->unknown));
    NW_TRY(copy_ids(arena, from->in, from->in_count, &to->in));
    NW_TRY(copy_ids(arena, from->out, from->out_count, &to->out));
    for (; to->attr_count < from->attr_count; to->attr_count++)
        NW_TRY(copy_attr(g, &from->attrs[to->attr_count], &to->attrs[to->attr_count]));
    return NW_OK;
}

static nw_status copy_value(nw_graph *g, const nw_value *from, nw_value *to) {
    nw_arena *arena = &g->arena;
    *to = *from;
    to->constant = NULL;
    to->type = nw_bytes_ref(from->type);
    CHECK(to->name = nw_arena_strdup(arena, from->name));
    to->doc = COPY_STRING(arena, from->doc);
    if (from->doc) CHECK(to->doc);
    if (from->unknown.size) NW_TRY(copy_str(arena, from->unknown, &to->unknown));
    if (from->dim_names && from->rank > 0) {
        CHECK(to->dim_names = nw_arena_array(arena, (size_t)from->rank, sizeof *to->dim_names));
        for (int i = 0; i < from->rank; i++)
            if (from->dim_names[i]) CHECK(to->dim_names[i] = nw_arena_strdup(arena, from->dim_names[i]));
    }
    if (from->constant) NW_TRY(copy_constant(g, from->constant, &to->constant));
    return NW_OK;
}

static nw_status copy_into(const nw_graph *from, nw_graph *g) {
    nw_arena *arena = &g->arena;
    CHECK(g->name = nw_arena_strdup(arena, from->name));
    CHECK(g->doc = nw_arena_strdup(arena, from->doc));
    if (from->unknown.size) NW_TRY(copy_str(arena, from->unknown, &g->unknown));
    CHECK(g->values = nw_arena_array(arena, (size_t)from->value_count, sizeof *g->values));
    g->value_capacity = (size_t)from->value_count;
    for (; g->value_count < from->value_count; g->value_count++) {
        nw_value *to = &g->values[g->value_count];
        nw_status status = copy_value(g, &from->values[g->value_count], to);
        if (status != NW_OK) {
            g->value_count++; /* so that its type is released */
            return status;
        }
    }
    CHECK(g->nodes = nw_arena_array(arena, (size_t)from->node_count, sizeof *g->nodes));
    g->node_capacity = (size_t)from->node_count;
    for (int i = 0; i < from->node_count; i++) {
        g->node_count++;
        NW_TRY(copy_node(g, &from->nodes[i], &g->nodes[i]));
    }
    NW_TRY(copy_ids(arena, from->inputs, from->input_count, &g->inputs));
    g->input_count = from->input_count;
    g->input_capacity = (size_t)from->input_count;
    NW_TRY(copy_ids(arena, from->outputs, from->output_count, &g->outputs));
    g->output_count = from->output_count;
    g->output_capacity = (size_t)from->output_count;
    for (size_t i = 0; i < from->opset_count; i++)
        NW_TRY(nw_graph_set_opset(g, from->opsets[i].domain, from->opsets[i].version));
    if (!from->info) return NW_OK;
    nw_model_info *info = g->info;
    *info = *from->info;
    CHECK(info->producer_name = nw_arena_strdup(arena, from->info->producer_name));
    CHECK(info->producer_version = nw_arena_strdup(arena, from->info->producer_version));
    CHECK(info->domain = nw_arena_strdup(arena, from->info->domain));
    CHECK(info->doc = nw_arena_strdup(arena, from->info->doc));
    if (info->unknown.size) NW_TRY(copy_str(arena, from->info->unknown, &info->unknown));
    CHECK(info->properties = nw_arena_array(arena, info->property_count, sizeof *info->properties));
    for (size_t i = 0; i < info->property_count; i++) {
        CHECK(info->properties[i].key = nw_arena_strdup(arena, from->info->properties[i].key));
        CHECK(info->properties[i].value = nw_arena_strdup(arena, from->info->properties[i].value));
    }
    return NW_OK;
}

static nw_status copy_graph(const nw_graph *graph, nw_context *ctx, nw_graph *parent, nw_graph **out) {
    nw_graph *g;
    NW_TRY(nw_graph_new(ctx, parent, &g));
    nw_status status = copy_into(graph, g);
    if (status != NW_OK)
        nw_graph_free(g);
    else
        *out = g;
    return status;
}

nw_status nw_graph_copy(const nw_graph *graph, nw_context *ctx, nw_graph **out) {
    return copy_graph(graph, ctx, NULL, out);
}

/* Subgraphs of an inlined node stand for values that are now elsewhere. */
static void remap_outer(nw_graph *sub, const int *map) {
    for (int v = 0; v < sub->value_count; v++)
        if (sub->values[v].outer >= 0) sub->values[v].outer = map[sub->values[v].outer];
}

static nw_status inline_nodes(nw_graph *g, const nw_graph *sub, const int *map) {
    for (int n = 0; n < sub->node_count; n++) {
        if (sub->nodes[n].dead) continue;
        NW_TRY(nw_arena_grow(&g->arena, (void **)&g->nodes, &g->node_capacity, (size_t)g->node_count,
                             sizeof *g->nodes));
        nw_node *node = &g->nodes[g->node_count++];
        memset(node, 0, sizeof *node);
        NW_TRY(copy_node(g, &sub->nodes[n], node));
        for (int i = 0; i < node->in_count; i++)
            if (node->in[i] >= 0) node->in[i] = map[node->in[i]];
        for (int i = 0; i < node->out_count; i++)
            if (node->out[i] >= 0) node->out[i] = map[node->out[i]];
        for (int a = 0; a < node->attr_count; a++) {
            nw_attr *attr = &node->attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) remap_outer(attr->graph, map);
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
                remap_outer(attr->graphs[i], map);
        }
    }
    return NW_OK;
}

static nw_status inline_values(nw_graph *g, const nw_graph *sub, int *map) {
    for (int v = 0; v < sub->value_count; v++) {
        const nw_value *from = &sub->values[v];
        map[v] = from->outer;
        if (from->outer >= 0) continue;
        NW_TRY(nw_graph_add_value(g, from->name, &map[v]));
        const char *name = g->values[map[v]].name;
        NW_TRY(copy_value(g, from, &g->values[map[v]]));
        g->values[map[v]].name = name;
    }
    return NW_OK;
}

nw_status nw_graph_inline(nw_graph *g, int node, const nw_graph *sub) {
    int *map = nw_calloc(g->ctx, (size_t)sub->value_count + 1, sizeof *map);
    if (!map) return NW_E_MEMORY;
    nw_status status = inline_values(g, sub, map);
    if (status == NW_OK) status = inline_nodes(g, sub, map);
    for (int i = 0; status == NW_OK && i < g->nodes[node].out_count && i < sub->output_count; i++) {
        int old = g->nodes[node].out[i], fresh = map[sub->outputs[i]];
        if (old < 0) continue;
        if (nw_graph_is_output(g, old)) {
            nw_node *identity;
            status = nw_graph_add_node(g, "", "Identity", NULL, 1, &fresh, 1, &old, &identity);
            g->nodes[node].out[i] = NW_ABSENT;
        } else {
            nw_graph_replace_uses(g, old, fresh);
        }
    }
    g->nodes[node].dead = true;
    nw_free(g->ctx, map);
    return status;
}

/* ---- building -------------------------------------------------------------------------------------------------- */

/* FNV-1a. The names of a model are few and short; adversarial collisions only cost time. */
static size_t hash_name(const char *name) {
    uint64_t h = 14695981039346656037u;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 1099511628211u;
    return (size_t)(h ^ h >> 32);
}

static void index_name(nw_graph *g, int id) {
    size_t at = hash_name(g->values[id].name) & (g->index_size - 1);
    while (g->index[at] >= 0) at = (at + 1) & (g->index_size - 1);
    g->index[at] = id;
}

/* Makes room for one more name at a load of at most a half; also rebuilds after copying or renaming. */
static nw_status reindex(nw_graph *g) {
    if (g->index && (size_t)g->value_count * 2 + 2 <= g->index_size) return NW_OK;
    size_t size = 64;
    while (size < (size_t)g->value_count * 4 + 4) size *= 2;
    int *index = nw_arena_array(&g->arena, size, sizeof *index);
    CHECK(index);
    for (size_t i = 0; i < size; i++) index[i] = NW_ABSENT;
    g->index = index;
    g->index_size = size;
    for (int v = 0; v < g->value_count; v++) index_name(g, v);
    return NW_OK;
}

int nw_graph_find(const nw_graph *g, const char *name) {
    if (!g->index) { /* a fresh copy: the index comes with the next new value */
        for (int v = 0; v < g->value_count; v++)
            if (strcmp(g->values[v].name, name) == 0) return v;
        return NW_ABSENT;
    }
    for (size_t at = hash_name(name) & (g->index_size - 1); g->index[at] >= 0;
         at = (at + 1) & (g->index_size - 1))
        if (strcmp(g->values[g->index[at]].name, name) == 0) return g->index[at];
    return NW_ABSENT;
}

/* `name`, or the first of name_1, name_2 … that is free; NULL or "" counts from value_<n>. In the arena. */
static nw_status fresh_name(nw_graph *g, const char *name, const char **out) {
    const char *base = name && *name ? name : nw_arena_printf(&g->arena, "value_%d", g->value_count);
    CHECK(base);
    const char *unique = base == name ? nw_arena_strdup(&g->arena, base) : base;
    CHECK(unique);
    for (int i = 1; nw_graph_find(g, unique) >= 0; i++)
        CHECK(unique = nw_arena_printf(&g->arena, "%s_%d", base, i));
    *out = unique;
    return NW_OK;
}

nw_status nw_graph_add_value(nw_graph *g, const char *name, int *id) {
    NW_TRY(nw_arena_grow(&g->arena, (void **)&g->values, &g->value_capacity, (size_t)g->value_count,
                         sizeof *g->values));
    NW_TRY(reindex(g));
    nw_value v = {.rank = -1, .outer = NW_ABSENT};
    NW_TRY(fresh_name(g, name, &v.name));
    g->values[g->value_count] = v;
    index_name(g, g->value_count);
    *id = g->value_count++;
    return NW_OK;
}

nw_status nw_graph_rename_value(nw_graph *g, int id, const char *name) {
    if (strcmp(g->values[id].name, name) == 0) return NW_OK;
    NW_TRY(fresh_name(g, name, &g->values[id].name));
    g->index = NULL;
    return reindex(g);
}

nw_status nw_graph_set_constant(nw_graph *g, int id, const nw_tensor *tensor, nw_bytes *owner) {
    nw_constant *c = nw_arena_alloc(&g->arena, sizeof *c);
    if (!c) {
        nw_bytes_free(owner);
        return NW_E_MEMORY;
    }
    c->tensor = *tensor;
    c->owner = owner;
    nw_value *v = &g->values[id];
    if (v->constant) nw_bytes_free(v->constant->owner);
    v->constant = c;
    v->format = tensor->qparam ? NW_F32 : tensor->format;
    v->rank = tensor->rank;
    memcpy(v->dims, tensor->dims, sizeof v->dims);
    return NW_OK;
}

nw_status nw_graph_add_constant(nw_graph *g, const char *name, const nw_tensor *tensor, nw_bytes *owner,
                                int *id) {
    nw_status status = nw_graph_add_value(g, name, id);
    if (status != NW_OK) {
        nw_bytes_free(owner);
        return status;
    }
    return nw_graph_set_constant(g, *id, tensor, owner);
}

nw_status nw_graph_set_constant_copy(nw_graph *g, int id, const nw_tensor *tensor) {
    nw_bytes *owner;
    nw_tensor copy = *tensor;
    if (tensor->qparam) NW_TRY(nw_graph_copy_qparam(g, tensor->qparam, &copy.qparam));
    size_t size = nw_tensor_bytes(tensor);
    NW_TRY(nw_bytes_new(g->ctx, size, &owner));
    copy.data = (void *)(uintptr_t)owner->data;
    if (size) memcpy(copy.data, tensor->data, size);
    return nw_graph_set_constant(g, id, &copy, owner);
}

nw_status nw_graph_add_constant_copy(nw_graph *g, const char *name, const nw_tensor *tensor, int *id) {
    NW_TRY(nw_graph_add_value(g, name, id));
    return nw_graph_set_constant_copy(g, *id, tensor);
}

nw_status nw_graph_add_node(nw_graph *g, const char *domain, const char *op_type, const char *name,
                            int in_count, const int *in, int out_count, const int *out, nw_node **node) {
    NW_TRY(nw_arena_grow(&g->arena, (void **)&g->nodes, &g->node_capacity, (size_t)g->node_count,
                         sizeof *g->nodes));
    nw_node *n = &g->nodes[g->node_count];
    *n = (nw_node){.in_count = in_count, .out_count = out_count};
    CHECK(n->name = nw_arena_strdup(&g->arena, name ? name : ""));
    CHECK(n->op_type = nw_arena_strdup(&g->arena, op_type));
    CHECK(n->domain = nw_arena_strdup(&g->arena, domain));
    NW_TRY(copy_ids(&g->arena, in, in_count, &n->in));
    NW_TRY(copy_ids(&g->arena, out, out_count, &n->out));
    g->node_count++;
    if (node) *node = n;
    return NW_OK;
}

static nw_status push_id(nw_graph *g, int **array, size_t *capacity, int *count, int id) {
    NW_TRY(nw_arena_grow(&g->arena, (void **)array, capacity, (size_t)*count, sizeof **array));
    (*array)[(*count)++] = id;
    return NW_OK;
}

nw_status nw_graph_add_input(nw_graph *g, int id) {
    return push_id(g, &g->inputs, &g->input_capacity, &g->input_count, id);
}

nw_status nw_graph_add_output(nw_graph *g, int id) {
    return push_id(g, &g->outputs, &g->output_capacity, &g->output_count, id);
}

static bool same_domain(const char *a, const char *b) {
    if (strcmp(a, "ai.onnx") == 0) a = "";
    if (strcmp(b, "ai.onnx") == 0) b = "";
    return strcmp(a, b) == 0;
}

nw_status nw_graph_set_opset(nw_graph *g, const char *domain, int64_t version) {
    for (size_t i = 0; i < g->opset_count; i++)
        if (same_domain(g->opsets[i].domain, domain)) {
            g->opsets[i].version = version;
            return NW_OK;
        }
    NW_TRY(
        nw_arena_grow(&g->arena, (void **)&g->opsets, &g->opset_capacity, g->opset_count, sizeof *g->opsets));
    nw_opset *o = &g->opsets[g->opset_count];
    CHECK(o->domain = nw_arena_strdup(&g->arena, domain));
    o->version = version;
    g->opset_count++;
    return NW_OK;
}

int64_t nw_graph_opset(const nw_graph *g, const char *domain) {
    for (; g; g = g->parent)
        for (size_t i = 0; i < g->opset_count; i++)
            if (same_domain(g->opsets[i].domain, domain)) return g->opsets[i].version;
    return 0;
}

nw_status nw_graph_set_property(nw_graph *g, const char *key, const char *value) {
    nw_model_info *info = g->info;
    char *text = nw_arena_strdup(&g->arena, value);
    if (!text) return NW_E_MEMORY;
    for (size_t i = 0; i < info->property_count; i++)
        if (strcmp(info->properties[i].key, key) == 0) {
            info->properties[i].value = text;
            return NW_OK;
        }
    nw_property *grown = nw_arena_array(&g->arena, info->property_count + 1, sizeof *grown);
    char *name = nw_arena_strdup(&g->arena, key);
    if (!grown || !name) return NW_E_MEMORY;
    if (info->property_count) memcpy(grown, info->properties, info->property_count * sizeof *grown);
    grown[info->property_count++] = (nw_property){name, text};
    info->properties = grown;
    return NW_OK;
}

const char *nw_graph_property(const nw_graph *g, const char *key) {
    for (size_t i = 0; g->info && i < g->info->property_count; i++)
        if (strcmp(g->info->properties[i].key, key) == 0) return g->info->properties[i].value;
    return NULL;
}

/* ---- attributes ------------------------------------------------------------------------------------------------ */

const nw_attr *nw_node_attr(const nw_node *node, const char *name) {
    for (int i = 0; i < node->attr_count; i++)
        if (strcmp(node->attrs[i].name, name) == 0) return &node->attrs[i];
    return NULL;
}

int64_t nw_node_int(const nw_node *node, const char *name, int64_t absent) {
    const nw_attr *a = nw_node_attr(node, name);
    return a && a->kind == NW_ATTR_INT ? a->i : absent;
}

float nw_node_float(const nw_node *node, const char *name, float absent) {
    const nw_attr *a = nw_node_attr(node, name);
    return a && a->kind == NW_ATTR_FLOAT ? a->f : absent;
}

const char *nw_node_string(const nw_node *node, const char *name, const char *absent) {
    const nw_attr *a = nw_node_attr(node, name);
    return a && a->kind == NW_ATTR_STRING ? a->s.data : absent;
}

bool nw_node_string_is(const nw_node *node, const char *name, const char *absent, const char *text) {
    return strcmp(nw_node_string(node, name, absent), text) == 0;
}

bool nw_node_ints(const nw_node *node, const char *name, const int64_t **values, size_t *count) {
    const nw_attr *a = nw_node_attr(node, name);
    if (!a || a->kind != NW_ATTR_INTS) return false;
    *values = a->ints;
    *count = a->count;
    return true;
}

bool nw_node_floats(const nw_node *node, const char *name, const float **values, size_t *count) {
    const nw_attr *a = nw_node_attr(node, name);
    if (!a || a->kind != NW_ATTR_FLOATS) return false;
    *values = a->floats;
    *count = a->count;
    return true;
}

void nw_node_remove_attr(nw_node *node, const char *name) {
    for (int i = 0; i < node->attr_count; i++)
        if (strcmp(node->attrs[i].name, name) == 0) {
            release_attr(&node->attrs[i]);
            memmove(&node->attrs[i], &node->attrs[i + 1],
                    (size_t)(node->attr_count - i - 1) * sizeof *node->attrs);
            node->attr_count--;
            return;
        }
}

/* A fresh attribute of this name at the end of the list; an old one is dropped. */
static nw_status new_attr(nw_graph *g, nw_node *node, const char *name, nw_attr_kind kind, nw_attr **out) {
    nw_attr *grown = nw_arena_array(&g->arena, (size_t)node->attr_count + 1, sizeof *grown);
    char *copy = nw_arena_strdup(&g->arena, name);
    if (!grown || !copy) return NW_E_MEMORY;
    nw_node_remove_attr(node, name);
    if (node->attr_count) memcpy(grown, node->attrs, (size_t)node->attr_count * sizeof *grown);
    node->attrs = grown;
    *out = &grown[node->attr_count++];
    **out = (nw_attr){.name = copy, .kind = kind, .count = 1};
    return NW_OK;
}

nw_status nw_node_set_int(nw_graph *g, nw_node *node, const char *name, int64_t value) {
    nw_attr *a;
    NW_TRY(new_attr(g, node, name, NW_ATTR_INT, &a));
    a->i = value;
    return NW_OK;
}

nw_status nw_node_set_float(nw_graph *g, nw_node *node, const char *name, float value) {
    nw_attr *a;
    NW_TRY(new_attr(g, node, name, NW_ATTR_FLOAT, &a));
    a->f = value;
    return NW_OK;
}

nw_status nw_node_set_string(nw_graph *g, nw_node *node, const char *name, const char *value) {
    nw_attr *a;
    nw_str copy;
    NW_TRY(copy_str(&g->arena, (nw_str){value, strlen(value)}, &copy));
    NW_TRY(new_attr(g, node, name, NW_ATTR_STRING, &a));
    a->s = copy;
    return NW_OK;
}

nw_status nw_node_set_ints(nw_graph *g, nw_node *node, const char *name, const int64_t *values,
                           size_t count) {
    nw_attr *a;
    int64_t *copy = nw_arena_array(&g->arena, count, sizeof *copy);
    CHECK(copy);
    if (count) memcpy(copy, values, count * sizeof *copy);
    NW_TRY(new_attr(g, node, name, NW_ATTR_INTS, &a));
    a->ints = copy;
    a->count = count;
    return NW_OK;
}

nw_status nw_node_set_floats(nw_graph *g, nw_node *node, const char *name, const float *values,
                             size_t count) {
    nw_attr *a;
    float *copy = nw_arena_array(&g->arena, count, sizeof *copy);
    CHECK(copy);
    if (count) memcpy(copy, values, count * sizeof *copy);
    NW_TRY(new_attr(g, node, name, NW_ATTR_FLOATS, &a));
    a->floats = copy;
    a->count = count;
    return NW_OK;
}

void nw_node_succeed(nw_node *from, nw_node *to) {
    to->attrs = from->attrs;
    to->attr_count = from->attr_count;
    to->doc = from->doc;
    from->attrs = NULL;
    from->attr_count = 0;
    from->dead = true;
}

bool nw_node_is(const nw_node *node, const char *op_type) {
    return node && !node->dead && !node->domain[0] && strcmp(node->op_type, op_type) == 0;
}

const char *nw_node_label(const nw_graph *g, const nw_node *node) {
    if (node->name[0]) return node->name;
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] >= 0) return g->values[node->out[i]].name;
    return "";
}
