/* test_grad.c: the gradient of every operator that has one, against central differences, one line per case.
 * The gradient is computed in f32 by the joined graph; the differences are taken along random directions in
 * f64 (f32 for recurrent operators, which compute in it). */
#include "op/op.h"
#include "run/run.h"
#include "support/support.h"
#include "support/unit.h"
#include "train/backward.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static nw_context ctx;

/* inputs: one word each:  r2x3 p2x3  trained, in [−1.5, 1.5] or [0.5, 2];  c2x3 q2x3  the same, constant;
 *         i1,2  a list of integers;  j2  one integer;  b2x3  bools;  l5:2x3  labels below 5;
 *         f0.5,1  a list of numbers;  s0.5  one number;  -  absent
 * op:     [~][DOMAIN:]NAME[@OPSET]: "ms" is com.microsoft, "nw" ai.narrow; opset 21 unless stated; ~: computed
 *         in f32, which asks for larger steps and tolerance
 * attrs:  name=1 name=0.5 name=word name=[1,2] name=[Word,Word]
 * outputs: a letter each: y counts in the loss, n does not, - is absent */
typedef struct grad_case {
    const char *op, *inputs, *attrs, *outputs;
} grad_case;

static const grad_case cases[] = {
    /* element by element */
    {"Relu", "r3x5", "", "y"},
    {"Abs", "r3x5", "", "y"},
    {"Neg", "r3x5", "", "y"},
    {"Sqrt", "p3x5", "", "y"},
    {"Exp", "r3x5", "", "y"},
    {"Log", "p3x5", "", "y"},
    {"Reciprocal", "p3x5", "", "y"},
    {"Erf", "r3x5", "", "y"},
    {"Sigmoid", "r3x5", "", "y"},
    {"Tanh", "r3x5", "", "y"},
    {"Softplus", "r3x5", "", "y"},
    {"Softsign", "r3x5", "", "y"},
    {"Sin", "r3x5", "", "y"},
    {"Cos", "r3x5", "", "y"},
    {"Tan", "r3x5", "", "y"},
    {"Atan", "r3x5", "", "y"},
    {"Sinh", "r3x5", "", "y"},
    {"Cosh", "r3x5", "", "y"},
    {"Asinh", "r3x5", "", "y"},
    {"LeakyRelu", "r3x5", "", "y"},
    {"LeakyRelu", "r3x5", "alpha=0.3", "y"},
    {"ThresholdedRelu", "r3x5", "alpha=0.4", "y"},
    {"Elu", "r3x5", "alpha=0.7", "y"},
    {"Celu", "r3x5", "alpha=0.7", "y"},
    {"Selu", "r3x5", "", "y"},
    {"HardSigmoid", "r3x5", "alpha=0.5", "y"},
    {"HardSwish", "r3x5", "", "y"},
    {"Mish@22", "r3x5", "", "y"},
    {"Swish@24", "r3x5", "alpha=1.3", "y"},
    {"Gelu", "r3x5", "", "y"},
    {"Gelu", "r3x5", "approximate=tanh", "y"},
    {"ms:Gelu", "r3x5", "", "y"},
    {"ms:QuickGelu", "r3x5", "", "y"},
    {"ms:BiasGelu", "r3x5 r5", "", "y"},
    {"ms:FastGelu", "r3x5 r5", "", "y"},
    {"Shrink", "r3x5", "lambd=0.4 bias=0.1", "y"},
    {"Clip", "r3x5 s-0.5 s0.7", "", "y"},
    {"Clip", "r3x5 - s0.7", "", "y"},
    {"Clip@6", "r3x5", "min=-0.5 max=0.7", "y"},
    {"Identity", "r3x5", "", "y"},
    {"Dropout", "r3x5", "", "y"},
    {"~Cast", "r3x5", "to=1", "y"},
    {"PRelu", "r2x3x4 r3x1", "", "y"},
    {"PRelu@6", "r2x3x4 r3", "", "y"},
    {"PRelu", "r2x3x4 r2x3x4", "", "y"},
    /* two operands, broadcast */
    {"Add", "r2x3x4 r3x1", "", "y"},
    {"Add", "r4 r2x3x4", "", "y"},
    {"Sub", "r2x1x4 r3x1", "", "y"},
    {"Mul", "r2x3x4 r2x1x4", "", "y"},
    {"Mul", "r r2x3", "", "y"},
    {"Div", "r2x3x4 p3x1", "", "y"},
    {"Pow", "p2x3 s2.0", "", "y"},
    {"Pow", "p2x3 s0.5", "", "y"},
    {"Pow", "r2x3 j3", "", "y"},
    {"Pow", "p2x3 r3", "", "y"},
    {"Max", "r2x3 r3 r2x1", "", "y"},
    {"Min", "r2x3 r2x3", "", "y"},
    {"Sum", "r2x3 r3 r2x1", "", "y"},
    {"Mean", "r2x3 r3 r2x1", "", "y"},
    {"Where", "b2x3 r3 r2x1", "", "y"},
    /* products */
    {"MatMul", "r3x4 r4x5", "", "y"},
    {"MatMul", "r2x3x4 r4x5", "", "y"},
    {"MatMul", "r2x3x4 r2x4x5", "", "y"},
    {"MatMul", "r2x1x3x4 r3x4x5", "", "y"},
    {"MatMul", "r3x4 r2x4x5", "", "y"},
    {"MatMul", "r4 r4x5", "", "y"},
    {"MatMul", "r2x3x4 r4", "", "y"},
    {"MatMul", "r4 r2x4x5", "", "y"},
    {"MatMul", "r4 r4", "", "y"},
    {"Gemm", "r3x4 r4x5 r5", "", "y"},
    {"Gemm", "r3x4 r5x4 r3x1", "transB=1 alpha=0.5 beta=2.0", "y"},
    {"Gemm", "r4x3 r4x5 r", "transA=1 alpha=0.5", "y"},
    {"Gemm", "r4x3 r5x4 r3x5", "transA=1 transB=1 alpha=0.5", "y"},
    {"Gemm", "r3x4 r4x5", "", "y"},
    /* convolutions */
    {"Conv", "r2x3x6x7 r4x3x3x3 r4", "", "y"},
    {"Conv", "r2x3x6x7 r4x3x3x3 r4", "pads=[1,0,2,1]", "y"},
    {"Conv", "r2x3x7x8 r4x3x3x2", "strides=[2,3] pads=[1,1,1,1]", "y"},
    {"Conv", "r1x2x9x9 r3x2x3x3", "dilations=[2,3] pads=[1,1,1,1]", "y"},
    {"Conv", "r2x4x5x5 r6x2x3x3 r6", "group=2 strides=[2,2]", "y"},
    {"Conv", "r2x4x6x6 r4x1x3x3 r4", "group=4 pads=[1,1,1,1]", "y"},
    {"Conv", "r2x3x6x6 r6x1x3x3", "group=3 strides=[2,2] pads=[1,1,1,1]", "y"},
    {"Conv", "r2x3x6x7 r4x3x3x3", "auto_pad=SAME_UPPER strides=[2,2]", "y"},
    {"Conv", "r2x3x6x7 r4x3x2x2", "auto_pad=SAME_LOWER", "y"},
    {"Conv", "r2x3x6x7 r4x3x3x3", "auto_pad=VALID", "y"},
    {"Conv", "r2x3x6x6 r4x3x1x1 r4", "", "y"},
    {"Conv", "r2x3x6x6 r4x3x1x1", "strides=[2,2]", "y"},
    {"Conv", "r2x3x9 r4x3x3 r4", "strides=[2] pads=[1,0]", "y"},
    {"Conv", "r1x2x4x5x4 r3x2x2x3x2", "pads=[1,1,0,0,1,1]", "y"},
    {"ConvTranspose", "r2x3x4x5 r3x4x3x3 r4", "", "y"},
    {"ConvTranspose", "r2x3x4x5 r3x2x3x3", "strides=[2,3] pads=[1,1,0,1]", "y"},
    {"ConvTranspose", "r2x3x4x5 r3x2x3x3", "strides=[2,2] pads=[1,1,1,1] output_padding=[1,1]", "y"},
    {"ConvTranspose", "r2x4x4x4 r4x3x2x2 r6", "group=2 strides=[2,2]", "y"},
    {"ConvTranspose", "r2x4x4x4 r4x1x3x3", "group=4 dilations=[2,1]", "y"},
    {"ConvTranspose", "r1x2x4x4 r2x2x3x3", "strides=[2,2] output_shape=[8,8]", "y"},
    {"ConvTranspose", "r1x2x4x4 r2x2x3x3", "strides=[2,2] auto_pad=SAME_UPPER", "y"},
    {"ConvTranspose", "r2x3x5 r3x2x4", "strides=[2]", "y"},
    /* pooling */
    {"MaxPool", "r2x3x6x7", "kernel_shape=[2,2] strides=[2,2]", "y"},
    {"MaxPool", "r2x3x6x7", "kernel_shape=[3,3] pads=[1,1,1,1]", "y"},
    {"MaxPool", "r2x3x7x7", "kernel_shape=[3,2] strides=[2,2] ceil_mode=1 dilations=[1,2]", "y"},
    {"MaxPool", "r2x3x9", "kernel_shape=[3] strides=[2]", "yn"},
    {"AveragePool", "r2x3x6x7", "kernel_shape=[2,3] strides=[2,2]", "y"},
    {"AveragePool", "r2x3x6x7", "kernel_shape=[3,3] pads=[1,1,1,1]", "y"},
    {"AveragePool", "r2x3x6x7", "kernel_shape=[3,3] pads=[1,1,1,1] count_include_pad=1", "y"},
    {"AveragePool", "r2x3x7x7", "kernel_shape=[3,3] strides=[2,2] ceil_mode=1 auto_pad=NOTSET", "y"},
    {"GlobalAveragePool", "r2x3x4x5", "", "y"},
    {"GlobalMaxPool", "r2x3x4x5", "", "y"},
    /* normalizations */
    {"BatchNormalization", "r4x3x4x5 r3 r3 c3 q3", "", "y"},
    {"BatchNormalization", "r4x3x4x5 r3 r3 c3 q3", "training_mode=1", "ynn"},
    {"BatchNormalization", "r6x3 r3 r3 c3 q3", "training_mode=1 epsilon=0.01", "ynn"},
    {"BatchNormalization@13", "r4x3x6 r3 r3 c3 q3", "training_mode=1", "y"},
    {"InstanceNormalization", "r2x3x4x5 r3 r3", "", "y"},
    {"GroupNormalization", "r2x6x4 r6 r6", "num_groups=3", "y"},
    {"GroupNormalization@18", "r2x6x4 r3 r3", "num_groups=3", "y"},
    {"LayerNormalization", "r3x4x5 r5 r5", "", "y"},
    {"LayerNormalization", "r3x4x5 r4x5 r4x5", "axis=1 epsilon=0.01", "y"},
    {"LayerNormalization", "r3x4x5 r r5", "", "y--"},
    {"RMSNormalization@23", "r3x4x5 r5", "", "y"},
    {"SimplifiedLayerNormalization", "r3x4x5 r5", "", "y"},
    {"LpNormalization", "r3x4x5", "axis=1", "y"},
    {"LpNormalization", "r3x4x5", "p=1", "y"},
    {"Softmax", "r3x4x5", "", "y"},
    {"Softmax", "r3x4x5", "axis=1", "y"},
    {"Softmax@11", "r3x4x5", "axis=1", "y"},
    {"LogSoftmax", "r3x4x5", "axis=-1", "y"},
    {"LogSoftmax", "r3x4x5", "axis=0", "y"},
    /* reductions */
    {"ReduceSum", "r3x4x5 i1", "", "y"},
    {"ReduceSum", "r3x4x5 i0,2", "keepdims=0", "y"},
    {"ReduceSum", "r3x4x5", "", "y"},
    {"ReduceSum@11", "r3x4x5", "axes=[1] keepdims=0", "y"},
    {"ReduceMean", "r3x4x5 i-1", "", "y"},
    {"ReduceMean", "r3x4x5 i0,1", "keepdims=0", "y"},
    {"ReduceMax", "r3x4x5 i1", "", "y"},
    {"ReduceMin", "r3x4x5 i1,2", "keepdims=0", "y"},
    {"ReduceProd", "p3x4 i1", "", "y"},
    {"ReduceL1", "r3x4x5 i1", "", "y"},
    {"ReduceL2", "r3x4x5 i1", "keepdims=0", "y"},
    {"ReduceLogSum", "p3x4x5 i1", "", "y"},
    {"ReduceLogSumExp", "r3x4x5 i1", "keepdims=0", "y"},
    {"ReduceSumSquare", "r3x4x5 i1", "", "y"},
    {"CumSum", "r3x4x5 j1", "", "y"},
    {"CumSum", "r3x4x5 j-1", "reverse=1 exclusive=1", "y"},
    /* shapes and indices */
    {"Reshape", "r3x4x5 i5,-1", "", "y"},
    {"Flatten", "r3x4x5", "axis=2", "y"},
    {"Squeeze", "r3x1x5 i1", "", "y"},
    {"Unsqueeze", "r3x5 i0,2", "", "y"},
    {"Transpose", "r3x4x5", "perm=[2,0,1]", "y"},
    {"Transpose", "r3x4x5", "", "y"},
    {"Concat", "r2x3 r2x1 r2x4", "axis=1", "y"},
    {"Concat", "r2x3 c2x1 r2x4", "axis=-1", "y"},
    {"Split", "r2x6 i1,3,2", "axis=1", "yny"},
    {"Split", "r6x2", "num_outputs=3", "yyy"},
    {"Slice", "r4x5x6 i1,0 i4,4 i0,2", "", "y"},
    {"Slice", "r4x5x6 i3,-1 i0,-100 i1,2 i-1,-2", "", "y"},
    {"Slice", "r4x7 i1 i7 i1 i3", "", "y"},
    {"Pad", "r3x4 i1,2,0,3", "", "y"},
    {"Pad", "r3x4 i1,-1,-1,2 s0.5", "", "y"},
    {"Expand", "r3x1 i2,3,4", "", "y"},
    {"Tile", "r2x3x2 i2,1,3", "", "y"},
    {"Gather", "r5x4 i3,0,3", "", "y"},
    {"Gather", "r3x5x4 i-1,2,2", "axis=1", "y"},
    {"Gather", "r3x5 j2", "axis=1", "y"},
    {"GatherElements", "r3x5 l5:3x4", "axis=1", "y"},
    {"GatherND", "r3x5 l3:4x2", "", "y"},
    {"DepthToSpace", "r2x8x2x3", "blocksize=2", "y"},
    {"DepthToSpace", "r2x8x2x3", "blocksize=2 mode=CRD", "y"},
    {"SpaceToDepth", "r2x3x4x6", "blocksize=2", "y"},
    {"ReverseSequence", "r4x3x2 i2,4,1", "", "y"},
    {"Trilu", "r4x4", "upper=0", "y"},
    {"Resize", "r1x2x3x4 - f1,1,2,2",
     "mode=nearest coordinate_transformation_mode=asymmetric nearest_mode=floor", "y"},
    {"Resize", "r1x2x4x5 - f1,1,0.6,1.7", "", "y"},
    {"Resize", "r1x2x3x4 - - i1,2,7,5", "mode=linear", "y"},
    {"Resize", "r1x2x3x4 - f1,1,2,2", "mode=linear coordinate_transformation_mode=align_corners", "y"},
    {"Resize", "r1x2x6x6 - f1,1,0.5,0.5", "mode=linear antialias=1", "y"},
    {"Resize", "r1x2x4x4 - f1,1,2,2", "mode=cubic", "y"},
    {"Upsample@9", "r1x2x3x4 f1,1,2,3", "mode=linear", "y"},
    /* recurrent */
    {"~LSTM", "r3x2x4 r1x12x4 r1x12x3", "hidden_size=3", "yyy"},
    {"~LSTM", "r3x2x4 r1x12x4 r1x12x3 r1x24 - r1x2x3 r1x2x3 r1x9", "hidden_size=3", "yyy"},
    {"~LSTM", "r4x3x2 r2x12x2 r2x12x3 r2x24 i4,2,1 r2x3x3 r2x3x3", "hidden_size=3 direction=bidirectional",
     "yyy"},
    {"~LSTM", "r4x3x2 r1x12x2 r1x12x3 r1x24 i4,0,3", "hidden_size=3 direction=reverse", "-yn"},
    {"~LSTM", "r2x3x2 r1x12x2 r1x12x3 r1x24 - r2x1x3 r2x1x3", "hidden_size=3 layout=1", "yyn"},
    {"~LSTM", "r3x2x4 r1x12x4 r1x12x3 r1x24 - - - r1x9", "hidden_size=3 input_forget=1", "ynn"},
    {"~LSTM", "r3x2x4 r1x12x4 r1x12x3", "hidden_size=3 activations=[HardSigmoid,Softsign,ScaledTanh]", "yyy"},
    {"~LSTM", "r3x2x4 r1x12x4 r1x12x3", "hidden_size=3 activations=[Sigmoid,Elu,Tanh]", "yyy"},
    {"~RNN", "r3x2x4 r1x3x4 r1x3x3", "hidden_size=3 activations=[Softplus]", "yy"},
    {"~RNN", "r3x2x4 r1x3x4 r1x3x3", "hidden_size=3 activations=[Affine]", "yy"},
    {"~RNN", "r3x2x4 r1x3x4 r1x3x3", "hidden_size=3 activations=[LeakyRelu]", "yy"},
    {"~GRU", "r3x2x4 r1x9x4 r1x9x3", "hidden_size=3 activations=[Sigmoid,Relu]", "yy"},
    {"~GRU", "r3x2x4 r1x9x4 r1x9x3", "hidden_size=3", "yy"},
    {"~GRU", "r3x2x4 r1x9x4 r1x9x3 r1x18 - r1x2x3", "hidden_size=3 linear_before_reset=1", "yy"},
    {"~GRU", "r4x3x2 r2x9x2 r2x9x3 r2x18 i4,2,1 r2x3x3", "hidden_size=3 direction=bidirectional", "yy"},
    {"~GRU", "r4x3x2 r2x9x2 r2x9x3 r2x18 i4,2,1",
     "hidden_size=3 direction=bidirectional linear_before_reset=1", "yy"},
    {"~GRU", "r4x3x2 r1x9x2 r1x9x3 r1x18", "hidden_size=3 direction=reverse layout=1", "yn"},
    {"~RNN", "r3x2x4 r1x3x4 r1x3x3 r1x6 - r1x2x3", "hidden_size=3", "yy"},
    {"~RNN", "r4x3x2 r2x3x2 r2x3x3 r2x6 i4,2,1", "hidden_size=3 direction=bidirectional", "yy"},
    /* losses */
    {"SoftmaxCrossEntropyLoss", "r4x5 l5:4", "", "y"},
    {"SoftmaxCrossEntropyLoss", "r4x5 l5:4 q5", "reduction=sum", "y"},
    {"SoftmaxCrossEntropyLoss", "r2x5x3 l5:2x3 q5", "ignore_index=2", "y"},
    {"SoftmaxCrossEntropyLoss", "r4x5 l5:4", "reduction=none", "y"},
    {"NegativeLogLikelihoodLoss", "r4x5 l5:4 q5", "", "y"},
    {"NegativeLogLikelihoodLoss", "r2x5x3 l5:2x3", "reduction=none ignore_index=1", "y"},
};

