#include "data/source.h"

#include "data/idx.h"
#include "data/npy.h"

#include <string.h>
#include <sys/stat.h>

nw_status nw_source_new(nw_context *ctx, const nw_source_ops *ops, const char *kind, size_t size,
                        nw_source **out) {
    nw_source *s = nw_calloc(ctx, 1, sizeof *s);
    if (!s) return NW_E_MEMORY;
    s->ops = ops;
    s->ctx = ctx;
    s->kind = kind;
    nw_arena_init(&s->arena, ctx);
    if (!(s->impl = nw_arena_alloc(&s->arena, size))) {
        nw_free(ctx, s);
        return NW_E_MEMORY;
    }
    *out = s;
    return NW_OK;
}

void nw_source_free(nw_source *s) {
    if (!s) return;
    if (s->ops->close) s->ops->close(s);
    nw_arena_free(&s->arena);
    nw_free(s->ctx, s);
}

bool nw_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

nw_status nw_source_set_labels(nw_source *s, const char *name, const nw_tensor *t) {
    bool real = nw_format_is_float(t->format);
    if (t->qparam || (!real && !nw_format_is_integer(t->format) && t->format != NW_BOOL))
        return nw_fail(s->ctx, NW_E_TYPE, "%s: labels must be whole numbers, not %s", name,
                       nw_format_name(t->format));
    if (t->rank < 1)
        return nw_fail(s->ctx, NW_E_DATA, "%s: labels must have one entry per sample, not be a single number",
                       name);
    if ((size_t)t->dims[0] != s->count)
        return nw_fail(s->ctx, NW_E_DATA, "%s: %lld labels for %zu samples", name, (long long)t->dims[0],
                       s->count);
    size_t each = nw_dims_product(t->dims, 1, t->rank), total = nw_tensor_count(t);
    if (each == 0) return nw_fail(s->ctx, NW_E_DATA, "%s: labels are empty", name);
    int64_t *labels = nw_arena_array(&s->arena, total, sizeof *labels), largest = -1;
    if (!labels) return NW_E_MEMORY;
    bool negative = false;
    for (size_t i = 0; i < total; i++) {
        labels[i] = nw_load_s64(t->format, t->data, i);
        if (real && (double)labels[i] != nw_load_f64(t->format, t->data, i))
            return nw_fail(s->ctx, NW_E_DATA, "%s: label %zu is %g, not a whole number", name, i,
                           nw_load_f64(t->format, t->data, i));
        if (labels[i] > largest) largest = labels[i];
        if (labels[i] < 0) negative = true;
    }
    s->labels = labels;
    s->label_count = each;
    if (each > 1 || negative)
        s->class_count = 0;
    else if ((size_t)largest + 1 > s->class_count)
        s->class_count = (size_t)largest + 1;
    return NW_OK;
}

nw_status nw_source_read_labels(nw_source *s, const char *path) {
    if (nw_path_has_suffix(path, ".npy")) {
        nw_npy npy;
        NW_TRY(nw_npy_map(s->ctx, path, &npy));
        nw_status status = nw_source_set_labels(s, path, &npy.tensor);
        nw_npy_free(&npy);
        return status;
    }
    nw_arena arena;
    nw_tensor t;
    nw_arena_init(&arena, s->ctx);
    nw_status status = nw_idx_read(&arena, path, &t);
    if (status == NW_E_FORMAT) nw_fail_where(s->ctx, status, "labels must be a .npy or an idx file");
    if (status == NW_OK) status = nw_source_set_labels(s, path, &t);
    nw_arena_free(&arena);
    return status;
}

nw_status nw_source_read_class_names(nw_source *s, const char *dir, const char *name) {
    char *path = nw_path_join(s->ctx, dir, name);
    struct stat st;
    nw_bytes *bytes;
    if (!path) return NW_E_MEMORY;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
        nw_free(s->ctx, path);
        return NW_OK;
    }
    nw_status status = nw_bytes_map(s->ctx, path, &bytes);
    nw_free(s->ctx, path);
    NW_TRY(status);
    size_t capacity = 0, count = 0;
    const char **names = NULL, *at = (const char *)bytes->data, *end = at + bytes->size;
    while (at < end && status == NW_OK) {
        const char *line = memchr(at, '\n', (size_t)(end - at));
        if (!line) line = end;
        size_t length = (size_t)(line - at);
        if (length && at[length - 1] == '\r') length--;
        status = nw_arena_grow(&s->arena, (void **)&names, &capacity, count, sizeof *names);
        if (status == NW_OK && !(names[count++] = nw_arena_strndup(&s->arena, at, length)))
            status = NW_E_MEMORY;
        at = line + 1;
    }
    nw_bytes_free(bytes);
    while (count && !*names[count - 1]) count--; /* blank lines at the end */
    s->class_names = names;
    s->name_count = count;
    if (s->label_count == 1 && s->class_count && count > s->class_count) s->class_count = count;
    return status;
}
