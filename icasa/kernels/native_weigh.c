/* The operators `weigh`, `weigh_forward` and `weigh_backward` of ops.py, for native.py. */

#include <stdlib.h>

#include "native.h"
#include "native_maps.h"

/* Sum and maximum of a plane; a NaN is its maximum. */
VECTORISED static double sum_and_max(const float *x, int64_t size, float *max) {
    double total = 0;
    float high = x[0];
    PRAGMA(omp simd reduction(+ : total) reduction(max : high))
    for (int64_t i = 0; i < size; i++) {
        total += x[i];
        high = x[i] > high ? x[i] : high;
    }
    for (int64_t i = 0; total != total && i < size; i++)
        high = x[i] != x[i] ? x[i] : high;
    *max = high;
    return total;
}

/* y = x * gate + constant */
VECTORISED static void scale(const float *restrict x, float *restrict y, float gate, float constant,
                             int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] = x[i] * gate + constant;
}

/* y = x * gate * weight */
VECTORISED static void scale_positions(const float *restrict x, float *restrict y, float gate,
                                       const float *restrict weight, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] = x[i] * gate * weight[i];
}

/* y[r] += w[r] . u of `columns` elements, for some rows of w. */
INLINE void add_products(const float *w, const double *u, double *y, int64_t rows,
                         int64_t columns) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS, w += ROWS * columns) {
        double a = 0, b = 0, c = 0, d = 0;
        SUM(a, b, c, d)
        for (int64_t k = 0; k < columns; k++) {
            a += w[k] * u[k];
            b += w[columns + k] * u[k];
            c += w[2 * columns + k] * u[k];
            d += w[3 * columns + k] * u[k];
        }
        y[r] += a, y[r + 1] += b, y[r + 2] += c, y[r + 3] += d;
    }
    for (; r < rows; r++, w += columns)
        for (int64_t k = 0; k < columns; k++)
            y[r] += w[k] * u[k];
}

/* y += v[r] * w[r] of `columns` elements, summed over some rows of w. */
INLINE void add_rows(const float *w, const double *v, double *y, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, w += columns) {
        LANES
        for (int64_t k = 0; k < columns; k++)
            y[k] += v[r] * w[k];
    }
}

/* The channels that tap k of ECA reads, for the channels from `low` to `high`. */
INLINE int64_t tap_range(const Net *net, int64_t k, int64_t C, int64_t *low, int64_t *high) {
    int64_t shift = k - net->K / 2;
    *low = shift < 0 ? -shift : 0;
    *high = shift > 0 ? C - shift : C;
    return shift;
}

/* What the steps share. By plane (N, C): z and t are the means and the gradients of the logits, top
   the maxima and dtop their gradients; h and dh (N, inputs, M) the hidden units and their
   gradients, of the means and of the maxima. Of CBAM, p (N, H, W) is what the norm takes, and its
   gradient; `taps` are those of the convolution, and reversed, and dtaps (N, taps) gradients. */
typedef struct {
    const void *x, *g;
    void *y; /* or dx */
    const Net *net, *grads;
    double *z, *t, *dtop, *h, *dh, *p, *taps, *dtaps, mean, scale;
    float *gate, *gate_lo, *mean_of, *top, *hidden, *max, *average, *shift, *index, *hat,
        *norm; /* saved */
    double *work;   /* maps of each thread */
    float *scratch; /* planes of each thread, unless in float32 */
    int inputs, threads; /* of the net: the means, or also the maxima; within a sample */
    Shape d;
} Call;

typedef struct {
    const Call *call;
    int64_t n, thread;
} Sample;

enum { PLANES = 3 }; /* of scratch */

INLINE float *scratch_of(const Sample *s, int64_t thread) {
    Shape d = s->call->d;
    return s->call->scratch + (s->thread + thread) * (d.type == FLOAT32 ? 0 : PLANES * d.H * d.W);
}

/* The maps of a sample that is computed. */
typedef struct {
    double *max, *sum, *index, *padded, *gradient, *out, *partial;
    float *weight, *code, *dmean, *dmax;
    Padded s;
} Work;

INLINE int64_t tiles_in(Shape d) { return (d.H * d.W + TILE_SIZE - 1) / TILE_SIZE; }

static int64_t work_size(const Net *net, Shape d) {
    Padded s = padded_of(d, net->k);
    return net->conv ? 5 * d.H * d.W + 3 * s.size + tiles_in(d) * d.C : 0;
}

