/* test_prune.c: pruning: shares and patterns of zeros, zeros under quantization, channels of graphs that branch, join,
 * pad, flatten and normalize: what is cut away must not have mattered. */
#include "base/random.h"
#include "op/op.h"
#include "quant/quant.h"
#include "run/run.h"
#include "run/simplify.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"
#include "train/prune.h"
#include "train/zoo.h"

#include <math.h>
#include <string.h>

static nw_context ctx;
static nw_arena arena;

static int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    nw_arena_free(&arena);
    return 0;
}

static float *numbers(const nw_graph *g, int v) {
    return (float *)(uintptr_t)g->values[v].constant->tensor.data;
}

static size_t zeros_of(const float *x, size_t count) {
    size_t zeros = 0;
    for (size_t i = 0; i < count; i++) zeros += x[i] == 0;
    return zeros;
}

static nw_graph *new_model(const char *name, const int64_t *shape) {
    nw_graph *g;
    assert_ok(&ctx, nw_zoo_make(&ctx, name, shape, 6, 3, &g));
    return g;
}

/* ---- single weights -------------------------------------------------------------------------------------- */

static void test_words(void **state) {
    (void)state;
    nw_prune_options o = {0};
    assert_ok(&ctx, nw_prune_parse(&ctx, "0.75", &o));
    assert_true(o.sparsity == 0.75 && o.of == 0);
    o = (nw_prune_options){0};
    assert_ok(&ctx, nw_prune_parse(&ctx, "2:4", &o));
    assert_true(o.keep == 2 && o.of == 4 && o.sparsity == 0);
    static const char *const wrong[] = {"",   "1",  "0",    "-0.5", "half", "nan", "4:2",
                                        "2:", ":4", "2:4x", "0:4",  "9:99", "0.5 "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(&ctx, NW_E_ARGUMENT, "pruning", nw_prune_parse(&ctx, wrong[i], &o));
}

/* The share is met exactly, the smallest go, in all layers together or in each; part follows the cubic schedule. */
static void test_share(void **state) {
    (void)state;
    for (int per_layer = 0; per_layer < 2; per_layer++) {
        nw_graph *g = new_model("resnet8", (int64_t[]){3, 16, 16});
        nw_prune_options o = {.sparsity = 0.7, .per_layer = per_layer};
        nw_prune_report *r;
        uint64_t weights = 0, nonzero = 0;
        assert_ok(&ctx, nw_prune_graph(g, &o, &r));
        for (size_t i = 0; i < r->layer_count; i++) {
            const nw_prune_layer *l = &r->layers[i];
            assert_true(l->weights_before == l->weights_after && l->macs_before == l->macs_after);
            assert_true(l->macs_nonzero < l->macs_before);
            if (per_layer)
                assert_true(fabs(0.7 * (double)l->weights_after - (double)(l->weights_after - l->nonzero)) <=
                            0.5);
            weights += l->weights_after;
            nonzero += l->nonzero;
        }
        assert_int_equal(r->layer_count, 10);
        assert_true(fabs(0.7 * (double)weights - (double)(weights - nonzero)) <= (per_layer ? 5 : 0.5));
        nw_prune_report_free(r);
        nw_graph_free(g);
    }
    float x[1000];
    for (int i = 0; i < 1000; i++) x[i] = (float)(1 + i) * (i % 2 ? 1e-3f : -1e-3f);
    x[7] = 0;
    nw_prune_target t = {.axis = 1, .tensor = {.format = NW_F32, .rank = 2, .dims = {10, 100}, .data = x}};
    nw_prune_options o = {.sparsity = 0.6};
    assert_ok(&ctx, nw_prune_weights(&ctx, &o, 0, 1, &t));
    assert_int_equal(zeros_of(x, 1000), 1);
    assert_ok(&ctx, nw_prune_weights(&ctx, &o, 0.5, 1, &t)); /* 0.6·(1 − 1/8) */
    assert_int_equal(zeros_of(x, 1000), 525);
    assert_true(x[524] == 0 && x[525] != 0);
    assert_ok(&ctx, nw_prune_weights(&ctx, &o, 1, 1, &t));
    assert_int_equal(zeros_of(x, 1000), 600);
    for (int i = 0; i < 1000; i++) x[i] = i % 3 ? 0.5f : -0.5f; /* all alike: the share still holds */
    assert_ok(&ctx, nw_prune_weights(&ctx, &o, 1, 1, &t));
    assert_int_equal(zeros_of(x, 1000), 600);
}

/* Of every 4 along the inputs at least 2 are zero, the larger ones stay; layers with 3 inputs are left, and say why. */
static void test_pattern(void **state) {
    (void)state;
    nw_graph *g = new_model("resnet8", (int64_t[]){3, 16, 16}),
             *before = new_model("resnet8", (int64_t[]){3, 16, 16});
    nw_prune_options o = {.keep = 2, .of = 4};
    nw_prune_report *r;
    size_t count;
    nw_prune_target *targets;
    assert_ok(&ctx, nw_prune_graph(g, &o, &r));
    assert_string_equal(r->layers[0].reason, "3 inputs per output make no group of 4");
    assert_int_equal(r->layers[0].nonzero, r->layers[0].weights_after);
    assert_ok(&ctx, nw_prune_targets(g, &o, &arena, &targets, &count, NULL));
    assert_int_equal(count, 9);
    for (size_t t = 0; t < count; t++) {
        const nw_tensor *w = &targets[t].tensor;
        const float *x = w->data,
                    *old = numbers(before, nw_graph_find(before, g->values[targets[t].value].name));
        int axis = targets[t].axis;
        size_t inner = nw_dims_product(w->dims, axis + 1, w->rank), length = (size_t)w->dims[axis];
        for (size_t at = 0; at < nw_tensor_count(w); at++) {
            if (at / inner % length % 4) continue;
            int zeros = 0;
            float most = 0, least = INFINITY;
            for (size_t k = 0; k < 4 && at / inner % length + k < length; k++) {
                float now = x[at + k * inner], was = old[at + k * inner];
                zeros += now == 0;
                if (now == 0)
                    most = fmaxf(most, fabsf(was));
                else
                    least = fminf(least, fabsf(was));
                assert_true(now == 0 || now == was);
            }
            assert_true(zeros == 2 && most <= least);
        }
    }
    nw_prune_report_free(r);
    nw_graph_free(before);
    nw_graph_free(g);
}

/* Zero is a code of symmetric weights, at any number of bits: sparse stays sparse. */
static void test_zeros_survive(void **state) {
    (void)state;
    static const char *const schemes[] = {"s8", "s4", "ternary", "s4:32@f16"};
    for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
        nw_graph *g = new_model("mlp", (int64_t[]){1, 8, 8}), *real;
        nw_prune_options o = {.sparsity = 0.8};
        nw_quant_options q = nw_quant_options_default();
        size_t weights, roundings, compared = 0;
        q.choice.mode = NW_QUANT_WEIGHTS;
        assert_ok(&ctx, nw_scheme_parse(&ctx, schemes[k], &q.choice.weights));
        assert_ok(&ctx, nw_prune_graph(g, &o, NULL));
        assert_ok(&ctx, nw_simplify(g));
        assert_ok(&ctx, nw_graph_copy(g, &ctx, &real));
        assert_ok(&ctx, nw_graph_resolve(real));
        assert_ok(&ctx, nw_quantize_graph(&ctx, real, NULL, &q, NULL));
        assert_ok(&ctx, nw_dequantize_graph(real, false, &weights, &roundings));
        for (int v = 0; v < g->value_count; v++) {
            const nw_constant *a = nw_graph_constant(g, v), *b = nw_graph_constant(real, v);
            if (!a || a->tensor.rank != 2) continue;
            for (size_t i = 0; i < nw_tensor_count(&a->tensor); i++)
                if (numbers(g, v)[i] == 0) assert_true(((const float *)b->tensor.data)[i] == 0);
            compared += zeros_of(numbers(g, v), nw_tensor_count(&a->tensor));
        }
        assert_true(weights == 3 && compared > 1000);
        nw_graph_free(real);
        nw_graph_free(g);
    }
}

