/* cmd_prune.c: narrow prune */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_prune[] = {
    {"output", 'o', OPTION_OUTPUT, "OUT", FIELD(output), "the file to write", NULL, 0},
    {"sparsity", 0, OPTION_TEXT, "WHAT", FIELD(prune),
     "the weights that become zero: the share of all (0.8), or of every 4 neighbours along the inputs 2 stay "
     "(2:4)",
     NULL, 0},
    {"per-layer", 0, OPTION_FLAG, NULL, FIELD(per_layer),
     "the share holds in every layer (default: the smallest weights of all layers go)", NULL, 0},
    {"channels", 0, OPTION_REAL, "SHARE", FIELD(prune_channels),
     "the share of each layer's output channels that leaves the graph (0.5)", NULL, 0},
    {"norm", 0, OPTION_LISTED, "NAME", FIELD(norm), "of a channel's weights, by which the weakest are found",
     NULL, NW_WORDS_NORM},
    {"exclude", 0, OPTION_LIST, "PATTERN", FIELD(exclude),
     "leave layers as they are, by name or operator: * any run of letters, ? one", NULL, 0},
    {"only", 0, OPTION_LIST, "PATTERN", FIELD(only), "prune no other layers", NULL, 0},
    {0},
};

extern const command command_prune;

static int prune(nw_env *env, const settings *s) {
    nw_model *model = NULL, *pruned = NULL;
    nw_report *report = NULL;
    if (!s->output) return say_usage(&command_prune, "-o OUT says where the pruned model goes");
    if (!s->prune && s->prune_channels == 0)
        return say_usage(&command_prune,
                         "say what is to go: --sparsity 0.8, --sparsity 2:4 or --channels 0.5");
    const nw_prune_settings o = {.weights = s->prune,
                                 .per_layer = s->per_layer,
                                 .channels = s->prune_channels,
                                 .norm = s->norm,
                                 .exclude_count = s->exclude.count,
                                 .exclude = s->exclude.items,
                                 .only_count = s->only.count,
                                 .only = s->only.items,
                                 .save_as = s->output};
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS) result = nw_model_prune(model, &o, &pruned, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_model_free(pruned);
    nw_model_free(model);
    return code;
}

const command command_prune = {
    .name = "prune",
    .summary = "take weights or whole channels out of a float model",
    .usage = "MODEL -o OUT (--sparsity WHAT | --channels SHARE)",
    .description =
        "Needs no data. Channels leave the graph, so that file and run get smaller; what depends on them "
        "(normalizations, sums, the layers behind) is cut to fit, and what cannot be is left, with the "
        "reason. Single weights become zero, and stay zero when the model is quantized. Accuracy falls: "
        "train afterwards (narrow train), or prune while training (narrow train --prune).",
    .least = 1,
    .most = 1,
    .groups = {{"Pruning", options_prune}, {"Options", options_common}},
    .examples = {{"narrow prune model.onnx -o thin.onnx --channels 0.5", "half of the channels"},
                 {"narrow prune model.onnx -o sparse.onnx --sparsity 0.8 --exclude Gemm",
                  "four of five weights become zero, but not in the last layer"},
                 {"narrow prune model.onnx -o sparse.onnx --sparsity 2:4", "the pattern that GPUs know"}},
    .run = prune,
};
