/* gemm_avx512.h: what product kernels on 512 bits share; for files compiled for AVX-512 only. Must not include anything but
 * kern/. */
#ifndef NW_KERN_GEMM_AVX512_H
#define NW_KERN_GEMM_AVX512_H

#include <immintrin.h>
#include <stddef.h>

/* The columns below n among 16v … 16v + 15. */
static inline __mmask16 columns_mask(size_t n, int v) {
    size_t left = n > 16 * (size_t)v ? n - 16 * (size_t)v : 0;
    return left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
}

#endif
