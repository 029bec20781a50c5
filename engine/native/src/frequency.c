/* Caches that keep the frequently used, one size at a time: engine/frequency.py has the readable
 * form. A binary heap of the cached experts, the least wanted on top. */
#include "fiddler.h"

#include <math.h>
#include <stdlib.h>

API int64_t fiddler_frequency_hits(int64_t experts, int64_t segments, const int64_t *first,
                                   const int64_t *flat, const double *gained, int64_t sizes,
                                   const int64_t *size, int64_t *hits);

typedef struct {
    double rank;   /* log2 of the sum of its uses, as they would count at step 0 */
    int64_t used;  /* number of its last use, for ties */
    int64_t place; /* in the heap; -1: not there */
    int64_t cached;
} Item;

typedef struct {
    Item *item;
    int64_t *heap, used;
} Heap;

static int before(const Heap *heap, int64_t a, int64_t b) {
    const Item *x = &heap->item[a], *y = &heap->item[b];
    return x->rank < y->rank || (x->rank == y->rank && x->used < y->used);
}

static void set(Heap *heap, int64_t place, int64_t expert) {
    heap->heap[place] = expert;
    heap->item[expert].place = place;
}

static void rise(Heap *heap, int64_t place, int64_t expert) {
    for (; place > 0; place = (place - 1) / 2) {
        const int64_t parent = heap->heap[(place - 1) / 2];
        if (!before(heap, expert, parent)) break;
        set(heap, place, parent);
    }
    set(heap, place, expert);
}

static void sink(Heap *heap, int64_t place, int64_t expert) {
    for (int64_t child; (child = 2 * place + 1) < heap->used; place = child) {
        if (child + 1 < heap->used && before(heap, heap->heap[child + 1], heap->heap[child]))
            child++;
        if (!before(heap, heap->heap[child], expert)) break;
        set(heap, place, heap->heap[child]);
    }
    set(heap, place, expert);
}

static void take_out(Heap *heap, int64_t expert) {
    const int64_t place = heap->item[expert].place, last = heap->heap[--heap->used];
    heap->item[expert].place = -1;
    if (last == expert) return;
    if (place > 0 && before(heap, last, heap->heap[(place - 1) / 2]))
        rise(heap, place, last);
    else
        sink(heap, place, last);
}

/* log2(2^a + 2^b) without overflow, operation by operation as in Python. */
static double log2_sum(double a, double b) {
    const double high = a > b ? a : b, low = a > b ? b : a;
    return high + log2(1.0 + pow(2.0, low - high));
}

static int64_t one_size(Heap *heap, int64_t experts, int64_t segments, const int64_t *first,
                        const int64_t *flat, const double *gained, int64_t slots) {
    int64_t hits = 0, cached = 0, uses = 0;
    heap->used = 0;
    for (int64_t i = 0; i < experts; i++) heap->item[i] = (Item){.place = -1};
    for (int64_t now = 0; now < segments; now++) {
        int64_t active = 0;
        for (int64_t at = first[now]; at < first[now + 1]; at++) {
            Item *item = &heap->item[flat[at]];
            if (!item->cached) continue;
            take_out(heap, flat[at]); /* nobody in use goes */
            item->rank = log2_sum(item->rank, gained[now]);
            item->used = uses++;
            active++;
        }
        hits += active;
        for (int64_t at = first[now]; at < first[now + 1] && active < slots; at++) {
            Item *item = &heap->item[flat[at]];
            if (item->cached) continue;
            if (cached == slots) {
                heap->item[heap->heap[0]].cached = 0;
                take_out(heap, heap->heap[0]);
            } else {
                cached++;
            }
            *item = (Item){.rank = gained[now], .used = uses++, .place = -1, .cached = 1};
            active++;
        }
        for (int64_t at = first[now]; at < first[now + 1]; at++)
            if (heap->item[flat[at]].cached) rise(heap, heap->used++, flat[at]);
    }
    return hits;
}

API int64_t fiddler_frequency_hits(int64_t experts, int64_t segments, const int64_t *first,
                                   const int64_t *flat, const double *gained, int64_t sizes,
                                   const int64_t *size, int64_t *hits) {
    const size_t n = (size_t)experts + 1;
    Heap heap = {.item = malloc(n * sizeof(Item)), .heap = malloc(n * sizeof(int64_t))};
    const int failed = !heap.item || !heap.heap;
    for (int64_t i = 0; !failed && i < sizes; i++)
        hits[i] = one_size(&heap, experts, segments, first, flat, gained, size[i]);
    free(heap.item), free(heap.heap);
    return failed ? -1 : 0;
}
