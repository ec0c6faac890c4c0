/* place.c: where quantizers go. */
#include "quant/place.h"

#include <stdio.h>
#include <string.h>

/* ---- questions about nodes and values --------------------------------------------------------- */

bool nw_quant_has_state(const nw_node *node) {
    return nw_node_is(node, "LSTM") || nw_node_is(node, "GRU");
}

int nw_quant_first_output(const nw_node *node) {
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] >= 0) return node->out[i];
    return NW_ABSENT;
}

bool nw_quant_is_weight(const nw_graph *g, int value) {
    const nw_constant *c = nw_graph_constant(g, value);
    return c && !c->tensor.qparam && c->tensor.format == NW_F32 && nw_tensor_count(&c->tensor) > 0;
}

int nw_quant_input_of(const nw_node *node, nw_role role) {
    nw_roles roles = nw_node_roles(node);
    for (int i = 0; i < node->in_count; i++)
        if (nw_roles_of(&roles, i) == role && node->in[i] >= 0) return i;
    return NW_ABSENT;
}

static bool is_op(const nw_node *node, const char *type) {
    return !node->domain[0] && strcmp(node->op_type, type) == 0;
}

static bool is_one_of(const nw_node *node, const char *const *types) {
    for (; *types; types++)
        if (is_op(node, *types)) return true;
    return false;
}

/* Real numbers, as far as is known: a value of an unknown type is taken for one next to layers that compute
 * on reals. */
static bool is_real(const nw_graph *g, int value) {
    return value >= 0 && !g->values[value].type &&
           (g->values[value].format == NW_F32 || !g->values[value].format);
}

/* Relu and Clip to constant limits: saturation does their work in the layer before. */
static bool is_clamp(const nw_graph *g, const nw_node *node) {
    if (is_op(node, "Relu")) return true;
    if (!is_op(node, "Clip")) return false;
    for (int i = 1; i < node->in_count; i++)
        if (node->in[i] >= 0 && !nw_graph_constant(g, node->in[i])) return false;
    return true;
}

/* Layers whose integer form may give a float result (MatMulInteger, QGemm without an output scale), or does. */
static bool gives_float(const nw_node *node) {
    static const char *const types[] = {"MatMul", "Gemm", "LSTM", "GRU", NULL};
    return is_one_of(node, types);
}

static bool has_known_range(const nw_node *node, float *lo, float *hi) {
    static const char *const unit[] = {"Softmax", "Sigmoid", "HardSigmoid", NULL};
    static const char *const both[] = {"Tanh", "Softsign", "Sin", "Cos", NULL};
    *hi = 1;
    *lo = is_one_of(node, both) ? -1 : 0;
    return *lo < 0 || is_one_of(node, unit);
}

/* ---- which layers ----------------------------------------------------------------------------- */

typedef struct placing {
    nw_quant_plan *plan;
    const nw_graph *g;
    const nw_uses *uses;
    const nw_quant_options *o;
    bool *whole; /* [value_count] comes from an integer layer: itself, through a clamp, or moved */
    bool *raw; /* [value_count] an input of the model that is not to be quantized, itself, clamped or moved */
    bool *inner; /* [value_count] between a layer and the clamp that belongs to it */
} placing;

static const char *say(placing *p, const char *format, const char *text) {
    const char *reason = nw_arena_printf(&p->plan->arena, format, text);
    return reason ? reason : "";
}

/* What a node offers to quantize. */
typedef struct offer {
    nw_roles roles;
    bool weighted;  /* a constant weight that can be packed, or is */
    bool product;   /* a weight input that is computed */
    int data;       /* data inputs that are computed */
    bool all_whole; /* all of them come from integer layers */
    bool real;      /* all of them are real numbers */
    bool raw;       /* one of them is not to be quantized */
} offer;

static offer offer_of(const placing *p, const nw_node *node) {
    offer f = {.roles = nw_node_roles(node), .all_whole = true, .real = true};
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i];
        nw_role role = nw_roles_of(&f.roles, i);
        if (v < 0 || (role != NW_ROLE_DATA && role != NW_ROLE_WEIGHT)) continue;
        const nw_constant *c = nw_graph_constant(p->g, v);
        if (c) {
            f.weighted |= role == NW_ROLE_WEIGHT && (c->tensor.qparam || nw_quant_is_weight(p->g, v));
            f.real &= c->tensor.qparam || c->tensor.format == NW_F32;
            continue;
        }
        f.product |= role == NW_ROLE_WEIGHT;
        f.data++;
        f.all_whole &= p->whole[v];
        f.real &= is_real(p->g, v);
        f.raw |= p->raw[v];
    }
    return f;
}

