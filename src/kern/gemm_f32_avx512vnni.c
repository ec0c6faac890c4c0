/* gemm_f32_avx512vnni.c: f32 tiles of up to 14 × 32: 28 accumulators, 2 registers of weights, broadcasts
 * of A. 14 divides the pixel counts of the usual image networks (7·7·4^i). Must not include anything but
 * kern/. */
#if defined(__x86_64__)
#include "kern/gemm.h"
#include "kern/gemm_avx512.h"
#include "kern/unroll.h"

#include <immintrin.h>

/* acc[i][v] += broadcast a_t[i][k] · w[t][k][16v … 16v+16) */
NW_INLINE void tile_of(const nw_gemm_f32_tile *tile, const int M, const int V) {
    __m512 acc[14][2];
    const float *w = tile->w;
    const char *next = tile->fetch.at;
    const size_t depth = tile->k, step = tile->fetch.step;
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = _mm512_setzero_ps();
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const float *a[14];
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        for (size_t k = 0; k < depth; k++, w += 16 * V, next += step) {
            __m512 x[2];
            _mm_prefetch(next, _MM_HINT_T1);
            NW_UNROLL
            for (int v = 0; v < V; v++) x[v] = _mm512_load_ps(w + 16 * v);
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                __m512 s = _mm512_set1_ps(a[i][k]);
                NW_UNROLL
                for (int v = 0; v < V; v++) acc[i][v] = _mm512_fmadd_ps(s, x[v], acc[i][v]);
            }
        }
    }
    const bool limited = tile->lo > -__builtin_inff() || tile->hi < __builtin_inff();
    const __m512 lo = _mm512_set1_ps(tile->lo), hi = _mm512_set1_ps(tile->hi);
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        const __mmask16 mask = columns_mask(tile->n, v);
        __m512 bias = tile->bias ? _mm512_maskz_loadu_ps(mask, tile->bias + 16 * v) : _mm512_setzero_ps();
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            float *c = (float *)((char *)tile->c + (size_t)i * tile->ldc) + 16 * v;
            __m512 y = _mm512_add_ps(acc[i][v], bias);
            if (tile->accumulate) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, c));
            if (limited)
                y = _mm512_min_ps(hi, _mm512_max_ps(lo, y)); /* the second operand survives as a NaN */
            _mm512_mask_storeu_ps(c, mask, y);
        }
    }
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#define TILE(m)                                                                                              \
    static void tile_##m##x16(const nw_gemm_f32_tile *tile) {                                                \
        tile_of(tile, m, 1);                                                                                 \
    }                                                                                                        \
    static void tile_##m##x32(const nw_gemm_f32_tile *tile) {                                                \
        tile_of(tile, m, 2);                                                                                 \
    }
TILES(TILE)

void nw_gemm_f32__avx512vnni(const nw_gemm_f32_tile *tile) {
    static nw_gemm_f32_fn *const tiles[][2] = {
#define ENTRY(m) {tile_##m##x16, tile_##m##x32},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 16](tile);
}
#else
typedef int nw_no_kernels_here;
#endif
