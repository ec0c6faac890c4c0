/* gemm_wcodes_u8_256.h: the u8 tile of gemm_wcodes.h on 256 bits, 16 columns in two registers. Included once per ISA, by a file
 * compiled for it that defines NW_KERNEL(name) as nw_name__word and
 *     __m256i dot4(kind, acc, a, steps): acc + Σ of the four products of u8 a and s8 steps in each lane, exact;
 * nothing else may include it. Must not include anything but kern/. */
#include "kern/gemm_wcodes.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

#define NR 16

NW_INLINE __m256 load_scale(const nw_wcodes *w, const char *head, int v) {
    if (w->scale_format == NW_F32) return _mm256_loadu_ps((const void *)(head + 32 * v));
    __m128i half = _mm_loadu_si128((const void *)(head + 16 * v));
    if (w->scale_format == NW_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Zero points of eight columns as numbers, and each in the four bytes of a lane. */
NW_INLINE __m256i whole_zeros(const char *zeros, int v) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * v)));
}
NW_INLINE __m256i spread_zeros(const char *zeros, int v) {
    const __m256i spread =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    return _mm256_shuffle_epi8(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * v))), spread);
}

/* Four codes of each lane, in the low bits of its bytes, as bytes of step − zero. */
NW_INLINE __m256i steps_of(const nw_wcodes_kind kind, const bool zeros, __m256i table, __m256i zero,
                           __m256i x) {
    if (kind == NW_WCODES_S8) return x;
    x = _mm256_shuffle_epi8(table, _mm256_and_si256(x, _mm256_set1_epi8(15)));
    return zeros ? _mm256_sub_epi8(x, zero) : x;
}

NW_INLINE void load_words(const char *p, __m256i *x) {
    x[0] = _mm256_loadu_si256((const void *)p);
    x[1] = _mm256_loadu_si256((const void *)(p + 32));
}

/* acc[i][v] += Σ of four products; four[i]: the rows' activations of the same k. Bytes less a zero point do not fit into
 * bytes: sums[i] += Σ of the activations, which the zero points are multiplied with behind the block. */
NW_INLINE void add_group(const nw_wcodes_kind kind, const bool zeros, __m256i table, const __m256i *zero,
                         const __m256i *x, const int32_t *four, __m256i (*acc)[2], __m256i *sums,
                         const int M) {
    const __m256i steps[2] = {steps_of(kind, zeros, table, zero[0], x[0]),
                              steps_of(kind, zeros, table, zero[1], x[1])};
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        const __m256i s = _mm256_set1_epi32(four[i]);
        acc[i][0] = dot4(kind, acc[i][0], s, steps[0]);
        acc[i][1] = dot4(kind, acc[i][1], s, steps[1]);
        if (kind == NW_WCODES_S8 && zeros) sums[i] = dot4(NW_WCODES_TABLE, sums[i], s, _mm256_set1_epi8(1));
    }
}

