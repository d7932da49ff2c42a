/* The operator `attend_backward` of ops.py, for native.py. */

#include <stdlib.h>

#include "native.h"

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

/* Eq. 14 of one plane: t = hat * gain + constant of hat = (x - mean) * rstd + rest, where `rest` is
   what the mean lost when it was rounded. */
typedef struct {
    float mean, rstd, rest, gain, constant;
} Line;

INLINE float normed(float x, Line n) { return (x - n.mean) * n.rstd + n.rest; }

/* Sums of g * x * sigmoid(t), and of its derivative by t with hat and without. */
VECTORISED static void element_sums(const float *restrict g, const float *restrict x, Line n,
                                    double *total, int64_t size) {
    total[0] = total[1] = total[2] = 0;
    for (int64_t from = 0; from < size; from += BLOCK) {
        float gated = 0, slope = 0, shift = 0;
        SUM(gated, slope, shift)
        for (int64_t i = from; i < end_of(from, size); i++) {
            float hat = normed(x[i], n), rest;
            float s = sigmoid_and_rest(hat * n.gain + n.constant, &rest);
            float gxs = g[i] * x[i] * s, dt = gxs * rest;
            gated += gxs;
            slope += dt * hat;
            shift += dt;
        }
        total[0] += gated, total[1] += slope, total[2] += shift;
    }
}

/* Sum of g * x * g_w over `count` columns of a line; g * x * g_h is added to `columns`. */
INLINE float multiply_line(const float *g, const float *x, const float *g_w, float g_h,
                           double *restrict columns, int64_t count) {
    float row = 0;
    SUM(row)
    for (int64_t w = 0; w < count; w++) {
        float gx = g[w] * x[w];
        row += gx * g_w[w];
        columns[w] += gx * g_h;
    }
    return row;
}

/* Likewise of four lines, W apart, whose sums are added to `rows`: the columns are read once. */
INLINE void multiply_lines(const float *restrict g, const float *restrict x,
                           const float *restrict g_w, const float *g_h, double *restrict columns,
                           double *rows, int64_t count, int64_t W) {
    float r0 = 0, r1 = 0, r2 = 0, r3 = 0, h0 = g_h[0], h1 = g_h[1], h2 = g_h[2], h3 = g_h[3];
    SUM(r0, r1, r2, r3)
    for (int64_t w = 0; w < count; w++) {
        float a = g[w] * x[w], b = g[W + w] * x[W + w];
        float c = g[2 * W + w] * x[2 * W + w], d = g[3 * W + w] * x[3 * W + w];
        r0 += a * g_w[w], r1 += b * g_w[w], r2 += c * g_w[w], r3 += d * g_w[w];
        columns[w] += (a * h0 + b * h1) + (c * h2 + d * h3);
    }
    rows[0] += r0, rows[1] += r1, rows[2] += r2, rows[3] += r3;
}

/* Gradients t_h and t_w of the sum of g * x * g_h * g_w * beta before the sigmoids of the gates,
   which are coded; returns that of beta. Rooms for W elements. */
VECTORISED static double axis_sums(const float *g, const float *x, const float *code_h,
                                   const float *code_w, float *t_h, float *t_w, float beta,
                                   double *columns, float *line, int64_t H, int64_t W) {
    double total = 0;
    const float *g_w = decode(code_w, line, W);
    memset(columns, 0, W * sizeof(double));
    for (int64_t top = 0; top < H; top += 4, g += 4 * W, x += 4 * W) {
        int64_t lines = H - top < 4 ? H - top : 4;
        double rows[4] = {0};
        float g_h[4];
        decode(code_h + top, g_h, lines);
        for (int64_t from = 0; from < W; from += BLOCK) {
            int64_t count = end_of(from, W) - from;
            if (lines == 4)
                multiply_lines(g + from, x + from, g_w + from, g_h, columns + from, rows, count, W);
            else
                for (int64_t r = 0, at = from; r < lines; r++, at += W)
                    rows[r] += multiply_line(g + at, x + at, g_w + from, g_h[r], columns + from,
                                             count);
        }
        for (int64_t r = 0; r < lines; r++) {
            t_h[top + r] = rows[r] * beta * gate_slope(code_h[top + r]);
            total += rows[r] * g_h[r];
        }
    }
    for (int64_t w = 0; w < W; w++)
        t_w[w] = columns[w] * beta * gate_slope(code_w[w]);
    return total;
}

/* What a plane adds to the gradient of beta and to those of two parameters of SA's gate, and what its
   elements have of its moments: the channel half a constant, the other half the mean of dt, the
   derivative by t, and that of dt * hat. */
typedef struct {
    double beta, first, second;
    float constant, dt, dt_hat;
} Plane;

/* Eq. 14 of plane i of the spatial half, whose parameters are number j. */
INLINE Line line_of(const Net *net, const Kept *k, int64_t i, int64_t j) {
    float gain = net->of.w2[j] * net->of.group_weight[j];
    return (Line){k->mean[i], k->rstd[i], -k->mean_lo[i] * k->rstd[i], gain, k->constant[j]};
}

