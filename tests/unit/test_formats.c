/* test_formats.c: every number format: its codes, its rounding, its packing. */
#include "num/tensor.h"
#include "support/unit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Formats of at most 16 bits, whose codes can all be tried. */
static const nw_format small_formats[] = {
    NW_U8,       NW_S8,         NW_U16,    NW_S16,        NW_BOOL,   NW_F16,    NW_BF16,
    NW_F8E4M3FN, NW_F8E4M3FNUZ, NW_F8E5M2, NW_F8E5M2FNUZ, NW_U4,     NW_S4,     NW_F4E2M1,
    NW_F8E8M0,   NW_U2,         NW_S2,     NW_INDEX1,     NW_INDEX2, NW_INDEX4, NW_INDEX8};
enum { SMALL_FORMATS = sizeof small_formats / sizeof *small_formats };

/* Code `code` at element i, written without the library: those below 8 bits share a byte, low bits first. */
static void put_code(nw_format f, uint8_t *data, size_t i, unsigned code) {
    unsigned bits = (unsigned)nw_format_bits(f);
    if (bits == 16) {
        data[2 * i] = (uint8_t)code;
        data[2 * i + 1] = (uint8_t)(code >> 8);
    } else {
        size_t bit = i * bits;
        unsigned mask = (1u << bits) - 1;
        data[bit / 8] = (uint8_t)((data[bit / 8] & ~(mask << bit % 8)) | code << bit % 8);
    }
}

static void names_and_sizes(void **state) {
    (void)state;
    for (int f = 1; f < NW_FORMAT_COUNT; f++) {
        if (nw_format_bits((nw_format)f) == 0) { /* between ONNX's numbers and our own */
            assert_true(f > NW_S2 && f < NW_FORMAT_OWN);
            assert_string_equal(nw_format_name((nw_format)f), "none");
            continue;
        }
        assert_int_equal(nw_format_by_name(nw_format_name((nw_format)f)), f);
        assert_int_equal(nw_format_from_onnx(f), f < NW_FORMAT_OWN ? f : NW_NONE);
    }
    assert_string_equal(nw_format_name(NW_NONE), "none");
    assert_string_equal(nw_format_name((nw_format)999), "none");
    assert_int_equal(nw_format_by_name("float32"), NW_NONE);
    assert_int_equal(nw_format_from_onnx(-5), NW_NONE);
    size_t bytes;
    assert_true(nw_format_bytes(NW_S4, 3, &bytes) && bytes == 2);
    assert_true(nw_format_bytes(NW_U2, 5, &bytes) && bytes == 2);
    assert_true(nw_format_bytes(NW_F64, 5, &bytes) && bytes == 40);
    assert_true(nw_format_bytes(NW_U4, SIZE_MAX, &bytes) && bytes == SIZE_MAX / 2 + 1);
    assert_false(nw_format_bytes(NW_F32, SIZE_MAX / 2, &bytes));
    assert_false(nw_format_bytes(NW_NONE, 1, &bytes));
    assert_int_equal(nw_format_min(NW_S4), -8);
    assert_int_equal(nw_format_max(NW_S4), 7);
    assert_int_equal(nw_format_max(NW_U2), 3);
    assert_int_equal(nw_format_min(NW_S64), INT64_MIN);
}

static void every_code_survives(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_FORMATS; k++) {
        nw_format f = small_formats[k];
        unsigned codes = f == NW_BOOL ? 2 : 1u << nw_format_bits(f);
        for (unsigned code = 0; code < codes; code++) {
            for (size_t at = 0; at < 8; at++) { /* every position in a byte */
                uint8_t before[16] = {0}, after[16];
                memset(after, 0xa5, sizeof after);
                memcpy(before, after, sizeof after);
                put_code(f, before, at, code);
                double x = nw_load_f64(f, before, at);
                if (isnan(x)) continue; /* NaNs have many codes */
                nw_store_f64_as(f, after, at, x, false);
                assert_memory_equal(before, after, sizeof before);
                float wide;
                nw_decode_f32(f, before, at, 1, &wide);
                assert_true((double)wide == x);
                memset(after, 0xa5, sizeof after);
                assert_int_equal(nw_encode_f32(f, &wide, 1, after, at), isinf(x) ? 1 : 0);
                if (!isinf(x) || nw_format_bits(f) == 16) assert_memory_equal(before, after, sizeof before);
            }
        }
    }
}

