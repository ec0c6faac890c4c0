/* Images of one size packed into files: CIFAR binary and MNIST's idx. */
#include "data/cifar.h"
#include "data/idx.h"
#include "data/source.h"

#include <string.h>

typedef struct cifar_files {
    size_t count;
    nw_cifar *files; /* [count] */
} cifar_files;

static nw_status cifar_image(nw_source *s, nw_context *ctx, size_t i, nw_image *out) {
    const cifar_files *c = s->impl;
    size_t f = 0;
    while (i >= c->files[f].count) i -= c->files[f++].count;
    return nw_cifar_image(ctx, &c->files[f], i, out);
}

static void cifar_close(nw_source *s) {
    cifar_files *c = s->impl;
    for (size_t f = 0; f < c->count; f++) nw_cifar_close(&c->files[f]);
}

static const nw_source_ops cifar_ops = {.image = cifar_image, .close = cifar_close};

static nw_status open_cifar_files(nw_source *s, size_t n_paths, char *const *paths) {
    cifar_files *c = s->impl;
    if (!(c->files = nw_arena_array(&s->arena, n_paths, sizeof *c->files))) return NW_E_MEMORY;
    for (size_t f = 0; f < n_paths; f++) {
        NW_TRY(nw_cifar_open(s->ctx, paths[f], &c->files[f]));
        c->count++;
        s->count += c->files[f].count;
        if (c->files[f].classes != c->files[0].classes)
            return nw_fail(s->ctx, NW_E_DATA, "%s is CIFAR-%d, but %s is CIFAR-%d", paths[0],
                           c->files[0].classes, paths[f], c->files[f].classes);
    }
    s->class_count = (size_t)c->files[0].classes;
    s->kind = s->class_count == 10 ? "CIFAR-10" : "CIFAR-100";
    s->width = s->height = NW_CIFAR_SIDE;
    s->channels = 3;
    s->label_count = 1;
    if (!(s->labels = nw_arena_array(&s->arena, s->count, sizeof *s->labels))) return NW_E_MEMORY;
    size_t n = 0;
    for (size_t f = 0; f < n_paths; f++)
        for (size_t i = 0; i < c->files[f].count; i++) s->labels[n++] = nw_cifar_label(&c->files[f], i);
    char *dir = nw_path_dir(s->ctx, paths[0]);
    if (!dir) return NW_E_MEMORY;
    nw_status status = nw_source_read_class_names(
        s, dir, s->class_count == 10 ? "batches.meta.txt" : "fine_label_names.txt");
    nw_free(s->ctx, dir);
    return status;
}

nw_status nw_source_open_cifar(nw_context *ctx, size_t n_paths, char *const *paths, nw_source **out) {
    nw_source *s;
    NW_TRY(nw_source_new(ctx, &cifar_ops, "CIFAR", sizeof(cifar_files), &s));
    nw_status status = open_cifar_files(s, n_paths, paths);
    if (status == NW_OK)
        *out = s;
    else
        nw_source_free(s);
    return status;
}

typedef struct idx_file {
    nw_idx idx;
    size_t at;       /* the sample it stands before */
    uint8_t *pixels; /* all of them, or NULL: read forward */
} idx_file;

/* Moves to sample i. */
static nw_status idx_seek(idx_file *f, size_t i, size_t sample) {
    if (i < f->at) {
        NW_TRY(nw_idx_rewind(&f->idx));
        f->at = 0;
    }
    NW_TRY(nw_idx_skip(&f->idx, (i - f->at) * sample));
    f->at = i;
    return NW_OK;
}

static nw_status idx_image(nw_source *s, nw_context *ctx, size_t i, nw_image *out) {
    idx_file *f = s->impl;
    nw_image image;
    NW_TRY(nw_image_new(ctx, s->width, s->height, 1, &image));
    size_t sample = (size_t)s->width * (size_t)s->height;
    nw_status status = NW_OK;
    if (f->pixels) {
        memcpy(image.pixels, f->pixels + i * sample, sample);
    } else {
        nw_context *own = f->idx.ctx; /* failures go to the calling thread's context */
        f->idx.ctx = ctx;
        status = idx_seek(f, i, sample);
        if (status == NW_OK) status = nw_idx_next(&f->idx, sample, image.pixels);
        f->idx.ctx = own;
        f->at = status == NW_OK ? i + 1 : SIZE_MAX; /* after a failure: from the start */
    }
    if (status == NW_OK)
        *out = image;
    else
        nw_image_free(ctx, &image);
    return status;
}

static void idx_close(nw_source *s) {
    nw_idx_close(&((idx_file *)s->impl)->idx);
}

static const nw_source_ops idx_stream_ops = {.image = idx_image, .sequential = true, .close = idx_close};
static const nw_source_ops idx_memory_ops = {.image = idx_image, .close = idx_close};

/* Reads the labels beside …images-idx3-ubyte(.gz): the name with labels and idx1, gzipped or not. */
static nw_status find_idx_labels(nw_source *s, const char *path) {
    const char *base = nw_path_base(path), *images = strstr(base, "images"), *three = strstr(base, "idx3");
    if (!images || !three || three < images) return NW_OK;
    bool gz = nw_path_has_suffix(path, ".gz");
    size_t tail = strlen(three + 4) - (gz ? 3 : 0);
    for (int other = 0; other < 2; other++) {
        char *labels = nw_arena_printf(&s->arena, "%.*slabels%.*sidx1%.*s%s", (int)(images - path), path,
                                       (int)(three - images - 6), images + 6, (int)tail, three + 4,
                                       gz != (other == 1) ? ".gz" : "");
        nw_context quiet;
        uint64_t size;
        if (!labels) return NW_E_MEMORY;
        nw_context_child(&quiet, s->ctx);
        if (nw_file_size(&quiet, labels, &size) == NW_OK) return nw_source_read_labels(s, labels);
    }
    return NW_OK;
}

static nw_status open_idx(nw_source *s, const char *path, bool in_memory) {
    idx_file *f = s->impl;
    NW_TRY(nw_idx_open(s->ctx, path, &f->idx));
    const nw_tensor *t = &f->idx.shape;
    if (t->format != NW_U8 || t->rank != 3)
        return nw_fail(s->ctx, NW_E_UNSUPPORTED,
                       "%s: expected images, u8 [N,height,width]; this idx file has %s and %d dimensions",
                       path, nw_format_name(t->format), t->rank);
    if (t->dims[0] < 1 || t->dims[1] < 1 || t->dims[2] < 1 || t->dims[1] > INT32_MAX ||
        t->dims[2] > INT32_MAX)
        return nw_fail(s->ctx, NW_E_DATA, "%s: holds no images", path);
    s->count = (size_t)t->dims[0];
    s->height = (int)t->dims[1];
    s->width = (int)t->dims[2];
    s->channels = 1;
    if (in_memory) {
        if (!(f->pixels = nw_arena_data(&s->arena, nw_tensor_bytes(t)))) return NW_E_MEMORY;
        NW_TRY(nw_idx_next(&f->idx, nw_tensor_bytes(t), f->pixels));
    }
    return find_idx_labels(s, path);
}

nw_status nw_source_open_idx(nw_context *ctx, const char *path, bool in_memory, nw_source **out) {
    nw_source *s;
    NW_TRY(nw_source_new(ctx, in_memory ? &idx_memory_ops : &idx_stream_ops, "idx images", sizeof(idx_file),
                         &s));
    nw_status status = open_idx(s, path, in_memory);
    if (status == NW_OK)
        *out = s;
    else
        nw_source_free(s);
    return status;
}
