#include "data/npy.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

/* deflate makes at most 1032 bytes of one; whatever claims more is not allocated for. */
#define MOST_EXPANSION 1100

typedef struct entry {
    char *name; /* without ".npy" */
    zip_uint64_t index;
    uint64_t size; /* bytes, uncompressed */
} entry;

struct nw_npz {
    nw_context *ctx;
    nw_arena arena;
    char *path;
    zip_t *zip;
    entry *entries;
    size_t count;
};

struct nw_npz_stream {
    nw_npz *npz;
    zip_file_t *file;
    nw_npy_header header;
    const char *name; /* "FILE.npz: ENTRY", for messages */
    uint64_t left;    /* bytes of elements not read yet */
    nw_arena arena;
};

static nw_status list_entries(nw_npz *npz, uint64_t file_size) {
    zip_int64_t total = zip_get_num_entries(npz->zip, 0);
    if (total < 0) total = 0;
    npz->entries = nw_arena_array(&npz->arena, (size_t)total, sizeof *npz->entries);
    if (!npz->entries) return NW_E_MEMORY;
    for (zip_uint64_t i = 0; i < (zip_uint64_t)total; i++) {
        zip_stat_t st;
        const zip_uint64_t needed = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE;
        zip_stat_init(&st);
        if (zip_stat_index(npz->zip, i, 0, &st) != 0 || (st.valid & needed) != needed)
            return nw_fail(npz->ctx, NW_E_FORMAT, "%s: damaged zip directory", npz->path);
        size_t length = strlen(st.name);
        if (!nw_path_has_suffix(st.name, ".npy")) continue;
        if (st.comp_size > file_size || st.size / MOST_EXPANSION > st.comp_size + 1)
            return nw_fail(npz->ctx, NW_E_FORMAT, "%s: entry \"%s\" claims an impossible size", npz->path,
                           st.name);
        entry *e = &npz->entries[npz->count++];
        *e = (entry){nw_arena_strndup(&npz->arena, st.name, length - 4), i, st.size};
        if (!e->name) return NW_E_MEMORY;
    }
    return NW_OK;
}

nw_status nw_npz_open(nw_context *ctx, const char *path, nw_npz **out) {
    struct stat st;
    if (stat(path, &st) != 0) return nw_fail(ctx, NW_E_IO, "cannot open %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return nw_fail(ctx, NW_E_IO, "%s is not a regular file", path);
    nw_npz *npz = nw_calloc(ctx, 1, sizeof *npz);
    if (!npz) return NW_E_MEMORY;
    npz->ctx = ctx;
    nw_arena_init(&npz->arena, ctx);
    nw_status status = NW_OK;
    int code = 0;
    if (!(npz->path = nw_arena_strdup(&npz->arena, path)))
        status = NW_E_MEMORY;
    else if (!(npz->zip = zip_open(path, ZIP_RDONLY, &code))) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        status = nw_fail(ctx, NW_E_FORMAT, "%s: not a readable .npz (zip) file: %s", path,
                         zip_error_strerror(&error));
        zip_error_fini(&error);
    } else {
        status = list_entries(npz, (uint64_t)st.st_size);
    }
    if (status != NW_OK) {
        nw_npz_free(npz);
        return status;
    }
    *out = npz;
    return NW_OK;
}

void nw_npz_free(nw_npz *npz) {
    if (!npz) return;
    if (npz->zip) zip_discard(npz->zip);
    nw_arena_free(&npz->arena);
    nw_free(npz->ctx, npz);
}

size_t nw_npz_count(const nw_npz *npz) {
    return npz->count;
}
const char *nw_npz_name(const nw_npz *npz, size_t i) {
    return npz->entries[i].name;
}

size_t nw_npz_find(const nw_npz *npz, const char *name) {
    size_t i = 0;
    while (i < npz->count && strcmp(npz->entries[i].name, name) != 0) i++;
    return i;
}

/* Reads exactly `bytes`. */
static nw_status read_bytes(nw_npz_stream *s, void *out, uint64_t bytes) {
    uint8_t *to = out;
    while (bytes) {
        zip_int64_t n = zip_fread(s->file, to, bytes);
        if (n <= 0)
            return nw_fail(s->npz->ctx, NW_E_FORMAT, "%s: the data is damaged or cut: %s", s->name,
                           n < 0 ? zip_file_strerror(s->file) : "too few bytes");
        to += n;
        bytes -= (uint64_t)n;
    }
    return NW_OK;
}

