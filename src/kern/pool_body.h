/* pool_body.h: the functions of pool.h in C that compilers vectorize. Included once per ISA, by a file
 * compiled for it that defines NW_KERNEL(name) as nw_name__word; nothing else may include it. Must not
 * include anything but kern/. */
#include "kern/pool.h"
#include "kern/unroll.h"

#include <string.h>

static inline const void *tap_of(const nw_pool_taps *taps, size_t t) {
    return taps->rows ? taps->rows[t] : (const char *)taps->base + t * taps->stride;
}

/* Channels are taken in chunks whose results so far stay in the first-level cache; two taps per pass halve
 * the traffic. */
#define CHUNK 256

#define MAX_POOL(name, type)                                                                                 \
    void NW_KERNEL(name)(const nw_pool_taps *taps, size_t channels, type *y) {                               \
        for (size_t c0 = 0; c0 < channels; c0 += CHUNK) {                                                    \
            const size_t n = channels - c0 < CHUNK ? channels - c0 : CHUNK;                                  \
            type *best = y + c0;                                                                             \
            const type *first = (const type *)tap_of(taps, 0) + c0;                                          \
            if (taps->taps % 2 == 0) {                                                                       \
                const type *a = (const type *)tap_of(taps, 1) + c0;                                          \
                NW_INDEPENDENT                                                                               \
                for (size_t c = 0; c < n; c++) best[c] = a[c] > first[c] ? a[c] : first[c];                  \
            } else {                                                                                         \
                memcpy(best, first, n * sizeof(type));                                                       \
            }                                                                                                \
            for (size_t t = 2 - taps->taps % 2; t < taps->taps; t += 2) {                                    \
                const type *a = (const type *)tap_of(taps, t) + c0;                                          \
                const type *b = (const type *)tap_of(taps, t + 1) + c0;                                      \
                NW_INDEPENDENT                                                                               \
                for (size_t c = 0; c < n; c++) {                                                             \
                    type x = a[c] > b[c] ? a[c] : b[c];                                                      \
                    best[c] = x > best[c] ? x : best[c];                                                     \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }
MAX_POOL(max_pool_u8, uint8_t)
MAX_POOL(max_pool_f32, float)

/* max over the taps of `run` neighbours, in a register; `whole` is an integer of the element's size. Loops over elements would
 * become a maze of masks. */
#define MAX_RUN(type, whole, run)                                                                            \
    NW_INLINE void NW_KERNEL(max_run_##type##_##run)(const type *x, size_t taps, size_t tap, type *y) {      \
        typedef type vec __attribute__((vector_size(run * sizeof(type))));                                   \
        typedef whole mask __attribute__((vector_size(run * sizeof(type))));                                 \
        vec best, a;                                                                                         \
        memcpy(&best, x, sizeof best);                                                                       \
        for (size_t t = 1; t < taps; t++) {                                                                  \
            memcpy(&a, x + t * tap, sizeof a);                                                               \
            const mask more = (mask)(a > best);                                                              \
            best = (vec)((more & (mask)a) | (~more & (mask)best));                                           \
        }                                                                                                    \
        memcpy(y, &best, sizeof best);                                                                       \
    }
MAX_RUN(uint8_t, uint8_t, 32)
MAX_RUN(uint8_t, uint8_t, 16)
MAX_RUN(float, int32_t, 16)
MAX_RUN(float, int32_t, 4)

#define MAX_ONE(type)                                                                                        \
    NW_INLINE void NW_KERNEL(max_run_##type##_1)(const type *x, size_t taps, size_t tap, type *y) {          \
        type best = x[0];                                                                                    \
        for (size_t t = 1; t < taps; t++) best = x[t * tap] > best ? x[t * tap] : best;                      \
        *y = best;                                                                                           \
    }
MAX_ONE(uint8_t)
MAX_ONE(float)

/* The last run overlaps the one before. */
#define MAX_LINE(name, type, wide, narrow)                                                                   \
    void NW_KERNEL(name)(const nw_pool_line *l, size_t channels, const type *x, type *y, size_t ldy) {       \
        for (size_t p = 0; p < l->pixels; p++, x += l->step, y += ldy) {                                     \
            size_t c = 0;                                                                                    \
            for (; c + wide <= channels; c += wide)                                                          \
                NW_KERNEL(max_run_##type##_##wide)(x + c, l->taps, l->tap, y + c);                           \
            for (; c + narrow <= channels; c += narrow)                                                      \
                NW_KERNEL(max_run_##type##_##narrow)(x + c, l->taps, l->tap, y + c);                         \
            if (c < channels && channels >= narrow) {                                                        \
                c = channels - narrow;                                                                       \
                NW_KERNEL(max_run_##type##_##narrow)(x + c, l->taps, l->tap, y + c);                         \
            } else {                                                                                         \
                for (; c < channels; c++) NW_KERNEL(max_run_##type##_1)(x + c, l->taps, l->tap, y + c);      \
            }                                                                                                \
        }                                                                                                    \
    }
MAX_LINE(max_line_u8, uint8_t, 32, 16)
MAX_LINE(max_line_f32, float, 16, 4)

void NW_KERNEL(avg_pool_f32)(const nw_pool_taps *taps, size_t channels, float factor, float *y) {
    for (size_t c0 = 0; c0 < channels; c0 += CHUNK) {
        const size_t n = channels - c0 < CHUNK ? channels - c0 : CHUNK;
        float sum[CHUNK];
        memcpy(sum, (const float *)tap_of(taps, 0) + c0, n * sizeof(float));
        for (size_t t = 1; t < taps->taps; t++) {
            const float *a = (const float *)tap_of(taps, t) + c0;
            NW_INDEPENDENT
            for (size_t c = 0; c < n; c++) sum[c] += a[c];
        }
        NW_INDEPENDENT
        for (size_t c = 0; c < n; c++) y[c0 + c] = sum[c] * factor;
    }
}

/* clamp(rint(p) + zero, lo, hi) with the rounding of elementwise_body.h: clamped first, then 1.5·2^23 is
 * added. */
static inline uint8_t code_of(float p, float lo, float hi, int32_t zero) {
    float rounded;
    int32_t bits;
    p = p < lo ? lo : p;
    p = p > hi ? hi : p;
    rounded = p + 12582912.0f;
    memcpy(&bits, &rounded, 4);
    return (uint8_t)(bits - 0x4b400000 + zero);
}

void NW_KERNEL(avg_pool_u8)(const nw_pool_taps *taps, size_t channels, const nw_avg_pool_u8_params *p,
                            uint8_t *y) {
    const int32_t start = (int32_t)(0u - (uint32_t)taps->taps * (uint32_t)p->a_zero), zero = p->zero;
    const float ratio = p->ratio, low = (float)(p->lo - zero), high = (float)(p->hi - zero);
    for (size_t c0 = 0; c0 < channels; c0 += CHUNK) {
        const size_t n = channels - c0 < CHUNK ? channels - c0 : CHUNK;
        int32_t sum[CHUNK];
        for (size_t c = 0; c < n; c++) sum[c] = start;
        /* 257 codes add up to at most 65535: narrow sums first. */
        for (size_t t0 = 0; t0 < taps->taps; t0 += 257) {
            const size_t t1 = taps->taps - t0 < 257 ? taps->taps : t0 + 257;
            uint16_t part[CHUNK] = {0};
            for (size_t t = t0; t < t1; t++) {
                const uint8_t *a = (const uint8_t *)tap_of(taps, t) + c0;
                NW_INDEPENDENT
                for (size_t c = 0; c < n; c++) part[c] = (uint16_t)(part[c] + a[c]);
            }
            NW_INDEPENDENT
            for (size_t c = 0; c < n; c++) sum[c] += part[c];
        }
        NW_INDEPENDENT
        for (size_t c = 0; c < n; c++) y[c0 + c] = code_of((float)sum[c] * ratio, low, high, zero);
    }
}
