/* json.c: a sheet as a JSON object; the keys are documented in docs/json.md. */
#include "report/sheet.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static cJSON *object_of(const nw_record *record);

static cJSON *array_of(const nw_record *items) {
    cJSON *array = cJSON_CreateArray();
    for (const nw_record *r = items; array && r; r = r->next) {
        cJSON *object = object_of(r);
        if (!object || !cJSON_AddItemToArray(array, object)) {
            cJSON_Delete(object);
            cJSON_Delete(array);
            return NULL;
        }
    }
    return array;
}

static cJSON *value_of(const nw_field *field) {
    switch (field->kind) {
    case NW_FIELD_TEXT: return cJSON_CreateString(field->text);
    case NW_FIELD_NUMBER:
        return isfinite(field->number) ? cJSON_CreateNumber(field->number) : cJSON_CreateNull();
    case NW_FIELD_FLAG: return cJSON_CreateBool(field->number != 0);
    case NW_FIELD_LIST: return array_of(field->items);
    }
    return NULL;
}

static cJSON *object_of(const nw_record *record) {
    cJSON *object = cJSON_CreateObject();
    for (const nw_field *f = record->fields; object && f; f = f->next) {
        if (!f->key) continue;
        cJSON *value = value_of(f);
        if (!value || !cJSON_AddItemToObject(object, f->key, value)) {
            cJSON_Delete(value);
            cJSON_Delete(object);
            return NULL;
        }
    }
    return object;
}

char *nw_sheet_json(const nw_sheet *sheet, nw_context *ctx) {
    cJSON *object = object_of(&sheet->root);
    char *text = object ? cJSON_Print(object) : NULL;
    cJSON_Delete(object);
    char *copy = NULL;
    if (text) {
        size_t length = strlen(text);
        copy = nw_alloc(ctx, length + 2);
        if (copy) {
            memcpy(copy, text, length);
            memcpy(copy + length, "\n", 2);
        }
        cJSON_free(text);
    } else {
        nw_fail(ctx, NW_E_MEMORY, "out of memory while writing JSON");
    }
    return copy;
}
