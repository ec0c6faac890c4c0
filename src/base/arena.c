#include "base/arena.h"

#include <stdio.h>
#include <string.h>

struct nw_arena_chunk {
    nw_arena_chunk *next;
    size_t size, used; /* bytes after the header */
};

#define HEADER nw_align_size(sizeof(nw_arena_chunk))
#ifdef NW_SANITIZE /* a block of the heap for each allocation: the address sanitizer sees where it ends */
#define CHUNK ((size_t)0)
#else
#define CHUNK ((size_t)64 * 1024 - HEADER)
#endif
#define MOST_KEPT                                                                                            \
    ((size_t)4 << 20) /* by a reset: a large layer's memory is not held for the small ones after it */

void nw_arena_init(nw_arena *arena, nw_context *ctx) {
    *arena = (nw_arena){ctx, NULL};
}

void nw_arena_free(nw_arena *arena) {
    for (nw_arena_chunk *c = arena->chunks, *next; c; c = next) {
        next = c->next;
        nw_free(arena->ctx, c);
    }
    arena->chunks = NULL;
}

void nw_arena_reset(nw_arena *arena) {
    nw_arena_chunk *keep = NULL;
    for (nw_arena_chunk *c = arena->chunks; c; c = c->next)
        if (c->size <= MOST_KEPT && (!keep || c->size > keep->size)) keep = c;
    for (nw_arena_chunk *c = arena->chunks, *next; c; c = next) {
        next = c->next;
        if (c != keep) nw_free(arena->ctx, c);
    }
    if (keep) {
        keep->next = NULL;
        keep->used = 0;
    }
    arena->chunks = keep;
}

static void *take(nw_arena *arena, size_t size, size_t align) {
    nw_arena_chunk *c = arena->chunks;
    if (c) {
        size_t at = (c->used + align - 1) / align * align;
        if (at <= c->size && size <= c->size - at) {
            c->used = at + size;
            return (char *)c + HEADER + at;
        }
    }
    size_t room = size > CHUNK / 4 ? size : CHUNK, total;
    if (!nw_add_size(room, HEADER, &total)) {
        nw_fail(arena->ctx, NW_E_MEMORY, "out of memory: %zu bytes asked for", size);
        return NULL;
    }
    nw_arena_chunk *fresh = nw_alloc(arena->ctx, total);
    if (!fresh) return NULL;
    *fresh = (nw_arena_chunk){NULL, room, size};
    if (c && room == size) { /* a large block goes behind the current chunk, which keeps serving small ones */
        fresh->next = c->next;
        c->next = fresh;
    } else {
        fresh->next = c;
        arena->chunks = fresh;
    }
    return (char *)fresh + HEADER;
}

void *nw_arena_alloc(nw_arena *arena, size_t size) {
    void *ptr = take(arena, size, 16);
    if (ptr) memset(ptr, 0, size);
    return ptr;
}

void *nw_arena_array(nw_arena *arena, size_t count, size_t size) {
    size_t total;
    if (!nw_mul_size(count, size, &total)) {
        nw_fail(arena->ctx, NW_E_MEMORY, "out of memory: %zu elements of %zu bytes asked for", count, size);
        return NULL;
    }
    return nw_arena_alloc(arena, total);
}

void *nw_arena_data(nw_arena *arena, size_t size) {
    return take(arena, size, NW_ALIGN);
}

char *nw_arena_strndup(nw_arena *arena, const char *text, size_t length) {
    char *copy = take(arena, length + 1, 1);
    if (!copy) return NULL;
    if (length) memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

char *nw_arena_strdup(nw_arena *arena, const char *text) {
    return nw_arena_strndup(arena, text, strlen(text));
}

char *nw_arena_printf(nw_arena *arena, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    char *text = length < 0 ? NULL : take(arena, (size_t)length + 1, 1);
    if (text) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

nw_status nw_arena_grow(nw_arena *arena, void **array, size_t *capacity, size_t count, size_t size) {
    if (count < *capacity) return NW_OK;
    size_t larger = *capacity < 8 ? 8 : *capacity * 2;
    void *fresh = nw_arena_array(arena, larger, size);
    if (!fresh) return NW_E_MEMORY;
    if (count) memcpy(fresh, *array, count * size);
    *array = fresh;
    *capacity = larger;
    return NW_OK;
}
