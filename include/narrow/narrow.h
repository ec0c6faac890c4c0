/* narrow.h: the whole public interface of libnarrow: load ONNX models, quantize them, run them, and measure
 * what that costs and gains. C17 and C++; includes nothing of the project and is all that a user of the
 * library includes.
 *
 *     nw_env *env;
 *     nw_model *model, *small;
 *     nw_data *data;
 *     nw_env_new(NULL, &env);
 *     nw_model_load(env, "model.onnx", &model);
 *     nw_data_open(env, "photos/", &(nw_data_options){.preprocess = "imagenet", .samples = 100}, &data);
 *     nw_model_quantize(model, data, &(nw_quantize_options){.observer = "percentile"}, &small, NULL);
 *     nw_model_save(small, "model-int8.onnx");
 *
 * Conventions:
 * - Results. Functions that can fail return nw_result; NW_SUCCESS is 0. nw_env_message then says what went
 *   wrong, in words a user understands. On failure outputs are untouched and no file is left half written.
 * - Ownership. What a function gives through a last parameter of type X ** belongs to the caller and is
 *   released by nw_X_free, for which NULL is fine. What it returns as const belongs to the object asked, and
 *   is valid until that is released unless it says otherwise. Arguments are only read during the call.
 * - Lifetimes. Everything made from an environment is released before it. Models, data and reports do not
 *   need one another.
 * - Threads. An environment and all that was made from it belong to one thread at a time. Environments are
 *   independent of each other.
 * - Options. A zeroed structure means the defaults: start from {0} and set what differs. Pointers to options
 *   may be NULL.
 * - Words. Choices that grow (element types, observers) are the command's own words: nw_words lists them. */
#ifndef NARROW_NARROW_H
#define NARROW_NARROW_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define NW_API __attribute__((visibility("default")))
#else
#define NW_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nw_result {
    NW_SUCCESS,
    NW_ERROR_MEMORY,      /* out of memory */
    NW_ERROR_IO,          /* a file cannot be read or written */
    NW_ERROR_FORMAT,      /* a malformed file */
    NW_ERROR_UNSUPPORTED, /* an operator, format or combination that narrow does not know */
    NW_ERROR_SHAPE,       /* shapes do not fit together */
    NW_ERROR_TYPE,        /* element types do not fit together */
    NW_ERROR_ARGUMENT,    /* an argument or option makes no sense */
    NW_ERROR_DATA,        /* a broken data set, or one that does not fit the model */
    NW_ERROR_NEED_VALUE,  /* a shape depends on a value that is not known */
    NW_ERROR_INTERNAL     /* a mistake of narrow's: please report */
} nw_result;

NW_API const char *nw_result_text(nw_result result); /* "out of memory"; never NULL */
NW_API const char *nw_version(void);                 /* "0.1.0" */

/* The words an option accepts, separated by '|', the default first where there is one: "minmax|moving|…". */
typedef enum nw_word_list {
    NW_WORDS_MODE,         /* of quantization */
    NW_WORDS_FORM,         /* how quantization is spelled in ONNX */
    NW_WORDS_ACTIVATION,   /* element types of quantized activations */
    NW_WORDS_WEIGHT,       /* element types of quantized weights; schemes are more (docs/numerics.md) */
    NW_WORDS_OBSERVER,     /* how the range of an activation is chosen */
    NW_WORDS_NORM,         /* by which channels are ranked */
    NW_WORDS_ISA,          /* instruction sets, lowest first */
    NW_WORDS_ARCHITECTURE, /* of new models */
    NW_WORDS_LOSS,         /* what training makes small */
    NW_WORDS_OPTIMIZER,    /* how training moves parameters along their gradients */
    NW_WORDS_SCHEDULE,     /* of the learning rate */
    NW_WORDS_PRESET,       /* recipes of quantization that have a name */
    NW_WORDS_TARGET        /* runtimes that a model is meant for */
} nw_word_list;
NW_API const char *nw_words(nw_word_list list); /* never NULL */

/* ---- environment: memory, messages, threads ---------------------------------------------------------- */

typedef struct nw_env nw_env;

