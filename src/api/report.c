/* report.c: reports as handles. */
#include "api/api.h"

#include <math.h>
#include <string.h>

nw_status nw_report_new(nw_env *env, const char *command, nw_report **out) {
    nw_report *report = nw_calloc(&env->ctx, 1, sizeof *report);
    if (!report) return NW_E_MEMORY;
    report->env = env;
    nw_status status = nw_sheet_new(&env->ctx, &report->sheet);
    if (status != NW_OK) {
        nw_report_free(report);
        return status;
    }
    nw_record_text(&report->sheet->root, "command", NULL, command);
    nw_record_text(&report->sheet->root, "narrow_version", NULL, nw_version());
    *out = report;
    return NW_OK;
}

nw_result nw_report_finish(nw_report *report, nw_status status, nw_report **out) {
    if (status == NW_OK) status = nw_sheet_check(report->sheet);
    if (status == NW_OK)
        *out = report;
    else
        nw_report_free(report);
    return nw_result_of(status);
}

void nw_report_free(nw_report *report) {
    if (!report) return;
    nw_context *ctx = &report->env->ctx;
    nw_sheet_free(report->sheet);
    nw_free(ctx, report->text);
    nw_free(ctx, report->json);
    nw_free(ctx, report);
}

const char *nw_report_text(nw_report *report, int details) {
    if (!report) return NULL;
    nw_free(&report->env->ctx, report->text);
    report->text = nw_sheet_text(report->sheet, &report->env->ctx, details != 0);
    return report->text;
}

const char *nw_report_json(nw_report *report) {
    if (!report) return NULL;
    nw_free(&report->env->ctx, report->json);
    report->json = nw_sheet_json(report->sheet, &report->env->ctx);
    return report->json;
}

nw_result nw_report_save_json(nw_report *report, const char *path) {
    if (!report || !path)
        return nw_misuse(report ? report->env : NULL, "nw_report_save_json: an argument is missing");
    const char *json = nw_report_json(report);
    if (!json) return NW_ERROR_MEMORY;
    nw_output out;
    nw_status status = nw_output_open(&report->env->ctx, &out, path);
    if (status == NW_OK) {
        nw_output_write(&out, json, strlen(json));
        status = nw_output_commit(&out);
    }
    return nw_result_of(status);
}

double nw_report_number(const nw_report *report, const char *path) {
    return report && path ? nw_sheet_number(report->sheet, path) : NAN;
}
