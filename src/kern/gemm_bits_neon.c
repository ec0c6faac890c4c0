/* gemm_bits_neon.c: two columns to a register; CNT counts the bits of bytes, which are added up for as long as they hold the
 * sum. Must not include anything but kern/. */
#if defined(__aarch64__)
#include <arm_neon.h>
#include <stdint.h>

#define NW_KERNEL(name) nw_##name##__neon
#define LANES           2
#define VECTORS         4
#define MR              4
#define STRETCH         31 /* words whose counts a byte holds: 31·8 < 256 */
typedef uint64x2_t vector;

static inline vector load(const uint64_t *w) {
    return vld1q_u64(w);
}
static inline vector repeat(uint64_t w) {
    return vdupq_n_u64(w);
}
static inline vector count(vector part, vector x) {
    return vreinterpretq_u64_u8(vaddq_u8(vreinterpretq_u8_u64(part), vcntq_u8(vreinterpretq_u8_u64(x))));
}
static inline vector flush(vector sum, vector part) {
    return vpadalq_u32(sum, vpaddlq_u16(vpaddlq_u8(vreinterpretq_u8_u64(part))));
}
static inline void store(int32_t *to, vector sum) {
    vst1_s32(to, vreinterpret_s32_u32(vmovn_u64(sum)));
}

#include "kern/gemm_bits_body.h"

void nw_pack_signs__neon(size_t rows, size_t k, const float *x, uint64_t *bits) {
    const uint32x4_t place = {1, 2, 4, 8};
    for (size_t r = 0; r < rows; r++, x += k)
        for (size_t i = 0; i < k; i += 64) {
            const size_t end = k - i < 64 ? k : i + 64;
            uint64_t word = 0;
            size_t j = i;
            for (; j + 4 <= end; j += 4) {
                const uint32x4_t below = vcltq_f32(vld1q_f32(x + j), vdupq_n_f32(0));
                word |= (uint64_t)vaddvq_u32(vbicq_u32(place, below)) << (j - i);
            }
            for (; j < end; j++) word |= (uint64_t) !(x[j] < 0) << (j - i);
            *bits++ = word;
        }
}
#else
typedef int nw_no_kernels_here;
#endif
