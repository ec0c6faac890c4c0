/* test_data.c: file formats, images and preprocessing of src/data. Fixtures are made in a temporary folder. */
#include "data/cifar.h"
#include "data/idx.h"
#include "data/image.h"
#include "data/npy.h"
#include "data/preprocess.h"

#include "./data/fixtures.h"

/* ---- npy */

static void test_npy_round_trip(void **state) {
    (void)state;
    static const nw_format formats[] = {NW_F32, NW_F64, NW_F16, NW_S8,  NW_S16,  NW_S32, NW_S64,
                                        NW_U8,  NW_U16, NW_U32, NW_U64, NW_BOOL, NW_C64, NW_C128};
    uint8_t data[24 * 16];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7 % 2);
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int rank = 0; rank <= 3; rank++) {
            nw_tensor t = {.format = formats[f], .rank = rank, .dims = {2, 3, 4}, .data = data};
            nw_npy npy;
            assert_ok(nw_npy_write(&ctx, in_root("a.npy"), &t));
            assert_ok(nw_npy_map(&ctx, in_root("a.npy"), &npy));
            assert_int_equal(npy.tensor.format, t.format);
            assert_true(nw_tensor_same_shape(&npy.tensor, &t));
            assert_memory_equal(npy.tensor.data, data, nw_tensor_bytes(&t));
            assert_true(npy.bytes->mapped); /* zero-copy */
            nw_npy_free(&npy);
        }
}

static void test_npy_widened(void **state) {
    (void)state;
    const float scale = 0.5f, reals[3] = {1.0f, -2.0f, 3.0f};
    nw_arena arena;
    nw_tensor t = {.format = NW_S4, .rank = 1, .dims = {3}, .data = (uint8_t[]){0xe1, 0x07}},
              r; /* 1, −2, 7 */
    nw_arena_init(&arena, &ctx);
    assert_ok(nw_npy_write(&ctx, in_root("a.npy"), &t));
    assert_ok(nw_npy_read(&arena, in_root("a.npy"), &r));
    assert_int_equal(r.format, NW_S8);
    assert_memory_equal(r.data, ((int8_t[]){1, -2, 7}), 3);

    uint16_t halves[3];
    for (int i = 0; i < 3; i++) halves[i] = nw_bf16_from_f32(reals[i]);
    t = (nw_tensor){.format = NW_BF16, .rank = 1, .dims = {3}, .data = halves};
    assert_ok(nw_npy_write(&ctx, in_root("a.npy"), &t));
    assert_ok(nw_npy_read(&arena, in_root("a.npy"), &r));
    assert_int_equal(r.format, NW_F32);
    assert_memory_equal(r.data, reals, sizeof reals);

    nw_qparam q = {
        .format = NW_S8, .grain = NW_GRAIN_TENSOR, .groups = 1, .scales = &scale, .qmin = -128, .qmax = 127};
    t = (nw_tensor){.format = NW_S8, .rank = 1, .dims = {3}, .data = (int8_t[]){2, -4, 6}, .qparam = &q};
    assert_ok(nw_npy_write(&ctx, in_root("a.npy"), &t));
    assert_ok(nw_npy_read(&arena, in_root("a.npy"), &r));
    assert_memory_equal(r.data, reals, sizeof reals);

    t = (nw_tensor){.format = NW_STR, .rank = 1, .dims = {0}, .data = halves};
    assert_fails(nw_npy_write(&ctx, in_root("never.npy"), &t), "string");
    assert_int_not_equal(access(in_root("never.npy"), F_OK), 0);
    nw_arena_free(&arena);
}

