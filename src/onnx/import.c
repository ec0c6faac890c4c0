/* import.c: ModelProto → nw_graph. */
#include "onnx/onnx.h"
#include "onnx/tensor.h"
#include "op/op.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SUBGRAPHS_DEEP 32

static nw_status import_graph(nw_import *im, const Onnx__GraphProto *proto, nw_graph *g, int depth);

static nw_status copy_text(nw_graph *g, const char *text, const char **out) {
    if (!text) return NW_OK;
    *out = nw_arena_strdup(&g->arena, text);
    return *out ? NW_OK : NW_E_MEMORY;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

static nw_status pack_type(nw_import *im, const Onnx__TypeProto *type, nw_bytes **out) {
    NW_TRY(nw_bytes_new(im->ctx, protobuf_c_message_get_packed_size(&type->base), out));
    protobuf_c_message_pack(&type->base, (uint8_t *)(uintptr_t)(*out)->data);
    return NW_OK;
}

static nw_status import_type(nw_import *im, nw_graph *g, nw_value *v, const Onnx__ValueInfoProto *info) {
    const Onnx__TypeProto *type = info->type;
    nw_bytes_free(v->type);
    v->type = NULL;
    NW_TRY(copy_text(g, info->doc_string, &v->doc));
    NW_TRY(nw_import_unknown(&g->arena, &info->base, &v->unknown));
    if (!type) return NW_OK;
    if (type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE) return pack_type(im, type, &v->type);
    const Onnx__TypeProto__Tensor *t = type->tensor_type;
    if (v->constant) return NW_OK; /* the initializer knows better */
    v->format = nw_format_from_onnx(t->elem_type);
    if (!t->shape) return NW_OK;
    if (t->shape->n_dim > NW_MAX_RANK)
        return pack_type(im, type, &v->type); /* carried through, not interpreted */
    v->rank = (int)t->shape->n_dim;
    for (int i = 0; i < v->rank; i++) {
        const Onnx__TensorShapeProto__Dimension *d = t->shape->dim[i];
        v->dims[i] = -1;
        if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE) {
            if (d->dim_value >= 0) v->dims[i] = d->dim_value;
        } else if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM && d->dim_param) {
            if (!v->dim_names &&
                !(v->dim_names = nw_arena_array(&g->arena, (size_t)v->rank, sizeof *v->dim_names)))
                return NW_E_MEMORY;
            NW_TRY(copy_text(g, d->dim_param, &v->dim_names[i]));
        }
    }
    return NW_OK;
}

static nw_status new_value(nw_import *im, nw_graph *g, const char *name, const char *role, int *id) {
    if (nw_graph_find(g, name) >= 0)
        return nw_fail(im->ctx, NW_E_FORMAT, "%s: %s \"%s\": a value of this name exists already", im->name,
                       role, name);
    return nw_graph_add_value(g, name, id);
}

/* The value a name means inside g: its own, or one of the enclosing graphs, for which g gets a stand-in. */
static nw_status lookup(nw_import *im, nw_graph *g, const char *name, int *id) {
    *id = nw_graph_find(g, name);
    if (*id >= 0 || !g->parent) return NW_OK;
    int outer;
    NW_TRY(lookup(im, g->parent, name, &outer));
    if (outer < 0) return NW_OK;
    NW_TRY(nw_graph_add_value(g, name, id));
    nw_value *v = &g->values[*id];
    const nw_value *from = &g->parent->values[outer];
    v->outer = outer;
    v->format = from->format;
    v->rank = from->rank;
    memcpy(v->dims, from->dims, sizeof v->dims);
    return NW_OK;
}

/* ---- attributes ------------------------------------------------------------------------------------------------ */

static nw_status import_str(nw_graph *g, const ProtobufCBinaryData *from, nw_str *to) {
    to->size = from->len;
    to->data = nw_arena_strndup(&g->arena, from->len ? (const char *)from->data : "", from->len);
    return to->data ? NW_OK : NW_E_MEMORY;
}

static nw_status import_attr_tensor(nw_import *im, nw_graph *g, const Onnx__TensorProto *proto,
                                    nw_constant **out) {
    nw_constant *c = nw_arena_alloc(&g->arena, sizeof *c);
    if (!c) return NW_E_MEMORY;
    NW_TRY(nw_import_tensor(im, &g->arena, proto, c));
    *out = c;
    if (proto->name) NW_TRY(copy_text(g, proto->name, &c->name));
    return NW_OK;
}

