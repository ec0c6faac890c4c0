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
    return c && nw_tensor_is_real(&c->tensor) && nw_tensor_count(&c->tensor) > 0;
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
    bool *raw;   /* [value_count] an input of the model, itself or moved, that static layers leave alone */
    bool *fed;   /* [value_count] likewise, that dynamic recurrent layers leave alone */
    bool *inner; /* [value_count] between a layer and the clamp that belongs to it */
    bool *fixed; /* [value_count] computed from constants and shapes alone, whatever is fed */
    bool *index; /* [value_count] whole numbers, made of such */
} placing;

/* Real numbers that data decides, as far as is known: a value of an unknown type is taken for one next to layers that
 * compute on reals. */
static bool is_real(const placing *p, int value) {
    if (value < 0 || p->g->values[value].type || p->fixed[value] || p->index[value]) return false;
    const nw_format format = p->g->values[value].format;
    return format == NW_F32 || format == NW_NONE;
}

static const char *say(placing *p, const char *format, const char *text) {
    const char *reason = nw_arena_printf(&p->plan->arena, format, text);
    return reason ? reason : "";
}

/* What a node offers to quantize. */
typedef struct offer {
    nw_roles roles;
    bool weighted;        /* a constant weight that can be packed, or is */
    bool product;         /* a weight input that is computed */
    bool captured;        /* or stands in the graph around this subgraph */
    bool fixed;           /* an input that is computed from shapes alone */
    bool other;           /* a weight of other numbers than f32 */
    int data;             /* data inputs that are computed */
    bool all_whole;       /* all of them come from integer layers */
    bool real, none_real; /* all, none of them are real numbers */
    bool raw, fed;        /* one of them is so */
} offer;

static offer offer_of(const placing *p, const nw_node *node) {
    offer f = {.roles = nw_node_roles(node), .all_whole = true, .real = true, .none_real = true};
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i];
        nw_role role = nw_roles_of(&f.roles, i);
        if (v < 0 || (role != NW_ROLE_DATA && role != NW_ROLE_WEIGHT)) continue;
        const nw_constant *c = nw_graph_constant(p->g, v);
        if (c) {
            f.weighted |= role == NW_ROLE_WEIGHT && (c->tensor.qparam || nw_quant_is_weight(p->g, v));
            f.other |= role == NW_ROLE_WEIGHT && !c->tensor.qparam && c->tensor.format != NW_F32 &&
                       nw_format_is_float(c->tensor.format);
            const bool real = c->tensor.qparam || c->tensor.format == NW_F32;
            f.real &= real;
            f.none_real &= !real;
            continue;
        }
        f.product |= role == NW_ROLE_WEIGHT;
        f.captured |= role == NW_ROLE_WEIGHT && p->g->values[v].outer >= 0;
        f.data++;
        f.all_whole &= p->whole[v];
        f.fixed |= p->fixed[v];
        f.real &= is_real(p, v);
        f.none_real &= !is_real(p, v);
        f.raw |= p->raw[v];
        f.fed |= p->fed[v];
    }
    return f;
}

/* An operator without an integer form, that computes with a matrix or more of constant numbers. */
static bool is_foreign(const placing *p, const nw_node *node) {
    for (int i = 0; i < node->in_count; i++) {
        if (node->in[i] < 0 || !nw_quant_is_weight(p->g, node->in[i])) continue;
        const nw_tensor *t = &nw_graph_constant(p->g, node->in[i])->tensor;
        int wide = 0;
        for (int d = 0; d < t->rank; d++) wide += t->dims[d] > 1;
        if (wide > 1) return true;
    }
    return false;
}

static bool is_slow(const placing *p, const nw_node *node) {
    const int out = nw_quant_first_output(node);
    for (size_t i = 0; out >= 0 && i < p->o->slow_count; i++)
        if (strcmp(p->o->slow[i], p->g->values[out].name) == 0) return true;
    return false;
}

/* The node of this type that alone reads v, or NULL. */
static const nw_node *only_reader(const placing *p, int v, const char *const *types) {
    if (p->uses->first[v + 1] - p->uses->first[v] != 1) return NULL;
    const nw_node *node = &p->g->nodes[p->uses->users[p->uses->first[v]]];
    return is_one_of(node, types) ? node : NULL;
}

