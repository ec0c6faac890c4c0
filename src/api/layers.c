/* layers.c: the error of every layer: both models run on the same samples, tapped at tensors of the same
 * name. */
#include "api/api.h"
#include "op/op.h"
#include "op/quantize.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer {
    const nw_node *node; /* in the reference graph */
    const nw_node
        *other; /* the node of the quantized graph that makes the tensor of the same name, or NULL */
    int value, other_value; /* tapped */
    const nw_node *grid;    /* the FakeQuant behind the quantized one, or NULL */
    nw_noise noise;
    nw_moments moments; /* of the reference's output */
    const float *seen;  /* of the reference's latest run */
    size_t seen_count;
    double sqnr;
} layer;

typedef struct inspection {
    nw_env *env;
    const nw_model *models[2]; /* reference, quantized */
    nw_graph *graphs[2];
    nw_session *sessions[2];
    nw_feeder feeders[2];
    int *layer_of[2]; /* [value_count] layer tapped there, or −1 */
    nw_arena arena, batch;
    layer *layers;
    size_t count;
    size_t samples;
    nw_status status; /* of a tap */
} inspection;

/* ---- which tensors belong together ------------------------------------------------------------------- */

static bool is_fake_quant(const nw_node *node) {
    return strcmp(node->op_type, "FakeQuant") == 0;
}

/* The first FakeQuant that reads a value, or NULL: then what the layer gives on is the restricted tensor. */
static const nw_node *grid_behind(const nw_graph *graph, int value) {
    for (int n = 0; n < graph->node_count; n++)
        if (is_fake_quant(&graph->nodes[n]) && nw_node_in(&graph->nodes[n], 0) == value)
            return &graph->nodes[n];
    return NULL;
}

static bool is_layer(const nw_node *node) {
    nw_roles roles = nw_node_roles(node);
    return !is_fake_quant(node) && roles.compute && nw_node_out(node, 0) >= 0;
}

/* The Relu or Clip that alone reads what a layer computes is part of the layer, as it is when the model runs:
 * its output is compared. */
static int after_activation(const nw_graph *graph, const nw_uses *uses, int value) {
    if (nw_uses_count(uses, value) != 1 || uses->outputs[value]) return value;
    const nw_node *reader = &graph->nodes[uses->users[uses->first[value]]];
    bool activation = strcmp(reader->op_type, "Relu") == 0 || strcmp(reader->op_type, "Clip") == 0;
    return activation && nw_node_in(reader, 0) == value && nw_node_out(reader, 0) >= 0 ? reader->out[0]
                                                                                       : value;
}

/* The computed value of that name, or NW_ABSENT. */
static int computed(const nw_graph *graph, const nw_uses *uses, const char *name) {
    int v = nw_graph_find(graph, name);
    return v >= 0 && !graph->values[v].constant && uses->producer[v] >= 0 ? v : NW_ABSENT;
}

/* The node that computes a value, behind the FakeQuants and the activation; NULL: none. */
static const nw_node *maker_of(const nw_graph *graph, const nw_uses *uses, int value) {
    for (int steps = 0; value >= 0 && uses->producer[value] >= 0; steps++) {
        const nw_node *node = &graph->nodes[uses->producer[value]];
        bool thin =
            is_fake_quant(node) || strcmp(node->op_type, "Relu") == 0 || strcmp(node->op_type, "Clip") == 0;
        if (!thin || steps == 3) return node;
        value = nw_node_in(node, 0);
    }
    return NULL;
}

