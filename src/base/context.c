#include "base/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *nw_status_string(nw_status status) {
    switch (status) {
#define NW_STATUS_CASE(id, text)                                                                             \
    case id: return text;
        NW_STATUS_LIST(NW_STATUS_CASE)
#undef NW_STATUS_CASE
    }
    return "unknown status";
}

static void *heap_alloc(void *user, size_t size) {
    (void)user;
    void *ptr = NULL;
    if (size > SIZE_MAX - NW_ALIGN) return NULL;
    return posix_memalign(&ptr, NW_ALIGN, size ? size : 1) == 0 ? ptr : NULL;
}

static void heap_release(void *user, void *ptr) {
    (void)user;
    free(ptr);
}

void nw_context_init(nw_context *ctx, const nw_allocator *allocator) {
    memset(ctx, 0, sizeof *ctx);
    if (allocator)
        ctx->allocator = *allocator;
    else
        ctx->allocator = (nw_allocator){heap_alloc, heap_release, NULL};
}

void nw_context_child(nw_context *child, const nw_context *parent) {
    nw_context_init(child, &parent->allocator);
}

nw_status(nw_fail)(nw_context *ctx, nw_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    ctx->status = status;
    vsnprintf(ctx->message, sizeof ctx->message, format, args);
    va_end(args);
    return status;
}

nw_status nw_fail_where(nw_context *ctx, nw_status status, const char *format, ...) {
    char text[sizeof ctx->message];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (used < 0) used = 0;
    size_t at = (size_t)used < sizeof text ? (size_t)used : sizeof text - 1;
    const char *detail = ctx->message[0] ? ctx->message : nw_status_string(status);
    snprintf(text + at, sizeof text - at, ": %s", detail);
    memcpy(ctx->message, text, sizeof text);
    ctx->status = status;
    return status;
}

void nw_warn(nw_context *ctx, const char *format, ...) {
    if (!ctx->warn) return;
    char line[sizeof ctx->message];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->warn(ctx->warn_user, line);
}

void *nw_alloc(nw_context *ctx, size_t size) {
    void *ptr = ctx->allocator.alloc(ctx->allocator.user, size);
    if (!ptr) nw_fail(ctx, NW_E_MEMORY, "out of memory: %zu bytes asked for", size);
    return ptr;
}

void *nw_calloc(nw_context *ctx, size_t count, size_t size) {
    size_t total;
    if (!nw_mul_size(count, size, &total)) {
        nw_fail(ctx, NW_E_MEMORY, "out of memory: %zu elements of %zu bytes asked for", count, size);
        return NULL;
    }
    void *ptr = nw_alloc(ctx, total);
    if (ptr) memset(ptr, 0, total);
    return ptr;
}

void nw_free(nw_context *ctx, void *ptr) {
    if (ptr) ctx->allocator.release(ctx->allocator.user, ptr);
}

nw_status nw_grow(nw_context *ctx, void **array, size_t *capacity, size_t count, size_t need, size_t size) {
    if (need <= *capacity) return NW_OK;
    size_t larger = *capacity + *capacity / 2, bytes;
    if (larger < need) larger = need;
    if (larger < 8) larger = 8;
    if (!nw_mul_size(larger, size, &bytes))
        return nw_fail(ctx, NW_E_MEMORY, "out of memory: array too large");
    void *fresh = nw_alloc(ctx, bytes);
    if (!fresh) return NW_E_MEMORY;
    if (count) memcpy(fresh, *array, count * size);
    nw_free(ctx, *array);
    *array = fresh;
    *capacity = larger;
    return NW_OK;
}
