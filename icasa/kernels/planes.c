/* ICA, SA and ICASA on the CPU, plane by plane, for float32, bfloat16 and float16: the operators
   `attend`, `attend_forward` and `attend_backward` of ops.py, by the two functions at the end, which
   planes.py calls.

   Planes are dealt to the threads of torch's own OpenMP pool, whose symbols the process already
   holds. Each is summed by one thread in one order, so that no result depends on their number. Sums
   are in float32 over a short stretch of vector lanes or of centred values, and these in float64. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12 /* AVX-512, or AVX2, with FMA */
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define VECTORISED
#endif
#define INLINE static inline __attribute__((always_inline))
#define PLANES _Pragma("omp parallel for schedule(static) num_threads(d.threads)")
#define UNROLL _Pragma("GCC unroll 8")
#define LANES _Pragma("omp simd")
#define PRAGMA(text) _Pragma(#text)
#define SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define BLOCK 256 /* elements that are summed in float32 */
#define CHUNK (1 << 18) /* elements of x that are worked on at a time */
#define COLUMNS 256 /* columns that are summed at a time */

/* Positions, channels and rows of a product at a time; the largest M and K. */
enum { TILE = 16, LANE = 4, CHANNELS = 32, ROWS = 4, WIDEST = 64 };
typedef double Doubles __attribute__((vector_size(LANE * sizeof(double)), aligned(8), may_alias));
typedef float Singles __attribute__((vector_size(2 * LANE * sizeof(float)), aligned(4), may_alias));

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { NONE, CHANNEL, SPATIAL };

/* The version of the functions' arguments, which planes.py asks for. */
int icasa_interface(void) { return 3; }

int omp_get_thread_num(void);

/* A map, the type of its elements, and how many threads are to work on it. */
typedef struct {
    int64_t N, C, H, W, groups;
    int32_t type, threads;
} Shape;

/* What a layer is made of, in the order of ops.py; a pointer is null where there is none. */
typedef struct {
    float *taps, *tap_bias, *mix, *mix_bias, *to_axis[4], *norm[4];
    float *w1, *b1, *w2, *b2, *group_weight, *group_bias, *beta;
} Parameters;

typedef struct {
    Parameters of;
    int64_t M, K, training; /* of the norm */
    float norm_eps, group_eps;
    int32_t shuffle, residual;
} Net;

/* What the forward leaves to the backward. Of each coordinate gate: the gates, the means without
   those of their channel, and the bottleneck before the norm's weight and bias. Of each plane of
   either half of SA: its gate and mean, or the line a (x - mean) + b, the mean as a float32 number
   and what this lacks, and 1 / deviation. */
typedef struct {
    float *g_h, *g_w, *z, *z_mean, *hat, *scale;
    float *gate, *s, *a, *b, *mean, *lost, *rstd;
} Kept;

static Kept kept_in(float *room, const Net *net, Shape d) {
    Kept k = {0};
    int64_t planes = d.N * d.C, L = d.H + d.W;
    if (net->of.taps) {
        k.g_h = room;
        k.g_w = k.g_h + planes * d.H;
        k.z = k.g_w + planes * d.W;
        k.z_mean = k.z + planes * L;
        k.hat = k.z_mean + d.C;
        k.scale = k.hat + d.N * net->M * L;
        room = k.scale + net->M;
    }
    if (net->of.w1) {
        float **each[] = {&k.gate, &k.s, &k.a, &k.b, &k.mean, &k.lost, &k.rstd};
        for (int i = 0; i < 7; i++, room += planes / 2)
            *each[i] = room;
    }
    return k;
}

static int64_t kept_size(const Net *net, Shape d) {
    int64_t planes = d.N * d.C, L = d.H + d.W;
    int64_t axes = net->of.taps ? 2 * planes * L + d.N * net->M * L + d.C + net->M : 0;
    return axes + (net->of.w1 ? 7 * (planes / 2) : 0);
}

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

typedef union {
    uint32_t bits;
    float value;
} Float;

VECTORISED static void widen(const uint16_t *restrict from, float *restrict to, int64_t size,
                             int type) {
    if (type == BFLOAT16) {
        LANES
        for (int64_t i = 0; i < size; i++)
            to[i] = ((Float){(uint32_t)from[i] << 16}).value;
        return;
    }
    LANES
    for (int64_t i = 0; i < size; i++) {
        uint32_t magnitude = from[i] & 0x7fffu, sign = (from[i] & 0x8000u) << 16;
        Float f = {magnitude << 13};
        f.value *= 0x1p112f; /* from the exponent's bias of 15 to that of 127 */
        f.bits |= sign | (magnitude < 0x7c00u ? 0 : 0x7f800000u); /* infinity, or no number */
        to[i] = f.value;
    }
}

