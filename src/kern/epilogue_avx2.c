/* epilogue_avx2.c: the epilogue, 8 columns at a time; the reference finishes the last ones.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/epilogue.h"
#include "kern/unroll.h"

#include <immintrin.h>

static __m256i load_or_zero(const int32_t *p, size_t col) {
    return p ? _mm256_loadu_si256((const __m256i *)(p + col)) : _mm256_setzero_si256();
}

/* The codes of 8 columns, each in 32 bits, as 8 bytes. */
NW_INLINE __m128i narrow(__m256i q) {
    __m128i s16 = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    return _mm_packus_epi16(s16, s16);
}

static void block(const nw_epilogue *e, size_t row, size_t col, size_t m, const int32_t *row_sums,
                  const int32_t *acc, size_t ld_acc, char *out, size_t ldy) {
    const __m256i bias = load_or_zero(e->bias, col), wzero = load_or_zero(e->wzero, col);
    const __m256i col_sum = load_or_zero(e->row_zero ? e->col_sum : NULL, col),
                  zero = _mm256_set1_epi32(e->zero);
    const __m256 scale = e->out == NW_OUT_S32 ? _mm256_setzero_ps() : _mm256_loadu_ps(e->scale + col);
    const __m256 fbias =
        e->out == NW_OUT_F32 && e->fbias ? _mm256_loadu_ps(e->fbias + col) : _mm256_setzero_ps();
    /* U8: clamping before the zero point is added gives the same code (epilogue_avx512vnni.c). */
    const __m256 lo = _mm256_set1_ps(e->out == NW_OUT_F32 ? e->flo : (float)(e->lo - e->zero));
    const __m256 hi = _mm256_set1_ps(e->out == NW_OUT_F32 ? e->fhi : (float)(e->hi - e->zero));
    for (size_t i = 0; i < m; i++, acc += ld_acc, out += ldy) {
        __m256i x = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)acc), bias);
        if (e->wzero) x = _mm256_sub_epi32(x, _mm256_mullo_epi32(wzero, _mm256_set1_epi32(row_sums[i])));
        if (e->row_zero)
            x = _mm256_sub_epi32(x, _mm256_mullo_epi32(col_sum, _mm256_set1_epi32(e->row_zero[row + i])));
        if (e->out == NW_OUT_S32) {
            _mm256_storeu_si256((__m256i *)out, x);
            continue;
        }
        __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(x), scale);
        if (e->out == NW_OUT_F32) {
            if (e->row_scale) f = _mm256_mul_ps(f, _mm256_set1_ps(e->row_scale[row + i]));
            if (e->fbias) f = _mm256_add_ps(f, fbias);
            /* The second operand survives when one is a NaN. */
            _mm256_storeu_ps((float *)out, _mm256_min_ps(hi, _mm256_max_ps(lo, f)));
            continue;
        }
        f = _mm256_min_ps(_mm256_max_ps(f, lo), hi);
        _mm_storel_epi64((__m128i *)out, narrow(_mm256_add_epi32(_mm256_cvtps_epi32(f), zero)));
        if (e->table)
            for (int j = 0; j < 8; j++) out[j] = (char)e->table[(uint8_t)out[j]];
    }
}

void nw_epilogue__avx2(const nw_epilogue *e, size_t row, size_t col, size_t m, size_t n,
                       const int32_t *row_sums, const int32_t *acc, size_t ld_acc, void *y, size_t ldy) {
    size_t j = 0, size = nw_epilogue_size(e->out);
    for (; j + 8 <= n; j += 8)
        block(e, row, col + j, m, row_sums, acc + j, ld_acc, (char *)y + j * size, ldy);
    if (j < n)
        nw_epilogue__scalar(e, row, col + j, m, n - j, row_sums, acc + j, ld_acc, (char *)y + j * size, ldy);
}
#else
typedef int nw_no_kernels_here;
#endif
