/* lower_norm.c: BatchNormalization in training mode and its gradient, channels-last, on f32. A Relu behind it, or the
 * addition of a residual and then a Relu, is part of the same pass; so is the Relu's gradient before that of the
 * normalization. Sums over the batch are cut into parts that depend on the shape only and are added in order: the
 * same bits come out on any number of threads. */
#include "run/plan.h"

#include "kern/channels.h"

#include <math.h>
#include <string.h>

typedef struct norm_state {
    nw_channels kernels;
    size_t rows, cols;
    size_t parts, part_rows;
    double epsilon, momentum;
    float lo, hi; /* forward: the clamp behind */
    bool gated;   /* gradient: a Relu's gradient comes first */
    double work;  /* nanoseconds of one pass */
} norm_state;

/* What the forward pass leaves for the gradient: of the batch, per channel. */
typedef struct statistics {
    double *mean, *variance;
    float *center, *factor, *shift; /* mean; y = x·factor + shift */
} statistics;

static size_t statistics_bytes(size_t cols) {
    return cols * (2 * sizeof(double) + 3 * sizeof(float));
}

static statistics statistics_at(void *bytes, size_t cols) {
    statistics s = {.mean = bytes};
    s.variance = s.mean + cols;
    s.center = (float *)(s.variance + cols);
    s.factor = s.center + cols;
    s.shift = s.factor + cols;
    return s;
}

/* Memory of a pass over the parts: two sums per part and channel; of the gradient, three factors per channel. */
static size_t sums_bytes(const norm_state *s) {
    return (s->parts * 2 * sizeof(double) + 3 * sizeof(float)) * s->cols;
}

typedef struct norm_job {
    const norm_state *s;
    const float *x, *dy, *residual;
    float *y;     /* or dx */
    double *sums; /* [parts][2][cols] */
    statistics st;
    const nw_channel_affine *affine; /* forward; of the gradient's gate, or NULL */
    nw_channel_grad grad;
} norm_job;

static size_t rows_of_part(const norm_state *s, size_t part) {
    const size_t left = s->rows - part * s->part_rows;
    return left < s->part_rows ? left : s->part_rows;
}

static void moments_range(void *user, size_t begin, size_t end) {
    const norm_job *j = user;
    const norm_state *s = j->s;
    for (size_t p = begin; p < end; p++) {
        double *sum = j->sums + p * 2 * s->cols;
        const float *x = j->x + p * s->part_rows * s->cols; /* its first row is the pivot */
        memset(sum, 0, 2 * s->cols * sizeof *sum);
        s->kernels.channel_moments_f32(rows_of_part(s, p), s->cols, x, x, sum, sum + s->cols);
    }
}

static void affine_range(void *user, size_t begin, size_t end) {
    const norm_job *j = user;
    const norm_state *s = j->s;
    const size_t at = begin * s->part_rows * s->cols;
    const size_t rows = (end - 1 - begin) * s->part_rows + rows_of_part(s, end - 1);
    s->kernels.channel_affine_f32(rows, s->cols, j->x + at, j->affine, j->residual ? j->residual + at : NULL,
                                  j->y + at);
}

static void products_range(void *user, size_t begin, size_t end) {
    const norm_job *j = user;
    const norm_state *s = j->s;
    for (size_t p = begin; p < end; p++) {
        double *sum = j->sums + p * 2 * s->cols;
        const size_t at = p * s->part_rows * s->cols;
        memset(sum, 0, 2 * s->cols * sizeof *sum);
        s->kernels.channel_products_f32(rows_of_part(s, p), s->cols, j->x + at, j->dy + at, j->st.center,
                                        j->affine, sum, sum + s->cols);
    }
}

static void grad_range(void *user, size_t begin, size_t end) {
    const norm_job *j = user;
    const norm_state *s = j->s;
    const size_t at = begin * s->part_rows * s->cols;
    const size_t rows = (end - 1 - begin) * s->part_rows + rows_of_part(s, end - 1);
    s->kernels.channel_grad_f32(rows, s->cols, j->x + at, j->dy + at, &j->grad, j->affine, j->y + at);
}

