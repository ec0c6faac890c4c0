/* choice.c: how one layer is quantized. */
#include "quant/choice.h"

#include "op/op.h"

#include <stddef.h>
#include <string.h>

nw_quant_choice nw_quant_choice_default(void) {
    return (nw_quant_choice){.mode = NW_QUANT_STATIC,
                             .activation = NW_U8,
                             .observer = nw_observer_options_default(),
                             .weights = {nw_coding_linear(NW_S8, true, false, false), 0, NW_F32}};
}

nw_format nw_quant_activation_by_word(const char *word) {
    return strcmp(word, "binary") == 0 ? NW_BINARY_FORMAT : nw_format_by_name(word);
}

const char *nw_quant_activation_word(nw_format format) {
    return format == NW_BINARY_FORMAT ? "binary" : nw_format_name(format);
}

nw_status nw_quant_choice_check(nw_context *ctx, const nw_quant_choice *c) {
    const bool binary = c->activation == NW_BINARY_FORMAT;
    if (binary && c->mode == NW_QUANT_DYNAMIC)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "binary activations need mode \"static\": their scale is measured beforehand");
    const bool real = c->activation == NW_F16 || c->activation == NW_BF16;
    if (!binary && !real && (!nw_format_is_integer(c->activation) || nw_format_bits(c->activation) > 16))
        return nw_fail(
            ctx, NW_E_ARGUMENT,
            "activations cannot be %s: expected an integer format of at most 16 bits, f16, bf16 or binary",
            nw_format_name(c->activation));
    if (real && c->mode == NW_QUANT_DYNAMIC)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "activations of %s have no scale to find while running: use mode \"static\", which "
                       "needs no data for them",
                       nw_format_name(c->activation));
    const nw_coding *coding = &c->weights.coding;
    if (coding->kind == NW_LINEAR &&
        (!nw_format_is_integer(coding->format) || nw_format_bits(coding->format) > 16))
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "weights cannot be %s: expected an integer format of at most 16 bits",
                       nw_format_name(coding->format));
    if (c->weights.block < 0) return nw_fail(ctx, NW_E_ARGUMENT, "weight blocks cannot have a negative size");
    return nw_observer_options_check(ctx, &c->observer);
}

nw_status nw_quant_choice_check_product(nw_context *ctx, const nw_quant_choice *c) {
    if (c->mode != NW_QUANT_STATIC || nw_quant_is_float(c)) return NW_OK;
    const nw_coding_kind kind = c->weights.coding.kind;
    if (kind != NW_LINEAR && kind != NW_TERNARY && kind != NW_BINARY)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "weights that are no integers need mode \"weights\" or \"dynamic\": static layers "
                       "multiply integers");
    if (c->weights.block > 0)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "blocks of weights need mode \"weights\" or \"dynamic\": static layers have one scale "
                       "per channel");
    return NW_OK;
}

/* ---- patterns --------------------------------------------------------------------------------- */

static bool is_input(const nw_graph *g, int v) {
    for (int i = 0; i < g->input_count; i++)
        if (g->inputs[i] == v) return !nw_graph_constant(g, v);
    return false;
}

/* The last layer that computes with constant weights. */
static const nw_node *last_weighted(const nw_graph *g) {
    for (int n = g->node_count - 1; n >= 0; n--) {
        const nw_node *node = &g->nodes[n];
        nw_roles roles = nw_node_roles(node);
        for (int i = 0; i < node->in_count && roles.compute && !node->dead; i++)
            if (nw_roles_of(&roles, i) == NW_ROLE_WEIGHT && nw_graph_constant(g, node->in[i])) return node;
    }
    return NULL;
}

/* Whether a node is of the class that `name`, without its @, stands for. */
static bool in_class(const char *name, const nw_graph *g, const nw_node *node) {
    nw_roles roles = nw_node_roles(node);
    bool constant = false, computed = false, first = false;
    for (int i = 0; i < node->in_count; i++) {
        if (node->in[i] < 0) continue;
        first |= is_input(g, node->in[i]);
        if (nw_roles_of(&roles, i) != NW_ROLE_WEIGHT) continue;
        constant |= nw_graph_constant(g, node->in[i]) != NULL;
        computed |= nw_graph_constant(g, node->in[i]) == NULL;
    }
    if (strcmp(name, "first") == 0) return constant && first;
    if (strcmp(name, "last") == 0) return node == last_weighted(g);
    if (strcmp(name, "products") == 0) return roles.compute && computed;
    if (strcmp(name, "elementwise") == 0) return roles.compute && !computed && !constant;
    if (strcmp(name, "embeddings") == 0) return constant && roles.same_grid;
    if (strcmp(name, "recurrent") == 0) return constant && !roles.compute && !roles.same_grid;
    return false;
}

bool nw_quant_matches(const char *pattern, const nw_graph *g, const nw_node *node) {
    return nw_node_matches(pattern, g, node) || (*pattern == '@' && in_class(pattern + 1, g, node));
}

/* ---- rules ------------------------------------------------------------------------------------ */

const char *nw_quant_rule_applies(const nw_quant_rule *rule, const nw_graph *g, const nw_node *node) {
    const char *found = NULL;
    for (size_t i = 0; i < rule->pattern_count && !found; i++)
        if (nw_quant_matches(rule->patterns[i], g, node)) found = rule->patterns[i];
    if (rule->others) return found ? NULL : "";
    return found;
}

static const struct {
    size_t offset, size;
} fields[NW_SETTING_COUNT] = {
#define NW_LAYER_SETTING(id, word, field, kind, help)                                                        \
    {offsetof(nw_quant_choice, field), sizeof((nw_quant_choice *)0)->field},
#define NW_MODEL_SETTING(id, word, field, kind, help)
#include "quant/settings.def"
#undef NW_LAYER_SETTING
#undef NW_MODEL_SETTING
};

nw_quant_choice nw_quant_choose(const nw_quant_choice *base, size_t count, const nw_quant_rule *rules,
                                const nw_graph *g, const nw_node *node, const nw_quant_rule **mode_rule) {
    nw_quant_choice c = *base;
    *mode_rule = NULL;
    for (size_t r = 0; r < count; r++) {
        if (!nw_quant_rule_applies(&rules[r], g, node)) continue;
        for (int s = 0; s < NW_SETTING_COUNT; s++)
            if (rules[r].sets >> s & 1)
                memcpy((char *)&c + fields[s].offset, (const char *)&rules[r].choice + fields[s].offset,
                       fields[s].size);
        if (rules[r].sets >> NW_SETTING_MODE & 1) *mode_rule = &rules[r];
    }
    return c;
}
