/* One LRU cache over many layers: engine/policies/lru_walk.py is its door, Policy.decide what it
 * must equal. */

#include "fiddler.h"

enum { HOST = 0, PINNED = 1, CACHED = 2 }; /* engine.residency.Place */
enum { RESIDENT = 0, STREAM = 1, CPU = 2 }; /* engine.events.Action */

/* A list of experts, linked both ways; position `total` is its end. */
typedef struct {
    int32_t next, before;
} Link;

static void unlink_expert(Link *links, int64_t flat) {
    links[links[flat].before].next = links[flat].next;
    links[links[flat].next].before = links[flat].before;
}

static void push_newest(Link *links, int64_t total, int64_t flat) {
    int32_t newest = links[total].before;
    links[newest].next = links[total].before = (int32_t)flat;
    links[flat] = (Link){(int32_t)total, newest};
}

/* Per segment: hits become the newest first; then each missing expert that is streamed takes a
 * slot while the segment's own experts do not fill all of them, in place of the oldest.
 *
 * first (segments + 1): where each segment's entries begin.  flat, count (entries): the expert, its
 * tokens.  by_count: the action of a missing expert by its tokens.  place (total): updated.
 * order (total): cached experts, oldest first, `used` of them; updated.
 * scratch (3 * total + 1): links, then a segment's hits and what of it is to be streamed.
 * action, keep (entries): where it runs, whether it is kept.  evict_first (segments + 1),
 * evict (entries): what leaves.  Returns how many are cached at the end. */
API int64_t fiddler_lru_walk(
    int64_t segments, const int64_t *first, const int64_t *flat, const int64_t *count,
    const int64_t *by_count, int64_t total, uint8_t *place, int64_t slots, int64_t *order,
    int64_t used, int64_t *scratch, int64_t *action, uint8_t *keep, int64_t *evict_first,
    int64_t *evict) {
    Link *links = (Link *)scratch;
    int64_t gone = 0, *hit = scratch + total + 1, *come = hit + total;
    links[total] = (Link){(int32_t)total, (int32_t)total};
    for (int64_t i = 0; i < used; i++) push_newest(links, total, order[i]);

    for (int64_t s = 0; s < segments; s++) {
        int64_t hits = 0, comes = 0;
        evict_first[s] = gone;
        for (int64_t e = first[s]; e < first[s + 1]; e++) { /* no branch: none could be foreseen */
            int64_t where = place[flat[e]];
            action[e] = by_count[count[e]] * (where == HOST); /* RESIDENT is 0 */
            keep[e] = 0;
            hit[hits] = flat[e];
            come[comes] = e;
            hits += where == CACHED;
            comes += action[e] == STREAM;
        }
        for (int64_t k = 0; k < hits; k++) {
            unlink_expert(links, hit[k]);
            push_newest(links, total, hit[k]);
        }
        int64_t room = slots > hits ? slots - hits : 0;
        for (int64_t k = 0; k < comes && k < room; k++) {
            int64_t e = come[k];
            if (used == slots) {
                int64_t oldest = links[total].next;
                unlink_expert(links, oldest);
                place[oldest] = HOST;
                evict[gone++] = oldest;
            } else {
                used++;
            }
            push_newest(links, total, flat[e]);
            place[flat[e]] = CACHED;
            keep[e] = 1;
        }
    }
    evict_first[segments] = gone;
    int64_t at = 0;
    for (int64_t at_ = links[total].next; at_ != total; at_ = links[at_].next) order[at++] = at_;
    return used;
}
