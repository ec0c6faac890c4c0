/* parameters.h: makes a model trainable: what is learned leaves the constants and becomes inputs of the
 * graph, so that its bytes may change from run to run while the plan stays.
 * Must not include anything but base/, num/, ir/, op/, run/ and train/. */
#ifndef NW_TRAIN_PARAMETERS_H
#define NW_TRAIN_PARAMETERS_H

#include "ir/graph.h"

typedef enum nw_parameter_kind {
    NW_PARAMETER_WEIGHT, /* two dimensions or more: weight decay is for these */
    NW_PARAMETER_VECTOR, /* biases, scales and shifts of normalizations, slopes */
    NW_PARAMETER_SCALE   /* scales of FakeQuant: must stay above 0 */
} nw_parameter_kind;

typedef struct nw_parameter {
    nw_parameter_kind kind;
    int value;        /* graph input that holds it */
    const char *name; /* the value's */
    nw_tensor tensor; /* f32, initial numbers; in the arena that was given */
} nw_parameter;

/* A running statistic of a BatchNormalization: output `next` of a run is input `value` of the next one. */
typedef struct nw_train_state {
    int value, next;
    const char *name;
    nw_tensor tensor; /* as in nw_parameter */
} nw_train_state;

typedef struct nw_train_options {
    int64_t batch;          /* for inputs whose first dimension is not fixed */
    bool learn_scales;      /* of FakeQuant nodes that have one (learned step size, attribute lsq) */
    bool freeze_statistics; /* BatchNormalization keeps its running statistics and uses them */
    int64_t seed;           /* of Dropout */
} nw_train_options;

typedef struct nw_train_values {
    nw_parameter *parameters;
    nw_train_state *states;
    size_t parameter_count, state_count;
    int step; /* input s64 [], the number of the run, which Dropout draws from; NW_ABSENT: none is needed */
} nw_train_values;

/* In place. Chosen are unpacked f32 constants that stand where operators have weights and biases: by their
 * roles (Conv, Gemm, MatMul, Gather, LSTM …), the scales and shifts of normalizations, slopes of PRelu, and
 * lists of more than one number in Add and Mul (unless some are as large as in attention masks); also behind
 * FakeQuant, Transpose and Reshape. Running statistics are states. BatchNormalization goes into training mode
 * and Dropout into ai.narrow.Dropout. Lists are in `arena`, in the order of the nodes. The graph must be
 * resolved and sorted. Fails when an input's shape is not known but for its first dimension, or nothing can
 * be trained. */
nw_status nw_train_prepare(nw_graph *graph, const nw_train_options *options, nw_arena *arena,
                           nw_train_values *out);

/* Constants that nodes make (of older exporters) become constants as others are. In place; nodes are sorted. */
nw_status nw_train_take_constants(nw_graph *graph);

#endif
