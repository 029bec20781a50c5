/* Numbers of quantised rows (quant.h), in plain loops: included by each instruction set. */

#define FILL(name, TO, ROUND)                                                                      \
    static void name(const Quant *of, int64_t rows, int64_t k, TO *to, int64_t ld) {               \
        const int64_t group = of->group, part = group / 4;                                         \
        for (int64_t r = 0; r < rows; r++)                                                         \
            for (int64_t g = 0; g < k / group; g++) {                                              \
                const float scale = from_bf16(of->scales[r * of->scale_stride + g]);               \
                const uint8_t *w = of->levels + r * of->stride + g * group * of->bits / 8;         \
                TO *out = to + r * ld + g * group;                                                 \
                if (of->bits == 8)                                                                 \
                    for (int64_t i = 0; i < group; i++)                                            \
                        out[i] = ROUND(scale * (float)(int8_t)w[i]);                               \
                else                                                                               \
                    for (int64_t i = 0; i < part; i++) {                                           \
                        const int32_t four = w[2 * i] | w[2 * i + 1] << 8;                         \
                        out[i] = ROUND(scale * (float)((four & 15) - 8));                          \
                        out[part + i] = ROUND(scale * (float)((four >> 4 & 15) - 8));              \
                        out[2 * part + i] = ROUND(scale * (float)((four >> 8 & 15) - 8));          \
                        out[3 * part + i] = ROUND(scale * (float)((four >> 12) - 8));              \
                    }                                                                              \
            }                                                                                      \
    }

FILL(fill_f32, float, (float))
FILL(fill_bf16, uint16_t, to_bf16)

static void fill(const Quant *of, int64_t rows, int64_t k, int bf16, void *to, int64_t ld) {
    if (bf16)
        fill_bf16(of, rows, k, to, ld);
    else
        fill_f32(of, rows, k, to, ld);
}

#undef FILL
