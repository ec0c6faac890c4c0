/* grad.c: the builder with which operators state their gradients (grad.h). */
#include "op/grad.h"

#include <stdio.h>
#include <string.h>

void nw_grad_fail(nw_grad_call *c, nw_status status, const char *format, ...) {
    if (c->status != NW_OK) return;
    char text[700];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->status = nw_fail(c->ctx, status, "%s", text);
}

nw_tensor nw_grad_tensor(const nw_grad_call *c, int value) {
    return value >= 0 && value < c->shapes->count ? c->shapes->at[value] : (nw_tensor){.format = NW_NONE};
}

/* The call with which `node` is inferred; its arrays are in scratch. NULL: out of memory. */
static nw_op_call *call_of(nw_grad_call *c, const nw_node *node) {
    nw_op_call *call = nw_arena_alloc(c->scratch, sizeof *call);
    const nw_tensor **in = nw_arena_array(c->scratch, (size_t)node->in_count + 1, sizeof *in);
    nw_tensor *in_desc = nw_arena_array(c->scratch, (size_t)node->in_count + 1, sizeof *in_desc);
    nw_tensor *out = nw_arena_array(c->scratch, (size_t)node->out_count + 1, sizeof *out);
    if (!call || !in || !in_desc || !out) {
        c->status = NW_E_MEMORY;
        return NULL;
    }
    for (int i = 0; i < node->in_count; i++) {
        in_desc[i] = nw_grad_tensor(c, node->in[i]);
        in[i] = node->in[i] < 0 ? NULL : &in_desc[i];
    }
    *call = (nw_op_call){.ctx = c->ctx,
                         .graph = c->graph,
                         .node = node,
                         .version = (int)nw_graph_opset(c->graph, node->domain),
                         .in_count = node->in_count,
                         .out_count = node->out_count,
                         .in = in,
                         .out = out,
                         .scratch = c->scratch};
    return call;
}

const nw_op_call *nw_grad_forward(nw_grad_call *c) {
    return c->status == NW_OK ? call_of(c, c->node) : NULL;
}

/* ---- one node ------------------------------------------------------------------------------------------ */

static nw_node *current(const nw_grad_call *c) {
    return &c->graph->nodes[c->graph->node_count - 1];
}

void nw_grad_begin(nw_grad_call *c, const char *domain, const char *op, int in_count, const int *in) {
    if (c->status != NW_OK) return;
    char name[160];
    snprintf(name, sizeof name, "%s/grad", nw_node_label(c->graph, c->node));
    nw_node *node;
    c->status = nw_graph_add_node(c->graph, domain, op, name, in_count, in, 0, NULL, &node);
    if (c->status != NW_OK) return;
    node->op = nw_op_find(domain, op);
    if (!node->op) nw_grad_fail(c, NW_E_INTERNAL, "its gradient needs %s, which does not exist", op);
}

void nw_grad_set_int(nw_grad_call *c, const char *name, int64_t value) {
    if (c->status == NW_OK) c->status = nw_node_set_int(c->graph, current(c), name, value);
}
void nw_grad_set_float(nw_grad_call *c, const char *name, float value) {
    if (c->status == NW_OK) c->status = nw_node_set_float(c->graph, current(c), name, value);
}
void nw_grad_set_string(nw_grad_call *c, const char *name, const char *value) {
    if (c->status == NW_OK) c->status = nw_node_set_string(c->graph, current(c), name, value);
}
void nw_grad_set_ints(nw_grad_call *c, const char *name, size_t count, const int64_t *values) {
    if (c->status == NW_OK) c->status = nw_node_set_ints(c->graph, current(c), name, values, count);
}

void nw_grad_copy_attrs(nw_grad_call *c) {
    if (c->status != NW_OK) return;
    nw_node *to = current(c);
    nw_attr *attrs = nw_arena_array(&c->graph->arena, (size_t)c->node->attr_count + 1, sizeof *attrs);
    if (!attrs) {
        c->status = NW_E_MEMORY;
        return;
    }
    to->attrs = attrs;
    to->attr_count = 0;
    for (int i = 0; i < c->node->attr_count; i++) { /* numbers and words live in the graph's arena: shared */
        const nw_attr *a = &c->node->attrs[i];
        bool plain = a->kind == NW_ATTR_INT || a->kind == NW_ATTR_FLOAT || a->kind == NW_ATTR_STRING ||
                     a->kind == NW_ATTR_INTS || a->kind == NW_ATTR_FLOATS || a->kind == NW_ATTR_STRINGS;
        if (plain) attrs[to->attr_count++] = *a;
    }
}