/* Where an environment takes all of its memory. `alloc` returns `size` bytes aligned to 64, or NULL; both are
 * called from several threads. */
typedef struct nw_memory {
    void *(*alloc)(void *user, size_t size);
    void (*release)(void *user, void *ptr);
    void *user;
} nw_memory;

/* memory NULL: the C library's. */
NW_API nw_result nw_env_new(const nw_memory *memory, nw_env **env);
NW_API void nw_env_free(nw_env *env);
/* What the latest failure was about; "" before the first. Valid until the next call on the environment or
 * what it made. */
NW_API const char *nw_env_message(const nw_env *env);

/* Threads that runs use: 0 (default) one per core. Holds for models that have not run yet. */
NW_API nw_result nw_env_set_threads(nw_env *env, int threads);
/* The highest instruction set that is used (NW_WORDS_ISA), on machines that have it; NULL: the machine's
 * best. Results do not depend on it where integers are computed. Holds for models that have not run yet. */
NW_API nw_result nw_env_set_isa(nw_env *env, const char *isa);

/* Called with a line of text where something deserves attention but goes on. NULL (default): dropped. */
typedef void nw_warning_fn(void *user, const char *line);
NW_API void nw_env_on_warning(nw_env *env, nw_warning_fn *fn, void *user);
/* Called now and then by long work: `done` of `total` samples (or runs) of `what` ("calibrating", …). done ==
 * total is the last call of that work. */
typedef void nw_progress_fn(void *user, const char *what, size_t done, size_t total);
NW_API void nw_env_on_progress(nw_env *env, nw_progress_fn *fn, void *user);

/* ---- arrays ------------------------------------------------------------------------------------------ */

/* The numbers are ONNX's. */
typedef enum nw_type {
    NW_TYPE_NONE = 0,
    NW_TYPE_F32 = 1,
    NW_TYPE_U8 = 2,
    NW_TYPE_S8 = 3,
    NW_TYPE_U16 = 4,
    NW_TYPE_S16 = 5,
    NW_TYPE_S32 = 6,
    NW_TYPE_S64 = 7,
    NW_TYPE_STRING = 8, /* named, not exchanged */
    NW_TYPE_BOOL = 9,
    NW_TYPE_F16 = 10,
    NW_TYPE_F64 = 11,
    NW_TYPE_U32 = 12,
    NW_TYPE_U64 = 13,
    NW_TYPE_BF16 = 16
} nw_type;

#define NW_ARRAY_RANK 8 /* most dimensions */

/* A dense array, row-major (the last dimension varies fastest). */
typedef struct nw_array {
    const char *name; /* of the model's input or output; NULL: none */
    nw_type type;
    int rank;                    /* 0: a scalar, one element; −1 in descriptions: unknown */
    int64_t dims[NW_ARRAY_RANK]; /* −1 in descriptions: not fixed */
    void *data;                  /* NULL in descriptions */
} nw_array;

NW_API const char *nw_type_name(nw_type type); /* "f32"; "none" when unknown */

/* NumPy's .npy files. The loaded array is the caller's to change. Saving writes the whole file or nothing. */
NW_API nw_result nw_array_load(nw_env *env, const char *path, nw_array **array);
NW_API nw_result nw_array_save(nw_env *env, const char *path, const nw_array *array);
NW_API void nw_array_free(nw_array *array); /* arrays of nw_array_load */

/* ---- data sets --------------------------------------------------------------------------------------- */

typedef struct nw_data nw_data;

typedef struct nw_data_options {
    const char *preprocess; /* how images become inputs: "imagenet", "none", or steps such as
                               "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225";
                               required for image files, NULL means "none" elsewhere */
    const char *labels;     /* .npy or idx file of class numbers [N]; NULL: the data's own */
    size_t skip;            /* leaves out the first so many samples */
    size_t samples;         /* uses at most so many of the rest; 0: all */
    int calibration;        /* of two parts, take the training part (otherwise the test part) */
    int shuffle;            /* for training: samples come in random order, another one in every epoch */
} nw_data_options;