/* Rounds to the nearest, to even where two are as near. */
VECTORISED static void narrow(const float *restrict from, uint16_t *restrict to, int64_t size,
                              int type) {
    if (type == BFLOAT16) {
        LANES
        for (int64_t i = 0; i < size; i++) {
            uint32_t bits = ((Float){.value = from[i]}).bits;
            uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
            to[i] = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded;
        }
        return;
    }
    LANES
    for (int64_t i = 0; i < size; i++) {
        Float f = {.value = from[i]};
        uint32_t sign = f.bits >> 16 & 0x8000u, bits = f.bits & 0x7fffffffu;
        uint32_t normal = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1)) >> 13;
        Float small = {bits};
        small.value += 0.5f; /* whose last bit is the smallest number of the type */
        uint32_t half = bits < 0x38800000u ? small.bits - 0x3f000000u : normal;
        half = bits < 0x47800000u ? half : 0x7c00u;
        to[i] = sign | (bits > 0x7f800000u ? 0x7e00u : half);
    }
}

/* A plane of x from element `at` on: where it lies, or in `room` as float32. */
INLINE const float *read(const void *x, int64_t at, float *room, Shape d) {
    if (d.type == FLOAT32)
        return (const float *)x + at;
    widen((const uint16_t *)x + at, room, d.H * d.W, d.type);
    return room;
}

/* Where to make a plane of y, to be written by `write`. */
INLINE float *made_in(void *y, int64_t at, float *room, Shape d) {
    return d.type == FLOAT32 ? (float *)y + at : room;
}

INLINE void write(void *y, int64_t at, const float *made, Shape d) {
    if (d.type != FLOAT32)
        narrow(made, (uint16_t *)y + at, d.H * d.W, d.type);
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

/* Sum of a plane. */
VECTORISED static double sum(const float *x, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++)
        total += x[i];
    return total;
}

/* Adds `count` columns of a line about `shift` to their sums; returns the line's. */
INLINE float add_line(const float *line, float shift, float *columns, int64_t count) {
    float row = 0;
    SUM(row)
    for (int64_t w = 0; w < count; w++) {
        float value = line[w] - shift;
        row += value;
        columns[w] += value;
    }
    return row;
}

/* Likewise for four lines, W apart, whose sums are added to `rows`: the columns' are read once. */
INLINE void add_lines(const float *line, float shift, float *restrict columns, double *rows,
                      int64_t count, int64_t W) {
    float r0 = 0, r1 = 0, r2 = 0, r3 = 0;
    SUM(r0, r1, r2, r3)
    for (int64_t w = 0; w < count; w++) {
        float a = line[w] - shift, b = line[W + w] - shift;
        float c = line[2 * W + w] - shift, d = line[3 * W + w] - shift;
        r0 += a, r1 += b, r2 += c, r3 += d;
        columns[w] += (a + b) + (c + d);
    }
    rows[0] += r0, rows[1] += r1, rows[2] += r2, rows[3] += r3;
}

/* Sum of a plane, and the means of its rows and columns. Sums are of what is left without the mean
   of the first row: in float32 they then lose no more at an offset than about zero. */
VECTORISED static double sums(const float *x, double *z_h, double *z_w, int64_t H, int64_t W) {
    double total = 0, offset = sum(x, W) / W;
    float shift = isfinite(offset) ? offset : 0;
    memset(z_h, 0, H * sizeof(double));
    for (int64_t from = 0; from < W; from += COLUMNS) {
        int64_t count = W - from < COLUMNS ? W - from : COLUMNS, h = 0;
        float columns[COLUMNS] = {0};
        for (; h + 4 <= H; h += 4)
            add_lines(x + h * W + from, shift, columns, z_h + h, count, W);
        for (; h < H; h++)
            z_h[h] += add_line(x + h * W + from, shift, columns, count);
        for (int64_t w = 0; w < count; w++)
            z_w[from + w] = shift + (double)columns[w] / H;
    }
    for (int64_t h = 0; h < H; h++) {
        total += z_h[h];
        z_h[h] = shift + z_h[h] / W;
    }
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

/* Eq. 13, and Eq. 14 as a line a (x - mean) + b, for plane p, whose mean is `exact`. */
INLINE void plane_gates(const float *x, double exact, const Net *net, const Kept *to, int64_t p,
                        Shape d) {
    int64_t k = 0, j = p % d.C % (d.C / (2 * d.groups));
    const Parameters *of = &net->of;
    if (half_of(d, p, &k) == CHANNEL) {
        to->s[k] = exact;
        to->gate[k] = sigmoid(of->w1[j] * exact + of->b1[j]);
        return;
    }
    double lost, var = centre(x, exact, to->mean + k, &lost, d.H * d.W);
    double rstd = 1 / sqrt(var + net->group_eps), a = of->w2[j] * of->group_weight[j] * rstd;
    to->a[k] = a;
    to->b[k] = (double)of->w2[j] * of->group_bias[j] + of->b2[j] - a * lost;
    to->lost[k] = lost;
    to->rstd[k] = rstd;
}

/* Up to TILE positions of one axis of one sample. */
typedef struct {
    int64_t n, axis, start, count; /* start in (H + W) */
} Tile;

INLINE int64_t tiles_of(int64_t size) { return (size + TILE - 1) / TILE; }

INLINE Tile tile_at(int64_t t, Shape d) {
    int64_t rows = tiles_of(d.H), each = rows + tiles_of(d.W), first = t % each;
    int64_t axis = first >= rows, start = (axis ? first - rows : first) * TILE;
    int64_t left = (axis ? d.W : d.H) - start;
    return (Tile){t / each, axis, axis ? d.H + start : start, left < TILE ? left : TILE};
}

/* y[rows][TILE] += w u[columns][TILE] of CHANNELS columns at most; w's rows and columns are `down`
   and `along` apart. */
INLINE void multiply(const float *w, const double (*u)[TILE], double (*y)[TILE], int64_t rows,
                     int64_t columns, int64_t down, int64_t along) {
    for (int64_t first = 0; first < rows; first += ROWS) {
        double weight[ROWS][CHANNELS];
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t c = 0; c < columns; c++)
                weight[r][c] = first + r < rows ? w[(first + r) * down + c * along] : 0;
        for (int i = 0; i < TILE; i += 2 * LANE) {
            Doubles sum[ROWS][2] = {{{0}}};
            for (int64_t c = 0; c < columns; c++) {
                Doubles a = *(const Doubles *)(u[c] + i), b = *(const Doubles *)(u[c] + i + LANE);
                UNROLL
                for (int r = 0; r < ROWS; r++) {
                    sum[r][0] += weight[r][c] * a;
                    sum[r][1] += weight[r][c] * b;
                }
            }
            for (int64_t r = first; r < rows && r < first + ROWS; r++) {
                *(Doubles *)(y[r] + i) += sum[r - first][0];
                *(Doubles *)(y[r] + i + LANE) += sum[r - first][1];
            }
        }
    }
}

