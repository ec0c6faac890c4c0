/* wire.h: the scan of a protobuf file that comes before protobuf-c: it finds damage with its byte offset, bounds the
 * nesting, and lifts the tensors' raw data out, so that weights are used where they lie in the mapped file.
 * Must not include anything but base/. */
#ifndef NW_ONNX_WIRE_H
#define NW_ONNX_WIRE_H

#include "base/file.h"

/* Where a lifted raw_data field lies in the file. */
typedef struct nw_span {
    size_t offset, size;
} nw_span;

typedef struct nw_wire {
    nw_context *ctx;
    uint8_t *
        data; /* the same message, with every TensorProto.raw_data replaced by its index in spans (8 bytes) */
    size_t size, capacity;
    nw_span *spans;
    size_t span_count, span_capacity;
} nw_wire;

typedef enum nw_wire_root { NW_WIRE_MODEL, NW_WIRE_TENSOR } nw_wire_root;

/* `name` stands for the file in messages. Fails with NW_E_FORMAT and the offset of the damage. */
nw_status nw_wire_scan(nw_context *ctx, const nw_bytes *bytes, const char *name, nw_wire_root root,
                       nw_wire *out);
void nw_wire_free(nw_wire *wire);

#endif
