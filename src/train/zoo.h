/* zoo.h: untrained models of well-known architectures, to train from nothing.
 * Must not include anything but base/, num/, ir/, op/ and train/. */
#ifndef NW_TRAIN_ZOO_H
#define NW_TRAIN_ZOO_H

#include "ir/graph.h"

#define NW_ZOO_WORDS "lenet|mlp|resnet8|resnet20|dscnn|letters"

/* input "input" f32 [N, channels, height, width] (shape [3]) → "logits" [N, classes]; N is free. Weights are
 * drawn from `seed`, normal with variance 2/fan-in (He et al. 2015, "Delving Deep into Rectifiers"), biases 0.
 * Fails, in words, on an unknown name and on images too small for the architecture. */
nw_status nw_zoo_make(nw_context *ctx, const char *architecture, const int64_t *shape, int64_t classes,
                      uint64_t seed, nw_graph **out);

#endif
