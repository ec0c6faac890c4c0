/* log.h: the course of a training for programs: a file of JSON lines, and event files that TensorBoard reads.
 * Both grow while training runs; each record is complete on disk before the next checkpoint is.
 * Must not include anything but base/ and train/. */
#ifndef NW_TRAIN_LOG_H
#define NW_TRAIN_LOG_H

#include "base/context.h"

#include <stdio.h>

/* One number under a name: "loss". TensorBoard shows it as "GROUP/NAME". */
typedef struct nw_log_scalar {
    const char *name;
    double value; /* what is no finite number is null in JSON, and left out of event files */
} nw_log_scalar;

typedef struct nw_log {
    nw_context *ctx;
    const char *json_path;
    char *event_path;   /* heap */
    FILE *json, *event; /* NULL: not wanted */
} nw_log;

/* json_path, event_dir: NULL where not wanted; the folder is made. json_bytes > 0: goes on behind so many bytes
 * of the file, and event_step says where the curves go on; else both begin anew. nw_log_close after failures
 * too. */
nw_status nw_log_open(nw_context *ctx, const char *json_path, const char *event_dir, uint64_t json_bytes,
                      uint64_t event_step, nw_log *log);
/* {"kind":KIND,"epoch":…,"step":…,"NAME":…} and the scalars of "KIND/NAME" at `step`. */
nw_status nw_log_write(nw_log *log, const char *kind, uint64_t epoch, uint64_t step, size_t count,
                       const nw_log_scalar *scalars);
/* Hands everything to the system, and says how long the JSON file is. */
nw_status nw_log_flush(nw_log *log, uint64_t *json_bytes);
void nw_log_close(nw_log *log); /* a zeroed one is fine */

#endif
