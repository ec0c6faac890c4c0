/* gemm_wcodes_avx512bf16.c: the bf16 tile of gemm_wcodes.h with vdpbf16ps: a word is a pair of weights of one column. Must not
 * include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm_wcodes_avx512.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

NW_INLINE __m512bh as_pairs(__m512i x) {
    __m512bh y;
    memcpy(&y, &x, sizeof y);
    return y;
}

/* acc[i][v] += a[i][k]·w[k] + a[i][k+1]·w[k+1]; pair[i]: both activations. */
NW_INLINE void add_pair(const char *words, const int32_t *pair, __m512 (*acc)[2], const int M) {
    const __m512bh x[2] = {as_pairs(_mm512_loadu_si512(words)), as_pairs(_mm512_loadu_si512(words + 64))};
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        const __m512bh s = as_pairs(_mm512_set1_epi32(pair[i]));
        acc[i][0] = _mm512_dpbf16_ps(acc[i][0], s, x[0]);
        acc[i][1] = _mm512_dpbf16_ps(acc[i][1], s, x[1]);
    }
}

NW_INLINE void tile_of(const nw_wgemm_bf16_tile *tile, const int M) {
    const nw_wcodes *w = tile->w;
    const size_t head = nw_wcodes_head(w, NR);
    const char *p = tile->panel;
    const uint16_t *a[12];
    float total[12][NR]; /* in memory: the sums of a block need the registers */
    memset(total, 0, sizeof total);
    NW_UNROLL
    for (int i = 0; i < M; i++)
        a[i] = (const uint16_t *)((const char *)tile->a + ((size_t)i < tile->m ? (size_t)i : 0) * tile->lda);
    for (size_t k = 0; k < w->k;) {
        const char *record = p;
        size_t left = w->k - k < w->block ? w->k - k : w->block;
        __m512 acc[12][2];
        int32_t pair[12];
        NW_UNROLL
        for (int i = 0; i < M; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
        p += head;
        for (; left >= 2; left -= 2, k += 2, p += 4 * NR) {
            NW_UNROLL
            for (int i = 0; i < M; i++) memcpy(&pair[i], a[i] + k, 4);
            add_pair(p, pair, acc, M);
        }
        if (left) { /* half a pair */
            NW_UNROLL
            for (int i = 0; i < M; i++) pair[i] = a[i][k];
            add_pair(p, pair, acc, M);
            k++;
            p += 4 * NR;
        }
        NW_UNROLL
        for (int v = 0; v < 2; v++) {
            const __m512 scale = load_scale(w, record, v);
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                const __m512 sum = _mm512_loadu_ps(total[i] + 16 * v);
                _mm512_storeu_ps(total[i] + 16 * v, _mm512_fmadd_ps(scale, acc[i][v], sum));
            }
        }
    }
    const __m512 lo = _mm512_set1_ps(tile->lo), hi = _mm512_set1_ps(tile->hi);
    for (int v = 0; v < 2; v++) {
        const __mmask16 mask = columns_mask(tile->n, v);
        const __m512 bias =
            tile->bias ? _mm512_maskz_loadu_ps(mask, tile->bias + 16 * v) : _mm512_setzero_ps();
        for (size_t i = 0; i < tile->m;
             i++) { /* the second operand of min and max survives when one is a NaN */
            __m512 y = _mm512_add_ps(_mm512_loadu_ps(total[i] + 16 * v), bias);
            y = _mm512_min_ps(hi, _mm512_max_ps(lo, y));
            _mm512_mask_storeu_ps((char *)tile->c + i * tile->ldc + 64 * v, mask, y);
        }
    }
}

/* Tiles of M rows serve fewer too: they repeat the first row. */
#define TILE(m)                                                                                              \
    static void tile_##m(const nw_wgemm_bf16_tile *tile) {                                                   \
        tile_of(tile, m);                                                                                    \
    }
TILE(1)
TILE(2)
TILE(4)
TILE(8)
TILE(12)

void nw_wgemm_bf16__avx512bf16(const nw_wgemm_bf16_tile *tile) {
    static nw_wgemm_bf16_fn *const tiles[12] = {tile_1, tile_2, tile_4,  tile_4,  tile_8,  tile_8,
                                                tile_8, tile_8, tile_12, tile_12, tile_12, tile_12};
    tiles[tile->m - 1](tile);
}
#else
typedef int nw_no_kernels_here;
#endif
