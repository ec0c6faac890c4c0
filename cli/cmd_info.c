/* cmd_info.c: narrow info */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_statistics[] = {
    {"statistics", 0, OPTION_FLAG, NULL, FIELD(statistics),
     "range, mean, standard deviation and percentiles of every parameter, what its codes mean, and the grid "
     "of every "
     "activation",
     NULL, 0},
    {"channels", 0, OPTION_FLAG, NULL, FIELD(channels), "the same for every channel of the weights", NULL, 0},
    {"reference", 0, OPTION_FILE, "FLOAT", FIELD(reference),
     "the model that this one was quantized from: signal-to-noise ratio and saturation of every parameter",
     NULL, 0},
    {0},
};

static int info(nw_env *env, const settings *s) {
    nw_model *model = NULL, *reference = NULL;
    nw_report *report = NULL;
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS && s->reference) result = nw_model_load(env, s->reference, &reference);
    nw_summary_options options = {s->statistics, s->channels, reference};
    if (result == NW_SUCCESS) result = nw_model_summary(model, &options, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_model_free(reference);
    nw_model_free(model);
    return code;
}

const command command_info = {
    .name = "info",
    .summary = "show what a model is: inputs, outputs, operators, parameters",
    .usage = "MODEL",
    .description =
        "Reads an ONNX file and says what is in it, whether it is quantized, and whether narrow can run it. "
        "Operators that are missing are named, all of them. --details lists every node, --statistics every "
        "parameter.",
    .least = 1,
    .most = 1,
    .groups = {{"Parameters", options_statistics}, {"Options", options_common}},
    .examples = {{"narrow info model.onnx", "what the model wants and gives"},
                 {"narrow info model.onnx --details", "every node, with its name for --exclude and --only"},
                 {"narrow info small.onnx --statistics --reference model.onnx",
                  "every parameter: its numbers, its codes, and what rounding cost"},
                 {"narrow info model.onnx --json -", "the same facts for a program"}},
    .run = info,
};
