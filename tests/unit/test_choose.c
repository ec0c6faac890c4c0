/* test_choose.c: scales and tables from the numbers themselves: roundings, least squares against brute force. */
#include "kern/elementwise.h"
#include "num/choose.h"
#include "num/levels.h"
#include "support/support.h"
#include "support/unit.h"

#include <float.h>
#include <math.h>
#include <string.h>

static nw_context ctx;
static nw_arena arena;

static int open_arena(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    return 0;
}

static int close_arena(void **state) {
    (void)state;
    nw_arena_free(&arena);
    return 0;
}

static nw_random generator = {3};

static float uniform(float lo, float hi) {
    return (float)test_uniform(&generator, (double)lo, (double)hi);
}

/* ---- scales in their formats -------------------------------------------------------------------- */

static const nw_format scale_formats[] = {NW_F32, NW_F16, NW_BF16, NW_F8E8M0};
enum { SCALE_FORMATS = sizeof scale_formats / sizeof *scale_formats };

static float through(nw_format format, float x) {
    uint32_t stored = 0;
    float back;
    nw_encode_f32(format, &x, 1, &stored, 0);
    nw_decode_f32(format, &stored, 0, 1, &back);
    return back;
}

static void scales_are_rounded(void **state) {
    (void)state;
    for (int f = 0; f < SCALE_FORMATS; f++) {
        nw_format format = scale_formats[f];
        assert_true(through(format, nw_least_scale(format)) == nw_least_scale(format));
        for (int i = 0; i < 20000; i++) {
            float scale = ldexpf(uniform(1, 2), (int)(uniform(-1, 1) * (format == NW_F16 ? 14 : 120)));
            float up = nw_round_scale(format, scale, true), near = nw_round_scale(format, scale, false);
            assert_true(through(format, up) == up && through(format, near) == near);
            assert_true(up >= scale && up >= near && near > 0);
            /* no number of the format lies between */
            float middle = format == NW_F8E8M0 ? up / 2 : through(format, up - (up - scale) / 2);
            assert_true(up == scale || middle < scale || middle >= up);
            assert_true(fabsf(near - scale) <= fabsf(up - scale));
            if (format == NW_F32) assert_true(up == scale && near == scale);
        }
        static const float extremes[] = {0, -1, NAN, 1e-45f, FLT_MIN / 2, FLT_MAX, INFINITY};
        for (size_t i = 0; i < sizeof extremes / sizeof *extremes; i++) {
            float scale = nw_round_scale(format, extremes[i], i % 2);
            assert_true(scale > 0 && isfinite(scale) && through(format, scale) == scale);
        }
    }
    assert_true(nw_round_scale(NW_F8E8M0, 0.75f, true) == 1 &&
                nw_round_scale(NW_F8E8M0, 0.7f, false) == 0.5f);
    assert_true(nw_round_scale(NW_F8E8M0, 0.5f, true) == 0.5f);
}

/* A range stays covered whatever the scale is stored in, and zero stays exact. */
static void grids_cover_their_range(void **state) {
    (void)state;
    static const nw_codes codes[] = {{-127, 127, true},  {0, 255, false},       {-7, 7, true},
                                     {-255, 255, true},  {-32767, 32767, true}, {0, 15, false},
                                     {-128, 127, false}, {1, 7, false}};
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++)
        for (int f = 0; f < SCALE_FORMATS; f++)
            for (int i = 0; i < 500; i++) {
                float lo = -uniform(0, 3), hi = uniform(0, 5), scale;
                int32_t zero;
                nw_choose_grid(lo, hi, &codes[c], scale_formats[f], &scale, &zero);
                assert_true(through(scale_formats[f], scale) == scale);
                assert_in_range(zero - codes[c].qmin, 0, codes[c].qmax - codes[c].qmin);
                for (int k = 0; k < 3; k++) {
                    float x = k == 0 ? lo : k == 1 ? hi : uniform(lo, hi);
                    float y =
                        scale * (float)(nw_quantize_one(x, scale, zero, codes[c].qmin, codes[c].qmax) - zero);
                    double slack =
                        codes[c].symmetric ? 0.503 : 1.003; /* the zero point is rounded too; and floats */
                    assert_true(fabs((double)x - (double)y) <= slack * (double)scale);
                }
            }
    float scale;
    int32_t zero;
    nw_choose_grid(-1, 1, &(nw_codes){-127, 127, true}, NW_F8E8M0, &scale, &zero);
    assert_true(scale == 0x1p-6f); /* fixed point: 127 steps of 2^-7 would end below 1 */
}

