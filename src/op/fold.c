/* fold.c: Col2Im: columns of blocks back into an image, the sums where blocks overlap. */
#include "op/conv.h"
#include "op/real.h"

#include <inttypes.h>
#include <string.h>

/* The geometry of the convolution whose columns these are: input [N, C·block, L], image_shape, block_shape
 * (values). */
static nw_status geometry(const nw_op_call *call, nw_conv_geometry *g) {
    const nw_tensor *x = call->in[0];
    const int64_t *image, *block;
    size_t image_count, block_count;
    NW_TRY(nw_call_ints(call, 1, &image, &image_count));
    NW_TRY(nw_call_ints(call, 2, &block, &block_count));
    if (image_count < 1 || image_count > 3 || block_count != image_count)
        return nw_call_fail(call, NW_E_SHAPE,
                            "image_shape and block_shape must have the same 1 to 3 numbers");
    int rank = 2 + (int)image_count;
    nw_tensor as_image = {.format = NW_F32, .rank = rank, .dims = {x->dims[0], 1}};
    nw_tensor as_weight = {.format = NW_F32, .rank = rank, .dims = {1, 1}};
    memcpy(as_image.dims + 2, image, image_count * sizeof *image);
    memcpy(as_weight.dims + 2, block, block_count * sizeof *block);
    NW_TRY(nw_tensor_check(call->ctx, &as_image));
    NW_TRY(nw_conv_geometry_of(call, &as_image, &as_weight, g));
    int64_t taps = g->kernel[0] * g->kernel[1] * g->kernel[2];
    double places = (double)g->out[0] * (double)g->out[1] * (double)g->out[2];
    if (x->dims[1] % taps || places != (double)x->dims[2])
        return nw_call_fail(call, NW_E_SHAPE,
                            "the input has %" PRId64 " rows and %" PRId64 " columns, which do not fit "
                            "blocks of %" PRId64 " elements at %.0f places",
                            x->dims[1], x->dims[2], taps, places);
    g->in_channels = g->out_channels = x->dims[1] / taps;
    return NW_OK;
}

static nw_status col2im_infer(nw_op_call *call) {
    const nw_tensor *x;
    nw_conv_geometry g;
    NW_TRY(nw_call_require(call, 0, &x));
    nw_format format = nw_real_format(x);
    if (!nw_format_is_integer(format)) NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "the input", 3, 3));
    NW_TRY(nw_call_require(call, 1, &x));
    NW_TRY(nw_call_require(call, 2, &x));
    NW_TRY(geometry(call, &g));
    nw_conv_geometry reverse = nw_conv_reverse(&g);
    int64_t dims[5];
    int rank = nw_conv_out_dims(&reverse, dims);
    return nw_call_set(call, 0, format, rank, dims);
}

/* In f32, or in f64 for every other format. */
static nw_status col2im_eval(nw_op_call *call) {
    nw_conv_geometry g;
    NW_TRY(geometry(call, &g));
    nw_tensor *y = &call->out[0];
    size_t count = nw_tensor_count(y);
    if (count == 0) return NW_OK;
    bool f32 = y->format == NW_F32;
    size_t size = f32 ? sizeof(float) : sizeof(double);
    const float *col32 = NULL;
    const double *col64 = NULL;
    void *image = y->data;
    if (f32) {
        NW_TRY(nw_call_f32(call, 0, &col32));
    } else {
        NW_TRY(nw_call_f64(call, 0, &col64));
        NW_TRY(nw_call_scratch_bytes(call, count, size, &image));
    }
    const char *col = f32 ? (const char *)col32 : (const char *)col64;
    memset(image, 0, count * size);
    size_t columns = nw_tensor_count(call->in[0]) / (size_t)g.batch, pixels = count / (size_t)g.batch;
    nw_conv_tile all = {.line1 = g.out[0] * g.out[1], .w1 = g.out[2]};
    for (size_t n = 0; n < (size_t)g.batch; n++)
        nw_conv_add_columns(&g, !f32, g.in_channels, col + n * columns * size, &all,
                            (char *)image + n * pixels * size);
    if (!f32) nw_store_run(y, 0, count, image);
    return NW_OK;
}

const nw_op nw_op_Col2Im = {.name = "Col2Im", .domain = "", .infer = col2im_infer, .eval = col2im_eval};
