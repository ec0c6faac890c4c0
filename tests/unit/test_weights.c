/* test_weights.c: constants packed in every number format, grain and scale format: what comes back, what is reported, how
 * small it is. */
#include "num/levels.h"
#include "quant/weights.h"
#include "support/support.h"
#include "support/unit.h"

#include <float.h>
#include <math.h>
#include <string.h>

static nw_context ctx;

static int open_context(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    return 0;
}

static nw_random generator = {11};

static float uniform(float lo, float hi) {
    return (float)test_uniform(&generator, (double)lo, (double)hi);
}

static const char *const words[] = {"s8",           "u8",          "s4",
                                    "u4",           "s2",          "u2",
                                    "s16",          "s8-asym",     "u8-sym",
                                    "s8@f16",       "u4@bf16",     "s4@e8m0",
                                    "fixed8",       "fixed4",      "range(-255:255)",
                                    "range(0:100)", "ternary",     "ternary@f16",
                                    "binary",       "binary@f16",  "log4",
                                    "log8/2",       "log3@e8m0",   "sqrt8",
                                    "sqrt4",        "codebook4",   "codebook2@f16",
                                    "nf4",          "nf4@f16",     "f16",
                                    "bf16",         "f8e4m3fn",    "f8e5m2",
                                    "f4e2m1",       "f4e2m1@e8m0", "f8e4m3fn@e8m0"};
enum { WORDS = sizeof words / sizeof *words };

enum { KINDS = 9 };

/* Numbers of a kind: ordinary ones, and those that break things. */
static void fill(float *x, size_t n, int kind) {
    for (size_t i = 0; i < n; i++) switch (kind) {
        case 0: x[i] = uniform(-1, 1) * uniform(0, 1); break;
        case 1: x[i] = 0; break;
        case 2: x[i] = i % 2 ? -0.0f : 0; break;
        case 3: x[i] = 0.3f; break;
        case 4: x[i] = i % 3 == 0 ? 0 : uniform(-1e-3f, 1e-3f); break;
        case 5: x[i] = (float)(i % 7) * 1e-43f; break; /* denormal */
        case 6: x[i] = uniform(-1, 1) * 1e4f; break;
        case 7: x[i] = i % 5 ? uniform(-1e-6f, 1e-6f) : 1; break; /* outliers */
        default: x[i] = i % 2 ? -0.7f : 0.7f;
        }
}

typedef struct shape {
    int rank;
    int64_t dims[3];
    nw_grain grain;
    int axis;
    int64_t block;
} shape;

static const shape shapes[] = {{2, {4, 50, 0}, NW_GRAIN_TENSOR, 0, 0}, {2, {4, 50, 0}, NW_GRAIN_AXIS, 0, 0},
                               {2, {50, 3, 0}, NW_GRAIN_AXIS, 1, 0},   {3, {2, 5, 7}, NW_GRAIN_AXIS, 1, 0},
                               {2, {3, 50, 0}, NW_GRAIN_BLOCK, 1, 16}, {2, {50, 3, 0}, NW_GRAIN_BLOCK, 0, 16},
                               {3, {2, 33, 3}, NW_GRAIN_BLOCK, 1, 32}, {2, {1, 7, 0}, NW_GRAIN_BLOCK, 1, 64},
                               {1, {1, 0, 0}, NW_GRAIN_TENSOR, 0, 0},  {0, {0, 0, 0}, NW_GRAIN_TENSOR, 0, 0},
                               {2, {0, 5, 0}, NW_GRAIN_AXIS, 1, 0},    {2, {5, 0, 0}, NW_GRAIN_BLOCK, 1, 16},
                               {1, {600, 0, 0}, NW_GRAIN_TENSOR, 0, 0}};
enum { SHAPES = sizeof shapes / sizeof *shapes, MOST = 600 };

/* Group of element i, by its definition in qparam.h. */
static size_t group_of(const nw_qparam *p, const shape *s, size_t i) {
    size_t index[3], dims[3] = {1, 1, 1};
    if (p->grain == NW_GRAIN_TENSOR) return 0;
    for (int d = s->rank - 1; d >= 0; d--) {
        dims[d] = (size_t)s->dims[d];
        index[d] = i % dims[d];
        i /= dims[d];
    }
    if (p->grain == NW_GRAIN_AXIS) return index[p->axis];
    size_t g = 0;
    for (int d = 0; d < s->rank; d++)
        g = d == p->axis
                ? g * ((dims[d] + (size_t)p->block - 1) / (size_t)p->block) + index[d] / (size_t)p->block
                : g * dims[d] + index[d];
    return g;
}

