/* target.c: the rules of other runtimes. */
#include "onnx/target.h"

#include "op/op.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct judge {
    const nw_graph *g;
    nw_arena *arena;
    nw_uses uses;
    int steps;   /* left to find a rank */
    bool failed; /* memory */
} judge;

const char *nw_target_name(nw_target target) {
    return target == NW_TARGET_ONNXRUNTIME ? "onnxruntime"
           : target == NW_TARGET_OPENVINO  ? "openvino"
                                           : "any";
}

static const char *say(judge *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *say(judge *j, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *copy = nw_arena_strdup(j->arena, text);
    j->failed |= !copy;
    return copy ? copy : "";
}

/* ---- the graph around a node ------------------------------------------------------------------------- */

static bool is_type(const nw_node *node, const char *const *types) {
    for (; *types; types++)
        if (strcmp(node->op_type, *types) == 0) return true;
    return false;
}

static bool is_quantizer(const nw_node *node, const char *type) {
    return node && strcmp(node->op_type, type) == 0 &&
           (!*node->domain || strcmp(node->domain, "com.microsoft") == 0) && nw_node_in(node, 0) >= 0 &&
           nw_node_in(node, 1) >= 0 && nw_node_out(node, 0) >= 0;
}
static bool is_q(const nw_node *node) {
    return is_quantizer(node, "QuantizeLinear");
}
static bool is_dq(const nw_node *node) {
    return is_quantizer(node, "DequantizeLinear");
}

static const nw_node *maker(const judge *j, int v) {
    return v < 0 || j->uses.producer[v] < 0 ? NULL : &j->g->nodes[j->uses.producer[v]];
}

/* The only reader of v, or NULL: none, several, or the world outside. */
static const nw_node *only_reader(const judge *j, int v) {
    return v >= 0 && nw_uses_count(&j->uses, v) == 1 && !j->uses.outputs[v]
               ? &j->g->nodes[j->uses.users[j->uses.first[v]]]
               : NULL;
}

/* Whether a Q or DQ has one scale and one zero point, both constant. */
static bool is_scalar(const judge *j, const nw_node *quantizer) {
    for (int i = 1; i < 3; i++) {
        int v = nw_node_in(quantizer, i);
        const nw_constant *c = nw_graph_constant(j->g, v);
        if (v >= 0 && (!c || nw_tensor_count(&c->tensor) != 1)) return false;
    }
    return true;
}

/* Element type of the codes that a Q makes or a DQ reads. */
static nw_format codes_of(const judge *j, const nw_node *quantizer) {
    const nw_constant *zero = nw_graph_constant(j->g, nw_node_in(quantizer, 2));
    if (zero) return zero->tensor.format;
    if (is_q(quantizer)) {
        int64_t type = nw_node_int(quantizer, "output_dtype", 0);
        return type ? nw_format_from_onnx((int)type) : NW_U8;
    }
    int v = nw_node_in(quantizer, 0);
    const nw_constant *codes = nw_graph_constant(j->g, v);
    if (codes) return codes->tensor.format;
    return is_q(maker(j, v)) ? codes_of(j, maker(j, v)) : v >= 0 ? j->g->values[v].format : NW_NONE;
}

/* The same as onnxruntime has it on x86: the signed codes of a Q that one DQ reads become unsigned. */
static nw_format codes_on_x86(const judge *j, const nw_node *quantizer) {
    nw_format format = codes_of(j, quantizer);
    const nw_node *q = is_q(quantizer) ? quantizer : maker(j, nw_node_in(quantizer, 0));
    if (format != NW_S8 || !is_q(q)) return format;
    int readers = 0, v = q->out[0];
    for (int i = j->uses.first[v]; i < j->uses.first[v + 1]; i++) {
        const nw_node *dq = &j->g->nodes[j->uses.users[i]];
        if (!is_dq(dq)) return format;
        readers += nw_uses_count(&j->uses, dq->out[0]);
    }
    return readers == 1 && q->in_count == 3 ? NW_U8 : format;
}

static double scale_of(const judge *j, const nw_node *quantizer) {
    const nw_constant *c = nw_graph_constant(j->g, nw_node_in(quantizer, 1));
    return c && nw_tensor_count(&c->tensor) ? nw_tensor_f64(&c->tensor, 0) : NAN;
}
static double zero_of(const judge *j, const nw_node *quantizer) {
    const nw_constant *c = nw_graph_constant(j->g, nw_node_in(quantizer, 2));
    return c && nw_tensor_count(&c->tensor) ? nw_tensor_f64(&c->tensor, 0) : 0;
}

static bool same_grid(const judge *j, const nw_node *a, const nw_node *b) {
    return is_scalar(j, a) && is_scalar(j, b) && codes_of(j, a) == codes_of(j, b) &&
           scale_of(j, a) == scale_of(j, b) && zero_of(j, a) == zero_of(j, b);
}

static bool is_8bit(nw_format format) {
    return format == NW_U8 || format == NW_S8;
}

/* Constants, and what is computed from constants alone. */
static bool is_constant(const judge *j, int v) {
    if (v < 0 || j->g->values[v].constant) return true;
    const nw_node *node = maker(j, v);
    if (!node) return false;
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0 && !nw_graph_constant(j->g, node->in[i])) return false;
    return true;
}

