/* gemm_bits_avx512vpopcntdq.c: eight columns to a register, whose words count their own bits.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>

#define NW_KERNEL(name) nw_##name##__avx512vpopcntdq
#define LANES           8
#define VECTORS         4
#define MR              4
#define STRETCH         SIZE_MAX
typedef __m512i vector;

static inline vector load(const uint64_t *w) {
    return _mm512_loadu_si512(w);
}
static inline vector repeat(uint64_t w) {
    return _mm512_set1_epi64((long long)w);
}
static inline vector count(vector part, vector x) {
    return _mm512_add_epi64(part, _mm512_popcnt_epi64(x));
}
static inline vector flush(vector sum, vector part) {
    return _mm512_add_epi64(sum, part);
}
static inline void store(int32_t *to, vector sum) {
    _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi64_epi32(sum));
}

#include "kern/gemm_bits_body.h"

void nw_pack_signs__avx512vpopcntdq(size_t rows, size_t k, const float *x, uint64_t *bits) {
    for (size_t r = 0; r < rows; r++, x += k)
        for (size_t i = 0; i < k; i += 64) {
            uint64_t word = 0;
            for (size_t j = i; j < k && j < i + 64; j += 16) {
                const __mmask16 there = k - j < 16 ? (__mmask16)((1u << (k - j)) - 1) : 0xffff;
                const __m512 v = _mm512_maskz_loadu_ps(there, x + j);
                word |= (uint64_t)_mm512_mask_cmp_ps_mask(there, v, _mm512_setzero_ps(), _CMP_NLT_UQ)
                        << (j - i);
            }
            *bits++ = word;
        }
}
#else
typedef int nw_no_kernels_here;
#endif
