/* export.c: nw_graph → ModelProto. The messages are built in an arena over the graph's own bytes and stream into the file. */
#include "onnx/onnx.h"
#include "onnx/tensor.h"
#include "op/op.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NEW(arena, ptr)                                                                                      \
    do {                                                                                                     \
        if (!((ptr) = nw_arena_alloc(arena, sizeof *(ptr)))) return NW_E_MEMORY;                             \
    } while (0)
#define NEW_ARRAY(arena, ptr, count)                                                                         \
    do {                                                                                                     \
        if (!((ptr) = nw_arena_array(arena, (size_t)(count), sizeof *(ptr)))) return NW_E_MEMORY;            \
    } while (0)

static char *text(const char *s) {
    return s && *s ? (char *)(uintptr_t)s : NULL;
} /* "" is left out */

static nw_status export_graph(nw_arena *arena, const nw_graph *g, Onnx__GraphProto **out);

static nw_status export_tensor(nw_arena *arena, const nw_constant *c, const char *name,
                               Onnx__TensorProto **out) {
    Onnx__TensorProto *t;
    NEW(arena, t);
    onnx__tensor_proto__init(t);
    const nw_tensor *tensor = &c->tensor;
    t->name = text(name);
    t->doc_string = text(c->doc);
    t->has_data_type = true;
    t->data_type = (int32_t)tensor->format;
    t->n_dims = (size_t)tensor->rank;
    NEW_ARRAY(arena, t->dims, tensor->rank);
    memcpy(t->dims, tensor->dims, (size_t)tensor->rank * sizeof *t->dims);
    if (tensor->format == NW_STR) {
        const nw_str *strings = tensor->data;
        t->n_string_data = nw_tensor_count(tensor);
        NEW_ARRAY(arena, t->string_data, t->n_string_data);
        for (size_t i = 0; i < t->n_string_data; i++)
            t->string_data[i] = (ProtobufCBinaryData){strings[i].size, (uint8_t *)(uintptr_t)strings[i].data};
    } else {
        t->has_raw_data = true;
        t->raw_data = (ProtobufCBinaryData){nw_tensor_bytes(tensor), tensor->data};
    }
    *out = t;
    return nw_export_unknown(arena, c->unknown, &t->base);
}

static nw_status export_value(nw_arena *arena, const nw_value *v, Onnx__ValueInfoProto **out) {
    Onnx__ValueInfoProto *info;
    NEW(arena, info);
    onnx__value_info_proto__init(info);
    info->name = (char *)(uintptr_t)v->name;
    info->doc_string = text(v->doc);
    *out = info;
    NW_TRY(nw_export_unknown(arena, v->unknown, &info->base));
    if (!v->type && v->format == NW_NONE) return NW_OK;
    NEW(arena, info->type);
    onnx__type_proto__init(info->type);
    if (v->type) { /* carried through: unpacked into the arena would copy; its one field travels as an unknown field */
        Onnx__TypeProto *t = onnx__type_proto__unpack(NULL, v->type->size, v->type->data);
        if (!t) return NW_E_MEMORY;
        nw_str blob = {NULL, 0};
        nw_status status = NW_OK;
        const ProtobufCMessage *field = NULL;
        uint32_t tag = (uint32_t)t->value_case;
        switch ((int)t->value_case) {
        case ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE: field = &t->tensor_type->base; break;
        case ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE: field = &t->sequence_type->base; break;
        case ONNX__TYPE_PROTO__VALUE_MAP_TYPE: field = &t->map_type->base; break;
        case ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE: field = &t->optional_type->base; break;
        case ONNX__TYPE_PROTO__VALUE_SPARSE_TENSOR_TYPE: field = &t->sparse_tensor_type->base; break;
        default: break;
        }
        if (field) status = nw_import_keep(arena, tag, field, &blob);
        onnx__type_proto__free_unpacked(t, NULL);
        return status != NW_OK ? status : nw_export_unknown(arena, blob, &info->type->base);
    }
    info->type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    Onnx__TypeProto__Tensor *tensor;
    NEW(arena, tensor);
    onnx__type_proto__tensor__init(tensor);
    info->type->tensor_type = tensor;
    tensor->has_elem_type = true;
    tensor->elem_type = (int32_t)v->format;
    if (v->rank < 0) return NW_OK;
    NEW(arena, tensor->shape);
    onnx__tensor_shape_proto__init(tensor->shape);
    tensor->shape->n_dim = (size_t)v->rank;
    NEW_ARRAY(arena, tensor->shape->dim, v->rank);
    for (int i = 0; i < v->rank; i++) {
        Onnx__TensorShapeProto__Dimension *d;
        NEW(arena, d);
        onnx__tensor_shape_proto__dimension__init(d);
        tensor->shape->dim[i] = d;
        if (v->dims[i] >= 0) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            d->dim_value = v->dims[i];
        } else if (v->dim_names && v->dim_names[i]) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            d->dim_param = (char *)(uintptr_t)v->dim_names[i];
        }
    }
    return NW_OK;
}

