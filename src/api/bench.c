/* bench.c: latency and memory without data: inputs of given shapes filled with random numbers. */
#include "api/api.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MOST_RUNS   1000
#define LEAST_RUNS  10
#define AUTO_MS     2000.0
#define AUTO_WARMUP 3

/* The shape and, when given, the data of input i. */
static nw_status input_of(const nw_model *model, size_t i, size_t count, const nw_array *inputs, size_t batch,
                          nw_tensor *t) {
    nw_context *ctx = &model->env->ctx;
    const nw_array *port = &model->inputs[i], *given = NULL;
    for (size_t k = 0; k < count; k++) {
        const char *name = inputs[k].name;
        if (name ? strcmp(name, port->name) == 0 : model->input_count == 1) given = &inputs[k];
    }
    const nw_array *from = given ? given : port;
    *t = (nw_tensor){.format = (nw_format)(given && given->data ? given->type : port->type),
                     .rank = from->rank};
    if (from->rank < 0 || t->format == NW_NONE)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "%s: the shape of input \"%s\" is not known: give it with --shape %s=…", model->path,
                       port->name, port->name);
    for (int d = 0; d < from->rank; d++) {
        t->dims[d] = from->dims[d] < 0 && d == 0 ? (int64_t)(batch ? batch : 1) : from->dims[d];
        if (t->dims[d] < 0)
            return nw_fail(ctx, NW_E_ARGUMENT,
                           "%s: dimension %d of input \"%s\" is not fixed: give the shape with "
                           "--shape %s=…",
                           model->path, d, port->name, port->name);
    }
    t->data = given ? given->data : NULL;
    return nw_tensor_check(ctx, t);
}

/* xorshift64*: the same numbers everywhere. Floats in [−1, 1), integers 0 or 1: indices must stay in range.
 */
static void fill(nw_tensor *t) {
    uint64_t x = 0x9E3779B97F4A7C15u;
    for (size_t i = 0, n = nw_tensor_count(t); i < n; i++) {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        uint64_t bits = x * 0x2545F4914F6CDD1Du;
        if (nw_format_is_float(t->format))
            nw_store_f64(t->format, t->data, i, (double)(int64_t)bits / 0x1p63);
        else
            nw_store_s64(t->format, t->data, i, (int64_t)(bits >> 63));
    }
}

static nw_status prepare(const nw_model *model, size_t count, const nw_array *inputs, size_t batch,
                         nw_arena *arena, nw_feed *feeds) {
    for (size_t i = 0; i < model->input_count; i++) {
        nw_tensor t;
        NW_TRY(input_of(model, i, count, inputs, batch, &t));
        nw_kind kind = nw_format_kind(t.format);
        if (kind == NW_KIND_STRING || kind == NW_KIND_COMPLEX)
            return nw_fail(&model->env->ctx, NW_E_UNSUPPORTED,
                           "%s: input \"%s\" is %s, which cannot be made up", model->path,
                           model->inputs[i].name, nw_format_name(t.format));
        if (!t.data) {
            NW_TRY(nw_tensor_alloc(arena, &t));
            fill(&t);
        }
        feeds[i] = (nw_feed){model->inputs[i].name, t};
    }
    return NW_OK;
}

static nw_status time_runs(nw_runner *runner, const nw_feed *feeds, nw_arena *arena, nw_tensor *outputs,
                           const nw_measure_options *o, nw_arena *results, nw_latency *latency) {
    const nw_model *model = runner->model;
    double least = INFINITY; /* of the warm-up: a busy machine must not cut the measurement short */
    size_t warmup = o->warmup ? o->warmup : AUTO_WARMUP, runs = o->runs;
    double *ms = NULL;
    for (size_t i = 0; i < warmup + runs || !ms; i++) {
        if (i == warmup && !ms) {
            double fit = least > 0 ? AUTO_MS / least : MOST_RUNS;
            if (!runs) runs = fit < LEAST_RUNS ? LEAST_RUNS : fit > MOST_RUNS ? MOST_RUNS : (size_t)fit;
            ms = nw_arena_array(results, runs, sizeof *ms);
            if (!ms) return NW_E_MEMORY;
        }
        nw_arena_reset(arena);
        double start = nw_now_ms();
        NW_TRY(nw_runner_run(runner, model->input_count, feeds, arena, outputs));
        double each = nw_now_ms() - start;
        least = fmin(least, each);
        if (!ms) continue;
        ms[i - warmup] = each;
        nw_env_progress(model->env, "timing", i - warmup + 1, runs);
    }
    *latency = nw_latency_of(ms, runs);
    return NW_OK;
}

/* Steps of the plan with the mean of their times over some runs. */
#define PROFILED_RUNS 20

