/* packed.c: ai.narrow's DequantizeLinear: a packed constant as a file holds it (quantize.h says what it means). */
#include "op/quantize.h"

#include <string.h>

static nw_status bad(const nw_graph *g, const nw_node *node, const char *what) {
    return nw_fail(g->ctx, NW_E_FORMAT, "DequantizeLinear \"%s\" of ai.narrow: %s", nw_node_label(g, node),
                   what);
}

nw_status nw_packed_read(const nw_graph *graph, const nw_node *node, nw_arena *arena, nw_tensor *codes,
                         nw_qparam *p) {
    const nw_constant *c = nw_graph_constant(graph, nw_node_in(node, 0));
    const int64_t *dims;
    size_t rank;
    bool dynamic;
    if (!c || c->tensor.qparam || c->tensor.format != NW_U8)
        return bad(graph, node, "its codes are no constant bytes");
    if (!nw_node_ints(node, "shape", &dims, &rank) || rank > NW_MAX_RANK)
        return bad(graph, node, "it has no shape, or one of too many dimensions");
    nw_status status = nw_fakequant_qparam(graph, node, arena, p, &dynamic);
    if (status != NW_OK)
        return nw_fail_where(arena->ctx, status, "DequantizeLinear \"%s\"", nw_node_label(graph, node));
    *codes = (nw_tensor){.format = p->format, .data = c->tensor.data};
    nw_tensor_set_shape(codes, (int)rank, dims);
    NW_TRY(nw_tensor_check(arena->ctx, codes));
    if (dynamic) return bad(graph, node, "it has no scale");
    if (nw_tensor_bytes(codes) != nw_tensor_bytes(&c->tensor))
        return bad(graph, node, "its codes do not fill its shape");
    bool fits = p->grain == NW_GRAIN_TENSOR || p->axis < codes->rank;
    if (!fits || p->groups != nw_qparam_group_count(p->grain, p->axis, p->block, codes->rank, codes->dims))
        return bad(graph, node, "its scales do not fit its shape");
    return NW_OK;
}

static nw_status packed_infer(nw_op_call *call) {
    nw_tensor codes;
    nw_qparam p;
    NW_TRY(nw_packed_read(call->graph, call->node, call->scratch, &codes, &p));
    return nw_call_set(call, 0, NW_F32, codes.rank, codes.dims);
}

static nw_status packed_eval(nw_op_call *call) {
    nw_tensor codes;
    nw_qparam p;
    NW_TRY(nw_packed_read(call->graph, call->node, call->scratch, &codes, &p));
    nw_dequantize(&p, codes.rank, codes.dims, codes.data, call->out[0].data);
    return NW_OK;
}

const nw_op nw_op_narrow_DequantizeLinear = {.name = "DequantizeLinear",
                                             .domain = "ai.narrow",
                                             .flags = NW_OP_RAW,
                                             .infer = packed_infer,
                                             .eval = packed_eval};
