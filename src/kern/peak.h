/* peak.h: the arithmetic peak of one core, measured: loops of multiply-adds that touch registers only. What reports
 * call the share of the peak is against these.
 * Must not include anything but base/, num/ and kern/. */
#ifndef NW_KERN_PEAK_H
#define NW_KERN_PEAK_H

#include "kern/isa.h"

#include <stddef.h>

typedef struct nw_peak_loop {
    nw_isa isa;
    bool integer; /* u8·s8 products, else f32 */
    const char *name, *unit;
    double operations;       /* of one call; a multiply-add is two */
    void (*run)(void *none); /* needs a processor that has the instruction set */
} nw_peak_loop;

/* Those of this architecture, empty where there is none; lowest instruction set first within each kind. */
const nw_peak_loop *nw_peak_loops(size_t *count);

/* Operations per second of one core with the best loop of a kind up to this instruction set: each takes 10 ms,
 * of which the fastest call counts. 0 when there is no such loop. */
double nw_peak_measure(nw_isa ceiling, bool integer);

#endif
