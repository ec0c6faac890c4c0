/* lower_outer.c: gradients of weights as sums of outer products (kern/outer.h): ai.narrow.ConvWeightGrad of one or two
 * dimensions, channels-last, and Gemm with a transposed left-hand side, on f32. The sum runs over all pixels or rows
 * of the batch: it is cut into parts whose size depends on the shape only and which are added in order, so that the
 * same bits come out on any number of threads. */
#include "run/conv.h"

#include "kern/channels.h"
#include "kern/outer.h"
#include "op/matmul.h"

#include <string.h>

typedef struct weight_state {
    nw_outer_kernel kernel;
    nw_channels channels; /* of depthwise convolutions */
    bool depthwise;
    bool windowed; /* rows of x under a window, else at a fixed distance */
    nw_window window;
    const float *pad;
    float alpha;                 /* a factor of the whole sum */
    nw_outer_args outer;         /* of a group; rows.base, y and c are filled in when running */
    size_t rows, groups;         /* rows: pixels of dy */
    size_t parts, part_rows;     /* of the rows … */
    size_t strips, strip;        /* … and of the columns: each strip's width */
    bool direct;                 /* one part makes the result as it is */
    size_t scratch, part_floats; /* bytes of scratch of a unit; floats of a part's result */
    double work;
} weight_state;

typedef struct weight_job {
    const weight_state *s;
    const char *x;
    const float *dy;
    float *sums, *dw; /* sums: [parts][groups·m][taps·channels] */
    char *scratch;
} weight_job;

static nw_rows rows_of(const weight_state *s, const char *x) {
    if (!s->windowed) return (nw_rows){.base = x, .stride = s->window.pixel_stride};
    return (nw_rows){.base = x, .window = &s->window, .pad = s->pad};
}

/* Units: part by part, strip by strip. A call's units share the scratch memory of its first one. */
static void outer_range(void *user, size_t begin, size_t end) {
    const weight_job *j = user;
    const weight_state *s = j->s;
    const size_t columns = s->outer.channels * s->outer.taps;
    for (size_t u = begin; u < end; u++) {
        const size_t part = u / s->strips, n0 = u % s->strips * s->strip, i0 = part * s->part_rows;
        const size_t n1 = n0 + s->strip < columns ? n0 + s->strip : columns;
        const size_t i1 = i0 + s->part_rows < s->rows ? i0 + s->part_rows : s->rows;
        for (size_t g = 0; g < s->groups; g++) {
            nw_outer_args args = s->outer;
            args.rows = rows_of(s, j->x + g * args.channels * sizeof(float));
            args.y = j->dy + g * args.m;
            args.c = j->sums + part * s->part_floats + g * args.m * columns;
            nw_outer_run(&s->kernel, &args, false, i0, i1, n0, n1, j->scratch + begin * s->scratch);
        }
    }
}

#define POINTERS 4096 /* of a depthwise block: 32 KiB of stack */

static void depthwise_range(void *user, size_t begin, size_t end) {
    const weight_job *j = user;
    const weight_state *s = j->s;
    const size_t taps = s->outer.taps, channels = s->groups;
    const size_t most = POINTERS / taps < 64 ? POINTERS / taps : 64;
    const nw_rows rows = rows_of(s, j->x);
    const void *at[POINTERS];
    for (size_t u = begin; u < end; u++) {
        float *sums = j->sums + u * s->part_floats; /* [taps][channels] */
        const size_t i1 = (u + 1) * s->part_rows < s->rows ? (u + 1) * s->part_rows : s->rows;
        memset(sums, 0, s->part_floats * sizeof *sums);
        for (size_t i = u * s->part_rows, count; i < i1; i += count) {
            count = i1 - i < most ? i1 - i : most;
            nw_rows_gather(&rows, taps, i, count, at, count);
            for (size_t t = 0; t < taps; t++)
                s->channels.channel_dots_f32(count, channels, at + t * count, j->dy + i * channels,
                                             sums + t * channels);
        }
    }
}

