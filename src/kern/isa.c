/* isa.c: asks the processor what it can do. Must not include anything but kern/isa.h. */
#include "kern/isa.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xgetbv0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

static bool has(uint32_t word, int bit) {
    return (word >> bit) & 1;
}

/* A set of levels, bit = nw_isa. A level counts only if the operating system saves its registers too
 * (xcr0: bits 1-2 for 128 and 256-bit, 5-7 for 512-bit registers and masks). */
static uint32_t ask(void) {
    uint32_t set = 1u << NW_ISA_SCALAR, a, b, c, d, a7, b7, c7, d7, a71 = 0, x;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, 27) || !__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return set;
    if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &x, &x, &x);
    uint64_t saved = xgetbv0();
    bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
    bool avx2 = ymm && has(c, 28) && has(c, 12) && has(c, 29) && has(b7, 5);
    if (avx2) set |= 1u << NW_ISA_AVX2;
    if (avx2 && has(a71, 4)) set |= 1u << NW_ISA_AVXVNNI;
    bool avx512 = avx2 && zmm && has(b7, 16) && has(b7, 17) && has(b7, 30) && has(b7, 31) && has(c7, 11);
    if (avx512) set |= 1u << NW_ISA_AVX512VNNI;
    if (avx512 && has(c7, 1)) set |= 1u << NW_ISA_AVX512VBMI;
    if (avx512 && has(c7, 14)) set |= 1u << NW_ISA_AVX512VPOPCNTDQ;
    if (avx512 && has(a71, 5)) set |= 1u << NW_ISA_AVX512BF16;
    return set;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static uint32_t ask(void) {
    uint32_t set = 1u << NW_ISA_SCALAR;
    const bool neon = getauxval(AT_HWCAP) & HWCAP_ASIMD, dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    if (neon) set |= 1u << NW_ISA_NEON;
    if (neon && dot) set |= 1u << NW_ISA_NEONDOT;
    if (neon && dot && (getauxval(AT_HWCAP2) & HWCAP2_I8MM)) set |= 1u << NW_ISA_NEONI8MM;
    return set;
}
#else
static uint32_t ask(void) {
    return 1u << NW_ISA_SCALAR;
}
#endif

/* 0: not asked yet. Threads that ask at the same time store the same answer. */
static uint32_t levels(void) {
    static uint32_t cached;
    uint32_t set = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (!set) {
        set = ask();
        __atomic_store_n(&cached, set, __ATOMIC_RELAXED);
    }
    return set;
}

bool nw_isa_supported(nw_isa isa) {
    return (unsigned)isa < NW_ISA_COUNT && ((levels() >> isa) & 1);
}

nw_isa nw_isa_limit(nw_isa wanted) {
    int isa = (unsigned)wanted < NW_ISA_COUNT ? (int)wanted : NW_ISA_COUNT - 1;
    while (isa > NW_ISA_SCALAR && !nw_isa_supported((nw_isa)isa)) isa--;
    return (nw_isa)isa;
}

nw_isa nw_isa_detect(void) {
    return nw_isa_limit((nw_isa)(NW_ISA_COUNT - 1));
}

static const char *const names[] = {
#define NW_ISA_NAME(id, word) #word,
    NW_ISA_LIST(NW_ISA_NAME)
#undef NW_ISA_NAME
};

const char *nw_isa_name(nw_isa isa) {
    return (unsigned)isa < NW_ISA_COUNT ? names[isa] : "?";
}

bool nw_isa_by_name(const char *name, nw_isa *out) {
    for (int i = 0; i < NW_ISA_COUNT; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (nw_isa)i;
            return true;
        }
    return false;
}