static double grid_loss(const float *x, size_t n, const nw_codes *codes, float scale, int32_t zero) {
    double loss = 0;
    for (size_t i = 0; i < n; i++) {
        double y = (double)scale * (nw_quantize_one(x[i], scale, zero, codes->qmin, codes->qmax) - zero);
        loss += ((double)x[i] - y) * ((double)x[i] - y);
    }
    return loss;
}

static void search_is_no_worse(void **state) {
    (void)state;
    static const nw_codes codes[] = {{-7, 7, true}, {0, 15, false}, {-1, 1, true}};
    nw_elementwise ew;
    nw_elementwise_select(nw_isa_detect(), &ew);
    for (int round = 0; round < 200; round++) {
        float x[60], lo = 0, hi = 0;
        for (int i = 0; i < 60; i++) {
            x[i] = uniform(-1, 1) * uniform(0, 1) * uniform(0, 1);
            lo = fminf(lo, x[i]);
            hi = fmaxf(hi, x[i]);
        }
        const nw_codes *c = &codes[round % 3];
        nw_format format = scale_formats[round % SCALE_FORMATS];
        float plain, best;
        int32_t zero, best_zero;
        nw_choose_grid(lo, hi, c, format, &plain, &zero);
        nw_choose_grid_mse(ew.grid_error_f32, x, 60, lo, hi, c, format, &best, &best_zero);
        assert_true(through(format, best) == best);
        assert_true(grid_loss(x, 60, c, best, best_zero) <= grid_loss(x, 60, c, plain, zero) * 1.00001);
    }
}

/* ---- least squares ------------------------------------------------------------------------------ */

/* The smallest Σ(x − α·c)² over all codes c in {lo … 1}^n, each with its best α: every assignment is tried. */
static double best_of_all(const float *x, int n, int lo, int step) {
    int codes[9], values = (1 - lo) / step + 1, total = 1;
    double best = INFINITY;
    for (int i = 0; i < n; i++) total *= values;
    for (int k = 0; k < total; k++) {
        double xc = 0, cc = 0, loss = 0;
        for (int i = 0, rest = k; i < n; i++, rest /= values) {
            codes[i] = lo + step * (rest % values);
            xc += (double)x[i] * codes[i];
            cc += codes[i] * codes[i];
        }
        double alpha = cc > 0 ? xc / cc : 0;
        for (int i = 0; i < n; i++) loss += pow((double)x[i] - alpha * codes[i], 2);
        if (loss < best) best = loss;
    }
    return best;
}

static void fill(float *x, int n, int kind) {
    for (int i = 0; i < n; i++) switch (kind) {
        case 0: x[i] = uniform(-1, 1); break;
        case 1: x[i] = uniform(-1, 1) * uniform(0, 1) * uniform(0, 1); break;
        case 2: x[i] = (float)(int)uniform(-3, 4); break; /* ties and zeros */
        case 3: x[i] = 0.5f; break;
        default: x[i] = i ? 0 : -3;
        }
}