static bool is_slow(const placing *p, const nw_node *node) {
    const int out = nw_quant_first_output(node);
    for (size_t i = 0; out >= 0 && i < p->o->slow_count; i++)
        if (strcmp(p->o->slow[i], p->g->values[out].name) == 0) return true;
    return false;
}

static nw_node_mode mode_of(placing *p, const nw_node *node, const char **reason) {
    const nw_quant_options *o = p->o;
    offer f = offer_of(p, node);
    bool layer = f.roles.compute || f.weighted, table = f.weighted && f.roles.same_grid; /* Gather */
    *reason = NULL;
    if (!layer && !f.roles.same_grid) return NW_NODE_FLOAT;
    const char *pattern = nw_node_first_match(o->exclude_count, o->exclude, p->g, node);
    if (pattern) {
        *reason = say(p, "excluded by \"%s\"", pattern);
        return NW_NODE_FLOAT;
    }
    if (!layer) return NW_NODE_SAME;
    if (o->only_count && !nw_node_first_match(o->only_count, o->only, p->g, node)) {
        *reason = "not among the layers asked for";
        return NW_NODE_FLOAT;
    }
    if (is_slow(p, node)) {
        *reason = "measured: integers would slow it down";
        return NW_NODE_FLOAT;
    }
    if (!f.real) { /* without weights it is shape arithmetic: no layer at all */
        *reason = f.weighted ? "computes on other numbers than f32" : NULL;
        return NW_NODE_FLOAT;
    }
    if (f.weighted && !f.roles.compute) { /* embeddings and recurrent layers */
        if ((table ? o->embeddings : o->recurrent) == NW_NO) {
            *reason = table ? "embeddings are left in float" : "recurrent layers are left in float";
            return NW_NODE_FLOAT;
        }
        if (!nw_quant_has_state(node)) return NW_NODE_WEIGHTS;
    }
    bool recurrent = !f.roles.compute;
    if (f.raw && (o->scheme == NW_QUANT_STATIC || (o->scheme == NW_QUANT_DYNAMIC && recurrent)))
        *reason = "its input is left in float";
    if (f.weighted) return *reason || o->scheme == NW_QUANT_WEIGHTS ? NW_NODE_WEIGHTS : NW_NODE_INTEGER;
    if (*reason) return NW_NODE_FLOAT;
    if (o->scheme != NW_QUANT_STATIC)
        *reason = "has no weights";
    else if (f.product)
        *reason = o->products == NW_NO ? "products of activations are left in float" : NULL;
    else if (o->elementwise == NW_NO)
        *reason = "layers without weights are left in float";
    else if (f.data == 0)
        *reason = "all its operands are constants";
    else if (o->elementwise == NW_AUTO && !f.all_whole)
        *reason = "not all its operands come from integer layers";
    return *reason ? NW_NODE_FLOAT : NW_NODE_INTEGER;
}

/* Marks what the node makes. */
static void mark_outputs(placing *p, const nw_node *node, nw_node_mode mode) {
    int in = nw_node_in(node, 0), out = nw_node_out(node, 0);
    if (out < 0) return;
    bool moved = mode == NW_NODE_SAME || (mode == NW_NODE_FLOAT && is_clamp(p->g, node));
    for (int i = 0; i < node->out_count && moved && in >= 0; i++)
        if (node->out[i] >= 0) p->raw[node->out[i]] = p->raw[in];
    if (mode == NW_NODE_INTEGER) p->whole[out] = !gives_float(node);
    if (mode == NW_NODE_SAME && in >= 0 && p->whole[in])
        for (int i = 0; i < node->out_count; i++)
            if (node->out[i] >= 0) p->whole[node->out[i]] = is_real(p->g, node->out[i]);
    if (mode != NW_NODE_FLOAT || in < 0 || !is_clamp(p->g, node)) return;
    int maker = p->uses->producer[in];
    bool layer = maker >= 0 && p->plan->mode[maker] == NW_NODE_INTEGER;
    p->whole[out] = p->whole[in];
    p->inner[in] = layer && nw_uses_count(p->uses, in) == 1;
}

