/* test_qparam.c: quantization: grids, grains, the error bound, the choice of scales. */
#include "num/choose.h"
#include "num/tensor.h"
#include "support/support.h"
#include "support/unit.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static nw_random generator = {7};

static float uniform(float lo, float hi) {
    return (float)test_uniform(&generator, (double)lo, (double)hi);
}

static const struct grid {
    nw_format format;
    int32_t qmin, qmax;
} grids[] = {{NW_U8, 0, 255},         {NW_S8, -128, 127}, {NW_S8, -127, 127}, {NW_U8, 0, 127},
             {NW_S4, -8, 7},          {NW_U4, 0, 15},     {NW_U2, 0, 3},      {NW_S2, -2, 1},
             {NW_S16, -32768, 32767}, {NW_S16, -255, 255}};
enum { GRIDS = sizeof grids / sizeof *grids };

/* |x − x'| ≤ s/2 for every x inside the range, in symmetric and asymmetric grids; the extra is float
 * rounding. */
static void error_is_at_most_half_a_step(void **state) {
    (void)state;
    static const float ranges[][2] = {{-1, 1}, {0, 6},   {-3, 0},           {-0.1f, 7},
                                      {2, 5},  {-9, -4}, {-1e-20f, 1e-20f}, {-1e20f, 3e19f}};
    for (size_t g = 0; g < GRIDS; g++)
        for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++)
            for (int symmetric = 0; symmetric < 2; symmetric++) {
                float lo = ranges[r][0], hi = ranges[r][1], scale;
                int32_t zero;
                if (symmetric && grids[g].qmin == 0 && lo < 0)
                    continue; /* unsigned symmetric needs min ≥ 0 */
                nw_choose_scale(lo, hi, symmetric, grids[g].qmin, grids[g].qmax, &scale, &zero);
                nw_qparam p = {.format = grids[g].format,
                               .groups = 1,
                               .scales = &scale,
                               .zeros = &zero,
                               .qmin = grids[g].qmin,
                               .qmax = grids[g].qmax};
                enum { COUNT = 257 };
                float x[COUNT], y[COUNT], fake[COUNT];
                uint8_t codes[2 * COUNT];
                int64_t dims[1] = {COUNT};
                for (int i = 0; i < COUNT; i++) x[i] = uniform(lo, hi);
                x[0] = lo;
                x[1] = hi;
                x[2] = lo <= 0 && hi >= 0 ? 0 : lo;
                size_t saturated = nw_quantize(&p, 1, dims, x, codes);
                nw_dequantize(&p, 1, dims, codes, y);
                assert_int_equal(nw_fake_quantize(&p, 1, dims, x, fake), saturated);
                assert_memory_equal(y, fake, sizeof y);
                /* Rounding the zero point may push an end of the range out by half a step. */
                for (int i = 0; i < COUNT; i++) {
                    double bound = 0.5 * (double)scale * (1 + 1e-4) + 1e-6 * fabs((double)x[i]);
                    bool edge = !symmetric && (x[i] <= lo + scale || x[i] >= hi - scale);
                    assert_true(fabs((double)x[i] - (double)y[i]) <= bound * (edge ? 2 : 1));
                }
                if (x[2] == 0) assert_true(y[2] == 0); /* zero is exact: padding, ReLU */
                for (int i = 0; i < COUNT; i++) {
                    int64_t q = nw_load_s64(p.format, codes, (size_t)i);
                    assert_in_range(q - p.qmin, 0, p.qmax - p.qmin);
                }
            }
}

static void constants_round_trip(void **state) {
    (void)state;
    static const float values[] = {0, 1, -1, 0.3f, -0.7f, 1e-30f, 1e30f, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-42f};
    for (size_t v = 0; v < sizeof values / sizeof *values; v++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            float scale;
            int32_t zero;
            nw_choose_scale(values[v], values[v], symmetric, -127, 127, &scale, &zero);
            assert_true(isfinite(scale) && scale >= FLT_MIN);
            int32_t q = nw_quantize_one(values[v], scale, zero, -127, 127);
            float x = scale * (float)(q - zero);
            if (fabsf(values[v]) >= FLT_MIN * 127 || values[v] == 0)
                if (!(fabsf(x - values[v]) <= fabsf(values[v]) * 0.01f))
                    fail_msg("%g became %g", (double)values[v], (double)x);
        }
    float scale;
    int32_t zero;
    nw_choose_scale(NAN, INFINITY, false, 0, 255, &scale, &zero);
    assert_true(isfinite(scale) && scale > 0 && zero >= 0 && zero <= 255);
    nw_choose_scale(-FLT_MAX, FLT_MAX, false, 0, 1, &scale, &zero);
    assert_true(isfinite(scale) && scale > 0);
}

