/* graph.h: the portable graph: what the model means, independent of any machine. It speaks of real numbers; a constant may be
 * stored packed (its tensor has a qparam) and still means real numbers, and quantization of an activation is one node,
 * FakeQuant. Everything lives in one arena; values and nodes are addressed by index.
 * Must not include anything but base/, num/ and ir/. */
#ifndef NW_IR_GRAPH_H
#define NW_IR_GRAPH_H

#include "base/file.h"
#include "num/tensor.h"

#define NW_ABSENT (-1) /* id of an optional input or output that is not there */

typedef struct nw_graph nw_graph;
struct nw_op;

/* Bytes of a tensor whose storage is shared between graphs (heap memory or a mapped file). */
typedef struct nw_constant {
    nw_tensor tensor; /* data points into owner; qparam, if any, lives in the graph's arena */
    nw_bytes *owner;
    const char *name; /* of an attribute's tensor, or NULL; initializers are named by their value */
    const char *doc;  /* doc string of the initializer, or NULL */
    nw_str unknown;   /* serialized fields of its TensorProto that the importer does not know */
} nw_constant;

typedef struct nw_value {
    const char *name; /* unique within its graph, never NULL */
    const char *doc;
    nw_format format;          /* of the real values; NW_NONE: unknown */
    int rank;                  /* −1: unknown */
    int64_t dims[NW_MAX_RANK]; /* −1: unknown; of inputs 0 too, which exporters write for it */
    const char **dim_names;    /* [rank] symbolic names ("N") or NULL each; NULL: none */
    nw_constant *constant;     /* NULL: computed or fed */
    int outer;      /* in a subgraph: the enclosing graph's value that this one stands for, or NW_ABSENT */
    bool declared;  /* had a value_info of its own: written back on export */
    nw_str unknown; /* serialized fields of its ValueInfoProto that the importer does not know */
    nw_bytes *type; /* serialized TypeProto of a value that is no tensor (sequence, optional), or NULL */
} nw_value;

typedef enum nw_attr_kind {
    NW_ATTR_INT = 1, /* numbers are not ONNX's: onnx/ maps them */
    NW_ATTR_FLOAT,
    NW_ATTR_STRING,
    NW_ATTR_TENSOR,
    NW_ATTR_GRAPH,
    NW_ATTR_INTS,
    NW_ATTR_FLOATS,
    NW_ATTR_STRINGS,
    NW_ATTR_TENSORS,
    NW_ATTR_GRAPHS,
    NW_ATTR_RAW /* any other kind, kept as the serialized AttributeProto for export */
} nw_attr_kind;

typedef struct nw_attr {
    const char *name;
    nw_attr_kind kind;
    size_t count; /* of the plural kinds; 1 otherwise */
    union {
        int64_t i;
        float f;
        nw_str s;
        nw_constant *tensor;
        nw_graph *graph;
        const int64_t *ints;
        const float *floats;
        const nw_str *strings;
        nw_constant *const *tensors;
        nw_graph *const *graphs;
        nw_str raw;
    };
} nw_attr;

typedef struct nw_property {
    const char *key, *value;
} nw_property;

typedef struct nw_node {
    const char *name;    /* may be "" */
    const char *op_type; /* never NULL */
    const char *domain;  /* "" is ai.onnx */
    const char *doc;
    const struct nw_op *op; /* set by nw_graph_resolve (op/op.h); NULL before */
    int in_count, out_count;
    int *in, *out; /* value ids or NW_ABSENT */
    int attr_count;
    nw_attr *attrs;
    nw_str unknown; /* serialized fields that this importer does not know, written back on export */
    bool dead;      /* removed; nw_graph_sort drops it */
} nw_node;

typedef struct nw_opset {
    const char *domain; /* "" is ai.onnx */
    int64_t version;
} nw_opset;

/* What belongs to the model, not to the computation; only on the outermost graph. */
typedef struct nw_model_info {
    int64_t ir_version, model_version;
    const char *producer_name, *producer_version, *domain, *doc;
    nw_property *properties;
    size_t property_count;
    nw_str unknown;          /* as in nw_node */
    uint64_t external_bytes; /* size of the files beside the model's own that hold its weights */
} nw_model_info;

