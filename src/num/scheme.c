/* scheme.c: codings, and the words for schemes. */
#include "num/scheme.h"

#include "num/levels.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

nw_coding nw_coding_linear(nw_format format, bool symmetric, bool full, bool reduce) {
    int64_t lo = nw_format_min(format), hi = nw_format_max(format), shift = 0;
    if (reduce && hi - lo > 3) {
        lo = lo < 0 ? lo / 2 : 0;
        hi /= 2;
    }
    if (symmetric && lo == 0) {
        shift = (hi + 1) / 2;
        lo -= shift;
        hi -= shift;
    }
    if (symmetric && !full) lo = -hi;
    return (nw_coding){.kind = NW_LINEAR,
                       .format = format,
                       .grid = {(int32_t)lo, (int32_t)hi, symmetric},
                       .shift = (int32_t)shift};
}

bool nw_coding_equal(const nw_coding *a, const nw_coding *b) {
    return a->kind == b->kind && a->format == b->format && a->grid.qmin == b->grid.qmin &&
           a->grid.qmax == b->grid.qmax && a->grid.symmetric == b->grid.symmetric && a->shift == b->shift &&
           a->steps == b->steps;
}

nw_status nw_coding_levels(nw_arena *arena, const nw_coding *coding, nw_levels *out) {
    int count = coding->grid.qmax + 1;
    *out = (nw_levels){0};
    switch (coding->kind) {
    case NW_BINARY: return nw_levels_binary(arena, out);
    case NW_LOG: return nw_levels_log(arena, count, coding->steps, out);
    case NW_SQRT: return nw_levels_sqrt(arena, count, out);
    case NW_NF4: return nw_levels_nf4(arena, out);
    default: return NW_OK;
    }
}

/* ---- words: coding [":" block] ["@" scale format] ---------------------------------------------------------- */

/* Names of whole schemes, and what they are short for. */
static const char *const aliases[][2] = {
    {"mxfp4", "f4e2m1:32@e8m0"}, {"mxfp8", "f8e4m3fn:32@e8m0"}, {"mxfp8e5m2", "f8e5m2:32@e8m0"}};
enum { ALIASES = sizeof aliases / sizeof *aliases };

/* A name with a number of bits behind it. */
static const struct {
    const char *name;
    nw_coding_kind kind;
    int least, most; /* bits */
} numbered[] = {{"log", NW_LOG, 2, 8},
                {"sqrt", NW_SQRT, 2, 8},
                {"codebook", NW_CODEBOOK, 1, 8},
                {"fixed", NW_LINEAR, 2, 16}};
enum { NUMBERED = sizeof numbered / sizeof *numbered };

static nw_format smallest_index(int count) {
    return count <= 2 ? NW_INDEX1 : count <= 4 ? NW_INDEX2 : count <= 16 ? NW_INDEX4 : NW_INDEX8;
}

/* The smallest integer format that holds lo … hi; NW_NONE above 16 bits. */
static nw_format smallest_integer(int64_t lo, int64_t hi) {
    static const nw_format formats[] = {NW_U2, NW_S2, NW_U4, NW_S4, NW_U8, NW_S8, NW_U16, NW_S16};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (lo >= nw_format_min(formats[i]) && hi <= nw_format_max(formats[i])) return formats[i];
    return NW_NONE;
}

static nw_coding table_coding(nw_coding_kind kind, int count) {
    return (nw_coding){.kind = kind, .format = smallest_index(count), .grid = {0, count - 1, true}};
}

/* Symmetric codes around 0, asymmetric ones where a sign is missing. */
static nw_coding range_coding(int32_t lo, int32_t hi) {
    return (nw_coding){
        .kind = NW_LINEAR, .format = smallest_integer(lo, hi), .grid = {lo, hi, lo < 0 && hi > 0}};
}

/* Reads the text up to its end, or to a character that may follow; numbers within [least, most]. */
typedef struct reader {
    nw_context *ctx;
    const char *word, *at;
} reader;

static nw_status bad(const reader *r, const char *what) {
    return nw_fail(
        r->ctx, NW_E_ARGUMENT,
        "\"%.40s\" is no number format: %s (such as s8, u4, s4:32@f16, range(-255:255), ternary, binary, "
        "log4/2, sqrt8, codebook4, nf4, fixed8, f16, f8e4m3fn, mxfp4)",
        r->word, what);
}

static bool take(reader *r, const char *text) {
    size_t length = strlen(text);
    if (strncmp(r->at, text, length) != 0) return false;
    r->at += length;
    return true;
}

