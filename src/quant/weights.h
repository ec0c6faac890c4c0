/* weights.h: packing constant tensors: scales from the numbers themselves, codes, and how much was lost.
 * Must not include anything but base/, num/, kern/, ir/ and quant/. */
#ifndef NW_QUANT_WEIGHTS_H
#define NW_QUANT_WEIGHTS_H

#include "quant/quant.h"

typedef enum nw_weight_range {
    NW_WEIGHT_MINMAX, /* the largest magnitude decides: nothing saturates */
    NW_WEIGHT_MSE     /* the scale of the smallest squared error, searched per channel */
} nw_weight_range;

/* What a tensor is to become. */
typedef struct nw_weight_spec {
    nw_coding coding;
    nw_format scale_format; /* 0: f32 */
    nw_grain grain;
    int axis;
    int64_t block;
    nw_weight_range range; /* of linear codings */
    bool balanced;         /* of linear codings: rounding keeps the sum of each group, up to half a step */
} nw_weight_spec;

bool nw_weight_spec_equal(const nw_weight_spec *a, const nw_weight_spec *b);

/* NW_E_DATA naming `name` and the place where x [count] has infinities or NaN. */
nw_status nw_weight_check(nw_context *ctx, const char *name, const float *x, size_t count);

/* *out ← w packed, its data and qparam in `arena`; w is float of any width, all finite, else NW_E_DATA naming
 * `name` and the place. least [groups] or NULL: scales are at least these. Floats of 16 bits have one scale
 * whatever the grain. record gets everything but `value`; its strings none. */
nw_status nw_weight_pack(nw_arena *arena, const char *name, const nw_tensor *w, const nw_weight_spec *spec,
                         const float *least, nw_tensor *out, nw_quant_weight *record);

/* The bias [count], plus `shift` [count] unless NULL, as s32 with scales s_data·w.scales (grain AXIS over
 * `axis`, or TENSOR when the weight has one scale). Its codes fit when w's scales are at least those of
 * nw_bias_least. */
nw_status nw_bias_pack(nw_arena *arena, const char *name, const nw_tensor *bias, const float *shift,
                       float data_scale, const nw_qparam *weight, int axis, nw_tensor *out);
/* least[g] ← max(least[g], scale of weight group g that keeps the bias codes below 2^30); groups is 1 or the
 * bias's count. */
nw_status nw_bias_least(nw_arena *arena, const nw_tensor *bias, float data_scale, size_t groups,
                        float *least);

#endif
