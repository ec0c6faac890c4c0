/* parameters.c: which constants are learned, and how they become inputs. */
#include "train/parameters.h"

#include "op/op.h"

#include <math.h>
#include <string.h>

typedef struct builder {
    nw_graph *graph;
    nw_arena *arena;
    const nw_train_options *options;
    nw_train_values *out;
    size_t parameter_capacity, state_capacity;
    bool *learned; /* [value_count] stands where a parameter does */
} builder;

static bool is_one_of(const nw_node *node, const char *const *names) {
    for (int i = 0; names[i]; i++)
        if (strcmp(node->op_type, names[i]) == 0) return true;
    return false;
}

/* A list of numbers that Add or Mul may have learned: attention masks, which hold −∞ or what stands for it,
 * are none. */
static bool is_learnable_list(const nw_tensor *t) {
    size_t count = t && t->format == NW_F32 && !t->qparam ? nw_tensor_count(t) : 0;
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(((const float *)t->data)[i]) < 1e4f)) return false;
    return count > 1;
}

/* Whether a constant as input i of this node is something to learn. */
static bool is_parameter_place(const nw_node *node, const nw_roles *roles, int i, const nw_tensor *t) {
    static const char *const affine[] = {"BatchNormalization",
                                         "InstanceNormalization",
                                         "GroupNormalization",
                                         "LayerNormalization",
                                         "RMSNormalization",
                                         "SimplifiedLayerNormalization",
                                         "PRelu",
                                         NULL};
    static const char *const recurrent[] = {"LSTM", "GRU", "RNN", NULL};
    static const char *const sums[] = {"Add", "Mul", NULL};
    if (is_one_of(node, affine)) return i == 1 || i == 2;
    if (is_one_of(node, recurrent)) return i == 1 || i == 2 || i == 3 || i == 7;
    if (is_one_of(node, sums)) return is_learnable_list(t);
    nw_role role = nw_roles_of(roles, i);
    return role == NW_ROLE_WEIGHT || role == NW_ROLE_BIAS;
}

static bool passes_on(const nw_node *node) {
    static const char *const names[] = {"FakeQuant", "Transpose", "Reshape", "Identity", NULL};
    return is_one_of(node, names);
}

/* Backwards, so that a constant behind FakeQuant and Transpose is found too. */
static void mark_learned(builder *b) {
    const nw_graph *g = b->graph;
    for (int n = g->node_count - 1; n >= 0; n--) {
        const nw_node *node = &g->nodes[n];
        if (node->dead) continue;
        nw_roles roles = nw_node_roles(node);
        for (int i = 0; i < node->in_count; i++) {
            const nw_constant *c = nw_graph_constant(g, node->in[i]);
            if (node->in[i] >= 0 && is_parameter_place(node, &roles, i, c ? &c->tensor : NULL))
                b->learned[node->in[i]] = true;
        }
        int from = nw_node_in(node, 0), to = nw_node_out(node, 0);
        if (from >= 0 && to >= 0 && b->learned[to] && passes_on(node)) b->learned[from] = true;
    }
}

/* Constant v becomes an input; *t is its tensor, copied into the arena. */
static nw_status make_input(builder *b, int v, nw_tensor *t) {
    nw_graph *g = b->graph;
    nw_constant *c = g->values[v].constant;
    *t = c->tensor;
    NW_TRY(nw_tensor_alloc(b->arena, t));
    if (nw_tensor_bytes(t)) memcpy(t->data, c->tensor.data, nw_tensor_bytes(t));
    bool listed = false;
    for (int i = 0; i < g->input_count; i++) listed |= g->inputs[i] == v;
    if (!listed) NW_TRY(nw_graph_add_input(g, v));
    nw_bytes_free(c->owner);
    g->values[v].constant = NULL;
    return NW_OK;
}

static bool is_plain(const nw_constant *c) {
    return c && c->tensor.format == NW_F32 && !c->tensor.qparam;
}