/* The convolutions of Eq. 8 on z (C, L) of one sample at TILE positions from `start` on; in
   float64, as the norm may take off a mean that is large beside what is left. */
VECTORISED static void squeeze(const double *z, const Net *net, double (*sum)[TILE], int64_t start,
                               int64_t C, int64_t L) {
    double u[CHANNELS][TILE], row[TILE + WIDEST] = {0};
    int64_t from = start - net->K / 2, to = from + TILE + net->K - 1, skip = from < 0 ? -from : 0;
    int64_t known = (to < L ? to : L) - from - skip; /* zero beyond both ends */
    for (int64_t m = 0; m < net->M; m++)
        for (int i = 0; i < TILE; i++)
            sum[m][i] = net->of.mix_bias[m];
    for (int64_t first = 0; first < C; first += CHANNELS) {
        int64_t count = C - first < CHANNELS ? C - first : CHANNELS;
        for (int64_t c = 0; c < count; c++) {
            const float *taps = net->of.taps + (first + c) * net->K;
            const double *line = z + (first + c) * L + (from + skip);
            if (known < TILE + net->K - 1)
                memcpy(row + skip, line, known * sizeof(double)), line = row;
            for (int i = 0; i < TILE; i++)
                u[c][i] = net->of.tap_bias[first + c];
            for (int64_t k = 0; k < net->K; k++)
                for (int i = 0; i < TILE; i += LANE)
                    *(Doubles *)(u[c] + i) += taps[k] * *(const Doubles *)(line + k + i);
        }
        multiply(net->of.mix + first, u, sum, net->M, count, C, 1);
    }
}

/* Mean and 1 / deviation that the norm takes for channel m of p (N, M, L), which training alone
   reads; `statistics` (2, M) gets the mean and the unbiased variance. */
static void normaliser(const double *p, const Net *net, int64_t m, double *mean, double *scale,
                       float *statistics, Shape d) {
    int64_t L = d.H + d.W, count = d.N * L;
    double total = 0, squares = 0;
    if (!net->of.norm[0] || !net->training) {
        *mean = net->of.norm[0] ? net->of.norm[2][m] : 0;
        *scale = net->of.norm[0] ? 1 / sqrt((double)net->of.norm[3][m] + net->norm_eps) : 1;
        return;
    }
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = 0; l < L; l++)
            total += p[(n * net->M + m) * L + l];
    *mean = total / count;
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = 0; l < L; l++) {
            double centred = p[(n * net->M + m) * L + l] - *mean;
            squares += centred * centred;
        }
    *scale = 1 / sqrt(squares / count + net->norm_eps);
    statistics[m] = *mean;
    statistics[net->M + m] = squares / (count - 1);
}

/* h_swish and its derivative */
INLINE float h_swish(float t) {
    float ramp = t + 3;
    return t * (ramp < 0 ? 0 : ramp > 6 ? 6 : ramp) / 6;
}

INLINE float h_swish_slope(float t) { return t < -3 ? 0 : t > 3 ? 1 : t / 3 + 0.5f; }

