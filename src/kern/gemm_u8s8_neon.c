/* gemm_u8s8_neon.c: u8·s8 tiles of up to 4 × 8 without dot products. There is no instruction for mixed signs: 128
 * is taken off the activations (gemm.h). smull gives eight exact products of 16 bits, sadalp adds them in pairs
 * to sums of 32: on the cores that need this (Cortex-A53, A72, A73) a multiplication and an addition for eight
 * products, on two different pipes of A72; smlal on widened codes is one instruction for four products, and two
 * products do not fit 16 bits (−128·−128 twice). A register of sums serves two columns: 16 of them, and room for
 * the products on their way. Must not include anything but kern/. */
#if defined(__aarch64__)
#include "kern/codes_neon.h"
#include "kern/gemm.h"
#include "kern/unroll.h"

/* Four k of 8 columns: acc[c] holds columns 2c and 2c + 1, two sums each; a: the four k in every 32-bit lane. */
NW_INLINE void group_of(int32x4_t *acc, int8x16_t a, const int8x16_t *w) {
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        acc[2 * v] = vpadalq_s16(acc[2 * v], vmull_s8(vget_low_s8(w[v]), vget_low_s8(a)));
        acc[2 * v + 1] = vpadalq_s16(acc[2 * v + 1], vmull_high_s8(w[v], a));
    }
}

/* 32-bit lane `lane` of x in every lane. */
NW_INLINE int8x16_t lane_everywhere(uint8x16_t x, const int lane) {
    const int32x4_t y = vreinterpretq_s32_u8(x);
    switch (lane) {
    case 0: return vreinterpretq_s8_s32(vdupq_laneq_s32(y, 0));
    case 1: return vreinterpretq_s8_s32(vdupq_laneq_s32(y, 1));
    case 2: return vreinterpretq_s8_s32(vdupq_laneq_s32(y, 2));
    default: return vreinterpretq_s8_s32(vdupq_laneq_s32(y, 3));
    }
}

NW_INLINE void tile_of(const nw_gemm_u8s8_tile *tile, const int M) {
    const int8_t *w = tile->w + 32; /* behind 128·ΣW */
    const size_t groups = (tile->k + 3) / 4;
    const uint8x16_t shift = vdupq_n_u8(128);
    int32x4_t acc[4][4];
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int c = 0; c < 4; c++) acc[i][c] = vdupq_n_s32(0);
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const uint8_t *a[4];
        size_t g = 0;
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        for (; g + 4 <= groups; g += 4, w += 128) {
            uint8x16_t x[4];
            NW_UNROLL
            for (int i = 0; i < M; i++) x[i] = veorq_u8(vld1q_u8(a[i] + 4 * g), shift);
            NW_UNROLL
            for (int lane = 0; lane < 4; lane++) {
                const int8x16_t y[2] = {vld1q_s8(w + 32 * lane), vld1q_s8(w + 32 * lane + 16)};
                NW_UNROLL
                for (int i = 0; i < M; i++) group_of(acc[i], lane_everywhere(x[i], lane), y);
            }
        }
        for (; g < groups; g++, w += 32) {
            const int8x16_t y[2] = {vld1q_s8(w), vld1q_s8(w + 16)};
            NW_UNROLL
            for (int i = 0; i < M; i++)
                group_of(acc[i], vreinterpretq_s8_u8(veorq_u8(nw_load_4_everywhere(a[i] + 4 * g), shift)), y);
        }
    }
    int32_t sums[4 * 8];
    NW_UNROLL
    for (int v = 0; v < 2; v++) {
        const int32x4_t head = vreinterpretq_s32_s8(vld1q_s8(tile->w + 16 * v));
        NW_UNROLL
        for (int i = 0; i < M; i++)
            vst1q_s32(sums + 8 * i + 4 * v, vaddq_s32(head, vpaddq_s32(acc[i][2 * v], acc[i][2 * v + 1])));
    }
    nw_epilogue__neon(tile->epilogue, tile->row, tile->col, (size_t)M, tile->n, tile->row_sums, sums, 8,
                      tile->c, tile->ldc);
}

void nw_gemm_u8s8__neon(const nw_gemm_u8s8_tile *tile) {
    switch (tile->m) {
    case 1: tile_of(tile, 1); break;
    case 2: tile_of(tile, 2); break;
    case 3: tile_of(tile, 3); break;
    default: tile_of(tile, 4); break;
    }
}

void nw_gemm_row_sums__neon(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                            int32_t *sums) {
    for (size_t i = 0; i < m; i++) {
        uint32x4_t acc = vdupq_n_u32(0); /* wraps */
        uint32_t rest = 0;
        for (size_t t = 0; t < taps; t++) {
            const uint8_t *row = rows[t * row_stride + i];
            size_t j = 0;
            for (; j + 16 <= k; j += 16) acc = vpadalq_u16(acc, vpaddlq_u8(vld1q_u8(row + j)));
            for (; j < k; j++) rest += row[j];
        }
        sums[i] = (int32_t)(rest + vaddvq_u32(acc));
    }
}
#else
typedef int nw_no_kernels_here;
#endif
