/* Products of rows as they are stored, a template: included once for each dtype of an instruction
 * set. Before it: NAME (of the function), WEIGHT and PANEL (element types), STEP (elements of one
 * multiplication), VEC, VEC_W, ZERO(), LOAD_W(p), LOAD_X(p), MAC(acc, w, x), ADD(a, b), SUM(vec), and
 * how many rows by how many tokens the registers hold: MOST_ROWS (4: with SUM4), MOST_TOKENS.
 *
 * Each product runs along a row, so memory is read in the order in which it lies there. */

#ifndef SHORT
#define SHORT 2048 /* bytes of a row */
#define NEAR 4096  /* bytes from what is read to what is fetched into the second-level cache */
#define FAR 16384
#define SOME 8        /* tokens: multiplying takes less time than reading */
#define NEAREST 16384 /* bytes of a few tokens that stay in the first-level cache */
#define STAYS 262144  /* bytes of rows that stay in the second-level one, beside the next */
#endif

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define LINE ((int)(64 / sizeof(WEIGHT)))

/* `rows` x `tokens` products in registers, `chains` sums each; `lines` cache lines an iteration.
 * `ahead`: with each line of `rows` rows so many lines from `next` on are fetched. `more`: added
 * to what is in `out`. */
INLINE void PASTE(NAME, block)(const int rows, const int tokens, const int chains, const int lines,
                               const WEIGHT *w, int64_t stride, int64_t k, const PANEL *x,
                               int64_t x_stride, float *out, int64_t ld, const WEIGHT *next,
                               int ahead, int more) {
    VEC sum[8][8][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
            for (int c = 0; c < chains; c++) sum[r][t][c] = ZERO();
    const int64_t once = (int64_t)lines * LINE, whole = k / once * once;
    int64_t i = 0;
    for (; i < whole; i += once) {
#pragma GCC unroll 8
        for (int l = 0; l < lines; l++) {
            if (rows == 1)
                __builtin_prefetch(next, 0, 2), next += LINE;
            else
                for (int a = 0; a < ahead; a++) __builtin_prefetch(next, 0, 2), next += LINE;
#pragma GCC unroll 16
            for (int s = 0; s < LINE / STEP; s++) {
                const int64_t at = i + l * LINE + s * STEP;
                const int c = (l * (LINE / STEP) + s) % chains;
                VEC_W v[8];
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) v[r] = LOAD_W(w + r * stride + at);
#pragma GCC unroll 8
                for (int t = 0; t < tokens; t++) {
                    const VEC_W u = LOAD_X(x + t * x_stride + at);
#pragma GCC unroll 8
                    for (int r = 0; r < rows; r++) sum[r][t][c] = MAC(sum[r][t][c], v[r], u);
                }
            }
        }
    }
    if (i < k) { /* the rest of the rows, zero where the panel is zero too */
        WEIGHT rest[8][LINE];
        for (; i < k; i += LINE) {
            const int64_t left = k - i < LINE ? k - i : LINE;
            __builtin_memset(rest, 0, sizeof rest);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                __builtin_memcpy(rest[r], w + r * stride + i, (size_t)left * sizeof(WEIGHT));
#pragma GCC unroll 16
            for (int s = 0; s < LINE / STEP; s++)
#pragma GCC unroll 8
                for (int t = 0; t < tokens; t++) {
                    const VEC_W u = LOAD_X(x + t * x_stride + i + s * STEP);
#pragma GCC unroll 8
                    for (int r = 0; r < rows; r++)
                        sum[r][t][0] = MAC(sum[r][t][0], LOAD_W(rest[r] + s * STEP), u);
                }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int c = 1; c < chains; c++) sum[r][t][0] = ADD(sum[r][t][0], sum[r][t][c]);
#ifdef SUM4
        if (rows == 4) {
            float four[4];
            SUM4(four, sum[0][t][0], sum[1][t][0], sum[2][t][0], sum[3][t][0]);
            for (int r = 0; r < 4; r++) out[r * ld + t] = four[r] + (more ? out[r * ld + t] : 0);
            continue;
        }
#endif
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            out[r * ld + t] = SUM(sum[r][t][0]) + (more ? out[r * ld + t] : 0);
    }
}

