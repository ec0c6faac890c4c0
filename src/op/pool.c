/* pool.c: MaxPool, AveragePool, LpPool, their global forms, and MaxUnpool. */
#include "op/conv.h"
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef enum pool_kind { POOL_MAX, POOL_AVERAGE, POOL_LP } pool_kind;

/* How one channel is pooled. */
typedef struct pool {
    nw_conv_geometry g;
    pool_kind kind;
    bool include_pad;  /* of AVERAGE: padding counts as elements of value 0 */
    bool column_major; /* of MAX: how an index is made from a position */
    double p;          /* of LP */
} pool;

/* Taps of a window: [first, last) on each axis are inside the input; `counted` includes padding but not what
 * lies beyond it. */
typedef struct reach {
    int64_t first[3], last[3];
    double inside, counted;
} reach;

static reach reach_of(const nw_conv_geometry *g, const int64_t o[3]) {
    reach r = {.inside = 1, .counted = 1};
    for (int a = 0; a < 3; a++) {
        nw_conv_taps(g, a, o[a], &r.first[a], &r.last[a]);
        int64_t start = o[a] * g->stride[a] - g->pad_begin[a], d = g->dilation[a];
        int64_t room = g->in[a] + g->pad_end[a] - start, fitting = room > 0 ? (room + d - 1) / d : 0;
        r.inside *= (double)(r.last[a] - r.first[a]);
        r.counted *= (double)(fitting < g->kernel[a] ? fitting : g->kernel[a]);
    }
    return r;
}

/* Position (offset in the channel) of tap t of the window at o. */
static int64_t tap_position(const nw_conv_geometry *g, const int64_t o[3], const int64_t t[3],
                            bool column_major) {
    int64_t at[3];
    for (int a = 0; a < 3; a++) at[a] = o[a] * g->stride[a] - g->pad_begin[a] + t[a] * g->dilation[a];
    if (column_major) return at[0] + g->in[0] * (at[1] + g->in[1] * at[2]);
    return (at[0] * g->in[1] + at[1]) * g->in[2] + at[2];
}

/* A window of padding only has the lowest number (max) or 0. *index (may be NULL) is the winner's position.
 */
static double pool_window(const pool *p, const double *x, const int64_t o[3], int64_t *index) {
    const nw_conv_geometry *g = &p->g;
    reach r = reach_of(g, o);
    double best = -INFINITY, sum = 0;
    int64_t t[3], winner[3] = {r.first[0], r.first[1], r.first[2]};
    for (t[0] = r.first[0]; t[0] < r.last[0]; t[0]++)
        for (t[1] = r.first[1]; t[1] < r.last[1]; t[1]++) {
            t[2] = r.first[2];
            const double *row = x + tap_position(g, o, t, false);
            for (; t[2] < r.last[2]; t[2]++, row += g->dilation[2]) {
                double v = *row;
                if (p->kind == POOL_MAX) {
                    if (v > best || isnan(v)) {
                        best = v;
                        memcpy(winner, t, sizeof winner);
                    }
                } else if (p->kind == POOL_AVERAGE) {
                    sum += v;
                } else {
                    sum += p->p == 2 ? v * v : pow(fabs(v), p->p);
                }
            }
        }
    if (p->kind == POOL_MAX) {
        if (index) *index = r.inside > 0 ? tap_position(g, o, winner, p->column_major) : 0;
        return best;
    }
    if (p->kind == POOL_LP) return p->p == 2 ? sqrt(sum) : pow(sum, 1 / p->p);
    double count = p->include_pad ? r.counted : r.inside;
    return count > 0 ? sum / count : 0;
}