static nw_status import_subgraph(nw_import *im, nw_graph *g, const Onnx__GraphProto *proto, int depth,
                                 nw_graph **out) {
    if (depth >= MAX_SUBGRAPHS_DEEP)
        return nw_fail(im->ctx, NW_E_UNSUPPORTED, "%s: subgraphs are nested more than %d deep", im->name,
                       depth);
    nw_graph *sub;
    NW_TRY(nw_graph_new(im->ctx, g, &sub));
    nw_status status = import_graph(im, proto, sub, depth + 1);
    if (status != NW_OK)
        nw_graph_free(sub);
    else
        *out = sub;
    return status;
}

/* Files older than IR 2 leave the kind out: what is filled in tells. */
static Onnx__AttributeProto__AttributeType attr_type(const Onnx__AttributeProto *p) {
    if (p->has_type && p->type != ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED) return p->type;
    if (p->has_f) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
    if (p->has_i) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
    if (p->has_s) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
    if (p->t) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
    if (p->g) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH;
    if (p->n_floats) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
    if (p->n_strings) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
    return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
}

static nw_status import_attr(nw_import *im, nw_graph *g, const Onnx__AttributeProto *p, int depth,
                             nw_attr *a) {
    nw_arena *arena = &g->arena;
    NW_TRY(copy_text(g, p->name ? p->name : "", &a->name));
    a->count = 1;
    switch ((int)attr_type(p)) {
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT:
        a->kind = NW_ATTR_FLOAT;
        a->f = p->f;
        return NW_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT:
        a->kind = NW_ATTR_INT;
        a->i = p->i;
        return NW_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING:
        NW_TRY(import_str(g, &p->s, &a->s));
        a->kind = NW_ATTR_STRING;
        return NW_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR:
        if (!p->t) break;
        NW_TRY(import_attr_tensor(im, g, p->t, &a->tensor));
        a->kind = NW_ATTR_TENSOR;
        return NW_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH:
        if (!p->g) break;
        NW_TRY(import_subgraph(im, g, p->g, depth, &a->graph));
        a->kind = NW_ATTR_GRAPH;
        return NW_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS: {
        int64_t *list = nw_arena_array(arena, p->n_ints, sizeof *list);
        if (!list) return NW_E_MEMORY;
        if (p->n_ints) memcpy(list, p->ints, p->n_ints * sizeof *list);
        a->kind = NW_ATTR_INTS;
        a->ints = list;
        a->count = p->n_ints;
        return NW_OK;
    }
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS: {
        float *list = nw_arena_array(arena, p->n_floats, sizeof *list);
        if (!list) return NW_E_MEMORY;
        if (p->n_floats) memcpy(list, p->floats, p->n_floats * sizeof *list);
        a->kind = NW_ATTR_FLOATS;
        a->floats = list;
        a->count = p->n_floats;
        return NW_OK;
    }
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS: {
        nw_str *list = nw_arena_array(arena, p->n_strings, sizeof *list);
        if (!list) return NW_E_MEMORY;
        for (size_t i = 0; i < p->n_strings; i++) NW_TRY(import_str(g, &p->strings[i], &list[i]));
        a->kind = NW_ATTR_STRINGS;
        a->strings = list;
        a->count = p->n_strings;
        return NW_OK;
    }
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSORS: {
        nw_constant **list = nw_arena_array(arena, p->n_tensors, sizeof *list);
        if (!list) return NW_E_MEMORY;
        a->kind = NW_ATTR_TENSORS;
        a->tensors = list;
        for (a->count = 0; a->count < p->n_tensors; a->count++)
            NW_TRY(import_attr_tensor(im, g, p->tensors[a->count], &list[a->count]));
        return NW_OK;
    }
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPHS: {
        nw_graph **list = nw_arena_array(arena, p->n_graphs, sizeof *list);
        if (!list) return NW_E_MEMORY;
        a->kind = NW_ATTR_GRAPHS;
        a->graphs = list;
        for (a->count = 0; a->count < p->n_graphs; a->count++)
            NW_TRY(import_subgraph(im, g, p->graphs[a->count], depth, &list[a->count]));
        return NW_OK;
    }
    default: { /* a kind that is carried through */
        size_t size = protobuf_c_message_get_packed_size(&p->base);
        char *data = nw_arena_data(arena, size);
        if (!data) return NW_E_MEMORY;
        protobuf_c_message_pack(&p->base, (uint8_t *)data);
        a->kind = NW_ATTR_RAW;
        a->raw = (nw_str){data, size};
        return NW_OK;
    }
    }
    return nw_fail(im->ctx, NW_E_FORMAT, "%s: attribute \"%s\" has no value", im->name,
                   p->name ? p->name : "");
}

