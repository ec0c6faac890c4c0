/* arena.h: memory that is released all at once. Three lifetimes use it: graph, plan, one evaluation.
 * Must not include anything but base/. */
#ifndef NW_BASE_ARENA_H
#define NW_BASE_ARENA_H

#include "base/context.h"

typedef struct nw_arena_chunk nw_arena_chunk;

typedef struct nw_arena {
    nw_context *ctx; /* where memory comes from and failures go */
    nw_arena_chunk *chunks;
} nw_arena;

void nw_arena_init(nw_arena *arena, nw_context *ctx); /* takes no memory yet */
void nw_arena_free(nw_arena *arena);                  /* releases everything; the arena may be used again */
void nw_arena_reset(nw_arena *arena); /* forgets everything, keeps the largest chunk for reuse */

/* Zeroed memory. NULL on failure (recorded in the context). nw_arena_alloc aligns to 16 bytes,
 * nw_arena_array checks count*size, nw_arena_data aligns to NW_ALIGN and is NOT zeroed (tensor data). */
void *nw_arena_alloc(nw_arena *arena, size_t size);
void *nw_arena_array(nw_arena *arena, size_t count, size_t size);
void *nw_arena_data(nw_arena *arena, size_t size);
char *nw_arena_strdup(nw_arena *arena, const char *text);
char *nw_arena_strndup(nw_arena *arena, const char *text, size_t length);
char *nw_arena_printf(nw_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Room for one more element in an arena array of *count elements with *capacity allocated: the old copy stays in
 * the arena (amortised, the waste is at most the size of the array). */
nw_status nw_arena_grow(nw_arena *arena, void **array, size_t *capacity, size_t count, size_t size);

#endif
