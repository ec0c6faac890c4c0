/* dwconv_avx512vnni.c: depthwise convolution, 64 channels at a time. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/dwconv.h"
#include "kern/dwconv_pack.h"
#include "kern/lookup_avx512vnni.h"
#include "kern/unroll.h"

#include <immintrin.h>

/* ---- f32 ----------------------------------------------------------------------------------------------- */

/* V registers of channels of P neighbouring pixels: a weight is loaded once for all of them. */
NW_INLINE void f32_pixels(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride, char *y,
                          size_t c0, const __mmask16 *mask, const int P, const int V) {
    __m512 acc[2][4];
    const float *w = (const float *)args->packed + c0 / DW_BLOCK * DW_BLOCK * args->taps + c0 % DW_BLOCK;
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        __m512 bias =
            args->bias ? _mm512_maskz_loadu_ps(mask[v], args->bias + c0 + 16 * v) : _mm512_setzero_ps();
        NW_UNROLL
        for (int p = 0; p < P; p++) acc[p][v] = bias;
    }
    for (size_t t = 0; t < args->taps; t++, w += DW_BLOCK, rows += row_stride) {
        NW_UNROLL
        for (int v = 0; v < V; v++) {
            __m512 x = _mm512_load_ps(w + 16 * v);
            NW_UNROLL
            for (int p = 0; p < P; p++)
                acc[p][v] = _mm512_fmadd_ps(
                    _mm512_maskz_loadu_ps(mask[v], (const float *)rows[p] + c0 + 16 * v), x, acc[p][v]);
        }
    }
    const __m512 lo = _mm512_set1_ps(args->lo), hi = _mm512_set1_ps(args->hi);
    NW_UNROLL
    for (int p = 0; p < P; p++) NW_UNROLL
    for (int v = 0; v < V; v++) {
        /* The second operand survives when one is a NaN. */
        __m512 x = _mm512_min_ps(hi, _mm512_max_ps(lo, acc[p][v]));
        _mm512_mask_storeu_ps((float *)(y + (size_t)p * args->ldc) + c0 + 16 * v, mask[v], x);
    }
}

NW_INLINE void f32_block(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                         size_t row0, size_t count, size_t c0, const __mmask16 *mask, const int V) {
    char *y = (char *)args->c + row0 * args->ldc;
    size_t i = 0;
    for (; i + 2 <= count; i += 2, y += 2 * args->ldc)
        f32_pixels(args, rows + i, row_stride, y, c0, mask, 2, V);
    if (i < count) f32_pixels(args, rows + i, row_stride, y, c0, mask, 1, V);
}

void nw_dwconv_f32__avx512vnni(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                               size_t row0, size_t count) {
    static const __mmask16 full[4] = {0xffff, 0xffff, 0xffff, 0xffff};
    size_t c0 = 0;
    for (; c0 + 64 <= args->channels; c0 += 64) f32_block(args, rows, row_stride, row0, count, c0, full, 4);
    for (; c0 + 16 <= args->channels; c0 += 16) f32_block(args, rows, row_stride, row0, count, c0, full, 1);
    if (c0 < args->channels) {
        const __mmask16 rest[1] = {(__mmask16)((1u << (args->channels - c0)) - 1)};
        f32_block(args, rows, row_stride, row0, count, c0, rest, 1);
    }
}

/* ---- u8 · s8 ------------------------------------------------------------------------------------------- */

/* A register holds 64/P channels of P pixels: few channels (a first layer, the rest of a block) share it
 * among pixels, as 128-bit lanes. In quarter q, lane l stands for channels 16·(l mod 4/P) + 4q … +4 of
 * pixel l/(4/P). */
typedef struct channels64 {
    size_t c0, n;     /* first channel, how many (≤ 64/P) */
    __mmask64 mask;   /* of n channels */
    const __m512i *w; /* [groups][4], lanes as above */
    __m512i bias[4], wzero[4];
    __m512 scale[4];
} channels64;

/* 64/P channels of the rows of P pixels, side by side. `last`: the last pixel that exists. */
NW_INLINE __m512i load_pixels(const void *const *rows, size_t last, const channels64 *c, const int P,
                              const bool full) {
    const uint8_t *p[4];
    NW_UNROLL
    for (size_t i = 0; i < (size_t)P; i++) p[i] = (const uint8_t *)rows[i < last ? i : last] + c->c0;
    if (P == 1) return full ? _mm512_loadu_si512(p[0]) : _mm512_maskz_loadu_epi8(c->mask, p[0]);
    if (P == 2) {
        __m256i x = _mm256_maskz_loadu_epi8((__mmask32)c->mask, p[0]);
        __m256i y = _mm256_maskz_loadu_epi8((__mmask32)c->mask, p[1]);
        if (full) x = _mm256_loadu_si256((const void *)p[0]), y = _mm256_loadu_si256((const void *)p[1]);
        return _mm512_inserti64x4(_mm512_castsi256_si512(x), y, 1);
    }
    __m128i x[4];
    NW_UNROLL
    for (int i = 0; i < 4; i++)
        x[i] = full ? _mm_loadu_si128((const void *)p[i]) : _mm_maskz_loadu_epi8((__mmask16)c->mask, p[i]);
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(x[0]), x[1], 1);
    __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(x[2]), x[3], 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* acc[q] = Σ_t a·w − wzero·Σ_t a, four taps per step. The last group reads its last tap again, times zero. */
