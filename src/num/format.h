/* format.h: element codings: their names and sizes, and conversion of single elements and runs of elements.
 * Conversions are the reference: exact, slow, one place. Must not include anything but base/. */
#ifndef NW_NUM_FORMAT_H
#define NW_NUM_FORMAT_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum nw_format {
    NW_NONE = 0, /* no element type: an absent tensor */
#define NW_FORMAT(id, name, bits, kind, onnx) NW_##id = onnx,
#include "num/formats.def"
#undef NW_FORMAT
    NW_FORMAT_COUNT,
    NW_FORMAT_OWN = 64 /* from here on ONNX has no such type; numbers in between are no format */
} nw_format;

typedef enum nw_kind {
    NW_KIND_NONE,
    NW_KIND_FLOAT,
    NW_KIND_SINT,
    NW_KIND_UINT,
    NW_KIND_BOOL,
    NW_KIND_COMPLEX,
    NW_KIND_STRING,
    NW_KIND_INDEX /* a position in a table that comes with the codes */
} nw_kind;

/* An element of NW_STR: bytes owned elsewhere, not zero-terminated. */
typedef struct nw_str {
    const char *data;
    size_t size;
} nw_str;

const char *nw_format_name(nw_format format);  /* "none" for NW_NONE or out of range */
nw_format nw_format_by_name(const char *name); /* NW_NONE when unknown */
nw_format
nw_format_from_onnx(int data_type); /* NW_NONE when unknown; the inverse is the enum's own value below
                                                * NW_FORMAT_OWN */
nw_kind nw_format_kind(nw_format format);
int nw_format_bits(nw_format format); /* 0 for NW_NONE */

static inline bool nw_format_is_float(nw_format f) {
    return nw_format_kind(f) == NW_KIND_FLOAT;
}
static inline bool nw_format_is_integer(nw_format f) {
    return nw_format_kind(f) == NW_KIND_SINT || nw_format_kind(f) == NW_KIND_UINT;
}
/* Whether numbers of one format are given to a reader of another: floats never become whole numbers, and complex numbers and
 * strings nothing else. */
static inline bool nw_format_converts(nw_format from, nw_format to) {
    const nw_kind a = nw_format_kind(from), b = nw_format_kind(to);
    const bool numbers =
        a != NW_KIND_STRING && a != NW_KIND_COMPLEX && b != NW_KIND_STRING && b != NW_KIND_COMPLEX;
    return from == to || (numbers && (b == NW_KIND_FLOAT || a != NW_KIND_FLOAT));
}
/* Formats that scales of grids are stored in. */
static inline bool nw_format_is_scale(nw_format f) {
    return f == NW_F32 || f == NW_F16 || f == NW_BF16 || f == NW_F8E8M0;
}

/* Bytes of `count` elements (sub-byte formats round up). False on overflow or for NW_NONE. */
bool nw_format_bytes(nw_format format, size_t count, size_t *bytes);

/* The integer range of an integer, bool or index format, e.g. −128, 127; s64 and u64 are clamped to int64. */
int64_t nw_format_min(nw_format format);
int64_t nw_format_max(nw_format format);
/* The largest finite number of a float format of at most 16 bits; 0 for others. */
double nw_format_largest(nw_format format);

/* Element i of `data` as a double or an int64 (floats truncate towards zero and saturate; NaN gives 0). Real formats
 * only: not strings or complex numbers. */
double nw_load_f64(nw_format format, const void *data, size_t i);
int64_t nw_load_s64(nw_format format, const void *data, size_t i);

/* Stores with the format's own rounding: floats half to even, integers half to even then saturated, bool x != 0.
 * `saturate` decides what an f8 or f4 does with values beyond its range: clamp, or infinity/NaN. */
void nw_store_f64(nw_format format, void *data, size_t i, double x);
void nw_store_f64_as(nw_format format, void *data, size_t i, double x, bool saturate);
/* Stores an integer: wraps in integer formats as C does (what ONNX Cast means), rounds in float formats. */
void nw_store_s64(nw_format format, void *data, size_t i, int64_t x);

/* Runs of elements. decode: count elements starting at element `first` become floats. encode is the inverse, with
 * nw_store_f64's rounding; returns how many elements saturated. */
void nw_decode_f32(nw_format format, const void *data, size_t first, size_t count, float *out);
size_t nw_encode_f32(nw_format format, const float *in, size_t count, void *data, size_t first);

/* Runs of codes of at most 16 bits, packed: elements first … first + count of `data`, signed formats sign-extended.
 * Storing keeps the low bits, and the neighbours in a shared byte. */
void nw_load_codes(nw_format format, const void *data, size_t first, size_t count, int32_t *codes);
void nw_store_codes(nw_format format, void *data, size_t first, size_t count, const uint16_t *codes);

uint16_t nw_f16_from_f32(float x);
float nw_f16_to_f32(uint16_t h);
uint16_t nw_bf16_from_f32(float x);
static inline float nw_bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } bits = {(uint32_t)h << 16};
    return bits.f;
}

/* x as the nearest number of f16 or bf16, infinities beyond the largest: the two conversions there and back in one, for
 * loops that vectorize. */
static inline float nw_round_bf16(float x) {
    union {
        float f;
        uint32_t u;
    } v = {x};
    v.u = x != x ? v.u | 0x400000 : v.u + 0x7fff + (v.u >> 16 & 1);
    v.u &= 0xffff0000;
    return v.f;
}
static inline float nw_round_f16(float x) {
    union {
        float f;
        int32_t i;
    } v = {x}, low;
    const int32_t sign = v.i & INT32_MIN;
    v.i ^= sign;
    low.f = (v.f + 0.75f) - 0.75f; /* below 2^-14 numbers are 2^-24 apart, as floats of [0.5, 1) are */
    int32_t high = (int32_t)(((uint32_t)v.i + 0xfff + (uint32_t)(v.i >> 13 & 1)) & 0xffffe000);
    /* Masks, not conditions: compilers do not vectorize what could branch. */
    const int32_t large = -(high >= 0x47800000), small = -(v.i < 0x38800000), nan = -(v.i > 0x7f800000);
    high = (0x7f800000 & large) | (high & ~large); /* from 2^16 on */
    const int32_t y = (low.i & small) | (high & ~small);
    v.i = (v.i & nan) | (y & ~nan) | sign;
    return v.f;
}
/* 2^(code − 127); 255 is NaN. */
static inline float nw_e8m0_to_f32(uint8_t code) {
    union {
        uint32_t u;
        float f;
    } bits = {code == 255 ? 0x7fc00000u : code ? (uint32_t)code << 23 : 0x400000u};
    return bits.f;
}

#endif
