/* train.c: new models, and the loop of training: epochs, data, tests, logs, checkpoints. */
#include "api/qat.h"
#include "base/random.h"
#include "onnx/onnx.h"
#include "op/op.h"
#include "quant/quant.h"
#include "train/augment.h"
#include "train/log.h"
#include "train/trainer.h"
#include "train/zoo.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_BATCH       64
#define DEFAULT_EPOCHS      10
#define DEFAULT_LOG_EVERY   50
#define DEFAULT_TEMPERATURE 4

nw_result nw_model_new(nw_env *env, const char *architecture, const int64_t input[3], int64_t classes,
                       uint64_t seed, nw_model **model) {
    if (!env || !architecture || !input || !model)
        return nw_misuse(env, "nw_model_new: an argument is missing");
    nw_graph *graph;
    nw_status status = nw_zoo_make(&env->ctx, architecture, input, classes, seed, &graph);
    return nw_result_of(status == NW_OK ? nw_model_of_graph(env, graph, architecture, model) : status);
}

typedef struct training {
    nw_env *env;
    const nw_model *model;
    nw_data *data, *test;
    const nw_training_options *o;
    nw_trainer_options options;
    nw_augmentation augmentation;
    const char *recipe; /* of qat, with its stages, as text; NULL: none */
    nw_qat qat;         /* decides what is trained, where options->quantize says so */
    nw_trainer *trainer;
    nw_feeder feeder;
    nw_feed *feeds;                /* [model->input_count] */
    const nw_model *teacher_model; /* NULL: none */
    nw_session *teacher;           /* gives class scores, and what is matched; NULL: none */
    nw_feed *teacher_feeds;        /* [model->input_count] */
    nw_tensor *taught;             /* [1 + options.match_count] the teacher's latest; or the targets */
    size_t target_at;              /* with the loss of squares: which of the data's arrays they are */
    nw_arena arena, run;           /* of everything; of one step */
    nw_log log;
    nw_checkpoint at;
    nw_record *record;                      /* of the report; NULL: not wanted */
    size_t epochs, batch, batches;          /* batches of an epoch */
    double started, epoch_started;          /* ms */
    uint64_t first_step, epoch_first_batch; /* of this process; of the epoch's part in it */
    double speed;                           /* images per second of the epoch so far, tests not counted */
    double test_accuracy;
} training;

/* ---- options ------------------------------------------------------------------------------------------------- */

static nw_status choose_batch(training *t) {
    nw_context *ctx = &t->env->ctx;
    size_t samples = nw_dataset_count(t->data->dataset), own = t->feeder.batch;
    if (own && t->o->batch && own != t->o->batch)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "%s has a fixed batch size of %zu: it cannot be trained with batches of %zu",
                       t->model->path, own, t->o->batch);
    t->batch = own ? own : t->o->batch ? t->o->batch : DEFAULT_BATCH;
    t->epochs = t->o->epochs ? t->o->epochs : DEFAULT_EPOCHS;
    t->batches = samples / t->batch;
    if (t->batches == 0)
        return nw_fail(ctx, NW_E_DATA, "the data set has %zu samples: fewer than a batch of %zu", samples,
                       t->batch);
    return NW_OK;
}

static nw_status check_range(training *t, const char *what, double x, double most, bool open) {
    if (x >= 0 && (open ? x < most : x <= most)) return NW_OK;
    return nw_fail(&t->env->ctx, NW_E_ARGUMENT, "%s is %g, which makes no sense", what, x);
}

