/* The operators of ops.py for float32 on the CPU, plane by plane; planes.py calls them.

   Planes are dealt to the threads of torch's own OpenMP pool, whose symbols the process already
   holds. Each plane is summed by one thread in one order, so that no result depends on their
   number. Sums are in float32 over a short stretch of vector lanes or of centred values, and these
   in float64. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORISED
#endif
#define INLINE static inline __attribute__((always_inline))
#define PLANES _Pragma("omp parallel for schedule(static) num_threads(threads)")
#define LANES _Pragma("omp simd")
#define PRAGMA(text) _Pragma(#text)
#define SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define BLOCK 512 /* elements that are summed in float32 */
#define CHUNK (1 << 18) /* elements of x that are worked on at a time */
#define COLUMNS 256 /* columns that are summed at a time */

/* The version of the functions' arguments, which planes.py asks for. */
int icasa_interface(void) { return 2; }

enum { NONE, CHANNEL, SPATIAL };

typedef struct {
    int64_t N, C, H, W, groups;
} Shape;

/* What x is gated by; a pointer is null where it does not apply. beta is that of the coordinate
   part, rest that of the shuffle part. */
typedef struct {
    float *g_h, *g_w, *gate, *a, *b, *mean;
    float beta, rest;
    int32_t shuffle, residual;
} Gates;

/* The kind of channel c, and the index of its plane among those of its half. */
INLINE int half_of(Shape d, int64_t plane, int64_t *index) {
    if (d.groups == 0)
        return NONE;
    int64_t n = plane / d.C, c = plane % d.C, half = d.C / (2 * d.groups);
    int64_t group = c / (2 * half), within = c % (2 * half);
    *index = n * (d.C / 2) + group * half + within % half;
    return within < half ? CHANNEL : SPATIAL;
}

/* Where the shuffle takes plane (n, c) to, and where it took it from. */
INLINE int64_t shuffled_to(Shape d, int64_t plane) {
    int64_t c = plane % d.C, half = d.C / 2;
    return plane - c + (c % half) * 2 + c / half;
}

INLINE int64_t shuffled_from(Shape d, int64_t plane) {
    int64_t c = plane % d.C, half = d.C / 2;
    return plane - c + (c % 2) * half + c / 2;
}

INLINE int64_t end_of(int64_t from, int64_t size) {
    return from + BLOCK < size ? from + BLOCK : size;
}

/* 1 / (1 + exp(-t)); exp(u) = 2^n exp(r) with |r| <= ln 2 / 2, by its series to r^7 (2^-27). */
INLINE float sigmoid(float t) {
    const float whole = 12582912.0f; /* 1.5 * 2^23: added and taken off, it rounds to integers */
    float u = -t;
    u = u < -87.0f ? -87.0f : u > 88.0f ? 88.0f : u;
    float n = (u * 1.44269504f + whole) - whole;
    float r = (u - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    union {
        uint32_t bits;
        float value;
    } power = {((uint32_t)((int32_t)n + 127)) << 23};
    return 1.0f / (1.0f + e * power.value);
}

/* Means are float64 in this library's own scratch (wide), float32 for others. */
INLINE double get(const void *from, int64_t i, int wide) {
    return wide ? ((const double *)from)[i] : ((const float *)from)[i];
}

INLINE void put(void *to, int64_t i, double value, int wide) {
    if (wide)
        ((double *)to)[i] = value;
    else
        ((float *)to)[i] = value;
}

/* Sum of a plane. */
VECTORISED static double sum(const float *x, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++)
        total += x[i];
    return total;
}

/* Sum of a plane, and the means of its rows and columns. Sums are of what is left without the mean
   of the first row: in float32 they then lose no more at an offset than about zero. */
VECTORISED static double sums(const float *x, void *z_h, void *z_w, int wide, int64_t H,
                              int64_t W) {
    double total = 0, offset = sum(x, W) / W;
    float shift = isfinite(offset) ? offset : 0;
    for (int64_t from = 0; from < W; from += COLUMNS) {
        int64_t count = W - from < COLUMNS ? W - from : COLUMNS;
        float columns[COLUMNS] = {0};
        for (int64_t h = 0; h < H; h++) {
            const float *line = x + h * W + from;
            float row = 0;
            SUM(row)
            for (int64_t w = 0; w < count; w++) {
                float value = line[w] - shift;
                row += value;
                columns[w] += value;
            }
            total += row;
            put(z_h, h, from ? get(z_h, h, wide) + row : row, wide);
        }
        for (int64_t w = 0; w < count; w++)
            put(z_w, from + w, shift + (double)columns[w] / H, wide);
    }
    for (int64_t h = 0; h < H; h++)
        put(z_h, h, shift + get(z_h, h, wide) / W, wide);
    return total + (double)shift * H * W;
}

