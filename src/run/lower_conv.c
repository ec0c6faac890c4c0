/* lower_conv.c: convolutions of one or two dimensions, channels-last, on f32 or on 8-bit codes: as matrix products over the
 * pixels under a window, depthwise ones by their own kernel. */
#include "run/coded.h"
#include "run/conv.h"
#include "run/pack.h"

#include <math.h>
#include <string.h>

typedef struct conv_state {
    const nw_gemm_f32_kernel *f32; /* exactly one of the three is used */
    const nw_gemm_u8s8_kernel *u8s8;
    const nw_dwconv_kernel *depthwise;
    bool integer;
    nw_gemm_f32_args f32_args; /* of group 0; rows.base and c are filled in when running */
    nw_gemm_u8s8_args u8s8_args;
    nw_dwconv_f32_args dw_f32_args;
    nw_dwconv_u8s8_args dw_u8s8_args;
    bool pointwise; /* rows at a fixed distance instead of a window */
    nw_window window;
    const void *pad;
    bool measured;             /* the image's scale and zero point are found while running */
    size_t x_offset, y_offset; /* bytes: of its channels in the buffers */
    size_t pad_bytes, m, groups, group_packed, group_x, group_y; /* bytes from a group to the next */
    /* Float weights and biases that are no constants are inputs 1 and 2 of the step, and packed in every run. */
    bool dynamic;
    nw_weight_order order; /* of float weights; of depthwise ones only the taps */
    const nw_coded *coded; /* weights that are decoded part by part in every run, or NULL */
    double work;           /* nanoseconds */
    /* Few input channels: the image is copied with its padding, so that a line of the kernel is one long tap. */
    bool padded;
    size_t batch, in_h, in_w, pixel, pad_top, pad_left, padded_h, padded_w;
    uint8_t pad_byte;
} conv_state;

typedef struct conv_job {
    const conv_state *s;
    const char *x;
    char *y;
    const void *packed; /* of float weights */
    const float *bias;
    const void *pad;
    nw_epilogue epilogue; /* of integers */
    nw_coded_part part;   /* whose weights `packed` are */
} conv_job;

static nw_rows rows_of(const conv_job *j, const char *x) {
    const conv_state *s = j->s;
    if (s->pointwise) return (nw_rows){.base = x, .stride = s->window.pixel_stride};
    return (nw_rows){.base = x, .window = &s->window, .pad = j->pad};
}

static void shift_epilogue(nw_epilogue *e, size_t n) {
    e->bias += n;
    e->scale += n;
    if (e->wzero) e->wzero += n;
    if (e->fbias) e->fbias += n;
}

static void depthwise_range(void *user, size_t begin, size_t end) {
    const conv_job *j = user;
    const conv_state *s = j->s;
    if (s->integer) {
        nw_dwconv_u8s8_args a = s->dw_u8s8_args;
        a.rows = rows_of(j, j->x);
        a.epilogue = j->epilogue;
        a.c = j->y;
        nw_dwconv_u8s8_run(s->depthwise, &a, begin, end);
    } else {
        nw_dwconv_f32_args a = s->dw_f32_args;
        a.rows = rows_of(j, j->x);
        a.packed = j->packed;
        a.bias = j->bias;
        a.c = (float *)j->y;
        nw_dwconv_f32_run(s->depthwise, &a, begin, end);
    }
}

/* Pixels [m0, m1) and, of each group of the part, output channels [n0, n1) of it. */
static void conv_part(void *user, size_t m0, size_t m1, size_t n0, size_t n1) {
    const conv_job *j = user;
    const conv_state *s = j->s;
    for (size_t g = j->part.g0; g < j->part.g1; g++) {
        const char *x = j->x + g * s->group_x;
        char *y = j->y + g * s->group_y;
        if (s->integer) {
            nw_gemm_u8s8_args a = s->u8s8_args;
            a.rows = rows_of(j, x);
            a.packed = (const char *)j->packed + (g - j->part.g0) * s->group_packed;
            a.c = y + j->part.n0 * nw_epilogue_size(a.epilogue.out);
            a.epilogue = j->epilogue;
            shift_epilogue(&a.epilogue, g * a.n + j->part.n0);
            nw_gemm_u8s8_run(s->u8s8, &a, m0, m1, n0, n1);
        } else {
            nw_gemm_f32_args a = s->f32_args;
            a.rows = rows_of(j, x);
            a.packed = (const char *)j->packed + (g - j->part.g0) * s->group_packed;
            a.c = (float *)y + j->part.n0;
            a.bias = j->bias ? j->bias + g * a.n + j->part.n0 : NULL;
            nw_gemm_f32_run(s->f32, &a, m0, m1, n0, n1);
        }
    }
}

