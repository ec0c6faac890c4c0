/* conv.c: Conv and ConvTranspose in float, as matrix products over columns. */
#include "op/conv.h"
#include "op/matmul.h"
#include "op/real.h"

#include <string.h>

/* Data of a convolution in the precision of its output: exactly one of the pairs is set. */
typedef struct operands {
    size_t size; /* bytes per element, 4 or 8 */
    const void *x, *w, *b;
} operands;

static nw_status load_operands(const nw_op_call *call, operands *o) {
    const float *f[3];
    const double *d[3];
    bool f64 = call->out[0].format == NW_F64;
    o->size = f64 ? sizeof(double) : sizeof(float);
    const void *p[3];
    for (int i = 0; i < 3; i++) {
        if (f64)
            NW_TRY(nw_call_f64(call, i, &d[i]));
        else
            NW_TRY(nw_call_f32(call, i, &f[i]));
        p[i] = f64 ? (const void *)d[i] : (const void *)f[i];
    }
    o->x = p[0];
    o->w = p[1];
    o->b = p[2];
    return NW_OK;
}

static void multiply(size_t size, const nw_product *p, const void *a, const void *b, void *y) {
    if (size == sizeof(float))
        nw_product_f32(p, a, b, y);
    else
        nw_product_f64(p, a, b, y);
}

static const void *at(const void *base, int64_t index, size_t size) {
    return (const char *)base + (size_t)index * size;
}

/* Every element of row c of y [rows, length] becomes b[c], or 0 without a bias. */
static void fill_bias(size_t size, const void *b, int64_t rows, int64_t length, void *y) {
    if (!b) {
        memset(y, 0, (size_t)(rows * length) * size);
        return;
    }
    for (int64_t c = 0; c < rows; c++)
        for (int64_t i = 0; i < length; i++)
            memcpy((char *)y + (size_t)(c * length + i) * size, at(b, c, size), size);
}

static int64_t volume(const int64_t *sizes) {
    return sizes[0] * sizes[1] * sizes[2];
}

/* A 1×1 kernel without padding reads the image as it lies. */
static bool is_pointwise(const nw_conv_geometry *g) {
    for (int a = 0; a < 3; a++)
        if (g->kernel[a] != 1 || g->stride[a] != 1 || g->pad_begin[a] || g->pad_end[a]) return false;
    return true;
}

static nw_status conv_infer(nw_op_call *call) {
    const nw_tensor *x, *w;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &w));
    nw_conv_geometry g;
    NW_TRY(nw_conv_geometry_of(call, x, w, &g));
    NW_TRY(nw_call_expect_shape(call, 2, "the bias", false, 1, &g.out_channels));
    int64_t dims[5];
    int rank = nw_conv_out_dims(&g, dims);
    return nw_call_set(call, 0, nw_real_format(x), rank, dims);
}

/* y[n][group] = w[group] · columns(x[n][group]) + b, tile by tile of output positions. */
static nw_status conv_eval(nw_op_call *call) {
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    nw_conv_geometry g;
    NW_TRY(nw_conv_geometry_of(call, call->in[0], call->in[1], &g));
    operands o;
    NW_TRY(load_operands(call, &o));
    int64_t c = g.in_channels / g.groups, m = g.out_channels / g.groups;
    int64_t k = c * volume(g.kernel), in = volume(g.in), out = volume(g.out);
    bool pointwise = is_pointwise(&g);
    int64_t limit = pointwise ? out : nw_conv_tile_limit(k);
    void *col = NULL;
    if (!pointwise) NW_TRY(nw_call_scratch_bytes(call, (size_t)(k * limit), o.size, &col));
    for (int64_t i = 0; i < g.batch; i++)
        fill_bias(o.size, o.b, g.out_channels, out,
                  (char *)call->out[0].data + (size_t)(i * g.out_channels * out) * o.size);
    for (int64_t i = 0; i < g.batch * g.groups; i++) {
        const void *x = at(o.x, i * c * in, o.size), *w = at(o.w, i % g.groups * m * k, o.size);
        char *y = (char *)call->out[0].data + (size_t)(i * m * out) * o.size;
        for (nw_conv_tile tile = {0}; nw_conv_next_tile(&g, limit, &tile);) {
            int64_t n = nw_conv_tile_columns(&tile), first = nw_conv_tile_first(&g, &tile);
            nw_product p = {.m = m,
                            .n = n,
                            .k = k,
                            .a_row = k,
                            .a_k = 1,
                            .b_k = n,
                            .b_column = 1,
                            .y_row = out,
                            .accumulate = true};
            if (pointwise)
                p.b_k = in;
            else
                nw_conv_columns(&g, o.size, c, x, &tile, col);
            multiply(o.size, &p, w, pointwise ? at(x, first, o.size) : col, y + (size_t)first * o.size);
        }
    }
    return NW_OK;
}