static void test_npy_layouts(void **state) {
    (void)state;
    nw_npy npy;
    const uint8_t big[4] = {0x01, 0x02, 0xff, 0xfe};
    assert_ok(nw_npy_map(
        &ctx, put_npy("a.npy", 1, "{'descr': '>i2', 'fortran_order': False, 'shape': (2,), }", big, 4),
        &npy));
    assert_memory_equal(npy.tensor.data, ((int16_t[]){0x0102, -2}), 4);
    nw_npy_free(&npy);

    const float columns[6] = {1, 4, 2, 5, 3, 6}; /* [[1,2,3],[4,5,6]] */
    const float rows[6] = {1, 2, 3, 4, 5, 6};
    for (int version = 1; version <= 3; version++) {
        const char *text = "{\"shape\": (2L, 3L), \"fortran_order\": True, \"descr\": \"<f4\"}";
        assert_ok(nw_npy_map(&ctx, put_npy("a.npy", version, text, columns, 24), &npy));
        assert_int_equal(npy.tensor.rank, 2);
        assert_memory_equal(npy.tensor.data, rows, 24);
        nw_npy_free(&npy);
    }
    assert_ok(nw_npy_map(
        &ctx, put_npy("a.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", rows, 4), &npy));
    assert_int_equal(npy.tensor.rank, 0);
    nw_npy_free(&npy);
    nw_npy_free(&npy);
    nw_npy_free(NULL);
    assert_ok(nw_npy_map(
        &ctx, put_npy("a.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3)}", rows, 0),
        &npy));
    assert_int_equal(nw_tensor_count(&npy.tensor), 0);
    nw_npy_free(&npy);
}

static void test_npy_broken(void **state) {
    (void)state;
    static const struct {
        const char *dict, *part;
    } cases[] = {
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "'|O'"},
        {"{'descr': '<U5', 'fortran_order': False, 'shape': (2,)}", "not supported"},
        {"{'descr': '<V2', 'fortran_order': False, 'shape': (2,)}", "astype"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", "structures"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", "cut"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", "whole numbers"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}",
         "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000000000, 0, 4)}", "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "dimensions"},
        {"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}", "fortran_order"},
        {"{'descr': '<f4', 'shape': (1,)}", "lacks"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "unknown entry"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", "dictionary"},
        {"", "empty"},
    };
    nw_npy npy;
    const float data[2] = {1, 2};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(nw_npy_map(&ctx, put_npy("b.npy", 1, cases[i].dict, data, 8), &npy), cases[i].part);
    assert_fails(nw_npy_map(&ctx, in_root("absent.npy"), &npy), "absent.npy");
    assert_fails(nw_npy_map(&ctx, put_text("b.npy", "hello, this is no array"), &npy), "NumPy");
    assert_fails(nw_npy_map(&ctx, put("b.npy", "\x93NUMPY\x09\0\0\0\0\0", 12), &npy), "version 9");

    uint8_t file[512], bent[512];
    size_t size = npy_file(file, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", data, 8);
    for (size_t n = 0; n < size; n++) {
        assert_int_not_equal(nw_npy_map(&ctx, put("b.npy", file, n), &npy), NW_OK);
        for (int k = 1; k < 256; k = k * 2 + 1) { /* any byte may be wrong: no crash, no leak */
            memcpy(bent, file, size);
            bent[n] ^= (uint8_t)k;
            if (nw_npy_map(&ctx, put("b.npy", bent, size), &npy) == NW_OK) nw_npy_free(&npy);
        }
    }
}

static void test_npz(void **state) {
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6};
    float got[6];
    put_npy("x.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}", x, 24);
    put_npy("f.npy", 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2)}", x, 24);
    put_npy("b.npy", 1, "{'descr': '>i2', 'fortran_order': False, 'shape': (2,)}", "\0\1\0\2", 4);
    const char *entries[] = {"x.npy", "readme.txt", "f.npy", "b.npy"},
               *files[] = {"x.npy", "x.npy", "f.npy", "b.npy"};
    for (int deflate = 0; deflate < 2; deflate++) {
        nw_npz *npz;
        nw_npz_stream *stream;
        nw_npy npy;
        put_npz("a.npz", 4, entries, files, deflate);
        assert_ok(nw_npz_open(&ctx, in_root("a.npz"), &npz));
        assert_int_equal(nw_npz_count(npz), 3);
        assert_string_equal(nw_npz_name(npz, 1), "f");
        assert_int_equal(nw_npz_find(npz, "b"), 2);
        assert_int_equal(nw_npz_find(npz, "none"), 3);
        assert_ok(nw_npz_read(npz, 0, &npy));
        assert_memory_equal(npy.tensor.data, x, 24);
        nw_npy_free(&npy);
        assert_ok(nw_npz_read(npz, 1, &npy));
        assert_memory_equal(npy.tensor.data, ((float[]){1, 4, 2, 5, 3, 6}), 24);
        nw_npy_free(&npy);
        assert_ok(nw_npz_read(npz, 2, &npy));
        assert_memory_equal(npy.tensor.data, ((int16_t[]){1, 2}), 4);
        nw_npy_free(&npy);
        assert_ok(nw_npz_stream_open(npz, 0, &stream));
        assert_int_equal(nw_npz_stream_shape(stream)->dims[0], 3);
        assert_ok(nw_npz_stream_skip(stream, 8));
        assert_ok(nw_npz_stream_read(stream, got, 8));
        assert_true(got[0] == 3 && got[1] == 4);
        assert_fails(nw_npz_stream_read(stream, got, 16), "end");
        nw_npz_stream_free(stream);
        assert_fails(nw_npz_stream_open(npz, 1, &stream), "Fortran");
        nw_npz_free(npz);
    }
    nw_npz_free(NULL);
}

