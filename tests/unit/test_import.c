/* test_import.c: ONNX files that are whole, unusual, damaged or hostile. Models and tensors are written with
 * protobuf-c directly, so that the importer is not tested against its own exporter only. */
#include "onnx.pb-c.h"
#include "onnx/onnx.h"
#include "op/op.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/narrow-test-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static const char *in_folder(const char *name) {
    static char paths[4][256];
    static int at;
    at = (at + 1) % 4;
    snprintf(paths[at], sizeof paths[at], "%s/%s", folder, name);
    return paths[at];
}

static void write_file(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

static const char *write_message(const char *name, const ProtobufCMessage *message) {
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *data = malloc(size + 1);
    assert_non_null(data);
    protobuf_c_message_pack(message, data);
    write_file(in_folder(name), data, size);
    free(data);
    return in_folder(name);
}

/* ---- tensors
 * --------------------------------------------------------------------------------------------------- */

enum { ELEMENTS = 5 };

/* The same elements in the typed field of their format. */
static void fill_typed(Onnx__TensorProto *t, nw_format f, const uint8_t *data, size_t bytes) {
    static float floats[2 * ELEMENTS];
    static double doubles[2 * ELEMENTS];
    static int64_t longs[ELEMENTS];
    static uint64_t unsigned_longs[ELEMENTS];
    static int32_t ints[ELEMENTS];
    memcpy(floats, data, bytes <= sizeof floats ? bytes : 0);
    memcpy(doubles, data, bytes);
    memcpy(longs, data, bytes <= sizeof longs ? bytes : 0);
    if (f == NW_F32 || f == NW_C64) {
        t->float_data = floats;
        t->n_float_data = bytes / 4;
    } else if (f == NW_F64 || f == NW_C128) {
        t->double_data = doubles;
        t->n_double_data = bytes / 8;
    } else if (f == NW_S64) {
        t->int64_data = longs;
        t->n_int64_data = ELEMENTS;
    } else if (f == NW_U64 || f == NW_U32) {
        for (size_t i = 0; i < ELEMENTS; i++)
            unsigned_longs[i] = f == NW_U64 ? ((const uint64_t *)data)[i] : ((const uint32_t *)data)[i];
        t->uint64_data = unsigned_longs;
        t->n_uint64_data = ELEMENTS;
    } else {
        t->n_int32_data =
            nw_format_bits(f) < 8 ? bytes : ELEMENTS; /* sub-byte codes: a byte of them per entry */
        for (size_t i = 0; i < t->n_int32_data; i++) {
            size_t size = bytes / t->n_int32_data;
            ints[i] = size == 1   ? (nw_format_kind(f) == NW_KIND_SINT ? (int8_t)data[i] : data[i])
                      : size == 2 ? (f == NW_S16 ? ((const int16_t *)data)[i] : ((const uint16_t *)data)[i])
                                  : ((const int32_t *)data)[i];
        }
        t->int32_data = ints;
    }
}

static void every_encoding_of_every_type(void **state) {
    (void)state;
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    int64_t dims[1] = {ELEMENTS};
    for (int f = 1; f < NW_FORMAT_COUNT; f++) {
        if (f == NW_STR || nw_format_from_onnx(f) == NW_NONE) continue;
        uint64_t data[2 * ELEMENTS];
        size_t bytes;
        assert_true(nw_format_bytes((nw_format)f, ELEMENTS, &bytes));
        for (size_t i = 0; i < bytes; i++)
            ((uint8_t *)data)[i] = f == NW_BOOL ? i & 1 : (uint8_t)(i * 77 + 130);
        for (int typed = 0; typed < 2; typed++) {
            Onnx__TensorProto t = ONNX__TENSOR_PROTO__INIT;
            t.has_data_type = 1;
            t.data_type = f;
            t.dims = dims;
            t.n_dims = 1;
            if (typed) {
                fill_typed(&t, (nw_format)f, (const uint8_t *)data, bytes);
            } else {
                t.has_raw_data = 1;
                t.raw_data = (ProtobufCBinaryData){bytes, (uint8_t *)data};
            }
            nw_arena arena;
            nw_tensor got;
            nw_arena_init(&arena, &ctx);
            assert_ok(&ctx, nw_onnx_read_tensor(&ctx, write_message("t.pb", &t.base), &arena, &got));
            assert_int_equal(got.format, f);
            assert_int_equal(got.rank, 1);
            assert_int_equal(got.dims[0], ELEMENTS);
            for (size_t i = 0; i < ELEMENTS && nw_format_bits((nw_format)f) < 8; i++)
                assert_true(nw_load_f64(got.format, got.data, i) == nw_load_f64(got.format, data, i));
            if (nw_format_bits((nw_format)f) >= 8) assert_memory_equal(got.data, data, bytes);
            nw_arena_free(&arena);
        }
    }
}

static void strings(void **state) {
    (void)state;
    nw_context ctx;
    nw_arena arena;
    nw_tensor got;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    int64_t dims[2] = {1, 3};
    ProtobufCBinaryData text[3] = {{5, (uint8_t *)"alpha"}, {0, NULL}, {3, (uint8_t *)"a\0b"}};
    Onnx__TensorProto t = ONNX__TENSOR_PROTO__INIT;
    t.has_data_type = 1;
    t.data_type = NW_STR;
    t.dims = dims;
    t.n_dims = 2;
    t.string_data = text;
    t.n_string_data = 3;
    assert_ok(&ctx, nw_onnx_read_tensor(&ctx, write_message("t.pb", &t.base), &arena, &got));
    const nw_str *list = got.data;
    assert_int_equal(list[0].size, 5);
    assert_memory_equal(list[0].data, "alpha", 5);
    assert_int_equal(list[1].size, 0);
    assert_memory_equal(list[2].data, "a\0b", 3);
    nw_arena_free(&arena);
}

static void tensors_that_lie(void **state) {
    (void)state;
    nw_context ctx;
    nw_arena arena;
    nw_tensor got;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    static const int64_t shapes[][3] = {{4, 1, 1},
                                        {2, 1, 1},
                                        {-3, 1, 1},
                                        {-1, -3, 1},
                                        {INT64_MAX, 1, 1},
                                        {INT64_C(1) << 32, INT64_C(1) << 32, 1},
                                        {INT64_C(1) << 62, 3, 4}};
    float floats[3] = {1, 2, 3};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int raw = 0; raw < 2; raw++) {
            Onnx__TensorProto t = ONNX__TENSOR_PROTO__INIT;
            t.name = (char *)"liar";
            t.has_data_type = 1;
            t.data_type = NW_F32;
            t.dims = (int64_t *)(uintptr_t)shapes[i];
            t.n_dims = 3;
            t.float_data = floats;
            t.n_float_data = raw ? 0 : 3;
            t.has_raw_data = raw;
            t.raw_data = (ProtobufCBinaryData){sizeof floats, (uint8_t *)floats};
            nw_status status = nw_onnx_read_tensor(&ctx, write_message("t.pb", &t.base), &arena, &got);
            assert_int_not_equal(status, NW_OK);
            assert_non_null(strstr(ctx.message, "liar"));
        }
    Onnx__TensorProto t = ONNX__TENSOR_PROTO__INIT;
    t.has_data_type = 1;
    t.data_type = 99;
    assert_fails(&ctx, NW_E_UNSUPPORTED, "99",
                 nw_onnx_read_tensor(&ctx, write_message("t.pb", &t.base), &arena, &got));
    nw_arena_free(&arena);
}

