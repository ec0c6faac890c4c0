/* bench.c: latency and memory without data: inputs of given shapes filled with random numbers. */
#include "api/api.h"
#include "base/process.h"
#include "kern/peak.h"

#include <math.h>

#define MOST_RUNS   1000
#define LEAST_RUNS  10
#define AUTO_MS     2000.0
#define AUTO_WARMUP 3

static nw_status time_runs(nw_runner *runner, const nw_feed *feeds, nw_arena *arena, nw_tensor *outputs,
                           const nw_measure_options *o, nw_arena *results, nw_latency *latency,
                           double *first_run) {
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
        if (i == 0) *first_run = each;
        if (!ms) continue;
        ms[i - warmup] = each;
        nw_env_progress(model->env, "timing", i - warmup + 1, runs);
    }
    *latency = nw_latency_of(ms, runs);
    return NW_OK;
}

/* ---- where the time goes ----------------------------------------------------------------------------- */

#define PROFILED_RUNS 20

/* What the threads could do per second, if nothing but multiply-adds took time. 0: not known. */
typedef struct peak {
    double float_ops, integer_ops;
} peak;

static peak measure_peak(const nw_env *env, nw_record *r) {
    const double threads = nw_env_threads(env);
    const peak p = {threads * nw_peak_measure(env->isa, false), threads * nw_peak_measure(env->isa, true)};
    nw_record_number(r, "peak_float_gops", NULL, NW_UNIT_NUMBER, p.float_ops > 0 ? p.float_ops / 1e9 : NAN);
    nw_record_number(r, "peak_integer_gops", NULL, NW_UNIT_NUMBER,
                     p.integer_ops > 0 ? p.integer_ops / 1e9 : NAN);
    if (p.float_ops > 0 && p.integer_ops > 0)
        nw_record_textf(r, NULL, "peak",
                        "%.0f GFLOP/s on floats, %.0f GOP/s on 8-bit integers, %.0f thread%s",
                        p.float_ops / 1e9, p.integer_ops / 1e9, threads, threads > 1 ? "s" : "");
    return p;
}

/* The time that the step's products need at the peak, as a share of the time they took. NaN: it has none. */
static double share_of_peak(const nw_work *work, const peak *p, double seconds) {
    if (work->float_ops + work->integer_ops <= 0) return NAN;
    double least = 0;
    if (work->float_ops > 0) least += work->float_ops / p->float_ops;
    if (work->integer_ops > 0) least += work->integer_ops / p->integer_ops;
    return isfinite(least) && seconds > 0 ? least / seconds : NAN;
}

static void write_step(nw_record *r, const nw_step_info *step, double ms, double total, const peak *p) {
    char text[192] = "";
    const double ops = step->work.float_ops + step->work.integer_ops;
    nw_record *item = nw_record_item(r, "steps", "Time per step", NW_LAYOUT_ROWS);
    nw_record_number(item, "milliseconds", "time", NW_UNIT_MS, ms);
    nw_record_number(item, "share", "share", NW_UNIT_SHARE, ms / total);
    nw_record_number(item, "gops", "GOP/s", NW_UNIT_NUMBER,
                     ops > 0 && ms > 0 ? round(ops / ms / 1e5) / 10 : NAN);
    nw_record_number(item, "peak_share", "of peak", NW_UNIT_SHARE, share_of_peak(&step->work, p, ms / 1e3));
    nw_record_text(item, "operator", "operator", step->op[0] ? step->op : "(convert)");
    nw_record_text(item, "name", "named", step->name);
    nw_record_text(item, "kernel", "kernel", step->kernel);
    if (step->output.format != NW_NONE) nw_tensor_describe(&step->output, text, sizeof text);
    nw_record_text(item, "output", "output", text);
    nw_record_text(item, "reason", "why", step->reason);
}

/* Steps of the plan with the least of their times over some runs. */
static nw_status profile(nw_runner *runner, const nw_feed *feeds, nw_arena *arena, nw_tensor *outputs,
                         const peak *p, nw_record *r) {
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
            ms[i] = run ? fmin(ms[i], step.milliseconds) : step.milliseconds;
    }
    nw_arena_free(&results);
    for (int i = 0; i < count; i++) total += ms[i];
    for (int i = 0; i < count && nw_session_step(session, i, &step); i++)
        write_step(r, &step, ms[i], total, p);
    return status;
}

static nw_status bench(const nw_model *model, size_t count, const nw_array *inputs,
                       const nw_measure_options *o, const peak *p, double *first_ms, nw_record *r) {
    nw_runner *runner = NULL;
    nw_latency latency;
    double first_run = NAN;
    nw_arena own, counted;
    nw_arena_init(&own, &model->env->ctx);
    nw_feed *feeds = nw_arena_array(&own, model->input_count, sizeof *feeds);
    nw_tensor *outputs = nw_arena_array(&own, model->output_count, sizeof *outputs);
    nw_status status =
        feeds && outputs ? nw_feeds_made_up(model, count, inputs, o->batch, &own, feeds) : NW_E_MEMORY;
    if (status == NW_OK) status = nw_runner_new(model, &runner);
    if (status == NW_OK) {
        nw_arena_init(&counted, &runner->ctx);
        status = time_runs(runner, feeds, &counted, outputs, o, &own, &latency, &first_run);
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
        nw_record_number(r, "load_ms", "loading", NW_UNIT_MS, model->file_bytes ? model->load_ms : NAN);
        nw_record_number(r, "first_run_ms", "first run", NW_UNIT_MS, first_run);
        nw_record_number(r, "latency_ms_median", "latency (median)", NW_UNIT_MS, latency.median);
        nw_record_number(r, "latency_ms_p90", "latency (p90)", NW_UNIT_MS, latency.p90);
        nw_record_number(r, "latency_ms_min", "latency (least)", NW_UNIT_MS, latency.least);
        nw_record_number(r, "latency_runs", "runs", NW_UNIT_COUNT, (double)latency.runs);
        nw_record_number(r, "speedup", "speedup", NW_UNIT_FACTOR, *first_ms / latency.median);
        nw_record_number(r, "peak_memory_bytes", "memory to run", NW_UNIT_BYTES,
                         (double)nw_runner_peak(runner));
        nw_record_number(r, "process_peak_bytes", NULL, NW_UNIT_BYTES, (double)nw_process_peak());
    }
    if (status == NW_OK && o->profile) {
        nw_arena_init(&counted, &runner->ctx);
        status = profile(runner, feeds, &counted, outputs, p, r);
        nw_arena_free(&counted);
    }
    nw_runner_free(runner);
    nw_arena_free(&own);
    return status;
}

nw_result nw_benchmark(size_t count, const nw_model *const *models, size_t input_count,
                       const nw_array *inputs, const nw_measure_options *options, nw_report **report) {
    static const nw_measure_options defaults;
    const nw_measure_options *o = options ? options : &defaults;
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
    const peak p = o->profile ? measure_peak(env, r) : (peak){0};
    double first_ms = 0;
    for (size_t m = 0; status == NW_OK && m < count; m++)
        status = bench(models[m], input_count, inputs, o, &p, &first_ms,
                       nw_record_item(r, "models", "", NW_LAYOUT_COLUMNS));
    return nw_report_finish(made, status, report);
}
