/* lower_conv_transpose.c: ConvTranspose of one or two dimensions, channels-last, on f32: also the gradient of a
 * convolution's input.
 *
 * With stride s, output positions o fall into s phases by (o + pad) mod s. Those of a phase read the taps t with
 * t·dilation ≡ (o + pad) mod s at i = (o + pad − t·dilation)/s: a convolution of stride 1 whose taps go backwards.
 * Each pair of phases, of lines and of columns, has weights of its own and makes every s-th pixel of every s-th
 * line. */
#include "run/conv.h"
#include "run/pack.h"

#include <math.h>
#include <string.h>

/* One axis of a phase: outputs first + stride·q, q in [0, count); taps from the last to the first, `step` apart;
 * tap j reads position q + shift + j·dilation. */
typedef struct phase_axis {
    int64_t first, count, taps, last_tap, step, shift, dilation;
} phase_axis;

typedef struct phase {
    nw_window window;
    size_t shift_x;  /* bytes to where the window's image begins */
    size_t first_y;  /* bytes to the phase's first pixel */
    size_t taps, at; /* at: bytes to its packed weights */
    nw_weight_order order;
} phase;

typedef struct transpose_state {
    const nw_gemm_f32_kernel *f32; /* one of the two is used */
    const nw_dwconv_kernel *depthwise;
    const phase *phases;
    size_t phase_count, batch, groups, k, n; /* k, n: input and output channels of a group */
    size_t pixel_y, step_y, line_y, image_y; /* bytes: step_y, line_y: between outputs of one phase */
    bool whole;                              /* the one phase's rows follow one another through all images */
    const float *pad;
    const void *packed; /* NULL: in every run */
    const float *bias;
    float lo, hi;
    double work; /* nanoseconds, of all phases */
} transpose_state;

typedef struct transpose_job {
    const transpose_state *s;
    const phase *phase;
    const char *x, *packed;
    char *y;
    const float *bias;
} transpose_job;

/* Rows [m0, m1) of a phase into `c`, where row 0 would be. */
static void depthwise_rows(const transpose_job *j, size_t m0, size_t m1, char *c) {
    const transpose_state *s = j->s;
    const nw_dwconv_f32_args args = {
        .channels = s->groups,
        .taps = j->phase->taps,
        .rows = {.base = j->x + j->phase->shift_x, .window = &j->phase->window, .pad = s->pad},
        .packed = j->packed + j->phase->at,
        .c = (float *)c,
        .ldc = s->step_y,
        .bias = j->bias,
        .lo = s->lo,
        .hi = s->hi};
    nw_dwconv_f32_run(s->depthwise, &args, m0, m1);
}

static void product_rows(const transpose_job *j, size_t m0, size_t m1, size_t n0, size_t n1, char *c) {
    const transpose_state *s = j->s;
    for (size_t g = 0; g < s->groups; g++) {
        const nw_gemm_f32_args args = {.n = s->n,
                                       .k = s->k,
                                       .taps = j->phase->taps,
                                       .rows = {.base = j->x + j->phase->shift_x + g * s->k * sizeof(float),
                                                .window = &j->phase->window,
                                                .pad = s->pad},
                                       .packed = j->packed + j->phase->at + g * j->phase->order.group_bytes,
                                       .c = (float *)c + g * s->n,
                                       .ldc = s->step_y,
                                       .bias = j->bias ? j->bias + g * s->n : NULL,
                                       .lo = s->lo,
                                       .hi = s->hi};
        nw_gemm_f32_run(s->f32, &args, m0, m1, n0, n1);
    }
}

static void whole_part(void *user, size_t m0, size_t m1, size_t n0, size_t n1) {
    const transpose_job *j = user;
    product_rows(j, m0, m1, n0, n1, j->y + j->phase->first_y);
}

static void whole_range(void *user, size_t begin, size_t end) {
    const transpose_job *j = user;
    depthwise_rows(j, begin, end, j->y + j->phase->first_y);
}

