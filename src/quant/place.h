/* place.h: where quantizers go. A plan only: the graph stays as it is until nw_quant_freeze; calibration runs
 * the float graph and watches the plan's roots, and training starts from the same plan.
 * Must not include anything but base/, num/, ir/, op/ and quant/. */
#ifndef NW_QUANT_PLACE_H
#define NW_QUANT_PLACE_H

#include "op/op.h"
#include "quant/quant.h"

typedef enum nw_node_mode {
    NW_NODE_FLOAT,   /* as it is */
    NW_NODE_WEIGHTS, /* its constant weights are packed, nothing else */
    NW_NODE_INTEGER, /* data inputs restricted to grids, weights and bias packed */
    NW_NODE_SAME     /* moves elements: its output is on its input's grid (MaxPool, Reshape, Transpose) */
} nw_node_mode;

/* A value that gets a FakeQuant behind it. */
typedef struct nw_quant_point {
    int value;
    int root;        /* the value whose range decides the scale: itself, or the one it shares a grid with */
    bool everywhere; /* all its readers read it restricted (the layer before it makes integers); else only
                        integer and grid-keeping layers do, and float layers read what was computed */
    const nw_quant_choice
        *choice; /* of the layer that decides the grid; the same for all that share a root */
    /* found while running: weights of a softmax have a scale per row, as each row has a largest of its own; other operands of
     * products of two activations, and what other layers than MatMul and Gemm read, have one scale, per-row mode or not */
    bool per_row, one_scale;
    bool known; /* range [lo, hi] follows from its operator (Softmax) */
    float lo, hi;
    /* set by calibration, at roots: */
    nw_format format;
    int32_t qmin, qmax, zero;
    float scale;
    /* of bias correction: mean of each channel over the calibration data, or NULL */
    int channel_axis;      /* 1 before convolutions, −1 (the last) before matrix products */
    size_t channels, rows; /* rows: values per channel so far */
    double *means;         /* [channels] in the plan's arena */
    bool features;   /* a model input that a recurrent layer reads: channels are the features of a sequence */
    double *squares; /* [channels] Σ x² of features, or NULL */
} nw_quant_point;

typedef struct nw_quant_plan {
    nw_arena arena;
    const nw_graph *graph;
    nw_quant_options options;
    int node_count, value_count, point_count;
    nw_quant_choice *choice; /* [node_count] */
    nw_node_mode *mode;      /* [node_count] */
    const bool
        *raw; /* [value_count] stays as it is in static layers: an input of the model, or a copy of one */
    const char **reason; /* [node_count] why a layer stays in float; NULL: it does not, or is no layer */
    int *point_of;       /* [value_count] index into points, or −1 */
    nw_quant_point *points;
    nw_uses uses; /* of the graph */
} nw_quant_plan;

/* Rules, in this order:
 *   1. A layer with constant weights becomes integer, LSTM and GRU among them; so does a product of two
 *      activations (option `products`; in dynamic quantization those of attention, others only when that is YES or a rule says
 *      so).
 *   2. A layer without weights becomes integer where all its operands come from integer layers (option
 *      `elementwise`): residual sums of convolutions do, those of transformers stay float.
 *   3. Every data input of an integer layer gets a point, and so does its output. A Relu or Clip that alone
 *      reads the output is part of the layer. Graph outputs get none unless asked for. The output of a matrix
 *      product gets one only for the sake of its readers: integer products with float results exist everywhere.
 *   4. Layers that move elements pass their input's grid on; values that only feed a Concat share its output's.
 *   5. What a value's grid is, its readers say: a measured one where any of them is static, else one found while running;
 *      the format of the most bits, and the observer that comes with it. Without integer readers its maker says it.
 *   6. Binary activations are for layers with constant weights that multiply: these give real numbers, and only they read
 *      their inputs restricted, which share a grid with nothing.
 * raw [value_count] or NULL: inputs of the model that stay as they are; layers that read them, moved or clamped
 * or not, only get their weights packed. With option `inputs` NO that is all of them, and for dynamic recurrent
 * layers unless it is YES: their inputs are features of different size, which one measured grid resolves badly.
 * The graph is resolved and topologically sorted, and must not change while the plan lives. */
nw_status nw_quant_place(nw_context *ctx, const nw_graph *graph, const nw_quant_options *options,
                         const bool *raw, nw_quant_plan **out);
void nw_quant_plan_free(nw_quant_plan *plan); /* NULL is fine */

/* An integer layer whose scales are measured beforehand: it may give integers too. */
static inline bool nw_quant_is_static(const nw_quant_plan *plan, int n) {
    return plan->mode[n] == NW_NODE_INTEGER && plan->choice[n].mode == NW_QUANT_STATIC;
}
/* Whether some activation's range is to be measured, or given. */
bool nw_quant_measures(const nw_quant_plan *plan);

/* The point at the end of a point's chain of roots. */
nw_quant_point *nw_quant_root(const nw_quant_plan *plan, const nw_quant_point *point);
static inline nw_quant_point *nw_quant_point_of(const nw_quant_plan *plan, int value) {
    return value < 0 || value >= plan->value_count || plan->point_of[value] < 0
               ? NULL
               : &plan->points[plan->point_of[value]];
}

/* The first input of a role, or NW_ABSENT. */
int nw_quant_input_of(const nw_node *node, nw_role role);

/* A recurrent layer with an integer form: where activations are quantized its state is too, while running. */
bool nw_quant_has_state(const nw_node *node);
/* The first that is there (recurrent layers may lack some), or NW_ABSENT. */
int nw_quant_first_output(const nw_node *node);
/* A constant of real numbers that may be packed (nw_tensor_is_real). */
bool nw_quant_is_weight(const nw_graph *graph, int value);

#endif
