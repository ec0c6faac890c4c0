/* test_quant.c: where quantizers go, and what freezing makes of weights and biases, on small graphs built by
 * hand. */
#include "op/op.h"
#include "op/quantize.h"
#include "quant/calibrate.h"
#include "quant/freeze.h"
#include "quant/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static nw_context ctx;
static nw_graph *g;
static nw_quant_options options;
static nw_quant_plan *plan;
static nw_quant_report *report;

#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        if ((call) != NW_OK) fail_msg("%s: %s", #call, ctx.message);                                         \
    } while (0)

static int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    assert_ok(nw_graph_new(&ctx, NULL, &g));
    assert_ok(nw_graph_set_opset(g, "", 21));
    options = nw_quant_options_default();
    plan = NULL;
    report = NULL;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    nw_quant_plan_free(plan);
    nw_quant_report_free(report);
    nw_graph_free(g);
    return 0;
}

static void set_weight(nw_format format) {
    options.choice.weights.coding = nw_coding_linear(format, true, false, false);
}

/* ---- building --------------------------------------------------------------------------------- */

static int value(const char *name) {
    int id = nw_graph_find(g, name);
    if (id >= 0) return id;
    assert_ok(nw_graph_add_value(g, name, &id));
    g->values[id].format = NW_F32;
    return id;
}

/* Adds OP(inputs separated by spaces) → output; "-" is an absent input. The node is named as its output. */
static void node(const char *op, const char *inputs, const char *output) {
    char text[200], *rest = text;
    int in[8], count = 0;
    strcpy(text, inputs);
    for (char *word; (word = strtok_r(NULL == rest ? NULL : (count ? NULL : text), " ", &rest));)
        in[count++] = strcmp(word, "-") == 0 ? NW_ABSENT : value(word);
    int out = value(output);
    nw_node *made;
    assert_ok(nw_graph_add_node(g, "", op, output, count, in, 1, &out, &made));
    assert_ok(nw_graph_resolve(g));
}

static void input(const char *name) {
    assert_ok(nw_graph_add_input(g, value(name)));
}
static void output(const char *name) {
    assert_ok(nw_graph_add_output(g, value(name)));
}

static void constant(const char *name, int rank, const int64_t *dims, const float *data) {
    nw_tensor t = {.format = NW_F32, .rank = rank};
    nw_tensor_set_shape(&t, rank, dims);
    t.data = (void *)(uintptr_t)data;
    int id;
    assert_ok(nw_graph_add_constant_copy(g, name, &t, &id));
}

/* A weight [m, k, 1, 1] of element values 1, 2, … in m·k steps with changing signs. */
static void conv_weight(const char *name, int64_t m, int64_t k) {
    float data[64];
    for (int i = 0; i < m * k; i++) data[i] = i % 2 ? -(float)(i + 1) : (float)(i + 1);
    constant(name, 4, (int64_t[]){m, k, 1, 1}, data);
}

static void matrix(const char *name, int64_t k, int64_t n) {
    float data[64];
    for (int i = 0; i < k * n; i++) data[i] = (float)(i - 3) / 7;
    constant(name, 2, (int64_t[]){k, n}, data);
}

static void place(void) {
    assert_ok(nw_quant_place(&ctx, g, &options, NULL, &plan));
}

/* Names of the values that have points, with "=root" where tied and "*" where everywhere. */
static void expect_points(const char *expected) {
    char text[500] = "";
    for (int i = 0; i < plan->point_count; i++) {
        const nw_quant_point *p = &plan->points[i];
        const nw_quant_point *root = nw_quant_root(plan, p);
        if (i) strcat(text, " ");
        strcat(text, g->values[p->value].name);
        if (p->everywhere) strcat(text, "*");
        if (root != p) strcat(strcat(text, "="), g->values[root->value].name);
    }
    assert_string_equal(text, expected);
}

static nw_node_mode mode_of(const char *name) {
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].name, name) == 0) return plan->mode[n];
    fail_msg("no node %s", name);
    return NW_NODE_FLOAT;
}

static const nw_node *find(const char *name) {
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].name, name) == 0) return &g->nodes[n];
    fail_msg("no node %s", name);
    return NULL;
}

/* Gives every root the same range, as if calibrated, and carries the plan out. */
static void freeze(float scale, int32_t zero) {
    for (int i = 0; i < plan->point_count; i++) {
        nw_quant_point *p = &plan->points[i];
        p->format = options.choice.activation;
        p->scale = scale;
        p->zero = zero;
        p->qmin = (int32_t)nw_format_min(p->format);
        p->qmax = (int32_t)nw_format_max(p->format);
    }
    report = nw_calloc(&ctx, 1, sizeof *report);
    assert_non_null(report);
    nw_arena_init(&report->arena, &ctx);
    assert_ok(nw_quant_freeze(g, plan, report));
    assert_ok(nw_graph_verify(g));
}