static void rounding_is_half_to_even(void **state) {
    (void)state;
    assert_int_equal(nw_quantize_one(0.5f, 1, 0, -128, 127), 0);
    assert_int_equal(nw_quantize_one(1.5f, 1, 0, -128, 127), 2);
    assert_int_equal(nw_quantize_one(-2.5f, 1, 0, -128, 127), -2);
    assert_int_equal(nw_quantize_one(2.5f, 1, 3, -128, 127), 5); /* rounded before the zero point is added */
    assert_int_equal(nw_quantize_one(NAN, 1, 7, 0, 255), 7);
    assert_int_equal(nw_quantize_one(INFINITY, 1, 7, 0, 255), 255);
    assert_int_equal(nw_quantize_one(-INFINITY, 1, 7, 0, 255), 0);
    assert_int_equal(nw_quantize_one(3e38f, 1e-3f, 0, INT32_MIN, INT32_MAX), INT32_MAX);
}

/* Every grain against the definition of a group in qparam.h, computed index by index. */
static void grains_find_their_scale(void **state) {
    (void)state;
    static const int64_t dims[3] = {3, 10, 4};
    enum { COUNT = 3 * 10 * 4 };
    float x[COUNT], y[COUNT], scales[COUNT];
    uint8_t codes[COUNT];
    int32_t zeros[COUNT];
    for (int i = 0; i < COUNT; i++) x[i] = uniform(-2, 2);
    for (int axis = 0; axis < 3; axis++)
        for (int64_t block = 0; block <= 11;
             block++) { /* 0: grain AXIS; 3 leaves a short last block, 11 is one block */
            nw_qparam p = {.format = NW_S8,
                           .grain = block ? NW_GRAIN_BLOCK : NW_GRAIN_AXIS,
                           .axis = axis,
                           .block = block,
                           .scales = scales,
                           .zeros = zeros,
                           .qmin = -128,
                           .qmax = 127};
            p.groups = nw_qparam_group_count(p.grain, axis, block, 3, dims);
            assert_true(p.groups <= COUNT);
            for (size_t g = 0; g < p.groups; g++) {
                scales[g] = 0.01f * (float)(g + 1);
                zeros[g] = (int32_t)(g % 5) - 2;
            }
            nw_quantize(&p, 3, dims, x, codes);
            nw_dequantize(&p, 3, dims, codes, y);
            for (int64_t i = 0; i < dims[0]; i++)
                for (int64_t j = 0; j < dims[1]; j++)
                    for (int64_t k = 0; k < dims[2]; k++) {
                        int64_t index[3] = {i, j, k}, shape[3] = {dims[0], dims[1], dims[2]},
                                group = index[axis];
                        if (block) {
                            index[axis] /= block;
                            shape[axis] = (shape[axis] + block - 1) / block;
                            group = (index[0] * shape[1] + index[1]) * shape[2] + index[2];
                        }
                        int64_t at = (i * dims[1] + j) * dims[2] + k;
                        int32_t q = nw_quantize_one(x[at], scales[group], zeros[group], -128, 127);
                        assert_int_equal((int8_t)codes[at], q);
                        assert_true(y[at] == scales[group] * (float)(q - zeros[group]));
                    }
        }
}

static void float_codes_scale(void **state) {
    (void)state;
    float scale = 0.5f;
    nw_qparam p = {.format = NW_F8E4M3FN, .groups = 1, .scales = &scale};
    const float x[4] = {1, -3.3f, 1000, 0.001f};
    float y[4];
    uint8_t codes[4];
    int64_t dims[1] = {4};
    assert_int_equal(nw_quantize(&p, 1, dims, x, codes), 1);
    nw_dequantize(&p, 1, dims, codes, y);
    assert_true(y[0] == 1 && y[1] == -3.25f && y[2] == 224);
}

