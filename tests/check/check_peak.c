/* check_peak.c: the arithmetic peak of one core, measured (kern/peak.h), and how fast memory is read. What the benchmark calls
 * the share of the peak is against these. Must not include anything but kern/. */
#include "check.h"
#include "kern/peak.h"

/* What a thread reads at the same time, as hardware fetches ahead for each stream; and the words that memory gives at once, of
 * which one is looked at. */
#define STREAMS 4
#define LINE    8

typedef struct memory {
    const uint64_t *words;
    size_t count;
    uint64_t sum;
} memory;
static void read_share(void *user, size_t share) {
    memory *m = user;
    const size_t stream = m->count / check_opt.threads / STREAMS / LINE * LINE;
    const uint64_t *at = m->words + share * STREAMS * stream;
    uint64_t sum[STREAMS] = {0};
    for (size_t i = 0; i < stream; i += LINE)
        for (size_t s = 0; s < STREAMS; s++) sum[s] ^= at[s * stream + i];
    for (size_t s = 0; s < STREAMS; s++) __atomic_fetch_xor(&m->sum, sum[s], __ATOMIC_RELAXED);
}
static void read_memory(void *user) {
    check_parallel(read_share, user);
}

void check_peak(void) {
    size_t count;
    const nw_peak_loop *loops = nw_peak_loops(&count);
    for (size_t i = 0; check_opt.bench && i < count; i++) {
        if (!check_begin(loops[i].isa, loops[i].name, "registers only")) continue;
        check_report(check_seconds(loops[i].run, NULL), loops[i].operations, loops[i].unit);
        check_end();
    }
    if (check_opt.bench && check_begin(NW_ISA_SCALAR, "peak_read", "256 MiB from memory")) {
        memory m = {.count = (size_t)256 << 17};
        m.words = check_alloc(m.count * sizeof *m.words);
        check_report(check_seconds(read_memory, &m), (double)m.count * sizeof *m.words, "GB/s");
        check_end();
    }
}
