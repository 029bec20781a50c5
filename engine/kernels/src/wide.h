/* Products of a weight that is stored transposed, a template like dot.h: sums of many columns stay
 * in the nearest cache while rows of the weight go by, WIDE_ROWS together. Before it: NAME, WEIGHT,
 * VEC, LANES, ZERO(), LOAD_W(p), LOAD_F(p), STORE_F(p, v), SPREAD(x), FMA(acc, w, x). */

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

INLINE void PASTE(NAME, block)(const int tokens, const int deep, const WEIGHT *w, int64_t stride,
                               int64_t columns, const float *x, int64_t x_stride, float *out,
                               int64_t ld) {
    VEC u[WIDE_TOKENS][8];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 8
        for (int d = 0; d < deep; d++) u[t][d] = SPREAD(x[t * x_stride + d]);
    int64_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        VEC sum[WIDE_TOKENS];
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) sum[t] = LOAD_F(out + t * ld + c);
#pragma GCC unroll 8
        for (int d = 0; d < deep; d++) {
            const WEIGHT *row = w + d * stride + c;
            __builtin_prefetch(row + deep * stride);
            const VEC v = LOAD_W(row);
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) sum[t] = FMA(sum[t], v, u[t][d]);
        }
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) STORE_F(out + t * ld + c, sum[t]);
    }
    if (c < columns) {
        const size_t left = (size_t)(columns - c);
        WEIGHT rest[LANES] = {0};
        for (int t = 0; t < tokens; t++) {
            float one[LANES] = {0};
            __builtin_memcpy(one, out + t * ld + c, left * sizeof(float));
            VEC sum = LOAD_F(one);
            for (int d = 0; d < deep; d++) {
                __builtin_memcpy(rest, w + d * stride + c, left * sizeof(WEIGHT));
                sum = FMA(sum, LOAD_W(rest), u[t][d]);
            }
            STORE_F(one, sum);
            __builtin_memcpy(out + t * ld + c, one, left * sizeof(float));
        }
    }
}

#define TOKENS(tokens)                                                                            \
    static __attribute__((noinline)) void PASTE(NAME, tokens)(                                    \
        const WEIGHT *w, int64_t stride, int64_t columns, int64_t k, const float *x,              \
        int64_t x_stride, float *out, int64_t ld) {                                               \
        enum { DEEP = tokens <= 2 ? 8 : 4 };                                                      \
        int64_t i = 0;                                                                            \
        for (; i + DEEP <= k; i += DEEP)                                                          \
            PASTE(NAME, block)(tokens, DEEP, w + i * stride, stride, columns, x + i, x_stride,    \
                               out, ld);                                                          \
        for (; i < k; i++)                                                                        \
            PASTE(NAME, block)(tokens, 1, w + i * stride, stride, columns, x + i, x_stride, out,  \
                               ld);                                                               \
    }

TOKENS(1)
TOKENS(2)
TOKENS(3)
TOKENS(4)

static void NAME(const void *w, int64_t stride, int64_t columns, int64_t k, const float *x,
                 int64_t x_stride, int64_t tokens, float *out, int64_t ld) {
    for (int64_t t = 0; t < tokens; t++)
        __builtin_memset(out + t * ld, 0, (size_t)columns * sizeof(float));
    switch (tokens) {
        case 1: PASTE(NAME, 1)(w, stride, columns, k, x, x_stride, out, ld); break;
        case 2: PASTE(NAME, 2)(w, stride, columns, k, x, x_stride, out, ld); break;
        case 3: PASTE(NAME, 3)(w, stride, columns, k, x, x_stride, out, ld); break;
        case 4: PASTE(NAME, 4)(w, stride, columns, k, x, x_stride, out, ld); break;
    }
}

#undef TOKENS
#undef PASTE
#undef PASTE_
#undef NAME
#undef WEIGHT
#undef LOAD_W
