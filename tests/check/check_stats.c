/* check_stats.c: statistics of tensors against naive loops. Must not include anything but kern/. */
#include "check.h"
#include "kern/stats.h"

#include <math.h>
#include <string.h>

#define SIDES (2 * NW_TALLY_BINS)

static const size_t tests[] = {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 64, 100, 2047, 2048, 5000};
static const size_t benches[] = {2048, 65536};
static const size_t column_tests[][2] = {{1, 1},  {5, 3},   {3, 16},  {2, 17},  {9, 63},
                                         {4, 64}, {7, 129}, {50, 20}, {0, 100}, {2, 600}};
static const size_t column_benches[][2] = {{3136, 64}, {196, 256}, {49, 2048}, {50176, 3}};

/* What activations look like. */
enum { NORMAL, RELU, CONSTANT, ZERO, STYLES };
static const char *const style_names[STYLES] = {"numbers", "half zeros", "one number", "zeros"};

static void fill(float *x, size_t n, int style) {
    check_fill_f32(x, n, -3, 3);
    float one = check_uniform(-2, 2);
    for (size_t i = 0; i < n; i++) {
        if (style == RELU && x[i] < 0) x[i] = check_below(8) ? 0.0f : -0.0f;
        if (style == CONSTANT) x[i] = one;
        if (style == ZERO) x[i] = check_below(2) ? 0.0f : -0.0f;
    }
}

static const float *numbers(size_t n, int style) {
    float *x = check_alloc(n * sizeof *x);
    fill(x, n, style);
    return x;
}

/* ---- scan ---------------------------------------------------------------------------------------------- */

typedef struct scanning {
    nw_scan_f32_fn *f;
    size_t n;
    const float *x;
    nw_scan scan;
} scanning;

static void run_scan(void *p) {
    scanning *c = p;
    c->f(c->n, c->x, &c->scan);
}

static void verify_scan(const scanning *c) {
    const nw_scan *s = &c->scan;
    float min = c->x[0], max = c->x[0], part[32] = {0}, squares[32] = {0};
    size_t zeros = 0;
    for (size_t i = 0; i < c->n; i++) {
        float d = c->x[i] - c->x[0];
        min = fminf(min, c->x[i]);
        max = fmaxf(max, c->x[i]);
        zeros += c->x[i] == 0;
        part[i % 32] += d;
        squares[i % 32] += d * d;
    }
    double sum = 0, all = 0;
    for (int j = 0; j < 32; j++) sum += (double)part[j], all += (double)squares[j];
    if (s->pivot != c->x[0]) check_fail("the pivot is %g", (double)s->pivot);
    if (s->min != min || s->max != max || signbit(s->min + 0.0f) != signbit(s->min))
        check_fail("from %g to %g, not %g to %g", (double)s->min, (double)s->max, (double)min, (double)max);
    if (s->zeros != zeros) check_fail("%zu zeros, not %zu", s->zeros, zeros);
    if (s->sum != sum || s->squares != all)
        check_fail("sums %.17g, %.17g, not %.17g, %.17g", s->sum, s->squares, sum, all);
}

/* Anything that is not finite shows in the squares, wherever it is. */
static void verify_alarm(scanning *c, float *x) {
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    size_t at = check_below(c->n);
    float kept = x[at];
    x[at] = bad[check_below(3)];
    run_scan(c);
    if (isfinite(c->scan.squares)) check_fail("%g at %zu went by unseen", (double)x[at], at);
    x[at] = kept;
}

static void scan(nw_isa isa, const char *name, nw_scan_f32_fn *f, size_t n, int style) {
    if (!check_begin(isa, name, "%zu %s", n, style_names[style])) return;
    float *x = check_alloc(n * sizeof *x);
    fill(x, n, style);
    scanning c = {.f = f, .n = n, .x = x};
    run_scan(&c);
    verify_scan(&c);
    verify_alarm(&c, x);
    if (check_opt.bench) check_report(check_seconds(run_scan, &c), (double)n, "G elements/s");
    check_end();
}

/* ---- tally --------------------------------------------------------------------------------------------- */

typedef struct tallying {
    nw_tally_f32_fn *f;
    nw_tally_move_fn *move;
    size_t n;
    const float *x;
    float inverse;
    nw_tally *tally;
    uint64_t *bins;
} tallying;

static void run_tally(void *p) {
    const tallying *c = p;
    c->f(c->n, c->x, c->inverse, c->tally);
}
static void run_move(void *p) {
    const tallying *c = p;
    c->move(c->tally, c->bins);
}

static void verify_tally(const tallying *c, const uint64_t *before) {
    uint64_t want[SIDES];
    memcpy(want, before, sizeof want);
    for (size_t i = 0; i < c->n; i++) {
        float x = c->x[i];
        if (x != 0) want[(int)(fabsf(x) * c->inverse) + (x < 0 ? NW_TALLY_BINS : 0)]++;
    }
    for (int i = 0; i < SIDES; i++)
        if (c->bins[i] != want[i])
            check_fail("bin %d counts %lu", i, (unsigned long)(c->bins[i] - before[i]));
}

