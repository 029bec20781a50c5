/* Products of rows as they are stored by many tokens, in AVX512_BF16. The tokens lie in tiles
 * (amx_pack): a register holds a pair of elements of each of sixteen, and is multiplied by the same
 * pair of a row's, spread. So sums need no adding up at the end, and rows no rearranging. */

enum {
    PAIRS = 128,   /* of a part of the rows: its tokens stay in the nearest cache */
    PAIR_ROWS = 8, /* by SLIVER tokens; twice as many by TILE */
};

/* `lines`: of the next block, fetched one for every two pairs. */
INLINE void pairs_block(const int rows, const int tiles, const uint16_t *w, int64_t stride,
                        int64_t pairs, const uint16_t *x, int64_t x_tile, float *out, int64_t ld,
                        int more, const char *lines) {
    __m512 sum[2 * PAIR_ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            sum[r][t] = more ? _mm512_loadu_ps(out + r * ld + t * TILE) : _mm512_setzero_ps();
    /* Where four rows begin, and what lies between: a pointer for each row would fill the registers,
     * and compilers make them unless they cannot see that these move together. */
    const char *four[4];
    int64_t one = stride * (int64_t)sizeof *w, three = 3 * one;
#pragma GCC unroll 4
    for (int f = 0; f < (rows + 3) / 4; f++) four[f] = (const char *)w + 4 * f * one;
    __asm__("" : "+r"(one), "+r"(three));
    for (int64_t p = 0; p < pairs; p += 2) {
        if (lines) __builtin_prefetch(lines, 0, 2), lines += 64;
#pragma GCC unroll 4
        for (int f = 0; f < (rows + 3) / 4; f++) __asm__("" : "+r"(four[f]));
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++) {
            __m512bh v[2];
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++)
                v[t] = (__m512bh)_mm512_loadu_si512(x + t * x_tile + q * TILE_K);
#pragma GCC unroll 16
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
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) _mm512_storeu_ps(out + r * ld + t * TILE, sum[r][t]);
}

#define PAIRS_ROWS(name, rows, tiles)                                                             \
    static __attribute__((noinline)) void name(                                                   \
        const uint16_t *w, int64_t stride, int64_t pairs, const uint16_t *x, int64_t x_tile,      \
        float *out, int64_t ld, int more, const char *lines) {                                    \
        pairs_block(rows, tiles, w, stride, pairs, x, x_tile, out, ld, more, lines);              \
    }

PAIRS_ROWS(pairs_16_1, 2 * PAIR_ROWS, 1)
PAIRS_ROWS(pairs_8_2, PAIR_ROWS, 2)
PAIRS_ROWS(pairs_1_1, 1, 1)
PAIRS_ROWS(pairs_1_2, 1, 2)

/* Some pairs of up to GROUP rows. */
static void pairs_rows(const uint16_t *w, int64_t stride, int64_t rows, int64_t pairs,
                       const uint16_t *x, int64_t x_tile, int wide, float *out, int64_t ld,
                       int more, const char *lines) {
    const int64_t step = wide ? PAIR_ROWS : 2 * PAIR_ROWS;
    int64_t r = 0;
    for (; r + step <= rows; r += step) {
        (wide ? pairs_8_2 : pairs_16_1)(w + r * stride, stride, pairs, x, x_tile, out + r * ld, ld,
                                        more, lines);
        if (lines) lines += 32 * pairs;
    }
    for (; r < rows; r++)
        (wide ? pairs_1_2 : pairs_1_1)(w + r * stride, stride, pairs, x, x_tile, out + r * ld, ld,
                                       more, NULL);
}

static void pairs(const uint16_t *const w[2], int64_t stride, const int64_t rows[2], int64_t k,
                  const uint16_t *x, int64_t tokens, float *out, const uint16_t *const next[2]) {
    const int wide = tokens > TILE;
    const int64_t tiles = (k + TILE_K - 1) / TILE_K, whole = k / TILE_K * (TILE_K / 2);
    const int64_t x_tile = tiles * TILE_ELEMENTS, ld = wide ? SLIVER : TILE;
    /* Of each group's rows in memory a part is fetched with each part of the products. */
    const int64_t step = wide ? PAIR_ROWS : 2 * PAIR_ROWS, blocks = GROUP / step;
    for (int64_t p = 0; p < whole; p += PAIRS) {
        const int64_t some = least(PAIRS, whole - p);
        for (int g = 0; g < 2; g++) {
            const char *lines = next && next[g] ? (const char *)next[g] : NULL;
            if (lines) lines += 32 * blocks * p;
            if (rows[g])
                pairs_rows(w[g] + 2 * p, stride, rows[g], some, x + p * TILE_K, x_tile, wide,
                           out + g * GROUP * SLIVER, ld, p > 0, lines);
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
            pairs_rows(rest, TILE_K, rows[g], TILE_K / 2, x + whole * TILE_K, x_tile, wide,
                       out + g * GROUP * SLIVER, ld, whole > 0, NULL);
    }
}

#undef PAIRS_ROWS
