/* The spatial stage of CBAM for native_weigh_*.c: maps of the maximum and the mean over channels,
   and their convolution. Both maps are in float64, as is a product that decides which channel is the
   maximum: float32 might find another than plain PyTorch. */

#pragma once

#include <math.h>

#include "native.h"

enum { TILE_SIZE = 1024, RUN = 8 * LANE, GROUP = 4 }; /* positions; outputs, taps at a time */

/* Takes channel c into the maps. `index` is the channel of the maximum, or -1 of several. */
UNUSED VECTORISED static void add_channel(const float *restrict x, double gate, double c,
                                          double *restrict max, double *restrict sum,
                                          double *restrict index, int64_t size) {
    if (c == 0) {
        LANES
        for (int64_t i = 0; i < size; i++) {
            max[i] = sum[i] = x[i] * gate;
            index[i] = 0;
        }
        return;
    }
    LANES
    for (int64_t i = 0; i < size; i++) {
        double value = x[i] * gate, high = max[i];
        index[i] = value > high ? c : value == high ? -1 : index[i];
        max[i] = value > high ? value : high;
        sum[i] += value;
    }
}

/* A NaN of a channel is the maximum. */
UNUSED VECTORISED static void add_nan(const float *restrict x, double gate, double *restrict max,
                                      double *restrict index, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++) {
        double value = x[i] * gate;
        max[i] = value != value ? value : max[i];
        index[i] = value != value ? -1 : index[i];
    }
}

/* Maps of H x W with zeros around for a window of k x k: rows are W + k - 1 apart, and a product
   over all rows at once reads some elements beyond the last. */
typedef struct {
    int64_t H, W, k, wide, distance, size; /* distance between maps, size of two */
} Padded;

INLINE Padded padded_of(Shape d, int64_t k) {
    int64_t wide = d.W + k - 1, distance = (d.H + k - 1) * wide;
    return (Padded){d.H, d.W, k, wide, distance, 2 * distance + RUN + GROUP + k};
}

INLINE double *row_of(double *padded, Padded s, int64_t h) {
    return padded + (h + s.k / 2) * s.wide + s.k / 2;
}

/* Pads a map. */
INLINE void pad(const double *map, double *padded, Padded s) {
    for (int64_t h = 0; h < s.H; h++)
        memcpy(row_of(padded, s, h), map + h * s.W, s.W * sizeof(double));
}

/* Outputs q .. q + RUN - 1, with rows `wide` apart, of a convolution of one map or two. */
VECTORISED static void convolve(const double *padded, const double *weight, int maps, double *out,
                                int64_t q, Padded s) {
    Doubles sums[RUN / LANE] = {{0}};
    for (int m = 0; m < maps; m++)
        for (int64_t i = 0; i < s.k; i++) {
            const double *line = padded + m * s.distance + i * s.wide + q;
            for (int64_t j = 0; j < s.k; j++, line++) {
                double tap = weight[(m * s.k + i) * s.k + j];
                UNROLL
                for (int r = 0; r < RUN / LANE; r++)
                    sums[r] += tap * *(const Doubles *)(line + r * LANE);
            }
        }
    memcpy(out + q, sums, sizeof(sums));
}

/* The gradient of the taps of row i of map m, from that of the output, which is padded too. Row by
   row and without those of zeros, which would make NaN of what is not finite. */
UNUSED VECTORISED static void correlate(double *gradient, double *padded, double *out, int64_t m,
                                        int64_t i, Padded s) {
    int64_t above = s.k / 2 - i, first = above > 0 ? above : 0;
    int64_t end = above < 0 ? s.H + above : s.H; /* rows of the output that read one of the map */
    for (int64_t j = 0; j < s.k; j += GROUP) {
        double sums[GROUP] = {0};
        for (int64_t h = first; h < end; h++) {
            const double *g = row_of(gradient, s, h);
            const double *line = padded + m * s.distance + (h + i) * s.wide + j;
            double a = 0, b = 0, c = 0, d = 0;
            SUM(a, b, c, d)
            for (int64_t w = 0; w < s.W; w++) {
                a += g[w] * line[w];
                b += g[w] * line[w + 1];
                c += g[w] * line[w + 2];
                d += g[w] * line[w + 3];
            }
            sums[0] += a, sums[1] += b, sums[2] += c, sums[3] += d;
        }
        int64_t left = s.k - j < GROUP ? s.k - j : GROUP;
        memcpy(out + (m * s.k + i) * s.k + j, sums, left * sizeof(double));
    }
}

