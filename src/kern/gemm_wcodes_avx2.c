/* gemm_wcodes_avx2.c: the tiles of gemm_wcodes.h with 16 columns in two registers. vpermps knows eight levels: a table of 16 is
 * two registers, and bit 3 of a code chooses. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm_wcodes.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

/* Exact without vpdpbusd: steps of tables are small enough for vpmaddubsw not to saturate (nw_wcodes.whole); bytes of any size
 * are multiplied as 16-bit numbers, even and odd ones. */
NW_INLINE __m256i dot4(const nw_wcodes_kind kind, __m256i acc, __m256i a, __m256i steps) {
    if (kind == NW_WCODES_TABLE) {
        __m256i pairs = _mm256_maddubs_epi16(a, steps);
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    const __m256i low = _mm256_set1_epi16(255);
    __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(a, low), _mm256_srai_epi16(_mm256_slli_epi16(steps, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(steps, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
#define NW_KERNEL(name) nw_##name##__avx2
#include "kern/gemm_wcodes_u8_256.h"

/* ---- f32 ----------------------------------------------------------------------------------------------- */

#define AHEAD 1024 /* bytes of a panel that are asked for ahead */

/* Eight columns each. */
NW_INLINE __m256i load8(const void *p) {
    return _mm256_loadu_si256(p);
}
NW_INLINE __m256 zeros_of(const char *zeros, int v) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * v))));
}
/* The code in the low bits of each lane as a number. bits 4: the table has two halves. */
NW_INLINE __m256 level_of(const nw_wcodes *w, const nw_wcodes_kind kind, const int bits, const __m256 *table,
                          __m256i x) {
    switch (kind) {
    case NW_WCODES_TABLE: {
        __m256 low = _mm256_permutevar8x32_ps(table[0], x);
        if (bits < 4) return low;
        __m256 high = _mm256_permutevar8x32_ps(table[1], x);
        return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
    }
    case NW_WCODES_S8: return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24), 24));
    case NW_WCODES_TABLE8:
        return _mm256_i32gather_ps(w->levels, _mm256_and_si256(x, _mm256_set1_epi32(255)), 4);
    case NW_WCODES_F16: {
        __m256i half = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
        half = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half),
                                        8); /* packing works on halves: units 0, 2 */
        return _mm256_cvtph_ps(_mm256_castsi256_si128(half));
    }
    default: return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
    }
}

NW_INLINE void add_code(const nw_wcodes *w, const nw_wcodes_kind kind, const int bits, const bool zeros,
                        const __m256 *table, const __m256 *zero, const __m256i *x, const int shift,
                        const float *const *a, size_t at, __m256 (*acc)[2], const int M) {
    __m256 level[2];
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        level[v] = level_of(w, kind, bits, table, shift ? _mm256_srli_epi32(x[v], shift) : x[v]);
        if (zeros) level[v] = _mm256_sub_ps(level[v], zero[v]);
    }
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        const __m256 s = _mm256_set1_ps(a[i][at]);
        NW_UNROLL
        for (int v = 0; v < 2; v++) acc[i][v] = _mm256_fmadd_ps(s, level[v], acc[i][v]);
    }
}

/* bits 0: those of w, below 4. One row has too few accumulators to hide the latency of a multiply-add: S sets take turns. */
NW_INLINE void tile_of(const nw_wgemm_f32_tile *tile, const nw_wcodes_kind kind, const int bits,
                       const bool zeros, const int M, const int S) {
    const nw_wcodes *w = tile->w;
    const int width = bits ? bits : w->bits;
    const size_t per_word = 32 / (size_t)width, head = nw_wcodes_head(w, NR);
    const __m256 table[2] = {_mm256_loadu_ps(w->level), _mm256_loadu_ps(w->level + 8)};
    const char *p = tile->panel;
    const float *a[4];
    __m256 total[4][2];
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        a[i] = (const float *)((const char *)tile->a + ((size_t)i < tile->m ? (size_t)i : 0) * tile->lda);
        total[i][0] = total[i][1] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < w->k;) {
        const char *record = p;
        size_t left = w->k - k < w->block ? w->k - k : w->block;
        __m256 acc[2][4][2], zero[2];
        NW_UNROLL
        for (int i = 0; i < M; i++)
            acc[0][i][0] = acc[0][i][1] = acc[1][i][0] = acc[1][i][1] = _mm256_setzero_ps();
        NW_UNROLL
        for (int v = 0; v < 2; v++) zero[v] = zeros ? zeros_of(p + head - NR, v) : _mm256_setzero_ps();
        p += head;
        for (; left >= per_word; left -= per_word, p += 4 * NR) {
            __m256i x[2] = {load8(p), load8(p + 32)};
            _mm_prefetch(p + AHEAD, _MM_HINT_T0);
            if (kind == NW_WCODES_F16 || kind == NW_WCODES_BF16) {
                add_code(w, kind, bits, zeros, table, zero, x, 0, a, k, acc[0], M);
                add_code(w, kind, bits, zeros, table, zero, x, 16, a, k + 1, acc[S - 1], M);
                k += 2;
                continue;
            }
            for (int group = 0; group < 8 / width; group++, k += 4) {
                add_code(w, kind, bits, zeros, table, zero, x, 0, a, k, acc[0], M);
                add_code(w, kind, bits, zeros, table, zero, x, 8, a, k + 1, acc[S - 1], M);
                add_code(w, kind, bits, zeros, table, zero, x, 16, a, k + 2, acc[0], M);
                add_code(w, kind, bits, zeros, table, zero, x, 24, a, k + 3, acc[S - 1], M);
                x[0] = _mm256_srli_epi32(x[0], width);
                x[1] = _mm256_srli_epi32(x[1], width);
            }
        }
        if (left) { /* a part of a word */
            for (size_t i = 0; i < left; i++, k++) {
                const __m128i shift = _mm_cvtsi32_si128(nw_wcodes_shift(w, i));
                const __m256i x[2] = {_mm256_srl_epi32(load8(p), shift),
                                      _mm256_srl_epi32(load8(p + 32), shift)};
                add_code(w, kind, bits, zeros, table, zero, x, 0, a, k, acc[0], M);
            }
            p += 4 * NR;
        }
        NW_UNROLL
        for (int v = 0; v < 2; v++) {
            const __m256 scale = load_scale(w, record, v);
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                const __m256 sum = S > 1 ? _mm256_add_ps(acc[0][i][v], acc[1][i][v]) : acc[0][i][v];
                total[i][v] = _mm256_fmadd_ps(scale, sum, total[i][v]);
            }
        }
    }
    const __m256 lo = _mm256_set1_ps(tile->lo), hi = _mm256_set1_ps(tile->hi);
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        float y[NR], bias[NR] = {0};
        if ((size_t)i >= tile->m) continue;
        if (tile->bias) memcpy(bias, tile->bias, tile->n * sizeof *bias);
        NW_UNROLL
        for (int v = 0; v < 2; v++) { /* the second operand of min and max survives when one is a NaN */
            __m256 sum = _mm256_add_ps(total[i][v], _mm256_loadu_ps(bias + 8 * v));
            _mm256_storeu_ps(y + 8 * v, _mm256_min_ps(hi, _mm256_max_ps(lo, sum)));
        }
        memcpy((char *)tile->c + (size_t)i * tile->ldc, y, tile->n * sizeof *y);
    }
}

