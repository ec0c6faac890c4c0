/* test_fakequant.c: the FakeQuant node for every number format: written and read back, evaluated, planned, and what of it
 * makes no sense. */
#include "num/scheme.h"
#include "op/quantize.h"
#include "quant/weights.h"
#include "run/run.h"
#include "support/model.h"
#include "support/unit.h"

#include <math.h>
#include <string.h>

static nw_context ctx;
static nw_graph *g;
static nw_arena arena;

static int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    nw_graph_free(g);
    nw_arena_free(&arena);
    return 0;
}

enum { ROWS = 4, COLUMNS = 50, COUNT = ROWS * COLUMNS };
static const int64_t dims[2] = {ROWS, COLUMNS};

/* x [4,50] → FakeQuant → y, without attributes; p NULL: no scale. */
static nw_node *quantizer(const nw_qparam *p) {
    int in[3] = {0, NW_ABSENT, NW_ABSENT}, y;
    nw_node *node;
    assert_ok(&ctx, test_input(g, "x", 2, dims, &in[0]));
    if (p) {
        nw_tensor scale = {.format = nw_qparam_scale_format(p), .rank = 1, .dims = {(int64_t)p->groups}};
        nw_tensor zero = scale;
        scale.data = (void *)(uintptr_t)p->scales;
        zero.format = NW_S32;
        zero.data = (void *)(uintptr_t)p->zeros;
        if (p->grain == NW_GRAIN_BLOCK) {
            nw_tensor_set_shape(&scale, 2, dims);
            scale.dims[p->axis] = (dims[p->axis] + p->block - 1) / p->block;
            nw_tensor_set_shape(&zero, scale.rank, scale.dims);
        }
        assert_ok(&ctx, nw_graph_add_constant_copy(g, "scale", &scale, &in[1]));
        if (p->zeros) assert_ok(&ctx, nw_graph_add_constant_copy(g, "zero", &zero, &in[2]));
    }
    assert_ok(&ctx, nw_graph_add_value(g, "y", &y));
    assert_ok(&ctx, nw_graph_add_output(g, y));
    assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "q",
                                      in[2] >= 0 ? 3
                                      : p        ? 2
                                                 : 1,
                                      in, 1, &y, &node));
    return node;
}

static void run(const float *x, float *y) {
    nw_session *session;
    nw_tensor out;
    nw_feed feed = {"x", {.format = NW_F32, .data = (void *)(uintptr_t)x}};
    nw_tensor_set_shape(&feed.tensor, 2, dims);
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_session_new(&ctx, g, NULL, &session));
    assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, &out));
    memcpy(y, out.data, COUNT * sizeof *y);
    nw_session_free(session);
}

static void fill(float *x) {
    for (int i = 0; i < COUNT; i++) x[i] = sinf((float)i * 1.7f) * (float)(i % 9) / 8;
    x[3] = NAN;
    x[4] = INFINITY;
    x[5] = -INFINITY;
    x[6] = -0.0f;
    x[7] = 1e-42f;
}

static const char *const words[] = {
    "s8",       "u8",      "s4",     "u4@f16",   "s2",     "s16",        "range(-255:255)",
    "fixed8",   "ternary", "binary", "log4",     "log8/2", "sqrt8",      "codebook4",
    "nf4@bf16", "f16",     "bf16",   "f8e4m3fn", "f8e5m2", "f4e2m1@e8m0"};
static const struct {
    nw_grain grain;
    int axis;
    int64_t block;
} grains[] = {{NW_GRAIN_TENSOR, 0, 0},
              {NW_GRAIN_AXIS, 0, 0},
              {NW_GRAIN_AXIS, 1, 0},
              {NW_GRAIN_BLOCK, 1, 16},
              {NW_GRAIN_BLOCK, 0, 2}};

/* Attributes that were written are read back as the same grid, and the node computes what the grid says. */
static void written_and_read(void **state) {
    for (size_t w = 0; w < sizeof words / sizeof *words; w++)
        for (size_t k = 0; k < sizeof grains / sizeof *grains; k++) {
            float x[COUNT], y[COUNT], expected[COUNT];
            nw_scheme scheme;
            nw_quant_weight record;
            for (int i = 0; i < COUNT; i++) x[i] = cosf((float)i) * (float)(1 + i % 5);
            assert_ok(&ctx, nw_scheme_parse(&ctx, words[w], &scheme));
            nw_weight_spec spec = {.coding = scheme.coding,
                                   .scale_format = scheme.scale_format,
                                   .grain = grains[k].grain,
                                   .axis = grains[k].axis,
                                   .block = grains[k].block};
            nw_tensor t = {.format = NW_F32, .data = x}, packed;
            nw_tensor_set_shape(&t, 2, dims);
            assert_ok(&ctx, nw_weight_pack(&arena, "x", &t, &spec, NULL, &packed, &record));
            const nw_qparam *p = packed.qparam;
            nw_node *node = quantizer(p);
            assert_ok(&ctx, nw_fakequant_write(g, node, p));

            nw_qparam read;
            bool dynamic;
            assert_ok(&ctx, nw_fakequant_qparam(g, node, &arena, &read, &dynamic));
            assert_false(dynamic);
            if (!nw_qparam_equal(&read, p)) fail_msg("%s, grain %zu: another grid was read", words[w], k);
            assert_int_equal(nw_qparam_scale_format(&read), nw_qparam_scale_format(p));

            fill(x);
            nw_fake_quantize(p, 2, dims, x, expected);
            run(x, y);
            for (int i = 0; i < COUNT; i++) /* not bit for bit: the sign of a zero and of a NaN may be lost */
                if (y[i] != expected[i] && !(isnan(y[i]) && isnan(expected[i])))
                    fail_msg("%s, grain %zu: %g became %g, not %g", words[w], k, (double)x[i], (double)y[i],
                             (double)expected[i]);
            tear_down(state);
            set_up(state);
        }
}

