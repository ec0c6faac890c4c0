/* layout.c: the reference transposes, in blocks that keep both sides in cache, and the choice of an ISA's.
 * Must not include anything but kern/. */
#include "kern/layout.h"

void nw_layout_select(nw_isa ceiling, nw_layout *out) {
#define NW_LAYOUT(isa, word)                                                                                 \
    if (NW_ISA_##isa <= ceiling && nw_isa_supported(NW_ISA_##isa))                                           \
        *out = (nw_layout){nw_transpose_b8__##word, nw_transpose_b32__##word, nw_shuffle_b8__##word,         \
                           nw_shuffle_b32__##word};
#include "kern/layout.def"
#undef NW_LAYOUT
}

#define BLOCK 16

#define TRANSPOSE(name, type)                                                                                \
    void name(size_t rows, size_t cols, const void *src, size_t ld_src, void *dst, size_t ld_dst) {          \
        const type *from = src;                                                                              \
        type *to = dst;                                                                                      \
        for (size_t r0 = 0; r0 < rows; r0 += BLOCK)                                                          \
            for (size_t c0 = 0; c0 < cols; c0 += BLOCK) {                                                    \
                const size_t r1 = rows - r0 < BLOCK ? rows : r0 + BLOCK;                                     \
                const size_t c1 = cols - c0 < BLOCK ? cols : c0 + BLOCK;                                     \
                for (size_t c = c0; c < c1; c++)                                                             \
                    for (size_t r = r0; r < r1; r++) to[c * ld_dst + r] = from[r * ld_src + c];              \
            }                                                                                                \
    }
TRANSPOSE(nw_transpose_b8__scalar, uint8_t)
TRANSPOSE(nw_transpose_b32__scalar, uint32_t)

#define SHUFFLE(name, type)                                                                                  \
    void name(size_t pixels, size_t groups, size_t n, const void *src, void *dst) {                          \
        const type *from = src;                                                                              \
        type *to = dst;                                                                                      \
        for (size_t p = 0; p < pixels; p++, from += groups * n)                                              \
            for (size_t i = 0; i < n; i++)                                                                   \
                for (size_t g = 0; g < groups; g++) *to++ = from[g * n + i];                                 \
    }
SHUFFLE(nw_shuffle_b8__scalar, uint8_t)
SHUFFLE(nw_shuffle_b32__scalar, uint32_t)