static void equal_grids(void **state) {
    (void)state;
    float scales[2] = {1, 2}, same[2] = {1, 2}, other[2] = {1, 3};
    int32_t zeros[2] = {0, 0};
    nw_qparam a = {
        .format = NW_S8, .grain = NW_GRAIN_AXIS, .groups = 2, .scales = scales, .qmin = -128, .qmax = 127};
    nw_qparam b = a;
    b.scales = same;
    b.zeros = zeros; /* all zero is the same as none */
    assert_true(nw_qparam_equal(&a, &b));
    b.scales = other;
    assert_false(nw_qparam_equal(&a, &b));
    b = a;
    b.qmin = -127;
    assert_false(nw_qparam_equal(&a, &b));
    assert_false(nw_qparam_equal(&a, NULL));
    assert_true(nw_qparam_equal(NULL, NULL));
}

/* Rows of a tensor are what the whole tensor has there, whatever the grain, the width of codes and the scales' format. */
static void rows_are_parts(void **state) {
    (void)state;
    enum { ROWS = 37, ROW = 3, COUNT = ROWS * ROW, GROUPS = ROWS * 2 };
    const int64_t dims[2] = {ROWS, ROW};
    static const struct {
        nw_format format, scale_format;
        nw_grain grain;
        int axis;
    } cases[] = {{NW_S8, NW_F32, NW_GRAIN_AXIS, 0},   {NW_U4, NW_F16, NW_GRAIN_AXIS, 0},
                 {NW_U2, NW_F32, NW_GRAIN_AXIS, 1},   {NW_S16, NW_F32, NW_GRAIN_AXIS, 0},
                 {NW_S4, NW_F32, NW_GRAIN_TENSOR, 0}, {NW_U4, NW_F16, NW_GRAIN_BLOCK, 1}};
    nw_context ctx;
    nw_arena arena;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float scales[GROUPS];
        uint16_t halves[GROUPS];
        int32_t zeros[GROUPS];
        uint8_t codes[2 * COUNT];
        for (int g = 0; g < GROUPS; g++) {
            halves[g] = (uint16_t)(0x3800 + 7 * g); /* 0.5 and more */
            scales[g] = uniform(0.5f, 2);
            zeros[g] = g % 2;
        }
        for (size_t b = 0; b < sizeof codes; b++) codes[b] = (uint8_t)test_uniform(&generator, 0, 256);
        nw_qparam p = {.format = cases[i].format,
                       .grain = cases[i].grain,
                       .axis = cases[i].axis,
                       .block = 2,
                       .scale_format = cases[i].scale_format,
                       .scales = cases[i].scale_format == NW_F16 ? (const void *)halves : scales,
                       .zeros = zeros,
                       .qmax = 1},
                  part;
        p.groups = nw_qparam_group_count(p.grain, p.axis, p.block, 2, dims);
        nw_tensor t = {.format = p.format, .rank = 2, .dims = {ROWS, ROW}, .data = codes, .qparam = &p};
        nw_tensor whole, rows = nw_tensor_rows(&t, 16, 13, &part);
        assert_int_equal(nw_tensor_to_f32(&arena, &t, &whole), NW_OK);
        assert_int_equal(nw_tensor_to_f32(&arena, &rows, &rows), NW_OK);
        assert_int_equal(nw_tensor_count(&rows), 13 * ROW);
        assert_memory_equal(rows.data, (const float *)whole.data + 16 * ROW, 13 * ROW * sizeof(float));
    }
    nw_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_is_at_most_half_a_step),
        cmocka_unit_test(constants_round_trip),
        cmocka_unit_test(rounding_is_half_to_even),
        cmocka_unit_test(grains_find_their_scale),
        cmocka_unit_test(float_codes_scale),
        cmocka_unit_test(equal_grids),
        cmocka_unit_test(rows_are_parts),
    };
    return cmocka_run_group_tests_name("qparam", tests, NULL, NULL);
}
