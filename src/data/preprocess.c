#include "data/preprocess.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIDE 65535
#define MAX_PAD  4096

static const struct {
    const char *name, *spec;
} presets[] = {
    {"none", ""},
    {"imagenet", "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"},
};
#define PRESETS (sizeof presets / sizeof *presets)

static const char *const color_names[] = {"", "rgb", "bgr", "gray"};
static const char *const filter_names[] = {"bilinear", "bicubic", "nearest"};
static const char *const layout_names[] = {"nchw", "nhwc"};

typedef struct parser {
    nw_context *ctx;
    const char *spec;
    const char *key; /* of the item being read */
    const char *value, *end;
    nw_preprocess *p;
} parser;

static nw_status wrong(const parser *s, const char *at, const char *expected) {
    const char *end = strchr(at, ',');
    size_t length = end ? (size_t)(end - at) : strlen(at);
    return nw_fail(s->ctx, NW_E_ARGUMENT, "preprocessing \"%s\", character %zu: \"%.*s\": %s", s->spec,
                   (size_t)(at - s->spec) + 1, (int)(length > 60 ? 60 : length), at, expected);
}

/* One of `names`; its index into *out. */
static nw_status parse_choice(const parser *s, const char *const *names, int count, const char *expected,
                              int *out) {
    size_t length = (size_t)(s->end - s->value);
    for (int i = 0; i < count; i++)
        if (length && strlen(names[i]) == length && memcmp(names[i], s->value, length) == 0) {
            *out = i;
            return NW_OK;
        }
    return wrong(s, s->value, expected);
}

/* A whole number from lo to hi at *at, which moves behind it. */
static bool parse_side(const char **at, const char *end, int lo, int hi, int *out) {
    const char *from = *at;
    int n = 0;
    for (; *at < end && **at >= '0' && **at <= '9' && n <= hi; ++*at) n = n * 10 + (**at - '0');
    *out = n;
    return *at > from && n >= lo && n <= hi;
}

/* "N" or "WxH". */
static nw_status parse_size(const parser *s, const char *expected, bool *two, int *width, int *height) {
    const char *at = s->value;
    *two = false;
    if (!parse_side(&at, s->end, 1, MAX_SIDE, width)) return wrong(s, s->value, expected);
    *height = *width;
    if (at < s->end && (*at == 'x' || *at == 'X')) {
        at++;
        *two = true;
        if (!parse_side(&at, s->end, 1, MAX_SIDE, height)) return wrong(s, s->value, expected);
    }
    return at == s->end ? NW_OK : wrong(s, at, expected);
}

/* A finite decimal number at *at that ends at `end` or at the character `stop`. */
static bool parse_number(const char **at, const char *end, char stop, double *out) {
    char text[64], *rest;
    size_t n = 0;
    while (*at + n < end && (*at)[n] != stop) {
        if (n + 1 >= sizeof text || !strchr("0123456789+-.eE", (*at)[n])) return false;
        text[n] = (*at)[n];
        n++;
    }
    text[n] = 0;
    *out = strtod(text, &rest);
    *at += n;
    return n > 0 && *rest == 0 && isfinite(*out);
}

static nw_status parse_scale(const parser *s) {
    const char *at = s->value, *expected = "expected a number or a fraction, such as scale=1/255";
    double den = 1;
    if (!parse_number(&at, s->end, '/', &s->p->scale_num) || s->p->scale_num == 0)
        return wrong(s, s->value, expected);
    if (at < s->end) {
        at++;
        if (!parse_number(&at, s->end, 0, &den) || den == 0) return wrong(s, s->value, expected);
    }
    s->p->scale_den = den;
    return NW_OK;
}

static nw_status parse_list(const parser *s, bool positive, double out[3], int *count) {
    const char *at = s->value;
    double first[3];
    int n = 0;
    for (;;) {
        if (n == 3) return wrong(s, at, "at most 3 values, one per channel");
        const char *from = at;
        if (!parse_number(&at, s->end, ':', &first[n]))
            return wrong(s, from, "expected a number; separate channels by ':'");
        if (positive && !(first[n] > 0)) return wrong(s, from, "must be greater than 0");
        n++;
        if (at == s->end) break;
        at++;
    }
    if (n == 2) return wrong(s, s->value, "expected 1 value or 3, one per channel");
    memcpy(out, first, sizeof first[0] * (size_t)n);
    *count = n;
    return NW_OK;
}