/* Files may leave out what an operator needs; who runs them complains. */
static bool has_inputs(const nw_node *node, int count) {
    for (int i = 0; i < count; i++)
        if (nw_node_in(node, i) < 0) return false;
    return true;
}

static bool is_whole(const nw_node *node) {
    static const char *const two[] = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", NULL};
    return has_inputs(node, is_type(node, two)                    ? 2
                            : strcmp(node->op_type, "Where") == 0 ? 3
                                                                  : 1) &&
           nw_node_out(node, 0) >= 0;
}

/* ---- onnxruntime ------------------------------------------------------------------------------------- */

/* Operators through which it moves quantizers, so that they need none of their own. */
static const char *const carriers[] = {"MaxPool",   "Reshape", "Transpose", "Squeeze",
                                       "Unsqueeze", "Slice",   NULL};
/* Operators that run on codes as they are, between a DQ and a Q of the same grid. */
static const char *const movers[] = {"Expand", "Flatten", "Gather",    "GatherElements", "Reshape",
                                     "Slice",  "Squeeze", "Tile",      "Transpose",      "Unsqueeze",
                                     "Resize", "MaxPool", "ReduceMax", "ReduceMin",      NULL};
static const char *const unary[] = {"AveragePool", "LeakyRelu", "GlobalAveragePool",
                                    "Sigmoid",     "Softmax",   NULL};

/* How many inputs read what this DQ makes, or another DQ of the same codes: they are one after common subexpressions went. */
static int readers_of_dq(const judge *j, const nw_node *dq) {
    int count = 0;
    for (int n = 0; n < j->g->node_count; n++) {
        const nw_node *other = &j->g->nodes[n];
        if (!other->dead && is_dq(other) && other->in[0] == dq->in[0] && same_grid(j, other, dq))
            count += nw_uses_count(&j->uses, other->out[0]);
    }
    return count;
}

#define FARTHEST 32 /* carriers in a row */

/* The DQ that value v comes out of, perhaps through carriers: a DQ with a single reader is moved behind them. */
static const nw_node *dq_before(const judge *j, int v, int steps) {
    const nw_node *node = maker(j, v);
    if (!node || is_dq(node) || steps == FARTHEST) return is_dq(node) ? node : NULL;
    if (!is_type(node, carriers)) return NULL;
    const nw_node *dq = dq_before(j, nw_node_in(node, 0), steps + 1);
    return dq && is_scalar(j, dq) && readers_of_dq(j, dq) == 1 ? dq : NULL;
}

/* The Q that alone reads value v, perhaps behind carriers: it is moved before them. */
static const nw_node *q_behind(const judge *j, int v, int steps) {
    const nw_node *node = only_reader(j, v);
    if (!node || is_q(node)) return node;
    if (steps == FARTHEST || !is_type(node, carriers) || nw_node_in(node, 0) != v) return NULL;
    const nw_node *q = q_behind(j, nw_node_out(node, 0), steps + 1);
    return q && is_scalar(j, q) ? q : NULL;
}

static double constant_or(const judge *j, int v, double absent) {
    const nw_constant *c = nw_graph_constant(j->g, v);
    return v < 0 ? absent : c && nw_tensor_count(&c->tensor) == 1 ? nw_tensor_f64(&c->tensor, 0) : NAN;
}

/* Whether the codes of Q cannot leave the range of a Relu or Clip before it. */
static bool makes_superfluous(const judge *j, const nw_node *q, const nw_node *clamp) {
    const nw_constant *s = nw_graph_constant(j->g, nw_node_in(q, 1));
    nw_format format = codes_of(j, q);
    if (!s || s->tensor.rank != 0 || !is_scalar(j, q) || !nw_format_is_integer(format)) return false;
    double scale = scale_of(j, q), zero = zero_of(j, q), least = (double)nw_format_min(format);
    if (strcmp(clamp->op_type, "Relu") == 0) return zero == least;
    double lo = constant_or(j, nw_node_in(clamp, 1), nw_node_float(clamp, "min", -3.4e38f));
    double hi = constant_or(j, nw_node_in(clamp, 2), nw_node_float(clamp, "max", 3.4e38f));
    return rint(lo / scale) + zero <= least && rint(hi / scale) + zero >= (double)nw_format_max(format);
}

