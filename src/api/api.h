/* api.h: what the public handles are, and what the files of api/ share.
 * Private to api/; the only folder that includes narrow/narrow.h. */
#ifndef NW_API_API_H
#define NW_API_API_H

#include "data/dataset.h"
#include "ir/graph.h"
#include "kern/isa.h"
#include "narrow/narrow.h"
#include "onnx/onnx.h"
#include "report/metrics.h"
#include "run/run.h"

struct nw_env {
    nw_context ctx;
    int threads;
    nw_isa isa;
    nw_progress_fn *progress;
    void *progress_user;
};

/* The graph is what the file says, or would say: quantization spelled as ONNX operators. Whoever runs it
 * prepares a copy. */
struct nw_model {
    nw_env *env;
    nw_arena arena;      /* of path, inputs, outputs */
    const char *path;    /* of the file, or what to call the model */
    uint64_t file_bytes; /* 0: never was a file */
    double load_ms;      /* what reading and checking the file took */
    nw_graph *graph;
    size_t input_count, output_count;
    nw_array *inputs, *outputs;
    struct nw_runner *runner; /* of nw_model_run, made at the first run */
    nw_arena results;         /* of its latest run */
};

struct nw_data {
    nw_env *env;
    nw_dataset *dataset;
    char description[NW_PREPROCESS_TEXT + 512];
};

struct nw_report {
    nw_env *env;
    nw_sheet *sheet;
    char *text, *json; /* the latest, heap */
};

static inline nw_result nw_result_of(nw_status status) {
    return (nw_result)status;
}
/* For arguments that cannot name an environment to leave a message in. */
static inline nw_result nw_misuse(nw_env *env, const char *what) {
    if (!env) return NW_ERROR_ARGUMENT;
    return nw_result_of(nw_fail(&env->ctx, NW_E_ARGUMENT, "%s", what));
}
void nw_env_progress(const nw_env *env, const char *what, size_t done, size_t total);
int nw_env_threads(const nw_env *env); /* that runs use, at least 1 */
/* The place of a word in its list; NULL is the first. Fails, naming `what` it is for, when it is none of them. */
nw_status nw_env_word(nw_env *env, const char *what, const char *word, nw_word_list list, int *index);
void nw_env_write(const nw_env *env, nw_record *record); /* what times depend on: threads, instruction set */

/* An empty report with the fields that all have: command, version. */
nw_status nw_report_new(nw_env *env, const char *command, nw_report **out);
/* Hands a finished report over, or frees it when `status` or the report itself says that something failed. */
nw_result nw_report_finish(nw_report *report, nw_status status, nw_report **out);

/* A model around a graph, which it takes over (also on failure). path: a name for messages and reports. */
nw_status nw_model_of_graph(nw_env *env, nw_graph *graph, const char *path, nw_model **out);
/* A graph made from `model`, its quantization spelled in ONNX's operators (opset 0: as late as the codes need) and, save_as
 * not NULL, written to a file. The graph is taken over (also on failure). */
nw_status nw_model_written(const nw_model *model, nw_graph *graph, nw_quant_style style, int64_t opset,
                           const char *save_as, nw_model **out);
/* A copy of the model's graph, resolved, quantization folded. */
nw_status nw_model_fold(const nw_model *model, nw_context *ctx, nw_graph **out);
/* The same, simplified: ready for a session. Unknown operators: all named. */
nw_status nw_model_prepare(const nw_model *model, nw_context *ctx, nw_graph **out);
/* What quantization options say, recipe included; rules in `arena`. Those about files do not count, nor `measure`. */
struct nw_quant_options;
nw_status nw_quantize_read(nw_env *env, const nw_quantize_options *options, nw_arena *arena,
                           struct nw_quant_options *out);
/* What is to be done behind nw_quantize_graph: inputs that nobody reads any more go, the recipe is noted. */
nw_status nw_graph_finish_quantized(nw_graph *graph, const struct nw_quant_options *recipe);
/* Adds statistics and mapping of every parameter to a report (docs/json.md, `info`): of every channel too; SQNR where
 * `reference` (or NULL) has the numbers that it was made from. */
nw_status nw_write_parameters(const nw_model *model, const nw_model *reference, bool channels,
                              nw_record *root);
/* The node of `graph` that stands for `node` of another graph: of the same operator and name. Integer operators (QLinearConv
 * and its like) are called like the operator they stand for, with "_quant" behind, in either graph. NULL: none. */
const nw_node *nw_graph_namesake(const nw_graph *graph, const nw_node *node);
/* Bytes of the constants in the graph's outermost level as they are stored. */
uint64_t nw_model_constant_bytes(const nw_model *model);

/* A model made ready to run, with memory of its own that is counted. */
typedef struct nw_meter {
    nw_allocator base;
    size_t now, peak; /* bytes held; changed atomically */
} nw_meter;

typedef struct nw_runner {
    const nw_model *model;
    nw_meter meter;
    nw_context ctx; /* over the meter */
    nw_session *session;
    size_t loaded; /* bytes of the model's constants, which belong to the model */
} nw_runner;

nw_status nw_runner_new(const nw_model *model, nw_runner **out);
void nw_runner_free(nw_runner *runner); /* NULL is fine */
/* nw_session_run with the message in the environment. `arena` is over &runner->ctx where its bytes are to be
 * counted. */
nw_status nw_runner_run(nw_runner *runner, size_t count, const nw_feed *feeds, nw_arena *arena,
                        nw_tensor *outputs);
/* The most bytes held at once so far: loaded constants, and everything allocated to prepare and to run. */
size_t nw_runner_peak(const nw_runner *runner);
/* Copies a failure from a context of its own into the environment's; returns status. */
nw_status nw_env_take(nw_env *env, const nw_context *from, nw_status status);

/* How the inputs of a data set become those of a model. */
typedef struct nw_feeder {
    const nw_model *model;
    size_t *source; /* [model->input_count] input of the data set; heap */
    size_t batch;   /* samples the model takes per run; 0: any number */
} nw_feeder;

/* Fails with both shapes in words when they do not fit. */
nw_status nw_feeder_init(nw_feeder *feeder, const nw_model *model, const nw_data *data);
void nw_feeder_free(nw_feeder *feeder); /* a zeroed one is fine */
/* feeds[model->input_count], memory from `arena` where elements are converted or (a model of fixed batch)
 * repeated to fill it up. */
nw_status nw_feeder_feed(const nw_feeder *feeder, const nw_batch *batch, nw_arena *arena, nw_feed *feeds);
/* Inputs of a run without data: feeds[model->input_count]. inputs [count], by name, give shapes and perhaps data; the others
 * get the model's shape, with `batch` (0: 1) where the first dimension is free. Without data: the same random numbers
 * everywhere, in `arena`. */
nw_status nw_feeds_made_up(const nw_model *model, size_t count, const nw_array *inputs, size_t batch,
                           nw_arena *arena, nw_feed *feeds);
/* Samples per run: the model's own number, else `wanted`, else as many as make about 2 MB, at most 32. */
size_t nw_feeder_batch(const nw_feeder *feeder, const nw_data *data, size_t wanted);

#endif
