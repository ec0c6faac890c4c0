/* gemm_u8s8_neondot.c: u8·s8 tiles of up to 6 × 16 with sdot: 24 accumulators, 6 registers of A with four groups
 * of four k each, of which sdot takes one by its lane, and 2 of weights. sdot multiplies s8 by s8: 128 is taken
 * off the activations as they are loaded, an exclusive or for 16 sdots, and what that leaves out stands before
 * the panel (gemm.h). Four groups are 96 sdots and 22 loads; one row alone still has four sums, and sdot passes
 * a sum on after one cycle on Cortex-A76 and Neoverse N1. Must not include anything but kern/. */
#if defined(__aarch64__)
#include "kern/codes_neon.h"
#include "kern/gemm.h"
#include "kern/unroll.h"

/* acc + Σ of four products, of which a's four k are its 32-bit lane `lane`; the instruction wants a constant. */
NW_INLINE int32x4_t dot_lane(int32x4_t acc, int8x16_t w, int8x16_t a, const int lane) {
    switch (lane) {
    case 0: return vdotq_laneq_s32(acc, w, a, 0);
    case 1: return vdotq_laneq_s32(acc, w, a, 1);
    case 2: return vdotq_laneq_s32(acc, w, a, 2);
    default: return vdotq_laneq_s32(acc, w, a, 3);
    }
}

/* Four k: acc[i][v] += Σ_j a[i][lane][j] · w[4v … 4v+4)[j]. */
NW_INLINE void group_of(int32x4_t (*acc)[4], const int8x16_t *a, const int8_t *w, const int lane, const int M,
                        const int V) {
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        const int8x16_t x = vld1q_s8(w + 16 * v);
        NW_UNROLL
        for (int i = 0; i < M; i++) acc[i][v] = dot_lane(acc[i][v], x, a[i], lane);
    }
}

NW_INLINE int8x16_t shifted(uint8x16_t codes) {
    return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
}

NW_INLINE void tile_of(const nw_gemm_u8s8_tile *tile, const int M, const int V) {
    int32x4_t acc[6][4];
    int8x16_t x[6];
    const int8_t *w = tile->w;
    const size_t groups = (tile->k + 3) / 4;
    NW_UNROLL
    for (int v = 0; v < V; v++, w += 16) NW_UNROLL
    for (int i = 0; i < M; i++) acc[i][v] = vreinterpretq_s32_s8(vld1q_s8(w));
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const uint8_t *a[6];
        size_t g = 0;
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        for (; g + 4 <= groups; g += 4, w += 64 * V) {
            NW_UNROLL
            for (int i = 0; i < M; i++) x[i] = shifted(vld1q_u8(a[i] + 4 * g));
            NW_UNROLL
            for (int lane = 0; lane < 4; lane++) group_of(acc, x, w + 16 * V * lane, lane, M, V);
        }
        for (; g < groups; g++, w += 16 * V) {
            NW_UNROLL
            for (int i = 0; i < M; i++) x[i] = shifted(nw_load_4_everywhere(a[i] + 4 * g));
            group_of(acc, x, w, 0, M, V);
        }
    }
    int32_t sums[6 * 16];
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) vst1q_s32(sums + 4 * (i * V + v), acc[i][v]);
    nw_epilogue__neon(tile->epilogue, tile->row, tile->col, (size_t)M, tile->n, tile->row_sums, sums,
                      4 * (size_t)V, tile->c, tile->ldc);
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TILE(m)                                                                                              \
    static void tile_##m##x8(const nw_gemm_u8s8_tile *tile) {                                                \
        tile_of(tile, m, 2);                                                                                 \
    }                                                                                                        \
    static void tile_##m##x16(const nw_gemm_u8s8_tile *tile) {                                               \
        tile_of(tile, m, 4);                                                                                 \
    }
TILES(TILE)

void nw_gemm_u8s8__neondot(const nw_gemm_u8s8_tile *tile) {
    static nw_gemm_u8s8_fn *const tiles[][2] = {
#define ENTRY(m) {tile_##m##x8, tile_##m##x16},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 8](tile);
}

void nw_gemm_row_sums__neondot(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                               int32_t *sums) {
    nw_gemm_row_sums__neon(m, k, taps, rows, row_stride, sums);
}
#else
typedef int nw_no_kernels_here;
#endif