static nw_status check_numbers(training *t) {
    const nw_training_options *o = t->o;
    NW_TRY(check_range(t, "the learning rate", o->rate, INFINITY, true));
    NW_TRY(check_range(t, "the weight decay", o->weight_decay, INFINITY, true));
    NW_TRY(check_range(t, "the label smoothing", o->label_smoothing, 1, true));
    NW_TRY(check_range(t, "the largest norm of gradients", o->clip, INFINITY, true));
    NW_TRY(check_range(t, "the temperature", o->temperature, INFINITY, true));
    NW_TRY(check_range(t, "the weight of the teacher", o->distill_weight, 1, false));
    if (!(o->momentum < 1))
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT, "momentum is %g, but must be below 1", o->momentum);
    NW_TRY(check_range(t, "the learning rate of scales", fmax(o->scale_rate, 0), INFINITY, true));
    NW_TRY(check_range(t, "the weight of matched layers", o->match_weight, INFINITY, true));
    if (o->quantize && o->freeze_scales > t->epochs)
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT, "scales are frozen for %zu epochs of %zu",
                       o->freeze_scales, t->epochs);
    if (o->resume && !o->checkpoint)
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT, "to resume, say which checkpoint");
    return NW_OK;
}

/* Targets are the array of the data that is named like an output: `--scores`, or the first there is one for. */
static nw_status find_targets(training *t) {
    const nw_dataset *ds = t->data->dataset;
    if (t->o->teacher || t->o->match || t->o->label_smoothing > 0)
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT,
                       "the loss of squares learns targets alone, without teacher and labels");
    if (t->test)
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT,
                       "tests measure answers to labels, which the loss of squares does not learn: train "
                       "without test data");
    if (!(t->taught = nw_arena_array(&t->arena, 1, sizeof *t->taught))) return NW_E_MEMORY;
    for (size_t o = 0; o < t->model->output_count; o++)
        for (size_t i = 0; i < nw_dataset_input_count(ds) && !t->options.squares; i++) {
            const nw_dataset_input *in = nw_dataset_input_at(ds, i);
            const char *name = t->model->outputs[o].name;
            if (!in->name || strcmp(in->name, name) != 0 || (t->o->output && strcmp(t->o->output, name) != 0))
                continue;
            if (in->format != NW_F32)
                return nw_fail(&t->env->ctx, NW_E_TYPE, "targets \"%s\" are %s: they must be f32", name,
                               nw_format_name(in->format));
            t->options.squares = true;
            t->options.output = name;
            t->target_at = i;
        }
    if (t->options.squares) return NW_OK;
    return nw_fail(&t->env->ctx, NW_E_DATA,
                   "the loss of squares takes an .npz file with an array that is named like the output to be "
                   "trained%s%s, beside those of the inputs",
                   t->o->output ? ", " : "", t->o->output ? t->o->output : "");
}

/* How much of the loss the labels are and how much the teacher. */
static nw_status choose_losses(training *t) {
    int loss;
    NW_TRY(nw_env_word(t->env, "loss", t->o->loss, NW_WORDS_LOSS, &loss));
    if (loss == 1) return find_targets(t);
    const nw_dataset *ds = t->data->dataset;
    bool labels = nw_dataset_has_labels(ds);
    t->teacher_model = t->o->teacher ? t->o->teacher : !labels && t->o->quantize ? t->model : NULL;
    bool teacher = t->teacher_model != NULL;
    if (labels && nw_dataset_label_count(ds) != 1)
        return nw_fail(&t->env->ctx, NW_E_DATA,
                       "samples have %zu labels each: training knows one class per sample",
                       nw_dataset_label_count(ds));
    if (t->o->match && !teacher)
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT, "there is no teacher whose layers could be matched");
    if (!labels && !teacher)
        return nw_fail(&t->env->ctx, NW_E_DATA,
                       "the data has no labels: give them, or a teacher model whose answers are learned");
    double share = !teacher ? 0 : !labels ? 1 : t->o->distill_weight > 0 ? t->o->distill_weight : 0.5;
    t->options.teacher_weight = (float)share;
    t->options.label_weight = (float)(1 - share);
    t->options.smoothing = (float)t->o->label_smoothing;
    t->options.temperature = (float)(t->o->temperature > 0 ? t->o->temperature : DEFAULT_TEMPERATURE);
    return NW_OK;
}

