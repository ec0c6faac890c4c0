/* dequantize.c: quantized models back to float. */
#include "api/api.h"
#include "quant/quant.h"

#include <string.h>

/* Integer operators that no rule turned into ordinary ones stay as they are. */
static size_t count_left(const nw_graph *g) {
    size_t count = 0;
    for (int n = 0; n < g->node_count; n++) {
        const char *op = g->nodes[n].op_type;
        count += strcmp(op, "QuantizeLinear") == 0 || strncmp(op, "QLinear", 7) == 0 || strstr(op, "Integer");
    }
    return count;
}

static nw_status dequantize(const nw_model *model, const nw_dequantize_options *o, nw_model **out,
                            nw_record *r) {
    nw_context *ctx = &model->env->ctx;
    nw_graph *graph;
    size_t weights = 0, roundings = 0;
    NW_TRY(nw_model_prepare(model, ctx, &graph));
    nw_status status = nw_dequantize_graph(graph, o->keep_rounding != 0, &weights, &roundings);
    size_t left = status == NW_OK ? count_left(graph) : 0;
    if (status == NW_OK && weights + roundings + left == 0)
        nw_warn(ctx, "%s is not quantized: nothing changes", model->path);
    if (status != NW_OK) {
        nw_graph_free(graph);
        return status;
    }
    NW_TRY(nw_model_written(model, graph, NW_STYLE_QDQ, 0, o->save_as, out));
    if (!r) return NW_OK;
    nw_record_text(r, "model", "model", model->path);
    nw_record_text(r, "output", "written", o->save_as);
    nw_record_number(r, "constants_expanded", "constants made float", NW_UNIT_COUNT, (double)weights);
    nw_record_number(r, "activations_freed", "activations no longer rounded", NW_UNIT_COUNT,
                     (double)roundings);
    nw_record_number(r, "integer_operators_left", left ? "integer operators left" : NULL, NW_UNIT_COUNT,
                     (double)left);
    if (o->save_as)
        nw_record_number(r, "file_bytes", "size after", NW_UNIT_BYTES, (double)(*out)->file_bytes);
    return NW_OK;
}

nw_result nw_model_dequantize(const nw_model *model, const nw_dequantize_options *options, nw_model **real,
                              nw_report **report) {
    if (!model || !real)
        return nw_misuse(model ? model->env : NULL, "nw_model_dequantize: an argument is missing");
    static const nw_dequantize_options defaults;
    nw_report *sheet = NULL;
    nw_model *made = NULL;
    nw_status status = report ? nw_report_new(model->env, "dequantize", &sheet) : NW_OK;
    if (status == NW_OK)
        status = dequantize(model, options ? options : &defaults, &made, sheet ? &sheet->sheet->root : NULL);
    if (report) status = (nw_status)nw_report_finish(sheet, status, report); /* frees the sheet on failure */
    if (status != NW_OK) {
        nw_model_free(made);
        return nw_result_of(status);
    }
    *real = made;
    return NW_SUCCESS;
}
