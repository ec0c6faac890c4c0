/* conv.h: the geometry of sliding windows: convolutions and poolings. One struct says where every output
 * element reads; the reference evaluation, the integer operators and the planner all walk it. Must not
 * include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_CONV_H
#define NW_OP_CONV_H

#include "op/op.h"

/* Always three spatial axes: depth, height, width. A 2-D operator has depth 1 (size, kernel, stride, dilation
 * 1, pads 0), a 1-D operator depth and height 1, so that nobody needs a case per rank.
 *
 * Conv and pooling: output position o on an axis reads input positions o·stride − pad_begin + t·dilation, t
 * in [0, kernel); positions outside [0, in) are padding. pad_end is what the model states or auto_pad gives;
 * with ceil_mode the last window may reach past in + pad_end, and what lies there belongs to nobody (it is
 * not counted by count_include_pad either). ConvTranspose: input position i adds to output positions i·stride
 * − pad_begin + t·dilation; those outside [0, out) are dropped.
 *
 * Promises after a successful …_of: batch, channels and in ≥ 0; out ≥ 0 (> 0 when in > 0 for Conv); kernel,
 * stride, dilation, groups ≥ 1; groups divides in_channels and out_channels; every sum above fits int64 with
 * a wide margin. */
typedef struct nw_conv_geometry {
    int spatial;                                      /* spatial rank of the model: 1, 2 or 3 */
    int64_t batch, in_channels, out_channels, groups; /* pooling: groups = out_channels = in_channels */
    int64_t in[3], out[3];
    int64_t kernel[3], stride[3], dilation[3];
    int64_t pad_begin[3], pad_end[3];
} nw_conv_geometry;

/* Geometry of a Conv, QLinearConv or ConvInteger node for x [N, C, …] and w [M, C/groups, …]; only shapes are
 * read. Fails with NW_E_SHAPE or NW_E_ARGUMENT and the reason in words. */
nw_status nw_conv_geometry_of(const nw_op_call *call, const nw_tensor *x, const nw_tensor *w,
                              nw_conv_geometry *g);

/* The same for a ConvTranspose node, w [C, M/groups, …]; output_padding and output_shape are in `out`. */
nw_status nw_conv_transpose_geometry_of(const nw_op_call *call, const nw_tensor *x, const nw_tensor *w,
                                        nw_conv_geometry *g);

/* The same for a MaxPool, AveragePool or LpPool node (kernel_shape, strides, pads, dilations, ceil_mode,
 * auto_pad). */
nw_status nw_pool_geometry_of(const nw_op_call *call, const nw_tensor *x, nw_conv_geometry *g);

/* Shape of the result, [batch, out_channels, out…] with the model's rank, into dims[5]; returns the rank. */
int nw_conv_out_dims(const nw_conv_geometry *g, int64_t *dims);

/* Taps of the window at output position o that lie inside the input: t in [*first, *last), empty when none
 * does. */
static inline void nw_conv_taps(const nw_conv_geometry *g, int axis, int64_t o, int64_t *first,
                                int64_t *last) {
    int64_t start = o * g->stride[axis] - g->pad_begin[axis], d = g->dilation[axis];
    int64_t below = start < 0 ? (-start + d - 1) / d : 0;
    int64_t end = start < g->in[axis] ? (g->in[axis] - start + d - 1) / d : 0;
    *first = below;
    *last = end < g->kernel[axis] ? end : g->kernel[axis];
    if (*last < *first) *last = *first;
}

/* ---- columns: a convolution as a matrix product
 * -------------------------------------------------------------- */

/* A part of the output positions: lines (depth·out_h + height) [line0, line1), each of width [w0, w1). */
typedef struct nw_conv_tile {
    int64_t line0, line1, w0, w1;
} nw_conv_tile;

static inline int64_t nw_conv_tile_columns(const nw_conv_tile *t) {
    return (t->line1 - t->line0) * (t->w1 - t->w0);
}
/* Position, as an index into out[0]·out[1]·out[2], of a tile's first column; the others follow one by one. */
static inline int64_t nw_conv_tile_first(const nw_conv_geometry *g, const nw_conv_tile *t) {
    return t->line0 * g->out[2] + t->w0;
}
/* Tiles of at most `columns` columns, in order. Start with a zeroed tile; false after the last one. */
bool nw_conv_next_tile(const nw_conv_geometry *g, int64_t columns, nw_conv_tile *tile);
/* Columns per tile so that a buffer of `rows` rows stays near 4 MiB of floats. */
int64_t nw_conv_tile_limit(int64_t rows);

/* Geometry whose windows are another one's input: what a ConvTranspose scatters is what its reverse gathers.
 * in and out change places. */
nw_conv_geometry nw_conv_reverse(const nw_conv_geometry *g);

/* col[(c·taps + t)·columns + j] = channel c of the image at tap t of window j of the tile, 0 where that is
 * padding. image: `channels` times in[0]·in[1]·in[2] elements of `size` bytes (4 or 8). */
void nw_conv_columns(const nw_conv_geometry *g, size_t size, int64_t channels, const void *image,
                     const nw_conv_tile *tile, void *col);
/* The adjoint: adds every column element to the image element it would have been read from. f32, or f64
 * elements. */
void nw_conv_add_columns(const nw_conv_geometry *g, bool f64, int64_t channels, const void *col,
                         const nw_conv_tile *tile, void *image);

#endif