/* Fills what belongs to the quantized graph; false when nothing there has the name. */
static bool pair(const inspection *in, const nw_uses uses[2], layer *l) {
    const nw_graph *a = in->graphs[0], *b = in->graphs[1];
    int before = l->node->out[0];
    l->value = after_activation(a, &uses[0], before);
    int same = computed(b, &uses[1], a->values[l->value].name);
    if (same < 0) {
        same = computed(b, &uses[1], a->values[before].name);
        const nw_node *namesake = same < 0 ? nw_graph_namesake(b, l->node) : NULL;
        if (namesake) same = nw_node_out(namesake, 0);
        if (same < 0) return false;
        int after = after_activation(b, &uses[1], same);
        /* no activation there: it went into the grid, or it was computed further on */
        if (after == same && !grid_behind(b, same)) l->value = before;
        same = after;
    }
    const nw_node *maker = &b->nodes[uses[1].producer[same]];
    l->grid = is_fake_quant(maker) ? maker : grid_behind(b, same);
    l->other_value = is_fake_quant(maker) || !l->grid ? same : l->grid->out[0];
    l->other = maker_of(b, &uses[1], same);
    return in->layer_of[1][l->other_value] < 0;
}

static nw_status pair_layers(inspection *in, const nw_uses uses[2]) {
    const nw_graph *a = in->graphs[0];
    in->layers = nw_arena_array(&in->arena, (size_t)a->node_count, sizeof *in->layers);
    if (!in->layers) return NW_E_MEMORY;
    for (int m = 0; m < 2; m++) {
        in->layer_of[m] =
            nw_arena_array(&in->arena, (size_t)in->graphs[m]->value_count, sizeof **in->layer_of);
        if (!in->layer_of[m]) return NW_E_MEMORY;
        for (int v = 0; v < in->graphs[m]->value_count; v++) in->layer_of[m][v] = -1;
    }
    for (int n = 0; n < a->node_count; n++) {
        if (!is_layer(&a->nodes[n])) continue;
        layer *l = &in->layers[in->count];
        *l = (layer){.node = &a->nodes[n]};
        if (pair(in, uses, l)) in->layer_of[0][l->value] = in->layer_of[1][l->other_value] = (int)in->count++;
    }
    if (in->count == 0)
        return nw_fail(
            &in->env->ctx, NW_E_ARGUMENT,
            "%s and %s have no tensors of the same name: layers can be compared only between a model and "
            "the one made from it",
            in->models[0]->path, in->models[1]->path);
    return NW_OK;
}

static nw_status match(inspection *in) {
    nw_uses uses[2];
    NW_TRY(nw_uses_init(&uses[0], in->graphs[0]));
    nw_status status = nw_uses_init(&uses[1], in->graphs[1]);
    if (status == NW_OK) {
        status = pair_layers(in, uses);
        nw_uses_free(&uses[1]);
    }
    nw_uses_free(&uses[0]);
    return status;
}

/* ---- watching ---------------------------------------------------------------------------------------- */

static void watch_reference(void *user, int value, const nw_tensor *t, bool last) {
    (void)last;
    inspection *in = user;
    int index = in->layer_of[0][value];
    if (index < 0 || in->status != NW_OK) return;
    layer *l = &in->layers[index];
    size_t count = nw_tensor_count(t);
    const float *x = t->data;
    float *copy = nw_arena_data(&in->batch, count * sizeof *copy);
    if (!copy) {
        in->status = NW_E_MEMORY;
        return;
    }
    if (count) memcpy(copy, x, count * sizeof *copy);
    l->seen = copy;
    l->seen_count = count;
    nw_moments_add(&l->moments, count, x);
}

static void watch_quantized(void *user, int value, const nw_tensor *t, bool last) {
    (void)last;
    inspection *in = user;
    int index = in->layer_of[1][value];
    if (index < 0) return;
    layer *l = &in->layers[index];
    if (l->seen && l->seen_count == nw_tensor_count(t))
        nw_noise_add(&l->noise, l->seen, t->data, l->seen_count);
}

static nw_status start(inspection *in, int m) {
    nw_context *ctx = &in->env->ctx;
    nw_run_options options = {.threads = in->env->threads, .isa = in->env->isa};
    NW_TRY(nw_session_new(ctx, in->graphs[m], &options, &in->sessions[m]));
    int *values = nw_arena_array(&in->arena, in->count, sizeof *values);
    if (!values) return NW_E_MEMORY;
    for (size_t i = 0; i < in->count; i++) values[i] = m ? in->layers[i].other_value : in->layers[i].value;
    return nw_session_set_taps(in->sessions[m], in->count, values, false,
                               m ? watch_quantized : watch_reference, in);
}

