/* Image files: a folder per class, a flat folder, a csv list, one file. */
#include "data/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static nw_status file_image(nw_source *s, nw_context *ctx, size_t i, nw_image *out) {
    return nw_image_read(ctx, s->files[i], out);
}

static const nw_source_ops file_ops = {.image = file_image};

static nw_status new_files(nw_context *ctx, const char *kind, nw_source **out) {
    NW_TRY(nw_source_new(ctx, &file_ops, kind, 0, out));
    (*out)->channels = 3;
    (*out)->needs_preprocess = true;
    return NW_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct nw_listed *)a)->name, ((const struct nw_listed *)b)->name);
}

nw_status nw_list_folder(nw_arena *arena, const char *path, nw_listing *out) {
    DIR *dir = opendir(path);
    if (!dir) return nw_fail(arena->ctx, NW_E_IO, "cannot open the folder %s: %s", path, strerror(errno));
    nw_listing list = {0};
    size_t capacity = 0;
    nw_status status = NW_OK;
    const struct dirent *entry;
    while (status == NW_OK && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        bool folder = entry->d_type == DT_DIR;
        if (entry->d_type != DT_DIR &&
            entry->d_type != DT_REG) { /* a link, or the file system does not say */
            char *full = nw_path_join(arena->ctx, path, entry->d_name);
            if (!full)
                status = NW_E_MEMORY;
            else
                folder = nw_is_folder(full);
            nw_free(arena->ctx, full);
        }
        if (status == NW_OK)
            status = nw_arena_grow(arena, (void **)&list.items, &capacity, list.count, sizeof *list.items);
        if (status != NW_OK) break;
        list.items[list.count] = (struct nw_listed){nw_arena_strdup(arena, entry->d_name), folder};
        if (!list.items[list.count++].name) status = NW_E_MEMORY;
    }
    closedir(dir);
    NW_TRY(status);
    if (list.count) qsort(list.items, list.count, sizeof *list.items, by_name);
    *out = list;
    return NW_OK;
}

/* The images of a folder as full paths in the source's arena, sorted. */
static nw_status list_images(nw_source *s, nw_arena *scratch, const char *folder, const char ***files,
                             size_t *count) {
    nw_listing list;
    NW_TRY(nw_list_folder(scratch, folder, &list));
    const char **found = nw_arena_array(scratch, list.count, sizeof *found);
    if (!found) return NW_E_MEMORY;
    size_t n = 0;
    for (size_t i = 0; i < list.count; i++) {
        if (list.items[i].folder || !nw_image_has_suffix(list.items[i].name)) continue;
        if (!(found[n++] = nw_arena_printf(&s->arena, "%s/%s", folder, list.items[i].name)))
            return NW_E_MEMORY;
    }
    *files = found;
    *count = n;
    return NW_OK;
}

/* files: [classes][counts[c]]. Goes round the classes: the first image of each, then the second of each, … */
static nw_status interleave(nw_source *s, size_t classes, const char *const *const *files,
                            const size_t *counts) {
    size_t total = 0, longest = 0, n = 0;
    for (size_t c = 0; c < classes; c++) {
        total += counts[c];
        if (counts[c] > longest) longest = counts[c];
    }
    s->files = nw_arena_array(&s->arena, total, sizeof *s->files);
    s->labels = nw_arena_array(&s->arena, total, sizeof *s->labels);
    if (!s->files || !s->labels) return NW_E_MEMORY;
    for (size_t k = 0; k < longest; k++)
        for (size_t c = 0; c < classes; c++) {
            if (k >= counts[c]) continue;
            s->files[n] = files[c][k];
            s->labels[n++] = (int64_t)c;
        }
    s->count = total;
    s->label_count = 1;
    s->class_count = classes;
    return NW_OK;
}