static bool is_clamp(const nw_node *node) {
    return nw_node_is(node, "Relu") || nw_node_is(node, "Clip");
}

/* What stands around a node: a DQ before each input, a Q behind its output. */
typedef struct surroundings {
    int inputs, dqs;      /* inputs that are there, inputs from a DQ */
    const nw_node *dq[3]; /* of the first three inputs, or NULL */
    const nw_node *q;     /* that alone reads the output, or NULL */
    const nw_node *clamp; /* between the two, or NULL */
    bool clamped;         /* the clamp is not made superfluous by a Q: it stays, and stands in the way */
    int first_float;      /* first input without a DQ, or NW_ABSENT */
} surroundings;

static surroundings look(const judge *j, const nw_node *node) {
    surroundings s = {.first_float = NW_ABSENT};
    for (int i = 0; i < node->in_count; i++) {
        if (node->in[i] < 0) continue;
        const nw_node *dq = dq_before(j, node->in[i], 0);
        s.inputs++;
        s.dqs += dq != NULL;
        if (i < 3) s.dq[i] = dq;
        if (!dq && s.first_float < 0) s.first_float = node->in[i];
    }
    int v = nw_node_out(node, 0);
    const nw_node *reader = only_reader(j, v);
    if (is_clamp(reader) && only_reader(j, nw_node_out(reader, 0))) {
        s.clamp = reader;
        s.q = q_behind(j, nw_node_out(reader, 0), 0);
        s.clamped = !s.q || !makes_superfluous(j, s.q, reader);
    } else {
        s.q = q_behind(j, v, 0);
    }
    return s;
}

static nw_verdict in_integers(const char *kernel) {
    return (nw_verdict){NW_FATE_INTEGER, kernel, NULL, NULL};
}
static nw_verdict on_codes(void) {
    return (nw_verdict){.fate = NW_FATE_CODES};
}
static nw_verdict in_float(const char *reason, const char *advice) {
    return (nw_verdict){NW_FATE_FLOAT, NULL, reason, advice};
}

static const char *name_of(const judge *j, int v) {
    return v < 0 ? "" : j->g->values[v].name;
}

static nw_verdict float_input(judge *j, int v) {
    if (is_constant(j, v))
        return in_float(say(j, "its constant \"%s\" is stored in float", name_of(j, v)),
                        "quantize this layer, constants included (narrow quantize, without --float-bias)");
    return in_float(say(j, "its input \"%s\" is float: it comes out of no DequantizeLinear", name_of(j, v)),
                    "quantize what makes it (--elementwise on, --quantize-inputs on), or exclude both");
}

/* Why no Q alone reads the output, which has to be. */
static nw_verdict no_q(judge *j, const nw_node *node, const surroundings *s) {
    int v = nw_node_out(node, 0);
    const nw_node *reader = only_reader(j, v);
    if (s->clamped && s->q)
        return in_float(
            say(j, "the %s behind it still has work to do on the grid of \"%s\"", s->clamp->op_type,
                name_of(j, nw_node_out(s->q, 0))),
            "let the grid end where the clamp does: u8 with zero point 0 behind a Relu (not --symmetric)");
    if (v >= 0 && j->uses.outputs[v])
        return in_float("its output is an output of the model: no QuantizeLinear alone reads it",
                        "--quantize-outputs");
    if (!reader)
        return in_float(say(j, "\"%s\" has %d readers: it must go into exactly one QuantizeLinear",
                            name_of(j, v), v < 0 ? 0 : nw_uses_count(&j->uses, v)),
                        "quantize all of its readers (--elementwise on)");
    return in_float(say(j, "its output goes to %s, not into a QuantizeLinear", reader->op_type),
                    "quantize the layer that reads it (--elementwise on), or give this output a grid");
}

static nw_verdict wrong_type(judge *j, const char *what, nw_format format) {
    return in_float(say(j, "its %s is %s; integer kernels take 8 bits", what, nw_format_name(format)),
                    "8-bit activations (u8) and weights (s8)");
}

/* Types of data, weight and output of Conv, MatMul and Gemm; fate INTEGER when nothing is wrong. */
static nw_verdict check_types(judge *j, const surroundings *s, const char *kernel) {
    nw_format data = codes_on_x86(j, s->dq[0]), weight = s->dq[1] ? codes_of(j, s->dq[1]) : NW_S8;
    if (!is_8bit(data)) return wrong_type(j, "data", data);
    if (!is_8bit(weight)) return wrong_type(j, "weight", weight);
    if (!is_scalar(j, s->dq[0]))
        return in_float("its data has several scales", "activations with one scale each");
    if (s->q && codes_on_x86(j, s->q) != data)
        return in_float(say(j, "its input is %s and its output %s", nw_format_name(data),
                            nw_format_name(codes_on_x86(j, s->q))),
                        "the same type for all activations");
    return in_integers(kernel);
}

