/* test_datasets.c: the data sets of src/data: folders, lists, MNIST, CIFAR, arrays. Fixtures are made in a temporary folder;
 * the tests of real data read the folder NARROW_DATA and skip without it. */
#include "data/dataset.h"

#include "./data/fixtures.h"

/* ---- datasets */

static nw_dataset *open_set(const char *path, const char *spec, int workers) {
    nw_dataset_options options = nw_dataset_options_default();
    nw_dataset *ds = NULL;
    options.preprocess = spec;
    options.workers = workers;
    assert_ok(nw_dataset_open(&ctx, path, &options, &ds));
    return ds;
}

/* The first value of every sample, as text "v v v …", with label behind a slash. */
static const char *trace(nw_dataset *ds, size_t max_batch) {
    static char text[65536];
    size_t at = 0, expected = 0;
    nw_batch b;
    text[0] = 0;
    do {
        assert_ok(nw_dataset_next(ds, max_batch, &b));
        assert_int_equal(b.first, expected);
        assert_true(b.count <= max_batch);
        for (size_t i = 0; i < b.count; i++) {
            const nw_tensor *t = &b.inputs[0];
            assert_int_equal(t->dims[0], b.count);
            size_t row = nw_tensor_count(t) / b.count;
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%g", at ? " " : "",
                                   nw_tensor_f64(t, i * row));
            if (b.labels) at += (size_t)snprintf(text + at, sizeof text - at, "/%d", (int)b.labels[i]);
        }
        expected += b.count;
    } while (b.count);
    assert_int_equal(expected, nw_dataset_count(ds));
    assert_ok(nw_dataset_next(ds, max_batch, &b)); /* stays at the end */
    assert_int_equal(b.count, 0);
    return text;
}

static void make_classes(void) {
    folder("classes");
    folder("classes/b");
    folder("classes/a");
    folder("classes/.hidden");
    folder("classes/c");
    put_png("classes/a/2.PNG", 4, 4, 2);
    put_png("classes/a/1.png", 4, 4, 1);
    put_png("classes/a/3.png", 4, 4, 3);
    put_png("classes/b/x.png", 4, 4, 10);
    put_text("classes/b/notes.txt", "no image");
    put_text("classes/readme.txt", "no image");
}

static void test_folder(void **state) {
    (void)state;
    char text[512];
    make_classes();
    nw_dataset *ds = open_set(in_root("classes/"), "none", 2);
    assert_int_equal(nw_dataset_count(ds), 4);
    assert_int_equal(nw_dataset_class_count(ds), 3);
    assert_string_equal(nw_dataset_class_name(ds, 1), "b");
    assert_null(nw_dataset_class_name(ds, 3));
    assert_non_null(strstr(nw_dataset_sample_name(ds, 1), "classes/b/x.png"));
    assert_string_equal(trace(ds, 3), "1/0 10/1 2/0 3/0"); /* round the classes */
    assert_non_null(strstr(warnings, "class folder c has no images"));
    assert_string_equal(nw_dataset_describe(ds, text, sizeof text),
                        "image folder classes: 4 samples, f32 [3,?,?], 3 classes, preprocessing none");
    assert_null(nw_dataset_input_at(ds, 0)->name);
    nw_dataset_free(ds);

    nw_dataset_options options = nw_dataset_options_default();
    assert_fails(nw_dataset_open(&ctx, in_root("classes"), NULL, &ds), "--preprocess");
    options.preprocess = "crop=224,skale=1";
    assert_fails(nw_dataset_open(&ctx, in_root("classes"), &options, &ds), "character 10");
    folder("empty");
    assert_fails(nw_dataset_open(&ctx, in_root("empty"), &options, &ds), "no data found");
    assert_fails(nw_dataset_open(&ctx, in_root("nowhere"), &options, &ds), "nowhere");
    assert_fails(nw_dataset_open(&ctx, put_text("x.dat", "?"), &options, &ds), "not a kind of data");

    ds = open_set(in_root("classes/a"), "scale=10", 0); /* flat */
    assert_false(nw_dataset_has_labels(ds));
    assert_string_equal(trace(ds, 9), "10 20 30");
    nw_dataset_free(ds);

    folder("parts");
    folder("parts/train");
    folder("parts/val");
    folder("parts/train/k");
    folder("parts/val/k");
    put_png("parts/train/k/1.png", 4, 4, 5);
    put_png("parts/val/k/1.png", 4, 4, 6);
    ds = open_set(in_root("parts"), "none", 0);
    assert_string_equal(trace(ds, 9), "6/0");
    nw_dataset_free(ds);
    ds = open_set(in_root("parts:train"), "none", 0);
    assert_string_equal(trace(ds, 9), "5/0");
    nw_dataset_free(ds);
    ds = open_set(in_root("parts:val"), "none", 0);
    assert_string_equal(trace(ds, 9), "6/0");
    nw_dataset_free(ds);
    options.preprocess = "none";
    options.prefer_train = true;
    assert_ok(nw_dataset_open(&ctx, in_root("parts"), &options, &ds));
    assert_string_equal(trace(ds, 9), "5/0");
    nw_dataset_free(ds);
    assert_fails(nw_dataset_open(&ctx, in_root("classes:test"), &options, &ds), "no train and test parts");

    folder("one");
    folder("one/images");
    put_png("one/images/1.png", 4, 4, 5);
    put_text("one/list.csv", "file,label\nimages/1.png,0\n");
    assert_fails(nw_dataset_open(&ctx, in_root("one"), &options, &ds), "one/list.csv");
}

