/* backward.c: the walk that joins the gradients of single nodes. */
#include "train/backward.h"

#include "op/grad.h"
#include "run/bind.h"

#include <stdio.h>
#include <string.h>

/* One of the values that add up to a gradient. */
typedef struct part {
    int value, next; /* index of the next part or −1 */
} part;

typedef struct backward {
    nw_graph *graph;
    nw_grad_shapes shapes;
    int node_count, value_count; /* of the forward graph */
    bool *depends;               /* [value_count] real numbers that depend on a parameter */
    int *first;                  /* [value_count] list of the parts of the value's gradient, −1: none */
    part *parts;
    size_t part_capacity;
    int part_count;
    nw_arena arena, scratch; /* of the walk; of one node */
} backward;

/* A copy of what binding knows, with the graph's own constants. */
static nw_status take_shapes(backward *b, const nw_binding *binding) {
    nw_grad_shapes *s = &b->shapes;
    NW_TRY(
        nw_grow(b->graph->ctx, (void **)&s->at, &s->capacity, 0, (size_t)b->value_count + 1, sizeof *s->at));
    s->count = b->value_count;
    for (int v = 0; v < b->value_count; v++) {
        const nw_constant *c = b->graph->values[v].constant;
        s->at[v] = v < binding->desc_count ? binding->desc[v] : (nw_tensor){.format = NW_NONE};
        s->at[v].data = NULL;
        if (c) s->at[v] = c->tensor;
    }
    return NW_OK;
}

static nw_status bind_shapes(backward *b) {
    nw_binding binding;
    NW_TRY(nw_bind(b->graph, NULL, &binding));
    b->node_count = b->graph->node_count;
    b->value_count = b->graph->value_count;
    nw_status status = take_shapes(b, &binding);
    nw_binding_free(&binding);
    if (status != NW_OK) return status;
    b->depends = nw_arena_array(&b->arena, (size_t)b->value_count + 1, sizeof *b->depends);
    b->first = nw_arena_array(&b->arena, (size_t)b->value_count + 1, sizeof *b->first);
    if (!b->depends || !b->first) return NW_E_MEMORY;
    for (int v = 0; v < b->value_count; v++) b->first[v] = -1;
    return NW_OK;
}

/* Format NW_NONE, of what is known only when it runs, passes: it fails later, with the node named. */
static bool may_have_gradient(const backward *b, int v) {
    nw_format format = b->shapes.at[v].format;
    return !b->graph->values[v].constant && (format == NW_NONE || nw_format_is_float(format));
}

static void mark_dependent(backward *b) {
    for (int n = 0; n < b->node_count; n++) {
        const nw_node *node = &b->graph->nodes[n];
        bool any = false;
        for (int i = 0; i < node->in_count; i++) any |= node->in[i] >= 0 && b->depends[node->in[i]];
        for (int o = 0; o < node->out_count && any; o++)
            if (node->out[o] >= 0) b->depends[node->out[o]] |= may_have_gradient(b, node->out[o]);
    }
}

static nw_status add_part(backward *b, int v, int gradient) {
    NW_TRY(nw_arena_grow(&b->arena, (void **)&b->parts, &b->part_capacity, (size_t)b->part_count,
                         sizeof *b->parts));
    b->parts[b->part_count] = (part){gradient, b->first[v]};
    b->first[v] = b->part_count++;
    return NW_OK;
}

/* The gradient of v: its parts, summed. NW_ABSENT: none. */
static int gradient_of(backward *b, nw_grad_call *c, int v) {
    int count = 0;
    if (v < 0 || v >= b->value_count || b->first[v] < 0) return NW_ABSENT;
    for (int p = b->first[v]; p >= 0; p = b->parts[p].next) count++;
    if (count == 1) return b->parts[b->first[v]].value;
    int *values = nw_arena_array(&b->scratch, (size_t)count, sizeof *values), i = count;
    if (!values) {
        c->status = NW_E_MEMORY;
        return NW_ABSENT;
    }
    for (int p = b->first[v]; p >= 0; p = b->parts[p].next) values[--i] = b->parts[p].value;
    int sum = nw_grad_sum(c, count, values);
    b->parts[b->first[v]] = (part){sum, -1};
    return sum;
}

static nw_status grad_of_node(backward *b, nw_grad_call *c, const nw_op *op) {
    const nw_node *node = c->node;
    for (int i = 0; i < node->in_count; i++) {
        nw_tensor x = nw_grad_tensor(c, node->in[i]);
        if (node->in[i] >= 0 && x.format == NW_NONE)
            return nw_fail(
                c->ctx, NW_E_UNSUPPORTED,
                "the shape of its input \"%s\" is known only when it runs; it cannot be trained through",
                b->graph->values[node->in[i]].name);
    }
    if (!op || !op->grad)
        return nw_fail(c->ctx, NW_E_UNSUPPORTED,
                       "the operator has no gradient, and parameters that are to be trained lie before it");
    NW_TRY(op->grad(c));
    NW_TRY(c->status);
    for (int i = 0; i < node->in_count; i++) {
        if (!c->wanted[i] || c->dx[i] < 0) continue;
        nw_tensor dx = nw_grad_tensor(c, c->dx[i]), x = nw_grad_tensor(c, node->in[i]);
        if (!nw_tensor_same_shape(&dx, &x) || dx.format != x.format)
            return nw_fail(c->ctx, NW_E_INTERNAL,
                           "the gradient of input %d has another shape or type than the input", i);
        NW_TRY(add_part(b, node->in[i], c->dx[i]));
    }
    return NW_OK;
}