/* A folder of images with one sub-folder per class, a csv of file,label, MNIST's idx files, CIFAR's binary
 * files, .npy or .npz arrays; ":train" or ":test" after the path chooses a part. docs/data.md has the
 * details. Samples are read as they are used: memory does not grow with their number. */
NW_API nw_result nw_data_open(nw_env *env, const char *path, const nw_data_options *options, nw_data **data);
/* Arrays at hand, each [N, …], one per model input; labels [N] of an integer type, or NULL. They are not
 * copied and must outlive the data set. Of the options only skip and samples count. */
NW_API nw_result nw_data_from_arrays(nw_env *env, size_t count, const nw_array *inputs,
                                     const nw_array *labels, const nw_data_options *options, nw_data **data);
NW_API void nw_data_free(nw_data *data);
NW_API size_t nw_data_count(const nw_data *data); /* samples */
/* One line: kind, samples, shape, preprocessing. */
NW_API const char *nw_data_description(const nw_data *data);

/* ---- models ------------------------------------------------------------------------------------------ */

typedef struct nw_model nw_model;
typedef struct nw_report nw_report;

/* A model with operators that narrow does not know loads, and can be described and saved; running it fails
 * and names them. */
NW_API nw_result nw_model_load(nw_env *env, const char *path, nw_model **model);
NW_API nw_result nw_model_save(const nw_model *model, const char *path);
NW_API void nw_model_free(nw_model *model);

/* Inputs that must be given, and outputs, in the model's order. */
NW_API size_t nw_model_input_count(const nw_model *model);
NW_API const nw_array *nw_model_input(const nw_model *model, size_t i); /* NULL out of range */
NW_API size_t nw_model_output_count(const nw_model *model);
NW_API const nw_array *nw_model_output(const nw_model *model, size_t i);

/* Runs once. inputs [count], by name (a model with one input takes a nameless one), in any order; types as
 * the model says. *outputs [nw_model_output_count] stays valid until the next run of this model. The first
 * run with given shapes prepares for them. */
NW_API nw_result nw_model_run(nw_model *model, size_t count, const nw_array *inputs,
                              const nw_array **outputs);
/* Prints the steps of the latest run, line by line: kernel, layout, shapes, reasons. Fails before the first
 * run. */
NW_API nw_result nw_model_explain(const nw_model *model, void (*print)(void *user, const char *line),
                                  void *user);

typedef enum nw_switch { NW_SWITCH_AUTO, NW_SWITCH_OFF, NW_SWITCH_ON } nw_switch;

