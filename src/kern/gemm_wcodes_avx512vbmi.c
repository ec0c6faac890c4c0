/* gemm_wcodes_avx512vbmi.c: the f32 tiles of gemm_wcodes.h for tables of 256 levels. vpermi2b looks 64 bytes up in 128: two of
 * them and a blend are a byte of 64 levels, and a third puts the bytes of sixteen levels side by side. Levels that are numbers
 * of bf16, as those of 8-bit floats are, have two bytes, others four. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm_wcodes_avx512.h"
#include "kern/unroll.h"

#include <immintrin.h>

#define AHEAD 8192 /* bytes of a panel that are asked for ahead: hardware stops at the ends of pages */

/* Byte p of level i is plane[p][i]. */
typedef struct planes {
    uint8_t plane[4][256] __attribute__((aligned(64)));
    bool short_levels; /* planes 0 and 1 are zero */
} planes;

static void split_levels(const float *levels, planes *out) {
    __m512i low = _mm512_setzero_si512();
    for (int i = 0; i < 256; i += 16) {
        const __m512i x = _mm512_loadu_si512(levels + i);
        low = _mm512_or_si512(low, _mm512_slli_epi32(x, 16));
        for (unsigned p = 0; p < 4; p++)
            _mm_store_si128((void *)(out->plane[p] + i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(x, 8 * p)));
    }
    out->short_levels = _mm512_test_epi32_mask(low, low) == 0;
}

NW_INLINE __m512i look_up(const uint8_t *plane, __m512i x, __mmask64 upper) {
    const __m512i first =
        _mm512_permutex2var_epi8(_mm512_load_si512(plane), x, _mm512_load_si512(plane + 64));
    const __m512i second =
        _mm512_permutex2var_epi8(_mm512_load_si512(plane + 128), x, _mm512_load_si512(plane + 192));
    return _mm512_mask_blend_epi8(upper, first, second);
}

/* The four codes of each lane as numbers: level[c] has code c of all sixteen lanes. */
NW_INLINE void levels_of(const planes *t, const bool short_levels, __m512i x, __m512 *level) {
    const __mmask64 upper = _mm512_movepi8_mask(x), high_half = 0xcccccccccccccccc;
    __m512i bytes[4], low = _mm512_setzero_si512();
    NW_UNROLL
    for (int p = short_levels ? 2 : 0; p < 4; p++) bytes[p] = look_up(t->plane[p], x, upper);
    NW_UNROLL
    for (int c = 0; c < 4; c++) { /* byte c of a lane of the even plane, of the odd one, and both again */
        const __m512i pair = _mm512_setr_epi32(
            0x40004000, 0x44044404, 0x48084808, 0x4c0c4c0c, 0x50105010, 0x54145414, 0x58185818, 0x5c1c5c1c,
            0x60206020, 0x64246424, 0x68286828, 0x6c2c6c2c, 0x70307030, 0x74347434, 0x78387838, 0x7c3c7c3c);
        const __m512i at = _mm512_add_epi8(pair, _mm512_set1_epi8((char)c));
        if (!short_levels) low = _mm512_maskz_permutex2var_epi8(~high_half, bytes[0], at, bytes[1]);
        const __m512i high = _mm512_maskz_permutex2var_epi8(high_half, bytes[2], at, bytes[3]);
        level[c] = _mm512_castsi512_ps(_mm512_or_si512(high, low));
    }
}

/* acc[c % S][i][v] += a[i][c] · level of code c < count of each lane of the panel's words at p. */
NW_INLINE void add_word(const planes *t, const bool short_levels, const char *p, const float *const *a,
                        size_t k, const size_t count, __m512 (*acc)[MOST_ROWS][2], const int M, const int S) {
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        __m512 level[4];
        levels_of(t, short_levels, _mm512_loadu_si512(p + 64 * v), level);
        NW_UNROLL
        for (int c = 0; c < 4; c++) {
            if ((size_t)c >= count) continue;
            NW_UNROLL
            for (int i = 0; i < M; i++)
                acc[c % S][i][v] =
                    _mm512_fmadd_ps(_mm512_set1_ps(a[i][k + (size_t)c]), level[c], acc[c % S][i][v]);
        }
    }
}

