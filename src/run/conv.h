/* conv.h: what files that lower convolutions and pools share. Private to run/. */
#ifndef NW_RUN_CONV_H
#define NW_RUN_CONV_H

#include "op/conv.h"
#include "run/plan.h"

/* Two dimensions at most: a plane of pixels per image. */
static inline bool nw_conv_is_planar(const nw_conv_geometry *g) {
    return g->spatial <= 2 && g->in[0] == 1 && g->out[0] == 1 && g->kernel[0] == 1;
}
/* A planar convolution whose rows are the image's pixels. */
static inline bool nw_conv_is_pointwise(const nw_conv_geometry *g) {
    return g->kernel[1] == 1 && g->kernel[2] == 1 && g->stride[1] == 1 && g->stride[2] == 1 &&
           g->in[1] == g->out[1] && g->in[2] == g->out[2] && g->pad_begin[1] == 0 && g->pad_begin[2] == 0;
}
/* The window over a channels-last image with `pixel` bytes from a pixel to the next. Planar. */
nw_window nw_plan_window(const nw_conv_geometry *g, size_t pixel);
/* lower_bits.c: takes a convolution whose weights and input both are {−1, 1} times a scale. bias [out_channels] or NULL. */
nw_status nw_lower_bits_conv(nw_planner *p, const nw_node *node, const nw_conv_geometry *g, const float *bias,
                             bool *ok);
/* lower_conv_codes.c: takes a convolution whose weights are best decoded in registers; bias as above. */
nw_status nw_lower_coded_conv(nw_planner *p, const nw_node *node, const nw_conv_geometry *g,
                              const float *bias, bool *ok);
/* Whether its weights are such that it multiplies them with codes. */
nw_status nw_conv_takes_coded(nw_planner *p, const nw_node *node, const nw_conv_geometry *g, bool *ok);

#endif