/* Patterns name nodes ("/encoder/\*": * is any run of letters, ? one letter) or operators ("Conv"). */
typedef struct nw_quantize_options {
    const char
        *recipe; /* what the options below start from: a preset (NW_WORDS_PRESET) or the path of a recipe file
                           (docs/recipes.md); NULL: the defaults named below */
    const char *mode; /* "static": weights, and activations on scales measured on data; "dynamic": activations
                           on scales measured at run time; "weights": weights only; "float": nothing */
    const char *form; /* "qdq": QuantizeLinear and DequantizeLinear around ordinary operators; "qoperator":
                         QLinearConv and its like; "native": codes as they are, for narrow alone; "matmulnbits":
                         com.microsoft's operator for products with 4-bit weights in blocks */
    const char *activations; /* element type; "u8" */
    const char *
        weights; /* element type ("s8", the default) or a whole scheme: "s4:32@f16", "ternary", "nf4:64", "f16" …
                            (docs/numerics.md has the grammar) */
    int symmetric_activations;
    int asymmetric_weights,
        symmetric_weights; /* signed types are symmetric, unsigned ones not, unless said here */
    int per_tensor;        /* one scale per weight, instead of one per output channel */
    int64_t block;    /* > 0: one scale per so many weights of an input axis; modes "weights" and "dynamic" */
    int full_range;   /* symmetric weights use −128 too, not only −127 … 127 */
    int reduce_range; /* weights of 7 bits: no saturation in runtimes on x86 without VNNI */
    int mse_weights;  /* weight scales of the smallest squared error instead of the largest magnitude */
    int balanced_rounding; /* weights are rounded so that the sums of those that share a scale are kept */
    const char *observer;  /* how activation ranges are chosen; "minmax" */
    double percentile;     /* of observer "percentile": per cent of values inside; 0: 99.999 */
    double sigmas;         /* of observer "sigma"; 0: 4 */
    double momentum;       /* of the moving average; 0: 0.9 */
    double range_low, range_high; /* of observer "absolute" */
    nw_switch elementwise;        /* layers without weights. AUTO: where their operands are integers anyway */
    nw_switch products; /* products of two activations. AUTO: on; mode "dynamic": those of attention */
    nw_switch embeddings;         /* tables that Gather reads. AUTO: on */
    nw_switch recurrent;          /* weights of LSTM, GRU and RNN. AUTO: on */
    nw_switch inputs;          /* the model's own. AUTO: where a grid resolves them: pixels, seldom spectra */
    int float_bias;            /* biases stay float */
    nw_switch bias_correction; /* biases make up for the mean error of their layer's weights. AUTO: on */
    int dynamic_rows;     /* of mode "dynamic": a scale per row of the last axis, instead of per tensor */
    int quantize_outputs; /* the model's own outputs too */
    int known_ranges;     /* Softmax, Sigmoid, Tanh get their mathematical range instead of the one seen */
    size_t exclude_count, only_count;
    const char *const *exclude; /* patterns of layers that stay float */
    const char *const *only;    /* patterns: no other layer is quantized */
    size_t batch;               /* samples per calibration run; 0: chosen */
    const char *save_as; /* the quantized model is written here too; its report then has both file sizes */
    const char *
        target; /* the runtime that the file is for (NW_WORDS_TARGET): forms that load there, and that it turns into
                           integer arithmetic; "any" */
    int64_t opset;     /* of the written model; 0: the model's own, raised where the codes need a later one */
    int external_data; /* weights go into a second file SAVE_AS.data, as those of models above 2 GB always do */
    int measure; /* times the layers both ways and leaves in float what integers would slow down on this machine, with the
                    environment's threads and instruction set. Not for mode "weights" */
} nw_quantize_options;

/* Post-training quantization; `model` stays as it is. data: what calibration reads, from its beginning; may
 * be NULL for the modes that measure nothing. *quantized is the model as a file would hold it. report NULL:
 * not wanted; it says what was quantized, what was left in float and why. Deterministic but for `measure`. */
NW_API nw_result nw_model_quantize(const nw_model *model, nw_data *data, const nw_quantize_options *options,
                                   nw_model **quantized, nw_report **report);

/* ---- training ---------------------------------------------------------------------------------------- */

/* An untrained model: architecture of NW_WORDS_ARCHITECTURE, input [channels, height, width]; random weights
 * that are a function of `seed`. The batch size is free. */
NW_API nw_result nw_model_new(nw_env *env, const char *architecture, const int64_t input[3], int64_t classes,
                              uint64_t seed, nw_model **model);

/* How far a training is; shares and rates are NaN where they are not known. */
typedef struct nw_training_progress {
    size_t epoch, epochs;  /* epoch: of the latest step, from 1 */
    size_t step, steps;    /* within the epoch, step from 1 */
    double loss, accuracy; /* means over the epoch so far; accuracy: of the answers while training */
    double test_accuracy;  /* at the end of an epoch, where there is a test set */
    double rate;           /* of learning */
    double images_per_second, seconds_left;
    int epoch_done; /* after the last step and the test: once per epoch */
} nw_training_progress;
typedef void nw_training_fn(void *user, const nw_training_progress *progress);

