/* conv.c: Conv and ConvTranspose in float, as matrix products over columns. */
#include "op/conv.h"
#include "op/grad.h"
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

/* ---- gradients ----------------------------------------------------------------------------------------- */

/* ConvWeightGrad: inputs: x [N, C, …], dy [N, M, …]; output: dw [M, C/group, kernel…], the gradient of the
 * weight of the Conv that has these attributes (explicit pads): dw[m][k] = Σ
 * dy[n][m][column]·columns(x[n])[k][column]. */

static nw_status weight_grad_geometry(const nw_op_call *call, nw_tensor *w, nw_conv_geometry *g) {
    const nw_tensor *x, *dy;
    int64_t groups, kernel[3];
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &dy));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 3, 5));
    NW_TRY(nw_call_expect_rank(call, dy, "the gradient", x->rank, x->rank));
    NW_TRY(nw_call_int_attr(call, "group", 1, 1, (int64_t)1 << 30, &groups));
    NW_TRY(nw_call_ints_attr(call, "kernel_shape", x->rank - 2, 1, 1, (int64_t)1 << 30, kernel));
    *w =
        (nw_tensor){.format = nw_real_format(x), .rank = x->rank, .dims = {dy->dims[1], x->dims[1] / groups}};
    for (int d = 2; d < x->rank; d++) w->dims[d] = kernel[d - 2];
    NW_TRY(nw_conv_geometry_of(call, x, w, g));
    nw_tensor y = {.rank = 0};
    y.rank = nw_conv_out_dims(g, y.dims);
    if (!nw_tensor_same_shape(&y, dy))
        return nw_call_fail(call, NW_E_SHAPE,
                            "the gradient does not have the shape of the convolution's result");
    return NW_OK;
}

static nw_status weight_grad_infer(nw_op_call *call) {
    nw_conv_geometry g;
    nw_tensor w;
    NW_TRY(weight_grad_geometry(call, &w, &g));
    return nw_call_set_like(call, 0, &w);
}

static nw_status weight_grad_eval(nw_op_call *call) {
    nw_conv_geometry g;
    nw_tensor shape;
    NW_TRY(weight_grad_geometry(call, &shape, &g));
    const float *x, *dy;
    float *dw, *col;
    NW_TRY(nw_call_f32(call, 0, &x));
    NW_TRY(nw_call_f32(call, 1, &dy));
    NW_TRY(nw_call_f32_out(call, 0, &dw));
    int64_t c = g.in_channels / g.groups, m = g.out_channels / g.groups;
    int64_t k = c * volume(g.kernel), in = volume(g.in), out = volume(g.out), limit = nw_conv_tile_limit(k);
    memset(dw, 0, (size_t)(g.out_channels * k) * sizeof *dw);
    NW_TRY(nw_call_scratch(call, (size_t)(k * limit), &col));
    for (int64_t i = 0; i < g.batch * g.groups; i++)
        for (nw_conv_tile tile = {0}; nw_conv_next_tile(&g, limit, &tile);) {
            int64_t n = nw_conv_tile_columns(&tile);
            nw_conv_columns(&g, sizeof *x, c, x + i * c * in, &tile, col);
            nw_product p = {.m = m,
                            .n = k,
                            .k = n,
                            .a_row = out,
                            .a_k = 1,
                            .b_k = 1,
                            .b_column = n,
                            .y_row = k,
                            .accumulate = true};
            nw_product_f32(&p, dy + i * m * out + nw_conv_tile_first(&g, &tile), col,
                           dw + i % g.groups * m * k);
        }
    nw_call_f32_done(call, 0, dw);
    return NW_OK;
}

const nw_op nw_op_narrow_ConvWeightGrad = {
    .name = "ConvWeightGrad", .domain = "ai.narrow", .infer = weight_grad_infer, .eval = weight_grad_eval};

/* The window of g as attributes of the node begun last, its padding spelled out. */
static void set_window(nw_grad_call *c, const nw_conv_geometry *g) {
    size_t s = (size_t)g->spatial, skip = 3 - s;
    int64_t pads[6];
    for (size_t a = 0; a < s; a++) {
        pads[a] = g->pad_begin[skip + a];
        pads[s + a] = g->pad_end[skip + a];
    }
    nw_grad_set_int(c, "group", g->groups);
    nw_grad_set_ints(c, "kernel_shape", s, g->kernel + skip);
    nw_grad_set_ints(c, "strides", s, g->stride + skip);
    nw_grad_set_ints(c, "dilations", s, g->dilation + skip);
    nw_grad_set_ints(c, "pads", 2 * s, pads);
}

