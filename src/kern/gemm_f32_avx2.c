/* gemm_f32_avx2.c: f32 tiles of up to 6 × 16: 12 accumulators, 2 registers of weights, broadcasts of A.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

/* acc[i][v] += broadcast a_t[i][k] · w[t][k][8v … 8v+8) */
NW_INLINE void tile_of(const nw_gemm_f32_tile *tile, const int M, const int V) {
    __m256 acc[6][2];
    const float *w = tile->w;
    const char *next = tile->fetch.at;
    const size_t depth = tile->k, step = tile->fetch.step;
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = _mm256_setzero_ps();
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const float *a[6];
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        for (size_t k = 0; k < depth; k++, w += 8 * V, next += step) {
            __m256 x[2];
            _mm_prefetch(next, _MM_HINT_T1);
            NW_UNROLL
            for (int v = 0; v < V; v++) x[v] = _mm256_load_ps(w + 8 * v);
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                __m256 s = _mm256_set1_ps(a[i][k]);
                NW_UNROLL
                for (int v = 0; v < V; v++) acc[i][v] = _mm256_fmadd_ps(s, x[v], acc[i][v]);
            }
        }
    }
    const __m256 lo = _mm256_set1_ps(tile->lo), hi = _mm256_set1_ps(tile->hi);
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        size_t left = tile->n > 8 * (size_t)v ? tile->n - 8 * (size_t)v : 0,
               bytes = (left < 8 ? left : 8) * 4;
        float bias[8] = {0}, old[8] = {0};
        if (tile->bias) memcpy(bias, tile->bias + 8 * v, bytes);
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            float *c = (float *)((char *)tile->c + (size_t)i * tile->ldc) + 8 * v;
            __m256 y = _mm256_add_ps(acc[i][v], _mm256_loadu_ps(bias));
            if (tile->accumulate) {
                memcpy(old, c, bytes);
                y = _mm256_add_ps(y, _mm256_loadu_ps(old));
            }
            y = _mm256_min_ps(hi, _mm256_max_ps(lo, y)); /* the second operand survives when one is a NaN */
            if (left >= 8) {
                _mm256_storeu_ps(c, y);
            } else {
                _mm256_storeu_ps(old, y);
                memcpy(c, old, bytes);
            }
        }
    }
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TILE(m)                                                                                              \
    static void tile_##m##x8(const nw_gemm_f32_tile *tile) {                                                 \
        tile_of(tile, m, 1);                                                                                 \
    }                                                                                                        \
    static void tile_##m##x16(const nw_gemm_f32_tile *tile) {                                                \
        tile_of(tile, m, 2);                                                                                 \
    }
TILES(TILE)

void nw_gemm_f32__avx2(const nw_gemm_f32_tile *tile) {
    static nw_gemm_f32_fn *const tiles[][2] = {
#define ENTRY(m) {tile_##m##x8, tile_##m##x16},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 8](tile);
}
#else
typedef int nw_no_kernels_here;
#endif