static nw_status parse_color(parser *s) {
    int i = 0;
    NW_TRY(parse_choice(s, color_names, 4, "expected rgb, bgr or gray", &i));
    s->p->color = (nw_color)i;
    return NW_OK;
}

static nw_status parse_resize(parser *s) {
    bool two;
    NW_TRY(parse_size(s, "expected resize=N (the shorter side) or resize=WxH", &two, &s->p->resize_width,
                      &s->p->resize_height));
    s->p->resize = two ? NW_RESIZE_EXACT : NW_RESIZE_SHORTER;
    return NW_OK;
}

static nw_status parse_filter(parser *s) {
    int i = 0;
    NW_TRY(parse_choice(s, filter_names, 3, "expected bilinear, bicubic or nearest", &i));
    s->p->filter = (nw_filter)i;
    return NW_OK;
}

static nw_status parse_pad(parser *s) {
    const char *at = s->value;
    return parse_side(&at, s->end, 0, MAX_PAD, &s->p->pad) && at == s->end
               ? NW_OK
               : wrong(s, s->value, "expected pad=N, pixels added on each side (at most 4096)");
}

static nw_status parse_crop(parser *s) {
    bool two;
    return parse_size(s, "expected crop=N or crop=WxH", &two, &s->p->crop_width, &s->p->crop_height);
}

static nw_status parse_scale_key(parser *s) {
    return parse_scale(s);
}
static nw_status parse_mean(parser *s) {
    return parse_list(s, false, s->p->mean, &s->p->means);
}
static nw_status parse_std(parser *s) {
    return parse_list(s, true, s->p->std, &s->p->stds);
}

static nw_status parse_layout(parser *s) {
    int i = 0;
    NW_TRY(parse_choice(s, layout_names, 2, "expected nchw or nhwc", &i));
    s->p->nhwc = i == 1;
    return NW_OK;
}

static const struct {
    const char *name;
    nw_status (*parse)(parser *s);
} keys[] = {
    {"color", parse_color}, {"resize", parse_resize}, {"filter", parse_filter},
    {"pad", parse_pad},     {"crop", parse_crop},     {"scale", parse_scale_key},
    {"mean", parse_mean},   {"std", parse_std},       {"layout", parse_layout},
};
#define KEYS         (sizeof keys / sizeof *keys)
#define ALLOWED_KEYS "color, resize, filter, pad, crop, scale, mean, std, layout"

/* All items of s->spec from `at` on; `seen` has a bit per key. */
static nw_status parse_items(parser *s, const char *at, bool preset_allowed) {
    unsigned seen = 0;
    for (bool first = true; *at; first = false) {
        const char *comma = strchr(at, ','), *end = comma ? comma : at + strlen(at), *equals = at;
        while (equals < end && *equals != '=') equals++;
        size_t length = (size_t)(equals - at), k = 0;
        if (equals == end) {
            while (k < PRESETS &&
                   !(strlen(presets[k].name) == length && memcmp(presets[k].name, at, length) == 0))
                k++;
            if (k == PRESETS)
                return wrong(s, at,
                             "expected KEY=VALUE (" ALLOWED_KEYS ") or, first, a preset: imagenet, none");
            if (!first || !preset_allowed) return wrong(s, at, "a preset must come first, and only once");
            parser inner = {s->ctx, presets[k].spec, NULL, NULL, NULL, s->p};
            NW_TRY(parse_items(&inner, inner.spec, false));
        } else {
            while (k < KEYS && !(strlen(keys[k].name) == length && memcmp(keys[k].name, at, length) == 0))
                k++;
            if (k == KEYS) return wrong(s, at, "unknown key; there are " ALLOWED_KEYS);
            if (seen & (1u << k)) return wrong(s, at, "this key was given before");
            seen |= 1u << k;
            s->key = at;
            s->value = equals + 1;
            s->end = end;
            NW_TRY(keys[k].parse(s));
        }
        if (!comma) break;
        at = comma + 1;
        if (!*at) return wrong(s, comma, "nothing follows the last comma");
    }
    return NW_OK;
}

