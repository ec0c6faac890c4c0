/* trainer.h: one model while it is trained: its parameters, what the optimizer remembers, the joined graph of
 * loss and gradients, and one step. Epochs, data and files are its caller's.
 * Must not include anything but base/, num/, ir/, op/, run/ and train/. */
#ifndef NW_TRAIN_TRAINER_H
#define NW_TRAIN_TRAINER_H

#include "run/run.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/prune.h"

typedef struct nw_trainer_options {
    int64_t batch;      /* samples per step; of a model with a fixed batch size that */
    uint64_t seed;      /* of Dropout */
    const char *output; /* whose class scores are trained; NULL: the first that has the shape of scores */
    bool squares; /* `output` is to be as targets, numbers of its shape: the loss is the mean squared error */
    nw_run_options run;
    nw_optimizer optimizer;
    nw_schedule schedule;
    double clip;          /* the largest norm of all gradients together; 0: any */
    float label_weight;   /* of the cross-entropy with the labels; 0: labels are not used */
    float smoothing;      /* of the labels */
    float teacher_weight; /* of the divergence from the teacher's scores; 0: there is no teacher */
    float temperature;
    size_t match_count; /* values, by name, that are to be as the teacher's */
    const char *const *matches;
    float match_weight; /* of the mean of their relative squared errors */

    /* Quantization-aware training of a graph that was quantized already: */
    const nw_graph *real; /* that it was made from: packed weights start with its numbers; or NULL */
    bool learn_scales;    /* of weights and activations; biases become float then: their scales follow */
    double scale_rate;    /* times the learning rate is that of scales; 0: they stay */
    int64_t scale_steps;  /* scales move in so many steps only; 0: in all */

    bool hold_zeros;        /* what is zero in layers' weights stays so, */
    nw_prune_options prune; /* and more of them become zero (sparsity or pattern) … */
    int64_t prune_steps;    /* … over the first so many steps */
} nw_trainer_options;

typedef struct nw_trainer nw_trainer;

typedef struct nw_trainer_result {
    double loss, rate, norm; /* norm: of the gradients, before clipping */
    nw_tensor logits;        /* f32 [batch, classes] (with `squares` the output), until the next step */
} nw_trainer_result;

/* `graph` is resolved, its quantization folded (onnx/onnx.h); it is copied. Fails when no output has class
 * scores [N, classes] or [N, classes, 1, 1], or something in the model cannot be trained. */
nw_status nw_trainer_new(nw_context *ctx, const nw_graph *graph, const nw_trainer_options *options,
                         nw_trainer **out);
void nw_trainer_free(nw_trainer *trainer); /* NULL is fine */

int64_t nw_trainer_classes(const nw_trainer *trainer);
size_t nw_trainer_parameter_count(const nw_trainer *trainer); /* numbers that are learned */
int64_t nw_trainer_steps(const nw_trainer *trainer);          /* made so far, over all runs */
/* The share of zeros among the weights that are pruned; NaN without pruning. */
double nw_trainer_sparsity(const nw_trainer *trainer);

/* Forward, backward, and one step of the optimizer. feeds: the model's inputs; where the options ask for them labels [batch],
 * and tensors to learn from, f32, in this order: with a teacher's weight its scores [batch, classes]; the values to match; with
 * `squares` the targets. Fails, and changes nothing, when the loss or a gradient is no finite number. */
nw_status nw_trainer_step(nw_trainer *trainer, size_t feed_count, const nw_feed *feeds, const int64_t *labels,
                          const nw_tensor *taught, nw_trainer_result *out);

/* The graph that was given with what was learned so far: the caller's. */
nw_status nw_trainer_graph(const nw_trainer *trainer, nw_graph **out);

/* What was learned but scales, as floats, by the names that the constants have in the graph that was given. */
const nw_checkpoint_array *nw_trainer_reals(const nw_trainer *trainer, size_t *count);
/* Goes on behind another training with the same optimizer, which remembers what it did of parameters of the same names. */
void nw_trainer_inherit(nw_trainer *trainer, const nw_trainer *before);

/* All that steps change but their number: parameters, running statistics, what the optimizer remembers. */
const nw_checkpoint_array *nw_trainer_arrays(const nw_trainer *trainer, size_t *count);
void nw_trainer_set_steps(nw_trainer *trainer, int64_t steps); /* after the arrays were read back */

/* The value that class scores are read from when they are trained: the output `name` (NULL: the first of rank
 * 2, or 4 with a single pixel, that has floating-point elements) or, when a Softmax makes it, what that reads.
 * desc [value_count] says the shapes of values. Fails in words. */
nw_status nw_find_logits(const nw_graph *graph, const nw_tensor *desc, const char *name, int *logits);

#endif
