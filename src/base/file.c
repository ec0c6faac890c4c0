#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

nw_status nw_bytes_map(nw_context *ctx, const char *path, nw_bytes **out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return nw_fail(ctx, NW_E_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    nw_status status = NW_OK;
    nw_bytes *bytes = NULL;
    void *data = NULL;
    if (fstat(fd, &st) != 0)
        status = nw_fail(ctx, NW_E_IO, "cannot read %s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        status = nw_fail(ctx, NW_E_IO, "%s is a folder, not a file", path);
    else if (!S_ISREG(st.st_mode))
        status = nw_fail(ctx, NW_E_IO, "%s is not a regular file", path);
    else if (!(bytes = nw_calloc(ctx, 1, sizeof *bytes)))
        status = NW_E_MEMORY;
    else if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) status = nw_fail(ctx, NW_E_IO, "cannot map %s: %s", path, strerror(errno));
    }
    close(fd);
    if (status != NW_OK) {
        nw_free(ctx, bytes);
        return status;
    }
    *bytes = (nw_bytes){data ? data : (void *)"", (size_t)st.st_size, 1, data != NULL, ctx->allocator};
    *out = bytes;
    return NW_OK;
}

nw_status nw_bytes_new(nw_context *ctx, size_t size, nw_bytes **out) {
    size_t header = nw_align_size(sizeof(nw_bytes)), total;
    if (!nw_add_size(header, size, &total))
        return nw_fail(ctx, NW_E_MEMORY, "out of memory: %zu bytes", size);
    nw_bytes *bytes = nw_alloc(ctx, total);
    if (!bytes) return NW_E_MEMORY;
    *bytes = (nw_bytes){(uint8_t *)bytes + header, size, 1, false, ctx->allocator};
    *out = bytes;
    return NW_OK;
}

/* A mapping of `size` bytes that nobody else can see, or NULL. */
static void *map_nameless(size_t size) {
    const char *dir = getenv("TMPDIR");
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/narrow-XXXXXX", dir && *dir ? dir : "/var/tmp");
    if (length < 0 || (size_t)length >= sizeof path) return NULL;
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) return NULL;
    unlink(path);
    void *data = MAP_FAILED; /* room is taken now: a full disk must not end the program later */
    if (posix_fallocate(fd, 0, (off_t)size) == 0)
        data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return data == MAP_FAILED ? NULL : data;
}

nw_status nw_bytes_new_on_disk(nw_context *ctx, size_t size, nw_bytes **out) {
    void *data = size ? map_nameless(size) : NULL;
    if (!data) return nw_bytes_new(ctx, size, out);
    nw_bytes *bytes = nw_alloc(ctx, sizeof *bytes);
    if (!bytes) {
        munmap(data, size);
        return NW_E_MEMORY;
    }
    *bytes = (nw_bytes){data, size, 1, true, ctx->allocator};
    *out = bytes;
    return NW_OK;
}

nw_bytes *nw_bytes_ref(nw_bytes *bytes) {
    if (bytes) __atomic_add_fetch(&bytes->refs, 1, __ATOMIC_RELAXED);
    return bytes;
}

