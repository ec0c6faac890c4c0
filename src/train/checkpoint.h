/* checkpoint.h: the state of a training in one file, written whole or not at all, so that a training that was
 * killed at any moment goes on with the same bits.
 * Must not include anything but base/ and train/. */
#ifndef NW_TRAIN_CHECKPOINT_H
#define NW_TRAIN_CHECKPOINT_H

#include "base/context.h"

#include <stddef.h>
#include <stdint.h>

typedef struct nw_checkpoint_array {
    const char *name;
    float *data;
    size_t count;
} nw_checkpoint_array;

/* Where a training stands. Random numbers are functions of seed, epoch and place: they need no state. */
typedef struct nw_checkpoint {
    uint64_t identity;           /* of the options, model and data: a checkpoint fits one training only */
    uint64_t epoch, batch, step; /* epochs done; batches done of the next one; steps done over all */
    double loss;                 /* sums over the epoch begun: of the batches' losses … */
    uint64_t right;              /* … and of right answers */
    uint64_t log_bytes;          /* length of the log that was written until here */
} nw_checkpoint;

nw_status nw_checkpoint_write(nw_context *ctx, const char *path, const nw_checkpoint *checkpoint,
                              size_t count, const nw_checkpoint_array *arrays);
/* Fills *out and the data of the first `count` arrays of the file. Fails, in words, when the file is damaged, of
 * another training than `identity`, or these arrays are others; then they may hold anything. */
nw_status nw_checkpoint_read(nw_context *ctx, const char *path, uint64_t identity, nw_checkpoint *out,
                             size_t count, const nw_checkpoint_array *arrays);

#endif
