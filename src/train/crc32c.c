/* crc32c.c: byte by byte, over a table that is made anew: long runs and short records are both cheap enough. */
#include "train/crc32c.h"

uint32_t nw_crc32c(uint32_t crc, const void *data, size_t size) {
    uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t r = i;
        for (int bit = 0; bit < 8; bit++) r = r >> 1 ^ (r & 1 ? 0x82f63b78u : 0);
        table[i] = r;
    }
    const uint8_t *byte = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) crc = crc >> 8 ^ table[(crc ^ byte[i]) & 0xff];
    return ~crc;
}
