/* dot.h and wide.h for weights of all dtypes and panels of floats. Before it: what both ask for,
 * and load_f32, load_bf16, load_f16 (LANES elements to floats). */

#define NAME dot_f32
#define WEIGHT float
#define PANEL float
#define STEP LANES
#define VEC_W VEC
#define LOAD_W(p) load_f32(p)
#define LOAD_X(p) LOAD_F(p)
#define MAC(acc, w, x) FMA(acc, w, x)
#include "dot.h"

#ifndef OWN_BF16 /* a product of bf16 by bf16 */
#define NAME dot_bf16
#define WEIGHT uint16_t
#define PANEL float
#define STEP LANES
#define VEC_W VEC
#define LOAD_W(p) load_bf16(p)
#define LOAD_X(p) LOAD_F(p)
#define MAC(acc, w, x) FMA(acc, w, x)
#include "dot.h"
#endif

#define NAME dot_f16
#define WEIGHT uint16_t
#define PANEL float
#define STEP LANES
#define VEC_W VEC
#define LOAD_W(p) load_f16(p)
#define LOAD_X(p) LOAD_F(p)
#define MAC(acc, w, x) FMA(acc, w, x)
#include "dot.h"

#define NAME wide_f32
#define WEIGHT float
#define LOAD_W(p) load_f32(p)
#include "wide.h"

#define NAME wide_bf16
#define WEIGHT uint16_t
#define LOAD_W(p) load_bf16(p)
#include "wide.h"

#define NAME wide_f16
#define WEIGHT uint16_t
#define LOAD_W(p) load_f16(p)
#include "wide.h"
