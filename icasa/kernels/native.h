/* What both directions of CA, ICA, SA and ICASA in C share: maps of float32, bfloat16 and float16,
   read and written plane by plane, and what is small.

   The threads are those of the OpenMP that torch has loaded (see parallel_for). Each plane is summed
   by one thread in one order, so that no result depends on their number.

   Exactness: a loud part of a map must not spoil the quiet rest. What is summed over a map or a
   batch may cancel, so these sums are in float64: of rows, columns, planes and their squares, and
   whatever the gates take of them, forward and backward. A product that is summed over at most
   BLOCK elements whose terms matter as they are is summed in float32 over this stretch, and these
   stretches in float64. No value is taken about a mean that may be large beside it. */

#pragma once

#include <stdint.h>
#include <string.h>

/* Clones for AVX-512 and for AVX2 with FMA, of which the loader takes what the processor has. Static
   functions of older clangs do not link with theirs, and older GNU compilers know no such names. A
   test may define VECTORISED, as for one instruction set alone. */
#if defined(VECTORISED)
#elif defined(__x86_64__) && defined(__linux__) && (__clang_major__ >= 19 || __GNUC__ >= 12)
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORISED
#endif
#define UNUSED __attribute__((unused)) /* in a file that includes it */
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll 8")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define LANES _Pragma("omp simd")
#define PRAGMA(text) _Pragma(#text)
#define SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#if defined(__clang__) || __GNUC__ >= 12
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (__typeof__(a)){__VA_ARGS__})
#endif
#define BLOCK 256 /* elements, or rows, that are summed in float32 */
#define GAP 32    /* elements between the scratch of two threads: they share no line of a cache */

/* Places, columns and rows of a product at a time (see multiply); the largest M and K. */
enum { TILE = 16, LANE = 4, COLUMNS = 32, ROWS = 4, WIDEST = 64 };
typedef double Doubles __attribute__((vector_size(LANE * sizeof(double)), aligned(8), may_alias));
typedef float Singles __attribute__((vector_size(2 * LANE * sizeof(float)), aligned(4), may_alias));

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { NONE, CHANNEL, SPATIAL };

/* Threads come from the OpenMP that the process already has, by GNU's names, which the libraries of
   GNU, LLVM and Intel all answer to: none is linked, so there is never a second pool of threads, and
   the library is the same whatever compiled it. Weak: without OpenMP they are null, and one thread
   does all the work. */
__attribute__((weak)) void GOMP_parallel(void (*)(void *), void *, unsigned threads,
                                         unsigned flags);
__attribute__((weak)) int omp_get_thread_num(void);
__attribute__((weak)) int omp_get_num_threads(void);

/* One step of a loop: `call` holds what the steps share. */
typedef void Step(const void *call, int64_t i, int64_t thread);

typedef struct {
    Step *step;
    const void *call;
    int64_t count;
} Loop;

static void run_stretch(void *of) {
    const Loop *loop = of;
    int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    int64_t end = loop->count * (thread + 1) / threads;
    for (int64_t i = loop->count * thread / threads; i < end; i++)
        loop->step(loop->call, i, thread);
}

/* Makes `count` steps on as many threads at most, each a stretch of them. */
static void parallel_for(Step *step, const void *call, int64_t count, int threads) {
    Loop loop = {step, call, count};
    if (threads > 1 && GOMP_parallel)
        GOMP_parallel(run_stretch, &loop, threads, 0);
    else
        for (int64_t i = 0; i < count; i++)
            step(call, i, 0);
}

/* A map, the type of its elements, how many threads are to work on it, and whether it is in
   channels_last. */
typedef struct {
    int64_t N, C, H, W, groups;
    int32_t type, threads;
    int64_t last;
} Shape;

/* The tensors of a layer in the order of ops.py; the pointer to one that it has not is null. */
typedef struct {
    float *taps, *tap_bias, *mix, *mix_bias, *to_axis[4], *norm[4];
    float *w1, *b1, *w2, *b2, *group_weight, *group_bias, *beta;
} Parameters;

typedef struct {
    Parameters params;
    int64_t M, K, training; /* of the norm */
    float norm_eps, group_eps;
    int32_t shuffle, residual;
} Layer;

/* The parameters of `weigh`. Of SE and CBAM two linear maps with ReLU between, from C to M and from M
   to C, or of ECA K taps over the channels; M or K is 0. Of CBAM also the convolution of k x k, and
   weight, bias, mean and variance of the norm, which takes the batch's own in training. */
