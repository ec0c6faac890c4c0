/* lower_bits.c: MatMul, Gemm and Conv whose weights and input both are {−1, 1} times a scale: signs become bits, and bits are
 * multiplied (kern/gemm_bits.h). The input is the FakeQuant's: what it would make is not made where nobody else reads it. */
#include "run/conv.h"
#include "run/matmul.h"

#include "kern/gemm_bits.h"
#include "num/levels.h"
#include "op/quantize.h"

#include <math.h>
#include <string.h>

/* Fewer numbers of a tap would waste most of a word. */
#define LEAST_K 8

/* Others are multiplied as bytes, which their FakeQuant makes too (follow.c). */
static bool pays(const nw_planner *p, size_t k, size_t taps) {
    return k >= LEAST_K && k <= INT32_MAX / taps && k * taps >= nw_gemm_bits_select(p->options->isa)->least;
}

typedef struct bits_state {
    const nw_gemm_bits_kernel *kernel;
    nw_gemm_bits_args args; /* of group 0; rows.base and c are filled in when running */
    nw_window window;       /* of convolutions; kernel_h 0: none */
    const void *pad;
    size_t rows; /* of k numbers each in the input: of all groups */
    size_t groups, group_packed;
    double work; /* nanoseconds */
} bits_state;

typedef struct bits_job {
    const bits_state *s;
    const float *x;
    uint64_t *bits;
    float *y;
} bits_job;

static void pack_range(void *user, size_t begin, size_t end) {
    const bits_job *j = user;
    const size_t k = j->s->args.k;
    j->s->kernel->pack_signs(end - begin, k, j->x + begin * k, j->bits + begin * nw_bits_words(k));
}

/* Rows [m0, m1) and, of each group, columns [n0, n1). */
static void multiply_part(void *user, size_t m0, size_t m1, size_t n0, size_t n1) {
    const bits_job *j = user;
    const bits_state *s = j->s;
    const size_t words = nw_bits_words(s->args.k);
    for (size_t g = 0; g < s->groups; g++) {
        nw_gemm_bits_args a = s->args;
        a.rows = (nw_rows){.base = j->bits + g * words, .stride = words * sizeof(uint64_t)};
        if (s->window.kernel_h) {
            a.rows.window = &s->window;
            a.rows.pad = s->pad;
        }
        a.packed = (const char *)a.packed + g * s->group_packed;
        a.c = j->y + g * a.n;
        a.scale += g * a.n;
        if (a.bias) a.bias += g * a.n;
        nw_gemm_bits_run(s->kernel, &a, m0, m1, n0, n1);
    }
}

static nw_status run_bits(nw_exec *e, const nw_step *step) {
    const bits_state *s = step->state;
    bits_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[1]),
                    nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->rows, 1, (double)(s->rows * s->args.k) / 25, pack_range, &job);
    const nw_product_split split = {s->args.m, s->kernel->mr, s->args.n, s->kernel->nr, s->work};
    nw_exec_product(e, &split, multiply_part, &job);
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

/* Both sides of a product. */
typedef struct bits_sides {
    int x;              /* the value whose signs count */
    float scale;        /* of x */
    const nw_tensor *w; /* packed signs */
    size_t channels;    /* output channels of all groups */
    size_t stride_n, stride_tap, stride_k;
} bits_sides;

static nw_status sides_of(nw_planner *p, const nw_node *node, int n_axis, size_t channels, bits_sides *b,
                          bool *ok) {
    const nw_constant *c = nw_graph_constant(p->graph, node->in[1]);
    const nw_qparam *q = c ? c->tensor.qparam : NULL;
    const int maker = p->uses.producer[node->in[0]];
    *ok = q && maker >= 0 && q->format == NW_INDEX1 && nw_levels_are_signs(&q->levels) &&
          (q->grain == NW_GRAIN_TENSOR || (q->grain == NW_GRAIN_AXIS && q->axis == n_axis));
    if (!*ok) return NW_OK;
    const nw_node *quantizer = &p->graph->nodes[maker];
    NW_TRY(nw_fakequant_sign_scale(p->graph, quantizer, &p->scratch, &b->scale, ok));
    b->x = quantizer->in[0];
    b->w = &c->tensor;
    b->channels = channels;
    if (p->desc[b->x].format != NW_F32) *ok = false;
    return NW_OK;
}

