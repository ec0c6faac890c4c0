/* deform.c: DeformConv: a convolution whose taps are moved by learned offsets and weighted by a mask; images
 * in 2-D. */
#include "op/conv.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>

static nw_status geometry(const nw_op_call *call, const nw_tensor *x, const nw_tensor *w, nw_conv_geometry *g,
                          int64_t *offset_groups) {
    NW_TRY(nw_conv_geometry_of(call, x, w, g));
    NW_TRY(
        nw_call_int_attr(call, "offset_group", 1, 1, g->in_channels > 1 ? g->in_channels : 1, offset_groups));
    if (g->spatial != 2)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "only images (4 dimensions) are supported");
    if (g->in_channels % *offset_groups)
        return nw_call_fail(call, NW_E_SHAPE,
                            "%" PRId64 " channels do not divide into %" PRId64 " offset groups",
                            g->in_channels, *offset_groups);
    return NW_OK;
}

/* X, W, offset [N, offset_group·kh·kw·2, oh, ow], B? [M], mask? [N, offset_group·kh·kw, oh, ow]. */
static nw_status deform_infer(nw_op_call *call) {
    const nw_tensor *x, *w;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &w));
    nw_conv_geometry g;
    int64_t groups, dims[5];
    NW_TRY(geometry(call, x, w, &g, &groups));
    int64_t taps = g.kernel[1] * g.kernel[2];
    NW_TRY(nw_call_expect_shape(call, 2, "offset", true, 4,
                                (int64_t[]){g.batch, 2 * groups * taps, g.out[1], g.out[2]}));
    NW_TRY(nw_call_expect_shape(call, 3, "the bias", false, 1, &g.out_channels));
    NW_TRY(nw_call_expect_shape(call, 4, "mask", false, 4,
                                (int64_t[]){g.batch, groups * taps, g.out[1], g.out[2]}));
    int rank = nw_conv_out_dims(&g, dims);
    return nw_call_set(call, 0, nw_real_format(x), rank, dims);
}

/* Bilinear value of an image [height, width] at (y, x); 0 outside. */
static double sample(const double *image, int64_t height, int64_t width, double y, double x) {
    if (!(y > -1 && y < (double)height && x > -1 && x < (double)width)) return 0;
    int64_t y0 = (int64_t)floor(y), x0 = (int64_t)floor(x);
    double sum = 0;
    for (int corner = 0; corner < 4; corner++) {
        int64_t cy = y0 + corner / 2, cx = x0 + corner % 2;
        if (cy < 0 || cy >= height || cx < 0 || cx >= width) continue;
        sum += image[cy * width + cx] * (1 - fabs(y - (double)cy)) * (1 - fabs(x - (double)cx));
    }
    return sum;
}

static nw_status deform_eval(nw_op_call *call) {
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    nw_conv_geometry g;
    int64_t groups;
    NW_TRY(geometry(call, call->in[0], call->in[1], &g, &groups));
    const double *x, *w, *offset, *bias, *mask;
    NW_TRY(nw_call_f64(call, 0, &x));
    NW_TRY(nw_call_f64(call, 1, &w));
    NW_TRY(nw_call_f64(call, 2, &offset));
    NW_TRY(nw_call_f64(call, 3, &bias));
    NW_TRY(nw_call_f64(call, 4, &mask));
    int64_t taps = g.kernel[1] * g.kernel[2], in = g.in[1] * g.in[2], out = g.out[1] * g.out[2];
    int64_t c = g.in_channels / g.groups, m = g.out_channels / g.groups, per_offset = g.in_channels / groups;
    double *col; /* [in_channels][taps] of one output position */
    NW_TRY(nw_call_scratch(call, (size_t)(g.in_channels * taps), &col));
    for (int64_t n = 0; n < g.batch; n++)
        for (int64_t p = 0; p < out; p++) {
            int64_t top = p / g.out[2] * g.stride[1] - g.pad_begin[1];
            int64_t left = p % g.out[2] * g.stride[2] - g.pad_begin[2];
            for (int64_t i = 0; i < g.in_channels * taps; i++) {
                int64_t channel = i / taps, t = i % taps,
                        moved = (n * groups + channel / per_offset) * taps + t;
                int64_t line = top + t / g.kernel[2] * g.dilation[1],
                        column = left + t % g.kernel[2] * g.dilation[2];
                double at_y = (double)line + offset[2 * moved * out + p];
                double at_x = (double)column + offset[(2 * moved + 1) * out + p];
                col[i] = sample(x + (n * g.in_channels + channel) * in, g.in[1], g.in[2], at_y, at_x) *
                         (mask ? mask[moved * out + p] : 1);
            }
            for (int64_t o = 0; o < g.out_channels; o++) {
                const double *weight = w + o * c * taps, *row = col + o / m * c * taps;
                double sum = bias ? bias[o] : 0;
                for (int64_t i = 0; i < c * taps; i++) sum += weight[i] * row[i];
                nw_store_f64(call->out[0].format, call->out[0].data,
                             (size_t)((n * g.out_channels + o) * out + p), sum);
            }
        }
    return NW_OK;
}

static void deform_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
    roles->in[1] = NW_ROLE_WEIGHT;
}

const nw_op nw_op_DeformConv = {
    .name = "DeformConv", .domain = "", .infer = deform_infer, .eval = deform_eval, .roles = deform_roles};