/* Few rows leave too few accumulators to hide the latency of a multiply-add: S sets take turns. */
NW_INLINE void tile_of(const nw_wgemm_f32_tile *tile, const planes *t, const bool short_levels, const int M,
                       const int S) {
    const nw_wcodes *w = tile->w;
    const size_t head = nw_wcodes_head(w, NR);
    const char *p = tile->panel;
    const float *a[4];
    __m512 total[4][2];
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        a[i] = (const float *)((const char *)tile->a + ((size_t)i < tile->m ? (size_t)i : 0) * tile->lda);
        total[i][0] = total[i][1] = _mm512_setzero_ps();
    }
    for (size_t k = 0; k < w->k;) {
        const char *record = p;
        size_t left = w->k - k < w->block ? w->k - k : w->block;
        __m512 acc[4][MOST_ROWS][2];
        NW_UNROLL
        for (int s = 0; s < S; s++) NW_UNROLL
        for (int i = 0; i < M; i++) acc[s][i][0] = acc[s][i][1] = _mm512_setzero_ps();
        p += head;
        for (; left >= 4; left -= 4, k += 4, p += 4 * NR) {
            _mm_prefetch(p + AHEAD, _MM_HINT_T0);
            _mm_prefetch(p + AHEAD + 64, _MM_HINT_T0);
            add_word(t, short_levels, p, a, k, 4, acc, M, S);
        }
        if (left) { /* a part of a word */
            add_word(t, short_levels, p, a, k, left, acc, M, S);
            k += left;
            p += 4 * NR;
        }
        add_block(w, record, acc, total, M, S);
    }
    store_sums(tile, total, M);
}

/* Tiles of M rows serve fewer too: they repeat the first row. */
typedef void tile_fn(const nw_wgemm_f32_tile *tile, const planes *t);
#define TILE(name, m, s, short_levels)                                                                       \
    static void name##_##m(const nw_wgemm_f32_tile *tile, const planes *t) {                                 \
        tile_of(tile, t, short_levels, m, s);                                                                \
    }
#define TILES(name, short_levels)                                                                            \
    TILE(name, 1, 4, short_levels)                                                                           \
    TILE(name, 2, 2, short_levels)                                                                           \
    TILE(name, 4, 2, short_levels)                                                                           \
    static tile_fn *const name[NW_WGEMM_ROWS_OF_256] = {name##_1, name##_2, name##_4, name##_4};
TILES(halves, true)
TILES(wholes, false)

void nw_wgemm_f32__avx512vbmi(const nw_wgemm_f32_tile *tile) {
    if (!nw_wcodes_kind_of_256(tile->w->kind)) {
        nw_wgemm_f32__avx512vnni(tile);
        return;
    }
    planes t;
    split_levels(tile->w->levels, &t);
    tile_fn *const *tiles = t.short_levels ? halves : wholes;
    tiles[tile->m - 1](tile, &t);
}

/* One register of columns (V = 1) or two. */
NW_INLINE void decode_of(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, float *out,
                         const planes *t, const bool short_levels, const int V) {
    const size_t head = nw_wcodes_head(w, NR);
    const char *p = panel + k0 / w->block * nw_wcodes_record(w, NR, w->block);
    for (size_t k = k0 - k0 % w->block, count; k < k1; k += count, p += nw_wcodes_record(w, NR, count)) {
        count = w->k - k < w->block ? w->k - k : w->block;
        const size_t begin = k < k0 ? k0 - k : 0, end = k1 - k < count ? k1 - k : count;
        const char *words = p + head + begin / 4 * 4 * NR;
        for (size_t i = begin; i < end; i += 4, words += 4 * NR, out += 4 * 16 * V) NW_UNROLL
        for (int v = 0; v < V; v++) {
            const __m512 scale = load_scale(w, p, v);
            __m512 level[4];
            levels_of(t, short_levels, _mm512_loadu_si512(words + 64 * v), level);
            for (size_t c = 0; c < 4 && i + c < end; c++)
                _mm512_storeu_ps(out + (c * (size_t)V + (size_t)v) * 16, _mm512_mul_ps(scale, level[c]));
        }
        if ((end - begin) % 4) out -= (4 - (end - begin) % 4) * 16 * V;
    }
}

void nw_wgemm_decode__avx512vbmi(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, size_t width,
                                 float *out) {
    if (!nw_wcodes_kind_of_256(w->kind)) {
        nw_wgemm_decode__avx512vnni(w, panel, k0, k1, width, out);
        return;
    }
    planes t;
    split_levels(w->levels, &t);
    if (width > 16)
        t.short_levels ? decode_of(w, panel, k0, k1, out, &t, true, 2)
                       : decode_of(w, panel, k0, k1, out, &t, false, 2);
    else
        t.short_levels ? decode_of(w, panel, k0, k1, out, &t, true, 1)
                       : decode_of(w, panel, k0, k1, out, &t, false, 1);
}
#else
typedef int nw_no_kernels_here;
#endif
