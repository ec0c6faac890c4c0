#include "report/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void nw_noise_add(nw_noise *n, const float *reference, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double r = reference[i], d = r - x[i];
        if (isfinite(r) && isfinite(d)) {
            n->signal += r * r;
            n->noise += d * d;
        } else if (!(reference[i] == x[i] || (isnan(reference[i]) && isnan(x[i])))) {
            n->broken++;
        }
    }
    n->count += count;
}

double nw_noise_db(const nw_noise *n) {
    if (n->count == 0) return NAN;
    if (n->broken) return -NW_DB_EXACT;
    if (n->noise == 0) return NW_DB_EXACT;
    if (n->signal == 0) return -NW_DB_EXACT;
    return fmin(10 * log10(n->signal / n->noise), NW_DB_EXACT);
}

void nw_moments_add(nw_moments *m, size_t count, const float *x) {
    for (size_t i = 0; i < count; i++) {
        double v = (double)x[i];
        if (!isfinite(v)) {
            m->broken++;
            continue;
        }
        if (!m->count || v < m->min) m->min = v;
        if (!m->count || v > m->max) m->max = v;
        m->sum += v;
        m->squares += v * v;
        m->count++;
    }
}

double nw_moments_mean(const nw_moments *m) {
    return m->count ? m->sum / (double)m->count : 0;
}

double nw_moments_std(const nw_moments *m) {
    double mean = nw_moments_mean(m);
    return m->count ? sqrt(fmax(m->squares / (double)m->count - mean * mean, 0)) : 0;
}

void nw_score_init(nw_score *score, nw_context *ctx) {
    *score = (nw_score){.ctx = ctx};
}

void nw_score_free(nw_score *score) {
    if (score->ctx) nw_free(score->ctx, score->per_class);
    score->per_class = NULL;
}

size_t nw_best(const float *scores, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (scores[i] > scores[best] || isnan(scores[best])) best = i;
    return best;
}

/* How many of the scores come before `label`'s; of equals the first does. */
static size_t place_of(const float *scores, size_t count, size_t label) {
    size_t before = 0;
    float own = scores[label];
    if (isnan(own)) return count;
    for (size_t i = 0; i < count; i++) before += scores[i] > own || (scores[i] == own && i < label);
    return before;
}

nw_status nw_score_add(nw_score *score, size_t rows, size_t classes, const float *scores,
                       const int64_t *labels, const float *reference) {
    if (classes == 0) return nw_fail(score->ctx, NW_E_SHAPE, "the output has no classes");
    if (!score->per_class) {
        score->per_class = nw_calloc(score->ctx, classes, sizeof *score->per_class);
        if (!score->per_class) return NW_E_MEMORY;
        score->classes = classes;
    }
    if (classes != score->classes)
        return nw_fail(score->ctx, NW_E_SHAPE, "the number of classes changes from %zu to %zu",
                       score->classes, classes);
    for (size_t r = 0; r < rows; r++, scores += classes) {
        size_t answer = nw_best(scores, classes);
        score->rows++;
        if (reference) {
            score->compared++;
            score->agreed += answer == nw_best(reference + r * classes, classes);
        }
        if (!labels) continue;
        if (labels[r] < 0 || (uint64_t)labels[r] >= classes)
            return nw_fail(
                score->ctx, NW_E_DATA,
                "a sample has label %lld, but the model knows classes 0 … %zu: these are not this model's "
                "labels, or --output should name another output",
                (long long)labels[r], classes - 1);
        size_t label = (size_t)labels[r];
        bool right = answer == label && !isnan(scores[answer]);
        score->labelled++;
        score->top1 += right;
        score->top5 += place_of(scores, classes, label) < 5;
        score->per_class[label].labelled++;
        score->per_class[answer].answered++;
        score->per_class[label].right += right;
    }
    return NW_OK;
}

/* −ln p(label) */
static double surprise_of(const float *scores, size_t classes, size_t label) {
    double most = -INFINITY, least = INFINITY, sum = 0, exponentials = 0;
    for (size_t i = 0; i < classes; i++) {
        most = fmax(most, (double)scores[i]);
        least = fmin(least, (double)scores[i]);
        sum += (double)scores[i];
    }
    if (least >= 0 && fabs(sum - 1) < 1e-3) return -log((double)scores[label]);
    for (size_t i = 0; i < classes; i++) exponentials += exp((double)scores[i] - most);
    return log(exponentials) + most - (double)scores[label];
}

void nw_score_add_tokens(nw_score *score, size_t rows, size_t classes, const float *scores,
                         const int64_t *labels) {
    for (size_t r = 0; r < rows; r++)
        score->surprise += surprise_of(scores + r * classes, classes, (size_t)labels[r]);
    score->tokens += rows;
}

static double share(uint64_t part, uint64_t whole) {
    return whole ? (double)part / (double)whole : 0;
}

void nw_score_write(const nw_score *score, nw_record *record) {
    if (score->tokens) {
        double each = score->surprise / (double)score->tokens;
        nw_record_number(record, "perplexity", "perplexity", NW_UNIT_NUMBER, exp(each));
        nw_record_number(record, "cross_entropy", NULL, NW_UNIT_NUMBER, each);
    }
    if (score->labelled) {
        double precision = 0, recall = 0, f1 = 0;
        uint64_t seen = 0;
        for (size_t c = 0; c < score->classes; c++) {
            const nw_class_count *k = &score->per_class[c];
            if (k->labelled + k->answered == 0) continue;
            seen++;
            precision += share(k->right, k->answered);
            recall += share(k->right, k->labelled);
            f1 += share(2 * k->right, k->labelled + k->answered); /* 2pr/(p+r) */
        }
        nw_record_number(record, "top1", "top-1", NW_UNIT_SHARE, share(score->top1, score->labelled));
        if (score->classes > 5)
            nw_record_number(record, "top5", "top-5", NW_UNIT_SHARE, share(score->top5, score->labelled));
        else
            nw_record_number(record, "top5", NULL, NW_UNIT_SHARE, NAN);
        nw_record_number(record, "precision_macro", "precision (macro)", NW_UNIT_SHARE,
                         precision / (double)seen);
        nw_record_number(record, "recall_macro", "recall (macro)", NW_UNIT_SHARE, recall / (double)seen);
        nw_record_number(record, "f1_macro", "F1 (macro)", NW_UNIT_SHARE, f1 / (double)seen);
    }
    if (score->compared)
        nw_record_number(record, "agreement", "agreement", NW_UNIT_SHARE,
                         share(score->agreed, score->compared));
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

nw_latency nw_latency_of(double *ms, size_t count) {
    qsort(ms, count, sizeof *ms, ascending);
    double median = count % 2 ? ms[count / 2] : (ms[count / 2 - 1] + ms[count / 2]) / 2;
    size_t rank = (count * 9 + 9) / 10;
    return (nw_latency){median, ms[rank - 1], ms[0], count};
}

double nw_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}
