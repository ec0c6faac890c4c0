/* test_observers.c: observers: streaming, merging, re-binning, and the ranges they choose on known
 * distributions. */
#include "base/random.h"
#include "quant/observe.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const nw_codes s8 = {-127, 127, true}, u8 = {0, 255, false}, s4 = {-7, 7, true},
                      u16 = {0, 65535, false};

/* Counts what is allocated, to show that observing takes no memory. */
typedef struct meter {
    size_t calls;
} meter;

static void *metered_alloc(void *user, size_t size) {
    ((meter *)user)->calls++;
    return aligned_alloc(NW_ALIGN, (size + NW_ALIGN - 1) / NW_ALIGN * NW_ALIGN);
}

static void metered_release(void *user, void *ptr) {
    (void)user;
    free(ptr);
}

static meter use;
static nw_context context;

static int set_up(void **state) {
    (void)state;
    use.calls = 0;
    const nw_allocator allocator = {metered_alloc, metered_release, &use};
    nw_context_init(&context, &allocator);
    return 0;
}

static nw_observer observer_of(nw_observer_kind kind) {
    nw_observer o;
    nw_observer_options options = nw_observer_options_default();
    options.kind = kind;
    options.lo = -2;
    options.hi = 3;
    assert_int_equal(nw_observer_init(&context, &o, &options), NW_OK);
    return o;
}

static nw_random generator;

static double uniform(void) { /* [0,1) */
    return nw_random_uniform(&generator);
}

static double normal(void) {
    return nw_random_normal(&generator);
}

typedef double draw_fn(void);
static double relu(void) {
    return fmax(normal(), 0);
}
static double gelu(void) {
    double x = normal();
    return x * 0.5 * (1 + erf(x * 0.70710678118654752));
}
static double heavy(void) {
    return normal() * exp(2 * normal());
}

static float *sample(size_t count, draw_fn *draw) {
    generator = (nw_random){88172645463325252u};
    float *x = test_malloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = (float)draw();
    return x;
}

static void assert_same_counts(const nw_observer *a, const nw_observer *b) {
    assert_true(a->count == b->count && a->rejected == b->rejected && a->exponent == b->exponent);
    assert_true(a->zeros == b->zeros && a->min == b->min && a->max == b->max);
    if (a->bins) assert_memory_equal(a->bins, b->bins, 2 * NW_OBSERVER_BINS * sizeof *a->bins);
    assert_true(fabs(a->mean - b->mean) <= 1e-6 * (1 + nw_observer_sigma(b)));
    assert_true(fabs(a->m2 - b->m2) <= 1e-5 * (1 + b->m2));
}

/* Every size of call, across the sizes of blocks and tables, sees the same. */
static void test_streaming_equals_one_shot(void **state) {
    (void)state;
    enum { COUNT = 300001 };
    static const size_t steps[] = {1, 3, 1000, 2048, 4099, 16383, 70001};
    float *x = sample(COUNT, heavy);
    nw_observer whole = observer_of(NW_OBSERVER_MSE);
    nw_observe(&whole, x, COUNT);
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        nw_observer parts = observer_of(NW_OBSERVER_MSE);
        for (size_t i = 0; i < COUNT; i += steps[s])
            nw_observe(&parts, x + i, COUNT - i < steps[s] ? COUNT - i : steps[s]);
        assert_same_counts(&parts, &whole);
        nw_observer_free(&parts);
    }
    uint64_t total = whole.zeros;
    for (int i = 0; i < 2 * NW_OBSERVER_BINS; i++) total += whole.bins[i];
    assert_true(total == COUNT);
    nw_observer_free(&whole);
    test_free(x);
}

static void test_merging_equals_one(void **state) {
    (void)state;
    enum { COUNT = 50000, WORKERS = 3 };
    float *x = sample(COUNT, heavy);
    nw_observer one = observer_of(NW_OBSERVER_PERCENTILE), workers[WORKERS], orders[2];
    nw_observe(&one, x, COUNT);
    for (int w = 0; w < WORKERS; w++) workers[w] = observer_of(NW_OBSERVER_PERCENTILE);
    for (size_t i = 0, w = 0; i < COUNT; i += 1000, w = (w + 1) % WORKERS)
        nw_observe(&workers[w], x + i, 1000);
    for (int order = 0; order < 2; order++) {
        orders[order] = observer_of(NW_OBSERVER_PERCENTILE);
        for (int w = 0; w < WORKERS; w++)
            nw_observer_merge(&orders[order], &workers[order ? WORKERS - 1 - w : w]);
        assert_same_counts(&orders[order], &one);
        nw_observer_free(&orders[order]);
    }
    for (int w = 0; w < WORKERS; w++) nw_observer_free(&workers[w]);
    nw_observer_free(&one);
    test_free(x);
}