static Work work_of(const Sample *sample) {
    Shape d = sample->call->d;
    int64_t size = d.H * d.W;
    Work w = {.max = sample->call->work + sample->thread * work_size(sample->call->net, d)};
    w.s = padded_of(d, sample->call->net->k);
    w.sum = w.max + size;
    w.index = w.sum + size;
    w.padded = w.index + size;
    w.gradient = w.padded + w.s.size;
    w.out = w.gradient + w.s.size;
    w.partial = w.out + w.s.size;
    w.weight = (float *)(w.partial + tiles_in(d) * d.C);
    w.code = w.weight + size;
    w.dmean = w.code + size;
    w.dmax = w.dmean + size;
    return w;
}

/* The gate of plane p, and its slope. That of CBAM is saved in two parts, coded as coded_sigmoid is:
   it decides which channel is the maximum. */
INLINE double code_of(const Call *call, int64_t p) {
    return call->gate_lo ? (double)call->gate[p] + call->gate_lo[p] : call->gate[p];
}

INLINE double plane_gate(const Call *call, int64_t p) {
    double code = code_of(call, p);
    return code < 0 ? 1 + code : code;
}

static void save_gate(const Call *call, int64_t p, double logit) {
    if (!call->gate_lo) {
        call->gate[p] = coded_sigmoid(logit);
        return;
    }
    double e = exp(-fabs(logit)), code = e / (1 + e);
    if (logit > 0)
        code = -fmax(code, 0x1p-120); /* below 0 */
    call->gate[p] = code;
    call->gate_lo[p] = call->gate[p] != 0 ? code - call->gate[p] : 0; /* 0 as in float32 */
}

static void mean_step(const void *sample, int64_t c, int64_t thread) {
    const Sample *s = sample;
    const Call *call = s->call;
    Shape d = call->d;
    int64_t size = d.H * d.W, p = s->n * d.C + c;
    const float *x = load_plane(call->x, p * size, scratch_of(s, thread), d);
    call->z[p] = (call->top ? sum_and_max(x, size, call->top + p) : sum(x, size)) / size;
    call->mean_of[p] = call->z[p];
}

/* The gates of a sample from the means of its planes, and the maxima. */
VECTORISED static void gates(const Call *call, int64_t n) {
    const Net *net = call->net;
    int64_t C = call->d.C, M = net->M, inputs = call->inputs;
    double *z = call->z + n * C, *t = call->t + n * C, *h = call->h + n * inputs * M;
    for (int64_t c = 0; c < C; c++)
        t[c] = net->b2 ? inputs * net->b2[c] : 0;
    for (int64_t k = 0, low, high; k < net->K; k++) {
        int64_t shift = tap_range(net, k, C, &low, &high);
        for (int64_t c = low; c < high; c++)
            t[c] += net->taps[k] * z[c + shift];
    }
    for (int64_t i = 0; i < inputs; i++, h += M) {
        for (int64_t m = 0; m < M; m++)
            h[m] = net->b1[m];
        for (int64_t c = 0; i && c < C; c++)
            z[c] = call->top[n * C + c];
        add_products(net->w1, z, h, M, C);
        for (int64_t m = 0; m < M; m++) {
            h[m] = h[m] < 0 ? 0 : h[m]; /* NaN stays */
            call->hidden[(n * inputs + i) * M + m] = h[m];
        }
        add_products(net->w2, h, t, M ? C : 0, M);
    }
    for (int64_t c = 0; c < C; c++)
        save_gate(call, n * C + c, t[c]);
}

/* A part of a plane of x or g, of a tile of positions. */
INLINE const float *load_part(const void *of, int64_t at, int64_t size, float *scratch, Shape d) {
    d.H = 1, d.W = size;
    return load_plane(of, at, scratch, d);
}

