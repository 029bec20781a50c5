/* What every source of the library shares. C11 with pthreads: no Python, no torch, no state but
 * read-only tables. Sizes and strides are in elements unless a name says bytes. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

enum { F32, BF16, F16, DTYPES };
enum { SWISH, GELU, GELU_TANH, RELU, RELU2 }; /* SWISH: g * sigmoid(alpha * g) */

enum {
    GROUP = 16,  /* rows of a weight that one product computes: a tile of AMX */
    SLIVER = 32, /* tokens of one product */
    TILE = 16,   /* tokens of a tile */
    PAD = 128,   /* rows of a panel are zero from their end to a multiple of so many elements */
    WIDE = 512,  /* columns of a transposed weight that one product computes */
    WIDE_TOKENS = 4,
    FEW = 6, /* tokens that quantised weights are multiplied by without keeping their numbers */
    QUANT_GROUP = 128 /* weights that share a scale, where rows can be cut into that many */
};

/* (min(gate, limit) passed through `kind`) * (clamp(up, -limit, limit) + offset) */
typedef struct {
    int32_t kind;
    float alpha, offset, limit;
} Activation;

/* out[row * ld + token] = w[row] . x[token] of `rows` <= GROUP rows and `tokens` <= SLIVER tokens.
 * `x` is a panel: rows padded with zeros. A row of `w` begins `stride` after the one before. */
typedef void Dot(const void *w, int64_t stride, int64_t rows, int64_t k, const void *x,
                 int64_t x_stride, int64_t tokens, float *out, int64_t ld);

/* out[token * ld + column] = sum over k of w[k * stride + column] * x[token * x_stride + k], of
 * `columns` <= 2 * WIDE columns and `tokens` <= WIDE_TOKENS tokens. */
typedef void Wide(const void *w, int64_t stride, int64_t columns, int64_t k, const float *x,
                  int64_t x_stride, int64_t tokens, float *out, int64_t ld);

/* As Dot, for two groups of rows (the second may be absent: rows[1] == 0) and tokens in tiles: see
 * amx_pack. out[group][row][token], groups GROUP * SLIVER apart, a row whole tiles long. `next`: what to fetch ahead, or NULL. */
typedef void Tiles(const uint16_t *const w[2], int64_t stride, const int64_t rows[2], int64_t k,
                   const uint16_t *x, int64_t tokens, float *out, const uint16_t *const next[2]);

/* Rows of a quantised weight: see quant.h. Strides are from row to row. */
typedef struct {
    int64_t bits, group;
    const uint8_t *levels;
    int64_t stride; /* bytes */
    const uint16_t *scales;
    int64_t scale_stride;
} Quant;

/* to[row * ld + i]: their numbers, as bf16 or float. */
typedef void Fill(const Quant *of, int64_t rows, int64_t k, int bf16, void *to, int64_t ld);

/* As Dot, of tokens in bf16: numbers are made in registers and, unless `keep` is NULL, kept there, a
 * row of them `keep_ld` after the one before. More than FEW tokens need that. */
typedef void Few(const Quant *of, int64_t rows, int64_t k, const uint16_t *x, int64_t x_stride,
                 int64_t tokens, float *out, int64_t ld, uint16_t *keep, int64_t keep_ld);

/* One instruction set's functions, by dtype of the weights. */
typedef struct {
    const char *name;
    int native_bf16; /* panels of bf16 weights are bf16; else all panels are float */
    int tiles_from;  /* from so many tokens on, bf16 weights take `tiles`; 0: never */
    int tiles_full;  /* but not where tokens that are not there cost much time, too */
    int narrow;      /* tiles of a few tokens hold no more than half of TILE, or a quarter */
    Dot *dot[DTYPES];
    Wide *wide[DTYPES];
    Tiles *tiles;
    Fill *fill;
    Few *few; /* of groups of QUANT_GROUP; may be NULL */
    void (*activate)(const Activation *, int gated, float *gate, const float *up, int64_t count);
    /* Panels: to[token * stride + at + row] = from[row * ld + token] */
    void (*store)(const float *from, int64_t ld, int64_t rows, int64_t tokens, int bf16, void *to,
                  int64_t stride);
    /* to[token * stride + row] += weight[token] * (from[row * ld + token] + bias[row]) */
    void (*scatter)(const float *from, int64_t ld, int64_t rows, int64_t tokens, const float *bias,
                    const float *weight, const int64_t *token, float *to, int64_t stride);
    void (*thread_begin)(void); /* before a thread's first product of a call */
    void (*thread_end)(void);
} Isa;