VECTORISED static double sum_of_squares(const float *x, float mean, int64_t size) {
    double total = 0;
    for (int64_t from = 0; from < size; from += BLOCK) {
        float part = 0;
        SUM(part)
        for (int64_t i = from; i < end_of(from, size); i++)
            part += (x[i] - mean) * (x[i] - mean);
        total += part;
    }
    return total;
}

/* Variance of a plane, and its mean as a float32 number and the rest that this one lacks. */
INLINE double centre(const float *x, double exact, float *mean, double *lost, int64_t size) {
    *mean = exact;
    *lost = exact - *mean;
    return sum_of_squares(x, *mean, size) / size - *lost * *lost;
}

void icasa_moments(const float *x, float *z_h, float *z_w, float *s, float *mean, float *lost,
                   float *var, const Shape *shape, int threads) {
    Shape d = *shape;
    int64_t size = d.H * d.W;
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t k = 0;
        int kind = half_of(d, p, &k);
        const float *plane = x + p * size;
        double exact =
            z_h ? sums(plane, z_h + p * d.H, z_w + p * d.W, 0, d.H, d.W) : sum(plane, size);
        exact /= size;
        if (kind == CHANNEL)
            s[k] = exact;
        if (kind == SPATIAL) {
            double rest;
            var[k] = centre(plane, exact, mean + k, &rest, size);
            lost[k] = rest;
        }
    }
}

/* y = x * gate, and where there is a slope a, y = x * sigmoid(a (x - mean) + b) * gate. */
VECTORISED static void gate_plane(const float *restrict x, float *restrict y, float gate,
                                  int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] = x[i] * gate;
}

VECTORISED static void gate_elements(const float *restrict x, float *restrict y, float gate,
                                     float a, float b, float mean, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] = x[i] * sigmoid((x[i] - mean) * a + b) * gate;
}

/* y += x * g_h * g_w * beta */
VECTORISED static void add_gated_axes(const float *restrict x, float *restrict y,
                                      const float *restrict g_h, const float *restrict g_w,
                                      float beta, int64_t H, int64_t W) {
    for (int64_t h = 0; h < H; h++, x += W, y += W) {
        float row = g_h[h] * beta;
        LANES
        for (int64_t w = 0; w < W; w++)
            y[w] += x[w] * row * g_w[w];
    }
}

VECTORISED static void add(const float *restrict x, float *restrict y, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] += x[i];
}

static void mix(const float *x, float *y, const Gates *g, Shape d, int threads) {
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t size = d.H * d.W, k = 0, from = g->shuffle ? shuffled_from(d, p) : p;
        int kind = half_of(d, from, &k);
        float *out = y + p * size;
        if (kind == CHANNEL)
            gate_plane(x + from * size, out, g->gate[k] * g->rest, size);
        else if (kind == SPATIAL)
            gate_elements(x + from * size, out, g->rest, g->a[k], g->b[k], g->mean[k], size);
        else
            memset(out, 0, size * sizeof(float));
        if (g->g_h)
            add_gated_axes(x + p * size, out, g->g_h + p * d.H, g->g_w + p * d.W, g->beta, d.H,
                           d.W);
        if (g->residual)
            add(x + p * size, out, size);
    }
}

void icasa_mix(const float *x, float *y, const Gates *gates, const Shape *shape, int threads) {
    mix(x, y, gates, *shape, threads);
}

/* Gradients of the gates; `shares` is room for what each plane adds to that of beta. */
typedef struct {
    float *g_h, *g_w, *beta, *gate, *a, *b;
    double *shares;
} Gradients;

/* dx = g * gate; returns the sum of g * x. */
VECTORISED static double ungate_plane(const float *restrict g, const float *restrict x,
                                      float *restrict dx, float gate, int64_t size) {
    double total = 0;
    for (int64_t from = 0; from < size; from += BLOCK) {
        float part = 0;
        SUM(part)
        for (int64_t i = from; i < end_of(from, size); i++) {
            part += g[i] * x[i];
            dx[i] = g[i] * gate;
        }
        total += part;
    }
    return total;
}