/* Batches seen in parts are batches: the moving average counts each once. Parts are used again and again, hold
 * smaller and larger values than what came before, none at all, or nothing finite. */
static void test_splitting_equals_one(void **state) {
    (void)state;
    enum { COUNT = 60000, PARTS = 3, BATCHES = 4 };
    static const size_t ends[BATCHES][PARTS] = {
        {20000, 40000, COUNT}, {0, 5, 300}, {30000, 30000, COUNT}, {1, 2, 3}};
    static const nw_observer_kind kinds[] = {NW_OBSERVER_MOVING, NW_OBSERVER_ENTROPY};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        nw_observer one = observer_of(kinds[k]), split = observer_of(kinds[k]), parts[PARTS];
        for (int p = 0; p < PARTS; p++) parts[p] = observer_of(kinds[k]);
        size_t calls = use.calls;
        for (int b = 0; b < BATCHES; b++) {
            float *x = sample(COUNT, b % 2 ? relu : heavy);
            for (int i = 0; i < COUNT; i++) x[i] = b == 3 ? INFINITY : ldexpf(x[i], 3 * b);
            size_t count = ends[b][PARTS - 1];
            nw_observe(&one, x, count);
            nw_observer_split(&split, parts, PARTS);
            for (int p = 0; p < PARTS; p++) {
                size_t begin = p ? ends[b][p - 1] : 0;
                nw_observe(&parts[p], x + begin, ends[b][p] - begin);
            }
            nw_observer_join(&split, parts, PARTS);
            assert_same_counts(&split, &one);
            assert_true(split.batches == one.batches);
            assert_true(split.average_min == one.average_min && split.average_max == one.average_max);
            test_free(x);
        }
        assert_true(one.batches == 3 && use.calls == calls);
        for (int p = 0; p < PARTS; p++) nw_observer_free(&parts[p]);
        nw_observer_free(&one);
        nw_observer_free(&split);
    }
}

/* Bins merge two to one as values grow by powers of two, in either sign; the other way round nothing has to
 * merge. */
static void test_growing_range(void **state) {
    (void)state;
    enum { COUNT = 4000 };
    float *x = sample(COUNT, normal);
    for (int i = 0; i < COUNT; i++) x[i] = ldexpf(x[i], i * 60 / COUNT - 30);
    nw_observer up = observer_of(NW_OBSERVER_MSE), down = observer_of(NW_OBSERVER_MSE);
    for (int i = 0; i < COUNT; i++) nw_observe(&up, &x[i], 1);
    for (int i = COUNT - 1; i >= 0; i--) nw_observe(&down, &x[i], 1);
    assert_same_counts(&up, &down);
    double width = ldexp(1.0 / NW_OBSERVER_BINS, up.exponent);
    uint64_t in_bin_five = 0;
    for (int i = 0; i < COUNT; i++) in_bin_five += x[i] >= 5 * (float)width && x[i] < 6 * (float)width;
    assert_true(up.bins[5] == in_bin_five);
    nw_observer_free(&up);
    nw_observer_free(&down);
    test_free(x);
}

/* Powers of two, where bins and exponents change over, and the extremes of the format. */
static void test_edges_of_the_range(void **state) {
    (void)state;
    static const float x[] = {
        1.0f, -1.0f, 2.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f, 0x1.fffffep127f, -0x1.fffffep127f, 0.0f, -0.0f};
    enum { COUNT = sizeof x / sizeof *x };
    nw_observer up = observer_of(NW_OBSERVER_ENTROPY), down = observer_of(NW_OBSERVER_ENTROPY);
    nw_observe(&up, x, COUNT);
    for (int i = COUNT; i-- > 0;) nw_observe(&down, &x[i], 1);
    assert_same_counts(&up, &down);
    assert_true(up.zeros == 2 && up.exponent == 128);
    float lo, hi;
    assert_int_equal(nw_observer_range(&up, &u8, &lo, &hi), NW_OK);
    assert_true(isfinite(lo) && isfinite(hi) && lo <= 0 && hi >= 0);
    nw_observer_free(&up);
    nw_observer_free(&down);
}

