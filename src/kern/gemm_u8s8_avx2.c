/* gemm_u8s8_avx2.c: u8·s8 tiles of up to 4 × 16 without VNNI. vpmaddubsw would saturate (255·127 + 255·127
 * > 32767), so both sides are widened to 16 bits and multiplied by vpmaddwd, which is exact. Must not
 * include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm.h"
#include "kern/unroll.h"

#include <immintrin.h>

NW_INLINE __m256i broadcast4(const uint8_t *p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}

/* The four k of a group are split into even (0, 2) and odd (1, 3), as 16-bit pairs, on both sides:
 *     acc += a_even·w_even + a_odd·w_odd */
NW_INLINE void tile_of(const nw_gemm_u8s8_tile *tile, const int M, const int V) {
    __m256i acc[4][2];
    const int8_t *w = tile->w;
    const char *next = tile->fetch.at;
    const size_t groups = (tile->k + 3) / 4, step = tile->fetch.step;
    const __m256i even = _mm256_set1_epi16(0xff);
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = _mm256_setzero_si256();
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const uint8_t *a[4];
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        for (size_t g = 0; g < groups; g++, w += 32 * V, next += step) {
            __m256i x0[2], x1[2];
            _mm_prefetch(next, _MM_HINT_T1);
            NW_UNROLL
            for (int v = 0; v < V; v++) {
                __m256i x = _mm256_load_si256((const __m256i *)(w + 32 * v));
                x0[v] = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
                x1[v] = _mm256_srai_epi16(x, 8);
            }
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                __m256i b = broadcast4(a[i] + 4 * g);
                __m256i b0 = _mm256_and_si256(b, even), b1 = _mm256_srli_epi16(b, 8);
                NW_UNROLL
                for (int v = 0; v < V; v++) {
                    acc[i][v] = _mm256_add_epi32(acc[i][v], _mm256_madd_epi16(b0, x0[v]));
                    acc[i][v] = _mm256_add_epi32(acc[i][v], _mm256_madd_epi16(b1, x1[v]));
                }
            }
        }
    }
    int32_t sums[4 * 16] __attribute__((aligned(32)));
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) _mm256_store_si256((__m256i *)(sums + 8 * (i * V + v)), acc[i][v]);
    nw_epilogue__avx2(tile->epilogue, tile->row, tile->col, (size_t)M, tile->n, tile->row_sums, sums,
                      8 * (size_t)V, tile->c, tile->ldc);
}

#define TILES(X) X(1) X(2) X(3) X(4)
#define TILE(m)                                                                                              \
    static void tile_##m##x8(const nw_gemm_u8s8_tile *tile) {                                                \
        tile_of(tile, m, 1);                                                                                 \
    }                                                                                                        \
    static void tile_##m##x16(const nw_gemm_u8s8_tile *tile) {                                               \
        tile_of(tile, m, 2);                                                                                 \
    }
TILES(TILE)

void nw_gemm_u8s8__avx2(const nw_gemm_u8s8_tile *tile) {
    static nw_gemm_u8s8_fn *const tiles[][2] = {
#define ENTRY(m) {tile_##m##x8, tile_##m##x16},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 8](tile);
}

void nw_gemm_row_sums__avx2(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                            int32_t *sums) {
    for (size_t i = 0; i < m; i++) {
        __m256i acc = _mm256_setzero_si256(); /* four 64-bit sums */
        uint64_t sum = 0;
        for (size_t t = 0; t < taps; t++) {
            const uint8_t *row = rows[t * row_stride + i];
            size_t j = 0;
            for (; j + 32 <= k; j += 32)
                acc = _mm256_add_epi64(acc, _mm256_sad_epu8(_mm256_loadu_si256((const __m256i *)(row + j)),
                                                            _mm256_setzero_si256()));
            for (; j < k; j++) sum += row[j];
        }
        sum += (uint64_t)_mm256_extract_epi64(acc, 0) + (uint64_t)_mm256_extract_epi64(acc, 1) +
               (uint64_t)_mm256_extract_epi64(acc, 2) + (uint64_t)_mm256_extract_epi64(acc, 3);
        sums[i] = (int32_t)(uint32_t)sum;
    }
}
#else
typedef int nw_no_kernels_here;
#endif
