/* observe.c: the streaming side of observers: moments and histogram of everything seen, and their merging. */
#include "quant/observe.h"

#include <math.h>
#include <string.h>

#define BINS           NW_OBSERVER_BINS
#define SIDES          (2 * BINS)
#define BLOCK          2048         /* elements scanned and counted while they are in the first cache */
#define FLUSH          (32 * BLOCK) /* elements after which a tally is emptied: its counts have 16 bits */
#define LEAST_EXPONENT (-100)       /* smaller values count as bin 0: 1/w stays a normal float */

_Static_assert(BINS == NW_TALLY_BINS, "the kernels count in the observers' bins");

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
    return (nw_observer_options){.kind = NW_OBSERVER_MINMAX,
                                 .momentum = 0.9,
                                 .percentile = 99.999,
                                 .sigmas = 4,
                                 .isa = nw_isa_detect()};
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

/* Nothing seen, and no histogram yet. */
static nw_observer empty(nw_context *ctx, const nw_observer_options *options) {
    nw_observer o = {
        .ctx = ctx, .options = *options, .min = INFINITY, .max = -INFINITY, .exponent = LEAST_EXPONENT};
    nw_stats_select(options->isa, &o.stats);
    return o;
}

nw_status nw_observer_init(nw_context *ctx, nw_observer *o, const nw_observer_options *options) {
    NW_TRY(nw_observer_options_check(ctx, options));
    *o = empty(ctx, options);
    if (kinds[options->kind].bins && !(o->bins = nw_calloc(ctx, SIDES, sizeof *o->bins))) return NW_E_MEMORY;
    return NW_OK;
}

void nw_observer_free(nw_observer *o) {
    if (o->bins) nw_free(o->ctx, o->bins);
    o->bins = NULL;
}

/* ---- moments ---------------------------------------------------------------------------------- */

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

/* Bins of a side that may not be empty. */
static int bins_used(const nw_observer *o, bool negative) {
    float reach = negative ? -o->min : o->max;
    return reach > 0 ? (int)(reach * ldexpf(BINS, -o->exponent)) + 1 : 0;
}

/* Few values go straight to the histogram: emptying a tally would take longer. */
static void count_few(nw_observer *o, const float *x, size_t count, float inverse) {
    for (size_t i = 0; i < count; i++)
        if (x[i] != 0) o->bins[(int)(fabsf(x[i]) * inverse) + (x[i] < 0 ? BINS : 0)]++;
}

/* ---- observing -------------------------------------------------------------------------------- */

/* What a call has seen so far. */
typedef struct batch {
    float min, max;
    nw_tally *tally; /* NULL: no use for one */
    size_t pending;  /* elements in it */
} batch;

static void empty_tally(nw_observer *o, batch *b) {
    if (b->pending) o->stats.tally_move(b->tally, o->bins);
    b->pending = 0;
}

static void count_block(nw_observer *o, const float *x, size_t count, int exponent, batch *b) {
    if (exponent > o->exponent || b->pending + count > FLUSH) {
        empty_tally(o, b);
        widen(o, exponent);
    }
    float inverse = ldexpf(BINS, -o->exponent); /* 1/w, exact */
    if (!b->tally) {
        count_few(o, x, count, inverse);
        return;
    }
    o->stats.tally_f32(count, x, inverse, b->tally);
    b->pending += count;
}

/* A block with numbers that are not finite, or whose squares are beyond f32 (a mask of −3e38): those that are
 * go to kept, whose number is returned. */
static size_t scan_carefully(const float *x, size_t count, float *kept, nw_scan *s) {
    size_t n = 0;
    *s = (nw_scan){.min = INFINITY, .max = -INFINITY};
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i])) continue;
        if (n == 0) s->pivot = x[i];
        double d = (double)x[i] - (double)s->pivot;
        s->min = fminf(s->min, x[i]) + 0.0f;
        s->max = fmaxf(s->max, x[i]) + 0.0f;
        s->zeros += x[i] == 0;
        s->sum += d;
        s->squares += d * d;
        kept[n++] = x[i];
    }
    return n;
}

