/* context.h: what every fallible function receives: the allocator and the place for the error message.
 * A context belongs to one thread at a time; a worker thread makes its own with nw_context_child.
 * Must not include anything but base/. */
#ifndef NW_BASE_CONTEXT_H
#define NW_BASE_CONTEXT_H

#include "base/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* Memory comes from here only. `alloc` returns `size` bytes aligned to NW_ALIGN, or NULL. */
typedef struct nw_allocator {
    void *(*alloc)(void *user, size_t size);
    void (*release)(void *user, void *ptr);
    void *user;
} nw_allocator;

#define NW_ALIGN 64 /* bytes: one cache line, one AVX-512 register */

typedef void nw_log_fn(void *user, const char *line);

typedef struct nw_context {
    nw_allocator allocator;
    nw_status status;   /* of the last failure */
    char message[1024]; /* its detail, in words a user understands; "" when there is none */
    nw_log_fn *warn;    /* warnings, one line each; NULL drops them */
    void *warn_user;
} nw_context;

/* A context over malloc (allocator NULL) or over the caller's allocator. Cannot fail. */
void nw_context_init(nw_context *ctx, const nw_allocator *allocator);
void nw_context_child(nw_context *child, const nw_context *parent);

/* Records the failure and returns `status`, so that `return nw_fail(ctx, NW_E_SHAPE, "Conv \"%s\": …", …);`. */
nw_status nw_fail(nw_context *ctx, nw_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The macro shows compilers and analysers that the result is the status given, never NW_OK by accident. */
#define nw_fail(where, code, ...)                                                                            \
    __extension__({                                                                                          \
        const nw_status code_ = (code);                                                                      \
        (nw_fail)((where), code_, __VA_ARGS__);                                                              \
        code_;                                                                                               \
    })
/* Puts "prefix: " before the recorded message: callers add where it happened (a node, a file). */
nw_status nw_fail_where(nw_context *ctx, nw_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void nw_warn(nw_context *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* NULL on failure, with NW_E_MEMORY recorded in the context. Zero bytes give a valid pointer. */
void *nw_alloc(nw_context *ctx, size_t size);
void *nw_calloc(nw_context *ctx, size_t count, size_t size); /* zeroed; checks count*size for overflow */
void nw_free(nw_context *ctx, void *ptr);                    /* NULL is fine */

/* Grows the heap array *array (count elements of `size` bytes in use, *capacity allocated) so that at least
 * `need` fit. On failure the array is untouched. */
nw_status nw_grow(nw_context *ctx, void **array, size_t *capacity, size_t count, size_t need, size_t size);

/* a*b and a+b with overflow reported as false. */
static inline int nw_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline int nw_add_size(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
/* The least multiple of NW_ALIGN that is not below size; size ≤ SIZE_MAX − NW_ALIGN. */
static inline size_t nw_align_size(size_t size) {
    return (size + NW_ALIGN - 1) / NW_ALIGN * NW_ALIGN;
}
static inline size_t nw_least(size_t a, size_t b) {
    return a < b ? a : b;
}

#endif