static nw_status run(inspection *in, int m, const nw_batch *batch) {
    const nw_model *model = in->models[m];
    nw_feed *feeds = nw_arena_array(&in->batch, model->input_count, sizeof *feeds);
    nw_tensor *outputs = nw_arena_array(&in->batch, model->output_count, sizeof *outputs);
    if (!feeds || !outputs) return NW_E_MEMORY;
    NW_TRY(nw_feeder_feed(&in->feeders[m], batch, &in->batch, feeds));
    nw_status status = nw_session_run(in->sessions[m], model->input_count, feeds, &in->batch, outputs);
    if (status == NW_OK) status = in->status;
    return status == NW_OK ? NW_OK : nw_fail_where(&in->env->ctx, status, "%s", model->path);
}

#define SMALL_BATCH 8 /* all activations of a batch are held */

static nw_status inspect(inspection *in, const nw_data *data, size_t wanted) {
    size_t fixed = in->feeders[0].batch ? in->feeders[0].batch : in->feeders[1].batch;
    if (in->feeders[1].batch && fixed != in->feeders[1].batch)
        return nw_fail(&in->env->ctx, NW_E_ARGUMENT, "the models have different fixed batch sizes");
    size_t batch_size = nw_feeder_batch(&in->feeders[0], data, wanted);
    if (!wanted) batch_size = batch_size < SMALL_BATCH ? 1 : SMALL_BATCH;
    if (fixed) batch_size = fixed;
    NW_TRY(nw_dataset_rewind(data->dataset));
    for (;;) {
        nw_batch batch;
        NW_TRY(nw_dataset_next(data->dataset, batch_size, &batch));
        if (batch.count == 0) return NW_OK;
        nw_arena_reset(&in->batch);
        for (size_t i = 0; i < in->count; i++) in->layers[i].seen = NULL;
        nw_status status = run(in, 0, &batch);
        if (status != NW_OK && status != NW_E_MEMORY && in->samples == 0 && batch_size > 1 && !wanted &&
            !fixed) {
            batch_size = 1; /* as in evaluate.c: not every model that says so takes any batch */
            NW_TRY(nw_dataset_rewind(data->dataset));
            for (size_t i = 0; i < in->count; i++) {
                layer *l = &in->layers[i];
                l->noise = (nw_noise){0};
                l->moments = (nw_moments){0};
            }
            continue;
        }
        NW_TRY(status);
        NW_TRY(run(in, 1, &batch));
        in->samples += batch.count;
        nw_env_progress(in->env, "comparing layers", in->samples, nw_dataset_count(data->dataset));
    }
}

/* ---- parameters -------------------------------------------------------------------------------------- */

typedef struct statistics {
    nw_moments moments;
    nw_noise noise;
} statistics;

static void count_in(statistics *s, float x, float y) {
    nw_moments_add(&s->moments, 1, &x);
    nw_noise_add(&s->noise, &x, &y, 1);
}

static void write_statistics(nw_record *r, const statistics *s, bool labels) {
    const nw_moments *m = &s->moments;
    nw_record_number(r, labels ? "weight_min" : "min", labels ? "min" : NULL, NW_UNIT_NUMBER, m->min);
    nw_record_number(r, labels ? "weight_max" : "max", labels ? "max" : NULL, NW_UNIT_NUMBER, m->max);
    nw_record_number(r, labels ? "weight_mean" : "mean", labels ? "mean" : NULL, NW_UNIT_NUMBER,
                     nw_moments_mean(m));
    nw_record_number(r, labels ? "weight_std" : "std", labels ? "std" : NULL, NW_UNIT_NUMBER,
                     nw_moments_std(m));
    nw_record_number(r, labels ? "weight_sqnr_db" : "sqnr_db", labels ? "weight SQNR" : NULL, NW_UNIT_DB,
                     nw_noise_db(&s->noise));
}