static void test_csv(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "line 1: the first line must name the columns: file,label"},
        {"name,label\na.png,1\n", "line 1"},
        {"file,label\n", "lists no files"},
        {"file,label\na.png,1\na.png\n", "line 3: has fewer fields"},
        {"file,label\n\n\na.png,cat\n", "line 4: the label must be a whole number (0, 1, 2, …), not \"cat\""},
        {"file,label\na.png,-1\n", "line 2: the label"},
        {"file,label\na.png,1.5\n", "line 2: the label"},
        {"file,label\na.png,99999999999999999999\n", "line 2: the label"},
        {"file,label\n,1\n", "line 2: the file name is empty"},
        {"file,label\n\"a.png,1\n", "line 2: a quote is not closed"},
        {"file,label\n\"a.png\"x,1\n", "line 2: text follows"},
        {"label,file\n1\n", "line 2: has fewer"},
    };
    nw_dataset_options options = nw_dataset_options_default();
    nw_dataset *ds;
    options.preprocess = "none";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(nw_dataset_open(&ctx, put_text("bad.csv", cases[i].text), &options, &ds), cases[i].part);
    assert_fails(nw_dataset_open(&ctx, put("bad.csv", "file,label\na\0b,1\n", 17), &options, &ds),
                 "not text");

    make_classes();
    folder("odd, \"name\"");
    put_png("odd, \"name\"/a.png", 4, 4, 77);
    char text[1024];
    snprintf(
        text, sizeof text,
        "\xef\xbb\xbf"
        "label,note,file\r\n3,x,classes/a/1.png\r\n\r\n 1,\"a,\"\"b\",\"odd, \"\"name\"\"/a.png\"\r\n0,,%s",
        in_root("classes/b/x.png"));
    put_text("classes.txt", "zero\r\none\n\nthree\nfour\n\n");
    ds = open_set(put_text("good.csv", text), "none", 1);
    assert_string_equal(trace(ds, 2), "1/3 77/1 10/0");
    assert_int_equal(nw_dataset_class_count(ds), 5);
    assert_string_equal(nw_dataset_class_name(ds, 3), "three");
    nw_dataset_free(ds);
    ds = open_set(put_text("good.csv", "file\nclasses/a/1.png"), "none", 1);
    assert_string_equal(trace(ds, 2), "1");
    nw_dataset_free(ds);
    unlink(in_root("classes.txt"));
}

/* Images of different sizes and decoding times, in a list. */
static void make_list(int count) {
    static char text[65536];
    size_t at = (size_t)snprintf(text, sizeof text, "file,label\n");
    folder("list");
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "list/%d.png", i);
        put_png(name, (uint32_t)(20 + i * 37 % 200), (uint32_t)(20 + i * 53 % 150), i);
        at += (size_t)snprintf(text + at, sizeof text - at, "%s,%d\n", name, i % 7);
    }
    put_text("list.csv", text);
}

