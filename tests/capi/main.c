/* Two nodes in one process: what is put into the first comes out of the second, byte for byte;
 * whatever fails says why. */
#include "barrow.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES 3000000

#define EXPECT(what)                                                                               \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, barrow_last_error());            \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

struct range {
    uint8_t *bytes;
    size_t at, len;
};

static ptrdiff_t give(void *context, uint8_t *bytes, size_t room) {
    struct range *file = context;
    size_t len = file->len - file->at < room ? file->len - file->at : room;
    memcpy(bytes, file->bytes + file->at, len);
    file->at += len;
    return (ptrdiff_t)len;
}

static ptrdiff_t give_up(void *context, uint8_t *bytes, size_t room) {
    (void)context, (void)bytes, (void)room;
    return -1;
}

static int take(void *context, const uint8_t *bytes, size_t len) {
    struct range *copy = context;
    if (len > copy->len - copy->at) return 1;
    memcpy(copy->bytes + copy->at, bytes, len);
    copy->at += len;
    return 0;
}

static int refuse(void *context, const uint8_t *bytes, size_t len) {
    (void)context, (void)bytes, (void)len;
    return 1;
}

int main(int argc, char **argv) {
    EXPECT(argc == 3);
    const unsigned flags = BARROW_NO_DHT | BARROW_NO_MDNS;
    char cid[BARROW_TEXT_BYTES], peer[BARROW_TEXT_BYTES];
    struct range file = {malloc(FILE_BYTES), 0, FILE_BYTES};
    struct range copy = {malloc(FILE_BYTES), 0, FILE_BYTES};
    unsigned state = 1;
    for (size_t at = 0; at < FILE_BYTES; at++) {
        state = state * 1103515245u + 12345u;
        file.bytes[at] = (uint8_t)(state >> 16);
    }

    barrow_node *first = barrow_start(argv[1], "127.0.0.1:0", NULL, 0, flags);
    EXPECT(first);
    EXPECT(barrow_peer(first, peer) == 0);
    EXPECT(barrow_put(first, give, &file, cid) == 0);
    printf("%s\n", cid);

    const char *peers[] = {peer};
    barrow_node *second = barrow_start(argv[2], NULL, peers, 1, flags | BARROW_SMALL);
    EXPECT(second);
    EXPECT(barrow_get(second, cid, take, &copy) == 0);
    EXPECT(copy.at == FILE_BYTES && memcmp(file.bytes, copy.bytes, FILE_BYTES) == 0);

    /* One data directory is one node's, and what fails says why. */
    EXPECT(barrow_start(argv[1], NULL, NULL, 0, flags) == NULL && *barrow_last_error());
    EXPECT(barrow_start("x", "nowhere", NULL, 0, flags) == NULL && strstr(barrow_last_error(), "nowhere"));
    EXPECT(barrow_start("x", NULL, NULL, 0, 64) == NULL && strstr(barrow_last_error(), "flags"));
    EXPECT(barrow_peer(second, peer) == -1 && strstr(barrow_last_error(), "listens nowhere"));
    EXPECT(barrow_get(second, "no cid", take, &copy) == -1 && strstr(barrow_last_error(), "no cid"));
    EXPECT(barrow_get(second, cid, refuse, NULL) == -1 && strstr(barrow_last_error(), "sink"));
    EXPECT(barrow_put(second, give_up, NULL, cid) == -1 && strstr(barrow_last_error(), "gave up"));
    EXPECT(barrow_put(NULL, give, &file, cid) == -1 && strstr(barrow_last_error(), "node is null"));

    EXPECT(barrow_stop(second) == 0 && barrow_stop(first) == 0);
    EXPECT(*barrow_last_error() == 0);

    /* What was put is there when a node starts again. */
    first = barrow_start(argv[1], NULL, NULL, 0, flags);
    copy.at = 0;
    EXPECT(first && barrow_get(first, cid, take, &copy) == 0 && copy.at == FILE_BYTES);
    EXPECT(memcmp(file.bytes, copy.bytes, FILE_BYTES) == 0 && barrow_stop(first) == 0);
    free(file.bytes), free(copy.bytes);
    return 0;
}
