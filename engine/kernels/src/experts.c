/* Experts of one layer on their tokens, added to the result: two passes over weights, each read
 * once, with all experts of a pass shared out to the threads together. The second pass gives a
 * thread the same rows of all experts, in their order: who adds to a row of the result is one
 * thread, and the sum is the same whatever the number of threads. */
#include <math.h>
#include <time.h>

#include "experts.h"
#include "panel.h"
#include "quant.h"

enum {
    SEGMENT = 1024,      /* tokens of an expert that pass together */
    MOST_BLOCKS = 4,     /* blocks of rows that share tokens while those are in a cache */
    BATCH_BYTES = 64 << 20 /* panels of what passes together */
};

typedef struct {
    const FiddlerExpert *expert;
    int64_t n;
    const int64_t *token;
    const float *weight;
    Panel x, h;
    int64_t gather_first, up_first; /* units of the segments before it */
} Segment;

typedef struct {
    const FiddlerLayer *layer;
    const Isa *isa;
    Activation activation;
    const void *x;
    int64_t x_stride;
    float *out;
    int64_t out_stride;
    Segment *segments;
    int64_t count;
    int64_t blocks;          /* of a unit */
    int64_t columns;         /* of a unit, where weights are transposed */
    int64_t bytes;           /* of an element; of a quantised weight's strides, 1 */
    char *numbers;           /* of quantised weights: a block's after the other, by thread */
    int64_t numbers_bytes;   /* of a block */
    const FiddlerExpert *experts;
    int64_t *spent;          /* ns, by thread, then expert: in lines of their own */
    int64_t spent_stride;
} Batch;

static int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What a thread did since `from` was for this segment's expert; returns the time it is. */
static int64_t spend(const Batch *batch, int thread, const Segment *s, int64_t from) {
    const int64_t now = clock_ns();
    batch->spent[thread * batch->spent_stride + (s->expert - batch->experts)] += now - from;
    return now;
}

static const void *element(const Batch *batch, const void *from, int64_t at) {
    return (const char *)from + at * batch->bytes;
}

static void biases(const Batch *batch, const void *from, int64_t at, int64_t step, int64_t rows,
                   float *to) {
    for (int64_t r = 0; r < rows; r++)
        to[r] = from ? from_any((int)batch->layer->dtype, from, at + r * step) : 0;
}

static void add_bias(float *out, int64_t ld, int64_t rows, const float *bias) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < ld; t++) out[r * ld + t] += bias[r];
}

/* -------------------------------------------------------------------------------------- gathering */

static const Segment *segment_of(const Batch *batch, int64_t unit, int gather) {
    const Segment *found = batch->segments;
    for (const Segment *s = found; s < batch->segments + batch->count; s++)
        if ((gather ? s->gather_first : s->up_first) <= unit) found = s;
    return found;
}

static void gather(void *context, int64_t from, int64_t to, int thread) {
    const Batch *batch = context;
    const FiddlerLayer *layer = batch->layer;
    (void)thread;
    for (int64_t unit = from; unit < to; unit++) {
        const Segment *s = segment_of(batch, unit, 1);
        const int64_t first = (unit - s->gather_first) * TILE, last = least(s->n, first + TILE);
        panel_gather(&s->x, layer->hidden, first, last, (int)layer->dtype, batch->x,
                     batch->x_stride, s->token);
        panel_clear_ends(&s->h, layer->intermediate, first, last);
    }
}

/* --------------------------------------------------------------------------------- rows as stored */

/* Memory for the numbers of a thread's block of rows, which it keeps from token to token. */
static void *numbers(const Batch *batch, int thread, int64_t block) {
    return batch->numbers + (thread * MOST_BLOCKS + block) * batch->numbers_bytes;
}

/* `base`: where the weight begins of which these are rows; `row_stride`: of its own rows. */
static int64_t product(const Batch *batch, const Segment *s, const Panel *panel, const void *base,
                       const uint16_t *scales, int64_t row_stride, const void *const w[2],
                       const void *const next[2], int64_t stride, const int64_t rows[2], int64_t k,
                       int64_t token, int64_t tokens, float *out, void *kept) {
    const FiddlerLayer *layer = batch->layer;
    if (!layer->bits)
        return multiply(batch->isa, (int)layer->dtype, panel, w, next, stride, rows, k, token,
                        tokens, out);
    const int64_t groups = k / layer->group;
    Quant of[2];
    for (int i = 0; i < 2; i++) {
        const int64_t row = rows[i] ? ((const char *)w[i] - (const char *)base) / row_stride : 0;
        of[i] = (Quant){layer->bits, layer->group, w[i], stride, scales + row * groups,
                        stride / row_stride * groups};
    }
    return quant_multiply(batch->isa, panel, of, rows, k, token, tokens, s->n, out, kept);
}

