/* observe.c: the streaming side of observers: moments and histogram of everything seen, and their merging. */
#include "quant/observe.h"

#include <math.h>
#include <string.h>

#define BINS           NW_OBSERVER_BINS
#define SIDES          (2 * BINS)
#define BLOCK          2048         /* elements scanned and binned while they are in the first cache */
#define FLUSH          (32 * BLOCK) /* elements after which tables are added up: a quarter of them fits in 16 bits */
#define TABLES         4      /* neighbours go to different tables: equal values do not wait for each other */
#define LEAST_EXPONENT (-100) /* smaller values count as bin 0: 1/w stays a normal float */

static const struct {
    const char *name, *help;
    bool bins;
    nw_observer_range_fn *range;
} kinds[NW_OBSERVER_COUNT] = {
#define NW_OBSERVER(id, name, file, bins, help) {name, help, bins, nw_range_##file},
#include "quant/observers.def"
#undef NW_OBSERVER
};

static bool known(nw_observer_kind kind) {
    return (unsigned)kind < NW_OBSERVER_COUNT;
}

const char *nw_observer_name(nw_observer_kind kind) {
    return known(kind) ? kinds[kind].name : "?";
}
const char *nw_observer_help(nw_observer_kind kind) {
    return known(kind) ? kinds[kind].help : "";
}

bool nw_observer_by_name(const char *name, nw_observer_kind *out) {
    for (int i = 0; i < NW_OBSERVER_COUNT; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            *out = (nw_observer_kind)i;
            return true;
        }
    return false;
}

nw_observer_options nw_observer_options_default(void) {
    return (nw_observer_options){
        .kind = NW_OBSERVER_MINMAX, .momentum = 0.9, .percentile = 99.999, .sigmas = 4};
}

nw_status nw_observer_options_check(nw_context *ctx, const nw_observer_options *o) {
    if (!known(o->kind)) return nw_fail(ctx, NW_E_ARGUMENT, "unknown observer number %d", (int)o->kind);
    if (o->kind == NW_OBSERVER_MOVING && !(o->momentum >= 0 && o->momentum < 1))
        return nw_fail(ctx, NW_E_ARGUMENT, "momentum %g: expected at least 0 and below 1", o->momentum);
    if (o->kind == NW_OBSERVER_PERCENTILE && !(o->percentile > 50 && o->percentile <= 100))
        return nw_fail(ctx, NW_E_ARGUMENT, "percentile %g: expected above 50 and at most 100", o->percentile);
    if (o->kind == NW_OBSERVER_SIGMA && !(o->sigmas > 0 && isfinite(o->sigmas)))
        return nw_fail(ctx, NW_E_ARGUMENT, "%g standard deviations: expected more than 0", o->sigmas);
    if (o->kind == NW_OBSERVER_ABSOLUTE && !(isfinite(o->lo) && isfinite(o->hi) && o->lo < o->hi))
        return nw_fail(ctx, NW_E_ARGUMENT, "range %g … %g: expected two numbers, the smaller one first",
                       (double)o->lo, (double)o->hi);
    return NW_OK;
}

nw_status nw_observer_init(nw_context *ctx, nw_observer *o, const nw_observer_options *options) {
    NW_TRY(nw_observer_options_check(ctx, options));
    *o = (nw_observer){
        .ctx = ctx, .options = *options, .min = INFINITY, .max = -INFINITY, .exponent = LEAST_EXPONENT};
    if (kinds[options->kind].bins && !(o->bins = nw_calloc(ctx, SIDES, sizeof *o->bins))) return NW_E_MEMORY;
    return NW_OK;
}

void nw_observer_free(nw_observer *o) {
    if (o->bins) nw_free(o->ctx, o->bins);
    o->bins = NULL;
}

/* ---- one block: extremes and moments ---------------------------------------------------------- */

#define LANES 4 /* what every compiler keeps in one register, whatever the target */
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

/* Floats as integers of the same order: −inf < −1 < −0 < 0 < 1 < inf, NaN outside the infinities. An
 * involution. */
