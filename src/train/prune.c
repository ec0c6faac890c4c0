/* prune.c: which weights may become zero, which ones do, and the record of it. */
#include "train/prune.h"

#include "op/op.h"
#include "run/bind.h"
#include "train/parameters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char quantized[] = "its weights are quantized: prune the float model";

/* ---- options --------------------------------------------------------------------------------------------- */

nw_status nw_prune_parse(nw_context *ctx, const char *word, nw_prune_options *o) {
    char *end, *last = NULL;
    if (strchr(word, ':')) {
        long keep = strtol(word, &end, 10), of = 0;
        if (*end == ':') of = strtol(end + 1, &last, 10);
        if (last && *last == 0 && last > end + 1 && keep > 0 && of > keep && of <= 64) {
            o->keep = (int)keep;
            o->of = (int)of;
            return NW_OK;
        }
    } else {
        double share = strtod(word, &end);
        if (end > word && *end == 0 && share > 0 && share < 1) {
            o->sparsity = share;
            return NW_OK;
        }
    }
    return nw_fail(
        ctx, NW_E_ARGUMENT,
        "\"%s\" says nothing about pruning: give the share of zeros, such as 0.8, or how many of how "
        "many neighbours stay, such as 2:4",
        word);
}

nw_status nw_prune_options_check(nw_context *ctx, const nw_prune_options *o) {
    if (!(o->sparsity >= 0 && o->sparsity < 1) || !(o->channels >= 0 && o->channels < 1))
        return nw_fail(ctx, NW_E_ARGUMENT, "the share that is pruned must be at least 0 and below 1");
    if (o->sparsity > 0 && o->of > 0)
        return nw_fail(ctx, NW_E_ARGUMENT, "prune to a share of zeros or to a pattern %d:%d, not to both",
                       o->keep, o->of);
    if (o->of < 0 || (o->of > 0 && (o->keep < 1 || o->keep >= o->of)))
        return nw_fail(ctx, NW_E_ARGUMENT, "the pattern %d:%d makes no sense", o->keep, o->of);
    return NW_OK;
}

/* ---- targets --------------------------------------------------------------------------------------------- */

/* The constant that input i of a node is, itself or behind a FakeQuant; NW_ABSENT: it is computed. */
static int constant_behind(const nw_graph *g, const nw_uses *uses, int v) {
    if (v < 0 || g->values[v].constant) return v;
    const nw_node *maker = uses->producer[v] >= 0 ? &g->nodes[uses->producer[v]] : NULL;
    if (!maker || maker->op != &nw_op_narrow_FakeQuant) return NW_ABSENT;
    return nw_graph_constant(g, maker->in[0]) ? maker->in[0] : NW_ABSENT;
}

/* What products of this layer sum over. Convolutions count along their input channels. */
static int summed_axis(const nw_node *node, const nw_tensor *w, int channel_axis) {
    if (nw_node_is(node, "ConvTranspose")) return 0;
    if (nw_node_is(node, "Conv")) return 1;
    if (channel_axis < 0) channel_axis += w->rank;
    return channel_axis == w->rank - 1 ? w->rank - 2 : w->rank - 1;
}

/* Binary weights: nothing that is pruned would be zero. */
static bool lacks_zero(const nw_graph *g, const nw_uses *uses, int v) {
    const float *levels;
    size_t count = 0;
    const nw_node *maker = uses->producer[v] >= 0 ? &g->nodes[uses->producer[v]] : NULL;
    if (!maker || !nw_node_floats(maker, "levels", &levels, &count)) return false;
    for (size_t i = 0; i < count; i++)
        if (levels[i] == 0) return false;
    return true;
}

typedef struct choosing {
    const nw_graph *g;
    const nw_uses *uses;
    const nw_prune_options *o;
    nw_arena *arena;
    nw_prune_target *targets;
    size_t count, capacity;
} choosing;

