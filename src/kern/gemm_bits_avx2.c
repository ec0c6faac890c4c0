/* gemm_bits_avx2.c: four columns to a register. Bits are counted by looking up halves of bytes (Muła, Kurz and Lemire 2018,
 * "Faster population counts using AVX2 instructions"); bytes are added up for as long as they hold the sum.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>

#define NW_KERNEL(name) nw_##name##__avx2
#define LANES           4
#define VECTORS         2
#define MR              4
#define STRETCH         31 /* words whose counts a byte holds: 31·8 < 256 */
typedef __m256i vector;

static inline vector load(const uint64_t *w) {
    return _mm256_loadu_si256((const __m256i *)(const void *)w);
}
static inline vector repeat(uint64_t w) {
    return _mm256_set1_epi64x((long long)w);
}
static inline vector count(vector part, vector x) {
    const __m256i half = _mm256_set1_epi8(15);
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_and_si256(x, half), high = _mm256_and_si256(_mm256_srli_epi16(x, 4), half);
    part = _mm256_add_epi8(part, _mm256_shuffle_epi8(table, low));
    return _mm256_add_epi8(part, _mm256_shuffle_epi8(table, high));
}
static inline vector flush(vector sum, vector part) {
    return _mm256_add_epi64(sum, _mm256_sad_epu8(part, _mm256_setzero_si256()));
}
static inline void store(int32_t *to, vector sum) {
    const __m256i low = _mm256_permutevar8x32_epi32(sum, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(low));
}

#include "kern/gemm_bits_body.h"

void nw_pack_signs__avx2(size_t rows, size_t k, const float *x, uint64_t *bits) {
    for (size_t r = 0; r < rows; r++, x += k)
        for (size_t i = 0; i < k; i += 64) {
            const size_t end = k - i < 64 ? k : i + 64;
            uint64_t word = 0;
            size_t j = i;
            for (; j + 8 <= end; j += 8) {
                const __m256 v = _mm256_loadu_ps(x + j);
                const int signs = _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NLT_UQ));
                word |= (uint64_t)(uint32_t)signs << (j - i);
            }
            for (; j < end; j++) word |= (uint64_t) !(x[j] < 0) << (j - i);
            *bits++ = word;
        }
}
#else
typedef int nw_no_kernels_here;
#endif
