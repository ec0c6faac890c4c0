/* test_quant.c: where quantizers go, what options and data decide, on small graphs built by hand. */
#include "./quant/building.h"

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

/* Found while running, grids are for attention's products, not for others; weights have one per row, the other operands one,
 * whether layers with weights have rows or not. remembered: keys of
 * earlier tokens come from outside, and stay real. */
static void dynamic_attention(bool remembered) {
    matrix("factor", 1, 1);
    input("q");
    input("k");
    input("v");
    input("mask");
    if (remembered) {
        input("past");
        node("Concat", "past k", "all");
    }
    node("Transpose", remembered ? "all" : "k", "kt");
    node("MatMul", "q kt", "s");
    node("Mul", "s factor", "scaled");
    node("Add", "scaled mask", "masked");
    node("Softmax", "masked", "p");
    node("MatMul", "p v", "o");
    node("MatMul", "o q", "y");
    output("y");
    options.choice.mode = NW_QUANT_DYNAMIC;
    options.choice.dynamic_rows = !remembered;
    place();
    assert_int_equal(mode_of("s"), remembered ? NW_NODE_FLOAT : NW_NODE_INTEGER);
    assert_int_equal(mode_of("o"), NW_NODE_INTEGER);
    assert_int_equal(mode_of("y"), NW_NODE_FLOAT);
    expect_points(remembered ? "v p" : "q v kt p");
    freeze(0.5f, 3);
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *quantizer = &g->nodes[n];
        if (strcmp(quantizer->op_type, "FakeQuant") != 0) continue;
        const bool weights = quantizer->out[0] == find("o")->in[0];
        assert_int_equal(nw_node_int(quantizer, "per_row", 0), weights);
    }
    assert_string_equal(g->values[find("o")->in[0]].name, "p_dq");
}

static void test_dynamic_attention(void **state) {
    (void)state;
    dynamic_attention(false);
}