/* Kernels of onnxruntime on x86 that take unsigned data only. */
static nw_verdict refuse_signed(judge *j, const surroundings *s, nw_verdict v) {
    return v.fate == NW_FATE_INTEGER && codes_on_x86(j, s->dq[0]) == NW_S8
               ? in_float("its data is s8 and has several readers: on x86 onnxruntime wants u8",
                          "--activations u8")
               : v;
}

/* A bias from a DQ must be int32. */
static nw_verdict check_bias(judge *j, const surroundings *s, nw_verdict v) {
    nw_format bias = s->dq[2] ? codes_of(j, s->dq[2]) : NW_S32;
    return v.fate == NW_FATE_INTEGER && bias != NW_S32
               ? in_float(say(j, "its bias is %s", nw_format_name(bias)),
                          "biases in int32, as narrow writes them")
               : v;
}

/* Conv and Gemm in front of a Q get their float weight or bias quantized by onnxruntime itself. */
static bool completes_itself(const judge *j, const nw_node *node, const surroundings *s) {
    if (!s->q || !s->dq[0] || !is_scalar(j, s->dq[0])) return false;
    for (int i = 1; i < 3; i++)
        if (nw_node_in(node, i) >= 0 && !s->dq[i] && !nw_graph_constant(j->g, node->in[i])) return false;
    return true;
}

static nw_verdict ort_conv(judge *j, const nw_node *node) {
    surroundings s = look(j, node);
    if (s.dqs != s.inputs && !completes_itself(j, node, &s)) return float_input(j, s.first_float);
    if (!s.q || s.clamped) return no_q(j, node, &s);
    return check_bias(j, &s, refuse_signed(j, &s, check_types(j, &s, "QLinearConv")));
}

/* Weights in a DQ that nothing else reads, data in float, no Q behind: weights of 2, 4 or 8 bits with one scale, one per output or
 * one per block become MatMulNBits. */
static bool is_nbits(const judge *j, const nw_node *node, const surroundings *s) {
    const nw_node *dq = s->dq[1];
    if (s->dq[0] || !dq || maker(j, node->in[1]) != dq || nw_uses_count(&j->uses, dq->out[0]) != 1)
        return false;
    const nw_constant *w = nw_graph_constant(j->g, dq->in[0]), *scale = nw_graph_constant(j->g, dq->in[1]);
    if (!w || !scale || w->tensor.rank != 2 || !nw_format_is_integer(w->tensor.format)) return false;
    int bits = nw_format_bits(w->tensor.format);
    if ((bits != 2 && bits != 4 && bits != 8) ||
        (scale->tensor.format != NW_F32 && scale->tensor.format != NW_F16))
        return false;
    int64_t block = nw_node_int(dq, "block_size", 0), axis = nw_node_int(dq, "axis", 1);
    if (block > 0) return axis == 0 && block >= 16 && (block & (block - 1)) == 0 && scale->tensor.rank == 2;
    return scale->tensor.rank == 0 ||
           (scale->tensor.rank == 1 && axis == 1 && scale->tensor.dims[0] == w->tensor.dims[1]);
}

static bool any_q_behind(const judge *j, const nw_node *node) {
    int v = node->out[0];
    for (int i = j->uses.first[v]; i < j->uses.first[v + 1]; i++)
        if (is_q(&j->g->nodes[j->uses.users[i]])) return true;
    return false;
}

static const char *const stored_only =
    "its weights are stored as codes, its data is float: the weights are dequantized "
    "when it runs";

static nw_verdict ort_gemm(judge *j, const nw_node *node) {
    surroundings s = look(j, node);
    const nw_constant *c = nw_graph_constant(j->g, nw_node_in(node, 2));
    bool plain = nw_node_float(node, "alpha", 1) == 1 && nw_node_float(node, "beta", 1) == 1 &&
                 !nw_node_int(node, "transA", 0) && !nw_node_int(node, "transB", 0) &&
                 (nw_node_in(node, 2) < 0 || s.dq[2] || (c && c->tensor.rank == 1));
    if (plain && is_nbits(j, node, &s) && !s.q && !s.clamp) return in_integers("MatMulNBits");
    if (!s.dq[0] && s.dq[1] && is_constant(j, s.dq[1]->in[0]))
        return in_float(stored_only, "quantize activations too");
    if (s.dqs != s.inputs && !completes_itself(j, node, &s)) return float_input(j, s.first_float);
    if (s.clamped || (any_q_behind(j, node) && !s.q)) return no_q(j, node, &s);
    if (nw_node_float(node, "beta", 1) != 1 && s.inputs > 2) return in_float("its beta is not 1", NULL);
    return check_bias(j, &s, check_types(j, &s, "QGemm"));
}

