/* The two passes of native_forward.c over a map in channels_last. */

#pragma once

#include "native_last.h"

/* Sums of WIDE channels: of each column and row, over all positions of x - first, and of its
   squares; (H + W + 3) * WIDE numbers. */
typedef struct {
    double *columns, *rows, *total, *squares, *first;
} Sums;

INLINE int64_t sums_size(Shape d) { return (d.H + d.W + 3) * WIDE; }

INLINE Sums sums_at(double *memory, Shape d) {
    double *rows = memory + d.W * WIDE, *total = rows + d.H * WIDE;
    return (Sums){memory, rows, total, total + WIDE, total + 2 * WIDE};
}

/* Adds one row or two, `pitch` apart, of positions `step` apart, and fetches what is `ahead`. */
INLINE void add_rows(const float *x, int64_t step, int64_t pitch, const float *ahead, Sums s,
                     int64_t h, int64_t W, int axes, int planes, int two) {
    Doubles first[WIDE / LANE], total[WIDE / LANE], squares[WIDE / LANE];
    Doubles row[WIDE / LANE] = {{0}}, next[WIDE / LANE] = {{0}};
    UNROLL
    for (int i = 0; i < WIDE / LANE; i++) {
        first[i] = *(const Doubles *)(s.first + i * LANE);
        total[i] = *(const Doubles *)(s.total + i * LANE);
        squares[i] = *(const Doubles *)(s.squares + i * LANE);
    }
    for (int64_t w = 0; w < W; w++, x += step, ahead += 2 * WIDE) {
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + WIDE);
        UNROLL
        for (int i = 0; i < WIDE / LANE; i++) {
            Doubles a = DOUBLES(x + i * LANE), b = first[i];
            Doubles *column = (Doubles *)(s.columns + w * WIDE + i * LANE);
            if (two)
                b = DOUBLES(x + pitch + i * LANE);
            if (axes) {
                row[i] += a, next[i] += b;
                if (two)
                    *column += a + b;
                else
                    *column += a;
            }
            if (planes) {
                a -= first[i], b -= first[i]; /* of one row alone b is 0 here */
                total[i] += a + b;
                squares[i] += a * a + b * b;
            }
        }
    }
    UNROLL
    for (int i = 0; i < WIDE / LANE; i++) {
        if (planes) {
            *(Doubles *)(s.total + i * LANE) = total[i];
            *(Doubles *)(s.squares + i * LANE) = squares[i];
        }
        if (axes) {
            *(Doubles *)(s.rows + h * WIDE + i * LANE) = row[i];
            if (two)
                *(Doubles *)(s.rows + (h + 1) * WIDE + i * LANE) = next[i];
        }
    }
}

INLINE void add_pair(const float *x, int64_t step, int64_t pitch, const float *ahead, Sums s,
                     int64_t h, int64_t W, int axes, int planes, int64_t count) {
    if (count == 2)
        add_rows(x, step, pitch, ahead, s, h, W, axes, planes, 1);
    else
        add_rows(x, step, pitch, ahead, s, h, W, axes, planes, 0);
}

/* Puts the means of `channels` of WIDE into z (C, L), and the gates or moments of their planes into
   `saved`. */
INLINE void finish_sums(Sums s, double *z, const Layer *layer, const Saved *saved, int64_t plane,
                        int64_t channels, Shape d) {
    int64_t L = d.H + d.W, size = d.H * d.W;
    double height = 1.0 / d.H, width = 1.0 / d.W;
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t h = 0; z && h < d.H; h++)
            z[c * L + h] = s.rows[h * WIDE + c] * width;
        for (int64_t w = 0; z && w < d.W; w++)
            z[c * L + d.H + w] = s.columns[w * WIDE + c] * height;
        if (d.groups) {
            int64_t k = 0, j = (plane + c) % d.C % (d.C / (2 * d.groups));
            double mean = s.total[c] / size;
            if (half_of(d, plane + c, &k) == CHANNEL)
                save_gate(mean, layer, saved, k, j);
            else
                save_moments(s.first[c] + mean, s.squares[c] / size - mean * mean, layer, saved, k);
        }
    }
}

/* The first pass, over the channels of step i. Scratch: sums of their blocks, two rows of x and of
   WIDE channels. */