static void test_infinities_are_counted_apart(void **state) {
    (void)state;
    float *x = sample(5000, normal), *clean = sample(5000, normal);
    size_t kept = 0;
    for (int i = 0; i < 5000; i++) {
        if (i % 7 == 0)
            x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
        else
            clean[kept++] = x[i];
    }
    x[1] = -NAN;
    memmove(clean, clean + 1, --kept * sizeof *clean);
    nw_observer o = observer_of(NW_OBSERVER_MSE), reference = observer_of(NW_OBSERVER_MSE);
    nw_observe(&o, x, 5000);
    nw_observe(&reference, clean, kept);
    assert_true(o.rejected == 5000 - kept);
    o.rejected = 0;
    assert_same_counts(&o, &reference);
    nw_observer only = observer_of(NW_OBSERVER_MSE);
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    nw_observe(&only, bad, 3);
    assert_true(only.count == 0 && only.rejected == 3 && only.batches == 0);
    float lo, hi;
    assert_int_equal(nw_observer_range(&only, &s8, &lo, &hi), NW_OK);
    assert_true(lo == 0 && hi == 0);
    nw_observer_free(&o);
    nw_observer_free(&reference);
    nw_observer_free(&only);
    test_free(x);
    test_free(clean);
}

static void test_constant_memory(void **state) {
    (void)state;
    float *x = sample(100000, heavy);
    for (int kind = 0; kind < NW_OBSERVER_COUNT; kind++) {
        nw_observer o = observer_of((nw_observer_kind)kind);
        size_t before = use.calls;
        for (int i = 0; i < 50; i++) nw_observe(&o, x + 1000 * i, (size_t)(1 + i * 37));
        nw_observe(&o, x, 100000);
        assert_int_equal(use.calls, before);
        nw_observer_free(&o);
    }
    test_free(x);
}

static void range(nw_observer_kind kind, const float *x, size_t count, const nw_codes *codes, float *lo,
                  float *hi) {
    nw_observer o = observer_of(kind);
    nw_observe(&o, x, count);
    assert_int_equal(nw_observer_range(&o, codes, lo, hi), NW_OK);
    assert_true(*lo <= 0 && *hi >= 0 && isfinite(*lo) && isfinite(*hi));
    if (codes->symmetric) assert_true(*lo == -*hi);
    nw_observer_free(&o);
}

static void test_closed_forms(void **state) {
    (void)state;
    enum { COUNT = 1 << 20 };
    float *x = sample(COUNT, normal), lo, hi;
    range(NW_OBSERVER_SIGMA, x, COUNT, &u8, &lo, &hi);
    assert_true(fabsf(lo + 4) < 0.01f && fabsf(hi - 4) < 0.01f);
    /* the 99.999 % quantile of |x| is 4.417; half as much at each end */
    range(NW_OBSERVER_PERCENTILE, x, COUNT, &s8, &lo, &hi);
    assert_true(fabsf(hi - 4.417f) < 0.15f);
    range(NW_OBSERVER_PERCENTILE, x, COUNT, &u8, &lo, &hi);
    assert_true(fabsf(hi - 4.417f) < 0.2f && fabsf(lo + 4.417f) < 0.2f);
    nw_observer most = observer_of(NW_OBSERVER_PERCENTILE); /* 98 %: one at each end, or two beyond a magnitude */
    most.options.percentile = 98;
    nw_observe(&most, x, COUNT);
    assert_int_equal(nw_observer_range(&most, &u8, &lo, &hi), NW_OK);
    assert_true(fabsf(hi - 2.3263f) < 0.02f && fabsf(lo + 2.3263f) < 0.02f);
    assert_int_equal(nw_observer_range(&most, &s8, &lo, &hi), NW_OK);
    assert_true(fabsf(hi - 2.3263f) < 0.02f);
    nw_observer_free(&most);
    /* the best uniform quantizers of a normal variable (Max 1960): 256 levels reach to 3.92 or so, 15 levels
     * to 2.65 + half a step */
    range(NW_OBSERVER_MSE, x, COUNT, &s8, &lo, &hi);
    assert_true(hi > 3.7f && hi < 4.2f);
    range(NW_OBSERVER_MSE, x, COUNT, &s4, &lo, &hi);
    assert_true(hi > 2.3f && hi < 2.75f);
    range(NW_OBSERVER_ABSOLUTE, x, COUNT, &u8, &lo, &hi);
    assert_true(lo == -2 && hi == 3);
    range(NW_OBSERVER_ABSOLUTE, x, COUNT, &s8, &lo, &hi);
    assert_true(lo == -3 && hi == 3);
    test_free(x);

    nw_observer o = observer_of(NW_OBSERVER_MOVING);
    const float batches[3][2] = {{-1, 4}, {-2, 2}, {-10, 100}};
    for (int i = 0; i < 3; i++) nw_observe(&o, batches[i], 2);
    assert_int_equal(nw_observer_range(&o, &u8, &lo, &hi), NW_OK);
    assert_true(fabsf(lo - (0.9f * (0.9f * -1 + 0.1f * -2) + 0.1f * -10)) < 1e-5f);
    assert_true(fabsf(hi - (0.9f * (0.9f * 4 + 0.1f * 2) + 0.1f * 100)) < 1e-5f);
    nw_observer_free(&o);
}

