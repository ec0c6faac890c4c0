/* cmd_train.c: narrow train */
#include "cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(name) offsetof(settings, name)

static const option options_files[] = {
    {"output", 'o', OPTION_OUTPUT, "OUT", FIELD(output), "the file to write", NULL, 0},
    {"test", 0, OPTION_FILE, "PATH", FIELD(test),
     "samples to measure on after every epoch (default: the test part of --data, where it has one)", NULL, 0},
    {"test-samples", 0, OPTION_COUNT, "N", FIELD(test_samples), "measure on at most N samples", NULL, 0},
    {0},
};

static const option options_steps[] = {
    {"epochs", 0, OPTION_COUNT, "N", FIELD(epochs), "passes over the data (10)", NULL, 0},
    {"batch", 0, OPTION_COUNT, "N", FIELD(batch), "samples per step (64); the rest of an epoch is left out",
     NULL, 0},
    {"lr", 0, OPTION_REAL, "X", FIELD(rate), "learning rate (0.01 with sgd, else 0.001)", NULL, 0},
    {"optimizer", 0, OPTION_LISTED, "NAME", FIELD(optimizer), "how weights follow their gradients", NULL,
     NW_WORDS_OPTIMIZER},
    {"momentum", 0, OPTION_TEXT, "X", FIELD(train_momentum), "of sgd (0.9)", NULL, 0},
    {"weight-decay", 0, OPTION_REAL, "X", FIELD(weight_decay), "pulls weights towards 0 (0)", NULL, 0},
    {"schedule", 0, OPTION_LISTED, "NAME", FIELD(schedule),
     "of the learning rate; step: a tenth after each third of the epochs", NULL, NW_WORDS_SCHEDULE},
    {"warmup", 0, OPTION_COUNT, "N", FIELD(warmup_steps),
     "steps in which the learning rate grows to its value (0)", NULL, 0},
    {"loss", 0, OPTION_LISTED, "NAME", FIELD(loss),
     "cross-entropy of class scores, or squares: of the differences between an output and its targets, an "
     "array of the output's name in an .npz file",
     NULL, NW_WORDS_LOSS},
    {"label-smoothing", 0, OPTION_REAL, "X", FIELD(label_smoothing),
     "share of a label that all classes get (0)", NULL, 0},
    {"clip", 0, OPTION_REAL, "X", FIELD(clip), "the largest norm of the gradients (default: any)", NULL, 0},
    {"augment", 0, OPTION_TEXT, "STEPS", FIELD(augment),
     "change images at random: flip, crop=PIXELS (shifts), noise=SIGMA, separated by commas", NULL, 0},
    {"seed", 0, OPTION_COUNT, "N", FIELD(seed), "of all that is random (0)", NULL, 0},
    {"scores", 0, OPTION_TEXT, "NAME", FIELD(judged),
     "the output whose class scores are trained (default: the first that looks like them)", NULL, 0},
    {0},
};

static const option options_teacher[] = {
    {"teacher", 0, OPTION_FILE, "MODEL", FIELD(teacher),
     "learn this model's answers too; labels are not needed then", NULL, 0},
    {"temperature", 0, OPTION_REAL, "T", FIELD(temperature), "softens both models' answers (4)", NULL, 0},
    {"distill-weight", 0, OPTION_REAL, "A", FIELD(distill_weight),
     "the teacher's share of the loss, labels have the rest (0.5; without labels 1)", NULL, 0},
    {"match", 0, OPTION_TEXT, "PATTERN", FIELD(match),
     "outputs of layers, by name or operator, are to be as the teacher's of the same name", NULL, 0},
    {"match-weight", 0, OPTION_REAL, "X", FIELD(match_weight),
     "of their relative squared error in the loss (1)", NULL, 0},
    {0},
};