/* ---- random numbers ------------------------------------------------------------------------------------ */

static nw_random generator;

static double uniform(double lo, double hi) {
    return test_uniform(&generator, lo, hi);
}

static bool is_coarse(const grad_case *test) {
    return test->op[0] == '~';
}

/* ---- building a case ----------------------------------------------------------------------------------- */

#define MOST 12

/* The tensors of one case, made once: trained ones are fed, in whatever format the graph has. */
typedef struct trained {
    char name[16];
    nw_tensor shape;
    double *values;
} trained;

typedef struct built {
    nw_graph *graph;
    int loss, count;
    trained in[MOST];
    int ids[MOST];
} built;

static nw_tensor shape_of(const char *text) {
    nw_tensor t = {.rank = 0};
    while (isdigit((unsigned char)*text)) {
        t.dims[t.rank++] = strtol(text, (char **)&text, 10);
        if (*text == 'x') text++;
    }
    return t;
}

static int constant(nw_graph *g, nw_format format, const nw_tensor *shape, const double *values) {
    nw_tensor t = *shape;
    size_t count = nw_tensor_count(shape);
    int id;
    t.format = format;
    t.data = calloc(count + 1, 8);
    for (size_t i = 0; i < count; i++) nw_store_f64(format, t.data, i, values[i]);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &t, &id));
    free(t.data);
    return id;
}

