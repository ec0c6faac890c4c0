/* gemm_scalar.c: the reference tiles in plain C. Must not include anything but kern/. */
#include "kern/gemm.h"

#include <string.h>

#define MR 4
#define NR 8

/* f32: acc += a·w in order of t, k; then + bias, + old, clamp. */
void nw_gemm_f32__scalar(const nw_gemm_f32_tile *tile) {
    float acc[MR][NR] = {{0}};
    const float *w = tile->w;
    for (size_t t = 0; t < tile->taps; t++)
        for (size_t k = 0; k < tile->k; k++, w += NR)
            for (size_t i = 0; i < tile->m; i++) {
                float a = ((const float *)tile->rows[t * tile->row_stride + i])[k];
                for (int j = 0; j < NR; j++) acc[i][j] += a * w[j];
            }
    for (size_t i = 0; i < tile->m; i++) {
        float *c = (float *)((char *)tile->c + i * tile->ldc);
        for (size_t j = 0; j < tile->n; j++) {
            float y = acc[i][j];
            if (tile->bias) y += tile->bias[j];
            if (tile->accumulate) y += c[j];
            c[j] = y < tile->lo ? tile->lo : y > tile->hi ? tile->hi : y;
        }
    }
}

/* u8s8: the last group of a row may have fewer than 4 elements; its weights are zero, so its bytes are not
 * read. */
void nw_gemm_u8s8__scalar(const nw_gemm_u8s8_tile *tile) {
    uint32_t acc[MR][NR] = {{0}}; /* wraps */
    const int8_t *w = tile->w;
    for (size_t t = 0; t < tile->taps; t++)
        for (size_t k = 0; k < tile->k; k += 4, w += 4 * NR)
            for (size_t i = 0; i < tile->m; i++) {
                const uint8_t *row = tile->rows[t * tile->row_stride + i];
                uint8_t a[4] = {0};
                memcpy(a, row + k, tile->k - k < 4 ? tile->k - k : 4);
                for (int j = 0; j < NR; j++)
                    acc[i][j] += (uint32_t)(a[0] * w[4 * j] + a[1] * w[4 * j + 1] + a[2] * w[4 * j + 2] +
                                            a[3] * w[4 * j + 3]);
            }
    nw_epilogue__scalar(tile->epilogue, tile->row, tile->col, tile->m, tile->n, tile->row_sums,
                        (int32_t *)acc[0], NR, tile->c, tile->ldc);
}

void nw_gemm_row_sums__scalar(size_t m, size_t k, size_t taps, const void *const *rows, size_t row_stride,
                              int32_t *sums) {
    for (size_t i = 0; i < m; i++) {
        uint32_t sum = 0; /* wraps */
        for (size_t t = 0; t < taps; t++) {
            const uint8_t *row = rows[t * row_stride + i];
            for (size_t j = 0; j < k; j++) sum += row[j];
        }
        sums[i] = (int32_t)sum;
    }
}