static const nw_tensor *packed(const char *node_name, int i) {
    const nw_constant *c = nw_graph_constant(g, nw_node_in(find(node_name), i));
    assert_non_null(c);
    return &c->tensor;
}

static int count_ops(const char *op) {
    int count = 0;
    for (int n = 0; n < g->node_count; n++) count += strcmp(g->nodes[n].op_type, op) == 0;
    return count;
}

/* ---- placement -------------------------------------------------------------------------------- */

static void test_relu_belongs_to_its_layer(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    input("x");
    node("Conv", "x w1", "c1");
    node("Relu", "c1", "r1");
    node("Conv", "r1 w2", "c2");
    output("c2");
    place();
    expect_points("x r1*");
    assert_int_equal(mode_of("c1"), NW_NODE_INTEGER);
    assert_int_equal(mode_of("r1"), NW_NODE_FLOAT);
    nw_quant_plan_free(plan);
    options.quantize_outputs = true;
    place();
    expect_points("x r1* c2*");
    freeze(0.5f, 3);
    assert_int_equal(count_ops("FakeQuant"), 3);
    assert_string_equal(g->values[g->outputs[0]].name, "c2"); /* outputs keep their names */
}

static void test_residual(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    conv_weight("w3", 2, 2);
    input("x");
    node("Conv", "x w1", "c1");
    node("Relu", "c1", "r1");
    node("Conv", "r1 w2", "c2");
    node("Add", "c2 r1", "a");
    node("Relu", "a", "r2");
    node("Conv", "r2 w3", "c3");
    output("c3");
    place();
    expect_points("x r1* c2* r2*");
    assert_int_equal(mode_of("a"), NW_NODE_INTEGER);
    nw_quant_plan_free(plan);
    options.elementwise = NW_NO;
    place();
    expect_points("x r1* c2* r2");
    assert_int_equal(mode_of("a"), NW_NODE_FLOAT);
}

/* A Relu beside another reader is no part of the layer. */
static void test_shared_before_relu(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    input("x");
    node("Conv", "x w1", "c1");
    node("Relu", "c1", "r1");
    node("Conv", "r1 w2", "c2");
    node("Add", "c2 c1", "a");
    output("a");
    place();
    expect_points("x c1* r1* c2*");
}

static void test_moved_values_share_their_grid(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    input("x");
    node("Conv", "x w1", "c1");
    node("MaxPool", "c1", "p");
    node("Transpose", "p", "t");
    node("Conv", "t w2", "c2");
    node("Flatten", "c2", "f");
    output("f");
    place();
    expect_points("x c1* p*=c1 t*=c1 c2*");
    freeze(0.5f, 3);
    const nw_node *first = NULL;
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *fq = &g->nodes[n];
        if (strcmp(fq->op_type, "FakeQuant") || strcmp(g->values[fq->out[0]].name, "c1_dq")) continue;
        first = fq;
    }
    assert_non_null(first);
    int same = 0;
    for (int n = 0; n < g->node_count; n++)
        same += strcmp(g->nodes[n].op_type, "FakeQuant") == 0 && g->nodes[n].in[1] == first->in[1];
    assert_int_equal(same, 3);
}

static void test_concat_shares_its_grid(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    conv_weight("w3", 2, 4);
    input("x");
    node("Conv", "x w1", "c1");
    node("Conv", "x w2", "c2");
    node("Relu", "c2", "r2");
    node("Concat", "c1 r2", "j");
    node("Conv", "j w3", "c3");
    node("Add", "c3 c3", "a");
    output("a");
    place();
    expect_points("x c1*=j r2*=j j* c3*");
}

/* Products give float results; the residual stream around them stays float, and reads what was computed. */
static void test_transformer_block(void **state) {
    (void)state;
    matrix("wq", 4, 4);
    matrix("wk", 4, 4);
    matrix("bq", 1, 4);
    input("x");
    node("LayerNormalization", "x bq", "n");
    node("MatMul", "n wq", "q0");
    node("Add", "q0 bq", "q");
    node("MatMul", "n wk", "k0");
    node("Transpose", "k0", "k");
    node("MatMul", "q k", "s");
    node("Softmax", "s", "p");
    node("MatMul", "p n", "o");
    node("Add", "o n", "y");
    output("y");
    place();
    expect_points("n q k p");
    assert_int_equal(mode_of("q"), NW_NODE_FLOAT);
    assert_int_equal(mode_of("y"), NW_NODE_FLOAT);
    freeze(0.5f, 3);
    assert_string_equal(g->values[find("y")->in[1]].name, "n");
    assert_string_equal(g->values[find("q0")->in[0]].name, "n_dq");
    nw_quant_plan_free(plan);
    plan = NULL;
}