/* The end of Eq. 8, and Eq. 9 and 10, from a tile of the bottleneck. */
VECTORISED static void expand(const double (*sum)[TILE], const double *mean, const double *scale,
                              const Net *net, const Kept *to, Tile t, Shape d) {
    float f[WIDEST][TILE];
    const float *weight = net->of.to_axis[2 * t.axis], *bias = net->of.to_axis[2 * t.axis + 1];
    int64_t L = d.H + d.W, size = t.axis ? d.W : d.H, start = t.start - (t.axis ? d.H : 0);
    for (int64_t m = 0; m < net->M; m++) {
        float gain = net->of.norm[0] ? net->of.norm[0][m] : 1;
        float shift = net->of.norm[0] ? net->of.norm[1][m] : 0, hat[TILE];
        LANES
        for (int i = 0; i < TILE; i++) {
            hat[i] = (sum[m][i] - mean[m]) * scale[m];
            f[m][i] = h_swish(hat[i] * gain + shift);
        }
        memcpy(to->hat + (t.n * net->M + m) * L + t.start, hat, t.count * sizeof(float));
    }
    float *gates = (t.axis ? to->g_w : to->g_h) + t.n * d.C * size + start;
    for (int64_t first = 0; first < d.C; first += ROWS) {
        float gate[ROWS * TILE];
        for (int64_t r = 0; r < ROWS; r++) {
            int64_t c = first + r < d.C ? first + r : first;
            Singles low = {0}, high = {0};
            for (int64_t m = 0; m < net->M; m++) {
                low += weight[c * net->M + m] * *(const Singles *)f[m];
                high += weight[c * net->M + m] * *(const Singles *)(f[m] + TILE / 2);
            }
            *(Singles *)(gate + r * TILE) = low + bias[c];
            *(Singles *)(gate + r * TILE + TILE / 2) = high + bias[c];
        }
        LANES
        for (int i = 0; i < ROWS * TILE; i++)
            gate[i] = sigmoid(gate[i]);
        for (int64_t r = 0; r < ROWS && first + r < d.C; r++)
            memcpy(gates + (first + r) * size, gate + r * TILE, t.count * sizeof(float));
    }
}

/* Eq. 8-10 from the means z (N, C, L); p (N, M, L) is room where the norm wants the whole batch. */
static void axis_gates(const double *z, double *p, const Net *net, const Kept *to,
                       float *statistics, Shape d) {
    int64_t L = d.H + d.W, tiles = d.N * (tiles_of(d.H) + tiles_of(d.W));
    double mean[WIDEST], scale[WIDEST];
    if (p) {
        PLANES
        for (int64_t i = 0; i < tiles; i++) {
            Tile t = tile_at(i, d);
            double sum[WIDEST][TILE];
            squeeze(z + t.n * d.C * L, net, sum, t.start, d.C, L);
            for (int64_t m = 0; m < net->M; m++)
                memcpy(p + (t.n * net->M + m) * L + t.start, sum[m], t.count * sizeof(double));
        }
    }
    for (int64_t m = 0; m < net->M; m++) {
        normaliser(p, net, m, mean + m, scale + m, statistics, d);
        to->scale[m] = scale[m];
    }
    PLANES
    for (int64_t i = 0; i < tiles; i++) {
        Tile t = tile_at(i, d);
        double sum[WIDEST][TILE] = {{0}};
        if (!p)
            squeeze(z + t.n * d.C * L, net, sum, t.start, d.C, L);
        else
            for (int64_t m = 0; m < net->M; m++)
                memcpy(sum[m], p + (t.n * net->M + m) * L + t.start, t.count * sizeof(double));
        expand(sum, mean, scale, net, to, t, d);
    }
}

/* Keeps the means about that of their channel, so that float32 loses nothing at an offset. */
VECTORISED static void keep_means(const double *z, const Kept *to, int64_t c, Shape d) {
    int64_t L = d.H + d.W;
    double total = 0;
    for (int64_t n = 0; n < d.N; n++) {
        int64_t at = (n * d.C + c) * L;
        SUM(total)
        for (int64_t l = at; l < at + L; l++)
            total += z[l];
    }
    float mean = total / (d.N * L);
    to->z_mean[c] = mean;
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = (n * d.C + c) * L; l < (n * d.C + c + 1) * L; l++)
            to->z[l] = z[l] - mean;
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

/* x * g_h * g_w * beta, put into y or added to it. */
VECTORISED static void gate_axes(const float *restrict x, float *restrict y,
                                 const float *restrict g_h, const float *restrict g_w, float beta,
                                 int added, int64_t H, int64_t W) {
    for (int64_t h = 0; h < H; h++, x += W, y += W) {
        float row = g_h[h] * beta;
        if (added) {
            LANES
            for (int64_t w = 0; w < W; w++)
                y[w] += x[w] * row * g_w[w];
        } else {
            LANES
            for (int64_t w = 0; w < W; w++)
                y[w] = x[w] * row * g_w[w];
        }
    }
}

VECTORISED static void add(const float *restrict x, float *restrict y, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] += x[i];
}

/* Plane p of y; rooms for three planes. */
static void mix(const void *x, void *y, const Net *net, const Kept *g, int64_t p, float *room,
                Shape d) {
    int64_t size = d.H * d.W, k = 0, from = net->shuffle ? shuffled_from(d, p) : p;
    int kind = half_of(d, from, &k), both = kind != NONE && g->g_h;
    float beta = both ? *net->of.beta : 1, rest = both ? 1 - beta : 1;
    const float *in = read(x, p * size, room, d);
    const float *source = from == p ? in : read(x, from * size, room + size, d);
    float *out = made_in(y, p * size, room + 2 * size, d);
    if (kind == CHANNEL)
        gate_plane(source, out, g->gate[k] * rest, size);
    if (kind == SPATIAL)
        gate_elements(source, out, rest, g->a[k], g->b[k], g->mean[k], size);
    if (g->g_h)
        gate_axes(in, out, g->g_h + p * d.H, g->g_w + p * d.W, beta, both, d.H, d.W);
    if (net->residual)
        add(in, out, size);
    write(y, p * size, out, d);
}