/* ---- channels ---------------------------------------------------------------------------------------------- */

/* Every odd output channel of every layer but the last becomes 0, so that pruning a half takes just these. */
static void silence(nw_graph *g) {
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *node = &g->nodes[n];
        bool norm = nw_node_is(node, "BatchNormalization");
        if (!norm && !nw_node_is(node, "Conv") && !nw_node_is(node, "Gemm") && !nw_node_is(node, "MatMul"))
            continue;
        if (nw_graph_is_output(g, node->out[0])) continue;
        nw_roles roles = nw_node_roles(node);
        for (int i = 1; i < node->in_count; i++) {
            if (node->in[i] < 0) continue;
            const nw_tensor *t = &g->values[node->in[i]].constant->tensor;
            int axis = i == 1 && !norm ? roles.channel_axis[1] : t->rank - 1;
            if (norm && i == 4) continue; /* the variance */
            if (axis < 0) axis += t->rank;
            size_t inner = nw_dims_product(t->dims, axis + 1, t->rank);
            float *x = numbers(g, node->in[i]);
            for (size_t k = 0; k < nw_tensor_count(t); k++)
                if (k / inner % (size_t)t->dims[axis] % 2) x[k] = 0;
        }
    }
}

static nw_tensor run(const nw_graph *g, const float *x, const int64_t *dims) {
    nw_session *s;
    nw_tensor y, in = {.format = NW_F32, .rank = 4, .data = (void *)(uintptr_t)x};
    memcpy(in.dims, dims, 4 * sizeof *dims);
    assert_ok(&ctx, nw_session_new(&ctx, g, NULL, &s));
    assert_ok(&ctx, nw_session_run(s, 1, &(nw_feed){"input", in}, &arena, &y));
    nw_session_free(s);
    return y;
}