static void test_order_and_threads(void **state) {
    (void)state;
    make_list(60);
    char expected[2048];
    nw_dataset *ds = open_set(in_root("list.csv"), "resize=16x16", 0);
    snprintf(expected, sizeof expected, "%s", trace(ds, 8));
    assert_memory_equal(expected, "0/0 1/1 2/2 3/3", 15);
    nw_dataset_free(ds);
    for (int workers = 1; workers <= 8; workers *= 2)
        for (size_t batch = 1; batch <= 125; batch *= 5) {
            ds = open_set(in_root("list.csv"), "resize=16x16", workers);
            for (int pass = 0; pass < 2; pass++) {
                assert_string_equal(trace(ds, batch), expected);
                assert_ok(nw_dataset_rewind(ds));
            }
            nw_batch b;
            assert_ok(nw_dataset_next(ds, 3, &b)); /* freed and rewound in the middle of a pass */
            assert_ok(nw_dataset_rewind(ds));
            assert_ok(nw_dataset_next(ds, 3, &b));
            nw_dataset_free(ds);
        }

    nw_dataset_options options = nw_dataset_options_default();
    options.preprocess = "resize=16x16";
    options.skip = 50;
    options.samples = 3;
    char text[512];
    assert_ok(nw_dataset_open(&ctx, in_root("list.csv"), &options, &ds));
    assert_string_equal(trace(ds, 2), "50/1 51/2 52/3");
    assert_non_null(strstr(nw_dataset_describe(ds, text, sizeof text), "3 samples (from 50 of 60)"));
    nw_dataset_free(ds);
    options.samples = 100;
    assert_ok(nw_dataset_open(&ctx, in_root("list.csv"), &options, &ds));
    assert_int_equal(nw_dataset_count(ds), 10);
    nw_dataset_free(ds);
    options.skip = 60;
    assert_fails(nw_dataset_open(&ctx, in_root("list.csv"), &options, &ds), "leaves none; it has 60");

    options = nw_dataset_options_default();
    options.preprocess = "resize=16x16";
    options.shuffle = true;
    options.seed = 5;
    char first[2048], second[2048];
    assert_ok(nw_dataset_open(&ctx, in_root("list.csv"), &options, &ds));
    snprintf(first, sizeof first, "%s", trace(ds, 8));
    assert_ok(nw_dataset_rewind(ds));
    snprintf(second, sizeof second, "%s", trace(ds, 8));
    nw_dataset_free(ds);
    assert_string_not_equal(first, second);
    assert_string_not_equal(first, expected);
    assert_int_equal(strlen(first), strlen(expected)); /* the same samples */
    options.workers = 0;
    assert_ok(nw_dataset_open(&ctx, in_root("list.csv"), &options, &ds));
    assert_string_equal(trace(ds, 8), first); /* the same seed, the same order */
    nw_dataset_free(ds);
}

static void test_shapes_change(void **state) {
    (void)state;
    folder("mixed");
    static const int sides[] = {4, 4, 5, 5, 5, 4};
    for (int i = 0; i < 6; i++) {
        char name[32];
        snprintf(name, sizeof name, "mixed/%d.png", i);
        put_png(name, (uint32_t)sides[i], 4, i);
    }
    nw_dataset *ds = open_set(in_root("mixed"), "none", 2);
    static const size_t counts[] = {2, 2, 1, 1, 0};
    for (int i = 0; i < 5; i++) {
        nw_batch b;
        assert_ok(nw_dataset_next(ds, 2, &b));
        assert_int_equal(b.count, counts[i]);
    }
    assert_ok(nw_dataset_rewind(ds));
    assert_string_equal(trace(ds, 10), "0 1 2 3 4 5");
    nw_dataset_free(ds);
}