nw_status nw_preprocess_parse(nw_context *ctx, const char *spec, nw_preprocess *out) {
    nw_preprocess p = {.scale_num = 1, .scale_den = 1};
    parser s = {ctx, spec, NULL, NULL, NULL, &p};
    if (!*spec)
        return nw_fail(ctx, NW_E_ARGUMENT, "the preprocessing is empty; write none for raw 0 … 255 values");
    NW_TRY(parse_items(&s, spec, true));
    *out = p;
    return NW_OK;
}

typedef struct writer {
    char *buffer;
    size_t size, at;
} writer;

static void put(writer *w, const char *text) {
    for (; *text && w->at + 1 < w->size; text++) w->buffer[w->at++] = *text;
}

/* The key with the comma before it. */
static void put_key(writer *w, const char *key) {
    if (w->at) put(w, ",");
    put(w, key);
    put(w, "=");
}

static void put_number(writer *w, double x) {
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    put(w, text);
}

static void put_size(writer *w, const char *key, int width, int height, bool two) {
    char text[40];
    if (two)
        snprintf(text, sizeof text, "%dx%d", width, height);
    else
        snprintf(text, sizeof text, "%d", width);
    put_key(w, key);
    put(w, text);
}

static void put_list(writer *w, const char *key, const double *values, int count) {
    put_key(w, key);
    for (int i = 0; i < count; i++) {
        if (i) put(w, ":");
        put_number(w, values[i]);
    }
}

char *nw_preprocess_describe(const nw_preprocess *p, char *buffer, size_t size) {
    writer w = {buffer, size, 0};
    if (p->color != NW_COLOR_KEEP) {
        put_key(&w, "color");
        put(&w, color_names[p->color]);
    }
    if (p->resize != NW_RESIZE_NONE)
        put_size(&w, "resize", p->resize_width, p->resize_height, p->resize == NW_RESIZE_EXACT);
    if (p->filter != NW_FILTER_BILINEAR) {
        put_key(&w, "filter");
        put(&w, filter_names[p->filter]);
    }
    if (p->pad) put_size(&w, "pad", p->pad, 0, false);
    if (p->crop_width) put_size(&w, "crop", p->crop_width, p->crop_height, p->crop_width != p->crop_height);
    if (p->scale_num != p->scale_den) {
        put_key(&w, "scale");
        put_number(&w, p->scale_num);
        if (p->scale_den != 1) {
            put(&w, "/");
            put_number(&w, p->scale_den);
        }
    }
    if (p->means) put_list(&w, "mean", p->mean, p->means);
    if (p->stds) put_list(&w, "std", p->std, p->stds);
    if (p->nhwc) {
        put_key(&w, "layout");
        put(&w, "nhwc");
    }
    if (w.at == 0) put(&w, "none");
    if (size) buffer[w.at] = 0;
    return buffer;
}

static int channels_after(const nw_preprocess *p, int channels) {
    if (p->color == NW_COLOR_KEEP) return channels;
    return p->color == NW_COLOR_GRAY ? 1 : 3;
}

/* As torchvision's Resize(N): the longer side is int(N·long/short). */
static void resized(const nw_preprocess *p, int width, int height, int64_t *w, int64_t *h) {
    *w = width;
    *h = height;
    if (p->resize == NW_RESIZE_EXACT) {
        *w = p->resize_width;
        *h = p->resize_height;
    } else if (p->resize == NW_RESIZE_SHORTER && width <= height) {
        *w = p->resize_width;
        *h = (int64_t)p->resize_width * height / width;
    } else if (p->resize == NW_RESIZE_SHORTER) {
        *h = p->resize_width;
        *w = (int64_t)p->resize_width * width / height;
    }
}

