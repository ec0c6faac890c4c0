/* op.h: what an operator is. Each family is one file; ops.def is the table of contents. An operator states its shapes
 * (infer), its meaning (eval, a plain reference) and its roles for quantization; fast execution is the planner's business.
 * Must not include anything but base/, num/, kern/, ir/ and op/. */
#ifndef NW_OP_OP_H
#define NW_OP_OP_H

#include "ir/graph.h"

typedef struct nw_op_call nw_op_call;
struct nw_grad_call;

/* One evaluation or shape inference of one node, always on concrete shapes. */
struct nw_op_call {
    nw_context *ctx;
    const nw_graph *graph; /* opset versions, subgraphs */
    const nw_node *node;   /* attributes, names */
    int version;           /* opset version of the node's domain in this model */
    int in_count, out_count;
    const nw_tensor *const
        *in;           /* [in_count] NULL: absent. In infer, data is NULL when the value is not known yet */
    nw_tensor *out;    /* [out_count] infer sets format, rank, dims; eval fills data (already allocated,
                                   uninitialised). Absent outputs (node->out[i] < 0) may be ignored or written */
    nw_arena *scratch; /* released after the call */
    /* Runs a subgraph of this node (If, Loop, Scan): inputs for its formal inputs; *outputs is an array of its outputs in
     * scratch. outer_in/outer values are resolved by the runtime. NULL in infer. */
    nw_status (*run_subgraph)(const nw_op_call *call, const nw_graph *sub, int in_count, const nw_tensor *in,
                              nw_tensor **outputs);
    void *runtime;
};

typedef enum nw_op_flags {
    NW_OP_RAW =
        1, /* eval takes every format as stored, or handles each it supports itself. Without it, nw_op_eval
                         gives f16/bf16 inputs as f32 and narrows the results */
    NW_OP_VIEW = 2, /* out[0] has in[0]'s bytes in the same order: Reshape, Squeeze, Flatten, Identity … */
    NW_OP_RANDOM = 4, /* not a function of its inputs: never folded */
    NW_OP_UNARY =
        8, /* out[0][i] depends on in[0][i] only (further inputs constant scalars): any layout, in place, and
                         a 256-entry table when in and out are 8-bit codes */
    NW_OP_BINARY = 16, /* broadcasting element by element of in[0], in[1] */
    NW_OP_SHAPE =
        32 /* reads only the shapes of its inputs: eval accepts tensors without data (Shape, Size) */
} nw_op_flags;

/* What a quantizer may do with an input. */
typedef enum nw_role {
    NW_ROLE_NONE,   /* shapes, indices, parameters: stays as it is */
    NW_ROLE_DATA,   /* an activation: per tensor */
    NW_ROLE_WEIGHT, /* when constant: per tensor or per channel of `channel_axis`; else as DATA */
    NW_ROLE_BIAS    /* int32 with scale s_data·s_weight */
} nw_role;

#define NW_MAX_ROLES 8
typedef struct nw_roles {
    nw_role in[NW_MAX_ROLES];       /* of input i; further inputs have the role of the last entry */
    int channel_axis[NW_MAX_ROLES]; /* of WEIGHT: the axis with one scale per output channel */
    bool
        compute; /* has an integer form worth having (Conv, MatMul, Gemm, Add, …): its inputs get quantizers */
    bool
        same_grid; /* every output element is an input element (MaxPool, Reshape, Transpose, Concat is not): the output
                       shares input 0's scale and zero point */
} nw_roles;

typedef struct nw_op {
    const char *name;
    const char *domain; /* "" is ai.onnx */
    unsigned flags;
    /* Sets out[i].format, rank and dims. A value that decides a shape is asked for with nw_call_value, which gives
     * NW_E_NEED_VALUE when it is not known yet. Must validate everything eval relies on. */
    nw_status (*infer)(nw_op_call *call);
    nw_status (*eval)(nw_op_call *call);
    /* Fills *roles (zeroed by the caller) for this node; NULL: nothing is quantized. */
    void (*roles)(const nw_node *node, nw_roles *roles);
    /* Appends the nodes that compute the gradients of the inputs from those of the outputs (op/grad.h). NULL:
     * the operator cannot be trained through. */
    nw_status (*grad)(struct nw_grad_call *call);
} nw_op;

