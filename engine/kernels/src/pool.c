/* Threads that wait for work, asleep after a moment, and share it out unit by unit.
 *
 * A run is a list of phases; each thread has a share of the units of the phase at hand, claims some
 * of it at a time, one after the other as they lie in memory, and then takes half of what another
 * has left, from its end. Who finishes a phase's last unit opens the next. So nobody waits for a
 * thread that the system has not woken yet, and one that comes late helps with what is left.
 * Results do not depend on who computes a unit: a unit's sums are its own.
 *
 * Where the caller's other work runs on an OpenMP team, a pool borrows that team and has no threads
 * of its own: the team's threads stay awake for milliseconds after their work, on the very cores
 * that others would want. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#endif

enum {
    SPIN_NS = 10000, /* awake within a call */
    IDLE_NS = 100000 /* and after one: a layer's next comes soon, and waking takes about as long */
};

enum { UNIT_BITS = 24, UNITS = (1 << UNIT_BITS) - 1 }; /* of a phase: most */

/* What a thread has not claimed: phase << 2 * UNIT_BITS | from << UNIT_BITS | to. In a line of its
 * own. Units of an empty share come back by its own thread alone. */
typedef struct {
    _Atomic uint64_t left;
    char apart[64 - sizeof(uint64_t)];
} Share;

struct Pool {
    const Isa *isa;
    Team *team; /* NULL: threads of our own */
    pid_t owner; /* the process whose threads these are: a forked child has none of them */
    int threads;
    int *cores; /* of each thread; NULL: wherever the system likes */
    pthread_t *workers;
    void *memory;
    size_t memory_bytes;
    pthread_mutex_t lock; /* one call at a time */

    pthread_mutex_t sleep; /* where there is no futex */
    pthread_cond_t woken;

    _Atomic uint32_t asleep; /* threads that are, or are about to be: else nobody needs waking */
    _Atomic uint32_t calls; /* workers sleep while it stays what it is */
    _Atomic uint32_t inside; /* workers in the call at hand */
    _Atomic uint32_t step;   /* the phase at hand: who has nothing to claim sleeps on it */
    _Atomic int open, stop;
    _Atomic int joined; /* of the team, in the call at hand */
    const Phase *phases;
    int64_t count;
    _Atomic int64_t phase; /* the same as step */
    _Atomic int64_t done;  /* units of the phase that are finished */
    Share *shares;         /* by thread */
};

typedef struct {
    Pool *pool;
    int number;
} Worker;

/* -------------------------------------------------------------------------------------- sleeping */

#if defined(__linux__)
static void sleep_while(Pool *pool, _Atomic uint32_t *word, uint32_t value) {
    atomic_fetch_add(&pool->asleep, 1);
    while (atomic_load(word) == value)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&pool->asleep, 1);
}
static void wake_all(Pool *pool, _Atomic uint32_t *word) {
    if (atomic_load(&pool->asleep)) /* the word was changed before: who comes later sees it */
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
#else
static void sleep_while(Pool *pool, _Atomic uint32_t *word, uint32_t value) {
    pthread_mutex_lock(&pool->sleep);
    while (atomic_load(word) == value) pthread_cond_wait(&pool->woken, &pool->sleep);
    pthread_mutex_unlock(&pool->sleep);
}
static void wake_all(Pool *pool, _Atomic uint32_t *word) {
    (void)word;
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_broadcast(&pool->woken);
    pthread_mutex_unlock(&pool->sleep);
}
#endif

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Until the word is no longer `value`: some microseconds awake, then asleep. */
static void wait_while(Pool *pool, _Atomic uint32_t *word, uint32_t value, int64_t awake_ns) {
    const int64_t until = now_ns() + awake_ns;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load(word) != value) return;
            relax();
        }
    } while (now_ns() < until);
    sleep_while(pool, word, value);
}

/* --------------------------------------------------------------------------------------- working */

static uint64_t share(int64_t phase, int64_t from, int64_t to) {
    return (uint64_t)phase << 2 * UNIT_BITS | (uint64_t)from << UNIT_BITS | (uint64_t)to;
}

static void open_phase(Pool *pool, int64_t phase) {
    while (phase < pool->count && pool->phases[phase].units == 0) phase++;
    atomic_store(&pool->done, 0);
    const int64_t units = phase < pool->count ? pool->phases[phase].units : 0;
    for (int64_t t = 0; t < pool->threads; t++)
        atomic_store(&pool->shares[t].left, share(phase, units * t / pool->threads,
                                                  units * (t + 1) / pool->threads));
    atomic_store(&pool->phase, phase);
    atomic_store(&pool->step, (uint32_t)phase);
}