typedef struct {
    float *w1, *b1, *w2, *b2, *taps, *conv, *norm[4];
    int64_t M, K, k, training;
    float eps;
} Net;

/* What the forward saves for the backward. Of ICA: the gates, coded (see coded_sigmoid), the means
   z about `z_shift` of their channel, and the bottleneck before the norm's weight and bias. Of each
   plane of either half of SA: its gate and mean s, or 1 / deviation and the mean in two parts.
   Last, as a bias may change before the backward, what this reads of them: those of the taps, of
   the norm and of the GroupNorm, and the constant of Eq. 14. */
typedef struct {
    float *g_h, *g_w, *z, *z_shift, *hat, *scale, *tap_bias, *norm_bias;
    float *gate, *s, *mean, *mean_lo, *rstd, *group_bias, *constant;
} Saved;

/* The parts of `memory`, whose size is that of empty_saved in native.py. */
INLINE Saved split_saved(float *memory, const Layer *layer, Shape d) {
    Saved saved = {0};
    int64_t planes = d.N * d.C, L = d.H + d.W, half = d.groups ? d.C / (2 * d.groups) : 0;
    if (layer->params.taps) {
        saved.g_h = memory;
        saved.g_w = saved.g_h + planes * d.H;
        saved.z = saved.g_w + planes * d.W;
        saved.hat = saved.z + planes * L;
        saved.scale = saved.hat + d.N * layer->M * L;
        saved.norm_bias = saved.scale + layer->M;
        saved.z_shift = saved.norm_bias + layer->M;
        saved.tap_bias = saved.z_shift + d.C;
        memory = saved.tap_bias + d.C;
    }
    if (layer->params.w1) {
        float **fields[] = {&saved.gate, &saved.s, &saved.mean, &saved.mean_lo, &saved.rstd};
        for (int i = 0; i < 5; i++, memory += planes / 2)
            *fields[i] = memory;
        saved.group_bias = memory;
        saved.constant = saved.group_bias + half;
    }
    return saved;
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

/* The plane that the shuffle moves a plane to, and the one that it moves there. */
INLINE int64_t shuffle_target(Shape d, int64_t plane) {
    int64_t c = plane % d.C, half = d.C / 2;
    return plane - c + (c % half) * 2 + c / half;
}

INLINE int64_t shuffle_source(Shape d, int64_t plane) {
    int64_t c = plane % d.C, half = d.C / 2;
    return plane - c + (c % 2) * half + c / 2;
}

/* The end of a block that begins at `start`. */
INLINE int64_t end_of(int64_t start, int64_t size) {
    return start + BLOCK < size ? start + BLOCK : size;
}

typedef union {
    uint32_t bits;
    float value;
} Float;

VECTORISED static void widen(const uint16_t *restrict in, float *restrict out, int64_t size,
                             int type) {
    if (type == BFLOAT16) {
        LANES
        for (int64_t i = 0; i < size; i++)
            out[i] = ((Float){(uint32_t)in[i] << 16}).value;
        return;
    }
    LANES
    for (int64_t i = 0; i < size; i++) {
        uint32_t magnitude = in[i] & 0x7fffu, sign = (in[i] & 0x8000u) << 16;
        Float normal = {(magnitude << 13) + (112u << 23)}; /* the exponent's bias is 15, not 127 */
        Float f = {.value = (float)(int32_t)magnitude * 0x1p-24f};
        f.bits = magnitude < 0x400u ? f.bits : normal.bits;
        f.bits |= sign | (magnitude < 0x7c00u ? 0 : 0x7f800000u); /* infinity, or NaN */
        out[i] = f.value;
    }
}

/* Rounds to the nearest number, and a tie to the even one. */
VECTORISED static void narrow(const float *restrict in, uint16_t *restrict out, int64_t size,
                              int type) {
    if (type == BFLOAT16) {
        LANES
        for (int64_t i = 0; i < size; i++) {
            uint32_t bits = ((Float){.value = in[i]}).bits;
            uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
            out[i] = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded;
        }
        return;
    }
    LANES
    for (int64_t i = 0; i < size; i++) {
        Float f = {.value = in[i]};
        uint32_t sign = f.bits >> 16 & 0x8000u, bits = f.bits & 0x7fffffffu;
        uint32_t normal = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1)) >> 13;
        Float small = {bits};
        small.value += 0.5f; /* whose last bit is the smallest number of the type */
        uint32_t half = bits < 0x38800000u ? small.bits - 0x3f000000u : normal;
        half = bits < 0x47800000u ? half : 0x7c00u;
        out[i] = sign | (bits > 0x7f800000u ? 0x7e00u : half);
    }
}