/* ---- nodes ----------------------------------------------------------------------------------------------------- */

/* Outputs first, for all nodes: files need not be in order. */
static nw_status declare_outputs(nw_import *im, nw_graph *g, const Onnx__NodeProto *p) {
    for (size_t i = 0; i < p->n_output; i++) {
        int id;
        if (p->output[i][0]) NW_TRY(new_value(im, g, p->output[i], "output of a node", &id));
    }
    return NW_OK;
}

static nw_status import_node(nw_import *im, nw_graph *g, const Onnx__NodeProto *p, int depth) {
    nw_arena *arena = &g->arena;
    int *in = nw_arena_array(arena, p->n_input + 1, sizeof *in);
    int *out = nw_arena_array(arena, p->n_output + 1, sizeof *out);
    if (!in || !out) return NW_E_MEMORY;
    const char *label = p->name && p->name[0] ? p->name : p->n_output ? p->output[0] : "";
    if (!p->op_type || !p->op_type[0])
        return nw_fail(im->ctx, NW_E_FORMAT, "%s: node \"%s\" has no operator", im->name, label);
    for (size_t i = 0; i < p->n_input; i++) {
        in[i] = NW_ABSENT;
        if (!p->input[i][0]) continue;
        NW_TRY(lookup(im, g, p->input[i], &in[i]));
        if (in[i] < 0)
            return nw_fail(im->ctx, NW_E_FORMAT, "%s: %s \"%s\": nothing produces its input \"%s\"", im->name,
                           p->op_type, label, p->input[i]);
    }
    for (size_t i = 0; i < p->n_output; i++)
        out[i] = p->output[i][0] ? nw_graph_find(g, p->output[i]) : NW_ABSENT;
    nw_node *node;
    const char *domain = p->domain && strcmp(p->domain, "ai.onnx") != 0 ? p->domain : "";
    NW_TRY(
        nw_graph_add_node(g, domain, p->op_type, p->name, (int)p->n_input, in, (int)p->n_output, out, &node));
    int index = g->node_count - 1;
    if (!(node->attrs = nw_arena_array(arena, p->n_attribute, sizeof *node->attrs))) return NW_E_MEMORY;
    NW_TRY(copy_text(g, p->doc_string, &node->doc));
    NW_TRY(nw_import_unknown(arena, &p->base, &node->unknown));
    for (size_t i = 0; i < p->n_attribute; i++) {
        nw_status status = import_attr(im, g, p->attribute[i], depth, &node->attrs[i]);
        node = &g->nodes[index];
        if (node->attrs[i].kind)
            node->attr_count = (int)i + 1; /* released with the graph, also when it failed halfway */
        if (status != NW_OK) return nw_fail_where(im->ctx, status, "%s \"%s\"", p->op_type, label);
    }
    return nw_import_metadata(g, node);
}

static nw_status import_initializers(nw_import *im, nw_graph *g, const Onnx__GraphProto *proto) {
    for (size_t i = 0; i < proto->n_initializer; i++) {
        const Onnx__TensorProto *t = proto->initializer[i];
        const char *name = t->name ? t->name : "";
        int id = nw_graph_find(g, name);
        if (id >= 0 && g->values[id].constant)
            return nw_fail(im->ctx, NW_E_FORMAT, "%s: initializer \"%s\" occurs twice", im->name, name);
        nw_constant *c = nw_arena_alloc(&g->arena, sizeof *c);
        if (!c) return NW_E_MEMORY;
        NW_TRY(nw_import_tensor(im, &g->arena, t, c));
        nw_status status = id < 0 ? nw_graph_add_value(g, name, &id) : NW_OK;
        if (status != NW_OK) {
            nw_bytes_free(c->owner);
            return status;
        }
        nw_value *v = &g->values[id];
        v->constant = c;
        v->format = c->tensor.format;
        v->rank = c->tensor.rank;
        memcpy(v->dims, c->tensor.dims, sizeof v->dims);
    }
    if (proto->n_sparse_initializer)
        return nw_fail(im->ctx, NW_E_UNSUPPORTED,
                       "%s: sparse initializers are not supported: store them dense", im->name);
    return NW_OK;
}