/* Runs of codes at any place and of any length, their neighbours untouched. */
static void runs_of_codes(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_FORMATS; k++) {
        nw_format f = small_formats[k];
        if (f == NW_BOOL) continue;
        unsigned mask = (1u << nw_format_bits(f)) - 1;
        for (size_t first = 0; first < 9; first++)
            for (size_t count = 0; count < 40; count++) {
                uint8_t expected[128], data[128];
                uint16_t codes[40];
                int32_t back[40];
                memset(expected, 0xa5, sizeof expected);
                memset(data, 0xa5, sizeof data);
                for (size_t i = 0; i < count; i++) {
                    codes[i] = (uint16_t)((i * 40503u + first) >> 3);
                    put_code(f, expected, first + i, codes[i] & mask);
                }
                nw_store_codes(f, data, first, count, codes);
                assert_memory_equal(data, expected, sizeof data);
                nw_load_codes(f, data, first, count, back);
                for (size_t i = 0; i < count; i++) {
                    if (nw_format_kind(f) == NW_KIND_SINT)
                        assert_int_equal(back[i], nw_load_s64(f, data, first + i));
                    else
                        assert_int_equal(back[i], codes[i] & mask);
                }
            }
    }
}

/* Runs of small floats are converted by other means than single ones: the same codes, and the same numbers. */
static void runs_of_floats(void **state) {
    (void)state;
    enum { COUNT = 1 << 12 };
    static float x[COUNT], back[COUNT];
    static uint8_t data[2 * COUNT];
    uint32_t seed = 1;
    for (size_t k = 0; k < SMALL_FORMATS; k++) {
        nw_format f = small_formats[k];
        if (!nw_format_is_float(f) || f == NW_F8E8M0) continue;
        float most = (float)nw_format_largest(f);
        for (int round = 0; round < 16; round++) {
            size_t saturated = 0;
            for (int i = 0; i < COUNT; i++) {
                seed = seed * 1664525u + 1013904223u;
                if (i % 2) {
                    memcpy(&x[i], &seed, sizeof *x); /* all of them: denormals, NaNs, infinities */
                } else {                             /* about the range of the format, and midpoints within */
                    int64_t q = (int64_t)(seed >> 8) % 4096;
                    x[i] = (float)ldexp((double)(q - 2048), (int)(seed % 41) - 30);
                }
                if (i == 8) x[i] = most;
                if (i == 10) x[i] = nextafterf(most, INFINITY);
                if (i == 12) x[i] = -0.0f;
                if (i == 14) x[i] = INFINITY;
                if (i == 16) x[i] = NAN;
                saturated += fabsf(x[i]) > most;
            }
            assert_int_equal(nw_encode_f32(f, x, COUNT, data, 0), saturated);
            nw_decode_f32(f, data, 0, COUNT, back);
            for (size_t i = 0; i < COUNT; i++) {
                uint8_t one[2] = {0};
                nw_store_f64(f, one, 0, (double)x[i]);
                double value = nw_load_f64(f, one, 0);
                if (isnan(value)) {
                    assert_true(isnan(back[i]) && isnan(nw_load_f64(f, data, i)));
                    continue;
                }
                if (!((double)back[i] == value && !signbit(back[i]) == !signbit(value)))
                    fail_msg("%s: %a became %a, not %a", nw_format_name(f), (double)x[i], (double)back[i],
                             value);
                assert_true(nw_load_f64(f, data, i) == value);
            }
        }
    }
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* All finite values of a format, ascending, each once. */
static size_t finite_values(nw_format f, double *out) {
    size_t count = 0, kept = 0;
    unsigned codes = f == NW_BOOL ? 2 : 1u << nw_format_bits(f);
    for (unsigned code = 0; code < codes; code++) {
        uint8_t data[2] = {0};
        put_code(f, data, 0, code);
        double x = nw_load_f64(f, data, 0);
        if (isfinite(x)) out[count++] = x;
    }
    qsort(out, count, sizeof *out, compare_doubles);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || out[kept - 1] != out[i]) out[kept++] = out[i];
    return kept;
}

/* Encoding a real number gives the nearest value of the format; in the middle between two, the one whose code
 * is even. */