/* dx of g * x * sigmoid(t) * gate with t = a (x - mean) + b; total[] gets the sums of
   g * x * sigmoid and, of its derivative by t, those with and without (x - mean). */
VECTORISED static void ungate_elements(const float *restrict g, const float *restrict x,
                                       float *restrict dx, float gate, float a, float b,
                                       float mean, double *total, int64_t size) {
    total[0] = total[1] = total[2] = 0;
    for (int64_t from = 0; from < size; from += BLOCK) {
        float gated = 0, slope = 0, shift = 0;
        SUM(gated, slope, shift)
        for (int64_t i = from; i < end_of(from, size); i++) {
            float centred = x[i] - mean, s = sigmoid(centred * a + b);
            float gs = g[i] * s, gxs = gs * x[i], dt = gxs * (1.0f - s);
            gated += gxs;
            slope += dt * centred;
            shift += dt;
            dx[i] = (gs + dt * a) * gate;
        }
        total[0] += gated, total[1] += slope, total[2] += shift;
    }
}

/* Adds to dx the gradient of g * x * g_h * g_w * beta; returns that of beta. */
VECTORISED static double ungate_axes(const float *restrict g, const float *restrict x,
                                     float *restrict dx, const float *restrict g_h,
                                     const float *restrict g_w, float *restrict dg_h,
                                     float *restrict dg_w, float beta, int64_t H, int64_t W) {
    double total = 0;
    memset(dg_w, 0, W * sizeof(float));
    for (int64_t h = 0; h < H; h++, g += W, x += W, dx += W) {
        float part = 0, row = g_h[h] * beta;
        SUM(part)
        for (int64_t w = 0; w < W; w++) {
            float gx = g[w] * x[w];
            part += gx * g_w[w];
            dg_w[w] += gx * row;
            dx[w] += g[w] * row * g_w[w];
        }
        dg_h[h] = part * beta;
        total += (double)part * g_h[h];
    }
    return total;
}

void icasa_mix_backward(const float *g, const float *x, float *dx, const Gates *gates,
                        const Gradients *to, const Shape *shape, int threads) {
    Shape d = *shape;
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t size = d.H * d.W, k = 0, at = gates->shuffle ? shuffled_to(d, p) : p;
        int kind = half_of(d, p, &k);
        const float *gp = g + p * size, *gv = g + at * size, *in = x + p * size;
        float *out = dx + p * size, rest = gates->rest;
        double total[3], dbeta = 0;
        if (kind == CHANNEL) {
            total[0] = ungate_plane(gv, in, out, gates->gate[k] * rest, size);
            to->gate[k] = total[0] * rest;
            dbeta = -total[0] * gates->gate[k];
        } else if (kind == SPATIAL) {
            ungate_elements(gv, in, out, rest, gates->a[k], gates->b[k], gates->mean[k], total,
                            size);
            to->a[k] = total[1] * rest;
            to->b[k] = total[2] * rest;
            dbeta = -total[0];
        } else {
            memset(out, 0, size * sizeof(float));
        }
        if (gates->g_h)
            dbeta += ungate_axes(gp, in, out, gates->g_h + p * d.H, gates->g_w + p * d.W,
                                 to->g_h + p * d.H, to->g_w + p * d.W, gates->beta, d.H, d.W);
        if (gates->residual)
            add(gp, out, size);
        if (to->beta)
            to->shares[p] = dbeta;
    }
    if (to->beta) {
        double total = 0;
        for (int64_t p = 0; p < d.N * d.C; p++)
            total += to->shares[p];
        *to->beta = total;
    }
}

/* dx + rows[h] + columns[w] + constant + slope * (x - mean), with rows and columns or without. */
VECTORISED static void complete(const float *dx, const float *x, float *out, const float *rows,
                                const float *columns, float constant, float slope, float mean,
                                int64_t H, int64_t W) {
    for (int64_t h = 0; h < H; h++, dx += W, x += W, out += W) {
        float row = constant + (rows ? rows[h] / W : 0);
        if (columns) {
            LANES
            for (int64_t w = 0; w < W; w++)
                out[w] = dx[w] + row + columns[w] * (1.0f / H);
        } else {
            LANES
            for (int64_t w = 0; w < W; w++)
                out[w] = dx[w] + row;
        }
        if (slope != 0) {
            LANES
            for (int64_t w = 0; w < W; w++)
                out[w] += slope * (x[w] - mean);
        }
    }
}

