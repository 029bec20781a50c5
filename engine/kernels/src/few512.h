/* Products of quantised rows (quant.h) by a few tokens in AVX512_BF16: levels become bf16 in
 * registers, so memory gives the levels alone. Rows come in GROUPs: groups of weights divide them. */

enum { FEW_AHEAD = 8192 }; /* bytes from what is read to what is fetched, at least */

/* A scale as float in all lanes: bf16 is a float's upper half. */
INLINE __m512 spread(uint16_t scale) {
    return _mm512_castsi512_ps(_mm512_maskz_set1_epi16(0xaaaaaaaa, (short)scale));
}

/* The sixteen numbers that 4 bits can say, twice: an index may have any fifth bit. */
INLINE __m512i numbers4(uint16_t scale) {
    const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512 all = _mm512_mul_ps(levels, spread(scale));
    return (__m512i)_mm512_cvtne2ps_pbh(all, all);
}

INLINE __m512bh numbers8(const uint8_t *from, __m512 scale) {
    const __m128i *at = (const void *)from;
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at + 1)));
    return _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, scale), _mm512_mul_ps(low, scale));
}

INLINE void few_end(const int rows, const int tokens, __m512 sum[8][8], float *out, int64_t ld) {
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        if (rows == 4) {
            float four[4];
            SUM4(four, sum[0][t], sum[1][t], sum[2][t], sum[3][t]);
            for (int r = 0; r < 4; r++) out[r * ld + t] = four[r];
            continue;
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) out[r * ld + t] = SUM(sum[r][t]);
    }
}

INLINE void few_multiply(const int rows, const int tokens, const __m512bh v[8],
                         const uint16_t *x, int64_t x_stride, __m512 sum[8][8]) {
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const __m512bh u = load_pairs(x + t * x_stride);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], v[r], u);
    }
}

INLINE void few4(const int rows, const int tokens, const Quant *of, int64_t row, int64_t k,
                 const uint16_t *x, int64_t x_stride, float *out, int64_t ld, int64_t ahead,
                 uint16_t *keep, int64_t keep_ld) {
    const uint8_t *w = of->levels + row * of->stride, *next = w + ahead;
    const uint16_t *scales = of->scales + row * of->scale_stride;
    __m512 sum[8][8];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) sum[r][t] = ZERO();
    for (int64_t i = 0; i < k; i += QUANT_GROUP) {
        __m512i levels[8], numbers[8];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __builtin_prefetch(next, 0, 2), next += 64;
            levels[r] = _mm512_loadu_si512(w + r * of->stride + i / 2);
            numbers[r] = numbers4(scales[r * of->scale_stride + i / QUANT_GROUP]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512bh v[8];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const __m512i at = _mm512_srli_epi16(levels[r], 4 * (unsigned)j);
                v[r] = (__m512bh)_mm512_permutexvar_epi16(at, numbers[r]);
                if (keep) _mm512_storeu_si512(keep + r * keep_ld + i + 32 * j, (__m512i)v[r]);
            }
            few_multiply(rows, tokens, v, x + i + 32 * j, x_stride, sum);
        }
    }
    few_end(rows, tokens, sum, out, ld);
}

INLINE void few8(const int rows, const int tokens, const Quant *of, int64_t row, int64_t k,
                 const uint16_t *x, int64_t x_stride, float *out, int64_t ld, int64_t ahead,
                 uint16_t *keep, int64_t keep_ld) {
    const uint8_t *w = of->levels + row * of->stride, *next = w + ahead;
    const uint16_t *scales = of->scales + row * of->scale_stride;
    __m512 sum[8][8];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) sum[r][t] = ZERO();
    for (int64_t i = 0; i < k; i += QUANT_GROUP) {
        __m512 scale[8];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            scale[r] = spread(scales[r * of->scale_stride + i / QUANT_GROUP]);
        for (int j = 0; j < QUANT_GROUP; j += 32) {
            __m512bh v[8];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                if (r % 2 == (j / 32 & 1)) __builtin_prefetch(next, 0, 2), next += 64;
                v[r] = numbers8(w + r * of->stride + i + j, scale[r]);
                if (keep) _mm512_storeu_si512(keep + r * keep_ld + i + j, (__m512i)v[r]);
            }
            few_multiply(rows, tokens, v, x + i + j, x_stride, sum);
        }
    }
    few_end(rows, tokens, sum, out, ld);
}

