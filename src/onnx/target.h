/* target.h: what other runtimes make of a model: which of its nodes they compute on integers, which not, and why. Their rules as
 * far as they concern files (onnxruntime's QDQ selectors, OpenVINO's low-precision transformations), applied to the nodes of
 * the file: quantization as ONNX spells it, not folded.
 * Must not include anything but base/, num/, ir/, op/ and onnx/. */
#ifndef NW_ONNX_TARGET_H
#define NW_ONNX_TARGET_H

#include "ir/graph.h"

typedef enum nw_target {
    NW_TARGET_ANY,         /* integers where all of the others use them */
    NW_TARGET_ONNXRUNTIME, /* on processors, with its default optimizations */
    NW_TARGET_OPENVINO     /* on processors */
} nw_target;

const char *nw_target_name(nw_target target);

typedef enum nw_fate {
    NW_FATE_PART,    /* no arithmetic of its own: quantizers, constants, a Relu that a grid makes superfluous */
    NW_FATE_INTEGER, /* computed on integers */
    NW_FATE_CODES,   /* only moves or compares codes */
    NW_FATE_FLOAT
} nw_fate;

typedef struct nw_verdict {
    nw_fate fate;
    const char *kernel; /* the runtime's operator, of NW_FATE_INTEGER; static */
    const char *reason; /* of NW_FATE_FLOAT: what keeps it from integers; in the arena or static */
    const char *advice; /* what to change; NULL: nothing helps */
} nw_verdict;

/* verdicts [graph->node_count], one per node of the outermost graph, in its order; texts in `arena`. */
nw_status nw_target_judge(const nw_graph *graph, nw_target target, nw_arena *arena, nw_verdict *verdicts);
/* Why the runtime refuses the whole file, in `arena`; NULL: nothing that we know of. */
nw_status nw_target_refuses(const nw_graph *graph, nw_target target, nw_arena *arena, const char **reason);

#endif
