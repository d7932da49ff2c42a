/* The operators of ops.py for float32 on the CPU, plane by plane; planes.py calls them.

   Planes are dealt to the threads of torch's own OpenMP pool, whose symbols the process already
   holds. Each plane is summed by one thread in one order, so that no result depends on their
   number. Short sums are float32 in vector lanes, sums of these float64. */

#include <stdint.h>
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
#define BLOCK 4096 /* elements that are summed in float32 */

enum { NONE, CHANNEL, SPATIAL };

typedef struct {
    int64_t N, C, H, W, groups;
} Shape;

/* What x is gated by; a pointer is null where it does not apply. beta is that of the coordinate
   part, rest that of the shuffle part. */
typedef struct {
    const float *g_h, *g_w, *gate, *a, *b, *mean;
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

/* Sum of a plane, with the means of its rows and columns unless z_h and z_w are null. The sum is
   the same in both cases, to the bit. */
VECTORISED static double sums(const float *restrict x, float *restrict z_h, float *restrict z_w,
                              int64_t H, int64_t W) {
    double total = 0;
    if (z_w)
        memset(z_w, 0, W * sizeof(float));
    for (int64_t h = 0; h < H; h++, x += W) {
        float row = 0;
        SUM(row)
        for (int64_t w = 0; w < W; w++)
            row += x[w];
        total += row;
        if (z_w) {
            z_h[h] = row / W;
            LANES
            for (int64_t w = 0; w < W; w++)
                z_w[w] += x[w];
        }
    }
    if (z_w)
        for (int64_t w = 0; w < W; w++)
            z_w[w] /= H;
    return total;
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

void icasa_moments(const float *x, float *z_h, float *z_w, float *s, float *mean, float *var,
                   const Shape *shape, int threads) {
    Shape d = *shape;
    double size = (double)d.H * d.W;
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t k = 0;
        int kind = half_of(d, p, &k);
        const float *plane = x + p * d.H * d.W;
        double total = sums(plane, z_h ? z_h + p * d.H : 0, z_w ? z_w + p * d.W : 0, d.H, d.W);
        if (kind == CHANNEL)
            s[k] = total / size;
        if (kind == SPATIAL) {
            mean[k] = total / size;
            var[k] = sum_of_squares(plane, mean[k], d.H * d.W) / size;
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

void icasa_mix(const float *x, float *y, const Gates *g, const Shape *shape, int threads) {
    Shape d = *shape;
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
                            const float *dvar, const float *mean, const Shape *shape,
                            int threads) {
    Shape d = *shape;
    double size = (double)d.H * d.W;
    PLANES
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t k = 0, at = p * d.H * d.W;
        int kind = half_of(d, p, &k);
        float constant = kind == CHANNEL ? ds[k] / size : kind == SPATIAL ? dmean[k] / size : 0;
        float slope = kind == SPATIAL ? 2 * dvar[k] / size : 0;
        complete(dx + at, x + at, out + at, dz_h ? dz_h + p * d.H : 0, dz_w ? dz_w + p * d.W : 0,
                 constant, slope, kind == SPATIAL ? mean[k] : 0, d.H, d.W);
    }
}
