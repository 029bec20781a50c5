/* What happens to products: activation, into a panel, into the result. Plain loops, included by
 * each instruction set, whose compiler options turn them into vectors. */

#include "exponential.h"

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* The error function: x + x P(x^2) up to 1, 1 - e^Q(x) above. P is the minimax fit of erf(x) / x - 1
 * in relative error, Q that of ln erfc(x) in the error it makes in erf. Beside erf in double
 * precision: off by 1.2e-7 at most, relative too. */
INLINE float error_function(float x) {
    const float t = x < 0 ? -x : x, s = x * x;
    float near = 7.85389129e-5f;
    near = near * s - 8.0102036e-4f;
    near = near * s + 5.18832915e-3f;
    near = near * s - 2.68538129e-2f;
    near = near * s + 1.12835854e-1f;
    near = near * s - 3.7612626e-1f;
    near = near * s + 1.28379166e-1f;
    near = near * x + x;
    const float in = t > 4.0f ? 4.0f : t; /* there it is 1 */
    float far = -2.16976023e-5f;
    far = far * in + 4.41472483e-4f;
    far = far * in - 4.20528371e-3f;
    far = far * in + 2.52103377e-2f;
    far = far * in - 1.08422093e-1f;
    far = far * in - 6.33216381e-1f;
    far = far * in - 1.12958026f;
    far = far * in + 1.88467282e-4f;
    far = 1.0f - exponential(far);
    far = x < 0 ? -far : far;
    return t > 1.0f ? far : near;
}

INLINE float passed(const int kind, float alpha, float x) {
    switch (kind) {
        case SWISH: return x * sigmoid(alpha * x);
        case GELU: return 0.5f * x * (1.0f + error_function(x * 0.707106781f));
        case GELU_TANH: return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
        case RELU: return x < 0 ? 0 : x;
        default: return x < 0 ? 0 : x * x;
    }
}

INLINE void activate_as(const int kind, const Activation *a, int gated, float *gate,
                        const float *up, int64_t count) {
    const float alpha = a->alpha, offset = a->offset, limit = a->limit;
    if (!gated) {
        for (int64_t i = 0; i < count; i++) gate[i] = passed(kind, alpha, gate[i]);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        const float g = gate[i] > limit ? limit : gate[i];
        const float over = up[i] > limit ? limit : up[i], u = over < -limit ? -limit : over;
        gate[i] = passed(kind, alpha, g) * (u + offset);
    }
}

static void activate(const Activation *a, int gated, float *gate, const float *up, int64_t count) {
    switch (a->kind) {
        case SWISH: activate_as(SWISH, a, gated, gate, up, count); break;
        case GELU: activate_as(GELU, a, gated, gate, up, count); break;
        case GELU_TANH: activate_as(GELU_TANH, a, gated, gate, up, count); break;
        case RELU: activate_as(RELU, a, gated, gate, up, count); break;
        default: activate_as(RELU2, a, gated, gate, up, count); break;
    }
}

static void store(const float *from, int64_t ld, int64_t rows, int64_t tokens, int bf16, void *to,
                  int64_t stride) {
    for (int64_t t = 0; t < tokens; t++)
        if (bf16) {
            uint16_t *row = (uint16_t *)to + t * stride;
            for (int64_t r = 0; r < rows; r++) row[r] = to_bf16(from[r * ld + t]);
        } else {
            float *row = (float *)to + t * stride;
            for (int64_t r = 0; r < rows; r++) row[r] = from[r * ld + t];
        }
}

#ifndef OWN_SCATTER
static void scatter(const float *from, int64_t ld, int64_t rows, int64_t tokens, const float *bias,
                    const float *weight, const int64_t *token, float *to, int64_t stride) {
    for (int64_t t = 0; t < tokens; t++) {
        float *row = to + token[t] * stride;
        const float by = weight[t];
        for (int64_t r = 0; r < rows; r++) row[r] += by * (from[r * ld + t] + bias[r]);
    }
}
#endif
