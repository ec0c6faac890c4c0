/* observe_entropy.c: the range whose grid loses the least information: smallest Kullback-Leibler divergence
 * from the distribution seen to the one the grid can tell (the calibration of NVIDIA TensorRT, Migacz 2017).
 */
#include "quant/observe.h"

#include <math.h>

#define BINS  NW_OBSERVER_BINS
#define SIDES (2 * BINS)

/* First bin at or above x. */
static int bin_at(const nw_profile *p, double x) {
    double i = ceil(x / p->width) + BINS;
    return i < 0 ? 0 : i > SIDES ? SIDES : (int)i;
}

/* KL(P‖Q), natural logarithm. P is the histogram with what saturates added to the outermost filled bins
 * inside; Q is what the grid knows: the mass of each level, without what saturates, spread evenly over the
 * level's filled bins. Σ P_i·ln(P_i/Q_i) = Σ P_i·ln P_i − Σ P_i·ln Q_i,  and Q is constant within a level.
 * Exact zeros take no part: every grid holds them, and a spike at zero would drown the rest. */
static double divergence(const nw_profile *p, const nw_codes *grid, double lo, double hi) {
    float scale;
    int32_t zero;
    nw_choose_scale((float)lo, (float)hi, grid->symmetric, grid->qmin, grid->qmax, &scale, &zero);
    double s = (double)scale, total = p->below[SIDES];
    int first = bin_at(p, ((double)grid->qmin - zero - 0.5) * s),
        end = bin_at(p, ((double)grid->qmax - zero + 0.5) * s);
    while (first < end && p->mass[first] == 0) first++;
    while (end > first && p->mass[end - 1] == 0) end--;
    double inside = p->below[end] - p->below[first];
    if (!(inside > 0)) return INFINITY;

    double under = p->below[first], over = total - p->below[end];
    double own = p->entropy[end] - p->entropy[first], cross = 0;
    const double extra[2] = {under, over};
    const int edge[2] = {first, end - 1};
    for (int i = 0; i < 2 && first < end - 1; i++) {
        double m = p->mass[edge[i]], more = m + extra[i];
        own += more * log(more) - m * log(m);
    }
    if (first == end - 1) own = total * log(total);

    for (int at = first, next; at < end; at = next) {
        double q = rint(((double)at + 0.5 - BINS) * p->width /
                        s); /* level of the bin's centre, zero point left out */
        next = bin_at(p, (q + 0.5) * s - 0.5 * p->width);
        if (next <= at) next = at + 1;
        if (next > end) next = end;
        double mass = p->below[next] - p->below[at];
        if (mass == 0) continue;
        double reference = mass + (at == first ? under : 0) + (next == end ? over : 0);
        cross += reference * log(mass / (p->filled[next] - p->filled[at]));
    }
    return (own - cross) / total - log(total) + log(inside);
}

/* A narrow spike has next to no divergence however much is cut off around it, so divergence alone may
 * saturate every value that matters. A range that is worse than the whole one in squared error too is
 * therefore none. *user: that error. */
static double cost(const nw_profile *p, const nw_codes *grid, double lo, double hi, void *user) {
    const double *limit = user;
    if (nw_profile_range_error(p, grid, lo, hi) > *limit) return INFINITY;
    return fmax(divergence(p, grid, lo, hi), 0) +
           1e-12; /* rounding noise around no loss at all counts as a tie */
}

void nw_range_entropy(const nw_observer *observer, const nw_profile *profile, const nw_codes *grid, float *lo,
                      float *hi) {
    (void)observer;
    double limit =
        nw_profile_range_error(profile, grid, fmin(profile->min, 0), fmax(profile->max, 0)) * (1 + 1e-9);
    nw_search_range(profile, grid, cost, &limit, lo, hi);
}