static nw_status choose_pruning(training *t) {
    nw_trainer_options *p = &t->options;
    size_t epochs = t->o->prune_epochs ? t->o->prune_epochs : (t->epochs + 1) / 2;
    if (!t->o->prune) return NW_OK;
    p->hold_zeros = true;
    if (strcmp(t->o->prune, "zeros") == 0) return NW_OK;
    if (epochs > t->epochs)
        return nw_fail(&t->env->ctx, NW_E_ARGUMENT, "pruning over %zu epochs does not fit %zu", epochs,
                       t->epochs);
    p->prune_steps = (int64_t)(epochs * t->batches);
    return nw_prune_parse(&t->env->ctx, t->o->prune, &p->prune);
}

static nw_status choose_options(training *t) {
    static const nw_optimizer_kind optimizers[] = {NW_OPTIMIZER_SGD, NW_OPTIMIZER_ADAM, NW_OPTIMIZER_ADAMW};
    static const nw_schedule_kind schedules[] = {NW_SCHEDULE_CONSTANT, NW_SCHEDULE_STEP, NW_SCHEDULE_COSINE};
    const nw_training_options *o = t->o;
    int optimizer, schedule;
    NW_TRY(nw_env_word(t->env, "optimizer", o->optimizer, NW_WORDS_OPTIMIZER, &optimizer));
    NW_TRY(nw_env_word(t->env, "schedule", o->schedule, NW_WORDS_SCHEDULE, &schedule));
    NW_TRY(nw_augmentation_parse(&t->env->ctx, o->augment, &t->augmentation));
    NW_TRY(choose_batch(t));
    NW_TRY(check_numbers(t));
    NW_TRY(choose_losses(t));
    NW_TRY(choose_pruning(t));
    nw_trainer_options *p = &t->options;
    p->learn_scales = o->quantize != NULL;
    p->scale_rate = o->scale_rate == 0 ? 1 : fmax(o->scale_rate, 0);
    p->scale_steps = (int64_t)((t->epochs - o->freeze_scales) * t->batches) * (o->freeze_scales > 0);
    p->match_weight = (float)(o->match_weight > 0 ? o->match_weight : 1);
    p->batch = (int64_t)t->batch;
    p->seed = o->seed;
    if (!p->squares) p->output = o->output;
    p->run = (nw_run_options){.threads = t->env->threads, .isa = t->env->isa};
    p->clip = o->clip;
    p->optimizer = nw_optimizer_default(optimizers[optimizer]);
    if (o->momentum != 0 && optimizers[optimizer] == NW_OPTIMIZER_SGD)
        p->optimizer.momentum = (float)fmax(o->momentum, 0);
    p->optimizer.weight_decay = (float)o->weight_decay;
    p->schedule = (nw_schedule){.kind = schedules[schedule],
                                .rate = o->rate > 0      ? o->rate
                                        : optimizer == 0 ? 0.01
                                                         : 0.001,
                                .factor = 0.1,
                                .warmup = (int64_t)o->warmup,
                                .every = (int64_t)((t->epochs + 2) / 3 * t->batches),
                                .total = (int64_t)(t->epochs * t->batches)};
    return NW_OK;
}

/* ---- models -------------------------------------------------------------------------------------------------- */

/* The outputs of layers that fit a pattern, where the teacher has a value of the same name. */
static nw_status find_matches(training *t, const nw_graph *student, const nw_graph *teacher) {
    size_t count = 0;
    const char **names = nw_arena_array(&t->arena, (size_t)student->node_count, sizeof *names);
    if (!names) return NW_E_MEMORY;
    for (int n = 0; n < student->node_count; n++) {
        int v = nw_node_out(&student->nodes[n], 0);
        if (v < 0 || !nw_node_matches(t->o->match, student, &student->nodes[n])) continue;
        if (nw_graph_find(teacher, student->values[v].name) < 0) continue;
        if (!(names[count++] = nw_arena_strdup(&t->arena, student->values[v].name))) return NW_E_MEMORY;
    }
    t->options.match_count = count;
    t->options.matches = names;
    if (count) return NW_OK;
    return nw_fail(&t->env->ctx, NW_E_ARGUMENT,
                   "match \"%s\": there is no such layer whose output has a name that the teacher's has too",
                   t->o->match);
}