/* Lines [begin, end) of a phase, those of all images counted through. */
static void lines_range(void *user, size_t begin, size_t end) {
    const transpose_job *j = user;
    const transpose_state *s = j->s;
    const size_t lines = j->phase->window.out_h, width = j->phase->window.out_w;
    for (size_t l = begin; l < end; l++) {
        char *line = j->y + j->phase->first_y + l / lines * s->image_y + l % lines * s->line_y;
        /* Where row 0 would be, were the rows before this line as far apart as those in it. */
        char *c = (char *)((uintptr_t)line - l * width * s->step_y);
        if (s->depthwise)
            depthwise_rows(j, l * width, (l + 1) * width, c);
        else
            product_rows(j, l * width, (l + 1) * width, 0, s->n, c);
    }
}

/* Pixels that no tap reaches are the bias. */
static void fill_range(void *user, size_t begin, size_t end) {
    const transpose_job *j = user;
    const transpose_state *s = j->s;
    const size_t lines = j->phase->window.out_h, all = s->groups * s->n;
    const float *pixel = NULL; /* the first one, which the others are copies of */
    for (size_t l = begin; l < end; l++) {
        char *line = j->y + j->phase->first_y + l / lines * s->image_y + l % lines * s->line_y;
        for (size_t i = 0; i < j->phase->window.out_w; i++, line += s->step_y) {
            float *y = (float *)(void *)line;
            if (pixel)
                memcpy(y, pixel, s->pixel_y);
            else
                for (size_t c = 0; c < all; c++) y[c] = fminf(fmaxf(j->bias ? j->bias[c] : 0, s->lo), s->hi);
            pixel = y;
        }
    }
}

static void pack_phases(const nw_exec *e, const transpose_state *s, const float *w, char *packed) {
    for (size_t i = 0; i < s->phase_count; i++) {
        const phase *ph = &s->phases[i];
        if (ph->taps == 0) continue;
        if (s->depthwise)
            nw_dwconv_f32_pack(s->groups, ph->taps, w, ph->order.stride_group, ph->order.tap_at,
                               packed + ph->at);
        else
            nw_weight_order_pack(e, &ph->order, w, packed + ph->at);
    }
}

static void run_phase(nw_exec *e, const transpose_job *job) {
    const transpose_state *s = job->s;
    const nw_window *w = &job->phase->window;
    const size_t lines = s->batch * w->out_h, rows = lines * w->out_w;
    const double work = s->work / (double)s->phase_count;
    if (job->phase->taps == 0)
        nw_exec_parallel(e, lines, 1, (double)(rows * s->groups * s->n), fill_range, (void *)job);
    else if (!s->whole)
        nw_exec_parallel(e, lines, 1, work, lines_range, (void *)job);
    else if (s->depthwise)
        nw_exec_parallel(e, rows, 4 * w->out_w, work, whole_range, (void *)job);
    else
        nw_exec_product(e, &(nw_product_split){rows, s->f32->mr, s->n, s->f32->nr, work}, whole_part,
                        (void *)job);
}

