/* master.h: float masters of packed constants: what quantized weights are while they are trained. A packed
 * constant becomes a float constant (the master, which can be a parameter) behind a FakeQuant on its grid, and
 * is packed on the same grid again afterwards.
 * Must not include anything but base/, num/, ir/, op/ and train/. */
#ifndef NW_TRAIN_MASTER_H
#define NW_TRAIN_MASTER_H

#include "ir/graph.h"

typedef struct nw_master {
    int value;  /* what was packed; biases (s32) are masters themselves: they need no FakeQuant */
    int master; /* the float constant */
    const nw_qparam *qparam; /* of the packed constant; in the arena that was given */
} nw_master;

typedef struct nw_masters {
    nw_master *at;
    size_t count;
} nw_masters;

/* In place; nodes are sorted. Subgraphs keep their packed constants. */
nw_status nw_masters_make(nw_graph *graph, nw_arena *arena, nw_masters *out);
/* The inverse, with the numbers that the masters have now, in that graph or a copy of it. */
nw_status nw_masters_pack(nw_graph *graph, const nw_masters *masters);

#endif