static void ternary_and_binary_are_optimal(void **state) {
    (void)state;
    uint32_t room[18];
    for (int round = 0; round < 300; round++) {
        int n = 1 + round % 8;
        float x[9];
        fill(x, n, round / 8 % 5);
        double ternary = 0, binary = 0;
        double a = (double)nw_choose_ternary(x, (size_t)n, room), b = (double)nw_choose_binary(x, (size_t)n);
        for (int i = 0; i < n; i++) {
            double magnitude = fabs((double)x[i]);
            ternary += fmin(pow(magnitude, 2), pow(magnitude - a, 2));
            binary += pow(magnitude - b, 2);
        }
        assert_true(ternary <= best_of_all(x, n, -1, 1) + 1e-6);
        assert_true(binary <= best_of_all(x, n, -1, 2) + 1e-6);
    }
    static const float zeros[3];
    assert_true(nw_choose_ternary(zeros, 3, room) == 0 && nw_choose_binary(zeros, 3) == 0);
    assert_true(nw_choose_binary(zeros, 0) == 0 && nw_choose_ternary(zeros, 0, room) == 0);
}

/* On many numbers: no other threshold keeps a better set. */
static void ternary_of_many(void **state) {
    (void)state;
    enum { N = 3000 };
    static float x[N];
    static uint32_t room[2 * N];
    for (int i = 0; i < N; i++) x[i] = uniform(-1, 1) * uniform(0, 1);
    double alpha = (double)nw_choose_ternary(x, N, room), loss = 0;
    for (int i = 0; i < N; i++) loss += fmin(pow((double)x[i], 2), pow(fabs((double)x[i]) - alpha, 2));
    for (int t = 0; t < 200; t++) {
        double sum = 0, count = 0, squares = 0;
        for (int i = 0; i < N; i++) {
            squares += pow((double)x[i], 2);
            if (fabs((double)x[i]) < t / 200.0) continue;
            sum += fabs((double)x[i]);
            count++;
        }
        if (count > 0) assert_true(loss <= squares - sum * sum / count + 1e-6 * squares);
    }
}

/* The smallest loss of `count` levels over sorted points: every way to cut them. */
static double best_cut(const nw_point *p, size_t from, size_t n, int count) {
    double best = INFINITY, weight = 0, sum = 0, squares = 0;
    for (size_t end = from; end < n; end++) {
        weight += p[end].weight;
        sum += p[end].sum;
        squares += p[end].sum * p[end].sum / p[end].weight;
        double rest = end + 1 == n ? 0 : count > 1 ? best_cut(p, end + 1, n, count - 1) : INFINITY;
        best = fmin(best, squares - sum * sum / weight + rest);
    }
    return best;
}

static void codebooks_are_optimal(void **state) {
    (void)state;
    for (int round = 0; round < 400; round++) {
        size_t n = 2 + (size_t)round % 11;
        int count = 2 + round / 11 % 4;
        nw_point p[13];
        double at = -1, loss = 0;
        for (size_t i = 0; i < n; i++) {
            at += (double)uniform(0.01f, round % 2 ? 0.3f : 1);
            p[i].weight = (double)uniform(0.1f, 2);
            p[i].sum = at * p[i].weight;
        }
        nw_levels l;
        assert_ok(&ctx, nw_levels_codebook(&arena, n, p, count, &l));
        assert_true(nw_levels_valid(&l));
        assert_int_equal(l.count, (size_t)count < n ? count : (int)n);
        for (size_t i = 0; i < n; i++) {
            float r = (float)(p[i].sum / p[i].weight);
            uint16_t code;
            nw_levels_encode(&l, 1, &r, &code);
            loss += p[i].weight * pow((double)r - (double)l.value[code], 2);
        }
        double best = best_cut(p, 0, n, count);
        if (!(loss <= best + 1e-5))
            fail_msg("%d levels for %zu points lose %g, not %g", count, n, loss, best);
    }
    nw_levels l;
    assert_ok(&ctx, nw_levels_codebook(&arena, 0, NULL, 16, &l));
    assert_true(nw_levels_valid(&l));
    assert_ok(&ctx, nw_levels_codebook(&arena, 1, &(nw_point){2, 1}, 16, &l));
    assert_true(nw_levels_valid(&l) && l.value[0] == 0.5f);
    assert_fails(&ctx, NW_E_ARGUMENT, "65535", nw_levels_codebook(&arena, 70000, NULL, 16, &l));
}

