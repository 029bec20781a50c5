/* AMX_BF16: products of 16 rows of weights, as they are stored, by 16 tokens.
 *
 * The weights are the first operand, so that a tile of them is 16 rows of 64 bytes wherever they
 * lie; the tokens are the second, which wants pairs of elements side by side: there are few of
 * them, and we lay them out (`amx_pack`). While one block of weights is multiplied the next one is
 * fetched into the second-level cache in the order in which it lies in memory, a stream that
 * memory likes better than the tiles' own 16 or 32 rows at once. */
#include "kernels.h"

#ifdef HAS_AMX

#ifdef FIDDLER_EMULATE_AMX
#include "amx_emulated.h"
#else
#include "target.h"
TARGET("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx2,fma")
#include "turn512.h"
#endif

/* The intrinsics do not tell the compiler all that they read. */
#define MADE(what) __asm__ volatile("" ::"r"(what) : "memory")

enum { CHUNK = 64 }; /* k-tiles, 64 bytes of each row, that are fetched ahead together */

void amx_begin(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    MADE(&config);
    _tile_loadconfig(&config);
}

void amx_end(void) { _tile_release(); }

/* One tile of weights, of rows or elements that are not all there, filled up with zeros. */
static void edge(uint16_t *tile, const uint16_t *w, int64_t stride, int64_t rows, int64_t left) {
    __builtin_memset(tile, 0, TILE_ELEMENTS * sizeof *tile);
    for (int64_t r = 0; r < rows; r++)
        __builtin_memcpy(tile + r * TILE_K, w + r * stride,
                         (size_t)least(left, TILE_K) * sizeof *tile);
    MADE(tile);
}

/* Lines [from, to) of the chunk of k-tiles `first`.. of the next block: row after row. */
typedef struct {
    const char *base[2];
    int64_t row_bytes, first, wide, from;
} Ahead;

INLINE void fetch(Ahead *ahead, int64_t lines) {
    int64_t row = ahead->from / ahead->wide, line = ahead->from % ahead->wide;
    ahead->from += lines;
    for (; lines && row < 2 * GROUP; lines--) {
        const char *group = ahead->base[row / GROUP];
        if (group)
            __builtin_prefetch(group + row % GROUP * ahead->row_bytes +
                               (ahead->first + line) * 64, 0, 2);
        if (++line == ahead->wide) line = 0, row++;
    }
}