static void test_npz_broken(void **state) {
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6};
    const char *entries[] = {"x.npy"}, *files[] = {"x.npy"};
    nw_npz *npz;
    nw_npy npy;
    size_t size;
    assert_fails(nw_npz_open(&ctx, put_text("a.npz", "not a zip"), &npz), "a.npz");
    assert_fails(nw_npz_open(&ctx, in_root("absent.npz"), &npz), "absent.npz");
    put_npy("x.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}", x, 24);
    put_npz("a.npz", 1, entries, files, false);
    uint8_t *file = load(in_root("a.npz"), &size);
    for (size_t n = 0; n < size; n++)
        for (int k = 0; k < 3; k++) {
            file[n] ^= (uint8_t)(0x81 >> k);
            if (nw_npz_open(&ctx, put("b.npz", file, size), &npz) == NW_OK) {
                if (nw_npz_count(npz) && nw_npz_read(npz, 0, &npy) == NW_OK) nw_npy_free(&npy);
                nw_npz_free(npz);
            }
            file[n] ^= (uint8_t)(0x81 >> k);
        }
    for (size_t n = 0; n < size; n += 3)
        assert_int_not_equal(nw_npz_open(&ctx, put("b.npz", file, n), &npz), NW_OK);
    for (size_t i = 0; i + 24 <= size; i++) /* the elements, stored: the checksum notices */
        if (memcmp(file + i, x, 24) == 0) file[i] ^= 1;
    assert_ok(nw_npz_open(&ctx, put("b.npz", file, size), &npz));
    assert_fails(nw_npz_read(npz, 0, &npy), "damaged");
    nw_npz_free(npz);
    free(file);
}

/* ---- idx and CIFAR */

