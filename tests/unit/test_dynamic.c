/* test_dynamic.c: values whose scale is found while running: integer convolutions and what else reads them give what the
 * reference gives, which restricts real numbers and computes on them. */
#include "num/qparam.h"
#include "op/op.h"
#include "run/run.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static nw_context ctx;
static nw_arena arena;
static nw_random numbers;

static float random_float(float lo, float hi) {
    return (float)test_uniform(&numbers, (double)lo, (double)hi);
}

static int open_context(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    return 0;
}

static int close_context(void **state) {
    (void)state;
    nw_arena_free(&arena);
    return 0;
}

/* A constant of 8-bit codes, one scale per element of axis 0; zeros: and a zero point. */
static int packed(nw_graph *g, const char *name, int rank, const int64_t *dims, nw_format format,
                  bool zeros) {
    const size_t count = nw_dims_product(dims, 0, rank), groups = (size_t)dims[0];
    uint8_t *codes = nw_arena_data(&arena, count);
    float *scales = nw_arena_array(&arena, groups, sizeof *scales);
    int32_t *zero = nw_arena_array(&arena, groups, sizeof *zero);
    for (size_t i = 0; i < count; i++) codes[i] = (uint8_t)test_uniform(&numbers, 0, 256);
    for (size_t i = 0; i < groups; i++) {
        scales[i] = random_float(0.001f, 0.01f);
        zero[i] = format == NW_U8 ? 128 - 3 * zeros * (int32_t)i : 2 * (int32_t)i;
    }
    nw_qparam q = {.format = format, .grain = NW_GRAIN_AXIS, .groups = groups, .scales = scales};
    q.qmin = (int32_t)nw_format_min(format);
    q.qmax = (int32_t)nw_format_max(format);
    if (zeros || format == NW_U8) q.zeros = zero;
    nw_tensor t = {.format = format, .data = codes, .qparam = &q};
    int id;
    nw_tensor_set_shape(&t, rank, dims);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    return id;
}

static int restricted(nw_graph *g, int x) {
    int out;
    nw_node *node;
    assert_ok(&ctx, nw_graph_add_value(g, "x_dq", &out));
    assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "", 1, &x, 1, &out, &node));
    assert_ok(&ctx, nw_node_set_string(g, node, "format", "u8"));
    return out;
}

static nw_graph *new_graph(int rank, const int64_t *dims, int *x) {
    nw_graph *g;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
    assert_ok(&ctx, test_input(g, "x", rank, dims, x));
    *x = restricted(g, *x);
    return g;
}

/* Runs the graph as planned and as the reference on numbers of [lo, hi]; counts the steps whose kernel's name holds `kernel`. */
static int same_as_reference(nw_graph *g, float lo, float hi, const char *kernel) {
    const nw_value *value = &g->values[g->inputs[0]];
    nw_feed feed = {"x", {.format = NW_F32}};
    nw_tensor_set_shape(&feed.tensor, value->rank, value->dims);
    assert_ok(&ctx, nw_tensor_alloc(&arena, &feed.tensor));
    for (size_t i = 0; i < nw_tensor_count(&feed.tensor); i++)
        ((float *)feed.tensor.data)[i] = random_float(lo, hi);
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_graph_sort(g));
    int found = 0;
    nw_tensor out[2][2];
    for (int reference = 0; reference < 2; reference++) {
        const nw_run_options options = {.threads = 2, .isa = NW_ISA_COUNT, .reference = reference};
        nw_session *session;
        nw_step_info step;
        assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
        assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, out[reference]));
        for (int i = 0; !reference && nw_session_step(session, i, &step); i++)
            found += strstr(step.kernel, kernel) != NULL;
        nw_session_free(session);
    }
    char message[200];
    for (int i = 0; i < g->output_count; i++)
        if (!test_same(&out[0][i], &out[1][i], 1e-4, 1e-4, message, sizeof message)) fail_msg("%s", message);
    nw_graph_free(g);
    return found;
}

static void add_conv(nw_graph *g, int x, int w, int b, const char *y, int64_t group, int64_t pad,
                     int64_t stride) {
    const int in[3] = {x, w, b};
    const int64_t pads[4] = {pad, pad, pad, pad}, strides[2] = {stride, stride};
    const size_t axes = (size_t)g->values[w].constant->tensor.rank - 2;
    int out;
    nw_node *node;
    assert_ok(&ctx, nw_graph_add_value(g, y, &out));
    assert_ok(&ctx, nw_graph_add_node(g, "", "Conv", "", b < 0 ? 2 : 3, in, 1, &out, &node));
    assert_ok(&ctx, nw_node_set_int(g, node, "group", group));
    assert_ok(&ctx, nw_node_set_ints(g, node, "pads", pads, 2 * axes));
    assert_ok(&ctx, nw_node_set_ints(g, node, "strides", strides, axes));
    assert_ok(&ctx, nw_graph_add_output(g, out));
}

