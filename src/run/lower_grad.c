/* lower_grad.c: what gradients are made of beside products and normalizations, on all threads and in the layout that
 * their inputs have: slopes of functions element by element, gradients of pools, sums over all but the channels, and
 * one pixel repeated. */
#include "run/conv.h"

#include "kern/channels.h"
#include "kern/stats.h"
#include "op/index.h"
#include "op/slope.h"

#include <string.h>

/* ---- element by element ------------------------------------------------------------------------------------------ */

typedef struct slope_state {
    nw_slope slope;
    size_t count;
} slope_state;

typedef struct slope_job {
    const slope_state *s;
    const float *v, *dy;
    float *dx;
} slope_job;

static void slope_range(void *user, size_t begin, size_t end) {
    const slope_job *j = user;
    const nw_slope *f = &j->s->slope;
    f->run(end - begin, j->v + begin, j->dy + begin, f->a, f->b, j->dx + begin);
}

static nw_status run_slope(nw_exec *e, const nw_step *step) {
    const slope_state *s = step->state;
    slope_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->in[1]),
                     nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / 2, slope_range, &job);
    return NW_OK;
}

static bool is_f32(const nw_planner *p, int v) {
    return p->desc[v].format == NW_F32;
}

static nw_status lower_slope(nw_planner *p, const nw_node *node, bool *ok) {
    const int v = node->in[0], dy = node->in[1];
    slope_state s = {.count = nw_tensor_count(&p->desc[dy])};
    if (!is_f32(p, v) || !is_f32(p, dy) || !nw_slope_of(node, &s.slope)) return NW_OK;
    *ok = true;
    const nw_form form = nw_form_of(false, nw_plan_prefers_last(p, dy) || nw_plan_prefers_last(p, v));
    int in[2], out[1];
    NW_TRY(nw_plan_need(p, v, form, &in[0]));
    NW_TRY(nw_plan_need(p, dy, form, &in[1]));
    NW_TRY(nw_plan_define_over(p, dy, in[1], node->out[0], form, &out[0]));
    return NW_PLAN_STEP(p, node, run_slope, "slope", &s, in, out);
}

/* ---- pools --------------------------------------------------------------------------------------------------------- */

typedef struct pool_state {
    nw_channels kernels;
    nw_window window;
    size_t batch, channels, image; /* image: floats of an image of dx */
    bool max, include_pad;
    double work;
} pool_state;

typedef struct pool_job {
    const pool_state *s;
    const float *x, *dy; /* x: of maxima */
    float *dx;
} pool_job;

/* Images [begin, end): windows may overlap within an image only. */
static void pool_range(void *user, size_t begin, size_t end) {
    const pool_job *j = user;
    const pool_state *s = j->s;
    const nw_window *w = &s->window;
    const size_t pixels = w->out_h * w->out_w, all = w->kernel_h * w->kernel_w;
    const void *from[NW_POOL_MAX_TAPS], *to[NW_POOL_MAX_TAPS];
    memset(j->dx + begin * s->image, 0, (end - begin) * s->image * sizeof(float));
    for (size_t m = begin * pixels; m < end * pixels; m++) {
        const float *dy = j->dy + m * s->channels;
        const size_t taps = nw_window_inside(w, j->dx, m, to);
        if (taps == 0) continue;
        if (s->max) {
            nw_window_inside(w, j->x, m, from);
            s->kernels.channel_max_grad_f32(taps, s->channels, from, dy, (void *const *)(uintptr_t)to);
        } else {
            s->kernels.channel_spread_f32(taps, s->channels, 1.0f / (float)(s->include_pad ? all : taps), dy,
                                          (void *const *)(uintptr_t)to);
        }
    }
}

/* in: dy, and x of maxima */
static nw_status run_pool(nw_exec *e, const nw_step *step) {
    const pool_state *s = step->state;
    pool_job job = {s, nw_exec_data(e, step->in[1]), nw_exec_data(e, step->in[0]),
                    nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->batch, 1, s->work, pool_range, &job);
    return NW_OK;
}

