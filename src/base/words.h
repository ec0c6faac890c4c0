/* words.h: lists of words as texts, "minmax|moving|sigma": what an option accepts.
 * Must not include anything but base/. */
#ifndef NW_BASE_WORDS_H
#define NW_BASE_WORDS_H

#include <string.h>

/* The place of a word in a list; −1: it is not there. */
static inline int nw_word_index(const char *list, const char *word) {
    const size_t wanted = strlen(word);
    for (int i = 0;; i++) {
        const size_t length = strcspn(list, "|");
        if (length == wanted && memcmp(list, word, length) == 0) return i;
        if (!list[length]) return -1;
        list += length + 1;
    }
}

#endif
