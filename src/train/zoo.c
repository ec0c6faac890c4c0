/* zoo.c: architectures, written with a handful of layers. */
#include "train/zoo.h"

#include "base/random.h"
#include "op/op.h"

#include <inttypes.h>
#include <string.h>

#define OPSET 13 /* as late as the operators need, so that older runtimes read it too */

/* A network under construction: the value that the next layer reads, and its shape for one sample. The first
 * failure stays in `status`, and later layers do nothing. */
typedef struct net {
    nw_graph *g;
    nw_random random;
    int at; /* value */
    int64_t c, h, w;
    int layers; /* for names */
    nw_status status;
} net;

static bool fails(net *n, nw_status status) {
    if (n->status == NW_OK) n->status = status;
    return n->status != NW_OK;
}

/* A constant of weights [dims] with this fan-in, or, with fan_in 0, `value` everywhere. */
static int weights(net *n, const char *layer, const char *what, int rank, const int64_t *dims, int64_t fan_in,
                   float value) {
    char name[96];
    int id = NW_ABSENT;
    nw_arena scratch;
    nw_tensor t = {.format = NW_F32};
    if (n->status != NW_OK) return id;
    snprintf(name, sizeof name, "%s.%s", layer, what);
    nw_tensor_set_shape(&t, rank, dims);
    nw_arena_init(&scratch, n->g->ctx);
    if (!fails(n, nw_tensor_check(n->g->ctx, &t)) && !fails(n, nw_tensor_alloc(&scratch, &t))) {
        double sigma = fan_in ? sqrt(2.0 / (double)fan_in) : 0;
        for (size_t i = 0; i < nw_tensor_count(&t); i++)
            ((float *)t.data)[i] = fan_in ? (float)(sigma * nw_random_normal(&n->random)) : value;
        fails(n, nw_graph_add_constant_copy(n->g, name, &t, &id));
    }
    nw_arena_free(&scratch);
    return id;
}

/* The next layer: an operator on `in`; its result is what comes next. The node is NULL after a failure. */
static nw_node *add(net *n, const char *op, const char *name, int count, const int *in) {
    nw_node *node = NULL;
    int out;
    if (n->status != NW_OK || fails(n, nw_graph_add_value(n->g, name, &out)) ||
        fails(n, nw_graph_add_node(n->g, "", op, name, count, in, 1, &out, &node)))
        return NULL;
    n->at = out;
    return node;
}

static void set_ints(net *n, nw_node *node, const char *name, size_t count, const int64_t *values) {
    if (node) fails(n, nw_node_set_ints(n->g, node, name, values, count));
}

static void name_layer(net *n, const char *kind, char *name, size_t size) {
    snprintf(name, size, "%s%d", kind, ++n->layers);
}

static void relu(net *n) {
    char name[32];
    name_layer(n, "relu", name, sizeof name);
    add(n, "Relu", name, 1, &n->at);
}

static void batchnorm(net *n) {
    char name[32];
    name_layer(n, "norm", name, sizeof name);
    int in[5] = {n->at};
    in[1] = weights(n, name, "scale", 1, &n->c, 0, 1);
    in[2] = weights(n, name, "shift", 1, &n->c, 0, 0);
    in[3] = weights(n, name, "mean", 1, &n->c, 0, 0);
    in[4] = weights(n, name, "variance", 1, &n->c, 0, 1);
    add(n, "BatchNormalization", name, 5, in);
}

typedef struct conv_shape {
    int64_t out, kh, kw, stride;
    bool depthwise, bias;
} conv_shape;

/* Padding so that ⌈size/stride⌉ results come out, the odd pixel behind. */
static int64_t same_padding(int64_t size, int64_t kernel, int64_t stride, int64_t *before, int64_t *after) {
    int64_t out = (size + stride - 1) / stride, all = (out - 1) * stride + kernel - size;
    if (all < 0) all = 0;
    *before = all / 2;
    *after = all - *before;
    return out;
}