VECTORISED static void last_moments(const void *x, double *z, const Layer *layer,
                                    const Saved *saved, int64_t i, double *scratch, Shape d) {
    Range r = channels_of(d, i);
    int64_t C = d.C, pitch = d.W * C, at = r.n * d.H * pitch, blocks = blocks_of(r);
    double *sums = scratch;
    float *whole = (float *)(sums + blocks * sums_size(d)), *rows = whole + 2 * d.W * WIDE;
    memset(sums, 0, blocks * sums_size(d) * sizeof(double));
    for (int64_t c = r.begin; d.groups && c < r.end; c++) {
        /* A mean is taken about zero, and a variance about the first element, as in `moments`. */
        int64_t k = 0, within = c - r.begin;
        Sums s = sums_at(sums + within / WIDE * sums_size(d), d);
        if (half_of(d, c, &k) == SPATIAL)
            s.first[within % WIDE] = *load(x, at + c, rows, 1, d.type);
    }
    for (int64_t h = 0; h < d.H; h += 2) {
        int64_t count = d.H - h < 2 ? 1 : 2;
        const float *in = load(x, at + h * pitch, rows, count * pitch, d.type);
        for (int64_t b = 0; b < blocks; b++) {
            Sums s = sums_at(sums + b * sums_size(d), d);
            int64_t c = r.begin + b * WIDE, step = C, distance = pitch;
            const float *block = in + c, *ahead = in + 2 * pitch + b * 2 * d.W * WIDE;
            if (r.end - c < WIDE) {
                pad_channels(block, whole, r.end - c, count * d.W, C);
                block = whole, step = WIDE, distance = d.W * WIDE;
            }
            if (!d.groups)
                add_pair(block, step, distance, ahead, s, h, d.W, 1, 0, count);
            else if (z)
                add_pair(block, step, distance, ahead, s, h, d.W, 1, 1, count);
            else
                add_pair(block, step, distance, ahead, s, h, d.W, 0, 1, count);
        }
    }
    for (int64_t b = 0; b < blocks; b++) {
        int64_t c = r.begin + b * WIDE, plane = r.n * C + c, left = r.end - c;
        finish_sums(sums_at(sums + b * sums_size(d), d), z ? z + plane * (d.H + d.W) : 0, layer,
                    saved, plane, left < WIDE ? left : WIDE, d);
    }
}

/* What the second pass reads of a sample: gates of rows and columns as lines of channels, gates of
   the planes of the channel half in their places, and of the spatial half alone the slope, constant
   and mean of Eq. 14; then memory for the gates of a tile, in all places and of this half alone. */
typedef struct {
    float *g_h, *g_w, *plane, *a, *b, *mean, *gates, *half, rest;
} Lines;

INLINE Lines lines_at(float *memory, int64_t rows, Shape d) {
    int64_t half = half_length(d), planes = d.groups ? d.C : 0;
    Lines m = {.g_h = memory, .g_w = memory + rows * d.C, .rest = 1};
    m.plane = m.g_w + d.W * d.C;
    m.gates = m.plane + planes;
    m.a = m.gates + planes * tile_width(d);
    m.b = m.a + half;
    m.mean = m.b + half;
    m.half = m.mean + half;
    return m;
}

INLINE int64_t lines_size(Shape d) {
    int64_t width = tile_width(d), planes = d.groups ? d.C * (1 + width) : 0;
    return (d.H + d.W) * d.C + planes + half_length(d) * (3 + width);
}

/* Lays the gates out for the rows r. */
INLINE Lines lay_lines(const Layer *layer, const Saved *saved, float *memory, Range r, Shape d) {
    Lines m = lines_at(memory, r.end - r.begin, d);
    const Parameters *params = &layer->params;
    int both = d.groups && saved->g_h;
    float beta = both ? *params->beta : 1;
    m.rest = both ? 1 - beta : 1;
    if (saved->g_h) {
        lay_gates(saved->g_h + r.n * d.C * d.H, m.g_h, beta, d.C, r.begin, r.end, d.H, d.C);
        lay_gates(saved->g_w + r.n * d.C * d.W, m.g_w, 1, d.C, 0, d.W, d.W, d.C);
    }
    memset(m.a, 0, half_length(d) * (3 + tile_width(d)) * sizeof(float));
    for (int64_t c = 0; d.groups && c < d.C; c++) {
        int64_t k = 0, j = c % (d.C / (2 * d.groups));
        if (half_of(d, r.n * d.C + c, &k) == CHANNEL) {
            m.plane[c] = gate_of(saved->gate[k]) * m.rest;
            continue;
        }
        int64_t at = k - r.n * (d.C / 2);
        double a = params->w2[j] * params->group_weight[j] * (double)saved->rstd[k];
        m.plane[c] = 0;
        m.a[at] = a;
        m.b[at] = (double)params->w2[j] * params->group_bias[j] + params->b2[j] -
                  a * saved->mean_lo[k];
        m.mean[at] = saved->mean[k];
    }
    for (int64_t t = 0; d.groups && t < tile_width(d); t++)
        memcpy(m.gates + t * d.C, m.plane, d.C * sizeof(float));
    return m;
}

/* Fills in the gates of the spatial half at `count` positions; y is where they go in the end. */
INLINE void gate_spatial(const float *x, float *y, Lines m, int64_t count, int64_t half,
                         Shape d) {
    int64_t size = half_length(d);
    for (int64_t t = 0; t < count; t++)
        gather_half(x + t * d.C + half, m.half + t * size, half, d.groups);
    for (int64_t t = 0; t < count; t++) {
        float *line = m.half + t * size;
        fetch(x + t * d.C, d);
        fetch_to_write(y + t * d.C, d);
        LANES
        for (int64_t k = 0; k < size; k++)
            line[k] = sigmoid((line[k] - m.mean[k]) * m.a[k] + m.b[k]) * m.rest;
    }
    for (int64_t t = 0; t < count; t++)
        scatter_half(m.half + t * size, m.gates + t * d.C + half, half, d.groups);
}