/* ---- which values ----------------------------------------------------------------------------- */

static void add_point(placing *p, int v) {
    nw_quant_plan *plan = p->plan;
    if (v < 0 || plan->point_of[v] >= 0 || nw_graph_constant(p->g, v) || !is_real(p->g, v)) return;
    int maker = p->uses->producer[v];
    const nw_node *node = maker >= 0 ? &p->g->nodes[maker] : NULL;
    if (node && strcmp(node->op_type, "FakeQuant") == 0) return; /* on a grid already */
    nw_quant_point point = {.value = v, .root = v};
    if (node && p->o->scheme == NW_QUANT_STATIC) {
        bool in_layer = is_clamp(p->g, node) && node->in[0] >= 0 && p->inner[node->in[0]];
        point.everywhere = p->whole[v] || in_layer || plan->mode[maker] == NW_NODE_INTEGER;
    }
    if (node && p->o->known_ranges) point.known = has_known_range(node, &point.lo, &point.hi);
    plan->point_of[v] = plan->point_count;
    plan->points[plan->point_count++] = point;
}

static bool is_only_output(const placing *p, int v) {
    return p->uses->outputs[v] > 0 && p->uses->first[v] == p->uses->first[v + 1] && !p->o->quantize_outputs;
}

static void add_points(placing *p) {
    for (int n = 0; n < p->g->node_count; n++) {
        const nw_node *node = &p->g->nodes[n];
        if (p->plan->mode[n] != NW_NODE_INTEGER) continue;
        nw_roles roles = nw_node_roles(node);
        for (int i = 0; i < node->in_count; i++) {
            nw_role role = nw_roles_of(&roles, i);
            if (role == NW_ROLE_DATA || role == NW_ROLE_WEIGHT) add_point(p, node->in[i]);
        }
    }
    if (p->o->scheme != NW_QUANT_STATIC) return;
    for (int v = 0; v < p->g->value_count; v++)
        if (p->whole[v] && !p->inner[v] && nw_uses_count(p->uses, v) > 0 && !is_only_output(p, v))
            add_point(p, v);
    for (int i = 0; i < p->g->output_count && p->o->quantize_outputs; i++) add_point(p, p->g->outputs[i]);
}

static void keep_point(placing *p, const nw_quant_point *old, int v) {
    if (v < 0 || p->plan->point_of[v] < 0) return;
    p->plan->points[p->plan->point_count] = old[p->plan->point_of[v]];
    p->plan->point_of[v] = p->plan->point_count++;
}

/* Points in the order in which values come about: what users read from top to bottom. */
static nw_status order_points(placing *p, nw_arena *scratch) {
    nw_quant_plan *plan = p->plan;
    size_t size = (size_t)plan->point_count * sizeof(nw_quant_point);
    nw_quant_point *old = nw_arena_alloc(scratch, size);
    if (!old) return NW_E_MEMORY;
    memcpy(old, plan->points, size);
    plan->point_count = 0;
    for (int v = 0; v < p->g->value_count; v++)
        if (p->uses->producer[v] < 0) keep_point(p, old, v);
    for (int n = 0; n < p->g->node_count; n++)
        for (int i = 0; i < p->g->nodes[n].out_count; i++) keep_point(p, old, p->g->nodes[n].out[i]);
    return NW_OK;
}

/* ---- which values share a grid ---------------------------------------------------------------- */

static void tie_moved(placing *p, const nw_node *node) {
    nw_quant_point *x = nw_quant_point_of(p->plan, nw_node_in(node, 0));
    for (int i = 0; i < node->out_count && x; i++) {
        nw_quant_point *y = nw_quant_point_of(p->plan, node->out[i]);
        if (!y) continue;
        y->root = x->root;
        y->everywhere |= x->everywhere;
        y->known = false;
    }
}

/* What a Concat puts together would be requantized to its output's grid anyway: give it that one from the
 * start. */