static void conv(net *n, const conv_shape *s) {
    char name[32];
    int64_t pads[4], group = s->depthwise ? n->c : 1, per_group = n->c / group;
    name_layer(n, "conv", name, sizeof name);
    int in[3] = {n->at}, count = 2;
    in[1] = weights(n, name, "weight", 4, (int64_t[]){s->out, per_group, s->kh, s->kw},
                    per_group * s->kh * s->kw, 0);
    if (s->bias) in[count++] = weights(n, name, "bias", 1, &s->out, 0, 0);
    n->h = same_padding(n->h, s->kh, s->stride, &pads[0], &pads[2]);
    n->w = same_padding(n->w, s->kw, s->stride, &pads[1], &pads[3]);
    n->c = s->out;
    nw_node *node = add(n, "Conv", name, count, in);
    set_ints(n, node, "kernel_shape", 2, (int64_t[]){s->kh, s->kw});
    set_ints(n, node, "strides", 2, (int64_t[]){s->stride, s->stride});
    set_ints(n, node, "pads", 4, pads);
    if (node && group > 1) fails(n, nw_node_set_int(n->g, node, "group", group));
}

/* Conv, BatchNormalization, Relu. */
static void conv_norm(net *n, const conv_shape *s, bool with_relu) {
    conv(n, s);
    batchnorm(n);
    if (with_relu) relu(n);
}

/* 2×2, stride 2. */
static void max_pool(net *n) {
    char name[32];
    name_layer(n, "pool", name, sizeof name);
    n->h /= 2;
    n->w /= 2;
    if (n->status == NW_OK && (n->h < 1 || n->w < 1))
        fails(n, nw_fail(n->g->ctx, NW_E_ARGUMENT,
                         "images must have at least 4 x 4 pixels for this architecture"));
    nw_node *node = add(n, "MaxPool", name, 1, &n->at);
    set_ints(n, node, "kernel_shape", 2, (int64_t[]){2, 2});
    set_ints(n, node, "strides", 2, (int64_t[]){2, 2});
}

static void average_all(net *n) {
    add(n, "GlobalAveragePool", "average", 1, &n->at);
    n->h = n->w = 1;
}

static void flatten(net *n) {
    add(n, "Flatten", "flat", 1, &n->at);
    n->c *= n->h * n->w;
    n->h = n->w = 1;
}

static void dense(net *n, int64_t out, const char *name) {
    int in[3] = {n->at};
    in[1] = weights(n, name, "weight", 2, (int64_t[]){out, n->c}, n->c, 0);
    in[2] = weights(n, name, "bias", 1, &out, 0, 0);
    nw_node *node = add(n, "Gemm", name, 3, in);
    if (node) fails(n, nw_node_set_int(n->g, node, "transB", 1));
    n->c = out;
}

static void dense_relu(net *n, int64_t out) {
    char name[32];
    name_layer(n, "dense", name, sizeof name);
    dense(n, out, name);
    relu(n);
}

/* ---- architectures --------------------------------------------------------------------------------------- */

/* LeCun et al. 1998, with Relu and MaxPool as is usual today. */
static void lenet(net *n) {
    conv(n, &(conv_shape){6, 5, 5, 1, false, true});
    relu(n);
    max_pool(n);
    conv(n, &(conv_shape){16, 5, 5, 1, false, true});
    relu(n);
    max_pool(n);
    flatten(n);
    dense_relu(n, 120);
    dense_relu(n, 84);
}

static void mlp(net *n) {
    flatten(n);
    dense_relu(n, 256);
    dense_relu(n, 128);
}

/* Two convolutions and what they read, added; a 1×1 convolution fits the shapes together where they differ. */
static void residual(net *n, int64_t channels, int64_t stride) {
    net from = *n;
    char name[32];
    conv_norm(n, &(conv_shape){channels, 3, 3, stride, false, false}, true);
    conv_norm(n, &(conv_shape){channels, 3, 3, 1, false, false}, false);
    int in[2] = {n->at, from.at};
    if (stride != 1 || from.c != channels) {
        int64_t h = n->h, w = n->w;
        n->at = from.at;
        n->c = from.c;
        n->h = from.h;
        n->w = from.w;
        conv_norm(n, &(conv_shape){channels, 1, 1, stride, false, false}, false);
        in[1] = n->at;
        n->h = h;
        n->w = w;
    }
    name_layer(n, "add", name, sizeof name);
    add(n, "Add", name, 2, in);
    relu(n);
}

/* He et al. 2016 for CIFAR: 16, 32 and 64 channels; `blocks` residual blocks of each. */
static void resnet(net *n, int blocks) {
    conv_norm(n, &(conv_shape){16, 3, 3, 1, false, false}, true);
    for (int64_t channels = 16; channels <= 64; channels *= 2)
        for (int b = 0; b < blocks; b++) residual(n, channels, b == 0 && channels > 16 ? 2 : 1);
    average_all(n);
    flatten(n);
}