static nw_status run_transpose(nw_exec *e, const nw_step *step) {
    const transpose_state *s = step->state;
    transpose_job job = {.s = s,
                         .x = nw_exec_data(e, step->in[0]),
                         .y = nw_exec_data(e, step->out[0]),
                         .packed = s->packed,
                         .bias = step->in[2] >= 0 ? nw_exec_data(e, step->in[2]) : s->bias};
    if (!s->packed) {
        char *packed = nw_exec_data(e, step->out[1]);
        pack_phases(e, s, nw_exec_data(e, step->in[1]), packed);
        job.packed = packed;
    }
    for (size_t i = 0; i < s->phase_count; i++) {
        job.phase = &s->phases[i];
        run_phase(e, &job);
    }
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

#define MOST_PHASES 64

static int64_t divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Outputs o with (o + pad) mod stride = r. */
static phase_axis axis_of(const nw_conv_geometry *g, int a, int64_t r) {
    const int64_t s = g->stride[a], d = g->dilation[a], pad = g->pad_begin[a];
    phase_axis ax = {.first = ((r - pad) % s + s) % s, .step = s / divisor(s, d)};
    if (g->out[a] > ax.first) ax.count = (g->out[a] - ax.first - 1) / s + 1;
    ax.dilation = ax.step * d / s;
    int64_t t = 0;
    while (t < ax.step && t * d % s != r) t++; /* t·d mod s repeats after `step` taps */
    if (t == ax.step || t >= g->kernel[a]) return ax;
    ax.taps = (g->kernel[a] - 1 - t) / ax.step + 1;
    ax.last_tap = t + (ax.taps - 1) * ax.step;
    ax.shift = (ax.first + pad - ax.last_tap * d) / s;
    return ax;
}

/* Moves a window's image by `shift` positions, or pads it where it begins later. */
static size_t place_axis(int64_t shift, int64_t size, size_t *in, size_t *pad) {
    const size_t skip = shift > 0 ? (size_t)(shift < size ? shift : size) : 0;
    *pad = shift < 0 ? (size_t)-shift : 0;
    *in = (size_t)size - skip;
    return skip;
}

static nw_status make_phase(nw_planner *p, const nw_conv_geometry *g, const transpose_state *s,
                            const phase_axis *h, const phase_axis *w, phase *ph) {
    const size_t area = (size_t)(g->kernel[1] * g->kernel[2]), pixel = s->groups * s->k * sizeof(float);
    nw_window *win = &ph->window;
    *win = (nw_window){.out_h = (size_t)h->count,
                       .out_w = (size_t)w->count,
                       .kernel_h = (size_t)h->taps,
                       .kernel_w = (size_t)w->taps,
                       .stride_h = 1,
                       .stride_w = 1,
                       .dilation_h = (size_t)h->dilation,
                       .dilation_w = (size_t)w->dilation,
                       .pixel_stride = pixel,
                       .line_stride = pixel * (size_t)g->in[2],
                       .image_stride = pixel * (size_t)(g->in[1] * g->in[2])};
    ph->shift_x = place_axis(h->shift, g->in[1], &win->in_h, &win->pad_top) * win->line_stride;
    ph->shift_x += place_axis(w->shift, g->in[2], &win->in_w, &win->pad_left) * pixel;
    ph->first_y = ((size_t)h->first * (size_t)g->out[2] + (size_t)w->first) * s->pixel_y;
    ph->taps = (size_t)(h->taps * w->taps);
    ph->order = (nw_weight_order){.kernel = s->f32,
                                  .groups = s->groups,
                                  .n = s->n,
                                  .k = s->k,
                                  .taps = ph->taps,
                                  .stride_group = s->k * s->n * area,
                                  .stride_n = area,
                                  .stride_k = s->n * area};
    size_t *tap_at = nw_arena_array(&p->plan->arena, ph->taps + 1, sizeof *tap_at);
    if (!tap_at) return NW_E_MEMORY;
    ph->order.tap_at = tap_at;
    for (int64_t y = 0; y < h->taps; y++)
        for (int64_t x = 0; x < w->taps; x++)
            *tap_at++ = (size_t)((h->last_tap - y * h->step) * g->kernel[2] + w->last_tap - x * w->step);
    return NW_OK;
}

/* All phases that have pixels, and the bytes of their packed weights. */
static nw_status make_phases(nw_planner *p, const nw_node *node, const nw_conv_geometry *g,
                             transpose_state *s, size_t *bytes) {
    phase *phases = nw_arena_array(&p->plan->arena, (size_t)(g->stride[1] * g->stride[2]), sizeof *phases);
    if (!phases) return NW_E_MEMORY;
    *bytes = 0;
    for (int64_t i = 0; i < g->stride[1] * g->stride[2]; i++) {
        const phase_axis h = axis_of(g, 1, i / g->stride[2]), w = axis_of(g, 2, i % g->stride[2]);
        phase *ph = &phases[s->phase_count];
        if (h.count == 0 || w.count == 0) continue;
        NW_TRY(make_phase(p, g, s, &h, &w, ph));
        ph->at = *bytes;
        size_t packed = 0;
        if (s->depthwise)
            packed = nw_dwconv_f32_packed_bytes(s->groups, ph->taps);
        else if (ph->taps > 0)
            NW_TRY(nw_weight_order_bytes(p, node, &ph->order, &packed));
        *bytes += nw_align_size(packed);
        s->phase_count++;
    }
    s->phases = phases;
    return NW_OK;
}

static nw_status examine(nw_planner *p, const nw_node *node, nw_conv_geometry *g, bool *ok) {
    *ok = false;
    if (!nw_node_is(node, "ConvTranspose")) return NW_OK;
    const nw_tensor *x = &p->desc[node->in[0]], *w = &p->desc[node->in[1]];
    const int bias = nw_node_in(node, 2);
    if (x->format != NW_F32 || x->rank < 3 || (w->format != NW_F32 && !w->qparam)) return NW_OK;
    if (bias >= 0 && p->desc[bias].format != NW_F32 && !p->desc[bias].qparam) return NW_OK;
    nw_op_call call;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_conv_transpose_geometry_of(&call, x, w, g));
    *ok = nw_conv_is_planar(g) && nw_tensor_count(x) > 0 && nw_tensor_count(&p->desc[node->out[0]]) > 0 &&
          g->stride[1] * g->stride[2] <= MOST_PHASES && g->kernel[1] * g->kernel[2] <= NW_DWCONV_MAX_TAPS;
    return NW_OK;
}

