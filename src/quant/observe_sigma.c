/* observe_sigma.c: mean ± k standard deviations, but no further than what was seen. */
#include "quant/observe.h"

#include <math.h>

void nw_range_sigma(const nw_observer *observer, const nw_profile *profile, const nw_codes *grid, float *lo,
                    float *hi) {
    (void)profile, (void)grid;
    double reach = observer->options.sigmas * nw_observer_sigma(observer);
    *lo = fmaxf(observer->min, (float)(observer->mean - reach));
    *hi = fminf(observer->max, (float)(observer->mean + reach));
}
