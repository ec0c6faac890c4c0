/* dwconv_lines_avx512vnni.c: dwconv_lines_body.h on 512 bits with vpdpbusd. Must not include anything but
 * kern/. */
#if defined(__x86_64__)
#include "kern/epilogue.h"
#include "kern/lookup_avx512vnni.h"
#include "kern/unroll.h"

#include <immintrin.h>

#define LINES_KERNEL nw_dwconv_u8s8_lines__avx512vnni
#define LANES        4
#define epilogue_of  nw_epilogue__avx512vnni
#define look_up_rows nw_look_up_tile
typedef __m512i reg;

NW_INLINE __m512i quarters_of(const __m128i *x) {
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(x[0]), x[1], 1);
    __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(x[2]), x[3], 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* 64/P channels, of which n exist, of each of P pixels, side by side. */
NW_INLINE __m512i load_codes(const uint8_t *const *from, size_t n, const size_t P) {
    const __mmask64 mask = ~(__mmask64)0 >> (64 - n);
    if (P == 1) return _mm512_maskz_loadu_epi8(mask, from[0]);
    if (P == 2) {
        __m256i low = _mm256_maskz_loadu_epi8((__mmask32)mask, from[0]);
        __m256i high = _mm256_maskz_loadu_epi8((__mmask32)mask, from[1]);
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    __m128i x[4];
    NW_UNROLL
    for (int p = 0; p < 4; p++) x[p] = _mm_maskz_loadu_epi8((__mmask16)mask, from[p]);
    return quarters_of(x);
}

NW_INLINE void store_codes(__m512i y, char *const *to, size_t n, const size_t P) {
    const __mmask64 mask = ~(__mmask64)0 >> (64 - n);
    if (P == 1) {
        _mm512_mask_storeu_epi8(to[0], mask, y);
    } else if (P == 2) {
        _mm256_mask_storeu_epi8(to[0], (__mmask32)mask, _mm512_castsi512_si256(y));
        _mm256_mask_storeu_epi8(to[1], (__mmask32)mask, _mm512_extracti64x4_epi64(y, 1));
    } else {
        _mm_mask_storeu_epi8(to[0], (__mmask16)mask, _mm512_castsi512_si128(y));
        _mm_mask_storeu_epi8(to[1], (__mmask16)mask, _mm512_extracti32x4_epi32(y, 1));
        _mm_mask_storeu_epi8(to[2], (__mmask16)mask, _mm512_extracti32x4_epi32(y, 2));
        _mm_mask_storeu_epi8(to[3], (__mmask16)mask, _mm512_extracti32x4_epi32(y, 3));
    }
}

NW_INLINE __m512i lanes_of(const int32_t *const *lane) {
    __m128i x[4];
    NW_UNROLL
    for (int l = 0; l < 4; l++) x[l] = _mm_loadu_si128((const void *)lane[l]);
    return quarters_of(x);
}

NW_INLINE void interleave(const __m512i *a, __m512i *to) {
    __m512i low01 = _mm512_unpacklo_epi8(a[0], a[1]), high01 = _mm512_unpackhi_epi8(a[0], a[1]);
    __m512i low23 = _mm512_unpacklo_epi8(a[2], a[3]), high23 = _mm512_unpackhi_epi8(a[2], a[3]);
    to[0] = _mm512_unpacklo_epi16(low01, low23), to[1] = _mm512_unpackhi_epi16(low01, low23);
    to[2] = _mm512_unpacklo_epi16(high01, high23), to[3] = _mm512_unpackhi_epi16(high01, high23);
}

/* Weights where they are, or repeated for P pieces in `to`. */
static const char *expand(const int8_t *packed, size_t count, size_t P, char *to) {
    const __m512i *w = (const __m512i *)(const void *)packed;
    if (P == 1) return (const char *)packed;
    for (size_t i = 0; i < count; i++)
        _mm512_storeu_si512(to + 64 * i, P == 2 ? _mm512_shuffle_i32x4(w[i], w[i], 0x44)
                                                : _mm512_shuffle_i32x4(w[i], w[i], 0x00));
    return to;
}

NW_INLINE __m512i dot(__m512i acc, const __m512i *a, const char *w) {
    return _mm512_dpbusd_epi32(acc, *a, *(const __m512i *)(const void *)w);
}

NW_INLINE reg start_of(reg bias, const char *w, size_t steps) {
    (void)w, (void)steps;
    return bias;
}

typedef struct code_limits {
    __m512i zero, lo, hi; /* 16, 8, 8 bits */
} code_limits;

static code_limits limits_of(const nw_epilogue *e) {
    return (code_limits){_mm512_set1_epi16((int16_t)e->zero), _mm512_set1_epi8((char)e->lo),
                         _mm512_set1_epi8((char)e->hi)};
}

/* Saturating to 16 bits, adding the zero point with saturation and saturating to 8 bits changes no code.
 * Packing within lanes puts the four quarters of a lane back in order. */
NW_INLINE __m512i codes_of(const __m512i *acc, const __m512i *scale, const code_limits *l) {
    __m512i q[4];
    NW_UNROLL
    for (int i = 0; i < 4; i++)
        q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[i]), _mm512_castsi512_ps(scale[i])));
    __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), l->zero);
    __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), l->zero);
    return _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(low, high), l->lo), l->hi);
}

#include "kern/dwconv_lines_body.h"
#else
typedef int nw_no_kernels_here;
#endif