static const option options_quantization[] = {
    {"qat", 0, OPTION_NAMED, "RECIPE", FIELD(recipe),
     "quantize the model first, by a preset or a recipe file (docs/recipes.md), and train it as it will run; "
     "scales are "
     "learned too",
     NULL, NW_WORDS_PRESET},
    {"weights", 0, OPTION_TEXT, "SCHEME", FIELD(weights),
     "what weights become, instead of the recipe's: s4, ternary …", NULL, 0},
    {"activations", 0, OPTION_LISTED, "TYPE", FIELD(activations), "what activations become", NULL,
     NW_WORDS_ACTIVATION},
    {"exclude", 0, OPTION_LIST, "PATTERN", FIELD(exclude),
     "layers that stay float, by name or operator; may be repeated", NULL, 0},
    {"calibrate", 0, OPTION_FILE, "PATH", FIELD(calibrate),
     "samples that activations are measured on before training (default: the first 200 to train on)", NULL,
     0},
    {"qat-stages", 0, OPTION_TEXT, "LIST", FIELD(qat_stages),
     "more bits in the first epochs, such as float:2,8:3; stages without a number share the epochs", NULL, 0},
    {"scale-lr", 0, OPTION_TEXT, "X", FIELD(scale_rate),
     "times the learning rate is that of scales (1); 0: they stay as measured", NULL, 0},
    {"freeze-scales", 0, OPTION_COUNT, "N", FIELD(freeze_scales), "scales stay in the last N epochs (0)",
     NULL, 0},
    {0},
};

static const option options_pruning[] = {
    {"prune", 0, OPTION_TEXT, "WHAT", FIELD(prune),
     "weights become zero, more and more of them: a share (0.8), or 2 of every 4 stay (2:4); zeros: those of "
     "a pruned "
     "model stay zero",
     NULL, 0},
    {"prune-epochs", 0, OPTION_COUNT, "N", FIELD(prune_epochs), "in the first N epochs (half of all)", NULL,
     0},
    {0},
};

static const option options_record[] = {
    {"log", 0, OPTION_OUTPUT, "FILE", FIELD(log), "write the course of training as JSON lines", NULL, 0},
    {"log-every", 0, OPTION_COUNT, "N", FIELD(log_every), "a line per N steps (50)", NULL, 0},
    {"tensorboard", 0, OPTION_FILE, "FOLDER", FIELD(tensorboard), "write event files for TensorBoard", NULL,
     0},
    {"checkpoint", 0, OPTION_OUTPUT, "FILE", FIELD(checkpoint),
     "keep the state of training here, at every epoch", NULL, 0},
    {"checkpoint-every", 0, OPTION_COUNT, "N", FIELD(checkpoint_every), "and after every N steps", NULL, 0},
    {"resume", 0, OPTION_FLAG, NULL, FIELD(resume),
     "go on from the checkpoint, bit by bit, as if training had not been interrupted", NULL, 0},
    {0},
};

/* A bar for steps; a line for every epoch, unless results go to standard output as JSON. */
static void show(void *user, const nw_training_progress *p) {
    const settings *s = user;
    char what[32], note[160], test[32] = "";
    size_t at = (size_t)snprintf(note, sizeof note, ", loss %.4f", p->loss);
    if (isfinite(p->accuracy))
        at += (size_t)snprintf(note + at, sizeof note - at, ", accuracy %.2f %%", p->accuracy * 100);
    if (isfinite(p->test_accuracy)) snprintf(test, sizeof test, ", test %.2f %%", p->test_accuracy * 100);
    snprintf(note + at, sizeof note - at, "%s, %.0f images/s", test, p->images_per_second);
    snprintf(what, sizeof what, "epoch %zu/%zu", p->epoch, p->epochs);
    if (!p->epoch_done) {
        progress_draw(what, p->step, p->steps, p->seconds_left, note);
    } else if (!s->quiet && !(s->json && strcmp(s->json, "-") == 0)) {
        printf("%s%s\n", what, note);
        fflush(stdout);
    }
}