static nw_status export_attr(nw_arena *arena, const nw_attr *a, Onnx__AttributeProto **out) {
    Onnx__AttributeProto *p;
    if (a->kind == NW_ATTR_RAW) {
        /* kept as it came; not in the arena: release_raw frees it */
        *out = onnx__attribute_proto__unpack(NULL, a->raw.size, (const uint8_t *)a->raw.data);
        return *out ? NW_OK : NW_E_MEMORY;
    }
    NEW(arena, p);
    onnx__attribute_proto__init(p);
    p->name = (char *)(uintptr_t)a->name;
    p->has_type = true;
    *out = p;
    switch (a->kind) {
    case NW_ATTR_INT:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        p->has_i = true;
        p->i = a->i;
        break;
    case NW_ATTR_FLOAT:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
        p->has_f = true;
        p->f = a->f;
        break;
    case NW_ATTR_STRING:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
        p->has_s = true;
        p->s = (ProtobufCBinaryData){a->s.size, (uint8_t *)(uintptr_t)a->s.data};
        break;
    case NW_ATTR_TENSOR:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
        return export_tensor(arena, a->tensor, a->tensor->name, &p->t);
    case NW_ATTR_GRAPH:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH;
        return export_graph(arena, a->graph, &p->g);
    case NW_ATTR_INTS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
        p->n_ints = a->count;
        p->ints = (int64_t *)(uintptr_t)a->ints;
        break;
    case NW_ATTR_FLOATS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
        p->n_floats = a->count;
        p->floats = (float *)(uintptr_t)a->floats;
        break;
    case NW_ATTR_STRINGS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
        p->n_strings = a->count;
        NEW_ARRAY(arena, p->strings, a->count);
        for (size_t i = 0; i < a->count; i++)
            p->strings[i] =
                (ProtobufCBinaryData){a->strings[i].size, (uint8_t *)(uintptr_t)a->strings[i].data};
        break;
    case NW_ATTR_TENSORS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSORS;
        p->n_tensors = a->count;
        NEW_ARRAY(arena, p->tensors, a->count);
        for (size_t i = 0; i < a->count; i++)
            NW_TRY(export_tensor(arena, a->tensors[i], a->tensors[i]->name, &p->tensors[i]));
        break;
    case NW_ATTR_GRAPHS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPHS;
        p->n_graphs = a->count;
        NEW_ARRAY(arena, p->graphs, a->count);
        for (size_t i = 0; i < a->count; i++) NW_TRY(export_graph(arena, a->graphs[i], &p->graphs[i]));
        break;
    case NW_ATTR_RAW: break;
    }
    return NW_OK;
}

static nw_status names_of(nw_arena *arena, const nw_graph *g, const int *ids, int count, char ***out) {
    NEW_ARRAY(arena, *out, count);
    for (int i = 0; i < count; i++) (*out)[i] = (char *)(uintptr_t)(ids[i] < 0 ? "" : g->values[ids[i]].name);
    return NW_OK;
}