static nw_grad_call call_for(backward *b, const nw_node *node) {
    return (nw_grad_call){.ctx = b->graph->ctx,
                          .graph = b->graph,
                          .node = node,
                          .version = (int)nw_graph_opset(b->graph, node->domain),
                          .shapes = &b->shapes,
                          .scratch = &b->scratch};
}

static nw_status visit(backward *b, int index) {
    const nw_node node = b->graph->nodes[index];
    nw_grad_call c = call_for(b, &node);
    bool any_dy = false, any_wanted = false;
    bool *wanted = nw_arena_array(&b->scratch, (size_t)node.in_count + 1, sizeof *wanted);
    int *dx = nw_arena_array(&b->scratch, (size_t)node.in_count + 1, sizeof *dx);
    int *dy = nw_arena_array(&b->scratch, (size_t)node.out_count + 1, sizeof *dy);
    if (!wanted || !dx || !dy) return NW_E_MEMORY;
    c.wanted = wanted;
    c.dx = dx;
    c.dy = dy;
    for (int i = 0; i < node.in_count; i++) {
        wanted[i] = node.in[i] >= 0 && b->depends[node.in[i]];
        any_wanted |= wanted[i];
        dx[i] = NW_ABSENT;
    }
    for (int o = 0; o < node.out_count && any_wanted; o++) {
        dy[o] = gradient_of(b, &c, node.out[o]);
        any_dy |= dy[o] >= 0;
    }
    if (!any_dy || !any_wanted) return c.status;
    nw_status status = c.status == NW_OK ? grad_of_node(b, &c, node.op) : c.status;
    if (status == NW_OK) return status;
    return nw_fail_where(c.ctx, status, "gradient of %s \"%s\"", node.op_type,
                         nw_node_label(b->graph, &node));
}

/* ∂loss/∂loss = 1 */
static nw_status seed(backward *b, int loss) {
    nw_context *ctx = b->graph->ctx;
    nw_tensor t = b->shapes.at[loss];
    const char *name = b->graph->values[loss].name;
    if (!nw_format_is_float(t.format) || nw_tensor_count(&t) != 1)
        return nw_fail(ctx, NW_E_SHAPE, "the loss \"%s\" must be a single floating-point number", name);
    if (!b->depends[loss])
        return nw_fail(ctx, NW_E_ARGUMENT, "the loss \"%s\" depends on none of the parameters", name);
    const nw_node none = {.name = "loss", .op_type = "", .domain = ""};
    nw_grad_call c = call_for(b, &none);
    int one = nw_grad_reshape(&c, nw_grad_number(&c, loss, 1), t.rank, t.dims);
    NW_TRY(c.status);
    return add_part(b, loss, one);
}

static nw_status run(backward *b, int loss, int count, const int *parameters, int *gradients) {
    if (!nw_graph_opset(b->graph, "ai.narrow")) NW_TRY(nw_graph_set_opset(b->graph, "ai.narrow", 1));
    if (!nw_graph_is_output(b->graph, loss)) NW_TRY(nw_graph_add_output(b->graph, loss));
    NW_TRY(bind_shapes(b));
    for (int i = 0; i < count; i++) b->depends[parameters[i]] = may_have_gradient(b, parameters[i]);
    mark_dependent(b);
    NW_TRY(seed(b, loss));
    for (int n = b->node_count - 1; n >= 0; n--) {
        if (!b->graph->nodes[n].dead) NW_TRY(visit(b, n));
        nw_arena_reset(&b->scratch);
    }
    const nw_node none = {.name = "parameters", .op_type = "", .domain = ""};
    nw_grad_call c = call_for(b, &none);
    for (int i = 0; i < count; i++) gradients[i] = gradient_of(b, &c, parameters[i]);
    return c.status;
}

nw_status nw_backward(nw_graph *graph, int loss, int count, const int *parameters, int *gradients) {
    backward b = {.graph = graph};
    nw_arena_init(&b.arena, graph->ctx);
    nw_arena_init(&b.scratch, graph->ctx);
    nw_status status = run(&b, loss, count, parameters, gradients);
    nw_arena_free(&b.scratch);
    nw_arena_free(&b.arena);
    nw_free(graph->ctx, b.shapes.at);
    return status;
}
