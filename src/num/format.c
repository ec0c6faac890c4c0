/* format.c: the table of formats, and the conversion of elements: one at a time (exact, slow) and in runs. */
#include "num/format.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    int bits;
    nw_kind kind;
} table[NW_FORMAT_COUNT] = {
#define NW_FORMAT(id, text, bits, kind, onnx) [NW_##id] = {text, bits, NW_KIND_##kind},
#include "num/formats.def"
#undef NW_FORMAT
};

static bool known(nw_format f) {
    return (int)f > 0 && f < NW_FORMAT_COUNT && table[f].name;
}

const char *nw_format_name(nw_format format) {
    return known(format) ? table[format].name : "none";
}
nw_kind nw_format_kind(nw_format format) {
    return known(format) ? table[format].kind : NW_KIND_NONE;
}
int nw_format_bits(nw_format format) {
    return known(format) ? table[format].bits : 0;
}
nw_format nw_format_from_onnx(int data_type) {
    return data_type < NW_FORMAT_OWN && known((nw_format)data_type) ? (nw_format)data_type : NW_NONE;
}

nw_format nw_format_by_name(const char *name) {
    for (int f = 1; f < NW_FORMAT_COUNT; f++)
        if (table[f].name && strcmp(table[f].name, name) == 0) return (nw_format)f;
    return NW_NONE;
}

bool nw_format_bytes(nw_format format, size_t count, size_t *bytes) {
    size_t bits = (size_t)nw_format_bits(format);
    if (bits == 0) return false;
    if (bits >= 8) return !__builtin_mul_overflow(count, bits / 8, bytes);
    size_t per_byte = 8 / bits;
    *bytes = count / per_byte + (count % per_byte != 0);
    return true;
}

int64_t nw_format_min(nw_format format) {
    if (nw_format_kind(format) != NW_KIND_SINT) return 0;
    return (int64_t)(UINT64_MAX << (nw_format_bits(format) - 1));
}

