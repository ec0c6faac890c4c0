/* augment.c: flips, shifts, noise. */
#include "train/augment.h"

#include "base/random.h"

#include <stdlib.h>
#include <string.h>

/* Sets the field that "name" or "name=value" [length] means; false: there is none. */
static bool set(nw_augmentation *a, const char *text, size_t length) {
    char word[32], *end = word;
    if (length == 0 || length >= sizeof word) return false;
    memcpy(word, text, length);
    word[length] = 0;
    if (strcmp(word, "flip") == 0) {
        a->flip = true;
        return true;
    }
    if (strncmp(word, "crop=", 5) == 0) {
        a->crop = strtol(word + 5, &end, 10);
        return end > word + 5 && !*end && a->crop >= 1 && a->crop <= 4096;
    }
    if (strncmp(word, "noise=", 6) == 0) {
        a->noise = strtod(word + 6, &end);
        return end > word + 6 && !*end && a->noise > 0 && a->noise < 1e6;
    }
    return false;
}

nw_status nw_augmentation_parse(nw_context *ctx, const char *text, nw_augmentation *out) {
    *out = (nw_augmentation){0};
    while (text && *text) {
        size_t length = strcspn(text, ",");
        if (!set(out, text, length))
            return nw_fail(
                ctx, NW_E_ARGUMENT,
                "augmentation \"%.*s\" is unknown: use flip, crop=PIXELS (1 to 4096) and noise=SIGMA, "
                "separated by commas",
                (int)length, text);
        text += length + (text[length] == ',');
    }
    return NW_OK;
}

/* to[y][x] = from[y + dy][x + dx], mirrored when `flip`; 0 outside. */
static void shift(const float *from, float *to, int64_t height, int64_t width, int64_t dy, int64_t dx,
                  bool flip) {
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            int64_t sy = y + dy, sx = (flip ? width - 1 - x : x) + dx;
            bool inside = sy >= 0 && sy < height && sx >= 0 && sx < width;
            *to++ = inside ? from[sy * width + sx] : 0;
        }
}

nw_status nw_augment(nw_context *ctx, const nw_augmentation *a, uint64_t seed, uint64_t first,
                     nw_tensor *images) {
    if (!a->flip && !a->crop && !(a->noise > 0)) return NW_OK;
    if (images->format != NW_F32 || images->rank != 4)
        return nw_fail(ctx, NW_E_ARGUMENT, "augmentation is for images: a single f32 input [N, C, H, W]");
    const int64_t *d = images->dims;
    size_t plane = (size_t)(d[2] * d[3]), channels = (size_t)d[1];
    float *copy = nw_alloc(ctx, plane * sizeof *copy), *at = images->data;
    if (!copy) return NW_E_MEMORY;
    for (int64_t i = 0; i < d[0]; i++) {
        nw_random r = nw_random_at(seed, first + (uint64_t)i);
        uint64_t span = 2 * (uint64_t)a->crop + 1;
        int64_t dy = (int64_t)(nw_random_bits(&r) % span) - a->crop,
                dx = (int64_t)(nw_random_bits(&r) % span) - a->crop;
        bool flip = a->flip && nw_random_bits(&r) >> 63;
        for (size_t c = 0; c < channels; c++, at += plane) {
            memcpy(copy, at, plane * sizeof *copy);
            shift(copy, at, d[2], d[3], dy, dx, flip);
            for (size_t k = 0; k < plane && a->noise > 0; k++)
                at[k] += (float)(a->noise * nw_random_normal(&r));
        }
    }
    nw_free(ctx, copy);
    return NW_OK;
}
