/* Attention of one token of each sequence, from its hidden state to its output: projections, norms of
 * query and key, rotation, the new key and value behind the others in the cache, softmax, the output's
 * projection. In decode this is a layer's dense part, and most of it is reading weights. */
#include <math.h>

#include "attend.h"
#include "exponential.h"
#include "panel.h"

enum { QUERY, KEY, VALUE, PROJECTIONS };

typedef struct {
    const Isa *isa;
    const FiddlerAttention *a;
    int dtype;
    Panel x, y; /* hidden states; what the heads give */
    const void *hidden, *cos, *sin;
    int64_t hidden_stride, turn_stride, tokens, past;
    void *keys, *values, *out;
    int64_t sequence_stride, head_stride, out_stride;
    const int64_t *every;
    float *made; /* by token: queries, keys, values */
    void *mixed; /* by token, of all heads, in the layer's dtype */
    char *scratch;
    int64_t scratch_bytes; /* of a thread */
} Attend;

static int64_t outputs(const FiddlerAttention *a, int which) {
    return (which == QUERY ? a->heads : a->kv_heads) * a->head;
}
static int64_t first_output(const FiddlerAttention *a, int which) {
    return which == QUERY ? 0 : (which == KEY ? a->heads : a->heads + a->kv_heads) * a->head;
}
static int64_t all_outputs(const FiddlerAttention *a) {
    return (a->heads + 2 * a->kv_heads) * a->head;
}
static int64_t blocks(int64_t rows) { return (rows + 2 * GROUP - 1) / (2 * GROUP); }

/* As a number of the layer's dtype. */
static float rounded(int dtype, float value) {
    return dtype == F32 ? value : dtype == BF16 ? from_bf16(to_bf16(value)) : from_f16(to_f16(value));
}

static void put(int dtype, void *to, int64_t at, float value) {
    if (dtype == F32)
        ((float *)to)[at] = value;
    else
        ((uint16_t *)to)[at] = dtype == BF16 ? to_bf16(value) : to_f16(value);
}

static void gather_x(void *context, int64_t from, int64_t to, int thread) {
    const Attend *d = context;
    (void)thread;
    panel_gather(&d->x, d->a->hidden, from * TILE, least(d->tokens, to * TILE), d->dtype, d->hidden,
                 d->hidden_stride, d->every);
}

static void gather_y(void *context, int64_t from, int64_t to, int thread) {
    const Attend *d = context;
    const int64_t k = outputs(d->a, QUERY);
    (void)thread;
    panel_gather(&d->y, k, from * TILE, least(d->tokens, to * TILE), d->dtype, d->mixed, k,
                 d->every);
}

static void project(void *context, int64_t from, int64_t to, int thread) {
    const Attend *d = context;
    const FiddlerAttention *a = d->a;
    float out[2 * GROUP * SLIVER] __attribute__((aligned(64)));
    (void)thread;
    for (int64_t unit = from; unit < to; unit++) {
        int which = QUERY;
        int64_t at = unit;
        while (at >= blocks(outputs(a, which))) at -= blocks(outputs(a, which++));
        const int64_t row = at * 2 * GROUP, first = first_output(a, which) + row;
        for (int64_t token = 0; token < d->tokens; token += SLIVER) {
            const int64_t tokens = least(SLIVER, d->tokens - token);
            int64_t rows[2];
            const int64_t ld =
                multiply_rows(d->isa, d->dtype, &d->x, a->weight[which], a->stride[which],
                              outputs(a, which), row, a->hidden, token, tokens, rows, out);
            for (int64_t r = 0; r < rows[0] + rows[1]; r++) {
                const float *from_row = out + r / GROUP * GROUP * SLIVER + r % GROUP * ld;
                const float bias =
                    a->bias[which] ? from_any(d->dtype, a->bias[which], row + r) : 0;
                for (int64_t t = 0; t < tokens; t++)
                    d->made[(token + t) * all_outputs(a) + first + r] =
                        rounded(d->dtype, from_row[t] + bias);
            }
        }
    }
}