/* ---- external data
 * --------------------------------------------------------------------------------------------- */

/* A model whose only initializer w, f32 [3], lies at `offset` of the file `location`. */
static const char *write_external(const char *name, const char *location, const char *offset,
                                  const char *length) {
    int64_t dims[1] = {3};
    Onnx__StringStringEntryProto entries[3], *list[3];
    const char *keys[3] = {"location", "offset", "length"}, *values[3] = {location, offset, length};
    size_t count = 0;
    for (int i = 0; i < 3; i++) {
        if (!values[i]) continue;
        onnx__string_string_entry_proto__init(&entries[count]);
        entries[count].key = (char *)(uintptr_t)keys[i];
        entries[count].value = (char *)(uintptr_t)values[i];
        list[count] = &entries[count];
        count++;
    }
    Onnx__TensorProto w = ONNX__TENSOR_PROTO__INIT, *tensors[1] = {&w};
    w.name = (char *)"w";
    w.dims = dims;
    w.n_dims = 1;
    w.has_data_type = w.has_data_location = 1;
    w.data_type = NW_F32;
    w.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    w.external_data = list;
    w.n_external_data = count;
    Onnx__ValueInfoProto out = ONNX__VALUE_INFO_PROTO__INIT, *outputs[1] = {&out};
    out.name = (char *)"w";
    Onnx__GraphProto graph = ONNX__GRAPH_PROTO__INIT;
    graph.name = (char *)"g";
    graph.initializer = tensors;
    graph.n_initializer = 1;
    graph.output = outputs;
    graph.n_output = 1;
    Onnx__ModelProto model = ONNX__MODEL_PROTO__INIT;
    model.graph = &graph;
    return write_message(name, &model.base);
}

