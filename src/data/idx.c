#include "data/idx.h"

#include "base/file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* deflate makes at most 1032 bytes of one; whatever claims more is refused. */
#define MOST_EXPANSION 1100

static nw_format format_of(uint8_t type) {
    switch (type) {
    case 8: return NW_U8;
    case 9: return NW_S8;
    case 11: return NW_S16;
    case 12: return NW_S32;
    case 13: return NW_F32;
    case 14: return NW_F64;
    default: return NW_NONE;
    }
}

/* Reads exactly `size` bytes. */
static nw_status read_bytes(nw_idx *idx, void *out, size_t size) {
    uint8_t *to = out;
    while (size) {
        unsigned step = size < (1u << 30) ? (unsigned)size : 1u << 30;
        int n = gzread(idx->file, to, step);
        if (n <= 0) {
            int code = Z_OK;
            const char *text = gzerror(idx->file, &code);
            if (code == Z_OK || code == Z_BUF_ERROR)
                return nw_fail(idx->ctx, NW_E_FORMAT, "%s: the file is cut: it ends before its last element",
                               idx->path);
            if (code == Z_ERRNO) text = strerror(errno);
            return nw_fail(idx->ctx, NW_E_FORMAT, "%s: cannot be read: %s", idx->path, text);
        }
        to += n;
        size -= (unsigned)n;
    }
    return NW_OK;
}

/* Makes zlib compare a gzip's checksum, which stands behind the last element. */
static nw_status check_end(nw_idx *idx) {
    uint8_t extra;
    int code = Z_OK, n = gzread(idx->file, &extra, 1);
    const char *text = gzerror(idx->file, &code);
    if (n >= 0 && code == Z_OK) return NW_OK;
    return nw_fail(idx->ctx, NW_E_FORMAT, "%s: the file is damaged or cut: %s", idx->path, text);
}

static nw_status read_header(nw_idx *idx, uint64_t file_size) {
    uint8_t head[4], dims[4 * NW_MAX_RANK];
    int code = Z_OK;
    nw_status status = read_bytes(idx, head, 4);
    gzerror(idx->file, &code);
    if (status != NW_OK && code != Z_OK && code != Z_BUF_ERROR)
        return status; /* zlib's complaint, not ours */
    if (status != NW_OK || head[0] || head[1] || format_of(head[2]) == NW_NONE || head[3] == 0)
        return nw_fail(idx->ctx, NW_E_FORMAT, "%s: not an idx file (MNIST's format)", idx->path);
    if (head[3] > NW_MAX_RANK)
        return nw_fail(idx->ctx, NW_E_UNSUPPORTED, "%s: more than %d dimensions", idx->path, NW_MAX_RANK);
    idx->shape.format = format_of(head[2]);
    idx->shape.rank = head[3];
    NW_TRY(read_bytes(idx, dims, (size_t)head[3] * 4));
    for (int i = 0; i < head[3]; i++) {
        const uint8_t *d = dims + (size_t)i * 4;
        idx->shape.dims[i] = (int64_t)d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
    }
    status = nw_tensor_check(idx->ctx, &idx->shape);
    if (status != NW_OK) return nw_fail_where(idx->ctx, status, "%s", idx->path);
    idx->left = nw_tensor_bytes(&idx->shape);
    uint64_t most = gzdirect(idx->file) ? file_size - 4 - (uint64_t)head[3] * 4 : file_size * MOST_EXPANSION;
    if (idx->left > most)
        return nw_fail(idx->ctx, NW_E_FORMAT, "%s: the file is cut: its header announces %llu bytes of data",
                       idx->path, (unsigned long long)idx->left);
    return NW_OK;
}

nw_status nw_idx_open(nw_context *ctx, const char *path, nw_idx *out) {
    struct stat st;
    if (stat(path, &st) != 0) return nw_fail(ctx, NW_E_IO, "cannot open %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return nw_fail(ctx, NW_E_IO, "%s is not a regular file", path);
    nw_idx idx = {.ctx = ctx};
    size_t length = strlen(path);
    if (!(idx.path = nw_alloc(ctx, length + 1))) return NW_E_MEMORY;
    memcpy(idx.path, path, length + 1);
    nw_status status;
    if (!(idx.file = gzopen(path, "rb")))
        status = nw_fail(ctx, NW_E_IO, "cannot open %s: %s", path, strerror(errno));
    else
        status = read_header(&idx, (uint64_t)st.st_size);
    if (status != NW_OK) {
        nw_idx_close(&idx);
        return status;
    }
    *out = idx;
    return NW_OK;
}

void nw_idx_close(nw_idx *idx) {
    if (!idx) return;
    if (idx->file) gzclose(idx->file);
    if (idx->path) nw_free(idx->ctx, idx->path);
    *idx = (nw_idx){0};
}

nw_status nw_idx_next(nw_idx *idx, size_t count, void *out) {
    size_t unit = (size_t)nw_format_bits(idx->shape.format) / 8, bytes;
    if (!nw_mul_size(count, unit, &bytes) || bytes > idx->left)
        return nw_fail(idx->ctx, NW_E_FORMAT, "%s: read beyond its end", idx->path);
    NW_TRY(read_bytes(idx, out, bytes));
    idx->left -= bytes;
    if (bytes && idx->left == 0) NW_TRY(check_end(idx));
    uint8_t *data = out;
    for (size_t i = 0; unit > 1 && i < bytes; i += unit)
        for (size_t a = 0, b = unit - 1; a < b; a++, b--) {
            uint8_t t = data[i + a];
            data[i + a] = data[i + b];
            data[i + b] = t;
        }
    return NW_OK;
}

nw_status nw_idx_skip(nw_idx *idx, size_t count) {
    uint8_t buffer[8192];
    size_t run = sizeof buffer / ((size_t)nw_format_bits(idx->shape.format) / 8);
    while (count) {
        size_t n = count < run ? count : run;
        NW_TRY(nw_idx_next(idx, n, buffer));
        count -= n;
    }
    return NW_OK;
}

nw_status nw_idx_rewind(nw_idx *idx) {
    if (gzseek(idx->file, 4 + 4 * (z_off_t)idx->shape.rank, SEEK_SET) < 0)
        return nw_fail(idx->ctx, NW_E_IO, "%s: cannot be read again", idx->path);
    idx->left = nw_tensor_bytes(&idx->shape);
    return NW_OK;
}

nw_status nw_idx_read(nw_arena *arena, const char *path, nw_tensor *out) {
    nw_idx idx;
    NW_TRY(nw_idx_open(arena->ctx, path, &idx));
    nw_tensor t = idx.shape;
    nw_status status = nw_tensor_alloc(arena, &t);
    if (status == NW_OK) status = nw_idx_next(&idx, nw_tensor_count(&t), t.data);
    if (status == NW_OK) *out = t;
    nw_idx_close(&idx);
    return status;
}