/* The weight of a layer in both graphs: constants of the same shape, the second one packed. */
static bool find_weight(const inspection *in, const layer *l, const nw_tensor **a, const nw_tensor **b,
                        int *axis) {
    nw_roles roles = nw_node_roles(l->node);
    if (!l->other) return false;
    for (int i = 0; i < l->node->in_count && i < l->other->in_count && i < NW_MAX_ROLES; i++) {
        if (nw_roles_of(&roles, i) != NW_ROLE_WEIGHT) continue;
        const nw_constant *x = nw_graph_constant(in->graphs[0], l->node->in[i]);
        const nw_constant *y = nw_graph_constant(in->graphs[1], l->other->in[i]);
        if (!x || !y || !y->tensor.qparam || !nw_tensor_same_shape(&x->tensor, &y->tensor)) continue;
        *a = &x->tensor;
        *b = &y->tensor;
        *axis = roles.channel_axis[i];
        return true;
    }
    return false;
}

static nw_status write_weight(inspection *in, const layer *l, nw_record *r) {
    const nw_tensor *a, *b;
    int axis;
    if (!find_weight(in, l, &a, &b, &axis)) return NW_OK;
    nw_arena_reset(&in->batch);
    nw_tensor x, y;
    NW_TRY(nw_tensor_to_f32(&in->batch, a, &x));
    NW_TRY(nw_tensor_to_f32(&in->batch, b, &y));
    if (axis < 0 || axis >= a->rank) axis = 0;
    size_t channels = a->rank ? (size_t)a->dims[axis] : 1;
    size_t inner = a->rank ? nw_dims_product(a->dims, axis + 1, a->rank) : 1;
    statistics *each = nw_arena_array(&in->batch, channels, sizeof *each), all = {0};
    float *again = nw_arena_data(&in->batch, nw_tensor_count(&x) * sizeof *again);
    if (!each || !again) return NW_E_MEMORY;
    const float *p = x.data, *q = y.data;
    for (size_t i = 0, n = nw_tensor_count(&x); i < n; i++) {
        count_in(&all, p[i], q[i]);
        count_in(&each[i / inner % channels], p[i], q[i]);
    }
    size_t clipped = nw_fake_quantize(b->qparam, a->rank, a->dims, p, again);
    char shape[160];
    nw_record_text(r, "weight_type", "weight", nw_tensor_describe(b, shape, sizeof shape));
    nw_record_number(r, "weight_scales", NULL, NW_UNIT_COUNT, (double)b->qparam->groups);
    write_statistics(r, &all, true);
    nw_record_number(r, "weight_saturated", "saturated", NW_UNIT_SHARE,
                     all.moments.count ? (double)clipped / (double)all.moments.count : 0);
    for (size_t c = 0; c < channels; c++)
        write_statistics(nw_record_item(r, "channels", NULL, NW_LAYOUT_ROWS), &each[c], false);
    return NW_OK;
}

static nw_status write_grid(inspection *in, const layer *l, nw_record *r) {
    if (!l->grid) {
        nw_record_text(r, "activation_type", "output", "f32");
        return NW_OK;
    }
    nw_qparam p;
    bool dynamic;
    if (nw_fakequant_qparam(in->graphs[1], l->grid, &in->batch, &p, &dynamic) != NW_OK) return NW_OK;
    nw_record_text(r, "activation_type", "output", nw_format_name(p.format));
    if (dynamic || p.groups == 0) return NW_OK;
    nw_record_number(r, "activation_scale", NULL, NW_UNIT_NUMBER, nw_qparam_scale(&p, 0));
    nw_record_number(r, "activation_zero_point", NULL, NW_UNIT_COUNT, nw_qparam_zero(&p, 0));
    return NW_OK;
}

