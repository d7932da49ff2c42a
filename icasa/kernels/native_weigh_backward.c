/* The operator `weigh_backward` of ops.py, for native.py. */

#include "native_weigh.h"

/* y += v[r] * w[r] of `columns` elements, summed over some rows of w. */
INLINE void add_rows(const float *w, const double *v, double *y, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++, w += columns) {
        LANES
        for (int64_t k = 0; k < columns; k++)
            y[k] += v[r] * w[k];
    }
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

/* Sums of g * x of a tile in channels_last, by channel. */
static void dots_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    const Call *call = s->call;
    Work w = work_of(s);
    Part part = tile_of(s, tile);
    int64_t C = call->d.C, size = part.size * C;
    float *scratch = scratch_of(s, thread);
    const float *x = load_part(call->x, part.at, size, scratch, call->d);
    const float *g = load_part(call->g, part.at, size, scratch + size, call->d);
    channel_dots(g, x, w.partial + tile * C, part.size, C);
}

/* In a tile, the gradient of the spatial gates, and what it adds to that of each plane's gate. */
static void tile_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    Shape d = s->call->d;
    Work w = work_of(s);
    Part part = tile_of(s, tile);
    int64_t all = d.H * d.W, at = part.first, size = part.size;
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

/* Likewise of a tile in channels_last. */
static void both_step(const void *sample, int64_t tile, int64_t thread) {
    const Sample *s = sample;
    const Call *call = s->call;
    Work w = work_of(s);
    Part part = tile_of(s, tile);
    int64_t C = call->d.C, size = part.size * C;
    float *scratch = scratch_of(s, thread);
    const float *x = load_part(call->x, part.at, size, scratch, call->d);
    const float *g = load_part(call->g, part.at, size, scratch + size, call->d);
    double *sums = call->p + s->n * call->d.H * call->d.W + part.first;
    both_sums(g, x, w.gate, w.weight + part.first, sums, w.partial + tile * C, part.size, C);
    for (int64_t i = 0; i < part.size; i++)
        sums[i] *= gate_slope(w.code[part.first + i]);
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
    if (d.last)
        channel_gates(&s, &w);
    parallel_for(d.last ? both_step : tile_step, &s, tiles_in(d), s.call->threads);
    add_tiles(w.partial, d);
    memcpy(s.call->t + n * d.C, w.partial, d.C * sizeof(double));
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
            int64_t at = d.last ? (s->n * size + i) * d.C + c : p * size + i;
            double value = *load_part(s->call->x, at, 1, &element, d) * plane_gate(s->call, p);
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

/* Those of a tile in channels_last, by channel. */
static MapGradients tile_gradients(MapGradients m, int64_t first) {
    const double *tied = m.tied ? m.tied + first : 0;
    return (MapGradients){m.dmean + first, m.dmax + first, m.index + first, tied};
}

static void map_tile(const void *of, int64_t tile, int64_t thread) {
    const Spatial *f = of;
    const Call *call = f->s.call;
    Part part = tile_of(&f->s, tile);
    int64_t C = call->d.C, at = tile * C;
    const float *x = load_part(call->x, part.at, part.size * C, scratch_of(&f->s, thread), call->d);
    map_sums(x, tile_gradients(f->m, part.first), f->w.gate, call->top + f->s.n * C,
             f->w.partial + at, f->w.other + at, part.size, C);
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

/* Likewise of a tile in channels_last. */
static void dx_tile(const void *of, int64_t tile, int64_t thread) {
    const Spatial *f = of;
    const Call *call = f->s.call;
    Part part = tile_of(&f->s, tile);
    int64_t C = call->d.C, size = part.size * C;
    float *scratch = scratch_of(&f->s, thread);
    float *out = output_plane(call->y, part.at, scratch, call->d);
    const float *g = load_part(call->g, part.at, size, scratch + size, call->d);
    if (call->net->conv) {
        const float *x = load_part(call->x, part.at, size, scratch + 2 * size, call->d);
        both_backward(g, x, out, f->w.weight + part.first, tile_gradients(f->m, part.first),
                      f->w.gate, f->w.factor, f->w.constant, call->top + f->s.n * C, f->w.share,
                      part.size, C);
    } else
        scale_channels(g, out, f->w.factor, f->w.constant, part.size, C);
    store_part(call->y, part.at, size, out, call->d);
}

/* Of a sample in channels_last, what slope_step and map_step make of a plane. */
static void channel_slopes(const Spatial *f) {
    const Call *call = f->s.call;
    Shape d = call->d;
    int conv = call->net->conv != 0;
    channel_gates(&f->s, &f->w);
    parallel_for(conv ? map_tile : dots_step, f, tiles_in(d), call->threads);
    add_tiles(f->w.partial, d);
    if (conv)
        add_tiles(f->w.other, d);
    for (int64_t c = 0; c < d.C; c++) {
        int64_t p = f->s.n * d.C + c;
        call->t[p] = (f->w.partial[c] + (conv ? call->t[p] : 0)) * gate_slope(code_of(call, p));
        call->dtop[p] = conv ? f->w.other[c] : 0;
    }
}

/* What dx_tile adds to each channel, and to those that are the maximum. */
static void channel_constants(const Spatial *f) {
    const Call *call = f->s.call;
    Shape d = call->d;
    for (int64_t c = 0; c < d.C; c++) {
        int64_t p = f->s.n * d.C + c;
        f->w.constant[c] = call->z[p] / (d.H * d.W);
        if (!call->net->conv)
            continue;
        f->w.share[c] = call->dtop[p];
        f->w.constant[c] += 0 * f->w.share[c];
    }
}

static void backward_step(const void *of, int64_t n, int64_t thread) {
    Spatial f = {.s = {of, n, thread}, .w = work_of(&(Sample){of, n, thread})};
    const Call *call = of;
    Shape d = call->d;
    if (call->net->conv) {
        decode_gates(call, n, &f.w);
        f.m = map_gradients(&f.s, &f.w);
    }
    if (d.last)
        channel_slopes(&f);
    else
        parallel_for(call->net->conv ? map_step : slope_step, &f, d.C, call->threads);
    mean_gradients(call, n);
    if (d.last)
        channel_constants(&f);
    parallel_for(d.last ? dx_tile : dx_step, &f, d.last ? tiles_in(d) : d.C, call->threads);
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