/* NULL when unknown. Domains "ai.onnx" and "" are the same. */
const nw_op *nw_op_find(const char *domain, const char *name);
/* All operators, for documentation and listings. */
const nw_op *const *nw_op_all(size_t *count);

/* Sets node->op everywhere, subgraphs included. Unknown operators are all named in one message (NW_E_UNSUPPORTED), each
 * with how often it occurs and the name of its first node. */
nw_status nw_graph_resolve(nw_graph *graph);

nw_roles nw_node_roles(const nw_node *node);
nw_role nw_roles_of(const nw_roles *roles, int input); /* extends the last entry */

/* infer with the node named in the message. */
nw_status nw_op_infer(nw_op_call *call);
/* eval: dequantizes packed inputs, widens f16/bf16 (unless NW_OP_RAW), narrows back, names the node in the message. */
nw_status nw_op_eval(nw_op_call *call);

/* ---- for the operators themselves ------------------------------------------------------------------------------ */

nw_status nw_call_fail(const nw_op_call *call, nw_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* As for nw_fail: the macro shows compilers and analysers that the result is the status given, never NW_OK by accident. */
#define nw_call_fail(where, code, ...)                                                                       \
    __extension__({                                                                                          \
        const nw_status code_ = (code);                                                                      \
        (nw_call_fail)((where), code_, __VA_ARGS__);                                                         \
        code_;                                                                                               \
    })

/* The format of the numbers t means: f32 when it is stored packed. */
static inline nw_format nw_real_format(const nw_tensor *t) {
    return t->qparam ? NW_F32 : t->format;
}
/* Input i, or NULL when absent. */
static inline const nw_tensor *nw_call_in(const nw_op_call *call, int i) {
    return i < call->in_count ? call->in[i] : NULL;
}
static inline bool nw_call_wants(const nw_op_call *call, int out) {
    return out < call->node->out_count && call->node->out[out] >= 0;
}
/* Fails unless input i is there (…_value: and its data is known: NW_E_NEED_VALUE). */
nw_status nw_call_require(const nw_op_call *call, int i, const nw_tensor **t);
nw_status nw_call_value(const nw_op_call *call, int i, const nw_tensor **t);
/* The integers of input i (any integer format, any rank ≤ 1) in scratch. Absent input: *values NULL, *count 0. */
nw_status nw_call_ints(const nw_op_call *call, int i, const int64_t **values, size_t *count);
/* Normalises an axis in [−rank, rank) ([−rank, rank] when `inclusive`). */
nw_status nw_call_axis(const nw_op_call *call, int64_t axis, int rank, bool inclusive, int *out);
/* out[i] gets this format and shape. */
nw_status nw_call_set(nw_op_call *call, int i, nw_format format, int rank, const int64_t *dims);
nw_status nw_call_set_like(nw_op_call *call, int i, const nw_tensor *t);
/* Fails with the type named unless t's format is one of the kinds: any of float, integer, bool. */
nw_status nw_call_expect_float(const nw_op_call *call, const nw_tensor *t);

/* Numpy broadcasting of count shapes into *out (rank and dims only). */
nw_status nw_call_broadcast(const nw_op_call *call, const nw_tensor *const *in, int count, nw_tensor *out);
/* Element strides with which a tensor of shape t walks a broadcast result of `out`'s shape: 0 on broadcast axes. */
void nw_broadcast_strides(const nw_tensor *t, const nw_tensor *out, int64_t *strides);

/* Odometer over a shape: advances index[] (row-major) and the offsets of `n` operands by their strides; false at the end. */
bool nw_next_index(int rank, const int64_t *dims, int64_t *index, int n, const int64_t *const *strides,
                   int64_t *offsets);

/* Scratch memory, or NW_E_MEMORY through the NW_TRY that follows: `float *p; NW_TRY(nw_call_scratch(call, n, 4, &p))`. */
nw_status nw_call_scratch_bytes(const nw_op_call *call, size_t count, size_t size, void **out);
#define nw_call_scratch(call, count, out) nw_call_scratch_bytes(call, count, sizeof **(out), (void **)(out))

#define NW_OP(id)        extern const nw_op nw_op_##id;
#define NW_OP_MS(id)     extern const nw_op nw_op_ms_##id;
#define NW_OP_NARROW(id) extern const nw_op nw_op_narrow_##id;
#include "op/ops.def"
#undef NW_OP
#undef NW_OP_MS
#undef NW_OP_NARROW

#endif
