/* order.c: who makes and reads each value, topological order, dead code, soundness. */
#include "ir/graph.h"

#include <string.h>

/* Calls visit(id) for every value of `g` that the subgraphs of a node read from outside. */
typedef void visit_fn(void *user, int id);

static void visit_outer(const nw_graph *sub, visit_fn *visit, void *user) {
    for (int v = 0; v < sub->value_count; v++)
        if (sub->values[v].outer >= 0) visit(user, sub->values[v].outer);
}

/* A value of a nested subgraph that stands for one two levels up passes through the level between, where the importer
 * made a value of its own: looking one level deep is enough. */
static void visit_reads(const nw_node *node, visit_fn *visit, void *user) {
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0) visit(user, node->in[i]);
    for (int a = 0; a < node->attr_count; a++) {
        const nw_attr *attr = &node->attrs[a];
        if (attr->kind == NW_ATTR_GRAPH) visit_outer(attr->graph, visit, user);
        for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
            visit_outer(attr->graphs[i], visit, user);
    }
}

void nw_graph_replace_uses(nw_graph *g, int from, int to) {
    for (int n = 0; n < g->node_count; n++) {
        nw_node *node = &g->nodes[n];
        if (node->dead) continue;
        for (int i = 0; i < node->in_count; i++)
            if (node->in[i] == from) node->in[i] = to;
        for (int a = 0; a < node->attr_count; a++) {
            nw_attr *attr = &node->attrs[a];
            size_t count = attr->kind == NW_ATTR_GRAPH ? 1 : attr->kind == NW_ATTR_GRAPHS ? attr->count : 0;
            for (size_t i = 0; i < count; i++) {
                nw_graph *sub = attr->kind == NW_ATTR_GRAPH ? attr->graph : attr->graphs[i];
                for (int v = 0; v < sub->value_count; v++)
                    if (sub->values[v].outer == from) sub->values[v].outer = to;
            }
        }
    }
    for (int i = 0; i < g->output_count; i++)
        if (g->outputs[i] == from) g->outputs[i] = to;
}

bool nw_graph_is_output(const nw_graph *g, int id) {
    for (int i = 0; i < g->output_count; i++)
        if (g->outputs[i] == id) return true;
    return false;
}

typedef struct counter {
    int *slots;
    int *users;
    int node;
} counter;

static void count_read(void *user, int id) {
    ((counter *)user)->slots[id]++;
}

static void file_read(void *user, int id) {
    counter *c = user;
    c->users[c->slots[id]++] = c->node;
}

nw_status nw_uses_init(nw_uses *uses, const nw_graph *g) {
    *uses = (nw_uses){.ctx = g->ctx};
    size_t values = (size_t)g->value_count;
    uses->producer = nw_calloc(g->ctx, values + 1, sizeof(int));
    uses->first = nw_calloc(g->ctx, values + 2, sizeof(int));
    uses->outputs = nw_calloc(g->ctx, values + 1, sizeof(int));
    if (!uses->producer || !uses->first || !uses->outputs) goto fail;
    for (size_t v = 0; v < values; v++) uses->producer[v] = NW_ABSENT;
    counter c = {.slots = uses->first + 1};
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *node = &g->nodes[n];
        if (node->dead) continue;
        for (int i = 0; i < node->out_count; i++)
            if (node->out[i] >= 0) uses->producer[node->out[i]] = n;
        visit_reads(node, count_read, &c);
    }
    for (size_t v = 0; v < values; v++) uses->first[v + 1] += uses->first[v];
    uses->users = nw_calloc(g->ctx, (size_t)uses->first[values] + 1, sizeof(int));
    int *at = nw_calloc(g->ctx, values + 1, sizeof(int));
    if (!uses->users || !at) {
        nw_free(g->ctx, at);
        goto fail;
    }
    memcpy(at, uses->first, values * sizeof *at);
    c = (counter){.slots = at, .users = uses->users};
    for (int n = 0; n < g->node_count; n++) {
        c.node = n;
        if (!g->nodes[n].dead) visit_reads(&g->nodes[n], file_read, &c);
    }
    nw_free(g->ctx, at);
    for (int i = 0; i < g->output_count; i++) uses->outputs[g->outputs[i]]++;
    return NW_OK;
fail:
    nw_uses_free(uses);
    return NW_E_MEMORY;
}

void nw_uses_free(nw_uses *uses) {
    nw_free(uses->ctx, uses->producer);
    nw_free(uses->ctx, uses->first);
    nw_free(uses->ctx, uses->users);
    nw_free(uses->ctx, uses->outputs);
    uses->producer = uses->first = uses->users = uses->outputs = NULL;
}

/* Depth-first, inputs before the node, in the nodes' present order: stable, and linear in the graph's size. The stack is
 * explicit because a chain may be as long as the model. */
typedef struct sorter {
    const nw_graph *graph;
    const nw_uses *uses;
    uint8_t *state; /* 0 new, 1 on the stack, 2 placed */
    int *stack;
    int depth;
    int *order;
    int placed;
    int bad; /* a node in a cycle */
} sorter;

static void push_maker(void *user, int id) {
    sorter *s = user;
    int maker = s->uses->producer[id];
    if (maker < 0 || s->state[maker] == 2) return;
    if (s->state[maker] == 1) {
        s->bad = maker;
        return;
    }
    s->stack[s->depth++] = maker;
}