static nw_status import_graph(nw_import *im, const Onnx__GraphProto *proto, nw_graph *g, int depth) {
    NW_TRY(copy_text(g, proto->name, &g->name));
    NW_TRY(copy_text(g, proto->doc_string, &g->doc));
    NW_TRY(nw_import_unknown(&g->arena, &proto->base, &g->unknown));
    for (size_t i = 0; i < proto->n_quantization_annotation; i++)
        NW_TRY(nw_import_keep(&g->arena, 14, &proto->quantization_annotation[i]->base, &g->unknown));
    for (size_t i = 0; i < proto->n_input; i++) {
        int id;
        NW_TRY(new_value(im, g, proto->input[i]->name ? proto->input[i]->name : "", "input", &id));
        NW_TRY(import_type(im, g, &g->values[id], proto->input[i]));
        NW_TRY(nw_graph_add_input(g, id));
    }
    NW_TRY(import_initializers(im, g, proto));
    for (size_t i = 0; i < proto->n_node; i++) NW_TRY(declare_outputs(im, g, proto->node[i]));
    for (size_t i = 0; i < proto->n_node; i++) NW_TRY(import_node(im, g, proto->node[i], depth));
    for (size_t i = 0; i < proto->n_output; i++) {
        const char *name = proto->output[i]->name ? proto->output[i]->name : "";
        int id;
        NW_TRY(lookup(im, g, name, &id));
        if (id < 0)
            return nw_fail(im->ctx, NW_E_FORMAT, "%s: nothing produces the output \"%s\"", im->name, name);
        NW_TRY(import_type(im, g, &g->values[id], proto->output[i]));
        NW_TRY(nw_graph_add_output(g, id));
    }
    for (size_t i = 0; i < proto->n_value_info; i++) {
        int id = proto->value_info[i]->name ? nw_graph_find(g, proto->value_info[i]->name) : NW_ABSENT;
        if (id < 0) continue; /* describes nothing */
        NW_TRY(import_type(im, g, &g->values[id], proto->value_info[i]));
        g->values[id].declared = true;
    }
    NW_TRY(nw_graph_sort(g));
    nw_status status = nw_graph_verify(g);
    return status == NW_OK ? NW_OK : nw_fail_where(im->ctx, status, "%s", im->name);
}

static nw_status import_model(nw_import *im, const Onnx__ModelProto *proto, nw_graph *g) {
    nw_model_info *info = g->info;
    info->ir_version = proto->ir_version;
    info->model_version = proto->model_version;
    NW_TRY(copy_text(g, proto->producer_name, &info->producer_name));
    NW_TRY(copy_text(g, proto->producer_version, &info->producer_version));
    NW_TRY(copy_text(g, proto->domain, &info->domain));
    NW_TRY(copy_text(g, proto->doc_string, &info->doc));
    NW_TRY(nw_import_unknown(&g->arena, &proto->base, &info->unknown));
    for (size_t i = 0; i < proto->n_training_info; i++)
        NW_TRY(nw_import_keep(&g->arena, 20, &proto->training_info[i]->base, &info->unknown));
    for (size_t i = 0; i < proto->n_functions; i++)
        NW_TRY(nw_import_keep(&g->arena, 25, &proto->functions[i]->base, &info->unknown));
    info->properties = nw_arena_array(&g->arena, proto->n_metadata_props, sizeof *info->properties);
    if (!info->properties) return NW_E_MEMORY;
    for (size_t i = 0; i < proto->n_metadata_props; i++) {
        const Onnx__StringStringEntryProto *e = proto->metadata_props[i];
        NW_TRY(copy_text(g, e->key ? e->key : "", &info->properties[i].key));
        NW_TRY(copy_text(g, e->value ? e->value : "", &info->properties[i].value));
        info->property_count = i + 1;
    }
    for (size_t i = 0; i < proto->n_opset_import; i++)
        NW_TRY(nw_graph_set_opset(g, proto->opset_import[i]->domain ? proto->opset_import[i]->domain : "",
                                  proto->opset_import[i]->version));
    return import_graph(im, proto->graph, g, 0);
}

/* ---- files ----------------------------------------------------------------------------------------------------- */

static void *proto_alloc(void *user, size_t size) {
    return nw_alloc(user, size);
}
static void proto_free(void *user, void *ptr) {
    nw_free(user, ptr);
}

