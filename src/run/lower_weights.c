/* lower_weights.c: matrix products whose weights stay packed while running, and are decoded in registers. */
#include "run/coded.h"
#include "run/matmul.h"

#include "op/quantize.h"

#include <math.h>
#include <string.h>

/* ---- products ---------------------------------------------------------------------------------------------------- */

typedef struct wcodes_state {
    const nw_wgemm_kernel *kernel;
    const nw_wgemm_bf16_kernel *bf16; /* the left-hand side lies on bf16's grid, or NULL */
    nw_wcodes w;
    bool codes, by_row; /* the left-hand side is u8, on a grid of each row */
    /* a, c and the rows' grids are filled in while running */
    nw_wgemm_f32_args f32_args;
    nw_wgemm_u8_args u8_args;
    nw_wgemm_bf16_args bf16_args;
    double work; /* nanoseconds */
} wcodes_state;

static void columns_range(void *user, size_t begin, size_t end) {
    const wcodes_state *s = user;
    if (s->codes)
        nw_wgemm_u8_run(s->kernel, &s->u8_args, 0, s->u8_args.m, begin, end);
    else if (s->bf16)
        nw_wgemm_bf16_run(s->bf16, &s->bf16_args, 0, s->bf16_args.m, begin, end);
    else
        nw_wgemm_f32_run(s->kernel, &s->f32_args, 0, s->f32_args.m, begin, end);
}

/* Numbers of bf16, whose lower halves as floats are 0, without these. */
static void drop_halves(size_t count, const float *x, uint16_t *out) {
    const uint16_t *halves = (const uint16_t *)(const void *)x;
    const size_t upper = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    for (size_t i = 0; i < count; i++) out[i] = halves[2 * i + upper];
}

static nw_status run_wcodes(nw_exec *e, const nw_step *step) {
    wcodes_state s = *(const wcodes_state *)step->state;
    s.f32_args.w = s.u8_args.w = s.bf16_args.w = &s.w;
    s.f32_args.a = nw_exec_data(e, step->in[0]);
    s.u8_args.a = nw_exec_data(e, step->in[0]);
    s.f32_args.c = s.u8_args.c = s.bf16_args.c = nw_exec_data(e, step->out[0]);
    if (s.by_row) {
        s.u8_args.row_scale = nw_exec_data(e, step->in[1]);
        s.u8_args.row_zero = nw_exec_data(e, step->in[2]);
    }
    if (s.bf16) {
        uint16_t *a = nw_exec_data(e, step->out[1]);
        drop_halves(s.bf16_args.m * s.w.k, s.f32_args.a, a);
        s.bf16_args.a = a;
    }
    nw_exec_parallel(e, s.w.n, s.bf16 ? s.bf16->nr : s.kernel->nr, s.work, columns_range, &s);
    return NW_OK;
}

/* Whether v is made by a FakeQuant whose grid are the numbers of bf16 themselves. */
static nw_status on_bf16(nw_planner *p, int v, bool *ok) {
    const int n = p->uses.producer[v];
    nw_qparam q;
    bool dynamic;
    *ok = false;
    if (n < 0 || p->graph->nodes[n].op != &nw_op_narrow_FakeQuant) return NW_OK;
    const int scale = nw_node_in(&p->graph->nodes[n], 1);
    if (!nw_graph_constant(p->graph, scale)) return NW_OK;
    NW_TRY(nw_fakequant_qparam(p->graph, &p->graph->nodes[n], &p->scratch, &q, &dynamic));
    *ok = !dynamic && q.format == NW_BF16 && nw_fakequant_is_cast(&q);
    return NW_OK;
}

nw_status nw_lower_wcodes(nw_planner *p, const nw_node *node, const nw_plan_product *pr, bool *ok) {
    const int a = node->in[0], b = node->in[1];
    const bool by_row = p->row_grid[a][0] >= 0;
    wcodes_state s = {.kernel = nw_wgemm_select(p->options->isa)};
    nw_wcodes_source source;
    nw_follow follow;
    float *sums;
    void *packed;
    *ok = false;
    if (pr->g.batch != 1) return NW_OK;
    if (p->desc[b].rank != 2) return NW_OK;
    NW_TRY(nw_plan_wcodes(p, b, pr->g.trans_b ? 0 : 1, &s.w, &source, ok));
    if (!*ok) return NW_OK;
    s.codes = (nw_plan_on_grid(p, a) || by_row) && s.w.whole && s.w.k <= 65536;
    s.by_row = s.codes && by_row;
    bool narrow = false;
    if (s.w.kind == NW_WCODES_BF16) NW_TRY(on_bf16(p, a, &narrow));
    if (narrow) s.bf16 = nw_wgemm_bf16_select(p->options->isa);
    const size_t nr = narrow ? s.bf16->nr : s.kernel->nr, bytes = nw_wcodes_bytes(nr, &s.w);
    if (bytes == 0)
        return nw_fail(p->ctx, NW_E_SHAPE, "the weights of \"%s\" are too large for this machine",
                       nw_node_label(p->graph, node));
    NW_TRY(nw_plan_constant(p, bytes, &packed));
    NW_TRY(nw_plan_constant(p, s.w.n * sizeof *sums, (void **)&sums));
    nw_wcodes_pack(nr, &s.w, &source, packed, sums);
    nw_plan_packed(p, b);
    s.w.packed = packed;
    s.w.sums = sums;
    NW_TRY(nw_plan_follow(p, pr->value, false, &follow));
    const size_t m = (size_t)pr->g.m, k = s.w.k, ldc = s.w.n * sizeof(float);
    s.work = nw_product_nanoseconds(s.codes, m, s.w.n, k);
    s.f32_args = (nw_wgemm_f32_args){
        .m = m, .lda = k * sizeof(float), .ldc = ldc, .bias = pr->bias, .lo = follow.lo, .hi = follow.hi};
    s.bf16_args = (nw_wgemm_bf16_args){
        .m = m, .lda = k * sizeof(uint16_t), .ldc = ldc, .bias = pr->bias, .lo = follow.lo, .hi = follow.hi};
    s.u8_args = (nw_wgemm_u8_args){.m = m,
                                   .lda = k,
                                   .ldc = ldc,
                                   .bias = pr->bias,
                                   .lo = follow.lo,
                                   .hi = follow.hi,
                                   .scale = p->grid[a].scale,
                                   .zero = p->grid[a].zero};
    int in[3], out[2];
    NW_TRY(nw_plan_need(p, a, nw_form_of(s.codes, false), &in[0]));
    if (s.by_row) memcpy(&in[1], p->row_grid[a], sizeof p->row_grid[a]);
    if (pr->add >= 0) p->done[pr->add] = 1;
    nw_plan_fuse(p, &follow);
    NW_TRY(nw_plan_define(p, follow.value, NW_FORM_REAL, &out[0]));
    if (narrow) NW_TRY(nw_plan_temporary(p, m * k * sizeof(uint16_t), &out[1]));
    const char *name = s.codes ? s.kernel->name_u8 : narrow ? s.bf16->name : s.kernel->name;
    NW_TRY(nw_plan_step(p, node, run_wcodes, name, &s, sizeof s, s.by_row ? 3 : 1, in, narrow ? 2 : 1, out));
    nw_plan_work(p, s.codes, (double)m * (double)s.w.n * (double)k);
    return NW_OK;
}