/* Input i of node n, a weight; *reason why it is no target. */
static nw_status choose(choosing *c, int n, int i, int channel_axis, const char **reason) {
    const nw_node *node = &c->g->nodes[n];
    int v = constant_behind(c->g, c->uses, node->in[i]);
    if (v < 0) return NW_OK; /* a product of two activations has no weights */
    const nw_tensor *w = &c->g->values[v].constant->tensor;
    const char *pattern = nw_node_first_match(c->o->exclude_count, c->o->exclude, c->g, node);
    *reason = NULL;
    if (pattern && !(*reason = nw_arena_printf(c->arena, "excluded by \"%s\"", pattern))) return NW_E_MEMORY;
    if (!*reason && c->o->only_count && !nw_node_first_match(c->o->only_count, c->o->only, c->g, node))
        *reason = "not among the layers asked for";
    if (!*reason && lacks_zero(c->g, c->uses, node->in[i])) *reason = "its codes have no zero";
    if (!*reason && w->qparam) *reason = quantized;
    if (!*reason && (w->format != NW_F32 || w->rank < 2)) *reason = "its weights are no f32 matrix";
    if (*reason) return NW_OK;
    for (size_t t = 0; t < c->count; t++)
        if (c->targets[t].value == v) return NW_OK;
    int axis = summed_axis(node, w, channel_axis);
    if (c->o->of > 0 && w->dims[axis] < c->o->of) {
        *reason = nw_arena_printf(c->arena, "%lld inputs per output make no group of %d",
                                  (long long)w->dims[axis], c->o->of);
        return *reason ? NW_OK : NW_E_MEMORY;
    }
    NW_TRY(nw_arena_grow(c->arena, (void **)&c->targets, &c->capacity, c->count, sizeof *c->targets));
    c->targets[c->count++] = (nw_prune_target){.node = n, .value = v, .axis = axis, .tensor = *w};
    return NW_OK;
}

nw_status nw_prune_targets(const nw_graph *g, const nw_prune_options *options, nw_arena *arena,
                           nw_prune_target **targets, size_t *count, const char **reasons) {
    nw_uses uses;
    choosing c = {.g = g, .uses = &uses, .o = options, .arena = arena};
    nw_status status = nw_uses_init(&uses, g);
    NW_TRY(status);
    for (int n = 0; n < g->node_count && status == NW_OK; n++) {
        nw_roles roles = nw_node_roles(&g->nodes[n]);
        const char *reason = NULL;
        if (roles.same_grid) continue; /* tables */
        for (int i = 0; i < g->nodes[n].in_count && status == NW_OK; i++)
            if (nw_roles_of(&roles, i) == NW_ROLE_WEIGHT && g->nodes[n].in[i] >= 0)
                status =
                    choose(&c, n, i, roles.channel_axis[i < NW_MAX_ROLES ? i : NW_MAX_ROLES - 1], &reason);
        if (reasons) reasons[n] = reason;
    }
    nw_uses_free(&uses);
    *targets = c.targets;
    *count = c.count;
    return status;
}

/* ---- zeros ------------------------------------------------------------------------------------------------- */

