/* cmd_dequantize.c: narrow dequantize */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_dequantize[] = {
    {"output", 'o', OPTION_OUTPUT, "OUT", FIELD(output), "the file to write", NULL, 0},
    {"keep-rounding", 0, OPTION_FLAG, NULL, FIELD(keep_rounding),
     "activations stay restricted to their grids; only the weights become float", NULL, 0},
    {0},
};

extern const command command_dequantize;

static int dequantize(nw_env *env, const settings *s) {
    nw_model *model = NULL, *real = NULL;
    nw_report *report = NULL;
    if (!s->output) return say_usage(&command_dequantize, "-o OUT says where the float model goes");
    const nw_dequantize_options o = {.keep_rounding = s->keep_rounding, .save_as = s->output};
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS) result = nw_model_dequantize(model, &o, &real, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_model_free(real);
    nw_model_free(model);
    return code;
}

const command command_dequantize = {
    .name = "dequantize",
    .summary = "turn a quantized model back into a float one",
    .usage = "MODEL -o OUT",
    .description =
        "Weights become the real numbers that their codes mean, and activations are no longer rounded: what "
        "is left of the quantization is what it did to the weights. For tools that read float models only, "
        "and "
        "to see whether an error comes from weights or from activations.",
    .least = 1,
    .most = 1,
    .groups = {{"Options", options_dequantize}, {"Common", options_common}},
    .examples = {{"narrow dequantize small.onnx -o float.onnx",
                  "any model that narrow or another tool quantized"},
                 {"narrow dequantize small.onnx -o same.onnx --keep-rounding",
                  "the same results as the quantized model, computed in float"}},
    .run = dequantize,
};
