/* Calls the library's operators on fixed inputs and prints what they give: sums of every result, so that
   a build for another processor, run by an emulator, can be compared with this machine's.
   Compile it with -I icasa/kernels and the library; with GNU's OpenMP (-lgomp) it has threads. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "native.h"

int icasa_attend(const void *, void *, float *, float *, const Layer *, const Shape *);
int icasa_attend_backward(const void *, const void *, void *, float *, const Layer *,
                          const Parameters *, const Shape *);
int icasa_weigh(const void *, void *, float *, float *, const Net *, const Shape *);
int icasa_weigh_backward(const void *, const void *, void *, float *, const Net *, const Net *,
                         const Shape *);
int icasa_threads(void);

enum { MOST = 1 << 16, C = 32, M = 8, K = 3, GROUPS = 2, HALF = C / (2 * GROUPS) };

static uint64_t state;

static float uniform(float low, float high) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (state >> 40) / (1 << 24);
}

static float *random_floats(int64_t size, float low, float high) {
    float *made = malloc(size * sizeof(float));
    for (int64_t i = 0; i < size; i++)
        made[i] = uniform(low, high);
    return made;
}

static Parameters parameters(int ica, int sa) {
    Parameters p = {.beta = random_floats(1, 0.3f, 0.7f)};
    float **axes[] = {&p.taps, &p.tap_bias, &p.mix, &p.mix_bias, p.to_axis, p.to_axis + 1,
                      p.to_axis + 2, p.to_axis + 3, p.norm, p.norm + 1, p.norm + 2, p.norm + 3};
    int64_t sizes[] = {C * K, C, M * C, M, C * M, C, C * M, C, M, M, M, M};
    for (int i = 0; ica && i < 12; i++)
        *axes[i] = random_floats(sizes[i], i == 11 ? 0.5f : -0.5f, i == 11 ? 1.5f : 0.5f);
    float **halves[] = {&p.w1, &p.b1, &p.w2, &p.b2, &p.group_weight, &p.group_bias};
    for (int i = 0; sa && i < 6; i++)
        *halves[i] = random_floats(HALF, -0.5f, 0.5f);
    return p;
}

static void print(const char *name, const void *of, int64_t size, int type) {
    double sum = 0, weighted = 0, all = 0;
    for (int64_t i = 0; i < size; i++) {
        float value = 0;
        if (type == FLOAT32)
            value = ((const float *)of)[i];
        else
            widen((const uint16_t *)of + i, &value, 1, type);
        sum += value;
        weighted += value * cos(0.7 * i);
        all += fabs(value);
    }
    printf("%s %.9e %.9e %.9e\n", name, sum, weighted, all);
}

static void *as_type(const float *from, int64_t size, int type) {
    void *made = malloc(size * sizeof(float));
    if (type == FLOAT32)
        memcpy(made, from, size * sizeof(float));
    else
        narrow(from, made, size, type);
    return made;
}

static void run(int ica, int sa, int type, int training, int threads, int last, int64_t N,
                int64_t H, int64_t W) {
    Shape d = {N, C, H, W, sa ? GROUPS : 0, type, threads, last};
    Layer layer = {parameters(ica, sa), M, K, training, 1e-5f, 1e-5f, sa, ica};
    Parameters grads = parameters(ica, sa);
    int64_t size = N * C * H * W;
    void *x = as_type(random_floats(size, -1, 3), size, type);
    void *g = as_type(random_floats(size, -1, 1), size, type);
    void *y = random_floats(size, 0, 0), *dx = random_floats(size, 0, 0);
    float *saved = random_floats(MOST, 0, 0), *statistics = random_floats(2 * M, 0, 0);
    printf("# ica %d sa %d type %d training %d threads %d last %d N %d H %d W %d\n", ica, sa, type,
           training, threads, last, (int)N, (int)H, (int)W);
    Layer evaluation = layer;
    evaluation.training = 0;
    if (!icasa_attend(x, y, 0, 0, &evaluation, &d))
        exit(1);
    print("evaluation", y, size, type);
    if (!icasa_attend(x, y, saved, statistics, &layer, &d) ||
        !icasa_attend_backward(g, x, dx, saved, &layer, &grads, &d))
        exit(1);
    print("y", y, size, type);
    print("dx", dx, size, type);
    if (ica && training)
        print("statistics", statistics, 2 * M, FLOAT32);
    if (ica) {
        print("taps", grads.taps, C * K, FLOAT32);
        print("mix", grads.mix, M * C, FLOAT32);
        print("axis", grads.to_axis[2], C * M, FLOAT32);
        print("norm", grads.norm[0], M, FLOAT32);
    }
    if (sa) {
        print("w1", grads.w1, HALF, FLOAT32);
        print("w2", grads.w2, HALF, FLOAT32);
        print("group_bias", grads.group_bias, HALF, FLOAT32);
    }
    if (ica && sa)
        print("beta", grads.beta, 1, FLOAT32);
}

/* The parameters of SE, ECA and CBAM. */
enum { OF_SE, OF_ECA, OF_CBAM };

