/* summary.c: what a model is, without running it. */
#include "api/api.h"
#include "op/op.h"
#include "quant/recipe.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Occurrences of one operator, or of one element type among the parameters. */
typedef struct tally {
    const char *name, *domain;
    size_t count;
    uint64_t bytes;
    bool known;
} tally;

typedef struct summary {
    nw_arena arena;
    tally *ops;
    size_t op_count, op_capacity;
    tally types[NW_FORMAT_COUNT];
    size_t nodes, parameters;
    uint64_t parameter_bytes;
    nw_status status;
} summary;

static void count_op(summary *s, const nw_node *node) {
    for (size_t i = 0; i < s->op_count; i++)
        if (strcmp(s->ops[i].name, node->op_type) == 0 && strcmp(s->ops[i].domain, node->domain) == 0) {
            s->ops[i].count++;
            return;
        }
    if (s->status == NW_OK)
        s->status = nw_arena_grow(&s->arena, (void **)&s->ops, &s->op_capacity, s->op_count, sizeof *s->ops);
    if (s->status == NW_OK)
        s->ops[s->op_count++] = (tally){node->op_type, node->domain, 1, 0, node->op != NULL};
}

static void count_constant(summary *s, const nw_constant *constant) {
    const nw_tensor *t = &constant->tensor;
    size_t count = nw_tensor_count(t), bytes = nw_tensor_bytes(t);
    s->parameters += count;
    s->parameter_bytes += bytes;
    if (t->format <= NW_NONE || t->format >= NW_FORMAT_COUNT) return;
    s->types[t->format].count += count;
    s->types[t->format].bytes += bytes;
}

static void walk(summary *s, const nw_graph *graph) {
    for (int v = 0; v < graph->value_count; v++)
        if (graph->values[v].constant) count_constant(s, graph->values[v].constant);
    for (int n = 0; n < graph->node_count; n++) {
        const nw_node *node = &graph->nodes[n];
        if (node->dead) continue;
        s->nodes++;
        count_op(s, node);
        for (int a = 0; a < node->attr_count; a++) {
            const nw_attr *attr = &node->attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) walk(s, attr->graph);
            for (size_t g = 0; attr->kind == NW_ATTR_GRAPHS && g < attr->count; g++) walk(s, attr->graphs[g]);
            if (attr->kind == NW_ATTR_TENSOR) count_constant(s, attr->tensor);
        }
    }
}

static int most_first(const void *a, const void *b) {
    const tally *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->domain, y->domain);
}

/* "f32 [N,3,224,224]", with the symbolic names the model gives its free dimensions. */
static char *shape_of(const nw_value *value, char *buffer, size_t size) {
    size_t at =
        (size_t)snprintf(buffer, size, "%s", value->format == NW_NONE ? "?" : nw_format_name(value->format));
    if (value->rank < 0) return buffer;
    for (int d = 0; d <= value->rank && at < size; d++) {
        const char *before = d == 0 ? " [" : d < value->rank ? "," : "";
        at += (size_t)snprintf(buffer + at, size - at, "%s", before);
        if (at >= size || d == value->rank) break;
        const char *name = value->dim_names ? value->dim_names[d] : NULL;
        at += (size_t)(value->dims[d] > 0 ? snprintf(buffer + at, size - at, "%" PRId64, value->dims[d])
                                          : snprintf(buffer + at, size - at, "%s", name ? name : "?"));
    }
    if (at < size) snprintf(buffer + at, size - at, "]");
    return buffer;
}

static void write_border(nw_record *r, const nw_graph *graph, const char *key, const char *label, int count,
                         const int *ids) {
    nw_record_list(r, key, NULL, NW_LAYOUT_ROWS);
    for (int i = 0; i < count; i++) {
        const nw_value *value = &graph->values[ids[i]];
        if (value->constant) continue;
        char text[512];
        nw_record *item = nw_record_item(r, key, NULL, NW_LAYOUT_ROWS);
        nw_record_text(item, "name", NULL, value->name);
        nw_record_text(item, "type", NULL, nw_format_name(value->format));
        nw_record_text(item, "shape", NULL, shape_of(value, text, sizeof text));
        nw_record_textf(r, NULL, label, "%s  %s", value->name, text);
    }
}

