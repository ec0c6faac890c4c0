/* cmd_layers.c: narrow layers */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_layers[] = {
    {"batch", 0, OPTION_COUNT, "N", FIELD(batch), "samples per run (default: chosen)", NULL, 0},
    {0},
};

static int layers(nw_env *env, const settings *s) {
    if (!s->data) return say_usage(&command_layers, "--data PATH says what to run the models on");
    nw_model *reference = NULL, *quantized = NULL;
    nw_data *data = NULL;
    nw_report *report = NULL;
    nw_measure_options options = measure_options(s);
    nw_result result = nw_model_load(env, s->arguments.items[0], &reference);
    if (result == NW_SUCCESS) result = nw_model_load(env, s->arguments.items[1], &quantized);
    if (result == NW_SUCCESS) result = open_data(env, s, false, &data);
    if (result == NW_SUCCESS) result = nw_compare_layers(reference, quantized, data, &options, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_data_free(data);
    nw_model_free(quantized);
    nw_model_free(reference);
    return code;
}

const command command_layers = {
    .name = "layers",
    .summary = "find the layers that lose accuracy: error of each, worst first",
    .usage = "FLOAT QUANTIZED --data DATA",
    .description = "Runs both models on the same samples and compares the tensors of the same name: the "
                   "signal-to-noise ratio (SQNR) of "
                   "each layer's output, worst first, and statistics of its weights. Errors add up along the "
                   "network; look for the "
                   "layer where the ratio drops, and keep it in float with narrow quantize --exclude. The "
                   "JSON has every channel.",
    .least = 2,
    .most = 2,
    .groups = {{"Data", options_data}, {"Measurement", options_layers}, {"Options", options_common}},
    .examples = {{"narrow layers model.onnx small.onnx --data photos/ --preprocess imagenet --samples 20",
                  "a few samples show it already"}},
    .run = layers,
};