/* Half of all channels of a silenced model goes, and it answers as before. */
static nw_prune_report *prune_half(nw_graph *g, const int64_t *shape) {
    enum { BATCH = 2 };
    const int64_t dims[4] = {BATCH, shape[0], shape[1], shape[2]};
    size_t count = nw_dims_product(dims, 0, 4);
    float *x = nw_arena_array(&arena, count, sizeof *x);
    nw_random random = {9};
    nw_prune_options o = {.channels = 0.5};
    nw_prune_report *r;
    for (size_t i = 0; i < count; i++) x[i] = (float)(nw_random_bits(&random) % 2000) / 1000 - 1;
    silence(g);
    nw_tensor before = run(g, x, dims);
    assert_ok(&ctx, nw_prune_graph(g, &o, &r));
    assert_ok(&ctx, nw_graph_verify(g));
    nw_tensor after = run(g, x, dims);
    assert_true(nw_tensor_same_shape(&before, &after));
    double size = 0;
    for (size_t i = 0; i < nw_tensor_count(&before); i++) {
        float a = ((const float *)before.data)[i], b = ((const float *)after.data)[i];
        size += fabs((double)a);
        assert_true(fabsf(a - b) <= 1e-4f * (1 + fabsf(a)));
    }
    assert_true(size > 1e-3);
    return r;
}

static void test_zoo(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t shape[3];
    } cases[] = {{"lenet", {1, 28, 28}},
                 {"mlp", {1, 8, 8}},
                 {"resnet8", {3, 32, 32}},
                 {"resnet20", {3, 16, 16}},
                 {"dscnn", {1, 49, 10}}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        nw_graph *g = new_model(cases[c].name, cases[c].shape);
        nw_prune_report *r = prune_half(g, cases[c].shape);
        for (size_t i = 0; i < r->layer_count; i++) {
            const nw_prune_layer *l = &r->layers[i];
            bool last = i + 1 == r->layer_count;
            assert_int_equal(l->channels_after, last ? l->channels_before : l->channels_before / 2);
            assert_int_equal(l->reason[0] == 0, !last);
            assert_true(l->weights_after < l->weights_before && l->macs_after < l->macs_before);
        }
        nw_prune_report_free(r);
        nw_graph_free(g);
    }
}

/* A constant of numbers drawn at random. */
static int weight(nw_graph *g, const char *name, int rank, const int64_t *dims) {
    static nw_random random = {7};
    nw_tensor t = {.format = NW_F32, .rank = rank};
    int id;
    memcpy(t.dims, dims, (size_t)rank * sizeof *dims);
    assert_ok(&ctx, nw_tensor_alloc(&arena, &t));
    for (size_t i = 0; i < nw_tensor_count(&t); i++)
        ((float *)t.data)[i] = (float)(nw_random_bits(&random) % 2000) / 2000 - 0.5f;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    return id;
}

