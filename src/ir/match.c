/* match.c: the patterns by which users name nodes. */
#include "ir/graph.h"

bool nw_pattern_matches(const char *p, const char *text) {
    const char *star = NULL, *resume = NULL;
    while (*text) {
        if (*p == '*') {
            star = ++p;
            resume = text;
        } else if (*p == '?' || *p == *text) {
            p++;
            text++;
        } else if (star) {
            p = star;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*p == '*') p++;
    return *p == 0;
}

bool nw_node_matches(const char *pattern, const nw_graph *g, const nw_node *node) {
    int out = nw_node_out(node, 0);
    return nw_pattern_matches(pattern, node->name) || nw_pattern_matches(pattern, node->op_type) ||
           (out >= 0 && nw_pattern_matches(pattern, g->values[out].name));
}

const char *nw_node_first_match(size_t count, const char *const *patterns, const nw_graph *g,
                                const nw_node *node) {
    for (size_t i = 0; i < count; i++)
        if (nw_node_matches(patterns[i], g, node)) return patterns[i];
    return NULL;
}
