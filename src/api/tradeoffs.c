/* tradeoffs.c: one model quantized by several recipes, each measured against the original: what a recipe costs and gains, in a
 * row. */
#include "api/api.h"
#include "onnx/onnx.h"
#include "quant/recipe.h"

#include <math.h>
#include <string.h>

/* What becomes of one recipe. */
typedef struct candidate {
    const char *recipe;
    nw_model *model; /* NULL: it could not be made */
    const char *problem;
    double seconds; /* that quantizing took */
} candidate;

typedef struct survey {
    const nw_model *model;
    nw_data *calibration; /* or NULL */
    nw_arena arena;
    candidate *candidates;
    size_t count;
} survey;

/* "a,b|c" into candidates. */
static nw_status split(survey *s, const char *recipes) {
    size_t capacity = 0;
    for (const char *at = recipes; *at;) {
        size_t length = strcspn(at, ",|");
        if (length) {
            void **list = (void **)&s->candidates;
            NW_TRY(nw_arena_grow(&s->arena, list, &capacity, s->count, sizeof *s->candidates));
            const char *word = nw_arena_strndup(&s->arena, at, length);
            nw_quant_options read = nw_quant_options_default();
            if (!word) return NW_E_MEMORY;
            NW_TRY(nw_recipe_load(&s->arena, word, &read)); /* a misspelled name is no row */
            s->candidates[s->count++] = (candidate){.recipe = word};
        }
        at += length + (at[length] != 0);
    }
    return s->count ? NW_OK : nw_fail(&s->model->env->ctx, NW_E_ARGUMENT, "no recipe is named");
}

/* A recipe that does not fit this model is a row without numbers, not the end. */
static nw_status make(survey *s, candidate *c) {
    nw_env *env = s->model->env;
    nw_quantize_options options = {.recipe = c->recipe};
    double start = nw_now_ms();
    nw_result result = nw_model_quantize(s->model, s->calibration, &options, &c->model, NULL);
    c->seconds = (nw_now_ms() - start) / 1e3;
    if (result == NW_ERROR_MEMORY) return NW_E_MEMORY;
    if (result != NW_SUCCESS) {
        c->problem = nw_arena_strdup(&s->arena, nw_env_message(env));
        return c->problem ? NW_OK : NW_E_MEMORY;
    }
    /* as large as its file would be */
    nw_status status = nw_onnx_size(c->model->graph, &c->model->file_bytes);
    if (status == NW_OK) c->model->path = c->recipe;
    return status;
}

static double of_model(const nw_report *report, size_t m, const char *key) {
    char path[64];
    snprintf(path, sizeof path, "models.%zu.%s", m, key);
    return nw_report_number(report, path);
}

static void put(nw_record *r, const nw_report *report, size_t m, const char *key, const char *label,
                nw_unit unit) {
    nw_record_number(r, key, label, unit, of_model(report, m, key));
}

/* m: place in the comparison; 0 is the original, against which the others are. */
static void write_row(nw_record *r, const nw_report *report, size_t m) {
    const bool labelled = isfinite(of_model(report, 0, "top1"));
    put(r, report, m, "file_bytes", "file size", NW_UNIT_BYTES);
    put(r, report, m, "compression_ratio", "compression", NW_UNIT_FACTOR);
    if (isfinite(of_model(report, 0, "latency_ms_median"))) {
        put(r, report, m, "latency_ms_median", "latency", NW_UNIT_MS);
        put(r, report, m, "speedup", "speedup", NW_UNIT_FACTOR);
    }
    put(r, report, m, "peak_memory_bytes", "memory to run", NW_UNIT_BYTES);
    if (labelled) {
        double drop = of_model(report, 0, "top1") - of_model(report, m, "top1");
        put(r, report, m, "top1", "top-1", NW_UNIT_SHARE);
        nw_record_number(r, "top1_drop", "drop", NW_UNIT_SHARE, m ? drop : NAN);
    }
    if (isfinite(of_model(report, 0, "perplexity")))
        put(r, report, m, "perplexity", "perplexity", NW_UNIT_NUMBER);
    if (isfinite(of_model(report, 1, "agreement")))
        put(r, report, m, "agreement", "agreement", NW_UNIT_SHARE);
    put(r, report, m, "sqnr_db", "SQNR", NW_UNIT_DB);
}