static void write_header(nw_record *r, const nw_model *model) {
    const nw_graph *graph = model->graph;
    const nw_model_info *info = graph->info;
    nw_record_text(r, "model", "model", model->path);
    if (model->file_bytes)
        nw_record_number(r, "file_bytes", "file size", NW_UNIT_BYTES, (double)model->file_bytes);
    if (info && info->producer_name && *info->producer_name)
        nw_record_textf(r, "producer", "producer", "%s %s", info->producer_name,
                        info->producer_version ? info->producer_version : "");
    if (info) nw_record_number(r, "ir_version", NULL, NW_UNIT_COUNT, (double)info->ir_version);
    for (size_t i = 0; i < graph->opset_count; i++) {
        const char *domain = *graph->opsets[i].domain ? graph->opsets[i].domain : "ai.onnx";
        nw_record *item = nw_record_item(r, "opsets", NULL, NW_LAYOUT_ROWS);
        nw_record_text(item, "domain", NULL, domain);
        nw_record_number(item, "version", NULL, NW_UNIT_COUNT, (double)graph->opsets[i].version);
        nw_record_textf(r, NULL, "opset", "%s %" PRId64, domain, graph->opsets[i].version);
    }
    write_border(r, graph, "inputs", "input", graph->input_count, graph->inputs);
    write_border(r, graph, "outputs", "output", graph->output_count, graph->outputs);
}

static void write_counts(nw_record *r, summary *s) {
    nw_record_number(r, "nodes", "nodes", NW_UNIT_COUNT, (double)s->nodes);
    nw_record_number(r, "parameters", "parameters", NW_UNIT_COUNT, (double)s->parameters);
    nw_record_number(r, "parameter_bytes", "their size", NW_UNIT_BYTES, (double)s->parameter_bytes);
    size_t unknown = 0;
    for (size_t i = 0; i < s->op_count; i++) unknown += !s->ops[i].known;
    nw_record_number(r, "unsupported_operators", NULL, NW_UNIT_COUNT, (double)unknown);
    nw_record_text(r, "runnable", "can run",
                   unknown ? "no: operators marked \"unsupported\" are missing" : "yes");
    nw_record_list(r, "operators", "Operators", NW_LAYOUT_ROWS);
    if (s->op_count) qsort(s->ops, s->op_count, sizeof *s->ops, most_first);
    for (size_t i = 0; i < s->op_count; i++) {
        nw_record *item = nw_record_item(r, "operators", "Operators", NW_LAYOUT_ROWS);
        nw_record_text(item, "name", "operator", s->ops[i].name);
        nw_record_text(item, "domain", NULL, s->ops[i].domain);
        nw_record_number(item, "count", "count", NW_UNIT_COUNT, (double)s->ops[i].count);
        nw_record_flag(item, "supported", NULL, s->ops[i].known);
        nw_record_text(item, NULL, "note", s->ops[i].known ? s->ops[i].domain : "unsupported");
    }
    nw_record_list(r, "parameter_types", "Parameters", NW_LAYOUT_ROWS);
    for (int f = 0; f < NW_FORMAT_COUNT; f++) {
        if (!s->types[f].count) continue;
        nw_record *item = nw_record_item(r, "parameter_types", "Parameters", NW_LAYOUT_ROWS);
        nw_record_text(item, "type", "type", nw_format_name((nw_format)f));
        nw_record_number(item, "count", "count", NW_UNIT_COUNT, (double)s->types[f].count);
        nw_record_number(item, "bytes", "size", NW_UNIT_BYTES, (double)s->types[f].bytes);
    }
}