/* What a share has left; 0 where that is nothing, or of another phase. */
static int64_t has_left(uint64_t left, int64_t phase, int64_t *from) {
    if ((int64_t)(left >> 2 * UNIT_BITS) != phase) return 0;
    *from = (int64_t)(left >> UNIT_BITS) & UNITS;
    return ((int64_t)left & UNITS) - *from;
}

/* The next units of a thread's own share; returns how many. */
static int64_t claim(Pool *pool, int number, int64_t phase, int64_t *from) {
    Share *own = &pool->shares[number];
    uint64_t left = atomic_load(&own->left);
    for (int64_t n; (n = has_left(left, phase, from)) > 0;) {
        const int64_t some = n > 4 ? n / 4 : 1;
        if (atomic_compare_exchange_weak(&own->left, &left, share(phase, *from + some, *from + n)))
            return some;
    }
    return 0;
}

/* Half of what another thread has left becomes this one's; 0 where nobody has any. */
static int take_over(Pool *pool, int number, int64_t phase) {
    for (int i = 1; i < pool->threads; i++) {
        Share *other = &pool->shares[(number + i) % pool->threads];
        uint64_t left = atomic_load(&other->left);
        int64_t from;
        for (int64_t n; (n = has_left(left, phase, &from)) > 0;) {
            const int64_t kept = n / 2;
            if (!atomic_compare_exchange_weak(&other->left, &left, share(phase, from, from + kept)))
                continue;
            atomic_store(&pool->shares[number].left, share(phase, from + kept, from + n));
            return 1;
        }
    }
    return 0;
}

/* Takes part from the phase at hand to the last. */
static void take_part(Pool *pool, int number) {
    const uint64_t denormals = denormals_off();
    if (pool->isa->thread_begin) pool->isa->thread_begin();
    for (;;) {
        const int64_t phase = atomic_load(&pool->phase);
        if (phase >= pool->count) break;
        int64_t from = 0;
        const int64_t some = claim(pool, number, phase, &from);
        if (!some) {
            if (!take_over(pool, number, phase))
                wait_while(pool, &pool->step, (uint32_t)phase, SPIN_NS);
            continue;
        }
        const Phase *of = &pool->phases[phase];
        of->work(of->context, from, from + some, number);
        if (atomic_fetch_add(&pool->done, some) + some == of->units) {
            open_phase(pool, phase + 1);
            if (pool->threads > 1) wake_all(pool, &pool->step);
        }
    }
    if (pool->isa->thread_end) pool->isa->thread_end();
    denormals_restore(denormals);
}

void pool_run_alone(Pool *pool, const Phase *phases, int64_t count) {
    const uint64_t denormals = denormals_off();
    if (pool->isa->thread_begin) pool->isa->thread_begin();
    for (int64_t i = 0; i < count; i++) phases[i].work(phases[i].context, 0, phases[i].units, 0);
    if (pool->isa->thread_end) pool->isa->thread_end();
    denormals_restore(denormals);
}

static void pin(const Pool *pool, int number) {
#if defined(__linux__)
    if (!pool->cores) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)pool->cores[number], &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* refused: it runs where it may */
#else
    (void)pool, (void)number;
#endif
}

static void *worker(void *argument) {
    const Worker self = *(Worker *)argument;
    free(argument);
    Pool *pool = self.pool;
    pin(pool, self.number);
    for (uint32_t seen = 0;;) {
        wait_while(pool, &pool->calls, seen, seen ? IDLE_NS : 0);
        seen = atomic_load(&pool->calls);
        if (atomic_load(&pool->stop)) return NULL;
        atomic_fetch_add(&pool->inside, 1); /* first in, then look: the call cannot end between */
        if (atomic_load(&pool->open)) take_part(pool, self.number);
        if (atomic_fetch_sub(&pool->inside, 1) == 1) wake_all(pool, &pool->inside);
    }
}

static void join(void *argument) {
    Pool *pool = argument;
    take_part(pool, atomic_fetch_add(&pool->joined, 1));
}

/* The caller's thread is not ours to pin. Where it sits on a worker's core, it moves to its own for
 * the time of the call: the system would be milliseconds late. Returns whether it did. */
