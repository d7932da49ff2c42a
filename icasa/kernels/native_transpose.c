/* Copies of a map from one memory format to the other, for native.py. */

#include "native.h"

enum { SIDE = 8, STRIP = 64 }; /* of a block in registers; rows that a thread copies at a time */

/* The transpose of one sample (rows, columns), its rows `first` to `end`, for elements of a type:
   blocks of SIDE in three rounds of exchanges between vectors, and the rest one by one. */
#define TRANSPOSE(name, type)                                                                      \
    typedef type name##_vector                                                                     \
        __attribute__((vector_size(SIDE * sizeof(type)), aligned(sizeof(type)), may_alias));       \
    INLINE void name##_block(const type *in, type *out, int64_t rows, int64_t columns) {           \
        name##_vector a[SIDE], b[SIDE];                                                            \
        for (int i = 0; i < SIDE; i++)                                                             \
            a[i] = *(const name##_vector *)(in + i * columns);                                     \
        for (int i = 0; i < SIDE; i += 2) {                                                        \
            b[i] = MIX(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);                                 \
            b[i + 1] = MIX(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);                             \
        }                                                                                          \
        for (int i = 0; i < SIDE; i += i % 4 == 1 ? 3 : 1) {                                       \
            a[i] = MIX(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);                                  \
            a[i + 2] = MIX(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);                            \
        }                                                                                          \
        for (int i = 0; i < SIDE / 2; i++) {                                                       \
            *(name##_vector *)(out + i * rows) = MIX(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);    \
            *(name##_vector *)(out + (i + 4) * rows) =                                             \
                MIX(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);                                   \
        }                                                                                          \
    }                                                                                              \
    VECTORISED static void name(const type *restrict in, type *restrict out, int64_t first,        \
                                int64_t end, int64_t rows, int64_t columns) {                      \
        int64_t whole = first + (end - first) / SIDE * SIDE, wide = columns / SIDE * SIDE;         \
        for (int64_t r = first; r < whole; r += SIDE)                                              \
            for (int64_t c = 0; c < wide; c += SIDE)                                               \
                name##_block(in + r * columns + c, out + c * rows + r, rows, columns);             \
        for (int64_t r = first; r < end; r++)                                                      \
            for (int64_t c = r < whole ? wide : 0; c < columns; c++)                               \
                out[c * rows + r] = in[r * columns + c];                                           \
    }

TRANSPOSE(transpose_words, uint32_t)
TRANSPOSE(transpose_halves, uint16_t)

/* What the steps of a copy share. */
typedef struct {
    const char *in;
    char *out;
    int64_t rows, columns, type;
} Copy;

static void copy_step(const void *call, int64_t i, int64_t thread) {
    const Copy *c = call;
    int64_t strips = (c->rows + STRIP - 1) / STRIP, first = i % strips * STRIP;
    int64_t end = first + STRIP < c->rows ? first + STRIP : c->rows;
    int64_t at = i / strips * c->rows * c->columns * (c->type == FLOAT32 ? 4 : 2);
    if (c->type == FLOAT32)
        transpose_words((const uint32_t *)(c->in + at), (uint32_t *)(c->out + at), first, end,
                        c->rows, c->columns);
    else
        transpose_halves((const uint16_t *)(c->in + at), (uint16_t *)(c->out + at), first, end,
                         c->rows, c->columns);
}

/* The transpose of a tile of positions, in float32. */
void icasa_transpose_tile(const float *in, float *out, int64_t rows, int64_t columns) {
    transpose_words((const uint32_t *)in, (uint32_t *)out, 0, rows, rows, columns);
}

/* Copies a map from channels_last to contiguous, or back. */
void icasa_transpose(const void *in, void *out, int32_t to_contiguous, const Shape *d) {
    int64_t size = d->H * d->W;
    Copy c = {in, out, to_contiguous ? size : d->C, to_contiguous ? d->C : size, d->type};
    parallel_for(copy_step, &c, d->N * ((c.rows + STRIP - 1) / STRIP), d->threads);
}
