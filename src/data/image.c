#include "data/image.h"

#include <spng.h>
#include <string.h>
#include <turbojpeg.h>

/* A deflated line of one-bit pixels has at most about 8256 pixels per byte of file, a JPEG fewer: what claims
 * more is refused before memory is taken. */
#define MOST_PIXELS_PER_BYTE 8300

bool nw_image_has_suffix(const char *path) {
    return nw_path_has_suffix(path, ".jpg") || nw_path_has_suffix(path, ".jpeg") ||
           nw_path_has_suffix(path, ".png");
}

nw_status nw_image_new(nw_context *ctx, int width, int height, int channels, nw_image *out) {
    if (width < 1 || height < 1 || (size_t)width > NW_IMAGE_MAX_PIXELS / (size_t)height)
        return nw_fail(ctx, NW_E_UNSUPPORTED, "an image of %d×%d pixels is too large", width, height);
    uint8_t *pixels = nw_alloc(ctx, (size_t)width * (size_t)height * (size_t)channels);
    if (!pixels) return NW_E_MEMORY;
    *out = (nw_image){width, height, channels, pixels};
    return NW_OK;
}

void nw_image_free(nw_context *ctx, nw_image *image) {
    if (!image) return;
    nw_free(ctx, image->pixels);
    *image = (nw_image){0};
}

static nw_status new_decoded(nw_context *ctx, const char *name, size_t file, uint64_t width, uint64_t height,
                             int channels, nw_image *out) {
    if (width == 0 || height == 0)
        return nw_fail(ctx, NW_E_DATA, "%s: damaged image: it has no pixels", name);
    if (width > NW_IMAGE_MAX_PIXELS || height > NW_IMAGE_MAX_PIXELS / width)
        return nw_fail(ctx, NW_E_UNSUPPORTED, "%s: an image of %llu×%llu pixels is too large", name,
                       (unsigned long long)width, (unsigned long long)height);
    if (width * height / MOST_PIXELS_PER_BYTE > file)
        return nw_fail(ctx, NW_E_DATA, "%s: damaged image: %llu×%llu pixels cannot be in %zu bytes", name,
                       (unsigned long long)width, (unsigned long long)height, file);
    nw_status status = nw_image_new(ctx, (int)width, (int)height, channels, out);
    return status == NW_OK ? status : nw_fail_where(ctx, status, "%s", name);
}

/* Four bytes C, M, Y, K as Adobe stores them (inverted) → R, G, B, by Pillow's rule. */
static void cmyk_to_rgb(const uint8_t *in, size_t pixels, uint8_t *out) {
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < 3; c++) {
            int k = in[i * 4 + 3], product = (255 - in[i * 4 + c]) * k + 128;
            int v = k - ((product >> 8) + product) / 256;
            out[i * 3 + c] = (uint8_t)(v < 0 ? 0 : v);
        }
}

static nw_status decode_jpeg(nw_context *ctx, const char *name, const uint8_t *data, size_t size,
                             nw_image *out) {
    int width, height, sampling, space;
    nw_image image = {0}, four = {0};
    nw_status status = NW_OK;
    tjhandle tj = tjInitDecompress();
    if (!tj) return nw_fail(ctx, NW_E_MEMORY, "%s: the JPEG decoder cannot start", name);
    if (tjDecompressHeader3(tj, data, (unsigned long)size, &width, &height, &sampling, &space) != 0 &&
        tjGetErrorCode(tj) == TJERR_FATAL) {
        status = nw_fail(ctx, NW_E_DATA, "%s: not a readable JPEG: %s", name, tjGetErrorStr2(tj));
        goto done;
    }
    bool cmyk = space == TJCS_CMYK || space == TJCS_YCCK;
    uint64_t w = width < 0 ? 0 : (uint64_t)width, h = height < 0 ? 0 : (uint64_t)height;
    NW_TRY_GOTO(status, new_decoded(ctx, name, size, w, h, 3, &image), done);
    if (cmyk) NW_TRY_GOTO(status, new_decoded(ctx, name, size, w, h, 4, &four), done);
    if (tjDecompress2(tj, data, (unsigned long)size, cmyk ? four.pixels : image.pixels, width, 0, height,
                      cmyk ? TJPF_CMYK : TJPF_RGB, TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS) != 0) {
        const char *text = tjGetErrorStr2(tj);
        if (tjGetErrorCode(tj) == TJERR_FATAL || strstr(text, "remature")) {
            status = nw_fail(ctx, NW_E_DATA, "%s: damaged or cut JPEG: %s", name, text);
            goto done;
        }
        nw_warn(ctx, "%s: %s", name, text);
    }
    if (cmyk) cmyk_to_rgb(four.pixels, (size_t)(w * h), image.pixels);
    *out = image;
    image = (nw_image){0};
done:
    tjDestroy(tj);
    nw_image_free(ctx, &image);
    nw_image_free(ctx, &four);
    return status;
}

