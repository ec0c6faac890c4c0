/* observe_percentile.c: leaves out the outermost values: of magnitudes for a symmetric grid, half as many at
 * each end for an asymmetric one. */
#include "quant/observe.h"

void nw_range_percentile(const nw_observer *observer, const nw_profile *profile, const nw_codes *grid,
                         float *lo, float *hi) {
    double share = observer->options.percentile / 100;
    if (grid->symmetric) {
        *hi = (float)nw_profile_quantile(profile, share, true);
        *lo = -*hi;
    } else {
        *lo = (float)nw_profile_quantile(profile, (1 - share) / 2, false);
        *hi = (float)nw_profile_quantile(profile, (1 + share) / 2, false);
    }
}
