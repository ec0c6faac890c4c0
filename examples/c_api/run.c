/* run.c: running a model from C, on an array the program made itself: here an image of zeros.
 *
 *     cc run.c $(pkg-config --cflags --libs narrow) -o run
 *     ./run letters.onnx */
#include <narrow/narrow.h>
#include <stdio.h>
#include <stdlib.h>

/* A zero-filled array of the input's shape, free dimensions set to 1. The data is the caller's to free. */
static int make_input(const nw_array *port, nw_array *input) {
    size_t count = 1;
    *input = *port;
    for (int d = 0; d < input->rank; d++) {
        if (input->dims[d] < 0) input->dims[d] = 1;
        count *= (size_t)input->dims[d];
    }
    input->data = port->type == NW_TYPE_F32 ? calloc(count, sizeof(float)) : NULL;
    return input->data != NULL;
}

static int run(nw_env *env, const char *path) {
    nw_model *model;
    if (nw_model_load(env, path, &model) != NW_SUCCESS) return 1;
    if (nw_model_input_count(model) != 1) {
        fprintf(stderr, "run: this example feeds models of one input\n");
        nw_model_free(model);
        return 2;
    }
    nw_array input;
    const nw_array *outputs; /* the model's own: valid until it runs again */
    nw_result result = NW_ERROR_TYPE;
    if (make_input(nw_model_input(model, 0), &input)) result = nw_model_run(model, 1, &input, &outputs);
    for (size_t i = 0; result == NW_SUCCESS && i < nw_model_output_count(model); i++) {
        printf("%s (%s):", outputs[i].name, nw_type_name(outputs[i].type));
        size_t count = 1;
        for (int d = 0; d < outputs[i].rank; d++) count *= (size_t)outputs[i].dims[d];
        const float *values = outputs[i].data;
        for (size_t k = 0; outputs[i].type == NW_TYPE_F32 && k < count && k < 8; k++)
            printf(" %g", (double)values[k]);
        printf("%s\n", count > 8 ? " …" : "");
    }
    free(input.data);
    nw_model_free(model);
    return result == NW_SUCCESS ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: run MODEL\n");
        return 2;
    }
    nw_env *env;
    if (nw_env_new(NULL, &env) != NW_SUCCESS) return 1;
    int code = run(env, argv[1]);
    if (code == 1) fprintf(stderr, "run: %s\n", nw_env_message(env));
    nw_env_free(env);
    return code;
}