static nw_status pool_run(nw_op_call *call, const pool *p) {
    const nw_conv_geometry *g = &p->g;
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    if (nw_tensor_count(y) == 0) return NW_OK;
    int64_t in = g->in[0] * g->in[1] * g->in[2], out = g->out[0] * g->out[1] * g->out[2];
    int64_t *indices =
        p->kind == POOL_MAX && call->out_count > 1 && nw_call_wants(call, 1) ? call->out[1].data : NULL;
    double *plane, *result;
    NW_TRY(nw_call_scratch(call, (size_t)in, &plane));
    NW_TRY(nw_call_scratch(call, (size_t)out, &result));
    for (int64_t c = 0; c < g->batch * g->out_channels; c++) {
        nw_load_run(x, (size_t)(c * in), (size_t)in, plane);
        int64_t i = 0, o[3], index = 0;
        for (o[0] = 0; o[0] < g->out[0]; o[0]++)
            for (o[1] = 0; o[1] < g->out[1]; o[1]++)
                for (o[2] = 0; o[2] < g->out[2]; o[2]++, i++) {
                    result[i] = pool_window(p, plane, o, &index);
                    if (indices) indices[c * out + i] = c * in + index;
                }
        nw_store_run(y, (size_t)(c * out), (size_t)out, result);
    }
    return NW_OK;
}

static nw_status set_pooled(nw_op_call *call, int i, nw_format format, const nw_conv_geometry *g) {
    int64_t dims[5];
    int rank = nw_conv_out_dims(g, dims);
    return nw_call_set(call, i, format, rank, dims);
}

/* ---- windows
 * ---------------------------------------------------------------------------------------------------- */

static nw_status max_pool_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    nw_format format = nw_real_format(x);
    if (format != NW_U8 && format != NW_S8) NW_TRY(nw_call_require_real(call, 0, &x));
    nw_conv_geometry g;
    NW_TRY(nw_pool_geometry_of(call, x, &g));
    NW_TRY(set_pooled(call, 0, format, &g));
    return set_pooled(call, 1, NW_S64, &g);
}

static nw_status max_pool_eval(nw_op_call *call) {
    pool p = {.kind = POOL_MAX, .column_major = nw_node_int(call->node, "storage_order", 0) != 0};
    NW_TRY(nw_pool_geometry_of(call, call->in[0], &p.g));
    return pool_run(call, &p);
}

static void max_pool_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
    roles->same_grid = true;
}

static nw_status max_pool_grad(nw_grad_call *c) {
    nw_grad_begin(c, "ai.narrow", "MaxPoolGrad", 2, (int[]){nw_grad_in(c, 0), c->dy[0]});
    nw_grad_copy_attrs(c);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_MaxPool = {.name = "MaxPool",
                             .domain = "",
                             .infer = max_pool_infer,
                             .eval = max_pool_eval,
                             .roles = max_pool_roles,
                             .grad = max_pool_grad};

static nw_status real_pool_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require_real(call, 0, &x));
    nw_conv_geometry g;
    NW_TRY(nw_pool_geometry_of(call, x, &g));
    return set_pooled(call, 0, nw_real_format(x), &g);
}

static nw_status average_pool_eval(nw_op_call *call) {
    pool p = {.kind = POOL_AVERAGE, .include_pad = nw_node_int(call->node, "count_include_pad", 0) != 0};
    NW_TRY(nw_pool_geometry_of(call, call->in[0], &p.g));
    return pool_run(call, &p);
}

static void average_pool_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
    roles->compute = true;
}

