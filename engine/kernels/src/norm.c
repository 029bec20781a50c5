/* What lies between a layer's projections, for a few tokens. It reads little, so
 * the caller's thread does it alone; a call costs less than one operation of a framework. */
#include <math.h>

#include "kernels.h"

enum { PARTS = 16 }; /* sums side by side */

static void unpack(int dtype, const void *from, int64_t at, int64_t count, float *to) {
    if (dtype == F32)
        __builtin_memcpy(to, (const float *)from + at, (size_t)count * sizeof *to);
    else if (dtype == BF16)
        for (int64_t i = 0; i < count; i++) to[i] = from_bf16(((const uint16_t *)from)[at + i]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = from_f16(((const uint16_t *)from)[at + i]);
}

/* out = x / sqrt(mean(x^2) + eps), rounded, times (weight + offset); rows of k, one after the other. */
API void fiddler_norm(int64_t dtype, const void *x, int64_t rows, int64_t k, const void *weight,
                      double offset, double eps, void *out) {
    enum { CHUNK = 256 };
    for (int64_t row = 0; row < rows; row++) {
        float some[CHUNK], scale[CHUNK], sums[PARTS] = {0}, all = 0;
        for (int64_t i = 0; i < k; i += CHUNK) {
            const int64_t count = least(CHUNK, k - i);
            unpack((int)dtype, x, row * k + i, count, some);
            for (int64_t j = count; j < CHUNK; j++) some[j] = 0;
            for (int64_t j = 0; j < CHUNK; j += PARTS)
                for (int64_t p = 0; p < PARTS; p++) sums[p] += some[j + p] * some[j + p];
        }
        for (int p = 0; p < PARTS; p++) all += sums[p];
        const float by = 1.0f / sqrtf(all / (float)k + (float)eps);
        for (int64_t i = 0; i < k; i += CHUNK) {
            const int64_t count = least(CHUNK, k - i);
            unpack((int)dtype, x, row * k + i, count, some);
            unpack((int)dtype, weight, i, count, scale);
            const float add = (float)offset;
            if (dtype == F32) {
                float *to = (float *)out + row * k + i;
                for (int64_t j = 0; j < count; j++) to[j] = some[j] * by * (scale[j] + add);
            } else if (dtype == BF16) {
                uint16_t *to = (uint16_t *)out + row * k + i;
                for (int64_t j = 0; j < count; j++)
                    to[j] = to_bf16(from_bf16(to_bf16(some[j] * by)) * (scale[j] + add));
            } else {
                uint16_t *to = (uint16_t *)out + row * k + i;
                for (int64_t j = 0; j < count; j++)
                    to[j] = to_f16(from_f16(to_f16(some[j] * by)) * (scale[j] + add));
            }
        }
    }
}

/* to = from, rounded to the dtype. */
API void fiddler_round(int64_t dtype, const float *from, int64_t count, void *to) {
    if (dtype == BF16)
        for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
    else if (dtype == F16)
        for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = to_f16(from[i]);
    else
        __builtin_memcpy(to, from, (size_t)count * sizeof *from);
}
