/* loss.c: losses written with ordinary nodes. */
#include "train/loss.h"

#include "op/op.h"

#include <string.h>

nw_status nw_loss_target(nw_graph *g, const char *name, nw_format format, int rank, const int64_t *dims,
                         int *id) {
    NW_TRY(nw_graph_add_value(g, name, id));
    nw_value *v = &g->values[*id];
    v->format = format;
    v->rank = rank;
    for (int d = 0; d < rank; d++) v->dims[d] = dims[d];
    return nw_graph_add_input(g, *id);
}

/* A node with one output, named "loss/…". */
static nw_status add(nw_graph *g, const char *op, int in_count, const int *in, int *out, nw_node **node) {
    NW_TRY(nw_graph_add_value(g, "loss", out));
    NW_TRY(nw_graph_add_node(g, "", op, "loss", in_count, in, 1, out, node));
    (*node)->op = nw_op_find("", op);
    return NW_OK;
}

static nw_status combine(nw_graph *g, const char *op, int a, int b, int *out) {
    nw_node *node;
    return add(g, op, 2, (int[]){a, b}, out, &node);
}

static nw_status along_classes(nw_graph *g, const char *op, int a, int *out) {
    nw_node *node;
    NW_TRY(add(g, op, 1, &a, out, &node));
    return nw_node_set_int(g, node, "axis", 1);
}

static nw_status reduce(nw_graph *g, const char *op, int a, int *out) {
    nw_node *node;
    NW_TRY(add(g, op, 1, &a, out, &node));
    return nw_node_set_int(g, node, "keepdims", 0);
}

/* a·factor */
static nw_status scale(nw_graph *g, int a, float factor, int *out) {
    int number;
    nw_tensor t = {.format = NW_F32, .data = &factor};
    NW_TRY(nw_graph_add_constant_copy(g, "loss/factor", &t, &number));
    return combine(g, "Mul", a, number, out);
}

nw_status nw_loss_sum(nw_graph *g, int count, const int *terms, const float *weights, int *loss) {
    *loss = NW_ABSENT;
    for (int i = 0; i < count; i++) {
        int term, sum;
        NW_TRY(scale(g, terms[i], weights[i], &term));
        sum = term;
        if (i > 0) NW_TRY(combine(g, "Add", *loss, term, &sum));
        *loss = sum;
    }
    return NW_OK;
}

nw_status nw_loss_cross_entropy(nw_graph *g, int logits, int labels, float smoothing, int *loss) {
    if (!(smoothing >= 0 && smoothing < 1))
        return nw_fail(g->ctx, NW_E_ARGUMENT, "label smoothing must be at least 0 and below 1");
    if (smoothing == 0) return combine(g, "SoftmaxCrossEntropyLoss", logits, labels, loss);
    int log_prob, at_label, everywhere;
    NW_TRY(along_classes(g, "LogSoftmax", logits, &log_prob));
    NW_TRY(combine(g, "NegativeLogLikelihoodLoss", log_prob, labels, &at_label));
    NW_TRY(reduce(g, "ReduceMean", log_prob, &everywhere));
    return nw_loss_sum(g, 2, (int[]){at_label, everywhere}, (float[]){1 - smoothing, -smoothing}, loss);
}

nw_status nw_loss_squares(nw_graph *g, int output, int target, int *loss) {
    int difference, squares;
    NW_TRY(combine(g, "Sub", output, target, &difference));
    NW_TRY(combine(g, "Mul", difference, difference, &squares));
    return reduce(g, "ReduceMean", squares, loss);
}

nw_status nw_loss_relative_squares(nw_graph *g, int output, int target, int *loss) {
    int squares, targets, power, some, size;
    const float tiny = 1e-12f; /* of a target of zeros */
    nw_tensor t = {.format = NW_F32, .data = (void *)(uintptr_t)&tiny};
    NW_TRY(nw_loss_squares(g, output, target, &squares));
    NW_TRY(combine(g, "Mul", target, target, &targets));
    NW_TRY(reduce(g, "ReduceMean", targets, &power));
    NW_TRY(nw_graph_add_constant_copy(g, "loss/tiny", &t, &some));
    NW_TRY(combine(g, "Add", power, some, &size));
    return combine(g, "Div", squares, size, loss);
}

nw_status nw_loss_divergence(nw_graph *g, int student, int teacher, float temperature, int *loss) {
    int s, t, log_q, log_p, p, difference, product, each, mean;
    if (!(temperature > 0)) return nw_fail(g->ctx, NW_E_ARGUMENT, "the temperature must be above 0");
    NW_TRY(scale(g, student, 1 / temperature, &s));
    NW_TRY(scale(g, teacher, 1 / temperature, &t));
    NW_TRY(along_classes(g, "LogSoftmax", s, &log_q));
    NW_TRY(along_classes(g, "LogSoftmax", t, &log_p));
    NW_TRY(along_classes(g, "Softmax", t, &p));
    NW_TRY(combine(g, "Sub", log_p, log_q, &difference));
    NW_TRY(combine(g, "Mul", p, difference, &product));
    nw_node *node;
    NW_TRY(add(g, "ReduceSum", 1, &product, &each, &node));
    NW_TRY(nw_node_set_ints(g, node, "axes", (int64_t[]){1}, 1));
    NW_TRY(nw_node_set_int(g, node, "keepdims", 0));
    NW_TRY(reduce(g, "ReduceMean", each, &mean));
    return scale(g, mean, temperature * temperature, loss);
}
