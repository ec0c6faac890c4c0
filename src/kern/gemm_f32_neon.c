/* gemm_f32_neon.c: f32 tiles of up to 6 × 16: 24 accumulators, 6 registers of A with four k each, of which fmla
 * takes one by its lane, and 2 of weights: the 32 there are. Four k are 96 fmla and 22 loads: a core with two
 * units of each (Cortex-A76, Neoverse N1) and one that issues a load beside every other fmla (Cortex-A55) are
 * both busy multiplying; one row alone still has four sums to hide the latency of fmla. Must not include
 * anything but kern/. */
#if defined(__aarch64__)
#include "kern/gemm.h"
#include "kern/unroll.h"

#include <arm_neon.h>

/* acc + w·a[lane]; the instruction wants a constant. */
NW_INLINE float32x4_t fma_lane(float32x4_t acc, float32x4_t w, float32x4_t a, const int lane) {
    switch (lane) {
    case 0: return vfmaq_laneq_f32(acc, w, a, 0);
    case 1: return vfmaq_laneq_f32(acc, w, a, 1);
    case 2: return vfmaq_laneq_f32(acc, w, a, 2);
    default: return vfmaq_laneq_f32(acc, w, a, 3);
    }
}

/* One k: acc[i][v] += a[i][lane] · w[4v … 4v+4). */
NW_INLINE void step_of(float32x4_t (*acc)[4], const float32x4_t *a, const float *w, const int lane,
                       const int M, const int V) {
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        const float32x4_t x = vld1q_f32(w + 4 * v);
        NW_UNROLL
        for (int i = 0; i < M; i++) acc[i][v] = fma_lane(acc[i][v], x, a[i], lane);
    }
}

/* The sums of a tile with fewer columns than its panel, ld apart. A function of its own: sums that live across a
 * call live in memory. */
static void finish_part(const nw_gemm_f32_tile *tile, const float *sums, size_t ld) {
    for (size_t i = 0; i < tile->m; i++, sums += ld) {
        float *c = (float *)((char *)tile->c + i * tile->ldc);
        for (size_t j = 0; j < tile->n; j++) {
            float y = sums[j] + (tile->bias ? tile->bias[j] : 0.0f);
            if (tile->accumulate) y += c[j];
            c[j] = y < tile->lo ? tile->lo : y > tile->hi ? tile->hi : y;
        }
    }
}

NW_INLINE void tile_of(const nw_gemm_f32_tile *tile, const int M, const int V) {
    float32x4_t acc[6][4], x[6];
    const float *w = tile->w;
    const size_t depth = tile->k;
    NW_UNROLL
    for (int i = 0; i < M; i++) NW_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = vdupq_n_f32(0);
    for (size_t t = 0; t < tile->taps; t++) {
        const void *const *rows = tile->rows + t * tile->row_stride;
        const float *a[6];
        size_t k = 0;
        NW_UNROLL
        for (int i = 0; i < M; i++) a[i] = rows[i];
        for (; k + 4 <= depth; k += 4, w += 16 * V) {
            NW_UNROLL
            for (int i = 0; i < M; i++) x[i] = vld1q_f32(a[i] + k);
            NW_UNROLL
            for (int lane = 0; lane < 4; lane++) step_of(acc, x, w + 4 * V * lane, lane, M, V);
        }
        for (; k < depth; k++, w += 4 * V) {
            NW_UNROLL
            for (int i = 0; i < M; i++) x[i] = vld1q_dup_f32(a[i] + k);
            step_of(acc, x, w, 0, M, V);
        }
    }
    if (tile->n < 4 * (size_t)V) {
        float sums[6 * 16];
        NW_UNROLL
        for (int i = 0; i < M; i++) NW_UNROLL
        for (int v = 0; v < V; v++) vst1q_f32(sums + 4 * (i * V + v), acc[i][v]);
        finish_part(tile, sums, 4 * (size_t)V);
        return;
    }
    const float32x4_t lo = vdupq_n_f32(tile->lo), hi = vdupq_n_f32(tile->hi);
    NW_UNROLL
    for (int v = 0; v < V; v++) {
        const float32x4_t bias = tile->bias ? vld1q_f32(tile->bias + 4 * v) : vdupq_n_f32(0);
        NW_UNROLL
        for (int i = 0; i < M; i++) {
            float *c = (float *)((char *)tile->c + (size_t)i * tile->ldc) + 4 * v;
            float32x4_t y = vaddq_f32(acc[i][v], bias);
            if (tile->accumulate) y = vaddq_f32(y, vld1q_f32(c));
            vst1q_f32(c, vminq_f32(vmaxq_f32(y, lo), hi)); /* a NaN stays one */
        }
    }
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TILE(m)                                                                                              \
    static void tile_##m##x8(const nw_gemm_f32_tile *tile) {                                                 \
        tile_of(tile, m, 2);                                                                                 \
    }                                                                                                        \
    static void tile_##m##x16(const nw_gemm_f32_tile *tile) {                                                \
        tile_of(tile, m, 4);                                                                                 \
    }
TILES(TILE)

void nw_gemm_f32__neon(const nw_gemm_f32_tile *tile) {
    static nw_gemm_f32_fn *const tiles[][2] = {
#define ENTRY(m) {tile_##m##x8, tile_##m##x16},
        TILES(ENTRY)};
    tiles[tile->m - 1][tile->n > 8](tile);
}
#else
typedef int nw_no_kernels_here;
#endif