static void conv_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
    roles->in[1] = NW_ROLE_WEIGHT;
    roles->in[2] = NW_ROLE_BIAS;
    roles->compute = true;
}

const nw_op nw_op_Conv = {
    .name = "Conv", .domain = "", .infer = conv_infer, .eval = conv_eval, .roles = conv_roles};

/* ---- ConvTranspose
 * ---------------------------------------------------------------------------------------------- */

static nw_status conv_transpose_infer(nw_op_call *call) {
    const nw_tensor *x, *w;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &w));
    nw_conv_geometry g;
    NW_TRY(nw_conv_transpose_geometry_of(call, x, w, &g));
    NW_TRY(nw_call_expect_shape(call, 2, "the bias", false, 1, &g.out_channels));
    int64_t dims[5];
    int rank = nw_conv_out_dims(&g, dims);
    return nw_call_set(call, 0, nw_real_format(x), rank, dims);
}

/* columns = w[group]ᵀ · x[n][group], added to y where the reverse convolution would read them. */
static nw_status conv_transpose_eval(nw_op_call *call) {
    if (nw_tensor_count(&call->out[0]) == 0) return NW_OK;
    nw_conv_geometry g;
    NW_TRY(nw_conv_transpose_geometry_of(call, call->in[0], call->in[1], &g));
    nw_conv_geometry reverse = nw_conv_reverse(&g);
    operands o;
    NW_TRY(load_operands(call, &o));
    int64_t c = g.in_channels / g.groups, m = g.out_channels / g.groups;
    int64_t rows = m * volume(g.kernel), in = volume(g.in), out = volume(g.out),
            limit = nw_conv_tile_limit(rows);
    void *col;
    NW_TRY(nw_call_scratch_bytes(call, (size_t)(rows * limit), o.size, &col));
    for (int64_t i = 0; i < g.batch; i++)
        fill_bias(o.size, o.b, g.out_channels, out,
                  (char *)call->out[0].data + (size_t)(i * g.out_channels * out) * o.size);
    for (int64_t i = 0; i < g.batch * g.groups; i++) {
        const void *x = at(o.x, i * c * in, o.size), *w = at(o.w, i % g.groups * c * rows, o.size);
        char *y = (char *)call->out[0].data + (size_t)(i * m * out) * o.size;
        for (nw_conv_tile tile = {0}; nw_conv_next_tile(&reverse, limit, &tile);) {
            int64_t n = nw_conv_tile_columns(&tile);
            nw_product p = {
                .m = rows, .n = n, .k = c, .a_row = 1, .a_k = rows, .b_k = in, .b_column = 1, .y_row = n};
            multiply(o.size, &p, w, at(x, nw_conv_tile_first(&reverse, &tile), o.size), col);
            nw_conv_add_columns(&reverse, o.size == sizeof(double), m, col, &tile, y);
        }
    }
    return NW_OK;
}

static void conv_transpose_roles(const nw_node *node, nw_roles *roles) {
    conv_roles(node, roles);
    roles->channel_axis[1] = 1;
}

const nw_op nw_op_ConvTranspose = {.name = "ConvTranspose",
                                   .domain = "",
                                   .infer = conv_transpose_infer,
                                   .eval = conv_transpose_eval,
                                   .roles = conv_transpose_roles};