/* Constant weights are packed now. */
static nw_status pack_constant(nw_planner *p, int w, transpose_state *s, size_t bytes) {
    const nw_constant *c = nw_graph_constant(p->graph, w);
    nw_tensor real;
    void *packed;
    if (!c) return NW_OK;
    NW_TRY(nw_tensor_to_f32(&p->scratch, &c->tensor, &real));
    NW_TRY(nw_plan_constant(p, bytes ? bytes : 1, &packed));
    pack_phases(NULL, s, real.data, packed);
    nw_plan_packed(p, w);
    s->packed = packed;
    return NW_OK;
}

nw_status nw_lower_conv_transpose(nw_planner *p, nw_node *node, bool *ok) {
    nw_conv_geometry g;
    NW_TRY(examine(p, node, &g, ok));
    if (!*ok) return NW_OK;
    const int bias = nw_node_in(node, 2);
    size_t bytes, all = (size_t)g.in_channels, count;
    void *pad;
    transpose_state s = {.batch = (size_t)g.batch,
                         .groups = (size_t)g.groups,
                         .k = (size_t)(g.in_channels / g.groups),
                         .n = (size_t)(g.out_channels / g.groups),
                         .pixel_y = (size_t)g.out_channels * sizeof(float)};
    if (s.groups > 1 && s.k == 1 && s.n == 1)
        s.depthwise = nw_dwconv_select(p->options->isa);
    else
        s.f32 = nw_gemm_f32_select(p->options->isa);
    s.whole = g.stride[1] == 1 && g.stride[2] == 1;
    s.step_y = (size_t)g.stride[2] * s.pixel_y;
    s.line_y = (size_t)(g.stride[1] * g.out[2]) * s.pixel_y;
    s.image_y = (size_t)(g.out[1] * g.out[2]) * s.pixel_y;
    const double products =
        (double)(s.batch * s.groups * s.k * s.n) * (double)(g.in[1] * g.in[2] * g.kernel[1] * g.kernel[2]);
    s.work = products / (s.depthwise ? 20 : 50);
    NW_TRY(make_phases(p, node, &g, &s, &bytes));
    NW_TRY(pack_constant(p, node->in[1], &s, bytes));
    NW_TRY(nw_plan_real_constant(p, bias, &s.bias, &count));
    NW_TRY(nw_plan_constant(p, (all + 4) * sizeof(float), &pad));
    memset(pad, 0, (all + 4) * sizeof(float));
    s.pad = pad;
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, node->out[0], false, &follow));
    s.lo = follow.lo;
    s.hi = follow.hi;
    int in[3] = {-1, -1, -1}, out[2] = {-1, -1};
    NW_TRY(nw_plan_need(p, node->in[0], NW_FORM_REAL_LAST, &in[0]));
    if (!s.packed) NW_TRY(nw_plan_need(p, node->in[1], NW_FORM_REAL, &in[1]));
    if (bias >= 0 && !s.bias) NW_TRY(nw_plan_need(p, bias, NW_FORM_REAL, &in[2]));
    nw_plan_fuse(p, &follow);
    NW_TRY(nw_plan_define(p, follow.value, NW_FORM_REAL_LAST, &out[0]));
    if (!s.packed) NW_TRY(nw_plan_temporary(p, bytes ? bytes : 1, &out[1]));
    NW_TRY(NW_PLAN_STEP(p, node, run_transpose, s.depthwise ? "dwconv_f32" : s.f32->name, &s, in, out));
    nw_plan_work(p, false, products);
    return NW_OK;
}
