/* quant.c: options, and the way through: place, calibrate, freeze, report. */
#include "quant/quant.h"

#include "quant/calibrate.h"
#include "quant/freeze.h"
#include "quant/measure.h"

#include <math.h>

nw_quant_options nw_quant_options_default(void) {
    return (nw_quant_options){.scheme = NW_QUANT_STATIC,
                              .activation = NW_U8,
                              .observer = nw_observer_options_default(),
                              .weight = NW_S8,
                              .bias_correction = true,
                              .isa = nw_isa_detect()};
}

nw_status nw_quant_options_check(nw_context *ctx, const nw_quant_options *o) {
    if (!nw_format_is_integer(o->activation) || nw_format_bits(o->activation) > 16)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "activations cannot be %s: expected an integer format of at most 16 bits",
                       nw_format_name(o->activation));
    if (!nw_format_is_integer(o->weight) || nw_format_bits(o->weight) > 16)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "weights cannot be %s: expected an integer format of at most 16 bits",
                       nw_format_name(o->weight));
    nw_coding_kind kind = o->weight_scheme.coding.kind;
    if (o->scheme == NW_QUANT_STATIC && kind != NW_LINEAR && kind != NW_TERNARY && kind != NW_BINARY)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "weights that are no integers need the scheme \"weights only\" or \"dynamic\": integer "
                       "layers multiply integers");
    if (o->weight_block < 0) return nw_fail(ctx, NW_E_ARGUMENT, "weight blocks cannot have a negative size");
    if ((o->weight_block > 0 || o->weight_scheme.block > 0) && o->scheme == NW_QUANT_STATIC)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "blocks of weights need the scheme \"weights only\" or \"dynamic\": integer layers "
                       "have one scale per "
                       "channel");
    return nw_observer_options_check(ctx, &o->observer);
}

/* A pattern without a node is most likely a misspelled name. */
static void check_patterns(nw_context *ctx, const nw_graph *g, const char *const *patterns, size_t count,
                           const char *list) {
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        for (int n = 0; n < g->node_count && !found; n++)
            found = nw_node_matches(patterns[i], g, &g->nodes[n]);
        if (!found) nw_warn(ctx, "%s \"%s\": the model has no such layer or operator", list, patterns[i]);
    }
}

static nw_status describe_activation(const nw_graph *g, const nw_quant_plan *plan, const nw_observer *seen,
                                     const nw_quant_point *point, nw_arena *arena, nw_quant_activation *a) {
    const nw_quant_point *root = nw_quant_root(plan, point);
    int maker = plan->uses.producer[point->value];
    *a = (nw_quant_activation){.tied = root != point, .format = plan->options.activation, .saturated = -1};
    a->value = nw_arena_strdup(arena, g->values[point->value].name);
    a->producer = nw_arena_strdup(arena, maker >= 0 ? nw_node_label(g, &g->nodes[maker]) : "");
    if (!a->value || !a->producer) return NW_E_MEMORY;
    a->observer = root->known ? "known range" : nw_observer_name(plan->options.observer.kind);
    if (plan->options.scheme != NW_QUANT_STATIC) {
        a->observer = "at run time";
        return NW_OK;
    }
    a->lo = (float)(root->qmin - root->zero) * root->scale;
    a->hi = (float)(root->qmax - root->zero) * root->scale;
    a->scale = root->scale;
    a->zero = root->zero;
    if (a->tied || seen->count == 0) return NW_OK;
    a->count = seen->count;
    a->rejected = seen->rejected;
    a->min = seen->min;
    a->max = seen->max;
    a->mean = seen->mean;
    a->sigma = nw_observer_sigma(seen);
    const nw_codes codes = {root->qmin, root->qmax, false};
    NW_TRY(nw_observer_sqnr(seen, &codes, root->scale, root->zero, &a->sqnr));
    return nw_observer_outside(seen, a->lo - a->scale / 2, a->hi + a->scale / 2, &a->saturated);
}

/* Before the graph changes: nodes and values are the plan's. */
static nw_status describe_activations(const nw_quant_plan *plan, const nw_calibration *seen,
                                      nw_quant_report *r) {
    r->activations = nw_arena_array(&r->arena, (size_t)plan->point_count, sizeof *r->activations);
    if (!r->activations) return NW_E_MEMORY;
    for (int i = 0; i < plan->point_count; i++) {
        const nw_observer none = {0}, *o = seen->observers ? &seen->observers[i] : &none;
        NW_TRY(describe_activation(plan->graph, plan, o, &plan->points[i], &r->arena, &r->activations[i]));
    }
    r->activation_count = (size_t)plan->point_count;
    r->samples = seen->samples;
    r->batch = seen->batch;
    return NW_OK;
}

static nw_status carry_out(nw_context *ctx, nw_graph *graph, nw_quant_plan **plan, nw_dataset *dataset,
                           nw_quant_report *report) {
    nw_calibration seen = {.ctx = ctx};
    if ((*plan)->options.scheme == NW_QUANT_STATIC && (*plan)->point_count)
        NW_TRY(nw_calibrate(ctx, plan, dataset, &seen));
    nw_status status = (*plan)->options.timed_count ? nw_quant_measure(ctx, plan, &seen, report) : NW_OK;
    if (status == NW_OK) status = describe_activations(*plan, &seen, report);
    nw_calibration_free(&seen);
    NW_TRY(status);
    return nw_quant_freeze(graph, *plan, report);
}

nw_status nw_quantize_graph(nw_context *ctx, nw_graph *graph, nw_dataset *dataset,
                            const nw_quant_options *options, nw_quant_report **out) {
    NW_TRY(nw_quant_options_check(ctx, options));
    if (options->timed_count && options->scheme == NW_QUANT_WEIGHTS)
        return nw_fail(
            ctx, NW_E_ARGUMENT,
            "there is nothing to measure where only weights are quantized: their layers compute in float");
    check_patterns(ctx, graph, options->exclude, options->exclude_count, "exclude");
    check_patterns(ctx, graph, options->only, options->only_count, "only");
    NW_TRY(nw_graph_sort(graph));
    nw_quant_report *report = nw_calloc(ctx, 1, sizeof *report);
    if (!report) return NW_E_MEMORY;
    nw_arena_init(&report->arena, ctx);
    nw_quant_plan *plan;
    nw_status status = nw_quant_place(ctx, graph, options, NULL, &plan);
    if (status == NW_OK) {
        status = carry_out(ctx, graph, &plan, dataset, report);
        nw_quant_plan_free(plan);
    }
    if (status != NW_OK || !out)
        nw_quant_report_free(report);
    else
        *out = report;
    return status;
}

void nw_quant_report_free(nw_quant_report *report) {
    if (!report) return;
    nw_context *ctx = report->arena.ctx;
    nw_arena_free(&report->arena);
    nw_free(ctx, report);
}