static void external_data_is_found(void **state) {
    (void)state;
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    uint8_t file[32] = {0};
    const float w[3] = {1.5f, -2, 3};
    memcpy(file + 5, w, sizeof w); /* at an odd offset */
    memcpy(file + 20, w, sizeof w);
    write_file(in_folder("w.bin"), file, sizeof file);
    mkdir(in_folder("sub"), 0755);
    write_file(in_folder("sub/w.bin"), file, sizeof file);
    static const char *const good[][3] = {
        {"w.bin", "5", "12"}, {"w.bin", "20", NULL}, {"sub/w.bin", "20", "12"}, {"sub/../w.bin", "20", "12"}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        nw_graph *g;
        assert_ok(&ctx, nw_onnx_import(&ctx, write_external("m.onnx", good[i][0], good[i][1], good[i][2]),
                                       false, &g));
        const nw_constant *c = nw_graph_constant(g, nw_graph_find(g, "w"));
        assert_int_equal((uintptr_t)c->tensor.data % 4, 0);
        assert_memory_equal(c->tensor.data, w, sizeof w);
        nw_graph_free(g);
    }
}

static void external_data_outside_is_refused(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g;
    nw_context_init(&ctx, NULL);
    uint8_t file[32] = {0};
    write_file(in_folder("w.bin"), file, sizeof file);
    mkdir(in_folder("models"), 0755);
    mkdir(in_folder("models-2"), 0755); /* begins with the name of the model's folder */
    write_file(in_folder("models-2/w.bin"), file, sizeof file);
    write_file(in_folder("models/w.bin"), file, sizeof file);
    assert_int_equal(symlink("../w.bin", in_folder("models/link.bin")), 0);
    static const char *const bad[][3] = {{"../w.bin", "0", "12"},
                                         {"/etc/passwd", "0", "12"},
                                         {"link.bin", "0", "12"},
                                         {"../models-2/w.bin", "0", "12"},
                                         {"missing.bin", "0", "12"},
                                         {"", "0", "12"},
                                         {".", "0", "12"},
                                         {NULL, "0", "12"},
                                         {"w.bin", "21", "12"},
                                         {"w.bin", "-4", "12"},
                                         {"w.bin", "0", "16"},
                                         {"w.bin", "0", "8"},
                                         {"w.bin", "18446744073709551615", "12"},
                                         {"w.bin", "99999999999999999999999", "12"},
                                         {"w.bin", "0x4", "12"},
                                         {"w.bin", "0", "twelve"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        nw_status status =
            nw_onnx_import(&ctx, write_external("models/m.onnx", bad[i][0], bad[i][1], bad[i][2]), false, &g);
        if (status == NW_OK) fail_msg("%s at %s was accepted", bad[i][0], bad[i][1]);
        assert_true(ctx.message[0]);
    }
    nw_bytes *bytes;
    assert_ok(&ctx, nw_bytes_map(&ctx, write_external("models/m.onnx", "w.bin", "0", "12"), &bytes));
    assert_int_not_equal(nw_onnx_import_bytes(&ctx, bytes, "memory", NULL, false, &g), NW_OK); /* no folder */
    nw_bytes_free(bytes);
}

/* ---- damage
 * ---------------------------------------------------------------------------------------------------- */

static nw_status import_copy(nw_context *ctx, const uint8_t *data, size_t size, nw_graph **out) {
    nw_bytes *bytes;
    NW_TRY(nw_bytes_new(ctx, size, &bytes));
    if (size) memcpy((void *)(uintptr_t)bytes->data, data, size);
    nw_status status = nw_onnx_import_bytes(ctx, bytes, "damaged.onnx", NULL, true, out);
    nw_bytes_free(bytes);
    return status;
}

static size_t read_varint(const uint8_t *data, size_t at, uint64_t *value) {
    *value = 0;
    for (int shift = 0;; shift += 7) {
        *value |= (uint64_t)(data[at] & 0x7f) << shift;
        if (!(data[at++] & 0x80)) return at;
    }
}

/* Whether a cut at `cut` falls between two fields of the outermost message: such a file is whole, only
 * shorter. */
static bool between_fields(const uint8_t *data, size_t cut) {
    size_t at = 0;
    while (at < cut) {
        uint64_t key, value;
        at = read_varint(data, at, &key);
        at = read_varint(data, at, &value); /* our model has varints and nested messages only */
        if ((key & 7) == 2) at += (size_t)value;
    }
    return at == cut;
}

static void cut_at_every_byte(void **state) {
    (void)state;
    test_memory memory = {.fail_at = -1};
    nw_allocator allocator = test_allocator(&memory);
    nw_context ctx;
    nw_graph *g;
    nw_bytes *whole;
    nw_context_init(&ctx, &allocator);
    assert_ok(&ctx, test_small_model(&ctx, &g));
    assert_ok(&ctx, test_model_bytes(&ctx, g, &whole));
    nw_graph_free(g);
    for (size_t cut = 0; cut < whole->size; cut++) {
        nw_status status = import_copy(&ctx, whole->data, cut, &g);
        if (status == NW_OK) {
            assert_true(between_fields(whole->data, cut));
            nw_graph_free(g);
        } else {
            assert_non_null(strstr(ctx.message, "damaged.onnx"));
        }
        assert_int_equal(memory.alive, 1);
    }
    nw_bytes_free(whole);
}

/* Each byte in turn takes values that change lengths, types and signs. Whatever is still a model must be
 * sound. */
static void every_byte_changed(void **state) {
    (void)state;
    static const uint8_t patterns[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    test_memory memory = {.fail_at = -1};
    nw_allocator allocator = test_allocator(&memory);
    nw_context ctx;
    nw_graph *g;
    nw_bytes *whole;
    nw_context_init(&ctx, &allocator);
    assert_ok(&ctx, test_small_model(&ctx, &g));
    assert_ok(&ctx, test_model_bytes(&ctx, g, &whole));
    nw_graph_free(g);
    uint8_t *data = malloc(whole->size);
    assert_non_null(data);
    memcpy(data, whole->data, whole->size);
    for (size_t i = 0; i < whole->size; i++)
        for (size_t p = 0; p <= sizeof patterns; p++) {
            data[i] = p < sizeof patterns ? patterns[p] : (uint8_t)(whole->data[i] ^ 0x10);
            if (import_copy(&ctx, data, whole->size, &g) == NW_OK) {
                assert_ok(&ctx, nw_graph_verify(g));
                nw_graph_free(g);
            }
            data[i] = whole->data[i];
            assert_int_equal(memory.alive, 1);
        }
    free(data);
    nw_bytes_free(whole);
}

/* ---- models
 * ---------------------------------------------------------------------------------------------------- */

typedef struct model {
    Onnx__ModelProto model;
    Onnx__GraphProto graph;
    Onnx__NodeProto nodes[4], *node_list[4];
    Onnx__ValueInfoProto values[4], *value_list[4];
    char *names[8][2];
} model;

/* x → nodes (operator, input, output) → the last output. */
static void init_model(model *m, size_t count, const char *nodes[][3]) {
    onnx__model_proto__init(&m->model);
    onnx__graph_proto__init(&m->graph);
    m->model.graph = &m->graph;
    m->graph.name = (char *)"g";
    for (size_t i = 0; i < count; i++) {
        onnx__node_proto__init(&m->nodes[i]);
        m->node_list[i] = &m->nodes[i];
        m->names[i][0] = (char *)(uintptr_t)nodes[i][1];
        m->names[i][1] = (char *)(uintptr_t)nodes[i][2];
        m->nodes[i].op_type = (char *)(uintptr_t)nodes[i][0];
        m->nodes[i].input = &m->names[i][0];
        m->nodes[i].output = &m->names[i][1];
        m->nodes[i].n_input = m->nodes[i].n_output = 1;
    }
    m->graph.node = m->node_list;
    m->graph.n_node = count;
    for (int i = 0; i < 2; i++) {
        onnx__value_info_proto__init(&m->values[i]);
        m->value_list[i] = &m->values[i];
    }
    m->values[0].name = (char *)"x";
    m->values[1].name = (char *)(uintptr_t)nodes[count - 1][2];
    m->graph.input = m->value_list;
    m->graph.output = m->value_list + 1;
    m->graph.n_input = m->graph.n_output = 1;
}

static void unknown_operators_are_all_named(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g;
    model m;
    nw_context_init(&ctx, NULL);
    const char *nodes[][3] = {
        {"Frobnicate", "x", "a"}, {"Relu", "a", "b"}, {"Twiddle", "b", "c"}, {"Frobnicate", "c", "d"}};
    init_model(&m, 4, nodes);
    m.nodes[2].domain = (char *)"com.example";
    const char *path = write_message("unknown.onnx", &m.model.base);
    assert_fails(&ctx, NW_E_UNSUPPORTED, "Frobnicate (2", nw_onnx_import(&ctx, path, false, &g));
    assert_non_null(strstr(ctx.message, "com.example.Twiddle"));
    assert_ok(&ctx, nw_onnx_import(&ctx, path, true, &g));
    assert_null(g->nodes[0].op);
    assert_non_null(g->nodes[1].op);
    assert_ok(&ctx, nw_onnx_export(g, in_folder("again.onnx"), false, NULL));
    nw_graph_free(g);
}

static void weights_move_into_a_second_file(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g, *again;
    nw_context_init(&ctx, NULL);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 13));
    const int64_t small[] = {3}, large[] = {40, 50}, larger[] = {600, 500};
    int id, sum = NW_ABSENT;
    assert_ok(&ctx, test_input(g, "x", 1, small, &sum));
    const char *names[] = {"small", "large", "larger"};
    const int64_t *dims[] = {small, large, larger};
    for (int i = 0; i < 3; i++) {
        assert_ok(&ctx, test_ramp(g, names[i], i ? 2 : 1, dims[i], &id));
        assert_ok(&ctx, test_node(g, "Identity", i == 0 ? "a" : i == 1 ? "b" : "c", 1, &id, &sum));
        assert_ok(&ctx, nw_graph_add_output(g, sum));
    }
    uint64_t bytes, model_bytes, data_bytes;
    char path[256], data[256];
    snprintf(path, sizeof path, "%s", in_folder("external.onnx"));
    snprintf(data, sizeof data, "%s", in_folder("external.onnx.data"));
    assert_ok(&ctx, nw_onnx_export(g, path, true, &bytes));
    assert_ok(&ctx, nw_file_size(&ctx, path, &model_bytes));
    assert_ok(&ctx, nw_file_size(&ctx, data, &data_bytes));
    assert_int_equal(bytes, model_bytes + data_bytes);
    assert_true(model_bytes < 2000); /* the small one stays */
    assert_int_equal(data_bytes, 65536 + 600 * 500 * 4);
    assert_ok(&ctx, nw_onnx_import(&ctx, path, false, &again));
    assert_int_equal(again->info->external_bytes, data_bytes);
    for (int i = 0; i < 3; i++) {
        const nw_tensor *a = &nw_graph_constant(g, nw_graph_find(g, names[i]))->tensor;
        const nw_tensor *b = &nw_graph_constant(again, nw_graph_find(again, names[i]))->tensor;
        assert_true(nw_tensor_same_shape(a, b));
        assert_memory_equal(a->data, b->data, nw_tensor_bytes(a));
    }
    nw_graph_free(again);
    assert_int_equal(truncate(data, (off_t)data_bytes - 1), 0);
    assert_fails(&ctx, NW_E_FORMAT, "larger", nw_onnx_import(&ctx, path, false, &again));
    unlink(data);
    assert_fails(&ctx, NW_E_IO, "external.onnx.data", nw_onnx_import(&ctx, path, false, &again));
    unlink(path);
    nw_graph_free(g);
}

