/* checkpoint.c: the file: "narrow\0\1", the fields of nw_checkpoint in their order and the number of arrays (8
 * bytes each), the arrays (length of the name, number of elements: 8 bytes each; the name; the elements), and
 * the CRC-32C of all that. Numbers are little-endian. */
#include "train/checkpoint.h"

#include "base/file.h"
#include "train/crc32c.h"

#include <string.h>

static const char magic[8] = "narrow\0\1";

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie in memory");
_Static_assert(sizeof(nw_checkpoint) == 7 * 8, "fields of 8 bytes without holes");

typedef struct writer {
    nw_output out;
    uint32_t crc;
} writer;

static void put(writer *w, const void *data, size_t size) {
    w->crc = nw_crc32c(w->crc, data, size);
    nw_output_write(&w->out, data, size); /* a failure stays until the commit */
}

nw_status nw_checkpoint_write(nw_context *ctx, const char *path, const nw_checkpoint *checkpoint,
                              size_t count, const nw_checkpoint_array *arrays) {
    writer w = {0};
    NW_TRY(nw_output_open(ctx, &w.out, path));
    put(&w, magic, sizeof magic);
    put(&w, checkpoint, sizeof *checkpoint);
    put(&w, &(uint64_t){count}, 8);
    for (size_t i = 0; i < count; i++) {
        const nw_checkpoint_array *a = &arrays[i];
        uint64_t sizes[2] = {strlen(a->name), a->count};
        put(&w, sizes, sizeof sizes);
        put(&w, a->name, sizes[0]);
        put(&w, a->data, a->count * sizeof *a->data);
    }
    uint32_t crc = w.crc;
    nw_output_write(&w.out, &crc, sizeof crc);
    return nw_output_commit(&w.out);
}

/* The next `size` bytes, or NULL when fewer are left. */
static const uint8_t *take(const uint8_t **at, const uint8_t *end, size_t size) {
    const uint8_t *from = *at;
    if ((size_t)(end - from) < size) return NULL;
    *at = from + size;
    return from;
}

static nw_status damaged(nw_context *ctx, const char *path) {
    return nw_fail(ctx, NW_E_FORMAT, "%s is no checkpoint of this version of narrow, or it is damaged", path);
}

static nw_status read_array(nw_context *ctx, const char *path, const uint8_t **at, const uint8_t *end,
                            const nw_checkpoint_array *want) {
    uint64_t sizes[2];
    const uint8_t *from = take(at, end, sizeof sizes);
    if (!from) return damaged(ctx, path);
    memcpy(sizes, from, sizeof sizes);
    const uint8_t *name = take(at, end, sizes[0]);
    if (!name || sizes[1] > (size_t)(end - *at) / sizeof(float)) return damaged(ctx, path);
    if (sizes[0] != strlen(want->name) || memcmp(name, want->name, sizes[0]) != 0 || sizes[1] != want->count)
        return nw_fail(ctx, NW_E_ARGUMENT, "%s has no array \"%s\" of %zu numbers where one is expected",
                       path, want->name, want->count);
    if (want->count)
        memcpy(want->data, take(at, end, want->count * sizeof(float)), want->count * sizeof(float));
    return NW_OK;
}

static nw_status read_bytes(nw_context *ctx, const char *path, const nw_bytes *bytes, uint64_t identity,
                            nw_checkpoint *out, size_t count, const nw_checkpoint_array *arrays) {
    uint32_t crc;
    uint64_t found;
    if (bytes->size < sizeof magic + sizeof *out + 8 + sizeof crc ||
        memcmp(bytes->data, magic, sizeof magic) != 0)
        return damaged(ctx, path);
    const uint8_t *at = bytes->data + sizeof magic, *end = bytes->data + bytes->size - sizeof crc;
    memcpy(&crc, end, sizeof crc);
    if (nw_crc32c(0, bytes->data, bytes->size - sizeof crc) != crc) return damaged(ctx, path);
    memcpy(out, take(&at, end, sizeof *out), sizeof *out);
    memcpy(&found, take(&at, end, 8), 8);
    if (out->identity != identity)
        return nw_fail(
            ctx, NW_E_ARGUMENT,
            "%s is the checkpoint of another training: resume with the same model, data and options, "
            "or remove it",
            path);
    if (found < count) return damaged(ctx, path);
    for (size_t i = 0; i < count; i++) NW_TRY(read_array(ctx, path, &at, end, &arrays[i]));
    return at == end || found > count ? NW_OK : damaged(ctx, path);
}

nw_status nw_checkpoint_read(nw_context *ctx, const char *path, uint64_t identity, nw_checkpoint *out,
                             size_t count, const nw_checkpoint_array *arrays) {
    nw_bytes *bytes;
    NW_TRY(nw_bytes_map(ctx, path, &bytes));
    nw_status status = read_bytes(ctx, path, bytes, identity, out, count, arrays);
    nw_bytes_free(bytes);
    return status;
}
