/* quantize.c: post-training quantization, and the report of what was done. */
#include "api/api.h"
#include "base/process.h"
#include "base/words.h"
#include "onnx/onnx.h"
#include "onnx/target.h"
#include "quant/measure.h"
#include "quant/recipe.h"

#include <math.h>
#include <string.h>

static void relay(void *user, size_t done, size_t total) {
    nw_env_progress(user, "calibrating", done, total);
}

/* What the options change about weights: of whole element types whether codes are symmetric, full, reduced, and the block;
 * schemes say all that themselves. */
static nw_status set_weights(nw_env *env, const nw_quantize_options *o, nw_quant_choice *c) {
    nw_scheme *w = &c->weights;
    if (o->weights) NW_TRY(nw_scheme_parse(&env->ctx, o->weights, w));
    if (o->block && !(o->weights && w->block)) w->block = o->block;
    if (!o->asymmetric_weights && !o->symmetric_weights && !o->full_range && !o->reduce_range) return NW_OK;
    const char *word = o->weights ? o->weights : nw_format_name(w->coding.format);
    if (w->coding.kind != NW_LINEAR || nw_word_index(nw_words(NW_WORDS_WEIGHT), word) < 0)
        return nw_fail(
            &env->ctx, NW_E_ARGUMENT,
            "weights \"%s\" say by themselves which codes they use: write s8-asym or range(-128:127) "
            "instead of asymmetric, full-range or reduce-range",
            word);
    const bool symmetric = o->symmetric_weights || (!o->asymmetric_weights && w->coding.grid.symmetric);
    w->coding = nw_coding_linear(w->coding.format, symmetric, o->full_range != 0, o->reduce_range != 0);
    return NW_OK;
}

static nw_status set_observer(nw_env *env, const nw_quantize_options *o, nw_observer_options *observer) {
    if (o->observer && !nw_observer_by_name(o->observer, &observer->kind))
        return nw_fail(&env->ctx, NW_E_ARGUMENT, "observer \"%s\" is unknown: use one of %s", o->observer,
                       nw_words(NW_WORDS_OBSERVER));
    if (o->percentile != 0) observer->percentile = o->percentile;
    if (o->sigmas != 0) observer->sigmas = o->sigmas;
    if (o->momentum != 0) observer->momentum = o->momentum;
    if (o->range_low != 0 || o->range_high != 0) {
        observer->lo = (float)o->range_low;
        observer->hi = (float)o->range_high;
    }
    return NW_OK;
}

static void set_switch(nw_choice *to, nw_switch from) {
    if (from != NW_SWITCH_AUTO) *to = (nw_choice)from;
}

/* Layers that stay float: rules behind those of a recipe, so that the options win. */
static nw_status add_rules(nw_arena *arena, const nw_quantize_options *o, nw_quant_options *q) {
    nw_quant_rule rule = {.sets = 1U << NW_SETTING_MODE, .choice.mode = NW_QUANT_FLOAT};
    if (o->only_count) {
        rule.source = "only";
        rule.patterns = o->only;
        rule.pattern_count = o->only_count;
        rule.others = true;
        NW_TRY(nw_recipe_add_rule(arena, &rule, q));
    }
    if (!o->exclude_count) return NW_OK;
    rule.source = "exclude";
    rule.patterns = o->exclude;
    rule.pattern_count = o->exclude_count;
    rule.others = false;
    return nw_recipe_add_rule(arena, &rule, q);
}

/* What makes a file fast, or at all readable, there; where nothing else is asked for. */
static nw_status set_target(nw_env *env, const nw_quantize_options *o, nw_quant_options *q) {
    int target;
    NW_TRY(nw_env_word(env, "target", o->target, NW_WORDS_TARGET, &target));
    if (target == NW_TARGET_OPENVINO && q->recurrent == NW_AUTO) q->recurrent = NW_NO;
    return NW_OK;
}

