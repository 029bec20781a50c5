/* Products of rows as they are stored, a template: included once for each dtype of an instruction
 * set. Before it: NAME (of the function), WEIGHT and PANEL (element types), STEP (elements of one
 * multiplication), VEC, VEC_W, ZERO(), LOAD_W(p), LOAD_X(p), MAC(acc, w, x), ADD(a, b), SUM(vec), and
 * how many rows by how many tokens the registers hold: MOST_ROWS (4: with SUM4), MOST_TOKENS.
 *
 * Each product runs along a row, so memory is read in the order in which it lies there. */

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define LINE ((int)(64 / sizeof(WEIGHT)))

/* `rows` x `tokens` products in registers, `chains` sums each; `lines` cache lines an iteration. */
INLINE void PASTE(NAME, block)(const int rows, const int tokens, const int chains, const int lines,
                               const WEIGHT *w, int64_t stride, int64_t k, const PANEL *x,
                               int64_t x_stride, float *out, int64_t ld) {
    VEC sum[8][8][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
            for (int c = 0; c < chains; c++) sum[r][t][c] = ZERO();
    const int64_t once = (int64_t)lines * LINE, whole = k / once * once;
    const int64_t ahead = AHEAD / (int64_t)sizeof(WEIGHT);
    const int64_t own = whole > ahead ? whole - ahead : 0;
    int64_t fetch = ahead, i = 0; /* to the end of these rows, then on to the next ones' begin */
    for (int part = 0; part < 2; part++) {
        for (const int64_t end = part ? whole : own / once * once; i < end; i += once) {
#pragma GCC unroll 8
            for (int l = 0; l < lines; l++) {
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++)
                    __builtin_prefetch(w + r * stride + i + l * LINE + fetch);
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
                        for (int r = 0; r < rows; r++)
                            sum[r][t][c] = MAC(sum[r][t][c], v[r], u);
                    }
                }
            }
        }
        fetch = ahead + rows * stride - k;
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
            for (int r = 0; r < 4; r++) out[r * ld + t] = four[r];
            continue;
        }
#endif
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) out[r * ld + t] = SUM(sum[r][t][0]);
    }
}

/* All rows for so many tokens: MOST_ROWS at a time, then one by one. */
#define ROWS(tokens)                                                                              \
    static __attribute__((noinline)) void PASTE(NAME, tokens)(                                    \
        const WEIGHT *w, int64_t stride, int64_t rows, int64_t k, const PANEL *x,                 \
        int64_t x_stride, float *out, int64_t ld) {                                               \
        enum { AT_ONCE = tokens == 1 ? 1 : tokens == 2 ? 2 : MOST_ROWS };                         \
        int64_t r = 0;                                                                            \
        for (; r + AT_ONCE <= rows; r += AT_ONCE)                                                 \
            PASTE(NAME, block)(AT_ONCE, tokens, tokens == 1 ? 4 : tokens == 2 ? 2 : 1,            \
                               tokens == 1 ? 4 : 1, w + r * stride, stride, k, x, x_stride,       \
                               out + r * ld, ld);                                                 \
        for (; r < rows; r++)                                                                     \
            PASTE(NAME, block)(1, tokens, 1, 1, w + r * stride, stride, k, x, x_stride,           \
                               out + r * ld, ld);                                                 \
    }

ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
#if MOST_TOKENS == 6
ROWS(5)
ROWS(6)
#endif

static void NAME(const void *weights, int64_t stride, int64_t rows, int64_t k, const void *panel,
                 int64_t x_stride, int64_t tokens, float *out, int64_t ld) {
    const WEIGHT *w = weights;
    const PANEL *x = panel;
    if (tokens == 1) {
        PASTE(NAME, 1)(w, stride, rows, k, x, x_stride, out, ld);
        return;
    }
    const int64_t blocks = (tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    /* As many rows as the registers hold, for all tokens: they stay in the nearest cache. */
    for (int64_t r = 0; r < rows;) {
        const int64_t some = tokens == 2 ? rows : least(MOST_ROWS, rows - r);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t t = tokens * b / blocks, wide = tokens * (b + 1) / blocks - t;
            const WEIGHT *at = w + r * stride;
            const PANEL *from = x + t * x_stride;
            float *to = out + r * ld + t;
            switch (wide) {
                case 1: PASTE(NAME, 1)(at, stride, some, k, from, x_stride, to, ld); break;
                case 2: PASTE(NAME, 2)(at, stride, some, k, from, x_stride, to, ld); break;
                case 3: PASTE(NAME, 3)(at, stride, some, k, from, x_stride, to, ld); break;
                case 4: PASTE(NAME, 4)(at, stride, some, k, from, x_stride, to, ld); break;
#if MOST_TOKENS == 6
                case 5: PASTE(NAME, 5)(at, stride, some, k, from, x_stride, to, ld); break;
                case 6: PASTE(NAME, 6)(at, stride, some, k, from, x_stride, to, ld); break;
#endif
            }
        }
        r += some;
    }
}

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
