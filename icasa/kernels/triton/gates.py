"""From moments to gates in evaluation, in one launch; see ``attend`` in ``ops``."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from icasa.kernels.native import WIDEST, width_and_taps
from icasa.kernels.triton.tiles import fetch, power_of_two

INTEGERS = ["C", "H", "W", "M", "half", "blocks_h", "blocks"]


@triton.jit
def squeeze(
    z_h, z_w, taps, tap_bias, mix, mix_bias, n, at, C, H, W, M,
    K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Depthwise-separable convolution over [z_h, z_w] of sample n, at positions ``at`` (1, BL)."""
    m = tl.arange(0, BM)[:, None]
    f = tl.zeros([BM, BL], tl.float32) + fetch(mix_bias, m, m < M)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)[:, None]
        u = tl.zeros([BC, BL], tl.float32) + fetch(tap_bias, c, c < C)
        row = (n * C + c).to(tl.int64)
        for k in tl.static_range(K):
            p = at + (k - K // 2)  # zero beyond both ends; at the seam rows and columns touch
            z = fetch(z_h, row * H + p, (c < C) & (p >= 0) & (p < H))
            z += fetch(z_w, row * W + (p - H), (c < C) & (p >= H) & (p < H + W))
            u += fetch(taps, c * K + k, c < C) * z
        column = start + tl.arange(0, BC)[None, :]
        w = fetch(mix, m * C + column, (m < M) & (column < C))
        f = tl.dot(w, u, f, input_precision="ieee")
    return f


@triton.jit
def squash(
    s, mean_lo, var, w1, b1, w2, b2, gn_w, gn_b, gate, a, b, n, C, half, eps, B: tl.constexpr,
):  # fmt: skip
    """Gates of the planes of sample n: Eq. 13, and Eq. 14 as a line a (x - mean) + b."""
    for first in range(0, C // 2, B):
        k = first + tl.arange(0, B)
        inside = k < C // 2
        p = k % half
        at = n.to(tl.int64) * (C // 2) + k
        logit = fetch(w1, p, inside) * fetch(s, at, inside) + fetch(b1, p, inside)
        tl.store(gate + at, tl.sigmoid(logit), inside)
        scale = tl.rsqrt(fetch(var, at, inside, 1.0) + tl.full([1], eps, tl.float32))
        w = fetch(w2, p, inside)
        slope = w * fetch(gn_w, p, inside) * scale
        offset = w * fetch(gn_b, p, inside) + fetch(b2, p, inside)
        tl.store(a + at, slope, inside)
        tl.store(b + at, offset - slope * fetch(mean_lo, at, inside), inside)


@triton.jit(do_not_specialize=INTEGERS)
def gates_kernel(
    z_h, z_w, s, mean_lo, var,
    taps, tap_bias, mix, mix_bias, to_h, to_h_bias, to_w, to_w_bias, bn_w, bn_b, bn_mean, bn_var,
    w1, b1, w2, b2, gn_w, gn_b,
    g_h, g_w, gate, a, b,
    C, H, W, M, half, blocks_h, blocks, norm_eps, group_eps,
    K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Gates of one sample: BL positions along one axis; the first block also does the planes'."""
    n = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    if taps is not None:
        rows = block < blocks_h
        at = tl.where(rows, block * BL, H + (block - blocks_h) * BL) + tl.arange(0, BL)[None, :]
        f = squeeze(z_h, z_w, taps, tap_bias, mix, mix_bias, n, at, C, H, W, M, K, BM, BC, BL)
        m = tl.arange(0, BM)[:, None]
        if bn_w is not None:
            scale = tl.rsqrt(fetch(bn_var, m, m < M, 1.0) + tl.full([1, 1], norm_eps, tl.float32))
            f = (f - fetch(bn_mean, m, m < M)) * scale * fetch(bn_w, m, m < M)
            f += fetch(bn_b, m, m < M)
        f *= tl.minimum(tl.maximum(f + 3.0, 0.0), 6.0) / 6.0  # h_swish
        m = tl.arange(0, BM)[None, :]
        for first in range(0, C, BC):
            c = first + tl.arange(0, BC)[:, None]
            inside = (c < C) & (m < M)
            w = fetch(to_h, c * M + m, inside & rows)
            w += fetch(to_w, c * M + m, inside & (rows == 0))
            bias = fetch(to_h_bias, c, (c < C) & rows) + fetch(to_w_bias, c, (c < C) & (rows == 0))
            g = tl.sigmoid(tl.dot(w, f, input_precision="ieee") + bias)
            row = (n * C + c).to(tl.int64)
            tl.store(g_h + row * H + at, g, (c < C) & rows & (at < H))
            tl.store(g_w + row * W + (at - H), g, (c < C) & (rows == 0) & (at < H + W))
    if w1 is not None:  # noqa: SIM102 (the one is a constant, the other is not)
        if block == 0:
            squash(
                s, mean_lo, var, w1, b1, w2, b2, gn_w, gn_b, gate, a, b, n, C, half, group_eps, BC
            )


def constants(M: int) -> dict[str, int]:
    """BM, BC and BL of the kernel: M is padded to a block that the matrix product takes."""
    BM = max(16, power_of_two(M))
    return {"BM": BM, "BC": 16, "BL": 16, "num_warps": max(4, BM // 8)}


def serves(ica: Sequence[Tensor]) -> bool:
    """Whether the kernel holds the width M and the taps k of ICA in registers."""
    return not ica or max(width_and_taps(ica)) <= WIDEST


def gates(
    means: Sequence[Tensor],
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    groups: int,
) -> list[Tensor | None]:
    """Launch ``gates_kernel``; returns what `reference.gates` does in evaluation."""
    z_h, z_w, s, mean, mean_lo, var = means
    ica, sa = ([p.contiguous() for p in branch] for branch in (ica, sa))
    axes: list[Any] = [torch.empty_like(z) if ica else None for z in (z_h, z_w)]
    planes: list[Any] = [torch.empty_like(s) if sa else None for _ in range(3)]
    N, C = z_h.shape[:2] if ica else (s.shape[0], 2 * s.shape[1])
    H, W = (z_h.shape[2], z_w.shape[2]) if ica else (0, 0)
    M, K = (ica[2].shape[0], ica[0].shape[2]) if ica else (1, 1)
    blocks_h, blocks_w = -(-H // 16), -(-W // 16)
    blocks = max(1, blocks_h + blocks_w)
    with torch.cuda.device_of(s):
        gates_kernel[(N * blocks,)](
            *((z_h, z_w) if ica else (None, None)),
            *((s, mean_lo, var) if sa else (None, None, None)),
            *ica,
            *(None for _ in range(12 - len(ica))),
            *(sa or (None for _ in range(6))),
            *axes,
            *planes,
            C,
            H,
            W,
            M,
            C // (2 * groups) if groups else 1,
            blocks_h,
            blocks,
            norm_eps,
            group_eps,
            K,
            **constants(M),
        )
    return [*axes, beta, *planes, mean if sa else None]
