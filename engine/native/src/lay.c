/* The list scheduler for many layers: engine/layout.py is its door, engine.timeline.Timeline the
 * readable form that it must equal, row for row. All times are whole nanoseconds. */

#include "fiddler.h"

enum { RESIDENT = 0, STREAM = 1, CPU = 2 };                     /* engine.events.Action */
enum { LANE_GPU = 0, LANE_CPU = 1, LANE_H2D = 2, LANE_D2H = 3 }; /* Lane */
enum { DENSE = 0, EXPERT = 1, WEIGHTS = 2, ACTS = 3 };          /* Work */
enum { W_STREAM = 0, W_ADMIT = 1, W_EVICT = 4, W_ACTS = 5, W_FETCH = 6, W_AHEAD = 7 }; /* Why */
enum { MODELLED = 1, STAGING = 2, WORK_WIDTH = 10, MOVE_WIDTH = 9 };

/* Lists of many records, one after the other; record r's are [first[r], first[r + 1]). */
typedef struct {
    const int64_t *first, *values;
} Ragged;

typedef struct {
    int64_t records, columns;
    const int64_t *step, *layer; /* layer -1: the output head */
    const int64_t *tokens, *dense_ns;
    int64_t *start, *end; /* start[0] is given; the others too unless `chained` */
    int64_t chained;
    const int64_t *first, *expert, *count, *action;
    const uint8_t *keep;
    Ragged evict, fetch, unused;
    const int64_t *gpu_ns, *cpu_ns, *to_host_ns, *to_device_ns; /* by token count */
    int64_t copy_ns, expert_bytes, activation_bytes, overlap;
    /* Copies of fetched experts that wait for the link: experts in order of coming; of each expert
     * its position in the queue (-1: none) and ns left. */
    int64_t *queue, head, tail, *where, *left;
    /* Rows are written for records [from, to), column after column. */
    int64_t from, to, work_room, move_room, work_rows, move_rows;
    int64_t *work, *moves;
    int64_t busy_ns[4], bytes[4]; /* by lane; of bytes only the link's two are used */
    int64_t *scratch;             /* 8 x the most entries of a record, and 1 */
    int64_t overflow;             /* 1 where rows did not fit: a bug of the caller */
} Lay;

typedef struct {
    Lay *lay;
    int64_t step, emit;
} Now;

static void work_row(Now *now, int64_t layer, int64_t expert, int64_t kind, int64_t action,
                     int64_t tokens, int64_t lane, int64_t start, int64_t end) {
    Lay *lay = now->lay;
    if (!now->emit) return;
    if (lay->work_rows == lay->work_room) {
        lay->overflow = 1;
        return;
    }
    const int64_t row[WORK_WIDTH] = {now->step, layer, expert, kind,  action,
                                     tokens,    lane,  start,  end,   MODELLED};
    int64_t *at = lay->work + lay->work_rows++;
    for (int c = 0; c < WORK_WIDTH; c++) at[c * lay->work_room] = row[c];
}

static void move_row(Now *now, int64_t layer, int64_t expert, int64_t why, int64_t lane,
                     int64_t n_bytes, int64_t start, int64_t end) {
    Lay *lay = now->lay;
    if (!now->emit) return;
    if (lay->move_rows == lay->move_room) {
        lay->overflow = 1;
        return;
    }
    const int64_t row[MOVE_WIDTH] = {now->step, layer, expert, why,     lane,
                                     n_bytes,   start, end,    MODELLED};
    int64_t *at = lay->moves + lay->move_rows++;
    for (int c = 0; c < MOVE_WIDTH; c++) at[c * lay->move_room] = row[c];
}

static void worked(Now *now, int64_t layer, int64_t expert, int64_t kind, int64_t action,
                   int64_t tokens, int64_t lane, int64_t start, int64_t end) {
    now->lay->busy_ns[lane] += end - start;
    work_row(now, layer, expert, kind, action, tokens, lane, start, end);
}

static void moved(Now *now, int64_t layer, int64_t expert, int64_t why, int64_t lane,
                  int64_t n_bytes, int64_t start, int64_t end) {
    if (lane >= 0) now->lay->bytes[lane] += n_bytes;
    move_row(now, layer, expert, why, lane, n_bytes, start, end);
}

static void activations(Now *now, int64_t layer, int64_t tokens, int64_t lane, int64_t start,
                        int64_t end) {
    moved(now, layer, -1, W_ACTS, lane, tokens * now->lay->activation_bytes, start, end);
    worked(now, layer, -1, ACTS, -1, tokens, lane, start, end);
}

