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
    return _mm256_cvtepi32_ps(whole_zeros(zeros, v));
}
/* A word per column, as level_of takes it: 16-bit codes side by side for each of the two, and 8-bit floats widened to the
 * numbers of f16 that have their bits on top, codes 0 and 2 in x[0], 1 and 3 in x[1]. */
NW_INLINE void spread(const nw_wcodes_kind kind, __m256i word, __m256i *x) {
    x[0] = word;
    if (kind == NW_WCODES_F16) {
        const __m256i halves =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        x[0] = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(word, halves), 0xd8);
    }
    if (kind == NW_WCODES_E4M3 || kind == NW_WCODES_E5M2) {
        const __m256i bytes =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        const __m256i y = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(word, bytes),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        x[0] = _mm256_unpacklo_epi8(_mm256_setzero_si256(), y);
        x[1] = _mm256_unpackhi_epi8(_mm256_setzero_si256(), y);
    }
    if (kind == NW_WCODES_E4M3) { /* an exponent has a bit more in f16: the number is 256 times as large */
        const __m256i bits = _mm256_set1_epi16((short)0xbf80);
        x[0] = _mm256_and_si256(_mm256_srai_epi16(x[0], 1), bits);
        x[1] = _mm256_and_si256(_mm256_srai_epi16(x[1], 1), bits);
    }
}

NW_INLINE __m256 half_of(__m256i x, const bool upper) {
    return _mm256_cvtph_ps(upper ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x));
}
/* Code c of a word as a number: where its byte is, counted from 0; of 16 bits the lower one or the upper one. Bits above a
 * table's do not matter. bits 4: the table has two halves. */
NW_INLINE __m256 level_of(const nw_wcodes *w, const nw_wcodes_kind kind, const int bits, const __m256 *table,
                          const __m256i *x, const int c) {
    const __m256i low = c ? _mm256_srli_epi32(x[0], 8 * c) : x[0];
    switch (kind) {
    case NW_WCODES_TABLE: {
        __m256 first = _mm256_permutevar8x32_ps(table[0], low);
        if (bits < 4) return first;
        __m256 second = _mm256_permutevar8x32_ps(table[1], low);
        return _mm256_blendv_ps(first, second, _mm256_castsi256_ps(_mm256_slli_epi32(x[0], 28 - 8 * c)));
    }
    case NW_WCODES_S8: return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x[0], 24 - 8 * c), 24));
    case NW_WCODES_TABLE8:
        return _mm256_i32gather_ps(w->levels, _mm256_and_si256(low, _mm256_set1_epi32(255)), 4);
    case NW_WCODES_E4M3: return _mm256_mul_ps(half_of(x[c % 2], c > 1), _mm256_set1_ps(256));
    case NW_WCODES_E5M2: return half_of(x[c % 2], c > 1);
    case NW_WCODES_F16: return half_of(x[0], c);
    default:
        return _mm256_castsi256_ps(c ? _mm256_and_si256(x[0], _mm256_set1_epi32((int)0xffff0000))
                                     : _mm256_slli_epi32(x[0], 16));
    }
}

/* Code c of every column and the rows' elements of the same k: acc[i][v] += a[i][at] · (level − zero). */
NW_INLINE void add_code(const nw_wcodes *w, const nw_wcodes_kind kind, const int bits, const bool zeros,
                        const __m256 *table, const __m256 *zero, const __m256i (*x)[2], const int c,
                        const float *const *a, size_t at, __m256 (*acc)[2], const int M) {
    __m256 level[2];
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        level[v] = level_of(w, kind, bits, table, x[v], c);
        if (zeros) level[v] = _mm256_sub_ps(level[v], zero[v]);
    }
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        const __m256 s = _mm256_set1_ps(a[i][at]);
        NW_UNROLL
        for (int v = 0; v < 2; v++) acc[i][v] = _mm256_fmadd_ps(s, level[v], acc[i][v]);
    }
}