static double real_error(const float *x, size_t count, const nw_codes *codes, float lo, float hi) {
    float scale;
    int32_t zero;
    nw_choose_scale(lo, hi, codes->symmetric, codes->qmin, codes->qmax, &scale, &zero);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double d =
            (double)x[i] -
            (double)(scale * (float)(nw_quantize_one(x[i], scale, zero, codes->qmin, codes->qmax) - zero));
        sum += d * d;
    }
    return sum;
}

/* The histogram's error is the real one within a few per cent, and the range of the smallest error beats
 * every other. */
static void test_squared_error(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    static draw_fn *const draws[] = {normal, relu, gelu, heavy, uniform};
    static const nw_codes *const grids[] = {&s8, &u8, &s4, &u16};
    static const nw_observer_kind others[] = {NW_OBSERVER_MINMAX, NW_OBSERVER_SIGMA, NW_OBSERVER_PERCENTILE,
                                              NW_OBSERVER_ENTROPY};
    for (size_t d = 0; d < 5; d++) {
        float *x = sample(COUNT, draws[d]);
        for (size_t g = 0; g < 4; g++) {
            nw_observer o = observer_of(NW_OBSERVER_MSE);
            nw_observe(&o, x, COUNT);
            nw_profile *p = test_malloc(sizeof *p);
            nw_profile_of(&o, p);
            float lo, hi;
            assert_int_equal(nw_observer_range(&o, grids[g], &lo, &hi), NW_OK);
            double best = real_error(x, COUNT, grids[g], lo, hi);
            double seen = nw_profile_range_error(p, grids[g], (double)lo, (double)hi);
            if (draws[d] != heavy && grids[g] != &u16) assert_true(fabs(seen - best) <= 0.03 * best);
            for (size_t k = 0; k < 4 && grids[g] != &u16; k++) {
                range(others[k], x, COUNT, grids[g], &lo, &hi);
                assert_true(best <= real_error(x, COUNT, grids[g], lo, hi) * 1.02);
            }
            test_free(p);
            nw_observer_free(&o);
        }
        test_free(x);
    }
}

/* A spike that holds nearly everything must not cost the values that matter. */
static void test_entropy_of_a_spike(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    float *x = sample(COUNT, uniform), lo, hi;
    for (int i = 0; i < COUNT; i++) x[i] = i % 1000 ? 0.001f : 10 * x[i];
    for (int g = 0; g < 2; g++) {
        const nw_codes *codes = g ? &u8 : &s8;
        range(NW_OBSERVER_ENTROPY, x, COUNT, codes, &lo, &hi);
        float least, most;
        range(NW_OBSERVER_MINMAX, x, COUNT, codes, &least, &most);
        assert_true(real_error(x, COUNT, codes, lo, hi) <= real_error(x, COUNT, codes, least, most) * 1.02);
        assert_true(hi > 5);
    }
    for (int i = 0; i < COUNT; i++) x[i] = 3; /* one spike and nothing else */
    range(NW_OBSERVER_ENTROPY, x, COUNT, &s8, &lo, &hi);
    assert_true(hi == 3);
    for (int i = 0; i < COUNT; i++) x[i] = i == 7 ? 2.0f : 0.0f; /* zeros and one value */
    range(NW_OBSERVER_ENTROPY, x, COUNT, &u8, &lo, &hi);
    assert_true(lo == 0 && hi == 2);
    test_free(x);
    x = sample(COUNT, heavy);
    range(NW_OBSERVER_ENTROPY, x, COUNT, &s8, &lo, &hi);
    float most;
    range(NW_OBSERVER_MINMAX, x, COUNT, &s8, &lo, &most);
    assert_true(hi < most); /* and it does cut tails */
    test_free(x);
}