static void write_nodes(nw_record *r, const nw_graph *graph) {
    nw_record_list(r, "layers", "Nodes", NW_LAYOUT_DETAILS);
    for (int n = 0; n < graph->node_count; n++) {
        const nw_node *node = &graph->nodes[n];
        char text[512] = "";
        int out = nw_node_out(node, 0);
        nw_record *item = nw_record_item(r, "layers", "Nodes", NW_LAYOUT_DETAILS);
        nw_record_text(item, "name", "node", nw_node_label(graph, node));
        nw_record_text(item, "op", "operator", node->op_type);
        nw_record_text(item, "output", "output", out < 0 ? "" : graph->values[out].name);
        nw_record_text(item, "shape", "declared",
                       out < 0 ? "" : shape_of(&graph->values[out], text, sizeof text));
    }
}

/* How much of the model works on integers, however the file spells it. A model that cannot be folded is not
 * counted. */
static void write_quantization(nw_record *r, const nw_model *model) {
    nw_context quiet; /* whatever fails here is no failure of the summary */
    nw_context_child(&quiet, &model->env->ctx);
    nw_graph *graph;
    if (nw_model_fold(model, &quiet, &graph) != NW_OK) return;
    size_t packed = 0, grids = 0;
    for (int v = 0; v < graph->value_count; v++)
        packed += graph->values[v].constant && graph->values[v].constant->tensor.qparam;
    for (int n = 0; n < graph->node_count; n++) grids += strcmp(graph->nodes[n].op_type, "FakeQuant") == 0;
    nw_record_number(r, "quantized_constants", NULL, NW_UNIT_COUNT, (double)packed);
    nw_record_number(r, "quantized_activations", NULL, NW_UNIT_COUNT, (double)grids);
    if (packed || grids)
        nw_record_textf(r, NULL, "quantized", "%zu constants, %zu activations", packed, grids);
    else
        nw_record_text(r, NULL, "quantized", "no");
    nw_graph_free(graph);
}

static void write_setting(void *user, const char *layers, const char *name, const char *value) {
    nw_record *item = nw_record_item(user, "recipe", NULL, NW_LAYOUT_ROWS);
    nw_record_text(item, "layers", NULL, *layers ? layers : NULL);
    nw_record_text(item, "setting", NULL, name);
    nw_record_text(item, "value", NULL, value);
    nw_record_textf(user, NULL, "recipe", "%s%s%s%s %s", *layers ? "[" : "", layers, *layers ? "] " : "",
                    name, value);
}

/* How narrow quantized the model. A text that is no recipe is another program's business. */
static void write_recipe(nw_record *r, const nw_model *model) {
    const char *recipe = nw_graph_property(model->graph, NW_RECIPE_PROPERTY);
    nw_context quiet;
    nw_context_child(&quiet, &model->env->ctx);
    if (recipe) (void)nw_recipe_walk(&quiet, recipe, write_setting, r);
}

nw_result nw_model_summary(const nw_model *model, const nw_summary_options *options, nw_report **report) {
    if (!model || !report)
        return nw_misuse(model ? model->env : NULL, "nw_model_summary: an argument is missing");
    nw_report *made = NULL;
    nw_status status = nw_report_new(model->env, "info", &made);
    if (status != NW_OK) return nw_result_of(status);
    nw_record *r = &made->sheet->root;
    summary *s = nw_calloc(&model->env->ctx, 1, sizeof *s);
    if (!s) return nw_report_finish(made, NW_E_MEMORY, report);
    nw_arena_init(&s->arena, &model->env->ctx);
    walk(s, model->graph);
    write_header(r, model);
    write_quantization(r, model);
    write_recipe(r, model);
    write_counts(r, s);
    write_nodes(r, model->graph);
    status = s->status;
    if (status == NW_OK && options && (options->statistics || options->channels || options->reference))
        status = nw_write_parameters(model, options->reference, options->channels != 0, r);
    nw_arena_free(&s->arena);
    nw_free(&model->env->ctx, s);
    return nw_report_finish(made, status, report);
}
