/* Attention of a layer, as fiddler_attend takes it. All fields are of 8 bytes. */
#ifndef ATTEND_H
#define ATTEND_H

#include "kernels.h"

enum { MOST_HEAD = 512 }; /* elements */

/* Weights, biases (or NULL) and rows' strides of query, key, value and output; norms (or NULL) of query
 * and key, of a head's elements or all heads'. `rotary`: of a head's elements, the first so many turn,
 * each with the one half of them away. */
typedef struct {
    int64_t hidden, heads, kv_heads, head, rotary, dtype;
    double scale, eps;
    const void *weight[4], *bias[4];
    int64_t stride[4];
    const void *norm[2];
    int64_t norm_size[2];
} FiddlerAttention;

#endif
