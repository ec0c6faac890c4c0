/* runner.c: models made ready to run, and the memory that takes.
 *
 * Memory is counted where it is asked for and not read off the process: the figure is then that of one model,
 * the same in every run, and does not include what other models of a comparison hold. */
#include "api/api.h"

#include <string.h>

/* In front of every block: its size; NW_ALIGN bytes, so that the block stays aligned. */
#define PREFIX NW_ALIGN

static void *metered_alloc(void *user, size_t size) {
    nw_meter *meter = user;
    size_t total;
    char *block = nw_add_size(size, PREFIX, &total) ? meter->base.alloc(meter->base.user, total) : NULL;
    if (!block) return NULL;
    memcpy(block, &size, sizeof size);
    size_t now = __atomic_add_fetch(&meter->now, size, __ATOMIC_RELAXED);
    size_t peak = __atomic_load_n(&meter->peak, __ATOMIC_RELAXED);
    while (now > peak &&
           !__atomic_compare_exchange_n(&meter->peak, &peak, now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return block + PREFIX;
}

static void metered_release(void *user, void *ptr) {
    nw_meter *meter = user;
    char *block = (char *)ptr - PREFIX;
    size_t size;
    memcpy(&size, block, sizeof size);
    __atomic_sub_fetch(&meter->now, size, __ATOMIC_RELAXED);
    meter->base.release(meter->base.user, block);
}

nw_status nw_runner_new(const nw_model *model, nw_runner **out) {
    nw_env *env = model->env;
    nw_runner *runner = nw_calloc(&env->ctx, 1, sizeof *runner);
    if (!runner) return NW_E_MEMORY;
    runner->model = model;
    runner->meter.base = env->ctx.allocator;
    runner->loaded = (size_t)nw_model_constant_bytes(model);
    nw_context_init(&runner->ctx, &(nw_allocator){metered_alloc, metered_release, &runner->meter});
    runner->ctx.warn = env->ctx.warn;
    runner->ctx.warn_user = env->ctx.warn_user;

    nw_run_options options = {.threads = env->threads, .isa = env->isa};
    nw_graph *graph = NULL;
    nw_status status = nw_model_prepare(model, &runner->ctx, &graph);
    if (status == NW_OK) status = nw_session_new(&runner->ctx, graph, &options, &runner->session);
    nw_graph_free(graph);
    if (status != NW_OK) {
        nw_env_take(env, &runner->ctx, status);
        nw_runner_free(runner);
        return status;
    }
    *out = runner;
    return NW_OK;
}

void nw_runner_free(nw_runner *runner) {
    if (!runner) return;
    nw_session_free(runner->session);
    nw_free(&runner->model->env->ctx, runner);
}

nw_status nw_runner_run(nw_runner *runner, size_t count, const nw_feed *feeds, nw_arena *arena,
                        nw_tensor *outputs) {
    nw_status status = nw_session_run(runner->session, count, feeds, arena, outputs);
    if (status == NW_OK) return NW_OK;
    nw_fail_where(&runner->ctx, status, "%s", runner->model->path);
    return nw_env_take(runner->model->env, &runner->ctx, status);
}

size_t nw_runner_peak(const nw_runner *runner) {
    return runner->loaded + __atomic_load_n(&runner->meter.peak, __ATOMIC_RELAXED);
}
