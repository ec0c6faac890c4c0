/* qat.h: quantization-aware training: which grids a model is trained on. Quantizers are placed and calibrated as by
 * post-training quantization; precision may fall in stages, each of which starts from what the one before has learned.
 * Private to api/. */
#ifndef NW_API_QAT_H
#define NW_API_QAT_H

#include "api/api.h"
#include "quant/quant.h"
#include "train/trainer.h"

/* Epochs in which nothing has fewer bits than `bits`; 32: nothing is quantized; 0: as the recipe says. */
typedef struct nw_qat_stage {
    int bits;
    size_t first; /* epoch, counted from 0 */
} nw_qat_stage;

typedef struct nw_qat {
    nw_arena arena;
    nw_quant_options recipe;
    nw_data *calibration;
    nw_graph *real; /* the float model as the current stage starts from it: folded, simplified */
    size_t stage, stage_count;
    nw_qat_stage *stages;
    nw_checkpoint_array
        *start; /* what of `real` is learned, where there are stages: part of every checkpoint */
    size_t start_count;
} nw_qat;

/* options->quantize is set. Fails in words when the recipe or the stages make no sense. */
nw_status nw_qat_init(nw_qat *qat, const nw_model *model, const nw_training_options *options, size_t epochs);
void nw_qat_free(nw_qat *qat); /* a zeroed one is fine */

size_t nw_qat_stage_of(const nw_qat *qat, uint64_t epoch);
/* What the current stage trains: a copy of `real`, quantized, with the same ids. The caller's. */
nw_status nw_qat_graph(nw_qat *qat, nw_graph **out);
/* Makes `start`: `trainer` is of the first stage. */
nw_status nw_qat_list(nw_qat *qat, const nw_trainer *trainer);
/* `start` becomes what `trainer` has learned. */
nw_status nw_qat_keep(nw_qat *qat, const nw_trainer *trainer);
/* The stage begins: `real` becomes what `start` says. */
nw_status nw_qat_begin(nw_qat *qat, size_t stage);
/* Recipe and stages as text, in the arena. NULL when memory runs out. */
const char *nw_qat_describe(nw_qat *qat);

#endif
