/* onnx.h: ONNX files in and out. protobuf-c does the wire format; a scan of the bytes first finds truncation with its
 * offset and takes large raw data straight from the mapped file.
 * Must not include anything but base/, num/, ir/, op/ and onnx/. */
#ifndef NW_ONNX_ONNX_H
#define NW_ONNX_ONNX_H

#include "ir/graph.h"

/* Reads a model file. Every operator is resolved, or all unknown ones are named at once (NW_E_UNSUPPORTED) unless
 * allow_unknown (then node->op is NULL for them: such a graph can be shown and exported, not run). Quantization is left as
 * it stands in the file; see nw_onnx_fold_quantization. */
nw_status nw_onnx_import(nw_context *ctx, const char *path, bool allow_unknown, nw_graph **out);
/* The same from memory; `name` stands for the file in messages; external data is looked up in `dir` (NULL: refused). */
nw_status nw_onnx_import_bytes(nw_context *ctx, nw_bytes *bytes, const char *name, const char *dir,
                               bool allow_unknown, nw_graph **out);

/* Writes a model, whole or not at all. external: initializers go into a second file "PATH.data" beside it, as they do whenever
 * the model would exceed 2 GB, which one file cannot hold. *bytes (or NULL): what was written, both files together. */
nw_status nw_onnx_export(const nw_graph *graph, const char *path, bool external, uint64_t *bytes);

/* What nw_onnx_export would write, without writing it. */
nw_status nw_onnx_size(const nw_graph *graph, uint64_t *bytes);

/* A serialized TensorProto (the conformance tests' input_0.pb) as a constant in `arena`. */
nw_status nw_onnx_read_tensor(nw_context *ctx, const char *path, nw_arena *arena, nw_tensor *out);

/* Turns QuantizeLinear→DequantizeLinear pairs and the QOperator forms into FakeQuant around ordinary operators, and
 * DequantizeLinear of an initializer into a packed constant. Unmatched Q/DQ stay ordinary operators. In place. */
nw_status nw_onnx_fold_quantization(nw_graph *graph);

typedef enum nw_quant_style {
    NW_STYLE_QDQ,       /* QuantizeLinear and DequantizeLinear around ordinary operators */
    NW_STYLE_QOPERATOR, /* integer operators where there is one, else QDQ */
    NW_STYLE_NATIVE, /* FakeQuant as it is, packed constants as bytes behind ai.narrow's DequantizeLinear: as small as the
                        codes are, for narrow alone */
    NW_STYLE_MATMULNBITS /* com.microsoft's MatMulNBits for products with 4-bit weights in blocks, else QDQ */
} nw_quant_style;
/* The inverse of nw_onnx_fold_quantization, in place. Codes that ONNX has no type for at the model's opset are stored in the
 * smallest type that holds them; tables become Gather (docs/numerics.md has the forms). opset 0: the model is raised to
 * where types and grains of its codes exist; else it is raised to this one, and codes are stored as it allows. */
nw_status nw_onnx_spell_quantization(nw_graph *graph, nw_quant_style style, int64_t opset);

/* Raises the model to a version of ONNX's own operators, in place: nodes that it changed are converted, and the IR version
 * goes with it. Fails, naming the node, where there is no conversion. */
nw_status nw_onnx_raise(nw_graph *graph, int64_t opset);

#endif
