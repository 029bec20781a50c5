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
 * first (segments + 1): where each segment's entries begin.  flat, miss (entries): the expert; its
 * action if it is missing.  place (total): updated.  order (total): cached experts, oldest first,
 * `used` of them; updated.  links (total + 1): scratch.
 * action, keep (entries): where it runs, whether it is kept.  evict_first (segments + 1),
 * evict (entries): what leaves.  Returns how many are cached at the end. */
API int64_t fiddler_lru_walk(
    int64_t segments, const int64_t *first, const int64_t *flat, const int64_t *miss,
    int64_t total, uint8_t *place, int64_t slots, int64_t *order, int64_t used, Link *links,
    int64_t *action, uint8_t *keep, int64_t *evict_first, int64_t *evict) {
    int64_t gone = 0;
    links[total] = (Link){(int32_t)total, (int32_t)total};
    for (int64_t i = 0; i < used; i++) push_newest(links, total, order[i]);

    for (int64_t s = 0; s < segments; s++) {
        int64_t active = 0;
        evict_first[s] = gone;
        for (int64_t e = first[s]; e < first[s + 1]; e++) {
            action[e] = place[flat[e]] == HOST ? miss[e] : RESIDENT;
            keep[e] = 0;
            if (place[flat[e]] == CACHED) {
                unlink_expert(links, flat[e]);
                push_newest(links, total, flat[e]);
                active++;
            }
        }
        for (int64_t e = first[s]; e < first[s + 1]; e++) {
            if (action[e] != STREAM || active >= slots) continue;
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
            active++;
        }
    }
    evict_first[segments] = gone;
    int64_t at = 0;
    for (int64_t at_ = links[total].next; at_ != total; at_ = links[at_].next) order[at++] = at_;
    return used;
}
