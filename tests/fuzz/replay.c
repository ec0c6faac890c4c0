/* replay.c: runs a fuzz target on files, without libFuzzer: `replay_import FILE…`. A crash is the failure;
 * the sanitized build sees more. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    uint8_t *data = NULL;
    size_t size = 0, capacity = 0, got;
    do {
        if (size == capacity) {
            capacity = capacity ? 2 * capacity : 4096;
            data = realloc(data, capacity);
            if (!data) abort();
        }
        got = fread(data + size, 1, capacity - size, f);
        size += got;
    } while (got > 0);
    fclose(f);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        printf("%s\n", argv[i]); /* the last one printed is the one that crashed */
        fflush(stdout);
        failed += run_file(argv[i]);
    }
    printf("replay: %d passed, %d failed\n", argc - 1 - failed, failed);
    return failed > 0;
}
