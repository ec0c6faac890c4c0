/* tensorboard.h: the records of TensorBoard's event files: TFRecord frames around tensorflow.Event messages, of
 * which a few fields are written.
 * Must not include anything of this project. */
#ifndef NW_TRAIN_TENSORBOARD_H
#define NW_TRAIN_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#define NW_EVENT_MOST 512 /* bytes of a framed record, at most; longer tags are cut */

/* Each makes one framed record in `buffer` [NW_EVENT_MOST] and returns its size. time: seconds since 1970. */
size_t nw_event_version(double time, uint8_t *buffer); /* the first of a file */
/* Whatever curves have at `step` and later in older files does not count. */
size_t nw_event_restart(double time, uint64_t step, uint8_t *buffer);
size_t nw_event_scalar(double time, uint64_t step, const char *tag, float value, uint8_t *buffer);

#endif
