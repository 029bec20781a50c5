/* AMX's tiles in plain C, slow, for tests on machines without them: -DFIDDLER_EMULATE_AMX. */
#include <stdlib.h>

typedef struct {
    int configured;
    uint32_t row[8][16][16];
} EmulatedTiles;

static _Thread_local EmulatedTiles emulated;

static void emulated_check(int tile) {
    if (!emulated.configured || tile < 0 || tile > 7) abort();
}
static void _tile_loadconfig(const void *config) {
    const uint8_t *bytes = config;
    if (bytes[0] != 1) abort();
    emulated.configured = 1;
    for (int i = 0; i < 8; i++) /* full tiles are all we use */
        if (bytes[16 + 2 * i] != 64 || bytes[48 + i] != 16) abort();
}
static void _tile_release(void) { emulated.configured = 0; }
static void _tile_zero(int tile) {
    emulated_check(tile);
    __builtin_memset(emulated.row[tile], 0, sizeof emulated.row[tile]);
}
static void _tile_loadd(int tile, const void *base, int64_t stride) {
    emulated_check(tile);
    for (int r = 0; r < 16; r++)
        __builtin_memcpy(emulated.row[tile][r], (const char *)base + r * stride, 64);
}
static void _tile_stored(int tile, void *base, int64_t stride) {
    emulated_check(tile);
    for (int r = 0; r < 16; r++)
        __builtin_memcpy((char *)base + r * stride, emulated.row[tile][r], 64);
}
static void _tile_dpbf16ps(int to, int a, int b) {
    emulated_check(to), emulated_check(a), emulated_check(b);
    for (int m = 0; m < 16; m++)
        for (int p = 0; p < 16; p++)
            for (int n = 0; n < 16; n++) {
                const uint32_t u = emulated.row[a][m][p], v = emulated.row[b][p][n];
                float sum = bits_float(emulated.row[to][m][n]);
                sum += bits_float(u << 16) * bits_float(v << 16);
                sum += bits_float(u & 0xffff0000) * bits_float(v & 0xffff0000);
                emulated.row[to][m][n] = float_bits(sum);
            }
}