static nw_status keep_shape(nw_grad_call *c, int value, const nw_tensor *t) {
    nw_grad_shapes *s = c->shapes;
    NW_TRY(
        nw_grow(c->ctx, (void **)&s->at, &s->capacity, (size_t)s->count, (size_t)value + 1, sizeof *s->at));
    while (s->count <= value) s->at[s->count++] = (nw_tensor){.format = NW_NONE};
    s->at[value] = *t;
    return NW_OK;
}

static nw_status end_node(nw_grad_call *c, int count, const bool *wanted, int *ids) {
    nw_node *node = current(c);
    node->out_count = count;
    node->out = nw_arena_array(&c->graph->arena, (size_t)count, sizeof *node->out);
    if (!node->out) return NW_E_MEMORY;
    for (int i = 0; i < count; i++) {
        node->out[i] = NW_ABSENT;
        if (wanted && !wanted[i]) continue;
        NW_TRY(nw_graph_add_value(c->graph, node->name, &node->out[i]));
    }
    nw_op_call *call = call_of(c, node);
    if (!call) return NW_E_MEMORY;
    NW_TRY(nw_op_infer(call));
    for (int i = 0; i < count; i++) {
        ids[i] = node->out[i];
        if (ids[i] >= 0) NW_TRY(keep_shape(c, ids[i], &call->out[i]));
    }
    return NW_OK;
}

void nw_grad_end_many(nw_grad_call *c, int count, const bool *wanted, int *ids) {
    for (int i = 0; i < count; i++) ids[i] = NW_ABSENT;
    if (c->status == NW_OK) c->status = end_node(c, count, wanted, ids);
}

int nw_grad_end(nw_grad_call *c) {
    int id;
    nw_grad_end_many(c, 1, NULL, &id);
    return id;
}

/* ---- expressions --------------------------------------------------------------------------------------- */

int nw_grad_op1(nw_grad_call *c, const char *op, int a) {
    nw_grad_begin(c, "", op, 1, &a);
    return nw_grad_end(c);
}

int nw_grad_op2(nw_grad_call *c, const char *op, int a, int b) {
    nw_grad_begin(c, "", op, 2, (int[]){a, b});
    return nw_grad_end(c);
}

static int add_constant(nw_grad_call *c, const nw_tensor *t) {
    int id = NW_ABSENT;
    if (c->status != NW_OK) return id;
    c->status = nw_graph_add_constant_copy(c->graph, NULL, t, &id);
    if (c->status == NW_OK) c->status = keep_shape(c, id, &c->graph->values[id].constant->tensor);
    return id;
}

int nw_grad_number(nw_grad_call *c, int like, double value) {
    if (c->status != NW_OK) return NW_ABSENT;
    uint64_t bits = 0;
    nw_tensor t = {.format = nw_grad_tensor(c, like).format, .data = &bits};
    nw_store_f64(t.format, &bits, 0, value);
    return add_constant(c, &t);
}

int nw_grad_ints(nw_grad_call *c, int count, const int64_t *values) {
    nw_tensor t = {.format = NW_S64, .rank = 1, .dims = {count}, .data = (void *)(uintptr_t)values};
    return add_constant(c, &t);
}

int nw_grad_scale(nw_grad_call *c, int a, double factor) {
    return factor == 1 ? a : nw_grad_op2(c, "Mul", a, nw_grad_number(c, a, factor));
}

int nw_grad_sum(nw_grad_call *c, int count, const int *values) {
    if (count == 1) return values[0];
    nw_grad_begin(c, "", count == 2 ? "Add" : "Sum", count, values);
    return nw_grad_end(c);
}

