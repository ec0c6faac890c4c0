/* unroll.h: compiler words that kernels need and C has not. Must not include anything. */
#ifndef NW_KERN_UNROLL_H
#define NW_KERN_UNROLL_H

/* Before a loop with a constant trip count ≤ 64 whose index selects among registers: it must vanish. Not under gcc's
 * address sanitizer, whose checks would make minutes of compiling out of it. */
#if defined(__clang__)
#define NW_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__SANITIZE_ADDRESS__)
#define NW_UNROLL
#else
#define NW_UNROLL _Pragma("GCC unroll 64")
#endif

/* Before a loop over arrays that are the same or do not overlap: no iteration waits for another. */
#if defined(__clang__)
#define NW_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define NW_INDEPENDENT _Pragma("GCC ivdep")
#endif

/* A template: a function whose constant arguments must be constants in its body. */
#define NW_INLINE static inline __attribute__((always_inline))

#endif
