#include "onnx/tensor.h"

#include "op/quantize.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define LARGE_WEIGHT 65536 /* bytes */

/* ---- external data --------------------------------------------------------------------------------------------- */

/* The real path of `location` inside the model's folder: neither "..", nor an absolute path, nor a symbolic link may lead
 * out of it. */
static nw_status resolve_location(nw_import *im, const char *location, char **out) {
    if (!im->dir)
        return nw_fail(im->ctx, NW_E_UNSUPPORTED, "external data \"%s\" of a model that is not a file",
                       location);
    char *path = nw_path_join(im->ctx, im->dir, location);
    if (!path) return NW_E_MEMORY;
    char *real_dir = realpath(im->dir, NULL), *real = realpath(path, NULL);
    nw_status status = NW_OK;
    size_t length = real_dir ? strlen(real_dir) : 0;
    if (location[0] == '/' || !real_dir)
        status = nw_fail(im->ctx, NW_E_FORMAT, "external data \"%s\": absolute paths are refused", location);
    else if (!real)
        status = nw_fail(im->ctx, NW_E_IO, "cannot open external data %s: %s", path, strerror(errno));
    else if (strncmp(real, real_dir, length) != 0 || (real[length] != '/' && length > 1))
        status = nw_fail(im->ctx, NW_E_FORMAT,
                         "external data \"%s\" lies outside of the model's folder: refused", location);
    free(real_dir);
    free(real);
    if (status != NW_OK)
        nw_free(im->ctx, path);
    else
        *out = path;
    return status;
}

static nw_status open_external(nw_import *im, const char *location, nw_bytes **out) {
    char *path = NULL;
    NW_TRY(resolve_location(im, location, &path));
    for (size_t i = 0; i < im->external_count; i++)
        if (strcmp(im->externals[i].path, path) == 0) {
            nw_free(im->ctx, path);
            *out = nw_bytes_ref(im->externals[i].bytes);
            return NW_OK;
        }
    nw_bytes *bytes = NULL;
    nw_status status = nw_grow(im->ctx, (void **)&im->externals, &im->external_capacity, im->external_count,
                               im->external_count + 1, sizeof *im->externals);
    if (status == NW_OK) status = nw_bytes_map(im->ctx, path, &bytes);
    if (status != NW_OK) {
        nw_free(im->ctx, path);
        return status;
    }
    im->externals[im->external_count].path = path;
    im->externals[im->external_count++].bytes = bytes;
    *out = nw_bytes_ref(bytes);
    return NW_OK;
}

static bool parse_size(const char *text, size_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-') return false;
    *out = (size_t)v;
    return true;
}

static nw_status external_span(nw_import *im, const Onnx__TensorProto *t, size_t need, nw_bytes **owner,
                               size_t *at) {
    const char *location = NULL;
    size_t offset = 0, length = need;
    for (size_t i = 0; i < t->n_external_data; i++) {
        const char *key = t->external_data[i]->key, *value = t->external_data[i]->value;
        if (!key || !value) continue;
        bool good = true;
        if (strcmp(key, "location") == 0)
            location = value;
        else if (strcmp(key, "offset") == 0)
            good = parse_size(value, &offset);
        else if (strcmp(key, "length") == 0)
            good = parse_size(value, &length);
        if (!good)
            return nw_fail(im->ctx, NW_E_FORMAT, "external data: %s \"%s\" is not a number", key, value);
    }
    if (!location) return nw_fail(im->ctx, NW_E_FORMAT, "external data without a location");
    NW_TRY(open_external(im, location, owner));
    if (length != need || offset > (*owner)->size || need > (*owner)->size - offset) {
        nw_status status =
            nw_fail(im->ctx, NW_E_FORMAT,
                    "external data %s: %zu bytes at %zu are needed, the entry says %zu and the file has %zu",
                    location, need, offset, length, (*owner)->size);
        nw_bytes_free(*owner);
        *owner = NULL;
        return status;
    }
    *at = offset;
    return NW_OK;
}

/* ---- typed fields ---------------------------------------------------------------------------------------------- */

