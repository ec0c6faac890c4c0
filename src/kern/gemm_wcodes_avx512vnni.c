/* gemm_wcodes_avx512vnni.c: the tiles of gemm_wcodes.h with 32 columns in two registers. f32: a table of 16 levels is one
 * register, and vpermps looks at the low four bits of a lane only: a shift and a permute decode 16 codes. u8: vpshufb looks up
 * four neighbours in each lane, vpdpbusd multiplies them. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm_wcodes_avx512.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

#define AHEAD 8192 /* bytes of a panel that are asked for ahead: hardware stops at the ends of pages */

/* Sixteen columns each. */
NW_INLINE __m128i load_zeros(const char *zeros, int v) {
    return _mm_loadu_si128((const __m128i *)(const void *)(zeros + 16 * v));
}

/* The code from bit `shift` of each lane on as a number. */
NW_INLINE __m512 level_of(const nw_wcodes *w, const nw_wcodes_kind kind, __m512 table, __m512i x,
                          const int shift) {
    if (kind == NW_WCODES_S8) { /* its sign to the lane's, and back down */
        if (shift < 24) x = _mm512_slli_epi32(x, (unsigned)(24 - shift));
        return _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 24));
    }
    if (kind == NW_WCODES_BF16 && shift == 16)
        return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-65536)));
    if (shift) x = _mm512_srli_epi32(x, (unsigned)shift);
    switch (kind) {
    case NW_WCODES_TABLE: return _mm512_permutexvar_ps(x, table);
    case NW_WCODES_TABLE8:
    case NW_WCODES_E4M3:
    case NW_WCODES_E5M2:
        return _mm512_i32gather_ps(_mm512_and_si512(x, _mm512_set1_epi32(255)), w->levels, 4);
    case NW_WCODES_F16: return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
    default: return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    }
}

NW_INLINE __m512i load_words(const char *words, int v) {
    return _mm512_loadu_si512(words + 64 * v);
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

/* One code of every column and the rows' elements of the same k: acc[i][v] += a[i][at] · (level − zero). */
NW_INLINE void add_code(const nw_wcodes *w, const nw_wcodes_kind kind, const bool zeros, __m512 table,
                        const __m512 *zero, const __m512i *x, const int shift, const float *const *a,
                        size_t at, __m512 (*acc)[2], const int M) {
    __m512 level[2];
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        level[v] = level_of(w, kind, table, x[v], shift);
        if (zeros) level[v] = _mm512_sub_ps(level[v], zero[v]);
    }
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        const __m512 s = _mm512_set1_ps(a[i][at]);
        NW_UNROLL
        for (int v = 0; v < 2; v++) acc[i][v] = _mm512_fmadd_ps(s, level[v], acc[i][v]);
    }
}

