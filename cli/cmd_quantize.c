/* cmd_quantize.c: narrow quantize */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(name) offsetof(settings, name)

static const option options_files[] = {
    {"output", 'o', OPTION_OUTPUT, "OUT", FIELD(output), "the file to write", NULL, 0},
    {"external-data", 0, OPTION_FLAG, NULL, FIELD(external_data),
     "write weights into a second file, OUT.data (always done above 2 GB)", NULL, 0},
    {0},
};

static const option options_calibration[] = {
    {"calibrate", 'c', OPTION_FILE, "PATH", FIELD(data),
     "samples to measure activations on: as for --data of narrow eval; a hundred are usually enough", NULL,
     0},
    {"preprocess", 0, OPTION_TEXT, "SPEC", FIELD(preprocess),
     "how images become inputs: imagenet, none, or steps such as "
     "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,"
     "std=0.229:0.224:0.225,color=rgb,layout=nchw; as in training",
     NULL, 0},
    {"samples", 'n', OPTION_COUNT, "N", FIELD(samples), "use at most N samples", NULL, 0},
    {"skip", 0, OPTION_COUNT, "N", FIELD(skip), "leave out the first N samples", NULL, 0},
    {"batch", 0, OPTION_COUNT, "N", FIELD(batch), "samples per run (default: chosen)", NULL, 0},
    {"observer", 0, OPTION_LISTED, "NAME", FIELD(observer), "how the range of an activation is chosen", NULL,
     NW_WORDS_OBSERVER},
    {"percentile", 0, OPTION_REAL, "P", FIELD(percentile),
     "observer percentile: per cent of values inside (99.999)", NULL, 0},
    {"sigma", 0, OPTION_REAL, "K", FIELD(sigma), "observer sigma: mean ± K standard deviations (4)", NULL, 0},
    {"momentum", 0, OPTION_REAL, "M", FIELD(momentum), "moving average: share of the old value kept (0.9)",
     NULL, 0},
    {"range", 0, OPTION_TEXT, "LO:HI", FIELD(range), "observer absolute: the range of every activation", NULL,
     0},
    {"known-ranges", 0, OPTION_FLAG, NULL, FIELD(known_ranges),
     "Softmax, Sigmoid and Tanh get their mathematical range instead of the one seen", NULL, 0},
    {0},
};

static const option options_scheme[] = {
    {"recipe", 0, OPTION_NAMED, "NAME|FILE", FIELD(recipe),
     "what the other options start from: a preset, or a file of settings, layer by layer if need be "
     "(docs/recipes.md)",
     NULL, NW_WORDS_PRESET},
    {"mode", 0, OPTION_LISTED, "NAME", FIELD(mode),
     "static: activations on measured scales; dynamic: scales found at run time; weights: weights only; "
     "float: nothing, but for layers that a recipe names",
     NULL, NW_WORDS_MODE},
    {"weights-only", 0, OPTION_FLAG, NULL, FIELD(weights_only), "the same as --mode weights: no calibration",
     NULL, 0},
    {"activations", 0, OPTION_LISTED, "TYPE", FIELD(activations), "element type of activations", NULL,
     NW_WORDS_ACTIVATION},
    {"weights", 0, OPTION_TEXT, "SCHEME", FIELD(weights),
     "what weights are stored as: s8 (default), u8, s4, u4, s2, u2, s16, u16, or a scheme such as s4:32@f16 "
     "(4 bits, an f16 "
     "scale per 32), ternary, binary, log4, sqrt8, codebook4, nf4:64, fixed8, range(-7:7), f16, bf16, "
     "f8e4m3fn, mxfp4",
     NULL, 0},
    {"symmetric", 0, OPTION_FLAG, NULL, FIELD(symmetric), "zero point 0 for activations and weights", NULL,
     0},
    {"asymmetric", 0, OPTION_FLAG, NULL, FIELD(asymmetric), "free zero points for activations and weights",
     NULL, 0},
    {"activation-scheme", 0, OPTION_WORD, "NAME", FIELD(activation_scheme),
     "of activations alone (default asymmetric)", "asymmetric|symmetric", 0},
    {"weight-scheme", 0, OPTION_WORD, "NAME", FIELD(weight_scheme),
     "of weights alone (default: signed types symmetric, unsigned ones not)", "symmetric|asymmetric", 0},
    {"per-channel", 0, OPTION_FLAG, NULL, FIELD(per_channel), "one weight scale per output channel (default)",
     NULL, 0},
    {"per-tensor", 0, OPTION_FLAG, NULL, FIELD(per_tensor), "one weight scale per tensor", NULL, 0},
    {"block", 0, OPTION_COUNT, "N", FIELD(block),
     "one weight scale per N weights along the input (modes dynamic and weights)", NULL, 0},
    {"reduce-range", 0, OPTION_FLAG, NULL, FIELD(reduce_range),
     "weights of 7 bits, for runtimes that saturate on x86 without VNNI (narrow does not)", NULL, 0},
    {"full-range", 0, OPTION_FLAG, NULL, FIELD(full_range), "symmetric weights use −128 too", NULL, 0},
    {"mse-weights", 0, OPTION_FLAG, NULL, FIELD(mse_weights), "weight scales of the smallest squared error",
     NULL, 0},
    {"balanced-rounding", 0, OPTION_FLAG, NULL, FIELD(balanced_rounding),
     "weights are rounded so that the sums of those that share a scale are kept: for 4 bits and fewer", NULL,
     0},
    {"float-bias", 0, OPTION_FLAG, NULL, FIELD(float_bias), "biases stay float", NULL, 0},
    {"bias-correction", 0, OPTION_WORD, "HOW", FIELD(bias_correction),
     "biases make up for the mean error of their layer's weights (auto: on)", "auto|off|on", 0},
    {"dynamic-rows", 0, OPTION_FLAG, NULL, FIELD(dynamic_rows),
     "mode dynamic: a scale per row instead of per tensor", NULL, 0},
    {"form", 0, OPTION_LISTED, "NAME", FIELD(form),
     "qdq: ordinary operators between QuantizeLinear and DequantizeLinear; qoperator: QLinearConv and its "
     "like; native: codes as small as they are, for narrow alone; matmulnbits: 4-bit weights in blocks as "
     "com.microsoft's operator",
     NULL, NW_WORDS_FORM},
    {"target", 0, OPTION_LISTED, "NAME", FIELD(target),
     "the runtime that the file is for: forms that load there and that it turns into integers (openvino: "
     "--recurrent off); narrow doctor tells what it makes of them",
     NULL, NW_WORDS_TARGET},
    {"opset", 0, OPTION_COUNT, "N", FIELD(opset),
     "opset of the written model (default: the model's, raised to 21 where 4-bit codes, 16-bit codes or "
     "blocks need it)",
     NULL, 0},
    {0},
};