static void encoding_is_nearest_even(void **state) {
    (void)state;
    static double values[1 << 16];
    for (size_t k = 0; k < SMALL_FORMATS; k++) {
        nw_format f = small_formats[k];
        if (f == NW_BOOL || f == NW_F8E8M0) continue; /* x != 0; powers of two */
        size_t count = finite_values(f, values);
        for (size_t i = 0; i + 1 < count; i++) {
            double lo = values[i], hi = values[i + 1], middle = lo / 2 + hi / 2;
            for (int side = -1; side <= 1; side++) {
                double x = side == 0 ? middle : nextafter(middle, side * INFINITY);
                uint8_t data[2] = {0};
                nw_store_f64(f, data, 0, x);
                double got = nw_load_f64(f, data, 0);
                if (side) {
                    assert_true(got == (side < 0 ? lo : hi));
                } else {
                    assert_true(got == lo || got == hi);
                    unsigned code =
                        nw_format_bits(f) < 8 ? data[0] & ((1u << nw_format_bits(f)) - 1) : data[0];
                    assert_int_equal(code & 1, 0);
                }
            }
        }
    }
}

static double stored(nw_format f, double x, bool saturate) {
    uint8_t data[8] = {0};
    nw_store_f64_as(f, data, 0, x, saturate);
    return nw_load_f64(f, data, 0);
}

/* Largest values and what lies beyond: OCP 8-bit floating point (E4M3, E5M2), the FNUZ variants, MX (E2M1,
 * E8M0). */
static void ranges_saturate_or_overflow(void **state) {
    (void)state;
    static const struct {
        nw_format format;
        double largest;
        bool infinite; /* else NaN when not saturating */
    } table[] = {{NW_F8E4M3FN, 448, false},     {NW_F8E4M3FNUZ, 240, false}, {NW_F8E5M2, 57344, true},
                 {NW_F8E5M2FNUZ, 57344, false}, {NW_F16, 65504, true},       {NW_BF16, 0x1.fep127, true}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        nw_format f = table[i].format;
        double top = table[i].largest;
        for (int sign = -1; sign <= 1; sign += 2) {
            assert_true(stored(f, sign * top, false) == sign * top);
            assert_true(stored(f, sign * top * 4, true) == sign * top);
            assert_true(stored(f, sign * INFINITY, true) == sign * top);
            double beyond = stored(f, sign * top * 4, false);
            assert_true(table[i].infinite ? beyond == sign * INFINITY : isnan(beyond));
        }
        assert_true(isnan(stored(f, NAN, true)));
    }
    assert_true(stored(NW_F4E2M1, 1e9, false) == 6 && stored(NW_F4E2M1, -1e9, false) == -6);
    assert_true(stored(NW_F4E2M1, 0.25, true) == 0 && stored(NW_F4E2M1, 0.75, true) == 1); /* ties to even */
    assert_true(stored(NW_F8E8M0, 1, true) == 1 && isnan(stored(NW_F8E8M0, NAN, true)));
    assert_true(signbit(stored(NW_F16, -0.0, true)));
    assert_false(signbit(stored(NW_F8E4M3FNUZ, -0.0, true)));
    assert_true(stored(NW_S8, 1000, true) == 127 && stored(NW_S8, -1000, true) == -128 &&
                stored(NW_U8, -3, true) == 0);
    assert_true(stored(NW_S8, 2.5, true) == 2 && stored(NW_S8, 3.5, true) == 4 &&
                stored(NW_S8, -2.5, true) == -2);
    assert_true(stored(NW_S64, 1e30, true) == 0x1p63 && stored(NW_U64, 1e30, true) == 0x1p64);
    assert_true(stored(NW_S32, NAN, true) == 0);
}

static void integers_wrap_like_cast(void **state) {
    (void)state;
    int64_t data = 0;
    nw_store_s64(NW_U8, &data, 0, 257);
    assert_int_equal(nw_load_s64(NW_U8, &data, 0), 1);
    nw_store_s64(NW_S4, &data, 0, 9);
    assert_int_equal(nw_load_s64(NW_S4, &data, 0), -7);
    nw_store_s64(NW_BOOL, &data, 0, 256);
    assert_int_equal(nw_load_s64(NW_BOOL, &data, 0), 1);
    nw_store_s64(NW_F16, &data, 0, -3);
    assert_int_equal(nw_load_s64(NW_F16, &data, 0), -3);
    double x = 1e300;
    assert_true(nw_load_s64(NW_F64, &x, 0) == INT64_MAX);
    x = -2.9;
    assert_int_equal(nw_load_s64(NW_F64, &x, 0), -2);
}

static void saturation_is_counted(void **state) {
    (void)state;
    const float x[] = {-129, -128.4f, 0, 127.4f, 128, NAN};
    int8_t s8[6];
    assert_int_equal(nw_encode_f32(NW_S8, x, 6, s8, 0), 2);
    const float y[] = {500, -448, 449, INFINITY};
    uint8_t f8[4];
    assert_int_equal(nw_encode_f32(NW_F8E4M3FN, y, 4, f8, 0), 3);
}

