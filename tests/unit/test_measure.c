/* test_measure.c: which layers are left in float: the decision on made-up times, and what it does to a plan. */
#include "op/op.h"
#include "quant/measure.h"
#include "support/support.h"
#include "support/unit.h"

#include <math.h>
#include <string.h>

static nw_context ctx;

static test_memory memory;

static int open_context(void **state) {
    (void)state;
    memory = (test_memory){.fail_at = -1, .keep_failing = true};
    const nw_allocator allocator = test_allocator(&memory);
    nw_context_init(&ctx, &allocator);
    return 0;
}

/* ---- the decision ----------------------------------------------------------------------------------- */

/* Units of {float ms, integer ms, region, fixed}; expected: the group of each. */
static void expect_groups(size_t count, nw_timed_unit *units, int groups, const int *expected) {
    int group[8];
    assert_int_equal(nw_measure_groups(count, units, group), groups);
    for (size_t i = 0; i < count; i++) assert_int_equal(group[i], expected[i]);
}

static void losers_are_ordered_by_loss(void **state) {
    (void)state;
    nw_timed_unit units[] = {{1.0, 0.5, 0, false, 0, false},
                             {1.0, 1.2, 1, false, 0, false},
                             {1.0, 2.0, 2, false, 0, false},
                             {0.1, 0.4, 3, false, 0, false}};
    expect_groups(4, units, 3, (int[]){-1, 2, 0, 1});
}

static void noise_is_no_loss(void **state) {
    (void)state;
    nw_timed_unit units[] = {{1.0, 1.02, 0, false, 0, false},       /* below 3 % */
                             {0.0010, 0.0019, 1, false, 0, false},  /* below 1 µs */
                             {0.0010, 0.0021, 2, false, 0, false}}; /* above both */
    expect_groups(3, units, 1, (int[]){-1, -1, 0});
    nw_timed_unit equal = {1.0, 1.0, 0, false, 0, false};
    expect_groups(1, &equal, 0, (int[]){-1});
    assert_int_equal(nw_measure_groups(0, NULL, NULL), 0);
}

static void what_is_fixed_stays(void **state) {
    (void)state;
    nw_timed_unit units[] = {{1.0, 3.0, 0, true, 0, false}, {1.0, 2.0, 1, false, 0, false}};
    expect_groups(2, units, 1, (int[]){-1, 0});
}

/* A region that gains as a whole gives up its losers one by one; one that loses goes as a whole, winners too. */
static void regions_are_judged_together(void **state) {
    (void)state;
    nw_timed_unit gains[] = {
        {5.0, 1.0, 7, false, 0, false}, {1.0, 1.5, 7, false, 0, false}, {1.0, 1.8, 7, false, 0, false}};
    expect_groups(3, gains, 2, (int[]){-1, 1, 0});
    nw_timed_unit loses[] = {
        {1.0, 0.9, 7, false, 0, false},
        {1.0, 2.0, 7, false, 0, false},
        {1.0, 3.0, 2, false, 0, false},
        {0.0, 1.0, 7, true, 0, false}}; /* a conversion's or a pool's, say: it counts, but is no layer */
    expect_groups(4, loses, 2, (int[]){1, 1, 0, -1});
    assert_true(loses[0].loses_together && fabs(loses[0].loss - 1.9) < 1e-9);
}

static void gains_must_be_measurable(void **state) {
    (void)state;
    assert_true(nw_measure_gains(1.0, 0.9));
    assert_false(nw_measure_gains(1.0, 0.995));
    assert_false(nw_measure_gains(1.0, 1.1));
    assert_false(nw_measure_gains(0.0010, 0.0005)); /* half a microsecond */
}

/* ---- on a model: x → Conv a → Relu → Conv b → y, one input channel, three by three pixels ------------ */

static nw_graph *g;

static int value(const char *name) {
    int id = nw_graph_find(g, name);
    if (id >= 0) return id;
    assert_ok(&ctx, nw_graph_add_value(g, name, &id));
    g->values[id].format = NW_F32;
    return id;
}

static void node(const char *op, int count, const char *const *inputs, const char *output) {
    int in[3], out = value(output);
    for (int i = 0; i < count; i++) in[i] = value(inputs[i]);
    nw_node *made;
    assert_ok(&ctx, nw_graph_add_node(g, "", op, output, count, in, 1, &out, &made));
}

static void weight(const char *name, int64_t m, int64_t k) {
    float data[16];
    for (int i = 0; i < m * k; i++) data[i] = i % 3 ? -0.5f * (float)i : 0.25f * (float)(i + 1);
    nw_tensor t = {.format = NW_F32, .rank = 4, .dims = {m, k, 1, 1}, .data = data};
    int id;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
}