/* Few rows leave too few accumulators to hide the latency of a multiply-add: S sets take turns. */
NW_INLINE void tile_of(const nw_wgemm_f32_tile *tile, const nw_wcodes_kind kind, const int bits,
                       const bool zeros, const int M, const int S) {
    const nw_wcodes *w = tile->w;
    const size_t per_word = 32 / (size_t)bits, head = nw_wcodes_head(w, NR);
    const __m512 table = _mm512_loadu_ps(w->level);
    const char *p = tile->panel;
    const float *a[8];
    __m512 total[8][2];
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        a[i] = (const float *)((const char *)tile->a + ((size_t)i < tile->m ? (size_t)i : 0) * tile->lda);
        total[i][0] = total[i][1] = _mm512_setzero_ps();
    }
    for (size_t k = 0; k < w->k;) {
        const char *record = p;
        size_t left = w->k - k < w->block ? w->k - k : w->block;
        __m512 acc[4][MOST_ROWS][2], zero[2];
        NW_UNROLL
        for (int s = 0; s < S; s++) NW_UNROLL
        for (int i = 0; i < M; i++) acc[s][i][0] = acc[s][i][1] = _mm512_setzero_ps();
        NW_UNROLL
        for (int v = 0; v < 2; v++)
            zero[v] = zeros ? _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_zeros(p + head - NR, v)))
                            : _mm512_setzero_ps();
        p += head;
        for (; left >= per_word; left -= per_word, p += 4 * NR) {
            __m512i x[2] = {load_words(p, 0), load_words(p, 1)};
            _mm_prefetch(p + AHEAD, _MM_HINT_T0);
            _mm_prefetch(p + AHEAD + 64, _MM_HINT_T0);
            if (kind == NW_WCODES_F16 || kind == NW_WCODES_BF16) {
                add_code(w, kind, zeros, table, zero, x, 0, a, k, acc[0], M);
                add_code(w, kind, zeros, table, zero, x, 16, a, k + 1, acc[S - 1], M);
                k += 2;
                continue;
            }
            for (int group = 0; group < 8 / bits; group++, k += 4) {
                add_code(w, kind, zeros, table, zero, x, 0, a, k, acc[0], M);
                add_code(w, kind, zeros, table, zero, x, 8, a, k + 1, acc[1 % S], M);
                add_code(w, kind, zeros, table, zero, x, 16, a, k + 2, acc[2 % S], M);
                add_code(w, kind, zeros, table, zero, x, 24, a, k + 3, acc[3 % S], M);
                x[0] = _mm512_srli_epi32(x[0], (unsigned)bits);
                x[1] = _mm512_srli_epi32(x[1], (unsigned)bits);
            }
        }
        if (left) { /* a part of a word */
            for (size_t i = 0; i < left; i++, k++) {
                const __m128i shift = _mm_cvtsi32_si128(nw_wcodes_shift(w, i));
                const __m512i x[2] = {_mm512_srl_epi32(load_words(p, 0), shift),
                                      _mm512_srl_epi32(load_words(p, 1), shift)};
                add_code(w, kind, zeros, table, zero, x, 0, a, k, acc[0], M);
            }
            p += 4 * NR;
        }
        add_block(w, record, acc, total, M, S);
    }
    store_sums(tile, total, M);
}

/* Tiles of M rows serve fewer too: they repeat the first row. */
#define ROWS(X, name, ...)                                                                                   \
    X(name, 1, 4, __VA_ARGS__)                                                                               \
    X(name, 2, 2, __VA_ARGS__)                                                                               \
    X(name, 4, 2, __VA_ARGS__) X(name, 6, 1, __VA_ARGS__) X(name, 8, 1, __VA_ARGS__)
#define TILE(name, m, s, kind, bits, zeros)                                                                  \
    static void name##_##m(const nw_wgemm_f32_tile *tile) {                                                  \
        tile_of(tile, NW_WCODES_##kind, bits, zeros, m, s);                                                  \
    }
#define TILES(name, kind, bits, zeros)                                                                       \
    ROWS(TILE, name, kind, bits, zeros)                                                                      \
    static nw_wgemm_f32_fn *const name[8] = {name##_1, name##_2, name##_4, name##_4,                         \
                                             name##_6, name##_6, name##_8, name##_8};
NW_WCODES_VARIANTS(TILES)

void nw_wgemm_f32__avx512vnni(const nw_wgemm_f32_tile *tile) {
#define ENTRY(name, kind, bits, zeros) name,
    static nw_wgemm_f32_fn *const *const variants[] = {NW_WCODES_VARIANTS(ENTRY)};
#undef ENTRY
    variants[nw_wcodes_variant(tile->w)][tile->m - 1](tile);
}

/* One register of columns (V = 1) or two. */
NW_INLINE void decode_of(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, float *out,
                         const nw_wcodes_kind kind, const int V) {
    const size_t per_word = nw_wcodes_per_word(w), head = nw_wcodes_head(w, NR);
    const __m512 table = _mm512_loadu_ps(w->level);
    const char *p = panel + k0 / w->block * nw_wcodes_record(w, NR, w->block);
    for (size_t k = k0 - k0 % w->block, count; k < k1; k += count, p += nw_wcodes_record(w, NR, count)) {
        count = w->k - k < w->block ? w->k - k : w->block;
        const size_t begin = k < k0 ? k0 - k : 0, end = k1 - k < count ? k1 - k : count;
        const char *words = p + head + begin / per_word * 4 * NR;
        __m512 scale[2], zero[2];
        NW_UNROLL
        for (int v = 0; v < V; v++) {
            scale[v] = load_scale(w, p, v);
            zero[v] = w->zeros ? _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_zeros(p + head - NR, v)))
                               : _mm512_setzero_ps();
        }
        for (size_t i = begin; i < end; words += 4 * NR)
            for (size_t at = 0; at < per_word && i < end; at++, i++, out += 16 * V) {
                const __m128i shift = _mm_cvtsi32_si128(nw_wcodes_shift(w, at));
                NW_UNROLL
                for (int v = 0; v < V; v++) {
                    __m512 level = level_of(w, kind, table, _mm512_srl_epi32(load_words(words, v), shift), 0);
                    _mm512_storeu_ps(out + 16 * v, _mm512_mul_ps(scale[v], _mm512_sub_ps(level, zero[v])));
                }
            }
    }
}