static bool take_number(reader *r, int64_t least, int64_t most, int64_t *out) {
    bool negative = take(r, "-");
    int64_t x = 0;
    if (*r->at < '0' || *r->at > '9') return false;
    for (; *r->at >= '0' && *r->at <= '9'; r->at++) {
        if (x > most && x > -least) return false;
        x = 10 * x + (*r->at - '0');
    }
    *out = negative ? -x : x;
    return *out >= least && *out <= most;
}

/* A format's name, all the letters and digits there. */
static nw_format take_format(reader *r, bool scale) {
    char name[16];
    size_t length = strspn(r->at, "abcdefghijklmnopqrstuvwxyz0123456789");
    if (length >= sizeof name) return NW_NONE;
    memcpy(name, r->at, length);
    name[length] = 0;
    nw_format format = scale && strcmp(name, "e8m0") == 0 ? NW_F8E8M0 : nw_format_by_name(name);
    if (format != NW_NONE) r->at += length;
    return format;
}

static nw_status parse_numbered(reader *r, int which, nw_scheme *s) {
    int64_t bits, steps = 1;
    char text[64];
    snprintf(text, sizeof text, "%s needs a number of bits from %d to %d", numbered[which].name,
             numbered[which].least, numbered[which].most);
    if (!take_number(r, numbered[which].least, numbered[which].most, &bits)) return bad(r, text);
    int count = 1 << bits, half = (1 << (bits - 1)) - 1;
    switch (numbered[which].kind) {
    case NW_LOG:
        if (take(r, "/") && !take_number(r, 1, 64, &steps))
            return bad(r, "behind log comes \"/\" and the levels per power of two, from 1 to 64");
        s->coding = table_coding(NW_LOG, count - 1);
        s->coding.steps = (int)steps;
        return NW_OK;
    case NW_SQRT: s->coding = table_coding(NW_SQRT, count - 1); return NW_OK;
    case NW_CODEBOOK: s->coding = table_coding(NW_CODEBOOK, count); return NW_OK;
    default:
        s->coding = range_coding(-half, half);
        s->scale_format = NW_F8E8M0;
        return NW_OK;
    }
}

static nw_status parse_coding(reader *r, nw_scheme *s) {
    int64_t lo, hi;
    if (take(r, "ternary")) {
        s->coding = (nw_coding){.kind = NW_TERNARY, .format = NW_S2, .grid = {-1, 1, true}};
        return NW_OK;
    }
    if (take(r, "binary")) {
        s->coding = table_coding(NW_BINARY, 2);
        return NW_OK;
    }
    if (take(r, "nf4")) {
        s->coding = table_coding(NW_NF4, 16);
        return NW_OK;
    }
    for (int i = 0; i < NUMBERED; i++)
        if (take(r, numbered[i].name)) return parse_numbered(r, i, s);
    if (take(r, "range(")) {
        if (!take_number(r, -32768, 65535, &lo) || !take(r, ":") || !take_number(r, -32768, 65535, &hi) ||
            !take(r, ")") || lo >= hi || smallest_integer(lo, hi) == NW_NONE)
            return bad(r, "a range is written range(LO:HI), LO below HI, within 16 bits");
        s->coding = range_coding((int32_t)lo, (int32_t)hi);
    } else {
        nw_format format = take_format(r, false);
        bool integer = nw_format_is_integer(format);
        if (!(integer || nw_format_is_float(format)) || nw_format_bits(format) > 16 || format == NW_F8E8M0)
            return bad(r, "it names no coding of at most 16 bits");
        if (!integer) {
            s->coding = (nw_coding){.kind = NW_FLOAT, .format = format};
            return NW_OK;
        }
        s->coding = nw_coding_linear(format, nw_format_kind(format) == NW_KIND_SINT, false, false);
    }
    bool to_symmetric = take(r, "-sym");
    if (!to_symmetric && !take(r, "-asym")) return NW_OK;
    if (s->coding.grid.symmetric == to_symmetric) return NW_OK;
    nw_format format = s->coding.format;
    nw_coding whole = nw_coding_linear(format, !to_symmetric, false, false);
    if (nw_coding_equal(&whole, &s->coding))
        s->coding = nw_coding_linear(format, to_symmetric, false, false);
    else if (!to_symmetric)
        s->coding.grid.symmetric = false;
    else
        return bad(r, "a range without negative codes is not symmetric");
    return NW_OK;
}

