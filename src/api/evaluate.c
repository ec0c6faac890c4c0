/* evaluate.c: models side by side on the same samples: latency and memory of one sample first, then accuracy,
 * streaming the data set once for all models. */
#include "api/api.h"

#include <math.h>
#include <string.h>

typedef struct entry {
    const nw_model *model;
    nw_runner *runner;
    nw_feeder feeder;
    nw_feed *feeds;     /* [input_count] */
    nw_tensor *outputs; /* [output_count] of the latest run */
    nw_tensor *real;    /* the same as f32; data NULL for text */
    nw_arena arena;     /* of one run, counted */
    nw_score score;
    nw_noise *noise;    /* [output_count] against the first entry */
    nw_latency latency; /* runs 0: not measured */
    size_t peak;
} entry;

typedef struct contest {
    nw_env *env;
    nw_data *data;
    const nw_measure_options *options;
    nw_arena arena;
    size_t count;
    entry *entries;
    size_t batch; /* samples per run when accuracy is measured */
    int judged;   /* output whose scores count; −1: none has scores */
    int output;   /* output that SQNR is of */
    size_t samples;
} contest;

/* ---- taking part ------------------------------------------------------------------------------------- */

static nw_status enter(contest *c, entry *e, const nw_model *model) {
    e->model = model;
    nw_score_init(&e->score, &c->env->ctx);
    e->feeds = nw_arena_array(&c->arena, model->input_count, sizeof *e->feeds);
    e->outputs = nw_arena_array(&c->arena, model->output_count, sizeof *e->outputs);
    e->real = nw_arena_array(&c->arena, model->output_count, sizeof *e->real);
    e->noise = nw_arena_array(&c->arena, model->output_count, sizeof *e->noise);
    if (!e->feeds || !e->outputs || !e->real || !e->noise) return NW_E_MEMORY;
    NW_TRY(nw_feeder_init(&e->feeder, model, c->data));
    NW_TRY(nw_runner_new(model, &e->runner));
    nw_arena_init(&e->arena, &e->runner->ctx);
    return NW_OK;
}

static void leave(entry *e) {
    if (e->runner) nw_arena_free(&e->arena);
    nw_runner_free(e->runner);
    nw_feeder_free(&e->feeder);
    nw_score_free(&e->score);
}

static nw_status find_output(contest *c) {
    const nw_model *first = c->entries[0].model;
    c->judged = -1;
    c->output = 0;
    for (size_t m = 1; m < c->count; m++)
        if (c->entries[m].model->output_count != first->output_count)
            return nw_fail(&c->env->ctx, NW_E_ARGUMENT,
                           "%s has %zu outputs and %s has %zu: they cannot be compared", first->path,
                           first->output_count, c->entries[m].model->path, c->entries[m].model->output_count);
    if (first->output_count == 0)
        return nw_fail(&c->env->ctx, NW_E_ARGUMENT, "%s has no output", first->path);
    if (!c->options->output) return NW_OK;
    for (size_t i = 0; i < first->output_count; i++)
        if (strcmp(first->outputs[i].name, c->options->output) == 0) {
            c->output = (int)i;
            return NW_OK;
        }
    return nw_fail(&c->env->ctx, NW_E_ARGUMENT, "%s has no output \"%s\"; its first one is \"%s\"",
                   first->path, c->options->output, first->outputs[0].name);
}

static nw_status run(entry *e, const nw_batch *batch) {
    nw_arena_reset(&e->arena);
    nw_status status = nw_feeder_feed(&e->feeder, batch, &e->arena, e->feeds);
    if (status != NW_OK) return nw_env_take(e->model->env, &e->runner->ctx, status);
    return nw_runner_run(e->runner, e->model->input_count, e->feeds, &e->arena, e->outputs);
}