static void test_bad_images(void **state) {
    (void)state;
    make_list(20);
    put_text("list/7.png", "no image");
    for (int workers = 0; workers <= 4; workers += 2) {
        nw_dataset *ds = open_set(in_root("list.csv"), "resize=8x8", workers);
        nw_batch b;
        assert_ok(nw_dataset_next(ds, 5, &b));
        assert_fails(nw_dataset_next(ds, 5, &b), "list/7.png: neither JPEG nor PNG");
        assert_fails(nw_dataset_next(ds, 5, &b), "list/7.png");
        assert_ok(nw_dataset_rewind(ds));
        assert_ok(nw_dataset_next(ds, 7, &b));
        assert_int_equal(b.count, 7);
        assert_fails(nw_dataset_next(ds, 0, &b), "at least 1");
        nw_dataset_free(ds);
        ds = open_set(in_root("list.csv"), "crop=100", workers);
        assert_fails(nw_dataset_next(ds, 5, &b),
                     "list/0.png: preprocessing: crop=100x100 is larger than the image");
        nw_dataset_free(ds);
    }
}

static void test_mnist(void **state) {
    (void)state;
    char text[512];
    folder("mnist");
    put_mnist("mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz", 30, 28, true);
    put_mnist("mnist/t10k-images-idx3-ubyte", "mnist/t10k-labels-idx1-ubyte", 12, 28, false);
    for (int workers = 0; workers <= 4; workers += 2) {
        nw_dataset *ds = open_set(in_root("mnist"), NULL, workers);
        const nw_dataset_input *in = nw_dataset_input_at(ds, 0);
        assert_true(in->rank == 3 && in->dims[0] == 1 && in->dims[1] == 28 && in->dims[2] == 28);
        for (int pass = 0; pass < 2; pass++) {
            assert_string_equal(trace(ds, 5), "0/0 1/1 2/2 3/3 4/4 5/5 6/6 7/7 8/8 9/9 10/0 11/1");
            assert_ok(nw_dataset_rewind(ds));
        }
        nw_dataset_free(ds);
    }
    nw_dataset_options options = nw_dataset_options_default();
    nw_dataset *ds;
    options.preprocess = "pad=2,color=rgb,scale=1/2";
    options.skip = 25;
    options.samples = 2;
    options.split = NW_SPLIT_TRAIN;
    assert_ok(nw_dataset_open(&ctx, in_root("mnist"), &options, &ds));
    assert_string_equal(
        nw_dataset_describe(ds, text, sizeof text),
        "idx images mnist: 2 samples (from 25 of 30), f32 [3,32,32], 10 classes, preprocessing "
        "color=rgb,pad=2,scale=1/2");
    nw_batch b;
    assert_ok(nw_dataset_next(ds, 9, &b));
    assert_true(b.count == 2 && b.labels[1] == 6);
    const float *x = b.inputs->data;
    assert_true(x[0] == 0 && x[2 * 32 + 2] == 12.5f && x[32 * 32 * 3 + 2 * 32 + 2] == 13.0f);
    nw_dataset_free(ds);
    options = (nw_dataset_options){.shuffle = true, .seed = 1};
    assert_ok(nw_dataset_open(&ctx, in_root("mnist/t10k-images-idx3-ubyte"), &options, &ds));
    assert_int_equal(strlen(trace(ds, 5)), strlen("0/0 1/1 2/2 3/3 4/4 5/5 6/6 7/7 8/8 9/9 10/0 11/1"));
    nw_dataset_free(ds);

    size_t size;
    uint8_t *file = load(in_root("mnist/train-images-idx3-ubyte.gz"), &size);
    put("mnist/train-images-idx3-ubyte.gz", file, size - 40);
    free(file);
    for (int workers = 0; workers <= 2; workers++) {
        ds = open_set(in_root("mnist:train"), NULL, workers);
        assert_fails(nw_dataset_next(ds, 30, &b), "the file is cut");
        assert_ok(nw_dataset_rewind(ds));
        assert_ok(nw_dataset_next(ds, 1, &b));
        nw_dataset_free(ds);
    }
    options = (nw_dataset_options){.preprocess = "mean=1:2:3"};
    assert_fails(nw_dataset_open(&ctx, in_root("mnist"), &options, &ds), "one channel");
    put_mnist("mnist/a.gz", "mnist/t10k-labels-idx1-ubyte", 7, 2, false);
    assert_fails(nw_dataset_open(&ctx, in_root("mnist"), NULL, &ds), "7 labels for 12 samples");
}