static bool is_integer_operator(const nw_node *node) {
    static const char *const types[] = {"ConvInteger",
                                        "MatMulInteger",
                                        "MatMulNBits",
                                        "QGemm",
                                        "QAttention",
                                        "MatMulIntegerToFloat",
                                        "DynamicQuantizeMatMul",
                                        "DynamicQuantizeLSTM",
                                        "QMoE",
                                        "GatherBlockQuantized",
                                        NULL};
    return strncmp(node->op_type, "QLinear", 7) == 0 || is_type(node, types);
}

#define LONGEST_PATH 4096 /* nodes visited from a value back to those of known rank */

/* Dimensions of v as far as its makers tell, or −1. */
static int find_rank(judge *j, int v) {
    static const char *const same[] = {"Add",
                                       "Mul",
                                       "Sub",
                                       "Div",
                                       "Relu",
                                       "Clip",
                                       "Sigmoid",
                                       "Tanh",
                                       "Softmax",
                                       "Gelu",
                                       "MatMul",
                                       "Transpose",
                                       "QuantizeLinear",
                                       "DequantizeLinear",
                                       "Dropout",
                                       "Slice",
                                       "Identity",
                                       "Split",
                                       "Concat",
                                       "Pow",
                                       "LayerNormalization",
                                       "Sqrt",
                                       "Erf",
                                       "MaxPool",
                                       "Conv",
                                       "Where",
                                       "GlobalMaxPool",
                                       "GlobalAveragePool",
                                       NULL};
    static const char *const reductions[] = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", NULL};
    static const char *const recurrent[] = {"LSTM", "GRU", "RNN", NULL};
    if (v < 0 || j->steps-- <= 0) return -1;
    const nw_value *value = &j->g->values[v];
    if (value->constant) return value->constant->tensor.rank;
    if (value->rank >= 0) return value->rank;
    const nw_node *node = maker(j, v);
    if (!node) return -1;
    if (is_type(node, recurrent)) return v == nw_node_out(node, 0) ? 4 : 3;
    if (nw_node_is(node, "Gemm") || nw_node_is(node, "Flatten")) return 2;
    const nw_constant *list = nw_graph_constant(j->g, nw_node_in(node, 1));
    if (nw_node_is(node, "Reshape")) return list ? (int)nw_tensor_count(&list->tensor) : -1;
    int shaping = nw_node_is(node, "Conv")          ? 1
                  : nw_node_is(node, "QLinearConv") ? 3
                                                    : 0; /* a weight has as many */
    int rank = find_rank(j, nw_node_in(node, shaping));
    if (is_type(node, same) ||
        is_integer_operator(node)) { /* a constant may have fewer dimensions than what it is added to */
        bool fewer = nw_graph_constant(j->g, nw_node_in(node, 0));
        int other = fewer ? find_rank(j, nw_node_in(node, 1)) : -1;
        return other > rank ? other : rank;
    }
    if (nw_node_is(node, "Gather")) {
        int indices = find_rank(j, nw_node_in(node, 1));
        return rank < 0 || indices < 0 ? -1 : rank - 1 + indices;
    }
    if (is_type(node, reductions) && nw_node_int(node, "keepdims", 1)) return rank;
    const int64_t *axes;
    size_t count = list ? nw_tensor_count(&list->tensor) : 0;
    (void)(list || nw_node_ints(node, "axes", &axes, &count));
    if (rank < 0 || count == 0 || count > NW_MAX_RANK) return -1;
    if (nw_node_is(node, "Unsqueeze")) return rank + (int)count;
    return nw_node_is(node, "Squeeze") || is_type(node, reductions) ? rank - (int)count : -1;
}

static int rank_of(judge *j, int v) {
    j->steps = LONGEST_PATH;
    return find_rank(j, v);
}

static bool has_free_dims(const nw_graph *g) {
    for (int i = 0; i < g->input_count; i++) {
        const nw_value *v = &g->values[g->inputs[i]];
        for (int d = 0; d < v->rank && !v->constant; d++)
            if (v->dims[d] <= 0) return true;
    }
    return false;
}

/* A MatMul by a matrix and the Add that alone reads it become one Gemm, quantized or not: the Add, or NULL. Of two such
 * products that are added the first one does. */
