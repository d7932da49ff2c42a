/* The operators `attend` and `attend_forward` of ops.py, for native.py. */

#include <math.h>
#include <stdlib.h>

#include "native.h"

#define CHUNK (1 << 18) /* elements of x that are worked on at a time */

/* The version of the functions' arguments, which library.py asks for. */
int icasa_interface(void) { return 7; }

/* Whether a call can have more than one thread. */
int icasa_threads(void) { return GOMP_parallel != 0; }

/* Sum of a line, whose elements are added to `columns`. */
INLINE double add_line(const float *restrict line, double *restrict columns, int64_t W) {
    double row = 0;
    SUM(row)
    for (int64_t w = 0; w < W; w++) {
        double value = line[w];
        row += value;
        columns[w] += value;
    }
    return row;
}

/* Sum of a plane, and the means of its rows and columns. */
VECTORISED static double sums(const float *x, double *z_h, double *z_w, int64_t H, int64_t W) {
    double total = 0;
    memset(z_w, 0, W * sizeof(double));
    for (int64_t h = 0; h < H; h++) {
        double row = add_line(x + h * W, z_w, W);
        total += row;
        z_h[h] = row / W;
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

/* The gate of Eq. 13 for plane k of its half, whose mean is s and whose parameters are j. */
INLINE void save_gate(double s, const Layer *layer, const Saved *saved, int64_t k, int64_t j) {
    saved->s[k] = s;
    saved->gate[k] = coded_sigmoid(layer->params.w1[j] * s + layer->params.b1[j]);
}

/* The moments that Eq. 14 needs of plane k of its half. */
INLINE void save_moments(double mean, double var, const Layer *layer, const Saved *saved,
                         int64_t k) {
    saved->mean[k] = mean;
    saved->mean_lo[k] = mean - saved->mean[k];
    saved->rstd[k] = 1 / sqrt(var + layer->group_eps);
}

/* Either of plane p, whose sum is `total` where the axes have needed it. */
INLINE void plane_gates(const float *x, const double *total, const Layer *layer,
                        const Saved *saved, int64_t p, Shape d) {
    int64_t k = 0, size = d.H * d.W;
    if (half_of(d, p, &k) == CHANNEL) {
        double s = (total ? *total : sum(x, size)) / size;
        save_gate(s, layer, saved, k, p % d.C % (d.C / (2 * d.groups)));
        return;
    }
    double mean, var = moments(x, size, &mean);
    save_moments(mean, var, layer, saved, k);
}

/* The convolutions of Eq. 8 on z (C, L) of one sample at the positions of a tile; in float64, as
   the mean that the norm subtracts may be large beside the rest. */
VECTORISED static void squeeze(const double *z, const Layer *layer, double (*sum)[TILE], Tile t,
                               int64_t C, int64_t L) {
    double u[COLUMNS][TILE], row[TILE + WIDEST] = {0};
    int64_t begin = t.start - layer->K / 2, end = begin + TILE + layer->K - 1,
            skip = begin < 0 ? -begin : 0;
    int64_t known = (end < L ? end : L) - begin - skip; /* zero beyond both ends */
    for (int64_t m = 0; m < layer->M; m++)
        for (int i = 0; i < TILE; i++)
            sum[m][i] = layer->params.mix_bias[m];
    for (int64_t first = 0; first < C; first += COLUMNS) {
        int64_t count = C - first < COLUMNS ? C - first : COLUMNS;
        for (int64_t c = 0; c < count; c++) {
            const float *taps = layer->params.taps + (first + c) * layer->K;
            const double *line = z + (first + c) * L + (begin + skip);
            if (known < TILE + layer->K - 1)
                memcpy(row + skip, line, known * sizeof(double)), line = row;
            for (int i = 0; i < TILE; i++)
                u[c][i] = layer->params.tap_bias[first + c];
            for (int64_t k = 0; k < layer->K; k++)
                for (int i = 0; i < TILE; i += LANE)
                    *(Doubles *)(u[c] + i) += taps[k] * *(const Doubles *)(line + k + i);
        }
        multiply(layer->params.mix + first, u, sum, t.count, layer->M, count, C, 1);
    }
}

/* Mean and 1 / deviation of the norm for channel m of p (N, M, L), which training alone
   reads; `statistics` (2, M) gets the mean and the unbiased variance. */
static void normaliser(const double *p, const Layer *layer, int64_t m, double *mean, double *scale,
                       float *statistics, Shape d) {
    int64_t L = d.H + d.W, count = d.N * L;
    double total = 0, squares = 0;
    if (!layer->params.norm[0] || !layer->training) {
        *mean = layer->params.norm[0] ? layer->params.norm[2][m] : 0;
        *scale = layer->params.norm[0]
                     ? 1 / sqrt((double)layer->params.norm[3][m] + layer->norm_eps)
                     : 1;
        return;
    }
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = 0; l < L; l++)
            total += p[(n * layer->M + m) * L + l];
    *mean = total / count;
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = 0; l < L; l++) {
            double centred = p[(n * layer->M + m) * L + l] - *mean;
            squares += centred * centred;
        }
    *scale = 1 / sqrt(squares / count + layer->norm_eps);
    statistics[m] = *mean;
    statistics[layer->M + m] = squares / (count - 1);
}

