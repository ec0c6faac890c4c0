/* epilogue_avx512vnni.c: the epilogue, 16 columns at a time; a mask covers the last ones.
 * Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/epilogue.h"
#include "kern/lookup_avx512vnni.h"
#include "kern/unroll.h"

#include <immintrin.h>

/* What a block of 16 columns needs in every row. */
typedef struct columns {
    __mmask16 mask;
    __m512i bias, wzero, col_sum;
    __m512 scale, fbias, lo, hi;
} columns;

static columns columns_load(const nw_epilogue *e, size_t col, size_t n) {
    columns c;
    c.mask = n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
    c.bias = e->bias ? _mm512_maskz_loadu_epi32(c.mask, e->bias + col) : _mm512_setzero_si512();
    c.wzero = e->wzero ? _mm512_maskz_loadu_epi32(c.mask, e->wzero + col) : _mm512_setzero_si512();
    c.col_sum = e->row_zero ? _mm512_maskz_loadu_epi32(c.mask, e->col_sum + col) : _mm512_setzero_si512();
    c.scale = e->out != NW_OUT_S32 ? _mm512_maskz_loadu_ps(c.mask, e->scale + col) : _mm512_setzero_ps();
    c.fbias = e->fbias && e->out == NW_OUT_F32 ? _mm512_maskz_loadu_ps(c.mask, e->fbias + col)
                                               : _mm512_setzero_ps();
    /* U8: clamping before the zero point is added gives the same code, and keeps the conversion in range:
     * clamp(rint(p) + z, lo, hi) = rint(clamp(p, lo − z, hi − z)) + z. */
    c.lo = _mm512_set1_ps(e->out == NW_OUT_F32 ? e->flo : (float)(e->lo - e->zero));
    c.hi = _mm512_set1_ps(e->out == NW_OUT_F32 ? e->fhi : (float)(e->hi - e->zero));
    return c;
}

NW_INLINE __m512i to_codes(__m512i acc, const columns *c, __m512i zero) {
    __m512 p = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), c->scale);
    p = _mm512_min_ps(_mm512_max_ps(p, c->lo), c->hi);
    return _mm512_add_epi32(_mm512_cvtps_epi32(p), zero);
}

NW_INLINE __m512i corrected(const nw_epilogue *e, const columns *c, const int32_t *acc, size_t row,
                            const int32_t *row_sums, size_t i) {
    __m512i x = _mm512_add_epi32(_mm512_maskz_loadu_epi32(c->mask, acc), c->bias);
    if (e->wzero) x = _mm512_sub_epi32(x, _mm512_mullo_epi32(c->wzero, _mm512_set1_epi32(row_sums[i])));
    if (e->row_zero)
        x = _mm512_sub_epi32(x, _mm512_mullo_epi32(c->col_sum, _mm512_set1_epi32(e->row_zero[row + i])));
    return x;
}

void nw_epilogue__avx512vnni(const nw_epilogue *e, size_t row, size_t col, size_t m, size_t n,
                             const int32_t *row_sums, const int32_t *acc, size_t ld_acc, void *y,
                             size_t ldy) {
    const __m512i zero = _mm512_set1_epi32(e->zero);
    for (size_t j = 0; j < n; j += 16) {
        const columns c = columns_load(e, col + j, n - j);
        char *out = (char *)y + j * nw_epilogue_size(e->out);
        if (e->out == NW_OUT_U8) {
            for (size_t i = 0; i < m; i++, out += ldy) {
                __m512i q = to_codes(corrected(e, &c, acc + i * ld_acc + j, row, row_sums, i), &c, zero);
                _mm_mask_storeu_epi8(out, c.mask, _mm512_cvtepi32_epi8(q));
            }
        } else if (e->out == NW_OUT_F32) {
            for (size_t i = 0; i < m; i++, out += ldy) {
                __m512i x = corrected(e, &c, acc + i * ld_acc + j, row, row_sums, i);
                __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(x), c.scale);
                if (e->row_scale) f = _mm512_mul_ps(f, _mm512_set1_ps(e->row_scale[row + i]));
                if (e->fbias) f = _mm512_add_ps(f, c.fbias);
                /* The second operand survives when one is a NaN. */
                f = _mm512_min_ps(c.hi, _mm512_max_ps(c.lo, f));
                _mm512_mask_storeu_ps(out, c.mask, f);
            }
        } else {
            for (size_t i = 0; i < m; i++, out += ldy)
                _mm512_mask_storeu_epi32(out, c.mask,
                                         corrected(e, &c, acc + i * ld_acc + j, row, row_sums, i));
        }
    }
    if (e->out == NW_OUT_U8 && e->table)
        for (size_t j = 0; j < n; j += 64)
            nw_look_up_tile(e->table, (uint8_t *)y + j, ldy, m, n - j < 64 ? n - j : 64);
}
#else
typedef int nw_no_kernels_here;
#endif