typedef struct nw_training_options {
    size_t epochs; /* passes over the data; 0: 10 */
    size_t batch;  /* samples per step; 0: 64, or the model's own. What is left of an epoch is dropped */
    const char *
        loss; /* "cross-entropy": of class scores with labels, a teacher's or both; "squares": mean squared error of
                         an output, whose targets are an array of its name in the data (.npz), f32 */
    const char *optimizer; /* "sgd" */
    double rate;           /* of learning; 0: 0.01 with sgd, else 0.001 */
    double momentum;       /* of sgd; 0: 0.9; below 0: none */
    double weight_decay;   /* of weights, not of biases and normalizations */
    const char
        *schedule; /* "constant"; "step": a tenth after each third of the epochs; "cosine": falls to 0 */
    size_t warmup; /* steps in which the rate grows to its value */
    double label_smoothing; /* 0 … below 1 */
    double clip;            /* the largest norm of the gradients; 0: any */
    const char *augment;    /* changes to images: "flip,crop=4,noise=0.01"; NULL: none */
    uint64_t seed;          /* of all that is random; the same seed and threads give the same bits */
    const nw_model
        *teacher; /* its class scores are learned, beside the labels or without any; NULL: none, or, when
                                there are no labels and `quantize` is given, the model itself */
    double temperature;    /* that both scores are divided by; 0: 4 */
    double distill_weight; /* of the teacher, 0 … 1, labels have the rest; 0: 1 without labels, else 0.5 */
    const char
        *match; /* pattern of layers whose outputs are to be as the teacher's of the same name; NULL: none */
    double match_weight; /* of the mean of their relative squared errors; 0: 1 */
    const nw_quantize_options
        *quantize;          /* quantization-aware training: the model is quantized so first, and trained as
                                            it will run; scales are learned. NULL: trained as it is */
    nw_data *calibration;   /* what that measures activations on: a hundred samples, not shuffled */
    const char *qat_stages; /* more bits in the first epochs: "float:2,8:3"; NULL: none (docs/training.md) */
    double scale_rate;      /* times the learning rate is that of scales; 0: 1; below 0: scales stay */
    size_t freeze_scales;   /* in the last so many epochs scales stay */
    const char
        *prune; /* weights become zero while training: a share ("0.8") or a pattern ("2:4"); "zeros": those
                              that are zero stay so; NULL: none */
    size_t prune_epochs;      /* over which they do; 0: half of all */
    const char *output;       /* whose class scores are trained; NULL: the first that looks like them */
    const char *log;          /* JSON lines are written here (docs/json.md) */
    size_t log_every;         /* a line per so many steps; 0: 50 */
    const char *tensorboard;  /* event files for TensorBoard are written to this folder */
    const char *checkpoint;   /* the state of training is kept here: at every epoch … */
    size_t checkpoint_every;  /* … and after so many steps; 0: at epochs only */
    int resume;               /* goes on from the checkpoint, bit by bit, when there is one */
    nw_training_fn *progress; /* called after every step */
    void *progress_user;
} nw_training_options;

/* Trains all floating-point weights, biases and normalizations of a model; quantized weights are trained as
 * floats that are rounded in every step (straight-through gradients), and are quantized again at the end.
 * data: with `shuffle`. test: measured after every epoch; may be NULL. *trained is the model as a file would
 * hold it; report NULL: not wanted. */
NW_API nw_result nw_model_train(const nw_model *model, nw_data *data, nw_data *test,
                                const nw_training_options *options, nw_model **trained, nw_report **report);

/* Patterns are those of quantization. */
typedef struct nw_prune_settings {
    const char
        *weights;    /* that become zero: a share of all ("0.8"), or how many of how many neighbours along the
                            inputs of a layer stay ("2:4"); NULL: none */
    int per_layer;   /* the share holds in every layer; else the smallest weights of all layers go */
    double channels; /* share of each layer's output channels that leaves the graph; 0: none */
    const char *norm; /* of a channel's weights, "l2": the weakest channels go */
    size_t exclude_count, only_count;
    const char *const *exclude; /* patterns of layers that stay as they are */
    const char *const *only;    /* patterns: no other layer is pruned */
    const char *save_as;        /* the model is written here too */
} nw_prune_settings;

/* Takes weights or channels out of a float model; `model` stays as it is. Needs no data. *pruned is the model as a file
 * would hold it; report NULL: not wanted; it says per layer what went, and what was left and why. Deterministic. */
NW_API nw_result nw_model_prune(const nw_model *model, const nw_prune_settings *settings, nw_model **pruned,
                                nw_report **report);

