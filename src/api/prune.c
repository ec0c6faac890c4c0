/* prune.c: models with fewer weights or channels, and the report of what went. */
#include "train/prune.h"

#include "api/api.h"
#include "onnx/onnx.h"

#include <math.h>

static nw_status options_of(nw_env *env, const nw_prune_settings *s, nw_prune_options *o) {
    int norm;
    NW_TRY(nw_env_word(env, "norm", s->norm, NW_WORDS_NORM, &norm));
    *o = (nw_prune_options){.per_layer = s->per_layer != 0,
                            .channels = s->channels,
                            .l1 = norm == 1,
                            .exclude_count = s->exclude_count,
                            .exclude = s->exclude,
                            .only_count = s->only_count,
                            .only = s->only};
    if (s->weights) NW_TRY(nw_prune_parse(&env->ctx, s->weights, o));
    if (!s->weights && o->channels == 0)
        return nw_fail(&env->ctx, NW_E_ARGUMENT,
                       "say what is to go: a share of the weights, or of the channels");
    return nw_prune_options_check(&env->ctx, o);
}

/* ---- the report ---------------------------------------------------------------------------------------- */

static void write_total(nw_record *r, const nw_prune_report *p) {
    double weights[2] = {0}, macs[3] = {0}, nonzero = 0;
    for (size_t i = 0; i < p->layer_count; i++) {
        const nw_prune_layer *l = &p->layers[i];
        weights[0] += (double)l->weights_before;
        weights[1] += (double)l->weights_after;
        nonzero += (double)l->nonzero;
        macs[0] += l->macs_before;
        macs[1] += l->macs_after;
        macs[2] += l->macs_nonzero;
    }
    nw_record_number(r, "weights_before", "weights before", NW_UNIT_COUNT, weights[0]);
    nw_record_number(r, "weights", "weights after", NW_UNIT_COUNT, weights[1]);
    nw_record_number(r, "sparsity", "zeros among them", NW_UNIT_SHARE, 1 - nonzero / weights[1]);
    nw_record_number(r, "macs_before", "multiplications before", NW_UNIT_COUNT, macs[0]);
    nw_record_number(r, "macs", "multiplications after", NW_UNIT_COUNT, macs[1]);
    nw_record_number(r, "macs_nonzero", "not with zero", NW_UNIT_COUNT, macs[2]);
}

static void write_layers(nw_record *r, const nw_prune_report *p) {
    nw_record_list(r, "layers", "Layers", NW_LAYOUT_ROWS);
    for (size_t i = 0; i < p->layer_count; i++) {
        const nw_prune_layer *l = &p->layers[i];
        nw_record *item = nw_record_item(r, "layers", "Layers", NW_LAYOUT_ROWS);
        nw_record_text(item, "name", "layer", l->name);
        nw_record_text(item, "op", NULL, l->op);
        nw_record_number(item, "channels_before", "channels", NW_UNIT_COUNT, (double)l->channels_before);
        nw_record_number(item, "channels", "kept", NW_UNIT_COUNT, (double)l->channels_after);
        nw_record_number(item, "weights_before", "weights", NW_UNIT_COUNT, (double)l->weights_before);
        nw_record_number(item, "weights", "weights kept", NW_UNIT_COUNT, (double)l->weights_after);
        nw_record_number(item, "sparsity", "zeros", NW_UNIT_SHARE,
                         1 - (double)l->nonzero / (double)l->weights_after);
        nw_record_number(item, "macs_before", NULL, NW_UNIT_COUNT, l->macs_before);
        nw_record_number(item, "macs", NULL, NW_UNIT_COUNT, l->macs_after);
        nw_record_number(item, "macs_nonzero", NULL, NW_UNIT_COUNT, l->macs_nonzero);
        nw_record_text(item, "reason", "note", l->reason);
    }
}

static nw_status prune(const nw_model *model, const nw_prune_settings *s, nw_model **out, nw_record *r) {
    nw_env *env = model->env;
    nw_prune_options o;
    nw_prune_report *done = NULL;
    nw_graph *graph;
    NW_TRY(options_of(env, s, &o));
    NW_TRY(nw_model_fold(model, &env->ctx, &graph));
    nw_status status = nw_prune_graph(graph, &o, &done);
    if (status != NW_OK) {
        nw_graph_free(graph);
        return nw_fail_where(&env->ctx, status, "%s", model->path);
    }
    status = nw_model_written(model, graph, NW_STYLE_QDQ, 0, s->save_as, out);
    if (status == NW_OK && r) {
        nw_record_text(r, "model", "model", model->path);
        nw_record_text(r, "output", "written", s->save_as);
        write_total(r, done);
        if (model->file_bytes && (*out)->file_bytes) {
            nw_record_number(r, "file_bytes_before", "size before", NW_UNIT_BYTES, (double)model->file_bytes);
            nw_record_number(r, "file_bytes", "size after", NW_UNIT_BYTES, (double)(*out)->file_bytes);
        }
        write_layers(r, done);
    }
    nw_prune_report_free(done);
    return status;
}

nw_result nw_model_prune(const nw_model *model, const nw_prune_settings *settings, nw_model **pruned,
                         nw_report **report) {
    if (!model || !settings || !pruned)
        return nw_misuse(model ? model->env : NULL, "nw_model_prune: an argument is missing");
    nw_report *sheet = NULL;
    nw_model *made = NULL;
    nw_status status = report ? nw_report_new(model->env, "prune", &sheet) : NW_OK;
    if (status == NW_OK) status = prune(model, settings, &made, sheet ? &sheet->sheet->root : NULL);
    if (report) status = (nw_status)nw_report_finish(sheet, status, report); /* frees the sheet on failure */
    if (status != NW_OK) {
        nw_model_free(made);
        return nw_result_of(status);
    }
    *pruned = made;
    return NW_SUCCESS;
}
