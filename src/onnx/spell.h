/* spell.h: what the files that turn quantization into ONNX share. Private to onnx/.
 * Must not include anything but base/, num/, ir/, op/ and onnx/. */
#ifndef NW_ONNX_SPELL_H
#define NW_ONNX_SPELL_H

#include "onnx/onnx.h"

#define MS     "com.microsoft"
#define NARROW "ai.narrow"

/* Metadata of the node that a packed constant's value comes out of, where its codes are stored in another format than its
 * own: "FORMAT" or "FORMAT@SCALES", such as "s2" or "f4e2m1@f8e8m0" (names of nw_format). */
#define NW_CODES_FORMAT "ai.narrow.codes"

/* A tensor of codes: of a FakeQuant's output, or of a packed constant. */
typedef struct spelled {
    int codes;       /* NW_ABSENT: not made (yet) */
    int scale, zero; /* initializers; zero may be NW_ABSENT */
    const nw_qparam *p;
} spelled;

typedef struct speller {
    nw_graph *g;
    nw_arena arena;
    nw_quant_style style;
    int64_t opset;
    int count;    /* values at the start */
    spelled *of;  /* [count] */
    nw_uses uses; /* of the graph at the start */
} speller;

/* Codes with zero points in QuantizeLinear and DequantizeLinear; int32 and floats have none. */
static inline bool nw_spell_has_zero(nw_format format) {
    return nw_format_is_integer(format) && format != NW_S32;
}

/* A constant "<base><suffix>". */
nw_status nw_spell_named(nw_graph *graph, const char *base, const char *suffix, const nw_tensor *t, int *id);
/* Zero points of a grid, in a tensor of zero's format and shape; those that are all alike are one initializer. */
nw_status nw_spell_zero(speller *s, const char *name, nw_tensor *zero, const nw_qparam *p, int *id);
/* Shape of a grid's scales for data of this shape: a scalar, [C], or the blocks'. */
void nw_spell_scale_shape(const nw_qparam *p, int rank, const int64_t *dims, nw_tensor *scale);
/* QuantizeLinear or DequantizeLinear: x → y on the grid of sp, codes stored in `format`. */
nw_status nw_spell_linear(speller *s, const char *type, nw_format format, int x, const spelled *sp, int y,
                          nw_node **node);

/* spell_constant.c: the smallest opset at which a packed constant is stored as it is meant to be; 0: any. */
int64_t nw_spell_constant_opset(const nw_qparam *p);
/* Nodes that make value v from its codes, which become an initializer. v's constant is released. */
nw_status nw_spell_constant(speller *s, int v);

/* nbits.c: products with packed weights as MatMulNBits, where it can say them, and back. */
nw_status nw_spell_nbits(nw_graph *graph);

#endif