/* A number of at least 0 and below `most`; to the library 0 is the default, and what is below 0 stands for it. */
static bool read_rate(const char *text, double most, double *x) {
    char *end;
    *x = 0;
    if (!text) return true;
    *x = strtod(text, &end);
    if (end == text || *end || !(*x >= 0 && *x < most)) return false;
    if (*x == 0) *x = -1;
    return true;
}

static int options_of(const settings *s, nw_training_options *o) {
    double momentum, scale_rate;
    if (!read_rate(s->train_momentum, 1, &momentum))
        return say_usage(&command_train, "--momentum takes a number from 0 to below 1, not \"%s\"",
                         s->train_momentum);
    if (!read_rate(s->scale_rate, INFINITY, &scale_rate))
        return say_usage(&command_train, "--scale-lr takes a number from 0, not \"%s\"", s->scale_rate);
    *o = (nw_training_options){
        .epochs = s->epochs,
        .batch = s->batch,
        .loss = s->loss,
        .optimizer = s->optimizer,
        .rate = s->rate,
        .momentum = momentum,
        .weight_decay = s->weight_decay,
        .schedule = s->schedule,
        .warmup = s->warmup_steps,
        .label_smoothing = s->label_smoothing,
        .clip = s->clip,
        .augment = s->augment,
        .seed = s->seed,
        .temperature = s->temperature,
        .distill_weight = s->distill_weight,
        .match = s->match,
        .match_weight = s->match_weight,
        .qat_stages = s->qat_stages,
        .scale_rate = scale_rate,
        .freeze_scales = s->freeze_scales,
        .prune = s->prune,
        .prune_epochs = s->prune_epochs,
        .output = s->judged,
        .log = s->log,
        .log_every = s->log_every,
        .tensorboard = s->tensorboard,
        .checkpoint = s->checkpoint,
        .checkpoint_every = s->checkpoint_every,
        .resume = s->resume,
        .progress = show,
        .progress_user = (void *)(uintptr_t)s,
    };
    return EXIT_DONE;
}

/* The test set: the one named, else the other part of the training data; *data stays NULL when it has none. */
static nw_result open_test(nw_env *env, const settings *s, nw_data **data) {
    nw_data_options options = {.preprocess = s->preprocess, .samples = s->test_samples};
    if (s->test) return nw_data_open(env, s->test, &options, data);
    size_t length = strlen(s->data),
           cut = length > 6 && strcmp(s->data + length - 6, ":train") == 0 ? length - 6 : length;
    char path[4096];
    if (s->labels || snprintf(path, sizeof path, "%.*s:test", (int)cut, s->data) >= (int)sizeof path)
        return NW_SUCCESS;
    nw_result result = nw_data_open(env, path, &options, data);
    return result == NW_ERROR_MEMORY ? result : NW_SUCCESS;
}

#define CALIBRATION_SAMPLES 200

/* What activations are measured on before quantized training: without shuffling, few. */
static nw_result open_calibration(nw_env *env, const settings *s, nw_data **data) {
    nw_data_options part = {.preprocess = s->preprocess, .samples = CALIBRATION_SAMPLES, .calibration = 1};
    if (!s->calibrate) {
        part.skip = s->skip;
        if (s->samples && s->samples < part.samples) part.samples = s->samples;
    }
    return nw_data_open(env, s->calibrate ? s->calibrate : s->data, &part, data);
}