/* Whether v holds, moved or not, keys or values of earlier tokens that come from outside, to which new ones are joined. */
static bool is_remembered(const placing *p, int v) {
    for (int maker; (maker = p->uses->producer[v]) >= 0; v = p->g->nodes[maker].in[0]) {
        const nw_node *node = &p->g->nodes[maker];
        for (int i = 0; is_op(node, "Concat") && i < node->in_count; i++)
            if (p->uses->producer[node->in[i]] < 0 && !nw_graph_constant(p->g, node->in[i])) return true;
        if (!nw_node_roles(node).same_grid || nw_node_in(node, 0) < 0) return false;
    }
    return false;
}

/* Whether a product is one of attention that the runtime computes on integers: a Softmax reads it, scaled and masked
 * perhaps, or it reads a Softmax. With remembered keys it would take longer to round them than to multiply them. */
static bool is_attention(const placing *p, const nw_node *node) {
    static const char *const ways[] = {"Mul", "Div", "Add", NULL}, *const softmax[] = {"Softmax", NULL};
    if (!is_op(node, "MatMul") || is_remembered(p, node->in[1])) return false;
    const int maker = p->uses->producer[node->in[0]];
    if (maker >= 0 && is_one_of(&p->g->nodes[maker], softmax)) return true;
    const nw_node *next = node;
    for (int hops = 0; next && hops < 3; hops++) {
        if (only_reader(p, next->out[0], softmax)) return true;
        next = only_reader(p, next->out[0], ways);
    }
    return false;
}

/* Why a rule, or none, leaves a layer in float. */
static const char *float_reason(placing *p, const nw_node *node, const nw_quant_rule *rule) {
    if (!rule) return "layers are left in float where no rule says otherwise";
    if (rule->others) return "not among the layers asked for";
    return say(p, "excluded by \"%s\"", nw_quant_rule_applies(rule, p->g, node));
}

static nw_node_mode mode_of(placing *p, const nw_node *node, nw_quant_choice *choice, const char **reason) {
    const nw_quant_options *o = p->o;
    const nw_quant_rule *rule;
    offer f = offer_of(p, node);
    bool layer = f.roles.compute || f.weighted, table = f.weighted && f.roles.same_grid; /* Gather */
    *reason = NULL;
    if (!layer && !f.roles.same_grid) {
        if (is_foreign(p, node)) *reason = "an operator without an integer form";
        return NW_NODE_FLOAT;
    }
    *choice = nw_quant_choose(&o->choice, o->rule_count, o->rules, p->g, node, &rule);
    if (o->weights_at_most && choice->mode != NW_QUANT_FLOAT) choice->mode = NW_QUANT_WEIGHTS;
    const nw_quant_mode mode = choice->mode;
    if (!layer && (mode != NW_QUANT_FLOAT || !rule || rule->others)) return NW_NODE_SAME;
    if (mode == NW_QUANT_FLOAT) {
        *reason = float_reason(p, node, rule);
        return NW_NODE_FLOAT;
    }
    if (is_slow(p, node)) {
        *reason = "measured: integers would slow it down";
        return NW_NODE_FLOAT;
    }
    if (!f.real) { /* without weights it is shape arithmetic: no layer at all */
        *reason = f.weighted || f.other     ? "computes on other numbers than f32"
                  : f.fixed && !f.none_real ? "an operand is computed from the shapes of the model's inputs"
                                            : NULL;
        return NW_NODE_FLOAT;
    }
    if (f.weighted && !f.roles.compute) { /* embeddings and recurrent layers */
        if ((table ? o->embeddings : o->recurrent) == NW_NO) {
            *reason = table ? "embeddings are left in float" : "recurrent layers are left in float";
            return NW_NODE_FLOAT;
        }
        if (!nw_quant_has_state(node) || nw_quant_is_binary(choice)) return NW_NODE_WEIGHTS;
    }
    bool recurrent = !f.roles.compute;
    if ((f.raw && mode == NW_QUANT_STATIC) || (f.fed && mode == NW_QUANT_DYNAMIC && recurrent))
        *reason = "its input is left in float";
    if (f.weighted) return *reason || mode == NW_QUANT_WEIGHTS ? NW_NODE_WEIGHTS : NW_NODE_INTEGER;
    if (!*reason && f.captured) *reason = "its weights stand outside of its subgraph";
    if (*reason) return NW_NODE_FLOAT;
    const bool asked = o->products == NW_YES || (rule && !rule->others);
    if (mode == NW_QUANT_DYNAMIC && f.product && o->products == NW_NO)
        *reason = "products of activations are left in float";
    else if (mode == NW_QUANT_DYNAMIC && f.product)
        *reason = asked || is_attention(p, node)
                      ? NULL
                      : "products of activations are left in float unless asked for";
    else if (mode != NW_QUANT_STATIC || nw_quant_is_binary(choice))
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

/* Whether the node sees nothing of the data: constants, shapes, and what was computed from them. */
static bool is_fixed(const placing *p, const nw_node *node) {
    if (node->op && node->op->flags & NW_OP_SHAPE) return true;
    for (int a = 0; a < node->attr_count; a++)
        if (node->attrs[a].kind == NW_ATTR_GRAPH || node->attrs[a].kind == NW_ATTR_GRAPHS) return false;
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0 && !nw_graph_constant(p->g, node->in[i]) && !p->fixed[node->in[i]]) return false;
    return node->in_count > 0 && !(node->op && node->op->flags & NW_OP_RANDOM);
}

