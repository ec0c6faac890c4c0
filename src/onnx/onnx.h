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

/* Writes a model, whole or not at all. */
nw_status nw_onnx_export(const nw_graph *graph, const char *path);

/* A serialized TensorProto (the conformance tests' input_0.pb) as a constant in `arena`. */
nw_status nw_onnx_read_tensor(nw_context *ctx, const char *path, nw_arena *arena, nw_tensor *out);

/* Turns QuantizeLinear→DequantizeLinear pairs and the QOperator forms into FakeQuant around ordinary operators, and
 * DequantizeLinear of an initializer into a packed constant. Unmatched Q/DQ stay ordinary operators. In place. */
nw_status nw_onnx_fold_quantization(nw_graph *graph);

typedef enum nw_quant_style { NW_STYLE_QDQ, NW_STYLE_QOPERATOR } nw_quant_style;
/* The inverse, in place: FakeQuants and packed constants become Q/DQ pairs, and with NW_STYLE_QOPERATOR the integer
 * operators where one exists (the rest stay Q/DQ). */
nw_status nw_onnx_spell_quantization(nw_graph *graph, nw_quant_style style);

#endif
