/* The gradients of Eq. 8 to 10 for native_backward.c: from those of the gates before their sigmoids
   to those of the means and of the parameters. */

#pragma once

#include "native.h"

/* From t, the gradient at a tile before the gates' sigmoids, that before h_swish, dn (N, M, L), and
   h (N, M, L), what h_swish gave. */
VECTORISED static void expand_backward(const float *t, const Layer *layer, const Saved *saved,
                                       float *h, float *dn, Tile tile, Shape d) {
    double sum[WIDEST][TILE] = {{0}}, u[COLUMNS][TILE] = {{0}};
    const float *weight = layer->params.to_axis[2 * tile.axis];
    int64_t L = d.H + d.W;
    for (int64_t first = 0; first < d.C; first += COLUMNS) {
        int64_t count = d.C - first < COLUMNS ? d.C - first : COLUMNS;
        for (int64_t c = 0; c < count; c++)
            for (int64_t i = 0; i < tile.count; i++)
                u[c][i] = t[(tile.n * d.C + first + c) * L + tile.start + i];
        multiply(weight + first * layer->M, u, sum, tile.count, layer->M, count, 1, layer->M);
    }
    for (int64_t m = 0; m < layer->M; m++) {
        float gain = layer->params.norm[0] ? layer->params.norm[0][m] : 1;
        int64_t at = (tile.n * layer->M + m) * L + tile.start;
        for (int64_t i = 0; i < tile.count; i++) {
            float normed = saved->hat[at + i] * gain + saved->norm_bias[m];
            h[at + i] = h_swish(normed);
            double slope = h_swish_slope(normed);
            dn[at + i] = slope != 0 ? sum[m][i] * slope : 0; /* also where the sum is infinite */
        }
    }
}

/* Replaces row m of dn by the gradient before the norm; returns its sum. */
VECTORISED static double norm_backward(float *dn, const Layer *layer, const Saved *saved,
                                       const Parameters *grads, int64_t m, Shape d) {
    int64_t L = d.H + d.W;
    double total = 0, weighted = 0, count = (double)d.N * L;
    for (int64_t n = 0; n < d.N; n++) {
        int64_t at = (n * layer->M + m) * L;
        SUM(total)
        for (int64_t l = at; l < at + L; l++)
            total += dn[l];
        weighted += dot(dn + at, saved->hat + at, L);
    }
    if (!layer->params.norm[0])
        return total;
    grads->norm[0][m] = weighted;
    grads->norm[1][m] = total;
    float gain = layer->params.norm[0][m] * saved->scale[m];
    float mean = total / count, slope = weighted / count;
    for (int64_t n = 0; n < d.N; n++) {
        float *row = dn + (n * layer->M + m) * L;
        const float *hat = saved->hat + (n * layer->M + m) * L;
        LANES
        for (int64_t l = 0; l < L; l++)
            row[l] = gain * (layer->training ? row[l] - mean - hat[l] * slope : row[l]);
    }
    return layer->training ? total - total : gain * total; /* 0, unless it is not finite */
}

/* Up to TILE channels side by side, in the places of a product, whose columns are positions or
   units of the bottleneck: their parameters of Eq. 8, and gradients of these and of Eq. 10, in
   float64, as they may cancel past what float32 can hold. It takes 50 KB of the stack. */
typedef struct {
    int64_t channels, M, K, L;
    double mix[WIDEST][TILE], taps[WIDEST][TILE], shift[TILE];
    double dmix[WIDEST][TILE], dtaps[WIDEST][TILE], daxis[2][WIDEST][TILE], dbias[2][TILE];
} Lanes;

/* Adds what `count` positions, COLUMNS at most, of an axis of one sample contribute. z and t are
   those of its channels, h and dp of its bottleneck; t becomes the gradient of the means. */
