/* Any CPU: vectors of four, which gcc and clang turn into what there is. */
#include "kernels.h"

#include "after.h"
#include "fill.h"

typedef float V4 __attribute__((vector_size(16)));
typedef uint32_t U4 __attribute__((vector_size(16)));
typedef uint16_t H4 __attribute__((vector_size(8)));

INLINE V4 load_f32(const float *p) {
    V4 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

INLINE V4 load_bf16(const uint16_t *p) {
    H4 h;
    __builtin_memcpy(&h, p, sizeof h);
    return (V4)(__builtin_convertvector(h, U4) << 16);
}

INLINE V4 load_f16(const uint16_t *p) {
    return (V4){from_f16(p[0]), from_f16(p[1]), from_f16(p[2]), from_f16(p[3])};
}

#define VEC V4
#define LANES 4
#define ZERO() ((V4){0, 0, 0, 0})
#define ADD(a, b) ((a) + (b))
#define SUM(v) (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))
#define LOAD_F(p) load_f32(p)
#define STORE_F(p, v) __builtin_memcpy(p, &(v), sizeof(V4))
#define SPREAD(x) ((V4){(x), (x), (x), (x)})
#define FMA(acc, w, x) ((acc) + (w) * (x))
#define MOST_ROWS 2
#define MOST_TOKENS 4
#include "single.h"

const Isa isa_portable = {
    .name = "portable",
    .dot = {dot_f32, dot_bf16, dot_f16},
    .wide = {wide_f32, wide_bf16, wide_f16},
    .fill = fill,
    .activate = activate,
    .store = store,
    .scatter = scatter,
};

#if defined(FIDDLER_EMULATE_AMX)
const Isa isa_amx_bf16 = {
    .name = "amx_bf16",
    .tiles_from = 1,
    .dot = {dot_f32, dot_bf16, dot_f16},
    .wide = {wide_f32, wide_bf16, wide_f16},
    .tiles = amx_tiles,
    .fill = fill,
    .activate = activate,
    .store = store,
    .scatter = scatter,
    .thread_begin = amx_begin,
    .thread_end = amx_end,
};
#elif !defined(HAS_AMX)
const Isa isa_amx_bf16 = {.name = "amx_bf16"};
#endif