/* A plane of x from element `at` on: x itself, or a float32 copy in `scratch`. */
INLINE const float *load_plane(const void *x, int64_t at, float *scratch, Shape d) {
    if (d.type == FLOAT32)
        return (const float *)x + at;
    widen((const uint16_t *)x + at, scratch, d.H * d.W, d.type);
    return scratch;
}

/* Memory for a plane of y in float32: y itself, or `scratch`, which store_plane rounds to y. */
INLINE float *output_plane(void *y, int64_t at, float *scratch, Shape d) {
    return d.type == FLOAT32 ? (float *)y + at : scratch;
}

INLINE void store_plane(void *y, int64_t at, const float *plane, Shape d) {
    if (d.type != FLOAT32)
        narrow(plane, (uint16_t *)y + at, d.H * d.W, d.type);
}

/* exp(-t) = 2^n exp(r) with |r| <= ln 2 / 2, by its series to r^7 (2^-27); infinity below -88.4. */
INLINE float exp_minus(float t) {
    const float whole = 12582912.0f; /* 1.5 * 2^23: added and taken off, it rounds to integers */
    float u = -t;
    u = u < -87.0f ? -87.0f : u > 89.0f ? 89.0f : u;
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
    return e * ((Float){((uint32_t)((int32_t)n + 127)) << 23}).value;
}

INLINE float sigmoid(float t) { return 1.0f / (1.0f + exp_minus(t)); }

/* Also returns 1 - sigmoid(t), of which a subtraction would lose the digits near 0. */
INLINE float sigmoid_and_complement(float t, float *complement) {
    float e = exp_minus(t), s = 1.0f / (1.0f + e), es = e * s;
    *complement = es < 1.0f ? es : 1.0f; /* also where e is infinite and s is 0 */
    return s;
}

/* A gate g above 1/2 is saved as g - 1, of which float32 has more digits; gate_of returns it, and
   gate_slope its derivative g (1 - g). */
INLINE float coded_sigmoid(float t) {
    float complement, s = sigmoid_and_complement(t, &complement);
    return s > 0.5f ? -complement : s; /* NaN stays */
}

INLINE float gate_of(float code) { return code < 0 ? 1 + code : code; }

INLINE double gate_slope(double code) {
    if (code >= 0)
        return code * (1 - code);
    return code > -0x1p-53 ? 0 : -code * (1 + code); /* 0 as in float64 */
}

/* Decodes the gates of a row or a column to `out`, and returns it. */
UNUSED VECTORISED static const float *decode(const float *restrict code, float *restrict out,
                                            int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        out[i] = gate_of(code[i]);
    return out;
}

/* h_swish and its derivative */
INLINE double h_swish(double t) {
    double ramp = t + 3;
    return t * ((ramp < 0 ? 0 : ramp > 6 ? 6 : ramp) / 6); /* t times 6 may be infinite */
}

INLINE double h_swish_slope(double t) { return t < -3 ? 0 : t > 3 ? 1 : t / 3 + 0.5f; }

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

/* y[rows][TILE] += w u[columns][TILE] of COLUMNS columns at most, in the first `count` places,
   rounded up to 2 * LANE, of u and y; w's rows and columns are `down` and `along` apart. */
INLINE void multiply(const float *w, const double (*u)[TILE], double (*y)[TILE], int64_t count,
                     int64_t rows, int64_t columns, int64_t down, int64_t along) {
    for (int64_t first = 0; first < rows; first += ROWS) {
        double weight[ROWS][COLUMNS];
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t c = 0; c < columns; c++)
                weight[r][c] = first + r < rows ? w[(first + r) * down + c * along] : 0;
        for (int i = 0; i < count; i += 2 * LANE) {
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

UNUSED VECTORISED static void add(const float *restrict x, float *restrict y, int64_t size) {
    LANES
    for (int64_t i = 0; i < size; i++)
        y[i] += x[i];
}

/* Sum of a plane, in float64, as it may be small beside its terms. */
UNUSED VECTORISED static double sum(const float *x, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++)
        total += x[i];
    return total;
}

/* Likewise of g * x. */
UNUSED VECTORISED static double dot(const float *g, const float *x, int64_t size) {
    double total = 0;
    SUM(total)
    for (int64_t i = 0; i < size; i++)
        total += (double)g[i] * x[i];
    return total;
}