static void output(void *context, int64_t from, int64_t to, int thread) {
    const Attend *d = context;
    const FiddlerAttention *a = d->a;
    float out[2 * GROUP * SLIVER] __attribute__((aligned(64)));
    (void)thread;
    for (int64_t unit = from; unit < to; unit++)
        for (int64_t token = 0; token < d->tokens; token += SLIVER) {
            const int64_t row = unit * 2 * GROUP, tokens = least(SLIVER, d->tokens - token);
            int64_t rows[2];
            const int64_t ld = multiply_rows(d->isa, d->dtype, &d->y, a->weight[PROJECTIONS],
                                             a->stride[PROJECTIONS], a->hidden, row,
                                             outputs(a, QUERY), token, tokens, rows, out);
            for (int64_t r = 0; r < rows[0] + rows[1]; r++) {
                const float *from_row = out + r / GROUP * GROUP * SLIVER + r % GROUP * ld;
                const void *bias = a->bias[PROJECTIONS];
                for (int64_t t = 0; t < tokens; t++)
                    put(d->dtype, d->out, (token + t) * d->out_stride + row + r,
                        from_row[t] + (bias ? from_any(d->dtype, bias, row + r) : 0));
            }
        }
}

/* One head's query or key to `to`: divided by its root mean square (its own, or all heads'), times the
 * norm's weight; rotated. */
static void turned(const Attend *d, int which, int64_t token, int64_t head, float *to) {
    const FiddlerAttention *a = d->a;
    const int64_t size = a->head, turn = a->rotary, half = turn / 2, first = head * size;
    const float *all = d->made + token * all_outputs(a) + first_output(a, which);
    float one[MOST_HEAD];
    __builtin_memcpy(one, all + first, (size_t)size * sizeof *one);
    if (a->norm[which]) {
        const int64_t wide = a->norm_size[which], begin = wide == size ? first : 0;
        float squares = 0;
        for (int64_t i = 0; i < wide; i++) squares += all[begin + i] * all[begin + i];
        const float by = 1.0f / sqrtf(squares / (float)wide + (float)a->eps);
        for (int64_t i = 0; i < size; i++)
            one[i] = rounded(d->dtype, rounded(d->dtype, one[i] * by) *
                                           from_any(d->dtype, a->norm[which], first - begin + i));
    }
    const int64_t at = token * d->turn_stride;
    for (int64_t i = 0; i < turn; i++) {
        const float other = i < half ? -one[i + half] : one[i - half];
        to[i] = rounded(d->dtype, one[i] * from_any(d->dtype, d->cos, at + i) +
                                      other * from_any(d->dtype, d->sin, at + i));
    }
    for (int64_t i = turn; i < size; i++) to[i] = one[i];
}

/* Weights that positions [0, count) have for one query, not yet divided by their sum, which it
 * returns. */
static float softmax(float *score, int64_t count, float scale) {
    float most = score[0] * scale;
    for (int64_t i = 0; i < count; i++) {
        score[i] *= scale;
        most = score[i] > most ? score[i] : most;
    }
    for (int64_t i = 0; i < count; i++) score[i] = exponential(score[i] - most);
    float sum = 0;
    for (int64_t i = 0; i < count; i++) sum += score[i];
    return sum;
}

/* Queries that are computed together: of those that share a head of keys and values. */
static int64_t together(const FiddlerAttention *a) {
    return least(SLIVER, a->heads / a->kv_heads);
}

/* Queries that share a head of keys and values, some at a time. */
static void mix(void *context, int64_t from, int64_t to, int thread) {
    const Attend *d = context;
    const FiddlerAttention *a = d->a;
    const int64_t size = a->head, group = a->heads / a->kv_heads, count = d->past + 1;
    const int64_t wide = panel_stride(size), bytes = element_bytes(d->dtype);
    float *queries = (float *)(void *)(d->scratch + thread * d->scratch_bytes);
    float *scores = queries + together(a) * wide, line[MOST_HEAD];
    const Panel panel = {.bf16 = d->dtype == BF16 && d->isa->native_bf16, .memory = queries};
    const int64_t ld = round_up(count, 16);
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t token = unit / a->kv_heads, kv = unit % a->kv_heads;
        const int64_t begin = token * d->sequence_stride + kv * d->head_stride;
        char *keys = (char *)d->keys + begin * bytes, *values = (char *)d->values + begin * bytes;
        const float *value = d->made + token * all_outputs(a) + first_output(a, VALUE) + kv * size;
        turned(d, KEY, token, kv, line);
        for (int64_t i = 0; i < size; i++) {
            put(d->dtype, keys, d->past * size + i, line[i]);
            put(d->dtype, values, d->past * size + i, value[i]);
        }
        for (int64_t done = 0; done < group; done += SLIVER) {
            const int64_t some = least(SLIVER, group - done), first = kv * group + done;
            for (int64_t q = 0; q < some; q++) {
                turned(d, QUERY, token, first + q, line);
                for (int64_t i = 0; i < wide; i++)
                    put(panel.bf16 ? BF16 : F32, queries, q * wide + i, i < size ? line[i] : 0);
            }
            float out[GROUP * SLIVER] __attribute__((aligned(64)));
            for (int64_t at = 0; at < count; at += GROUP) {
                const int64_t rows = least(GROUP, count - at);
                d->isa->dot[d->dtype](keys + at * size * bytes, size, rows, size, queries, wide,
                                      some, out, some);
                for (int64_t q = 0; q < some; q++)
                    for (int64_t r = 0; r < rows; r++) scores[q * ld + at + r] = out[r * some + q];
            }
            for (int64_t q = 0; q < some; q += WIDE_TOKENS) {
                const int64_t few = least(WIDE_TOKENS, some - q);
                float sums[WIDE_TOKENS], mixed[WIDE_TOKENS * MOST_HEAD];
                for (int64_t i = 0; i < few; i++)
                    sums[i] = softmax(scores + (q + i) * ld, count, (float)a->scale);
                d->isa->wide[d->dtype](values, size, size, count, scores + q * ld, ld, few, mixed,
                                       size);
                for (int64_t i = 0; i < few; i++)
                    for (int64_t j = 0; j < size; j++)
                        put(d->dtype, d->mixed,
                            token * outputs(a, QUERY) + (first + q + i) * size + j,
                            mixed[i * size + j] / sums[i]);
            }
        }
    }
}

