#include "onnx/wire.h"

#include <string.h>

/* The messages of onnx.proto that hold other messages, as far as tensors and recursion can hide in them. */
typedef enum message {
    LEAF,
    MODEL,
    GRAPH,
    NODE,
    ATTRIBUTE,
    TENSOR,
    SPARSE,
    VALUE_INFO,
    TYPE,
    TYPE_HOLDER1, /* Sequence and Optional: the type is field 1 */
    TYPE_HOLDER2, /* Map: the value's type is field 2 */
    FUNCTION,
    TRAINING
} message;

static const struct {
    message parent;
    uint32_t field;
    message child;
} schema[] = {
    {MODEL, 7, GRAPH},          {MODEL, 20, TRAINING},   {MODEL, 25, FUNCTION},   {GRAPH, 1, NODE},
    {GRAPH, 5, TENSOR},         {GRAPH, 11, VALUE_INFO}, {GRAPH, 12, VALUE_INFO}, {GRAPH, 13, VALUE_INFO},
    {GRAPH, 15, SPARSE},        {NODE, 5, ATTRIBUTE},    {ATTRIBUTE, 5, TENSOR},  {ATTRIBUTE, 6, GRAPH},
    {ATTRIBUTE, 10, TENSOR},    {ATTRIBUTE, 11, GRAPH},  {ATTRIBUTE, 14, TYPE},   {ATTRIBUTE, 15, TYPE},
    {ATTRIBUTE, 22, SPARSE},    {ATTRIBUTE, 23, SPARSE}, {SPARSE, 1, TENSOR},     {SPARSE, 2, TENSOR},
    {VALUE_INFO, 2, TYPE},      {TYPE, 4, TYPE_HOLDER1}, {TYPE, 5, TYPE_HOLDER2}, {TYPE, 9, TYPE_HOLDER1},
    {TYPE_HOLDER1, 1, TYPE},    {TYPE_HOLDER2, 2, TYPE}, {FUNCTION, 7, NODE},     {FUNCTION, 11, ATTRIBUTE},
    {FUNCTION, 12, VALUE_INFO}, {TRAINING, 1, GRAPH},    {TRAINING, 2, GRAPH},
};

#define MAX_DEPTH    100
#define TENSOR_RAW   9
#define LENGTH_BYTES 5 /* a length written before it is known: padded to five bytes, which varints permit */

static message child_of(message parent, uint32_t field) {
    for (size_t i = 0; i < sizeof schema / sizeof *schema; i++)
        if (schema[i].parent == parent && schema[i].field == field) return schema[i].child;
    return LEAF;
}

typedef struct scanner {
    nw_wire *wire;
    const uint8_t *data;
    const char *name;
} scanner;

static nw_status damaged(scanner *s, size_t at, const char *what) {
    return nw_fail(s->wire->ctx, NW_E_FORMAT, "%s is not a valid ONNX file: %s at byte %zu", s->name, what,
                   at);
}

static nw_status emit(scanner *s, const void *data, size_t size) {
    nw_wire *w = s->wire;
    size_t need;
    if (!nw_add_size(w->size, size, &need)) return nw_fail(w->ctx, NW_E_MEMORY, "out of memory");
    NW_TRY(nw_grow(w->ctx, (void **)&w->data, &w->capacity, w->size, need, 1));
    if (size) memcpy(w->data + w->size, data, size);
    w->size = need;
    return NW_OK;
}

static nw_status varint(scanner *s, size_t *at, size_t end, uint64_t *value) {
    *value = 0;
    size_t start = *at;
    for (int shift = 0; shift < 64; shift += 7) {
        if (*at >= end) return damaged(s, start, "a number is cut off");
        uint8_t byte = s->data[(*at)++];
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return NW_OK;
    }
    return damaged(s, start, "a number is too long");
}

static void put_length(uint8_t *to, size_t length) {
    for (int i = 0; i < LENGTH_BYTES; i++, length >>= 7)
        to[i] = (uint8_t)((length & 0x7f) | (i < LENGTH_BYTES - 1 ? 0x80 : 0));
}

static nw_status scan(scanner *s, message kind, size_t at, size_t end, int depth);

/* A length-delimited field whose payload is [at, end): tag and what precedes it are emitted from `field_start`. */
static nw_status payload(scanner *s, message kind, uint32_t field, const uint8_t *tag, size_t tag_size,
                         size_t at, size_t end, int depth) {
    nw_wire *w = s->wire;
    message child = child_of(kind, field);
    NW_TRY(emit(s, tag, tag_size));
    size_t length_at = w->size;
    uint8_t room[LENGTH_BYTES] = {0};
    NW_TRY(emit(s, room, LENGTH_BYTES));
    if (kind == TENSOR && field == TENSOR_RAW) {
        uint64_t index = w->span_count;
        NW_TRY(nw_grow(w->ctx, (void **)&w->spans, &w->span_capacity, w->span_count, w->span_count + 1,
                       sizeof *w->spans));
        w->spans[w->span_count++] = (nw_span){at, end - at};
        NW_TRY(emit(s, &index, sizeof index));
    } else if (child == LEAF) {
        NW_TRY(emit(s, s->data + at, end - at));
    } else {
        NW_TRY(scan(s, child, at, end, depth + 1));
    }
    size_t length = w->size - length_at - LENGTH_BYTES;
    if (length >> 35 || length > INT32_MAX) return damaged(s, at, "a field of more than 2 GB");
    put_length(w->data + length_at, length);
    return NW_OK;
}

static nw_status scan(scanner *s, message kind, size_t at, size_t end, int depth) {
    if (depth > MAX_DEPTH) return damaged(s, at, "messages are nested too deeply");
    while (at < end) {
        size_t start = at;
        uint64_t tag, value;
        NW_TRY(varint(s, &at, end, &tag));
        size_t tag_end = at;
        if (tag >> 32 || tag >> 3 == 0) return damaged(s, start, "a field number is out of range");
        uint32_t field = (uint32_t)(tag >> 3);
        switch (tag & 7) {
        case 0:
            NW_TRY(varint(s, &at, end, &value));
            NW_TRY(emit(s, s->data + start, at - start));
            break;
        case 1:
        case 5: {
            size_t width = (tag & 7) == 1 ? 8 : 4;
            if (end - at < width) return damaged(s, start, "a number is cut off");
            at += width;
            NW_TRY(emit(s, s->data + start, at - start));
            break;
        }
        case 2:
            NW_TRY(varint(s, &at, end, &value));
            if (value > end - at)
                return damaged(s, start, "a field reaches beyond the end of its message or of the file");
            NW_TRY(payload(s, kind, field, s->data + start, tag_end - start, at, at + (size_t)value, depth));
            at += (size_t)value;
            break;
        default: return damaged(s, start, "an unknown kind of field");
        }
    }
    return NW_OK;
}

nw_status nw_wire_scan(nw_context *ctx, const nw_bytes *bytes, const char *name, nw_wire_root root,
                       nw_wire *out) {
    *out = (nw_wire){.ctx = ctx};
    scanner s = {out, bytes->data, name};
    if (bytes->size == 0) return nw_fail(ctx, NW_E_FORMAT, "%s is empty", name);
    nw_status status = scan(&s, root == NW_WIRE_MODEL ? MODEL : TENSOR, 0, bytes->size, 0);
    if (status != NW_OK) nw_wire_free(out);
    return status;
}

void nw_wire_free(nw_wire *wire) {
    nw_free(wire->ctx, wire->data);
    nw_free(wire->ctx, wire->spans);
    wire->data = NULL;
    wire->spans = NULL;
}
