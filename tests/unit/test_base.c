/* test_base.c: contexts, arenas and files. */
#include "base/arena.h"
#include "base/file.h"
#include "support/support.h"
#include "support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool all_zero(const void *data, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (((const uint8_t *)data)[i]) return false;
    return true;
}

/* ---- context
 * --------------------------------------------------------------------------------------------------- */

static void failures_carry_their_place(void **state) {
    (void)state;
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    assert_int_equal(nw_fail(&ctx, NW_E_SHAPE, "weight expects %d channels", 64), NW_E_SHAPE);
    assert_int_equal(nw_fail_where(&ctx, NW_E_SHAPE, "Conv \"%s\"", "layer3"), NW_E_SHAPE);
    assert_string_equal(ctx.message, "Conv \"layer3\": weight expects 64 channels");
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    nw_fail(&ctx, NW_E_FORMAT, "%s", text);
    nw_fail_where(&ctx, NW_E_FORMAT, "%s", text);
    assert_true(strlen(ctx.message) < sizeof ctx.message);
    for (int s = NW_OK; s <= NW_E_INTERNAL; s++) assert_true(nw_status_string((nw_status)s)[0]);
}

static void allocation_fails_softly(void **state) {
    (void)state;
    test_memory memory = {.fail_at = 1};
    nw_allocator allocator = test_allocator(&memory);
    nw_context ctx;
    nw_context_init(&ctx, &allocator);
    void *first = nw_alloc(&ctx, 100);
    assert_non_null(first);
    assert_null(nw_alloc(&ctx, 100));
    assert_int_equal(ctx.status, NW_E_MEMORY);
    assert_non_null(strstr(ctx.message, "100"));
    assert_null(nw_calloc(&ctx, SIZE_MAX / 2, 4)); /* the product overflows */
    void *empty = nw_alloc(&ctx, 0);
    assert_non_null(empty);
    nw_free(&ctx, first);
    nw_free(&ctx, empty);
    nw_free(&ctx, NULL);
    assert_int_equal(memory.alive, 0);
}

static void arrays_grow_and_stay_on_failure(void **state) {
    (void)state;
    test_memory memory = {.fail_at = -1};
    nw_allocator allocator = test_allocator(&memory);
    nw_context ctx;
    nw_context_init(&ctx, &allocator);
    int *list = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_ok(&ctx, nw_grow(&ctx, (void **)&list, &capacity, i, i + 1, sizeof *list));
        list[i] = (int)i;
    }
    memory.fail_at = memory.asked;
    int *before = list;
    assert_int_equal(nw_grow(&ctx, (void **)&list, &capacity, 1000, capacity + 1, sizeof *list), NW_E_MEMORY);
    assert_ptr_equal(list, before);
    assert_int_equal(nw_grow(&ctx, (void **)&list, &capacity, 1000, SIZE_MAX / 2, sizeof *list), NW_E_MEMORY);
    for (int i = 0; i < 1000; i++) assert_int_equal(list[i], i);
    nw_free(&ctx, list);
    assert_int_equal(memory.alive, 0);
}

/* ---- arena
 * ----------------------------------------------------------------------------------------------------- */

static void arena_memory_is_aligned_zeroed_and_apart(void **state) {
    (void)state;
    test_memory memory = {.fail_at = -1};
    nw_allocator allocator = test_allocator(&memory);
    nw_context ctx;
    nw_arena arena;
    nw_context_init(&ctx, &allocator);
    nw_arena_init(&arena, &ctx);
    enum { COUNT = 2000 };
    static uint8_t *blocks[COUNT];
    static size_t sizes[COUNT];
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            sizes[i] = i % 97 == 0 ? 40000 + i : i % 61;
            blocks[i] = i % 5 ? nw_arena_alloc(&arena, sizes[i]) : nw_arena_data(&arena, sizes[i]);
            assert_non_null(blocks[i]);
            assert_int_equal((uintptr_t)blocks[i] % (i % 5 ? 16 : NW_ALIGN), 0);
            if (i % 5) assert_true(all_zero(blocks[i], sizes[i]));
            memset(blocks[i], (int)(i % 255) + 1, sizes[i]);
        }
        for (size_t i = 0; i < COUNT; i++)
            for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(blocks[i][k], i % 255 + 1);
        nw_arena_reset(&arena); /* the second round reuses a dirty chunk */
        assert_int_equal(memory.alive, 1);
    }
    nw_arena_free(&arena);
    nw_arena_free(&arena);
    assert_int_equal(memory.alive, 0);
}