/* The maps of the maximum and of the sum over channels, in a tile. */
static void maps_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    Shape d = s->call->d;
    Work w = work_of(s);
    int64_t all = d.H * d.W, at = tile * TILE_SIZE, nan = 0;
    int64_t size = all - at < TILE_SIZE ? all - at : TILE_SIZE;
    float *scratch = scratch_of(s, thread);
    for (int64_t c = 0; c < d.C; c++) {
        int64_t p = s->n * d.C + c;
        const float *x = load_part(s->call->x, p * all + at, size, scratch, d);
        add_channel(x, plane_gate(s->call, p), c, w.max + at, w.sum + at, w.index + at, size);
    }
    for (int64_t i = at; i < at + size; i++)
        nan |= w.sum[i] != w.sum[i];
    for (int64_t c = 0; nan && c < d.C; c++) {
        int64_t p = s->n * d.C + c;
        const float *x = load_part(s->call->x, p * all + at, size, scratch, d);
        add_nan(x, plane_gate(s->call, p), w.max + at, w.index + at, size);
    }
}

/* Pads a map. */
static void pad(const double *map, double *padded, Padded s) {
    for (int64_t h = 0; h < s.H; h++)
        memcpy(row_of(padded, s, h), map + h * s.W, s.W * sizeof(double));
}

static void convolve_step(const void *sample, int64_t run, int64_t thread) {
    const Sample *s = sample;
    Work w = work_of(s);
    convolve(w.padded, s->call->taps, 2, w.out, run * RUN, w.s);
}

/* What the norm takes, p, from the maps of a sample; saves these. */
static void spatial_logits(const Sample *s) {
    const Call *call = s->call;
    Shape d = call->d;
    Work w = work_of(s);
    int64_t size = d.H * d.W, at = s->n * size;
    parallel_for(maps_step, s, tiles_in(d), call->threads);
    for (int64_t i = 0; i < size; i++) {
        w.sum[i] /= d.C;
        call->index[at + i] = w.index[i];
    }
    call->shift[2 * s->n] = save_map(w.max, call->max + at, size);
    call->shift[2 * s->n + 1] = save_map(w.sum, call->average + at, size);
    memset(w.padded, 0, w.s.size * sizeof(double));
    pad(w.max, w.padded, w.s);
    pad(w.sum, w.padded + w.s.distance, w.s);
    parallel_for(convolve_step, s, (d.H * w.s.wide + RUN - 1) / RUN, call->threads);
    for (int64_t h = 0; h < d.H; h++)
        memcpy(call->p + at + h * d.W, w.out + h * w.s.wide, d.W * sizeof(double));
}

/* The norm's mean and 1 / deviation, which `statistics` gets as the mean and the unbiased variance
   in training. */
VECTORISED static void norm_statistics(Call *call, float *statistics) {
    const Net *net = call->net;
    int64_t count = call->d.N * call->d.H * call->d.W;
    double total = 0, squares = 0;
    if (!net->training) {
        call->mean = net->norm[2][0];
        call->scale = 1 / sqrt((double)net->norm[3][0] + net->eps);
    } else {
        SUM(total)
        for (int64_t i = 0; i < count; i++)
            total += call->p[i];
        call->mean = total / count;
        SUM(squares)
        for (int64_t i = 0; i < count; i++)
            squares += (call->p[i] - call->mean) * (call->p[i] - call->mean);
        call->scale = 1 / sqrt(squares / count + net->eps);
        statistics[0] = call->mean;
        statistics[1] = squares / (count - 1);
    }
    call->norm[0] = call->scale;
    call->norm[1] = net->norm[1][0];
}

/* The spatial gates of a sample. */
VECTORISED static void spatial_gates(const Call *call, int64_t n, float *weight) {
    int64_t size = call->d.H * call->d.W;
    const double *p = call->p + n * size;
    float *hat = call->hat + n * size;
    double gain = call->net->norm[0][0], shift = call->net->norm[1][0];
    LANES
    for (int64_t i = 0; i < size; i++) {
        double exact = (p[i] - call->mean) * call->scale;
        hat[i] = exact;
        weight[i] = gate_of(coded_sigmoid(exact * gain + shift));
    }
}

static void gate_step(const void *sample, int64_t c, int64_t thread) {
    const Sample *s = sample;
    Shape d = s->call->d;
    int64_t size = d.H * d.W, p = s->n * d.C + c;
    float *scratch = scratch_of(s, thread), *out = output_plane(s->call->y, p * size, scratch, d);
    const float *x = load_plane(s->call->x, p * size, scratch + size, d);
    if (s->call->net->conv)
        scale_positions(x, out, plane_gate(s->call, p), work_of(s).weight, size);
    else
        scale(x, out, plane_gate(s->call, p), 0, size);
    store_plane(s->call->y, p * size, out, d);
}