/* The teacher's graph puts out its class scores and what is matched, and nothing else. */
static nw_status choose_taught(training *t, nw_graph *teacher) {
    nw_tensor *desc = nw_arena_array(&t->arena, (size_t)teacher->value_count + 1, sizeof *desc);
    int logits;
    if (!desc) return NW_E_MEMORY;
    for (int i = 0; i < teacher->output_count; i++) { /* as declared */
        const nw_value *v = &teacher->values[teacher->outputs[i]];
        desc[teacher->outputs[i]].format = v->format;
        if (v->rank >= 0) nw_tensor_set_shape(&desc[teacher->outputs[i]], v->rank, v->dims);
    }
    NW_TRY(nw_find_logits(teacher, desc, teacher->output_count == 1 ? NULL : t->o->output, &logits));
    teacher->output_count = 0;
    NW_TRY(nw_graph_add_output(teacher, logits));
    for (size_t i = 0; i < t->options.match_count; i++)
        NW_TRY(nw_graph_add_output(teacher, nw_graph_find(teacher, t->options.matches[i])));
    return nw_graph_prune(teacher);
}

static nw_status make_teacher(training *t, const nw_graph *student) {
    const nw_model *teacher = t->teacher_model;
    nw_context *ctx = &t->env->ctx;
    nw_graph *graph;
    if (!teacher) return NW_OK;
    if (teacher->input_count != t->model->input_count)
        return nw_fail(ctx, NW_E_ARGUMENT, "%s takes %zu inputs and %s %zu: it cannot be its teacher",
                       teacher->path, teacher->input_count, t->model->path, t->model->input_count);
    NW_TRY(nw_model_prepare(teacher, ctx, &graph));
    nw_status status = t->o->match ? find_matches(t, student, graph) : NW_OK;
    if (status == NW_OK) status = choose_taught(t, graph);
    if (status == NW_OK) status = nw_session_new(ctx, graph, &t->options.run, &t->teacher);
    nw_graph_free(graph);
    if (status == NW_OK &&
        !(t->taught = nw_arena_array(&t->arena, t->options.match_count + 1, sizeof *t->taught)))
        return NW_E_MEMORY;
    return status == NW_OK ? NW_OK : nw_fail_where(ctx, status, "%s", teacher->path);
}

/* With the teacher, the first time. */
static nw_status make_trainer(training *t) {
    nw_graph *graph;
    NW_TRY(t->o->quantize ? nw_qat_graph(&t->qat, &graph) : nw_model_fold(t->model, &t->env->ctx, &graph));
    nw_status status = t->teacher ? NW_OK : make_teacher(t, graph);
    t->options.real = t->qat.real;
    if (status == NW_OK) {
        status = nw_trainer_new(&t->env->ctx, graph, &t->options, &t->trainer);
        if (status != NW_OK) status = nw_fail_where(&t->env->ctx, status, "%s", t->model->path);
    }
    nw_graph_free(graph);
    return status;
}

/* A stage of quantization-aware training, from what qat.start says. */
static nw_status begin_stage(training *t, size_t stage) {
    nw_trainer *before = t->trainer;
    NW_TRY(nw_qat_begin(&t->qat, stage));
    NW_TRY(make_trainer(t));
    nw_trainer_inherit(t->trainer, before);
    nw_trainer_free(before);
    return NW_OK;
}

/* What was learned so far, as a file would hold it. */
static nw_status trained_model(training *t, nw_model **out) {
    nw_graph *graph;
    NW_TRY(nw_trainer_graph(t->trainer, &graph));
    bool biases = t->o->quantize && !t->qat.recipe.choice.float_bias;
    nw_status status = biases ? nw_quant_pack_biases(graph) : NW_OK;
    if (status == NW_OK) return nw_model_written(t->model, graph, NW_STYLE_QDQ, 0, NULL, out);
    nw_graph_free(graph);
    return status;
}

/* ---- checkpoints --------------------------------------------------------------------------------------------- */

static void mix(uint64_t *hash, const void *data, size_t size) { /* FNV-1a */
    for (const uint8_t *p = data; size > 0; size--, p++) *hash = (*hash ^ *p) * 0x100000001b3u;
}

