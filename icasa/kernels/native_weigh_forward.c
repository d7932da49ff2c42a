/* The operators `weigh` and `weigh_forward` of ops.py, for native.py. */

#include "native_weigh.h"

/* Sum of a plane, of four elements in float32 and of these in float64: conversions cost more. */
VECTORISED static double plane_sum(const float *x, int64_t size) {
    double total = 0, sums[TILE] = {0};
    int64_t i = 0;
    for (; i + 4 * TILE <= size; i += 4 * TILE) {
        LANES
        for (int64_t j = i; j < i + TILE; j++)
            sums[j - i] += (x[j] + x[j + TILE]) + (x[j + 2 * TILE] + x[j + 3 * TILE]);
    }
    SUM(total)
    for (int64_t j = i; j < size; j++)
        total += x[j];
    for (int64_t j = 0; j < TILE; j++)
        total += sums[j];
    return total;
}

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

INLINE void save_gate(const Call *call, int64_t p, double logit) {
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
    call->z[p] = (call->top ? sum_and_max(x, size, call->top + p) : plane_sum(x, size)) / size;
    call->mean_of[p] = call->z[p];
}

/* Sums, and of CBAM maxima, of a tile in channels_last, by channel. */
static void sums_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    const Call *call = s->call;
    Work w = work_of(s);
    int64_t C = call->d.C, at = tile * C;
    Part part = tile_of(s, tile);
    const float *x = load_part(call->x, part.at, part.size * C, scratch_of(s, thread), call->d);
    channel_sums(x, w.partial + at, part.size, C);
    if (call->top)
        channel_maxima(x, (float *)(w.other + at), part.size, C);
}

/* The means of a sample in channels_last, and the maxima. */
static void channel_means(const Sample *s) {
    const Call *call = s->call;
    Shape d = call->d;
    Work w = work_of(s);
    parallel_for(sums_step, s, tiles_in(d), call->threads);
    add_tiles(w.partial, d);
    for (int64_t c = 0; c < d.C; c++)
        call->mean_of[s->n * d.C + c] = call->z[s->n * d.C + c] = w.partial[c] / (d.H * d.W);
    for (int64_t tile = 0; call->top && tile < tiles_in(d); tile++) {
        const float *of = (const float *)(w.other + tile * d.C);
        float *top = call->top + s->n * d.C;
        for (int64_t c = 0; c < d.C; c++)
            top[c] = tile ? greater(of[c], top[c]) : of[c];
    }
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
    float *gate = call->gate + n * C;
    LANES
    for (int64_t c = 0; c < C; c++)
        gate[c] = coded_sigmoid(t[c]);
    for (int64_t c = 0; call->gate_lo && c < C; c++)
        save_gate(call, n * C + c, t[c]);
}

/* Channel c of a tile: of `planes`, which has all of its channels, or where this is null of x. */
INLINE const float *tile_channel(const Sample *s, Part part, int64_t c, const float *planes,
                                 float *scratch) {
    Shape d = s->call->d;
    int64_t at = (s->n * d.C + c) * d.H * d.W + part.first;
    return planes ? planes + c * part.size : load_part(s->call->x, at, part.size, scratch, d);
}

/* The maps of the maximum and of the sum over channels, in a tile. */
static void maps_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    Shape d = s->call->d;
    Work w = work_of(s);
    Part part = tile_of(s, tile);
    int64_t at = part.first, size = part.size, nan = 0;
    float *scratch = scratch_of(s, thread), *planes = d.last ? scratch + size * d.C : 0;
    if (d.last)
        icasa_transpose_tile(load_part(s->call->x, part.at, size * d.C, scratch, d), planes, size,
                             d.C);
    for (int64_t c = 0; c < d.C; c++) {
        const float *x = tile_channel(s, part, c, planes, scratch);
        double gate = plane_gate(s->call, s->n * d.C + c);
        add_channel(x, gate, c, w.max + at, w.sum + at, w.index + at, size);
    }
    for (int64_t i = at; i < at + size; i++)
        nan |= w.sum[i] != w.sum[i];
    for (int64_t c = 0; nan && c < d.C; c++) {
        const float *x = tile_channel(s, part, c, planes, scratch);
        add_nan(x, plane_gate(s->call, s->n * d.C + c), w.max + at, w.index + at, size);
    }
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

static void gate_tile(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    const Call *call = s->call;
    Work w = work_of(s);
    Part part = tile_of(s, tile);
    int64_t C = call->d.C, size = part.size * C;
    float *scratch = scratch_of(s, thread), *out = output_plane(call->y, part.at, scratch, call->d);
    const float *x = load_part(call->x, part.at, size, scratch + size, call->d);
    if (call->net->conv)
        scale_both(x, out, w.factor, w.weight + part.first, part.size, C);
    else
        scale_channels(x, out, w.factor, 0, part.size, C);
    store_part(call->y, part.at, size, out, call->d);
}

static void mix_step(const void *of, int64_t n, int64_t thread) {
    Sample s = {of, n, thread};
    Shape d = s.call->d;
    Work w = work_of(&s);
    if (s.call->net->conv)
        spatial_gates(s.call, n, w.weight);
    if (d.last)
        channel_gates(&s, &w);
    parallel_for(d.last ? gate_tile : gate_step, &s, d.last ? tiles_in(d) : d.C, s.call->threads);
}

static void forward_step(const void *of, int64_t n, int64_t thread) {
    Sample s = {of, n, thread};
    if (s.call->d.last)
        channel_means(&s);
    else
        parallel_for(mean_step, &s, s.call->d.C, s.call->threads);
    gates(of, n);
    if (s.call->net->conv)
        spatial_logits(&s);
    if (!s.call->net->training)
        mix_step(of, n, thread);
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
