/* biases.c: integer biases for a quantized graph whose biases are float: after training, when all scales are known. */
#include "quant/freeze.h"

#include "op/quantize.h"
#include "quant/weights.h"

#include <string.h>

/* The scale of a value that is a FakeQuant's output with one constant scale; 0: it is something else. */
static nw_status scale_of(const nw_graph *g, const nw_uses *uses, int v, nw_arena *scratch, float *scale) {
    const nw_node *node = v >= 0 && uses->producer[v] >= 0 ? &g->nodes[uses->producer[v]] : NULL;
    nw_qparam p;
    bool dynamic;
    *scale = 0;
    if (!node || node->op != &nw_op_narrow_FakeQuant) return NW_OK;
    NW_TRY(nw_fakequant_qparam(g, node, scratch, &p, &dynamic));
    if (!dynamic && p.groups == 1) *scale = nw_qparam_scale(&p, 0);
    return NW_OK;
}

static nw_status pack_bias(nw_graph *g, const nw_uses *uses, int n, nw_arena *scratch) {
    const nw_node *node = &g->nodes[n];
    int at = nw_quant_input_of(node, NW_ROLE_BIAS), data = nw_quant_input_of(node, NW_ROLE_DATA),
        weight = nw_quant_input_of(node, NW_ROLE_WEIGHT);
    float scale;
    if (at < 0 || data < 0 || weight < 0 || !nw_quant_is_weight(g, node->in[at])) return NW_OK;
    if (nw_node_float(node, "alpha", 1) != 1 || nw_node_float(node, "beta", 1) != 1) return NW_OK;
    const nw_constant *w = nw_graph_constant(g, node->in[weight]);
    const nw_qparam *p = w ? w->tensor.qparam : NULL;
    const int id = node->in[at];
    const nw_tensor *bias = &g->values[id].constant->tensor;
    size_t channels = bias->rank ? (size_t)bias->dims[bias->rank - 1] : 1;
    bool fits = p && p->grain != NW_GRAIN_BLOCK &&
                (p->groups == 1 || (p->groups == channels && nw_tensor_count(bias) == channels));
    if (!fits || nw_uses_count(uses, id) != 1) return NW_OK;
    NW_TRY(scale_of(g, uses, node->in[data], scratch, &scale));
    if (scale == 0) return NW_OK;
    nw_tensor packed;
    NW_TRY(nw_bias_pack(scratch, g->values[id].name, bias, NULL, scale, p, bias->rank - 1, &packed));
    return nw_graph_set_constant_copy(g, id, &packed);
}

nw_status nw_quant_pack_biases(nw_graph *g) {
    nw_uses uses;
    nw_arena scratch;
    nw_status status = nw_uses_init(&uses, g);
    NW_TRY(status);
    nw_arena_init(&scratch, g->ctx);
    for (int n = 0; n < g->node_count && status == NW_OK; n++) {
        if (!g->nodes[n].dead) status = pack_bias(g, &uses, n, &scratch);
        nw_arena_reset(&scratch);
    }
    nw_arena_free(&scratch);
    nw_uses_free(&uses);
    return status;
}
