/* layout_avx2.c: transposes in registers: 16×16 bytes, 8×8 words, a few rows of any length; the reference does the edges.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/layout_blocks.h"
#include "kern/unroll.h"

#include <immintrin.h>

/* Four rounds of interleaving: each pairs row i with row i+8 and doubles the run of one column's bytes. */
static void block_16x16(const uint8_t *src, size_t ld_src, uint8_t *dst, size_t ld_dst) {
    __m128i x[16], y[16];
    NW_UNROLL
    for (size_t i = 0; i < 16; i++) x[i] = _mm_loadu_si128((const __m128i *)(src + i * ld_src));
    NW_UNROLL
    for (int round = 0; round < 4; round++) {
        NW_UNROLL
        for (int i = 0; i < 8; i++) {
            y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
            y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
        }
        NW_UNROLL
        for (int i = 0; i < 16; i++) x[i] = y[i];
    }
    NW_UNROLL
    for (size_t i = 0; i < 16; i++) _mm_storeu_si128((__m128i *)(dst + i * ld_dst), x[i]);
}

/* The same in three rounds within 128-bit lanes and between them. */
static void block_8x8(const uint32_t *src, size_t ld_src, uint32_t *dst, size_t ld_dst) {
    __m256i x[8], y[8];
    NW_UNROLL
    for (size_t i = 0; i < 8; i++) x[i] = _mm256_loadu_si256((const __m256i *)(src + i * ld_src));
    NW_UNROLL
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    NW_UNROLL
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm256_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm256_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm256_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    NW_UNROLL
    for (size_t i = 0; i < 4; i++) {
        _mm256_storeu_si256((__m256i *)(dst + i * ld_dst), _mm256_permute2x128_si256(x[i], x[i + 4], 0x20));
        _mm256_storeu_si256((__m256i *)(dst + (i + 4) * ld_dst),
                            _mm256_permute2x128_si256(x[i], x[i + 4], 0x31));
    }
}

/* Two to four rows, dst without gaps (the planes of an image become its pixels): byte j of the result's register v is
 * element (16v + j)/R of row (16v + j) % R; 0x80 leaves a byte to the other rows. Returns the columns done. */
NW_INLINE size_t interleave_b8(const uint8_t *src, size_t ld_src, size_t cols, uint8_t *dst, const int R) {
    __m128i from[4][4];
    size_t c = 0;
    NW_UNROLL
    for (int v = 0; v < R; v++) NW_UNROLL
    for (int r = 0; r < R; r++) {
        uint8_t index[16];
        for (int j = 0; j < 16; j++) index[j] = (uint8_t)((16 * v + j) % R == r ? (16 * v + j) / R : 0x80);
        from[v][r] = _mm_loadu_si128((const __m128i *)index);
    }
    for (; c + 16 <= cols; c += 16, dst += 16 * R) {
        __m128i x[4];
        NW_UNROLL
        for (int r = 0; r < R; r++) x[r] = _mm_loadu_si128((const __m128i *)(src + (size_t)r * ld_src + c));
        NW_UNROLL
        for (int v = 0; v < R; v++) {
            __m128i y = _mm_shuffle_epi8(x[0], from[v][0]);
            NW_UNROLL
            for (int r = 1; r < R; r++) y = _mm_or_si128(y, _mm_shuffle_epi8(x[r], from[v][r]));
            _mm_storeu_si128((__m128i *)(dst + 16 * v), y);
        }
    }
    return c;
}

/* The same with words: lane j of register v is element (8v + j)/R of row (8v + j) % R. */
NW_INLINE size_t interleave_b32(const uint32_t *src, size_t ld_src, size_t cols, uint32_t *dst, const int R) {
    __m256i from[4], row[4][4]; /* the same lanes of every row are read; masks choose the row */
    size_t c = 0;
    NW_UNROLL
    for (int v = 0; v < R; v++) {
        int32_t index[8], mask[4][8];
        for (int j = 0; j < 8; j++) {
            index[j] = (8 * v + j) / R;
            for (int r = 0; r < R; r++) mask[r][j] = (8 * v + j) % R == r ? -1 : 0;
        }
        from[v] = _mm256_loadu_si256((const __m256i *)index);
        NW_UNROLL
        for (int r = 0; r < R; r++) row[v][r] = _mm256_loadu_si256((const __m256i *)mask[r]);
    }
    for (; c + 8 <= cols; c += 8, dst += 8 * R) {
        __m256i x[4];
        NW_UNROLL
        for (int r = 0; r < R; r++)
            x[r] = _mm256_loadu_si256((const __m256i *)(src + (size_t)r * ld_src + c));
        NW_UNROLL
        for (int v = 0; v < R; v++) {
            __m256i y = _mm256_permutevar8x32_epi32(x[0], from[v]);
            NW_UNROLL
            for (int r = 1; r < R; r++)
                y = _mm256_blendv_epi8(y, _mm256_permutevar8x32_epi32(x[r], from[v]), row[v][r]);
            _mm256_storeu_si256((__m256i *)(dst + 8 * v), y);
        }
    }
    return c;
}

NW_INLINE void pair_b8(const uint8_t *a, const uint8_t *b, uint8_t *dst) {
    const __m128i x = _mm_loadu_si128((const __m128i *)a), y = _mm_loadu_si128((const __m128i *)b);
    _mm_storeu_si128((__m128i *)dst, _mm_unpacklo_epi8(x, y));
    _mm_storeu_si128((__m128i *)(dst + 16), _mm_unpackhi_epi8(x, y));
}
NW_INLINE void pair_b32(const uint32_t *a, const uint32_t *b, uint32_t *dst) {
    const __m128i x = _mm_loadu_si128((const __m128i *)a), y = _mm_loadu_si128((const __m128i *)b);
    _mm_storeu_si128((__m128i *)dst, _mm_unpacklo_epi32(x, y));
    _mm_storeu_si128((__m128i *)(dst + 4), _mm_unpackhi_epi32(x, y));
}

TRANSPOSE(nw_transpose_b8__avx2, uint8_t, block_16x16, 16, interleave_b8, nw_transpose_b8__scalar)
TRANSPOSE(nw_transpose_b32__avx2, uint32_t, block_8x8, 8, interleave_b32, nw_transpose_b32__scalar)
SHUFFLE(nw_shuffle_b8__avx2, uint8_t, pair_b8, 16, nw_transpose_b8__avx2)
SHUFFLE(nw_shuffle_b32__avx2, uint32_t, pair_b32, 4, nw_transpose_b32__avx2)
#else
typedef int nw_no_kernels_here;
#endif