#if defined(__linux__)
static int step_aside(const Pool *pool, cpu_set_t *usual) {
    if (!pool->cores || pool->threads < 2) return 0;
    const int here = sched_getcpu();
    int taken = 0;
    for (int i = 1; i < pool->threads; i++) taken |= pool->cores[i] == here;
    if (!taken || pthread_getaffinity_np(pthread_self(), sizeof *usual, usual)) return 0;
    if (!CPU_ISSET((size_t)pool->cores[0], usual)) return 0;
    pin(pool, 0);
    return 1;
}
#endif

void pool_run(Pool *pool, const Phase *phases, int64_t count) {
    pool->phases = phases, pool->count = count;
    open_phase(pool, 0);
    if (pool->team && getpid() == pool->owner) {
        atomic_store(&pool->joined, 0);
        pool->team(join, pool, (unsigned)pool->threads, 0);
        return;
    }
#if defined(__linux__)
    cpu_set_t usual;
    const int aside = step_aside(pool, &usual);
#endif
    if (pool->threads > 1) {
        atomic_store(&pool->open, 1);
        atomic_fetch_add(&pool->calls, 1);
        wake_all(pool, &pool->calls);
    }
    take_part(pool, 0);
    atomic_store(&pool->open, 0);
    for (uint32_t n; (n = atomic_load(&pool->inside)) != 0;)
        wait_while(pool, &pool->inside, n, SPIN_NS);
#if defined(__linux__)
    if (aside) pthread_setaffinity_np(pthread_self(), sizeof usual, &usual);
#endif
}

/* ---------------------------------------------------------------------------------------- making */

int pool_threads(const Pool *pool) { return pool->threads; }
const Isa *pool_isa(const Pool *pool) { return pool->isa; }
void pool_lock(Pool *pool) { pthread_mutex_lock(&pool->lock); }
void pool_unlock(Pool *pool) { pthread_mutex_unlock(&pool->lock); }

void *pool_memory(Pool *pool, size_t bytes) {
    if (bytes > pool->memory_bytes) {
        free(pool->memory);
        pool->memory_bytes = 0;
        pool->memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (pool->memory) pool->memory_bytes = bytes;
    }
    return pool->memory;
}

API void fiddler_pool_free(Pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stop, 1);
    atomic_fetch_add(&pool->calls, 1);
    wake_all(pool, &pool->calls);
    for (int i = 1; !pool->team && i < pool->threads; i++) pthread_join(pool->workers[i], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->sleep);
    pthread_cond_destroy(&pool->woken);
    free(pool->cores), free(pool->workers), free(pool->shares), free(pool->memory), free(pool);
}

/* A pool of `threads`, the caller's counted, on `cores` (NULL: anywhere) or of `team` (NULL: none),
 * for the instruction set of this name. NULL where memory or threads are lacking, or the machine
 * lacks the set. */
API Pool *fiddler_pool_new(int64_t threads, const int64_t *cores, const char *isa, Team *team) {
    const Isa *found = NULL;
    for (const Isa *const *each = isa_all; *each; each++)
        if (!strcmp((*each)->name, isa)) found = *each;
    if (!found || !isa_runs(found) || threads < 1 || threads > 4096) return NULL;
    Pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->isa = found, pool->threads = 1, pool->owner = getpid();
    if (team && threads > 1) pool->team = team, pool->threads = (int)threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_mutex_init(&pool->sleep, NULL);
    pthread_cond_init(&pool->woken, NULL);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    pool->cores = cores ? calloc((size_t)threads, sizeof *pool->cores) : NULL;
    pool->shares = aligned_alloc(64, (size_t)threads * sizeof *pool->shares);
    int failed = !pool->workers || !pool->shares || (cores && !pool->cores);
    for (int64_t i = 0; pool->shares && i < threads; i++) atomic_init(&pool->shares[i].left, 0);
    for (int64_t i = 0; cores && !failed && i < threads; i++) pool->cores[i] = (int)cores[i];
    while (!failed && pool->threads < threads) {
        Worker *self = malloc(sizeof *self);
        if (self) *self = (Worker){pool, pool->threads};
        failed = !self || pthread_create(&pool->workers[pool->threads], NULL, worker, self);
        if (failed)
            free(self);
        else
            pool->threads++;
    }
    if (!failed) return pool;
    fiddler_pool_free(pool);
    return NULL;
}