/* One row has too few accumulators to hide the latency of a multiply-add: S sets take turns. */
NW_INLINE void tile_of(const nw_wgemm_f32_tile *tile, const nw_wcodes_kind kind, const int bits,
                       const bool zeros, const int M, const int S) {
    const nw_wcodes *w = tile->w;
    const size_t per_word = 32 / (size_t)bits, codes = per_word < 4 ? per_word : 4,
                 head = nw_wcodes_head(w, NR);
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
        for (; left; p += 4 * NR) {
            __m256i x[2][2];
            _mm_prefetch(p + AHEAD, _MM_HINT_T0);
            NW_UNROLL
            for (int v = 0; v < 2; v++) spread(kind, load8(p + 32 * v), x[v]);
            for (size_t group = 0; group < per_word && left; group += 4) {
                const size_t used = left < codes ? left : codes;
                if (used == codes) {
                    NW_UNROLL
                    for (int c = 0; c < (int)codes; c++)
                        add_code(w, kind, bits, zeros, table, zero, x, c, a, k + (size_t)c, acc[c % S], M);
                } else {
                    NW_UNROLL
                    for (int c = 0; c < (int)codes - 1; c++)
                        if ((size_t)c < used)
                            add_code(w, kind, bits, zeros, table, zero, x, c, a, k + (size_t)c, acc[0], M);
                }
                k += used;
                left -= used;
                x[0][0] = _mm256_srli_epi32(x[0][0], bits);
                x[1][0] = _mm256_srli_epi32(x[1][0], bits);
            }
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

/* out ← scale·(level − zero) of code c of V registers of columns. */
NW_INLINE void decode_code(const nw_wcodes *w, const nw_wcodes_kind kind, const int bits, const __m256 *table,
                           const __m256 *scale, const __m256 *zero, const __m256i (*x)[2], const int c,
                           float *out, const int V) {
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        __m256 level = level_of(w, kind, bits, table, x[v], c);
        if (w->zeros) level = _mm256_sub_ps(level, zero[v]);
        _mm256_storeu_ps(out + 8 * v, _mm256_mul_ps(scale[v], level));
    }
}

/* V registers of columns. */
NW_INLINE void decode_of(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, float *out,
                         const nw_wcodes_kind kind, const int V) {
    const int bits = w->bits;
    const size_t per_word = nw_wcodes_per_word(w),
                 codes = kind == NW_WCODES_F16 || kind == NW_WCODES_BF16 ? 2 : 4,
                 head = nw_wcodes_head(w, NR);
    const __m128i next = _mm_cvtsi32_si128(bits);
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
        for (size_t i = begin; i < end; words += 4 * NR) {
            __m256i x[2][2];
            _mm_prefetch(words + AHEAD, _MM_HINT_T0);
            NW_UNROLL
            for (int v = 0; v < V; v++) spread(kind, load8(words + 32 * v), x[v]);
            for (size_t group = 0; group < per_word && i < end; group += 4) {
                const size_t used = end - i < codes ? end - i : codes;
                if (used == codes) {
                    NW_UNROLL
                    for (int c = 0; c < (int)codes; c++)
                        decode_code(w, kind, bits, table, scale, zero, x, c, out + 8 * V * c, V);
                } else {
                    NW_UNROLL
                    for (int c = 0; c < (int)codes - 1; c++)
                        if ((size_t)c < used)
                            decode_code(w, kind, bits, table, scale, zero, x, c, out + 8 * V * c, V);
                }
                i += used;
                out += used * 8 * V;
                NW_UNROLL
                for (int v = 0; v < V; v++) x[v][0] = _mm256_srl_epi32(x[v][0], next);
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
        DECODE(E4M3)
        DECODE(E5M2)
        DECODE(F16)
        DECODE(BF16)
    }
}
#else
typedef int nw_no_kernels_here;
#endif