/* The rows of `up` that make rows [at, at + GROUP) of the activation: of the gate, and of up. */
static int64_t up_rows(const Batch *batch, const Segment *s, int64_t at, const void *w[2],
                       int64_t rows[2]) {
    const FiddlerLayer *layer = batch->layer;
    const int64_t stride = s->expert->up_stride, step = layer->interleaved ? 2 : 1;
    const int64_t up = layer->interleaved ? 1 : layer->intermediate;
    rows[0] = least(GROUP, layer->intermediate - at);
    rows[1] = layer->gated ? rows[0] : 0;
    w[0] = element(batch, s->expert->up, at * step * stride);
    w[1] = layer->gated ? element(batch, s->expert->up, (at * step + up) * stride) : NULL;
    return stride * step;
}

static void up_block(const Batch *batch, const Segment *s, int64_t at, int64_t token,
                     void *kept) {
    const FiddlerLayer *layer = batch->layer;
    const int64_t inner = layer->intermediate, tokens = least(SLIVER, s->n - token);
    const int64_t step = layer->interleaved ? 2 : 1, up = layer->interleaved ? 1 : inner;
    float out[2 * GROUP * SLIVER] __attribute__((aligned(64)));
    float bias[GROUP];
    const void *w[2], *next[2] = {NULL, NULL};
    int64_t rows[2], unused[2];
    const int64_t stride = up_rows(batch, s, at, w, rows);
    if (at + GROUP < inner) up_rows(batch, s, at + GROUP, next, unused);
    const int64_t ld = product(batch, s, &s->x, s->expert->up, s->expert->up_scales,
                               s->expert->up_stride, w, token ? NULL : next, stride, rows,
                               layer->hidden, token, tokens, out, kept);
    float *other = out + GROUP * SLIVER;
    if (s->expert->up_bias) {
        biases(batch, s->expert->up_bias, at * step, step, rows[0], bias);
        add_bias(out, ld, rows[0], bias);
        biases(batch, s->expert->up_bias, at * step + up, step, rows[1], bias);
        add_bias(other, ld, rows[1], bias);
    }
    batch->isa->activate(&batch->activation, (int)layer->gated, out, other, rows[0] * ld);
#ifdef HAS_AMX
    if (s->h.tiled) {
        amx_store(out, ld, rows[0], tokens, at, inner, tile_lanes(s->h.narrow, tokens),
                  (void *)panel_at(&s->h, inner, token));
        return;
    }
#endif
    const int64_t wide = panel_stride(inner);
    char *to = (char *)s->h.memory + (token * wide + at) * (s->h.bf16 ? 2 : 4);
    batch->isa->store(out, ld, rows[0], tokens, s->h.bf16, to, wide);
}

static void up(void *context, int64_t from, int64_t to, int thread) {
    const Batch *batch = context;
    const int64_t blocks = (batch->layer->intermediate + GROUP - 1) / GROUP;
    int64_t time = clock_ns();
    for (int64_t unit = from; unit < to; unit++) {
        const Segment *s = segment_of(batch, unit, 0);
        const int64_t first = (unit - s->up_first) * batch->blocks;
        const int64_t last = least(blocks, first + batch->blocks);
        for (int64_t token = 0; token < s->n; token += SLIVER)
            for (int64_t b = first; b < last; b++)
                up_block(batch, s, b * GROUP, token, numbers(batch, thread, b - first));
        time = spend(batch, thread, s, time);
    }
}

static void down_rows(const Batch *batch, const Segment *s, int64_t at, const void *w[2],
                      int64_t rows[2]) {
    const int64_t left = batch->layer->hidden - at;
    rows[0] = least(GROUP, left);
    rows[1] = left > GROUP ? least(GROUP, left - GROUP) : 0;
    w[0] = element(batch, s->expert->down, at * s->expert->down_stride);
    w[1] = rows[1] ? element(batch, s->expert->down, (at + GROUP) * s->expert->down_stride) : NULL;
}