INLINE void add_positions(Lanes *s, const float *z, const float *h, const float *dp, float *t,
                          int axis, int64_t start, int64_t count) {
    int64_t channels = s->channels, M = s->M, K = s->K, L = s->L;
    double means[COLUMNS + WIDEST][TILE], du[COLUMNS + WIDEST][TILE];
    double u[COLUMNS][TILE] = {{0}}; /* first t, then what the depthwise convolution gave */
    int64_t pad = K / 2, begin = start - pad, end = start + count + pad;
    int64_t low = begin < 0 ? 0 : begin, high = end < L ? end : L;
    for (int64_t i = 0; i < end - begin; i++)
        for (int c = 0; c < TILE; c++) {
            means[i][c] = -s->shift[c]; /* zero, about the shift */
            du[i][c] = 0;
        }
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t l = low; l < high; l++)
            means[l - begin][c] = z[c * L + l];
        for (int64_t l = 0; l < count; l++)
            u[l][c] = t[c * L + start + l];
    }
    multiply(h + start, u, s->daxis[axis], channels, M, count, L, 1);
    for (int64_t l = 0; l < count; l++)
        for (int c = 0; c < TILE; c++) {
            s->dbias[axis][c] += u[l][c];
            u[l][c] = 0;
        }
    for (int64_t l = 0; l < count; l++)
        for (int64_t k = 0; k < K; k++)
            for (int c = 0; c < TILE; c++)
                u[l][c] += s->taps[k][c] * means[l + k][c];
    multiply(dp + start, u, s->dmix, channels, M, count, L, 1);
    for (int64_t m = 0; m < M; m += COLUMNS)
        multiply(dp + m * L + low, s->mix + m, du + (low - begin), channels, high - low,
                 M - m < COLUMNS ? M - m : COLUMNS, 1, L);
    for (int64_t l = 0; l < count; l++) {
        double row[TILE] = {0};
        for (int64_t k = 0; k < K; k++)
            for (int c = 0; c < TILE; c++) {
                s->dtaps[k][c] += du[l + pad][c] * means[l + k][c];
                row[c] += s->taps[k][c] * du[l + 2 * pad - k][c];
            }
        for (int64_t c = 0; c < channels; c++)
            t[c * L + start + l] = row[c];
    }
}

/* Gradients of Eq. 8 and 10 for up to TILE channels from `first` on; t becomes that of their means.
   dp (N, M, L) is that of the bottleneck, `sums` (M) its sums. Means are as the forward saved them,
   and the part of the shift follows from these sums, which are zero behind a norm in training. */
VECTORISED static void channel_gradients(const Layer *layer, const Saved *saved, const float *h,
                                         const float *dp, const double *sums, float *t,
                                         const Parameters *grads, int64_t first, int64_t channels,
                                         Shape d) {
    int64_t L = d.H + d.W, M = layer->M, K = layer->K;
    Lanes s = {.channels = channels, .M = M, .K = K, .L = L};
    for (int64_t c = 0; c < channels; c++) {
        s.shift[c] = saved->z_shift[first + c];
        for (int64_t m = 0; m < M; m++)
            s.mix[m][c] = layer->params.mix[m * d.C + first + c];
        for (int64_t k = 0; k < K; k++)
            s.taps[k][c] = layer->params.taps[(first + c) * K + k];
    }
    for (int64_t n = 0; n < d.N; n++) {
        int64_t at = (n * d.C + first) * L, squeezed = n * M * L;
        for (int axis = 0; axis < 2; axis++) {
            int64_t start = axis ? d.H : 0, end = axis ? L : d.H;
            for (; start < end; start += COLUMNS)
                add_positions(&s, saved->z + at, h + squeezed, dp + squeezed, t + at, axis, start,
                              end - start < COLUMNS ? end - start : COLUMNS);
        }
    }
    for (int64_t c = 0; c < channels; c++) {
        double level = saved->tap_bias[first + c], sum = 0;
        for (int64_t k = 0; k < K; k++)
            level += s.taps[k][c] * s.shift[c];
        for (int64_t m = 0; m < M; m++) {
            sum += s.mix[m][c] * sums[m];
            grads->mix[m * d.C + first + c] = s.dmix[m][c] + level * sums[m];
            grads->to_axis[0][(first + c) * M + m] = s.daxis[0][m][c];
            grads->to_axis[2][(first + c) * M + m] = s.daxis[1][m][c];
        }
        for (int64_t k = 0; k < K; k++)
            grads->taps[(first + c) * K + k] = s.dtaps[k][c] + s.shift[c] * sum;
        grads->tap_bias[first + c] = sum;
        grads->to_axis[1][first + c] = s.dbias[0][c];
        grads->to_axis[3][first + c] = s.dbias[1][c];
    }
}