/* Packs the weights and appends the step; s->args has m, n, k, taps, bias; x is wanted in this form. */
static nw_status finish(nw_planner *p, const nw_node *node, const bits_sides *b, bits_state *s, bool last,
                        const nw_follow *follow) {
    nw_gemm_bits_args *a = &s->args;
    const size_t words = nw_bits_words(a->k), of_group = a->n * a->k * a->taps;
    size_t packed_bytes, bits_bytes;
    void *packed, *pad;
    float *scale = nw_arena_array(&p->plan->arena, b->channels, sizeof *scale);
    if (!scale) return NW_E_MEMORY;
    for (size_t n = 0; n < b->channels; n++)
        scale[n] = b->scale * nw_qparam_scale(b->w->qparam, b->w->qparam->groups == 1 ? 0 : n);
    s->kernel = nw_gemm_bits_select(p->options->isa);
    s->group_packed = nw_gemm_bits_packed_bytes(s->kernel, a->n, a->k, a->taps);
    if (!s->group_packed ||
        __builtin_mul_overflow(nw_align_size(s->group_packed), s->groups, &packed_bytes) ||
        __builtin_mul_overflow(s->rows, words * sizeof(uint64_t), &bits_bytes))
        return nw_fail(p->ctx, NW_E_SHAPE, "the weights of \"%s\" are too large for this machine",
                       nw_node_label(p->graph, node));
    s->group_packed = nw_align_size(s->group_packed);
    NW_TRY(nw_plan_constant(p, packed_bytes, &packed));
    NW_TRY(nw_plan_constant(p, words * sizeof(uint64_t), &pad));
    memset(pad, 0, words * sizeof(uint64_t));
    for (size_t g = 0; g < s->groups; g++)
        nw_gemm_bits_pack(s->kernel, a->n, a->k, a->taps, b->w->data, g * of_group, b->stride_n,
                          b->stride_tap, b->stride_k, (char *)packed + g * s->group_packed);
    nw_plan_packed(p, node->in[1]);
    a->packed = packed;
    a->scale = scale;
    a->lo = follow->lo;
    a->hi = follow->hi;
    a->ldc = b->channels * sizeof(float);
    s->pad = pad;
    const double products = (double)a->m * (double)a->n * (double)a->k * (double)a->taps * (double)s->groups;
    s->work = products / 1000;
    int in[1], out[2];
    NW_TRY(nw_plan_need(p, b->x, nw_form_of(false, last), &in[0]));
    nw_plan_fuse(p, follow);
    NW_TRY(nw_plan_define(p, follow->value, nw_form_of(false, last), &out[0]));
    NW_TRY(nw_plan_temporary(p, bits_bytes, &out[1]));
    NW_TRY(NW_PLAN_STEP(p, node, run_bits, s->kernel->name, s, in, out));
    nw_plan_work(p, true, products);
    return NW_OK;
}

nw_status nw_lower_bits_product(nw_planner *p, const nw_node *node, const nw_plan_product *pr, bool *ok) {
    const nw_matmul_geometry *g = &pr->g;
    const size_t k = (size_t)g->k, n = (size_t)g->n, m = (size_t)g->m;
    bits_sides b = {.stride_n = g->trans_b ? k : 1, .stride_k = g->trans_b ? 1 : n};
    *ok = g->batch == 1 && p->desc[node->in[1]].rank == 2 && pays(p, k, 1);
    if (*ok) NW_TRY(sides_of(p, node, g->trans_b ? 0 : 1, n, &b, ok));
    if (!*ok) return NW_OK;
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, pr->value, false, &follow));
    if (pr->add >= 0) p->done[pr->add] = 1;
    bits_state s = {.args = {.m = m, .n = n, .k = k, .taps = 1, .bias = pr->bias}, .rows = m, .groups = 1};
    return finish(p, node, &b, &s, false, &follow);
}

nw_status nw_lower_bits_conv(nw_planner *p, const nw_node *node, const nw_conv_geometry *g, const float *bias,
                             bool *ok) {
    const size_t groups = (size_t)g->groups, k = (size_t)g->in_channels / groups,
                 taps = (size_t)(g->kernel[1] * g->kernel[2]);
    bits_sides b = {.stride_n = k * taps, .stride_tap = 1, .stride_k = taps};
    *ok = taps <= NW_GEMM_MAX_TAPS && pays(p, k, taps);
    if (*ok) NW_TRY(sides_of(p, node, 0, (size_t)g->out_channels, &b, ok));
    if (!*ok) return NW_OK;
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, node->out[0], false, &follow));
    bits_state s = {.args = {.m = (size_t)(g->batch * g->out[1] * g->out[2]),
                             .n = (size_t)g->out_channels / groups,
                             .k = k,
                             .taps = taps,
                             .bias = bias},
                    .window = nw_plan_window(g, groups * nw_bits_words(k) * sizeof(uint64_t)),
                    .rows = (size_t)(g->batch * g->in[1] * g->in[2]) * groups,
                    .groups = groups};
    return finish(p, node, &b, &s, true, &follow);
}