static void test_cifar_sets(void **state) {
    (void)state;
    folder("cifar");
    put_cifar("cifar/data_batch_1.bin", 3, 10);
    put_cifar("cifar/data_batch_2.bin", 2, 10);
    put_text("cifar/batches.meta.txt", "airplane\nautomobile\n");
    nw_dataset_options options = {.split = NW_SPLIT_TRAIN, .preprocess = "scale=2"};
    nw_dataset *ds;
    assert_ok(nw_dataset_open(&ctx, in_root("cifar"), &options, &ds));
    assert_string_equal(trace(ds, 4), "0/0 2/1 4/2 0/0 2/1");
    assert_string_equal(nw_dataset_class_name(ds, 1), "automobile");
    assert_int_equal(nw_dataset_class_count(ds), 10);
    nw_dataset_free(ds);
    assert_fails(nw_dataset_open(&ctx, in_root("cifar"), NULL, &ds), "none of the test set");
    put_cifar("cifar/data_batch_2.bin", 2, 100);
    assert_fails(nw_dataset_open(&ctx, in_root("cifar"), &options, &ds), "is CIFAR-100");
    put_cifar("cifar/data_batch_2.bin", 4, 10);
    ds = open_set(in_root("cifar/data_batch_2.bin"), NULL, 2);
    assert_string_equal(trace(ds, 3), "0/0 1/1 2/2 3/3");
    nw_dataset_free(ds);
}

static void test_arrays(void **state) {
    (void)state;
    const float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const int64_t ids[4] = {40, 41, 42, 43};
    nw_dataset_options options = nw_dataset_options_default();
    nw_dataset *ds;
    nw_batch b;
    char text[512];
    put_npy("x.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2)}", x, 32);
    put_npy("l.npy", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (4,)}", "\3\0\1\2", 4);
    put_npy("next.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2)}", x, 32);
    put_npy("half.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}",
            (float[]){0, 1, 0.5f, 1}, 16);
    put_npy("ids.npy", 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (4,)}", ids, 32);

    options.labels = in_root("l.npy");
    assert_ok(nw_dataset_open(&ctx, in_root("x.npy"), &options, &ds));
    assert_int_equal(nw_dataset_class_count(ds), 4);
    assert_string_equal(trace(ds, 3), "1/3 3/0 5/1 7/2");
    nw_dataset_free(ds);
    options.labels = in_root("next.npy");
    assert_ok(nw_dataset_open(&ctx, in_root("x.npy"), &options, &ds));
    assert_int_equal(nw_dataset_label_count(ds), 2);
    assert_ok(nw_dataset_next(ds, 3, &b));
    assert_true(b.labels[5] == 6);
    nw_dataset_free(ds);
    options.labels = in_root("half.npy");
    assert_fails(nw_dataset_open(&ctx, in_root("x.npy"), &options, &ds), "label 2 is 0.5");
    options.labels = in_root("absent.npy");
    assert_fails(nw_dataset_open(&ctx, in_root("x.npy"), &options, &ds), "absent.npy");
    options.labels = NULL;
    options.preprocess = "scale=1/255";
    assert_fails(nw_dataset_open(&ctx, in_root("x.npy"), &options, &ds), "preprocessing");
    options.preprocess = "none";
    assert_ok(nw_dataset_open(&ctx, in_root("x.npy"), &options, &ds));
    nw_dataset_free(ds);
    put_npy("s.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", x, 4);
    assert_fails(nw_dataset_open(&ctx, in_root("s.npy"), NULL, &ds), "must count the samples");

    const char *entries[] = {"tokens.npy", "labels.npy", "x.npy"}, *files[] = {"ids.npy", "l.npy", "x.npy"};
    for (int mode = 0; mode < 4; mode++) {
        put_npz("a.npz", 3, entries, files, mode & 1);
        options = (nw_dataset_options){.shuffle = mode >= 2, .skip = 1};
        assert_ok(nw_dataset_open(&ctx, in_root("a.npz"), &options, &ds));
        assert_int_equal(nw_dataset_input_count(ds), 2);
        if (mode == 0)
            assert_string_equal(
                nw_dataset_describe(ds, text, sizeof text),
                "npz arrays a.npz: 3 samples (from 1 of 4), tokens s64 [], x f32 [2], 4 classes");
        for (int pass = 0; pass < 2; pass++) {
            for (size_t n = 0; n < 3; n += b.count) {
                assert_ok(nw_dataset_next(ds, 2, &b));
                for (size_t k = 0; k < b.count; k++) {
                    size_t i = b.samples[k] + 1;
                    assert_int_equal(((int64_t *)b.inputs[0].data)[k], ids[i]);
                    assert_true(((float *)b.inputs[1].data)[2 * k + 1] == x[2 * i + 1]);
                    assert_int_equal(b.labels[k], "\3\0\1\2"[i]);
                }
            }
            assert_ok(nw_dataset_rewind(ds));
        }
        nw_dataset_free(ds);
    }
    put_npy("short.npy", 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (3,)}", ids, 24);
    put_npz("a.npz", 2, (const char *[]){"x.npy", "y.npy"}, (const char *[]){"x.npy", "short.npy"}, true);
    assert_fails(nw_dataset_open(&ctx, in_root("a.npz"), NULL, &ds), "array \"y\": has 3 samples");
    put_npz("a.npz", 1, (const char *[]){"label.npy"}, (const char *[]){"l.npy"}, true);
    assert_fails(nw_dataset_open(&ctx, in_root("a.npz"), NULL, &ds), "no input arrays");
}