static nw_status profile(nw_runner *runner, const nw_feed *feeds, nw_arena *arena, nw_tensor *outputs,
                         nw_record *r) {
    nw_session *session = runner->session;
    nw_step_info step;
    int count = 0;
    while (nw_session_step(session, count, &step)) count++;
    double *ms = nw_arena_array(arena, (size_t)count + 1, sizeof *ms), total = 0;
    if (!ms) return nw_env_take(runner->model->env, &runner->ctx, NW_E_MEMORY);
    nw_session_set_profile(session, true);
    nw_arena results;
    nw_arena_init(&results, &runner->ctx);
    nw_status status = NW_OK;
    for (int run = 0; run < PROFILED_RUNS && status == NW_OK; run++) {
        nw_arena_reset(&results);
        status = nw_runner_run(runner, runner->model->input_count, feeds, &results, outputs);
        for (int i = 0; i < count && nw_session_step(session, i, &step); i++)
            ms[i] += step.milliseconds / PROFILED_RUNS;
    }
    nw_arena_free(&results);
    for (int i = 0; i < count; i++) total += ms[i];
    for (int i = 0; i < count && nw_session_step(session, i, &step); i++) {
        char text[192] = "";
        nw_record *item = nw_record_item(r, "steps", "Time per step", NW_LAYOUT_ROWS);
        nw_record_number(item, "milliseconds", "time", NW_UNIT_MS, ms[i]);
        nw_record_number(item, "share", "share", NW_UNIT_SHARE, ms[i] / total);
        nw_record_text(item, "operator", "operator", step.op[0] ? step.op : "(convert)");
        nw_record_text(item, "name", "named", step.name);
        nw_record_text(item, "kernel", "kernel", step.kernel);
        if (step.output.format != NW_NONE) nw_tensor_describe(&step.output, text, sizeof text);
        nw_record_text(item, "output", "output", text);
        nw_record_text(item, "reason", "why", step.reason);
    }
    return status;
}

static nw_status bench(const nw_model *model, size_t count, const nw_array *inputs,
                       const nw_measure_options *o, double *first_ms, nw_record *r) {
    nw_runner *runner = NULL;
    nw_latency latency;
    nw_arena own, counted;
    nw_arena_init(&own, &model->env->ctx);
    nw_feed *feeds = nw_arena_array(&own, model->input_count, sizeof *feeds);
    nw_tensor *outputs = nw_arena_array(&own, model->output_count, sizeof *outputs);
    nw_status status = feeds && outputs ? prepare(model, count, inputs, o->batch, &own, feeds) : NW_E_MEMORY;
    if (status == NW_OK) status = nw_runner_new(model, &runner);
    if (status == NW_OK) {
        nw_arena_init(&counted, &runner->ctx);
        status = time_runs(runner, feeds, &counted, outputs, o, &own, &latency);
        nw_arena_free(&counted);
    }
    if (status == NW_OK) {
        if (*first_ms == 0) *first_ms = latency.median;
        nw_record_text(r, NULL, "", nw_path_base(model->path));
        nw_record_text(r, "model", NULL, model->path);
        for (size_t i = 0; i < model->input_count; i++) {
            char text[192];
            nw_record *item = nw_record_item(r, "inputs", NULL, NW_LAYOUT_ROWS);
            nw_record_text(item, "name", NULL, feeds[i].name);
            nw_record_text(item, "shape", NULL, nw_tensor_describe(&feeds[i].tensor, text, sizeof text));
            if (i == 0) nw_record_text(r, NULL, "input", text);
        }
        double file = model->file_bytes ? (double)model->file_bytes : NAN;
        nw_record_number(r, "file_bytes", "file size", NW_UNIT_BYTES, file);
        nw_record_number(r, "latency_ms_median", "latency (median)", NW_UNIT_MS, latency.median);
        nw_record_number(r, "latency_ms_p90", "latency (p90)", NW_UNIT_MS, latency.p90);
        nw_record_number(r, "latency_ms_min", "latency (least)", NW_UNIT_MS, latency.least);
        nw_record_number(r, "latency_runs", "runs", NW_UNIT_COUNT, (double)latency.runs);
        nw_record_number(r, "speedup", "speedup", NW_UNIT_FACTOR, *first_ms / latency.median);
        nw_record_number(r, "peak_memory_bytes", "memory to run", NW_UNIT_BYTES,
                         (double)nw_runner_peak(runner));
    }
    if (status == NW_OK && o->profile) {
        nw_arena_init(&counted, &runner->ctx);
        status = profile(runner, feeds, &counted, outputs, r);
        nw_arena_free(&counted);
    }
    nw_runner_free(runner);
    nw_arena_free(&own);
    return status;
}

nw_result nw_benchmark(size_t count, const nw_model *const *models, size_t input_count,
                       const nw_array *inputs, const nw_measure_options *options, nw_report **report) {
    static const nw_measure_options defaults;
    if (!count || !models || !models[0]) return NW_ERROR_ARGUMENT;
    nw_env *env = models[0]->env;
    for (size_t m = 0; m < count; m++)
        if (!models[m]) return nw_misuse(env, "nw_benchmark: a model is missing");
    if ((input_count && !inputs) || !report) return nw_misuse(env, "nw_benchmark: an argument is missing");
    nw_report *made = NULL;
    nw_status status = nw_report_new(env, "bench", &made);
    if (status != NW_OK) return nw_result_of(status);
    nw_record *r = &made->sheet->root;
    nw_env_write(env, r);
    double first_ms = 0;
    for (size_t m = 0; status == NW_OK && m < count; m++)
        status = bench(models[m], input_count, inputs, options ? options : &defaults, &first_ms,
                       nw_record_item(r, "models", "", NW_LAYOUT_COLUMNS));
    return nw_report_finish(made, status, report);
}
