/* levels.c: tables of levels, and encoding with them. */
#include "num/levels.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- encoding and decoding --------------------------------------------------------------------------------- */

#define TILE 16 /* elements whose counts stay in registers */

/* Few levels: every threshold against a tile of elements. */
static void count_all(const nw_levels *l, const float *r, uint16_t *codes) {
    int32_t code[TILE] = {0};
    for (int t = 0; t < l->count - 1; t++) {
        float threshold = l->threshold[t];
        for (int i = 0; i < TILE; i++) code[i] += r[i] >= threshold;
    }
    for (int i = 0; i < TILE; i++) codes[i] = (uint16_t)code[i];
}

/* Halving without branches: `at` thresholds are known to be ≤ r, `left` are undecided. */
static uint16_t count_by_halves(const nw_levels *l, float r) {
    int at = 0;
    for (int left = l->count - 1; left > 0;) {
        int half = (left + 1) / 2;
        at += r >= l->threshold[at + half - 1] ? half : 0;
        left -= half;
    }
    return (uint16_t)at;
}

size_t nw_levels_encode(const nw_levels *l, size_t count, const float *r, uint16_t *codes) {
    float low = l->value[0], high = l->value[l->count - 1];
    float least = low - (l->threshold[0] - low), most = high + (high - l->threshold[l->count - 2]);
    size_t saturated = 0;
    for (size_t i = 0; i < count; i += TILE) {
        size_t n = count - i < TILE ? count - i : TILE;
        float tile[TILE];
        uint16_t code[TILE];
        int beyond = 0;
        memcpy(tile, r + i, n * sizeof *tile);
        for (size_t j = n; j < TILE; j++) tile[j] = low; /* never beyond */
        for (int j = 0; j < TILE; j++) {
            tile[j] = tile[j] == tile[j] ? tile[j] : 0;
            beyond += (tile[j] < least) + (tile[j] > most);
        }
        if (l->count <= 16)
            count_all(l, tile, code);
        else
            for (size_t j = 0; j < n; j++) code[j] = count_by_halves(l, tile[j]);
        memcpy(codes + i, code, n * sizeof *code);
        saturated += (size_t)beyond;
    }
    return saturated;
}

void nw_levels_decode(const nw_levels *l, size_t count, const int32_t *codes, float *r) {
    for (size_t i = 0; i < count; i++) r[i] = l->value[codes[i] < l->count ? codes[i] : l->count - 1];
}

/* ---- tables -------------------------------------------------------------------------------------------------- */

bool nw_levels_valid(const nw_levels *l) {
    if (l->count < 2 || l->count > 256) return false;
    for (int i = 0; i < l->count; i++) {
        if (!isfinite(l->value[i]) || (i > 0 && !(l->value[i - 1] <= l->value[i]))) return false;
        if (i == l->count - 1 || !l->threshold) continue;
        if (!isfinite(l->threshold[i]) || (i > 0 && !(l->threshold[i - 1] <= l->threshold[i]))) return false;
    }
    return true;
}

static nw_status take(nw_arena *arena, int count, float **value, float **threshold, nw_levels *out) {
    *value = nw_arena_array(arena, (size_t)count, sizeof **value);
    *threshold = nw_arena_array(arena, (size_t)count, sizeof **threshold);
    *out = (nw_levels){count, *value, *threshold};
    return *value && *threshold ? NW_OK : NW_E_MEMORY;
}

static void set_midpoints(const nw_levels *l, float *threshold) {
    for (int i = 0; i + 1 < l->count; i++) threshold[i] = l->value[i] / 2 + l->value[i + 1] / 2;
}

nw_status nw_levels_copy(nw_arena *arena, const nw_levels *levels, nw_levels *out) {
    const nw_levels from = *levels; /* out may be levels */
    float *value, *threshold;
    NW_TRY(take(arena, from.count, &value, &threshold, out));
    memcpy(value, from.value, (size_t)from.count * sizeof *value);
    if (from.threshold)
        memcpy(threshold, from.threshold, (size_t)(from.count - 1) * sizeof *threshold);
    else
        set_midpoints(out, threshold);
    return NW_OK;
}

nw_status nw_levels_binary(nw_arena *arena, nw_levels *out) {
    static const float value[] = {-1, 1};
    return nw_levels_copy(arena, &(nw_levels){2, value, NULL}, out);
}

bool nw_levels_are_signs(const nw_levels *l) {
    return l->count == 2 && l->value[0] == -1 && l->value[1] == 1;
}

nw_status nw_levels_nf4(nw_arena *arena, nw_levels *out) {
    static const float value[16] = {-1.0f,
                                    -0.6961928009986877f,
                                    -0.5250730514526367f,
                                    -0.39491748809814453f,
                                    -0.28444138169288635f,
                                    -0.18477343022823334f,
                                    -0.09105003625154495f,
                                    0.0f,
                                    0.07958029955625534f,
                                    0.16093020141124725f,
                                    0.24611230194568634f,
                                    0.33791524171829224f,
                                    0.44070982933044434f,
                                    0.5626170039176941f,
                                    0.7229568362236023f,
                                    1.0f};
    return nw_levels_copy(arena, &(nw_levels){16, value, NULL}, out);
}

