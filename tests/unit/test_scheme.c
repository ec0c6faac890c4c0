/* test_scheme.c: the words for number formats. */
#include "num/scheme.h"
#include "support/unit.h"

#include <string.h>

static nw_context ctx;

static int open_context(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    return 0;
}

static void words_name_codings(void **state) {
    (void)state;
    static const struct {
        const char *word;
        nw_coding coding;
        int64_t block;
        nw_format scale;
        const char *printed; /* NULL: the word */
    } cases[] = {
        {"s8", {NW_LINEAR, NW_S8, {-127, 127, true}, 0, 0}, 0, NW_F32, NULL},
        {"u8", {NW_LINEAR, NW_U8, {0, 255, false}, 0, 0}, 0, NW_F32, NULL},
        {"s8-asym", {NW_LINEAR, NW_S8, {-128, 127, false}, 0, 0}, 0, NW_F32, NULL},
        {"u8-sym", {NW_LINEAR, NW_U8, {-127, 127, true}, 128, 0}, 0, NW_F32, NULL},
        {"s8-sym", {NW_LINEAR, NW_S8, {-127, 127, true}, 0, 0}, 0, NW_F32, "s8"},
        {"s16", {NW_LINEAR, NW_S16, {-32767, 32767, true}, 0, 0}, 0, NW_F32, NULL},
        {"s4:32", {NW_LINEAR, NW_S4, {-7, 7, true}, 0, 0}, 32, NW_F32, NULL},
        {"u4:64@f16", {NW_LINEAR, NW_U4, {0, 15, false}, 0, 0}, 64, NW_F16, NULL},
        {"s2@bf16", {NW_LINEAR, NW_S2, {-1, 1, true}, 0, 0}, 0, NW_BF16, NULL},
        {"u2", {NW_LINEAR, NW_U2, {0, 3, false}, 0, 0}, 0, NW_F32, NULL},
        {"range(-255:255)", {NW_LINEAR, NW_S16, {-255, 255, true}, 0, 0}, 0, NW_F32, NULL},
        {"range(-128:127)", {NW_LINEAR, NW_S8, {-128, 127, true}, 0, 0}, 0, NW_F32, NULL},
        {"range(-128:127)-asym", {NW_LINEAR, NW_S8, {-128, 127, false}, 0, 0}, 0, NW_F32, "s8-asym"},
        {"range(0:255)", {NW_LINEAR, NW_U8, {0, 255, false}, 0, 0}, 0, NW_F32, "u8"},
        {"range(0:100)", {NW_LINEAR, NW_U8, {0, 100, false}, 0, 0}, 0, NW_F32, NULL},
        {"range(-5:0)", {NW_LINEAR, NW_S4, {-5, 0, false}, 0, 0}, 0, NW_F32, NULL},
        {"range(-2:5)-asym", {NW_LINEAR, NW_S4, {-2, 5, false}, 0, 0}, 0, NW_F32, NULL},
        {"ternary", {NW_TERNARY, NW_S2, {-1, 1, true}, 0, 0}, 0, NW_F32, NULL},
        {"ternary:128@f16", {NW_TERNARY, NW_S2, {-1, 1, true}, 0, 0}, 128, NW_F16, NULL},
        {"binary", {NW_BINARY, NW_INDEX1, {0, 1, true}, 0, 0}, 0, NW_F32, NULL},
        {"log4", {NW_LOG, NW_INDEX4, {0, 14, true}, 0, 1}, 0, NW_F32, NULL},
        {"log8/2", {NW_LOG, NW_INDEX8, {0, 254, true}, 0, 2}, 0, NW_F32, NULL},
        {"log4/1", {NW_LOG, NW_INDEX4, {0, 14, true}, 0, 1}, 0, NW_F32, "log4"},
        {"log3", {NW_LOG, NW_INDEX4, {0, 6, true}, 0, 1}, 0, NW_F32, NULL},
        {"sqrt8", {NW_SQRT, NW_INDEX8, {0, 254, true}, 0, 0}, 0, NW_F32, NULL},
        {"sqrt2", {NW_SQRT, NW_INDEX2, {0, 2, true}, 0, 0}, 0, NW_F32, NULL},
        {"codebook4", {NW_CODEBOOK, NW_INDEX4, {0, 15, true}, 0, 0}, 0, NW_F32, NULL},
        {"codebook1:16", {NW_CODEBOOK, NW_INDEX1, {0, 1, true}, 0, 0}, 16, NW_F32, NULL},
        {"nf4:64", {NW_NF4, NW_INDEX4, {0, 15, true}, 0, 0}, 64, NW_F32, NULL},
        {"fixed8", {NW_LINEAR, NW_S8, {-127, 127, true}, 0, 0}, 0, NW_F8E8M0, NULL},
        {"fixed6:32", {NW_LINEAR, NW_S8, {-31, 31, true}, 0, 0}, 32, NW_F8E8M0, NULL},
        {"s8@e8m0", {NW_LINEAR, NW_S8, {-127, 127, true}, 0, 0}, 0, NW_F8E8M0, "fixed8"},
        {"u8@f8e8m0", {NW_LINEAR, NW_U8, {0, 255, false}, 0, 0}, 0, NW_F8E8M0, "u8@e8m0"},
        {"f16", {NW_FLOAT, NW_F16, {0, 0, false}, 0, 0}, 0, NW_F32, NULL},
        {"bf16", {NW_FLOAT, NW_BF16, {0, 0, false}, 0, 0}, 0, NW_F32, NULL},
        {"f8e4m3fn", {NW_FLOAT, NW_F8E4M3FN, {0, 0, false}, 0, 0}, 0, NW_F32, NULL},
        {"f8e5m2:32@bf16", {NW_FLOAT, NW_F8E5M2, {0, 0, false}, 0, 0}, 32, NW_BF16, NULL},
        {"mxfp4", {NW_FLOAT, NW_F4E2M1, {0, 0, false}, 0, 0}, 32, NW_F8E8M0, NULL},
        {"f4e2m1:32@e8m0", {NW_FLOAT, NW_F4E2M1, {0, 0, false}, 0, 0}, 32, NW_F8E8M0, "mxfp4"},
        {"mxfp8", {NW_FLOAT, NW_F8E4M3FN, {0, 0, false}, 0, 0}, 32, NW_F8E8M0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nw_scheme s, again;
        char text[NW_SCHEME_WORD];
        const char *printed = cases[i].printed ? cases[i].printed : cases[i].word;
        assert_ok(&ctx, nw_scheme_parse(&ctx, cases[i].word, &s));
        if (!nw_coding_equal(&s.coding, &cases[i].coding)) fail_msg("%s means something else", cases[i].word);
        assert_int_equal(s.block, cases[i].block);
        assert_int_equal(s.scale_format, cases[i].scale);
        assert_string_equal(nw_scheme_print(&s, text, sizeof text), printed);
        assert_ok(&ctx, nw_scheme_parse(&ctx, text, &again));
        assert_true(nw_coding_equal(&s.coding, &again.coding) && s.block == again.block &&
                    s.scale_format == again.scale_format);
    }
}

static void bad_words_are_explained(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"", "no coding"},
                                           {"int8", "no coding"},
                                           {"s32", "no coding"},
                                           {"f32", "no coding"},
                                           {"string", "no coding"},
                                           {"index4", "no coding"},
                                           {"f8e8m0", "no coding"},
                                           {"s8 ", "left behind"},
                                           {"s8:", "size of a block"},
                                           {"s8:1", "size of a block"},
                                           {"s8:99999999999999999999", "size of a block"},
                                           {"s8:-32", "size of a block"},
                                           {"s8@", "format of scales"},
                                           {"s8@f64", "format of scales"},
                                           {"s8@s8", "format of scales"},
                                           {"s8:32@f16x", "format of scales"},
                                           {"s8:32@f16:", "left behind"},
                                           {"range", "no coding"},
                                           {"range(", "range(LO:HI)"},
                                           {"range(5:5)", "range(LO:HI)"},
                                           {"range(9:5)", "range(LO:HI)"},
                                           {"range(-1:65535)", "range(LO:HI)"},
                                           {"range(--1:5)", "range(LO:HI)"},
                                           {"range(-99999999999999999999:5)", "range(LO:HI)"},
                                           {"range(0:7", "range(LO:HI)"},
                                           {"range(1:7)-sym", "not symmetric"},
                                           {"log", "from 2 to 8"},
                                           {"log1", "from 2 to 8"},
                                           {"log9", "from 2 to 8"},
                                           {"log4/0", "levels per power of two"},
                                           {"log4/", "levels per power of two"},
                                           {"sqrt16", "from 2 to 8"},
                                           {"codebook0", "from 1 to 8"},
                                           {"fixed17", "from 2 to 16"},
                                           {"fixed8@f16", "power-of-two"},
                                           {"f16:32", "no scales"},
                                           {"bf16@f16", "no scales"},
                                           {"ternaryx", "left behind"},
                                           {"binary-sym", "left behind"}};
    nw_scheme s;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(&ctx, NW_E_ARGUMENT, cases[i][1], nw_scheme_parse(&ctx, cases[i][0], &s));
}

