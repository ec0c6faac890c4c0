/* test_optimizer.c: three steps of each optimizer against numbers computed in double from the formulas of
 * optimizer.h, learning rates over time, clipping. */
#include "support/unit.h"
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

static const float gradients[3][3] = {{0.5f, -0.25f, 1}, {0.1f, 0.3f, -0.5f}, {-0.2f, 0.2f, 0.25f}};

static void check_steps(nw_optimizer o, bool decay, const float want[3]) {
    float p[3] = {1, -2, 0.5f}, state[6] = {0};
    for (int64_t step = 1; step <= 3; step++)
        nw_optimizer_step(&o, 0.1, step, decay, 3, p, gradients[step - 1], state, 3);
    for (int i = 0; i < 3; i++) assert_float_equal(p[i], want[i], 2e-6f);
}

static void test_sgd(void **state) {
    (void)state;
    nw_optimizer o = nw_optimizer_default(NW_OPTIMIZER_SGD);
    o.momentum = 0;
    assert_int_equal(nw_optimizer_slots(&o), 0);
    check_steps(o, true, (float[]){0.96f, -2.025f, 0.425f});
    o.weight_decay = 0.01f;
    check_steps(o, true, (float[]){0.95711295f, -2.01902597f, 0.42365140f});
    check_steps(o, false, (float[]){0.96f, -2.025f, 0.425f});
}

static void test_momentum(void **state) {
    (void)state;
    nw_optimizer o = nw_optimizer_default(NW_OPTIMIZER_SGD);
    o.weight_decay = 0.01f;
    assert_int_equal(nw_optimizer_slots(&o), 1);
    check_steps(o, true, (float[]){0.86009475f, -1.99810457f, 0.29652730f});
    o.nesterov = true;
    check_steps(o, true, (float[]){0.83146556f, -2.01740378f, 0.24093106f});
}

static void test_adam(void **state) {
    (void)state;
    nw_optimizer o = nw_optimizer_default(NW_OPTIMIZER_ADAM);
    o.weight_decay = 0.01f;
    assert_int_equal(nw_optimizer_slots(&o), 2);
    check_steps(o, true, (float[]){0.78216585f, -1.93926343f, 0.33829194f});
    o.kind = NW_OPTIMIZER_ADAMW;
    check_steps(o, true, (float[]){0.78254373f, -1.94745561f, 0.33805142f});
}

static void test_constant_rate(void **state) {
    (void)state;
    nw_schedule s = {.kind = NW_SCHEDULE_CONSTANT, .rate = 0.5, .warmup = 4};
    const double want[] = {0.125, 0.25, 0.375, 0.5, 0.5, 0.5};
    for (int64_t step = 1; step <= 6; step++)
        assert_float_equal(nw_schedule_rate(&s, step), want[step - 1], 1e-6f);
}

static void test_stepped_rate(void **state) {
    (void)state;
    nw_schedule s = {.kind = NW_SCHEDULE_STEP, .rate = 1, .factor = 0.1, .every = 2, .warmup = 1};
    const double want[] = {1, 1, 1, 0.1, 0.1, 0.01, 0.01};
    for (int64_t step = 1; step <= 7; step++)
        assert_float_equal(nw_schedule_rate(&s, step), want[step - 1], 1e-6f);
}

static void test_cosine_rate(void **state) {
    (void)state;
    nw_schedule s = {.kind = NW_SCHEDULE_COSINE, .rate = 1, .last = 0.2, .warmup = 2, .total = 11};
    assert_float_equal(nw_schedule_rate(&s, 1), 0.5, 1e-6f);
    assert_float_equal(nw_schedule_rate(&s, 3), 1, 1e-6f);
    assert_float_equal(nw_schedule_rate(&s, 7), 0.6, 1e-6f); /* half way */
    assert_float_equal(nw_schedule_rate(&s, 11), 0.2, 1e-6f);
    assert_float_equal(nw_schedule_rate(&s, 1000), 0.2, 1e-6f);
}

static void test_clipping(void **state) {
    (void)state;
    float a[] = {3, 0}, b[] = {-4}, *const g[] = {a, b};
    const size_t n[] = {2, 1};
    assert_float_equal(nw_gradient_clip(10, 2, n, g), 5, 1e-6f);
    assert_float_equal(b[0], -4, 0);
    assert_float_equal(nw_gradient_clip(1, 2, n, g), 5, 1e-6f);
    assert_float_equal(a[0], 0.6f, 1e-6f);
    assert_float_equal(b[0], -0.8f, 1e-6f);
    a[1] = NAN;
    assert_true(isnan(nw_gradient_clip(0.1, 2, n, g)));
    assert_float_equal(a[0], 0.6f, 1e-6f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sgd),          cmocka_unit_test(test_momentum),
        cmocka_unit_test(test_adam),         cmocka_unit_test(test_constant_rate),
        cmocka_unit_test(test_stepped_rate), cmocka_unit_test(test_cosine_rate),
        cmocka_unit_test(test_clipping),
    };
    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}