static nw_status export_node(nw_arena *arena, const nw_graph *g, const nw_node *n, Onnx__NodeProto **out) {
    Onnx__NodeProto *p;
    NEW(arena, p);
    onnx__node_proto__init(p);
    *out = p;
    p->name = text(n->name);
    p->op_type = (char *)(uintptr_t)n->op_type;
    p->domain = text(n->domain);
    p->doc_string = text(n->doc);
    p->n_input = (size_t)n->in_count;
    p->n_output = (size_t)n->out_count;
    NW_TRY(names_of(arena, g, n->in, n->in_count, &p->input));
    NW_TRY(names_of(arena, g, n->out, n->out_count, &p->output));
    nw_str unknown = n->unknown;
    NEW_ARRAY(arena, p->attribute, n->attr_count);
    for (int i = 0; i < n->attr_count; i++)
        if (nw_is_metadata(&n->attrs[i]))
            NW_TRY(nw_export_metadata(arena, &n->attrs[i], &unknown));
        else
            NW_TRY(export_attr(arena, &n->attrs[i], &p->attribute[p->n_attribute++]));
    return nw_export_unknown(arena, unknown, &p->base);
}

static nw_status export_graph(nw_arena *arena, const nw_graph *g, Onnx__GraphProto **out) {
    Onnx__GraphProto *p;
    NEW(arena, p);
    onnx__graph_proto__init(p);
    *out = p; /* before anything can fail: release_raw looks through it */
    p->name = (char *)(uintptr_t)(g->name[0] ? g->name : "graph"); /* ONNX requires one */
    p->doc_string = text(g->doc);
    NEW_ARRAY(arena, p->node, g->node_count);
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead) NW_TRY(export_node(arena, g, &g->nodes[i], &p->node[p->n_node++]));
    NEW_ARRAY(arena, p->input, g->input_count);
    for (int i = 0; i < g->input_count; i++)
        NW_TRY(export_value(arena, &g->values[g->inputs[i]], &p->input[p->n_input++]));
    NEW_ARRAY(arena, p->output, g->output_count);
    for (int i = 0; i < g->output_count; i++)
        NW_TRY(export_value(arena, &g->values[g->outputs[i]], &p->output[p->n_output++]));
    NEW_ARRAY(arena, p->initializer, g->value_count);
    NEW_ARRAY(arena, p->value_info, g->value_count);
    for (int v = 0; v < g->value_count; v++) {
        const nw_value *value = &g->values[v];
        if (value->constant && value->constant->tensor.qparam)
            return nw_fail(arena->ctx, NW_E_INTERNAL,
                           "packed constant \"%s\" was not spelled out before export", value->name);
        if (value->constant)
            NW_TRY(export_tensor(arena, value->constant, value->name, &p->initializer[p->n_initializer++]));
        else if (value->declared && value->outer < 0)
            NW_TRY(export_value(arena, value, &p->value_info[p->n_value_info++]));
    }
    return nw_export_unknown(arena, g->unknown, &p->base);
}

static nw_status export_model(nw_arena *arena, const nw_graph *g, Onnx__ModelProto *p) {
    const nw_model_info *info = g->info;
    onnx__model_proto__init(p);
    p->has_ir_version = true;
    p->ir_version = info->ir_version;
    p->producer_name = text(info->producer_name);
    p->producer_version = text(info->producer_version);
    p->domain = text(info->domain);
    p->doc_string = text(info->doc);
    p->has_model_version = info->model_version != 0;
    p->model_version = info->model_version;
    NEW_ARRAY(arena, p->opset_import, g->opset_count);
    for (size_t i = 0; i < g->opset_count; i++) {
        NEW(arena, p->opset_import[i]);
        onnx__operator_set_id_proto__init(p->opset_import[i]);
        p->opset_import[i]->domain = (char *)(uintptr_t)g->opsets[i].domain;
        p->opset_import[i]->has_version = true;
        p->opset_import[i]->version = g->opsets[i].version;
        p->n_opset_import++;
    }
    NEW_ARRAY(arena, p->metadata_props, info->property_count);
    for (size_t i = 0; i < info->property_count; i++) {
        NEW(arena, p->metadata_props[i]);
        onnx__string_string_entry_proto__init(p->metadata_props[i]);
        p->metadata_props[i]->key = (char *)(uintptr_t)info->properties[i].key;
        p->metadata_props[i]->value = (char *)(uintptr_t)info->properties[i].value;
        p->n_metadata_props++;
    }
    NW_TRY(nw_export_unknown(arena, info->unknown, &p->base));
    return export_graph(arena, g, &p->graph);
}