static nw_status average_pool_grad(nw_grad_call *c) {
    nw_tensor x = nw_grad_tensor(c, nw_grad_in(c, 0));
    nw_grad_begin(c, "ai.narrow", "AveragePoolGrad", 1, c->dy);
    nw_grad_copy_attrs(c);
    nw_grad_set_ints(c, "shape", (size_t)x.rank, x.dims);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

const nw_op nw_op_AveragePool = {.name = "AveragePool",
                                 .domain = "",
                                 .infer = real_pool_infer,
                                 .eval = average_pool_eval,
                                 .roles = average_pool_roles,
                                 .grad = average_pool_grad};

static nw_status read_p(const nw_op_call *call, double *p) {
    int64_t power;
    NW_TRY(nw_call_int_attr(call, "p", 2, 1, 1024, &power));
    *p = (double)power;
    return NW_OK;
}

static nw_status lp_pool_infer(nw_op_call *call) {
    double p;
    NW_TRY(read_p(call, &p));
    return real_pool_infer(call);
}

static nw_status lp_pool_eval(nw_op_call *call) {
    pool p = {.kind = POOL_LP};
    NW_TRY(read_p(call, &p.p));
    NW_TRY(nw_pool_geometry_of(call, call->in[0], &p.g));
    return pool_run(call, &p);
}

const nw_op nw_op_LpPool = {.name = "LpPool", .domain = "", .infer = lp_pool_infer, .eval = lp_pool_eval};

/* ---- gradients of windows
 * ---------------------------------------------------------------------------------------------------- */

/* MaxPoolGrad: inputs: x, dy; output: dx, each dy added to the element that its window chose.
 * AveragePoolGrad: input: dy; output: dx of the shape in attribute `shape`, each dy spread evenly over its
 * window. Both have the pooling's attributes. In f32. */

/* Adds dy, the gradient of the window at o, to the elements of dx that it came from. r: reach_of(o). */
static void spread_window(const pool *p, const float *x, const int64_t o[3], const reach *r, float dy,
                          float *dx) {
    const nw_conv_geometry *g = &p->g;
    if (r->inside == 0) return;
    float share = dy / (float)(p->include_pad ? r->counted : r->inside), best = -INFINITY;
    int64_t t[3], winner = tap_position(g, o, r->first, false);
    for (t[0] = r->first[0]; t[0] < r->last[0]; t[0]++)
        for (t[1] = r->first[1]; t[1] < r->last[1]; t[1]++) {
            t[2] = r->first[2];
            int64_t at = tap_position(g, o, t, false);
            for (; t[2] < r->last[2]; t[2]++, at += g->dilation[2]) {
                if (p->kind == POOL_AVERAGE) {
                    dx[at] += share;
                } else if (x[at] > best || isnan(x[at])) {
                    best = x[at];
                    winner = at;
                }
            }
        }
    if (p->kind == POOL_MAX) dx[winner] += dy;
}

static nw_status spread_run(nw_op_call *call, const pool *p, const float *x, const float *dy) {
    const nw_conv_geometry *g = &p->g;
    size_t in = (size_t)(g->in[0] * g->in[1] * g->in[2]),
           windows = (size_t)(g->out[0] * g->out[1] * g->out[2]);
    int64_t o[3];
    float *dx;
    reach *reaches; /* of all windows: the same in every channel */
    NW_TRY(nw_call_f32_out(call, 0, &dx));
    NW_TRY(nw_call_scratch(call, windows, &reaches));
    memset(dx, 0, nw_tensor_count(&call->out[0]) * sizeof *dx);
    for (size_t c = 0; c < (size_t)(g->batch * g->out_channels); c++) {
        const reach *r = reaches;
        for (o[0] = 0; o[0] < g->out[0]; o[0]++)
            for (o[1] = 0; o[1] < g->out[1]; o[1]++)
                for (o[2] = 0; o[2] < g->out[2]; o[2]++, r++) {
                    if (c == 0) reaches[r - reaches] = reach_of(g, o);
                    spread_window(p, x ? x + c * in : NULL, o, r, *dy++, dx + c * in);
                }
    }
    nw_call_f32_done(call, 0, dx);
    return NW_OK;
}

/* dy, input i, must have the shape of the pooling's result. */
static nw_status expect_pooled(const nw_op_call *call, int i, const nw_conv_geometry *g) {
    int64_t dims[5];
    int rank = nw_conv_out_dims(g, dims);
    return nw_call_expect_shape(call, i, "the gradient", true, rank, dims);
}

static nw_status max_grad_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_conv_geometry g;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_pool_geometry_of(call, x, &g));
    NW_TRY(expect_pooled(call, 1, &g));
    return nw_call_set_like(call, 0, x);
}

static nw_status max_grad_eval(nw_op_call *call) {
    pool p = {.kind = POOL_MAX};
    const float *x, *dy;
    NW_TRY(nw_pool_geometry_of(call, call->in[0], &p.g));
    NW_TRY(nw_call_f32(call, 0, &x));
    NW_TRY(nw_call_f32(call, 1, &dy));
    return spread_run(call, &p, x, dy);
}

const nw_op nw_op_narrow_MaxPoolGrad = {
    .name = "MaxPoolGrad", .domain = "ai.narrow", .infer = max_grad_infer, .eval = max_grad_eval};

