/* gemm_wcodes_body.h: the tiles of gemm_wcodes.h in C that compilers vectorize: the reference. Included once per ISA, by a file
 * compiled for it that defines NW_KERNEL(name) as nw_name__word, NR columns and MR rows; nothing else may include it. Must not
 * include anything but kern/. */
#include "kern/gemm_wcodes.h"

#include <math.h>
#include <string.h>

static float load_scale(const nw_wcodes *w, const char *head, int j) {
    float x;
    uint16_t half;
    if (w->scale_format == NW_F32) {
        memcpy(&x, head + (size_t)j * 4, 4);
        return x;
    }
    memcpy(&half, head + (size_t)j * 2, 2);
    return w->scale_format == NW_F16 ? nw_f16_to_f32(half) : nw_bf16_to_f32(half);
}

static void load_zeros(const nw_wcodes *w, const char *head, int8_t *zero) {
    if (w->zeros)
        memcpy(zero, head + nw_wcodes_head(w, NR) - NR, NR);
    else
        memset(zero, 0, NR);
}

static float level_of(const nw_wcodes *w, uint32_t word) {
    switch (w->kind) {
    case NW_WCODES_TABLE: return w->level[word & 15];
    case NW_WCODES_S8: return (float)(int8_t)word;
    case NW_WCODES_TABLE8:
    case NW_WCODES_E4M3:
    case NW_WCODES_E5M2: return w->levels[word & 255];
    case NW_WCODES_F16: return nw_f16_to_f32((uint16_t)word);
    default: return nw_bf16_to_f32((uint16_t)word);
    }
}

/* levels[j] ← level − zero of code i behind `words`. */
static void load_levels(const nw_wcodes *w, const char *words, const int8_t *zero, size_t i, float *levels) {
    const size_t per_word = nw_wcodes_per_word(w);
    const int shift = nw_wcodes_shift(w, i % per_word);
    uint32_t word[NR];
    memcpy(word, words + i / per_word * sizeof word, sizeof word);
    for (int j = 0; j < NR; j++) levels[j] = level_of(w, word[j] >> shift) - (float)zero[j];
}

static size_t block_at(const nw_wcodes *w, size_t k) {
    return w->k - k < w->block ? w->k - k : w->block;
}

/* Row r of C, its first n columns. */
static void store_row(float *c, size_t ldc, size_t r, size_t n, const float *x, const float *bias, float lo,
                      float hi) {
    float *row = (float *)((char *)c + r * ldc);
    for (size_t j = 0; j < n; j++) {
        const float y = bias ? x[j] + bias[j] : x[j];
        row[j] = y < lo ? lo : y > hi ? hi : y;
    }
}

void NW_KERNEL(wgemm_f32)(const nw_wgemm_f32_tile *tile) {
    const nw_wcodes *w = tile->w;
    const size_t head = nw_wcodes_head(w, NR);
    const char *p = tile->panel;
    float total[MR][NR] = {{0}}, levels[NR];
    int8_t zero[NR];
    for (size_t k = 0, count; k < w->k; k += count, p += nw_wcodes_record(w, NR, count)) {
        float acc[MR][NR] = {{0}};
        count = block_at(w, k);
        load_zeros(w, p, zero);
        for (size_t i = 0; i < count; i++) {
            load_levels(w, p + head, zero, i, levels);
            for (size_t r = 0; r < tile->m; r++) {
                const float a = *((const float *)((const char *)tile->a + r * tile->lda) + k + i);
                for (int j = 0; j < NR; j++) acc[r][j] += a * levels[j];
            }
        }
        for (int j = 0; j < NR; j++) {
            const float scale = load_scale(w, p, j);
            for (size_t r = 0; r < tile->m; r++) total[r][j] += scale * acc[r][j];
        }
    }
    for (size_t r = 0; r < tile->m; r++)
        store_row(tile->c, tile->ldc, r, tile->n, total[r], tile->bias, tile->lo, tile->hi);
}