/* The recipe, and what the other options change about it. Rules in `arena`. */
static nw_status internal(nw_env *env, const nw_quantize_options *o, nw_arena *arena, nw_quant_options *out,
                          nw_quant_style *style) {
    static const nw_quant_style styles[] = {NW_STYLE_QDQ, NW_STYLE_QOPERATOR, NW_STYLE_NATIVE,
                                            NW_STYLE_MATMULNBITS};
    int mode, form, unused;
    NW_TRY(nw_env_word(env, "mode", o->mode, NW_WORDS_MODE, &mode));
    NW_TRY(nw_env_word(env, "form", o->form, NW_WORDS_FORM, &form));
    NW_TRY(nw_env_word(env, "activation type", o->activations, NW_WORDS_ACTIVATION, &unused));
    nw_quant_options q = nw_quant_options_default();
    nw_quant_choice *c = &q.choice;
    *style = styles[form];
    if (o->recipe) NW_TRY(nw_recipe_load(arena, o->recipe, &q));
    if (o->mode) c->mode = (nw_quant_mode)mode;
    if (o->activations) c->activation = nw_quant_activation_by_word(o->activations);
    NW_TRY(set_weights(env, o, c));
    NW_TRY(set_observer(env, o, &c->observer));
    if (o->symmetric_activations) c->activation_symmetric = true;
    if (o->per_tensor) c->per_tensor = true;
    if (o->mse_weights) c->mse_weights = true;
    if (o->balanced_rounding) c->balanced_rounding = true;
    if (o->float_bias) c->float_bias = true;
    if (o->dynamic_rows) c->dynamic_rows = true;
    set_switch(&q.elementwise, o->elementwise);
    set_switch(&q.products, o->products);
    set_switch(&q.embeddings, o->embeddings);
    set_switch(&q.recurrent, o->recurrent);
    set_switch(&q.inputs, o->inputs);
    if (o->bias_correction != NW_SWITCH_AUTO) q.bias_correction = o->bias_correction == NW_SWITCH_ON;
    if (o->quantize_outputs) q.quantize_outputs = true;
    if (o->known_ranges) q.known_ranges = true;
    NW_TRY(set_target(env, o, &q));
    NW_TRY(add_rules(arena, o, &q));
    q.batch = o->batch;
    q.threads = env->threads;
    q.isa = env->isa;
    q.progress = relay;
    q.progress_user = env;
    *out = q;
    return nw_quant_options_check(&env->ctx, out);
}

/* ---- the report -------------------------------------------------------------------------------------- */

static void write_scheme(nw_record *r, const nw_quantize_options *o, const nw_quant_options *q) {
    static const char *const modes[] = {"static", "dynamic", "weights", "float"};
    const nw_quant_choice *c = &q->choice;
    char grain[64] = "per channel", word[NW_SCHEME_WORD];
    if (c->weights.block > 0)
        snprintf(grain, sizeof grain, "blocks of %lld", (long long)c->weights.block);
    else if (c->per_tensor)
        snprintf(grain, sizeof grain, "per tensor");
    nw_record_text(r, "recipe", "recipe", o->recipe);
    nw_record_text(r, "mode", NULL, modes[c->mode]);
    nw_record_text(r, "form", NULL, o->form ? o->form : "qdq");
    nw_record_textf(r, "weights_scheme", "weights", "%s, %s", nw_scheme_print(&c->weights, word, sizeof word),
                    grain);
    if (nw_quant_is_binary(c)) {
        nw_record_text(r, "activations_scheme", "activations", "binary, scale of the least squared error");
    } else if (c->mode == NW_QUANT_STATIC && nw_quant_is_float(c)) {
        nw_record_text(r, "activations_scheme", "activations", nw_format_name(c->activation));
    } else if (c->mode == NW_QUANT_STATIC) {
        nw_record_textf(r, "activations_scheme", "activations", "%s %s, observer %s",
                        nw_format_name(c->activation), c->activation_symmetric ? "symmetric" : "asymmetric",
                        nw_observer_name(c->observer.kind));
        nw_record_text(r, "observer", NULL, nw_observer_name(c->observer.kind));
    } else {
        nw_record_text(r, "activations_scheme", "activations",
                       c->mode == NW_QUANT_DYNAMIC ? "scales measured at run time" : "float");
    }
    if (q->rule_count) nw_record_textf(r, NULL, "rules", "%zu for some of the layers", q->rule_count);
}