static int conv(nw_graph *g, const char *name, int x, int64_t out, int64_t in, int64_t kernel, int64_t stride,
                int64_t group) {
    int y;
    int64_t pad = kernel / 2;
    int w = weight(g, name, 4, (int64_t[]){out, in, kernel, kernel}), b = weight(g, name, 1, &out);
    assert_ok(&ctx, test_node(g, "Conv", name, 3, (int[]){x, w, b}, &y));
    nw_node *node = &g->nodes[g->node_count - 1];
    assert_ok(&ctx, nw_node_set_ints(g, node, "pads", (int64_t[]){pad, pad, pad, pad}, 4));
    assert_ok(&ctx, nw_node_set_ints(g, node, "strides", (int64_t[]){stride, stride}, 2));
    assert_ok(&ctx, nw_node_set_int(g, node, "group", group));
    return y;
}

static int op(nw_graph *g, const char *type, const char *name, int count, const int *in) {
    int y;
    assert_ok(&ctx, test_node(g, type, name, count, in, &y));
    return y;
}

static int list(nw_graph *g, const char *name, size_t count, const int64_t *values) {
    int id;
    assert_ok(&ctx, test_ints(g, name, count, values, &id));
    return id;
}

/* A shortcut of Slice and Pad, a Concat, a depthwise convolution, a gate, channels-last, Reshape with and without a
 * number of features, a reduction; a grouped convolution and a shared weight, which stay. */
static nw_graph *winding_model(void) {
    nw_graph *g;
    int x, logits;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 13));
    assert_ok(&ctx, test_input(g, "input", 4, (int64_t[]){-1, 3, 8, 8}, &x));
    int a = op(g, "Relu", "a", 1, (int[]){conv(g, "conv1", x, 8, 3, 3, 1, 1)});
    int cut = op(g, "Slice", "cut", 5,
                 (int[]){a, list(g, "starts", 2, (int64_t[]){0, 0}), list(g, "ends", 2, (int64_t[]){8, 8}),
                         list(g, "axes", 2, (int64_t[]){2, 3}), list(g, "steps", 2, (int64_t[]){2, 2})});
    int padded =
        op(g, "Pad", "padded", 2, (int[]){cut, list(g, "pads", 8, (int64_t[]){0, 4, 0, 0, 0, 4, 0, 0})});
    int b = op(g, "Relu", "b", 1,
               (int[]){op(g, "Add", "sum", 2, (int[]){conv(g, "conv2", a, 16, 8, 3, 2, 1), padded})});
    int grouped = conv(g, "grouped", conv(g, "before", b, 8, 16, 1, 1, 1), 8, 4, 3, 1, 2);
    int joined = op(g, "Concat", "joined", 3, (int[]){b, grouped, conv(g, "conv3", b, 8, 16, 3, 1, 1)});
    assert_ok(&ctx, nw_node_set_int(g, &g->nodes[g->node_count - 1], "axis", 1));
    int deep = conv(g, "deep", joined, 32, 1, 3, 1, 32);
    int gate = op(g, "Sigmoid", "gate", 1,
                  (int[]){conv(g, "squeeze", op(g, "GlobalAveragePool", "mean", 1, &deep), 32, 32, 1, 1, 1)});
    int gated =
        op(g, "Mul", "gated", 2,
           (int[]){op(g, "Mul", "scaled", 2, (int[]){deep, weight(g, "scale", 4, (int64_t[]){1, 32, 1, 1})}),
                   gate});
    int last = op(g, "Transpose", "last", 1, &gated);
    assert_ok(&ctx, nw_node_set_ints(g, &g->nodes[g->node_count - 1], "perm", (int64_t[]){0, 2, 3, 1}, 4));
    int flat = op(g, "Reshape", "flat", 2, (int[]){last, list(g, "features", 2, (int64_t[]){-1, 512})});
    int hidden = op(g, "MatMul", "hidden", 2, (int[]){flat, weight(g, "w", 2, (int64_t[]){512, 20})});
    int bias = weight(g, "bias", 1, (int64_t[]){20});
    for (int i = 1; i < 20; i += 2) numbers(g, bias)[i] = 0;
    int hidden_b = op(g, "Add", "hidden_b", 2, (int[]){hidden, bias});
    int tall = op(g, "Reshape", "tall", 2, (int[]){hidden_b, list(g, "shape", 4, (int64_t[]){0, 20, 1, 1})});
    int low = op(g, "ReduceMean", "low", 1, &tall);
    assert_ok(&ctx, nw_node_set_ints(g, &g->nodes[g->node_count - 1], "axes", (int64_t[]){2, 3}, 2));
    assert_ok(&ctx, nw_node_set_int(g, &g->nodes[g->node_count - 1], "keepdims", 0));
    logits = op(g, "MatMul", "logits", 2, (int[]){low, weight(g, "v", 2, (int64_t[]){20, 6})});
    assert_ok(&ctx, nw_graph_add_output(g, logits));
    assert_ok(&ctx, nw_graph_resolve(g));
    return g;
}