/* Everything that decides what is learned, but threads, and the number of epochs where no rate depends on it. */
static uint64_t identity_of(const training *t) {
    const nw_trainer_options *p = &t->options;
    uint64_t hash = 0xcbf29ce484222325u;
    int kinds[] = {p->optimizer.kind, p->schedule.kind, t->augmentation.flip};
    int64_t counts[] = {p->batch,
                        (int64_t)p->seed,
                        p->schedule.warmup,
                        t->augmentation.crop,
                        p->schedule.kind == NW_SCHEDULE_CONSTANT ? 0 : p->schedule.total,
                        p->scale_steps,
                        p->prune_steps,
                        p->prune.keep,
                        p->prune.of,
                        p->hold_zeros,
                        p->squares ? (int64_t)t->target_at : -1};
    double numbers[] = {p->schedule.rate,
                        p->clip,
                        (double)p->optimizer.momentum,
                        (double)p->optimizer.weight_decay,
                        (double)p->label_weight,
                        (double)p->teacher_weight,
                        (double)p->smoothing,
                        (double)p->temperature,
                        (double)p->match_weight,
                        p->prune.sparsity,
                        p->scale_rate,
                        t->augmentation.noise};
    size_t count;
    const nw_checkpoint_array *arrays = nw_trainer_arrays(t->trainer, &count);
    mix(&hash, kinds, sizeof kinds);
    mix(&hash, counts, sizeof counts);
    mix(&hash, numbers, sizeof numbers);
    mix(&hash, t->data->description, strlen(t->data->description));
    if (t->teacher_model) mix(&hash, t->teacher_model->path, strlen(t->teacher_model->path));
    if (t->recipe) mix(&hash, t->recipe, strlen(t->recipe));
    for (size_t i = 0; i < p->match_count; i++) mix(&hash, p->matches[i], strlen(p->matches[i]));
    for (size_t i = 0; i < count; i++) mix(&hash, arrays[i].data, arrays[i].count * sizeof *arrays[i].data);
    return hash;
}

/* What a checkpoint holds: what the stage of training began with, then the trainer's arrays. In t->run, which is reset. */
static nw_status arrays_of(training *t, const nw_checkpoint_array **arrays, size_t *count) {
    const nw_checkpoint_array *own = nw_trainer_arrays(t->trainer, count);
    const size_t start = t->qat.start_count;
    nw_arena_reset(&t->run);
    nw_checkpoint_array *all = nw_arena_array(&t->run, start + *count, sizeof *all);
    if (!all) return NW_E_MEMORY;
    if (start) memcpy(all, t->qat.start, start * sizeof *all);
    if (*count) memcpy(all + start, own, *count * sizeof *all);
    *arrays = all;
    *count += start;
    return NW_OK;
}

static nw_status save(training *t) {
    size_t count;
    const nw_checkpoint_array *arrays;
    if (!t->o->checkpoint) return NW_OK;
    NW_TRY(nw_log_flush(&t->log, &t->at.log_bytes));
    NW_TRY(arrays_of(t, &arrays, &count));
    return nw_checkpoint_write(&t->env->ctx, t->o->checkpoint, &t->at, count, arrays);
}

