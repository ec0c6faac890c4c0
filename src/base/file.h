/* file.h: whole files in, whole files out. Reading maps where it can; writing goes to a nameless file in the same folder
 * that replaces the target only when it is complete, so no failure leaves half a file, and no interruption a temporary one.
 * Must not include anything but base/. */
#ifndef NW_BASE_FILE_H
#define NW_BASE_FILE_H

#include "base/context.h"

#include <stdbool.h>
#include <stdio.h>

/* Reference-counted, immutable bytes: a mapped file or heap memory. Counting is atomic. */
typedef struct nw_bytes {
    const uint8_t *data;
    size_t size;
    /* private */
    int refs;
    bool mapped;
    nw_allocator allocator; /* the bytes may outlive the context that made them */
} nw_bytes;

/* Maps a file read-only. Fails with NW_E_IO and the reason (missing, a folder, no permission). */
nw_status nw_bytes_map(nw_context *ctx, const char *path, nw_bytes **out);
/* Heap memory of `size` bytes, uninitialised; write through (void *)b->data before sharing it. */
nw_status nw_bytes_new(nw_context *ctx, size_t size, nw_bytes **out);
/* The same on disk: in a mapped temporary file without a name, so that nw_bytes_forget gives its memory back. Heap memory where
 * there is no room for the file (in TMPDIR, else /var/tmp). */
nw_status nw_bytes_new_on_disk(nw_context *ctx, size_t size, nw_bytes **out);
static inline bool nw_bytes_hold(const nw_bytes *bytes, const void *data) {
    return (const uint8_t *)data >= bytes->data && (const uint8_t *)data < bytes->data + bytes->size;
}
nw_bytes *nw_bytes_ref(nw_bytes *bytes); /* NULL is fine */
void nw_bytes_free(nw_bytes *bytes);     /* drops one reference; NULL is fine */
/* Nobody will read these bytes soon (weights that were packed): of a mapped file their memory goes back to the system,
 * and comes again from the file when they are read after all. Heap memory stays. */
void nw_bytes_forget(const nw_bytes *bytes, const void *data, size_t size);

typedef struct nw_output {
    nw_context *ctx;
    FILE *file;             /* write here with nw_output_write */
    char *path, *temporary; /* temporary NULL: a device or pipe */
    bool named;             /* a file of the temporary name exists */
    nw_status status;       /* sticky: after the first failure writes do nothing */
} nw_output;

nw_status nw_output_open(nw_context *ctx, nw_output *out, const char *path);
nw_status nw_output_write(nw_output *out, const void *data, size_t size);
nw_status nw_output_printf(nw_output *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
nw_status nw_output_commit(nw_output *out); /* flushes, renames; on failure removes the temporary file */
void nw_output_abort(nw_output *out);       /* removes the temporary file; harmless after commit */

/* dir/name in heap memory (nw_free), with exactly one slash between. NULL when memory runs out. */
char *nw_path_join(nw_context *ctx, const char *dir, const char *name);
/* The folder part of a path ("." when it has none), in heap memory. */
char *nw_path_dir(nw_context *ctx, const char *path);
const char *nw_path_base(const char *path);                    /* points into path */
bool nw_path_has_suffix(const char *path, const char *suffix); /* letter case ignored */
nw_status nw_file_size(nw_context *ctx, const char *path, uint64_t *bytes);

#endif
