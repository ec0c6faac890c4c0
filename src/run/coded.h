/* coded.h: constant weights that stay codes while running: what kernels must know of them, and their decoding into a product's
 * panels, some at a time, just before all rows are multiplied with them.
 * Private to run/. */
#ifndef NW_RUN_CODED_H
#define NW_RUN_CODED_H

#include "kern/gemm_wcodes.h"
#include "run/plan.h"

/* Describes constant v as the matrix W [n][k] without packing it: n along n_axis, 0 or 1; k the other one of these axes and,
 * in front of it, the axes from 2 on (taps: k = t·depth + i). *ok false: no codes, or a grain that kernels do not know.
 * Tables of 256 levels are in the plan's arena. */
nw_status nw_plan_wcodes(nw_planner *p, int v, int n_axis, nw_wcodes *w, nw_wcodes_source *source, bool *ok);
/* The same for a constant's tensor, or a part of one. */
nw_status nw_plan_wcodes_of(nw_planner *p, const nw_tensor *t, int n_axis, nw_wcodes *w,
                            nw_wcodes_source *source, bool *ok);

/* Whether products of v, described so, with u8 codes are exact integers in each block. */
nw_status nw_plan_wcodes_whole(nw_planner *p, int v, int n_axis, bool *ok);

/* levels[code] for the first `count` codes of a format of at most 8 bits: those beyond a table mean its last. */
void nw_plan_levels(const nw_qparam *q, int count, float *levels);
/* Whether all groups have the same zero point. */
bool nw_plan_same_zeros(const nw_qparam *q);

/* Packed weights [groups][n][k] of products that are computed group by group. */
typedef struct nw_coded {
    const nw_wgemm_kernel *kernel;
    nw_wcodes w; /* of group 0; bytes: n and packed only */
    size_t groups;
    size_t group_codes; /* bytes from a group to the next */
    /* For decoding: what a panel and a group come to in bytes, and what is decoded at a time: whole groups, or some columns of
     * one. */
    size_t nr, panel_bytes, group_bytes, groups_at_once, columns_at_once;
    /* Of integer kernels' panels, whose bytes are `least` and more, fewer than 8 bits are kept; 0: they are f32. */
    int bits, least;
    nw_unpack_s8_fn *unpack;
} nw_coded;

/* Packs constant v, its rows [groups·n] along axis 0. *ok false: as above. */
nw_status nw_plan_coded(nw_planner *p, const nw_node *node, int v, size_t groups, nw_coded *out, bool *ok);
/* The same for decoding part by part, which wants *scratch bytes. */
nw_status nw_plan_decoded(nw_planner *p, const nw_node *node, int v, size_t groups, nw_coded *out,
                          size_t *scratch, bool *ok);

/* The same for integer kernels: keeps the bytes of `dense`, panels packed as they want them, as codes of c->bits. w.n, groups,
 * nr, panel_bytes, group_bytes, bits and least are set. */
nw_status nw_plan_narrowed(nw_planner *p, const int8_t *dense, nw_coded *c, size_t *scratch);

/* What is decoded at a time: of groups [g0, g1) the columns [n0, n1). */
typedef struct nw_coded_part {
    size_t g0, g1, n0, n1;
} nw_coded_part;

/* The part behind *part; the first one behind {0}. false: there is none. */
bool nw_coded_next(const nw_coded *c, nw_coded_part *part);
/* Decodes a part, on all threads: out has the panels of group g0 from column n0 on, those of the next group group_bytes
 * behind. */
void nw_coded_decode(const nw_exec *e, const nw_coded *c, const nw_coded_part *part, void *out);

#endif