static int list_constant(nw_graph *g, nw_format format, const char *text, bool scalar) {
    double values[16];
    nw_tensor shape = {.rank = scalar ? 0 : 1};
    while (*text) {
        values[shape.dims[0]++] = strtod(text, (char **)&text);
        if (*text == ',') text++;
    }
    if (scalar) shape.dims[0] = 0;
    return constant(g, format, &shape, values);
}

static int random_constant(nw_graph *g, nw_format format, const nw_tensor *shape, double lo, double hi,
                           bool whole) {
    double *values = malloc((nw_tensor_count(shape) + 1) * sizeof *values);
    for (size_t i = 0; i < nw_tensor_count(shape); i++)
        values[i] = whole ? floor(uniform(lo, hi)) : uniform(lo, hi);
    int id = constant(g, format, shape, values);
    free(values);
    return id;
}

static int add_input(built *b, const char *word, nw_format format) {
    char kind = word[0];
    bool positive = kind == 'p' || kind == 'q';
    double lo = positive ? 0.5 : -1.5, hi = positive ? 2 : 1.5;
    nw_tensor shape;
    switch (kind) {
    case '-': return NW_ABSENT;
    case 'i':
    case 'j': return list_constant(b->graph, NW_S64, word + 1, kind == 'j');
    case 'f':
    case 's': return list_constant(b->graph, format, word + 1, kind == 's');
    case 'b': shape = shape_of(word + 1); return random_constant(b->graph, NW_BOOL, &shape, 0, 2, true);
    case 'l':
        shape = shape_of(strchr(word, ':') + 1);
        return random_constant(b->graph, NW_S64, &shape, 0, atoi(word + 1), true);
    default: break;
    }
    shape = shape_of(word + 1);
    if (kind == 'c' || kind == 'q') return random_constant(b->graph, format, &shape, lo, hi, false);
    trained *t = &b->in[b->count];
    int id;
    snprintf(t->name, sizeof t->name, "in%d", b->count);
    t->shape = shape;
    t->values = malloc((nw_tensor_count(&shape) + 1) * sizeof *t->values);
    for (size_t i = 0; i < nw_tensor_count(&shape); i++) t->values[i] = uniform(lo, hi);
    assert_ok(&ctx, nw_graph_add_value(b->graph, t->name, &id));
    nw_value *v = &b->graph->values[id];
    v->format = format;
    v->rank = shape.rank;
    memcpy(v->dims, shape.dims, sizeof v->dims);
    assert_ok(&ctx, nw_graph_add_input(b->graph, id));
    b->ids[b->count++] = id;
    return id;
}