static const nw_prune_layer *layer_named(const nw_prune_report *r, const char *name) {
    for (size_t i = 0; i < r->layer_count; i++)
        if (strcmp(r->layers[i].name, name) == 0) return &r->layers[i];
    fail_msg("no layer %s", name);
    return NULL;
}

static void test_winding(void **state) {
    (void)state;
    nw_graph *g = winding_model();
    nw_prune_report *r = prune_half(g, (int64_t[]){3, 8, 8});
    assert_int_equal(layer_named(r, "conv1")->channels_after, 4);
    assert_int_equal(layer_named(r, "conv2")->channels_after, 8);
    assert_int_equal(layer_named(r, "conv3")->channels_after, 4);
    assert_int_equal(layer_named(r, "hidden")->channels_after, 10);
    assert_int_equal(layer_named(r, "before")->channels_after, 8);
    assert_non_null(strstr(layer_named(r, "before")->reason, "Conv \"grouped\""));
    assert_non_null(strstr(layer_named(r, "logits")->reason, "output of the model"));
    assert_int_equal(layer_named(r, "deep")->channels_after, 8 + 8 + 4);
    nw_prune_report_free(r);
    nw_graph_free(g);
}

/* The weakest channels by the normalized norm; layers that are excluded keep theirs. */
static void test_weakest(void **state) {
    (void)state;
    nw_graph *g = winding_model();
    nw_prune_options o = {
        .channels = 0.25, .l1 = true, .exclude_count = 1, .exclude = (const char *const[]){"conv3"}};
    nw_prune_report *r;
    assert_ok(&ctx, nw_prune_graph(g, &o, &r));
    assert_int_equal(layer_named(r, "conv3")->channels_after, 8);
    assert_string_equal(layer_named(r, "conv3")->reason, "excluded by \"conv3\"");
    assert_int_equal(layer_named(r, "conv1")->channels_after, 6);
    nw_prune_report_free(r);
    o.channels = 1;
    assert_fails(&ctx, NW_E_ARGUMENT, "below 1", nw_prune_graph(g, &o, NULL));
    nw_graph_free(g);
}

/* Memory that runs out anywhere gives an error and leaves nothing behind. */
static void test_out_of_memory(void **state) {
    (void)state;
    nw_graph *g = winding_model();
    nw_prune_options o = {.channels = 0.5, .sparsity = 0.5};
    long fails = 0;
    for (nw_status status = NW_E_MEMORY; status != NW_OK; fails++) {
        test_memory memory = {.fail_at = fails};
        nw_allocator allocator = test_allocator(&memory);
        nw_context starved;
        nw_graph *copy = NULL;
        nw_prune_report *r = NULL;
        nw_context_init(&starved, &allocator);
        status = nw_graph_copy(g, &starved, &copy);
        if (status == NW_OK) status = nw_graph_resolve(copy);
        if (status == NW_OK) status = nw_prune_graph(copy, &o, &r);
        assert_true(status == NW_OK || status == NW_E_MEMORY);
        nw_prune_report_free(r);
        nw_graph_free(copy);
        assert_int_equal(memory.alive, 0);
    }
    assert_true(fails > 20);
    nw_graph_free(g);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_words), TEST(test_share),   TEST(test_pattern), TEST(test_zeros_survive),
        TEST(test_zoo),   TEST(test_winding), TEST(test_weakest), TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("prune", tests, NULL, NULL);
}