/* x' of one element from the definition of its format; *beyond: it saturates. */
static float restored(const nw_qparam *p, float x, float scale, int32_t zero, bool *beyond) {
    float r = x / scale;
    if (nw_format_is_float(p->format)) {
        uint8_t code[2] = {0};
        nw_store_f64(p->format, code, 0, (double)r);
        *beyond = fabsf(r) > (float)nw_format_largest(p->format);
        return scale * (float)nw_load_f64(p->format, code, 0);
    }
    if (p->levels.count) {
        uint16_t code;
        *beyond = nw_levels_encode(&p->levels, 1, &r, &code) > 0;
        return scale * p->levels.value[code];
    }
    float q = rintf(r) + (float)zero;
    *beyond = q < (float)p->qmin || q > (float)p->qmax;
    return scale * (float)(nw_quantize_one(x, scale, zero, p->qmin, p->qmax) - zero);
}

static void check_elements(const char *word, const shape *s, const float *x, const nw_tensor *packed,
                           const float *y, const nw_quant_weight *r) {
    const nw_qparam *p = packed->qparam;
    size_t count = nw_tensor_count(packed), saturated = 0;
    double squares = 0, noise = 0;
    for (size_t i = 0; i < count; i++) {
        size_t g = group_of(p, s, i);
        assert_true(g < p->groups);
        float scale = nw_qparam_scale(p, g);
        int32_t zero = nw_qparam_zero(p, g);
        bool beyond;
        assert_true(isfinite(scale) && scale > 0);
        if (y[i] != restored(p, x[i], scale, zero, &beyond))
            fail_msg("%s: element %zu, %g, became %g on scale %g", word, i, (double)x[i], (double)y[i],
                     (double)scale);
        saturated += beyond;
        squares += (double)x[i] * (double)x[i];
        noise += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        bool linear = nw_format_is_integer(p->format);
        double slack = 0.5 * (double)scale * 1.001 + fabs((double)x[i]) * 1e-6;
        if (linear && !beyond) assert_true(fabs((double)x[i] - (double)y[i]) <= slack);
    }
    if (fabs(r->saturated * (double)count - (double)saturated) >= 0.5)
        fail_msg("%s: %zu of %zu saturated, not %g", word, saturated, count, r->saturated * (double)count);
    if (noise > 0 && squares > 0)
        assert_true(fabs(r->sqnr - 10 * log10(squares / noise)) < 1e-6);
    else
        assert_true(noise > 0 || (isinf(r->sqnr) && r->sqnr > 0));
}

static void every_format_in_every_grain(void **state) {
    (void)state;
    static float x[MOST], y[MOST];
    for (int w = 0; w < WORDS; w++)
        for (int h = 0; h < SHAPES; h++)
            for (int kind = 0; kind < KINDS; kind++)
                for (int mse = 0; mse < 2; mse++) {
                    const shape *s = &shapes[h];
                    nw_scheme scheme;
                    nw_arena arena;
                    assert_ok(&ctx, nw_scheme_parse(&ctx, words[w], &scheme));
                    if (mse && scheme.coding.kind != NW_LINEAR) continue;
                    nw_arena_init(&arena, &ctx);
                    nw_weight_spec spec = {.coding = scheme.coding,
                                           .scale_format = scheme.scale_format,
                                           .grain = s->grain,
                                           .axis = s->axis,
                                           .block = s->block,
                                           .range = mse ? NW_WEIGHT_MSE : NW_WEIGHT_MINMAX};
                    nw_tensor t = {.format = NW_F32, .data = x}, out;
                    nw_tensor_set_shape(&t, s->rank, s->dims);
                    size_t count = nw_tensor_count(&t);
                    nw_quant_weight r;
                    assert_true(count <= MOST);
                    fill(x, count, kind);
                    assert_ok(&ctx, nw_weight_pack(&arena, "w", &t, &spec, NULL, &out, &r));
                    nw_dequantize(out.qparam, out.rank, out.dims, out.data, y);
                    check_elements(words[w], s, x, &out, y, &r);
                    assert_int_equal(r.bytes_after, nw_tensor_bytes(&out) + nw_qparam_bytes(out.qparam));
                    /* one grid, however it is applied */
                    static float fake[MOST];
                    nw_fake_quantize(out.qparam, out.rank, out.dims, x, fake);
                    assert_memory_equal(fake, y, count * sizeof *y);
                    nw_qparam copy;
                    assert_ok(&ctx, nw_qparam_copy(&arena, out.qparam, &copy));
                    assert_true(nw_qparam_equal(&copy, out.qparam));
                    nw_arena_free(&arena);
                }
}