static void test_from_arrays(void **state) {
    (void)state;
    float x[6] = {1, 2, 3, 4, 5, 6};
    int32_t labels[3] = {2, 1, 0};
    const char *names[2] = {"a", NULL};
    nw_tensor inputs[2] = {{.format = NW_F32, .rank = 2, .dims = {3, 2}, .data = x},
                           {.format = NW_S32, .rank = 1, .dims = {3}, .data = labels}};
    nw_dataset *ds;
    nw_batch b;
    char text[256];
    assert_ok(nw_dataset_from_arrays(&ctx, 2, names, inputs, &inputs[1], NULL, &ds));
    assert_string_equal(nw_dataset_describe(ds, text, sizeof text),
                        "arrays: 3 samples, a f32 [2], s32 [], 3 classes");
    assert_ok(nw_dataset_next(ds, 2, &b));
    assert_true(b.count == 2 && b.n_inputs == 2 && ((float *)b.inputs[0].data)[3] == 4 && b.labels[1] == 1);
    assert_int_equal((uintptr_t)b.inputs[0].data % NW_ALIGN, 0);
    nw_dataset_free(ds);
    inputs[1].dims[0] = 2;
    assert_fails(nw_dataset_from_arrays(&ctx, 2, names, inputs, NULL, NULL, &ds), "has 2 samples");
    assert_fails(nw_dataset_from_arrays(&ctx, 1, names, inputs, &inputs[1], NULL, &ds),
                 "2 labels for 3 samples");
    assert_fails(nw_dataset_from_arrays(&ctx, 0, NULL, NULL, NULL, NULL, &ds), "at least one");
    inputs[0].data = NULL;
    assert_fails(nw_dataset_from_arrays(&ctx, 1, NULL, inputs, NULL, NULL, &ds), "no data");
    nw_dataset_free(NULL);
}

/* Every allocation fails once: an error, no crash, no leak. */
static void test_memory_runs_out(void **state) {
    (void)state;
    make_list(6);
    put_mnist("m-images-idx3-ubyte.gz", "m-labels-idx1-ubyte.gz", 5, 4, true);
    put_cifar("c.bin", 3, 10);
    put_npy("x.npy", 1, "{'descr': '>f4', 'fortran_order': True, 'shape': (2, 2)}", (float[4]){1}, 16);
    put_npy("l2.npy", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", "\1\0", 2);
    put_npz("a.npz", 2, (const char *[]){"x.npy", "labels.npy"}, (const char *[]){"x.npy", "l2.npy"}, true);
    make_classes();
    static const char *const sets[] = {"list.csv", "m-images-idx3-ubyte.gz", "c.bin", "x.npy", "a.npz",
                                       "classes"};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int workers = 0; workers <= 2; workers += 2) {
            nw_status status = NW_E_MEMORY;
            for (long n = 0; status != NW_OK; n++) {
                nw_dataset_options options = {.workers = workers};
                nw_dataset *ds = NULL;
                nw_batch b = {.count = 1};
                if (i < 3 || i == 5) options.preprocess = "resize=8x7";
                allowed = n;
                status = nw_dataset_open(&ctx, in_root(sets[i]), &options, &ds);
                while (status == NW_OK && b.count) status = nw_dataset_next(ds, 2, &b);
                if (status == NW_OK) status = nw_dataset_rewind(ds);
                nw_dataset_free(ds);
                allowed = -1;
                assert_int_equal(live, 0);
                if (status != NW_OK && status != NW_E_MEMORY)
                    fail_msg("%s, allocation %ld: %s", sets[i], n, ctx.message);
                assert_true(n < 2000);
            }
        }
}