static void arena_refuses_what_overflows(void **state) {
    (void)state;
    nw_context ctx;
    nw_arena arena;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    assert_null(nw_arena_array(&arena, SIZE_MAX / 2, 8));
    assert_int_equal(ctx.status, NW_E_MEMORY);
    assert_null(nw_arena_alloc(&arena, SIZE_MAX));
    assert_null(nw_arena_data(&arena, SIZE_MAX - 70));
    assert_string_equal(nw_arena_printf(&arena, "%s-%d", "node", 7), "node-7");
    assert_string_equal(nw_arena_strndup(&arena, "abcdef", 3), "abc");
    int *list = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 500; i++) {
        assert_ok(&ctx, nw_arena_grow(&arena, (void **)&list, &capacity, i, sizeof *list));
        list[i] = (int)i;
    }
    for (int i = 0; i < 500; i++) assert_int_equal(list[i], i);
    nw_arena_free(&arena);
}

/* ---- files
 * ----------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/narrow-test-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char **names;
    size_t count = test_list(folder, "", "", &names);
    for (size_t i = 0; i < count; i++) unlink(in_folder(names[i]));
    test_list_free(names, count);
    return rmdir(folder);
}

static size_t files_in_folder(void) {
    char **names;
    size_t count = test_list(folder, "", "", &names);
    test_list_free(names, count);
    return count;
}

static void assert_content(nw_context *ctx, const char *path, const char *content) {
    nw_bytes *bytes;
    assert_ok(ctx, nw_bytes_map(ctx, path, &bytes));
    assert_int_equal(bytes->size, strlen(content));
    assert_memory_equal(bytes->data, content, bytes->size);
    nw_bytes_free(bytes);
}

static void output_replaces_whole_or_not_at_all(void **state) {
    (void)state;
    nw_context ctx;
    nw_output out;
    nw_context_init(&ctx, NULL);
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("model.onnx"));
    assert_ok(&ctx, nw_output_open(&ctx, &out, path));
    assert_ok(&ctx, nw_output_write(&out, "first", 5));
    assert_ok(&ctx, nw_output_commit(&out));
    assert_content(&ctx, path, "first");

    assert_ok(&ctx, nw_output_open(&ctx, &out, path));
    assert_ok(&ctx, nw_output_printf(&out, "%s %d", "second", 2));
    assert_content(&ctx, path, "first"); /* until the commit */
    /* And would be all there is, were the program killed now, where the file system knows nameless files. */
    assert_int_equal(files_in_folder(), out.named ? 2 : 1);
    nw_output_abort(&out);
    nw_output_abort(&out);
    assert_content(&ctx, path, "first");
    assert_int_equal(files_in_folder(), 1);

    assert_ok(&ctx, nw_output_open(&ctx, &out, path));
    assert_ok(&ctx, nw_output_write(&out, NULL, 0));
    assert_ok(&ctx, nw_output_commit(&out));
    assert_content(&ctx, path, "");
    assert_int_equal(files_in_folder(), 1);
}

static void output_says_why_it_cannot(void **state) {
    (void)state;
    nw_context ctx;
    nw_output out;
    nw_context_init(&ctx, NULL);
    assert_fails(&ctx, NW_E_IO, "folder", nw_output_open(&ctx, &out, folder));
    nw_output_abort(&out);
    assert_fails(&ctx, NW_E_IO, "No such file", nw_output_open(&ctx, &out, in_folder("missing/model.onnx")));
    assert_int_equal(nw_output_write(&out, "x", 1), NW_E_IO); /* failures stick */
    assert_int_equal(nw_output_commit(&out), NW_E_IO);
}

static void output_takes_the_longest_name(void **state) {
    (void)state;
    nw_context ctx;
    nw_output out;
    nw_context_init(&ctx, NULL);
    char name[256], path[512];
    memset(name, 'n', 255);
    name[255] = 0;
    snprintf(path, sizeof path, "%s", in_folder(name));
    assert_ok(&ctx, nw_output_open(&ctx, &out, path));
    assert_ok(&ctx, nw_output_write(&out, "long", 4));
    assert_ok(&ctx, nw_output_commit(&out));
    assert_content(&ctx, path, "long");
    assert_int_equal(unlink(path), 0);
}

static void output_survives_failing_memory(void **state) {
    (void)state;
    for (long k = 0; k < 3; k++) {
        test_memory memory = {.fail_at = k};
        nw_allocator allocator = test_allocator(&memory);
        nw_context ctx;
        nw_output out;
        nw_context_init(&ctx, &allocator);
        assert_int_equal(nw_output_open(&ctx, &out, in_folder("never")), NW_E_MEMORY);
        nw_output_abort(&out);
        assert_int_equal(memory.alive, 0);
    }
    assert_int_equal(access(in_folder("never"), F_OK), -1);
}

