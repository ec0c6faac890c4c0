/* gemm_u8s8_avx512vnni.c: u8·s8 tiles of up to 14 × 32 with vpdpbusd: four products and their sum per
 * 32-bit lane, exact. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm.h"
#include "kern/gemm_avx512.h"
#include "kern/lookup_avx512vnni.h"
#include "kern/unroll.h"

#include <immintrin.h>

NW_INLINE __m512i broadcast4(const uint8_t *p) {
    int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}

/* The usual epilogues are done in registers: everything else goes through memory and nw_epilogue__avx512vnni. Zero points
 * of this size leave room in the 16-bit sums below. */
typedef enum way { VIA_MEMORY, TO_CODES, TO_FLOATS } way;

static way way_of(const nw_gemm_u8s8_tile *tile) {
    const nw_epilogue *e = tile->epilogue;
    if (e->wzero) return VIA_MEMORY;
    if (e->out == NW_OUT_F32) return TO_FLOATS;
    bool codes = e->out == NW_OUT_U8 && !e->row_zero && e->zero >= -16384 && e->zero <= 16384;
    return codes && tile->convertible ? TO_CODES : VIA_MEMORY;
}

/* clamp(rint(acc·scale) + zero, lo, hi) of R = 64/(16·V) rows at a time: each row gives V registers of
 * 32-bit sums; four of them become one register of bytes by saturating packs, which work on 128-bit lanes:
 * unit 4l + r of the result is lane l of register r, so a transpose of 4×4 units restores the order. */
NW_INLINE void store_codes(const nw_gemm_u8s8_tile *tile, __m512i (*acc)[2], const int M, const int V) {
    const nw_epilogue *e = tile->epilogue;
    const __m512i transpose = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i zero = _mm512_set1_epi16((short)e->zero);
    const __m512i lo = _mm512_set1_epi8((char)e->lo), hi = _mm512_set1_epi8((char)e->hi);
    __m512 scale[2];
    NW_UNROLL
    for (int v = 0; v < V; v++)
        scale[v] = _mm512_maskz_loadu_ps(columns_mask(tile->n, v), e->scale + tile->col + 16 * v);
    const __mmask32 mask = tile->n >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << tile->n) - 1;
    const int R = 4 / V;
    char *out = tile->c;
    NW_UNROLL
    for (int i = 0; i < M; i += R) {
        __m512i q[4];
        NW_UNROLL
        for (int r = 0; r < 4; r++) {
            int row = i + r / V < M ? i + r / V : M - 1;
            q[r] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[row][r % V]), scale[r % V]));
        }
        __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero);
        __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero);
        __m512i y = _mm512_packus_epi16(low, high);
        y = _mm512_permutexvar_epi32(transpose, _mm512_min_epu8(_mm512_max_epu8(y, lo), hi));
        if (V == 2 && tile->n >= 32) {
            _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
            if (i + 1 < M) _mm256_storeu_si256((__m256i *)(out + tile->ldc), _mm512_extracti64x4_epi64(y, 1));
        } else if (V == 2) {
            _mm256_mask_storeu_epi8(out, mask, _mm512_castsi512_si256(y));
            if (i + 1 < M) _mm256_mask_storeu_epi8(out + tile->ldc, mask, _mm512_extracti64x4_epi64(y, 1));
        } else {
            _mm_mask_storeu_epi8(out, (__mmask16)mask, _mm512_castsi512_si128(y));
            if (i + 1 < M)
                _mm_mask_storeu_epi8(out + tile->ldc, (__mmask16)mask, _mm512_extracti32x4_epi32(y, 1));
            if (i + 2 < M)
                _mm_mask_storeu_epi8(out + 2 * tile->ldc, (__mmask16)mask, _mm512_extracti32x4_epi32(y, 2));
            if (i + 3 < M)
                _mm_mask_storeu_epi8(out + 3 * tile->ldc, (__mmask16)mask, _mm512_extracti32x4_epi32(y, 3));
        }
        out += (size_t)R * tile->ldc;
    }
}