/* Zeros stay zeros where the codes have one; constants come back, or nearly. */
static void zeros_and_constants(void **state) {
    (void)state;
    float x[64], y[64];
    for (int w = 0; w < WORDS; w++)
        for (int kind = 0; kind < 2; kind++) {
            nw_scheme scheme;
            nw_arena arena;
            nw_quant_weight r;
            nw_arena_init(&arena, &ctx);
            assert_ok(&ctx, nw_scheme_parse(&ctx, words[w], &scheme));
            nw_weight_spec spec = {.coding = scheme.coding, .scale_format = scheme.scale_format};
            nw_tensor t = {.format = NW_F32, .rank = 1, .dims = {64}, .data = x}, out;
            fill(x, 64, kind ? 3 : 1);
            assert_ok(&ctx, nw_weight_pack(&arena, "w", &t, &spec, NULL, &out, &r));
            nw_dequantize(out.qparam, 1, out.dims, out.data, y);
            bool coarse = spec.scale_format == NW_F8E8M0 || nw_format_bits(out.format) <= 4;
            for (int i = 0; i < 64; i++)
                assert_true(fabsf(y[i] - x[i]) <= (kind ? coarse ? 0.12f : 0.002f : 1e-7f));
            nw_arena_free(&arena);
        }
}

/* Shares of the float bytes that the formats promise. */
static void packed_sizes(void **state) {
    (void)state;
    static const struct {
        const char *word;
        double most;
    } cases[] = {{"s8", 0.251},
                 {"s4:32@f16", 0.145},
                 {"u4:32@f16", 0.146},
                 {"s4:128", 0.134},
                 {"s2:64@f16", 0.0711},
                 {"ternary", 0.0636},
                 {"ternary:64@f16", 0.0711},
                 {"ternary:32@e8m0", 0.0711},
                 {"binary", 0.0323},
                 {"binary:64@f16", 0.04},
                 {"binary:32@f16", 0.0470},
                 {"log4:64@f16", 0.134},
                 {"codebook4:64@f16", 0.134},
                 {"nf4:64@f16", 0.134},
                 {"sqrt8", 0.26},
                 {"codebook2:64@f16", 0.0712},
                 {"f16", 0.5001},
                 {"bf16", 0.5001},
                 {"f8e4m3fn", 0.251},
                 {"mxfp4", 0.133},
                 {"mxfp8", 0.258},
                 {"range(-255:255)", 0.501},
                 {"fixed8", 0.251}};
    enum { ROWS = 64, COLUMNS = 1024 };
    static float x[ROWS * COLUMNS];
    fill(x, ROWS * COLUMNS, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nw_scheme scheme;
        nw_arena arena;
        nw_quant_weight r;
        nw_arena_init(&arena, &ctx);
        assert_ok(&ctx, nw_scheme_parse(&ctx, cases[i].word, &scheme));
        nw_weight_spec spec = {.coding = scheme.coding,
                               .scale_format = scheme.scale_format,
                               .grain = scheme.block ? NW_GRAIN_BLOCK : NW_GRAIN_AXIS,
                               .axis = scheme.block > 0,
                               .block = scheme.block};
        nw_tensor t = {.format = NW_F32, .rank = 2, .dims = {ROWS, COLUMNS}, .data = x}, out;
        assert_ok(&ctx, nw_weight_pack(&arena, "w", &t, &spec, NULL, &out, &r));
        double share = (double)r.bytes_after / (double)r.bytes_before;
        if (share > cases[i].most) fail_msg("%s takes %g of the float bytes", cases[i].word, share);
        /* what is in memory, not only what is reported: codes, and scales in their format */
        size_t codes, scales;
        nw_format_bytes(out.format, ROWS * COLUMNS, &codes);
        nw_format_bytes(nw_qparam_scale_format(out.qparam), out.qparam->groups, &scales);
        assert_int_equal(nw_tensor_bytes(&out), codes);
        assert_true(codes + scales <= r.bytes_after);
        nw_arena_free(&arena);
    }
}

