/* The operators `attend` and `attend_forward` of ops.py, for native.py. */

#include <math.h>
#include <stdlib.h>

#include "native.h"

#define CHUNK (1 << 18) /* elements of x that are worked on at a time */

/* The version of the functions' arguments, which native.py asks for. */
int icasa_interface(void) { return 4; }

/* Whether a call can have more than one thread. */
int icasa_threads(void) { return GOMP_parallel != 0; }

/* Sum of a plane. */
VECTORISED static double sum(const float *x, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++)
        total += x[i];
    return total;
}

/* Sum of a line, whose elements are added to `columns`. */
INLINE double add_line(const float *line, double *restrict columns, int64_t W) {
    double row = 0;
    SUM(row)
    for (int64_t w = 0; w < W; w++) {
        double value = line[w];
        row += value;
        columns[w] += value;
    }
    return row;
}

/* Likewise of four lines: the columns are read once. */
INLINE void add_lines(const float *line, double *restrict columns, double *rows, int64_t W) {
    double r0 = 0, r1 = 0, r2 = 0, r3 = 0;
    SUM(r0, r1, r2, r3)
    for (int64_t w = 0; w < W; w++) {
        double a = line[w], b = line[W + w], c = line[2 * W + w], d = line[3 * W + w];
        r0 += a, r1 += b, r2 += c, r3 += d;
        columns[w] += (a + b) + (c + d);
    }
    rows[0] = r0, rows[1] = r1, rows[2] = r2, rows[3] = r3;
}

/* Sum of a plane, and the means of its rows and columns. */
VECTORISED static double sums(const float *x, double *z_h, double *z_w, int64_t H, int64_t W) {
    double total = 0;
    int64_t h = 0;
    memset(z_w, 0, W * sizeof(double));
    for (; h + 4 <= H; h += 4)
        add_lines(x + h * W, z_w, z_h + h, W);
    for (; h < H; h++)
        z_h[h] = add_line(x + h * W, z_w, W);
    for (h = 0; h < H; h++) {
        total += z_h[h];
        z_h[h] /= W;
    }
    for (int64_t w = 0; w < W; w++)
        z_w[w] /= H;
    return total;
}

/* Mean and variance of a plane, by sums about its first element. This is at most
   sqrt(size * variance) from the mean, so that the variance loses no more than log2(size) bits. */
VECTORISED static double moments(const float *x, int64_t size, double *mean) {
    double first = x[0], total = 0, squares = 0;
    SUM(total, squares)
    for (int64_t i = 0; i < size; i++) {
        double value = x[i] - first;
        total += value;
        squares += value * value;
    }
    total /= size;
    *mean = first + total;
    return squares / size - total * total;
}