/* Rooms in bytes of what `attend` needs: the means z (N, C, L), the bottleneck p (N, M, L) where the
   norm wants the whole batch, planes, and what is kept where this is not for a backward. */
typedef struct {
    int64_t z, p, planes, kept;
} Rooms;

static Rooms rooms_of(const Net *net, int keeps, Shape d) {
    int64_t lines = net->of.taps ? d.N * (d.H + d.W) : 0;
    return (Rooms){
        .z = lines * d.C * sizeof(double),
        .p = keeps && net->training ? lines * net->M * sizeof(double) : 0,
        .planes = d.type != FLOAT32 ? d.threads * 3 * d.H * d.W * sizeof(float) : 0,
        .kept = keeps ? 0 : kept_size(net, d) * sizeof(float),
    };
}

/* Some samples. */
static void attend(const void *x, void *y, float *kept, float *statistics, const Net *net,
                   char *room, Shape d) {
    int64_t size = d.H * d.W, L = d.H + d.W;
    Rooms r = rooms_of(net, kept != 0, d);
    double *z = r.z ? (double *)room : 0, *p = r.p ? (double *)(room + r.z) : 0;
    float *planes = (float *)(room + r.z + r.p);
    Kept to = kept_in(kept ? kept : (float *)(room + r.z + r.p + r.planes), net, d);
    PLANES
    for (int64_t i = 0; i < d.N * d.C; i++) {
        const float *plane = read(x, i * size, planes + omp_get_thread_num() * 3 * size, d);
        double total = z ? sums(plane, z + i * L, z + i * L + d.H, d.H, d.W) : sum(plane, size);
        if (net->of.w1)
            plane_gates(plane, total / size, net, &to, i, d);
    }
    if (z)
        axis_gates(z, p, net, &to, statistics, d);
    if (z && kept)
        PLANES
        for (int64_t c = 0; c < d.C; c++)
            keep_means(z, &to, c, d);
    PLANES
    for (int64_t i = 0; i < d.N * d.C; i++)
        mix(x, y, net, &to, i, planes + omp_get_thread_num() * 3 * size, d);
}

/* `kept` is room for what the backward wants, or null in evaluation, which then works on as many
   samples at a time as a cache holds: where there are many, on one in each thread. Returns 0 where
   memory ran out. */
int icasa_attend(const void *x, void *y, float *kept, float *statistics, const Net *net,
                 const Shape *shape) {
    Shape d = *shape;
    int64_t sample = d.C * d.H * d.W, step = CHUNK / sample < 1 ? 1 : CHUNK / sample;
    int64_t bytes = d.type == FLOAT32 ? 4 : 2;
    int apart = !kept && d.N >= 4 * d.threads, workers = apart ? d.threads : 1;
    d.N = kept ? d.N : apart ? 1 : step < d.N ? step : d.N;
    d.threads /= workers;
    Rooms r = rooms_of(net, kept != 0, d);
    int64_t each = (r.z + r.p + r.planes + r.kept) / sizeof(double) * sizeof(double) + sizeof(double);
    char *room = malloc(workers * each);
    if (!room)
        return 0;
    if (apart) {
        _Pragma("omp parallel for schedule(static) num_threads(workers)")
        for (int64_t n = 0; n < shape->N; n++)
            attend((const char *)x + n * sample * bytes, (char *)y + n * sample * bytes, 0, 0, net,
                   room + omp_get_thread_num() * each, d);
    } else {
        step = d.N;
        for (int64_t n = 0; n < shape->N; n += step) {
            d.N = shape->N - n < step ? shape->N - n : step;
            attend((const char *)x + n * sample * bytes, (char *)y + n * sample * bytes, kept,
                   statistics, net, room, d);
        }
    }
    free(room);
    return 1;
}

/* Sum of g * x. */
INLINE double product(const float *g, const float *x, int64_t size) {
    double total = 0;
    for (int64_t from = 0; from < size; from += BLOCK) {
        float part = 0;
        SUM(part)
        for (int64_t i = from; i < end_of(from, size); i++)
            part += g[i] * x[i];
        total += part;
    }
    return total;
}

/* Likewise in float64: the sum over a whole map may be small beside that of a plane. */
VECTORISED static double plane_sum(const float *g, const float *x, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++)
        total += (double)g[i] * x[i];
    return total;
}

/* Sums of g * x * sigmoid(t) with t = a (x - mean) + b and, of its derivative by t, those with and
   without (x - mean). */
VECTORISED static void element_sums(const float *restrict g, const float *restrict x, float a,
                                    float b, float mean, double *total, int64_t size) {
    total[0] = total[1] = total[2] = 0;
    for (int64_t from = 0; from < size; from += BLOCK) {
        float slope = 0, shift = 0;
        double gated = 0;
        SUM(gated, slope, shift)
        for (int64_t i = from; i < end_of(from, size); i++) {
            float centred = x[i] - mean, s = sigmoid(centred * a + b);
            float gxs = g[i] * x[i] * s, dt = gxs * (1.0f - s);
            gated += gxs;
            slope += dt * centred;
            shift += dt;
        }
        total[0] += gated, total[1] += slope, total[2] += shift;
    }
}

