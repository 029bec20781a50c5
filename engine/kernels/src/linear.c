/* A dense projection of few tokens on the experts' kernels. */
#include "panel.h"

typedef struct {
    const Isa *isa;
    int dtype;
    Panel panel;
    const void *x, *w, *bias;
    void *out;
    const int64_t *every;
    int64_t x_stride, w_stride, out_stride, tokens, outputs, k;
} Linear;

static void gather(void *context, int64_t from, int64_t to, int thread) {
    const Linear *l = context;
    (void)thread;
    panel_gather(&l->panel, l->k, from * TILE, least(l->tokens, to * TILE), l->dtype, l->x,
                 l->x_stride, l->every);
}

static void write(const Linear *l, const float *from, int64_t ld, int64_t rows, int64_t tokens,
                  int64_t row, int64_t token) {
    for (int64_t r = 0; r < rows; r++) {
        const float bias = l->bias ? from_any(l->dtype, l->bias, row + r) : 0;
        for (int64_t t = 0; t < tokens; t++) {
            const float value = from[r * ld + t] + bias;
            const int64_t at = (token + t) * l->out_stride + row + r;
            if (l->dtype == F32)
                ((float *)l->out)[at] = value;
            else
                ((uint16_t *)l->out)[at] = l->dtype == BF16 ? to_bf16(value) : to_f16(value);
        }
    }
}

static void block(const Linear *l, int64_t row, int64_t token, const void *w[2], int64_t rows[2]) {
    const int64_t left = l->outputs - row, bytes = element_bytes(l->dtype) * l->w_stride;
    (void)token;
    rows[0] = least(GROUP, left);
    rows[1] = left > GROUP ? least(GROUP, left - GROUP) : 0;
    w[0] = (const char *)l->w + row * bytes;
    w[1] = rows[1] ? (const char *)l->w + (row + GROUP) * bytes : NULL;
}

static void multiply_rows(void *context, int64_t from, int64_t to, int thread) {
    const Linear *l = context;
    (void)thread;
    float out[2 * GROUP * SLIVER] __attribute__((aligned(64)));
    for (int64_t unit = from; unit < to; unit++)
        for (int64_t token = 0; token < l->tokens; token += SLIVER) {
            const int64_t row = unit * 2 * GROUP, tokens = least(SLIVER, l->tokens - token);
            const void *w[2], *next[2] = {NULL, NULL};
            int64_t rows[2], unused[2];
            block(l, row, token, w, rows);
            if (row + 2 * GROUP < l->outputs) block(l, row + 2 * GROUP, token, next, unused);
            const int64_t ld = multiply(l->isa, l->dtype, &l->panel, w, token ? NULL : next,
                                        l->w_stride, rows, l->k, token, tokens, out);
            write(l, out, ld, rows[0], tokens, row, token);
            write(l, out + GROUP * SLIVER, ld, rows[1], tokens, row + GROUP, token);
        }
}

/* out[token] = w x[token] + bias, all of one dtype; w is (outputs, k). 0, or -1 without memory. */
API int64_t fiddler_linear(Pool *pool, int64_t dtype, const void *x, int64_t x_stride,
                           int64_t tokens, const void *w, int64_t w_stride, int64_t outputs,
                           int64_t k, const void *bias, void *out, int64_t out_stride) {
    const Isa *isa = pool_isa(pool);
    const int tiled = dtype == BF16 && isa->tiles && tokens >= isa->tiles_from;
    Linear l = {
        .isa = isa, .dtype = (int)dtype,
        .panel = {.tiled = tiled, .bf16 = dtype == BF16 && (tiled || isa->native_bf16)},
        .x = x, .w = w, .bias = bias, .out = out, .x_stride = x_stride, .w_stride = w_stride,
        .out_stride = out_stride, .tokens = tokens, .outputs = outputs, .k = k,
    };
    if (!tokens) return 0;
    const int64_t every_bytes = round_up(tokens * 8, 64);
    pool_lock(pool);
    char *memory = pool_memory(pool, (size_t)(every_bytes + panel_bytes(&l.panel, k, tokens)));
    if (memory) {
        int64_t *every = (int64_t *)(void *)memory;
        for (int64_t t = 0; t < tokens; t++) every[t] = t;
        l.every = every, l.panel.memory = memory + every_bytes;
        const Phase phases[] = {
            {gather, &l, (tokens + TILE - 1) / TILE},
            {multiply_rows, &l, (outputs + 2 * GROUP - 1) / (2 * GROUP)},
        };
        pool_run(pool, phases, 2);
    }
    pool_unlock(pool);
    return memory ? 0 : -1;
}