static nw_status average_grad_geometry(const nw_op_call *call, nw_tensor *x, nw_conv_geometry *g) {
    const nw_tensor *dy;
    NW_TRY(nw_call_require_real(call, 0, &dy));
    *x = (nw_tensor){.format = nw_real_format(dy), .rank = dy->rank};
    NW_TRY(nw_call_ints_attr(call, "shape", dy->rank, 1, 0, INT64_MAX, x->dims));
    NW_TRY(nw_pool_geometry_of(call, x, g));
    return expect_pooled(call, 0, g);
}

static nw_status average_grad_infer(nw_op_call *call) {
    nw_tensor x;
    nw_conv_geometry g;
    NW_TRY(average_grad_geometry(call, &x, &g));
    return nw_call_set_like(call, 0, &x);
}

static nw_status average_grad_eval(nw_op_call *call) {
    pool p = {.kind = POOL_AVERAGE, .include_pad = nw_node_int(call->node, "count_include_pad", 0) != 0};
    nw_tensor x;
    const float *dy;
    NW_TRY(average_grad_geometry(call, &x, &p.g));
    NW_TRY(nw_call_f32(call, 0, &dy));
    return spread_run(call, &p, NULL, dy);
}

const nw_op nw_op_narrow_AveragePoolGrad = {
    .name = "AveragePoolGrad", .domain = "ai.narrow", .infer = average_grad_infer, .eval = average_grad_eval};

/* ---- global: one window, any rank from 2
 * ------------------------------------------------------------------------- */

static nw_status global_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 2, NW_MAX_RANK));
    int64_t dims[NW_MAX_RANK] = {x->dims[0], x->dims[1], 1, 1, 1, 1, 1, 1};
    return nw_call_set(call, 0, nw_real_format(x), x->rank, dims);
}

/* The whole channel, of whatever rank, is one line and one window. */
static nw_status global_run(nw_op_call *call, pool p) {
    const nw_tensor *x = call->in[0];
    int64_t size = (int64_t)nw_dims_product(x->dims, 2, x->rank);
    p.g = (nw_conv_geometry){.spatial = 1,
                             .batch = x->dims[0],
                             .in_channels = x->dims[1],
                             .out_channels = x->dims[1],
                             .in = {1, 1, size},
                             .out = {1, 1, 1},
                             .kernel = {1, 1, size},
                             .stride = {1, 1, 1},
                             .dilation = {1, 1, 1}};
    return pool_run(call, &p);
}

static nw_status global_max_eval(nw_op_call *call) {
    return global_run(call, (pool){.kind = POOL_MAX});
}
static nw_status global_average_eval(nw_op_call *call) {
    return global_run(call, (pool){.kind = POOL_AVERAGE});
}

static nw_status global_lp_infer(nw_op_call *call) {
    double p;
    NW_TRY(read_p(call, &p));
    return global_infer(call);
}

static nw_status global_lp_eval(nw_op_call *call) {
    pool p = {.kind = POOL_LP};
    NW_TRY(read_p(call, &p.p));
    return global_run(call, p);
}

static nw_status global_max_grad(nw_grad_call *c) {
    const bool axes[NW_MAX_RANK] = {false, false, true, true, true, true, true, true};
    c->dx[0] = nw_grad_extreme(c, nw_grad_in(c, 0), nw_grad_out(c, 0), c->dy[0], axes);
    return c->status;
}

/* dx = dy/size everywhere. */
static nw_status global_average_grad(nw_grad_call *c) {
    nw_tensor x = nw_grad_tensor(c, nw_grad_in(c, 0));
    double size = (double)nw_dims_product(x.dims, 2, x.rank);
    c->dx[0] = nw_grad_expand(c, nw_grad_scale(c, c->dy[0], 1 / size), x.rank, x.dims);
    return c->status;
}

const nw_op nw_op_GlobalMaxPool = {.name = "GlobalMaxPool",
                                   .domain = "",
                                   .infer = global_infer,
                                   .eval = global_max_eval,
                                   .roles = max_pool_roles,
                                   .grad = global_max_grad};
const nw_op nw_op_GlobalAveragePool = {.name = "GlobalAveragePool",
                                       .domain = "",
                                       .infer = global_infer,
                                       .eval = global_average_eval,
                                       .roles = average_pool_roles,
                                       .grad = global_average_grad};
