/* lower_pool.c: pooling of one or two dimensions, channels-last, on f32 or codes. */
#include "run/conv.h"

#include "op/index.h"

#include <math.h>
#include <string.h>

typedef struct pool_state {
    nw_pool kernels;
    bool max, global, codes, include_pad;
    bool flat; /* the spatial axes are gone from the output: ReduceMean without keepdims */
    nw_window window;
    size_t m, channels, pixels; /* pixels: of an image, for global pools */
    uint8_t empty;
    nw_avg_pool_u8_params params;
    float ratio; /* s_x/s_y */
    double work;
} pool_state;

typedef struct pool_job {
    const pool_state *s;
    const char *x;
    char *y;
} pool_job;

static void global_range(void *user, size_t begin, size_t end) {
    const pool_job *j = user;
    const pool_state *s = j->s;
    size_t size = s->codes ? 1 : 4, row = s->channels * size;
    for (size_t i = begin; i < end; i++) {
        nw_pool_taps taps = {.taps = s->pixels, .base = j->x + i * s->pixels * row, .stride = row};
        void *y = j->y + i * row;
        if (s->max && s->codes)
            s->kernels.max_pool_u8(&taps, s->channels, y);
        else if (s->max)
            s->kernels.max_pool_f32(&taps, s->channels, y);
        else if (s->codes)
            s->kernels.avg_pool_u8(&taps, s->channels, &s->params, y);
        else
            s->kernels.avg_pool_f32(&taps, s->channels, 1.0f / (float)s->pixels, y);
    }
}

static void pool_range(void *user, size_t begin, size_t end) {
    const pool_job *j = user;
    const pool_state *s = j->s;
    size_t ldy = s->channels * (s->codes ? 1 : 4);
    if (s->max && s->codes)
        nw_max_pool_u8_run(&s->kernels, &s->window, (const uint8_t *)j->x, s->channels, s->empty,
                           (uint8_t *)j->y, ldy, begin, end);
    else if (s->max)
        nw_max_pool_f32_run(&s->kernels, &s->window, (const float *)j->x, s->channels, (float *)j->y, ldy,
                            begin, end);
    else if (s->codes)
        nw_avg_pool_u8_run(&s->kernels, &s->window, (const uint8_t *)j->x, s->channels, s->include_pad,
                           s->ratio, &s->params, (uint8_t *)j->y, ldy, begin, end);
    else
        nw_avg_pool_f32_run(&s->kernels, &s->window, (const float *)j->x, s->channels, s->include_pad,
                            (float *)j->y, ldy, begin, end);
}

static nw_status run_pool(nw_exec *e, const nw_step *step) {
    const pool_state *s = step->state;
    pool_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->m, 1, s->work, s->global ? global_range : pool_range, &job);
    return NW_OK;
}

static bool one_output(const nw_node *node) {
    for (int i = 1; i < node->out_count; i++)
        if (node->out[i] >= 0) return false;
    return true;
}

/* Whether the node is the mean over all spatial axes. */
static nw_status is_spatial_mean(nw_planner *p, const nw_node *node, int rank, bool *mean) {
    int list = nw_node_in(node, 1);
    nw_op_call call;
    nw_axes axes;
    *mean = false;
    if (!nw_node_is(node, "ReduceMean") || (list >= 0 && !nw_graph_constant(p->graph, list))) return NW_OK;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_call_axes(&call, 1, rank, &axes)); /* distinct ones */
    *mean = axes.count == rank - 2;
    for (int i = 0; i < axes.count; i++) *mean &= axes.at[i] >= 2;
    return NW_OK;
}