/* f16 and bf16 helpers agree with the general conversion on every code, and round floats as it does. */
static void halves_agree(void **state) {
    (void)state;
    for (unsigned code = 0; code < 1u << 16; code++) {
        uint16_t h = (uint16_t)code;
        float a = nw_f16_to_f32(h), b = (float)nw_load_f64(NW_F16, &h, 0);
        assert_true(a == b || (isnan(a) && isnan(b)));
        a = nw_bf16_to_f32(h);
        b = (float)nw_load_f64(NW_BF16, &h, 0);
        assert_true(a == b || (isnan(a) && isnan(b)));
    }
    uint32_t seed = 1;
    for (int i = 0; i < 200000; i++) {
        seed = seed * 1664525u + 1013904223u;
        float x;
        memcpy(&x, &seed, sizeof x);
        if (isnan(x)) continue;
        uint16_t h = 0;
        nw_store_f64_as(NW_BF16, &h, 0, (double)x, false);
        assert_int_equal(nw_bf16_from_f32(x), h);
        nw_store_f64_as(NW_F16, &h, 0, (double)x, false);
        assert_int_equal(nw_f16_from_f32(x), h);
    }
    for (uint64_t u = 0; u <= UINT32_MAX;
         u += 4099) { /* rounding in one step, signs, infinities and NaNs among them */
        const uint32_t bits = (uint32_t)u;
        float x, a, b;
        memcpy(&x, &bits, sizeof x);
        a = nw_round_f16(x);
        b = nw_f16_to_f32(nw_f16_from_f32(x));
        assert_true(isnan(x) ? isnan(a) && isnan(b) : memcmp(&a, &b, sizeof a) == 0);
        a = nw_round_bf16(x);
        b = nw_bf16_to_f32(nw_bf16_from_f32(x));
        assert_true(isnan(x) ? isnan(a) && isnan(b) : memcmp(&a, &b, sizeof a) == 0);
    }
    for (uint32_t h = 0; h < 0x7c00; h++) { /* at ties, and beside them */
        const float middle = (nw_f16_to_f32((uint16_t)h) + nw_f16_to_f32((uint16_t)(h + 1))) / 2;
        const float near[3] = {nextafterf(middle, 0), middle, nextafterf(middle, INFINITY)};
        for (int i = 0; i < 3; i++)
            assert_true(nw_round_f16(-near[i]) == nw_f16_to_f32(nw_f16_from_f32(-near[i])));
    }
    assert_true(isnan(nw_bf16_to_f32(nw_bf16_from_f32(NAN))) && isnan(nw_f16_to_f32(nw_f16_from_f32(NAN))));
}

static void tensors_are_checked(void **state) {
    (void)state;
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    nw_tensor t = {.format = NW_F32, .rank = 3, .dims = {2, 3, 4}};
    char text[64];
    assert_ok(&ctx, nw_tensor_check(&ctx, &t));
    assert_int_equal(nw_tensor_count(&t), 24);
    assert_int_equal(nw_tensor_bytes(&t), 96);
    assert_string_equal(nw_tensor_describe(&t, text, sizeof text), "f32 [2,3,4]");
    t.dims[1] = -1;
    assert_int_not_equal(nw_tensor_check(&ctx, &t), NW_OK);
    t.dims[0] = t.dims[1] = t.dims[2] = INT64_C(1) << 40;
    assert_int_not_equal(nw_tensor_check(&ctx, &t), NW_OK);
    t.dims[2] = 0; /* the product of the others overflows: no element, but no sane shape either */
    nw_tensor_check(&ctx, &t);
    t = (nw_tensor){.format = NW_F32, .rank = NW_MAX_RANK + 1};
    assert_int_not_equal(nw_tensor_check(&ctx, &t), NW_OK);
    t.rank = -1;
    assert_int_not_equal(nw_tensor_check(&ctx, &t), NW_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_sizes),
        cmocka_unit_test(every_code_survives),
        cmocka_unit_test(runs_of_codes),
        cmocka_unit_test(runs_of_floats),
        cmocka_unit_test(encoding_is_nearest_even),
        cmocka_unit_test(ranges_saturate_or_overflow),
        cmocka_unit_test(integers_wrap_like_cast),
        cmocka_unit_test(saturation_is_counted),
        cmocka_unit_test(halves_agree),
        cmocka_unit_test(tensors_are_checked),
    };
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
