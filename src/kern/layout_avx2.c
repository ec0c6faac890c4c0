/* layout_avx2.c: transposes in registers: 16×16 bytes, 8×8 words; the reference does the edges.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/layout.h"
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

/* Tall blocks: a few columns at a time over all rows would touch a line of dst once per block of rows;
 * going down the rows first fills dst's lines while they are in cache. */
#define TRANSPOSE(name, type, block, step, edge)                                                             \
    void name(size_t rows, size_t cols, const void *src, size_t ld_src, void *dst, size_t ld_dst) {          \
        const type *from = src;                                                                              \
        type *to = dst;                                                                                      \
        const size_t whole_rows = rows / step * step, whole_cols = cols / step * step;                       \
        for (size_t c = 0; c < whole_cols; c += step)                                                        \
            for (size_t r = 0; r < whole_rows; r += step)                                                    \
                block(from + r * ld_src + c, ld_src, to + c * ld_dst + r, ld_dst);                           \
        if (whole_rows < rows)                                                                               \
            edge(rows - whole_rows, whole_cols, from + whole_rows * ld_src, ld_src, to + whole_rows,         \
                 ld_dst);                                                                                    \
        if (whole_cols < cols)                                                                               \
            edge(rows, cols - whole_cols, from + whole_cols, ld_src, to + whole_cols * ld_dst, ld_dst);      \
    }
TRANSPOSE(nw_transpose_b8__avx2, uint8_t, block_16x16, 16, nw_transpose_b8__scalar)
TRANSPOSE(nw_transpose_b32__avx2, uint32_t, block_8x8, 8, nw_transpose_b32__scalar)
#else
typedef int nw_no_kernels_here;
#endif
