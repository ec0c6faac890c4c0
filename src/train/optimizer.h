/* optimizer.h: how parameters move along their gradients: optimizers over plain arrays, learning rates over
 * time, clipping. No state is hidden: what an optimizer remembers is an array of the caller's, so that a
 * checkpoint can hold it.
 * Must not include anything but base/ and train/. */
#ifndef NW_TRAIN_OPTIMIZER_H
#define NW_TRAIN_OPTIMIZER_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum nw_optimizer_kind { NW_OPTIMIZER_SGD, NW_OPTIMIZER_ADAM, NW_OPTIMIZER_ADAMW } nw_optimizer_kind;

typedef struct nw_optimizer {
    nw_optimizer_kind kind;
    float momentum;              /* SGD; 0: none */
    bool nesterov;               /* SGD */
    float beta1, beta2, epsilon; /* Adam, AdamW */
    float weight_decay; /* ADAMW: p shrinks by rate·weight_decay; else it adds weight_decay·p to g */
} nw_optimizer;

nw_optimizer nw_optimizer_default(nw_optimizer_kind kind);

/* Floats that it remembers per number of a parameter: 0, 1 (SGD with momentum) or 2; zero before the first
 * step. */
size_t nw_optimizer_slots(const nw_optimizer *optimizer);

/* One step over n numbers p with gradient g: slot j of what it remembers is state[j·stride + i], so that a part of a
 * parameter can be moved alone; rate the learning rate, step counted from 1.
 * decay false leaves the weight decay out (biases, normalizations). With g' = g + weight_decay·p (AdamW: g):
 *   SGD: v = momentum·v + g'; p −= rate·v, Nesterov p −= rate·(g' + momentum·v)
 *   Adam: m = β1·m + (1 − β1)·g', v = β2·v + (1 − β2)·g'²;
 *         p −= rate·(m/(1 − β1^step))/(√(v/(1 − β2^step)) + ε) */
void nw_optimizer_step(const nw_optimizer *optimizer, double rate, int64_t step, bool decay, size_t n,
                       float *p, const float *g, float *state, size_t stride);

typedef enum nw_schedule_kind { NW_SCHEDULE_CONSTANT, NW_SCHEDULE_STEP, NW_SCHEDULE_COSINE } nw_schedule_kind;

/* After `warmup` steps in which the rate grows linearly to `rate`: STEP multiplies by `factor` every `every`
 * steps, COSINE falls to `last` at step `total`. */
typedef struct nw_schedule {
    nw_schedule_kind kind;
    double rate, factor, last;
    int64_t warmup, every, total;
} nw_schedule;

/* The rate of step 1, 2, … */
double nw_schedule_rate(const nw_schedule *schedule, int64_t step);

/* √Σ g² over `count` arrays of n[i] numbers, in double: eight interleaved sums per array. */
double nw_gradient_norm(size_t count, const size_t *n, const float *const *g);
/* Scales the arrays so that their norm is at most `most`; returns the norm before. A norm that is no number
 * changes nothing: the caller looks at it. */
double nw_gradient_clip(double most, size_t count, const size_t *n, float *const *g);

#endif
