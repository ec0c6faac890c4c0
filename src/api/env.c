/* env.c: environments, results, words; and the proof that the public numbers are the internal ones. */
#include "api/api.h"
#include "base/words.h"
#include "quant/recipe.h"
#include "train/zoo.h"

#include <string.h>
#include <unistd.h>

#define SAME(a, b) _Static_assert((int)(a) == (int)(b), #a " differs from " #b)
SAME(NW_SUCCESS, NW_OK);
SAME(NW_ERROR_MEMORY, NW_E_MEMORY);
SAME(NW_ERROR_IO, NW_E_IO);
SAME(NW_ERROR_FORMAT, NW_E_FORMAT);
SAME(NW_ERROR_UNSUPPORTED, NW_E_UNSUPPORTED);
SAME(NW_ERROR_SHAPE, NW_E_SHAPE);
SAME(NW_ERROR_TYPE, NW_E_TYPE);
SAME(NW_ERROR_ARGUMENT, NW_E_ARGUMENT);
SAME(NW_ERROR_DATA, NW_E_DATA);
SAME(NW_ERROR_NEED_VALUE, NW_E_NEED_VALUE);
SAME(NW_ERROR_INTERNAL, NW_E_INTERNAL);
SAME(NW_TYPE_NONE, NW_NONE);
SAME(NW_TYPE_F32, NW_F32);
SAME(NW_TYPE_U8, NW_U8);
SAME(NW_TYPE_S8, NW_S8);
SAME(NW_TYPE_U16, NW_U16);
SAME(NW_TYPE_S16, NW_S16);
SAME(NW_TYPE_S32, NW_S32);
SAME(NW_TYPE_S64, NW_S64);
SAME(NW_TYPE_STRING, NW_STR);
SAME(NW_TYPE_BOOL, NW_BOOL);
SAME(NW_TYPE_F16, NW_F16);
SAME(NW_TYPE_F64, NW_F64);
SAME(NW_TYPE_U32, NW_U32);
SAME(NW_TYPE_U64, NW_U64);
SAME(NW_TYPE_BF16, NW_BF16);
SAME(NW_ARRAY_RANK, NW_MAX_RANK);
SAME(NW_SWITCH_AUTO, NW_AUTO);
SAME(NW_SWITCH_OFF, NW_NO);
SAME(NW_SWITCH_ON, NW_YES);

#ifndef NW_VERSION
#define NW_VERSION "0.1.0"
#endif

const char *nw_version(void) {
    return NW_VERSION;
}
const char *nw_result_text(nw_result result) {
    return nw_status_string((nw_status)result);
}
const char *nw_type_name(nw_type type) {
    return nw_format_name((nw_format)type);
}

const char *nw_words(nw_word_list list) {
    switch (list) {
    case NW_WORDS_MODE: return NW_MODE_WORDS;
    case NW_WORDS_FORM: return "qdq|qoperator|native|matmulnbits";
    case NW_WORDS_ACTIVATION: return NW_ACTIVATION_WORDS;
    case NW_WORDS_WEIGHT: return "s8|u8|s4|u4|s2|u2|s16|u16";
    case NW_WORDS_OBSERVER:
        return &(""
#define NW_OBSERVER(id, name, file, bins, help) "|" name
#include "quant/observers.def"
#undef NW_OBSERVER
                 )[1];
    case NW_WORDS_NORM: return "l2|l1";
    case NW_WORDS_ISA:
#define NW_ISA_WORD(id, word) "|" #word
        return &("" NW_ISA_LIST(NW_ISA_WORD))[1];
#undef NW_ISA_WORD
    case NW_WORDS_ARCHITECTURE: return NW_ZOO_WORDS;
    case NW_WORDS_LOSS: return "cross-entropy|squares";
    case NW_WORDS_OPTIMIZER: return "sgd|adam|adamw";
    case NW_WORDS_PRESET: return nw_preset_words();
    case NW_WORDS_SCHEDULE: return "constant|step|cosine";
    case NW_WORDS_TARGET: return "any|onnxruntime|openvino";
    }
    return "";
}

nw_status nw_env_word(nw_env *env, const char *what, const char *word, nw_word_list list, int *index) {
    *index = word ? nw_word_index(nw_words(list), word) : 0;
    if (*index >= 0) return NW_OK;
    return nw_fail(&env->ctx, NW_E_ARGUMENT, "%s \"%s\" is unknown: use one of %s", what, word,
                   nw_words(list));
}

nw_result nw_env_new(const nw_memory *memory, nw_env **env) {
    if (!env) return NW_ERROR_ARGUMENT;
    nw_context ctx;
    nw_allocator allocator = {0};
    if (memory) allocator = (nw_allocator){memory->alloc, memory->release, memory->user};
    nw_context_init(&ctx, memory ? &allocator : NULL);
    nw_env *e = nw_calloc(&ctx, 1, sizeof *e);
    if (!e) return NW_ERROR_MEMORY;
    *e = (nw_env){.ctx = ctx, .isa = nw_isa_detect()};
    *env = e;
    return NW_SUCCESS;
}

void nw_env_free(nw_env *env) {
    if (!env) return;
    nw_context ctx = env->ctx;
    nw_free(&ctx, env);
}

const char *nw_env_message(const nw_env *env) {
    if (!env) return "no environment was given";
    return env->ctx.message[0] || env->ctx.status == NW_OK ? env->ctx.message
                                                           : nw_status_string(env->ctx.status);
}

nw_result nw_env_set_threads(nw_env *env, int threads) {
    if (!env || threads < 0 || threads > 4096)
        return nw_misuse(env, "the number of threads is 0 (one per core) to 4096");
    env->threads = threads;
    return NW_SUCCESS;
}

nw_result nw_env_set_isa(nw_env *env, const char *isa) {
    if (!env) return NW_ERROR_ARGUMENT;
    nw_isa wanted = nw_isa_detect();
    if (isa && !nw_isa_by_name(isa, &wanted))
        return nw_result_of(nw_fail(&env->ctx, NW_E_ARGUMENT, "unknown instruction set \"%s\": use one of %s",
                                    isa, nw_words(NW_WORDS_ISA)));
    env->isa = wanted;
    return NW_SUCCESS;
}

void nw_env_on_warning(nw_env *env, nw_warning_fn *fn, void *user) {
    env->ctx.warn = fn;
    env->ctx.warn_user = user;
}

void nw_env_on_progress(nw_env *env, nw_progress_fn *fn, void *user) {
    env->progress = fn;
    env->progress_user = user;
}

void nw_env_progress(const nw_env *env, const char *what, size_t done, size_t total) {
    if (env->progress) env->progress(env->progress_user, what, done, total);
}

int nw_env_threads(const nw_env *env) {
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return env->threads ? env->threads : cores > 0 ? (int)cores : 1;
}

void nw_env_write(const nw_env *env, nw_record *record) {
    nw_record_number(record, "threads", NULL, NW_UNIT_COUNT, nw_env_threads(env));
    nw_record_text(record, "isa", NULL, nw_isa_name(nw_isa_limit(env->isa)));
}

nw_status nw_env_take(nw_env *env, const nw_context *from, nw_status status) {
    if (status != NW_OK)
        nw_fail(&env->ctx, status, "%s", from->message[0] ? from->message : nw_status_string(status));
    return status;
}