struct nw_graph {
    nw_context *ctx;
    nw_arena arena;
    nw_graph *parent; /* of a subgraph */
    const char *name, *doc;
    nw_value *values;
    size_t value_capacity;
    int value_count;
    nw_node *nodes; /* in topological order after nw_graph_sort */
    size_t node_capacity;
    int node_count;
    int *inputs, *outputs; /* value ids; inputs may contain constants (old IR lists initializers there) */
    size_t input_capacity, output_capacity;
    int input_count, output_count;
    nw_opset *opsets;
    size_t opset_count, opset_capacity;
    nw_model_info *info; /* NULL in subgraphs */
    nw_str unknown;
    int *index; /* name → value id: open addressing, index_size slots, NW_ABSENT free; private to graph.c */
    size_t index_size;
};

/* A graph's memory comes from ctx, which must outlive it. parent NULL: a model's main graph (info is set). */
nw_status nw_graph_new(nw_context *ctx, nw_graph *parent, nw_graph **out);
void nw_graph_free(nw_graph *graph); /* subgraphs too; NULL is fine */
/* A deep copy that shares the constants' bytes. Subgraphs are copied too. */
nw_status nw_graph_copy(const nw_graph *graph, nw_context *ctx, nw_graph **out);

/* New value; name NULL or taken: a fresh name is made from it. *id is set. */
nw_status nw_graph_add_value(nw_graph *graph, const char *name, int *id);
/* New constant that takes over a reference to owner (also on failure). tensor->data may be NULL only when empty. */
nw_status nw_graph_add_constant(nw_graph *graph, const char *name, const nw_tensor *tensor, nw_bytes *owner,
                                int *id);
/* Makes an existing value constant likewise. */
nw_status nw_graph_set_constant(nw_graph *graph, int id, const nw_tensor *tensor, nw_bytes *owner);
/* The same, copying the tensor's data and qparam into memory of the graph's own. */
nw_status nw_graph_add_constant_copy(nw_graph *graph, const char *name, const nw_tensor *tensor, int *id);
/* Makes an existing value constant (folding); copies as above. */
nw_status nw_graph_set_constant_copy(nw_graph *graph, int id, const nw_tensor *tensor);
/* New node at the end; ids are copied; name may be NULL (""). The pointer is valid until the next node is added. */
nw_status nw_graph_add_node(nw_graph *graph, const char *domain, const char *op_type, const char *name,
                            int in_count, const int *in, int out_count, const int *out, nw_node **node);
nw_status nw_graph_add_input(nw_graph *graph, int id);
nw_status nw_graph_add_output(nw_graph *graph, int id);
nw_status nw_graph_set_opset(nw_graph *graph, const char *domain, int64_t version);
int64_t nw_graph_opset(const nw_graph *graph,
                       const char *domain); /* looks in the parents too; 0: not imported */

/* Metadata of a model's main graph: sets a property, replacing one of the same key; the texts are copied. */
nw_status nw_graph_set_property(nw_graph *graph, const char *key, const char *value);
const char *nw_graph_property(const nw_graph *graph, const char *key); /* NULL: it has none */

int nw_graph_find(const nw_graph *graph, const char *name); /* value id or NW_ABSENT */
/* Gives a value another name; a taken one is made fresh as in nw_graph_add_value. */
nw_status nw_graph_rename_value(nw_graph *graph, int id, const char *name);
/* A copy of p in the graph's arena. */
nw_status nw_graph_copy_qparam(nw_graph *graph, const nw_qparam *p, const nw_qparam **out);

/* Every node input and graph output that reads `from` reads `to` instead (subgraphs' outer references too). */
void nw_graph_replace_uses(nw_graph *graph, int from, int to);
bool nw_graph_is_output(const nw_graph *graph, int id);

/* Puts the nodes of `sub`, a subgraph of g without inputs of its own (a branch of If), in place of g's node `node`, which
 * dies. Readers of the node's outputs read the branch's; a graph output gets an Identity, to keep its name. Sort afterwards. */