void NW_KERNEL(wgemm_decode)(const nw_wcodes *w, const char *panel, size_t k0, size_t k1, size_t width,
                             float *out) {
    const size_t head = nw_wcodes_head(w, NR);
    const char *p = panel + k0 / w->block * nw_wcodes_record(w, NR, w->block);
    float scale[NR], levels[NR];
    int8_t zero[NR];
    for (size_t k = k0 - k0 % w->block, count; k < k1; k += count, p += nw_wcodes_record(w, NR, count)) {
        count = block_at(w, k);
        for (int j = 0; j < NR; j++) scale[j] = load_scale(w, p, j);
        load_zeros(w, p, zero);
        for (size_t i = k < k0 ? k0 - k : 0; i < count && k + i < k1; i++, out += width) {
            load_levels(w, p + head, zero, i, levels);
            for (size_t j = 0; j < width; j++) out[j] = scale[j] * levels[j];
        }
    }
}

/* steps[i][j] ← step − zero of the `used` codes 4·group … behind `words`, 0 for the rest of the four. */
static void load_steps(const nw_wcodes *w, const char *words, const int8_t *zero, size_t group, size_t used,
                       int16_t (*steps)[NR]) {
    const size_t per_word = nw_wcodes_per_word(w), k = 4 * group;
    uint32_t word[NR];
    memcpy(word, words + k / per_word * sizeof word, sizeof word);
    for (size_t i = 0; i < 4; i++) {
        const int shift = nw_wcodes_shift(w, k % per_word + i);
        for (int j = 0; j < NR; j++) {
            const uint32_t code = word[j] >> shift;
            const int step = w->kind == NW_WCODES_S8 ? (int8_t)code : w->step[code & 15];
            steps[i][j] = (int16_t)(i < used ? step - zero[j] : 0);
        }
    }
}

void NW_KERNEL(wgemm_u8)(const nw_wgemm_u8_tile *tile) {
    const nw_wcodes *w = tile->w;
    const size_t head = nw_wcodes_head(w, NR);
    const char *p = tile->panel;
    float total[MR][NR] = {{0}};
    int8_t zero[NR];
    int16_t steps[4][NR];
    for (size_t k = 0, count; k < w->k; k += count, p += nw_wcodes_record(w, NR, count)) {
        int32_t acc[MR][NR] = {{0}};
        count = block_at(w, k);
        load_zeros(w, p, zero);
        for (size_t i = 0; i < count; i += 4) {
            const size_t used = count - i < 4 ? count - i : 4;
            load_steps(w, p + head, zero, i / 4, used, steps);
            for (size_t r = 0; r < tile->m; r++) {
                uint8_t a[4] = {0};
                memcpy(a, tile->a + r * tile->lda + k + i, used);
                for (int j = 0; j < NR; j++)
                    acc[r][j] +=
                        a[0] * steps[0][j] + a[1] * steps[1][j] + a[2] * steps[2][j] + a[3] * steps[3][j];
            }
        }
        for (int j = 0; j < NR; j++) {
            const float scale = load_scale(w, p, j);
            for (size_t r = 0; r < tile->m; r++) total[r][j] = fmaf((float)acc[r][j], scale, total[r][j]);
        }
    }
    for (size_t r = 0; r < tile->m; r++) {
        for (size_t j = 0; j < tile->n; j++)
            total[r][j] = (total[r][j] - tile->zero[r] * tile->sums[j]) * tile->factor[r];
        store_row(tile->c, tile->ldc, r, tile->n, total[r], tile->bias, tile->lo, tile->hi);
    }
}

void NW_KERNEL(wgemm_bf16)(const nw_wgemm_bf16_tile *tile) {
    const nw_wcodes *w = tile->w;
    const size_t head = nw_wcodes_head(w, NR);
    const int8_t zero[NR] = {0};
    const char *p = tile->panel;
    float total[MR][NR] = {{0}}, levels[NR];
    for (size_t k = 0, count; k < w->k; k += count, p += nw_wcodes_record(w, NR, count)) {
        float acc[MR][NR] = {{0}};
        count = block_at(w, k);
        for (size_t i = 0; i < count; i++) {
            load_levels(w, p + head, zero, i, levels);
            for (size_t r = 0; r < tile->m; r++) {
                const uint16_t *a = (const uint16_t *)((const char *)tile->a + r * tile->lda) + k + i;
                for (int j = 0; j < NR; j++) acc[r][j] += nw_bf16_to_f32(*a) * levels[j];
            }
        }
        for (int j = 0; j < NR; j++) {
            const float scale = load_scale(w, p, j);
            for (size_t r = 0; r < tile->m; r++) total[r][j] += scale * acc[r][j];
        }
    }
    for (size_t r = 0; r < tile->m; r++)
        store_row(tile->c, tile->ldc, r, tile->n, total[r], tile->bias, tile->lo, tile->hi);
}
