#ifndef EXPONENTIAL_H
#define EXPONENTIAL_H

#include "kernels.h"

/* e^x to about one unit in the last place; 0 below -87.3, infinity above 88.7, NaN for NaN.
 * x = n ln 2 + r, |r| <= ln 2 / 2; e^r is a Taylor polynomial of degree 7. */
INLINE float exponential(float x) {
    const float low = x < -87.3f ? -87.3f : x, in = low > 88.7f ? 88.7f : low;
    const float shifted = in * 1.44269504f + 12582912.0f; /* rounds: 1.5 * 2^23 */
    const float n = shifted - 12582912.0f;
    const float r = (in - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    /* 2^n in two halves, as 2^128 is no float */
    const int32_t whole = (int32_t)float_bits(shifted) - 0x4b400000, half = whole >> 1;
    const float scale = bits_float((uint32_t)(127 + half) << 23);
    const float other = bits_float((uint32_t)(127 + whole - half) << 23);
    const float value = p * scale * other;
    const float top = x > 88.7f ? __builtin_inff() : value;
    return x < -87.3f ? 0.0f : top;
}

#endif
