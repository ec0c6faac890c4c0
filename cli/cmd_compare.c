/* cmd_compare.c: narrow compare */
#include "cli.h"

#include <stdlib.h>

static int compare(nw_env *env, const settings *s) {
    if (!s->data) return say_usage(&command_compare, "--data PATH says what to measure on");
    size_t count = s->arguments.count;
    nw_model **models = calloc(count, sizeof *models);
    if (!models) return say_failed("out of memory");
    nw_data *data = NULL;
    nw_report *report = NULL;
    nw_measure_options options = measure_options(s);
    nw_result result = NW_SUCCESS;
    for (size_t i = 0; result == NW_SUCCESS && i < count; i++)
        result = nw_model_load(env, s->arguments.items[i], &models[i]);
    if (result == NW_SUCCESS) result = open_data(env, s, false, &data);
    if (result == NW_SUCCESS)
        result = nw_compare(count, (const nw_model *const *)models, data, &options, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_data_free(data);
    for (size_t i = 0; i < count; i++) nw_model_free(models[i]);
    free(models);
    return code;
}

const command command_compare = {
    .name = "compare",
    .summary = "put models side by side: accuracy, agreement, size, speed, memory",
    .usage = "FLOAT QUANTIZED… --data DATA",
    .description = "Runs all models on the same samples. The first one is what the others are compared with: "
                   "agreement is the share of "
                   "samples with the same answer, SQNR the signal-to-noise ratio of the outputs. Models take "
                   "turns while they are "
                   "timed, so that a change of the machine's speed meets all of them.",
    .least = 2,
    .most = -1,
    .groups = {{"Data", options_data}, {"Measurement", options_measure}, {"Options", options_common}},
    .examples = {{"narrow compare model.onnx small.onnx --data photos/ --preprocess imagenet",
                  "before and after"},
                 {"narrow compare model.onnx a.onnx b.onnx --data x.npy --labels y.npy", "two recipes"},
                 {"narrow compare model.onnx small.onnx --data x.npy",
                  "no labels: agreement and SQNR alone"}},
    .run = compare,
};
