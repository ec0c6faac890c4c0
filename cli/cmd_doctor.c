/* cmd_doctor.c: narrow doctor */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_target[] = {
    {"target", 0, OPTION_LISTED, "NAME", FIELD(target), "the runtime (any: what all of them do)", NULL,
     NW_WORDS_TARGET},
    {0},
};

static int doctor(nw_env *env, const settings *s) {
    nw_model *model = NULL;
    nw_report *report = NULL;
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS) result = nw_model_diagnose(model, s->target, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_model_free(model);
    return code;
}

const command command_doctor = {
    .name = "doctor",
    .summary = "tell which nodes another runtime will compute on integers, and why not the others",
    .usage = "MODEL",
    .description = "Applies the rules by which onnxruntime and OpenVINO turn the nodes of a quantized file "
                   "into integer arithmetic on "
                   "processors: what must stand before and behind a node, which types fit together. For "
                   "every node that stays in "
                   "float it says what is missing and what would help. Models of any origin; nothing is run. "
                   "--details lists every "
                   "node.",
    .least = 1,
    .most = 1,
    .groups = {{"Target", options_target}, {"Options", options_common}},
    .examples = {{"narrow doctor small.onnx --target onnxruntime", "will onnxruntime be fast on this file?"},
                 {"narrow doctor small.onnx --json -", "every node with its verdict, for a program"}},
    .run = doctor,
};
