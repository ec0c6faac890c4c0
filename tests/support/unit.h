/* unit.h: cmocka with what its header needs, and the two checks that every unit test makes.
 * For tests/unit only. */
#ifndef NW_TESTS_UNIT_H
#define NW_TESTS_UNIT_H

#include "base/context.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* The call succeeds; if not, its message is shown. */
#define assert_ok(ctx, call)                                                                                 \
    do {                                                                                                     \
        nw_status unit_status_ = (call);                                                                     \
        if (unit_status_ != NW_OK) fail_msg("%s: %s", nw_status_string(unit_status_), (ctx)->message);       \
    } while (0)

/* The call fails with this status and a message that contains `text`. */
#define assert_fails(ctx, status, text, call)                                                                \
    do {                                                                                                     \
        nw_status unit_status_ = (call);                                                                     \
        if (unit_status_ != (status)) fail_msg("%s, not %s", nw_status_string(unit_status_), #status);       \
        if (!strstr((ctx)->message, text)) fail_msg("\"%s\" does not say \"%s\"", (ctx)->message, text);     \
    } while (0)

#endif
