#ifndef PANEL_H
#define PANEL_H

#include "kernels.h"

/* `tiled`: see amx_pack. Else a row per token of floats or bf16, zero from k on. */
typedef struct {
    int tiled, bf16;
    void *memory;
} Panel;

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

#endif
