/* test_freeze.c: what freezing makes of weights and biases, on small graphs built by hand. */
#include "./quant/building.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