/* Mean and variance of all rows from those of the parts (Chan, Golub, LeVeque 1979). */
static void combine(const norm_job *j) {
    const norm_state *s = j->s;
    for (size_t c = 0; c < s->cols; c++) {
        double n = 0, mean = 0, squares = 0;
        for (size_t p = 0; p < s->parts; p++) {
            const double *sum = j->sums + p * 2 * s->cols + c, rows = (double)rows_of_part(s, p);
            const double shift = sum[0] / rows, all = n + rows;
            const double apart = (double)j->x[p * s->part_rows * s->cols + c] + shift - mean;
            squares += sum[s->cols] - sum[0] * shift + apart * apart * n * rows / all;
            mean += apart * rows / all;
            n = all;
        }
        j->st.mean[c] = mean;
        j->st.variance[c] = squares > 0 ? squares / n : squares < 0 ? 0 : squares; /* NaN stays */
    }
}

static void update_running(const norm_state *s, const float *before, const double *now, float *after) {
    for (size_t c = 0; c < s->cols && after; c++)
        after[c] = (float)((double)before[c] * s->momentum + now[c] * (1 - s->momentum));
}

/* in: x, scale, bias, mean, variance, residual; out: y, mean, variance, statistics, sums */
static nw_status run_norm(nw_exec *e, const nw_step *step) {
    const norm_state *s = step->state;
    const float *scale = nw_exec_data(e, step->in[1]), *bias = nw_exec_data(e, step->in[2]);
    norm_job job = {.s = s,
                    .x = nw_exec_data(e, step->in[0]),
                    .residual = nw_exec_data(e, step->in[5]),
                    .y = nw_exec_data(e, step->out[0]),
                    .sums = nw_exec_data(e, step->out[4]),
                    .st = statistics_at(nw_exec_data(e, step->out[3]), s->cols)};
    nw_exec_parallel(e, s->parts, 1, s->work, moments_range, &job);
    combine(&job);
    for (size_t c = 0; c < s->cols; c++) {
        const double factor = (double)scale[c] / sqrt(job.st.variance[c] + s->epsilon);
        job.st.center[c] = (float)job.st.mean[c];
        job.st.factor[c] = (float)factor;
        job.st.shift[c] = (float)((double)bias[c] - job.st.mean[c] * factor);
    }
    update_running(s, nw_exec_data(e, step->in[3]), job.st.mean, nw_exec_data(e, step->out[1]));
    update_running(s, nw_exec_data(e, step->in[4]), job.st.variance, nw_exec_data(e, step->out[2]));
    const nw_channel_affine affine = {job.st.factor, job.st.shift, s->lo, s->hi};
    job.affine = &affine;
    nw_exec_parallel(e, s->parts, 1, s->work, affine_range, &job);
    return NW_OK;
}

/* dx = scale·inv·(g − Σg/n − (x − mean)·inv²·Σ g·(x − mean)/n), inv = 1/√(variance + ε)
 * in: x, dy, scale, statistics; out: dx, dscale, dbias, sums */