/* Tiles of M rows serve fewer too: they repeat the first row. */
#define TILE(name, m, s, kind, bits, zeros)                                                                  \
    static void name##_##m(const nw_wgemm_f32_tile *tile) {                                                  \
        tile_of(tile, NW_WCODES_##kind, bits, zeros, m, s);                                                  \
    }
#define TILES(name, kind, bits, zeros)                                                                       \
    TILE(name, 1, 2, kind, bits, zeros)                                                                      \
    TILE(name, 2, 1, kind, bits, zeros)                                                                      \
    TILE(name, 4, 1, kind, bits, zeros)                                                                      \
    static nw_wgemm_f32_fn *const name[4] = {name##_1, name##_2, name##_4, name##_4};
NW_WCODES_VARIANTS(TILES)

void nw_wgemm_f32__avx2(const nw_wgemm_f32_tile *tile) {
#define ENTRY(name, kind, bits, zeros) name,
    static nw_wgemm_f32_fn *const *const variants[] = {NW_WCODES_VARIANTS(ENTRY)};
#undef ENTRY
    variants[nw_wcodes_variant(tile->w)][tile->m - 1](tile);
}

/* V registers of columns. */
NW_INLINE void decode_of(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, float *out,
                         const nw_wcodes_kind kind, const int V) {
    const size_t per_word = nw_wcodes_per_word(w), head = nw_wcodes_head(w, NR);
    const __m256 table[2] = {_mm256_loadu_ps(w->level), _mm256_loadu_ps(w->level + 8)};
    const char *p = panel + k0 / w->block * nw_wcodes_record(w, NR, w->block);
    for (size_t k = k0 - k0 % w->block, count; k < k1; k += count, p += nw_wcodes_record(w, NR, count)) {
        count = w->k - k < w->block ? w->k - k : w->block;
        const size_t begin = k < k0 ? k0 - k : 0, end = k1 - k < count ? k1 - k : count;
        const char *words = p + head + begin / per_word * 4 * NR;
        __m256 scale[2], zero[2];
        NW_UNROLL
        for (int v = 0; v < V; v++) {
            scale[v] = load_scale(w, p, v);
            zero[v] = w->zeros ? zeros_of(p + head - NR, v) : _mm256_setzero_ps();
        }
        for (size_t i = begin; i < end; words += 4 * NR)
            for (size_t at = 0; at < per_word && i < end; at++, i++, out += 8 * V) {
                const __m128i shift = _mm_cvtsi32_si128(nw_wcodes_shift(w, at));
                NW_UNROLL
                for (int v = 0; v < V; v++) {
                    __m256 level =
                        level_of(w, kind, w->bits, table, _mm256_srl_epi32(load8(words + 32 * v), shift));
                    _mm256_storeu_ps(out + 8 * v, _mm256_mul_ps(scale[v], _mm256_sub_ps(level, zero[v])));
                }
            }
    }
}

void nw_wgemm_decode__avx2(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, size_t width,
                           float *out) {
#define DECODE(kind)                                                                                         \
    case NW_WCODES_##kind:                                                                                   \
        if (width > 8)                                                                                       \
            decode_of(w, panel, k0, k1, out, NW_WCODES_##kind, 2);                                           \
        else                                                                                                 \
            decode_of(w, panel, k0, k1, out, NW_WCODES_##kind, 1);                                           \
        return;
    switch (w->kind) {
        DECODE(TABLE)
        DECODE(S8)
        DECODE(TABLE8)
        DECODE(F16)
        DECODE(BF16)
    }
}
#else
typedef int nw_no_kernels_here;
#endif
