/* isa.h: the instruction sets this library has kernels for, and which of them this processor has.
 * Must not include anything of this project. */
#ifndef NW_KERN_ISA_H
#define NW_KERN_ISA_H

#include <stdbool.h>

/* Levels of this architecture in the order of preference. A later level runs instead of an earlier one
 * wherever a family has a kernel for it. The word is what --isa accepts and what follows __ in kernel names. */
#if defined(__x86_64__)
#define NW_ISA_LIST(X)                                                                                       \
    X(SCALAR, scalar)                   /* plain C */                                                        \
    X(AVX2, avx2)                       /* AVX2, FMA, F16C */                                                \
    X(AVXVNNI, avxvnni)                 /* the above and AVX-VNNI: u8·s8 dot products on 256 bits */        \
    X(AVX512VNNI, avx512vnni)           /* AVX-512 F, BW, VL, DQ, VNNI */                                    \
    X(AVX512VBMI, avx512vbmi)           /* the above and AVX512-VBMI: bytes looked up in tables of 128 */    \
    X(AVX512VPOPCNTDQ, avx512vpopcntdq) /* AVX512-VNNI and AVX512-VPOPCNTDQ: bits of words counted */        \
    X(AVX512BF16, avx512bf16)           /* AVX512-VNNI and -BF16: dot products of bf16 pairs */
#elif defined(__aarch64__)
#define NW_ISA_LIST(X)                                                                                       \
    X(SCALAR, scalar)     /* plain C */                                                                      \
    X(NEON, neon)         /* Armv8-A with Advanced SIMD: every AArch64 processor that runs Linux */          \
    X(NEONDOT, neondot)   /* the above and FEAT_DotProd: s8·s8 dot products (Cortex-A55, A75 and later) */  \
    X(NEONI8MM, neoni8mm) /* the above and FEAT_I8MM: u8·s8 products of 2×8 matrices (Cortex-A510, X2 …) */
#else
#define NW_ISA_LIST(X) X(SCALAR, scalar) /* plain C */
#endif

typedef enum nw_isa {
#define NW_ISA_ENUM(id, word) NW_ISA_##id,
    NW_ISA_LIST(NW_ISA_ENUM)
#undef NW_ISA_ENUM
        NW_ISA_COUNT
} nw_isa;

/* The highest level this processor and operating system support. Asked once, remembered; safe from any
 * thread. */
nw_isa nw_isa_detect(void);
/* Whether this very level runs here. (A machine can have a level without having every level below it: some
 * AVX-512 machines lack AVX-VNNI.) */
bool nw_isa_supported(nw_isa isa);
/* The highest supported level that is not above `wanted`; every nw_*_select function applies it to its
 * argument. */
nw_isa nw_isa_limit(nw_isa wanted);

const char *nw_isa_name(nw_isa isa);                /* "scalar", "avx2", …; "?" out of range */
bool nw_isa_by_name(const char *name, nw_isa *out); /* false, *out untouched, when unknown */

#endif