static nw_status write_layer(inspection *in, const layer *l, nw_record *r) {
    const nw_moments *m = &l->moments;
    nw_record_text(r, "name", "layer", nw_node_label(in->graphs[0], l->node));
    nw_record_text(r, "op", "operator", l->node->op_type);
    nw_record_text(r, "tensor", NULL, in->graphs[0]->values[l->value].name);
    nw_record_number(r, "sqnr_db", "SQNR", NW_UNIT_DB, l->sqnr);
    nw_record_number(r, "activation_min", NULL, NW_UNIT_NUMBER, m->count ? m->min : NAN);
    nw_record_number(r, "activation_max", NULL, NW_UNIT_NUMBER, m->count ? m->max : NAN);
    nw_record_number(r, "activation_mean", NULL, NW_UNIT_NUMBER, nw_moments_mean(m));
    nw_record_number(r, "activation_std", NULL, NW_UNIT_NUMBER, nw_moments_std(m));
    NW_TRY(write_grid(in, l, r));
    return write_weight(in, l, r);
}

static int worst_first(const void *a, const void *b) {
    const layer *x = a, *y = b;
    double p = isnan(x->sqnr) ? INFINITY : x->sqnr, q = isnan(y->sqnr) ? INFINITY : y->sqnr;
    if (p != q) return (p > q) - (p < q);
    return (x->node > y->node) - (x->node < y->node); /* nodes of one array: graph order */
}

/* ---- the whole -------------------------------------------------------------------------------------- */

static nw_status hold(inspection *in, const nw_data *data, size_t batch, nw_record *r) {
    nw_context *ctx = &in->env->ctx;
    for (int m = 0; m < 2; m++) {
        NW_TRY(nw_feeder_init(&in->feeders[m], in->models[m], data));
        NW_TRY(nw_model_prepare(in->models[m], ctx, &in->graphs[m]));
    }
    NW_TRY(match(in));
    for (int m = 0; m < 2; m++) NW_TRY(start(in, m));
    NW_TRY(inspect(in, data, batch));
    for (size_t i = 0; i < in->count; i++) in->layers[i].sqnr = nw_noise_db(&in->layers[i].noise);
    qsort(in->layers, in->count, sizeof *in->layers, worst_first);

    nw_record_text(r, "reference", "reference", in->models[0]->path);
    nw_record_text(r, "model", "quantized", in->models[1]->path);
    nw_record_text(r, "data", "data", data->description);
    nw_record_number(r, "samples", "samples", NW_UNIT_COUNT, (double)in->samples);
    nw_record_list(r, "layers", "Layers, worst first", NW_LAYOUT_ROWS);
    for (size_t i = 0; i < in->count; i++) {
        const layer *l = &in->layers[i];
        const nw_tensor *a, *b;
        int axis;
        bool untouched = l->sqnr == NW_DB_EXACT && !l->grid && !find_weight(in, l, &a, &b, &axis);
        if (untouched) continue; /* in float, and before anything that is not */
        NW_TRY(write_layer(in, l, nw_record_item(r, "layers", "Layers, worst first", NW_LAYOUT_ROWS)));
    }
    return NW_OK;
}

nw_result nw_compare_layers(const nw_model *reference, const nw_model *quantized, nw_data *data,
                            const nw_measure_options *options, nw_report **report) {
    if (!reference || !quantized || !data || !report)
        return nw_misuse(reference ? reference->env : NULL, "nw_compare_layers: an argument is missing");
    nw_env *env = reference->env;
    nw_report *made = NULL;
    nw_status status = nw_report_new(env, "layers", &made);
    if (status != NW_OK) return nw_result_of(status);
    inspection in = {.env = env, .models = {reference, quantized}};
    nw_arena_init(&in.arena, &env->ctx);
    nw_arena_init(&in.batch, &env->ctx);
    status = hold(&in, data, options ? options->batch : 0, &made->sheet->root);
    for (int m = 0; m < 2; m++) {
        nw_session_free(in.sessions[m]);
        nw_graph_free(in.graphs[m]);
        nw_feeder_free(&in.feeders[m]);
    }
    nw_arena_free(&in.batch);
    nw_arena_free(&in.arena);
    return nw_report_finish(made, status, report);
}
