/* layout_neon.c: transposes in registers: 16×16 bytes, 4×4 words; the reference does the edges.
 * Must not include anything but kern/. */
#if defined(__aarch64__)
#include "kern/layout_blocks.h"
#include "kern/unroll.h"

#include <arm_neon.h>

/* Four rounds of interleaving: each pairs row i with row i+8 and doubles the run of one column's bytes. */
static void block_16x16(const uint8_t *src, size_t ld_src, uint8_t *dst, size_t ld_dst) {
    uint8x16_t x[16], y[16];
    NW_UNROLL
    for (size_t i = 0; i < 16; i++) x[i] = vld1q_u8(src + i * ld_src);
    NW_UNROLL
    for (int round = 0; round < 4; round++) {
        NW_UNROLL
        for (int i = 0; i < 8; i++) {
            y[2 * i] = vzip1q_u8(x[i], x[i + 8]);
            y[2 * i + 1] = vzip2q_u8(x[i], x[i + 8]);
        }
        NW_UNROLL
        for (int i = 0; i < 16; i++) x[i] = y[i];
    }
    NW_UNROLL
    for (size_t i = 0; i < 16; i++) vst1q_u8(dst + i * ld_dst, x[i]);
}

/* The same in two rounds. */
static void block_4x4(const uint32_t *src, size_t ld_src, uint32_t *dst, size_t ld_dst) {
    uint32x4_t x[4], y[4];
    NW_UNROLL
    for (size_t i = 0; i < 4; i++) x[i] = vld1q_u32(src + i * ld_src);
    NW_UNROLL
    for (int round = 0; round < 2; round++) {
        NW_UNROLL
        for (int i = 0; i < 2; i++) {
            y[2 * i] = vzip1q_u32(x[i], x[i + 2]);
            y[2 * i + 1] = vzip2q_u32(x[i], x[i + 2]);
        }
        NW_UNROLL
        for (int i = 0; i < 4; i++) x[i] = y[i];
    }
    NW_UNROLL
    for (size_t i = 0; i < 4; i++) vst1q_u32(dst + i * ld_dst, x[i]);
}

/* Two to four rows: there are stores that interleave registers. */
#define INTERLEAVE(name, type, step, load, vec, store)                                                       \
    static inline size_t name(const type *src, size_t ld, size_t cols, type *dst, const int rows) {          \
        size_t c = 0;                                                                                        \
        for (; c + step <= cols; c += step, dst += step * rows, src += step) {                               \
            if (rows == 2)                                                                                   \
                store(2)(dst, ((vec(2)){{load(src), load(src + ld)}}));                                      \
            else if (rows == 3)                                                                              \
                store(3)(dst, ((vec(3)){{load(src), load(src + ld), load(src + 2 * ld)}}));                  \
            else                                                                                             \
                store(4)(dst, ((vec(4)){{load(src), load(src + ld), load(src + 2 * ld),                      \
                                         load(src + 3 * ld)}}));                                             \
        }                                                                                                    \
        return c;                                                                                            \
    }
#define VEC_B8(n)    uint8x16x##n##_t
#define STORE_B8(n)  vst##n##q_u8
#define VEC_B32(n)   uint32x4x##n##_t
#define STORE_B32(n) vst##n##q_u32
INTERLEAVE(interleave_b8, uint8_t, 16, vld1q_u8, VEC_B8, STORE_B8)
INTERLEAVE(interleave_b32, uint32_t, 4, vld1q_u32, VEC_B32, STORE_B32)

static inline void pair_b8(const uint8_t *a, const uint8_t *b, uint8_t *dst) {
    vst2q_u8(dst, ((uint8x16x2_t){{vld1q_u8(a), vld1q_u8(b)}}));
}
static inline void pair_b32(const uint32_t *a, const uint32_t *b, uint32_t *dst) {
    vst2q_u32(dst, ((uint32x4x2_t){{vld1q_u32(a), vld1q_u32(b)}}));
}

TRANSPOSE(nw_transpose_b8__neon, uint8_t, block_16x16, 16, interleave_b8, nw_transpose_b8__scalar)
TRANSPOSE(nw_transpose_b32__neon, uint32_t, block_4x4, 4, interleave_b32, nw_transpose_b32__scalar)
SHUFFLE(nw_shuffle_b8__neon, uint8_t, pair_b8, 16, nw_transpose_b8__neon)
SHUFFLE(nw_shuffle_b32__neon, uint32_t, pair_b32, 4, nw_transpose_b32__neon)
#else
typedef int nw_no_kernels_here;
#endif
