/* Hits of every cache size in one pass: engine/stacks.py explains, and has the readable form.
 *
 * Both functions count into differences: summed up, hits[n] are the hits of n slots. They return 0,
 * or -1 where there was no memory (or more layers of steps than 31 bits count). */
#include "fiddler.h"

#include <stdlib.h>
#include <string.h>

API int64_t fiddler_lru_hits(int64_t experts, int64_t segments, const int64_t *first,
                             const int64_t *flat, int64_t most, int64_t *hits);
API int64_t fiddler_opt_hits(int64_t experts, int64_t segments, const int64_t *first,
                             const int64_t *flat, const int64_t *next_use, int64_t used,
                             const int64_t *stack, const int64_t *due, int64_t *hits);

/* ---------------------------------------------------------------------------------------- LRU */

typedef struct {
    int64_t group;     /* segment of its last use, -1 before the first */
    int64_t low, high; /* then: a miss up to size low, a hit from size high on */
} Use;

typedef struct {
    int64_t segments, most;
    int64_t *sums; /* Fenwick tree over segments: experts whose last use was there */
    Use *use, *found;
    uint8_t *between, *found_between; /* by expert or active: a hit at size low + 1 + i */
    uint8_t *dropped;                 /* by expert: not kept at size i, for lack of slots */
    int64_t *active_since;            /* by expert: 1 + the last segment that began with it */
    int64_t *members;
    uint8_t *kind;
} Lru;

static void count(const Lru *lru, int64_t segment, int64_t by) {
    for (int64_t at = segment + 1; at <= lru->segments; at += at & -at) lru->sums[at] += by;
}

static int64_t up_to(const Lru *lru, int64_t segment) {
    int64_t sum = 0;
    for (int64_t at = segment + 1; at > 0; at -= at & -at) sum += lru->sums[at];
    return sum;
}

static int was_hit(const Lru *lru, int64_t expert, int64_t size) {
    const Use *use = &lru->use[expert];
    if (size <= use->low) return 0;
    return size >= use->high || lru->between[expert * lru->most + size - use->low - 1];
}

/* One group, some of whose members segment `now` uses: fills `found` of those. */
static void use_group(Lru *lru, int64_t group, int64_t seen, int64_t now, const int64_t *first,
                      const int64_t *flat, int64_t *hits) {
    enum { DROPPED, HIT, ADMITTED };
    const int64_t active = first[group + 1] - first[group];
    int64_t n = 0, asked = 0;
    for (int64_t at = first[group]; at < first[group + 1]; at++) {
        if (lru->use[flat[at]].group != group) continue;
        lru->members[n++] = flat[at];
        asked += lru->active_since[flat[at]] == now + 1;
    }
    const int64_t low = seen - up_to(lru, group), high = low + n;
    hits[high] += asked;
    for (int64_t i = 0; i < n; i++) lru->found[lru->members[i]] = (Use){now, low, high};
    for (int64_t size = low + 1; size < high; size++) {
        int64_t admitted = 0, late_hits = 0, late = 0;
        for (int64_t i = 0; i < n; i++) {
            const int64_t expert = lru->members[i];
            const int hit = was_hit(lru, expert, size);
            const int dropped = !hit && size < active && lru->dropped[expert * lru->most + size];
            lru->kind[i] = hit ? HIT : dropped ? DROPPED : ADMITTED;
            admitted += lru->kind[i] == ADMITTED;
        }
        for (int64_t i = n - 1; i >= 0; i--) { /* the latest first: admitted, then hits */
            const int64_t expert = lru->members[i];
            int kept = 0;
            if (lru->kind[i] == ADMITTED) kept = ++late <= size - low;
            if (lru->kind[i] == HIT) kept = admitted + ++late_hits <= size - low;
            lru->found_between[expert * lru->most + size - low - 1] = (uint8_t)kept;
            if (kept && lru->active_since[expert] == now + 1) {
                hits[size]++;
                hits[size + 1]--;
            }
        }
    }
}

static void lru_segment(Lru *lru, int64_t experts, int64_t seen, int64_t now, const int64_t *first,
                        const int64_t *flat, int64_t *hits) {
    const int64_t *active = flat + first[now];
    const int64_t n = first[now + 1] - first[now];
    for (int64_t i = 0; i < n; i++) {
        lru->active_since[active[i]] = now + 1;
        lru->found[active[i]].group = -1;
    }
    for (int64_t i = 0; i < n; i++) {
        const Use *use = &lru->use[active[i]];
        if (lru->found[active[i]].group == now) continue; /* with its group, already */
        if (use->group >= 0)
            use_group(lru, use->group, seen, now, first, flat, hits);
        else
            lru->found[active[i]] = (Use){now, experts, experts + 1};
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t expert = active[i];
        if (lru->use[expert].group >= 0) count(lru, lru->use[expert].group, -1);
        count(lru, now, 1);
        const Use *found = &lru->found[expert];
        lru->use[expert] = *found;
        if (found->high - found->low > 1)
            memcpy(lru->between + expert * lru->most, lru->found_between + expert * lru->most,
                   (size_t)(found->high - found->low - 1));
    }
    for (int64_t size = 0; size < n; size++) {
        int64_t room = size;
        for (int64_t i = 0; i < n; i++) room -= was_hit(lru, active[i], size);
        for (int64_t i = 0; i < n; i++)
            lru->dropped[active[i] * lru->most + size] =
                !was_hit(lru, active[i], size) && --room < 0;
    }
}

