/* gemm_wcodes_avxvnni.c: the u8 tile of gemm_wcodes.h with vpdpbusd on 256 bits. Must not include anything but kern/. */
#if defined(__x86_64__)
#include "kern/gemm_wcodes.h"
#include "kern/unroll.h"

#include <immintrin.h>

NW_INLINE __m256i dot4(const nw_wcodes_kind kind, __m256i acc, __m256i a, __m256i steps) {
    (void)kind;
    return _mm256_dpbusd_avx_epi32(acc, a, steps);
}
#define NW_KERNEL(name) nw_##name##__avxvnni
#include "kern/gemm_wcodes_u8_256.h"
#else
typedef int nw_no_kernels_here;
#endif
