/* lookup_avx512vnni.h: 256-entry byte tables without gathering: for files named *_avx512vnni.c only.
 * Must not include anything but kern/. */
#ifndef NW_KERN_LOOKUP_AVX512VNNI_H
#define NW_KERN_LOOKUP_AVX512VNNI_H

#include "kern/unroll.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* The table as 4 × 32 words; word w holds the entries 2w and 2w+1. */
typedef struct nw_table512 {
    __m512i part[4];
} nw_table512;

NW_INLINE nw_table512 nw_table512_load(const uint8_t *table) {
    nw_table512 t;
    NW_UNROLL
    for (int i = 0; i < 4; i++) t.part[i] = _mm512_loadu_si512(table + 64 * i);
    return t;
}

/* Codes x in 16-bit lanes: word x/2 from the lower or the upper half of the table, of which the byte x mod
 * 2. */
NW_INLINE __m512i nw_look_up_words(const nw_table512 *t, __m512i x) {
    __m512i word = _mm512_srli_epi16(x, 1);
    __m512i lower = _mm512_permutex2var_epi16(t->part[0], word, t->part[1]);
    __m512i upper = _mm512_permutex2var_epi16(t->part[2], word, t->part[3]);
    __m512i both = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(x, _mm512_set1_epi16(0x80)), lower, upper);
    __m512i shift = _mm512_slli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(1)), 3);
    return _mm512_and_si512(_mm512_srlv_epi16(both, shift), _mm512_set1_epi16(0xff));
}

/* 64 codes. */
NW_INLINE __m512i nw_look_up_64(const nw_table512 *t, __m512i x) {
    __m512i even = nw_look_up_words(t, _mm512_and_si512(x, _mm512_set1_epi16(0xff)));
    __m512i odd = nw_look_up_words(t, _mm512_srli_epi16(x, 8));
    return _mm512_or_si512(even, _mm512_slli_epi16(odd, 8));
}

/* y[i][j] = table[y[i][j]] for m rows of n ≤ 64 bytes, ldy apart; two rows at a time when they fit one
 * register. */
static inline void nw_look_up_tile(const uint8_t *table, uint8_t *y, size_t ldy, size_t m, size_t n) {
    const nw_table512 t = nw_table512_load(table);
    const __mmask64 mask = n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1;
    size_t i = 0;
    for (; n <= 32 && i + 2 <= m; i += 2, y += 2 * ldy) {
        __m256i a = _mm256_maskz_loadu_epi8((__mmask32)mask, y),
                b = _mm256_maskz_loadu_epi8((__mmask32)mask, y + ldy);
        __m512i x = nw_look_up_64(&t, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
        _mm256_mask_storeu_epi8(y, (__mmask32)mask, _mm512_castsi512_si256(x));
        _mm256_mask_storeu_epi8(y + ldy, (__mmask32)mask, _mm512_extracti64x4_epi64(x, 1));
    }
    for (; i < m; i++, y += ldy)
        _mm512_mask_storeu_epi8(y, mask, nw_look_up_64(&t, _mm512_maskz_loadu_epi8(mask, y)));
}

#endif