static nw_status examine_pool(nw_planner *p, const nw_node *node, pool_state *s, bool *ok) {
    const nw_tensor *x = &p->desc[node->out[0]]; /* dx has its shape */
    nw_op_call call;
    nw_conv_geometry g;
    if (x->format != NW_F32 || nw_tensor_count(x) == 0) return NW_OK;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_pool_geometry_of(&call, x, &g));
    s->include_pad = nw_node_int(node, "count_include_pad", 0) != 0;
    if (g.spatial > 2 || (s->include_pad && nw_node_int(node, "ceil_mode", 0)) || g.pad_begin[1] < 0 ||
        g.pad_begin[2] < 0 || g.kernel[1] * g.kernel[2] > NW_POOL_MAX_TAPS)
        return NW_OK;
    s->window = nw_plan_window(&g, (size_t)g.in_channels * sizeof(float));
    s->batch = (size_t)g.batch;
    s->channels = (size_t)g.in_channels;
    s->image = (size_t)(g.in[1] * g.in[2]) * s->channels;
    s->work = (double)(g.batch * g.out[1] * g.out[2] * g.kernel[1] * g.kernel[2]) * (double)s->channels / 4;
    *ok = true;
    return NW_OK;
}

static nw_status lower_pool(nw_planner *p, const nw_node *node, bool max, bool *ok) {
    pool_state s = {.max = max};
    NW_TRY(examine_pool(p, node, &s, ok));
    if (!*ok) return NW_OK;
    int in[2] = {-1, -1}, out[1];
    nw_channels_select(p->options->isa, &s.kernels);
    NW_TRY(nw_plan_need(p, node->in[max], NW_FORM_REAL_LAST, &in[0]));
    if (max) NW_TRY(nw_plan_need(p, node->in[0], NW_FORM_REAL_LAST, &in[1]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL_LAST, &out[0]));
    return NW_PLAN_STEP(p, node, run_pool, "window by window", &s, in, out);
}

/* ---- sums of columns ----------------------------------------------------------------------------------------------- */

typedef struct columns_state {
    nw_column_sums_f32_fn *sums;
    size_t rows, cols, fold; /* `fold` rows are summed as one long row */
    size_t parts, part_rows; /* of the long rows */
} columns_state;

typedef struct columns_job {
    const columns_state *s;
    const float *x;
    double *sums; /* [parts][fold·cols] */
} columns_job;

static void columns_range(void *user, size_t begin, size_t end) {
    const columns_job *j = user;
    const columns_state *s = j->s;
    const size_t cols = s->fold * s->cols, rows = s->rows / s->fold;
    for (size_t i = begin; i < end; i++) {
        const size_t first = i * s->part_rows, left = rows - first;
        memset(j->sums + i * cols, 0, cols * sizeof *j->sums);
        s->sums(left < s->part_rows ? left : s->part_rows, cols, j->x + first * cols, j->sums + i * cols);
    }
}

static nw_status run_columns(nw_exec *e, const nw_step *step) {
    const columns_state *s = step->state;
    float *y = nw_exec_data(e, step->out[0]);
    columns_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[1])};
    nw_exec_parallel(e, s->parts, 1, (double)(s->rows * s->cols) / 4, columns_range, &job);
    for (size_t c = 0; c < s->cols; c++) {
        double sum = 0;
        for (size_t i = 0; i < s->parts * s->fold; i++) sum += job.sums[i * s->cols + c];
        for (size_t r = s->rows / s->fold * s->fold; r < s->rows; r++) sum += (double)job.x[r * s->cols + c];
        y[c] = (float)sum;
    }
    return NW_OK;
}

#define LONG_ROW   128 /* columns that the kernel sums well */
#define MOST_PARTS 32
#define PART       8192 /* elements of a part at least */

/* Marks of the axes that a ReduceSum with known axes sums over. */
static nw_status summed_axes(nw_planner *p, const nw_node *node, bool *axes, bool *ok) {
    nw_op_call call;
    nw_axes list;
    const int input = nw_node_in(node, 1);
    *ok = false;
    if (!nw_node_is(node, "ReduceSum") || (input >= 0 && !nw_graph_constant(p->graph, input))) return NW_OK;
    const int rank = p->desc[node->in[0]].rank;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_call_axes(&call, 1, rank, &list));
    for (int d = 0; d < rank; d++) axes[d] = false;
    for (int i = 0; i < list.count; i++) axes[list.at[i]] = true;
    *ok = list.count > 0;
    return NW_OK;
}

