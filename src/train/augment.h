/* augment.h: small random changes to training images, so that a model does not learn them by heart.
 * Must not include anything but base/, num/ and train/. */
#ifndef NW_TRAIN_AUGMENT_H
#define NW_TRAIN_AUGMENT_H

#include "num/tensor.h"

typedef struct nw_augmentation {
    bool flip;    /* left and right are swapped in half of the images */
    int64_t crop; /* images are shifted by up to so many pixels each way; zeros come in */
    double noise; /* standard deviation of what is added to every element */
} nw_augmentation;

/* "flip,crop=4,noise=0.01": any of them, in any order; NULL or "": nothing is done. */
nw_status nw_augmentation_parse(nw_context *ctx, const char *text, nw_augmentation *out);

/* Changes images [N, C, H, W], f32, in place. Sample i draws from a generator of (seed, first + i), so that the
 * same place in the same epoch gives the same image. */
nw_status nw_augment(nw_context *ctx, const nw_augmentation *a, uint64_t seed, uint64_t first,
                     nw_tensor *images);

#endif