/* Eq. 13 of plane p, whose mean is s, or what Eq. 14 wants of it. */
INLINE void plane_gates(const float *x, double s, const Net *net, const Kept *to, int64_t p,
                        Shape d) {
    int64_t k = 0, j = p % d.C % (d.C / (2 * d.groups));
    const Parameters *of = &net->of;
    if (half_of(d, p, &k) == CHANNEL) {
        to->s[k] = s;
        to->gate[k] = sigmoid(of->w1[j] * s + of->b1[j]);
        return;
    }
    double mean, var = moments(x, d.H * d.W, &mean);
    to->mean[k] = mean;
    to->mean_lo[k] = mean - to->mean[k];
    to->rstd[k] = 1 / sqrt(var + net->group_eps);
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

/* The end of Eq. 8, and Eq. 9 and 10, from a tile of the bottleneck; in float64, as a gate's logit
   may be small beside its terms. */
VECTORISED static void expand(const double (*sum)[TILE], const double *mean, const double *scale,
                              const Net *net, const Kept *to, Tile t, Shape d) {
    double f[WIDEST][TILE];
    const float *weight = net->of.to_axis[2 * t.axis], *bias = net->of.to_axis[2 * t.axis + 1];
    int64_t L = d.H + d.W, size = t.axis ? d.W : d.H, start = t.start - (t.axis ? d.H : 0);
    for (int64_t m = 0; m < net->M; m++) {
        double gain = net->of.norm[0] ? net->of.norm[0][m] : 1;
        double shift = net->of.norm[0] ? net->of.norm[1][m] : 0;
        float hat[TILE];
        LANES
        for (int i = 0; i < TILE; i++) {
            double exact = (sum[m][i] - mean[m]) * scale[m];
            hat[i] = exact;
            f[m][i] = h_swish(exact * gain + shift);
        }
        memcpy(to->hat + (t.n * net->M + m) * L + t.start, hat, t.count * sizeof(float));
    }
    float *gates = (t.axis ? to->g_w : to->g_h) + t.n * d.C * size + start;
    for (int64_t first = 0; first < d.C; first += ROWS) {
        double logit[ROWS][TILE];
        int64_t rows = d.C - first < ROWS ? d.C - first : ROWS;
        for (int64_t r = 0; r < ROWS; r++)
            for (int i = 0; i < TILE; i++)
                logit[r][i] = r < rows ? bias[first + r] : 0;
        for (int64_t m = 0; m < net->M; m += CHANNELS)
            multiply(weight + first * net->M + m, f + m, logit, rows,
                     net->M - m < CHANNELS ? net->M - m : CHANNELS, net->M, 1);
        for (int64_t r = 0; r < rows; r++) {
            float gate[TILE];
            LANES
            for (int i = 0; i < TILE; i++)
                gate[i] = coded_sigmoid(logit[r][i]);
            memcpy(gates + (first + r) * size, gate, t.count * sizeof(float));
        }
    }
}

/* What the steps of a forward share. */
typedef struct {
    const void *x;
    void *y;
    double *z, *p, mean[WIDEST], scale[WIDEST];
    float *room; /* mix_room for each thread */
    const Net *net;
    Kept to;
    Shape d;
} Forward;

static void squeeze_tile(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    Tile t = tile_at(i, f->d);
    int64_t M = f->net->M, L = f->d.H + f->d.W;
    double sum[WIDEST][TILE];
    squeeze(f->z + t.n * f->d.C * L, f->net, sum, t.start, f->d.C, L);
    for (int64_t m = 0; m < M; m++)
        memcpy(f->p + (t.n * M + m) * L + t.start, sum[m], t.count * sizeof(double));
}

static void expand_tile(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    Tile t = tile_at(i, f->d);
    int64_t M = f->net->M, L = f->d.H + f->d.W;
    double sum[WIDEST][TILE] = {{0}};
    if (!f->p)
        squeeze(f->z + t.n * f->d.C * L, f->net, sum, t.start, f->d.C, L);
    else
        for (int64_t m = 0; m < M; m++)
            memcpy(sum[m], f->p + (t.n * M + m) * L + t.start, t.count * sizeof(double));
    expand(sum, f->mean, f->scale, f->net, &f->to, t, f->d);
}

/* Eq. 8-10 from the means z (N, C, L); p (N, M, L) is room where the norm wants the whole batch. */
static void axis_gates(Forward *f, float *statistics) {
    int64_t tiles = f->d.N * (tiles_of(f->d.H) + tiles_of(f->d.W));
    if (f->p)
        parallel_for(squeeze_tile, f, tiles, f->d.threads);
    for (int64_t m = 0; m < f->net->M; m++) {
        normaliser(f->p, f->net, m, f->mean + m, f->scale + m, statistics, f->d);
        f->to.scale[m] = f->scale[m];
    }
    parallel_for(expand_tile, f, tiles, f->d.threads);
}

/* Saves the means of channel c about their own mean where they all are near it, so that float32
   loses nothing at an offset, and as they are where one may be small beside it. */
VECTORISED static void save_means(const double *z, const Kept *to, int64_t c, Shape d) {
    int64_t L = d.H + d.W;
    double total = 0, low = INFINITY, high = -INFINITY;
    for (int64_t n = 0; n < d.N; n++) {
        int64_t at = (n * d.C + c) * L;
        PRAGMA(omp simd reduction(+ : total) reduction(min : low) reduction(max : high))
        for (int64_t l = at; l < at + L; l++) {
            total += z[l];
            low = z[l] < low ? z[l] : low;
            high = z[l] > high ? z[l] : high;
        }
    }
    float mean = total / (d.N * L), shift = 2 * (high - low) <= fabsf(mean) ? mean : 0;
    to->z_shift[c] = shift;
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = (n * d.C + c) * L; l < (n * d.C + c + 1) * L; l++)
            to->z[l] = z[l] - shift;
}