void icasa_moments_backward(const float *dx, const float *x, float *out, const float *dz_h,
                            const float *dz_w, const float *ds, const float *dmean,
                            const float *dvar, const float *mean, const float *lost,
                            const Shape *shape, int threads) {
    Shape d = *shape;
    double size = (double)d.H * d.W;
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t k = 0, at = p * d.H * d.W;
        int kind = half_of(d, p, &k);
        float slope = kind == SPATIAL ? 2 * dvar[k] / size : 0;
        float constant = kind == CHANNEL   ? ds[k] / size
                         : kind == SPATIAL ? dmean[k] / size - slope * lost[k]
                                           : 0;
        complete(dx + at, x + at, out + at, dz_h ? dz_h + p * d.H : 0, dz_w ? dz_w + p * d.W : 0,
                 constant, slope, kind == SPATIAL ? mean[k] : 0, d.H, d.W);
    }
}

/* What a layer is made of, in the order of ops.py; a pointer is null where there is none. */
typedef struct {
    const float *taps, *tap_bias, *mix, *mix_bias, *to_axis[4], *norm[4];
    const float *w1, *b1, *w2, *b2, *group_weight, *group_bias, *beta;
    int64_t M, K;
    float norm_eps, group_eps;
    int32_t shuffle, residual;
} Net;

/* Positions, channels and rows of a product at a time; the largest M and K. */
enum { TILE = 16, CHANNELS = 32, ROWS = 4, WIDEST = 64 };

/* y[rows][TILE] += w[rows][columns] u[columns][TILE], the rows of w `stride` apart. */
INLINE void multiply(const float *w, const double (*u)[TILE], double (*y)[TILE], int64_t rows,
                     int64_t columns, int64_t stride) {
    for (int64_t first = 0; first < rows; first += ROWS) {
        double sum[ROWS][TILE] = {{0}};
        for (int64_t c = 0; c < columns; c++)
            for (int r = 0; r < ROWS; r++) {
                double weight = w[(first + r < rows ? first + r : first) * stride + c];
                LANES
                for (int i = 0; i < TILE; i++)
                    sum[r][i] += weight * u[c][i];
            }
        for (int64_t r = first; r < rows && r < first + ROWS; r++)
            for (int i = 0; i < TILE; i++)
                y[r][i] += sum[r - first][i];
    }
}

/* Eq. 8 for one sample at TILE positions of z (C, L) from `start` on; in float64 up to the norm,
   which may take off a mean that is large beside what is left. */
INLINE void squeeze(const double *z, const Net *net, float (*f)[TILE], int64_t start, int64_t C,
                    int64_t L) {
    double u[CHANNELS][TILE], sum[WIDEST][TILE], row[TILE + WIDEST] = {0};
    int64_t from = start - net->K / 2, to = from + TILE + net->K - 1, skip = from < 0 ? -from : 0;
    int64_t known = (to < L ? to : L) - from - skip; /* zero beyond both ends */
    for (int64_t m = 0; m < net->M; m++)
        for (int i = 0; i < TILE; i++)
            sum[m][i] = net->mix_bias[m];
    for (int64_t first = 0; first < C; first += CHANNELS) {
        int64_t count = C - first < CHANNELS ? C - first : CHANNELS;
        for (int64_t c = first; c < first + count; c++) {
            memcpy(row + skip, z + c * L + from + skip, known * sizeof(double));
            for (int i = 0; i < TILE; i++)
                u[c - first][i] = net->tap_bias[c];
            for (int64_t k = 0; k < net->K; k++)
                LANES
                for (int i = 0; i < TILE; i++)
                    u[c - first][i] += net->taps[c * net->K + k] * row[i + k];
        }
        multiply(net->mix + first, u, sum, net->M, count, C);
    }
    for (int64_t m = 0; m < net->M; m++) {
        double scale = 1, shift = 0;
        if (net->norm[0]) { /* weight, bias, mean and variance */
            scale = net->norm[0][m] / sqrt((double)net->norm[3][m] + net->norm_eps);
            shift = net->norm[1][m] - net->norm[2][m] * scale;
        }
        LANES
        for (int i = 0; i < TILE; i++) {
            float t = sum[m][i] * scale + shift, ramp = t + 3;
            f[m][i] = t * (ramp < 0 ? 0 : ramp > 6 ? 6 : ramp) / 6; /* h_swish */
        }
    }
}

