/* cmd_run.c: narrow run */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FIELD(name) offsetof(settings, name)
#define NAME_SIZE   256

static const option options_run[] = {
    {"input", 'i', OPTION_LIST, "NAME=FILE.npy", FIELD(inputs),
     "a NumPy array for an input; once per input. The name may be left out when there is only one", NULL, 0},
    {"output-dir", 'o', OPTION_FILE, "DIR", FIELD(output_dir), "write every output to DIR/NAME.npy", NULL, 0},
    {"explain", 0, OPTION_FLAG, NULL, FIELD(explain), "print the steps: kernel, layout, shapes, reason", NULL,
     0},
    {0},
};

typedef struct inputs {
    nw_array **loaded; /* [count], own the data */
    nw_array *arrays;  /* [count], with names */
    char (*names)[NAME_SIZE];
    size_t count;
} inputs;

static int load(nw_env *env, const settings *s, inputs *in) {
    in->count = s->inputs.count;
    in->loaded = calloc(in->count + 1, sizeof *in->loaded);
    in->arrays = calloc(in->count + 1, sizeof *in->arrays);
    in->names = calloc(in->count + 1, sizeof *in->names);
    if (!in->loaded || !in->arrays || !in->names) return say_failed("out of memory");
    for (size_t i = 0; i < in->count; i++) {
        const char *name, *path;
        split_name(s->inputs.items[i], in->names[i], sizeof in->names[i], &name, &path);
        if (nw_array_load(env, path, &in->loaded[i]) != NW_SUCCESS) return EXIT_FAILED;
        in->arrays[i] = *in->loaded[i];
        in->arrays[i].name = name;
    }
    return EXIT_DONE;
}

static void unload(inputs *in) {
    for (size_t i = 0; in->loaded && i < in->count; i++) nw_array_free(in->loaded[i]);
    free(in->loaded);
    free(in->arrays);
    free(in->names);
}

static void shape_of(const nw_array *a, char *buffer, size_t size) {
    size_t at = (size_t)snprintf(buffer, size, "%s [", nw_type_name(a->type));
    for (int d = 0; d < a->rank && at < size; d++)
        at += (size_t)snprintf(buffer + at, size - at, "%s%lld", d ? "," : "", (long long)a->dims[d]);
    if (at < size) snprintf(buffer + at, size - at, "]");
}

/* DIR/NAME.npy. Names are the model's and may hold anything: what is no ordinary file name becomes '_'. */
static int path_of(const char *dir, const char *name, size_t index, char *buffer, size_t size) {
    char safe[NAME_SIZE];
    size_t n = 0;
    for (; name[n] && n + 1 < sizeof safe; n++) {
        unsigned char c = (unsigned char)name[n];
        safe[n] = c < 0x20 || c == 0x7F || c == '/' || c == '\\' || c == ':' || (c == '.' && n == 0)
                      ? '_'
                      : (char)c;
    }
    safe[n] = 0;
    int length =
        n ? snprintf(buffer, size, "%s/%s.npy", dir, safe) : snprintf(buffer, size, "%s/%zu.npy", dir, index);
    return length > 0 && (size_t)length < size ? EXIT_DONE
                                               : say_failed("the path of output \"%s\" is too long", name);
}

/* A folder and those above it, as mkdir -p makes them. */
static int make_folder(const char *path) {
    char part[4096];
    size_t length = strlen(path);
    if (length >= sizeof part) return say_failed("the path of the output folder is too long");
    for (size_t i = 1; i <= length; i++) {
        if (path[i] && path[i] != '/') continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return say_failed("cannot make the folder %s: %s", part, strerror(errno));
    }
    return EXIT_DONE;
}

static int write_outputs(nw_env *env, const settings *s, size_t count, const nw_array *outputs) {
    char path[4096], other[4096], shape[256];
    int made = s->output_dir ? make_folder(s->output_dir) : EXIT_DONE;
    if (made != EXIT_DONE) return made;
    for (size_t i = 0; i < count; i++) {
        shape_of(&outputs[i], shape, sizeof shape);
        if (!s->output_dir) {
            if (!s->quiet) printf("%s  %s\n", outputs[i].name, shape);
            continue;
        }
        int code = path_of(s->output_dir, outputs[i].name, i, path, sizeof path);
        for (size_t k = 0; code == EXIT_DONE && k < i; k++) {
            code = path_of(s->output_dir, outputs[k].name, k, other, sizeof other);
            if (code == EXIT_DONE && strcmp(path, other) == 0)
                return say_failed("outputs \"%s\" and \"%s\" would both be written to %s", outputs[k].name,
                                  outputs[i].name, path);
        }
        if (code != EXIT_DONE) return code;
        if (nw_array_save(env, path, &outputs[i]) != NW_SUCCESS) return EXIT_FAILED;
        if (!s->quiet) printf("%s  %s  %s\n", outputs[i].name, shape, path);
    }
    return EXIT_DONE;
}

static void print_line(void *user, const char *line) {
    (void)user;
    puts(line);
}

static int run(nw_env *env, const settings *s) {
    nw_model *model = NULL;
    inputs in = {0};
    const nw_array *outputs;
    int code = load(env, s, &in);
    if (code == EXIT_DONE && nw_model_load(env, s->arguments.items[0], &model) != NW_SUCCESS)
        code = EXIT_FAILED;
    if (code == EXIT_DONE && nw_model_run(model, in.count, in.arrays, &outputs) != NW_SUCCESS)
        code = EXIT_FAILED;
    if (code == EXIT_DONE && s->explain && nw_model_explain(model, print_line, NULL) != NW_SUCCESS)
        code = EXIT_FAILED;
    if (code == EXIT_DONE) code = write_outputs(env, s, nw_model_output_count(model), outputs);
    nw_model_free(model);
    unload(&in);
    return code;
}

const command command_run = {
    .name = "run",
    .summary = "run a model on NumPy arrays",
    .usage = "MODEL --input NAME=FILE.npy… [--output-dir DIR]",
    .description = "Runs the model once and writes each output as a NumPy array. Types and shapes must be "
                   "the model's own "
                   "(narrow info says which). --explain shows how the model runs on this machine.",
    .least = 1,
    .most = 1,
    .groups = {{"Inputs and outputs", options_run}, {"Options", options_common}},
    .examples = {{"narrow run model.onnx --input image.npy --output-dir out", "one input, no name needed"},
                 {"narrow run model.onnx -i ids=ids.npy -i mask=mask.npy -o out", "several inputs"},
                 {"narrow run model.onnx -i image.npy --explain",
                  "which layers run on integers, and why others do not"}},
    .run = run,
};
