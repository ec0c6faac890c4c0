/* check.h: the harness of the kernel checker: cases, guarded memory, random numbers, timing. A family's
 * file enumerates its kernels from the .def tables of src/kern, compares each with a naive computation
 * written here, and times it when asked. Must not include anything but kern/. */
#ifndef NW_TESTS_CHECK_H
#define NW_TESTS_CHECK_H

#include "kern/isa.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct check_options {
    nw_isa ceiling;
    const char *filter; /* NULL: everything; else a part of "kernel shape" */
    bool bench;
    bool shapes;    /* bench only: time products and convolutions of the shapes that were loaded, no others */
    size_t threads; /* bench only: that run what check_parallel is given */
    uint64_t seed;
} check_options;
extern check_options check_opt;

/* One case is one kernel on one input. begin returns false when the filter leaves it out or the ISA does
 * not run here; then no other call may follow. The random sequence restarts from seed and case name, so a
 * case alone equals a case in a full run. end releases the case's memory and counts it. */
bool check_begin(nw_isa isa, const char *kernel, const char *shape, ...)
    __attribute__((format(printf, 3, 4)));
void check_fail(const char *format, ...)
    __attribute__((format(printf, 1, 2))); /* the first few are printed */
bool check_failed(void);
void check_end(void);

/* Whether a kernel is tried at all: with --shapes only the one that a run would select. */
bool check_wants(bool selected);

/* Memory of one case, filled with random bytes. The bytes end at an inaccessible page and start behind
 * canaries that check_end verifies: reading or writing past the end stops the program with the case's
 * name. A size that is a multiple of 64 gives a start aligned to 64, and so on. */
void *check_alloc(size_t size);

uint64_t check_random(void);
size_t check_below(size_t n);               /* uniform in [0,n) */
size_t check_between(size_t lo, size_t hi); /* uniform in [lo,hi] */
float check_uniform(float lo, float hi);
/* u8/s8 inputs of a style: 0 random, 1 all smallest, 2 all largest, 3 a mix of both ends. */
void check_fill_bytes(void *p, size_t size, int style, int smallest, int largest);
void check_fill_f32(float *p, size_t n, float lo, float hi);

/* Seconds of one call: the best of several batches. */
double check_seconds(void (*call)(void *arg), void *arg);
/* call(user, part) for every part < check_opt.threads, each on a thread of its own; starting them takes some 30 µs. */
void check_parallel(void (*call)(void *user, size_t part), void *user);
/* Prints one line: kernel, shape of the current case, time and rate (operations or bytes per second, in
 * units of 1e9). */
void check_report(double seconds, double amount, const char *unit);

/* |a − b| ≤ tolerance, with NaN equal to NaN and infinities equal to themselves. */
bool check_close(double a, double b, double tolerance);
double check_ulp(float exact_magnitude); /* the size of one unit in the last place at this magnitude */

#define CHECK_FAMILY(name) void check_##name(void);
#include "families.def"
#undef CHECK_FAMILY

#endif
