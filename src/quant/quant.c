/* quant.c: options, and the way through: place, calibrate, freeze, report. */
#include "quant/quant.h"

#include "quant/calibrate.h"
#include "quant/freeze.h"
#include "quant/measure.h"

#include <math.h>

nw_quant_options nw_quant_options_default(void) {
    return (nw_quant_options){
        .choice = nw_quant_choice_default(), .bias_correction = true, .isa = nw_isa_detect()};
}

nw_status nw_quant_options_check(nw_context *ctx, const nw_quant_options *o) {
    NW_TRY(nw_quant_choice_check(ctx, &o->choice));
    if (o->choice.mode == NW_QUANT_STATIC && !o->weights_at_most)
        NW_TRY(nw_quant_choice_check_product(ctx, &o->choice));
    return NW_OK;
}

/* A pattern without a node is most likely a misspelled name. Classes of layers ("@products") need not occur. */
static void check_patterns(nw_context *ctx, const nw_graph *g, const nw_quant_rule *rule) {
    for (size_t i = 0; i < rule->pattern_count; i++) {
        const char *pattern = rule->patterns[i];
        bool found = *pattern == '@';
        for (int n = 0; n < g->node_count && !found; n++) found = nw_quant_matches(pattern, g, &g->nodes[n]);
        if (!found) nw_warn(ctx, "%s \"%s\": the model has no such layer or operator", rule->source, pattern);
    }
}

static nw_status describe_activation(const nw_graph *g, const nw_quant_plan *plan, const nw_observer *seen,
                                     const nw_quant_point *point, nw_arena *arena, nw_quant_activation *a) {
    const nw_quant_point *root = nw_quant_root(plan, point);
    int maker = plan->uses.producer[point->value];
    *a = (nw_quant_activation){.tied = root != point, .format = root->choice->activation, .saturated = -1};
    a->value = nw_arena_strdup(arena, g->values[point->value].name);
    a->producer = nw_arena_strdup(arena, maker >= 0 ? nw_node_label(g, &g->nodes[maker]) : "");
    if (!a->value || !a->producer) return NW_E_MEMORY;
    a->observer = root->known ? "known range" : nw_observer_name(root->choice->observer.kind);
    if (root->choice->mode != NW_QUANT_STATIC) {
        a->observer = "at run time";
        return NW_OK;
    }
    if (nw_quant_is_float(root->choice)) {
        a->hi = (float)nw_format_largest(root->format);
        a->lo = -a->hi;
        a->scale = 1;
        a->observer = "none: floats";
        return NW_OK;
    }
    const bool binary = nw_quant_is_binary(root->choice);
    if (binary) a->observer = "mean magnitude";
    a->lo = (binary ? -1 : (float)(root->qmin - root->zero)) * root->scale;
    a->hi = (binary ? 1 : (float)(root->qmax - root->zero)) * root->scale;
    a->scale = root->scale;
    a->zero = root->zero;
    if (a->tied || seen->count == 0) return NW_OK;
    a->count = seen->count;
    a->rejected = seen->rejected;
    a->min = seen->min;
    a->max = seen->max;
    a->mean = seen->mean;
    a->sigma = nw_observer_sigma(seen);
    if (binary) { /* Σ (|x| − s)², where s is the mean of |x| */
        const double n = (double)seen->count, signal = seen->m2 + n * seen->mean * seen->mean;
        const double noise = signal - n * (double)a->scale * (double)a->scale;
        a->sqnr = noise > 0 ? 10 * log10(signal / noise) : INFINITY;
        return NW_OK;
    }
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
    if (nw_quant_measures(*plan)) NW_TRY(nw_calibrate(ctx, plan, dataset, &seen));
    nw_status status = (*plan)->options.timed_count ? nw_quant_measure(ctx, plan, &seen, report) : NW_OK;
    if (status == NW_OK) status = describe_activations(*plan, &seen, report);
    nw_calibration_free(&seen);
    NW_TRY(status);
    return nw_quant_freeze(graph, *plan, report);
}

/* Whether any layer computes on integers, be it within (recurrent layers' states). */
static bool computes(const nw_quant_plan *plan) {
    for (int n = 0; n < plan->node_count; n++) {
        const bool state = nw_quant_has_state(&plan->graph->nodes[n]) && plan->mode[n] == NW_NODE_WEIGHTS;
        if (plan->mode[n] == NW_NODE_INTEGER || (state && plan->choice[n].mode != NW_QUANT_WEIGHTS))
            return true;
    }
    return false;
}

nw_status nw_quantize_graph(nw_context *ctx, nw_graph *graph, nw_dataset *dataset,
                            const nw_quant_options *options, nw_quant_report **out) {
    NW_TRY(nw_quant_options_check(ctx, options));
    for (size_t r = 0; r < options->rule_count; r++) check_patterns(ctx, graph, &options->rules[r]);
    NW_TRY(nw_graph_sort(graph));
    nw_quant_report *report = nw_calloc(ctx, 1, sizeof *report);
    if (!report) return NW_E_MEMORY;
    nw_arena_init(&report->arena, ctx);
    nw_quant_plan *plan;
    nw_status status = nw_quant_place(ctx, graph, options, NULL, &plan);
    if (status == NW_OK) {
        if (options->timed_count && !computes(plan))
            status = nw_fail(ctx, NW_E_ARGUMENT,
                             "there is nothing to measure where only weights are quantized: their layers "
                             "compute in float");
        if (status == NW_OK) status = carry_out(ctx, graph, &plan, dataset, report);
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
