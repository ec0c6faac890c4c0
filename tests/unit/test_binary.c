/* test_binary.c: layers whose weights and inputs both are {−1, 1} times a scale: quantized so, written as ONNX and read back,
 * and planned. */
#include "onnx/onnx.h"
#include "op/quantize.h"
#include "quant/quant.h"
#include "run/run.h"
#include "support/model.h"
#include "support/unit.h"

#include <math.h>
#include <string.h>

static nw_context ctx;
static nw_arena arena;

enum {
    BATCH = 2,
    CHANNELS = 6,
    SIDE = 9,
    SAMPLE = CHANNELS * SIDE * SIDE,
    HIDDEN = 140,
    WIDE = 310,
    CLASSES = 5
};
enum { BINARY = 4 }; /* layers whose input is */

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

/* Numbers of both signs, none of them 0. */
static void fill(float *x, size_t count, int seed) {
    for (size_t i = 0; i < count; i++) x[i] = sinf((float)((i + 1) * (size_t)(seed + 7)) * 0.73f) + 0.001f;
}

static int constant(nw_graph *g, const char *name, int rank, const int64_t *dims) {
    nw_tensor t = {.format = NW_F32};
    int id;
    nw_tensor_set_shape(&t, rank, dims);
    assert_ok(&ctx, nw_tensor_alloc(&arena, &t));
    fill(t.data, nw_tensor_count(&t), (int)strlen(name) + name[0]);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    return id;
}

static int scalar(nw_graph *g, const char *name, float value) {
    int id;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &(nw_tensor){.format = NW_F32, .data = &value}, &id));
    return id;
}

static int add(nw_graph *g, const char *op, const char *output, int count, const int *in) {
    int y;
    assert_ok(&ctx, test_node(g, op, output, count, in, &y));
    return y;
}

static nw_node *last_node(nw_graph *g) {
    return &g->nodes[g->node_count - 1];
}

/* x → Conv 3×3 → Clip → Conv 3×3, depthwise → Conv 3×3, padded, 2 groups → Flatten → Gemm → MatMul → y. Channel counts
 * are no multiples of a word's bits. Biases keep sums away from 0, whose sign in the reference rounding would decide. */
static nw_graph *network(void) {
    nw_graph *g;
    int in[4], y;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 17));
    g->info->ir_version = 8;
    assert_ok(&ctx, test_input(g, "x", 4, (int64_t[]){BATCH, CHANNELS, SIDE, SIDE}, &in[0]));
    in[1] = constant(g, "w_first", 4, (int64_t[]){HIDDEN, CHANNELS, 3, 3});
    in[0] = add(g, "Conv", "first", 2, in);
    in[1] = scalar(g, "low", -2);
    in[2] = scalar(g, "high", 2);
    in[0] = add(g, "Clip", "clip", 3, in);
    in[1] = constant(g, "w_depth", 4, (int64_t[]){HIDDEN, 1, 3, 3});
    in[2] = constant(g, "b_depth", 1, (int64_t[]){HIDDEN});
    in[0] = add(g, "Conv", "depth", 3, in);
    assert_ok(&ctx, nw_node_set_int(g, last_node(g), "group", HIDDEN));
    assert_ok(&ctx, nw_node_set_ints(g, last_node(g), "pads", (int64_t[]){1, 1, 1, 1}, 4));
    in[1] = constant(g, "w_second", 4, (int64_t[]){HIDDEN, HIDDEN / 2, 3, 3});
    in[2] = constant(g, "b_second", 1, (int64_t[]){HIDDEN});
    in[0] = add(g, "Conv", "second", 3, in);
    nw_node *conv = last_node(g);
    assert_ok(&ctx, nw_node_set_int(g, conv, "group", 2));
    assert_ok(&ctx, nw_node_set_ints(g, conv, "pads", (int64_t[]){1, 2, 1, 0}, 4));
    assert_ok(&ctx, nw_node_set_ints(g, conv, "strides", (int64_t[]){2, 1}, 2));
    in[0] = add(g, "Flatten", "flat", 1, in);
    in[1] = constant(g, "w_third", 2, (int64_t[]){WIDE, HIDDEN * 4 * 7});
    in[2] = constant(g, "b_third", 1, (int64_t[]){WIDE});
    in[0] = add(g, "Gemm", "third", 3, in);
    assert_ok(&ctx, nw_node_set_int(g, last_node(g), "transB", 1));
    in[1] = constant(g, "w_fourth", 2, (int64_t[]){WIDE, CLASSES});
    in[0] = add(g, "MatMul", "product", 2, in);
    in[1] = constant(g, "b_fourth", 1, (int64_t[]){CLASSES});
    y = add(g, "Add", "y", 2, in);
    assert_ok(&ctx, nw_graph_add_output(g, y));
    assert_ok(&ctx, nw_graph_resolve(g));
    return g;
}

