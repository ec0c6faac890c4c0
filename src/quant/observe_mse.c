/* observe_mse.c: the range whose grid has the smallest squared error, saturation included. */
#include "quant/observe.h"

static double squared_error(const nw_profile *profile, const nw_codes *grid, double lo, double hi,
                            void *user) {
    (void)user;
    return nw_profile_range_error(profile, grid, lo, hi);
}

void nw_range_mse(const nw_observer *observer, const nw_profile *profile, const nw_codes *grid, float *lo,
                  float *hi) {
    (void)observer;
    nw_search_range(profile, grid, squared_error, NULL, lo, hi);
}
