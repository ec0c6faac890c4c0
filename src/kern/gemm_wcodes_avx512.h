/* gemm_wcodes_avx512.h: what the tiles of gemm_wcodes.h on 512 bits share, 32 columns in two registers; for files compiled for
 * AVX-512 only. Must not include anything but kern/. */
#ifndef NW_KERN_GEMM_WCODES_AVX512_H
#define NW_KERN_GEMM_WCODES_AVX512_H

#include "kern/gemm_avx512.h"
#include "kern/gemm_wcodes.h"

#define NR 32

/* Scales of sixteen columns. */
static inline __m512 load_scale(const nw_wcodes *w, const char *head, int v) {
    if (w->scale_format == NW_F32) return _mm512_loadu_ps(head + 64 * v);
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(head + 32 * v));
    if (w->scale_format == NW_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

#endif
