/* quantize.h: reading quantization parameters off nodes: FakeQuant, the one quantization node of the portable
 * graph, and the scale and zero point inputs of ONNX's integer operators. Must not include anything but
 * base/, num/, ir/ and op/. */
#ifndef NW_OP_QUANTIZE_H
#define NW_OP_QUANTIZE_H

#include "num/choose.h"
#include "op/op.h"

/* FakeQuant (domain "ai.narrow"): y = dequantize(quantize(x)), y real with x's shape.
 *   inputs: x; scale f32, f16, bf16 or f8e8m0 (the grid's scale format): [1] or a scalar, [C] along `axis`, or x's shape
 * with dims[axis] divided by `block`, rounded up; zero s32, scale's shape, optional (0)
 *   attributes: format (an nw_format name, required), axis (absent or −1: per tensor), block (0: none), qmin, qmax (the
 * format's range); levels and thresholds (floats, of index formats; thresholds: the midpoints), per_row and scale_format
 * (below)
 * Without a scale the range of x is measured at run time: over the whole tensor, or per row of the last axis with
 * per_row = 1; asymmetric for unsigned formats, symmetric for the others; the scale is rounded up to scale_format (f32). */

/* The grid of a FakeQuant node whose scale and zero point are constants of `graph`: *out, with its arrays in
 * `arena`. Without a scale *dynamic is set and *out has format, qmin and qmax but no groups; grain AXIS with
 * axis −1 means per row. Fails with NW_E_NEED_VALUE when the scale is computed by the graph, NW_E_ARGUMENT or
 * NW_E_SHAPE (in words) when it makes no sense. */
nw_status nw_fakequant_qparam(const nw_graph *graph, const nw_node *node, nw_arena *arena, nw_qparam *out,
                              bool *dynamic);
/* Whether a node is x ≥ 0 ? scale : −scale, with a constant f32 scale: levels {−1, 1} that divide at 0. */
nw_status nw_fakequant_sign_scale(const nw_graph *graph, const nw_node *node, nw_arena *arena, float *scale,
                                  bool *ok);
/* What a FakeQuant or FakeQuantGrad node whose scales have this shape states of its grid, whoever knows the scales:
 * everything but scales and zero points. */
nw_status nw_fakequant_format(nw_arena *arena, const nw_node *node, const nw_tensor *scale, nw_qparam *out);
/* A grid that is the numbers of f16 or bf16 themselves: rounding to it is a Cast there and back. */
bool nw_fakequant_is_cast(const nw_qparam *p);
/* Sets the attributes that nw_fakequant_qparam reads. Scales and zero points are inputs: without them (groups 0) the scale
 * format is an attribute too. */
nw_status nw_fakequant_write(nw_graph *graph, nw_node *node, const nw_qparam *p);

/* DequantizeLinear (domain "ai.narrow"): a packed constant, in files as small as its codes are.
 *   inputs, all constants: codes u8, the bytes of the codes (low bits first below 8 bits); scale and zero as FakeQuant's
 *   attributes: shape (of the result, f32), and FakeQuant's
 * Reads such a node: *codes, whose data is the input's, without qparam; *p with its arrays in `arena`. */
nw_status nw_packed_read(const nw_graph *graph, const nw_node *node, nw_arena *arena, nw_tensor *codes,
                         nw_qparam *p);

/* x restricted to a grid of p's format, qmin and qmax whose scale its own range decides: one run of a FakeQuant without a
 * scale. out may be x. */
void nw_fake_quantize_measured(const nw_qparam *p, size_t count, const float *x, float *out);

/* Attribute of LSTM, GRU and RNN: the name of an integer format. What they multiply with R (the state h, and GRU's r ⊙ h) is
 * restricted to a grid of this format at every step, measured for each sample, as a FakeQuant with per_row = 1 would. The
 * restriction of X, W and R is theirs to state. Absent: real numbers. In ONNX files it is metadata of the node, which other
 * runtimes ignore: they refuse attributes that they do not know. */
#define NW_STATE_FORMAT "ai.narrow.state"

/* Attribute of MatMul and Gemm: the name of an integer format. The first input is restricted to a grid of this format, measured
 * for each row, as by a FakeQuant with per_row = 1: MatMulNBits of accuracy level 4 says so. In ONNX files it is metadata of the node. */
#define NW_PRODUCT_FORMAT "ai.narrow.product"

/* ---- one scale and one zero point as inputs `scale` and `zero` (may be absent: 0) of an operator ------- */

/* For infer: the scale is there and is one floating-point number; the zero point is one number of type
 * `format`. */
nw_status nw_call_expect_grid(const nw_op_call *call, int scale, int zero, nw_format format);
/* For eval: the grid, in scratch; grain TENSOR, the format's whole range. */
nw_status nw_call_grid(const nw_op_call *call, int scale, int zero, nw_format format, nw_qparam *out);

/* A tensor of codes on a grid as f32 in scratch, [count]. */
nw_status nw_call_dequantize(const nw_op_call *call, const nw_tensor *codes, const nw_qparam *grid,
                             float **out);

/* Fails unless t holds u8 or s8 codes. `name` is for the message. */
nw_status nw_call_expect_codes(const nw_op_call *call, const nw_tensor *t, const char *name);

/* *lo = min x, *hi = max x; NaN elements are skipped; 0, 0 for no elements. */
void nw_measure_range(size_t count, const float *x, float *lo, float *hi);

#endif