const nw_op nw_op_GlobalLpPool = {
    .name = "GlobalLpPool", .domain = "", .infer = global_lp_infer, .eval = global_lp_eval};

/* ---- MaxUnpool: X, I, output_shape?
 * ------------------------------------------------------------------------------ */

/* The size that a MaxPool with these attributes had as input: (in − 1)·stride + kernel − pads. The indices
 * speak of a tensor of this shape, even when output_shape asks for a larger one. */
static nw_status unpooled_dims(const nw_op_call *call, const nw_tensor *x, int64_t *dims) {
    nw_conv_geometry g;
    NW_TRY(nw_call_expect_rank(call, x, "the input", 3, 5));
    nw_tensor pooled =
        *x; /* sizes of the result do not restrict the window here: give it room for every kernel */
    for (int d = 2; d < x->rank; d++) pooled.dims[d] = (int64_t)1 << 30;
    NW_TRY(nw_pool_geometry_of(call, &pooled, &g));
    int skip = 3 - g.spatial;
    dims[0] = x->dims[0];
    dims[1] = x->dims[1];
    for (int a = 0; a < g.spatial; a++) {
        if (x->dims[2 + a] > (int64_t)1 << 30)
            return nw_call_fail(call, NW_E_SHAPE, "the input is too large");
        dims[2 + a] = (x->dims[2 + a] - 1) * g.stride[skip + a] + g.kernel[skip + a] - g.pad_begin[skip + a] -
                      g.pad_end[skip + a];
        if (dims[2 + a] < 0) return nw_call_fail(call, NW_E_SHAPE, "the pads are larger than the output");
    }
    return NW_OK;
}

static nw_status unpool_infer(nw_op_call *call) {
    const nw_tensor *x, *index;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &index));
    if (index->format != NW_S64 || index->qparam || !nw_tensor_same_shape(x, index))
        return nw_call_fail(call, NW_E_SHAPE, "I must hold s64 and have the shape of X");
    int64_t dims[5];
    NW_TRY(unpooled_dims(call, x, dims));
    const int64_t *shape;
    size_t count;
    NW_TRY(nw_call_ints(call, 2, &shape, &count));
    if (!nw_call_in(call, 2)) return nw_call_set(call, 0, nw_real_format(x), x->rank, dims);
    if (count != (size_t)x->rank)
        return nw_call_fail(call, NW_E_SHAPE, "output_shape has %zu numbers, X has %d dimensions", count,
                            x->rank);
    for (int d = 0; d < x->rank; d++)
        if (shape[d] < dims[d])
            return nw_call_fail(call, NW_E_SHAPE,
                                "output_shape says %" PRId64 " on axis %d, at least %" PRId64 " is needed",
                                shape[d], d, dims[d]);
    return nw_call_set(call, 0, nw_real_format(x), x->rank, shape);
}

static nw_status unpool_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    const int64_t *index = call->in[1]->data;
    nw_tensor *y = &call->out[0], inner = {.format = NW_F64, .rank = x->rank};
    NW_TRY(unpooled_dims(call, x, inner.dims));
    NW_TRY(nw_tensor_check(call->ctx, &inner));
    size_t size = nw_tensor_count(&inner);
    memset(y->data, 0, nw_tensor_bytes(y));
    for (size_t i = 0, n = nw_tensor_count(x); i < n; i++) {
        if (index[i] < 0 || (uint64_t)index[i] >= size)
            return nw_call_fail(call, NW_E_SHAPE, "index %" PRId64 " is outside of the output", index[i]);
        size_t rest = (size_t)index[i], at = 0, step = 1;
        for (int d = x->rank - 1; d >= 0; d--) {
            at += rest % (size_t)inner.dims[d] * step;
            rest /= (size_t)inner.dims[d];
            step *= (size_t)y->dims[d];
        }
        nw_store_f64(y->format, y->data, at, nw_tensor_f64(x, i));
    }
    return NW_OK;
}

const nw_op nw_op_MaxUnpool = {.name = "MaxUnpool", .domain = "", .infer = unpool_infer, .eval = unpool_eval};
