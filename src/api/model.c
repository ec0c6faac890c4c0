/* model.c: models: loading, saving, describing their borders, running them. */
#include "api/api.h"
#include "onnx/onnx.h"
#include "op/op.h"
#include "run/simplify.h"

#include <string.h>

static bool is_free_input(const nw_graph *graph, int i) {
    return !graph->values[graph->inputs[i]].constant;
}

static void describe(const nw_value *value, nw_array *out) {
    *out = (nw_array){value->name, (nw_type)value->format, value->rank, {0}, NULL};
    for (int d = 0; d < value->rank; d++) out->dims[d] = value->dims[d] > 0 ? value->dims[d] : -1;
}

static nw_status describe_borders(nw_model *model) {
    const nw_graph *graph = model->graph;
    model->inputs = nw_arena_array(&model->arena, (size_t)graph->input_count, sizeof *model->inputs);
    model->outputs = nw_arena_array(&model->arena, (size_t)graph->output_count, sizeof *model->outputs);
    if (!model->inputs || !model->outputs) return NW_E_MEMORY;
    for (int i = 0; i < graph->input_count; i++)
        if (is_free_input(graph, i))
            describe(&graph->values[graph->inputs[i]], &model->inputs[model->input_count++]);
    for (int i = 0; i < graph->output_count; i++)
        describe(&graph->values[graph->outputs[i]], &model->outputs[model->output_count++]);
    return NW_OK;
}

nw_status nw_model_of_graph(nw_env *env, nw_graph *graph, const char *path, nw_model **out) {
    nw_model *model = nw_calloc(&env->ctx, 1, sizeof *model);
    if (!model) {
        nw_graph_free(graph);
        return NW_E_MEMORY;
    }
    model->env = env;
    model->graph = graph;
    nw_arena_init(&model->arena, &env->ctx);
    nw_arena_init(&model->results, &env->ctx);
    model->path = nw_arena_strdup(&model->arena, path);
    nw_status status = model->path ? describe_borders(model) : NW_E_MEMORY;
    if (status == NW_OK)
        *out = model;
    else
        nw_model_free(model);
    return status;
}

nw_result nw_model_load(nw_env *env, const char *path, nw_model **model) {
    if (!env || !path || !model) return nw_misuse(env, "nw_model_load: an argument is missing");
    nw_graph *graph;
    nw_model *loaded;
    uint64_t bytes = 0;
    double start = nw_now_ms();
    nw_status status = nw_onnx_import(&env->ctx, path, true, &graph);
    if (status == NW_OK) status = nw_model_of_graph(env, graph, path, &loaded);
    if (status == NW_OK && (status = nw_file_size(&env->ctx, path, &bytes)) != NW_OK) nw_model_free(loaded);
    if (status != NW_OK) return nw_result_of(status);
    loaded->file_bytes = bytes + graph->info->external_bytes;
    loaded->load_ms = nw_now_ms() - start;
    *model = loaded;
    return NW_SUCCESS;
}

nw_result nw_model_save(const nw_model *model, const char *path) {
    if (!model || !path) return nw_misuse(model ? model->env : NULL, "nw_model_save: an argument is missing");
    return nw_result_of(nw_onnx_export(model->graph, path, false, NULL));
}

void nw_model_free(nw_model *model) {
    if (!model) return;
    nw_runner_free(model->runner);
    nw_arena_free(&model->results);
    nw_graph_free(model->graph);
    nw_arena_free(&model->arena);
    nw_free(&model->env->ctx, model);
}

size_t nw_model_input_count(const nw_model *model) {
    return model ? model->input_count : 0;
}
size_t nw_model_output_count(const nw_model *model) {
    return model ? model->output_count : 0;
}

const nw_array *nw_model_input(const nw_model *model, size_t i) {
    return model && i < model->input_count ? &model->inputs[i] : NULL;
}

const nw_array *nw_model_output(const nw_model *model, size_t i) {
    return model && i < model->output_count ? &model->outputs[i] : NULL;
}

nw_status nw_model_fold(const nw_model *model, nw_context *ctx, nw_graph **out) {
    nw_graph *graph;
    NW_TRY(nw_graph_copy(model->graph, ctx, &graph));
    nw_status status = nw_graph_resolve(graph);
    if (status == NW_OK) status = nw_onnx_fold_quantization(graph);
    if (status != NW_OK) {
        nw_graph_free(graph);
        return nw_fail_where(ctx, status, "%s", model->path);
    }
    *out = graph;
    return NW_OK;
}

nw_status nw_model_written(const nw_model *model, nw_graph *graph, nw_quant_style style, int64_t opset,
                           const char *save_as, nw_model **out) {
    nw_env *env = model->env;
    uint64_t bytes = 0;
    nw_status status = nw_onnx_spell_quantization(graph, style, opset);
    if (status == NW_OK && save_as) status = nw_onnx_export(graph, save_as, false, &bytes);
    if (status != NW_OK) {
        nw_graph_free(graph);
        return status;
    }
    NW_TRY(nw_model_of_graph(env, graph, save_as ? save_as : model->path, out));
    (*out)->file_bytes = bytes;
    return NW_OK;
}

nw_status nw_model_prepare(const nw_model *model, nw_context *ctx, nw_graph **out) {
    nw_graph *graph;
    NW_TRY(nw_model_fold(model, ctx, &graph));
    nw_status status = nw_simplify(graph);
    if (status != NW_OK) {
        nw_graph_free(graph);
        return nw_fail_where(ctx, status, "%s", model->path);
    }
    *out = graph;
    return NW_OK;
}