static Net net(int layer, int training) {
    Net made = {.training = training, .eps = 1e-5f};
    if (layer == OF_ECA) {
        made.taps = random_floats(K, -0.5f, 0.5f), made.K = K;
        return made;
    }
    made.M = M;
    made.w1 = random_floats(M * C, -0.5f, 0.5f), made.b1 = random_floats(M, -0.5f, 0.5f);
    made.w2 = random_floats(C * M, -0.5f, 0.5f), made.b2 = random_floats(C, -0.5f, 0.5f);
    if (layer == OF_CBAM) {
        made.conv = random_floats(2 * K * K, -0.5f, 0.5f), made.k = K;
        for (int i = 0; i < 4; i++)
            made.norm[i] = random_floats(1, i == 3 ? 0.5f : -0.5f, i == 3 ? 1.5f : 0.5f);
    }
    return made;
}

static void run_planes(int layer, int type, int training, int threads, int last, int64_t N,
                       int64_t H, int64_t W) {
    Shape d = {N, C, H, W, 0, type, threads, last};
    Net made = net(layer, training), grads = net(layer, training), evaluation = made;
    int64_t size = N * C * H * W;
    void *x = as_type(random_floats(size, -1, 3), size, type);
    void *g = as_type(random_floats(size, -1, 1), size, type);
    void *y = random_floats(size, 0, 0), *dx = random_floats(size, 0, 0);
    float *saved = random_floats(MOST, 0, 0), *statistics = random_floats(2, 0, 0);
    printf("# planes %d type %d training %d threads %d last %d N %d H %d W %d\n", layer, type,
           training, threads, last, (int)N, (int)H, (int)W);
    evaluation.training = 0;
    if (!icasa_weigh(x, y, 0, 0, &evaluation, &d))
        exit(1);
    print("evaluation", y, size, type);
    if (!icasa_weigh(x, y, saved, statistics, &made, &d) ||
        !icasa_weigh_backward(g, x, dx, saved, &made, &grads, &d))
        exit(1);
    print("y", y, size, type);
    print("dx", dx, size, type);
    if (layer == OF_ECA)
        print("taps", grads.taps, K, FLOAT32);
    else {
        print("w1", grads.w1, M * C, FLOAT32);
        print("b1", grads.b1, M, FLOAT32);
        print("w2", grads.w2, C * M, FLOAT32);
        print("b2", grads.b2, C, FLOAT32);
    }
    if (layer == OF_CBAM)
        print("conv", grads.conv, 2 * K * K, FLOAT32);
}

int main(void) {
    fprintf(stderr, "threads: %s\n", icasa_threads() ? "yes" : "no");
    for (int part = 1; part < 4; part++)
        for (int type = FLOAT32; type <= FLOAT16; type++)
            for (int training = 0; training < 2; training++)
                for (int threads = 1; threads < 4; threads += 2)
                    for (int last = 0; last < 2; last++) {
                        run(part & 1, part >> 1, type, training, threads, last, 3, 7, 5);
                        run(part & 1, part >> 1, type, training, threads, last, 1, 19, 23);
                    }
    for (int layer = OF_SE; layer <= OF_CBAM; layer++)
        for (int type = FLOAT32; type <= FLOAT16; type++)
            for (int training = 0; training < (layer == OF_CBAM ? 2 : 1); training++)
                for (int threads = 1; threads < 4; threads += 2)
                    for (int last = 0; last < 2; last++) {
                        run_planes(layer, type, training, threads, last, 13, 7, 5);
                        run_planes(layer, type, training, threads, last, 1, 39, 43);
                    }
    return 0;
}
