/* barrow.h: a barrow node inside a program of yours.
 *
 * It is built with the feature `capi`, as a static or as a shared library:
 *
 *     cargo rustc --release --lib --features capi --crate-type staticlib
 *     cc program.c -Iinclude target/release/libbarrow.a -lpthread -ldl -lm
 *
 * Strings are UTF-8 and end with a zero. Where a call gives a status, 0 is success and -1 failure;
 * barrow_last_error() tells why. One node may be used by many threads at once. Faults inside barrow
 * are failures as any other: none ends the program. A callback must return: it must neither throw
 * nor jump out. */
#ifndef BARROW_H
#define BARROW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A running node. */
typedef struct barrow_node barrow_node;

/* Flags of barrow_start, to be added up: without the BitTorrent DHT; without a search of the local
 * network; within 24 MiB of memory. */
#define BARROW_NO_DHT 1
#define BARROW_NO_MDNS 2
#define BARROW_SMALL 4

/* Room for a CID or for what barrow_peer writes, with the zero at its end. */
#define BARROW_TEXT_BYTES 256

/* Gives up to `room` bytes to store: how many, 0 at the end, negative to give up. */
typedef ptrdiff_t (*barrow_source)(void *context, uint8_t *bytes, size_t room);

/* Takes `len` bytes that were read: 0 to go on, anything else to stop. */
typedef int (*barrow_sink)(void *context, const uint8_t *bytes, size_t len);

/* Starts a node in data_dir. It listens for peers at `listen` (ADDR:PORT; port 0 is a free one;
 * NULL: nowhere), stays connected with `peers_len` peers ([ID@]HOST:PORT), and answers no HTTP.
 * NULL if it failed. */
barrow_node *barrow_start(const char *data_dir, const char *listen, const char *const *peers, size_t peers_len, unsigned int flags);

/* Writes ID@ADDR:PORT: what another node is given to find this one. */
int barrow_peer(const barrow_node *node, char *peer);

/* Stores all that the source gives as one pinned file, synced, and writes its CID. */
int barrow_put(const barrow_node *node, barrow_source source, void *context, char *cid);

/* Gives the file of a CID, from this node or from its peers, to the sink: verified bytes alone. */
int barrow_get(const barrow_node *node, const char *cid, barrow_sink sink, void *context);

/* Stops a node and frees it: it must not be used any more. NULL is let pass. */
int barrow_stop(barrow_node *node);

/* Why the last call of this thread failed; empty if it did not. Good until its next call. */
const char *barrow_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
