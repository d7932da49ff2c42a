/* The operator `attend_backward` of ops.py, for native.py. */

#include <stdlib.h>

#include "native.h"
#include "native_axes_backward.h"

#define STRETCH 32 /* rows whose columns are summed in float32 */

/* Eq. 14 of one plane: t = hat * gain + constant with hat = (x - mean) * rstd + offset, where
   `offset` is the part of the mean below float32. */
typedef struct {
    float mean, rstd, offset, gain, constant;
} Line;

INLINE float normed(float x, Line n) { return (x - n.mean) * n.rstd + n.offset; }

/* Sums of g * x * sigmoid(t), and of its derivative by t with hat and without. */
VECTORISED static void element_sums(const float *restrict g, const float *restrict x, Line n,
                                    double *total, int64_t size) {
    total[0] = total[1] = total[2] = 0;
    for (int64_t start = 0; start < size; start += BLOCK) {
        float gated = 0, slope = 0, shift = 0;
        SUM(gated, slope, shift)
        for (int64_t i = start; i < end_of(start, size); i++) {
            float hat = normed(x[i], n), complement;
            float s = sigmoid_and_complement(hat * n.gain + n.constant, &complement);
            float gxs = g[i] * x[i] * s, dt = gxs * complement;
            gated += gxs;
            slope += dt * hat;
            shift += dt;
        }
        total[0] += gated, total[1] += slope, total[2] += shift;
    }
}

/* Sum of g * x * g_w over `count` columns of a line; g * x * g_h is added to `columns`. */
INLINE float multiply_line(const float *restrict g, const float *restrict x,
                           const float *restrict g_w, float g_h, float *restrict columns,
                           int64_t count) {
    float row = 0;
    SUM(row)
    for (int64_t w = 0; w < count; w++) {
        float gx = g[w] * x[w];
        row += gx * g_w[w];
        columns[w] += gx * g_h;
    }
    return row;
}

/* Adds a stretch of rows, summed in float32, to the sums of the columns, and empties it. */
INLINE void add_stretch(float *restrict stretch, double *restrict columns, int64_t W) {
    LANES
    for (int64_t w = 0; w < W; w++)
        columns[w] += stretch[w];
    memset(stretch, 0, W * sizeof(float));
}

/* t = sums * beta * the slope of the gates; returns the sum of sums * gates. */
INLINE double slopes(const double *restrict sums, const float *restrict code, float *restrict t,
                     float beta, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++) {
        t[i] = sums[i] * beta * gate_slope(code[i]);
        total += sums[i] * gate_of(code[i]);
    }
    return total;
}

/* Likewise of the rows and columns of a plane, whose sums follow each other. */
VECTORISED static double axis_slopes(const double *sums, const float *code_h, const float *code_w,
                                     float *t_h, float *t_w, float beta, int64_t H, int64_t W) {
    slopes(sums + H, code_w, t_w, beta, W);
    return slopes(sums, code_h, t_h, beta, H);
}

/* Gradients t_h and t_w of the sum of g * x * g_h * g_w * beta before the sigmoids of the gates,
   which are coded; returns that of beta. Scratch for the sums of H rows and W columns, and for
   H + 2 W elements. */
VECTORISED static double axis_sums(const float *g, const float *x, const float *code_h,
                                   const float *code_w, float *t_h, float *t_w, float beta,
                                   double *rows, float *scratch, int64_t H, int64_t W) {
    double *columns = rows + H;
    float *stretch = scratch + H + W;
    const float *g_h = decode(code_h, scratch, H), *g_w = decode(code_w, scratch + H, W);
    memset(rows, 0, (H + W) * sizeof(double));
    memset(stretch, 0, W * sizeof(float));
    for (int64_t h = 0; h < H; h++, g += W, x += W) {
        for (int64_t start = 0; start < W; start += BLOCK)
            rows[h] += multiply_line(g + start, x + start, g_w + start, g_h[h], stretch + start,
                                     end_of(start, W) - start);
        if ((h + 1) % STRETCH == 0 || h + 1 == H)
            add_stretch(stretch, columns, W);
    }
    return axis_slopes(rows, code_h, code_w, t_h, t_w, beta, H, W);
}