static void write_overview(nw_record *r, const nw_quant_report *q) {
    for (size_t i = 0; i < q->activation_count;
         i++) { /* what the model was fed: a wrong preprocessing shows here */
        const nw_quant_activation *a = &q->activations[i];
        if (!*a->producer && a->count)
            nw_record_textf(r, NULL, "input seen", "\"%s\" %.4g … %.4g, mean %.4g, std %.4g", a->value,
                            (double)a->min, (double)a->max, a->mean, a->sigma);
    }
    size_t integer = 0, packed = 0;
    for (size_t i = 0; i < q->layer_count; i++) {
        integer += q->layers[i].quantized;
        packed += !q->layers[i].quantized && q->layers[i].weight >= 0;
    }
    nw_record_number(r, "layers_quantized", NULL, NW_UNIT_COUNT, (double)integer);
    nw_record_number(r, "layers_weights_only", NULL, NW_UNIT_COUNT, (double)packed);
    nw_record_number(r, "layers_float", NULL, NW_UNIT_COUNT, (double)(q->layer_count - integer - packed));
    if (integer || !packed)
        nw_record_textf(r, NULL, "quantized", "%zu of %zu layers", integer, q->layer_count);
    if (packed) nw_record_textf(r, NULL, "weights only", "%zu of %zu layers", packed, q->layer_count);
}

/* Float although it could be more, and for the same reason. */
static bool same_fate(const nw_quant_layer *a, const nw_quant_layer *b) {
    return strcmp(a->op, b->op) == 0 && strcmp(a->reason, b->reason) == 0;
}

/* One row per operator and reason: a transformer has hundreds of small layers that stay in float. */
static void write_left(nw_record *r, const nw_quant_report *q) {
    for (size_t i = 0; i < q->layer_count; i++) {
        const nw_quant_layer *l = &q->layers[i];
        bool changed = l->quantized || l->weight >= 0, first = true;
        if (changed && !*l->reason) continue;
        size_t count = 0;
        for (size_t k = 0; k < q->layer_count; k++) {
            if (!same_fate(l, &q->layers[k])) continue;
            if (k < i) first = false;
            count++;
        }
        if (!first) continue;
        nw_record *item = nw_record_item(r, NULL, "Left in float, or partly", NW_LAYOUT_ROWS);
        nw_record_number(item, NULL, "layers", NW_UNIT_COUNT, (double)count);
        nw_record_text(item, NULL, "operator", l->op);
        nw_record_textf(item, NULL, "named", "%s%s", l->name, count > 1 ? ", …" : "");
        nw_record_text(item, NULL, "why", l->reason);
    }
}

static void write_timing(nw_record *item, const nw_quant_timing *t) {
    nw_record_text(item, "name", "timed together", t->name);
    nw_record_text(item, "op", "operator", t->op);
    nw_record_number(item, "layers", "layers", NW_UNIT_COUNT, (double)t->layers);
    nw_record_number(item, "float_ms", "float", NW_UNIT_MS, t->float_ms);
    nw_record_number(item, "integer_ms", "integer", NW_UNIT_MS, t->integer_ms);
    nw_record_flag(item, "left_in_float", "left in float", t->left);
}

/* Where the model was timed: what that decided, and what it says of the whole. */
static void write_timings(nw_record *r, const nw_env *env, const nw_quant_report *q) {
    if (q->ms <= 0) return;
    nw_env_write(env, r);
    nw_record_number(r, "run_ms_float", "a run: in float", NW_UNIT_MS, q->float_ms);
    nw_record_number(r, "run_ms_all_integer", "all on integers", NW_UNIT_MS, q->all_integer_ms);
    nw_record_number(r, "run_ms", "as written", NW_UNIT_MS, q->ms);
    const bool slower = nw_measure_gains(q->ms, q->float_ms);
    bool any_integer = false;
    for (size_t i = 0; i < q->layer_count; i++) any_integer |= q->layers[i].quantized;
    nw_record_flag(r, "slower_than_float", NULL, slower);
    if (slower)
        nw_record_text(r, NULL, "note",
                       "slower than the float model on this machine, whatever is left in float");
    if (!any_integer && q->timing_count)
        nw_record_text(r, NULL, "note",
                       "no layer gains from integers on this machine, as it is quantized here");
    for (size_t i = 0; i < q->timing_count; i++)
        if (q->timings[i].left)
            write_timing(
                nw_record_item(r, NULL, "Left in float: integers would slow it down", NW_LAYOUT_ROWS),
                &q->timings[i]);
    nw_record_list(r, "timings", "Layers, timed", NW_LAYOUT_DETAILS);
    for (size_t i = 0; i < q->timing_count; i++)
        write_timing(nw_record_item(r, "timings", "Layers, timed", NW_LAYOUT_DETAILS), &q->timings[i]);
}

