"""Triton kernels: the moments of a map (see icasa.kernels.ops), and their backward."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor

from icasa.kernels.triton import empty_moments
from icasa.kernels.triton.tiles import along, cut, fetch, halves, locate, place, total

ELEMENTS = 2048  # of a tile: 16 a thread
INTEGERS = ["planes", "C", "half", "rows", "count", "width", "size"]


@triton.jit(do_not_specialize=INTEGERS)
def moments_fwd_kernel(
    x, z_h, z_w, s, mean, mean_lo, var,
    planes, C, half, rows, width, size,
    VEC: tl.constexpr, P: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Means and variances of P whole planes, tile by tile.

    Rows, columns and planes are summed as they are: about any other mean, a loud part of the plane
    would take the digits of the quiet rest. A second reading, from a cache where the plane fits in
    one, sums what is about the mean: it corrects the mean and gives the variance.
    """
    plane = tl.program_id(0) * P + tl.arange(0, P)
    W = width * VEC
    S = size * VEC
    sums = tl.zeros([P, BH, BW], tl.float32)
    for row in range(0, rows, BH):
        at, inside = place(plane, planes, row, W, S, BH, BW)
        v = fetch(x, at, inside)
        if z_h is not None:
            to, mask = along(plane, planes, row, rows, BH)
            tl.store(z_h + to, tl.sum(v, 2) / W, mask)
        sums += v
    if z_w is not None:
        to, mask = along(plane, planes, 0, W, BW)
        tl.store(z_w + to, tl.sum(sums, 1) / rows, mask)
    if var is not None:
        first = total(sums) / S
        sums = tl.zeros([P, BH, BW], tl.float32)
        squares = tl.zeros([P, BH, BW], tl.float32)
        for row in range(0, rows, BH):
            at, inside = place(plane, planes, row, W, S, BH, BW)
            d = tl.where(inside, fetch(x, at, inside) - first[:, None, None], 0.0)
            sums += d
            squares += d * d
        rest = total(sums) / S
        squared = total(squares) / S - rest * rest
        rest = tl.where(rest == rest, rest, 0.0)  # NaN about an infinite mean
        rounded = first + rest
        channel, spatial, k = halves(plane, planes, C, half)
        tl.store(s + k, rounded, channel)
        tl.store(mean + k, rounded, spatial)
        tl.store(mean_lo + k, first - rounded + rest, spatial)
        tl.store(var + k, squared, spatial)


@triton.jit(do_not_specialize=INTEGERS)
def moments_bwd_kernel(
    dx, x, dz_h, dz_w, ds, dmean, dvar, mean, mean_lo, out,
    planes, C, half, rows, count, width, size,
    VEC: tl.constexpr, P: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Add to a tile of dx what the statistics pass back; x is read in the spatial half alone."""
    plane, row = locate(C, count, P, BH)
    W = width * VEC
    S = size * VEC
    at, inside = place(plane, planes, row, W, S, BH, BW)
    value = fetch(dx, at, inside)
    if dz_h is not None:
        row_at, row_in = along(plane, planes, row, rows, BH)
        column_at, column_in = along(plane, planes, 0, W, BW)
        value += (fetch(dz_h, row_at, row_in) / W)[:, :, None]
        value += (fetch(dz_w, column_at, column_in) / rows)[:, None, :]
    if dvar is not None:
        channel, spatial, k = halves(plane, planes, C, half)
        slope = 2.0 * fetch(dvar, k, spatial) / S
        level = (fetch(ds, k, channel) + fetch(dmean, k, spatial)) / S
        level -= slope * fetch(mean_lo, k, spatial)
        centred = fetch(x, at, inside & spatial[:, None, None])
        centred -= fetch(mean, k, spatial)[:, None, None]
        value += level[:, None, None] + slope[:, None, None] * centred
    tl.store(out + at, value, inside)


def moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Launch ``moments_fwd_kernel``: one read of x."""
    N, C, H, W = x.shape
    out = empty_moments(x, axes, groups)
    tiles = cut(H, W, x.element_size(), axes, ELEMENTS)
    with torch.cuda.device_of(x):
        moments_fwd_kernel[(tiles.blocks(N * C),)](
            x,
            *(out[:2] if axes else (None, None)),
            *(out[2:] if groups else (None, None, None, None)),
            N * C,
            C,
            C // (2 * groups) if groups else 1,
            tiles.rows,
            tiles.width,
            tiles.size,
            **tiles.constants,
        )
    return out


def moments_backward(
    dx: Tensor,
    x: Tensor,
    dz_h: Tensor,
    dz_w: Tensor,
    ds: Tensor,
    dmean: Tensor,
    dvar: Tensor,
    mean: Tensor,
    mean_lo: Tensor,
    axes: bool,
    groups: int,
) -> Tensor:
    """Launch ``moments_bwd_kernel``: one read of dx and of half of x, one write."""
    N, C, H, W = x.shape
    out = dx.new_empty(dx.shape)
    tiles = cut(H, W, x.element_size(), axes, ELEMENTS)
    with torch.cuda.device_of(x):
        moments_bwd_kernel[(tiles.blocks(N * C) * tiles.steps,)](
            dx,
            x,
            *((dz_h, dz_w) if axes else (None, None)),
            *((ds, dmean, dvar, mean, mean_lo) if groups else (None for _ in range(5))),
            out,
            N * C,
            C,
            C // (2 * groups) if groups else 1,
            tiles.rows,
            tiles.steps,
            tiles.width,
            tiles.size,
            **tiles.constants,
        )
    return out
