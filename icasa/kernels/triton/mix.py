"""Triton kernels: a map mixed with its gates, as `reference.mix` does, and their gradients."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor

from icasa.kernels.reference import statistics_dtype
from icasa.kernels.triton.tiles import along, cut, fetch, halves, locate, place, total

FORWARD, BACKWARD = 2048, 1024  # elements of a tile: 16 and 8 a thread
INTEGERS = ["planes", "C", "half", "rows", "count", "width", "size"]


@triton.jit
def plane_gates(gate, a, b, mean, plane, planes, C, half):
    """Load for source planes: whether spatial, gate (1 there), a, b and mean (0 elsewhere)."""
    channel, spatial, k = halves(plane, planes, C, half)
    gate = fetch(gate, k, channel, 1.0)[:, None, None]
    a = fetch(a, k, spatial)[:, None, None]
    b = fetch(b, k, spatial)[:, None, None]
    return spatial[:, None, None], gate, a, b, fetch(mean, k, spatial)[:, None, None]


@triton.jit(do_not_specialize=INTEGERS)
def mix_fwd_kernel(
    x, g_h, g_w, beta, gate, a, b, mean, y,
    planes, C, half, rows, count, width, size,
    SHUFFLE: tl.constexpr, RESIDUAL: tl.constexpr, VEC: tl.constexpr, P: tl.constexpr,
    BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Gate a tile of output planes; the shuffle reads the planes that its channels came from."""
    plane, row = locate(C, count, P, BH)
    W = width * VEC
    S = size * VEC
    at, inside = place(plane, planes, row, W, S, BH, BW)
    source = plane
    if SHUFFLE:
        source = plane - plane % C + plane % C % 2 * (C // 2) + plane % C // 2
    v = fetch(x, at + ((source - plane).to(tl.int64) * S)[:, None, None], inside)
    own = v
    if SHUFFLE and (g_h is not None or RESIDUAL):
        own = fetch(x, at, inside)
    value = own
    if g_h is not None:
        row_at, row_in = along(plane, planes, row, rows, BH)
        column_at, column_in = along(plane, planes, 0, W, BW)
        value = own * fetch(g_h, row_at, row_in)[:, :, None]
        value *= fetch(g_w, column_at, column_in)[:, None, :]
    if gate is not None:
        spatial, gate, a, b, mean = plane_gates(gate, a, b, mean, source, planes, C, half)
        shuffled = v * gate * tl.where(spatial, tl.sigmoid(a * (v - mean) + b), 1.0)
        if g_h is None:
            value = shuffled
        else:
            weight = tl.load(beta).to(tl.float32)
            value = weight * value + (1.0 - weight) * shuffled
    if RESIDUAL:
        value += own
    tl.store(y + at, value, inside)


@triton.jit(do_not_specialize=INTEGERS)
def mix_bwd_kernel(
    g, x, g_h, g_w, beta, gate, a, b, mean, dx, dg_h, dg_w, dbeta, dgate, da, db,
    planes, C, half, rows, width, size,
    SHUFFLE: tl.constexpr, RESIDUAL: tl.constexpr, VEC: tl.constexpr, P: tl.constexpr,
    BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Gradients of P whole input planes, tile by tile; dbeta is left as one value per plane."""
    plane = tl.program_id(0) * P + tl.arange(0, P)
    W = width * VEC
    S = size * VEC
    weight = 1.0
    rest = 1.0
    away = 0
    if beta is not None:
        weight = tl.load(beta).to(tl.float32)
        rest = 1.0 - weight
    if g_h is not None:
        column_at, column_in = along(plane, planes, 0, W, BW)
        by_column = fetch(g_w, column_at, column_in)[:, None, :]
        column_sum = tl.zeros([P, BH, BW], tl.float32)
    if gate is not None:
        spatial, gate, a, b, mean = plane_gates(gate, a, b, mean, plane, planes, C, half)
        gate_sum = tl.zeros([P, BH, BW], tl.float32)
        a_sum = tl.zeros([P, BH, BW], tl.float32)
        b_sum = tl.zeros([P, BH, BW], tl.float32)
    if SHUFFLE:
        to = plane % C % (C // 2) * 2 + plane % C // (C // 2)
        away = ((to - plane % C).to(tl.int64) * S)[:, None, None]
    for row in range(0, rows, BH):
        at, inside = place(plane, planes, row, W, S, BH, BW)
        v = fetch(x, at, inside)
        shuffled = fetch(g, at + away, inside)
        own = shuffled
        if SHUFFLE and (g_h is not None or RESIDUAL):
            own = fetch(g, at, inside)
        value = tl.zeros([P, BH, BW], tl.float32)
        if g_h is not None:
            row_at, row_in = along(plane, planes, row, rows, BH)
            by_row = fetch(g_h, row_at, row_in)[:, :, None]
            column_sum += own * v * by_row
            tl.store(dg_h + row_at, weight * tl.sum(own * v * by_column, 2), row_in)
            value += weight * own * by_row * by_column
        if gate is not None:
            opened = tl.where(spatial, tl.sigmoid(a * (v - mean) + b), 1.0)
            open_x = shuffled * v * opened
            slope = open_x * (1.0 - opened)
            gate_sum += open_x
            a_sum += slope * (v - mean)
            b_sum += slope
            value += rest * (shuffled * opened * gate + a * slope)
        if RESIDUAL:
            value += own
        tl.store(dx + at, value, inside)
    if g_h is not None:
        tl.store(dg_w + column_at, weight * tl.sum(column_sum, 1), column_in)
    if gate is not None:
        channel, spatial, k = halves(plane, planes, C, half)
        gate_sum = total(gate_sum)
        tl.store(dgate + k, rest * gate_sum, channel)
        tl.store(da + k, rest * total(a_sum), spatial)
        tl.store(db + k, rest * total(b_sum), spatial)
    if beta is not None:
        mixed = total(column_sum * by_column) - gate_sum * total(gate)
        tl.store(dbeta + plane, mixed, plane < planes)


def mix(
    x: Tensor,
    g_h: Tensor | None,
    g_w: Tensor | None,
    beta: Tensor | None,
    gate: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    mean: Tensor | None,
    groups: int,
    shuffle: bool,
    residual: bool,
) -> Tensor:
    """Launch ``mix_fwd_kernel``: one read of x from memory, one write."""
    N, C, H, W = x.shape
    y = x.new_empty(x.shape)
    tiles = cut(H, W, x.element_size(), g_h is not None, FORWARD)
    with torch.cuda.device_of(x):
        mix_fwd_kernel[(tiles.blocks(N * C) * tiles.steps,)](
            x,
            g_h,
            g_w,
            beta,
            gate,
            a,
            b,
            mean,
            y,
            N * C,
            C,
            C // (2 * groups) if groups else 1,
            tiles.rows,
            tiles.steps,
            tiles.width,
            tiles.size,
            shuffle and gate is not None,
            residual,
            **tiles.constants,
        )
    return y


def mix_backward(
    g: Tensor,
    x: Tensor,
    g_h: Tensor | None,
    g_w: Tensor | None,
    beta: Tensor | None,
    gate: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    mean: Tensor | None,
    groups: int,
    shuffle: bool,
    residual: bool,
) -> tuple[Tensor, ...]:
    """Launch ``mix_bwd_kernel``: one read of x and g from memory, one write.

    dbeta is a sum over all planes: the one value per plane is summed by a second, tiny launch,
    which unlike atomics gives the same bits each time.
    """
    N, C, H, W = x.shape
    dx = x.new_empty(x.shape)
    gates = (g_h, g_w, beta, gate, a, b)
    dtype = statistics_dtype(x.dtype)
    out = [x.new_empty((0,) if gate is None else gate.shape, dtype=dtype) for gate in gates]
    per_plane = None if beta is None else out[2].new_empty(N * C)
    into = [None if gate is None else grad for gate, grad in zip(gates, out, strict=True)]
    into[2] = per_plane
    tiles = cut(H, W, x.element_size(), g_h is not None, BACKWARD)
    with torch.cuda.device_of(x):
        mix_bwd_kernel[(tiles.blocks(N * C),)](
            g,
            x,
            *gates,
            mean,
            dx,
            *into,
            N * C,
            C,
            C // (2 * groups) if groups else 1,
            tiles.rows,
            tiles.width,
            tiles.size,
            shuffle and gate is not None,
            residual,
            **tiles.constants,
        )
        if per_plane is not None:
            torch.sum(per_plane, 0, keepdim=True, out=out[2])
    return (dx, *out)
