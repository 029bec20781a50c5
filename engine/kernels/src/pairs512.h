/* Products of rows as they are stored by many tokens, in AVX512_BF16. The tokens lie in tiles
 * (amx_pack): a register holds a pair of elements of each of sixteen, and is multiplied by the same
 * pair of a row's, spread. So sums need no adding up at the end, and rows no rearranging. */

enum {
    PAIRS = 128,    /* of a part of the rows: its tokens stay in the nearest cache */
    PAIR_ROWS = 8,  /* by SLIVER tokens, all that registers hold */
    PARTS_AHEAD = 2 /* parts from what is multiplied to what is fetched */
};

/* `lines`: a part of a later row, which is fetched, a line for every two pairs; then the next row's. */
INLINE void pairs_block(const int rows, const uint16_t *w, int64_t stride, int64_t pairs,
                        const uint16_t *x, int64_t x_tile, float *out, int more,
                        const char *lines) {
    enum { tiles = SLIVER / TILE };
    __m512 sum[PAIR_ROWS][tiles];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            sum[r][t] = more ? _mm512_loadu_ps(out + r * SLIVER + t * TILE) : _mm512_setzero_ps();
    /* Where four rows begin, and what lies between: a pointer for each row would fill the registers,
     * and compilers make them unless they cannot see that these move together. */
    const char *four[PAIR_ROWS / 4];
    int64_t one = stride * (int64_t)sizeof *w, three = 3 * one;
    const int64_t line_row = one - (4 * PAIRS - 64);
#pragma GCC unroll 4
    for (int f = 0; f < (rows + 3) / 4; f++) four[f] = (const char *)w + 4 * f * one;
    __asm__("" : "+r"(one), "+r"(three));
    for (int64_t p = 0; p < pairs; p += 2) {
        if (lines) {
            __builtin_prefetch(lines, 0, 2);
            lines += p % (2 * 4 * PAIRS / 64) == 2 * 4 * PAIRS / 64 - 2 ? line_row : 64;
        }
#pragma GCC unroll 4
        for (int f = 0; f < (rows + 3) / 4; f++) __asm__("" : "+r"(four[f]));
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++) {
            __m512bh v[2];
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++)
                v[t] = (__m512bh)_mm512_loadu_si512(x + t * x_tile + q * TILE_K);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const int64_t in = r % 4 == 3 ? three : r % 4 * one;
                int32_t pair;
                __builtin_memcpy(&pair, four[r / 4] + in + 4 * q, sizeof pair);
                const __m512bh u = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
                for (int t = 0; t < tiles; t++) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], v[t], u);
            }
        }
        x += 2 * TILE_K;
#pragma GCC unroll 4
        for (int f = 0; f < (rows + 3) / 4; f++) four[f] += 8;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) _mm512_storeu_ps(out + r * SLIVER + t * TILE, sum[r][t]);
}

#define PAIRS_ROWS(rows)                                                                          \
    static __attribute__((noinline)) void pairs_##rows(                                           \
        const uint16_t *w, int64_t stride, int64_t pairs, const uint16_t *x, int64_t x_tile,      \
        float *out, int more, const char *lines) {                                                \
        pairs_block(rows, w, stride, pairs, x, x_tile, out, more, lines);                         \
    }

PAIRS_ROWS(8)
PAIRS_ROWS(1)

/* Some pairs of up to GROUP rows. */
static void pairs_rows(const uint16_t *w, int64_t stride, int64_t rows, int64_t pairs,
                       const uint16_t *x, int64_t x_tile, float *out, int more,
                       const char *lines) {
    int64_t r = 0;
    for (; r + PAIR_ROWS <= rows; r += PAIR_ROWS) {
        pairs_8(w + r * stride, stride, pairs, x, x_tile, out + r * SLIVER, more, lines);
        if (lines) lines += PAIR_ROWS * stride * (int64_t)sizeof *w;
    }
    for (; r < rows; r++)
        pairs_1(w + r * stride, stride, pairs, x, x_tile, out + r * SLIVER, more, NULL);
}

/* ------------------------------------------------------------------------------- of one tile only */

enum {
    STEP_K = 256,                           /* elements of a step, of GROUP rows */
    STEP_LINES = STEP_K * 2 / 64,           /* cache lines of a row of it */
    COPY_LD = STEP_K + TILE_K,              /* elements from row to row of a copy */
    MOST_TOGETHER = 2                       /* parts of a row that are fetched one after the other */
};