int64_t nw_format_max(nw_format format) {
    int bits = nw_format_bits(format);
    switch (nw_format_kind(format)) {
    case NW_KIND_BOOL: return 1;
    case NW_KIND_INDEX: return ((int64_t)1 << bits) - 1;
    case NW_KIND_SINT: return (int64_t)(((uint64_t)1 << (bits - 1)) - 1);
    case NW_KIND_UINT: return bits >= 64 ? INT64_MAX : (int64_t)(((uint64_t)1 << bits) - 1);
    default: return 0;
    }
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* Small floats, all of them: sign, `exponent` bits with bias, `mantissa` bits. What the top codes mean differs:
 * IEEE has infinities and NaNs, FN only NaN at all ones, FNUZ only NaN at "negative zero", f4 neither. */
typedef struct small_float {
    int exponent, mantissa, bias;
    enum { IEEE, FN, FNUZ, FINITE } special;
} small_float;

static bool small_float_of(nw_format f, small_float *s) {
    switch ((int)f) {
    case NW_F16: *s = (small_float){5, 10, 15, IEEE}; return true;
    case NW_BF16: *s = (small_float){8, 7, 127, IEEE}; return true;
    case NW_F8E4M3FN: *s = (small_float){4, 3, 7, FN}; return true;
    case NW_F8E4M3FNUZ: *s = (small_float){4, 3, 8, FNUZ}; return true;
    case NW_F8E5M2: *s = (small_float){5, 2, 15, IEEE}; return true;
    case NW_F8E5M2FNUZ: *s = (small_float){5, 2, 16, FNUZ}; return true;
    case NW_F4E2M1: *s = (small_float){2, 1, 1, FINITE}; return true;
    default: return false;
    }
}

static double small_decode(small_float s, uint32_t code) {
    uint32_t mant_mask = (1u << s.mantissa) - 1, exp_mask = (1u << s.exponent) - 1;
    uint32_t m = code & mant_mask, e = code >> s.mantissa & exp_mask,
             sign = code >> (s.mantissa + s.exponent) & 1;
    if (s.special == FNUZ && sign && !e && !m) return NAN;
    if (s.special == FN && e == exp_mask && m == mant_mask) return NAN;
    if (s.special == IEEE && e == exp_mask) return m ? NAN : sign ? -INFINITY : INFINITY;
    double x = e ? ldexp(1.0 + (double)m / (1u << s.mantissa), (int)e - s.bias)
                 : ldexp((double)m / (1u << s.mantissa), 1 - s.bias);
    return sign ? -x : x;
}

/* The largest finite code without its sign. */
static uint32_t small_largest(small_float s) {
    uint32_t all = (1u << (s.mantissa + s.exponent)) - 1;
    switch (s.special) {
    case IEEE: return (((1u << s.exponent) - 1) << s.mantissa) - 1;
    case FN: return all - 1;
    default: return all;
    }
}

double nw_format_largest(nw_format format) {
    small_float s;
    return small_float_of(format, &s) ? small_decode(s, small_largest(s)) : format == NW_F8E8M0 ? 0x1p127 : 0;
}

/* What encoding and decoding need to know of a small float. */
typedef struct small_codes {
    int shift;               /* mantissa bits that float has and this has not */
    uint32_t rebias, normal; /* exponent offset, in codes; bits of the smallest normal number as a float */
    float unit, scale;       /* unit's last place is the smallest subnormal; scale undoes the bias */
    uint32_t sign;           /* its bit; the others are codes without it: */
    uint32_t all, largest, infinity, nan;
    uint32_t overflow;            /* what becomes of numbers beyond the largest */
    uint32_t zero_sign, nan_sign; /* `sign` where zeros and NaNs have one, else 0 */
} small_codes;

static inline small_codes small_codes_of(small_float s, bool saturate) {
    small_codes c = {.shift = 23 - s.mantissa, .sign = 1u << (s.mantissa + s.exponent)};
    c.rebias = (uint32_t)(127 - s.bias) << s.mantissa;
    c.normal = (uint32_t)(128 - s.bias) << 23;
    c.unit = float_of((uint32_t)(127 + 24 - s.bias - s.mantissa) << 23);
    c.scale = float_of((uint32_t)(127 + 127 - s.bias) << 23);
    c.all = c.sign - 1;
    c.largest = small_largest(s);
    c.infinity = s.special == IEEE ? c.largest + 1
                 : s.special == FN ? c.all
                                   : c.sign; /* or NaN; from here on */
    c.nan = s.special == IEEE     ? c.infinity | 1u << (s.mantissa - 1)
            : s.special == FINITE ? c.largest
                                  : c.infinity;
    c.overflow = saturate || s.special == FINITE ? c.largest : c.infinity;
    c.zero_sign = s.special == FNUZ ? 0 : c.sign;
    c.nan_sign = s.special == IEEE || s.special == FN ? c.sign : 0;
    return c;
}

/* Rounds half to even; beyond the range clamps or gives the format's infinity (NaN where it has none). */
static uint32_t small_encode(small_float s, double x, bool saturate) {
    const small_codes c = small_codes_of(s, saturate);
    uint32_t sign = signbit(x) ? c.sign : 0, code = c.overflow;
    if (isnan(x)) return c.nan | (sign & c.nan_sign);
    double a = fabs(x);
    if (!isinf(a)) {
        int e;
        frexp(a, &e); /* a in [2^(e−1), 2^e) */
        int least = 1 - s.bias, exponent = e - 1 < least ? least : e - 1;
        /* In units of the last place; exact but for the rint. Steps count from 0 in the subnormal range, from 2^mantissa
         * above; carries run into the exponent. */
        double steps = rint(ldexp(a, s.mantissa - exponent));
        double wide = steps + ldexp((double)(exponent - least), s.mantissa);
        if (wide <= (double)c.largest) code = a == 0 ? 0 : (uint32_t)wide;
    }
    return code == 0 || code == c.sign ? code | (sign & c.zero_sign) : code | sign;
}

/* ---- small floats in runs: the same codes, by integer arithmetic that compilers vectorize ----------------- */

/* Below the smallest normal number, adding `unit` rounds to its last place, half to even; above, adding half of what
 * is cut off (less one bit when even) does, and carries run into the exponent. */
static inline uint32_t small_code(const small_codes *c, float x) {
    uint32_t u = bits_of(x), sign = u >> 31 ? c->sign : 0;
    u &= 0x7fffffff;
    uint32_t below = bits_of(float_of(u) + c->unit) - bits_of(c->unit);
    uint32_t above = ((u + (1u << (c->shift - 1)) - 1 + (u >> c->shift & 1)) >> c->shift) - c->rebias;
    uint32_t code = u < c->normal ? below : above;
    code = (int32_t)code > (int32_t)c->largest ? c->overflow : code;
    sign = code == 0 || code == c->sign ? sign & c->zero_sign : sign;
    code = u > 0x7f800000 ? c->nan : code;
    sign = u > 0x7f800000 ? sign & c->nan_sign : sign;
    return code | sign;
}

/* Shifting the code into a float's exponent and mantissa and multiplying the bias away is exact, subnormals included. */
static inline float small_value(const small_codes *c, uint32_t code) {
    uint32_t magnitude = code & c->all, sign = code & c->sign ? 0x80000000 : 0;
    uint32_t mantissa = (magnitude << c->shift) & 0x7fffff;
    uint32_t u = bits_of(float_of(magnitude << c->shift) * c->scale);
    u = magnitude >= c->infinity ? 0x7f800000 | mantissa : u;
    u = code == c->sign && !c->zero_sign ? 0x7fc00000 : u;
    return float_of(u | sign);
}

static const small_float half = {5, 10, 15, IEEE};

uint16_t nw_f16_from_f32(float x) {
    const small_codes c = small_codes_of(half, false);
    return (uint16_t)small_code(&c, x);
}
float nw_f16_to_f32(uint16_t h) {
    const small_codes c = small_codes_of(half, false);
    return small_value(&c, h);
}

uint16_t nw_bf16_from_f32(float x) {
    uint32_t u = bits_of(x);
    if (x != x) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* ---- codes in their storage ------------------------------------------------------------------------------ */

/* Code of element i in its unsigned storage; below 8 bits the first is in the low bits. */
static uint32_t load_code(int bits, const void *data, size_t i) {
    if (bits == 16) return ((const uint16_t *)data)[i];
    size_t bit = i * (size_t)bits;
    return (uint32_t)((const uint8_t *)data)[bit / 8] >> bit % 8 & ((1u << bits) - 1);
}

static void store_code(int bits, void *data, size_t i, uint32_t code) {
    if (bits == 16) {
        ((uint16_t *)data)[i] = (uint16_t)code;
        return;
    }
    size_t bit = i * (size_t)bits;
    uint32_t mask = (1u << bits) - 1;
    uint8_t *at = (uint8_t *)data + bit / 8;
    *at = (uint8_t)((*at & ~(mask << bit % 8)) | (code & mask) << bit % 8);
}

static int32_t sign_extend(uint32_t code, int bits) {
    return (int32_t)(code << (32 - bits)) >> (32 - bits);
}

void nw_load_codes(nw_format format, const void *data, size_t first, size_t count, int32_t *codes) {
    int bits = nw_format_bits(format);
    size_t i = 0, per_byte = bits < 8 ? 8 / (size_t)bits : 1;
    for (; i < count && (first + i) % per_byte; i++) codes[i] = (int32_t)load_code(bits, data, first + i);
    if (bits == 16) {
        const uint16_t *from = (const uint16_t *)data + first;
        for (; i < count; i++) codes[i] = from[i];
    } else {
        const uint8_t *from = (const uint8_t *)data + (first + i) / per_byte;
        int32_t *to = codes + i;
        size_t bytes = (count - i) / per_byte;
        i += bytes * per_byte;
        switch (bits) {
        case 8:
            for (size_t b = 0; b < bytes; b++) to[b] = from[b];
            break;
        case 4:
            for (size_t b = 0; b < bytes; b++)
                for (int j = 0; j < 2; j++) to[2 * b + (size_t)j] = from[b] >> 4 * j & 15;
            break;
        case 2:
            for (size_t b = 0; b < bytes; b++)
                for (int j = 0; j < 4; j++) to[4 * b + (size_t)j] = from[b] >> 2 * j & 3;
            break;
        default:
            for (size_t b = 0; b < bytes; b++)
                for (int j = 0; j < 8; j++) to[8 * b + (size_t)j] = from[b] >> j & 1;
        }
    }
    for (; i < count; i++) codes[i] = (int32_t)load_code(bits, data, first + i);
    if (nw_format_kind(format) == NW_KIND_SINT)
        for (size_t j = 0; j < count; j++) codes[j] = sign_extend((uint32_t)codes[j], bits);
}

void nw_store_codes(nw_format format, void *data, size_t first, size_t count, const uint16_t *codes) {
    int bits = nw_format_bits(format);
    size_t i = 0, per_byte = bits < 8 ? 8 / (size_t)bits : 1;
    if (bits == 16) {
        memcpy((uint16_t *)data + first, codes, count * sizeof *codes);
        return;
    }
    for (; i < count && (first + i) % per_byte; i++) store_code(bits, data, first + i, codes[i]);
    uint8_t *to = (uint8_t *)data + (first + i) / per_byte;
    const uint16_t *q = codes + i;
    size_t bytes = (count - i) / per_byte;
    i += bytes * per_byte;
    switch (bits) {
    case 8:
        for (size_t b = 0; b < bytes; b++) to[b] = (uint8_t)q[b];
        break;
    case 4:
        for (size_t b = 0; b < bytes; b++) to[b] = (uint8_t)((q[2 * b] & 15) | (q[2 * b + 1] & 15) << 4);
        break;
    case 2:
        for (size_t b = 0; b < bytes; b++, q += 4)
            to[b] = (uint8_t)((q[0] & 3) | (q[1] & 3) << 2 | (q[2] & 3) << 4 | (q[3] & 3) << 6);
        break;
    default:
        for (size_t b = 0; b < bytes; b++, q += 8) {
            unsigned byte = 0;
            for (int j = 0; j < 8; j++) byte |= (q[j] & 1u) << j;
            to[b] = (uint8_t)byte;
        }
    }
    for (; i < count; i++) store_code(bits, data, first + i, codes[i]);
}

/* ---- one element ------------------------------------------------------------------------------------------- */

double nw_load_f64(nw_format format, const void *data, size_t i) {
    small_float s;
    float f;
    switch ((int)format) {
    case NW_F32: /* large weights may lie unaligned in their file */
        memcpy(&f, (const char *)data + i * sizeof f, sizeof f);
        return f;
    case NW_F64: return ((const double *)data)[i];
    case NW_U64: return (double)((const uint64_t *)data)[i];
    case NW_F8E8M0: return (double)nw_e8m0_to_f32(((const uint8_t *)data)[i]);
    default: break;
    }
    if (small_float_of(format, &s)) return small_decode(s, load_code(nw_format_bits(format), data, i));
    return (double)nw_load_s64(format, data, i);
}

int64_t nw_load_s64(nw_format format, const void *data, size_t i) {
    switch ((int)format) {
    case NW_U8: return ((const uint8_t *)data)[i];
    case NW_S8: return ((const int8_t *)data)[i];
    case NW_U16: return ((const uint16_t *)data)[i];
    case NW_S16: return ((const int16_t *)data)[i];
    case NW_U32: return ((const uint32_t *)data)[i];
    case NW_S32: return ((const int32_t *)data)[i];
    case NW_U64: return (int64_t)((const uint64_t *)data)[i];
    case NW_S64: return ((const int64_t *)data)[i];
    case NW_BOOL: return ((const uint8_t *)data)[i] != 0;
    case NW_U4:
    case NW_U2:
    case NW_INDEX1:
    case NW_INDEX2:
    case NW_INDEX4:
    case NW_INDEX8: return load_code(nw_format_bits(format), data, i);
    case NW_S4:
    case NW_S2: return sign_extend(load_code(nw_format_bits(format), data, i), nw_format_bits(format));
    default: break;
    }
    if (!nw_format_is_float(format)) return 0;
    double x = nw_load_f64(format, data, i);
    if (isnan(x)) return 0;
    if (x >= 9223372036854775808.0) return INT64_MAX;
    if (x < -9223372036854775808.0) return INT64_MIN;
    return (int64_t)x;
}

void nw_store_f64_as(nw_format format, void *data, size_t i, double x, bool saturate) {
    small_float s;
    switch ((int)format) {
    case NW_F32: ((float *)data)[i] = (float)x; return;
    case NW_F64: ((double *)data)[i] = x; return;
    case NW_BOOL: ((uint8_t *)data)[i] = x != 0; return;
    case NW_F8E8M0: { /* the power of two nearest below or equal in magnitude, rounded up as OCP's encoders do */
        int e;
        double m = frexp(fabs(x), &e);
        int code = isnan(x) ? 255 : x == 0 ? 0 : isinf(x) ? (saturate ? 254 : 255) : e - 1 + 127 + (m > 0.75);
        ((uint8_t *)data)[i] = (uint8_t)(code < 0     ? 0
                                         : code > 254 ? (isnan(x) || !saturate ? 255 : 254)
                                                      : code);
        return;
    }
    case NW_U64: {
        double r = rint(x);
        ((uint64_t *)data)[i] = !(r > 0) ? 0 : r >= 18446744073709551616.0 ? UINT64_MAX : (uint64_t)r;
        return;
    }
    default: break;
    }
    if (small_float_of(format, &s)) {
        store_code(nw_format_bits(format), data, i, small_encode(s, x, saturate));
        return;
    }
    if (!nw_format_is_integer(format) && nw_format_kind(format) != NW_KIND_INDEX) return;
    double r = rint(x), lo = (double)nw_format_min(format), hi = (double)nw_format_max(format);
    int64_t q = isnan(r) ? 0 : r <= lo ? nw_format_min(format) : r >= hi ? nw_format_max(format) : (int64_t)r;
    nw_store_s64(format, data, i, q);
}

/* Halves have infinities and overflow to them as IEEE says; 8- and 4-bit floats saturate. */
void nw_store_f64(nw_format format, void *data, size_t i, double x) {
    nw_store_f64_as(format, data, i, x, nw_format_bits(format) <= 8);
}

void nw_store_s64(nw_format format, void *data, size_t i, int64_t x) {
    switch ((int)format) {
    case NW_U8:
    case NW_S8: ((uint8_t *)data)[i] = (uint8_t)x; return;
    case NW_U16:
    case NW_S16: ((uint16_t *)data)[i] = (uint16_t)x; return;
    case NW_U32:
    case NW_S32: ((uint32_t *)data)[i] = (uint32_t)x; return;
    case NW_U64:
    case NW_S64: ((uint64_t *)data)[i] = (uint64_t)x; return;
    case NW_BOOL: ((uint8_t *)data)[i] = x != 0; return;
    case NW_U4:
    case NW_S4:
    case NW_U2:
    case NW_S2:
    case NW_INDEX1:
    case NW_INDEX2:
    case NW_INDEX4:
    case NW_INDEX8: store_code(nw_format_bits(format), data, i, (uint32_t)x); return;
    default: nw_store_f64(format, data, i, (double)x); return;
    }
}

/* ---- runs of elements ---------------------------------------------------------------------------------------- */

#define RUN 512 /* elements at a time, so that what lies between stays in the cache */

static void decode_small(nw_format format, small_float s, const void *data, size_t first, size_t count,
                         float *out) {
    const small_codes c = small_codes_of(s, false);
    int32_t codes[RUN];
    for (size_t at = 0; at < count; at += RUN) {
        size_t n = count - at < RUN ? count - at : RUN;
        nw_load_codes(format, data, first + at, n, codes);
        for (size_t i = 0; i < n; i++) out[at + i] = small_value(&c, (uint32_t)codes[i]);
    }
}

static size_t encode_small(nw_format format, small_float s, const float *in, size_t count, void *data,
                           size_t first) {
    const small_codes c = small_codes_of(s, nw_format_bits(format) <= 8);
    const float most = small_value(&c, c.largest);
    uint16_t codes[RUN];
    size_t saturated = 0;
    for (size_t at = 0; at < count; at += RUN) {
        size_t n = count - at < RUN ? count - at : RUN;
        int beyond = 0;
        for (size_t i = 0; i < n; i++) codes[i] = (uint16_t)small_code(&c, in[at + i]);
        for (size_t i = 0; i < n; i++) beyond += fabsf(in[at + i]) > most;
        nw_store_codes(format, data, first + at, n, codes);
        saturated += (size_t)beyond;
    }
    return saturated;
}

void nw_decode_f32(nw_format format, const void *data, size_t first, size_t count, float *out) {
    small_float s;
    switch ((int)format) {
    case NW_F32: memcpy(out, (const char *)data + first * sizeof *out, count * sizeof *out); return;
    case NW_U8:
        for (size_t i = 0; i < count; i++) out[i] = ((const uint8_t *)data)[first + i];
        return;
    case NW_S8:
        for (size_t i = 0; i < count; i++) out[i] = ((const int8_t *)data)[first + i];
        return;
    case NW_BF16:
        for (size_t i = 0; i < count; i++) out[i] = nw_bf16_to_f32(((const uint16_t *)data)[first + i]);
        return;
    case NW_F8E8M0:
        for (size_t i = 0; i < count; i++) out[i] = nw_e8m0_to_f32(((const uint8_t *)data)[first + i]);
        return;
    default: break;
    }
    if (small_float_of(format, &s)) {
        decode_small(format, s, data, first, count, out);
        return;
    }
    for (size_t i = 0; i < count; i++) out[i] = (float)nw_load_f64(format, data, first + i);
}

size_t nw_encode_f32(nw_format format, const float *in, size_t count, void *data, size_t first) {
    small_float s;
    if (format == NW_F32) {
        memcpy((float *)data + first, in, count * sizeof *in);
        return 0;
    }
    if (small_float_of(format, &s)) return encode_small(format, s, in, count, data, first);
    bool integer = nw_format_is_integer(format);
    double lo = integer ? (double)nw_format_min(format) : -INFINITY;
    double hi = integer ? (double)nw_format_max(format) : INFINITY;
    size_t saturated = 0;
    for (size_t i = 0; i < count; i++) {
        nw_store_f64(format, data, first + i, in[i]);
        double r = integer ? rintf(in[i]) : in[i];
        saturated += r < lo || r > hi;
    }
    return saturated;
}