/* The end of Eq. 8, and Eq. 9 and 10, from a tile of the bottleneck; in float64, as a gate's logit
   may be small beside its terms. */
VECTORISED static void expand(const double (*sum)[TILE], const double *mean, const double *scale,
                              const Layer *layer, const Saved *saved, Tile t, Shape d) {
    double f[WIDEST][TILE];
    const float *weight = layer->params.to_axis[2 * t.axis],
                *bias = layer->params.to_axis[2 * t.axis + 1];
    int64_t L = d.H + d.W, size = t.axis ? d.W : d.H, start = t.start - (t.axis ? d.H : 0);
    for (int64_t m = 0; m < layer->M; m++) {
        double gain = layer->params.norm[0] ? layer->params.norm[0][m] : 1;
        double shift = layer->params.norm[0] ? layer->params.norm[1][m] : 0;
        float hat[TILE];
        LANES
        for (int i = 0; i < TILE; i++) {
            double exact = (sum[m][i] - mean[m]) * scale[m];
            hat[i] = exact;
            f[m][i] = h_swish(exact * gain + shift);
        }
        memcpy(saved->hat + (t.n * layer->M + m) * L + t.start, hat, t.count * sizeof(float));
    }
    float *gates = (t.axis ? saved->g_w : saved->g_h) + t.n * d.C * size + start;
    for (int64_t first = 0; first < d.C; first += ROWS) {
        double logit[ROWS][TILE];
        int64_t rows = d.C - first < ROWS ? d.C - first : ROWS;
        for (int64_t r = 0; r < ROWS; r++)
            for (int i = 0; i < TILE; i++)
                logit[r][i] = r < rows ? bias[first + r] : 0;
        for (int64_t m = 0; m < layer->M; m += COLUMNS)
            multiply(weight + first * layer->M + m, f + m, logit, t.count, rows,
                     layer->M - m < COLUMNS ? layer->M - m : COLUMNS, layer->M, 1);
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
    float *scratch; /* scratch_size for each thread */
    const Layer *layer;
    Saved saved;
    Shape d;
} Forward;

static void squeeze_tile(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    Tile t = tile_at(i, f->d);
    int64_t M = f->layer->M, L = f->d.H + f->d.W;
    double sum[WIDEST][TILE];
    squeeze(f->z + t.n * f->d.C * L, f->layer, sum, t, f->d.C, L);
    for (int64_t m = 0; m < M; m++)
        memcpy(f->p + (t.n * M + m) * L + t.start, sum[m], t.count * sizeof(double));
}

static void expand_tile(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    Tile t = tile_at(i, f->d);
    int64_t M = f->layer->M, L = f->d.H + f->d.W;
    double sum[WIDEST][TILE] = {{0}};
    if (!f->p)
        squeeze(f->z + t.n * f->d.C * L, f->layer, sum, t, f->d.C, L);
    else
        for (int64_t m = 0; m < M; m++)
            memcpy(sum[m], f->p + (t.n * M + m) * L + t.start, t.count * sizeof(double));
    expand(sum, f->mean, f->scale, f->layer, &f->saved, t, f->d);
}

/* Eq. 8-10 from the means z (N, C, L); with p (N, M, L) the norm takes the batch's statistics. */
static void axis_gates(Forward *f, float *statistics) {
    int64_t tiles = f->d.N * (tiles_of(f->d.H) + tiles_of(f->d.W));
    if (f->p)
        parallel_for(squeeze_tile, f, tiles, f->d.threads);
    for (int64_t m = 0; m < f->layer->M; m++) {
        normaliser(f->p, f->layer, m, f->mean + m, f->scale + m, statistics, f->d);
        f->saved.scale[m] = f->scale[m];
    }
    parallel_for(expand_tile, f, tiles, f->d.threads);
}

/* Saves the means of channel c about their own mean where they all are near it, so that float32
   loses nothing at an offset, and as they are where one may be small beside it. */
VECTORISED static void save_means(const double *z, const Saved *saved, int64_t c, Shape d) {
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
    saved->z_shift[c] = shift;
    for (int64_t n = 0; n < d.N; n++)
        for (int64_t l = (n * d.C + c) * L; l < (n * d.C + c + 1) * L; l++)
            saved->z[l] = z[l] - shift;
}

/* Saves what the backward reads of the biases. */
static void save_biases(const Layer *layer, const Saved *saved, Shape d) {
    const Parameters *params = &layer->params;
    int64_t half = d.groups ? d.C / (2 * d.groups) : 0;
    if (params->taps)
        memcpy(saved->tap_bias, params->tap_bias, d.C * sizeof(float));
    for (int64_t m = 0; params->taps && m < layer->M; m++)
        saved->norm_bias[m] = params->norm[0] ? params->norm[1][m] : 0;
    for (int64_t j = 0; params->w1 && j < half; j++) {
        saved->group_bias[j] = params->group_bias[j];
        saved->constant[j] = (double)params->w2[j] * params->group_bias[j] + params->b2[j];
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

#include "native_last_forward.h"

/* Computes plane p of y; scratch holds a row and, unless in float32, three planes. */
static void mix(const void *x, void *y, const Layer *layer, const Saved *saved, int64_t p,
                float *scratch, Shape d) {
    int64_t size = d.H * d.W, k = 0, source = layer->shuffle ? shuffle_source(d, p) : p;
    int kind = half_of(d, source, &k), both = kind != NONE && saved->g_h;
    float beta = both ? *layer->params.beta : 1, one_minus_beta = both ? 1 - beta : 1;
    int64_t j = kind != NONE ? source % d.C % (d.C / (2 * d.groups)) : 0;
    const Parameters *params = &layer->params;
    float *line = scratch;
    scratch += d.W;
    const float *in = load_plane(x, p * size, scratch, d);
    const float *source_plane = source == p ? in : load_plane(x, source * size, scratch + size, d);
    float *out = output_plane(y, p * size, scratch + 2 * size, d);
    if (kind == CHANNEL)
        gate_plane(source_plane, out, gate_of(saved->gate[k]) * one_minus_beta, size);
    if (kind == SPATIAL) {
        double a = params->w2[j] * params->group_weight[j] * (double)saved->rstd[k];
        double b =
            (double)params->w2[j] * params->group_bias[j] + params->b2[j] - a * saved->mean_lo[k];
        gate_elements(source_plane, out, one_minus_beta, a, b, saved->mean[k], size);
    }
    if (saved->g_h)
        gate_axes(in, out, saved->g_h + p * d.H, decode(saved->g_w + p * d.W, line, d.W), beta,
                  both, d.H, d.W);
    if (layer->residual)
        add(in, out, size);
    store_plane(y, p * size, out, d);
}

/* The number of elements that the forward saves, as empty_saved in native.py has it. */
static int64_t saved_size(const Layer *layer, Shape d) {
    int64_t planes = d.N * d.C, L = d.H + d.W, half = d.groups ? d.C / (2 * d.groups) : 0;
    int64_t axes = (2 * planes + d.N * layer->M) * L + 2 * (d.C + layer->M);
    return (layer->params.taps ? axes : 0) + (layer->params.w1 ? 5 * (planes / 2) + 2 * half : 0);
}

/* Bytes that `attend` needs: the means z (N, C, L), the bottleneck p (N, M, L) where the norm needs
   the whole batch, scratch for each thread, and what is saved where no backward follows. */
typedef struct {
    int64_t z, p, scratch, saved;
} Sizes;

static int64_t scratch_size(const Layer *layer, Shape d) {
    if (d.last)
        return last_scratch_size(layer, d) + GAP;
    return d.W + (d.type != FLOAT32 ? 3 * d.H * d.W : 0) + GAP;
}

static Sizes sizes_of(const Layer *layer, int saves, Shape d) {
    int64_t lines = layer->params.taps ? d.N * (d.H + d.W) : 0;
    return (Sizes){
        .z = lines * d.C * sizeof(double),
        .p = saves && layer->training ? lines * layer->M * sizeof(double) : 0,
        .scratch = d.threads * scratch_size(layer, d) * sizeof(float),
        .saved = saves ? 0 : saved_size(layer, d) * sizeof(float),
    };
}

static void moments_step(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    int64_t H = f->d.H, W = f->d.W, size = H * W;
    float *scratch = f->scratch + thread * scratch_size(f->layer, f->d);
    if (f->d.last) {
        last_moments(f->x, f->z, f->layer, &f->saved, i, (double *)scratch, f->d);
        return;
    }
    const float *plane = load_plane(f->x, i * size, scratch, f->d);
    double *z = f->z ? f->z + i * (H + W) : 0;
    double total = z ? sums(plane, z, z + H, H, W) : 0;
    if (f->layer->params.w1)
        plane_gates(plane, z ? &total : 0, f->layer, &f->saved, i, f->d);
}

static void means_step(const void *call, int64_t c, int64_t thread) {
    const Forward *f = call;
    save_means(f->z, &f->saved, c, f->d);
}

static void mix_step(const void *call, int64_t i, int64_t thread) {
    const Forward *f = call;
    float *scratch = f->scratch + thread * scratch_size(f->layer, f->d);
    if (f->d.last)
        last_mix(f->x, f->y, f->layer, &f->saved, i, scratch, f->d);
    else
        mix(f->x, f->y, f->layer, &f->saved, i, scratch, f->d);
}

/* Computes some samples. */
static void attend(const void *x, void *y, float *saved, float *statistics, const Layer *layer,
                   char *memory, Shape d) {
    Sizes r = sizes_of(layer, saved != 0, d);
    Forward f = {.x = x, .y = y, .layer = layer, .d = d};
    f.z = r.z ? (double *)memory : 0;
    f.p = r.p ? (double *)(memory + r.z) : 0;
    f.scratch = (float *)(memory + r.z + r.p);
    f.saved = split_saved(saved ? saved : (float *)(memory + r.z + r.p + r.scratch), layer, d);
    int64_t steps = d.N * (d.last ? parts_of(d) : d.C);
    parallel_for(moments_step, &f, steps, d.threads);
    if (f.z)
        axis_gates(&f, statistics);
    if (f.z && saved)
        parallel_for(means_step, &f, d.C, d.threads);
    if (saved)
        save_biases(layer, &f.saved, d);
    parallel_for(mix_step, &f, steps, d.threads);
}

/* What the steps share where each thread computes single samples. */
typedef struct {
    const char *x;
    char *y, *memory;
    const Layer *layer;
    int64_t bytes, each; /* of a sample, of its memory */
    Shape d;
} Samples;

static void sample_step(const void *call, int64_t n, int64_t thread) {
    const Samples *s = call;
    char *memory = s->memory + thread * s->each;
    attend(s->x + n * s->bytes, s->y + n * s->bytes, 0, 0, s->layer, memory, s->d);
}

/* Computes a layer. `saved` is memory for the backward, or null in evaluation, which then computes
   as many samples at a time as a cache holds, or, of many samples, one in each thread. Returns 0
   where memory ran out. */
int icasa_attend(const void *x, void *y, float *saved, float *statistics, const Layer *layer,
                 const Shape *shape) {
    Shape d = *shape;
    int64_t sample = d.C * d.H * d.W, step = CHUNK / sample < 1 ? 1 : CHUNK / sample;
    int64_t bytes = d.type == FLOAT32 ? 4 : 2;
    int by_sample = !saved && d.N >= 4 * d.threads, workers = by_sample ? d.threads : 1;
    d.N = saved ? d.N : by_sample ? 1 : step < d.N ? step : d.N;
    d.threads /= workers;
    Sizes r = sizes_of(layer, saved != 0, d);
    int64_t each = (r.z + r.p + r.scratch + r.saved) / sizeof(double) * sizeof(double);
    each += GAP * sizeof(double);
    char *memory = malloc(workers * each);
    if (!memory)
        return 0;
    if (by_sample) {
        Samples samples = {x, y, memory, layer, sample * bytes, each, d};
        parallel_for(sample_step, &samples, shape->N, workers);
    } else {
        step = d.N;
        for (int64_t n = 0; n < shape->N; n += step) {
            d.N = shape->N - n < step ? shape->N - n : step;
            attend((const char *)x + n * sample * bytes, (char *)y + n * sample * bytes, saved,
                   statistics, layer, memory, d);
        }
    }
    free(memory);
    return 1;
}