void amx_tiles(const uint16_t *const w[2], int64_t stride, const int64_t rows[2], int64_t k,
               const uint16_t *x, int64_t tokens, float *out, const uint16_t *const next[2]) {
    const int64_t tiles = (k + TILE_K - 1) / TILE_K, whole = k / TILE_K;
    const int64_t chunks = (tiles + CHUNK - 1) / CHUNK, bytes = stride * (int64_t)sizeof **w;
    const int wide = tokens > TILE, both = rows[1] > 0;
    const uint16_t *y = x + tiles * TILE_ELEMENTS;
    uint16_t spare[2][TILE_ELEMENTS] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const int64_t first = tiles * chunk / chunks, last = tiles * (chunk + 1) / chunks;
        const int own = chunk + 1 < chunks; /* the next chunk is of the same rows */
        const int64_t then = own ? last : 0;
        const int64_t then_last = own ? tiles * (chunk + 2) / chunks : tiles / chunks;
        Ahead ahead = {.row_bytes = bytes, .first = then, .wide = then_last - then};
        if (next) {
            ahead.base[0] = (const char *)(own ? w[0] : next[0]);
            ahead.base[1] = (const char *)(own ? (both ? w[1] : NULL) : next[1]);
        }
        if (ahead.wide < 1) ahead.wide = 1;
        const int64_t lines = (2 * GROUP * ahead.wide + last - first - 1) / (last - first);
        for (int64_t i = first; i < last; i++) {
            const uint16_t *a = w[0] + i * TILE_K, *b = both ? w[1] + i * TILE_K : NULL;
            int64_t a_bytes = bytes, b_bytes = bytes;
            if (rows[0] < GROUP || i >= whole)
                edge(spare[0], a, stride, rows[0], k - i * TILE_K), a = spare[0], a_bytes = 64;
            if (both && (rows[1] < GROUP || i >= whole))
                edge(spare[1], b, stride, rows[1], k - i * TILE_K), b = spare[1], b_bytes = 64;
            if (next) fetch(&ahead, lines);
            _tile_loadd(6, x + i * TILE_ELEMENTS, 64);
            _tile_loadd(4, a, a_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (wide) {
                _tile_loadd(7, y + i * TILE_ELEMENTS, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (both) {
                _tile_loadd(5, b, b_bytes);
                _tile_dpbf16ps(2, 5, 6);
                if (wide) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    const int64_t row = (wide ? SLIVER : TILE) * (int64_t)sizeof *out;
    _tile_stored(0, out, row);
    if (wide) _tile_stored(1, out + TILE, row);
    if (both) _tile_stored(2, out + GROUP * SLIVER, row);
    if (both && wide) _tile_stored(3, out + GROUP * SLIVER + TILE, row);
}

INLINE void pack(const int64_t lanes, const uint16_t *const *rows, int64_t tokens, int64_t k,
                 uint16_t *tile) {
    const int64_t each = 2 * TILE / lanes; /* elements of a token in a row of the tile */
    for (int64_t i = 0; i < k; i += TILE_K, tile += lanes * TILE_K) {
        const int64_t some = least(TILE_K, k - i);
        if (tokens < lanes || some < TILE_K)
            __builtin_memset(tile, 0, (size_t)(lanes * TILE_K) * sizeof *tile);
#ifndef FIDDLER_EMULATE_AMX
        if (lanes == TILE && tokens == TILE && some == TILE_K) { /* pairs of elements are columns */
            __m512 pairs[TILE];
#pragma GCC unroll 16
            for (int t = 0; t < TILE; t++) pairs[t] = _mm512_loadu_ps(rows[t] + i);
            turn16(pairs);
#pragma GCC unroll 16
            for (int p = 0; p < TILE; p++) _mm512_storeu_ps(tile + p * TILE_K, pairs[p]);
            continue;
        }
#endif
        for (int64_t t = 0; t < tokens; t++) {
            const uint16_t *row = rows[t] + i;
            uint16_t *to = tile + each * t;
            if (some == TILE_K)
                for (int64_t p = 0; p < lanes; p++)
                    __builtin_memcpy(to + p * TILE_K, row + each * p, (size_t)each * sizeof *row);
            else
                for (int64_t j = 0; j < some; j++) to[j / each * TILE_K + j % each] = row[j];
        }
    }
}

void amx_pack(const uint16_t *const *rows, int64_t tokens, int64_t k, int64_t lanes,
              uint16_t *tile) {
    if (lanes == TILE)
        pack(TILE, rows, tokens, k, tile);
    else if (lanes == TILE / 2)
        pack(TILE / 2, rows, tokens, k, tile);
    else
        pack(TILE / 4, rows, tokens, k, tile);
}

/* Of narrow tiles, elements [at, at + end); those past `rows` are zero. */
INLINE void store_narrow(const int64_t lanes, const float *from, int64_t ld, int64_t rows,
                         int64_t at, int64_t end, uint16_t *to) {
    const int64_t each = 2 * TILE / lanes;
    for (int64_t r = 0; r < end; r++) {
        const uint64_t e = (uint64_t)(at + r), in = e % TILE_K;
        uint16_t *out = to + e / TILE_K * (uint64_t)(lanes * TILE_K) +
                        in / (uint64_t)each * TILE_K + in % (uint64_t)each;
        for (int64_t c = 0; c < lanes; c++) out[c * each] = r < rows ? to_bf16(from[r * ld + c]) : 0;
    }
}

void amx_store(const float *from, int64_t ld, int64_t rows, int64_t tokens, int64_t at, int64_t k,
               int64_t lanes, void *to) {
    static const float zeros[TILE] = {0};
    const int64_t tiles = (k + TILE_K - 1) / TILE_K;
    /* the last rows fill their tile up with zeros */
    const int64_t end = at + rows == k ? TILE_K - at % TILE_K : rows;
    if (lanes < TILE) {
        if (lanes == TILE / 2)
            store_narrow(TILE / 2, from, ld, rows, at, end, to);
        else
            store_narrow(TILE / 4, from, ld, rows, at, end, to);
        return;
    }
    for (int64_t t = 0; t < tokens; t += TILE) {
        uint16_t *tile = (uint16_t *)to + (t / TILE * tiles + at / TILE_K) * TILE_ELEMENTS;
        for (int64_t r = 0; r < end; r += 2) {
            uint32_t pairs[TILE];
            const float *one = r < rows ? from + r * ld + t : zeros;
            const float *two = r + 1 < rows ? from + (r + 1) * ld + t : zeros;
            for (int c = 0; c < TILE; c++)
                pairs[c] = to_bf16(one[c]) | (uint32_t)to_bf16(two[c]) << 16;
            __builtin_memcpy(tile + (at % TILE_K + r) / 2 * TILE_K, pairs, sizeof pairs);
        }
    }
}

#ifndef FIDDLER_EMULATE_AMX
TARGET_END
#endif

#endif
