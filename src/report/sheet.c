#include "report/sheet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

nw_status nw_sheet_new(nw_context *ctx, nw_sheet **out) {
    nw_sheet *sheet = nw_calloc(ctx, 1, sizeof *sheet);
    if (!sheet) return NW_E_MEMORY;
    nw_arena_init(&sheet->arena, ctx);
    sheet->root.sheet = sheet;
    *out = sheet;
    return NW_OK;
}

void nw_sheet_free(nw_sheet *sheet) {
    if (!sheet) return;
    nw_arena_free(&sheet->arena);
    nw_free(sheet->arena.ctx, sheet);
}

nw_status nw_sheet_check(const nw_sheet *sheet) {
    return sheet->failed ? NW_E_MEMORY : NW_OK;
}

/* Bytes of the UTF-8 sequence at p (at least 1), or 0 when it is not valid. */
static size_t sequence(const unsigned char *p) {
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xC2 && p[0] < 0xE0   ? 2
               : p[0] >= 0xE0 && p[0] < 0xF0 ? 3
               : p[0] >= 0xF0 && p[0] < 0xF5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80) return 0; /* also at the terminating zero */
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F)) return 0; /* overlong; surrogates */
    if ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F)) return 0;
    return n;
}

/* Names come from files that anyone may have made: what would move the cursor or break JSON becomes '?'. */
static void clean(char *text) {
    for (unsigned char *p = (unsigned char *)text; *p;) {
        size_t n = sequence(p);
        bool control = *p < 0x20 || *p == 0x7F || (*p == 0xC2 && n == 2 && p[1] < 0xA0);
        if (n && !control)
            p += n;
        else
            *p++ = '?';
    }
}

static nw_field *add(nw_record *record, const char *key, const char *label, nw_field_kind kind) {
    if (!record) return NULL;
    nw_field *field = nw_arena_alloc(&record->sheet->arena, sizeof *field);
    if (!field) {
        record->sheet->failed = true;
        return NULL;
    }
    *field = (nw_field){.key = key, .label = label, .kind = kind};
    if (record->last)
        record->last->next = field;
    else
        record->fields = field;
    record->last = field;
    return field;
}

static void add_text(nw_record *record, const char *key, const char *label, char *copy) {
    if (!copy) {
        record->sheet->failed = true;
        return;
    }
    clean(copy);
    nw_field *field = add(record, key, label, NW_FIELD_TEXT);
    if (field) field->text = copy;
}

void nw_record_text(nw_record *record, const char *key, const char *label, const char *text) {
    if (record && text) add_text(record, key, label, nw_arena_strdup(&record->sheet->arena, text));
}

void nw_record_textf(nw_record *record, const char *key, const char *label, const char *format, ...) {
    if (!record) return;
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    char *copy = length < 0 ? NULL : nw_arena_alloc(&record->sheet->arena, (size_t)length + 1);
    if (copy) vsnprintf(copy, (size_t)length + 1, format, again);
    va_end(again);
    va_end(args);
    add_text(record, key, label, copy);
}

void nw_record_number(nw_record *record, const char *key, const char *label, nw_unit unit, double number) {
    nw_field *field = add(record, key, label, NW_FIELD_NUMBER);
    if (!field) return;
    field->unit = unit;
    field->number = number;
    if (unit == NW_UNIT_DB) { /* ±infinity is a fact here, which JSON could not say */
        if (number > NW_DB_EXACT) field->number = NW_DB_EXACT;
        if (number < -NW_DB_EXACT) field->number = -NW_DB_EXACT;
    }
}

void nw_record_flag(nw_record *record, const char *key, const char *label, bool flag) {
    nw_field *field = add(record, key, label, NW_FIELD_FLAG);
    if (field) field->number = flag;
}

static nw_field *list(nw_record *record, const char *key, const char *label, nw_layout layout) {
    if (!record) return NULL;
    for (nw_field *f = record->fields; f; f = f->next) {
        bool same_key = f->key && key ? strcmp(f->key, key) == 0 : f->key == key;
        bool same_label = f->label && label ? strcmp(f->label, label) == 0 : f->label == label;
        if (f->kind == NW_FIELD_LIST && same_key && same_label) return f;
    }
    nw_field *field = add(record, key, label, NW_FIELD_LIST);
    if (field) field->layout = layout;
    return field;
}

void nw_record_list(nw_record *record, const char *key, const char *label, nw_layout layout) {
    (void)list(record, key, label, layout);
}

nw_record *nw_record_item(nw_record *record, const char *key, const char *label, nw_layout layout) {
    nw_field *field = list(record, key, label, layout);
    if (!field) return NULL;
    nw_record *item = nw_arena_alloc(&record->sheet->arena, sizeof *item);
    if (!item) {
        record->sheet->failed = true;
        return NULL;
    }
    item->sheet = record->sheet;
    if (field->last_item)
        field->last_item->next = item;
    else
        field->items = item;
    field->last_item = item;
    return item;
}

double nw_sheet_number(const nw_sheet *sheet, const char *path) {
    const nw_record *record = &sheet->root;
    for (;;) {
        size_t length = strcspn(path, ".");
        const nw_field *field = record->fields;
        while (field &&
               !(field->key && strlen(field->key) == length && memcmp(field->key, path, length) == 0))
            field = field->next;
        if (!field) return NAN;
        bool last = path[length] == 0;
        if (field->kind == NW_FIELD_NUMBER || field->kind == NW_FIELD_FLAG) return last ? field->number : NAN;
        if (field->kind != NW_FIELD_LIST || last) return NAN;
        path += length + 1;
        char *end;
        unsigned long index = strtoul(path, &end, 10);
        if (end == path || *end != '.') return NAN;
        path = end + 1;
        record = field->items;
        while (record && index--) record = record->next;
        if (!record) return NAN;
    }
}