/* dw [m][channels][taps] = Σ over the parts, for outputs [begin, end) of all groups. */
static void reduce_range(void *user, size_t begin, size_t end) {
    const weight_job *j = user;
    const weight_state *s = j->s;
    const size_t taps = s->outer.taps, channels = s->outer.channels;
    const size_t row = s->depthwise ? 1 : taps * channels, tap = s->depthwise ? s->groups : channels;
    for (size_t m = begin; m < end; m++)
        for (size_t c = 0; c < channels; c++)
            for (size_t t = 0; t < taps; t++) {
                const float *from = j->sums + m * row + t * tap + c;
                float sum = 0;
                for (size_t p = 0; p < s->parts; p++) sum += from[p * s->part_floats];
                j->dw[(m * channels + c) * taps + t] = sum * s->alpha;
            }
}

static nw_status run_weight(nw_exec *e, const nw_step *step) {
    const weight_state *s = step->state;
    const size_t all = s->groups * s->outer.m;
    weight_job job = {.s = s,
                      .x = nw_exec_data(e, step->in[0]),
                      .dy = nw_exec_data(e, step->in[1]),
                      .dw = nw_exec_data(e, step->out[0]),
                      .sums = nw_exec_data(e, step->out[1]),
                      .scratch = nw_exec_data(e, step->out[2])};
    if (s->direct) job.sums = job.dw;
    nw_exec_parallel(e, s->parts * s->strips, 1, s->work, s->depthwise ? depthwise_range : outer_range, &job);
    if (!s->direct) nw_exec_parallel(e, all, 1, (double)(s->parts * s->part_floats) / 2, reduce_range, &job);
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

#define UNITS     16                /* enough for the threads there are */
#define PART_ROWS 256               /* at least */
#define SUMS      ((size_t)4 << 20) /* bytes of all parts' results, unless one is larger */

/* As many parts as pay, and strips of columns where the results of parts would be too large. */
static void cut(weight_state *s) {
    const size_t columns = s->outer.channels * s->outer.taps, bytes = s->part_floats * sizeof(float);
    size_t parts = s->rows / PART_ROWS, most = SUMS / bytes;
    if (parts > UNITS) parts = UNITS;
    if (parts > most) parts = most;
    if (parts < 1) parts = 1;
    s->part_rows = (s->rows + parts - 1) / parts;
    s->parts = (s->rows + s->part_rows - 1) / s->part_rows;
    s->strips = 1;
    s->strip = columns;
    if (s->depthwise || s->parts >= UNITS / 2) return;
    const size_t panels = (columns + s->kernel.product->nr - 1) / s->kernel.product->nr,
                 wanted = UNITS / s->parts;
    const size_t each = panels > wanted ? (panels + wanted - 1) / wanted : 1;
    s->strip = each * s->kernel.product->nr < columns ? each * s->kernel.product->nr : columns;
    s->strips = (columns + s->strip - 1) / s->strip;
}

/* Fills *s but for the kernels and the cut. */
static nw_status examine_conv(nw_planner *p, const nw_node *node, weight_state *s, bool *ok) {
    const nw_tensor *x = &p->desc[node->in[0]], *dy = &p->desc[node->in[1]], *dw = &p->desc[node->out[0]];
    nw_op_call call;
    nw_conv_geometry g;
    if (x->format != NW_F32 || dy->format != NW_F32 || dw->format != NW_F32) return NW_OK;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_conv_geometry_of(&call, x, dw, &g));
    *ok = nw_conv_is_planar(&g) && g.pad_begin[1] >= 0 && g.pad_begin[2] >= 0 && nw_tensor_count(x) > 0 &&
          nw_tensor_count(dy) > 0 && g.kernel[1] * g.kernel[2] <= NW_DWCONV_MAX_TAPS;
    if (!*ok) return NW_OK;
    const size_t pixel = (size_t)g.in_channels * sizeof(float);
    void *pad;
    NW_TRY(nw_plan_constant(p, pixel, &pad));
    memset(pad, 0, pixel);
    s->windowed = true;
    s->window = nw_plan_window(&g, pixel);
    s->pad = pad;
    s->rows = (size_t)(g.batch * g.out[1] * g.out[2]);
    s->groups = (size_t)g.groups;
    s->alpha = 1;
    s->outer = (nw_outer_args){.m = (size_t)(g.out_channels / g.groups),
                               .channels = (size_t)(g.in_channels / g.groups),
                               .taps = (size_t)(g.kernel[1] * g.kernel[2]),
                               .ldy = (size_t)g.out_channels * sizeof(float)};
    s->depthwise = s->groups > 1 && s->outer.m == 1 && s->outer.channels == 1;
    return NW_OK;
}

