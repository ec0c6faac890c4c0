/* quant.h: post-training quantization: decides where quantizers go (place.h), watches the float model on data
 * (observe.h), sets scales and stores weights packed. Graph in, graph out; spelling the result as ONNX is
 * onnx/'s business.
 * Must not include anything but base/, num/, kern/, ir/, op/, run/, data/ and quant/. */
#ifndef NW_QUANT_QUANT_H
#define NW_QUANT_QUANT_H

#include "data/dataset.h"
#include "ir/graph.h"
#include "kern/isa.h"
#include "quant/choice.h"
#include "run/run.h"

typedef void nw_quant_progress_fn(void *user, size_t done, size_t total); /* samples */

/* All zero is not a default: start from nw_quant_options_default(). */
typedef struct nw_quant_options {
    nw_quant_choice choice; /* of layers about which no rule says otherwise */
    size_t rule_count;      /* in order: later rules win */
    const nw_quant_rule *rules;
    bool
        weights_at_most; /* whatever the mode, activations stay float: of subgraphs, whose values cannot be watched */

    bool bias_correction;  /* default true; STATIC with integer biases: moves each bias by the mean error that
                              its layer's quantized weights make */
    nw_choice elementwise; /* layers without weights (Add, Mul, Concat, pools, …). AUTO: where every operand
                              comes from an integer layer anyway; NO: never; YES: always */
    nw_choice products;    /* MatMul of two activations (attention). AUTO: YES */
    nw_choice embeddings;  /* tables read by Gather, stored packed. AUTO: YES */
    nw_choice recurrent;   /* weights of LSTM, GRU, RNN, stored packed. AUTO: YES */
    nw_choice inputs; /* the model's own inputs. AUTO: those that a grid resolves as well as it would a normal
                         distribution (40 dB), feature by feature before recurrent layers: pixels do, spectra
                         rarely. Layers that read the others compute in float, their weights packed. DYNAMIC:
                         recurrent layers read all of them so unless YES */
    bool quantize_outputs; /* the graph's own outputs too */
    bool known_ranges; /* Softmax, Sigmoid, Tanh … cover their mathematical range instead of what was seen */

    /* The inputs of one run: the model is timed with them, float and quantized, and layers that integers would slow down
     * on this machine stay float (measure.h). None: nothing is timed. Not where only weights are quantized. */
    size_t timed_count;
    const nw_feed *timed;
    size_t slow_count; /* what that came to: those layers, by the whole name of their first output */
    const char *const *slow;

    size_t batch; /* samples per run in calibration; 0: chosen so that memory stays small */
    int threads;  /* 0: one per core */
    nw_isa isa;
    nw_quant_progress_fn *progress; /* or NULL */
    void *progress_user;
} nw_quant_options;

nw_quant_options nw_quant_options_default(void);
nw_status nw_quant_options_check(nw_context *ctx, const nw_quant_options *options);

/* ---- what was done: plain records for report/ ------------------------------------------------- */

/* An activation that got a FakeQuant of its own scale, or (tied) that of the value it is a copy of. */
typedef struct nw_quant_activation {
    const char *value, *producer; /* names; producer "" for a graph input */
    bool tied;
    nw_format format;
    float lo, hi; /* range covered */
    float scale;
    int32_t zero;
    const char *observer; /* name, or "known range" */
    /* seen in calibration (zero when tied): */
    uint64_t count, rejected;
    float min, max;
    double mean, sigma;
    double sqnr;      /* signal to noise of the value on its grid, dB */
    double saturated; /* share of values outside the range; −1 when the observer keeps no histogram */
} nw_quant_activation;

typedef struct nw_quant_weight {
    const char *value;
    nw_format format;
    nw_grain grain;
    int axis;
    size_t groups;
    int rank;
    int64_t dims[NW_MAX_RANK];
    size_t bytes_before, bytes_after; /* scales and zero points included */
    double min, max, mean, sigma;
    double saturated; /* share of elements clipped (rounding at the edge is no clipping) */
    double sqnr;      /* 10·log10(Σw²/Σ(w−w')²) dB; INFINITY when exact */
    float scale_min, scale_max;
} nw_quant_weight;

typedef struct nw_quant_layer {
    const char *name, *op;
    bool quantized;     /* runs on integers */
    const char *reason; /* why it stays in float, or partly; "" otherwise */
    int input, output;  /* activations[] of its data input and of its output; −1: float */
    int weight;         /* weights[] of its weight; −1: none */
    bool bias;          /* stored as integers */
} nw_quant_layer;

/* Layers that one step computes, float or quantized, are timed together. */
typedef struct nw_quant_timing {
    int node;                    /* the first of them, in the graph before quantization */
    const char *name, *op;       /* of it */
    size_t layers;               /* of those that integers were meant for */
    double float_ms, integer_ms; /* with the conversions around them; all else quantized */
    bool left;                   /* in float */
} nw_quant_timing;

typedef struct nw_quant_report {
    nw_arena arena;
    size_t layer_count, activation_count, weight_count, timing_count;
    nw_quant_layer *layers; /* every node that could have been quantized, in graph order */
    nw_quant_activation *activations;
    nw_quant_weight *weights;
    nw_quant_timing *timings; /* where layers were timed, in graph order */
    /* A run of the model: in float, quantized as far as it goes, as it is now; 0: not timed. */
    double float_ms, all_integer_ms, ms;
    size_t samples; /* calibration samples used */
    size_t batch;   /* of them per run */
} nw_quant_report;

/* Stores the float biases of layers with static inputs and packed weights as s32 at s_x·s_w, in place: what nw_quantize_graph
 * does, for scales that were learned since. Biases that several layers read stay float. */
nw_status nw_quant_pack_biases(nw_graph *graph);

/* The way back, in place: packed constants become f32; FakeQuants of activations go, and with them the restriction of
 * recurrent states, unless keep_rounding. Counts both. The graph is resolved. */
nw_status nw_dequantize_graph(nw_graph *graph, bool keep_rounding, size_t *weights, size_t *roundings);

void nw_quant_report_free(nw_quant_report *report); /* NULL is fine */

/* Quantizes `graph` in place. It is resolved and simplified (run/simplify.h). dataset: read from where it
 * stands to its end; needed by static layers unless every range is given or known, otherwise NULL is fine.
 * report NULL: not wanted. Deterministic: the same model, data and options give the same bytes. After a
 * failure the graph may be changed in part: free it. */
nw_status nw_quantize_graph(nw_context *ctx, nw_graph *graph, nw_dataset *dataset,
                            const nw_quant_options *options, nw_quant_report **report);

#endif
