/* epilogue_neon.c: the epilogue, 8 or 4 columns at a time; the reference finishes the last ones.
 * Must not include anything but kern/. */
#if defined(__aarch64__)
#include "kern/codes_neon.h"
#include "kern/epilogue.h"
#include "kern/unroll.h"

/* What a block of 4·V columns needs in every row. */
typedef struct columns {
    int32x4_t bias[2], wzero[2], col_sum[2];
    float32x4_t scale[2], fbias[2];
} columns;

NW_INLINE int32x4_t load_or_zero(const int32_t *p, size_t at) {
    return p ? vld1q_s32(p + at) : vdupq_n_s32(0);
}

NW_INLINE columns columns_load(const nw_epilogue *e, size_t col, const int V) {
    columns c;
    NW_UNROLL
    for (int v = 0; v < V; v++, col += 4) {
        c.bias[v] = load_or_zero(e->bias, col);
        c.wzero[v] = load_or_zero(e->wzero, col);
        c.col_sum[v] = load_or_zero(e->row_zero ? e->col_sum : NULL, col);
        c.scale[v] = e->out != NW_OUT_S32 ? vld1q_f32(e->scale + col) : vdupq_n_f32(0);
        c.fbias[v] = e->out == NW_OUT_F32 && e->fbias ? vld1q_f32(e->fbias + col) : vdupq_n_f32(0);
    }
    return c;
}

/* y < lo ? lo : y > hi ? hi : y. fmax and fmin would make a 0 of lo out of −0. */
NW_INLINE float32x4_t clamped(float32x4_t y, float32x4_t lo, float32x4_t hi) {
    y = vbslq_f32(vcltq_f32(y, lo), lo, y);
    return vbslq_f32(vcgtq_f32(y, hi), hi, y);
}

NW_INLINE void block(const nw_epilogue *e, size_t row, size_t col, size_t m, const int32_t *row_sums,
                     const int32_t *acc, size_t ld_acc, char *out, size_t ldy, const int V) {
    const columns c = columns_load(e, col, V);
    const bool codes = e->out == NW_OUT_U8;
    /* U8: clamping before the zero point is added gives the same code (epilogue_avx512vnni.c). */
    const float32x4_t lo = vdupq_n_f32(codes ? (float)(e->lo - e->zero) : e->flo);
    const float32x4_t hi = vdupq_n_f32(codes ? (float)(e->hi - e->zero) : e->fhi);
    const int32x4_t zero = vdupq_n_s32(e->zero);
    for (size_t i = 0; i < m; i++, acc += ld_acc, out += ldy) {
        int32x4_t x[2];
        NW_UNROLL
        for (int v = 0; v < V; v++) {
            x[v] = vaddq_s32(vld1q_s32(acc + 4 * v), c.bias[v]);
            if (e->wzero) x[v] = vmlsq_n_s32(x[v], c.wzero[v], row_sums[i]);
            if (e->row_zero) x[v] = vmlsq_n_s32(x[v], c.col_sum[v], e->row_zero[row + i]);
            if (e->out == NW_OUT_S32) {
                vst1q_u8((uint8_t *)out + 16 * v, vreinterpretq_u8_s32(x[v]));
                continue;
            }
            float32x4_t f = vmulq_f32(vcvtq_f32_s32(x[v]), c.scale[v]);
            if (codes) {
                x[v] = vaddq_s32(vcvtnq_s32_f32(vminq_f32(vmaxq_f32(f, lo), hi)), zero);
                continue;
            }
            if (e->row_scale) f = vmulq_n_f32(f, e->row_scale[row + i]);
            if (e->fbias) f = vaddq_f32(f, c.fbias[v]);
            vst1q_u8((uint8_t *)out + 16 * v, vreinterpretq_u8_f32(clamped(f, lo, hi)));
        }
        if (!codes) continue;
        const int16x8_t s16 = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[V - 1]));
        const uint8x8_t u8 = vmovn_u16(vreinterpretq_u16_s16(s16));
        memcpy(out, &u8, 4 * (size_t)V);
    }
}

void nw_epilogue__neon(const nw_epilogue *e, size_t row, size_t col, size_t m, size_t n,
                       const int32_t *row_sums, const int32_t *acc, size_t ld_acc, void *y, size_t ldy) {
    size_t j = 0, size = nw_epilogue_size(e->out);
    for (; j + 8 <= n; j += 8)
        block(e, row, col + j, m, row_sums, acc + j, ld_acc, (char *)y + j * size, ldy, 2);
    for (; j + 4 <= n; j += 4)
        block(e, row, col + j, m, row_sums, acc + j, ld_acc, (char *)y + j * size, ldy, 1);
    if (e->out == NW_OUT_U8 && e->table && j) nw_look_up_rows(e->table, y, ldy, m, j);
    if (j < n)
        nw_epilogue__scalar(e, row, col + j, m, n - j, row_sums, acc + j, ld_acc, (char *)y + j * size, ldy);
}
#else
typedef int nw_no_kernels_here;
#endif
