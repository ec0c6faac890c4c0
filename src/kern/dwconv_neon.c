/* dwconv_neon.c: depthwise convolution, 16 channels at a time. Must not include anything but kern/. */
#if defined(__aarch64__)
#include "kern/codes_neon.h"
#include "kern/dwconv.h"
#include "kern/dwconv_pack.h"
#include "kern/unroll.h"

/* ---- f32 ----------------------------------------------------------------------------------------------- */

NW_INLINE void f32_block(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                         size_t row0, size_t count, size_t c0, const int V) {
    const float *weights =
        (const float *)args->packed + c0 / DW_BLOCK * DW_BLOCK * args->taps + c0 % DW_BLOCK;
    const float32x4_t lo = vdupq_n_f32(args->lo), hi = vdupq_n_f32(args->hi);
    for (size_t i = 0; i < count; i++) {
        float *y = (float *)((char *)args->c + (row0 + i) * args->ldc) + c0;
        const float *w = weights;
        float32x4_t acc[4];
        NW_UNROLL
        for (int v = 0; v < V; v++) acc[v] = args->bias ? vld1q_f32(args->bias + c0 + 4 * v) : vdupq_n_f32(0);
        for (size_t t = 0; t < args->taps; t++, w += DW_BLOCK) {
            const float *a = (const float *)rows[t * row_stride + i] + c0;
            NW_UNROLL
            for (int v = 0; v < V; v++)
                acc[v] = vfmaq_f32(acc[v], vld1q_f32(a + 4 * v), vld1q_f32(w + 4 * v));
        }
        NW_UNROLL
        for (int v = 0; v < V; v++) /* a NaN stays one */
            vst1q_f32(y + 4 * v, vminq_f32(vmaxq_f32(acc[v], lo), hi));
    }
}

void nw_dwconv_f32__neon(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                         size_t row0, size_t count) {
    size_t c0 = 0;
    for (; c0 + 16 <= args->channels; c0 += 16) f32_block(args, rows, row_stride, row0, count, c0, 4);
    for (; c0 + 4 <= args->channels; c0 += 4) f32_block(args, rows, row_stride, row0, count, c0, 1);
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

#define PIXELS   16  /* per call of the epilogue */
#define MAX_TAPS 128 /* larger filters go to the reference */

/* Weights of 16 channels minus their zero points, 16 bits wide, for smlal: [tap][16]. */
static void widen_weights(const nw_dwconv_u8s8_args *args, size_t c0, int16_t (*to)[16]) {
    const int8_t *packed = dw_weights(args->packed, args->channels, args->taps, c0 / DW_BLOCK);
    const int32_t *wzero = dw_wzero(args->packed) + c0;
    for (size_t t = 0; t < args->taps; t++)
        for (size_t c = 0; c < 16; c++)
            to[t][c] = (int16_t)(packed[dw_offset((dw_form){0}, 0, c0 % DW_BLOCK + c, t)] - wzero[c]);
}

/* n ≤ 16 channels from c0: a tap is two widenings and four smlal. */
NW_INLINE void u8s8_block(const nw_dwconv_u8s8_args *args, const int16_t (*weights)[16],
                          const void *const *rows, size_t row_stride, size_t row0, size_t count, size_t c0,
                          size_t n) {
    const nw_epilogue *e = &args->epilogue;
    char *out = (char *)args->c + row0 * args->ldc + c0 * nw_epilogue_size(e->out);
    int32_t sums[PIXELS][16];
    for (size_t i0 = 0; i0 < count; i0 += PIXELS, out += PIXELS * args->ldc) {
        const size_t here = count - i0 < PIXELS ? count - i0 : PIXELS;
        for (size_t i = 0; i < here; i++) {
            int32x4_t acc[4];
            NW_UNROLL
            for (int q = 0; q < 4; q++) acc[q] = vdupq_n_s32(0);
            for (size_t t = 0; t < args->taps; t++) {
                const uint8x16_t a = nw_load_16((const uint8_t *)rows[t * row_stride + i0 + i] + c0, n);
                const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))),
                                high = vreinterpretq_s16_u16(vmovl_high_u8(a));
                const int16x8_t w0 = vld1q_s16(weights[t]), w1 = vld1q_s16(weights[t] + 8);
                acc[0] = vmlal_s16(acc[0], vget_low_s16(low), vget_low_s16(w0));
                acc[1] = vmlal_high_s16(acc[1], low, w0);
                acc[2] = vmlal_s16(acc[2], vget_low_s16(high), vget_low_s16(w1));
                acc[3] = vmlal_high_s16(acc[3], high, w1);
            }
            NW_UNROLL
            for (int q = 0; q < 4; q++) vst1q_s32(sums[i] + 4 * q, acc[q]);
        }
        nw_epilogue__neon(e, row0 + i0, c0, here, n, NULL, sums[0], 16, out, args->ldc);
    }
}

void nw_dwconv_u8s8__neon(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,
                          size_t row0, size_t count) {
    int16_t weights[MAX_TAPS][16];
    if (args->taps > MAX_TAPS) {
        nw_dwconv_u8s8__scalar(args, rows, row_stride, row0, count);
        return;
    }
    for (size_t c0 = 0; c0 < args->channels; c0 += 16) {
        const size_t n = args->channels - c0;
        widen_weights(args, c0, weights);
        if (n >= 16)
            u8s8_block(args, weights, rows, row_stride, row0, count, c0, 16);
        else
            u8s8_block(args, weights, rows, row_stride, row0, count, c0, n);
    }
}
#else
typedef int nw_no_kernels_here;
#endif