static void reading_names_the_reason(void **state) {
    (void)state;
    nw_context ctx;
    nw_bytes *bytes;
    nw_context_init(&ctx, NULL);
    assert_fails(&ctx, NW_E_IO, "No such file", nw_bytes_map(&ctx, in_folder("nothing"), &bytes));
    assert_fails(&ctx, NW_E_IO, "folder", nw_bytes_map(&ctx, folder, &bytes));
    assert_fails(&ctx, NW_E_IO, "not a regular file", nw_bytes_map(&ctx, "/dev/null", &bytes));
    uint64_t size;
    assert_fails(&ctx, NW_E_IO, "nothing", nw_file_size(&ctx, in_folder("nothing"), &size));
}

static void bytes_are_counted(void **state) {
    (void)state;
    test_memory memory = {.fail_at = -1};
    nw_allocator allocator = test_allocator(&memory);
    nw_context ctx;
    nw_bytes *bytes;
    nw_context_init(&ctx, &allocator);
    assert_ok(&ctx, nw_bytes_new(&ctx, 10, &bytes));
    assert_int_equal((uintptr_t)bytes->data % NW_ALIGN, 0);
    nw_bytes *second = nw_bytes_ref(bytes);
    nw_bytes_free(bytes);
    assert_int_equal(memory.alive, 1);
    nw_bytes_free(second);
    nw_bytes_free(NULL);
    assert_null(nw_bytes_ref(NULL));
    assert_int_equal(memory.alive, 0);
    assert_int_equal(nw_bytes_new(&ctx, SIZE_MAX - 8, &bytes), NW_E_MEMORY);
}

static void bytes_on_disk_stay_when_forgotten(void **state) {
    (void)state;
    nw_context ctx;
    nw_bytes *bytes;
    nw_context_init(&ctx, NULL);
    const size_t size = (size_t)1 << 20;
    const size_t files = files_in_folder();
    const char *folders[] = {folder, "/no/such/folder"}; /* the second: heap memory instead */
    for (int i = 0; i < 2; i++) {
        setenv("TMPDIR", folders[i], 1);
        assert_ok(&ctx, nw_bytes_new_on_disk(&ctx, size, &bytes));
        assert_int_equal(bytes->mapped, i == 0);
        assert_int_equal(files_in_folder(), files);
        memset((void *)(uintptr_t)bytes->data, 37, size);
        nw_bytes_forget(bytes, bytes->data, size);
        for (size_t k = 0; k < size; k++) assert_int_equal(bytes->data[k], 37);
        assert_true(nw_bytes_hold(bytes, bytes->data + size - 1) &&
                    !nw_bytes_hold(bytes, bytes->data + size));
        nw_bytes_free(bytes);
    }
    unsetenv("TMPDIR");
}

static void paths(void **state) {
    (void)state;
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    static const char *const joins[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a//", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
    for (size_t i = 0; i < sizeof joins / sizeof *joins; i++) {
        char *path = nw_path_join(&ctx, joins[i][0], joins[i][1]);
        assert_string_equal(path, joins[i][2]);
        nw_free(&ctx, path);
    }
    static const char *const dirs[][3] = {
        {"a/b.onnx", "a", "b.onnx"}, {"b.onnx", ".", "b.onnx"}, {"/b", "/", "b"}, {"a/b/c", "a/b", "c"}};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        char *dir = nw_path_dir(&ctx, dirs[i][0]);
        assert_string_equal(dir, dirs[i][1]);
        assert_string_equal(nw_path_base(dirs[i][0]), dirs[i][2]);
        nw_free(&ctx, dir);
    }
    assert_true(nw_path_has_suffix("images/A.JPG", ".jpg"));
    assert_false(nw_path_has_suffix("jpg", ".jpg"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_carry_their_place),
        cmocka_unit_test(allocation_fails_softly),
        cmocka_unit_test(arrays_grow_and_stay_on_failure),
        cmocka_unit_test(arena_memory_is_aligned_zeroed_and_apart),
        cmocka_unit_test(arena_refuses_what_overflows),
        cmocka_unit_test(output_replaces_whole_or_not_at_all),
        cmocka_unit_test(output_says_why_it_cannot),
        cmocka_unit_test(output_takes_the_longest_name),
        cmocka_unit_test(output_survives_failing_memory),
        cmocka_unit_test(reading_names_the_reason),
        cmocka_unit_test(bytes_are_counted),
        cmocka_unit_test(bytes_on_disk_stay_when_forgotten),
        cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests_name("base", tests, make_folder, remove_folder);
}
