/* cmd_eval.c: narrow eval */
#include "cli.h"

static int eval(nw_env *env, const settings *s) {
    if (!s->data) return say_usage(&command_eval, "--data PATH says what to measure on");
    nw_model *model = NULL;
    nw_data *data = NULL;
    nw_report *report = NULL;
    nw_measure_options options = measure_options(s);
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS) result = open_data(env, s, false, &data);
    if (result == NW_SUCCESS) result = nw_evaluate(model, data, &options, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_data_free(data);
    nw_model_free(model);
    return code;
}

const command command_eval = {
    .name = "eval",
    .summary = "measure a model's accuracy on labelled data, its latency and memory",
    .usage = "MODEL --data DATA",
    .description =
        "Top-1 and top-5, macro precision, recall and F1 over the samples; latency of one sample, median and "
        "ninth decile; the memory that running takes.",
    .least = 1,
    .most = 1,
    .groups = {{"Data", options_data}, {"Measurement", options_measure}, {"Options", options_common}},
    .examples = {{"narrow eval model.onnx --data photos/ --preprocess imagenet",
                  "a folder with one sub-folder per class"},
                 {"narrow eval model.onnx --data x.npy --labels y.npy --skip 200",
                  "arrays; the first 200 calibrated"},
                 {"narrow eval model.onnx --data mnist/:test --preprocess scale=1/255 --json result.json",
                  "MNIST's files, results for a program"}},
    .run = eval,
};
