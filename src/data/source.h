/* source.h: where a dataset's samples come from. Private to data/: dataset.c makes batches of them.
 * Two kinds: images (decoded and preprocessed one by one, on threads) and arrays (rows copied as they are).
 * Must not include anything but base/, num/ and data/. */
#ifndef NW_DATA_SOURCE_H
#define NW_DATA_SOURCE_H

#include "data/dataset.h"

typedef struct nw_source nw_source;

/* Samples are numbered 0 … count−1 in file order. */
typedef struct nw_source_ops {
    /* Image sources: sample i, owned by the caller. `sequential` tells whether calls must not overlap and are
     * cheapest in rising order; else any thread may call at any time with its own context. */
    nw_status (*image)(nw_source *s, nw_context *ctx, size_t i, nw_image *out);
    bool sequential;
    /* Array sources: rows first … first+count−1 of an input, packed into out. Cheapest in rising order. */
    nw_status (*rows)(nw_source *s, nw_context *ctx, size_t input, size_t first, size_t count, void *out);
    void (*close)(nw_source *s); /* what the arena does not hold; may be NULL */
} nw_source_ops;

struct nw_source {
    const nw_source_ops *ops;
    nw_context *ctx;
    nw_arena arena;   /* everything below, the source itself excepted */
    const char *kind; /* "image folder", "CIFAR-10", … */
    void *impl;       /* of the ops */
    size_t count;     /* samples */

    int width, height, channels; /* of every image; width 0: they vary */
    bool needs_preprocess;       /* image files: there is no sensible default */

    size_t n_inputs; /* array sources */
    nw_dataset_input *inputs;

    int64_t *labels; /* [count × label_count] or NULL */
    size_t label_count;
    size_t class_count;       /* 0: unknown */
    const char **class_names; /* [name_count] or NULL */
    size_t name_count;
    const char **files; /* [count], or NULL where samples are not files */
};

static inline bool nw_source_is_images(const nw_source *s) {
    return s->ops->image != NULL;
}

/* An empty source with its arena and `size` zeroed bytes of impl. */
nw_status nw_source_new(nw_context *ctx, const nw_source_ops *ops, const char *kind, size_t size,
                        nw_source **out);
void nw_source_free(nw_source *s); /* NULL is fine */

/* Copies whole numbers [count] or [count,T] as labels; `name` is where they come from, for messages. */
nw_status nw_source_set_labels(nw_source *s, const char *name, const nw_tensor *t);
/* The same from a .npy or idx file. */
nw_status nw_source_read_labels(nw_source *s, const char *path);
/* Class names, one per line, from dir/name; nothing happens when there is no such file. */
nw_status nw_source_read_class_names(nw_source *s, const char *dir, const char *name);

/* Whatever `path` is, by the rules of dataset.h. in_memory: the source must give samples in any order
 * cheaply. */
nw_status nw_source_detect(nw_context *ctx, const char *path, const nw_dataset_options *options,
                           nw_source **out);

nw_status nw_source_open_folder(nw_context *ctx, const char *path, nw_source **out);
nw_status nw_source_open_csv(nw_context *ctx, const char *path, nw_source **out);
nw_status nw_source_open_image(nw_context *ctx, const char *path, nw_source **out);
nw_status nw_source_open_cifar(nw_context *ctx, size_t n_paths, char *const *paths, nw_source **out);
nw_status nw_source_open_idx(nw_context *ctx, const char *path, bool in_memory, nw_source **out);
nw_status nw_source_open_npy(nw_context *ctx, const char *path, nw_source **out);
nw_status nw_source_open_npz(nw_context *ctx, const char *path, bool in_memory, nw_source **out);
nw_status nw_source_from_arrays(nw_context *ctx, size_t n_inputs, const char *const *names,
                                const nw_tensor *inputs, const nw_tensor *labels, nw_source **out);

/* A folder's entries, sorted by name, hidden ones left out. */
typedef struct nw_listing {
    size_t count;
    struct nw_listed {
        char *name;
        bool folder;
    } * items;
} nw_listing;
nw_status nw_list_folder(nw_arena *arena, const char *path, nw_listing *out);
bool nw_is_folder(const char *path);

#endif