/* A table that is its own mirror image: magnitude(j, data) of the levels j = 1 … n above 0, ascending, and of the thresholds
 * half a level below them (j − 1/2). */
typedef double magnitude_fn(double j, double n, double parameter);

static nw_status mirrored(nw_arena *arena, int count, magnitude_fn *magnitude, double parameter,
                          nw_levels *out) {
    float *value, *threshold;
    int n = count / 2;
    NW_TRY(take(arena, count, &value, &threshold, out));
    for (int j = 1; j <= n; j++) {
        value[n + j] = (float)magnitude(j, n, parameter);
        value[n - j] = -value[n + j];
        threshold[n + j - 1] = (float)magnitude(j - 0.5, n, parameter);
        threshold[n - j] = -threshold[n + j - 1];
    }
    return NW_OK;
}

static double log_magnitude(double j, double n, double steps) {
    return exp2((j - n) / steps);
}
static double square(double j, double n, double unused) {
    (void)unused;
    return j / n * (j / n);
}

nw_status nw_levels_log(nw_arena *arena, int count, int steps, nw_levels *out) {
    return mirrored(arena, count, log_magnitude, steps, out);
}
nw_status nw_levels_sqrt(nw_arena *arena, int count, nw_levels *out) {
    return mirrored(arena, count, square, 0, out);
}

/* ---- codebook ------------------------------------------------------------------------------------------------ */

/* Running sums over the points: a cluster of points [i, j) costs Σ w·r² − gain, gain = (Σ w·r)²/Σ w. */
typedef struct clustering {
    const double *weight, *sum; /* [points + 1] of all points before */
    const double *before;       /* [points + 1] largest gain of the first j points in one cluster less */
    double *best;
    uint16_t *start; /* [points + 1] where the last cluster begins then */
} clustering;

static double gain(const clustering *c, size_t i, size_t j) {
    double sum = c->sum[j] - c->sum[i];
    return sum * sum / (c->weight[j] - c->weight[i]);
}

/* best and start for j in [lo, hi), whose last clusters begin in [from, to]: the start for the middle one bounds those
 * on both sides. `least` points are before, one for each cluster. */
static void improve(const clustering *c, size_t lo, size_t hi, size_t from, size_t to) {
    if (lo >= hi) return;
    size_t j = lo + (hi - lo) / 2, last = to < j - 1 ? to : j - 1, start = from;
    double best = -INFINITY;
    for (size_t i = from; i <= last; i++) {
        double total = c->before[i] + gain(c, i, j);
        if (total > best) {
            best = total;
            start = i;
        }
    }
    c->best[j] = best;
    c->start[j] = (uint16_t)start;
    improve(c, lo, j, from, start);
    improve(c, j + 1, hi, start, to);
}

static nw_status cluster(nw_arena *arena, nw_arena *scratch, size_t n, const nw_point *point, int count,
                         nw_levels *out) {
    float *value, *threshold;
    if ((size_t)count > n) count = n < 2 ? 2 : (int)n;
    NW_TRY(take(arena, count, &value, &threshold, out));
    if (n < 2) { /* nothing to choose from */
        value[0] = n ? (float)(point[0].sum / point[0].weight) : 0;
        value[1] = value[0] + 1;
        set_midpoints(out, threshold);
        return NW_OK;
    }
    double *weight = nw_arena_array(scratch, n + 1, sizeof *weight);
    double *sum = nw_arena_array(scratch, n + 1, sizeof *sum);
    double *before = nw_arena_array(scratch, n + 1, sizeof *before);
    double *best = nw_arena_array(scratch, n + 1, sizeof *best);
    uint16_t *start = nw_arena_array(scratch, (n + 1) * (size_t)count, sizeof *start);
    if (!weight || !sum || !before || !best || !start) return NW_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        weight[i + 1] = weight[i] + point[i].weight;
        sum[i + 1] = sum[i] + point[i].sum;
    }
    clustering c = {.weight = weight, .sum = sum};
    for (size_t j = 1; j <= n; j++) best[j] = gain(&c, 0, j);
    for (int k = 1; k < count; k++) {
        double *swap = before;
        before = best;
        best = swap;
        c.before = before;
        c.best = best;
        c.start = start + (size_t)k * (n + 1);
        improve(&c, (size_t)k + 1, n + 1, (size_t)k, n);
    }
    size_t end = n;
    for (int k = count - 1; k >= 0; k--) {
        size_t first = k ? start[(size_t)k * (n + 1) + end] : 0;
        value[k] = (float)((sum[end] - sum[first]) / (weight[end] - weight[first]));
        end = first;
    }
    set_midpoints(out, threshold);
    return NW_OK;
}

nw_status nw_levels_codebook(nw_arena *arena, size_t points, const nw_point *point, int count,
                             nw_levels *out) {
    nw_arena scratch;
    if (points > UINT16_MAX)
        return nw_fail(arena->ctx, NW_E_ARGUMENT, "a codebook of more than 65535 points");
    nw_arena_init(&scratch, arena->ctx);
    nw_status status = cluster(arena, &scratch, points, point, count, out);
    nw_arena_free(&scratch);
    return status;
}