static nw_status read_classes(nw_source *s, nw_arena *scratch, const char *path, const nw_listing *list) {
    const char ***files = nw_arena_array(scratch, list->count, sizeof *files);
    size_t *counts = nw_arena_array(scratch, list->count, sizeof *counts), classes = 0, total = 0, images = 0;
    s->class_names = nw_arena_array(&s->arena, list->count, sizeof *s->class_names);
    if (!files || !counts || !s->class_names) return NW_E_MEMORY;
    const char *csv = NULL;
    for (size_t i = 0; i < list->count; i++) {
        const char *name = list->items[i].name;
        if (!list->items[i].folder) {
            images += nw_image_has_suffix(name);
            if (nw_path_has_suffix(name, ".csv")) csv = name;
            continue;
        }
        char *folder = nw_arena_printf(&s->arena, "%s/%s", path, name);
        s->class_names[classes] = nw_arena_strdup(&s->arena, name);
        if (!folder || !s->class_names[classes]) return NW_E_MEMORY;
        NW_TRY(list_images(s, scratch, folder, &files[classes], &counts[classes]));
        total += counts[classes++];
    }
    if (csv && total && classes == 1)
        return nw_fail(s->ctx, NW_E_DATA,
                       "%s: has one sub-folder and lists of files; give the list, for example %s/%s", path,
                       path, csv);
    if (total == 0) {
        s->class_names = NULL;
        return NW_OK;
    }
    if (images) nw_warn(s->ctx, "%s: %zu images beside the class folders are left out", path, images);
    for (size_t c = 0; c < classes; c++)
        if (counts[c] == 0) nw_warn(s->ctx, "%s: the class folder %s has no images", path, s->class_names[c]);
    s->name_count = classes;
    s->kind = "image folder";
    return interleave(s, classes, (const char *const *const *)files, counts);
}

nw_status nw_source_open_folder(nw_context *ctx, const char *path, nw_source **out) {
    nw_source *s = NULL;
    nw_arena scratch;
    nw_listing list;
    nw_status status;
    nw_arena_init(&scratch, ctx);
    NW_TRY(new_files(ctx, "images", &s));
    NW_TRY_GOTO(status, nw_list_folder(&scratch, path, &list), done);
    NW_TRY_GOTO(status, read_classes(s, &scratch, path, &list), done);
    if (s->count == 0) {
        const char **files;
        NW_TRY_GOTO(status, list_images(s, &scratch, path, &files, &s->count), done);
        if (s->count && (s->files = nw_arena_array(&s->arena, s->count, sizeof *s->files)))
            memcpy(s->files, files, s->count * sizeof *files);
        else if (s->count)
            status = NW_E_MEMORY;
        else
            status = nw_fail(ctx, NW_E_DATA,
                             "%s: no data found: expected one sub-folder of jpg, jpeg or png images per "
                             "class, images, CIFAR "
                             ".bin files or MNIST idx files",
                             path);
    }
done:
    nw_arena_free(&scratch);
    if (status == NW_OK)
        *out = s;
    else
        nw_source_free(s);
    return status;
}

nw_status nw_source_open_image(nw_context *ctx, const char *path, nw_source **out) {
    nw_source *s;
    NW_TRY(new_files(ctx, "image", &s));
    s->count = 1;
    s->files = nw_arena_array(&s->arena, 1, sizeof *s->files);
    if (!s->files || !(s->files[0] = nw_arena_strdup(&s->arena, path))) {
        nw_source_free(s);
        return NW_E_MEMORY;
    }
    *out = s;
    return NW_OK;
}

typedef struct csv {
    nw_source *s;
    const char *path, *at, *end;
    char *dir;
    size_t line;
    char *field; /* the unquoted text of the field last read; scratch, as long as the file's longest line */
} csv;

static nw_status bad_line(const csv *c, const char *what) {
    return nw_fail(c->s->ctx, NW_E_DATA, "%s, line %zu: %s", c->path, c->line, what);
}

/* The next field of the line into c->field; *last: the line ends with it. */
static nw_status next_field(csv *c, bool *last) {
    char *to = c->field;
    if (c->at < c->end && *c->at == '"') {
        for (c->at++;; c->at++) {
            if (c->at >= c->end || *c->at == '\n') return bad_line(c, "a quote is not closed");
            if (*c->at == '"' && (c->at + 1 >= c->end || c->at[1] != '"')) break;
            if (*c->at == '"') c->at++;
            *to++ = *c->at;
        }
        c->at++;
        if (c->at < c->end && *c->at == '\r') c->at++;
        if (c->at < c->end && *c->at != ',' && *c->at != '\n')
            return bad_line(c, "text follows a closing quote");
    } else {
        while (c->at < c->end && *c->at != ',' && *c->at != '\n') *to++ = *c->at++;
        while (to > c->field && (to[-1] == '\r' || to[-1] == ' ')) to--;
    }
    *to = 0;
    *last = c->at >= c->end || *c->at == '\n';
    if (c->at < c->end) c->at++;
    return memchr(c->field, 0, (size_t)(to - c->field)) ? bad_line(c, "the file is not text") : NW_OK;
}

