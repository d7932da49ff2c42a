/* The two passes of native_backward.c over a map in channels_last. */

#pragma once

#include "native_last.h"

/* Numbers of the channels of the spatial half: Eq. 14, and in the second pass also the means of dt
   and dt * hat, and the factor before what dx has of them. */
typedef struct {
    float *mean, *rstd, *offset, *gain, *constant, *dt, *dt_hat, *a;
} Elements;

enum { FIELDS = 8 };

INLINE Elements elements_at(float *memory, int64_t half) {
    return (Elements){memory,            memory + half,     memory + 2 * half, memory + 3 * half,
                      memory + 4 * half, memory + 5 * half, memory + 6 * half, memory + 7 * half};
}

INLINE void set_line(Elements e, int64_t k, Line n) {
    e.mean[k] = n.mean, e.rstd[k] = n.rstd, e.offset[k] = n.offset;
    e.gain[k] = n.gain, e.constant[k] = n.constant;
}

/* Memory of the first pass. Of the axes, block by block: sums of rows and columns, of the columns
   of a stretch of rows, and the gates. Of the planes: the sums of either half, and of a tile its
   elements half by half; `part` is the sum of a tile. */
typedef struct {
    double *rows, *columns, *line, *dot, *total;
    float *stretch, *g_h, *g_w, *blocks, *wide, *part, *moved, *g_half, *x_half;
    Elements of;
} First;

INLINE First first_at(double *doubles, float *memory, Shape d) {
    int64_t C = padded(d.C), half = half_length(d), width = tile_width(d);
    First f = {.rows = doubles, .stretch = memory};
    f.columns = f.rows + d.H * C;
    f.line = f.columns + d.W * C;
    f.dot = f.line + d.H + d.W;
    f.total = f.dot + half;
    f.g_h = f.stretch + d.W * C;
    f.g_w = f.g_h + d.H * C;
    f.blocks = f.g_w + d.W * C;
    f.part = f.blocks + 4 * d.W * WIDE;
    f.of = elements_at(f.part + 3 * half, half);
    f.moved = f.part + (3 + FIELDS) * half;
    f.g_half = f.moved + (half ? d.C * width : 0);
    f.x_half = f.g_half + half * width;
    f.wide = f.x_half + half * width;
    return f;
}

/* Doubles and floats of the first pass. */
static int64_t last_doubles(Shape d) {
    return (d.H + d.W) * (padded(d.C) + 1) + 4 * half_length(d);
}

INLINE int64_t first_floats(Shape d) {
    int64_t width = tile_width(d), moved = d.groups ? d.C * width : 0;
    return (d.H + 2 * d.W) * padded(d.C) + 4 * d.W * WIDE + moved +
           half_length(d) * (3 + FIELDS + 2 * width) + (d.type != FLOAT32 ? 4 * d.W * d.C : 0);
}

/* Adds one row or two of WIDE channels to the sums, as multiply_line does, and fetches what is
   `ahead` of g and of x; g_h, g_w, rows and stretch are those of the block. */
INLINE void multiply_rows(const float *g, const float *x, int64_t step, int64_t pitch,
                          int64_t ahead, const float *g_h, const float *g_w, double *rows,
                          float *stretch, int64_t W, int two) {
    enum { PARTS = WIDE / (2 * LANE) };
    for (int64_t start = 0; start < W; start += BLOCK) {
        Singles row[PARTS] = {{0}}, next[PARTS] = {{0}}, gate[PARTS], below[PARTS];
        float sums[2][WIDE];
        UNROLL
        for (int i = 0; i < PARTS; i++) {
            gate[i] = SINGLES(g_h + i * 2 * LANE);
            below[i] = SINGLES(g_h + (two ? WIDE : 0) + i * 2 * LANE);
        }
        for (int64_t w = start; w < end_of(start, W); w++) {
            const float *gw = g + w * step, *xw = x + w * step;
            __builtin_prefetch(g + ahead + w * 2 * WIDE);
            __builtin_prefetch(g + ahead + w * 2 * WIDE + WIDE);
            __builtin_prefetch(x + ahead + w * 2 * WIDE);
            __builtin_prefetch(x + ahead + w * 2 * WIDE + WIDE);
            UNROLL
            for (int i = 0; i < PARTS; i++) {
                int64_t at = i * 2 * LANE;
                Singles a = SINGLES(gw + at) * SINGLES(xw + at), sum = a * gate[i];
                Singles column = SINGLES(g_w + w * WIDE + at);
                row[i] += a * column;
                if (two) {
                    Singles b = SINGLES(gw + pitch + at) * SINGLES(xw + pitch + at);
                    next[i] += b * column;
                    sum += b * below[i];
                }
                SINGLES(stretch + w * WIDE + at) += sum;
            }
        }
        memcpy(sums[0], row, sizeof(row));
        memcpy(sums[1], next, sizeof(next));
        LANES
        for (int c = 0; c < WIDE; c++) {
            rows[c] += sums[0][c];
            if (two)
                rows[WIDE + c] += sums[1][c];
        }
    }
}

