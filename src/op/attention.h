/* attention.h: the sizes of an Attention node, shared by its reference evaluation and the planner.
 * Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_ATTENTION_H
#define NW_OP_ATTENTION_H

#include "op/op.h"

enum {
    NW_ATTENTION_Q,
    NW_ATTENTION_K,
    NW_ATTENTION_V,
    NW_ATTENTION_MASK,
    NW_ATTENTION_PAST_K,
    NW_ATTENTION_PAST_V,
    NW_ATTENTION_VALID
}; /* inputs */

/* q [batch, q_heads, q_length, head], k [batch, kv_heads, kv_length, head], v […, v_head], or three dimensions
 * [batch, length, heads·head] each. total = past + kv_length. */
typedef struct nw_attention {
    int64_t batch, q_heads, kv_heads, q_length, kv_length, past, total, head, v_head;
    bool packed; /* three dimensions */
    bool causal;
    int64_t left, right; /* window around the query's position, −1: no limit */
    int64_t output_mode;
    float scale, softcap;
    nw_format rounding;   /* of the weights that the softmax gives: NW_NONE, f16, bf16, or u8: */
    float rounding_scale; /* of codes 0 … rounding_top; 0: each row's largest weight has code 255 */
    int32_t rounding_top;
} nw_attention;

/* Attributes that plans give an Attention whose weights a FakeQuant restricts (run/recognize.c). */
#define NW_WEIGHTS_FORMAT "ai.narrow.weights"
#define NW_WEIGHTS_SCALE  "ai.narrow.weights_scale"
#define NW_WEIGHTS_TOP    "ai.narrow.weights_top"

/* Checks the node's inputs and attributes; only shapes are read. Fails with the reason in words. */
nw_status nw_attention_of(const nw_op_call *call, nw_attention *a);

/* Restricts a row of weights as a->rounding says, in place. */
void nw_attention_round(const nw_attention *a, size_t count, float *weights);

/* Where element [batch, head, query, key] of the mask is, 0 on broadcast axes; all 0 without a mask. */
void nw_attention_mask_strides(const nw_tensor *mask, int64_t strides[4]);

#endif