static void test_products_and_known_ranges(void **state) {
    (void)state;
    input("x");
    input("y");
    node("Softmax", "x", "p");
    node("MatMul", "p y", "o");
    output("o");
    options.known_ranges = true;
    place();
    expect_points("y p");
    assert_true(plan->points[1].known && plan->points[1].lo == 0 && plan->points[1].hi == 1);
    nw_quant_plan_free(plan);
    options.products = NW_NO;
    place();
    expect_points("");
    assert_non_null(strstr(plan->reason[1], "products"));
}

static void test_exclude_and_only(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    input("x");
    node("Conv", "x w1", "block/c1");
    node("Conv", "block/c1 w2", "block/c2");
    output("block/c2");
    const char *first[] = {"*/c1"}, *type[] = {"Con?"}, *second[] = {"block/c2"};
    nw_quant_rule rule = {.source = "exclude",
                          .pattern_count = 1,
                          .patterns = first,
                          .sets = 1U << NW_SETTING_MODE,
                          .choice.mode = NW_QUANT_FLOAT};
    options.rules = &rule;
    options.rule_count = 1;
    place();
    expect_points("block/c1");
    assert_non_null(strstr(plan->reason[0], "*/c1"));
    nw_quant_plan_free(plan);
    rule.patterns = type;
    place();
    expect_points("");
    nw_quant_plan_free(plan);
    rule.patterns = second;
    rule.others = true;
    place();
    expect_points("block/c1");
}

static void test_patterns(void **state) {
    (void)state;
    input("x");
    node("Relu", "x", "a/b.c");
    static const char *const yes[] = {"a/b.c", "*", "a*c", "*b*", "Re*", "a/?.c", "a/b.c*", "**c"};
    static const char *const no[] = {"", "a", "b", "a/b.", "?", "relu", "a*d", "x"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(nw_node_matches(yes[i], g, &g->nodes[0]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) assert_false(nw_node_matches(no[i], g, &g->nodes[0]));
}

static void test_dynamic_and_weights_only(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    matrix("m", 4, 4);
    input("x");
    node("Conv", "x w1", "c1");
    node("Relu", "c1", "r1");
    node("MatMul", "r1 m", "y");
    output("y");
    options.choice.mode = NW_QUANT_WEIGHTS;
    place();
    expect_points("");
    assert_int_equal(mode_of("c1"), NW_NODE_WEIGHTS);
    nw_quant_plan_free(plan);
    options.choice.mode = NW_QUANT_DYNAMIC;
    place();
    expect_points("x r1");
    freeze(0, 0);
    assert_int_equal(count_ops("FakeQuant"), 2);
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].op_type, "FakeQuant") == 0) assert_int_equal(g->nodes[n].in_count, 1);
    assert_int_equal(packed("y", 1)->format, NW_S8);
}

/* ---- weights ---------------------------------------------------------------------------------- */

static void test_packed_weights_and_bias(void **state) {
    (void)state;
    const float w[4] = {1, -2, 0.25f, 0.125f}, b[2] = {10, -3};
    constant("w", 4, (int64_t[]){2, 2, 1, 1}, w);
    constant("b", 1, (int64_t[]){2}, b);
    input("x");
    node("Conv", "x w b", "c");
    output("c");
    place();
    freeze(0.5f, 3);
    const nw_tensor *pw = packed("c", 1), *pb = packed("c", 2);
    assert_int_equal(pw->format, NW_S8);
    assert_int_equal(pw->qparam->grain, NW_GRAIN_AXIS);
    assert_int_equal(pw->qparam->axis, 0);
    const int8_t codes[4] = {64, -127, 127, 64};
    assert_memory_equal(pw->data, codes, 4);
    assert_int_equal(pb->format, NW_S32);
    for (int c = 0; c < 2; c++) {
        float scale = 0.5f * nw_qparam_scale(pw->qparam, c);
        assert_true(nw_qparam_scale(pb->qparam, c) == scale);
        assert_int_equal(((const int32_t *)pb->data)[c], (int32_t)rintf(b[c] / scale));
    }
    assert_int_equal(report->weight_count, 1);
    assert_true(report->weights[0].sqnr > 40 && report->weights[0].saturated == 0);
    assert_true(report->weights[0].min == -2 && report->weights[0].max == 1);
    assert_int_equal(report->layer_count, 1);
    assert_true(report->layers[0].quantized && report->layers[0].bias && report->layers[0].weight == 0);
    assert_int_equal(report->layers[0].input, 0);
}

