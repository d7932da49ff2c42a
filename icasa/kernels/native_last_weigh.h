/* SE, ECA and CBAM for maps in channels_last, whose positions are vectors over the C channels: sums by
   channel, in float64, sums by position, and products of both. */

#pragma once

#include <math.h>

#include "native.h"

enum { TILE_ELEMENTS = 8192, FEWEST = 16 }; /* of a tile, and its fewest positions */

/* Sums of x over some positions, by channel. */
UNUSED VECTORISED static void channel_sums(const float *restrict x, double *restrict sums,
                                           int64_t positions, int64_t C) {
    int64_t i = 0;
    memset(sums, 0, C * sizeof(double));
    for (; i + ROWS <= positions; i += ROWS, x += ROWS * C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            sums[c] += (x[c] + x[C + c]) + (x[2 * C + c] + x[3 * C + c]);
    }
    for (; i < positions; i++, x += C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            sums[c] += x[c];
    }
}

INLINE float greater(float a, float b) { return a > b ? a : b; }

/* Likewise the maxima; `sums` are there, as a NaN is its channel's maximum. */
UNUSED VECTORISED static void channel_maxima(const float *restrict x, const double *restrict sums,
                                             float *restrict top, int64_t positions, int64_t C) {
    int64_t i = 0, nan = 0;
    memcpy(top, x, C * sizeof(float));
    for (const float *of = x; i + ROWS <= positions; i += ROWS, of += ROWS * C) {
        LANES
        for (int64_t c = 0; c < C; c++) {
            float a = greater(of[c], of[C + c]), b = greater(of[2 * C + c], of[3 * C + c]);
            top[c] = greater(greater(a, b), top[c]);
        }
    }
    for (; i < positions; i++) {
        LANES
        for (int64_t c = 0; c < C; c++)
            top[c] = greater(x[i * C + c], top[c]);
    }
    for (int64_t c = 0; c < C; c++)
        nan |= sums[c] != sums[c];
    for (int64_t j = 0; nan && j < positions * C; j++)
        top[j % C] = x[j] != x[j] ? x[j] : top[j % C];
}

/* Sums of g * x, by channel. */
UNUSED VECTORISED static void channel_dots(const float *restrict g, const float *restrict x,
                                           double *restrict sums, int64_t positions, int64_t C) {
    int64_t i = 0;
    memset(sums, 0, C * sizeof(double));
    for (; i + ROWS <= positions; i += ROWS, g += ROWS * C, x += ROWS * C) {
        LANES
        for (int64_t c = 0; c < C; c++) {
            double a = (double)g[c] * x[c] + (double)g[C + c] * x[C + c];
            double b = (double)g[2 * C + c] * x[2 * C + c] + (double)g[3 * C + c] * x[3 * C + c];
            sums[c] += a + b;
        }
    }
    for (; i < positions; i++, g += C, x += C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            sums[c] += (double)g[c] * x[c];
    }
}

/* y = x * gate + constant, both by channel; no constant if it is null. */
UNUSED VECTORISED static void scale_channels(const float *restrict x, float *restrict y,
                                             const float *restrict gate,
                                             const float *restrict constant, int64_t positions,
                                             int64_t C) {
    for (int64_t i = 0; !constant && i < positions; i++, x += C, y += C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            y[c] = x[c] * gate[c];
    }
    for (int64_t i = 0; constant && i < positions; i++, x += C, y += C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            y[c] = x[c] * gate[c] + constant[c];
    }
}
