/* preprocess.h: how an image becomes a model's input, as one line of text, for example
 *     resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225
 * Steps always run in this order, whatever the order of the keys:
 *     decode → color → resize → pad → crop → x·scale → (x − mean)/std → layout
 * Must not include anything but base/, num/ and data/. */
#ifndef NW_DATA_PREPROCESS_H
#define NW_DATA_PREPROCESS_H

#include "data/image.h"

typedef enum nw_color { NW_COLOR_KEEP, NW_COLOR_RGB, NW_COLOR_BGR, NW_COLOR_GRAY } nw_color;
typedef enum nw_resize { NW_RESIZE_NONE, NW_RESIZE_SHORTER, NW_RESIZE_EXACT } nw_resize;

/* Key        meaning                                                            default
 * color      rgb | bgr | gray                                                   as the source (files: rgb)
 * resize     N: shorter side to N, other side int(N·long/short); WxH: exactly   none
 * filter     bilinear | bicubic | nearest, of resize                            bilinear
 * pad        N zero pixels on each side                                         0
 * crop       N (N×N) or WxH around the centre, offset round((side − crop)/2)    none
 * scale      a number or a fraction such as 1/255                               1
 * mean, std  one value for all channels, or one per channel separated by ':'    0, 1
 * layout     nchw: sample [C,H,W] | nhwc: sample [H,W,C]                        nchw
 * Presets: `imagenet`, which is the example above; `none`: nothing, raw 0 … 255 as floats. A preset may come
 * first and be followed by keys that override it: imagenet,layout=nhwc. */
typedef struct nw_preprocess {
    nw_color color;
    nw_resize resize;
    int resize_width, resize_height; /* NW_RESIZE_SHORTER: width is the shorter side */
    nw_filter filter;
    int pad;
    int crop_width, crop_height; /* 0: none */
    double scale_num, scale_den; /* x·num/den */
    int means, stds;             /* how many values: 0 (absent), 1 or 3 */
    double mean[3], std[3];
    bool nhwc;
} nw_preprocess;

#define NW_PREPROCESS_TEXT 512 /* bytes that hold any canonical text */

/* Fails with NW_E_ARGUMENT, the position and what would be right. spec must not be NULL. */
nw_status nw_preprocess_parse(nw_context *ctx, const char *spec, nw_preprocess *out);
/* The canonical text: keys in the order above, only those that differ from the default, "none" when all do
 * not; parsing it gives the same preprocessing. Returns buffer. */
char *nw_preprocess_describe(const nw_preprocess *p, char *buffer, size_t size);

/* The sample's shape [C,H,W] or [H,W,C] for a source image of this size (width 0: not known). Dimensions that
 * depend on an unknown size are −1. Fails when the crop is larger than the image or when mean and std do not
 * fit the channels. */
nw_status nw_preprocess_shape(nw_context *ctx, const nw_preprocess *p, int width, int height, int channels,
                              int64_t dims[3]);

/* Runs all steps on *image, which is consumed (freed, also on failure), into out, [prod dims] floats with the
 * dims of nw_preprocess_shape. Safe on several threads, each with its own context. */
nw_status nw_preprocess_apply(nw_context *ctx, const nw_preprocess *p, nw_image *image, float *out);

#endif