/* "[a,b]" as an attribute of words. */
static void set_words(nw_graph *g, nw_node *node, const char *name, char *list) {
    nw_str words[6] = {{0}};
    size_t count = 0;
    list[strcspn(list, "]")] = 0;
    for (char *word; (word = strsep(&list, ","));) words[count++] = (nw_str){word, strlen(word)};
    assert_ok(&ctx, nw_node_set_string(g, node, name, "")); /* makes room */
    nw_attr *a = &node->attrs[node->attr_count - 1];
    nw_str *kept = nw_arena_array(&g->arena, count, sizeof *kept);
    for (size_t i = 0; i < count; i++)
        kept[i] = (nw_str){nw_arena_strndup(&g->arena, words[i].data, words[i].size), words[i].size};
    a->kind = NW_ATTR_STRINGS;
    a->strings = kept;
    a->count = count;
}

static void set_attr(nw_graph *g, nw_node *node, char *text) {
    char *value = strchr(text, '=');
    *value++ = 0;
    int64_t list[8];
    size_t count = 0;
    if (*value == '[' && isalpha((unsigned char)value[1])) {
        set_words(g, node, text, value + 1);
    } else if (*value == '[') {
        for (value++; *value && *value != ']'; value += *value == ',')
            list[count++] = strtol(value, &value, 10);
        assert_ok(&ctx, nw_node_set_ints(g, node, text, list, count));
    } else if (isalpha((unsigned char)*value)) {
        assert_ok(&ctx, nw_node_set_string(g, node, text, value));
    } else if (strchr(value, '.')) {
        assert_ok(&ctx, nw_node_set_float(g, node, text, strtof(value, NULL)));
    } else {
        assert_ok(&ctx, nw_node_set_int(g, node, text, strtol(value, NULL, 10)));
    }
}