/* clamp((acc − row_zero·col_sum)·scale [·row_scale] [+ fbias], flo, fhi) */
NW_INLINE void store_floats(const nw_gemm_u8s8_tile *tile, __m512i (*acc)[2], const int M, const int V) {
    const nw_epilogue *e = tile->epilogue;
    const bool limited = e->flo > -__builtin_inff() || e->fhi < __builtin_inff();
    const __m512 lo = _mm512_set1_ps(e->flo), hi = _mm512_set1_ps(e->fhi);
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        const size_t col = tile->col + 16 * (size_t)v;
        const __mmask16 mask = columns_mask(tile->n, v);
        const __m512 scale = _mm512_maskz_loadu_ps(mask, e->scale + col);
        const __m512 bias = e->fbias ? _mm512_maskz_loadu_ps(mask, e->fbias + col) : _mm512_setzero_ps();
        const __m512i sums =
            e->row_zero ? _mm512_maskz_loadu_epi32(mask, e->col_sum + col) : _mm512_setzero_si512();
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            __m512i x = acc[i][v];
            if (e->row_zero)
                x = _mm512_sub_epi32(
                    x, _mm512_mullo_epi32(sums, _mm512_set1_epi32(e->row_zero[tile->row + (size_t)i])));
            __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(x), scale);
            if (e->row_scale) f = _mm512_mul_ps(f, _mm512_set1_ps(e->row_scale[tile->row + (size_t)i]));
            if (e->fbias) f = _mm512_add_ps(f, bias);
            if (limited)
                f = _mm512_min_ps(hi, _mm512_max_ps(lo, f)); /* the second operand survives as a NaN */
            _mm512_mask_storeu_ps((char *)tile->c + (size_t)i * tile->ldc + 64 * v, mask, f);
        }
    }
}

static __attribute__((noinline)) void look_up(const nw_gemm_u8s8_tile *tile) {
    nw_look_up_tile(tile->epilogue->table, tile->c, tile->ldc, tile->m, tile->n);
}

/* One group of four k: acc[i][v] += Σ_j a[i][at + j] · w[16v … 16v+16)[j]. */
NW_INLINE void group_of(__m512i (*acc)[2], const uint8_t *const *a, size_t at, const int8_t *w, const int M,
                        const int V) {
    __m512i x[2];
    NW_UNROLL
    for (int v = 0; v < V; v++) x[v] = _mm512_load_si512(w + 64 * v);
    NW_UNROLL
    for (int i = 0; i < M; i++) {
        __m512i b = broadcast4(a[i] + at);
        NW_UNROLL
        for (int v = 0; v < V; v++) acc[i][v] = _mm512_dpbusd_epi32(acc[i][v], b, x[v]);
    }
}

/* acc[i][v] += Σ_j a_t[i][4g+j] · w[t][g][16v … 16v+16)[j] for groups g of four k. Few rows leave too few
 * accumulators to hide the latency of vpdpbusd: S sets take turns over the groups and are added at the
 * end. */
