/* check_peak.c: the arithmetic peak of one core, measured: loops of multiply-adds that touch registers only.
 * What the benchmark calls the share of the peak is against these. Must not include anything but kern/. */
#include "check.h"

#if defined(__x86_64__)
#define ROUNDS 10000
#define SUMS   14 /* independent: they hide the latency of two units of up to seven cycles */

/* A function that runs `line` ROUNDS times for each sum \\r, registers 2 to 15. Register 0 is the factor; it
 * and the sums are zero, so that nothing overflows or turns subnormal. In assembler, because a compiler would
 * rather work out the answer; a macro, because assembler text must be a literal. */
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

void check_peak(void) {
    static const struct {
        nw_isa isa;
        const char *name, *unit;
        int multiplications; /* of one repeated line */
        void (*loop)(void *);
    } peaks[] = {
        {NW_ISA_AVX2, "peak_f32__avx2", "GFLOP/s", 8, fma_256},
        {NW_ISA_AVX512VNNI, "peak_f32__avx512vnni", "GFLOP/s", 16, fma_512},
        {NW_ISA_AVX2, "peak_u8s8__avx2", "GOP/s", 16, madd_256},
        {NW_ISA_AVXVNNI, "peak_u8s8__avxvnni", "GOP/s", 32, vnni_256},
        {NW_ISA_AVX512VNNI, "peak_u8s8__avx512vnni", "GOP/s", 64, vnni_512},
    };
    for (size_t i = 0; check_opt.bench && i < sizeof peaks / sizeof *peaks; i++) {
        if (!check_begin(peaks[i].isa, peaks[i].name, "registers only")) continue;
        double operations = 2.0 * ROUNDS * SUMS * peaks[i].multiplications;
        check_report(check_seconds(peaks[i].loop, NULL), operations, peaks[i].unit);
        check_end();
    }
}
#else
void check_peak(void) {}
#endif