static nw_status decode_png(nw_context *ctx, const char *name, const uint8_t *data, size_t size,
                            nw_image *out) {
    struct spng_ihdr head;
    nw_image image = {0};
    nw_status status = NW_OK;
    spng_ctx *png = spng_ctx_new(0);
    if (!png) return nw_fail(ctx, NW_E_MEMORY, "%s: the PNG decoder cannot start", name);
    spng_set_chunk_limits(png, 64u << 20, 64u << 20);
    int code = spng_set_png_buffer(png, data, size);
    if (code == 0) code = spng_get_ihdr(png, &head);
    if (code == 0) {
        NW_TRY_GOTO(status, new_decoded(ctx, name, size, head.width, head.height, 3, &image), done);
        code = spng_decode_image(png, image.pixels, (size_t)image.width * (size_t)image.height * 3,
                                 SPNG_FMT_RGB8, 0);
    }
    if (code != 0) {
        status = nw_fail(ctx, NW_E_DATA, "%s: damaged or cut PNG: %s", name, spng_strerror(code));
        goto done;
    }
    *out = image;
    image = (nw_image){0};
done:
    spng_ctx_free(png);
    nw_image_free(ctx, &image);
    return status;
}

nw_status nw_image_decode(nw_context *ctx, const char *name, const uint8_t *data, size_t size,
                          nw_image *out) {
    if (size >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0) return decode_jpeg(ctx, name, data, size, out);
    if (size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0) return decode_png(ctx, name, data, size, out);
    if (size == 0) return nw_fail(ctx, NW_E_DATA, "%s: the file is empty", name);
    return nw_fail(ctx, NW_E_DATA, "%s: neither JPEG nor PNG", name);
}

nw_status nw_image_read(nw_context *ctx, const char *path, nw_image *out) {
    nw_bytes *bytes;
    NW_TRY(nw_bytes_map(ctx, path, &bytes));
    nw_status status = nw_image_decode(ctx, path, bytes->data, bytes->size, out);
    nw_bytes_free(bytes);
    return status;
}

nw_status nw_image_to_gray(nw_context *ctx, const nw_image *in, nw_image *out) {
    nw_image image;
    NW_TRY(nw_image_new(ctx, in->width, in->height, 1, &image));
    size_t pixels = (size_t)in->width * (size_t)in->height;
    if (in->channels == 1)
        memcpy(image.pixels, in->pixels, pixels);
    else
        for (size_t i = 0; i < pixels; i++) {
            const uint8_t *p = in->pixels + i * 3;
            image.pixels[i] = (uint8_t)((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 32768u) >> 16);
        }
    *out = image;
    return NW_OK;
}

nw_status nw_image_to_rgb(nw_context *ctx, const nw_image *in, nw_image *out) {
    nw_image image;
    NW_TRY(nw_image_new(ctx, in->width, in->height, 3, &image));
    size_t pixels = (size_t)in->width * (size_t)in->height;
    if (in->channels == 3)
        memcpy(image.pixels, in->pixels, pixels * 3);
    else
        for (size_t i = 0; i < pixels * 3; i++) image.pixels[i] = in->pixels[i / 3];
    *out = image;
    return NW_OK;
}
