/* data.c: data sets. */
#include "api/api.h"

#include <string.h>

static nw_dataset_options internal(const nw_data_options *options) {
    nw_dataset_options o = nw_dataset_options_default();
    if (options) {
        o.preprocess = options->preprocess;
        o.labels = options->labels;
        o.skip = options->skip;
        o.samples = options->samples;
        o.prefer_train = options->calibration != 0;
        o.shuffle = options->shuffle != 0;
    }
    return o;
}

static nw_result wrap(nw_env *env, nw_dataset *dataset, nw_data **out) {
    nw_data *data = nw_calloc(&env->ctx, 1, sizeof *data);
    if (!data) {
        nw_dataset_free(dataset);
        return NW_ERROR_MEMORY;
    }
    data->env = env;
    data->dataset = dataset;
    nw_dataset_describe(dataset, data->description, sizeof data->description);
    *out = data;
    return NW_SUCCESS;
}

nw_result nw_data_open(nw_env *env, const char *path, const nw_data_options *options, nw_data **data) {
    if (!env || !path || !data) return nw_misuse(env, "nw_data_open: an argument is missing");
    nw_dataset_options o = internal(options);
    nw_dataset *dataset;
    nw_status status = nw_dataset_open(&env->ctx, path, &o, &dataset);
    return status == NW_OK ? wrap(env, dataset, data) : nw_result_of(status);
}

static nw_status tensor_of(nw_env *env, const nw_array *array, nw_tensor *t) {
    *t = (nw_tensor){.format = (nw_format)array->type, .rank = array->rank, .data = array->data};
    memcpy(t->dims, array->dims, sizeof t->dims);
    NW_TRY(nw_tensor_check(&env->ctx, t));
    if (!t->data && nw_tensor_bytes(t))
        return nw_fail(&env->ctx, NW_E_ARGUMENT, "an array of the data set has no data");
    return NW_OK;
}

nw_result nw_data_from_arrays(nw_env *env, size_t count, const nw_array *inputs, const nw_array *labels,
                              const nw_data_options *options, nw_data **data) {
    if (!env || !inputs || count == 0 || !data)
        return nw_misuse(env, "nw_data_from_arrays: an argument is missing");
    nw_dataset_options o = internal(options);
    nw_dataset *dataset = NULL;
    nw_arena scratch;
    nw_arena_init(&scratch, &env->ctx);
    nw_tensor *tensors = nw_arena_array(&scratch, count, sizeof *tensors), label;
    const char **names = nw_arena_array(&scratch, count, sizeof *names);
    nw_status status = tensors && names ? NW_OK : NW_E_MEMORY;
    for (size_t i = 0; status == NW_OK && i < count; i++) {
        names[i] = inputs[i].name;
        status = tensor_of(env, &inputs[i], &tensors[i]);
    }
    if (status == NW_OK && labels) status = tensor_of(env, labels, &label);
    if (status == NW_OK)
        status =
            nw_dataset_from_arrays(&env->ctx, count, names, tensors, labels ? &label : NULL, &o, &dataset);
    nw_arena_free(&scratch);
    return status == NW_OK ? wrap(env, dataset, data) : nw_result_of(status);
}

void nw_data_free(nw_data *data) {
    if (!data) return;
    nw_dataset_free(data->dataset);
    nw_free(&data->env->ctx, data);
}

size_t nw_data_count(const nw_data *data) {
    return data ? nw_dataset_count(data->dataset) : 0;
}
const char *nw_data_description(const nw_data *data) {
    return data ? data->description : "";
}