static nw_status run_to_f32(entry *e, const nw_batch *batch) {
    NW_TRY(run(e, batch));
    for (size_t i = 0; i < e->model->output_count; i++) {
        e->real[i] = e->outputs[i];
        e->real[i].data = NULL;
        nw_kind kind = nw_format_kind(e->outputs[i].format);
        if (kind == NW_KIND_STRING || kind == NW_KIND_COMPLEX) continue;
        nw_status status = nw_tensor_to_f32(&e->arena, &e->outputs[i], &e->real[i]);
        if (status != NW_OK) return nw_env_take(e->model->env, &e->runner->ctx, status);
    }
    return NW_OK;
}

/* ---- latency and memory, of one sample --------------------------------------------------------------- */

#define AUTO_MS     2000.0 /* spent on each model */
#define AUTO_LEAST  10
#define AUTO_MOST   500
#define BLOCKS      10 /* models take turns, so that a change of the machine's speed meets all alike */
#define AUTO_WARMUP 3

static nw_status time_once(entry *e, double *ms) {
    nw_arena_reset(&e->arena);
    double start = nw_now_ms();
    nw_status status = nw_runner_run(e->runner, e->model->input_count, e->feeds, &e->arena, e->outputs);
    *ms = nw_now_ms() - start;
    return status;
}

/* Runs of one model back to back, as a program would, in blocks that alternate between the models. */
static nw_status time_all(contest *c, size_t *runs, double **ms) {
    size_t total = 0, done = 0;
    for (size_t m = 0; m < c->count; m++) total += runs[m];
    for (size_t block = 0; block < BLOCKS; block++)
        for (size_t m = 0; m < c->count; m++) {
            entry *e = &c->entries[m];
            size_t from = runs[m] * block / BLOCKS, to = runs[m] * (block + 1) / BLOCKS;
            double unused;
            if (from < to && c->count > 1)
                NW_TRY(time_once(e, &unused)); /* the other model emptied the cache */
            for (size_t i = from; i < to; i++) NW_TRY(time_once(e, &ms[m][i]));
            nw_env_progress(c->env, "timing", done += to - from, total);
        }
    for (size_t m = 0; m < c->count; m++) c->entries[m].latency = nw_latency_of(ms[m], runs[m]);
    return NW_OK;
}

static nw_status time_models(contest *c) {
    const nw_measure_options *o = c->options;
    size_t *runs = nw_arena_array(&c->arena, c->count, sizeof *runs);
    double **ms = nw_arena_array(&c->arena, c->count, sizeof *ms);
    if (!runs || !ms) return NW_E_MEMORY;
    for (size_t m = 0; m < c->count; m++) {
        double ms_once, least = INFINITY; /* the least: a busy machine must not cut the measurement short */
        for (size_t i = 0; i < (o->warmup ? o->warmup : AUTO_WARMUP); i++) {
            NW_TRY(time_once(&c->entries[m], &ms_once));
            least = fmin(least, ms_once);
        }
        double fit = least > 0 ? AUTO_MS / least : AUTO_MOST;
        runs[m] = o->runs            ? o->runs
                  : fit < AUTO_LEAST ? AUTO_LEAST
                  : fit > AUTO_MOST  ? AUTO_MOST
                                     : (size_t)fit;
        ms[m] = nw_arena_array(&c->arena, runs[m], sizeof **ms);
        if (!ms[m]) return NW_E_MEMORY;
    }
    return time_all(c, runs, ms);
}

