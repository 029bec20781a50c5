/* Products of quantised weights: in registers, or as numbers that stay in a cache for all tokens. */
#include "quant.h"

/* From row to row, in elements: not a power of two, or rows would share a set of the cache. */
static int64_t width(int64_t k) { return round_up(k, 64) + 32; }

int64_t quant_bytes(int64_t k, int bf16) { return 2 * GROUP * width(k) * (bf16 ? 2 : 4); }

static int has_few(const Isa *isa, const Panel *panel, int64_t group) {
    return isa->few && panel->bf16 && !panel->tiled && group == QUANT_GROUP;
}

int quant_in_registers(const Isa *isa, const Panel *panel, int64_t group, int64_t tokens) {
    return tokens <= FEW && has_few(isa, panel, group);
}

int64_t quant_multiply(const Isa *isa, const Panel *panel, const Quant rows_of[2],
                       const int64_t rows[2], int64_t k, int64_t token, int64_t tokens,
                       int64_t tokens_of_panel, float *out, void *numbers) {
    const int64_t ld = width(k), group = rows_of->group;
    const int few = has_few(isa, panel, group);
    const int keep = !quant_in_registers(isa, panel, group, tokens_of_panel);
    const void *w[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        if (!rows[i]) continue;
        void *kept = keep ? (char *)numbers + i * quant_bytes(k, panel->bf16) / 2 : NULL;
        if (!token && few)
            isa->few(&rows_of[i], rows[i], k, panel_at(panel, k, token), panel_stride(k), tokens,
                     out + i * GROUP * SLIVER, tokens, kept, ld);
        else if (!token)
            isa->fill(&rows_of[i], rows[i], k, panel->bf16, kept, ld);
        w[i] = kept;
    }
    if (!token && few) return tokens;
    return multiply(isa, panel->bf16 ? BF16 : F32, panel, w, NULL, ld, rows, k, token, tokens,
                    out);
}
