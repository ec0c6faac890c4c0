/* gemm_bits_scalar.c: gemm_bits_body.h in plain C, and the reference of pack_signs. Must not include anything but kern/. */
#include <stdint.h>

#define NW_KERNEL(name) nw_##name##__scalar
#define LANES           1
#define VECTORS         4
#define MR              4
#define STRETCH         SIZE_MAX
typedef uint64_t vector;

static inline vector load(const uint64_t *w) {
    return *w;
}
static inline vector repeat(uint64_t w) {
    return w;
}
static inline vector count(vector part, vector x) {
    return part + (vector)__builtin_popcountll(x);
}
static inline vector flush(vector sum, vector part) {
    return sum + part;
}
static inline void store(int32_t *to, vector sum) {
    *to = (int32_t)sum;
}

#include "kern/gemm_bits_body.h"

void nw_pack_signs__scalar(size_t rows, size_t k, const float *x, uint64_t *bits) {
    for (size_t r = 0; r < rows; r++, x += k)
        for (size_t i = 0; i < k; i += 64) {
            uint64_t word = 0;
            for (size_t j = i; j < k && j < i + 64; j++) word |= (uint64_t) !(x[j] < 0) << (j - i);
            *bits++ = word;
        }
}