static int train(nw_env *env, const settings *s) {
    nw_training_options options;
    const nw_quantize_options quantize = {.recipe = s->recipe,
                                          .weights = s->weights,
                                          .activations = s->activations,
                                          .exclude = s->exclude.items,
                                          .exclude_count = s->exclude.count};
    if (!s->data) return say_usage(&command_train, "--data PATH says what to learn from");
    if (!s->output) return say_usage(&command_train, "-o OUT says where to write the trained model");
    if (!s->recipe && (s->weights || s->activations || s->exclude.count || s->calibrate || s->freeze_scales ||
                       s->scale_rate || s->qat_stages))
        return say_usage(&command_train, "--qat RECIPE says that the model is to be quantized");
    if (s->prune_epochs && !s->prune)
        return say_usage(&command_train, "--prune WHAT says what is to become zero");
    if (s->resume && !s->checkpoint) return say_usage(&command_train, "--resume needs --checkpoint FILE");
    int code = options_of(s, &options);
    if (code != EXIT_DONE) return code;
    nw_model *model = NULL, *teacher = NULL, *trained = NULL;
    nw_data *data = NULL, *test = NULL, *calibration = NULL;
    nw_report *report = NULL;
    nw_data_options part = {.preprocess = s->preprocess,
                            .labels = s->labels,
                            .skip = s->skip,
                            .samples = s->samples,
                            .calibration = 1,
                            .shuffle = 1};
    nw_result result = nw_model_load(env, s->arguments.items[0], &model);
    if (result == NW_SUCCESS && s->teacher) result = nw_model_load(env, s->teacher, &teacher);
    if (result == NW_SUCCESS) result = nw_data_open(env, s->data, &part, &data);
    if (result == NW_SUCCESS) result = open_test(env, s, &test);
    if (result == NW_SUCCESS && s->recipe) result = open_calibration(env, s, &calibration);
    options.teacher = teacher;
    options.calibration = calibration;
    if (s->recipe) options.quantize = &quantize;
    if (result == NW_SUCCESS) result = nw_model_train(model, data, test, &options, &trained, &report);
    if (result == NW_SUCCESS) result = nw_model_save(trained, s->output);
    if (result == NW_SUCCESS)
        code = show_report(s, report);
    else
        nw_report_free(report);
    nw_data_free(calibration);
    nw_data_free(test);
    nw_data_free(data);
    nw_model_free(trained);
    nw_model_free(teacher);
    nw_model_free(model);
    return result == NW_SUCCESS ? code : EXIT_FAILED;
}

const command command_train = {
    .name = "train",
    .summary = "train a model, or go on training one, on labelled data or on a teacher's answers",
    .usage = "MODEL --data DATA -o OUT",
    .description = "Learns all weights, biases and normalizations; the result is the same model with other "
                   "numbers in it. A "
                   "quantized model is trained as it runs: its weights are rounded in every step, and stay "
                   "quantized. The same "
                   "seed and number of threads give the same bits, also when training was interrupted and "
                   "resumed. docs/training.md "
                   "has more.",
    .least = 1,
    .most = 1,
    .groups = {{"Files", options_files},
               {"Data", options_data},
               {"Training", options_steps},
               {"Teacher", options_teacher},
               {"Quantization", options_quantization},
               {"Pruning", options_pruning},
               {"Records", options_record},
               {"Options", options_common}},
    .examples = {{"narrow train lenet.onnx --data mnist/ --epochs 5 -o trained.onnx",
                  "MNIST's files, tested on their test part"},
                 {"narrow train net.onnx --data photos/:train --preprocess imagenet --optimizer adamw "
                  "--schedule cosine "
                  "--augment flip,crop=4 -o tuned.onnx",
                  "fine-tuning on a folder of images"},
                 {"narrow train net.onnx --data mnist/ --qat w4a4 --lr 0.001 --epochs 5 -o small.onnx",
                  "quantization-aware training: 4-bit weights and activations"},
                 {"narrow train net.onnx --data mnist/ --prune 0.8 --epochs 6 -o sparse.onnx",
                  "four of five weights become zero"},
                 {"narrow train small.onnx --data x.npy --teacher large.onnx -o taught.onnx",
                  "without labels"},
                 {"narrow train net.onnx --data mnist/ --checkpoint state --resume -o trained.onnx",
                  "the same command goes on where it was interrupted"}},
    .run = train,
};
