/* observe.h: observers: what values a tensor takes, in one streaming pass and constant memory, and which
 * range of them a grid should cover. Two observers of parts of the data merge to the observer of all of it.
 * Must not include anything but base/, num/ and kern/. */
#ifndef NW_QUANT_OBSERVE_H
#define NW_QUANT_OBSERVE_H

#include "kern/stats.h"
#include "num/choose.h"

typedef enum nw_observer_kind {
#define NW_OBSERVER(id, name, file, bins, help) NW_OBSERVER_##id,
#include "quant/observers.def"
#undef NW_OBSERVER
    NW_OBSERVER_COUNT
} nw_observer_kind;

const char *nw_observer_name(nw_observer_kind kind); /* "?" out of range */
const char *nw_observer_help(nw_observer_kind kind);
bool nw_observer_by_name(const char *name, nw_observer_kind *out); /* false, *out untouched, when unknown */

typedef struct nw_observer_options {
    nw_observer_kind kind;
    double momentum;   /* MOVING: share of the old average kept at each batch, in [0,1) */
    double percentile; /* PERCENTILE: per cent of the values inside, in (50,100] */
    double sigmas;     /* SIGMA: k > 0 */
    float lo, hi;      /* ABSOLUTE */
    nw_isa isa;        /* ceiling; what is seen does not depend on it */
} nw_observer_options;

nw_observer_options nw_observer_options_default(void); /* minmax; 0.9, 99.999, 4; what the machine has */
/* Fails in words when a number is outside what is said above. */
nw_status nw_observer_options_check(nw_context *ctx, const nw_observer_options *options);

#define NW_OBSERVER_BINS 2048 /* on each side of zero */

/* Values are counted by magnitude, apart for each sign: bin i of a side holds i·w ≤ |x| < (i+1)·w, with
 * w = 2^exponent / NW_OBSERVER_BINS and 2^exponent the smallest power of two above every |x| seen. When the
 * range grows, bins merge two to one, so counts depend neither on the order nor on how the data was split.
 * Exact zeros of either sign are in no bin but counted apart: every grid represents them exactly. */
typedef struct nw_observer {
    nw_context *ctx;
    nw_observer_options options;
    uint64_t count;    /* finite values seen */
    uint64_t rejected; /* NaN and infinities: counted, otherwise ignored */
    uint64_t zeros;
    uint64_t batches;                /* calls with at least one finite value */
    float min, max;                  /* +inf, −inf before the first value */
    double mean, m2;                 /* m2 = Σ(x − mean)² */
    double average_min, average_max; /* MOVING */
    int exponent;
    uint64_t *bins; /* [2][NW_OBSERVER_BINS]: x > 0, x < 0; NULL when the kind needs none */
    nw_stats stats; /* kernels */
} nw_observer;

/* Memory is taken here and not while observing: 32 KiB with a histogram, none without. */
nw_status nw_observer_init(nw_context *ctx, nw_observer *observer, const nw_observer_options *options);
void nw_observer_free(nw_observer *observer); /* a zeroed observer is fine */

/* One batch of count values (the moving average takes each call as one batch). Cannot fail. */
void nw_observe(nw_observer *observer, const float *x, size_t count);
/* into ← the observer of both data sets: counts, minimum and maximum exactly, moments to rounding, moving
 * averages weighted by batches. Both have the same options. */
void nw_observer_merge(nw_observer *into, const nw_observer *from);

/* For one batch seen in parts, by several threads: split makes the parts, which were initialised with the
 * whole's options, ready; each sees its part of the batch; join tells the whole, which is then as after
 * nw_observe of the batch, with moments to rounding. They depend on the parts and their order. */
void nw_observer_split(const nw_observer *whole, nw_observer *parts, size_t count);
void nw_observer_join(nw_observer *whole, const nw_observer *parts, size_t count);

static inline double nw_observer_sigma(const nw_observer *o) {
    return o->count ? __builtin_sqrt(o->m2 / (double)o->count) : 0;
}

