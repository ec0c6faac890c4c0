/* dwconv_lines_neondot.c: depthwise convolution line by line with sdot, whose factors are both signed: 128 is taken
 * off the codes as they are interleaved, and given back in what the sums begin with. Must not include anything but
 * kern/. */
#if defined(__aarch64__)
#define LINES_KERNEL nw_dwconv_u8s8_lines__neondot
#define CODE_FLIP    128
#include "kern/dwconv_lines_neon.h"

NW_INLINE reg dot(reg acc, const reg *a, const char *w) {
    return vdotq_s32(acc, vreinterpretq_s8_s32(*a), vld1q_s8((const int8_t *)w));
}

/* bias + 128·Σw. */
NW_INLINE reg start_of(reg bias, const char *w, size_t steps) {
    reg sum = vdupq_n_s32(0);
    for (size_t k = 0; k < steps; k++)
        sum = vdotq_s32(sum, vdupq_n_s8(1), vld1q_s8((const int8_t *)w + 4 * 64 * k));
    return vaddq_s32(bias, vshlq_n_s32(sum, 7));
}

#include "kern/dwconv_lines_body.h"
#else
typedef int nw_no_kernels_here;
#endif
