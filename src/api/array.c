/* array.c: arrays and NumPy files. */
#include "api/api.h"
#include "data/npy.h"

#include <string.h>

/* One block: the array and, aligned behind it, its elements. `release` is remembered in front, because
 * nw_array_free gets no environment. */
typedef struct loaded {
    nw_array array;
    nw_allocator allocator;
} loaded;

nw_result nw_array_load(nw_env *env, const char *path, nw_array **array) {
    if (!env || !path || !array) return nw_misuse(env, "nw_array_load: an argument is missing");
    nw_npy npy;
    nw_status status = nw_npy_map(&env->ctx, path, &npy);
    if (status != NW_OK) return nw_result_of(status);
    size_t header = nw_align_size(sizeof(loaded)),
           bytes = nw_tensor_bytes(&npy.tensor), total;
    loaded *block = nw_add_size(header, bytes, &total) ? nw_alloc(&env->ctx, total) : NULL;
    if (block) {
        *block = (loaded){{NULL, (nw_type)npy.tensor.format, npy.tensor.rank, {0}, (char *)block + header},
                          env->ctx.allocator};
        memcpy(block->array.dims, npy.tensor.dims, sizeof block->array.dims);
        if (bytes) memcpy(block->array.data, npy.tensor.data, bytes);
        *array = &block->array;
    }
    nw_npy_free(&npy);
    return block ? NW_SUCCESS : NW_ERROR_MEMORY;
}

nw_result nw_array_save(nw_env *env, const char *path, const nw_array *array) {
    if (!env || !path || !array) return nw_misuse(env, "nw_array_save: an argument is missing");
    nw_tensor t = {.format = (nw_format)array->type, .rank = array->rank, .data = array->data};
    memcpy(t.dims, array->dims, sizeof t.dims);
    nw_status status = nw_tensor_check(&env->ctx, &t);
    if (status == NW_OK && !t.data && nw_tensor_bytes(&t))
        return nw_misuse(env, "nw_array_save: the array has no data");
    return nw_result_of(status == NW_OK ? nw_npy_write(&env->ctx, path, &t) : status);
}

void nw_array_free(nw_array *array) {
    if (!array) return;
    loaded *block = (loaded *)array;
    nw_allocator allocator = block->allocator;
    allocator.release(allocator.user, block);
}