/* The range the observer's kind chooses for this grid; lo ≤ 0 ≤ hi, finite; for symmetric grids of signed
 * codes lo = −hi. It is what nw_choose_scale wants. Nothing seen: 0, 0. Fails only for want of memory. */
nw_status nw_observer_range(const nw_observer *observer, const nw_codes *grid, float *lo, float *hi);
/* The mean magnitude of everything seen: what {−1, 1} are multiplied with for the least squared error (Rastegari et al.
 * 2016, "XNOR-Net", section 3.1). The observer has a histogram. Nothing seen: 0. Fails only for want of memory. */
nw_status nw_observer_magnitude(const nw_observer *observer, double *mean);
/* Share of the finite values outside [lo, hi]; −1 when there is no histogram to tell. */
nw_status nw_observer_outside(const nw_observer *observer, float lo, float hi, double *share);
/* Signal to noise of everything seen on a grid, 10·log10(Σx²/Σ(x − x')²) dB; INFINITY when nothing is lost.
 * Without a histogram the noise is taken for scale²/12 per value but zero, which holds when nothing
 * saturates. Nothing seen: INFINITY. */
nw_status nw_observer_sqnr(const nw_observer *observer, const nw_codes *grid, float scale, int32_t zero,
                           double *decibels);

/* ---- for the observers themselves (observe_*.c) ----------------------------------------------- */

/* Running sums over the histogram from the most negative value up, without exact zeros, for costs of
 * candidate grids in O(levels). Values count as spread evenly within their bin; bin i covers
 * (i − NW_OBSERVER_BINS + [0,1))·width. */
typedef struct nw_profile {
    double width;
    double min, max; /* values seen */
    double zeros;    /* exact zeros, in no bin */
    double mass[2 * NW_OBSERVER_BINS];
    double below[2 * NW_OBSERVER_BINS + 1];  /* Σ mass of the bins before bin i; the last one is the total */
    double first[2 * NW_OBSERVER_BINS + 1];  /* Σ x */
    double second[2 * NW_OBSERVER_BINS + 1]; /* Σ x² */
    double entropy[2 * NW_OBSERVER_BINS + 1]; /* Σ mass·ln(mass) */
    int filled[2 * NW_OBSERVER_BINS + 1];     /* number of bins that are not empty */
} nw_profile;

/* What a kind does: sets a range; it need not hold zero, nor be symmetric: the caller sees to that. profile
 * is NULL for kinds without a histogram. At least one value was seen. */
typedef void nw_observer_range_fn(const nw_observer *observer, const nw_profile *profile,
                                  const nw_codes *grid, float *lo, float *hi);
#define NW_OBSERVER(id, name, file, bins, help) nw_observer_range_fn nw_range_##file;
#include "quant/observers.def"
#undef NW_OBSERVER

/* observer has a histogram. */
void nw_profile_of(const nw_observer *observer, nw_profile *profile);
/* Values in bins below x. */
double nw_profile_below(const nw_profile *profile, double x);
/* The value below which `share` (0 … 1) of all values lie, within its bin; magnitudes: of |x|. */
double nw_profile_quantile(const nw_profile *profile, double share, bool magnitudes);
/* Σ (x − x')² over everything seen. */
double nw_profile_error(const nw_profile *profile, const nw_codes *grid, float scale, int32_t zero);
/* The same on the grid that nw_choose_scale makes of [lo, hi]. */
double nw_profile_range_error(const nw_profile *profile, const nw_codes *grid, double lo, double hi);

/* The range of the smallest cost: a line search over the threshold of a symmetric grid, then over each end of
 * an asymmetric one in turn. Ties go to the wider range. cost may give INFINITY. */
typedef double nw_cost_fn(const nw_profile *profile, const nw_codes *grid, double lo, double hi, void *user);
void nw_search_range(const nw_profile *profile, const nw_codes *grid, nw_cost_fn *cost, void *user, float *lo,
                     float *hi);

#endif
