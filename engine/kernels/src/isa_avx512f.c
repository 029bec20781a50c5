/* AVX512F: sixteen floats at once. */
#include "kernels.h"
#include "target.h"

#if defined(__x86_64__)

TARGET("avx512f,avx2,fma,f16c")
#include "single512.h"

#include "after.h"
#include "fill.h"
#include "single.h"

const Isa isa_avx512f = {
    .name = "avx512f",
    .dot = {dot_f32, dot_bf16, dot_f16},
    .wide = {wide_f32, wide_bf16, wide_f16},
    .fill = fill,
    .activate = activate,
    .store = store,
    .scatter = scatter,
};

TARGET_END

#else

const Isa isa_avx512f = {.name = "avx512f"};

#endif