/* Elements of a format lie in one of five typed fields; `per` of them make one element (2 for complex numbers). */
static nw_status typed_data(nw_import *im, const Onnx__TensorProto *t, nw_format f, size_t count,
                            uint8_t *to) {
    size_t have, bits = (size_t)nw_format_bits(f), need = count;
    switch ((int)f) {
    case NW_C64: need = count * 2; /* fall through */
    case NW_F32: have = t->n_float_data; break;
    case NW_C128: need = count * 2; /* fall through */
    case NW_F64: have = t->n_double_data; break;
    case NW_S64: have = t->n_int64_data; break;
    case NW_U32:
    case NW_U64: have = t->n_uint64_data; break;
    default:
        have = t->n_int32_data;
        if (bits < 8) need = (count * bits + 7) / 8; /* one packed byte per entry */
    }
    if (have != need)
        return nw_fail(im->ctx, NW_E_FORMAT, "its shape needs %zu entries of type %s, it has %zu", need,
                       nw_format_name(f), have);
    switch ((int)f) {
    case NW_F32:
    case NW_C64:
        if (need) memcpy(to, t->float_data, need * 4);
        break;
    case NW_F64:
    case NW_C128:
        if (need) memcpy(to, t->double_data, need * 8);
        break;
    case NW_S64:
    case NW_U64:
        if (need)
            memcpy(to, f == NW_S64 ? (const void *)t->int64_data : (const void *)t->uint64_data, need * 8);
        break;
    case NW_U32:
        for (size_t i = 0; i < need; i++) ((uint32_t *)to)[i] = (uint32_t)t->uint64_data[i];
        break;
    default:
        for (size_t i = 0; i < need; i++) {
            int32_t x = t->int32_data[i];
            if (bits <= 8)
                to[i] = (uint8_t)x;
            else if (bits == 16)
                ((uint16_t *)to)[i] = (uint16_t)x;
            else
                ((int32_t *)to)[i] = x;
        }
    }
    return NW_OK;
}

/* The array of nw_str and the characters it points at share one block, so that they live and die together. */
static nw_status string_data(nw_import *im, const Onnx__TensorProto *t, size_t count, nw_bytes **out) {
    if (t->n_string_data != count)
        return nw_fail(im->ctx, NW_E_FORMAT, "its shape needs %zu strings, it has %zu", count,
                       t->n_string_data);
    size_t total = count * sizeof(nw_str);
    for (size_t i = 0; i < count; i++) total += t->string_data[i].len;
    NW_TRY(nw_bytes_new(im->ctx, total, out));
    nw_str *list = (nw_str *)(uintptr_t)(*out)->data;
    char *text = (char *)(list + count);
    for (size_t i = 0; i < count; i++) {
        list[i] = (nw_str){text, t->string_data[i].len};
        if (list[i].size) memcpy(text, t->string_data[i].data, list[i].size);
        text += list[i].size;
    }
    return NW_OK;
}

