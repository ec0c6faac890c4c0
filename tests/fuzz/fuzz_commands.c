/* fuzz_commands.c: any bytes as a model file: what the commands do with one, through the public interface: describe, diagnose,
 * quantize in every mode, take back, prune, train a step, save. Memory is limited, so that a model may ask for anything and
 * merely fails. */
#include "narrow/narrow.h"
#include "support/support.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY  ((size_t)256 << 20) /* bytes in all, released or not */
#define INPUTS  8
#define SAMPLES 4
#define MOST    4096 /* elements of an input's samples */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char file_in[] = "/tmp/fuzz_commands-in-XXXXXX", file_out[] = "/tmp/fuzz_commands-out-XXXXXX";

static void remove_files(void) {
    unlink(file_in);
    unlink(file_out);
}

static void make_files(void) {
    const int in = mkstemp(file_in), out = mkstemp(file_out);
    if (in < 0 || out < 0) abort();
    close(in);
    close(out);
    atexit(remove_files);
}

static void write_file(const uint8_t *data, size_t size) {
    FILE *f = fopen(file_in, "wb");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f)) abort();
}

/* A few samples for every input that takes numbers; NULL when there is no such thing. */
static nw_data *make_samples(nw_env *env, const nw_model *model, nw_array *arrays) {
    static uint64_t zeros[MOST];
    static float ramp[MOST];
    nw_data *data = NULL;
    const size_t count = nw_model_input_count(model);
    if (count > INPUTS) return NULL;
    for (int i = 0; i < MOST; i++) ramp[i] = (float)(i % 17) / 8 - 1;
    for (size_t i = 0; i < count; i++) {
        nw_array *a = &arrays[i];
        int64_t elements = SAMPLES;
        *a = *nw_model_input(model, i);
        if (a->rank < 1) return NULL;
        a->dims[0] = SAMPLES;
        for (int d = 1; d < a->rank; d++) {
            if (a->dims[d] < 0) a->dims[d] = 2;
            if (a->dims[d] > MOST) return NULL;
            elements *= a->dims[d];
            if (elements > MOST) return NULL;
        }
        a->data = a->type == NW_TYPE_F32 ? (void *)ramp : (void *)zeros;
    }
    static int64_t labels[SAMPLES];
    const nw_array classes = {.type = NW_TYPE_S64, .rank = 1, .dims = {SAMPLES}, .data = labels};
    return nw_data_from_arrays(env, count, arrays, &classes, NULL, &data) == NW_SUCCESS ? data : NULL;
}

/* What comes out, or NULL, must be fit to be described, written and read; is released. */
static void finish(nw_env *env, nw_model **model, nw_report **report) {
    nw_model *again = NULL;
    if (*report) nw_report_text(*report, 1);
    if (*report) nw_report_json(*report);
    nw_report_free(*report);
    if (*model && nw_model_save(*model, file_out) == NW_SUCCESS) nw_model_load(env, file_out, &again);
    nw_model_free(again);
    nw_model_free(*model);
    *model = NULL;
    *report = NULL;
}

static void describe(nw_env *env, const nw_model *model) {
    static const char *const targets[] = {"any", "onnxruntime", "openvino"};
    const nw_summary_options all = {.statistics = 1, .channels = 1};
    nw_model *none = NULL;
    nw_report *report = NULL;
    nw_model_summary(model, &all, &report);
    finish(env, &none, &report);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        nw_model_diagnose(model, targets[i], &report);
        finish(env, &none, &report);
    }
}

static void quantize(nw_env *env, const nw_model *model, nw_data *data) {
    static const nw_quantize_options ways[] = {
        {.recipe = "w8a8"},
        {.recipe = "w8a8", .form = "qoperator", .quantize_outputs = 1},
        {.recipe = "w8a8-dynamic"},
        {.recipe = "w4", .form = "matmulnbits"},
        {.recipe = "ternary", .form = "native"},
        {.mode = "weights", .weights = "codebook4:16"},
        {.recipe = "w1a1"},
        {.recipe = "w8a8-f16-attention"},
    };
    nw_model *small = NULL;
    nw_report *report = NULL;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        nw_model_quantize(model, data, &ways[i], &small, &report);
        finish(env, &small, &report);
    }
}

static void change(nw_env *env, const nw_model *model, nw_data *data) {
    const nw_prune_settings prune = {.weights = "0.5", .channels = 0.5};
    const nw_quantize_options w4a4 = {.recipe = "w4a4"};
    const nw_array *input = nw_model_input(model, 0);
    const size_t batch = input && input->dims[0] > 0 ? (size_t)input->dims[0] : SAMPLES;
    const nw_training_options plain = {.epochs = 1, .batch = batch},
                              aware = {.epochs = 1, .batch = batch, .quantize = &w4a4, .calibration = data};
    nw_model *made = NULL;
    nw_report *report = NULL;
    nw_model_dequantize(model, NULL, &made, &report);
    finish(env, &made, &report);
    nw_model_prune(model, &prune, &made, &report);
    finish(env, &made, &report);
    if (!data) return;
    nw_model_train(model, data, NULL, &plain, &made, &report);
    finish(env, &made, &report);
    nw_model_train(model, data, NULL, &aware, &made, &report);
    finish(env, &made, &report);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static bool made;
    size_t left = MEMORY;
    const nw_memory memory = {test_limited_alloc, test_limited_release, &left};
    nw_array arrays[INPUTS];
    nw_env *env;
    nw_model *model;
    if (!made) make_files();
    made = true;
    write_file(bytes, size);
    if (nw_env_new(&memory, &env) != NW_SUCCESS) return 0;
    nw_env_set_threads(env, 1);
    if (nw_model_load(env, file_in, &model) == NW_SUCCESS) {
        nw_data *data = make_samples(env, model, arrays);
        describe(env, model);
        quantize(env, model, data);
        change(env, model, data);
        nw_data_free(data);
        nw_model_free(model);
    }
    nw_env_free(env);
    return 0;
}