static void copy_padded(const conv_state *s, const char *x, uint8_t pad, char *to) {
    size_t line = s->padded_w * s->pixel, inside = s->in_w * s->pixel, left = s->pad_left * s->pixel;
    memset(to, pad, s->batch * s->padded_h * line);
    for (size_t b = 0; b < s->batch; b++)
        for (size_t h = 0; h < s->in_h; h++)
            memcpy(to + (b * s->padded_h + s->pad_top + h) * line + left, x + (b * s->in_h + h) * inside,
                   inside);
}

/* The image's grid, and a pixel of padding on it. */
static void take_measured(const nw_exec *e, const nw_step *step, conv_job *j, uint8_t *pad_byte) {
    const conv_state *s = j->s;
    const size_t n = s->depthwise ? s->dw_u8s8_args.channels : s->groups * s->u8s8_args.n;
    char *room = nw_exec_data(e, step->out[2]), *pad = room + n * (sizeof(float) + sizeof(int32_t));
    j->epilogue.row_scale = nw_exec_data(e, step->in[1]);
    j->epilogue.row_zero = nw_exec_data(e, step->in[2]);
    *pad_byte = (uint8_t)j->epilogue.row_zero[0];
    nw_epilogue_take_grid(&j->epilogue, n, room);
    memset(pad, *pad_byte, s->pad_bytes);
    j->pad = pad;
}

/* All pixels times the weights of job->part. */
static void run_product(const nw_exec *e, conv_job *job) {
    const conv_state *s = job->s;
    const nw_coded_part *part = &job->part;
    const size_t n = part->n1 - part->n0, all = s->groups * (s->integer ? s->u8s8_args.n : s->f32_args.n);
    const nw_product_split split = {s->m, s->integer ? s->u8s8->mr : s->f32->mr, n,
                                    s->integer ? s->u8s8->nr : s->f32->nr,
                                    s->work * (double)((part->g1 - part->g0) * n) / (double)all};
    nw_exec_product(e, &split, conv_part, job);
}