void nw_wgemm_decode__avx512vnni(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, size_t width,
                                 float *out) {
#define DECODE(kind)                                                                                         \
    case NW_WCODES_##kind:                                                                                   \
        if (width > 16)                                                                                      \
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

/* ---- u8 ------------------------------------------------------------------------------------------------ */

/* Zero points of sixteen columns, each in the four bytes of a lane. */
NW_INLINE __m512i spread_zeros(__m128i zeros) {
    const __m512i spread =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    return _mm512_shuffle_epi8(_mm512_cvtepu8_epi32(zeros), spread);
}

/* Four codes of each lane, in the low bits of its bytes, as bytes of step − zero. */
NW_INLINE __m512i steps_of(const nw_wcodes_kind kind, const bool zeros, __m512i table, __m512i zero,
                           __m512i x) {
    if (kind == NW_WCODES_S8) return x;
    x = _mm512_shuffle_epi8(table, _mm512_and_si512(x, _mm512_set1_epi8(15)));
    return zeros ? _mm512_sub_epi8(x, zero) : x;
}

/* acc[i][v] += Σ of four products; four[i]: the rows' activations of the same k. Bytes less a zero point do not fit into
 * bytes: sums[i] += Σ of the activations, which the zero points are multiplied with behind the block. */
NW_INLINE void add_group(const nw_wcodes_kind kind, const bool zeros, __m512i table, const __m512i *zero,
                         const __m512i *x, const int32_t *four, __m512i (*acc)[2], __m512i *sums,
                         const int M) {
    const __m512i steps[2] = {steps_of(kind, zeros, table, zero[0], x[0]),
                              steps_of(kind, zeros, table, zero[1], x[1])};
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        const __m512i s = _mm512_set1_epi32(four[i]);
        acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], s, steps[0]);
        acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], s, steps[1]);
        if (kind == NW_WCODES_S8 && zeros) sums[i] = _mm512_dpbusd_epi32(sums[i], s, _mm512_set1_epi8(1));
    }
}