static void broken_graphs_are_named(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g;
    model m;
    nw_context_init(&ctx, NULL);
    const char *cycle[][3] = {{"Relu", "b", "a"}, {"Relu", "a", "b"}};
    init_model(&m, 2, cycle);
    assert_fails(&ctx, NW_E_FORMAT, "cycle",
                 nw_onnx_import(&ctx, write_message("m.onnx", &m.model.base), false, &g));
    const char *lost[][3] = {{"Relu", "nowhere", "a"}};
    init_model(&m, 1, lost);
    assert_fails(&ctx, NW_E_FORMAT, "nowhere",
                 nw_onnx_import(&ctx, write_message("m.onnx", &m.model.base), false, &g));
    const char *twice[][3] = {{"Relu", "x", "a"}, {"Relu", "x", "a"}};
    init_model(&m, 2, twice);
    assert_fails(&ctx, NW_E_FORMAT, "\"a\"",
                 nw_onnx_import(&ctx, write_message("m.onnx", &m.model.base), false, &g));
    const char *no_output[][3] = {{"Relu", "x", "a"}};
    init_model(&m, 1, no_output);
    m.values[1].name = (char *)"elsewhere";
    assert_fails(&ctx, NW_E_FORMAT, "elsewhere",
                 nw_onnx_import(&ctx, write_message("m.onnx", &m.model.base), false, &g));
    Onnx__ModelProto empty = ONNX__MODEL_PROTO__INIT;
    empty.producer_name = (char *)"nobody";
    assert_fails(&ctx, NW_E_FORMAT, "no graph",
                 nw_onnx_import(&ctx, write_message("m.onnx", &empty.base), false, &g));
    write_file(in_folder("text.onnx"), "This is not a model.\n", 21);
    assert_int_equal(nw_onnx_import(&ctx, in_folder("text.onnx"), false, &g), NW_E_FORMAT);
    assert_fails(&ctx, NW_E_IO, "No such file", nw_onnx_import(&ctx, in_folder("missing.onnx"), false, &g));
}