/* AMX_BF16's own part: amx.c. */
#if defined(FIDDLER_EMULATE_AMX) || (defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11))
#define HAS_AMX
#endif
Tiles amx_tiles;
void amx_begin(void);
void amx_end(void);
/* Panels in tiles: tile (of `lanes` tokens, of 32 elements) after tile; in a tile, rows of TILE pairs:
 * of each token the next TILE / lanes. Missing elements and tokens are zero. */
void amx_pack(const uint16_t *const *rows, int64_t tokens, int64_t k, int64_t lanes, uint16_t *tile);
void amx_store(const float *from, int64_t ld, int64_t rows, int64_t tokens, int64_t at, int64_t k,
               int64_t lanes, void *to);
enum { TILE_K = 32, TILE_ELEMENTS = TILE * TILE_K };

extern const Isa isa_portable, isa_avx2, isa_avx512f, isa_avx512_bf16, isa_amx_bf16;

/* The instruction sets in order, best first, NULL at the end; and whether this machine runs one. */
extern const Isa *const isa_all[];
int isa_runs(const Isa *isa);

/* Denormals count as zero between the two, on this thread. */
uint64_t denormals_off(void);
void denormals_restore(uint64_t before);

INLINE int64_t element_bytes(int dtype) { return dtype == F32 ? 4 : 2; }
INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE float bits_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
INLINE uint32_t float_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

INLINE float from_bf16(uint16_t value) { return bits_float((uint32_t)value << 16); }

/* Nearest, ties to even; NaN stays NaN. */
INLINE uint16_t to_bf16(float value) {
    const uint32_t bits = float_bits(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
}

INLINE float from_f16(uint16_t value) {
    const uint32_t sign = (uint32_t)(value & 0x8000) << 16, rest = value & 0x7fff;
    const uint32_t normal = (rest << 13) + (112u << 23), special = 0x7f800000 | rest << 13;
    const uint32_t denormal = float_bits((float)(int32_t)rest * 0x1p-24f);
    return bits_float(sign | (rest >= 0x7c00 ? special : rest >= 0x0400 ? normal : denormal));
}

INLINE uint16_t to_f16(float value) { /* nearest, ties to even */
    const uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) /* denormal: adding 0.5 leaves its multiples of 2^-24 at the end */
        return (uint16_t)(sign | (float_bits(bits_float(rest) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13));
}

INLINE float from_any(int dtype, const void *from, int64_t at) {
    if (dtype == F32) return ((const float *)from)[at];
    const uint16_t value = ((const uint16_t *)from)[at];
    return dtype == BF16 ? from_bf16(value) : from_f16(value);
}

/* ------------------------------------------------------------------------------------- threads */

typedef struct Pool Pool;

/* GOMP_parallel of an OpenMP runtime: calls the function once on each of so many threads, the
 * caller's among them, and returns when all have. It may take fewer. */
typedef void Team(void (*function)(void *), void *argument, unsigned threads, unsigned flags);

/* Work of one phase: units `from` to `to` (exclusive), by one of the pool's threads. */
typedef void Work(void *context, int64_t from, int64_t to, int thread);

typedef struct {
    Work *work;
    void *context;
    int64_t units;
} Phase;

/* Run phases one after the other, each on all threads; the caller is thread 0. Holds the pool. */
void pool_run(Pool *pool, const Phase *phases, int64_t count);
/* The same on the caller's thread alone: what is done sooner than others wake. */
void pool_run_alone(Pool *pool, const Phase *phases, int64_t count);
int pool_threads(const Pool *pool);
const Isa *pool_isa(const Pool *pool);
void pool_lock(Pool *pool);
void pool_unlock(Pool *pool);
/* Memory of the pool's, at least so large, valid until the next call; NULL where there is none. */
void *pool_memory(Pool *pool, size_t bytes);

#endif