static void test_idx(void **state) {
    (void)state;
    uint8_t got[4];
    for (int gz = 0; gz < 2; gz++) {
        nw_idx idx;
        put_mnist("i.gz", "l.gz", 5, 2, gz);
        assert_ok(nw_idx_open(&ctx, in_root("i.gz"), &idx));
        assert_int_equal(idx.shape.rank, 3);
        assert_int_equal(idx.shape.dims[0], 5);
        assert_ok(nw_idx_skip(&idx, 12));
        assert_ok(nw_idx_next(&idx, 4, got));
        assert_int_equal(got[0], 3);
        assert_fails(nw_idx_next(&idx, 5, got), "end");
        assert_ok(nw_idx_rewind(&idx));
        assert_ok(nw_idx_next(&idx, 4, got));
        assert_int_equal(got[3], 0);
        nw_idx_close(&idx);
    }
    nw_arena arena;
    nw_tensor t;
    nw_arena_init(&arena, &ctx);
    assert_ok(nw_idx_read(&arena, put("a.idx", "\0\0\x0b\1\0\0\0\2\1\2\xff\xff", 12), &t));
    assert_memory_equal(t.data, ((int16_t[]){0x102, -1}), 4);
    assert_fails(nw_idx_read(&arena, put("a.idx", "\0\0\x0b\1\0\0\0\2\1\2\xff", 11), &t), "cut");
    assert_fails(nw_idx_read(&arena,
                             put("a.idx", "\0\0\x08\3\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16),
                             &t),
                 "large");
    assert_fails(nw_idx_read(&arena, put("a.idx", "\0\0\x0a\1\0\0\0\1\1", 9), &t), "not an idx file");
    assert_fails(nw_idx_read(&arena, put("a.idx", "", 0), &t), "not an idx file");
    assert_fails(nw_idx_read(&arena, root, &t), "regular");
    size_t size;
    put_mnist("i.gz", "l.gz", 5, 2, true);
    uint8_t *file = load(in_root("i.gz"), &size);
    for (size_t n = 0; n < size; n++)
        assert_int_not_equal(nw_idx_read(&arena, put("b.gz", file, n), &t), NW_OK);
    if (size < 8) fail();
    file[size - 6] ^= 1; /* gzip's checksum */
    assert_fails(nw_idx_read(&arena, put("b.gz", file, size), &t), "data check");
    free(file);
    nw_arena_free(&arena);
}

static void test_cifar(void **state) {
    (void)state;
    nw_cifar c;
    nw_image image;
    for (int classes = 10; classes <= 100; classes += 90) {
        put_cifar("c.bin", 12, classes);
        assert_ok(nw_cifar_open(&ctx, in_root("c.bin"), &c));
        assert_int_equal(c.classes, classes);
        assert_int_equal(c.count, 12);
        assert_int_equal(nw_cifar_label(&c, 11), 11 % classes);
        assert_ok(nw_cifar_image(&ctx, &c, 11, &image));
        assert_memory_equal(image.pixels + 3071 - 2, ((uint8_t[]){11, 12, 13}), 3);
        nw_image_free(&ctx, &image);
        nw_cifar_close(&c);
    }
    put_cifar("c.bin", 3073, 100); /* the size fits both */
    assert_ok(nw_cifar_open(&ctx, in_root("c.bin"), &c));
    assert_int_equal(c.classes, 100);
    nw_cifar_close(&c);
    put_cifar("c.bin", 3074, 10);
    assert_ok(nw_cifar_open(&ctx, in_root("c.bin"), &c));
    assert_int_equal(c.classes, 10);
    nw_cifar_close(&c);
    uint8_t record[3073] = {10};
    assert_fails(nw_cifar_open(&ctx, put("c.bin", record, 3073), &c), "record 0 has label 10");
    assert_fails(nw_cifar_open(&ctx, put("c.bin", record, 3000), &c), "multiple of 3073");
    assert_fails(nw_cifar_open(&ctx, put("c.bin", record, 0), &c), "not a CIFAR");
}

/* ---- images */

static void test_image_formats(void **state) {
    (void)state;
    nw_image image;
    const uint8_t rgba[8] = {1, 2, 3, 4, 5, 6, 7, 8}, gray[2] = {9, 10}, deep[4] = {0x12, 0x34, 0xab, 0xcd};
    put_png_as("a.png", 2, 1, SPNG_COLOR_TYPE_TRUECOLOR_ALPHA, 8, rgba, 8);
    assert_ok(nw_image_read(&ctx, in_root("a.png"), &image));
    assert_int_equal(image.channels, 3);
    assert_memory_equal(image.pixels, ((uint8_t[]){1, 2, 3, 5, 6, 7}), 6);
    nw_image_free(&ctx, &image);
    put_png_as("a.png", 1, 2, SPNG_COLOR_TYPE_GRAYSCALE, 8, gray, 2);
    assert_ok(nw_image_read(&ctx, in_root("a.png"), &image));
    assert_int_equal(image.height, 2);
    assert_memory_equal(image.pixels, ((uint8_t[]){9, 9, 9, 10, 10, 10}), 6);
    nw_image_free(&ctx, &image);
    put_png_as("a.png", 2, 1, SPNG_COLOR_TYPE_GRAYSCALE, 16, deep, 4);
    assert_ok(nw_image_read(&ctx, in_root("a.png"), &image));
    nw_image_free(&ctx, &image);

    uint8_t pixels[16 * 16 * 4];
    memset(pixels, 200, sizeof pixels);
    put_jpeg("a.jpg", 16, 16, TJPF_RGB, TJSAMP_420, pixels);
    assert_ok(nw_image_read(&ctx, in_root("a.jpg"), &image));
    assert_int_equal(image.width, 16);
    assert_int_equal(image.pixels[100], 200);
    nw_image_free(&ctx, &image);
    put_jpeg("a.jpg", 16, 16, TJPF_GRAY, TJSAMP_GRAY, pixels);
    assert_ok(nw_image_read(&ctx, in_root("a.jpg"), &image));
    assert_int_equal(image.channels, 3);
    assert_int_equal(image.pixels[100], 200);
    nw_image_free(&ctx, &image);
    put_jpeg("a.jpg", 16, 16, TJPF_CMYK, TJSAMP_444, pixels);
    assert_ok(nw_image_read(&ctx, in_root("a.jpg"), &image));
    assert_in_range(image.pixels[100], 155, 158); /* 200 − 55·200/255 */
    nw_image_free(&ctx, &image);
}

static void test_image_broken(void **state) {
    (void)state;
    nw_image image;
    uint8_t pixels[32 * 24 * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * i >> 4);
    put_jpeg("a.jpg", 32, 24, TJPF_RGB, TJSAMP_420, pixels);
    put_png_as("a.png", 32, 24, SPNG_COLOR_TYPE_TRUECOLOR, 8, pixels, sizeof pixels);
    static const char *const names[] = {"a.jpg", "a.png"};
    for (int f = 0; f < 2; f++) {
        size_t size;
        uint8_t *file = load(in_root(names[f]), &size);
        size_t whole = f ? size - 20 : size - 2; /* PNG's checksum and IEND, JPEG's EOI hold no pixels */
        for (size_t n = 0; n < whole; n += f ? 7 : 5) {
            nw_status status = nw_image_decode(&ctx, names[f], file, n, &image);
            if (status == NW_OK) nw_image_free(&ctx, &image);
            if (status == NW_OK) fail_msg("%s is accepted with %zu of %zu bytes", names[f], n, size);
            assert_non_null(strstr(ctx.message, names[f]));
        }
        for (size_t n = 0; n < size; n++) {
            file[n] ^= 0x55;
            if (nw_image_decode(&ctx, names[f], file, size, &image) == NW_OK) nw_image_free(&ctx, &image);
            file[n] ^= 0x55;
        }
        free(file);
    }
    /* An announced 60000×60000 image in a few bytes takes no memory. */
    uint8_t png[57] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0";
    put_big_endian(png + 29, (uint32_t)crc32(0, png + 12, 17));
    assert_fails(nw_image_decode(&ctx, "big.png", png, sizeof png, &image), "too large");
    put_big_endian(png + 16, 8000);
    put_big_endian(png + 20, 8000);
    put_big_endian(png + 29, (uint32_t)crc32(0, png + 12, 17));
    assert_fails(nw_image_decode(&ctx, "big.png", png, sizeof png, &image), "cannot be in 57 bytes");
    assert_fails(nw_image_decode(&ctx, "x.gif", (const uint8_t *)"GIF89a..", 8, &image),
                 "neither JPEG nor PNG");
    assert_fails(nw_image_read(&ctx, put("e.jpg", "", 0), &image), "empty");
}

/* Expected values are Pillow's, of Image.resize on mode L. */
static void test_resize(void **state) {
    (void)state;
    static const uint8_t small[3][12] = {{44, 110, 164, 147, 134, 143, 127, 146, 154, 114, 127, 147},
                                         {35, 113, 168, 144, 140, 146, 126, 145, 159, 109, 126, 151},
                                         {0, 74, 148, 222, 106, 224, 86, 204, 212, 118, 24, 186}};
    static const uint8_t large[3][54] = {
        {0,   25,  53,  82,  111, 140, 169, 197, 222, 40,  70,  105, 141, 176, 211, 139, 89,  119,
         84,  120, 162, 172, 98,  140, 123, 118, 154, 128, 170, 172, 130, 63,  112, 162, 176, 147,
         172, 178, 128, 78,  135, 141, 184, 176, 97,  212, 95,  73,  136, 199, 63,  69,  132, 186},
        {0,   20,  50,  79,  108, 136, 171, 206, 229, 36,  65,  101, 140, 190, 240, 136, 65,  109,
         81,  116, 179, 195, 93,  140, 111, 106, 163, 124, 184, 194, 130, 45,  100, 175, 192, 150,
         174, 196, 125, 53,  138, 148, 207, 187, 77,  222, 82,  51,  145, 202, 47,  48,  135, 195},
        {0,   37,  37,  74,  111, 148, 185, 185, 222, 53,  101, 101, 149, 197, 245, 37,  37,  85,
         106, 165, 165, 224, 27,  86,  145, 145, 204, 106, 165, 165, 224, 27,  86,  145, 145, 204,
         159, 229, 229, 43,  113, 183, 253, 253, 67,  212, 37,  37,  118, 199, 24,  105, 105, 186}};
    nw_image gray, rgb, out;
    assert_ok(nw_image_new(&ctx, 7, 5, 1, &gray));
    for (int i = 0; i < 35; i++) gray.pixels[i] = (uint8_t)(i % 7 * 37 + i / 7 * 53 + i % 7 * (i / 7) * 11);
    assert_ok(nw_image_to_rgb(&ctx, &gray, &rgb));
    for (int f = 0; f < 3; f++) {
        assert_ok(nw_image_resize(&ctx, &gray, 4, 3, (nw_filter)f, &out));
        assert_memory_equal(out.pixels, small[f], 12);
        nw_image_free(&ctx, &out);
        assert_ok(nw_image_resize(&ctx, &gray, 9, 6, (nw_filter)f, &out));
        assert_memory_equal(out.pixels, large[f], 54);
        nw_image_free(&ctx, &out);
        assert_ok(nw_image_resize(&ctx, &rgb, 9, 6, (nw_filter)f, &out));
        for (int i = 0; i < 54 * 3; i++) assert_int_equal(out.pixels[i], large[f][i / 3]);
        nw_image_free(&ctx, &out);
        assert_ok(nw_image_resize(&ctx, &rgb, 7, 5, (nw_filter)f, &out));
        assert_memory_equal(out.pixels, rgb.pixels, 105);
        nw_image_free(&ctx, &out);
    }
    assert_fails(nw_image_resize(&ctx, &rgb, 65535, 65535, NW_FILTER_BILINEAR, &out), "too large");
    nw_image_free(&ctx, &gray);
    nw_image_free(&ctx, &rgb);
}

/* ---- preprocessing */

static void test_preprocess_text(void **state) {
    (void)state;
    static const char *const same[] = {
        "none",
        "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225",
        "color=bgr,resize=320x240,filter=bicubic,pad=4,crop=224x200,scale=0.5,mean=0.5,std=2,layout=nhwc",
        "scale=0.00392156862745098",
        "color=gray,filter=nearest",
        "scale=2/255,mean=1",
    };
    nw_preprocess p;
    char text[NW_PREPROCESS_TEXT];
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        assert_ok(nw_preprocess_parse(&ctx, same[i], &p));
        assert_string_equal(nw_preprocess_describe(&p, text, sizeof text), same[i]);
    }
    assert_ok(nw_preprocess_parse(&ctx, "imagenet", &p));
    assert_string_equal(nw_preprocess_describe(&p, text, sizeof text), same[1]);
    assert_ok(nw_preprocess_parse(&ctx, "imagenet,resize=232,layout=nhwc", &p));
    assert_int_equal(p.resize_width, 232);
    assert_true(p.nhwc && p.means == 3);
    assert_ok(nw_preprocess_parse(&ctx, "layout=nchw,crop=10x10,color=rgb", &p));
    assert_string_equal(nw_preprocess_describe(&p, text, sizeof text), "color=rgb,crop=10");
    assert_string_equal(nw_preprocess_describe(&p, text, 6), "color");
}