static void test_remembered_keys(void **state) {
    (void)state;
    dynamic_attention(true);
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

/* Whatever a user might expect on integers and does not find there has a reason. */
static void test_reasons(void **state) {
    (void)state;
    const float ones[4] = {1, 1, 1, 1};
    const double wide[4] = {1, 2, 3, 4};
    constant("w", 2, (int64_t[]){2, 2}, ones);
    constant("row", 2, (int64_t[]){1, 2}, ones);
    nw_tensor t = {.format = NW_F64, .rank = 2, .dims = {2, 2}, .data = (void *)(uintptr_t)wide};
    int id;
    assert_ok(nw_graph_add_constant_copy(g, "doubles", &t, &id));
    input("x");
    input("i");
    g->values[value("i")].format = NW_S64;
    node("MatMul", "x doubles", "other numbers");
    g->values[value("other numbers")].format = NW_F64;
    node("Einsum", "x w", "foreign");
    node("Max", "x row", "small");
    node("Add", "i i", "indices");
    g->values[value("indices")].format = NW_S64;
    output("other numbers");
    output("foreign");
    output("small");
    output("indices");
    place();
    assert_non_null(strstr(plan->reason[0], "other numbers than f32"));
    assert_non_null(strstr(plan->reason[1], "without an integer form"));
    assert_null(plan->reason[2]);
    assert_null(plan->reason[3]);
    for (int i = 0; i < 4; i++) assert_int_equal(plan->mode[i], NW_NODE_FLOAT);
    freeze(1, 0);
    assert_int_equal(report->layer_count, 2); /* arithmetic on indices is no layer */
}

static void of_unknown_type(const char *name) {
    g->values[value(name)].format = NW_NONE;
}

/* Exporters do not say which values are sizes and which are numbers: sizes are never measured, whatever is asked for. */
static void test_shape_arithmetic(void **state) {
    (void)state;
    matrix("w", 2, 2);
    input("x");
    input("ids");
    g->values[value("ids")].format = NW_S64;
    node("Shape", "x", "shape");
    node("Add", "shape shape", "sum");
    node("Concat", "shape sum", "joined");
    node("Mul", "ids ids", "squares");
    node("Add", "squares squares", "more");
    node("Expand", "w shape", "weights");
    node("MatMul", "x weights", "projected");
    node("Add", "projected x", "y");
    const char *const unknown[] = {"shape", "sum", "joined", "squares", "more", "weights", "projected", "y"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) of_unknown_type(unknown[i]);
    output("joined");
    output("more");
    output("y");
    options.elementwise = NW_YES;
    place();
    expect_points("x projected");
    assert_int_equal(mode_of("y"), NW_NODE_INTEGER);
    for (int n = 1; n < 5; n++) {
        assert_int_equal(plan->mode[n], NW_NODE_FLOAT);
        assert_null(plan->reason[n]);
    }
    assert_int_equal(mode_of("projected"), NW_NODE_FLOAT);
    assert_non_null(strstr(plan->reason[6], "computed from the shapes"));
}

/* A scale per row is for products: files have no form for others, and models mix them. */
static void test_rows_are_for_products(void **state) {
    (void)state;
    matrix("w1", 2, 2);
    conv_weight("w2", 2, 2);
    input("x");
    input("image");
    node("MatMul", "x w1", "m");
    node("Gemm", "m w1", "g");
    node("Conv", "image w2", "c");
    output("g");
    output("c");
    options.choice.mode = NW_QUANT_DYNAMIC;
    options.choice.dynamic_rows = true;
    place();
    expect_points("x image m");
    freeze(1, 0);
    int rows = 0;
    for (int n = 0; n < g->node_count; n++) {
        if (strcmp(g->nodes[n].op_type, "FakeQuant") != 0) continue;
        const bool per_row = nw_node_int(&g->nodes[n], "per_row", 0);
        assert_int_equal(per_row, g->nodes[n].in[0] != value("image"));
        rows += per_row;
    }
    assert_int_equal(rows, 2);
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

static size_t warnings;
static char warning[256];
static void count_warning(void *user, const char *line) {
    (void)user;
    warnings++;
    snprintf(warning, sizeof warning, "%s", line);
}

/* What is wrong with the numbers is said of where it is wrong: of a weight, or of the data and not of all behind it. */
static void test_calibration_on_nan(void **state) {
    (void)state;
    float data[100 * 4], broken[4] = {NAN, -1.0f, 0.77f, NAN};
    one_conv();
    nw_dataset *ds = dataset(100, 0, data);
    data[5] = data[17] = NAN;
    ctx.warn = count_warning;
    warnings = 0;
    assert_ok(nw_quantize_graph(&ctx, g, ds, &options, &report));
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(warning, "2 values of \"x\""));
    nw_dataset_free(ds);

    nw_graph_free(g);
    assert_ok(nw_graph_new(&ctx, NULL, &g));
    assert_ok(nw_graph_set_opset(g, "", 21));
    conv_weight("w", 2, 2);
    constant("broken", 4, (int64_t[]){2, 2, 1, 1}, broken);
    input("x");
    node("Conv", "x broken", "c");
    node("Conv", "c w", "d");
    output("d");
    ds = dataset(100, 0, data);
    assert_int_equal(nw_quantize_graph(&ctx, g, ds, &options, NULL), NW_E_DATA);
    assert_non_null(strstr(ctx.message, "weight \"broken\": element 0"));
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
    const struct CMUnitTest tests[] = {
        TEST(test_relu_belongs_to_its_layer),
        TEST(test_residual),
        TEST(test_shared_before_relu),
        TEST(test_moved_values_share_their_grid),
        TEST(test_concat_shares_its_grid),
        TEST(test_transformer_block),
        TEST(test_dynamic_attention),
        TEST(test_remembered_keys),
        TEST(test_products_and_known_ranges),
        TEST(test_exclude_and_only),
        TEST(test_reasons),
        TEST(test_shape_arithmetic),
        TEST(test_rows_are_for_products),
        TEST(test_patterns),
        TEST(test_dynamic_and_weights_only),
        TEST(test_inputs_left_in_float),
        TEST(test_options),
        TEST(test_needs_data),
        TEST(test_calibration),
        TEST(test_calibration_on_nan),
        TEST(test_coarse_inputs_are_spared),
        TEST(test_bias_correction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
