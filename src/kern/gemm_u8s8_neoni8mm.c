/* gemm_u8s8_neoni8mm.c: u8·s8 tiles of up to 6 × 16 with usmmla, which adds the product of a 2×8 and an 8×2
 * matrix to a 2×2 one: twice the products of a dot product in an instruction. 24 accumulators of two rows and two
 * columns, 3 registers of A, the others for weights; eight k are 24 usmmla and 14 loads. With an odd number of
 * rows the last one is its own neighbour. Weights are packed eight k side by side: a register is two columns.
 * Must not include anything but kern/. */
#if defined(__aarch64__)
#include "kern/codes_neon.h"
#include "kern/gemm.h"
#include "kern/unroll.h"

/* Eight k of rows 2p and 2p + 1, p < P, and of 2·C columns. */
NW_INLINE void group_of(int32x4_t (*acc)[8], const uint8x16_t *a, const int8_t *w, const int P, const int C) {
    NW_UNROLL
    for (int c = 0; c < C; c++) {
        const int8x16_t x = vld1q_s8(w + 16 * c);
        NW_UNROLL
        for (int p = 0; p < P; p++) acc[p][c] = vusmmlaq_s32(acc[p][c], a[p], x);
    }
}

/* Four bytes and four zeros. */
NW_INLINE uint8x8_t load_4(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return vcreate_u8(x);
}

NW_INLINE void tile_of(const nw_gemm_u8s8_tile *tile, const int M, const int C) {
    const int P = (M + 1) / 2;
    const int8_t *w = tile->w;
    const size_t whole = (tile->k + 3) / 8; /* groups with eight readable bytes of A */
    int32x4_t acc[3][8];
    uint8x16_t x[3];
    NW_UNROLL
    for (int p = 0; p < P; p++) NW_UNROLL
    for (int c = 0; c < C; c++) acc[p][c] = vdupq_n_s32(0);
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const uint8_t *a[6];
        NW_UNROLL
        for (int i = 0; i < 2 * P; i++) a[i] = rows[i < M ? i : M - 1];
        for (size_t g = 0; g < whole; g++, w += 16 * C) {
            NW_UNROLL
            for (int p = 0; p < P; p++)
                x[p] = vcombine_u8(vld1_u8(a[2 * p] + 8 * g), vld1_u8(a[2 * p + 1] + 8 * g));
            group_of(acc, x, w, P, C);
        }
        if (8 * whole < tile->k) {
            NW_UNROLL
            for (int p = 0; p < P; p++)
                x[p] = vcombine_u8(load_4(a[2 * p] + 8 * whole), load_4(a[2 * p + 1] + 8 * whole));
            group_of(acc, x, w, P, C);
            w += 16 * C;
        }
    }
    int32_t sums[6 * 16];
    NW_UNROLL
    for (int p = 0; p < P; p++) NW_UNROLL
    for (int c = 0; c < C; c += 2) {
        const int64x2_t left = vreinterpretq_s64_s32(acc[p][c]), right = vreinterpretq_s64_s32(acc[p][c + 1]);
        int32_t *to = sums + 4 * p * C + 2 * c;
        vst1q_s32(to, vreinterpretq_s32_s64(vzip1q_s64(left, right)));
        vst1q_s32(to + 2 * C, vreinterpretq_s32_s64(vzip2q_s64(left, right)));
    }
    nw_epilogue__neon(tile->epilogue, tile->row, tile->col, (size_t)M, tile->n, tile->row_sums, sums,
                      2 * (size_t)C, tile->c, tile->ldc);
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TILE(m)                                                                                              \
    static void tile_##m##x8(const nw_gemm_u8s8_tile *tile) {                                                \
        tile_of(tile, m, 4);                                                                                 \
    }                                                                                                        \
    static void tile_##m##x16(const nw_gemm_u8s8_tile *tile) {                                               \
        tile_of(tile, m, 8);                                                                                 \
    }
TILES(TILE)

void nw_gemm_u8s8__neoni8mm(const nw_gemm_u8s8_tile *tile) {
    static nw_gemm_u8s8_fn *const tiles[][2] = {
#define ENTRY(m) {tile_##m##x8, tile_##m##x16},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 8](tile);
}

void nw_gemm_row_sums__neoni8mm(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                                int32_t *sums) {
    nw_gemm_row_sums__neon(m, k, taps, rows, row_stride, sums);
}
#else
typedef int nw_no_kernels_here;
#endif