static void test_preprocess_errors(void **state) {
    (void)state;
    static const struct {
        const char *spec, *part;
    } cases[] = {
        {"", "empty"},
        {"imagenett", "character 1: \"imagenett\": expected KEY=VALUE"},
        {"crop=224,imagenet", "character 10: \"imagenet\": a preset must come first"},
        {"imagenet,imagenet", "must come first"},
        {"crop=224,sclae=1",
         "character 10: \"sclae=1\": unknown key; there are color, resize, filter, pad, crop, scale"},
        {"crop=224,crop=10", "character 10: \"crop=10\": this key was given before"},
        {"crop=", "character 6: \"\": expected crop=N or crop=WxH"},
        {"crop=224x", "expected crop=N"},
        {"crop=0", "expected crop=N"},
        {"crop=12a", "character 8: \"a\""},
        {"crop=99999999999", "expected crop=N"},
        {"resize=abc", "the shorter side"},
        {"resize=-5", "the shorter side"},
        {"pad=5000", "at most 4096"},
        {"scale=1/0", "fraction"},
        {"scale=nan", "fraction"},
        {"scale=0", "fraction"},
        {"scale=1e999", "fraction"},
        {"scale=1/255/3", "fraction"},
        {"mean=1:2", "1 value or 3"},
        {"mean=1:2:3:4", "character 12: \"4\": at most 3"},
        {"mean=1;2;3", "separate channels by ':'"},
        {"mean=", "expected a number"},
        {"mean=1:", "expected a number"},
        {"std=0", "greater than 0"},
        {"std=1:1:-1", "character 9: \"-1\": must be greater than 0"},
        {"color=red", "rgb, bgr or gray"},
        {"color=", "rgb, bgr or gray"},
        {"layout=chw", "nchw or nhwc"},
        {"filter=cubic", "bilinear, bicubic or nearest"},
        {"crop=224,", "nothing follows the last comma"},
        {",crop=224", "character 1"},
        {"none,,", "character 6"},
    };
    nw_preprocess p;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(nw_preprocess_parse(&ctx, cases[i].spec, &p), cases[i].part);
}