/* A bias that 32 bits could not hold at s_x·s_w enlarges its channel's weight scale. */
static void test_large_bias(void **state) {
    (void)state;
    const float w[4] = {1e-7f, -2e-7f, 0.25f, 0.125f}, b[2] = {100, -3};
    constant("w", 4, (int64_t[]){2, 2, 1, 1}, w);
    constant("b", 1, (int64_t[]){2}, b);
    input("x");
    node("Conv", "x w b", "c");
    output("c");
    place();
    freeze(1e-3f, 3);
    const nw_tensor *pw = packed("c", 1), *pb = packed("c", 2);
    assert_true(nw_qparam_scale(pw->qparam, 0) > 2e-7f / 127 * 10);
    assert_true(nw_qparam_scale(pw->qparam, 1) == 0.25f / 127);
    float restored = (float)((const int32_t *)pb->data)[0] * nw_qparam_scale(pb->qparam, 0);
    assert_true(fabsf(restored - 100) < 1e-3f);
}

/* One constant, two ways to read it: shared where the grids are equal, copied where not, float where a float
 * layer reads. */
static void test_tied_weights(void **state) {
    (void)state;
    matrix("m", 4, 4);
    input("x");
    input("y");
    node("MatMul", "x m", "a");
    node("MatMul", "y m", "b");
    node("Gemm", "x m", "c");
    assert_ok(nw_node_set_int(g, &g->nodes[2], "transB", 1));
    node("Mul", "m x", "d");
    output("a");
    output("b");
    output("c");
    output("d");
    options.elementwise = NW_NO;
    place();
    freeze(0.5f, 3);
    assert_int_equal(find("a")->in[1], find("b")->in[1]);
    assert_int_not_equal(find("a")->in[1], find("c")->in[1]);
    assert_int_equal(packed("a", 1)->qparam->axis, 1);
    assert_int_equal(packed("c", 1)->qparam->axis, 0);
    assert_null(packed("d", 0)->qparam);
    assert_int_equal(report->weight_count, 2);
}

static void test_shared_bias_is_copied(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    const float b[2] = {1, 2};
    constant("b", 1, (int64_t[]){2}, b);
    input("x");
    node("Conv", "x w1 b", "c1");
    node("Conv", "c1 w1 b", "c2");
    output("c2");
    place();
    freeze(0.5f, 3);
    assert_int_equal(find("c1")->in[1], find("c2")->in[1]);
    assert_int_not_equal(find("c1")->in[2], find("c2")->in[2]);
    assert_int_equal(packed("c1", 2)->format, NW_S32);
    assert_int_equal(packed("c2", 2)->format, NW_S32);
}

static nw_quant_weight pack_of(const float *w, int64_t rows, int64_t columns, const nw_weight_spec *spec,
                               nw_tensor *out, nw_arena *arena) {
    nw_tensor t = {.format = NW_F32, .rank = 2, .dims = {rows, columns}, .data = (void *)(uintptr_t)w};
    nw_quant_weight record = {0};
    assert_ok(nw_weight_pack(arena, "w", &t, spec, NULL, out, &record));
    return record;
}