/* Marks what the node makes. */
static void mark_outputs(placing *p, int n) {
    const nw_node *node = &p->g->nodes[n];
    const offer f = offer_of(p, node);
    const bool fixed = is_fixed(p, node),
               index = (f.roles.compute || f.roles.same_grid) && f.data && f.none_real;
    for (int i = 0; i < node->out_count; i++) {
        if (node->out[i] < 0) continue;
        p->fixed[node->out[i]] = fixed;
        p->index[node->out[i]] = index && p->g->values[node->out[i]].format != NW_F32;
    }
    const nw_node_mode mode = p->plan->mode[n];
    int in = nw_node_in(node, 0), out = nw_node_out(node, 0);
    if (out < 0) return;
    bool moved =
        mode == NW_NODE_SAME || (mode == NW_NODE_FLOAT && (is_clamp(p->g, node) || is_op(node, "Cast")));
    for (int i = 0; i < node->out_count && moved && in >= 0; i++)
        if (node->out[i] >= 0) {
            p->raw[node->out[i]] = p->raw[in];
            p->fed[node->out[i]] = p->fed[in];
        }
    if (nw_quant_is_static(p->plan, n))
        p->whole[out] = !gives_float(node) && !nw_quant_is_binary(&p->plan->choice[n]);
    if (mode == NW_NODE_SAME && in >= 0 && p->whole[in])
        for (int i = 0; i < node->out_count; i++)
            if (node->out[i] >= 0) p->whole[node->out[i]] = is_real(p, node->out[i]);
    if (mode != NW_NODE_FLOAT || in < 0 || !is_clamp(p->g, node)) return;
    int maker = p->uses->producer[in];
    p->whole[out] = p->whole[in];
    p->inner[in] = maker >= 0 && nw_quant_is_static(p->plan, maker) && nw_uses_count(p->uses, in) == 1;
}

/* ---- which values ----------------------------------------------------------------------------- */

/* Which of two layers decides a grid: a static one, then the one of more bits, then the first. */
static const nw_quant_choice *finer(const nw_quant_choice *a, const nw_quant_choice *b) {
    const bool a_static = a->mode == NW_QUANT_STATIC, b_static = b->mode == NW_QUANT_STATIC;
    if (a_static != b_static) return a_static ? a : b;
    return nw_format_bits(b->activation) > nw_format_bits(a->activation) ? b : a;
}

/* one_scale: what reads it can do nothing with a scale per row. */
static void add_point(placing *p, int v, const nw_quant_choice *choice, bool one_scale) {
    nw_quant_plan *plan = p->plan;
    if (v < 0 || nw_graph_constant(p->g, v) || !is_real(p, v)) return;
    int maker = p->uses->producer[v];
    const nw_node *node = maker >= 0 ? &p->g->nodes[maker] : NULL;
    if (node && strcmp(node->op_type, "FakeQuant") == 0) return; /* on a grid already */
    if (plan->point_of[v] >= 0) {
        nw_quant_point *old = &plan->points[plan->point_of[v]];
        old->choice = finer(old->choice, choice);
        old->one_scale |= one_scale && !old->per_row;
        return;
    }
    nw_quant_point point = {
        .value = v, .root = v, .choice = choice, .per_row = node && is_op(node, "Softmax")};
    point.one_scale = one_scale && !point.per_row;
    if (node && p->o->known_ranges) point.known = has_known_range(node, &point.lo, &point.hi);
    plan->point_of[v] = plan->point_count;
    plan->points[plan->point_count++] = point;
}

