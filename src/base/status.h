/* status.h: the one list of outcomes, and the macro that passes failures on.
 * Must not include anything of this project. */
#ifndef NW_BASE_STATUS_H
#define NW_BASE_STATUS_H

#define NW_STATUS_LIST(X)                                                                                    \
    X(NW_OK, "success")                                                                                      \
    X(NW_E_MEMORY, "out of memory")                                                                          \
    X(NW_E_IO, "cannot read or write")                                                                       \
    X(NW_E_FORMAT, "malformed file")                                                                         \
    X(NW_E_UNSUPPORTED, "not supported")                                                                     \
    X(NW_E_SHAPE, "shapes do not fit")                                                                       \
    X(NW_E_TYPE, "element types do not fit")                                                                 \
    X(NW_E_ARGUMENT, "bad argument")                                                                         \
    X(NW_E_DATA, "bad data set")                                                                             \
    X(NW_E_NEED_VALUE, "the shape depends on a value that is not known yet")                                 \
    X(NW_E_INTERNAL, "internal error, please report")

typedef enum nw_status {
#define NW_STATUS_ENUM(id, text) id,
    NW_STATUS_LIST(NW_STATUS_ENUM)
#undef NW_STATUS_ENUM
} nw_status;

const char *nw_status_string(nw_status status); /* static text, never NULL */

/* Evaluates a call that returns nw_status and returns it to the caller unless it is NW_OK. */
#define NW_TRY(expr)                                                                                         \
    do {                                                                                                     \
        nw_status nw_try_status_ = (expr);                                                                   \
        if (nw_try_status_ != NW_OK) return nw_try_status_;                                                  \
    } while (0)

/* The same inside a function that must release what it holds: jumps to `label`, with `var` set. */
#define NW_TRY_GOTO(var, expr, label)                                                                        \
    do {                                                                                                     \
        (var) = (expr);                                                                                      \
        if ((var) != NW_OK) goto label;                                                                      \
    } while (0)

#endif
