/* master.c: packed constants → float constants behind FakeQuant, and back. */
#include "train/master.h"

#include "op/quantize.h"

#include <string.h>

/* Node n: value v ← FakeQuant(master) on the grid p. */
static nw_status add_fakequant(nw_graph *g, int master, const nw_qparam *p, int v) {
    bool one = p->grain == NW_GRAIN_TENSOR;
    nw_tensor scale = {.format = nw_qparam_scale_format(p),
                       .rank = one ? 0 : 1,
                       .dims = {(int64_t)p->groups},
                       .data = (void *)(uintptr_t)p->scales};
    nw_tensor zero = scale;
    zero.format = NW_S32;
    zero.data = (void *)(uintptr_t)p->zeros;
    int in[3] = {master, NW_ABSENT, NW_ABSENT};
    NW_TRY(nw_graph_add_constant_copy(g, "train/scale", &scale, &in[1]));
    if (p->zeros) NW_TRY(nw_graph_add_constant_copy(g, "train/zero", &zero, &in[2]));
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", g->values[v].name, p->zeros ? 3 : 2, in, 1, &v,
                             &node));
    node->op = &nw_op_narrow_FakeQuant;
    return nw_fakequant_write(g, node, p);
}

static void drop_constant(nw_graph *g, int v) {
    int kept = 0;
    for (int i = 0; i < g->input_count; i++) /* old models list their constants as inputs too */
        if (g->inputs[i] != v) g->inputs[kept++] = g->inputs[i];
    g->input_count = kept;
    nw_bytes_free(g->values[v].constant->owner);
    g->values[v].constant = NULL;
}

static nw_status make(nw_graph *g, int v, nw_arena *arena, nw_arena *scratch, nw_master *out) {
    const nw_tensor *packed = &g->values[v].constant->tensor;
    bool bias = packed->format == NW_S32;
    nw_qparam *p = nw_arena_alloc(arena, sizeof *p);
    nw_tensor real;
    if (!p) return NW_E_MEMORY;
    NW_TRY(nw_qparam_copy(arena, packed->qparam, p));
    NW_TRY(nw_tensor_to_f32(scratch, packed, &real));
    *out = (nw_master){.value = v, .master = v, .qparam = p};
    if (bias) return nw_graph_set_constant_copy(g, v, &real);
    NW_TRY(nw_graph_add_constant_copy(g, g->values[v].name, &real, &out->master));
    drop_constant(g, v);
    return add_fakequant(g, out->master, p, v);
}

nw_status nw_masters_make(nw_graph *g, nw_arena *arena, nw_masters *out) {
    nw_arena scratch;
    nw_status status = NW_OK;
    size_t capacity = 0;
    *out = (nw_masters){0};
    if (!nw_graph_opset(g, "ai.narrow")) NW_TRY(nw_graph_set_opset(g, "ai.narrow", 1));
    nw_arena_init(&scratch, g->ctx);
    for (int v = 0, count = g->value_count; v < count && status == NW_OK; v++) {
        const nw_constant *c = nw_graph_constant(g, v);
        if (!c || !c->tensor.qparam) continue;
        status = nw_arena_grow(arena, (void **)&out->at, &capacity, out->count, sizeof *out->at);
        if (status == NW_OK) status = make(g, v, arena, &scratch, &out->at[out->count]);
        out->count++;
        nw_arena_reset(&scratch);
    }
    nw_arena_free(&scratch);
    return status == NW_OK ? nw_graph_sort(g) : status;
}

static nw_status pack(nw_graph *g, const nw_master *m, nw_arena *scratch) {
    const nw_tensor *real = &g->values[m->master].constant->tensor;
    nw_tensor packed = *real;
    packed.format = m->qparam->format;
    packed.qparam = m->qparam;
    NW_TRY(nw_tensor_alloc(scratch, &packed));
    nw_quantize(m->qparam, packed.rank, packed.dims, real->data, packed.data);
    return nw_graph_set_constant_copy(g, m->value, &packed);
}

nw_status nw_masters_pack(nw_graph *g, const nw_masters *masters) {
    nw_arena scratch;
    nw_status status = NW_OK;
    nw_arena_init(&scratch, g->ctx);
    for (size_t i = 0; i < masters->count && status == NW_OK; i++) {
        status = pack(g, &masters->at[i], &scratch);
        nw_arena_reset(&scratch);
    }
    nw_arena_free(&scratch);
    /* What had a master is a constant again: the FakeQuants that made it go. */
    for (int n = 0; n < g->node_count; n++)
        if (nw_graph_constant(g, nw_node_out(&g->nodes[n], 0))) g->nodes[n].dead = true;
    return status == NW_OK && masters->count ? nw_graph_prune(g) : status;
}