static void mix_step(const void *of, int64_t n, int64_t thread) {
    Sample s = {of, n, thread};
    if (s.call->net->conv)
        spatial_gates(s.call, n, work_of(&s).weight);
    parallel_for(gate_step, &s, s.call->d.C, s.call->threads);
}

static void forward_step(const void *of, int64_t n, int64_t thread) {
    Sample s = {of, n, thread};
    parallel_for(mean_step, &s, s.call->d.C, s.call->threads);
    gates(of, n);
    if (s.call->net->conv)
        spatial_logits(&s);
    if (!s.call->net->training)
        mix_step(of, n, thread);
}

/* The gradient of the logit of a plane's gate. */
static void slope_step(const void *sample, int64_t c, int64_t thread) {
    const Sample *s = sample;
    Shape d = s->call->d;
    int64_t size = d.H * d.W, p = s->n * d.C + c;
    float *scratch = scratch_of(s, thread);
    const float *x = load_plane(s->call->x, p * size, scratch, d);
    const float *g = load_plane(s->call->g, p * size, scratch + size, d);
    s->call->t[p] = dot(g, x, size) * gate_slope(code_of(s->call, p));
}

/* In a tile, the gradient of the spatial gates, and what it adds to that of each plane's gate. */
static void tile_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    Shape d = s->call->d;
    Work w = work_of(s);
    int64_t all = d.H * d.W, at = tile * TILE_SIZE;
    int64_t size = all - at < TILE_SIZE ? all - at : TILE_SIZE;
    float *scratch = scratch_of(s, thread);
    double *sums = s->call->p + s->n * all + at;
    memset(sums, 0, size * sizeof(double));
    for (int64_t c = 0; c < d.C; c++) {
        int64_t p = s->n * d.C + c;
        const float *x = load_part(s->call->x, p * all + at, size, scratch, d);
        const float *g = load_part(s->call->g, p * all + at, size, scratch + all, d);
        w.partial[tile * d.C + c] =
            add_gradient(g, x, plane_gate(s->call, p), w.weight + at, sums, size);
    }
    for (int64_t i = 0; i < size; i++)
        sums[i] *= gate_slope(w.code[at + i]);
}

/* The spatial gates of a sample again, and their codes. */
VECTORISED static void decode_gates(const Call *call, int64_t n, const Work *w) {
    int64_t size = call->d.H * call->d.W;
    const float *hat = call->hat + n * size;
    float gain = call->net->norm[0][0], shift = call->norm[1];
    LANES
    for (int64_t i = 0; i < size; i++) {
        w->code[i] = coded_sigmoid(hat[i] * gain + shift);
        w->weight[i] = gate_of(w->code[i]);
    }
}

static void spatial_step(const void *of, int64_t n, int64_t thread) {
    Sample s = {of, n, thread};
    Work w = work_of(&s);
    Shape d = s.call->d;
    decode_gates(of, n, &w);
    parallel_for(tile_step, &s, tiles_in(d), s.call->threads);
    for (int64_t c = 0; c < d.C; c++) {
        double total = 0;
        for (int64_t tile = 0; tile < tiles_in(d); tile++)
            total += w.partial[tile * d.C + c];
        s.call->t[n * d.C + c] = total;
    }
}

/* Replaces p, the gradient of what the norm returned, by that of what it took. */
VECTORISED static void norm_backward(const Call *call) {
    const Net *net = call->net;
    int64_t count = call->d.N * call->d.H * call->d.W;
    double total = 0, weighted = 0, *p = call->p, gain = (double)net->norm[0][0] * call->norm[0];
    SUM(total, weighted)
    for (int64_t i = 0; i < count; i++) {
        total += p[i];
        weighted += p[i] * call->hat[i];
    }
    call->grads->norm[0][0] = weighted;
    call->grads->norm[1][0] = total;
    total = net->training ? total / count : 0, weighted = net->training ? weighted / count : 0;
    LANES
    for (int64_t i = 0; i < count; i++)
        p[i] = gain * (net->training ? p[i] - total - call->hat[i] * weighted : p[i]);
    if (!net->training)
        return;
    double rest = 0; /* their sum is 0 but for rounding, which the means of the maps would amplify */
    SUM(rest)
    for (int64_t i = 0; i < count; i++)
        rest += p[i];
    LANES
    for (int64_t i = 0; i < count; i++)
        p[i] -= rest / count;
}

