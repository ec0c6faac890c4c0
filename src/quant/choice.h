/* choice.h: how one layer is quantized, and the rules by which layers differ from the model's default.
 * Must not include anything but base/, num/, kern/, ir/, op/ and quant/. */
#ifndef NW_QUANT_CHOICE_H
#define NW_QUANT_CHOICE_H

#include "ir/graph.h"
#include "num/scheme.h"
#include "quant/observe.h"

typedef enum nw_quant_mode {
    NW_QUANT_STATIC,  /* weights, and activations on scales measured beforehand */
    NW_QUANT_DYNAMIC, /* weights, and inputs of weighted layers on scales measured at run time */
    NW_QUANT_WEIGHTS, /* weights only ("partial"): biases and activations stay float */
    NW_QUANT_FLOAT    /* nothing */
} nw_quant_mode;

#define NW_MODE_WORDS       "static|dynamic|weights|float"
#define NW_ACTIVATION_WORDS "u8|s8|u16|s16|u4|s4|u2|s2|f16|bf16|binary"
#define NW_BINARY_FORMAT    NW_INDEX1 /* of activations that are {−1, 1} times a scale, "binary" in words */

typedef enum nw_choice { NW_AUTO, NW_NO, NW_YES } nw_choice;

typedef struct nw_quant_choice {
    nw_quant_mode mode;
    nw_format activation; /* u8 (default), s8 … integers up to 16 bits; STATIC: f16, bf16, binary too */
    bool activation_symmetric;    /* zero point 0 */
    nw_observer_options observer; /* of activations */
    bool dynamic_rows;            /* DYNAMIC: a scale for each row of the last axis instead of each tensor */
    nw_scheme weights;            /* s8 (default) …; blocks, tables and floats: modes WEIGHTS and DYNAMIC */
    bool per_tensor;              /* one scale per weight instead of one per output channel */
    bool mse_weights;       /* linear weights get the scale of the smallest squared error, not the range's */
    bool balanced_rounding; /* linear weights are rounded so that the sums of what shares a scale are kept */
    bool float_bias;        /* biases stay float; else those of STATIC layers become s32 at s_x·s_w */
} nw_quant_choice;

/* The settings that a choice consists of, in the order of settings.def. */
enum {
#define NW_LAYER_SETTING(id, word, field, kind, help) NW_SETTING_##id,
#define NW_MODEL_SETTING(id, word, field, kind, help)
#include "quant/settings.def"
#undef NW_LAYER_SETTING
#undef NW_MODEL_SETTING
    NW_SETTING_COUNT
};

/* Some layers' deviation from the default. */
typedef struct nw_quant_rule {
    const char *source; /* who says so, for messages: "exclude", "recipe.txt:12" */
    size_t pattern_count;
    const char *const *patterns;
    bool others;   /* it is about the layers that no pattern matches */
    unsigned sets; /* 1 << NW_SETTING_…: the fields of `choice` that it decides */
    nw_quant_choice choice;
} nw_quant_rule;

nw_quant_choice nw_quant_choice_default(void);
/* Static layers whose inputs are {−1, 1} times a scale (Rastegari et al. 2016, "XNOR-Net"). */
static inline bool nw_quant_is_binary(const nw_quant_choice *choice) {
    return choice->mode == NW_QUANT_STATIC && choice->activation == NW_BINARY_FORMAT;
}
/* Formats of activations and one of NW_ACTIVATION_WORDS. */
nw_format nw_quant_activation_by_word(const char *word);
const char *nw_quant_activation_word(nw_format format);
/* Fails in words when no layer can be quantized so. */
nw_status nw_quant_choice_check(nw_context *ctx, const nw_quant_choice *choice);
/* Whether activations are rounded to 16-bit floats: there is no scale to find, and layers compute on real numbers. */
static inline bool nw_quant_is_float(const nw_quant_choice *choice) {
    return nw_format_is_float(choice->activation);
}
/* Integers multiply integers: fails when weights of this scheme are no factors of a layer in mode STATIC. */
nw_status nw_quant_choice_check_product(nw_context *ctx, const nw_quant_choice *choice);

/* `pattern` as in nw_node_matches, or a class of layers:
 * "@products" (of two activations), "@embeddings" (tables read by Gather), "@recurrent", "@elementwise" (no weights),
 * "@first" (weights, and an input of the model beside them), "@last" (of those that compute with weights, the last). */
bool nw_quant_matches(const char *pattern, const nw_graph *graph, const nw_node *node);
/* The pattern that makes a rule apply, or ""; NULL: it does not. */
const char *nw_quant_rule_applies(const nw_quant_rule *rule, const nw_graph *graph, const nw_node *node);
/* The default as changed by all rules that apply, later ones last. mode_rule: the one that decided the mode, or NULL. */
nw_quant_choice nw_quant_choose(const nw_quant_choice *base, size_t count, const nw_quant_rule *rules,
                                const nw_graph *graph, const nw_node *node, const nw_quant_rule **mode_rule);

#endif
