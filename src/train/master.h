/* master.h: float masters of packed constants: what quantized weights are while they are trained. A packed
 * constant becomes a float constant (the master, which can be a parameter) behind a FakeQuant on its grid, and
 * is packed on the grid that this has then.
 * Must not include anything but base/, num/, ir/, op/ and train/. */
#ifndef NW_TRAIN_MASTER_H
#define NW_TRAIN_MASTER_H

#include "ir/graph.h"

typedef struct nw_master {
    int value;  /* what was packed; biases (s32) are masters themselves: they need no FakeQuant */
    int master; /* the float constant */
    const nw_qparam *qparam; /* of a bias, in the arena that was given; NULL: its FakeQuant has it */
    int scale;               /* the constant, f32, of its FakeQuant's scales; NW_ABSENT: of a bias */
    nw_format scale_format;  /* that scales are stored in when it is packed */
} nw_master;

typedef struct nw_masters {
    nw_master *at;
    size_t count;
} nw_masters;

/* In place; nodes are sorted. Subgraphs keep their packed constants. real: the float graph that `graph` was quantized from,
 * whose constants, where the ids agree, are the masters' numbers; NULL: they start with what their codes mean. free_biases:
 * biases become float constants and nothing else, because their scales depend on others that will change. */
nw_status nw_masters_make(nw_graph *graph, const nw_graph *real, bool free_biases, nw_arena *arena,
                          nw_masters *out);
/* The inverse, with the numbers and scales that there are now, in that graph or a copy of it. */
nw_status nw_masters_pack(nw_graph *graph, const nw_masters *masters);

#endif