nw_status nw_graph_inline(nw_graph *graph, int node, const nw_graph *sub);

/* Who makes and who reads each value; heap memory, valid until the graph changes. */
typedef struct nw_uses {
    nw_context *ctx;
    int *producer; /* [value_count] node or NW_ABSENT */
    int *first;    /* [value_count + 1] offsets into users */
    int *users;    /* nodes, one entry per reading input; reads inside subgraphs count for the owning node */
    int *outputs;  /* [value_count] how often it is a graph output */
} nw_uses;
nw_status nw_uses_init(nw_uses *uses, const nw_graph *graph);
void nw_uses_free(nw_uses *uses);
static inline int nw_uses_count(const nw_uses *u, int id) {
    return u->first[id + 1] - u->first[id] + u->outputs[id];
}

/* Drops dead nodes and puts the rest in topological order (stable). A cycle or a value that nobody makes: NW_E_FORMAT with
 * the names. */
nw_status nw_graph_sort(nw_graph *graph);
/* Marks nodes dead that no output needs, sorts, and drops the bytes of constants nobody reads. */
nw_status nw_graph_prune(nw_graph *graph);
/* Structure is sound: ids in range, each value made once, inputs available. For tests and after import. */
nw_status nw_graph_verify(const nw_graph *graph);

const nw_attr *nw_node_attr(const nw_node *node, const char *name); /* NULL when absent */
int64_t nw_node_int(const nw_node *node, const char *name, int64_t absent);
float nw_node_float(const nw_node *node, const char *name, float absent);
/* Zero-terminated; `absent` when the attribute is not there. */
const char *nw_node_string(const nw_node *node, const char *name, const char *absent);
bool nw_node_string_is(const nw_node *node, const char *name, const char *absent, const char *text);
/* *values stays in the graph; returns false when absent. */
bool nw_node_ints(const nw_node *node, const char *name, const int64_t **values, size_t *count);
bool nw_node_floats(const nw_node *node, const char *name, const float **values, size_t *count);
nw_status nw_node_set_int(nw_graph *graph, nw_node *node, const char *name, int64_t value);
nw_status nw_node_set_float(nw_graph *graph, nw_node *node, const char *name, float value);
nw_status nw_node_set_string(nw_graph *graph, nw_node *node, const char *name, const char *value);
nw_status nw_node_set_ints(nw_graph *graph, nw_node *node, const char *name, const int64_t *values,
                           size_t count);
nw_status nw_node_set_floats(nw_graph *graph, nw_node *node, const char *name, const float *values, size_t count);
void nw_node_remove_attr(nw_node *node, const char *name);
/* `to` takes the place of `from`, which dies: it gets the attributes and the doc string. */
void nw_node_succeed(nw_node *from, nw_node *to);

static inline int nw_node_in(const nw_node *node, int i) {
    return i < node->in_count ? node->in[i] : NW_ABSENT;
}
static inline int nw_node_out(const nw_node *node, int i) {
    return i < node->out_count ? node->out[i] : NW_ABSENT;
}
/* A living node of ai.onnx of this type. NULL is none. */
bool nw_node_is(const nw_node *node, const char *op_type);
/* What to call a node in a message: its name, else the name of its first output. */
const char *nw_node_label(const nw_graph *graph, const nw_node *node);
/* Whether `pattern` (* any run of characters, ? one) fits a text; a node's name, operator or first
 * output. */
bool nw_pattern_matches(const char *pattern, const char *text);
bool nw_node_matches(const char *pattern, const nw_graph *graph, const nw_node *node);
/* The first of the patterns that matches, or NULL. */
const char *nw_node_first_match(size_t count, const char *const *patterns, const nw_graph *graph,
                                const nw_node *node);
/* Constant of value id, or NULL (also for NW_ABSENT). */
static inline const nw_constant *nw_graph_constant(const nw_graph *graph, int id) {
    return id < 0 ? NULL : graph->values[id].constant;
}

#endif
