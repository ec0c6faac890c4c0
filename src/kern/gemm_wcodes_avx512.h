/* gemm_wcodes_avx512.h: what the tiles of gemm_wcodes.h on 512 bits share, 32 columns in two registers; for files compiled for
 * AVX-512 only. Must not include anything but kern/. */
#ifndef NW_KERN_GEMM_WCODES_AVX512_H
#define NW_KERN_GEMM_WCODES_AVX512_H

#include "kern/gemm_avx512.h"
#include "kern/gemm_wcodes.h"
#include "kern/unroll.h"

#define NR 32

/* Scales of sixteen columns. */
static inline __m512 load_scale(const nw_wcodes *w, const char *head, int v) {
    if (w->scale_format == NW_F32) return _mm512_loadu_ps(head + 64 * v);
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(head + 32 * v));
    if (w->scale_format == NW_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

#define MOST_ROWS 8 /* of a tile */

/* A block's sums, in S ≤ 4 sets that took turns, times its columns' scales: added to the tile's. */
NW_INLINE void add_block(const nw_wcodes *w, const char *head, __m512 (*acc)[MOST_ROWS][2],
                         __m512 (*total)[2], const int M, const int S) {
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        const __m512 scale = load_scale(w, head, v);
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            __m512 sum = acc[0][i][v];
            if (S > 1) sum = _mm512_add_ps(sum, acc[1][i][v]);
            if (S > 2) sum = _mm512_add_ps(sum, _mm512_add_ps(acc[2][i][v], acc[3][i][v]));
            total[i][v] = _mm512_fmadd_ps(scale, sum, total[i][v]);
        }
    }
}

/* C's tile ← its M rows of sums, of which the tile may have fewer. */
NW_INLINE void store_sums(const nw_wgemm_f32_tile *tile, __m512 (*total)[2], const int M) {
    const __m512 lo = _mm512_set1_ps(tile->lo), hi = _mm512_set1_ps(tile->hi);
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        const __mmask16 mask = columns_mask(tile->n, v);
        const __m512 bias =
            tile->bias ? _mm512_maskz_loadu_ps(mask, tile->bias + 16 * v) : _mm512_setzero_ps();
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            if ((size_t)i >= tile->m) continue;
            __m512 y = _mm512_add_ps(total[i][v], bias);
            y = _mm512_min_ps(hi, _mm512_max_ps(lo, y)); /* the second operand survives when one is a NaN */
            _mm512_mask_storeu_ps((char *)tile->c + (size_t)i * tile->ldc + 64 * v, mask, y);
        }
    }
}

#endif