/* `then`, `then_at`: what comes next; NULL: nothing. */
static void down_block(const Batch *batch, const Segment *s, int64_t at, int64_t token,
                       const Segment *then, int64_t then_at, void *kept) {
    const FiddlerLayer *layer = batch->layer;
    const int64_t tokens = least(SLIVER, s->n - token);
    float out[2 * GROUP * SLIVER] __attribute__((aligned(64)));
    float bias[GROUP];
    const void *w[2], *next[2] = {NULL, NULL};
    int64_t rows[2], unused[2];
    down_rows(batch, s, at, w, rows);
    if (then && then_at < layer->hidden) down_rows(batch, then, then_at, next, unused);
    for (int64_t t = 0; t < tokens; t++) /* of many tokens the result is in no cache */
        for (int i = 0; i < 2; i++)
            __builtin_prefetch(batch->out + s->token[token + t] * batch->out_stride + at + i * GROUP,
                               1, 2);
    const int64_t stride = s->expert->down_stride;
    const int64_t ld = product(batch, s, &s->h, s->expert->down, s->expert->down_scales, stride, w,
                               next, stride, rows, layer->intermediate, token, tokens, out, kept);
    for (int i = 0; i < 2; i++) {
        const int64_t row = at + i * GROUP;
        biases(batch, s->expert->down_bias, row, 1, rows[i], bias);
        batch->isa->scatter(out + i * GROUP * SLIVER, ld, rows[i], tokens, bias, s->weight + token,
                            s->token + token, batch->out + row, batch->out_stride);
    }
}

static void down(void *context, int64_t from, int64_t to, int thread) {
    const Batch *batch = context;
    const int64_t blocks = (batch->layer->hidden + 2 * GROUP - 1) / (2 * GROUP);
    int64_t time = clock_ns();
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t first = unit * batch->blocks, last = least(blocks, first + batch->blocks);
        const Segment *end = batch->segments + batch->count;
        for (const Segment *s = batch->segments; s < end; s++) {
            for (int64_t token = 0; token < s->n; token += SLIVER)
                for (int64_t b = first; b < last; b++) {
                    /* the next rows, the same again for more tokens, or another expert's */
                    const int rows = b + 1 < last, again = token + SLIVER < s->n;
                    const Segment *then = rows || again ? s : s + 1 < end ? s + 1 : batch->segments;
                    const int64_t at = rows ? b + 1 : then <= s && !again ? last : first;
                    down_block(batch, s, b * 2 * GROUP, token, then, at * 2 * GROUP,
                               numbers(batch, thread, b - first));
                }
            time = spend(batch, thread, s, time);
        }
    }
}

/* ------------------------------------------------------------------------------------- transposed */

static void up_wide(void *context, int64_t from, int64_t to, int thread) {
    const Batch *batch = context;
    const FiddlerLayer *layer = batch->layer;
    const int64_t inner = layer->intermediate, k = layer->hidden, wide = panel_stride(k);
    const int64_t step = layer->interleaved ? 2 : 1, other = layer->interleaved ? 1 : inner;
    int64_t time = clock_ns();
    for (int64_t unit = from; unit < to; unit++) {
        const Segment *s = segment_of(batch, unit, 0);
        const FiddlerExpert *e = s->expert;
        Wide *product = batch->isa->wide[layer->dtype];
        const int64_t at = (unit - s->up_first) * batch->columns;
        const int64_t columns = least(batch->columns, inner - at);
        for (int64_t token = 0; token < s->n; token += WIDE_TOKENS) {
            const int64_t tokens = least(WIDE_TOKENS, s->n - token);
            const float *x = panel_at(&s->x, k, token);
            float gate[WIDE_TOKENS * 2 * WIDE], ups[WIDE_TOKENS * WIDE];
            const int64_t ld = layer->interleaved ? 2 * WIDE : WIDE;
            product(element(batch, e->up, at * step), e->up_stride, columns * step, k, x, wide,
                    tokens, gate, ld);
            if (layer->gated && !layer->interleaved)
                product(element(batch, e->up, at + inner), e->up_stride, columns, k, x, wide,
                        tokens, ups, WIDE);
            for (int64_t t = 0; t < tokens; t++) {
                float *g = gate + t * ld, *u = ups + t * WIDE;
                if (layer->interleaved)
                    for (int64_t c = 0; c < columns; c++) u[c] = g[2 * c + 1], g[c] = g[2 * c];
                for (int64_t c = 0; e->up_bias && c < columns; c++) {
                    g[c] += from_any((int)layer->dtype, e->up_bias, (at + c) * step);
                    if (layer->gated)
                        u[c] += from_any((int)layer->dtype, e->up_bias, (at + c) * step + other);
                }
                batch->isa->activate(&batch->activation, (int)layer->gated, g, u, columns);
                __builtin_memcpy((float *)s->h.memory + (token + t) * panel_stride(inner) + at, g,
                                 (size_t)columns * sizeof *g);
            }
        }
        time = spend(batch, thread, s, time);
    }
}