/* Where several channels are the maximum, their product, and dmax is divided among them. */
static void share_ties(const Sample *s, const Work *w) {
    Shape d = s->call->d;
    int64_t size = d.H * d.W;
    for (int64_t i = 0; i < size; i++) {
        w->max[i] = NAN;
        if (s->call->index[s->n * size + i] >= 0)
            continue;
        double count = 0, high = -INFINITY;
        for (int64_t c = 0; c < d.C; c++) {
            int64_t p = s->n * d.C + c;
            float element;
            double value =
                *load_part(s->call->x, p * size + i, 1, &element, d) * plane_gate(s->call, p);
            count = value > high ? 1 : count + (value == high);
            high = value > high ? value : high;
        }
        w->max[i] = high;
        w->dmax[i] /= count;
    }
}

/* The gradients of the maps of a sample, from p; and its part of that of the convolution. */
static MapGradients map_gradients(const Sample *s, const Work *w) {
    const Call *call = s->call;
    Shape d = call->d;
    int64_t size = d.H * d.W, at = s->n * size, k = call->net->k, ties = 0;
    memset(w->gradient, 0, w->s.size * sizeof(double));
    memset(w->padded, 0, w->s.size * sizeof(double));
    pad(call->p + at, w->gradient, w->s);
    restore_map(call->max + at, call->shift[2 * s->n], w->max, size);
    restore_map(call->average + at, call->shift[2 * s->n + 1], w->sum, size);
    pad(w->max, w->padded, w->s);
    pad(w->sum, w->padded + w->s.distance, w->s);
    for (int64_t m = 0; m < 2; m++) {
        for (int64_t i = 0; i < k; i++)
            correlate(w->gradient, w->padded, call->dtaps + s->n * 2 * k * k, m, i, w->s);
        for (int64_t q = 0; q < d.H * w->s.wide; q += RUN)
            convolve(w->gradient, call->taps + (2 + m) * k * k, 1, w->out, q, w->s);
        for (int64_t i = 0; i < size; i++)
            (m ? w->dmean : w->dmax)[i] = w->out[i / d.W * w->s.wide + i % d.W] / (m ? d.C : 1);
    }
    for (int64_t i = 0; i < size; i++)
        ties |= call->index[at + i] < 0;
    if (ties)
        share_ties(s, w);
    for (int64_t i = 0; i < size; i++)
        w->dmean[i] += 0 * w->dmax[i]; /* what is not finite reaches all channels */
    return (MapGradients){w->dmean, w->dmax, call->index + at, ties ? w->max : 0};
}

typedef struct {
    Sample s; /* first, as the steps of a sample take it */
    Work w;
    MapGradients m;
} Spatial;

/* The gradient of the logit of a plane's gate, with that of the maps; dtop gets how many elements
   are the maximum. */
static void map_step(const void *of, int64_t c, int64_t thread) {
    const Spatial *f = of;
    const Call *call = f->s.call;
    int64_t size = call->d.H * call->d.W, p = f->s.n * call->d.C + c;
    const float *x = load_plane(call->x, p * size, scratch_of(&f->s, thread), call->d);
    double gate = plane_gate(call, p), *count = call->dtop + p;
    float top = call->top[p];
    double total = f->m.tied ? product_of_ties(x, f->m, gate, c, top, count, size)
                             : product_alone(x, f->m, gate, c, top, count, size);
    call->t[p] = (call->t[p] + total) * gate_slope(code_of(call, p));
}

/* The gradients of the means of a sample, into z, of its maxima, into dtop, and of its hidden
   units. */
VECTORISED static void mean_gradients(const Call *call, int64_t n) {
    const Net *net = call->net;
    int64_t C = call->d.C, M = net->M;
    const double *t = call->t + n * C;
    double *z = call->z + n * C;
    memset(z, 0, C * sizeof(double));
    for (int64_t k = 0, low, high; k < net->K; k++) {
        int64_t shift = tap_range(net, k, C, &low, &high);
        for (int64_t c = low; c < high; c++)
            z[c + shift] += net->taps[k] * t[c];
    }
    for (int64_t i = call->inputs - 1; i >= 0; i--) { /* the means last, as both are in z first */
        double *dh = call->dh + (n * call->inputs + i) * M;
        const float *hidden = call->hidden + (n * call->inputs + i) * M;
        memset(dh, 0, M * sizeof(double));
        add_rows(net->w2, t, dh, M ? C : 0, M);
        for (int64_t m = 0; m < M; m++)
            dh[m] = hidden[m] <= 0 ? 0 : dh[m];
        add_rows(net->w1, dh, z, M, C);
        for (int64_t c = 0; i && c < C; c++) {
            call->dtop[n * C + c] = z[c] / call->dtop[n * C + c]; /* of each of them */
            z[c] = 0;
        }
    }
}