static nw_status measure_cost(contest *c) {
    nw_batch batch;
    size_t one = 1;
    for (size_t m = 0; m < c->count; m++)
        if (c->entries[m].feeder.batch) one = c->entries[m].feeder.batch;
    NW_TRY(nw_dataset_rewind(c->data->dataset));
    NW_TRY(nw_dataset_next(c->data->dataset, one, &batch));
    if (batch.count == 0) return nw_fail(&c->env->ctx, NW_E_DATA, "the data set is empty");
    for (size_t m = 0; m < c->count; m++) {
        entry *e = &c->entries[m];
        NW_TRY(run(e, &batch));
        e->peak = nw_runner_peak(e->runner);
    }
    if (c->options->no_latency) return NW_OK;
    nw_arena feeding; /* the timed runs reset the entries' own arenas */
    nw_arena_init(&feeding, &c->env->ctx);
    nw_status status = NW_OK;
    for (size_t m = 0; status == NW_OK && m < c->count; m++)
        status = nw_feeder_feed(&c->entries[m].feeder, &batch, &feeding, c->entries[m].feeds);
    if (status == NW_OK) status = time_models(c);
    nw_arena_free(&feeding);
    return status;
}

/* ---- accuracy ---------------------------------------------------------------------------------------- */

/* Class scores are the last axis of [N,C] (then T = 1) or [N,T,C], or the second of [N,C,1,1]; T is the
 * number of labels a sample has. */
static bool scores_of(const nw_tensor *t, size_t samples, size_t labels, size_t *rows, size_t *classes) {
    if (t->rank < 2 || !t->data || t->dims[0] < 0 || (size_t)t->dims[0] < samples) return false;
    if (!nw_format_is_float(t->format)) return false;
    if (t->rank == 3 && (size_t)t->dims[1] == labels && t->dims[2] > 1) {
        *rows = samples * labels;
        *classes = (size_t)t->dims[2];
        return true;
    }
    *rows = samples;
    *classes = (size_t)t->dims[1];
    return labels == 1 && t->dims[1] > 1 && nw_dims_product(t->dims, 2, t->rank) == 1;
}

/* Elements of the samples that count: outputs of a padded batch have more. */
static size_t counted(const nw_tensor *t, size_t samples) {
    size_t all = nw_tensor_count(t);
    bool batched = t->rank > 0 && t->dims[0] > 0 && (size_t)t->dims[0] > samples;
    return batched ? all / (size_t)t->dims[0] * samples : all;
}

static size_t label_count(const contest *c) {
    return nw_dataset_has_labels(c->data->dataset) ? nw_dataset_label_count(c->data->dataset) : 1;
}

static void choose_judged(contest *c, size_t samples) {
    const entry *e = &c->entries[0];
    size_t rows, classes;
    for (size_t i = 0; i < e->model->output_count; i++) {
        if (c->options->output && (int)i != c->output) continue;
        if (!scores_of(&e->real[i], samples, label_count(c), &rows, &classes)) continue;
        c->judged = c->output = (int)i;
        return;
    }
    if (nw_dataset_has_labels(c->data->dataset) && label_count(c) > 1)
        nw_warn(&c->env->ctx,
                "%s: no output looks like class scores for %zu labels a sample: the labels are not used",
                e->model->path, label_count(c));
    else if (nw_dataset_has_labels(c->data->dataset))
        nw_warn(&c->env->ctx, "%s: no output looks like class scores [N, classes]: the labels are not used",
                e->model->path);
}

static nw_status judge(contest *c, entry *e, const nw_batch *batch) {
    const entry *first = &c->entries[0];
    for (size_t i = 0; e != first && i < e->model->output_count; i++) {
        if (!e->real[i].data || !first->real[i].data) continue;
        if (!nw_tensor_same_shape(&e->real[i], &first->real[i])) {
            char a[128], b[128];
            return nw_fail(&c->env->ctx, NW_E_SHAPE, "output \"%s\" is %s in %s, but %s in %s",
                           first->model->outputs[i].name, nw_tensor_describe(&first->real[i], a, sizeof a),
                           first->model->path, nw_tensor_describe(&e->real[i], b, sizeof b), e->model->path);
        }
        nw_noise_add(&e->noise[i], first->real[i].data, e->real[i].data, counted(&e->real[i], batch->count));
    }
    if (c->judged < 0) return NW_OK;
    size_t rows, classes;
    if (!scores_of(&e->real[c->judged], batch->count, label_count(c), &rows, &classes))
        return nw_fail(&c->env->ctx, NW_E_SHAPE, "%s: output \"%s\" changes its shape", e->model->path,
                       e->model->outputs[c->judged].name);
    const float *scores = e->real[c->judged].data;
    NW_TRY(nw_score_add(&e->score, rows, classes, scores, batch->labels,
                        e == first ? NULL : first->real[c->judged].data));
    if (batch->labels && label_count(c) > 1)
        nw_score_add_tokens(&e->score, rows, classes, scores, batch->labels);
    return NW_OK;
}

