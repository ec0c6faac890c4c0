/* loss.c: NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, in double. */
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>

enum { MEAN, SUM, NONE };

/* scores [N, C, D…] as [batch][classes][inner], labels [N, D…], weights [C]?. */
typedef struct loss {
    int64_t batch, classes, inner;
    int reduction;
    bool ignores;
    int64_t ignored; /* label of samples that do not count */
} loss;

static nw_status loss_of(const nw_op_call *call, loss *l) {
    static const char *const reductions[] = {"mean", "sum", "none", NULL};
    const nw_tensor *x, *labels;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require(call, 1, &labels));
    NW_TRY(nw_call_expect_rank(call, x, "the scores", 2, NW_MAX_RANK));
    if (!nw_format_is_integer(labels->format))
        return nw_call_fail(call, NW_E_TYPE, "the labels must be integers");
    bool fits = labels->rank == x->rank - 1 && labels->dims[0] == x->dims[0];
    for (int d = 1; d < labels->rank && fits; d++) fits = labels->dims[d] == x->dims[d + 1];
    if (!fits)
        return nw_call_fail(call, NW_E_SHAPE,
                            "the labels must have the scores' shape without the class axis");
    NW_TRY(nw_call_expect_shape(call, 2, "the weights", false, 1, &x->dims[1]));
    *l = (loss){.batch = x->dims[0],
                .classes = x->dims[1],
                .inner = (int64_t)nw_dims_product(x->dims, 2, x->rank),
                .ignores = nw_node_attr(call->node, "ignore_index") != NULL,
                .ignored = nw_node_int(call->node, "ignore_index", 0)};
    return nw_call_word_attr(call, "reduction", reductions, &l->reduction);
}

static nw_status loss_infer(nw_op_call *call) {
    loss l;
    NW_TRY(loss_of(call, &l));
    const nw_tensor *x = call->in[0], *labels = call->in[1];
    nw_format format = nw_real_format(x);
    return nw_call_set(call, 0, format, l.reduction == NONE ? labels->rank : 0, labels->dims);
}

/* out = reduction of −log_prob[label]·weight[label]; the mean divides by the sum of the weights that were
 * used. */
static nw_status reduce(nw_op_call *call, const loss *l, const double *log_prob) {
    const nw_tensor *labels = call->in[1], *weights = nw_call_in(call, 2);
    nw_tensor *out = &call->out[0];
    double sum = 0, weight_sum = 0;
    for (int64_t i = 0; i < l->batch * l->inner; i++) {
        int64_t label = nw_tensor_s64(labels, (size_t)i);
        double value = 0;
        if (!l->ignores || label != l->ignored) {
            if (label < 0 || label >= l->classes)
                return nw_call_fail(call, NW_E_SHAPE,
                                    "label %" PRId64 " is outside of the %" PRId64 " classes", label,
                                    l->classes);
            double weight = weights ? nw_tensor_f64(weights, (size_t)label) : 1;
            value = -weight * log_prob[(i / l->inner * l->classes + label) * l->inner + i % l->inner];
            weight_sum += weight;
        }
        sum += value;
        if (l->reduction == NONE) nw_store_f64(out->format, out->data, (size_t)i, value);
    }
    if (l->reduction != NONE)
        nw_store_f64(out->format, out->data, 0, l->reduction == SUM ? sum : sum / weight_sum);
    return NW_OK;
}

static nw_status nll_eval(nw_op_call *call) {
    loss l;
    const double *log_prob;
    NW_TRY(loss_of(call, &l));
    NW_TRY(nw_call_f64(call, 0, &log_prob));
    return reduce(call, &l, log_prob);
}

/* CrossEntropyGrad: inputs: scores, labels, weights?, dloss; attributes: reduction, ignore_index, and logits:
 * the scores go through log softmax first; output: dscores. With w the weight of a sample's label (over Σ w
 * for the mean), dl its dloss: dscores = −dl·w at the label and 0 elsewhere, or with logits
 * dl·w·(softmax(scores) − one at the label). */

static nw_status loss_grad_infer(nw_op_call *call) {
    loss l;
    NW_TRY(loss_of(call, &l));
    const nw_tensor *labels = call->in[1];
    NW_TRY(nw_call_expect_shape(call, 3, "the gradient", true, l.reduction == NONE ? labels->rank : 0,
                                labels->dims));
    return nw_call_set_like(call, 0, call->in[0]);
}

/* Weight of sample i, 0 when it is ignored. */
static nw_status weight_of(const nw_op_call *call, const loss *l, size_t i, double *weight) {
    int64_t label = nw_tensor_s64(call->in[1], i);
    const nw_tensor *weights = nw_call_in(call, 2);
    *weight = 0;
    if (l->ignores && label == l->ignored) return NW_OK;
    if (label < 0 || label >= l->classes)
        return nw_call_fail(call, NW_E_SHAPE, "label %" PRId64 " is outside of the %" PRId64 " classes",
                            label, l->classes);
    *weight = weights ? nw_tensor_f64(weights, (size_t)label) : 1;
    return NW_OK;
}