/* Scales found while running: the largest number is covered, and the scale is one of its format. */
static void measured_scales(void **state) {
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        float x[COUNT], y[COUNT];
        nw_scheme scheme;
        assert_ok(&ctx, nw_scheme_parse(&ctx, words[w], &scheme));
        if (scheme.coding.kind == NW_CODEBOOK) continue; /* its table comes from the data */
        const nw_coding *c = &scheme.coding;
        nw_qparam p = {.format = c->format,
                       .scale_format = scheme.scale_format,
                       .qmin = c->grid.qmin + c->shift,
                       .qmax = c->grid.qmax + c->shift},
                  read;
        bool dynamic;
        assert_ok(&ctx, nw_coding_levels(&arena, c, &p.levels));
        nw_node *node = quantizer(NULL);
        assert_ok(&ctx, nw_fakequant_write(g, node, &p));
        assert_ok(&ctx, nw_fakequant_qparam(g, node, &arena, &read, &dynamic));
        assert_true(dynamic && read.format == p.format && read.qmin == p.qmin && read.qmax == p.qmax);
        assert_int_equal(nw_qparam_scale_format(&read), scheme.scale_format);
        assert_int_equal(read.levels.count, p.levels.count);
        for (int i = 0; i < COUNT; i++) x[i] = sinf((float)i * 1.7f) * 3;
        x[9] = 3.25f;
        run(x, y);
        double steps =
            p.levels.count || nw_format_is_float(c->format) ? 2 : (double)c->grid.qmax - c->grid.qmin;
        double slack = scheme.scale_format == NW_F8E8M0 ? 2 : 1;
        assert_true(fabs((double)y[9] - 3.25) <= slack * 6.5 / steps * 0.51);
        assert_true(y[9] > 0);
        tear_down(state);
        set_up(state);
    }
}

static void nonsense_is_refused(void **state) {
    static const float up[3] = {-1, 0, 1}, down[3] = {1, 0, -1}, many[5] = {0, 1, 2, 3, 4},
                       holes[3] = {0, NAN, 2};
    static const struct {
        const char *format, *scale_format;
        const float *levels;
        size_t level_count, threshold_count; /* thresholds: the first of `up` */
        const char *message;
    } cases[] = {{"index2", "f32", NULL, 0, 0, "0 levels"},
                 {"index2", "f32", down, 3, 0, "ascending"},
                 {"index2", "f32", holes, 3, 0, "ascending"},
                 {"index2", "f32", many, 5, 0, "as many as there are codes"},
                 {"index1", "f32", up, 3, 0, "as many as"},
                 {"index8", "f32", up, 1, 0, "2 levels or more"},
                 {"index2", "f32", up, 3, 1, "one threshold"},
                 {"index2", "f32", up, 3, 3, "one threshold"},
                 {"s8", "f32", up, 3, 0, "s8 with 3 levels"},
                 {"f16", "f32", up, 3, 0, "makes no sense"},
                 {"u8", "u8", NULL, 0, 0, "no format for scales"},
                 {"u8", "f64", NULL, 0, 0, "no format for scales"},
                 {"index3", "f32", up, 3, 0, "no format"},
                 {"string", "f32", NULL, 0, 0, "no format"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nw_node *node = quantizer(NULL);
        nw_qparam p;
        bool dynamic;
        assert_ok(&ctx, nw_node_set_string(g, node, "format", cases[i].format));
        assert_ok(&ctx, nw_node_set_string(g, node, "scale_format", cases[i].scale_format));
        if (cases[i].levels)
            assert_ok(&ctx, nw_node_set_floats(g, node, "levels", cases[i].levels, cases[i].level_count));
        if (cases[i].threshold_count)
            assert_ok(&ctx, nw_node_set_floats(g, node, "thresholds", up, cases[i].threshold_count));
        assert_fails(&ctx, NW_E_ARGUMENT, cases[i].message,
                     nw_fakequant_qparam(g, node, &arena, &p, &dynamic));
        tear_down(state);
        set_up(state);
    }
    /* without thresholds, halfway */
    nw_node *node = quantizer(NULL);
    nw_qparam p;
    bool dynamic;
    assert_ok(&ctx, nw_node_set_string(g, node, "format", "index2"));
    assert_ok(&ctx, nw_node_set_floats(g, node, "levels", up, 3));
    assert_ok(&ctx, nw_fakequant_qparam(g, node, &arena, &p, &dynamic));
    assert_true(p.levels.threshold[0] == -0.5f && p.levels.threshold[1] == 0.5f && p.qmax == 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_and_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(measured_scales, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nonsense_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("fakequant", tests, NULL, NULL);
}
