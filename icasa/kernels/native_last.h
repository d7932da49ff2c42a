/* Maps in channels_last: each position is a line of C channels, and a sample a run of positions.

   Sums go over positions, WIDE channels at a time in vectors, and a step of theirs has all rows of
   a range of channels; the other passes have all channels of a range of rows. There is one range to a
   sample, unless the samples do not divide among the threads. */

#pragma once

#include "native.h"

enum { WIDE = 4 * LANE, TILE_SIZE = 2048 }; /* channels; elements of a tile, which a cache holds */
typedef float Quad __attribute__((vector_size(LANE * sizeof(float)), aligned(4), may_alias));
#define DOUBLES(x) __builtin_convertvector(*(const Quad *)(x), Doubles)
#define SINGLES(x) (*(Singles *)(x))

/* From `begin` to `end` of sample n. */
typedef struct {
    int64_t n, begin, end;
} Range;

INLINE int64_t parts_of(Shape d) { return d.N % d.threads ? d.threads : 1; }

/* Channels of step i: whole groups, or blocks of WIDE. */
INLINE Range channels_of(Shape d, int64_t i) {
    int64_t parts = parts_of(d), unit = d.groups ? d.C / d.groups : WIDE, part = i % parts;
    int64_t count = (d.C + unit - 1) / unit;
    int64_t begin = count * part / parts * unit, end = count * (part + 1) / parts * unit;
    return (Range){i / parts, begin, end < d.C ? end : d.C};
}

INLINE Range rows_of(Shape d, int64_t i) {
    int64_t parts = parts_of(d), part = i % parts;
    return (Range){i / parts, d.H * part / parts, d.H * (part + 1) / parts};
}

/* The smallest multiple of WIDE that holds some channels: a line of this length takes no more steps
   of a loop than whole vectors. */
INLINE int64_t padded(int64_t channels) { return (channels + WIDE - 1) / WIDE * WIDE; }

/* Length of a line of the channels of one half. */
INLINE int64_t half_length(Shape d) { return d.groups ? padded(d.C / 2) : 0; }

INLINE int64_t blocks_of(Range r) { return padded(r.end - r.begin) / WIDE; }

/* Positions of a row that are worked on at a time. */
INLINE int64_t tile_width(Shape d) {
    int64_t width = TILE_SIZE / d.C < 1 ? 1 : TILE_SIZE / d.C;
    return width < d.W ? width : d.W;
}

/* Elements of x from `at` on: x itself, or a float32 copy in `scratch`. */
INLINE const float *load(const void *x, int64_t at, float *scratch, int64_t size, int type) {
    if (type == FLOAT32)
        return (const float *)x + at;
    widen((const uint16_t *)x + at, scratch, size, type);
    return scratch;
}

/* Fetches the line of C channels at the same place of the next tile, while this one is computed. */
INLINE void fetch(const float *line, Shape d) {
    line += tile_width(d) * d.C;
    for (int64_t c = 0; c < d.C; c += WIDE)
        __builtin_prefetch(line + c, 0, 2);
}

/* Likewise a line that is to be written. */
INLINE void fetch_to_write(float *line, Shape d) {
    line += tile_width(d) * d.C;
    for (int64_t c = 0; c < d.C; c += WIDE)
        __builtin_prefetch(line + c, 1);
}

/* Copies the first `channels` of WIDE at `count` positions, which are C apart. */
INLINE void pad_channels(const float *in, float *out, int64_t channels, int64_t count, int64_t C) {
    for (int64_t i = 0; i < count; i++, in += C, out += WIDE)
        for (int64_t c = 0; c < WIDE; c++)
            out[c] = c < channels ? in[c] : 0;
}

/* Decodes gates (channels, size) times `factor` into positions `step` apart. */
INLINE void lay_gates(const float *code, float *out, float factor, int64_t channels,
                             int64_t begin, int64_t end, int64_t size, int64_t step) {
    for (int64_t c = 0; c < channels; c++)
        for (int64_t l = begin; l < end; l++)
            out[(l - begin) * step + c] = gate_of(code[c * size + l]) * factor;
}

/* Copies a few numbers without a call; the last vector may overlap the one before. */
INLINE void copy_run(const float *in, float *out, int64_t size) {
    if (size < LANE) {
        out[0] = in[0];
        if (size > 1)
            out[1] = in[1];
        if (size > 2)
            out[2] = in[2];
        return;
    }
    for (int64_t i = 0; i < size; i += LANE) {
        int64_t at = i + LANE <= size ? i : size - LANE;
        *(Quad *)(out + at) = *(const Quad *)(in + at);
    }
}

/* Moves the channels of one half between a position and a line of them alone. */
INLINE void gather_half(const float *line, float *out, int64_t half, int64_t groups) {
    for (int64_t g = 0; g < groups; g++, line += 2 * half, out += half)
        copy_run(line, out, half);
}

INLINE void scatter_half(const float *in, float *line, int64_t half, int64_t groups) {
    for (int64_t g = 0; g < groups; g++, line += 2 * half, in += half)
        copy_run(in, line, half);
}
