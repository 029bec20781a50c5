/* One LRU cache over many layers: engine/policies/lru_walk.py is its door, Policy.decide what it
 * must equal. */

#include "fiddler.h"

enum { HOST = 0, PINNED = 1, CACHED = 2 };

/* A list of experts, linked both ways through `next` and `before`; position `total` is its end. */
static void unlink_expert(int64_t *next, int64_t *before, int64_t flat) {
    next[before[flat]] = next[flat];
    before[next[flat]] = before[flat];
}

static void push_newest(int64_t *next, int64_t *before, int64_t total, int64_t flat) {
    int64_t newest = before[total];
    next[newest] = flat;
    before[flat] = newest;
    next[flat] = total;
    before[total] = flat;
}

/* Per segment: hits become the newest first; then each missing expert that is streamed takes a
 * slot while the segment's own experts do not fill all of them, in place of the oldest.
 *
 * first (segments + 1): where each segment's entries begin.  flat, streams (entries): the expert;
 * whether it is copied if it is missing.  place (total): updated.  order (total): cached experts,
 * oldest first, `used` of them; updated.  links (2 * (total + 1)): scratch.
 * away, keep (entries): whether it was missing, whether it is kept.  evict_first (segments + 1),
 * evict (entries): what leaves.  Returns how many are cached at the end. */
API int64_t fiddler_lru_walk(
    int64_t segments, const int64_t *first, const int64_t *flat, const uint8_t *streams,
    int64_t total, uint8_t *place, int64_t slots, int64_t *order, int64_t used, int64_t *links,
    uint8_t *away, uint8_t *keep, int64_t *evict_first, int64_t *evict) {
    int64_t *next = links, *before = links + total + 1, gone = 0;
    next[total] = before[total] = total;
    for (int64_t i = 0; i < used; i++) push_newest(next, before, total, order[i]);

    for (int64_t s = 0; s < segments; s++) {
        int64_t active = 0;
        evict_first[s] = gone;
        for (int64_t e = first[s]; e < first[s + 1]; e++) {
            away[e] = place[flat[e]] == HOST;
            keep[e] = 0;
            if (place[flat[e]] == CACHED) {
                unlink_expert(next, before, flat[e]);
                push_newest(next, before, total, flat[e]);
                active++;
            }
        }
        for (int64_t e = first[s]; e < first[s + 1]; e++) {
            if (!away[e] || !streams[e] || active >= slots) continue;
            if (used == slots) {
                int64_t oldest = next[total];
                unlink_expert(next, before, oldest);
                place[oldest] = HOST;
                evict[gone++] = oldest;
            } else {
                used++;
            }
            push_newest(next, before, total, flat[e]);
            place[flat[e]] = CACHED;
            keep[e] = 1;
            active++;
        }
    }
    evict_first[segments] = gone;
    int64_t at = 0;
    for (int64_t flat_ = next[total]; flat_ != total; flat_ = next[flat_]) order[at++] = flat_;
    return used;
}