/* The first pass over plane p; t (N, C, L) gets the gradients before the sigmoids of the axes. */
static void plane_gradients(const void *g, const void *x, const Net *net, const Kept *k, Plane *to,
                            float *t, int64_t p, float *room, double *columns,
                            Shape d) {
    float *line = room;
    room += d.W;
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
            double total[3];
            Line n = line_of(net, k, i, j);
            element_sums(gv, in, n, total, size);
            to->beta = -total[0];
            to->first = total[1] * rest;
            to->second = total[2] * rest;
            to->dt = total[2] / size;
            to->dt_hat = total[1] / size;
        }
    }
    if (k->g_h) {
        const float *gp = read(g, p * size, room + size, d);
        to->beta += axis_sums(gp, in, k->g_h + p * d.H, k->g_w + p * d.W, t + p * L,
                              t + p * L + d.H, beta, columns, line, d.H, d.W);
    }
}

/* dx = g * gate + constant */
VECTORISED static void scale(const float *restrict g, float *restrict dx, float gate,
                             float constant, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        dx[i] = g[i] * gate + constant;
}

/* dx of g * x * sigmoid(t) * gate, with the means of dt and dt * hat over the plane. */
VECTORISED static void ungate_elements(const float *restrict g, const float *restrict x,
                                       float *restrict dx, float gate, Line n, float mean,
                                       float mean_hat, int64_t size) {
    float a = size > 1 ? n.gain * n.rstd : 0; /* a single element is its own mean */
    LANES
    for (int64_t i = 0; i < size; i++) {
        float hat = normed(x[i], n), rest;
        float s = sigmoid_and_rest(hat * n.gain + n.constant, &rest);
        float dt = g[i] * x[i] * s * rest;
        dx[i] = (g[i] * s + a * (dt - mean - hat * mean_hat)) * gate;
    }
}

