/* dwconv_lines_neon.h: what dwconv_lines_body.h wants of NEON but for the dot product. Included once per ISA, by
 * a file compiled for it that defines LINES_KERNEL and CODE_FLIP (bits of the codes to invert for dot), then dot and start_of, and then
 * includes the body. Must not include anything but kern/. */
#ifndef NW_KERN_DWCONV_LINES_NEON_H
#define NW_KERN_DWCONV_LINES_NEON_H

#include "kern/codes_neon.h"
#include "kern/epilogue.h"

#define LANES       1
#define epilogue_of nw_epilogue__neon

/* Sums, scales and codes: the operations say what it holds. */
typedef int32x4_t reg;

/* With one lane to a register there is one piece, P = 1. */
NW_INLINE reg load_codes(const uint8_t *const *from, size_t n, const size_t P) {
    (void)P;
    return vreinterpretq_s32_u8(veorq_u8(nw_load_16(from[0], n), vdupq_n_u8(CODE_FLIP)));
}

NW_INLINE void store_codes(reg y, char *const *to, size_t n, const size_t P) {
    (void)P;
    nw_store_16((uint8_t *)to[0], vreinterpretq_u8_s32(y), n);
}

NW_INLINE reg lanes_of(const int32_t *const *lane) {
    return vld1q_s32(lane[0]);
}

NW_INLINE void interleave(const reg *a, reg *to) {
    uint8x16_t x[4];
    NW_UNROLL
    for (int i = 0; i < 4; i++) x[i] = vreinterpretq_u8_s32(a[i]);
    const uint16x8_t low01 = vreinterpretq_u16_u8(vzip1q_u8(x[0], x[1])),
                     high01 = vreinterpretq_u16_u8(vzip2q_u8(x[0], x[1])),
                     low23 = vreinterpretq_u16_u8(vzip1q_u8(x[2], x[3])),
                     high23 = vreinterpretq_u16_u8(vzip2q_u8(x[2], x[3]));
    to[0] = vreinterpretq_s32_u16(vzip1q_u16(low01, low23));
    to[1] = vreinterpretq_s32_u16(vzip2q_u16(low01, low23));
    to[2] = vreinterpretq_s32_u16(vzip1q_u16(high01, high23));
    to[3] = vreinterpretq_s32_u16(vzip2q_u16(high01, high23));
}

static const char *expand(const int8_t *packed, size_t count, size_t P, char *to) {
    (void)count, (void)P, (void)to;
    return (const char *)packed;
}

typedef struct code_limits {
    int16x8_t zero;
    uint8x16_t lo, hi;
} code_limits;

static code_limits limits_of(const nw_epilogue *e) {
    return (code_limits){vdupq_n_s16((int16_t)e->zero), vdupq_n_u8((uint8_t)e->lo),
                         vdupq_n_u8((uint8_t)e->hi)};
}

/* As in dwconv_lines_avx512vnni.c. */
NW_INLINE reg codes_of(const reg *acc, const reg *scale, const code_limits *l) {
    int16x4_t q[4];
    NW_UNROLL
    for (int i = 0; i < 4; i++)
        q[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc[i]), vreinterpretq_f32_s32(scale[i]))));
    const int16x8_t low = vqaddq_s16(vcombine_s16(q[0], q[1]), l->zero),
                    high = vqaddq_s16(vcombine_s16(q[2], q[3]), l->zero);
    const uint8x16_t codes = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
    return vreinterpretq_s32_u8(vminq_u8(vmaxq_u8(codes, l->lo), l->hi));
}

NW_INLINE void look_up_rows(const uint8_t *table, uint8_t *y, size_t ldy, size_t m, size_t n) {
    nw_look_up_rows(table, y, ldy, m, n);
}

#endif