/* dx = g * gate + the gradient of the mean */
static void dx_step(const void *of, int64_t c, int64_t thread) {
    const Sample *s = of;
    const Call *call = s->call;
    Shape d = call->d;
    int64_t size = d.H * d.W, p = s->n * d.C + c;
    double gate = plane_gate(call, p), constant = call->z[p] / size;
    float *scratch = scratch_of(s, thread), *out = output_plane(call->y, p * size, scratch, d);
    const float *g = load_plane(call->g, p * size, scratch + size, d);
    if (!call->net->conv)
        scale(g, out, gate, constant, size);
    else {
        const Spatial *f = of;
        const float *x = load_plane(call->x, p * size, scratch + 2 * size, d);
        double share = call->dtop[p];
        constant += 0 * share;
        if (f->m.tied)
            backward_of_ties(g, x, out, f->w.weight, f->m, gate, c, call->top[p], constant, share,
                             size);
        else
            backward_alone(g, x, out, f->w.weight, f->m, gate, c, call->top[p], constant, share,
                           size);
    }
    store_plane(call->y, p * size, out, d);
}

static void backward_step(const void *of, int64_t n, int64_t thread) {
    Spatial f = {{of, n, thread}};
    const Call *call = of;
    if (call->net->conv) {
        f.w = work_of(&f.s);
        decode_gates(call, n, &f.w);
        f.m = map_gradients(&f.s, &f.w);
        parallel_for(map_step, &f, call->d.C, call->threads);
    } else
        parallel_for(slope_step, &f, call->d.C, call->threads);
    mean_gradients(call, n);
    parallel_for(dx_step, &f, call->d.C, call->threads);
}

/* The gradients of the parameters of channel c; `sums` is memory for 2 M. */
VECTORISED static void channel_gradients(const Call *call, int64_t c, double *sums) {
    const Net *grads = call->grads;
    int64_t C = call->d.C, M = call->net->M, inputs = call->inputs;
    double *w1 = sums, *w2 = sums + M, b2 = 0;
    memset(sums, 0, 2 * M * sizeof(double));
    for (int64_t row = 0; row < call->d.N * inputs; row++) {
        int64_t p = row / inputs * C + c;
        double t = call->t[p], z = row % inputs ? call->top[p] : call->mean_of[p];
        const float *hidden = call->hidden + row * M;
        const double *dh = call->dh + row * M;
        b2 += t;
        LANES
        for (int64_t m = 0; m < M; m++) {
            w1[m] += dh[m] * z;
            w2[m] += t * hidden[m];
        }
    }
    for (int64_t m = 0; m < M; m++) {
        grads->w1[m * C + c] = w1[m];
        grads->w2[c * M + m] = w2[m];
    }
    grads->b2[c] = b2;
}

static void channel_step(const void *of, int64_t c, int64_t thread) {
    const Call *call = of;
    channel_gradients(call, c, call->h + 2 * call->net->M * thread);
}

/* Sums over the batch: of the hidden units' bias, of the taps, and of the convolution. */
static void sum_gradients(const Call *call) {
    const Net *net = call->net, *grads = call->grads;
    int64_t C = call->d.C, N = call->d.N, taps = 2 * net->k * net->k;
    for (int64_t m = 0; m < net->M; m++) {
        double bias = 0;
        for (int64_t row = 0; row < N * call->inputs; row++)
            bias += call->dh[row * net->M + m];
        grads->b1[m] = bias;
    }
    for (int64_t k = 0, low, high; k < net->K; k++) {
        int64_t shift = tap_range(net, k, C, &low, &high);
        double tap = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t c = low; c < high; c++)
                tap += call->t[n * C + c] * call->mean_of[n * C + c + shift];
        grads->taps[k] = tap;
    }
    for (int64_t i = 0; i < taps; i++) {
        double tap = 0;
        for (int64_t n = 0; n < N; n++)
            tap += call->dtaps[n * taps + i];
        grads->conv[i] = tap;
    }
}