NW_INLINE void tile_of(const nw_gemm_u8s8_tile *tile, const int M, const int V, const size_t S) {
    __m512i acc[4][14][2];
    const int8_t *w = tile->w;
    const char *next = tile->fetch.at;
    const size_t groups = (tile->k + 3) / 4, step = tile->fetch.step;
    const way to = way_of(tile);
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        __m512i bias = _mm512_setzero_si512();
        if (to != VIA_MEMORY && tile->epilogue->bias)
            bias =
                _mm512_maskz_loadu_epi32(columns_mask(tile->n, v), tile->epilogue->bias + tile->col + 16 * v);
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            acc[0][i][v] = bias;
            acc[1][i][v] = acc[2][i][v] = acc[3][i][v] = _mm512_setzero_si512();
        }
    }
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const uint8_t *a[14];
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        if (S == 1 && groups == 1) { /* a first layer: a loop would hold the pointers in memory */
            group_of(acc[0], a, 0, w, M, V);
            w += 64 * V;
            continue;
        }
        size_t g = 0;
        for (; g + S <= groups; g += S, w += 64 * V * S) {
            if (S == 1) { /* more sets mean one tile: nothing to fetch */
                _mm_prefetch(next, _MM_HINT_T1);
                next += step;
            }
            group_of(acc[0], a, 4 * g, w, M, V);
            if (S > 1) group_of(acc[1], a, 4 * g + 4, w + 64 * V, M, V);
            if (S > 2) group_of(acc[2], a, 4 * g + 8, w + 128 * V, M, V);
            if (S > 2) group_of(acc[3], a, 4 * g + 12, w + 192 * V, M, V);
        }
        for (; S > 1 && g < groups; g++, w += 64 * V) group_of(acc[0], a, 4 * g, w, M, V);
    }
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) {
        if (S > 1) acc[0][i][v] = _mm512_add_epi32(acc[0][i][v], acc[1][i][v]);
        if (S > 2) acc[2][i][v] = _mm512_add_epi32(acc[2][i][v], acc[3][i][v]);
        if (S > 2) acc[0][i][v] = _mm512_add_epi32(acc[0][i][v], acc[2][i][v]);
    }
    if (to == TO_CODES) {
        store_codes(tile, acc[0], M, V);
        if (tile->epilogue->table) look_up(tile);
        return;
    }
    if (to == TO_FLOATS) {
        store_floats(tile, acc[0], M, V);
        return;
    }
    int32_t sums[14 * 32] __attribute__((aligned(64)));
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) _mm512_store_si512(sums + 16 * (i * V + v), acc[0][i][v]);
    nw_epilogue__avx512vnni(tile->epilogue, tile->row, tile->col, (size_t)M, tile->n, tile->row_sums, sums,
                            16 * (size_t)V, tile->c, tile->ldc);
}

#define TILES(X)                                                                                             \
    X(1, 4)                                                                                                  \
    X(2, 4)                                                                                                  \
    X(3, 2) X(4, 2) X(5, 1) X(6, 1) X(7, 1) X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1) X(13, 1) X(14, 1)
#define TILE(m, s)                                                                                           \
    static void tile_##m##x16(const nw_gemm_u8s8_tile *tile) {                                               \
        tile_of(tile, m, 1, s);                                                                              \
    }                                                                                                        \
    static void tile_##m##x32(const nw_gemm_u8s8_tile *tile) {                                               \
        tile_of(tile, m, 2, s);                                                                              \
    }
TILES(TILE)

void nw_gemm_u8s8__avx512vnni(const nw_gemm_u8s8_tile *tile) {
    static nw_gemm_u8s8_fn *const tiles[][2] = {
#define ENTRY(m, s) {tile_##m##x16, tile_##m##x32},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 16](tile);
}

void nw_gemm_row_sums__avx512vnni(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                                  int32_t *sums) {
    const __m512i ones = _mm512_set1_epi8(1);
    const __mmask64 tail = ((__mmask64)1 << (k % 64)) - 1;
    for (size_t i = 0; i < m; i++) {
        __m512i acc = _mm512_setzero_si512();
        for (size_t t = 0; t < taps; t++) {
            const uint8_t *row = rows[t * row_stride + i];
            size_t j = 0;
            for (; j + 64 <= k; j += 64) acc = _mm512_dpbusd_epi32(acc, _mm512_loadu_si512(row + j), ones);
            acc = _mm512_dpbusd_epi32(acc, _mm512_maskz_loadu_epi8(tail, row + j), ones);
        }
        sums[i] = _mm512_reduce_add_epi32(acc);
    }
}
#else
typedef int nw_no_kernels_here;
#endif