static int build(void **state) {
    open_context(state);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 13));
    const int x = value("x");
    nw_tensor shape = {.rank = 4, .dims = {1, 2, 3, 3}};
    g->values[x].rank = shape.rank;
    memcpy(g->values[x].dims, shape.dims, sizeof shape.dims);
    assert_ok(&ctx, nw_graph_add_input(g, x));
    weight("wa", 4, 2);
    weight("wb", 4, 4);
    node("Conv", 2, (const char *const[]){"x", "wa"}, "a");
    node("Relu", 1, (const char *const[]){"a"}, "r");
    node("Conv", 2, (const char *const[]){"r", "wb"}, "b");
    assert_ok(&ctx, nw_graph_add_output(g, value("b")));
    assert_ok(&ctx, nw_graph_resolve(g));
    return 0;
}

static int drop(void **state) {
    (void)state;
    nw_graph_free(g);
    return 0;
}

static nw_quant_options given_range(void) {
    nw_quant_options o = nw_quant_options_default();
    o.choice.observer.kind = NW_OBSERVER_ABSOLUTE;
    o.choice.observer.lo = -4;
    o.choice.observer.hi = 4;
    o.bias_correction = false;
    o.inputs = NW_YES;
    o.threads = 1;
    return o;
}

/* Layers named as slow are left in float, by their whole names only. */
static void slow_layers_stay_float(void **state) {
    (void)state;
    nw_quant_options o = given_range();
    const char *const slow[] = {"b", "Con*"};
    nw_quant_report *r;
    o.slow = slow;
    o.slow_count = 2;
    assert_ok(&ctx, nw_quantize_graph(&ctx, g, NULL, &o, &r));
    assert_int_equal(r->layer_count, 2);
    assert_true(r->layers[0].quantized);
    assert_false(r->layers[1].quantized);
    assert_non_null(strstr(r->layers[1].reason, "slow"));
    assert_int_equal(r->timing_count, 0);
    nw_quant_report_free(r);
}

/* Whatever the clock says: each layer is timed both ways, and the report agrees with the plan. */
static void layers_are_timed(void **state) {
    (void)state;
    float data[18];
    for (int i = 0; i < 18; i++) data[i] = (float)(i % 7) - 3;
    const nw_feed feed = {"x", {.format = NW_F32, .rank = 4, .dims = {1, 2, 3, 3}, .data = data}};
    nw_quant_options o = given_range();
    nw_quant_report *r;
    o.timed = &feed;
    o.timed_count = 1;
    assert_ok(&ctx, nw_quantize_graph(&ctx, g, NULL, &o, &r));
    assert_int_equal(r->timing_count, 2);
    assert_string_equal(r->timings[0].name, "a");
    assert_string_equal(r->timings[1].name, "b");
    assert_int_equal(r->layer_count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r->timings[i].layers, 1);
        assert_true(r->timings[i].float_ms > 0 && r->timings[i].integer_ms > 0);
        assert_int_equal(r->layers[i].quantized, !r->timings[i].left);
    }
    assert_true(r->float_ms > 0 && r->ms > 0 && r->ms <= r->all_integer_ms);
    nw_quant_report_free(r);
}

static void weights_only_is_not_timed(void **state) {
    (void)state;
    const nw_feed feed = {"x", {.format = NW_F32, .rank = 4, .dims = {1, 2, 3, 3}}};
    nw_quant_options o = given_range();
    o.choice.mode = NW_QUANT_WEIGHTS;
    o.timed = &feed;
    o.timed_count = 1;
    assert_fails(&ctx, NW_E_ARGUMENT, "nothing to measure", nw_quantize_graph(&ctx, g, NULL, &o, NULL));
}

/* Memory runs out here and there on the way: said each time, and nothing leaks. */
static void starving(void **state) {
    float data[18] = {0};
    const nw_feed feed = {"x", {.format = NW_F32, .rank = 4, .dims = {1, 2, 3, 3}, .data = data}};
    nw_quant_options o = given_range();
    o.timed = &feed;
    o.timed_count = 1;
    nw_status status = NW_E_MEMORY;
    for (long k = 0; status != NW_OK; k += 1 + k / 16) {
        build(state);
        memory.fail_at = memory.asked + k;
        status = nw_quantize_graph(&ctx, g, NULL, &o, NULL);
        drop(state);
        if (status != NW_OK && status != NW_E_MEMORY) fail_msg("allocation %ld: %s", k, ctx.message);
        if (memory.alive) fail_msg("allocation %ld: %ld blocks leak", k, memory.alive);
        assert_true(k < 1000000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(losers_are_ordered_by_loss, open_context),
        cmocka_unit_test_setup(noise_is_no_loss, open_context),
        cmocka_unit_test_setup(what_is_fixed_stays, open_context),
        cmocka_unit_test_setup(regions_are_judged_together, open_context),
        cmocka_unit_test_setup(gains_must_be_measurable, open_context),
        cmocka_unit_test_setup_teardown(slow_layers_stay_float, build, drop),
        cmocka_unit_test_setup_teardown(layers_are_timed, build, drop),
        cmocka_unit_test_setup_teardown(weights_only_is_not_timed, build, drop),
        cmocka_unit_test(starving),
    };
    return cmocka_run_group_tests_name("measure", tests, NULL, NULL);
}
