/* master.c: packed constants → float constants behind FakeQuant, and back. */
#include "train/master.h"

#include "num/choose.h"
#include "op/quantize.h"

#include <string.h>

/* m->value ← FakeQuant(master) on the grid p. Scales become f32, so that they can be learned. */
static nw_status add_fakequant(nw_graph *g, const nw_qparam *p, nw_arena *scratch, nw_master *m) {
    bool one = p->grain == NW_GRAIN_TENSOR;
    nw_tensor scale = {.format = NW_F32, .rank = one ? 0 : 1, .dims = {(int64_t)p->groups}}, zero = scale;
    zero.format = NW_S32;
    zero.data = (void *)(uintptr_t)p->zeros;
    NW_TRY(nw_tensor_alloc(scratch, &scale));
    for (size_t i = 0; i < p->groups; i++) ((float *)scale.data)[i] = nw_qparam_scale(p, i);
    int in[3] = {m->master, NW_ABSENT, NW_ABSENT};
    NW_TRY(nw_graph_add_constant_copy(g, "train/scale", &scale, &m->scale));
    in[1] = m->scale;
    if (p->zeros) NW_TRY(nw_graph_add_constant_copy(g, "train/zero", &zero, &in[2]));
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", g->values[m->value].name, p->zeros ? 3 : 2, in, 1,
                             &m->value, &node));
    node->op = &nw_op_narrow_FakeQuant;
    m->scale_format = nw_qparam_scale_format(p);
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

typedef struct making {
    nw_graph *g;
    const nw_graph *real;
    bool free_biases;
    nw_arena *arena, scratch;
    nw_masters *out;
    size_t capacity;
} making;

/* The numbers that v had before it was packed, or what its codes mean. */
static nw_status numbers_of(making *m, int v, nw_tensor *out) {
    const nw_tensor *packed = &m->g->values[v].constant->tensor;
    const nw_constant *c = m->real && v < m->real->value_count ? nw_graph_constant(m->real, v) : NULL;
    bool same = c && c->tensor.format == NW_F32 && !c->tensor.qparam && packed->format != NW_S32 &&
                nw_tensor_same_shape(&c->tensor, packed);
    return nw_tensor_to_f32(&m->scratch, same ? &c->tensor : packed, out);
}

static nw_status make(making *m, int v) {
    nw_graph *g = m->g;
    bool bias = g->values[v].constant->tensor.format == NW_S32;
    nw_qparam *p = nw_arena_alloc(m->arena, sizeof *p); /* the constant goes */
    nw_master master = {.value = v, .master = v, .scale = NW_ABSENT};
    nw_tensor real;
    if (!p) return NW_E_MEMORY;
    NW_TRY(nw_qparam_copy(m->arena, g->values[v].constant->tensor.qparam, p));
    NW_TRY(numbers_of(m, v, &real));
    if (bias) {
        master.qparam = p;
        NW_TRY(nw_graph_set_constant_copy(g, v, &real));
        if (m->free_biases) return NW_OK;
    } else {
        NW_TRY(nw_graph_add_constant_copy(g, g->values[v].name, &real, &master.master));
        drop_constant(g, v);
        NW_TRY(add_fakequant(g, p, &m->scratch, &master));
    }
    NW_TRY(nw_arena_grow(m->arena, (void **)&m->out->at, &m->capacity, m->out->count, sizeof *m->out->at));
    m->out->at[m->out->count++] = master;
    return NW_OK;
}

nw_status nw_masters_make(nw_graph *g, const nw_graph *real, bool free_biases, nw_arena *arena,
                          nw_masters *out) {
    nw_status status = NW_OK;
    making m = {.g = g, .real = real, .free_biases = free_biases, .arena = arena, .out = out};
    *out = (nw_masters){0};
    if (!nw_graph_opset(g, "ai.narrow")) NW_TRY(nw_graph_set_opset(g, "ai.narrow", 1));
    nw_arena_init(&m.scratch, g->ctx);
    for (int v = 0, count = g->value_count; v < count && status == NW_OK; v++) {
        const nw_constant *c = nw_graph_constant(g, v);
        if (c && c->tensor.qparam) status = make(&m, v);
        nw_arena_reset(&m.scratch);
    }
    nw_arena_free(&m.scratch);
    return status == NW_OK ? nw_graph_sort(g) : status;
}

/* The FakeQuant that makes value v; every master but a bias has one. */
static const nw_node *maker_of(const nw_graph *g, int v) {
    for (int n = 0; n < g->node_count; n++)
        if (nw_node_out(&g->nodes[n], 0) == v) return &g->nodes[n];
    return NULL;
}

/* The grid of a master now, with scales as they are stored. */
static nw_status grid_now(const nw_graph *g, const nw_master *m, nw_arena *scratch, nw_qparam *p) {
    bool dynamic;
    NW_TRY(nw_fakequant_qparam(g, maker_of(g, m->value), scratch, p, &dynamic));
    float *scales = nw_arena_array(scratch, p->groups, sizeof *scales);
    if (!scales) return NW_E_MEMORY;
    for (size_t i = 0; i < p->groups; i++)
        scales[i] = nw_round_scale(m->scale_format, nw_qparam_scale(p, i), false);
    p->scale_format = m->scale_format;
    return nw_qparam_set_scales(scratch, p, scales);
}

static nw_status pack(nw_graph *g, const nw_master *m, nw_arena *scratch) {
    const nw_tensor *real = &g->values[m->master].constant->tensor;
    nw_tensor packed = *real;
    nw_qparam now;
    if (m->qparam)
        now = *m->qparam;
    else
        NW_TRY(grid_now(g, m, scratch, &now));
    packed.format = now.format;
    packed.qparam = &now;
    NW_TRY(nw_tensor_alloc(scratch, &packed));
    nw_quantize(&now, packed.rank, packed.dims, real->data, packed.data);
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
