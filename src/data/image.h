/* image.h: pixels: JPEG and PNG files into 8-bit RGB, and resizing with Pillow's arithmetic.
 * Must not include anything but base/. */
#ifndef NW_DATA_IMAGE_H
#define NW_DATA_IMAGE_H

#include "base/context.h"
#include "base/file.h"

/* 8-bit pixels, interleaved [height, width, channels], rows without padding. Owned; from the allocator of the
 * context that made it. */
typedef struct nw_image {
    int width, height;
    int channels; /* 1 or 3 (R, G, B) */
    uint8_t *pixels;
} nw_image;

typedef enum nw_filter { NW_FILTER_BILINEAR, NW_FILTER_BICUBIC, NW_FILTER_NEAREST } nw_filter;

/* Most pixels an image may have; larger files are refused (NW_E_UNSUPPORTED). */
#define NW_IMAGE_MAX_PIXELS ((size_t)1 << 28)

/* True for names ending in .jpg, .jpeg or .png, letter case ignored. */
bool nw_image_has_suffix(const char *path);

/* JPEG or PNG, told apart by their first bytes, to RGB (channels 3): grey is repeated, a palette expanded,
 * alpha dropped, CMYK converted, 16 bits cut to 8. JPEG as Pillow decodes it: accurate integer DCT, smooth
 * chroma upsampling; EXIF rotation is ignored. A cut or unreadable file fails with NW_E_DATA and the file's
 * name; damage inside that still gives a whole image is a warning. `name` is for messages. *out is untouched
 * on failure. */
nw_status nw_image_decode(nw_context *ctx, const char *name, const uint8_t *data, size_t size, nw_image *out);
nw_status nw_image_read(nw_context *ctx, const char *path, nw_image *out);
void nw_image_free(nw_context *ctx, nw_image *image); /* clears it; NULL is fine */

/* A new image of uninitialised pixels. Fails with NW_E_UNSUPPORTED above NW_IMAGE_MAX_PIXELS. */
nw_status nw_image_new(nw_context *ctx, int width, int height, int channels, nw_image *out);

/* Pillow's Image.resize((width, height), filter): the filter widens when shrinking (antialiasing), 8-bit
 * fixed point, horizontal pass first, each pass rounded to 8 bits. A new image. (Pillow 13 starts with the
 * vertical pass when the height shrinks much more than the width, which differs by about 1 in 255.) */
nw_status nw_image_resize(nw_context *ctx, const nw_image *in, int width, int height, nw_filter filter,
                          nw_image *out);

/* A new image with the channels asked for: grey = (19595 R + 38470 G + 7471 B + 32768) >> 16 (ITU-R 601, as
 * Pillow). */
nw_status nw_image_to_gray(nw_context *ctx, const nw_image *in, nw_image *out);
nw_status nw_image_to_rgb(nw_context *ctx, const nw_image *in, nw_image *out);

#endif
