/* elementwise_avx512vnni.c: elementwise_body.h compiled for this ISA. Must not include anything but kern/. */
#if defined(__x86_64__)
#define NW_KERNEL(name) nw_##name##__avx512vnni
#define NW_LANES        16
#define NW_HAVE_LOOKUP
#define NW_HAVE_ADD
#include "kern/elementwise_body.h"
#include "kern/lookup_avx512vnni.h"

void nw_lookup_u8__avx512vnni(size_t n, const uint8_t *x, const uint8_t *table, uint8_t *y) {
    const nw_table512 t = nw_table512_load(table);
    for (; n >= 64; n -= 64, x += 64, y += 64)
        _mm512_storeu_si512(y, nw_look_up_64(&t, _mm512_loadu_si512(x)));
    if (!n) return; /* an empty mask is slow at the end of a page */
    const __mmask64 rest = ((__mmask64)1 << n) - 1;
    _mm512_mask_storeu_epi8(y, rest, nw_look_up_64(&t, _mm512_maskz_loadu_epi8(rest, x)));
}

/* 2^23 + code, for the bytes of x: unpacked to 16 and to 32 bits within 128-bit lanes, the packs below go the same way back. */
NW_INLINE void lifted(__m512i x, __m512 *y) {
    const __m512i zero = _mm512_setzero_si512(), exponent = _mm512_set1_epi16(0x4b00);
    const __m512i low = _mm512_unpacklo_epi8(x, zero), high = _mm512_unpackhi_epi8(x, zero);
    y[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, exponent));
    y[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, exponent));
    y[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(high, exponent));
    y[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(high, exponent));
}

typedef struct sum512 {
    __m512 a_zero, b_zero, a_ratio, b_ratio, least, most;
    __m512i zero;
} sum512;

NW_INLINE __m512i sum_64(const sum512 *p, __m512i a, __m512i b) {
    __m512 own[4], other[4];
    __m512i q[4];
    lifted(a, own);
    lifted(b, other);
    NW_UNROLL
    for (int j = 0; j < 4; j++) { /* the differences are exact */
        __m512 s = _mm512_add_ps(_mm512_mul_ps(_mm512_sub_ps(own[j], p->a_zero), p->a_ratio),
                                 _mm512_mul_ps(_mm512_sub_ps(other[j], p->b_zero), p->b_ratio));
        s = _mm512_min_ps(_mm512_max_ps(s, p->least), p->most);
        q[j] = _mm512_add_epi32(_mm512_cvtps_epi32(s), p->zero);
    }
    return _mm512_packus_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
}

void nw_add_u8__avx512vnni(size_t n, const uint8_t *a, const uint8_t *b, const nw_add_u8_params *p,
                           uint8_t *y) {
    const sum512 s = {_mm512_set1_ps(8388608.0f + (float)p->a_zero),
                      _mm512_set1_ps(8388608.0f + (float)p->b_zero),
                      _mm512_set1_ps(p->a_ratio),
                      _mm512_set1_ps(p->b_ratio),
                      _mm512_set1_ps((float)(p->lo - p->zero)),
                      _mm512_set1_ps((float)(p->hi - p->zero)),
                      _mm512_set1_epi32(p->zero)};
    for (; n >= 64; n -= 64, a += 64, b += 64, y += 64)
        _mm512_storeu_si512(y, sum_64(&s, _mm512_loadu_si512(a), _mm512_loadu_si512(b)));
    if (!n) return;
    const __mmask64 rest = ((__mmask64)1 << n) - 1;
    const __m512i last = sum_64(&s, _mm512_maskz_loadu_epi8(rest, a), _mm512_maskz_loadu_epi8(rest, b));
    _mm512_mask_storeu_epi8(y, rest, last);
}
#else
typedef int nw_no_kernels_here;
#endif