static nw_status order_nodes(sorter *s) {
    const nw_graph *g = s->graph;
    for (int n = 0; n < g->node_count; n++) {
        if (g->nodes[n].dead || s->state[n]) continue;
        s->stack[s->depth++] = n;
        while (s->depth > 0) {
            int top = s->stack[s->depth - 1];
            if (s->state[top] == 2) {
                s->depth--;
            } else if (s->state[top] == 1) {
                s->state[top] = 2;
                s->order[s->placed++] = top;
                s->depth--;
            } else {
                s->state[top] = 1;
                visit_reads(&g->nodes[top], push_maker, s);
                if (s->bad >= 0)
                    return nw_fail(g->ctx, NW_E_FORMAT, "the graph has a cycle through %s \"%s\"",
                                   g->nodes[s->bad].op_type, nw_node_label(g, &g->nodes[s->bad]));
            }
        }
    }
    return NW_OK;
}

nw_status nw_graph_sort(nw_graph *g) {
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, g));
    size_t nodes = (size_t)g->node_count, reads = (size_t)uses.first[g->value_count];
    sorter s = {.graph = g, .uses = &uses, .bad = -1};
    s.state = nw_calloc(g->ctx, nodes + 1, 1);
    s.order = nw_calloc(g->ctx, nodes + 1, sizeof(int));
    s.stack = nw_calloc(g->ctx, nodes + reads + 1, sizeof(int)); /* each read pushes at most once */
    nw_node *sorted = nw_arena_array(&g->arena, nodes ? nodes : 1, sizeof *sorted);
    nw_status status = s.state && s.order && s.stack && sorted ? order_nodes(&s) : NW_E_MEMORY;
    if (status == NW_OK) {
        for (int i = 0; i < s.placed; i++) sorted[i] = g->nodes[s.order[i]];
        for (int n = 0; n < g->node_count; n++) /* the dead ones leave: release what they hold */
            while (g->nodes[n].dead && g->nodes[n].attr_count)
                nw_node_remove_attr(&g->nodes[n], g->nodes[n].attrs[0].name);
        g->nodes = sorted;
        g->node_capacity = nodes ? nodes : 1;
        g->node_count = s.placed;
    }
    nw_free(g->ctx, s.state);
    nw_free(g->ctx, s.order);
    nw_free(g->ctx, s.stack);
    nw_uses_free(&uses);
    return status;
}

static void mark_needed(void *user, int id) {
    ((uint8_t *)user)[id] = 1;
}

nw_status nw_graph_prune(nw_graph *g) {
    NW_TRY(nw_graph_sort(g));
    uint8_t *needed = nw_calloc(g->ctx, (size_t)g->value_count + 1, 1);
    if (!needed) return NW_E_MEMORY;
    for (int i = 0; i < g->output_count; i++) needed[g->outputs[i]] = 1;
    for (int n = g->node_count - 1; n >= 0; n--) {
        nw_node *node = &g->nodes[n];
        bool used = false;
        for (int i = 0; i < node->out_count; i++) used |= node->out[i] >= 0 && needed[node->out[i]];
        if (used) visit_reads(node, mark_needed, needed);
        node->dead = !used;
    }
    for (int i = 0; i < g->input_count; i++) needed[g->inputs[i]] = 1;
    for (int v = 0; v < g->value_count; v++)
        if (!needed[v] && g->values[v].constant) {
            nw_bytes_free(g->values[v].constant->owner);
            g->values[v].constant = NULL;
        }
    nw_free(g->ctx, needed);
    return nw_graph_sort(g);
}

nw_status nw_graph_verify(const nw_graph *g) {
    uint8_t *made = nw_calloc(g->ctx, (size_t)g->value_count + 1, 1);
    if (!made) return NW_E_MEMORY;
    nw_status status = NW_OK;
    for (int v = 0; v < g->value_count; v++)
        made[v] = g->values[v].constant != NULL || g->values[v].outer >= 0;
    for (int i = 0; i < g->input_count; i++) made[g->inputs[i]] = 1;
    for (int n = 0; n < g->node_count && status == NW_OK; n++) {
        const nw_node *node = &g->nodes[n];
        if (node->dead) continue;
        for (int i = 0; i < node->in_count && status == NW_OK; i++) {
            int id = node->in[i];
            if (id < NW_ABSENT || id >= g->value_count)
                status = nw_fail(g->ctx, NW_E_INTERNAL, "%s \"%s\": input %d is not a value", node->op_type,
                                 nw_node_label(g, node), i);
            else if (id >= 0 && !made[id])
                status = nw_fail(g->ctx, NW_E_FORMAT, "%s \"%s\": nothing produces its input \"%s\"",
                                 node->op_type, nw_node_label(g, node), g->values[id].name);
        }
        for (int i = 0; i < node->out_count && status == NW_OK; i++) {
            int id = node->out[i];
            if (id < 0) continue;
            if (made[id])
                status = nw_fail(g->ctx, NW_E_FORMAT, "%s \"%s\": its output \"%s\" is produced twice",
                                 node->op_type, nw_node_label(g, node), g->values[id].name);
            made[id] = 1;
        }
    }
    for (int i = 0; i < g->output_count && status == NW_OK; i++)
        if (!made[g->outputs[i]])
            status = nw_fail(g->ctx, NW_E_FORMAT, "nothing produces the graph output \"%s\"",
                             g->values[g->outputs[i]].name);
    nw_free(g->ctx, made);
    return status;
}