static bool blank_line(const csv *c) {
    const char *at = c->at;
    while (at < c->end && (*at == ' ' || *at == '\r')) at++;
    return at >= c->end || *at == '\n';
}

static void skip_line(csv *c) {
    while (c->at < c->end && *c->at != '\n') c->at++;
    if (c->at < c->end) c->at++;
}

/* Which column is which; −1: absent. */
static nw_status read_header(csv *c, int *file, int *label) {
    *file = *label = -1;
    bool last = false;
    for (int column = 0; !last; column++) {
        NW_TRY(next_field(c, &last));
        if (strcmp(c->field, "file") == 0 && *file < 0)
            *file = column;
        else if (strcmp(c->field, "label") == 0 && *label < 0)
            *label = column;
    }
    return *file >= 0 ? NW_OK : bad_line(c, "the first line must name the columns: file,label");
}

static nw_status parse_label(const csv *c, int64_t *out) {
    char *rest;
    const char *text = c->field;
    while (*text == ' ') text++;
    errno = 0;
    long long n = strtoll(text, &rest, 10);
    while (*rest == ' ') rest++;
    if (*text < '0' || *text > '9' || *rest || errno || n > INT32_MAX)
        return nw_fail(c->s->ctx, NW_E_DATA,
                       "%s, line %zu: the label must be a whole number (0, 1, 2, …), not \"%.60s\"", c->path,
                       c->line, c->field);
    *out = n;
    return NW_OK;
}

static nw_status read_line(csv *c, int file, int label, size_t row) {
    nw_source *s = c->s;
    bool last = false;
    for (int column = 0; !last; column++) {
        NW_TRY(next_field(c, &last));
        if (column == file) {
            if (!*c->field) return bad_line(c, "the file name is empty");
            s->files[row] = *c->field == '/' ? nw_arena_strdup(&s->arena, c->field)
                                             : nw_arena_printf(&s->arena, "%s/%s", c->dir, c->field);
            if (!s->files[row]) return NW_E_MEMORY;
        } else if (column == label) {
            NW_TRY(parse_label(c, &s->labels[row]));
            if ((size_t)s->labels[row] + 1 > s->class_count) s->class_count = (size_t)s->labels[row] + 1;
        }
        if (last && (column < file || column < label))
            return bad_line(c, "has fewer fields than the first line");
    }
    return NW_OK;
}

static nw_status read_csv(csv *c, const nw_bytes *bytes) {
    nw_source *s = c->s;
    int file, label;
    size_t lines = 0, longest = 0, length = 0;
    c->at = (const char *)bytes->data;
    c->end = c->at + bytes->size;
    if (bytes->size >= 3 && memcmp(c->at, "\xef\xbb\xbf", 3) == 0) c->at += 3; /* byte order mark */
    for (const char *p = c->at; p < c->end; p++) {
        length = *p == '\n' ? 0 : length + 1;
        lines += *p == '\n';
        if (length > longest) longest = length;
    }
    if (!(c->field = nw_alloc(s->ctx, longest + 1))) return NW_E_MEMORY;
    c->line = 1;
    NW_TRY(read_header(c, &file, &label));
    s->files = nw_arena_array(&s->arena, lines + 1, sizeof *s->files);
    if (label >= 0) s->labels = nw_arena_array(&s->arena, lines + 1, sizeof *s->labels);
    if (!s->files || (label >= 0 && !s->labels)) return NW_E_MEMORY;
    s->label_count = label >= 0;
    for (c->line = 2; c->at < c->end; c->line++) {
        if (blank_line(c))
            skip_line(c);
        else
            NW_TRY(read_line(c, file, label, s->count++));
    }
    if (s->count == 0) return nw_fail(s->ctx, NW_E_DATA, "%s: lists no files", c->path);
    return nw_source_read_class_names(s, c->dir, "classes.txt");
}

nw_status nw_source_open_csv(nw_context *ctx, const char *path, nw_source **out) {
    csv c = {.path = path};
    nw_bytes *bytes = NULL;
    nw_status status;
    NW_TRY_GOTO(status, new_files(ctx, "image list", &c.s), done);
    NW_TRY_GOTO(status, nw_bytes_map(ctx, path, &bytes), done);
    if (!(c.dir = nw_path_dir(ctx, path)))
        status = NW_E_MEMORY;
    else
        status = read_csv(&c, bytes);
done:
    nw_bytes_free(bytes);
    nw_free(ctx, c.dir);
    nw_free(ctx, c.field);
    if (status == NW_OK)
        *out = c.s;
    else
        nw_source_free(c.s);
    return status;
}