/* Row h, and if there are two the next, of the channels r; g and x begin at the row. */
VECTORISED static void axis_rows(const float *g, const float *x, const First *f, Range r, int64_t h,
                                 int64_t count, Shape d) {
    int64_t pitch = d.W * d.C;
    for (int64_t b = 0; b < blocks_of(r); b++) {
        int64_t c = r.begin + b * WIDE, left = r.end - c, row = (b * d.H + h) * WIDE;
        int64_t step = d.C, distance = pitch, ahead = 2 * pitch - c + b * 2 * d.W * WIDE;
        const float *gb = g + c, *xb = x + c;
        if (left < WIDE) {
            float *other = f->blocks + 2 * d.W * WIDE;
            pad_channels(gb, f->blocks, left, count * d.W, d.C);
            pad_channels(xb, other, left, count * d.W, d.C);
            gb = f->blocks, xb = other, step = WIDE, distance = d.W * WIDE, ahead = 0;
        }
        const float *g_w = f->g_w + b * d.W * WIDE;
        float *stretch = f->stretch + b * d.W * WIDE;
        if (count == 2)
            multiply_rows(gb, xb, step, distance, ahead, f->g_h + row, g_w, f->rows + row, stretch,
                          d.W, 1);
        else
            multiply_rows(gb, xb, step, distance, ahead, f->g_h + row, g_w, f->rows + row, stretch,
                          d.W, 0);
        if ((h + count) % STRETCH == 0 || h + count == d.H)
            add_stretch(stretch, f->columns + b * d.W * WIDE, d.W * WIDE);
    }
}