static double sqnr_of(const char *word, const float *x, int64_t n) {
    nw_scheme scheme;
    nw_arena arena;
    nw_quant_weight r;
    nw_arena_init(&arena, &ctx);
    assert_ok(&ctx, nw_scheme_parse(&ctx, word, &scheme));
    nw_weight_spec spec = {.coding = scheme.coding,
                           .scale_format = scheme.scale_format,
                           .grain = scheme.block ? NW_GRAIN_BLOCK : NW_GRAIN_TENSOR,
                           .block = scheme.block};
    nw_tensor t = {.format = NW_F32, .rank = 1, .dims = {n}, .data = (void *)(uintptr_t)x}, out;
    assert_ok(&ctx, nw_weight_pack(&arena, "w", &t, &spec, NULL, &out, &r));
    nw_arena_free(&arena);
    return r.sqnr;
}

/* On a bell of numbers: optimal codings lose least, more bits lose less, finer grains lose less. */
static void better_is_better(void **state) {
    (void)state;
    enum { N = 20000 };
    static float x[N];
    for (int i = 0; i < N; i++) x[i] = uniform(-1, 1) + uniform(-1, 1) + uniform(-1, 1) + uniform(-1, 1);
    double nf4 = sqnr_of("nf4", x, N), s4 = sqnr_of("s4", x, N), codebook4 = sqnr_of("codebook4", x, N);
    assert_true(codebook4 > nf4 && codebook4 > s4);
    assert_true(codebook4 > 20.1 &&
                codebook4 < 21.5); /* Lloyd-Max for a normal distribution: 20.22 dB (Max 1960) */
    double ternary = sqnr_of("ternary", x, N), binary = sqnr_of("binary", x, N), s2 = sqnr_of("s2", x, N);
    assert_true(ternary > s2 && ternary > binary);
    assert_true(fabs(binary - 4.4) < 0.3);  /* 1 − 2/π: 4.40 dB */
    assert_true(fabs(ternary - 7.2) < 0.5); /* three levels: 7.22 dB (Max 1960) */
    assert_true(sqnr_of("codebook8", x, N) > codebook4 + 15);
    assert_true(sqnr_of("codebook1", x, N) >= binary - 1e-3);
    assert_true(sqnr_of("s4:32", x, N) > s4 && sqnr_of("s8", x, N) > s4 + 20 && sqnr_of("s16", x, N) > 80);
    assert_true(sqnr_of("log8/4", x, N) > sqnr_of("log8", x, N));
    assert_true(sqnr_of("bf16", x, N) > 50 && sqnr_of("f16", x, N) > 65);
}

static void bias_limits_and_bad_numbers(void **state) {
    (void)state;
    float x[6] = {0.1f, -0.2f, 0.3f, 0, 0, 0};
    const float least[2] = {5, 0.25f};
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    for (int w = 0; w < WORDS; w++) {
        nw_scheme scheme;
        nw_quant_weight r;
        assert_ok(&ctx, nw_scheme_parse(&ctx, words[w], &scheme));
        nw_weight_spec spec = {
            .coding = scheme.coding, .scale_format = scheme.scale_format, .grain = NW_GRAIN_AXIS};
        nw_tensor t = {.format = NW_F32, .rank = 2, .dims = {2, 3}, .data = x}, out;
        assert_ok(&ctx, nw_weight_pack(&arena, "w", &t, &spec, least, &out, &r));
        for (size_t g = 0; g < out.qparam->groups; g++)
            assert_true(nw_qparam_scale(out.qparam, g) >= least[g]);
        for (int bad = 0; bad < 3; bad++) {
            const float number = bad == 0 ? NAN : bad == 1 ? INFINITY : -INFINITY;
            for (int at = 0; at < 6; at++) {
                float broken[6];
                memcpy(broken, x, sizeof x);
                broken[at] = number;
                t.data = broken;
                assert_fails(&ctx, NW_E_DATA, "\"w\"",
                             nw_weight_pack(&arena, "w", &t, &spec, NULL, &out, &r));
            }
        }
    }
    nw_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_in_every_grain),
        cmocka_unit_test(zeros_and_constants),
        cmocka_unit_test(packed_sizes),
        cmocka_unit_test(better_is_better),
        cmocka_unit_test(bias_limits_and_bad_numbers),
    };
    return cmocka_run_group_tests_name("weights", tests, open_context, NULL);
}
