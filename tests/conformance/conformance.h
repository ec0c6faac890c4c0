/* conformance.h: one case of ONNX's backend tests.
 * For tests/conformance only. */
#ifndef NW_TESTS_CONFORMANCE_H
#define NW_TESTS_CONFORMANCE_H

#include "kern/isa.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct conformance_case {
    char *name;       /* "node/test_abs", "light/light_resnet50" */
    char *model;      /* its .onnx file */
    char *dir;        /* holds test_data_set_*; NULL: inputs are generated, outputs lie beside the model */
    const char *skip; /* why it is not run, or NULL */
    double rtol, atol;
} conformance_case;

typedef enum conformance_outcome { CASE_PASSED, CASE_FAILED, CASE_SKIPPED } conformance_outcome;

/* Fits into one atomic write to a pipe. */
typedef struct conformance_result {
    conformance_outcome outcome;
    char reason[1400]; /* of a failure */
    char ops[1600];    /* distinct operators of the main graph: " Conv Relu " */
} conformance_result;

/* Runs the case as the library would, with kernels up to `isa`, and as the plain reference. */
void conformance_run(const conformance_case *c, nw_isa isa, conformance_result *result);
/* Only names its operators. */
void conformance_inspect(const conformance_case *c, conformance_result *result);

#endif