static void test_weight_codes(void **state) {
    (void)state;
    const struct {
        nw_format format;
        bool symmetric, full, reduce;
        int32_t qmin, qmax, shift;
    } cases[] = {{NW_S8, true, false, false, -127, 127, 0},   {NW_S8, true, true, false, -128, 127, 0},
                 {NW_S8, true, false, true, -63, 63, 0},      {NW_S8, false, false, false, -128, 127, 0},
                 {NW_U8, true, false, false, -127, 127, 128}, {NW_U8, false, false, false, 0, 255, 0},
                 {NW_U8, false, false, true, 0, 127, 0},      {NW_S4, true, false, false, -7, 7, 0},
                 {NW_U4, true, false, false, -7, 7, 8},       {NW_U4, false, false, false, 0, 15, 0},
                 {NW_S2, true, false, true, -1, 1, 0},        {NW_S16, true, false, false, -32767, 32767, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nw_weight_spec spec = {.grain = NW_GRAIN_TENSOR};
        spec.coding = nw_coding_linear(cases[i].format, cases[i].symmetric, cases[i].full, cases[i].reduce);
        assert_int_equal(spec.coding.grid.qmin, cases[i].qmin);
        assert_int_equal(spec.coding.grid.qmax, cases[i].qmax);
        assert_int_equal(spec.coding.shift, cases[i].shift);
        /* and every element comes back within half a step */
        static const float w[6] = {-1, 0.5f, 0.3f, -0.2f, 0, 0.7f};
        nw_arena arena;
        nw_tensor packed_tensor;
        nw_arena_init(&arena, &ctx);
        nw_quant_weight r = pack_of(w, 2, 3, &spec, &packed_tensor, &arena);
        nw_tensor back;
        assert_ok(nw_tensor_to_f32(&arena, &packed_tensor, &back));
        for (int e = 0; e < 6; e++)
            assert_true(fabsf(((float *)back.data)[e] - w[e]) <= r.scale_max * 0.5001f);
        nw_arena_free(&arena);
    }
}

static void test_grains_and_search(void **state) {
    (void)state;
    float w[40];
    for (int i = 0; i < 40; i++) w[i] = sinf((float)i) * (i < 20 ? 1 : 0.01f);
    w[3] = 8; /* an outlier that costs the others at four bits */
    nw_arena arena;
    nw_tensor out;
    nw_arena_init(&arena, &ctx);
    double before = 0;
    static const nw_grain grains[] = {NW_GRAIN_TENSOR, NW_GRAIN_AXIS, NW_GRAIN_BLOCK};
    for (int i = 0; i < 3; i++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            nw_weight_spec spec = {.grain = grains[i], .axis = i == 2, .block = i == 2 ? 8 : 0};
            spec.coding = nw_coding_linear(symmetric ? NW_S4 : NW_U4, symmetric, false, false);
            nw_quant_weight plain = pack_of(w, 2, 20, &spec, &out, &arena);
            assert_int_equal(out.qparam->groups, i == 0 ? 1 : i == 1 ? 2 : 6);
            spec.range = NW_WEIGHT_MSE;
            nw_quant_weight best = pack_of(w, 2, 20, &spec, &out, &arena);
            assert_true(best.sqnr >= plain.sqnr - 1e-6);
            if (symmetric) assert_true(plain.sqnr >= before - 1e-6);
            if (symmetric) before = plain.sqnr;
        }
    nw_arena_free(&arena);
}

/* Σ(x − x') of each group is half a step at most, and the statistics are those of the codes that were chosen. */
static void test_balanced_rounding(void **state) {
    (void)state;
    enum { ROWS = 4, COLUMNS = 50 };
    float w[ROWS * COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++) w[i] = sinf((float)(i * i % 97)) + 0.3f;
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    static const nw_grain grains[] = {NW_GRAIN_TENSOR, NW_GRAIN_AXIS, NW_GRAIN_BLOCK};
    int improved = 0;
    for (int i = 0; i < 3; i++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            nw_weight_spec spec = {.grain = grains[i], .axis = i == 2, .block = i == 2 ? 16 : 0};
            spec.coding = nw_coding_linear(symmetric ? NW_S4 : NW_U4, symmetric, false, false);
            nw_tensor out[2], back[2];
            double sums[2][ROWS][4] = {0}, noise = 0, signal = 0; /* of blocks, the last being short */
            nw_quant_weight record = {0};
            for (int balanced = 0; balanced < 2; balanced++) {
                spec.balanced = balanced;
                record = pack_of(w, ROWS, COLUMNS, &spec, &out[balanced], &arena);
                assert_ok(nw_tensor_to_f32(&arena, &out[balanced], &back[balanced]));
                for (int e = 0; e < ROWS * COLUMNS; e++)
                    sums[balanced][e / COLUMNS][i == 2 ? e % COLUMNS / 16 : 0] +=
                        (double)w[e] - (double)((float *)back[balanced].data)[e];
            }
            for (int e = 0; e < ROWS * COLUMNS; e++) {
                const double d = (double)w[e] - (double)((float *)back[1].data)[e];
                assert_true(fabs(d) <=
                            1.0001 * (double)record.scale_max); /* rounded up or down, no further */
                noise += d * d;
                signal += (double)w[e] * (double)w[e];
            }
            assert_true(fabs(record.sqnr - 10 * log10(signal / noise)) < 1e-3);
            double whole = 0;
            for (int r = 0; r < ROWS; r++)
                for (int b = 0; b < 4; b++) {
                    whole += sums[1][r][b];
                    improved += fabs(sums[1][r][b]) < fabs(sums[0][r][b]);
                    if (i) assert_true(fabs(sums[1][r][b]) <= 0.501 * (double)record.scale_max);
                }
            if (!i) assert_true(fabs(whole) <= 0.501 * (double)record.scale_max);
        }
    assert_true(improved > 8); /* it did something */
    nw_arena_free(&arena);
}

/* Blocks lie along the axis that a layer sums over, whatever its weights' rank; short axes get one scale per channel. */
static void test_blocks_of_convolutions(void **state) {
    (void)state;
    conv_weight("wide", 1, 20);
    conv_weight("thin", 20, 1);
    input("x");
    node("Conv", "x thin", "c1");
    node("Conv", "c1 wide", "c2");
    output("c2");
    options.choice.mode = NW_QUANT_WEIGHTS;
    options.choice.weights.block = 16;
    place();
    freeze(0, 0);
    assert_int_equal(packed("c1", 1)->qparam->grain, NW_GRAIN_AXIS);
    assert_int_equal(packed("c2", 1)->qparam->grain, NW_GRAIN_BLOCK);
    assert_int_equal(packed("c2", 1)->qparam->axis, 1);
    assert_int_equal(packed("c2", 1)->qparam->block, 16);
}

static void test_degenerate_weights(void **state) {
    (void)state;
    nw_arena arena;
    nw_tensor out, back;
    nw_arena_init(&arena, &ctx);
    nw_weight_spec spec = {.grain = NW_GRAIN_AXIS, .axis = 0, .range = NW_WEIGHT_MSE};
    spec.coding = nw_coding_linear(NW_S8, true, false, false);
    static const float zeros[6], rows[6] = {0, 0, 0, 0.5f, 0.5f, 0.5f}, tiny[2] = {1e-42f, -1e-42f};
    assert_true(isinf(pack_of(zeros, 2, 3, &spec, &out, &arena).sqnr));
    nw_quant_weight r = pack_of(rows, 2, 3, &spec, &out, &arena);
    assert_true(r.scale_min == r.scale_max); /* a row of zeros takes its neighbour's scale */
    assert_ok(nw_tensor_to_f32(&arena, &out, &back));
    assert_memory_equal(back.data, rows, sizeof rows);
    pack_of(tiny, 1, 2, &spec, &out, &arena);
    assert_true(nw_qparam_scale(out.qparam, 0) > 0);

    const float bad[4] = {1, 2, NAN, 4};
    nw_tensor t = {.format = NW_F32, .rank = 2, .dims = {2, 2}, .data = (void *)(uintptr_t)bad};
    nw_quant_weight record;
    assert_int_equal(nw_weight_pack(&arena, "conv1.weight", &t, &spec, NULL, &out, &record), NW_E_DATA);
    assert_non_null(strstr(ctx.message, "conv1.weight"));
    assert_non_null(strstr(ctx.message, "element 2"));
    nw_arena_free(&arena);
}

static void test_recurrent_and_embeddings(void **state) {
    (void)state;
    float w[96];
    for (int i = 0; i < 96; i++) w[i] = cosf((float)i);
    constant("w", 3, (int64_t[]){1, 8, 4}, w);
    constant("r", 3, (int64_t[]){1, 8, 2}, w);
    constant("b", 2, (int64_t[]){1, 16}, w);
    constant("table", 2, (int64_t[]){3, 32}, w);
    input("x");
    input("ids");
    g->values[value("ids")].format = NW_S64;
    node("LSTM", "x w r b", "l");
    node("Gather", "table ids", "e");
    output("l");
    output("e");
    place();
    expect_points("x");
    freeze(1, 0);
    assert_true(nw_node_string_is(find("l"), NW_STATE_FORMAT, "", "u8"));
    assert_int_equal(packed("l", 1)->qparam->axis, 1);
    assert_int_equal(packed("l", 2)->qparam->groups, 8);
    assert_null(packed("l", 3)->qparam);
    assert_int_equal(packed("e", 0)->qparam->axis, 0);
    assert_int_equal(report->weight_count, 3);
    assert_true(report->layers[0].quantized);
}

/* The state is quantized where activations are, to as many bits, also when the input is left in float. */
static void test_recurrent_states(void **state) {
    (void)state;
    static const struct {
        nw_quant_mode scheme;
        nw_format activation, weight;
        nw_choice inputs;
        const char *points, *format;
        nw_node_mode mode;
    } cases[] = {
        {NW_QUANT_STATIC, NW_U8, NW_S8, NW_AUTO, "x", "u8", NW_NODE_INTEGER},
        {NW_QUANT_STATIC, NW_U8, NW_S8, NW_NO, "", "u8", NW_NODE_WEIGHTS},
        {NW_QUANT_STATIC, NW_S16, NW_S8, NW_AUTO, "x", "", NW_NODE_INTEGER},
        {NW_QUANT_DYNAMIC, NW_U8, NW_S8, NW_AUTO, "", "u8", NW_NODE_WEIGHTS},
        {NW_QUANT_DYNAMIC, NW_U8, NW_S8, NW_YES, "x", "u8", NW_NODE_INTEGER},
        {NW_QUANT_DYNAMIC, NW_U8, NW_S4, NW_YES, "x", "", NW_NODE_INTEGER},
        {NW_QUANT_WEIGHTS, NW_U8, NW_S8, NW_AUTO, "", "", NW_NODE_WEIGHTS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float w[96];
        for (int k = 0; k < 96; k++) w[k] = sinf((float)k);
        if (i > 0) tear_down(state), set_up(state);
        constant("w", 3, (int64_t[]){1, 6, 4}, w);
        constant("r", 3, (int64_t[]){1, 6, 2}, w);
        input("x");
        node("GRU", "x w r", "y");
        output("y");
        options.choice.mode = cases[i].scheme;
        options.choice.activation = cases[i].activation;
        set_weight(cases[i].weight);
        options.inputs = cases[i].inputs;
        place();
        expect_points(cases[i].points);
        assert_int_equal(mode_of("y"), cases[i].mode);
        freeze(1, 0);
        assert_string_equal(nw_node_string(find("y"), NW_STATE_FORMAT, ""), cases[i].format);
    }
}

/* The first layer keeps its input as it is, weights packed, and what follows it is quantized all the same. */
static void test_inputs_left_in_float(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    conv_weight("w2", 2, 2);
    input("x");
    node("Transpose", "x", "t");
    node("Conv", "t w1", "c1");
    node("Relu", "c1", "r1");
    node("Conv", "r1 w2", "c2");
    output("c2");
    options.inputs = NW_NO;
    place();
    expect_points("r1");
    assert_int_equal(mode_of("c1"), NW_NODE_WEIGHTS);
    assert_int_equal(mode_of("c2"), NW_NODE_INTEGER);
    freeze(0.5f, 3);
    assert_int_equal(packed("c1", 1)->format, NW_S8);
    assert_string_equal(g->values[find("c1")->in[0]].name, "t");
}

static void test_options(void **state) {
    (void)state;
    options.choice.activation = NW_F32;
    assert_int_equal(nw_quant_options_check(&ctx, &options), NW_E_ARGUMENT);
    options = nw_quant_options_default();
    set_weight(NW_S32);
    assert_int_equal(nw_quant_options_check(&ctx, &options), NW_E_ARGUMENT);
    options = nw_quant_options_default();
    options.choice.weights.block = 32;
    assert_int_equal(nw_quant_options_check(&ctx, &options), NW_E_ARGUMENT);
    options.choice.mode = NW_QUANT_WEIGHTS;
    assert_int_equal(nw_quant_options_check(&ctx, &options), NW_OK);
}

/* Static quantization without data is refused, unless no range has to be measured. */
static void test_needs_data(void **state) {
    (void)state;
    conv_weight("w1", 2, 2);
    input("x");
    node("Conv", "x w1", "c");
    output("c");
    assert_int_equal(nw_quantize_graph(&ctx, g, NULL, &options, &report), NW_E_ARGUMENT);
    assert_non_null(strstr(ctx.message, "calibration data"));
    options.choice.observer.kind = NW_OBSERVER_ABSOLUTE;
    options.choice.observer.lo = -1;
    options.choice.observer.hi = 3;
    assert_ok(nw_quantize_graph(&ctx, g, NULL, &options, &report));
    assert_int_equal(count_ops("FakeQuant"), 1);
    assert_true(fabsf(report->activations[0].scale - 4.0f / 255) < 1e-7f);
    assert_int_equal(report->activations[0].zero, 64);
}

/* ---- the whole way, on data ------------------------------------------------------------------- */

/* Samples [count, 2, 1, 2]: channel 0 cycles through −1 … 1, channel 1 is `offset` plus a quarter of that. */
static nw_dataset *dataset(size_t count, float offset, float *data) {
    for (size_t i = 0; i < count; i++)
        for (size_t e = 0; e < 2; e++) {
            float x = (float)((i * 2 + e) % 41) / 20 - 1;
            data[i * 4 + e] = x;
            data[i * 4 + 2 + e] = offset + x / 4;
        }
    nw_tensor t = {.format = NW_F32, .rank = 4, .dims = {(int64_t)count, 2, 1, 2}, .data = data};
    nw_dataset *made;
    assert_ok(nw_dataset_from_arrays(&ctx, 1, NULL, &t, NULL, NULL, &made));
    return made;
}

static void one_conv(void) {
    static const float w[4] = {0.31f, -1.0f, 0.77f, 0.123f}, b[2] = {0.5f, -0.5f};
    constant("w", 4, (int64_t[]){2, 2, 1, 1}, w);
    constant("b", 1, (int64_t[]){2}, b);
    input("x");
    node("Conv", "x w b", "c");
    node("Relu", "c", "r");
    node("Conv", "r w b", "d");
    output("d");
}

static size_t progress_calls, progress_done;
static void progress(void *user, size_t done, size_t total) {
    (void)user;
    progress_calls++;
    progress_done = done;
    assert_true(done <= total);
}

static void test_calibration(void **state) {
    (void)state;
    float data[100 * 4];
    one_conv();
    nw_dataset *ds = dataset(100, 0, data);
    options.progress = progress;
    options.batch = 7;
    progress_calls = 0;
    assert_ok(nw_quantize_graph(&ctx, g, ds, &options, &report));
    assert_int_equal(progress_calls, 15); /* ⌈100/7⌉ */
    assert_int_equal(progress_done, 100);
    assert_int_equal(report->samples, 100);
    assert_int_equal(report->activation_count, 2);
    const nw_quant_activation *x = &report->activations[0];
    assert_true(x->min == -1 && x->max == 1 && x->count == 400 && x->sqnr > 40);
    assert_true(fabsf(x->scale - 2.0f / 255) < 1e-7f);
    assert_true(report->layers[0].input == 0 && report->layers[0].output == 1 &&
                report->layers[1].input == 1);
    assert_int_equal(count_ops("FakeQuant"), 2);
    nw_dataset_free(ds);
}

/* An input whose channels lie far apart leaves its small one no codes: the first layer stays in float. */
static void test_coarse_inputs_are_spared(void **state) {
    (void)state;
    float data[100 * 4];
    one_conv();
    nw_dataset *ds = dataset(100, 0, data);
    data[2] = 1000;
    assert_ok(nw_quantize_graph(&ctx, g, ds, &options, &report));
    assert_int_equal(report->activation_count, 1);
    assert_string_equal(report->activations[0].value, "r");
    assert_true(report->activations[0].count == 400);
    assert_false(report->layers[0].quantized);
    assert_true(report->layers[0].weight == 0 && strlen(report->layers[0].reason) > 0);
    assert_true(report->layers[1].quantized);
    nw_dataset_free(ds);
}

/* With channel means known, the mean of each output channel is that of the float layer. */
static void test_bias_correction(void **state) {
    (void)state;
    double error[2];
    for (int corrected = 0; corrected < 2; corrected++) {
        float data[100 * 4];
        tear_down(state);
        set_up(state);
        one_conv();
        nw_dataset *ds = dataset(100, 3, data);
        options.bias_correction = corrected;
        set_weight(NW_S4);
        options.inputs = NW_YES;
        assert_ok(nw_quantize_graph(&ctx, g, ds, &options, &report));
        nw_arena arena;
        nw_arena_init(&arena, &ctx);
        nw_tensor w, b;
        assert_ok(nw_tensor_to_f32(&arena, packed("c", 1), &w));
        assert_ok(nw_tensor_to_f32(&arena, packed("c", 2), &b));
        const float *wq = w.data, *bq = b.data;
        double means[2] = {0, 0};
        for (size_t i = 0; i < 400; i++) means[i / 2 % 2] += (double)data[i] / 200;
        error[corrected] = fabs((0.31 - (double)wq[0]) * means[0] + (-1.0 - (double)wq[1]) * means[1] + 0.5 -
                                (double)bq[0]) +
                           fabs((0.77 - (double)wq[2]) * means[0] + (0.123 - (double)wq[3]) * means[1] - 0.5 -
                                (double)bq[1]);
        nw_arena_free(&arena);
        nw_dataset_free(ds);
    }
    assert_true(error[0] > 0.03);
    assert_true(error[1] < 0.002);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_relu_belongs_to_its_layer),
        TEST(test_residual),
        TEST(test_shared_before_relu),
        TEST(test_moved_values_share_their_grid),
        TEST(test_concat_shares_its_grid),
        TEST(test_transformer_block),
        TEST(test_products_and_known_ranges),
        TEST(test_exclude_and_only),
        TEST(test_patterns),
        TEST(test_dynamic_and_weights_only),
        TEST(test_packed_weights_and_bias),
        TEST(test_large_bias),
        TEST(test_tied_weights),
        TEST(test_shared_bias_is_copied),
        TEST(test_weight_codes),
        TEST(test_grains_and_search),
        TEST(test_balanced_rounding),
        TEST(test_blocks_of_convolutions),
        TEST(test_degenerate_weights),
        TEST(test_recurrent_and_embeddings),
        TEST(test_recurrent_states),
        TEST(test_inputs_left_in_float),
        TEST(test_options),
        TEST(test_needs_data),
        TEST(test_calibration),
        TEST(test_coarse_inputs_are_spared),
        TEST(test_bias_correction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