/* Fills window and sizes; *ok false for what the kernels do not do. */
static nw_status examine(nw_planner *p, const nw_node *node, pool_state *s, bool *ok) {
    *ok = false;
    const nw_tensor *x = &p->desc[node->in[0]];
    if (node->domain[0] || x->format != NW_F32 || x->qparam || x->rank < 3 || !one_output(node)) return NW_OK;
    bool mean, global;
    NW_TRY(is_spatial_mean(p, node, x->rank, &mean));
    global = mean || strncmp(node->op_type, "Global", 6) == 0;
    const char *kind = node->op_type + (global && !mean ? 6 : 0);
    s->max = strcmp(kind, "MaxPool") == 0;
    s->flat = mean && !nw_node_int(node, "keepdims", 1);
    if (!s->max && !mean && strcmp(kind, "AveragePool") != 0) return NW_OK;
    if (nw_tensor_count(x) == 0) return NW_OK;
    s->global = global;
    s->channels = (size_t)x->dims[1];
    if (global) {
        s->m = (size_t)x->dims[0];
        s->pixels = nw_dims_product(x->dims, 2, x->rank);
        *ok = true;
        return NW_OK;
    }
    nw_op_call call;
    nw_conv_geometry g;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_pool_geometry_of(&call, x, &g));
    bool ceil_mode = nw_node_int(node, "ceil_mode", 0) != 0;
    s->include_pad = nw_node_int(node, "count_include_pad", 0) != 0;
    if (g.spatial > 2 || (s->include_pad && ceil_mode) || g.pad_begin[1] < 0 || g.pad_begin[2] < 0)
        return NW_OK;
    size_t taps = (size_t)(g.kernel[1] * g.kernel[2]);
    if (taps > NW_POOL_MAX_TAPS || g.out[1] * g.out[2] == 0) return NW_OK;
    s->m = (size_t)(g.batch * g.out[1] * g.out[2]);
    s->pixels = taps;
    s->window = nw_plan_window(&g, 0); /* the strides follow with the form */
    *ok = true;
    return NW_OK;
}

nw_status nw_lower_pool(nw_planner *p, nw_node *node, bool *ok) {
    if (node->in_count < 1 || node->in[0] < 0) {
        *ok = false;
        return NW_OK;
    }
    pool_state s = {.kernels = p->pools};
    NW_TRY(examine(p, node, &s, ok));
    if (!*ok) return NW_OK;
    int x = node->in[0];
    nw_follow follow = {.value = node->out[0]};
    bool on_grid = nw_plan_on_grid(p, x);
    if (on_grid && !s.max) NW_TRY(nw_plan_follow(p, node->out[0], true, &follow));
    /* A maximum stays on its input's grid; an average needs one of its own to come out as codes. A Relu between would have to
     * be fused: follow does it for codes. */
    s.codes = on_grid && (s.max || follow.grid.scale > 0);
    if (!s.codes) follow = (nw_follow){.value = node->out[0]};
    if (s.codes) {
        const nw_grid *in = &p->grid[x];
        s.empty = (uint8_t)in->lo;
        if (s.max) {
            p->grid[node->out[0]] = *in;
        } else {
            s.ratio = (float)((double)in->scale / (double)follow.grid.scale);
            s.params = (nw_avg_pool_u8_params){in->zero, follow.grid.zero, follow.code_lo, follow.code_hi,
                                               s.ratio / (float)s.pixels};
        }
    }
    size_t size = s.codes ? 1 : 4;
    s.window.pixel_stride = s.channels * size;
    s.window.line_stride = s.window.pixel_stride * s.window.in_w;
    s.window.image_stride = s.window.line_stride * s.window.in_h;
    s.work = (double)s.m * (double)s.channels * (double)s.pixels / (s.codes ? 30 : 8);
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, x, nw_form_of(s.codes, true), &in[0]));
    nw_plan_fuse(p, &follow);
    NW_TRY(nw_plan_define(p, follow.value, nw_form_of(s.codes, !s.flat), &out[0]));
    return NW_PLAN_STEP(p, node, run_pool,
                        s.max ? (s.codes ? "max_pool_u8" : "max_pool_f32")
                              : (s.codes ? "avg_pool_u8" : "avg_pool_f32"),
                        &s, in, out);
}