static nw_status measure_accuracy(contest *c) {
    nw_dataset *ds = c->data->dataset;
    size_t total = nw_dataset_count(ds);
    NW_TRY(nw_dataset_rewind(ds));
    for (;;) {
        nw_batch batch;
        NW_TRY(nw_dataset_next(ds, c->batch, &batch));
        if (batch.count == 0) break;
        for (size_t m = 0; m < c->count; m++) {
            entry *e = &c->entries[m];
            nw_status status = run_to_f32(e, &batch);
            if (status != NW_OK && status != NW_E_MEMORY && c->samples == 0 && c->batch > 1 &&
                !e->feeder.batch && !c->options->batch) {
                c->batch = 1; /* some models say that they take any batch, and then reshape to one sample */
                return measure_accuracy(c);
            }
            NW_TRY(status);
        }
        if (c->samples == 0) choose_judged(c, batch.count);
        for (size_t m = 0; m < c->count; m++) NW_TRY(judge(c, &c->entries[m], &batch));
        c->samples += batch.count;
        nw_env_progress(c->env, "evaluating", c->samples, total);
    }
    return NW_OK;
}

/* ---- the report -------------------------------------------------------------------------------------- */

static void write_entry(const contest *c, const entry *e, nw_record *r) {
    const entry *first = &c->entries[0];
    bool alone = c->count == 1, reference = e == first;
    double bytes = e->model->file_bytes ? (double)e->model->file_bytes : NAN;
    double first_bytes = first->model->file_bytes ? (double)first->model->file_bytes : NAN;
    nw_record_number(r, "samples", alone ? "samples" : NULL, NW_UNIT_COUNT, (double)c->samples);
    nw_score_write(&e->score, r);
    if (!alone) {
        if (reference && c->judged >= 0) nw_record_number(r, "agreement", "agreement", NW_UNIT_SHARE, NAN);
        nw_record_number(r, "sqnr_db", "SQNR", NW_UNIT_DB,
                         reference ? NAN : nw_noise_db(&e->noise[c->output]));
    }
    nw_record_number(r, "file_bytes", "file size", NW_UNIT_BYTES, bytes);
    if (!alone) nw_record_number(r, "compression_ratio", "compression", NW_UNIT_FACTOR, first_bytes / bytes);
    if (e->latency.runs) {
        nw_record_number(r, "latency_ms_median", "latency (median)", NW_UNIT_MS, e->latency.median);
        nw_record_number(r, "latency_ms_p90", "latency (p90)", NW_UNIT_MS, e->latency.p90);
        nw_record_number(r, "latency_runs", NULL, NW_UNIT_COUNT, (double)e->latency.runs);
        if (!alone)
            nw_record_number(r, "speedup", "speedup", NW_UNIT_FACTOR,
                             first->latency.median / e->latency.median);
    }
    nw_record_number(r, "peak_memory_bytes", "memory to run", NW_UNIT_BYTES, (double)e->peak);
    for (size_t i = 0; !alone && e->model->output_count > 1 && i < e->model->output_count; i++) {
        nw_record *item = nw_record_item(r, "outputs", NULL, NW_LAYOUT_ROWS);
        nw_record_text(item, "name", NULL, e->model->outputs[i].name);
        nw_record_number(item, "sqnr_db", NULL, NW_UNIT_DB, reference ? NAN : nw_noise_db(&e->noise[i]));
    }
}

