/* test_metrics.c: how probable labels are, and moments, against their formulas. */
#include "report/metrics.h"
#include "support/unit.h"

#include <math.h>

static void near(double got, double want) {
    if (!(fabs(got - want) <= 1e-6 * (1 + fabs(want)))) fail_msg("%.9g, not %.9g", got, want);
}

static void perplexity_is_of_labels(void **state) {
    (void)state;
    nw_context ctx;
    nw_score score;
    nw_sheet *sheet;
    nw_context_init(&ctx, NULL);
    nw_score_init(&score, &ctx);
    /* logits, far from 0 too; and probabilities */
    const float logits[] = {1, 2, 3, 1000, 1001, 1003}, shares[] = {0.25f, 0.5f, 0.25f};
    const int64_t labels[] = {2, 0}, second[] = {1};
    nw_score_add_tokens(&score, 2, 3, logits, labels);
    double a = log(exp(-2) + exp(-1) + 1), b = log(1 + exp(1) + exp(3));
    near(score.surprise, a + b);
    nw_score_add_tokens(&score, 1, 3, shares, second);
    near(score.surprise, a + b + log(2));
    assert_int_equal(score.tokens, 3);
    assert_int_equal(nw_sheet_new(&ctx, &sheet), NW_OK);
    nw_score_write(&score, &sheet->root);
    near(nw_sheet_number(sheet, "perplexity"), exp((a + b + log(2)) / 3));
    near(nw_sheet_number(sheet, "cross_entropy"), (a + b + log(2)) / 3);
    nw_sheet_free(sheet);
    nw_score_free(&score);
}

static void moments_leave_out_what_is_not_finite(void **state) {
    (void)state;
    const float x[] = {3, INFINITY, -1, NAN, 4, 2};
    nw_moments m = {0};
    nw_moments_add(&m, 2, x);
    nw_moments_add(&m, 4, x + 2);
    assert_int_equal(m.count, 4);
    assert_int_equal(m.broken, 2);
    near(m.min, -1);
    near(m.max, 4);
    near(nw_moments_mean(&m), 2);
    near(nw_moments_std(&m), sqrt(3.5));
    near(nw_moments_std(&(nw_moments){0}), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perplexity_is_of_labels),
        cmocka_unit_test(moments_leave_out_what_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
