/* Rows into columns, in AVX512F. After TARGET. */
#include <immintrin.h>

/* Sixteen vectors become their columns: in pairs of lanes, in fours, then by quarters. */
INLINE void turn16(__m512 v[16]) {
    __m512 pairs[16], fours[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            fours[i + 2 * h] = _mm512_shuffle_ps(pairs[i + h], pairs[i + h + 2], 0x44);
            fours[i + 2 * h + 1] = _mm512_shuffle_ps(pairs[i + h], pairs[i + h + 2], 0xee);
        }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512 even0 = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
        const __m512 odd0 = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xdd);
        const __m512 even1 = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
        const __m512 odd1 = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xdd);
        v[c] = _mm512_shuffle_f32x4(even0, even1, 0x88);
        v[4 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
        v[8 + c] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
        v[12 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
    }
}
