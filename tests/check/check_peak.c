/* check_peak.c: the arithmetic peak of one core, measured (kern/peak.h). What the benchmark calls the share of the peak is
 * against these. Must not include anything but kern/. */
#include "check.h"
#include "kern/peak.h"

void check_peak(void) {
    size_t count;
    const nw_peak_loop *loops = nw_peak_loops(&count);
    for (size_t i = 0; check_opt.bench && i < count; i++) {
        if (!check_begin(loops[i].isa, loops[i].name, "registers only")) continue;
        check_report(check_seconds(loops[i].run, NULL), loops[i].operations, loops[i].unit);
        check_end();
    }
}