/* As many elements of a row as a tile of so many lanes has of each token, for each of them. */
INLINE __m512i spread_elements(const int lanes, const uint16_t *w) {
    if (lanes == TILE / 4) return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w));
    int64_t four;
    int32_t two;
    __builtin_memcpy(&two, w, sizeof two);
    if (lanes == TILE) return _mm512_set1_epi32(two);
    __builtin_memcpy(&four, w, sizeof four);
    return _mm512_set1_epi64(four);
}

/* What a step does beside its products, some with each of them: copies lines of the next step and
 * fetches some of a later one. Either may be NULL. */
typedef struct {
    const uint16_t *from;
    uint16_t *to;
    const char *fetch;
    int64_t stride, together; /* parts of a row that are fetched before the next row's, less one */
} Meanwhile;

/* sums[row] += row . x of GROUP rows that lie COPY_LD apart, `k` elements of each. */
INLINE void tile_step(const int lanes, const uint16_t *w, int64_t k, const uint16_t *x, float *sums,
                      int first, Meanwhile also) {
    const int each = 2 * TILE / lanes, together = STEP_LINES / (TILE / lanes); /* for a row's lines */
    const int64_t part = STEP_K * (int64_t)sizeof *w, row = also.stride * (int64_t)sizeof *w;
    int64_t parts = 0;
    __m512 sum[GROUP];
#pragma GCC unroll 16
    for (int r = 0; r < GROUP; r++)
        sum[r] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * TILE);
    for (int64_t i = 0; i < k; i += together * each) {
#pragma GCC unroll 8
        for (int q = 0; q < together; q++) {
            const __m512bh v = (__m512bh)_mm512_loadu_si512(x + q * TILE_K);
#pragma GCC unroll 16
            for (int r = 0; r < GROUP; r++) {
                if (r % lanes == 0) {
                    const int line = q * (TILE / lanes) + r / lanes;
                    if (also.fetch) __builtin_prefetch(also.fetch + 64 * line, 0, 2);
                    if (also.from)
                        _mm512_store_si512(also.to + 32 * line,
                                           _mm512_loadu_si512(also.from + 32 * line));
                }
                const __m512i u = spread_elements(lanes, w + r * COPY_LD + q * each);
                sum[r] = _mm512_dpbf16_ps(sum[r], v, (__m512bh)u);
            }
        }
        w += together * each, x += together * TILE_K;
        if (also.from) also.from += also.stride, also.to += COPY_LD;
        if (also.fetch) {
            const int end = (++parts & also.together) == 0;
            also.fetch += end ? row - also.together * part : part;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < GROUP; r++) _mm512_storeu_ps(sums + r * TILE, sum[r]);
}

#define TILE_STEP(lanes)                                                                           \
    static __attribute__((noinline)) void tile_step_##lanes(                                       \
        const uint16_t *w, int64_t k, const uint16_t *x, float *sums, int first, Meanwhile also) { \
        tile_step(lanes, w, k, x, sums, first, also);                                              \
    }

TILE_STEP(16)
TILE_STEP(8)
TILE_STEP(4)

/* A token's sums lie side by side, TILE / lanes of them: their sum comes first. */
static void tile_end(int64_t lanes, int64_t rows, float *sums) {
    for (int64_t r = 0; lanes < TILE && r < rows; r++, sums += TILE) {
        __m512 all = _mm512_loadu_ps(sums);
        for (int64_t n = TILE; n > lanes; n /= 2) {
            const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12,
                                                   14);
            const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            all = _mm512_add_ps(_mm512_permutexvar_ps(even, all), _mm512_permutexvar_ps(odd, all));
        }
        _mm512_storeu_ps(sums, all);
    }
}

static void copy_part(const uint16_t *from, int64_t stride, int64_t rows, int64_t wide,
                      uint16_t *to) {
    for (int64_t r = 0; r < GROUP; r++, to += COPY_LD) {
        const int64_t some = r < rows ? wide : 0;
        if (some) __builtin_memcpy(to, from + r * stride, (size_t)some * sizeof *to);
        __builtin_memset(to + some, 0, (size_t)(STEP_K - some) * sizeof *to);
    }
}