static int32_t ordered(int32_t bits) {
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

static int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

typedef struct scan {
    int32_t lo, hi; /* ordered */
    uint64_t zeros[2];
    double sum, squares; /* of x − pivot */
    float pivot;
} scan;

static void scan_one(scan *s, float x) {
    int32_t bits = bits_of(x), key = ordered(bits);
    s->lo = key < s->lo ? key : s->lo;
    s->hi = key > s->hi ? key : s->hi;
    if (x == 0) s->zeros[bits < 0]++;
    double d = (double)x - (double)s->pivot;
    s->sum += d;
    s->squares += d * d;
}

static scan empty_scan(float pivot) {
    return (scan){.lo = INT32_MAX, .hi = INT32_MIN, .pivot = pivot};
}

/* Sums run in f32, a lane of at most BLOCK/LANES terms each, around a pivot from the data: no cancellation.
 */
static scan scan_block(const float *x, size_t count) {
    scan s = empty_scan(x[0]);
    ints lo = (ints){0} + INT32_MAX, hi = (ints){0} + INT32_MIN, plus = {0}, minus = {0};
    floats sum = {0}, squares = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        ints bits, key, less, more;
        floats v;
        memcpy(&bits, x + i, sizeof bits);
        memcpy(&v, x + i, sizeof v);
        key = bits ^ ((bits >> 31) & 0x7fffffff);
        less = key < lo;
        more = key > hi;
        lo = (key & less) | (lo & ~less);
        hi = (key & more) | (hi & ~more);
        plus -= bits == 0;
        minus -= bits == INT32_MIN;
        v -= s.pivot;
        sum += v;
        squares += v * v;
    }
    for (int l = 0; i >= LANES && l < LANES; l++) {
        s.lo = lo[l] < s.lo ? lo[l] : s.lo;
        s.hi = hi[l] > s.hi ? hi[l] : s.hi;
        s.zeros[0] += (uint64_t)plus[l];
        s.zeros[1] += (uint64_t)minus[l];
        s.sum += (double)sum[l];
        s.squares += (double)squares[l];
    }
    for (; i < count; i++) scan_one(&s, x[i]);
    if (isfinite(s.squares)) return s;
    s = empty_scan(x[0]); /* squares beyond f32, as of a mask of −3e38 */
    for (i = 0; i < count; i++) scan_one(&s, x[i]);
    return s;
}

/* Two sets of moments become one (Chan, Golub, LeVeque 1979). */
static void merge_moments(nw_observer *o, uint64_t count, double mean, double m2) {
    double n = (double)(o->count + count), delta = mean - o->mean;
    o->m2 += m2 + delta * delta * (double)o->count * ((double)count / n);
    o->mean += delta * ((double)count / n);
    o->count += count;
}

/* ---- histogram -------------------------------------------------------------------------------- */

static void merge_bins(uint64_t *bins, int shift) {
    for (int side = 0; side < 2; side++, bins += BINS)
        for (int i = 0; i < BINS; i++) {
            uint64_t n = bins[i];
            bins[i] = 0;
            bins[shift < 31 ? i >> shift : 0] += n;
        }
}

/* The range grows to hold magnitudes below 2^exponent. */
static void widen(nw_observer *o, int exponent) {
    if (exponent <= o->exponent) return;
    if (o->count) merge_bins(o->bins, exponent - o->exponent);
    o->exponent = exponent;
}

static int exponent_of(float lo, float hi) {
    int e;
    frexpf(fmaxf(fabsf(lo), fabsf(hi)), &e); /* magnitude = m·2^e, m < 1 */
    return e > LEAST_EXPONENT ? e : LEAST_EXPONENT;
}

typedef uint16_t tables[TABLES][SIDES];

static void flush(nw_observer *o, tables t) {
    for (int i = 0; i < SIDES; i++) o->bins[i] += (uint64_t)t[0][i] + t[1][i] + t[2][i] + t[3][i];
    memset(t, 0, sizeof(tables));
}

static int bin_of(float x, float inverse) {
    return (int)(fabsf(x) * inverse) + (bits_of(x) < 0 ? BINS : 0);
}

/* Few values go straight to the histogram: emptying the tables would take longer. */
static void count_few(nw_observer *o, const float *x, size_t count) {
    float inverse = ldexpf(BINS, -o->exponent); /* 1/w, exact */
    for (size_t i = 0; i < count; i++) o->bins[bin_of(x[i], inverse)]++;
}

static void count_block(const nw_observer *o, const float *x, size_t count, tables t) {
    float inverse = ldexpf(BINS, -o->exponent);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        ints bits, magnitude, at;
        floats v;
        memcpy(&bits, x + i, sizeof bits);
        magnitude = bits & 0x7fffffff;
        memcpy(&v, &magnitude, sizeof v);
        at = __builtin_convertvector(v * inverse, ints) + ((bits >> 31) & BINS);
        for (int l = 0; l < LANES; l++) t[l % TABLES][at[l]]++;
    }
    for (; i < count; i++) t[0][bin_of(x[i], inverse)]++;
}

/* ---- observing -------------------------------------------------------------------------------- */

/* What a call has seen so far. */
typedef struct batch {
    float min, max;
    size_t pending; /* elements in the tables */
    bool few;       /* no use for tables */
} batch;