/* An If in a branch of an If in a branch …: refused at some depth, not a stack overflow. */
static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEEP = 3000 };
    static model levels[DEEP];
    static Onnx__AttributeProto attrs[DEEP], *lists[DEEP];
    nw_context ctx;
    nw_graph *g;
    nw_context_init(&ctx, NULL);
    const char *nodes[][3] = {{"If", "x", "y"}};
    for (int i = DEEP - 1; i >= 0; i--) {
        init_model(&levels[i], 1, nodes);
        if (i > 0) levels[i].graph.n_input = 0;
        if (i == DEEP - 1) continue;
        onnx__attribute_proto__init(&attrs[i]);
        lists[i] = &attrs[i];
        attrs[i].name = (char *)"then_branch";
        attrs[i].has_type = 1;
        attrs[i].type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH;
        attrs[i].g = &levels[i + 1].graph;
        levels[i].nodes[0].attribute = &lists[i];
        levels[i].nodes[0].n_attribute = 1;
    }
    assert_int_not_equal(nw_onnx_import(&ctx, write_message("deep.onnx", &levels[0].model.base), true, &g),
                         NW_OK);
    assert_true(ctx.message[0]);
}

static void export_fails_cleanly(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g;
    nw_context_init(&ctx, NULL);
    assert_ok(&ctx, test_small_model(&ctx, &g));
    assert_int_equal(nw_onnx_export(g, in_folder("no/such/folder.onnx"), false, NULL), NW_E_IO);
    assert_int_equal(nw_onnx_export(g, folder, false, NULL), NW_E_IO);
    nw_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_encoding_of_every_type),
        cmocka_unit_test(strings),
        cmocka_unit_test(tensors_that_lie),
        cmocka_unit_test(external_data_is_found),
        cmocka_unit_test(external_data_outside_is_refused),
        cmocka_unit_test(cut_at_every_byte),
        cmocka_unit_test(every_byte_changed),
        cmocka_unit_test(unknown_operators_are_all_named),
        cmocka_unit_test(weights_move_into_a_second_file),
        cmocka_unit_test(broken_graphs_are_named),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(export_fails_cleanly),
    };
    return cmocka_run_group_tests_name("import", tests, make_folder, remove_folder);
}
