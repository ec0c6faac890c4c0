/* dwconv_avx2.c: depthwise convolution, 32 channels at a time. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/dwconv.h"
#include "kern/dwconv_pack.h"
#include "kern/unroll.h"

#include <immintrin.h>
#include <string.h>

/* ---- f32 ----------------------------------------------------------------------------------------------- */

NW_INLINE void f32_block(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                         size_t row0, size_t count, size_t c0, const int V) {
    const float *weights =
        (const float *)args->packed + c0 / DW_BLOCK * DW_BLOCK * args->taps + c0 % DW_BLOCK;
    const __m256 lo = _mm256_set1_ps(args->lo), hi = _mm256_set1_ps(args->hi);
    for (size_t i = 0; i < count; i++) {
        float *y = (float *)((char *)args->c + (row0 + i) * args->ldc) + c0;
        const float *w = weights;
        __m256 acc[4];
        NW_UNROLL
        for (int v = 0; v < V; v++)
            acc[v] = args->bias ? _mm256_loadu_ps(args->bias + c0 + 8 * v) : _mm256_setzero_ps();
        for (size_t t = 0; t < args->taps; t++, w += DW_BLOCK) {
            const float *a = (const float *)rows[t * row_stride + i] + c0;
            NW_UNROLL
            for (int v = 0; v < V; v++)
                acc[v] = _mm256_fmadd_ps(_mm256_loadu_ps(a + 8 * v), _mm256_load_ps(w + 8 * v), acc[v]);
        }
        NW_UNROLL
        for (int v = 0; v < V; v++) /* the second operand survives when one is a NaN */
            _mm256_storeu_ps(y + 8 * v, _mm256_min_ps(hi, _mm256_max_ps(lo, acc[v])));
    }
}

void nw_dwconv_f32__avx2(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                         size_t row0, size_t count) {
    size_t c0 = 0;
    for (; c0 + 32 <= args->channels; c0 += 32) f32_block(args, rows, row_stride, row0, count, c0, 4);
    for (; c0 + 8 <= args->channels; c0 += 8) f32_block(args, rows, row_stride, row0, count, c0, 1);
    const float *w = (const float *)args->packed + c0 / DW_BLOCK * DW_BLOCK * args->taps;
    for (; c0 < args->channels; c0++)
        for (size_t i = 0; i < count; i++) {
            float acc = args->bias ? args->bias[c0] : 0.0f;
            for (size_t t = 0; t < args->taps; t++)
                acc = __builtin_fmaf(((const float *)rows[t * row_stride + i])[c0],
                                     w[t * DW_BLOCK + c0 % DW_BLOCK], acc);
            *((float *)((char *)args->c + (row0 + i) * args->ldc) + c0) = acc < args->lo   ? args->lo
                                                                          : acc > args->hi ? args->hi
                                                                                           : acc;
        }
}

/* ---- u8 · s8 ------------------------------------------------------------------------------------------- */

#define PIXELS     16 /* per call of the epilogue */
#define MAX_GROUPS 32 /* of four taps; larger filters go to the reference */

/* Weights of 32 channels as 16-bit pairs of taps, for vpmaddwd: [tap/2][quarter], lane l of quarter q
 * holding the channels 16·l + 4·q … +4 (dwconv_pack.h). */
typedef struct pairs {
    __m256i w[2 * MAX_GROUPS][4];
} pairs;

static void pairs_of(pairs *out, const int8_t *packed, size_t taps) {
    for (size_t g = 0; g < dw_groups(taps); g++)
        for (size_t q = 0; q < 4; q++) {
            /* Bytes 0, 1 and bytes 2, 3 of each 32-bit lane, as 16-bit numbers with their signs. */
            __m256i x = _mm256_loadu_si256((const __m256i *)(packed + g * 4 * DW_BLOCK + 64 * q));
            __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
            __m256i low = _mm256_set1_epi32(0xffff);
            out->w[2 * g][q] = _mm256_or_si256(_mm256_and_si256(even, low), _mm256_slli_epi32(odd, 16));
            out->w[2 * g + 1][q] =
                _mm256_or_si256(_mm256_srli_epi32(even, 16), _mm256_andnot_si256(low, odd));
        }
}

/* n ≤ 32 channels from c0 of one pixel's tap, and zeros. More than 16: the last 16 are loaded as they end,
 * then moved down. (A copy through memory would wait for its own stores.) */