/* g * g_h * g_w * beta + dz_h / W + dz_w / H, put into dx or added to it; g_h is coded. */
VECTORISED static void ungate_axes(const float *restrict g, float *restrict dx,
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
static void unmix(const void *g, const void *x, void *dx, const Net *net, const Kept *k,
                  const Plane *with, const float *dz, int64_t p, float *room, Shape d) {
    int64_t size = d.H * d.W, L = d.H + d.W, i = 0, at = net->shuffle ? shuffled_to(d, p) : p;
    int kind = half_of(d, p, &i), both = kind != NONE && k->g_h;
    float beta = both ? *net->of.beta : 1, rest = both ? 1 - beta : 1;
    float *line = room;
    room += d.W;
    float *out = made_in(dx, p * size, room + 2 * size, d);
    if (kind != NONE) {
        int64_t j = p % d.C % (d.C / (2 * d.groups));
        const float *gv = read(g, at * size, room + size, d);
        if (kind == CHANNEL)
            scale(gv, out, k->gate[i] * rest, with->constant, size);
        else
            ungate_elements(gv, read(x, p * size, room, d), out, rest, line_of(net, k, i, j),
                            with->dt, with->dt_hat, size);
    }
    if (k->g_h || net->residual) {
        const float *gp = read(g, p * size, room + size, d);
        if (k->g_h)
            ungate_axes(gp, out, k->g_h + p * d.H, decode(k->g_w + p * d.W, line, d.W), dz + p * L,
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
        int64_t at = (tile.n * net->M + m) * L + tile.start;
        for (int64_t i = 0; i < tile.count; i++) {
            float normed = k->hat[at + i] * gain + k->norm_bias[m];
            h[at + i] = h_swish(normed);
            double slope = h_swish_slope(normed);
            dn[at + i] = slope != 0 ? sum[m][i] * slope : 0; /* also where the sum is infinite */
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
    float gain = net->of.norm[0][m] * k->scale[m], mean = total / count, slope = weighed / count;
    for (int64_t n = 0; n < d.N; n++) {
        float *row = dn + (n * net->M + m) * L;
        const float *hat = k->hat + (n * net->M + m) * L;
        LANES
        for (int64_t l = 0; l < L; l++)
            row[l] = gain * (net->training ? row[l] - mean - hat[l] * slope : row[l]);
    }
    return net->training ? 0 : gain * total;
}

/* What channel c has of the gradients of the convolutions; t becomes the gradient of its means.
   dp (N, M, L) is that of the bottleneck, `sums` (M) its sums. Means are as the forward saved them,
   and what its shift left out goes by these sums, which are zero behind a norm in training.
   Room for three rows of L + K. */
VECTORISED static void channel_gradients(const Net *net, const Kept *k, const float *h,
                                         const float *dp, const double *sums, float *t,
                                         const Parameters *to, int64_t c, float *room, Shape d) {
    int64_t L = d.H + d.W, M = net->M, K = net->K, pad = K / 2;
    float *z = room, *du = room + L + K, *u = du + L + K, shift = k->z_shift[c];
    const float *taps = net->of.taps + c * K;
    double mix[WIDEST] = {0}, tap[WIDEST] = {0}, axis[2][WIDEST] = {{0}}, bias[2] = {0};
    double level = k->tap_bias[c], sum = 0;
    for (int64_t i = 0; i < pad; i++) {
        z[i] = z[L + pad + i] = -shift; /* zero, about the shift */
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
        level += (double)taps[i] * shift;
    for (int64_t m = 0; m < M; m++) {
        sum += net->of.mix[m * d.C + c] * sums[m];
        to->mix[m * d.C + c] = mix[m] + level * sums[m];
        to->to_axis[0][c * M + m] = axis[0][m];
        to->to_axis[2][c * M + m] = axis[1][m];
    }
    for (int64_t i = 0; i < K; i++)
        to->taps[c * K + i] = tap[i] + shift * sum;
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
            a[j] += planes[p].first;
            b2[j] += planes[p].second;
        }
    }
    for (int64_t j = 0; j < half; j++) {
        double w2 = net->of.w2[j];
        to->w1[j] = w1[j];
        to->b1[j] = b1[j];
        to->w2[j] = a[j] * net->of.group_weight[j] + b2[j] * k->group_bias[j];
        to->b2[j] = b2[j];
        to->group_weight[j] = a[j] * w2;
        to->group_bias[j] = b2[j] * w2;
    }
}

/* What the steps of a backward share. */
typedef struct {
    const void *g, *x;
    void *dx;
    const Net *net;
    Kept k;
    Plane *work;
    float *t, *h, *dn, *room;
    double *columns; /* W for each thread */
    const double *sums;
    const Parameters *to;
    int64_t each; /* floats of room a thread */
    Shape d;
} Backward;

static void unmix_step(const void *call, int64_t p, int64_t thread) {
    const Backward *b = call;
    float *room = b->room + thread * b->each;
    unmix(b->g, b->x, b->dx, b->net, &b->k, b->work + p, b->t, p, room, b->d);
}

static void plane_step(const void *call, int64_t p, int64_t thread) {
    const Backward *b = call;
    float *room = b->room + thread * b->each;
    plane_gradients(b->g, b->x, b->net, &b->k, b->work + p, b->t, p, room,
                    b->columns + thread * b->d.W, b->d);
    if (!b->net->of.taps) /* else its gradient wants the whole batch */
        unmix_step(call, p, thread);
}

static void unexpand_step(const void *call, int64_t i, int64_t thread) {
    const Backward *b = call;
    unexpand(b->t, b->net, &b->k, b->h, b->dn, tile_at(i, b->d), b->d);
}

static void channel_step(const void *call, int64_t c, int64_t thread) {
    const Backward *b = call;
    float *room = b->room + thread * b->each;
    channel_gradients(b->net, &b->k, b->h, b->dn, b->sums, b->t, b->to, c, room, b->d);
}

/* Gradients of sum(g * y); `to` has rooms for those of the parameters. Returns 0 where memory ran
   out. */
int icasa_attend_backward(const void *g, const void *x, void *dx, float *kept, const Net *net,
                          const Parameters *to, const Shape *shape) {
    Shape d = *shape;
    int64_t size = d.H * d.W, L = d.H + d.W, planes = d.N * d.C;
    int64_t lines = net->of.taps ? planes * L : 0, squeezed = lines ? d.N * net->M * L : 0;
    int64_t wide = d.type != FLOAT32 ? 3 * size + d.W : d.W, narrow = lines ? 3 * (L + net->K) : 0;
    int64_t each = wide > narrow ? wide : narrow;
    int64_t rooms = d.threads * each, half = d.groups ? d.C / (2 * d.groups) : 0;
    int64_t doubles = 4 * half + d.threads * d.W;
    Plane *work = malloc(planes * sizeof(Plane) + doubles * sizeof(double) +
                         (lines + 2 * squeezed + rooms) * sizeof(float));
    if (!work)
        return 0;
    double *totals = (double *)(work + planes), sums[WIDEST];
    double *columns = totals + 4 * half;
    float *t = (float *)(totals + doubles), *h = t + lines, *dn = h + squeezed, *room = dn + squeezed;
    Backward b = {g, x, dx, net, kept_in(kept, net, d, 0), work, t, h,
                  dn, room, columns, sums, to, each, d};
    parallel_for(plane_step, &b, planes, d.threads);
    if (lines) {
        parallel_for(unexpand_step, &b, d.N * (tiles_of(d.H) + tiles_of(d.W)), d.threads);
        for (int64_t m = 0; m < net->M; m++) {
            sums[m] = unnormalise(dn, net, &b.k, to, m, d);
            to->mix_bias[m] = sums[m];
        }
        parallel_for(channel_step, &b, d.C, d.threads);
        parallel_for(unmix_step, &b, planes, d.threads);
    }
    reduce(work, net, &b.k, to, totals, d);
    free(work);
    return 1;
}