/* Runs `spec` on a copy of the image; the result is to be freed. */
static float *preprocess(const char *spec, int width, int height, int channels, const uint8_t *pixels,
                         int64_t dims[3]) {
    nw_preprocess p;
    nw_image image;
    assert_ok(nw_preprocess_parse(&ctx, spec, &p));
    assert_ok(nw_image_new(&ctx, width, height, channels, &image));
    memcpy(image.pixels, pixels, (size_t)width * (size_t)height * (size_t)channels);
    assert_ok(nw_preprocess_shape(&ctx, &p, width, height, channels, dims));
    float *out = malloc((size_t)(dims[0] * dims[1] * dims[2]) * sizeof *out);
    assert_ok(nw_preprocess_apply(&ctx, &p, &image, out));
    assert_null(image.pixels);
    return out;
}

static void check_preprocess(const char *spec, int width, int height, int channels, const uint8_t *pixels,
                             int64_t a, int64_t b, int64_t c, const float *expected) {
    int64_t dims[3];
    float *out = preprocess(spec, width, height, channels, pixels, dims);
    assert_true(dims[0] == a && dims[1] == b && dims[2] == c);
    for (int64_t i = 0; i < a * b * c; i++)
        if (out[i] != expected[i])
            fail_msg("%s: element %d is %.9g, not %.9g", spec, (int)i, (double)out[i], (double)expected[i]);
    free(out);
}