/* y of `count` positions from the gates of planes and elements, which the shuffle moves, and of the
   row and columns. */
INLINE void gate_tile(const float *restrict x, float *restrict y, const float *restrict gates,
                      const float *restrict g_h, const float *restrict g_w, int axes, int planes,
                      int shuffle, int64_t count, int64_t C) {
    int64_t half = C / 2, whole = half / (2 * LANE) * (2 * LANE);
    for (int64_t t = 0; t < count; t++, x += C, y += C, gates += C, g_w += C) {
        if (!shuffle) {
            LANES
            for (int64_t c = 0; c < C; c++) {
                float v = planes ? x[c] * gates[c] : 0, u = axes ? x[c] * g_h[c] * g_w[c] : 0;
                y[c] = !planes ? u : !axes ? v : v + u;
            }
            continue;
        }
        for (int64_t k = 0; k < whole; k += 2 * LANE) {
            Singles a = SINGLES(x + k) * SINGLES(gates + k);
            Singles b = SINGLES(x + half + k) * SINGLES(gates + half + k);
            Singles low = MIX(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
            Singles high = MIX(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
            int64_t c = 2 * k, next = c + 2 * LANE;
            if (axes) {
                low += SINGLES(x + c) * SINGLES(g_h + c) * SINGLES(g_w + c);
                high += SINGLES(x + next) * SINGLES(g_h + next) * SINGLES(g_w + next);
            }
            *(Singles *)(y + c) = low;
            *(Singles *)(y + next) = high;
        }
        for (int64_t c = 2 * whole; c < C; c++) {
            int64_t source = c % 2 * half + c / 2;
            float v = x[source] * gates[source];
            y[c] = axes ? v + x[c] * g_h[c] * g_w[c] : v;
        }
    }
}

/* y of `count` positions from w on of a row with the gates g_h. */
VECTORISED static void mix_tile(const float *x, float *y, const Layer *layer, const Lines *m,
                                const float *g_h, int64_t w, int64_t count, Shape d) {
    const float *g_w = m->g_w + w * d.C;
    int axes = layer->params.taps != 0, shuffle = layer->shuffle;
    if (d.groups) {
        int64_t half = d.C / (2 * d.groups);
        if (half == 4)
            gate_spatial(x, y, *m, count, 4, d);
        else if (half == 8)
            gate_spatial(x, y, *m, count, 8, d);
        else
            gate_spatial(x, y, *m, count, half, d);
    }
    if (!d.groups)
        gate_tile(x, y, 0, g_h, g_w, 1, 0, 0, count, d.C);
    else if (axes && shuffle)
        gate_tile(x, y, m->gates, g_h, g_w, 1, 1, 1, count, d.C);
    else if (axes)
        gate_tile(x, y, m->gates, g_h, g_w, 1, 1, 0, count, d.C);
    else if (shuffle)
        gate_tile(x, y, m->gates, 0, 0, 0, 1, 1, count, d.C);
    else
        gate_tile(x, y, m->gates, 0, 0, 0, 1, 0, count, d.C);
    if (layer->residual)
        add(x, y, count * d.C);
}

/* The second pass, over the rows of step i. */
static void last_mix(const void *x, void *y, const Layer *layer, const Saved *saved, int64_t i,
                     float *scratch, Shape d) {
    Range r = rows_of(d, i);
    int64_t width = tile_width(d);
    Lines m = lay_lines(layer, saved, scratch, r, d);
    float *in = scratch + lines_size(d), *out = in + width * d.C;
    for (int64_t h = r.begin; h < r.end; h++)
        for (int64_t w = 0; w < d.W; w += width) {
            int64_t count = d.W - w < width ? d.W - w : width, size = count * d.C;
            int64_t at = ((r.n * d.H + h) * d.W + w) * d.C;
            const float *tile = load(x, at, in, size, d.type);
            float *to = d.type == FLOAT32 ? (float *)y + at : out;
            mix_tile(tile, to, layer, &m, m.g_h + (h - r.begin) * d.C, w, count, d);
            if (d.type != FLOAT32)
                narrow(out, (uint16_t *)y + at, size, d.type);
        }
}

/* Floats of scratch for either pass. */
static int64_t last_scratch_size(const Layer *layer, Shape d) {
    int64_t blocks = padded(d.C) / WIDE, row = d.W * d.C, tile = tile_width(d) * d.C;
    int64_t first = 2 * blocks * sums_size(d) + 2 * d.W * WIDE + (d.type != FLOAT32 ? 2 * row : 0);
    int64_t second = lines_size(d) + (d.type != FLOAT32 ? 2 * tile : 0);
    return (first > second ? first : second) / 2 * 2 + 2;
}
