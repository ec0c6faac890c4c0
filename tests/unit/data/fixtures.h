/* fixtures.h: small files of every format, written into a temporary folder, for tests of src/data; and a
 * context that counts its memory. Included once by a test program, which need not use all of it. */
#ifndef NW_TEST_DATA_FIXTURES_H
#define NW_TEST_DATA_FIXTURES_H

#include "base/context.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <spng.h>
#include <turbojpeg.h>
#include <zip.h>
#include <zlib.h>

/* ---- a context whose memory is counted and can be made to run out */

static long live, allowed = -1; /* blocks held; allocations left before failure, −1: no limit */

static inline void *counted_alloc(void *user, size_t size) {
    (void)user;
    void *ptr = NULL;
    if (__atomic_load_n(&allowed, __ATOMIC_RELAXED) >= 0 &&
        __atomic_sub_fetch(&allowed, 1, __ATOMIC_RELAXED) < 0) {
        __atomic_store_n(&allowed, 0, __ATOMIC_RELAXED);
        return NULL;
    }
    if (size > (size_t)1 << 30 || posix_memalign(&ptr, NW_ALIGN, size ? size : 1) != 0) return NULL;
    __atomic_add_fetch(&live, 1, __ATOMIC_RELAXED);
    return ptr;
}

static inline void counted_release(void *user, void *ptr) {
    (void)user;
    free(ptr);
    __atomic_sub_fetch(&live, 1, __ATOMIC_RELAXED);
}

static nw_context ctx;
static char warnings[4096];

static inline void keep_warning(void *user, const char *line) {
    (void)user;
    snprintf(warnings + strlen(warnings), sizeof warnings - strlen(warnings), "%s\n", line);
}

static inline int start(void **state) {
    (void)state;
    const nw_allocator counted = {counted_alloc, counted_release, NULL};
    live = 0;
    allowed = -1;
    warnings[0] = 0;
    nw_context_init(&ctx, &counted);
    ctx.warn = keep_warning;
    return 0;
}

static inline int finish(void **state) {
    (void)state;
    return live != 0; /* a leak fails the test */
}