static const nw_node *becomes_gemm(judge *j, const nw_node *node) {
    const nw_node *add = only_reader(j, nw_node_out(node, 0));
    if (!has_inputs(node, 2) || !nw_node_is(add, "Add") || !has_inputs(add, 2) ||
        rank_of(j, node->in[1]) != 2)
        return NULL;
    int rank = rank_of(j, node->in[0]), other = add->in[0] == node->out[0] ? add->in[1] : add->in[0];
    if (rank < 0 || (rank != 2 && has_free_dims(j->g))) return NULL;
    const nw_node *rival = maker(j, other);
    if (nw_node_is(rival, "MatMul") && only_reader(j, other) == add && rival < node) return NULL;
    int bias = rank_of(j, other);
    return bias == 1 || (bias == 2 && rank == 2) ? add : NULL;
}

static nw_verdict ort_matmul(judge *j, const nw_node *node) {
    surroundings s = look(j, node);
    const nw_node *add = becomes_gemm(j, node);
    if (add) {
        surroundings behind = look(j, add);
        int bias = add->in[0] == node->out[0] ? add->in[1] : add->in[0];
        bool vector = rank_of(j, bias) == 1;
        if (is_nbits(j, node, &s) && vector && !behind.q && !behind.clamp) return in_integers("MatMulNBits");
        if (s.dqs == 2 && behind.q && !behind.clamped && vector && j->g->values[bias].constant)
            return check_types(j, &(surroundings){.dq = {s.dq[0], s.dq[1]}, .q = behind.q}, "QGemm");
        return in_float(
            say(j, "onnxruntime makes one Gemm of it and the Add behind it, whose bias \"%s\" is float",
                name_of(j, bias)),
            "quantize the Add (--elementwise on, and --quantize-outputs where it makes the model's output)");
    }
    if (is_nbits(j, node, &s) && !s.q && !s.clamp) return in_integers("MatMulNBits");
    if (s.dqs != 2) {
        if (!s.dq[0] && s.dq[1] && is_constant(j, s.dq[1]->in[0]))
            return in_float(stored_only,
                            "quantize activations too, or --weights s4:32 (blocks of 16 or more become "
                            "MatMulNBits)");
        return float_input(j, s.first_float);
    }
    if (s.clamped || (any_q_behind(j, node) && !s.q)) return no_q(j, node, &s);
    return refuse_signed(j, &s, check_types(j, &s, s.q ? "QLinearMatMul" : "MatMulIntegerToFloat"));
}

/* Every input from a DQ, one Q behind, all of one 8-bit type. from: the first input that counts. */
static nw_verdict ort_uniform(judge *j, const nw_node *node, int from, int count, const char *kernel) {
    nw_format type = NW_NONE;
    surroundings s = look(j, node);
    for (int i = from; i < count; i++) {
        const nw_node *dq = dq_before(j, node->in[i], 0);
        if (!dq) return float_input(j, node->in[i]);
        nw_format format = codes_on_x86(j, dq);
        if (!is_8bit(format)) return wrong_type(j, "input", format);
        if (type && format != type)
            return in_float("its inputs have different types", "the same type for all activations");
        type = format;
    }
    if (!s.q || s.clamped) return no_q(j, node, &s);
    if (codes_on_x86(j, s.q) != type)
        return in_float("its input and output have different types", "the same type for all activations");
    return in_integers(kernel);
}

/* Codes as they come out of a Q or an integer operator, perhaps moved. */
static bool is_codes(const judge *j, int v, int steps) {
    const nw_node *node = maker(j, v);
    if (!node || is_q(node)) return is_q(node);
    if (strncmp(node->op_type, "QLinear", 7) == 0) return true;
    if (strcmp(node->op_type, "QGemm") == 0) return nw_node_in(node, 7) >= 0;
    return is_type(node, movers) && steps < FARTHEST && is_codes(j, nw_node_in(node, 0), steps + 1);
}

static nw_verdict ort_mover(judge *j, const nw_node *node) {
    if (is_codes(j, nw_node_in(node, 0), 0)) return on_codes();
    const nw_node *dq = dq_before(j, nw_node_in(node, 0), 0), *q = q_behind(j, nw_node_out(node, 0), 0);
    bool carried = is_type(node, carriers);
    bool forward = carried && dq && is_scalar(j, dq) && readers_of_dq(j, dq) == 1 && !q;
    const nw_node *source = maker(j, nw_node_in(node, 0));
    bool backward =
        carried && q && is_scalar(j, q) && !is_dq(source) && only_reader(j, nw_node_in(node, 0)) == node;
    if (forward || backward || (dq && q && same_grid(j, dq, q))) return on_codes();
    if (!dq) return float_input(j, nw_node_in(node, 0));
    if (q)
        return in_float("the grids before and behind it differ",
                        "one scale and zero point for both (narrow ties them)");
    surroundings s = look(j, node);
    return no_q(j, node, &s);
}