/* Magnitudes as integers in the same order. */
static inline uint32_t magnitude(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

#define LOW_BITS 15 /* of 31: a magnitude is found by its high 16 bits first, by the low ones then */

/* How many weights have each value of these bits, among those whose higher bits are `high`. */
static void count_bits(size_t count, const nw_prune_target *targets, bool low, uint32_t high,
                       uint64_t *bins) {
    memset(bins, 0, ((size_t)1 << 16) * sizeof *bins);
    for (size_t t = 0; t < count; t++) {
        const float *x = targets[t].tensor.data;
        for (size_t i = 0, n = nw_tensor_count(&targets[t].tensor); i < n; i++) {
            uint32_t m = magnitude(x[i]);
            if (!low)
                bins[m >> LOW_BITS]++;
            else if (m >> LOW_BITS == high)
                bins[m & ((1u << LOW_BITS) - 1)]++;
        }
    }
}

/* The bin in which the weight of rank *rank lies; *rank becomes its rank there. */
static uint32_t bin_of_rank(const uint64_t *bins, uint64_t *rank) {
    uint32_t bin = 0;
    for (; *rank >= bins[bin]; bin++) *rank -= bins[bin];
    return bin;
}

/* The `share` smallest of all targets together become 0; among equals the first. bins: room for 2^16. */
static void zero_smallest(size_t count, const nw_prune_target *targets, double share, uint64_t *bins) {
    uint64_t total = 0;
    for (size_t t = 0; t < count; t++) total += nw_tensor_count(&targets[t].tensor);
    uint64_t equal = (uint64_t)(share * (double)total + 0.5);
    if (equal == 0 || equal >= total) return;
    count_bits(count, targets, false, 0, bins);
    uint32_t high = bin_of_rank(bins, &equal);
    count_bits(count, targets, true, high, bins);
    uint32_t edge = high << LOW_BITS;
    edge |= bin_of_rank(bins, &equal); /* `equal` of those at the edge go too */
    for (size_t t = 0; t < count; t++) {
        float *x = targets[t].tensor.data;
        for (size_t i = 0, n = nw_tensor_count(&targets[t].tensor); i < n; i++) {
            uint32_t m = magnitude(x[i]);
            if (m < edge || (m == edge && equal > 0 && equal-- > 0)) x[i] = 0;
        }
    }
}

/* The largest `keep` of n numbers, `step` apart, stay; among equals the first. */
static void keep_largest(float *x, size_t n, size_t step, int keep) {
    bool stays[64] = {false};
    for (int k = 0; k < keep; k++) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!stays[i] && (best == n || magnitude(x[i * step]) > magnitude(x[best * step]))) best = i;
        if (best < n) stays[best] = true;
    }
    for (size_t i = 0; i < n; i++)
        if (!stays[i]) x[i * step] = 0;
}

static void keep_n_of_m(const nw_prune_target *t, int keep, int of) {
    const nw_tensor *w = &t->tensor;
    size_t outer = nw_dims_product(w->dims, 0, t->axis),
           inner = nw_dims_product(w->dims, t->axis + 1, w->rank);
    size_t length = (size_t)w->dims[t->axis];
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < inner; i++)
            for (size_t at = 0; at < length; at += (size_t)of) {
                size_t n = length - at < (size_t)of ? length - at : (size_t)of;
                keep_largest((float *)w->data + (o * length + at) * inner + i, n, inner, keep);
            }
}

nw_status nw_prune_weights(nw_context *ctx, const nw_prune_options *o, double part, size_t count,
                           const nw_prune_target *targets) {
    double rest = 1 - part, share = 1 - rest * rest * rest;
    if (o->of > 0) {
        int keep = o->of - (int)lrint((o->of - o->keep) * share);
        for (size_t t = 0; t < count; t++) keep_n_of_m(&targets[t], keep, o->of);
        return NW_OK;
    }
    uint64_t *bins = nw_calloc(ctx, (size_t)1 << 16, sizeof *bins);
    if (!bins) return NW_E_MEMORY;
    if (!o->per_layer) zero_smallest(count, targets, o->sparsity * share, bins);
    for (size_t t = 0; t < count && o->per_layer; t++)
        zero_smallest(1, &targets[t], o->sparsity * share, bins);
    nw_free(ctx, bins);
    return NW_OK;
}

/* In a graph's constants, which may be a mapped file: changed copies take their place. */
static nw_status prune_constants(nw_graph *g, const nw_prune_options *o, nw_arena *arena,
                                 const char **reasons) {
    nw_prune_target *targets;
    size_t count;
    NW_TRY(nw_prune_targets(g, o, arena, &targets, &count, reasons));
    for (size_t t = 0; t < count; t++) {
        nw_tensor *w = &targets[t].tensor;
        const void *from = w->data;
        NW_TRY(nw_tensor_alloc(arena, w));
        memcpy(w->data, from, nw_tensor_bytes(w));
    }
    NW_TRY(nw_prune_weights(g->ctx, o, 1, count, targets));
    for (size_t t = 0; t < count; t++)
        NW_TRY(nw_graph_set_constant_copy(g, targets[t].value, &targets[t].tensor));
    return NW_OK;
}