int nw_grad_sum_axes(nw_grad_call *c, int a, const bool *axes, bool keep) {
    int64_t list[NW_MAX_RANK];
    size_t count = 0;
    nw_tensor t = nw_grad_tensor(c, a);
    for (int d = 0; d < t.rank; d++)
        if (axes[d]) list[count++] = d;
    if (count == 0) return a;
    nw_grad_begin(c, "", "ReduceSum", 1, &a);
    nw_grad_set_ints(c, "axes", count, list);
    nw_grad_set_int(c, "keepdims", keep);
    return nw_grad_end(c);
}

int nw_grad_reshape(nw_grad_call *c, int a, int rank, const int64_t *dims) {
    nw_tensor t = nw_grad_tensor(c, a), wanted = t;
    nw_tensor_set_shape(&wanted, rank, dims);
    if (c->status != NW_OK || nw_tensor_same_shape(&t, &wanted)) return a;
    nw_grad_begin(c, "", "Reshape", 2, (int[]){a, nw_grad_ints(c, rank, dims)});
    nw_grad_set_int(c, "allowzero", 1);
    return nw_grad_end(c);
}

int nw_grad_reshape_like(nw_grad_call *c, int a, int like) {
    nw_tensor t = nw_grad_tensor(c, like);
    return nw_grad_reshape(c, a, t.rank, t.dims);
}

int nw_grad_transpose(nw_grad_call *c, int a, const int64_t *perm) {
    nw_grad_begin(c, "", "Transpose", 1, &a);
    nw_grad_set_ints(c, "perm", (size_t)nw_grad_tensor(c, a).rank, perm);
    return nw_grad_end(c);
}

int nw_grad_expand(nw_grad_call *c, int a, int rank, const int64_t *dims) {
    nw_tensor t = nw_grad_tensor(c, a), wanted = t;
    nw_tensor_set_shape(&wanted, rank, dims);
    if (c->status != NW_OK || nw_tensor_same_shape(&t, &wanted)) return a;
    return nw_grad_op2(c, "Expand", a, nw_grad_ints(c, rank, dims));
}

int nw_grad_zeros(nw_grad_call *c, int like) {
    nw_tensor t = nw_grad_tensor(c, like);
    return nw_grad_expand(c, nw_grad_number(c, like, 0), t.rank, t.dims);
}

int nw_grad_sum_to(nw_grad_call *c, int a, int like) {
    nw_tensor from = nw_grad_tensor(c, a), to = nw_grad_tensor(c, like);
    bool axes[NW_MAX_RANK] = {false};
    int shift = from.rank - to.rank;
    for (int d = 0; d < from.rank; d++) axes[d] = d < shift || (to.dims[d - shift] == 1 && from.dims[d] != 1);
    return nw_grad_reshape_like(c, nw_grad_sum_axes(c, a, axes, true), like);
}

int nw_grad_cast(nw_grad_call *c, int a, nw_format format) {
    if (nw_grad_tensor(c, a).format == format) return a;
    nw_grad_begin(c, "", "Cast", 1, &a);
    nw_grad_set_int(c, "to", format);
    return nw_grad_end(c);
}

int nw_grad_equal(nw_grad_call *c, int a, int b, int like) {
    return nw_grad_cast(c, nw_grad_op2(c, "Equal", a, b), nw_grad_tensor(c, like).format);
}

int nw_grad_extreme(nw_grad_call *c, int x, int y, int dy, const bool *axes) {
    int mask = nw_grad_equal(c, x, y, x);
    return nw_grad_op2(c, "Mul", mask, nw_grad_op2(c, "Div", dy, nw_grad_sum_axes(c, mask, axes, true)));
}

int nw_grad_channels(nw_grad_call *c, int a, int rank) {
    int64_t dims[NW_MAX_RANK] = {1, 1, 1, 1, 1, 1, 1, 1};
    nw_tensor t = nw_grad_tensor(c, a);
    dims[rank > 1] = (int64_t)nw_tensor_count(&t);
    return nw_grad_reshape(c, a, rank, dims);
}

nw_status nw_grad_view(nw_grad_call *c) {
    c->dx[0] = nw_grad_reshape_like(c, c->dy[0], c->node->in[0]);
    return c->status;
}