static nw_status parse(reader *r, nw_scheme *s) {
    *s = (nw_scheme){.scale_format = NW_NONE};
    NW_TRY(parse_coding(r, s));
    bool fixed = s->scale_format != NW_NONE,
         wide = s->coding.kind == NW_FLOAT && nw_format_bits(s->coding.format) == 16;
    if (take(r, ":") && !take_number(r, 2, 65536, &s->block))
        return bad(r, "behind \":\" comes the size of a block, from 2 to 65536");
    if (take(r, "@")) {
        if (fixed) return bad(r, "fixed point has power-of-two scales");
        s->scale_format = take_format(r, true);
        if (!nw_format_is_scale(s->scale_format))
            return bad(r, "behind \"@\" comes the format of scales: f32, f16, bf16 or e8m0");
    }
    if (*r->at) return bad(r, "something is left behind its end");
    if (wide && (s->block || s->scale_format != NW_NONE)) return bad(r, "f16 and bf16 have no scales");
    if (s->scale_format == NW_NONE) s->scale_format = NW_F32;
    return NW_OK;
}

nw_status nw_scheme_parse(nw_context *ctx, const char *word, nw_scheme *out) {
    reader r = {ctx, word, word};
    for (int i = 0; i < ALIASES; i++)
        if (strcmp(word, aliases[i][0]) == 0) r.at = aliases[i][1];
    nw_scheme s;
    NW_TRY(parse(&r, &s));
    *out = s;
    return NW_OK;
}

/* ---- printing ------------------------------------------------------------------------------------------------ */

static int bits_of_count(int count) {
    int bits = 0;
    while ((1 << bits) < count) bits++;
    return bits;
}

static void print_linear(const nw_scheme *s, char *buffer, size_t size) {
    const nw_coding *c = &s->coding;
    int32_t lo = c->grid.qmin + c->shift, hi = c->grid.qmax + c->shift;
    bool is_signed = nw_format_kind(c->format) == NW_KIND_SINT, symmetric = c->grid.symmetric;
    nw_coding whole = nw_coding_linear(c->format, symmetric, false, false), range = range_coding(lo, hi);
    const char *suffix = symmetric ? "-sym" : "-asym";
    if (nw_coding_equal(&whole, c))
        snprintf(buffer, size, "%s%s", nw_format_name(c->format), symmetric == is_signed ? "" : suffix);
    else
        snprintf(buffer, size, "range(%" PRId32 ":%" PRId32 ")%s", lo, hi,
                 symmetric == range.grid.symmetric ? "" : suffix);
}

static void print_coding(const nw_scheme *s, bool fixed, char *buffer, size_t size) {
    int levels = s->coding.grid.qmax + 1;
    switch (s->coding.kind) {
    case NW_FLOAT: snprintf(buffer, size, "%s", nw_format_name(s->coding.format)); return;
    case NW_TERNARY: snprintf(buffer, size, "ternary"); return;
    case NW_BINARY: snprintf(buffer, size, "binary"); return;
    case NW_NF4: snprintf(buffer, size, "nf4"); return;
    case NW_CODEBOOK: snprintf(buffer, size, "codebook%d", bits_of_count(levels)); return;
    case NW_SQRT: snprintf(buffer, size, "sqrt%d", bits_of_count(levels)); return;
    case NW_LOG:
        if (s->coding.steps == 1)
            snprintf(buffer, size, "log%d", bits_of_count(levels));
        else
            snprintf(buffer, size, "log%d/%d", bits_of_count(levels), s->coding.steps);
        return;
    case NW_LINEAR:
        if (fixed)
            snprintf(buffer, size, "fixed%d", bits_of_count(levels) + 1);
        else
            print_linear(s, buffer, size);
    }
}

char *nw_scheme_print(const nw_scheme *s, char *buffer, size_t size) {
    const nw_coding *c = &s->coding;
    int half = c->grid.qmax + 1;
    bool fixed = c->kind == NW_LINEAR && s->scale_format == NW_F8E8M0 && c->grid.symmetric && c->shift == 0 &&
                 c->grid.qmin == -c->grid.qmax && (half & (half - 1)) == 0;
    print_coding(s, fixed, buffer, size);
    size_t at = strlen(buffer);
    if (s->block) snprintf(buffer + at, size - at, ":%" PRId64, s->block);
    at = strlen(buffer);
    if (!fixed && s->scale_format != NW_F32 && s->scale_format != NW_NONE)
        snprintf(buffer + at, size - at, "@%s",
                 s->scale_format == NW_F8E8M0 ? "e8m0" : nw_format_name(s->scale_format));
    for (int i = 0; i < ALIASES; i++)
        if (strcmp(buffer, aliases[i][1]) == 0) snprintf(buffer, size, "%s", aliases[i][0]);
    return buffer;
}
