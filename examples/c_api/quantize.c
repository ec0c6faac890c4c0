/* quantize.c: the main job from C: load a model, calibrate on data, save the int8 model, compare the two.
 *
 *     cc quantize.c $(pkg-config --cflags --libs narrow) -o quantize
 *     ./quantize letters.onnx letters/ scale=1/255,mean=0.5,std=0.5 letters-int8.onnx */
#include <narrow/narrow.h>
#include <stdio.h>

static int fail(const nw_env *env) {
    fprintf(stderr, "quantize: %s\n", nw_env_message(env));
    return 1;
}

static int quantize(nw_env *env, char **argv) {
    nw_model *models[2] = {NULL, NULL};
    nw_data *calibration = NULL, *test = NULL;
    nw_report *report = NULL;
    nw_data_options train = {.preprocess = argv[3], .samples = 200, .calibration = 1};
    nw_data_options held_out = {.preprocess = argv[3], .samples = 500};
    nw_quantize_options recipe = {.observer = "percentile", .save_as = argv[4]};

    nw_result result = nw_model_load(env, argv[1], &models[0]);
    if (result == NW_SUCCESS) result = nw_data_open(env, argv[2], &train, &calibration);
    if (result == NW_SUCCESS) result = nw_model_quantize(models[0], calibration, &recipe, &models[1], NULL);
    if (result == NW_SUCCESS) result = nw_data_open(env, argv[2], &held_out, &test);
    if (result == NW_SUCCESS) result = nw_compare(2, (const nw_model *const *)models, test, NULL, &report);
    if (result == NW_SUCCESS) {
        printf("%s", nw_report_text(report, 0));
        printf("\nsame answer on %.1f %% of the images, %.1f times smaller\n",
               100 * nw_report_number(report, "models.1.agreement"),
               nw_report_number(report, "models.1.compression_ratio"));
    }
    int code = result == NW_SUCCESS ? 0 : fail(env);
    nw_report_free(report);
    nw_data_free(test);
    nw_data_free(calibration);
    nw_model_free(models[1]);
    nw_model_free(models[0]);
    return code;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: quantize MODEL DATA PREPROCESS OUT\n");
        return 2;
    }
    nw_env *env;
    if (nw_env_new(NULL, &env) != NW_SUCCESS) return 1;
    int code = quantize(env, argv);
    nw_env_free(env);
    return code;
}