void nw_bytes_free(nw_bytes *bytes) {
    if (!bytes || __atomic_sub_fetch(&bytes->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    if (bytes->mapped) munmap((void *)(uintptr_t)bytes->data, bytes->size);
    nw_allocator allocator = bytes->allocator;
    allocator.release(allocator.user, bytes);
}

void nw_bytes_forget(const nw_bytes *bytes, const void *data, size_t size) {
    if (!bytes || !bytes->mapped) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data, end = begin + size;
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

#define PROC_FD "/proc/self/fd"

/* A file in the target's folder without a name, so that nothing is left of it however the program ends; where the file system
 * has none, or a name could not be given to it later, the temporary one. -1: errno says why. */
static int open_temporary(nw_output *out, const char *folder) {
    int fd = access(PROC_FD, X_OK) == 0 ? open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    if (fd >= 0) return fd;
    fd = open(out->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    out->named = fd >= 0;
    return fd;
}

/* Gives the nameless file its temporary name; 0, or −1 and errno. */
static int name_temporary(nw_output *out) {
    char proc[64];
    snprintf(proc, sizeof proc, PROC_FD "/%d", fileno(out->file));
    unlink(out->temporary); /* of a process of this number that was killed */
    if (linkat(AT_FDCWD, proc, AT_FDCWD, out->temporary, AT_SYMLINK_FOLLOW) != 0) return -1;
    out->named = true;
    return 0;
}

/* dir/narrow-PROCESS-OUTPUT.tmp: short, however long the target's name is. */
static char *temporary_name(const nw_output *out, const char *folder) {
    char name[64];
    snprintf(name, sizeof name, "narrow-%ld-%" PRIxPTR ".tmp", (long)getpid(), (uintptr_t)out);
    return nw_path_join(out->ctx, folder, name);
}

static nw_status cannot_write(nw_output *out) {
    return out->status = nw_fail(out->ctx, NW_E_IO, "cannot write %s: %s", out->path, strerror(errno));
}

static nw_status open_beside(nw_output *out, const char *path) {
    char *folder = nw_path_dir(out->ctx, path);
    out->temporary = folder ? temporary_name(out, folder) : NULL;
    if (!out->temporary) {
        out->status = NW_E_MEMORY;
    } else {
        int fd = open_temporary(out, folder);
        if (fd >= 0 && !(out->file = fdopen(fd, "wb"))) close(fd);
        if (!out->file) cannot_write(out);
    }
    nw_free(out->ctx, folder);
    return out->status;
}

nw_status nw_output_open(nw_context *ctx, nw_output *out, const char *path) {
    *out = (nw_output){.ctx = ctx};
    size_t length = strlen(path);
    out->path = nw_alloc(ctx, length + 1);
    if (!out->path) return out->status = NW_E_MEMORY;
    memcpy(out->path, path, length + 1);
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        out->status = nw_fail(ctx, NW_E_IO, "cannot write %s: it is a folder", path);
    else if (!exists || S_ISREG(st.st_mode))
        open_beside(out, path);
    else if (!(out->file = fopen(path, "wb"))) /* a device or pipe is written to, never replaced */
        cannot_write(out);
    if (out->status == NW_OK) return NW_OK;
    nw_status status = out->status;
    nw_output_abort(out);
    return status;
}

nw_status nw_output_write(nw_output *out, const void *data, size_t size) {
    if (out->status == NW_OK && size > 0 && fwrite(data, 1, size, out->file) != size) cannot_write(out);
    return out->status;
}

nw_status nw_output_printf(nw_output *out, const char *format, ...) {
    if (out->status != NW_OK) return out->status;
    va_list args;
    va_start(args, format);
    if (vfprintf(out->file, format, args) < 0) cannot_write(out);
    va_end(args);
    return out->status;
}

nw_status nw_output_commit(nw_output *out) {
    const bool replaces = out->temporary != NULL;
    if (out->status == NW_OK && (fflush(out->file) != 0 || (replaces && fsync(fileno(out->file)) != 0) ||
                                 (replaces && !out->named && name_temporary(out) != 0)))
        cannot_write(out);
    if (out->file && fclose(out->file) != 0 && out->status == NW_OK) cannot_write(out);
    out->file = NULL;
    if (out->status == NW_OK && replaces) {
        if (rename(out->temporary, out->path) == 0)
            out->named = false;
        else
            cannot_write(out);
    }
    nw_status status = out->status;
    nw_output_abort(out);
    return status;
}

void nw_output_abort(nw_output *out) {
    if (out->file) fclose(out->file);
    if (out->named) unlink(out->temporary);
    nw_free(out->ctx, out->path);
    nw_free(out->ctx, out->temporary);
    out->file = NULL;
    out->path = out->temporary = NULL;
    out->named = false;
}

char *nw_path_join(nw_context *ctx, const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name);
    while (a > 1 && dir[a - 1] == '/') a--;
    char *path = nw_alloc(ctx, a + b + 2);
    if (!path) return NULL;
    memcpy(path, dir, a);
    size_t at = a;
    if (a && path[a - 1] != '/') path[at++] = '/';
    memcpy(path + at, name, b + 1);
    return path;
}

char *nw_path_dir(nw_context *ctx, const char *path) {
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 1;
    const char *from = slash ? path : ".";
    if (slash == path) length = 1;
    char *dir = nw_alloc(ctx, length + 1);
    if (!dir) return NULL;
    memcpy(dir, from, length);
    dir[length] = 0;
    return dir;
}

const char *nw_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool nw_path_has_suffix(const char *path, const char *suffix) {
    size_t a = strlen(path), b = strlen(suffix);
    return a >= b && strcasecmp(path + a - b, suffix) == 0;
}

nw_status nw_file_size(nw_context *ctx, const char *path, uint64_t *bytes) {
    struct stat st;
    if (stat(path, &st) != 0) return nw_fail(ctx, NW_E_IO, "cannot read %s: %s", path, strerror(errno));
    *bytes = (uint64_t)st.st_size;
    return NW_OK;
}
