/* What dot.h and wide.h ask for, in AVX512F. After TARGET. */
#include "turn512.h"

INLINE __m512 load_f32(const float *p) { return _mm512_loadu_ps(p); }
INLINE __m512 load_bf16(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE __m512 load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Four sums at once: four vectors are turned into four columns. */
INLINE void sum4(float *to, __m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44),
                                     _mm512_shuffle_ps(ab, cd, 0xee));
    const __m128 low = _mm_add_ps(_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 1));
    const __m128 high = _mm_add_ps(_mm512_extractf32x4_ps(all, 2), _mm512_extractf32x4_ps(all, 3));
    _mm_storeu_ps(to, _mm_add_ps(low, high));
}

/* As after.h's, a group of rows by sixteen tokens at a time. */
#define OWN_SCATTER
static void scatter(const float *from, int64_t ld, int64_t rows, int64_t tokens, const float *bias,
                    const float *weight, const int64_t *token, float *to, int64_t stride) {
    const __mmask16 some = (__mmask16)((1u << rows) - 1);
    const __m512 more = _mm512_maskz_loadu_ps(some, bias);
    for (int64_t t = 0; t < tokens; t += 16) {
        const int64_t left = tokens - t < 16 ? tokens - t : 16;
        const __mmask16 here = (__mmask16)((1u << left) - 1);
        __m512 v[16];
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++)
            v[r] = r < rows ? _mm512_maskz_loadu_ps(here, from + r * ld + t) : _mm512_setzero_ps();
        turn16(v);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i >= left) break;
            float *row = to + token[t + i] * stride;
            const __m512 by = _mm512_set1_ps(weight[t + i]);
            const __m512 add = _mm512_mul_ps(by, _mm512_add_ps(v[i], more));
            _mm512_mask_storeu_ps(row, some, _mm512_add_ps(_mm512_maskz_loadu_ps(some, row), add));
        }
    }
}

#define VEC __m512
#define LANES 16
#define ZERO() _mm512_setzero_ps()
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUM(v) _mm512_reduce_add_ps(v)
#define SUM4(to, a, b, c, d) sum4(to, a, b, c, d)
#define LOAD_F(p) _mm512_loadu_ps(p)
#define STORE_F(p, v) _mm512_storeu_ps(p, v)
#define SPREAD(x) _mm512_set1_ps(x)
#define FMA(acc, w, x) _mm512_fmadd_ps(w, x, acc)
#define MOST_ROWS 4
#define MOST_TOKENS 6