/* The columns are the channels, of a channels-last x, or the axes behind the last one that is summed over. */
static nw_status lower_columns(nw_planner *p, const nw_node *node, bool *ok) {
    bool axes[NW_MAX_RANK], known;
    const nw_tensor *x = &p->desc[node->in[0]];
    columns_state s = {0};
    NW_TRY(summed_axes(p, node, axes, &known));
    if (!known || x->format != NW_F32 || x->rank < 2 || nw_tensor_count(x) == 0) return NW_OK;
    int leading = 0, count = 0;
    while (leading < x->rank && axes[leading]) leading++;
    for (int d = 0; d < x->rank; d++) count += axes[d];
    const bool last = count == x->rank - 1 && !axes[1];
    if (!last && (leading != count || leading == x->rank)) return NW_OK;
    *ok = true;
    s.cols = last ? (size_t)x->dims[1] : nw_dims_product(x->dims, leading, x->rank);
    s.rows = nw_tensor_count(x) / s.cols;
    s.fold = s.cols < LONG_ROW ? LONG_ROW / s.cols : 1;
    if (s.fold > s.rows) s.fold = s.rows;
    const size_t rows = s.rows / s.fold;
    size_t parts = s.rows * s.cols / PART;
    parts = parts < 1 ? 1 : parts > MOST_PARTS ? MOST_PARTS : parts;
    if (parts > rows) parts = rows;
    s.part_rows = (rows + parts - 1) / parts;
    s.parts = (rows + s.part_rows - 1) / s.part_rows;
    nw_stats stats;
    nw_stats_select(p->options->isa, &stats);
    s.sums = stats.column_sums_f32;
    int in[1], out[2];
    NW_TRY(nw_plan_need(p, node->in[0], nw_form_of(false, last), &in[0]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL, &out[0]));
    NW_TRY(nw_plan_temporary(p, s.parts * s.fold * s.cols * sizeof(double), &out[1]));
    return NW_PLAN_STEP(p, node, run_columns, "sums of columns", &s, in, out);
}

/* ---- one pixel for all --------------------------------------------------------------------------------------------- */

typedef struct repeat_state {
    size_t batch, pixels, row; /* row: bytes of a pixel */
} repeat_state;

typedef struct repeat_job {
    const repeat_state *s;
    const char *x;
    char *y;
} repeat_job;

static void repeat_range(void *user, size_t begin, size_t end) {
    const repeat_job *j = user;
    const repeat_state *s = j->s;
    for (size_t i = begin * s->pixels; i < end * s->pixels; i++)
        memcpy(j->y + i * s->row, j->x + i / s->pixels * s->row, s->row);
}

static nw_status run_repeat(nw_exec *e, const nw_step *step) {
    const repeat_state *s = step->state;
    repeat_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->batch, 1, (double)(s->batch * s->pixels * s->row) / 16, repeat_range, &job);
    return NW_OK;
}

/* Expand of [N,C,1,…] to [N,C,H,…]: the gradient of a global average. */
static nw_status lower_repeat(nw_planner *p, const nw_node *node, bool *ok) {
    const nw_tensor *x = &p->desc[node->in[0]], *y = &p->desc[node->out[0]];
    if (x->format != NW_F32 || x->rank < 3 || x->rank != y->rank || x->dims[0] != y->dims[0] ||
        x->dims[1] != y->dims[1] || nw_dims_product(x->dims, 2, x->rank) != 1 || nw_tensor_count(y) == 0)
        return NW_OK;
    *ok = true;
    repeat_state s = {(size_t)x->dims[0], nw_dims_product(y->dims, 2, y->rank),
                      (size_t)x->dims[1] * sizeof(float)};
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, node->in[0], NW_FORM_REAL_LAST, &in[0]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL_LAST, &out[0]));
    return NW_PLAN_STEP(p, node, run_repeat, "pixel by pixel", &s, in, out);
}

nw_status nw_lower_grad(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->in_count < 1 || node->in[0] < 0 || node->out_count < 1 || node->out[0] < 0) return NW_OK;
    if (node->op == &nw_op_narrow_UnaryGrad) return lower_slope(p, node, ok);
    if (node->op == &nw_op_narrow_MaxPoolGrad) return lower_pool(p, node, true, ok);
    if (node->op == &nw_op_narrow_AveragePoolGrad) return lower_pool(p, node, false, ok);
    if (nw_node_is(node, "Expand")) return lower_repeat(p, node, ok);
    return lower_columns(p, node, ok);
}
