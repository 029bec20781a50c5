/* AVX512_BF16: thirty-two products of bf16 at once. Other dtypes as in AVX512F. */
#include "panel.h"
#include "target.h"

#if defined(__x86_64__)

TARGET("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")
#include "single512.h"

#define OWN_BF16
#include "after.h"
#include "fill.h"
#include "single.h"

INLINE __m512bh load_pairs(const uint16_t *p) { return (__m512bh)_mm512_loadu_si512(p); }

#define NAME dot_pairs
#define WEIGHT uint16_t
#define PANEL uint16_t
#define STEP 32
#define VEC_W __m512bh
#define LOAD_W(p) load_pairs(p)
#define LOAD_X(p) load_pairs(p)
#define MAC(acc, w, x) _mm512_dpbf16_ps(acc, w, x)
#include "dot.h"
#include "few512.h"
#ifdef HAS_AMX
#include "pairs512.h"
#endif

const Isa isa_avx512_bf16 = {
    .name = "avx512_bf16",
    .native_bf16 = 1,
    .dot = {dot_f32, dot_pairs, dot_f16},
    .wide = {wide_f32, wide_bf16, wide_f16},
#ifdef HAS_AMX
    .tiles = pairs,
    .tiles_from = 7,
    .tiles_full = 1,
    .narrow = 1,
#endif
    .fill = fill_few,
    .few = few,
    .activate = activate,
    .store = store,
    .scatter = scatter,
};

#if defined(HAS_AMX) && !defined(FIDDLER_EMULATE_AMX)
/* A few tokens wait for memory in either; a tile multiplies sixteen in the time of one. */
const Isa isa_amx_bf16 = {
    .name = "amx_bf16",
    .native_bf16 = 1,
    .tiles_from = 4,
    .dot = {dot_f32, dot_pairs, dot_f16},
    .wide = {wide_f32, wide_bf16, wide_f16},
    .tiles = amx_tiles,
    .fill = fill_few,
    .few = few,
    .activate = activate,
    .store = store,
    .scatter = scatter,
    .thread_begin = amx_begin,
    .thread_end = amx_end,
};
#endif

TARGET_END

#else

const Isa isa_avx512_bf16 = {.name = "avx512_bf16"};

#endif
