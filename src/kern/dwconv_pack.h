/* dwconv_pack.h: the packed layouts of depthwise weights, for dwconv*.c only. Must not include anything
 * but kern/.
 *
 * f32: blocks of 64 channels (the last one padded with zeros), each [tap][64].
 *
 * u8s8: a header, wzero[blocks·64] as int32, then blocks of 64 channels, each [tap/4 rounded up][64][4]
 * bytes: four taps of a channel are neighbours, as vpdpbusd wants them; missing taps and channels are
 * zero. Inside a block channel 16·l + 4·q + j stands at position 16·q + 4·l + j, because interleaving the
 * bytes of four taps in 128-bit lanes l yields the channels of quarter q of every lane in one register. */
#ifndef NW_KERN_DWCONV_PACK_H
#define NW_KERN_DWCONV_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DW_BLOCK 64

typedef struct dw_header {
    int32_t any_wzero; /* whether any weight zero point is not 0 */
    int32_t unused[15];
} dw_header;

static inline size_t dw_blocks(size_t channels) {
    return (channels + DW_BLOCK - 1) / DW_BLOCK;
}
static inline size_t dw_groups(size_t taps) {
    return (taps + 3) / 4;
}
static inline size_t dw_position(size_t channel) { /* within a block */
    return 16 * (channel / 4 % 4) + 4 * (channel / 16) + channel % 4;
}

static inline const int32_t *dw_wzero(const void *packed) {
    return (const int32_t *)((const dw_header *)packed + 1);
}
static inline const int8_t *dw_weights(const void *packed, size_t channels, size_t taps, size_t block) {
    return (const int8_t *)(dw_wzero(packed) + dw_blocks(channels) * DW_BLOCK) +
           block * dw_groups(taps) * 4 * DW_BLOCK;
}

#endif