nw_status nw_preprocess_shape(nw_context *ctx, const nw_preprocess *p, int width, int height, int channels,
                              int64_t dims[3]) {
    int64_t c = channels_after(p, channels), w = -1, h = -1;
    if (p->means == 3 && c == 1)
        return nw_fail(ctx, NW_E_ARGUMENT, "preprocessing: mean has 3 values but the image has one channel");
    if (p->stds == 3 && c == 1)
        return nw_fail(ctx, NW_E_ARGUMENT, "preprocessing: std has 3 values but the image has one channel");
    if (width > 0 || p->resize == NW_RESIZE_EXACT) {
        resized(p, width, height, &w, &h);
        w += 2 * p->pad;
        h += 2 * p->pad;
        if (w > (int64_t)NW_IMAGE_MAX_PIXELS / h)
            return nw_fail(ctx, NW_E_UNSUPPORTED, "preprocessing: an image of %lldx%lld pixels is too large",
                           (long long)w, (long long)h);
        if (p->crop_width > w || p->crop_height > h)
            return nw_fail(
                ctx, NW_E_SHAPE,
                "preprocessing: crop=%dx%d is larger than the image (%lldx%lld); add a resize before it",
                p->crop_width, p->crop_height, (long long)w, (long long)h);
    }
    if (p->crop_width) {
        w = p->crop_width;
        h = p->crop_height;
    }
    dims[0] = p->nhwc ? h : c;
    dims[1] = p->nhwc ? w : h;
    dims[2] = p->nhwc ? c : w;
    return NW_OK;
}

/* Half to even, as Python's round((side − crop)/2). */
static int64_t center_offset(int64_t side, int64_t crop) {
    int64_t d = side - crop, half = d / 2;
    return half + (d % 2 && half % 2);
}

/* What each 8-bit value of channel c becomes: (x·scale − mean)/std, every step rounded to f32. */
static void value_table(const nw_preprocess *p, int c, float table[256]) {
    float mean = p->means ? (float)p->mean[p->means == 3 ? c : 0] : 0.0f;
    float std = p->stds ? (float)p->std[p->stds == 3 ? c : 0] : 1.0f;
    for (int x = 0; x < 256; x++) {
        float scaled = (float)(x * p->scale_num / p->scale_den);
        table[x] = (scaled - mean) / std;
    }
}

/* Pads, crops, scales and lays out the resized image. The window [height,width] starts at (top,left) of the
 * padded one. */
static void write_values(const nw_preprocess *p, const nw_image *image, int64_t left, int64_t top,
                         int64_t width, int64_t height, float *out) {
    const int channels = image->channels;
    const size_t plane = (size_t)width * (size_t)height, step = p->nhwc ? (size_t)channels : 1;
    float table[256];
    for (int c = 0; c < channels; c++) {
        value_table(p, c, table);
        const int from = p->color == NW_COLOR_BGR ? 2 - c : c;
        float *to = out + (p->nhwc ? (size_t)c : (size_t)c * plane);
        for (int64_t y = top - p->pad; y < top - p->pad + height; y++) {
            const bool inside = y >= 0 && y < image->height;
            const uint8_t *row =
                inside ? image->pixels + (size_t)y * (size_t)image->width * (size_t)channels + from : NULL;
            for (int64_t x = left - p->pad; x < left - p->pad + width; x++, to += step)
                *to = table[inside && x >= 0 && x < image->width ? row[(size_t)x * (size_t)channels] : 0];
        }
    }
}

nw_status nw_preprocess_apply(nw_context *ctx, const nw_preprocess *p, nw_image *image, float *out) {
    int64_t dims[3], w, h;
    nw_image next;
    nw_status status;
    NW_TRY_GOTO(status, nw_preprocess_shape(ctx, p, image->width, image->height, image->channels, dims),
                done);
    if (channels_after(p, image->channels) != image->channels) {
        if (p->color == NW_COLOR_GRAY)
            NW_TRY_GOTO(status, nw_image_to_gray(ctx, image, &next), done);
        else
            NW_TRY_GOTO(status, nw_image_to_rgb(ctx, image, &next), done);
        nw_image_free(ctx, image);
        *image = next;
    }
    resized(p, image->width, image->height, &w, &h);
    if (w != image->width || h != image->height) {
        NW_TRY_GOTO(status, nw_image_resize(ctx, image, (int)w, (int)h, p->filter, &next), done);
        nw_image_free(ctx, image);
        *image = next;
    }
    const int64_t height = p->nhwc ? dims[0] : dims[1], width = p->nhwc ? dims[1] : dims[2];
    write_values(p, image, center_offset(w + 2 * p->pad, width), center_offset(h + 2 * p->pad, height), width,
                 height, out);
done:
    nw_image_free(ctx, image);
    return status;
}
