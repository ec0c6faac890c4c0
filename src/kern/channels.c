/* channels.c: the reference functions, and the choice of an ISA's. Must not include anything but kern/. */
#define NW_KERNEL(name) nw_##name##__scalar
#define NW_LANES        4
#include "kern/channels_body.h"

void nw_channels_select(nw_isa ceiling, nw_channels *out) {
#define NW_CHANNELS(isa, word)                                                                               \
    if (NW_ISA_##isa <= ceiling && nw_isa_supported(NW_ISA_##isa))                                           \
        *out = (nw_channels){nw_channel_moments_f32__##word,  nw_channel_affine_f32__##word,                 \
                             nw_channel_products_f32__##word, nw_channel_grad_f32__##word,                   \
                             nw_channel_dots_f32__##word,     nw_channel_copy_f32__##word,                   \
                             nw_channel_max_grad_f32__##word, nw_channel_spread_f32__##word};
#include "kern/channels.def"
#undef NW_CHANNELS
}