/* protobuf-c writes through this: every piece goes straight to the file. */
typedef struct file_buffer {
    ProtobufCBuffer base;
    nw_output *output;
    const nw_graph *graph;
} file_buffer;

#define LARGE_WEIGHT ((size_t)1 << 20) /* bytes */

/* Large weights that lie in mapped files give their memory back as soon as they are written. */
static void append_to_file(ProtobufCBuffer *base, size_t size, const uint8_t *data) {
    const file_buffer *buffer = (const file_buffer *)base;
    nw_output_write(buffer->output, data, size);
    for (int v = 0; size >= LARGE_WEIGHT && v < buffer->graph->value_count; v++) {
        const nw_constant *c = buffer->graph->values[v].constant;
        if (c && c->tensor.data == data) nw_bytes_forget(c->owner, data, size);
    }
}

/* Attributes kept as they came are the only messages not in the arena. */
static void release_raw(const nw_graph *g, Onnx__GraphProto *p) {
    if (!p) return;
    size_t at = 0;
    for (int n = 0; n < g->node_count && at < p->n_node; n++) {
        if (g->nodes[n].dead) continue;
        Onnx__NodeProto *node = p->node[at++];
        for (int a = 0, written = 0; node && node->attribute && a < g->nodes[n].attr_count; a++) {
            const nw_attr *attr = &g->nodes[n].attrs[a];
            if (nw_is_metadata(attr)) continue;
            Onnx__AttributeProto *proto = node->attribute[written++];
            if (!proto) continue;
            if (attr->kind == NW_ATTR_RAW)
                onnx__attribute_proto__free_unpacked(proto, NULL);
            else if (attr->kind == NW_ATTR_GRAPH)
                release_raw(attr->graph, proto->g);
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && proto->graphs && i < attr->count; i++)
                release_raw(attr->graphs[i], proto->graphs[i]);
        }
    }
}

/* ---- external data ------------------------------------------------------------------------------------------- */

#define EXTERNAL_LEAST 4096               /* bytes: smaller tensors stay in the model's own file */
#define EXTERNAL_PIECE ((size_t)64 << 20) /* written, and forgotten, at a time */
#define MOST_IN_A_FILE INT32_MAX          /* bytes that a protobuf message can have */

static bool goes_out(const nw_constant *c) {
    return c && c->tensor.format != NW_STR && nw_tensor_bytes(&c->tensor) >= EXTERNAL_LEAST;
}

/* Where a tensor begins, at `at` or behind: a page, of large ones one that Windows can map too. */
static uint64_t place_of(uint64_t at, const nw_constant *c) {
    uint64_t step = nw_tensor_bytes(&c->tensor) >= ((size_t)1 << 20) ? 65536 : 4096;
    return (at + step - 1) / step * step;
}

static nw_status add_entry(nw_arena *arena, Onnx__TensorProto *t, const char *key, const char *value) {
    Onnx__StringStringEntryProto *entry;
    if (!value) return NW_E_MEMORY;
    NEW(arena, entry);
    onnx__string_string_entry_proto__init(entry);
    entry->key = (char *)(uintptr_t)key;
    entry->value = (char *)(uintptr_t)value;
    t->external_data[t->n_external_data++] = entry;
    return NW_OK;
}

/* The initializers of p, which are g's constants in their order, say where they lie in the file `location`. */
static nw_status move_out(nw_arena *arena, const nw_graph *g, Onnx__GraphProto *p, const char *location) {
    uint64_t at = 0;
    size_t i = 0;
    for (int v = 0; v < g->value_count; v++) {
        const nw_constant *c = g->values[v].constant;
        if (!c) continue;
        Onnx__TensorProto *t = p->initializer[i++];
        if (!goes_out(c)) continue;
        size_t size = nw_tensor_bytes(&c->tensor);
        at = place_of(at, c);
        t->has_raw_data = false;
        t->has_data_location = true;
        t->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
        NEW_ARRAY(arena, t->external_data, 3);
        NW_TRY(add_entry(arena, t, "location", location));
        NW_TRY(add_entry(arena, t, "offset", nw_arena_printf(arena, "%" PRIu64, at)));
        NW_TRY(add_entry(arena, t, "length", nw_arena_printf(arena, "%zu", size)));
        at += size;
    }
    return NW_OK;
}