/* The choice of the layer that made v, before clamps and moves. */
static const nw_quant_choice *maker_choice(const placing *p, int v) {
    int maker = p->uses->producer[v];
    while (maker >= 0 && p->plan->mode[maker] != NW_NODE_INTEGER) {
        const int in = nw_node_in(&p->g->nodes[maker], 0);
        maker = in < 0 ? NW_ABSENT : p->uses->producer[in];
    }
    return maker < 0 ? &p->o->choice : &p->plan->choice[maker];
}

static bool is_only_output(const placing *p, int v) {
    return p->uses->outputs[v] > 0 && p->uses->first[v] == p->uses->first[v + 1] && !p->o->quantize_outputs;
}

static void add_points(placing *p) {
    nw_quant_plan *plan = p->plan;
    for (int n = 0; n < p->g->node_count; n++) {
        const nw_node *node = &p->g->nodes[n];
        if (plan->mode[n] != NW_NODE_INTEGER) continue;
        nw_roles roles = nw_node_roles(node);
        const bool rows = is_op(node, "MatMul") || (is_op(node, "Gemm") && !nw_node_int(node, "transA", 0));
        const bool one_scale = !rows || offer_of(p, node).product;
        for (int i = 0; i < node->in_count; i++) {
            nw_role role = nw_roles_of(&roles, i);
            if (role == NW_ROLE_DATA || role == NW_ROLE_WEIGHT)
                add_point(p, node->in[i], &plan->choice[n], one_scale);
        }
    }
    for (int v = 0; v < p->g->value_count; v++) {
        if (!p->whole[v] || p->inner[v] || nw_uses_count(p->uses, v) == 0 || is_only_output(p, v)) continue;
        const nw_quant_point *point = nw_quant_point_of(plan, v);
        if (!point || point->choice->mode != NW_QUANT_STATIC) add_point(p, v, maker_choice(p, v), false);
    }
    for (int i = 0; i < p->g->output_count && p->o->quantize_outputs; i++) {
        const nw_quant_choice *choice = maker_choice(p, p->g->outputs[i]);
        if (choice->mode == NW_QUANT_STATIC) add_point(p, p->g->outputs[i], choice, false);
    }
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
        if (!y || nw_quant_is_binary(y->choice)) continue;
        y->root = x->root;
        y->known = false;
    }
}

/* What a Concat puts together would be requantized to its output's grid anyway: give it that one from the
 * start. */