static void down_wide(void *context, int64_t from, int64_t to, int thread) {
    const Batch *batch = context;
    const FiddlerLayer *layer = batch->layer;
    const int64_t k = layer->intermediate;
    int64_t time = clock_ns();
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t at = unit * batch->columns, columns = least(batch->columns, layer->hidden - at);
        for (const Segment *s = batch->segments; s < batch->segments + batch->count; s++) {
            const FiddlerExpert *e = s->expert;
            for (int64_t token = 0; token < s->n; token += WIDE_TOKENS) {
                const int64_t tokens = least(WIDE_TOKENS, s->n - token);
                float y[WIDE_TOKENS * WIDE], bias[WIDE];
                batch->isa->wide[layer->dtype](element(batch, e->down, at), e->down_stride, columns,
                                               k, panel_at(&s->h, k, token), panel_stride(k),
                                               tokens, y, WIDE);
                biases(batch, e->down_bias, at, 1, columns, bias);
                for (int64_t t = 0; t < tokens; t++) {
                    float *row = batch->out + s->token[token + t] * batch->out_stride + at;
                    const float by = s->weight[token + t];
                    for (int64_t c = 0; c < columns; c++)
                        row[c] += by * (y[t * WIDE + c] + bias[c]);
                }
            }
            time = spend(batch, thread, s, time);
        }
    }
}

/* ---------------------------------------------------------------------------------------- calling */

static void run(Pool *pool, Batch *batch) {
    const FiddlerLayer *layer = batch->layer;
    const int64_t threads = pool_threads(pool);
    int64_t gathers = 0, most = 0, ups = 0;
    for (Segment *s = batch->segments; s < batch->segments + batch->count; s++) {
        s->gather_first = gathers, gathers += (s->n + TILE - 1) / TILE;
        most = s->n > most ? s->n : most;
    }
    /* As many units as keep the threads busy to the end; of many tokens, more rows together. */
    const int64_t down_blocks = (layer->hidden + 2 * GROUP - 1) / (2 * GROUP);
    batch->blocks = 1;
    while (most > SLIVER && batch->blocks < MOST_BLOCKS &&
           down_blocks / (2 * batch->blocks) >= 8 * threads)
        batch->blocks *= 2;
    batch->columns = least(WIDE, round_up(layer->hidden / (4 * threads) + 1, 64));
    const int64_t wide = layer->transposed ? batch->columns : batch->blocks * GROUP;
    for (Segment *s = batch->segments; s < batch->segments + batch->count; s++)
        s->up_first = ups, ups += (layer->intermediate + wide - 1) / wide;
    const int64_t downs = layer->transposed
                              ? (layer->hidden + wide - 1) / wide
                              : (down_blocks + batch->blocks - 1) / batch->blocks;
    const Phase phases[] = {
        {gather, batch, gathers},
        {layer->transposed ? up_wide : up, batch, ups},
        {layer->transposed ? down_wide : down, batch, downs},
    };
    pool_run(pool, phases, 3);
}

typedef struct {
    const FiddlerLayer *layer;
    const Isa *isa;
} Form;

/* Panels of a segment; its memory comes later. */
static void shape(const Form *form, Segment *s) {
    const FiddlerLayer *layer = form->layer;
    const Isa *isa = form->isa;
    /* Quantised weights of a few tokens are multiplied in registers, by `few`. */
    const int suits = suits_tiles(isa, s->n) && (!layer->bits || !isa->few || s->n > TILE);
    const int wanted = layer->tiles_from ? isa->tiles && s->n >= layer->tiles_from : suits;
    const int tiled = layer->dtype == BF16 && !layer->transposed && wanted;
    s->x = s->h = panel_of(isa, layer->transposed ? F32 : (int)layer->dtype, tiled);
}

static int64_t segment_bytes(const Form *form, const Segment *s) {
    return round_up(panel_bytes(&s->x, form->layer->hidden, s->n), 64) +
           round_up(panel_bytes(&s->h, form->layer->intermediate, s->n), 64);
}

/* Adds the experts' outputs to `out` (float, rows of `hidden`). 0, or -1 where memory is lacking.
 * Experts' tokens are indices of rows of x and out; an expert may have none. `spent`: of each expert
 * the ns that threads worked on it, added up. */