NW_INLINE void sums_of(const nw_dwconv_u8s8_args *args, const channels64 *c, const void *const *rows,
                       size_t row_stride, size_t last, __m512i *acc, const int P, const bool full,
                       const bool wzero) {
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i *w = c->w;
    __m512i sum[4];
    NW_UNROLL
    for (int q = 0; q < 4; q++) acc[q] = c->bias[q], sum[q] = _mm512_setzero_si512();
    for (size_t t = 0; t < args->taps; t += 4, w += 4) {
        __m512i a[4];
        NW_UNROLL
        for (size_t j = 0; j < 4; j++)
            a[j] = t + j < args->taps ? load_pixels(rows + (t + j) * row_stride, last, c, P, full)
                                      : _mm512_setzero_si512();
        __m512i low01 = _mm512_unpacklo_epi8(a[0], a[1]), high01 = _mm512_unpackhi_epi8(a[0], a[1]);
        __m512i low23 = _mm512_unpacklo_epi8(a[2], a[3]), high23 = _mm512_unpackhi_epi8(a[2], a[3]);
        __m512i x[4] = {_mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                        _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
        NW_UNROLL
        for (int q = 0; q < 4; q++) {
            acc[q] = _mm512_dpbusd_epi32(acc[q], x[q], w[q]);
            if (wzero) sum[q] = _mm512_dpbusd_epi32(sum[q], x[q], ones);
        }
    }
    if (wzero) NW_UNROLL
    for (int q = 0; q < 4; q++) acc[q] = _mm512_sub_epi32(acc[q], _mm512_mullo_epi32(sum[q], c->wzero[q]));
}

NW_INLINE void store_pixels(__m512i y, char *out, size_t ldy, size_t count, const channels64 *c,
                            const int P) {
    __m128i lanes[4] = {_mm512_castsi512_si128(y), _mm512_extracti32x4_epi32(y, 1),
                        _mm512_extracti32x4_epi32(y, 2), _mm512_extracti32x4_epi32(y, 3)};
    if (P == 1) _mm512_mask_storeu_epi8(out, c->mask, y);
    if (P == 2) {
        _mm256_mask_storeu_epi8(out, (__mmask32)c->mask, _mm512_castsi512_si256(y));
        if (count > 1)
            _mm256_mask_storeu_epi8(out + ldy, (__mmask32)c->mask, _mm512_extracti64x4_epi64(y, 1));
    }
    if (P == 4) NW_UNROLL
    for (size_t p = 0; p < 4; p++)
        if (p < count) _mm_mask_storeu_epi8(out + p * ldy, (__mmask16)c->mask, lanes[p]);
}

/* Quarters back to [pixel][channel] in memory. */
static void unpermute(const __m512i *acc, int P, int32_t *out) {
    int32_t quarter[16] __attribute__((aligned(64)));
    int lanes = 4 / P; /* of one pixel */
    for (int q = 0; q < 4; q++) {
        _mm512_store_si512(quarter, acc[q]);
        for (int l = 0; l < 4; l++)
            __builtin_memcpy(out + l / lanes * 64 + l % lanes * 16 + 4 * q, quarter + 4 * l, 16);
    }
}

NW_INLINE void pixels_of(const nw_dwconv_u8s8_args *args, const channels64 *c, const void *const *rows,
                         size_t row_stride, size_t row0, size_t count, const int P, const bool full,
                         const bool wzero) {
    const nw_epilogue *e = &args->epilogue;
    const __m512 lo = _mm512_set1_ps((float)(e->lo - e->zero)), hi = _mm512_set1_ps((float)(e->hi - e->zero));
    const __m512i zero = _mm512_set1_epi32(e->zero);
    const nw_table512 table = e->table ? nw_table512_load(e->table) : (nw_table512){{{0}}};
    const bool direct = e->out == NW_OUT_U8 && !e->row_zero;
    char *out = (char *)args->c + row0 * args->ldc + c->c0 * nw_epilogue_size(e->out);
    for (size_t i = 0; i < count; i += (size_t)P, out += (size_t)P * args->ldc) {
        size_t here = count - i < (size_t)P ? count - i : (size_t)P;
        __m512i acc[4];
        sums_of(args, c, rows + i, row_stride, here - 1, acc, P, full, wzero);
        if (direct) {
            NW_UNROLL
            for (int q = 0; q < 4; q++) {
                __m512 p = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[q]), c->scale[q]);
                p = _mm512_min_ps(_mm512_max_ps(p, lo), hi);
                acc[q] = _mm512_add_epi32(_mm512_cvtps_epi32(p), zero);
            }
            /* Packing within lanes puts the four quarters of a lane back in order. */
            __m512i y =
                _mm512_packus_epi16(_mm512_packs_epi32(acc[0], acc[1]), _mm512_packs_epi32(acc[2], acc[3]));
            if (e->table) y = nw_look_up_64(&table, y);
            store_pixels(y, out, args->ldc, here, c, P);
        } else {
            int32_t sums[4 * 64];
            unpermute(acc, P, sums);
            nw_epilogue__avx512vnni(e, row0 + i, c->c0, here, c->n, NULL, sums, 64, out, args->ldc);
        }
    }
}

