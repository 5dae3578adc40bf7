// ISA-L's Reed-Solomon beside ours: `isal K M SHARD_BYTES THREADS ROUNDS` prints GB of data a second
// of encoding and of rebuilding the first m data shards, each thread with a stripe of its own.
#include <isa-l.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int data, parity, lost, shard_bytes, rounds;
static unsigned char *encode_tables, *rebuild_tables;

struct stripe {
    unsigned char *shards[256];
    int rebuilds;
};

static void work(struct stripe *stripe, int count) {
    unsigned char *sources[256];
    for (int round = 0; round < count; round++) {
        if (!stripe->rebuilds) {
            ec_encode_data(shard_bytes, data, parity, encode_tables, stripe->shards,
                           stripe->shards + data);
            continue;
        }
        // The survivors are the data shards behind the lost ones, and as much parity.
        memcpy(sources, stripe->shards + lost, data * sizeof *sources);
        ec_encode_data(shard_bytes, data, lost, rebuild_tables, sources, stripe->shards);
    }
}

static void *run(void *stripe) {
    work(stripe, rounds);
    return NULL;
}

static double rate(struct stripe *stripes, int threads, int rebuilds) {
    pthread_t ids[64];
    struct timespec start, end;
    for (int t = 0; t < threads; t++) {
        stripes[t].rebuilds = rebuilds;
        work(&stripes[t], 1);
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int t = 0; t < threads; t++) pthread_create(&ids[t], NULL, run, &stripes[t]);
    for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9;
    return (double)threads * rounds * data * shard_bytes / seconds / 1e9;
}

int main(int count, char **words) {
    if (count != 6) return 2;
    data = atoi(words[1]), parity = atoi(words[2]), shard_bytes = atoi(words[3]);
    int threads = atoi(words[4]);
    rounds = atoi(words[5]);
    lost = parity < data ? parity : data;
    if (data < 1 || parity < 1 || data + parity > 255 || threads < 1 || threads > 64) return 2;
    unsigned char *matrix = malloc((data + parity) * data);
    unsigned char *left = malloc(data * data), *inverse = malloc(data * data);
    gf_gen_cauchy1_matrix(matrix, data + parity, data);
    memcpy(left, matrix + lost * data, data * data);
    if (gf_invert_matrix(left, inverse, data)) return 1;
    encode_tables = aligned_alloc(64, 32 * data * parity);
    rebuild_tables = aligned_alloc(64, 32 * data * lost);
    ec_init_tables(data, parity, matrix + data * data, encode_tables);
    ec_init_tables(data, lost, inverse, rebuild_tables);
    struct stripe *stripes = calloc(threads, sizeof *stripes);
    unsigned state = 12345;
    for (int t = 0; t < threads; t++) {
        for (int n = 0; n < data + parity; n++) {
            stripes[t].shards[n] = aligned_alloc(64, shard_bytes);
            for (int i = 0; i < shard_bytes; i++) {
                state = state * 1664525 + 1013904223;
                stripes[t].shards[n][i] = state >> 24;
            }
        }
    }
    unsigned char *before = malloc(shard_bytes);
    memcpy(before, stripes[0].shards[0], shard_bytes);
    double encode = rate(stripes, threads, 0), rebuild = rate(stripes, threads, 1);
    if (memcmp(before, stripes[0].shards[0], shard_bytes)) return 1;
    printf("%f %f\n", encode, rebuild);
}