static void write_layers(nw_record *r, const nw_quant_report *q) {
    write_left(r, q);
    nw_record_list(r, "layers", "Layers", NW_LAYOUT_DETAILS);
    for (size_t i = 0; i < q->layer_count; i++) {
        const nw_quant_layer *l = &q->layers[i];
        nw_record *item = nw_record_item(r, "layers", "Layers", NW_LAYOUT_DETAILS);
        nw_record_text(item, "name", "layer", l->name);
        nw_record_text(item, "op", "operator", l->op);
        nw_record_flag(item, "quantized", "integer", l->quantized);
        if (l->weight >= 0) nw_record_text(item, "weight", "weight", q->weights[l->weight].value);
        nw_record_flag(item, "bias_quantized", NULL, l->bias);
        nw_record_text(item, "reason", "note", l->reason);
    }
}

static void write_weights(nw_record *r, const nw_quant_report *q) {
    nw_record_list(r, "weights", "Weights", NW_LAYOUT_DETAILS);
    for (size_t i = 0; i < q->weight_count; i++) {
        const nw_quant_weight *w = &q->weights[i];
        char shape[160];
        nw_tensor t = {.format = w->format, .rank = w->rank};
        memcpy(t.dims, w->dims, sizeof t.dims);
        nw_record *item = nw_record_item(r, "weights", "Weights", NW_LAYOUT_DETAILS);
        nw_record_text(item, "name", "weight", w->value);
        nw_record_text(item, "type", "type", nw_tensor_describe(&t, shape, sizeof shape));
        nw_record_number(item, "scales", "scales", NW_UNIT_COUNT, (double)w->groups);
        nw_record_number(item, "bytes_before", NULL, NW_UNIT_BYTES, (double)w->bytes_before);
        nw_record_number(item, "bytes", "size", NW_UNIT_BYTES, (double)w->bytes_after);
        nw_record_number(item, "min", "min", NW_UNIT_NUMBER, w->min);
        nw_record_number(item, "max", "max", NW_UNIT_NUMBER, w->max);
        nw_record_number(item, "mean", "mean", NW_UNIT_NUMBER, w->mean);
        nw_record_number(item, "std", "std", NW_UNIT_NUMBER, w->sigma);
        nw_record_number(item, "saturated", "saturated", NW_UNIT_SHARE, w->saturated);
        nw_record_number(item, "sqnr_db", "SQNR", NW_UNIT_DB, w->sqnr);
    }
}

static void write_activations(nw_record *r, const nw_quant_report *q) {
    nw_record_list(r, "activations", "Activations", NW_LAYOUT_DETAILS);
    for (size_t i = 0; i < q->activation_count; i++) {
        const nw_quant_activation *a = &q->activations[i];
        nw_record *item = nw_record_item(r, "activations", "Activations", NW_LAYOUT_DETAILS);
        nw_record_text(item, "name", "activation", a->value);
        nw_record_text(item, "type", "type", nw_quant_activation_word(a->format));
        nw_record_flag(item, "tied", "tied", a->tied);
        nw_record_text(item, "observer", NULL, a->observer);
        nw_record_number(item, "low", "low", NW_UNIT_NUMBER, a->lo);
        nw_record_number(item, "high", "high", NW_UNIT_NUMBER, a->hi);
        nw_record_number(item, "scale", "scale", NW_UNIT_NUMBER, a->scale);
        nw_record_number(item, "zero_point", "zero", NW_UNIT_COUNT, a->zero);
        bool seen = a->count > 0;
        nw_record_number(item, "min", "min", NW_UNIT_NUMBER, seen ? a->min : NAN);
        nw_record_number(item, "max", "max", NW_UNIT_NUMBER, seen ? a->max : NAN);
        nw_record_number(item, "mean", "mean", NW_UNIT_NUMBER, seen ? a->mean : NAN);
        nw_record_number(item, "std", "std", NW_UNIT_NUMBER, seen ? a->sigma : NAN);
        nw_record_number(item, "saturated", "saturated", NW_UNIT_SHARE,
                         seen && a->saturated >= 0 ? a->saturated : NAN);
        nw_record_number(item, "sqnr_db", "SQNR", NW_UNIT_DB, seen ? a->sqnr : NAN);
        nw_record_number(item, "not_finite", NULL, NW_UNIT_COUNT, (double)a->rejected);
    }
}