static nw_status run_conv(nw_exec *e, const nw_step *step) {
    const conv_state *s = step->state;
    conv_job job = {.s = s,
                    .x = (const char *)nw_exec_data(e, step->in[0]) + s->x_offset,
                    .y = (char *)nw_exec_data(e, step->out[0]) + s->y_offset,
                    .pad = s->pad};
    job.packed = s->depthwise ? s->dw_f32_args.packed : s->integer ? s->u8s8_args.packed : s->f32_args.packed;
    job.bias = s->depthwise ? s->dw_f32_args.bias : s->f32_args.bias;
    uint8_t pad_byte = s->pad_byte;
    if (s->integer) job.epilogue = s->depthwise ? s->dw_u8s8_args.epilogue : s->u8s8_args.epilogue;
    if (s->measured) take_measured(e, step, &job, &pad_byte);
    if (s->padded) {
        copy_padded(s, job.x, pad_byte, nw_exec_data(e, step->out[1]));
        job.x = nw_exec_data(e, step->out[1]);
    }
    if (s->dynamic) {
        void *packed = nw_exec_data(e, step->out[3]);
        const float *w = nw_exec_data(e, step->in[1]);
        if (s->depthwise)
            nw_dwconv_f32_pack(s->dw_f32_args.channels, s->order.taps, w, s->order.taps, s->order.tap_at,
                               packed);
        else
            nw_weight_order_pack(e, &s->order, w, packed);
        job.packed = packed;
        if (step->in[2] >= 0) job.bias = nw_exec_data(e, step->in[2]);
    }
    if (s->depthwise) { /* its kernels share the work of up to four lines */
        nw_exec_parallel(e, s->m, 4 * s->window.out_w, s->work, depthwise_range, &job);
        return NW_OK;
    }
    if (s->coded) {
        void *decoded = nw_exec_data(e, step->out[3]);
        job.packed = decoded;
        while (nw_coded_next(s->coded, &job.part)) {
            nw_coded_decode(e, s->coded, &job.part, decoded);
            run_product(e, &job);
        }
    } else {
        job.part = (nw_coded_part){.g1 = s->groups, .n1 = s->integer ? s->u8s8_args.n : s->f32_args.n};
        run_product(e, &job);
    }
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

typedef struct conv {
    nw_conv_geometry g;
    size_t taps, k, n; /* per group: input channels k, output channels n */
    bool depthwise, integer, measured;
    nw_weights w;      /* integer */
    bool dynamic_bias; /* not in `bias` */
    const float *bias; /* [out_channels] or NULL */
    size_t size;       /* bytes of an input element */
} conv;

nw_window nw_plan_window(const nw_conv_geometry *g, size_t pixel) {
    return (nw_window){.in_h = (size_t)g->in[1],
                       .in_w = (size_t)g->in[2],
                       .out_h = (size_t)g->out[1],
                       .out_w = (size_t)g->out[2],
                       .kernel_h = (size_t)g->kernel[1],
                       .kernel_w = (size_t)g->kernel[2],
                       .stride_h = (size_t)g->stride[1],
                       .stride_w = (size_t)g->stride[2],
                       .dilation_h = (size_t)g->dilation[1],
                       .dilation_w = (size_t)g->dilation[2],
                       .pad_top = (size_t)g->pad_begin[1],
                       .pad_left = (size_t)g->pad_begin[2],
                       .pixel_stride = pixel,
                       .line_stride = pixel * (size_t)g->in[2],
                       .image_stride = pixel * (size_t)(g->in[1] * g->in[2])};
}

static void set_window(conv_state *s, const conv *c, size_t pixel) {
    s->window = nw_plan_window(&c->g, pixel);
    s->pointwise = nw_conv_is_pointwise(&c->g);
}

/* A kernel line becomes one tap when the input has so few channels that taps of their own would be mostly overhead. Padding
 * as large as the kernel or larger is nothing a real model has: it must not make the copy large. */
static bool wants_padded_copy(const conv *c) {
    const nw_conv_geometry *g = &c->g;
    if (g->groups != 1 || c->k >= 16 || g->kernel[2] == 1 || g->dilation[2] != 1) return false;
    for (int a = 1; a < 3; a++) {
        int64_t reach = (g->kernel[a] - 1) * g->dilation[a];
        if (g->pad_begin[a] > reach || g->pad_end[a] < 0 || g->pad_end[a] > reach + g->stride[a])
            return false;
        if (reach > g->in[a] * 4 + 64) return false;
    }
    return true;
}

static void set_padded(conv_state *s, conv *c) {
    const nw_conv_geometry *g = &c->g;
    s->padded = true;
    s->batch = (size_t)g->batch;
    s->in_h = (size_t)g->in[1];
    s->in_w = (size_t)g->in[2];
    s->pixel = c->k * c->size;
    s->pad_top = (size_t)g->pad_begin[1];
    s->pad_left = (size_t)g->pad_begin[2];
    /* Enough for the last window, wherever pad_end says the image ends. */
    s->padded_h = (size_t)((g->out[1] - 1) * g->stride[1] + (g->kernel[1] - 1) * g->dilation[1] + 1);
    s->padded_w = (size_t)((g->out[2] - 1) * g->stride[2] + g->kernel[2]);
    if (s->padded_h < s->pad_top + s->in_h) s->padded_h = s->pad_top + s->in_h;
    if (s->padded_w < s->pad_left + s->in_w) s->padded_w = s->pad_left + s->in_w;
    s->window.in_h = s->padded_h;
    s->window.in_w = s->padded_w;
    s->window.kernel_w = 1;
    s->window.pad_top = s->window.pad_left = 0;
    s->window.line_stride = s->pixel * s->padded_w;
    s->window.image_stride = s->window.line_stride * s->padded_h;
    c->taps = (size_t)g->kernel[1];
    c->k *= (size_t)g->kernel[2];
}

/* Codes [M][C][kh][kw] → [M][kh][kw][C], so that (kx, c) is one run. */
static nw_status lines_of(nw_planner *p, const nw_conv_geometry *g, const int8_t *w, const int8_t **out) {
    size_t m = (size_t)g->out_channels, ch = (size_t)g->in_channels,
           area = (size_t)(g->kernel[1] * g->kernel[2]);
    int8_t *to = nw_arena_data(&p->scratch, m * ch * area);
    if (!to) return NW_E_MEMORY;
    for (size_t n = 0; n < m; n++)
        for (size_t c = 0; c < ch; c++)
            for (size_t t = 0; t < area; t++) to[(n * area + t) * ch + c] = w[(n * ch + c) * area + t];
    *out = to;
    return NW_OK;
}

/* Codes of weights and their strides for packing, rearranged for padded copies. */
typedef struct packing {
    const int8_t *w;
    size_t stride_n, stride_tap, stride_k;
} packing;

static nw_status packing_of(nw_planner *p, const conv *c, const conv_state *s, packing *out) {
    size_t area = (size_t)(c->g.kernel[1] * c->g.kernel[2]), ch = (size_t)(c->g.in_channels / c->g.groups);
    *out = (packing){c->w.codes, ch * area, 1, area};
    if (!s->padded) return NW_OK;
    out->stride_tap = c->k;
    out->stride_k = 1;
    return lines_of(p, &c->g, c->w.codes, &out->w);
}

/* Packed weights of fewer than 8 bits are kept in as many. */
static nw_status narrow_codes(nw_planner *p, const conv *c, conv_state *s, const void *packed,
                              size_t *scratch) {
    nw_coded *coded = nw_arena_array(&p->plan->arena, 1, sizeof *coded);
    if (!coded) return NW_E_MEMORY;
    const size_t group = s->u8s8->group, depth = (c->k + group - 1) / group * group * c->taps;
    *coded = (nw_coded){.w = {.n = c->n},
                        .groups = s->groups,
                        .nr = s->u8s8->nr,
                        .panel_bytes = s->u8s8->nr * depth,
                        .group_bytes = s->group_packed,
                        .bits = c->w.bits,
                        .least = c->w.least};
    s->coded = coded;
    return nw_plan_narrowed(p, packed, coded, scratch);
}

/* *scratch: bytes for weights that are decoded in every run. */
static nw_status pack_integer(nw_planner *p, const nw_grid *x, conv *c, conv_state *s,
                              const nw_follow *follow, size_t ldc, size_t *scratch) {
    size_t all = c->w.channels;
    int32_t *sums = nw_arena_array(&p->plan->arena, all, sizeof *sums);
    if (!sums) return NW_E_MEMORY;
    nw_epilogue epilogue;
    void *packed;
    if (c->depthwise) {
        nw_dwconv_u8s8_col_sums(all, c->taps, c->w.codes, c->taps, 1, c->w.zero, sums);
        NW_TRY(nw_plan_epilogue(p, x, &c->w, c->bias, sums, follow, &epilogue));
        NW_TRY(nw_plan_constant(p, nw_dwconv_u8s8_packed_bytes(s->depthwise, all, c->taps, &s->window),
                                &packed));
        nw_dwconv_u8s8_pack(s->depthwise, all, c->taps, c->w.codes, c->taps, 1, c->w.zero, &s->window,
                            packed);
        epilogue.wzero = NULL;
        epilogue.col_sum = sums;
        s->dw_u8s8_args = (nw_dwconv_u8s8_args){
            .m = s->m, .channels = all, .taps = c->taps, .packed = packed, .ldc = ldc, .epilogue = epilogue};
        return NW_OK;
    }
    packing pk;
    NW_TRY(packing_of(p, c, s, &pk));
    nw_gemm_u8s8_col_sums(all, c->k, c->taps, pk.w, pk.stride_n, pk.stride_tap, pk.stride_k, c->w.zero, sums);
    NW_TRY(nw_plan_epilogue(p, x, &c->w, c->bias, sums, follow, &epilogue));
    epilogue.col_sum = sums;
    s->group_packed = nw_gemm_u8s8_packed_bytes(s->u8s8, c->n, c->k, c->taps);
    const bool narrow = c->w.bits < 8 && s->u8s8->shift == 0; /* sums before panels are no codes */
    if (!narrow)
        NW_TRY(nw_plan_constant(p, s->group_packed * s->groups, &packed));
    else if (!(packed = nw_arena_data(&p->scratch, s->group_packed * s->groups)))
        return NW_E_MEMORY;
    else
        memset(packed, 0, s->group_packed * s->groups);
    for (size_t g = 0; g < s->groups; g++)
        nw_gemm_u8s8_pack(s->u8s8, c->n, c->k, c->taps, pk.w + g * c->n * pk.stride_n, pk.stride_n,
                          pk.stride_tap, pk.stride_k, (char *)packed + g * s->group_packed);
    if (narrow) NW_TRY(narrow_codes(p, c, s, packed, scratch));
    s->u8s8_args = (nw_gemm_u8s8_args){
        .m = s->m, .n = c->n, .k = c->k, .taps = c->taps, .packed = packed, .ldc = ldc, .epilogue = epilogue};
    return NW_OK;
}

static nw_status keep_codes(nw_planner *p, const nw_node *node, conv_state *s, size_t *bytes) {
    nw_coded *coded = nw_arena_array(&p->plan->arena, 1, sizeof *coded);
    bool ok;
    size_t scratch;
    if (!coded) return NW_E_MEMORY;
    NW_TRY(nw_plan_decoded(p, node, node->in[1], s->groups, coded, &scratch, &ok));
    if (!ok) return NW_OK;
    s->coded = coded;
    s->group_packed = coded->group_bytes;
    *bytes = scratch;
    return NW_OK;
}

/* Float weights: packed now, or, when they are no constants or stay codes, in every run into *bytes of memory. */
static nw_status pack_float(nw_planner *p, const nw_node *node, conv *c, conv_state *s,
                            const nw_follow *follow, size_t ldc, size_t *bytes) {
    size_t all = (size_t)c->g.out_channels, taps = (size_t)(c->g.kernel[1] * c->g.kernel[2]),
           k = (size_t)(c->g.in_channels / c->g.groups);
    void *packed = NULL;
    s->dynamic = !nw_graph_constant(p->graph, node->in[1]);
    s->order =
        (nw_weight_order){.kernel = s->f32, /* a kernel line as one long tap has the order of its taps */
                          .groups = s->groups,
                          .n = c->n,
                          .k = k,
                          .taps = taps,
                          .stride_group = c->n * k * taps,
                          .stride_n = k * taps,
                          .stride_k = taps};
    NW_TRY(nw_plan_taps_in_order(p, taps, &s->order.tap_at));
    if (c->depthwise)
        *bytes = nw_dwconv_f32_packed_bytes(all, c->taps);
    else
        NW_TRY(nw_weight_order_bytes(p, node, &s->order, bytes));
    s->group_packed = s->order.group_bytes;
    if (!c->depthwise && nw_graph_constant(p->graph, node->in[1])) NW_TRY(keep_codes(p, node, s, bytes));
    if (!s->coded && !s->dynamic) {
        nw_tensor real;
        NW_TRY(nw_tensor_to_f32(&p->scratch, &nw_graph_constant(p->graph, node->in[1])->tensor, &real));
        NW_TRY(nw_plan_constant(p, *bytes, &packed));
        if (c->depthwise)
            nw_dwconv_f32_pack(all, taps, real.data, taps, s->order.tap_at, packed);
        else
            nw_weight_order_pack(NULL, &s->order, real.data, packed);
    }
    if (c->depthwise)
        s->dw_f32_args = (nw_dwconv_f32_args){.m = s->m,
                                              .channels = all,
                                              .taps = c->taps,
                                              .packed = packed,
                                              .ldc = ldc,
                                              .bias = c->bias,
                                              .lo = follow->lo,
                                              .hi = follow->hi};
    else
        s->f32_args = (nw_gemm_f32_args){.m = s->m,
                                         .n = c->n,
                                         .k = c->k,
                                         .taps = c->taps,
                                         .packed = packed,
                                         .ldc = ldc,
                                         .bias = c->bias,
                                         .lo = follow->lo,
                                         .hi = follow->hi};
    return NW_OK;
}

/* Whether it is a convolution that is computed here; its geometry and bias into *c. */
static nw_status examine(nw_planner *p, const nw_node *node, conv *c, bool *ok) {
    *ok = false;
    if (node->domain[0] || strcmp(node->op_type, "Conv") != 0) return NW_OK;
    int x = nw_node_in(node, 0), w = nw_node_in(node, 1), b = nw_node_in(node, 2);
    const nw_constant *wc = nw_graph_constant(p->graph, w);
    const nw_tensor *wt = wc ? &wc->tensor : &p->desc[w];
    if (p->desc[x].format != NW_F32 || p->desc[x].rank < 3) return NW_OK;
    if (!wt->qparam && wt->format != NW_F32) return NW_OK;
    nw_op_call call;
    NW_TRY(nw_plan_call(p, node, &call));
    NW_TRY(nw_conv_geometry_of(&call, &p->desc[x], wt, &c->g));
    const nw_conv_geometry *g = &c->g;
    if (!nw_conv_is_planar(g) || g->pad_begin[1] < 0 || g->pad_begin[2] < 0) return NW_OK;
    if (nw_tensor_count(&p->desc[x]) == 0 || nw_tensor_count(&p->desc[node->out[0]]) == 0) return NW_OK;
    size_t count;
    if (b >= 0) {
        NW_TRY(nw_plan_real_constant(p, b, &c->bias, &count));
        c->dynamic_bias = !c->bias;
        if (c->bias ? count != (size_t)g->out_channels : wc || p->desc[b].format != NW_F32) return NW_OK;
    }
    c->taps = (size_t)(g->kernel[1] * g->kernel[2]);
    c->k = (size_t)(g->in_channels / g->groups);
    c->n = (size_t)(g->out_channels / g->groups);
    c->depthwise = g->groups > 1 && c->k == 1 && c->n == 1 && c->taps <= NW_DWCONV_MAX_TAPS;
    *ok = true;
    return NW_OK;
}

/* Integer weights where sums fit into 32 bits. */
static nw_status integer_weights(nw_planner *p, const nw_node *node, conv *c) {
    return c->k * c->taps <= 65536 ? nw_plan_weights(p, node->in[1], 0, &c->w, &c->integer) : NW_OK;
}

nw_status nw_conv_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok) {
    conv c = {0};
    NW_TRY(examine(p, node, &c, ok));
    if (*ok) NW_TRY(integer_weights(p, node, &c));
    if (*ok && !c.integer) NW_TRY(nw_conv_takes_coded(p, node, &c.g, &c.integer));
    *ok = *ok && c.integer && node->in[0] == codes;
    return NW_OK;
}