/* Hidden states `x` of `tokens` sequences' newest tokens to `out`, both rows of `hidden`. Of each
 * sequence's head, `keys` and `values` hold `past` rows and room for one more, which is filled.
 * `cos` and `sin` are rows of `rotary`, `turn_stride` apart: 0 where sequences share one.
 * 0, or -1 where memory is lacking. */
API int64_t fiddler_attend(Pool *pool, const FiddlerAttention *a, const void *x, int64_t x_stride,
                           int64_t tokens, const void *cos, const void *sin, int64_t turn_stride,
                           void *keys, void *values, int64_t sequence_stride, int64_t head_stride,
                           int64_t past, void *out, int64_t out_stride) {
    const Isa *isa = pool_isa(pool);
    const int dtype = (int)a->dtype, tiled = dtype == BF16 && suits_tiles(isa, tokens);
    const Panel panel = panel_of(isa, dtype, tiled);
    Attend d = {
        .isa = isa, .a = a, .dtype = dtype, .x = panel, .y = panel, .hidden = x, .cos = cos,
        .sin = sin, .hidden_stride = x_stride, .turn_stride = turn_stride, .tokens = tokens,
        .past = past, .keys = keys, .values = values, .out = out,
        .sequence_stride = sequence_stride, .head_stride = head_stride, .out_stride = out_stride,
    };
    if (!tokens) return 0;
    const int64_t mixed = outputs(a, QUERY);
    const int64_t every_bytes = round_up(tokens * 8, 64);
    const int64_t x_bytes = round_up(panel_bytes(&d.x, a->hidden, tokens), 64);
    const int64_t y_bytes = round_up(panel_bytes(&d.y, mixed, tokens), 64);
    const int64_t made_bytes = round_up(tokens * all_outputs(a) * 4, 64);
    const int64_t mixed_bytes = round_up(tokens * mixed * element_bytes(dtype), 64);
    d.scratch_bytes =
        round_up(together(a) * (panel_stride(a->head) + round_up(past + 1, 16)) * 4, 64);
    const int64_t scratch = pool_threads(pool) * d.scratch_bytes;
    pool_lock(pool);
    char *memory = pool_memory(
        pool, (size_t)(every_bytes + x_bytes + y_bytes + made_bytes + mixed_bytes + scratch));
    if (memory) {
        int64_t *every = (int64_t *)(void *)memory;
        for (int64_t t = 0; t < tokens; t++) every[t] = t;
        d.every = every;
        d.x.memory = memory + every_bytes;
        d.y.memory = memory + every_bytes + x_bytes;
        d.made = (float *)(void *)(memory + every_bytes + x_bytes + y_bytes);
        d.mixed = (char *)d.made + made_bytes;
        d.scratch = (char *)d.mixed + mixed_bytes;
        const int64_t tiles = (tokens + TILE - 1) / TILE;
        const Phase phases[] = {
            {gather_x, &d, tiles},
            {project, &d, blocks(outputs(a, QUERY)) + 2 * blocks(outputs(a, KEY))},
            {mix, &d, tokens * a->kv_heads},
            {gather_y, &d, tiles},
            {output, &d, blocks(a->hidden)},
        };
        pool_run(pool, phases, 5);
    }
    pool_unlock(pool);
    return memory ? 0 : -1;
}