/* Gradients t_h and t_w of the sum of g * x * g_h * g_w * beta before the sigmoids of the gates;
   returns that of beta. */
VECTORISED static double axis_sums(const float *restrict g, const float *restrict x,
                                   const float *restrict g_h, const float *restrict g_w,
                                   float *restrict t_h, float *restrict t_w, float beta,
                                   int64_t H, int64_t W) {
    double total = 0;
    memset(t_w, 0, W * sizeof(float));
    for (int64_t h = 0; h < H; h++, g += W, x += W) {
        double part = 0;
        SUM(part)
        for (int64_t w = 0; w < W; w++) {
            float gx = g[w] * x[w];
            part += gx * g_w[w];
            t_w[w] += gx * g_h[h];
        }
        t_h[h] = part * beta * g_h[h] * (1 - g_h[h]);
        total += part * g_h[h];
    }
    for (int64_t w = 0; w < W; w++)
        t_w[w] *= beta * g_w[w] * (1 - g_w[w]);
    return total;
}

/* What a plane adds to the gradient of beta, to those of two parameters of SA's gate, and, by its
   moments, to that of each of its elements: constant + slope * (x - mean). */
typedef struct {
    double beta, first, second;
    float constant, slope;
} Plane;

/* The first pass over plane p; t (N, C, L) gets the gradients before the sigmoids of the axes. */
static void plane_gradients(const void *g, const void *x, const Net *net, const Kept *k, Plane *to,
                            float *t, int64_t p, float *room, Shape d) {
    int64_t size = d.H * d.W, L = d.H + d.W, i = 0, at = net->shuffle ? shuffled_to(d, p) : p;
    int kind = half_of(d, p, &i), both = kind != NONE && k->g_h;
    float beta = both ? *net->of.beta : 1, rest = both ? 1 - beta : 1;
    const float *in = read(x, p * size, room, d);
    *to = (Plane){0};
    if (kind != NONE) {
        const Parameters *of = &net->of;
        int64_t j = p % d.C % (d.C / (2 * d.groups));
        const float *gv = read(g, at * size, room + size, d);
        if (kind == CHANNEL) {
            double gate = k->gate[i], total = plane_sum(gv, in, size);
            to->beta = -total * gate;
            to->second = total * rest * gate * (1 - gate);
            to->first = to->second * k->s[i];
            to->constant = to->second * of->w1[j] / size;
        } else {
            double total[3], a = k->a[i], rstd = k->rstd[i];
            element_sums(gv, in, a, k->b[i], k->mean[i], total, size);
            to->beta = -total[0];
            to->second = total[2] * rest;
            to->first = total[1] * rest - to->second * k->lost[i];
            to->slope = -to->first * a * rstd * rstd / size;
            to->constant = -a * to->second / size - to->slope * k->lost[i];
        }
    }
    if (k->g_h) {
        const float *gp = read(g, p * size, room + size, d);
        to->beta += axis_sums(gp, in, k->g_h + p * d.H, k->g_w + p * d.W, t + p * L,
                              t + p * L + d.H, beta, d.H, d.W);
    }
}

/* dx = g * gate + constant */
VECTORISED static void scale(const float *restrict g, float *restrict dx, float gate,
                             float constant, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        dx[i] = g[i] * gate + constant;
}

/* dx of g * x * sigmoid(t) * gate with t = a (x - mean) + b, + constant + slope (x - mean). */
VECTORISED static void ungate_elements(const float *restrict g, const float *restrict x,
                                       float *restrict dx, float gate, float a, float b,
                                       float mean, float constant, float slope, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++) {
        float centred = x[i] - mean, s = sigmoid(centred * a + b);
        float gs = g[i] * s * gate, dt = gs * x[i] * (1.0f - s);
        dx[i] = gs + dt * a + (constant + slope * centred);
    }
}

/* g * g_h * g_w * beta + dz_h / W + dz_w / H, put into dx or added to it. */
VECTORISED static void ungate_axes(const float *restrict g, float *restrict dx,
                                   const float *restrict g_h, const float *restrict g_w,
                                   const float *restrict dz_h, const float *restrict dz_w,
                                   float beta, int added, int64_t H, int64_t W) {
    float height = 1.0f / H;
    for (int64_t h = 0; h < H; h++, g += W, dx += W) {
        float row = g_h[h] * beta, constant = dz_h[h] / W;
        if (added) {
            LANES
            for (int64_t w = 0; w < W; w++)
                dx[w] += g[w] * row * g_w[w] + (constant + dz_w[w] * height);
        } else {
            LANES
            for (int64_t w = 0; w < W; w++)
                dx[w] = g[w] * row * g_w[w] + (constant + dz_w[w] * height);
        }
    }
}

