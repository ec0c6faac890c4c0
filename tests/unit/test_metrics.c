/* test_metrics.c: what eval and compare print: shares of right answers, signal-to-noise ratios, times, how probable labels are, and
 * moments, against numbers worked out by hand. */
#include "report/metrics.h"
#include "support/unit.h"

#include <math.h>

static void near(double got, double want) {
    if (!(fabs(got - want) <= 1e-6 * (1 + fabs(want)))) fail_msg("%.9g, not %.9g", got, want);
}

enum { CLASSES = 7 };

/* Scores whose best class is `answer`, and whose next ones are 0, 1, 2 … */
static void answers(float *scores, int answer) {
    for (int i = 0; i < CLASSES; i++) scores[i] = i == answer ? 9 : (float)-i;
}

static void shares_of_right_answers(void **state) {
    (void)state;
    static const int answer[] = {0, 0, 0, 1, 2, 2}, other[] = {0, 0, 1, 1, 2, 5};
    static const int64_t labels[] = {0, 0, 1, 1, 2, 6};
    float scores[6 * CLASSES], reference[6 * CLASSES];
    nw_context ctx;
    nw_score score;
    nw_sheet *sheet;
    nw_context_init(&ctx, NULL);
    nw_score_init(&score, &ctx);
    for (int i = 0; i < 6; i++) {
        answers(scores + i * CLASSES, answer[i]);
        answers(reference + i * CLASSES, other[i]);
    }
    assert_ok(&ctx, nw_score_add(&score, 2, CLASSES, scores, labels, reference));
    assert_ok(&ctx,
              nw_score_add(&score, 4, CLASSES, scores + 2 * CLASSES, labels + 2, reference + 2 * CLASSES));
    assert_ok(&ctx, nw_sheet_new(&ctx, &sheet));
    nw_score_write(&score, &sheet->root);
    near(nw_sheet_number(sheet, "top1"), 4.0 / 6);
    near(nw_sheet_number(sheet, "top5"), 5.0 / 6); /* class 6 has the smallest score */
    /* Classes 0, 1, 2, 6: answered 3, 1, 2, 0 times, asked for 2, 2, 1, 1 times, right 2, 1, 1, 0 times. */
    near(nw_sheet_number(sheet, "precision_macro"), (2.0 / 3 + 1 + 0.5 + 0) / 4);
    near(nw_sheet_number(sheet, "recall_macro"), (1 + 0.5 + 1 + 0) / 4);
    near(nw_sheet_number(sheet, "f1_macro"), (4.0 / 5 + 2.0 / 3 + 2.0 / 3 + 0) / 4);
    near(nw_sheet_number(sheet, "agreement"), 4.0 / 6);
    nw_sheet_free(sheet);

    const int64_t beyond[] = {CLASSES}, negative[] = {-1};
    assert_fails(&ctx, NW_E_DATA, "label 7", nw_score_add(&score, 1, CLASSES, scores, beyond, NULL));
    assert_fails(&ctx, NW_E_DATA, "label -1", nw_score_add(&score, 1, CLASSES, scores, negative, NULL));
    nw_score_free(&score);
}

static void signal_to_noise(void **state) {
    (void)state;
    const float x[] = {3, 4, INFINITY, NAN}, y[] = {3, 4.5f, INFINITY, NAN}, z[] = {3, 4, 1, NAN};
    nw_noise noise = {0}, exact = {0}, broken = {0};
    nw_noise_add(&noise, x, y, 1);
    nw_noise_add(&noise, x + 1, y + 1, 3); /* what is not finite in both is the same */
    near(nw_noise_db(&noise), 20);         /* 25 to 0.25 */
    nw_noise_add(&exact, x, x, 4);
    near(nw_noise_db(&exact), NW_DB_EXACT);
    nw_noise_add(&broken, x, z, 4);
    near(nw_noise_db(&broken), -NW_DB_EXACT);
    assert_true(isnan(nw_noise_db(&(nw_noise){0})));
}

static void times(void **state) {
    (void)state;
    double odd[] = {5, 1, 3}, many[20];
    for (int i = 0; i < 20; i++) many[i] = (i * 7 % 20) + 1; /* 1 … 20 in some order */
    const nw_latency few = nw_latency_of(odd, 3), all = nw_latency_of(many, 20);
    near(few.median, 3);
    near(few.p90, 5);
    near(few.least, 1);
    near(all.median, 10.5);
    near(all.p90, 18); /* nine tenths took no longer */
    near(all.least, 1);
    assert_int_equal(all.runs, 20);
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
        cmocka_unit_test(shares_of_right_answers),
        cmocka_unit_test(signal_to_noise),
        cmocka_unit_test(times),
        cmocka_unit_test(perplexity_is_of_labels),
        cmocka_unit_test(moments_leave_out_what_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
