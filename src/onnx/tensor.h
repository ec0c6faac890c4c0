/* tensor.h (onnx): a TensorProto as a constant: all encodings, external data.
 * Private to onnx/. */
#ifndef NW_ONNX_TENSOR_H
#define NW_ONNX_TENSOR_H

#include "ir/graph.h"
#include "onnx.pb-c.h"
#include "onnx/wire.h"

/* One model file being read. */
typedef struct nw_import {
    nw_context *ctx;
    nw_bytes *file;
    const char *name; /* of the file, in messages */
    const char *dir;  /* where external data lies; NULL: refused */
    const nw_wire *wire;
    struct external_file {
        char *path;
        nw_bytes *bytes;
    } * externals;
    size_t external_count, external_capacity;
} nw_import;

/* Reads t; names and strings go to `arena`. out->owner holds one reference. what: "initializer", "attribute" … */
nw_status nw_import_tensor(nw_import *im, nw_arena *arena, const Onnx__TensorProto *t, nw_constant *out);

/* Fields protobuf-c does not know, as one blob in the arena: [tag u32][wire type u32][size u64][bytes] each. */
nw_status nw_import_unknown(nw_arena *arena, const ProtobufCMessage *message, nw_str *out);
/* Adds `message` (of a type we know but do not interpret) to the blob as field `tag`. */
nw_status nw_import_keep(nw_arena *arena, uint32_t tag, const ProtobufCMessage *message, nw_str *blob);
/* The inverse: an array in the arena for message->unknown_fields. */
nw_status nw_export_unknown(nw_arena *arena, nw_str blob, ProtobufCMessage *message);

/* String attributes "ai.narrow.…" are metadata of their node in files: NodeProto.metadata_props of IR version 10, which older
 * descriptions of the format know as an unknown field. Import moves it from node->unknown to an attribute; export adds it to
 * the blob. */
bool nw_is_metadata(const nw_attr *attr);
nw_status nw_import_metadata(nw_graph *graph, nw_node *node);
nw_status nw_export_metadata(nw_arena *arena, const nw_attr *attr, nw_str *blob);

#endif