static nw_status run_norm_grad(nw_exec *e, const nw_step *step) {
    const norm_state *s = step->state;
    const float *scale = nw_exec_data(e, step->in[2]);
    float *dscale = nw_exec_data(e, step->out[1]), *dbias = nw_exec_data(e, step->out[2]);
    norm_job job = {.s = s,
                    .x = nw_exec_data(e, step->in[0]),
                    .dy = nw_exec_data(e, step->in[1]),
                    .y = nw_exec_data(e, step->out[0]),
                    .sums = nw_exec_data(e, step->out[3]),
                    .st = statistics_at(nw_exec_data(e, step->in[3]), s->cols)};
    const nw_channel_affine gate = {job.st.factor, job.st.shift, 0, INFINITY};
    float *factor = (float *)(job.sums + s->parts * 2 * s->cols), *slope = factor + s->cols,
          *shift = slope + s->cols;
    if (s->gated) job.affine = &gate;
    nw_exec_parallel(e, s->parts, 1, s->work, products_range, &job);
    for (size_t c = 0; c < s->cols; c++) {
        const double inv = 1 / sqrt(job.st.variance[c] + s->epsilon), n = (double)s->rows;
        double sum = 0, products = 0;
        for (size_t p = 0; p < s->parts; p++) {
            sum += job.sums[p * 2 * s->cols + c];
            products += job.sums[(p * 2 + 1) * s->cols + c];
        }
        factor[c] = (float)((double)scale[c] * inv);
        slope[c] = (float)(-(double)scale[c] * inv * inv * inv * products / n);
        shift[c] = (float)(-(double)scale[c] * inv * sum / n);
        if (dscale) dscale[c] = (float)(products * inv);
        if (dbias) dbias[c] = (float)sum;
    }
    job.grad = (nw_channel_grad){job.st.center, factor, slope, shift};
    if (job.y) nw_exec_parallel(e, s->parts, 1, s->work, grad_range, &job);
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

#define MOST_PARTS 64
#define PART       16384 /* elements of a part at least: fewer are not worth their sums */

/* x [N, C, …] as rows of channels; false where it is not f32 or has no elements. */
static bool set_rows(const nw_planner *p, const nw_node *node, norm_state *s) {
    const nw_tensor *x = &p->desc[node->in[0]];
    const size_t count = nw_tensor_count(x);
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0 && p->desc[node->in[i]].format != NW_F32) return false;
    if (x->rank < 2 || count == 0) return false;
    nw_channels_select(p->options->isa, &s->kernels);
    s->cols = (size_t)x->dims[1];
    s->rows = count / s->cols;
    size_t parts = count / PART;
    parts = parts < 1 ? 1 : parts > MOST_PARTS ? MOST_PARTS : parts;
    if (parts > s->rows) parts = s->rows;
    s->part_rows = (s->rows + parts - 1) / parts;
    s->parts = (s->rows + s->part_rows - 1) / s->part_rows;
    s->epsilon = (double)nw_node_float(node, "epsilon", 1e-5f);
    s->momentum = (double)nw_node_float(node, "momentum", 0.9f);
    s->work = (double)count / 4;
    return s->epsilon >= 0;
}

/* The Add that is the only reader of the result, if its other operand is there already, channels-last. */
static int residual_of(const nw_planner *p, const nw_node *node, nw_node **add) {
    const int y = node->out[0];
    nw_node *next = nw_plan_only_reader(p, y);
    *add = NULL;
    if (!next || !nw_node_is(next, "Add")) return NW_ABSENT;
    const int other = next->in[next->in[0] == y];
    if (other == y || !nw_tensor_same_shape(&p->desc[other], &p->desc[y]) ||
        p->desc[other].format != NW_F32 || !nw_plan_has(p, other, NW_FORM_REAL_LAST))
        return NW_ABSENT;
    *add = next;
    return other;
}