/* Saves what the backward reads of the biases. */
static void save_biases(const Net *net, const Kept *to, Shape d) {
    const Parameters *of = &net->of;
    int64_t half = d.groups ? d.C / (2 * d.groups) : 0;
    if (of->taps)
        memcpy(to->tap_bias, of->tap_bias, d.C * sizeof(float));
    for (int64_t m = 0; of->taps && m < net->M; m++)
        to->norm_bias[m] = of->norm[0] ? of->norm[1][m] : 0;
    for (int64_t j = 0; of->w1 && j < half; j++) {
        to->group_bias[j] = of->group_bias[j];
        to->constant[j] = (double)of->w2[j] * of->group_bias[j] + of->b2[j];
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

/* x * g_h * g_w * beta, put into y or added to it; g_h is coded. */
VECTORISED static void gate_axes(const float *restrict x, float *restrict y,
                                 const float *restrict g_h, const float *restrict g_w, float beta,
                                 int added, int64_t H, int64_t W) {
    for (int64_t h = 0; h < H; h++, x += W, y += W) {
        float row = gate_of(g_h[h]) * beta;
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

/* Plane p of y; room for a line and, unless in float32, three planes. */
static void mix(const void *x, void *y, const Net *net, const Kept *g, int64_t p, float *room,
                Shape d) {
    int64_t size = d.H * d.W, k = 0, from = net->shuffle ? shuffled_from(d, p) : p;
    int kind = half_of(d, from, &k), both = kind != NONE && g->g_h;
    float beta = both ? *net->of.beta : 1, rest = both ? 1 - beta : 1;
    int64_t j = kind != NONE ? from % d.C % (d.C / (2 * d.groups)) : 0;
    const Parameters *of = &net->of;
    float *line = room;
    room += d.W;
    const float *in = read(x, p * size, room, d);
    const float *source = from == p ? in : read(x, from * size, room + size, d);
    float *out = made_in(y, p * size, room + 2 * size, d);
    if (kind == CHANNEL)
        gate_plane(source, out, g->gate[k] * rest, size);
    if (kind == SPATIAL) {
        double a = of->w2[j] * of->group_weight[j] * (double)g->rstd[k];
        double b = (double)of->w2[j] * of->group_bias[j] + of->b2[j] - a * g->mean_lo[k];
        gate_elements(source, out, rest, a, b, g->mean[k], size);
    }
    if (g->g_h)
        gate_axes(in, out, g->g_h + p * d.H, decode(g->g_w + p * d.W, line, d.W), beta, both, d.H,
                  d.W);
    if (net->residual)
        add(in, out, size);
    write(y, p * size, out, d);
}

/* Rooms in bytes of what `attend` needs: the means z (N, C, L), the bottleneck p (N, M, L) where the
   norm wants the whole batch, those of `mix` for each thread, and what is kept where this is not for
   a backward. */
typedef struct {
    int64_t z, p, mix, kept;
} Rooms;

static int64_t mix_room(Shape d) { return d.W + (d.type != FLOAT32 ? 3 * d.H * d.W : 0); }

static Rooms rooms_of(const Net *net, int keeps, Shape d) {
    int64_t lines = net->of.taps ? d.N * (d.H + d.W) : 0, kept;
    kept_in(0, net, d, &kept);
    return (Rooms){
        .z = lines * d.C * sizeof(double),
        .p = keeps && net->training ? lines * net->M * sizeof(double) : 0,
        .mix = d.threads * mix_room(d) * sizeof(float),
        .kept = keeps ? 0 : kept * sizeof(float),
    };
}

static void moments_step(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    int64_t H = f->d.H, W = f->d.W, size = H * W;
    const float *plane = read(f->x, i * size, f->room + thread * mix_room(f->d), f->d);
    double *z = f->z ? f->z + i * (H + W) : 0;
    double total = z ? sums(plane, z, z + H, H, W) : sum(plane, size);
    if (f->net->of.w1)
        plane_gates(plane, total / size, f->net, &f->to, i, f->d);
}

static void means_step(const void *call, int64_t c, int64_t thread) {
    const Forward *f = call;
    save_means(f->z, &f->to, c, f->d);
}

static void mix_step(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    mix(f->x, f->y, f->net, &f->to, i, f->room + thread * mix_room(f->d), f->d);
}

/* Some samples. */
static void attend(const void *x, void *y, float *kept, float *statistics, const Net *net,
                   char *room, Shape d) {
    Rooms r = rooms_of(net, kept != 0, d);
    Forward f = {.x = x, .y = y, .net = net, .d = d};
    f.z = r.z ? (double *)room : 0;
    f.p = r.p ? (double *)(room + r.z) : 0;
    f.room = (float *)(room + r.z + r.p);
    f.to = kept_in(kept ? kept : (float *)(room + r.z + r.p + r.mix), net, d, 0);
    parallel_for(moments_step, &f, d.N * d.C, d.threads);
    if (f.z)
        axis_gates(&f, statistics);
    if (f.z && kept)
        parallel_for(means_step, &f, d.C, d.threads);
    if (kept)
        save_biases(net, &f.to, d);
    parallel_for(mix_step, &f, d.N * d.C, d.threads);
}

/* What a forward of single samples, one in each thread, shares. */
typedef struct {
    const char *x;
    char *y, *rooms;
    const Net *net;
    int64_t bytes, each; /* of a sample, of its rooms */
    Shape d;
} Samples;

static void sample_step(const void *call, int64_t n, int64_t thread) {
    const Samples *s = call;
    char *room = s->rooms + thread * s->each;
    attend(s->x + n * s->bytes, s->y + n * s->bytes, 0, 0, s->net, room, s->d);
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
    int64_t each = (r.z + r.p + r.mix + r.kept) / sizeof(double) * sizeof(double) + sizeof(double);
    char *room = malloc(workers * each);
    if (!room)
        return 0;
    if (apart) {
        Samples samples = {x, y, room, net, sample * bytes, each, d};
        parallel_for(sample_step, &samples, shape->N, workers);
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