static void write_common(const contest *c, nw_record *r) {
    nw_record_text(r, "data", "data", c->data->description);
    nw_env_write(c->env, r);
    const nw_model *first = c->entries[0].model;
    nw_record_text(r, "output", first->output_count > 1 ? "output" : NULL, first->outputs[c->output].name);
}

static void write_contest(const contest *c, nw_record *r) {
    if (c->count == 1) {
        nw_record_text(r, "model", "model", c->entries[0].model->path);
        write_common(c, r);
        write_entry(c, &c->entries[0], r);
        return;
    }
    write_common(c, r);
    nw_record_number(r, "samples", "samples", NW_UNIT_COUNT, (double)c->samples);
    for (size_t m = 0; m < c->count; m++) {
        nw_record *item = nw_record_item(r, "models", "", NW_LAYOUT_COLUMNS);
        nw_record_text(item, NULL, "", nw_path_base(c->entries[m].model->path));
        nw_record_text(item, "model", NULL, c->entries[m].model->path);
        write_entry(c, &c->entries[m], item);
    }
    nw_record_text(r, NULL, "", "Agreement, SQNR, compression and speedup are against the first model.");
}

static nw_status hold(contest *c, const nw_model *const *models, nw_report *report) {
    c->entries = nw_arena_array(&c->arena, c->count, sizeof *c->entries);
    if (!c->entries) return NW_E_MEMORY;
    for (size_t m = 0; m < c->count; m++) NW_TRY(enter(c, &c->entries[m], models[m]));
    NW_TRY(find_output(c));
    size_t fixed = 0;
    for (size_t m = 0; m < c->count; m++) {
        size_t own = c->entries[m].feeder.batch;
        if (own && fixed && own != fixed)
            return nw_fail(&c->env->ctx, NW_E_ARGUMENT,
                           "the models have different fixed batch sizes (%zu and %zu)", fixed, own);
        if (own) fixed = own;
    }
    c->batch = fixed ? fixed : nw_feeder_batch(&c->entries[0].feeder, c->data, c->options->batch);
    NW_TRY(measure_cost(c));
    NW_TRY(measure_accuracy(c));
    write_contest(c, &report->sheet->root);
    return NW_OK;
}

static nw_result compare(const char *command, size_t count, const nw_model *const *models, nw_data *data,
                         const nw_measure_options *options, nw_report **report) {
    static const nw_measure_options defaults;
    nw_env *env = models[0]->env;
    nw_report *made = NULL;
    nw_status status = nw_report_new(env, command, &made);
    if (status != NW_OK) return nw_result_of(status);
    contest c = {.env = env, .data = data, .options = options ? options : &defaults, .count = count};
    nw_arena_init(&c.arena, &env->ctx);
    status = hold(&c, models, made);
    for (size_t m = 0; c.entries && m < count; m++) leave(&c.entries[m]);
    nw_arena_free(&c.arena);
    return nw_report_finish(made, status, report);
}

nw_result nw_evaluate(const nw_model *model, nw_data *data, const nw_measure_options *options,
                      nw_report **report) {
    if (!model || !data || !report)
        return nw_misuse(model ? model->env : NULL, "nw_evaluate: an argument is missing");
    return compare("eval", 1, &model, data, options, report);
}

nw_result nw_compare(size_t count, const nw_model *const *models, nw_data *data,
                     const nw_measure_options *options, nw_report **report) {
    if (!count || !models || !models[0]) return NW_ERROR_ARGUMENT;
    for (size_t m = 0; m < count; m++)
        if (!models[m]) return nw_misuse(models[0]->env, "nw_compare: a model is missing");
    if (!data || !report) return nw_misuse(models[0]->env, "nw_compare: an argument is missing");
    return compare("compare", count, models, data, options, report);
}