static nw_verdict ort_clamp(judge *j, const nw_node *node) {
    const nw_node *q = q_behind(j, nw_node_out(node, 0), 0);
    if (q && makes_superfluous(j, q, node)) return (nw_verdict){.fate = NW_FATE_PART};
    return in_float(say(j, "%s stays in float where no grid makes it superfluous", node->op_type),
                    "a grid behind it that ends where it does: u8 with zero point 0 behind a Relu");
}

static bool is_part_of_gemm(judge *j, const nw_node *add) {
    for (int i = 0; i < 2; i++) {
        const nw_node *product = maker(j, nw_node_in(add, i));
        if (nw_node_is(product, "MatMul") && becomes_gemm(j, product) == add) return true;
    }
    return false;
}

static nw_verdict judge_ort(judge *j, const nw_node *node) {
    const char *type = node->op_type;
    if (is_integer_operator(node)) return in_integers(node->op_type);
    if (nw_node_is(node, "Conv")) return ort_conv(j, node);
    if (nw_node_is(node, "MatMul")) return ort_matmul(j, node);
    if (nw_node_is(node, "Gemm")) return ort_gemm(j, node);
    if (nw_node_is(node, "Add") && is_part_of_gemm(j, node)) return (nw_verdict){.fate = NW_FATE_PART};
    if (nw_node_is(node, "Add")) return ort_uniform(j, node, 0, 2, "QLinearAdd");
    if (nw_node_is(node, "Mul")) return ort_uniform(j, node, 0, 2, "QLinearMul");
    if (nw_node_is(node, "Concat")) return ort_uniform(j, node, 0, node->in_count, "QLinearConcat");
    if (nw_node_is(node, "Where")) return ort_uniform(j, node, 1, 3, "QLinearWhere");
    if (is_type(node, unary)) return ort_uniform(j, node, 0, 1, say(j, "QLinear%s", type));
    if (is_type(node, movers)) return ort_mover(j, node);
    if (is_clamp(node)) return ort_clamp(j, node);
    return in_float(say(j, "onnxruntime has no integer form of %s", type), NULL);
}

/* ---- OpenVINO ---------------------------------------------------------------------------------------- */

/* Whether codes are shifted: unsigned ones always are. */
static bool has_zero_points(const judge *j, const nw_node *dq) {
    if (!dq) return false;
    const nw_constant *zero = nw_graph_constant(j->g, nw_node_in(dq, 2));
    bool shifted = nw_format_kind(codes_of(j, dq)) == NW_KIND_UINT;
    for (size_t i = 0; zero && i < nw_tensor_count(&zero->tensor) && !shifted; i++)
        shifted = nw_tensor_f64(&zero->tensor, i) != 0;
    return shifted;
}

static nw_verdict judge_openvino(judge *j, const nw_node *node) {
    static const char *const products[] = {"Conv", "ConvTranspose", "MatMul", "Gemm", NULL};
    static const char *const codes[] = {
        "MaxPool",      "AveragePool",       "Concat", "Reshape", "Flatten", "Transpose",
        "Squeeze",      "Unsqueeze",         "Slice",  "Split",   "Gather",  "Resize",
        "DepthToSpace", "GlobalAveragePool", "Pad",    NULL};
    surroundings s = look(j, node);
    if (is_integer_operator(node)) return in_integers(node->op_type);
    if (is_type(node, products)) {
        bool stored = s.dq[1] && is_constant(j, s.dq[1]->in[0]), shifted = has_zero_points(j, s.dq[1]);
        bool connected = nw_node_is(node, "MatMul") || nw_node_is(node, "Gemm");
        if (connected && stored && (!s.dq[0] || shifted) && nw_format_bits(codes_of(j, s.dq[1])) <= 8)
            return in_integers("FullyConnected, data quantized at run time");
        if (!s.dq[0] && stored)
            return in_float("its weights are stored as codes, its data is float: products are of float",
                            "quantize activations too");
        if (!s.dq[0] || !s.dq[1]) return float_input(j, node->in[s.dq[0] ? 1 : 0]);
        if (stored && shifted)
            return in_float("its weights have zero points", "symmetric s8 weights (narrow's default)");
        return check_types(j, &s, connected ? "FullyConnected" : "Convolution");
    }
    if (is_type(node, codes)) return s.dq[0] ? on_codes() : float_input(j, nw_node_in(node, 0));
    if (is_clamp(node)) {
        const nw_node *before = maker(j, node->in[0]);
        if (before && is_type(before, products)) return (nw_verdict){.fate = NW_FATE_PART};
    }
    if (nw_node_is(node, "Add") || nw_node_is(node, "Mul"))
        return s.dq[0] && s.dq[1] ? on_codes() : float_input(j, s.first_float);
    return in_float(say(j, "OpenVINO has no integer form of %s on processors", node->op_type), NULL);
}