/* The second pass over plane p, with dz (N, C, L) the gradients of the means. */
static void unmix(const void *g, const void *x, void *dx, const Net *net, const Kept *k,
                  const Plane *with, const float *dz, int64_t p, float *room, Shape d) {
    int64_t size = d.H * d.W, L = d.H + d.W, i = 0, at = net->shuffle ? shuffled_to(d, p) : p;
    int kind = half_of(d, p, &i), both = kind != NONE && k->g_h;
    float beta = both ? *net->of.beta : 1, rest = both ? 1 - beta : 1;
    float *out = made_in(dx, p * size, room + 2 * size, d);
    if (kind != NONE) {
        const float *gv = read(g, at * size, room + size, d);
        if (kind == CHANNEL)
            scale(gv, out, k->gate[i] * rest, with->constant, size);
        else
            ungate_elements(gv, read(x, p * size, room, d), out, rest, k->a[i], k->b[i],
                            k->mean[i], with->constant, with->slope, size);
    }
    if (k->g_h || net->residual) {
        const float *gp = read(g, p * size, room + size, d);
        if (k->g_h)
            ungate_axes(gp, out, k->g_h + p * d.H, k->g_w + p * d.W, dz + p * L,
                        dz + p * L + d.H, beta, both, d.H, d.W);
        if (net->residual)
            add(gp, out, size);
    }
    write(dx, p * size, out, d);
}

/* From t, the gradient at a tile before the gates' sigmoids, that before h_swish, dn (N, M, L), and
   h (N, M, L), what h_swish gave. */
VECTORISED static void unexpand(const float *t, const Net *net, const Kept *k, float *h, float *dn,
                                Tile tile, Shape d) {
    double sum[WIDEST][TILE] = {{0}}, u[CHANNELS][TILE] = {{0}};
    const float *weight = net->of.to_axis[2 * tile.axis];
    int64_t L = d.H + d.W;
    for (int64_t first = 0; first < d.C; first += CHANNELS) {
        int64_t count = d.C - first < CHANNELS ? d.C - first : CHANNELS;
        for (int64_t c = 0; c < count; c++)
            for (int64_t i = 0; i < tile.count; i++)
                u[c][i] = t[(tile.n * d.C + first + c) * L + tile.start + i];
        multiply(weight + first * net->M, u, sum, net->M, count, 1, net->M);
    }
    for (int64_t m = 0; m < net->M; m++) {
        float gain = net->of.norm[0] ? net->of.norm[0][m] : 1;
        float shift = net->of.norm[0] ? net->of.norm[1][m] : 0;
        int64_t at = (tile.n * net->M + m) * L + tile.start;
        for (int64_t i = 0; i < tile.count; i++) {
            float normed = k->hat[at + i] * gain + shift;
            h[at + i] = h_swish(normed);
            dn[at + i] = sum[m][i] * h_swish_slope(normed);
        }
    }
}

/* Turns row m of dn into the gradient before the norm; returns its sum. */
VECTORISED static double unnormalise(float *dn, const Net *net, const Kept *k,
                                     const Parameters *to, int64_t m, Shape d) {
    int64_t L = d.H + d.W;
    double total = 0, weighed = 0, count = (double)d.N * L;
    for (int64_t n = 0; n < d.N; n++) {
        int64_t at = (n * net->M + m) * L;
        SUM(total)
        for (int64_t l = at; l < at + L; l++)
            total += dn[l];
        weighed += product(dn + at, k->hat + at, L);
    }
    if (!net->of.norm[0])
        return total;
    to->norm[0][m] = weighed;
    to->norm[1][m] = total;
    float gain = net->of.norm[0][m] * k->scale[m];
    float mean = net->training ? total / count : 0, slope = net->training ? weighed / count : 0;
    for (int64_t n = 0; n < d.N; n++) {
        int64_t at = (n * net->M + m) * L;
        LANES
        for (int64_t l = at; l < at + L; l++)
            dn[l] = gain * (dn[l] - mean - k->hat[l] * slope);
    }
    return net->training ? 0 : gain * total;
}

/* What channel c has of the gradients of the convolutions; t becomes the gradient of its means.
   dp (N, M, L) is that of the bottleneck, `sums` (M) its sums. Means are taken about that of the
   channel, and what this leaves out goes by these sums, which are zero behind a norm in training.
   Room for three rows of L + K. */