static nw_status read_header(nw_npz_stream *s, uint64_t size) {
    nw_context *ctx = s->npz->ctx;
    uint8_t first[12];
    if (size < sizeof first) return nw_fail(ctx, NW_E_FORMAT, "%s: too short for an array", s->name);
    NW_TRY(read_bytes(s, first, sizeof first));
    NW_TRY(nw_npy_parse_header(ctx, s->name, first, sizeof first, &s->header));
    size_t offset = s->header.offset;
    if (offset > size) return nw_fail(ctx, NW_E_FORMAT, "%s: the entry ends inside its header", s->name);
    uint8_t *text = nw_alloc(ctx, offset);
    if (!text) return NW_E_MEMORY;
    memcpy(text, first, sizeof first);
    nw_status status = read_bytes(s, text + sizeof first, offset - sizeof first);
    if (status == NW_OK) status = nw_npy_parse_header(ctx, s->name, text, offset, &s->header);
    nw_free(ctx, text);
    NW_TRY(status);
    s->left = nw_tensor_bytes(&s->header.shape);
    if (s->left > size - offset) return nw_fail(ctx, NW_E_FORMAT, "%s: the array is cut", s->name);
    return NW_OK;
}

/* A stream that also accepts Fortran order. */
static nw_status open_any(nw_npz *npz, size_t i, nw_npz_stream **out) {
    nw_npz_stream *s = nw_calloc(npz->ctx, 1, sizeof *s);
    if (!s) return NW_E_MEMORY;
    s->npz = npz;
    nw_arena_init(&s->arena, npz->ctx);
    nw_status status = NW_OK;
    s->name = nw_arena_printf(&s->arena, "%s: array \"%s\"", npz->path, npz->entries[i].name);
    if (!s->name)
        status = NW_E_MEMORY;
    else if (!(s->file = zip_fopen_index(npz->zip, npz->entries[i].index, 0)))
        status = nw_fail(npz->ctx, NW_E_FORMAT, "%s: %s", s->name, zip_strerror(npz->zip));
    else
        status = read_header(s, npz->entries[i].size);
    if (status != NW_OK) {
        nw_npz_stream_free(s);
        return status;
    }
    *out = s;
    return NW_OK;
}

nw_status nw_npz_stream_open(nw_npz *npz, size_t i, nw_npz_stream **out) {
    nw_npz_stream *s;
    NW_TRY(open_any(npz, i, &s));
    if (s->header.fortran) {
        nw_status status =
            nw_fail(npz->ctx, NW_E_UNSUPPORTED, "%s: Fortran order cannot be read row by row", s->name);
        nw_npz_stream_free(s);
        return status;
    }
    *out = s;
    return NW_OK;
}

const nw_tensor *nw_npz_stream_shape(const nw_npz_stream *stream) {
    return &stream->header.shape;
}

/* Elements as the file has them; verifies the entry's checksum when the last one is read. */
static nw_status read_elements(nw_npz_stream *s, void *out, uint64_t bytes) {
    if (bytes > s->left) return nw_fail(s->npz->ctx, NW_E_FORMAT, "%s: read beyond its end", s->name);
    NW_TRY(read_bytes(s, out, bytes));
    s->left -= bytes;
    uint8_t extra;
    if (bytes && s->left == 0 && zip_fread(s->file, &extra, 1) < 0)
        return nw_fail(s->npz->ctx, NW_E_FORMAT, "%s: the data is damaged: %s", s->name,
                       zip_file_strerror(s->file));
    return NW_OK;
}

nw_status nw_npz_stream_read(nw_npz_stream *stream, void *out, size_t bytes) {
    NW_TRY(read_elements(stream, out, bytes));
    if (stream->header.big_endian) nw_npy_swap(out, bytes, stream->header.unit);
    return NW_OK;
}

nw_status nw_npz_stream_skip(nw_npz_stream *stream, uint64_t bytes) {
    uint8_t buffer[4096];
    while (bytes) {
        uint64_t n = bytes < sizeof buffer ? bytes : sizeof buffer;
        NW_TRY(read_elements(stream, buffer, n));
        bytes -= n;
    }
    return NW_OK;
}

void nw_npz_stream_free(nw_npz_stream *stream) {
    if (!stream) return;
    if (stream->file) zip_fclose(stream->file);
    nw_arena_free(&stream->arena);
    nw_free(stream->npz->ctx, stream);
}

nw_status nw_npz_read(nw_npz *npz, size_t i, nw_npy *out) {
    nw_npz_stream *s;
    nw_bytes *bytes = NULL, *turned = NULL;
    NW_TRY(open_any(npz, i, &s));
    nw_npy_header h = s->header;
    nw_status status;
    NW_TRY_GOTO(status, nw_bytes_new(npz->ctx, nw_tensor_bytes(&h.shape), &bytes), done);
    NW_TRY_GOTO(status, read_elements(s, (void *)(uintptr_t)bytes->data, bytes->size), done);
    if (h.fortran) {
        NW_TRY_GOTO(status, nw_bytes_new(npz->ctx, bytes->size, &turned), done);
        nw_npy_convert(&h, bytes->data, (uint8_t *)(uintptr_t)turned->data);
        nw_bytes_free(bytes);
        bytes = turned;
    } else if (h.big_endian) {
        nw_npy_swap((uint8_t *)(uintptr_t)bytes->data, bytes->size, h.unit);
    }
    *out = (nw_npy){h.shape, bytes};
    out->tensor.data = (void *)(uintptr_t)bytes->data;
    bytes = NULL;
done:
    nw_bytes_free(bytes);
    nw_npz_stream_free(s);
    return status;
}
