/* text.c: a sheet as tables for people. */
#include "report/sheet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Growing text. After a failure appending does nothing. */
typedef struct page {
    nw_context *ctx;
    char *data;
    size_t size, capacity;
    bool failed;
} page;

static void put(page *out, const char *text, size_t length) {
    if (out->failed || nw_grow(out->ctx, (void **)&out->data, &out->capacity, out->size,
                               out->size + length + 1, 1) != NW_OK) {
        out->failed = true;
        return;
    }
    memcpy(out->data + out->size, text, length);
    out->size += length;
    out->data[out->size] = 0;
}

static void put_text(page *out, const char *text) {
    put(out, text, strlen(text));
}

/* Columns on a terminal: code points. */
static int width_of(const char *text) {
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static void put_padded(page *out, const char *text, int width, bool right) {
    int pad = width - width_of(text);
    if (!right) put_text(out, text);
    for (; pad > 0; pad--) put(out, " ", 1);
    if (right) put_text(out, text);
}

char *nw_unit_format(nw_unit unit, double x, char *buffer, size_t size) {
    static const char *const byte_names[] = {"bytes", "kB", "MB", "GB", "TB"};
    int scale = 0;
    if (!isfinite(x)) {
        snprintf(buffer, size, "%s", isnan(x) ? "–" : x > 0 ? "infinite" : "−infinite");
        return buffer;
    }
    switch (unit) {
    case NW_UNIT_NUMBER: snprintf(buffer, size, "%.4g", x); break;
    case NW_UNIT_COUNT: snprintf(buffer, size, "%.0f", x); break;
    case NW_UNIT_SHARE: snprintf(buffer, size, "%.2f %%", 100 * x); break;
    case NW_UNIT_DB:
        if (x >= NW_DB_EXACT)
            snprintf(buffer, size, "exact");
        else
            snprintf(buffer, size, "%.1f dB", x);
        break;
    case NW_UNIT_MS:
        snprintf(buffer, size, x < 0.1 ? "%.4f ms" : x < 10 ? "%.3f ms" : x < 100 ? "%.2f ms" : "%.1f ms", x);
        break;
    case NW_UNIT_SECONDS: snprintf(buffer, size, x < 10 ? "%.2f s" : "%.1f s", x); break;
    case NW_UNIT_BYTES:
        while (x >= 1000 && scale < 4) {
            x /= 1000;
            scale++;
        }
        snprintf(buffer, size, scale == 0 ? "%.0f %s" : "%.2f %s", x, byte_names[scale]);
        break;
    case NW_UNIT_FACTOR: snprintf(buffer, size, "%.2f×", x); break;
    }
    return buffer;
}

static const char *show(const nw_field *field, char *buffer, size_t size) {
    if (!field) return "–";
    switch (field->kind) {
    case NW_FIELD_TEXT: return field->text;
    case NW_FIELD_NUMBER: return nw_unit_format(field->unit, field->number, buffer, size);
    case NW_FIELD_FLAG: return field->number != 0 ? "yes" : "no";
    case NW_FIELD_LIST: break;
    }
    return "";
}

static bool shown(const nw_field *f) {
    return f->label && f->kind != NW_FIELD_LIST;
}

static const nw_field *find(const nw_record *record, const char *label) {
    for (const nw_field *f = record->fields; f; f = f->next)
        if (shown(f) && strcmp(f->label, label) == 0) return f;
    return NULL;
}

#define MAX_COLUMNS 32
#define GAP         "  "

/* The labels of a list's records, in the order of their first appearance. */
typedef struct heading {
    const char *labels[MAX_COLUMNS];
    int widths[MAX_COLUMNS];
    bool number[MAX_COLUMNS];
    int count;
} heading;

static void collect(const nw_record *items, heading *h) {
    char buffer[64];
    h->count = 0;
    for (const nw_record *r = items; r; r = r->next)
        for (const nw_field *f = r->fields; f; f = f->next) {
            if (!shown(f)) continue;
            int c = 0;
            while (c < h->count && strcmp(h->labels[c], f->label) != 0) c++;
            if (c == MAX_COLUMNS) continue;
            if (c == h->count) {
                h->labels[c] = f->label;
                h->widths[c] = width_of(f->label);
                h->number[c] = f->kind == NW_FIELD_NUMBER;
                h->count++;
            }
            int width = width_of(show(f, buffer, sizeof buffer));
            if (width > h->widths[c]) h->widths[c] = width;
        }
}

static void end_line(page *out) {
    while (!out->failed && out->size && out->data[out->size - 1] == ' ') out->data[--out->size] = 0;
    put(out, "\n", 1);
}

static void put_rows(page *out, const nw_record *items) {
    heading h;
    char buffer[64];
    collect(items, &h);
    for (int c = 0; c < h.count; c++) {
        put_text(out, GAP);
        put_padded(out, h.labels[c], h.widths[c], h.number[c]);
    }
    end_line(out);
    for (const nw_record *r = items; r; r = r->next) {
        for (int c = 0; c < h.count; c++) {
            put_text(out, GAP);
            put_padded(out, show(find(r, h.labels[c]), buffer, sizeof buffer), h.widths[c], h.number[c]);
        }
        end_line(out);
    }
}

static void put_columns(page *out, const nw_record *items) {
    heading h;
    char buffer[64];
    int first = 0;
    collect(items, &h);
    for (int c = 0; c < h.count; c++)
        if (width_of(h.labels[c]) > first) first = width_of(h.labels[c]);
    for (int c = 0; c < h.count; c++) {
        put_text(out, GAP);
        put_padded(out, h.labels[c], first, false);
        for (const nw_record *r = items; r; r = r->next) {
            int width = 10; /* of this column: its widest cell */
            for (int k = 0; k < h.count; k++) {
                int w = width_of(show(find(r, h.labels[k]), buffer, sizeof buffer));
                if (w > width) width = w;
            }
            put_text(out, GAP);
            put_padded(out, show(find(r, h.labels[c]), buffer, sizeof buffer), width, true);
        }
        end_line(out);
    }
}

/* The lists that belong to one column, below the table; under its heading where there are several columns. */
static void put_lists_of_columns(page *out, const nw_record *items, bool details) {
    for (const nw_record *r = items; r; r = r->next)
        for (const nw_field *f = r->fields; f; f = f->next) {
            if (f->kind != NW_FIELD_LIST || !f->label || !f->items) continue;
            if (!details && f->layout == NW_LAYOUT_DETAILS) continue;
            put_text(out, "\n");
            put_text(out, f->label);
            if (items->next && r->fields->kind == NW_FIELD_TEXT) {
                put_text(out, ", ");
                put_text(out, r->fields->text);
            }
            put_text(out, "\n");
            put_rows(out, f->items);
        }
}

char *nw_sheet_text(const nw_sheet *sheet, nw_context *ctx, bool details) {
    page out = {.ctx = ctx};
    char buffer[64];
    int width = 0;
    put(&out, "", 0);
    for (const nw_field *f = sheet->root.fields; f; f = f->next)
        if (shown(f) && width_of(f->label) > width) width = width_of(f->label);
    bool after_list = false;
    for (const nw_field *f = sheet->root.fields; f; f = f->next) {
        if (!f->label) continue;
        if (f->kind != NW_FIELD_LIST) {
            if (after_list) put_text(&out, "\n");
            after_list = false;
            if (*f->label) {
                put_padded(&out, f->label, width, false);
                put_text(&out, GAP);
            }
            put_text(&out, show(f, buffer, sizeof buffer));
            end_line(&out);
        } else if (f->items && (details || f->layout != NW_LAYOUT_DETAILS)) {
            if (out.size) put_text(&out, "\n");
            if (*f->label) {
                put_text(&out, f->label);
                put_text(&out, "\n");
            }
            if (f->layout == NW_LAYOUT_COLUMNS) {
                put_columns(&out, f->items);
                put_lists_of_columns(&out, f->items, details);
            } else {
                put_rows(&out, f->items);
            }
            after_list = true;
        }
    }
    if (out.failed) {
        nw_free(ctx, out.data);
        return NULL;
    }
    return out.data;
}
