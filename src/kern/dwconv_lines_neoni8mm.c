/* dwconv_lines_neoni8mm.c: depthwise convolution line by line with usdot. Must not include anything but kern/. */
#if defined(__aarch64__)
#define LINES_KERNEL nw_dwconv_u8s8_lines__neoni8mm
#define CODE_FLIP    0
#include "kern/dwconv_lines_neon.h"

NW_INLINE reg dot(reg acc, const reg *a, const char *w) {
    return vusdotq_s32(acc, vreinterpretq_u8_s32(*a), vld1q_s8((const int8_t *)w));
}

NW_INLINE reg start_of(reg bias, const char *w, size_t steps) {
    (void)w, (void)steps;
    return bias;
}

#include "kern/dwconv_lines_body.h"
#else
typedef int nw_no_kernels_here;
#endif
