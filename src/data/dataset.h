/* dataset.h: samples in batches from anything users have: images in folders or lists, CIFAR, MNIST, NumPy.
 * Streams: memory does not grow with the number of samples (but for file names and labels).
 * Must not include anything but base/, num/ and data/. */
#ifndef NW_DATA_DATASET_H
#define NW_DATA_DATASET_H

#include "data/preprocess.h"
#include "num/tensor.h"

/* What a path may be:
 *   folder of sub-folders    one class each, index = place in the sorted names; jpg, jpeg, png of any case.
 *                            Samples go round the classes (first image of each, then the second of each, …),
 *                            so that any range of them is balanced
 *   folder with train/ and test/ (or val/, valid/, validation/)    the one of `split`
 *   folder of images         no labels, sorted by name
 *   FILE.csv                 header `file,label` in any order (label may be absent); files relative to the
 *                            csv; classes.txt beside it, one name per line, names the classes
 *   FILE.bin                 CIFAR-10 or CIFAR-100 records; likewise a folder of data_batch_*.bin and
 *                            test_batch.bin, or of train.bin and test.bin
 *   *-images-idx3-ubyte(.gz) MNIST; labels from …labels-idx1-ubyte(.gz) beside it; or their folder, train
 *                            and t10k told apart by name
 *   FILE.jpg, .jpeg, .png    one image, no labels
 *   FILE.npy                 one input [N, …]; labels from options.labels
 *   FILE.npz                 one array [N, …] per model input, by name; "labels" or "label" holds labels
 * A suffix ":train" or ":test" (":val") sets the split. */
typedef enum nw_split { NW_SPLIT_AUTO, NW_SPLIT_TRAIN, NW_SPLIT_TEST } nw_split;

typedef struct nw_dataset_options {
    /* A preprocess.h text. Required for image files; NULL means `none` for CIFAR and MNIST; arrays take only
     * NULL or `none`. */
    const char *preprocess;
    const char *labels; /* .npy or idx(.gz) of whole numbers [N] or [N,T], replacing the set's own; or NULL */
    size_t skip;        /* samples left out at the start; leaving none is an error */
    size_t samples;     /* most samples used after that; 0: all (nw_dataset_count says how many) */
    nw_split split;     /* where a folder has two; a suffix of the path wins */
    bool prefer_train;  /* what NW_SPLIT_AUTO means: false: test, true: train (calibration) */
    /* Threads that decode images ahead; 0: none. The samples and their order do not depend on it. With
     * threads the context's allocator is called from several at once. */
    int workers;
    bool shuffle; /* order drawn from `seed`, anew after each rewind; idx and npz are then held in memory */
    uint64_t seed;
} nw_dataset_options;

/* All zero but workers = 2. */
nw_dataset_options nw_dataset_options_default(void);

typedef struct nw_dataset nw_dataset;

/* options NULL: the defaults. Lists files and reads labels; images are read by nw_dataset_next. The context
 * must outlive the dataset and belongs to the thread that uses it. Texts in options are copied. */
nw_status nw_dataset_open(nw_context *ctx, const char *path, const nw_dataset_options *options,
                          nw_dataset **out);

/* Arrays at hand, not copied: their data (and `labels`) must outlive the dataset. inputs [n_inputs], each [N,
 * …]; names [n_inputs] or NULL, each may be NULL; labels: integers [N] or [N,T], or NULL. Of options, skip,
 * samples, shuffle and seed count; NULL: the defaults. */
nw_status nw_dataset_from_arrays(nw_context *ctx, size_t n_inputs, const char *const *names,
                                 const nw_tensor *inputs, const nw_tensor *labels,
                                 const nw_dataset_options *options, nw_dataset **out);
void nw_dataset_free(nw_dataset *ds); /* stops its threads; NULL is fine */

/* One model input, without the batch dimension. */
typedef struct nw_dataset_input {
    const char *name; /* NULL: the model's only input */
    nw_format format; /* images: f32; arrays: their own */
    int rank;
    int64_t dims[NW_MAX_RANK]; /* −1: varies from sample to sample */
} nw_dataset_input;

size_t nw_dataset_count(const nw_dataset *ds); /* samples, after skip and samples */
size_t nw_dataset_input_count(const nw_dataset *ds);
const nw_dataset_input *nw_dataset_input_at(const nw_dataset *ds, size_t i);
bool nw_dataset_has_labels(const nw_dataset *ds);
size_t nw_dataset_label_count(const nw_dataset *ds); /* labels per sample: 1, or T of [N,T]; 0: none */
size_t nw_dataset_class_count(const nw_dataset *ds); /* 0: unknown */
const char *nw_dataset_class_name(const nw_dataset *ds, size_t index); /* NULL: has none */
/* The file of sample i (0 … count−1) in file order, for messages; NULL where samples are not files. */
const char *nw_dataset_sample_name(const nw_dataset *ds, size_t i);

/* Owned by the dataset, valid (and writable) until the next call on it. Data is aligned to NW_ALIGN. */
typedef struct nw_batch {
    size_t count; /* samples; 0 at the end */
    size_t first; /* place of the first of them in this pass, 0 … nw_dataset_count()−1 */
    size_t n_inputs;
    const nw_tensor *inputs; /* [n_inputs], each [count, …] */
    const int64_t *labels;   /* [count × nw_dataset_label_count()], or NULL */
    const size_t *samples;   /* [count] places in file order (differ from first + i when shuffled) */
} nw_batch;

/* The next samples, at most max_batch (≥ 1); fewer where image shapes change or the set ends. After a failure
 * (a file that cannot be decoded, named in the message) every call fails alike until nw_dataset_rewind. */
nw_status nw_dataset_next(nw_dataset *ds, size_t max_batch, nw_batch *batch);
nw_status nw_dataset_rewind(nw_dataset *ds);
/* Rewinds to an order that is a function of `seed`; without options.shuffle the order stays. */
nw_status nw_dataset_shuffle(nw_dataset *ds, uint64_t seed);

/* One line: kind, samples, shapes, classes, preprocessing. Returns buffer. */
char *nw_dataset_describe(const nw_dataset *ds, char *buffer, size_t size);

#endif