/* Rows that are a multiple of a page long begin in the same lines of the nearest cache, which holds
 * eight of them. So GROUP rows are copied first, a part at a time, to where they lie side by side,
 * while the part before is multiplied. Then hardly anything waits for a cache: a core has room for
 * few such waits, and what it fetches from memory needs them all. */
static void pairs_tile(const uint16_t *const w[2], int64_t stride, const int64_t rows[2], int64_t k,
                       const uint16_t *x, int64_t tokens, float *out,
                       const uint16_t *const next[2]) {
    uint16_t copy[2][GROUP * COPY_LD] __attribute__((aligned(64)));
    const int64_t groups = rows[1] ? 2 : 1, lanes = tile_lanes(1, tokens);
    const int64_t parts = (k + STEP_K - 1) / STEP_K, steps = parts * groups;
    int64_t together = 1; /* the longer what is fetched lies in order, the sooner memory gives it */
    while (together < MOST_TOGETHER && parts % (2 * together) == 0) together *= 2;
    copy_part(w[0], stride, rows[0], least(STEP_K, k), copy[0]);
    for (int64_t s = 0; s < steps; s++) {
        const int64_t p = s / groups, g = s % groups, some = least(STEP_K, k - p * STEP_K);
        const int64_t then = s + 1, h = then % groups, on = then / groups * STEP_K;
        Meanwhile also = {.to = copy[then % 2], .stride = stride, .together = together - 1};
        if (then < steps) also.from = w[h] + on;
        if (also.from && (rows[h] < GROUP || on + STEP_K > k || some < STEP_K)) {
            copy_part(also.from, stride, rows[h], least(STEP_K, k - on), also.to);
            also.from = NULL;
        }
        const int64_t later = (p / together + 1) * together; /* a part; this step fetches some rows */
        const uint16_t *fetch = later < parts ? w[g] + later * STEP_K : next ? next[g] : NULL;
        if (fetch) also.fetch = (const char *)(fetch + p % together * (GROUP / together) * stride);
        (lanes == TILE ? tile_step_16 : lanes == TILE / 2 ? tile_step_8 : tile_step_4)(
            copy[s % 2], round_up(some, TILE_K), x + p * STEP_K * lanes, out + g * GROUP * SLIVER,
            p == 0, also);
    }
    for (int64_t g = 0; g < groups; g++) tile_end(lanes, rows[g], out + g * GROUP * SLIVER);
}

static void pairs(const uint16_t *const w[2], int64_t stride, const int64_t rows[2], int64_t k,
                  const uint16_t *x, int64_t tokens, float *out, const uint16_t *const next[2]) {
    if (tokens <= TILE) {
        pairs_tile(w, stride, rows, k, x, tokens, out, next);
        return;
    }
    const int64_t tiles = (k + TILE_K - 1) / TILE_K, whole = k / TILE_K * (TILE_K / 2);
    const int64_t x_tile = tiles * TILE_ELEMENTS, parts = (whole + PAIRS - 1) / PAIRS;
    for (int64_t p = 0; p < parts; p++) {
        const int64_t some = least(PAIRS, whole - p * PAIRS), later = p + PARTS_AHEAD;
        for (int g = 0; g < 2; g++) {
            const uint16_t *lines = NULL;
            if (next) lines = later < parts ? w[g] + later * 2 * PAIRS : next[g];
            if (lines && later > parts) lines += (later - parts) * 2 * PAIRS;
            if (rows[g])
                pairs_rows(w[g] + p * 2 * PAIRS, stride, rows[g], some, x + p * PAIRS * TILE_K,
                           x_tile, out + g * GROUP * SLIVER, p > 0, (const char *)lines);
        }
    }
    if (2 * whole == k) return;
    uint16_t rest[GROUP * TILE_K] __attribute__((aligned(64)));
    for (int g = 0; g < 2; g++) {
        for (int64_t r = 0; r < rows[g]; r++) {
            __builtin_memset(rest + r * TILE_K, 0, TILE_K * sizeof *rest);
            __builtin_memcpy(rest + r * TILE_K, w[g] + r * stride + 2 * whole,
                             (size_t)(k - 2 * whole) * sizeof *rest);
        }
        if (rows[g])
            pairs_rows(rest, TILE_K, rows[g], TILE_K / 2, x + whole * TILE_K, x_tile,
                       out + g * GROUP * SLIVER, whole > 0, NULL);
    }
}

#undef PAIRS_ROWS
#undef TILE_STEP
