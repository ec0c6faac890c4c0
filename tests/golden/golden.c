/* golden.c: runs real models on one recorded input each and compares with what onnxruntime gave:
 * DATA/models/NAME.onnx, DATA/golden/NAME/input.X.npy → output.Y.npy. Every model runs in the default
 * configuration and as the plain reference; a second run on the same session must give the same bits. */
#include "data/npy.h"
#include "onnx/onnx.h"
#include "run/run.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_BORDER 16
/* Largest error of an output element, as a share of the largest magnitude in that output: float summation
 * order. */
#define TOLERANCE 5e-5

typedef struct golden_case {
    const char *model;  /* file */
    const char *folder; /* of its recordings */
    const char *name;
    nw_run_options options;
} golden_case;

static nw_status read_feeds(nw_context *ctx, const char *folder, nw_arena *arena, nw_feed *feeds,
                            size_t *count) {
    char **names;
    *count = test_list(folder, "input.", ".npy", &names);
    nw_status status =
        *count && *count <= MAX_BORDER ? NW_OK : nw_fail(ctx, NW_E_IO, "no inputs in %s", folder);
    for (size_t i = 0; status == NW_OK && i < *count; i++) {
        char *path = nw_path_join(ctx, folder, names[i]);
        size_t length = strlen(names[i]) - strlen("input.") - strlen(".npy");
        feeds[i].name = nw_arena_strndup(arena, names[i] + strlen("input."), length);
        status = path && feeds[i].name ? nw_npy_read(arena, path, &feeds[i].tensor) : NW_E_MEMORY;
        nw_free(ctx, path);
    }
    test_list_free(names, *count);
    return status;
}

/* Largest |got − want| relative to the largest |want|; infinity when the shapes differ or a NaN appears. */
static double distance(const nw_tensor *got, const nw_tensor *want) {
    if (!nw_tensor_same_shape(got, want)) return INFINITY;
    double scale = 0, error = 0;
    for (size_t i = 0; i < nw_tensor_count(want); i++) {
        double a = nw_tensor_f64(got, i), b = nw_tensor_f64(want, i);
        if (isnan(a - b)) return INFINITY;
        if (fabs(b) > scale) scale = fabs(b);
        if (fabs(a - b) > error) error = fabs(a - b);
    }
    return error == 0 ? 0 : error / scale;
}

static nw_status compare_outputs(nw_context *ctx, const golden_case *c, const nw_graph *g, nw_arena *arena,
                                 const nw_tensor *outputs, const nw_tensor *again) {
    for (int i = 0; i < g->output_count; i++) {
        const char *name = g->values[g->outputs[i]].name;
        char *path = nw_arena_printf(arena, "%s/output.%s.npy", c->folder, name);
        nw_tensor want;
        if (!path) return NW_E_MEMORY;
        NW_TRY(nw_npy_read(arena, path, &want));
        double error = distance(&outputs[i], &want);
        printf("  %-24s %-10s %-28s error %.1e\n", c->name, c->options.reference ? "reference" : "default",
               name, error);
        if (!(error <= TOLERANCE)) return nw_fail(ctx, NW_E_INTERNAL, "output \"%s\" is wrong", name);
        if (memcmp(outputs[i].data, again[i].data, nw_tensor_bytes(&want)) != 0)
            return nw_fail(ctx, NW_E_INTERNAL, "output \"%s\" differs from one run to the next", name);
    }
    return NW_OK;
}

static nw_status run_session(nw_context *ctx, const golden_case *c, const nw_graph *g, nw_session *session,
                             nw_arena *arena) {
    nw_feed feeds[MAX_BORDER];
    nw_tensor outputs[2][MAX_BORDER];
    size_t count;
    if (g->output_count > MAX_BORDER) return nw_fail(ctx, NW_E_UNSUPPORTED, "too many outputs for this test");
    NW_TRY(read_feeds(ctx, c->folder, arena, feeds, &count));
    for (int k = 0; k < 2; k++) NW_TRY(nw_session_run(session, count, feeds, arena, outputs[k]));
    return compare_outputs(ctx, c, g, arena, outputs[0], outputs[1]);
}

static bool run_case(const golden_case *c) {
    nw_context ctx;
    nw_arena arena;
    nw_graph *g = NULL;
    nw_session *session = NULL;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    nw_status status = nw_onnx_import(&ctx, c->model, false, &g);
    if (status == NW_OK && !c->options.reference) status = nw_onnx_fold_quantization(g);
    if (status == NW_OK) status = nw_session_new(&ctx, g, &c->options, &session);
    if (status == NW_OK) status = run_session(&ctx, c, g, session, &arena);
    if (status != NW_OK)
        printf("FAILED %s (%s): %s\n", c->name, c->options.reference ? "reference" : "default", ctx.message);
    nw_session_free(session);
    nw_graph_free(g);
    nw_arena_free(&arena);
    return status == NW_OK;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "golden DATA [NAME]\n");
        return 2;
    }
    char recordings[4096], model[4096], folder[4096];
    char **names;
    test_tally tally = {0, 0, 0};
    snprintf(recordings, sizeof recordings, "%s/golden", argv[1]);
    size_t count = test_list(recordings, "", "", &names);
    if (count == 0) printf("SKIPPED golden: no recordings in %s\n", recordings);
    tally.skipped = count == 0;
    for (size_t i = 0; i < count; i++) {
        if (argc == 3 && strcmp(argv[2], names[i]) != 0) continue;
        snprintf(model, sizeof model, "%s/models/%s.onnx", argv[1], names[i]);
        snprintf(folder, sizeof folder, "%s/golden/%s", argv[1], names[i]);
        for (int reference = 0; reference < 2; reference++) {
            golden_case c = {
                model, folder, names[i], {.threads = 0, .isa = NW_ISA_COUNT - 1, .reference = reference}};
            if (run_case(&c))
                tally.passed++;
            else
                tally.failed++;
        }
    }
    test_list_free(names, count);
    return test_summary("golden", &tally);
}