static void write_cost(nw_record *r, const nw_model *before, const nw_model *after, double started) {
    if (after->file_bytes && before->file_bytes) {
        nw_record_number(r, "file_bytes_before", "size before", NW_UNIT_BYTES, (double)before->file_bytes);
        nw_record_number(r, "file_bytes", "size after", NW_UNIT_BYTES, (double)after->file_bytes);
        nw_record_number(r, "compression_ratio", "compression", NW_UNIT_FACTOR,
                         (double)before->file_bytes / (double)after->file_bytes);
    }
    nw_record_number(r, "seconds", "time", NW_UNIT_SECONDS, (nw_now_ms() - started) / 1e3);
    nw_record_number(r, "peak_memory_bytes", "peak memory", NW_UNIT_BYTES, (double)nw_process_peak());
}

/* ---- the work ---------------------------------------------------------------------------------------- */

static bool is_quantized(const nw_graph *graph) {
    for (int n = 0; n < graph->node_count; n++)
        if (strcmp(graph->nodes[n].op_type, "FakeQuant") == 0) return true;
    return false;
}

/* Older models list their initializers as inputs too. One that nobody reads any more, a float weight that was
 * packed, would stay in the file for that. */
static nw_status drop_idle_inputs(nw_graph *graph) {
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, graph));
    int kept = 0;
    for (int i = 0; i < graph->input_count; i++) {
        int v = graph->inputs[i];
        if (!graph->values[v].constant || nw_uses_count(&uses, v) > 0) graph->inputs[kept++] = v;
    }
    graph->input_count = kept;
    nw_uses_free(&uses);
    return nw_graph_prune(graph);
}

/* What the model is timed with: the first sample of the data, else made-up numbers. Copies, in `arena`. */
static nw_status timed_inputs(const nw_model *model, nw_data *data, nw_arena *arena, nw_feed *feeds) {
    if (!data) {
        nw_status status = nw_feeds_made_up(model, 0, NULL, 1, arena, feeds);
        return status == NW_OK ? NW_OK
                               : nw_fail_where(&model->env->ctx, status,
                                               "measuring without data, which would give the shape");
    }
    nw_feeder feeder;
    nw_batch batch;
    NW_TRY(nw_feeder_init(&feeder, model, data));
    nw_status status = nw_dataset_next(data->dataset, 1, &batch);
    if (status == NW_OK) status = nw_feeder_feed(&feeder, &batch, arena, feeds);
    for (size_t i = 0; status == NW_OK && i < model->input_count; i++) {
        nw_tensor *t = &feeds[i].tensor;
        const void *from = t->data;
        status = nw_tensor_alloc(arena, t);
        if (status == NW_OK && nw_tensor_bytes(t)) memcpy(t->data, from, nw_tensor_bytes(t));
    }
    nw_feeder_free(&feeder);
    return status == NW_OK ? nw_dataset_rewind(data->dataset) : status;
}

static nw_status quantize_graph(const nw_model *model, nw_graph *graph, nw_data *data,
                                const nw_quant_options *q, bool measure, nw_quant_report **report) {
    nw_context *ctx = &model->env->ctx;
    nw_quant_options options = *q;
    nw_arena arena;
    nw_arena_init(&arena, ctx);
    nw_status status = NW_OK;
    if (measure) {
        nw_feed *feeds = nw_arena_array(&arena, model->input_count, sizeof *feeds);
        status = feeds ? timed_inputs(model, data, &arena, feeds) : NW_E_MEMORY;
        options.timed = feeds;
        options.timed_count = model->input_count;
    }
    if (status == NW_OK)
        status = nw_quantize_graph(ctx, graph, data ? data->dataset : NULL, &options, report);
    nw_arena_free(&arena);
    return status;
}

nw_status nw_graph_finish_quantized(nw_graph *graph, const nw_quant_options *q) {
    NW_TRY(drop_idle_inputs(graph));
    char *text = nw_recipe_print(&graph->arena, q); /* the model tells by which recipe it was made */
    return text ? nw_graph_set_property(graph, NW_RECIPE_PROPERTY, text) : NW_E_MEMORY;
}

nw_status nw_quantize_read(nw_env *env, const nw_quantize_options *o, nw_arena *arena,
                           nw_quant_options *out) {
    nw_quant_style unused;
    return internal(env, o, arena, out, &unused);
}