static void tally(nw_isa isa, const char *name, nw_tally_f32_fn *f, nw_tally_move_fn *move, size_t n,
                  int style) {
    if (!check_begin(isa, name, "%zu %s", n, style_names[style])) return;
    static const float inverses[] = {512, 1, 256};
    tallying c = {.f = f, .move = move, .n = n, .x = numbers(n, style), .inverse = inverses[check_below(3)]};
    c.tally = check_alloc(sizeof *c.tally);
    c.bins = check_alloc(SIDES * sizeof *c.bins);
    uint64_t *before = check_alloc(SIDES * sizeof *before);
    memset(c.tally, 0, sizeof *c.tally);
    memcpy(before, c.bins, SIDES * sizeof *before);
    run_tally(&c);
    run_move(&c);
    verify_tally(&c, before);
    memcpy(before, c.bins, SIDES * sizeof *before);
    run_move(&c);
    if (memcmp(before, c.bins, SIDES * sizeof *before)) check_fail("counts stayed behind");
    if (check_opt.bench) check_report(check_seconds(run_tally, &c), (double)n, "G elements/s");
    check_end();
}

static void move(nw_isa isa, const char *name, nw_tally_move_fn *f) {
    if (!check_begin(isa, name, "%d", SIDES)) return;
    tallying c = {
        .move = f, .tally = check_alloc(sizeof *c.tally), .bins = check_alloc(SIDES * sizeof *c.bins)};
    uint64_t *want = check_alloc(SIDES * sizeof *want);
    for (int i = 0; i < SIDES; i++) {
        want[i] = c.bins[i];
        for (int t = 0; t < NW_TALLY_TABLES; t++) want[i] += c.tally->counts[t][i];
    }
    run_move(&c);
    if (memcmp(want, c.bins, SIDES * sizeof *want)) check_fail("wrong counts");
    if (check_opt.bench) check_report(check_seconds(run_move, &c), (double)SIDES, "G bins/s");
    check_end();
}

/* ---- columns ------------------------------------------------------------------------------------------- */

typedef struct columns {
    nw_column_sums_f32_fn *f;
    size_t rows, cols;
    const float *x;
    double *sums;
} columns;

static void run_columns(void *p) {
    const columns *c = p;
    c->f(c->rows, c->cols, c->x, c->sums);
}

static void column_sums(nw_isa isa, const char *name, nw_column_sums_f32_fn *f, const size_t *shape) {
    if (!check_begin(isa, name, "%zu x %zu", shape[0], shape[1])) return;
    columns c = {f, shape[0], shape[1], numbers(shape[0] * shape[1], NORMAL), NULL};
    c.sums = check_alloc(c.cols * sizeof *c.sums);
    double *want = check_alloc(c.cols * sizeof *want);
    for (size_t i = 0; i < c.cols; i++) want[i] = c.sums[i] = (double)check_uniform(-5, 5);
    for (size_t r = 0; r < c.rows; r++)
        for (size_t i = 0; i < c.cols; i++) want[i] += (double)c.x[r * c.cols + i];
    run_columns(&c);
    for (size_t i = 0; i < c.cols; i++)
        if (c.sums[i] != want[i]) check_fail("column %zu is %.17g, not %.17g", i, c.sums[i], want[i]);
    if (check_opt.bench)
        check_report(check_seconds(run_columns, &c), (double)(c.rows * c.cols), "G elements/s");
    check_end();
}

/* ---- all ----------------------------------------------------------------------------------------------- */

void check_stats(void) {
    const size_t *list = check_opt.bench ? benches : tests;
    size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    for (size_t i = 0; i < count; i++)
        for (int s = 0; s < STYLES; s++) {
#define NW_STATS(isa, word)                                                                                  \
    scan(NW_ISA_##isa, "scan_f32__" #word, nw_scan_f32__##word, list[i], s);                                 \
    tally(NW_ISA_##isa, "tally_f32__" #word, nw_tally_f32__##word, nw_tally_move__##word, list[i], s);
#include "kern/stats.def"
#undef NW_STATS
        }
#define NW_STATS(isa, word) move(NW_ISA_##isa, "tally_move__" #word, nw_tally_move__##word);
#include "kern/stats.def"
#undef NW_STATS
    count = check_opt.bench ? sizeof column_benches / sizeof *column_benches
                            : sizeof column_tests / sizeof *column_tests;
    for (size_t i = 0; i < count; i++) {
        const size_t *shape = check_opt.bench ? column_benches[i] : column_tests[i];
#define NW_STATS(isa, word)                                                                                  \
    column_sums(NW_ISA_##isa, "column_sums_f32__" #word, nw_column_sums_f32__##word, shape);
#include "kern/stats.def"
#undef NW_STATS
    }
}