static void tie_joined(placing *p, const nw_node *node) {
    nw_quant_point *y = nw_quant_point_of(p->plan, nw_node_out(node, 0));
    if (!y || y->root != y->value) return;
    for (int i = 0; i < node->in_count; i++) {
        nw_quant_point *x = nw_quant_point_of(p->plan, node->in[i]);
        if (!x || x->root != x->value || nw_uses_count(p->uses, x->value) != 1) continue;
        x->root = y->value;
        x->known = false;
    }
}

nw_quant_point *nw_quant_root(const nw_quant_plan *plan, const nw_quant_point *point) {
    while (point->root != point->value) point = nw_quant_point_of(plan, point->root);
    return &plan->points[point - plan->points];
}

/* ---- the plan --------------------------------------------------------------------------------- */

static void mark_inputs(placing *p, const bool *raw) {
    for (int i = 0; i < p->g->input_count; i++) {
        int v = p->g->inputs[i];
        if (p->o->inputs == NW_YES) continue;
        p->raw[v] = p->o->inputs == NW_NO || p->o->scheme == NW_QUANT_DYNAMIC || (raw && raw[v]);
    }
}

static nw_status place(nw_quant_plan *plan, const bool *raw, nw_arena *scratch) {
    const nw_graph *g = plan->graph;
    size_t values = (size_t)g->value_count, nodes = (size_t)g->node_count;
    placing p = {.plan = plan, .g = g, .uses = &plan->uses, .o = &plan->options};
    p.whole = nw_arena_array(scratch, values, sizeof *p.whole);
    plan->raw = p.raw = nw_arena_array(&plan->arena, values, sizeof *p.raw);
    p.inner = nw_arena_array(scratch, values, sizeof *p.inner);
    plan->mode = nw_arena_array(&plan->arena, nodes, sizeof *plan->mode);
    plan->reason = nw_arena_array(&plan->arena, nodes, sizeof *plan->reason);
    plan->point_of = nw_arena_array(&plan->arena, values, sizeof *plan->point_of);
    plan->points = nw_arena_array(&plan->arena, values, sizeof *plan->points);
    if (!p.whole || !p.raw || !p.inner || !plan->mode || !plan->reason || !plan->point_of || !plan->points)
        return NW_E_MEMORY;
    for (int v = 0; v < g->value_count; v++) plan->point_of[v] = -1;
    mark_inputs(&p, raw);
    for (int n = 0; n < g->node_count; n++) {
        plan->mode[n] = mode_of(&p, &g->nodes[n], &plan->reason[n]);
        mark_outputs(&p, &g->nodes[n], plan->mode[n]);
    }
    if (plan->options.scheme == NW_QUANT_WEIGHTS) return NW_OK;
    add_points(&p);
    NW_TRY(order_points(&p, scratch));
    for (int n = 0; n < g->node_count; n++) {
        if (plan->mode[n] == NW_NODE_SAME) tie_moved(&p, &g->nodes[n]);
        if (plan->mode[n] == NW_NODE_INTEGER && is_op(&g->nodes[n], "Concat")) tie_joined(&p, &g->nodes[n]);
    }
    return NW_OK;
}

nw_status nw_quant_place(nw_context *ctx, const nw_graph *graph, const nw_quant_options *options,
                         const bool *raw, nw_quant_plan **out) {
    NW_TRY(nw_quant_options_check(ctx, options));
    nw_quant_plan *plan = nw_calloc(ctx, 1, sizeof *plan);
    if (!plan) return NW_E_MEMORY;
    nw_arena_init(&plan->arena, ctx);
    plan->graph = graph;
    plan->options = *options;
    plan->node_count = graph->node_count;
    plan->value_count = graph->value_count;
    nw_arena scratch;
    nw_arena_init(&scratch, ctx);
    nw_status status = nw_uses_init(&plan->uses, graph);
    if (status == NW_OK) status = place(plan, raw, &scratch);
    nw_arena_free(&scratch);
    if (status != NW_OK) {
        nw_quant_plan_free(plan);
        return status;
    }
    *out = plan;
    return NW_OK;
}

void nw_quant_plan_free(nw_quant_plan *plan) {
    if (!plan) return;
    nw_context *ctx = plan->arena.ctx;
    nw_uses_free(&plan->uses);
    nw_arena_free(&plan->arena);
    nw_free(ctx, plan);
}
