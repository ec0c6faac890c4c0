/* npy.h: NumPy's array files: .npy (versions 1–3) and .npz (a zip of them, one array per entry).
 * Must not include anything but base/ and num/. */
#ifndef NW_DATA_NPY_H
#define NW_DATA_NPY_H

#include "base/arena.h"
#include "base/file.h"
#include "num/tensor.h"

/* An array and the bytes that keep it alive. tensor.data points into `bytes`: treat it as read-only. */
typedef struct nw_npy {
    nw_tensor tensor;
    nw_bytes *bytes; /* one reference, owned */
} nw_npy;

/* dtypes: f2 f4 f8, i1 … i8, u1 … u8, b1, c8 c16, of either byte order, in C or Fortran order; the tensor is
 * always little-endian and row-major. Others (text, structures, Python objects, V2 as bfloat16 is saved) fail
 * with NW_E_UNSUPPORTED; a broken header or a file shorter than its header says fails with NW_E_FORMAT. */

/* Maps the file. Zero-copy when it is little-endian, in C order and aligned (numpy's own files are): the
 * array is not loaded; pages come in as they are read. Otherwise the data is a converted copy in memory. */
nw_status nw_npy_map(nw_context *ctx, const char *path, nw_npy *out);
/* The same over bytes at hand; `name` is for messages. Takes its own reference to `bytes`. */
nw_status nw_npy_parse(nw_context *ctx, const char *name, nw_bytes *bytes, nw_npy *out);
void nw_npy_free(
    nw_npy *npy); /* drops the reference, clears the view; NULL and an all-zero nw_npy are fine */

/* A writable, aligned copy in the arena. */
nw_status nw_npy_read(nw_arena *arena, const char *path, nw_tensor *out);

/* Writes atomically (version 1.0, C order, little-endian). Formats that numpy lacks are widened: bf16, f8 and
 * f4 to f4, s4 s2 to i1, u4 u2 to u1; a quantized tensor is written as its real values in f4. Strings are not
 * supported. */
nw_status nw_npy_write(nw_context *ctx, const char *path, const nw_tensor *t);
/* The same into an output the caller opened and commits. */
nw_status nw_npy_write_to(nw_output *out, const nw_tensor *t);

/* A header alone: what precedes the elements. */
typedef struct nw_npy_header {
    nw_tensor shape; /* format and dims; data NULL */
    size_t element;  /* bytes per element */
    size_t unit;     /* bytes that swap as one: `element`, or half of it for complex numbers */
    size_t offset;   /* of the first element, in bytes */
    bool big_endian, fortran;
} nw_npy_header;
/* Reads a header from the first `size` bytes of a file. When more bytes are needed: NW_OK with header->offset
 * > size and nothing else set; call again with at least `offset` bytes. */
nw_status nw_npy_parse_header(nw_context *ctx, const char *name, const uint8_t *data, size_t size,
                              nw_npy_header *header);
/* Elements as the file has them → row-major, little-endian; in and out may not overlap. */
void nw_npy_convert(const nw_npy_header *header, const uint8_t *in, uint8_t *out);
void nw_npy_swap(uint8_t *data, size_t bytes, size_t unit); /* reverses every `unit` bytes in place */

/* An opened .npz. Not to be shared by threads. */
typedef struct nw_npz nw_npz;
nw_status nw_npz_open(nw_context *ctx, const char *path, nw_npz **out);
void nw_npz_free(nw_npz *npz); /* NULL is fine; free its streams first */
size_t nw_npz_count(const nw_npz *npz);
const char *nw_npz_name(const nw_npz *npz, size_t i); /* the entry without ".npy"; owned by npz */
/* The entry of that name; nw_npz_count() when there is none. */
size_t nw_npz_find(const nw_npz *npz, const char *name);
/* The whole array i in memory. */
nw_status nw_npz_read(nw_npz *npz, size_t i, nw_npy *out);

/* Array i read forward, a few rows at a time, in constant memory. A Fortran-ordered one fails
 * (NW_E_UNSUPPORTED): read it whole. */
typedef struct nw_npz_stream nw_npz_stream;
nw_status nw_npz_stream_open(nw_npz *npz, size_t i, nw_npz_stream **out);
const nw_tensor *nw_npz_stream_shape(const nw_npz_stream *stream); /* format and dims, data NULL */
nw_status nw_npz_stream_read(nw_npz_stream *stream, void *out,
                             size_t bytes);                          /* whole elements; fails at the end */
nw_status nw_npz_stream_skip(nw_npz_stream *stream, uint64_t bytes); /* from where it stands */
void nw_npz_stream_free(nw_npz_stream *stream);

#endif