/* A stage's beginning decides its grids: it is read first. */
static nw_status restore(training *t) {
    nw_context *ctx = &t->env->ctx;
    const char *path = t->o->checkpoint;
    const nw_checkpoint_array *arrays;
    size_t count;
    t->at.identity = identity_of(t);
    if (!t->o->resume || access(path, F_OK) != 0) return NW_OK; /* killed before the first one */
    if (t->qat.start_count) {
        NW_TRY(nw_checkpoint_read(ctx, path, t->at.identity, &t->at, t->qat.start_count, t->qat.start));
        const size_t stage = nw_qat_stage_of(&t->qat, t->at.epoch);
        if (stage != t->qat.stage) NW_TRY(begin_stage(t, stage));
    }
    NW_TRY(arrays_of(t, &arrays, &count));
    NW_TRY(nw_checkpoint_read(ctx, path, t->at.identity, &t->at, count, arrays));
    nw_trainer_set_steps(t->trainer, (int64_t)t->at.step);
    return NW_OK;
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static nw_status ask_teacher(training *t) {
    if (!t->teacher) return NW_OK;
    for (size_t i = 0; i < t->model->input_count; i++)
        t->teacher_feeds[i] = (nw_feed){t->teacher_model->inputs[i].name, t->feeds[i].tensor};
    nw_status status =
        nw_session_run(t->teacher, t->model->input_count, t->teacher_feeds, &t->run, t->taught);
    nw_tensor_set_shape(&t->taught[0], t->taught[0].rank > 2 ? 2 : t->taught[0].rank,
                        t->taught[0].dims); /* [N, C, 1, 1] */
    return status == NW_OK ? NW_OK
                           : nw_fail_where(&t->env->ctx, status, "teacher %s", t->teacher_model->path);
}

static nw_status next_batch(training *t, nw_batch *batch) {
    NW_TRY(nw_dataset_next(t->data->dataset, t->batch, batch));
    if (batch->count == t->batch) return NW_OK;
    return nw_fail(
        &t->env->ctx, NW_E_DATA,
        "samples have different shapes: training wants one shape; for images, --preprocess (resize, crop) "
        "gives it");
}

static size_t count_right(const nw_tensor *logits, const int64_t *labels) {
    size_t right = 0, classes = (size_t)logits->dims[1];
    for (size_t i = 0; labels && i < (size_t)logits->dims[0]; i++)
        right += nw_best((const float *)logits->data + i * classes, classes) == (size_t)labels[i];
    return right;
}

static nw_status step(training *t, nw_trainer_result *result, size_t *right) {
    nw_batch batch;
    nw_arena_reset(&t->run);
    NW_TRY(next_batch(t, &batch));
    NW_TRY(nw_feeder_feed(&t->feeder, &batch, &t->run, t->feeds));
    /* a place in the whole training: no two samples draw the same changes */
    uint64_t first = (t->at.epoch * t->batches + t->at.batch) * t->batch;
    NW_TRY(nw_augment(&t->env->ctx, &t->augmentation, ~t->o->seed, first, &t->feeds[0].tensor));
    NW_TRY(ask_teacher(t));
    if (t->options.squares) t->taught[0] = batch.inputs[t->target_at];
    NW_TRY(nw_trainer_step(t->trainer, t->model->input_count, t->feeds, batch.labels, t->taught, result));
    *right = t->options.squares ? 0 : count_right(&result->logits, batch.labels);
    t->at.batch++;
    t->at.step++;
    t->at.loss += result->loss;
    t->at.right += *right;
    t->speed =
        (double)((t->at.batch - t->epoch_first_batch) * t->batch) / (nw_now_ms() - t->epoch_started) * 1e3;
    return NW_OK;
}

/* ---- what is said of it ------------------------------------------------------------------------------------- */

static double accuracy_of(const training *t, uint64_t right, uint64_t batches) {
    const bool judged = nw_dataset_has_labels(t->data->dataset) && !t->options.squares;
    return judged ? (double)right / (double)(batches * t->batch) : NAN;
}

static void show(const training *t, const nw_trainer_result *result, bool epoch_done) {
    if (!t->o->progress) return;
    double per_step = (nw_now_ms() - t->started) / 1e3 / (double)(t->at.step - t->first_step);
    nw_training_progress p = {.epoch = t->at.epoch + 1,
                              .epochs = t->epochs,
                              .step = t->at.batch,
                              .steps = t->batches,
                              .loss = t->at.loss / (double)t->at.batch,
                              .accuracy = accuracy_of(t, t->at.right, t->at.batch),
                              .test_accuracy = epoch_done ? t->test_accuracy : NAN,
                              .rate = result->rate,
                              .images_per_second = t->speed,
                              .seconds_left = per_step * (double)(t->epochs * t->batches - t->at.step),
                              .epoch_done = epoch_done};
    t->o->progress(t->o->progress_user, &p);
}

static nw_status log_step(training *t, const nw_trainer_result *r, size_t right) {
    size_t every = t->o->log_every ? t->o->log_every : DEFAULT_LOG_EVERY;
    if (t->at.step % every != 0) return NW_OK;
    const nw_log_scalar scalars[] = {{"loss", r->loss},
                                     {"accuracy", accuracy_of(t, right, 1)},
                                     {"rate", r->rate},
                                     {"gradient_norm", r->norm},
                                     {"images_per_second", t->speed}};
    return nw_log_write(&t->log, "step", t->at.epoch + 1, t->at.step, sizeof scalars / sizeof *scalars,
                        scalars);
}

static nw_status log_epoch(training *t) {
    double loss = t->at.loss / (double)t->at.batch, accuracy = accuracy_of(t, t->at.right, t->at.batch);
    const nw_log_scalar scalars[] = {{"loss", loss},
                                     {"accuracy", accuracy},
                                     {"test_accuracy", t->test_accuracy},
                                     {"images_per_second", t->speed}};
    nw_record *item = t->record ? nw_record_item(t->record, "epochs", "Epochs", NW_LAYOUT_DETAILS) : NULL;
    nw_record_number(item, "epoch", "epoch", NW_UNIT_COUNT, (double)t->at.epoch + 1);
    nw_record_number(item, "loss", "loss", NW_UNIT_NUMBER, loss);
    nw_record_number(item, "accuracy", "accuracy", NW_UNIT_SHARE, accuracy);
    nw_record_number(item, "test_accuracy", "test accuracy", NW_UNIT_SHARE, t->test_accuracy);
    nw_record_number(item, "images_per_second", "images/s", NW_UNIT_NUMBER, t->speed);
    return nw_log_write(&t->log, "epoch", t->at.epoch + 1, t->at.step, sizeof scalars / sizeof *scalars,
                        scalars);
}

/* The very model that would be saved now, run as any other. */
static nw_status measure(training *t) {
    nw_model *model = NULL;
    nw_report *report = NULL;
    t->test_accuracy = NAN;
    if (!t->test) return NW_OK;
    NW_TRY(trained_model(t, &model));
    nw_measure_options options = {.output = t->o->output, .no_latency = 1};
    nw_status status = (nw_status)nw_evaluate(model, t->test, &options, &report);
    if (status == NW_OK) t->test_accuracy = nw_report_number(report, "top1");
    nw_report_free(report);
    nw_model_free(model);
    return status;
}

/* ---- the loop ------------------------------------------------------------------------------------------------ */

/* What is left of the epoch that t->at says. */
static nw_status run_epoch(training *t) {
    nw_random random = nw_random_at(t->o->seed, t->at.epoch);
    nw_trainer_result result = {.rate = NAN};
    NW_TRY(nw_dataset_shuffle(t->data->dataset, nw_random_bits(&random)));
    for (uint64_t b = 0; b < t->at.batch; b++) { /* done before the checkpoint */
        nw_batch batch;
        NW_TRY(next_batch(t, &batch));
    }
    t->speed = NAN; /* when resumed behind the last step */
    t->epoch_started = nw_now_ms();
    t->epoch_first_batch = t->at.batch;
    while (t->at.batch < t->batches) {
        size_t right;
        NW_TRY(step(t, &result, &right));
        NW_TRY(log_step(t, &result, right));
        show(t, &result, false);
        size_t every = t->o->checkpoint_every;
        if (every && t->at.step % every == 0 && t->at.batch < t->batches) NW_TRY(save(t));
    }
    NW_TRY(measure(t));
    NW_TRY(log_epoch(t));
    show(t, &result, true);
    t->at.epoch++;
    t->at.batch = t->at.right = 0;
    t->at.loss = 0;
    const size_t stage = nw_qat_stage_of(&t->qat, t->at.epoch);
    if (t->at.epoch < t->epochs && stage != t->qat.stage) {
        NW_TRY(nw_qat_keep(&t->qat, t->trainer));
        NW_TRY(begin_stage(t, stage));
    }
    return save(t);
}

static nw_status prepare(training *t) {
    NW_TRY(nw_feeder_init(&t->feeder, t->model, t->data));
    NW_TRY(choose_options(t));
    t->feeds = nw_arena_array(&t->arena, t->model->input_count, sizeof *t->feeds);
    t->teacher_feeds = nw_arena_array(&t->arena, t->model->input_count, sizeof *t->teacher_feeds);
    if (!t->feeds || !t->teacher_feeds) return NW_E_MEMORY;
    if (t->o->quantize) {
        NW_TRY(nw_qat_init(&t->qat, t->model, t->o, t->epochs));
        if (!(t->recipe = nw_qat_describe(&t->qat))) return NW_E_MEMORY;
    }
    NW_TRY(make_trainer(t));
    if (t->qat.stage_count > 1) NW_TRY(nw_qat_list(&t->qat, t->trainer));
    NW_TRY(restore(t));
    t->first_step = t->at.step;
    t->started = nw_now_ms();
    return nw_log_open(&t->env->ctx, t->o->log, t->o->tensorboard, t->at.log_bytes, t->at.step, &t->log);
}

static void write_report(training *t) {
    nw_record *r = t->record;
    double seconds = (nw_now_ms() - t->started) / 1e3;
    nw_record_text(r, "model", "model", t->model->path);
    nw_record_text(r, "data", "trained on", t->data->description);
    if (t->test) nw_record_text(r, "test_data", "tested on", t->test->description);
    nw_env_write(t->env, r);
    nw_record_number(r, "parameters", "parameters", NW_UNIT_COUNT,
                     (double)nw_trainer_parameter_count(t->trainer));
    if (t->options.hold_zeros)
        nw_record_number(r, "sparsity", "zeros", NW_UNIT_SHARE, nw_trainer_sparsity(t->trainer));
    nw_record_number(r, "batch", "batch", NW_UNIT_COUNT, (double)t->batch);
    nw_record_number(r, "steps", "steps", NW_UNIT_COUNT, (double)t->at.step);
    if (t->test) nw_record_number(r, "test_accuracy", "test accuracy", NW_UNIT_SHARE, t->test_accuracy);
    nw_record_number(r, "seconds", "time", NW_UNIT_SECONDS, seconds);
}

static nw_status train(training *t, nw_model **out) {
    NW_TRY(prepare(t));
    t->test_accuracy = NAN;
    bool done = t->at.epoch >= t->epochs; /* resumed after its end */
    while (t->at.epoch < t->epochs) NW_TRY(run_epoch(t));
    if (done) NW_TRY(measure(t));
    if (t->record) write_report(t);
    return trained_model(t, out);
}

nw_result nw_model_train(const nw_model *model, nw_data *data, nw_data *test,
                         const nw_training_options *options, nw_model **trained, nw_report **report) {
    if (!model || !data || !trained)
        return nw_misuse(model ? model->env : NULL, "nw_model_train: an argument is missing");
    static const nw_training_options defaults;
    nw_report *sheet = NULL;
    nw_model *made = NULL;
    training t = {
        .env = model->env, .model = model, .data = data, .test = test, .o = options ? options : &defaults};
    nw_status status = report ? nw_report_new(t.env, "train", &sheet) : NW_OK;
    if (status != NW_OK) return nw_result_of(status);
    if (sheet) t.record = &sheet->sheet->root;
    nw_arena_init(&t.arena, &t.env->ctx);
    nw_arena_init(&t.run, &t.env->ctx);
    status = train(&t, &made);
    nw_log_close(&t.log);
    nw_session_free(t.teacher);
    nw_trainer_free(t.trainer);
    nw_qat_free(&t.qat);
    nw_feeder_free(&t.feeder);
    nw_arena_free(&t.run);
    nw_arena_free(&t.arena);
    if (report) status = (nw_status)nw_report_finish(sheet, status, report); /* frees the sheet on failure */
    if (status != NW_OK) {
        nw_model_free(made);
        return nw_result_of(status);
    }
    *trained = made;
    return NW_SUCCESS;
}