static int add_node(nw_graph *g, const char *op, int in_count, const int *in) {
    int out;
    assert_ok(&ctx, nw_graph_add_value(g, NULL, &out));
    assert_ok(&ctx, nw_graph_add_node(g, "", op, op, in_count, in, 1, &out, NULL));
    return out;
}

/* loss = Σ over the outputs that count of Σ output·weight, with random weights. Output shapes come from a
 * first run. */
static void build(built *b, const grad_case *test, nw_format format, const nw_tensor *weights) {
    char text[200], *rest = text, *word;
    int in[MOST], out[MOST], in_count = 0, out_count = (int)strlen(test->outputs);
    char name[40];
    const char *domain = "", *op = name, *at = strchr(test->op, '@');
    *b = (built){.count = 0};
    generator = (nw_random){2}; /* puts no kink (Relu, Max …) within a step of the differences */
    snprintf(name, sizeof name, "%s", test->op + is_coarse(test));
    name[strcspn(name, "@")] = 0;
    if (strchr(name, ':')) {
        domain = name[0] == 'm' ? "com.microsoft" : "ai.narrow";
        op = strchr(name, ':') + 1;
    }
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &b->graph));
    assert_ok(&ctx, nw_graph_set_opset(b->graph, "", at ? atoi(at + 1) : 21));
    assert_ok(&ctx, nw_graph_set_opset(b->graph, "com.microsoft", 1));
    snprintf(text, sizeof text, "%s", test->inputs);
    while ((word = strsep(&rest, " "))) in[in_count++] = add_input(b, word, format);
    for (int i = 0; i < out_count; i++) {
        out[i] = NW_ABSENT;
        if (test->outputs[i] != '-') assert_ok(&ctx, nw_graph_add_value(b->graph, NULL, &out[i]));
    }
    nw_node *node;
    assert_ok(&ctx, nw_graph_add_node(b->graph, domain, op, "tested", in_count, in, out_count, out, &node));
    snprintf(text, sizeof text, "%s", test->attrs);
    rest = text;
    while ((word = strsep(&rest, " ")))
        if (*word) set_attr(b->graph, node, word);
    b->loss = NW_ABSENT;
    for (int i = 0; i < out_count; i++) {
        if (test->outputs[i] != 'y') continue;
        if (!weights) {
            assert_ok(&ctx, nw_graph_add_output(b->graph, out[i]));
            continue;
        }
        int w = constant(b->graph, format, &weights[i], weights[i].data);
        int term = add_node(b->graph, "Mul", 2, (int[]){out[i], w});
        term = add_node(b->graph, "ReduceSum", 1, &term);
        assert_ok(&ctx, nw_node_set_int(b->graph, &b->graph->nodes[b->graph->node_count - 1], "keepdims", 0));
        b->loss = b->loss < 0 ? term : add_node(b->graph, "Add", 2, (int[]){b->loss, term});
    }
    if (weights) assert_ok(&ctx, nw_graph_add_output(b->graph, b->loss));
    assert_ok(&ctx, nw_graph_resolve(b->graph));
}