static void tie_joined(placing *p, const nw_node *node) {
    nw_quant_point *y = nw_quant_point_of(p->plan, nw_node_out(node, 0));
    if (!y || y->root != y->value || nw_quant_is_binary(y->choice)) return;
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

/* One choice for all that share a grid. */
static void agree(placing *p) {
    nw_quant_plan *plan = p->plan;
    for (int i = 0; i < plan->point_count; i++) {
        nw_quant_point *root = nw_quant_root(plan, &plan->points[i]);
        root->choice = finer(root->choice, plan->points[i].choice);
        root->one_scale |= plan->points[i].one_scale;
    }
    for (int i = 0; i < plan->point_count; i++)
        plan->points[i].choice = nw_quant_root(plan, &plan->points[i])->choice;
}

/* What an integer layer gives on a measured grid has no other form; nor have moved copies of it. */
static void mark_everywhere(placing *p) {
    nw_quant_plan *plan = p->plan;
    for (int i = 0; i < plan->point_count; i++) {
        nw_quant_point *x = &plan->points[i];
        const int maker = p->uses->producer[x->value];
        if (maker < 0 || x->choice->mode != NW_QUANT_STATIC || nw_quant_is_binary(x->choice)) continue;
        const nw_node *node = &p->g->nodes[maker];
        bool in_layer = is_clamp(p->g, node) && node->in[0] >= 0 && p->inner[node->in[0]];
        const bool integer =
            nw_quant_is_static(p->plan, maker) && !nw_quant_is_binary(&p->plan->choice[maker]);
        x->everywhere = p->whole[x->value] || in_layer || integer;
    }
    for (int n = 0; n < p->g->node_count; n++) {
        const nw_node *node = &p->g->nodes[n];
        const nw_quant_point *x = nw_quant_point_of(plan, nw_node_in(node, 0));
        for (int i = 0; i < node->out_count && x && plan->mode[n] == NW_NODE_SAME; i++) {
            nw_quant_point *y = nw_quant_point_of(plan, node->out[i]);
            if (y) y->everywhere |= x->everywhere;
        }
    }
}

/* ---- the plan --------------------------------------------------------------------------------- */

static void mark_inputs(placing *p, const bool *raw) {
    for (int i = 0; i < p->g->input_count; i++) {
        int v = p->g->inputs[i];
        if (p->o->inputs == NW_YES) continue;
        p->fed[v] = true;
        p->raw[v] = p->o->inputs == NW_NO || (raw && raw[v]);
    }
}

/* Whether the rules make sense together at this layer. */
static nw_status check_choice(const placing *p, int n) {
    nw_context *ctx = p->plan->arena.ctx;
    if (p->plan->mode[n] != NW_NODE_INTEGER && p->plan->mode[n] != NW_NODE_WEIGHTS) return NW_OK;
    nw_status status = nw_quant_choice_check(ctx, &p->plan->choice[n]);
    if (status == NW_OK && nw_quant_is_static(p->plan, n))
        status = nw_quant_choice_check_product(ctx, &p->plan->choice[n]);
    return status == NW_OK ? NW_OK
                           : nw_fail_where(ctx, status, "layer \"%s\"", nw_node_label(p->g, &p->g->nodes[n]));
}

static nw_status place(nw_quant_plan *plan, const bool *raw, nw_arena *scratch) {
    const nw_graph *g = plan->graph;
    size_t values = (size_t)g->value_count, nodes = (size_t)g->node_count;
    placing p = {.plan = plan, .g = g, .uses = &plan->uses, .o = &plan->options};
    p.whole = nw_arena_array(scratch, values, sizeof *p.whole);
    plan->raw = p.raw = nw_arena_array(&plan->arena, values, sizeof *p.raw);
    p.fed = nw_arena_array(scratch, values, sizeof *p.fed);
    p.inner = nw_arena_array(scratch, values, sizeof *p.inner);
    p.fixed = nw_arena_array(scratch, values, sizeof *p.fixed);
    p.index = nw_arena_array(scratch, values, sizeof *p.index);
    plan->choice = nw_arena_array(&plan->arena, nodes, sizeof *plan->choice);
    plan->mode = nw_arena_array(&plan->arena, nodes, sizeof *plan->mode);
    plan->reason = nw_arena_array(&plan->arena, nodes, sizeof *plan->reason);
    plan->point_of = nw_arena_array(&plan->arena, values, sizeof *plan->point_of);
    plan->points = nw_arena_array(&plan->arena, values, sizeof *plan->points);
    if (!p.whole || !p.raw || !p.fed || !p.inner || !p.fixed || !p.index || !plan->choice || !plan->mode ||
        !plan->reason || !plan->point_of || !plan->points)
        return NW_E_MEMORY;
    for (int v = 0; v < g->value_count; v++) plan->point_of[v] = -1;
    mark_inputs(&p, raw);
    for (int n = 0; n < g->node_count; n++) {
        plan->choice[n] = plan->options.choice;
        plan->mode[n] = mode_of(&p, &g->nodes[n], &plan->choice[n], &plan->reason[n]);
        NW_TRY(check_choice(&p, n));
        mark_outputs(&p, n);
    }
    add_points(&p);
    NW_TRY(order_points(&p, scratch));
    for (int n = 0; n < g->node_count; n++) {
        if (plan->mode[n] == NW_NODE_SAME) tie_moved(&p, &g->nodes[n]);
        if (plan->mode[n] == NW_NODE_INTEGER && is_op(&g->nodes[n], "Concat")) tie_joined(&p, &g->nodes[n]);
    }
    agree(&p);
    mark_everywhere(&p);
    return NW_OK;
}

bool nw_quant_measures(const nw_quant_plan *plan) {
    for (int i = 0; i < plan->point_count; i++)
        if (plan->points[i].choice->mode == NW_QUANT_STATIC) return true;
    return false;
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