static nw_graph *binary_network(nw_quant_report **report) {
    static float samples[4 * SAMPLE];
    nw_graph *g = network();
    nw_quant_options options = nw_quant_options_default();
    nw_tensor t = {.format = NW_F32, .data = samples};
    nw_dataset *data;
    fill(samples, 4 * SAMPLE, 1);
    nw_tensor_set_shape(&t, 4, (int64_t[]){4, CHANNELS, SIDE, SIDE});
    options.choice.activation = NW_BINARY_FORMAT;
    assert_ok(&ctx, nw_scheme_parse(&ctx, "binary", &options.choice.weights));
    assert_ok(&ctx, nw_dataset_from_arrays(&ctx, 1, NULL, &t, NULL, NULL, &data));
    assert_ok(&ctx, nw_quantize_graph(&ctx, g, data, &options, report));
    nw_dataset_free(data);
    assert_ok(&ctx, nw_graph_resolve(g));
    return g;
}

static int products, on_codes; /* steps of the latest run that multiply bits, and signs as codes */

static void run(const nw_graph *g, const nw_run_options *options, float *y) {
    static float x[BATCH * SAMPLE];
    nw_session *session;
    nw_tensor out;
    nw_feed feed = {"x", {.format = NW_F32, .data = x}};
    fill(x, BATCH * SAMPLE, 3);
    nw_tensor_set_shape(&feed.tensor, 4, (int64_t[]){BATCH, CHANNELS, SIDE, SIDE});
    assert_ok(&ctx, nw_session_new(&ctx, g, options, &session));
    assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, &out));
    assert_int_equal(nw_tensor_count(&out), BATCH * CLASSES);
    memcpy(y, out.data, BATCH * CLASSES * sizeof *y);
    nw_step_info step;
    for (int i = 0; nw_session_step(session, i, &step); i++) {
        products += strstr(step.kernel, "gemm_bits") != NULL;
        on_codes += strcmp(step.kernel, "dwconv_u8s8") == 0;
        if (products && strcmp(step.op, "FakeQuant") == 0) assert_string_equal(step.kernel, "(left out)");
    }
    nw_session_free(session);
}

/* How many nodes are x ≥ 0 ? s : −s; their scales' sum. */
static int signs(const nw_graph *g, float *sum) {
    int count = 0;
    *sum = 0;
    for (int n = 0; n < g->node_count; n++) {
        float scale;
        bool ok;
        assert_ok(&ctx, nw_fakequant_sign_scale(g, &g->nodes[n], &arena, &scale, &ok));
        if (!ok) continue;
        count++;
        *sum += scale;
    }
    return count;
}

static void test_quantized(void **state) {
    (void)state;
    nw_quant_report *report;
    nw_graph *g = binary_network(&report);
    float sum;
    /* In front of all layers but the first, whose input stays real: its values' signs would say too little. */
    assert_int_equal(signs(g, &sum), BINARY);
    assert_int_equal(report->activation_count, BINARY);
    for (size_t i = 0; i < report->activation_count; i++) {
        const nw_quant_activation *a = &report->activations[i];
        const double square = a->sigma * a->sigma + a->mean * a->mean;
        assert_true(a->scale > 0 && a->lo == -a->scale && a->hi == a->scale);
        assert_true((double)a->scale <
                    sqrt(square)); /* the mean magnitude is below the root of the mean square */
        assert_true(fabs(a->sqnr + 10 * log10(1 - (double)a->scale * (double)a->scale / square)) < 1e-6);
    }
    assert_true(fabsf(report->activations[0].scale - 1.5f) < 0.4f); /* numbers clipped to ±2, most of them */
    nw_quant_report_free(report);
    nw_graph_free(g);
}

static void test_modes(void **state) {
    (void)state;
    nw_quant_choice choice = nw_quant_choice_default();
    choice.activation = nw_quant_activation_by_word("binary");
    assert_string_equal(nw_quant_activation_word(choice.activation), "binary");
    assert_true(nw_quant_is_binary(&choice));
    assert_ok(&ctx, nw_quant_choice_check(&ctx, &choice));
    choice.mode = NW_QUANT_DYNAMIC;
    assert_fails(&ctx, NW_E_ARGUMENT, "need mode \"static\"", nw_quant_choice_check(&ctx, &choice));
    choice.mode = NW_QUANT_WEIGHTS; /* says nothing about activations */
    assert_ok(&ctx, nw_quant_choice_check(&ctx, &choice));
    assert_false(nw_quant_is_binary(&choice));
}