static void drop(built *b) {
    for (int i = 0; i < b->count; i++) free(b->in[i].values);
    nw_graph_free(b->graph);
}

static nw_session *open_session(const built *b, bool reference) {
    nw_session *s;
    nw_run_options options = {.threads = 1, .isa = nw_isa_detect(), .reference = reference};
    assert_ok(&ctx, nw_session_new(&ctx, b->graph, &options, &s));
    return s;
}

static void run(nw_session *s, const built *b, nw_format format, nw_arena *arena, nw_tensor *outputs) {
    nw_feed feeds[MOST];
    for (int i = 0; i < b->count; i++) {
        feeds[i] = (nw_feed){b->in[i].name, b->in[i].shape};
        feeds[i].tensor.format = format;
        assert_ok(&ctx, nw_tensor_alloc(arena, &feeds[i].tensor));
        for (size_t k = 0; k < nw_tensor_count(&b->in[i].shape); k++)
            nw_store_f64(format, feeds[i].tensor.data, k, b->in[i].values[k]);
    }
    assert_ok(&ctx, nw_session_run(s, (size_t)b->count, feeds, arena, outputs));
}

/* ---- the check ----------------------------------------------------------------------------------------- */

/* Random weights of the outputs that count. */
static void make_weights(const grad_case *test, nw_format format, nw_arena *arena, nw_tensor *weights) {
    built b;
    nw_tensor outputs[MOST];
    build(&b, test, format, NULL);
    nw_session *s = open_session(&b, true);
    run(s, &b, format, arena, outputs);
    for (int i = 0, o = 0; test->outputs[i]; i++) {
        if (test->outputs[i] != 'y') continue;
        weights[i] = outputs[o++];
        size_t count = nw_tensor_count(&weights[i]);
        double *values = nw_arena_array(arena, count, sizeof *values);
        for (size_t k = 0; k < count; k++) values[k] = uniform(-1, 1);
        weights[i].data = values;
    }
    nw_session_free(s);
    drop(&b);
}

static double loss_at(nw_session *s, built *b, nw_format format, int input, const double *direction,
                      double step) {
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    trained *t = &b->in[input];
    size_t count = nw_tensor_count(&t->shape);
    double *kept = t->values, *moved = malloc((count + 1) * sizeof *moved);
    for (size_t k = 0; k < count; k++) moved[k] = kept[k] + step * direction[k];
    t->values = moved;
    nw_tensor loss;
    run(s, b, format, &arena, &loss);
    double value = nw_tensor_f64(&loss, 0);
    t->values = kept;
    free(moved);
    nw_arena_free(&arena);
    return value;
}