/* Bytes of an expert that are there when so many ns of its copy are left. */
static int64_t done_bytes(const Lay *lay, int64_t left) {
    return lay->copy_ns ? lay->expert_bytes * (lay->copy_ns - left) / lay->copy_ns : 0;
}

/* The link has nothing urgent to do: what waits in line goes on. */
static void idle(Now *now, int64_t start, int64_t end) {
    Lay *lay = now->lay;
    while (start < end && lay->head < lay->tail) {
        int64_t flat = lay->queue[lay->head];
        if (lay->where[flat] != lay->head) { /* taken out of the line */
            lay->head++;
            continue;
        }
        int64_t left = lay->left[flat];
        int64_t part = left < end - start ? left : end - start;
        int64_t layer = flat / lay->columns, expert = flat % lay->columns;
        int64_t n_bytes = done_bytes(lay, left - part) - done_bytes(lay, left);
        moved(now, layer, expert, W_AHEAD, LANE_H2D, n_bytes, start, start + part);
        worked(now, layer, expert, WEIGHTS, -1, 0, LANE_H2D, start, start + part);
        lay->left[flat] = left - part;
        if (part == left) {
            lay->where[flat] = -1;
            lay->head++;
        }
        start += part;
    }
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Record r, from `start`; returns its end. */
static int64_t lay_one(Now *now, int64_t r, int64_t start) {
    Lay *lay = now->lay;
    int64_t layer = lay->layer[r], tokens = lay->tokens[r], dense_end = start + lay->dense_ns[r];
    idle(now, start, dense_end);
    if (layer < 0) {
        worked(now, -1, -1, DENSE, -1, tokens, LANE_GPU, start, dense_end);
        return dense_end;
    }
    for (int64_t i = lay->evict.first[r]; i < lay->evict.first[r + 1]; i++)
        lay->where[lay->evict.values[i]] = -1; /* what is copied of it is lost */

    int64_t a = lay->first[r], n = lay->first[r + 1] - a, base = layer * lay->columns;
    const int64_t *expert = lay->expert + a, *count = lay->count + a, *action = lay->action + a;
    int64_t *begin = lay->scratch, *end = begin + n, *copy = end + n, *there = copy + n,
            *left = there + n, *here = left + n, *come = here + n, *host = come + n;

    /* Who computes what, in expert order: no branch here, for none could be foreseen. */
    for (int64_t i = 0; i < n; i++) left[i] = -1; /* ns left of a fetched expert's copy */
    for (int64_t i = 0; i < n && lay->head < lay->tail; i++)
        if (action[i] == RESIDENT && lay->where[base + expert[i]] >= 0)
            left[i] = lay->left[base + expert[i]];
    int64_t n_here = 0, n_come = 0, n_host = 0, pairs = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t is_here = (action[i] == RESIDENT) & (left[i] < 0), is_host = action[i] == CPU;
        here[n_here] = come[n_come] = host[n_host] = i;
        n_here += is_here;
        n_host += is_host;
        n_come += !(is_here | is_host);
        pairs += is_host * count[i];
    }

    /* The device's side: what is there, then what arrives. */
    int64_t gpu = dense_end, link = dense_end, copied = 0, n_bytes = 0;
    int64_t buffers[STAGING] = {dense_end, dense_end};
    for (int64_t k = 0; k < n_here; k++) {
        int64_t i = here[k];
        begin[i] = gpu;
        end[i] = gpu += lay->gpu_ns[count[i]];
    }
    int64_t computed = gpu - dense_end;
    for (int64_t k = 0; k < n_come; k++) {
        int64_t i = come[k], ahead = left[i] >= 0;
        copy[i] = ahead ? link : most(link, buffers[0]);
        if (!lay->overlap) copy[i] = most(copy[i], gpu);
        there[i] = link = copy[i] + (ahead ? left[i] : lay->copy_ns);
        begin[i] = most(gpu, link);
        end[i] = gpu = begin[i] + lay->gpu_ns[count[i]];
        computed += lay->gpu_ns[count[i]];
        copied += link - copy[i];
        n_bytes += lay->expert_bytes - (ahead ? done_bytes(lay, left[i]) : 0);
        if (ahead) {
            lay->where[base + expert[i]] = -1;
        } else {
            buffers[0] = buffers[1];
            buffers[1] = gpu;
        }
    }
    int64_t ready = link, line[STAGING] = {buffers[0], buffers[1]};
    for (int64_t i = lay->unused.first[r]; i < lay->unused.first[r + 1]; i++) {
        link = most(link, buffers[0]) + lay->copy_ns;
        buffers[0] = buffers[1];
        buffers[1] = link;
    }

    /* The host's side, at the same time or after it. */
    int64_t on_cpu = pairs < tokens ? pairs : tokens;
    int64_t leave = lay->overlap ? dense_end : most(gpu, link);
    int64_t arrive = leave + (on_cpu ? lay->to_host_ns[on_cpu] : 0), cpu = arrive;
    for (int64_t k = 0; k < n_host; k++) {
        int64_t i = host[k];
        begin[i] = cpu;
        end[i] = cpu += lay->cpu_ns[count[i]];
    }
    int64_t back = most(cpu, link), home = back + (on_cpu ? lay->to_device_ns[on_cpu] : 0);
    int64_t over = on_cpu ? most(gpu, home) : most(gpu, link);
    lay->busy_ns[LANE_GPU] += computed;
    lay->busy_ns[LANE_CPU] += cpu - arrive;
    lay->busy_ns[LANE_H2D] += copied;
    lay->bytes[LANE_H2D] += n_bytes;

    for (int64_t i = lay->evict.first[r]; i < lay->evict.first[r + 1]; i++) {
        int64_t flat = lay->evict.values[i];
        moved(now, flat / lay->columns, flat % lay->columns, W_EVICT, -1, 0, dense_end, dense_end);
    }
    for (int64_t i = lay->fetch.first[r]; i < lay->fetch.first[r + 1]; i++) {
        int64_t flat = lay->fetch.values[i];
        moved(now, flat / lay->columns, flat % lay->columns, W_FETCH, -1, 0, dense_end, dense_end);
    }
    worked(now, layer, -1, DENSE, -1, tokens, LANE_GPU, start, dense_end);
    if (on_cpu) activations(now, layer, on_cpu, LANE_D2H, leave, arrive);
    for (int64_t i = 0; i < n && now->emit; i++) {
        if (action[i] == STREAM || left[i] >= 0) {
            int64_t ahead = left[i] >= 0;
            int64_t rest = lay->expert_bytes - (ahead ? done_bytes(lay, left[i]) : 0);
            int64_t why = ahead ? W_AHEAD : lay->keep[a + i] ? W_ADMIT : W_STREAM;
            move_row(now, layer, expert[i], why, LANE_H2D, rest, copy[i], there[i]);
            work_row(now, layer, expert[i], WEIGHTS, action[i], count[i], LANE_H2D, copy[i],
                     there[i]);
        }
        work_row(now, layer, expert[i], EXPERT, action[i], count[i],
                 action[i] == CPU ? LANE_CPU : LANE_GPU, begin[i], end[i]);
    }
    for (int64_t i = lay->unused.first[r]; i < lay->unused.first[r + 1]; i++) {
        int64_t flat = lay->unused.values[i], from = most(ready, line[0]);
        ready = from + lay->copy_ns;
        line[0] = line[1];
        line[1] = ready;
        int64_t of = flat / lay->columns, which = flat % lay->columns;
        moved(now, of, which, W_STREAM, LANE_H2D, lay->expert_bytes, from, ready);
        worked(now, of, which, WEIGHTS, STREAM, 0, LANE_H2D, from, ready);
    }
    if (on_cpu) activations(now, layer, on_cpu, LANE_H2D, back, home);

    for (int64_t i = lay->fetch.first[r]; i < lay->fetch.first[r + 1]; i++) {
        int64_t flat = lay->fetch.values[i];
        lay->where[flat] = lay->tail;
        lay->left[flat] = lay->copy_ns;
        lay->queue[lay->tail++] = flat;
    }
    idle(now, link, on_cpu ? back : over);
    if (on_cpu) idle(now, home, over);
    return over;
}

API int64_t fiddler_lay_size(void);
API void fiddler_lay(Lay *lay);

/* So that the caller can tell that it describes the same struct. */
API int64_t fiddler_lay_size(void) { return (int64_t)sizeof(Lay); }

API void fiddler_lay(Lay *lay) {
    for (int64_t r = 0; r < lay->records; r++) {
        Now now = {lay, lay->step[r], lay->from <= r && r < lay->to};
        if (lay->chained && r) lay->start[r] = lay->end[r - 1];
        lay->end[r] = lay_one(&now, r, lay->start[r]);
    }
}