/* report as for nw_quantize_graph. */
static nw_status make_graph(const nw_model *model, nw_data *data, const nw_quant_options *q, bool measure,
                            nw_graph **out, nw_quant_report **report) {
    nw_context *ctx = &model->env->ctx;
    nw_graph *graph;
    if (data) NW_TRY(nw_dataset_rewind(data->dataset));
    NW_TRY(nw_model_prepare(model, ctx, &graph));
    if (is_quantized(graph))
        nw_warn(ctx, "%s is quantized already: what is quantized stays as it is", model->path);
    nw_status status = quantize_graph(model, graph, data, q, measure, report);
    if (status == NW_OK) status = nw_graph_finish_quantized(graph, q);
    if (status != NW_OK)
        nw_graph_free(graph);
    else
        *out = graph;
    return status;
}

/* Fails when the runtime that the file is meant for would refuse it. */
static nw_status check_target(nw_env *env, const nw_graph *graph, const char *word) {
    int target;
    const char *reason;
    nw_arena arena;
    if (!word) return NW_OK;
    NW_TRY(nw_env_word(env, "target", word, NW_WORDS_TARGET, &target));
    nw_arena_init(&arena, &env->ctx);
    nw_status status = nw_target_refuses(graph, (nw_target)target, &arena, &reason);
    if (status == NW_OK && reason)
        status = nw_fail(&env->ctx, NW_E_ARGUMENT, "target %s would not load the model: %s", word, reason);
    nw_arena_free(&arena);
    return status;
}

static nw_status quantize(const nw_model *model, nw_data *data, const nw_quantize_options *o,
                          const nw_quant_options *q, nw_quant_style style, nw_model **out,
                          nw_quant_report **report) {
    const char *save_as = o->save_as;
    nw_graph *graph;
    uint64_t bytes = 0;
    NW_TRY(make_graph(model, data, q, o->measure != 0, &graph, report));
    nw_status status = nw_onnx_spell_quantization(graph, style, o->opset);
    if (status == NW_OK) status = check_target(model->env, graph, o->target);
    if (status == NW_OK && save_as) status = nw_onnx_export(graph, save_as, o->external_data != 0, &bytes);
    if (status != NW_OK) {
        nw_graph_free(graph);
        return status;
    }
    NW_TRY(nw_model_of_graph(model->env, graph, save_as ? save_as : model->path, out));
    (*out)->file_bytes = bytes;
    return NW_OK;
}

nw_result nw_model_quantize(const nw_model *model, nw_data *data, const nw_quantize_options *options,
                            nw_model **quantized, nw_report **report) {
    if (!model || !quantized)
        return nw_misuse(model ? model->env : NULL, "nw_model_quantize: an argument is missing");
    static const nw_quantize_options defaults;
    const nw_quantize_options *o = options ? options : &defaults;
    nw_env *env = model->env;
    double started = nw_now_ms();
    nw_quant_options q;
    nw_quant_style style = NW_STYLE_QDQ;
    nw_arena arena; /* of the recipe's rules */
    nw_arena_init(&arena, &env->ctx);
    nw_quant_report *done = NULL;
    nw_model *made = NULL;
    nw_report *sheet = NULL;
    nw_status status = internal(env, o, &arena, &q, &style);
    if (status == NW_OK && report) status = nw_report_new(env, "quantize", &sheet);
    if (status == NW_OK) status = quantize(model, data, o, &q, style, &made, report ? &done : NULL);
    if (status == NW_OK && report) {
        nw_record *r = &sheet->sheet->root;
        nw_record_text(r, "model", "model", model->path);
        nw_record_text(r, "output", "written", o->save_as);
        write_scheme(r, o, &q);
        if (data) {
            nw_record_text(r, "data", "calibrated on", data->description);
            nw_record_number(r, "samples", NULL, NW_UNIT_COUNT, (double)done->samples);
        }
        write_overview(r, done);
        write_cost(r, model, made, started);
        write_timings(r, env, done);
        write_layers(r, done);
        write_weights(r, done);
        write_activations(r, done);
    }
    nw_quant_report_free(done);
    nw_arena_free(&arena);
    if (report) status = (nw_status)nw_report_finish(sheet, status, report); /* frees the sheet on failure */
    if (status != NW_OK) {
        nw_model_free(made);
        return nw_result_of(status);
    }
    *quantized = made;
    return NW_SUCCESS;
}