/* Whatever a user writes: an error or a scheme that makes sense, and prints as a word that means the same. */
static void any_word_is_survived(void **state) {
    (void)state;
    static const char *const parts[] = {
        "s8",  "u4",   "range(", "-",        "7",    "0",  ":",      "255",    ")", "-sym", "-asym",
        "log", "sqrt", "fixed",  "codebook", "4",    "8",  "/",      "2",      "@", "f16",  "e8m0",
        "32",  "nf4",  "mxfp4",  "ternary",  "\xff", "%s", "binary", "f8e5m2", " ", "s16"};
    uint32_t seed = 5;
    int good = 0;
    for (int round = 0; round < 200000; round++) {
        char word[200] = "";
        seed = seed * 1664525u + 1013904223u;
        for (uint32_t k = 0, n = seed >> 29; k <= n; k++) {
            seed = seed * 1664525u + 1013904223u;
            strcat(word, parts[(seed >> 16) % (sizeof parts / sizeof *parts)]);
        }
        nw_scheme s, again;
        if (nw_scheme_parse(&ctx, word, &s) != NW_OK) continue;
        const nw_coding *c = &s.coding;
        char text[NW_SCHEME_WORD];
        good++;
        assert_in_range(nw_format_bits(c->format), 1, 16);
        assert_true(c->kind == NW_FLOAT || c->grid.qmin < c->grid.qmax);
        if (c->kind == NW_LINEAR)
            assert_true(c->grid.qmin + c->shift >= nw_format_min(c->format) &&
                        c->grid.qmax + c->shift <= nw_format_max(c->format));
        assert_ok(&ctx, nw_scheme_parse(&ctx, nw_scheme_print(&s, text, sizeof text), &again));
        if (!nw_coding_equal(c, &again.coding) || s.block != again.block ||
            s.scale_format != again.scale_format)
            fail_msg("%s is printed as %s, which is something else", word, text);
    }
    assert_true(good > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_name_codings),
        cmocka_unit_test(bad_words_are_explained),
        cmocka_unit_test(any_word_is_survived),
    };
    return cmocka_run_group_tests_name("scheme", tests, open_context, NULL);
}