NW_INLINE void u8_tile_of(const nw_wgemm_u8_tile *tile, const nw_wcodes_kind kind, const int bits,
                          const bool zeros, const int M) {
    const nw_wcodes *w = tile->w;
    const size_t per_word = 32 / (size_t)bits, head = nw_wcodes_head(w, NR);
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)w->step));
    const char *p = tile->panel;
    const uint8_t *a[4];
    __m512 total[4][2];
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        a[i] = tile->a + ((size_t)i < tile->m ? (size_t)i : 0) * tile->lda;
        total[i][0] = total[i][1] = _mm512_setzero_ps();
    }
    for (size_t k = 0; k < w->k;) {
        const char *record = p;
        size_t left = w->k - k < w->block ? w->k - k : w->block;
        __m512i acc[4][2], sums[4], zero[2], x[2];
        NW_UNROLL
        for (int i = 0; i < M; i++) acc[i][0] = acc[i][1] = sums[i] = _mm512_setzero_si512();
        NW_UNROLL
        for (int v = 0; v < 2; v++)
            zero[v] = !zeros                 ? _mm512_setzero_si512()
                      : kind == NW_WCODES_S8 ? _mm512_cvtepi8_epi32(load_zeros(p + head - NR, v))
                                             : spread_zeros(load_zeros(p + head - NR, v));
        p += head;
        for (; left >= per_word; left -= per_word, p += 4 * NR) {
            x[0] = load_words(p, 0);
            x[1] = load_words(p, 1);
            if (M < 4) {
                _mm_prefetch(p + AHEAD, _MM_HINT_T0);
                _mm_prefetch(p + AHEAD + 64, _MM_HINT_T0);
            }
            for (int group = 0; group < 8 / bits; group++, k += 4) {
                int32_t four[4];
                NW_UNROLL
                for (int i = 0; i < M; i++) memcpy(&four[i], a[i] + k, 4);
                add_group(kind, zeros, table, zero, x, four, acc, sums, M);
                x[0] = _mm512_srli_epi32(x[0], (unsigned)bits);
                x[1] = _mm512_srli_epi32(x[1], (unsigned)bits);
            }
        }
        if (left) { /* a part of a word: missing activations count as 0 */
            x[0] = load_words(p, 0);
            x[1] = load_words(p, 1);
            for (size_t used; left; k += used, left -= used) {
                int32_t four[4];
                used = left < 4 ? left : 4;
                for (int i = 0; i < M; i++) four[i] = nw_wgemm_four(a[i] + k, used);
                add_group(kind, zeros, table, zero, x, four, acc, sums, M);
                x[0] = _mm512_srli_epi32(x[0], (unsigned)bits);
                x[1] = _mm512_srli_epi32(x[1], (unsigned)bits);
            }
            p += 4 * NR;
        }
        NW_UNROLL
        for (int v = 0; v < 2; v++) {
            const __m512 scale = load_scale(w, record, v);
            NW_UNROLL
            for (int i = 0; i < M; i++) {
                __m512i sum = acc[i][v];
                if (kind == NW_WCODES_S8 && zeros)
                    sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(sums[i], zero[v]));
                total[i][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total[i][v]);
            }
        }
    }
    const __m512 lo = _mm512_set1_ps(tile->lo), hi = _mm512_set1_ps(tile->hi);
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        const __mmask16 mask = columns_mask(tile->n, v);
        const __m512 sums = _mm512_maskz_loadu_ps(mask, tile->sums + 16 * v);
        const __m512 bias =
            tile->bias ? _mm512_maskz_loadu_ps(mask, tile->bias + 16 * v) : _mm512_setzero_ps();
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            if ((size_t)i >= tile->m) continue;
            __m512 y = _mm512_sub_ps(total[i][v], _mm512_mul_ps(_mm512_set1_ps(tile->zero[i]), sums));
            y = _mm512_mul_ps(y, _mm512_set1_ps(tile->factor[i]));
            if (tile->bias) y = _mm512_add_ps(y, bias);
            y = _mm512_min_ps(hi, _mm512_max_ps(lo, y)); /* the second operand survives when one is a NaN */
            _mm512_mask_storeu_ps((char *)tile->c + (size_t)i * tile->ldc + 64 * v, mask, y);
        }
    }
}

#define U8_TILE(m, name, kind, bits, zeros)                                                                  \
    static void u8_##name##_##m(const nw_wgemm_u8_tile *tile) {                                              \
        u8_tile_of(tile, NW_WCODES_##kind, bits, zeros, m);                                                  \
    }
#define U8_TILES(name, kind, bits, zeros)                                                                    \
    U8_TILE(1, name, kind, bits, zeros)                                                                      \
    U8_TILE(2, name, kind, bits, zeros)                                                                      \
    U8_TILE(4, name, kind, bits, zeros)                                                                      \
    static nw_wgemm_u8_fn *const u8_##name[4] = {u8_##name##_1, u8_##name##_2, u8_##name##_4, u8_##name##_4};
NW_WCODES_WHOLE_VARIANTS(U8_TILES)

void nw_wgemm_u8__avx512vnni(const nw_wgemm_u8_tile *tile) {
#define ENTRY(name, kind, bits, zeros) u8_##name,
    static nw_wgemm_u8_fn *const *const variants[] = {NW_WCODES_WHOLE_VARIANTS(ENTRY)};
#undef ENTRY
    variants[nw_wcodes_variant(tile->w)][tile->m - 1](tile);
}
#else
typedef int nw_no_kernels_here;
#endif