NW_INLINE __m256i load32(const void *row, size_t c0, size_t n) {
    static const uint8_t move[32] = {0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,
                                     11,  12,  13,  14,  15,  128, 128, 128, 128, 128, 128,
                                     128, 128, 128, 128, 128, 128, 128, 128, 128, 128};
    const uint8_t *p = (const uint8_t *)row + c0;
    if (n == 32) return _mm256_loadu_si256((const __m256i *)p);
    if (n >= 16) {
        __m128i first = _mm_loadu_si128((const __m128i *)p);
        if (n == 16) return _mm256_inserti128_si256(_mm256_setzero_si256(), first, 0);
        __m128i second = _mm_loadu_si128((const __m128i *)(p + n - 16));
        second = _mm_shuffle_epi8(second, _mm_loadu_si128((const __m128i *)(move + 32 - n)));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    }
    uint64_t low = 0, high = 0;
    memcpy(&low, p, n < 8 ? n : 8);
    if (n > 8) memcpy(&high, p + 8, n - 8);
    return _mm256_setr_epi64x((int64_t)low, (int64_t)high, 0, 0);
}

/* The four quarters of 32 channels, in order. */
NW_INLINE void store_sums(const __m256i *x, int32_t *sums) {
    NW_UNROLL
    for (int q = 0; q < 4; q++) {
        _mm_storeu_si128((__m128i *)(sums + 4 * q), _mm256_castsi256_si128(x[q]));
        _mm_storeu_si128((__m128i *)(sums + 16 + 4 * q), _mm256_extracti128_si256(x[q], 1));
    }
}

NW_INLINE void u8s8_block(const nw_dwconv_u8s8_args *args, const pairs *weights, const void *const *rows,
                          size_t row_stride, size_t row0, size_t count, size_t c0, size_t n,
                          const bool wzero) {
    const nw_epilogue *e = &args->epilogue;
    const int32_t *zeros = dw_wzero(args->packed) + c0;
    char *out = (char *)args->c + row0 * args->ldc + c0 * nw_epilogue_size(e->out);
    int32_t sums[PIXELS][32], totals[32];
    for (size_t i0 = 0; i0 < count; i0 += PIXELS, out += PIXELS * args->ldc) {
        const size_t here = count - i0 < PIXELS ? count - i0 : PIXELS;
        for (size_t i = 0; i < here; i++) {
            __m256i acc[4], sum[4];
            NW_UNROLL
            for (int q = 0; q < 4; q++) acc[q] = sum[q] = _mm256_setzero_si256();
            for (size_t t = 0; t < args->taps; t += 2) {
                const __m256i none = _mm256_setzero_si256();
                __m256i a = load32(rows[t * row_stride + i0 + i], c0, n);
                __m256i b = t + 1 < args->taps ? load32(rows[(t + 1) * row_stride + i0 + i], c0, n) : none;
                __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
                __m256i x[4] = {_mm256_unpacklo_epi8(low, none), _mm256_unpackhi_epi8(low, none),
                                _mm256_unpacklo_epi8(high, none), _mm256_unpackhi_epi8(high, none)};
                NW_UNROLL
                for (int q = 0; q < 4; q++) {
                    acc[q] = _mm256_add_epi32(acc[q], _mm256_madd_epi16(x[q], weights->w[t / 2][q]));
                    if (wzero)
                        sum[q] = _mm256_add_epi32(sum[q], _mm256_madd_epi16(x[q], _mm256_set1_epi16(1)));
                }
            }
            store_sums(acc, sums[i]);
            if (wzero) {
                store_sums(sum, totals);
                for (int j = 0; j < 32; j++) sums[i][j] -= zeros[j] * totals[j];
            }
        }
        nw_epilogue__avx2(e, row0 + i0, c0, here, n, NULL, sums[0], 32, out, args->ldc);
    }
}

void nw_dwconv_u8s8__avx2(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,
                          size_t row0, size_t count) {
    const bool wzero = ((const dw_header *)args->packed)->any_wzero;
    pairs weights;
    if (dw_groups(args->taps) > MAX_GROUPS) {
        nw_dwconv_u8s8__scalar(args, rows, row_stride, row0, count);
        return;
    }
    for (size_t c0 = 0; c0 < args->channels; c0 += 32) {
        size_t n = args->channels - c0;
        pairs_of(&weights,
                 dw_weights(args->packed, args->channels, args->taps, c0 / DW_BLOCK) + c0 % DW_BLOCK,
                 args->taps);
        if (wzero)
            u8s8_block(args, &weights, rows, row_stride, row0, count, c0, n < 32 ? n : 32, true);
        else if (n >= 32)
            u8s8_block(args, &weights, rows, row_stride, row0, count, c0, 32, false);
        else if (n == 16) /* usual enough to deserve its own loads */
            u8s8_block(args, &weights, rows, row_stride, row0, count, c0, 16, false);
        else
            u8s8_block(args, &weights, rows, row_stride, row0, count, c0, n, false);
    }
}
#else
typedef int nw_no_kernels_here;
#endif