static void test_preprocess_arithmetic(void **state) {
    (void)state;
    const uint8_t two[6] = {200, 100, 50, 10, 20, 30}; /* two pixels */
    check_preprocess("none", 2, 1, 3, two, 3, 1, 2, (float[]){200, 10, 100, 20, 50, 30});
    check_preprocess("layout=nhwc", 2, 1, 3, two, 1, 2, 3, (float[]){200, 100, 50, 10, 20, 30});
    check_preprocess("color=bgr,layout=nhwc", 2, 1, 3, two, 1, 2, 3, (float[]){50, 100, 200, 30, 20, 10});
    check_preprocess("color=bgr,mean=1:2:3", 2, 1, 3, two, 3, 1, 2, (float[]){49, 29, 98, 18, 197, 7});
    check_preprocess("color=gray", 2, 1, 3, two, 1, 1, 2, (float[]){124, 18}); /* Pillow's convert("L") */
    check_preprocess("scale=2,mean=10,std=4", 2, 1, 3, two, 3, 1, 2,
                     (float[]){97.5, 2.5, 47.5, 7.5, 22.5, 12.5});
    check_preprocess("mean=1:2:3,std=1:2:4", 1, 1, 3, two, 3, 1, 1, (float[]){199, 49, 11.75});
    const float m = 0.485f, s = 0.229f;
    check_preprocess("scale=1/255,mean=0.485,std=0.229", 1, 1, 1, two, 1, 1, 1,
                     (float[]){(200.0f / 255.0f - m) / s});

    const uint8_t grid[20] = {0,  1,  2,  3,  4,  10, 11, 12, 13, 14,
                              20, 21, 22, 23, 24, 30, 31, 32, 33, 34};                   /* [4,5] */
    check_preprocess("color=rgb,crop=1", 5, 4, 1, grid, 3, 1, 1, (float[]){22, 22, 22}); /* round(1.5) = 2 */
    check_preprocess("crop=2", 5, 4, 1, grid, 1, 2, 2,
                     (float[]){12, 13, 22, 23}); /* 1 down; 1.5 → 2 across */
    check_preprocess("crop=4x3", 5, 4, 1, grid, 1, 3, 4,
                     (float[]){0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23});
    check_preprocess("pad=1,scale=2,mean=1", 1, 1, 1, (uint8_t[]){5}, 1, 3, 3,
                     (float[]){-1, -1, -1, -1, 9, -1, -1, -1, -1});
    check_preprocess("pad=1,crop=7x2", 5, 4, 1, grid, 1, 2, 7,
                     (float[]){0, 10, 11, 12, 13, 14, 0, 0, 20, 21, 22, 23, 24, 0});
    check_preprocess("resize=3x2,filter=nearest", 5, 4, 1, grid, 1, 2, 3, (float[]){10, 12, 14, 30, 32, 34});

    nw_preprocess p;
    int64_t dims[3];
    assert_ok(nw_preprocess_parse(&ctx, "resize=256", &p));
    assert_ok(nw_preprocess_shape(&ctx, &p, 333, 500, 3, dims)); /* int(256·500/333) = 384 */
    assert_true(dims[0] == 3 && dims[1] == 384 && dims[2] == 256);
    assert_ok(nw_preprocess_shape(&ctx, &p, 500, 333, 3, dims));
    assert_true(dims[1] == 256 && dims[2] == 384);
    assert_ok(nw_preprocess_shape(&ctx, &p, 0, 0, 3, dims));
    assert_true(dims[1] == -1 && dims[2] == -1);
    assert_fails(nw_preprocess_shape(&ctx, &p, 100000, 1, 3, dims), "too large");
    assert_ok(nw_preprocess_parse(&ctx, "crop=224", &p));
    assert_fails(nw_preprocess_shape(&ctx, &p, 300, 100, 3, dims),
                 "crop=224x224 is larger than the image (300x100)");
    assert_ok(nw_preprocess_parse(&ctx, "mean=1:2:3", &p));
    assert_fails(nw_preprocess_shape(&ctx, &p, 28, 28, 1, dims), "one channel");
}
int main(void) {
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_npy_round_trip),
        DATA_TEST(test_npy_widened),
        DATA_TEST(test_npy_layouts),
        DATA_TEST(test_npy_broken),
        DATA_TEST(test_npz),
        DATA_TEST(test_npz_broken),
        DATA_TEST(test_idx),
        DATA_TEST(test_cifar),
        DATA_TEST(test_image_formats),
        DATA_TEST(test_image_broken),
        DATA_TEST(test_resize),
        DATA_TEST(test_preprocess_text),
        DATA_TEST(test_preprocess_errors),
        DATA_TEST(test_preprocess_arithmetic),
    };
    return run_data_tests(tests, "data");
}
