/* What a path holds: the rules of dataset.h, in their order. */
#include "data/source.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The part of a set that is wanted. */
typedef struct wanted {
    bool train;
    const char *word; /* a folder name asked for by a suffix ("val"), or NULL */
} wanted;

static const char *const test_words[] = {"test", "val", "valid", "validation"};
#define TEST_WORDS (sizeof test_words / sizeof *test_words)

/* Takes ":train", ":test", ":val" … off the end of `path`; true when there was one. */
static bool cut_suffix(char *path, wanted *w) {
    char *colon = strrchr(path, ':');
    struct stat st;
    if (!colon || colon == path || stat(path, &st) == 0) return false;
    if (strcmp(colon + 1, "train") == 0) {
        *w = (wanted){true, NULL};
        *colon = 0;
        return true;
    }
    for (size_t i = 0; i < TEST_WORDS; i++)
        if (strcmp(colon + 1, test_words[i]) == 0) {
            *w = (wanted){false, test_words[i]};
            *colon = 0;
            return true;
        }
    return false;
}

static bool has_prefix(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_idx_name(const char *name) {
    return nw_path_has_suffix(name, "ubyte") || nw_path_has_suffix(name, "ubyte.gz") ||
           nw_path_has_suffix(name, ".idx") || nw_path_has_suffix(name, ".idx.gz");
}

static const struct nw_listed *find(const nw_listing *list, const char *name, bool folder) {
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].folder == folder && strcmp(list->items[i].name, name) == 0) return &list->items[i];
    return NULL;
}

/* data_batch_*.bin and test_batch.bin, or train.bin and test.bin. Leaves *out alone without them. */
static nw_status try_cifar(nw_arena *arena, const char *path, const nw_listing *list, const wanted *w,
                           nw_source **out) {
    char **paths = nw_arena_array(arena, list->count, sizeof *paths);
    if (!paths) return NW_E_MEMORY;
    size_t n = 0;
    bool any = false;
    for (size_t i = 0; i < list->count; i++) {
        const char *name = list->items[i].name;
        if (list->items[i].folder || !nw_path_has_suffix(name, ".bin")) continue;
        bool train = has_prefix(name, "data_batch") || strcmp(name, "train.bin") == 0;
        bool test = strcmp(name, "test_batch.bin") == 0 || strcmp(name, "test.bin") == 0;
        any = any || train || test;
        if (!(w->train ? train : test)) continue;
        if (!(paths[n++] = nw_arena_printf(arena, "%s/%s", path, name))) return NW_E_MEMORY;
    }
    if (!any) return NW_OK;
    if (n == 0)
        return nw_fail(arena->ctx, NW_E_DATA, "%s: has CIFAR files, but none of the %s set", path,
                       w->train ? "train" : "test");
    return nw_source_open_cifar(arena->ctx, n, paths, out);
}

/* An idx file of images whose name tells its part. Leaves *out alone when there is none. */
static nw_status try_idx(nw_arena *arena, const char *path, const nw_listing *list, const wanted *w,
                         bool in_memory, nw_source **out) {
    bool any = false;
    for (size_t i = 0; i < list->count; i++) {
        const char *name = list->items[i].name;
        if (list->items[i].folder || !is_idx_name(name) || !strstr(name, "idx3")) continue;
        any = true;
        bool train = has_prefix(name, "train"), test = has_prefix(name, "t10k") || has_prefix(name, "test");
        if (!(w->train ? train : test)) continue;
        char *file = nw_arena_printf(arena, "%s/%s", path, name);
        return file ? nw_source_open_idx(arena->ctx, file, in_memory, out) : NW_E_MEMORY;
    }
    if (!any) return NW_OK;
    return nw_fail(arena->ctx, NW_E_DATA, "%s: has idx files, but no images named %s…", path,
                   w->train ? "train" : "t10k");
}

/* train/ beside test/ or val/: the name of the one wanted, or NULL. */
static const char *split_folder(const nw_listing *list, const wanted *w) {
    const char *test = NULL;
    for (size_t i = 0; i < TEST_WORDS && !test; i++)
        if (find(list, test_words[i], true)) test = test_words[i];
    if (!test || !find(list, "train", true)) return NULL;
    if (w->train) return "train";
    return w->word && find(list, w->word, true) ? w->word : test;
}

/* *parts: whether the folder has several to choose from. */
static nw_status detect_folder(nw_arena *arena, const char *path, const wanted *w, bool in_memory,
                               bool *parts, nw_source **out) {
    nw_listing list;
    nw_source *found = NULL;
    NW_TRY(nw_list_folder(arena, path, &list));
    *parts = true;
    NW_TRY(try_cifar(arena, path, &list, w, &found));
    if (!found) NW_TRY(try_idx(arena, path, &list, w, in_memory, &found));
    if (!found) {
        const char *part = split_folder(&list, w);
        *parts = part != NULL;
        if (part && !(path = nw_arena_printf(arena, "%s/%s", path, part))) return NW_E_MEMORY;
        NW_TRY(nw_source_open_folder(arena->ctx, path, &found));
    }
    *out = found;
    return NW_OK;
}

static nw_status detect_file(nw_context *ctx, const char *path, bool in_memory, nw_source **out) {
    struct stat st;
    if (stat(path, &st) != 0) return nw_fail(ctx, NW_E_IO, "there is no file or folder %s", path);
    if (nw_path_has_suffix(path, ".csv")) return nw_source_open_csv(ctx, path, out);
    if (nw_path_has_suffix(path, ".npy")) return nw_source_open_npy(ctx, path, out);
    if (nw_path_has_suffix(path, ".npz")) return nw_source_open_npz(ctx, path, in_memory, out);
    if (is_idx_name(path)) return nw_source_open_idx(ctx, path, in_memory, out);
    if (nw_image_has_suffix(path)) return nw_source_open_image(ctx, path, out);
    if (nw_path_has_suffix(path, ".bin")) {
        char *file = (char *)(uintptr_t)path;
        return nw_source_open_cifar(ctx, 1, &file, out);
    }
    return nw_fail(ctx, NW_E_UNSUPPORTED,
                   "%s: not a kind of data that is known by its name; there are folders of images, .csv "
                   "lists, .npy, .npz, "
                   "CIFAR .bin and MNIST …idx3-ubyte(.gz)",
                   path);
}

nw_status nw_source_detect(nw_context *ctx, const char *path, const nw_dataset_options *options,
                           nw_source **out) {
    nw_arena arena;
    nw_source *found = NULL;
    nw_status status = NW_OK;
    wanted w = {options->split == NW_SPLIT_AUTO ? options->prefer_train : options->split == NW_SPLIT_TRAIN,
                NULL};
    nw_arena_init(&arena, ctx);
    char *name = nw_arena_strdup(&arena, path);
    if (!name)
        status = NW_E_MEMORY;
    else {
        bool asked = cut_suffix(name, &w), parts = false;
        for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--) name[n - 1] = 0;
        if (nw_is_folder(name))
            status = detect_folder(&arena, name, &w, options->shuffle, &parts, &found);
        else
            status = detect_file(ctx, name, options->shuffle, &found);
        if (status == NW_OK && asked && !parts)
            status = nw_fail(ctx, NW_E_DATA,
                             "%s: has no train and test parts to choose from; give the path without \"%s\"",
                             name, path + strlen(name));
    }
    nw_arena_free(&arena);
    if (status == NW_OK)
        *out = found;
    else
        nw_source_free(found);
    return status;
}
