/* case.c: runs one case of ONNX's backend tests: a model, its inputs, the outputs it must give.
 * The rules (which input file feeds what, tolerances, generated inputs) are those of
 * onnx.backend.test.runner. */
#include "conformance.h"
#include "onnx/onnx.h"
#include "op/op.h"
#include "run/run.h"
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BORDER 64 /* inputs or outputs of one case */

typedef struct configuration {
    const char *name;
    bool fold; /* Q/DQ pairs become FakeQuants, as when the library loads a model */
    nw_run_options options;
} configuration;

static bool fail(conformance_result *result, const char *config, const char *where, const char *why) {
    result->outcome = CASE_FAILED;
    snprintf(result->reason, sizeof result->reason, "[%s] %s%s%s", config, where, where[0] ? ": " : "", why);
    return false;
}

/* As onnx.backend.test.runner.generate_dummy_data: i/n in double, rounded; unknown dimensions are 1. */
static nw_status generate_input(nw_context *ctx, const nw_value *value, nw_arena *arena, nw_tensor *t) {
    int64_t dims[NW_MAX_RANK];
    if (value->format != NW_F32 || value->rank < 0)
        return nw_fail(ctx, NW_E_UNSUPPORTED, "input \"%s\" is no float tensor", value->name);
    for (int i = 0; i < value->rank; i++) dims[i] = value->dims[i] < 0 ? 1 : value->dims[i];
    *t = (nw_tensor){.format = NW_F32};
    nw_tensor_set_shape(t, value->rank, dims);
    NW_TRY(nw_tensor_alloc(arena, t));
    size_t n = nw_tensor_count(t);
    for (size_t i = 0; i < n; i++) ((float *)t->data)[i] = (float)((double)i / (double)n);
    return NW_OK;
}

/* input_i.pb feeds the i-th input that has no initializer. */
static nw_status read_feeds(nw_context *ctx, const nw_graph *g, const char *set, nw_arena *arena,
                            nw_feed *feeds, size_t *count) {
    *count = 0;
    for (int i = 0; i < g->input_count; i++) {
        const nw_value *value = &g->values[g->inputs[i]];
        if (value->constant) continue;
        if (*count == MAX_BORDER) return nw_fail(ctx, NW_E_UNSUPPORTED, "too many inputs for this runner");
        nw_feed *feed = &feeds[*count];
        feed->name = value->name;
        if (!set) {
            NW_TRY(generate_input(ctx, value, arena, &feed->tensor));
        } else {
            char *path = nw_arena_printf(arena, "%s/input_%zu.pb", set, *count);
            if (!path) return NW_E_MEMORY;
            NW_TRY(nw_onnx_read_tensor(ctx, path, arena, &feed->tensor));
        }
        (*count)++;
    }
    return NW_OK;
}

static bool run_set(const conformance_case *c, const configuration *config, nw_context *ctx,
                    const nw_graph *g, nw_session *session, const char *set, conformance_result *result) {
    nw_arena arena;
    nw_arena_init(&arena, ctx);
    nw_feed feeds[MAX_BORDER];
    nw_tensor outputs[MAX_BORDER] = {{.format = NW_NONE}};
    size_t count;
    bool ok =
        g->output_count <= MAX_BORDER || fail(result, config->name, "", "too many outputs for this runner");
    if (ok && read_feeds(ctx, g, set, &arena, feeds, &count) != NW_OK)
        ok = fail(result, config->name, "reading its inputs", ctx->message);
    if (ok && nw_session_run(session, count, feeds, &arena, outputs) != NW_OK)
        ok = fail(result, config->name, "", ctx->message);
    for (int i = 0; ok && i < g->output_count; i++) {
        nw_tensor want;
        char message[400], where[200];
        char *path =
            set ? nw_arena_printf(&arena, "%s/output_%d.pb", set, i)
                : nw_arena_printf(&arena, "%.*s_output_%d.pb", (int)strlen(c->model) - 5, c->model, i);
        snprintf(where, sizeof where, "output \"%s\"", g->values[g->outputs[i]].name);
        if (!path || nw_onnx_read_tensor(ctx, path, &arena, &want) != NW_OK)
            ok = fail(result, config->name, where, ctx->message);
        else if (!test_same(&outputs[i], &want, want.format == NW_BF16 ? 0x1p-6 : c->rtol, c->atol, message,
                            sizeof message))
            ok = fail(result, config->name, where, message);
    }
    nw_arena_free(&arena);
    return ok;
}

static bool run_sets(const conformance_case *c, const configuration *config, nw_context *ctx,
                     const nw_graph *g, nw_session *session, conformance_result *result) {
    if (!c->dir) return run_set(c, config, ctx, g, session, NULL, result);
    char **sets;
    size_t count = test_list(c->dir, "test_data_set_", "", &sets);
    bool ok = count > 0 || fail(result, config->name, "", "it has no test data");
    for (size_t i = 0; ok && i < count; i++) {
        char *path = nw_path_join(ctx, c->dir, sets[i]);
        ok = path ? run_set(c, config, ctx, g, session, path, result)
                  : fail(result, config->name, "", ctx->message);
        nw_free(ctx, path);
    }
    test_list_free(sets, count);
    return ok;
}

static bool run_configuration(const conformance_case *c, const configuration *config,
                              conformance_result *result) {
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    nw_graph *g = NULL;
    nw_session *session = NULL;
    bool ok =
        nw_onnx_import(&ctx, c->model, false, &g) == NW_OK || fail(result, config->name, "", ctx.message);
    if (ok && config->fold && nw_onnx_fold_quantization(g) != NW_OK)
        ok = fail(result, config->name, "", ctx.message);
    if (ok && nw_session_new(&ctx, g, &config->options, &session) != NW_OK)
        ok = fail(result, config->name, "", ctx.message);
    if (ok) ok = run_sets(c, config, &ctx, g, session, result);
    nw_session_free(session);
    nw_graph_free(g);
    return ok;
}

void conformance_inspect(const conformance_case *c, conformance_result *result) {
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    nw_graph *g = NULL;
    size_t at = 1;
    snprintf(result->ops, sizeof result->ops, " ");
    if (nw_onnx_import(&ctx, c->model, true, &g) != NW_OK) return;
    for (int i = 0; i < g->node_count; i++) {
        const nw_node *node = &g->nodes[i];
        char word[128];
        snprintf(word, sizeof word, " %s%s%s ", node->domain, node->domain[0] ? "." : "", node->op_type);
        if (strstr(result->ops, word) || at + strlen(word) >= sizeof result->ops) continue;
        at += (size_t)snprintf(result->ops + at, sizeof result->ops - at, "%s", word + 1);
    }
    nw_graph_free(g);
}

void conformance_run(const conformance_case *c, nw_isa isa, conformance_result *result) {
    const configuration normal = {"default", true, {.threads = 1, .isa = isa}};
    const configuration reference = {
        "reference", false, {.threads = 1, .isa = NW_ISA_SCALAR, .reference = true}};
    conformance_inspect(c, result);
    result->outcome = CASE_PASSED;
    if (run_configuration(c, &normal, result)) run_configuration(c, &reference, result);
}
