/* cmd_new.c: narrow new */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>

#define FIELD(name) offsetof(settings, name)

static const option options_model[] = {
    {"input", 'i', OPTION_TEXT, "CxHxW", FIELD(input),
     "channels, height and width of one image, such as 1x28x28", NULL, 0},
    {"classes", 0, OPTION_COUNT, "N", FIELD(classes), "how many classes it tells apart", NULL, 0},
    {"seed", 0, OPTION_COUNT, "N", FIELD(seed), "of its random weights (0)", NULL, 0},
    {"output", 'o', OPTION_OUTPUT, "OUT", FIELD(output), "the file to write", NULL, 0},
    {0},
};

/* Three numbers with x between them. */
static bool parse_shape(const char *text, int64_t *shape) {
    for (int i = 0; i < 3; i++) {
        char *end;
        if (*text < '0' || *text > '9') return false;
        shape[i] = strtoll(text, &end, 10);
        if (*end != (i < 2 ? 'x' : 0)) return false;
        text = end + 1;
    }
    return true;
}

static int new_model(nw_env *env, const settings *s) {
    int64_t shape[3];
    if (!s->output) return say_usage(&command_new, "-o OUT says where to write the model");
    if (!s->input || !parse_shape(s->input, shape))
        return say_usage(&command_new, "--input CxHxW says what one image is, such as --input 3x32x32");
    if (!s->classes) return say_usage(&command_new, "--classes N says how many classes there are");
    nw_model *model = NULL;
    nw_report *report = NULL;
    nw_result result =
        nw_model_new(env, s->arguments.items[0], shape, (int64_t)s->classes, (uint64_t)s->seed, &model);
    if (result == NW_SUCCESS) result = nw_model_save(model, s->output);
    if (result == NW_SUCCESS) result = nw_model_summary(model, NULL, &report);
    int code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_model_free(model);
    return code;
}

const command command_new = {
    .name = "new",
    .summary = "write an untrained model of a well-known architecture",
    .usage = "ARCHITECTURE --input CxHxW --classes N -o OUT",
    .description = "lenet: LeNet-5; mlp: two hidden layers; resnet8, resnet20: residual networks for small "
                   "images; dscnn: "
                   "depthwise separable convolutions, for spectra of speech; letters: the network of "
                   "examples/letters, with a little of everything. Weights are random (He "
                   "initialisation), the "
                   "batch size is free. narrow train teaches it.",
    .least = 1,
    .most = 1,
    .groups = {{"Model", options_model}, {"Options", options_common}},
    .examples = {{"narrow new lenet --input 1x28x28 --classes 10 -o lenet.onnx", "for MNIST"},
                 {"narrow new resnet8 --input 3x32x32 --classes 10 -o resnet8.onnx --seed 1",
                  "for CIFAR-10"}},
    .run = new_model,
};