static nw_status lower_forward(nw_planner *p, nw_node *node, bool *ok) {
    norm_state s = {0};
    const int x = node->in[0];
    if (!nw_node_int(node, "training_mode", 0) || node->in_count != 5 || !set_rows(p, node, &s)) return NW_OK;
    *ok = true;
    nw_node *add;
    nw_follow follow;
    int in[6], out[5] = {-1, -1, -1, -1, -1};
    const int residual = residual_of(p, node, &add);
    NW_TRY(nw_plan_follow(p, add ? add->out[0] : node->out[0], false, &follow));
    s.lo = follow.lo;
    s.hi = follow.hi;
    NW_TRY(nw_plan_need(p, x, NW_FORM_REAL_LAST, &in[0]));
    for (int i = 1; i < 5; i++) NW_TRY(nw_plan_need(p, node->in[i], NW_FORM_REAL, &in[i]));
    NW_TRY(nw_plan_need(p, residual, NW_FORM_REAL_LAST, &in[5]));
    if (add) p->done[add - p->graph->nodes] = 1;
    nw_plan_fuse(p, &follow);
    if (residual >= 0)
        NW_TRY(nw_plan_define_over(p, residual, in[5], follow.value, NW_FORM_REAL_LAST, &out[0]));
    else
        NW_TRY(nw_plan_define(p, follow.value, NW_FORM_REAL_LAST, &out[0]));
    for (int i = 1; i < 3; i++)
        if (nw_node_out(node, i) >= 0) NW_TRY(nw_plan_define(p, node->out[i], NW_FORM_REAL, &out[i]));
    NW_TRY(nw_plan_temporary(p, statistics_bytes(s.cols), &out[3]));
    NW_TRY(nw_plan_temporary(p, sums_bytes(&s), &out[4]));
    p->statistics[x] = out[3];
    if (!add && follow.lo == 0 && follow.hi == INFINITY) p->normal[follow.value] = x;
    return NW_PLAN_STEP(p, node, run_norm, add ? "batch and residual" : "batch", &s, in, out);
}

/* dy: of the normalization, or with a gate of the Relu behind it. */
static nw_status lower_gradient(nw_planner *p, const nw_node *node, int dy, bool gated, bool *ok) {
    norm_state s = {.gated = gated};
    const int x = node->in[0];
    if (node->in_count != 3 || p->statistics[x] < 0 || !set_rows(p, node, &s)) return NW_OK;
    *ok = true;
    int in[4], out[4] = {-1, -1, -1, -1};
    NW_TRY(nw_plan_need(p, x, NW_FORM_REAL_LAST, &in[0]));
    NW_TRY(nw_plan_need(p, dy, NW_FORM_REAL_LAST, &in[1]));
    NW_TRY(nw_plan_need(p, node->in[1], NW_FORM_REAL, &in[2]));
    in[3] = p->statistics[x];
    if (nw_node_out(node, 0) >= 0)
        NW_TRY(nw_plan_define_over(p, dy, in[1], node->out[0], NW_FORM_REAL_LAST, &out[0]));
    for (int i = 1; i < 3; i++)
        if (nw_node_out(node, i) >= 0) NW_TRY(nw_plan_define(p, node->out[i], NW_FORM_REAL, &out[i]));
    NW_TRY(nw_plan_temporary(p, sums_bytes(&s), &out[3]));
    return NW_PLAN_STEP(p, node, run_norm_grad, gated ? "batch, gated" : "batch", &s, in, out);
}

/* Relu's gradient where only the gradient of the normalization before that Relu reads it. */
static nw_status lower_gate(nw_planner *p, nw_node *node, bool *ok) {
    const int x = p->normal[node->in[0]];
    if (x < 0 || !nw_node_string_is(node, "function", "", "Relu")) return NW_OK;
    nw_node *next = nw_plan_only_reader(p, node->out[0]);
    if (!next || next->op != &nw_op_narrow_BatchNormalizationGrad || next->in[0] != x ||
        next->in[2] != node->out[0])
        return NW_OK;
    NW_TRY(lower_gradient(p, next, node->in[1], true, ok));
    if (*ok) p->done[next - p->graph->nodes] = 1;
    return NW_OK;
}

nw_status nw_lower_norm(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (nw_node_is(node, "BatchNormalization")) return lower_forward(p, node, ok);
    if (node->op == &nw_op_narrow_BatchNormalizationGrad)
        return lower_gradient(p, node, node->in[2], false, ok);
    if (node->op == &nw_op_narrow_UnaryGrad) return lower_gate(p, node, ok);
    return NW_OK;
}
