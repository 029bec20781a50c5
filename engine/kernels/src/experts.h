/* The library's calls. Pointers are to memory of the layer's dtype unless a type says otherwise. */
#ifndef EXPERTS_H
#define EXPERTS_H

#include "kernels.h"

/* How the experts of a layer are stored: rows of `up` are outputs ((2I, H), or (I, H) without a
 * gate), of `down` too ((H, I)); transposed, rows are inputs ((H, 2I) and (I, H)). Interleaved: gate
 * and up take turns; else all of the gate comes first. */
typedef struct {
    int64_t hidden, intermediate, dtype, gated, interleaved, transposed, tiles_from;
    int64_t activation;
    double alpha, offset, limit;
    int64_t bits, group; /* 8 or 4: weights are quantised (quant.h), rows are outputs; 0: not */
} FiddlerLayer;

/* One expert's part of a call. All fields are of 8 bytes. */
typedef struct {
    const void *up, *down, *up_bias, *down_bias; /* a bias may be NULL */
    int64_t up_stride, down_stride;              /* from row to row as stored, in elements */
    const int64_t *tokens;                       /* rows of x and out; NULL: 0 .. count - 1 */
    const float *weights;                        /* of routing; NULL: ones */
    int64_t count;
    const uint16_t *up_scales, *down_scales; /* of quantised weights; their strides are in bytes */
} FiddlerExpert;

#endif