static const char *reason_for_float(const nw_planner *p, const nw_node *node, const conv *c) {
    if (c->integer) return "";
    const nw_constant *w = nw_graph_constant(p->graph, node->in[1]);
    if (!w) return "float: its weights are no constants";
    if (!w->tensor.qparam) return "float: its weights are";
    return nw_plan_on_grid(p, node->in[0]) ? "float: its weights are no integer codes"
                                           : "float: its input is not on an 8-bit grid";
}

nw_status nw_lower_conv(nw_planner *p, nw_node *node, bool *ok) {
    conv c = {0};
    NW_TRY(examine(p, node, &c, ok));
    if (!*ok) return NW_OK;
    int x = node->in[0];
    NW_TRY(nw_lower_bits_conv(p, node, &c.g, c.bias, ok));
    if (*ok) return NW_OK;
    *ok = true;
    c.measured = p->row_grid[x][0] >= 0;
    if (c.measured || nw_plan_on_grid(p, x)) NW_TRY(integer_weights(p, node, &c));
    if (!c.integer) {
        NW_TRY(nw_lower_coded_conv(p, node, &c.g, c.bias, ok));
        if (*ok) return NW_OK;
        *ok = true;
    }
    c.size = c.integer ? 1 : sizeof(float);
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, node->out[0], c.integer && !c.measured, &follow));
    conv_state s = {.integer = c.integer,
                    .measured = c.measured,
                    .groups = c.depthwise ? 1 : (size_t)c.g.groups,
                    .m = (size_t)(c.g.batch * c.g.out[1] * c.g.out[2])};
    s.work = c.depthwise ? (double)s.m * (double)c.g.out_channels * (double)c.taps / (c.integer ? 70 : 20)
                         : nw_product_nanoseconds(c.integer, s.m, (size_t)c.g.out_channels, c.k * c.taps);
    const bool padded = !c.depthwise && wants_padded_copy(&c);
    nw_strip from = {.stride = (size_t)c.g.in_channels * c.size};
    if (padded || c.depthwise) /* these want their pixels one behind the other */
        NW_TRY(nw_plan_need(p, x, nw_form_of(c.integer, true), &from.buffer));
    else
        NW_TRY(nw_plan_need_strip(p, x, c.integer, &from));
    s.x_offset = from.offset;
    set_window(&s, &c, from.stride);
    size_t plain_k = c.k;
    if (padded) set_padded(&s, &c);
    if (c.depthwise)
        s.depthwise = nw_dwconv_select(p->options->isa);
    else if (c.integer)
        s.u8s8 = nw_gemm_u8s8_select(p->options->isa);
    else
        s.f32 = nw_gemm_f32_select(p->options->isa);
    bool codes_out = follow.grid.scale > 0;
    size_t y_size = codes_out ? 1 : sizeof(float), ldc = (size_t)c.g.out_channels * y_size;
    nw_strip place = {.buffer = -1};
    if (codes_out) NW_TRY(nw_plan_concat_place(p, follow.value, &follow.grid, &place));
    if (place.buffer >= 0) ldc = place.stride;
    s.y_offset = place.offset;
    s.group_x = plain_k * c.size;
    s.group_y = c.n * y_size;
    size_t bytes = 0;                     /* of weights that are packed when running */
    const nw_grid unit = {.scale = 1.0f}; /* in place of one that is found while running */
    if (c.integer)
        NW_TRY(pack_integer(p, c.measured ? &unit : &p->grid[x], &c, &s, &follow, ldc, &bytes));
    else
        NW_TRY(pack_float(p, node, &c, &s, &follow, ldc, &bytes));
    if (!s.dynamic) nw_plan_packed(p, node->in[1]);

    /* What padding taps read: zero, which on a grid is the zero point. */
    s.pad_byte = c.integer ? (uint8_t)p->grid[x].zero : 0;
    s.pad_bytes = ((c.depthwise ? (size_t)c.g.out_channels : c.k) + 4) * c.size;
    void *pad;
    NW_TRY(nw_plan_constant(p, s.pad_bytes, &pad));
    memset(pad, s.pad_byte, s.pad_bytes);
    s.pad = pad;

    int in[3] = {from.buffer, -1, -1}, out[4] = {-1, -1, -1, -1};
    if (s.dynamic) NW_TRY(nw_plan_need(p, node->in[1], NW_FORM_REAL, &in[1]));
    if (s.dynamic && c.dynamic_bias) NW_TRY(nw_plan_need(p, node->in[2], NW_FORM_REAL, &in[2]));
    if (c.measured) memcpy(&in[1], p->row_grid[x], sizeof p->row_grid[x]);
    nw_plan_fuse(p, &follow);
    out[0] = place.buffer;
    if (out[0] < 0) NW_TRY(nw_plan_define(p, follow.value, nw_form_of(codes_out, true), &out[0]));
    if (s.dynamic || s.coded) NW_TRY(nw_plan_temporary(p, bytes, &out[3]));
    if (s.padded) NW_TRY(nw_plan_temporary(p, s.batch * s.padded_h * s.padded_w * s.pixel, &out[1]));
    if (c.measured)
        NW_TRY(nw_plan_temporary(
            p, (size_t)c.g.out_channels * (sizeof(float) + sizeof(int32_t)) + s.pad_bytes, &out[2]));
    const char *kernel = c.depthwise ? (c.integer ? "dwconv_u8s8" : "dwconv_f32")
                         : c.integer ? s.u8s8->name
                                     : s.f32->name;
    /* The state points at its own window through rows_of, so it is stable once copied. */
    NW_TRY(NW_PLAN_STEP(p, node, run_conv, kernel, &s, in, out));
    nw_plan_reason(p, reason_for_float(p, node, &c));
    nw_plan_work(p, c.integer, (double)s.m * (double)c.g.out_channels * (double)c.k * (double)c.taps);
    return NW_OK;
}
