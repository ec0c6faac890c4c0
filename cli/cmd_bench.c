/* cmd_bench.c: narrow bench */
#include "cli.h"

#include <stdlib.h>

#define FIELD(name) offsetof(settings, name)
#define NAME_SIZE   256

static const option options_bench[] = {
    {"shape", 0, OPTION_LIST, "NAME=1,3,224,224", FIELD(shapes),
     "shape of an input whose dimensions are free; once per input. The name may be left out when there is "
     "only one",
     NULL, 0},
    {"batch", 0, OPTION_COUNT, "N", FIELD(batch), "size of a free first dimension (default 1)", NULL, 0},
    {"runs", 0, OPTION_COUNT, "N", FIELD(runs), "timed runs (default: about two seconds of them)", NULL, 0},
    {"warmup", 0, OPTION_COUNT, "N", FIELD(warmup), "runs before timing starts (default 3)", NULL, 0},
    {"profile", 0, OPTION_FLAG, NULL, FIELD(profile),
     "the time of every step, its share of this machine's peak, its kernel, and the reason where it is not "
     "integer",
     NULL, 0},
    {0},
};

static bool parse_shape(const char *text, nw_array *a) {
    a->rank = 0;
    while (*text) {
        char *end;
        long long n = strtoll(text, &end, 10);
        if (end == text || n < 0 || (*end && *end != ',' && *end != 'x') || a->rank == NW_ARRAY_RANK)
            return false;
        a->dims[a->rank++] = n;
        text = *end ? end + 1 : end;
        if (*end && !*text) return false;
    }
    return true;
}

static int bench_models(nw_env *env, const settings *s, nw_model **models, nw_array *shapes,
                        char (*names)[NAME_SIZE]) {
    nw_measure_options options = measure_options(s);
    nw_report *report = NULL;
    for (size_t i = 0; i < s->shapes.count; i++) {
        const char *rest;
        split_name(s->shapes.items[i], names[i], NAME_SIZE, &shapes[i].name, &rest);
        if (!parse_shape(rest, &shapes[i]))
            return say_usage(&command_bench, "--shape takes NAME=1,3,224,224, not \"%s\"",
                             s->shapes.items[i]);
    }
    for (size_t i = 0; i < s->arguments.count; i++)
        if (nw_model_load(env, s->arguments.items[i], &models[i]) != NW_SUCCESS) return EXIT_FAILED;
    nw_result result = nw_benchmark(s->arguments.count, (const nw_model *const *)models, s->shapes.count,
                                    shapes, &options, &report);
    return result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
}

static int bench(nw_env *env, const settings *s) {
    nw_model **models = calloc(s->arguments.count, sizeof *models);
    nw_array *shapes = calloc(s->shapes.count + 1, sizeof *shapes);
    char(*names)[NAME_SIZE] = calloc(s->shapes.count + 1, sizeof *names);
    int code =
        models && shapes && names ? bench_models(env, s, models, shapes, names) : say_failed("out of memory");
    for (size_t i = 0; models && i < s->arguments.count; i++) nw_model_free(models[i]);
    free(models);
    free(shapes);
    free(names);
    return code;
}

const command command_bench = {
    .name = "bench",
    .summary = "time models on made-up inputs",
    .usage = "MODEL…",
    .description = "Latency and memory of each model, on random numbers of the shapes it declares. Speedup "
                   "is against the first "
                   "one. For speed and accuracy on real data use narrow compare.",
    .least = 1,
    .most = -1,
    .groups = {{"Measurement", options_bench}, {"Options", options_common}},
    .examples = {{"narrow bench model.onnx small.onnx", "which is faster"},
                 {"narrow bench model.onnx --threads 1 --batch 8", "one thread, eight samples per run"},
                 {"narrow bench small.onnx --profile --threads 1", "where the time goes"},
                 {"narrow bench model.onnx --shape image=1,3,320,320 --json bench.json",
                  "a shape the model leaves open"}},
    .run = bench,
};