static nw_status read_tensor(nw_import *im, nw_arena *arena, const Onnx__TensorProto *t, nw_constant *out) {
    nw_tensor *tensor = &out->tensor;
    *out = (nw_constant){.owner = NULL};
    tensor->format = nw_format_from_onnx(t->data_type);
    if (tensor->format == NW_NONE)
        return nw_fail(im->ctx, NW_E_UNSUPPORTED, "element type %d is unknown", (int)t->data_type);
    if (t->n_dims > NW_MAX_RANK)
        return nw_fail(im->ctx, NW_E_UNSUPPORTED, "%zu dimensions; at most %d are supported", t->n_dims,
                       NW_MAX_RANK);
    if (t->segment) return nw_fail(im->ctx, NW_E_UNSUPPORTED, "tensors in segments are not supported");
    nw_tensor_set_shape(tensor, (int)t->n_dims, t->dims);
    NW_TRY(nw_tensor_check(im->ctx, tensor));
    size_t need = nw_tensor_bytes(tensor), count = nw_tensor_count(tensor), at = 0;
    if (t->doc_string && !(out->doc = nw_arena_strdup(arena, t->doc_string))) return NW_E_MEMORY;
    NW_TRY(nw_import_unknown(arena, &t->base, &out->unknown));
    bool external = t->has_data_location && t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    if (external && tensor->format != NW_STR) {
        NW_TRY(external_span(im, t, need, &out->owner, &at));
    } else if (t->has_raw_data && tensor->format != NW_STR) {
        uint64_t index;
        if (t->raw_data.len != sizeof index)
            return nw_fail(im->ctx, NW_E_INTERNAL, "raw data was not lifted");
        memcpy(&index, t->raw_data.data, sizeof index);
        nw_span span = im->wire->spans[index];
        if (span.size != need)
            return nw_fail(im->ctx, NW_E_FORMAT,
                           "its shape needs %zu bytes, the raw data at byte %zu has %zu", need, span.offset,
                           span.size);
        out->owner = nw_bytes_ref(im->file);
        at = span.offset;
    } else {
        /* Entries are checked against what the file holds before memory is taken for them. */
        size_t entries = t->n_float_data + t->n_double_data + t->n_int32_data + t->n_int64_data +
                         t->n_uint64_data + t->n_string_data;
        if (count > entries * 8)
            return nw_fail(im->ctx, NW_E_FORMAT, "its shape needs %zu elements, the file holds %zu", count,
                           entries);
        if (tensor->format == NW_STR)
            NW_TRY(string_data(im, t, count, &out->owner));
        else
            NW_TRY(nw_bytes_new(im->ctx, need, &out->owner));
        tensor->data = (void *)(uintptr_t)out->owner->data;
        return tensor->format == NW_STR ? NW_OK : typed_data(im, t, tensor->format, count, tensor->data);
    }
    tensor->data = (void *)(uintptr_t)(out->owner->data + at);
    /* In the file data lies at any offset; kernels and C want elements aligned. Large weights stay where they are all the
     * same: who reads them knows (nw_tensor_aligned), and memory holds them once. */
    bool stays = tensor->format == NW_F32 && need >= LARGE_WEIGHT;
    if (!stays && !nw_tensor_aligned(tensor)) {
        nw_bytes *aligned;
        nw_status status = nw_bytes_new(im->ctx, need, &aligned);
        if (status == NW_OK) memcpy((void *)(uintptr_t)aligned->data, out->owner->data + at, need);
        nw_bytes_free(out->owner);
        out->owner = NULL;
        if (status != NW_OK) return status;
        out->owner = aligned;
        at = 0;
    }
    tensor->data = (void *)(uintptr_t)(out->owner->data + at);
    return NW_OK;
}

nw_status nw_import_tensor(nw_import *im, nw_arena *arena, const Onnx__TensorProto *t, nw_constant *out) {
    nw_status status = read_tensor(im, arena, t, out);
    if (status == NW_OK) return NW_OK;
    nw_bytes_free(out->owner);
    out->owner = NULL;
    return nw_fail_where(im->ctx, status, "%s: tensor \"%s\"", im->name, t->name ? t->name : "");
}

/* ---- fields we carry through ----------------------------------------------------------------------------------- */

typedef struct blob_head {
    uint32_t tag, wire_type;
    uint64_t size;
} blob_head;

static nw_status append(nw_arena *arena, nw_str *blob, blob_head head, const void *data) {
    char *grown = nw_arena_data(arena, blob->size + sizeof head + head.size);
    if (!grown) return NW_E_MEMORY;
    if (blob->size) memcpy(grown, blob->data, blob->size);
    memcpy(grown + blob->size, &head, sizeof head);
    if (head.size) memcpy(grown + blob->size + sizeof head, data, head.size);
    *blob = (nw_str){grown, blob->size + sizeof head + head.size};
    return NW_OK;
}

nw_status nw_import_unknown(nw_arena *arena, const ProtobufCMessage *message, nw_str *out) {
    for (unsigned i = 0; i < message->n_unknown_fields; i++) {
        const ProtobufCMessageUnknownField *f = &message->unknown_fields[i];
        NW_TRY(append(arena, out, (blob_head){f->tag, f->wire_type, f->len}, f->data));
    }
    return NW_OK;
}

nw_status nw_import_keep(nw_arena *arena, uint32_t tag, const ProtobufCMessage *message, nw_str *blob) {
    size_t size = protobuf_c_message_get_packed_size(message), at = 0;
    uint8_t *data = nw_arena_data(arena, size + 10);
    if (!data) return NW_E_MEMORY;
    for (size_t rest = size;; rest >>= 7) { /* the length prefix is part of a field's bytes */
        data[at++] = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
        if (rest <= 0x7f) break;
    }
    protobuf_c_message_pack(message, data + at);
    return append(arena, blob, (blob_head){tag, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, at + size}, data);
}