/* g of the shuffle's output at a position, brought to the sources `begin` to `end`. */
INLINE void unshuffle(const float *g, float *out, int64_t begin, int64_t end, int64_t C) {
    int64_t half = C / 2, k = 0;
    if (begin == 0 && end == C) {
        for (; k + 2 * LANE <= half; k += 2 * LANE) {
            Singles a = SINGLES(g + 2 * k), b = SINGLES(g + 2 * k + 2 * LANE);
            SINGLES(out + k) = MIX(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
            SINGLES(out + half + k) = MIX(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
        }
        for (; k < half; k++)
            out[k] = g[2 * k], out[half + k] = g[2 * k + 1];
        return;
    }
    for (int64_t c = begin; c < end; c++)
        out[c - begin] = c < half ? g[2 * c] : g[2 * (c - half) + 1];
}

/* Adds `count` positions to the sums of both halves; g and x begin at the range of `groups` groups,
   and their positions are `step_g` and C apart; g_rows is g in memory. */
INLINE void add_tile(const float *g, const float *x, const float *g_rows, const First *f,
                     int64_t step_g, int64_t half, int64_t groups, int64_t count, Shape d) {
    int64_t size = padded(groups * half), C = d.C;
    Elements e = f->of;
    for (int64_t t = 0; t < count; t++) {
        gather_half(g + t * step_g, f->g_half + t * size, half, groups);
        gather_half(x + t * C, f->x_half + t * size, half, groups);
    }
    for (int64_t t = 0; t < count; t++) {
        const float *gt = f->g_half + t * size, *xt = f->x_half + t * size;
        double *dot = f->dot;
        LANES
        for (int64_t k = 0; k < size; k++)
            dot[k] += (double)gt[k] * xt[k];
    }
    for (int64_t t = 0; t < count; t++) {
        gather_half(g + t * step_g + half, f->g_half + t * size, half, groups);
        gather_half(x + t * C + half, f->x_half + t * size, half, groups);
    }
    float *gated = f->part, *slope = gated + size, *shift = slope + size;
    memset(gated, 0, 3 * size * sizeof(float));
    for (int64_t t = 0; t < count; t++) {
        const float *gt = f->g_half + t * size, *xt = f->x_half + t * size;
        fetch(g_rows + t * d.C, d);
        fetch(x + t * d.C, d);
        LANES
        for (int64_t k = 0; k < size; k++) {
            float hat = (xt[k] - e.mean[k]) * e.rstd[k] + e.offset[k], complement;
            float s = sigmoid_and_complement(hat * e.gain[k] + e.constant[k], &complement);
            float gxs = gt[k] * xt[k] * s, dt = gxs * complement;
            gated[k] += gxs;
            slope[k] += dt * hat;
            shift[k] += dt;
        }
    }
    for (int64_t k = 0; k < 3 * size; k++)
        f->total[k] += f->part[k];
}

/* A row of the channels r, whose groups they fill. */
VECTORISED static void plane_row(const float *g, const float *x, const Layer *layer, const First *f,
                                 Range r, Shape d) {
    int64_t half = d.C / (2 * d.groups), groups = (r.end - r.begin) / (2 * half);
    for (int64_t w = 0; w < d.W; w += tile_width(d)) {
        int64_t count = d.W - w < tile_width(d) ? d.W - w : tile_width(d), step = d.C;
        const float *from = g + w * d.C + r.begin, *xt = x + w * d.C + r.begin;
        if (layer->shuffle) {
            step = r.end - r.begin;
            for (int64_t t = 0; t < count; t++)
                unshuffle(g + (w + t) * d.C, f->moved + t * step, r.begin, r.end, d.C);
            from = f->moved;
        }
        if (half == 4)
            add_tile(from, xt, g + w * d.C, f, step, 4, groups, count, d);
        else if (half == 8)
            add_tile(from, xt, g + w * d.C, f, step, 8, groups, count, d);
        else
            add_tile(from, xt, g + w * d.C, f, step, half, groups, count, d);
    }
}

/* Ends the first pass for channel c of the range: what plane_gradients gives of a plane. */
static void finish_channel(const First *f, const Layer *layer, const Saved *saved, Plane *work,
                           float *t, Range r, int64_t c, Shape d) {
    int64_t p = r.n * d.C + c, within = c - r.begin, L = d.H + d.W, i = 0;
    int kind = half_of(d, p, &i), both = kind != NONE && saved->g_h;
    float beta = both ? *layer->params.beta : 1, one_minus_beta = both ? 1 - beta : 1;
    Plane *out = work + p;
    *out = (Plane){0};
    if (kind != NONE) {
        int64_t half = d.C / (2 * d.groups), size = padded((r.end - r.begin) / 2);
        int64_t k = within / (2 * half) * half + c % half;
        if (kind == CHANNEL)
            channel_gradient(out, f->dot[k], layer, saved, i, c % half, one_minus_beta, d);
        else
            element_gradient(out, f->total[k], f->total[size + k], f->total[2 * size + k],
                             one_minus_beta, d);
    }
    if (saved->g_h) {
        int64_t b = within / WIDE, lane = within % WIDE;
        for (int64_t h = 0; h < d.H; h++)
            f->line[h] = f->rows[(b * d.H + h) * WIDE + lane];
        for (int64_t w = 0; w < d.W; w++)
            f->line[d.H + w] = f->columns[(b * d.W + w) * WIDE + lane];
        out->beta += axis_slopes(f->line, saved->g_h + p * d.H, saved->g_w + p * d.W, t + p * L,
                                 t + p * L + d.H, beta, d.H, d.W);
    }
}

/* The first pass, over the channels of step `step`. */
static void last_gradients(const void *g, const void *x, const Layer *layer, const Saved *saved,
                           Plane *work, float *t, int64_t step, double *doubles, float *scratch,
                           Shape d) {
    Range r = channels_of(d, step);
    int64_t pitch = d.W * d.C, at = r.n * d.H * pitch, half = d.groups ? d.C / (2 * d.groups) : 0;
    First f = first_at(doubles, scratch, d);
    memset(doubles, 0, last_doubles(d) * sizeof(double));
    memset(f.stretch, 0, (f.wide - f.stretch) * sizeof(float));
    for (int64_t b = 0; saved->g_h && b < blocks_of(r); b++) {
        int64_t c = r.begin + b * WIDE, plane = r.n * d.C + c, left = r.end - c;
        int64_t channels = left < WIDE ? left : WIDE;
        float *g_h = f.g_h + b * d.H * WIDE, *g_w = f.g_w + b * d.W * WIDE;
        lay_gates(saved->g_h + plane * d.H, g_h, 1, channels, 0, d.H, d.H, WIDE);
        lay_gates(saved->g_w + plane * d.W, g_w, 1, channels, 0, d.W, d.W, WIDE);
    }
    for (int64_t c = r.begin, k = 0; half && c < r.end; c++) {
        int64_t i = 0;
        if (half_of(d, r.n * d.C + c, &i) == SPATIAL)
            set_line(f.of, k++, line_of(layer, saved, i, c % half));
    }
    for (int64_t h = 0; h < d.H; h += 2) {
        int64_t count = d.H - h < 2 ? 1 : 2, from = at + h * pitch;
        const float *gr = load(g, from, f.wide, count * pitch, d.type);
        const float *xr = load(x, from, f.wide + 2 * pitch, count * pitch, d.type);
        if (saved->g_h)
            axis_rows(gr, xr, &f, r, h, count, d);
        for (int64_t i = 0; half && i < count; i++)
            plane_row(gr + i * pitch, xr + i * pitch, layer, &f, r, d);
    }
    for (int64_t c = r.begin; c < r.end; c++)
        finish_channel(&f, layer, saved, work, t, r, c, d);
}

/* What the second pass reads of a sample: as `Lines`, with the gradients of the means. */
typedef struct {
    float *g_h, *g_w, *dz_h, *dz_w, *plane, *constant, *moved, *lines, *g_half, *x_half, *in, *out;
    float rest;
    Elements of;
} Second;

INLINE Second second_at(float *memory, Shape d) {
    int64_t axes = 2 * (d.H + d.W) * d.C, half = half_length(d), planes = d.groups ? d.C : 0;
    int64_t width = tile_width(d);
    Second s = {.g_h = memory, .rest = 1};
    s.g_w = s.g_h + d.H * d.C;
    s.dz_h = s.g_w + d.W * d.C;
    s.dz_w = s.dz_h + d.H * d.C;
    s.plane = memory + axes;
    s.constant = s.plane + planes;
    s.moved = s.constant + planes;
    s.lines = s.moved + planes * width;
    s.of = elements_at(s.lines, half);
    s.g_half = s.lines + FIELDS * half;
    s.x_half = s.g_half + half * width;
    s.in = s.x_half + half * width;
    s.out = s.in + 2 * d.C * width;
    return s;
}

INLINE int64_t second_floats(Shape d) {
    int64_t width = tile_width(d), planes = d.groups ? d.C * (2 + width) : 0;
    return 2 * (d.H + d.W) * d.C + planes + half_length(d) * (FIELDS + 2 * width) +
           (d.type != FLOAT32 ? 3 * d.C * width : 0);
}

/* Floats of scratch for either pass. */
static int64_t last_floats(Shape d) {
    return first_floats(d) > second_floats(d) ? first_floats(d) : second_floats(d);
}

/* Lays `size` gradients of each channel, L apart, times `factor` into lines of channels. */
INLINE void lay_means(const float *dz, float *out, float factor, int64_t begin, int64_t end,
                      int64_t L, int64_t C) {
    for (int64_t c = 0; c < C; c++)
        for (int64_t l = begin; l < end; l++)
            out[(l - begin) * C + c] = dz[c * L + l] * factor;
}

INLINE Second lay_second(const Layer *layer, const Saved *saved, const Plane *work, const float *dz,
                         float *memory, Range r, Shape d) {
    Second s = second_at(memory, d);
    int64_t L = d.H + d.W, p = r.n * d.C, half = d.groups ? d.C / (2 * d.groups) : 0;
    int both = d.groups && saved->g_h;
    float beta = both ? *layer->params.beta : 1;
    s.rest = both ? 1 - beta : 1;
    if (saved->g_h) {
        lay_gates(saved->g_h + p * d.H, s.g_h, beta, d.C, r.begin, r.end, d.H, d.C);
        lay_gates(saved->g_w + p * d.W, s.g_w, 1, d.C, 0, d.W, d.W, d.C);
        lay_means(dz + p * L, s.dz_h, 1.0f / d.W, r.begin, r.end, L, d.C);
        lay_means(dz + p * L + d.H, s.dz_w, 1.0f / d.H, 0, d.W, L, d.C);
    }
    memset(s.lines, 0, (s.in - s.lines) * sizeof(float));
    for (int64_t c = 0, k = 0; half && c < d.C; c++) {
        int64_t i = 0;
        s.plane[c] = s.constant[c] = 0;
        if (half_of(d, p + c, &i) == CHANNEL) {
            s.plane[c] = gate_of(saved->gate[i]) * s.rest;
            s.constant[c] = work[p + c].constant;
            continue;
        }
        Line n = line_of(layer, saved, i, c % half);
        set_line(s.of, k, n);
        s.of.dt[k] = work[p + c].dt, s.of.dt_hat[k] = work[p + c].dt_hat;
        s.of.a[k++] = d.H * d.W > 1 ? n.gain * n.rstd : 0; /* a single element is its own mean */
    }
    return s;
}

/* dx of `count` positions from both halves; positions of g are those of the sources. */
INLINE void plane_tile_backward(const float *g, const float *x, const float *g_rows, float *dx,
                                const Second *s, int64_t half, int64_t count, Shape d) {
    int64_t C = d.C, size = half_length(d);
    Elements e = s->of;
    for (int64_t t = 0; t < count; t++) {
        gather_half(g + t * C + half, s->g_half + t * size, half, d.groups);
        gather_half(x + t * C + half, s->x_half + t * size, half, d.groups);
    }
    for (int64_t t = 0; t < count; t++) {
        float *restrict gt = s->g_half + t * size;
        const float *xt = s->x_half + t * size;
        fetch(g_rows + t * C, d);
        fetch(x + t * C, d);
        fetch_to_write(dx + t * C, d);
        LANES
        for (int64_t k = 0; k < size; k++) {
            float hat = (xt[k] - e.mean[k]) * e.rstd[k] + e.offset[k], complement;
            float v = sigmoid_and_complement(hat * e.gain[k] + e.constant[k], &complement);
            float dt = gt[k] * xt[k] * v * complement;
            gt[k] = (gt[k] * v + e.a[k] * (dt - e.dt[k] - hat * e.dt_hat[k])) * s->rest;
        }
    }
    for (int64_t t = 0; t < count; t++) {
        const float *restrict from = g + t * C;
        float *restrict to = dx + t * C;
        LANES
        for (int64_t c = 0; c < C; c++)
            to[c] = from[c] * s->plane[c] + s->constant[c];
        scatter_half(s->g_half + t * size, to + half, half, d.groups);
    }
}

INLINE void axis_tile_backward(const float *restrict g, float *restrict dx,
                               const float *restrict g_h, const float *restrict g_w,
                               const float *restrict dz_h, const float *restrict dz_w, int added,
                               int64_t count, int64_t C) {
    for (int64_t t = 0; t < count; t++, g += C, dx += C, g_w += C, dz_w += C) {
        LANES
        for (int64_t c = 0; c < C; c++) {
            float u = g[c] * g_h[c] * g_w[c] + (dz_h[c] + dz_w[c]);
            dx[c] = added ? dx[c] + u : u;
        }
    }
}

/* dx of `count` positions from w on of row h of the range. */
VECTORISED static void tile_backward(const float *g, const float *x, float *dx, const Layer *layer,
                                     const Second *s, int64_t h, int64_t w, int64_t count,
                                     Shape d) {
    int64_t C = d.C;
    if (d.groups) {
        int64_t half = C / (2 * d.groups);
        const float *from = g;
        if (layer->shuffle) {
            for (int64_t t = 0; t < count; t++)
                unshuffle(g + t * C, s->moved + t * C, 0, C, C);
            from = s->moved;
        }
        if (half == 4)
            plane_tile_backward(from, x, g, dx, s, 4, count, d);
        else if (half == 8)
            plane_tile_backward(from, x, g, dx, s, 8, count, d);
        else
            plane_tile_backward(from, x, g, dx, s, half, count, d);
    }
    if (layer->params.taps) {
        const float *g_h = s->g_h + h * C, *dz_h = s->dz_h + h * C;
        const float *g_w = s->g_w + w * C, *dz_w = s->dz_w + w * C;
        if (d.groups)
            axis_tile_backward(g, dx, g_h, g_w, dz_h, dz_w, 1, count, C);
        else
            axis_tile_backward(g, dx, g_h, g_w, dz_h, dz_w, 0, count, C);
    }
    if (layer->residual)
        add(g, dx, count * C);
}

/* The second pass, over the rows of step `step`. */
static void last_mix_backward(const void *g, const void *x, void *dx, const Layer *layer,
                              const Saved *saved, const Plane *work, const float *dz, int64_t step,
                              float *scratch, Shape d) {
    Range r = rows_of(d, step);
    int64_t width = tile_width(d);
    Second s = lay_second(layer, saved, work, dz, scratch, r, d);
    for (int64_t h = r.begin; h < r.end; h++)
        for (int64_t w = 0; w < d.W; w += width) {
            int64_t count = d.W - w < width ? d.W - w : width, size = count * d.C;
            int64_t at = ((r.n * d.H + h) * d.W + w) * d.C;
            const float *gt = load(g, at, s.in, size, d.type);
            const float *xt = d.groups ? load(x, at, s.in + size, size, d.type) : 0;
            float *to = d.type == FLOAT32 ? (float *)dx + at : s.out;
            tile_backward(gt, xt, to, layer, &s, h - r.begin, w, count, d);
            if (d.type != FLOAT32)
                narrow(s.out, (uint16_t *)dx + at, size, d.type);
        }
}