/* What a plane adds to the gradients of beta and of the weight and bias of its gate, and what dx
   has of its moments: in the channel half a constant, in the spatial half a function of the means
   of dt, the derivative by t, and of dt * hat. */
typedef struct {
    double beta, weight, bias;
    float constant, dt, dt_hat;
} Plane;

/* Eq. 14 of plane i of the spatial half, with parameters j. */
INLINE Line line_of(const Layer *layer, const Saved *saved, int64_t i, int64_t j) {
    float gain = layer->params.w2[j] * layer->params.group_weight[j];
    return (Line){saved->mean[i], saved->rstd[i], -saved->mean_lo[i] * saved->rstd[i], gain,
                  saved->constant[j]};
}

/* What follows from the sum of g * x over plane i of the channel half, with parameters j. */
INLINE void channel_gradient(Plane *out, double total, const Layer *layer, const Saved *saved,
                             int64_t i, int64_t j, float one_minus_beta, Shape d) {
    out->beta = -total * gate_of(saved->gate[i]);
    out->bias = total * one_minus_beta * gate_slope(saved->gate[i]);
    out->weight = out->bias * saved->s[i];
    out->constant = out->bias * layer->params.w1[j] / (d.H * d.W);
}

/* What follows from the sums of `element_sums` over a plane of the spatial half. */
INLINE void element_gradient(Plane *out, double gated, double slope, double shift,
                             float one_minus_beta, Shape d) {
    out->beta = -gated;
    out->weight = slope * one_minus_beta;
    out->bias = shift * one_minus_beta;
    out->dt = shift / (d.H * d.W);
    out->dt_hat = slope / (d.H * d.W);
}

/* The first pass over plane p; t (N, C, L) receives the gradients before the axes' sigmoids. */
static void plane_gradients(const void *g, const void *x, const Layer *layer, const Saved *saved,
                            Plane *out, float *t, int64_t p, float *scratch, double *sums,
                            Shape d) {
    float *lines = scratch;
    scratch += d.H + 2 * d.W;
    int64_t size = d.H * d.W, L = d.H + d.W, i = 0, at = layer->shuffle ? shuffle_target(d, p) : p;
    int kind = half_of(d, p, &i), both = kind != NONE && saved->g_h;
    float beta = both ? *layer->params.beta : 1, one_minus_beta = both ? 1 - beta : 1;
    const float *in = load_plane(x, p * size, scratch, d);
    *out = (Plane){0};
    if (kind != NONE) {
        int64_t j = p % d.C % (d.C / (2 * d.groups));
        const float *gv = load_plane(g, at * size, scratch + size, d);
        if (kind == CHANNEL) {
            channel_gradient(out, dot(gv, in, size), layer, saved, i, j, one_minus_beta, d);
        } else {
            double total[3];
            element_sums(gv, in, line_of(layer, saved, i, j), total, size);
            element_gradient(out, total[0], total[1], total[2], one_minus_beta, d);
        }
    }
    if (saved->g_h) {
        const float *gp = load_plane(g, p * size, scratch + size, d);
        out->beta += axis_sums(gp, in, saved->g_h + p * d.H, saved->g_w + p * d.W, t + p * L,
                              t + p * L + d.H, beta, sums, lines, d.H, d.W);
    }
}

/* dx = g * gate + constant */
VECTORISED static void gate_plane_backward(const float *restrict g, float *restrict dx, float gate,
                             float constant, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        dx[i] = g[i] * gate + constant;
}

/* dx of g * x * sigmoid(t) * gate, with the means of dt and dt * hat over the plane. */
VECTORISED static void gate_elements_backward(const float *restrict g, const float *restrict x,
                                       float *restrict dx, float gate, Line n, float mean,
                                       float mean_hat, int64_t size) {
    float a = size > 1 ? n.gain * n.rstd : 0; /* a single element is its own mean */
    LANES
    for (int64_t i = 0; i < size; i++) {
        float hat = normed(x[i], n), complement;
        float s = sigmoid_and_complement(hat * n.gain + n.constant, &complement);
        float dt = g[i] * x[i] * s * complement;
        dx[i] = (g[i] * s + a * (dt - mean - hat * mean_hat)) * gate;
    }
}

