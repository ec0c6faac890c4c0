/* window.c: geometry of sliding windows (conv.h): attributes to numbers, and columns for matrix products. */
#include "op/conv.h"
#include "op/real.h"

#include <inttypes.h>
#include <string.h>

/* Sizes and attributes stay below this, so that products of two and sums of three of them fit int64. */
#define LIMIT ((int64_t)1 << 30)

enum { PAD_EXPLICIT, PAD_SAME_UPPER, PAD_SAME_LOWER, PAD_VALID };
static const char *const pad_words[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", NULL};

static nw_status too_large(const nw_op_call *call, const char *what) {
    return nw_call_fail(call, NW_E_UNSUPPORTED, "%s is larger than %" PRId64, what, LIMIT);
}

/* Sets spatial, batch, in and the attributes that every window has (strides, dilations, pads unless auto_pad
 * replaces them). Kernel sizes are set by the caller. */
static nw_status read_common(const nw_op_call *call, const nw_tensor *x, nw_conv_geometry *g, int *auto_pad) {
    NW_TRY(nw_call_expect_rank(call, x, "the input", 3, 5));
    *g = (nw_conv_geometry){.spatial = x->rank - 2, .batch = x->dims[0], .in_channels = x->dims[1]};
    for (int a = 0; a < 3; a++) {
        g->in[a] = g->out[a] = g->kernel[a] = g->stride[a] = g->dilation[a] = 1;
    }
    int s = g->spatial, skip = 3 - s;
    for (int a = 0; a < s; a++) {
        g->in[skip + a] = x->dims[2 + a];
        if (x->dims[2 + a] > LIMIT) return too_large(call, "an input dimension");
    }
    if (x->dims[1] > LIMIT) return too_large(call, "the number of channels");
    NW_TRY(nw_call_ints_attr(call, "strides", s, 1, 1, LIMIT, g->stride + skip));
    NW_TRY(nw_call_ints_attr(call, "dilations", s, 1, 1, LIMIT, g->dilation + skip));
    NW_TRY(nw_call_word_attr(call, "auto_pad", pad_words, auto_pad));
    if (*auto_pad != PAD_EXPLICIT) return NW_OK;
    int64_t pads[6];
    NW_TRY(nw_call_ints_attr(call, "pads", 2 * s, 0, 0, LIMIT, pads));
    for (int a = 0; a < s; a++) {
        g->pad_begin[skip + a] = pads[a];
        g->pad_end[skip + a] = pads[s + a];
    }
    return NW_OK;
}

/* The number of taps fits too. */
static nw_status check_taps(const nw_op_call *call, const nw_conv_geometry *g) {
    int64_t taps = g->kernel[0] * g->kernel[1]; /* < 2^60 */
    if (taps > LIMIT || taps * g->kernel[2] > LIMIT) return too_large(call, "the kernel");
    return NW_OK;
}

static int64_t extent(const nw_conv_geometry *g, int axis) {
    return (g->kernel[axis] - 1) * g->dilation[axis] + 1;
}

/* Splits padding between the two ends; the odd one goes to the end for SAME_UPPER. */
static void split_padding(nw_conv_geometry *g, int axis, int64_t total, bool upper) {
    int64_t less = total / 2, more = total - less;
    g->pad_begin[axis] = upper ? less : more;
    g->pad_end[axis] = upper ? more : less;
}

/* Output sizes (and pads for auto_pad) from input sizes, as the ONNX operator pages for Conv and MaxPool
 * state them. */
static nw_status set_out(const nw_op_call *call, nw_conv_geometry *g, int auto_pad, bool ceil_mode) {
    for (int a = 3 - g->spatial; a < 3; a++) {
        int64_t in = g->in[a], stride = g->stride[a], size = extent(g, a);
        if (auto_pad == PAD_SAME_UPPER || auto_pad == PAD_SAME_LOWER) {
            g->out[a] = (in + stride - 1) / stride;
            int64_t total = (g->out[a] - 1) * stride + size - in;
            split_padding(g, a, total > 0 && in > 0 ? total : 0, auto_pad == PAD_SAME_UPPER);
            continue;
        }
        int64_t room = in + g->pad_begin[a] + g->pad_end[a] - size;
        if (room < 0 && in > 0)
            return nw_call_fail(call, NW_E_SHAPE,
                                "the window (%" PRId64
                                " on axis %d with dilation) is larger than the padded input "
                                "(%" PRId64 ")",
                                size, a - (3 - g->spatial) + 2, room + size);
        bool ceiling = ceil_mode && auto_pad == PAD_EXPLICIT;
        g->out[a] = room < 0 ? 0 : (room + (ceiling ? stride - 1 : 0)) / stride + 1;
        /* A window that would start in the padding at the end is dropped. */
        if (ceiling && g->out[a] > 0 && (g->out[a] - 1) * stride >= in + g->pad_begin[a]) g->out[a]--;
    }
    return NW_OK;
}

/* Kernel sizes from w's trailing dimensions, checked against kernel_shape when the node states it. */
static nw_status read_kernel(const nw_op_call *call, const nw_tensor *x, const nw_tensor *w,
                             nw_conv_geometry *g) {
    if (w->rank != x->rank)
        return nw_call_fail(call, NW_E_SHAPE,
                            "the weight has %d dimensions, the input %d; they must have as many", w->rank,
                            x->rank);
    int s = g->spatial, skip = 3 - s;
    int64_t stated[3];
    NW_TRY(nw_call_ints_attr(call, "kernel_shape", s, 0, 1, LIMIT, stated));
    for (int a = 0; a < s; a++) {
        g->kernel[skip + a] = w->dims[2 + a];
        if (w->dims[2 + a] < 1 || w->dims[2 + a] > LIMIT)
            return nw_call_fail(call, NW_E_SHAPE, "the weight's kernel has a dimension of %" PRId64,
                                w->dims[2 + a]);
        if (stated[a] && stated[a] != w->dims[2 + a])
            return nw_call_fail(call, NW_E_SHAPE,
                                "kernel_shape says %" PRId64 ", the weight has a kernel of %" PRId64
                                " on that axis",
                                stated[a], w->dims[2 + a]);
    }
    NW_TRY(check_taps(call, g));
    if (w->dims[1] > LIMIT / (g->kernel[0] * g->kernel[1] * g->kernel[2]))
        return too_large(call, "the weight");
    return nw_call_int_attr(call, "group", 1, 1, LIMIT, &g->groups);
}

nw_status nw_conv_geometry_of(const nw_op_call *call, const nw_tensor *x, const nw_tensor *w,
                              nw_conv_geometry *g) {
    int auto_pad;
    NW_TRY(read_common(call, x, g, &auto_pad));
    NW_TRY(read_kernel(call, x, w, g));
    g->out_channels = w->dims[0];
    if (g->out_channels > LIMIT) return too_large(call, "the number of output channels");
    if (g->in_channels % g->groups || w->dims[1] != g->in_channels / g->groups)
        return nw_call_fail(call, NW_E_SHAPE,
                            "the weight expects %" PRId64 " channels in each of %" PRId64
                            " groups, the input has "
                            "%" PRId64,
                            w->dims[1], g->groups, g->in_channels);
    if (g->out_channels % g->groups)
        return nw_call_fail(call, NW_E_SHAPE,
                            "%" PRId64 " output channels do not divide into %" PRId64 " groups",
                            g->out_channels, g->groups);
    return set_out(call, g, auto_pad, false);
}

/* ONNX ConvTranspose: without output_shape
 *     out = stride·(in − 1) + output_padding + (kernel − 1)·dilation + 1 − pad_begin − pad_end,
 * with it (or with SAME, which means in·stride) the same equation gives the sum of the pads. */
nw_status nw_conv_transpose_geometry_of(const nw_op_call *call, const nw_tensor *x, const nw_tensor *w,
                                        nw_conv_geometry *g) {
    int auto_pad;
    NW_TRY(read_common(call, x, g, &auto_pad));
    NW_TRY(read_kernel(call, x, w, g));
    if (w->dims[1] > LIMIT / g->groups) return too_large(call, "the number of output channels");
    g->out_channels = w->dims[1] * g->groups;
    if (g->in_channels % g->groups || w->dims[0] != g->in_channels)
        return nw_call_fail(call, NW_E_SHAPE,
                            "the weight expects %" PRId64 " channels in %" PRId64
                            " groups, the input has %" PRId64,
                            w->dims[0], g->groups, g->in_channels);
    int s = g->spatial, skip = 3 - s;
    int64_t extra[3], wanted[3];
    NW_TRY(nw_call_ints_attr(call, "output_padding", s, 0, 0, LIMIT, extra));
    const int64_t *shape;
    size_t shape_count;
    bool fixed = nw_node_ints(call->node, "output_shape", &shape, &shape_count);
    if (fixed && shape_count == (size_t)s + 2) { /* some exporters state batch and channels too */
        memcpy(wanted, shape + 2, (size_t)s * sizeof *wanted);
        for (int a = 0; a < s; a++)
            if (wanted[a] < 0 || wanted[a] > LIMIT) return too_large(call, "output_shape");
    } else {
        NW_TRY(nw_call_ints_attr(call, "output_shape", s, 0, 0, LIMIT, wanted));
    }
    bool same = auto_pad == PAD_SAME_UPPER || auto_pad == PAD_SAME_LOWER;
    for (int a = 0; a < s; a++) {
        int at = skip + a;
        int64_t full = g->in[at] > 0 ? g->stride[at] * (g->in[at] - 1) + extra[a] + extent(g, at) : 0;
        if (fixed || same) {
            g->out[at] = fixed ? wanted[a] : g->in[at] * g->stride[at];
            int64_t total = full - g->out[at];
            split_padding(g, at, total > 0 ? total : 0, auto_pad == PAD_SAME_UPPER);
        } else {
            g->out[at] = full - g->pad_begin[at] - g->pad_end[at];
        }
        if (g->out[at] < 0 && g->in[at] > 0)
            return nw_call_fail(call, NW_E_SHAPE, "pads cut away more than the whole output on axis %d",
                                a + 2);
        if (g->out[at] < 0) g->out[at] = 0;
    }
    return NW_OK;
}

nw_status nw_pool_geometry_of(const nw_op_call *call, const nw_tensor *x, nw_conv_geometry *g) {
    int auto_pad;
    NW_TRY(read_common(call, x, g, &auto_pad));
    g->out_channels = g->groups = g->in_channels;
    if (!nw_node_attr(call->node, "kernel_shape"))
        return nw_call_fail(call, NW_E_FORMAT, "attribute kernel_shape is missing");
    NW_TRY(nw_call_ints_attr(call, "kernel_shape", g->spatial, 1, 1, LIMIT, g->kernel + 3 - g->spatial));
    NW_TRY(check_taps(call, g));
    return set_out(call, g, auto_pad, nw_node_int(call->node, "ceil_mode", 0) != 0);
}

int nw_conv_out_dims(const nw_conv_geometry *g, int64_t *dims) {
    dims[0] = g->batch;
    dims[1] = g->out_channels;
    memcpy(dims + 2, g->out + 3 - g->spatial, (size_t)g->spatial * sizeof *dims);
    return g->spatial + 2;
}

nw_conv_geometry nw_conv_reverse(const nw_conv_geometry *g) {
    nw_conv_geometry r = *g;
    memcpy(r.in, g->out, sizeof r.in);
    memcpy(r.out, g->in, sizeof r.out);
    r.in_channels = g->out_channels;
    r.out_channels = g->in_channels;
    return r;
}

/* ---- columns
 * ---------------------------------------------------------------------------------------------------- */

int64_t nw_conv_tile_limit(int64_t rows) {
    int64_t columns = ((int64_t)1 << 20) / (rows > 0 ? rows : 1);
    return columns < 64 ? 64 : columns;
}

bool nw_conv_next_tile(const nw_conv_geometry *g, int64_t columns, nw_conv_tile *tile) {
    int64_t lines = g->out[0] * g->out[1], width = g->out[2];
    if (tile->w1 > 0 && tile->w1 < width) { /* more of the same line */
        tile->w0 = tile->w1;
    } else {
        tile->line0 = tile->line1;
        tile->w0 = 0;
    }
    if (tile->line0 >= lines || width == 0) return false;
    if (width >= columns) {
        tile->line1 = tile->line0 + 1;
        tile->w1 = width - tile->w0 < columns ? width : tile->w0 + columns;
    } else {
        tile->line1 = tile->line0 + columns / width < lines ? tile->line0 + columns / width : lines;
        tile->w1 = width;
    }
    return true;
}

/* What one tap reads on one line of windows: image elements first, first + stride, … for windows [begin, end)
 * of the tile's line; the windows outside of that see padding. Offsets are in elements of the channel's
 * image. */
typedef struct tap_line {
    int64_t begin, end, first;
} tap_line;

static tap_line tap_line_of(const nw_conv_geometry *g, const nw_conv_tile *tile, int64_t line,
                            const int64_t tap[3]) {
    tap_line none = {tile->w0, tile->w0, 0};
    int64_t window[2] = {line / g->out[1], line % g->out[1]}, row = 0;
    for (int a = 0; a < 2; a++) {
        int64_t at = window[a] * g->stride[a] - g->pad_begin[a] + tap[a] * g->dilation[a];
        if (at < 0 || at >= g->in[a]) return none;
        row = row * g->in[a] + at;
    }
    /* 0 ≤ w·stride + shift < in */
    int64_t stride = g->stride[2], shift = tap[2] * g->dilation[2] - g->pad_begin[2];
    int64_t begin = shift < 0 ? (-shift + stride - 1) / stride : 0;
    int64_t end = shift < g->in[2] ? (g->in[2] - shift + stride - 1) / stride : 0;
    if (begin < tile->w0) begin = tile->w0;
    if (end > tile->w1) end = tile->w1;
    if (begin >= end) return none;
    return (tap_line){begin, end, row * g->in[2] + begin * stride + shift};
}

static void copy_strided(size_t size, void *to, const void *from, int64_t count, int64_t stride) {
    if (stride == 1) {
        memcpy(to, from, (size_t)count * size);
    } else if (size == 4) {
        uint32_t *t = to;
        const uint32_t *f = from;
        for (int64_t i = 0; i < count; i++) t[i] = f[i * stride];
    } else {
        uint64_t *t = to;
        const uint64_t *f = from;
        for (int64_t i = 0; i < count; i++) t[i] = f[i * stride];
    }
}

static void add_strided(bool f64, void *to, const void *from, int64_t count, int64_t stride) {
    if (f64) {
        double *t = to;
        const double *f = from;
        for (int64_t i = 0; i < count; i++) t[i * stride] += f[i];
    } else {
        float *t = to;
        const float *f = from;
        for (int64_t i = 0; i < count; i++) t[i * stride] += f[i];
    }
}

/* Calls for every (channel, tap, line) of the tile: `put` chooses the direction. */
static void walk(const nw_conv_geometry *g, size_t size, int64_t channels, const nw_conv_tile *tile,
                 char *image, char *col, bool put) {
    int64_t taps = g->kernel[0] * g->kernel[1] * g->kernel[2];
    size_t plane = (size_t)(g->in[0] * g->in[1] * g->in[2]) * size,
           width = (size_t)(tile->w1 - tile->w0) * size;
    for (int64_t c = 0; c < channels; c++, image += plane)
        for (int64_t t = 0; t < taps; t++) {
            int64_t tap[3] = {t / (g->kernel[1] * g->kernel[2]), t / g->kernel[2] % g->kernel[1],
                              t % g->kernel[2]};
            for (int64_t line = tile->line0; line < tile->line1; line++, col += width) {
                tap_line l = tap_line_of(g, tile, line, tap);
                size_t lead = (size_t)(l.begin - tile->w0) * size, body = (size_t)(l.end - l.begin) * size;
                char *at = image + (size_t)l.first * size;
                if (put) {
                    if (body) add_strided(size == 8, at, col + lead, l.end - l.begin, g->stride[2]);
                } else {
                    memset(col, 0, lead);
                    if (body) copy_strided(size, col + lead, at, l.end - l.begin, g->stride[2]);
                    memset(col + lead + body, 0, width - lead - body);
                }
            }
        }
}

void nw_conv_columns(const nw_conv_geometry *g, size_t size, int64_t channels, const void *image,
                     const nw_conv_tile *tile, void *col) {
    walk(g, size, channels, tile, (char *)(uintptr_t)image, col, false); /* only read from */
}

void nw_conv_add_columns(const nw_conv_geometry *g, bool f64, int64_t channels, const void *col,
                         const nw_conv_tile *tile, void *image) {
    walk(g, f64 ? 8 : 4, channels, tile, image, (char *)(uintptr_t)col, true); /* only read from */
}