static void observe_block(nw_observer *o, const float *x, size_t count, batch *b) {
    float kept[BLOCK];
    nw_scan s;
    o->stats.scan_f32(count, x, &s);
    if (!isfinite(s.squares)) {
        size_t n = scan_carefully(x, count, kept, &s);
        o->rejected += count - n;
        if (n == 0) return;
        x = kept;
        count = n;
    }
    b->min = fminf(b->min, s.min);
    b->max = fmaxf(b->max, s.max);
    if (o->bins) count_block(o, x, count, exponent_of(s.min, s.max), b);
    o->zeros += s.zeros;
    double mean = s.sum / (double)count;
    merge_moments(o, count, (double)s.pivot + mean, fmax(s.squares - s.sum * mean, 0));
}

/* One more batch for the extremes and their moving averages. */
static void end_batch(nw_observer *o, float min, float max) {
    if (min > max) return; /* nothing finite */
    o->min = fminf(o->min, min);
    o->max = fmaxf(o->max, max);
    double keep = o->batches ? o->options.momentum : 0;
    o->average_min = keep * o->average_min + (1 - keep) * (double)min;
    o->average_max = keep * o->average_max + (1 - keep) * (double)max;
    o->batches++;
}

void nw_observe(nw_observer *o, const float *x, size_t count) {
    nw_tally tally;
    batch b = {.min = INFINITY, .max = -INFINITY};
    if (o->bins && count >= 2 * SIDES) {
        memset(&tally, 0, sizeof tally);
        b.tally = &tally;
    }
    for (size_t i = 0; i < count; i += BLOCK)
        observe_block(o, x + i, count - i < BLOCK ? count - i : BLOCK, &b);
    empty_tally(o, &b);
    end_batch(o, b.min, b.max);
}

/* ---- merging ---------------------------------------------------------------------------------- */

/* Everything but extremes and batches. */
static void merge_counts(nw_observer *into, const nw_observer *from) {
    into->rejected += from->rejected;
    if (from->count == 0) return;
    if (into->bins && from->bins) {
        widen(into, from->exponent);
        int shift = into->exponent - from->exponent;
        for (int side = 0; side < SIDES; side += BINS) {
            uint64_t *to = into->bins + side;
            const uint64_t *bins = from->bins + side;
            int used = bins_used(from, side > 0);
            for (int i = 0; i < used && shift == 0; i++) to[i] += bins[i];
            for (int i = 0; i < used && shift; i++) to[shift < 31 ? i >> shift : 0] += bins[i];
        }
    }
    into->zeros += from->zeros;
    merge_moments(into, from->count, from->mean, from->m2);
}

void nw_observer_merge(nw_observer *into, const nw_observer *from) {
    merge_counts(into, from);
    if (from->batches == 0) return;
    double share = (double)from->batches / (double)(into->batches + from->batches);
    into->average_min += share * (from->average_min - into->average_min);
    into->average_max += share * (from->average_max - into->average_max);
    into->batches += from->batches;
    into->min = fminf(into->min, from->min);
    into->max = fmaxf(into->max, from->max);
}

/* Parts start with the range of the whole, so that most of them end with it, and bins simply add. */
void nw_observer_split(const nw_observer *whole, nw_observer *parts, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t *bins = parts[i].bins;
        for (int side = 0; bins && side < SIDES; side += BINS)
            memset(bins + side, 0, (size_t)bins_used(&parts[i], side > 0) * sizeof *bins);
        parts[i] = empty(whole->ctx, &whole->options);
        parts[i].exponent = whole->exponent;
        parts[i].bins = bins;
    }
}

void nw_observer_join(nw_observer *whole, const nw_observer *parts, size_t count) {
    float min = INFINITY, max = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        merge_counts(whole, &parts[i]);
        min = fminf(min, parts[i].min);
        max = fmaxf(max, parts[i].max);
    }
    end_batch(whole, min, max);
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

nw_status nw_observer_magnitude(const nw_observer *o, double *mean) {
    *mean = 0;
    if (o->count == 0) return NW_OK;
    nw_profile *profile = nw_alloc(o->ctx, sizeof *profile);
    if (!profile) return NW_E_MEMORY;
    nw_profile_of(o, profile);
    const double negative = profile->first[NW_OBSERVER_BINS], all = profile->first[SIDES];
    *mean = (all - 2 * negative) / (double)o->count;
    nw_free(o->ctx, profile);
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
    double noise = (double)(o->count - o->zeros) * (double)scale * (double)scale / 12;
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