/* g * g_h * g_w * beta + dz_h / W + dz_w / H, put into dx or added to it; g_h is coded. */
VECTORISED static void gate_axes_backward(const float *restrict g, float *restrict dx,
                                   const float *restrict g_h, const float *restrict g_w,
                                   const float *restrict dz_h, const float *restrict dz_w,
                                   float beta, int added, int64_t H, int64_t W) {
    float height = 1.0f / H;
    for (int64_t h = 0; h < H; h++, g += W, dx += W) {
        float row = gate_of(g_h[h]) * beta, constant = dz_h[h] / W;
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
static void mix_backward(const void *g, const void *x, void *dx, const Layer *layer,
                         const Saved *saved, const Plane *plane, const float *dz, int64_t p,
                         float *scratch, Shape d) {
    int64_t size = d.H * d.W, L = d.H + d.W, i = 0, at = layer->shuffle ? shuffle_target(d, p) : p;
    int kind = half_of(d, p, &i), both = kind != NONE && saved->g_h;
    float beta = both ? *layer->params.beta : 1, one_minus_beta = both ? 1 - beta : 1;
    float *line = scratch;
    scratch += d.W;
    float *out = output_plane(dx, p * size, scratch + 2 * size, d);
    if (kind != NONE) {
        int64_t j = p % d.C % (d.C / (2 * d.groups));
        const float *gv = load_plane(g, at * size, scratch + size, d);
        if (kind == CHANNEL)
            gate_plane_backward(gv, out, gate_of(saved->gate[i]) * one_minus_beta, plane->constant,
                                size);
        else
            gate_elements_backward(gv, load_plane(x, p * size, scratch, d), out, one_minus_beta,
                                   line_of(layer, saved, i, j), plane->dt, plane->dt_hat, size);
    }
    if (saved->g_h || layer->residual) {
        const float *gp = load_plane(g, p * size, scratch + size, d);
        if (saved->g_h)
            gate_axes_backward(gp, out, saved->g_h + p * d.H,
                               decode(saved->g_w + p * d.W, line, d.W), dz + p * L,
                               dz + p * L + d.H, beta, both, d.H, d.W);
        if (layer->residual)
            add(gp, out, size);
    }
    store_plane(dx, p * size, out, d);
}

#include "native_last_backward.h"

/* Gradients of SA's parameters and of beta: sums over the planes. */
static void reduce(const Plane *planes, const Layer *layer, const Saved *saved,
                   const Parameters *grads, double *scratch, Shape d) {
    double beta = 0;
    for (int64_t p = 0; p < d.N * d.C; p++)
        beta += planes[p].beta;
    if (grads->beta)
        *grads->beta = beta;
    if (!grads->w1)
        return;
    int64_t half = d.C / (2 * d.groups);
    double *w1 = scratch, *b1 = w1 + half, *a = b1 + half, *b2 = a + half;
    memset(scratch, 0, 4 * half * sizeof(double));
    for (int64_t p = 0; p < d.N * d.C; p++) {
        int64_t i = 0, j = p % d.C % half;
        if (half_of(d, p, &i) == CHANNEL) {
            w1[j] += planes[p].weight;
            b1[j] += planes[p].bias;
        } else {
            a[j] += planes[p].weight;
            b2[j] += planes[p].bias;
        }
    }
    for (int64_t j = 0; j < half; j++) {
        double w2 = layer->params.w2[j];
        grads->w1[j] = w1[j];
        grads->b1[j] = b1[j];
        grads->w2[j] = a[j] * layer->params.group_weight[j] + b2[j] * saved->group_bias[j];
        grads->b2[j] = b2[j];
        grads->group_weight[j] = a[j] * w2;
        grads->group_bias[j] = b2[j] * w2;
    }
}

/* What the steps of a backward share. */
typedef struct {
    const void *g, *x;
    void *dx;
    const Layer *layer;
    Saved saved;
    Plane *work;
    float *t, *h, *dn, *scratch;
    double *lines;
    const double *sums;
    const Parameters *grads;
    int64_t each, doubles; /* floats of scratch and doubles of lines for each thread */
    int64_t lanes;         /* channels that channel_gradients takes at a time */
    int at_once; /* whether dx needs no more than one step of the first pass */
    Shape d;
} Backward;

static void mix_step(const void *call, int64_t p, int64_t thread) {
    const Backward *b = call;
    float *scratch = b->scratch + thread * b->each;
    if (b->d.last)
        last_mix_backward(b->g, b->x, b->dx, b->layer, &b->saved, b->work, b->t, p, scratch, b->d);
    else
        mix_backward(b->g, b->x, b->dx, b->layer, &b->saved, b->work + p, b->t, p, scratch, b->d);
}

static void plane_step(const void *call, int64_t p, int64_t thread) {
    const Backward *b = call;
    float *scratch = b->scratch + thread * b->each;
    double *lines = b->lines + thread * b->doubles;
    if (b->d.last)
        last_gradients(b->g, b->x, b->layer, &b->saved, b->work, b->t, p, lines, scratch, b->d);
    else
        plane_gradients(b->g, b->x, b->layer, &b->saved, b->work + p, b->t, p, scratch, lines,
                        b->d);
    if (b->at_once)
        mix_step(call, p, thread);
}

static void expand_step(const void *call, int64_t i, int64_t thread) {
    const Backward *b = call;
    expand_backward(b->t, b->layer, &b->saved, b->h, b->dn, tile_at(i, b->d), b->d);
}

static void channel_step(const void *call, int64_t i, int64_t thread) {
    const Backward *b = call;
    int64_t first = i * b->lanes, left = b->d.C - first;
    channel_gradients(b->layer, &b->saved, b->h, b->dn, b->sums, b->t, b->grads, first,
                      left < b->lanes ? left : b->lanes, b->d);
}

/* Computes the gradients of sum(g * y), those of the parameters into `grads`. Returns 0 where
   memory ran out. */
int icasa_attend_backward(const void *g, const void *x, void *dx, float *saved, const Layer *layer,
                          const Parameters *grads, const Shape *shape) {
    Shape d = *shape;
    int64_t size = d.H * d.W, L = d.H + d.W, planes = d.N * d.C;
    int64_t lines = layer->params.taps ? planes * L : 0, squeezed = lines ? d.N * layer->M * L : 0;
    int64_t plane = d.type != FLOAT32 ? 3 * size + L + d.W : L + d.W;
    int64_t each = (d.last ? last_floats(d) : plane) + GAP;
    int64_t steps = d.last ? d.N * parts_of(d) : planes;
    int64_t line = (d.last ? last_doubles(d) : L) + GAP;
    int64_t lanes = tiles_of(d.C) < d.threads ? TILE / 2 : TILE; /* fewer, so that all work */
    int64_t all = d.threads * each, half = d.groups ? d.C / (2 * d.groups) : 0;
    int64_t doubles = 4 * half + d.threads * line;
    Plane *work = malloc(planes * sizeof(Plane) + doubles * sizeof(double) +
                         (lines + 2 * squeezed + all) * sizeof(float));
    if (!work)
        return 0;
    double *totals = (double *)(work + planes), sums[WIDEST];
    float *t = (float *)(totals + doubles), *h = t + lines, *dn = h + squeezed,
          *scratch = dn + squeezed;
    Backward b = {g, x, dx, layer, split_saved(saved, layer, d), work, t, h,
                  dn, scratch, totals + 4 * half, sums, grads, each, line, lanes, 0, d};
    b.at_once = !lines && (!d.last || parts_of(d) == 1);
    parallel_for(plane_step, &b, steps, d.threads);
    if (lines) {
        parallel_for(expand_step, &b, d.N * (tiles_of(d.H) + tiles_of(d.W)), d.threads);
        for (int64_t m = 0; m < layer->M; m++) {
            sums[m] = norm_backward(dn, layer, &b.saved, grads, m, d);
            grads->mix_bias[m] = sums[m];
        }
        parallel_for(channel_step, &b, (d.C + b.lanes - 1) / b.lanes, d.threads);
    }
    if (!b.at_once)
        parallel_for(mix_step, &b, steps, d.threads);
    reduce(work, layer, &b.saved, grads, totals, d);
    free(work);
    return 1;
}