/* Central differences of fourth order: (8·(f(h) − f(−h)) − (f(2h) − f(−2h)))/12h. */
static double slope_along(nw_session *s, built *b, nw_format format, int input, const double *direction,
                          double h) {
    double near = loss_at(s, b, format, input, direction, h) - loss_at(s, b, format, input, direction, -h);
    double far =
        loss_at(s, b, format, input, direction, 2 * h) - loss_at(s, b, format, input, direction, -2 * h);
    return (8 * near - far) / (12 * h);
}

/* |difference quotient − gradient·direction| ≤ tolerance·Σ |gradient·direction|, for two directions per
 * input. */
static bool check_case(const grad_case *test, bool reference, char *message, size_t size) {
    nw_format exact = is_coarse(test) ? NW_F32 : NW_F64;
    double tolerance = is_coarse(test) ? 2e-3 : 2e-5, h = is_coarse(test) ? 0.02 : 1e-4;
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    nw_tensor weights[MOST], results[MOST + 1];
    make_weights(test, exact, &arena, weights);
    built single, precise;
    build(&single, test, NW_F32, weights);
    build(&precise, test, exact, weights);
    int gradients[MOST];
    assert_ok(&ctx, nw_backward(single.graph, single.loss, single.count, single.ids, gradients));
    for (int i = 0; i < single.count; i++) {
        assert_true(gradients[i] >= 0);
        assert_ok(&ctx, nw_graph_add_output(single.graph, gradients[i]));
    }
    assert_ok(&ctx, nw_graph_verify(single.graph));
    nw_session *joined = open_session(&single, reference), *forward = open_session(&precise, true);
    run(joined, &single, NW_F32, &arena, results);
    bool good = true;
    for (int i = 0; i < 2 * single.count && good; i++) {
        const nw_tensor *g = &results[1 + i / 2];
        size_t count = nw_tensor_count(g);
        double *direction = nw_arena_array(&arena, count, sizeof *direction), dot = 0, scale = 1e-3;
        assert_true(nw_tensor_same_shape(g, &single.in[i / 2].shape));
        for (size_t k = 0; k < count; k++) {
            direction[k] = uniform(-1, 1);
            dot += nw_tensor_f64(g, k) * direction[k];
            scale += fabs(nw_tensor_f64(g, k) * direction[k]);
        }
        double slope = slope_along(forward, &precise, exact, i / 2, direction, h);
        good = fabs(slope - dot) <= tolerance * scale;
        if (!good)
            snprintf(message, size, "%s(%s) %s: input %d: gradient %.7g, differences %.7g", test->op,
                     test->inputs, test->attrs, i / 2, dot, slope);
    }
    nw_session_free(joined);
    nw_session_free(forward);
    drop(&single);
    drop(&precise);
    nw_arena_free(&arena);
    return good;
}

static void check_all(bool reference) {
    int failed = 0;
    char message[400];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!check_case(&cases[i], reference, message, sizeof message)) {
            print_error("%s\n", message);
            failed++;
        }
    if (failed) fail_msg("%d of %zu gradients are wrong", failed, sizeof cases / sizeof *cases);
}

static void test_planned(void **state) {
    (void)state;
    check_all(false);
}

static void test_reference(void **state) {
    (void)state;
    check_all(true);
}

/* ---- planned against reference ----------------------------------------------------------------------------- */

/* Shapes that reach the planner's blocks, parts and phases. `fast`: operators that no reference may compute. */
typedef struct planned_case {
    grad_case graph;
    const char *fast;
} planned_case;