/* Scans and unpacks; *message is to be freed with the same allocator. */
static nw_status unpack(nw_import *im, nw_wire_root root, nw_wire *wire, ProtobufCAllocator *allocator,
                        ProtobufCMessage **message) {
    NW_TRY(nw_wire_scan(im->ctx, im->file, im->name, root, wire));
    im->wire = wire;
    im->ctx->status = NW_OK;
    const ProtobufCMessageDescriptor *type =
        root == NW_WIRE_MODEL ? &onnx__model_proto__descriptor : &onnx__tensor_proto__descriptor;
    *message = protobuf_c_message_unpack(type, allocator, wire->size, wire->data);
    if (*message) return NW_OK;
    if (im->ctx->status == NW_E_MEMORY) return NW_E_MEMORY;
    return nw_fail(im->ctx, NW_E_FORMAT,
                   "%s is not a valid ONNX file: its fields do not have the types that ONNX says", im->name);
}

static void release_externals(nw_import *im) {
    for (size_t i = 0; i < im->external_count; i++) {
        nw_free(im->ctx, im->externals[i].path);
        nw_bytes_free(im->externals[i].bytes);
    }
    nw_free(im->ctx, im->externals);
}

nw_status nw_onnx_import_bytes(nw_context *ctx, nw_bytes *bytes, const char *name, const char *dir,
                               bool allow_unknown, nw_graph **out) {
    nw_import im = {.ctx = ctx, .file = bytes, .name = name, .dir = dir};
    nw_wire wire = {.ctx = ctx};
    ProtobufCAllocator allocator = {proto_alloc, proto_free, ctx};
    ProtobufCMessage *message = NULL;
    nw_graph *g = NULL;
    nw_status status = unpack(&im, NW_WIRE_MODEL, &wire, &allocator, &message);
    const Onnx__ModelProto *proto = (const Onnx__ModelProto *)message;
    if (status == NW_OK && !proto->graph)
        status = nw_fail(ctx, NW_E_FORMAT, "%s is not an ONNX model: it has no graph", name);
    if (status == NW_OK) status = nw_graph_new(ctx, NULL, &g);
    if (status == NW_OK) status = import_model(&im, proto, g);
    if (message) protobuf_c_message_free_unpacked(message, &allocator);
    nw_wire_free(&wire);
    for (size_t i = 0; g && i < im.external_count; i++)
        g->info->external_bytes += im.externals[i].bytes->size;
    release_externals(&im);
    if (status == NW_OK) {
        status = nw_graph_resolve(g);
        if (status == NW_E_UNSUPPORTED && allow_unknown)
            status = NW_OK;
        else if (status != NW_OK)
            nw_fail_where(ctx, status, "%s", name);
    }
    if (status != NW_OK)
        nw_graph_free(g);
    else
        *out = g;
    return status;
}

nw_status nw_onnx_import(nw_context *ctx, const char *path, bool allow_unknown, nw_graph **out) {
    nw_bytes *bytes;
    NW_TRY(nw_bytes_map(ctx, path, &bytes));
    char *dir = nw_path_dir(ctx, path);
    nw_status status = dir ? nw_onnx_import_bytes(ctx, bytes, path, dir, allow_unknown, out) : NW_E_MEMORY;
    nw_free(ctx, dir);
    nw_bytes_free(bytes);
    return status;
}

nw_status nw_onnx_read_tensor(nw_context *ctx, const char *path, nw_arena *arena, nw_tensor *out) {
    nw_import im = {.ctx = ctx, .name = path};
    NW_TRY(nw_bytes_map(ctx, path, &im.file));
    nw_wire wire = {.ctx = ctx};
    ProtobufCAllocator allocator = {proto_alloc, proto_free, ctx};
    ProtobufCMessage *message = NULL;
    nw_constant c = {.owner = NULL};
    nw_status status = unpack(&im, NW_WIRE_TENSOR, &wire, &allocator, &message);
    if (status == NW_OK) status = nw_import_tensor(&im, arena, (const Onnx__TensorProto *)message, &c);
    if (status == NW_OK) { /* everything into the caller's arena, strings included */
        size_t size = c.owner->mapped ? nw_tensor_bytes(&c.tensor) : c.owner->size;
        *out = c.tensor;
        out->data = nw_arena_data(arena, size);
        if (!out->data)
            status = NW_E_MEMORY;
        else if (size)
            memcpy(out->data, c.tensor.data, size);
        for (size_t i = 0; status == NW_OK && out->format == NW_STR && i < nw_tensor_count(out); i++) {
            nw_str *s = &((nw_str *)out->data)[i];
            s->data = (const char *)out->data + (s->data - (const char *)c.tensor.data);
        }
    }
    if (message) protobuf_c_message_free_unpacked(message, &allocator);
    nw_wire_free(&wire);
    nw_bytes_free(c.owner);
    nw_bytes_free(im.file);
    return status;
}
