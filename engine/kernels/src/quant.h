/* Weights of 8 or 4 bits with a scale for each group of them: numbers are level * scale, rounded to
 * the panel's dtype. Rows are outputs, levels and scales of a row lie one after the other. A group is
 * a multiple of 32 and divides both sizes of an expert.
 *
 * 8 bits: a signed byte a level, in order. 4 bits: two bytes hold four levels, each plus 8, lowest
 * bits first; bytes [2i, 2i + 2) of a group of g levels hold levels i, g/4 + i, g/2 + i, 3g/4 + i.
 * So a register shifted by 0, 4, 8 and 12 bits holds, in the lowest bits of each pair of bytes, four
 * stretches of levels in their order. engine/quantise.py writes this. */
#ifndef QUANT_H
#define QUANT_H

#include "panel.h"

/* Bytes that 2 * GROUP rows take as numbers. */
int64_t quant_bytes(int64_t k, int bf16);

/* Whether `tokens` of a panel need no memory for numbers. */
int quant_in_registers(const Isa *isa, const Panel *panel, int64_t group, int64_t tokens);

/* As multiply, of quantised rows. `numbers`: memory of quant_bytes, which keeps these rows' numbers
 * from the panel's first tokens to its last; unused in registers. */
int64_t quant_multiply(const Isa *isa, const Panel *panel, const Quant rows_of[2],
                       const int64_t rows[2], int64_t k, int64_t token, int64_t tokens,
                       int64_t tokens_of_panel, float *out, void *numbers);

#endif