API int64_t fiddler_lru_hits(int64_t experts, int64_t segments, const int64_t *first,
                             const int64_t *flat, int64_t most, int64_t *hits) {
    const size_t n = (size_t)experts + 1, cells = n * (size_t)(most + 1);
    Lru lru = {
        .segments = segments,
        .most = most,
        .sums = calloc((size_t)segments + 1, sizeof(int64_t)),
        .use = malloc(n * sizeof(Use)),
        .found = malloc(n * sizeof(Use)),
        .between = malloc(cells),
        .found_between = malloc(cells),
        .dropped = malloc(cells),
        .active_since = calloc(n, sizeof(int64_t)),
        .members = malloc((size_t)(most + 1) * sizeof(int64_t)),
        .kind = malloc((size_t)(most + 1)),
    };
    const int failed = !lru.sums || !lru.use || !lru.found || !lru.between || !lru.found_between ||
                       !lru.dropped || !lru.active_since || !lru.members || !lru.kind;
    if (!failed) {
        for (int64_t expert = 0; expert < experts; expert++) lru.use[expert].group = -1;
        int64_t seen = 0;
        for (int64_t now = 0; now < segments; now++) {
            int64_t new = 0;
            for (int64_t at = first[now]; at < first[now + 1]; at++)
                new += lru.use[flat[at]].group < 0;
            lru_segment(&lru, experts, seen, now, first, flat, hits);
            seen += new;
        }
    }
    free(lru.sums), free(lru.use), free(lru.found), free(lru.between), free(lru.found_between);
    free(lru.dropped), free(lru.active_since), free(lru.members), free(lru.kind);
    return failed ? -1 : 0;
}

/* ---------------------------------------------------------------------------------------- OPT */

enum { BLOCK = 64 };

typedef struct {
    int64_t *expert; /* the stack: who is at each place */
    int32_t *due;    /* and the segment that needs it next; -1 where there is nobody */
    int32_t *latest; /* of each block of places: the largest due */
    int64_t used;
} Stack;

/* Puts an expert at a place, and keeps its block's `latest`. */
static void put(const Stack *stack, int64_t *place, int64_t at, int64_t expert, int32_t due) {
    int32_t *latest = &stack->latest[at / BLOCK];
    const int32_t before = stack->due[at];
    stack->expert[at] = expert, stack->due[at] = due, place[expert] = at;
    if (due >= *latest) {
        *latest = due;
    } else if (before == *latest) { /* the largest may be gone */
        const int32_t *block = stack->due + at / BLOCK * BLOCK;
        int32_t most = -1;
        for (int i = 0; i < BLOCK; i++) most = block[i] > most ? block[i] : most;
        *latest = most;
    }
}

/* The first place from `from` on, before `to`, that is needed later than `due`; or `to`. */
static int64_t later(const Stack *stack, int64_t from, int64_t to, int32_t due) {
    while (from < to) {
        const int64_t end = (from / BLOCK + 1) * BLOCK;
        if (stack->latest[from / BLOCK] > due)
            for (const int64_t stop = end < to ? end : to; from < stop; from++)
                if (stack->due[from] > due) return from;
        from = end;
    }
    return to;
}

API int64_t fiddler_opt_hits(int64_t experts, int64_t segments, const int64_t *first,
                             const int64_t *flat, const int64_t *next_use, int64_t used,
                             const int64_t *begin, const int64_t *due_first, int64_t *hits) {
    const size_t blocks = (size_t)experts / BLOCK + 1, n = blocks * BLOCK;
    Stack stack = {
        .expert = malloc(n * sizeof(int64_t)),
        .due = malloc(n * sizeof(int32_t)),
        .latest = malloc(blocks * sizeof(int32_t)),
        .used = used,
    };
    int64_t *place = malloc(n * sizeof(int64_t)); /* by expert; -1: not in the stack */
    const int failed = !stack.expert || !stack.due || !stack.latest || !place ||
                       segments >= INT32_MAX;
    if (!failed) {
        for (size_t i = 0; i < n; i++) place[i] = stack.due[i] = -1;
        for (size_t i = 0; i < blocks; i++) stack.latest[i] = -1;
        for (int64_t i = 0; i < used; i++)
            put(&stack, place, i, begin[i], (int32_t)due_first[begin[i]]);
    }
    for (int64_t now = 0; !failed && now < segments; now++) {
        for (int64_t at = first[now]; at < first[now + 1]; at++) {
            const int64_t own = place[flat[at]];
            if (own >= 0) hits[own + 1]++;
            put(&stack, place, own >= 0 ? own : stack.used++, flat[at], (int32_t)next_use[at]);
        }
        for (int64_t at = first[now]; at < first[now + 1]; at++) {
            const int64_t own = place[flat[at]];
            int64_t carried = flat[at], to = 0;
            int32_t due = (int32_t)next_use[at];
            while ((to = later(&stack, to, own, due)) < own) { /* who is needed later moves down */
                const int64_t expert = stack.expert[to];
                const int32_t its_due = stack.due[to];
                put(&stack, place, to++, carried, due);
                carried = expert, due = its_due;
            }
            put(&stack, place, own, carried, due);
        }
    }
    free(stack.expert), free(stack.due), free(stack.latest), free(place);
    return failed ? -1 : 0;
}
