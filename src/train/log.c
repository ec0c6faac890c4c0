/* log.c: the files; what an event record looks like is tensorboard.c's. */
#include "train/log.h"

#include "base/file.h"
#include "train/tensorboard.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double wall_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static nw_status cannot_write(const nw_log *log, const char *path) {
    return nw_fail(log->ctx, NW_E_IO, "cannot write %s: %s", path, strerror(errno));
}

/* What a killed training wrote behind its last checkpoint goes. */
static nw_status open_json(nw_log *log, const char *path, uint64_t bytes) {
    log->json_path = path;
    log->json = bytes ? fopen(path, "r+b") : NULL;
    if (!log->json) log->json = fopen(path, "wb");
    if (!log->json) return cannot_write(log, path);
    struct stat st;
    if (fstat(fileno(log->json), &st) != 0) return cannot_write(log, path);
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > bytes &&
        ftruncate(fileno(log->json), (off_t)bytes) != 0)
        return cannot_write(log, path);
    return !bytes || fseek(log->json, 0, SEEK_END) == 0 ? NW_OK : cannot_write(log, path);
}

static nw_status write_event(nw_log *log, const uint8_t *record, size_t size) {
    return fwrite(record, 1, size, log->event) == size ? NW_OK : cannot_write(log, log->event_path);
}

static nw_status open_event(nw_log *log, const char *dir, uint64_t step) {
    char name[96];
    uint8_t record[NW_EVENT_MOST];
    double now = wall_time();
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return nw_fail(log->ctx, NW_E_IO, "cannot make folder %s: %s", dir, strerror(errno));
    /* TensorBoard reads files whose name has "tfevents", in the order of their names. */
    snprintf(name, sizeof name, "events.out.tfevents.%010.0f.narrow.%ld", now, (long)getpid());
    if (!(log->event_path = nw_path_join(log->ctx, dir, name))) return NW_E_MEMORY;
    if (!(log->event = fopen(log->event_path, "wb"))) return cannot_write(log, log->event_path);
    NW_TRY(write_event(log, record, nw_event_version(now, record)));
    return step ? write_event(log, record, nw_event_restart(now, step, record)) : NW_OK;
}

nw_status nw_log_open(nw_context *ctx, const char *json_path, const char *event_dir, uint64_t json_bytes,
                      uint64_t event_step, nw_log *log) {
    *log = (nw_log){.ctx = ctx};
    if (json_path) NW_TRY(open_json(log, json_path, json_bytes));
    return event_dir ? open_event(log, event_dir, event_step) : NW_OK;
}

nw_status nw_log_write(nw_log *log, const char *kind, uint64_t epoch, uint64_t step, size_t count,
                       const nw_log_scalar *scalars) {
    double now = wall_time();
    if (log->json) {
        fprintf(log->json, "{\"kind\":\"%s\",\"epoch\":%" PRIu64 ",\"step\":%" PRIu64, kind, epoch, step);
        for (size_t i = 0; i < count; i++)
            if (isfinite(scalars[i].value))
                fprintf(log->json, ",\"%s\":%.9g", scalars[i].name, scalars[i].value);
            else
                fprintf(log->json, ",\"%s\":null", scalars[i].name);
        fputs("}\n", log->json);
        if (fflush(log->json) != 0) return cannot_write(log, log->json_path); /* for who watches the file */
    }
    for (size_t i = 0; i < count && log->event; i++) {
        char tag[128];
        uint8_t record[NW_EVENT_MOST];
        if (!isfinite(scalars[i].value)) continue;
        snprintf(tag, sizeof tag, "%s/%s", kind, scalars[i].name);
        NW_TRY(write_event(log, record, nw_event_scalar(now, step, tag, (float)scalars[i].value, record)));
    }
    return log->event && fflush(log->event) != 0 ? cannot_write(log, log->event_path) : NW_OK;
}

nw_status nw_log_flush(nw_log *log, uint64_t *json_bytes) {
    *json_bytes = 0;
    if (log->event && fflush(log->event) != 0) return cannot_write(log, log->event_path);
    if (!log->json) return NW_OK;
    long at = fflush(log->json) == 0 ? ftell(log->json) : -1;
    if (at < 0) return errno == ESPIPE ? NW_OK : cannot_write(log, log->json_path); /* a pipe has no length */
    *json_bytes = (uint64_t)at;
    return NW_OK;
}

void nw_log_close(nw_log *log) {
    if (log->json) fclose(log->json);
    if (log->event) fclose(log->event);
    if (log->ctx) nw_free(log->ctx, log->event_path);
    *log = (nw_log){0};
}