static void observe_block(nw_observer *o, const float *x, size_t count, tables t, batch *b) {
    float kept[BLOCK];
    scan s = scan_block(x, count);
    if (s.lo <= ordered(bits_of(-INFINITY)) || s.hi >= bits_of(INFINITY)) {
        size_t n = 0;
        for (size_t i = 0; i < count; i++)
            if (isfinite(x[i])) kept[n++] = x[i];
        o->rejected += count - n;
        if (n == 0) return;
        x = kept;
        count = n;
        s = scan_block(x, count);
    }
    float lo = float_of(ordered(s.lo)), hi = float_of(ordered(s.hi));
    b->min = lo < b->min ? lo : b->min;
    b->max = hi > b->max ? hi : b->max;
    if (o->bins) {
        int exponent = exponent_of(lo, hi);
        if (exponent > o->exponent || b->pending + count > FLUSH) {
            if (b->pending) flush(o, t);
            b->pending = 0;
            widen(o, exponent);
        }
        if (b->few) {
            count_few(o, x, count);
        } else {
            count_block(o, x, count, t);
            b->pending += count;
        }
    }
    o->zeros[0] += s.zeros[0];
    o->zeros[1] += s.zeros[1];
    double mean = s.sum / (double)count;
    merge_moments(o, count, (double)s.pivot + mean, fmax(s.squares - s.sum * mean, 0));
}

void nw_observe(nw_observer *o, const float *x, size_t count) {
    tables t;
    batch b = {INFINITY, -INFINITY, 0, count < 2 * SIDES};
    if (o->bins && !b.few) memset(t, 0, sizeof t);
    for (size_t i = 0; i < count; i += BLOCK)
        observe_block(o, x + i, count - i < BLOCK ? count - i : BLOCK, t, &b);
    if (b.min > b.max) return; /* nothing finite */
    if (b.pending) flush(o, t);
    o->min = fminf(o->min, b.min);
    o->max = fmaxf(o->max, b.max);
    double keep = o->batches ? o->options.momentum : 0;
    o->average_min = keep * o->average_min + (1 - keep) * (double)b.min;
    o->average_max = keep * o->average_max + (1 - keep) * (double)b.max;
    o->batches++;
}

void nw_observer_merge(nw_observer *into, const nw_observer *from) {
    into->rejected += from->rejected;
    if (from->count == 0) return;
    if (into->bins && from->bins) {
        widen(into, from->exponent);
        int shift = into->exponent - from->exponent;
        for (int i = 0; i < BINS; i++) {
            int at = shift < 31 ? i >> shift : 0;
            into->bins[at] += from->bins[i];
            into->bins[BINS + at] += from->bins[BINS + i];
        }
    }
    double share = (double)from->batches / (double)(into->batches + from->batches);
    into->average_min += share * (from->average_min - into->average_min);
    into->average_max += share * (from->average_max - into->average_max);
    into->batches += from->batches;
    into->zeros[0] += from->zeros[0];
    into->zeros[1] += from->zeros[1];
    into->min = fminf(into->min, from->min);
    into->max = fmaxf(into->max, from->max);
    merge_moments(into, from->count, from->mean, from->m2);
}

/* ---- asking ----------------------------------------------------------------------------------- */

nw_status nw_observer_range(const nw_observer *o, const nw_codes *grid, float *lo, float *hi) {
    float low = 0, high = 0;
    if (o->count || o->options.kind == NW_OBSERVER_ABSOLUTE) {
        nw_profile *profile = NULL;
        if (o->bins) {
            if (!(profile = nw_alloc(o->ctx, sizeof *profile))) return NW_E_MEMORY;
            nw_profile_of(o, profile);
        }
        kinds[o->options.kind].range(o, profile, grid, &low, &high);
        if (profile) nw_free(o->ctx, profile);
    }
    low = low < 0 ? low : 0;
    high = high > 0 ? high : 0;
    if (grid->symmetric) {
        high = fmaxf(-low, high);
        low = grid->qmin < 0 ? -high : 0;
    }
    *lo = low;
    *hi = high;
    return NW_OK;
}

nw_status nw_observer_outside(const nw_observer *o, float lo, float hi, double *share) {
    *share = -1;
    if (o->count && o->min >= lo && o->max <= hi) *share = 0;
    if (*share == 0 || o->count == 0 || !o->bins) return NW_OK;
    nw_profile *profile = nw_alloc(o->ctx, sizeof *profile);
    if (!profile) return NW_E_MEMORY;
    nw_profile_of(o, profile);
    double inside = nw_profile_below(profile, (double)hi) - nw_profile_below(profile, (double)lo);
    *share = 1 - (inside + (lo <= 0 && hi >= 0 ? profile->zeros : 0)) / (double)o->count;
    if (*share < 0) *share = 0;
    nw_free(o->ctx, profile);
    return NW_OK;
}

nw_status nw_observer_sqnr(const nw_observer *o, const nw_codes *grid, float scale, int32_t zero,
                           double *decibels) {
    double signal = o->m2 + (double)o->count * o->mean * o->mean;
    double noise = (double)(o->count - o->zeros[0] - o->zeros[1]) * (double)scale * (double)scale / 12;
    if (o->bins) {
        nw_profile *profile = nw_alloc(o->ctx, sizeof *profile);
        if (!profile) return NW_E_MEMORY;
        nw_profile_of(o, profile);
        noise = nw_profile_error(profile, grid, scale, zero);
        nw_free(o->ctx, profile);
    }
    *decibels = noise > 0 && signal > 0 ? 10 * log10(signal / noise) : INFINITY;
    return NW_OK;
}
