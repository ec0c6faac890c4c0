/* loss.h: losses, as ordinary nodes at the end of a graph. Each is the mean over the batch.
 * Must not include anything but base/, num/, ir/, op/, run/ and train/. */
#ifndef NW_TRAIN_LOSS_H
#define NW_TRAIN_LOSS_H

#include "ir/graph.h"

/* A graph input of this format and shape, for labels and targets. */
nw_status nw_loss_target(nw_graph *graph, const char *name, nw_format format, int rank, const int64_t *dims,
                         int *id);

/* −Σ_c q_c·log softmax(logits)_c, q = (1 − smoothing) at the label + smoothing/classes everywhere; logits [N,
 * C, …] (with smoothing [N, C]), labels s64 [N, …]. *loss is a scalar value. */
nw_status nw_loss_cross_entropy(nw_graph *graph, int logits, int labels, float smoothing, int *loss);

/* Mean of (output − target)² over all elements. */
nw_status nw_loss_squares(nw_graph *graph, int output, int target, int *loss);
/* The same as a share of the mean of target²: how far tensors of any size are from each other. */
nw_status nw_loss_relative_squares(nw_graph *graph, int output, int target, int *loss);

/* T²·Σ_c p_c·(log p_c − log q_c), p = softmax(teacher/T), q = softmax(student/T), both logits [N, C]: the
 * Kullback-Leibler divergence of distillation (Hinton et al. 2015); T² keeps the gradients' size. */
nw_status nw_loss_divergence(nw_graph *graph, int student, int teacher, float temperature, int *loss);

/* Σ weight[i]·terms[i]: scalars. */
nw_status nw_loss_sum(nw_graph *graph, int count, const int *terms, const float *weights, int *loss);

#endif