VECTORISED static void channel_gradients(const Net *net, const Kept *k, const float *h,
                                         const float *dp, const double *sums, float *t,
                                         const Parameters *to, int64_t c, float *room, Shape d) {
    int64_t L = d.H + d.W, M = net->M, K = net->K, pad = K / 2;
    float *z = room, *du = room + L + K, *u = du + L + K, mean = k->z_mean[c];
    const float *taps = net->of.taps + c * K;
    double mix[WIDEST] = {0}, tap[WIDEST] = {0}, axis[2][WIDEST] = {{0}}, bias[2] = {0};
    double level = net->of.tap_bias[c], sum = 0;
    for (int64_t i = 0; i < pad; i++) {
        z[i] = z[L + pad + i] = -mean; /* zero, about the mean */
        du[i] = du[L + pad + i] = 0;
    }
    for (int64_t n = 0; n < d.N; n++) {
        float *row = t + (n * d.C + c) * L;
        const float *hn = h + n * M * L, *dpn = dp + n * M * L;
        memcpy(z + pad, k->z + (n * d.C + c) * L, L * sizeof(float));
        memset(du + pad, 0, L * sizeof(float));
        memset(u, 0, L * sizeof(float));
        for (int64_t i = 0; i < K; i++)
            LANES
            for (int64_t l = 0; l < L; l++)
                u[l] += taps[i] * z[l + i];
        for (int64_t m = 0; m < M; m++) {
            float weight = net->of.mix[m * d.C + c];
            LANES
            for (int64_t l = 0; l < L; l++)
                du[pad + l] += weight * dpn[m * L + l];
            mix[m] += product(dpn + m * L, u, L);
            axis[0][m] += product(row, hn + m * L, d.H);
            axis[1][m] += product(row + d.H, hn + m * L + d.H, d.W);
        }
        for (int64_t l = 0; l < L; l++)
            bias[l >= d.H] += row[l];
        for (int64_t i = 0; i < K; i++)
            tap[i] += product(du + pad, z + i, L);
        memset(row, 0, L * sizeof(float));
        for (int64_t i = 0; i < K; i++)
            LANES
            for (int64_t l = 0; l < L; l++)
                row[l] += taps[i] * du[l + 2 * pad - i];
    }
    for (int64_t i = 0; i < K; i++)
        level += (double)taps[i] * mean;
    for (int64_t m = 0; m < M; m++) {
        sum += net->of.mix[m * d.C + c] * sums[m];
        to->mix[m * d.C + c] = mix[m] + level * sums[m];
        to->to_axis[0][c * M + m] = axis[0][m];
        to->to_axis[2][c * M + m] = axis[1][m];
    }
    for (int64_t i = 0; i < K; i++)
        to->taps[c * K + i] = tap[i] + mean * sum;
    to->tap_bias[c] = sum;
    to->to_axis[1][c] = bias[0];
    to->to_axis[3][c] = bias[1];
}

/* Gradients of SA's parameters and of beta, by what the planes have. */
static void reduce(const Plane *planes, const Net *net, const Kept *k, const Parameters *to,
                   double *room, Shape d) {
    double beta = 0;
    for (int64_t p = 0; p < d.N * d.C; p++)
        beta += planes[p].beta;
    if (to->beta)
        *to->beta = beta;
    if (!to->w1)
        return;
    int64_t half = d.C / (2 * d.groups);
    double *w1 = room, *b1 = w1 + half, *a = b1 + half, *b2 = a + half;
    memset(room, 0, 4 * half * sizeof(double));
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t i = 0, j = p % d.C % half;
        if (half_of(d, p, &i) == CHANNEL) {
            w1[j] += planes[p].first;
            b1[j] += planes[p].second;
        } else {
            a[j] += planes[p].first * k->rstd[i];
            b2[j] += planes[p].second;
        }
    }
    for (int64_t j = 0; j < half; j++) {
        double w2 = net->of.w2[j];
        to->w1[j] = w1[j];
        to->b1[j] = b1[j];
        to->w2[j] = a[j] * net->of.group_weight[j] + b2[j] * net->of.group_bias[j];
        to->b2[j] = b2[j];
        to->group_weight[j] = a[j] * w2;
        to->group_bias[j] = b2[j] * w2;
    }
}

/* Gradients of sum(g * y); `to` has rooms for those of the parameters. Returns 0 where memory ran
   out. */
int icasa_attend_backward(const void *g, const void *x, void *dx, float *kept, const Net *net,
                          const Parameters *to, const Shape *shape) {
    Shape d = *shape;
    int64_t size = d.H * d.W, L = d.H + d.W, planes = d.N * d.C;
    int64_t lines = net->of.taps ? planes * L : 0, squeezed = lines ? d.N * net->M * L : 0;
    int64_t each = 3 * size > 3 * (L + net->K) ? 3 * size : 3 * (L + net->K);
    int64_t rooms = d.threads * each, half = d.groups ? d.C / (2 * d.groups) : 0;
    Plane *work = malloc(planes * sizeof(Plane) + 4 * half * sizeof(double) +
                         (lines + 2 * squeezed + rooms) * sizeof(float));
    if (!work)
        return 0;
    double *totals = (double *)(work + planes), sums[WIDEST];
    float *t = (float *)(totals + 4 * half), *h = t + lines, *dn = h + squeezed, *room = dn + squeezed;
    Kept k = kept_in(kept, net, d);
    PLANES
    for (int64_t p = 0; p < planes; p++) {
        float *own = room + omp_get_thread_num() * each;
        plane_gradients(g, x, net, &k, work + p, t, p, own, d);
        if (!lines) /* else its gradient wants the whole batch */
            unmix(g, x, dx, net, &k, work + p, t, p, own, d);
    }
    if (lines) {
        PLANES
        for (int64_t i = 0; i < d.N * (tiles_of(d.H) + tiles_of(d.W)); i++)
            unexpand(t, net, &k, h, dn, tile_at(i, d), d);
        for (int64_t m = 0; m < net->M; m++) {
            sums[m] = unnormalise(dn, net, &k, to, m, d);
            to->mix_bias[m] = sums[m];
        }
        PLANES
        for (int64_t c = 0; c < d.C; c++)
            channel_gradients(net, &k, h, dn, sums, t, to, c, room + omp_get_thread_num() * each,
                              d);
        PLANES
        for (int64_t p = 0; p < planes; p++)
            unmix(g, x, dx, net, &k, work + p, t, p, room + omp_get_thread_num() * each, d);
    }
    reduce(work, net, &k, to, totals, d);
    free(work);
    return 1;
}