static void write_rows(nw_record *root, const survey *s, const nw_report *report) {
    static const char *const title = "Recipes";
    nw_record *r = nw_record_item(root, "recipes", title, NW_LAYOUT_ROWS);
    nw_record_text(r, "recipe", "recipe", "(as it is)");
    write_row(r, report, 0);
    for (size_t i = 0, m = 1; i < s->count; i++) {
        const candidate *c = &s->candidates[i];
        r = nw_record_item(root, "recipes", title, NW_LAYOUT_ROWS);
        nw_record_text(r, "recipe", "recipe", c->recipe);
        if (c->model) write_row(r, report, m++);
        nw_record_number(r, "seconds", NULL, NW_UNIT_SECONDS, c->seconds);
        nw_record_text(r, "problem", NULL, c->problem ? c->problem : "");
    }
    for (size_t i = 0; i < s->count; i++)
        if (s->candidates[i].problem)
            nw_record_textf(root, NULL, s->candidates[i].recipe, "not made: %s", s->candidates[i].problem);
}

/* All models are measured in one comparison: on the same samples, taking turns. */
static nw_status measure(survey *s, nw_data *data, const nw_measure_options *options, nw_record *root) {
    const nw_model **models = nw_arena_array(&s->arena, s->count + 1, sizeof *models);
    if (!models) return NW_E_MEMORY;
    size_t count = 0;
    models[count++] = s->model;
    for (size_t i = 0; i < s->count; i++) {
        nw_env_progress(s->model->env, "quantizing", i + 1, s->count);
        NW_TRY(make(s, &s->candidates[i]));
        if (s->candidates[i].model) models[count++] = s->candidates[i].model;
    }
    if (count == 1)
        return nw_fail(&s->model->env->ctx, NW_E_ARGUMENT, "%s: no recipe fits: %s", s->candidates[0].recipe,
                       s->candidates[0].problem);
    nw_report *report;
    nw_result result = nw_compare(count, models, data, options, &report);
    if (result != NW_SUCCESS) return (nw_status)result;
    nw_record_text(root, "model", "model", s->model->path);
    nw_record_text(root, "data", "data", nw_data_description(data));
    nw_record_text(root, "calibration", "calibrated on",
                   s->calibration ? nw_data_description(s->calibration) : NULL);
    nw_record_number(root, "samples", "samples", NW_UNIT_COUNT, nw_report_number(report, "samples"));
    nw_env_write(s->model->env, root);
    write_rows(root, s, report);
    nw_report_free(report);
    return NW_OK;
}

nw_result nw_tradeoffs(const nw_model *model, nw_data *calibration, nw_data *data, const char *recipes,
                       const nw_measure_options *options, nw_report **report) {
    if (!model || !data || !report)
        return nw_misuse(model ? model->env : NULL, "nw_tradeoffs: an argument is missing");
    nw_env *env = model->env;
    nw_report *made = NULL;
    nw_status status = nw_report_new(env, "tradeoffs", &made);
    if (status != NW_OK) return nw_result_of(status);
    survey s = {.model = model, .calibration = calibration};
    nw_arena_init(&s.arena, &env->ctx);
    status = split(&s, recipes ? recipes : nw_words(NW_WORDS_PRESET));
    if (status == NW_OK) status = measure(&s, data, options, &made->sheet->root);
    for (size_t i = 0; i < s.count; i++) nw_model_free(s.candidates[i].model);
    nw_arena_free(&s.arena);
    return nw_report_finish(made, status, report);
}
