/* What both directions of SE, ECA and CBAM in C share: how a call is divided into samples and
   steps, its memory, and what the forward saves. */

#pragma once

#include <stdlib.h>

#include "native.h"
#include "native_last_weigh.h"
#include "native_maps.h"

/* y = x * gate + constant */
VECTORISED static void scale(const float *restrict x, float *restrict y, float gate, float constant,
                             int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] = x[i] * gate + constant;
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
    float *scratch; /* planes or tiles of each thread */
    int inputs, threads; /* of the net: the means, or also the maxima; within a sample */
    Shape d;
} Call;

typedef struct {
    const Call *call;
    int64_t n, thread;
} Sample;

/* Positions in a tile, of which CBAM takes maps, and channels_last everything. */
INLINE int64_t tile_size(Shape d) {
    int64_t size = TILE_SIZE;
    if (d.last) /* no power of two, of which rows share too few lines of a cache */
        size = (TILE_ELEMENTS / d.C + 1) / 16 * 16 + 8;
    size = size < TILE_SIZE ? size : TILE_SIZE;
    return size < d.H * d.W ? size : d.H * d.W;
}

INLINE int64_t tiles_in(Shape d) { return (d.H * d.W + tile_size(d) - 1) / tile_size(d); }

enum { PLANES = 3 }; /* of scratch */

INLINE int64_t scratch_size(Shape d) {
    if (d.last)
        return PLANES * tile_size(d) * d.C + GAP;
    return d.type == FLOAT32 ? 0 : PLANES * d.H * d.W + GAP;
}

INLINE float *scratch_of(const Sample *s, int64_t thread) {
    Shape d = s->call->d;
    return s->call->scratch + (s->thread + thread) * scratch_size(d);
}

/* What a sample that is computed takes. Of channels_last the sums by tile and channel, `partial`
   and `other`, and by channel what x or g is multiplied by and what is added; of CBAM maps. */
typedef struct {
    double *partial, *other, *gate, *max, *sum, *index, *padded, *gradient, *out;
    float *factor, *constant, *share, *weight, *code, *dmean, *dmax;
    Padded s;
} Work;

static int64_t work_size(const Net *net, Shape d) {
    Padded s = padded_of(d, net->k);
    int64_t channels = d.last ? (2 * tiles_in(d) + 3) * d.C : net->conv ? tiles_in(d) * d.C : 0;
    return channels + (net->conv ? 5 * d.H * d.W + 3 * s.size : 0) + GAP;
}

static Work work_of(const Sample *sample) {
    Shape d = sample->call->d;
    int64_t size = d.H * d.W;
    Work w = {.partial = sample->call->work + sample->thread * work_size(sample->call->net, d)};
    w.s = padded_of(d, sample->call->net->k);
    w.max = w.partial + tiles_in(d) * d.C;
    if (d.last) {
        w.other = w.max;
        w.gate = w.other + tiles_in(d) * d.C;
        w.factor = (float *)(w.gate + d.C);
        w.constant = w.factor + d.C;
        w.share = w.constant + d.C;
        w.max = w.gate + 3 * d.C;
    }
    w.sum = w.max + size;
    w.index = w.sum + size;
    w.padded = w.index + size;
    w.gradient = w.padded + w.s.size;
    w.out = w.gradient + w.s.size;
    w.weight = (float *)(w.out + w.s.size);
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

/* The gate of a code, rounded as 1 / (1 + exp(-logit)) is: so equal maxima are those of float64. */
INLINE double exact_gate(double code) { return code < 0 ? 1 / (1 - code / (1 + code)) : code; }

INLINE double plane_gate(const Call *call, int64_t p) { return exact_gate(code_of(call, p)); }

/* A part of a plane of x or g, of a tile of positions. */
INLINE const float *load_part(const void *of, int64_t at, int64_t size, float *scratch, Shape d) {
    d.H = 1, d.W = size;
    return load_plane(of, at, scratch, d);
}

INLINE void store_part(void *y, int64_t at, int64_t size, const float *part, Shape d) {
    d.H = 1, d.W = size;
    store_plane(y, at, part, d);
}

/* A tile of positions of one sample: its first, how many, and where its elements begin. */
typedef struct {
    int64_t first, size, at;
} Part;

INLINE Part tile_of(const Sample *s, int64_t tile) {
    Shape d = s->call->d;
    int64_t all = d.H * d.W, first = tile * tile_size(d), size = all - first;
    size = size < tile_size(d) ? size : tile_size(d);
    return (Part){first, size, (s->n * all + first) * d.C};
}

/* Adds up the sums of all tiles, by channel, in the place of the first. */
VECTORISED static void add_tiles(double *partial, Shape d) {
    int64_t C = d.C, tiles = tiles_in(d);
    for (int64_t tile = 1; tile < tiles; tile++) {
        const double *more = partial + tile * C;
        LANES
        for (int64_t c = 0; c < C; c++)
            partial[c] += more[c];
    }
}

/* The gates of a sample's channels, as a tile in channels_last takes them. */
VECTORISED static void channel_gates(const Sample *s, const Work *w) {
    int64_t C = s->call->d.C;
    const float *gate = s->call->gate + s->n * C;
    const float *low = s->call->gate_lo ? s->call->gate_lo + s->n * C : 0;
    LANES
    for (int64_t c = 0; c < C; c++)
        w->gate[c] = gate[c];
    for (int64_t c = 0; low && c < C; c++)
        w->gate[c] += low[c];
    LANES
    for (int64_t c = 0; c < C; c++) {
        w->gate[c] = exact_gate(w->gate[c]);
        w->factor[c] = w->gate[c];
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
    int64_t scratch = d.threads * scratch_size(d), k = net->k;
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