/* ---- all nodes --------------------------------------------------------------------------------------- */

/* Quantizers, constants, and arithmetic on shapes: nothing to judge. */
static bool is_part(const judge *j, const nw_node *node) {
    static const char *const types[] = {"QuantizeLinear",
                                        "DequantizeLinear",
                                        "DynamicQuantizeLinear",
                                        "Constant",
                                        "ConstantOfShape",
                                        "Shape",
                                        "Size",
                                        "Identity",
                                        "Cast",
                                        NULL};
    if (is_type(node, types)) return true;
    int v = nw_node_out(node, 0);
    nw_format format = v < 0 ? NW_NONE : j->g->values[v].format;
    if (format != NW_NONE && !nw_format_is_float(format) && !is_8bit(format)) return true;
    bool constant = node->in_count > 0;
    for (int i = 0; i < node->in_count; i++) constant &= is_constant(j, node->in[i]);
    return constant;
}

static nw_verdict judge_node(judge *j, const nw_node *node, nw_target target) {
    const bool whole =
        is_integer_operator(node) || is_whole(node); /* DynamicQuantizeLSTM may lack its first output */
    if (node->dead || !whole || is_part(j, node)) return (nw_verdict){.fate = NW_FATE_PART};
    if (target == NW_TARGET_ONNXRUNTIME) return judge_ort(j, node);
    if (target == NW_TARGET_OPENVINO) return judge_openvino(j, node);
    nw_verdict a = judge_ort(j, node), b = judge_openvino(j, node);
    if (a.fate == NW_FATE_FLOAT && b.fate == NW_FATE_FLOAT) return a;
    if (a.fate == NW_FATE_FLOAT) return in_float(say(j, "onnxruntime: %s", a.reason), a.advice);
    if (b.fate == NW_FATE_FLOAT) return in_float(say(j, "openvino: %s", b.reason), b.advice);
    return a;
}

nw_status nw_target_judge(const nw_graph *graph, nw_target target, nw_arena *arena, nw_verdict *verdicts) {
    judge j = {.g = graph, .arena = arena};
    NW_TRY(nw_uses_init(&j.uses, graph));
    for (int n = 0; n < graph->node_count; n++) verdicts[n] = judge_node(&j, &graph->nodes[n], target);
    nw_uses_free(&j.uses);
    return j.failed ? NW_E_MEMORY : NW_OK;
}

/* ---- the whole file ---------------------------------------------------------------------------------- */

/* Why one node keeps OpenVINO from the file, or NULL. */
static const char *openvino_refuses(judge *j, const nw_node *node) {
    static const char *const recurrent[] = {"LSTM", "GRU", "RNN", NULL};
    if (is_type(node, recurrent) && is_dq(maker(j, nw_node_in(node, 0))) &&
        is_dq(maker(j, nw_node_in(node, 1))))
        return say(j, "%s \"%s\": openvino compiles none with quantized weights and data (--recurrent off)",
                   node->op_type, nw_node_label(j->g, node));
    for (int i = 0; i < node->in_count; i++) {
        const nw_constant *c = nw_graph_constant(j->g, node->in[i]);
        if (c && (c->tensor.format == NW_S2 || c->tensor.format == NW_U2))
            return say(j, "\"%s\" is stored in %s, a type that openvino does not read",
                       name_of(j, node->in[i]), nw_format_name(c->tensor.format));
    }
    return NULL;
}

nw_status nw_target_refuses(const nw_graph *graph, nw_target target, nw_arena *arena, const char **reason) {
    judge j = {.g = graph, .arena = arena};
    *reason = NULL;
    NW_TRY(nw_uses_init(&j.uses, graph));
    for (int n = 0; n < graph->node_count && !*reason; n++) {
        const nw_node *node = &graph->nodes[n];
        if (node->dead) continue;
        bool known = !*node->domain || strncmp(node->domain, "ai.onnx", 7) == 0 ||
                     strcmp(node->domain, "com.microsoft") == 0;
        if (strcmp(node->domain, "ai.narrow") == 0)
            *reason =
                say(&j, "operator %s of domain ai.narrow is for narrow alone: quantize without --form native",
                    node->op_type);
        else if (!known)
            *reason = say(&j, "operator %s of domain %s is not part of it", node->op_type, node->domain);
        else if (target != NW_TARGET_ONNXRUNTIME)
            *reason = openvino_refuses(&j, node);
    }
    nw_uses_free(&j.uses);
    return j.failed ? NW_E_MEMORY : NW_OK;
}
