/* fold.h: what the files that read quantization out of ONNX share. Private to onnx/.
 * Must not include anything but base/, num/, ir/, op/ and onnx/. */
#ifndef NW_ONNX_FOLD_H
#define NW_ONNX_FOLD_H

#include "onnx/onnx.h"

/* A scale and zero point, both constants of the graph. */
typedef struct grid {
    nw_format format;
    nw_qparam p; /* arrays in the folder's arena */
} grid;

typedef struct folder {
    nw_graph *g;
    nw_arena arena;
    int count;   /* values that existed at the start */
    int *real;   /* [count] real counterpart of a tensor of codes, or NW_ABSENT */
    grid *grids; /* [count] of it */
    int *
        dynamic; /* [count] of the codes of a DynamicQuantizeLinear: the FakeQuant in its place, or NW_ABSENT */
    nw_uses uses;
} folder;

/* The maker of v among the nodes of the file, if it is of this type of ai.onnx. */
const nw_node *nw_fold_maker(const folder *f, int v, const char *type);
/* The plain constant v, or what a Cast makes f32 of one; NULL: neither. */
const nw_tensor *nw_fold_constant(const folder *f, int v);

/* Reads NW_CODES_FORMAT: "FORMAT" or "FORMAT@SCALES"; without scales *scale stays. */
bool nw_fold_formats(const char *text, nw_format *codes, nw_format *scale);
/* Stores p's scales in another format; *ok false, and p as it was, where it does not hold them exactly. */
nw_status nw_fold_scales(folder *f, nw_format format, nw_qparam *p, bool *ok);

/* fold_constant.c: the inverse of spell_constant.c. *ok false: the node is no such thing, and stays. */
/* ai.narrow's DequantizeLinear; a malformed one is an error. */
nw_status nw_fold_native(folder *f, int index);
/* A Cast, or a Mul of levels or floats and scales, whose metadata says what the codes are (NW_CODES_FORMAT). */
nw_status nw_fold_spelled(folder *f, int index, const char *codes, bool *ok);
/* A packed constant (of a DequantizeLinear) becomes what the metadata says; stays as it is where it does not fit. */
nw_status nw_fold_recode(folder *f, int v, const char *codes);

/* nbits.c: MatMulNBits → MatMul by a packed constant, and Add of its bias. */
nw_status nw_fold_nbits(folder *f, int index, bool *ok);

#endif
