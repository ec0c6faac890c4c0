/* peak.c: loops of multiply-adds on registers, and the time they take. */
#include "kern/peak.h"

#include <time.h>

#define ROUNDS 10000

/* LOOP(name, line) is a function that runs `line` ROUNDS times for each sum \\r, SUMS of them: enough to hide the
 * latency of the units. Register 0 is the factor; it and the sums are zero, so that nothing overflows or turns
 * subnormal. In assembler, because a compiler would rather work out the answer; a macro, because assembler text
 * must be a literal.
 * PEAKS(X): X(ISA, integer, name, multiplications of one repeated line, loop). */
#if defined(__x86_64__)
#define SUMS 14 /* two units of up to seven cycles */

#define LOOP(name, line)                                                                                     \
    static void name(void *unused) {                                                                         \
        long n = ROUNDS;                                                                                     \
        (void)unused;                                                                                        \
        __asm__ volatile("vzeroall\n"                                                                        \
                         "1:\n"                                                                              \
                         ".irp r, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n" line "\n"                \
                         ".endr\n"                                                                           \
                         "dec %0\n"                                                                          \
                         "jnz 1b\n"                                                                          \
                         "vzeroupper"                                                                        \
                         : "+r"(n)                                                                           \
                         :                                                                                   \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                    \
    }
LOOP(fma_256, "vfmadd231ps %%ymm0, %%ymm0, %%ymm\\r")
LOOP(fma_512, "vfmadd231ps %%zmm0, %%zmm0, %%zmm\\r")
/* Without VNNI an exact product of bytes is one of 16-bit numbers, and an addition. */
LOOP(madd_256, "vpmaddwd %%ymm0, %%ymm0, %%ymm1\n vpaddd %%ymm1, %%ymm\\r, %%ymm\\r")
LOOP(vnni_256, "%{vex%} vpdpbusd %%ymm0, %%ymm0, %%ymm\\r")
LOOP(vnni_512, "vpdpbusd %%zmm0, %%zmm0, %%zmm\\r")

#define PEAKS(X)                                                                                             \
    X(AVX2, false, "peak_f32__avx2", 8, fma_256)                                                             \
    X(AVX512VNNI, false, "peak_f32__avx512vnni", 16, fma_512)                                                \
    X(AVX2, true, "peak_u8s8__avx2", 16, madd_256)                                                           \
    X(AVXVNNI, true, "peak_u8s8__avxvnni", 32, vnni_256)                                                     \
    X(AVX512VNNI, true, "peak_u8s8__avx512vnni", 64, vnni_512)

#elif defined(__aarch64__)
#define SUMS 16 /* four units of up to four cycles */

#define LOOP(name, line)                                                                                     \
    static void name(void *unused) {                                                                         \
        long n = ROUNDS;                                                                                     \
        (void)unused;                                                                                        \
        __asm__ volatile(".irp r, 0, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n"       \
                         "movi v\\r\\().4s, 0\n"                                                             \
                         ".endr\n"                                                                           \
                         "1:\n"                                                                              \
                         ".irp r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n" line     \
                         "\n"                                                                                \
                         ".endr\n"                                                                           \
                         "subs %0, %0, 1\n"                                                                  \
                         "b.ne 1b\n"                                                                         \
                         : "+r"(n)                                                                           \
                         :                                                                                   \
                         : "cc", "v0", "v1", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",  \
                           "v25", "v26", "v27", "v28", "v29", "v30", "v31");                                 \
    }
LOOP(fmla, "fmla v\\r\\().4s, v0.4s, v0.4s")
LOOP(smull, "smull v1.8h, v0.8b, v0.8b\n sadalp v\\r\\().4s, v1.8h")
/* sdot and usmmla v\\r.4s, v0.16b, v0.16b as numbers: this file is compiled for every processor. */
LOOP(sdot, ".inst 0x4e809400 + \\r")
LOOP(usmmla, ".inst 0x4e80ac00 + \\r")

#define PEAKS(X)                                                                                             \
    X(NEON, false, "peak_f32__neon", 4, fmla)                                                                \
    X(NEON, true, "peak_u8s8__neon", 8, smull)                                                               \
    X(NEONDOT, true, "peak_u8s8__neondot", 16, sdot)                                                         \
    X(NEONI8MM, true, "peak_u8s8__neoni8mm", 32, usmmla)
#endif

#if defined(PEAKS)
#define PEAK(isa, integer, name, multiplications, loop)                                                      \
    {NW_ISA_##isa, integer, name, (integer) ? "GOP/s" : "GFLOP/s", 2.0 * ROUNDS * SUMS * (multiplications),  \
     loop},
static const nw_peak_loop loops[] = {PEAKS(PEAK)};

const nw_peak_loop *nw_peak_loops(size_t *count) {
    *count = sizeof loops / sizeof *loops;
    return loops;
}
#else
const nw_peak_loop *nw_peak_loops(size_t *count) {
    *count = 0;
    return NULL;
}
#endif

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A call takes a few dozen microseconds: some of them meet no interruption. */
static double rate_of(const nw_peak_loop *loop) {
    const double begin = seconds_now();
    double least = 1, now = begin;
    while (now - begin < 0.01) {
        const double start = now;
        loop->run(NULL);
        now = seconds_now();
        if (now - start < least) least = now - start;
    }
    return least > 0 ? loop->operations / least : 0;
}

double nw_peak_measure(nw_isa ceiling, bool integer) {
    size_t count;
    const nw_peak_loop *all = nw_peak_loops(&count);
    double best = 0;
    for (size_t i = 0; i < count; i++) {
        if (all[i].integer != integer || all[i].isa > ceiling || !nw_isa_supported(all[i].isa)) continue;
        const double rate = rate_of(&all[i]);
        if (rate > best) best = rate;
    }
    return best;
}
