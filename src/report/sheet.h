/* sheet.h: one set of facts, shown as text for people and as JSON for programs. Facts are written once, with
 * a key (JSON), a label (text) and a unit; the renderers decide how they look. Must not include anything but
 * base/. */
#ifndef NW_REPORT_SHEET_H
#define NW_REPORT_SHEET_H

#include "base/arena.h"

#include <stdbool.h>

typedef enum nw_unit {
    NW_UNIT_NUMBER, /* 0.0123 */
    NW_UNIT_COUNT,  /* whole */
    NW_UNIT_SHARE,  /* 0 … 1 in JSON, per cent in text */
    NW_UNIT_DB,     /* decibel; see NW_DB_EXACT */
    NW_UNIT_MS,     /* milliseconds */
    NW_UNIT_SECONDS,
    NW_UNIT_BYTES, /* bytes in JSON, kB and MB (of 1000) in text */
    NW_UNIT_FACTOR /* 3.9× */
} nw_unit;

#define NW_DB_EXACT 200.0 /* stands for no difference at all: f32 cannot express better than about 150 dB */

/* How text shows a list of records. */
typedef enum nw_layout {
    NW_LAYOUT_ROWS,    /* a row each */
    NW_LAYOUT_COLUMNS, /* a column each: few records with many fields; the first field is the heading. Lists of a record
                          follow below */
    NW_LAYOUT_DETAILS  /* rows, but only when details are asked for */
} nw_layout;

typedef struct nw_record nw_record;
typedef struct nw_field nw_field;
typedef struct nw_sheet nw_sheet;

struct nw_record {
    nw_sheet *sheet;
    nw_field *fields, *last;
    nw_record *next; /* in a list */
};

typedef enum nw_field_kind { NW_FIELD_TEXT, NW_FIELD_NUMBER, NW_FIELD_FLAG, NW_FIELD_LIST } nw_field_kind;

struct nw_field {
    const char *key, *label; /* static or in the sheet's arena */
    nw_field_kind kind;
    nw_unit unit;
    double number; /* NaN: not known (null, or a dash); a flag's 0 or 1 */
    const char *text;
    nw_layout layout;
    nw_record *items, *last_item;
    nw_field *next;
};

struct nw_sheet {
    nw_arena arena;
    nw_record root;
    bool failed; /* memory ran out while facts were written */
};

nw_status nw_sheet_new(nw_context *ctx, nw_sheet **out); /* ctx must outlive the sheet */
void nw_sheet_free(nw_sheet *sheet);                     /* NULL is fine */
/* NW_E_MEMORY when a fact could not be kept: writers need no checks of their own. */
nw_status nw_sheet_check(const nw_sheet *sheet);

/* Facts of a record, shown in the order written. key NULL: text only; label NULL: JSON only; both are kept as
 * pointers (string literals). Text is copied, with control characters and broken UTF-8 replaced; NULL text is
 * left out. A NULL record is what nw_record_item gives when memory runs out: it takes facts without effect.
 */
void nw_record_text(nw_record *record, const char *key, const char *label, const char *text);
void nw_record_textf(nw_record *record, const char *key, const char *label, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void nw_record_number(nw_record *record, const char *key, const char *label, nw_unit unit, double number);
void nw_record_flag(nw_record *record, const char *key, const char *label, bool flag);
/* A new record at the end of the list `key` (made at its first item). */
nw_record *nw_record_item(nw_record *record, const char *key, const char *label, nw_layout layout);
/* The list itself, so that it is there even when it stays empty. */
void nw_record_list(nw_record *record, const char *key, const char *label, nw_layout layout);

/* Heap memory (nw_free), zero-terminated; NULL when memory runs out. */
char *nw_sheet_text(const nw_sheet *sheet, nw_context *ctx, bool details);
char *nw_sheet_json(const nw_sheet *sheet, nw_context *ctx);
/* By place: "models.1.top1". NaN when there is no such number. */
double nw_sheet_number(const nw_sheet *sheet, const char *path);

/* A value as text shows it, "84.00 %". Returns buffer. */
char *nw_unit_format(nw_unit unit, double number, char *buffer, size_t size);

#endif