typedef struct nw_dequantize_options {
    int keep_rounding;   /* activations stay restricted to their grids; only the weights become float */
    const char *save_as; /* the model is written here too */
} nw_dequantize_options;

/* A quantized model, of narrow's or another tool's making, back in float: constants become the numbers that their codes
 * mean, activations are no longer rounded. `model` stays as it is; options NULL: defaults; report NULL: not wanted. */
NW_API nw_result nw_model_dequantize(const nw_model *model, const nw_dequantize_options *options,
                                     nw_model **real, nw_report **report);

/* ---- measurements ------------------------------------------------------------------------------------ */

typedef struct nw_measure_options {
    size_t batch;        /* samples per run when accuracy is measured; 0: chosen. Latency is of one sample */
    const char *output;  /* the output that is judged; NULL: the first one that looks like class scores, else
                            the first */
    size_t warmup, runs; /* of the latency measurement; runs 0: chosen from the time one takes */
    int no_latency;      /* latency and speedup are left out */
    int profile;         /* nw_benchmark: the time of every step of the plan too */
} nw_measure_options;

typedef struct nw_summary_options {
    int statistics; /* of every parameter: range, moments, percentiles; what its codes mean; every activation's grid */
    int channels;              /* of every channel too */
    const nw_model *reference; /* what this one was made from: what quantization cost each parameter */
} nw_summary_options;

/* What the model is: inputs, outputs, operators, parameters, quantization. options NULL: defaults. */
NW_API nw_result nw_model_summary(const nw_model *model, const nw_summary_options *options,
                                  nw_report **report);
/* What another runtime (NW_WORDS_TARGET; NULL: any) will make of a model: which nodes it computes on integers, which not,
 * why, and what to change. */
NW_API nw_result nw_model_diagnose(const nw_model *model, const char *target, nw_report **report);
/* Accuracy on labelled data (without labels: none), latency, memory. */
NW_API nw_result nw_evaluate(const nw_model *model, nw_data *data, const nw_measure_options *options,
                             nw_report **report);
/* The same of several models on the same samples, side by side; agreement, SQNR, speedup and compression are
 * against the first, which is usually the float one. */
NW_API nw_result nw_compare(size_t count, const nw_model *const *models, nw_data *data,
                            const nw_measure_options *options, nw_report **report);
/* The model quantized by several recipes ("w8a8,w4,mixed.recipe"; NULL: all presets), none of them written, and all compared as
 * above, a row each. calibration: what recipes with measured activations need; NULL: they are left out, and say so. */
NW_API nw_result nw_tradeoffs(const nw_model *model, nw_data *calibration, nw_data *data, const char *recipes,
                              const nw_measure_options *options, nw_report **report);
/* Error of every layer of `quantized` against the tensor of the same name in `reference`, worst first, and
 * statistics of its parameters. Of the options, batch counts. */
NW_API nw_result nw_compare_layers(const nw_model *reference, const nw_model *quantized, nw_data *data,
                                   const nw_measure_options *options, nw_report **report);
/* Latency and memory alone. inputs [input_count], by name: an array with data NULL gives the shape, filled
 * with random numbers; inputs not named get the model's shape, with `options->batch` (0: 1) where the first
 * dimension is free. */
NW_API nw_result nw_benchmark(size_t count, const nw_model *const *models, size_t input_count,
                              const nw_array *inputs, const nw_measure_options *options, nw_report **report);

/* ---- reports: one set of facts, as text, as JSON, or one by one (docs/json.md) ----------------------- */

NW_API void nw_report_free(nw_report *report);
/* Tables for people; details: the long lists too. NULL when memory runs out. Valid until the next call. */
NW_API const char *nw_report_text(nw_report *report, int details);
/* A JSON object. NULL when memory runs out. Valid until the next call. */
NW_API const char *nw_report_json(nw_report *report);
NW_API nw_result nw_report_save_json(nw_report *report, const char *path); /* whole or not at all */
/* One number by its place in the JSON: "top1", "models.1.sqnr_db". NaN where there is no such number. */
NW_API double nw_report_number(const nw_report *report, const char *path);

#ifdef __cplusplus
}
#endif
#endif
