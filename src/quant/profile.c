/* profile.c: a histogram seen as running sums: quantiles, the squared error of a grid, and the search for a
 * range. */
#include "quant/observe.h"

#include <math.h>

#define BINS  NW_OBSERVER_BINS
#define SIDES (2 * BINS)

void nw_profile_of(const nw_observer *o, nw_profile *p) {
    double w = ldexp(1.0 / BINS, o->exponent);
    p->width = w;
    p->min = (double)o->min;
    p->max = (double)o->max;
    p->zeros = (double)o->zeros;
    p->below[0] = p->first[0] = p->second[0] = p->entropy[0] = 0;
    p->filled[0] = 0;
    for (int i = 0; i < SIDES; i++) {
        int side = i < BINS, bin = side ? BINS - 1 - i : i - BINS;
        uint64_t n = o->bins[side * BINS + bin];
        double m = (double)n, centre = (i - BINS + 0.5) * w;
        p->mass[i] = m;
        p->below[i + 1] = p->below[i] + m;
        p->first[i + 1] = p->first[i] + m * centre;
        p->second[i + 1] = p->second[i] + m * (centre * centre + w * w / 12);
        p->entropy[i + 1] = p->entropy[i] + (n ? m * log(m) : 0);
        p->filled[i + 1] = p->filled[i] + (n != 0);
    }
}

/* Bin of x and how far into it, both inside the histogram. */
static int bin_of(const nw_profile *p, double x, double *fraction) {
    double at = x / p->width + BINS;
    *fraction = 0;
    if (!(at > 0)) return 0;
    if (at >= SIDES) return SIDES;
    int i = (int)at;
    *fraction = at - i;
    return i;
}

typedef struct sums {
    double mass, first, second;
} sums;

/* Running sums up to x: a bin's part below x is mass·f of values spread evenly over [left, left + f·width).
 */
static sums sums_below(const nw_profile *p, double x) {
    double f;
    int i = bin_of(p, x, &f);
    sums s = {p->below[i], p->first[i], p->second[i]};
    if (f > 0) {
        double m = p->mass[i] * f, left = (i - BINS) * p->width, run = f * p->width;
        s.mass += m;
        s.first += m * (left + run / 2);
        s.second += m * (left * left + left * run + run * run / 3);
    }
    return s;
}

double nw_profile_below(const nw_profile *p, double x) {
    return sums_below(p, x).mass;
}

/* Values at most x, zeros in their place. */
static double count_to(const nw_profile *p, double x, bool magnitudes) {
    if (magnitudes) return nw_profile_below(p, x) - nw_profile_below(p, -x) + p->zeros;
    return nw_profile_below(p, x) + (x >= 0 ? p->zeros : 0);
}

double nw_profile_quantile(const nw_profile *p, double share, bool magnitudes) {
    double lo = magnitudes ? 0 : p->min, hi = magnitudes ? fmax(-p->min, p->max) : p->max;
    double want = share * (p->below[SIDES] + p->zeros);
    if (share <= 0) return lo;
    if (share >= 1 || lo >= hi) return hi;
    for (int i = 0; i < 64; i++) { /* bisection: count_to is monotonic */
        double middle = lo + (hi - lo) / 2;
        if (count_to(p, middle, magnitudes) < want)
            lo = middle;
        else
            hi = middle;
    }
    return hi;
}

/* Σ (x − level)² over values between two running sums. */
static double error_between(sums a, sums b, double level) {
    return (b.second - a.second) - 2 * level * (b.first - a.first) + level * level * (b.mass - a.mass);
}

double nw_profile_range_error(const nw_profile *p, const nw_codes *grid, double lo, double hi) {
    float scale;
    int32_t zero;
    nw_choose_scale((float)lo, (float)hi, grid->symmetric, grid->qmin, grid->qmax, &scale, &zero);
    return nw_profile_error(p, grid, scale, zero);
}

double nw_profile_error(const nw_profile *p, const nw_codes *grid, float scale, int32_t zero) {
    double s = (double)scale, bottom = ((double)grid->qmin - zero) * s, top = ((double)grid->qmax - zero) * s;
    sums before = {0}, all = {p->below[SIDES], p->first[SIDES], p->second[SIDES]};
    if ((double)grid->qmax - grid->qmin > SIDES) { /* finer than the bins: s²/12 inside, exact outside */
        sums a = sums_below(p, bottom), b = sums_below(p, top);
        return error_between(before, a, bottom) + error_between(b, all, top) + (b.mass - a.mass) * s * s / 12;
    }
    double error = 0;
    for (int32_t q = grid->qmin; q <= grid->qmax; q++) {
        double level = ((double)q - zero) * s;
        sums upto = q == grid->qmax ? all : sums_below(p, level + s / 2);
        error += error_between(before, upto, level);
        before = upto;
    }
    return error;
}

/* ---- search ----------------------------------------------------------------------------------- */

typedef struct search {
    const nw_profile *profile;
    const nw_codes *grid;
    nw_cost_fn *cost;
    void *user;
    double full[2], ends[2]; /* everything seen; the best so far: low, high */
    double best;
} search;

enum { LOW = 1, HIGH = 2 };

static bool try_range(search *s, double lo, double hi) {
    double c = s->cost(s->profile, s->grid, lo, hi, s->user);
    if (!(c < s->best * (1 - 1e-9))) return false; /* a tie keeps what is there: wider ranges come first */
    s->best = c;
    s->ends[0] = lo;
    s->ends[1] = hi;
    return true;
}

/* Tries base·from, base·from·ratio, … for the ends named in the mask, the other end staying where it is best.
 */
static bool search_line(search *s, int mask, const double *base, double from, double ratio, int steps) {
    double start[2] = {base[0], base[1]}, fixed[2] = {s->ends[0], s->ends[1]};
    bool better = false;
    for (int i = 0; i < steps; i++, from *= ratio) {
        double lo = mask & LOW ? fmax(start[0] * from, s->full[0]) : fixed[0];
        double hi = mask & HIGH ? fmin(start[1] * from, s->full[1]) : fixed[1];
        better |= try_range(s, lo, hi);
    }
    return better;
}

/* Coarse: from everything down to 1/256 of it in steps of 2^(1/8); then finer around the best. */
void nw_search_range(const nw_profile *p, const nw_codes *grid, nw_cost_fn *cost, void *user, float *lo,
                     float *hi) {
    double low = fmin(p->min, 0), high = fmax(p->max, 0);
    search s = {p, grid, cost, user, {low, high}, {low, high}, INFINITY};
    const double coarse = exp2(-1.0 / 8), fine = exp2(-1.0 / 64);
    search_line(&s, LOW | HIGH, s.full, 1, coarse, 65);
    bool apart = !grid->symmetric && low < 0 && high > 0;
    for (int round = 0; apart && round < 4; round++) {
        bool better = search_line(&s, LOW, s.full, 1, coarse, 65);
        better |= search_line(&s, HIGH, s.full, 1, coarse, 65);
        if (!better) break;
    }
    search_line(&s, LOW | HIGH, s.ends, exp2(1.0 / 8), fine, 17);
    if (apart) {
        search_line(&s, LOW, s.ends, exp2(1.0 / 8), fine, 17);
        search_line(&s, HIGH, s.ends, exp2(1.0 / 8), fine, 17);
    }
    *lo = (float)s.ends[0];
    *hi = (float)s.ends[1];
}