static const planned_case planned[] = {
    {{"Conv", "r5x16x15x17 r24x16x3x3 r24", "pads=[1,1,1,1]", "y"}, "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r3x3x19x20 r18x3x5x5 r18", "pads=[2,2,2,2]", "y"}, "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r4x16x16x15 r32x16x3x3", "strides=[2,2] pads=[1,1,1,1]", "y"},
     "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r4x16x16x16 r32x16x1x1", "strides=[2,2]", "y"}, "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r2x7x21x22 r9x7x4x5", "strides=[3,2] dilations=[2,3] pads=[3,2,1,0]", "y"},
     "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r3x12x13x14 r8x3x3x3", "group=4 strides=[1,2] pads=[1,1,1,1]", "y"},
     "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r4x40x13x11 r40x1x3x3 r40", "group=40 pads=[1,1,1,1]", "y"},
     "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r4x40x13x11 r40x1x3x3", "group=40 strides=[2,2] pads=[1,1,1,1]", "y"},
     "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r2x300x6x6 r310x300x3x3", "pads=[1,1,1,1]", "y"}, "Conv ConvTranspose ConvWeightGrad"},
    {{"Conv", "r4x6x200 r8x6x9 r8", "strides=[4] pads=[4,4]", "y"}, "Conv ConvTranspose ConvWeightGrad"},
    {{"ConvTranspose", "r3x16x9x10 r16x20x4x4 r20", "strides=[2,2] pads=[1,1,1,1]", "y"},
     "ConvTranspose Conv ConvWeightGrad"},
    {{"ConvTranspose", "r2x6x9x10 r6x4x2x2 r4", "strides=[3,3] output_padding=[1,2]", "y"}, "ConvTranspose"},
    {{"Gemm", "r70x100 r50x100 r50", "transB=1", "y"}, "Gemm"},
    {{"Gemm", "r600x100 r100x300", "", "y"}, "Gemm"},
    {{"MatMul", "r7x40x65 r65x70", "", "y"}, "Gemm"},
    {{"Relu", "r3x20x30x31", "", "y"}, "UnaryGrad"},
    {{"Gelu", "r300x70", "", "y"}, "UnaryGrad"},
    {{"MaxPool", "r3x20x24x25", "kernel_shape=[2,2] strides=[2,2]", "y"}, "MaxPoolGrad"},
    {{"MaxPool", "r2x70x17x18", "kernel_shape=[3,3] strides=[2,1] pads=[1,1,1,1]", "y"}, "MaxPoolGrad"},
    {{"AveragePool", "r2x33x17x18", "kernel_shape=[3,2] strides=[2,1] pads=[1,1,1,0]", "y"},
     "AveragePoolGrad"},
    {{"AveragePool", "r2x33x17x18", "kernel_shape=[3,3] pads=[1,1,1,1] count_include_pad=1", "y"},
     "AveragePoolGrad"},
    {{"GlobalAveragePool", "r4x33x17x18", "", "y"}, "Expand"},
    {{"nw:FakeQuant", "r5x17x20x21 s0.01", "format=s8", "y"}, "FakeQuantGrad"},
    {{"nw:FakeQuant", "r50x300 p50", "format=s4 axis=0", "y"}, "FakeQuant FakeQuantGrad"},
    {{"nw:FakeQuant", "r3x20x12x11 p", "format=u8 lsq=1", "y"}, "FakeQuant FakeQuantGrad"},
    {{"BatchNormalization", "r9x17x24x23 p17 r17 c17 q17", "training_mode=1 epsilon=0.1", "ynn"},
     "BatchNormalization BatchNormalizationGrad"},
    {{"BatchNormalization", "r70x33 p33 r33 c33 q33", "training_mode=1", "y"},
     "BatchNormalization BatchNormalizationGrad"},
};

static bool is_word(const char *words, const char *word) {
    const size_t length = strlen(word);
    for (const char *at = words; length > 0 && (at = strstr(at, word)); at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == 0 || at[length] == ' ')) return true;
    return false;
}

static void run_planned(const planned_case *test, const built *b, int threads, bool reference,
                        nw_arena *arena, nw_tensor *results) {
    nw_session *s;
    nw_step_info step;
    nw_run_options options = {.threads = threads, .isa = nw_isa_detect(), .reference = reference};
    assert_ok(&ctx, nw_session_new(&ctx, b->graph, &options, &s));
    run(s, b, NW_F32, arena, results);
    for (int i = 0; !reference && nw_session_step(s, i, &step); i++)
        if (is_word(test->fast, step.op) && strcmp(step.kernel, "reference") == 0)
            fail_msg("%s(%s): %s is computed by its reference", test->graph.op, test->graph.inputs, step.op);
    nw_session_free(s);
}

/* Gradients by the planner's steps are those of the references, with the same bits on one thread and on three. */
static void check_planned(const planned_case *test) {
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    nw_tensor weights[MOST], want[MOST + 1], got[MOST + 1], again[MOST + 1];
    make_weights(&test->graph, NW_F32, &arena, weights);
    built b;
    build(&b, &test->graph, NW_F32, weights);
    int gradients[MOST];
    assert_ok(&ctx, nw_backward(b.graph, b.loss, b.count, b.ids, gradients));
    for (int i = 0; i < b.count; i++) assert_ok(&ctx, nw_graph_add_output(b.graph, gradients[i]));
    run_planned(test, &b, 1, true, &arena, want);
    run_planned(test, &b, 1, false, &arena, got);
    run_planned(test, &b, 3, false, &arena, again);
    for (int i = 1; i <= b.count; i++) {
        double most = 0;
        for (size_t k = 0; k < nw_tensor_count(&want[i]); k++)
            most = fmax(most, fabs(nw_tensor_f64(&want[i], k)));
        char message[200];
        if (!test_same(&got[i], &want[i], 1e-4, 2e-5 * most, message, sizeof message))
            fail_msg("%s(%s) %s: gradient %d: %s", test->graph.op, test->graph.inputs, test->graph.attrs,
                     i - 1, message);
        assert_memory_equal(got[i].data, again[i].data, nw_tensor_bytes(&got[i]));
    }
    drop(&b);
    nw_arena_free(&arena);
}

static void test_against_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++) check_planned(&planned[i]);
}

int main(void) {
    nw_context_init(&ctx, NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_planned), cmocka_unit_test(test_reference),
                                       cmocka_unit_test(test_against_reference)};
    return cmocka_run_group_tests_name("grad", tests, NULL, NULL);
}