#define assert_ok(expr)                                                                                      \
    do {                                                                                                     \
        nw_status ok_status_ = (expr);                                                                       \
        if (ok_status_ != NW_OK) fail_msg("%s: %s", #expr, ctx.message);                                     \
    } while (0)

/* Fails, with a message that contains `part`. */
#define assert_fails(expr, part)                                                                             \
    do {                                                                                                     \
        ctx.message[0] = 0;                                                                                  \
        assert_int_not_equal((expr), NW_OK);                                                                 \
        if (!strstr(ctx.message, part)) fail_msg("%s: \"%s\" lacks \"%s\"", #expr, ctx.message, part);       \
    } while (0)

/* ---- fixtures */

static char root[64];

static inline const char *in_root(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static inline const char *put(const char *name, const void *data, size_t size) {
    const char *path = in_root(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (size) assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
    return path;
}

static inline const char *put_text(const char *name, const char *text) {
    return put(name, text, strlen(text));
}
static inline void folder(const char *name) {
    mkdir(in_root(name), 0777);
}

static inline uint8_t *load(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*size + 1);
    assert_int_equal(fread(data, 1, *size, f), *size);
    fclose(f);
    return data;
}

static inline void put_png_as(const char *name, uint32_t w, uint32_t h, uint8_t type, uint8_t depth,
                              const uint8_t *pixels, size_t size) {
    spng_ctx *png = spng_ctx_new(SPNG_CTX_ENCODER);
    struct spng_ihdr head = {.width = w, .height = h, .color_type = type, .bit_depth = depth};
    int code;
    size_t length;
    spng_set_option(png, SPNG_ENCODE_TO_BUFFER, 1);
    spng_set_ihdr(png, &head);
    assert_int_equal(spng_encode_image(png, pixels, size, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE), 0);
    void *data = spng_get_png_buffer(png, &length, &code);
    assert_non_null(data);
    put(name, data, length);
    free(data);
    spng_ctx_free(png);
}

/* A plain RGB PNG whose every pixel is (value, 2·value, 7). */
static inline void put_png(const char *name, uint32_t w, uint32_t h, int value) {
    uint8_t *pixels = malloc((size_t)w * h * 3);
    for (size_t i = 0; i < (size_t)w * h; i++) {
        pixels[i * 3] = (uint8_t)value;
        pixels[i * 3 + 1] = (uint8_t)(2 * value);
        pixels[i * 3 + 2] = 7;
    }
    put_png_as(name, w, h, SPNG_COLOR_TYPE_TRUECOLOR, 8, pixels, (size_t)w * h * 3);
    free(pixels);
}

static inline void put_jpeg(const char *name, int w, int h, int format, int sampling, const uint8_t *pixels) {
    tjhandle tj = tjInitCompress();
    unsigned char *data = NULL;
    unsigned long size = 0;
    assert_int_equal(tjCompress2(tj, pixels, w, 0, h, format, &data, &size, sampling, 95, 0), 0);
    put(name, data, size);
    tjFree(data);
    tjDestroy(tj);
}

/* A .npy of any version and header text. */
static inline size_t npy_file(uint8_t *out, int version, const char *dict, const void *elements,
                              size_t bytes) {
    size_t head = version == 1 ? 10 : 12, length = strlen(dict) + 1;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)version;
    out[7] = 0;
    for (size_t i = 0; i < head - 8; i++) out[8 + i] = (uint8_t)(length >> (8 * i));
    memcpy(out + head, dict, length - 1);
    out[head + length - 1] = '\n';
    memcpy(out + head + length, elements, bytes);
    return head + length + bytes;
}

static inline const char *put_npy(const char *name, int version, const char *dict, const void *elements,
                                  size_t bytes) {
    uint8_t file[4096];
    return put(name, file, npy_file(file, version, dict, elements, bytes));
}

static inline void put_big_endian(uint8_t *out, uint32_t n) {
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(n >> (24 - 8 * i));
}

/* MNIST files: images[i] is filled with i, labels are i % 10. */
static inline void put_mnist(const char *images, const char *labels, int count, int side, bool gz) {
    size_t size = (size_t)(count * side * side);
    uint8_t *data = calloc(1, 16 + size), head[8] = {0, 0, 8, 1};
    data[2] = 8;
    data[3] = 3;
    put_big_endian(data + 4, (uint32_t)count);
    put_big_endian(data + 8, (uint32_t)side);
    put_big_endian(data + 12, (uint32_t)side);
    for (size_t i = 0; i < size; i++) data[16 + i] = (uint8_t)(i / (size_t)(side * side));
    const char *mode = gz ? "wb6" : "wbT";
    gzFile f = gzopen(in_root(images), mode);
    gzwrite(f, data, (unsigned)(16 + size));
    gzclose(f);
    put_big_endian(head + 4, (uint32_t)count);
    for (int i = 0; i < count; i++) data[i] = (uint8_t)(i % 10);
    f = gzopen(in_root(labels), mode);
    gzwrite(f, head, 8);
    gzwrite(f, data, (unsigned)count);
    gzclose(f);
    free(data);
}

/* CIFAR records: planes of record i are i, i+1, i+2 mod 256. */
static inline void put_cifar(const char *name, int count, int classes) {
    size_t head = classes == 10 ? 1 : 2, record = head + 3072;
    uint8_t *data = calloc((size_t)count, record);
    for (int i = 0; i < count; i++) {
        uint8_t *r = data + (size_t)i * record;
        r[head - 1] = (uint8_t)(i % classes);
        for (int c = 0; c < 3; c++) memset(r + head + c * 1024, i + c, 1024);
    }
    put(name, data, (size_t)count * record);
    free(data);
}

static inline void put_npz(const char *name, int count, const char *const *entries, const char *const *files,
                           bool deflate) {
    unlink(in_root(name));
    zip_t *zip = zip_open(in_root(name), ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(zip);
    for (int i = 0; i < count; i++) {
        zip_source_t *source = zip_source_file(zip, in_root(files[i]), 0, -1);
        zip_int64_t at = zip_file_add(zip, entries[i], source, ZIP_FL_OVERWRITE);
        assert_true(at >= 0);
        zip_set_file_compression(zip, (zip_uint64_t)at, deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
    }
    assert_int_equal(zip_close(zip), 0);
}

/* ---- the program's main function: its tests in a folder of their own, and memory given back after each */

#define DATA_TEST(f)                cmocka_unit_test_setup_teardown(f, start, finish)
#define run_data_tests(tests, name) run_in_folder(tests, sizeof(tests) / sizeof *(tests), name)

static int run_in_folder(const struct CMUnitTest *tests, size_t count, const char *name) {
    const char *above = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/narrow-data-XXXXXX", above ? above : "/tmp");
    if (!mkdtemp(root)) return 1;
    int failed = _cmocka_run_group_tests(name, tests, count, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command) != 0 || failed;
}

#endif
