/* AVX2 with FMA and F16C: eight floats at once. */
#include "kernels.h"
#include "target.h"

#if defined(__x86_64__)

TARGET("avx2,fma,f16c")
#include <immintrin.h>

#include "after.h"
#include "fill.h"

INLINE __m256 load_f32(const float *p) { return _mm256_loadu_ps(p); }
INLINE __m256 load_bf16(const uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE __m256 load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE float sum8(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#define VEC __m256
#define LANES 8
#define ZERO() _mm256_setzero_ps()
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUM(v) sum8(v)
#define LOAD_F(p) _mm256_loadu_ps(p)
#define STORE_F(p, v) _mm256_storeu_ps(p, v)
#define SPREAD(x) _mm256_set1_ps(x)
#define FMA(acc, w, x) _mm256_fmadd_ps(w, x, acc)
#define MOST_ROWS 2
#define MOST_TOKENS 4
#include "single.h"

const Isa isa_avx2 = {
    .name = "avx2",
    .dot = {dot_f32, dot_bf16, dot_f16},
    .wide = {wide_f32, wide_bf16, wide_f16},
    .fill = fill,
    .activate = activate,
    .store = store,
    .scatter = scatter,
};

TARGET_END

#else

const Isa isa_avx2 = {.name = "avx2"};

#endif