/* Letters of a name without "_quant" at its end. */
static size_t stem_of(const char *name) {
    size_t length = strlen(name);
    return length > 6 && strcmp(name + length - 6, "_quant") == 0 ? length - 6 : length;
}

const nw_node *nw_graph_namesake(const nw_graph *graph, const nw_node *node) {
    size_t stem = stem_of(node->name);
    for (int n = 0; stem && n < graph->node_count; n++) {
        const nw_node *other = &graph->nodes[n];
        if (strcmp(other->op_type, node->op_type) == 0 && stem_of(other->name) == stem &&
            memcmp(other->name, node->name, stem) == 0)
            return other;
    }
    return NULL;
}

uint64_t nw_model_constant_bytes(const nw_model *model) {
    uint64_t bytes = 0;
    for (int v = 0; v < model->graph->value_count; v++)
        if (model->graph->values[v].constant)
            bytes += nw_tensor_bytes(&model->graph->values[v].constant->tensor);
    return bytes;
}

/* The array meant for input i, or NULL with the reason. */
static const nw_array *input_named(const nw_model *model, size_t i, size_t count, const nw_array *inputs) {
    const char *name = model->inputs[i].name;
    for (size_t k = 0; k < count; k++)
        if (inputs[k].name ? strcmp(inputs[k].name, name) == 0 : model->input_count == 1 && count == 1)
            return &inputs[k];
    nw_fail(&model->env->ctx, NW_E_ARGUMENT, "%s: input \"%s\" is not given", model->path, name);
    return NULL;
}

static nw_status check_names(const nw_model *model, size_t count, const nw_array *inputs) {
    for (size_t k = 0; k < count; k++) {
        bool known = !inputs[k].name && model->input_count == 1 && count == 1;
        for (size_t i = 0; i < model->input_count && inputs[k].name; i++)
            known = known || strcmp(inputs[k].name, model->inputs[i].name) == 0;
        if (known) continue;
        char list[512] = "";
        for (size_t i = 0, at = 0; i < model->input_count && at < sizeof list; i++)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s\"%s\"", i ? ", " : "",
                                   model->inputs[i].name);
        return nw_fail(&model->env->ctx, NW_E_ARGUMENT, "%s has no input \"%s\"; it has %s", model->path,
                       inputs[k].name ? inputs[k].name : "(no name)", list);
    }
    return NW_OK;
}

static nw_status feeds_of(const nw_model *model, size_t count, const nw_array *inputs, nw_feed *feeds) {
    nw_context *ctx = &model->env->ctx;
    NW_TRY(check_names(model, count, inputs));
    for (size_t i = 0; i < model->input_count; i++) {
        const nw_array *a = input_named(model, i, count, inputs);
        if (!a) return NW_E_ARGUMENT;
        nw_tensor t = {.format = (nw_format)a->type, .rank = a->rank, .data = a->data};
        memcpy(t.dims, a->dims, sizeof t.dims);
        NW_TRY(nw_tensor_check(ctx, &t));
        if (!t.data && nw_tensor_bytes(&t))
            return nw_fail(ctx, NW_E_ARGUMENT, "%s: input \"%s\" has no data", model->path,
                           model->inputs[i].name);
        nw_type wanted = model->inputs[i].type;
        if (wanted != NW_TYPE_NONE && wanted != a->type)
            return nw_fail(ctx, NW_E_TYPE, "%s: input \"%s\" holds %s, but the model wants %s", model->path,
                           model->inputs[i].name, nw_type_name(a->type), nw_type_name(wanted));
        feeds[i] = (nw_feed){model->inputs[i].name, t};
    }
    return NW_OK;
}

nw_result nw_model_run(nw_model *model, size_t count, const nw_array *inputs, const nw_array **outputs) {
    if (!model || (count && !inputs) || !outputs)
        return nw_misuse(model ? model->env : NULL, "nw_model_run: an argument is missing");
    nw_arena *arena = &model->results;
    nw_arena_reset(arena);
    nw_feed *feeds = nw_arena_array(arena, model->input_count, sizeof *feeds);
    nw_tensor *tensors = nw_arena_array(arena, model->output_count, sizeof *tensors);
    nw_array *arrays = nw_arena_array(arena, model->output_count, sizeof *arrays);
    if (!feeds || !tensors || !arrays) return NW_ERROR_MEMORY;
    nw_status status = feeds_of(model, count, inputs, feeds);
    if (status == NW_OK && !model->runner) status = nw_runner_new(model, &model->runner);
    if (status == NW_OK) status = nw_runner_run(model->runner, model->input_count, feeds, arena, tensors);
    if (status != NW_OK) return nw_result_of(status);
    for (size_t i = 0; i < model->output_count; i++) {
        const nw_tensor *t = &tensors[i];
        if (t->format == NW_STR)
            return nw_result_of(nw_fail(&model->env->ctx, NW_E_UNSUPPORTED,
                                        "%s: output \"%s\" is text, which cannot be "
                                        "given out",
                                        model->path, model->outputs[i].name));
        arrays[i] = (nw_array){model->outputs[i].name, (nw_type)t->format, t->rank, {0}, t->data};
        memcpy(arrays[i].dims, t->dims, sizeof arrays[i].dims);
    }
    *outputs = arrays;
    return NW_SUCCESS;
}

nw_result nw_model_explain(const nw_model *model, void (*print)(void *user, const char *line), void *user) {
    if (!model || !print)
        return nw_misuse(model ? model->env : NULL, "nw_model_explain: an argument is missing");
    if (!model->runner) return nw_misuse(model->env, "nw_model_explain: the model has not run yet");
    nw_session_explain(model->runner->session, print, user);
    return NW_SUCCESS;
}