static nw_status loss_grad_eval(nw_op_call *call) {
    loss l;
    const double *x;
    double *dx, *weight, sum = 0;
    NW_TRY(loss_of(call, &l));
    NW_TRY(nw_call_f64(call, 0, &x));
    size_t count = nw_tensor_count(call->in[0]), samples = (size_t)(l.batch * l.inner);
    bool logits = nw_node_int(call->node, "logits", 0) != 0;
    NW_TRY(nw_call_scratch(call, count, &dx));
    NW_TRY(nw_call_scratch(call, samples, &weight));
    for (size_t i = 0; i < samples; i++) {
        NW_TRY(weight_of(call, &l, i, &weight[i]));
        sum += weight[i];
    }
    for (size_t i = 0; i < samples; i++) {
        double factor = weight[i] * nw_tensor_f64(call->in[3], l.reduction == NONE ? i : 0), most = -INFINITY,
               total = 0;
        if (l.reduction == MEAN && weight[i] != 0) factor /= sum;
        int64_t first = (int64_t)i / l.inner * l.classes * l.inner + (int64_t)i % l.inner,
                end = first + l.classes * l.inner;
        for (int64_t k = first; k < end && logits; k += l.inner) most = fmax(most, x[k]);
        for (int64_t k = first; k < end && logits; k += l.inner) total += dx[k] = exp(x[k] - most);
        for (int64_t k = first; k < end; k += l.inner) dx[k] = logits ? factor * dx[k] / total : 0;
        if (weight[i] != 0) dx[first + nw_tensor_s64(call->in[1], i) * l.inner] -= factor;
    }
    nw_store_run(&call->out[0], 0, count, dx);
    return NW_OK;
}

const nw_op nw_op_narrow_CrossEntropyGrad = {
    .name = "CrossEntropyGrad", .domain = "ai.narrow", .infer = loss_grad_infer, .eval = loss_grad_eval};

static nw_status grad_of(nw_grad_call *c, bool logits) {
    if (nw_grad_dy(c, 1) >= 0) nw_grad_fail(c, NW_E_UNSUPPORTED, "its output 1 cannot be trained through");
    nw_grad_begin(c, "ai.narrow", "CrossEntropyGrad", 4,
                  (int[]){nw_grad_in(c, 0), nw_grad_in(c, 1), nw_grad_in(c, 2), c->dy[0]});
    nw_grad_copy_attrs(c);
    nw_grad_set_int(c, "logits", logits);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

static nw_status nll_grad(nw_grad_call *c) {
    return grad_of(c, false);
}
static nw_status cross_entropy_grad(nw_grad_call *c) {
    return grad_of(c, true);
}

const nw_op nw_op_NegativeLogLikelihoodLoss = {.name = "NegativeLogLikelihoodLoss",
                                               .domain = "",
                                               .infer = loss_infer,
                                               .eval = nll_eval,
                                               .grad = nll_grad};

/* ---- SoftmaxCrossEntropyLoss: the same of log softmax(scores), which is output 1
 * ---------------------------------- */

static nw_status cross_entropy_infer(nw_op_call *call) {
    NW_TRY(loss_infer(call));
    return nw_call_set_like(call, 1, call->in[0]);
}

static nw_status cross_entropy_eval(nw_op_call *call) {
    loss l;
    const double *x;
    double *log_prob;
    NW_TRY(loss_of(call, &l));
    NW_TRY(nw_call_f64(call, 0, &x));
    size_t count = nw_tensor_count(call->in[0]);
    NW_TRY(nw_call_scratch(call, count, &log_prob));
    for (int64_t i = 0; i < l.batch * l.inner; i++) {
        int64_t first = i / l.inner * l.classes * l.inner + i % l.inner, end = first + l.classes * l.inner;
        double most = -INFINITY, sum = 0;
        for (int64_t k = first; k < end; k += l.inner) most = fmax(most, x[k]);
        for (int64_t k = first; k < end; k += l.inner) sum += exp(x[k] - most);
        for (int64_t k = first; k < end; k += l.inner) log_prob[k] = x[k] - most - log(sum);
    }
    if (call->out_count > 1 && nw_call_wants(call, 1)) nw_store_run(&call->out[1], 0, count, log_prob);
    return reduce(call, &l, log_prob);
}

const nw_op nw_op_SoftmaxCrossEntropyLoss = {.name = "SoftmaxCrossEntropyLoss",
                                             .domain = "",
                                             .infer = cross_entropy_infer,
                                             .eval = cross_entropy_eval,
                                             .grad = cross_entropy_grad};
