/* cmd_info.c: narrow info */
#include "cli.h"

static int info(nw_env *env, const settings *s) {
    nw_model *model = NULL;
    nw_report *report = NULL;
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS) result = nw_model_summary(model, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_model_free(model);
    return code;
}

const command command_info = {
    .name = "info",
    .summary = "show what a model is: inputs, outputs, operators, parameters",
    .usage = "MODEL",
    .description =
        "Reads an ONNX file and says what is in it, whether it is quantized, and whether narrow can run it. "
        "Operators that are missing are named, all of them. --details lists every node.",
    .least = 1,
    .most = 1,
    .groups = {{"Options", options_common}},
    .examples = {{"narrow info model.onnx", "what the model wants and gives"},
                 {"narrow info model.onnx --details", "every node, with its name for --exclude and --only"},
                 {"narrow info model.onnx --json -", "the same facts for a program"}},
    .run = info,
};