/* Aᵀ·B without C: the outer products of A's rows with B's. */
static nw_status examine_gemm(nw_planner *p, const nw_node *node, weight_state *s, bool *ok) {
    const nw_tensor *a = &p->desc[node->in[0]], *b = &p->desc[node->in[1]];
    nw_op_call call;
    nw_gemm_geometry g;
    if (a->format != NW_F32 || b->format != NW_F32 || nw_node_in(node, 2) >= 0) return NW_OK;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_gemm_geometry_of(&call, a, b, NULL, &g));
    *ok = g.product.trans_a && !g.product.trans_b && nw_tensor_count(a) > 0 && nw_tensor_count(b) > 0;
    s->rows = (size_t)g.product.k;
    s->groups = 1;
    s->alpha = g.alpha;
    s->window.pixel_stride = (size_t)g.product.n * sizeof(float);
    s->outer = (nw_outer_args){.m = (size_t)g.product.m,
                               .channels = (size_t)g.product.n,
                               .taps = 1,
                               .ldy = (size_t)g.product.m * sizeof(float)};
    return NW_OK;
}

nw_status nw_lower_outer(nw_planner *p, nw_node *node, bool *ok) {
    weight_state s = {.kernel = nw_outer_select(p->options->isa)};
    const bool conv = node->op == &nw_op_narrow_ConvWeightGrad;
    *ok = false;
    if (conv)
        NW_TRY(examine_conv(p, node, &s, ok));
    else if (nw_node_is(node, "Gemm"))
        NW_TRY(examine_gemm(p, node, &s, ok));
    if (!*ok) return NW_OK;
    nw_channels_select(p->options->isa, &s.channels);
    s.part_floats = s.groups * s.outer.m * s.outer.channels * s.outer.taps;
    s.outer.ldc = s.outer.channels * s.outer.taps * sizeof(float);
    cut(&s);
    s.outer.columns = s.strip;
    s.direct = s.parts == 1 && s.outer.taps == 1 && s.alpha == 1;
    size_t units = s.parts * s.strips, sums, scratch = 1;
    s.scratch = s.depthwise ? 1 : nw_align_size(nw_outer_scratch(&s.kernel, &s.outer));
    if (!nw_mul_size(s.part_floats * sizeof(float), s.parts, &sums) || s.scratch == 0 ||
        !nw_mul_size(s.scratch, units, &scratch))
        return nw_fail(p->ctx, NW_E_SHAPE, "the weights of \"%s\" are too large for this machine",
                       nw_node_label(p->graph, node));
    const double products = (double)s.rows * (double)s.part_floats;
    s.work = products / (s.depthwise ? 5 : 50);
    const nw_form form = nw_form_of(false, conv);
    int in[2], out[3];
    NW_TRY(nw_plan_need(p, node->in[!conv], form, &in[0])); /* x, and dy: B, and A */
    NW_TRY(nw_plan_need(p, node->in[conv], form, &in[1]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL, &out[0]));
    NW_TRY(nw_plan_temporary(p, sums, &out[1]));
    NW_TRY(nw_plan_temporary(p, scratch, &out[2]));
    NW_TRY(NW_PLAN_STEP(p, node, run_weight, s.depthwise ? "sums per channel" : s.kernel.product->name, &s,
                        in, out));
    nw_plan_work(p, false, products);
    return NW_OK;
}
