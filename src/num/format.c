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
    return known((nw_format)data_type) ? (nw_format)data_type : NW_NONE;
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
    case NW_KIND_SINT: return (int64_t)(((uint64_t)1 << (bits - 1)) - 1);
    case NW_KIND_UINT: return bits >= 64 ? INT64_MAX : (int64_t)(((uint64_t)1 << bits) - 1);
    default: return 0;
    }
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

/* Rounds half to even; beyond the range clamps or gives the format's infinity (NaN where it has none). */
static uint32_t small_encode(small_float s, double x, bool saturate) {
    uint32_t sign_bit = 1u << (s.mantissa + s.exponent);
    uint32_t all = sign_bit - 1, largest = small_largest(s);
    uint32_t nan = s.special == FNUZ ? sign_bit : s.special == IEEE ? all : s.special == FN ? all : largest;
    uint32_t overflow = s.special == IEEE ? ((1u << s.exponent) - 1) << s.mantissa : nan;
    if (s.special == IEEE) nan = overflow | 1u << (s.mantissa - 1);
    uint32_t sign = signbit(x) ? sign_bit : 0;
    if (isnan(x)) return s.special == FINITE ? largest : s.special == FNUZ ? nan : (nan | sign);
    double a = fabs(x);
    uint32_t code;
    if (isinf(a)) {
        code = saturate || s.special == FINITE ? largest : overflow;
    } else {
        int e;
        frexp(a, &e); /* a in [2^(e−1), 2^e) */
        int least = 1 - s.bias, exponent = e - 1 < least ? least : e - 1;
        double steps =
            rint(ldexp(a, s.mantissa - exponent)); /* in units of the last place; exact but for the rint */
        /* steps counts from 0 in the subnormal range, from 2^mantissa above; carries run into the exponent. */
        double wide = steps + ldexp((double)(exponent - least), s.mantissa);
        code = a == 0 ? 0 : wide > (double)largest ? UINT32_MAX : (uint32_t)wide;
        if (code > largest) code = saturate || s.special == FINITE ? largest : overflow;
    }
    if (s.special == FNUZ && (code == 0 || code == sign_bit))
        return code; /* no negative zero; NaN has its own code */
    return code | sign;
}

uint16_t nw_f16_from_f32(float x) {
    return (uint16_t)small_encode((small_float){5, 10, 15, IEEE}, x, false);
}
float nw_f16_to_f32(uint16_t h) {
    return (float)small_decode((small_float){5, 10, 15, IEEE}, h);
}

uint16_t nw_bf16_from_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (x != x) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Code of element i in its unsigned storage. */
static uint32_t load_code(int bits, const void *data, size_t i) {
    const uint8_t *p = data;
    switch (bits) {
    case 2: return p[i / 4] >> i % 4 * 2 & 3;
    case 4: return p[i / 2] >> i % 2 * 4 & 15;
    case 8: return p[i];
    default: return ((const uint16_t *)data)[i];
    }
}

static void store_code(int bits, void *data, size_t i, uint32_t code) {
    uint8_t *p = data;
    switch (bits) {
    case 2: p[i / 4] = (uint8_t)((p[i / 4] & ~(3u << i % 4 * 2)) | (code & 3) << i % 4 * 2); break;
    case 4: p[i / 2] = (uint8_t)((p[i / 2] & ~(15u << i % 2 * 4)) | (code & 15) << i % 2 * 4); break;
    case 8: p[i] = (uint8_t)code; break;
    default: ((uint16_t *)data)[i] = (uint16_t)code; break;
    }
}

static int32_t sign_extend(uint32_t code, int bits) {
    return (int32_t)(code << (32 - bits)) >> (32 - bits);
}

double nw_load_f64(nw_format format, const void *data, size_t i) {
    small_float s;
    switch ((int)format) {
    case NW_F32: return ((const float *)data)[i];
    case NW_F64: return ((const double *)data)[i];
    case NW_U64: return (double)((const uint64_t *)data)[i];
    case NW_F8E8M0: {
        uint8_t code = ((const uint8_t *)data)[i];
        return code == 255 ? NAN : ldexp(1.0, (int)code - 127);
    }
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
    case NW_U2: return load_code(nw_format_bits(format), data, i);
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
    if (!nw_format_is_integer(format)) return;
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
    case NW_S2: store_code(nw_format_bits(format), data, i, (uint32_t)x); return;
    default: nw_store_f64(format, data, i, (double)x); return;
    }
}

void nw_decode_f32(nw_format format, const void *data, size_t first, size_t count, float *out) {
    switch ((int)format) {
    case NW_F32: memcpy(out, (const float *)data + first, count * sizeof *out); return;
    case NW_U8:
        for (size_t i = 0; i < count; i++) out[i] = ((const uint8_t *)data)[first + i];
        return;
    case NW_S8:
        for (size_t i = 0; i < count; i++) out[i] = ((const int8_t *)data)[first + i];
        return;
    case NW_BF16:
        for (size_t i = 0; i < count; i++) out[i] = nw_bf16_to_f32(((const uint16_t *)data)[first + i]);
        return;
    default:
        for (size_t i = 0; i < count; i++) out[i] = (float)nw_load_f64(format, data, first + i);
    }
}

size_t nw_encode_f32(nw_format format, const float *in, size_t count, void *data, size_t first) {
    if (format == NW_F32) {
        memcpy((float *)data + first, in, count * sizeof *in);
        return 0;
    }
    small_float s;
    double lo = (double)nw_format_min(format), hi = (double)nw_format_max(format);
    if (small_float_of(format, &s)) {
        hi = small_decode(s, small_largest(s));
        lo = -hi;
    } else if (!nw_format_is_integer(format)) {
        lo = -INFINITY;
        hi = INFINITY;
    }
    size_t saturated = 0;
    for (size_t i = 0; i < count; i++) {
        nw_store_f64(format, data, first + i, in[i]);
        double r = nw_format_is_integer(format) ? rintf(in[i]) : in[i];
        saturated += r < lo || r > hi;
    }
    return saturated;
}