API int64_t fiddler_experts(Pool *pool, const FiddlerLayer *layer, const FiddlerExpert *experts,
                            int64_t count, const void *x, int64_t x_stride, float *out,
                            int64_t out_stride, int64_t *spent) {
    const Isa *isa = pool_isa(pool);
    const Form form = {layer, isa};
    const double limit = layer->limit > 0 ? layer->limit : (double)INFINITY;
    Batch batch = {
        .layer = layer,
        .isa = isa,
        .activation = {(int32_t)layer->activation, (float)layer->alpha, (float)layer->offset,
                       (float)limit},
        .x = x,
        .x_stride = x_stride,
        .out = out,
        .out_stride = out_stride,
        .bytes = layer->bits ? 1 : element_bytes((int)layer->dtype),
        .experts = experts,
        .spent_stride = round_up(count, 8),
    };
    int64_t segments = 0, most = 0, most_bytes = 0, all = 0;
    for (int64_t e = 0; e < count; e++) {
        most = experts[e].count > most ? experts[e].count : most;
        for (int64_t t = 0; t < experts[e].count; t += SEGMENT, segments++) {
            Segment s = {.n = least(SEGMENT, experts[e].count - t)};
            shape(&form, &s);
            const int64_t bytes = segment_bytes(&form, &s);
            most_bytes = bytes > most_bytes ? bytes : most_bytes;
            all += bytes;
            if (layer->bits && !quant_in_registers(isa, &s.x, layer->group, s.n)) {
                const int64_t k =
                    layer->hidden > layer->intermediate ? layer->hidden : layer->intermediate;
                const int64_t block = round_up(quant_bytes(k, s.x.bf16), 64);
                batch.numbers_bytes = block > batch.numbers_bytes ? block : batch.numbers_bytes;
            }
        }
    }
    for (int64_t e = 0; e < count; e++) spent[e] = 0;
    if (!segments) return 0;
    const int64_t room = all < BATCH_BYTES ? all : most_bytes < BATCH_BYTES ? BATCH_BYTES : most_bytes;
    const int64_t list_bytes = round_up(segments * (int64_t)sizeof(Segment), 64);
    const int64_t tokens_bytes = round_up(most * 8, 64), ones_bytes = round_up(most * 4, 64);
    const int64_t times = pool_threads(pool) * batch.spent_stride;
    const int64_t kept_bytes = pool_threads(pool) * MOST_BLOCKS * batch.numbers_bytes;
    pool_lock(pool);
    char *memory = pool_memory(
        pool, (size_t)(list_bytes + tokens_bytes + ones_bytes + times * 8 + kept_bytes + room));
    if (!memory) {
        pool_unlock(pool);
        return -1;
    }
    Segment *list = (Segment *)(void *)memory;
    int64_t *every = (int64_t *)(void *)(memory + list_bytes);
    float *ones = (float *)(void *)(memory + list_bytes + tokens_bytes);
    batch.spent = (int64_t *)(void *)(memory + list_bytes + tokens_bytes + ones_bytes);
    for (int64_t t = 0; t < times; t++) batch.spent[t] = 0;
    batch.numbers = (char *)(batch.spent + times);
    char *panels = batch.numbers + kept_bytes;
    for (int64_t t = 0; t < most; t++) every[t] = t, ones[t] = 1;
    int64_t used = 0;
    batch.segments = list, batch.count = 0;
    for (int64_t e = 0; e < count; e++)
        for (int64_t t = 0; t < experts[e].count; t += SEGMENT) {
            const FiddlerExpert *expert = &experts[e];
            Segment s = {
                .expert = expert,
                .n = least(SEGMENT, expert->count - t),
                .token = (expert->tokens ? expert->tokens : every) + t,
                .weight = (expert->weights ? expert->weights : ones) + t,
            };
            shape(&form, &s);
            const int64_t bytes = segment_bytes(&form, &s);
            if (used + bytes > room) {
                run(pool, &batch);
                used = 0, batch.count = 0;
            }
            s.x.memory = panels + used;
            s.h.memory = panels + used + round_up(panel_bytes(&s.x, layer->hidden, s.n), 64);
            used += bytes;
            list[batch.count++] = s;
        }
    run(pool, &batch);
    for (int64_t t = 0; t < times; t++)
        if (t % batch.spent_stride < count) spent[t % batch.spent_stride] += batch.spent[t];
    pool_unlock(pool);
    return 0;
}