/* ---- tables ------------------------------------------------------------------------------------- */

static int code_of(const nw_levels *l, float r) {
    uint16_t code;
    nw_levels_encode(l, 1, &r, &code);
    return code;
}

static void tables_follow_their_formulas(void **state) {
    (void)state;
    nw_levels l;
    for (int bits = 2; bits <= 8; bits++)
        for (int steps = 1; steps <= 3; steps++) {
            int n = (1 << (bits - 1)) - 1;
            assert_ok(&ctx, nw_levels_log(&arena, 2 * n + 1, steps, &l));
            assert_true(nw_levels_valid(&l) && l.value[n] == 0 && l.value[2 * n] == 1 && l.value[0] == -1);
            for (int i = 0; i < 2000; i++) {
                float r = uniform(-1.2f, 1.2f) * exp2f(-uniform(0, (float)n / (float)steps + 2));
                double exponent = log2(fabs((double)r)) * steps; /* nearest in the logarithmic domain */
                double nearest = fmin(rint(exponent), 0);
                if (r == 0 || fabs(exponent - floor(exponent) - 0.5) < 1e-4)
                    continue; /* ties, within rounding */
                double expected = nearest < 1 - n ? 0 : copysign(exp2(nearest / steps), (double)r);
                assert_true(fabs((double)l.value[code_of(&l, r)] - expected) <= 1e-6 * fabs(expected));
            }
        }
    for (int bits = 2; bits <= 8; bits++) {
        int n = (1 << (bits - 1)) - 1;
        assert_ok(&ctx, nw_levels_sqrt(&arena, 2 * n + 1, &l));
        assert_true(nw_levels_valid(&l) && l.value[n] == 0 && l.value[2 * n] == 1 && l.value[0] == -1);
        for (int i = 0; i < 2000; i++) {
            float r = uniform(-1, 1);
            double root = copysign(sqrt(fabs((double)r)) * n, (double)r);
            if (fabs(root - floor(root) - 0.5) < 1e-4) continue;
            assert_int_equal(code_of(&l, r) - n, (int)rint(root));
        }
    }
}

/* Both searches (few levels, many) against a count of the thresholds; ties go up, NaN is 0, saturation is counted. */
static void encoding_counts_thresholds(void **state) {
    (void)state;
    for (int count = 2; count <= 256; count += count < 20 ? 1 : 37) {
        float value[256], r[600];
        uint16_t codes[600];
        nw_levels l;
        for (int i = 0; i < count; i++) value[i] = (float)(i - count / 2) + uniform(0, 0.5f);
        assert_ok(&ctx, nw_levels_copy(&arena, &(nw_levels){count, value, NULL}, &l));
        size_t n = 600, saturated = 0;
        float low = l.value[0] - (l.threshold[0] - l.value[0]);
        float high = l.value[count - 1] + (l.value[count - 1] - l.threshold[count - 2]);
        for (size_t i = 0; i < n; i++) {
            r[i] = i % 3 ? uniform(-(float)count, (float)count) : l.threshold[i % (size_t)(count - 1)];
            if (i == 7) r[i] = NAN;
            if (i == 8) r[i] = INFINITY;
            if (i == 10) r[i] = -INFINITY;
            saturated += r[i] < low || r[i] > high;
        }
        for (size_t first = 0; first < 17; first++) {
            size_t early = 0;
            for (size_t i = 0; i < first; i++) early += r[i] < low || r[i] > high;
            assert_int_equal(nw_levels_encode(&l, n - first, r + first, codes), saturated - early);
            for (size_t i = first; i < n; i++) {
                int expected = 0;
                for (int t = 0; t < count - 1; t++) expected += (isnan(r[i]) ? 0 : r[i]) >= l.threshold[t];
                assert_int_equal(codes[i - first], expected);
            }
        }
        int32_t beyond[1] = {count};
        float last;
        nw_levels_decode(&l, 1, beyond, &last); /* as a damaged file may have it */
        assert_true(last == l.value[count - 1]);
    }
    nw_levels b;
    assert_ok(&ctx, nw_levels_binary(&arena, &b));
    assert_true(code_of(&b, 0) == 1 && code_of(&b, -0.0f) == 1 && code_of(&b, -1e-45f) == 0);
}

