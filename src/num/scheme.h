/* scheme.h: how numbers become codes, completely: the coding, how many elements share a scale, what scales are stored
 * as; and the words users write for it, such as "s8", "s4:32@f16", "log4/2" (docs/numerics.md has the grammar).
 * Must not include anything but base/ and num/. */
#ifndef NW_NUM_SCHEME_H
#define NW_NUM_SCHEME_H

#include "num/choose.h"

typedef enum nw_coding_kind {
    NW_LINEAR,  /* integers; scale and zero point from the range */
    NW_FLOAT,   /* small floats */
    NW_TERNARY, /* {−1, 0, 1} with the scale of the least squared error */
    NW_BINARY,  /* {−1, 1} likewise */
    NW_LOG,     /* the others: levels in a table (levels.h), the scale is the largest magnitude */
    NW_SQRT,
    NW_CODEBOOK,
    NW_NF4
} nw_coding_kind;

typedef struct nw_coding {
    nw_coding_kind kind;
    nw_format format; /* that codes are stored in */
    nw_codes grid;    /* codes used, before `shift` is added; kinds with a table: 0 … levels − 1 */
    int32_t shift;    /* zero point of a symmetric grid in unsigned codes: 128 for u8; else 0 */
    int steps;        /* LOG: levels per power of two */
} nw_coding;

typedef struct nw_scheme {
    nw_coding coding;
    int64_t
        block; /* elements that share a scale; 0: a channel or the tensor, as the user of a scheme decides */
    nw_format scale_format; /* f32, f16, bf16, f8e8m0 */
} nw_scheme;

/* Linear codes of an integer format: all of them; symmetric: as many below zero as above unless `full`, and unsigned
 * formats shifted by a half; `reduce`: one bit less. */
nw_coding nw_coding_linear(nw_format format, bool symmetric, bool full, bool reduce);
bool nw_coding_equal(const nw_coding *a, const nw_coding *b);
/* The table of a coding that has one whatever the data (BINARY, LOG, SQRT, NF4); count 0 for the others. */
nw_status nw_coding_levels(nw_arena *arena, const nw_coding *coding, nw_levels *out);

/* Reads a word. NW_E_ARGUMENT with a message that says what is wrong and what would be right. */
nw_status nw_scheme_parse(nw_context *ctx, const char *word, nw_scheme *out);
/* The word of a scheme into buffer [size ≥ NW_SCHEME_WORD]; returns buffer. Words that nw_scheme_parse reads come back in one
 * spelling; grids that no word names (a bit less in u8, say) are printed as the range of their codes. */
char *nw_scheme_print(const nw_scheme *scheme, char *buffer, size_t size);
#define NW_SCHEME_WORD 64

#endif
