/* SE, ECA and CBAM for maps in channels_last, whose positions are vectors over the C channels: sums
   by channel, sums by position, and products of both. */

#pragma once

#include <math.h>

#include "native.h"
#include "native_maps.h"

enum { LINE = 16, TILE_ELEMENTS = 1 << 14 }; /* elements of a cache line, and about of a tile */

void icasa_transpose_tile(const float *, float *, int64_t, int64_t); /* of native_transpose.c */

/* Sums of x over some positions, by channel: of four in float32, as plane_sum has them. */
UNUSED VECTORISED static void channel_sums(const float *restrict x, double *restrict sums,
                                           int64_t positions, int64_t C) {
    int64_t i = 0;
    memset(sums, 0, C * sizeof(double));
    for (; i + ROWS <= positions; i += ROWS, x += ROWS * C) {
        for (int64_t c = 0; c < ROWS * C; c += LINE) /* as four rows in turn look like no stream */
            __builtin_prefetch(x + ROWS * C + c);
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

/* Likewise the maxima but for NaN, which reaches every gate of its sample by the sums. */
UNUSED VECTORISED static void channel_maxima(const float *restrict x, float *restrict top,
                                             int64_t positions, int64_t C) {
    int64_t i = 0;
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
}

/* Sums of g * x, by channel. */
UNUSED VECTORISED static void channel_dots(const float *restrict g, const float *restrict x,
                                           double *restrict sums, int64_t positions, int64_t C) {
    int64_t i = 0;
    memset(sums, 0, C * sizeof(double));
    for (; i + 2 <= positions; i += 2, g += 2 * C, x += 2 * C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            sums[c] += (double)g[c] * x[c] + (double)g[C + c] * x[C + c];
    }
    for (; i < positions; i++, g += C, x += C) {
        LANES
        for (int64_t c = 0; c < C; c++)
            sums[c] += (double)g[c] * x[c];
    }
}

/* y = x * gate * weight, by channel and by position. */
UNUSED VECTORISED static void scale_both(const float *restrict x, float *restrict y,
                                         const float *restrict gate, const float *restrict weight,
                                         int64_t positions, int64_t C) {
    for (int64_t i = 0; i < positions; i++, x += C, y += C) {
        float of = weight[i];
        LANES
        for (int64_t c = 0; c < C; c++)
            y[c] = x[c] * gate[c] * of;
    }
}

/* Sums of g * x * gate over the channels, and of g * x * weight over the positions. */
UNUSED VECTORISED static void both_sums(const float *restrict g, const float *restrict x,
                                        const double *restrict gate, const float *restrict weight,
                                        double *restrict by_position, double *restrict by_channel,
                                        int64_t positions, int64_t C) {
    int64_t i = 0;
    memset(by_channel, 0, C * sizeof(double));
    for (; i + ROWS <= positions; i += ROWS, g += ROWS * C, x += ROWS * C) {
        double s = 0, t = 0, u = 0, v = 0;
        double a = weight[i], b = weight[i + 1], p = weight[i + 2], q = weight[i + 3];
        SUM(s, t, u, v)
        for (int64_t c = 0; c < C; c++) {
            double k = (double)g[c] * x[c], l = (double)g[C + c] * x[C + c];
            double m = (double)g[2 * C + c] * x[2 * C + c], n = (double)g[3 * C + c] * x[3 * C + c];
            s += k * gate[c], t += l * gate[c], u += m * gate[c], v += n * gate[c];
            by_channel[c] += (k * a + l * b) + (m * p + n * q);
        }
        by_position[i] = s, by_position[i + 1] = t, by_position[i + 2] = u, by_position[i + 3] = v;
    }
    for (; i < positions; i++, g += C, x += C) {
        double s = 0, a = weight[i];
        SUM(s)
        for (int64_t c = 0; c < C; c++) {
            double k = (double)g[c] * x[c];
            s += k * gate[c];
            by_channel[c] += k * a;
        }
        by_position[i] = s;
    }
}

/* The channel that alone is the maximum, or -1. */
INLINE int64_t chosen_channel(MapGradients m, int64_t i, int64_t C) {
    return m.index[i] >= 0 && m.index[i] < C ? (int64_t)m.index[i] : -1;
}

/* Sums of x by the gradients of the maps of its position, and `counts` how often x is `top`, by
   channel. */
UNUSED VECTORISED static void map_sums(const float *restrict x, MapGradients m,
                                       const double *restrict gate, const float *restrict top,
                                       double *restrict sums, double *restrict counts,
                                       int64_t positions, int64_t C) {
    memset(sums, 0, C * sizeof(double));
    memset(counts, 0, C * sizeof(double));
    for (int64_t i = 0; i < positions; i++, x += C) {
        double dmean = m.dmean[i], dmax = m.dmax[i];
        int64_t chosen = chosen_channel(m, i, C);
        LANES
        for (int64_t c = 0; c < C; c++) {
            sums[c] += x[c] * dmean;
            counts[c] += x[c] == top[c] ? 1.0 : 0.0;
        }
        if (chosen >= 0)
            sums[chosen] += x[chosen] * dmax;
        for (int64_t c = 0; chosen < 0 && m.tied && c < C; c++)
            sums[c] += x[c] * gate[c] == m.tied[i] ? x[c] * dmax : 0;
    }
}

/* dx as map_backward has it. */
UNUSED VECTORISED static void both_backward(const float *restrict g, const float *restrict x,
                                            float *restrict dx, const float *restrict weight,
                                            MapGradients m, const double *restrict gate,
                                            const float *restrict factor,
                                            const float *restrict constant,
                                            const float *restrict top,
                                            const float *restrict share, int64_t positions,
                                            int64_t C) {
    for (int64_t i = 0; i < positions; i++, g += C, x += C, dx += C) {
        float of = weight[i], dmean = m.dmean[i], both = dmean + m.dmax[i];
        int64_t chosen = chosen_channel(m, i, C);
        LANES
        for (int64_t c = 0; c < C; c++)
            dx[c] = (g[c] * of + dmean) * factor[c] +
                    (constant[c] + (x[c] == top[c] ? share[c] : 0));
        for (int64_t c = chosen < 0 ? 0 : chosen; c < (chosen < 0 ? C : chosen + 1); c++)
            if (c == chosen || (m.tied && x[c] * gate[c] == m.tied[i]))
                dx[c] = (g[c] * of + both) * factor[c] +
                        (constant[c] + (x[c] == top[c] ? share[c] : 0));
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