/* ---- the record -------------------------------------------------------------------------------------------- */

nw_status nw_prune_shapes(const nw_graph *graph, nw_arena *arena, nw_tensor **shapes) {
    nw_graph *g;
    nw_binding binding;
    NW_TRY(nw_graph_copy(graph, graph->ctx, &g));
    nw_status status = nw_graph_resolve(g);
    for (int i = 0; i < g->input_count && status == NW_OK; i++) {
        nw_value *v = &g->values[g->inputs[i]];
        if (!v->constant && v->rank > 0 && v->dims[0] <= 0) v->dims[0] = 1;
    }
    if (status == NW_OK) status = nw_bind(g, NULL, &binding);
    if (status == NW_OK) {
        *shapes = nw_arena_array(arena, (size_t)graph->value_count + 1, sizeof **shapes);
        for (int v = 0; v < graph->value_count && *shapes; v++) {
            const nw_constant *c = graph->values[v].constant;
            (*shapes)[v] = c                        ? c->tensor
                           : v < binding.desc_count ? binding.desc[v]
                                                    : (nw_tensor){.format = NW_NONE};
            (*shapes)[v].data = NULL;
        }
        nw_binding_free(&binding);
        if (!*shapes) status = NW_E_MEMORY;
    }
    nw_graph_free(g);
    return status;
}

/* How often each weight is multiplied in a run. */
static double positions_of(const nw_node *node, const nw_tensor *x, const nw_tensor *y) {
    bool conv = nw_node_is(node, "Conv"), transposed = nw_node_is(node, "ConvTranspose");
    const nw_tensor *t = conv || nw_node_is(node, "Gemm") || nw_node_is(node, "MatMul") ? y : x;
    if (t->format == NW_NONE || t->rank < 2) return NAN;
    if (conv || transposed) return (double)t->dims[0] * (double)nw_dims_product(t->dims, 2, t->rank);
    return (double)nw_dims_product(t->dims, 0, t->rank - 1); /* rows; samples of all time steps */
}

/* What a layer is now; weights 0: it has none. */
typedef struct census {
    uint64_t weights, nonzero;
    int64_t channels;
    double positions;
    bool codes; /* weights are stored as codes */
} census;

static void count_weights(const nw_tensor *w, census *c) {
    size_t count = nw_tensor_count(w);
    c->weights += count;
    c->nonzero += count;
    for (size_t i = 0; i < count && w->format == NW_F32; i++) {
        float x;
        memcpy(&x, (const char *)w->data + i * sizeof x, sizeof x); /* a mapped file may have it anywhere */
        c->nonzero -= x == 0;
    }
}

static census count_layer(const nw_graph *g, const nw_uses *uses, const nw_tensor *shapes,
                          const nw_node *node) {
    census c = {0};
    nw_roles roles = nw_node_roles(node);
    int in = nw_node_in(node, 0), out = NW_ABSENT;
    for (int i = node->out_count - 1; i >= 0; i--) /* recurrent layers may lack the first */
        if (node->out[i] >= 0) out = node->out[i];
    if (in < 0 || out < 0 || roles.same_grid) return c;
    for (int i = 0; i < node->in_count; i++) {
        int v = nw_roles_of(&roles, i) == NW_ROLE_WEIGHT ? constant_behind(g, uses, node->in[i]) : NW_ABSENT;
        if (v >= 0 && g->values[v].constant->tensor.rank >= 2)
            count_weights(&g->values[v].constant->tensor, &c);
        c.codes |= v >= 0 && g->values[v].constant->tensor.qparam;
    }
    const nw_tensor *y = &shapes[out];
    bool conv = nw_node_is(node, "Conv") || nw_node_is(node, "ConvTranspose");
    if (y->format != NW_NONE && y->rank > 1) c.channels = y->dims[conv ? 1 : y->rank - 1];
    c.positions = positions_of(node, &shapes[in], y);
    return c;
}