/* Eq. 8-10 for one sample at TILE positions of z (C, H + W) from `start` on. */
VECTORISED static void axis_gates(const double *z, const Net *net, float *g_h, float *g_w,
                                  int64_t start, Shape d) {
    float f[WIDEST][TILE];
    squeeze(z, net, f, start, d.C, d.H + d.W);
    for (int axis = 0; axis < 2; axis++) {
        const float *weight = net->to_axis[2 * axis], *bias = net->to_axis[2 * axis + 1];
        int64_t origin = axis ? d.H : 0, size = axis ? d.W : d.H, end = origin + size;
        int64_t from = start > origin ? start : origin;
        int64_t to = start + TILE < end ? start + TILE : end;
        for (int64_t c = 0; c < d.C && from < to; c++) {
            float gate[TILE];
            for (int i = 0; i < TILE; i++)
                gate[i] = bias[c];
            for (int64_t m = 0; m < net->M; m++)
                LANES
                for (int i = 0; i < TILE; i++)
                    gate[i] += weight[c * net->M + m] * f[m][i];
            LANES
            for (int i = 0; i < TILE; i++)
                gate[i] = sigmoid(gate[i]);
            memcpy((axis ? g_w : g_h) + c * size + from - origin, gate + from - start,
                   (to - from) * sizeof(float));
        }
    }
}

/* Eq. 13, and Eq. 14 as a line a (x - mean) + b, for plane p, whose mean is `exact`. */
INLINE void plane_gates(const float *x, double exact, const Net *net, const Gates *to, int64_t p,
                        Shape d) {
    int64_t k = 0, half = d.C / (2 * d.groups), j = p % d.C % half;
    if (half_of(d, p, &k) == CHANNEL) {
        to->gate[k] = sigmoid(net->w1[j] * exact + net->b1[j]);
        return;
    }
    double lost, var = centre(x, exact, to->mean + k, &lost, d.H * d.W);
    double a = net->w2[j] * net->group_weight[j] / sqrt(var + net->group_eps);
    to->a[k] = a;
    to->b[k] = (double)net->w2[j] * net->group_bias[j] + net->b2[j] - a * lost;
}

/* A chunk of samples; z (N, C, H + W) and what g points to are room. */
static void attend(const float *x, float *y, const Net *net, const Gates *g, double *z, Shape d,
                   int threads) {
    int64_t size = d.H * d.W, L = d.H + d.W, tiles = (L + TILE - 1) / TILE;
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        const float *plane = x + p * size;
        double total =
            z ? sums(plane, z + p * L, z + p * L + d.H, 1, d.H, d.W) : sum(plane, size);
        if (net->w1)
            plane_gates(plane, total / size, net, g, p, d);
    }
    if (z)
        PLANES
        for (int64_t t = 0; t < d.N * tiles; t++) {
            int64_t first = t / tiles * d.C;
            axis_gates(z + first * L, net, g->g_h + first * d.H, g->g_w + first * d.W,
                       t % tiles * TILE, d);
        }
    mix(x, y, g, d, threads);
}

/* Returns 0 where memory ran out. */
int icasa_attend(const float *x, float *y, const Net *net, const Shape *shape, int threads) {
    Shape d = *shape;
    int64_t sample = d.C * d.H * d.W, step = CHUNK / sample;
    step = step < 1 ? 1 : step < d.N ? step : d.N;
    int64_t lines = net->taps ? step * d.C * (d.H + d.W) : 0, half = net->w1 ? step * d.C / 2 : 0;
    double *z = malloc(lines * sizeof(double) + (lines + 4 * half) * sizeof(float));
    if (!z)
        return 0;
    float *planes = (float *)(z + lines), *axes = planes + 4 * half;
    Gates g = {.beta = 1, .rest = 1, .shuffle = net->shuffle, .residual = net->residual};
    if (net->beta)
        g.beta = *net->beta, g.rest = 1 - g.beta;
    if (net->w1)
        g.gate = planes, g.a = planes + half, g.b = planes + 2 * half, g.mean = planes + 3 * half;
    if (net->taps)
        g.g_h = axes, g.g_w = axes + step * d.C * d.H;
    for (int64_t n = 0; n < shape->N; n += step) {
        d.N = shape->N - n < step ? shape->N - n : step;
        attend(x + n * sample, y + n * sample, net, &g, net->taps ? z : 0, d, threads);
    }
    free(z);
    return 1;
}