static void resnet8(net *n) {
    resnet(n, 1);
}

static void resnet20(net *n) {
    resnet(n, 3);
}

/* Zhang et al. 2017, "Hello Edge": depthwise separable convolutions for spectra [1, 49, 10]. */
static void dscnn(net *n) {
    conv_norm(n, &(conv_shape){64, 10, 4, 2, false, false}, true);
    for (int b = 0; b < 4; b++) {
        conv_norm(n, &(conv_shape){64, 3, 3, 1, true, false}, true);
        conv_norm(n, &(conv_shape){64, 1, 1, 1, false, false}, true);
    }
    average_all(n);
    flatten(n);
}

/* The network of examples/letters: a little of everything. */
static void letters(net *n) {
    conv_norm(n, &(conv_shape){32, 3, 3, 1, false, false}, true);
    conv_norm(n, &(conv_shape){32, 3, 3, 2, true, false}, true);
    conv_norm(n, &(conv_shape){64, 1, 1, 1, false, false}, true);
    conv_norm(n, &(conv_shape){96, 3, 3, 2, false, false}, true);
    residual(n, 96, 1);
    average_all(n);
    flatten(n);
}

static nw_status start(net *n, const int64_t *shape) {
    NW_TRY(nw_graph_set_opset(n->g, "", OPSET));
    n->g->info->ir_version = 8;
    n->g->info->producer_name = "narrow";
    NW_TRY(nw_graph_add_value(n->g, "input", &n->at));
    nw_value *v = &n->g->values[n->at];
    v->format = NW_F32;
    v->rank = 4;
    v->dims[0] = -1;
    memcpy(v->dims + 1, shape, 3 * sizeof *shape);
    n->c = shape[0];
    n->h = shape[1];
    n->w = shape[2];
    return nw_graph_add_input(n->g, n->at);
}

/* The free first dimension of a value is called N. */
static nw_status name_batch(nw_graph *g, int id) {
    const char **names = nw_arena_array(&g->arena, (size_t)g->values[id].rank, sizeof *names);
    if (!names) return NW_E_MEMORY;
    names[0] = "N";
    g->values[id].dim_names = names;
    return NW_OK;
}

static nw_status finish(net *n, int64_t classes) {
    dense(n, classes, "logits");
    NW_TRY(n->status);
    nw_value *v = &n->g->values[n->at];
    v->format = NW_F32;
    v->rank = 2;
    v->dims[0] = -1;
    v->dims[1] = classes;
    NW_TRY(name_batch(n->g, n->g->inputs[0]));
    NW_TRY(name_batch(n->g, n->at));
    NW_TRY(nw_graph_add_output(n->g, n->at));
    return nw_graph_resolve(n->g);
}

nw_status nw_zoo_make(nw_context *ctx, const char *architecture, const int64_t *shape, int64_t classes,
                      uint64_t seed, nw_graph **out) {
    static const struct {
        const char *name;
        void (*layers)(net *n);
    } all[] = {{"lenet", lenet},       {"mlp", mlp},     {"resnet8", resnet8},
               {"resnet20", resnet20}, {"dscnn", dscnn}, {"letters", letters}};
    size_t which = 0, count = sizeof all / sizeof *all;
    while (which < count && strcmp(all[which].name, architecture) != 0) which++;
    if (which == count)
        return nw_fail(ctx, NW_E_ARGUMENT, "architecture \"%s\" is unknown: use one of %s", architecture,
                       NW_ZOO_WORDS);
    for (int d = 0; d < 3; d++)
        if (shape[d] < 1 || shape[d] > 65536)
            return nw_fail(ctx, NW_E_ARGUMENT,
                           "an input of %" PRId64 "x%" PRId64 "x%" PRId64 " makes no sense: give "
                           "channels, height and width, 1 to 65536 each",
                           shape[0], shape[1], shape[2]);
    if (classes < 2 || classes > 1 << 24)
        return nw_fail(ctx, NW_E_ARGUMENT, "%" PRId64 " classes make no sense: two are the least", classes);
    net n = {.random = {seed}};
    NW_TRY(nw_graph_new(ctx, NULL, &n.g));
    n.status = start(&n, shape);
    all[which].layers(&n);
    nw_status status = finish(&n, classes);
    if (status != NW_OK)
        nw_graph_free(n.g);
    else
        *out = n.g;
    return status;
}