/* Operands of a block in the lane order of P: 16 columns per 128-bit group of lanes, quarters outermost. */
static __m512i permuted(const void *source, size_t n, const int P, int q) {
    int32_t x[64] = {0}, y[16];
    __builtin_memcpy(x, source, 4 * n);
    for (int l = 0; l < 4; l++) __builtin_memcpy(y + 4 * l, x + l % (4 / P) * 16 + 4 * q, 16);
    return _mm512_loadu_si512(y);
}

NW_INLINE void block_of(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,
                        size_t row0, size_t count, size_t c0, size_t n, const int P, const bool full) {
    enum { MAX_GROUPS = 16 };
    __m512i local[4 * MAX_GROUPS];
    const nw_epilogue *e = &args->epilogue;
    const __m512i *w =
        (const __m512i *)(const void *)dw_weights(args->packed, args->channels, args->taps, c0 / DW_BLOCK);
    const bool direct = e->out == NW_OUT_U8 && !e->row_zero;
    channels64 c = {.c0 = c0, .n = n, .mask = n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1, .w = w};
    for (int q = 0; q < 4; q++) {
        /* In the general path the epilogue adds the bias. */
        c.bias[q] = direct && e->bias ? permuted(e->bias + c0, n, P, q) : _mm512_setzero_si512();
        c.scale[q] = direct ? _mm512_castsi512_ps(permuted(e->scale + c0, n, P, q)) : _mm512_setzero_ps();
        c.wzero[q] = permuted(dw_wzero(args->packed) + c0, n, P, q);
    }
    if (P > 1) {
        for (size_t g = 0; g < 4 * dw_groups(args->taps); g++)
            local[g] =
                P == 2 ? _mm512_shuffle_i32x4(w[g], w[g], 0x44) : _mm512_shuffle_i32x4(w[g], w[g], 0x00);
        c.w = local;
    }
    if (((const dw_header *)args->packed)->any_wzero)
        pixels_of(args, &c, rows, row_stride, row0, count, P, full, true);
    else
        pixels_of(args, &c, rows, row_stride, row0, count, P, full, false);
}

#define BLOCK(name, P, full)                                                                                 \
    static void name(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,            \
                     size_t row0, size_t count, size_t c0, size_t n) {                                       \
        block_of(args, rows, row_stride, row0, count, c0, n, P, full);                                       \
    }
BLOCK(block_64, 1, true)
BLOCK(block_rest, 1, false)
BLOCK(block_32_pairs, 2, true)
BLOCK(block_rest_pairs, 2, false)
BLOCK(block_16_quads, 4, true)
BLOCK(block_rest_quads, 4, false)

void nw_dwconv_u8s8__avx512vnni(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,
                                size_t row0, size_t count) {
    const bool share = dw_groups(args->taps) <= 16;
    for (size_t c0 = 0; c0 < args->channels; c0 += 64) {
        size_t n = args->channels - c0;
        if (n >= 64)
            block_64(args, rows, row_stride, row0, count, c0, 64);
        else if (n > 32 || !share)
            block_rest(args, rows, row_stride, row0, count, c0, n);
        else if (n > 16)
            (n == 32 ? block_32_pairs : block_rest_pairs)(args, rows, row_stride, row0, count, c0, n);
        else
            (n == 16 ? block_16_quads : block_rest_quads)(args, rows, row_stride, row0, count, c0, n);
    }
}
#else
typedef int nw_no_kernels_here;
#endif