/* Saves a map about one of its elements where it is near this everywhere, so that float32 loses
   nothing at an offset, and as it is where one may be small beside it; returns that element or 0. */
UNUSED VECTORISED static float save_map(const double *map, float *out, int64_t size) {
    double low = map[0], high = map[0];
    PRAGMA(omp simd reduction(min : low) reduction(max : high))
    for (int64_t i = 0; i < size; i++) {
        low = map[i] < low ? map[i] : low;
        high = map[i] > high ? map[i] : high;
    }
    float shift = 2 * (high - low) < fabs(low) ? low : 0; /* also where low is infinite */
    LANES
    for (int64_t i = 0; i < size; i++)
        out[i] = map[i] - shift;
    return shift;
}

UNUSED VECTORISED static void restore_map(const float *saved, float shift, double *map,
                                          int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        map[i] = (double)saved[i] + shift;
}

/* Adds g * x * gate of one channel to `sums`; returns the sum of g * x * weight. */
UNUSED VECTORISED static double add_gradient(const float *restrict g, const float *restrict x,
                                             double gate, const float *restrict weight,
                                             double *restrict sums, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++) {
        double product = (double)g[i] * x[i];
        sums[i] += product * gate;
        total += product * weight[i];
    }
    return total;
}

/* The gradients of the maps of a sample: dmean of each channel, dmax of the channel `index`, or
   where there are several, of those whose product equals `tied`, which is null if there are none. */
typedef struct {
    const float *dmean, *dmax, *index;
    const double *tied;
} MapGradients;

/* That of x * gate in channel c at position i. */
INLINE float map_gradient(MapGradients m, float x, double gate, float c, int64_t i, int ties) {
    int chosen = m.index[i] == c;
    if (ties)
        chosen |= x * gate == m.tied[i];
    return m.dmean[i] + (chosen ? m.dmax[i] : 0);
}

/* Sum of x by the gradients of the maps; `count` gets how often x is `top`. */
INLINE double map_product(const float *restrict x, MapGradients m, double gate, float c, float top,
                          double *count, int64_t size, int ties) {
    double total = 0;
    int equal = 0;
    SUM(total, equal)
    for (int64_t i = 0; i < size; i++) {
        total += (double)x[i] * map_gradient(m, x[i], gate, c, i, ties);
        equal += x[i] == top;
    }
    *count = equal;
    return total;
}

UNUSED VECTORISED static double product_alone(const float *x, MapGradients m, double gate, float c,
                                              float top, double *count, int64_t size) {
    return map_product(x, m, gate, c, top, count, size, 0);
}

UNUSED VECTORISED static double product_of_ties(const float *x, MapGradients m, double gate,
                                                float c, float top, double *count, int64_t size) {
    return map_product(x, m, gate, c, top, count, size, 1);
}

/* dx = (g * weight + the gradient of the maps) * gate + constant, + share where x is `top`. */
INLINE void map_backward(const float *restrict g, const float *restrict x, float *restrict dx,
                         const float *restrict weight, MapGradients m, double gate, float c,
                         float top, float constant, float share, int64_t size, int ties) {
    float factor = gate;
    LANES
    for (int64_t i = 0; i < size; i++)
        dx[i] = (g[i] * weight[i] + map_gradient(m, x[i], gate, c, i, ties)) * factor +
                (constant + (x[i] == top ? share : 0));
}

UNUSED VECTORISED static void backward_alone(const float *g, const float *x, float *dx,
                                             const float *weight, MapGradients m, double gate,
                                             float c, float top, float constant, float share,
                                             int64_t size) {
    map_backward(g, x, dx, weight, m, gate, c, top, constant, share, size, 0);
}

UNUSED VECTORISED static void backward_of_ties(const float *g, const float *x, float *dx,
                                               const float *weight, MapGradients m, double gate,
                                               float c, float top, float constant, float share,
                                               int64_t size) {
    map_backward(g, x, dx, weight, m, gate, c, top, constant, share, size, 1);
}
