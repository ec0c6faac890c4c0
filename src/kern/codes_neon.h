/* codes_neon.h: up to 16 bytes from and to memory, and 256-entry byte tables in registers: for files named
 * *_neon*.c only. Must not include anything but kern/. */
#ifndef NW_KERN_CODES_NEON_H
#define NW_KERN_CODES_NEON_H

#include "kern/unroll.h"

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* 1 ≤ n ≤ 8 bytes, then zeros: pieces that overlap where they agree. */
NW_INLINE uint8x8_t nw_load_8(const uint8_t *p, size_t n) {
    uint32_t low, high;
    if (n == 8) return vld1_u8(p);
    if (n >= 4) {
        memcpy(&low, p, 4), memcpy(&high, p + n - 4, 4);
        return vcreate_u8(low | (uint64_t)high << 8 * (n - 4));
    }
    return vcreate_u8(p[0] | (uint64_t)p[n / 2] << 8 * (n / 2) | (uint64_t)p[n - 1] << 8 * (n - 1));
}

/* 1 ≤ n ≤ 16 bytes, then zeros. */
NW_INLINE uint8x16_t nw_load_16(const uint8_t *p, size_t n) {
    if (n == 16) return vld1q_u8(p);
    if (n <= 8) return vcombine_u8(nw_load_8(p, n), vdup_n_u8(0));
    return vcombine_u8(vld1_u8(p), nw_load_8(p + 8, n - 8));
}

/* The first n ≤ 16 bytes of x. */
NW_INLINE void nw_store_16(uint8_t *p, uint8x16_t x, size_t n) {
    uint8_t bytes[16];
    if (n == 16) {
        vst1q_u8(p, x);
        return;
    }
    vst1q_u8(bytes, x);
    if (n >= 8) {
        memcpy(p, bytes, 8), memcpy(p + n - 8, bytes + n - 8, 8);
    } else if (n >= 4) {
        memcpy(p, bytes, 4), memcpy(p + n - 4, bytes + n - 4, 4);
    } else if (n) {
        p[0] = bytes[0], p[n / 2] = bytes[n / 2], p[n - 1] = bytes[n - 1];
    }
}

/* The four bytes at p in every 32-bit lane. */
NW_INLINE uint8x16_t nw_load_4_everywhere(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return vreinterpretq_u8_u32(vdupq_n_u32(x));
}

typedef struct nw_table_neon {
    uint8x16x4_t part[4];
} nw_table_neon;

NW_INLINE nw_table_neon nw_table_neon_load(const uint8_t *table) {
    nw_table_neon t;
    NW_UNROLL
    for (int i = 0; i < 4; i++) t.part[i] = vld1q_u8_x4(table + 64 * i);
    return t;
}

/* tbl gives 0 and tbx leaves what is there for an index past 64 entries. */
NW_INLINE uint8x16_t nw_look_up_16(const nw_table_neon *t, uint8x16_t x) {
    uint8x16_t y = vqtbl4q_u8(t->part[0], x);
    NW_UNROLL
    for (int i = 1; i < 4; i++) y = vqtbx4q_u8(y, t->part[i], vsubq_u8(x, vdupq_n_u8((uint8_t)(64 * i))));
    return y;
}

/* y[i] = table[x[i]] for n bytes; y may be x. */
NW_INLINE void nw_look_up_run(const nw_table_neon *t, size_t n, const uint8_t *x, uint8_t *y) {
    for (; n >= 16; n -= 16, x += 16, y += 16) vst1q_u8(y, nw_look_up_16(t, vld1q_u8(x)));
    if (n) nw_store_16(y, nw_look_up_16(t, nw_load_16(x, n)), n);
}

/* y[i][j] = table[y[i][j]] for m rows of n bytes, ldy apart. */
static inline void nw_look_up_rows(const uint8_t *table, uint8_t *y, size_t ldy, size_t m, size_t n) {
    const nw_table_neon t = nw_table_neon_load(table);
    for (size_t i = 0; i < m; i++, y += ldy) nw_look_up_run(&t, n, y, y);
}

#endif
