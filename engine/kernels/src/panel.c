/* Tokens gathered for a product, in the layout that it reads. */
#include "panel.h"

int64_t panel_bytes(const Panel *panel, int64_t k, int64_t tokens) {
    if (panel->tiled)
        return round_up(tokens, TILE) / TILE * (round_up(k, TILE_K) / TILE_K) *
               (int64_t)(TILE_ELEMENTS * sizeof(uint16_t));
    return tokens * panel_stride(k) * (panel->bf16 ? 2 : 4);
}

const void *panel_at(const Panel *panel, int64_t k, int64_t token) {
    return (const char *)panel->memory + panel_bytes(panel, k, token);
}

/* Tokens [from, to) of the panel; `from` begins a tile. */
void panel_gather(const Panel *panel, int64_t k, int64_t from, int64_t to, int dtype,
                  const void *x, int64_t stride, const int64_t *token) {
    const int64_t bytes = stride * element_bytes(dtype);
    char *memory = (char *)panel->memory + panel_bytes(panel, k, from);
    if (panel->tiled) {
#ifdef HAS_AMX
        for (int64_t t = from; t < to; t += TILE) {
            const uint16_t *rows[TILE];
            const int64_t some = least(TILE, to - t);
            const int64_t lanes = t % SLIVER ? TILE : tile_lanes(panel->narrow, some);
            for (int64_t i = 0; i < some; i++)
                rows[i] = (const void *)((const char *)x + token[t + i] * bytes);
            amx_pack(rows, some, k, lanes, (uint16_t *)(void *)memory);
            memory += panel_bytes(panel, k, TILE);
        }
#endif
        return;
    }
    const int64_t wide = panel_stride(k);
    for (int64_t t = from; t < to; t++, memory += wide * (panel->bf16 ? 2 : 4)) {
        const void *row = (const char *)x + token[t] * bytes;
        if (panel->bf16) {
            uint16_t *out = (uint16_t *)(void *)memory;
            __builtin_memcpy(out, row, (size_t)k * sizeof *out);
            __builtin_memset(out + k, 0, (size_t)(wide - k) * sizeof *out);
            continue;
        }
        float *out = (float *)(void *)memory;
        if (dtype == F32)
            __builtin_memcpy(out, row, (size_t)k * sizeof *out);
        else
            for (int64_t i = 0; i < k; i++) out[i] = from_any(dtype, row, i);
        __builtin_memset(out + k, 0, (size_t)(wide - k) * sizeof *out);
    }
}

/* Columns from k on to zero: what is stored later leaves them alone. */
void panel_clear_ends(const Panel *panel, int64_t k, int64_t from, int64_t to) {
    if (panel->tiled) return; /* stored whole */
    const int64_t wide = panel_stride(k), size = panel->bf16 ? 2 : 4;
    for (int64_t t = from; t < to; t++)
        __builtin_memset((char *)panel->memory + (t * wide + k) * size, 0,
                         (size_t)((wide - k) * size));
}
