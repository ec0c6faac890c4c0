/* pack.c: packing f32 weights, panel by panel and tap by tap. */
#include "run/pack.h"

nw_status nw_weight_order_bytes(nw_planner *p, const nw_node *node, nw_weight_order *o, size_t *bytes) {
    o->group_bytes = nw_gemm_f32_packed_bytes(o->kernel, o->n, o->k, o->taps);
    if (o->group_bytes == 0 || !nw_mul_size(o->group_bytes, o->groups, bytes))
        return nw_fail(p->ctx, NW_E_SHAPE, "the weights of \"%s\" are too large for this machine",
                       nw_node_label(p->graph, node));
    return NW_OK;
}

typedef struct pack_job {
    const nw_weight_order *order;
    const float *w;
    char *packed;
} pack_job;

/* Parts: group by group, panel by panel, tap by tap. */
static void pack_range(void *user, size_t begin, size_t end) {
    const pack_job *j = user;
    const nw_weight_order *o = j->order;
    const size_t panels = nw_gemm_f32_panels(o->kernel, o->n);
    for (size_t i = begin; i < end; i++) {
        const size_t tap = i % o->taps, panel = i / o->taps % panels, group = i / o->taps / panels;
        nw_gemm_f32_pack_part(o->kernel, o->n, o->k, o->taps, panel, tap,
                              j->w + group * o->stride_group + o->tap_at[tap], o->stride_n, o->stride_k,
                              j->packed + group * o->group_bytes);
    }
}

void nw_weight_order_pack(const nw_exec *e, const nw_weight_order *o, const float *w, void *packed) {
    pack_job job = {o, w, packed};
    const size_t parts = o->groups * o->taps * nw_gemm_f32_panels(o->kernel, o->n);
    if (e)
        nw_exec_parallel(e, parts, 1, (double)(o->groups * o->n * o->k * o->taps), pack_range, &job);
    else
        pack_range(&job, 0, parts);
}

nw_status nw_plan_taps_in_order(nw_planner *p, size_t count, const size_t **tap_at) {
    size_t *at = nw_arena_array(&p->plan->arena, count, sizeof *at);
    if (!at) return NW_E_MEMORY;
    for (size_t t = 0; t < count; t++) at[t] = t;
    *tap_at = at;
    return NW_OK;
}
