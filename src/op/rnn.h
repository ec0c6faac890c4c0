/* rnn.h: LSTM, GRU and RNN step by step: what their evaluation and their gradient share. Single precision.
 * Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_RNN_H
#define NW_OP_RNN_H

#include "op/op.h"

typedef enum nw_act_kind {
    NW_ACT_SIGMOID,
    NW_ACT_TANH,
    NW_ACT_RELU,
    NW_ACT_AFFINE,
    NW_ACT_LEAKY_RELU,
    NW_ACT_THRESHOLDED_RELU,
    NW_ACT_SCALED_TANH,
    NW_ACT_HARD_SIGMOID,
    NW_ACT_ELU,
    NW_ACT_SOFTSIGN,
    NW_ACT_SOFTPLUS
} nw_act_kind;

typedef struct nw_act {
    nw_act_kind kind;
    float alpha, beta;
} nw_act;

typedef enum nw_cell { NW_CELL_RNN, NW_CELL_GRU, NW_CELL_LSTM } nw_cell;

/* Gates per kind, and their order in W and R: RNN i; GRU z r h; LSTM i o f c. */
static const int nw_gate_count[] = {1, 3, 4};

typedef struct nw_recurrent {
    nw_cell kind;
    int64_t steps, batch, input, hidden, directions;
    bool reverse, batch_first; /* direction = reverse; layout = 1 */
    bool linear_before_reset, couple_forget;
    float clip; /* 0: none */
    nw_act acts[6];
    nw_qparam
        state; /* format, qmin, qmax of what is multiplied with R (NW_STATE_FORMAT); NW_NONE: real numbers */
} nw_recurrent;

/* Inputs as f32 (NULL when absent), outputs (NULL when not wanted) and buffers; G = gates·hidden. */
typedef struct nw_recurrent_work {
    const float *x, *w, *r, *b, *h0, *c0, *p;
    float *y, *y_h, *y_c;
    const int64_t *lengths; /* [batch] steps that count; after them a sample's state stays and its Y is 0 */
    float *xw;              /* x·Wᵀ + biases, [steps·batch, G] in the order of X's rows */
    float *gates;           /* [batch, G] of the current step; activated after it where t < length */
    float *reset;           /* [batch, hidden] of GRU: r ⊙ h, or h·Rhᵀ + Rbh */
    float *h, *c;           /* [batch, hidden] */
    float *operand;         /* [batch, hidden] a state on its grid */
} nw_recurrent_work;

/* What a node with the inputs of LSTM, GRU or RNN says; checks all of its shapes. */
nw_status nw_recurrent_of(const nw_op_call *call, nw_cell kind, nw_recurrent *r);
/* Its inputs and buffers, in scratch; no outputs. */
nw_status nw_recurrent_load(const nw_op_call *call, const nw_recurrent *r, nw_recurrent_work *w);
/* Direction d from the start: products with W, initial states. Then its steps t = 0, 1, …, one after the
 * other. */
void nw_recurrent_begin(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d);
void nw_recurrent_step(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t t);
/* The activation functions of direction d: f, g, h as the operator's page calls them. */
const nw_act *nw_recurrent_acts(const nw_recurrent *r, int64_t d);

/* Rows of sample s at step t of direction d: in X, in Y; and in initial and final states. */
int64_t nw_recurrent_x_row(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t s,
                           int64_t t);
int64_t nw_recurrent_y_row(const nw_recurrent *r, const nw_recurrent_work *w, int64_t d, int64_t s,
                           int64_t t);
int64_t nw_recurrent_state_row(const nw_recurrent *r, int64_t d, int64_t s);

#endif
