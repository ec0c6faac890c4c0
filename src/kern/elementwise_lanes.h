/* elementwise_lanes.h: registers of NW_LANES floats for elementwise_body.h and stats_body.h, which include it
 * and nothing else may: whole and partial loads and stores, and what crosses lanes. A count is 1 … NW_LANES:
 * of a partial register only the first `count` lanes touch memory, the others load as 0. Must not include
 * anything but kern/. NW_NEON: the four lanes are NEON's. */
#include "kern/unroll.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if NW_LANES > 4
#include <immintrin.h>
#elif defined(NW_NEON)
#include <arm_neon.h>
#endif

typedef float vec __attribute__((vector_size(4 * NW_LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * NW_LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * NW_LANES)));

NW_INLINE vec splat(float x) {
    return (vec){0} + x;
}
NW_INLINE vec choose(ivec mask, vec yes, vec no) {
#if NW_LANES == 16
    return (vec)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), (__m512)no, (__m512)yes);
#else
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
#endif
}
/* Lanes that are no NaN. */
NW_INLINE ivec is_number(vec x) {
    return x == x; /* NOLINT(misc-redundant-expression) */
}

/* a·b + c, rounded once on every ISA: plain C has fmaf where the machine has no instruction. */
NW_INLINE vec fused(vec a, vec b, vec c) {
#if NW_LANES == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif NW_LANES == 8
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(NW_NEON)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    vec y;
    for (int j = 0; j < NW_LANES; j++) y[j] = __builtin_fmaf(a[j], b[j], c[j]);
    return y;
#endif
}

/* a < b ? a : b and a > b ? a : b: b where either is a NaN. Compilers find the instruction only in a loop. */
NW_INLINE vec smaller(vec a, vec b) {
#if NW_LANES == 16
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif NW_LANES == 8
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return choose(a < b, a, b);
#endif
}
NW_INLINE vec larger(vec a, vec b) {
#if NW_LANES == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif NW_LANES == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

/* x·2^n, rounded once, for x in [1/2, 2] and n in [−152, 129], which also comes as integers; or x a NaN. In
 * two factors where there is no instruction, so that the ends round, overflow and vanish as they should. */
NW_INLINE vec scaled(vec x, vec n, ivec whole) {
#if NW_LANES == 16
    (void)whole;
    return (vec)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
    const ivec half = whole >> 1;
    (void)n;
    return x * (vec)((uvec)(half + 127) << 23) * (vec)((uvec)(whole - half + 127) << 23);
#endif
}

/* ---- partial registers --------------------------------------------------------------------------------- */

NW_INLINE ivec lane_numbers(void) {
    static const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ivec lanes;
    memcpy(&lanes, numbers, sizeof lanes);
    return lanes;
}
/* All bits in the first `count` lanes, none in the others. */
NW_INLINE ivec lanes_below(size_t count) {
    return lane_numbers() < (ivec){0} + (int32_t)count;
}

NW_INLINE vec load(const float *x, size_t count) {
    vec v = {0};
    if (count == NW_LANES) {
        memcpy(&v, x, sizeof v);
        return v;
    }
#if NW_LANES == 16
    v = (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), x);
#elif NW_LANES == 8
    v = (vec)_mm256_maskload_ps(x, (__m256i)lanes_below(count));
#elif defined(NW_NEON)
    const float32x4_t none = vdupq_n_f32(0);
    if (count == 1) return (vec)vld1q_lane_f32(x, none, 0);
    v = (vec)vcombine_f32(vld1_f32(x), vget_low_f32(none));
    if (count == 3) v = (vec)vld1q_lane_f32(x + 2, (float32x4_t)v, 2);
#else
    for (size_t j = 0; j < count; j++) v[j] = x[j];
#endif
    return v;
}

NW_INLINE void store(float *y, size_t count, vec v) {
    if (count == NW_LANES) {
        memcpy(y, &v, sizeof v);
        return;
    }
#if NW_LANES == 16
    _mm512_mask_storeu_ps(y, (__mmask16)((1u << count) - 1), (__m512)v);
#elif NW_LANES == 8
    _mm256_maskstore_ps(y, (__m256i)lanes_below(count), (__m256)v);
#elif defined(NW_NEON)
    if (count == 1) {
        vst1q_lane_f32(y, (float32x4_t)v, 0);
        return;
    }
    vst1_f32(y, vget_low_f32((float32x4_t)v));
    if (count == 3) vst1q_lane_f32(y + 2, (float32x4_t)v, 2);
#else
    for (size_t j = 0; j < count; j++) y[j] = v[j];
#endif
}

/* The low byte of each of the first `count` lanes. */
NW_INLINE void store_low_bytes(uint8_t *y, size_t count, uvec v) {
#if NW_LANES == 16
    const __m128i low = _mm512_cvtepi32_epi8((__m512i)v);
    if (count == NW_LANES)
        _mm_storeu_si128((__m128i *)y, low);
    else
        _mm_mask_storeu_epi8(y, (__mmask16)((1u << count) - 1), low);
#else
    uint8_t low[NW_LANES];
#if NW_LANES == 8
    const __m256i first = _mm256_set1_epi32(0x0c080400);
    const __m256i packed = _mm256_shuffle_epi8((__m256i)v, first);
    const __m128i both =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
    _mm_storel_epi64((__m128i *)low, both);
#elif defined(NW_NEON)
    const uint16x4_t half = vmovn_u32((uint32x4_t)v);
    vst1_lane_u32((uint32_t *)low, vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
#else
    for (int j = 0; j < NW_LANES; j++) low[j] = (uint8_t)v[j];
#endif
    memcpy(y, low, count);
#endif
}

/* ---- across lanes -------------------------------------------------------------------------------------- */

/* Lane j of the result is lane j XOR distance: log2(NW_LANES) rounds of v op exchanged(v) leave the same
 * total in all lanes. */
NW_INLINE vec exchanged(vec v, int distance) {
    const ivec from = lane_numbers() ^ distance;
#if defined(NW_NEON)
    (void)from;
    return (vec)(distance == 1 ? vrev64q_f32((float32x4_t)v) : vextq_f32((float32x4_t)v, (float32x4_t)v, 2));
#elif NW_LANES == 16
    return (vec)_mm512_permutexvar_ps((__m512i)from, (__m512)v);
#elif NW_LANES == 8
    return (vec)_mm256_permutevar8x32_ps((__m256)v, (__m256i)from);
#else
    return (vec){v[from[0]], v[from[1]], v[from[2]], v[from[3]]};
#endif
}
NW_INLINE vec sum_across(vec v) {
    NW_UNROLL
    for (int d = NW_LANES / 2; d; d /= 2) v += exchanged(v, d);
    return v;
}
NW_INLINE uint32_t total_across(uvec v) {
    NW_UNROLL
    for (int d = NW_LANES / 2; d; d /= 2) v += (uvec)exchanged((vec)v, d);
    return v[0];
}
NW_INLINE vec least_across(vec v) {
    NW_UNROLL
    for (int d = NW_LANES / 2; d; d /= 2) v = smaller(exchanged(v, d), v);
    return v;
}
NW_INLINE vec most_across(vec v) {
    NW_UNROLL
    for (int d = NW_LANES / 2; d; d /= 2) v = larger(exchanged(v, d), v);
    return v;
}