#define FEW_ROWS(name, bits, tokens, keeps)                                                        \
    static __attribute__((noinline)) void name(const Quant *of, int64_t rows, int64_t k,           \
                                               const uint16_t *x, int64_t x_stride, float *out,    \
                                               int64_t ld, uint16_t *keep, int64_t keep_ld) {      \
        enum { AT_ONCE = tokens <= 4 ? 4 : 2 };                                                    \
        const int64_t after = AT_ONCE * of->stride, ahead = after > FEW_AHEAD ? after : FEW_AHEAD; \
        for (int64_t r = 0; r < rows; r += AT_ONCE)                                                \
            few##bits(AT_ONCE, tokens, of, r, k, x, x_stride, out + r * ld, ld, ahead,             \
                      keeps ? keep + r * keep_ld : NULL, keep_ld);                                 \
    }
#define FEW_BITS(bits)                       \
    FEW_ROWS(few##bits##_1, bits, 1, 0)      \
    FEW_ROWS(few##bits##_2, bits, 2, 0)      \
    FEW_ROWS(few##bits##_3, bits, 3, 0)      \
    FEW_ROWS(few##bits##_4, bits, 4, 0)      \
    FEW_ROWS(few##bits##_5, bits, 5, 0)      \
    FEW_ROWS(few##bits##_6, bits, 6, 0)      \
    FEW_ROWS(few##bits##_1_kept, bits, 1, 1) \
    FEW_ROWS(few##bits##_4_kept, bits, 4, 1)

FEW_BITS(8)
FEW_BITS(4)

typedef void FewRows(const Quant *of, int64_t rows, int64_t k, const uint16_t *x,
                     int64_t x_stride, float *out, int64_t ld, uint16_t *keep, int64_t keep_ld);

static FewRows *const few_rows[2][FEW] = {
    {few8_1, few8_2, few8_3, few8_4, few8_5, few8_6},
    {few4_1, few4_2, few4_3, few4_4, few4_5, few4_6},
};

static void few(const Quant *of, int64_t rows, int64_t k, const uint16_t *x, int64_t x_stride,
                int64_t tokens, float *out, int64_t ld, uint16_t *keep, int64_t keep_ld) {
    const int four = of->bits == 4;
    if (!keep) {
        few_rows[four][tokens - 1](of, rows, k, x, x_stride, out, ld, NULL, 0);
        return;
    }
    /* The first tokens' products hide how numbers are made; the others find them in a cache. */
    FewRows *const kept = tokens < 4 ? (four ? few4_1_kept : few8_1_kept)
                                     : (four ? few4_4_kept : few8_4_kept);
    const int64_t first = tokens < 4 ? 1 : 4;
    for (int64_t r = 0; r < rows; r += MOST_ROWS) {
        Quant part = *of;
        part.levels += r * of->stride, part.scales += r * of->scale_stride;
        uint16_t *to = keep + r * keep_ld;
        kept(&part, MOST_ROWS, k, x, x_stride, out + r * ld, ld, to, keep_ld);
        if (tokens > first)
            dot_pairs(to, keep_ld, MOST_ROWS, k, x + first * x_stride, x_stride, tokens - first,
                      out + r * ld + first, ld);
    }
}

/* As fill.h's, sixteen or thirty-two at once; groups of 4 bits that are no register's are left. */
static void fill_few(const Quant *of, int64_t rows, int64_t k, int bf16, void *to, int64_t ld) {
    if (!bf16 || (of->bits == 4 && of->group != QUANT_GROUP)) {
        fill(of, rows, k, bf16, to, ld);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *w = of->levels + r * of->stride;
        const uint16_t *scales = of->scales + r * of->scale_stride;
        uint16_t *out = (uint16_t *)to + r * ld;
        for (int64_t g = 0; g < k / of->group; g++)
            if (of->bits == 8)
                for (int64_t i = g * of->group; i < (g + 1) * of->group; i += 32)
                    _mm512_storeu_si512(out + i, (__m512i)numbers8(w + i, spread(scales[g])));
            else {
                const __m512i numbers = numbers4(scales[g]);
                const __m512i levels = _mm512_loadu_si512(w + g * 64);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
                    _mm512_storeu_si512(
                        out + g * QUANT_GROUP + 32 * j,
                        _mm512_permutexvar_epi16(_mm512_srli_epi16(levels, 4 * (unsigned)j),
                                                 numbers));
            }
    }
}

#undef FEW_ROWS
#undef FEW_BITS
