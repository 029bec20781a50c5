/* What this CPU can do, asked of the CPU and of the system. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

const Isa *const isa_all[] = {&isa_amx_bf16, &isa_avx512_bf16, &isa_avx512f,
                              &isa_avx2,     &isa_portable,    NULL};

#if defined(__x86_64__)

enum { LEAF_1_C, LEAF_7_B, LEAF_7_C, LEAF_7_D, LEAF_7_1_A, REGISTERS };

static int has(const unsigned *registers, int which, int bit) {
    return (int)(registers[which] >> bit & 1);
}

/* The register files that the system saves: a CPU's units without them are of no use. */
static uint64_t saved(const unsigned *registers) {
    if (!has(registers, LEAF_1_C, 27)) return 0; /* OSXSAVE */
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux gives AMX's large registers to a process that asks for them, once for all its threads. */
static int tiles_allowed(void) {
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

int isa_runs(const Isa *isa) {
    unsigned r[REGISTERS] = {0}, a, b, c, d;
    if (!isa->dot[F32]) return 0;
    if (isa == &isa_portable) return 1;
#ifdef FIDDLER_EMULATE_AMX
    if (isa == &isa_amx_bf16) return 1;
#endif
    if (__get_cpuid(1, &a, &b, &c, &d)) r[LEAF_1_C] = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        r[LEAF_7_B] = b, r[LEAF_7_C] = c, r[LEAF_7_D] = d;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) r[LEAF_7_1_A] = a;
    const uint64_t kept = saved(r);
    const int avx2 = (kept & 0x6) == 0x6 && has(r, LEAF_1_C, 12) && has(r, LEAF_1_C, 29) &&
                     has(r, LEAF_7_B, 5); /* FMA, F16C, AVX2 */
    if (isa == &isa_avx2) return avx2;
    const int avx512f = avx2 && (kept & 0xe6) == 0xe6 && has(r, LEAF_7_B, 16);
    if (isa == &isa_avx512f) return avx512f;
    const int avx512_bf16 = avx512f && has(r, LEAF_7_B, 30) && has(r, LEAF_7_B, 31) && /* BW, VL */
                            has(r, LEAF_7_1_A, 5);
    if (isa == &isa_avx512_bf16) return avx512_bf16;
    return avx512_bf16 && (kept & 0x60000) == 0x60000 && has(r, LEAF_7_D, 22) &&
           has(r, LEAF_7_D, 24) && tiles_allowed(); /* AMX_BF16, AMX_TILE */
}

#else

int isa_runs(const Isa *isa) {
#ifdef FIDDLER_EMULATE_AMX
    if (isa == &isa_amx_bf16) return 1;
#endif
    return isa == &isa_portable;
}

#endif

/* Denormals cost a hundred cycles each where they occur, and matter to no result. */
uint64_t denormals_off(void) {
#if defined(__x86_64__)
    const uint64_t before = _mm_getcsr();
    _mm_setcsr((unsigned)before | 0x8040); /* flush to zero, denormals are zero */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"(before | 1u << 24));
    return before;
#else
    return 0;
#endif
}

void denormals_restore(uint64_t before) {
#if defined(__x86_64__)
    /* With the exceptions that were raised already: this call's are nobody's. */
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(before));
#else
    (void)before;
#endif
}

/* The name of the best instruction set but `skip` that this machine runs; NULL past the last. */
API const char *fiddler_isa(int64_t skip) {
    for (const Isa *const *each = isa_all; *each; each++)
        if (isa_runs(*each) && skip-- == 0) return (*each)->name;
    return NULL;
}
