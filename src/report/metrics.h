/* metrics.h: how good answers are: class scores against labels and against a reference model, signal-to-noise
 * ratios, and how long runs take. Streaming: memory does not grow with the number of samples. Must not
 * include anything but base/ and report/. */
#ifndef NW_REPORT_METRICS_H
#define NW_REPORT_METRICS_H

#include "report/sheet.h"

/* Σx² and Σ(x − x')² of everything added. */
typedef struct nw_noise {
    double signal, noise;
    uint64_t count;
    uint64_t broken; /* pairs that differ where one is NaN or infinite: not in the sums */
} nw_noise;

void nw_noise_add(nw_noise *n, const float *reference, const float *x, size_t count);
/* 10·log10(signal/noise) dB; NW_DB_EXACT when nothing differs, −NW_DB_EXACT when something is broken, NaN
 * when empty. */
double nw_noise_db(const nw_noise *n);

/* Extremes and sums of everything added; infinities and NaN are counted, and in none of them. Start from zeros. */
typedef struct nw_moments {
    double min, max, sum, squares; /* 0 before the first */
    uint64_t count, broken;
} nw_moments;

void nw_moments_add(nw_moments *m, size_t count, const float *x);
double nw_moments_mean(const nw_moments *m); /* 0 when empty, as the next */
double nw_moments_std(const nw_moments *m);  /* of the numbers themselves: divided by count */

typedef struct nw_class_count {
    uint64_t labelled, answered, right; /* samples of this class; answers that name it; both */
} nw_class_count;

/* What became of the samples of one model. */
typedef struct nw_score {
    nw_context *ctx;
    uint64_t rows;     /* answers judged */
    uint64_t labelled; /* of them with a label */
    uint64_t top1, top5;
    uint64_t compared, agreed; /* with the reference's answers */
    size_t classes;
    nw_class_count *per_class; /* [classes], heap */
    uint64_t tokens;           /* answers of a sequence, of which perplexity is */
    double surprise;           /* Σ −ln p(label) over them */
} nw_score;

void nw_score_init(nw_score *score, nw_context *ctx);
void nw_score_free(nw_score *score);

/* Index of the largest of `count` scores, the first of equals; NaN is never the largest. 0 when all are NaN.
 */
size_t nw_best(const float *scores, size_t count);

/* rows answers of `classes` scores each, [rows, classes]. labels [rows] or NULL; a label outside 0 …
 * classes−1 fails with NW_E_DATA. reference: scores of the model compared with, [rows, classes], or NULL. */
nw_status nw_score_add(nw_score *score, size_t rows, size_t classes, const float *scores,
                       const int64_t *labels, const float *reference);

/* Of sequences, after nw_score_add of the same: how improbable each label was. scores are taken for probabilities where they are
 * not negative and add up to 1, else p = softmax(scores). */
void nw_score_add_tokens(nw_score *score, size_t rows, size_t classes, const float *scores, const int64_t *labels);

/* Writes perplexity = exp(Σ −ln p(label) / tokens) and cross_entropy (sequences only), top1, top5, precision_macro, recall_macro, f1_macro (labelled data only) and agreement (when
 * compared): keys and definitions in docs/json.md. Macro averages are over classes that occur among labels or
 * answers, with 0 for 0/0. */
void nw_score_write(const nw_score *score, nw_record *record);

/* Times of single runs, in milliseconds. */
typedef struct nw_latency {
    double median, p90, least;
    size_t runs;
} nw_latency;

/* Sorts ms[count]; count ≥ 1. p90 is the nearest rank: the smallest time that 90 % of the runs do not exceed.
 */
nw_latency nw_latency_of(double *ms, size_t count);
double nw_now_ms(void); /* a monotonic clock */

#endif
