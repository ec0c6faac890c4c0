/* dwconv_lines_avxvnni.c: dwconv_lines_body.h on 256 bits with the vpdpbusd of AVX-VNNI. Must not include
 * anything but kern/. */
#if defined(__x86_64__)
#include "kern/elementwise.h"
#include "kern/epilogue.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

#define LINES_KERNEL nw_dwconv_u8s8_lines__avxvnni
#define LANES        2
#define epilogue_of  nw_epilogue__avx2
typedef __m256i reg;

/* 1 ≤ n ≤ 8 bytes, then zeros: pieces that overlap where they agree. */
NW_INLINE uint64_t load8(const uint8_t *p, size_t n) {
    uint64_t x;
    uint32_t low, high;
    if (n == 8) {
        memcpy(&x, p, 8);
        return x;
    }
    if (n >= 4) {
        memcpy(&low, p, 4), memcpy(&high, p + n - 4, 4);
        return low | (uint64_t)high << 8 * (n - 4);
    }
    return p[0] | (uint64_t)p[n / 2] << 8 * (n / 2) | (uint64_t)p[n - 1] << 8 * (n - 1);
}

/* 1 ≤ n ≤ 16 bytes, then zeros. */
NW_INLINE __m128i load16(const uint8_t *p, size_t n) {
    if (n == 16) return _mm_loadu_si128((const void *)p);
    if (n <= 8) return _mm_set_epi64x(0, (int64_t)load8(p, n));
    return _mm_set_epi64x((int64_t)load8(p + 8, n - 8), (int64_t)load8(p, 8));
}

/* 32/P channels, of which n exist, of each of P pixels, side by side. */
NW_INLINE __m256i load_codes(const uint8_t *const *from, size_t n, const size_t P) {
    if (P == 1 && n == 32) return _mm256_loadu_si256((const void *)from[0]);
    if (P == 2) {
        __m256i low = _mm256_castsi128_si256(load16(from[0], n));
        return _mm256_inserti128_si256(low, load16(from[1], n), 1);
    }
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const void *)from[0]));
    return _mm256_inserti128_si256(low, load16(from[0] + 16, n - 16), 1);
}

NW_INLINE void store16(__m128i y, char *to, size_t n) {
    char bytes[16];
    if (n == 16) {
        _mm_storeu_si128((void *)to, y);
        return;
    }
    _mm_storeu_si128((void *)bytes, y);
    if (n >= 8) {
        memcpy(to, bytes, 8), memcpy(to + n - 8, bytes + n - 8, 8);
    } else if (n >= 4) {
        memcpy(to, bytes, 4), memcpy(to + n - 4, bytes + n - 4, 4);
    } else {
        to[0] = bytes[0], to[n / 2] = bytes[n / 2], to[n - 1] = bytes[n - 1];
    }
}

NW_INLINE void store_codes(__m256i y, char *const *to, size_t n, const size_t P) {
    const __m128i low = _mm256_castsi256_si128(y), high = _mm256_extracti128_si256(y, 1);
    store16(low, to[0], n < 16 ? n : 16);
    if (P == 2)
        store16(high, to[1], n);
    else
        store16(high, to[0] + 16, n - 16);
}

NW_INLINE __m256i lanes_of(const int32_t *const *lane) {
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const void *)lane[0]));
    return _mm256_inserti128_si256(low, _mm_loadu_si128((const void *)lane[1]), 1);
}

NW_INLINE void interleave(const __m256i *a, __m256i *to) {
    __m256i low01 = _mm256_unpacklo_epi8(a[0], a[1]), high01 = _mm256_unpackhi_epi8(a[0], a[1]);
    __m256i low23 = _mm256_unpacklo_epi8(a[2], a[3]), high23 = _mm256_unpackhi_epi8(a[2], a[3]);
    to[0] = _mm256_unpacklo_epi16(low01, low23), to[1] = _mm256_unpackhi_epi16(low01, low23);
    to[2] = _mm256_unpacklo_epi16(high01, high23), to[3] = _mm256_unpackhi_epi16(high01, high23);
}

/* Weights where they are, every other 32 bytes, or repeated for two pieces in `to`. */
static const char *expand(const int8_t *packed, size_t count, size_t P, char *to) {
    if (P == 1) return (const char *)packed;
    for (size_t i = 0; i < count; i++) {
        const __m128i w = _mm_load_si128((const void *)(packed + 64 * i));
        _mm256_store_si256((void *)(to + 64 * i), _mm256_broadcastsi128_si256(w));
    }
    return to;
}

NW_INLINE __m256i dot(__m256i acc, const __m256i *a, const char *w) {
    return _mm256_dpbusd_avx_epi32(acc, *a, *(const __m256i *)(const void *)w);
}

NW_INLINE reg start_of(reg bias, const char *w, size_t steps) {
    (void)w, (void)steps;
    return bias;
}

typedef struct code_limits {
    __m256i zero, lo, hi; /* 16, 8, 8 bits */
} code_limits;

static code_limits limits_of(const nw_epilogue *e) {
    return (code_limits){_mm256_set1_epi16((int16_t)e->zero), _mm256_set1_epi8((char)e->lo),
                         _mm256_set1_epi8((char)e->hi)};
}

/* As in dwconv_lines_avx512vnni.c. */
NW_INLINE __m256i codes_of(const __m256i *acc, const __m256i *scale, const code_limits *l) {
    __m256i q[4];
    NW_UNROLL
    for (int i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[i]), _mm256_castsi256_ps(scale[i])));
    __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), l->zero);
    __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), l->zero);
    return _mm256_min_epu8(_mm256_max_epu8(_mm256_packus_epi16(low, high), l->lo), l->hi);
}

NW_INLINE void look_up_rows(const uint8_t *table, uint8_t *y, size_t ldy, size_t m, size_t n) {
    for (size_t i = 0; i < m; i++, y += ldy) nw_lookup_u8__avx2(n, y, table, y);
}

#include "kern/dwconv_lines_body.h"
#else
typedef int nw_no_kernels_here;
#endif