static void bad_tables_are_refused(void **state) {
    (void)state;
    const float up[3] = {-1, 0, 1}, down[3] = {1, 0, -1}, holes[3] = {0, NAN, 1}, t[2] = {-0.5f, 0.5f},
                bad[2] = {1, 0};
    assert_true(nw_levels_valid(&(nw_levels){3, up, t}) && nw_levels_valid(&(nw_levels){3, up, NULL}));
    assert_false(nw_levels_valid(&(nw_levels){3, down, t}));
    assert_false(nw_levels_valid(&(nw_levels){3, holes, t}));
    assert_false(nw_levels_valid(&(nw_levels){3, up, bad}));
    assert_false(nw_levels_valid(&(nw_levels){1, up, NULL}));
    assert_false(nw_levels_valid(&(nw_levels){257, up, NULL}));
}

/* ---- floats ------------------------------------------------------------------------------------- */

static void float_scales(void **state) {
    (void)state;
    assert_true(nw_choose_float(1000, NW_F16, NW_F32) == 1 && nw_choose_float(65504, NW_F16, NW_F32) == 1);
    assert_true(nw_choose_float(65536, NW_F16, NW_F32) == 2);
    assert_true(nw_choose_float(FLT_MAX, NW_BF16, NW_F32) == 2);
    assert_true(nw_choose_float(896, NW_F8E4M3FN, NW_F32) == 2);
    /* OCP Microscaling: 2^(floor(log2 top) − e), e = 2 for E2M1, 8 for E4M3, 15 for E5M2 */
    static const struct {
        nw_format format;
        int e;
    } elements[] = {{NW_F4E2M1, 2}, {NW_F8E4M3FN, 8}, {NW_F8E5M2, 15}};
    for (int i = 0; i < 3000; i++) {
        float top = ldexpf(uniform(1, 2), (int)uniform(-60, 60));
        int k = i % 3;
        assert_true(nw_choose_float(top, elements[k].format, NW_F8E8M0) ==
                    exp2f(floorf(log2f(top)) - (float)elements[k].e));
        float scale = nw_choose_float(top, elements[k].format, NW_F32);
        assert_true(top / scale <= (float)nw_format_largest(elements[k].format) &&
                    top / scale * 1.00001f > 6);
    }
    assert_true(nw_choose_float(1, NW_F4E2M1, NW_F8E8M0) == 0.25f);
    assert_true(isfinite(nw_choose_float(FLT_MAX, NW_F4E2M1, NW_F8E8M0)));
    assert_true(nw_choose_float(1e-45f, NW_F8E5M2, NW_F8E8M0) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_are_rounded),
        cmocka_unit_test(grids_cover_their_range),
        cmocka_unit_test(search_is_no_worse),
        cmocka_unit_test(ternary_and_binary_are_optimal),
        cmocka_unit_test(ternary_of_many),
        cmocka_unit_test(codebooks_are_optimal),
        cmocka_unit_test(tables_follow_their_formulas),
        cmocka_unit_test(encoding_counts_thresholds),
        cmocka_unit_test(bad_tables_are_refused),
        cmocka_unit_test(float_scales),
    };
    return cmocka_run_group_tests_name("choose", tests, open_arena, close_arena);
}