/* Spelled, written, read and folded: the same FakeQuants, and the same numbers at every stage. */
static void test_round_trip(void **state) {
    (void)state;
    static const nw_quant_style styles[] = {NW_STYLE_QDQ, NW_STYLE_QOPERATOR, NW_STYLE_NATIVE};
    const nw_run_options reference = {.threads = 1, .reference = true};
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        float want[BATCH * CLASSES], got[BATCH * CLASSES], sum, back;
        nw_graph *g = binary_network(NULL), *read;
        nw_bytes *bytes;
        run(g, &reference, want);
        signs(g, &sum);
        assert_ok(&ctx, nw_onnx_spell_quantization(g, styles[i], 0));
        run(g, &reference, got);
        assert_memory_equal(got, want, sizeof want);
        if (styles[i] != NW_STYLE_NATIVE) assert_int_equal(signs(g, &back), 0);
        assert_ok(&ctx, test_model_bytes(&ctx, g, &bytes));
        assert_ok(&ctx, nw_onnx_import_bytes(&ctx, bytes, "test", NULL, false, &read));
        assert_ok(&ctx, nw_onnx_fold_quantization(read));
        assert_int_equal(signs(read, &back), BINARY);
        assert_true(back == sum);
        run(read, &reference, got);
        assert_memory_equal(got, want, sizeof want);
        nw_bytes_free(bytes);
        nw_graph_free(read);
        nw_graph_free(g);
    }
}

/* Where(GreaterOrEqual(x, 0), s, −s) is one too; other constants are not. */
static void test_foreign_spelling(void **state) {
    (void)state;
    static const struct {
        const char *compare;
        float than, yes, no;
        int found;
    } cases[] = {{"GreaterOrEqual", 0, 0.5f, -0.5f, 1},
                 {"Less", 0, -3, 3, 1},
                 {"Less", 0, 3, -3, 0},
                 {"GreaterOrEqual", 0, -0.5f, 0.5f, 0},
                 {"GreaterOrEqual", 1, 0.5f, -0.5f, 0},
                 {"GreaterOrEqual", 0, 0.5f, -0.25f, 0},
                 {"Greater", 0, 0.5f, -0.5f, 0},
                 {"Less", 0, -INFINITY, INFINITY, 0},
                 {"Less", NAN, -1, 1, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nw_graph *g;
        float sum;
        int in[3], y;
        assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
        assert_ok(&ctx, nw_graph_set_opset(g, "", 13));
        assert_ok(&ctx, test_input(g, "x", 1, (int64_t[]){8}, &in[0]));
        in[1] = scalar(g, "than", cases[i].than);
        in[0] = add(g, cases[i].compare, "flag", 2, in);
        in[1] = scalar(g, "yes", cases[i].yes);
        in[2] = scalar(g, "no", cases[i].no);
        y = add(g, "Where", "y", 3, in);
        assert_ok(&ctx, nw_graph_add_output(g, y));
        assert_ok(&ctx, nw_graph_resolve(g));
        assert_ok(&ctx, nw_onnx_fold_quantization(g));
        assert_int_equal(signs(g, &sum), cases[i].found);
        if (cases[i].found) assert_true(sum == fabsf(cases[i].yes));
        nw_graph_free(g);
    }
}

/* Every ISA gives the same bits, and the reference, which multiplies and adds real numbers, what these round to. The layers
 * behind the first one multiply bits, the depthwise one bytes; the real numbers that they stand for are made nowhere. */
static void test_planned(void **state) {
    (void)state;
    float want[BATCH * CLASSES], first[BATCH * CLASSES], got[BATCH * CLASSES];
    const nw_run_options reference = {.threads = 1, .reference = true};
    nw_graph *g = binary_network(NULL);
    products = 0;
    run(g, &reference, want);
    assert_int_equal(products, 0);
    for (int isa = 0; isa < NW_ISA_COUNT; isa++) {
        const nw_run_options options = {.threads = 1 + isa % 2, .isa = (nw_isa)isa};
        products = on_codes = 0;
        run(g, &options, isa ? got : first);
        assert_int_equal(products, BINARY - 1);
        assert_int_equal(on_codes, 1);
        /* The first layer is float: its sums, and so rounded signs of nearly 0, would differ between ISAs by more. */
        for (int i = 0; i < BATCH * CLASSES; i++) {
            const float y = isa ? got[i] : first[i];
            assert_true(fabsf(y - want[i]) <= 1e-5f * (1 + fabsf(want[i])));
        }
    }
    nw_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_quantized, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_modes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_foreign_spelling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_planned, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
