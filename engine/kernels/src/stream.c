/* How fast the pool's threads read memory: what kernels are measured against. */
#include "kernels.h"

typedef struct {
    const uint64_t *from;
    uint64_t *sums; /* one per piece */
    int prefetch;
} Stream;

enum { PIECE = 128 << 10, WORDS = PIECE / 8, AHEAD = 1024 };

INLINE uint64_t add_up(const uint64_t *at, const int prefetch) {
    typedef uint64_t Line __attribute__((vector_size(64), aligned(8)));
    Line sum[4] = {{0}, {0}, {0}, {0}};
    for (int64_t i = 0; i < WORDS; i += 32)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            if (prefetch) __builtin_prefetch(at + i + 8 * j + AHEAD / 8);
            sum[j] += *(const Line *)(at + i + 8 * j);
        }
    const Line all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    uint64_t total = 0;
    for (int j = 0; j < 8; j++) total += all[j];
    return total;
}

static void read_pieces(void *context, int64_t from, int64_t to, int thread) {
    const Stream *stream = context;
    (void)thread;
    for (int64_t i = from; i < to; i++) {
        const uint64_t *at = stream->from + i * WORDS;
        stream->sums[i] = stream->prefetch ? add_up(at, 1) : add_up(at, 0);
    }
}

/* Reads `bytes` (whole pieces of 128 KiB of it), `sums` takes one number per piece. */
API void fiddler_stream(Pool *pool, const void *from, int64_t bytes, int64_t prefetch,
                        uint64_t *sums) {
    Stream stream = {from, sums, prefetch != 0};
    const Phase phase = {read_pieces, &stream, bytes / PIECE};
    pool_lock(pool);
    pool_run(pool, &phase, 1);
    pool_unlock(pool);
}
