/* cmd_tradeoffs.c: narrow tradeoffs */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_recipes[] = {
    {"presets", 0, OPTION_TEXT, "NAME,…", FIELD(presets),
     "recipes to try, presets or files (default: all presets)", NULL, 0},
    {"calibrate", 'c', OPTION_FILE, "PATH", FIELD(calibrate),
     "samples that activations are measured on; recipes that need them are left out without. Preprocessing "
     "as for --data",
     NULL, 0},
    {"calibration-samples", 0, OPTION_COUNT, "N", FIELD(calibration_samples),
     "use at most N of them (default 100)", NULL, 0},
    {0},
};

static int tradeoffs(nw_env *env, const settings *s) {
    if (!s->data) return say_usage(&command_tradeoffs, "--data PATH says what to measure on");
    nw_model *model = NULL;
    nw_data *data = NULL, *calibration = NULL;
    nw_report *report = NULL;
    nw_measure_options options = measure_options(s);
    settings other = *s;
    other.data = s->calibrate;
    other.labels = NULL;
    other.skip = 0;
    other.samples = s->calibration_samples ? s->calibration_samples : 100;
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS) result = open_data(env, s, false, &data);
    if (result == NW_SUCCESS && s->calibrate) result = open_data(env, &other, true, &calibration);
    if (result == NW_SUCCESS) result = nw_tradeoffs(model, calibration, data, s->presets, &options, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_data_free(calibration);
    nw_data_free(data);
    nw_model_free(model);
    return code;
}

const command command_tradeoffs = {
    .name = "tradeoffs",
    .summary = "quantize by several recipes and measure each: size, speed, memory, accuracy, in a row each",
    .usage = "MODEL --data DATA [--calibrate DATA]",
    .description = "Makes a model by every recipe, without writing it, and measures all of them and the "
                   "original on the same "
                   "samples, taking turns: file size, latency of one sample, memory to run (weights as "
                   "loaded and the most that "
                   "preparing and running held, counted at the allocator), accuracy and what it dropped, "
                   "agreement with the "
                   "original, signal-to-noise ratio of its output. Choose a row, and make it with narrow "
                   "quantize --recipe.",
    .least = 1,
    .most = 1,
    .groups = {{"Recipes", options_recipes},
               {"Data", options_data},
               {"Measurement", options_measure},
               {"Options", options_common}},
    .examples =
        {{"narrow tradeoffs model.onnx --data photos:test --calibrate photos:train --preprocess imagenet",
          "all presets"},
         {"narrow tradeoffs model.onnx --data ids.npy --labels next.npy --presets w8a8-dynamic,w8,w4 --json "
          "-",
          "some, for a program"}},
    .run = tradeoffs,
};
