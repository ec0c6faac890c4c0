/* gemm_u8s8_avxvnni.c: u8·s8 tiles of up to 6 × 16 with the 256-bit vpdpbusd of AVX-VNNI: exact.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm.h"
#include "kern/unroll.h"

#include <immintrin.h>

NW_INLINE __m256i broadcast4(const uint8_t *p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}

/* One group of four k: acc[i][v] += Σ_j a[i][at + j] · w[8v … 8v+8)[j]. */
NW_INLINE void group_of(__m256i (*acc)[2], const uint8_t *const *a, size_t at, const int8_t *w, const int M,
                        const int V) {
    __m256i x[2];
    NW_UNROLL
    for (int v = 0; v < V; v++) x[v] = _mm256_load_si256((const __m256i *)(w + 32 * v));
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        __m256i b = broadcast4(a[i] + at);
        NW_UNROLL
        for (int v = 0; v < V; v++) acc[i][v] = _mm256_dpbusd_avx_epi32(acc[i][v], b, x[v]);
    }
}

/* acc[i][v] += Σ_j a_t[i][4g+j] · w[t][g][8v … 8v+8)[j] for groups g of four k. With few rows S sets of
 * accumulators take turns, to hide the latency of vpdpbusd. */
NW_INLINE void tile_of(const nw_gemm_u8s8_tile *tile, const int M, const int V, const size_t S) {
    __m256i acc[4][6][2];
    const int8_t *w = tile->w;
    const char *next = tile->fetch.at;
    const size_t groups = (tile->k + 3) / 4, step = tile->fetch.step;
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++)
        acc[0][i][v] = acc[1][i][v] = acc[2][i][v] = acc[3][i][v] = _mm256_setzero_si256();
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const uint8_t *a[6];
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        if (S == 1 && groups == 1) { /* a first layer: a loop would hold the pointers in memory */
            group_of(acc[0], a, 0, w, M, V);
            w += 32 * V;
            continue;
        }
        size_t g = 0;
        for (; g + S <= groups; g += S, w += 32 * V * S) {
            if (S == 1) { /* more sets mean one tile: nothing to fetch */
                _mm_prefetch(next, _MM_HINT_T1);
                next += step;
            }
            group_of(acc[0], a, 4 * g, w, M, V);
            if (S > 1) group_of(acc[1], a, 4 * g + 4, w + 32 * V, M, V);
            if (S > 2) group_of(acc[2], a, 4 * g + 8, w + 64 * V, M, V);
            if (S > 2) group_of(acc[3], a, 4 * g + 12, w + 96 * V, M, V);
        }
        for (; S > 1 && g < groups; g++, w += 32 * V) group_of(acc[0], a, 4 * g, w, M, V);
    }
    int32_t sums[6 * 16] __attribute__((aligned(32)));
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) {
        if (S > 1) acc[0][i][v] = _mm256_add_epi32(acc[0][i][v], acc[1][i][v]);
        if (S > 2) acc[2][i][v] = _mm256_add_epi32(acc[2][i][v], acc[3][i][v]);
        if (S > 2) acc[0][i][v] = _mm256_add_epi32(acc[0][i][v], acc[2][i][v]);
        _mm256_store_si256((__m256i *)(sums + 8 * (i * V + v)), acc[0][i][v]);
    }
    nw_epilogue__avx2(tile->epilogue, tile->row, tile->col, (size_t)M, tile->n, tile->row_sums, sums,
                      8 * (size_t)V, tile->c, tile->ldc);
}

#define TILES(X) X(1, 4) X(2, 2) X(3, 1) X(4, 1) X(5, 1) X(6, 1)
#define TILE(m, s)                                                                                           \
    static void tile_##m##x8(const nw_gemm_u8s8_tile *tile) {                                                \
        tile_of(tile, m, 1, s);                                                                              \
    }                                                                                                        \
    static void tile_##m##x16(const nw_gemm_u8s8_tile *tile) {                                               \
        tile_of(tile, m, 2, s);                                                                              \
    }
TILES(TILE)

void nw_gemm_u8s8__avxvnni(const nw_gemm_u8s8_tile *tile) {
    static nw_gemm_u8s8_fn *const tiles[][2] = {
#define ENTRY(m, s) {tile_##m##x8, tile_##m##x16},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 8](tile);
}

void nw_gemm_row_sums__avxvnni(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                               int32_t *sums) {
    nw_gemm_row_sums__avx2(m, k, taps, rows, row_stride, sums);
}
#else
typedef int nw_no_kernels_here;
#endif