static void test_degenerate(void **state) {
    (void)state;
    static const float zeros[100], one[1] = {-0.25f}, two[2] = {5, 5};
    for (int kind = 0; kind < NW_OBSERVER_COUNT; kind++) {
        if (kind == NW_OBSERVER_ABSOLUTE) continue;
        for (int g = 0; g < 2; g++) {
            const nw_codes *codes = g ? &u8 : &s8;
            float lo, hi, scale, restored;
            int32_t zero;
            range((nw_observer_kind)kind, zeros, 100, codes, &lo, &hi);
            assert_true(lo == 0 && hi == 0);
            range((nw_observer_kind)kind, one, 1, codes, &lo, &hi);
            nw_choose_scale(lo, hi, codes->symmetric, codes->qmin, codes->qmax, &scale, &zero);
            restored = scale * (float)(nw_quantize_one(-0.25f, scale, zero, codes->qmin, codes->qmax) - zero);
            assert_true(fabsf(restored + 0.25f) < 1e-6f);
            range((nw_observer_kind)kind, two, 2, codes, &lo, &hi);
            assert_true(hi == 5);
            nw_observer empty = observer_of((nw_observer_kind)kind);
            nw_observe(&empty, zeros, 0);
            assert_int_equal(nw_observer_range(&empty, codes, &lo, &hi), NW_OK);
            assert_true(lo == 0 && hi == 0);
            nw_observer_free(&empty);
        }
    }
}

static void test_outside(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    float *x = sample(COUNT, normal);
    nw_observer o = observer_of(NW_OBSERVER_MSE), plain = observer_of(NW_OBSERVER_MINMAX);
    nw_observe(&o, x, COUNT);
    nw_observe(&plain, x, COUNT);
    double share;
    assert_int_equal(nw_observer_outside(&o, -1, 1, &share), NW_OK);
    assert_true(fabs(share - 0.3173) < 0.005);
    assert_int_equal(nw_observer_outside(&o, o.min, o.max, &share), NW_OK);
    assert_true(share == 0);
    assert_int_equal(nw_observer_outside(&plain, -1, 1, &share), NW_OK);
    assert_true(share == -1);
    nw_observer_free(&o);
    nw_observer_free(&plain);
    test_free(x);
}

static void test_options(void **state) {
    (void)state;
    nw_observer_kind kind;
    for (int i = 0; i < NW_OBSERVER_COUNT; i++) {
        assert_true(nw_observer_by_name(nw_observer_name((nw_observer_kind)i), &kind) && (int)kind == i);
        assert_true(nw_observer_help((nw_observer_kind)i)[0]);
    }
    assert_false(nw_observer_by_name("nonsense", &kind));
    const struct {
        nw_observer_kind kind;
        double number;
    } bad[] = {{NW_OBSERVER_PERCENTILE, 0},   {NW_OBSERVER_PERCENTILE, 101}, {NW_OBSERVER_PERCENTILE, NAN},
               {NW_OBSERVER_MOVING, 1},       {NW_OBSERVER_MOVING, -0.1},    {NW_OBSERVER_SIGMA, 0},
               {NW_OBSERVER_SIGMA, INFINITY}, {NW_OBSERVER_ABSOLUTE, 0},     {NW_OBSERVER_COUNT, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        nw_observer_options o = nw_observer_options_default();
        o.kind = bad[i].kind;
        o.percentile = o.momentum = o.sigmas = bad[i].number;
        assert_int_equal(nw_observer_options_check(&context, &o), NW_E_ARGUMENT);
        assert_true(context.message[0]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_streaming_equals_one_shot, set_up),
        cmocka_unit_test_setup(test_merging_equals_one, set_up),
        cmocka_unit_test_setup(test_splitting_equals_one, set_up),
        cmocka_unit_test_setup(test_growing_range, set_up),
        cmocka_unit_test_setup(test_edges_of_the_range, set_up),
        cmocka_unit_test_setup(test_infinities_are_counted_apart, set_up),
        cmocka_unit_test_setup(test_constant_memory, set_up),
        cmocka_unit_test_setup(test_closed_forms, set_up),
        cmocka_unit_test_setup(test_squared_error, set_up),
        cmocka_unit_test_setup(test_entropy_of_a_spike, set_up),
        cmocka_unit_test_setup(test_degenerate, set_up),
        cmocka_unit_test_setup(test_outside, set_up),
        cmocka_unit_test_setup(test_options, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
