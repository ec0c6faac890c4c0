/* dwconv_pack.h: the packed layouts of depthwise weights, for dwconv*.c only. Must not include anything
 * but kern/.
 *
 * f32: blocks of 64 channels (the last one padded with zeros), each [tap][64].
 *
 * u8s8: a header, wzero[blocks·64] as int32, then blocks of 64 channels, each [step][64][4] bytes: the four
 * bytes of a channel are neighbours, as vpdpbusd wants them; what is missing is zero. Inside a block channel
 * 16·l + 4·q + j stands at position 16·q + 4·l + j, because interleaving the bytes of four rows in 128-bit
 * lanes l yields the channels of quarter q of every lane in one register.
 *   general: a step is four taps; [tap/4 rounded up].
 *   lines:   a step is one column of the kernel and four input lines of the `groups`·4 that `lines` output
 *            lines need; [output line][column][group]. Byte b of group g is the weight of row 4·g + b −
 *            line·stride of the kernel, so an input column interleaved once serves every output over it. */
#ifndef NW_KERN_DWCONV_PACK_H
#define NW_KERN_DWCONV_PACK_H

#include "kern/rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DW_BLOCK 64

typedef struct dw_form {
    uint32_t kernel, stride, groups, lines; /* kernel 0: general */
} dw_form;

typedef struct dw_header {
    int32_t any_wzero; /* whether any weight zero point is left to the kernel */
    dw_form form;
    int32_t unused[11];
} dw_header;

/* Square windows of 3, 5 and 7 (7: stride 1) without dilation, over images of more than a line. */
static inline dw_form dw_form_of(const nw_window *w) {
    if (!w || w->kernel_h != w->kernel_w || w->stride_h != w->stride_w || w->out_h < 2 || w->stride_h < 1 ||
        w->stride_h > 2 || w->dilation_h != 1 || w->dilation_w != 1 ||
        (w->kernel_h != 3 && w->kernel_h != 5 && (w->kernel_h != 7 || w->stride_h != 1)))
        return (dw_form){0};
    uint32_t kernel = (uint32_t)w->kernel_h, stride = (uint32_t)w->stride_h, groups = (kernel + 3) / 4;
    return (dw_form){kernel, stride, groups, (4 * groups - kernel) / stride + 1};
}

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
static inline size_t dw_steps(dw_form form, size_t taps) { /* of a block */
    return form.kernel ? (size_t)form.lines * form.kernel * form.groups : dw_groups(taps);
}
static inline const int8_t *dw_weights(const void *packed, size_t channels, size_t taps, size_t block) {
    return (const int8_t *)(dw_wzero(packed) + dw_blocks(channels) * DW_BLOCK) +
           block * dw_steps(((const dw_header *)packed)->form, taps) * 4 * DW_BLOCK;
}
/* The byte of a channel (within a block) and a tap for output line `line` of the form (general: 0). */
static inline size_t dw_offset(dw_form form, size_t line, size_t channel, size_t tap) {
    size_t step = tap / 4, byte = tap % 4;
    if (form.kernel) {
        size_t row = tap / form.kernel + line * form.stride;
        step = (line * form.kernel + tap % form.kernel) * form.groups + row / 4;
        byte = row % 4;
    }
    return (step * DW_BLOCK + dw_position(channel)) * 4 + byte;
}

/* A piece of output: `count` pixels from pixel m = (oy, ox) of an image, and those below them: `lines` lines. */
typedef struct dw_strip {
    size_t m, image, oy, ox, lines, count;
} dw_strip;

/* The next strip of the outputs [m, m1): whole lines, as many as `most`, or what there is of one. */
static inline dw_strip dw_strip_at(const nw_window *w, size_t m, size_t m1, size_t most) {
    const size_t line = m / w->out_w, left = m1 - m;
    dw_strip s = {m, line / w->out_h, line % w->out_h, m % w->out_w, 1, w->out_w - m % w->out_w};
    if (left <= s.count) s.count = left;
    if (s.count < w->out_w) return s;
    s.lines = left / w->out_w;
    if (s.lines > most) s.lines = most;
    if (s.lines > w->out_h - s.oy) s.lines = w->out_h - s.oy;
    return s;
}

#endif