/* MOST_ROWS or fewer rows for so many tokens. */
#define ROWS(tokens)                                                                              \
    static __attribute__((noinline)) void PASTE(NAME, tokens)(                                    \
        const WEIGHT *w, int64_t stride, int64_t rows, int64_t k, const PANEL *x,                 \
        int64_t x_stride, float *out, int64_t ld, const WEIGHT *next, int ahead, int more) {      \
        enum { CHAINS = tokens == 1 ? 4 : tokens == 2 ? 2 : 1 };                                  \
        if (rows == MOST_ROWS)                                                                    \
            PASTE(NAME, block)(MOST_ROWS, tokens, CHAINS, CHAINS, w, stride, k, x, x_stride, out, \
                               ld, next, ahead, more);                                            \
        else                                                                                      \
            for (int64_t r = 0; r < rows; r++)                                                    \
                PASTE(NAME, block)(1, tokens, 1, 1, w + r * stride, stride, k, x, x_stride,       \
                                   out + r * ld, ld, next + r * stride, 1, more);                 \
    }

ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
#if MOST_TOKENS == 6
ROWS(5)
ROWS(6)
#endif

/* One token, rows so short that the sums' ends would show: one row after the other. */
static __attribute__((noinline)) void PASTE(NAME, single)(const WEIGHT *w, int64_t stride,
                                                          int64_t rows, int64_t k, const PANEL *x,
                                                          float *out, int64_t ld) {
    const WEIGHT *next = w + NEAR / (int64_t)sizeof *w;
    for (int64_t r = 0; r < rows; r++)
        PASTE(NAME, block)(1, 1, 4, 4, w + r * stride, stride, k, x, 0, out + r * ld, ld,
                           next + r * stride, 1, 0);
}

static void NAME(const void *weights, int64_t stride, int64_t rows, int64_t k, const void *panel,
                 int64_t x_stride, int64_t tokens, float *out, int64_t ld) {
    const WEIGHT *w = weights;
    const PANEL *x = panel;
    if (tokens == 1 && k * (int64_t)sizeof *w <= SHORT) {
        PASTE(NAME, single)(w, stride, rows, k, x, out, ld);
        return;
    }
    /* As many rows as the registers hold, for all tokens: they stay in the nearest cache. A few
     * tokens stay there instead, a part of their length at a time, for all rows that the next one
     * holds. What comes after is fetched meanwhile, in the order in which it lies there, some with
     * each block of tokens: memory is never idle. */
    const int blocks = (int)((tokens + MOST_TOKENS - 1) / MOST_TOKENS);
    const int ahead = (MOST_ROWS + blocks - 1) / blocks;
    const int64_t bytes = (int64_t)sizeof *w;
    int64_t part = NEAREST / ((int64_t)sizeof *x * tokens) / PAD * PAD, together = GROUP;
    while (together > MOST_ROWS && together * k * bytes > STAYS) together /= 2;
    if (tokens < 3 || tokens > SOME || part >= k || together == MOST_ROWS)
        part = k, together = MOST_ROWS;
    const int64_t far = FAR / bytes, after = together * stride > far ? together * stride : far;
    for (int64_t from = 0; from < rows; from += together) {
        const int64_t last = least(rows, from + together);
        const WEIGHT *next = w + from * stride + after;
        for (int64_t i = 0; i < k; i += part) {
            const int64_t wide = least(part, k - i);
            for (int64_t r = from; r < last; r += MOST_ROWS, next += MOST_ROWS * wide)
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t some = least(MOST_ROWS, last - r);
                    const int64_t t = tokens * b / blocks, few = tokens * (b + 1) / blocks - t;
                    const WEIGHT *at = w + r * stride + i;
                    const WEIGHT *then = next + MOST_ROWS * wide * b / blocks;
                    const PANEL *of = x + t * x_stride + i;
                    float *to = out + r * ld + t;
                    switch (few) {
#define CASE(n)                                                                           \
    case n:                                                                               \
        PASTE(NAME, n)(at, stride, some, wide, of, x_stride, to, ld, then, ahead, i > 0); \
        break;
                        CASE(1)
                        CASE(2)
                        CASE(3)
                        CASE(4)
#if MOST_TOKENS == 6
                        CASE(5)
                        CASE(6)
#endif
                    }
                }
        }
    }
}

#undef CASE
#undef ROWS
#undef LINE
#undef PASTE
#undef PASTE_
#undef NAME
#undef WEIGHT
#undef PANEL
#undef STEP
#undef VEC_W
#undef LOAD_W
#undef LOAD_X
#undef MAC
