/* stats.c: the reference functions, and the choice of an ISA's. Must not include anything but kern/. */
#define NW_KERNEL(name) nw_##name##__scalar
#define NW_LANES        4
#include "kern/stats_body.h"

void nw_stats_select(nw_isa ceiling, nw_stats *out) {
#define NW_STATS(isa, word)                                                                                  \
    if (NW_ISA_##isa <= ceiling && nw_isa_supported(NW_ISA_##isa))                                           \
        *out = (nw_stats){nw_scan_f32__##word, nw_tally_f32__##word, nw_tally_move__##word,                  \
                          nw_column_sums_f32__##word};
#include "kern/stats.def"
#undef NW_STATS
}