static nw_status add_parameter(builder *b, int v, bool is_scale) {
    nw_train_values *out = b->out;
    NW_TRY(nw_arena_grow(b->arena, (void **)&out->parameters, &b->parameter_capacity, out->parameter_count,
                         sizeof *out->parameters));
    nw_parameter *p = &out->parameters[out->parameter_count];
    *p = (nw_parameter){.value = v, .name = b->graph->values[v].name};
    NW_TRY(make_input(b, v, &p->tensor));
    p->kind = is_scale ? NW_PARAMETER_SCALE : p->tensor.rank > 1 ? NW_PARAMETER_WEIGHT : NW_PARAMETER_VECTOR;
    out->parameter_count++;
    return NW_OK;
}

/* ---- BatchNormalization -------------------------------------------------------------------------------- */

static nw_status add_state(builder *b, int value, int next) {
    nw_train_values *out = b->out;
    NW_TRY(nw_arena_grow(b->arena, (void **)&out->states, &b->state_capacity, out->state_count,
                         sizeof *out->states));
    nw_train_state *s = &out->states[out->state_count];
    *s = (nw_train_state){.value = value, .next = next, .name = b->graph->values[value].name};
    NW_TRY(make_input(b, value, &s->tensor));
    NW_TRY(nw_graph_add_output(b->graph, next));
    out->state_count++;
    return NW_OK;
}

static nw_status train_batchnorm(builder *b, int index) {
    nw_graph *g = b->graph;
    nw_node *node = &g->nodes[index];
    const int mean = nw_node_in(node, 3), variance = nw_node_in(node, 4);
    if (b->options->freeze_statistics || nw_node_out(node, 1) >= 0) return NW_OK;
    if (!is_plain(nw_graph_constant(g, mean)) || !is_plain(nw_graph_constant(g, variance))) return NW_OK;
    int *outs = nw_arena_array(&g->arena, 3, sizeof *outs);
    if (!outs) return NW_E_MEMORY;
    outs[0] = node->out[0];
    NW_TRY(nw_graph_add_value(g, g->values[mean].name, &outs[1]));
    NW_TRY(nw_graph_add_value(g, g->values[variance].name, &outs[2]));
    node->out = outs;
    node->out_count = 3;
    NW_TRY(nw_node_set_int(g, node, "training_mode", 1));
    NW_TRY(add_state(b, mean, outs[1]));
    return add_state(b, variance, outs[2]);
}

/* ---- Dropout ------------------------------------------------------------------------------------------- */

/* Its ratio: constant input 1, before opset 12 an attribute; 0.5 unless stated. False: computed. */
static bool dropout_ratio(const nw_graph *g, const nw_node *node, double *ratio) {
    const nw_constant *c = nw_graph_constant(g, nw_node_in(node, 1));
    *ratio = (double)nw_node_float(node, "ratio", 0.5f);
    if (c) *ratio = nw_tensor_f64(&c->tensor, 0);
    return c || nw_node_in(node, 1) < 0;
}

static nw_status step_input(builder *b) {
    if (b->out->step >= 0) return NW_OK;
    NW_TRY(nw_graph_add_value(b->graph, "train/step", &b->out->step));
    nw_value *v = &b->graph->values[b->out->step];
    v->format = NW_S64;
    v->rank = 0;
    return nw_graph_add_input(b->graph, b->out->step);
}

static nw_status train_dropout(builder *b, int index) {
    nw_graph *g = b->graph;
    nw_node *node = &g->nodes[index];
    double ratio;
    if (nw_node_out(node, 1) >= 0 || !dropout_ratio(g, node, &ratio) || !(ratio > 0)) return NW_OK;
    NW_TRY(step_input(b));
    nw_node *fresh;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "Dropout", node->name, 2, (int[]){node->in[0], b->out->step}, 1,
                             node->out, &fresh));
    fresh->op = &nw_op_narrow_Dropout;
    NW_TRY(nw_node_set_float(g, fresh, "ratio", (float)ratio));
    NW_TRY(nw_node_set_int(g, fresh, "seed", b->options->seed + index)); /* each layer its own */
    g->nodes[index].dead = true;
    return NW_OK;
}