static void convolutions_are_integer(void **state) {
    (void)state;
    static const struct {
        int rank;
        int64_t x[4], w[4], group, pad, stride;
    } cases[] = {{4, {2, 32, 7, 9}, {20, 32, 3, 3}, 1, 1, 1},  {4, {1, 3, 12, 11}, {8, 3, 3, 3}, 1, 1, 2},
                 {4, {1, 40, 5, 6}, {33, 40, 1, 1}, 1, 0, 1},  {4, {1, 24, 9, 9}, {24, 1, 3, 3}, 24, 1, 1},
                 {4, {2, 32, 8, 8}, {32, 16, 3, 3}, 2, 2, 1},  {3, {2, 24, 31}, {10, 24, 5}, 1, 2, 1},
                 {4, {1, 17, 10, 10}, {17, 1, 5, 5}, 17, 2, 2}};
    static const float ranges[][2] = {{-1, 1}, {0.5f, 3}, {-4, -1}, {-0.1f, 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int how = 0; how < 8; how++) {
            int x;
            nw_graph *g = new_graph(cases[i].rank, cases[i].x, &x);
            const int w = packed(g, "w", cases[i].rank, cases[i].w, how & 1 ? NW_U8 : NW_S8, how & 2);
            int b = NW_ABSENT;
            if (how & 4) assert_ok(&ctx, test_ramp(g, "b", 1, cases[i].w, &b));
            add_conv(g, x, w, b, "y", cases[i].group, cases[i].pad, cases[i].stride);
            const float *range = ranges[((size_t)how + i) % 4];
            const bool depthwise = cases[i].group == cases[i].w[0];
            assert_int_equal(
                same_as_reference(g, range[0], range[1], depthwise ? "dwconv_u8s8" : "gemm_u8s8"), 1);
        }
}

/* A convolution, behind it a clamp, and another reader of the same codes. */
static void codes_are_shared(void **state) {
    (void)state;
    const int64_t dims[4] = {1, 32, 6, 6}, first[4] = {16, 32, 3, 3}, second[4] = {8, 32, 1, 1};
    int x;
    nw_graph *g = new_graph(4, dims, &x);
    add_conv(g, x, packed(g, "w1", 4, first, NW_S8, false), NW_ABSENT, "y1", 1, 1, 1);
    add_conv(g, x, packed(g, "w2", 4, second, NW_S8, true), NW_ABSENT, "y2", 1, 0, 1);
    assert_int_equal(same_as_reference(g, -3, 5, "gemm_u8s8"), 2);
}

/* Readers that do not multiply codes get real numbers on the grid. */
static void others_read_rounded_numbers(void **state) {
    (void)state;
    const int64_t dims[4] = {1, 32, 6, 6}, weights[4] = {16, 32, 3, 3};
    for (int how = 0; how < 3; how++) {
        int x, w, y;
        nw_graph *g = new_graph(4, dims, &x);
        if (how == 0) { /* float weights */
            assert_ok(&ctx, test_ramp(g, "w", 4, weights, &w));
            add_conv(g, x, w, NW_ABSENT, "y", 1, 1, 1);
        } else if (how == 1) { /* another kind of layer besides */
            add_conv(g, x, packed(g, "w", 4, weights, NW_S8, false), NW_ABSENT, "y", 1, 1, 1);
            assert_ok(&ctx, test_node(g, "Relu", "r", 1, &x, &y));
            assert_ok(&ctx, nw_graph_add_output(g, y));
        } else { /* the model's user */
            assert_ok(&ctx, nw_graph_add_output(g, x));
        }
        assert_int_equal(same_as_reference(g, -3, 5, "round, measured"), 1);
    }
}

/* Rounding to 16-bit floats is a step of its own, in place where it can be, and knows all numbers. */
static void floats_of_16_bits_are_rounded(void **state) {
    (void)state;
    static const float odd[] = {0,     -0.0f, 1e-8f, -6e-8f,   6.1e-5f,   65504, 65519,
                                65520, -1e6f, 3e38f, INFINITY, -INFINITY, NAN};
    enum { ODD = sizeof odd / sizeof *odd };
    static const char *const formats[] = {"f16", "bf16"};
    for (int f = 0; f < 2; f++) {
        const int64_t dims[1] = {1000};
        const float one = 1;
        const nw_tensor scale = {.format = NW_F32, .data = (void *)(uintptr_t)&one};
        float values[1000];
        for (int i = 0; i < 1000; i++) values[i] = i < ODD ? odd[i] : random_float(-100, 100);
        nw_graph *g;
        nw_node *node;
        int in[2], y;
        assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
        assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
        assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
        assert_ok(&ctx, test_input(g, "x", 1, dims, &in[0]));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &scale, &in[1]));
        assert_ok(&ctx, nw_graph_add_value(g, "y", &y));
        assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "", 2, in, 1, &y, &node));
        assert_ok(&ctx, nw_node_set_string(g, node, "format", formats[f]));
        assert_ok(&ctx, nw_graph_add_output(g, y));
        assert_ok(&ctx, nw_graph_resolve(g));
        nw_feed feed = {"x", {.format = NW_F32, .data = values}};
        nw_tensor_set_shape(&feed.tensor, 1, dims);
        nw_tensor out[2];
        for (int reference = 0; reference < 2; reference++) {
            const nw_run_options options = {.threads = 1, .isa = NW_ISA_COUNT, .reference = reference};
            nw_session *session;
            nw_step_info step;
            assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
            assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, &out[reference]));
            assert_true(nw_session_step(session, 0, &step));
            assert_int_equal(strncmp(step.kernel, "round to", 8) == 0, !reference);
            nw_session_free(session);
        }
        for (int i = 0; i < 1000; i++) {
            const float a = ((float *)out[0].data)[i], b = ((float *)out[1].data)[i];
            if (isnan(a) ? !isnan(b) : a != b)
                fail_msg("%s: %g becomes %g, not %g", formats[f], (double)values[i], (double)a, (double)b);
        }
        nw_graph_free(g);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(convolutions_are_integer, open_context, close_context),
        cmocka_unit_test_setup_teardown(codes_are_shared, open_context, close_context),
        cmocka_unit_test_setup_teardown(floats_of_16_bits_are_rounded, open_context, close_context),
        cmocka_unit_test_setup_teardown(others_read_rounded_numbers, open_context, close_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
