/* grad.h: how an operator states its gradient. The member `grad` of nw_op is given a node and the gradients
 * of its outputs and appends ordinary nodes that compute the gradients of its inputs; the joined graph is
 * planned and run like any other. Every value has a concrete shape by then, so a gradient may use sizes as
 * constants. The helpers build expressions: each appends a node, infers its shape at once and returns the
 * value that it makes. The first failure is kept in `status`, later calls do nothing and return NW_ABSENT, so
 * that a formula can be written as nested calls and its status returned once, at the end. Must not include
 * anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_GRAD_H
#define NW_OP_GRAD_H

#include "op/op.h"

/* Descriptions of all values of a graph, [count]: format and shape, data of constants; format NW_NONE: not
 * known. */
typedef struct nw_grad_shapes {
    nw_tensor *at;
    size_t capacity;
    int count;
} nw_grad_shapes;

typedef struct nw_grad_call {
    nw_context *ctx;
    nw_graph *graph;     /* grows with every helper: keep no pointers into its arrays */
    const nw_node *node; /* what is differentiated: a copy, so that it stays where it is */
    int version;         /* opset version of the node's domain */
    const int *dy;       /* [node->out_count] gradient of each output, in its shape; NW_ABSENT: it has none */
    const bool *wanted;  /* [node->in_count] inputs whose gradient is needed */
    int *dx;             /* [node->in_count] results, NW_ABSENT before; what stays so is a gradient of zero */
    nw_grad_shapes *shapes; /* of the graph's values; the helpers keep it complete */
    nw_arena *scratch;
    nw_status status; /* of the first failure */
} nw_grad_call;

/* Records a failure; the node is named in front of the message by the caller of grad. */
void nw_grad_fail(nw_grad_call *c, nw_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline int nw_grad_in(const nw_grad_call *c, int i) {
    return nw_node_in(c->node, i);
}
static inline int nw_grad_out(const nw_grad_call *c, int i) {
    return nw_node_out(c->node, i);
}
static inline int nw_grad_dy(const nw_grad_call *c, int i) {
    return i < c->node->out_count ? c->dy[i] : NW_ABSENT;
}
static inline bool nw_grad_wants(const nw_grad_call *c, int i) {
    return i < c->node->in_count && c->wanted[i];
}
/* Format and shape of a value (data too when it is constant); all zero for NW_ABSENT. */
nw_tensor nw_grad_tensor(const nw_grad_call *c, int value);
/* A call that infer-time readers of attributes and constant inputs (nw_conv_geometry_of, nw_call_axes …)
 * take, for the differentiated node. Lives until grad returns; NULL after a failure. */
const nw_op_call *nw_grad_forward(nw_grad_call *c);

/* ---- one node: begin, attributes, end ------------------------------------------------------------------ */

/* Starts a node of `domain` ("" is ai.onnx); the setters and the end speak of the node begun last. */
void nw_grad_begin(nw_grad_call *c, const char *domain, const char *op, int in_count, const int *in);
void nw_grad_set_int(nw_grad_call *c, const char *name, int64_t value);
void nw_grad_set_float(nw_grad_call *c, const char *name, float value);
void nw_grad_set_string(nw_grad_call *c, const char *name, const char *value);
void nw_grad_set_ints(nw_grad_call *c, const char *name, size_t count, const int64_t *values);
void nw_grad_copy_attrs(
    nw_grad_call *c); /* all of the differentiated node's, in front of those that are set */
/* Ends it: one output, or `count` outputs of which those with wanted[i] get an id; the others are absent. */
int nw_grad_end(nw_grad_call *c);
void nw_grad_end_many(nw_grad_call *c, int count, const bool *wanted, int *ids);

/* ---- expressions --------------------------------------------------------------------------------------- */

int nw_grad_op1(nw_grad_call *c, const char *op, int a); /* ai.onnx operator without attributes */
int nw_grad_op2(nw_grad_call *c, const char *op, int a, int b);
/* A scalar constant in the format of value `like`. */
int nw_grad_number(nw_grad_call *c, int like, double value);
int nw_grad_ints(nw_grad_call *c, int count, const int64_t *values); /* a constant list, s64 */
int nw_grad_scale(nw_grad_call *c, int a, double factor);            /* a·factor; a itself for 1 */
int nw_grad_sum(nw_grad_call *c, int count, const int *values);      /* Σ of one or more values of a shape */
/* Σ over the axes with a mark, [rank]; keep: as sizes of 1. */
int nw_grad_sum_axes(nw_grad_call *c, int a, const bool *axes, bool keep);
int nw_grad_reshape(nw_grad_call *c, int a, int rank,
                    const int64_t *dims); /* a itself when it has this shape */
int nw_grad_reshape_like(nw_grad_call *c, int a, int like);
int nw_grad_transpose(nw_grad_call *c, int a, const int64_t *perm);
int nw_grad_expand(nw_grad_call *c, int a, int rank, const int64_t *dims); /* broadcast to a shape */
int nw_grad_zeros(nw_grad_call *c, int like); /* zeros of a value's shape and format */
/* The adjoint of broadcasting value `like` to a's shape: Σ over the axes that were repeated. */
int nw_grad_sum_to(nw_grad_call *c, int a, int like);
int nw_grad_cast(nw_grad_call *c, int a, nw_format format); /* a itself when it has the format */
/* 1 where a = b, 0 elsewhere, in the format of `like`. */
int nw_grad_equal(nw_grad_call *c, int a, int b, int like);
/* a [C] as [1, C, 1 …] of this rank: a parameter per channel. */
int nw_grad_channels(nw_grad_call *c, int a, int rank);

/* ---- gradients that several operators share ------------------------------------------------------------ */

nw_status nw_grad_unary(nw_grad_call *c);     /* element by element, by grad_unary.c's table of derivatives */
nw_status nw_grad_recurrent(nw_grad_call *c); /* LSTM, GRU, RNN (grad_rnn.c) */
nw_status nw_grad_view(nw_grad_call *c);      /* the output has the input's elements in the same order */
/* dx = dy, in equal shares, where x equals its extreme y along the axes with a mark; y and dy keep these as
 * sizes of 1. */
int nw_grad_extreme(nw_grad_call *c, int x, int y, int dy, const bool *axes);
/* dx = dy·f'(v) for a function of grad_unary.c; v is its argument, or its result where the table says so. The
 * parameters are those of the differentiated node unless set. */
int nw_grad_slope(nw_grad_call *c, const char *function, int v, int dy);

#endif
