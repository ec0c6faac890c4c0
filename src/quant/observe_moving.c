/* observe_moving.c: a moving average of each batch's minimum and maximum: m ← momentum·m + (1 −
 * momentum)·batch, starting with the first batch. Single outliers count little. */
#include "quant/observe.h"

void nw_range_moving(const nw_observer *observer, const nw_profile *profile, const nw_codes *grid, float *lo,
                     float *hi) {
    (void)profile, (void)grid;
    *lo = (float)observer->average_min;
    *hi = (float)observer->average_max;
}