static nw_status write_external(const nw_graph *g, nw_output *out, uint64_t *bytes) {
    static const uint8_t zeros[4096];
    uint64_t at = 0;
    for (int v = 0; v < g->value_count; v++) {
        const nw_constant *c = g->values[v].constant;
        if (!goes_out(c)) continue;
        uint64_t begin = place_of(at, c), step;
        for (; at < begin; at += step) {
            step = begin - at < sizeof zeros ? begin - at : sizeof zeros;
            nw_output_write(out, zeros, (size_t)step);
        }
        const uint8_t *data = c->tensor.data;
        size_t size = nw_tensor_bytes(&c->tensor), piece;
        for (size_t done = 0; done < size; done += piece) {
            piece = size - done < EXTERNAL_PIECE ? size - done : EXTERNAL_PIECE;
            NW_TRY(nw_output_write(out, data + done, piece));
            nw_bytes_forget(c->owner, data + done, piece);
        }
        at += size;
    }
    *bytes = at;
    return out->status;
}

/* The second file of a model first: without it the model would be of no use. */
static nw_status export_external(nw_arena *arena, const nw_graph *g, const char *path, Onnx__GraphProto *p,
                                 uint64_t *bytes) {
    const char *data_path = nw_arena_printf(arena, "%s.data", path);
    nw_output output;
    if (!data_path) return NW_E_MEMORY;
    NW_TRY(move_out(arena, g, p, nw_path_base(data_path)));
    NW_TRY(nw_output_open(g->ctx, &output, data_path));
    nw_status status = write_external(g, &output, bytes);
    if (status == NW_OK) return nw_output_commit(&output);
    nw_output_abort(&output);
    return status;
}

static nw_status write_model(const nw_graph *g, const char *path, const Onnx__ModelProto *model) {
    nw_output output;
    NW_TRY(nw_output_open(g->ctx, &output, path));
    file_buffer buffer = {{append_to_file}, &output, g};
    protobuf_c_message_pack_to_buffer(&model->base, &buffer.base);
    return nw_output_commit(&output);
}

nw_status nw_onnx_export(const nw_graph *g, const char *path, bool external, uint64_t *bytes) {
    nw_arena arena;
    nw_arena_init(&arena, g->ctx);
    Onnx__ModelProto model = ONNX__MODEL_PROTO__INIT;
    uint64_t beside = 0;
    nw_status status = export_model(&arena, g, &model);
    if (status == NW_OK && (external || protobuf_c_message_get_packed_size(&model.base) > MOST_IN_A_FILE))
        status = export_external(&arena, g, path, model.graph, &beside);
    size_t size = status == NW_OK ? protobuf_c_message_get_packed_size(&model.base) : 0;
    if (size > MOST_IN_A_FILE)
        status = nw_fail(g->ctx, NW_E_UNSUPPORTED,
                         "cannot write %s: without its weights the model still exceeds the 2 GB that an ONNX "
                         "file can have",
                         path);
    if (status == NW_OK) status = write_model(g, path, &model);
    if (status == NW_OK && bytes) *bytes = size + beside;
    release_raw(g, model.graph);
    nw_arena_free(&arena);
    return status;
}

nw_status nw_onnx_size(const nw_graph *g, uint64_t *bytes) {
    nw_arena arena;
    nw_arena_init(&arena, g->ctx);
    Onnx__ModelProto model = ONNX__MODEL_PROTO__INIT;
    nw_status status = export_model(&arena, g, &model);
    if (status == NW_OK) *bytes = protobuf_c_message_get_packed_size(&model.base);
    release_raw(g, model.graph);
    nw_arena_free(&arena);
    return status;
}