/* Makes a step for each sample: of many, one in each thread, else all threads on each. */
static void for_samples(Step *step, Call *call) {
    int by_sample = call->d.N >= 4 * call->d.threads;
    call->threads = by_sample ? 1 : call->d.threads;
    parallel_for(step, call, call->d.N, by_sample ? call->d.threads : 1);
}

/* The number of elements that the forward saves, as empty_gates in native.py has it, and their
   places. */
static int64_t split_gates(Call *call, float *saved) {
    const Net *net = call->net;
    int64_t planes = call->d.N * call->d.C, positions = call->d.N * call->d.H * call->d.W;
    int spatial = net->conv != 0;
    float **parts[] = {&call->gate, &call->mean_of, &call->hidden, &call->gate_lo, &call->top,
                       &call->max, &call->average, &call->index, &call->hat, &call->shift,
                       &call->norm};
    int64_t sizes[] = {planes, planes, call->d.N * call->inputs * net->M, planes, planes,
                       positions, positions, positions, positions, 2 * call->d.N, 2}, all = 0;
    for (int i = 0; i < (spatial ? 11 : 3); all += sizes[i], i++)
        *parts[i] = saved ? saved + all : 0;
    return all;
}

/* Takes memory for what is not saved, and for what is if there is none; `lines` of M sums. Returns
   null where memory ran out, else what is to be freed. */
static double *take_memory(Call *call, float *saved, int64_t lines) {
    Shape d = call->d;
    const Net *net = call->net;
    call->inputs = net->conv ? 2 : 1;
    int64_t planes = d.N * d.C, hidden = d.N * call->inputs * net->M, sums = lines * net->M;
    int64_t scratch = d.type == FLOAT32 ? 0 : d.threads * PLANES * d.H * d.W, k = net->k;
    int64_t spatial = net->conv ? d.N * d.H * d.W : 0, work = d.threads * work_size(net, d);
    int64_t units = hidden > sums ? hidden : sums;
    int64_t doubles = 3 * planes + hidden + units + spatial + work + (4 + 2 * d.N) * k * k;
    int64_t floats = scratch + (saved ? 0 : split_gates(call, 0));
    double *memory = malloc(doubles * sizeof(double) + floats * sizeof(float));
    if (!memory)
        return 0;
    call->z = memory;
    call->t = call->z + planes;
    call->dtop = call->t + planes;
    call->dh = call->dtop + planes;
    call->h = call->dh + hidden;
    call->p = call->h + units;
    call->work = call->p + spatial;
    call->taps = call->work + work;
    call->dtaps = call->taps + 4 * k * k;
    call->scratch = (float *)(memory + doubles);
    split_gates(call, saved ? saved : call->scratch + scratch);
    for (int64_t i = 0; i < 2 * k * k; i++) {
        call->taps[i] = net->conv[i];
        call->taps[2 * k * k + i] = net->conv[i / (k * k) * k * k + k * k - 1 - i % (k * k)];
    }
    return memory;
}

/* Computes a layer; `saved` is memory for the backward, or null. Returns 0 where memory ran out. */
int icasa_weigh(const void *x, void *y, float *saved, float *statistics, const Net *net,
                const Shape *shape) {
    Call call = {.x = x, .y = y, .net = net, .d = *shape};
    void *memory = take_memory(&call, saved, 0);
    if (!memory)
        return 0;
    if (net->conv && !net->training)
        norm_statistics(&call, 0);
    for_samples(forward_step, &call);
    if (net->training) {
        norm_statistics(&call, statistics);
        for_samples(mix_step, &call);
    }
    free(memory);
    return 1;
}

/* Computes the gradients of sum(g * y), those of the parameters into `grads`. Returns 0 where
   memory ran out. */
int icasa_weigh_backward(const void *g, const void *x, void *dx, float *saved, const Net *net,
                         const Net *grads, const Shape *shape) {
    Call call = {.g = g, .x = x, .y = dx, .net = net, .grads = grads, .d = *shape};
    void *memory = take_memory(&call, saved, 2 * shape->threads);
    if (!memory)
        return 0;
    if (net->conv) {
        for_samples(spatial_step, &call);
        norm_backward(&call);
    }
    for_samples(backward_step, &call);
    if (net->M)
        parallel_for(channel_step, &call, shape->C, shape->threads);
    sum_gradients(&call);
    free(memory);
    return 1;
}