/* ---- real data */

static const char *real(const char *name) {
    static char path[1024];
    const char *data = getenv("NARROW_DATA");
    snprintf(path, sizeof path, "%s/%s", data ? data : "../shared/data", name);
    char file[1024];
    snprintf(file, sizeof file, "%s", path);
    if (strrchr(file, ':') > strrchr(file, '/')) *strrchr(file, ':') = 0;
    if (access(file, R_OK) != 0) {
        print_message("no %s: set NARROW_DATA to the folder of real data\n", file);
        skip();
    }
    return path;
}

/* Sums over the first image as Pillow 12 resizes and crops it. */
static void test_real_imagenet(void **state) {
    (void)state;
    nw_dataset *ds = open_set(real("imagenet/evaluation.csv"), "resize=256,crop=224", 2);
    nw_batch b;
    assert_int_equal(nw_dataset_count(ds), 200);
    assert_int_equal(nw_dataset_class_count(ds), 1000);
    assert_string_equal(nw_dataset_class_name(ds, 4), "hammerhead");
    assert_ok(nw_dataset_next(ds, 16, &b));
    assert_int_equal(b.count, 16);
    assert_int_equal(b.labels[0], 4);
    static const long sums[3] = {7585443, 6644327, 6093857};
    static const float last[3] = {124, 100, 84};
    const float *x = b.inputs->data;
    for (int c = 0; c < 3; c++) {
        double sum = 0;
        for (int i = 0; i < 224 * 224; i++) sum += (double)x[c * 224 * 224 + i];
        assert_true(sum == (double)sums[c]);
        assert_true(x[(c + 1) * 224 * 224 - 1] == last[c]);
    }
    nw_dataset_free(ds);
}

static void test_real_sets(void **state) {
    (void)state;
    nw_batch b;
    nw_dataset *ds = open_set(real("mnist:train"), "pad=2,scale=1/255", 2);
    assert_int_equal(nw_dataset_count(ds), 60000);
    size_t n = 0;
    do {
        assert_ok(nw_dataset_next(ds, 256, &b));
        n += b.count;
    } while (b.count);
    assert_int_equal(n, 60000);
    nw_dataset_free(ds);
    ds = open_set(real("cifar10/test-2000.bin"), "scale=1/255", 2);
    assert_int_equal(nw_dataset_count(ds), 2000);
    assert_int_equal(nw_dataset_class_count(ds), 10);
    nw_dataset_free(ds);
    char labels[1024];
    snprintf(labels, sizeof labels, "%s", real("speech/kws-labels.npy"));
    nw_dataset_options options = {.labels = labels, .skip = 200};
    assert_ok(nw_dataset_open(&ctx, real("speech/kwt-features.npy"), &options, &ds));
    assert_int_equal(nw_dataset_count(ds), 800);
    assert_int_equal(nw_dataset_input_at(ds, 0)->dims[1], 40);
    assert_true(nw_dataset_has_labels(ds));
    nw_dataset_free(ds);
}
int main(void) {
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_folder),          DATA_TEST(test_csv),           DATA_TEST(test_order_and_threads),
        DATA_TEST(test_shapes_change),   DATA_TEST(test_bad_images),    DATA_TEST(test_mnist),
        DATA_TEST(test_cifar_sets),      DATA_TEST(test_arrays),        DATA_TEST(test_from_arrays),
        DATA_TEST(test_memory_runs_out), DATA_TEST(test_real_imagenet), DATA_TEST(test_real_sets),
    };
    return run_data_tests(tests, "datasets");
}
