#ifndef PANEL_H
#define PANEL_H

#include "kernels.h"

/* `tiled`: see amx_pack. Else a row per token of floats or bf16, zero from k on. */
typedef struct {
    int tiled, narrow, bf16;
    void *memory;
} Panel;

/* Tokens of a tile, where a sliver is of so many. */
INLINE int64_t tile_lanes(int narrow, int64_t tokens) {
    return !narrow || tokens > TILE / 2 ? TILE : tokens > TILE / 4 ? TILE / 2 : TILE / 4;
}

/* Whether so many bf16 tokens are the faster way in tiles. Few wait for memory in either; of more, a
 * sliver or a tile takes as long as a full one. */
INLINE int suits_tiles(const Isa *isa, int64_t tokens) {
    if (!isa->tiles || !isa->tiles_from || tokens < isa->tiles_from) return 0;
    if (!isa->tiles_full) return 1;
    if (isa->narrow && tokens <= TILE) return tokens <= TILE / 2 || tokens >= TILE - 1;
    const int64_t rest = tokens % SLIVER, lanes = rest > TILE ? SLIVER : tile_lanes(isa->narrow, rest);
    return 8 * tokens >= 7 * (tokens - rest + (rest ? lanes : 0));
}

/* A panel without memory yet, of tokens of this dtype. */
INLINE Panel panel_of(const Isa *isa, int dtype, int tiled) {
    return (Panel){.tiled = tiled, .narrow = tiled && isa->narrow,
                   .bf16 = dtype == BF16 && (tiled || isa->native_bf16)};
}

/* Elements from row to row: a line more than the rows, or rows of a size that is a multiple of a
 * page would all fall on the same few lines of the nearest cache. */
INLINE int64_t panel_stride(int64_t k) { return round_up(k, PAD) + 32; }

int64_t panel_bytes(const Panel *panel, int64_t k, int64_t tokens);
const void *panel_at(const Panel *panel, int64_t k, int64_t token);
void panel_gather(const Panel *panel, int64_t k, int64_t from, int64_t to, int dtype,
                  const void *x, int64_t stride, const int64_t *token);
void panel_clear_ends(const Panel *panel, int64_t k, int64_t from, int64_t to);

/* Up to two groups of rows by up to SLIVER tokens of a panel, from `token` on:
 * out[group][row][ld]. Returns ld. */
INLINE int64_t multiply(const Isa *isa, int dtype, const Panel *panel, const void *const w[2],
                        const void *const next[2], int64_t stride, const int64_t rows[2], int64_t k,
                        int64_t token, int64_t tokens, float *out) {
    if (panel->tiled) {
        const uint16_t *const groups[2] = {w[0], w[1]};
        const uint16_t *const then[2] = {next ? next[0] : NULL, next ? next[1] : NULL};
        isa->tiles(groups, stride, rows, k, panel_at(panel, k, token), tokens, out,
                   next ? then : NULL);
        return tokens > TILE ? SLIVER : TILE;
    }
    for (int i = 0; i < 2; i++)
        if (rows[i])
            isa->dot[dtype](w[i], stride, rows[i], k, panel_at(panel, k, token),
                            panel_stride(k), tokens, out + i * GROUP * SLIVER, tokens);
    return tokens;
}

/* Two groups of rows from `row` on of a weight of `outputs` rows, as multiply; says how many of each
 * there are. */
INLINE int64_t multiply_rows(const Isa *isa, int dtype, const Panel *panel, const void *w,
                             int64_t stride, int64_t outputs, int64_t row, int64_t k, int64_t token,
                             int64_t tokens, int64_t rows[2], float *out) {
    const int64_t bytes = element_bytes(dtype) * stride, later = row + 2 * GROUP;
    const char *at = (const char *)w + row * bytes, *then = at + 2 * GROUP * bytes;
    const void *parts[2] = {at, at + GROUP * bytes}, *next[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        const int64_t left = outputs - row - i * GROUP;
        rows[i] = left > 0 ? least(GROUP, left) : 0;
        if (later + i * GROUP < outputs) next[i] = then + i * GROUP * bytes;
    }
    return multiply(isa, dtype, panel, parts, token ? NULL : next, stride, rows, k, token, tokens,
                    out);
}

#endif
