/* widen.h: models of 16-bit floats compute in f32: their weights stay as small as they are, all else is as fast, as exact and as
 * quantizable as in a model of f32.
 * Must not include anything but base/, num/, ir/, op/ and run/. */
#ifndef NW_RUN_WIDEN_H
#define NW_RUN_WIDEN_H

#include "ir/graph.h"

/* In place, subgraphs included. f16 and bf16 inputs and outputs of the model stay what they are, behind and before a Cast; weights
 * of layers become packed constants (a qparam of that float and scale 1), other constants f32; what lies between is no longer
 * rounded at every node. A Cast to 16 bits whose readers are Casts too rounds as before. Models that hold sequences, whose
 * elements have types of their own, stay as they are. The graph must be resolved; done twice it changes nothing more. */
nw_status nw_widen(nw_graph *graph);

#endif