NW_INLINE void u8_tile_of(const nw_wgemm_u8_tile *tile, const nw_wcodes_kind kind, const int bits,
                          const bool zeros, const int M) {
    const nw_wcodes *w = tile->w;
    const size_t per_word = 32 / (size_t)bits, head = nw_wcodes_head(w, NR);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)w->step));
    const char *p = tile->panel;
    const uint8_t *a[4];
    __m256 total[4][2];
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        a[i] = tile->a + ((size_t)i < tile->m ? (size_t)i : 0) * tile->lda;
        total[i][0] = total[i][1] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < w->k;) {
        const char *record = p;
        size_t left = w->k - k < w->block ? w->k - k : w->block;
        __m256i acc[4][2], sums[4], zero[2], x[2];
        NW_UNROLL
        for (int i = 0; i < M; i++) acc[i][0] = acc[i][1] = sums[i] = _mm256_setzero_si256();
        NW_UNROLL
        for (int v = 0; v < 2; v++)
            zero[v] = !zeros                 ? _mm256_setzero_si256()
                      : kind == NW_WCODES_S8 ? whole_zeros(p + head - NR, v)
                                             : spread_zeros(p + head - NR, v);
        p += head;
        for (; left >= per_word; left -= per_word, p += 4 * NR) {
            load_words(p, x);
            for (int group = 0; group < 8 / bits; group++, k += 4) {
                int32_t four[4];
                NW_UNROLL
                for (int i = 0; i < M; i++) memcpy(&four[i], a[i] + k, 4);
                add_group(kind, zeros, table, zero, x, four, acc, sums, M);
                x[0] = _mm256_srli_epi32(x[0], bits);
                x[1] = _mm256_srli_epi32(x[1], bits);
            }
        }
        if (left) { /* a part of a word: missing activations count as 0 */
            load_words(p, x);
            for (size_t used; left; k += used, left -= used) {
                int32_t four[4];
                used = left < 4 ? left : 4;
                for (int i = 0; i < M; i++) four[i] = nw_wgemm_four(a[i] + k, used);
                add_group(kind, zeros, table, zero, x, four, acc, sums, M);
                x[0] = _mm256_srli_epi32(x[0], bits);
                x[1] = _mm256_srli_epi32(x[1], bits);
            }
            p += 4 * NR;
        }
        NW_UNROLL
        for (int v = 0; v < 2; v++) {
            const __m256 scale = load_scale(w, record, v);
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                __m256i sum = acc[i][v];
                if (kind == NW_WCODES_S8 && zeros)
                    sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(sums[i], zero[v]));
                total[i][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, total[i][v]);
            }
        }
    }
    const __m256 lo = _mm256_set1_ps(tile->lo), hi = _mm256_set1_ps(tile->hi);
    float sums[NR] = {0}, bias[NR] = {0}, y[NR];
    memcpy(sums, tile->sums, tile->n * sizeof *sums);
    if (tile->bias) memcpy(bias, tile->bias, tile->n * sizeof *bias);
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        if ((size_t)i >= tile->m) continue;
        NW_UNROLL
        for (int v = 0; v < 2; v++) { /* the second operand of min and max survives when one is a NaN */
            __m256 shift = _mm256_mul_ps(_mm256_set1_ps(tile->zero[i]), _mm256_loadu_ps(sums + 8 * v));
            __m256 sum = _mm256_mul_ps(_mm256_sub_ps(total[i][v], shift), _mm256_set1_ps(tile->factor[i]));
            if (tile->bias) sum = _mm256_add_ps(sum, _mm256_loadu_ps(bias + 8 * v));
            _mm256_storeu_ps(y + 8 * v, _mm256_min_ps(hi, _mm256_max_ps(lo, sum)));
        }
        memcpy((char *)tile->c + (size_t)i * tile->ldc, y, tile->n * sizeof *y);
    }
}

/* Tiles of M rows serve fewer too: they repeat the first row. */
#define U8_TILE(name, m, kind, bits, zeros)                                                                  \
    static void u8_##name##_##m(const nw_wgemm_u8_tile *tile) {                                              \
        u8_tile_of(tile, NW_WCODES_##kind, bits, zeros, m);                                                  \
    }
#define U8_TILES(name, kind, bits, zeros)                                                                    \
    U8_TILE(name, 1, kind, bits, zeros)                                                                      \
    U8_TILE(name, 2, kind, bits, zeros)                                                                      \
    U8_TILE(name, 4, kind, bits, zeros)                                                                      \
    static nw_wgemm_u8_fn *const u8_##name[4] = {u8_##name##_1, u8_##name##_2, u8_##name##_4, u8_##name##_4};
NW_WCODES_WHOLE_VARIANTS(U8_TILES)

void NW_KERNEL(wgemm_u8)(const nw_wgemm_u8_tile *tile) {
#define ENTRY(name, kind, bits, zeros) u8_##name,
    static nw_wgemm_u8_fn *const *const variants[] = {NW_WCODES_WHOLE_VARIANTS(ENTRY)};
#undef ENTRY
    variants[nw_wcodes_variant(tile->w)][tile->m - 1](tile);
}