static const option options_layers[] = {
    {"exclude", 0, OPTION_LIST, "PATTERN", FIELD(exclude),
     "layers that stay float, by name or operator; * is any run of letters; may be repeated", NULL, 0},
    {"only", 0, OPTION_LIST, "PATTERN", FIELD(only), "quantize no other layers; may be repeated", NULL, 0},
    {"elementwise", 0, OPTION_WORD, "HOW", FIELD(elementwise),
     "layers without weights, such as Add (auto: between integer layers)", "auto|off|on", 0},
    {"products", 0, OPTION_WORD, "HOW", FIELD(products),
     "products of two activations (auto: on; in mode dynamic those of attention)", "auto|off|on", 0},
    {"embeddings", 0, OPTION_WORD, "HOW", FIELD(embeddings), "tables read by Gather (auto: on)",
     "auto|off|on", 0},
    {"recurrent", 0, OPTION_WORD, "HOW", FIELD(recurrent), "weights of LSTM, GRU and RNN (auto: on)",
     "auto|off|on", 0},
    {"quantize-inputs", 0, OPTION_WORD, "HOW", FIELD(quantize_inputs),
     "the model's own inputs (auto: those that a grid resolves well: pixels do, spectra rarely)",
     "auto|off|on", 0},
    {"quantize-outputs", 0, OPTION_FLAG, NULL, FIELD(quantize_outputs), "the model's own outputs too", NULL,
     0},
    {"measure", 0, OPTION_FLAG, NULL, FIELD(measure),
     "time every layer both ways and leave in float what integers would slow down on this machine (with "
     "--threads as in later use)",
     NULL, 0},
    {0},
};

extern const command command_quantize;

static nw_switch switch_of(const char *word) {
    return !word || strcmp(word, "auto") == 0 ? NW_SWITCH_AUTO
           : strcmp(word, "on") == 0          ? NW_SWITCH_ON
                                              : NW_SWITCH_OFF;
}

static bool parse_range(const char *text, double *low, double *high) {
    char *end;
    *low = strtod(text, &end);
    if (end == text || *end != ':') return false;
    const char *rest = end + 1;
    *high = strtod(rest, &end);
    return end != rest && *end == 0;
}

/* An option that only one observer reads chooses that observer. */
static int imply_observer(const char *name, const char *option_name, const char **observer) {
    if (!*observer) *observer = name;
    if (strcmp(*observer, name) == 0) return EXIT_DONE;
    return say_usage(&command_quantize, "--%s belongs to observer %s, not %s", option_name, name, *observer);
}