nw_status nw_train_take_constants(nw_graph *g) {
    for (int n = 0; n < g->node_count; n++) {
        nw_node *node = &g->nodes[n];
        const nw_attr *value = nw_node_is(node, "Constant") ? nw_node_attr(node, "value") : NULL;
        if (!value || value->kind != NW_ATTR_TENSOR) continue;
        NW_TRY(nw_graph_set_constant_copy(g, node->out[0], &value->tensor->tensor));
        node->dead = true;
    }
    return nw_graph_sort(g);
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static nw_status fix_inputs(nw_graph *g, int64_t batch) {
    for (int i = 0; i < g->input_count; i++) {
        nw_value *v = &g->values[g->inputs[i]];
        if (v->constant) continue;
        if (v->rank > 0 && v->dims[0] <= 0) v->dims[0] = batch;
        bool known = v->rank >= 0;
        for (int d = 0; d < v->rank; d++) known = known && v->dims[d] > 0;
        if (!known)
            return nw_fail(g->ctx, NW_E_SHAPE,
                           "input \"%s\" has no fixed shape; only its first dimension, the batch, may be "
                           "open for training",
                           v->name);
    }
    return NW_OK;
}

static nw_status choose(builder *b) {
    nw_graph *g = b->graph;
    for (int n = 0, count = g->node_count; n < count; n++) {
        if (g->nodes[n].dead) continue;
        for (int i = 0; i < g->nodes[n].in_count; i++) {
            int v = g->nodes[n].in[i];
            if (v >= 0 && b->learned[v] && is_plain(nw_graph_constant(g, v)))
                NW_TRY(add_parameter(b, v, false));
        }
        int scale = nw_node_in(&g->nodes[n], 1);
        bool of_constant =
            nw_graph_constant(g, nw_node_in(&g->nodes[n], 0)) != NULL; /* frozen: it stays packed */
        if (g->nodes[n].op == &nw_op_narrow_FakeQuant && b->options->learn_scales && !of_constant) {
            if (is_plain(nw_graph_constant(g, scale))) NW_TRY(add_parameter(b, scale, true));
            NW_TRY(nw_node_set_int(g, &g->nodes[n], "lsq", 1));
        }
        if (nw_node_is(&g->nodes[n], "BatchNormalization")) NW_TRY(train_batchnorm(b, n));
        if (nw_node_is(&g->nodes[n], "Dropout")) NW_TRY(train_dropout(b, n));
    }
    return nw_graph_sort(g);
}

nw_status nw_train_prepare(nw_graph *graph, const nw_train_options *options, nw_arena *arena,
                           nw_train_values *out) {
    *out = (nw_train_values){.step = NW_ABSENT};
    builder b = {.graph = graph, .arena = arena, .options = options, .out = out};
    if (options->batch < 1) return nw_fail(graph->ctx, NW_E_ARGUMENT, "the batch size must be at least 1");
    NW_TRY(fix_inputs(graph, options->batch));
    if (!nw_graph_opset(graph, "ai.narrow")) NW_TRY(nw_graph_set_opset(graph, "ai.narrow", 1));
    b.learned = nw_calloc(graph->ctx, (size_t)graph->value_count + 1, sizeof *b.learned);
    if (!b.learned) return NW_E_MEMORY;
    mark_learned(&b);
    nw_status status = choose(&b);
    nw_free(graph->ctx, b.learned);
    if (status == NW_OK && out->parameter_count == 0)
        status = nw_fail(graph->ctx, NW_E_ARGUMENT, "the model has no floating-point weights to train");
    return status;
}