static int weight_grad(nw_grad_call *c, const nw_conv_geometry *g, int x, int dy) {
    nw_grad_begin(c, "ai.narrow", "ConvWeightGrad", 2, (int[]){x, dy});
    set_window(c, g);
    return nw_grad_end(c);
}

/* db = Σ dy over everything but the channels. */
static int bias_grad(nw_grad_call *c, int dy) {
    bool axes[NW_MAX_RANK] = {true, false, true, true, true};
    return nw_grad_sum_axes(c, dy, axes, false);
}

/* Positions on an axis that no window of the Conv geometry g reaches, though its padding counts: what
 * ConvTranspose calls output_padding. in + pad_begin + pad_end = stride·(out − 1) + extent + rest. */
static int64_t rest_of(const nw_conv_geometry *g, int a) {
    int64_t reach = g->stride[a] * (g->out[a] - 1) + (g->kernel[a] - 1) * g->dilation[a] + 1;
    return g->in[a] + g->pad_begin[a] + g->pad_end[a] - reach;
}

/* dx = ConvTranspose(dy, w), dw = ConvWeightGrad(x, dy), db = Σ dy. */
static nw_status conv_grad(nw_grad_call *c) {
    int x = nw_grad_in(c, 0), w = nw_grad_in(c, 1), dy = c->dy[0];
    const nw_op_call *call = nw_grad_forward(c);
    if (!call) return c->status;
    nw_conv_geometry g;
    NW_TRY(nw_conv_geometry_of(call, call->in[0], call->in[1], &g));
    if (c->wanted[0]) {
        int64_t rest[3];
        for (int a = 0; a < 3; a++) rest[a] = rest_of(&g, a);
        nw_grad_begin(c, "", "ConvTranspose", 2, (int[]){dy, w});
        set_window(c, &g);
        nw_grad_set_ints(c, "output_padding", (size_t)g.spatial, rest + 3 - g.spatial);
        c->dx[0] = nw_grad_end(c);
    }
    if (c->wanted[1]) c->dx[1] = weight_grad(c, &g, x, dy);
    if (nw_grad_wants(c, 2)) c->dx[2] = bias_grad(c, dy);
    return c->status;
}

const nw_op nw_op_Conv = {.name = "Conv",
                          .domain = "",
                          .infer = conv_infer,
                          .eval = conv_eval,
                          .roles = conv_roles,
                          .grad = conv_grad};

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

/* The reverse of a ConvTranspose is a Conv whose padding at the end leaves nothing over: dx = Conv(dy, w),
 * dw = ConvWeightGrad(dy, x), db = Σ dy. */
static nw_status conv_transpose_grad(nw_grad_call *c) {
    int x = nw_grad_in(c, 0), w = nw_grad_in(c, 1), dy = c->dy[0];
    const nw_op_call *call = nw_grad_forward(c);
    if (!call) return c->status;
    nw_conv_geometry g;
    NW_TRY(nw_conv_transpose_geometry_of(call, call->in[0], call->in[1], &g));
    g = nw_conv_reverse(&g);
    for (int a = 0; a < 3; a++) {
        int64_t rest = rest_of(&g, a); /* of output_padding, or of pads that output_shape made up */
        g.pad_end[a] = rest > g.pad_end[a] ? 0 : g.pad_end[a] - rest;
        if (rest_of(&g, a) >= g.stride[a] || g.pad_end[a] < 0)
            nw_grad_fail(c, NW_E_UNSUPPORTED, "its output_padding is larger than its stride");
    }
    if (c->wanted[0]) {
        nw_grad_begin(c, "", "Conv", 2, (int[]){dy, w});
        set_window(c, &g);
        c->dx[0] = nw_grad_end(c);
    }
    if (c->wanted[1]) c->dx[1] = weight_grad(c, &g, dy, x);
    if (nw_grad_wants(c, 2)) c->dx[2] = bias_grad(c, dy);
    return c->status;
}

const nw_op nw_op_ConvTranspose = {.name = "ConvTranspose",
                                   .domain = "",
                                   .infer = conv_transpose_infer,
                                   .eval = conv_transpose_eval,
                                   .roles = conv_transpose_roles,
                                   .grad = conv_transpose_grad};