nw_status nw_export_unknown(nw_arena *arena, nw_str blob, ProtobufCMessage *message) {
    unsigned count = 0;
    blob_head head;
    for (size_t at = 0; at < blob.size; at += sizeof head + head.size, count++)
        memcpy(&head, blob.data + at, sizeof head);
    if (count == 0) return NW_OK;
    ProtobufCMessageUnknownField *fields = nw_arena_array(arena, count, sizeof *fields);
    if (!fields) return NW_E_MEMORY;
    size_t at = 0;
    for (unsigned i = 0; i < count; i++, at += sizeof head + head.size) {
        memcpy(&head, blob.data + at, sizeof head);
        fields[i] = (ProtobufCMessageUnknownField){head.tag, (ProtobufCWireType)head.wire_type, head.size,
                                                   (uint8_t *)(uintptr_t)blob.data + at + sizeof head};
    }
    message->n_unknown_fields = count;
    message->unknown_fields = fields;
    return NW_OK;
}

/* ---- metadata of nodes ------------------------------------------------------------------------------------------- */

#define METADATA_PROPS 9            /* of NodeProto: a StringStringEntryProto each */
#define OURS           "ai.narrow." /* keys of ours begin with it */

bool nw_is_metadata(const nw_attr *attr) {
    return attr->kind == NW_ATTR_STRING && strncmp(attr->name, OURS, strlen(OURS)) == 0;
}

/* A length and so many bytes, as protobuf writes them; *at moves behind. */
static bool read_bytes(const char **at, const char *end, nw_str *out) {
    size_t size = 0;
    for (int shift = 0;; shift += 7) {
        if (*at == end || shift > 28) return false;
        unsigned byte = (unsigned char)*(*at)++;
        size |= (size_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) break;
    }
    if (size > (size_t)(end - *at)) return false;
    *out = (nw_str){*at, size};
    *at += size;
    return true;
}

/* A StringStringEntryProto with its length before it; absent strings are empty. */
static bool read_entry(const char *at, size_t size, nw_str *key, nw_str *value) {
    nw_str entry;
    *key = *value = (nw_str){"", 0};
    if (!read_bytes(&at, at + size, &entry)) return false;
    const char *end = entry.data + entry.size;
    for (at = entry.data; at < end;) {
        int tag = (uint8_t)*at++; /* fields 1 and 2, both strings */
        if ((tag != 0x0a && tag != 0x12) || !read_bytes(&at, end, tag == 0x0a ? key : value)) return false;
    }
    return true;
}

static bool is_ours(nw_str key) {
    return key.size > strlen(OURS) && memcmp(key.data, OURS, strlen(OURS)) == 0;
}

nw_status nw_import_metadata(nw_graph *g, nw_node *node) {
    char *blob = (char *)(uintptr_t)node->unknown.data; /* nw_import_unknown's: ours to change */
    size_t kept = 0, size = 0;
    blob_head head;
    for (size_t at = 0; at < node->unknown.size; at += size) {
        nw_str key, value;
        memcpy(&head, blob + at, sizeof head);
        size = sizeof head + head.size;
        if (head.tag == METADATA_PROPS && head.wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED &&
            read_entry(blob + at + sizeof head, head.size, &key, &value) && is_ours(key)) {
            const char *name = nw_arena_strndup(&g->arena, key.data, key.size);
            const char *text = nw_arena_strndup(&g->arena, value.data, value.size);
            if (!name || !text) return NW_E_MEMORY;
            NW_TRY(nw_node_set_string(g, node, name, text));
            continue;
        }
        memmove(blob + kept, blob + at, size);
        kept += size;
    }
    node->unknown.size = kept;
    return NW_OK;
}

nw_status nw_export_metadata(nw_arena *arena, const nw_attr *attr, nw_str *blob) {
    Onnx__StringStringEntryProto entry = ONNX__STRING_STRING_ENTRY_PROTO__INIT;
    entry.key = (char *)(uintptr_t)attr->name;
    entry.value = (char *)(uintptr_t)attr->s.data;
    return nw_import_keep(arena, METADATA_PROPS, &entry.base, blob);
}
