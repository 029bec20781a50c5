/* A dense projection of few tokens on the experts' kernels. */
#include "exponential.h"
#include "panel.h"

enum { ALONE_BYTES = 128 << 10 }; /* weights that one thread reads before others would wake */

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

static void rows_of(void *context, int64_t from, int64_t to, int thread) {
    const Linear *l = context;
    (void)thread;
    float out[2 * GROUP * SLIVER] __attribute__((aligned(64)));
    for (int64_t unit = from; unit < to; unit++)
        for (int64_t token = 0; token < l->tokens; token += SLIVER) {
            const int64_t row = unit * 2 * GROUP, tokens = least(SLIVER, l->tokens - token);
            int64_t rows[2];
            const int64_t ld = multiply_rows(l->isa, l->dtype, &l->panel, l->w, l->w_stride,
                                             l->outputs, row, l->k, token, tokens, rows, out);
            write(l, out, ld, rows[0], tokens, row, token);
            write(l, out + GROUP * SLIVER, ld, rows[1], tokens, row + GROUP, token);
        }
}

/* out[token] = w x[token] + bias, all of one dtype; w is (outputs, k). 0, or -1 without memory. */
API int64_t fiddler_linear(Pool *pool, int64_t dtype, const void *x, int64_t x_stride,
                           int64_t tokens, const void *w, int64_t w_stride, int64_t outputs,
                           int64_t k, const void *bias, void *out, int64_t out_stride) {
    const Isa *isa = pool_isa(pool);
    const int tiled = dtype == BF16 && suits_tiles(isa, tokens);
    Linear l = {
        .isa = isa, .dtype = (int)dtype,
        .panel = panel_of(isa, (int)dtype, tiled),
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
            {rows_of, &l, (outputs + 2 * GROUP - 1) / (2 * GROUP)},
        };
        if (outputs * k * element_bytes((int)dtype) <= ALONE_BYTES)
            pool_run_alone(pool, phases, 2);
        else
            pool_run(pool, phases, 2);
    }
    pool_unlock(pool);
    return memory ? 0 : -1;
}

/* The `top` experts that `tokens` choose, and the weights they give them: the largest of the softmax
 * of the logits, which are `w` x in the dtype; `normalised`: divided by their sum. Rows of `logits`,
 * `weights` and `chosen` lie one after the other. 0, or -1 without memory. */
API int64_t fiddler_route(Pool *pool, int64_t dtype, const void *x, int64_t x_stride,
                          int64_t tokens, const void *w, int64_t w_stride, int64_t experts,
                          int64_t k, int64_t top, int64_t normalised, void *logits,
                          float *weights, int64_t *chosen) {
    if (fiddler_linear(pool, dtype, x, x_stride, tokens, w, w_stride, experts, k, NULL, logits,
                       experts))
        return -1;
    for (int64_t t = 0; t < tokens; t++, weights += top, chosen += top) {
        const int64_t first = t * experts;
        float most = from_any((int)dtype, logits, first), sum = 0, kept = 0;
        for (int64_t e = 1; e < experts; e++) {
            const float value = from_any((int)dtype, logits, first + e);
            most = value > most ? value : most;
        }
        int64_t found = 0; /* of the largest so far, in order */
        for (int64_t e = 0; e < experts; e++) {
            const float p = exponential(from_any((int)dtype, logits, first + e) - most);
            int64_t at = found;
            sum += p;
            while (at > 0 && !(weights[at - 1] >= p)) at--;
            if (at == top) continue;
            found += found < top;
            for (int64_t i = found - 1; i > at; i--)
                weights[i] = weights[i - 1], chosen[i] = chosen[i - 1];
            weights[at] = p, chosen[at] = e;
        }
        for (int64_t i = 0; i < top; i++) weights[i] /= sum, kept += weights[i];
        for (int64_t i = 0; normalised && i < top; i++) weights[i] /= kept;
    }
    return 0;
}