typedef struct recording {
    nw_graph *g;
    const nw_prune_options *o;
    nw_arena arena;
    nw_prune_report *report;
    census *before; /* [nodes]; weights 0: no layer */
} recording;

/* Fills lists of what layers are; `done` behind the pruning. */
static nw_status take_census(recording *r, bool done, const char *const *reasons) {
    nw_uses uses;
    nw_tensor *shapes;
    size_t capacity = r->report->layer_count;
    NW_TRY(nw_prune_shapes(r->g, &r->arena, &shapes));
    NW_TRY(nw_uses_init(&uses, r->g));
    nw_status status = NW_OK;
    for (int n = 0; n < r->g->node_count && status == NW_OK; n++) {
        const nw_node *node = &r->g->nodes[n];
        census now = count_layer(r->g, &uses, shapes, node), *before = &r->before[n];
        if (!done) *before = now;
        if (!done || !now.weights) continue;
        nw_prune_report *report = r->report;
        status = nw_arena_grow(&report->arena, (void **)&report->layers, &capacity, report->layer_count,
                               sizeof *report->layers);
        if (status != NW_OK) break;
        nw_prune_layer *l = &report->layers[report->layer_count++];
        *l = (nw_prune_layer){.weights_before = before->weights,
                              .weights_after = now.weights,
                              .nonzero = now.nonzero,
                              .channels_before = before->channels,
                              .channels_after = now.channels,
                              .macs_before = before->positions * (double)before->weights,
                              .macs_after = now.positions * (double)now.weights,
                              .macs_nonzero = now.positions * (double)now.nonzero};
        l->name = nw_arena_strdup(&report->arena, nw_node_label(r->g, node));
        l->op = nw_arena_strdup(&report->arena, node->op_type);
        const char *reason = reasons[n] ? reasons[n] : now.codes ? quantized : "";
        l->reason = nw_arena_strdup(&report->arena, reason);
        if (!l->name || !l->op || !l->reason) status = NW_E_MEMORY;
    }
    nw_uses_free(&uses);
    return status;
}

static nw_status prune(recording *r) {
    nw_graph *g = r->g;
    NW_TRY(nw_train_take_constants(g));
    const char **reasons = nw_arena_array(&r->arena, (size_t)g->node_count, sizeof *reasons);
    const char **why = nw_arena_array(&r->arena, (size_t)g->node_count, sizeof *why);
    r->before = nw_arena_array(&r->arena, (size_t)g->node_count, sizeof *r->before);
    if (!reasons || !why || !r->before) return NW_E_MEMORY;
    NW_TRY(take_census(r, false, NULL));
    if (r->o->channels > 0) NW_TRY(nw_prune_channels(g, r->o, &r->arena, reasons));
    if (r->o->sparsity > 0 || r->o->of > 0) NW_TRY(prune_constants(g, r->o, &r->arena, why));
    for (int n = 0; n < g->node_count; n++)
        if (!reasons[n]) reasons[n] = why[n];
    NW_TRY(take_census(r, true, reasons));
    return nw_graph_prune(g);
}

nw_status nw_prune_graph(nw_graph *graph, const nw_prune_options *options, nw_prune_report **report) {
    nw_context *ctx = graph->ctx;
    NW_TRY(nw_prune_options_check(ctx, options));
    recording r = {.g = graph, .o = options, .report = nw_calloc(ctx, 1, sizeof *r.report)};
    if (!r.report) return NW_E_MEMORY;
    nw_arena_init(&r.arena, ctx);
    nw_arena_init(&r.report->arena, ctx);
    nw_status status = prune(&r);
    nw_arena_free(&r.arena);
    if (status != NW_OK || !report)
        nw_prune_report_free(r.report);
    else
        *report = r.report;
    return status;
}

void nw_prune_report_free(nw_prune_report *report) {
    if (!report) return;
    nw_context *ctx = report->arena.ctx;
    nw_arena_free(&report->arena);
    nw_free(ctx, report);
}