static int options_of(const settings *s, nw_quantize_options *o) {
    const command *c = &command_quantize;
    if (s->symmetric && s->asymmetric) return say_usage(c, "--symmetric and --asymmetric exclude each other");
    if (s->per_tensor && s->per_channel)
        return say_usage(c, "--per-tensor and --per-channel exclude each other");
    if (s->weights_only && s->mode && strcmp(s->mode, "weights") != 0)
        return say_usage(c, "--weights-only and --mode %s exclude each other", s->mode);
    *o = (nw_quantize_options){
        .recipe = s->recipe,
        .mode = s->weights_only ? "weights" : s->mode,
        .form = s->form,
        .activations = s->activations,
        .weights = s->weights,
        .symmetric_activations =
            s->activation_scheme ? strcmp(s->activation_scheme, "symmetric") == 0 : s->symmetric,
        .asymmetric_weights = s->weight_scheme ? strcmp(s->weight_scheme, "asymmetric") == 0 : s->asymmetric,
        .symmetric_weights = s->weight_scheme ? strcmp(s->weight_scheme, "symmetric") == 0 : s->symmetric,
        .per_tensor = s->per_tensor,
        .block = (int64_t)s->block,
        .target = s->target,
        .opset = (int64_t)s->opset,
        .external_data = s->external_data,
        .full_range = s->full_range,
        .reduce_range = s->reduce_range,
        .mse_weights = s->mse_weights,
        .balanced_rounding = s->balanced_rounding,
        .observer = s->observer,
        .percentile = s->percentile,
        .sigmas = s->sigma,
        .momentum = s->momentum,
        .elementwise = switch_of(s->elementwise),
        .products = switch_of(s->products),
        .embeddings = switch_of(s->embeddings),
        .recurrent = switch_of(s->recurrent),
        .float_bias = s->float_bias,
        .inputs = switch_of(s->quantize_inputs),
        .bias_correction = switch_of(s->bias_correction),
        .dynamic_rows = s->dynamic_rows,
        .quantize_outputs = s->quantize_outputs,
        .known_ranges = s->known_ranges,
        .exclude_count = s->exclude.count,
        .exclude = s->exclude.items,
        .only_count = s->only.count,
        .only = s->only.items,
        .batch = s->batch,
        .save_as = s->output,
        .measure = s->measure,
    };
    int code = EXIT_DONE;
    if (s->range && !parse_range(s->range, &o->range_low, &o->range_high))
        return say_usage(c, "--range takes two numbers such as -6:6, not \"%s\"", s->range);
    if (s->percentile != 0) code = imply_observer("percentile", "percentile", &o->observer);
    if (code == EXIT_DONE && s->sigma != 0) code = imply_observer("sigma", "sigma", &o->observer);
    if (code == EXIT_DONE && s->range) code = imply_observer("absolute", "range", &o->observer);
    return code;
}

static int quantize(nw_env *env, const settings *s) {
    nw_quantize_options o;
    nw_model *model = NULL, *small = NULL;
    nw_data *data = NULL;
    nw_report *report = NULL;
    int code = options_of(s, &o);
    if (code != EXIT_DONE) return code;
    if (!s->output) return say_usage(&command_quantize, "-o OUT says where the quantized model goes");
    bool measured = o.mode ? strcmp(o.mode, "static") == 0 : !o.recipe || strcmp(o.recipe, "w8a8") == 0;
    bool given = (o.observer && strcmp(o.observer, "absolute") == 0) ||
                 (o.activations && strchr(o.activations, 'f')); /* floats have no range to measure */
    if (measured && !given && !s->data)
        return say_usage(&command_quantize,
                         "--calibrate DATA is needed to measure activations; --weights-only or "
                         "--mode dynamic need none");
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS && s->data) result = open_data(env, s, true, &data);
    if (result == NW_SUCCESS) result = nw_model_quantize(model, data, &o, &small, &report);
    code = result == NW_SUCCESS ? show_report(s, report) : EXIT_FAILED;
    nw_data_free(data);
    nw_model_free(small);
    nw_model_free(model);
    return code;
}

const command command_quantize = {
    .name = "quantize",
    .summary = "make a smaller, faster integer model out of a float one",
    .usage = "MODEL -o OUT --calibrate DATA",
    .description = "Folds BatchNormalization, measures the activations on real samples, stores weights as "
                   "integers and writes ONNX "
                   "that other runtimes load. Prints what was quantized, what was left in float and why, and "
                   "what was fed: check that "
                   "line against the preprocessing of the training. Use narrow compare afterwards to see "
                   "what it cost and gained.",
    .least = 1,
    .most = 1,
    .groups = {{"Files", options_files},
               {"Calibration", options_calibration},
               {"Scheme", options_scheme},
               {"Layers", options_layers},
               {"Options", options_common}},
    .examples =
        {{"narrow quantize model.onnx -o small.onnx --calibrate photos/ --preprocess imagenet --samples 100",
          "an image classifier"},
         {"narrow quantize model.onnx -o small.onnx --calibrate features.npy --observer percentile",
          "inputs in a NumPy array [N, …], outliers left out"},
         {"narrow quantize model.onnx -o small.onnx -c photos/ --preprocess imagenet --exclude '/head/*' "
          "--exclude Softmax",
          "parts stay in float"},
         {"narrow quantize model.onnx -o small.onnx -c photos/ --preprocess imagenet --measure",
          "and so does whatever integers would slow down here"},
         {"narrow quantize model.onnx -o small.onnx --weights-only --weights s4:32@f16",
          "4-bit weights with a scale per 32, no data needed"},
         {"narrow quantize model.onnx -o small.onnx --weights-only --weights ternary --form native",
          "2 bits per weight, in a file for narrow"}},
    .run = quantize,
};
